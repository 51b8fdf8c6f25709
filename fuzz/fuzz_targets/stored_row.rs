//! Stored rows: any bytes are survived and read lazily as a full decode reads them; any values come back as they were,
//! and their sort keys compare as they do.
//!
//! The first byte says what the others are: a whole stored row, the fields of one, or values.

#![no_main]

#[path = "values.rs"]
mod values;

use std::cmp::Ordering;

use arbitrary::{Result, Unstructured};
use diorama::Record;
use diorama::value::{
    Path, RowRef, StoredRow, TypeRank, Value, ValueRef, compare, compare_ref_to_value, compare_refs, encode_sort_key,
    encode_value_sort_key, same_value, type_rank,
};
use libfuzzer_sys::fuzz_target;
use values::{identical, several, value};

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => any_row(rest),
        1 => {
            let mut row = StoredRow::encode("id", &Record::new(), 7).as_bytes().to_vec();
            row.pop();
            row.extend_from_slice(rest);
            any_row(&row);
        }
        _ => {
            // Too few bytes make no values.
            let _ = any_values(&mut Unstructured::new(rest));
        }
    }
});

fn any_row(bytes: &[u8]) {
    any_fields(RowRef::new(bytes));
    if let Some(value) = ValueRef::read(bytes) {
        any_value(value);
    }
    let Ok(row) = StoredRow::from_bytes(bytes) else { return };
    assert_eq!(row.as_bytes(), bytes);
    assert!(row.same_content(&row));
    let _ = format!("{row:?}");
    any_fields(row.fields());

    let Ok(record) = row.to_record() else { return };
    let lazy: Vec<(&str, ValueRef<'_>)> = row.fields().iter().collect();
    let mut names: Vec<&str> = Vec::new();
    lazy.iter().for_each(|(name, _)| {
        if !names.contains(name) {
            names.push(name)
        }
    });
    assert!(record.names().eq(names.iter().copied()), "{names:?} of {record:?}");
    for (name, value) in record.iter() {
        let read = row.fields().column(name).and_then(|value| value.to_value());
        assert!(read.as_ref().is_some_and(|read| identical(read, value)), "{name} is {read:?}, not {value:?}");
    }
    let fields = &bytes[22 + row.id().len()..];
    if let Ok(Value::Map(entries)) = ciborium::from_reader::<Value, _>(fields) {
        assert_eq!(lazy.len(), entries.len());
        for ((name, value), (other_name, other)) in lazy.iter().zip(&entries) {
            assert_eq!(Some(*name), other_name.as_text());
            let value = value.to_value();
            assert!(value.as_ref().is_some_and(|value| identical(value, other)), "{name}: {value:?}, not {other:?}");
        }
    }
    if record.check_depth().is_ok() {
        let again = StoredRow::encode(row.id(), &record, row.fetched_at());
        assert!(again.to_record().is_ok_and(|back| back.same_as(&record)), "{record:?}");
        assert_eq!(again.same_content(&row), lazy.len() == record.len(), "{record:?}");
    }
}

fn any_fields(fields: RowRef<'_>) {
    for path in ["", "a", "b", "a.b", "a.b.a", "."] {
        let found = fields.get(path);
        assert_eq!(found.is_some(), fields.get_path(&Path::new(path)).is_some());
        if let Some(value) = found {
            any_value(value);
        }
    }
    fields.iter().for_each(|(_, value)| any_value(value));
}

fn any_value(value: ValueRef<'_>) {
    assert!(compare_refs(Some(value), Some(value)).is_eq());
    assert!(same_value(value, value));
    let (mut up, mut down) = (Vec::new(), Vec::new());
    encode_sort_key(Some(value), false, &mut up);
    encode_sort_key(Some(value), true, &mut down);
    let _ = (value.text(), value.bytes(), value.as_f64(), value.as_i64(), value.as_bool(), value.as_str());
    if let Some(decoded) = value.to_value() {
        let memory = ValueRef::from(&decoded);
        assert_eq!(type_rank(value), type_rank(memory), "{decoded:?}");
        assert!(compare_ref_to_value(value, &decoded).is_eq(), "{decoded:?}");
        assert!(same_value(value, memory), "{decoded:?}");
        assert_eq!(up, key(&decoded, false), "{decoded:?}");
        assert_eq!(down, key(&decoded, true), "{decoded:?}");
    }
}

fn key(value: &Value, descending: bool) -> Vec<u8> {
    let mut key = Vec::new();
    encode_value_sort_key(Some(value), descending, &mut key);
    key
}

fn any_values(u: &mut Unstructured<'_>) -> Result<()> {
    let id: String = u.arbitrary()?;
    let fields = several(u, |u| Ok((u.arbitrary::<String>()?, value(u)?)))?;
    let record: Record = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let row = StoredRow::encode(&id, &record, 5);
    let read = StoredRow::from_bytes(row.as_bytes());
    let back = read.as_ref().map(StoredRow::to_record);
    assert!(matches!(&back, Ok(Ok(back)) if back.same_as(&record)), "{back:?} of {record:?}");
    assert_eq!(row.id(), id);

    // Values in memory, and the same ones as they are stored.
    let values: Vec<(&Value, ValueRef<'_>)> =
        record.iter().filter_map(|(name, value)| Some((value, row.fields().column(name)?))).collect();
    assert_eq!(values.len(), record.len());
    for (a, stored_a) in &values {
        assert!(same_value(*stored_a, ValueRef::from(*a)), "{a:?}");
        for (b, stored_b) in &values {
            let order = compare(a, b);
            assert_eq!(compare(b, a), order.reverse(), "{a:?} and {b:?}");
            assert_eq!(compare_refs(Some(*stored_a), Some(*stored_b)), order, "{a:?} and {b:?}");
            assert_eq!(key(a, false).cmp(&key(b, false)), order, "{a:?} and {b:?}");
            assert_eq!(key(a, true).cmp(&key(b, true)), descending(a, b), "{a:?} and {b:?}");
            for (c, _) in &values {
                if order.is_le() && compare(b, c).is_le() {
                    assert!(compare(a, c).is_le(), "{a:?}, {b:?} and {c:?}");
                }
            }
        }
    }
    Ok(())
}

/// The order of a descending column: null stays last.
fn descending(a: &Value, b: &Value) -> Ordering {
    let is_null = |value| type_rank(ValueRef::from(value)) == TypeRank::Null;
    match (is_null(a), is_null(b)) {
        (false, false) => compare(b, a),
        (a, b) => a.cmp(&b),
    }
}
