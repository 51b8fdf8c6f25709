//! Table: a table view, opened, awaited and followed from async programs.

use std::ops::{Deref, Range};
use std::sync::Arc;
use std::time::Duration;

use super::call::call;
use super::streams::{ChangeSets, Generations};
use super::views::chained;
use super::wait::{any, wait};
use crate::lens::Pool;
use crate::scenery::snapshot::{FirstRows, Row, TableSnapshot};
use crate::scenery::table::{TableScenery, TableSceneryBuilder};
use crate::value::IntoValue;
use crate::vista::{Condition, SortBy, SortDir};
use crate::{ErrorKind, Generation, Result, Scenery};

/// How many rows a poll looks for in memory itself: some microseconds.
const ROWS_AT_ONCE: usize = 256;

/// Describes a table view before it is opened: [`AsyncDio::table_scenery`](super::AsyncDio::table_scenery).
#[must_use = "nothing is opened before `open` or `open_now`"]
#[derive(Debug, Clone)]
pub struct AsyncTableSceneryBuilder {
    inner: TableSceneryBuilder,
    pool: Arc<Pool>,
}

chained! { AsyncTableSceneryBuilder, TableSceneryBuilder;
    /// Only rows whose column (or dotted path) equals this value.
    where_eq(path: impl Into<Arc<str>>, value: impl IntoValue);
    /// Only rows for which this holds too.
    condition(condition: Condition);
    /// Only rows in which this text occurs, whatever its case.
    search(text: impl Into<String>);
    /// Sorted by this column; a second call sorts ties of the first.
    sort(path: impl Into<Arc<str>>, dir: SortDir);
    /// As [`sort`](Self::sort), by a column with a collation of its own.
    sort_with(by: SortBy);
    /// Only the first `rows` of what matches: see [`TableSceneryBuilder::limit`].
    limit(rows: usize);
    /// Only the last `rows` of what matches: see [`TableSceneryBuilder::tail`].
    tail(rows: usize);
}

impl AsyncTableSceneryBuilder {
    pub(super) fn new(inner: TableSceneryBuilder, pool: Arc<Pool>) -> Self {
        AsyncTableSceneryBuilder { inner, pool }
    }

    /// Opens the view; ready when it shows the rows the Dio has.
    ///
    /// # Errors
    /// As [`TableSceneryBuilder::open`].
    pub async fn open(self) -> Result<AsyncTableScenery> {
        let view = self.open_now().await?;
        view.wait_until_ready().await?;
        Ok(view)
    }

    /// Opens the view, which fills behind.
    ///
    /// # Errors
    /// As [`TableSceneryBuilder::open_now`].
    pub async fn open_now(self) -> Result<AsyncTableScenery> {
        let inner = self.inner;
        let view = call(&self.pool, move || inner.open_now()).await?;
        Ok(AsyncTableScenery { view, pool: self.pool })
    }
}

/// A live, sorted, filtered list of a Dio's rows: a [`TableScenery`] whose waits are futures. Cheap to clone; clones are the
/// same view.
#[derive(Debug, Clone)]
pub struct AsyncTableScenery {
    view: TableScenery,
    pool: Arc<Pool>,
}

impl Deref for AsyncTableScenery {
    type Target = TableScenery;

    fn deref(&self) -> &TableScenery {
        &self.view
    }
}

impl Scenery for AsyncTableScenery {
    fn signal(&self) -> &crate::scenery::signal::Signal {
        self.view.signal()
    }
}

impl AsyncTableScenery {
    /// Waits until the generation is at least `at_least`, and gives back the newest.
    ///
    /// # Errors
    /// As [`Scenery::wait_for_generation`], but for the timeout.
    pub async fn wait_for_generation(&self, at_least: Generation) -> Result<Generation> {
        super::views::generation(&self.view, at_least).await
    }

    /// Waits until the generation is beyond `since`, and gives back the newest.
    ///
    /// # Errors
    /// As [`wait_for_generation`](Self::wait_for_generation).
    pub async fn wait_for_change(&self, since: Generation) -> Result<Generation> {
        super::views::change(&self.view, since).await
    }

    /// Waits until the last query asked for is shown.
    ///
    /// # Errors
    /// As [`TableScenery::wait_until_ready`], but for the timeout.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let (landed, request) = self.view.landing();
        // Not the last one at each look: who goes on asking for others would never be answered, or told of no time.
        wait(landed, request, || self.view.wait_until_landed(request, Some(Duration::ZERO))).await
    }

    /// Waits until there are [`first_rows`](TableScenery::first_rows), or the whole is there (`None`).
    ///
    /// # Errors
    /// As [`TableScenery::wait_for_first_rows`], but for the timeout.
    pub async fn wait_for_first_rows(&self) -> Result<Option<FirstRows>> {
        loop {
            let (landed, request) = self.view.landing();
            let news = [self.view.signal().beyond(self.view.generation()), landed.reached(request)];
            match self.view.wait_for_first_rows(Some(Duration::ZERO)) {
                Err(error) if error.kind() == ErrorKind::Timeout => any(news.into()).await,
                answer => return answer,
            }
        }
    }

    /// The newest generation now, and then after each move. It ends when the Dio closes, and keeps the view.
    pub fn generations(&self) -> Generations<TableScenery> {
        Generations::new(self.view.clone())
    }

    /// What has changed since now, after each move of the view: see [`TableScenery::changes_since`]. Moves that come while
    /// nobody takes them are one change set. It ends when the Dio closes, and keeps the view.
    pub fn change_sets(&self) -> ChangeSets {
        self.change_sets_since(self.view.generation())
    }

    /// As [`change_sets`](Self::change_sets), beginning with what has changed since `from`.
    pub fn change_sets_since(&self, from: Generation) -> ChangeSets {
        ChangeSets::new(self.view.clone(), from)
    }

    pub(super) async fn call<T: Send + 'static>(&self, read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        call(&self.pool, read).await
    }

    /// The row at a position of the newest state, read from the disk if need be.
    ///
    /// # Errors
    /// `Closed`. What is wrong with the row itself it says itself: [`Row::status`].
    pub async fn row(&self, index: usize) -> Result<Option<Row>> {
        let snapshot = self.view.snapshot();
        match snapshot.try_row(index) {
            None if index < snapshot.row_count() => self.call(move || Ok(snapshot.row(index))).await,
            in_memory => Ok(in_memory),
        }
    }

    /// The rows of these positions of the newest state, read from the disk if need be.
    ///
    /// # Errors
    /// As [`row`](Self::row).
    pub async fn rows(&self, range: Range<usize>) -> Result<Vec<Row>> {
        self.rows_of(&self.view.snapshot(), range).await
    }

    /// The rows of these positions of a snapshot, such as a change set's, read from the disk if need be.
    ///
    /// # Errors
    /// As [`row`](Self::row).
    pub async fn rows_of(&self, snapshot: &TableSnapshot, range: Range<usize>) -> Result<Vec<Row>> {
        let positions = range.start..range.end.min(snapshot.row_count());
        if positions.len() <= ROWS_AT_ONCE
            && let Some(in_memory) = positions.map(|index| snapshot.try_row(index)).collect()
        {
            return Ok(in_memory);
        }
        let snapshot = snapshot.clone();
        self.call(move || Ok(snapshot.rows(range).collect())).await
    }

    /// The position of a row in the newest state.
    ///
    /// # Errors
    /// As [`TableScenery::position_of`].
    pub async fn position_of(&self, id: impl Into<String>) -> Result<Option<usize>> {
        let (snapshot, id) = (self.view.snapshot(), id.into());
        self.call(move || snapshot.position_of(&id)).await
    }
}
