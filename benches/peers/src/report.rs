//! Report: the medians of all runs as a table for people, and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::scenarios::{Cell, SCENARIOS};

/// All cells, by rows, scenario and contestant.
pub struct Results {
    pub contestants: Vec<&'static str>,
    cells: BTreeMap<(usize, usize, usize), Vec<Cell>>,
}

impl Results {
    pub fn new(contestants: Vec<&'static str>) -> Self {
        Results { contestants, cells: BTreeMap::new() }
    }

    pub fn add(&mut self, rows: usize, scenario: &str, contestant: usize, cell: Cell) {
        if let Some(scenario) = SCENARIOS.iter().position(|known| known.name == scenario) {
            self.cells.entry((rows, scenario, contestant)).or_default().push(cell);
        }
    }

    /// The median of the runs that gave a number, else what they gave instead.
    fn cell(&self, rows: usize, scenario: usize, contestant: usize) -> Option<Cell> {
        let cells = self.cells.get(&(rows, scenario, contestant))?;
        let mut numbers: Vec<f64> = cells.iter().filter_map(number).collect();
        if numbers.is_empty() {
            return cells.first().cloned();
        }
        numbers.sort_unstable_by(f64::total_cmp);
        Some(Cell::Number(numbers[numbers.len() / 2]))
    }

    fn number(&self, rows: usize, scenario: usize, contestant: usize) -> Option<f64> {
        number(&self.cell(rows, scenario, contestant)?)
    }

    /// Rows and scenarios that were measured, in order.
    fn lines(&self) -> Vec<(usize, usize)> {
        let mut lines: Vec<_> = self.cells.keys().map(|(rows, scenario, _)| (*scenario, *rows)).collect();
        lines.sort_unstable();
        lines.dedup();
        lines.into_iter().map(|(scenario, rows)| (rows, scenario)).collect()
    }

    /// The table: one line for a scenario and a number of rows; behind each time, how many times that of the first
    /// contestant. It is folded where it would become too wide.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let all: Vec<usize> = (0..self.contestants.len()).collect();
        for block in all.chunks(6) {
            let _ = write!(text, "{:<14} {:>9}", "scenario", "rows");
            for contestant in block {
                let _ = write!(text, " {:>20}", self.contestants[*contestant]);
            }
            text.push('\n');
            for (rows, scenario) in self.lines() {
                let _ = write!(text, "{:<14} {:>9}", SCENARIOS[scenario].name, grouped(rows));
                let first = self.number(rows, scenario, 0);
                for &contestant in block {
                    let cell = self.cell(rows, scenario, contestant);
                    let ratio = match (cell.as_ref().and_then(number), first) {
                        (Some(own), Some(first)) if contestant > 0 => format!(" {:>7}", times(own / first)),
                        _ => String::new(),
                    };
                    let _ = write!(text, " {:>20}", cell.map_or(String::new(), |cell| shown(&cell, scenario)) + &ratio);
                }
                text.push('\n');
            }
            text.push('\n');
        }
        text
    }

    /// What the scenarios measured mean.
    pub fn meanings(&self) -> String {
        let mut measured: Vec<usize> = self.lines().into_iter().map(|(_, scenario)| scenario).collect();
        measured.dedup();
        measured.into_iter().fold(String::new(), |mut text, scenario| {
            let _ = writeln!(text, "  {:<14} {}", SCENARIOS[scenario].name, SCENARIOS[scenario].meaning);
            text
        })
    }

    /// Whether the aims for call to visible are met by what was measured; only those that were measured are told.
    pub fn aims(&self) -> String {
        let mut text = String::new();
        let named = |name: &str| self.contestants.iter().position(|known| *known == name);
        let Some(ours) = named("diorama lmdb") else { return text };
        for (peer, at_100k) in [("vantage 0.4.0 redb", 1_000.0), ("vantage 1.5.0 redb", 100.0)] {
            let Some(theirs) = named(peer) else { continue };
            let mut lowest: Option<(f64, String)> = None;
            for (rows, scenario) in self.lines() {
                let name = SCENARIOS[scenario].name;
                let ratio = match (self.number(rows, scenario, ours), self.number(rows, scenario, theirs)) {
                    (Some(ours), Some(theirs)) if name.starts_with("change-") => theirs / ours,
                    _ => continue,
                };
                if rows == 100_000 {
                    let met = if ratio >= at_100k { "met" } else { "NOT met" };
                    let _ = writeln!(
                        text,
                        "  {name} at 100,000 rows at least {} {peer}: {} ({met})",
                        times(at_100k),
                        times(ratio)
                    );
                }
                if lowest.as_ref().is_none_or(|(least, _)| ratio < *least) {
                    lowest = Some((ratio, format!("{name} at {} rows", grouped(rows))));
                }
            }
            if let Some((ratio, at)) = lowest {
                let met = if ratio > 1.0 { "met" } else { "NOT met" };
                let _ = writeln!(
                    text,
                    "  call to visible faster than {peer} at every point: {met}; least {} ({at})",
                    times(ratio)
                );
            }
        }
        text
    }

    /// Everything measured, each run's number beside the median.
    pub fn json(&self, machine: &str, repeat: usize) -> String {
        let mut text = format!("{{\n  \"machine\": {},\n  \"repeat\": {repeat},\n  \"cells\": [", quoted(machine));
        for (index, ((rows, scenario, contestant), runs)) in self.cells.iter().enumerate() {
            let cell = self.cell(*rows, *scenario, *contestant);
            let _ = write!(
                text,
                "{}\n    {{\"scenario\": {}, \"rows\": {rows}, \"contestant\": {}, \"unit\": \"{}\", ",
                if index == 0 { "" } else { "," },
                quoted(SCENARIOS[*scenario].name),
                quoted(self.contestants[*contestant]),
                if is_bytes(*scenario) { "B" } else { "ns" },
            );
            let _ = match cell {
                Some(Cell::Number(median)) => {
                    let runs: Vec<String> = runs.iter().filter_map(number).map(|run| format!("{run:.1}")).collect();
                    write!(text, "\"median\": {median:.1}, \"runs\": [{}]}}", runs.join(", "))
                }
                Some(Cell::Failed(why)) => write!(text, "\"median\": null, \"why\": {}}}", quoted(&why)),
                Some(Cell::TooSlow) => write!(text, "\"median\": null, \"why\": \"over the time limit\"}}"),
                _ => write!(text, "\"median\": null, \"why\": \"not offered\"}}"),
            };
        }
        text.push_str("\n  ]\n}\n");
        text
    }
}

fn is_bytes(scenario: usize) -> bool {
    SCENARIOS[scenario].name.starts_with("memory-")
}

fn number(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Number(nanos) => Some(*nanos),
        _ => None,
    }
}

fn shown(cell: &Cell, scenario: usize) -> String {
    match cell {
        Cell::Number(bytes) if is_bytes(scenario) => format!("{} B", grouped(bytes.round() as usize)),
        Cell::Number(nanos) if *nanos < 1e3 => format!("{nanos:.0} ns"),
        Cell::Number(nanos) if *nanos < 1e6 => format!("{} µs", digits(nanos / 1e3)),
        Cell::Number(nanos) if *nanos < 1e9 => format!("{} ms", digits(nanos / 1e6)),
        Cell::Number(nanos) => format!("{} s", digits(nanos / 1e9)),
        Cell::Absent => "-".to_owned(),
        Cell::TooSlow => "too slow".to_owned(),
        Cell::Failed(_) => "failed".to_owned(),
    }
}

/// A number below a thousand with three digits that say something.
fn digits(number: f64) -> String {
    if number < 9.995 {
        format!("{number:.2}")
    } else if number < 99.95 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

fn times(ratio: f64) -> String {
    match ratio {
        0.0 => String::new(),
        ..0.095 => format!("1/{}", grouped((1.0 / ratio).round() as usize)),
        ..100.0 => format!("{}x", digits(ratio)),
        _ => format!("{}x", grouped(ratio.round() as usize)),
    }
}

/// With commas between thousands.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", control as u32);
            }
            other => quoted.push(other),
        }
    }
    quoted + "\""
}
