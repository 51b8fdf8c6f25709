//! Cache: where the confirmed rows of every table are kept, in memory or on disk, behind two small traits.
//!
//! Flow: the one writing thread applies a [`CacheBatch`] → all of it, or nothing, becomes visible → any thread reads.
//! Invariants: 1. a batch is all or nothing, rows, ids and meta together ([`contract::check`] holds every backend to it);
//! 2. a reader never waits for a writer; 3. a scan sees one frozen state.
//! Not here: what a row's bytes mean, when a batch is written, and which row numbers exist; the Dio's core knows.

pub mod contract;
pub(crate) mod faulty;
#[cfg(feature = "lmdb")]
mod lmdb;
mod memory;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result, RowNo};

pub use faulty::FaultyBackend;
#[cfg(feature = "lmdb")]
pub use lmdb::{LmdbBackend, LmdbTestOptions};
pub use memory::MemoryBackend;

/// The longest id a table takes, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 64 * 1024;

/// The longest key of a table's meta map, in bytes of UTF-8.
pub const MAX_META_KEY_BYTES: usize = 255;

/// A place that keeps cache tables: [`MemoryBackend`], `LmdbBackend`, or your own.
///
/// Run [`contract::check`] over an implementation of your own; a durable one also over [`contract::check_durable`].
/// All calls may block on the disk, and may come from any thread.
pub trait CacheBackend: Send + Sync + 'static {
    /// Opens the table of this name, creating it when it isn't there. Any name works: any characters, any length, and
    /// the empty one. Every handle of one name shows the same rows.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn open_table(&self, name: &str) -> Result<Arc<dyn CacheTable>>;

    /// The names of all tables that were opened or written and not forgotten since, in no particular order.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn tables(&self) -> Result<Vec<String>>;

    /// Wipes the table: rows, ids, meta and its name. On disk the file is also rewritten, so that no freed page of it
    /// keeps the bytes. A table that isn't there is fine.
    ///
    /// Handles of the table stay usable: they see an empty table, and writing through one makes it exist again.
    ///
    /// # Errors
    /// `Cache` when the storage fails. The rows may then be gone while their bytes are still in the file; a durable
    /// backend finishes the work at the next `forget_table` or when it is next opened.
    fn forget_table(&self, name: &str) -> Result<()>;

    /// Returns when everything applied before is durable. Does nothing in memory.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn sync(&self) -> Result<()>;

    /// The directory on disk, or `None` when the rows live in memory and nothing is durable.
    fn location(&self) -> Option<PathBuf>;

    /// Bytes used on disk; 0 in memory.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn file_size(&self) -> Result<u64>;

    /// What went wrong and was survived, for example a damaged cache file that was set aside, naming the file and why.
    fn warnings(&self) -> Vec<Error> {
        Vec::new()
    }
}

/// One table of a [`CacheBackend`]: row bytes by [`RowNo`], row numbers by id, and a small meta map.
///
/// One thread applies at a time; a second one waits for the first. Readers never wait for a writer.
pub trait CacheTable: Send + Sync + 'static {
    /// The name it was opened with.
    fn name(&self) -> &str;

    /// Applies the whole batch or nothing of it; readers see all of it or nothing.
    ///
    /// # Errors
    /// `Invalid` when [`CacheBatch::check`] refuses it, `Cache` when the storage fails. Nothing of the batch is visible
    /// then.
    fn apply(&self, batch: &CacheBatch) -> Result<()>;

    /// The bytes of this row, or `None`.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn get(&self, row: RowNo) -> Result<Option<Arc<[u8]>>>;

    /// Calls `found` once for each of `rows`, in their order, with the position in `rows` and the bytes, or `None` for a
    /// row that isn't there.
    ///
    /// Backends may run `found` inside a read transaction: it must not block, and must not call the backend.
    ///
    /// # Errors
    /// `Cache` when the storage fails; `found` may have been called for some rows by then.
    fn get_many(&self, rows: &[RowNo], found: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        for (position, row) in rows.iter().enumerate() {
            found(position, self.get(*row)?.as_deref());
        }
        Ok(())
    }

    /// The row number that this id has, or `None`.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn lookup(&self, id: &str) -> Result<Option<RowNo>>;

    /// The bytes of each of `rows`, in their order: what [`get`](CacheTable::get) says of it.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn get_all(&self, rows: &[RowNo]) -> Result<Vec<Option<Arc<[u8]>>>> {
        rows.iter().map(|row| self.get(*row)).collect()
    }

    /// The row number of each of `ids`, in their order: what [`lookup`](CacheTable::lookup) says of it.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn lookup_all(&self, ids: &[&str]) -> Result<Vec<Option<RowNo>>> {
        ids.iter().map(|id| self.lookup(id)).collect()
    }

    /// Calls `each` for every row from `from` on, in ascending order, until it breaks. All of it is one frozen state, also
    /// while batches are applied.
    ///
    /// Backends may run `each` inside a read transaction: it must not block, and must not call the backend.
    ///
    /// # Errors
    /// `Cache` when the storage fails; `each` may have been called for some rows by then.
    fn scan(&self, from: RowNo, each: &mut dyn FnMut(RowNo, &[u8]) -> ControlFlow<()>) -> Result<()>;

    /// Calls `each` for every id and its row number, in any order, until it breaks. The same rules as for
    /// [`scan`](CacheTable::scan).
    ///
    /// # Errors
    /// `Cache` when the storage fails; `each` may have been called for some ids by then.
    fn scan_ids(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> Result<()>;

    /// How many rows there are. Costs about as much as one `get`.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn count(&self) -> Result<u64>;

    /// The meta value of this key, or `None`.
    ///
    /// # Errors
    /// `Cache` when the storage fails.
    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>>;
}

/// A set of changes to one table that happens whole or not at all.
///
/// In this order: everything is dropped if `clear` says so, then the `ops` one after the other, then `meta`.
///
/// ```
/// use diorama::RowNo;
/// use diorama::cache::{CacheBackend, CacheBatch, MemoryBackend};
///
/// # fn main() -> diorama::Result<()> {
/// let table = MemoryBackend::new().open_table("airports")?;
/// let mut batch = CacheBatch::default();
/// batch.put(RowNo(0), "00M", b"Thigpen Field".as_slice());
/// batch.set_meta("complete", [1]);
/// table.apply(&batch)?;
///
/// assert_eq!(table.lookup("00M")?, Some(RowNo(0)));
/// assert_eq!(table.get(RowNo(0))?.as_deref(), Some(b"Thigpen Field".as_slice()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct CacheBatch {
    /// Drop all rows and ids first. Meta stays.
    pub clear: bool,
    /// The changes of rows, in order.
    pub ops: Vec<CacheOp>,
    /// Meta values to set, or to remove where there is `None`.
    pub meta: Vec<(String, Option<Vec<u8>>)>,
}

/// One change of one row.
#[derive(Debug, Clone)]
pub enum CacheOp {
    /// Stores the bytes under the row number, replacing what it held, and gives the id this row number.
    ///
    /// An id that had another row number moves to this one; the old row stays until it is deleted. A row number keeps the
    /// id it was first stored with.
    Put {
        /// The row's number.
        row: RowNo,
        /// The row's id: 1 to [`MAX_ID_BYTES`] bytes.
        id: Arc<str>,
        /// The row as the caller encoded it.
        bytes: Arc<[u8]>,
    },
    /// Removes the row, and the id unless it has moved to another row number. A row that isn't there is fine.
    Delete {
        /// The row's number.
        row: RowNo,
        /// The row's id.
        id: Arc<str>,
    },
}

impl CacheOp {
    /// The id of the row this changes.
    pub fn id(&self) -> &str {
        match self {
            CacheOp::Put { id, .. } | CacheOp::Delete { id, .. } => id,
        }
    }

    /// The number of the row this changes.
    pub fn row(&self) -> RowNo {
        match self {
            CacheOp::Put { row, .. } | CacheOp::Delete { row, .. } => *row,
        }
    }
}

impl CacheBatch {
    /// Adds a [`CacheOp::Put`].
    pub fn put(&mut self, row: RowNo, id: impl Into<Arc<str>>, bytes: impl Into<Arc<[u8]>>) {
        self.ops.push(CacheOp::Put { row, id: id.into(), bytes: bytes.into() });
    }

    /// Adds a [`CacheOp::Delete`].
    pub fn delete(&mut self, row: RowNo, id: impl Into<Arc<str>>) {
        self.ops.push(CacheOp::Delete { row, id: id.into() });
    }

    /// Sets a meta value.
    pub fn set_meta(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.meta.push((key.into(), Some(value.into())));
    }

    /// Removes a meta value.
    pub fn remove_meta(&mut self, key: impl Into<String>) {
        self.meta.push((key.into(), None));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        !self.clear && self.ops.is_empty() && self.meta.is_empty()
    }

    /// What every backend asks of a batch before it touches anything.
    ///
    /// # Errors
    /// `Invalid` for an id that is empty or longer than [`MAX_ID_BYTES`], and for a meta key that is empty or longer than
    /// [`MAX_META_KEY_BYTES`].
    pub fn check(&self) -> Result<()> {
        for op in &self.ops {
            let id = op.id();
            if id.is_empty() {
                return Err(Error::new(ErrorKind::Invalid, "a row's id can't be empty; give every row an id")
                    .with("row", op.row().to_string()));
            }
            if id.len() > MAX_ID_BYTES {
                let message = format!("an id of {} bytes is too long; {MAX_ID_BYTES} bytes are the most", id.len());
                return Err(Error::new(ErrorKind::Invalid, message).with("row", op.row().to_string()));
            }
        }
        for (key, _) in &self.meta {
            if key.is_empty() || key.len() > MAX_META_KEY_BYTES {
                let message = format!("a meta key has 1 to {MAX_META_KEY_BYTES} bytes, this one has {}", key.len());
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(())
    }
}
