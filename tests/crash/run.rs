//! Run: lives that end at any moment, one after the other over one cache, and what must hold after all of them.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use super::book::Book;
use super::chance::Chance;
use super::child::{self, Life, Task};
use super::limit;
use super::source::Source;

const SIGKILL: i32 = 9;

/// What goes wrong beside the kills.
pub(crate) trait Trouble: Send + 'static {
    /// A life is about to begin.
    fn begins(&mut self, _life: &mut Life, _chance: &mut Chance) {}

    /// The child of this process id writes. Gives back whether something may go wrong for it that keeps it from writing.
    fn goes_on(&mut self, _child: u32, _chance: &mut Chance) -> bool {
        false
    }

    /// It was killed.
    fn ended(&mut self, _cache: &Path, _book: &Book, _source: &Source, _chance: &mut Chance) {}

    /// All that went wrong.
    fn summary(&self) -> String {
        String::new()
    }
}

/// Nothing does.
impl Trouble for () {}

pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

pub(crate) fn crashes(quick: u64) -> u64 {
    setting("DIORAMA_CRASHES").unwrap_or(quick)
}

pub(crate) fn run(keeps_keys: bool, crashes: u64, trouble: impl Trouble) {
    let seed = setting("DIORAMA_CRASH_SEED").unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
    let limit = Duration::from_secs(120 + 2 * crashes);
    let what = move || format!("DIORAMA_CRASH_SEED={seed}");
    limit::limited_saying(limit, what, move || {
        eprintln!("DIORAMA_CRASH_SEED={seed}");
        crash_and_compare(keeps_keys, crashes, seed, trouble);
    });
}

fn crash_and_compare(keeps_keys: bool, crashes: u64, seed: u64, mut trouble: impl Trouble) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("source");
    let cache = directory.path().join("cache");
    let source = Source::start(&socket, keeps_keys, seed);
    let mut chance = Chance::new(!seed);
    let mut book = Book::new(keeps_keys);
    let calm = Life {
        task: Task::Write,
        keeps_keys,
        seed,
        first_mark: child::FIRST_MARK,
        socket,
        cache: cache.clone(),
        fails_every: 0,
        is_troubled: false,
    };
    for _ in 0..crashes {
        let mut life = Life { seed: chance.next(), first_mark: book.next_mark(), ..calm.clone() };
        trouble.begins(&mut life, &mut chance);
        live_and_die(&life, &source, &mut book, &mut chance, &mut trouble);
        trouble.ended(&cache, &book, &source, &mut chance);
    }
    for task in [Task::Drain, Task::Look] {
        live_to_the_end(&Life { task, ..calm.clone() }, &source, &mut book);
        assert_eq!(child::as_rows(&book.shown), source.rows(), "{task:?}");
        assert!(book.shown.iter().all(|row| !row.is_pending), "{task:?}");
        assert_eq!(book.rest, Some((0, 0, 0, true)), "{task:?}: pending, failed, kept, closed");
    }
    book.check_effects(&source.effects());
    let journal = size(&cache.join("journal"));
    assert!(journal <= 4_096, "{journal} bytes are left in the journal");
    let (calls, effects) = (source.calls(), source.effects().len());
    eprintln!("{crashes} crashes: {}; {calls} calls, {effects} effects{}", book.summary(), trouble.summary());
    source.end();
}

/// One life that ends at a moment which chance chooses, also while it begins.
fn live_and_die(life: &Life, source: &Source, book: &mut Book, chance: &mut Chance, trouble: &mut impl Trouble) {
    /// Looks for reports while nobody knows whether there will be any, and how long one lasts.
    const LOOKS: u64 = 20;
    const A_MOMENT: Duration = Duration::from_millis(2);
    let (before, looks) = (source.reporters_gone(), book.looks);
    let mut running = life.start();
    let child = &mut running.0;
    let is_early = chance.one_in(8);
    let until = if is_early { 0 } else { chance.below(400) as usize };
    let target = book.accepted() + until;
    while book.accepted() < target {
        if book.looks > looks && trouble.goes_on(child.id(), chance) {
            for _ in 0..chance.below(LOOKS) {
                source.reports_within(A_MOMENT).into_iter().for_each(|report| book.note(report));
            }
            if chance.one_in(4) {
                break;
            }
            continue;
        }
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
