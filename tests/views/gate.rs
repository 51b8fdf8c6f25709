//! A cache backend whose scans and writes wait when told to, so that a test can hold the building of a view, or rows in
//! memory.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};

use diorama::cache::{CacheBackend, CacheBatch, CacheTable, MemoryBackend};
use diorama::{Result, RowNo};

use crate::common::SOON;

#[derive(Default)]
struct State {
    held: bool,
    waiting: usize,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        let (mut state, _) = self.changed.wait_timeout_while(state, SOON, |state| state.held).unwrap();
        state.waiting -= 1;
    }
}

/// A backend in memory with a gate before every scan and one before every batch.
pub(crate) struct GatedBackend {
    inner: Arc<MemoryBackend>,
    scans: Arc<Gate>,
    writes: Arc<Gate>,
}

/// Calls of one kind wait until this is dropped.
pub(crate) struct Held(Arc<Gate>);

impl GatedBackend {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(GatedBackend { inner: MemoryBackend::new(), scans: Arc::default(), writes: Arc::default() })
    }

    pub(crate) fn hold_scans(&self) -> Held {
        Held::new(&self.scans)
    }

    pub(crate) fn hold_writes(&self) -> Held {
        Held::new(&self.writes)
    }
}

impl Held {
    fn new(gate: &Arc<Gate>) -> Self {
        gate.state.lock().unwrap().held = true;
        Held(gate.clone())
    }

    /// Blocks until this many calls wait.
    pub(crate) fn wait_until_held(&self, calls: usize) {
        let state = self.0.state.lock().unwrap();
        let (state, _) = self.0.changed.wait_timeout_while(state, SOON, |state| state.waiting < calls).unwrap();
        assert!(state.waiting >= calls, "nobody calls");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().held = false;
        self.0.changed.notify_all();
    }
}

struct GatedTable {
    inner: Arc<dyn CacheTable>,
    scans: Arc<Gate>,
    writes: Arc<Gate>,
}

impl CacheBackend for GatedBackend {
    fn open_table(&self, name: &str) -> Result<Arc<dyn CacheTable>> {
        let inner = self.inner.open_table(name)?;
        Ok(Arc::new(GatedTable { inner, scans: self.scans.clone(), writes: self.writes.clone() }))
    }

    fn tables(&self) -> Result<Vec<String>> {
        self.inner.tables()
    }

    fn forget_table(&self, name: &str) -> Result<()> {
        self.inner.forget_table(name)
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    fn location(&self) -> Option<PathBuf> {
        None
    }

    fn file_size(&self) -> Result<u64> {
        self.inner.file_size()
    }
}

impl CacheTable for GatedTable {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn apply(&self, batch: &CacheBatch) -> Result<()> {
        self.writes.pass();
        self.inner.apply(batch)
    }

    fn get(&self, row: RowNo) -> Result<Option<Arc<[u8]>>> {
        self.inner.get(row)
    }

    fn lookup(&self, id: &str) -> Result<Option<RowNo>> {
        self.inner.lookup(id)
    }

    fn scan(&self, from: RowNo, each: &mut dyn FnMut(RowNo, &[u8]) -> ControlFlow<()>) -> Result<()> {
        self.scans.pass();
        self.inner.scan(from, each)
    }

    fn scan_ids(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> Result<()> {
        self.inner.scan_ids(each)
    }

    fn count(&self) -> Result<u64> {
        self.inner.count()
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.inner.meta(key)
    }
}
