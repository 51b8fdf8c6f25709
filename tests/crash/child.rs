//! Child: the process that writes at full speed, tells what it sees, and is killed.

use std::collections::HashSet;
use std::env;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;

use diorama::prelude::*;
use diorama::{DeliveryPolicy, LensBuilder, PendingWrite, Row, WriteState, WriteTicket, record};
use std::time::Duration;

use super::chance::Chance;
use super::source::LONG;
use super::wire::{Ask, Fields, Mark, Pending, Remote, Report, ShownRow, Verb, fields_of, send};

const SETTINGS: &str = "DIORAMA_CRASH_CHILD";
/// The test that the child runs as, beside this module.
const NAME: &str = "a_child_that_writes_until_it_is_killed";

const WRITERS: i64 = 3;
/// Rows that the child names itself; their tags.
const NAMED: i64 = 12;
/// Writes of a thread that are not settled, at the most.
const OPEN: usize = 100;
/// Marks begin here; a row that the source names has the mark of its insert as its tag.
pub(crate) const FIRST_MARK: i64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Task {
    /// Writes for ever.
    Write,
    /// Delivers what there is and compares.
    Drain,
    /// Only looks.
    Look,
}

#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) task: Task,
    pub(crate) keeps_keys: bool,
    pub(crate) seed: u64,
    pub(crate) first_mark: i64,
    pub(crate) socket: PathBuf,
    pub(crate) cache: PathBuf,
    /// Every so manieth call of its storage fails; 0: none does.
    pub(crate) fails_every: u64,
    /// Its storage may fail, by that or for want of room.
    pub(crate) is_troubled: bool,
}

impl Life {
    /// Starts this program again, to live it.
    pub(crate) fn start(&self) -> Running {
        let Life { task, keeps_keys, seed, first_mark, socket, cache, fails_every, is_troubled } = self;
        let (socket, cache) = (socket.display(), cache.display());
        let settings =
            format!("{task:?}\n{keeps_keys}\n{seed}\n{first_mark}\n{socket}\n{cache}\n{fails_every}\n{is_troubled}");
        let parent = module_path!().split("::").skip(1).filter(|name| *name != "child");
        let name = parent.chain([NAME]).collect::<Vec<_>>().join("::");
        // A file that may not grow is to be an error, and no signal that ends it.
        let child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(env::current_exe().unwrap())
            .args(["--exact", &name, "--ignored", "--nocapture"])
            .env(SETTINGS, settings)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Running(child)
    }

    fn read() -> Option<Life> {
        let settings = env::var(SETTINGS).ok()?;
        let mut settings = settings.split('\n');
        let mut next = || settings.next().unwrap();
        let task = match next() {
            "Write" => Task::Write,
            "Drain" => Task::Drain,
            _ => Task::Look,
        };
        let (keeps_keys, seed) = (next() == "true", next().parse().unwrap());
        let first_mark = next().parse().unwrap();
        let (socket, cache) = (next().into(), next().into());
        let (fails_every, is_troubled) = (next().parse().unwrap(), next() == "true");
        Some(Life { task, keeps_keys, seed, first_mark, socket, cache, fails_every, is_troubled })
    }
}

/// A child that doesn't outlive the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Lens, and what has its storage fail, or work for a while.
pub(crate) type Opened = (LensBuilder, Box<dyn Fn(bool) + Sync>);

/// What the child does, in the process that is it.
pub(crate) fn live(open: impl FnOnce(&Life) -> Opened) {
    let Some(life) = Life::read() else { return };
    let report = Reporter(Mutex::new(UnixStream::connect(&life.socket).unwrap()));
    let mut chance = Chance::new(life.seed);
    let policy = DeliveryPolicy::default()
        .parallel(1 + chance.below(4) as usize)
        .first_delay(Duration::from_millis(1))
        .max_delay(Duration::from_millis(8))
        .probe_every(Duration::from_millis(2))
        .deadline(Duration::from_millis(200));
    let (lens, fails) = open(&life);
    let lens = lens.delivery(policy).build().unwrap();
    fails(true);
    let remote = || Remote::new(life.socket.clone(), life.keeps_keys);
    let dio = patiently(&life, &fails, || lens.make_dio(remote()));
    let (rows, pending) = patiently(&life, &fails, || look(&dio));
    report.say(Report::Shows { rows: rows.clone(), pending });
    report.failures(&dio);
    match life.task {
        Task::Write => write_for_ever(&life, &dio, &report, &rows),
        Task::Drain => {
            dio.wait_for_writes(LONG).unwrap();
            report.failures(&dio);
            dio.refresh().unwrap();
            let (rows, pending) = look(&dio).unwrap();
            report.say(Report::Shows { rows, pending });
        }
        Task::Look => {}
    }
    let (pending, failed) = (dio.pending_writes().len(), dio.failed_writes().len());
    let closed = lens.close(LONG).unwrap();
    report.say(Report::Rests { pending, failed, kept: closed.kept, is_closed: closed.is_closed() });
}

/// Does what must get done whatever fails: some times while the storage fails, then while it works.
fn patiently<T>(life: &Life, fails: &impl Fn(bool), work: impl Fn() -> Result<T, Error>) -> T {
    const TIMES: usize = 10;
    if life.fails_every > 0
        && let Some(done) = (0..TIMES).find_map(|_| work().ok())
    {
        return done;
    }
    fails(false);
    // What failed before may be told once more.
    let done = (0..TIMES).find_map(|_| work().ok()).unwrap_or_else(|| work().unwrap());
    fails(true);
    done
}

/// What it shows, and the writes that were pending all the while.
fn look(dio: &Dio) -> Result<(Vec<ShownRow>, Vec<Pending>), Error> {
    let numbers = |writes: &[PendingWrite]| -> HashSet<u64> { writes.iter().map(|write| write.number.0).collect() };
    let view = dio.table_scenery().open()?;
    let before = dio.pending_writes();
    let row = |row: Row| {
        let fields = fields_of(row.record()?);
        Ok(ShownRow { id: row.id().to_owned(), fields, is_pending: row.status() == RowStatus::PendingWrite })
    };
    let rows: Vec<ShownRow> = view.snapshot().iter().map(row).collect::<Result<_, Error>>()?;
    // A settlement shows a moment before it is told. The core has told all that showed once it has taken in this.
    dio.cache().insert_many(Vec::new())?;
    let mut after = dio.pending_writes();
    // One that made a row which the source has named is done, and says so once that is durable.
    let is_named_there =
        |write: &PendingWrite| write.op.id().is_none() && write.id.as_deref().is_some_and(is_of_source);
    after.retain(|write| !write.state.has_ended() && !is_named_there(write));
    let after = numbers(&after);
    let pending = before.into_iter().filter(|write| after.contains(&write.number.0));
    let pending = pending.map(|write| (write.number.0, write.id.map(|id| id.to_string()), verb_of(&write.op)));
    Ok((rows, pending.collect()))
}

struct Reporter(Mutex<UnixStream>);

impl Reporter {
    fn say(&self, report: Report) {
        let mut stream = self.0.lock().unwrap();
        if send(&mut stream, &Ask::Report(report)).is_err() {
            // The test has ended before; it says why.
            std::process::exit(1);
        }
    }

    /// Tells of writes that failed, and forgets them.
    fn failures(&self, dio: &Dio) {
        for failed in dio.failed_writes() {
            let (number, may_be_done) = (failed.number.0, failed.may_be_done);
            self.say(Report::Failed { number, may_be_done, error: failed.error.to_string() });
            // One of the writing threads may be faster.
            let _ = dio.clear_failed(failed.number);
        }
    }
}

/// Whether the source has made up this id.
fn is_of_source(id: &str) -> bool {
    id.starts_with('s')
}

fn verb_of(op: &WriteOp) -> Verb {
    match op {
        WriteOp::Insert { .. } => Verb::Insert,
        WriteOp::Replace { .. } => Verb::Replace,
        WriteOp::Upsert { .. } => Verb::Upsert,
        WriteOp::Patch { .. } => Verb::Patch,
        WriteOp::Delete { .. } => Verb::Delete,
        _ => Verb::DeleteAll,
    }
}

fn write_for_ever(life: &Life, dio: &Dio, report: &Reporter, rows: &[ShownRow]) {
    let marks = AtomicI64::new(life.first_mark);
    // A `delete_all` is made alone, so that marks and writes have one order.
    let order = RwLock::new(());
    // A row that shows twice, since an answer got lost, is let be.
    let is_single = |tag: i64| rows.iter().filter(|row| row.fields.get("tag") == Some(&tag)).count() == 1;
    thread::scope(|scope| {
        for number in 0..WRITERS {
            let unnamed = rows.iter().filter_map(|row| Some((row.id.clone(), *row.fields.get("tag")?)));
            let mut writer = Writer {
                number,
                dio,
                report,
                marks: &marks,
                order: &order,
                is_troubled: life.is_troubled,
                chance: Chance::new(life.seed ^ (number as u64 + 1) << 32),
                unnamed: unnamed
                    .filter(|(_, tag)| *tag >= FIRST_MARK && tag % WRITERS == number && is_single(*tag))
                    .collect(),
                open: Vec::new(),
            };
            scope.spawn(move || {
                loop {
                    writer.group();
                }
            });
        }
    });
}

/// A thread that writes to rows which nobody else writes to.
struct Writer<'a> {
    number: i64,
    dio: &'a Dio,
    report: &'a Reporter,
    marks: &'a AtomicI64,
    order: &'a RwLock<()>,
    /// Its storage may fail.
    is_troubled: bool,
    chance: Chance,
    /// Rows that the source has named, or will: an id of theirs, and their tag.
    unnamed: Vec<(String, i64)>,
    open: Vec<(Mark, WriteTicket)>,
}

impl Writer<'_> {
    /// Makes some writes, waits until they are durable, and says so before it goes on.
    fn group(&mut self) {
        let mut group = Vec::new();
        if self.number == 0 && self.chance.one_in(60) {
            let order = self.order.write().unwrap();
            group.extend(self.write(None, WriteOp::delete_all(), Verb::DeleteAll));
            drop(order);
        }
        let row = self.chance.below(NAMED as u64 / WRITERS as u64) as i64 * WRITERS + self.number;
        for _ in 0..=self.chance.below(6) {
            let order = self.order.read().unwrap();
            group.extend(self.write_one(row));
            drop(order);
        }
        for (mark, ticket) in group {
            // One that has lost its row before it was durable is not accepted.
            match ticket.wait_durable(LONG) {
                Ok(()) => self.report.say(Report::Accepted { mark, number: ticket.number().0 }),
                Err(error) if self.is_troubled && matches!(error.kind(), ErrorKind::Cache | ErrorKind::Full) => {
                    self.report.say(Report::Refused(mark));
                    let _ = self.dio.clear_failed(ticket.number());
                    continue;
                }
                Err(_) => assert!(matches!(ticket.state(), WriteState::Rejected(_)), "{ticket:?}"),
            }
            self.open.push((mark, ticket));
        }
        self.settle();
        while self.open.len() > OPEN {
            let _ = self.open[0].1.wait(LONG);
            self.settle();
        }
    }

    fn write(&mut self, tag: Option<i64>, op: WriteOp, verb: Verb) -> Option<(Mark, WriteTicket)> {
        let mark = op.record().and_then(|record| record.int("mark"));
        let mark = mark.unwrap_or_else(|| self.next_mark());
        let is_named = op.id().is_some();
        let mark = Mark { mark, tag, verb, is_named };
        self.report.say(Report::Intends(mark));
        match self.dio.write(op) {
            Ok(ticket) => Some((mark, ticket)),
            Err(error) => {
                assert!(self.is_troubled, "{error}");
                self.report.say(Report::Refused(mark));
                None
            }
        }
    }

    fn next_mark(&self) -> i64 {
        self.marks.fetch_add(1, Ordering::Relaxed)
    }

    /// One write to the row of this tag, or to one that the source names.
    fn write_one(&mut self, tag: i64) -> Option<(Mark, WriteTicket)> {
        let mark = self.next_mark();
        let whole = |tag: i64| record! { "tag" => tag, "mark" => mark, "whole" => mark };
        let some = record! { "mark" => mark, "part" => mark };
        let id = format!("r{tag}");
        let what = self.chance.below(100);
        let (tag, op) = match what {
            0..35 => (tag, WriteOp::patch(id, some)),
            35..50 => (tag, WriteOp::upsert(id, whole(tag))),
            50..60 => (tag, WriteOp::replace(id, whole(tag))),
            60..67 => (tag, WriteOp::insert_as(id, whole(tag))),
            67..74 => (tag, WriteOp::delete(id)),
            74..88 if !self.unnamed.is_empty() => {
                let place = self.chance.below(self.unnamed.len() as u64) as usize;
                let (id, tag) = self.unnamed[place].clone();
                let op = match what {
                    74..83 => WriteOp::patch(id, some),
                    83..85 => WriteOp::replace(id, whole(tag)),
                    _ => {
                        self.unnamed.swap_remove(place);
                        WriteOp::delete(id)
                    }
                };
                (tag, op)
            }
            _ => {
                let written = self.write(Some(mark), WriteOp::insert(whole(mark)), Verb::Insert)?;
                if let Some(id) = written.1.id() {
                    self.unnamed.push((id.to_string(), mark));
                }
                return Some(written);
            }
        };
        let verb = verb_of(&op);
        self.write(Some(tag), op, verb)
    }

    /// Tells what became of writes.
    fn settle(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        open.retain(|(mark, ticket)| {
            let (number, mark) = (ticket.number().0, *mark);
            let report = match ticket.state() {
                WriteState::Confirmed(_) => Report::Confirmed { mark, number },
                WriteState::Rejected(error) => Report::Failed { number, may_be_done: false, error: error.to_string() },
                WriteState::Unknown(error) => Report::Failed { number, may_be_done: true, error: error.to_string() },
                WriteState::Superseded { by } => Report::Superseded { number, by: by.0 },
                state => {
                    assert!(!state.has_ended(), "write {number} has ended as {state:?}");
                    return true;
                }
            };
            if matches!(report, Report::Failed { .. }) {
                // Known to the parent before it is forgotten here.
                self.report.say(report);
                let _ = self.dio.clear_failed(ticket.number());
            } else {
                self.report.say(report);
            }
            false
        });
        self.open = open;
    }
}

/// What the parent compares the source's rows with.
pub(crate) fn as_rows(rows: &[ShownRow]) -> std::collections::BTreeMap<String, Fields> {
    rows.iter().map(|row| (row.id.clone(), row.fields.clone())).collect()
}
