//! What many open views cost: a change that concerns 3 of 1,000 views, a burst of changes into one view, and the memory of
//! one more view.

// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used)]

#[path = "common/processor.rs"]
mod processor;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diorama::clock::Clock;
use diorama::prelude::*;

const ROWS: i64 = 100_000;
const GROUPS: i64 = 500;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; only the sizes are added up.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How long the work takes.
fn time(work: impl FnOnce()) -> Duration {
    let clock = Clock::system();
    let begin = clock.now();
    work();
    clock.now().since(begin)
}

fn row(number: i64, n: i64) -> Record {
    record! { "id" => format!("r{number}"), "group" => number % GROUPS, "n" => n, "name" => format!("row number {number}") }
}

fn dio() -> (Lens, Dio) {
    let rows = (0..ROWS).map(|number| (format!("r{number}"), row(number, number)));
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("rows", "id").with_rows(rows)).unwrap();
    dio.flush().unwrap();
    (lens, dio)
}

fn of_group(dio: &Dio, group: i64) -> TableScenery {
    dio.table_scenery().where_eq("group", group).sort("n", SortDir::Asc).open().unwrap()
}

fn of_range(dio: &Dio, from: i64) -> TableScenery {
    let view = dio.table_scenery().condition(Condition::ge("n", from)).condition(Condition::lt("n", from + 200));
    view.sort("name", SortDir::Asc).open().unwrap()
}

/// Moves row 7 to and fro between two ranges: three views show it, before or after. Gives back the time of each call.
fn moves(dio: &Dio, times: usize) -> Vec<Duration> {
    let mut taken = Vec::new();
    for turn in 0..times {
        let record = row(7, if turn % 2 == 0 { 50_007 } else { 7 });
        taken.push(time(|| dio.patched("r7", record).unwrap()));
    }
    taken
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (_lens, few) = dio();
    let (_other_lens, many) = dio();
    let _three = [of_group(&few, 7), of_range(&few, 0), of_range(&few, 50_000)];
    let _thousand: Vec<TableScenery> =
        (0..GROUPS).map(|n| of_group(&many, n)).chain((0..500).map(|n| of_range(&many, n * 200))).collect();
    let (mut of_few, mut of_many) = (Vec::new(), Vec::new());
    let (mut work_of_few, mut work_of_many) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        for (dio, times, work) in [(&few, &mut of_few, &mut work_of_few), (&many, &mut of_many, &mut work_of_many)] {
            let before = processor::time_of_all();
            times.extend(moves(dio, 100));
            work.push((processor::time_of_all() - before) / 100);
        }
    }
    let (of_few, of_many) = (median(of_few), median(of_many));
    let ratio = of_many.as_secs_f64() / of_few.as_secs_f64();
    println!(
        "a change that concerns 3 views, call to visible: {of_few:.1?} with 3 open, {of_many:.1?} with 1,000 open: {ratio:.2}x"
    );
    let (few_work, many_work) = (median(work_of_few), median(work_of_many));
    let ratio = many_work.as_secs_f64() / few_work.as_secs_f64();
    println!(
        "its processor time, all threads: {few_work:.1?} with 3 open, {many_work:.1?} with 1,000 open: {ratio:.2}x"
    );

    let (_lens, burst) = dio();
    let _view = burst.table_scenery().sort("n", SortDir::Asc).open().unwrap();
    let mut rates = Vec::new();
    for round in 0..9 {
        let rows: Vec<(String, Record)> =
            (0..10_000).map(|n| (n * 7_919 + round) % ROWS).map(|n| (format!("r{n}"), row(n, n * 3 + round))).collect();
        let batches: Vec<Vec<(String, Record)>> = rows.chunks(1_000).map(<[_]>::to_vec).collect();
        rates.push(time(|| batches.into_iter().for_each(|batch| burst.cache().insert_many(batch).unwrap())));
    }
    let rate = 10_000.0 / median(rates).as_secs_f64();
    println!("a burst into one sorted view of {ROWS} rows, 1,000 rows a call: {rate:.0} changes/s");
    // What the store still has of them is freed meanwhile.
    burst.flush().unwrap();

    // Several, so that what a build thread frees a moment later is no large part of it.
    const MORE: i64 = 16;
    let (_lens, plain) = dio();
    let by_n =
        |least: i64| plain.table_scenery().condition(Condition::ge("n", least)).sort("n", SortDir::Asc).open().unwrap();
    let _first = by_n(0);
    let before = HELD.load(Ordering::Relaxed);
    let _more: Vec<TableScenery> = (1..=MORE).map(|less| by_n(-less)).collect();
    let held = HELD.load(Ordering::Relaxed).saturating_sub(before) as f64 / (MORE * ROWS) as f64;
    println!("one more view of {ROWS} rows by an integer: {held:.1} bytes a row");

    let mut unchanged = 0_u32;
    let last = many.seq();
    let asking = time(|| {
        for _ in 0..1_000_000 {
            unchanged += u32::from(std::hint::black_box(&many).seq() == last);
        }
    });
    let each = asking.as_nanos() as f64 / f64::from(unchanged);
    println!("\"has anything changed?\" over 1,000 views by the Dio's Seq: {each:.1} ns");
}
