//! Flight: one thing that is under way for many, and everyone who waits for its end.
//!
//! Invariants: it ends once; who comes later gets the same result.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::sync::{Notifier, Waited};
use crate::{Error, ErrorKind, Result};

/// A refresh, or a question to the source, and everyone who waits for it.
pub(crate) struct Flight {
    result: Mutex<Option<Result<()>>>,
    /// 1 once it has ended.
    ended: Notifier,
}

impl Flight {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Flight { result: Mutex::new(None), ended: Notifier::new(0) })
    }

    /// Ends it, unless it has ended; whoever waits is woken.
    pub(crate) fn end(&self, result: Result<()>) {
        self.result.lock().get_or_insert(result);
        self.ended.advance_to(1);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.get() > 0
    }

    /// Blocks until the flight has ended.
    pub(crate) fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Blocks until the flight has ended or the time is over; `None` waits without limit.
    pub(crate) fn wait_for(&self, timeout: Option<Duration>) -> Result<()> {
        match self.ended.wait_until(1, timeout) {
            Waited::TimedOut(_) => {
                Err(Error::new(ErrorKind::Timeout, "the source had not answered within the time given"))
            }
            Waited::Reached(_) | Waited::Closed(_) => self.result.lock().clone().unwrap_or_else(|| Err(closed())),
        }
    }

    /// 1 once it has ended.
    #[cfg(any(feature = "async", test))]
    pub(crate) fn ended(&self) -> &Notifier {
        &self.ended
    }
}

/// What a flight ends as that the closing of its Dio ends.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the Dio is closed")
}
