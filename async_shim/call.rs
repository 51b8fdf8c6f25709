//! Call: a blocking call of the library, made on a thread of the Lens and awaited without one.
//!
//! Flow: first poll → a job of the pool → the job's answer wakes the task.
//! Invariants: a job whose future is dropped before it has begun is taken back; on a thread of the library the call is made at
//! once, in that thread's callback and with its rank.

use std::sync::Arc;

use crate::dio::callback;
use crate::lens::Pool;
use crate::sync::{Rank, catch_panic, on_own_thread, reply, spawn};
use crate::{Error, Result};

/// Takes back a job that has not begun.
struct Withdraw<'a> {
    pool: &'a Pool,
    job: Option<u64>,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if let Some(job) = self.job {
            self.pool.withdraw(job);
        }
    }
}

/// What `work` answers, which blocks.
pub(super) async fn call<T: Send + 'static>(
    pool: &Arc<Pool>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if on_own_thread() || callback::is_open() {
        return work();
    }
    let (sender, receiver) = reply();
    let job = move || sender.send(catch_panic("a call", work).and_then(|answer| answer));
    let mut withdraw = Withdraw { pool, job: Some(pool.submit(Rank::above_all(), Box::new(job))?) };
    let answer = receiver.await?;
    withdraw.job = None;
    answer
}

/// What `work` answers, which blocks for long and has no pool: on a thread of its own, which goes on if nobody waits any more.
pub(super) async fn call_on_own_thread<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = reply();
    let job = move || sender.send(catch_panic("a call", work).and_then(|answer| answer));
    // Nobody joins it: its answer is its end.
    drop(spawn(name, Rank::above_all(), job)?);
    receiver.await?
}
