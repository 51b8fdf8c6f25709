//! Other connections: what they change, what they hold, and calls that are no longer wanted meanwhile.

use std::sync::mpsc;
use std::time::Duration;

use diorama::clock::Clock;
use diorama::vista::{CallCx, Condition, QueryDescriptor, SortDir, TableShell, WriteOp};
use diorama::{ErrorKind, record};

use crate::support::{Database, cx, ids, list};

fn table() -> Database {
    Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES (1, 10), (2, 20)")
}

#[test]
fn what_others_write_is_seen_by_the_next_call() {
    let database = table();
    let vista = database.open("t");
    assert_eq!(ids(&vista), ["1", "2"]);
    database.run("INSERT INTO t VALUES (3, 30); DELETE FROM t WHERE id = 1");
    assert_eq!(ids(&vista), ["2", "3"]);
    vista.patch(&cx(), "3", &record! { "n" => 31 }).unwrap();
    assert_eq!(database.number("SELECT n FROM t WHERE id = 3"), 31);
}

#[test]
fn a_table_that_someone_changed_is_an_error_that_names_it() {
    for (change, column) in [
        ("ALTER TABLE t ADD COLUMN more TEXT", "more"),
        ("ALTER TABLE t DROP COLUMN n", "n"),
        ("ALTER TABLE t RENAME COLUMN n TO m", "m"),
        ("DROP TABLE t; CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT)", "n"),
    ] {
        let database = table();
        let vista = database.open("t");
        list(&vista);
        database.run(change);
        let write = record! { "n" => 1 };
        for error in [
            vista.list(&cx(), &QueryDescriptor::new()).unwrap_err(),
            vista.get(&cx(), "1").unwrap_err(),
            vista.count(&cx(), &QueryDescriptor::new()).unwrap_err(),
            vista.insert(&cx(), None, &write).unwrap_err(),
            vista.batch(&cx(), &[WriteOp::patch("1", write.clone())]).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{change}: {error}");
            assert_eq!((error.context("table"), error.context("column")), (Some("t"), Some(column)), "{error}");
        }
        list(&database.open("t"));
    }
}

#[test]
fn a_dropped_table_is_not_found_and_found_again_when_it_is_back() {
    let database = table();
    let vista = database.open("t");
    database.run("ALTER TABLE t RENAME TO away");
    assert_eq!(vista.list(&cx(), &QueryDescriptor::new()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(vista.insert(&cx(), None, &record! {}).unwrap_err().kind(), ErrorKind::NotFound);
    database.run("ALTER TABLE away RENAME TO t");
    assert_eq!(ids(&vista), ["1", "2"]);
}

#[test]
fn a_change_of_the_schema_elsewhere_does_not_matter() {
    let database = table();
    let vista = database.open("t");
    database.run("CREATE TABLE other (x); CREATE INDEX t_n ON t (n); VACUUM");
    assert_eq!(ids(&vista), ["1", "2"]);
    vista.insert(&cx().with_idempotency_key("k"), None, &record! { "n" => 3 }).unwrap();
    assert_eq!(ids(&vista), ["1", "2", "3"]);
}

#[test]
fn a_file_put_in_the_place_of_the_old_one_is_read() {
    let database = table();
    let vista = database.open("t");
    list(&vista);
    let new = Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES (7, 70)");
    std::fs::rename(&new.path, &database.path).unwrap();
    assert_eq!(ids(&vista), ["7"]);
    std::fs::remove_file(&database.path).unwrap();
    let gone = vista.list(&cx(), &QueryDescriptor::new()).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Unavailable, "{gone}");
    assert!(!database.path.exists());
}

#[test]
fn a_lock_held_by_another_connection_is_unavailable_and_passes() {
    let database = table();
    for patience in [Duration::ZERO, Duration::from_millis(60)] {
        let vista = database.builder().table("t").busy_timeout(patience).open().unwrap();
        let other = database.connection();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        for error in [
            vista.list(&cx(), &QueryDescriptor::new()).unwrap_err(),
            vista.get(&cx(), "1").unwrap_err(),
            vista.insert(&cx(), None, &record! {}).unwrap_err(),
            vista.delete_all(&cx()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(error.context("table"), Some("t"));
        }
        let opened = database.builder().table("t").busy_timeout(patience).open();
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unavailable);
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(ids(&vista), ["1", "2"]);
        vista.patch(&cx(), "1", &record! { "n" => 11 }).unwrap();
    }
}

#[test]
fn readers_that_hold_up_a_commit_make_it_unavailable_and_undone() {
    let database = table();
    let vista = database.builder().table("t").busy_timeout(Duration::ZERO).open().unwrap();
    let reader = database.connection();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    let held = vista.patch(&cx(), "1", &record! { "n" => 99 }).unwrap_err();
    assert_eq!(held.kind(), ErrorKind::Unavailable, "{held}");
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(vista.get(&cx(), "1").unwrap().unwrap().int("n"), Some(10));
    vista.patch(&cx(), "1", &record! { "n" => 99 }).unwrap();
}

#[test]
fn a_call_waits_for_a_lock_that_is_given_back() {
    let database = table();
    let vista = database.open("t");
    let other = database.connection();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (3, 30)").unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| vista.insert(&cx(), None, &record! { "n" => 40 }).unwrap());
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(writer.join().unwrap().id.as_deref(), Some("4"));
    });
    assert_eq!(ids(&vista), ["1", "2", "3", "4"]);
}

#[test]
fn in_wal_mode_a_writer_holds_up_no_reader() {
    let database = table();
    database.run("PRAGMA journal_mode = WAL");
    let vista = database.builder().table("t").busy_timeout(Duration::ZERO).open().unwrap();
    let other = database.connection();
    other.execute_batch("BEGIN IMMEDIATE; DELETE FROM t").unwrap();
    assert_eq!(ids(&vista), ["1", "2"]);
    assert_eq!(vista.delete_all(&cx()).unwrap_err().kind(), ErrorKind::Unavailable);
    other.execute_batch("COMMIT").unwrap();
    assert!(ids(&vista).is_empty());
}

#[test]
fn the_journal_mode_stays_as_it_is() {
    for mode in ["delete", "wal"] {
        let database = table();
        database.run(&format!("PRAGMA journal_mode = {mode}"));
        let vista = database.open("t");
        vista.insert(&cx().with_idempotency_key("k"), None, &record! {}).unwrap();
        drop(vista);
        assert_eq!(database.text("PRAGMA journal_mode"), mode);
    }
}

#[test]
fn writers_of_several_connections_lose_nothing() {
    let database = Database::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES (1, 0)");
    let vistas = [database.open("t"), database.open("t")];
    std::thread::scope(|scope| {
        for vista in &vistas {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        vista.insert(&cx(), None, &record! { "n" => 1 }).unwrap();
                        list(vista);
                    }
                });
            }
        }
    });
    assert_eq!(database.number("SELECT count(*) FROM t"), 41);
}

/// A query that never ends by itself.
fn endless(database: &Database) -> diorama::sources::SqliteVista {
    database
        .builder()
        .query("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n")
        .id("i")
        .name("endless")
        .open()
        .unwrap()
}

#[test]
fn a_deadline_ends_a_query_that_would_not_end() {
    let database = table();
    let vista = endless(&database);
    let soon = || CallCx::new().deadline_in(Duration::from_millis(30));
    let none = QueryDescriptor::new().filtered(Condition::lt("i", 0));
    assert_eq!(vista.count(&soon(), &none).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(vista.list(&soon(), &none).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(
        vista.list(&soon(), &QueryDescriptor::new().sorted("i", SortDir::Asc)).unwrap_err().kind(),
        ErrorKind::Timeout
    );
    assert_eq!(vista.list(&cx(), &QueryDescriptor::new().filtered(Condition::eq("i", 3)).windowed(0, 0)).unwrap(), []);
}

#[test]
fn cancelling_ends_a_query_that_would_not_end() {
    let database = table();
    let vista = endless(&database);
    let call = cx();
    let (started, has_started) = mpsc::channel();
    std::thread::scope(|scope| {
        let (vista, call) = (&vista, call.clone());
        let cancel = call.cancel.clone();
        let running = scope.spawn(move || {
            started.send(()).unwrap();
            vista.count(&call, &QueryDescriptor::new())
        });
        has_started.recv().unwrap();
        cancel.cancel();
        assert_eq!(running.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
}

#[test]
fn a_call_that_waits_for_a_lock_can_be_cancelled() {
    let database = table();
    let vista = database.builder().table("t").busy_timeout(Duration::from_secs(600)).open().unwrap();
    let other = database.connection();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let soon = CallCx::new().deadline_in(Duration::from_millis(30));
    assert_eq!(vista.insert(&soon, None, &record! {}).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(
        vista.get(&CallCx::new().deadline_in(Duration::from_millis(30)), "1").unwrap_err().kind(),
        ErrorKind::Timeout
    );
    let call = cx();
    std::thread::scope(|scope| {
        let cancel = call.cancel.clone();
        let waiting = scope.spawn(|| vista.delete_all(&call));
        let reading = scope.spawn(|| vista.list(&call, &QueryDescriptor::new()));
        cancel.cancel();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(reading.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(ids(&vista), ["1", "2"]);
}

#[test]
fn a_call_that_is_not_wanted_does_nothing() {
    let database = table();
    let vista = database.open("t");
    let cancelled = cx();
    cancelled.cancel.cancel();
    let (clock, hand) = Clock::manual();
    let late = CallCx::on(clock).deadline_in(Duration::from_secs(1));
    hand.advance(Duration::from_secs(2));
    for (call, kind) in [(cancelled, ErrorKind::Cancelled), (late, ErrorKind::Timeout)] {
        let all = QueryDescriptor::new();
        assert_eq!(vista.list(&call, &all).unwrap_err().kind(), kind);
        assert_eq!(vista.get(&call, "1").unwrap_err().kind(), kind);
        assert_eq!(vista.count(&call, &all).unwrap_err().kind(), kind);
        assert_eq!(vista.insert(&call, None, &record! {}).unwrap_err().kind(), kind);
        assert_eq!(vista.delete_all(&call).unwrap_err().kind(), kind);
        assert_eq!(vista.batch(&call, &[WriteOp::delete("1")]).unwrap_err().kind(), kind);
    }
    assert_eq!(ids(&vista), ["1", "2"]);
}
