//! Lens: the policy, built once: where the cache lives, which callbacks run, when to refresh. It makes Dios.
//!
//! Owner: the application holds handles; the build, load and notify threads and the cache's store are the Lens's.
//! Invariants: one Dio per source and query at a time, also when threads race for it (`two_threads_get_the_same_dio`).
//! Close/panic: `close` closes every Dio, joins the threads and lets go of the cache.

mod builder;
mod callbacks;
pub(crate) mod conflict;
mod defaults;
mod pool;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::CacheBackend;
use crate::clock::Clock;
use crate::dio::store::Store;
use crate::dio::{CloseReport, Dio, DioInner, Flight, WeakDio, with_time_to_end};
use crate::journal::{self, PathJournal};
use crate::sync::{Deadline, HookRunner, Rank, Role, Worker, catch_user, deadline_after, may_wait_for};
use crate::vista::Vista;
use crate::{Error, ErrorKind, Result};

pub use builder::LensBuilder;
pub use callbacks::LensCallbacks;
pub use conflict::{Conflict, ConflictPolicy, Resolution, WriteRequest};
pub use defaults::LensDefaults;
pub(crate) use pool::{Job, Pool};

/// Jobs that may wait in a pool: builds are one per view at the most, loads fall back to a refresh.
const JOBS: usize = 65_536;
/// Questions to a source that a Lens with `on_query` has under way at once: one that is slow doesn't hold up the others.
pub(crate) const QUERIES_AT_ONCE: usize = 4;
/// Threads for the calls of async programs. Each job that waits for one belongs to a future, which takes it away when it is
/// dropped: so their queues are bounded by the futures that the application holds.
#[cfg(feature = "async")]
const CALL_THREADS: usize = 2;
#[cfg(feature = "async")]
const SOURCE_CALL_THREADS: usize = 4;

enum Seat {
    /// A thread is making it.
    Starting,
    Here {
        dio: WeakDio,
        source: String,
    },
}

pub(crate) struct LensInner {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) callbacks: LensCallbacks,
    pub(crate) defaults: LensDefaults,
    pub(crate) clock: Clock,
    pub(crate) build_pool: Arc<Pool>,
    pub(crate) load_pool: Arc<Pool>,
    /// Makes the calls of async programs that wait for the core or the cache's file at the most.
    #[cfg(feature = "async")]
    pub(crate) call_pool: Arc<Pool>,
    /// Makes the calls of async programs that wait for a source, a callback or the disk.
    #[cfg(feature = "async")]
    pub(crate) source_call_pool: Arc<Pool>,
    pub(crate) hooks: Arc<HookRunner>,
    store: Mutex<Option<Arc<Store>>>,
    journal: Mutex<Option<Arc<PathJournal>>>,
    seats: Mutex<HashMap<String, Seat>>,
    seat_freed: Condvar,
    /// The threads of its Dios, those of Dios that are gone but for their last thread among them.
    workers: Mutex<Vec<Arc<Worker>>>,
    closed: AtomicBool,
    /// Tables that were rebuilt, at most so many as there are tables.
    warnings: Mutex<Vec<Error>>,
}

impl LensInner {
    pub(crate) fn warn(&self, warning: Error) {
        self.warnings.lock().push(warning);
    }

    /// The journal of the cache's directory, opened now if it is not open. Blocks for the disk.
    pub(crate) fn journal(&self) -> Result<Arc<PathJournal>> {
        let store = self.store()?;
        let Some(cache) = store.location() else {
            return Err(Error::new(ErrorKind::Unsupported, "a cache in memory has no journal"));
        };
        let mut journal = self.journal.lock();
        if let Some(open) = &*journal {
            return Ok(open.clone());
        }
        let open = journal::for_path(cache, self.defaults.journal_capacity)?;
        *journal = Some(open.clone());
        Ok(open)
    }

    /// Whether the journal is open.
    pub(crate) fn has_journal(&self) -> bool {
        self.journal.lock().is_some()
    }

    pub(crate) fn store(&self) -> Result<Arc<Store>> {
        self.store.lock().clone().ok_or_else(closed)
    }

    /// Has the closing wait for a thread of one of its Dios.
    pub(crate) fn add_worker(&self, worker: Arc<Worker>) {
        let mut workers = self.workers.lock();
        workers.retain(|worker| !worker.is_finished());
        workers.push(worker);
    }

    /// The Dio of this table is gone, and its threads are at their end.
    pub(crate) fn leave(&self, table: &str, dio: &WeakDio) {
        let mut seats = self.seats.lock();
        if matches!(seats.get(table), Some(Seat::Here { dio: seated, .. }) if seated.is_same(dio)) {
            seats.remove(table);
        }
        drop(seats);
        self.seat_freed.notify_all();
    }

    /// Waits until another thread has made, closed or forgotten a table of this stack level.
    ///
    /// # Errors
    /// `WouldDeadlock`.
    fn wait_for_a_seat(&self, seats: &mut MutexGuard<'_, HashMap<String, Seat>>, level: u32) -> Result<()> {
        may_wait_for(Rank::new(level, Role::Writer), "the making or closing of a Dio")?;
        self.seat_freed.wait(seats);
        Ok(())
    }

    /// Its pools of threads.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let own = [&self.build_pool, &self.load_pool];
        #[cfg(feature = "async")]
        let calls = [&self.call_pool, &self.source_call_pool];
        #[cfg(not(feature = "async"))]
        let calls = [];
        own.into_iter().chain(calls)
    }

    /// The Dios there are now.
    fn here(&self) -> Vec<WeakDio> {
        let seats = self.seats.lock();
        let here = seats.values().filter_map(|seat| match seat {
            Seat::Here { dio, .. } => Some(dio.clone()),
            Seat::Starting => None,
        });
        here.collect()
    }

    /// The Dios there are; one that is being made is waited for, up to the deadline. The cores of those that still were not
    /// there then come by name.
    fn seated(&self, deadline: Option<Deadline>) -> (Vec<WeakDio>, Vec<String>) {
        let mut seats = self.seats.lock();
        while seats.values().any(|seat| matches!(seat, Seat::Starting)) {
            let timed_out = match deadline {
                Some(deadline) => self.seat_freed.wait_until(&mut seats, deadline).timed_out(),
                None => {
                    self.seat_freed.wait(&mut seats);
                    false
                }
            };
            if timed_out {
                break;
            }
        }
        let (mut here, mut starting) = (Vec::new(), Vec::new());
        for (table, seat) in seats.iter() {
            match seat {
                Seat::Here { dio, .. } => here.push(dio.clone()),
                Seat::Starting => starting.push(format!("{table}:core")),
            }
        }
        (here, starting)
    }

    fn hang_up(&self) {
        self.closed.store(true, Ordering::Release);
        for pool in self.pools() {
            pool.hang_up();
        }
        // Whoever has looked at `closed` just before is asleep once the lock can be had.
        drop(self.seats.lock());
        self.seat_freed.notify_all();
    }
}

fn close_all(dios: &[WeakDio], deadline: Option<Deadline>, report: &mut CloseReport) {
    for dio in dios.iter().filter_map(WeakDio::inner) {
        report.add(dio.close_until(deadline.map(with_time_to_end)));
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the Lens is closed")
}

struct Handle {
    inner: Arc<LensInner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Dios hold a handle of their own, so none is left. The threads end by themselves.
        self.inner.hang_up();
        let journal = self.inner.journal.lock().take();
        drop(journal);
        self.inner.store.lock().take();
    }
}

/// The policy under which sources are cached, refreshed and written to. Cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use diorama::prelude::*;
///
/// # fn main() -> diorama::Result<()> {
/// let lens = Lens::new().in_memory().refresh_every(Duration::from_secs(300)).build()?;
/// let products = MemoryVista::new("products", "id");
/// let dio = lens.make_dio(products)?;
/// assert_eq!(dio.cache().count()?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lens {
    handle: Arc<Handle>,
}

/// A handle that doesn't keep its Lens open.
#[derive(Clone, Default)]
pub(crate) struct WeakLens(Weak<Handle>);

impl WeakLens {
    pub(crate) fn upgrade(&self) -> Option<Lens> {
        self.0.upgrade().map(|handle| Lens { handle })
    }
}

impl std::fmt::Debug for Lens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lens").field("name", &self.name()).field("callbacks", &self.handle.inner.callbacks).finish()
    }
}

impl Lens {
    /// Begins to build a Lens.
    #[expect(clippy::new_ret_no_self, reason = "a Lens can't be had without its settings")]
    pub fn new() -> LensBuilder {
        LensBuilder::new()
    }

    fn start(
        name: Option<String>,
        backend: Arc<dyn CacheBackend>,
        callbacks: LensCallbacks,
        defaults: LensDefaults,
        clock: Clock,
    ) -> Result<Lens> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = name.unwrap_or_else(|| format!("lens-{id}"));
        let store = Store::of(backend)?;
        let load_threads = if callbacks.has_on_query() { QUERIES_AT_ONCE } else { 1 };
        let inner = LensInner {
            id,
            callbacks,
            defaults,
            clock,
            build_pool: Pool::new(format!("{name}:build"), 1, JOBS),
            load_pool: Pool::new(format!("{name}:load"), load_threads, JOBS),
            #[cfg(feature = "async")]
            call_pool: Pool::new(format!("{name}:call"), CALL_THREADS, usize::MAX),
            #[cfg(feature = "async")]
            source_call_pool: Pool::new(format!("{name}:source-call"), SOURCE_CALL_THREADS, usize::MAX),
            hooks: HookRunner::new(format!("{name}:notify")),
            store: Mutex::new(Some(store)),
            journal: Mutex::new(None),
            seats: Mutex::default(),
            seat_freed: Condvar::new(),
            workers: Mutex::default(),
            closed: AtomicBool::new(false),
            warnings: Mutex::default(),
            name,
        };
        Ok(Lens { handle: Arc::new(Handle { inner: Arc::new(inner) }) })
    }

    pub(crate) fn inner(&self) -> &Arc<LensInner> {
        &self.handle.inner
    }

    pub(crate) fn downgrade(&self) -> WeakLens {
        WeakLens(Arc::downgrade(&self.handle))
    }

    /// The name that begins the names of the Lens's threads.
    pub fn name(&self) -> &str {
        &self.handle.inner.name
    }

    /// The settings that its Dios start from.
    pub fn defaults(&self) -> &LensDefaults {
        &self.handle.inner.defaults
    }

    /// Which callbacks it has.
    pub fn callbacks(&self) -> &LensCallbacks {
        &self.handle.inner.callbacks
    }

    /// What went wrong with the cache and was survived: a damaged file that was set aside, naming it; a table of another
    /// source or schema that was filled anew.
    pub fn warnings(&self) -> Vec<Error> {
        let mut warnings = self.handle.inner.store().map(|store| store.backend().warnings()).unwrap_or_default();
        warnings.extend(self.handle.inner.warnings.lock().iter().cloned());
        warnings
    }

    /// Runs a source through this Lens: its cache table, threads and views. While the Dio of a source and query is alive,
    /// asking again gives the same one.
    ///
    /// Over an incomplete cache it waits for the first copy (unless `on_start_blocking(false)`); over a complete one it
    /// returns at once and brings the copy up to date behind, offline too. With
    /// [`on_query`](LensBuilder::on_query) and no `on_start` there is no first copy: it returns at once, and rows come when they
    /// are asked for.
    ///
    /// # Errors
    /// `Invalid` when the source has no id column; `Conflict` when another source of that name is open; what the first copy
    /// fails with, when it is waited for; `WouldDeadlock` on a thread that the first copy may be waiting for; `Closed`.
    pub fn make_dio(&self, source: impl Into<Vista>) -> Result<Dio> {
        let (dio, first_copy) = self.begin_dio(source.into())?;
        if let Some(first_copy) = first_copy {
            first_copy.wait()?;
        }
        Ok(dio)
    }

    /// The Dio, and the first copy if that is to be waited for.
    pub(crate) fn begin_dio(&self, vista: Vista) -> Result<(Dio, Option<Arc<Flight>>)> {
        let table = vista.table_key();
        if vista.id_column().is_none() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the source has no id column; name one in its schema so that rows can be told apart",
            )
            .with("table", table));
        }
        let dio = self.seat(&table, vista)?;
        let first_copy = dio.inner().take_first_copy_to_wait_for();
        if first_copy.is_some() {
            may_wait_for(Rank::new(dio.inner().level, Role::Refresh), "the first copy of a source")?;
        }
        Ok((dio, first_copy))
    }

    /// The Dio that is alive for this table, or a new one; one that is being closed is waited for.
    fn seat(&self, table: &str, vista: Vista) -> Result<Dio> {
        let inner = &self.handle.inner;
        let source = vista.source_key();
        let level = catch_user("the source", || vista.stack_level())?;
        let mut seats = inner.seats.lock();
        loop {
            if inner.closed.load(Ordering::Acquire) {
                return Err(closed());
            }
            match seats.get(table) {
                None => break,
                Some(Seat::Here { dio, source: seated }) => match dio.upgrade() {
                    Some(dio) if *seated == source => return Ok(dio),
                    Some(dio) => {
                        let message = format!(
                            "a table of this name is open for the source `{seated}`, and `{source}` wants it too; give one \
                             of them another name"
                        );
                        // The last handle is not to be dropped under the lock, which its closing takes.
                        drop(seats);
                        drop(dio);
                        return Err(Error::new(ErrorKind::Conflict, message).with("table", table));
                    }
                    // It is being closed.
                    None => {}
                },
                Some(Seat::Starting) => {}
            }
            inner.wait_for_a_seat(&mut seats, level)?;
        }
        seats.insert(table.to_owned(), Seat::Starting);
        drop(seats);
        // The source's own code runs in it, and the seat must not stay taken.
        let made = catch_user("the source", || DioInner::make(self, table, vista)).and_then(|made| made);
        let mut seats = inner.seats.lock();
        match &made {
            Ok(dio) => seats.insert(table.to_owned(), Seat::Here { dio: dio.downgrade(), source }),
            Err(_) => seats.remove(table),
        };
        drop(seats);
        inner.seat_freed.notify_all();
        made
    }

    /// Wipes everything that this Lens's cache keeps of a table: rows, ids, undelivered and failed writes, and whatever else
    /// there is of it, also from the freed pages of the file. For signing out. The table's Dio must be closed first.
    ///
    /// # Errors
    /// `Conflict` while a Dio of the table is open, or still at its closing; why the cache can't be rewritten;
    /// `WouldDeadlock` on one of the library's own threads while another thread makes that Dio or forgets the table; `Closed`.
    pub fn forget(&self, table: &str) -> Result<()> {
        let inner = &self.handle.inner;
        let name = |error: Error| error.with("table", table);
        let store = inner.store()?;
        let mut seats = inner.seats.lock();
        loop {
            if inner.closed.load(Ordering::Acquire) {
                return Err(closed());
            }
            match seats.get(table) {
                None => break,
                Some(Seat::Starting) => inner.wait_for_a_seat(&mut seats, 0)?,
                Some(Seat::Here { dio, .. }) => {
                    let message = match dio.is_open() {
                        true => "a Dio of this table is open; close it first",
                        false => "the Dio of this table is still being closed; try again once it is",
                    };
                    return Err(name(Error::new(ErrorKind::Conflict, message)));
                }
            }
        }
        store.claim(table, inner.id, "forget", Rank::new(0, Role::Writer))?;
        // Nobody makes a Dio of it meanwhile.
        seats.insert(table.to_owned(), Seat::Starting);
        drop(seats);
        // Nothing of the table may still be on its way to the disk.
        let forgotten = store.flush(None).and_then(|()| {
            catch_user("the cache backend", || store.backend().forget_table(table)).and_then(|forgotten| forgotten)
        });
        let forgotten = forgotten.and_then(|()| match store.location() {
            Some(cache) => journal::wipe(cache, table),
            None => Ok(()),
        });
        store.release(table);
        inner.seats.lock().remove(table);
        inner.seat_freed.notify_all();
        forgotten.map_err(name)
    }

    /// Closes every Dio of this Lens, ends its threads and lets go of the cache. Returns within the timeout.
    ///
    /// # Errors
    /// `WouldDeadlock` on one of the library's own threads.
    pub fn close(&self, timeout: Duration) -> Result<CloseReport> {
        may_wait_for(Rank::above_all(), "the closing of a Lens")?;
        Ok(self.close_within(timeout))
    }

    /// Closes; on a thread that may wait for all of its threads.
    pub(crate) fn close_within(&self, timeout: Duration) -> CloseReport {
        let inner = &self.handle.inner;
        // More than a century is for ever.
        let deadline = deadline_after(timeout.min(Duration::from_secs(u64::from(u32::MAX))));
        inner.closed.store(true, Ordering::Release);
        let mut report = CloseReport::default();
        // Those that are there first: one that is being made may stand still in the storage and take all the time.
        let here = inner.here();
        close_all(&here, deadline, &mut report);
        let (mut came, starting) = inner.seated(deadline.map(with_time_to_end));
        report.still_at_work(starting);
        came.retain(|dio| !here.iter().any(|closed| closed.is_same(dio)));
        close_all(&came, deadline, &mut report);
        inner.hang_up();
        let Some(deadline) = deadline else { return report };
        // One that stands still must not take the time of those that come after it, or they would be told as running, too.
        let for_each = with_time_to_end(deadline);
        let workers = inner.workers.lock().clone();
        for worker in workers {
            if !worker.join_until(for_each) && !report.still_running.iter().any(|name| name == worker.name()) {
                report.still_at_work(vec![worker.name().to_owned()]);
            }
        }
        for pool in inner.pools() {
            report.still_at_work(pool.close(with_time_to_end(deadline)));
        }
        // What was handed to the journal is made durable before its thread ends.
        let journal = inner.journal.lock().take();
        drop(journal);
        let store = inner.store.lock().take();
        // The last Lens on this cache ends the cache's thread, too.
        if let Some(store) = store.and_then(Arc::into_inner) {
            store.hang_up();
            if !store.worker().join_until(deadline) {
                report.still_at_work(vec![store.worker().name().to_owned()]);
            }
        }
        // Last, for a hook may stand still until the time is over.
        if !inner.hooks.close(deadline) {
            report.still_at_work(vec![format!("{}:notify", inner.name)]);
        }
        report
    }
}

#[cfg(test)]
mod tests;
