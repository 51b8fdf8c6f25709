//! Import: many rows into a source, piece by piece, by whoever asked for it.
//!
//! Owner: the thread that calls `step`; nothing runs behind.
//! Flow: the caller's rows → a chunk in memory → one `batch` call of the source, or row by row through `Dio::write` → the
//! rows in the cache → the position moves.
//! Invariants:
//! 1. A row counts as done when the source has confirmed it and all before it; what failed is not done, and is tried again by
//!    the next step (`tests/import.rs`).
//! 2. No more than a chunk is in memory.
//!
//! Not here: the path of a single write (`dio`).

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dio::core::{Announce, RowChange};
use crate::dio::{Cause, Dio, WriteTicket};
use crate::sync::catch_user;
use crate::value::{Record, StoredRow};
use crate::vista::{Schema, WriteOp, Written};
use crate::{Error, ErrorKind, Result};

/// Rows in a chunk, unless told otherwise.
const CHUNK_ROWS: usize = 1_000;
/// About how many bytes a chunk holds, however few rows that are.
const CHUNK_BYTES: usize = 4 << 20;
/// Writes on their way at once, row by row.
const WINDOW: usize = 64;

/// One row to import: its fields, and its id if it has one.
///
/// Without an id, the value of the id column is it (a text or an integer); without that the source chooses one.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportRow {
    /// The id under which it is to be stored.
    pub id: Option<String>,
    /// The whole row.
    pub record: Record,
}

/// What can be imported as a row: an [`ImportRow`], a record, an id with a record, or a `Result` of one of them, as readers
/// of files give it. An `Err` ends the import there.
pub trait IntoImportRow {
    /// The row.
    ///
    /// # Errors
    /// Why there is none.
    fn into_import_row(self) -> Result<ImportRow>;
}

impl IntoImportRow for ImportRow {
    fn into_import_row(self) -> Result<ImportRow> {
        Ok(self)
    }
}

impl IntoImportRow for Record {
    fn into_import_row(self) -> Result<ImportRow> {
        Ok(ImportRow { id: None, record: self })
    }
}

impl<I: Into<String>> IntoImportRow for (I, Record) {
    fn into_import_row(self) -> Result<ImportRow> {
        Ok(ImportRow { id: Some(self.0.into()), record: self.1 })
    }
}

impl<R: IntoImportRow, E: Into<Error>> IntoImportRow for Result<R, E> {
    fn into_import_row(self) -> Result<ImportRow> {
        self.map_err(Into::into)?.into_import_row()
    }
}

/// How far an import has come: enough to go on with it later, in another run of the program, too ([`Import::resume`]). Keep it
/// in any form that serde knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportState {
    /// Names the import to a source that does nothing twice.
    key: String,
    done: u64,
}

impl ImportState {
    fn new() -> Self {
        let random = || RandomState::new().hash_one(0_u8);
        ImportState { key: format!("{:016x}{:016x}", random(), random()), done: 0 }
    }

    /// How many of the rows, from the first on, the source has.
    pub fn done(&self) -> u64 {
        self.done
    }
}

/// How far an import has come, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportProgress {
    /// How many of the rows, from the first on, the source has.
    pub done: u64,
    /// How many rows there are in all, where the iterator tells.
    pub total: Option<u64>,
}

/// Many rows on their way to a source: [`Dio::import`]. Each [`step`](Self::step) writes a chunk of them, on the thread that
/// calls it; nothing goes on in between.
pub struct Import<I> {
    dio: Dio,
    rows: I,
    /// Taken and not known to be done.
    chunk: VecDeque<ImportRow>,
    chunk_rows: usize,
    state: ImportState,
    /// How many rows are yet to be passed over, which an earlier import did.
    skip: u64,
    /// Why no more rows come.
    stop: Option<Error>,
}

impl<I> fmt::Debug for Import<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("table", &self.dio.inner().name).field("done", &self.state.done).finish()
    }
}

impl Dio {
    /// Many rows for the source, which are taken from an iterator as they are written: new ones are added, those that are
    /// there are replaced. So a row is not doubled when it comes twice, or when an import is repeated.
    ///
    /// A source with [`batch`](crate::vista::Capabilities::batch) gets a chunk of rows in one call, all or none of it; another
    /// (and every one behind `on_write`) gets them one by one through [`write`](Self::write), several on their way at once. A
    /// source that can't [`upsert`](crate::vista::Capabilities::upsert) is told to insert or to replace, by what the cache
    /// has; where it can't replace either, rows that are there stay as they are. Rows without an id are inserted, and only
    /// a source with [`idempotent_writes`](crate::vista::Capabilities::idempotent_writes) and batches is sure not to double
    /// those whose answer was lost.
    ///
    /// What a chunk did shows in all views in one step. Writes of the same rows that are made elsewhere meanwhile may land
    /// before or after.
    ///
    /// ```
    /// use diorama::prelude::*;
    ///
    /// # fn main() -> diorama::Result<()> {
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("products", "id"))?;
    /// let rows = (0..2_500).map(|number| (format!("p{number}"), record! { "price" => number }));
    ///
    /// let mut import = dio.import(rows);
    /// while let Some(progress) = import.step()? {
    ///     println!("{} of {:?} rows", progress.done, progress.total);
    ///     // Stop here, and `import.state()` is where to go on.
    /// }
    /// assert_eq!((import.state().done(), dio.status().rows), (2_500, 2_500));
    /// # Ok(())
    /// # }
    /// ```
    pub fn import<R>(&self, rows: R) -> Import<R::IntoIter>
    where
        R: IntoIterator,
        R::Item: IntoImportRow,
    {
        Import {
            dio: self.clone(),
            rows: rows.into_iter(),
            chunk: VecDeque::new(),
            chunk_rows: CHUNK_ROWS,
            state: ImportState::new(),
            skip: 0,
            stop: None,
        }
    }
}

impl<I> Import<I> {
    /// How far it has come. After a failure, too: hand it to [`resume`](Self::resume) with the same rows.
    pub fn state(&self) -> &ImportState {
        &self.state
    }
}

impl<I> Import<I>
where
    I: Iterator,
    I::Item: IntoImportRow,
{
    /// Goes on where an earlier import of the same rows stood: so many of them are passed over.
    #[must_use]
    pub fn resume(mut self, state: ImportState) -> Self {
        self.skip = state.done;
        self.state = state;
        self
    }

    /// How many rows a chunk has at the most; 1,000 unless told otherwise, and fewer when they are large (4 MiB). Keep it from
    /// one run to the next: chunks that begin and end as before are known again by a source that does nothing twice.
    #[must_use]
    pub fn chunk_rows(mut self, rows: usize) -> Self {
        self.chunk_rows = rows.max(1);
        self
    }

    /// Writes the next chunk, and blocks until the source has it. `None` once all rows are done.
    ///
    /// # Errors
    /// Of the first row that is refused, with its `row` (the first is 1) and `id`: those before it are done, and some after
    /// it may be, too. Where a call failed for all of its rows (the source can't be reached …), with its `rows`. Another step
    /// tries again what is not done; an error of the iterator comes again. `Unsupported` for a source that can't insert;
    /// `Closed`; `WouldDeadlock` on a thread of the library that would wait for itself.
    pub fn step(&mut self) -> Result<Option<ImportProgress>> {
        self.attempt().map_err(|stopped| match stopped {
            Stopped::NoRoom(error) | Stopped::Failed(error) => error,
        })
    }

    /// As [`step`](Self::step), and tells whether it wants room in the queue of writes.
    pub(crate) fn attempt(&mut self) -> Result<Option<ImportProgress>, Stopped> {
        self.pass_over()?;
        self.fill();
        if self.chunk.is_empty() {
            return match &self.stop {
                Some(error) => Err(Stopped::Failed(error.clone())),
                None => Ok(None),
            };
        }
        let ops = self.plan()?;
        let done = self.write(&ops);
        let (done, result) = match done {
            Ok(()) => (ops.len(), Ok(())),
            Err((done, error)) => (done, Err(error)),
        };
        self.chunk.drain(..done);
        self.state.done += done as u64;
        result.map(|()| Some(self.progress()))
    }

    /// Writes all that is left.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn run(&mut self) -> Result<ImportProgress> {
        while self.step()?.is_some() {}
        Ok(self.progress())
    }

    /// How far it has come.
    pub fn progress(&self) -> ImportProgress {
        let done = self.state.done;
        let total = match self.rows.size_hint() {
            (least, Some(most)) if least == most => {
                let known = done.saturating_sub(self.skip) + self.chunk.len() as u64;
                Some(known.saturating_add(most as u64))
            }
            _ => None,
        };
        ImportProgress { done, total }
    }

    /// Takes the rows that an earlier import did out of the iterator.
    fn pass_over(&mut self) -> Result<()> {
        while self.skip > 0 {
            if self.rows.next().is_none() {
                let message = format!(
                    "there are {} rows, fewer than the {} that are done; resume with the same rows",
                    self.state.done - self.skip,
                    self.state.done
                );
                return Err(self.dio.inner().name_error(Error::new(ErrorKind::Invalid, message)));
            }
            self.skip -= 1;
        }
        Ok(())
    }

    fn fill(&mut self) {
        let mut bytes: usize = self.chunk.iter().map(|row| row.record.encoded_size_hint()).sum();
        while self.stop.is_none() && self.chunk.len() < self.chunk_rows && bytes < CHUNK_BYTES {
            let Some(row) = self.rows.next() else { return };
            match row.into_import_row() {
                Ok(mut row) => {
                    let column = self.dio.inner().schema.id_column();
                    let named = column.and_then(|column| row.record.get(column)).and_then(Schema::id_of);
                    row.id = row.id.or(named);
                    bytes += row.record.encoded_size_hint();
                    self.chunk.push_back(row);
                }
                Err(error) => self.stop = Some(self.name_row(error, self.chunk.len())),
            }
        }
    }

    /// An error with the number and the id of the row in the chunk.
    fn name_row(&self, error: Error, position: usize) -> Error {
        let error = error.with("row", (self.state.done + position as u64 + 1).to_string());
        let error = self.dio.inner().name_error(error);
        match self.chunk.get(position).and_then(|row| row.id.as_deref()) {
            Some(id) => error.with("id", id),
            None => error,
        }
    }

    /// The chunk's writes, up to the first that can't be meant; `None` for a row that stays as it is.
    fn plan(&self) -> Result<Vec<Option<WriteOp>>> {
        let mut ops = Vec::with_capacity(self.chunk.len());
        for (position, row) in self.chunk.iter().enumerate() {
            match self.op(row) {
                Ok(op) => ops.push(op),
                Err(error) if position == 0 => return Err(self.name_row(error, 0)),
                // What is before it is done first.
                Err(_) => break,
            }
        }
        Ok(ops)
    }

    fn op(&self, row: &ImportRow) -> Result<Option<WriteOp>> {
        let inner = self.dio.inner();
        let able = inner.write_capabilities();
        let record = row.record.clone();
        let op = match row.id.clone() {
            Some(id) if able.upsert => WriteOp::Upsert { id, record },
            Some(id) if self.dio.cache().get(&id)?.is_some() => match able.replace {
                true => WriteOp::Replace { id, record },
                false => return Ok(None),
            },
            id => WriteOp::Insert { id, record },
        };
        inner.check_write(&op)?;
        Ok(Some(op))
    }

    /// # Errors
    /// How many of the rows are done, and why no more.
    fn write(&self, ops: &[Option<WriteOp>]) -> Result<(), (usize, Stopped)> {
        let inner = self.dio.inner();
        let is_direct = inner.lens.callbacks.on_write.is_none() && inner.master.capabilities().batch;
        if is_direct {
            let writes: Vec<WriteOp> = ops.iter().flatten().cloned().collect();
            match self.write_batch(&writes) {
                Ok(()) => return Ok(()),
                // All or none: one by one tells which it was.
                Err(error) if is_refusal(error.kind()) => {}
                Err(error) => {
                    let first = self.state.done + 1;
                    let rows = format!("{first} to {}", self.state.done + ops.len() as u64);
                    return Err((0, Stopped::Failed(inner.name_error(error.with("rows", rows)))));
                }
            }
        }
        self.write_each(ops)
    }

    /// All writes in one call of the source, and in one step of the views.
    fn write_batch(&self, writes: &[WriteOp]) -> Result<()> {
        let inner = self.dio.inner();
        if writes.is_empty() {
            return Ok(());
        }
        if !inner.is_open() {
            return Err(Error::new(ErrorKind::Closed, "the Dio is closed"));
        }
        let key = format!("import {} {}+{}", self.state.key, self.state.done + 1, writes.len());
        let cx = inner.call_cx().with_idempotency_key(key);
        let written = catch_user("the source", || inner.master.batch(&cx, writes)).and_then(|written| written)?;
        if written.len() != writes.len() {
            let message = format!("the source answered {} of {} writes", written.len(), writes.len());
            return Err(Error::new(ErrorKind::Source, message));
        }
        let mut changes = Vec::with_capacity(writes.len());
        for (op, written) in writes.iter().zip(written) {
            self.show(op, written, &mut changes)?;
        }
        inner.change(changes, Cause::Confirmed, Announce::Once, None).map(drop)
    }

    /// What a confirmed write does to the rows.
    fn show(&self, op: &WriteOp, written: Written, changes: &mut Vec<RowChange>) -> Result<()> {
        let inner = self.dio.inner();
        let Some(id) = written.id.or_else(|| op.id().map(str::to_owned)) else {
            return Err(Error::new(ErrorKind::Source, "the source inserted a row and did not say under which id"));
        };
        let is_insert = matches!(op, WriteOp::Insert { .. });
        if let Some(old) = op.id().filter(|old| *old != id && !is_insert) {
            changes.push(RowChange::Delete(Arc::from(old)));
        }
        let mut record = written.record.or_else(|| op.record().cloned()).unwrap_or_default();
        if let Some(column) = inner.schema.id_column()
            && !record.contains(column)
        {
            record.insert(column, id.as_str());
        }
        changes.push(RowChange::Put(StoredRow::encode(&id, &record, inner.clock().wall_ms())));
        Ok(())
    }

    /// Row by row through the queue. Rows whose id the source chooses go one after the other: were one behind a refused one
    /// done, it would come twice.
    fn write_each(&self, ops: &[Option<WriteOp>]) -> Result<(), (usize, Stopped)> {
        let window = if ops.iter().flatten().any(|op| op.id().is_none()) { 1 } else { WINDOW };
        let mut way = OnTheWay::default();
        for (position, op) in ops.iter().enumerate() {
            let Some(op) = op else { continue };
            while way.waiting.len() >= window {
                self.settle_one(&mut way);
            }
            if way.failed.is_some() {
                break;
            }
            match self.send(op, &mut way) {
                Ok(ticket) => way.waiting.push_back((position, op, ticket)),
                Err(error) => {
                    self.settle_all(&mut way);
                    let stopped = if error.kind() == ErrorKind::Full { Stopped::NoRoom } else { Stopped::Failed };
                    way.failed.get_or_insert((position, stopped(error)));
                }
            }
        }
        self.settle_all(&mut way);
        match way.failed {
            None => Ok(()),
            Some((position, Stopped::NoRoom(error))) => {
                Err((position, Stopped::NoRoom(self.name_row(error, position))))
            }
            Some((position, Stopped::Failed(error))) => {
                Err((position, Stopped::Failed(self.name_row(error, position))))
            }
        }
    }

    fn send<'a>(&self, op: &'a WriteOp, way: &mut OnTheWay<'a>) -> Result<WriteTicket> {
        loop {
            // A full queue has room once one of ours has ended; others' are waited for as any write does.
            let sent = match way.waiting.is_empty() {
                true => self.dio.write(op.clone()),
                false => self.dio.try_write(op.clone()).map_err(|refused| refused.error),
            };
            match sent {
                Err(error) if error.kind() == ErrorKind::Full && !way.waiting.is_empty() => self.settle_one(way),
                sent => return sent,
            }
        }
    }

    fn settle_all(&self, way: &mut OnTheWay<'_>) {
        while !way.waiting.is_empty() {
            self.settle_one(way);
        }
    }

    fn settle_one(&self, way: &mut OnTheWay<'_>) {
        let Some((position, op, ticket)) = way.waiting.pop_front() else { return };
        let ended = ticket.wait(Duration::MAX).map(drop).or_else(|error| self.again(op, error));
        if let (Err(error), None) = (ended, &way.failed) {
            way.failed = Some((position, Stopped::Failed(error)));
        }
    }

    /// A row that the cache didn't know of is there all the same: it is replaced.
    fn again(&self, op: &WriteOp, error: Error) -> Result<()> {
        match op {
            WriteOp::Insert { id: Some(id), record }
                if error.kind() == ErrorKind::Conflict && self.dio.inner().write_capabilities().replace =>
            {
                self.dio.write(WriteOp::replace(id, record.clone()))?.wait(Duration::MAX).map(drop)
            }
            _ => Err(error),
        }
    }
}

/// Rows written one by one: those that have not ended yet, and the first that failed.
#[derive(Default)]
struct OnTheWay<'a> {
    waiting: VecDeque<(usize, &'a WriteOp, WriteTicket)>,
    failed: Option<(usize, Stopped)>,
}

/// Why a step ended before its end.
pub(crate) enum Stopped {
    /// The queue of writes was full, and there was no time to wait or none left.
    NoRoom(Error),
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Stopped::Failed(error)
    }
}

/// Whether the source looked at the rows and did not want one of them.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Invalid | ErrorKind::Rejected
    )
}
