//! Scenarios: what is done with a table, in one order for every contestant, and how it is timed.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::contestants::{Contestant, Done, Prepared, Table, Works, Writing};
use crate::rows::{Feed, Row, SEARCHED, SHOWN_BAND};

/// What a scenario gave in one run; a median where it was done many times.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nanoseconds, or bytes.
    Number(f64),
    /// The library has no such thing.
    Absent,
    /// Not done: it would have taken longer than `--limit`.
    TooSlow,
    Failed(String),
}

pub struct Scenario {
    pub name: &'static str,
    pub meaning: &'static str,
}

macro_rules! scenarios {
    ($($name:literal: $meaning:literal,)*) => {
        pub const SCENARIOS: &[Scenario] = &[$(Scenario { name: $name, meaning: $meaning },)*];
    };
}

scenarios! {
    "seed": "all rows from the source into the library's store",
    "open-sorted": "a view of all rows, sorted",
    "open-filtered": "a view of a hundredth of the rows, sorted and filtered",
    "change-1": "call to visible: one row changes, one view open",
    "change-10": "call to visible with 10 different views",
    "change-100": "call to visible with 100 different views",
    "change-1000": "call to visible with 1,000 different views",
    "core-1": "one change, one view: processor time of the threads that do it",
    "cpu-1": "one change, one view: processor time of the whole process",
    "cpu-10": "the same with 10 different views",
    "cpu-100": "the same with 100 different views",
    "cpu-1000": "the same with 1,000 different views",
    "burst": "1,000 rows change at once, until visible; per row",
    "write-shown": "1,000 rows written for the source, until visible; per row",
    "write": "1,000 rows written for the source, until it has them; per row",
    "window": "50 rows read from the middle of a view",
    "get": "one row read by id",
    "count-sum": "call to visible: one view, the count of all rows and the sum of a column",
    "re-sort": "a view of all rows sorted by another column",
    "search": "a view of all rows searched for a word in a sixteenth of them",
    "refresh-same": "a refresh, nothing has changed in the source",
    "refresh-1%": "a refresh, one row in a hundred has changed, until visible",
    "wake-up": "from the call until a waiting thread or task has woken",
    "reopen": "opened again with what is on the disk, until the first 50 rows of a sorted view",
    "memory-row": "allocated for the rows and a sorted view of them, per row",
    "memory-view": "allocated for each of 20 more views of a hundredth of the rows",
}

/// Which scenarios to do, and how long a single one may take.
pub struct Plan {
    pub wanted: Vec<&'static str>,
    pub limit: Duration,
}

impl Plan {
    fn wants(&self, name: &str) -> bool {
        self.wanted.contains(&name)
    }

    /// Whether there is something for [`run_others`].
    pub fn wants_others(&self) -> bool {
        self.wants_any(&["re-sort", "search", "refresh-same", "refresh-1%"])
    }

    fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wants(name))
    }
}

/// How often something is repeated within one run, unless that takes longer than `SPAN`.
const TIMES: usize = 400;
const SPAN: Duration = Duration::from_millis(300);
const BURST: usize = 1_000;

pub type Cells = Vec<(&'static str, Cell)>;

/// Times opening again what another table has seeded in the same directory, until the first screen.
pub fn reopen(rows: &[Row], prepare: impl Fn() -> Prepared) -> Cell {
    let wanted = sum_from(rows, 0);
    let attempt = || -> Result<Cell, Box<dyn Error>> {
        let mut table = prepare()?;
        let begin = Instant::now();
        table.seed()?;
        let shown = table.first_screen()?;
        let took = begin.elapsed();
        Ok(check_value(shown, wanted, "the sum of the first rows")?.map_or(Cell::Absent, |()| nanos(took)))
    };
    // Tasks of the table before may hold its file for a while.
    let mut attempts = 0;
    loop {
        attempts += 1;
        match attempt() {
            Ok(cell) => return cell,
            Err(error) if attempts == 50 => return Cell::Failed(error.to_string()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// One run of one contestant: seeding, opening, changes and reads. `rows` is what the source had when the table was prepared.
pub fn run_changes(contestant: &Contestant, table: &mut dyn Table, rows: &[Row], plan: &Plan) -> Cells {
    run(contestant, table, rows, plan, |run| run.changes())
}

/// One run of what is done with a view other than changing rows, on a table of its own.
pub fn run_others(contestant: &Contestant, table: &mut dyn Table, rows: &[Row], plan: &Plan) -> Cells {
    run(contestant, table, rows, plan, |run| run.others())
}

fn run(
    contestant: &Contestant,
    table: &mut dyn Table,
    rows: &[Row],
    plan: &Plan,
    work: impl FnOnce(&mut Run<'_>) -> Step,
) -> Cells {
    let mut run = Run { contestant, table, rows, plan, feed: Feed::new(rows), views: 0, cells: Vec::new() };
    if let Err(error) = work(&mut run) {
        run.cells.push(("", Cell::Failed(error.to_string())));
    }
    run.cells
}

struct Run<'a> {
    contestant: &'a Contestant,
    table: &'a mut dyn Table,
    rows: &'a [Row],
    plan: &'a Plan,
    feed: Feed<'a>,
    views: usize,
    cells: Cells,
}

type Step = Result<(), Box<dyn Error>>;

impl Run<'_> {
    fn changes(&mut self) -> Step {
        self.once("seed", |table| table.seed())?;
        let shown = self.once("open-sorted", |table| table.open())?;
        check(shown, self.rows.len(), "rows in the sorted view")?;
        self.views = usize::from(shown.is_some());
        let per_change = self.change("change-1", "cpu-1", true)?;
        self.burst()?;
        self.writes()?;
        self.reads()?;
        self.values()?;
        if self.plan.wants("wake-up") {
            self.wake()?;
        }

        let mut opened = Duration::ZERO;
        let needs_more = ["change-10", "change-100", "change-1000", "cpu-10", "cpu-100", "cpu-1000"];
        if self.plan.wants("open-filtered") || self.plan.wants_any(&needs_more) {
            let begin = Instant::now();
            let band = self.rows.iter().filter(|row| row.band == SHOWN_BAND).count();
            let shown = self.once("open-filtered", |table| table.open())?;
            check(shown, band, "rows in the filtered view")?;
            opened = begin.elapsed();
            if shown.is_none() {
                self.cells.extend(needs_more.map(|name| (name, Cell::Absent)));
                return Ok(());
            }
            self.views = 2;
        }
        let mut slowest = per_change;
        for (views, change, cpu) in
            [(10, "change-10", "cpu-10"), (100, "change-100", "cpu-100"), (1_000, "change-1000", "cpu-1000")]
        {
            if !self.plan.wants_any(&[change, cpu]) {
                continue;
            }
            // Two changes at ten times the last cost, and as many more views.
            let forecast = slowest * 20 + opened * (views - self.views) as u32;
            if forecast > self.plan.limit {
                slowest = self.plan.limit;
                self.cells.extend([(change, Cell::TooSlow), (cpu, Cell::TooSlow)]);
                continue;
            }
            while self.views < views {
                self.table.open()?;
                self.views += 1;
            }
            slowest = self.change(change, cpu, false)?;
        }
        Ok(())
    }

    /// Does and times something once.
    fn once<T>(&mut self, name: &'static str, work: impl FnOnce(&mut dyn Table) -> Done<T>) -> Done<T> {
        let begin = Instant::now();
        let done = work(self.table)?;
        let took = begin.elapsed();
        self.cells.push((name, if done.is_some() { nanos(took) } else { Cell::Absent }));
        Ok(done)
    }

    /// Changes rows one by one for a while; the median time of one.
    fn change(&mut self, change: &'static str, cpu: &'static str, in_core: bool) -> Result<Duration, Box<dyn Error>> {
        if !self.plan.wants_any(&[change, cpu, "core-1"]) && !self.plan.wants_any(&["change-10", "cpu-10"]) {
            return Ok(Duration::ZERO);
        }
        let mut times = Vec::with_capacity(TIMES);
        let begun = process_time();
        // Two unmeasured, so that what is made on first use is there.
        for _ in 0..2 {
            let begin = Instant::now();
            let (row, tops) = self.feed.next_change();
            if self.table.change(&row, tops)?.is_none() {
                self.cells.extend([(change, Cell::Absent), (cpu, Cell::Absent)]);
                return Ok(Duration::ZERO);
            }
            times.push(begin.elapsed());
            if begin.elapsed() > SPAN {
                break;
            }
        }
        // A slow one is measured by what the warm-up took.
        let (mut used, core) = (process_time() - begun, self.core_time());
        let begin = Instant::now();
        if times.iter().all(|time| *time <= SPAN) {
            times.clear();
            let before = process_time();
            while times.len() < TIMES && (times.len() < 2 || begin.elapsed() < SPAN) {
                let (row, tops) = self.feed.next_change();
                let begin = Instant::now();
                self.table.change(&row, tops)?;
                times.push(begin.elapsed());
            }
            used = process_time() - before;
        }
        self.check_tops()?;
        // An odd number of changes leaves one row lifted.
        if self.feed.is_lifted() {
            let (row, tops) = self.feed.next_change();
            self.table.change(&row, tops)?;
        }
        let each = median(&mut times);
        self.cells.push((change, nanos(each)));
        if used > Duration::ZERO {
            let count = times.len() as f64;
            self.cells.push((cpu, Cell::Number(used.as_nanos() as f64 / count)));
            if in_core {
                let in_core = match (self.contestant.works, core, self.core_time()) {
                    (Works::InCaller, ..) => Cell::Number(used.as_nanos() as f64 / count),
                    (_, Some(before), Some(after)) => Cell::Number((after - before) as f64 / count),
                    _ => Cell::Absent,
                };
                self.cells.push(("core-1", in_core));
            }
        }
        Ok(each)
    }

    fn burst(&mut self) -> Step {
        if !self.plan.wants("burst") {
            return Ok(());
        }
        let (rows, tops) = self.feed.burst(BURST);
        let begin = Instant::now();
        let done = self.table.burst(&rows, tops)?;
        let took = begin.elapsed();
        self.cells.push((
            "burst",
            match done {
                Some(()) => Cell::Number(took.as_nanos() as f64 / rows.len() as f64),
                None => Cell::Absent,
            },
        ));
        if done.is_some() {
            let (rows, tops) = self.feed.settled(&rows);
            self.table.burst(&rows, tops)?;
        }
        Ok(())
    }

    fn writes(&mut self) -> Step {
        if !self.plan.wants_any(&["write", "write-shown"]) {
            return Ok(());
        }
        let (rows, tops) = self.feed.burst(BURST);
        let Some(Writing { until_shown, until_stored }) = self.table.write(&rows, tops)? else {
            self.cells.extend([("write-shown", Cell::Absent), ("write", Cell::Absent)]);
            return Ok(());
        };
        let each = |took: Duration| Cell::Number(took.as_nanos() as f64 / rows.len() as f64);
        self.cells.push(("write-shown", until_shown.map_or(Cell::Absent, each)));
        self.cells.push(("write", each(until_stored)));
        let (rows, tops) = self.feed.settled(&rows);
        self.table.write(&rows, tops)?;
        Ok(())
    }

    fn reads(&mut self) -> Step {
        let middle = self.rows.len() / 2;
        let wanted = sum_from(self.rows, middle);
        self.often("window", |table, _| check_value(table.window(middle)?, wanted, "the sum of the window"))?;
        let rows = self.rows;
        self.often("get", |table, turn| {
            let row = &rows[turn * 7_919 % rows.len()];
            check_value(table.get(row)?, row.amount, "the row by its id")
        })
    }

    fn values(&mut self) -> Step {
        if !self.plan.wants("count-sum") {
            return Ok(());
        }
        if self.views == 0 || self.table.set_values(true)?.is_none() {
            self.cells.push(("count-sum", Cell::Absent));
            return Ok(());
        }
        self.change("count-sum", "", false)?;
        self.table.set_values(false)?;
        Ok(())
    }

    /// What is done with view 0 other than changing rows.
    fn others(&mut self) -> Step {
        self.table.seed()?;
        self.views = usize::from(self.table.open()?.is_some());
        let largest = self.feed.tops().all;
        let first_name = self.rows.iter().min_by_key(|row| &row.name).map_or(0, |row| row.amount);
        if self.plan.wants("re-sort") {
            self.repeated(
                "re-sort",
                |table| table.sort(true, first_name),
                |table| table.sort(false, largest).map(drop),
            )?;
        }
        let all = self.rows.len();
        let found = self.rows.iter().filter(|row| row.name.contains(SEARCHED)).count();
        if self.plan.wants("search") {
            let search = |table: &mut dyn Table| table.search(Some(SEARCHED), found);
            self.repeated("search", search, |table| table.search(None, all).map(drop))?;
        }
        let tops = self.feed.tops();
        if self.plan.wants("refresh-same") {
            self.repeated("refresh-same", |table| table.refresh(tops), |_| Ok(()))?;
        }
        if self.plan.wants("refresh-1%") {
            let (changed, lifted) = self.feed.burst(all / 100);
            let (settled, _) = self.feed.settled(&changed);
            self.table.change_source(&changed)?;
            self.repeated(
                "refresh-1%",
                |table| table.refresh(lifted),
                |table| {
                    table.change_source(&settled)?;
                    table.refresh(tops)?;
                    table.change_source(&changed)
                },
            )?;
            self.table.change_source(&settled)?;
            self.table.refresh(tops)?;
        }
        Ok(())
    }

    fn wake(&mut self) -> Step {
        let mut times = Vec::with_capacity(TIMES);
        let all = Instant::now();
        while times.len() < TIMES && (times.len() < 3 || all.elapsed() < SPAN || self.feed.is_lifted()) {
            let (row, tops) = self.feed.next_change();
            let begin = Instant::now();
            let Some(woken) = self.table.wake(&row, tops)? else {
                // It can't, so this has changed nothing.
                self.feed = Feed::new(self.rows);
                self.cells.push(("wake-up", Cell::Absent));
                return Ok(());
            };
            times.push(woken.saturating_duration_since(begin));
        }
        let each = median(&mut times[1..]);
        self.cells.push(("wake-up", nanos(each)));
        Ok(())
    }

    /// Does and times something, undoing it in between, for a while.
    fn repeated(
        &mut self,
        name: &'static str,
        mut work: impl FnMut(&mut dyn Table) -> Done<()>,
        mut undo: impl FnMut(&mut dyn Table) -> Step,
    ) -> Step {
        let mut times = Vec::new();
        let all = Instant::now();
        while times.len() < 20 && (times.is_empty() || all.elapsed() < SPAN) {
            let begin = Instant::now();
            if work(self.table)?.is_none() {
                self.cells.push((name, Cell::Absent));
                return Ok(());
            }
            times.push(begin.elapsed());
            undo(self.table)?;
        }
        let each = median(&mut times);
        self.cells.push((name, nanos(each)));
        Ok(())
    }

    /// Does and times something many times.
    fn often(&mut self, name: &'static str, mut work: impl FnMut(&mut dyn Table, usize) -> Done<()>) -> Step {
        if !self.plan.wants(name) {
            return Ok(());
        }
        let mut times = Vec::with_capacity(TIMES);
        let all = Instant::now();
        while times.len() < TIMES && (times.len() < 2 || all.elapsed() < SPAN) {
            let begin = Instant::now();
            if work(self.table, times.len())?.is_none() {
                self.cells.push((name, Cell::Absent));
                return Ok(());
            }
            times.push(begin.elapsed());
        }
        let each = median(&mut times);
        self.cells.push((name, nanos(each)));
        Ok(())
    }

    fn check_tops(&self) -> Step {
        let tops = self.feed.tops();
        for view in 0..self.views {
            if self.table.top(view) != Some(tops.of_view(view)) {
                return Err(format!("view {view} shows {:?} first instead of {tops:?}", self.table.top(view)).into());
            }
        }
        Ok(())
    }

    /// Nanoseconds that this thread and the contestant's own have used of a processor.
    fn core_time(&self) -> Option<u64> {
        let Works::InCallerOr(name) = self.contestant.works else { return None };
        let used = |task: &Path| -> Option<u64> {
            std::fs::read_to_string(task.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        let of_thread = std::fs::read_dir("/proc/self/task").ok()?.flatten().find_map(|task| {
            let named = std::fs::read_to_string(task.path().join("comm")).ok()?;
            if named.trim() == name { used(&task.path()) } else { None }
        })?;
        Some(of_thread + used(Path::new("/proc/thread-self"))?)
    }
}

fn check(shown: Option<usize>, wanted: usize, what: &str) -> Step {
    match shown {
        Some(shown) if shown != wanted => Err(format!("{shown} {what} instead of {wanted}").into()),
        _ => Ok(()),
    }
}

/// The sum of 50 amounts, from a place on in the view of all rows.
fn sum_from(rows: &[Row], place: usize) -> i64 {
    let mut amounts: Vec<i64> = rows.iter().map(|row| row.amount).collect();
    amounts.sort_unstable_by(|one, other| other.cmp(one));
    amounts[place..place + 50].iter().sum()
}

fn check_value(found: Option<i64>, wanted: i64, what: &str) -> Done<()> {
    match found {
        Some(found) if found != wanted => Err(format!("{what} is {found} instead of {wanted}").into()),
        found => Ok(found.map(|_| ())),
    }
}

fn nanos(time: Duration) -> Cell {
    Cell::Number(time.as_nanos() as f64)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What the process has used of the processors, all threads together.
fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
