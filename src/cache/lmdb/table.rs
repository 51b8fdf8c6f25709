//! Table: one cache table inside the LMDB file, and how a batch is written so that it costs little more than its rows.

use std::ops::ControlFlow;
use std::sync::Arc;

use lmdb::{Cursor, Database, Error as LmdbError, RoTransaction, RwCursor, RwTransaction, Transaction, WriteFlags};
use lmdb_sys::{MDB_GET_CURRENT, MDB_SET, MDB_SET_RANGE};

use super::Shared;
use super::environment::{Databases, LmdbResult, found};
use super::keys::{self, Entries, Hash, IdKey, Table};
use crate::cache::{CacheBatch, CacheOp, CacheTable};
use crate::{Error, Result, RowNo};

pub(super) struct LmdbTable {
    shared: Arc<Shared>,
    name: String,
    number: Table,
}

impl LmdbTable {
    pub(super) fn new(shared: Arc<Shared>, name: &str, number: Table) -> LmdbTable {
        LmdbTable { shared, name: name.to_owned(), number }
    }

    fn read<T>(&self, look: impl FnOnce(&RoTransaction<'_>, &Databases) -> LmdbResult<T>) -> Result<T> {
        self.shared.environment.read(look).map_err(|error| self.named(error))
    }

    /// The row number of an id. `key` is a buffer to reuse.
    fn lookup_in(
        &self,
        txn: &RoTransaction<'_>,
        databases: &Databases,
        id: &str,
        key: &mut Vec<u8>,
    ) -> LmdbResult<Option<RowNo>> {
        if id.is_empty() {
            return Ok(None);
        }
        keys::id(self.number, id, self.shared.long_id_hash, key);
        let value = match txn.get(databases.ids, key) {
            Ok(value) => value,
            Err(LmdbError::NotFound) => return Ok(None),
            Err(cause) => return Err(cause),
        };
        if !keys::is_long(id) {
            return keys::row_number(value).map(Some).ok_or(LmdbError::Corrupted);
        }
        for entry in Entries(value) {
            let (other, row) = entry.ok_or(LmdbError::Corrupted)?;
            if other == id {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn named(&self, error: Error) -> Error {
        error.with("table", self.name.clone())
    }
}

impl CacheTable for LmdbTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn apply(&self, batch: &CacheBatch) -> Result<()> {
        batch.check().map_err(|error| self.named(error))?;
        let by_id = ops_by_id(&batch.ops);
        let hash = self.shared.long_id_hash;
        let written = self.shared.environment.write(|txn, databases| {
            let (listed, mut count) = match count_in(txn, databases, self.number)? {
                Some(count) => (true, count),
                None => (false, 0),
            };
            let before = count;
            if batch.clear {
                remove_range(txn, databases.rows, self.number)?;
                remove_range(txn, databases.ids, self.number)?;
                count = 0;
            }
            if !batch.ops.is_empty() {
                write_rows(txn, databases.rows, self.number, &batch.ops, &mut count)?;
                write_ids(txn, databases.ids, self.number, &by_id, hash)?;
            }
            for (key, value) in &batch.meta {
                let key = keys::meta(self.number, key);
                match value {
                    Some(value) => txn.put(databases.meta, &key, value, WriteFlags::empty())?,
                    None => found_none(txn.del(databases.meta, &key, None))?,
                }
            }
            if !listed || count != before {
                put_entry(txn, databases, self.number, &self.name, count)?;
            }
            Ok(())
        });
        written.map_err(|error| self.named(error))
    }

    fn get(&self, row: RowNo) -> Result<Option<Arc<[u8]>>> {
        self.read(|txn, databases| match txn.get(databases.rows, &keys::row(self.number, row)) {
            Ok(bytes) => Ok(Some(Arc::from(bytes))),
            Err(LmdbError::NotFound) => Ok(None),
            Err(cause) => Err(cause),
        })
    }

    fn get_many(&self, rows: &[RowNo], each: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        self.read(|txn, databases| {
            // A cursor finds a row on the page where it stands without a search from the root.
            let cursor = txn.open_ro_cursor(databases.rows)?;
            for (position, row) in rows.iter().enumerate() {
                match cursor.get(Some(&keys::row(self.number, *row)), None, MDB_SET) {
                    Ok((_, bytes)) => each(position, Some(bytes)),
                    Err(LmdbError::NotFound) => each(position, None),
                    Err(cause) => return Err(cause),
                }
            }
            Ok(())
        })
    }

    fn get_all(&self, rows: &[RowNo]) -> Result<Vec<Option<Arc<[u8]>>>> {
        let mut all = Vec::with_capacity(rows.len());
        self.get_many(rows, &mut |_, bytes| all.push(bytes.map(Arc::from)))?;
        Ok(all)
    }

    fn lookup(&self, id: &str) -> Result<Option<RowNo>> {
        self.read(|txn, databases| self.lookup_in(txn, databases, id, &mut Vec::new()))
    }

    fn lookup_all(&self, ids: &[&str]) -> Result<Vec<Option<RowNo>>> {
        let mut key = Vec::new();
        self.read(|txn, databases| ids.iter().map(|id| self.lookup_in(txn, databases, id, &mut key)).collect())
    }

    fn scan(&self, from: RowNo, each: &mut dyn FnMut(RowNo, &[u8]) -> ControlFlow<()>) -> Result<()> {
        self.read(|txn, databases| {
            for entry in txn.open_ro_cursor(databases.rows)?.iter_from(keys::row(self.number, from)) {
                let (key, bytes) = entry?;
                let Some(row) = keys::row_in(self.number, key) else { break };
                if each(row, bytes).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn scan_ids(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> Result<()> {
        let prefix = self.number.to_be_bytes();
        self.read(|txn, databases| {
            for entry in txn.open_ro_cursor(databases.ids)?.iter_from(prefix) {
                let (key, value) = entry?;
                let Some(rest) = key.strip_prefix(&prefix) else { break };
                match keys::id_in(rest).ok_or(LmdbError::Corrupted)? {
                    IdKey::Short(id) => {
                        if each(id, keys::row_number(value).ok_or(LmdbError::Corrupted)?).is_break() {
                            return Ok(());
                        }
                    }
                    IdKey::Long => {
                        for entry in Entries(value) {
                            let (id, row) = entry.ok_or(LmdbError::Corrupted)?;
                            if each(id, row).is_break() {
                                return Ok(());
                            }
                        }
                    }
                }
            }
            Ok(())
        })
    }

    fn count(&self) -> Result<u64> {
        self.read(|txn, databases| Ok(count_in(txn, databases, self.number)?.unwrap_or(0)))
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        // The limit also keeps the key within what LMDB takes.
        if key.len() > crate::cache::MAX_META_KEY_BYTES {
            return Ok(None);
        }
        self.read(|txn, databases| found(txn.get(databases.meta, &keys::meta(self.number, key))))
    }
}

/// A table's entry is its count of rows and its name.
pub(super) fn number_and_name<'a>(key: &[u8], value: &'a [u8]) -> Option<(Table, &'a str)> {
    let number = Table::from_be_bytes(key.try_into().ok()?);
    Some((number, std::str::from_utf8(value.get(8..)?).ok()?))
}

pub(super) fn is_listed(txn: &RoTransaction<'_>, databases: &Databases, number: Table) -> LmdbResult<bool> {
    Ok(count_in(txn, databases, number)?.is_some())
}

/// Makes the entry of an empty table.
pub(super) fn list(txn: &mut RwTransaction<'_>, databases: &Databases, number: Table, name: &str) -> LmdbResult<()> {
    match count_in(txn, databases, number)? {
        Some(_) => Ok(()),
        None => put_entry(txn, databases, number, name, 0),
    }
}

/// Removes everything of a table, its entry too.
pub(super) fn remove(txn: &mut RwTransaction<'_>, databases: &Databases, number: Table) -> LmdbResult<()> {
    for database in [databases.rows, databases.ids, databases.meta] {
        remove_range(txn, database, number)?;
    }
    found_none(txn.del(databases.tables, &number.to_be_bytes(), None))
}

/// `None` for a table that has no entry.
fn count_in<T: Transaction>(txn: &T, databases: &Databases, number: Table) -> LmdbResult<Option<u64>> {
    match txn.get(databases.tables, &number.to_be_bytes()) {
        Ok(entry) => {
            let count = entry.first_chunk().ok_or(LmdbError::Corrupted)?;
            Ok(Some(u64::from_be_bytes(*count)))
        }
        Err(LmdbError::NotFound) => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn put_entry(
    txn: &mut RwTransaction<'_>,
    databases: &Databases,
    number: Table,
    name: &str,
    count: u64,
) -> LmdbResult<()> {
    let entry = [&count.to_be_bytes(), name.as_bytes()].concat();
    txn.put(databases.tables, &number.to_be_bytes(), &entry, WriteFlags::empty())
}

fn remove_range(txn: &mut RwTransaction<'_>, database: Database, number: Table) -> LmdbResult<()> {
    let prefix = number.to_be_bytes();
    let mut cursor = txn.open_rw_cursor(database)?;
    loop {
        match cursor.get(Some(&prefix), None, MDB_SET_RANGE) {
            Ok((Some(key), _)) if key.starts_with(&prefix) => cursor.del(WriteFlags::empty())?,
            Ok(_) | Err(LmdbError::NotFound) => return Ok(()),
            Err(cause) => return Err(cause),
        }
    }
}

fn found_none(removed: LmdbResult<()>) -> LmdbResult<()> {
    match removed {
        Err(LmdbError::NotFound) => Ok(()),
        removed => removed,
    }
}

/// A cursor that writes one database of a batch.
struct Writer<'txn> {
    cursor: RwCursor<'txn>,
    /// Keys still come in order behind the last one of the database: no search, and pages are filled whole. LMDB checks
    /// that order itself and refuses a key that isn't behind.
    appending: bool,
}

impl<'txn> Writer<'txn> {
    fn new(txn: &'txn mut RwTransaction<'_>, database: Database) -> LmdbResult<Writer<'txn>> {
        Ok(Writer { cursor: txn.open_rw_cursor(database)?, appending: true })
    }

    /// Puts the value if the key isn't there, and says whether it did. The cursor stands on the key then.
    fn put_new(&mut self, key: &[u8], value: &[u8]) -> LmdbResult<bool> {
        if self.appending {
            match self.cursor.put(&key, &value, WriteFlags::APPEND) {
                Err(LmdbError::KeyExist) => self.appending = false,
                put => return put.map(|()| true),
            }
        }
        match self.cursor.put(&key, &value, WriteFlags::NO_OVERWRITE) {
            Err(LmdbError::KeyExist) => Ok(false),
            put => put.map(|()| true),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> LmdbResult<()> {
        self.cursor.put(&key, &value, WriteFlags::empty())
    }

    /// The value of the key, with the cursor on it; like that of `here`, it is good until the next write only.
    fn seek(&mut self, key: &[u8]) -> LmdbResult<Option<&[u8]>> {
        match self.cursor.get(Some(key), None, MDB_SET) {
            Ok((_, value)) => Ok(Some(value)),
            Err(LmdbError::NotFound) => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    fn here(&self) -> LmdbResult<&[u8]> {
        self.cursor.get(None, None, MDB_GET_CURRENT).map(|(_, value)| value)
    }

    fn remove_here(&mut self) -> LmdbResult<()> {
        self.cursor.del(WriteFlags::empty())
    }
}

fn write_rows(
    txn: &mut RwTransaction<'_>,
    database: Database,
    number: Table,
    ops: &[CacheOp],
    count: &mut u64,
) -> LmdbResult<()> {
    let mut rows = Writer::new(txn, database)?;
    for op in ops {
        let key = keys::row(number, op.row());
        match op {
            CacheOp::Put { bytes, .. } => {
                if rows.put_new(&key, bytes)? {
                    *count += 1;
                } else {
                    rows.put(&key, bytes)?;
                }
            }
            CacheOp::Delete { .. } => {
                if rows.seek(&key)?.is_some() {
                    rows.remove_here()?;
                    *count = count.checked_sub(1).ok_or(LmdbError::Corrupted)?;
                }
            }
        }
    }
    Ok(())
}

/// What an op means for the ids, with the id at hand: following two pointers for each of many ids in scattered order costs
/// more than writing them.
struct IdChange<'a> {
    /// The first bytes of the id, which order it nearly always.
    head: u64,
    id: &'a str,
    row: RowNo,
    is_put: bool,
}

impl<'a> IdChange<'a> {
    fn of(op: &'a CacheOp) -> IdChange<'a> {
        let (id, row, is_put) = match op {
            CacheOp::Put { id, row, .. } => (id, *row, true),
            CacheOp::Delete { id, row } => (id, *row, false),
        };
        let mut head = [0; 8];
        let length = id.len().min(8);
        head[..length].copy_from_slice(&id.as_bytes()[..length]);
        IdChange { head: u64::from_be_bytes(head), id, row, is_put }
    }
}

/// The ops in order of id, those of one id in their own order: neighbours on a page are written together.
fn ops_by_id(ops: &[CacheOp]) -> Vec<IdChange<'_>> {
    let mut sorted: Vec<IdChange<'_>> = ops.iter().map(IdChange::of).collect();
    sorted.sort_by(|a, b| a.head.cmp(&b.head).then_with(|| a.id.cmp(b.id)));
    sorted
}

fn write_ids(
    txn: &mut RwTransaction<'_>,
    database: Database,
    number: Table,
    changes: &[IdChange<'_>],
    hash: Hash,
) -> LmdbResult<()> {
    let mut ids = Writer::new(txn, database)?;
    let mut key = Vec::new();
    for change in changes {
        keys::id(number, change.id, hash, &mut key);
        if keys::is_long(change.id) {
            write_long_id(&mut ids, &key, change)?;
            continue;
        }
        let row = change.row.0.to_be_bytes();
        if change.is_put {
            // Most puts change a row that keeps its number: that page is left alone.
            if !ids.put_new(&key, &row)? && ids.here()? != row {
                ids.put(&key, &row)?;
            }
        } else if ids.seek(&key)? == Some(row.as_slice()) {
            ids.remove_here()?;
        }
    }
    Ok(())
}

fn write_long_id(ids: &mut Writer<'_>, key: &[u8], change: &IdChange<'_>) -> LmdbResult<()> {
    let entries = ids.seek(key)?.unwrap_or_default();
    let mut current = None;
    for entry in Entries(entries) {
        let (id, row) = entry.ok_or(LmdbError::Corrupted)?;
        if id == change.id {
            current = Some(row);
        }
    }
    let wanted = match (change.is_put, current) {
        (true, _) => Some(change.row),
        (false, Some(row)) if row == change.row => None,
        // The id has moved on to another row, or was never there.
        (false, current) => current,
    };
    if wanted == current {
        return Ok(());
    }
    let changed = keys::with_entry(entries, change.id, wanted).ok_or(LmdbError::Corrupted)?;
    if changed.is_empty() { ids.remove_here() } else { ids.put(key, &changed) }
}
