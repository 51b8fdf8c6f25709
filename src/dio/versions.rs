//! Row versions: what memory knows of rows beyond the cache table: versions not stored yet, and before-images that a
//! snapshot still needs.
//!
//! Owner: the core adds versions and decides what is retained; the store thread marks versions as stored; anyone reads.
//! Flow: the core [`put`](Versions::put)s a version → publishes → [`supersede`](Versions::supersede)s what it replaced →
//! the store writes it and calls [`stored`](Versions::stored).
//! Invariants:
//! 1. A row as of Seq S is the version in memory with `from ≤ S < until`, else the disk's if its Seq is ≤ S. The
//!    before-image enters memory before the disk changes (`a_pinned_version_survives_its_overwriting_on_the_disk`).
//! 2. A retained version is covered by a pin (`pins`).
//! 3. A pin takes a Seq that is published when it is registered, never one already released.
//! 4. No lock is held while the cache table is read.
//!
//! Not here: which views hold which rows (`core`), decoding (`hot_tier`).

mod ahead;
mod pins;
mod row_set;
mod scan;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::{Mutex, RwLock};

use crate::cache::CacheTable;
use crate::dio::fresh::FreshRows;
use crate::sync::{Doorbell, Notifier, catch_user};
use crate::value::StoredRow;
use crate::{Error, ErrorKind, Result, RowNo, Seq};

pub(crate) use ahead::Ahead;
pub(crate) use pins::Replaced;
pub(crate) use row_set::{RowMap, RowSet};

use pins::{Pins, Retained};

const SHARDS: usize = 64;
const FOR_EVER: Seq = Seq(u64::MAX);
/// What is read as of it is the newest, published or not.
const NEWEST: Seq = Seq(u64::MAX - 1);

/// One version of a row: valid from its Seq until the next one's.
#[derive(Clone)]
struct Version {
    from: Seq,
    until: Seq,
    /// `None`: the row is deleted.
    row: Option<StoredRow>,
    /// Whether the table has it, or had it, so that it need not be kept for its own sake.
    on_disk: bool,
}

impl Version {
    fn covers(&self, seq: Seq) -> bool {
        self.from <= seq && seq < self.until
    }
}

/// One meaning of an id, valid until `until`: the row it named, or none.
#[derive(Clone, Copy)]
struct Meaning {
    until: Seq,
    row: Option<RowNo>,
}

type RowShard = Mutex<RowMap<Vec<Version>>>;
type IdShard = Mutex<HashMap<Arc<str>, Vec<Meaning>>>;

/// The answer to a read of one row.
#[derive(Debug, Clone)]
pub(crate) enum RowRead {
    Found(StoredRow),
    /// No such row at that Seq.
    Absent,
    /// The version asked for is no longer kept.
    Expired,
}

/// Counters of the versions in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct VersionStats {
    pub(crate) rows_in_memory: usize,
    pub(crate) pinned: usize,
    pub(crate) retained_bytes: usize,
}

/// The rows of one Dio, in memory and in its cache table.
pub(crate) struct Versions {
    rows: Box<[RowShard]>,
    ids: Box<[IdShard]>,
    ids_hasher: DefaultHashBuilder,
    rows_in_memory: AtomicUsize,
    ids_in_memory: AtomicUsize,
    /// First loads that are not stored yet. What is in `rows` and `ids` is newer.
    fresh: RwLock<Vec<Arc<FreshRows>>>,
    fresh_loads: AtomicUsize,
    pins: Mutex<Pins>,
    budget: usize,
    published: Notifier,
    table: RwLock<Option<Arc<dyn CacheTable>>>,
    /// Rung when a released pin leaves something to clean up.
    bell: Doorbell,
}

impl Versions {
    pub(crate) fn new(table: Arc<dyn CacheTable>, published: Seq, budget: usize, bell: Doorbell) -> Self {
        Versions {
            rows: (0..SHARDS).map(|_| RowShard::default()).collect(),
            ids: (0..SHARDS).map(|_| IdShard::default()).collect(),
            ids_hasher: DefaultHashBuilder::default(),
            rows_in_memory: AtomicUsize::new(0),
            ids_in_memory: AtomicUsize::new(0),
            fresh: RwLock::default(),
            fresh_loads: AtomicUsize::new(0),
            pins: Mutex::default(),
            budget,
            published: Notifier::new(published.0),
            table: RwLock::new(Some(table)),
            bell,
        }
    }

    /// The Seq up to which everything is published.
    pub(crate) fn published(&self) -> Seq {
        Seq(self.published.get())
    }

    /// The notifier behind [`published`](Self::published); only the core advances it.
    pub(crate) fn published_notifier(&self) -> &Notifier {
        &self.published
    }

    /// The cache table; `Closed` once the Dio is closed.
    pub(crate) fn table(&self) -> Result<Arc<dyn CacheTable>> {
        self.table.read().clone().ok_or_else(|| Error::new(ErrorKind::Closed, "the Dio is closed"))
    }

    /// Reads the cache table. A backend may be the user's: one that panics fails this one read, on whatever thread.
    fn read_table<T>(&self, read: impl FnOnce(&dyn CacheTable) -> Result<T>) -> Result<T> {
        let table = self.table()?;
        catch_user("the cache backend", || read(&*table)).and_then(|read| read)
    }

    /// About how many rows the cache table has; 0 when it doesn't say.
    pub(crate) fn stored_rows(&self) -> usize {
        let count = self.read_table(|table| table.count()).unwrap_or(0);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    fn stored_row(&self, row: RowNo) -> Result<Option<Arc<[u8]>>> {
        self.read_table(|table| table.get(row))
    }

    /// Lets go of the cache table: rows that are not in memory answer `Closed` from now on.
    pub(crate) fn detach(&self) {
        self.table.write().take();
    }

    pub(crate) fn stats(&self) -> VersionStats {
        let (pinned, retained_bytes) = self.pins.lock().counts();
        VersionStats {
            rows_in_memory: self.rows_in_memory.load(Ordering::Relaxed)
                + self.fresh.read().iter().map(|fresh| fresh.rows().len()).sum::<usize>(),
            pinned,
            retained_bytes,
        }
    }

    /// The oldest Seq that a snapshot holds.
    pub(crate) fn oldest_snapshot(&self) -> Option<Seq> {
        self.pins.lock().oldest_snapshot()
    }

    fn row_shard(&self, row: RowNo) -> &RowShard {
        &self.rows[(row.0 as usize) % SHARDS]
    }

    fn id_shard(&self, id: &str) -> &IdShard {
        use std::hash::BuildHasher;
        &self.ids[(self.ids_hasher.hash_one(id) as usize) % SHARDS]
    }

    // ---- reading -----------------------------------------------------------------------------------------------

    /// The version of `row` that began at `version`, as an index entry names it.
    pub(crate) fn row_exact(&self, row: RowNo, version: Seq) -> Result<RowRead> {
        if let Some(read) = self.in_memory(row, |candidate| candidate.from == version) {
            return Ok(read);
        }
        if let Some(bytes) = self.stored_row(row)? {
            let stored = StoredRow::from_arc(bytes)?;
            if stored.seq() == version {
                return Ok(RowRead::Found(stored));
            }
        }
        // The disk has moved on; if the version is still wanted, it entered memory before that.
        Ok(self.in_memory(row, |candidate| candidate.from == version).unwrap_or(RowRead::Expired))
    }

    /// The version that memory alone holds, if it does. Never touches the disk.
    pub(crate) fn row_in_memory(&self, row: RowNo, version: Seq) -> Option<StoredRow> {
        match self.in_memory(row, |candidate| candidate.from == version) {
            Some(RowRead::Found(stored)) => Some(stored),
            _ => None,
        }
    }

    /// The row as it was at `seq`.
    pub(crate) fn row_as_of(&self, row: RowNo, seq: Seq) -> Result<RowRead> {
        let covers = |candidate: &Version| candidate.covers(seq);
        if let Some(read) = self.in_memory(row, covers) {
            return Ok(read);
        }
        match self.stored_row(row)? {
            Some(bytes) => {
                let stored = StoredRow::from_arc(bytes)?;
                if stored.seq() <= seq {
                    return Ok(RowRead::Found(stored));
                }
                Ok(self.in_memory(row, covers).unwrap_or(RowRead::Expired))
            }
            None => Ok(self.in_memory(row, covers).unwrap_or(RowRead::Absent)),
        }
    }

    /// The newest version, published or not: for the core alone.
    pub(crate) fn row_newest(&self, row: RowNo) -> Result<Option<StoredRow>> {
        match self.row_as_of(row, NEWEST)? {
            RowRead::Found(stored) => Ok(Some(stored)),
            RowRead::Absent | RowRead::Expired => Ok(None),
        }
    }

    fn in_memory(&self, row: RowNo, wanted: impl Fn(&Version) -> bool) -> Option<RowRead> {
        if let Some(read) = self.in_chains(row, &wanted) {
            return Some(read);
        }
        let stored = self.in_first_loads(|fresh| fresh.row(row).cloned())?;
        let version = Version { from: stored.seq(), until: FOR_EVER, row: Some(stored), on_disk: false };
        if wanted(&version) { version.row.map(RowRead::Found) } else { None }
    }

    /// As [`in_memory`](Self::in_memory), but for the first loads.
    fn in_chains(&self, row: RowNo, wanted: impl Fn(&Version) -> bool) -> Option<RowRead> {
        if self.rows_in_memory.load(Ordering::Acquire) == 0 {
            return None;
        }
        let shard = self.row_shard(row).lock();
        let version = shard.get(&row)?.iter().rev().find(|version| wanted(version))?;
        Some(match &version.row {
            Some(stored) => RowRead::Found(stored.clone()),
            None => RowRead::Absent,
        })
    }

    fn in_first_loads<T>(&self, find: impl Fn(&FreshRows) -> Option<T>) -> Option<T> {
        if self.fresh_loads.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.fresh.read().iter().find_map(|fresh| find(fresh))
    }

    /// The first loads of a Seq up to this one that are not stored yet, by row number.
    fn first_loads_upto(&self, seq: Seq) -> Vec<Arc<FreshRows>> {
        if self.fresh_loads.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        self.fresh.read().iter().filter(|fresh| fresh.seq() <= seq).cloned().collect()
    }

    /// Which row an id named at `seq`. The row itself may not have existed then: read it as of the same Seq.
    pub(crate) fn lookup_as_of(&self, id: &str, seq: Seq) -> Result<Option<RowNo>> {
        if let Some(meaning) = self.meaning_in_memory(id, seq) {
            return Ok(meaning.row);
        }
        let found = self.read_table(|table| table.lookup(id))?;
        // The disk may have changed between the two looks; what it said before entered memory first.
        Ok(match self.meaning_in_memory(id, seq) {
            Some(meaning) => meaning.row,
            None => found,
        })
    }

    /// Which row an id names now, published or not: for the core alone.
    pub(crate) fn lookup_newest(&self, id: &str) -> Result<Option<RowNo>> {
        self.lookup_as_of(id, NEWEST)
    }

    /// Which row an id names now as far as memory alone knows.
    pub(crate) fn newest_name_in_memory(&self, id: &str) -> Option<RowNo> {
        self.meaning_in_memory(id, NEWEST)?.row
    }

    /// The newest version of a row as far as memory alone knows.
    pub(crate) fn newest_in_memory(&self, row: RowNo) -> Option<StoredRow> {
        match self.in_memory(row, |version| version.until == FOR_EVER) {
            Some(RowRead::Found(stored)) => Some(stored),
            _ => None,
        }
    }

    /// The row of this id as it was at `seq`.
    pub(crate) fn find_as_of(&self, id: &str, seq: Seq) -> Result<RowRead> {
        match self.lookup_as_of(id, seq)? {
            Some(row) => self.row_as_of(row, seq),
            None => Ok(RowRead::Absent),
        }
    }

    fn meaning_in_memory(&self, id: &str, seq: Seq) -> Option<Meaning> {
        if self.ids_in_memory.load(Ordering::Acquire) > 0 {
            let shard = self.id_shard(id).lock();
            let found = shard.get(id).and_then(|chain| chain.iter().find(|meaning| seq < meaning.until));
            if let Some(meaning) = found {
                return Some(*meaning);
            }
        }
        let row = self.in_first_loads(|fresh| fresh.find(id))?;
        Some(Meaning { until: FOR_EVER, row: Some(row) })
    }

    /// Calls `each` with the version of each of these rows that memory holds as of `seq`: `None` for one that is deleted.
    fn each_in_chains(
        &self,
        seq: Seq,
        is_asked_for: impl Fn(RowNo) -> bool,
        mut each: impl FnMut(RowNo, Option<&StoredRow>),
    ) {
        if self.rows_in_memory.load(Ordering::Acquire) == 0 {
            return;
        }
        for shard in &self.rows {
            for (row, chain) in shard.lock().iter().filter(|(row, _)| is_asked_for(**row)) {
                if let Some(version) = chain.iter().find(|version| version.covers(seq)) {
                    each(*row, version.row.as_ref());
                }
            }
        }
    }

    // ---- the core's side ---------------------------------------------------------------------------------------

    /// Whether memory holds nothing that the table doesn't hold, or will once a first load is stored.
    pub(crate) fn is_all_stored(&self) -> bool {
        self.rows_in_memory.load(Ordering::Acquire) == 0
            && self.ids_in_memory.load(Ordering::Acquire) == 0
            && self.fresh_loads.load(Ordering::Acquire) == 0
    }

    /// Adds the rows of a first load, which replace nothing. Readers of Seqs published so far don't see them.
    pub(crate) fn add_fresh(&self, fresh: Arc<FreshRows>) {
        self.fresh.write().push(fresh);
        self.fresh_loads.fetch_add(1, Ordering::Release);
    }

    /// Adds the version of `row` that begins at `seq`; `before` is the newest one so far, as the core has just read it.
    /// Readers of published Seqs don't see it.
    pub(crate) fn put(&self, row: RowNo, seq: Seq, before: Option<&StoredRow>, after: Option<StoredRow>) {
        let mut shard = self.row_shard(row).lock();
        let chain = shard.entry(row).or_insert_with(|| {
            self.rows_in_memory.fetch_add(1, Ordering::Release);
            Vec::with_capacity(if before.is_some() { 2 } else { 1 })
        });
        match chain.last_mut() {
            Some(last) if last.from == seq => {
                last.row = after;
                return;
            }
            Some(last) if last.until == FOR_EVER => last.until = seq,
            _ => {
                if let Some(before) = before {
                    chain.push(Version { from: before.seq(), until: seq, row: Some(before.clone()), on_disk: true });
                }
            }
        }
        chain.push(Version { from: seq, until: FOR_EVER, row: after, on_disk: false });
    }

    /// Takes back an unpublished [`put`](Self::put) at `seq`: the row turned out not to change.
    pub(crate) fn unput(&self, row: RowNo, seq: Seq) {
        let mut shard = self.row_shard(row).lock();
        let Some(chain) = shard.get_mut(&row) else { return };
        if chain.last().is_some_and(|last| last.from == seq) {
            chain.pop();
            match chain.last_mut() {
                Some(last) if last.until == seq && last.on_disk => drop(chain.pop()),
                Some(last) if last.until == seq => last.until = FOR_EVER,
                _ => {}
            }
        }
        if chain.is_empty() {
            shard.remove(&row);
            self.rows_in_memory.fetch_sub(1, Ordering::Release);
        }
    }

    /// From `seq` on, `id` names `row`. `before` is what it named so far. Says whether an earlier meaning is kept for
    /// now, which [`supersede`](Self::supersede) is to be told of.
    pub(crate) fn name(&self, id: &Arc<str>, seq: Seq, before: Option<RowNo>, row: Option<RowNo>) -> bool {
        let mut shard = self.id_shard(id).lock();
        let chain = shard.entry(id.clone()).or_insert_with(|| {
            self.ids_in_memory.fetch_add(1, Ordering::Release);
            Vec::with_capacity(1)
        });
        match chain.last_mut() {
            Some(last) if last.until == FOR_EVER => last.until = seq,
            _ if before.is_some() => chain.push(Meaning { until: seq, row: before }),
            _ => {}
        }
        chain.retain(|meaning| meaning.until < seq || meaning.row.is_some());
        chain.push(Meaning { until: FOR_EVER, row });
        chain.len() > 1
    }

    /// Takes back an unpublished [`name`](Self::name) at `seq`; `before` is the row that the id names again. The row's own
    /// version is taken back before.
    pub(crate) fn unname(&self, id: &Arc<str>, seq: Seq, before: Option<RowNo>) {
        let mut shard = self.id_shard(id).lock();
        let Some(chain) = shard.get_mut(id) else { return };
        if chain.last().is_some_and(|last| last.until == FOR_EVER) {
            chain.pop();
        }
        if let Some(last) = chain.last_mut()
            && last.until == seq
        {
            // Only what isn't stored is named by memory. The store forgets a row before its name, for which it needs the
            // lock held here.
            let is_unstored = before.is_some_and(|row| {
                let rows = self.row_shard(row).lock();
                rows.get(&row).and_then(|chain| chain.last()).is_some_and(|version| version.until == FOR_EVER)
            });
            if is_unstored {
                last.until = FOR_EVER;
            } else {
                chain.pop();
            }
        }
        if chain.is_empty() {
            shard.remove(id);
            self.ids_in_memory.fetch_sub(1, Ordering::Release);
        }
    }

    /// `id`, which the table never knew, names nothing any more, if it still names this row.
    pub(crate) fn forget_alias(&self, id: &Arc<str>, row: RowNo) {
        let mut shard = self.id_shard(id).lock();
        if shard.get(id).is_some_and(|chain| chain.len() == 1 && chain[0].row == Some(row)) {
            shard.remove(id);
            self.ids_in_memory.fetch_sub(1, Ordering::Release);
        }
    }

    /// Everything of `seq` is in place: readers may see it.
    pub(crate) fn publish(&self, seq: Seq) {
        self.published.advance_to(seq.0);
    }

    /// Keeps of what the batch `seq` replaced the versions that a pin covers, and drops the rest. Called after
    /// [`publish`](Self::publish): a pin registered from now on needs none of it.
    pub(crate) fn supersede(&self, seq: Seq, replaced: impl IntoIterator<Item = Replaced>) {
        let replaced = replaced.into_iter();
        let mut pins = self.pins.lock();
        if pins.hold_before(seq) {
            let drop_now = pins.keep(seq, replaced, self.budget);
            drop(pins);
            self.drop_versions(drop_now);
        } else {
            drop(pins);
            self.drop_versions(replaced.map(|replaced| replaced.retained(seq)));
        }
    }

    /// Frees what released pins held alone.
    pub(crate) fn collect(&self) {
        let drop_now = self.pins.lock().collect();
        self.drop_versions(drop_now);
    }

    fn drop_versions(&self, versions: impl IntoIterator<Item = Retained>) {
        for retained in versions {
            match retained {
                Retained::Row { row, from, .. } => {
                    let mut shard = self.row_shard(row).lock();
                    if let Some(chain) = shard.get_mut(&row) {
                        chain.retain(|version| version.from != from || version.until == FOR_EVER);
                        if chain.is_empty() {
                            shard.remove(&row);
                            self.rows_in_memory.fetch_sub(1, Ordering::Release);
                        }
                    }
                }
                Retained::Id { id, until } => {
                    let mut shard = self.id_shard(&id).lock();
                    if let Some(chain) = shard.get_mut(&id) {
                        chain.retain(|meaning| meaning.until != until);
                        if chain.is_empty() {
                            shard.remove(&id);
                            self.ids_in_memory.fetch_sub(1, Ordering::Release);
                        }
                    }
                }
            }
        }
    }

    // ---- the store's side --------------------------------------------------------------------------------------

    /// The table holds all rows of a first load now. The store works in order, so nothing newer is stored yet.
    pub(crate) fn stored_fresh(&self, fresh: &Arc<FreshRows>) {
        let mut loads = self.fresh.write();
        loads.retain(|load| !Arc::ptr_eq(load, fresh));
        self.fresh_loads.store(loads.len(), Ordering::Release);
    }

    /// The table now holds `row` in the version `seq` (or, for a deletion, doesn't hold it any more): memory may forget
    /// that version.
    pub(crate) fn stored(&self, row: RowNo, seq: Seq, id: &str, deleted: bool) {
        {
            let mut shard = self.row_shard(row).lock();
            if let Some(chain) = shard.get_mut(&row) {
                match chain.iter_mut().rev().find(|version| version.from == seq) {
                    Some(version) if version.until != FOR_EVER => version.on_disk = true,
                    Some(_) => drop(chain.pop()),
                    None => {}
                }
                if chain.is_empty() {
                    shard.remove(&row);
                    release_room(&mut shard);
                    self.rows_in_memory.fetch_sub(1, Ordering::Release);
                }
            }
        }
        let mut shard = self.id_shard(id).lock();
        if let Some(chain) = shard.get_mut(id) {
            let named = if deleted { None } else { Some(row) };
            if chain.last().is_some_and(|last| last.until == FOR_EVER && last.row == named) {
                chain.pop();
            }
            if chain.is_empty() {
                shard.remove(id);
                release_room(&mut shard);
                self.ids_in_memory.fetch_sub(1, Ordering::Release);
            }
        }
    }

    // ---- pins --------------------------------------------------------------------------------------------------

    /// Pins the newest published Seq. `read` takes what is to be seen at it (a view's root) and the Seq of that.
    pub(crate) fn pin_with<T>(self: &Arc<Self>, read: impl FnOnce() -> (T, Seq)) -> (Pin, T) {
        self.register(false, read)
    }

    /// Pins the newest published Seq for a read that is about to be made. Whatever the budget, it doesn't expire: it is to
    /// be dropped as soon as the read ends.
    pub(crate) fn pin_to_read(self: &Arc<Self>) -> Pin {
        self.register(true, || ((), Seq(0))).0
    }

    fn register<T>(self: &Arc<Self>, reading: bool, read: impl FnOnce() -> (T, Seq)) -> (Pin, T) {
        let mut pins = self.pins.lock();
        let published = self.published();
        let (taken, taken_seq) = read();
        let seq = published.max(taken_seq);
        pins.register(seq, reading);
        drop(pins);
        (Pin { versions: self.clone(), seq, reading }, taken)
    }

    fn is_expired(&self, seq: Seq) -> bool {
        self.pins.lock().is_expired(seq)
    }

    fn unpin(&self, seq: Seq, reading: bool) {
        let leaves_work = self.pins.lock().release(seq, reading);
        if leaves_work {
            self.bell.ring();
        }
    }
}

fn expired() -> Error {
    Error::new(ErrorKind::Expired, "too much changed while the rows were read; read them again")
}

/// Gives back the room of a shard that a large load has filled and the store has emptied again.
fn release_room<K: Eq + std::hash::Hash, V, S: std::hash::BuildHasher>(shard: &mut HashMap<K, V, S>) {
    const ROOM_KEPT: usize = 1_024;
    if shard.is_empty() && shard.capacity() > ROOM_KEPT {
        shard.shrink_to_fit();
    }
}

/// Keeps every row readable as it was at its Seq, within the budget.
pub(crate) struct Pin {
    versions: Arc<Versions>,
    seq: Seq,
    reading: bool,
}

impl Pin {
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    pub(crate) fn versions(&self) -> &Arc<Versions> {
        &self.versions
    }

    /// Whether the budget took versions that this pin needed.
    pub(crate) fn is_expired(&self) -> bool {
        self.versions.is_expired(self.seq)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.versions.unpin(self.seq, self.reading);
    }
}

#[cfg(test)]
mod tests;
