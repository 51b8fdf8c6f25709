//! Events: what a Dio tells its subscribers, each with the Seq at which it was true and its cause.

use std::sync::Arc;

use crate::{Error, Seq};

/// Why rows changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Code of this process, through the cache handle.
    Local,
    /// A write that the source confirmed.
    Confirmed,
    /// A write that the source refused.
    RolledBack,
    /// A copy or refresh of the source.
    Refresh,
    /// Somebody else changed the source, and it told, or the application did: `handle_event`, `patched`.
    Outside,
    /// Rows grew too old.
    Expiry,
}

/// Something that happened in a Dio. Whoever has received one sees rows at least as new as its Seq.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DioEvent {
    /// A row is new.
    RecordInserted {
        /// The row's id.
        id: Arc<str>,
        /// The batch that did it.
        seq: Seq,
        /// Why.
        cause: Cause,
    },
    /// A row is another than before.
    RecordChanged {
        /// The row's id.
        id: Arc<str>,
        /// The batch that did it.
        seq: Seq,
        /// Why.
        cause: Cause,
    },
    /// A row is gone.
    RecordRemoved {
        /// The row's id.
        id: Arc<str>,
        /// The batch that did it.
        seq: Seq,
        /// Why.
        cause: Cause,
    },
    /// Many rows may have changed at once.
    Invalidated {
        /// The batch that did it.
        seq: Seq,
        /// Why.
        cause: Cause,
    },
    /// A refresh has begun.
    Refreshing {
        /// The newest batch when it began.
        seq: Seq,
    },
    /// A refresh has ended well; the rows it changed are visible.
    Refreshed {
        /// The newest batch when it ended.
        seq: Seq,
    },
    /// A refresh has failed; the rows are as they were.
    RefreshFailed {
        /// The newest batch when it failed.
        seq: Seq,
        /// Why it failed.
        error: Error,
    },
    /// The first copy of the source is complete.
    Seeded {
        /// The batch that completed it.
        seq: Seq,
    },
    /// A write was taken into the queue.
    WritePending {
        /// The id it names; `None` where the source is to choose one, and for `delete_all`.
        id: Option<Arc<str>>,
        /// The newest batch when it was taken.
        seq: Seq,
    },
    /// A write was confirmed by the source and its effect is visible.
    WriteSettled {
        /// The id under which the row is stored; `None` for `delete_all`.
        id: Option<Arc<str>>,
        /// The batch that shows it.
        seq: Seq,
    },
    /// A write failed.
    WriteFailed {
        /// The id it named.
        id: Option<Arc<str>>,
        /// The newest batch when it failed.
        seq: Seq,
        /// Why it failed.
        error: Error,
    },
    /// What [`Dio::status`](crate::Dio::status) says has changed.
    StatusChanged {
        /// The newest batch at that time.
        seq: Seq,
    },
    /// The Dio is closed. No event follows.
    Closed {
        /// The last batch.
        seq: Seq,
    },
}

impl DioEvent {
    /// The Seq it carries.
    pub fn seq(&self) -> Seq {
        match self {
            DioEvent::RecordInserted { seq, .. }
            | DioEvent::RecordChanged { seq, .. }
            | DioEvent::RecordRemoved { seq, .. }
            | DioEvent::Invalidated { seq, .. }
            | DioEvent::Refreshing { seq }
            | DioEvent::Refreshed { seq }
            | DioEvent::RefreshFailed { seq, .. }
            | DioEvent::Seeded { seq }
            | DioEvent::WritePending { seq, .. }
            | DioEvent::WriteSettled { seq, .. }
            | DioEvent::WriteFailed { seq, .. }
            | DioEvent::StatusChanged { seq }
            | DioEvent::Closed { seq } => *seq,
        }
    }

    /// The row it names, if any.
    pub fn id(&self) -> Option<&str> {
        match self {
            DioEvent::RecordInserted { id, .. }
            | DioEvent::RecordChanged { id, .. }
            | DioEvent::RecordRemoved { id, .. } => Some(id),
            DioEvent::WritePending { id, .. }
            | DioEvent::WriteSettled { id, .. }
            | DioEvent::WriteFailed { id, .. } => id.as_deref(),
            _ => None,
        }
    }

    /// Why rows changed, for the events about rows.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            DioEvent::RecordInserted { cause, .. }
            | DioEvent::RecordChanged { cause, .. }
            | DioEvent::RecordRemoved { cause, .. }
            | DioEvent::Invalidated { cause, .. } => Some(*cause),
            _ => None,
        }
    }
}
