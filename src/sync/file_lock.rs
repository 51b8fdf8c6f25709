//! File lock: keeps other processes off a file for as long as it stays open.
//!
//! Invariants: a lock that only lingers is waited for, one that is held is said to be, within [`LINGERS`]
//! (`a_lock_that_is_let_go_of_a_moment_later_is_had`).

use std::fs::{File, TryLockError};
use std::time::Duration;

use super::prims::{deadline_after, time_left};

/// How long a lock may linger: a child that a thread of this process starts at this moment holds the lock of every open file
/// until it runs its own program.
const LINGERS: Duration = Duration::from_millis(100);

/// Takes the lock.
///
/// # Errors
/// `WouldBlock` when another process has it.
pub(crate) fn lock_file(file: &File) -> Result<(), TryLockError> {
    let deadline = deadline_after(LINGERS);
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if deadline.is_some_and(|deadline| !time_left(deadline).is_zero()) => {
                std::thread::yield_now();
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_of_a_moment_later_is_had() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (held, other) = (file.reopen().unwrap(), file.reopen().unwrap());
        lock_file(&held).unwrap();
        assert!(matches!(lock_file(&other), Err(TryLockError::WouldBlock)));
        std::thread::scope(|threads| {
            let waiter = threads.spawn(|| lock_file(&other));
            drop(held);
            waiter.join().unwrap().unwrap();
        });
    }
}
