//! Sync: the only door to threads, waiting and repaint hooks, so that every wait has a rank, an end and a test.
//!
//! Invariants:
//! 1. Every thread of the library is started here, is named, and has a rank (`thread`).
//! 2. A wait that another thread could turn into a cycle asks [`may_wait_for`] first.
//! 3. A blocking wait that may run inside a user's future waits on a Condvar, never in a channel: a channel's park can
//!    swallow the wake-up of the executor that drives the future.
//!
//! Not here: what is waited for; that is the Dio's and its sceneries' matter. Time that a test moves is `clock`'s.

mod doorbell;
mod file_lock;
mod hooks;
mod notifier;
#[cfg(test)]
mod notifier_tests;
mod pieces;
mod prims;
mod reply;
mod thread;

pub(crate) use doorbell::Doorbell;
pub(crate) use file_lock::lock_file;
pub(crate) use hooks::{Hook, HookGuard, HookRunner};
#[cfg(feature = "async")]
pub(crate) use notifier::Reaching;
pub(crate) use notifier::WaitedAny;
pub use notifier::{Notifier, Subscription, Waited};
pub(crate) use pieces::Pieces;
pub(crate) use prims::{Deadline, deadline_after, time_left};
#[cfg(feature = "async")]
pub(crate) use reply::ReplyReceiver;
pub(crate) use reply::{ReplySender, reply};
pub use thread::{QueueInfo, ThreadInfo, live_threads};
pub(crate) use thread::{Rank, Role, Worker, as_rank, catch_panic, catch_user, may_wait_for, on_own_thread, spawn};
