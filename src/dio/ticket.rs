//! Ticket: what became of one write, for whoever asked for it.
//!
//! Owner: the writer and the core move it; any number of clones read and wait.
//! Invariants: it ends exactly once; dropping a ticket cancels nothing; a sender dropped on the way ends it as `Closed`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::sync::{Rank, deadline_after, may_wait_for};
use crate::{Error, ErrorKind, Result, Seq};

/// Where a write is on its way.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WriteState {
    /// In the queue.
    Queued,
    /// Being delivered, the attempt counted from 1.
    Delivering {
        /// Which attempt it is.
        attempt: u32,
    },
    /// The source has it, and views show it.
    Confirmed(WriteOutcome),
    /// It failed; nothing of it shows.
    Rejected(Error),
}

/// A confirmed write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOutcome {
    /// The id under which the row is stored, which the source may have chosen; `None` for `delete_all`.
    pub id: Option<String>,
    /// The batch that shows it.
    pub seq: Seq,
}

struct Shared {
    id: Option<String>,
    rank: Rank,
    state: Mutex<WriteState>,
    changed: Condvar,
    /// Called once it has ended, by whoever ends it. Under the lock of `state` when the state is looked at, too.
    at_end: Mutex<Vec<AtEnd>>,
}

type AtEnd = Box<dyn FnOnce() + Send>;

impl Shared {
    /// Moves the ticket on, and calls `count` before anyone hears of it. One that has ended stays as it is.
    fn set(&self, state: WriteState, count: impl FnOnce()) {
        let mut current = self.state.lock();
        if matches!(*current, WriteState::Confirmed(_) | WriteState::Rejected(_)) {
            return;
        }
        count();
        let has_ended = matches!(state, WriteState::Confirmed(_) | WriteState::Rejected(_));
        *current = state;
        let calls = if has_ended { std::mem::take(&mut *self.at_end.lock()) } else { Vec::new() };
        drop(current);
        calls.into_iter().for_each(|call| call());
        self.changed.notify_all();
    }
}

/// The receipt of a write. Cheap to clone; dropping it cancels nothing.
#[derive(Clone)]
pub struct WriteTicket(Arc<Shared>);

impl std::fmt::Debug for WriteTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTicket").field("id", &self.0.id).field("state", &self.state()).finish()
    }
}

impl WriteTicket {
    /// The id that the write named.
    pub fn id(&self) -> Option<&str> {
        self.0.id.as_deref()
    }

    /// Where it is now. Doesn't block.
    pub fn state(&self) -> WriteState {
        self.0.state.lock().clone()
    }

    /// Blocks until the write is confirmed or has failed. The ticket stays usable after a timeout.
    ///
    /// # Errors
    /// Why the write failed; `Timeout` when it is still on its way; `WouldDeadlock` on a thread that its delivery may be
    /// waiting for.
    pub fn wait(&self, timeout: Duration) -> Result<WriteOutcome> {
        self.wait_until(Some(timeout))
    }

    /// Has `call` called once the ticket has ended, by the thread that ends it; here and now if it has. It must not wait, and
    /// be no code of the application's.
    pub(crate) fn at_end(&self, call: impl FnOnce() + Send + 'static) {
        let state = self.0.state.lock();
        if matches!(*state, WriteState::Confirmed(_) | WriteState::Rejected(_)) {
            drop(state);
            call();
        } else {
            self.0.at_end.lock().push(Box::new(call));
        }
    }

    /// Ends the ticket as failed, after `count`, if it has not ended.
    pub(crate) fn abandon(&self, error: Error, count: impl FnOnce()) {
        self.0.set(WriteState::Rejected(error), count);
    }

    pub(crate) fn wait_until(&self, timeout: Option<Duration>) -> Result<WriteOutcome> {
        let deadline = timeout.and_then(deadline_after);
        let mut state = self.0.state.lock();
        loop {
            match &*state {
                WriteState::Confirmed(outcome) => return Ok(outcome.clone()),
                WriteState::Rejected(error) => return Err(error.clone()),
                WriteState::Queued | WriteState::Delivering { .. } => {}
            }
            may_wait_for(self.0.rank, "the settlement of a write")?;
            let timed_out = match deadline {
                Some(deadline) => self.0.changed.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.0.changed.wait(&mut state);
                    false
                }
            };
            if timed_out && matches!(*state, WriteState::Queued | WriteState::Delivering { .. }) {
                return Err(Error::new(ErrorKind::Timeout, "the write is not settled yet"));
            }
        }
    }
}

/// The side that moves the ticket.
pub(crate) struct TicketSender(Option<Arc<Shared>>);

impl TicketSender {
    pub(crate) fn new(id: Option<&str>, rank: Rank) -> (TicketSender, WriteTicket) {
        let shared = Arc::new(Shared {
            id: id.map(str::to_owned),
            rank,
            state: Mutex::new(WriteState::Queued),
            changed: Condvar::new(),
            at_end: Mutex::default(),
        });
        (TicketSender(Some(shared.clone())), WriteTicket(shared))
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.0.as_ref().and_then(|shared| shared.id.as_deref())
    }

    pub(crate) fn delivering(&self, attempt: u32) {
        if let Some(shared) = &self.0 {
            shared.set(WriteState::Delivering { attempt }, || {});
        }
    }

    /// The ticket, for who must end it while its write is still at the source.
    pub(crate) fn ticket(&self) -> Option<WriteTicket> {
        self.0.clone().map(WriteTicket)
    }

    /// Ends the ticket well, after `count`, unless the closing has ended it before.
    pub(crate) fn confirm(mut self, outcome: WriteOutcome, count: impl FnOnce()) {
        if let Some(shared) = self.0.take() {
            shared.set(WriteState::Confirmed(outcome), count);
        }
    }

    /// Ends the ticket as failed, after `count`, unless the closing has ended it before.
    pub(crate) fn reject(mut self, error: Error, count: impl FnOnce()) {
        if let Some(shared) = self.0.take() {
            shared.set(WriteState::Rejected(error), count);
        }
    }
}

impl Drop for TicketSender {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            let error = Error::new(ErrorKind::Closed, "the Dio was closed before the write was delivered");
            shared.set(WriteState::Rejected(error), || {});
        }
    }
}
