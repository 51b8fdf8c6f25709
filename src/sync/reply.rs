//! Reply: one answer to one message, awaited on a Condvar.
//!
//! Invariants: an asker never waits for ever: a sender dropped without an answer says `Closed`
//! (`a_dropped_sender_answers_closed`).

use std::sync::Arc;
use std::time::Duration;

use super::prims::{Condvar, Mutex, deadline_after};
use crate::{Error, ErrorKind, Result};

enum Slot<T> {
    Waiting,
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
    let shared = Arc::new(Shared { slot: Mutex::new(Slot::Waiting), changed: Condvar::new() });
    (ReplySender(Some(shared.clone())), ReplyReceiver(shared))
}

impl<T> ReplySender<T> {
    pub(crate) fn send(mut self, answer: T) {
        if let Some(shared) = self.0.take() {
            *shared.slot.lock() = Slot::Answered(answer);
            shared.changed.notify_all();
        }
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            *shared.slot.lock() = Slot::Hung;
            shared.changed.notify_all();
        }
    }
}

impl<T> ReplyReceiver<T> {
    /// Waits for the answer. `Timeout` leaves the question open; `Closed`: nobody will answer.
    pub(crate) fn wait(self, timeout: Option<Duration>) -> Result<T> {
        let deadline = timeout.and_then(deadline_after);
        let mut slot = self.0.slot.lock();
        loop {
            match std::mem::replace(&mut *slot, Slot::Waiting) {
                Slot::Answered(answer) => return Ok(answer),
                Slot::Hung => {
                    *slot = Slot::Hung;
                    return Err(Error::new(ErrorKind::Closed, "the Dio is closed"));
                }
                Slot::Waiting => {}
            }
            if self.0.changed.wait(&mut slot, deadline) && matches!(*slot, Slot::Waiting) {
                return Err(Error::new(ErrorKind::Timeout, "no answer within the time given"));
            }
        }
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
