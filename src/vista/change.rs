//! Changes from outside: what a source tells of rows that somebody else changed.

use crate::Result;
use crate::value::Record;
use crate::vista::CallCx;

/// One change that happened at the source.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ChangeEvent {
    /// A row is new.
    Inserted {
        /// Its id.
        id: String,
        /// The whole row, where the source tells it; without it the row is read again.
        record: Option<Record>,
    },
    /// A row is another than before.
    Updated {
        /// Its id.
        id: String,
        /// The whole row, where the source tells it; without it the row is read again.
        record: Option<Record>,
    },
    /// A row is gone.
    Deleted {
        /// Its id.
        id: String,
    },
    /// Anything may have changed: the table is read again.
    Invalidated,
}

/// A source's stream of changes, read by one thread.
pub trait ChangeStream: Send {
    /// The next change; blocks until there is one, the call is cancelled or its deadline passes. `Ok(None)`: the
    /// stream has ended.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, or what the source says.
    fn next(&mut self, cx: &CallCx) -> Result<Option<ChangeEvent>>;
}
