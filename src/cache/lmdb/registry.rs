//! Registry: which directories this process has open, so that none is ever opened twice.
//!
//! Invariant: a directory that is being opened or closed is waited for, without the lock held while that happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use crate::Result;

/// By canonical path. A weak pointer that can't be upgraded stands for one that is being opened or closed.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<Shared>>> = Mutex::new(BTreeMap::new());
static CHANGED: Condvar = Condvar::new();

/// Keeps the directory's place; dropped once everything of it is closed.
pub(super) struct Registered(PathBuf);

impl Drop for Registered {
    fn drop(&mut self) {
        OPEN.lock().remove(&self.0);
        CHANGED.notify_all();
    }
}

/// The one that is open, or the one that `make` makes.
pub(super) fn open(directory: &Path, make: impl FnOnce(Registered) -> Result<Shared>) -> Result<Arc<Shared>> {
    let mut open = OPEN.lock();
    while let Some(there) = open.get(directory) {
        if let Some(shared) = there.upgrade() {
            return Ok(shared);
        }
        CHANGED.wait(&mut open);
    }
    open.insert(directory.to_owned(), Weak::new());
    drop(open);
    let shared = Arc::new(make(Registered(directory.to_owned()))?);
    OPEN.lock().insert(directory.to_owned(), Arc::downgrade(&shared));
    CHANGED.notify_all();
    Ok(shared)
}
