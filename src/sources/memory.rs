//! Memory Vista: a table in memory that is a full data source, and that a test can script.
//!
//! Owner: whoever holds a handle; the rows change under one short lock, in which no user code runs.
//! Invariants: rows keep the order of their arrival; a batch is done whole or not at all; a repeated idempotency key does
//! nothing twice; every wait ends when its call is cancelled or its deadline passes.

mod changes;
mod rows;
mod script;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::value::{Record, StoredRow, Value};
use crate::vista::{
    CallCx, Capabilities, ChangeEvent, ChangeStream, Filter, Page, PageCursor, Place, PushDown, QueryDescriptor,
    Schema, SortKeyer, TableShell, Total, WriteOp, Written,
};
use crate::{Error, ErrorKind, Result};

use changes::{MemoryStream, Streams};
use rows::Rows;
use script::{Point, Script};

pub use changes::Outside;
pub use script::{Call, HoldGuard, SeenCall};

/// How many writes are kept for [`MemoryVista::writes`], and how many answers for idempotency keys.
const KEPT: usize = 65_536;

/// A table in memory, as a data source.
///
/// A handle, cheap to clone: a test gives one clone to the library and keeps another to look at the rows, to change them
/// from outside, and to make calls slow, blocked, failing or panicking. It has all capabilities and a schema without known
/// columns unless told otherwise. Calls answer at once unless scripted.
///
/// ```
/// use std::time::Duration;
/// use diorama::sources::MemoryVista;
/// use diorama::sources::memory::Call;
/// use diorama::vista::Vista;
/// use diorama::{Error, ErrorKind, record};
///
/// let source = MemoryVista::new("products", "id").with_rows([("p1", record! { "price" => 3 })]);
/// let products = Vista::new(source.clone());
///
/// source.fail_next(Call::List, 1, Error::new(ErrorKind::Unavailable, "line cut"));
/// assert_eq!(products.list_values().unwrap_err().kind(), ErrorKind::Unavailable);
/// assert_eq!(products.list_values()?.len(), 1);
/// assert_eq!(source.calls(Call::List), 2);
/// # Ok::<(), diorama::Error>(())
/// ```
#[derive(Clone)]
pub struct MemoryVista {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    state: Mutex<State>,
    script: Arc<Script>,
}

type AssignId = Arc<dyn Fn(&Record) -> String + Send + Sync>;

struct State {
    schema: Arc<Schema>,
    capabilities: Capabilities,
    source_key: String,
    push_down: bool,
    assign_id: Option<AssignId>,
    next_id: u64,
    rows: Rows,
    streams: Streams,
    writes: VecDeque<SeenWrite>,
    first_write: u64,
    answers: HashMap<String, Vec<Written>>,
    answered: VecDeque<String>,
}

/// A write as the source received it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeenWrite {
    /// The write.
    pub op: WriteOp,
    /// The key the caller gave.
    pub idempotency_key: Option<String>,
    /// Which attempt the caller said it was.
    pub attempt: u32,
    /// Whether it changed the rows: `false` when it failed, is still held, or was a repetition.
    pub done: bool,
}

impl fmt::Debug for MemoryVista {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryVista").field("name", &self.shared.name).field("rows", &self.row_count()).finish()
    }
}

/// Building.
impl MemoryVista {
    /// An empty table of this name whose id column is `id_column`.
    pub fn new(name: impl Into<String>, id_column: impl Into<String>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = name.into();
        let state = State {
            schema: Arc::new(Schema::open(id_column)),
            capabilities: Capabilities {
                batch: true,
                collations: true,
                pages: true,
                changes: true,
                idempotent_writes: true,
                ..Capabilities::read_write()
            },
            source_key: format!("memory:{}:{name}", NEXT.fetch_add(1, Ordering::Relaxed)),
            push_down: true,
            assign_id: None,
            next_id: 1,
            rows: Rows::default(),
            streams: Streams::default(),
            writes: VecDeque::new(),
            first_write: 0,
            answers: HashMap::new(),
            answered: VecDeque::new(),
        };
        MemoryVista { shared: Arc::new(Shared { name, state: Mutex::new(state), script: Arc::default() }) }
    }

    /// Sets the schema, the id column included. Without it the columns are not known. Writes must fit a known schema: its
    /// columns, their types, and a value for what is mandatory in a new row.
    #[must_use]
    pub fn with_schema(self, schema: Schema) -> Self {
        self.shared.state.lock().schema = Arc::new(schema);
        self
    }

    /// Adds rows after those that are there; a row of an id that is there takes its place. Rows with an empty id are left
    /// out. No change is told.
    #[must_use]
    pub fn with_rows<I: Into<String>>(self, rows: impl IntoIterator<Item = (I, Record)>) -> Self {
        // The iterator is user code: it runs before the lock is taken.
        let rows: Vec<(String, Record)> = rows.into_iter().map(|(id, record)| (id.into(), record)).collect();
        {
            let mut state = self.shared.state.lock();
            for (id, record) in rows.into_iter().filter(|(id, _)| !id.is_empty()) {
                state.rows.put(&id, record);
            }
        }
        self
    }

    /// Sets what the source can do. What is denied answers `Unsupported`.
    #[must_use]
    pub fn with_capabilities(self, capabilities: Capabilities) -> Self {
        self.shared.state.lock().capabilities = capabilities;
        self
    }

    /// Sets which source this is. Without it every table made with [`new`](Self::new) is another source.
    #[must_use]
    pub fn with_source_key(self, source_key: impl Into<String>) -> Self {
        self.shared.state.lock().source_key = source_key.into();
        self
    }

    /// Whether conditions, search, sort and window are answered by the source itself (the default) or left to the caller.
    #[must_use]
    pub fn push_down(self, push_down: bool) -> Self {
        self.shared.state.lock().push_down = push_down;
        self
    }

    /// Sets how long every call takes, on the clock of its [`CallCx`]; waiting for changes aside.
    #[must_use]
    pub fn with_latency(self, latency: Duration) -> Self {
        self.shared.script.set_latency_of_all(latency);
        self
    }

    /// Has the source choose the id of every inserted row, whatever is proposed. A column of the id's name gets it, too.
    #[must_use]
    pub fn assign_ids(self, assign: impl Fn(&Record) -> String + Send + Sync + 'static) -> Self {
        let old = self.shared.state.lock().assign_id.replace(Arc::new(assign));
        drop(old);
        self
    }

    /// Has the source choose the ids `prefix1`, `prefix2` … for inserted rows, whatever is proposed.
    #[must_use]
    pub fn assign_ids_from(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        let next = AtomicU64::new(1);
        self.assign_ids(move |_| format!("{prefix}{}", next.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Looking inside. Nothing here is a call of the source: it isn't counted, held or failed.
impl MemoryVista {
    /// All rows in the order of their arrival.
    pub fn rows(&self) -> Vec<(String, Record)> {
        let rows = self.shared.state.lock().rows.list();
        rows.into_iter().map(|(id, record)| (id.to_string(), (*record).clone())).collect()
    }

    /// The row of this id.
    pub fn row(&self, id: &str) -> Option<Record> {
        self.shared.state.lock().rows.get(id).map(|record| (**record).clone())
    }

    /// How many rows there are.
    pub fn row_count(&self) -> usize {
        self.shared.state.lock().rows.len()
    }

    /// How many calls of this kind have come in, failed and blocked ones included.
    pub fn calls(&self, call: Call) -> u64 {
        self.shared.script.calls(call)
    }

    /// Blocks until at least `count` calls of this kind have come in, up to `timeout` of real time; whether they came.
    pub fn wait_until_called(&self, call: Call, count: u64, timeout: Duration) -> bool {
        self.shared.script.wait_in_test(timeout, || self.calls(call) >= count)
    }

    /// The writes received, in order, each op of a batch by itself: the newest 65,536.
    pub fn writes(&self) -> Vec<SeenWrite> {
        self.shared.state.lock().writes.iter().cloned().collect()
    }

    /// How many change streams are open.
    pub fn open_streams(&self) -> usize {
        self.shared.state.lock().streams.len()
    }
}

/// Scripting.
impl MemoryVista {
    /// Sets how long calls of one kind take, on the clock of their [`CallCx`].
    pub fn set_latency(&self, call: Call, latency: Duration) {
        self.shared.script.set_latency(call, latency);
    }

    /// Has the next `times` calls of this kind fail before they do anything.
    pub fn fail_next(&self, call: Call, times: u64, error: Error) {
        self.shared.script.fail_next(call, times, error);
    }

    /// Has every call of this kind fail before it does anything, until [`heal`](Self::heal).
    pub fn fail_always(&self, call: Call, error: Error) {
        self.shared.script.fail_always(call, error);
    }

    /// Asks `fail_when` at every call whether it is to fail, until [`heal`](Self::heal). Runs on the caller's thread, under
    /// no lock.
    pub fn fail_when(&self, fail_when: impl Fn(&SeenCall<'_>) -> Option<Error> + Send + Sync + 'static) {
        self.shared.script.fail_when(Arc::new(fail_when));
    }

    /// Has the next `times` calls of this kind do their work and then answer `error`: the answer is lost on its way.
    pub fn lose_next_answers(&self, call: Call, times: u64, error: Error) {
        self.shared.script.lose_next_answers(call, times, error);
    }

    /// Has the next call of this kind panic before it does anything.
    pub fn panic_next(&self, call: Call) {
        self.shared.script.panic_next(call);
    }

    /// Ends all scripted failures and brings the source back online. Latencies and held calls stay.
    pub fn heal(&self) {
        self.shared.script.heal();
    }

    /// Blocks calls of this kind before they do anything, until the guard is released, they are cancelled or their deadline
    /// passes.
    pub fn hold(&self, call: Call) -> HoldGuard {
        HoldGuard::new(self.shared.script.clone(), call, Point::Before)
    }

    /// Blocks calls of this kind after their work is done, before they answer: a list that comes late, with old rows.
    pub fn hold_answer(&self, call: Call) -> HoldGuard {
        HoldGuard::new(self.shared.script.clone(), call, Point::Answer)
    }

    /// Takes the source off the net or brings it back. Offline every call is `Unavailable`; an open change stream says so
    /// once it is asked or waits.
    pub fn set_offline(&self, offline: bool) {
        self.shared.script.set_offline(offline);
    }

    /// Edits as made by somebody else: open change streams tell them.
    pub fn outside(&self) -> Outside {
        Outside::new(self.clone(), true)
    }

    /// Edits as made by somebody else, told by no change stream.
    pub fn outside_silently(&self) -> Outside {
        Outside::new(self.clone(), false)
    }

    /// Tells a change to the open change streams. The rows stay as they are.
    pub fn emit(&self, event: ChangeEvent) {
        self.shared.state.lock().streams.tell(&event);
        self.shared.script.ring();
    }

    /// Ends the open change streams after what they still have to tell: with `error`, or by themselves with `None`.
    pub fn end_streams(&self, error: Option<Error>) {
        self.shared.state.lock().streams.end(error.as_ref());
        self.shared.script.ring();
    }
}

impl MemoryVista {
    fn at(&self, error: Error) -> Error {
        error.with("table", self.shared.name.as_str())
    }

    fn allow(&self, allowed: impl FnOnce(&Capabilities) -> bool, call: Call) -> Result<()> {
        if allowed(&self.capabilities()) { Ok(()) } else { Err(self.unsupported(call.as_str())) }
    }

    /// One call from its coming in to its answer.
    fn run<T>(
        &self,
        cx: &CallCx,
        call: Call,
        id: Option<&str>,
        ops: &[WriteOp],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let script = &self.shared.script;
        let answer = script.enter(cx, call, id, ops).and_then(|()| work()).and_then(|answer| {
            script.leave(cx, call)?;
            Ok(answer)
        });
        answer.map_err(|error| self.at(error))
    }

    fn write(&self, cx: &CallCx, call: Call, ops: &[WriteOp]) -> Result<Vec<Written>> {
        let first = self.log_writes(cx, ops);
        let id = match ops {
            [op] => op.id(),
            _ => None,
        };
        self.run(cx, call, id, ops, || self.do_writes(cx, ops, first))
    }

    fn write_one(&self, cx: &CallCx, op: WriteOp) -> Result<Written> {
        let written = self.write(cx, Call::of(&op), std::slice::from_ref(&op))?;
        Ok(written.into_iter().next().unwrap_or_default())
    }

    /// Notes writes as received; the answer is the number of the first.
    fn log_writes(&self, cx: &CallCx, ops: &[WriteOp]) -> u64 {
        let mut state = self.shared.state.lock();
        let first = state.first_write + state.writes.len() as u64;
        for op in ops {
            state.writes.push_back(SeenWrite {
                op: op.clone(),
                idempotency_key: cx.idempotency_key().map(str::to_string),
                attempt: cx.attempt(),
                done: false,
            });
        }
        while state.writes.len() > KEPT {
            state.writes.pop_front();
            state.first_write += 1;
        }
        first
    }

    fn do_writes(&self, cx: &CallCx, ops: &[WriteOp], first: u64) -> Result<Vec<Written>> {
        let key = {
            let state = self.shared.state.lock();
            let key = cx.idempotency_key().filter(|_| state.capabilities.idempotent_writes);
            if let Some(answer) = key.and_then(|key| state.answers.get(key)) {
                return Ok(answer.clone());
            }
            key
        };
        let schema = self.schema();
        ops.iter().try_for_each(|op| check_write(op, &schema))?;
        let chosen: Vec<WriteOp> = ops.iter().map(|op| self.choose_id(op)).collect();
        let mut state = self.shared.state.lock();
        // Asked again under the lock that the writes are done in: two calls with one key may have come at once.
        if let Some(answer) = key.and_then(|key| state.answers.get(key)) {
            return Ok(answer.clone());
        }
        if let ([op], Some(before), true) = (ops, cx.before(), state.capabilities.compares)
            && let Some(id) = op.id()
            && op.is_in_conflict(before, state.rows.get(id).map(|row| &**row))
        {
            let message = "the row is not as the writer knew it any more";
            return Err(Error::new(ErrorKind::Conflict, message).with("id", id.to_owned()));
        }
        let mut written = state.rows.apply_all(&chosen)?;
        for ((answer, op), chosen) in written.iter_mut().zip(ops).zip(&chosen) {
            if op.record() != chosen.record() {
                answer.record = chosen.record().cloned();
            }
        }
        for number in first..first + ops.len() as u64 {
            let position = number.checked_sub(state.first_write).map(|position| position as usize);
            if let Some(seen) = position.and_then(|position| state.writes.get_mut(position)) {
                seen.done = true;
            }
        }
        if let Some(key) = key {
            state.answers.insert(key.to_string(), written.clone());
            state.answered.push_back(key.to_string());
            if state.answered.len() > KEPT
                && let Some(oldest) = state.answered.pop_front()
            {
                state.answers.remove(&oldest);
            }
        }
        Ok(written)
    }

    /// The op with the id under which its row is to be stored.
    fn choose_id(&self, op: &WriteOp) -> WriteOp {
        let WriteOp::Insert { id, record } = op else { return op.clone() };
        let (assign, schema) = {
            let state = self.shared.state.lock();
            (state.assign_id.clone(), state.schema.clone())
        };
        let id_column = schema.id_column();
        let chosen = match (assign, id) {
            (Some(assign), _) => assign(record),
            (None, Some(id)) => id.clone(),
            (None, None) => match id_column.and_then(|column| record.text(column)) {
                Some(id) => id.to_string(),
                None => self.mint_id(),
            },
        };
        let mut record = record.clone();
        if let Some(stored) = id_column.and_then(|column| record.get_mut(column))
            && id.as_ref() != Some(&chosen)
        {
            *stored = Value::Text(chosen.clone());
        }
        WriteOp::Insert { id: Some(chosen), record }
    }

    /// An id that no row has.
    fn mint_id(&self) -> String {
        let mut state = self.shared.state.lock();
        loop {
            let id = state.next_id.to_string();
            state.next_id += 1;
            if state.rows.get(&id).is_none() {
                return id;
            }
        }
    }

    /// The rows of a query. The lock is held only to share the rows, not to evaluate them.
    fn select(&self, query: &QueryDescriptor) -> Result<Vec<(Arc<str>, Arc<Record>)>> {
        let (schema, rows) = {
            let state = self.shared.state.lock();
            (state.schema.clone(), state.rows.list())
        };
        query.check(&schema)?;
        Ok(query.apply_by(rows, &schema, |(id, record)| (id, record)))
    }

    /// A page of a query. As [`select`](Self::select) does, it shares the rows under the lock and evaluates them outside.
    fn page_of(&self, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        Page::check(query, limit)?;
        let (schema, key, rows) = {
            let state = self.shared.state.lock();
            (state.schema.clone(), state.source_key.clone(), state.rows.list_placed())
        };
        query.check(&schema)?;
        let after = after.map(|cursor| Place::open(cursor, &key, query)).transpose()?;
        let (filter, keyer) = (Filter::new(query, &schema), SortKeyer::new(&query.sort));
        let (mut total, mut behind) = (0, Vec::new());
        for (arrival, id, record) in rows {
            let stored = StoredRow::encode(&id, &record, 0);
            if !filter.matches(stored.fields()) {
                continue;
            }
            total += 1;
            let mut place = Place { key: Vec::new(), arrival };
            keyer.encode(stored.fields(), &mut place.key);
            if after.as_ref().is_none_or(|after| place > *after) {
                behind.push((place, id, record));
            }
        }
        behind.sort_unstable_by(|(left, ..), (right, ..)| left.cmp(right));
        let next = (behind.len() > limit).then(|| behind[limit - 1].0.seal(&key, query));
        behind.truncate(limit);
        let rows = behind.into_iter().map(|(_, id, record)| (id.to_string(), (*record).clone())).collect();
        Ok(Page { rows, next, total: Total::Exact(total) })
    }
}

/// Whether the write proposes an id that can be, whichever is chosen then, and the schema takes its row.
fn check_write(op: &WriteOp, schema: &Schema) -> Result<()> {
    if op.id().is_some_and(str::is_empty) {
        return Err(Error::new(ErrorKind::Invalid, "an id must not be empty"));
    }
    match op.record() {
        Some(record) => schema
            .check_record(record, matches!(op, WriteOp::Insert { .. }))
            .map_err(|error| op.id().map_or(error.clone(), |id| error.with("id", id))),
        None => Ok(()),
    }
}

impl TableShell for MemoryVista {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn source_key(&self) -> String {
        self.shared.state.lock().source_key.clone()
    }

    fn schema(&self) -> Arc<Schema> {
        self.shared.state.lock().schema.clone()
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.state.lock().capabilities
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        let state = self.shared.state.lock();
        if !state.push_down {
            return PushDown::nothing(query);
        }
        if state.capabilities.window {
            return PushDown::everything(query);
        }
        let residual = QueryDescriptor { window: query.window, ..QueryDescriptor::default() };
        PushDown { accepted: query.without_window(), residual }
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        self.run(cx, Call::List, None, &[], || {
            let rows = self.select(query)?;
            Ok(rows.into_iter().map(|(id, record)| (id.to_string(), (*record).clone())).collect())
        })
    }

    fn page(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        self.allow(|can| can.pages, Call::Page)?;
        self.run(cx, Call::Page, None, &[], || self.page_of(query, after, limit))
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        self.allow(|can| can.get, Call::Get)?;
        self.run(cx, Call::Get, Some(id), &[], || Ok(self.row(id)))
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        self.allow(|can| can.count, Call::Count)?;
        self.run(cx, Call::Count, None, &[], || Ok(self.select(&query.without_window())?.len() as u64))
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        self.allow(|can| can.insert, Call::Insert)?;
        self.write_one(cx, WriteOp::Insert { id: id.map(str::to_string), record: record.clone() })
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.allow(|can| can.replace, Call::Replace)?;
        self.write_one(cx, WriteOp::replace(id, record.clone()))
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.allow(|can| can.upsert, Call::Upsert)?;
        self.write_one(cx, WriteOp::upsert(id, record.clone()))
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.allow(|can| can.patch, Call::Patch)?;
        self.write_one(cx, WriteOp::patch(id, record.clone()))
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        self.allow(|can| can.delete, Call::Delete)?;
        self.write_one(cx, WriteOp::delete(id)).map(drop)
    }

    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        self.allow(|can| can.delete_all, Call::DeleteAll)?;
        self.write_one(cx, WriteOp::delete_all()).map(drop)
    }

    fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        self.allow(|can| can.batch, Call::Batch)?;
        self.write(cx, Call::Batch, ops)
    }

    fn changes(&self, cx: &CallCx) -> Result<Box<dyn ChangeStream>> {
        self.allow(|can| can.changes, Call::Changes)?;
        self.run(cx, Call::Changes, None, &[], || {
            Ok(Box::new(MemoryStream::open(self.clone())) as Box<dyn ChangeStream>)
        })
    }
}

#[cfg(test)]
mod tests;
