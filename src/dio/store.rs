//! Store: the one thread that writes a cache, behind everything that is already visible.
//!
//! Owner: the thread `<cache>:store`; one per cache backend, shared by all Lenses and Dios on it.
//! Flow: the cores leave batches in the queue, which never makes them wait → the thread takes adjacent rows in slices,
//! one atomic `apply` each → the versions in memory that are now stored are let go.
//! Invariants:
//! 1. The batches of one table are applied in the order they came (`rows_are_stored_in_the_order_they_came`).
//! 2. A batch that fails stays in the queue, its rows stay in memory, and `flush` says why; the next batch or flush tries
//!    again (`a_failed_batch_is_tried_again_at_the_next_flush`).
//! 3. Numbers alone (the newest Seq, the next row) wake nobody: they are stored with what comes next, or at the next flush, and
//!    take one place in the queue (`numbers_alone_take_one_place_and_are_stored_with_what_comes_next`).
//! 4. What waits is bounded: who sends more waits. Small changes have room that loads can't take, so that none waits until a
//!    load is stored (`a_small_change_waits_for_no_load_and_many_are_bounded_all_the_same`).
//!
//! Close/panic: the thread ends when its last handle is dropped, after the queue is empty or has failed.
//! Not here: how batches are cut into transactions (`slices`), the read side (`versions`), the journal.

mod slices;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::cache::{CacheBackend, CacheBatch, CacheOp, CacheTable};
use crate::dio::StoreCounters;
use crate::dio::fresh::FreshRows;
use crate::dio::meta;
use crate::dio::store::slices::{Rubbish, write};
use crate::dio::versions::Versions;
use crate::sync::{self, Deadline, QueueInfo, Rank, Role, Worker, catch_user, deadline_after, may_wait_for};
use crate::{Error, ErrorKind, Result, Seq};

/// Rows in one transaction at the most.
const SLICE_ROWS: usize = 131_072;
/// Bytes in one transaction at the most.
const SLICE_BYTES: usize = 32 << 20;
/// What a row costs beside its bytes, roughly.
const ROW_OVERHEAD: usize = 64;
/// Bytes waiting to be stored beyond which loads wait.
const HIGH_WATER: usize = if cfg!(test) { 4 << 20 } else { 128 << 20 };
/// Bytes of small changes among them beyond which these wait, too. Loads can't take this room.
const ROOM_OF_SMALL: usize = HIGH_WATER / 4;
/// For how long the thread looks again of itself after it has stored something: who edits one row after the other need not
/// wake it for each, and they share a transaction.
const DOZE: Duration = Duration::from_millis(1);
/// Bytes that a small change has at the most.
const SMALL: usize = ROOM_OF_SMALL / 32;

/// One batch of one table, on its way to the disk.
pub(crate) struct StoreBatch {
    pub(crate) table: Arc<dyn CacheTable>,
    pub(crate) versions: Arc<Versions>,
    pub(crate) seq: Seq,
    /// Rows of a first load, and how many of them are stored.
    pub(crate) fresh: Option<(Arc<FreshRows>, usize)>,
    /// Whether it takes the room of loads, not that of small changes.
    pub(crate) is_load: bool,
    pub(crate) ops: Vec<CacheOp>,
    pub(crate) meta: Vec<(String, Option<Vec<u8>>)>,
}

impl StoreBatch {
    fn bytes(&self) -> usize {
        let fresh = self.fresh.iter().flat_map(|(fresh, done)| &fresh.rows()[*done..]);
        fresh.map(|row| row.size() + ROW_OVERHEAD).sum::<usize>() + self.ops.iter().map(op_bytes).sum::<usize>()
    }

    /// Whether it says nothing but how far the table's numbers have come: what a batch of writes that the source does not have
    /// yet is to the store.
    fn is_of_numbers(&self) -> bool {
        let is_number = |key: &str| key == meta::SEQ || key == meta::NEXT_ROW;
        self.fresh.is_none() && self.ops.is_empty() && self.meta.iter().all(|(key, _)| is_number(key))
    }

    /// The bytes that take the room of small changes.
    fn small_bytes(&self) -> usize {
        if self.is_load { 0 } else { self.bytes() }
    }
}

/// Whether changes of so many bytes have the room of small ones.
pub(crate) fn is_small(bytes: usize) -> bool {
    bytes <= SMALL
}

fn op_bytes(op: &CacheOp) -> usize {
    match op {
        CacheOp::Put { bytes, .. } => bytes.len() + ROW_OVERHEAD,
        CacheOp::Delete { .. } => ROW_OVERHEAD,
    }
}

enum Job {
    Batch(StoreBatch),
    /// Drops rows or sets meta of a table whose Dio is only being made.
    Reset(Arc<dyn CacheTable>, CacheBatch),
    Sync {
        durably: bool,
    },
    /// Syncs, and tells who wants to know.
    SyncThen(Vec<Then>),
}

/// Called on the store's thread once everything left before is durable. It must not block.
pub(crate) type Then = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Those of small changes.
    small_bytes: usize,
    /// Batches and flushes taken in, and of those done, in order.
    taken: u64,
    done: u64,
    /// Why the front of the queue could not be written; cleared when it is tried again.
    failure: Option<Error>,
    /// Someone wants a failed front tried again.
    retry: bool,
    closing: bool,
    /// The thread has just stored something, and looks again soon of itself.
    dozes: bool,
    counters: StoreCounters,
    /// The thread has left its loop for good.
    ended: bool,
}

struct Shared {
    backend: Arc<dyn CacheBackend>,
    /// The backend's directory: two backends on one directory are one cache.
    location: Option<PathBuf>,
    queue: Mutex<Queue>,
    wake: Condvar,
    progress: Condvar,
    /// The tables in use.
    open: Mutex<HashMap<String, Claim>>,
    released: Condvar,
}

/// Who uses a table.
struct Claim {
    lens: u64,
    source: String,
    /// It is being closed.
    leaving: bool,
}

/// A handle on the store of one cache. The last one dropped ends the thread.
pub(crate) struct Store {
    shared: Arc<Shared>,
    worker: Arc<Worker>,
}

/// A store at work: its handle, and its thread, which outlives the handle until its queue is empty.
struct AtWork {
    store: Weak<Store>,
    shared: Weak<Shared>,
    worker: Arc<Worker>,
}

/// The stores of this process, so that two Lenses on one cache share one thread.
static STORES: Mutex<Vec<AtWork>> = Mutex::new(Vec::new());

impl Store {
    /// The store of this backend, or of another one on the same directory: the one at work already, or a new one.
    pub(crate) fn of(backend: Arc<dyn CacheBackend>) -> Result<Arc<Store>> {
        let location = backend.location();
        let label = match &location {
            Some(path) => {
                path.file_name().map_or_else(|| "cache".to_owned(), |name| name.to_string_lossy().into_owned())
            }
            None => "memory".to_owned(),
        };
        let mut stores = STORES.lock();
        stores.retain(|at_work| at_work.shared.strong_count() > 0);
        for at_work in stores.iter_mut() {
            let Some(shared) = at_work.shared.upgrade() else { continue };
            let same_backend = std::ptr::addr_eq(Arc::as_ptr(&shared.backend), Arc::as_ptr(&backend));
            if !same_backend && (location.is_none() || shared.location != location) {
                continue;
            }
            if let Some(store) = at_work.store.upgrade() {
                return Ok(store);
            }
            // The last handle is gone, but the thread may still be storing what came before: two threads would mix up the
            // order. It goes on for the new handle.
            let mut queue = shared.queue.lock();
            if !queue.ended {
                queue.closing = false;
                drop(queue);
                let store = Arc::new(Store { shared, worker: at_work.worker.clone() });
                at_work.store = Arc::downgrade(&store);
                return Ok(store);
            }
        }
        let shared = Arc::new(Shared {
            backend,
            location,
            queue: Mutex::default(),
            wake: Condvar::new(),
            progress: Condvar::new(),
            open: Mutex::default(),
            released: Condvar::new(),
        });
        let thread = shared.clone();
        let worker = sync::spawn(format!("{label}:store"), Rank::new(0, Role::Store), move || thread.run())?;
        let (weak, worker) = (Arc::downgrade(&shared), Arc::new(worker));
        let store = Arc::new(Store { shared, worker: worker.clone() });
        stores.push(AtWork { store: Arc::downgrade(&store), shared: weak, worker });
        Ok(store)
    }

    pub(crate) fn backend(&self) -> &Arc<dyn CacheBackend> {
        &self.shared.backend
    }

    /// Claims a table for a Lens and a source; one that is being left is waited for.
    ///
    /// # Errors
    /// `Conflict`, naming the other source, when somebody else has it; `WouldDeadlock` where the wait could be a cycle.
    pub(crate) fn claim(&self, table: &str, lens: u64, source: &str, rank: Rank) -> Result<()> {
        let mut open = self.shared.open.lock();
        while let Some(other) = open.get(table) {
            if other.lens == lens && other.source == source {
                return Ok(());
            }
            if !other.leaving {
                let message = format!(
                    "this cache table is in use for the source `{}`, and `{source}` wants it too; give one of them another \
                     name, or another cache",
                    other.source
                );
                return Err(Error::new(ErrorKind::Conflict, message).with("table", table));
            }
            may_wait_for(rank, "the closing of a Dio")?;
            self.shared.released.wait(&mut open);
        }
        open.insert(table.to_owned(), Claim { lens, source: source.to_owned(), leaving: false });
        Ok(())
    }

    /// The one who has the table is closing: others may wait for it.
    pub(crate) fn leave(&self, table: &str) {
        if let Some(claim) = self.shared.open.lock().get_mut(table) {
            claim.leaving = true;
        }
    }

    pub(crate) fn release(&self, table: &str) {
        self.shared.open.lock().remove(table);
        self.shared.released.notify_all();
    }

    /// Leaves a batch. Never waits. One of numbers alone is stored with what comes next: until then no row needs them, and a
    /// transaction for each would keep the disk from the journal.
    pub(crate) fn put(&self, batch: StoreBatch) {
        let mut queue = self.shared.queue.lock();
        let may_wait = batch.is_of_numbers() && queue.failure.is_none();
        if may_wait && let Some(waiting) = queue.numbers_at_the_end(&batch.table) {
            *waiting = batch;
            return;
        }
        queue.bytes += batch.bytes();
        queue.small_bytes += batch.small_bytes();
        queue.taken += 1;
        queue.jobs.push_back(Job::Batch(batch));
        let is_soon_awake = queue.dozes && queue.bytes <= SMALL;
        drop(queue);
        if !may_wait && !is_soon_awake {
            self.shared.wake.notify_one();
        }
    }

    /// Has everything left before made durable, and `then` called. Never waits.
    pub(crate) fn sync_then(&self, then: Then) {
        let mut queue = self.shared.queue.lock();
        if let Some(Job::SyncThen(others)) = queue.jobs.back_mut() {
            others.push(then);
        } else {
            queue.taken += 1;
            queue.jobs.push_back(Job::SyncThen(vec![then]));
        }
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Waits until there is room for a load, or for a small change, which a load doesn't keep waiting. Never for the core.
    ///
    /// # Errors
    /// Why the cache can't be written, if that is why there is no room.
    pub(crate) fn wait_for_room(&self, is_small: bool) -> Result<()> {
        may_wait_for(Rank::new(0, Role::Store), "the cache's store")?;
        let mut queue = self.shared.queue.lock();
        while queue.is_full(is_small) && queue.failure.is_none() && !queue.closing {
            self.shared.progress.wait(&mut queue);
        }
        match queue.failure.clone() {
            Some(error) if queue.is_full(is_small) => {
                // Nothing more comes in that would have the front tried again.
                queue.retry = true;
                self.shared.wake.notify_one();
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Waits until everything left before is applied and, where the cache is on a disk, durable.
    ///
    /// # Errors
    /// Why the cache can't be written; what waits stays in memory and is tried again at the next call.
    pub(crate) fn flush(&self, timeout: Option<Duration>) -> Result<()> {
        self.await_job(Job::Sync { durably: true }, timeout.and_then(deadline_after))
    }

    fn await_job(&self, job: Job, deadline: Option<Deadline>) -> Result<()> {
        self.shared.await_job(job, deadline, &|| true)
    }

    /// For a [`flush`](Self::flush) that holds no handle: whoever waits in it keeps nobody from ending the thread.
    pub(crate) fn flusher(&self) -> Flusher {
        Flusher(self.shared.clone())
    }

    /// Has every wait look again whether it is still wanted.
    pub(crate) fn wake_waiters(&self) {
        drop(self.shared.queue.lock());
        self.shared.progress.notify_all();
    }

    /// Waits until everything left before is applied, durable or not.
    pub(crate) fn drain(&self) -> Result<()> {
        self.await_job(Job::Sync { durably: false }, None)
    }

    /// [`flush`](Self::flush) up to a deadline.
    pub(crate) fn flush_until(&self, deadline: Deadline) -> Result<()> {
        self.await_job(Job::Sync { durably: true }, Some(deadline))
    }

    /// Drops a table's rows if `clear` says so, sets its meta, and waits for it.
    pub(crate) fn reset(
        &self,
        table: Arc<dyn CacheTable>,
        clear: bool,
        meta: Vec<(String, Option<Vec<u8>>)>,
    ) -> Result<()> {
        self.await_job(Job::Reset(table, CacheBatch { clear, ops: Vec::new(), meta }), None)
    }

    /// Why the newest batches could not be stored, if they couldn't.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.shared.queue.lock().failure.clone()
    }

    /// Bytes that wait to be stored.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.shared.queue.lock().bytes
    }

    pub(crate) fn counters(&self) -> StoreCounters {
        self.shared.queue.lock().counters
    }

    /// How many batches and flushes wait; their bytes bound them.
    pub(crate) fn queue(&self) -> QueueInfo {
        QueueInfo { name: "store".to_owned(), length: self.shared.queue.lock().jobs.len(), capacity: None }
    }

    /// The cache's directory.
    pub(crate) fn location(&self) -> Option<&Path> {
        self.shared.location.as_deref()
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Tells the thread to end once its queue is empty. Nothing may be put afterwards.
    pub(crate) fn hang_up(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// Calls the backend, which may be the user's.
fn user<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_user("the cache backend", call).and_then(|result| result)
}

/// Waits for the store of one cache, and doesn't keep its thread from ending.
pub(crate) struct Flusher(Arc<Shared>);

impl Flusher {
    /// As [`Store::flush`], until nobody wants it any more; see [`Store::wake_waiters`].
    ///
    /// # Errors
    /// As [`Store::flush`]; `Closed`.
    pub(crate) fn flush_while(&self, is_wanted: &dyn Fn() -> bool) -> Result<()> {
        self.0.await_job(Job::Sync { durably: true }, None, is_wanted)
    }
}

impl Shared {
    /// Leaves a job and waits for it, for as long as `is_wanted`.
    fn await_job(&self, job: Job, deadline: Option<Deadline>, is_wanted: &dyn Fn() -> bool) -> Result<()> {
        may_wait_for(Rank::new(0, Role::Store), "the cache's store")?;
        let mut queue = self.queue.lock();
        // One that waits at the end of the queue does for all who ask: a flush that fails leaves its job there.
        let joins = matches!((&job, queue.jobs.back()), (Job::Sync { durably }, Some(Job::Sync { durably: last })) if durably == last);
        if !joins {
            queue.taken += 1;
            queue.jobs.push_back(job);
        }
        let ticket = queue.taken;
        queue.retry = true;
        self.wake.notify_one();
        loop {
            if queue.done >= ticket {
                return Ok(());
            }
            if let Some(error) = &queue.failure
                && !queue.retry
            {
                return Err(error.clone());
            }
            if queue.ended || !is_wanted() {
                return Err(Error::new(ErrorKind::Closed, "closed before the cache was flushed"));
            }
            let timed_out = match deadline {
                Some(deadline) => self.progress.wait_until(&mut queue, deadline).timed_out(),
                None => {
                    self.progress.wait(&mut queue);
                    false
                }
            };
            if timed_out && queue.done < ticket {
                return Err(Error::new(ErrorKind::Timeout, "the cache was not flushed within the time given"));
            }
        }
    }

    fn run(&self) {
        let mut rubbish = Rubbish::default();
        let mut is_busy = false;
        let mut queue = self.queue.lock();
        loop {
            let blocked = queue.failure.is_some() && !queue.retry;
            let job = if blocked { None } else { queue.jobs.pop_front() };
            let Some(job) = job else {
                if queue.closing {
                    queue.ended = true;
                    self.progress.notify_all();
                    return;
                }
                if rubbish.is_empty() {
                    if std::mem::take(&mut is_busy) && !blocked {
                        queue.dozes = true;
                        self.wake.wait_for(&mut queue, DOZE);
                        queue.dozes = false;
                    } else {
                        self.wake.wait(&mut queue);
                    }
                    // A new batch is a reason to try a failed front again, too.
                    queue.retry = true;
                } else {
                    drop(queue);
                    drop(std::mem::take(&mut rubbish));
                    queue = self.queue.lock();
                }
                continue;
            };
            is_busy = true;
            let todo = match job {
                Job::Batch(first) => Todo::Write(queue.take_neighbours(first)),
                Job::Reset(table, batch) => Todo::Reset(table, batch),
                Job::Sync { durably } => Todo::Sync { durably },
                Job::SyncThen(then) => Todo::SyncThen(then),
            };
            drop(queue);
            let outcome = self.work(todo);
            if let Some(error) = &outcome.failure {
                tracing::warn!(%error, "the cache could not be written; its rows stay in memory until it can");
            }
            rubbish.add(outcome.rubbish);
            queue = self.queue.lock();
            queue.bytes = queue.bytes.saturating_sub(outcome.bytes);
            queue.small_bytes = queue.small_bytes.saturating_sub(outcome.small_bytes);
            queue.counters.transactions += outcome.transactions;
            queue.counters.rows += outcome.rows;
            queue.counters.bytes += outcome.bytes as u64;
            queue.counters.failures += u64::from(outcome.failure.is_some());
            queue.done += outcome.jobs_done;
            for job in outcome.unfinished.into_iter().rev() {
                queue.jobs.push_front(job);
            }
            queue.retry = queue.retry && outcome.failure.is_none();
            queue.failure = outcome.failure;
            self.progress.notify_all();
        }
    }

    fn work(&self, todo: Todo) -> Outcome {
        let one = |result: Result<()>, job: Job| match result {
            Ok(()) => Outcome { jobs_done: 1, ..Outcome::default() },
            Err(error) => Outcome { failure: Some(error), unfinished: vec![job], ..Outcome::default() },
        };
        match todo {
            Todo::Sync { durably } => {
                let result = if durably { user(|| self.backend.sync()) } else { Ok(()) };
                one(result, Job::Sync { durably })
            }
            Todo::SyncThen(then) => match user(|| self.backend.sync()) {
                Ok(()) => {
                    then.into_iter().for_each(|then| then());
                    one(Ok(()), Job::SyncThen(Vec::new()))
                }
                failed => one(failed, Job::SyncThen(then)),
            },
            Todo::Reset(table, batch) => {
                let result = user(|| table.apply(&batch));
                one(result, Job::Reset(table, batch))
            }
            Todo::Write(batches) => {
                let total = batches.len() as u64;
                let written = write(batches);
                Outcome {
                    failure: written.failure,
                    jobs_done: total - written.unwritten.len() as u64,
                    unfinished: written.unwritten.into_iter().map(Job::Batch).collect(),
                    transactions: written.transactions,
                    rows: written.rows,
                    bytes: written.bytes,
                    small_bytes: written.small_bytes,
                    rubbish: written.rubbish,
                }
            }
        }
    }
}

impl Queue {
    /// Whether a load, or a small change, has to wait.
    fn is_full(&self, is_small: bool) -> bool {
        self.bytes > HIGH_WATER && (!is_small || self.small_bytes > ROOM_OF_SMALL)
    }

    /// The batch of numbers of this table that nothing but such batches comes after.
    fn numbers_at_the_end(&mut self, table: &Arc<dyn CacheTable>) -> Option<&mut StoreBatch> {
        let batches = self.jobs.iter_mut().rev().map_while(|job| match job {
            Job::Batch(batch) if batch.is_of_numbers() => Some(batch),
            _ => None,
        });
        batches.into_iter().find(|batch| Arc::ptr_eq(&batch.table, table))
    }

    /// A batch and the small ones of its table that follow it: they share a transaction.
    fn take_neighbours(&mut self, first: StoreBatch) -> Vec<StoreBatch> {
        let (mut rows, mut bytes) = (first.ops.len(), first.bytes());
        let may_share = |batch: &StoreBatch| batch.fresh.is_none();
        let mut batches = vec![first];
        while may_share(&batches[0])
            && rows < SLICE_ROWS
            && let Some(Job::Batch(next)) = self.jobs.front()
            && Arc::ptr_eq(&next.table, &batches[0].table)
            && may_share(next)
            && rows + next.ops.len() <= SLICE_ROWS
            && bytes + next.bytes() <= SLICE_BYTES
            && let Some(Job::Batch(next)) = self.jobs.pop_front()
        {
            rows += next.ops.len();
            bytes += next.bytes();
            batches.push(next);
        }
        batches
    }
}

/// What is to be done outside the lock.
enum Todo {
    Write(Vec<StoreBatch>),
    Reset(Arc<dyn CacheTable>, CacheBatch),
    Sync { durably: bool },
    SyncThen(Vec<Then>),
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    failure: Option<Error>,
    jobs_done: u64,
    transactions: u64,
    rows: u64,
    unfinished: Vec<Job>,
    bytes: usize,
    small_bytes: usize,
    rubbish: Rubbish,
}

#[cfg(test)]
mod tests;
