//! Journal: what a durable acknowledgement costs beside the disk's own price, what many writers make of one sync, and how fast
//! 100,000 writes are ready after a restart.
//!
//! Run with `cargo bench --bench journal`. The ratios compare medians of rounds that alternate within one run, on the same disk
//! (`TMPDIR` says which).
#![allow(missing_docs, reason = "criterion's macros make public items")]
// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use diorama::__bench_journal::Writes;
use diorama::clock::Clock;

/// A file as long as a segment, written with zeros and synced, and where its next append goes.
struct Preallocated {
    file: File,
    end: u64,
    length: u64,
}

impl Preallocated {
    fn new(path: &Path, length: u64) -> Self {
        let file = File::options().write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all_at(&vec![0; length as usize], 0).unwrap();
        file.sync_all().unwrap();
        Preallocated { file, end: 0, length }
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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn timed(clock: &Clock, work: impl FnOnce()) -> Duration {
    let began = clock.now();
    work();
    clock.now().since(began)
}

/// One writer: from the call to the answer, and the same bytes appended to a preallocated file and synced.
fn acknowledgement(clock: &Clock, directory: &Path) {
    let writes = Writes::open(&directory.join("one"));
    let mut floor = Preallocated::new(&directory.join("floor"), 1 << 20);
    let bytes = vec![7; writes.bytes_of_one()];
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for round in 0..4_000 {
        let (one, other) = (timed(clock, || writes.accept()), timed(clock, || floor.append_and_sync(&bytes)));
        if round >= 200 {
            ours.push(one);
            floors.push(other);
        }
    }
    let (ours, floor) = (median(ours), median(floors));
    let ratio = ours.as_secs_f64() / floor.as_secs_f64();
    println!("one write of {} bytes durable: {ours:.1?}; append + fdatasync {floor:.1?}; {ratio:.2}x", bytes.len());
}

/// 64 writers, each with one write under way, and batches of 64 such entries appended and synced at once.
fn many_writers(clock: &Clock, directory: &Path) {
    const WRITERS: usize = 64;
    const EACH: usize = 250;
    let writes = Writes::open(&directory.join("many"));
    let mut floor = Preallocated::new(&directory.join("floor of many"), 1 << 20);
    let batch = vec![7; writes.bytes_of_one() * WRITERS];
    let (mut threads, mut pipelined, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        threads.push(timed(clock, || {
            std::thread::scope(|scope| {
                for _ in 0..WRITERS {
                    scope.spawn(|| (0..EACH).for_each(|_| writes.accept()));
                }
            });
        }));
        pipelined.push(timed(clock, || writes.accept_with_under_way(WRITERS, WRITERS * EACH)));
        floors.push(timed(clock, || (0..EACH).for_each(|_| floor.append_and_sync(&batch))));
    }
    let per_second = |times| (WRITERS * EACH) as f64 / median(times).as_secs_f64();
    let (threads, pipelined, floor) = (per_second(threads), per_second(pipelined), per_second(floors));
    println!(
        "64 writers: {threads:.0} writes/s from 64 threads ({:.2} of the ideal), {pipelined:.0} with 64 under way from one \
         ({:.2}); 64 entries in one append + fdatasync: {floor:.0}/s",
        threads / floor,
        pipelined / floor
    );
}

fn replay(clock: &Clock, directory: &Path) {
    const WRITES: usize = 100_000;
    let path = directory.join("replay");
    let writes = Writes::open(&path);
    writes.accept_with_under_way(4_096, WRITES);
    drop(writes);
    let times = (0..5).map(|_| {
        timed(clock, || {
            let writes = Writes::open(&path);
            assert_eq!(writes.found(), WRITES);
        })
    });
    println!("100,000 writes found again: {:.1?}", median(times.collect()));
}

fn ratios(_: &mut Criterion) {
    // Under `cargo test --benches` there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (clock, directory) = (Clock::system(), tempfile::tempdir().unwrap());
    acknowledgement(&clock, directory.path());
    many_writers(&clock, directory.path());
    replay(&clock, directory.path());
}

fn calls(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let writes = Writes::open(&directory.path().join("calls"));
    c.bench_function("journal/durable_acknowledgement", |b| b.iter(|| writes.accept()));
    c.bench_function("journal/hand_over", |b| {
        b.iter_custom(|times| {
            let clock = Clock::system();
            let mut spent = Duration::ZERO;
            for _ in 0..times.div_ceil(64) {
                spent += timed(&clock, || writes.hand_over(64));
                writes.accept();
            }
            spent * times as u32 / (times.div_ceil(64) * 64) as u32
        });
    });
}

criterion_group!(benches, ratios, calls);
criterion_main!(benches);
