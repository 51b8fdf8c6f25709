//! Table shell: the contract a data source implements.
//!
//! Invariants: every call is plain blocking code; what [`Capabilities`] deny answers `Unsupported`; `list` answers exactly
//! the query it is given, which is never more than what [`push_down`](TableShell::push_down) accepted.

use std::sync::Arc;

use crate::value::Record;
use crate::vista::{CallCx, Capabilities, ChangeStream, Page, PageCursor, QueryDescriptor, Schema, WriteOp, Written};
use crate::{Error, ErrorKind, Result};

/// How a source splits a query: what it answers itself, and what is left for the caller.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PushDown {
    /// The part that [`list`](TableShell::list) is called with, answered exactly.
    pub accepted: QueryDescriptor,
    /// The rest: evaluated by the caller over the rows that come back, by the library's own rules.
    pub residual: QueryDescriptor,
}

impl PushDown {
    /// The source answers nothing of `query` itself.
    pub fn nothing(query: &QueryDescriptor) -> Self {
        PushDown { accepted: QueryDescriptor::default(), residual: query.clone() }
    }

    /// The source answers all of `query` itself.
    pub fn everything(query: &QueryDescriptor) -> Self {
        PushDown { accepted: query.clone(), residual: QueryDescriptor::default() }
    }
}

/// A data source, behind the narrowest contract that will do.
///
/// `list`, `name`, `source_key`, `schema` and `capabilities` are all a read-only source needs. Calls block for as long as
/// the source takes; they look at their [`CallCx`] to know whether they are still wanted. They run on worker threads,
/// several at once.
pub trait TableShell: Send + Sync + 'static {
    /// The table's name, for people and as the name of its cache table.
    fn name(&self) -> &str;

    /// Which source this is: two shells with the same key read the same rows (a path, a URL and table …).
    fn source_key(&self) -> String;

    /// The columns. Answers from memory.
    fn schema(&self) -> Arc<Schema>;

    /// What this source can do. Answers from memory.
    fn capabilities(&self) -> Capabilities;

    /// Which part of `query` this source answers exactly as [`Condition`](crate::vista::Condition) and the order of
    /// values define it. A window may only be accepted when nothing else is left over. Answers from memory.
    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        PushDown::nothing(query)
    }

    /// The rows that `query` asks for, with their ids, in its order; without a sort in the source's own order.
    ///
    /// # Errors
    /// What the source says; `Corrupt` for data that can't be read; `Unavailable` when it can't be reached.
    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>>;

    /// At most `limit` of the rows that [`list`](Self::list) gives for `query`, which has no window: the first ones, or those
    /// behind the place `after`, which an earlier page of the same query ended at.
    ///
    /// Following [`next`](Page::next) from the first page gives exactly the rows of `list`, each once and in its order, when
    /// nothing changes meanwhile. When rows come and go, a row that stays as it is all the time is given exactly once: a
    /// cursor is a place in the order, and neither a number of rows nor a row. A row that comes, goes or moves in the order is
    /// given once, twice or not at all, by where it was when its page was asked for. Each page is of one moment.
    ///
    /// A page may have fewer rows than asked for though others follow; it has none only if it is the last. The last one has
    /// no `next`. A cursor may be used again, with another limit, and by another handle of the same source.
    ///
    /// # Errors
    /// `Unsupported` unless [`Capabilities::pages`]; `Invalid` for a limit of 0, a query with a window, and a cursor that this
    /// source didn't make for this query ([`PageCursor::seal`] sees to it); what the source says.
    fn page(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        let _ = (cx, query, after, limit);
        Err(self.unsupported("page"))
    }

    /// One row, `None` when there is none of this id.
    ///
    /// # Errors
    /// `Unsupported` unless [`Capabilities::get`]; what the source says.
    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        let _ = (cx, id);
        Err(self.unsupported("get"))
    }

    /// How many rows `query` has (its window aside).
    ///
    /// # Errors
    /// `Unsupported` unless [`Capabilities::count`]; what the source says.
    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        let _ = (cx, query);
        Err(self.unsupported("count"))
    }

    /// Adds a row. The source may choose the id, and says which one it took.
    ///
    /// # Errors
    /// `Conflict` when the id is taken; `Unsupported` unless [`Capabilities::insert`]; what the source says.
    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        let _ = (cx, id, record);
        Err(self.unsupported("insert"))
    }

    /// Puts a whole row in the place of one that exists.
    ///
    /// # Errors
    /// `NotFound` when there is no such row; `Unsupported` unless [`Capabilities::replace`]; what the source says.
    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let _ = (cx, id, record);
        Err(self.unsupported("replace"))
    }

    /// Puts a whole row, whether it exists or not.
    ///
    /// # Errors
    /// `Unsupported` unless [`Capabilities::upsert`]; what the source says.
    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let _ = (cx, id, record);
        Err(self.unsupported("upsert"))
    }

    /// Sets some fields of a row that exists.
    ///
    /// # Errors
    /// `NotFound` when there is no such row; `Unsupported` unless [`Capabilities::patch`]; what the source says.
    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        let _ = (cx, id, record);
        Err(self.unsupported("patch"))
    }

    /// Deletes a row; a missing one is fine.
    ///
    /// # Errors
    /// `Unsupported` unless [`Capabilities::delete`]; what the source says.
    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        let _ = (cx, id);
        Err(self.unsupported("delete"))
    }

    /// Deletes every row.
    ///
    /// # Errors
    /// `Unsupported` unless [`Capabilities::delete_all`]; what the source says.
    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        let _ = cx;
        Err(self.unsupported("delete_all"))
    }

    /// Does several writes, all or none; one answer for each.
    ///
    /// # Errors
    /// `Unsupported` unless [`Capabilities::batch`]; the first refusal, with nothing done.
    fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        let _ = (cx, ops);
        Err(self.unsupported("batch"))
    }

    /// The changes made from now on.
    ///
    /// # Errors
    /// `Unsupported` unless [`Capabilities::changes`]; what the source says.
    fn changes(&self, cx: &CallCx) -> Result<Box<dyn ChangeStream>> {
        let _ = cx;
        Err(self.unsupported("changes"))
    }

    /// How many Dios lie below this source: 0 for a real one, one more than the Dio's own for its facade. A wrapper
    /// around another shell hands that shell's answer on, so that waits which could never end are refused.
    fn stack_level(&self) -> u32 {
        0
    }

    /// The error for a call this source doesn't take.
    fn unsupported(&self, call: &str) -> Error {
        Error::new(ErrorKind::Unsupported, format!("this source does not support `{call}`")).with("table", self.name())
    }
}
