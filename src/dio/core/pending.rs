//! Pending: writes that are shown and not settled, row by row: the confirmed value, and the writes that are folded over it.
//!
//! Owner: the core.
//! Invariants: what a row shows is its confirmed value with its pending writes folded over it, in their order
//! (`a_rejected_write_takes_only_its_own_effect_back`); while a row has pending writes, nothing of it goes to the cache.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::dio::core::StagedWrite;
use crate::dio::core::accept::Covering;
use crate::dio::hot_tier::STATUS_PENDING;
use crate::dio::versions::RowMap;
use crate::value::{Record, StoredRow};
use crate::vista::WriteOp;
use crate::{Result, RowNo, Seq, WriteNumber};

/// What is folded over a row's confirmed value.
#[derive(Clone)]
pub(super) enum Layer {
    Write(Arc<StagedWrite>),
    /// A `delete_all` with this number.
    Cleared(WriteNumber),
}

impl Layer {
    fn number(&self) -> WriteNumber {
        match self {
            Layer::Write(write) => write.number,
            Layer::Cleared(number) => *number,
        }
    }

    fn makes_a_row(&self) -> bool {
        matches!(self, Layer::Write(write) if matches!(*write.op, WriteOp::Insert { .. } | WriteOp::Upsert { .. }))
    }
}

/// One row with pending writes.
pub(super) struct Stack {
    pub(super) row: RowNo,
    /// The row as the source last confirmed it.
    pub(super) base: Option<StoredRow>,
    /// The cache may have a row under this number.
    pub(super) was_known: bool,
    layers: VecDeque<Layer>,
    /// Since when memory says that the row is deleted, while the cache may still have it.
    pub(super) tombstone: Option<Seq>,
    /// Something that was read from the source was skipped because of the pending writes.
    pub(super) missed: bool,
    /// Writes that are settled, but whose effect the cache has not been told of.
    pub(super) uncovered: Vec<WriteNumber>,
}

impl Stack {
    pub(super) fn new(row: RowNo, base: Option<StoredRow>) -> Self {
        let was_known = base.is_some();
        Stack { row, base, was_known, layers: VecDeque::new(), tombstone: None, missed: false, uncovered: Vec::new() }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.layers.is_empty()
    }

    pub(super) fn writes(&self) -> impl Iterator<Item = &Arc<StagedWrite>> {
        self.layers.iter().filter_map(|layer| match layer {
            Layer::Write(write) => Some(write),
            Layer::Cleared(_) => None,
        })
    }

    pub(super) fn push(&mut self, layer: Layer) {
        self.layers.push_back(layer);
    }

    /// Takes a settled layer out; says whether it was there.
    pub(super) fn remove(&mut self, number: WriteNumber) -> bool {
        let layers = self.layers.len();
        self.layers.retain(|layer| layer.number() != number);
        self.layers.len() < layers
    }

    /// Takes all layers, for the row that they belong to from now on.
    pub(super) fn take_layers(&mut self) -> VecDeque<Layer> {
        std::mem::take(&mut self.layers)
    }

    /// The `delete_all`s that were accepted after this write.
    pub(super) fn clears_after(&self, number: WriteNumber) -> VecDeque<Layer> {
        let clears = self.layers.iter().filter(|layer| matches!(layer, Layer::Cleared(later) if *later > number));
        clears.cloned().collect()
    }

    /// Adds another row's layers; all stay in the order of acceptance.
    pub(super) fn join(&mut self, layers: VecDeque<Layer>) {
        self.layers.extend(layers);
        self.layers.make_contiguous().sort_by_key(Layer::number);
    }

    /// What the row shows.
    ///
    /// # Errors
    /// `Corrupt` when the confirmed value can't be read.
    pub(super) fn shown(&self, id: &str, id_column: Option<&str>) -> Result<Option<StoredRow>> {
        if self.layers.is_empty() {
            return Ok(self.base.clone());
        }
        let mut record = self.base.as_ref().map(StoredRow::to_record).transpose()?;
        let mut at = self.base.as_ref().map_or(0, StoredRow::fetched_at);
        for layer in &self.layers {
            match layer {
                Layer::Cleared(_) => record = None,
                Layer::Write(write) => {
                    record = fold(record, &write.op);
                    at = write.at;
                }
            }
        }
        Ok(record.map(|mut record| {
            with_id(&mut record, id, id_column);
            let mut row = StoredRow::encode(id, &record, at);
            row.set_status(STATUS_PENDING);
            row
        }))
    }

    /// Whether one of the writes makes the row.
    pub(super) fn makes_a_row(&self) -> bool {
        self.layers.iter().any(Layer::makes_a_row)
    }

    /// The writes that have lost the row which they are to change: those before the first that makes one.
    pub(super) fn orphans(&self) -> Vec<Arc<StagedWrite>> {
        if self.base.is_some() {
            return Vec::new();
        }
        let before = self.layers.iter().take_while(|layer| !layer.makes_a_row());
        before
            .filter_map(|layer| match layer {
                Layer::Write(write) if matches!(*write.op, WriteOp::Patch { .. } | WriteOp::Replace { .. }) => {
                    Some(write)
                }
                _ => None,
            })
            .cloned()
            .collect()
    }
}

/// A row after a write, as far as that can be told without the source.
fn fold(row: Option<Record>, op: &WriteOp) -> Option<Record> {
    match op {
        WriteOp::Insert { record, .. } | WriteOp::Upsert { record, .. } => Some(record.clone()),
        WriteOp::Replace { record, .. } => row.map(|_| record.clone()),
        WriteOp::Patch { record, .. } => row.map(|mut row| {
            row.merge(record);
            row
        }),
        WriteOp::Delete { .. } | WriteOp::DeleteAll => None,
    }
}

/// A row carries its own id.
pub(super) fn with_id(record: &mut Record, id: &str, id_column: Option<&str>) {
    if let Some(column) = id_column
        && !record.contains(column)
    {
        record.insert(column, id);
    }
}

/// A `delete_all` that is not settled.
pub(super) struct Clear {
    pub(super) number: WriteNumber,
    /// The rows that it alone hides, with the Seq since when.
    pub(super) hidden: HashMap<Arc<str>, (RowNo, StoredRow, Seq)>,
    pub(super) missed: bool,
    /// Rows that somebody here first told of while it was pending: the source may delete them, too.
    pub(super) told: Vec<Arc<str>>,
}

impl Clear {
    /// More of them are read again as all rows are.
    const MOST_TOLD: usize = 1_024;

    pub(super) fn new(number: WriteNumber) -> Self {
        Clear { number, hidden: HashMap::new(), missed: false, told: Vec::new() }
    }
}

/// The first ids of rows that the source has named otherwise: they go on meaning those rows, the newest of them.
#[derive(Default)]
pub(super) struct Aliases(VecDeque<(Arc<str>, RowNo)>);

impl Aliases {
    const REMEMBERED: usize = 65_536;

    /// Notes one; gives back one that is to be forgotten.
    pub(super) fn remember(&mut self, id: Arc<str>, row: RowNo) -> Option<(Arc<str>, RowNo)> {
        self.0.push_back((id, row));
        if self.0.len() > Self::REMEMBERED { self.0.pop_front() } else { None }
    }
}

/// All writes of a table that are not settled.
#[derive(Default)]
pub(crate) struct Pending {
    stacks: HashMap<Arc<str>, Stack>,
    clears: Vec<Clear>,
    /// Under which id the row of a write is.
    ids: HashMap<WriteNumber, Arc<str>>,
    /// The rows that the cache is not told of.
    rows: RowMap<()>,
    /// Settled `delete_all`s that the cache may not know of, because of rows with pending writes.
    pub(super) uncovered_clears: Vec<Covering>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.stacks.is_empty() && self.clears.is_empty()
    }

    /// Makes room for so many writes.
    pub(super) fn reserve(&mut self, writes: usize) {
        self.stacks.reserve(writes);
        self.ids.reserve(writes);
        self.rows.reserve(writes);
    }

    /// Whether the cache is not to hear of this row now.
    pub(super) fn holds_row(&self, row: RowNo) -> bool {
        self.rows.contains_key(&row)
    }

    pub(super) fn stack(&self, id: &str) -> Option<&Stack> {
        self.stacks.get(id)
    }

    pub(super) fn stack_mut(&mut self, id: &str) -> Option<&mut Stack> {
        if self.stacks.is_empty() {
            return None;
        }
        self.stacks.get_mut(id)
    }

    /// The stack of this row; one over this confirmed value if there is none.
    pub(super) fn stack_over(&mut self, id: &Arc<str>, row: RowNo, base: Option<StoredRow>) -> &mut Stack {
        self.stacks.entry(id.clone()).or_insert_with(|| {
            self.rows.insert(row, ());
            Stack::new(row, base)
        })
    }

    pub(super) fn ids(&self) -> Vec<Arc<str>> {
        self.stacks.keys().cloned().collect()
    }

    pub(super) fn add(&mut self, id: Arc<str>, stack: Stack) {
        self.rows.insert(stack.row, ());
        for write in stack.writes() {
            self.ids.insert(write.number, id.clone());
        }
        self.stacks.insert(id, stack);
    }

    /// Notes under which id a write's row is.
    pub(super) fn note(&mut self, number: WriteNumber, id: Arc<str>) {
        self.ids.insert(number, id);
    }

    pub(super) fn id_of(&self, number: WriteNumber) -> Option<Arc<str>> {
        self.ids.get(&number).cloned()
    }

    pub(super) fn forget(&mut self, number: WriteNumber) {
        self.ids.remove(&number);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Stack> {
        let stack = self.stacks.remove(id)?;
        self.rows.remove(&stack.row);
        Some(stack)
    }

    // ---- `delete_all` ----

    /// Whether a `delete_all` is pending.
    pub(super) fn has_clear(&self) -> bool {
        !self.clears.is_empty()
    }

    pub(super) fn add_clear(&mut self, clear: Clear) {
        for (row, _, _) in clear.hidden.values() {
            self.rows.insert(*row, ());
        }
        let place = self.clears.partition_point(|earlier| earlier.number < clear.number);
        self.clears.insert(place, clear);
    }

    pub(super) fn hide(&mut self, id: Arc<str>, row: RowNo, base: StoredRow, since: Seq) {
        if let Some(clear) = self.clears.last_mut() {
            self.rows.insert(row, ());
            clear.hidden.insert(id, (row, base, since));
        }
    }

    /// The `delete_all` of this number hides its rows no more; says whether a later one goes on hiding this one.
    pub(super) fn hides_on(
        &mut self,
        number: WriteNumber,
        id: &Arc<str>,
        row: RowNo,
        base: &StoredRow,
        since: Seq,
    ) -> bool {
        let Some(next) = self.clears.iter_mut().find(|clear| clear.number > number) else { return false };
        self.rows.insert(row, ());
        next.hidden.insert(id.clone(), (row, base.clone(), since));
        true
    }

    /// All rows are to be read again once no `delete_all` is pending.
    pub(super) fn miss_all(&mut self) {
        self.clears.iter_mut().for_each(|clear| clear.missed = true);
    }

    /// A row of this id is new here.
    pub(super) fn tell(&mut self, id: &str) {
        for clear in &mut self.clears {
            match clear.told.len() < Clear::MOST_TOLD {
                true => clear.told.push(Arc::from(id)),
                false => clear.missed = true,
            }
        }
    }

    /// The rows that only a `delete_all` hides.
    pub(super) fn hidden(&self) -> Vec<Arc<str>> {
        self.clears.iter().flat_map(|clear| clear.hidden.keys().cloned()).collect()
    }

    pub(super) fn take_clear(&mut self, number: WriteNumber) -> Option<Clear> {
        let place = self.clears.iter().position(|clear| clear.number == number)?;
        let clear = self.clears.remove(place);
        for (row, _, _) in clear.hidden.values() {
            self.rows.remove(row);
        }
        Some(clear)
    }

    /// A row that a `delete_all` hides gets a stack of its own, with what hides it.
    pub(super) fn unhide(&mut self, id: &str) -> Option<Stack> {
        let place = self.clears.iter().position(|clear| clear.hidden.contains_key(id))?;
        let (row, base, since) = self.clears[place].hidden.remove(id)?;
        let mut stack = Stack::new(row, Some(base));
        stack.tombstone = Some(since);
        for clear in &self.clears[place..] {
            stack.push(Layer::Cleared(clear.number));
        }
        Some(stack)
    }

    // ---- what a read from the source must leave alone ----

    /// Whether something read from the source must leave this row alone. It is noted, so that the row is read again.
    pub(super) fn keeps_off(&mut self, id: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        for clear in &mut self.clears {
            clear.missed = true;
        }
        match self.stacks.get_mut(id) {
            Some(stack) => {
                stack.missed = true;
                true
            }
            None => !self.clears.is_empty(),
        }
    }

    /// How many writes there are.
    pub(super) fn writes(&self) -> usize {
        self.ids.len() + self.clears.len()
    }
}
