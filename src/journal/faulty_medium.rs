//! Faulty medium: the files of a journal, whose calls fail when a test of a whole Dio says so.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Result;
use crate::cache::faulty::Faults;
use crate::journal::medium::Medium;
#[cfg(all(target_os = "linux", feature = "lmdb"))]
use crate::journal::record::{self, Fact, Outcome};
#[cfg(all(target_os = "linux", feature = "lmdb"))]
use crate::journal::segment::{Header, Scan};

/// By the canonical path of the cache.
static FAULTS: Mutex<BTreeMap<PathBuf, Arc<Faults>>> = Mutex::new(BTreeMap::new());

/// Has the journal beside this cache, once it is opened, count and fail its calls with these.
#[cfg(feature = "lmdb")]
pub(crate) fn fail_with(cache: &Path, faults: Arc<Faults>) {
    FAULTS.lock().insert(cache.canonicalize().unwrap(), faults);
}

/// The last file of the closed journal beside a cache.
#[cfg(all(target_os = "linux", feature = "lmdb"))]
pub(crate) struct LastSegment {
    pub(crate) path: PathBuf,
    pub(crate) entries: Vec<LastEntry>,
    /// Where the next one would begin.
    pub(crate) end: u64,
}

#[cfg(all(target_os = "linux", feature = "lmdb"))]
pub(crate) struct LastEntry {
    pub(crate) begins: u64,
    /// The write that it is about.
    pub(crate) write: u64,
    /// The write's key, where the entry says that it is accepted.
    pub(crate) accepted: Option<String>,
    /// Whether it says that the source has done the write.
    pub(crate) is_confirmation: bool,
}

#[cfg(all(target_os = "linux", feature = "lmdb"))]
impl LastSegment {
    /// Reads it; `None` when there is none.
    pub(crate) fn of(cache: &Path) -> Option<Self> {
        let files = std::fs::read_dir(cache.join("journal")).ok()?.map(|file| file.unwrap().path());
        let path = files.filter(|path| path.extension().is_some_and(|extension| extension == "journal")).max()?;
        let bytes = std::fs::read(&path).unwrap();
        let mut scan = Scan::new(&bytes, Header::decode(&bytes).unwrap()?);
        let mut entries = Vec::new();
        let mut place = scan.place();
        while let Some(found) = scan.next() {
            let said = record::read(found.payload).unwrap();
            entries.push(LastEntry {
                begins: place,
                write: said.write,
                is_confirmation: matches!(said.fact, Fact::Outcome(Outcome::Confirmed(_))),
                accepted: match said.fact {
                    Fact::Accepted(accepted) => Some(accepted.key),
                    _ => None,
                },
            });
            place = scan.place();
        }
        Some(LastSegment { path, entries, end: place })
    }
}

pub(crate) struct FaultyMedium<M> {
    inner: M,
    faults: Arc<Faults>,
}

impl<M> FaultyMedium<M> {
    pub(crate) fn new(inner: M, cache: &Path) -> Self {
        FaultyMedium { inner, faults: FAULTS.lock().get(cache).cloned().unwrap_or_default() }
    }
}

impl<M: Medium> Medium for FaultyMedium<M> {
    fn list(&mut self) -> Result<Vec<u64>> {
        self.faults.call("journal: list", || self.inner.list())
    }

    fn read(&mut self, segment: u64, at_most: usize) -> Result<Vec<u8>> {
        self.faults.call("journal: read", || self.inner.read(segment, at_most))
    }

    fn create(&mut self, segment: u64, beginning: &[u8], size: u64) -> Result<()> {
        self.faults.call("journal: create", || self.inner.create(segment, beginning, size))
    }

    fn write(&mut self, segment: u64, place: u64, bytes: &[u8]) -> Result<()> {
        self.faults.call("journal: write", || self.inner.write(segment, place, bytes))
    }

    fn sync(&mut self, segment: u64) -> Result<()> {
        self.faults.call("journal: sync", || self.inner.sync(segment))
    }

    fn delete(&mut self, segment: u64) -> Result<()> {
        self.faults.call("journal: delete", || self.inner.delete(segment))
    }

    fn set_aside(&mut self, segment: u64) -> Result<PathBuf> {
        self.faults.call("journal: set_aside", || self.inner.set_aside(segment))
    }

    fn delete_aside(&mut self) -> Result<()> {
        self.faults.call("journal: delete_aside", || self.inner.delete_aside())
    }
}
