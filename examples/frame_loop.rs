//! Frame loop: a screen that paints 60 times a second over 200,000 rows while another thread changes them.
//!
//! A frame reads what is published. It never waits for the source or for the threads that change and store rows.
//!
//! ```text
//! cargo run --release --example frame_loop
//! cargo run --release --example frame_loop -- --seconds 10
//! ```

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, tick};
use diorama::TableSnapshot;
use diorama::clock::Clock;
use diorama::prelude::*;
use flate2::read::GzDecoder;

const FRAME: Duration = Duration::from_micros(16_667);
/// Rows that fit on the screen.
const SCREEN: usize = 50;
/// The feed changes this many rows, one by one, then rests.
const BURST: usize = 1_000;
const REST: Duration = Duration::from_millis(50);

/// What the frames cost and did.
#[derive(Default)]
struct Tally {
    costs: Vec<Duration>,
    late: u64,
    painted: u64,
    skipped: u64,
    rows: usize,
    lists: u64,
    listed: usize,
    resets: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = seconds_asked_for()?;
    let clock = Clock::system();
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("flights.csv");
    unpack(&file)?;

    println!("Frame loop: 60 frames a second over a table that another thread changes\n");
    let begin = clock.now();
    let lens = Lens::new().cache_at(scratch.path().join("cache")).build()?;
    let flights = lens.make_dio(CsvVista::open(&file, "id")?)?;
    let board = flights.table_scenery().sort("delay", SortDir::Desc).open()?;
    let late = flights.value_scenery().count().condition(Condition::gt("delay", 60)).open()?;
    println!(
        "  rows       {} flights, sorted by delay, ready after {:.1?}",
        board.row_count(),
        clock.now().since(begin)
    );

    let late_before = late.int().unwrap_or_default();
    let (stop, stopped) = bounded(0);
    let (tally, changed) = std::thread::scope(|scope| {
        let feed = scope.spawn(|| change_rows(&flights, &stopped));
        let tally = frames(&clock, &board, &late, seconds);
        drop(stop);
        (tally, feed.join())
    });
    let changed = changed.map_err(|_| "the feed panicked")??;
    report(&tally, seconds);
    println!("  changes    {changed} rows changed by the feed meanwhile");
    println!(
        "  count      {} flights more than an hour late at first, {} now",
        late_before,
        late.int().unwrap_or_default()
    );

    let closed = lens.close(Duration::from_secs(30))?;
    if !closed.is_closed() {
        return Err(format!("still running: {}", closed.still_running.join(", ")).into());
    }
    Ok(())
}

/// The screen's thread. The only thing that it waits for is the next frame.
fn frames(clock: &Clock, board: &TableScenery, late: &ValueScenery, seconds: u64) -> Tally {
    let mut tally = Tally::default();
    let beat = tick(FRAME);
    let end = clock.now().after(Duration::from_secs(seconds));
    let mut top = 0;
    let mut painted: Option<(Generation, Generation, usize)> = None;
    let mut previous = clock.now();
    for frame in 0_u64.. {
        if beat.recv().is_err() || clock.now() >= end {
            break;
        }
        let begin = clock.now();
        tally.late += u64::from(begin.since(previous) > FRAME * 2);
        previous = begin;

        // The reader scrolls, and now and then jumps to another part of the list.
        let step = match frame % 120 {
            40 | 80 => SCREEN / 2,
            119 => 77_777,
            _ => 0,
        };
        if step > 0 {
            top = (top + step) % board.row_count().max(1);
            board.set_viewport(top..top + SCREEN);
        }
        let now = (board.generation(), late.generation(), top);
        if painted == Some(now) {
            tally.skipped += 1;
        } else {
            // The changes come with the snapshot that they lead to: a list that takes both never misses or repeats one.
            let snapshot = match painted {
                Some((shown, ..)) => {
                    let set = board.changes_since(shown);
                    note_changes(&mut tally, &set.changes);
                    set.snapshot
                }
                None => board.snapshot(),
            };
            tally.rows += paint(&snapshot, late, top);
            painted = Some((snapshot.generation(), now.1, top));
            tally.painted += 1;
        }
        tally.costs.push(clock.now().since(begin));
    }
    tally
}

/// Paints a window of a snapshot, and the count above it; says how many rows it painted.
fn paint(snapshot: &TableSnapshot, late: &ValueScenery, top: usize) -> usize {
    let mut screen = format!("{} late\n", late.int().unwrap_or_default());
    let rows = snapshot.rows(top..top + SCREEN);
    let painted = rows.len();
    for row in rows {
        let text = |column| row.text(column).unwrap_or_default();
        let delay = row.int("delay").unwrap_or_default();
        screen.push_str(&format!("{delay:>5} {} {} {}\n", text("origin"), text("destination"), text("date")));
    }
    // A real screen would be drawn here.
    std::hint::black_box(screen);
    painted
}

/// What a list widget would do with the changes since the frame before.
fn note_changes(tally: &mut Tally, changes: &Changes) {
    match changes {
        Changes::List(changes) => {
            tally.lists += 1;
            tally.listed += changes.len();
        }
        _ => tally.resets += 1,
    }
}

/// The feed: somebody else's changes, each visible before the next is made. Gives back how many it made.
fn change_rows(flights: &Dio, stop: &Receiver<()>) -> diorama::Result<u64> {
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut changed = 0;
    loop {
        for _ in 0..BURST {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let id = format!("f{:07}", random % 200_000);
            if let Some(mut flight) = flights.cache().get(&id)? {
                flight.insert("delay", (random >> 32) % 300);
                flights.patched(id, flight)?;
                changed += 1;
            }
        }
        if stop.recv_timeout(REST) != Err(RecvTimeoutError::Timeout) {
            return Ok(changed);
        }
    }
}

fn report(tally: &Tally, seconds: u64) {
    let mut costs = tally.costs.clone();
    costs.sort_unstable();
    let at = |percent: usize| costs.get((costs.len() * percent / 100).min(costs.len().saturating_sub(1)));
    let at = |percent| at(percent).copied().unwrap_or_default();
    println!(
        "  frames     {} in {seconds} s: {} painted, {} skipped because nothing shown had moved",
        costs.len(),
        tally.painted,
        tally.skipped
    );
    println!("  cost       p50 {:.1?}, p99 {:.1?}, max {:.1?} of {:.1?} a frame", at(50), at(99), at(100), FRAME);
    println!("  late       {} frames came more than a frame late", tally.late);
    println!("  window     {} rows painted, {SCREEN} a frame", tally.rows);
    println!(
        "  lists      {} lists of changes, {} steps in all; {} resets, where more had changed than",
        tally.lists, tally.listed, tally.resets
    );
    println!("             a view remembers one by one");
}

fn seconds_asked_for() -> Result<u64, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(3),
        (Some("--seconds"), Some(seconds)) => {
            Ok(seconds.parse().map_err(|_| format!("`{seconds}` is no number of seconds"))?)
        }
        _ => Err("there is only --seconds <number>".into()),
    }
}

fn unpack(file: &Path) -> io::Result<()> {
    let packed = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/data/flights-200k.csv.gz"))?;
    io::copy(&mut GzDecoder::new(packed), &mut File::create(file)?)?;
    Ok(())
}
