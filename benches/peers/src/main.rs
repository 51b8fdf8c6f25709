//! Peers: Diorama beside other libraries, doing the same things with the same rows; one table for people, and JSON.
//!
//! ```text
//! cargo run --release
//! cargo run --release -- --rows 100000 --scenario change-1,open-sorted --repeat 5 --json results.json
//! ```

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use peers::contestants::{self, Contestant};
use peers::report::{Results, grouped};
use peers::rows;
use peers::scenarios::{self, Cell, Plan, SCENARIOS};

const HELP: &str = "\
--rows 1000,10000        how many rows (1000,10000)
--scenario change-1,…    which scenarios, a name or the part before a dash (all)
--contestant diorama,…   which contestants, by a part of their names (all)
--repeat 3               how many alternating runs the medians are of (3)
--limit 3                seconds after which a scenario is given up beforehand as too slow (3)
--json FILE              everything measured, as JSON, too";

struct Options {
    rows: Vec<usize>,
    scenarios: Vec<&'static str>,
    contestants: Vec<Contestant>,
    repeat: usize,
    limit: Duration,
    json: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(options) = options()? else {
        println!("{HELP}");
        return Ok(());
    };
    let machine = machine();
    println!(
        "{machine}; medians of {} alternating runs; behind a time, how many times the first column's\n",
        options.repeat
    );

    let mut results = Results::new(options.contestants.iter().map(|contestant| contestant.name).collect());
    for &count in &options.rows {
        let rows = rows::make(count);
        let plan = Plan { wanted: options.scenarios.clone(), limit: options.limit };
        for turn in 0..options.repeat {
            for offset in 0..options.contestants.len() {
                let number = (turn + offset) % options.contestants.len();
                let contestant = &options.contestants[number];
                eprint!("\r{:<79}\r{} rows, run {}, {}", "", grouped(count), turn + 1, contestant.name);
                let directory = tempfile::tempdir()?;
                let mut table = (contestant.prepare)(&rows, directory.path())?;
                let mut cells = scenarios::run_changes(contestant, &mut *table, &rows, &plan);
                let reopens = table.reopens();
                drop(table);
                if plan.wanted.contains(&"reopen") {
                    let again = if reopens {
                        scenarios::reopen(&rows, || (contestant.prepare)(&rows, directory.path()))
                    } else {
                        Cell::Absent
                    };
                    cells.push(("reopen", again));
                }
                if plan.wants_others() {
                    let directory = tempfile::tempdir()?;
                    let mut table = (contestant.prepare)(&rows, directory.path())?;
                    cells.extend(scenarios::run_others(contestant, &mut *table, &rows, &plan));
                }
                if plan.wanted.iter().any(|name| name.starts_with("memory-")) {
                    let (row, view) = memory_of(contestant, count);
                    cells.extend([("memory-row", row), ("memory-view", view)]);
                }
                for (scenario, cell) in cells {
                    if let Cell::Failed(why) = &cell {
                        eprintln!("\r{} with {} rows ended: {why}", contestant.name, grouped(count));
                    }
                    if plan.wanted.contains(&scenario) {
                        results.add(count, scenario, number, cell);
                    }
                }
            }
        }
    }
    eprint!("\r{:<79}\r", "");

    println!("{}\n{}", results.table(), results.meanings());
    let aims = results.aims();
    if !aims.is_empty() {
        println!("Aims:\n{aims}");
    }
    if let Some(file) = &options.json {
        std::fs::write(file, results.json(&machine, options.repeat))?;
    }
    Ok(())
}

/// Bytes per row and per view, measured by another program.
fn memory_of(contestant: &Contestant, rows: usize) -> (Cell, Cell) {
    let measured = std::env::current_exe().and_then(|program| {
        Command::new(program.with_file_name("peers-memory")).args([contestant.name, &rows.to_string()]).output()
    });
    let printed = measured.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let numbers: Vec<f64> = printed.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [row, view] if !contestant.allocates_in_c => (Cell::Number(row), Cell::Number(view)),
        _ => (Cell::Absent, Cell::Absent),
    }
}

/// `None` when help was asked for.
fn options() -> Result<Option<Options>, Box<dyn Error>> {
    let mut options = Options {
        rows: vec![1_000, 10_000],
        scenarios: SCENARIOS.iter().map(|scenario| scenario.name).collect(),
        contestants: contestants::all(),
        repeat: 3,
        limit: Duration::from_secs(3),
        json: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--help" {
            return Ok(None);
        }
        let value = arguments.next().ok_or_else(|| format!("`{argument}` needs a value, or is unknown\n{HELP}"))?;
        let number = || value.parse::<usize>().map_err(|_| format!("`{value}` is no number"));
        match argument.as_str() {
            "--rows" => {
                let counts = value.split(',').map(|count| count.replace('_', "").parse::<usize>());
                options.rows =
                    counts.collect::<Result<_, _>>().map_err(|_| format!("`{value}` is no list of numbers"))?;
                if options.rows.iter().any(|count| *count < 1_000) {
                    return Err("at least 1000 rows".into());
                }
            }
            "--scenario" => options.scenarios.retain(|name| {
                value.split(',').any(|wanted| *name == wanted || name.starts_with(&format!("{wanted}-")))
            }),
            "--contestant" => {
                options
                    .contestants
                    .retain(|contestant| value.split(',').any(|wanted| contestant.name.contains(wanted)));
            }
            "--repeat" => options.repeat = number()?.max(1),
            "--limit" => options.limit = Duration::from_secs(number()? as u64),
            "--json" => options.json = Some(value),
            _ => return Err(format!("`{argument}` is unknown\n{HELP}").into()),
        }
    }
    if options.scenarios.is_empty() || options.contestants.is_empty() {
        return Err(format!("nothing to do; the scenarios are {}", names(SCENARIOS.iter().map(|it| it.name))).into());
    }
    Ok(Some(options))
}

fn names(all: impl Iterator<Item = &'static str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{} {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH)
}
