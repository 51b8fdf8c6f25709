//! Writes: how soon a write shows, what a durable acknowledgement costs beside the disk's own price, and how fast 100,000
//! writes that were not delivered are shown again after a restart.
//!
//! Run with `cargo bench --bench writes`; `TMPDIR` says on which disk. The ratios compare medians of rounds that alternate
//! within one run. `benches/journal.rs` measures the journal alone.
#![allow(missing_docs, reason = "criterion's macros make public items")]
// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used)]

#[path = "common/processor.rs"]
mod processor;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Barrier, Condvar, Mutex};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use diorama::__bench_journal::Writes;
use diorama::RowStatus;
use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::sources::memory::Call;

const LONG: Duration = Duration::from_secs(600);

fn airport(elevation: usize) -> Record {
    record! {
        "name" => "Thigpen Field", "city" => "Bay Springs", "state" => "MS", "latitude" => 31.953_764,
        "elevation" => elevation as i64,
    }
}

/// Ids as long as the one that the journal's bench writes.
fn id(number: usize) -> String {
    format!("{number:03x}")
}

/// A source of so many rows.
fn airports(rows: usize) -> MemoryVista {
    MemoryVista::new("airports", "iata").with_rows((0..rows).map(|number| (id(number), airport(number))))
}

/// A Dio with room for every write that is made here.
fn make(cache: Option<&Path>, source: &MemoryVista) -> (Lens, Dio) {
    let lens = match cache {
        Some(directory) => Lens::new().cache_at(directory),
        None => Lens::new().in_memory(),
    };
    let lens = lens.write_queue_capacity(1 << 20).journal_capacity(1 << 30).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    dio.flush().unwrap();
    (lens, dio)
}

fn upsert(number: usize) -> WriteOp {
    WriteOp::upsert(id(number), airport(number + 1))
}

/// A file as long as a segment of the journal, written with zeros and synced, and where its next append goes.
struct Preallocated {
    file: File,
    end: u64,
    length: u64,
}

impl Preallocated {
    fn new(path: &Path) -> Self {
        let length = 1 << 20;
        let file = File::options().write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all_at(&vec![0; length], 0).unwrap();
        file.sync_all().unwrap();
        Preallocated { file, end: 0, length: length as u64 }
    }

    fn append_and_sync(&mut self, bytes: &[u8]) {
        if self.end + bytes.len() as u64 > self.length {
            self.end = 0;
        }
        self.file.write_all_at(bytes, self.end).unwrap();
        self.file.sync_data().unwrap();
        self.end += bytes.len() as u64;
    }
}

/// The time that so many hundredths of all don't exceed.
fn percentile(times: &mut [Duration], hundredths: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * hundredths / 100).min(times.len() - 1)]
}

/// What rounds of as many writes took, and used.
#[derive(Default)]
struct Rounds {
    times: Vec<Duration>,
    used: Vec<Duration>,
    turns: u64,
}

impl Rounds {
    fn add(&mut self, clock: &Clock, round: impl FnOnce()) {
        let (used, turns) = processor::time_and_turns_of_all();
        self.times.push(timed(clock, round).0);
        let (used_now, turns_now) = processor::time_and_turns_of_all();
        self.used.push(used_now.saturating_sub(used));
        self.turns += turns_now.saturating_sub(turns);
    }

    fn per_second(&mut self, writes: usize) -> f64 {
        writes as f64 / percentile(&mut self.times, 50).as_secs_f64()
    }

    /// What a write used, in words.
    fn of_one(&mut self, writes: usize) -> String {
        let turns = self.turns as f64 / (writes * self.used.len()) as f64;
        format!("{:.1?} of the processors in {turns:.2} turns each", percentile(&mut self.used, 50) / writes as u32)
    }
}

fn timed<T>(clock: &Clock, work: impl FnOnce() -> T) -> (Duration, T) {
    let began = clock.now();
    let done = work();
    (clock.now().since(began), done)
}

/// From the call until every view shows the write: two views of 100,000 rows, while the journal syncs and the source answers
/// or doesn't.
fn visible(clock: &Clock, directory: &Path) {
    const ROWS: usize = 100_000;
    const WRITES: usize = 10_000;
    let source = airports(ROWS);
    for (cache, path) in [("lmdb", Some(directory.join("visible"))), ("memory", None)] {
        for answers in [false, true] {
            let path = path.as_ref().map(|path| path.with_extension(format!("{answers}")));
            let (_lens, dio) = make(path.as_deref(), &source);
            let view = dio.table_scenery().sort("elevation", SortDir::Asc).open().unwrap();
            let held = (!answers).then(|| source.hold(Call::Patch));
            let mut times = Vec::new();
            for turn in 0..WRITES {
                let id = id(turn * 7_919 % ROWS);
                let op = WriteOp::patch(id.as_str(), record! { "elevation" => (turn * 31 % ROWS) as i64 });
                let before = view.generation();
                let (time, _ticket) = timed(clock, || dio.write(op).unwrap());
                assert!(view.generation() > before);
                times.push(time);
            }
            drop(held);
            let source = if answers { "answers" } else { "doesn't answer" };
            println!(
                "visible after `write`, {cache}, the source {source}: p50 {:.1?}, p99 {:.1?} (aim: p50 <= 50 µs)",
                percentile(&mut times, 50),
                percentile(&mut times, 99)
            );
            dio.wait_for_writes(LONG).unwrap();
        }
    }
}

/// One writer: from the call until the write is durable, and the same bytes appended to a preallocated file and synced.
fn acknowledgement(clock: &Clock, directory: &Path) {
    const WRITES: usize = 2_000;
    let source = airports(WRITES);
    let (_lens, dio) = make(Some(&directory.join("one")), &source);
    let _held = source.hold(Call::Upsert);
    let mut floor = Preallocated::new(&directory.join("floor"));
    let bytes = vec![7; Writes::open(&directory.join("size")).bytes_of_one()];
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for number in 0..WRITES {
        let (one, _ticket) = timed(clock, || dio.write_durable(upsert(number)).unwrap());
        let (other, ()) = timed(clock, || floor.append_and_sync(&bytes));
        if number >= 100 {
            ours.push(one);
            floors.push(other);
        }
    }
    let (p50, p99) = (percentile(&mut ours, 50), percentile(&mut ours, 99));
    let floor = percentile(&mut floors, 50);
    let ratio = p50.as_secs_f64() / floor.as_secs_f64();
    // Where other programs use the disk and the processors, the fastest tenth says more than the median.
    let (fast, fast_floor) = (percentile(&mut ours, 10), percentile(&mut floors, 10));
    let fast_ratio = fast.as_secs_f64() / fast_floor.as_secs_f64();
    println!(
        "durable, one writer, {} bytes: p50 {p50:.1?}, p99 {p99:.1?}; append + fdatasync p50 {floor:.1?}; {ratio:.2}x \
         (aim: <= 1.5x); p10 {fast:.1?} and {fast_floor:.1?}, {fast_ratio:.2}x",
        bytes.len()
    );
}

/// What a group commit costs that does nothing else: a thread leaves its bytes in a buffer, and one of those who wait appends
/// and syncs what is in it for all.
struct GroupCommit {
    group: Mutex<Group>,
    /// Who waits for a batch of an even number, and of an odd one.
    durable: [Condvar; 2],
}

struct Group {
    buffer: Vec<u8>,
    /// The batch that the buffer becomes.
    gathering: usize,
    /// The last batch that is durable.
    durable: usize,
    /// Not there while somebody syncs it.
    file: Option<Preallocated>,
}

impl GroupCommit {
    fn new(file: Preallocated) -> Self {
        let group = Group { buffer: Vec::new(), gathering: 1, durable: 0, file: Some(file) };
        GroupCommit { group: Mutex::new(group), durable: Default::default() }
    }

    fn append(&self, bytes: &[u8]) {
        let mut group = self.group.lock().unwrap();
        group.buffer.extend_from_slice(bytes);
        let batch = group.gathering;
        while group.durable < batch {
            let Some(mut file) = group.file.take() else {
                group = self.durable[batch % 2].wait(group).unwrap();
                continue;
            };
            let gathered = std::mem::take(&mut group.buffer);
            group.gathering += 1;
            drop(group);
            file.append_and_sync(&gathered);
            group = self.group.lock().unwrap();
            (group.file, group.durable) = (Some(file), batch);
            self.durable[batch % 2].notify_all();
            // Of those whose batch is next, one writes it.
            self.durable[(batch + 1) % 2].notify_one();
        }
    }

    fn batches(&self) -> usize {
        self.group.lock().unwrap().durable
    }
}

/// 64 writers, each waiting for its own write; the same threads over a group commit and nothing else; and batches of 64 such
/// entries appended and synced at once.
fn many_writers(clock: &Clock, directory: &Path) {
    const WRITERS: usize = 64;
    const EACH: usize = 50;
    const ROUNDS: usize = 15;
    let source = airports(2 * WRITERS * EACH * ROUNDS);
    let (_lens, dio) = make(Some(&directory.join("many")), &source);
    let _held = source.hold(Call::Upsert);
    let one = vec![7; Writes::open(&directory.join("size of many")).bytes_of_one()];
    let group = GroupCommit::new(Preallocated::new(&directory.join("group of many")));
    let mut floor = Preallocated::new(&directory.join("floor of many"));
    let together = one.repeat(WRITERS);
    let turn = Barrier::new(WRITERS + 1);
    let (mut ours, mut in_two) = (Rounds::default(), Rounds::default());
    let (mut groups, mut floors) = (Rounds::default(), Rounds::default());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (dio, group, turn, one) = (&dio, &group, &turn, &one);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let first = (round * WRITERS + writer) * 2 * EACH;
                    let numbers = first..first + EACH;
                    turn.wait();
                    numbers.for_each(|number| drop(dio.write_durable(upsert(number)).unwrap()));
                    turn.wait();
                    let numbers = first + EACH..first + 2 * EACH;
                    turn.wait();
                    numbers.for_each(|number| dio.write(upsert(number)).unwrap().wait_durable(LONG).unwrap());
                    turn.wait();
                    turn.wait();
                    (0..EACH).for_each(|_| group.append(one));
                    turn.wait();
                }
            });
        }
        let one_turn = || {
            turn.wait();
            turn.wait();
        };
        for _ in 0..ROUNDS {
            ours.add(clock, one_turn);
            in_two.add(clock, one_turn);
            groups.add(clock, one_turn);
            floors.add(clock, || (0..EACH).for_each(|_| floor.append_and_sync(&together)));
        }
    });
    const ALL: usize = WRITERS * EACH;
    let [ideal, one_append] = [groups.per_second(ALL), floors.per_second(ALL)];
    for (how, rounds) in [("`write_durable`", &mut ours), ("`write`, then `wait_durable`", &mut in_two)] {
        let rate = rounds.per_second(ALL);
        println!(
            "durable, 64 writers, {how}: {rate:.0} writes/s, {}; {:.2} of a group commit by the same threads (aim: >= 0.5)",
            rounds.of_one(ALL),
            rate / ideal
        );
    }
    println!(
        "the same threads and a group commit alone: {ideal:.0}/s, {}, {:.2} syncs for 64; 64 entries in one append and \
         sync by one thread: {one_append:.0}/s, {}, so the group commit has {:.2} of it",
        groups.of_one(ALL),
        group.batches() as f64 / (EACH * ROUNDS) as f64,
        floors.of_one(ALL),
        ideal / one_append
    );
}

/// One thread that makes 64 writes at once and waits for them: the same work without the threads.
fn batches(clock: &Clock, directory: &Path) {
    const TOGETHER: usize = 64;
    const EACH: usize = 50;
    const ROUNDS: usize = 15;
    let source = airports(TOGETHER * EACH * ROUNDS);
    let (_lens, dio) = make(Some(&directory.join("batches")), &source);
    let _held = source.hold(Call::Upsert);
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        let firsts = (0..EACH).map(|batch| (round * EACH + batch) * TOGETHER);
        rounds.add(clock, || {
            for first in firsts {
                let ops = (first..first + TOGETHER).map(upsert);
                dio.write_batch(ops.collect()).unwrap().pop().unwrap().wait_durable(LONG).unwrap();
            }
        });
    }
    const ALL: usize = TOGETHER * EACH;
    println!("durable, 64 writes in one call: {:.0} writes/s, {}", rounds.per_second(ALL), rounds.of_one(ALL));
}

/// A table of 100,000 rows, a write of each kept in the journal, opened again.
fn replay(clock: &Clock, directory: &Path) {
    const ROWS: usize = 100_000;
    let path = directory.join("replay");
    let source = airports(ROWS);
    let away = || Error::new(ErrorKind::Unavailable, "no network");
    source.fail_next(Call::Patch, u64::MAX, away());
    let (lens, dio) = make(Some(&path), &source);
    let mut last = None;
    for chunk in (0..ROWS).collect::<Vec<_>>().chunks(1_000) {
        let patch = |number: &usize| WriteOp::patch(id(*number), record! { "elevation" => (ROWS - number) as i64 });
        last = dio.write_batch(chunk.iter().map(patch).collect()).unwrap().pop();
    }
    last.unwrap().wait_durable(LONG).unwrap();
    assert_eq!(lens.close(LONG).unwrap().kept, ROWS as u64);
    drop(dio);
    let (mut ready, mut used, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let lens = Lens::new().cache_at(&path).write_queue_capacity(1 << 20).journal_capacity(1 << 30).build().unwrap();
        let before = processor::time_of_thread();
        let (time, dio) = timed(clock, || lens.make_dio(source.clone()).unwrap());
        used.push(processor::time_of_thread().saturating_sub(before));
        assert_eq!(dio.pending_writes().len(), ROWS);
        ready.push(time);
        let open = || dio.table_scenery().sort("elevation", SortDir::Asc).open().unwrap();
        let (time, view) = timed(clock, open);
        shown.push(time);
        let snapshot = view.snapshot();
        let first = snapshot.row(0).unwrap();
        assert_eq!(
            (snapshot.row_count(), first.int("elevation"), first.status()),
            (ROWS, Some(1), RowStatus::PendingWrite)
        );
        drop((snapshot, view));
        lens.close(LONG).unwrap();
    }
    println!(
        "100,000 writes in the journal: `make_dio` with all of them shown {:.0?} (aim: <= 1 s), {:.0?} of them processor \
         time of its thread; a sorted view of all rows after it {:.0?}",
        percentile(&mut ready, 50),
        percentile(&mut used, 50),
        percentile(&mut shown, 50)
    );
}

fn ratios(_: &mut Criterion) {
    // Under `cargo test --benches` there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (clock, directory) = (Clock::system(), tempfile::tempdir().unwrap());
    let wanted = |name: &str| std::env::var("DIORAMA_WRITES").is_ok_and(|only| only != name);
    for (name, measure) in [
        ("visible", visible as fn(&Clock, &Path)),
        ("acknowledgement", acknowledgement),
        ("many_writers", many_writers),
        ("batches", batches),
        ("replay", replay),
    ] {
        if !wanted(name) {
            measure(&clock, directory.path());
        }
    }
}

fn calls(c: &mut Criterion) {
    const ROWS: usize = 4_096;
    for cache in ["lmdb", "memory"] {
        let (directory, source) = (tempfile::tempdir().unwrap(), airports(ROWS));
        let path = directory.path().join("cache");
        let (_lens, dio) = make((cache == "lmdb").then_some(&*path), &source);
        let mut turn = 0;
        c.bench_function(&format!("writes/confirmed/{cache}"), |b| {
            b.iter(|| {
                turn += 1;
                dio.write(upsert(turn % ROWS)).unwrap().wait(LONG).unwrap()
            });
        });
    }
}

criterion_group!(benches, ratios, calls);
criterion_main!(benches);
