//! Table scenery: the rows of a Dio, filtered, searched and sorted, as a list that a screen can show.
//!
//! Owner: the core publishes; handles read, wait and ask for another query.
//! Invariants: old snapshot + changes == new snapshot (`old_rows_and_changes_make_the_new_rows`); a setter on one view never
//! alters another; a superseded request never lands.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::dio::core::{Message, Opening, ViewId};
use crate::dio::queries::Inquiry;
use crate::dio::{Cause, DioInner};
use crate::scenery::changes::{Change, change_list};
use crate::scenery::cut::Cut;
use crate::scenery::index::tree::Tree;
use crate::scenery::signal::{DropGuard, Dropped, Scenery, Signal};
use crate::scenery::snapshot::{FirstRows, LoadState, QueryProgress, Root, RootSlot, Row, TableSlot, TableSnapshot};
#[cfg(feature = "async")]
use crate::sync::Notifier;
use crate::sync::{Rank, Role, deadline_after, may_wait_for, time_left};
use crate::value::IntoValue;
use crate::vista::{Condition, QueryDescriptor, SortBy, SortDir};
use crate::{Generation, Result, Seq};

/// Describes a table view before it is opened: [`Dio::table_scenery`](crate::Dio::table_scenery).
#[must_use = "nothing is opened before `open` or `open_now`"]
#[derive(Debug, Clone)]
pub struct TableSceneryBuilder {
    dio: Arc<DioInner>,
    query: QueryDescriptor,
    cut: Cut,
}

impl TableSceneryBuilder {
    pub(crate) fn new(dio: Arc<DioInner>) -> Self {
        TableSceneryBuilder { dio, query: QueryDescriptor::default(), cut: Cut::Nothing }
    }

    /// Only rows whose column (or dotted path) equals this value.
    pub fn where_eq(self, path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        self.condition(Condition::eq(path, value))
    }

    /// Only rows for which this holds too.
    pub fn condition(mut self, condition: Condition) -> Self {
        self.query.conditions.push(condition);
        self
    }

    /// Only rows in which this text occurs, whatever its case.
    pub fn search(mut self, text: impl Into<String>) -> Self {
        self.query.search = Some(text.into());
        self
    }

    /// Sorted by this column; a second call sorts ties of the first.
    pub fn sort(mut self, path: impl Into<Arc<str>>, dir: SortDir) -> Self {
        self.query.sort.push(SortBy::new(path, dir));
        self
    }

    /// As [`sort`](Self::sort), by a column with a collation of its own, such as
    /// [`SortBy::asc("name").case_insensitive()`](SortBy::case_insensitive).
    pub fn sort_with(mut self, by: SortBy) -> Self {
        self.query.sort.push(by);
        self
    }

    /// Only the first `rows` of what matches, in the view's order. A row that goes makes room for the next one; what changes
    /// beyond them moves nothing. Takes the place of an earlier `limit` or `tail`.
    ///
    /// ```
    /// use diorama::prelude::*;
    /// let rows = (0..10).map(|n| (n.to_string(), record! { "id" => n.to_string(), "points" => n }));
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("players", "id").with_rows(rows))?;
    /// let best = dio.table_scenery().sort("points", SortDir::Desc).limit(3).open()?;
    /// dio.cache().remove("8")?;
    /// let ids: Vec<String> = best.snapshot().iter().map(|row| row.id().to_owned()).collect();
    /// assert_eq!(ids, ["9", "7", "6"]);
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn limit(mut self, rows: usize) -> Self {
        self.cut = Cut::First(rows);
        self
    }

    /// Only the last `rows` of what matches, in the view's order: the newest lines of a log. As [`limit`](Self::limit).
    pub fn tail(mut self, rows: usize) -> Self {
        self.cut = Cut::Last(rows);
        self
    }

    /// Opens the view and returns when it shows the rows the Dio has. With [`on_query`](crate::LensBuilder::on_query), when it
    /// shows those that the source has brought for it.
    ///
    /// # Errors
    /// An unknown column, `Closed`, why the rows could not be read or what `on_query` failed with; `WouldDeadlock` on a thread of the library that
    /// views are built on.
    pub fn open(self) -> Result<TableScenery> {
        may_wait_for(Rank::new(self.dio.level, Role::Build), "the filling of a view")?;
        let view = self.open_now()?;
        view.wait_until_ready(None)?;
        Ok(view)
    }

    /// Opens the view and returns at once; it fills behind, and its generation moves when it has.
    ///
    /// # Errors
    /// An unknown column, or `Closed`.
    pub fn open_now(self) -> Result<TableScenery> {
        TableScenery::open(self.dio, self.query, self.cut)
    }
}

/// What turns one state of a table view into another.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Changes {
    /// These changes, one after the other.
    List(Vec<Change>),
    /// Too much has changed, or too long ago: show the snapshot anew.
    Reset,
}

/// The answer of [`TableScenery::changes_since`].
#[derive(Debug, Clone)]
pub struct ChangeSet {
    /// The generation that was asked about.
    pub from: Generation,
    /// The generation of the snapshot.
    pub to: Generation,
    /// The state that the changes lead to.
    pub snapshot: TableSnapshot,
    /// What turns the rows of `from` into those of the snapshot.
    pub changes: Changes,
    /// Why the view changed, if every batch that moved it since had this one cause. `None` also for another query, and when
    /// nothing changed or it was too long ago.
    pub cause: Option<Cause>,
}

struct Query {
    wanted: QueryDescriptor,
    cut: Cut,
    /// The number of the last request.
    request: u64,
}

struct Handle {
    id: ViewId,
    slot: Arc<TableSlot>,
    dio: Arc<DioInner>,
    query: Mutex<Query>,
    /// What it wants of the source, where that is asked query by query.
    inquiry: Option<Arc<Inquiry>>,
    /// The positions that are to be read into memory; `None` when nobody does.
    viewport: Arc<Mutex<Option<Range<usize>>>>,
    _guard: DropGuard,
}

/// A live, sorted, filtered list of a Dio's rows. Cheap to clone; clones are the same view. The core forgets it when the
/// last clone is dropped.
#[derive(Clone)]
pub struct TableScenery(Arc<Handle>);

impl std::fmt::Debug for TableScenery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableScenery")
            .field("table", &self.0.dio.name)
            .field("query", &self.query())
            .field("generation", &self.generation())
            .finish()
    }
}

impl TableScenery {
    fn open(dio: Arc<DioInner>, descriptor: QueryDescriptor, cut: Cut) -> Result<Self> {
        let query = Arc::new(dio.view_query(&descriptor)?);
        let root = Root {
            generation: Generation(0),
            seq: Seq(0),
            tree: Tree::new(),
            query: query.clone(),
            load: LoadState::Loading,
            stale_upto: Seq(0),
            epoch: 0,
            changed: 0,
            cause: None,
            first: None,
        };
        let dropped = Dropped::new(dio.core.bell().clone());
        let slot = Arc::new(TableSlot {
            roots: RootSlot::new(root),
            signal: dio.signal(),
            dropped: dropped.clone(),
            queries: QueryProgress::new(),
        });
        let id = dio.next_view();
        let inquiry = dio.new_inquiry();
        let asking = dio.inquire(inquiry.as_ref(), &descriptor)?;
        let opening = dio.opening(format!("table {}", query.canonical()), &slot);
        dio.send(Message::SetQuery { view: id, slot: opening, query, cut, request: 1, asking: asking.clone() })?;
        dio.ask_for(inquiry.as_ref(), asking.as_ref());
        let query = Mutex::new(Query { wanted: descriptor, cut, request: 1 });
        let (viewport, _guard) = (Arc::default(), dropped.guard());
        Ok(TableScenery(Arc::new(Handle { id, slot, dio, query, inquiry, viewport, _guard })))
    }

    // ---- reading -----------------------------------------------------------------------------------------------

    /// The rows as they are now, frozen: cheap to take, and nothing that happens later changes any answer it gives.
    /// Doesn't block.
    pub fn snapshot(&self) -> TableSnapshot {
        TableSnapshot::take(&self.0.slot.roots, &self.0.dio.reader)
    }

    /// The first rows of what the view was asked to show, while the whole of it is still being made: a screen can be painted
    /// before a large table is sorted. `None` when there is nothing to wait for, or nothing is known yet; small tables are
    /// sorted at once and have none. Doesn't block.
    ///
    /// [`snapshot`](Self::snapshot) stays what it was, the rows shown before, until the new order is whole: a part never
    /// passes for the whole. The generation moves when the first rows come, when a change concerns them, and when the whole
    /// is there. They are exactly the first ones of the query, as of their [`seq`](FirstRows::seq); how many there are is the
    /// library's choice, some screens full.
    pub fn first_rows(&self) -> Option<FirstRows> {
        TableSnapshot::take_first(&self.0.slot.roots, &self.0.dio.reader).map(FirstRows)
    }

    /// Blocks until there are [`first_rows`](Self::first_rows), or the whole is there (`None`). A `timeout` of `None` waits
    /// without limit.
    ///
    /// # Errors
    /// As [`wait_until_ready`](Self::wait_until_ready).
    pub fn wait_for_first_rows(&self, timeout: Option<Duration>) -> Result<Option<FirstRows>> {
        let deadline = timeout.and_then(deadline_after);
        let request = self.0.query.lock().request;
        loop {
            let seen = self.generation();
            if self.0.slot.queries.has_landed(request) {
                return self.wait_until_landed(request, Some(Duration::ZERO)).map(|()| None);
            }
            if let Some(first) = self.first_rows() {
                return Ok(Some(first));
            }
            may_wait_for(Rank::new(self.0.dio.level, Role::Build), "the filling of a view")?;
            self.0.dio.hasten(self.0.inquiry.as_ref());
            // A query that shows the same rows as before lands without a step of the view.
            let landed = self.0.slot.queries.landed();
            self.0.slot.signal.wait_or(seen, landed, request, deadline.map(time_left))?;
        }
    }

    /// How many rows the newest state has. Doesn't block.
    pub fn row_count(&self) -> usize {
        self.0.slot.roots.newest().tree.len()
    }

    /// The row at a position of the newest state.
    pub fn row(&self, index: usize) -> Option<Row> {
        self.snapshot().row(index)
    }

    /// The row at a position of the newest state if memory has it. Never touches the disk.
    pub fn try_row(&self, index: usize) -> Option<Row> {
        self.snapshot().try_row(index)
    }

    /// The position of a row in the newest state.
    ///
    /// # Errors
    /// `Closed`, or why the cache could not be read.
    pub fn position_of(&self, id: &str) -> Result<Option<usize>> {
        self.snapshot().position_of(id)
    }

    /// How far the view has been filled. Doesn't block.
    pub fn load_state(&self) -> LoadState {
        self.0.slot.roots.newest().load.clone()
    }

    /// The query it shows, or is about to show; without the limit.
    pub fn query(&self) -> QueryDescriptor {
        self.0.query.lock().wanted.clone()
    }

    /// What has changed since a generation: applied in order to the rows of that generation, the list gives exactly the
    /// rows of the snapshot that comes with it. A generation too long ago gets [`Changes::Reset`], and so does a list that
    /// would be longer than the rows it leads to (and than 32 steps).
    ///
    /// ```
    /// use diorama::prelude::*;
    /// use diorama::{Cause, ChangeRange};
    ///
    /// let rows = (0..5).map(|n| (n.to_string(), record! { "id" => n.to_string(), "points" => 10 * n }));
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("players", "id").with_rows(rows))?;
    /// let best = dio.table_scenery().sort("points", SortDir::Desc).open()?;
    /// let shown = best.generation();
    /// dio.cache().insert("0", record! { "id" => "0", "points" => 35 })?;
    ///
    /// let news = best.changes_since(shown);
    /// assert_eq!(news.changes, Changes::List(vec![Change::Move { from: 4, to: 1 }]));
    /// assert_eq!(news.changes.ranges(), Some(vec![ChangeRange::Move { from: 4..5, to: 1 }]));
    /// assert_eq!(news.cause, Some(Cause::Local));
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn changes_since(&self, from: Generation) -> ChangeSet {
        let snapshot = self.snapshot();
        let to = snapshot.generation();
        let changes = match self.0.slot.roots.of_generation(from) {
            _ if from == to => Changes::List(Vec::new()),
            Some(old) if old.epoch == snapshot.root().epoch => {
                Changes::of_list(change_list(&old.tree, &snapshot.root().tree), snapshot.row_count())
            }
            _ => Changes::Reset,
        };
        let cause = self.0.slot.roots.cause_between(from, to);
        ChangeSet { from, to, snapshot, changes, cause }
    }

    // ---- asking for something else -----------------------------------------------------------------------------

    /// Sorts by these columns from now on. The old rows stay until the new order is ready; a later call supersedes this
    /// one. Returns at once: [`wait_until_ready`](Self::wait_until_ready) waits.
    ///
    /// # Errors
    /// An unknown column, or one that can't be sorted by; `Closed`.
    pub fn set_sort(&self, sort: impl IntoIterator<Item = SortBy>) -> Result<()> {
        let sort = sort.into_iter().collect();
        self.change_query(|query, _| query.sort = sort)
    }

    /// Shows rows in which this text occurs from now on; `None` ends the search. As [`set_sort`](Self::set_sort).
    ///
    /// # Errors
    /// `Closed`.
    pub fn set_search(&self, text: Option<&str>) -> Result<()> {
        let text = text.map(str::to_owned);
        self.change_query(|query, _| query.search = text)
    }

    /// Shows rows for which all of these hold from now on. As [`set_sort`](Self::set_sort). With
    /// [`on_query`](crate::LensBuilder::on_query) the old rows stay until the source has answered; if it can't be asked, the
    /// view shows what the cache has, and that it [`Failed`](LoadState::Failed).
    ///
    /// # Errors
    /// An unknown column; `Closed`.
    pub fn set_conditions(&self, conditions: impl IntoIterator<Item = Condition>) -> Result<()> {
        let conditions = conditions.into_iter().collect();
        self.change_query(|query, _| query.conditions = conditions)
    }

    /// Shows the first `rows` from now on, or all of them with `None`; see [`TableSceneryBuilder::limit`]. The order is there
    /// already, so nothing is built, and [`changes_since`](Self::changes_since) tells the difference row by row.
    ///
    /// # Errors
    /// `Closed`.
    pub fn set_limit(&self, rows: Option<usize>) -> Result<()> {
        self.change_query(|_, cut| *cut = rows.map_or(Cut::Nothing, Cut::First))
    }

    /// Shows the last `rows` from now on, or all of them with `None`. As [`set_limit`](Self::set_limit).
    ///
    /// # Errors
    /// `Closed`.
    pub fn set_tail(&self, rows: Option<usize>) -> Result<()> {
        self.change_query(|_, cut| *cut = rows.map_or(Cut::Nothing, Cut::Last))
    }

    fn change_query(&self, change: impl FnOnce(&mut QueryDescriptor, &mut Cut)) -> Result<()> {
        let mut query = self.0.query.lock();
        let (mut wanted, mut cut) = (query.wanted.clone(), query.cut);
        change(&mut wanted, &mut cut);
        let compiled = Arc::new(self.0.dio.view_query(&wanted)?);
        let request = query.request + 1;
        // Sent under the lock, so that two setters reach the core in the order of their numbers. The core never waits for
        // this lock.
        let Handle { id, slot, dio, inquiry, .. } = &*self.0;
        let asking = dio.inquire(inquiry.as_ref(), &wanted)?;
        let slot = Opening::new(slot.clone());
        dio.send(Message::SetQuery { view: *id, slot, query: compiled, cut, request, asking: asking.clone() })?;
        dio.ask_for(inquiry.as_ref(), asking.as_ref());
        *query = Query { wanted, cut, request };
        Ok(())
    }

    /// Blocks until the last query asked for is shown or the time is over; `None` waits without limit.
    ///
    /// # Errors
    /// Why the view could not be filled; `Timeout`; `Closed`; `WouldDeadlock` on a thread that views are built on.
    pub fn wait_until_ready(&self, timeout: Option<Duration>) -> Result<()> {
        let request = self.0.query.lock().request;
        self.wait_until_landed(request, timeout)
    }

    /// Blocks until this query, or a later one, is shown.
    pub(crate) fn wait_until_landed(&self, request: u64, timeout: Option<Duration>) -> Result<()> {
        if !self.0.slot.queries.has_landed(request) {
            may_wait_for(Rank::new(self.0.dio.level, Role::Build), "the filling of a view")?;
            self.0.dio.hasten(self.0.inquiry.as_ref());
        }
        self.0.slot.queries.wait(request, timeout)
    }

    /// What rises when a query is shown, and the number of the last one asked for.
    #[cfg(feature = "async")]
    pub(crate) fn landing(&self) -> (&Notifier, u64) {
        (self.0.slot.queries.landed(), self.0.query.lock().request)
    }

    /// Has the rows of these positions read into memory behind, so that the next frames find them there. A later call
    /// takes the place of one that is not done yet. Returns at once.
    pub fn set_viewport(&self, range: Range<usize>) {
        if self.0.viewport.lock().replace(range).is_some() {
            // The read that is queued or under way takes this one.
            return;
        }
        let (slot, reader, viewport) = (self.0.slot.clone(), self.0.dio.reader.clone(), self.0.viewport.clone());
        let queued = self.0.dio.preload(move || {
            loop {
                let Some(range) = viewport.lock().clone().filter(|_| !slot.dropped.is_set()) else { return };
                let snapshot = TableSnapshot::take(&slot.roots, &reader);
                let moved_on = snapshot
                    .rows(range.clone())
                    .any(|_| slot.dropped.is_set() || viewport.lock().as_ref() != Some(&range));
                let mut viewport = viewport.lock();
                if !moved_on && viewport.as_ref() == Some(&range) {
                    *viewport = None;
                    return;
                }
            }
        });
        if !queued {
            self.0.viewport.lock().take();
        }
    }

    /// Asks for a refresh and returns at once; one that is running is enough.
    ///
    /// # Errors
    /// `Closed`.
    pub fn request_refresh(&self) -> Result<()> {
        self.0.dio.request_refresh()
    }
}

impl Scenery for TableScenery {
    fn signal(&self) -> &Signal {
        &self.0.slot.signal
    }
}

#[cfg(test)]
mod tests;
