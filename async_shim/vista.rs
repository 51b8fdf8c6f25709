//! Vista: a source, or a Dio seen as one, called from async programs.

use std::ops::Deref;
use std::sync::Arc;

use super::call::call;
use super::dio::AsyncDio;
use crate::Result;
use crate::lens::Pool;
use crate::value::Record;
use crate::vista::{CallCx, Page, PageCursor, QueryDescriptor, Vista, WriteOp, Written};

/// A source, or a Dio seen as one: a [`Vista`] whose calls are futures. Cheap to clone; a clone keeps a narrowing of its own
/// ([`narrowed`](Self::narrowed)). Dropping a call's future cancels the call by its [`CallCx`], if it has begun.
#[derive(Debug, Clone)]
pub struct AsyncVista {
    vista: Vista,
    pool: Arc<Pool>,
    /// The Dio that it is the facade of.
    dio: Option<AsyncDio>,
}

impl Deref for AsyncVista {
    type Target = Vista;

    fn deref(&self) -> &Vista {
        &self.vista
    }
}

/// Cancels a call that nobody waits for any more.
struct CancelOnDrop(CallCx);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel.cancel();
    }
}

/// What became of a write through the queue.
async fn settled(dio: &AsyncDio, op: WriteOp) -> Result<Written> {
    let outcome = dio.write(op).await?.wait().await?;
    let record = match &outcome.id {
        Some(id) => dio.cache().get(id.as_str()).await?,
        None => None,
    };
    Ok(Written { id: outcome.id, record })
}

impl AsyncVista {
    pub(super) fn of_source(vista: Vista, pool: Arc<Pool>) -> Self {
        AsyncVista { vista, pool, dio: None }
    }

    pub(super) fn of_dio(dio: AsyncDio, vista: Vista, pool: Arc<Pool>) -> Self {
        AsyncVista { vista, pool, dio: Some(dio) }
    }

    /// The same source, narrowed by what `narrow` does to it.
    ///
    /// # Errors
    /// What `narrow` says.
    pub fn narrowed(&self, narrow: impl FnOnce(&mut Vista) -> Result<()>) -> Result<AsyncVista> {
        let mut narrowed = self.clone();
        narrow(&mut narrowed.vista)?;
        Ok(narrowed)
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vista, &CallCx) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let cx = CallCx::new();
        let _cancel = CancelOnDrop(cx.clone());
        let vista = self.vista.clone();
        call(&self.pool, move || work(&vista, &cx)).await
    }

    /// The rows with their ids, in order.
    ///
    /// # Errors
    /// As [`Vista::list_values`].
    pub async fn list_values(&self) -> Result<Vec<(String, Record)>> {
        self.call(Vista::list).await
    }

    /// `limit` of the rows, from `offset` on.
    ///
    /// # Errors
    /// As [`Vista::list_window`].
    pub async fn list_window(&self, offset: usize, limit: usize) -> Result<Vec<(String, Record)>> {
        self.call(move |vista, cx| vista.window(cx, offset, limit)).await
    }

    /// `limit` of the rows, the first ones or those behind the page that `after` is of.
    ///
    /// # Errors
    /// As [`Vista::list_page`].
    pub async fn list_page(&self, after: Option<PageCursor>, limit: usize) -> Result<Page> {
        self.call(move |vista, cx| vista.page(cx, after.as_ref(), limit)).await
    }

    /// The rows of the narrowing that `query` asks for, in its order.
    ///
    /// # Errors
    /// As [`Vista::list_query`].
    pub async fn list_query(&self, query: QueryDescriptor) -> Result<Vec<(String, Record)>> {
        self.call(move |vista, cx| vista.list_query(cx, &query)).await
    }

    /// `limit` of the rows of the narrowing that `query` asks for, the first ones or those behind the page that `after` is of.
    ///
    /// # Errors
    /// As [`Vista::page_query`].
    pub async fn page_query(&self, query: QueryDescriptor, after: Option<PageCursor>, limit: usize) -> Result<Page> {
        self.call(move |vista, cx| vista.page_query(cx, &query, after.as_ref(), limit)).await
    }

    /// How many rows of the narrowing `query` asks for.
    ///
    /// # Errors
    /// As [`Vista::count_query`].
    pub async fn count_query(&self, query: QueryDescriptor) -> Result<u64> {
        self.call(move |vista, cx| vista.count_query(cx, &query)).await
    }

    /// One row, if there is one of this id in the narrowing.
    ///
    /// # Errors
    /// As [`Vista::get_value`].
    pub async fn get_value(&self, id: impl Into<String>) -> Result<Option<Record>> {
        let id = id.into();
        self.call(move |vista, cx| vista.get(cx, &id)).await
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// As [`Vista::get_count`].
    pub async fn get_count(&self) -> Result<u64> {
        self.call(Vista::count).await
    }

    /// Does one write. Through a Dio it goes through the queue and is ready once it is settled; dropped, it is delivered all the
    /// same.
    ///
    /// # Errors
    /// As [`Vista::write`].
    pub async fn write(&self, op: WriteOp) -> Result<Written> {
        let Some(dio) = &self.dio else {
            return self.call(move |vista, cx| vista.write(cx, &op)).await;
        };
        self.vista.check_write(&op)?;
        settled(dio, op.clone()).await.map_err(|error| self.vista.at_write(error, &op))
    }

    /// Does several writes in one call of the source, all or none; one answer for each.
    ///
    /// # Errors
    /// As [`Vista::batch`].
    pub async fn batch(&self, ops: Vec<WriteOp>) -> Result<Vec<Written>> {
        self.call(move |vista, cx| vista.batch(cx, &ops)).await
    }

    /// Adds a row, under this id or, with `None`, under one that the source chooses.
    ///
    /// # Errors
    /// As [`Vista::insert_value`].
    pub async fn insert_value(&self, id: Option<String>, record: Record) -> Result<Written> {
        self.write(WriteOp::Insert { id, record }).await
    }

    /// Puts a whole row in the place of one that exists.
    ///
    /// # Errors
    /// As [`Vista::replace_value`].
    pub async fn replace_value(&self, id: impl Into<String>, record: Record) -> Result<Written> {
        self.write(WriteOp::replace(id.into(), record)).await
    }

    /// Puts a whole row, whether it exists or not.
    ///
    /// # Errors
    /// As [`Vista::upsert_value`].
    pub async fn upsert_value(&self, id: impl Into<String>, record: Record) -> Result<Written> {
        self.write(WriteOp::upsert(id.into(), record)).await
    }

    /// Sets some fields of a row that exists.
    ///
    /// # Errors
    /// As [`Vista::patch_value`].
    pub async fn patch_value(&self, id: impl Into<String>, record: Record) -> Result<Written> {
        self.write(WriteOp::patch(id.into(), record)).await
    }

    /// Deletes a row; a missing one is fine.
    ///
    /// # Errors
    /// As [`Vista::delete`].
    pub async fn delete(&self, id: impl Into<String>) -> Result<()> {
        self.write(WriteOp::delete(id.into())).await.map(drop)
    }

    /// Deletes every row; refused when narrowed.
    ///
    /// # Errors
    /// As [`Vista::delete_all`].
    pub async fn delete_all(&self) -> Result<()> {
        self.write(WriteOp::delete_all()).await.map(drop)
    }
}
