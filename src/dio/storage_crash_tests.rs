//! A program whose storage fails at every n-th call, finds the disk full now and then, and loses the end of its journal that
//! was not durable, is killed at any moment and started again, many times: what it was told to be accepted is done once.
//!
//! The program, its source and what must hold are those of `tests/crash.rs`; the failing files of the journal are only here.
//!
//! ```text
//! DIORAMA_CRASHES=500 cargo test --release --lib storage_crash    the long run
//! DIORAMA_CRASH_SEED=…                                            the same chance again; the moments differ all the same
//! ```

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/crash/book.rs"]
mod book;
#[path = "../../tests/crash/chance.rs"]
mod chance;
#[path = "../../tests/crash/child.rs"]
mod child;
#[path = "../../tests/common/limit.rs"]
mod limit;
#[path = "../../tests/crash/run.rs"]
mod run;
#[path = "../../tests/crash/source.rs"]
mod source;
#[path = "../../tests/crash/wire.rs"]
mod wire;

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use crate::cache::{FaultyBackend, LmdbBackend};
use crate::journal::faulty_medium::{self, LastEntry, LastSegment};
use crate::lens::Lens;

use book::Book;
use chance::Chance;
use child::Life;
use run::{Trouble, crashes, run};
use source::Source;

#[test]
#[ignore = "the test below runs it in a process of its own"]
fn a_child_that_writes_until_it_is_killed() {
    child::live(|life| {
        let backend = FaultyBackend::new(LmdbBackend::open(&life.cache).unwrap());
        faulty_medium::fail_with(&life.cache, backend.faults());
        let (every, faults) = (life.fails_every, backend.clone());
        let fails = move |fails: bool| match every {
            1.. if fails => faults.fail_every(every),
            _ => faults.heal(),
        };
        (Lens::new().cache_source(backend), Box::new(fails))
    });
}

#[test]
fn w9_killed_over_a_storage_that_fails_and_ends_torn_accepted_writes_are_done_once_and_confirmed_ones_stay() {
    run(true, crashes(24), Storage::default());
}

/// What the storage does to a program.
#[derive(Default)]
struct Storage {
    /// The disk has no room for the child that lives.
    is_full: bool,
    /// Lives with calls that fail, times that the disk was full, kills while it was, journals with rubbish at their end, and
    /// entries that were torn off.
    counts: [u64; 5],
}

/// Lets the files of a process grow up to so many bytes, or without a limit.
fn limit_files(process: u32, bytes: Option<u64>) {
    let limit = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
    let (pid, limit) = (process.to_string(), format!("--fsize={limit}:unlimited"));
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
}

impl Trouble for Storage {
    fn begins(&mut self, life: &mut Life, chance: &mut Chance) {
        life.is_troubled = true;
        life.fails_every = if chance.one_in(4) { 0 } else { 3 + chance.below(60) };
        fs::create_dir_all(&life.cache).unwrap();
        self.is_full = false;
        self.counts[0] += u64::from(life.fails_every > 0);
    }

    fn goes_on(&mut self, child: u32, chance: &mut Chance) -> bool {
        if !self.is_full && !chance.one_in(12) {
            return false;
        }
        self.is_full = !self.is_full || chance.one_in(3);
        // Nothing new, the journal's small files, or some writes in the file that there is.
        let most = [8 << 10, 20 << 10, 8 << 10 | chance.below(256 << 10)];
        limit_files(child, self.is_full.then_some(most[chance.below(3) as usize]));
        self.counts[1] += u64::from(self.is_full);
        self.is_full
    }

    fn ended(&mut self, cache: &Path, book: &Book, source: &Source, chance: &mut Chance) {
        self.counts[2] += u64::from(self.is_full);
        if chance.one_in(3) {
            return;
        }
        let Some(last) = LastSegment::of(cache) else { return };
        let kept = last.entries.iter().rposition(|entry| !may_be_torn(entry, book, source)).map_or(0, |last| last + 1);
        let torn = &last.entries[kept..];
        // Somewhere in what was not durable, if there is something.
        let from = torn.first().map_or(last.end, |entry| entry.begins);
        let place = from + chance.below(last.end - from + 1);
        self.counts[3] += 1;
        self.counts[4] += torn.iter().filter(|entry| entry.begins >= place).count() as u64;
        let bytes = fs::read(&last.path).unwrap();
        let mut file = OpenOptions::new().write(true).open(&last.path).unwrap();
        let rest = (bytes.len() as u64).saturating_sub(place);
        let rubbish: Vec<u8> = match chance.below(4) {
            0 => {
                file.set_len(place).unwrap();
                return;
            }
            1 => vec![0; rest as usize],
            2 => (0..chance.below(300)).map(|_| chance.next() as u8).collect(),
            // The beginning of an entry that is somewhere else.
            _ => match last.entries.first() {
                Some(entry) => bytes[entry.begins as usize..][..chance.below(40) as usize].to_vec(),
                None => Vec::new(),
            },
        };
        if last.end > place {
            // What was there must not be whole by chance.
            file.seek(SeekFrom::Start(place)).unwrap();
            file.write_all(&vec![0; (last.end - place) as usize]).unwrap();
        }
        file.seek(SeekFrom::Start(place)).unwrap();
        file.write_all(&rubbish[..rubbish.len().min(rest as usize)]).unwrap();
    }

    fn summary(&self) -> String {
        let [lives, full, killed, torn, entries] = self.counts;
        format!(
            "; {lives} lives with failing calls, {full} times a full disk, {killed} kills on one, {torn} torn ends with \
             {entries} entries"
        )
    }
}

/// Whether a crash of the machine could have taken an entry, for all that anybody was told: nobody knows that the write is
/// accepted, and the source has not been asked for it; or it is a confirmation that the source gives again.
fn may_be_torn(entry: &LastEntry, book: &Book, source: &Source) -> bool {
    match &entry.accepted {
        Some(key) => book.mark_of(entry.write).is_none() && !source.was_asked(key),
        // What is told of a write whose row the source names is told once it is durable.
        None => entry.is_confirmation && book.mark_of(entry.write).is_some_and(|mark| mark.is_named),
    }
}
