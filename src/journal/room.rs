//! Room: how many bytes the journal of a path may hold, and who waits for some.
//!
//! Invariants: room is asked for before a write is shown; what is journaled of a write that has it is never refused for want
//! of room, however large it turns out (`a_full_journal_refuses_before_anything_is_written`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Notifier;
use crate::{Error, ErrorKind, Result};

pub(super) struct Room {
    capacity: AtomicU64,
    used: AtomicU64,
    freed: Notifier,
}

impl Room {
    pub(super) fn new(capacity: u64) -> Self {
        Room { capacity: AtomicU64::new(capacity), used: AtomicU64::new(0), freed: Notifier::new(0) }
    }

    /// The greatest of the capacities asked for holds.
    pub(super) fn raise(&self, capacity: u64) {
        self.capacity.fetch_max(capacity, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Moves whenever bytes are given back.
    pub(super) fn freed(&self) -> &Notifier {
        &self.freed
    }

    /// # Errors
    /// `Full` when so much is not free now; `Invalid` when it never will be.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        let capacity = self.capacity.load(Ordering::Relaxed);
        let refused = |kind, message: String| Err(Error::new(kind, message).with("setting", "journal_capacity"));
        if bytes > capacity {
            let message = format!(
                "the write takes {bytes} bytes in the journal, which may hold {capacity}; raise journal_capacity"
            );
            return refused(ErrorKind::Invalid, message);
        }
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= capacity);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(Reservation { room: self.clone(), bytes }),
            Err(used) => {
                let message = format!(
                    "the journal holds {used} bytes of writes that are not over yet and may hold {capacity}; wait for \
                     them, clear failed ones, or raise journal_capacity"
                );
                refused(ErrorKind::Full, message)
            }
        }
    }

    /// What is journaled takes room, whether there is any or not.
    pub(super) fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            self.freed.advance();
        }
    }
}

/// Room in the journal for a write that is not accepted yet. Dropping it gives the room back.
#[must_use = "the room is given back when this is dropped"]
pub(crate) struct Reservation {
    room: Arc<Room>,
    bytes: u64,
}

impl Reservation {
    /// A part of it, at most all, as a reservation of its own.
    pub(crate) fn split_off(&mut self, bytes: u64) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation { room: self.room.clone(), bytes }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_frees_nothing_and_parts_are_given_back_once() {
        let room = Arc::new(Room::new(100));
        let mut whole = room.reserve(90).map_err(|error| error.to_string()).expect("there is room");
        let freed = room.freed().get();
        assert_eq!(room.reserve(20).err().map(|error| error.kind()), Some(ErrorKind::Full));
        assert_eq!((room.freed().get(), room.used()), (freed, 90), "nobody who waits is woken");
        let parts = [whole.split_off(30), whole.split_off(60)];
        drop(whole);
        assert_eq!((room.freed().get(), room.used()), (freed, 90));
        drop(parts);
        assert_eq!((room.freed().get(), room.used()), (freed + 2, 0));
    }
}
