//! Quickstart: airports from a CSV file, through a cache on disk, into live views.
//!
//! ```text
//! cargo run --release --example quickstart                  a second run starts from the cache of the first
//! cargo run --release --example quickstart -- --fresh       starts over
//! cargo run --release --example quickstart -- --in <dir>    keeps its files there instead of in target/quickstart
//! ```

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::{ChangeSet, TableSnapshot};

const AIRPORTS: &str = include_str!("data/airports.csv");

/// The row that this program edits, and the two names that it has in turn.
const EDITED: &str = "00R";
const NAMES: [&str; 2] = ["Livingston Municipal", "Alamo Field"];

/// What the other program changes in the file, there and back: one airport's name, and which of two airports there is.
const OUTSIDE: [[&str; 2]; 2] = [
    ["E38,Alpine-Casparis Municipal,", "E38,Alpine-Casparis,"],
    [
        "ADS,Addison,Dallas/Addison,TX,USA,32.96855944,-96.83644778",
        "XBB,Big Bend Starport,Marathon,TX,USA,30.2071,-103.2446",
    ],
];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = scratch_directory()?;
    let file = directory.join("airports.csv");
    if !file.exists() {
        fs::write(&file, AIRPORTS)?;
    }
    let clock = Clock::system();

    let home = directory.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&directory);
    println!("Its files are in {}: airports.csv, a copy to edit, and the cache.", home.display());

    step(1, "Open airports.csv through a cache on disk");
    let begin = clock.now();
    let lens = Lens::new().cache_at(directory.join("cache")).build()?;
    let airports = lens.make_dio(CsvVista::open(&file, "iata")?)?;
    let status = airports.status();
    let texas = airports.table_scenery().where_eq("state", "TX").sort("name", SortDir::Asc).open()?;
    let everywhere = airports.value_scenery().count().open()?;
    let shown_after = in_words(clock.now().since(begin));
    let rows = thousands(status.rows);
    if status.warm_start {
        let refreshed = status.last_refresh.map_or("never".to_owned(), |at| ago(at, &clock));
        println!(
            "   Warm start: {rows} rows came from the cache and were shown after {shown_after}, without waiting for"
        );
        println!("   the file, which is read again behind them. Last refreshed: {refreshed}.");
        airports.refresh()?;
        println!("   It has been read now: the rows are as the file has them.");
    } else {
        println!("   Cold start: the cache was empty, so the file's {rows} rows were copied first; shown after");
        println!("   {shown_after}. The next run starts from the cache.");
    }

    step(2, "Look at it: a view of the airports in Texas by name, and a count of all");
    print_top(&texas.snapshot(), &everywhere);

    step(3, "Edit a row: the edit reaches the file, and the view");
    let Some(name) = airports.cache().get(EDITED)?.and_then(|row| row.text("name").map(str::to_owned)) else {
        return Err(format!("airports.csv has lost the row {EDITED}; run this with --fresh").into());
    };
    let new_name = if name == NAMES[0] { NAMES[1] } else { NAMES[0] };
    let before = texas.snapshot();
    let old_text = fs::read_to_string(&file)?;
    let ticket = airports.write(WriteOp::patch(EDITED, record! { "name" => new_name }))?;
    ticket.wait(Duration::from_secs(10))?;
    print_changed_lines(&old_text, &fs::read_to_string(&file)?);
    print_changes(&before, &texas.changes_since(before.generation()));

    step(4, "Another program edits the file: refresh() picks it up");
    let before = texas.snapshot();
    let old_text = fs::read_to_string(&file)?;
    let new_text = OUTSIDE.iter().fold(old_text.clone(), |text, [one, other]| swap(&text, one, other));
    fs::write(&file, &new_text)?;
    print_changed_lines(&old_text, &new_text);
    airports.refresh()?;
    print_changes(&before, &texas.changes_since(before.generation()));
    println!();
    print_top(&texas.snapshot(), &everywhere);

    step(5, "Close");
    let report = lens.close(Duration::from_secs(10))?;
    println!("   Delivered writes: {}, failed: {}. The cache is on disk.", report.delivered, report.failed);
    println!("   Run it again to see it start from there (edit the file in between if you like), or with");
    println!("   `-- --fresh` to start over.");
    Ok(())
}

/// The directory of the copied file and the cache, which stays between runs.
fn scratch_directory() -> Result<PathBuf, Box<dyn Error>> {
    let mut directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join("quickstart");
    let mut fresh = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--fresh" => fresh = true,
            "--in" => directory = arguments.next().ok_or("--in needs a directory")?.into(),
            other => return Err(format!("`{other}` is unknown; there are --fresh and --in <directory>").into()),
        }
    }
    fs::create_dir_all(&directory)?;
    if fresh {
        // Only what this program makes: `--in` may name a directory with other things in it.
        remove_if_there(fs::remove_file(directory.join("airports.csv")))?;
        remove_if_there(fs::remove_dir_all(directory.join("cache")))?;
    }
    Ok(directory)
}

fn remove_if_there(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// `text` with `one` in the place of `other`, or the other way round, whichever it has.
fn swap(text: &str, one: &str, other: &str) -> String {
    if text.contains(one) { text.replacen(one, other, 1) } else { text.replacen(other, one, 1) }
}

fn step(number: u32, title: &str) {
    println!("\n{number}. {title}");
}

fn print_top(texas: &TableSnapshot, everywhere: &ValueScenery) {
    println!("   {:>3}  {:<4}  {:<32}  City", "Row", "IATA", "Name");
    for (position, row) in texas.rows(0..5).enumerate() {
        let text = |column| row.text(column).unwrap_or_default();
        println!("   {:>3}  {:<4}  {:<32}  {}", position + 1, row.id(), text("name"), text("city"));
    }
    let all = everywhere.int().unwrap_or_default();
    println!("   Texas has {} of {} airports.", texas.row_count(), thousands(all));
}

/// What happened to the view, as a list of its rows would animate it. Snapshots are frozen, so the old one still knows where
/// each row was and what it said.
fn print_changes(before: &TableSnapshot, set: &ChangeSet) {
    let Changes::List(changes) = &set.changes else {
        println!("   view  too much to list: shown anew, {} rows", set.snapshot.row_count());
        return;
    };
    if changes.is_empty() {
        println!("   view  no change");
    }
    // The steps are applied one after the other to a list of ids, so that each finds the row it is about.
    let mut ids: Vec<String> = before.iter().map(|row| row.id().to_owned()).collect();
    for change in changes {
        let (what, id) = match *change {
            Change::Insert { index } => {
                let id = set.snapshot.row(index).map_or_else(String::new, |row| row.id().to_owned());
                ids.insert(index, id.clone());
                ("inserted", id)
            }
            Change::Remove { index } => ("removed", ids.remove(index)),
            Change::Move { from, to } => {
                let id = ids.remove(from);
                ids.insert(to, id.clone());
                ("moved", id)
            }
            Change::Update { index } => ("updated", ids[index].clone()),
            _ => continue,
        };
        let (was, is) = (describe(before, &id), describe(&set.snapshot, &id));
        let told: Vec<&str> = [was.as_deref(), is.as_deref()].into_iter().flatten().collect();
        println!("   view  {what:<9} {id:<4}  {}", told.join("  ->  "));
    }
}

/// Where a row stands in a snapshot, and its name.
fn describe(snapshot: &TableSnapshot, id: &str) -> Option<String> {
    let position = snapshot.position_of(id).ok()??;
    let row = snapshot.row(position)?;
    Some(format!("row {} {}", position + 1, row.text("name").unwrap_or_default()))
}

fn print_changed_lines(old: &str, new: &str) {
    for (number, (old, new)) in old.lines().zip(new.lines()).enumerate().filter(|(_, (old, new))| old != new) {
        println!("   file  line {:<5} - {old}", number + 1);
        println!("                    + {new}");
    }
}

fn thousands(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn in_words(time: Duration) -> String {
    match time.as_millis() {
        0 => format!("{} µs", time.as_micros()),
        ms if ms < 10_000 => format!("{ms} ms"),
        _ => format!("{} s", time.as_secs()),
    }
}

fn ago(then: SystemTime, clock: &Clock) -> String {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(clock.wall_ms()).unwrap_or(0));
    match now.duration_since(then).unwrap_or_default().as_secs() {
        0 => "less than a second ago".to_owned(),
        seconds @ 1..120 => format!("{seconds} s ago"),
        seconds @ 120..7_200 => format!("{} minutes ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} hours ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}
