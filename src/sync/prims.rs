//! Prims: the lock, Condvar and atomics under the notifier, in one place so that a model checker can stand in for them.
//!
//! Not here: anything with a rule of its own. `tests/interleavings.rs` has the same names over `loom`.

use std::time::{Duration, Instant};

pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// A moment of the system's monotonic clock at which a wait gives up.
pub(crate) type Deadline = Instant;

/// The deadline `timeout` from now; `None` when that is further off than the clock can say, which means never.
#[expect(clippy::disallowed_methods, reason = "the door to the system clock for timeouts of blocking waits")]
pub(crate) fn deadline_after(timeout: Duration) -> Option<Deadline> {
    Instant::now().checked_add(timeout)
}

/// How long it is until the deadline.
#[expect(clippy::disallowed_methods, reason = "the door to the system clock for timeouts of blocking waits")]
pub(crate) fn time_left(deadline: Deadline) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// A Condvar whose wait takes an optional deadline.
#[derive(Debug, Default)]
pub(crate) struct Condvar(parking_lot::Condvar);

impl Condvar {
    pub(crate) fn new() -> Self {
        Condvar(parking_lot::Condvar::new())
    }

    /// Waits for a notification or the deadline; says whether the deadline ended it. May wake without either.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Option<Deadline>) -> bool {
        match deadline {
            Some(deadline) => self.0.wait_until(guard, deadline).timed_out(),
            None => {
                self.0.wait(guard);
                false
            }
        }
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}
