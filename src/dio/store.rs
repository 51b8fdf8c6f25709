//! Store: the one thread that writes a cache, behind everything that is already visible.
//!
//! Owner: the thread `<cache>:store`; one per cache backend, shared by all Lenses and Dios on it.
//! Flow: the cores leave batches in the queue, which never makes them wait → the thread takes adjacent rows in slices,
//! one atomic `apply` each → the versions in memory that are now stored are let go.
//! Invariants:
//! 1. The batches of one table are applied in the order they came (`rows_are_stored_in_the_order_they_came`).
//! 2. A batch that completes a table and takes more than one slice is bracketed: until its last slice the table says that
//!    it is not complete (`a_long_batch_is_bracketed`).
//! 3. A batch that fails stays in the queue, its rows stay in memory, and `flush` says why; the next batch or flush tries
//!    again (`a_failed_batch_is_tried_again_at_the_next_flush`).
//!
//! Close/panic: the thread ends when its last handle is dropped, after the queue is empty or has failed.
//! Not here: the read side (`versions`), the journal.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::cache::{CacheBackend, CacheBatch, CacheOp, CacheTable};
use crate::dio::meta;
use crate::dio::versions::Versions;
use crate::sync::{self, Deadline, Rank, Role, Worker, catch_user, deadline_after, may_wait_for};
use crate::{Error, ErrorKind, Result, Seq};

/// Rows in one transaction at the most.
const SLICE_ROWS: usize = 8_192;
/// Bytes in one transaction at the most.
const SLICE_BYTES: usize = 4 << 20;
/// Bytes waiting to be stored beyond which senders of many rows wait.
const HIGH_WATER: usize = 128 << 20;

/// One batch of one table, on its way to the disk.
pub(crate) struct StoreBatch {
    pub(crate) table: Arc<dyn CacheTable>,
    pub(crate) versions: Arc<Versions>,
    pub(crate) seq: Seq,
    pub(crate) ops: Vec<CacheOp>,
    pub(crate) meta: Vec<(String, Option<Vec<u8>>)>,
}

impl StoreBatch {
    fn bytes(&self) -> usize {
        self.ops.iter().map(op_bytes).sum()
    }
}

fn op_bytes(op: &CacheOp) -> usize {
    match op {
        CacheOp::Put { id, bytes, .. } => id.len() + bytes.len() + 64,
        CacheOp::Delete { id, .. } => id.len() + 64,
    }
}

enum Job {
    Batch(StoreBatch),
    /// Drops rows or sets meta of a table whose Dio is only being made.
    Reset(Arc<dyn CacheTable>, CacheBatch),
    Sync {
        durably: bool,
    },
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Batches and flushes taken in, and of those done, in order.
    taken: u64,
    done: u64,
    /// Why the front of the queue could not be written; cleared when it is tried again.
    failure: Option<Error>,
    /// Someone wants a failed front tried again.
    retry: bool,
    closing: bool,
    /// The thread is through with the queue.
    ended: bool,
}

struct Shared {
    backend: Arc<dyn CacheBackend>,
    /// The backend's directory: two backends on one directory are one cache.
    location: Option<PathBuf>,
    queue: Mutex<Queue>,
    wake: Condvar,
    progress: Condvar,
    /// The tables in use, each with the Lens and the source that use it.
    open: Mutex<HashMap<String, (u64, String)>>,
}

/// A handle on the store of one cache. The last one dropped ends the thread.
pub(crate) struct Store {
    shared: Arc<Shared>,
    worker: Worker,
}

/// The stores of this process, so that two Lenses on one cache share one thread. What is left of one whose last handle is
/// gone stays here until its thread has ended.
static STORES: Mutex<Vec<(Weak<Store>, Weak<Shared>)>> = Mutex::new(Vec::new());

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
        let same = |shared: &Shared| {
            std::ptr::addr_eq(Arc::as_ptr(&shared.backend), Arc::as_ptr(&backend))
                || (location.is_some() && shared.location == location)
        };
        let mut stores = STORES.lock();
        loop {
            stores.retain(|(_, shared)| shared.strong_count() > 0);
            let found = stores
                .iter()
                .find_map(|(store, shared)| Some((store.upgrade(), shared.upgrade().filter(|s| same(s))?)));
            match found {
                Some((Some(store), _)) => return Ok(store),
                // What it still has to write must be there before anyone reads.
                Some((None, shared)) if !shared.queue.lock().ended => {
                    drop(stores);
                    may_wait_for(Rank::new(0, Role::Store), "the cache's store")?;
                    shared.wait_until_ended();
                    stores = STORES.lock();
                }
                Some((None, shared)) => stores.retain(|(_, known)| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(&shared))),
                None => break,
            }
        }
        let shared = Arc::new(Shared {
            backend,
            location,
            queue: Mutex::default(),
            wake: Condvar::new(),
            progress: Condvar::new(),
            open: Mutex::default(),
        });
        let thread = shared.clone();
        let worker = sync::spawn(format!("{label}:store"), Rank::new(0, Role::Store), move || thread.run())?;
        let store = Arc::new(Store { shared, worker });
        stores.push((Arc::downgrade(&store), Arc::downgrade(&store.shared)));
        Ok(store)
    }

    pub(crate) fn backend(&self) -> &Arc<dyn CacheBackend> {
        &self.shared.backend
    }

    /// Claims a table for a Lens and a source; an error names the other one who has it.
    pub(crate) fn claim(&self, table: &str, lens: u64, source: &str) -> Result<()> {
        let mut open = self.shared.open.lock();
        match open.get(table) {
            Some((other_lens, other_source)) if *other_lens != lens || other_source != source => {
                let message = format!(
                    "this cache table is in use for the source `{other_source}`, and `{source}` wants it too; \
                     give one of them another name, or another cache"
                );
                Err(Error::new(ErrorKind::Conflict, message).with("table", table))
            }
            _ => {
                open.insert(table.to_owned(), (lens, source.to_owned()));
                Ok(())
            }
        }
    }

    pub(crate) fn release(&self, table: &str) {
        self.shared.open.lock().remove(table);
    }

    /// Leaves a batch. Never waits.
    pub(crate) fn put(&self, batch: StoreBatch) {
        let mut queue = self.shared.queue.lock();
        queue.bytes += batch.bytes();
        queue.taken += 1;
        queue.jobs.push_back(Job::Batch(batch));
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Waits until there is room for many rows. For senders of loads, never for the core.
    pub(crate) fn wait_for_room(&self) -> Result<()> {
        may_wait_for(Rank::new(0, Role::Store), "the cache's store")?;
        let mut queue = self.shared.queue.lock();
        while queue.bytes > HIGH_WATER && queue.failure.is_none() && !queue.closing {
            self.shared.progress.wait(&mut queue);
        }
        match &queue.failure {
            Some(error) if queue.bytes > HIGH_WATER => Err(error.clone()),
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
        may_wait_for(Rank::new(0, Role::Store), "the cache's store")?;
        let mut queue = self.shared.queue.lock();
        queue.taken += 1;
        let ticket = queue.taken;
        queue.jobs.push_back(job);
        queue.retry = true;
        self.shared.wake.notify_one();
        loop {
            if queue.done >= ticket {
                return Ok(());
            }
            if let Some(error) = &queue.failure
                && !queue.retry
            {
                return Err(error.clone());
            }
            let timed_out = match deadline {
                Some(deadline) => self.shared.progress.wait_until(&mut queue, deadline).timed_out(),
                None => {
                    self.shared.progress.wait(&mut queue);
                    false
                }
            };
            if timed_out && queue.done < ticket {
                return Err(Error::new(ErrorKind::Timeout, "the cache was not flushed within the time given"));
            }
        }
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

/// What one transaction takes from the queue.
struct Slice {
    table: Arc<dyn CacheTable>,
    batch: CacheBatch,
    /// For each op the Seq and the versions it belongs to.
    stamps: Vec<(Seq, Arc<Versions>)>,
    bytes: usize,
}

impl Shared {
    fn wait_until_ended(&self) {
        let mut queue = self.queue.lock();
        while !queue.ended {
            self.progress.wait(&mut queue);
        }
    }

    fn run(&self) {
        self.work_off();
        self.queue.lock().ended = true;
        self.progress.notify_all();
    }

    fn work_off(&self) {
        let mut queue = self.queue.lock();
        loop {
            let blocked = queue.failure.is_some() && !queue.retry;
            if queue.jobs.is_empty() || blocked {
                if queue.closing {
                    return;
                }
                self.wake.wait(&mut queue);
                // A new batch is a reason to try a failed front again, too.
                queue.retry = true;
                continue;
            }
            let Some(job) = queue.jobs.pop_front() else { continue };
            let (result, unfinished) = match job {
                Job::Sync { durably } => {
                    drop(queue);
                    let result = if durably { user(|| self.backend.sync()) } else { Ok(()) };
                    queue = self.queue.lock();
                    queue.done += u64::from(result.is_ok());
                    let again = result.is_err().then_some(Job::Sync { durably });
                    (result, again.into_iter().collect())
                }
                Job::Reset(table, batch) => {
                    drop(queue);
                    let result = user(|| table.apply(&batch));
                    queue = self.queue.lock();
                    queue.done += u64::from(result.is_ok());
                    let again = result.is_err().then_some(Job::Reset(table, batch));
                    (result, again.into_iter().collect())
                }
                Job::Batch(first) => {
                    let mut batches = vec![first];
                    let mut rows = batches[0].ops.len();
                    // Small batches of one table that follow each other share a transaction.
                    while rows < SLICE_ROWS
                        && let Some(Job::Batch(next)) = queue.jobs.front()
                        && Arc::ptr_eq(&next.table, &batches[0].table)
                        && rows + next.ops.len() <= SLICE_ROWS
                        && let Some(Job::Batch(next)) = queue.jobs.pop_front()
                    {
                        rows += next.ops.len();
                        batches.push(next);
                    }
                    drop(queue);
                    let total = batches.len() as u64;
                    let (result, freed, unfinished) = write(batches);
                    queue = self.queue.lock();
                    queue.bytes = queue.bytes.saturating_sub(freed);
                    queue.done += total - unfinished.len() as u64;
                    (result, unfinished.into_iter().map(Job::Batch).collect::<Vec<Job>>())
                }
            };
            for job in unfinished.into_iter().rev() {
                queue.jobs.push_front(job);
            }
            match result {
                Ok(()) => queue.failure = None,
                Err(error) => {
                    tracing::warn!(%error, "the cache could not be written; its rows stay in memory until it can");
                    queue.failure = Some(error);
                    queue.retry = false;
                }
            }
            self.progress.notify_all();
        }
    }
}

/// Writes batches of one table in as few transactions as their size allows. Gives back the bytes that are stored and, after
/// an error, the batches that are not.
fn write(batches: Vec<StoreBatch>) -> (Result<()>, usize, Vec<StoreBatch>) {
    let table = batches[0].table.clone();
    if batches.len() == 1 && (batches[0].ops.len() > SLICE_ROWS || batches[0].bytes() > SLICE_BYTES) {
        let mut batches = batches;
        return match batches.pop() {
            Some(batch) => write_long(batch),
            None => (Ok(()), 0, Vec::new()),
        };
    }
    let mut slice = Slice { table, batch: CacheBatch::default(), stamps: Vec::new(), bytes: 0 };
    for batch in &batches {
        for op in &batch.ops {
            slice.bytes += op_bytes(op);
            slice.batch.ops.push(op.clone());
            slice.stamps.push((batch.seq, batch.versions.clone()));
        }
        for (key, value) in &batch.meta {
            slice.batch.meta.retain(|(other, _)| other != key);
            slice.batch.meta.push((key.clone(), value.clone()));
        }
    }
    match slice.apply() {
        Ok(()) => (Ok(()), slice.bytes, Vec::new()),
        Err(error) => (Err(error), 0, batches),
    }
}

/// Writes one batch that is too long for one transaction. After an error its unwritten rest comes back.
fn write_long(mut batch: StoreBatch) -> (Result<()>, usize, Vec<StoreBatch>) {
    let completes = batch.meta.iter().any(|(key, value)| key == meta::COMPLETE && value.is_some());
    let mut freed = 0;
    let mut ops = std::mem::take(&mut batch.ops).into_iter();
    let mut first = true;
    loop {
        let mut slice =
            Slice { table: batch.table.clone(), batch: CacheBatch::default(), stamps: Vec::new(), bytes: 0 };
        while slice.batch.ops.len() < SLICE_ROWS
            && slice.bytes < SLICE_BYTES
            && let Some(op) = ops.next()
        {
            slice.bytes += op_bytes(&op);
            slice.batch.ops.push(op);
            slice.stamps.push((batch.seq, batch.versions.clone()));
        }
        let last = ops.len() == 0;
        if last {
            slice.batch.meta = batch.meta.clone();
        } else if first {
            // After a crash between two slices no number that a stored row has may be given again.
            let marks = batch.meta.iter().filter(|(key, _)| key == meta::SEQ || key == meta::NEXT_ROW);
            slice.batch.meta = marks.cloned().collect();
            if completes {
                slice.batch.meta.push((meta::COMPLETE.to_owned(), None));
            }
        }
        if let Err(error) = slice.apply() {
            batch.ops = slice.batch.ops;
            batch.ops.extend(ops);
            return (Err(error), freed, vec![batch]);
        }
        freed += slice.bytes;
        first = false;
        if last {
            return (Ok(()), freed, Vec::new());
        }
    }
}

impl Slice {
    fn apply(&self) -> Result<()> {
        user(|| self.table.apply(&self.batch))?;
        for (op, (seq, versions)) in self.batch.ops.iter().zip(&self.stamps) {
            match op {
                CacheOp::Put { row, id, .. } => versions.stored(*row, *seq, id, false),
                CacheOp::Delete { row, id } => versions.stored(*row, *seq, id, true),
            }
        }
        Ok(())
    }
}
