//! Accept: writes on their way into the journal and the queue, what their tickets say, and what the journal may forget.
//!
//! Owner: the core; the journal's answers come on its own thread, and only hand on: those of one sync as one.
//! Invariants: a write is delivered once it is accepted, not before; the journal forgets a confirmed write only once the cache
//! has its effect on the disk.

use std::sync::Arc;

use crate::dio::core::{Core, CoreHandle, Message, Settled, SettledAs, Settlement, StagedWrite};
use crate::dio::delivery::Outcome as Attempted;
use crate::dio::event::DioEvent;
use crate::dio::ledger::Ledger;
use crate::dio::ticket::{WriteOutcome, WriteState};
use crate::dio::write_queue::{Pushed, WriteQueue};
use crate::journal::{Acceptance, Acceptor, Applicant, Confirmed, HandOver, Outcome, Reservation};
use crate::value::{Record, StoredRow};
use crate::vista::WriteOp;
use crate::{Error, Seq, WriteNumber};

impl Core {
    /// Says what became of a settled write.
    pub(super) fn tell(&self, write: &Arc<StagedWrite>, result: SettledAs, seq: Seq) {
        let id = write.ticket.ticket().id();
        let failed = |error: Error, state: WriteState| {
            self.to.events.publish(DioEvent::WriteFailed { id: id.clone(), seq, error: error.clone() });
            write.ticket.end(state, || self.to.board.write_failed(&error));
        };
        match result {
            SettledAs::Confirmed(settled) => {
                let noted = self.confirmation(&settled, seq);
                self.to.events.publish(DioEvent::WriteSettled { id: settled.id.clone(), seq });
                let state = WriteState::Confirmed(WriteOutcome { id: settled.id.map(|id| id.to_string()), seq });
                let is_nameless = matches!(*write.op, WriteOp::Insert { id: None, .. });
                if is_nameless && !write.ticket.ticket().state().has_ended() {
                    // After a crash nobody may be able to say it again.
                    self.to.board.delivered();
                    let write = write.clone();
                    self.to.ledger.note_then(write.number, &noted, move || write.ticket.end(state, || {}));
                } else {
                    self.to.ledger.note(write.number, &noted);
                    write.ticket.end(state, || self.to.board.delivered());
                }
            }
            SettledAs::Rejected(error) => {
                let (kind, message) = (error.kind(), error.to_string());
                self.to.ledger.note_end(write, &Outcome::Failed { kind, message });
                self.to.failures.add(write, error.clone(), Attempted::may_be_done(&error));
                failed(error.clone(), WriteState::Rejected(error));
            }
            SettledAs::Unknown(error) => {
                self.to.ledger.note_end(write, &Outcome::Unknown { message: error.to_string() });
                self.to.failures.add(write, error.clone(), true);
                failed(error.clone(), WriteState::Unknown(error));
            }
            SettledAs::Superseded(by) => {
                self.to.ledger.note_end(write, &Outcome::Superseded { by: by.0 });
                write.ticket.end(WriteState::Superseded { by }, || {});
            }
            SettledAs::Cancelled => {
                self.to.ledger.note_end(write, &Outcome::Cancelled);
                write.ticket.end(WriteState::Cancelled, || {});
            }
        }
    }

    /// Hands writes that are shown now on for their delivery: through the journal, if there is one, which takes them as one.
    pub(super) fn hand_on(&mut self, staged: Vec<(Arc<StagedWrite>, Option<Reservation>)>, seq: Seq) {
        if staged.is_empty() {
            return;
        }
        let journal = self.to.ledger.journal();
        let mut handing = journal.as_ref().map(|journal| journal.hand_over(self.acceptances.clone()));
        let mut direct = Vec::new();
        let mut shown = Vec::with_capacity(staged.len());
        for (write, room) in staged {
            let id = write.ticket.ticket().id();
            self.to.events.publish(DioEvent::WritePending { id, seq });
            // Whoever has made it finds it among the pending ones.
            self.to.writes.announce(&write);
            match (&mut handing, room) {
                (Some(handing), Some(room)) => Core::accept(handing, room, &write),
                _ => direct.push(write.clone()),
            }
            shown.push(write);
        }
        // The disk is the slowest of all, so it begins first.
        drop(handing);
        for write in shown {
            write.ticket.staged();
        }
        if !direct.is_empty() {
            for (write, pushed) in self.to.writes.clone().push_all(&direct) {
                self.supersede_writes(pushed.superseded(), write.number);
            }
        }
    }

    /// A `delete_all` has made these pointless before they were tried.
    pub(super) fn supersede_writes(&mut self, writes: Vec<Arc<StagedWrite>>, by: WriteNumber) {
        if writes.is_empty() {
            return;
        }
        for write in writes {
            self.settle(Settlement { write, result: SettledAs::Superseded(by), reply: None });
        }
        self.commit();
    }

    /// Has the journal make a write durable; then it is delivered.
    fn accept(journal: &mut HandOver<'_>, room: Reservation, write: &Arc<StagedWrite>) {
        let before = write.before();
        let op = match write.ticket.ticket().id() {
            Some(id) => write.op.clone().named(&id),
            None => write.op.clone(),
        };
        let acceptance =
            Acceptance { write: write.number.0, key: &write.key, op: &op, before: before.as_ref(), at: write.at };
        journal.accept(room, acceptance, write.clone());
    }

    /// What the journal is to know of a confirmed write. While other writes of the row are pending, the cache does not hear
    /// of it, so it is not covered by any Seq.
    pub(super) fn confirmation(&self, settled: &Settled, seq: Seq) -> Outcome {
        let is_held = match &settled.id {
            Some(id) => self.pending.stack(id).is_some(),
            None => !self.pending.is_empty(),
        };
        let covered_by = if is_held { NEVER } else { seq };
        confirmed(settled.id.as_deref(), settled.stored.clone(), seq, covered_by)
    }

    /// The settled writes whose rows go to the cache with this batch.
    pub(super) fn covered(&mut self, covering: Vec<Covering>) -> Vec<Covering> {
        let mut covered = Vec::new();
        for covering in covering {
            match covering.id.as_ref().map(|id| self.pending.stack_mut(id)) {
                Some(Some(stack)) => stack.uncovered.push(covering.number),
                Some(None) => covered.push(covering),
                None => self.pending.uncovered_clears.push(covering),
            }
        }
        if self.pending.is_empty() {
            covered.append(&mut self.pending.uncovered_clears);
        } else {
            self.pending.uncovered_clears.iter_mut().for_each(|clear| clear.is_said = true);
        }
        covered
    }

    /// The cache is told of these with the batch `seq`: once it is synced, the journal may forget them.
    pub(super) fn cover(&mut self, covered: &[Covering], seq: Seq) {
        for covering in covered.iter().filter(|covering| covering.is_said) {
            // What was noted says that no Seq covers it; this does. Rows that were made after a `delete_all` stay.
            let outcome = match &covering.id {
                Some(id) => confirmed(Some(id), self.newest(id).ok().flatten().map(|(_, row)| row), seq, seq),
                None => confirmed(None, None, covering.done_at, seq),
            };
            self.to.ledger.note(covering.number, &outcome);
        }
        self.unsynced += covered.len();
        if self.unsynced == 0 || (!self.pending.is_empty() && self.unsynced < SYNC_EVERY) {
            return;
        }
        self.unsynced = 0;
        if let Some(journal) = self.to.ledger.journal() {
            self.to.store.sync_then(Box::new(move || journal.cache_synced(seq)));
        }
    }
}

/// What the journal's answers are handed on to.
pub(super) struct Acceptances {
    pub(super) writes: Arc<WriteQueue>,
    pub(super) core: CoreHandle,
    pub(super) ledger: Arc<Ledger>,
}

impl Acceptances {
    fn settle(&self, write: Arc<StagedWrite>, result: SettledAs) {
        let _ = self.core.send(Message::Settle(Settlement { write, result, reply: None }));
    }
}

impl Acceptor for Acceptances {
    fn accepted(&self, writes: Vec<Applicant>) {
        let writes: Vec<Arc<StagedWrite>> = writes.into_iter().filter_map(|write| write.downcast().ok()).collect();
        // Whoever waits goes on while the rest is told.
        writes.iter().for_each(|write| write.ticket.durable());
        let clears = || writes.iter().filter(|write| matches!(*write.op, WriteOp::DeleteAll));
        clears().for_each(|write| self.ledger.may_end(write));
        let pushed = self.writes.push_all(&writes);
        // These end instead.
        pushed.iter().flat_map(|(_, pushed)| pushed.pointless()).for_each(|write| self.ledger.may_end(write));
        clears().for_each(|write| self.ledger.goes_on(write.number));
        for (write, pushed) in pushed {
            match pushed {
                Pushed::Queued(superseded) => {
                    superseded.into_iter().for_each(|other| self.settle(other, SettledAs::Superseded(write.number)));
                }
                Pushed::LeftBehind => write.ticket.end(WriteState::Kept, || self.ledger.keep()),
                Pushed::Withdrawn => {}
            }
        }
    }

    fn refused(&self, write: Applicant, error: Error) {
        let Ok(write) = write.downcast::<StagedWrite>() else { return };
        // Taken back already, or the Dio is closed.
        if self.writes.withdraw(write.number, |_| ()).is_ok() {
            self.settle(write, SettledAs::Rejected(error));
        } else {
            write.ticket.end(WriteState::Rejected(error), || {});
        }
    }
}

/// A settled write on its way to being forgotten by the journal.
pub(super) struct Covering {
    /// The row that the cache is to hold; `None`: all rows.
    pub(super) id: Option<Arc<str>>,
    pub(super) number: WriteNumber,
    /// Whether the journal was told that no Seq covers it.
    pub(super) is_said: bool,
    /// The batch that showed it.
    pub(super) done_at: Seq,
}

/// The Seq of a confirmation that the cache has not been told of.
pub(super) const NEVER: Seq = Seq(u64::MAX);
/// Settled writes after which the cache is synced, so that the journal may forget them, also while others are pending.
const SYNC_EVERY: usize = 1_024;

pub(super) fn confirmed(id: Option<&str>, row: Option<StoredRow>, seq: Seq, covered_by: Seq) -> Outcome {
    let deleted = row.is_none();
    // A deleted row is told by an empty one, for its Seq; so are all rows.
    let mut row = row.unwrap_or_else(|| StoredRow::encode(id.unwrap_or_default(), &Record::new(), 0));
    row.set_seq(seq);
    Outcome::Confirmed(Confirmed { id: id.map(str::to_owned), row: Some(row), deleted, seq: covered_by })
}

/// The batch that showed a confirmation.
pub(super) fn done_at(confirmed: &Confirmed) -> Seq {
    confirmed.row.as_ref().map_or(Seq(0), StoredRow::seq)
}
