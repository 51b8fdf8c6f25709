//! Protocol: what the queue of writes is told and what it answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::line::RowKey;
use crate::clock::Moment;
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, WriteNumber};

/// A write that the queue takes over.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) number: WriteNumber,
    /// The row whose order it keeps, by the id that it has now.
    pub(crate) row: RowKey,
    pub(crate) op: Arc<WriteOp>,
    /// Whether the source may have seen it already, before a restart.
    pub(crate) attempted: bool,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    /// Deliver these in one call, in this order, and say of each how it [`finished`](super::Delivery::finished).
    Deliver(Vec<Due>),
    /// The `delete_all` of number `by` has waited long enough for these: they are superseded and forgotten. Ask again.
    Superseded { by: WriteNumber, numbers: Vec<WriteNumber> },
    /// Ask again at this moment, or when anything else happened to the queue.
    WaitUntil(Moment),
    /// Ask again when anything happened to the queue; time alone changes nothing.
    Idle,
}

/// A write to be delivered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Due {
    pub(crate) number: WriteNumber,
    /// What to deliver: the write itself, or with `merged` the patch that stands for all of them.
    pub(crate) op: Arc<WriteOp>,
    /// The number of this attempt, from 1.
    pub(crate) attempt: u32,
    /// Later writes that go with this one; what becomes of it becomes of them.
    pub(crate) merged: Vec<WriteNumber>,
}

/// How the delivery of one write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The source did it.
    Done,
    /// The source will never do it.
    Failed,
    /// It failed for now, or nobody knows.
    Transient { retry_after: Option<Duration> },
    /// The source can't be reached, for this write or any other.
    Unavailable { retry_after: Option<Duration> },
}

impl Outcome {
    /// What a failed delivery means for the write.
    pub(crate) fn of(error: &Error) -> Self {
        let retry_after = error.retry_after();
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Closed => Outcome::Unavailable { retry_after },
            // Whether the source did it or not is unknown, or nothing of the failure is the write's own.
            ErrorKind::Timeout
            | ErrorKind::Cancelled
            | ErrorKind::Full
            | ErrorKind::Source
            | ErrorKind::Cache
            | ErrorKind::Corrupt => Outcome::Transient { retry_after },
            ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Unsupported
            | ErrorKind::Invalid
            | ErrorKind::Rejected
            | ErrorKind::Expired
            | ErrorKind::WouldDeadlock
            | ErrorKind::Panicked => Outcome::Failed,
        }
    }

    /// Whether the source may have done a write that failed with this error.
    pub(crate) fn may_be_done(error: &Error) -> bool {
        match error.kind() {
            ErrorKind::Cache | ErrorKind::Full => false,
            ErrorKind::Panicked => true,
            _ => matches!(Outcome::of(error), Outcome::Transient { .. }),
        }
    }
}

/// What became of a write, and of those merged with it, by an [`Outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is over and forgotten.
    Settled,
    /// It stays in the queue, and nothing happens to it before this moment.
    Waiting { until: Moment },
    /// Its attempts are used up; it is forgotten. The caller rejects it.
    GaveUp,
    /// A later `delete_all` made it pointless; it is forgotten.
    Superseded { by: WriteNumber },
    /// It was not being delivered; nothing changed.
    NotInFlight,
}

/// Where a write in the queue stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    /// It waits for its turn: for writes of its row, for a `delete_all`, for a paused queue or for a free worker.
    Queued { attempts: u32 },
    /// It is being delivered.
    InFlight { attempt: u32 },
    /// It failed and waits for this moment.
    Waiting { attempts: u32, until: Moment },
}

/// Why the queue doesn't do what was asked of it for one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not in the queue (any more).
    Unknown,
    /// It is being delivered.
    InFlight,
    /// A later `delete_all` waits for it to be over; it is not tried again.
    Behind(WriteNumber),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown => f.write_str("it is not in the queue any more"),
            Refusal::InFlight => f.write_str("it is being delivered right now"),
            Refusal::Behind(number) => write!(f, "it is not tried again: write {number} deletes all rows"),
        }
    }
}
