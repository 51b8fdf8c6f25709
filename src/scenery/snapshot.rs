//! Snapshot: a table view as it was at one Seq, order and contents, whatever happens later.
//!
//! Owner: the core publishes roots; a snapshot holds one root and a pin on its Seq, and belongs to whoever took it.
//! Invariants:
//! 1. No answer of a snapshot changes after it was taken; what the budget took answers `Expired`, never newer content.
//! 2. Published roots don't pin; snapshots handed out do.
//!
//! Not here: how the root came to be (`core`), differences of roots (`changes`).

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::dio::Cause;
use crate::dio::core::{ViewLook, ViewSlot};
use crate::dio::hot_tier::{EnrichedRecord, HotTier};
use crate::dio::versions::{Pin, RowRead, Versions};
use crate::scenery::index::key::Entry;
use crate::scenery::index::tree::{Iter, Tree};
use crate::scenery::signal::{Dropped, Signal, closed};
use crate::scenery::view_query::ViewQuery;
use crate::sync::{Notifier, Waited};
use crate::value::{Record, Value};
use crate::{Error, ErrorKind, Generation, Result, RowNo, Seq};

/// How far a table view has been filled.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LoadState {
    /// The cache doesn't hold the whole table yet, or the view's order is still being made. With
    /// [`on_query`](crate::LensBuilder::on_query): the source is being asked for the rows of the view.
    Loading,
    /// The view shows everything there is.
    Ready,
    /// The view could not be filled, or the source could not be asked for its rows: what it shows may not be all there is.
    Failed(Error),
}

impl LoadState {
    pub(crate) fn same_as(&self, other: &LoadState) -> bool {
        matches!(
            (self, other),
            (LoadState::Loading, LoadState::Loading)
                | (LoadState::Ready, LoadState::Ready)
                | (LoadState::Failed(_), LoadState::Failed(_))
        )
    }
}

/// How a row stands to its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RowStatus {
    /// As the source last told it.
    Fresh,
    /// It is to be read again.
    Stale,
    /// It shows writes of this program that the source has not confirmed yet.
    PendingWrite,
    /// The snapshot outlived its budget and this row was overwritten since.
    Expired,
    /// The Dio is closed and the row is not in memory.
    Closed,
    /// The row could not be read.
    Failed,
}

/// One published state of a table view.
pub(crate) struct Root {
    pub(crate) generation: Generation,
    pub(crate) seq: Seq,
    pub(crate) tree: Tree<Entry>,
    pub(crate) query: Arc<ViewQuery>,
    pub(crate) load: LoadState,
    /// Rows up to this Seq are stale.
    pub(crate) stale_upto: Seq,
    /// Roots of different epochs have no index-exact difference.
    pub(crate) epoch: u64,
    /// How many entries differ from the root before.
    pub(crate) changed: usize,
    /// Why it differs from the root before, if there is one reason.
    pub(crate) cause: Option<Cause>,
    /// The first rows of what the view is to show, while the rest is made.
    pub(crate) first: Option<Arc<FirstPart>>,
}

impl Root {
    /// The next state of a view, which shows the same as this one but for the first rows of what it is to show.
    pub(crate) fn with_first(&self, first: Option<Arc<FirstPart>>, seq: Seq, stale_upto: Seq) -> Self {
        Root {
            generation: self.generation.next(),
            seq,
            tree: self.tree.clone(),
            query: self.query.clone(),
            load: self.load.clone(),
            stale_upto,
            epoch: self.epoch,
            changed: 0,
            cause: None,
            first,
        }
    }
}

impl Root {
    /// The next state of a view, which shows the same rows as this one.
    pub(crate) fn with_load(&self, load: LoadState, seq: Seq, stale_upto: Seq) -> Self {
        Root { load, ..self.with_first(self.first.clone(), seq, stale_upto) }
    }
}

/// The first entries of an order that is still being made.
pub(crate) struct FirstPart {
    pub(crate) tree: Tree<Entry>,
    pub(crate) query: Arc<ViewQuery>,
}

/// The published states of a view: the newest, and the recent ones that `changes_since` can start from.
pub(crate) struct RootSlot {
    roots: Mutex<Roots>,
}

struct Roots {
    kept: VecDeque<Arc<Root>>,
    /// How many entries they differ by: what changed with each of them but the oldest.
    changes: usize,
}

/// Roots kept for `changes_since`, the newest included.
const RECENT_ROOTS: usize = 256;
/// Entries that the kept roots may differ by: each costs a part of the tree, 2 KiB at the most.
const RECENT_CHANGES: usize = 8_192;

impl RootSlot {
    pub(crate) fn new(first: Root) -> Self {
        RootSlot { roots: Mutex::new(Roots { kept: VecDeque::from([Arc::new(first)]), changes: 0 }) }
    }

    pub(crate) fn newest(&self) -> Arc<Root> {
        let roots = &self.roots.lock().kept;
        // A slot is made with a root and never loses its newest one.
        Arc::clone(&roots[roots.len() - 1])
    }

    pub(crate) fn of_generation(&self, generation: Generation) -> Option<Arc<Root>> {
        let roots = &self.roots.lock().kept;
        let position = roots.binary_search_by_key(&generation, |root| root.generation).ok()?;
        roots.get(position).cloned()
    }

    /// Why the states after `from` up to `to` came to be, if all have the same reason.
    pub(crate) fn cause_between(&self, from: Generation, to: Generation) -> Option<Cause> {
        let roots = &self.roots.lock().kept;
        let mut causes =
            roots.iter().filter(|root| from < root.generation && root.generation <= to).map(|root| root.cause);
        let first = causes.next()??;
        causes.all(|cause| cause == Some(first)).then_some(first)
    }

    /// Publishes a root; those that are kept no longer are given back, to be dropped outside the lock.
    pub(crate) fn publish(&self, root: Root) -> Gone {
        let mut roots = self.roots.lock();
        let Roots { kept, changes } = &mut *roots;
        let last = kept.back().map(|root| root.epoch);
        let mut gone = Gone::default();
        if last.is_some_and(|epoch| epoch != root.epoch) {
            for old in kept.drain(..) {
                gone.entries = gone.entries.max(old.tree.len());
                gone.roots.push(old);
            }
        }
        *changes = if kept.is_empty() { 0 } else { *changes + root.changed };
        kept.push_back(Arc::new(root));
        while kept.len() > RECENT_ROOTS || (kept.len() > 2 && *changes > RECENT_CHANGES) {
            let Some(oldest) = kept.pop_front() else { break };
            let differs = kept.front().map_or(0, |root| root.changed);
            *changes -= differs;
            gone.entries += differs;
            gone.roots.push(oldest);
        }
        gone
    }
}

/// Roots that a view keeps no longer, to be dropped.
#[derive(Default)]
pub(crate) struct Gone {
    roots: Vec<Arc<Root>>,
    /// About how many entries nobody but them holds.
    entries: usize,
}

impl Gone {
    pub(crate) fn add(&mut self, mut other: Gone) {
        self.roots.append(&mut other.roots);
        self.entries += other.entries;
    }

    /// About how many entries go with them, unless somebody else holds them.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }
}

/// What every read of rows needs.
pub(crate) struct RowReader {
    pub(crate) table: Arc<str>,
    pub(crate) versions: Arc<Versions>,
    pub(crate) hot: HotTier,
}

impl RowReader {
    pub(crate) fn row(&self, row: RowNo, version: Seq, stale_upto: Seq) -> Row {
        let state = match self.hot.get(row, version) {
            Some(record) => RowState::Here(record),
            None => match self.load(row, version) {
                Ok(Some(record)) => RowState::Here(record),
                Ok(None) => RowState::Expired,
                Err(error) if error.kind() == ErrorKind::Closed => RowState::Closed,
                Err(error) => RowState::Failed(error.with("table", self.table.to_string())),
            },
        };
        Row { state, table_stale: version <= stale_upto }
    }

    fn load(&self, row: RowNo, version: Seq) -> Result<Option<Arc<EnrichedRecord>>> {
        match self.versions.row_exact(row, version)? {
            RowRead::Found(stored) => self.hot.fill(row, &stored).map(Some),
            RowRead::Absent | RowRead::Expired => Ok(None),
        }
    }

    fn row_in_memory(&self, row: RowNo, version: Seq, stale_upto: Seq) -> Option<Row> {
        let record = match self.hot.get(row, version) {
            Some(record) => record,
            None => {
                let stored = self.versions.row_in_memory(row, version)?;
                self.hot.fill(row, &stored).ok()?
            }
        };
        Some(Row { state: RowState::Here(record), table_stale: version <= stale_upto })
    }
}

#[derive(Debug, Clone)]
enum RowState {
    Here(Arc<EnrichedRecord>),
    Expired,
    Closed,
    Failed(Error),
}

/// One row of a snapshot. A row that can't be read any more says so in its [`status`](Row::status).
#[derive(Debug, Clone)]
pub struct Row {
    state: RowState,
    table_stale: bool,
}

impl Row {
    fn here(&self) -> Option<&Arc<EnrichedRecord>> {
        match &self.state {
            RowState::Here(record) => Some(record),
            _ => None,
        }
    }

    /// How the row stands to its source.
    pub fn status(&self) -> RowStatus {
        match &self.state {
            RowState::Here(record) if record.pending => RowStatus::PendingWrite,
            RowState::Here(record) if record.stale || self.table_stale => RowStatus::Stale,
            RowState::Here(_) => RowStatus::Fresh,
            RowState::Expired => RowStatus::Expired,
            RowState::Closed => RowStatus::Closed,
            RowState::Failed(_) => RowStatus::Failed,
        }
    }

    /// The row's id; empty when the row can't be read.
    pub fn id(&self) -> &str {
        self.here().map_or("", |record| record.id())
    }

    /// The row's fields.
    ///
    /// # Errors
    /// `Expired`, `Closed`, or why the row could not be read.
    pub fn record(&self) -> Result<&Record> {
        self.enriched().map(|record| record.record())
    }

    /// The row with everything known about it.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn enriched(&self) -> Result<&Arc<EnrichedRecord>> {
        match &self.state {
            RowState::Here(record) => Ok(record),
            RowState::Expired => Err(Error::new(
                ErrorKind::Expired,
                "the row was overwritten and the snapshot is beyond its budget; take a new snapshot",
            )),
            RowState::Closed => Err(closed()),
            RowState::Failed(error) => Err(error.clone()),
        }
    }

    /// The value at a column or dotted path; `None` when there is none, or the row can't be read.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.here()?.record().get_path(path)
    }

    /// A text column's value.
    pub fn text(&self, column: &str) -> Option<&str> {
        self.here()?.record().text(column)
    }

    /// An integer column's value.
    pub fn int(&self, column: &str) -> Option<i64> {
        self.here()?.record().int(column)
    }

    /// A number column's value as a float.
    pub fn float(&self, column: &str) -> Option<f64> {
        self.here()?.record().float(column)
    }

    /// A boolean column's value.
    pub fn bool(&self, column: &str) -> Option<bool> {
        self.here()?.record().bool(column)
    }

    /// When the row was fetched from the source.
    pub fn fetched_at(&self) -> Option<SystemTime> {
        self.here().map(|record| record.fetched_at())
    }
}

struct Inner {
    root: Arc<Root>,
    pin: Pin,
    reader: Arc<RowReader>,
}

/// A table view, frozen at one [`Seq`]: order, count and contents. Cheap to take and to clone; dropping the last clone
/// lets go of what it kept.
#[derive(Clone)]
pub struct TableSnapshot(Arc<Inner>);

impl fmt::Debug for TableSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableSnapshot")
            .field("seq", &self.seq())
            .field("generation", &self.generation())
            .field("rows", &self.row_count())
            .finish()
    }
}

impl TableSnapshot {
    pub(crate) fn take(slot: &RootSlot, reader: &Arc<RowReader>) -> Self {
        let (pin, root) = reader.versions.pin_with(|| {
            let root = slot.newest();
            let seq = root.seq;
            (root, seq)
        });
        TableSnapshot(Arc::new(Inner { root, pin, reader: reader.clone() }))
    }

    /// The first rows of what the view is to show, if it has them and not yet all.
    pub(crate) fn take_first(slot: &RootSlot, reader: &Arc<RowReader>) -> Option<Self> {
        slot.newest().first.as_ref()?;
        let (pin, root) = reader.versions.pin_with(|| {
            let root = slot.newest();
            let seq = root.seq;
            (root, seq)
        });
        let first = root.first.as_ref()?;
        let root = Root {
            generation: root.generation,
            seq: root.seq,
            tree: first.tree.clone(),
            query: first.query.clone(),
            load: LoadState::Loading,
            stale_upto: root.stale_upto,
            epoch: root.epoch,
            changed: 0,
            cause: None,
            first: None,
        };
        Some(TableSnapshot(Arc::new(Inner { root: Arc::new(root), pin, reader: reader.clone() })))
    }

    /// A snapshot of a root that no view publishes. The root's rows must be the newest published ones.
    pub(crate) fn of_root(root: Root, reader: &Arc<RowReader>) -> Self {
        let (pin, ()) = reader.versions.pin_with(|| ((), root.seq));
        TableSnapshot(Arc::new(Inner { root: Arc::new(root), pin, reader: reader.clone() }))
    }

    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.0.root
    }

    /// How many rows it has.
    pub fn row_count(&self) -> usize {
        self.0.root.tree.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.row_count() == 0
    }

    /// The row at a position; `None` past the end. Reads memory, and the cache for a row that is not in it.
    pub fn row(&self, index: usize) -> Option<Row> {
        let entry = self.0.root.tree.get(index)?;
        Some(self.0.reader.row(entry.row, entry.version, self.0.root.stale_upto))
    }

    /// The row at a position if memory has it. Never touches the disk.
    pub fn try_row(&self, index: usize) -> Option<Row> {
        let entry = self.0.root.tree.get(index)?;
        self.0.reader.row_in_memory(entry.row, entry.version, self.0.root.stale_upto)
    }

    /// The rows of a range of positions, as far as there are any: O(log n) to begin, then O(1) a row.
    pub fn rows(&self, range: Range<usize>) -> Rows<'_> {
        let left = range.end.min(self.row_count()).saturating_sub(range.start);
        Rows { entries: self.0.root.tree.iter_from(range.start), left, snapshot: &self.0 }
    }

    /// All rows in order.
    pub fn iter(&self) -> Rows<'_> {
        self.rows(0..self.row_count())
    }

    /// The position of the row with this id: O(log n). `None`: it is not in the view (or the id was deleted or
    /// passed on since, and the snapshot is beyond its budget).
    ///
    /// # Errors
    /// `Closed`, or why the cache could not be read.
    pub fn position_of(&self, id: &str) -> Result<Option<usize>> {
        let Inner { root, pin, reader } = &*self.0;
        let Some(row_no) = reader.versions.lookup_as_of(id, pin.seq())? else { return Ok(None) };
        let row = reader.versions.row_as_of(row_no, pin.seq())?;
        if pin.is_expired() {
            // What an id named then may be gone, too: a row that doesn't bear it may have taken it since.
            let bears_it = match &row {
                RowRead::Found(stored) => stored.id() == id,
                _ => reader.versions.row_newest(row_no)?.is_some_and(|stored| stored.id() == id),
            };
            if !bears_it {
                return Ok(None);
            }
        }
        let found = match row {
            RowRead::Found(stored) => root.tree.find(&root.query.entry(row_no, &stored, &mut Vec::new())).ok(),
            RowRead::Absent | RowRead::Expired => None,
        };
        Ok(match found {
            // The content may be gone, and with it the sort key; or the cache told an older one. The order is still there.
            None if pin.is_expired() => root.tree.iter().position(|entry| entry.row == row_no),
            found => found,
        })
    }

    /// The Seq at which it is frozen.
    pub fn seq(&self) -> Seq {
        self.0.pin.seq()
    }

    /// The generation of the view that it shows.
    pub fn generation(&self) -> Generation {
        self.0.root.generation
    }

    /// How far the view had been filled.
    pub fn load_state(&self) -> &LoadState {
        &self.0.root.load
    }

    /// Whether the budget took content that this snapshot would still need: rows overwritten since answer `Expired`.
    pub fn is_expired(&self) -> bool {
        self.0.pin.is_expired()
    }
}

/// The first rows of what a table view is about to show, while the rest of its order is still being made; see
/// [`TableScenery::first_rows`](crate::TableScenery::first_rows). Frozen, as a [`TableSnapshot`] is. How many rows follow is
/// not known yet.
#[derive(Debug, Clone)]
pub struct FirstRows(pub(crate) TableSnapshot);

impl FirstRows {
    /// How many there are: the first screens, not the whole.
    pub fn len(&self) -> usize {
        self.0.row_count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The row at a position from the beginning of the new order; `None` past those that are known. Reads memory, and the
    /// cache for a row that is not in it.
    pub fn row(&self, index: usize) -> Option<Row> {
        self.0.row(index)
    }

    /// The rows in order.
    pub fn iter(&self) -> Rows<'_> {
        self.0.iter()
    }

    /// The Seq at which they are frozen.
    pub fn seq(&self) -> Seq {
        self.0.seq()
    }
}

/// The rows of a range of a snapshot, in order.
pub struct Rows<'a> {
    entries: Iter<'a, Entry, 32>,
    left: usize,
    snapshot: &'a Inner,
}

impl fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("left", &self.left).finish()
    }
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.left == 0 {
            return None;
        }
        let entry = self.entries.next()?;
        self.left -= 1;
        Some(self.snapshot.reader.row(entry.row, entry.version, self.snapshot.root.stale_upto))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Rows<'_> {}

/// The core's and the handles' common part of a table view.
pub(crate) struct TableSlot {
    pub(crate) roots: RootSlot,
    pub(crate) signal: Signal,
    pub(crate) dropped: Arc<Dropped>,
    pub(crate) queries: QueryProgress,
}

impl ViewSlot for TableSlot {
    fn close(&self) {
        self.signal.close();
        self.queries.close();
    }

    fn look(&self) -> ViewLook {
        let root = self.roots.newest();
        let state = match &root.load {
            LoadState::Loading => "loading".to_owned(),
            LoadState::Ready => "ready".to_owned(),
            LoadState::Failed(error) => format!("failed: {error}"),
        };
        ViewLook { generation: root.generation, seq: root.seq, rows: Some(root.tree.len()), state }
    }

    fn is_dropped(&self) -> bool {
        self.dropped.is_set()
    }
}

/// How many of a view's queries have landed or failed, and the last failure.
pub(crate) struct QueryProgress {
    landed: Notifier,
    failure: Mutex<Option<(u64, Error)>>,
}

impl QueryProgress {
    pub(crate) fn new() -> Self {
        QueryProgress { landed: Notifier::new(0), failure: Mutex::new(None) }
    }

    pub(crate) fn ended(&self, request: u64, result: Result<()>) {
        *self.failure.lock() = result.err().map(|error| (request, error));
        self.landed.advance_to(request);
    }

    pub(crate) fn close(&self) {
        self.landed.close();
    }

    /// The number of the last request that landed or failed.
    pub(crate) fn landed(&self) -> &Notifier {
        &self.landed
    }

    pub(crate) fn has_landed(&self, request: u64) -> bool {
        self.landed.get() >= request
    }

    pub(crate) fn wait(&self, request: u64, timeout: Option<Duration>) -> Result<()> {
        match self.landed.wait_until(request, timeout) {
            Waited::Reached(_) => match &*self.failure.lock() {
                Some((failed, error)) if *failed >= request => Err(error.clone()),
                _ => Ok(()),
            },
            Waited::Closed(_) => Err(closed()),
            Waited::TimedOut(_) => Err(Error::new(ErrorKind::Timeout, "the view was not ready within the time given")),
        }
    }
}
