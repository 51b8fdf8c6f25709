//! LMDB backend: cache tables in one LMDB file of a directory, shared by everybody in this process who opens it.
//!
//! Flow: a batch becomes one write transaction, rows first, then ids in key order, then meta; each read is one read
//! transaction.
//! Invariants: 1. a directory has one environment a process (`registry`) and one process (`file::lock`); 2. a table's
//! number is never given to another name.
//! Close: with the last handle, of backend or table; the file is closed when the next `open` of its path goes on.
//! Not here: any LMDB type in a public signature.

mod environment;
mod file;
mod keys;
mod registry;
mod table;
mod version;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lmdb::{Cursor, Error as LmdbError, Transaction, WriteFlags};
use parking_lot::Mutex;

use self::environment::{Environment, MapSizes, Opened, found};
use self::file::Unsound;
use self::keys::{FILE, Hash, Table};
use self::registry::Registered;
use self::table::LmdbTable;
use crate::cache::{CacheBackend, CacheTable};
use crate::{Error, ErrorKind, Result};

/// The number of the table that is made next, in the file's own meta.
const NEXT_TABLE: &str = "next table";

/// Keeps all tables in one LMDB file in a directory of its own.
///
/// Rows survive a crash of the process at once, and one of the machine from the next
/// [`sync`](CacheBackend::sync) on. The file is kept whole in both cases. It is readable for its owner only.
///
/// ```
/// use diorama::cache::{CacheBackend, LmdbBackend};
///
/// # fn main() -> diorama::Result<()> {
/// # let temporary = tempfile::tempdir().unwrap();
/// # let directory = temporary.path().join("cache");
/// let backend = LmdbBackend::open(&directory)?;
/// let table = backend.open_table("airports")?;
/// assert_eq!(table.count()?, 0);
/// # Ok(())
/// # }
/// ```
pub struct LmdbBackend {
    shared: Arc<Shared>,
}

/// What all handles of one directory share. The fields are dropped in this order: the environment is closed, then other
/// processes may come, then this one may open the directory again.
struct Shared {
    environment: Environment,
    directory: PathBuf,
    long_id_hash: Hash,
    /// The number of every table this process has met. A forgotten one keeps it, so that its handles stay good.
    numbers: Mutex<Numbers>,
    warnings: Vec<Error>,
    _lock: File,
    _registered: Registered,
}

/// What tests of this library set to reach corners that a real cache rarely does.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct LmdbTestOptions {
    /// The size of the first map, in bytes.
    pub map_size: usize,
    /// The size that no map exceeds, in bytes.
    pub max_map_size: usize,
    /// Give all long ids the same hash.
    pub collide_long_ids: bool,
}

impl LmdbBackend {
    /// Opens the cache in this directory, creating both if they aren't there. May wait for an earlier handle of the same
    /// directory that is just closing.
    ///
    /// The same directory opened twice in a process gives the same backend. A file that can't be used (cut short, made by
    /// another program or by a newer version of this library) is renamed, a fresh one takes its place, and
    /// [`warnings`](CacheBackend::warnings) tells which and why.
    ///
    /// # Errors
    /// `Cache` when the directory or its files can't be created, opened or locked, also when another process has this
    /// cache open; `Invalid` for a path that no file can have. The error names the path and keeps the cause.
    pub fn open(directory: impl AsRef<Path>) -> Result<Arc<LmdbBackend>> {
        LmdbBackend::open_with(directory.as_ref(), MapSizes::of_this_platform(), keys::hash)
    }

    /// [`LmdbBackend::open`] with a map of another size.
    #[doc(hidden)]
    pub fn open_for_tests(directory: impl AsRef<Path>, options: LmdbTestOptions) -> Result<Arc<LmdbBackend>> {
        let sizes = MapSizes { first: options.map_size, least: options.map_size, most: options.max_map_size };
        let hash = if options.collide_long_ids { |_: &[u8]| 0 } else { keys::hash };
        LmdbBackend::open_with(directory.as_ref(), sizes, hash)
    }

    fn open_with(directory: &Path, sizes: MapSizes, long_id_hash: Hash) -> Result<Arc<LmdbBackend>> {
        version::check()?;
        let directory = file::create_directory(directory)?;
        let open = |registered| Shared::open(&directory, sizes, long_id_hash, registered);
        Ok(Arc::new(LmdbBackend { shared: registry::open(&directory, open)? }))
    }
}

impl Shared {
    fn open(directory: &Path, sizes: MapSizes, long_id_hash: Hash, registered: Registered) -> Result<Shared> {
        let lock = file::lock(directory)?;
        let mut warnings = Vec::new();
        let (environment, numbers) = open_file(&directory.join(file::DATA), sizes, &mut warnings)?;
        let finished = match environment.has_unfinished_erasure() {
            Ok(true) => environment.erase(|_, _| Ok(())),
            checked => checked.map(|_| ()),
        };
        if let Err(error) = finished {
            tracing::warn!(%error, "a forgotten table's bytes may still be in the cache's file");
            warnings.push(error);
        }
        let directory = directory.to_owned();
        let numbers = Mutex::new(numbers);
        Ok(Shared { environment, directory, long_id_hash, numbers, warnings, _lock: lock, _registered: registered })
    }

    /// The number of the table of this name, which is listed afterwards.
    fn number_of(&self, name: &str) -> Result<Table> {
        self.environment.refuse_inside()?;
        let mut numbers = self.numbers.lock();
        if let Some(number) = numbers.get(name).copied() {
            let is_listed = self.environment.read(|txn, databases| table::is_listed(txn, databases, number))?;
            if !is_listed {
                self.environment.write(|txn, databases| table::list(txn, databases, number, name))?;
            }
            return Ok(number);
        }
        let next_key = keys::meta(FILE, NEXT_TABLE);
        let number = self.environment.write(|txn, databases| {
            let number = match found(txn.get(databases.meta, &next_key))? {
                None => FILE + 1,
                Some(bytes) => Table::from_be_bytes(bytes.try_into().map_err(|_| LmdbError::Corrupted)?),
            };
            let Some(next) = number.checked_add(1) else { return Ok(None) };
            txn.put(databases.meta, &next_key, &next.to_be_bytes(), WriteFlags::empty())?;
            table::list(txn, databases, number, name)?;
            Ok(Some(number))
        })?;
        let number = number.ok_or_else(|| {
            let message = "the cache has no more table numbers; remove its directory to start anew";
            Error::new(ErrorKind::Cache, message).with("path", self.directory.display().to_string())
        })?;
        numbers.insert(name.to_owned(), number);
        Ok(number)
    }
}

impl CacheBackend for LmdbBackend {
    fn open_table(&self, name: &str) -> Result<Arc<dyn CacheTable>> {
        let number = self.shared.number_of(name)?;
        Ok(Arc::new(LmdbTable::new(Arc::clone(&self.shared), name, number)))
    }

    fn tables(&self) -> Result<Vec<String>> {
        Ok(read_numbers(&self.shared.environment)?.into_keys().collect())
    }

    /// Also removes the files that were set aside in this directory: they may hold rows of the table.
    fn forget_table(&self, name: &str) -> Result<()> {
        let environment = &self.shared.environment;
        environment.refuse_inside()?;
        let number = self.shared.numbers.lock().get(name).copied();
        let is_listed = match number {
            Some(number) => environment.read(|txn, databases| table::is_listed(txn, databases, number))?,
            None => false,
        };
        if is_listed || environment.has_unfinished_erasure()? {
            environment.erase(|txn, databases| match number {
                Some(number) => table::remove(txn, databases, number),
                None => Ok(()),
            })?;
        }
        file::remove_set_aside(&self.shared.directory)?;
        file::sync_directory(&self.shared.directory)
    }

    fn sync(&self) -> Result<()> {
        self.shared.environment.sync()
    }

    fn location(&self) -> Option<PathBuf> {
        Some(self.shared.directory.clone())
    }

    fn file_size(&self) -> Result<u64> {
        self.shared.environment.used_bytes()
    }

    fn warnings(&self) -> Vec<Error> {
        self.shared.warnings.clone()
    }
}

fn read_numbers(environment: &Environment) -> Result<Numbers> {
    environment.read(|txn, databases| {
        let mut numbers = HashMap::new();
        for entry in txn.open_ro_cursor(databases.tables)?.iter_start() {
            let (key, value) = entry?;
            let (number, name) = table::number_and_name(key, value).ok_or(LmdbError::Corrupted)?;
            numbers.insert(name.to_owned(), number);
        }
        Ok(numbers)
    })
}

type Numbers = HashMap<String, Table>;

/// Opens the data file, or sets it aside and makes a fresh one.
fn open_file(path: &Path, sizes: MapSizes, warnings: &mut Vec<Error>) -> Result<(Environment, Numbers)> {
    let is_there = match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => false,
        Err(cause) => return Err(file::io_failed(path, "look for the cache's file", cause)),
    };
    if is_there {
        let unsound = match open_existing(path, sizes)? {
            Ok(opened) => return Ok(opened),
            Err(unsound) => unsound,
        };
        let aside = file::set_aside(path, &unsound)?;
        let message = format!("the cache's file can't be used: {}; it was set aside and a new one made", unsound.why);
        let warning = Error::new(ErrorKind::Corrupt, message)
            .with("path", path.display().to_string())
            .with("set aside as", aside.display().to_string());
        tracing::warn!("{warning}");
        warnings.push(warning);
    }
    file::clear_damage_mark(path)?;
    Environment::create(path, sizes)?;
    open_existing(path, sizes)?.map_err(|unsound| {
        let message = format!("the cache's new file can't be used: {}", unsound.why);
        Error::new(ErrorKind::Cache, message).with("path", path.display().to_string())
    })
}

/// The outer error is for a file that may be good and can't be opened now.
fn open_existing(path: &Path, sizes: MapSizes) -> Result<Result<(Environment, Numbers), Unsound>> {
    if let Err(unsound) = file::inspect(path)? {
        return Ok(Err(unsound));
    }
    let environment = match Environment::open(path, sizes)? {
        Opened::Sound(environment) => environment,
        Opened::Unsound(unsound) => return Ok(Err(unsound)),
    };
    match read_numbers(&environment) {
        Ok(numbers) => Ok(Ok((environment, numbers))),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Err(Unsound::new("damaged", error.to_string()))),
        Err(error) => Err(error),
    }
}
