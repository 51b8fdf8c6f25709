//! Source: a data source whose calls are futures, as an ordinary one.
//!
//! Owner: each call is driven by the thread of the library that makes it; a thread of the application has one of its own for it.
//! Flow: a call of [`TableShell`] → the future, in the runtime's context if one was given → its answer, or why it isn't wanted
//! any more.
//! Invariants: the adapter adds nothing and takes nothing away (it passes `vista::contract`:
//! `an_async_source_keeps_the_contract`); a thread of the application never drives a future, for it may be an executor's
//! (`a_source_called_on_an_executors_thread_does_not_hang`).
//! Close/panic: a panic of the source is an error of that call.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use parking_lot::Mutex;

use super::drive::while_wanted;
use super::runtime::{Runtime, wait_here};
use crate::sync::{Rank, on_own_thread, reply, spawn};
use crate::value::Record;
use crate::vista::{
    CallCx, Capabilities, ChangeEvent, ChangeStream, Page, PageCursor, PushDown, QueryDescriptor, Schema, TableShell,
    Vista, WriteOp, Written,
};
use crate::{Error, ErrorKind, Result};

/// The settings that take a runtime.
const SETTING: &str = "AsyncSource::with_tokio";

/// The changes at a source, one after the other, for as long as it is polled. The end of the stream is the end of the changes.
pub type ChangesFromOutside = Pin<Box<dyn Stream<Item = Result<ChangeEvent>> + Send>>;

/// A data source whose calls are futures: [`TableShell`], method by method, to be implemented by whoever has an async client.
/// [`AsyncSource`] makes an ordinary source of it.
///
/// The futures need not be `Send`: the thread that makes a call drives its future. It is dropped at its next await when the call
/// is cancelled or its deadline passes, so that a source need not look at its [`CallCx`]; a write that is dropped may have been
/// done or not, as one whose answer is lost on the way.
///
/// ```
/// use std::sync::Arc;
/// use diorama::prelude::*;
/// use diorama::vista::{Capabilities, QueryDescriptor, Schema};
/// use diorama::{AsyncTableShell, Result};
///
/// struct Shop;
///
/// impl Shop {
///     async fn fetch(&self) -> Vec<(String, Record)> {
///         vec![("a".to_owned(), record! { "price" => 30 })]
///     }
/// }
///
/// impl AsyncTableShell for Shop {
///     fn name(&self) -> &str {
///         "products"
///     }
///
///     fn source_key(&self) -> String {
///         "https://shop.example/products".to_owned()
///     }
///
///     fn schema(&self) -> Arc<Schema> {
///         Arc::new(Schema::open("id"))
///     }
///
///     fn capabilities(&self) -> Capabilities {
///         Capabilities::list_only()
///     }
///
///     async fn list(&self, _cx: &CallCx, _query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
///         Ok(self.fetch().await)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let products = Lens::new().in_memory().build()?.make_dio(Vista::from_async(Shop))?;
/// assert_eq!(products.cache().count()?, 1);
/// # Ok(())
/// # }
/// ```
#[expect(async_fn_in_trait, reason = "the futures stay on the thread that drives them: no bound is missing")]
pub trait AsyncTableShell: Send + Sync + 'static {
    /// As [`TableShell::name`].
    fn name(&self) -> &str;

    /// As [`TableShell::source_key`].
    fn source_key(&self) -> String;

    /// As [`TableShell::schema`]. Answers from memory.
    fn schema(&self) -> Arc<Schema>;

    /// As [`TableShell::capabilities`]. Answers from memory.
    fn capabilities(&self) -> Capabilities;

    /// As [`TableShell::push_down`]. Answers from memory.
    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        PushDown::nothing(query)
    }

    /// The rows that `query` asks for, as [`TableShell::list`].
    ///
    /// # Errors
    /// As [`TableShell::list`].
    async fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>>;

    /// Some of the rows, as [`TableShell::page`].
    ///
    /// # Errors
    /// As [`TableShell::page`].
    async fn page(
        &self,
        cx: &CallCx,
        query: &QueryDescriptor,
        after: Option<&PageCursor>,
        limit: usize,
    ) -> Result<Page> {
        let _ = (cx, query, after, limit);
        Err(self.unsupported("page"))
    }

    /// One row, as [`TableShell::get`].
    ///
    /// # Errors
    /// As [`TableShell::get`].
    async fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        let _ = (cx, id);
        Err(self.unsupported("get"))
    }

    /// How many rows `query` has, as [`TableShell::count`].
    ///
    /// # Errors
    /// As [`TableShell::count`].
    async fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        let _ = (cx, query);
        Err(self.unsupported("count"))
    }

    /// Adds a row, as [`TableShell::insert`].
    ///
    /// # Errors
    /// As [`TableShell::insert`].
    async fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        let _ = (cx, id, record);
        Err(self.unsupported("insert"))
    }

    /// Puts a whole row in the place of one that exists, as [`TableShell::replace`].
    ///
    /// # Errors
    /// As [`TableShell::replace`].
    async fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let _ = (cx, id, record);
        Err(self.unsupported("replace"))
    }

    /// Puts a whole row, whether it exists or not, as [`TableShell::upsert`].
    ///
    /// # Errors
    /// As [`TableShell::upsert`].
    async fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let _ = (cx, id, record);
        Err(self.unsupported("upsert"))
    }

    /// Sets some fields of a row that exists, as [`TableShell::patch`].
    ///
    /// # Errors
    /// As [`TableShell::patch`].
    async fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let _ = (cx, id, record);
        Err(self.unsupported("patch"))
    }

    /// Deletes a row; a missing one is fine. As [`TableShell::delete`].
    ///
    /// # Errors
    /// As [`TableShell::delete`].
    async fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        let _ = (cx, id);
        Err(self.unsupported("delete"))
    }

    /// Deletes every row, as [`TableShell::delete_all`].
    ///
    /// # Errors
    /// As [`TableShell::delete_all`].
    async fn delete_all(&self, cx: &CallCx) -> Result<()> {
        let _ = cx;
        Err(self.unsupported("delete_all"))
    }

    /// Does several writes, all or none, as [`TableShell::batch`].
    ///
    /// # Errors
    /// As [`TableShell::batch`].
    async fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        let _ = (cx, ops);
        Err(self.unsupported("batch"))
    }

    /// The changes made from now on, as [`TableShell::changes`], but as a stream. It is polled for one change at a time, each
    /// with a [`CallCx`] of its own, and goes on after one that was cancelled.
    ///
    /// # Errors
    /// As [`TableShell::changes`].
    async fn changes(&self, cx: &CallCx) -> Result<ChangesFromOutside> {
        let _ = cx;
        Err(self.unsupported("changes"))
    }

    /// As [`TableShell::stack_level`]: a source that reads a Dio's facade hands that one's answer on.
    fn stack_level(&self) -> u32 {
        0
    }

    /// The error for a call this source doesn't take.
    fn unsupported(&self, call: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("this source does not support `{call}`")).with("table", self.name())
    }
}

/// A source whose calls are futures, as an ordinary source: each call blocks until its future is ready, the call is cancelled, or
/// its deadline passes. A panic of the source is an error of that call.
///
/// The thread that makes the call drives the future if it is one of the library's. A thread of the application may be an
/// executor's, so a call from there is made on a thread of its own.
pub struct AsyncSource<S> {
    shell: Arc<S>,
    runtime: Runtime,
}

impl<S: AsyncTableShell> fmt::Debug for AsyncSource<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncSource").field("source", &self.shell.source_key()).finish_non_exhaustive()
    }
}

impl<S> Clone for AsyncSource<S> {
    fn clone(&self) -> Self {
        AsyncSource { shell: self.shell.clone(), runtime: self.runtime.clone() }
    }
}

/// What calls are made with: on which thread, in which context.
#[derive(Clone)]
struct Calls {
    name: String,
    runtime: Runtime,
}

impl Calls {
    /// Makes a call, whose work blocks.
    fn make<T: Send + 'static>(
        &self,
        cx: &CallCx,
        work: impl FnOnce(&CallCx) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        cx.check()?;
        let runtime = self.runtime.or(cx.runtime());
        if on_own_thread() {
            return runtime.run("the source", SETTING, || work(cx));
        }
        let runtime = runtime.or(&Runtime::of_this_thread());
        let cx = cx.clone();
        let (sender, receiver) = reply();
        let job = move || sender.send(runtime.run("the source", SETTING, || work(&cx)));
        // Nobody joins it: its answer is its end.
        drop(spawn(format!("{}:source-call", self.name), Rank::above_all(), job)?);
        wait_here(receiver)
    }
}

impl<S: AsyncTableShell> AsyncSource<S> {
    /// This source as an ordinary one.
    pub fn new(shell: S) -> Self {
        AsyncSource { shell: Arc::new(shell), runtime: Runtime::default() }
    }

    /// Makes every call in the context of this Tokio runtime, so that its timers, sockets and `spawn` work there. Without it, a
    /// call is made in the context of the runtime that the Lens was given
    /// ([`LensBuilder::tokio_handle`](crate::LensBuilder::tokio_handle)), or that the calling thread is in. Needs the feature
    /// `tokio`.
    ///
    /// # Errors
    /// `Invalid` for a current-thread runtime, which stands still while nobody drives it.
    #[cfg(feature = "tokio")]
    pub fn with_tokio(mut self, handle: tokio::runtime::Handle) -> Result<Self> {
        self.runtime = Runtime::of(handle);
        self.runtime.check(SETTING).map_err(|error| error.with("table", self.shell.name()))?;
        Ok(self)
    }

    /// The source itself.
    pub fn shell(&self) -> &S {
        &self.shell
    }

    fn calls(&self) -> Calls {
        Calls { name: self.shell.name().to_owned(), runtime: self.runtime.clone() }
    }

    fn call<T: Send + 'static>(
        &self,
        cx: &CallCx,
        call: impl AsyncFnOnce(&S, &CallCx) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shell = self.shell.clone();
        self.calls().make(cx, move |cx| while_wanted(cx, call(&shell, cx)))
    }
}

impl<S: AsyncTableShell> TableShell for AsyncSource<S> {
    fn name(&self) -> &str {
        self.shell.name()
    }

    fn source_key(&self) -> String {
        self.shell.source_key()
    }

    fn schema(&self) -> Arc<Schema> {
        self.shell.schema()
    }

    fn capabilities(&self) -> Capabilities {
        self.shell.capabilities()
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        self.shell.push_down(query)
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        let query = query.clone();
        self.call(cx, async move |shell, cx| shell.list(cx, &query).await)
    }

    fn page(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        let (query, after) = (query.clone(), after.cloned());
        self.call(cx, async move |shell, cx| shell.page(cx, &query, after.as_ref(), limit).await)
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        let id = id.to_owned();
        self.call(cx, async move |shell, cx| shell.get(cx, &id).await)
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        let query = query.clone();
        self.call(cx, async move |shell, cx| shell.count(cx, &query).await)
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        let (id, record) = (id.map(str::to_owned), record.clone());
        self.call(cx, async move |shell, cx| shell.insert(cx, id.as_deref(), &record).await)
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let (id, record) = (id.to_owned(), record.clone());
        self.call(cx, async move |shell, cx| shell.replace(cx, &id, &record).await)
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let (id, record) = (id.to_owned(), record.clone());
        self.call(cx, async move |shell, cx| shell.upsert(cx, &id, &record).await)
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let (id, record) = (id.to_owned(), record.clone());
        self.call(cx, async move |shell, cx| shell.patch(cx, &id, &record).await)
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.call(cx, async move |shell, cx| shell.delete(cx, &id).await)
    }

    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        self.call(cx, async move |shell, cx| shell.delete_all(cx).await)
    }

    fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        let ops = ops.to_vec();
        self.call(cx, async move |shell, cx| shell.batch(cx, &ops).await)
    }

    fn changes(&self, cx: &CallCx) -> Result<Box<dyn ChangeStream>> {
        let stream = self.call(cx, async move |shell, cx| shell.changes(cx).await)?;
        Ok(Box::new(Changes { calls: self.calls(), stream: Arc::new(Mutex::new(Some(stream))) }))
    }

    fn stack_level(&self) -> u32 {
        self.shell.stack_level()
    }

    fn unsupported(&self, call: &str) -> Error {
        self.shell.unsupported(call)
    }
}

/// A stream of changes, read by a thread.
struct Changes {
    calls: Calls,
    /// Taken out while it is polled, perhaps on another thread; a panic of it ends it.
    stream: Arc<Mutex<Option<ChangesFromOutside>>>,
}

impl ChangeStream for Changes {
    fn next(&mut self, cx: &CallCx) -> Result<Option<ChangeEvent>> {
        let slot = self.stream.clone();
        self.calls.make(cx, move |cx| {
            let taken = slot.lock().take();
            let Some(mut stream) = taken else { return Ok(None) };
            let next = while_wanted(cx, async { poll_fn(|task| stream.as_mut().poll_next(task)).await.transpose() });
            // A stream that has ended is not to be polled again.
            if !matches!(next, Ok(None)) {
                *slot.lock() = Some(stream);
            }
            next
        })
    }
}

impl Vista {
    /// All rows of a source whose calls are futures: an [`AsyncSource`] over it. Needs the feature `async`.
    pub fn from_async(shell: impl AsyncTableShell) -> Self {
        Self::new(AsyncSource::new(shell))
    }
}
