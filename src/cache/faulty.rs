//! Faulty backend: any other backend with storage calls that fail when a test says so.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{CacheBackend, CacheBatch, CacheTable};
use crate::{Error, ErrorKind, Result, RowNo};

/// Wraps a backend; its storage calls fail with `Cache` when told to, those of its tables too.
///
/// Every call that returns a `Result` counts as one storage call.
///
/// ```
/// use diorama::cache::{CacheBackend, FaultyBackend, MemoryBackend};
///
/// let backend = FaultyBackend::new(MemoryBackend::new());
/// backend.fail_at(2);
/// assert!(backend.open_table("airports").is_ok());
/// assert!(backend.open_table("airports").is_err());
/// assert!(backend.open_table("airports").is_ok());
/// ```
pub struct FaultyBackend {
    inner: Arc<dyn CacheBackend>,
    faults: Arc<Faults>,
}

/// What is to fail, for all calls that share it.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Plan>);

#[derive(Default)]
struct Plan {
    calls: u64,
    /// In the count of `calls`.
    fault: Option<(u64, Fault)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// This one call is not made.
    At,
    /// This one call is made, and then reports a failure: a commit whose answer got lost.
    After,
    /// No call is made from this one on.
    From,
    /// So from one to the next of as many calls, by turns as the first and as the second.
    Every(u64),
}

impl FaultyBackend {
    /// A wrapper that fails nothing yet.
    pub fn new(inner: Arc<dyn CacheBackend>) -> Arc<FaultyBackend> {
        Arc::new(FaultyBackend { inner, faults: Arc::default() })
    }

    /// The `n`-th storage call from now on (1 is the next) fails without being made; later ones work.
    pub fn fail_at(&self, n: u64) {
        self.plan(n, Fault::At);
    }

    /// The `n`-th storage call from now on (1 is the next) is made and then reports a failure; later ones work.
    pub fn fail_after(&self, n: u64) {
        self.plan(n, Fault::After);
    }

    /// From the `n`-th storage call from now on (1 is the next), all fail without being made, until
    /// [`heal`](FaultyBackend::heal).
    pub fn fail_from(&self, n: u64) {
        self.plan(n, Fault::From);
    }

    /// Every `n`-th storage call from now on fails, by turns without being made and after it was made, until
    /// [`heal`](FaultyBackend::heal).
    pub fn fail_every(&self, n: u64) {
        self.plan(n, Fault::Every(n.max(1)));
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.faults.0.lock().fault = None;
    }

    /// How many storage calls were asked for so far, failed ones included.
    pub fn calls(&self) -> u64 {
        self.faults.0.lock().calls
    }

    /// What fails, for other calls to be counted and to fail with these.
    #[cfg(all(test, feature = "lmdb"))]
    pub(crate) fn faults(&self) -> Arc<Faults> {
        self.faults.clone()
    }

    fn plan(&self, n: u64, fault: Fault) {
        let mut plan = self.faults.0.lock();
        plan.fault = Some((plan.calls + n.max(1), fault));
    }
}

impl Faults {
    /// One storage call.
    pub(crate) fn call<T>(&self, name: &str, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let (number, fault) = {
            let mut plan = self.0.lock();
            plan.calls += 1;
            let due = plan.fault.and_then(|(n, fault)| match fault {
                Fault::From if plan.calls >= n => Some(fault),
                Fault::Every(every) if plan.calls >= n && (plan.calls - n).is_multiple_of(every) => {
                    Some(if ((plan.calls - n) / every).is_multiple_of(2) { Fault::At } else { Fault::After })
                }
                _ => Some(fault).filter(|_| plan.calls == n),
            });
            (plan.calls, due)
        };
        let failure = |when| {
            Err(Error::new(ErrorKind::Cache, format!("storage call {number} ({name}) fails as a test asked, {when}")))
        };
        match fault {
            None => call(),
            Some(Fault::After) => call().and_then(|_| failure("after it was made")),
            Some(_) => failure("before it was made"),
        }
    }
}

impl CacheBackend for FaultyBackend {
    fn open_table(&self, name: &str) -> Result<Arc<dyn CacheTable>> {
        let inner = self.faults.call("open_table", || self.inner.open_table(name))?;
        Ok(Arc::new(FaultyTable { inner, faults: Arc::clone(&self.faults) }))
    }

    fn tables(&self) -> Result<Vec<String>> {
        self.faults.call("tables", || self.inner.tables())
    }

    fn forget_table(&self, name: &str) -> Result<()> {
        self.faults.call("forget_table", || self.inner.forget_table(name))
    }

    fn sync(&self) -> Result<()> {
        self.faults.call("sync", || self.inner.sync())
    }

    fn location(&self) -> Option<PathBuf> {
        self.inner.location()
    }

    fn file_size(&self) -> Result<u64> {
        self.faults.call("file_size", || self.inner.file_size())
    }

    fn warnings(&self) -> Vec<Error> {
        self.inner.warnings()
    }
}

struct FaultyTable {
    inner: Arc<dyn CacheTable>,
    faults: Arc<Faults>,
}

impl CacheTable for FaultyTable {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn apply(&self, batch: &CacheBatch) -> Result<()> {
        self.faults.call("apply", || self.inner.apply(batch))
    }

    fn get(&self, row: RowNo) -> Result<Option<Arc<[u8]>>> {
        self.faults.call("get", || self.inner.get(row))
    }

    fn get_many(&self, rows: &[RowNo], found: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        self.faults.call("get_many", || self.inner.get_many(rows, found))
    }

    fn get_all(&self, rows: &[RowNo]) -> Result<Vec<Option<Arc<[u8]>>>> {
        self.faults.call("get_all", || self.inner.get_all(rows))
    }

    fn lookup_all(&self, ids: &[&str]) -> Result<Vec<Option<RowNo>>> {
        self.faults.call("lookup_all", || self.inner.lookup_all(ids))
    }

    fn lookup(&self, id: &str) -> Result<Option<RowNo>> {
        self.faults.call("lookup", || self.inner.lookup(id))
    }

    fn scan(&self, from: RowNo, each: &mut dyn FnMut(RowNo, &[u8]) -> ControlFlow<()>) -> Result<()> {
        self.faults.call("scan", || self.inner.scan(from, each))
    }

    fn scan_ids(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> Result<()> {
        self.faults.call("scan_ids", || self.inner.scan_ids(each))
    }

    fn count(&self) -> Result<u64> {
        self.faults.call("count", || self.inner.count())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.faults.call("meta", || self.inner.meta(key))
    }
}
