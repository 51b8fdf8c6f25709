//! Restart: what it takes, part by part, from nothing to the first screen of a sorted view of rows that are on the disk.
//!
//! Run with `cargo bench --bench restart [rows …]`. The floor opens the same LMDB cache and reads fifty rows of it by their
//! numbers: one screen, if its order were known. Files stay in the system's page cache. Figures are medians of several
//! restarts, in milliseconds since the restart began; "all" is when the view shows its whole order.

// A benchmark that can't do its work may as well stop, and it is about real time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use diorama::RowNo;
use diorama::cache::{CacheBackend, LmdbBackend};
use diorama::prelude::*;

const RUNS: usize = 15;
const SCREEN: usize = 50;
const SOON: Option<Duration> = Some(Duration::from_secs(60));

fn record(number: i64) -> Record {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64) >> 20;
    record! {
        "id" => format!("{number}"), "name" => format!("Row {mixed}"), "band" => number % 100, "amount" => mixed,
        "note" => "what was noted of this row, some time ago",
    }
}

fn medians<const N: usize>(mut run: impl FnMut() -> [Duration; N]) -> [f64; N] {
    let runs: Vec<[Duration; N]> = (0..RUNS).map(|_| run()).collect();
    std::array::from_fn(|part| {
        let mut times: Vec<Duration> = runs.iter().map(|run| run[part]).collect();
        times.sort_unstable();
        times[RUNS / 2].as_secs_f64() * 1_000.0
    })
}

fn floor(directory: &Path, table: &str, rows: usize) -> [Duration; 2] {
    let began = Instant::now();
    let backend = LmdbBackend::open(directory).unwrap();
    let opened = began.elapsed();
    let wanted: Vec<RowNo> = (0..SCREEN).map(|place| RowNo((place * rows / SCREEN) as u64)).collect();
    let mut bytes = 0;
    let table = backend.open_table(table).unwrap();
    table.get_many(&wanted, &mut |_, row| bytes += row.map_or(0, <[u8]>::len)).unwrap();
    assert!(black_box(bytes) > SCREEN);
    [opened, began.elapsed()]
}

fn restart(directory: &Path, source: &MemoryVista, rows: usize) -> [Duration; 5] {
    let began = Instant::now();
    let lens = Lens::new().cache_at(directory).build().unwrap();
    let has_lens = began.elapsed();
    let dio = lens.make_dio(source.clone()).unwrap();
    let has_dio = began.elapsed();
    let view = dio.table_scenery().sort("amount", SortDir::Desc).open_now().unwrap();
    let first = view.wait_for_first_rows(SOON).unwrap();
    let has_order = began.elapsed();
    let screen: Vec<i64> = match first {
        Some(first) => (0..SCREEN).filter_map(|place| first.row(place)?.int("amount")).collect(),
        None => view.snapshot().rows(0..SCREEN).filter_map(|row| row.int("amount")).collect(),
    };
    let has_screen = began.elapsed();
    assert!(screen.len() == SCREEN && screen.is_sorted_by(|a, b| a >= b));
    view.wait_until_ready(SOON).unwrap();
    let has_all = began.elapsed();
    assert_eq!(view.row_count(), rows);
    drop((view, dio));
    lens.close(Duration::from_secs(60)).unwrap();
    [has_lens, has_dio, has_order, has_screen, has_all]
}

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let counts = if given.is_empty() { vec![1_000, 10_000, 100_000, 1_000_000] } else { given };
    println!("     rows | floor: open, screen | Lens, Dio, first of the order, screen, all");
    for rows in counts {
        let directory = tempfile::tempdir().unwrap();
        let stored = (0..rows as i64).map(|number| (format!("{number}"), record(number)));
        let source = MemoryVista::new("rows", "id").with_source_key("restarted").with_rows(stored);
        let lens = Lens::new().cache_at(directory.path()).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        dio.flush().unwrap();
        let table = dio.cache_table_name().to_owned();
        drop(dio);
        lens.close(Duration::from_secs(60)).unwrap();
        let [opened, read] = medians(|| floor(directory.path(), &table, rows));
        let [lens, dio, order, screen, all] = medians(|| restart(directory.path(), &source, rows));
        println!("{rows:>9} | {opened:6.2} {read:7.2}      | {lens:6.2} {dio:7.2} {order:7.2} {screen:7.2} {all:7.2}");
    }
}
