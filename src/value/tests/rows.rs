//! Records and stored rows: round trips, sameness, paths, serde.

use std::sync::Arc;

use ciborium::Value;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::generate::{fields, name};
use super::identical;
use crate::value::{MAX_DEPTH, ROW_FORMAT_VERSION, Record, StoredRow, ValueRef, same_value};
use crate::{ErrorKind, Seq, record};

proptest! {
    #[test]
    fn a_stored_row_gives_its_record_back(id in any::<String>(), fields in fields(), fetched_at in any::<i64>()) {
        let record: Record = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let row = StoredRow::encode(&id, &record, fetched_at);
        prop_assert_eq!((row.id(), row.seq(), row.status(), row.fetched_at()), (id.as_str(), Seq(0), 0, fetched_at));
        let back = row.to_record().unwrap();
        prop_assert!(back.same_as(&record), "{:?} is not {:?}", back, record);
        prop_assert!(back.names().eq(record.names()));
        prop_assert!(row.same_content(&StoredRow::encode("other", &back, 0)));

        let read = StoredRow::from_bytes(row.as_bytes()).unwrap();
        prop_assert_eq!(read.as_bytes(), row.as_bytes());
        prop_assert_eq!(read.size(), row.as_bytes().len());
        // Equal records in the same order have equal bytes.
        let again = StoredRow::encode(&id, &back, fetched_at);
        prop_assert_eq!(again.as_bytes(), row.as_bytes());
    }

    #[test]
    fn the_order_of_fields_does_not_count_but_their_values_do(fields in fields(), other in fields()) {
        let record = |fields: &[(String, Value)]| -> Record {
            fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
        };
        let mut turned = fields.clone();
        turned.reverse();
        let rows = [&fields, &turned, &other].map(|fields| StoredRow::encode("1", &record(fields), 0));
        prop_assert!(rows[0].same_content(&rows[1]));
        prop_assert_eq!(rows[0].same_content(&rows[2]), record(&fields) == record(&other));
        prop_assert_eq!(rows[2].same_content(&rows[0]), rows[0].same_content(&rows[2]));
    }

    #[test]
    fn a_path_into_a_record_is_the_path_into_its_row(fields in fields(), path in name()) {
        let record: Record = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let row = StoredRow::encode("1", &record, 0);
        match (record.get_path(&path), row.fields().get(&path)) {
            (Some(a), Some(b)) => prop_assert!(same_value(ValueRef::from(a), b)),
            (a, b) => prop_assert!(a.is_none() && b.is_none(), "{:?} is not {:?}", a, b),
        }
    }

    #[test]
    fn a_record_goes_through_serde_and_back(fields in fields()) {
        let record: Record = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let mut bytes = Vec::new();
        ciborium::into_writer(&record, &mut bytes).unwrap();
        if let Ok(back) = ciborium::from_reader::<Record, _>(&bytes[..]) {
            prop_assert_eq!(&back, &record);
        }
        prop_assert_eq!(&Record::from_typed(&record).unwrap(), &record);
    }

    #[test]
    fn a_record_of_values_is_typed_without_loss(fields in fields()) {
        let record: Record = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let back: Record = record.to_typed().unwrap();
        prop_assert_eq!(&back, &record);
    }
}

#[test]
fn one_and_one_point_zero_are_not_the_same_content() {
    let row = |value: Value| StoredRow::encode("1", &record! { "a" => value }, 0);
    assert!(!row(1.into()).same_content(&row(1.0.into())));
    assert!(!row(0.0.into()).same_content(&row((-0.0).into())));
    assert!(row(f64::NAN.into()).same_content(&row((-f64::NAN).into())));
    assert!(!row(Value::Null).same_content(&StoredRow::encode("1", &Record::new(), 0)));
    let map = |entries: [(&str, i32); 2]| {
        Value::Map(entries.iter().map(|(name, value)| (Value::from(*name), Value::from(*value))).collect())
    };
    assert!(row(map([("x", 1), ("y", 2)])).same_content(&row(map([("y", 2), ("x", 1)]))));
    assert!(!row(map([("x", 1), ("y", 2)])).same_content(&row(map([("y", 1), ("x", 2)]))));
    let mixed = |a: Value, b: Value| Value::Map(vec![(a, 1.into()), (b, 1.into())]);
    assert!(row(mixed(1.into(), 1.0.into())).same_content(&row(mixed(1.0.into(), 1.into()))));
}

#[test]
fn setting_a_header_field_leaves_the_other_handles_alone() {
    let mut row = StoredRow::encode("1", &record! { "a" => 1 }, 5);
    row.set_seq(Seq(7));
    let kept = row.clone();
    row.set_seq(Seq(u64::MAX));
    row.set_status(3);
    let row = row.with_fetched_at(-9);
    assert_eq!((kept.seq(), kept.status(), kept.fetched_at()), (Seq(7), 0, 5));
    assert_eq!((row.seq(), row.status(), row.fetched_at(), row.id()), (Seq(u64::MAX), 3, -9, "1"));
    assert!(kept.same_content(&row));
}

#[test]
fn damaged_headers_are_refused_and_say_why() {
    let row = StoredRow::encode("äb", &record! { "a" => 1 }, 5);
    let fails = |bytes: &[u8], said: &str| {
        let error = StoredRow::from_arc(Arc::from(bytes)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains(said), "{error}");
    };
    fails(&[], "no stored row");
    fails(&row.as_bytes()[..21], "header");
    fails(&row.as_bytes()[..23], "id");
    let mut newer = row.as_bytes().to_vec();
    newer[0] = ROW_FORMAT_VERSION + 1;
    fails(&newer, "newer version");
    let mut not_text = row.as_bytes().to_vec();
    not_text[22] = 0xff;
    fails(&not_text, "UTF-8");

    let without_fields = StoredRow::from_bytes(&row.as_bytes()[..25]).unwrap();
    let error = without_fields.to_record().unwrap_err();
    assert_eq!((error.kind(), error.context("id")), (ErrorKind::Corrupt, Some("äb")));
    let cut = StoredRow::from_bytes(&row.as_bytes()[..27]).unwrap();
    assert_eq!(cut.to_record().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(cut.fields().get("a").is_none());
}

#[test]
fn a_column_of_the_very_name_wins_over_the_path() {
    let inner = Value::Map(vec![("city".into(), "inner".into()), ("b.c".into(), "dotted".into())]);
    let mut row = record! { "address" => inner, "plain" => 1 };
    assert_eq!(row.get_path("address.city").and_then(Value::as_text), Some("inner"));
    assert_eq!(row.get_path("address.b.c").and_then(Value::as_text), Some("dotted"));
    assert!(row.get_path("address.b").is_none());
    assert!(row.get_path("plain.x").is_none());
    row.insert("address.city", ());
    assert_eq!(row.get_path("address.city"), Some(&Value::Null));
}

#[test]
fn a_record_keeps_the_order_of_its_columns() {
    let mut row = record! { "a" => 1, "b" => "two", "c" => 3.5, "d" => true, "e" => vec![1u8, 2] };
    assert_eq!(row.insert("b", "again"), Some("two".into()));
    row.remove("a");
    assert_eq!(row.names().collect::<Vec<_>>(), ["b", "c", "d", "e"]);
    row.merge(&record! { "z" => 0, "c" => 4 });
    assert_eq!(row.names().collect::<Vec<_>>(), ["b", "c", "d", "e", "z"]);
    assert_eq!(
        (row.text("b"), row.int("c"), row.float("c"), row.bool("d")),
        (Some("again"), Some(4), Some(4.0), Some(true))
    );
    assert_eq!((row.bytes("e"), row.int("b"), row.text("missing")), (Some(&[1u8, 2][..]), None, None));
    assert_eq!(row, record! { "z" => 0, "e" => vec![1u8, 2], "d" => true, "c" => 4, "b" => "again" });
    assert_ne!(record! { "a" => 1 }, record! { "a" => 1.0 });
}

#[test]
fn none_and_unit_are_null() {
    let row = record! { "a" => None::<i32>, "b" => Some("x"), "c" => (), "d" => record! { "x" => 1usize } };
    assert_eq!((row.get("a"), row.get("c")), (Some(&Value::Null), Some(&Value::Null)));
    assert_eq!(row.text("b"), Some("x"));
    assert_eq!(row.get_path("d.x"), Some(&Value::from(1)));
}

#[test]
fn nesting_beyond_the_limit_is_refused_or_stored_as_null() {
    let nested = |levels: usize| (0..levels).fold(Value::from(1), |inner, _| Value::Array(vec![inner]));
    assert!(record! { "a" => nested(MAX_DEPTH) }.check_depth().is_ok());
    let deep = record! { "a" => nested(MAX_DEPTH + 1) };
    let error = deep.check_depth().unwrap_err();
    assert_eq!((error.kind(), error.context("column")), (ErrorKind::Invalid, Some("a")));
    let stored = StoredRow::encode("1", &deep, 0).to_record().unwrap();
    assert!(stored.check_depth().is_ok());
    let whole = record! { "a" => nested(MAX_DEPTH) };
    assert!(identical(
        StoredRow::encode("1", &whole, 0).to_record().unwrap().get("a").unwrap(),
        whole.get("a").unwrap()
    ));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Airport {
    iata: String,
    elevation: i32,
    latitude: f64,
    closed: Option<bool>,
    runways: Vec<Runway>,
    kind: Kind,
    wide: u128,
    mark: char,
    place: (i8, u64),
    note: (),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Runway {
    length: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Small,
    Named(String),
    Sized { runways: u8 },
    Pair(u8, u8),
}

fn airport(kind: Kind) -> Airport {
    Airport {
        iata: "00M".into(),
        elevation: -3,
        latitude: 31.95,
        closed: None,
        runways: vec![Runway { length: 900 }, Runway { length: 1200 }],
        kind,
        wide: u128::MAX,
        mark: 'ä',
        place: (-1, u64::MAX),
        note: (),
    }
}

#[test]
fn a_struct_becomes_a_record_and_back() {
    for kind in [|| Kind::Small, || Kind::Named("x".into()), || Kind::Sized { runways: 2 }, || Kind::Pair(1, 2)] {
        let record = Record::from_typed(&airport(kind())).unwrap();
        assert_eq!(record.text("iata"), Some("00M"));
        assert_eq!(record.to_typed::<Airport>().unwrap(), airport(kind()));
        let stored = StoredRow::encode("00M", &record, 0).to_record().unwrap();
        assert_eq!(stored.to_typed::<Airport>().unwrap(), airport(kind()));
    }
}

#[test]
fn an_integer_is_taken_for_a_float() {
    let mut record = Record::from_typed(&airport(Kind::Small)).unwrap();
    record.insert("latitude", 32);
    assert_eq!(record.to_typed::<Airport>().unwrap().latitude, 32.0);
}

#[test]
fn an_error_of_to_typed_names_the_column() {
    let mut record = Record::from_typed(&airport(Kind::Small)).unwrap();
    record.insert("elevation", "high");
    let error = record.to_typed::<Airport>().unwrap_err();
    assert_eq!((error.kind(), error.context("column")), (ErrorKind::Invalid, Some("elevation")));
    record.remove("elevation");
    let error = record.to_typed::<Airport>().unwrap_err();
    assert!(error.to_string().contains("elevation"), "{error}");
}

#[test]
fn only_structs_and_maps_become_records() {
    assert_eq!(Record::from_typed(&5).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Record::from_typed(&[("a", 1)]).unwrap_err().kind(), ErrorKind::Invalid);
    let by_number = std::collections::BTreeMap::from([(1, "a")]);
    assert_eq!(Record::from_typed(&by_number).unwrap_err().kind(), ErrorKind::Invalid);
}
