//! Call: a blocking call of the library, made on a thread of the Lens and awaited without one.
//!
//! Flow: first poll → a job of the pool → the job's answer wakes the task.
//! Invariants: a job whose future is dropped before it has begun is taken back; on a thread of the library the call is made at
//! once, in that thread's callback and with its rank.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::dio::callback;
use crate::lens::Pool;
use crate::sync::{Rank, ReplyReceiver, catch_panic, on_own_thread, reply, spawn};
use crate::{Error, Result};

/// A call that was handed to a pool: a future of what it answers. Dropped, it is taken back if it has not begun.
pub(super) struct Job<T> {
    answer: ReplyReceiver<Result<T>>,
    pool: Arc<Pool>,
    number: u64,
    has_answered: bool,
}

impl<T: Send + 'static> Job<T> {
    /// # Errors
    /// `Closed`; `Unavailable` when the system gives no thread.
    pub(super) fn begin(pool: &Arc<Pool>, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<Self> {
        let (sender, answer) = reply();
        let job = move || sender.send(catch_panic("a call", work).and_then(|answer| answer));
        let number = pool.submit(Rank::above_all(), Box::new(job))?;
        Ok(Job { answer, pool: pool.clone(), number, has_answered: false })
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let answer = Pin::new(&mut self.answer).poll(cx);
        self.has_answered |= answer.is_ready();
        answer.map(|answer| answer?)
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        if !self.has_answered {
            self.pool.withdraw(self.number);
        }
    }
}

/// Whether a call is made here and now: on a thread of the library.
pub(super) fn is_made_here() -> bool {
    on_own_thread() || callback::is_open()
}

/// What `work` answers, which blocks.
pub(super) async fn call<T: Send + 'static>(
    pool: &Arc<Pool>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if is_made_here() {
        return work();
    }
    Job::begin(pool, work)?.await
}

/// What `work` answers, which blocks for long and has no pool: on a thread of its own, which has ended then, and goes on if
/// nobody waits any more.
pub(super) async fn call_on_own_thread<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = reply();
    let job = move || sender.send(catch_panic("a call", work).and_then(|answer| answer));
    let worker = spawn(name, Rank::above_all(), job)?;
    let answer = receiver.await;
    worker.ended().reached(1).await;
    answer?
}
