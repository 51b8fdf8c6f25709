//! Ledger: where the writes of a Dio are made durable, if its cache is on a disk: its part of the journal.
//!
//! Owner: opened at the first write, or at the start if an earlier run left something; whoever needs it asks for it.
//! Invariants: while the end of a write that the source has not done is on its way to the disk, no later write of the row is
//! delivered: after a crash the first would be, over what the source has done since
//! (`what_comes_after_a_refused_write_waits_until_the_journal_has_its_end`).
//! Close/panic: `close` lets go of the journal, so that the table can be opened again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::dio::core::StagedWrite;
use crate::journal::{Outcome, Replay, Reservation, TableJournal, bytes_for, has_entries};
use crate::lens::LensInner;
use crate::sync::{Notifier, Waited, deadline_after, on_own_thread, reply, time_left};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, Seq, WriteNumber};

/// Why an insert is not sent again of which the source keeps no key.
pub(crate) const MAY_BE_DONE: &str = "the source did not say whether it has made the row, and asking it again could make a \
                                      second one; look there before you insert it again";

/// How long a delivery waits for ends to be durable before it is put off, so that those of other rows go on.
const ENDS_DURABLE: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Ledger {
    lens: Arc<LensInner>,
    table: Arc<str>,
    is_kept: bool,
    journal: Mutex<State>,
    ends: Arc<Ends>,
    kept: AtomicU64,
}

/// The writes that end, or may end, without the source having done them, and of which that is not durable yet.
struct Ends {
    open: Mutex<HashMap<WriteNumber, End>>,
    /// How often one was taken out.
    closed: Notifier,
}

struct End {
    /// `None`: all rows.
    row: Option<Arc<str>>,
    /// How many say so.
    times: usize,
}

impl End {
    /// Whether one of these rows is its own; see [`End::row`].
    fn concerns(&self, rows: &[Option<Arc<str>>]) -> bool {
        self.row.is_none() || rows.iter().any(|row| row.is_none() || *row == self.row)
    }
}

impl Ends {
    fn open(&self, write: &StagedWrite) {
        let row = write.ticket.id();
        self.open.lock().entry(write.number).or_insert(End { row, times: 0 }).times += 1;
    }

    /// One who said so takes it back.
    fn take_back(&self, number: WriteNumber) {
        let mut open = self.open.lock();
        let Some(end) = open.get_mut(&number) else { return };
        end.times -= 1;
        if end.times == 0 {
            open.remove(&number);
            drop(open);
            self.closed.advance();
        }
    }

    fn close(&self, number: WriteNumber) {
        self.open.lock().remove(&number);
        self.closed.advance();
    }
}

enum State {
    NotOpen,
    Open(Arc<TableJournal>),
    Closed,
}

impl Ledger {
    pub(crate) fn new(lens: Arc<LensInner>, table: Arc<str>) -> Arc<Self> {
        let is_kept = lens.store().is_ok_and(|store| store.location().is_some());
        let ends = Ends { open: Mutex::default(), closed: Notifier::new(0) };
        Arc::new(Ledger {
            lens,
            table,
            is_kept,
            journal: Mutex::new(State::NotOpen),
            ends: Arc::new(ends),
            kept: AtomicU64::new(0),
        })
    }

    /// Whether writes are made durable at all.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The journal, once it is open and while it is.
    pub(crate) fn journal(&self) -> Option<Arc<TableJournal>> {
        match &*self.journal.lock() {
            State::Open(journal) => Some(journal.clone()),
            State::NotOpen | State::Closed => None,
        }
    }

    /// What an earlier run left, if it left anything. `synced` is what the cache holds.
    ///
    /// # Errors
    /// Why the journal can't be read. It is left as it is.
    pub(crate) fn recover(&self, synced: Seq) -> Result<Option<Replay>> {
        let left = self.is_kept
            && self.lens.store()?.location().is_some_and(|cache| self.lens.has_journal() || has_entries(cache));
        if !left {
            return Ok(None);
        }
        self.open(synced).map(Some)
    }

    /// Opens the journal for a first write. Blocks for the disk.
    pub(crate) fn open_to_write(&self) -> Result<()> {
        if self.is_kept && matches!(*self.journal.lock(), State::NotOpen) {
            self.open(Seq(0)).map(drop)
        } else {
            Ok(())
        }
    }

    fn open(&self, synced: Seq) -> Result<Replay> {
        let journal = self.lens.journal()?;
        for warning in journal.take_warnings() {
            self.lens.warn(warning);
        }
        let (table, replay) = journal.table(&self.table, synced, self.lens.clock.wall_ms())?;
        *self.journal.lock() = State::Open(Arc::new(table));
        Ok(replay)
    }

    /// Lets go of the journal.
    pub(crate) fn close(&self) {
        let open = std::mem::replace(&mut *self.journal.lock(), State::Closed);
        drop(open);
    }

    /// Takes room for writes before they are shown; waits for it up to `timeout`, on the library's own threads not at all.
    ///
    /// # Errors
    /// `Full`; `Invalid` for a write that there is never room for. Nothing is taken then.
    pub(crate) fn reserve(&self, ops: &[WriteOp], timeout: Duration) -> Result<Vec<Option<Reservation>>> {
        let Some(journal) = self.journal() else { return Ok(ops.iter().map(|_| None).collect()) };
        let deadline = deadline_after(timeout);
        let may_wait = !on_own_thread() && !timeout.is_zero();
        let sizes: Vec<u64> = ops.iter().map(bytes_for).collect();
        loop {
            let freed = journal.freed().get();
            // As one: what is taken for some and given back again would count as room that was freed, and be no reason to wait.
            let all = journal.reserve(sizes.iter().sum());
            let left = deadline.map(time_left);
            match all {
                Err(error)
                    if error.kind() == ErrorKind::Full && may_wait && left.is_none_or(|left| !left.is_zero()) =>
                {
                    journal.freed().wait_until(freed + 1, left);
                }
                all => {
                    let mut all = all?;
                    return Ok(sizes.iter().map(|bytes| Some(all.split_off(*bytes))).collect());
                }
            }
        }
    }

    /// Counts a write that the closing leaves to the journal.
    pub(crate) fn keep(&self) {
        self.kept.fetch_add(1, Ordering::Relaxed);
    }

    /// How many writes the closing has left.
    pub(crate) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// Notes durably that the source may have done these from now on. Blocks for the disk.
    ///
    /// # Errors
    /// Why that is not on the disk; the source must not be asked then.
    pub(crate) fn note_attempts(&self, numbers: impl Iterator<Item = WriteNumber>) -> Result<()> {
        let Some(journal) = self.journal() else { return Ok(()) };
        let noted: Vec<_> = numbers
            .map(|number| {
                let (sender, receiver) = reply();
                journal.attempted(number.0, Box::new(move |result| sender.send(result)));
                receiver
            })
            .collect();
        noted.into_iter().try_for_each(|noted| noted.wait(None)?)
    }

    /// Notes what will be delivered for a write from now on; the source has not done it.
    pub(crate) fn note_rewritten(&self, number: WriteNumber, op: &WriteOp) {
        if let Some(journal) = self.journal() {
            journal.rewrite(number.0, op, Vec::new(), Box::new(|_| {}));
        }
    }

    /// Notes what became of a write, and calls `then` once that is durable, or never will be. It must not block.
    pub(crate) fn note_then(&self, number: WriteNumber, outcome: &Outcome, then: impl FnOnce() + Send + 'static) {
        match self.journal() {
            Some(journal) => journal.outcome(number.0, outcome, Some(Box::new(move |_| then()))),
            None => then(),
        }
    }

    /// Notes what became of a write.
    pub(crate) fn note(&self, number: WriteNumber, outcome: &Outcome) {
        if let Some(journal) = self.journal() {
            journal.outcome(number.0, outcome, None);
        }
    }

    /// Notes that a write is over, though the source has not done it.
    pub(crate) fn note_end(&self, write: &StagedWrite, outcome: &Outcome) {
        let Some(journal) = self.journal() else { return };
        self.ends.open(write);
        let (ends, number) = (self.ends.clone(), write.number);
        let answer = move |result: Result<()>| {
            if result.is_ok() {
                ends.close(number);
            }
        };
        journal.outcome(number.0, outcome, Some(Box::new(answer)));
    }

    /// A write may be over from here on, though the source has not done it: no later one of its row is delivered before that is
    /// [noted](Self::note_end) and durable, or it is said that it [goes on](Self::goes_on). To be said before the queue lets go
    /// of it.
    pub(crate) fn may_end(&self, write: &StagedWrite) {
        if self.journal().is_some() {
            self.ends.open(write);
        }
    }

    /// See [`may_end`](Self::may_end).
    pub(crate) fn goes_on(&self, number: WriteNumber) {
        self.ends.take_back(number);
    }

    /// Blocks until every end under way that concerns one of these rows (`None`: all) is durable.
    ///
    /// # Errors
    /// `Cache` when the disk stands still; the source must not be asked then.
    pub(crate) fn wait_for_ends(&self, rows: &[Option<Arc<str>>]) -> Result<()> {
        let deadline = deadline_after(ENDS_DURABLE);
        // What ends by a write that was accepted just now is known by the time when that one goes on.
        for _ in 0..2 {
            let under_way: Vec<WriteNumber> = {
                let open = self.ends.open.lock();
                open.iter().filter(|(_, end)| end.concerns(rows)).map(|(number, _)| *number).collect()
            };
            loop {
                let seen = self.ends.closed.get();
                let is_open = {
                    let open = self.ends.open.lock();
                    under_way.iter().any(|number| open.contains_key(number))
                };
                if !is_open {
                    break;
                }
                if let Waited::TimedOut(_) = self.ends.closed.wait_until(seen + 1, deadline.map(time_left)) {
                    let message = "the ends of earlier writes can't be made durable, so no later one is delivered";
                    return Err(Error::new(ErrorKind::Cache, message));
                }
            }
        }
        Ok(())
    }
}
