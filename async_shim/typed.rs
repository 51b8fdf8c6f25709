//! Typed: a Dio's rows as a struct of the application's own, from async programs.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dio::AsyncDio;
use super::table::{AsyncTableScenery, AsyncTableSceneryBuilder};
use super::ticket::AsyncWriteTicket;
use super::views::{AsyncRecordScenery, chained};
use crate::value::IntoValue;
use crate::vista::{Condition, SortBy, SortDir, WriteOp};
use crate::{Generation, Result, TypedChangeSet, TypedDio, TypedRecord, TypedSnapshot, TypedTable};

/// A Dio whose rows are `T`s: a [`TypedDio`] whose waits are futures. Cheap to clone.
pub struct AsyncTypedDio<T> {
    typed: TypedDio<T>,
    dio: AsyncDio,
}

impl<T> Clone for AsyncTypedDio<T> {
    fn clone(&self) -> Self {
        AsyncTypedDio { typed: self.typed.clone(), dio: self.dio.clone() }
    }
}

impl<T> fmt::Debug for AsyncTypedDio<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncTypedDio").field(&self.typed).finish()
    }
}

impl AsyncDio {
    /// Its rows as `T`s: see [`Dio::typed`](crate::Dio::typed).
    ///
    /// ```
    /// use diorama::AsyncLens;
    /// use diorama::prelude::*;
    ///
    /// #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    /// struct Product {
    ///     id: u32,
    ///     name: String,
    /// }
    ///
    /// # fn main() -> diorama::Result<()> {
    /// # pollster::block_on(async {
    /// let lens = AsyncLens::build(Lens::new().in_memory()).await?;
    /// let products = lens.make_dio(MemoryVista::new("products", "id")).await?.typed::<Product>();
    /// let bell = Product { id: 7, name: "Bell".into() };
    /// products.insert(&bell).await?.wait().await?;
    /// assert_eq!(products.get(7).await?, Some(bell));
    ///
    /// let by_name = products.table_scenery().sort("name", SortDir::Asc).open().await?;
    /// assert_eq!(by_name.snapshot().row(0)?.map(|product| product.name).as_deref(), Some("Bell"));
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn typed<T>(&self) -> AsyncTypedDio<T> {
        AsyncTypedDio { typed: crate::Dio::typed(self), dio: self.clone() }
    }
}

impl<T> AsyncTypedDio<T> {
    /// The Dio itself.
    pub fn dio(&self) -> &AsyncDio {
        &self.dio
    }

    /// Deletes a row, as [`AsyncDio::write`] does.
    ///
    /// # Errors
    /// As [`AsyncDio::write`].
    pub async fn delete(&self, id: impl fmt::Display) -> Result<AsyncWriteTicket> {
        self.dio.write(WriteOp::delete(id.to_string())).await
    }

    /// Sets some fields of a row, as [`AsyncDio::write`] does.
    ///
    /// # Errors
    /// As [`TypedDio::patch`], but for `Full`.
    pub async fn patch(&self, id: impl fmt::Display, fields: &impl Serialize) -> Result<AsyncWriteTicket> {
        self.dio.write(self.typed.patch_op(id.to_string(), fields)?).await
    }
}

impl<T: DeserializeOwned> AsyncTypedDio<T> {
    // ---- reading -----------------------------------------------------------------------------------------------

    /// One row, from the cache; `None` when there is none.
    ///
    /// # Errors
    /// As [`TypedDio::get`].
    pub async fn get(&self, id: impl fmt::Display) -> Result<Option<T>> {
        let id = id.to_string();
        let record = self.dio.cache().get(id.as_str()).await?;
        record.map(|record| self.typed.read(&id, &record)).transpose()
    }

    /// All rows with their ids, in the order of arrival. Reads the whole cache.
    ///
    /// # Errors
    /// As [`TypedDio::list`].
    pub async fn list(&self) -> Result<Vec<(String, T)>>
    where
        T: Send + 'static,
    {
        let typed = self.typed.clone();
        self.dio.source_call(move |_| typed.list()).await
    }

    // ---- views -------------------------------------------------------------------------------------------------

    /// Describes a table view of `T`s; then `open().await`.
    pub fn table_scenery(&self) -> AsyncTypedTableBuilder<T> {
        AsyncTypedTableBuilder { inner: self.dio.table_scenery(), typed: self.typed.clone() }
    }

    /// Follows one row by its id.
    ///
    /// # Errors
    /// As [`TypedDio::record_scenery`].
    pub async fn record_scenery(&self, id: impl fmt::Display) -> Result<AsyncTypedRecord<T>> {
        let view = self.dio.record_scenery(id.to_string()).await?;
        Ok(AsyncTypedRecord { typed: self.typed.record_of((*view).clone()), view })
    }
}

impl<T: Serialize> AsyncTypedDio<T> {
    // ---- writing -----------------------------------------------------------------------------------------------

    /// A new row, under the id of `T`'s id field or one that the source chooses.
    ///
    /// # Errors
    /// As [`TypedDio::insert`], but for `Full`.
    pub async fn insert(&self, row: &T) -> Result<AsyncWriteTicket> {
        self.dio.write(self.typed.insert_op(row)?).await
    }

    /// A new row under this id.
    ///
    /// # Errors
    /// As [`TypedDio::insert_as`], but for `Full`.
    pub async fn insert_as(&self, id: impl fmt::Display, row: &T) -> Result<AsyncWriteTicket> {
        self.dio.write(self.typed.whole_op(id.to_string(), row, WriteOp::insert_as)?).await
    }

    /// A whole row in the place of one that exists.
    ///
    /// # Errors
    /// As [`TypedDio::replace`], but for `Full`.
    pub async fn replace(&self, id: impl fmt::Display, row: &T) -> Result<AsyncWriteTicket> {
        self.dio.write(self.typed.whole_op(id.to_string(), row, WriteOp::replace)?).await
    }

    /// A whole row, whether it exists or not.
    ///
    /// # Errors
    /// As [`TypedDio::upsert`], but for `Full`.
    pub async fn upsert(&self, id: impl fmt::Display, row: &T) -> Result<AsyncWriteTicket> {
        self.dio.write(self.typed.whole_op(id.to_string(), row, WriteOp::upsert)?).await
    }
}

/// Describes a table view of `T`s before it is opened: [`AsyncTypedDio::table_scenery`].
#[must_use = "nothing is opened before `open` or `open_now`"]
pub struct AsyncTypedTableBuilder<T> {
    inner: AsyncTableSceneryBuilder,
    typed: TypedDio<T>,
}

chained! { AsyncTypedTableBuilder<T>, AsyncTableSceneryBuilder;
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
    /// Only the first `rows` of what matches.
    limit(rows: usize);
    /// Only the last `rows` of what matches.
    tail(rows: usize);
}

impl<T: DeserializeOwned> AsyncTypedTableBuilder<T> {
    /// Opens the view; ready when it shows the rows the Dio has.
    ///
    /// # Errors
    /// As [`AsyncTableSceneryBuilder::open`].
    pub async fn open(self) -> Result<AsyncTypedTable<T>> {
        let view = self.inner.open().await?;
        Ok(AsyncTypedTable { typed: self.typed.table_of((*view).clone()), view })
    }

    /// Opens the view, which fills behind.
    ///
    /// # Errors
    /// As [`AsyncTableSceneryBuilder::open_now`].
    pub async fn open_now(self) -> Result<AsyncTypedTable<T>> {
        let view = self.inner.open_now().await?;
        Ok(AsyncTypedTable { typed: self.typed.table_of((*view).clone()), view })
    }
}

/// A table view whose rows are `T`s. Everything but its rows is the [`AsyncTableScenery`]'s, to which it dereferences.
pub struct AsyncTypedTable<T> {
    typed: TypedTable<T>,
    view: AsyncTableScenery,
}

impl<T> Clone for AsyncTypedTable<T> {
    fn clone(&self) -> Self {
        AsyncTypedTable { typed: self.typed.clone(), view: self.view.clone() }
    }
}

impl<T> fmt::Debug for AsyncTypedTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncTypedTable").field(&self.view).finish()
    }
}

impl<T> Deref for AsyncTypedTable<T> {
    type Target = AsyncTableScenery;

    fn deref(&self) -> &AsyncTableScenery {
        &self.view
    }
}

impl<T: DeserializeOwned> AsyncTypedTable<T> {
    /// The rows as they are now, frozen: see [`TypedTable::snapshot`].
    pub fn snapshot(&self) -> TypedSnapshot<T> {
        self.typed.snapshot()
    }

    /// What has changed since a generation, and the rows it leads to: see [`TypedTable::changes_since`].
    pub fn changes_since(&self, from: Generation) -> TypedChangeSet<T> {
        self.typed.changes_since(from)
    }

    /// The row at a position of the newest state if memory has it: see [`TypedTable::try_row`].
    ///
    /// # Errors
    /// As [`TypedTable::try_row`].
    pub fn try_row(&self, index: usize) -> Result<Option<T>> {
        self.typed.try_row(index)
    }

    /// The row at a position of the newest state, read from the disk if need be; `None` past the end.
    ///
    /// # Errors
    /// As [`TypedTable::row`].
    pub async fn row(&self, index: usize) -> Result<Option<T>>
    where
        T: Send + 'static,
    {
        let snapshot = self.typed.snapshot();
        self.view.call(move || snapshot.row(index)).await
    }

    /// The rows of these positions of the newest state, read from the disk if need be. One that doesn't fit `T` doesn't end
    /// them.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn rows(&self, range: Range<usize>) -> Result<Vec<Result<T>>>
    where
        T: Send + 'static,
    {
        let snapshot = self.typed.snapshot();
        self.view.call(move || Ok(snapshot.rows(range).collect())).await
    }
}

/// A view of one row as a `T`. Everything but its value is the [`AsyncRecordScenery`]'s, to which it dereferences.
pub struct AsyncTypedRecord<T> {
    typed: TypedRecord<T>,
    view: AsyncRecordScenery,
}

impl<T> Clone for AsyncTypedRecord<T> {
    fn clone(&self) -> Self {
        AsyncTypedRecord { typed: self.typed.clone(), view: self.view.clone() }
    }
}

impl<T> fmt::Debug for AsyncTypedRecord<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncTypedRecord").field(&self.view).finish()
    }
}

impl<T> Deref for AsyncTypedRecord<T> {
    type Target = AsyncRecordScenery;

    fn deref(&self) -> &AsyncRecordScenery {
        &self.view
    }
}

impl<T: DeserializeOwned> AsyncTypedRecord<T> {
    /// The row as it is now; `None` when there is none. Doesn't wait.
    ///
    /// # Errors
    /// As [`TypedRecord::value`].
    pub fn value(&self) -> Result<Option<T>> {
        self.typed.value()
    }
}
