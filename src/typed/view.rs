//! Typed views: table and record sceneries whose rows are the application's own structs.
//!
//! Not here: what a view shows and when it moves (`scenery`), which these hand on unchanged.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::dio::Cause;
use crate::scenery::record::RecordScenery;
use crate::scenery::snapshot::{Row, TableSnapshot};
use crate::scenery::table::{ChangeSet, Changes, TableScenery, TableSceneryBuilder};
use crate::typed::RowType;
use crate::value::IntoValue;
use crate::vista::{Condition, SortBy, SortDir};
use crate::{Generation, Result};

/// Describes a table view of `T`s before it is opened: [`TypedDio::table_scenery`](crate::TypedDio::table_scenery).
#[must_use = "nothing is opened before `open` or `open_now`"]
pub struct TypedTableBuilder<T> {
    view: TableSceneryBuilder,
    rows: RowType<T>,
}

impl<T> Clone for TypedTableBuilder<T> {
    fn clone(&self) -> Self {
        TypedTableBuilder { view: self.view.clone(), rows: self.rows.clone() }
    }
}

impl<T> fmt::Debug for TypedTableBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedTableBuilder").field(&self.view).finish()
    }
}

impl<T> TypedTableBuilder<T> {
    pub(super) fn new(view: TableSceneryBuilder, rows: RowType<T>) -> Self {
        TypedTableBuilder { view, rows }
    }

    /// Only rows whose column (or dotted path) equals this value.
    pub fn where_eq(self, path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        TypedTableBuilder { view: self.view.where_eq(path, value), ..self }
    }

    /// Only rows for which this holds too.
    pub fn condition(self, condition: Condition) -> Self {
        TypedTableBuilder { view: self.view.condition(condition), ..self }
    }

    /// Only rows in which this text occurs, whatever its case.
    pub fn search(self, text: impl Into<String>) -> Self {
        TypedTableBuilder { view: self.view.search(text), ..self }
    }

    /// Sorted by this column; a second call sorts ties of the first.
    pub fn sort(self, path: impl Into<Arc<str>>, dir: SortDir) -> Self {
        TypedTableBuilder { view: self.view.sort(path, dir), ..self }
    }

    /// As [`sort`](Self::sort), by a column with a collation of its own.
    pub fn sort_with(self, by: SortBy) -> Self {
        TypedTableBuilder { view: self.view.sort_with(by), ..self }
    }

    /// Only the first `rows` of what matches: see [`TableSceneryBuilder::limit`].
    pub fn limit(self, rows: usize) -> Self {
        TypedTableBuilder { view: self.view.limit(rows), ..self }
    }

    /// Only the last `rows` of what matches: see [`TableSceneryBuilder::tail`].
    pub fn tail(self, rows: usize) -> Self {
        TypedTableBuilder { view: self.view.tail(rows), ..self }
    }

    /// Opens the view and returns when it shows the rows the Dio has.
    ///
    /// # Errors
    /// As [`TableSceneryBuilder::open`].
    pub fn open(self) -> Result<TypedTable<T>> {
        Ok(TypedTable { view: self.view.open()?, rows: self.rows })
    }

    /// Opens the view and returns at once; it fills behind.
    ///
    /// # Errors
    /// As [`TableSceneryBuilder::open_now`].
    pub fn open_now(self) -> Result<TypedTable<T>> {
        Ok(TypedTable { view: self.view.open_now()?, rows: self.rows })
    }
}

/// A table view whose rows are `T`s. Everything but its rows is the [`TableScenery`]'s, to which it dereferences:
/// `generation()`, `set_sort(…)`, `wait_for_change(…)`.
pub struct TypedTable<T> {
    view: TableScenery,
    rows: RowType<T>,
}

impl<T> Clone for TypedTable<T> {
    fn clone(&self) -> Self {
        TypedTable { view: self.view.clone(), rows: self.rows.clone() }
    }
}

impl<T> fmt::Debug for TypedTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedTable").field(&self.view).finish()
    }
}

impl<T> Deref for TypedTable<T> {
    type Target = TableScenery;

    fn deref(&self) -> &TableScenery {
        &self.view
    }
}

#[cfg(feature = "async")]
impl<T> TypedTable<T> {
    pub(super) fn new(view: TableScenery, rows: RowType<T>) -> Self {
        TypedTable { view, rows }
    }
}

impl<T: DeserializeOwned> TypedTable<T> {
    /// The rows as they are now, frozen, as [`TableScenery::snapshot`].
    pub fn snapshot(&self) -> TypedSnapshot<T> {
        self.snapshot_of(self.view.snapshot())
    }

    /// What has changed since a generation, and the rows it leads to, as [`TableScenery::changes_since`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// use diorama::prelude::*;
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Product {
    ///     name: String,
    /// }
    ///
    /// # fn main() -> diorama::Result<()> {
    /// # let soon = Duration::from_secs(5);
    /// # let lens = Lens::new().in_memory().build()?;
    /// # let dio = lens.make_dio(MemoryVista::new("products", "id"))?;
    /// let products = dio.typed::<Product>();
    /// let table = products.table_scenery().sort("name", SortDir::Asc).open()?;
    /// let painted = table.generation();
    /// products.insert_as("a", &Product { name: "Anvil".into() })?.wait(soon)?;
    ///
    /// let news = table.changes_since(painted);
    /// assert_eq!(news.changes, Changes::List(vec![Change::Insert { index: 0 }]));
    /// assert_eq!(news.snapshot.row(0)?.map(|product| product.name).as_deref(), Some("Anvil"));
    /// assert_eq!(news.snapshot.id(0).as_deref(), Some("a"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes_since(&self, from: Generation) -> TypedChangeSet<T> {
        let ChangeSet { from, to, snapshot, changes, cause } = self.view.changes_since(from);
        TypedChangeSet { from, to, snapshot: self.snapshot_of(snapshot), changes, cause }
    }

    fn snapshot_of(&self, snapshot: TableSnapshot) -> TypedSnapshot<T> {
        TypedSnapshot { snapshot, rows: self.rows.clone() }
    }

    /// The row at a position of the newest state; `None` past the end.
    ///
    /// # Errors
    /// As [`TypedSnapshot::row`].
    pub fn row(&self, index: usize) -> Result<Option<T>> {
        self.snapshot().row(index)
    }

    /// The row at a position of the newest state if memory has it. Never touches the disk.
    ///
    /// # Errors
    /// As [`TypedSnapshot::row`].
    pub fn try_row(&self, index: usize) -> Result<Option<T>> {
        self.snapshot().try_row(index)
    }
}

/// The answer of [`TypedTable::changes_since`].
pub struct TypedChangeSet<T> {
    /// The generation that was asked about.
    pub from: Generation,
    /// The generation of the snapshot.
    pub to: Generation,
    /// The state that the changes lead to.
    pub snapshot: TypedSnapshot<T>,
    /// What turns the rows of `from` into those of the snapshot.
    pub changes: Changes,
    /// Why the view changed, if every batch that moved it since had this one cause.
    pub cause: Option<Cause>,
}

impl<T> Clone for TypedChangeSet<T> {
    fn clone(&self) -> Self {
        TypedChangeSet { snapshot: self.snapshot.clone(), changes: self.changes.clone(), ..*self }
    }
}

impl<T> fmt::Debug for TypedChangeSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TypedChangeSet { from, to, snapshot, changes, cause } = self;
        let mut all = f.debug_struct("TypedChangeSet");
        all.field("from", from).field("to", to).field("snapshot", snapshot);
        all.field("changes", changes).field("cause", cause).finish()
    }
}

/// A snapshot whose rows are `T`s, made anew at each call. Everything else is the [`TableSnapshot`]'s, to which it
/// dereferences; `(*snapshot).row(0)` is its untyped row, which knows its status.
pub struct TypedSnapshot<T> {
    snapshot: TableSnapshot,
    rows: RowType<T>,
}

impl<T> Clone for TypedSnapshot<T> {
    fn clone(&self) -> Self {
        TypedSnapshot { snapshot: self.snapshot.clone(), rows: self.rows.clone() }
    }
}

impl<T> fmt::Debug for TypedSnapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedSnapshot").field(&self.snapshot).finish()
    }
}

impl<T> Deref for TypedSnapshot<T> {
    type Target = TableSnapshot;

    fn deref(&self) -> &TableSnapshot {
        &self.snapshot
    }
}

impl<T: DeserializeOwned> TypedSnapshot<T> {
    /// The row at a position; `None` past the end.
    ///
    /// # Errors
    /// `Invalid` when the row doesn't fit `T`, with its `table`, `id` and `column` (and the `field` below that); `Expired`,
    /// `Closed`, or why the row could not be read.
    pub fn row(&self, index: usize) -> Result<Option<T>> {
        self.snapshot.row(index).map(|row| self.read(&row)).transpose()
    }

    /// The row at a position if memory has it. Never touches the disk.
    ///
    /// # Errors
    /// As [`row`](Self::row).
    pub fn try_row(&self, index: usize) -> Result<Option<T>> {
        self.snapshot.try_row(index).map(|row| self.read(&row)).transpose()
    }

    /// The id of the row at a position, for a `T` that doesn't have it; `None` past the end. A row that doesn't fit `T` has
    /// one, too.
    pub fn id(&self, index: usize) -> Option<String> {
        self.snapshot.row(index).map(|row| row.id().to_owned())
    }

    /// The rows of a range of positions, as far as there are any. One that doesn't fit doesn't end them.
    pub fn rows(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = Result<T>> {
        self.snapshot.rows(range).map(|row| self.read(&row))
    }

    /// All rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<T>> {
        self.rows(0..self.snapshot.row_count())
    }

    fn read(&self, row: &Row) -> Result<T> {
        let record = row.record().map_err(|error| error.with("table", self.rows.table.to_string()))?;
        self.rows.read(row.id(), record)
    }
}

/// A view of one row as a `T`. Everything but its value is the [`RecordScenery`]'s, to which it dereferences.
pub struct TypedRecord<T> {
    view: RecordScenery,
    rows: RowType<T>,
}

impl<T> Clone for TypedRecord<T> {
    fn clone(&self) -> Self {
        TypedRecord { view: self.view.clone(), rows: self.rows.clone() }
    }
}

impl<T> fmt::Debug for TypedRecord<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedRecord").field(&self.view).finish()
    }
}

impl<T> Deref for TypedRecord<T> {
    type Target = RecordScenery;

    fn deref(&self) -> &RecordScenery {
        &self.view
    }
}

impl<T> TypedRecord<T> {
    pub(super) fn new(view: RecordScenery, rows: RowType<T>) -> Self {
        TypedRecord { view, rows }
    }
}

impl<T: DeserializeOwned> TypedRecord<T> {
    /// The row as it is now; `None` when there is none. Doesn't block.
    ///
    /// # Errors
    /// `Invalid` when the row doesn't fit `T`, with its `table`, `id` and `column` (and the `field` below that).
    pub fn value(&self) -> Result<Option<T>> {
        self.view.enriched().map(|row| self.rows.read(row.id(), row.record())).transpose()
    }
}
