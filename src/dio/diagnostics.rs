//! Diagnostics: what a person wants to see who asks why a Dio does what it does.
//!
//! Invariants: asking waits for nobody: no thread, no source, no cache is asked, so it answers while they hang
//! (`diagnostics_answer_while_the_source_hangs`).
//!
//! Not here: the counters themselves, which are their owners' (`board`, `store`, `versions`, `bus`).

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::dio::board::DioStatus;
use crate::dio::bus::EventStats;
use crate::dio::core::{Opening, ViewSlot};
use crate::dio::{Dio, DioInner};
use crate::sync::{QueueInfo, ThreadInfo};
use crate::{Generation, Seq};

/// What a Dio has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Batches published; each is one Seq.
    pub batches: u64,
    /// Rows that differed after a batch, summed over all batches.
    pub changed_rows: u64,
    /// Views' indexes that had a look at a batch, summed over all batches: those that it could concern.
    pub indexes_asked: u64,
    /// Views' indexes built from a scan of all rows.
    pub builds: u64,
    /// Builds begun again, because more changed meanwhile than could be recorded.
    pub builds_restarted: u64,
    /// Refreshes that went well, the first copy among them.
    pub refreshes: u64,
    /// Refreshes that failed.
    pub refreshes_failed: u64,
    /// Writes that the source confirmed.
    pub writes_delivered: u64,
    /// Writes that failed.
    pub writes_failed: u64,
}

/// What the thread that writes a cache has done. All Dios on one cache share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StoreCounters {
    /// Transactions made.
    pub transactions: u64,
    /// Rows put or deleted in them.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Transactions that failed; what they held is tried again.
    pub failures: u64,
}

/// An open view.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewInfo {
    /// What kind it is, and what it was opened with.
    pub what: String,
    /// Its generation.
    pub generation: Generation,
    /// The batch it shows.
    pub seq: Seq,
    /// The rows of a table view.
    pub rows: Option<usize>,
    /// How it stands: `ready`, `loading`, `stale`, why it failed, the value it shows.
    pub state: String,
}

/// How a Dio is doing in detail: for a person who debugs it, by `{}`, and for programs by its fields.
///
/// Made by [`Dio::diagnostics`]. The parts are taken one after the other, so they may be a moment apart.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Diagnostics {
    /// The cache table's name.
    pub table: String,
    /// What [`Dio::status`] says.
    pub status: DioStatus,
    /// What it has done.
    pub counters: Counters,
    /// What the thread that writes its cache has done; all zero once the Lens is closed.
    pub store: StoreCounters,
    /// Its threads, and those that it shares with other Dios of its Lens and its cache.
    pub threads: Vec<ThreadInfo>,
    /// The queues between them.
    pub queues: Vec<QueueInfo>,
    /// Its open views, in the order in which they were opened.
    pub views: Vec<ViewInfo>,
    /// Its subscribers, and what they were sent.
    pub events: EventStats,
    /// The Seq of the oldest snapshot held.
    pub oldest_snapshot: Option<Seq>,
    /// Rows in the hot tier.
    pub hot_rows: usize,
    /// Their bytes, estimated.
    pub hot_bytes: usize,
    /// Where its cache lies, if it lies on a disk.
    pub cache_path: Option<PathBuf>,
}

impl Dio {
    /// Everything that is known of how the Dio is doing, to print or to read. Doesn't block, and asks neither the source
    /// nor the cache: it answers while they hang, and says which thread does.
    ///
    /// ```
    /// use diorama::prelude::*;
    /// let source = MemoryVista::new("products", "id").with_rows([("a", record! { "id" => "a", "price" => 3 })]);
    /// let dio = Lens::new().in_memory().build()?.make_dio(source)?;
    /// let view = dio.table_scenery().sort("price", SortDir::Desc).open()?;
    /// let text = dio.diagnostics().to_string();
    /// assert!(text.contains("table order by price desc"), "{text}");
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn diagnostics(&self) -> Diagnostics {
        self.inner().diagnostics()
    }
}

impl DioInner {
    fn diagnostics(&self) -> Diagnostics {
        let store = self.store().ok();
        let lens = &self.lens;
        let mut threads: Vec<ThreadInfo> = self.workers.lock().iter().map(|worker| worker.info()).collect();
        threads.extend(store.iter().map(|store| store.worker().info()));
        threads.extend(lens.pools().flat_map(|pool| pool.thread_infos()));
        threads.extend(lens.hooks.thread());
        let mut queues = Vec::from(self.core.queues());
        queues.push(self.writes.info());
        queues.extend(lens.pools().map(|pool| pool.queue()));
        queues.extend(store.iter().map(|store| store.queue()));
        Diagnostics {
            table: self.name.to_string(),
            status: self.status(),
            counters: self.board.counters(),
            store: store.as_ref().map(|store| store.counters()).unwrap_or_default(),
            threads,
            queues,
            views: self.open_views.look(),
            events: self.events.stats(),
            oldest_snapshot: self.reader.versions.oldest_snapshot(),
            hot_rows: self.reader.hot.len(),
            hot_bytes: self.reader.hot.bytes(),
            cache_path: store.and_then(|store| store.location().map(PathBuf::from)),
        }
    }

    /// Readies a new view for its way to the core.
    pub(crate) fn opening<S: ViewSlot + 'static>(&self, what: String, slot: &Arc<S>) -> Opening<S> {
        let weak: Weak<S> = Arc::downgrade(slot);
        self.open_views.add(what, weak);
        Opening::new(slot.clone())
    }
}

/// The views of a Dio, for as long as somebody holds them.
#[derive(Default)]
pub(crate) struct OpenViews(Mutex<Register>);

#[derive(Default)]
struct Register {
    views: Vec<(String, Weak<dyn ViewSlot>)>,
    /// At how many entries those of dropped views are let go.
    sweep_at: usize,
}

impl OpenViews {
    fn add(&self, what: String, slot: Weak<dyn ViewSlot>) {
        const FEW: usize = 64;
        let mut register = self.0.lock();
        if register.views.len() >= register.sweep_at {
            register.views.retain(|(_, slot)| slot.upgrade().is_some_and(|slot| !slot.is_dropped()));
            register.sweep_at = FEW.max(register.views.len() * 2);
        }
        register.views.push((what, slot));
    }

    fn look(&self) -> Vec<ViewInfo> {
        let views: Vec<(String, Arc<dyn ViewSlot>)> = {
            let register = self.0.lock();
            register.views.iter().filter_map(|(what, slot)| Some((what.clone(), slot.upgrade()?))).collect()
        };
        let open = views.into_iter().filter(|(_, slot)| !slot.is_dropped());
        open.map(|(what, slot)| {
            let look = slot.look();
            ViewInfo { what, generation: look.generation, seq: look.seq, rows: look.rows, state: look.state }
        })
        .collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.status;
        let state = match (status.closed, status.complete, status.refreshing) {
            (true, ..) => "closed",
            (false, true, true) => "complete, refreshing",
            (false, true, false) => "complete",
            (false, false, true) => "incomplete, being copied",
            (false, false, false) => "incomplete",
        };
        writeln!(f, "Dio `{}`: {} rows, seq {}, {state}", self.table, status.rows, status.seq.0)?;
        if let Some(path) = &self.cache_path {
            writeln!(f, "  cache in {}", path.display())?;
        }
        let errors =
            [("refresh", &status.refresh_error), ("write", &status.write_error), ("cache", &status.cache_error)];
        for (what, error) in errors {
            if let Some(error) = error {
                writeln!(f, "  last {what} error: {error}")?;
            }
        }
        let Counters {
            batches,
            changed_rows,
            indexes_asked,
            builds,
            builds_restarted,
            refreshes,
            refreshes_failed,
            writes_delivered,
            writes_failed,
        } = self.counters;
        writeln!(
            f,
            "  done      {batches} batches, {changed_rows} changed rows, {indexes_asked} looks by indexes, {builds} builds ({builds_restarted} again)"
        )?;
        writeln!(f, "  refreshes {refreshes}, failed {refreshes_failed}")?;
        let pending = status.pending_writes;
        writeln!(f, "  writes    {pending} pending, {writes_delivered} delivered, {writes_failed} failed")?;
        let StoreCounters { transactions, rows, bytes, failures } = self.store;
        let unstored = status.unstored_bytes;
        writeln!(
            f,
            "  store     {unstored} bytes wait; {transactions} transactions, {rows} rows, {bytes} bytes, {failures} failed"
        )?;
        writeln!(
            f,
            "  memory    {} rows beyond the cache, {} bytes kept for {} snapshots, {} hot rows of {} bytes",
            status.rows_in_memory, status.snapshot_bytes, status.snapshots, self.hot_rows, self.hot_bytes
        )?;
        if let Some(seq) = self.oldest_snapshot {
            writeln!(f, "            the oldest snapshot is of seq {}", seq.0)?;
        }
        let EventStats { readers, published, .. } = self.events;
        writeln!(f, "  events    {readers} readers, {published} sent")?;
        writeln!(f, "  threads")?;
        for thread in &self.threads {
            match (&thread.inside, thread.finished) {
                (Some((what, time)), _) => writeln!(f, "    {}: in {what} for {time:.1?}", thread.name)?,
                (None, true) => writeln!(f, "    {}: ended", thread.name)?,
                (None, false) => writeln!(f, "    {}", thread.name)?,
            }
        }
        writeln!(f, "  queues")?;
        for QueueInfo { name, length, capacity } in &self.queues {
            match capacity {
                Some(capacity) => writeln!(f, "    {name}: {length} of {capacity}")?,
                None => writeln!(f, "    {name}: {length}")?,
            }
        }
        writeln!(f, "  views     {}, by {} indexes", self.views.len(), status.indexes)?;
        for ViewInfo { what, generation, seq, rows, state } in &self.views {
            write!(f, "    {what}: generation {}, seq {}", generation.0, seq.0)?;
            if let Some(rows) = rows {
                write!(f, ", {rows} rows")?;
            }
            writeln!(f, ", {state}")?;
        }
        Ok(())
    }
}
