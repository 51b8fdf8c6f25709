//! Registry: one journal for each cache directory of this process, shared by the tables of all Lenses on it.
//!
//! Invariants: a journal that is being opened or closed is waited for, without the lock held while that happens; a table has
//! one handle at a time (`a_table_is_opened_once_at_a_time`).
//! Close/panic: when the last user is gone what was handed over is written, then the thread ends; the place in the registry
//! is free only after that.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::journal::committer::{Inlet, Journal};
use crate::journal::log::{Numbered, SEGMENT_BYTES};
use crate::journal::medium::{Directory, Medium};
use crate::journal::record;
use crate::journal::replay;
use crate::journal::room::Room;
use crate::journal::table::{Replay, Table, TableJournal};
use crate::sync::{self, Rank, Role, reply};
use crate::{Error, ErrorKind, Result, Seq};

/// The directory of a journal within that of its cache.
const DIRECTORY: &str = "journal";

/// How long the last user waits for the thread's end, on a thread of the application.
const JOIN: Duration = Duration::from_secs(2);

/// By canonical path. A weak pointer that can't be upgraded stands for one that is being opened or closed.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<PathJournal>>> = Mutex::new(BTreeMap::new());
static CHANGED: Condvar = Condvar::new();

/// Keeps the directory's place until both the journal's handle and its thread are gone.
pub(super) struct Registered(PathBuf);

impl Drop for Registered {
    fn drop(&mut self) {
        OPEN.lock().remove(&self.0);
        CHANGED.notify_all();
    }
}

/// Whether the journal of a cache directory may hold entries: whether it is to be opened before anything is written. Reads
/// the first bytes of its files.
pub(crate) fn has_entries(cache: &Path) -> bool {
    Directory::may_hold_entries(&cache.join(DIRECTORY))
}

/// The journal of a cache directory, which is there; opened if it is not open. `capacity` bounds the bytes of writes that are
/// not over; of several, the greatest holds. Blocks while it reads what is there.
///
/// # Errors
/// `Unsupported` when a newer version wrote it, which changes nothing on the disk; `Cache` when another process has it, or
/// why it can't be read; `Unavailable` when the system gives no thread.
pub(crate) fn for_path(cache: &Path, capacity: u64) -> Result<Arc<PathJournal>> {
    let cache = cache.canonicalize().map_err(|cause| {
        let message = "the cache's directory could not be found";
        Error::new(ErrorKind::Cache, message).with("path", cache.display().to_string()).with_source(cause)
    })?;
    let mut open = OPEN.lock();
    while let Some(there) = open.get(&cache) {
        if let Some(journal) = there.upgrade() {
            journal.room.raise(capacity);
            return Ok(journal);
        }
        CHANGED.wait(&mut open);
    }
    open.insert(cache.clone(), Weak::new());
    drop(open);
    let registered = Arc::new(Registered(cache.clone()));
    let name = cache.file_name().map_or_else(|| "cache".into(), |name| name.to_string_lossy().into_owned());
    let directory = Directory::open(&cache.join(DIRECTORY))?;
    #[cfg(test)]
    let directory = crate::journal::faulty_medium::FaultyMedium::new(directory, &cache);
    let journal = PathJournal::open(format!("{name}:journal"), directory, SEGMENT_BYTES, capacity, Some(registered))?;
    let journal = Arc::new(journal);
    OPEN.lock().insert(cache, Arc::downgrade(&journal));
    CHANGED.notify_all();
    Ok(journal)
}

/// Leaves nothing of a table's writes in the journal of a cache directory, delivered or not. Blocks; no Dio of the table may
/// be alive. Damaged parts that were set aside are deleted as well: they may be about this table.
///
/// # Errors
/// As [`for_path`] and [`PathJournal::wipe`].
pub(crate) fn wipe(cache: &Path, table: &str) -> Result<()> {
    if !cache.join(DIRECTORY).exists() {
        return Ok(());
    }
    for_path(cache, 0)?.wipe(table)
}

/// A table of the journal.
struct Slot {
    table: Arc<Table>,
    /// What was found when the journal was opened, until the table is.
    found: Option<Vec<Numbered>>,
    in_use: bool,
}

/// The journal of one cache directory.
pub(crate) struct PathJournal {
    journal: Journal,
    inlet: Inlet,
    room: Arc<Room>,
    tables: Mutex<HashMap<String, Slot>>,
    warnings: Mutex<Vec<Error>>,
    /// The thread has it too; the last one to go frees the place.
    _registered: Option<Arc<Registered>>,
}

impl std::fmt::Debug for PathJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PathJournal").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl PathJournal {
    pub(super) fn open(
        name: String,
        medium: impl Medium + 'static,
        segment_bytes: u64,
        capacity: u64,
        registered: Option<Arc<Registered>>,
    ) -> Result<Self> {
        let held = registered.clone();
        let (journal, opened) = Journal::open(name, medium, segment_bytes, record::check_version, held)?;
        let (inlet, room) = (journal.inlet(), Arc::new(Room::new(capacity)));
        let mut tables: HashMap<String, Slot> = HashMap::new();
        let mut warnings = opened.warnings;
        for (number, payload) in opened.entries {
            room.take(replay::bytes_of(&payload));
            match record::table_of(&payload) {
                Ok(name) => {
                    let slot = tables.entry(name).or_insert_with_key(|name| slot(name, &inlet, &room));
                    slot.found.get_or_insert_default().push((number, payload));
                }
                // It stays in the journal: somebody may be able to read it.
                Err(error) => warnings.push(error.with("entry", number.to_string())),
            }
        }
        let (tables, warnings) = (Mutex::new(tables), Mutex::new(warnings));
        Ok(PathJournal { journal, inlet, room, tables, warnings, _registered: registered })
    }

    /// Opens a table and says what is known of its writes. `synced` is what its cache holds durably; `wall_ms` the wall time.
    /// Blocks while it reads what is there.
    ///
    /// # Errors
    /// `Invalid` when the table is open already; `Closed`, or why the journal can't be read.
    pub(crate) fn table(self: &Arc<Self>, name: &str, synced: Seq, wall_ms: i64) -> Result<(TableJournal, Replay)> {
        let (table, found) = {
            let mut tables = self.tables.lock();
            let is_new = !tables.contains_key(name);
            let slot = tables.entry(name.to_owned()).or_insert_with_key(|name| slot(name, &self.inlet, &self.room));
            if slot.in_use {
                return Err(in_use(name));
            }
            slot.in_use = true;
            let found = slot.found.take();
            (slot.table.clone(), if is_new { Some(Vec::new()) } else { found })
        };
        // From here on its drop frees the table again.
        let handle = TableJournal::new(table.clone(), self.clone(), wall_ms);
        let found = match found {
            Some(found) => found,
            // It was open before: what is in the journal counts, not what was meant to get there.
            None => {
                let found = self.entries_of(name)?;
                self.room.take(sum(&found));
                table.clear();
                found
            }
        };
        Ok((handle, table.replay(&found, synced)))
    }

    /// The handle of a table is gone.
    pub(super) fn left(&self, name: &str) {
        if let Some(slot) = self.tables.lock().get_mut(name) {
            slot.in_use = false;
        }
    }

    fn entries_of(&self, table: &str) -> Result<Vec<Numbered>> {
        let mut entries = self.ask(|inlet, answer| inlet.read(answer))?;
        entries.retain(|(_, payload)| record::table_of(payload).is_ok_and(|name| name == table));
        Ok(entries)
    }

    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Inlet, crate::journal::committer::Answer<T>)) -> Result<T> {
        sync::may_wait_for(Rank::new(0, Role::Store), "the journal")?;
        let (sender, receiver) = reply();
        ask(&self.inlet, Box::new(move |result| sender.send(result)));
        receiver.wait(None)?
    }

    /// Leaves nothing of a table's writes on the disk, delivered or not. Blocks. If the process ends before this returns, some
    /// of them may come back.
    ///
    /// # Errors
    /// `Invalid` when the table is open; why the journal can't be rewritten.
    pub(crate) fn wipe(&self, table: &str) -> Result<()> {
        {
            let mut tables = self.tables.lock();
            if tables.get(table).is_some_and(|slot| slot.in_use) {
                return Err(in_use(table));
            }
            tables.remove(table);
        }
        let entries = self.entries_of(table)?;
        self.inlet.forget(entries.iter().map(|(number, _)| *number));
        self.room.give_back(sum(&entries));
        self.ask(|inlet, answer| inlet.wipe_forgotten(answer)).map_err(|error| error.with("table", table))
    }

    /// Waits until the journal has dealt with all that was said before.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let _ = self.ask(|inlet, answer| inlet.read(answer));
    }

    /// Waits for the end of the thread.
    #[cfg(test)]
    pub(super) fn close(&self) {
        assert!(self.journal.close(sync::deadline_after(Duration::from_secs(60))));
    }

    /// The bytes of the writes that are not over, with their outcomes.
    pub(crate) fn bytes(&self) -> u64 {
        self.room.used()
    }

    /// What was found damaged, to be reported by whoever asks first.
    pub(crate) fn take_warnings(&self) -> Vec<Error> {
        std::mem::take(&mut *self.warnings.lock())
    }
}

impl Drop for PathJournal {
    fn drop(&mut self) {
        let deadline = if sync::on_own_thread() { None } else { sync::deadline_after(JOIN) };
        self.journal.close(deadline);
    }
}

fn slot(name: &str, inlet: &Inlet, room: &Arc<Room>) -> Slot {
    let table = Arc::new(Table::new(name.to_owned(), inlet.clone(), room.clone()));
    Slot { table, found: None, in_use: false }
}

fn sum(entries: &[Numbered]) -> u64 {
    entries.iter().map(|(_, payload)| replay::bytes_of(payload)).sum()
}

fn in_use(table: &str) -> Error {
    Error::new(ErrorKind::Invalid, "the journal of this table is in use; close its Dio first").with("table", table)
}
