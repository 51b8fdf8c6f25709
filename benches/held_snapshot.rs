//! One snapshot held while 1,000,000 rows are written: memory, file, and whether the snapshot still answers (Linux figures).

// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used)]

use diorama::prelude::*;
use diorama::record;

const ROWS: usize = 100_000;
const WRITES: usize = 1_000_000;
const BUDGET: usize = 64 << 20;

fn resident_mib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) / 256
}

fn row(n: usize, version: usize) -> (String, Record) {
    let text = format!("row {n:06} in version {version:08}, with some text to make it as long as rows are");
    (format!("id{n:06}"), record! { "n" => n, "version" => version, "text" => text })
}

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let lens = Lens::new().cache_at(directory.path().join("cache")).snapshot_budget(BUDGET).build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("rows", "id").with_rows((0..ROWS).map(|n| row(n, 0)))).unwrap();
    let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
    dio.flush().unwrap();
    let file = directory.path().join("cache").join("rows.mdb");
    let file_mib = || std::fs::metadata(&file).map_or(0, |meta| meta.len() >> 20);
    let held = view.snapshot();
    println!("before: file {} MiB, resident {} MiB", file_mib(), resident_mib());
    let clock = diorama::clock::Clock::system();
    let began = clock.now();
    let mut most = (0, 0);
    for (version, written) in (0..WRITES).step_by(1_000).enumerate() {
        let batch: Vec<(String, Record)> =
            (0..1_000).map(|n| row((written.wrapping_mul(31) + n * 97) % ROWS, version + 1)).collect();
        dio.cache().insert_many(batch).unwrap();
        let status = dio.status();
        most = (most.0.max(status.snapshot_bytes), most.1.max(status.unstored_bytes));
    }
    let took = clock.now().since(began);
    dio.flush().unwrap();
    println!(
        "after {WRITES} writes in {:.1} s: file {} MiB, resident {} MiB; most kept for the snapshot {:.1} MiB of {} MiB, most \
         on its way to the disk {:.1} MiB",
        took.as_secs_f64(),
        file_mib(),
        resident_mib(),
        most.0 as f64 / (1 << 20) as f64,
        BUDGET >> 20,
        most.1 as f64 / (1 << 20) as f64,
    );
    let (mut same, mut expired, mut wrong) = (0, 0, 0);
    for (position, row) in held.iter().enumerate() {
        match row.status() {
            RowStatus::Expired => expired += 1,
            _ if row.int("n") == Some(position as i64) && row.int("version") == Some(0) => same += 1,
            _ => wrong += 1,
        }
    }
    println!("the held snapshot: {} rows, {same} as they were, {expired} expired, {wrong} wrong", held.row_count());
    assert_eq!(wrong, 0);
    drop(held);
    dio.cache().insert("id000000", row(0, 0).1).unwrap();
    dio.flush().unwrap();
    println!(
        "after it was dropped: {} bytes kept, {} rows in memory",
        dio.status().snapshot_bytes,
        dio.status().rows_in_memory
    );
}
