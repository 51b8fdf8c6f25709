//! A Dio's rows as structs of the application's own, through the public interface.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use diorama::prelude::*;
use diorama::vista::{Column, ColumnType, Schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
    Named(String),
    Sized { width: u32 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Address {
    city: String,
    lines: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shop {
    id: String,
    #[serde(rename = "title")]
    name: String,
    #[serde(default)]
    floor_count: i16,
    address: Address,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    rating: Option<f64>,
}

fn shop(id: &str, kind: Kind) -> Shop {
    let address = Address { city: "Riga".into(), lines: vec![1, 2] };
    let name = format!("Shop {id}");
    Shop { id: id.into(), name, floor_count: -3, address, kind, note: None, rating: Some(4.0) }
}

fn address(city: impl Into<Value>, lines: Vec<Value>) -> Value {
    Value::Map(vec![("city".into(), city.into()), ("lines".into(), Value::Array(lines))])
}

fn dio(source: MemoryVista) -> Dio {
    Lens::new().in_memory().build().unwrap().make_dio(source).unwrap()
}

fn things() -> MemoryVista {
    MemoryVista::new("things", "id")
}

/// One row, given by the source, read as a `T` in every way there is.
fn read_everywhere<T: Serialize + DeserializeOwned + PartialEq + Debug>(id: &str, row: Record) -> diorama::Result<T> {
    let dio = dio(things().with_rows([(id, row)]));
    let typed = dio.typed::<T>();
    let table = typed.table_scenery().open().unwrap();
    let same = |answer: diorama::Result<T>| answer.map_err(|error| error.to_string());
    let answer = same(typed.get(id).map(Option::unwrap));
    assert_eq!(same(typed.list().map(|mut rows| rows.remove(0).1)), answer);
    assert_eq!(same(table.row(0).map(Option::unwrap)), answer);
    assert_eq!(same(table.snapshot().rows(0..9).next().unwrap()), answer);
    assert_eq!(same(typed.record_scenery(id).unwrap().value().map(Option::unwrap)), answer);
    typed.get(id).map(Option::unwrap)
}

#[test]
fn rows_go_in_and_come_out_as_they_were() {
    let dio = dio(things());
    let shops = dio.typed::<Shop>();
    for (id, kind) in [("a", Kind::Plain), ("b", Kind::Named("x".into())), ("c", Kind::Sized { width: 7 })] {
        let row = shop(id, kind);
        assert_eq!(shops.insert(&row).unwrap().wait(SOON).unwrap().id.as_deref(), Some(id));
        assert_eq!(shops.get(id).unwrap(), Some(row));
    }
    let stored = dio.cache().get("a").unwrap().unwrap();
    assert_eq!((stored.text("title"), stored.int("floorCount")), (Some("Shop a"), Some(-3)));
    assert!(!stored.contains("note"));

    let changed = Shop { floor_count: 9, note: Some("new".into()), ..shop("a", Kind::Plain) };
    shops.replace("a", &changed).unwrap().wait(SOON).unwrap();
    assert_eq!(shops.get("a").unwrap(), Some(changed));
    shops.upsert("d", &shop("d", Kind::Plain)).unwrap().wait(SOON).unwrap();
    shops.patch("d", &record! { "rating" => 1 }).unwrap().wait(SOON).unwrap();
    assert_eq!(shops.get("d").unwrap().unwrap().rating, Some(1.0));
    shops.delete("b").unwrap().wait(SOON).unwrap();
    assert_eq!(shops.get("b").unwrap(), None);
    let ids: Vec<String> = shops.list().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["a", "c", "d"]);
}

#[test]
fn a_part_of_a_row_is_patched_from_a_struct_of_its_own() {
    #[derive(Serialize)]
    struct Part {
        id: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'static str>,
        rating: Option<f64>,
    }
    let dio = dio(things());
    let shops = dio.typed::<Shop>();
    shops.insert(&shop("a", Kind::Plain)).unwrap().wait(SOON).unwrap();
    shops.patch("a", &Part { id: "a", title: None, rating: None }).unwrap().wait(SOON).unwrap();
    let row = shops.get("a").unwrap().unwrap();
    assert_eq!((row.name.as_str(), row.rating), ("Shop a", None));
    let error = shops.patch("b", &Part { id: "a", title: Some("x"), rating: None }).unwrap_err();
    assert_eq!((error.kind(), error.context("id")), (ErrorKind::Invalid, Some("b")));
}

#[test]
fn views_of_a_struct_follow_like_any_view() {
    let source = things().with_rows([
        ("a", Record::from_typed(&shop("a", Kind::Plain)).unwrap()),
        ("b", Record::from_typed(&shop("b", Kind::Plain)).unwrap()),
    ]);
    let dio = dio(source);
    let shops = dio.typed::<Shop>();
    let riga = col("address.city").eq("Riga");
    let builder = shops.table_scenery().condition(riga).where_eq("floorCount", -3).search("shop");
    let table = builder.sort("title", SortDir::Desc).open().unwrap();
    let one = shops.record_scenery("b").unwrap();
    let names = |rows: &diorama::TypedSnapshot<Shop>| {
        rows.iter().map(|row| row.map(|row| row.name)).collect::<diorama::Result<Vec<_>>>().unwrap()
    };
    let before = table.snapshot();
    assert_eq!(names(&before), ["Shop b", "Shop a"]);
    assert_eq!(before.row(1).unwrap(), Some(shop("a", Kind::Plain)));
    assert_eq!(before.row(2).unwrap(), None);
    assert_eq!(before.rows(1..9).len(), 1);
    // What isn't a row is the untyped view's.
    assert_eq!((table.row_count(), before.position_of("a").unwrap()), (2, Some(1)));
    assert_eq!((*before).row(0).unwrap().id(), "b");
    assert_eq!((before.id(0).as_deref(), before.id(1).as_deref(), before.id(2)), (Some("b"), Some("a"), None));
    assert_eq!(table.try_row(0).unwrap(), table.row(0).unwrap());
    assert_eq!(one.id(), "b");

    let generation = one.generation();
    shops.patch("b", &record! { "title" => "A shop" }).unwrap().wait(SOON).unwrap();
    table.wait_for_change(before.generation(), Some(SOON)).unwrap();
    one.wait_for_change(generation, Some(SOON)).unwrap();
    let changes = table.changes_since(before.generation());
    assert_eq!(changes.changes, Changes::List(vec![Change::Move { from: 0, to: 1 }]));
    assert_eq!(names(&changes.snapshot), ["Shop a", "A shop"]);
    assert_eq!(names(&before), ["Shop b", "Shop a"]);
    assert_eq!(one.value().unwrap().unwrap().name, "A shop");
    shops.delete("b").unwrap().wait(SOON).unwrap();
    assert_eq!(one.value().unwrap(), None);
}

#[test]
fn a_mismatch_names_the_table_the_row_and_the_field() {
    let whole = || Record::from_typed(&shop("a", Kind::Plain)).unwrap();
    let check = |change: &dyn Fn(&mut Record), column: Option<&str>, field: Option<&str>, what: &str| {
        let mut row = whole();
        change(&mut row);
        let error = read_everywhere::<Shop>("a", row).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!((error.context("table"), error.context("id")), (Some("things"), Some("a")), "{error}");
        assert_eq!((error.context("column"), error.context("field")), (column, field), "{error}");
        assert!(error.message().contains(what), "{error}");
    };
    check(&|row| drop(row.insert("title", 5)), Some("title"), None, "expected a string");
    check(&|row| drop(row.insert("floorCount", 40_000)), Some("floorCount"), None, "expected i16");
    check(&|row| drop(row.insert("title", Value::Null)), Some("title"), None, "expected a string");
    check(&|row| drop(row.remove("title")), Some("title"), None, "missing field `title`");
    check(&|row| drop(row.remove("address")), Some("address"), None, "missing field `address`");
    check(&|row| drop(row.insert("address", address(5, vec![]))), Some("address"), Some("address.city"), "a string");
    let lines = vec![1.into(), 256.into()];
    let bad_line = address("Riga", lines);
    check(&|row| drop(row.insert("address", &bad_line)), Some("address"), Some("address.lines[1]"), "expected u8");
    let no_city = Value::Map(vec![("lines".into(), Value::Array(vec![]))]);
    check(&|row| drop(row.insert("address", &no_city)), Some("address"), Some("address.city"), "missing field `city`");
    check(&|row| drop(row.insert("kind", "Other")), Some("kind"), None, "unknown variant `Other`");
    check(&|row| drop(row.insert("kind", 7)), Some("kind"), None, "a variant of Kind was expected");
    check(&|row| drop(row.insert("rating", "high")), Some("rating"), None, "expected f64");
}

#[test]
fn one_row_that_does_not_fit_leaves_the_others() {
    let rows = [("a", record! { "n" => 1 }), ("b", record! { "n" => "x" }), ("c", record! { "n" => 3 })];
    let dio = dio(things().with_rows(rows));
    #[derive(Debug, Serialize, Deserialize)]
    struct Number {
        n: i64,
    }
    let numbers = dio.typed::<Number>();
    let table = numbers.table_scenery().open_now().unwrap();
    table.wait_until_ready(Some(SOON)).unwrap();
    let shown: Vec<Option<i64>> = table.snapshot().iter().map(|row| row.ok().map(|row| row.n)).collect();
    assert_eq!(shown, [Some(1), None, Some(3)]);
    let ids = table.snapshot().iter().filter_map(|row| row.err()?.context("id").map(str::to_owned)).collect::<Vec<_>>();
    assert_eq!(ids, ["b"]);
    assert_eq!(numbers.list().unwrap_err().context("id"), Some("b"));
}

#[test]
fn missing_null_and_additional_columns_are_what_serde_makes_of_them() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Loose {
        maybe: Option<i64>,
        #[serde(default)]
        or_zero: i64,
    }
    let check = |row: Record, maybe, or_zero| {
        assert_eq!(read_everywhere::<Loose>("a", row).unwrap(), Loose { maybe, or_zero });
    };
    check(record! {}, None, 0);
    check(record! { "maybe" => Value::Null, "more" => "x" }, None, 0);
    check(record! { "id" => "a", "maybe" => 1, "or_zero" => 2 }, Some(1), 2);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        n: i64,
    }
    // The id column is no unknown field: it is the row's own.
    assert_eq!(read_everywhere::<Strict>("a", record! { "id" => "a", "n" => 1 }).unwrap(), Strict { n: 1 });
    let error = read_everywhere::<Strict>("a", record! { "n" => 1, "m" => 2 }).unwrap_err();
    assert_eq!(error.context("column"), Some("m"), "{error}");

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        id: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, i64>,
    }
    let rest = BTreeMap::from([("n".to_owned(), 1), ("m".to_owned(), 2)]);
    assert_eq!(read_everywhere::<Flat>("7", record! { "n" => 1, "m" => 2 }).unwrap(), Flat { id: 7, rest });
}

#[test]
fn numbers_of_every_width_go_in_and_come_out_as_they_were() {
    #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
    struct Numbers {
        id: u64,
        small: i8,
        signed: i64,
        unsigned: u64,
        wide: i128,
        single: f32,
        double: f64,
    }
    let dio = dio(things());
    let typed = dio.typed::<Numbers>();
    let extremes = [
        Numbers { id: 0, small: -128, signed: i64::MIN, unsigned: 0, wide: i128::MIN, single: 0.1, double: -0.0 },
        Numbers {
            id: u64::MAX,
            small: 127,
            signed: i64::MAX,
            unsigned: u64::MAX,
            wide: i128::MAX,
            single: f32::MAX,
            double: 5e-324,
        },
        Numbers { id: 7, small: 0, signed: 0, unsigned: 1, wide: -1, single: f32::NEG_INFINITY, double: f64::INFINITY },
    ];
    let table = typed.table_scenery().open().unwrap();
    for row in extremes {
        typed.insert(&row).unwrap().wait(SOON).unwrap();
        assert_eq!(typed.get(row.id).unwrap(), Some(row));
        assert_eq!(table.row(table.row_count() - 1).unwrap(), Some(row));
    }
    let check = |column: &str, value: Value| {
        let mut row = Record::from_typed(&extremes[2]).unwrap();
        row.insert(column, value);
        let error = read_everywhere::<Numbers>("7", row).unwrap_err();
        assert_eq!((error.context("column"), error.context("id")), (Some(column), Some("7")), "{error}");
    };
    check("small", 128.into());
    check("signed", u64::MAX.into());
    check("unsigned", (-1).into());
    check("unsigned", 1.5.into());
    check("wide", "1".into());
    check("single", "1".into());
}

#[test]
fn a_struct_that_is_only_read_or_only_written_needs_half_of_serde() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Name {
        name: String,
    }
    #[derive(Serialize)]
    struct New<'a> {
        name: &'a str,
        price: u8,
    }
    let dio = dio(things());
    dio.typed::<New<'_>>().insert_as("a", &New { name: "Anvil", price: 3 }).unwrap().wait(SOON).unwrap();
    assert_eq!(dio.typed::<Name>().get("a").unwrap(), Some(Name { name: "Anvil".into() }));
}

#[test]
fn an_id_is_read_as_text_or_as_an_integer_where_nothing_is_lost() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Of<I> {
        id: I,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newtype(u16);
    let rows = |id: &str| [record! {}, record! { "id" => Value::Null }, record! { "id" => id }];
    for row in rows("7") {
        assert_eq!(read_everywhere::<Of<String>>("7", row.clone()).unwrap().id, "7");
        assert_eq!(read_everywhere::<Of<u8>>("7", row.clone()).unwrap().id, 7);
        assert_eq!(read_everywhere::<Of<i64>>("7", row.clone()).unwrap().id, 7);
        assert_eq!(read_everywhere::<Of<Option<u32>>>("7", row.clone()).unwrap().id, Some(7));
        assert_eq!(read_everywhere::<Of<Newtype>>("7", row).unwrap().id, Newtype(7));
    }
    assert_eq!(read_everywhere::<Of<String>>("7", record! { "id" => 7 }).unwrap().id, "7");
    assert_eq!(read_everywhere::<Of<i128>>("-7", record! {}).unwrap().id, -7);
    assert_eq!(read_everywhere::<Of<u64>>("18446744073709551615", record! {}).unwrap().id, u64::MAX);
    for text in ["07", "+7", "7.0", " 7", "x", "300"] {
        for row in rows(text) {
            let error = read_everywhere::<Of<u8>>(text, row).unwrap_err();
            assert_eq!((error.context("column"), error.context("id")), (Some("id"), Some(text)), "{error}");
        }
    }
}

#[test]
fn writes_take_the_id_from_the_row_or_from_the_call() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Numbered {
        id: Option<u32>,
        n: i64,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Bare {
        n: i64,
    }
    let dio = dio(things());
    let numbered = dio.typed::<Numbered>();
    let seven = Numbered { id: Some(7), n: 1 };
    numbered.insert(&seven).unwrap().wait(SOON).unwrap();
    assert_eq!(numbered.get(7).unwrap(), Some(seven.clone()));
    numbered.replace(7, &Numbered { id: None, n: 2 }).unwrap().wait(SOON).unwrap();
    assert_eq!(numbered.get("7").unwrap(), Some(Numbered { id: Some(7), n: 2 }));
    let error = numbered.replace(8, &seven).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("id"), error.context("table")),
        (ErrorKind::Invalid, Some("8"), Some("things"))
    );
    assert_eq!(numbered.get(8).unwrap(), None);

    // The source chooses.
    let chosen = numbered.insert(&Numbered { id: None, n: 3 }).unwrap().wait(SOON).unwrap().id.unwrap();
    assert_eq!(numbered.get(&chosen).unwrap(), Some(Numbered { id: chosen.parse().ok(), n: 3 }));
    let bare = dio.typed::<Bare>();
    let chosen = bare.insert(&Bare { n: 4 }).unwrap().wait(SOON).unwrap().id.unwrap();
    assert_eq!(bare.get(&chosen).unwrap(), Some(Bare { n: 4 }));
    bare.insert_as("x", &Bare { n: 5 }).unwrap().wait(SOON).unwrap();
    assert_eq!(dio.master().get(&CallCx::new(), "x").unwrap(), Some(record! { "n" => 5, "id" => "x" }));

    #[derive(Serialize, Deserialize)]
    struct Odd {
        id: f64,
    }
    let error = dio.typed::<Odd>().insert(&Odd { id: 1.5 }).unwrap_err();
    assert_eq!((error.kind(), error.context("column")), (ErrorKind::Invalid, Some("id")));
    let error = dio.typed::<i64>().insert(&1).unwrap_err();
    assert_eq!((error.kind(), error.context("table")), (ErrorKind::Invalid, Some("things")));
}

#[test]
fn an_id_is_stored_in_the_type_of_its_column() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Number<I> {
        id: I,
    }
    let check = |kind: ColumnType, expected: Value| {
        let schema = Schema::new("id").with(Column::new("id", kind));
        let dio = dio(things().with_schema(schema));
        let as_integer = dio.typed::<Number<i64>>();
        let as_text = dio.typed::<Number<String>>();
        for written in [as_integer.insert(&Number { id: 7 }), as_text.upsert(7, &Number { id: "7".into() })] {
            written.unwrap().wait(SOON).unwrap();
            assert_eq!(dio.cache().get("7").unwrap().unwrap().get("id"), Some(&expected));
            assert_eq!(as_integer.get(7).unwrap(), Some(Number { id: 7 }));
            assert_eq!(as_text.get(7).unwrap(), Some(Number { id: "7".into() }));
        }
    };
    check(ColumnType::Text, "7".into());
    check(ColumnType::Int, 7.into());
}

#[test]
fn a_closed_dio_says_so() {
    let dio = dio(things().with_rows([("a", record! { "n" => 1 })]));
    let rows = dio.typed::<Record>();
    let table = rows.table_scenery().open().unwrap();
    dio.close(SOON).unwrap();
    assert_eq!(rows.insert(&record! { "n" => 2 }).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(rows.table_scenery().open().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(table.row_count(), 1);
}
