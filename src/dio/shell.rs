//! Dio shell: a Dio seen as an ordinary source again, so that Dios stack.
//!
//! Flow: reads answer from the Dio's cache, also while the source is offline; writes go through its queue.
//! Invariants: it honours conditions, sort, search and windows exactly as a view does; over an incomplete cache it asks the
//! source (with `on_query` for the rows of the query), or says `Unavailable`, and never answers a part as the whole; a cursor is good for whoever made it, the cache or
//! the source (`x4_pages_over_an_incomplete_cache_are_the_sources_and_begin_anew_once_it_is_complete`).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::dio::Dio;
use crate::dio::versions::RowRead;
use crate::scenery::index::key::Entry;
use crate::scenery::view_query::ViewQuery;
use crate::sync::{Rank, Role, may_wait_for};
use crate::value::{Record, StoredRow};
use crate::vista::{
    CallCx, Capabilities, Page, PageCursor, Place, PushDown, QueryDescriptor, Schema, TableShell, Total, Vista,
    WriteOp, Written,
};
use crate::{Error, ErrorKind, Result};

/// The source behind [`Dio::vista`]. Keeps its Dio alive.
#[derive(Debug, Clone)]
pub struct DioShell {
    dio: Dio,
}

impl DioShell {
    pub(crate) fn new(dio: Dio) -> Self {
        DioShell { dio }
    }

    /// Writes through the queue and waits for the settlement. A repeated key waits for the write that is on its way.
    fn write(&self, cx: &CallCx, op: WriteOp) -> Result<Written> {
        cx.check()?;
        // Before anything is queued: a refused call leaves no trace.
        may_wait_for(Rank::new(self.dio.inner().level, Role::Writer), "the settlement of a write")?;
        let ticket = match cx.idempotency_key() {
            Some(key) => self.dio.write_under(key, op)?,
            None => self.dio.write(op)?,
        };
        let outcome = ticket.wait_until(cx.remaining())?;
        let record = match &outcome.id {
            Some(id) => self.dio.cache().get(id)?,
            None => None,
        };
        Ok(Written { id: outcome.id, record })
    }

    /// Rows that match and whose entry is wanted, as the cache has them, in no order.
    fn matching(
        &self,
        cx: &CallCx,
        query: &QueryDescriptor,
        mut is_wanted: impl FnMut(&Entry) -> bool,
    ) -> Result<Vec<(Entry, StoredRow)>> {
        let inner = self.dio.inner();
        let compiled = ViewQuery::new(&query.without_window(), &inner.schema)?;
        let mut scratch = Vec::new();
        let mut rows = Vec::new();
        let mut stopped = Ok(());
        inner.scan_now(&mut |row_no, stored| {
            if row_no.0 % 1_024 == 0
                && let Err(error) = cx.check()
            {
                stopped = Err(error);
                return ControlFlow::Break(());
            }
            if compiled.matches(stored) {
                let entry = compiled.entry(row_no, stored, &mut scratch);
                if is_wanted(&entry) {
                    rows.push((entry, stored.clone()));
                }
            }
            ControlFlow::Continue(())
        })?;
        stopped?;
        Ok(rows)
    }

    /// Rows that match, sorted and windowed, as the cache has them.
    fn rows(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(Entry, StoredRow)>> {
        let mut rows = self.matching(cx, query, |_| true)?;
        rows.sort_unstable_by(|(a, _), (b, _)| in_order(a, b));
        if let Some(window) = query.window {
            rows.truncate(window.offset.saturating_add(window.limit));
            rows.drain(..window.offset.min(rows.len()));
        }
        Ok(rows)
    }

    /// Whether the cache has every row of a query; where rows come query by query, they are brought.
    fn has_rows_of(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<bool> {
        let inner = self.dio.inner();
        match &inner.queries {
            _ if inner.board.is_complete() => Ok(true),
            Some(queries) => inner.bring(queries, cx, query).map(|()| true),
            None => Ok(false),
        }
    }

    /// What an incomplete cache can't answer: the source is asked.
    fn ask_source<T>(&self, cx: &CallCx, ask: impl FnOnce(&Vista, &CallCx) -> Result<T>) -> Result<T> {
        let inner = self.dio.inner();
        // Whoever sets no deadline gets the Dio's own.
        let cx = &match cx.deadline() {
            Some(_) => cx.clone(),
            None => inner.call_cx().with_cancel(cx.cancel.clone()),
        };
        crate::sync::catch_user("the source", || ask(&inner.master, cx)).and_then(|answer| answer).map_err(|error| {
            // What can't be asked at all isn't a matter of time.
            if error.kind() == ErrorKind::Invalid {
                return error;
            }
            Error::new(ErrorKind::Unavailable, "the cache is not complete yet, and the source can't be asked")
                .with("table", inner.name.to_string())
                .with_source(error)
        })
    }
}

fn in_order(a: &Entry, b: &Entry) -> std::cmp::Ordering {
    a.key.cmp(&b.key).then(a.row.cmp(&b.row))
}

impl TableShell for DioShell {
    fn name(&self) -> &str {
        self.dio.master().name()
    }

    fn source_key(&self) -> String {
        format!("dio:{}:{}", self.dio.inner().lens.id, self.dio.inner().name)
    }

    fn schema(&self) -> Arc<Schema> {
        self.dio.inner().schema.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let source = self.dio.inner().write_capabilities();
        let no = Capabilities { batch: false, changes: false, idempotent_writes: false, ..source };
        Capabilities { get: true, count: true, window: true, pages: true, collations: true, ..no }
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        PushDown::everything(query)
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        cx.check()?;
        if !self.has_rows_of(cx, query)? {
            return self.ask_source(cx, |master, cx| master.list_query(cx, query));
        }
        self.rows(cx, query)?.iter().map(|(_, row)| Ok((row.id().to_owned(), row.to_record()?))).collect()
    }

    fn page(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        cx.check()?;
        Page::check(query, limit)?;
        if !self.has_rows_of(cx, query)? {
            return self.ask_source(cx, |master, cx| master.page_query(cx, query, after, limit));
        }
        let key = self.source_key();
        let after = after.map(|cursor| Place::open(cursor, &key, query)).transpose()?;
        let mut total = 0;
        let mut rows = self.matching(cx, query, |entry| {
            total += 1;
            let (key, arrival) = (entry.key.bytes(), entry.row.0);
            after.as_ref().is_none_or(|after| (&*key, arrival) > (&after.key, after.arrival))
        })?;
        let has_next = rows.len() > limit;
        if has_next {
            rows.select_nth_unstable_by(limit, |(a, _), (b, _)| in_order(a, b));
            rows.truncate(limit);
        }
        rows.sort_unstable_by(|(a, _), (b, _)| in_order(a, b));
        let last = rows.last().filter(|_| has_next);
        let place = |entry: &Entry| Place { key: entry.key.bytes().to_vec(), arrival: entry.row.0 };
        let next = last.map(|(entry, _)| place(entry).seal(&key, query));
        let rows = rows.iter().map(|(_, row)| Ok((row.id().to_owned(), row.to_record()?))).collect::<Result<_>>()?;
        Ok(Page { rows, next, total: Total::Exact(total) })
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        cx.check()?;
        let inner = self.dio.inner();
        let versions = &inner.reader.versions;
        match super::at_newest(versions, |seq| versions.find_as_of(id, seq))? {
            RowRead::Found(stored) => stored.to_record().map(Some),
            RowRead::Absent | RowRead::Expired if inner.board.is_complete() => Ok(None),
            RowRead::Absent | RowRead::Expired => self.ask_source(cx, |master, cx| master.get(cx, id)),
        }
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        cx.check()?;
        let inner = self.dio.inner();
        if !self.has_rows_of(cx, query)? {
            return self.ask_source(cx, |master, cx| Ok(master.list_query(cx, &query.without_window())?.len() as u64));
        }
        if !query.is_filtered() {
            return Ok(inner.board.rows());
        }
        Ok(self.rows(cx, &query.without_window())?.len() as u64)
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        self.write(cx, WriteOp::Insert { id: id.map(str::to_owned), record: record.clone() })
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write(cx, WriteOp::replace(id, record.clone()))
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write(cx, WriteOp::upsert(id, record.clone()))
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write(cx, WriteOp::patch(id, record.clone()))
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        self.write(cx, WriteOp::delete(id)).map(drop)
    }

    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        self.write(cx, WriteOp::delete_all()).map(drop)
    }

    fn stack_level(&self) -> u32 {
        self.dio.inner().level + 1
    }
}
