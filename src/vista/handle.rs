//! Vista handle: a source and the narrowing it is looked at through, for code that only wants rows.
//!
//! Flow: own narrowing → what the source takes of it ([`TableShell::push_down`]) → rows → the rest, evaluated here by
//! [`QueryDescriptor::apply`].
//! Invariants: whatever a source takes or leaves, the answer is the same
//! (`whatever_the_source_takes_the_answer_is_the_same`); a window is handed to the source only when nothing else is left
//! over; every error names the table.

use std::fmt;
use std::sync::Arc;

use crate::value::{IntoValue, Record, StoredRow};
use crate::vista::{
    CallCx, Capabilities, ChangeStream, Collation, Condition, Filter, Page, PageCursor, PushDown, QueryDescriptor,
    Schema, SortBy, SortDir, TableShell, Total, WriteOp, Written,
};
use crate::{Error, ErrorKind, Result};

/// One data source, looked at through conditions, a search and an order of its own.
///
/// Cheap to clone; a clone keeps a narrowing of its own. Every call that reads or writes blocks for as long as the source
/// takes. Nothing is cached here.
///
/// ```
/// use diorama::record;
/// use diorama::sources::MemoryVista;
/// use diorama::vista::Vista;
///
/// let source = MemoryVista::new("airports", "iata").with_rows([
///     ("00M", record! { "iata" => "00M", "country" => "USA" }),
///     ("ZRH", record! { "iata" => "ZRH", "country" => "Switzerland" }),
/// ]);
/// let airports = Vista::new(source);
/// let mut usa = airports.clone();
/// usa.add_condition_eq("country", "USA")?;
/// assert_eq!(usa.list_values()?.len(), 1);
/// assert_eq!(airports.list_values()?.len(), 2);
/// # Ok::<(), diorama::Error>(())
/// ```
#[derive(Clone)]
pub struct Vista {
    shell: Arc<dyn TableShell>,
    query: QueryDescriptor,
}

impl<S: TableShell> From<S> for Vista {
    fn from(shell: S) -> Self {
        Vista::new(shell)
    }
}

impl fmt::Debug for Vista {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vista").field("source", &self.source_key()).field("table", &self.table_key()).finish()
    }
}

/// What it is and how it is narrowed. Nothing here blocks.
impl Vista {
    /// All rows of `shell`.
    pub fn new(shell: impl TableShell) -> Self {
        Self::from_shell(Arc::new(shell))
    }

    /// All rows of a shell that is shared already.
    pub fn from_shell(shell: Arc<dyn TableShell>) -> Self {
        Vista { shell, query: QueryDescriptor::default() }
    }

    /// The source itself, without the narrowing.
    pub fn shell(&self) -> &Arc<dyn TableShell> {
        &self.shell
    }

    /// The source's name of the table.
    pub fn name(&self) -> &str {
        self.shell.name()
    }

    /// The columns.
    pub fn schema(&self) -> Arc<Schema> {
        self.shell.schema()
    }

    /// The name of the id column, if the table has one.
    pub fn id_column(&self) -> Option<String> {
        self.schema().id_column().map(str::to_string)
    }

    /// What the source can do.
    pub fn capabilities(&self) -> Capabilities {
        self.shell.capabilities()
    }

    /// Which source this is; see [`TableShell::source_key`].
    pub fn source_key(&self) -> String {
        self.shell.source_key()
    }

    /// How many Dios lie below; see [`TableShell::stack_level`].
    pub fn stack_level(&self) -> u32 {
        self.shell.stack_level()
    }

    /// The narrowing: conditions, search and order.
    pub fn query(&self) -> &QueryDescriptor {
        &self.query
    }

    /// The name of what this shows: the table's name and, when narrowed or ordered, the canonical query.
    pub fn table_key(&self) -> String {
        let query = self.query.canonical();
        if query.is_empty() { self.name().to_string() } else { format!("{} {query}", self.name()) }
    }

    /// Leaves out the rows in which the value at `path` is another than `value`.
    ///
    /// # Errors
    /// `NotFound` when a known schema has no such column.
    pub fn add_condition_eq(&mut self, path: impl Into<Arc<str>>, value: impl IntoValue) -> Result<&mut Self> {
        self.add_condition(Condition::eq(path, value))
    }

    /// Leaves out the rows for which `condition` doesn't hold.
    ///
    /// # Errors
    /// `NotFound`, naming the clause, when a known schema lacks a column of it.
    pub fn add_condition(&mut self, condition: Condition) -> Result<&mut Self> {
        condition.check(&self.schema()).map_err(|error| self.at(error))?;
        self.query.conditions.push(condition);
        Ok(self)
    }

    /// Orders by `path`, after the sort columns that are there.
    ///
    /// # Errors
    /// `NotFound` when a known schema has no such column, `Unsupported` when rows can't be ordered by it.
    pub fn add_sort(&mut self, path: impl Into<Arc<str>>, dir: SortDir) -> Result<&mut Self> {
        self.add_sort_by(SortBy::new(path, dir))
    }

    /// Orders by `sort`, after the sort columns that are there: a column with a collation of its own.
    ///
    /// # Errors
    /// As [`add_sort`](Self::add_sort).
    pub fn add_sort_by(&mut self, sort: SortBy) -> Result<&mut Self> {
        sort.check(&self.schema()).map_err(|error| self.at(error))?;
        self.query.sort.push(sort);
        Ok(self)
    }

    /// Leaves out the rows in which `text` occurs in no searchable column; `None` ends the search.
    pub fn set_search(&mut self, text: Option<impl Into<String>>) -> &mut Self {
        self.query.search = text.map(Into::into);
        self
    }

    /// Whether the source answers all of the narrowing and of `query` itself, its window included.
    pub fn answers_itself(&self, query: &QueryDescriptor) -> bool {
        let (whole, rest) = self.narrowed_by(query);
        rest.is_empty() && self.split(&whole).residual.is_empty()
    }

    /// Adds the table to an error.
    fn at(&self, error: Error) -> Error {
        error.with("table", self.name())
    }

    /// The narrowing and `query` as one query, and what doesn't fit into it: a second search, and the window after it.
    fn narrowed_by(&self, query: &QueryDescriptor) -> (QueryDescriptor, QueryDescriptor) {
        let own = &self.query;
        let mut whole = QueryDescriptor {
            conditions: own.conditions.iter().chain(&query.conditions).cloned().collect(),
            search: own.search_text().or(query.search_text()).map(str::to_string),
            sort: query.sort.iter().chain(&own.sort).cloned().collect(),
            window: query.window,
        };
        let mut rest = QueryDescriptor::default();
        if own.search_text().is_some() && query.search_text().is_some() {
            rest = QueryDescriptor { search: query.search.clone(), window: whole.window.take(), ..rest };
        }
        (whole, rest)
    }

    /// What the source takes of `query` and what is left. A window goes to the source only when nothing is left, and a sort
    /// only when the source knows its collation.
    fn split(&self, query: &QueryDescriptor) -> PushDown {
        let by_code_point = query.sort.iter().all(|by| by.collation == Collation::CodePoint);
        if !by_code_point && !self.capabilities().collations {
            let unordered = QueryDescriptor { sort: Vec::new(), ..query.without_window() };
            let mut split = self.shell.push_down(&unordered);
            split.residual.sort.clone_from(&query.sort);
            split.residual.window = query.window;
            return split;
        }
        if query.window.is_some() && self.capabilities().window {
            let whole = self.shell.push_down(query);
            if whole.residual.is_empty() {
                return whole;
            }
        }
        let mut split = self.shell.push_down(&query.without_window());
        split.residual.window = query.window;
        split
    }
}

/// Reading and writing with a call context. All of these block for as long as the source takes.
impl Vista {
    /// The rows with their ids, in order.
    ///
    /// # Errors
    /// What the source says.
    pub fn list(&self, cx: &CallCx) -> Result<Vec<(String, Record)>> {
        self.list_query(cx, &QueryDescriptor::default())
    }

    /// `limit` of the rows, from `offset` on.
    ///
    /// # Errors
    /// What the source says.
    pub fn window(&self, cx: &CallCx, offset: usize, limit: usize) -> Result<Vec<(String, Record)>> {
        self.list_query(cx, &QueryDescriptor::new().windowed(offset, limit))
    }

    /// The rows of the narrowing that `query` asks for, in its order; ties in the order of the narrowing.
    ///
    /// # Errors
    /// `NotFound` or `Unsupported` for a query that the schema refuses; what the source says.
    pub fn list_query(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        let schema = self.schema();
        query.check(&schema).map_err(|error| self.at(error))?;
        let (whole, rest) = self.narrowed_by(query);
        let split = self.split(&whole);
        let mut rows = self.shell.list(cx, &split.accepted).map_err(|error| self.at(error))?;
        for left_over in [split.residual, rest] {
            if !left_over.is_empty() {
                rows = left_over.apply(rows, &schema);
            }
        }
        Ok(rows)
    }

    /// Some of the rows, in order: at most `limit`, the first ones or those behind the page that `after` is of. See
    /// [`page_query`](Self::page_query).
    ///
    /// # Errors
    /// As [`page_query`](Self::page_query).
    pub fn page(&self, cx: &CallCx, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        self.page_query(cx, &QueryDescriptor::default(), after, limit)
    }

    /// Some of the rows of the narrowing that `query` asks for, in its order: at most `limit`, the first ones or those behind
    /// the page that `after` is of. The source must be able to page, and to sort as asked; conditions and search that it
    /// doesn't take are evaluated here, so that a page may then have fewer rows though others follow (it has none only if it
    /// is the last), and cost several of the source's. See [`TableShell::page`] for what pages promise while rows change.
    ///
    /// ```
    /// use diorama::record;
    /// use diorama::sources::MemoryVista;
    /// use diorama::vista::{CallCx, SortDir, Vista};
    ///
    /// let rows = (0..10).map(|number| (format!("p{number}"), record! { "price" => number % 4 }));
    /// let mut products = Vista::new(MemoryVista::new("products", "id").with_rows(rows));
    /// products.add_sort("price", SortDir::Asc)?;
    /// let (mut ids, mut after) = (Vec::new(), None);
    /// loop {
    ///     let page = products.page(&CallCx::new(), after.as_ref(), 4)?;
    ///     ids.extend(page.rows.into_iter().map(|(id, _)| id));
    ///     after = page.next;
    ///     if after.is_none() {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(ids, ["p0", "p4", "p8", "p1", "p5", "p9", "p2", "p6", "p3", "p7"]);
    /// # Ok::<(), diorama::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Unsupported` for a source without pages, and for a sort that it doesn't take; `Invalid` for a limit of 0, for a window
    /// in the query, and for a cursor of another source, narrowing or query; as [`list_query`](Self::list_query).
    pub fn page_query(
        &self,
        cx: &CallCx,
        query: &QueryDescriptor,
        after: Option<&PageCursor>,
        limit: usize,
    ) -> Result<Page> {
        if !self.capabilities().pages {
            return Err(self.shell.unsupported("page"));
        }
        let schema = self.schema();
        query.check(&schema).and_then(|()| Page::check(query, limit)).map_err(|error| self.at(error))?;
        let (whole, rest) = self.narrowed_by(query);
        let PushDown { accepted, residual } = self.split(&whole);
        if let Some(by) = residual.sort.first() {
            let message = "the source can't sort by this, and pages come in the source's order; list the rows instead";
            return Err(self.at(Error::new(ErrorKind::Unsupported, message).with("clause", format!("order by {by}"))));
        }
        let page =
            |after: Option<&PageCursor>| self.shell.page(cx, &accepted, after, limit).map_err(|error| self.at(error));
        if residual.is_empty() && rest.is_empty() {
            return page(after);
        }
        // The source's cursor says nothing of what is evaluated here; around it goes one that does.
        let key = format!("{} {}", self.source_key(), rest.canonical());
        let mut place = match after {
            Some(cursor) => {
                let inner = cursor.open(&key, &whole).map_err(|error| self.at(error))?;
                Some(PageCursor::from_text(String::from_utf8_lossy(&inner)))
            }
            None => None,
        };
        loop {
            let Page { mut rows, next, .. } = page(place.as_ref())?;
            for left_over in [&residual, &rest] {
                if !left_over.is_empty() {
                    rows = left_over.apply(rows, &schema);
                }
            }
            if !rows.is_empty() || next.is_none() {
                let next = next.map(|next| PageCursor::seal(&key, &whole, next.as_str().as_bytes()));
                return Ok(Page { rows, next, total: Total::Unknown });
            }
            place = next;
        }
    }

    /// One row; `None` when there is none of this id, or the narrowing leaves it out. A source without `get` is listed.
    ///
    /// # Errors
    /// `Invalid` for an empty id; what the source says.
    pub fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        let at = |error: Error| self.at(error.with("id", id));
        refuse_empty_id(id).map_err(at)?;
        if !self.capabilities().get {
            let rows = self.list(cx).map_err(at)?;
            return Ok(rows.into_iter().find(|(row, _)| row == id).map(|(_, record)| record));
        }
        let record = self.shell.get(cx, id).map_err(at)?;
        Ok(record.filter(|record| {
            !self.query.is_filtered()
                || Filter::new(&self.query, &self.schema()).matches(StoredRow::encode(id, record, 0).fields())
        }))
    }

    /// How many rows there are. A source that can't count them itself is listed.
    ///
    /// # Errors
    /// What the source says.
    pub fn count(&self, cx: &CallCx) -> Result<u64> {
        self.count_query(cx, &QueryDescriptor::default())
    }

    /// How many rows of the narrowing `query` asks for, its window aside.
    ///
    /// # Errors
    /// `NotFound` or `Unsupported` for a query that the schema refuses; what the source says.
    pub fn count_query(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        query.check(&self.schema()).map_err(|error| self.at(error))?;
        let (mut whole, rest) = self.narrowed_by(&query.without_window());
        if self.capabilities().count && rest.is_empty() {
            whole.sort.clear();
            let split = self.split(&whole);
            if split.residual.is_empty() {
                return self.shell.count(cx, &split.accepted).map_err(|error| self.at(error));
            }
        }
        Ok(self.list_query(cx, &query.without_window())?.len() as u64)
    }

    /// Does one write.
    ///
    /// `delete_all` through a narrowed handle is refused: it would delete rows that the handle doesn't show.
    ///
    /// # Errors
    /// `Invalid` for an empty id and for `delete_all` when narrowed; `Unsupported` for what the capabilities deny; what
    /// the source says.
    pub fn write(&self, cx: &CallCx, op: &WriteOp) -> Result<Written> {
        self.check_write(op)?;
        let shell = &self.shell;
        let written = match op {
            WriteOp::Insert { id, record } => shell.insert(cx, id.as_deref(), record),
            WriteOp::Replace { id, record } => shell.replace(cx, id, record),
            WriteOp::Upsert { id, record } => shell.upsert(cx, id, record),
            WriteOp::Patch { id, record } => shell.patch(cx, id, record),
            WriteOp::Delete { id } => shell.delete(cx, id).map(|()| Written::id(id.as_str())),
            WriteOp::DeleteAll => shell.delete_all(cx).map(|()| Written::default()),
        };
        written.map_err(|error| self.at_write(error, op))
    }

    /// Does several writes in one call of the source, all or none; one answer for each.
    ///
    /// # Errors
    /// As [`write`](Self::write), for the first op that is refused; `Unsupported` for a source without batches.
    pub fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        if !self.capabilities().batch {
            return Err(self.shell.unsupported("batch"));
        }
        ops.iter().try_for_each(|op| self.check_write(op))?;
        self.shell.batch(cx, ops).map_err(|error| self.at(error))
    }

    /// The changes that others make at the source from now on, of all its rows: the narrowing doesn't count here.
    ///
    /// # Errors
    /// `Unsupported` for a source without a stream of changes; what the source says.
    pub fn changes(&self, cx: &CallCx) -> Result<Box<dyn ChangeStream>> {
        if !self.capabilities().changes {
            return Err(self.shell.unsupported("changes"));
        }
        self.shell.changes(cx).map_err(|error| self.at(error))
    }

    /// Refuses a write that can't be meant or that the capabilities deny.
    pub(crate) fn check_write(&self, op: &WriteOp) -> Result<()> {
        let can = self.capabilities();
        let allowed = match op {
            WriteOp::Insert { .. } => can.insert,
            WriteOp::Replace { .. } => can.replace,
            WriteOp::Upsert { .. } => can.upsert,
            WriteOp::Patch { .. } => can.patch,
            WriteOp::Delete { .. } => can.delete,
            WriteOp::DeleteAll => can.delete_all,
        };
        if !allowed {
            return Err(self.at_write(self.shell.unsupported(op.verb()), op));
        }
        if matches!(op, WriteOp::DeleteAll) && self.query.is_filtered() {
            let message = "`delete_all` through a narrowed table would delete rows that it doesn't show; \
                           use the whole table, or delete the rows one by one";
            return Err(self.at_write(Error::new(ErrorKind::Invalid, message), op));
        }
        op.id().map_or(Ok(()), refuse_empty_id).map_err(|error| self.at_write(error, op))
    }

    pub(crate) fn at_write(&self, error: Error, op: &WriteOp) -> Error {
        let error = self.at(error).with("write", op.verb());
        match op.id() {
            Some(id) => error.with("id", id),
            None => error,
        }
    }
}

/// The short forms: no deadline, not cancellable. All of these block for as long as the source takes.
impl Vista {
    /// The rows with their ids, in order. See [`list`](Self::list).
    ///
    /// # Errors
    /// What the source says.
    pub fn list_values(&self) -> Result<Vec<(String, Record)>> {
        self.list(&CallCx::new())
    }

    /// `limit` of the rows, from `offset` on. See [`window`](Self::window).
    ///
    /// # Errors
    /// What the source says.
    pub fn list_window(&self, offset: usize, limit: usize) -> Result<Vec<(String, Record)>> {
        self.window(&CallCx::new(), offset, limit)
    }

    /// `limit` of the rows, the first ones or those behind the page that `after` is of. See [`page_query`](Self::page_query).
    ///
    /// # Errors
    /// As [`page_query`](Self::page_query).
    pub fn list_page(&self, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        self.page(&CallCx::new(), after, limit)
    }

    /// One row, if there is one of this id in the narrowing. See [`get`](Self::get).
    ///
    /// # Errors
    /// `Invalid` for an empty id; what the source says.
    pub fn get_value(&self, id: &str) -> Result<Option<Record>> {
        self.get(&CallCx::new(), id)
    }

    /// How many rows there are. See [`count`](Self::count).
    ///
    /// # Errors
    /// What the source says.
    pub fn get_count(&self) -> Result<u64> {
        self.count(&CallCx::new())
    }

    /// Adds a row, under this id or, with `None`, under one that the source chooses. See [`write`](Self::write).
    ///
    /// # Errors
    /// `Conflict` when the id is taken; as [`write`](Self::write).
    pub fn insert_value<'a>(&self, id: impl Into<Option<&'a str>>, record: &Record) -> Result<Written> {
        let id = id.into().map(str::to_string);
        self.write(&CallCx::new(), &WriteOp::Insert { id, record: record.clone() })
    }

    /// Puts a whole row in the place of one that exists. See [`write`](Self::write).
    ///
    /// # Errors
    /// `NotFound` when there is no such row; as [`write`](Self::write).
    pub fn replace_value(&self, id: &str, record: &Record) -> Result<Written> {
        self.write(&CallCx::new(), &WriteOp::replace(id, record.clone()))
    }

    /// Puts a whole row, whether it exists or not. See [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn upsert_value(&self, id: &str, record: &Record) -> Result<Written> {
        self.write(&CallCx::new(), &WriteOp::upsert(id, record.clone()))
    }

    /// Sets some fields of a row that exists. See [`write`](Self::write).
    ///
    /// # Errors
    /// `NotFound` when there is no such row; as [`write`](Self::write).
    pub fn patch_value(&self, id: &str, record: &Record) -> Result<Written> {
        self.write(&CallCx::new(), &WriteOp::patch(id, record.clone()))
    }

    /// Deletes a row; a missing one is fine. See [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn delete(&self, id: &str) -> Result<()> {
        self.write(&CallCx::new(), &WriteOp::delete(id)).map(drop)
    }

    /// Deletes every row; refused when narrowed. See [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn delete_all(&self) -> Result<()> {
        self.write(&CallCx::new(), &WriteOp::delete_all()).map(drop)
    }
}

fn refuse_empty_id(id: &str) -> Result<()> {
    if id.is_empty() { Err(Error::new(ErrorKind::Invalid, "an id must not be empty")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
