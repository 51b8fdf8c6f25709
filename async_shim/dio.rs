//! Dio: one data source run through a Lens, used from async programs.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::call::{call, call_on_own_thread};
use super::lens::AsyncLens;
use super::streams::EventStream;
use super::table::AsyncTableSceneryBuilder;
use super::ticket::AsyncWriteTicket;
use super::views::{AsyncRecordScenery, AsyncValueSceneryBuilder};
use super::vista::AsyncVista;
use super::wait::{any, wait};
use crate::dio::{CacheHandle, CloseReport, Refused};
use crate::lens::Pool;
use crate::sync::{Rank, deadline_after, may_wait_for, on_own_thread};
use crate::value::Record;
use crate::vista::{ChangeEvent, QueryDescriptor, WriteOp};
use crate::{Dio, Error, ErrorKind, Result, Seq, WriteNumber};

/// One data source run through a Lens: a [`Dio`] whose waits are futures. Cheap to clone; the last handle dropped closes it,
/// behind.
#[derive(Debug, Clone)]
pub struct AsyncDio(Dio);

/// The drop of its last handle no longer waits on the thread that drops it.
impl From<Dio> for AsyncDio {
    fn from(dio: Dio) -> Self {
        dio.close_behind_when_dropped();
        AsyncDio(dio)
    }
}

impl Deref for AsyncDio {
    type Target = Dio;

    fn deref(&self) -> &Dio {
        &self.0
    }
}

impl AsyncDio {
    /// As a callback gets it: the drop of the app's own last handle is left as the app has it.
    pub(super) fn of_callback(dio: Dio) -> Self {
        AsyncDio(dio)
    }
}

impl AsyncDio {
    /// A call that waits for the core or the cache's file at the most.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Dio) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let dio = self.0.clone();
        call(self.call_pool(), move || work(&dio)).await
    }

    /// A call that may wait for a source, a callback or the disk.
    pub(super) async fn source_call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Dio) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let dio = self.0.clone();
        call(&self.0.inner().lens.source_call_pool, move || work(&dio)).await
    }

    /// What `attempt` answers once there is room for its writes: on a thread of the library it waits for none.
    pub(super) async fn with_room<T: Send + 'static>(
        &self,
        pool: &Arc<Pool>,
        attempt: impl FnOnce(&Dio) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        loop {
            let signs = self.0.inner().signs_of_room();
            let (dio, again) = (self.0.clone(), attempt.clone());
            match call(pool, move || again(&dio)).await {
                Err(error) if error.kind() == ErrorKind::Full && !on_own_thread() => any(signs.of(&error)).await,
                answer => return answer,
            }
        }
    }

    fn call_pool(&self) -> &Arc<Pool> {
        &self.0.inner().lens.call_pool
    }

    /// The Lens that made it.
    pub fn lens(&self) -> AsyncLens {
        self.0.lens().clone().into()
    }

    /// The local copy.
    pub fn cache(&self) -> AsyncCacheHandle {
        AsyncCacheHandle { cache: self.0.cache(), dio: self.clone() }
    }

    /// The source itself. Calls to it go past the cache.
    pub fn master(&self) -> AsyncVista {
        AsyncVista::of_source(self.0.master().clone(), self.0.inner().lens.source_call_pool.clone())
    }

    /// The Dio as an ordinary source again: reads answer from the cache, also offline; writes go through the queue and wait for
    /// their settlement.
    pub fn vista(&self) -> AsyncVista {
        AsyncVista::of_dio(self.clone(), self.0.vista(), self.0.inner().lens.source_call_pool.clone())
    }

    // ---- views -------------------------------------------------------------------------------------------------

    /// Describes a table view: conditions, search, sort; then `open().await`.
    pub fn table_scenery(&self) -> AsyncTableSceneryBuilder {
        AsyncTableSceneryBuilder::new(self.0.table_scenery(), self.call_pool().clone())
    }

    /// Describes a value view: an aggregate and conditions; then `open().await`.
    pub fn value_scenery(&self) -> AsyncValueSceneryBuilder {
        AsyncValueSceneryBuilder::new(self.0.value_scenery(), self.call_pool().clone())
    }

    /// Follows one row by its id.
    ///
    /// # Errors
    /// As [`Dio::record_scenery`].
    pub async fn record_scenery(&self, id: impl Into<Arc<str>>) -> Result<AsyncRecordScenery> {
        let id = id.into();
        self.call(move |dio| dio.record_scenery(id).map(AsyncRecordScenery::from)).await
    }

    /// Follows one row, and shows the given fields at once.
    ///
    /// # Errors
    /// As [`Dio::record_scenery_with`].
    pub async fn record_scenery_with(&self, id: impl Into<Arc<str>>, record: Record) -> Result<AsyncRecordScenery> {
        let id = id.into();
        self.call(move |dio| dio.record_scenery_with(id, record).map(AsyncRecordScenery::from)).await
    }

    // ---- writing -----------------------------------------------------------------------------------------------

    /// Takes a write for the source, and shows it: every view has it once this is ready. Waits for room in a full queue for as
    /// long as it is awaited, never for the source. Dropped before it is ready, the write may have been taken or not.
    ///
    /// # Errors
    /// As [`Dio::write`], but for `Full`.
    pub async fn write(&self, op: WriteOp) -> Result<AsyncWriteTicket> {
        if on_own_thread() {
            return self.0.write(op).map(AsyncWriteTicket::from);
        }
        let (id, ticket) = self.begin_write(op).await?;
        ticket.wait_staged().await.map_err(|error| self.0.inner().name_write(id.as_deref(), error))?;
        Ok(ticket)
    }

    /// [`write`](Self::write), and is ready once the write is on the disk as well: it will be delivered, also after a crash.
    ///
    /// # Errors
    /// As [`Dio::write_durable`], but for `Full`.
    pub async fn write_durable(&self, op: WriteOp) -> Result<AsyncWriteTicket> {
        if on_own_thread() {
            return self.0.write_durable(op).map(AsyncWriteTicket::from);
        }
        let inner = self.0.inner();
        inner.can_be_durable().map_err(|error| inner.name_write(op.id(), error))?;
        let (id, ticket) = self.begin_write(op).await?;
        ticket.wait_durable().await.map_err(|error| inner.name_write(id.as_deref(), error))?;
        Ok(ticket)
    }

    /// Takes a write, as soon as there is room for it; what becomes of it its ticket says. With the id that it names.
    async fn begin_write(&self, op: WriteOp) -> Result<(Option<String>, AsyncWriteTicket)> {
        let inner = self.0.inner();
        let id = op.id().map(str::to_owned);
        let mut op = op;
        loop {
            let signs = inner.signs_of_room();
            let begun = self.try_begin_write(op).await;
            match begun.map_err(|error| inner.name_write(id.as_deref(), error))? {
                Ok(ticket) => return Ok((id, ticket)),
                Err(refused) if refused.error.kind() == ErrorKind::Full => {
                    op = refused.op;
                    any(signs.of(&refused.error)).await;
                }
                Err(refused) => return Err(refused.error),
            }
        }
    }

    /// [`begin_write`](Self::begin_write), if there is room now. What the pool says of itself is no word on the write.
    async fn try_begin_write(&self, op: WriteOp) -> Result<Result<AsyncWriteTicket, Refused>> {
        let begun = self.call(move |dio| Ok(dio.begin_write(op, None, Duration::ZERO))).await?;
        Ok(begun.map(AsyncWriteTicket::from))
    }

    /// [`write`](Self::write), if there is room in the queue now.
    ///
    /// # Errors
    /// As [`Dio::try_write`]; the write comes back with the reason.
    pub async fn try_write(&self, op: WriteOp) -> Result<AsyncWriteTicket, Box<Refused>> {
        if on_own_thread() {
            return self.0.try_write(op).map(AsyncWriteTicket::from);
        }
        let kept = op.clone();
        let begun = match self.try_begin_write(op).await {
            Ok(begun) => begun.map_err(Box::new)?,
            Err(error) => return Err(self.refused(kept, error)),
        };
        match begun.wait_staged().await {
            Ok(()) => Ok(begun),
            Err(error) => Err(self.refused(kept, error)),
        }
    }

    fn refused(&self, op: WriteOp, error: Error) -> Box<Refused> {
        Box::new(Refused { error: self.0.inner().name_write(op.id(), error), op })
    }

    /// Takes several writes, all or none, as one step of every view. As [`write`](Self::write).
    ///
    /// # Errors
    /// As [`Dio::write_batch`], but for `Full`.
    pub async fn write_batch(&self, ops: Vec<WriteOp>) -> Result<Vec<AsyncWriteTicket>> {
        let tickets = self.with_room(self.call_pool(), move |dio| dio.try_write_batch(ops)).await?;
        Ok(tickets.into_iter().map(AsyncWriteTicket::from).collect())
    }

    /// Makes a failed write again, as it was or as `edited`, and forgets the failed one.
    ///
    /// # Errors
    /// As [`Dio::retry_failed`], but for `Full`.
    pub async fn retry_failed(&self, number: WriteNumber, edited: Option<WriteOp>) -> Result<AsyncWriteTicket> {
        let again = move |dio: &Dio| dio.retry_failed(number, edited);
        self.with_room(self.call_pool(), again).await.map(AsyncWriteTicket::from)
    }

    /// Takes back a write that is not settled.
    ///
    /// # Errors
    /// As [`Dio::drop_write`].
    pub async fn drop_write(&self, number: WriteNumber) -> Result<()> {
        self.call(move |dio| dio.drop_write(number)).await
    }

    /// Waits until every write made before is settled.
    ///
    /// # Errors
    /// `WouldDeadlock` on a thread that their delivery may be waiting for.
    pub async fn wait_for_writes(&self) -> Result<()> {
        for pending in self.0.pending_writes() {
            let ticket = AsyncWriteTicket::from(pending.ticket);
            // How it was settled is for whoever made it.
            if let Err(error) = ticket.wait().await
                && !ticket.state().has_ended()
            {
                return Err(self.0.inner().name_error(error));
            }
        }
        Ok(())
    }

    // ---- freshness ---------------------------------------------------------------------------------------------

    /// Brings the cache up to date with the source: joins the refresh under way or starts one. Dropped, the refresh goes on.
    ///
    /// # Errors
    /// As [`Dio::refresh`].
    pub async fn refresh(&self) -> Result<()> {
        let flight = self.0.begin_refresh()?;
        flight.ended().reached(1).await;
        flight.wait()
    }

    /// Makes the cache equal `rows`, which have just been read from the source.
    ///
    /// # Errors
    /// As [`Dio::reconcile`].
    pub async fn reconcile(&self, rows: Vec<(String, Record)>) -> Result<()> {
        self.source_call(move |dio| dio.reconcile(rows)).await
    }

    /// As [`reconcile`](Self::reconcile), of rows whose reading began when `began` was the newest batch.
    ///
    /// # Errors
    /// As [`Dio::reconcile_as_of`].
    pub async fn reconcile_as_of(&self, began: Seq, rows: Vec<(String, Record)>) -> Result<()> {
        self.source_call(move |dio| dio.reconcile_as_of(began, rows)).await
    }

    /// Takes in a row as the source has it now.
    ///
    /// # Errors
    /// As [`Dio::patched`].
    pub async fn patched(&self, id: impl Into<Arc<str>>, record: Record) -> Result<()> {
        let id = id.into();
        self.call(move |dio| dio.patched(id, record)).await
    }

    /// Takes in a change that the source tells of.
    ///
    /// # Errors
    /// As [`Dio::handle_event`].
    pub async fn handle_event(&self, event: ChangeEvent) -> Result<()> {
        self.source_call(move |dio| dio.handle_event(event)).await
    }

    // ---- waiting and watching ----------------------------------------------------------------------------------

    /// A stream of every event from now on.
    pub fn subscribe_events(&self) -> EventStream {
        EventStream::new(self.0.subscribe_events())
    }

    /// Waits until the batch `seq` is published, also for views that it didn't touch.
    ///
    /// # Errors
    /// As [`Dio::wait_for_seq`], but for the timeout.
    pub async fn wait_for_seq(&self, seq: Seq) -> Result<Seq> {
        let published = self.0.inner().reader.versions.published_notifier();
        wait(published, seq.0, || self.0.wait_for_seq(seq, Some(Duration::ZERO))).await
    }

    /// Waits until every change made before is in the cache's files.
    ///
    /// # Errors
    /// As [`Dio::flush`].
    pub async fn flush(&self) -> Result<()> {
        self.source_call(Dio::flush).await
    }

    /// Closes the Dio, whoever else holds handles, within the timeout. Dropped, the closing goes on.
    ///
    /// # Errors
    /// As [`Dio::close`]; `Unavailable` when the system gives no thread.
    pub async fn close(&self, timeout: Duration) -> Result<CloseReport> {
        may_wait_for(Rank::above_all(), "the closing of a Dio")?;
        let dio = self.0.clone();
        let name = format!("{}:close", self.0.cache_table_name());
        call_on_own_thread(name, move || Ok(dio.inner().close_until(deadline_after(timeout)))).await
    }
}

/// The local copy of a Dio: a [`CacheHandle`] whose waits are futures. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AsyncCacheHandle {
    cache: CacheHandle,
    dio: AsyncDio,
}

impl Deref for AsyncCacheHandle {
    type Target = CacheHandle;

    fn deref(&self) -> &CacheHandle {
        &self.cache
    }
}

impl AsyncCacheHandle {
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CacheHandle) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let cache = self.cache.clone();
        self.dio.call(move |_| work(&cache)).await
    }

    /// One row.
    ///
    /// # Errors
    /// As [`CacheHandle::get`].
    pub async fn get(&self, id: impl Into<String>) -> Result<Option<Record>> {
        let id = id.into();
        self.call(move |cache| cache.get(&id)).await
    }

    /// All rows with their ids, in the order of arrival. Reads the whole cache.
    ///
    /// # Errors
    /// As [`CacheHandle::list`].
    pub async fn list(&self) -> Result<Vec<(String, Record)>> {
        let cache = self.cache.clone();
        self.dio.source_call(move |_| cache.list()).await
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// As [`CacheHandle::count`].
    pub async fn count(&self) -> Result<u64> {
        self.call(CacheHandle::count).await
    }

    /// Puts a row.
    ///
    /// # Errors
    /// As [`CacheHandle::insert`].
    pub async fn insert(&self, id: impl Into<Arc<str>>, record: Record) -> Result<()> {
        let id = id.into();
        self.call(move |cache| cache.insert(id, record)).await
    }

    /// Takes a row out.
    ///
    /// # Errors
    /// As [`CacheHandle::remove`].
    pub async fn remove(&self, id: impl Into<Arc<str>>) -> Result<()> {
        let id = id.into();
        self.call(move |cache| cache.remove(id)).await
    }

    /// Takes every row out.
    ///
    /// # Errors
    /// As [`CacheHandle::clear`].
    pub async fn clear(&self) -> Result<()> {
        let cache = self.cache.clone();
        self.dio.source_call(move |_| cache.clear()).await
    }

    /// Puts many rows, as one step of every view.
    ///
    /// # Errors
    /// As [`CacheHandle::insert_many`].
    pub async fn insert_many(&self, rows: Vec<(String, Record)>) -> Result<()> {
        let cache = self.cache.clone();
        self.dio.source_call(move |_| cache.insert_many(rows)).await
    }

    /// Makes `rows` those that match the query, as one step of every view.
    ///
    /// # Errors
    /// As [`CacheHandle::replace_matching`].
    pub async fn replace_matching(&self, query: QueryDescriptor, rows: Vec<(String, Record)>) -> Result<()> {
        let cache = self.cache.clone();
        self.dio.source_call(move |_| cache.replace_matching(&query, rows)).await
    }
}
