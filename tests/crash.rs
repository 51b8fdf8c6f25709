//! A program that writes is killed at any moment and started again, many times: what it was told to be accepted is done
//! once, or reported.
//!
//! The test is the source: it listens on a socket. The child is this program again, with a Dio over that source and a cache
//! on the disk. It tells what it has written, what was accepted and how it ended, and what it shows whenever it starts.
//!
//! ```text
//! DIORAMA_CRASHES=500 cargo test --release --test crash    the long run
//! DIORAMA_CRASH_SEED=…                                     the same chance again; the moments differ all the same
//! ```

#![cfg(all(unix, feature = "lmdb"))]
// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "crash/book.rs"]
mod book;
#[path = "crash/chance.rs"]
mod chance;
#[path = "crash/child.rs"]
mod child;
#[path = "common/limit.rs"]
mod limit;
#[path = "crash/source.rs"]
mod source;
#[path = "crash/wire.rs"]
mod wire;

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use book::Book;
use chance::Chance;
use child::{Life, Task};
use source::Source;

const SIGKILL: i32 = 9;

#[test]
#[ignore = "the tests below run it in a process of its own"]
fn a_child_that_writes_until_it_is_killed() {
    child::live();
}

#[test]
fn w9_whenever_it_is_killed_accepted_writes_are_done_once_and_confirmed_ones_stay() {
    run(true, crashes(16));
}

#[test]
fn w9_without_keys_at_the_source_nothing_accepted_is_lost_and_no_row_is_made_twice() {
    run(false, crashes(8));
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn crashes(quick: u64) -> u64 {
    setting("DIORAMA_CRASHES").unwrap_or(quick)
}

fn run(keeps_keys: bool, crashes: u64) {
    let seed = setting("DIORAMA_CRASH_SEED").unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
    let limit = Duration::from_secs(120 + 2 * crashes);
    let what = move || format!("DIORAMA_CRASH_SEED={seed}");
    limit::limited_saying(limit, what, move || {
        eprintln!("DIORAMA_CRASH_SEED={seed}");
        crash_and_compare(keeps_keys, crashes, seed);
    });
}

fn crash_and_compare(keeps_keys: bool, crashes: u64, seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("source");
    let cache = directory.path().join("cache");
    let source = Source::start(&socket, keeps_keys, seed);
    let mut chance = Chance::new(!seed);
    let mut book = Book::new(keeps_keys);
    let mut life =
        Life { task: Task::Write, keeps_keys, seed, first_mark: child::FIRST_MARK, socket, cache: cache.clone() };
    for _ in 0..crashes {
        life.seed = chance.next();
        life.first_mark = book.next_mark();
        live_and_die(&life, &source, &mut book, &mut chance);
    }
    for task in [Task::Drain, Task::Look] {
        life.task = task;
        live_to_the_end(&life, &source, &mut book);
        assert_eq!(child::as_rows(&book.shown), source.rows(), "{task:?}");
        assert!(book.shown.iter().all(|row| !row.is_pending), "{task:?}");
        assert_eq!(book.rest, Some((0, 0, 0, true)), "{task:?}: pending, failed, kept, closed");
    }
    book.check_effects(&source.effects());
    let journal = size(&cache.join("journal"));
    assert!(journal <= 4_096, "{journal} bytes are left in the journal");
    eprintln!("{crashes} crashes: {}; {} calls, {} effects", book.summary(), source.calls(), source.effects().len());
    source.end();
}

/// One life that ends at a moment which chance chooses, also while it begins.
fn live_and_die(life: &Life, source: &Source, book: &mut Book, chance: &mut Chance) {
    let before = source.reporters_gone();
    let mut running = life.start();
    let child = &mut running.0;
    let is_early = chance.one_in(8);
    let until = if is_early { 0 } else { chance.below(400) as usize };
    let target = book.accepted() + until;
    while book.accepted() < target {
        let (reports, is_gone) = source.reports(before);
        reports.into_iter().for_each(|report| book.note(report));
        assert!(!is_gone, "the child ended by itself: {:?}", child.wait());
    }
    let micros = Duration::from_micros(chance.below(if is_early { 60_000 } else { 3_000 }));
    source.reports_within(micros).into_iter().for_each(|report| book.note(report));
    child.kill().unwrap();
    let ended = child.wait().unwrap();
    source.wait_until_left_alone().into_iter().for_each(|report| book.note(report));
    assert_eq!(ended.signal(), Some(SIGKILL), "the child ended by itself");
}

fn live_to_the_end(life: &Life, source: &Source, book: &mut Book) {
    let mut running = life.start();
    let child = &mut running.0;
    let ended = child.wait().unwrap();
    source.wait_until_left_alone().into_iter().for_each(|report| book.note(report));
    assert!(ended.success(), "{ended}");
}

fn size(directory: &Path) -> u64 {
    let Ok(files) = fs::read_dir(directory) else { return 0 };
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}
