//! Cache: what the table layer costs on top of LMDB itself, and what memory costs.
//!
//! 200,000 rows of 200 bytes. `raw` is the binding used directly: the same row keys and bytes, one put after the other,
//! in one transaction with the same flags, and no ids.

// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/processor.rs"]
mod processor;

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use diorama::RowNo;
use diorama::cache::{CacheBackend, CacheBatch, CacheTable, LmdbBackend, MemoryBackend};
use lmdb::{Cursor, DatabaseFlags, Environment, EnvironmentFlags, Transaction, WriteFlags};

const ROWS: u64 = 200_000;

/// Rows in order of arrival, with ids in another.
fn load(rows: std::ops::Range<u64>) -> CacheBatch {
    let mut batch = CacheBatch::default();
    for row in rows {
        batch.put(RowNo(row), format!("{:08X}", scatter(row)), vec![row as u8; 200]);
    }
    batch
}

/// Another number for each number below 2^32.
fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B1) & 0xFFFF_FFFF
}

fn key(row: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[3] = 1;
    key[4..].copy_from_slice(&row.to_be_bytes());
    key
}

fn raw(directory: &Path) -> (Environment, lmdb::Database) {
    let environment = Environment::new()
        .set_flags(EnvironmentFlags::NO_SUB_DIR | EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_META_SYNC)
        .set_max_dbs(4)
        .set_map_size(1 << 40)
        .open(&directory.join("raw.mdb"))
        .unwrap();
    let database = environment.create_db(Some("rows"), DatabaseFlags::empty()).unwrap();
    (environment, database)
}

fn raw_load(environment: &Environment, database: lmdb::Database, batch: &CacheBatch) {
    let mut txn = environment.begin_rw_txn().unwrap();
    for op in &batch.ops {
        if let diorama::cache::CacheOp::Put { row, bytes, .. } = op {
            txn.put(database, &key(row.0), bytes, WriteFlags::empty()).unwrap();
        }
    }
    txn.commit().unwrap();
}

fn loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load 200k rows");
    group.throughput(Throughput::Elements(ROWS)).sample_size(10);
    let batch = load(0..ROWS);
    let in_order = {
        let mut batch = CacheBatch::default();
        for row in 0..ROWS {
            batch.put(RowNo(row), format!("{row:08}"), vec![row as u8; 200]);
        }
        batch
    };
    let slices: Vec<CacheBatch> = (0..ROWS).step_by(4096).map(|at| load(at..(at + 4096).min(ROWS))).collect();
    group.bench_function("raw lmdb, rows only", |bencher| {
        bencher.iter_batched(
            || {
                let directory = tempfile::tempdir().unwrap();
                (raw(directory.path()), directory)
            },
            |((environment, database), directory)| {
                raw_load(&environment, database, &batch);
                (environment, directory)
            },
            BatchSize::PerIteration,
        );
    });
    let mut lmdb = |name: &str, batches: &[&CacheBatch]| {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    let directory = tempfile::tempdir().unwrap();
                    let table = LmdbBackend::open(directory.path()).unwrap().open_table("rows").unwrap();
                    (table, directory)
                },
                |(table, directory)| {
                    for batch in batches {
                        table.apply(batch).unwrap();
                    }
                    (table, directory)
                },
                BatchSize::PerIteration,
            );
        });
    };
    lmdb("lmdb table, rows and scattered ids", &[&batch]);
    lmdb("lmdb table, rows and ids in order", &[&in_order]);
    lmdb("lmdb table, in slices of 4096", &slices.iter().collect::<Vec<_>>());
    let mut memory = |name: &str, batches: &[&CacheBatch]| {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || MemoryBackend::new().open_table("rows").unwrap(),
                |table| {
                    for batch in batches {
                        table.apply(batch).unwrap();
                    }
                    table
                },
                BatchSize::PerIteration,
            );
        });
    };
    memory("memory table, rows and scattered ids", &[&batch]);
    memory("memory table, in slices of 4096", &slices.iter().collect::<Vec<_>>());
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let batch = load(0..ROWS);
    let (environment, database) = raw(directory.path());
    raw_load(&environment, database, &batch);
    let lmdb = LmdbBackend::open(directory.path().join("cache")).unwrap().open_table("rows").unwrap();
    let memory = MemoryBackend::new().open_table("rows").unwrap();
    let tables: [(&str, Arc<dyn CacheTable>); 2] = [("lmdb table", lmdb), ("memory table", memory)];
    for (_, table) in &tables {
        table.apply(&batch).unwrap();
    }

    let mut group = criterion.benchmark_group("random get");
    at_random(&mut group, "raw lmdb, a transaction each", |row| {
        let txn = environment.begin_ro_txn().unwrap();
        black_box(Arc::<[u8]>::from(txn.get(database, &key(row)).unwrap()));
    });
    for (name, table) in &tables {
        at_random(&mut group, name, |row| {
            black_box(table.get(RowNo(row)).unwrap());
        });
        at_random(&mut group, &format!("{name}, lookup of the id"), |row| {
            black_box(table.lookup(&format!("{:08X}", scatter(row))).unwrap());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("scan 200k rows");
    group.throughput(Throughput::Elements(ROWS)).sample_size(20);
    group.bench_function("raw lmdb", |bencher| {
        bencher.iter(|| {
            let txn = environment.begin_ro_txn().unwrap();
            let mut bytes = 0;
            for entry in txn.open_ro_cursor(database).unwrap().iter_start() {
                bytes += usize::from(entry.unwrap().1[0]);
            }
            bytes
        });
    });
    for (name, table) in &tables {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let mut bytes = 0;
                let scanned = table.scan(RowNo(0), &mut |_, row| {
                    bytes += usize::from(row[0]);
                    ControlFlow::Continue(())
                });
                scanned.unwrap();
                bytes
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("apply one changed row");
    at_random(&mut group, "raw lmdb", |row| {
        let mut txn = environment.begin_rw_txn().unwrap();
        txn.put(database, &key(row), &vec![row as u8; 200], WriteFlags::empty()).unwrap();
        txn.commit().unwrap();
    });
    for (name, table) in &tables {
        at_random(&mut group, name, |row| table.apply(&load(row..row + 1)).unwrap());
    }
    group.finish();
}

fn at_random(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut work: impl FnMut(u64)) {
    let mut number = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            number += 1;
            work(scatter(number) % ROWS);
        });
    });
}

/// What rows that change cost a row, many a batch, in whatever order they changed.
fn changes(_: &mut Criterion) {
    const AT_ONCE: u64 = 1_000;
    const BATCHES: u64 = 500;
    let directory = tempfile::tempdir().unwrap();
    let lmdb = LmdbBackend::open(directory.path()).unwrap().open_table("rows").unwrap();
    let memory = MemoryBackend::new().open_table("rows").unwrap();
    let tables: [(&str, Arc<dyn CacheTable>); 2] = [("lmdb", lmdb), ("memory", memory)];
    for (name, table) in tables {
        table.apply(&load(0..ROWS)).unwrap();
        for (order, step) in [("scattered", 7_919), ("in order", 1)] {
            let mut next = 0;
            let mut time = Duration::ZERO;
            for _ in 0..BATCHES {
                let mut batch = CacheBatch::default();
                for _ in 0..AT_ONCE {
                    next = (next + step) % ROWS;
                    batch.put(RowNo(next), format!("{:08X}", scatter(next)), vec![next as u8; 200]);
                }
                let before = processor::time_of_thread();
                table.apply(&batch).unwrap();
                time += processor::time_of_thread() - before;
            }
            let of_row = time / (AT_ONCE * BATCHES) as u32;
            println!("{name}: {AT_ONCE} changed rows a batch, {order}: {of_row:?} of processor time a row");
        }
    }
}

criterion_group!(benches, changes, loads, reads);
criterion_main!(benches);
