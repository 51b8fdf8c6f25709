//! Reply: one answer to one message, awaited on a Condvar or by a task.
//!
//! Invariants: an asker never waits for ever: a sender dropped without an answer says `Closed`
//! (`a_dropped_sender_answers_closed`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::prims::{Condvar, Mutex, deadline_after};
use super::thread::catch_panic;
use crate::{Error, ErrorKind, Result};

enum Slot<T> {
    /// With the task to wake, if one waits.
    Waiting(Option<Waker>),
    Answered(T),
    Hung,
}

struct Shared<T> {
    slot: Mutex<Slot<T>>,
    changed: Condvar,
}

/// The side that answers, once.
pub(crate) struct ReplySender<T>(Option<Arc<Shared<T>>>);

/// The side that waits for the answer.
pub(crate) struct ReplyReceiver<T>(Arc<Shared<T>>);

/// A pair of the two.
pub(crate) fn reply<T>() -> (ReplySender<T>, ReplyReceiver<T>) {
    let shared = Arc::new(Shared { slot: Mutex::new(Slot::Waiting(None)), changed: Condvar::new() });
    (ReplySender(Some(shared.clone())), ReplyReceiver(shared))
}

impl<T> Shared<T> {
    fn fill(&self, slot: Slot<T>) {
        let before = std::mem::replace(&mut *self.slot.lock(), slot);
        self.changed.notify_all();
        if let Slot::Waiting(Some(task)) = before {
            // An executor's code; a panic of it is not the answerer's.
            let _ = catch_panic("a waker", || task.wake());
        }
    }
}

fn hung_up() -> Error {
    Error::new(ErrorKind::Closed, "the Dio is closed")
}

impl<T> ReplySender<T> {
    pub(crate) fn send(mut self, answer: T) {
        if let Some(shared) = self.0.take() {
            shared.fill(Slot::Answered(answer));
        }
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.fill(Slot::Hung);
        }
    }
}

impl<T> ReplyReceiver<T> {
    /// Waits for the answer. `Timeout` leaves the question open; `Closed`: nobody will answer.
    pub(crate) fn wait(self, timeout: Option<Duration>) -> Result<T> {
        let deadline = timeout.and_then(deadline_after);
        let mut slot = self.0.slot.lock();
        loop {
            match std::mem::replace(&mut *slot, Slot::Waiting(None)) {
                Slot::Answered(answer) => return Ok(answer),
                Slot::Hung => return Err(hung_up()),
                Slot::Waiting(_) => {}
            }
            if self.0.changed.wait(&mut slot, deadline) && matches!(*slot, Slot::Waiting(_)) {
                return Err(Error::new(ErrorKind::Timeout, "no answer within the time given"));
            }
        }
    }
}

impl<T> Future for ReplyReceiver<T> {
    type Output = Result<T>;

    /// The answer, once; who asks again hears that nobody will answer.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        // Cloned, and what it replaces dropped, outside the lock: both are the executor's code.
        let task = cx.waker().clone();
        let mut slot = self.0.slot.lock();
        let (next, is_waiting) = match &*slot {
            Slot::Waiting(_) => (Slot::Waiting(Some(task)), true),
            Slot::Answered(_) | Slot::Hung => (Slot::Hung, false),
        };
        let before = std::mem::replace(&mut *slot, next);
        drop(slot);
        match before {
            Slot::Answered(answer) => Poll::Ready(Ok(answer)),
            _ if is_waiting => Poll::Pending,
            _ => Poll::Ready(Err(hung_up())),
        }
    }
}

impl<T> Drop for ReplyReceiver<T> {
    /// Whoever gave up the wait is not to be woken, nor its task kept until the answer.
    fn drop(&mut self) {
        let mut slot = self.0.slot.lock();
        let task = if let Slot::Waiting(task) = &mut *slot { task.take() } else { None };
        drop(slot);
        // An executor's code, which may panic.
        let _ = catch_panic("a waker", || drop(task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_sender_answers_closed() {
        let (sender, receiver) = reply::<u8>();
        drop(sender);
        assert_eq!(receiver.wait(None).unwrap_err().kind(), ErrorKind::Closed);
    }

    #[test]
    fn an_answer_arrives_whether_or_not_somebody_waits_yet() {
        let (sender, receiver) = reply();
        sender.send(7);
        assert_eq!(receiver.wait(None).unwrap(), 7);
    }
}
