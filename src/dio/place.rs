//! Place: a place in the write queue that is kept for a write on its way to the core.
//!
//! Invariants: it is given back once, by whoever drops the message of the write, or it is the core's
//! (`a_write_that_was_on_its_way_when_the_core_was_gone_keeps_no_place`).
//! Not here: how places are taken (`write_queue`).

use std::sync::Arc;

use crate::dio::write_queue::WriteQueue;

/// See the module.
pub(crate) struct Place(Option<Arc<WriteQueue>>);

impl Place {
    /// One that was [reserved](WriteQueue::reserve).
    pub(crate) fn of(queue: Arc<WriteQueue>) -> Self {
        Place(Some(queue))
    }

    /// From here on the core sees to it, with the write in it.
    pub(crate) fn hand_over(&mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.give_back(1);
        }
    }
}
