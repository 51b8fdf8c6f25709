//! Writes: what is stored, what is refused, what is repeated.

use std::process::{Command, Stdio};

use diorama::value::{Record, Value};
use diorama::vista::{CallCx, Condition, QueryDescriptor, TableShell, Vista, WriteOp, Written};
use diorama::{ErrorKind, record};

use crate::support::{Database, cx, ids, list};

fn products() -> Database {
    Database::new(
        "CREATE TABLE products (id TEXT PRIMARY KEY, name TEXT NOT NULL DEFAULT 'new', price REAL, left INTEGER);
         INSERT INTO products VALUES ('a', 'Anvil', 30.0, 2), ('b', 'Bell', 10.5, 7)",
    )
}

#[test]
fn every_write_does_what_the_contract_says() {
    let database = products();
    let vista = database.open("products");
    let row = |id: &str, name: &str, price: Value, left: Value| record! { "id" => id, "name" => name, "price" => price, "left" => left };
    let stored = row("c", "Candle", Value::Null, Value::from(1));
    let written = vista.insert(&cx(), Some("c"), &record! { "name" => "Candle", "left" => 1 }).unwrap();
    assert_eq!(written, Written::row("c", stored.clone()));
    assert_eq!(vista.get(&cx(), "c").unwrap(), Some(stored));

    let written = vista.replace(&cx(), "c", &record! { "id" => "c", "name" => "Cart", "price" => 1 }).unwrap();
    assert_eq!(written, Written::row("c", row("c", "Cart", Value::from(1.0), Value::Null)));
    let written = vista.upsert(&cx(), "c", &record! { "name" => "Cup" }).unwrap();
    assert_eq!(written, Written::row("c", row("c", "Cup", Value::Null, Value::Null)));
    let written = vista.upsert(&cx(), "d", &record! { "left" => 4 }).unwrap();
    assert_eq!(written, Written::row("d", row("d", "new", Value::Null, Value::from(4))));
    let written = vista.patch(&cx(), "a", &record! { "left" => Value::Null }).unwrap();
    assert_eq!(written, Written::row("a", row("a", "Anvil", Value::from(30.0), Value::Null)));
    assert_eq!(vista.patch(&cx(), "a", &record! {}).unwrap(), written);

    let no = |result: diorama::Result<Written>, kind| assert_eq!(result.unwrap_err().kind(), kind);
    no(vista.insert(&cx(), Some("a"), &record! {}), ErrorKind::Conflict);
    no(vista.insert(&cx(), None, &record! { "id" => "a" }), ErrorKind::Conflict);
    no(vista.replace(&cx(), "z", &record! { "name" => "Z" }), ErrorKind::NotFound);
    no(vista.patch(&cx(), "z", &record! { "name" => "Z" }), ErrorKind::NotFound);
    no(vista.insert(&cx(), None, &record! { "name" => "Z" }), ErrorKind::Invalid);
    for empty in ["insert", "replace", "upsert", "patch"] {
        let row = record! { "name" => "E" };
        let op = match empty {
            "insert" => vista.insert(&cx(), Some(""), &row),
            "replace" => vista.replace(&cx(), "", &row),
            "upsert" => vista.upsert(&cx(), "", &row),
            _ => vista.patch(&cx(), "", &row),
        };
        no(op, ErrorKind::Invalid);
    }
    vista.delete(&cx(), "z").unwrap();
    vista.delete(&cx(), "a").unwrap();
    assert_eq!(ids(&vista), ["b", "c", "d"]);
    vista.delete_all(&cx()).unwrap();
    vista.delete_all(&cx()).unwrap();
    assert_eq!(vista.count(&cx(), &QueryDescriptor::new()).unwrap(), 0);
}

#[test]
fn the_database_chooses_ids_where_it_does() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (41, 0);
         CREATE TABLE u (id TEXT PRIMARY KEY DEFAULT ('u' || abs(random() % 1000000)), n)",
    );
    let numbered = database.open("t");
    let written = numbered.insert(&cx(), None, &record! { "n" => 1 }).unwrap();
    assert_eq!(written, Written::row("42", record! { "id" => 42, "n" => 1 }));
    let written = numbered.insert(&cx(), None, &record! { "id" => 7, "n" => 2 }).unwrap();
    assert_eq!(written.id.as_deref(), Some("7"));
    let written = numbered.insert(&cx(), None, &record! {}).unwrap();
    assert_eq!(written.id.as_deref(), Some("43"));
    let made = database.open("u").insert(&cx(), None, &record! { "n" => 3 }).unwrap();
    assert!(made.id.as_deref().unwrap().starts_with('u'));
    assert_eq!(made.record.unwrap().int("n"), Some(3));
}

#[test]
fn a_write_answers_the_row_as_it_is_stored() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n REAL, twice REAL AS (n * 2) STORED, log TEXT);
         CREATE TRIGGER noted AFTER UPDATE OF n ON t BEGIN UPDATE t SET log = 'was ' || old.n WHERE id = new.id; END;
         CREATE TABLE u (id TEXT PRIMARY KEY);
         CREATE TRIGGER moved AFTER INSERT ON u BEGIN UPDATE u SET id = 'u-' || id; END;
         CREATE TRIGGER out BEFORE INSERT ON t WHEN new.n = 13 BEGIN SELECT RAISE(IGNORE); END;
         CREATE TRIGGER no BEFORE INSERT ON t WHEN new.n = 14 BEGIN SELECT RAISE(ABORT, 'unlucky'); END",
    );
    let vista = database.open("t");
    let written = vista.insert(&cx(), Some("1"), &record! { "n" => 3 }).unwrap();
    assert_eq!(written.record.unwrap(), record! { "id" => 1, "n" => 3.0, "twice" => 6.0, "log" => Value::Null });
    let written = vista.patch(&cx(), "1", &record! { "n" => 4.5 }).unwrap();
    assert_eq!(written.record.unwrap(), record! { "id" => 1, "n" => 4.5, "twice" => 9.0, "log" => "was 3.0" });
    let written = database.open("u").insert(&cx(), Some("5"), &record! {}).unwrap();
    assert_eq!(written, Written::row("u-5", record! { "id" => "u-5" }));
    for unlucky in [13, 14] {
        let error = vista.insert(&cx(), Some("9"), &record! { "n" => unlucky }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
    }
    let error = vista.patch(&cx(), "1", &record! { "twice" => 1.0 }).unwrap_err();
    assert_eq!((error.kind(), error.context("column")), (ErrorKind::Invalid, Some("twice")));
}

#[test]
fn a_value_that_the_column_would_change_is_refused() {
    let database = Database::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, int INTEGER, real REAL, num NUMERIC, text TEXT, bool BOOLEAN, any)",
    );
    let vista = database.open("t");
    vista.insert(&cx(), Some("a"), &record! {}).unwrap();
    let decimal = Value::Tag(4, Box::new(Value::Array(vec![Value::from(-1), Value::from(5)])));
    for (column, value) in [
        ("int", Value::from("12")),
        ("int", Value::from(" 1e3 ")),
        ("real", Value::from("-.5")),
        ("real", Value::from((1_i64 << 53) + 1)),
        ("num", Value::from("+7.")),
        ("text", Value::from(5)),
        ("text", Value::from(5.5)),
        ("bool", Value::from(1)),
        ("bool", Value::from(0.0)),
        ("int", Value::from(true)),
        ("any", Value::from(true)),
        ("any", Value::from(f64::NAN)),
        ("any", Value::from(1_u64 << 63)),
        ("any", Value::Array(vec![])),
        ("any", Value::Map(vec![])),
        ("any", decimal),
    ] {
        let error = vista.patch(&cx(), "a", &record! { column => value.clone() }).unwrap_err();
        assert_eq!((error.kind(), error.context("column")), (ErrorKind::Invalid, Some(column)), "{value:?}: {error}");
    }
    assert_eq!(database.number("SELECT count(*) FROM t WHERE coalesce(int, real, num, text, bool, any) IS NULL"), 1);
    let kept = record! {
        "int" => "twelve", "real" => vec![1_u8], "num" => "1 2", "text" => "5", "bool" => true, "any" => f64::INFINITY,
    };
    let mut expected = record! { "id" => "a" };
    expected.merge(&kept);
    assert_eq!(vista.replace(&cx(), "a", &kept).unwrap(), Written::row("a", expected));
}

#[test]
fn what_the_database_refuses_is_rejected() {
    let database = Database::new(
        "CREATE TABLE parent (id TEXT PRIMARY KEY);
         CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n > 0), code TEXT UNIQUE,
             parent TEXT REFERENCES parent, later TEXT REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE strict (id TEXT PRIMARY KEY, n INTEGER) STRICT;
         INSERT INTO t (id, n, code) VALUES ('a', 1, 'A')",
    );
    let vista = database.open("t");
    for (row, kind) in [
        (record! {}, ErrorKind::Rejected),
        (record! { "n" => 0 }, ErrorKind::Rejected),
        (record! { "n" => 1, "parent" => "nobody" }, ErrorKind::Rejected),
        (record! { "n" => 1, "later" => "nobody" }, ErrorKind::Rejected),
        (record! { "n" => 1, "code" => "A" }, ErrorKind::Conflict),
    ] {
        let error = vista.insert(&cx(), Some("x"), &row).unwrap_err();
        assert_eq!(error.kind(), kind, "{row:?}: {error}");
        assert_eq!(error.context("table"), Some("t"));
    }
    let error = database.open("strict").insert(&cx(), Some("x"), &record! { "n" => "text" }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert_eq!(ids(&vista), ["a"]);
}

#[test]
fn an_insert_never_replaces_a_row() {
    let database = Database::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY ON CONFLICT REPLACE, code TEXT UNIQUE ON CONFLICT REPLACE, n);
         INSERT INTO t VALUES ('a', 'A', 1)",
    );
    let vista = database.open("t");
    assert_eq!(vista.insert(&cx(), Some("a"), &record! {}).unwrap_err().kind(), ErrorKind::Conflict);
    let twice = vista.insert(&cx(), Some("b"), &record! { "code" => "A" });
    assert_eq!(twice.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(list(&vista), [("a".to_string(), record! { "id" => "a", "code" => "A", "n" => 1 })]);
}

#[test]
fn a_key_that_ignores_case_still_has_ids_that_do_not() {
    let database = Database::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY COLLATE NOCASE, n) WITHOUT ROWID; INSERT INTO t VALUES ('a', 1)",
    );
    let vista = database.open("t");
    assert_eq!(vista.get(&cx(), "A").unwrap(), None);
    assert_eq!(vista.insert(&cx(), Some("A"), &record! {}).unwrap_err().kind(), ErrorKind::Conflict);
    vista.delete(&cx(), "A").unwrap();
    assert_eq!(ids(&vista), ["a"]);
    vista.delete(&cx(), "a").unwrap();
    assert_eq!(vista.insert(&cx(), Some("A"), &record! {}).unwrap().id.as_deref(), Some("A"));
}

#[test]
fn a_batch_is_done_whole_or_not_at_all() {
    let database = products();
    let vista = database.open("products");
    let before = list(&vista);
    for (last, kind) in [
        (WriteOp::insert_as("b", record! {}), ErrorKind::Conflict),
        (WriteOp::patch("nobody", record! {}), ErrorKind::NotFound),
        (WriteOp::patch("b", record! { "name" => Value::Null }), ErrorKind::Rejected),
        (WriteOp::patch("b", record! { "nope" => 1 }), ErrorKind::Invalid),
    ] {
        let ops = [
            WriteOp::insert_as("c", record! { "name" => "C" }),
            WriteOp::delete("a"),
            WriteOp::patch("b", record! { "left" => 0 }),
            last,
        ];
        let error = vista.batch(&cx().with_idempotency_key("batch"), &ops).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(list(&vista), before);
    }
    let ops = [
        WriteOp::insert_as("c", record! { "name" => "C" }),
        WriteOp::patch("c", record! { "left" => 3 }),
        WriteOp::delete("a"),
        WriteOp::insert_as("a", record! { "name" => "Again" }),
    ];
    let answers = vista.batch(&cx().with_idempotency_key("batch"), &ops).unwrap();
    let told: Vec<_> = answers.iter().map(|written| written.id.as_deref().unwrap()).collect();
    assert_eq!(told, ["c", "c", "a", "a"]);
    assert_eq!(answers[1].record.as_ref().unwrap().int("left"), Some(3));
    assert_eq!(vista.batch(&cx().with_idempotency_key("batch"), &ops).unwrap(), answers);
    assert_eq!(list(&vista).len(), 3);
    assert_eq!(vista.batch(&cx(), &[]).unwrap(), []);
}

#[test]
fn a_write_repeated_with_its_key_gets_its_first_answer() {
    let database =
        Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n, b, f REAL); CREATE TABLE u (id TEXT PRIMARY KEY)");
    let vista = database.open("t");
    let key = |key: &str| CallCx::new().with_idempotency_key(key);
    let row = record! { "n" => i64::MIN, "b" => vec![0_u8, 255], "f" => 0.1 };
    let first = vista.insert(&key("k1"), None, &row).unwrap();
    vista.patch(&key("k2"), "1", &record! { "n" => 2 }).unwrap();
    assert_eq!(vista.insert(&key("k1").with_attempt(2), None, &row).unwrap(), first);
    assert_eq!(database.open("t").insert(&key("k1"), None, &row).unwrap(), first);
    let second = vista.insert(&key("k3"), None, &record! {}).unwrap();
    assert_eq!(second.id.as_deref(), Some("2"));
    vista.delete(&key("k4"), "2").unwrap();
    vista.insert(&cx(), Some("2"), &record! {}).unwrap();
    vista.delete(&key("k4"), "2").unwrap();
    vista.delete_all(&key("k5")).unwrap();
    vista.insert(&cx(), Some("9"), &record! {}).unwrap();
    vista.delete_all(&key("k5")).unwrap();
    assert_eq!(ids(&vista), ["9"]);
    // Another table's keys are its own.
    database.open("u").insert(&key("k1"), Some("x"), &record! {}).unwrap();
    assert_eq!(ids(&database.open("u")), ["x"]);
    // A refused write leaves no answer behind.
    assert!(vista.insert(&key("k6"), Some("9"), &record! {}).is_err());
    vista.delete(&cx(), "9").unwrap();
    vista.insert(&key("k6"), Some("9"), &record! {}).unwrap();
    let other = vista.batch(&key("k6"), &[]).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Invalid);
}

#[test]
fn without_idempotent_writes_the_database_gets_no_table() {
    let database = products();
    let vista = database.builder().table("products").idempotent_writes(false).open().unwrap();
    assert!(!vista.capabilities().idempotent_writes);
    let key = CallCx::new().with_idempotency_key("k");
    vista.insert(&key, Some("x"), &record! {}).unwrap();
    assert_eq!(vista.insert(&key, Some("x"), &record! {}).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(database.number("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%diorama%'"), 0);
}

const CHILD: &str = "DIORAMA_TEST_SQLITE_CHILD";

/// Not a test by itself: what the child process of the next one does. It dies with its write's answer untold.
#[test]
fn child_of_a_write_repeated_after_a_crash() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let vista = diorama::sources::SqliteVista::open(path, "t").unwrap();
    let ops: Vec<WriteOp> = (0..100).map(|n| WriteOp::insert(record! { "n" => n })).collect();
    vista.batch(&CallCx::new().with_idempotency_key("crash"), &ops).unwrap();
    std::process::abort();
}

#[test]
fn a_write_repeated_after_a_crash_is_done_once() {
    let database = Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n)");
    let died = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writing::child_of_a_write_repeated_after_a_crash"])
        .env(CHILD, &database.path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!died.success());
    assert_eq!(database.number("SELECT count(*) FROM t"), 100);
    let ops: Vec<WriteOp> = (0..100).map(|n| WriteOp::insert(record! { "n" => n })).collect();
    let key = CallCx::new().with_idempotency_key("crash").with_attempt(2);
    let answers = database.open("t").batch(&key, &ops).unwrap();
    assert_eq!(answers.len(), 100);
    assert_eq!(answers[99], Written::row("100", record! { "id" => 100, "n" => 99 }));
    assert_eq!(database.number("SELECT count(*) FROM t"), 100);
}

#[test]
fn a_narrowed_handle_writes_through() {
    let database = products();
    let mut cheap = Vista::new(database.open("products"));
    cheap.add_condition(Condition::lt("price", 20)).unwrap();
    cheap.patch_value("b", &record! { "price" => 25.0 }).unwrap();
    assert_eq!(cheap.list_values().unwrap(), Vec::<(String, Record)>::new());
    assert_eq!(cheap.delete_all().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(cheap.get_count().unwrap(), 0);
}
