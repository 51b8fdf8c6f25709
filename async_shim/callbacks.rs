//! Callbacks: the user's code as futures, driven where the blocking callbacks run.
//!
//! Owner: the thread that the blocking callback of that name runs on.
//! Flow: the Lens's callback → a future, in the runtime's context if one was given → driven to its end → its answer.
//! Invariants: what a callback awaits through its Dio is part of its batch; a wait that could never end is `WouldDeadlock`
//! (`a_callback_that_awaits_its_own_dio_would_deadlock_and_says_so`); a thread of the application never drives a future, for it
//! may be an executor's (`an_event_handed_over_on_an_executors_thread_is_taken_in_elsewhere`).

use super::dio::AsyncDio;
use super::drive::until_cancelled;
use super::runtime::wait_here;
use crate::lens::{Conflict, LensBuilder, Resolution, WriteRequest};
use crate::sync::{Rank, reply};
use crate::vista::{ChangeEvent, QueryDescriptor, Written};
use crate::{Dio, Error, ErrorKind, Result};

/// The setting that takes a runtime.
const SETTING: &str = "tokio_handle";

/// Callbacks as futures. They are driven by the thread that runs the blocking callback of that name, one at a time, so they need
/// not be `Send`; the callbacks themselves are called from several threads.
///
/// What a callback does through its [`AsyncDio`] counts as in a blocking one: inserts, removals, `clear` and `patched` are one
/// batch, which reads there see, applied when it returns `Ok` and dropped when it fails. Tasks that it spawns elsewhere are no
/// part of it. The blocking calls are there, too ([`AsyncDio`] dereferences to [`Dio`]), and may be used.
///
/// A callback goes on for as long as it likes, and a refresh or a write with it; closing the Dio ends it where it awaits, by
/// dropping its future.
///
/// A callback whose futures need Tokio (its timers, sockets, `spawn`) is given the handle of a multi-thread runtime by
/// `LensBuilder::tokio_handle` (feature `tokio`); without it, it fails with an error of kind
/// [`Invalid`](crate::ErrorKind::Invalid) that says so.
impl LensBuilder {
    /// Fills the cache when a Dio starts, as [`on_start`](Self::on_start) does.
    ///
    /// ```
    /// use diorama::prelude::*;
    ///
    /// async fn fetch_products() -> diorama::Result<Vec<(String, Record)>> {
    ///     Ok(vec![("a".to_owned(), record! { "price" => 30 })])
    /// }
    ///
    /// # fn main() -> diorama::Result<()> {
    /// let lens = Lens::new()
    ///     .in_memory()
    ///     .on_start_async(async |dio| {
    ///         let rows = fetch_products().await?;
    ///         dio.cache().insert_many(rows).await
    ///     })
    ///     .build()?;
    /// let products = lens.make_dio(MemoryVista::new("products", "id"))?;
    /// assert_eq!(products.cache().count()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_start_async(self, callback: impl AsyncFn(&AsyncDio) -> Result<()> + Send + Sync + 'static) -> Self {
        self.on_start(move |dio| drive("on_start", dio, &callback))
    }

    /// Refreshes the cache, as [`on_refresh`](Self::on_refresh) does.
    pub fn on_refresh_async(self, callback: impl AsyncFn(&AsyncDio) -> Result<()> + Send + Sync + 'static) -> Self {
        self.on_refresh(move |dio| drive("on_refresh", dio, &callback))
    }

    /// Brings the rows of one query, as [`on_query`](Self::on_query) does. Whoever awaits them may be dropped: the callback goes
    /// on for the others.
    ///
    /// ```
    /// use diorama::prelude::*;
    /// use diorama::vista::QueryDescriptor;
    ///
    /// async fn fetch(query: &QueryDescriptor) -> diorama::Result<Vec<(String, Record)>> {
    ///     println!("GET /airports?{}", query.canonical());
    ///     Ok(vec![("DAL".to_owned(), record! { "state" => "TX" })])
    /// }
    ///
    /// # fn main() -> diorama::Result<()> {
    /// let lens = Lens::new()
    ///     .in_memory()
    ///     .on_query_async(async |dio, query| {
    ///         let rows = fetch(query).await?;
    ///         dio.cache().replace_matching(query.clone(), rows).await
    ///     })
    ///     .build()?;
    /// let airports = lens.make_dio(MemoryVista::new("airports", "id"))?;
    /// assert_eq!(airports.table_scenery().where_eq("state", "TX").open()?.row_count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_query_async(
        self,
        callback: impl AsyncFn(&AsyncDio, &QueryDescriptor) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.on_query(move |dio, query| drive("on_query", dio, async |dio| callback(dio, query).await))
    }

    /// Delivers writes, as [`on_write`](Self::on_write) does. The [`WriteRequest`]'s [`cx`](WriteRequest::cx) says until when the
    /// answer is wanted, for whatever timeout the client takes.
    ///
    /// ```
    /// use diorama::prelude::*;
    ///
    /// async fn put(id: &str, price: Option<i64>) -> diorama::Result<()> {
    ///     let _ = (id, price);
    ///     Ok(())
    /// }
    ///
    /// # fn main() -> diorama::Result<()> {
    /// let lens = Lens::new()
    ///     .in_memory()
    ///     .on_write_async(async |_dio, request| {
    ///         let Some(id) = request.id() else {
    ///             return Err(Error::new(ErrorKind::Unsupported, "only rows with an id"));
    ///         };
    ///         put(id, request.record().and_then(|record| record.int("price"))).await?;
    ///         Ok(Written::id(id))
    ///     })
    ///     .build()?;
    /// let products = lens.make_dio(MemoryVista::new("products", "id"))?;
    /// products.write(WriteOp::upsert("a", record! { "price" => 30 }))?.wait(std::time::Duration::from_secs(5))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_write_async(
        self,
        callback: impl AsyncFn(&AsyncDio, &WriteRequest<'_>) -> Result<Written> + Send + Sync + 'static,
    ) -> Self {
        self.on_write(move |dio, request| drive("on_write", dio, async |dio| callback(dio, request).await))
    }

    /// Decides over each write in conflict, as [`on_conflict`](Self::on_conflict) does.
    pub fn on_conflict_async(
        self,
        callback: impl AsyncFn(&AsyncDio, &Conflict<'_>) -> Result<Resolution> + Send + Sync + 'static,
    ) -> Self {
        self.on_conflict(move |dio, met| drive("on_conflict", dio, async |dio| callback(dio, met).await))
    }

    /// Takes in changes from outside, as [`on_event`](Self::on_event) does, but never on the thread that calls
    /// [`Dio::handle_event`]: that may be an executor's, which must not be kept from its work. It waits; one of the library's
    /// threads (the Lens's `source-call` pool) runs the callback.
    pub fn on_event_async(
        self,
        callback: impl AsyncFn(&AsyncDio, ChangeEvent) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let mut settings =
            self.on_event(move |dio, event| drive("on_event", dio, async |dio| callback(dio, event).await));
        settings.callbacks.on_event_is_async = true;
        settings
    }

    /// Runs every callback and every [`AsyncSource`](crate::AsyncSource) of this Lens in the context of this Tokio runtime, so
    /// that its timers, sockets and `spawn` work there. The runtime must outlive the Lens: what is still to be delivered when it
    /// ends waits for the next start. Needs the feature `tokio`.
    ///
    /// It must be a multi-thread runtime (one worker thread will do): nobody drives a current-thread one while a callback waits
    /// for it. [`build`](Self::build) refuses that with `Invalid`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use diorama::prelude::*;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    /// let lens = Lens::new()
    ///     .in_memory()
    ///     .tokio_handle(runtime.handle().clone())
    ///     .on_refresh_async(async |dio| {
    ///         tokio::time::sleep(Duration::from_millis(1)).await;
    ///         dio.cache().insert("a", record! { "price" => 30 }).await
    ///     })
    ///     .build()?;
    /// let products = lens.make_dio(MemoryVista::new("products", "id"))?;
    /// assert_eq!(products.cache().count()?, 1);
    /// lens.close(Duration::from_secs(5))?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tokio")]
    pub fn tokio_handle(mut self, handle: tokio::runtime::Handle) -> Self {
        self.callbacks.runtime = super::runtime::Runtime::of(handle);
        self
    }
}

/// Runs a callback to its end.
fn drive<T>(what: &'static str, dio: &Dio, callback: impl AsyncFnOnce(&AsyncDio) -> Result<T>) -> Result<T> {
    let cx = dio.inner().call_cx();
    let dio = AsyncDio::of_callback(dio.clone());
    cx.runtime().run(what, SETTING, || {
        let closed = || Err(Error::new(ErrorKind::Closed, "the Dio was closed before the callback was over"));
        until_cancelled(&cx.cancel, callback(&dio)).unwrap_or_else(closed)
    })
}

/// [`Dio::handle_event`] by an async `on_event`, on a thread of the library.
pub(crate) fn handle_event(dio: &Dio, event: ChangeEvent) -> Result<()> {
    let (sender, receiver) = reply();
    let taken_in = dio.clone();
    let job = move || sender.send(taken_in.handle_event(event));
    dio.inner().lens.source_call_pool.submit(Rank::above_all(), Box::new(job))?;
    wait_here(receiver)
}
