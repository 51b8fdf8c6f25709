//! Record scenery: one row, followed by its id.
//!
//! Owner: the core shows what it published; handles read.
//! Invariants: another row's change doesn't move it; a deleted row is `NotFound`, an inserted one `Fresh` again
//! (`a_record_view_follows_its_row_only`).

use std::sync::Arc;

use parking_lot::Mutex;

use crate::dio::core::{ViewLook, ViewSlot};
use crate::dio::hot_tier::{EnrichedRecord, STATUS_PENDING, STATUS_STALE};
use crate::scenery::signal::{DropGuard, Dropped, Scenery, Signal};
use crate::scenery::snapshot::RowReader;
use crate::value::{Record, StoredRow};
use crate::{Error, Result, RowNo, Seq};

/// How a followed row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordStatus {
    /// The row is shown as the source last told it.
    Fresh,
    /// The row is shown and is to be read again.
    Stale,
    /// The row is shown with writes of this program that the source has not confirmed yet.
    PendingWrite,
    /// There is no such row.
    NotFound,
    /// The row could not be read; the last one stays.
    Error,
}

enum Shown {
    Nothing,
    Given(Arc<EnrichedRecord>),
    Stored(RowNo, StoredRow),
}

struct RecordState {
    shown: Shown,
    status: RecordStatus,
    error: Option<Error>,
    seq: Seq,
}

/// The core's and the handles' common part of a record view.
pub(crate) struct RecordSlot {
    pub(crate) id: Arc<str>,
    state: Mutex<RecordState>,
    /// A draft's outlives the row that it follows, and moves with the draft, too.
    pub(crate) signal: Arc<Signal>,
    pub(crate) dropped: Arc<Dropped>,
}

impl RecordSlot {
    pub(crate) fn new(
        id: Arc<str>,
        given: Option<EnrichedRecord>,
        signal: impl Into<Arc<Signal>>,
        dropped: Arc<Dropped>,
    ) -> Self {
        let status = if given.is_some() { RecordStatus::Fresh } else { RecordStatus::NotFound };
        let shown = given.map_or(Shown::Nothing, |record| Shown::Given(Arc::new(record)));
        let state = RecordState { shown, status, error: None, seq: Seq(0) };
        RecordSlot { id, state: Mutex::new(state), signal: signal.into(), dropped }
    }

    /// Shows the row as of `seq`; says whether anything shown moved, for [`advance`](Self::advance) to tell.
    pub(crate) fn show(&self, row: Result<Option<(RowNo, StoredRow)>>, seq: Seq) -> bool {
        let mut state = self.state.lock();
        state.seq = seq;
        let status_before = state.status;
        let mut moved = false;
        match row {
            Ok(Some((row_no, stored))) => {
                state.status = status_of(&stored, Seq(0));
                moved = !matches!(&state.shown, Shown::Stored(row, old) if *row == row_no && old.seq() == stored.seq());
                state.shown = Shown::Stored(row_no, stored);
                state.error = None;
            }
            Ok(None) => {
                state.status = RecordStatus::NotFound;
                state.shown = Shown::Nothing;
                state.error = None;
            }
            Err(error) => {
                state.status = RecordStatus::Error;
                state.error = Some(error);
            }
        }
        moved || state.status != status_before
    }

    /// Rows up to this Seq are stale, or none is any more.
    pub(crate) fn set_stale(&self, upto: Seq) -> bool {
        let mut state = self.state.lock();
        let Shown::Stored(_, stored) = &state.shown else { return false };
        let status = status_of(stored, upto);
        let moved = state.status != status && state.status != RecordStatus::Error;
        if moved {
            state.status = status;
        }
        moved
    }

    pub(crate) fn advance(&self) {
        self.signal.advance();
    }
}

/// How a row stands when rows up to `stale_upto` are stale.
fn status_of(stored: &StoredRow, stale_upto: Seq) -> RecordStatus {
    match stored.status() {
        STATUS_PENDING => RecordStatus::PendingWrite,
        STATUS_STALE => RecordStatus::Stale,
        _ if stored.seq() <= stale_upto => RecordStatus::Stale,
        _ => RecordStatus::Fresh,
    }
}

impl ViewSlot for RecordSlot {
    fn close(&self) {
        self.signal.close();
    }

    fn look(&self) -> ViewLook {
        let state = self.state.lock();
        let words = match &state.error {
            Some(error) => format!("error: {error}"),
            None => format!("{:?}", state.status).to_lowercase(),
        };
        ViewLook { generation: self.signal.generation(), seq: state.seq, rows: None, state: words }
    }

    fn is_dropped(&self) -> bool {
        self.dropped.is_set()
    }
}

struct Handle {
    slot: Arc<RecordSlot>,
    reader: Arc<RowReader>,
    _guard: DropGuard,
}

/// A reactive view of one row. Cheap to clone; the core forgets it when the last clone is dropped.
#[derive(Clone)]
pub struct RecordScenery(Arc<Handle>);

impl std::fmt::Debug for RecordScenery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordScenery").field("id", &self.id()).field("status", &self.status()).finish()
    }
}

impl RecordScenery {
    pub(crate) fn new(slot: Arc<RecordSlot>, reader: Arc<RowReader>) -> Self {
        let guard = slot.dropped.guard();
        RecordScenery(Arc::new(Handle { slot, reader, _guard: guard }))
    }

    /// The id it follows.
    pub fn id(&self) -> &str {
        &self.0.slot.id
    }

    /// How the row stands. Doesn't block.
    pub fn status(&self) -> RecordStatus {
        self.0.slot.state.lock().status
    }

    /// The row with everything known about it; `None` when there is none. Doesn't block.
    pub fn enriched(&self) -> Option<Arc<EnrichedRecord>> {
        self.look().1
    }

    /// How the row stands, and that very row.
    pub(crate) fn look(&self) -> (RecordStatus, Option<Arc<EnrichedRecord>>) {
        let state = self.0.slot.state.lock();
        let status = state.status;
        let (row_no, stored) = match &state.shown {
            Shown::Nothing => return (status, None),
            Shown::Given(record) => return (status, Some(record.clone())),
            Shown::Stored(row_no, stored) => (*row_no, stored.clone()),
        };
        drop(state);
        let hot = &self.0.reader.hot;
        (status, hot.get(row_no, stored.seq()).or_else(|| hot.fill(row_no, &stored).ok()))
    }

    /// The row's fields; `None` when there is no such row. Doesn't block.
    pub fn record(&self) -> Option<Record> {
        self.enriched().map(|record| record.record().clone())
    }

    /// Why the row could not be read, when the status says so.
    pub fn error(&self) -> Option<Error> {
        self.0.slot.state.lock().error.clone()
    }

    /// The batch that last had a part in what is shown.
    pub fn seq(&self) -> Seq {
        self.0.slot.state.lock().seq
    }
}

impl Scenery for RecordScenery {
    fn signal(&self) -> &Signal {
        &self.0.slot.signal
    }
}

#[cfg(test)]
mod tests;
