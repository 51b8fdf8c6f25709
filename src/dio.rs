//! Dio: one data source run through a Lens: its local copy, its threads, its queue, its views.
//!
//! Owner: the application and its facades hold handles; the last one dropped closes the Dio. Sceneries don't keep it alive.
//! Flow: reads answer from what the core has published; changes, writes and views are messages to the core.
//! Close/panic: `close` delivers what it can, wakes everyone and joins the threads.

pub(crate) mod board;
pub(crate) mod bus;
mod cache_handle;
pub(crate) mod callback;
mod check;
mod close;
pub(crate) mod core;
pub(crate) mod delivery;
mod diagnostics;
mod encode;
mod event;
mod flight;
pub(crate) mod fresh;
pub(crate) mod hot_tier;
mod inner;
pub(crate) mod ledger;
mod make;
pub(crate) mod meta;
mod outbox;
pub(crate) mod place;
pub(crate) mod queries;
mod reconcile;
mod refresh;
mod reload;
mod schedule;
mod shell;
mod source_call;
pub(crate) mod store;
mod ticket;
pub(crate) mod versions;
mod write_queue;
mod writer;

use std::collections::HashSet;
use std::fmt;
#[cfg(feature = "async")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::lens::{Lens, LensInner, WeakLens};
use crate::scenery::record::{RecordScenery, RecordSlot};
use crate::scenery::signal::{Dropped, Signal};
use crate::scenery::snapshot::RowReader;
use crate::scenery::table::TableSceneryBuilder;
use crate::scenery::value_builder::ValueSceneryBuilder;
#[cfg(feature = "async")]
use crate::sync::Reaching;
use crate::sync::{Rank, Role, Waited, Worker, deadline_after, may_wait_for, on_own_thread};
use crate::value::{Record, StoredRow};
use crate::vista::{CancelToken, ChangeEvent, Schema, Vista, WriteOp};
use crate::{Error, ErrorKind, Result, Seq};

pub use board::DioStatus;
pub(crate) use board::StateBoard;
pub(crate) use bus::EventHub;
pub use cache_handle::CacheHandle;
pub use close::CloseReport;
pub(crate) use close::with_time_to_end;
pub use diagnostics::{Counters, Diagnostics, StoreCounters, ViewInfo};
pub use event::{Cause, DioEvent};
pub(crate) use flight::Flight;
pub use hot_tier::{EnrichedRecord, HotTier};
pub(crate) use outbox::Failures;
pub use outbox::{FailedWrite, PendingWrite};
pub use shell::DioShell;
pub use ticket::{WriteOutcome, WriteState, WriteTicket};
pub(crate) use write_queue::WriteQueue;

use core::{Announce, CoreHandle, Message, NewWrite, RowChange};
use diagnostics::OpenViews;
use ledger::Ledger;
use queries::Queries;
use refresh::Refresher;
use versions::Versions;

/// When a change that the source itself tells of was read: only a pending write is newer.
const JUST_NOW: Seq = Seq(u64::MAX);

const OPEN: u8 = 0;
const CLOSING: u8 = 1;
const CLOSED: u8 = 2;

/// The parts of a Dio that its handles, views and threads share.
pub(crate) struct DioInner {
    pub(crate) lens: Arc<LensInner>,
    pub(crate) master: Vista,
    pub(crate) name: Arc<str>,
    pub(crate) schema: Arc<Schema>,
    /// How many Dios lie below this one.
    pub(crate) level: u32,
    pub(crate) reader: Arc<RowReader>,
    pub(crate) core: CoreHandle,
    pub(crate) events: Arc<EventHub<DioEvent>>,
    pub(crate) board: Arc<StateBoard>,
    writes: Arc<WriteQueue>,
    failures: Arc<Failures>,
    ledger: Arc<Ledger>,
    refresher: Refresher,
    /// Where the source is asked query by query, with `on_query`.
    queries: Option<Queries>,
    cancel: CancelToken,
    phase: AtomicU8,
    workers: Mutex<Vec<Arc<Worker>>>,
    writer_started: Mutex<bool>,
    handle: Mutex<WeakDio>,
    /// The first copy, until the first `make_dio` has taken it to wait for.
    first_copy: Mutex<Option<Arc<Flight>>>,
    /// Ids whose re-read is queued.
    reloads: Mutex<HashSet<Arc<str>>>,
    next_view: AtomicU64,
    /// How often views have moved. Each view's signal counts here after its generation has moved.
    view_moves: Arc<AtomicU64>,
    open_views: OpenViews,
    /// The last thread that ends lets go of the cache table and the seat.
    last_thread: Mutex<Option<Weak<make::LastThread>>>,
}

impl fmt::Debug for DioInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dio").field("table", &self.name).finish_non_exhaustive()
    }
}

/// Keeps a Dio alive.
struct Handle {
    inner: Arc<DioInner>,
    /// The Lens lives as long as its Dios.
    lens: Lens,
    /// Whether its drop closes the Dio.
    closes: bool,
    /// Whether the closing by the drop takes place on a thread of its own: an executor's thread is not to wait for it.
    #[cfg(feature = "async")]
    closes_behind: AtomicBool,
}

impl Handle {
    fn new(inner: Arc<DioInner>, lens: Lens, closes: bool) -> Self {
        Handle {
            inner,
            lens,
            closes,
            #[cfg(feature = "async")]
            closes_behind: AtomicBool::new(false),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.closes {
            return;
        }
        if on_own_thread() {
            self.inner.close_behind(&self.lens);
            return;
        }
        #[cfg(feature = "async")]
        if self.closes_behind.load(Ordering::Acquire) {
            self.inner.wait_until_accepted();
            self.inner.close_behind(&self.lens);
            return;
        }
        self.inner.close_on_drop();
    }
}

/// A handle that doesn't keep its Dio alive.
#[derive(Clone, Default)]
pub(crate) struct WeakDio {
    handle: Weak<Handle>,
    inner: Weak<DioInner>,
    lens: WeakLens,
}

impl WeakDio {
    pub(crate) fn upgrade(&self) -> Option<Dio> {
        self.handle.upgrade().filter(|handle| handle.inner.is_open()).map(|handle| Dio { handle })
    }

    /// Whether [`upgrade`](Self::upgrade) gives a handle.
    pub(crate) fn is_open(&self) -> bool {
        self.handle.strong_count() > 0 && self.inner.upgrade().is_some_and(|inner| inner.is_open())
    }

    /// A handle for a callback that runs while the Dio is being closed, too; dropping that one closes nothing.
    fn upgrade_or_revive(&self) -> Option<Dio> {
        if let Some(handle) = self.handle.upgrade() {
            return Some(Dio { handle });
        }
        // The last handle is being dropped, and waits for what is still to be delivered.
        let (inner, lens) = (self.inner.upgrade()?, self.lens.upgrade()?);
        Some(Dio { handle: Arc::new(Handle::new(inner, lens, false)) })
    }

    pub(crate) fn inner(&self) -> Option<Arc<DioInner>> {
        self.inner.upgrade()
    }

    pub(crate) fn is_same(&self, other: &WeakDio) -> bool {
        self.inner.ptr_eq(&other.inner)
    }
}

/// A write that was not taken into the queue, with the reason.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The write, as it was given.
    pub op: WriteOp,
    /// Why it was not taken.
    pub error: Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} was not taken: {}", self.op.verb(), self.error)
    }
}

/// What rises when there may be more room for a write than there was when these were taken.
#[cfg(feature = "async")]
pub(crate) struct SignsOfRoom {
    queue: Reaching,
    journal: Option<Reaching>,
    closing: Reaching,
}

#[cfg(feature = "async")]
impl SignsOfRoom {
    /// Those to wait for after an attempt that was refused as `Full`. One that the journal refuses gives its place in the
    /// queue back: that must not be its own sign to try again.
    pub(crate) fn of(self, full: &Error) -> Vec<Reaching> {
        match self.journal.filter(|_| full.context("setting") == Some("journal_capacity")) {
            Some(journal) => vec![journal, self.closing],
            None => vec![self.queue],
        }
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        refused.error
    }
}

/// One data source run through a Lens: a local copy that answers every read, a queue for writes, a refresh schedule, events
/// and views. A cheap clone; the last one dropped closes it.
#[derive(Clone)]
pub struct Dio {
    handle: Arc<Handle>,
}

impl fmt::Debug for Dio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dio").field("table", &self.inner().name).field("seq", &self.seq()).finish()
    }
}

impl Dio {
    pub(crate) fn inner(&self) -> &Arc<DioInner> {
        &self.handle.inner
    }

    pub(crate) fn downgrade(&self) -> WeakDio {
        WeakDio {
            handle: Arc::downgrade(&self.handle),
            inner: Arc::downgrade(self.inner()),
            lens: self.handle.lens.downgrade(),
        }
    }

    /// Has the drop of the last handle close the Dio on a thread of its own.
    #[cfg(feature = "async")]
    pub(crate) fn close_behind_when_dropped(&self) {
        self.handle.closes_behind.store(true, Ordering::Release);
    }

    // ---- what it is made of ------------------------------------------------------------------------------------

    /// The source itself. Calls to it go past the cache and may block for as long as the source takes.
    pub fn master(&self) -> &Vista {
        &self.inner().master
    }

    /// The Lens that made it.
    pub fn lens(&self) -> &Lens {
        &self.handle.lens
    }

    /// The local copy: reads answer at once, changes go through the core.
    pub fn cache(&self) -> CacheHandle {
        CacheHandle::new(self.inner().clone())
    }

    /// The name of the cache table: the source's name, and its query when it is narrowed.
    pub fn cache_table_name(&self) -> &str {
        &self.inner().name
    }

    /// The decoded rows that all views share.
    pub fn hot_tier(&self) -> &HotTier {
        &self.inner().reader.hot
    }

    /// The Dio as an ordinary source again: reads answer from the cache, also offline; writes go through the queue and wait
    /// for their settlement. Each is narrowed on its own, and keeps the Dio alive.
    pub fn vista(&self) -> Vista {
        Vista::new(DioShell::new(self.clone()))
    }

    // ---- views -------------------------------------------------------------------------------------------------

    /// Describes a table view: conditions, search, sort; then `open()`.
    pub fn table_scenery(&self) -> TableSceneryBuilder {
        TableSceneryBuilder::new(self.inner().clone())
    }

    /// Describes a value view: an aggregate and conditions; then `open()`.
    pub fn value_scenery(&self) -> ValueSceneryBuilder {
        ValueSceneryBuilder::new(self.inner().clone())
    }

    /// Follows one row by its id: `Fresh` when the cache has it, `NotFound` while it doesn't.
    ///
    /// # Errors
    /// `Invalid` for an empty id; `Closed`.
    pub fn record_scenery(&self, id: impl Into<Arc<str>>) -> Result<RecordScenery> {
        self.open_record(id.into(), None, self.inner().signal())
    }

    /// Follows one row, and shows the given fields at once: for a detail view opened from a row in hand. What the cache has
    /// takes their place.
    ///
    /// # Errors
    /// As [`record_scenery`](Self::record_scenery).
    pub fn record_scenery_with(&self, id: impl Into<Arc<str>>, record: Record) -> Result<RecordScenery> {
        self.open_record(id.into(), Some(record), self.inner().signal())
    }

    /// Follows one row, and moves `signal` with it. With a `given` row nothing is read here.
    pub(crate) fn open_record(
        &self,
        id: Arc<str>,
        given: Option<Record>,
        signal: impl Into<Arc<Signal>>,
    ) -> Result<RecordScenery> {
        let inner = self.inner();
        cache_handle::check_id(&id).map_err(|error| inner.name_error(error))?;
        let has_given = given.is_some();
        let now = hot_tier::time_of(inner.clock().wall_ms());
        let given = given.map(|record| EnrichedRecord::given(id.clone(), record, self.seq(), now));
        let dropped = Dropped::new(inner.core.bell().clone());
        let slot = Arc::new(RecordSlot::new(id, given, signal, dropped));
        if !has_given {
            slot.show(inner.find_now(&slot.id), self.seq());
        }
        let view = RecordScenery::new(slot.clone(), inner.reader.clone());
        let slot = inner.opening(format!("record {}", slot.id), &slot);
        inner.send(Message::OpenRecord { slot, given: has_given })?;
        Ok(view)
    }

    // ---- writing -----------------------------------------------------------------------------------------------

    /// Takes a write for the source, and shows it: every view has it when this returns, as
    /// [`PendingWrite`](crate::RowStatus::PendingWrite) until the source has confirmed it. A write that the source refuses is
    /// taken back. Waits for room in a full queue up to the Lens's `write_timeout` (not at all on the library's own
    /// threads), never for the source. The ticket says what becomes of it.
    ///
    /// # Errors
    /// `Unsupported`, `NotFound` or `Invalid` for a write that the source's capabilities or schema refuse; `Full`; `Closed`.
    /// A refused write leaves no trace.
    pub fn write(&self, op: WriteOp) -> Result<WriteTicket> {
        let timeout = self.handle.lens.defaults().write_timeout;
        self.enqueue(op, None, timeout)
    }

    /// [`write`](Self::write), and returns once the write is on the disk as well: it will be delivered, also after a crash. One
    /// wait for both, so it is what many threads at once should call that write to the disk: they share its syncs.
    ///
    /// # Errors
    /// As [`write`](Self::write); `Unsupported` when the cache is in memory, which promises nothing; why the disk doesn't take
    /// it, `WouldDeadlock` on one of the library's own threads. A refused write leaves no trace.
    ///
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("cache");
    /// use diorama::prelude::*;
    ///
    /// let source = MemoryVista::new("things", "id");
    /// let dio = Lens::new().cache_at(path).build()?.make_dio(source)?;
    /// let ticket = dio.write_durable(WriteOp::upsert("lamp", record! { "price" => 12 }))?;
    /// assert_eq!(dio.cache().get("lamp")?.and_then(|row| row.int("price")), Some(12));
    /// # let _ = ticket;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn write_durable(&self, op: WriteOp) -> Result<WriteTicket> {
        let inner = self.inner();
        let id = op.id().map(str::to_owned);
        let name = |error| inner.name_write(id.as_deref(), error);
        inner.can_be_durable().map_err(name)?;
        let ticket = self.begin_write(op, None, self.handle.lens.defaults().write_timeout)?;
        ticket.wait_durable_until(None).map_err(name)?;
        Ok(ticket)
    }

    /// [`write`](Self::write) under a key of the caller's. A write of this key that is on its way already is not made again.
    pub(crate) fn write_under(&self, key: &str, op: WriteOp) -> Result<WriteTicket> {
        let key = match self.inner().writes.of_key(key) {
            Some((made, ticket)) if made.clone().with_id("") == op.clone().with_id("") => return Ok(ticket),
            // Another write is not to pass for the first one.
            Some(_) => None,
            None => cache_handle::check_id(key).is_ok().then(|| Arc::from(key)),
        };
        let timeout = self.handle.lens.defaults().write_timeout;
        self.enqueue(op, key, timeout)
    }

    /// [`write`](Self::write), if there is room in the queue now.
    ///
    /// # Errors
    /// As [`write`](Self::write); the write comes back with the reason.
    pub fn try_write(&self, op: WriteOp) -> Result<WriteTicket, Box<Refused>> {
        let inner = self.inner();
        let kept = op.clone();
        let (new, receipt) = self.accept(op, None, Duration::ZERO).map_err(Box::new)?;
        match inner.stage(vec![new], std::slice::from_ref(&receipt)) {
            Ok(()) => Ok(receipt),
            Err(error) => Err(Box::new(Refused { error: inner.name_write(kept.id(), error), op: kept })),
        }
    }

    /// [`write_batch`](Self::write_batch), if there is room in the queue now.
    #[cfg(feature = "async")]
    pub(crate) fn try_write_batch(&self, ops: Vec<WriteOp>) -> Result<Vec<WriteTicket>> {
        self.enqueue_all(ops, Duration::ZERO)
    }

    /// Takes a write and has it shown, without waiting for that; what becomes of it its ticket says.
    pub(crate) fn begin_write(
        &self,
        op: WriteOp,
        key: Option<Arc<str>>,
        timeout: Duration,
    ) -> Result<WriteTicket, Refused> {
        let (new, receipt) = self.accept(op, key, timeout)?;
        self.inner().hand_over(vec![new]);
        Ok(receipt)
    }

    fn enqueue(&self, op: WriteOp, key: Option<Arc<str>>, timeout: Duration) -> Result<WriteTicket> {
        let inner = self.inner();
        let id = op.id().map(str::to_owned);
        let (new, receipt) = self.accept(op, key, timeout)?;
        inner
            .stage(vec![new], std::slice::from_ref(&receipt))
            .map_err(|error| inner.name_write(id.as_deref(), error))?;
        Ok(receipt)
    }

    /// Checks a write and takes its room.
    fn accept(
        &self,
        op: WriteOp,
        key: Option<Arc<str>>,
        timeout: Duration,
    ) -> Result<(NewWrite, WriteTicket), Refused> {
        let inner = self.inner();
        let ready = inner
            .check_write(&op)
            .and_then(|()| inner.start_writer(&self.downgrade()))
            .and_then(|()| inner.take_room(std::slice::from_ref(&op), timeout));
        let room = match ready {
            Ok(room) => room.into_iter().next().flatten(),
            Err(error) => return Err(Refused { error: inner.name_write(op.id(), error), op }),
        };
        Ok(inner.new_write(op, key, room))
    }

    fn enqueue_all(&self, ops: Vec<WriteOp>, timeout: Duration) -> Result<Vec<WriteTicket>> {
        let inner = self.inner();
        for op in &ops {
            inner.check_write(op).map_err(|error| inner.name_write(op.id(), error))?;
        }
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let ready = inner.start_writer(&self.downgrade()).and_then(|()| inner.take_room(&ops, timeout));
        let room = ready.map_err(|error| inner.name_error(error))?;
        let (new, receipts): (Vec<_>, Vec<_>) =
            ops.into_iter().zip(room).map(|(op, room)| inner.new_write(op, None, room)).unzip();
        inner.stage(new, &receipts).map_err(|error| inner.name_error(error))?;
        Ok(receipts)
    }

    // ---- freshness ---------------------------------------------------------------------------------------------

    /// Brings the cache up to date with the source: joins the refresh under way or starts one, and blocks until it has
    /// ended. Unchanged rows cost no write and move no view.
    ///
    /// # Errors
    /// What the refresh failed with; the rows stay as they were. `WouldDeadlock` inside a refresh or what one may wait for;
    /// `Closed`.
    pub fn refresh(&self) -> Result<()> {
        self.begin_refresh()?.wait()
    }

    /// The refresh that was under way or is now, for who may wait for it.
    pub(crate) fn begin_refresh(&self) -> Result<Arc<Flight>> {
        may_wait_for(Rank::new(self.inner().level, Role::Refresh), "a refresh")?;
        self.inner().refresher.refresh()
    }

    /// Makes the cache equal `rows`, which have just been read from the source: one event, one step of every view. Unchanged
    /// rows are not written; rows with a pending or newer local write are left alone. In a callback, the rows read since it
    /// began.
    ///
    /// # Errors
    /// `Invalid` for an empty or repeated id (nothing is changed); `Closed`; `WouldDeadlock` on the core's own threads.
    pub fn reconcile(&self, rows: Vec<(String, Record)>) -> Result<()> {
        let inner = self.inner();
        let mut rows = Some(rows);
        let joined = callback::with_open(inner, |batch| {
            let mut seen = HashSet::new();
            for (id, _) in rows.iter().flatten() {
                cache_handle::check_id(id)?;
                if !seen.insert(id.as_str()) {
                    return Err(Error::new(ErrorKind::Invalid, "this id is there twice; ids must be unique")
                        .with("id", id.clone()));
                }
            }
            drop(seen);
            batch.cleared = true;
            batch.rows.clear();
            batch.rows.extend(rows.take().into_iter().flatten().map(|(id, record)| (Arc::from(id), Some(record))));
            Ok(())
        });
        match (joined, rows) {
            (Some(result), _) => result.map_err(|error| inner.name_error(error)),
            (None, Some(rows)) => self.reconcile_as_of(self.seq(), rows),
            (None, None) => Ok(()),
        }
    }

    /// [`reconcile`](Self::reconcile) for rows whose read began at `began`, a [`seq`](Self::seq) taken before it: rows that
    /// were changed here since are left alone.
    ///
    /// # Errors
    /// As [`reconcile`](Self::reconcile); `Expired` when that is too long ago to know.
    pub fn reconcile_as_of(&self, began: Seq, rows: Vec<(String, Record)>) -> Result<()> {
        reconcile::reconcile(self.inner(), began, rows, Cause::Refresh, Announce::Once, true).map(drop)
    }

    /// Somebody else says that a row is this now: the whole row is replaced. Returns when it is visible; in a callback, at
    /// once.
    ///
    /// # Errors
    /// `Invalid` for an empty id; `Closed`; `WouldDeadlock` on the core's own threads.
    pub fn patched(&self, id: impl Into<Arc<str>>, record: Record) -> Result<()> {
        self.cache().insert_as(id.into(), record, Cause::Outside)
    }

    /// Takes in a change that the source tells of: by the Lens's `on_event`, on this thread, else by applying it; without a
    /// row in it, the row is read again behind.
    ///
    /// # Errors
    /// What `on_event` fails with (nothing it did is applied then); `Invalid`; `Closed`.
    pub fn handle_event(&self, event: ChangeEvent) -> Result<()> {
        let inner = self.inner();
        #[cfg(feature = "async")]
        if inner.lens.callbacks.on_event_is_async && !on_own_thread() {
            return crate::async_shim::callbacks::handle_event(self, event);
        }
        if let Some(on_event) = &inner.lens.callbacks.on_event {
            let ((), batch) = callback::run(inner, "on_event", || on_event(self, event))?;
            return match batch {
                Some(batch) => inner.apply_callback(batch, Cause::Outside, Announce::EachRow, false).map(drop),
                None => Ok(()),
            };
        }
        match event {
            ChangeEvent::Inserted { id, record: Some(record) } | ChangeEvent::Updated { id, record: Some(record) } => {
                cache_handle::check_id(&id)?;
                let row = StoredRow::encode(&id, &record, inner.clock().wall_ms());
                inner.change(vec![RowChange::Put(row)], Cause::Outside, Announce::EachRow, Some(JUST_NOW)).map(drop)
            }
            ChangeEvent::Inserted { id, record: None } | ChangeEvent::Updated { id, record: None } => {
                inner.reload(&Arc::from(id));
                Ok(())
            }
            ChangeEvent::Deleted { id } => {
                let change = vec![RowChange::Delete(Arc::from(id))];
                inner.change(change, Cause::Outside, Announce::EachRow, Some(JUST_NOW)).map(drop)
            }
            ChangeEvent::Invalidated => {
                self.invalidate_all();
                Ok(())
            }
        }
    }

    /// This row is not to be trusted: it is marked stale and read again behind. Returns at once.
    pub fn invalidate_record(&self, id: impl Into<Arc<str>>) {
        let id = id.into();
        if callback::with_open(self.inner(), |batch| batch.invalidated.push(id.clone())).is_none() {
            self.inner().invalidate(&[id], false);
        }
    }

    /// No row is to be trusted: all are marked stale, and the source is read again behind. Returns at once.
    pub fn invalidate_all(&self) {
        if callback::with_open(self.inner(), |batch| batch.all_invalidated = true).is_none() {
            self.inner().invalidate(&[], true);
        }
    }

    // ---- waiting and watching ----------------------------------------------------------------------------------

    /// A reader of every event from now on.
    pub fn subscribe_events(&self) -> bus::EventReader<DioEvent> {
        self.inner().events.subscribe()
    }

    /// The number of the last published batch: one atomic load. A frame loop asks [`view_moves`](Self::view_moves) instead:
    /// a batch is published a moment before the generations of its views move, and not every move of a view is a batch's.
    pub fn seq(&self) -> Seq {
        self.inner().published()
    }

    /// A number that rises whenever any view of this Dio moves its generation, also one that is opened later: one atomic load,
    /// however many views there are. It is the frame loop's question whether anything has changed at all.
    ///
    /// Ask it before the views' generations, and keep the answer: what moves afterwards makes it rise again. What it counts
    /// besides means nothing.
    ///
    /// ```
    /// use diorama::prelude::*;
    ///
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("things", "id"))?;
    /// let views = [dio.table_scenery().open()?, dio.table_scenery().where_eq("price", 3).open()?];
    /// let (mut asked, mut painted) = (u64::MAX, [Generation(u64::MAX); 2]);
    /// let mut frame = || {
    ///     let moves = dio.view_moves();
    ///     if moves == asked {
    ///         return 0; // No view has moved since the last frame.
    ///     }
    ///     asked = moves;
    ///     let mut repainted = 0;
    ///     for (view, painted) in views.iter().zip(&mut painted) {
    ///         if view.generation() != *painted {
    ///             *painted = view.snapshot().generation();
    ///             repainted += 1;
    ///         }
    ///     }
    ///     repainted
    /// };
    /// assert_eq!((frame(), frame()), (2, 0));
    /// dio.patched("a", record! { "price" => 2 })?;
    /// assert_eq!(frame(), 1);
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn view_moves(&self) -> u64 {
        self.inner().view_moves.load(Ordering::Acquire)
    }

    /// Blocks until the batch `seq` is published, also for views that it didn't touch. `None` waits without limit.
    ///
    /// # Errors
    /// `Timeout`; `Closed`; `WouldDeadlock` on a thread that the batch may be waiting for.
    pub fn wait_for_seq(&self, seq: Seq, timeout: Option<Duration>) -> Result<Seq> {
        let inner = self.inner();
        if inner.published() < seq {
            may_wait_for(Rank::new(inner.level, Role::Writer), "a change of the rows")?;
        }
        match inner.reader.versions.published_notifier().wait_until(seq.0, timeout) {
            Waited::Reached(seq) => Ok(Seq(seq)),
            Waited::Closed(_) => Err(inner.name_error(Error::new(ErrorKind::Closed, "the Dio is closed"))),
            Waited::TimedOut(_) => Err(Error::new(ErrorKind::Timeout, "the batch was not there within the time given")),
        }
    }

    /// How it is doing. Doesn't block.
    pub fn status(&self) -> DioStatus {
        self.inner().status()
    }

    /// Blocks until every change made before is in the cache's files. In memory there is nothing to wait for but the queue.
    ///
    /// # Errors
    /// Why the cache can't be written; its rows stay in memory and are tried again at the next flush. `WouldDeadlock` on the
    /// store's own thread; `Closed`.
    pub fn flush(&self) -> Result<()> {
        let inner = self.inner();
        let flusher = inner.store()?.flusher();
        let is_wanted = || inner.phase.load(Ordering::Acquire) != CLOSED;
        flusher.flush_while(&is_wanted).map_err(|error| inner.name_error(error))
    }

    /// Closes the Dio, whoever else holds handles: refuses new work, delivers what it can in time, wakes everyone who waits,
    /// ends the threads. Views keep their order and the rows in memory; the rest says `Closed`.
    ///
    /// # Errors
    /// `WouldDeadlock` on one of the library's own threads.
    pub fn close(&self, timeout: Duration) -> Result<CloseReport> {
        may_wait_for(Rank::above_all(), "the closing of a Dio")?;
        Ok(self.inner().close_until(deadline_after(timeout)))
    }
}

/// Reads at the newest published Seq. Without a pin, what a later batch replaced may be gone from memory in the middle of
/// the read, and the cache may still hold something older: such a read is repeated, under a pin.
pub(crate) fn at_newest<T>(versions: &Arc<Versions>, read: impl Fn(Seq) -> Result<T>) -> Result<T> {
    let seq = versions.published();
    let answer = read(seq)?;
    if versions.published() == seq {
        return Ok(answer);
    }
    let pin = versions.pin_to_read();
    read(pin.seq())
}

#[cfg(all(test, feature = "lmdb"))]
mod journal_fault_tests;
#[cfg(all(test, target_os = "linux", feature = "lmdb"))]
mod storage_crash_tests;
#[cfg(all(test, feature = "lmdb"))]
mod storage_fault_tests;
#[cfg(test)]
mod tests;
