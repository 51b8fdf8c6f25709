//! SQLite: a narrowed, sorted window over a million flights, against the same question as SQL written by hand.
//!
//! The rows are the flights of `benches/data/flights-200k.csv.gz`, five times under ids of their own. Both sides use the
//! same index, and give fifty rows of owned values. `by hand` means the same as the query does (null last, ties by
//! arrival) over a connection and a statement kept ready; `by hand, ties as they come` leaves the order of ties open.

// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use diorama::record;
use diorama::sources::SqliteVista;
use diorama::vista::{CallCx, Condition, QueryDescriptor, SortDir, TableShell};
use rusqlite::{Connection, params};

const COPIES: usize = 5;

#[derive(Debug)]
#[expect(dead_code, reason = "the rows are made, as a program would, and dropped")]
struct Flight {
    id: String,
    date: String,
    delay: Option<i64>,
    distance: Option<i64>,
    origin: String,
    destination: String,
}

fn fill(path: &Path) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/data/flights-200k.csv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_string(&mut text).unwrap();
    let mut connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE flights (id TEXT PRIMARY KEY, date TEXT, delay INTEGER, \
             distance INTEGER, origin TEXT, destination TEXT)",
        )
        .unwrap();
    let transaction = connection.transaction().unwrap();
    let mut insert = transaction.prepare("INSERT INTO flights VALUES (?, ?, ?, ?, ?, ?)").unwrap();
    for copy in 0..COPIES {
        for line in text.lines().skip(1) {
            let cells: Vec<&str> = line.split(',').collect();
            let number = |cell: &str| cell.parse::<i64>().ok();
            let id = format!("{}-{copy}", cells[0]);
            insert.execute(params![id, cells[1], number(cells[2]), number(cells[3]), cells[4], cells[5]]).unwrap();
        }
    }
    drop(insert);
    transaction.commit().unwrap();
    connection.execute_batch("CREATE INDEX by_origin ON flights (origin, delay); ANALYZE").unwrap();
}

fn by_hand(connection: &Connection, order: &str, limit: usize, offset: usize) -> Vec<Flight> {
    let sql = format!(
        "SELECT id, date, delay, distance, origin, destination FROM flights WHERE origin = ?1 AND delay >= ?2 \
         ORDER BY {order} LIMIT ?3 OFFSET ?4"
    );
    let mut statement = connection.prepare_cached(&sql).unwrap();
    let rows = statement.query_map(params!["ORD", 0, limit as i64, offset as i64], |row| {
        Ok(Flight {
            id: row.get(0)?,
            date: row.get(1)?,
            delay: row.get(2)?,
            distance: row.get(3)?,
            origin: row.get(4)?,
            destination: row.get(5)?,
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn sqlite(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flights.db");
    fill(&path);
    let vista = SqliteVista::open(&path, "flights").unwrap();
    let connection = Connection::open(&path).unwrap();
    let cx = CallCx::new();
    assert_eq!(vista.count(&cx, &QueryDescriptor::default()).unwrap(), 1_000_000);

    for (direction, exact, loose) in
        [(SortDir::Asc, "delay NULLS LAST, rowid", "delay"), (SortDir::Desc, "delay DESC, rowid", "delay DESC")]
    {
        let query = QueryDescriptor::new()
            .filtered(Condition::eq("origin", "ORD"))
            .filtered(Condition::ge("delay", 0))
            .sorted("delay", direction);
        let window = query.clone().windowed(0, 50);
        assert!(vista.push_down(&window).residual.is_empty());
        let ids = |rows: Vec<Flight>| rows.into_iter().map(|flight| flight.id).collect::<Vec<_>>();
        for offset in [0, 10_000] {
            let window = query.clone().windowed(offset, 50);
            let rows = vista.list(&cx, &window).unwrap();
            let found: Vec<String> = rows.into_iter().map(|(id, _)| id).collect();
            assert_eq!(found, ids(by_hand(&connection, exact, 50, offset)));
        }

        let mut group = criterion.benchmark_group(format!("sqlite/1M flights/window of 50, {direction:?}"));
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2)).sample_size(20);
        group.bench_function("first, vista", |bencher| bencher.iter(|| vista.list(&cx, &window).unwrap()));
        group.bench_function("first, by hand", |bencher| bencher.iter(|| by_hand(&connection, exact, 50, 0)));
        group.bench_function("first, by hand, ties as they come", |bencher| {
            bencher.iter(|| by_hand(&connection, loose, 50, 0));
        });
        // Each page after the one before, as a list that is scrolled asks for them.
        let mut offset = 0;
        group.bench_function("scrolled to 10,000 and on, vista", |bencher| {
            bencher.iter(|| {
                offset = if offset == 0 || offset >= 12_000 { 10_000 } else { offset + 50 };
                vista.list(&cx, &query.clone().windowed(offset, 50)).unwrap()
            });
        });
        let first = vista.page(&cx, &query, None, 10_000).unwrap();
        let window = query.clone().windowed(10_000, 50);
        let behind = vista.page(&cx, &query, first.next.as_ref(), 50).unwrap();
        assert_eq!(behind.rows, vista.list(&cx, &window).unwrap());
        group.bench_function("behind the 10,000th, page of the vista", |bencher| {
            bencher.iter(|| vista.page(&cx, &query, first.next.as_ref(), 50).unwrap());
        });
        let mut offset = 0;
        group.bench_function("scrolled to 10,000 and on, by hand", |bencher| {
            bencher.iter(|| {
                offset = if offset == 0 || offset >= 12_000 { 10_000 } else { offset + 50 };
                by_hand(&connection, exact, 50, offset)
            });
        });
        group.finish();
    }

    let mut group = criterion.benchmark_group("sqlite/1M flights");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.bench_function("get", |bencher| bencher.iter(|| black_box(vista.get(&cx, "f0100000-3").unwrap().unwrap())));
    let mut delay = 0_i64;
    group.bench_function("patch of one cell, committed", |bencher| {
        bencher.iter(|| {
            delay += 1;
            vista.patch(&cx, "f0100000-3", &record! { "delay" => delay }).unwrap()
        });
    });
    group.bench_function("list of all rows, vista", |bencher| {
        bencher.iter_with_large_drop(|| vista.list(&cx, &QueryDescriptor::default()).unwrap());
    });
    group.finish();
}

criterion_group!(benches, sqlite);
criterion_main!(benches);
