//! Outbox: the writes of a Dio as its user sees them: those on their way, and those that failed.
//!
//! Owner: the queue has the pending ones, the core adds the failed ones; anyone reads, retries and drops.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::dio::core::{Message, SettledAs, Settlement, StagedWrite};
use crate::dio::delivery::Refusal;
use crate::dio::hot_tier::time_of;
use crate::dio::{Dio, DioInner, WriteState, WriteTicket};
use crate::journal::Outcome;
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, WriteNumber};

/// Failed writes kept at the most; the oldest goes first.
const KEPT: usize = 1_024;

/// A write that is shown and not settled.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PendingWrite {
    /// Its number, for [`Dio::retry_write`] and [`Dio::drop_write`].
    pub number: WriteNumber,
    /// The id that its row goes by now; `None` for `delete_all`.
    pub id: Option<Arc<str>>,
    /// The write, as it was made.
    pub op: WriteOp,
    /// Where it is on its way.
    pub state: WriteState,
    /// When it was made.
    pub made_at: SystemTime,
    /// Its receipt.
    pub ticket: WriteTicket,
}

/// A write that the source refused, or of which nobody knows whether the source did it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailedWrite {
    /// Its number, for [`Dio::clear_failed`] and [`Dio::retry_failed`].
    pub number: WriteNumber,
    /// The id that its row went by; `None` for `delete_all`.
    pub id: Option<Arc<str>>,
    /// The write, as it was made.
    pub op: WriteOp,
    /// Why it failed.
    pub error: Error,
    /// Whether the source may have done it all the same.
    pub may_be_done: bool,
    /// When it was made.
    pub made_at: SystemTime,
}

/// The failed writes of one Dio.
#[derive(Default)]
pub(crate) struct Failures(Mutex<VecDeque<FailedWrite>>);

impl Failures {
    pub(crate) fn add(&self, write: &StagedWrite, error: Error, may_be_done: bool) {
        let mut failed = self.0.lock();
        if failed.len() >= KEPT {
            failed.pop_front();
        }
        failed.push_back(FailedWrite {
            number: write.number,
            id: write.ticket.id(),
            op: (*write.op).clone(),
            error,
            may_be_done,
            made_at: time_of(write.at),
        });
    }

    fn list(&self) -> Vec<FailedWrite> {
        self.0.lock().iter().cloned().collect()
    }

    fn take(&self, number: WriteNumber) -> Option<FailedWrite> {
        let mut failed = self.0.lock();
        let place = failed.iter().position(|failed| failed.number == number)?;
        failed.remove(place)
    }

    fn put_back(&self, write: FailedWrite) {
        let mut failed = self.0.lock();
        let place = failed.iter().position(|other| other.number > write.number).unwrap_or(failed.len());
        failed.insert(place, write);
    }
}

impl Dio {
    /// The writes that are not settled, in the order in which they were made. Doesn't block.
    pub fn pending_writes(&self) -> Vec<PendingWrite> {
        let list = self.inner().writes.list();
        let pending = list.into_iter().filter_map(|write| {
            let ticket = write.ticket.ticket();
            let state = ticket.state();
            // Its settlement is told before the queue lets go of it.
            if state.has_ended() {
                return None;
            }
            let (id, made_at) = (ticket.id(), time_of(write.at));
            Some(PendingWrite { number: write.number, id, op: (*write.op).clone(), state, made_at, ticket })
        });
        pending.collect()
    }

    /// Has a write that waits for its next attempt tried at once, and with it a source that could not be reached. Doesn't
    /// block.
    ///
    /// # Errors
    /// `NotFound` when it is settled; `Conflict` when a later `delete_all` keeps it from being tried again.
    pub fn retry_write(&self, number: WriteNumber) -> Result<()> {
        match self.inner().writes.retry_now(number) {
            Ok(()) | Err(Refusal::InFlight) => Ok(()),
            Err(refusal) => Err(self.inner().refusal(number, refusal)),
        }
    }

    /// Takes back a write that is not settled: views show the row without it, and its ticket says
    /// [`Cancelled`](WriteState::Cancelled). The source may have done a write that was tried before; the row is read again.
    /// Returns once views show it.
    ///
    /// # Errors
    /// `NotFound` when it is settled; `Conflict` while it is being delivered; `Closed`.
    pub fn drop_write(&self, number: WriteNumber) -> Result<()> {
        let inner = self.inner();
        let may_end = |write: &StagedWrite| inner.ledger.may_end(write);
        let write = inner.writes.withdraw(number, may_end).map_err(|refusal| inner.refusal(number, refusal))?;
        let id = write.ticket.id();
        let settlement = Settlement { write, result: SettledAs::Cancelled, reply: None };
        inner.send(Message::Settle(settlement)).inspect_err(|_| inner.ledger.goes_on(number))?;
        inner.catch_up()?;
        if let Some(id) = id {
            inner.reload(&id);
        }
        Ok(())
    }

    /// The writes that failed and were not cleared, in the order in which they were made: at most the last 1,024. Doesn't
    /// block.
    pub fn failed_writes(&self) -> Vec<FailedWrite> {
        self.inner().failures.list()
    }

    /// Forgets a failed write; gives it back. Doesn't block.
    ///
    /// # Errors
    /// `NotFound` when there is none of this number.
    pub fn clear_failed(&self, number: WriteNumber) -> Result<FailedWrite> {
        let inner = self.inner();
        let failed = inner.failures.take(number).ok_or_else(|| inner.no_such_write(number))?;
        inner.ledger.note(number, &Outcome::Cleared);
        Ok(failed)
    }

    /// Makes a failed write again, as it was or as `edited`, and forgets the failed one. As [`write`](Self::write).
    ///
    /// # Errors
    /// `NotFound` when there is none of this number; as [`write`](Self::write), and the failed write is kept then.
    pub fn retry_failed(&self, number: WriteNumber, edited: Option<WriteOp>) -> Result<WriteTicket> {
        let inner = self.inner();
        let failed = inner.failures.take(number).ok_or_else(|| inner.no_such_write(number))?;
        let op = edited.unwrap_or_else(|| failed.op.clone());
        let written = self.write(op);
        match written {
            Ok(_) => inner.ledger.note(number, &Outcome::Cleared),
            Err(_) => inner.failures.put_back(failed),
        }
        written
    }

    /// Takes several writes, all or none, as one step of every view; each has its own ticket and is delivered on its own. As
    /// [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write), for the first write that is refused; nothing shows then.
    ///
    /// ```
    /// use diorama::prelude::*;
    ///
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("things", "id"))?;
    /// let view = dio.table_scenery().open()?;
    /// let before = view.generation();
    /// let tickets = dio.write_batch((0..3).map(|n| WriteOp::upsert(format!("t{n}"), record! { "n" => n })).collect())?;
    /// assert_eq!(view.row_count(), 3);
    /// # let _ = (before, tickets);
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn write_batch(&self, ops: Vec<WriteOp>) -> Result<Vec<WriteTicket>> {
        let timeout = self.lens().defaults().write_timeout;
        self.enqueue_all(ops, timeout)
    }

    /// Blocks until every write made before is settled, or `timeout` is over.
    ///
    /// # Errors
    /// `Timeout`, saying how many are not; `WouldDeadlock` on a thread that their delivery may be waiting for.
    pub fn wait_for_writes(&self, timeout: Duration) -> Result<()> {
        let deadline = crate::sync::deadline_after(timeout);
        for pending in self.pending_writes() {
            let left = deadline.map(crate::sync::time_left);
            match pending.ticket.wait_until(left) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::WouldDeadlock)
                        && !pending.ticket.state().has_ended() =>
                {
                    return Err(self.inner().name_error(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl DioInner {
    fn no_such_write(&self, number: WriteNumber) -> Error {
        let error = Error::new(ErrorKind::NotFound, "there is no such write (any more)");
        self.name_error(error).with("write", number.to_string())
    }

    fn refusal(&self, number: WriteNumber, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Unknown => self.no_such_write(number),
            refusal => {
                let error = Error::new(ErrorKind::Conflict, refusal.to_string());
                self.name_error(error).with("write", number.to_string())
            }
        }
    }
}
