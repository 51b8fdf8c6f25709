//! The rows here: as the source last confirmed them, and the writes that are shown and not settled folded over them.

use std::collections::{BTreeMap, BTreeSet};

use diorama::Record;
use diorama::vista::WriteOp;

use crate::plain::{Plain, Table};

/// A write that was accepted and is not settled.
#[derive(Debug, Clone)]
pub(crate) struct Unsettled {
    pub(crate) op: WriteOp,
    /// The row that it writes; none for `delete_all`.
    pub(crate) id: Option<String>,
    /// The rows that a `delete_all` hides.
    hides: BTreeSet<String>,
    /// A read from the source had something to say of the rows, which this `delete_all` kept off.
    kept_off: bool,
}

/// What became of a write that went well.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    Put(String, Record),
    Remove(String),
    Clear,
}

/// The rows of a Dio.
#[derive(Debug, Clone, Default)]
pub(crate) struct Local {
    confirmed: Table,
    unsettled: Vec<Unsettled>,
    /// First ids of rows that the source has named otherwise, with the places of those rows.
    aliases: BTreeMap<String, u64>,
    /// What a cache file has of rows with unsettled writes.
    stored: BTreeMap<String, Option<Record>>,
    /// Rows of which a read from the source had something to say that was left aside.
    missed: BTreeSet<String>,
    /// So of all rows.
    missed_all: bool,
}

impl Local {
    // ---- what it shows -----------------------------------------------------------------------------------------

    pub(crate) fn shown(&self) -> Table {
        let mut shown = self.confirmed.clone();
        for Unsettled { op, id, hides, .. } in &self.unsettled {
            let id = id.as_deref().unwrap_or_default();
            match op {
                WriteOp::Insert { record, .. } | WriteOp::Upsert { record, .. } => shown.put(id, record.clone()),
                WriteOp::Replace { record, .. } if shown.get(id).is_some() => shown.put(id, record.clone()),
                WriteOp::Patch { record, .. } => {
                    if let Some(mut row) = shown.get(id).cloned() {
                        row.merge(record);
                        shown.put(id, row);
                    }
                }
                WriteOp::Delete { .. } => shown.remove(id),
                WriteOp::DeleteAll => hides.iter().for_each(|id| shown.remove(id)),
                _ => {}
            }
        }
        shown
    }

    pub(crate) fn list(&self) -> Vec<Plain> {
        self.shown().list()
    }

    /// The row under this id as the source last confirmed it.
    pub(crate) fn confirmed(&self, id: &str) -> Option<&Record> {
        self.confirmed.get(id)
    }

    /// Whether the row waits for the source.
    pub(crate) fn is_pending(&self, id: &str) -> bool {
        self.unsettled.iter().any(|write| write.id.as_deref() == Some(id))
    }

    pub(crate) fn unsettled(&self) -> &[Unsettled] {
        &self.unsettled
    }

    /// How many rows have unsettled writes.
    pub(crate) fn held(&self) -> usize {
        self.stored.len()
    }

    pub(crate) fn clears_all(&self) -> bool {
        self.unsettled.iter().any(|write| matches!(write.op, WriteOp::DeleteAll))
    }

    /// The id of the row that this id means.
    pub(crate) fn resolve(&self, id: &str) -> String {
        let shown = self.shown();
        let alias = self.aliases.get(id).filter(|_| shown.get(id).is_none());
        alias.and_then(|place| shown.at(*place)).map_or_else(|| id.to_owned(), |(id, _)| id.clone())
    }

    /// The row that a write of this id goes to.
    pub(crate) fn target(&self, id: &str) -> String {
        let has_stack = self.is_pending(id) || self.unsettled.iter().any(|write| write.hides.contains(id));
        if has_stack { id.to_owned() } else { self.resolve(id) }
    }

    // ---- what others say of the rows ---------------------------------------------------------------------------

    pub(crate) fn put(&mut self, id: &str, record: Record) {
        self.confirmed.put(id, record);
        self.forget_aliases();
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.confirmed.remove(id);
    }

    pub(crate) fn clear(&mut self) {
        self.confirmed.clear();
    }

    /// Rows that stay keep their place, new ones come after them.
    pub(crate) fn become_rows(&mut self, rows: &[Plain]) {
        self.confirmed.become_rows(rows);
        self.forget_aliases();
    }

    /// A read from the source had these rows to tell of, and what it says of rows with unsettled writes is left aside.
    pub(crate) fn skip(&mut self, rows: &[Plain]) {
        if self.unsettled.is_empty() {
            return;
        }
        let shown = self.shown();
        for id in self.unsettled.iter().filter_map(|write| write.id.clone()) {
            if shown.get(&id).is_some() || rows.iter().any(|(other, _)| *other == id) {
                self.missed.insert(id);
            }
        }
        // It would have to change something.
        let differs = rows.iter().any(|(id, record)| self.is_pending(id) || shown.get(id) != Some(record))
            || shown.list().iter().any(|(id, _)| !rows.iter().any(|(other, _)| other == id));
        if differs {
            self.keep_off();
        }
    }

    fn keep_off(&mut self) {
        let clears = self.unsettled.iter_mut().filter(|write| write.id.is_none());
        clears.for_each(|write| write.kept_off = true);
    }

    /// Somebody told of one row, and that was left aside.
    pub(crate) fn skip_one(&mut self, id: &str) {
        if self.is_pending(id) {
            self.missed.insert(id.to_owned());
        }
        self.keep_off();
    }

    // ---- writes ------------------------------------------------------------------------------------------------

    fn keep(&mut self, id: &str) {
        self.stored.entry(id.to_owned()).or_insert_with(|| self.confirmed.get(id).cloned());
        self.confirmed.keep_place(id);
    }

    /// A write is accepted. `id` is the one that its row goes by.
    pub(crate) fn stage(&mut self, op: WriteOp, id: Option<String>) {
        let mut hides = BTreeSet::new();
        match &id {
            Some(id) => self.keep(id),
            None => {
                hides.extend(self.confirmed.list().into_iter().map(|(id, _)| id));
                for write in &self.unsettled {
                    hides.extend(write.id.iter().cloned());
                    hides.extend(write.hides.iter().cloned());
                }
                hides.iter().for_each(|id| self.keep(id));
            }
        }
        self.unsettled.push(Unsettled { op, id, hides, kept_off: false });
        self.forget_aliases();
    }

    /// A `delete_all` has just been staged: what was before it and not tried, all but the oldest, is pointless. Gives back how
    /// many that were.
    pub(crate) fn supersede(&mut self) -> usize {
        let last = self.unsettled.len() - 1;
        let pointless: Vec<Unsettled> = self.unsettled.drain(last.min(1)..last).collect();
        self.missed_all |= pointless.iter().any(|write| write.kept_off);
        self.release();
        pointless.len()
    }

    /// The oldest write went well. Says under which id its row goes now, if it has another.
    pub(crate) fn confirm(&mut self, effect: Effect) -> Option<(String, String)> {
        let was_shown = self.shown();
        let write = self.unsettled.remove(0);
        self.missed_all |= write.kept_off;
        let mut moved = None;
        match effect {
            Effect::Remove(id) => self.remove(&id),
            Effect::Clear => write.hides.iter().for_each(|id| self.confirmed.remove(id)),
            Effect::Put(id, record) if write.id.as_deref() == Some(&*id) => self.put(&id, record),
            Effect::Put(id, record) => moved = self.confirm_as(&write, was_shown, id, record),
        }
        self.release();
        moved
    }

    /// An insert went well, and the source has chosen another id.
    fn confirm_as(
        &mut self,
        write: &Unsettled,
        was_shown: Table,
        id: String,
        record: Record,
    ) -> Option<(String, String)> {
        let first = write.id.clone().unwrap_or_default();
        let stays_behind = self.confirmed.get(&first).is_some();
        let was_known = self.stored.get(&first).is_some_and(Option::is_some);
        let is_known = self.confirmed.get(&id).is_some() || was_known;
        let place = was_shown.place(&first).filter(|_| was_shown.get(&first).is_some());
        if !stays_behind && !is_known {
            self.confirmed.move_place(&first, &id);
            if self.missed.contains(&first) {
                self.missed.insert(id.clone());
            }
            if write.op.id().is_none() {
                self.missed.remove(&first);
            }
        }
        self.put(&id, record);
        let mut hidden = false;
        for later in self.unsettled.iter_mut().filter(|later| later.hides.contains(&first)) {
            later.hides.insert(id.clone());
            hidden = true;
        }
        if hidden {
            self.stored.insert(id.clone(), None);
            self.confirmed.keep_place(&id);
        }
        if stays_behind {
            return None;
        }
        for later in self.unsettled.iter_mut() {
            later.hides.remove(&first);
            if later.id.as_deref() == Some(&*first) {
                later.id = Some(id.clone());
                self.stored.insert(id.clone(), None);
                self.confirmed.keep_place(&id);
            }
        }
        self.stored.remove(&first);
        self.confirmed.drop_place(&first);
        if !self.stored.contains_key(&id) {
            self.confirmed.drop_place(&id);
        }
        let shown = self.shown();
        match () {
            // Somebody had told of the row already.
            () if is_known => {
                let place = shown.place(&id).filter(|_| shown.get(&id).is_some())?;
                self.aliases.insert(first.clone(), place);
            }
            () => self.aliases.extend(place.map(|place| (first.clone(), place))),
        }
        Some((first, id))
    }

    /// The oldest write failed. Gives back how many writes fail with it: they have lost the row that they were to change.
    pub(crate) fn reject(&mut self) -> Vec<usize> {
        let write = self.unsettled.remove(0);
        self.missed_all |= write.kept_off;
        let mut orphans = Vec::new();
        if let (Some(id), WriteOp::Insert { .. } | WriteOp::Upsert { .. }) = (&write.id, &write.op)
            && self.confirmed.get(id).is_none()
        {
            for (place, later) in self.unsettled.iter().enumerate().filter(|(_, later)| later.id.as_ref() == Some(id)) {
                match later.op {
                    WriteOp::Insert { .. } | WriteOp::Upsert { .. } => break,
                    WriteOp::Patch { .. } | WriteOp::Replace { .. } => orphans.push(place),
                    _ => {}
                }
            }
            orphans.iter().rev().for_each(|place| drop(self.unsettled.remove(*place)));
        }
        self.release();
        orphans
    }

    /// Something of this row is not known here.
    pub(crate) fn miss(&mut self, id: &str) {
        self.missed.insert(id.to_owned());
    }

    /// Something of all rows is not known here.
    pub(crate) fn miss_all(&mut self) {
        self.missed_all = true;
    }

    /// What must be read again, now that its writes are settled.
    pub(crate) fn take_rereads(&mut self) -> Vec<String> {
        let (later, now) = std::mem::take(&mut self.missed).into_iter().partition(|id| self.stored.contains_key(id));
        self.missed = later;
        Vec::from_iter::<BTreeSet<String>>(now)
    }

    /// Whether all must be read again, now that a `delete_all` is settled.
    pub(crate) fn take_reread_of_all(&mut self) -> bool {
        std::mem::take(&mut self.missed_all)
    }

    fn release(&mut self) {
        let held: Vec<String> = self.stored.keys().cloned().collect();
        for id in held {
            let hidden = self.unsettled.iter().any(|write| write.hides.contains(&id));
            if !hidden && !self.is_pending(&id) {
                self.stored.remove(&id);
                self.confirmed.drop_place(&id);
            }
        }
        self.forget_aliases();
    }

    /// A first id that names a row of its own again is no other row's.
    fn forget_aliases(&mut self) {
        if !self.aliases.is_empty() {
            let shown = self.shown();
            self.aliases.retain(|id, _| shown.get(id).is_none());
        }
    }

    /// What a cache file has when everything is closed while writes are unsettled: confirmed rows. Of the row of the write
    /// that was at the source it may have what was confirmed under the write, for its call was ended; `file` tells.
    pub(crate) fn into_stored(mut self, file: impl Fn(&str) -> Option<Record>) -> Local {
        let first = self.unsettled.first().cloned();
        for (id, mut record) in std::mem::take(&mut self.stored) {
            let ended = first.as_ref().is_some_and(|write| write.id.as_ref() == Some(&id) || write.hides.contains(&id));
            let confirmed = self.confirmed.get(&id).cloned();
            if ended && file(&id) == confirmed {
                record = confirmed;
            }
            match record {
                Some(record) => self.confirmed.put(&id, record),
                None => self.confirmed.remove(&id),
            }
            self.confirmed.drop_place(&id);
        }
        Local { confirmed: self.confirmed, ..Local::default() }
    }
}
