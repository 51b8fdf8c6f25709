//! Names and values are names and values, whatever is in them.

use diorama::sources::SqliteVista;
use diorama::vista::{CallCx, Condition, QueryDescriptor, SortDir, TableShell, WriteOp};
use diorama::{ErrorKind, record};
use rusqlite::params;

use crate::support::{Database, cx, ids, list};

const HOSTILE: [&str; 12] = [
    "'; DROP TABLE victim; --",
    "\"; DROP TABLE victim; --",
    "x\" OR 1=1 --",
    "' OR '1'='1",
    "`; DELETE FROM victim; --",
    "]; DELETE FROM victim; --",
    "a\0b'\"",
    "?1",
    ":name",
    "\\'; DROP TABLE victim",
    "%_\\",
    "sélect\u{202e} \n\t/* */ --",
];

/// SQLite's own API ends a name at a zero character, so that none can be in a name.
fn hostile_names() -> impl Iterator<Item = &'static str> {
    HOSTILE.into_iter().filter(|name| !name.contains('\0'))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn victim() -> Database {
    Database::new("CREATE TABLE victim (id TEXT PRIMARY KEY, name TEXT); INSERT INTO victim VALUES ('a', 'Anvil')")
}

#[test]
fn names_with_any_characters_are_names() {
    for name in hostile_names() {
        let database = victim();
        let (table, id, column) = (name, format!("id {name}"), format!("column {name}"));
        database.run(&format!(
            "CREATE TABLE {} ({} TEXT PRIMARY KEY, {} INTEGER, \"zone.sub\" TEXT)",
            quoted(table),
            quoted(&id),
            quoted(&column)
        ));
        let vista = database.open(table);
        assert_eq!(vista.schema().id_column(), Some(&*id));
        vista.insert(&cx(), Some("1"), &record! { &*column => 7 }).unwrap();
        vista.insert(&cx(), Some("2"), &record! { &*column => 5, "zone.sub" => name }).unwrap();
        vista.patch(&cx(), "1", &record! { &*column => 6 }).unwrap();
        let query = QueryDescriptor::new()
            .filtered(Condition::gt(&*column, 1))
            .filtered(Condition::ne(&*id, "x"))
            .sorted(&*column, SortDir::Asc)
            .sorted(&*id, SortDir::Desc)
            .windowed(0, 9);
        assert!(vista.push_down(&query).residual.is_empty(), "{name}");
        let rows = vista.list(&cx(), &query).unwrap();
        assert_eq!(rows.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["2", "1"], "{name}");
        assert_eq!(rows[0].1.text("zone.sub"), Some(name));
        assert_eq!(vista.count(&cx(), &query.without_window()).unwrap(), 2);
        vista.delete(&cx(), "1").unwrap();
        assert_eq!(ids(&vista), ["2"]);
        vista.delete_all(&cx()).unwrap();
        assert_eq!(database.number("SELECT count(*) FROM victim"), 1, "{name}");
    }
}

#[test]
fn values_are_bound_and_never_become_sql() {
    for text in HOSTILE {
        let database = victim();
        let vista = database.open("victim");
        let key = CallCx::new().with_idempotency_key(text);
        vista.insert(&key, Some(text), &record! { "name" => text }).unwrap();
        assert_eq!(vista.get(&cx(), text).unwrap().unwrap(), record! { "id" => text, "name" => text });
        for condition in [
            Condition::eq("name", text),
            Condition::is_in("name", [text]),
            Condition::le("name", text).and(Condition::ge("name", text)),
            Condition::like("name", text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")),
            !Condition::ne("id", text),
        ] {
            let query = QueryDescriptor::new().filtered(condition);
            let found = vista.list(&cx(), &query).unwrap();
            assert_eq!(found.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), [text], "{query:?}");
        }
        let search = QueryDescriptor::new().searching(text);
        assert_eq!(vista.list(&cx(), &search).unwrap().len(), 1, "{text}");
        vista.batch(&cx(), &[WriteOp::upsert(text, record! { "name" => text }), WriteOp::delete(text)]).unwrap();
        assert_eq!(list(&vista), [("a".to_string(), record! { "id" => "a", "name" => "Anvil" })]);
    }
}

#[test]
fn a_hostile_name_of_a_table_column_or_id_that_is_not_there_is_not_found() {
    for name in HOSTILE {
        let database = victim();
        let absent = SqliteVista::open(&database.path, name).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
        let absent = database.builder().table("victim").id(name).open().unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
        let vista = database.open("victim");
        let query = QueryDescriptor::new().filtered(Condition::eq(name, 1));
        assert_eq!(vista.list(&cx(), &query).unwrap_err().kind(), ErrorKind::NotFound);
        let query = QueryDescriptor::new().sorted(name, SortDir::Asc);
        assert_eq!(vista.list(&cx(), &query).unwrap_err().kind(), ErrorKind::NotFound);
        let refused = vista.patch(&cx(), "a", &record! { name => 1 }).unwrap_err();
        assert_eq!((refused.kind(), refused.context("column")), (ErrorKind::Invalid, Some(name)));
        assert_eq!(vista.get(&cx(), name).unwrap(), None);
        vista.delete(&cx(), name).unwrap();
        assert_eq!(ids(&vista), ["a"]);
    }
}

#[test]
fn a_name_in_quotes_that_no_column_has_is_no_text() {
    let database = victim();
    let broken = database.builder().query("SELECT id, \"nope\" AS n FROM victim").id("id").name("q").open();
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_query_is_one_select_and_nothing_else() {
    for query in [
        "",
        "DELETE FROM victim",
        "DELETE FROM victim RETURNING id",
        "INSERT INTO victim VALUES ('x', 'x') RETURNING id",
        "SELECT id FROM victim) AS r; DELETE FROM victim; --",
        "SELECT id FROM victim; DELETE FROM victim",
        "SELECT id FROM victim WHERE name = ?",
        "SELECT id FROM victim WHERE name = :name",
        "PRAGMA journal_mode",
        "SELECT id FROM victim /*",
        "VACUUM",
        "ATTACH ':memory:' AS other",
    ] {
        let database = victim();
        let refused = database.builder().query(query).id("id").name("q").open().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{query:?}: {refused}");
        assert_eq!(refused.context("setting"), Some("query"), "{query:?}: {refused}");
        assert_eq!(database.number("SELECT count(*) FROM victim"), 1);
    }
    let database = victim();
    let vista = database.builder().query("SELECT * FROM victim -- all of them\n ; \n").id("id").name("q").open();
    assert_eq!(ids(&vista.unwrap()), ["a"]);
}

#[test]
fn a_stored_text_with_a_zero_character_is_found_whole() {
    let database = victim();
    database.connection().execute("INSERT INTO victim VALUES (?1, ?2)", params!["zero", "a\0B"]).unwrap();
    let vista = database.open("victim");
    for condition in [Condition::like("name", "a_B"), Condition::eq("name", "a\0B"), Condition::gt("name", "a\0A")] {
        let query = QueryDescriptor::new().filtered(condition).searching("b");
        assert_eq!(vista.list(&cx(), &query).unwrap().len(), 1);
    }
}
