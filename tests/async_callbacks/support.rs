//! Support: tests that end in time, few rows, and futures that must be woken.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use diorama::async_shim::ChangesFromOutside;
use diorama::prelude::*;
use diorama::vista::{Capabilities, ChangeStream, QueryDescriptor, Schema};
use diorama::vista::{Page, PageCursor, PushDown};
use diorama::{AsyncTableShell, ChangeEvent, Result, TableShell, WriteOutcome};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// Longer than anything here takes, also on a busy machine: who waits that long hangs.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Runs a test's body; a hang is a failure, and tells where.
pub(crate) fn in_time(body: impl FnOnce() + Send + 'static) {
    crate::limit::limited(Duration::from_secs(240), body);
}

/// Three rows: a, b and c.
pub(crate) fn products() -> MemoryVista {
    MemoryVista::new("products", "id").with_rows([("a", price(30)), ("b", price(10)), ("c", price(20))])
}

pub(crate) fn price(price: i64) -> Record {
    record! { "price" => price }
}

/// What the cache says, as `id=price`.
pub(crate) fn cached(dio: &Dio) -> Vec<String> {
    let rows = dio.cache().list().unwrap();
    rows.iter().map(|(id, record)| format!("{id}={}", record.int("price").unwrap_or(-1))).collect()
}

/// Writes, and waits for what becomes of it.
pub(crate) fn write(dio: &Dio, op: WriteOp) -> Result<WriteOutcome> {
    dio.write(op)?.wait(SOON)
}

/// Pending once, and woken at once.
pub(crate) async fn pause() {
    let mut is_over = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Needs a Tokio runtime's timer.
pub(crate) async fn nap() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The error that says which setting takes a runtime.
#[track_caller]
pub(crate) fn asks_for_a_runtime(error: &Error, setting: &str) {
    assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Invalid, Some(setting)), "{error}");
    assert!(error.message().contains("Tokio runtime") && error.message().contains(setting), "{error}");
}

/// A table in memory behind futures, each of which is pending at least once.
#[derive(Clone)]
pub(crate) struct AsyncMemory {
    pub(crate) rows: MemoryVista,
    held: watch::Sender<bool>,
    watchers: Arc<Mutex<Vec<mpsc::UnboundedSender<ChangeEvent>>>>,
}

/// Lets the lists go on that are held.
pub(crate) struct Held(watch::Sender<bool>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl AsyncMemory {
    pub(crate) fn new(rows: MemoryVista) -> Self {
        AsyncMemory { rows, held: watch::Sender::new(false), watchers: Arc::default() }
    }

    /// Has lists wait, by a future.
    pub(crate) fn hold(&self) -> Held {
        self.held.send_replace(true);
        Held(self.held.clone())
    }

    /// Tells the streams of a change.
    pub(crate) fn tell(&self, event: &ChangeEvent) {
        self.watchers.lock().retain(|watcher| watcher.send(event.clone()).is_ok());
    }

    /// Ends the streams.
    pub(crate) fn end_streams(&self) {
        self.watchers.lock().clear();
    }
}

struct Told(mpsc::UnboundedReceiver<ChangeEvent>);

impl futures_core::Stream for Told {
    type Item = Result<ChangeEvent>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|event| event.map(Ok))
    }
}

impl AsyncTableShell for AsyncMemory {
    fn name(&self) -> &str {
        self.rows.name()
    }

    fn source_key(&self) -> String {
        format!("async {}", self.rows.source_key())
    }

    fn schema(&self) -> Arc<Schema> {
        self.rows.schema()
    }

    fn capabilities(&self) -> Capabilities {
        self.rows.capabilities()
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        TableShell::push_down(&self.rows, query)
    }

    async fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        pause().await;
        let _ = self.held.subscribe().wait_for(|is_held| !is_held).await;
        self.rows.list(cx, query)
    }

    async fn page(
        &self,
        cx: &CallCx,
        query: &QueryDescriptor,
        after: Option<&PageCursor>,
        limit: usize,
    ) -> Result<Page> {
        pause().await;
        self.rows.page(cx, query, after, limit)
    }

    async fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        pause().await;
        self.rows.get(cx, id)
    }

    async fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        pause().await;
        self.rows.count(cx, query)
    }

    async fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        pause().await;
        self.rows.insert(cx, id, record)
    }

    async fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        pause().await;
        self.rows.replace(cx, id, record)
    }

    async fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        pause().await;
        self.rows.upsert(cx, id, record)
    }

    async fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        pause().await;
        self.rows.patch(cx, id, record)
    }

    async fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        pause().await;
        self.rows.delete(cx, id)
    }

    async fn delete_all(&self, cx: &CallCx) -> Result<()> {
        pause().await;
        self.rows.delete_all(cx)
    }

    async fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        pause().await;
        self.rows.batch(cx, ops)
    }

    async fn changes(&self, cx: &CallCx) -> Result<ChangesFromOutside> {
        pause().await;
        // For what it says of a source that can't.
        let _: Box<dyn ChangeStream> = self.rows.changes(cx)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watchers.lock().push(sender);
        Ok(Box::pin(Told(receiver)))
    }
}
