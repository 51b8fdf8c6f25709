//! Support: tests that end in time, both cache backends, sources and views that can be waited for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use diorama::cache::{CacheBackend, MemoryBackend};
use diorama::prelude::*;
use diorama::vista::{Capabilities, QueryDescriptor, Schema, TableShell};
use diorama::{EventReader, LensBuilder, NoEvent, TableSnapshot, WriteOutcome, live_threads};

use crate::limit::hangs;

/// Longer than anything here takes, also on a busy machine: who waits that long hangs.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// The same for a whole test, of which each wait is a part.
const TEST: Duration = Duration::from_secs(240);

/// Work on a thread of its own, which a test can wait for without hanging with it.
pub(crate) struct Task<T> {
    what: String,
    done: Receiver<std::thread::Result<T>>,
}

/// Starts work beside the test.
pub(crate) fn start<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    let (sender, done) = bounded(1);
    let run = move || {
        let _ = sender.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)));
    };
    std::thread::Builder::new().name(format!("test: {what}")).spawn(run).unwrap();
    Task { what: what.to_owned(), done }
}

impl<T> Task<T> {
    /// What the work came to. Fails the test when it panicked; one that hangs tells where.
    pub(crate) fn end(self) -> T {
        self.end_within(SOON)
    }

    fn end_within(self, timeout: Duration) -> T {
        match self.done.recv_timeout(timeout) {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(RecvTimeoutError::Timeout) => hangs(&self.what),
            Err(RecvTimeoutError::Disconnected) => panic!("`{}` is gone without a word", self.what),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        !self.done.is_empty()
    }
}

/// Runs a test's body; a hang is a failure.
pub(crate) fn in_time(body: impl FnOnce() + Send + 'static) {
    start("the test", body).end_within(TEST);
}

/// Where a Lens of a test keeps its cache. What one Lens left there the next finds, as long as this lives.
#[derive(Clone)]
pub(crate) enum Cache {
    Memory(Arc<dyn CacheBackend>),
    #[cfg(feature = "lmdb")]
    Disk(Arc<tempfile::TempDir>),
}

impl Cache {
    pub(crate) fn memory() -> Self {
        Cache::Memory(MemoryBackend::new())
    }

    #[cfg(feature = "lmdb")]
    pub(crate) fn disk() -> Self {
        Cache::Disk(Arc::new(tempfile::tempdir().unwrap()))
    }

    pub(crate) fn lens(&self) -> LensBuilder {
        match self {
            Cache::Memory(backend) => Lens::new().cache_source(backend.clone()),
            #[cfg(feature = "lmdb")]
            Cache::Disk(_) => Lens::new().cache_at(self.path().unwrap()),
        }
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Cache::Memory(_) => None,
            #[cfg(feature = "lmdb")]
            Cache::Disk(root) => Some(root.path().join(self.name())),
        }
    }

    #[cfg(feature = "lmdb")]
    fn name(&self) -> String {
        let Cache::Disk(root) = self else { return String::new() };
        format!("cache-{}", root.path().file_name().unwrap().to_string_lossy())
    }
}

/// Runs a test's body over each backend; a hang is a failure.
pub(crate) fn on_both(body: impl Fn(Cache) + Send + Sync + 'static) {
    let body = Arc::new(body);
    let over_memory = body.clone();
    start("the test over memory", move || over_memory(Cache::memory())).end_within(TEST);
    #[cfg(feature = "lmdb")]
    start("the test over LMDB", move || body(Cache::disk())).end_within(TEST);
}

/// Looks until something is so that nothing tells of.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let clock = diorama::clock::Clock::system();
    let end = clock.now().after(SOON);
    while !is_so() {
        assert!(clock.now() < end, "never: {what}");
        std::thread::yield_now();
    }
}

/// Gives a task that must not end yet a moment to do so all the same.
pub(crate) fn is_still_waiting<T>(task: &Task<T>) -> bool {
    (0..20_000).all(|_| {
        std::thread::yield_now();
        !task.has_ended()
    })
}

pub(crate) fn product(name: &str, price: i64) -> Record {
    record! { "name" => name, "price" => price }
}

/// Three rows: a, b and c.
pub(crate) fn products(table: &str) -> MemoryVista {
    MemoryVista::new(table, "id").with_rows([
        ("a", product("Anvil", 30)),
        ("b", product("Bell", 10)),
        ("c", product("Chain", 20)),
    ])
}

pub(crate) fn many(table: &str, rows: usize) -> MemoryVista {
    MemoryVista::new(table, "id").with_rows((0..rows).map(|row| (format!("row {row}"), product("same", row as i64))))
}

pub(crate) fn ids(snapshot: &TableSnapshot) -> Vec<String> {
    snapshot.iter().map(|row| row.id().to_owned()).collect()
}

/// Each row as `id=price`.
pub(crate) fn prices(snapshot: &TableSnapshot) -> Vec<String> {
    snapshot.iter().map(|row| format!("{}={}", row.id(), row.int("price").unwrap_or(-1))).collect()
}

/// What the cache says, sorted, as `id=price`.
pub(crate) fn cached(dio: &Dio) -> Vec<String> {
    let rows = dio.cache().list().unwrap();
    let mut rows: Vec<String> =
        rows.iter().map(|(id, record)| format!("{id}={}", record.int("price").unwrap_or(-1))).collect();
    rows.sort();
    rows
}

/// Blocks until the view shows what is wanted.
pub(crate) fn wait_for(view: &TableScenery, what: &str, shows: impl Fn(&TableSnapshot) -> bool) -> TableSnapshot {
    loop {
        let seen = view.generation();
        let snapshot = view.snapshot();
        if shows(&snapshot) {
            return snapshot;
        }
        if let Err(error) = view.wait_for_change(seen, Some(SOON)) {
            panic!("the view never shows {what}: {error}; it shows {:?}", prices(&view.snapshot()));
        }
    }
}

/// Every event up to the first one that is wanted, which is the last.
pub(crate) fn events_until(
    events: &mut EventReader<DioEvent>,
    what: &str,
    wanted: impl Fn(&DioEvent) -> bool,
) -> Vec<DioEvent> {
    let mut seen = Vec::new();
    loop {
        match events.recv(Some(SOON)) {
            Ok(event) => {
                let found = wanted(&event);
                seen.push(event);
                if found {
                    return seen;
                }
            }
            Err(none) => panic!("no event `{what}`: {none}; seen: {seen:?}"),
        }
    }
}

/// Every event that is there already.
pub(crate) fn events_now(events: &mut EventReader<DioEvent>) -> Vec<DioEvent> {
    let mut seen = Vec::new();
    loop {
        match events.try_recv() {
            Ok(event) => seen.push(event),
            Err(NoEvent::Empty | NoEvent::Closed) => return seen,
            Err(NoEvent::Lagged(missed)) => panic!("{missed} events were missed"),
        }
    }
}

/// Each event's name, with its id if it has one.
pub(crate) fn names(events: &[DioEvent]) -> Vec<String> {
    let name = |event: &DioEvent| {
        let debug = format!("{event:?}");
        let name = debug.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
        event.id().map_or(name.clone(), |id| format!("{name} {id}"))
    };
    events.iter().map(name).collect()
}

/// Whether an event says that rows changed.
pub(crate) fn is_about_rows(event: &DioEvent) -> bool {
    event.cause().is_some()
}

/// The library's threads whose names begin so.
pub(crate) fn threads_of(prefix: &str) -> Vec<String> {
    live_threads().into_iter().filter(|name| name.starts_with(prefix)).collect()
}

pub(crate) fn cut() -> Error {
    Error::new(ErrorKind::Unavailable, "line cut")
}

/// A source that lists what another has, and then stands still until it is let go, whatever anyone cancels.
#[derive(Clone)]
pub(crate) struct Deaf {
    rows: MemoryVista,
    entered: Sender<()>,
    let_go: Receiver<()>,
    what: DeafTo,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeafTo {
    Lists,
    Writes,
}

/// The test's side of a [`Deaf`] source.
pub(crate) struct DeafGuard {
    entered: Receiver<()>,
    let_go: Sender<()>,
}

impl DeafGuard {
    pub(crate) fn wait_until_inside(&self) {
        self.entered.recv_timeout(SOON).expect("nobody calls the source");
    }

    /// Lets one call go on.
    pub(crate) fn let_one_go(&self) {
        self.let_go.send(()).unwrap();
    }
}

impl Deaf {
    pub(crate) fn new(rows: MemoryVista, what: DeafTo) -> (Self, DeafGuard) {
        let (entered, seen) = bounded(64);
        let (let_go, gate) = bounded(64);
        (Deaf { rows, entered, let_go: gate, what }, DeafGuard { entered: seen, let_go })
    }

    fn stand_still(&self, what: DeafTo) {
        if self.what == what {
            let _ = self.entered.send(());
            // Gone with the test is let go, too.
            let _ = self.let_go.recv();
        }
    }
}

impl TableShell for Deaf {
    fn name(&self) -> &str {
        self.rows.name()
    }

    fn source_key(&self) -> String {
        self.rows.source_key()
    }

    fn schema(&self) -> Arc<Schema> {
        self.rows.schema()
    }

    fn capabilities(&self) -> Capabilities {
        self.rows.capabilities()
    }

    fn list(&self, _: &CallCx, query: &QueryDescriptor) -> diorama::Result<Vec<(String, Record)>> {
        let rows = self.rows.list(&CallCx::new(), query);
        self.stand_still(DeafTo::Lists);
        rows
    }

    fn patch(&self, _: &CallCx, id: &str, record: &Record) -> diorama::Result<Written> {
        self.stand_still(DeafTo::Writes);
        self.rows.patch(&CallCx::new(), id, record)
    }
}

/// Writes, and waits for what becomes of it.
pub(crate) fn write(dio: &Dio, op: WriteOp) -> Result<WriteOutcome, Error> {
    dio.write(op)?.wait(SOON)
}

pub(crate) fn kind_of(result: Result<WriteOutcome, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}
