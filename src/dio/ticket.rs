//! Ticket: what became of one write, for whoever asked for it.
//!
//! Owner: the core, the journal and the writer move it; any number of clones read and wait.
//! Invariants: it ends exactly once; dropping a ticket cancels nothing; a sender dropped on the way ends it as `Closed`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock::Moment;
#[cfg(any(all(test, feature = "lmdb"), feature = "async"))]
use crate::sync::Notifier;
use crate::sync::{Rank, deadline_after, may_wait_for};
use crate::{Error, ErrorKind, Result, Seq, WriteNumber};

/// Where a write is on its way.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WriteState {
    /// Every view shows it.
    Staged,
    /// It is accepted: the journal has it on the disk, and it will be delivered, also after a crash.
    Durable,
    /// The source has been asked to do it, the attempt counted from 1.
    Delivering {
        /// Which attempt it is.
        attempt: u32,
    },
    /// The last attempt failed, and another one will be made.
    Waiting {
        /// When, on the Lens's clock.
        until: Moment,
        /// Why the last attempt failed.
        error: Error,
    },
    /// The source has it, and views show what the source made of it.
    Confirmed(WriteOutcome),
    /// It failed; nothing of it shows.
    Rejected(Error),
    /// A later `delete_all` made it pointless before it was tried.
    Superseded {
        /// That write.
        by: WriteNumber,
    },
    /// It was dropped before it was delivered, by [`Dio::drop_write`](crate::Dio::drop_write).
    Cancelled,
    /// Whether the source has done it can't be found out, so it is not tried again.
    Unknown(Error),
    /// The Dio was closed first. The journal keeps it, and it is delivered when the table is opened again.
    Kept,
}

impl WriteState {
    /// Whether nothing more will become of it here.
    pub fn has_ended(&self) -> bool {
        match self {
            WriteState::Staged | WriteState::Durable | WriteState::Delivering { .. } | WriteState::Waiting { .. } => {
                false
            }
            WriteState::Confirmed(_)
            | WriteState::Rejected(_)
            | WriteState::Superseded { .. }
            | WriteState::Cancelled
            | WriteState::Unknown(_)
            | WriteState::Kept => true,
        }
    }

    /// What [`WriteTicket::wait`] says once it has ended.
    pub(crate) fn outcome(&self) -> Option<Result<WriteOutcome>> {
        let cancelled = |message: String| Error::new(ErrorKind::Cancelled, message);
        Some(match self {
            WriteState::Confirmed(outcome) => Ok(outcome.clone()),
            WriteState::Rejected(error) | WriteState::Unknown(error) => Err(error.clone()),
            WriteState::Superseded { by } => {
                Err(cancelled(format!("write {by}, a later `delete_all`, took its place before it was delivered")))
            }
            WriteState::Cancelled => Err(cancelled("the write was dropped before it was delivered".to_owned())),
            WriteState::Kept => {
                let message =
                    "the Dio was closed first; its journal keeps the write for when the table is opened again";
                Err(Error::new(ErrorKind::Closed, message))
            }
            _ => return None,
        })
    }
}

/// A confirmed write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteOutcome {
    /// The id under which the row is stored, which the source may have chosen; `None` for `delete_all`.
    pub id: Option<String>,
    /// The batch that shows it.
    pub seq: Seq,
}

/// Whether the write survives a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acceptance {
    NotYet,
    Durable,
    /// The cache is in memory.
    Never,
}

struct Progress {
    /// `None`: the core has not seen it.
    state: Option<WriteState>,
    acceptance: Acceptance,
    /// The id that the row has now.
    id: Option<Arc<str>>,
    number: Option<WriteNumber>,
    /// Why the core did not take it.
    refused: Option<Error>,
    /// Called once it has ended, by whoever ends it.
    at_end: Vec<AtEnd>,
    /// What threads wait for; the others need not be woken.
    awaited: Awaited,
}

/// What a thread may wait for.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Staged,
    Durable,
    Ended,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Staged => "shown",
            Stage::Durable => "on the disk",
            Stage::Ended => "settled",
        }
    }
}

/// Stages that somebody waits for.
#[derive(Default)]
struct Awaited([bool; 3]);

impl Awaited {
    fn add(&mut self, stage: Stage) {
        self.0[stage as usize] = true;
    }

    /// Whether somebody waits for what a ticket in this state has reached. Whoever is woken too early says again what he waits
    /// for.
    fn take(&mut self, state: &WriteState) -> bool {
        let reached = match state {
            WriteState::Durable => &mut self.0[..=Stage::Durable as usize],
            state if state.has_ended() => &mut self.0[..],
            _ => &mut self.0[..=Stage::Staged as usize],
        };
        let any = reached.contains(&true);
        reached.fill(false);
        any
    }
}

/// Every write has one, so what it costs counts: threads that wait do so under its own lock, and leave nothing behind.
struct Shared {
    rank: Rank,
    progress: Mutex<Progress>,
    /// Rung after a move that somebody waits for.
    moved: Condvar,
    /// How often it has moved, for tasks.
    #[cfg(any(all(test, feature = "lmdb"), feature = "async"))]
    moves: Notifier,
}

type AtEnd = Box<dyn FnOnce() + Send>;

impl Shared {
    /// Moves the ticket on, and calls `count` before anyone hears of it. One that has ended stays as it is.
    fn set(&self, state: WriteState, count: impl FnOnce()) -> bool {
        self.set_in(self.progress.lock(), state, count)
    }

    fn set_in(&self, mut progress: MutexGuard<'_, Progress>, state: WriteState, count: impl FnOnce()) -> bool {
        if progress.state.as_ref().is_some_and(WriteState::has_ended) {
            return false;
        }
        count();
        let calls = if state.has_ended() { std::mem::take(&mut progress.at_end) } else { Vec::new() };
        let is_awaited = progress.awaited.take(&state);
        progress.state = Some(state);
        drop(progress);
        calls.into_iter().for_each(|call| call());
        if is_awaited {
            // Without the lock, which whoever wakes wants at once.
            self.moved.notify_all();
        }
        #[cfg(any(all(test, feature = "lmdb"), feature = "async"))]
        self.moves.advance();
        true
    }

    /// Waits until `ready` has something to say.
    fn wait<T>(&self, timeout: Option<Duration>, stage: Stage, ready: impl Fn(&Progress) -> Option<T>) -> Result<T> {
        let deadline = timeout.filter(|timeout| !timeout.is_zero()).and_then(deadline_after);
        let mut timed_out = timeout == Some(Duration::ZERO);
        let mut progress = self.progress.lock();
        loop {
            if let Some(answer) = ready(&progress) {
                return Ok(answer);
            }
            may_wait_for(self.rank, "the settlement of a write")?;
            if timed_out {
                return Err(Error::new(ErrorKind::Timeout, format!("the write is not {} yet", stage.name())));
            }
            progress.awaited.add(stage);
            match deadline {
                Some(deadline) => timed_out = self.moved.wait_until(&mut progress, deadline).timed_out(),
                None => self.moved.wait(&mut progress),
            }
        }
    }
}

impl Progress {
    fn outcome(&self) -> Option<Result<WriteOutcome>> {
        self.state.as_ref()?.outcome()
    }

    /// What [`WriteTicket::wait_durable`] says, once that is known.
    fn durability(&self) -> Option<Result<()>> {
        match (self.acceptance, &self.state) {
            (Acceptance::Durable, _) => Some(Ok(())),
            (Acceptance::Never, _) => Some(Err(not_durable())),
            (Acceptance::NotYet, Some(state)) => state.outcome().map(|outcome| outcome.map(drop)),
            (Acceptance::NotYet, None) => None,
        }
    }
}

/// What is said of durable writes over a cache in memory.
pub(crate) fn not_durable() -> Error {
    let message = "the cache is in memory, so no write survives the program; use `cache_at`";
    Error::new(ErrorKind::Unsupported, message)
}

/// The receipt of a write. Cheap to clone; dropping it cancels nothing.
#[derive(Clone)]
pub struct WriteTicket(Arc<Shared>);

impl std::fmt::Debug for WriteTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTicket").field("id", &self.id()).field("state", &self.state()).finish()
    }
}

impl WriteTicket {
    /// The id of the row it writes: the one that the write named, or that the row goes by until the source has chosen one;
    /// from then on that one. `None` for `delete_all`. Doesn't block.
    pub fn id(&self) -> Option<Arc<str>> {
        self.0.progress.lock().id.clone()
    }

    /// Its number among the writes of its table, in the order in which they were accepted. Doesn't block.
    pub fn number(&self) -> WriteNumber {
        self.0.progress.lock().number.unwrap_or(WriteNumber(0))
    }

    /// Where it is now. Doesn't block.
    pub fn state(&self) -> WriteState {
        self.0.progress.lock().state.clone().unwrap_or(WriteState::Staged)
    }

    /// Blocks until the write is confirmed or has failed. The ticket stays usable after a timeout.
    ///
    /// # Errors
    /// Why the write failed; `Cancelled` when it was dropped or superseded; `Closed` when the Dio was closed first; `Timeout`
    /// when it is still on its way; `WouldDeadlock` on a thread that its delivery may be waiting for.
    pub fn wait(&self, timeout: Duration) -> Result<WriteOutcome> {
        self.wait_until(Some(timeout))
    }

    /// Blocks until the write is accepted: it is on the disk, and survives a crash.
    ///
    /// # Errors
    /// `Unsupported` when the cache is in memory, which promises nothing; why it was refused; `Timeout`; `WouldDeadlock`.
    pub fn wait_durable(&self, timeout: Duration) -> Result<()> {
        self.wait_durable_until(Some(timeout))
    }

    pub(crate) fn wait_durable_until(&self, timeout: Option<Duration>) -> Result<()> {
        self.0.wait(timeout, Stage::Durable, Progress::durability)?
    }

    /// Whether the journal has it.
    pub(crate) fn is_durable(&self) -> bool {
        self.0.progress.lock().acceptance == Acceptance::Durable
    }

    /// Has `call` called once the ticket has ended, by the thread that ends it; here and now if it has. It must not wait, and
    /// be no code of the application's.
    pub(crate) fn at_end(&self, call: impl FnOnce() + Send + 'static) {
        let mut progress = self.0.progress.lock();
        if progress.state.as_ref().is_some_and(WriteState::has_ended) {
            drop(progress);
            call();
        } else {
            progress.at_end.push(Box::new(call));
        }
    }

    pub(crate) fn wait_until(&self, timeout: Option<Duration>) -> Result<WriteOutcome> {
        self.0.wait(timeout, Stage::Ended, Progress::outcome)?
    }

    /// How often it has moved.
    #[cfg(any(all(test, feature = "lmdb"), feature = "async"))]
    pub(crate) fn moves(&self) -> &Notifier {
        &self.0.moves
    }

    /// Whether the core has staged or refused it.
    #[cfg(feature = "async")]
    pub(crate) fn is_staged(&self) -> bool {
        self.0.progress.lock().state.is_some()
    }

    /// Waits until the core has staged or refused it, which waits for nothing else.
    pub(crate) fn wait_staged(&self) -> Result<()> {
        let mut progress = self.0.progress.lock();
        while progress.state.is_none() {
            progress.awaited.add(Stage::Staged);
            self.0.moved.wait(&mut progress);
        }
        progress.refused.clone().map_or(Ok(()), Err)
    }
}

/// The side that moves the ticket. Dropped, it ends it.
pub(crate) struct TicketSender(Arc<Shared>);

impl TicketSender {
    pub(crate) fn new(id: Option<&str>, rank: Rank, is_journaled: bool) -> (TicketSender, WriteTicket) {
        let acceptance = if is_journaled { Acceptance::NotYet } else { Acceptance::Never };
        let (id, at_end) = (id.map(Arc::from), Vec::new());
        let progress =
            Progress { state: None, acceptance, id, number: None, refused: None, at_end, awaited: Awaited::default() };
        let shared = Arc::new(Shared {
            rank,
            progress: Mutex::new(progress),
            moved: Condvar::new(),
            #[cfg(any(all(test, feature = "lmdb"), feature = "async"))]
            moves: Notifier::new(0),
        });
        (TicketSender(shared.clone()), WriteTicket(shared))
    }

    /// The id that the row has now.
    pub(crate) fn id(&self) -> Option<Arc<str>> {
        self.0.progress.lock().id.clone()
    }

    /// The ticket, for who must end it while its write is still at the source.
    pub(crate) fn ticket(&self) -> WriteTicket {
        WriteTicket(self.0.clone())
    }

    /// The core has given it its number and its row an id.
    pub(crate) fn number(&self, number: WriteNumber, id: Option<Arc<str>>) {
        let mut progress = self.0.progress.lock();
        progress.number = Some(number);
        progress.id = id;
    }

    /// The row goes by another id now.
    pub(crate) fn rename(&self, id: Arc<str>) {
        self.0.progress.lock().id = Some(id);
    }

    /// The core does not take it: nothing of it shows.
    pub(crate) fn refuse(&self, error: Error) {
        self.0.progress.lock().refused = Some(error.clone());
        self.0.set(WriteState::Rejected(error), || {});
    }

    /// Every view shows it. The journal, which had it before anybody was told, may have been quicker.
    pub(crate) fn staged(&self) {
        let progress = self.0.progress.lock();
        if progress.state.is_none() {
            self.0.set_in(progress, WriteState::Staged, || {});
        }
    }

    /// The journal has it.
    pub(crate) fn durable(&self) {
        let mut progress = self.0.progress.lock();
        progress.acceptance = Acceptance::Durable;
        self.0.set_in(progress, WriteState::Durable, || {});
    }

    pub(crate) fn delivering(&self, attempt: u32) {
        self.0.set(WriteState::Delivering { attempt }, || {});
    }

    pub(crate) fn waiting(&self, until: Moment, error: Error) {
        self.0.set(WriteState::Waiting { until, error }, || {});
    }

    /// Ends the ticket, after `count`, unless the closing has ended it before.
    pub(crate) fn end(&self, state: WriteState, count: impl FnOnce()) {
        self.0.set(state, count);
    }
}

impl Drop for TicketSender {
    fn drop(&mut self) {
        let error = Error::new(ErrorKind::Closed, "the Dio was closed before the write was delivered");
        self.0.set(WriteState::Rejected(error), || {});
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Role;

    #[test]
    fn whoever_waits_is_woken_by_what_he_waits_for_and_by_the_end() {
        let staged = WriteState::Staged;
        let ended = WriteState::Cancelled;
        for (stage, woken_by) in [
            (Stage::Staged, [true, true, true, true]),
            (Stage::Durable, [false, true, false, true]),
            (Stage::Ended, [false, false, false, true]),
        ] {
            let states = [&staged, &WriteState::Durable, &WriteState::Delivering { attempt: 1 }, &ended];
            for (state, is_woken) in states.into_iter().zip(woken_by) {
                let mut awaited = Awaited::default();
                awaited.add(stage);
                assert_eq!(awaited.take(state), is_woken, "{stage:?} by {state:?}");
                assert_eq!(awaited.take(&ended), !is_woken, "nobody is forgotten, and nobody woken twice");
            }
        }
    }

    #[test]
    fn a_write_that_the_journal_has_before_its_maker_hears_of_it_stays_durable() {
        let (sender, ticket) = TicketSender::new(Some("a"), Rank::new(0, Role::Writer), true);
        sender.durable();
        sender.staged();
        assert!(matches!(ticket.state(), WriteState::Durable));
        ticket.wait_staged().unwrap();
        ticket.wait_durable(Duration::ZERO).unwrap();
        sender.delivering(1);
        sender.staged();
        assert!(matches!(ticket.state(), WriteState::Delivering { attempt: 1 }));
    }
}
