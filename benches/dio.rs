//! Dio: from a call to what a view shows, and from a source's rows to rows published and on the disk.
//!
//! Rows are flights of `benches/data/flights-200k.csv.gz`. `raw` puts the same stored rows by id with the LMDB binding, in
//! one transaction, synced.

// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use diorama::prelude::*;
use diorama::value::StoredRow;
use lmdb::{DatabaseFlags, Environment, EnvironmentFlags, Transaction, WriteFlags};

type Rows = Vec<(String, Record)>;

/// The flights as records: id, date, delay, distance, origin, destination.
fn flights() -> Rows {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/data/flights-200k.csv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let names: Vec<Arc<str>> = text.lines().next().unwrap().split(',').map(Arc::from).collect();
    text.lines()
        .skip(1)
        .map(|line| {
            let mut record = Record::with_capacity(names.len());
            for (position, cell) in line.split(',').enumerate() {
                match cell.parse::<i64>() {
                    Ok(number) if position > 1 => record.insert(names[position].clone(), number),
                    _ => record.insert(names[position].clone(), cell),
                };
            }
            (record.text("id").unwrap().to_owned(), record)
        })
        .collect()
}

fn raw_load(directory: &Path, rows: &[StoredRow]) {
    let environment = Environment::new()
        .set_flags(EnvironmentFlags::NO_SUB_DIR | EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_META_SYNC)
        .set_max_dbs(1)
        .set_map_size(1 << 40)
        .open(&directory.join("raw.mdb"))
        .unwrap();
    let database = environment.create_db(Some("rows"), DatabaseFlags::empty()).unwrap();
    let mut txn = environment.begin_rw_txn().unwrap();
    for row in rows {
        txn.put(database, &row.id(), &row.as_bytes(), WriteFlags::empty()).unwrap();
    }
    txn.commit().unwrap();
    environment.sync(true).unwrap();
}

fn load(criterion: &mut Criterion) {
    let rows = flights();
    let stored: Vec<StoredRow> = rows.iter().map(|(id, record)| StoredRow::encode(id, record, 0)).collect();
    let mut group = criterion.benchmark_group("load 200k flights");
    group.sample_size(10).throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("raw lmdb puts", |bencher| {
        bencher.iter_batched(
            || tempfile::tempdir().unwrap(),
            |directory| {
                raw_load(directory.path(), &stored);
                directory
            },
            BatchSize::PerIteration,
        );
    });
    for cache in ["lmdb", "memory"] {
        group.bench_function(BenchmarkId::new("dio with one view, published and flushed", cache), |bencher| {
            bencher.iter_batched(
                || {
                    let directory = tempfile::tempdir().unwrap();
                    let dio = make(cache, directory.path(), Vec::new());
                    let view = dio.table_scenery().sort("distance", SortDir::Asc).open().unwrap();
                    (directory, dio, view, rows.clone())
                },
                |(directory, dio, view, rows)| {
                    dio.reconcile(rows).unwrap();
                    dio.flush().unwrap();
                    assert_eq!(view.row_count(), 200_000);
                    (directory, dio, view)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn make(cache: &str, directory: &Path, rows: Rows) -> Dio {
    let lens = match cache {
        "lmdb" => Lens::new().cache_at(directory.join("cache")),
        _ => Lens::new().in_memory(),
    };
    lens.build().unwrap().make_dio(MemoryVista::new("flights", "id").with_rows(rows)).unwrap()
}

fn call_to_visible(criterion: &mut Criterion) {
    let mut rows = flights();
    rows.truncate(100_000);
    let mut group = criterion.benchmark_group("call to visible, 100k rows");
    for cache in ["lmdb", "memory"] {
        let directory = tempfile::tempdir().unwrap();
        let dio = make(cache, directory.path(), rows.clone());
        dio.flush().unwrap();
        let view = dio.table_scenery().sort("delay", SortDir::Asc).open().unwrap();
        let mut turn = 0_usize;
        group.bench_function(cache, |bencher| {
            bencher.iter(|| {
                turn += 1;
                let (id, record) = &rows[turn * 7_919 % rows.len()];
                let mut record = record.clone();
                record.insert("delay", (turn * 31 % 2_000) as i64);
                dio.patched(id.as_str(), record).unwrap();
                black_box(view.row_count())
            });
        });
    }
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let dio = make("lmdb", directory.path(), flights());
    dio.flush().unwrap();
    let view = dio.table_scenery().sort("distance", SortDir::Desc).open().unwrap();
    let snapshot = view.snapshot();
    let mut group = criterion.benchmark_group("reads, 200k rows");
    group.bench_function("50-row window, hot", |bencher| {
        bencher.iter(|| snapshot.rows(100_000..100_050).map(|row| row.int("delay").unwrap_or(0)).sum::<i64>());
    });
    let mut at = 0_usize;
    group.bench_function("50-row window, moving", |bencher| {
        bencher.iter(|| {
            at = (at + 7_919) % 199_000;
            snapshot.rows(at..at + 50).map(|row| row.int("delay").unwrap_or(0)).sum::<i64>()
        });
    });
    group.bench_function("snapshot taken and dropped", |bencher| bencher.iter(|| view.snapshot().row_count()));
    group.bench_function("generation", |bencher| bencher.iter(|| view.generation()));
    group.bench_function("position_of", |bencher| {
        bencher.iter(|| {
            at = (at + 7_919) % 199_000;
            snapshot.position_of(&format!("f{at:07}")).unwrap()
        });
    });
    group.bench_function("open sorted view", |bencher| {
        let mut turn = 0_i64;
        bencher.iter(|| {
            turn += 1;
            // Another condition each time: no index to share.
            let view =
                dio.table_scenery().condition(Condition::gt("delay", -1_000 - turn)).sort("distance", SortDir::Asc);
            view.open().unwrap().row_count()
        });
    });
    group.finish();
}

criterion_group!(benches, load, call_to_visible, reads);
criterion_main!(benches);
