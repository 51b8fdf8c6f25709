//! Runtime: the Tokio runtime in whose context a future of the user's is driven, and what is said where it is missing.
//!
//! Invariants:
//! 1. A runtime that works only while somebody drives it is refused (`a_current_thread_runtime_is_refused`): the thread that
//!    drives the future drives no runtime.
//! 2. A future that looks for a runtime where there is none is an error that names the setting
//!    (`a_callback_that_needs_a_runtime_says_which_setting_takes_one`).
//! 3. What fails since the runtime has been shut down is `Unavailable`: a write is kept, not rejected
//!    (`a_runtime_that_is_shut_down_under_a_callback_is_an_error_and_no_hang`).
//!
//! Not here: a runtime of our own.

#[cfg(feature = "tokio")]
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::sync::{ReplyReceiver, catch_panic};
use crate::{Error, ErrorKind, Result};

/// How Tokio's panic begins when a future needs a runtime and there is none.
const NO_REACTOR: &str = "there is no reactor running";
/// How it begins when the runtime has been shut down.
const SHUT_DOWN: &str = "A Tokio 1.x context was found, but it is being shutdown";

/// The runtime whose context futures are driven in, if there is one; without the feature `tokio` there is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runtime {
    #[cfg(feature = "tokio")]
    handle: Option<Handle>,
}

#[cfg(feature = "tokio")]
impl Runtime {
    pub(super) fn of(handle: Handle) -> Self {
        Runtime { handle: Some(handle) }
    }

    /// Refuses a runtime that works only while somebody drives it.
    pub(crate) fn check(&self, setting: &'static str) -> Result<()> {
        if self.handle.as_ref().is_some_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread) {
            let message = "a current-thread runtime stands still while nobody drives it, and futures that wait for it would \
                           hang; give the handle of a multi-thread runtime (one worker thread will do)";
            return Err(Error::new(ErrorKind::Invalid, message).with("setting", setting));
        }
        Ok(())
    }
}

impl Runtime {
    /// This one, or else the other.
    pub(super) fn or(&self, other: &Runtime) -> Runtime {
        #[cfg(feature = "tokio")]
        if self.handle.is_none() {
            return other.clone();
        }
        let _ = other;
        self.clone()
    }

    /// The runtime that this thread is in the context of, unless that one needs somebody to drive it.
    pub(super) fn of_this_thread() -> Runtime {
        Runtime {
            #[cfg(feature = "tokio")]
            handle: Handle::try_current().ok().filter(|handle| handle.runtime_flavor() != RuntimeFlavor::CurrentThread),
        }
    }

    /// Runs work in this runtime's context and inside a fence against panics. `what` begins the sentence "… panicked"; `setting`
    /// is what takes a runtime.
    pub(super) fn run<T>(&self, what: &'static str, setting: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let answer = catch_panic(what, || {
            #[cfg(feature = "tokio")]
            let _entered = self.handle.as_ref().map(Handle::enter);
            work()
        });
        answer.unwrap_or_else(|panic| Err(explained(panic, what, setting)))
    }
}

/// A panic that is Tokio's word on its runtime, as an error of ours.
fn explained(panic: Error, what: &str, setting: &str) -> Error {
    let text = panic.message().strip_prefix(what).and_then(|rest| rest.strip_prefix(" panicked: ")).unwrap_or_default();
    if text.starts_with(NO_REACTOR) {
        let message = format!(
            "{what} waits for something of a Tokio runtime, and was given none; hand the handle of a multi-thread runtime to \
             `{setting}` (feature `tokio`)"
        );
        return Error::new(ErrorKind::Invalid, message).with("setting", setting);
    }
    if text.starts_with(SHUT_DOWN) {
        let message = format!(
            "{what} waits for something of the Tokio runtime that `{setting}` was given, which has been shut down; close the \
             Lens before the runtime ends"
        );
        return Error::new(ErrorKind::Unavailable, message).with("setting", setting);
    }
    panic
}

/// Waits on a thread that may be one of an executor's: a worker of a Tokio runtime hands its other tasks on first.
pub(super) fn wait_here<T>(answer: ReplyReceiver<Result<T>>) -> Result<T> {
    let mut answer = Some(answer);
    let mut wait = || answer.take().map(|answer| answer.wait(None));
    #[cfg(feature = "tokio")]
    if Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() != RuntimeFlavor::CurrentThread) {
        // Tokio panics in a `LocalSet`, whose thread has nothing to hand on: then the wait has not begun.
        if let Ok(Some(waited)) = catch_panic("a wait", || tokio::task::block_in_place(&mut wait)) {
            return waited?;
        }
    }
    wait().ok_or_else(|| Error::new(ErrorKind::Panicked, "the wait for the answer panicked"))??
}
