//! Settle: what the core makes of the source's answer to a write.
//!
//! Owner: the core.
//! Flow: the writer's settlement → the write's layer goes, over a new confirmed value or over the old one → the row shows
//! what is left → without pending writes it goes to the cache.
//! Invariants: what the source did under another id is shown once, and its first id goes on meaning it; a write that has lost
//! the row it was to change fails with it; one that the source has done doesn't fail because the cache can't be read: before
//! anything of it is settled it goes back to the writer, who brings it again
//! (`whatever_call_of_the_storage_fails_no_accepted_write_is_lost`).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::dio::cache_handle::check_id;
use crate::dio::core::accept::Covering;
use crate::dio::core::pending::{Layer, Stack, with_id};
use crate::dio::core::{Announce, Core, Settled, SettledAs, Settlement, StagedWrite};
use crate::dio::delivery::Outcome;
use crate::dio::event::Cause;
use crate::value::{Record, StoredRow};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, RowNo, WriteNumber};

/// What is settled, or a settlement of which nothing is done yet, and why.
type Tried = std::result::Result<SettledAs, Box<(SettledAs, Error)>>;

/// What is known before a write is settled.
struct Found {
    /// The row of the id under which the source has stored it, if that is another one.
    row: Option<(RowNo, StoredRow)>,
    /// Whether the write's row shows.
    is_shown: bool,
}

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
        let result = match result {
            Ok(result) => result,
            Err(refused) => {
                let (again, error) = *refused;
                if reply.is_some() && matches!(error.kind(), ErrorKind::Cache | ErrorKind::Panicked) {
                    self.to.writes.hand_back(write.number, again);
                    self.batch().replies.extend(reply.map(|reply| (reply, Err(error))));
                    return;
                }
                self.refuse_settled(&write, error)
            }
        };
        // From here on `clear` may have begun another batch, so the Seq is asked for only now.
        let seq = self.batch().seq;
        if is_all {
            self.protection.note_all(seq);
        }
        self.to.board.set_pending(self.pending.writes());
        let stored = match &result {
            SettledAs::Confirmed(settled) => settled.id.clone(),
            _ => None,
        };
        self.landed(write.number, stored.as_ref());
        let batch = self.batch();
        batch.force = true;
        batch.settled.push((write, result));
        batch.replies.extend(reply.map(|reply| (reply, Ok(()))));
    }

    /// Does what a callback did beside a write that is confirmed.
    fn with_changes(&mut self, result: SettledAs) -> Tried {
        match result {
            SettledAs::Confirmed(mut settled) if !settled.changes.is_empty() => {
                let changes = settled.changes.clone();
                match self.apply_changes(changes, Cause::Confirmed, Announce::EachRow, None) {
                    Ok(()) => {
                        settled.changes.clear();
                        Ok(SettledAs::Confirmed(settled))
                    }
                    Err(error) => Err(Box::new((SettledAs::Confirmed(settled), error))),
                }
            }
            result => Ok(result),
        }
    }

    /// A write that the source has done can't be shown, and never will be.
    fn refuse_settled(&mut self, write: &Arc<StagedWrite>, error: Error) -> SettledAs {
        let result = match *write.op {
            WriteOp::DeleteAll => self.settle_all(write, SettledAs::Rejected(error)),
            _ => self.settle_row(write, SettledAs::Rejected(error)),
        };
        result.unwrap_or_else(|refused| refused.0)
    }

    fn settle_row(&mut self, write: &Arc<StagedWrite>, result: SettledAs) -> Tried {
        let number = write.number;
        let Some(id) = self.pending.id_of(number) else { return Ok(result) };
        let (result, last_id) = match self.with_changes(result)? {
            SettledAs::Confirmed(settled) => {
                let stored_id = settled.id.clone().unwrap_or_else(|| id.clone());
                let found = match self.what_a_confirmation_needs(&id, &stored_id) {
                    Ok(found) => found,
                    Err(error) => return Err(Box::new((SettledAs::Confirmed(settled), error))),
                };
                self.pending.forget(number);
                let Settled { record, at, .. } = settled;
                let stored = self.confirm_row(write, &id, &stored_id, found, record, at);
                let batch = self.batch();
                let seq = batch.seq;
                batch.covering.push(Covering { id: Some(stored_id.clone()), number, is_said: false, done_at: seq });
                self.protection.note(stored_id.clone(), seq);
                let id = Some(stored_id.clone());
                (SettledAs::Confirmed(Settled { id, record: None, stored, changes: Vec::new(), at }), stored_id)
            }
            other => {
                self.pending.forget(number);
                self.take_layer(&id, number);
                if let (SettledAs::Rejected(error), Some(stack)) = (&other, self.pending.stack_mut(&id)) {
                    // Somebody else has changed or deleted the row, or the source has, though it didn't say so.
                    let is_changed = matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound);
                    stack.missed |= is_changed || (write.op.id().is_some() && Outcome::may_be_done(error));
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
        Ok(result)
    }

    /// All that must be read before a write of the row `id` is settled as the row `stored_id`.
    fn what_a_confirmation_needs(&mut self, id: &Arc<str>, stored_id: &Arc<str>) -> Result<Found> {
        let is_shown = self.shown_now(id)?.is_some();
        if stored_id == id {
            return Ok(Found { row: None, is_shown });
        }
        check_id(stored_id)?;
        self.unhides(stored_id);
        Ok(Found { row: self.newest(stored_id)?, is_shown })
    }

    pub(super) fn take_layer(&mut self, id: &str, number: WriteNumber) {
        if let Some(stack) = self.pending.stack_mut(id) {
            stack.remove(number);
        }
    }

    /// The confirmed value after a write. `None`: there is no such row, or nobody here knows it.
    fn value_after(
        &self,
        write: &StagedWrite,
        base: Option<&StoredRow>,
        id: &str,
        record: Option<Record>,
        at: i64,
    ) -> Option<StoredRow> {
        let record = match (&*write.op, record) {
            (WriteOp::Delete { .. } | WriteOp::DeleteAll, _) => None,
            (_, Some(record)) => Some(record),
            // Over a damaged row it can't be told; that one is read again.
            (WriteOp::Patch { record, .. }, None) => base.and_then(|base| base.to_record().ok()).map(|mut base| {
                base.merge(record);
                base
            }),
            (
                WriteOp::Insert { record, .. } | WriteOp::Replace { record, .. } | WriteOp::Upsert { record, .. },
                None,
            ) => Some(record.clone()),
        };
        record.map(|mut record| {
            with_id(&mut record, id, self.to.id_column.as_deref());
            StoredRow::encode(id, &record, at)
        })
    }

    /// The source has done a write of the row `id`, and has it under `stored_id`.
    fn confirm_row(
        &mut self,
        write: &Arc<StagedWrite>,
        id: &Arc<str>,
        stored_id: &Arc<str>,
        found: Found,
        record: Option<Record>,
        at: i64,
    ) -> Option<StoredRow> {
        let base = self.pending.stack(id).and_then(|stack| stack.base.clone());
        let value = self.value_after(write, base.as_ref(), stored_id, record, at);
        if stored_id == id {
            if let Some(stack) = self.pending.stack_mut(id) {
                stack.remove(write.number);
                // The source has a row that nobody here knows any more.
                stack.missed |= value.is_none() && matches!(*write.op, WriteOp::Patch { .. });
                stack.base.clone_from(&value);
            }
            return value;
        }
        // An insert under another id than was proposed has nothing to do with a row that has the proposed one.
        let is_insert = matches!(*write.op, WriteOp::Insert { .. });
        let stays_behind = is_insert && base.is_some();
        let Some(stack) = self.pending.stack_mut(id) else { return value };
        stack.remove(write.number);
        let is_ours_alone = !stack.was_known;
        // A `delete_all` that came after the insert is to delete its row, too.
        let layers = if stays_behind { stack.clears_after(write.number) } else { stack.take_layers() };
        if !stays_behind {
            stack.base = None;
            write.ticket.rename(stored_id.clone());
        }
        let is_new = self.pending.stack(stored_id).is_none() && found.row.is_none();
        if is_new && is_insert && is_ours_alone && !stays_behind {
            self.rename(write, id, stored_id, value.clone(), layers, found.is_shown);
            return value;
        }
        self.follow(&layers, id, stored_id);
        let known = match self.pending.stack(stored_id) {
            Some(stack) => stack.base.clone(),
            None => found.row.as_ref().map(|(_, row)| row.clone()),
        };
        if !layers.is_empty() {
            let stack = self.stack_over(stored_id, found.row.clone());
            stack.join(layers);
        }
        if known.is_some() && write.op.id().is_none() {
            // A read has brought the row before; the answer to an insert that was repeated is older.
            (self.to.reread)(Some(stored_id));
            return known;
        }
        match (self.pending.stack_mut(stored_id), &value) {
            (Some(stack), value) => stack.base.clone_from(value),
            (None, Some(value)) => self.put_over(found.row, value.clone(), Some(Cause::Confirmed), None),
            (None, None) => {}
        }
        value
    }

    /// The row of these layers goes by another id from now on.
    pub(super) fn follow(&mut self, layers: &VecDeque<Layer>, old: &Arc<str>, id: &Arc<str>) {
        for layer in layers {
            if let Layer::Write(write) = layer {
                write.ticket.rename(id.clone());
                self.pending.note(write.number, id.clone());
                // The journal will forget who was renamed before it forgets these
                // (`a_write_of_a_row_that_goes_by_another_id_now_is_of_that_row_in_every_later_run`).
                self.to.ledger.note_renamed(write.number, &write.op.clone().named(id));
            }
        }
        // Before what is left in the queue may go.
        self.to.ledger.rename(old, id);
        self.to.writes.rename(old, id);
    }

    /// A row that nobody but us has seen so far gets the id that the source has chosen, in one step. The first stays an alias.
    fn rename(
        &mut self,
        write: &StagedWrite,
        old: &Arc<str>,
        new: &Arc<str>,
        value: Option<StoredRow>,
        layers: VecDeque<Layer>,
        is_shown: bool,
    ) {
        let Some(mut stack) = self.pending.remove(old) else { return };
        let row = stack.row;
        if stack.missed && write.op.id().is_some() {
            // It may be what the source says of another row, which has the id that was proposed.
            (self.to.reread)(Some(old));
        }
        self.follow(&layers, old, new);
        stack.base = value;
        stack.join(layers);
        let seq = self.batch().seq;
        if is_shown {
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
            if self.to.writes.withdraw(orphan.number, |write| self.to.ledger.may_end(write)).is_err() {
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

    pub(super) fn settle_all(&mut self, write: &StagedWrite, result: SettledAs) -> Tried {
        let number = write.number;
        let Some(mut clear) = self.pending.take_clear(number) else { return Ok(result) };
        clear.missed |= matches!(&result, SettledAs::Rejected(error) if Outcome::may_be_done(error));
        let result = match self.with_changes(result) {
            Ok(SettledAs::Confirmed(_)) => SettledAs::confirmed(None),
            Ok(other) => other,
            Err(refused) => {
                self.pending.add_clear(clear);
                return Err(refused);
            }
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
        let told = if is_done { clear.told } else { Vec::new() };
        if self.pending.has_clear() && !told.is_empty() {
            // A read would be kept off until the others are settled.
            self.pending.miss_all();
        } else {
            told.iter().for_each(|id| (self.to.reread)(Some(id)));
        }
        if is_done {
            let batch = self.batch();
            let done_at = batch.seq;
            batch.covering.push(Covering { id: None, number, is_said: false, done_at });
        }
        Ok(result)
    }
}
