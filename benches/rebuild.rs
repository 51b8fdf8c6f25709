//! Rebuild: what opening, sorting anew, reversing, searching and bulk changes cost a view of a million rows.
//!
//! Run with `cargo bench --bench rebuild [memory|lmdb] [orders|search|changes|unstored]`. Rows are the flights of `benches/data`, five times. The floor is
//! what any order of these rows must pay in the same run: a scan of the same cache table with one lazy read a row, and
//! `sort_unstable` of the keys. Figures are the best of several runs, in milliseconds, and ratios to the floor.
//!
//! `unstored` does the same work while the store is kept from taking rows (of the first load; of it and of a change of every
//! tenth row; of such a change of stored rows) and after `flush`. On a busy machine its processor times say more.

// A benchmark that can't do its work may as well stop, and it is about real time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

#[path = "common/processor.rs"]
mod processor;

use std::hint::black_box;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use diorama::RowNo;
use diorama::cache::{CacheBackend, CacheBatch, CacheTable, LmdbBackend, MemoryBackend};
use diorama::prelude::*;
use diorama::value::RowRef;

const ROWS: usize = 1_000_000;
const RUNS: usize = 7;
const SOON: Option<Duration> = Some(Duration::from_secs(60));

/// The flights as records, five times: id, date, delay, distance, origin, destination, and a number of their own.
fn flights() -> Vec<(String, Record)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/data/flights-200k.csv.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let names: Vec<Arc<str>> = text.lines().next().unwrap().split(',').map(Arc::from).collect();
    let number: Arc<str> = Arc::from("number");
    let lines: Vec<&str> = text.lines().skip(1).collect();
    (0..ROWS)
        .map(|row| {
            let mut record = Record::with_capacity(names.len() + 1);
            let id = format!("{row}");
            for (position, cell) in lines[row % lines.len()].split(',').enumerate() {
                match cell.parse::<i64>() {
                    Ok(number) if position > 1 => record.insert(names[position].clone(), number),
                    _ if position == 0 => record.insert(names[position].clone(), id.as_str()),
                    _ => record.insert(names[position].clone(), cell),
                };
            }
            record.insert(number.clone(), (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64 >> 20);
            (id, record)
        })
        .collect()
}

fn milliseconds(mut run: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<Duration> = (0..RUNS).map(|_| run()).collect();
    times.sort_unstable();
    times[0].as_secs_f64() * 1_000.0
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(work());
    began.elapsed()
}

/// A scan with one lazy read a row, and a sort of the keys.
fn floor(backend: &dyn CacheBackend, table: &str, column: &str) -> f64 {
    let table = backend.open_table(table).unwrap();
    milliseconds(|| {
        timed(|| {
            let mut keys: Vec<(i64, u64)> = Vec::with_capacity(ROWS);
            table
                .scan(RowNo(0), &mut |row, bytes| {
                    let id_length = u32::from_le_bytes(bytes[18..22].try_into().unwrap());
                    let fields = RowRef::new(&bytes[22 + id_length as usize..]);
                    keys.push((fields.get(column).and_then(|value| value.as_i64()).unwrap_or(i64::MAX), row.0));
                    ControlFlow::Continue(())
                })
                .unwrap();
            keys.sort_unstable();
            keys
        })
    })
}

/// How long until a view has the first rows of what it was asked for, and until it shows all of them.
fn first_and_all(view: &TableScenery, began: Instant) -> [Duration; 2] {
    view.wait_for_first_rows(SOON).unwrap();
    let first = began.elapsed();
    view.wait_until_ready(SOON).unwrap();
    [first, began.elapsed()]
}

fn best(mut run: impl FnMut(usize) -> [Duration; 2]) -> [f64; 2] {
    let at_leisure = |turn| {
        // What the last run left behind is freed meanwhile.
        std::thread::sleep(Duration::from_millis(50));
        run(turn)
    };
    let runs: Vec<[Duration; 2]> = (0..RUNS).map(at_leisure).collect();
    [0, 1].map(|place| {
        let mut times: Vec<Duration> = runs.iter().map(|run| run[place]).collect();
        times.sort_unstable();
        times[0].as_secs_f64() * 1_000.0
    })
}

/// Edits one row again and again until told to stop; the longest time an edit took, and the median.
fn edit_meanwhile<T>(dio: &Dio, row: &Record, work: impl FnOnce() -> T) -> (T, [f64; 2]) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let editor = scope.spawn(|| {
            let mut times = Vec::new();
            let mut turn = 0_i64;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                let mut record = row.clone();
                record.insert("delay", turn % 500);
                times.push(timed(|| dio.patched("7", record).unwrap()));
            }
            times.sort_unstable();
            [times[times.len() - 1], times[times.len() / 2]].map(|time| time.as_secs_f64() * 1_000.0)
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        (result, editor.join().unwrap())
    })
}

fn measure_orders(dio: &Dio, backend: &dyn CacheBackend) {
    for column in ["delay", "number"] {
        let floor = floor(backend, dio.cache_table_name(), column);
        let report = |what: &str, time: f64| println!("{column:8} {what:32} {time:8.1} ms {:6.2} x", time / floor);
        report("floor", floor);
        let [first, all] = best(|_| {
            let began = Instant::now();
            let view = dio.table_scenery().sort(column, SortDir::Asc).open_now().unwrap();
            let times = first_and_all(&view, began);
            assert_eq!(view.row_count(), ROWS);
            times
        });
        report("open, first rows", first);
        report("open, all", all);
        let view = dio.table_scenery().sort("distance", SortDir::Asc).open().unwrap();
        let [first, all] = best(|_| {
            view.set_sort([SortBy::new("distance", SortDir::Asc)]).unwrap();
            view.wait_until_ready(SOON).unwrap();
            let began = Instant::now();
            view.set_sort([SortBy::new(column, SortDir::Asc)]).unwrap();
            first_and_all(&view, began)
        });
        report("sort anew, first rows", first);
        report("sort anew, all", all);
        let mut dirs = [SortDir::Desc, SortDir::Asc].into_iter().cycle();
        let [first, all] = best(|_| {
            let began = Instant::now();
            view.set_sort([SortBy::new(column, dirs.next().unwrap())]).unwrap();
            first_and_all(&view, began)
        });
        report("reverse, first rows", first);
        report("reverse, all", all);
    }
}

fn measure_search(dio: &Dio) {
    let view = dio.table_scenery().sort("delay", SortDir::Asc).open().unwrap();
    let typed = ["s", "se", "sea", "2001-03", "2001-03-2", "2001-03-24t1"];
    for pair in typed.windows(2) {
        let (mut among, mut found) = (0, 0);
        let [first, all] = best(|_| {
            view.set_search(Some(pair[0])).unwrap();
            view.wait_until_ready(SOON).unwrap();
            among = view.row_count();
            let began = Instant::now();
            view.set_search(Some(pair[1])).unwrap();
            let times = first_and_all(&view, began);
            found = view.row_count();
            times
        });
        let [before, text] = [pair[0], pair[1]];
        println!("search {text:?} after {before:?}: {found} rows after {among}, first {first:.1} ms, all {all:.1} ms");
    }
    let [first, all] = best(|_| {
        view.set_search(None).unwrap();
        view.wait_until_ready(SOON).unwrap();
        let began = Instant::now();
        for text in ["s", "se", "sea"] {
            view.set_search(Some(text)).unwrap();
        }
        first_and_all(&view, began)
    });
    println!("search \"sea\" typed at once: first {first:.1} ms, all {all:.1} ms");
}

fn measure_changes(dio: &Dio, changed: Vec<(String, Record)>, seventh: &Record) {
    let view = dio.table_scenery().sort("delay", SortDir::Asc).open().unwrap();
    let ((), [longest, median]) = edit_meanwhile(dio, seventh, || {
        for column in ["distance", "number", "delay", "number", "delay"] {
            view.set_sort([SortBy::new(column, SortDir::Asc)]).unwrap();
            view.wait_until_ready(SOON).unwrap();
        }
    });
    println!("edits while sorting anew: longest {longest:.2} ms, median {median:.3} ms");

    let before = view.generation();
    let (time, [longest, median]) =
        edit_meanwhile(dio, seventh, || timed(|| dio.cache().insert_many(changed).unwrap()));
    let steps = view.generation().0 - before.0;
    println!(
        "100,000 rows changed: {:.1} ms; edits meanwhile: longest {longest:.2} ms, median {median:.3} ms, {steps} steps",
        time.as_secs_f64() * 1_000.0
    );
}

/// Whether the store may take rows.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }

    fn wait(&self) {
        drop(self.opened.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// A backend whose tables take rows while the gate is open alone.
struct Gated {
    inner: Arc<dyn CacheBackend>,
    gate: Arc<Gate>,
}

struct GatedTable {
    inner: Arc<dyn CacheTable>,
    gate: Arc<Gate>,
}

impl CacheBackend for Gated {
    fn open_table(&self, name: &str) -> diorama::Result<Arc<dyn CacheTable>> {
        Ok(Arc::new(GatedTable { inner: self.inner.open_table(name)?, gate: self.gate.clone() }))
    }
    fn tables(&self) -> diorama::Result<Vec<String>> {
        self.inner.tables()
    }
    fn forget_table(&self, name: &str) -> diorama::Result<()> {
        self.inner.forget_table(name)
    }
    fn sync(&self) -> diorama::Result<()> {
        self.inner.sync()
    }
    fn location(&self) -> Option<PathBuf> {
        self.inner.location()
    }
    fn file_size(&self) -> diorama::Result<u64> {
        self.inner.file_size()
    }
}

impl CacheTable for GatedTable {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn apply(&self, batch: &CacheBatch) -> diorama::Result<()> {
        if !batch.ops.is_empty() {
            self.gate.wait();
        }
        self.inner.apply(batch)
    }
    fn get(&self, row: RowNo) -> diorama::Result<Option<Arc<[u8]>>> {
        self.inner.get(row)
    }
    fn get_many(&self, rows: &[RowNo], found: &mut dyn FnMut(usize, Option<&[u8]>)) -> diorama::Result<()> {
        self.inner.get_many(rows, found)
    }
    fn lookup(&self, id: &str) -> diorama::Result<Option<RowNo>> {
        self.inner.lookup(id)
    }
    fn scan(&self, from: RowNo, each: &mut dyn FnMut(RowNo, &[u8]) -> ControlFlow<()>) -> diorama::Result<()> {
        self.inner.scan(from, each)
    }
    fn scan_ids(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> diorama::Result<()> {
        self.inner.scan_ids(each)
    }
    fn count(&self) -> diorama::Result<u64> {
        self.inner.count()
    }
    fn meta(&self, key: &str) -> diorama::Result<Option<Vec<u8>>> {
        self.inner.meta(key)
    }
}

/// Every tenth of the rows, a little later.
fn every_tenth_changed(rows: &[(String, Record)]) -> Vec<(String, Record)> {
    let changed = |(id, record): &(String, Record)| {
        let mut record = record.clone();
        record.insert("delay", record.int("delay").unwrap_or(0) + 1);
        (id.clone(), record)
    };
    rows.iter().step_by(10).map(changed).collect()
}

/// Changes rows in small steps: the store has room for these while a load waits.
fn change(dio: &Dio, rows: &[(String, Record)]) {
    for rows in rows.chunks(1_000) {
        dio.cache().insert_many(rows.to_vec()).unwrap();
    }
}

/// What each way of building costs, in milliseconds: until it is there, and of processor time.
fn build_times(dio: &Dio) -> Vec<(&'static str, [f64; 2])> {
    let view = dio.table_scenery().sort("distance", SortDir::Asc).open().unwrap();
    let sort = |column: &str| {
        view.set_sort([SortBy::new(column, SortDir::Asc)]).unwrap();
        view.wait_until_ready(SOON).unwrap();
    };
    let search = |text: Option<&str>| {
        view.set_search(text).unwrap();
        view.wait_until_ready(SOON).unwrap();
    };
    let with_work = |prepare: &dyn Fn(), work: &dyn Fn()| {
        best(|_| {
            prepare();
            let (began, before) = (Instant::now(), processor::time_of_all());
            work();
            [began.elapsed(), processor::time_of_all() - before]
        })
    };
    let open = |builder: diorama::TableSceneryBuilder| drop(black_box(builder.open().unwrap()));
    let mut times = vec![
        ("open", with_work(&|| (), &|| open(dio.table_scenery().sort("delay", SortDir::Asc)))),
        ("open unsorted", with_work(&|| (), &|| open(dio.table_scenery()))),
        ("sort anew", with_work(&|| sort("distance"), &|| sort("delay"))),
    ];
    for (what, before, text) in
        [("search for much", None, "s"), ("search for little", None, "2001-03-24t1"), ("search on", Some("s"), "se")]
    {
        times.push((what, with_work(&|| search(before), &|| search(Some(text)))));
    }
    times.push(("sum", with_work(&|| (), &|| drop(black_box(dio.value_scenery().sum("delay").open().unwrap())))));
    times
}

fn measure_unstored(name: &str, backend: Arc<dyn CacheBackend>) {
    let rows = flights();
    let changed = every_tenth_changed(&rows);
    let as_they_were: Vec<(String, Record)> = rows.iter().step_by(10).cloned().collect();
    let gate = Arc::<Gate>::default();
    let lens = Lens::new().cache_source(Arc::new(Gated { inner: backend, gate: gate.clone() })).build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("unstored", "id").with_rows(rows)).unwrap();
    let mut unstored = vec![("first load", build_times(&dio))];
    change(&dio, &changed);
    unstored.push(("first load and changes", build_times(&dio)));
    gate.set(true);
    dio.flush().unwrap();
    gate.set(false);
    change(&dio, &as_they_were);
    unstored.push(("changes", build_times(&dio)));
    gate.set(true);
    dio.flush().unwrap();
    let stored = build_times(&dio);
    for (state, times) in unstored {
        println!("# {name}, {ROWS} rows, not stored: {state}");
        for ((what, [time, work]), (_, [stored, stored_work])) in times.iter().zip(&stored) {
            println!(
                "{what:20} {time:8.1} ms, after flush {stored:8.1} ms, {:5.2} x; processor time {work:8.1} ms, {stored_work:8.1} ms, {:5.2} x",
                time / stored,
                work / stored_work
            );
        }
    }
    let _ = lens.close(Duration::from_secs(60));
}

fn measure(name: &str, backend: Arc<dyn CacheBackend>, does: &dyn Fn(&str) -> bool) {
    let rows = flights();
    let changed = every_tenth_changed(&rows);
    let seventh = rows[7].1.clone();
    let lens = Lens::new().cache_source(backend.clone()).build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("flights", "id").with_rows(rows)).unwrap();
    dio.flush().unwrap();
    println!("# {name}, {ROWS} rows");
    if does("orders") {
        measure_orders(&dio, &*backend);
    }
    if does("search") {
        measure_search(&dio);
    }
    if does("changes") {
        measure_changes(&dio, changed, &seventh);
    }
    let _ = lens.close(Duration::from_secs(60));
}

fn measure_all(name: &str, new_backend: &dyn Fn() -> Arc<dyn CacheBackend>, does: &dyn Fn(&str) -> bool) {
    if ["orders", "search", "changes"].into_iter().any(does) {
        measure(name, new_backend(), does);
    }
    if does("unstored") {
        measure_unstored(name, new_backend());
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str, others: &[&str]| {
        wanted.iter().any(|one| one == name) || !wanted.iter().any(|one| others.contains(&one.as_str()))
    };
    let does = |part: &str| is_wanted(part, &["orders", "search", "changes", "unstored"]);
    if is_wanted("memory", &["memory", "lmdb"]) {
        measure_all("memory", &|| MemoryBackend::new(), &does);
    }
    if is_wanted("lmdb", &["memory", "lmdb"]) {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        let next = std::cell::Cell::new(0);
        let new_backend = || -> Arc<dyn CacheBackend> { LmdbBackend::open(&paths[next.replace(1)]).unwrap() };
        measure_all("lmdb", &new_backend, &does);
    }
}
