//! What SQLite answers itself, against plain evaluation.

use diorama::sources::SqliteVista;
use diorama::value::{Record, Value};
use diorama::vista::{Condition, PageCursor, QueryDescriptor, SortBy, SortDir, TableShell, Total, Vista};
use diorama::{ErrorKind, record};
use proptest::prelude::*;
use rusqlite::types::Value as SqlValue;

use crate::support::{Database, cx, ids, list};

const COLUMNS: [&str; 7] = ["id", "int", "real", "txt", "any", "flag", "num"];

const TABLES: &str = "
    CREATE TABLE t (id INTEGER PRIMARY KEY, int INTEGER, real REAL, txt TEXT COLLATE NOCASE, any, flag BOOLEAN,
        num NUMERIC);
    CREATE INDEX t_int ON t (int); CREATE INDEX t_real ON t (real, int); CREATE INDEX t_txt ON t (txt);
    CREATE INDEX t_binary ON t (txt COLLATE BINARY); CREATE INDEX t_any ON t (any); CREATE INDEX t_flag ON t (flag);
    CREATE INDEX t_num ON t (num);
    CREATE VIEW v AS SELECT * FROM t UNION ALL SELECT id + 1000, any, any, int, real, txt, flag FROM t;
    CREATE TABLE w (id TEXT PRIMARY KEY COLLATE NOCASE, int INTEGER NOT NULL DEFAULT 0, real REAL, txt TEXT, any,
        flag BOOLEAN, num NUMERIC) WITHOUT ROWID;";

fn stored() -> impl Strategy<Value = SqlValue> {
    prop_oneof![
        2 => Just(SqlValue::Null),
        3 => prop::sample::select(vec![0, 1, 2, -1, 7, 1 << 53, (1 << 53) + 1, -(1 << 53) - 1, i64::MAX, i64::MIN])
            .prop_map(SqlValue::Integer),
        3 => prop::sample::select(vec![0.0, -0.0, 1.0, 0.5, -1.5, 7.0, 9007199254740992.0, 9.3e18, -9.3e18, f64::INFINITY])
            .prop_map(SqlValue::Real),
        4 => prop::sample::select(TEXTS.to_vec()).prop_map(|text| SqlValue::Text(text.to_owned())),
        1 => prop::sample::select(vec![vec![], vec![0], b"a".to_vec(), b"1".to_vec()]).prop_map(SqlValue::Blob),
    ]
}

const TEXTS: [&str; 16] =
    ["", "a", "A", "b", "aB", "1", "01", "1.0", "7", "ä", "Ä", "a%", "a_b", "\u{ffff}", "\u{10000}", "true"];

fn asked() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        4 => prop::sample::select(vec![0, 1, 2, -1, 7, 1 << 53, (1 << 53) + 1, i64::MAX, i64::MIN]).prop_map(Value::from),
        1 => Just(Value::from(u64::MAX)),
        4 => prop::sample::select(vec![0.0, -0.0, 1.0, 0.5, 7.0, 9007199254740992.0, 9223372036854775808.0, -1e300, f64::NAN, f64::NEG_INFINITY])
            .prop_map(Value::from),
        4 => prop::sample::select(TEXTS.to_vec()).prop_map(Value::from),
        1 => prop::sample::select(vec![vec![], vec![0], b"a".to_vec()]).prop_map(Value::Bytes),
        1 => Just(Value::Tag(4, Box::new(Value::Array(vec![Value::from(-1), Value::from(5)])))),
        1 => Just(Value::Array(vec![Value::from(1)])),
    ]
}

fn path() -> impl Strategy<Value = &'static str> {
    prop_oneof![9 => prop::sample::select(COLUMNS.to_vec()), 1 => Just("any.x")]
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        (path(), asked(), 0..6_usize).prop_map(|(path, value, kind)| match kind {
            0 => Condition::eq(path, value),
            1 => Condition::ne(path, value),
            2 => Condition::lt(path, value),
            3 => Condition::le(path, value),
            4 => Condition::gt(path, value),
            _ => Condition::ge(path, value),
        }),
        (path(), prop::collection::vec(asked(), 0..4), any::<bool>()).prop_map(|(path, values, is_in)| match is_in {
            true => Condition::is_in(path, values),
            false => Condition::not_in(path, values),
        }),
        (path(), prop::sample::select(vec!["%", "a%", "_", "%b", "a\\%", "", "\u{10000}"]))
            .prop_map(|(path, pattern)| Condition::like(path, pattern)),
        path().prop_map(Condition::is_null),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::Or),
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
        ]
    })
}

fn query() -> impl Strategy<Value = QueryDescriptor> {
    let sort = (path(), any::<bool>())
        .prop_map(|(path, down)| SortBy::new(path, if down { SortDir::Desc } else { SortDir::Asc }));
    (
        prop::collection::vec(condition(), 0..3),
        prop::option::weighted(0.3, prop::sample::select(vec!["a", "1", "TRUE", "Ä", "0.", "%", "inf", "e"])),
        prop::collection::vec(sort, 0..4),
        prop::option::of((0..20_usize, 0..8_usize)),
    )
        .prop_map(|(conditions, search, sort, window)| QueryDescriptor {
            conditions,
            search: search.map(str::to_owned),
            sort,
            window: window.map(|(offset, limit)| diorama::vista::Window::new(offset, limit)),
        })
}

fn fill(database: &Database, table: &str, rows: &[Vec<SqlValue>]) {
    let connection = database.connection();
    connection.execute_batch("PRAGMA synchronous = OFF; BEGIN").unwrap();
    for (position, row) in rows.iter().enumerate() {
        let id = if table == "w" {
            SqlValue::Text(format!("{}{position}", ["b", "A", "a1"][position % 3]))
        } else {
            SqlValue::Integer(position as i64 * 3 + 1)
        };
        let values = std::iter::once(&id).chain(row);
        // A row that the table refuses is left out.
        let insert = format!("INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?, ?, ?, ?)");
        connection.execute(&insert, rusqlite::params_from_iter(values)).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
}

fn check(vista: &SqliteVista, query: &QueryDescriptor) {
    let plain = query.apply(list(vista), &vista.schema());
    let handle = Vista::new(vista.clone());
    assert_eq!(handle.list_query(&cx(), query).unwrap(), plain, "{query:?}");
    let total = query.without_window().apply(list(vista), &vista.schema()).len() as u64;
    assert_eq!(handle.count_query(&cx(), query).unwrap(), total, "{query:?}");
    let split = vista.push_down(query);
    if split.residual.window.is_some() {
        assert!(split.accepted.window.is_none());
    }
    if !split.residual.without_window().is_empty() {
        assert!(split.accepted.window.is_none(), "{query:?}");
        assert_eq!(vista.list(&cx(), query).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_sqlite_answers_is_what_plain_evaluation_gives(
        rows in prop::collection::vec(prop::collection::vec(stored(), 6), 0..24),
        queries in prop::collection::vec(query(), 12),
    ) {
        let database = Database::new(TABLES);
        fill(&database, "t", &rows);
        fill(&database, "w", &rows);
        let t = database.open("t");
        let v = database.builder().table("v").id("id").open().unwrap();
        let w = database.open("w");
        for vista in [&t, &v, &w] {
            for query in &queries {
                check(vista, query);
            }
        }
    }

    #[test]
    fn pages_put_together_are_the_whole(
        rows in prop::collection::vec(prop::collection::vec(stored(), 6), 0..24),
        queries in prop::collection::vec(query(), 8),
        step in 1..6_usize,
    ) {
        let database = Database::new(TABLES);
        fill(&database, "t", &rows);
        fill(&database, "w", &rows);
        for table in ["t", "w"] {
            let vista = database.open(table);
            for query in &queries {
                let accepted = vista.push_down(&query.without_window()).accepted;
                let whole = vista.list(&cx(), &accepted).unwrap();
                let mut pages = Vec::new();
                for page in 0..=rows.len() / step {
                    let window = QueryDescriptor { window: None, ..accepted.clone() }.windowed(page * step, step);
                    pages.extend(vista.list(&cx(), &window).unwrap());
                }
                prop_assert_eq!(&pages, &whole, "{:?}", accepted);
                let all = accepted.without_window();
                let (mut followed, mut after) = (Vec::new(), None);
                loop {
                    let page = vista.page(&cx(), &all, after.as_ref(), step).unwrap();
                    prop_assert_eq!(page.rows.len() == step || page.next.is_none(), true);
                    followed.extend(page.rows);
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                prop_assert_eq!(&followed, &whole, "{:?}", all);
                // Further on than one page, and back.
                for offset in [step * 3 + 1, step + 1, 0] {
                    let window = accepted.clone().windowed(offset, step);
                    let expected = window.apply(list(&vista), &vista.schema());
                    prop_assert_eq!(vista.list(&cx(), &window).unwrap(), expected, "{:?}", window);
                }
            }
        }
    }
}

#[test]
fn pages_see_what_others_wrote() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);
         INSERT INTO t SELECT value, value * 10 FROM json_each('[1, 2, 3, 4, 5, 6, 7, 8, 9]')",
    );
    let vista = database.open("t");
    let page = |offset| {
        let query = QueryDescriptor::new().sorted("n", SortDir::Desc).windowed(offset, 2);
        vista.list(&cx(), &query).unwrap().into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(page(0), ["9", "8"]);
    assert_eq!(page(2), ["7", "6"]);
    database.run("INSERT INTO t VALUES (10, 100)");
    assert_eq!(page(4), ["6", "5"]);
    vista.delete(&cx(), "10").unwrap();
    assert_eq!(page(6), ["3", "2"]);
    vista.patch(&cx(), "1", &record! { "n" => 1000 }).unwrap();
    assert_eq!(page(8), ["2"]);
    assert_eq!(page(10), Vec::<String>::new());
}

#[test]
fn a_page_goes_on_behind_the_last_one_whoever_writes_and_whichever_handle_asks() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER);
         INSERT INTO t SELECT value, nullif(value % 3, 0) FROM json_each('[1, 2, 3, 4, 5, 6, 7, 8, 9]')",
    );
    let by_n = QueryDescriptor::new().sorted("n", SortDir::Desc);
    let page = |after: Option<&PageCursor>| {
        let page = database.open("t").page(&cx(), &by_n, after, 3).unwrap();
        (page.rows.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), page.next, page.total)
    };
    let (first, next, total) = page(None);
    assert_eq!((first, total), (["2", "5", "8"].map(str::to_owned).into(), Total::AtLeast(4)));
    // The row that the cursor stands at, one before it, one behind it, and new ones on both sides.
    database.run("DELETE FROM t WHERE id IN (8, 2, 7); INSERT INTO t VALUES (10, 2), (11, 1), (12, 100)");
    let (second, next, _) = page(next.as_ref());
    assert_eq!(second, ["10", "1", "4"]);
    database.run("DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (13, NULL)");
    let (third, next, _) = page(next.as_ref());
    assert_eq!(third, ["11", "3", "6"], "from those with a value to those without");
    let (last, next, _) = page(next.as_ref());
    assert_eq!((last, next), (["9", "13"].map(str::to_owned).into(), None));
}

#[test]
fn a_cursor_that_was_made_by_hand_is_refused() {
    let database = Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (1, 1), (2, 2)");
    let vista = database.open("t");
    let by_n = QueryDescriptor::new().sorted("n", SortDir::Asc);
    let places: [&[u8]; 6] = [b"", b"\0", b"\x82", b"\x81\x01", b"\x83\x01\x01\x01", b"\x82\x80\x80"];
    for place in places {
        let cursor = PageCursor::seal(&vista.source_key(), &by_n, place);
        let error = vista.page(&cx(), &by_n, Some(&cursor), 1).unwrap_err();
        assert_eq!((error.kind(), error.context("table")), (ErrorKind::Invalid, Some("t")), "{place:?}");
    }
}

#[test]
fn what_numbers_no_rows_has_no_pages() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, n); CREATE VIEW v AS SELECT id, n FROM t;
         CREATE TABLE w (id TEXT PRIMARY KEY NOT NULL, n) WITHOUT ROWID; INSERT INTO t VALUES (1, 1)",
    );
    assert!(database.open("t").capabilities().pages && database.open("w").capabilities().pages);
    let view = database.builder().table("v").id("id").open().unwrap();
    assert!(!view.capabilities().pages);
    let error = view.page(&cx(), &QueryDescriptor::new(), None, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn clauses_that_sql_does_not_answer_alike_are_left_over() {
    let database = Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b BOOLEAN, \"a.x\" TEXT)");
    let vista = database.open("t");
    let datetime = Value::Tag(0, Box::new(Value::from("2024-01-01T00:00:00Z")));
    for condition in [
        Condition::eq("a.y", 1),
        Condition::is_null("a.y"),
        Condition::gt("a", datetime),
        Condition::eq("a", u64::MAX),
        Condition::eq("a", f64::NAN),
        Condition::is_in("a", [Value::from(1), Value::Array(vec![])]),
        !Condition::eq("a", Value::Map(vec![])),
        Condition::is_in("a", 0..40_000),
        Condition::And((0..300).map(|n| Condition::ne("a", n)).collect()),
    ] {
        let query = QueryDescriptor::new().filtered(Condition::eq("id", 1)).filtered(condition.clone()).windowed(0, 5);
        let split = vista.push_down(&query);
        assert_eq!(split.accepted, QueryDescriptor::new().filtered(Condition::eq("id", 1)));
        // NaN equals nothing, so that the texts are compared.
        let left = QueryDescriptor::new().filtered(condition).windowed(0, 5);
        assert_eq!(format!("{:?}", split.residual), format!("{left:?}"));
        Vista::new(vista.clone()).list_query(&cx(), &query).unwrap();
    }
    let taken = QueryDescriptor::new()
        .filtered(Condition::eq("a.x", "1"))
        .filtered(Condition::is_in("a", 0..20_000))
        .filtered((0..120).fold(Condition::is_null("b"), |inner, _| Condition::Not(Box::new(inner))))
        .searching("x")
        .sorted("a", SortDir::Desc)
        .sorted("b", SortDir::Asc)
        .windowed(3, 9);
    assert!(vista.push_down(&taken).residual.is_empty());
    assert_eq!(vista.list(&cx(), &taken).unwrap(), Vec::<(String, Record)>::new());
    let by_path = QueryDescriptor::new().sorted("a.y", SortDir::Asc);
    assert_eq!(vista.push_down(&by_path).residual, by_path);
}

#[test]
fn a_narrowed_sorted_window_has_its_rows_in_order() {
    let database = Database::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT, n INTEGER); CREATE INDEX by_code ON t (code, n)",
    );
    let vista = database.open("t");
    for (code, n) in [("a", 3), ("b", 1), ("a", 1), ("a", 2)] {
        vista.insert(&cx(), None, &record! { "code" => code, "n" => n }).unwrap();
    }
    let query = QueryDescriptor::new().filtered(Condition::eq("code", "a")).sorted("n", SortDir::Asc).windowed(1, 2);
    let rows = vista.list(&cx(), &query).unwrap();
    assert_eq!(rows.iter().map(|(_, record)| record.int("n").unwrap()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(ids(&vista), ["1", "2", "3", "4"]);
}

#[test]
fn a_sort_that_disregards_case_is_left_to_plain_evaluation() {
    let database = Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)");
    let vista = database.open("t");
    for name in ["bell", "Ärger", "ärger", "Bell"] {
        vista.insert(&cx(), None, &record! { "name" => name }).unwrap();
    }
    let query = QueryDescriptor::new()
        .filtered(Condition::ne("name", "x"))
        .sorted_with(diorama::vista::SortBy::asc("name").case_insensitive())
        .windowed(0, 3);
    let split = vista.push_down(&query);
    assert_eq!(split.accepted, QueryDescriptor::new().filtered(Condition::ne("name", "x")));
    assert_eq!((split.residual.sort, split.residual.window), (query.sort.clone(), query.window));
    let rows = Vista::new(vista.clone()).list_query(&cx(), &query).unwrap();
    assert_eq!(rows.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["4", "1", "2"]);
}
