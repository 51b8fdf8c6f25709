//! Environment: the one LMDB environment of a cache directory, kept sound while its map grows and its file is replaced.
//!
//! Flow: `read` and `write` run a closure inside a transaction that ends with the call; nothing of LMDB leaves it.
//! Invariants: 1. locks are taken in this order: `writing`, then `gate`; readers hold the gate shared for one
//! transaction, a growth or a swap of the file holds it alone; 2. no thread enters twice (it is told `WouldDeadlock`);
//! 3. no MDB_MAP_FULL gets out while the map can grow; 4. the file is never shorter than its header says.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use lmdb::{
    Cursor, Database, DatabaseFlags, EnvironmentFlags, Error as LmdbError, RoTransaction, RwTransaction, Transaction,
    WriteFlags,
};
use parking_lot::{Mutex, RwLock};

use super::file::{self, Unsound, io_failed};
use super::keys::{self, FILE};
use crate::{Error, ErrorKind, Result};

pub(super) type LmdbResult<T> = std::result::Result<T, LmdbError>;

/// The version of what this module writes into the file.
const FORMAT: u32 = 1;
const FORMAT_KEY: &str = "diorama format";
/// There while bytes of a forgotten table may still be in free pages.
const REWRITE_KEY: &str = "rewrite";

/// Kept free behind the last page, so that pages which a commit counts but never writes are inside the file before that
/// commit. It costs no disk: the file is sparse there.
const SLACK: u64 = if cfg!(unix) { 1 << 20 } else { 0 };

const READERS: u32 = 512;

#[derive(Clone, Copy)]
pub(super) struct Databases {
    /// Table number → count of rows, name.
    pub(super) tables: Database,
    /// Table number, row number → bytes.
    pub(super) rows: Database,
    /// Table number, id → row number.
    pub(super) ids: Database,
    /// Table number, key → value.
    pub(super) meta: Database,
}

const NAMES: [&str; 4] = ["tables", "rows", "ids", "meta"];

impl Databases {
    fn all(self) -> [Database; 4] {
        [self.tables, self.rows, self.ids, self.meta]
    }
}

/// How large the map is made, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct MapSizes {
    /// Tried first.
    pub(super) first: usize,
    /// Given up below this.
    pub(super) least: usize,
    /// Never exceeded.
    pub(super) most: usize,
}

impl MapSizes {
    pub(super) fn of_this_platform() -> MapSizes {
        let most = isize::MAX as usize;
        // Where a map reserves addresses only, there are plenty of them; elsewhere the file is as large as its map.
        #[cfg(all(unix, target_pointer_width = "64"))]
        return MapSizes { first: 1 << 40, least: 1 << 24, most };
        #[cfg(not(all(unix, target_pointer_width = "64")))]
        return MapSizes { first: 1 << 24, least: 1 << 20, most };
    }
}

pub(super) struct Environment {
    path: PathBuf,
    sizes: MapSizes,
    /// Held by the one writer, from before its transaction until the file covers it.
    writing: Mutex<()>,
    /// `None` only after the file could not be opened again.
    gate: RwLock<Option<Open>>,
}

struct Open {
    lmdb: lmdb::Environment,
    databases: Databases,
    map_size: usize,
    /// The data file once more, for its length.
    file: File,
}

/// What opening found.
pub(super) enum Opened {
    Sound(Environment),
    Unsound(Unsound),
}

impl Environment {
    /// Opens the file at `path`, which must be there and have passed [`file::inspect`].
    pub(super) fn open(path: &Path, sizes: MapSizes) -> Result<Opened> {
        file::restrict(path)?;
        // No other process has this cache open, so a reader table left behind is of no use, whoever made it.
        file::remove_if_there(&file::readers_of(path))?;
        let open = match Open::largest(path, sizes) {
            Ok(open) => open,
            Err(OpenError::Lmdb(LmdbError::NotFound | LmdbError::Incompatible)) => {
                return Ok(Opened::Unsound(Unsound::new("foreign", "it is an LMDB file of another program")));
            }
            Err(OpenError::Lmdb(cause)) if is_damage(cause) => {
                return Ok(Opened::Unsound(Unsound::new("damaged", format!("LMDB refuses it: {cause}"))));
            }
            Err(error) => return Err(error.into_error(path)),
        };
        let environment =
            Environment { path: path.to_owned(), sizes, writing: Mutex::new(()), gate: RwLock::new(Some(open)) };
        let format = environment.read(|txn, databases| found(txn.get(databases.meta, &keys::meta(FILE, FORMAT_KEY))));
        let format = match format {
            Ok(format) => format,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Ok(Opened::Unsound(Unsound::new("damaged", error.to_string())));
            }
            Err(error) => return Err(error),
        };
        match format.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?))) {
            Some(FORMAT) => {
                environment.cover_last_page();
                Ok(Opened::Sound(environment))
            }
            Some(format) if format > FORMAT => {
                let why = format!("its format version is {format}, this program knows {FORMAT}");
                Ok(Opened::Unsound(Unsound::new("newer", why)))
            }
            _ => Ok(Opened::Unsound(Unsound::new("foreign", "it doesn't say that it is a cache of ours"))),
        }
    }

    /// Makes an empty cache file at `path`. Until it is complete it has another name, so that a crash leaves nothing that
    /// looks like a damaged cache.
    pub(super) fn create(path: &Path, sizes: MapSizes) -> Result<()> {
        let new = Replacement::begin(path, sizes)?;
        let put_format = |txn: &mut RwTransaction<'_>, databases: &Databases| {
            let key = keys::meta(FILE, FORMAT_KEY);
            txn.put(databases.meta, &key, &FORMAT.to_be_bytes(), WriteFlags::empty())
        };
        let failed = |cause| failed(&new.path, "create the cache's file", cause);
        new.open.write(&put_format).map_err(failed)?;
        new.finish()?.put_in_place(path)
    }

    /// Runs `look` in a read transaction. `look` must not call this environment; it is told so by `WouldDeadlock`.
    pub(super) fn read<T>(&self, look: impl FnOnce(&RoTransaction<'_>, &Databases) -> LmdbResult<T>) -> Result<T> {
        let _inside = self.enter()?;
        let gate = self.gate.read();
        let open = gate.as_ref().ok_or_else(|| self.gone())?;
        let looked = open.lmdb.begin_ro_txn().and_then(|txn| look(&txn, &open.databases));
        looked.map_err(|cause| failed(&self.path, "read the cache", cause))
    }

    /// Runs `change` in a write transaction and commits it, again with a larger map if it didn't fit.
    pub(super) fn write<T>(&self, change: impl Fn(&mut RwTransaction<'_>, &Databases) -> LmdbResult<T>) -> Result<T> {
        let _inside = self.enter()?;
        let _writing = self.writing.lock();
        self.write_alone(&change)
    }

    /// The caller holds `writing`.
    fn write_alone<T>(&self, change: &impl Fn(&mut RwTransaction<'_>, &Databases) -> LmdbResult<T>) -> Result<T> {
        loop {
            let written = {
                let gate = self.gate.read();
                gate.as_ref().ok_or_else(|| self.gone())?.write(change)
            };
            match written {
                Ok(value) => {
                    self.cover_last_page();
                    return Ok(value);
                }
                Err(LmdbError::MapFull) => self.grow()?,
                Err(cause) => return Err(failed(&self.path, "write to the cache", cause)),
            }
        }
    }

    pub(super) fn sync(&self) -> Result<()> {
        let _inside = self.enter()?;
        let gate = self.gate.read();
        let open = gate.as_ref().ok_or_else(|| self.gone())?;
        open.lmdb.sync(true).map_err(|cause| failed(&self.path, "sync the cache", cause))
    }

    pub(super) fn used_bytes(&self) -> Result<u64> {
        let _inside = self.enter()?;
        let gate = self.gate.read();
        let open = gate.as_ref().ok_or_else(|| self.gone())?;
        open.used_bytes().map_err(|cause| failed(&self.path, "measure the cache", cause))
    }

    /// Whether an earlier [`Environment::erase`] was cut off.
    pub(super) fn has_unfinished_erasure(&self) -> Result<bool> {
        let key = keys::meta(FILE, REWRITE_KEY);
        self.read(|txn, databases| Ok(found(txn.get(databases.meta, &key))?.is_some()))
    }

    /// Runs `remove` in a write transaction, then rewrites the file so that nothing of what it removed is left in it.
    pub(super) fn erase(&self, remove: impl Fn(&mut RwTransaction<'_>, &Databases) -> LmdbResult<()>) -> Result<()> {
        let _inside = self.enter()?;
        let _writing = self.writing.lock();
        self.write_alone(&|txn, databases| {
            remove(txn, databases)?;
            // If the rest is cut off, the next one to look knows what is still to do.
            txn.put(databases.meta, &keys::meta(FILE, REWRITE_KEY), &[1], WriteFlags::empty())
        })?;
        self.rewrite()
    }

    /// Copies everything into a new file and puts it in this one's place. Readers go on until the swap. The caller holds
    /// `writing`.
    fn rewrite(&self) -> Result<()> {
        let replacement = {
            let gate = self.gate.read();
            let open = gate.as_ref().ok_or_else(|| self.gone())?;
            let used = open.used_bytes().map_err(|cause| failed(&self.path, "measure the cache", cause))?;
            // Twice what is in use: the copy never needs more, and there may be no addresses for a second large map.
            let size = usize::try_from(used).map_or(self.sizes.most, |used| used.saturating_mul(2).max(1 << 20));
            let sizes = MapSizes { first: size, least: size, most: self.sizes.most };
            let new = Replacement::begin(&self.path, sizes)?;
            open.copy_to(&new.open).map_err(|cause| failed(&self.path, "rewrite the cache's file", cause))?;
            new.finish()?
        };
        let mut gate = self.gate.write();
        let Some(old) = gate.take() else { return Err(self.gone()) };
        let map_size = old.map_size;
        drop(old);
        let placed = replacement.put_in_place(&self.path);
        *gate = Some(Open::with_map(&self.path, map_size).map_err(|error| error.into_error(&self.path))?);
        drop(gate);
        self.cover_last_page();
        placed
    }

    /// The caller holds `writing`.
    fn grow(&self) -> Result<()> {
        let mut gate = self.gate.write();
        let Some(full) = gate.take() else { return Err(self.gone()) };
        let old = full.map_size;
        let larger = old.saturating_mul(2).min(self.sizes.most);
        // The environment is closed and opened again: a live one that fails to map anew is left without memory, and the
        // next call on it would kill the process.
        drop(full);
        let grown = if larger > old { Open::with_map(&self.path, larger).map_err(Some) } else { Err(None) };
        match grown {
            Ok(open) => {
                tracing::debug!(path = %self.path.display(), from = old, to = larger, "cache map grown");
                *gate = Some(open);
                Ok(())
            }
            Err(cause) => {
                *gate = Some(Open::with_map(&self.path, old).map_err(|error| error.into_error(&self.path))?);
                let message = format!("the cache is full: its map can't grow beyond {old} bytes");
                let full = Error::new(ErrorKind::Cache, message).with("path", self.path.display().to_string());
                Err(match cause {
                    Some(cause) => full.with_source(cause.into_error(&self.path)),
                    None => full,
                })
            }
        }
    }

    /// Sees to it that the file is as long as its header says, and some more. The batch is committed already: a failure
    /// here is only told.
    fn cover_last_page(&self) {
        let gate = self.gate.read();
        if let Some(Err(error)) = gate.as_ref().map(|open| open.cover_last_page(&self.path)) {
            tracing::warn!(%error, "the cache's file could not be extended");
        }
    }

    fn gone(&self) -> Error {
        let message = "the cache's file could not be opened again after it was replaced or grown; open the cache anew";
        Error::new(ErrorKind::Cache, message).with("path", self.path.display().to_string())
    }

    /// Fails on a thread that is inside of this environment. For callers that are about to take a lock of their own.
    pub(super) fn refuse_inside(&self) -> Result<()> {
        self.enter().map(drop)
    }

    fn enter(&self) -> Result<Inside> {
        let address = std::ptr::from_ref(self).addr();
        ENTERED.with_borrow_mut(|entered| {
            if entered.contains(&address) {
                let message = "the cache was called from inside one of its own scans or get_many calls; collect what is \
                               needed there and call afterwards";
                return Err(Error::new(ErrorKind::WouldDeadlock, message).with("path", self.path.display().to_string()));
            }
            entered.push(address);
            Ok(Inside)
        })
    }
}

thread_local! {
    /// The environments that this thread is inside of, innermost last.
    static ENTERED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

struct Inside;

impl Drop for Inside {
    fn drop(&mut self) {
        ENTERED.with_borrow_mut(Vec::pop);
    }
}

enum OpenError {
    Lmdb(LmdbError),
    Other(Error),
}

impl OpenError {
    fn into_error(self, path: &Path) -> Error {
        match self {
            OpenError::Lmdb(cause) => failed(path, "open the cache's file", cause),
            OpenError::Other(error) => error,
        }
    }
}

impl Open {
    /// With the largest map that can be had.
    fn largest(path: &Path, sizes: MapSizes) -> Result<Open, OpenError> {
        let mut size = sizes.first.min(sizes.most);
        loop {
            match Open::with_map(path, size) {
                // Out of addresses, or out of what this process is allowed.
                Err(OpenError::Lmdb(LmdbError::Other(_))) if size / 16 >= sizes.least => size /= 16,
                opened => return opened,
            }
        }
    }

    fn with_map(path: &Path, map_size: usize) -> Result<Open, OpenError> {
        let lmdb = Open::environment(path, map_size).map_err(OpenError::Lmdb)?;
        let [tables, rows, ids, meta] = NAMES.map(|name| lmdb.open_db(Some(name)));
        let databases = (|| Ok(Databases { tables: tables?, rows: rows?, ids: ids?, meta: meta? }))();
        let databases = databases.map_err(OpenError::Lmdb)?;
        let file = file::open_data(path).map_err(OpenError::Other)?;
        Ok(Open { lmdb, databases, map_size, file })
    }

    fn environment(path: &Path, map_size: usize) -> LmdbResult<lmdb::Environment> {
        lmdb::Environment::new()
            .set_flags(EnvironmentFlags::NO_SUB_DIR | EnvironmentFlags::NO_TLS | EnvironmentFlags::NO_META_SYNC)
            .set_max_dbs(NAMES.len() as u32)
            .set_max_readers(READERS)
            .set_map_size(map_size)
            .open_with_permissions(path, 0o600)
    }

    fn write<T>(&self, change: &impl Fn(&mut RwTransaction<'_>, &Databases) -> LmdbResult<T>) -> LmdbResult<T> {
        let mut txn = self.lmdb.begin_rw_txn()?;
        let value = change(&mut txn, &self.databases)?;
        txn.commit()?;
        Ok(value)
    }

    fn used_bytes(&self) -> LmdbResult<u64> {
        Ok((self.lmdb.info()?.last_pgno() as u64 + 1) * u64::from(self.lmdb.stat()?.page_size()))
    }

    fn cover_last_page(&self, path: &Path) -> Result<()> {
        let extend = |cause| io_failed(path, "extend the cache's file", cause);
        let used = self.used_bytes().map_err(|cause| failed(path, "measure the cache", cause))?;
        let length = self.file.metadata().map_err(extend)?.len();
        if length < used + SLACK / 2 { self.file.set_len(used + SLACK).map_err(extend) } else { Ok(()) }
    }

    /// Everything but the mark that a rewrite is due.
    fn copy_to(&self, new: &Open) -> LmdbResult<()> {
        let from = self.lmdb.begin_ro_txn()?;
        let mut to = new.lmdb.begin_rw_txn()?;
        let due = keys::meta(FILE, REWRITE_KEY);
        for (source, target) in self.databases.all().into_iter().zip(new.databases.all()) {
            let mut cursor = from.open_ro_cursor(source)?;
            let mut target = to.open_rw_cursor(target)?;
            for entry in cursor.iter_start() {
                let (key, value) = entry?;
                if source != self.databases.meta || key != due {
                    target.put(&key, &value, WriteFlags::APPEND)?;
                }
            }
        }
        to.commit()
    }
}

/// A file being made to take the place of the data file.
struct Replacement {
    path: PathBuf,
    open: Open,
}

/// A complete file, closed and durable.
struct Finished {
    path: PathBuf,
}

impl Replacement {
    fn begin(data: &Path, sizes: MapSizes) -> Result<Replacement> {
        let path = data.with_extension("mdb-new");
        file::remove_if_there(&path)?;
        file::remove_if_there(&file::readers_of(&path))?;
        let mut size = sizes.first.min(sizes.most);
        let created = loop {
            match Open::environment(&path, size) {
                Err(LmdbError::Other(_)) if size / 16 >= sizes.least => size /= 16,
                created => break created,
            }
        };
        let created = created.and_then(|environment| {
            for name in NAMES {
                environment.create_db(Some(name), DatabaseFlags::empty())?;
            }
            Ok(())
        });
        created.map_err(|cause| failed(&path, "create the cache's file", cause))?;
        let open = Open::with_map(&path, size).map_err(|error| error.into_error(&path))?;
        Ok(Replacement { path, open })
    }

    fn finish(self) -> Result<Finished> {
        self.open.cover_last_page(&self.path)?;
        self.open.lmdb.sync(true).map_err(|cause| failed(&self.path, "sync the cache's new file", cause))?;
        let path = self.path;
        drop(self.open);
        file::remove_if_there(&file::readers_of(&path))?;
        Ok(Finished { path })
    }
}

impl Finished {
    fn put_in_place(self, data: &Path) -> Result<()> {
        fs::rename(&self.path, data).map_err(|cause| io_failed(data, "put the cache's new file in place", cause))?;
        data.parent().map_or(Ok(()), file::sync_directory)
    }
}

/// `None` instead of [`LmdbError::NotFound`], and owned.
pub(super) fn found(value: LmdbResult<&[u8]>) -> LmdbResult<Option<Vec<u8>>> {
    match value {
        Ok(value) => Ok(Some(value.to_vec())),
        Err(LmdbError::NotFound) => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn is_damage(cause: LmdbError) -> bool {
    matches!(
        cause,
        LmdbError::Corrupted
            | LmdbError::PageNotFound
            | LmdbError::Invalid
            | LmdbError::VersionMismatch
            | LmdbError::Panic
    )
}

fn failed(path: &Path, doing: &str, cause: LmdbError) -> Error {
    let (kind, hint) = match cause {
        LmdbError::Corrupted | LmdbError::PageNotFound => {
            file::mark_damaged(path);
            (ErrorKind::Corrupt, ": its file is damaged, and is set aside and made anew when the cache is next opened")
        }
        cause if is_damage(cause) => (ErrorKind::Corrupt, "; close the cache and open it again, it is then checked"),
        LmdbError::ReadersFull => (ErrorKind::Cache, "; more than 512 reads run at once"),
        _ => (ErrorKind::Cache, ""),
    };
    Error::new(kind, format!("cannot {doing}{hint}")).with("path", path.display().to_string()).with_source(cause)
}
