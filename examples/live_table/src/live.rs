//! Live: one page's own view of the table, told to the page as server-sent events.
//!
//! ```text
//! rows       all rows that the page shows, to begin with and after a `Reset`
//! changes    steps from what the page shows to what the view shows now, and the rows that are new or have changed
//! status     how the Dio is doing; how many rows match
//! confirmed  the source has this write
//! refused    the source doesn't take this write; the row is back as it was
//! ```
//!
//! A page that reads slowly makes its task wait, and the next change set covers what happened meanwhile.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use axum::response::sse::Event;
use diorama::vista::SortBy;
use diorama::{
    AsyncDio, AsyncTableScenery, Change, ChangeSet, Changes, DioEvent, Error, Result, Row, RowStatus, SortDir,
    TableSnapshot,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt;

/// The columns of text, and those of numbers.
pub(crate) const TEXTS: [&str; 3] = ["name", "city", "state"];
pub(crate) const NUMBERS: [&str; 2] = ["latitude", "longitude"];

/// Rows that a page shows at the most.
const MAX_ROWS: usize = 5_000;

/// After how long a page that has lost the server asks for it again.
const RECONNECT: Duration = Duration::from_millis(500);

/// What a page asks to see.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Query {
    sort: String,
    descending: bool,
    search: String,
    rows: usize,
}

impl Default for Query {
    fn default() -> Self {
        Query { sort: "iata".to_owned(), descending: false, search: String::new(), rows: 100 }
    }
}

/// The page's views: the rows that it shows, and all that match, of which it shows the number. They share one index.
pub(crate) struct Page {
    dio: AsyncDio,
    shown: AsyncTableScenery,
    matching: AsyncTableScenery,
}

impl Page {
    /// Opens the views; an unknown column is an error.
    pub(crate) async fn open(dio: &AsyncDio, query: Query) -> Result<Self> {
        let mut views = dio.table_scenery();
        if !query.search.trim().is_empty() {
            views = views.search(query.search.trim());
        }
        let dir = if query.descending { SortDir::Desc } else { SortDir::Asc };
        views = views.sort_with(SortBy::new(query.sort, dir).case_insensitive());
        Ok(Page {
            dio: dio.clone(),
            shown: views.clone().limit(query.rows.min(MAX_ROWS)).open().await?,
            matching: views.open().await?,
        })
    }

    /// Sends events until the page is gone or the Dio is closed.
    pub(crate) async fn follow(self, mut locked: watch::Receiver<bool>, page: mpsc::Sender<Event>) -> Option<()> {
        let mut events = self.dio.subscribe_events();
        let first = self.shown.snapshot();
        let mut changes = self.shown.change_sets_since(first.generation());
        let mut count = first.row_count();
        send(&page, "rows", off_executor(move || all_rows(&first)).await?).await?;
        let mut told = Value::Null;
        loop {
            let status = self.status(*locked.borrow_and_update());
            if status != told {
                send(&page, "status", status.clone()).await?;
                told = status;
            }
            tokio::select! {
                // In this order: a write's outcome is told after the rows as it left them.
                biased;
                () = page.closed() => return None,
                set = changes.next() => {
                    let set = set?;
                    let after = set.snapshot.row_count();
                    let (name, data) = off_executor(move || change_set(&set, count)).await?;
                    send(&page, name, data).await?;
                    count = after;
                }
                event = events.next() => match event? {
                    // An event that was missed is one that the status and the rows tell of, too.
                    Err(_lagged) => {}
                    Ok(event) => send_outcome(&page, &self.dio, &event).await?,
                },
                changed = locked.changed() => changed.ok()?,
            }
        }
    }

    fn status(&self, locked: bool) -> Value {
        let status = self.dio.status();
        json!({
            "rows": status.rows,
            "matching": self.matching.row_count(),
            "pending": status.pending_writes,
            "paused": status.writes_paused,
            "locked": locked,
            "refreshed": status.last_refresh.and_then(milliseconds),
            "refreshing": status.refreshing,
            "refresh_error": status.refresh_error.as_ref().map(reason),
        })
    }
}

/// Why something failed, as a user is told: by the name of the constraint that an edit breaks, else in the error's words.
pub(crate) fn reason(error: &Error) -> String {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(constraint) = error.to_string().strip_prefix("CHECK constraint failed: ") {
            return constraint.to_owned();
        }
        cause = error.source();
    }
    error.message().to_owned()
}

async fn send(page: &mpsc::Sender<Event>, name: &str, data: impl Serialize) -> Option<()> {
    let event = Event::default().retry(RECONNECT).event(name).json_data(data).ok()?;
    page.send(event).await.ok()
}

async fn send_outcome(page: &mpsc::Sender<Event>, dio: &AsyncDio, event: &DioEvent) -> Option<()> {
    match event {
        DioEvent::WriteSettled { id: Some(id), .. } => send(page, "confirmed", json!({ "id": **id })).await,
        DioEvent::WriteFailed { id: Some(id), error, .. } => {
            let failed = dio.failed_writes().into_iter().rev().find(|write| write.id.as_ref() == Some(id));
            let columns: Vec<String> = failed
                .and_then(|write| write.op.record().map(|record| record.names().map(str::to_owned).collect()))
                .unwrap_or_default();
            send(page, "refused", json!({ "id": **id, "columns": columns, "reason": reason(error) })).await
        }
        _ => Some(()),
    }
}

/// Reads rows where it may block: those that are not in memory are read from the cache's file.
async fn off_executor<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    spawn_blocking(read).await.ok()
}

/// What to send to a page that shows `count` rows.
fn change_set(set: &ChangeSet, count: usize) -> (&'static str, Value) {
    steps(set, count).map_or_else(|| ("rows", all_rows(&set.snapshot)), |steps| ("changes", steps))
}

/// The steps of a change set, and the rows that a page doesn't have, by their positions when all steps are done. `None` for a
/// `Reset`.
fn steps(set: &ChangeSet, count: usize) -> Option<Value> {
    let Changes::List(changes) = &set.changes else { return None };
    let steps: Option<Vec<Value>> = changes.iter().map(step).collect();
    let mut rows = Vec::new();
    // A list that stands in for the page's.
    let mut list = vec![(); count];
    let row = |index| json!([index, set.snapshot.row(index).map(|row| row_json(&row))]);
    Change::apply_all(changes, &mut list, |index| rows.push(row(index))).ok()?;
    Some(json!({ "steps": steps?, "rows": rows }))
}

fn step(change: &Change) -> Option<Value> {
    match *change {
        Change::Remove { index } => Some(json!(["remove", index])),
        Change::Move { from, to } => Some(json!(["move", from, to])),
        Change::Insert { index } => Some(json!(["insert", index])),
        Change::Update { index } => Some(json!(["update", index])),
        _ => None,
    }
}

fn all_rows(snapshot: &TableSnapshot) -> Value {
    Value::Array(snapshot.iter().map(|row| row_json(&row)).collect())
}

fn row_json(row: &Row) -> Value {
    let mut cells = Map::new();
    for column in TEXTS {
        cells.insert(column.to_owned(), json!(row.text(column)));
    }
    for column in NUMBERS {
        cells.insert(column.to_owned(), json!(row.float(column)));
    }
    json!({ "id": row.id(), "pending": row.status() == RowStatus::PendingWrite, "cells": cells })
}

fn milliseconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}
