//! Settle: what the core makes of the source's answer to a write.
//!
//! Owner: the core.
//! Flow: the writer's settlement → the write's layer goes, over a new confirmed value or over the old one → the row shows
//! what is left → without pending writes it goes to the cache.
//! Invariants: what the source did under another id is shown once, and its first id goes on meaning it; a write that has lost
//! the row it was to change fails with it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::dio::core::accept::Covering;
use crate::dio::core::pending::{Layer, Stack, with_id};
use crate::dio::core::{Announce, Core, Settled, SettledAs, Settlement, StagedWrite};
use crate::dio::event::Cause;
use crate::value::{Record, StoredRow};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, WriteNumber};

impl Core {
    pub(super) fn settle(&mut self, settlement: Settlement) {
        self.publish_first_load();
        let Settlement { write, result, reply } = settlement;
        let is_all = matches!(*write.op, WriteOp::DeleteAll);
        if is_all {
            self.finish_bulk();
        }
        let result = match is_all {
            true => self.settle_all(&write, result),
            false => self.settle_row(&write, result),
        };
        // From here on `clear` may have begun another batch, so the Seq is asked for only now.
        let seq = self.batch().seq;
        if is_all {
            self.protection.note_all(seq);
        }
        self.to.board.set_pending(self.pending.writes());
        let batch = self.batch();
        batch.force = true;
        batch.settled.push((write, result));
        batch.replies.extend(reply.map(|reply| (reply, Ok(()))));
    }

    pub(super) fn settle_row(&mut self, write: &Arc<StagedWrite>, result: SettledAs) -> SettledAs {
        let number = write.number;
        let Some(id) = self.pending.id_of(number) else { return result };
        self.pending.forget(number);
        let (result, last_id) = match result {
            SettledAs::Confirmed(settled) => {
                let Settled { id: stored_id, record, changes, at, .. } = settled;
                let noted = self.apply_changes(changes, Cause::Confirmed, Announce::EachRow, None);
                let stored_id = stored_id.unwrap_or_else(|| id.clone());
                let confirmed = noted.and_then(|()| self.confirm_row(write, &id, &stored_id, record, at));
                match confirmed {
                    Ok(stored) => {
                        let batch = self.batch();
                        let seq = batch.seq;
                        batch.covering.push(Covering {
                            id: Some(stored_id.clone()),
                            number,
                            is_said: false,
                            done_at: seq,
                        });
                        self.protection.note(stored_id.clone(), seq);
                        let id = Some(stored_id.clone());
                        (SettledAs::Confirmed(Settled { id, record: None, stored, changes: Vec::new(), at }), stored_id)
                    }
                    Err(error) => {
                        self.take_layer(&id, number);
                        (SettledAs::Rejected(error), id.clone())
                    }
                }
            }
            other => {
                self.take_layer(&id, number);
                if let (SettledAs::Rejected(error), Some(stack)) = (&other, self.pending.stack_mut(&id)) {
                    // Somebody else has changed or deleted the row.
                    stack.missed |= matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound);
                }
                let made_a_row = matches!(*write.op, WriteOp::Insert { .. } | WriteOp::Upsert { .. });
                if made_a_row && !matches!(other, SettledAs::Superseded(_)) {
                    self.reject_orphans(&id);
                }
                (other, id.clone())
            }
        };
        let cause = if matches!(result, SettledAs::Confirmed(_)) { Cause::Confirmed } else { Cause::RolledBack };
        for id in [&id, &last_id] {
            self.show_again(id, cause);
        }
        // Not if another row has the id that was proposed.
        if matches!(*write.op, WriteOp::Insert { .. }) && write.ticket.ticket().id().is_some_and(|now| now == last_id) {
            self.name_alias(&id, &last_id);
        }
        let seq = self.batch().seq;
        self.protection.note(id, seq);
        result
    }

    pub(super) fn take_layer(&mut self, id: &str, number: WriteNumber) {
        if let Some(stack) = self.pending.stack_mut(id) {
            stack.remove(number);
        }
    }

    /// The confirmed value after a write. `None`: there is no such row, or nobody here knows it.
    pub(super) fn value_after(
        &self,
        write: &StagedWrite,
        base: Option<&StoredRow>,
        id: &str,
        record: Option<Record>,
        at: i64,
    ) -> Result<Option<StoredRow>> {
        let record = match (&*write.op, record) {
            (WriteOp::Delete { .. } | WriteOp::DeleteAll, _) => None,
            (_, Some(record)) => Some(record),
            (WriteOp::Patch { record, .. }, None) => match base {
                Some(base) => {
                    let mut merged = base.to_record()?;
                    merged.merge(record);
                    Some(merged)
                }
                None => None,
            },
            (
                WriteOp::Insert { record, .. } | WriteOp::Replace { record, .. } | WriteOp::Upsert { record, .. },
                None,
            ) => Some(record.clone()),
        };
        Ok(record.map(|mut record| {
            with_id(&mut record, id, self.to.id_column.as_deref());
            StoredRow::encode(id, &record, at)
        }))
    }

    /// The source has done a write of the row `id`, and has it under `stored_id`.
    pub(super) fn confirm_row(
        &mut self,
        write: &Arc<StagedWrite>,
        id: &Arc<str>,
        stored_id: &Arc<str>,
        record: Option<Record>,
        at: i64,
    ) -> Result<Option<StoredRow>> {
        let base = self.pending.stack(id).and_then(|stack| stack.base.clone());
        let value = self.value_after(write, base.as_ref(), stored_id, record, at)?;
        if stored_id == id {
            if let Some(stack) = self.pending.stack_mut(id) {
                stack.remove(write.number);
                // The source has a row that nobody here knows any more.
                stack.missed |= value.is_none() && matches!(*write.op, WriteOp::Patch { .. });
                stack.base.clone_from(&value);
            }
            return Ok(value);
        }
        // An insert under another id than was proposed has nothing to do with a row that has the proposed one.
        let is_insert = matches!(*write.op, WriteOp::Insert { .. });
        let stays_behind = is_insert && base.is_some();
        let Some(stack) = self.pending.stack_mut(id) else { return Ok(value) };
        stack.remove(write.number);
        let is_ours_alone = !stack.was_known;
        // A `delete_all` that came after the insert is to delete its row, too.
        let layers = if stays_behind { stack.clears_after(write.number) } else { stack.take_layers() };
        if !stays_behind {
            stack.base = None;
            write.ticket.rename(stored_id.clone());
        }
        self.unhides(stored_id);
        let is_new = self.pending.stack(stored_id).is_none() && self.newest(stored_id)?.is_none();
        if is_new && is_insert && is_ours_alone && !stays_behind {
            self.rename(write, id, stored_id, value.clone(), layers)?;
            return Ok(value);
        }
        self.follow(&layers, id, stored_id);
        let known = match self.pending.stack(stored_id) {
            Some(stack) => stack.base.clone(),
            None => self.newest(stored_id)?.map(|(_, row)| row),
        };
        if !layers.is_empty() {
            self.stack_of(stored_id)?.join(layers);
        }
        if known.is_some() && write.op.id().is_none() {
            // A read has brought the row before; the answer to an insert that was repeated is older.
            (self.to.reread)(Some(stored_id));
            return Ok(known);
        }
        match (self.pending.stack_mut(stored_id), &value) {
            (Some(stack), value) => stack.base.clone_from(value),
            (None, Some(value)) => self.put(value.clone(), Some(Cause::Confirmed), None)?,
            (None, None) => {}
        }
        Ok(value)
    }

    /// The row of these layers goes by another id from now on.
    pub(super) fn follow(&mut self, layers: &VecDeque<Layer>, old: &Arc<str>, id: &Arc<str>) {
        for layer in layers {
            if let Layer::Write(write) = layer {
                write.ticket.rename(id.clone());
                self.pending.note(write.number, id.clone());
                // The journal will forget who was renamed before it forgets these.
                self.to.ledger.note_rewritten(write.number, &write.op.clone().named(id));
            }
        }
        self.to.writes.rename(old, id);
    }

    /// A row that nobody but us has seen so far gets the id that the source has chosen, in one step. The first stays an alias.
    pub(super) fn rename(
        &mut self,
        write: &StagedWrite,
        old: &Arc<str>,
        new: &Arc<str>,
        value: Option<StoredRow>,
        layers: VecDeque<Layer>,
    ) -> Result<()> {
        let Some(mut stack) = self.pending.remove(old) else { return Ok(()) };
        let row = stack.row;
        if stack.missed && write.op.id().is_some() {
            // It may be what the source says of another row, which has the id that was proposed.
            (self.to.reread)(Some(old));
        }
        self.follow(&layers, old, new);
        stack.base = value;
        stack.join(layers);
        let seq = self.batch().seq;
        if stack.tombstone.is_none() && self.to.versions.row_newest(row)?.is_some() {
            // The old name goes on naming the row, for as long as it is remembered.
            if self.to.versions.name(new, seq, None, Some(row)) {
                self.batch().renamed.push(new.clone());
            }
            if let Some((alias, row)) = self.aliases.remember(old.clone(), row) {
                self.to.versions.forget_alias(&alias, row);
            }
        }
        self.pending.add(new.clone(), stack);
        if let Some(slots) = self.records.remove(old) {
            self.records.entry(new.clone()).or_default().extend(slots);
        }
        Ok(())
    }

    /// The first id of a row that somebody else has told of under the id that the source chose.
    pub(super) fn name_alias(&mut self, first: &Arc<str>, id: &Arc<str>) {
        let seq = self.batch().seq;
        if first == id || !matches!(self.to.versions.lookup_newest(first), Ok(None)) {
            return;
        }
        let Ok(Some((row, _))) = self.newest(id) else { return };
        if let Some(slots) = self.records.remove(first) {
            self.records.entry(id.clone()).or_default().extend(slots);
            self.batch().shown_anew.push(id.clone());
        }
        if self.to.versions.name(first, seq, None, Some(row)) {
            self.batch().renamed.push(first.clone());
        }
        if let Some((alias, row)) = self.aliases.remember(first.clone(), row) {
            self.to.versions.forget_alias(&alias, row);
        }
    }

    /// Writes that have lost the row they were to change fail with it.
    pub(super) fn reject_orphans(&mut self, id: &Arc<str>) {
        let orphans = self.pending.stack(id).map(Stack::orphans).unwrap_or_default();
        for orphan in orphans {
            if self.to.writes.withdraw(orphan.number).is_err() {
                // The source has it already, and will say.
                continue;
            }
            let message = "the write that was to make this row has failed, and this one with it";
            let error = Error::new(ErrorKind::NotFound, message)
                .with("table", self.to.table_name.to_string())
                .with("id", id.to_string());
            self.take_layer(id, orphan.number);
            self.pending.forget(orphan.number);
            self.batch().settled.push((orphan, SettledAs::Rejected(error)));
        }
    }

    pub(super) fn settle_all(&mut self, write: &StagedWrite, result: SettledAs) -> SettledAs {
        let number = write.number;
        let Some(clear) = self.pending.take_clear(number) else { return result };
        let result = match result {
            SettledAs::Confirmed(settled) => {
                match self.apply_changes(settled.changes, Cause::Confirmed, Announce::EachRow, None) {
                    Ok(()) => SettledAs::confirmed(None),
                    Err(error) => SettledAs::Rejected(error),
                }
            }
            other => other,
        };
        let is_done = matches!(result, SettledAs::Confirmed(_));
        let cause = if is_done { Cause::Confirmed } else { Cause::RolledBack };
        for id in self.pending.ids() {
            let Some(stack) = self.pending.stack_mut(&id) else { continue };
            if !stack.remove(number) {
                continue;
            }
            if is_done {
                stack.base = None;
            }
            self.show_again(&id, cause);
        }
        let seq = self.batch().seq;
        for (id, (row, mut stored, since)) in clear.hidden {
            if is_done {
                self.bury(row, id, since);
                continue;
            }
            if self.pending.hides_on(number, &id, row, &stored, since) {
                continue;
            }
            if self.to.versions.name(&id, seq, None, Some(row)) {
                self.batch().renamed.push(id.clone());
            }
            stored.set_seq(seq);
            self.to.versions.put(row, seq, None, Some(stored.clone()));
            let batch = self.batch();
            batch.touch(row, None, Some(stored), Some(cause));
            if since != seq {
                batch.tombstones.push((row, since));
            }
        }
        self.batch().note_cause(cause);
        if clear.missed {
            (self.to.reread)(None);
        }
        if is_done {
            let batch = self.batch();
            let done_at = batch.seq;
            batch.covering.push(Covering { id: None, number, is_said: false, done_at });
        }
        result
    }
}
