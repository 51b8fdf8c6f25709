//! Tables, views and queries: what is shown of them, and what can't be.

use std::fs;

use diorama::sources::SqliteVista;
use diorama::value::Value;
use diorama::vista::{ColumnType, Condition, QueryDescriptor, SortDir, TableShell};
use diorama::{Error, ErrorKind, Lens, record};

use crate::support::{Database, cx, ids, list};

fn refused(database: &Database, table: &str) -> Error {
    SqliteVista::open(&database.path, table).unwrap_err()
}

#[test]
fn the_schema_is_the_databases() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(20) NOT NULL, price DOUBLE, open BOOLEAN DEFAULT 1,
         photo BLOB, made DATETIME, sum DECIMAL(10, 2), anything, twice INTEGER AS (id * 2))",
    );
    let vista = database.open("t");
    let schema = vista.schema();
    let kinds: Vec<_> = schema.columns().iter().map(|column| (column.name(), column.kind())).collect();
    assert_eq!(
        kinds,
        [
            ("id", ColumnType::Int),
            ("name", ColumnType::Text),
            ("price", ColumnType::Float),
            ("open", ColumnType::Bool),
            ("photo", ColumnType::Bytes),
            ("made", ColumnType::Any),
            ("sum", ColumnType::Float),
            ("anything", ColumnType::Any),
            ("twice", ColumnType::Int),
        ]
    );
    assert_eq!(schema.id_column(), Some("id"));
    let mandatory: Vec<_> = schema.columns().iter().filter(|column| column.is_mandatory()).map(|c| c.name()).collect();
    assert_eq!(mandatory, ["name"]);
    assert!(schema.column("name").unwrap().is_title());
    let can = vista.capabilities();
    assert!(can.get && can.count && can.window && can.insert && can.batch && can.idempotent_writes && !can.changes);
}

#[test]
fn a_value_of_another_type_than_its_column_is_given_as_it_is() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, number INTEGER, flag BOOLEAN);
         INSERT INTO t VALUES (1, 'text', 'maybe'), (2, 2.5, 7), (3, x'00ff', 1), (4, '12', 0.0), (5, NULL, NULL)",
    );
    let rows: Vec<_> = list(&database.open("t")).into_iter().map(|(_, record)| record).collect();
    assert_eq!(
        rows,
        [
            record! { "id" => 1, "number" => "text", "flag" => "maybe" },
            record! { "id" => 2, "number" => 2.5, "flag" => 7 },
            record! { "id" => 3, "number" => vec![0_u8, 255], "flag" => true },
            record! { "id" => 4, "number" => 12, "flag" => false },
            record! { "id" => 5, "number" => Value::Null, "flag" => Value::Null },
        ]
    );
}

#[test]
fn integers_of_64_bits_are_exact() {
    let database = Database::new("CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)");
    let vista = database.open("t");
    for (id, number) in [("min", i64::MIN), ("max", i64::MAX), ("odd", (1 << 53) + 1)] {
        vista.insert(&cx(), Some(id), &record! { "n" => number }).unwrap();
        let query = QueryDescriptor::new().filtered(Condition::eq("n", number));
        assert_eq!(vista.list(&cx(), &query).unwrap(), [(id.to_string(), record! { "id" => id, "n" => number })]);
    }
    let between = QueryDescriptor::new()
        .filtered(Condition::gt("n", (1_u64 << 53) as f64))
        .filtered(Condition::lt("n", 9_223_372_036_854_775_808.0));
    assert_eq!(vista.count(&cx(), &between).unwrap(), 2);
}

#[test]
fn a_table_without_a_primary_key_needs_its_id_named() {
    let database = Database::new("CREATE TABLE t (code TEXT, n INTEGER); INSERT INTO t VALUES ('b', 1), ('a', 2)");
    let error = refused(&database, "t");
    assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Invalid, Some("id")), "{error}");
    let vista = database.builder().table("t").id("code").open().unwrap();
    assert_eq!(ids(&vista), ["b", "a"]);
    vista.patch(&cx(), "a", &record! { "n" => 5 }).unwrap();
    assert_eq!(vista.insert(&cx(), Some("a"), &record! {}).unwrap_err().kind(), ErrorKind::Conflict);
    vista.insert(&cx(), Some("c"), &record! { "n" => 3 }).unwrap();
    assert_eq!(ids(&vista), ["b", "a", "c"]);

    database.run("INSERT INTO t VALUES ('a', 9)");
    for error in [
        vista.list(&cx(), &QueryDescriptor::new()).unwrap_err(),
        vista.get(&cx(), "a").unwrap_err(),
        vista.patch(&cx(), "a", &record! { "n" => 0 }).unwrap_err(),
        vista.delete(&cx(), "a").unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.context("id")), (ErrorKind::Corrupt, Some("a")), "{error}");
    }
    assert_eq!(database.number("SELECT count(*) FROM t WHERE code = 'a' AND n IN (5, 9)"), 2);
}

#[test]
fn a_primary_key_of_several_columns_needs_an_id_named() {
    let database = Database::new("CREATE TABLE t (a TEXT, b TEXT, PRIMARY KEY (a, b))");
    assert_eq!(refused(&database, "t").kind(), ErrorKind::Invalid);
}

#[test]
fn a_row_without_a_usable_id_is_an_error() {
    for id in ["NULL", "''", "2.5", "x'01'"] {
        let database = Database::new(&format!("CREATE TABLE t (id PRIMARY KEY, n); INSERT INTO t VALUES ({id}, 1)"));
        let error = database.open("t").list(&cx(), &QueryDescriptor::new()).unwrap_err();
        assert_eq!((error.kind(), error.context("column")), (ErrorKind::Corrupt, Some("id")), "{id}: {error}");
        assert_eq!(error.context("table"), Some("t"));
    }
}

#[test]
fn an_integer_and_a_text_that_look_alike_are_one_id_twice() {
    let database = Database::new("CREATE TABLE t (id PRIMARY KEY, n); INSERT INTO t VALUES (1, 1), ('1', 2)");
    let vista = database.open("t");
    assert_eq!(vista.list(&cx(), &QueryDescriptor::new()).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(vista.get(&cx(), "1").unwrap_err().kind(), ErrorKind::Corrupt);
    database.run("DELETE FROM t WHERE n = 1");
    assert_eq!(vista.get(&cx(), "1").unwrap().unwrap().int("n"), Some(2));
}

#[test]
fn ids_that_look_like_numbers_are_the_text_they_are() {
    let database = Database::new("CREATE TABLE t (id TEXT PRIMARY KEY); CREATE TABLE n (id INTEGER PRIMARY KEY)");
    let vista = database.open("t");
    for id in ["00501", "0E8", "1", "01", "1.0", "9223372036854775808", " 7"] {
        vista.insert(&cx(), Some(id), &record! {}).unwrap();
        assert!(vista.get(&cx(), id).unwrap().is_some());
    }
    assert_eq!(list(&vista).len(), 7);
    let numbered = database.open("n");
    numbered.insert(&cx(), Some("7"), &record! {}).unwrap();
    for other in ["07", "7.0", "+7", " 7", "seven", "9223372036854775808"] {
        assert_eq!(numbered.get(&cx(), other).unwrap(), None, "{other}");
        numbered.delete(&cx(), other).unwrap();
        assert_eq!(numbered.insert(&cx(), Some(other), &record! {}).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(numbered.patch(&cx(), other, &record! {}).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(ids(&numbered), ["7"]);
}

#[test]
fn a_view_can_be_read_and_not_written() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES (1, 5), (2, 6), (3, 7);
         CREATE VIEW v AS SELECT id AS code, n * 2 AS double FROM t;
         CREATE TRIGGER i INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.code, new.double); END",
    );
    assert_eq!(refused(&database, "v").context("setting"), Some("id"));
    let view = database.builder().table("v").id("code").open().unwrap();
    let query = database.builder().query("SELECT id AS code, n * 2 AS double FROM t").id("code").name("q").open();
    for vista in [view, query.unwrap()] {
        let wanted = QueryDescriptor::new().filtered(Condition::gt("double", 10)).sorted("double", SortDir::Desc);
        let wanted = wanted.windowed(0, 1);
        assert!(vista.push_down(&wanted).residual.is_empty());
        let rows = vista.list(&cx(), &wanted).unwrap();
        assert_eq!(rows, [("3".to_string(), record! { "code" => 3, "double" => 14 })]);
        assert_eq!(vista.get(&cx(), "2").unwrap().unwrap().int("double"), Some(12));
        let can = vista.capabilities();
        assert!(!(can.insert || can.replace || can.upsert || can.patch || can.delete || can.delete_all || can.batch));
        assert!(!can.idempotent_writes);
        let row = record! { "double" => 1 };
        for error in [
            vista.insert(&cx(), Some("9"), &row).unwrap_err(),
            vista.replace(&cx(), "1", &row).unwrap_err(),
            vista.upsert(&cx(), "1", &row).unwrap_err(),
            vista.patch(&cx(), "1", &row).unwrap_err(),
            vista.delete(&cx(), "1").unwrap_err(),
            vista.delete_all(&cx()).unwrap_err(),
            vista.batch(&cx(), &[]).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }
    assert_eq!(database.number("SELECT count(*) FROM t"), 3);
}

#[test]
fn a_database_opened_for_reading_only_is_not_written() {
    let database = Database::new("CREATE TABLE t (id TEXT PRIMARY KEY)");
    let vista = database.builder().table("t").read_only(true).open().unwrap();
    assert!(!vista.capabilities().insert);
    assert_eq!(vista.insert(&cx(), Some("a"), &record! {}).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_virtual_table_is_read_and_asked_nothing_in_sql() {
    let database = Database::new(
        "CREATE VIRTUAL TABLE v USING rtree_i32(id, low, high); INSERT INTO v VALUES (2, 0, 1), (1, 2, 3)",
    );
    let vista = database.builder().table("v").id("id").open().unwrap();
    assert_eq!(ids(&vista), ["1", "2"]);
    let narrowed = QueryDescriptor::new().filtered(Condition::gt("low", 1));
    assert_eq!(vista.push_down(&narrowed).residual, narrowed);
    assert_eq!(vista.list(&cx(), &narrowed).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(vista.count(&cx(), &narrowed).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(vista.list(&cx(), &QueryDescriptor::new().windowed(1, 1)).unwrap()[0].0, "2");
    assert!(!vista.capabilities().insert);
}

#[test]
fn a_file_that_is_no_database_is_told_as_that() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("note.db");
    fs::write(&path, "Dear diary, this is far from being a database.\n".repeat(200)).unwrap();
    let error = SqliteVista::open(&path, "t").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.context("file").unwrap().contains("note.db"));

    let absent = directory.path().join("absent.db");
    assert_eq!(SqliteVista::open(&absent, "t").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!absent.exists(), "opening makes no database");
    assert_eq!(SqliteVista::open(directory.path(), "t").unwrap_err().kind(), ErrorKind::Invalid);

    let empty = directory.path().join("empty.db");
    fs::write(&empty, "").unwrap();
    assert_eq!(SqliteVista::open(&empty, "t").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read(&empty).unwrap(), b"");
}

#[test]
fn settings_that_can_not_be_are_named() {
    let database = Database::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY); CREATE TABLE f (id REAL PRIMARY KEY); CREATE TABLE b (id BLOB PRIMARY KEY)",
    );
    for (builder, setting) in [
        (database.builder(), "table"),
        (database.builder().query("SELECT 1 AS id").id("id"), "name"),
        (database.builder().query("SELECT 1 AS id").name("q"), "id"),
        (database.builder().table("f"), "id"),
        (database.builder().table("b"), "id"),
    ] {
        let error = builder.open().unwrap_err();
        assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Invalid, Some(setting)), "{error}");
    }
    let error = refused(&database, "nowhere");
    assert!(error.message().contains("b, f, t"), "{error}");
}

#[test]
fn text_that_is_not_utf_8_is_an_error_that_names_its_place() {
    let database = Database::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, n TEXT); INSERT INTO t VALUES ('a', CAST(x'ff41' AS TEXT))",
    );
    let error = database.open("t").list(&cx(), &QueryDescriptor::new()).unwrap_err();
    assert_eq!(
        (error.kind(), error.context("column"), error.context("id")),
        (ErrorKind::Corrupt, Some("n"), Some("a"))
    );
}

#[test]
fn a_utf_16_database_keeps_the_order_of_text_to_the_caller() {
    let database = Database::new(
        "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT);
         INSERT INTO t VALUES (1, char(0x10000)), (2, char(0xffff)), (3, 'a')",
    );
    let vista = database.open("t");
    let sorted = QueryDescriptor::new().sorted("name", SortDir::Asc);
    assert_eq!(vista.push_down(&sorted).residual, sorted);
    let less = QueryDescriptor::new().filtered(Condition::lt("name", "b"));
    assert_eq!(vista.push_down(&less).residual, less);
    let equal = QueryDescriptor::new().filtered(Condition::eq("name", "\u{10000}")).searching("\u{10000}");
    assert!(vista.push_down(&equal).residual.is_empty());
    assert_eq!(vista.list(&cx(), &equal).unwrap()[0].0, "1");
    assert_eq!(vista.list(&cx(), &sorted).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn two_vistas_of_one_table_have_one_key_and_others_have_others() {
    let database =
        Database::new("CREATE TABLE t (id TEXT PRIMARY KEY, code TEXT); CREATE TABLE u (id TEXT PRIMARY KEY)");
    let key = |vista: SqliteVista| vista.source_key();
    assert_eq!(key(database.open("t")), key(database.open("T")));
    assert_ne!(key(database.open("t")), key(database.open("u")));
    let by_code = database.builder().table("t").id("code").open().unwrap();
    assert_ne!(key(database.open("t")), key(by_code));
}

#[test]
fn a_dio_over_a_table_shows_and_writes_it() {
    let database =
        Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES (1, 5), (2, 3)");
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(database.open("t")).unwrap();
    let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
    assert_eq!(view.snapshot().row(0).unwrap().id(), "2");
    dio.vista().patch_value("1", &record! { "n" => 1 }).unwrap();
    assert_eq!(database.number("SELECT n FROM t WHERE id = 1"), 1);
    assert_eq!(view.snapshot().row(0).unwrap().id(), "1");
    let written = dio.vista().insert_value(None, &record! { "n" => 0 }).unwrap();
    assert_eq!(written.id.as_deref(), Some("3"));
    database.run("DELETE FROM t WHERE id = 2");
    dio.refresh().unwrap();
    assert_eq!(view.row_count(), 2);
}
