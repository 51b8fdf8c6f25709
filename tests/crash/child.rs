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
use diorama::{DeliveryPolicy, PendingWrite, WriteState, WriteTicket, record};
use std::time::Duration;

use crate::chance::Chance;
use crate::source::LONG;
use crate::wire::{Ask, Fields, Mark, Remote, Report, ShownRow, Verb, fields_of, send};

const SETTINGS: &str = "DIORAMA_CRASH_CHILD";
/// The test that the child runs as.
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
}

impl Life {
    /// Starts this program again, to live it.
    pub(crate) fn start(&self) -> Running {
        let Life { task, keeps_keys, seed, first_mark, socket, cache } = self;
        let settings =
            format!("{task:?}\n{keeps_keys}\n{seed}\n{first_mark}\n{}\n{}", socket.display(), cache.display());
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", NAME, "--ignored", "--nocapture"])
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
        Some(Life { task, keeps_keys, seed, first_mark, socket: next().into(), cache: next().into() })
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

/// What the child does, in the process that is it.
pub(crate) fn live() {
    let Some(life) = Life::read() else { return };
    let report = Reporter(Mutex::new(UnixStream::connect(&life.socket).unwrap()));
    let mut chance = Chance::new(life.seed);
    let policy = DeliveryPolicy::default()
        .parallel(1 + chance.below(4) as usize)
        .first_delay(Duration::from_millis(1))
        .max_delay(Duration::from_millis(8))
        .probe_every(Duration::from_millis(2))
        .deadline(Duration::from_millis(200));
    let lens = Lens::new().cache_at(&life.cache).delivery(policy).build().unwrap();
    let dio = lens.make_dio(Remote::new(life.socket.clone(), life.keeps_keys)).unwrap();
    let rows = report.what_is_shown(&dio);
    report.failures(&dio);
    match life.task {
        Task::Write => write_for_ever(&life, &dio, &report, &rows),
        Task::Drain => {
            dio.wait_for_writes(LONG).unwrap();
            report.failures(&dio);
            dio.refresh().unwrap();
            report.what_is_shown(&dio);
        }
        Task::Look => {}
    }
    let (pending, failed) = (dio.pending_writes().len(), dio.failed_writes().len());
    let closed = lens.close(LONG).unwrap();
    report.say(Report::Rests { pending, failed, kept: closed.kept, is_closed: closed.is_closed() });
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

    fn what_is_shown(&self, dio: &Dio) -> Vec<ShownRow> {
        let numbers = |writes: &[PendingWrite]| -> HashSet<u64> { writes.iter().map(|write| write.number.0).collect() };
        let view = dio.table_scenery().open().unwrap();
        let before = dio.pending_writes();
        let rows: Vec<ShownRow> = view
            .snapshot()
            .iter()
            .map(|row| ShownRow {
                id: row.id().to_owned(),
                fields: fields_of(row.record().unwrap()),
                is_pending: row.status() == RowStatus::PendingWrite,
            })
            .collect();
        // What was settled before says so after this.
        dio.flush().unwrap();
        let mut after = dio.pending_writes();
        after.retain(|write| !write.state.has_ended());
        let after = numbers(&after);
        let pending = before.into_iter().filter(|write| after.contains(&write.number.0));
        let pending = pending.map(|write| (write.number.0, write.id.map(|id| id.to_string()), verb_of(&write.op)));
        self.say(Report::Shows { rows: rows.clone(), pending: pending.collect() });
        rows
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
            group.push(self.write(None, WriteOp::delete_all(), Verb::DeleteAll));
            drop(order);
        }
        let row = self.chance.below(NAMED as u64 / WRITERS as u64) as i64 * WRITERS + self.number;
        for _ in 0..=self.chance.below(6) {
            let order = self.order.read().unwrap();
            group.push(self.write_one(row));
            drop(order);
        }
        for (mark, ticket) in group {
            // One that has lost its row before it was durable is not accepted.
            if ticket.wait_durable(LONG).is_ok() {
                self.report.say(Report::Accepted { mark, number: ticket.number().0 });
            } else {
                assert!(matches!(ticket.state(), WriteState::Rejected(_)), "{ticket:?}");
            }
            self.open.push((mark, ticket));
        }
        self.settle();
        while self.open.len() > OPEN {
            let _ = self.open[0].1.wait(LONG);
            self.settle();
        }
    }

    fn write(&mut self, tag: Option<i64>, op: WriteOp, verb: Verb) -> (Mark, WriteTicket) {
        let mark = op.record().and_then(|record| record.int("mark"));
        let mark = mark.unwrap_or_else(|| self.next_mark());
        let is_named = op.id().is_some();
        let mark = Mark { mark, tag, verb, is_named };
        self.report.say(Report::Intends(mark));
        (mark, self.dio.write(op).unwrap())
    }

    fn next_mark(&self) -> i64 {
        self.marks.fetch_add(1, Ordering::Relaxed)
    }

    /// One write to the row of this tag, or to one that the source names.
    fn write_one(&mut self, tag: i64) -> (Mark, WriteTicket) {
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
                let written = self.write(Some(mark), WriteOp::insert(whole(mark)), Verb::Insert);
                if let Some(id) = written.1.id() {
                    self.unnamed.push((id.to_string(), mark));
                }
                return written;
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
