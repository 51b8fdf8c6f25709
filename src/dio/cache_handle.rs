//! Cache handle: a Dio's rows, to read anywhere, and to change through the core.
//!
//! Invariants: inside a callback, changes join the callback's batch, and reads see them.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::cache::MAX_ID_BYTES;
use crate::dio::callback;
use crate::dio::core::{Announce, RowChange};
use crate::dio::event::Cause;
use crate::dio::versions::RowRead;
use crate::dio::{DioInner, at_newest};
use crate::scenery::view_query::ViewQuery;
use crate::value::{Record, StoredRow};
use crate::vista::QueryDescriptor;
use crate::{Error, ErrorKind, Result, Seq};

/// The local copy behind a Dio: [`Dio::cache`](crate::Dio::cache).
///
/// Reads answer from memory and the cache, never from the source. A change is a message to the Dio's core; it returns when
/// the change is visible. Inside a callback, changes wait until the callback returns `Ok`, and reads there see them.
/// Changing the cache doesn't write to the source: that is [`Dio::write`](crate::Dio::write).
#[derive(Debug, Clone)]
pub struct CacheHandle {
    dio: Arc<DioInner>,
}

pub(crate) fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "a row's id must not be empty"));
    }
    if id.len() > MAX_ID_BYTES {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("an id has at most {MAX_ID_BYTES} bytes, not {}", id.len()),
        ));
    }
    Ok(())
}

impl CacheHandle {
    pub(crate) fn new(dio: Arc<DioInner>) -> Self {
        CacheHandle { dio }
    }

    /// One row.
    ///
    /// # Errors
    /// `Closed`, or why the cache could not be read.
    pub fn get(&self, id: &str) -> Result<Option<Record>> {
        let open = callback::with_open(&self.dio, |batch| match batch.rows.get(id) {
            Some(row) => Some(row.clone()),
            None if batch.cleared => Some(None),
            None => None,
        });
        if let Some(Some(answer)) = open {
            return Ok(answer);
        }
        let versions = &self.dio.reader.versions;
        match at_newest(versions, |seq| versions.find_as_of(id, seq)).map_err(|error| self.name(error))? {
            RowRead::Found(stored) => stored.to_record().map(Some).map_err(|error| self.name(error)),
            RowRead::Absent | RowRead::Expired => Ok(None),
        }
    }

    /// All rows with their ids, in the order of arrival. Reads the whole cache.
    ///
    /// # Errors
    /// `Closed`, or why the cache could not be read.
    pub fn list(&self) -> Result<Vec<(String, Record)>> {
        let mut rows = Vec::new();
        self.dio.scan_now(&mut |row_no, stored| {
            rows.push((row_no, stored.id().to_owned(), stored.to_record()));
            ControlFlow::Continue(())
        })?;
        // Rows that the store is only about to write were scanned last, whatever their number.
        rows.sort_by_key(|(row_no, ..)| *row_no);
        let mut rows = rows
            .into_iter()
            .map(|(_, id, record)| Ok((id, record?)))
            .collect::<Result<Vec<(String, Record)>>>()
            .map_err(|error| self.name(error))?;
        callback::with_open(&self.dio, |batch| {
            if batch.cleared {
                rows.clear();
            }
            rows.retain(|(id, _)| !matches!(batch.rows.get(id.as_str()), Some(None)));
            let mut there = HashSet::new();
            for (id, old) in &mut rows {
                if let Some((id, Some(row))) = batch.rows.get_key_value(id.as_str()) {
                    *old = row.clone();
                    there.insert(id.clone());
                }
            }
            let new = batch.rows.iter().filter(|(id, _)| !there.contains(*id));
            rows.extend(new.filter_map(|(id, row)| Some((id.to_string(), row.clone()?))));
        });
        Ok(rows)
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// `Closed`, or why the cache could not be read; outside a callback it answers from memory.
    pub fn count(&self) -> Result<u64> {
        match callback::with_open(&self.dio, |batch| batch.is_empty()) {
            Some(false) => Ok(self.list()?.len() as u64),
            _ => Ok(self.dio.board.rows()),
        }
    }

    /// Whether the cache holds everything the source had at the last full copy.
    pub fn is_complete(&self) -> bool {
        self.dio.board.is_complete()
    }

    /// Puts a whole row, whether it exists or not. Returns when it is visible (in a callback: at once).
    ///
    /// # Errors
    /// `Invalid` for an empty or overlong id; `Closed`; `WouldDeadlock` on the core's own threads.
    pub fn insert(&self, id: impl Into<Arc<str>>, record: Record) -> Result<()> {
        self.insert_as(id.into(), record, Cause::Local)
    }

    pub(crate) fn insert_as(&self, id: Arc<str>, record: Record, cause: Cause) -> Result<()> {
        check_id(&id).map_err(|error| self.name(error))?;
        record.check_depth().map_err(|error| self.name(error).with("id", id.to_string()))?;
        let mut record = Some(record);
        let joined = callback::with_open(&self.dio, |batch| {
            batch.rows.insert(id.clone(), record.take());
        });
        match record {
            Some(record) if joined.is_none() => {
                let row = StoredRow::encode(&id, &record, self.dio.clock().wall_ms());
                self.dio.change(vec![RowChange::Put(row)], cause, Announce::EachRow, None).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Removes a row; a missing one is fine. Returns when it is gone (in a callback: at once).
    ///
    /// # Errors
    /// `Closed`; `WouldDeadlock` on the core's own threads.
    pub fn remove(&self, id: impl Into<Arc<str>>) -> Result<()> {
        let id = id.into();
        let joined = callback::with_open(&self.dio, |batch| {
            batch.rows.insert(id.clone(), None);
        });
        match joined {
            Some(()) => Ok(()),
            None => self.dio.change(vec![RowChange::Delete(id)], Cause::Local, Announce::EachRow, None).map(drop),
        }
    }

    /// Removes every row. In a callback, rows put afterwards take the place of the old ones in one step. With
    /// [`on_query`](crate::LensBuilder::on_query) every query is asked again after it.
    ///
    /// # Errors
    /// `Closed`; `WouldDeadlock` on the core's own threads.
    pub fn clear(&self) -> Result<()> {
        let joined = callback::with_open(&self.dio, |batch| {
            batch.cleared = true;
            batch.rows.clear();
        });
        match joined {
            Some(()) => Ok(()),
            None => {
                self.dio.forget_answers();
                self.dio.change(vec![RowChange::Clear], Cause::Local, Announce::Once, None).map(drop)
            }
        }
    }

    /// Puts many rows at once: one batch, one event, one step of every view.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); nothing is put then.
    pub fn insert_many(&self, rows: impl IntoIterator<Item = (String, Record)>) -> Result<()> {
        let rows: Vec<(String, Record)> = rows.into_iter().collect();
        for (id, record) in &rows {
            check_id(id).map_err(|error| self.name(error))?;
            record.check_depth().map_err(|error| self.name(error).with("id", id.clone()))?;
        }
        let mut rows = Some(rows);
        callback::with_open(&self.dio, |batch| {
            for (id, record) in rows.take().into_iter().flatten() {
                batch.rows.insert(Arc::from(id), Some(record));
            }
        });
        let Some(rows) = rows else { return Ok(()) };
        let now = self.dio.clock().wall_ms();
        let mut scratch = Vec::new();
        // Each record is let go of when it was just read: later that takes longer.
        let put =
            |(id, record): (String, Record)| RowChange::Put(StoredRow::encode_with(&mut scratch, &id, &record, now));
        let changes = rows.into_iter().map(put).collect();
        self.dio.change(changes, Cause::Local, Announce::Once, None).map(drop)
    }

    /// Makes `rows` those that match the query: they are put, and every other row that matches is removed; rows that don't
    /// match stay. The query's order and window don't count. One batch, one event, one step of every view; unchanged rows are
    /// not written. It is what [`on_query`](crate::LensBuilder::on_query) does with what it has read.
    ///
    /// Rows with a pending or newer local write are left alone: in a callback those written since it began, else those written
    /// since this call. A row given that doesn't match is put all the same.
    ///
    /// ```
    /// use diorama::prelude::*;
    /// use diorama::vista::QueryDescriptor;
    ///
    /// let rows = [("a", "TX"), ("b", "TX"), ("c", "OK")].map(|(id, state)| (id, record! { "state" => state }));
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("airports", "id").with_rows(rows))?;
    /// let texan = QueryDescriptor::new().filtered(Condition::eq("state", "TX"));
    /// dio.cache().replace_matching(&texan, [("d".to_owned(), record! { "state" => "TX" })])?;
    /// let ids: Vec<String> = dio.cache().list()?.into_iter().map(|(id, _)| id).collect();
    /// assert_eq!(ids, ["c", "d"]);
    /// # Ok::<(), diorama::Error>(())
    /// ```
    ///
    /// # Errors
    /// An unknown column; `Invalid` for an empty, overlong or repeated id (nothing is changed then); why the cache could not be
    /// read; `Closed`; `WouldDeadlock` on the core's own threads.
    pub fn replace_matching(
        &self,
        query: &QueryDescriptor,
        rows: impl IntoIterator<Item = (String, Record)>,
    ) -> Result<()> {
        self.replace_those(query, rows.into_iter().collect()).map_err(|error| self.name(error))
    }

    fn replace_those(&self, query: &QueryDescriptor, rows: Vec<(String, Record)>) -> Result<()> {
        let (conditions, search) = (query.conditions.clone(), query.search.clone());
        let query =
            ViewQuery::new(&QueryDescriptor { conditions, search, ..QueryDescriptor::default() }, &self.dio.schema)?;
        let mut given: HashSet<&str> = HashSet::with_capacity(rows.len());
        for (id, record) in &rows {
            check_id(id)?;
            record.check_depth().map_err(|error| error.with("id", id.clone()))?;
            if !given.insert(id) {
                let message = "this id is there twice; ids must be unique";
                return Err(Error::new(ErrorKind::Invalid, message).with("id", id.clone()));
            }
        }
        // Whatever is written from here on is newer than these rows.
        let read = self.dio.begin_read();
        let mut going: Vec<Arc<str>> = Vec::new();
        self.dio.scan_now(&mut |_, stored| {
            if query.matches(stored) && !given.contains(stored.id()) {
                going.push(Arc::from(stored.id()));
            }
            ControlFlow::Continue(())
        })?;
        let joined = callback::with_open(&self.dio, |batch| {
            // What the callback did says more of a row than the cache does.
            going.retain(|id| !batch.cleared && !batch.rows.contains_key(id));
            let matches = |id: &str, row: &Record| query.matches(&StoredRow::encode(id, row, 0));
            let put_before = batch.rows.iter().filter_map(|(id, row)| Some((id, row.as_ref()?)));
            let gone = put_before.filter(|(id, row)| !given.contains(&***id) && matches(id, row));
            going.extend(gone.map(|(id, _)| id.clone()));
            let put = rows.iter().map(|(id, record)| (Arc::from(id.as_str()), Some(record.clone())));
            batch.rows.extend(going.drain(..).map(|id| (id, None)).chain(put));
        });
        if joined.is_some() {
            return Ok(());
        }
        let now = self.dio.clock().wall_ms();
        let put = rows.iter().map(|(id, record)| RowChange::Put(StoredRow::encode(id, record, now)));
        let changes = going.into_iter().map(RowChange::Delete).chain(put).collect();
        self.dio.change(changes, Cause::Local, Announce::Once, Some(read.began())).map(drop)
    }

    /// The Seq that the rows have reached.
    pub fn seq(&self) -> Seq {
        self.dio.reader.versions.published()
    }

    fn name(&self, error: Error) -> Error {
        error.with("table", self.dio.name.to_string())
    }
}
