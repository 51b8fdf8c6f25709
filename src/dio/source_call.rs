//! Source call: what a Dio's call to its source carries, and the fence around a read.
//!
//! Invariants: every call can be cancelled and has a deadline on the Lens's clock, unless the Lens sets none
//! (`a_call_of_the_source_that_stands_still_ends_at_its_deadline_and_is_reported`).

use crate::dio::DioInner;
use crate::sync::catch_user;
use crate::vista::{CallCx, Vista};
use crate::{ErrorKind, Result};

impl DioInner {
    /// The context of a call to the source: it ends when the Dio closes, or when its time is over.
    pub(crate) fn call_cx(&self) -> CallCx {
        let cx = CallCx::on(self.clock().clone()).with_cancel(self.cancel.clone());
        #[cfg(feature = "async")]
        let cx = cx.in_runtime(self.lens.callbacks.runtime.clone());
        match self.lens.defaults.source_timeout {
            Some(timeout) => cx.deadline_in(timeout),
            None => cx,
        }
    }

    /// One read of the source, fenced. Where its time was over, the error names the setting.
    pub(crate) fn read_source<T>(&self, read: impl FnOnce(&Vista, &CallCx) -> Result<T>) -> Result<T> {
        let cx = self.call_cx();
        let answer = catch_user("the source", || read(&self.master, &cx)).and_then(|answer| answer);
        answer.map_err(|error| match self.lens.defaults.source_timeout {
            Some(timeout) if error.kind() == ErrorKind::Timeout => error.with("source_timeout", format!("{timeout:?}")),
            _ => error,
        })
    }
}
