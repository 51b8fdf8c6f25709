//! What one contestant keeps allocated, per row and per view: `peers` runs this once for each, in a fresh process.

use std::error::Error;

use peak_alloc::PeakAlloc;
use peers::contestants::{self, Table};
use peers::rows;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const VIEWS: u8 = 20;

/// Arguments: the contestant's name and how many rows. Prints bytes per row and bytes per view.
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, count] = &arguments[..] else { return Err("it needs a contestant and a number of rows".into()) };
    let all = contestants::all();
    let contestant = all.iter().find(|known| known.name == name).ok_or("no such contestant")?;
    let rows = rows::make(count.parse()?);
    let directory = tempfile::tempdir()?;
    let mut table = (contestant.prepare)(&rows, directory.path())?;

    let before = settled();
    if table.seed()?.is_none() || table.open()?.is_none() {
        return Err("it has no rows or no views".into());
    }
    let seeded = settled();
    for _ in 0..VIEWS {
        open_one(&mut *table)?;
    }
    let opened = settled();
    println!("{} {}", (seeded - before) / rows.len() as f64, (opened - seeded) / f64::from(VIEWS));
    Ok(())
}

fn open_one(table: &mut dyn Table) -> Result<(), Box<dyn Error>> {
    table.open()?.map(drop).ok_or_else(|| "it has one view only".into())
}

/// Bytes allocated when what is written behind has been written: when they have not changed for a while.
fn settled() -> f64 {
    let mut bytes = ALLOCATED.current_usage();
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = ALLOCATED.current_usage();
        if now == bytes {
            break;
        }
        bytes = now;
    }
    bytes as f64
}
