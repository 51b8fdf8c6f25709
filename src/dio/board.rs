//! Board: what the threads of a Dio know and anyone may ask: status, counters, reads under way.
//!
//! Owner: each field has one writer; the lock is held for a copy, never across anything slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::dio::core::{FullCopy, TableState};
use crate::dio::diagnostics::Counters;
use crate::dio::hot_tier::time_of;
use crate::{Error, Seq};

/// How a Dio is doing, at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DioStatus {
    /// The last published batch.
    pub seq: Seq,
    /// How many rows the Dio holds.
    pub rows: u64,
    /// Whether it holds everything the source had at the last full copy.
    pub complete: bool,
    /// Whether the first rows came from the cache of an earlier run.
    pub warm_start: bool,
    /// When the last full copy of the source ended.
    pub last_refresh: Option<SystemTime>,
    /// How many rows the source said it had then.
    pub total: Option<u64>,
    /// Whether a refresh is running.
    pub refreshing: bool,
    /// How many refreshes have failed since the last one that went well.
    pub refresh_failures: u32,
    /// Why the last refresh failed; `None` once one went well.
    pub refresh_error: Option<Error>,
    /// Queries that the source is being asked for by [`on_query`](crate::LensBuilder::on_query), or is about to be.
    pub queries_under_way: usize,
    /// Writes in the queue or being delivered.
    pub pending_writes: usize,
    /// Whether no write is delivered for now, because the source can't be reached. It is tried again from time to time.
    pub writes_paused: bool,
    /// Writes that the journal knows: those that are pending, that failed and were not cleared, and confirmed ones whose effect
    /// the cache's files may not have yet.
    pub journaled_writes: usize,
    /// Writes that failed since the Dio was made.
    pub failed_writes: u64,
    /// Why the last failed write failed.
    pub write_error: Option<Error>,
    /// Why the cache can't be written, while it can't.
    pub cache_error: Option<Error>,
    /// Open table and value views.
    pub views: usize,
    /// Indexes behind them; views with equal queries share one.
    pub indexes: usize,
    /// Row versions that memory holds beyond the cache: not stored yet, or kept for a snapshot.
    pub rows_in_memory: usize,
    /// Snapshots held.
    pub snapshots: usize,
    /// Bytes kept for them.
    pub snapshot_bytes: usize,
    /// Bytes on their way to the cache.
    pub unstored_bytes: usize,
    /// Messages waiting for the core.
    pub inbox: usize,
    /// Whether it is closed, or being closed.
    pub closed: bool,
}

#[derive(Debug, Default)]
struct Inner {
    seq: Seq,
    rows: u64,
    complete: bool,
    warm_start: bool,
    last_refresh: Option<i64>,
    total: Option<u64>,
    refreshing: bool,
    refresh_failures: u32,
    refresh_error: Option<Error>,
    pending_writes: usize,
    counters: Counters,
    write_error: Option<Error>,
    views: (usize, usize),
    /// Where the reads under way began, and how many began there.
    reads: BTreeMap<Seq, usize>,
}

#[derive(Debug, Default)]
pub(crate) struct StateBoard(Mutex<Inner>);

impl StateBoard {
    pub(crate) fn new(state: &TableState, warm_start: bool) -> Arc<Self> {
        Arc::new(StateBoard(Mutex::new(Inner {
            seq: state.seq,
            rows: state.rows,
            complete: state.complete,
            warm_start,
            last_refresh: state.last_refresh,
            total: state.total,
            ..Inner::default()
        })))
    }

    // ---- the core's ----

    pub(crate) fn set_table(&self, seq: Seq, rows: u64, complete: bool, copy: Option<FullCopy>) {
        let mut inner = self.0.lock();
        inner.seq = seq;
        inner.rows = rows;
        inner.complete = complete;
        if let Some(copy) = copy {
            inner.last_refresh = Some(copy.at);
            inner.total = copy.total;
        }
    }

    /// A batch that changed so many rows is about to be published; there are `rows` afterwards.
    pub(crate) fn batch(&self, rows: u64, changed: usize, asked: usize) {
        let mut inner = self.0.lock();
        inner.rows = rows;
        inner.counters.batches += 1;
        inner.counters.changed_rows += changed as u64;
        inner.counters.indexes_asked += asked as u64;
    }

    /// A view's index is to be built, for the first time or again.
    pub(crate) fn build_began(&self, again: bool) {
        let mut inner = self.0.lock();
        if again {
            inner.counters.builds_restarted += 1;
        } else {
            inner.counters.builds += 1;
        }
    }

    pub(crate) fn set_pending(&self, pending: usize) {
        self.0.lock().pending_writes = pending;
    }

    pub(crate) fn set_views(&self, views: (usize, usize)) {
        self.0.lock().views = views;
    }

    pub(crate) fn delivered(&self) {
        self.0.lock().counters.writes_delivered += 1;
    }

    pub(crate) fn write_failed(&self, error: &Error) {
        let mut inner = self.0.lock();
        inner.counters.writes_failed += 1;
        inner.write_error = Some(error.clone());
    }

    pub(crate) fn oldest_read(&self) -> Option<Seq> {
        self.0.lock().reads.keys().next().copied()
    }

    // ---- the closing's ----

    /// Writes delivered and writes failed so far.
    pub(crate) fn write_counts(&self) -> (u64, u64) {
        let inner = self.0.lock();
        (inner.counters.writes_delivered, inner.counters.writes_failed)
    }

    // ---- the refresher's ----

    pub(crate) fn refresh_began(&self) {
        self.0.lock().refreshing = true;
    }

    pub(crate) fn refresh_ended(&self, result: Result<(), Error>) {
        let mut inner = self.0.lock();
        inner.refreshing = false;
        match result {
            Ok(()) => {
                inner.counters.refreshes += 1;
                inner.refresh_failures = 0;
                inner.refresh_error = None;
            }
            Err(error) => {
                inner.counters.refreshes_failed += 1;
                inner.refresh_failures += 1;
                inner.refresh_error = Some(error);
            }
        }
    }

    // ---- anyone's ----

    pub(crate) fn counters(&self) -> Counters {
        self.0.lock().counters
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.0.lock().complete
    }

    pub(crate) fn rows(&self) -> u64 {
        self.0.lock().rows
    }

    /// Notes a read of the source that begins at the Seq published now, until the token is dropped. The core asks for the
    /// oldest read after it has published: it sees this one, or this one sees that Seq.
    pub(crate) fn begin_read(self: &Arc<Self>, published: impl FnOnce() -> Seq) -> ReadToken {
        let mut inner = self.0.lock();
        let seq = published();
        *inner.reads.entry(seq).or_default() += 1;
        drop(inner);
        ReadToken { board: self.clone(), began: seq }
    }

    pub(crate) fn status(&self) -> DioStatus {
        let inner = self.0.lock();
        DioStatus {
            seq: inner.seq,
            rows: inner.rows,
            complete: inner.complete,
            warm_start: inner.warm_start,
            last_refresh: inner.last_refresh.map(time_of),
            total: inner.total,
            refreshing: inner.refreshing,
            refresh_failures: inner.refresh_failures,
            refresh_error: inner.refresh_error.clone(),
            queries_under_way: 0,
            pending_writes: inner.pending_writes,
            writes_paused: false,
            journaled_writes: 0,
            failed_writes: inner.counters.writes_failed,
            write_error: inner.write_error.clone(),
            cache_error: None,
            views: inner.views.0,
            indexes: inner.views.1,
            rows_in_memory: 0,
            snapshots: 0,
            snapshot_bytes: 0,
            unstored_bytes: 0,
            inbox: 0,
            closed: false,
        }
    }
}

/// A read of the source under way: what is written meanwhile is remembered until it ends.
pub(crate) struct ReadToken {
    board: Arc<StateBoard>,
    began: Seq,
}

impl ReadToken {
    pub(crate) fn began(&self) -> Seq {
        self.began
    }
}

impl Drop for ReadToken {
    fn drop(&mut self) {
        let mut inner = self.board.0.lock();
        if let Some(count) = inner.reads.get_mut(&self.began) {
            *count -= 1;
            if *count == 0 {
                inner.reads.remove(&self.began);
            }
        }
    }
}
