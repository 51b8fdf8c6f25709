//! Writes: how the core shows a write at once, and what it makes of the source's answer.
//!
//! Owner: the core.
//! Flow: [`Core::stage`] folds a write over its row → the commit shows it and hands it on for delivery → [`Core::settle`]
//! takes it off again: over a new confirmed value, or over the old one.
//! Invariants: a row with pending writes is never handed to the cache; what the source did under another id is shown once.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::dio::core::pending::{Clear, Layer, Stack, with_id};
use crate::dio::core::{Announce, Core, NewWrite, Settled, SettledAs, Settlement, StagedWrite};
use crate::dio::event::{Cause, DioEvent};
use crate::dio::ticket::{TicketSender, WriteOutcome, WriteState};
use crate::value::{Record, StoredRow};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, RowNo, Seq, WriteNumber};

impl Core {
    // ---- staging -----------------------------------------------------------------------------------------------

    pub(super) fn stage(&mut self, new: NewWrite) {
        self.publish_first_load();
        let number = self.next_write;
        let staged = match &new.op {
            WriteOp::DeleteAll => self.stage_all(new, number),
            _ => self.stage_row(new, number),
        };
        self.to.board.set_pending(self.pending.writes());
        if let Some(write) = staged {
            self.next_write = number.next();
            self.batch().staged.push(write);
        }
    }

    fn refuse(&self, ticket: &TicketSender, error: Error) {
        ticket.refuse(error.with("table", self.to.table_name.to_string()));
        self.to.writes.give_back(1);
    }

    fn stage_row(&mut self, new: NewWrite, number: WriteNumber) -> Option<Arc<StagedWrite>> {
        let NewWrite { op, ticket, at } = new;
        let prepared = self.row_of(op).and_then(|(id, op)| {
            let stack = self.stack_of(&id)?;
            let is_known = stack.base.is_some() || stack.makes_a_row();
            Ok((id, op, is_known))
        });
        let (id, op, row_is_known) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.refuse(&ticket, error);
                return None;
            }
        };
        ticket.number(number, Some(id.clone()));
        let key = Arc::from(format!("{}-{number}", self.to.key_prefix));
        let write = Arc::new(StagedWrite { number, key, op, at, ticket, row_is_known });
        self.pending.note(number, id.clone());
        if let Some(stack) = self.pending.stack_mut(&id) {
            stack.push(Layer::Write(write.clone()));
        }
        if let Err(error) = self.reshow(&id, Cause::Local) {
            self.take_layer(&id, number);
            self.pending.forget(number);
            // Without writes the row is like any other again.
            self.release(&id);
            self.refuse(&write.ticket, error);
            return None;
        }
        Some(write)
    }

    /// The id of the row that a write is about, and the write with that id: a row that the source has renamed answers to its
    /// first id, too. A row that the source is to name goes by an id of ours until then.
    fn row_of(&self, op: WriteOp) -> Result<(Arc<str>, WriteOp)> {
        let Some(id) = op.id() else {
            return Ok((Arc::from(uuid::Uuid::now_v7().to_string()), op));
        };
        if self.pending.stack(id).is_none()
            && let Some(row) = self.to.versions.lookup_newest(id)?
            && let Some(stored) = self.to.versions.row_newest(row)?
            && stored.id() != id
        {
            let op = op.with_id(stored.id());
            return Ok((Arc::from(stored.id()), op));
        }
        Ok((Arc::from(id), op))
    }

    /// The stack of this row, a new one if there is none.
    fn stack_of(&mut self, id: &Arc<str>) -> Result<&mut Stack> {
        if self.pending.stack(id).is_none() {
            let stack = match self.pending.unhide(id) {
                Some(stack) => stack,
                None => match self.newest(id)? {
                    Some((row, base)) => Stack::new(row, Some(base)),
                    None => {
                        let row = RowNo(self.next_row);
                        self.next_row += 1;
                        Stack::new(row, None)
                    }
                },
            };
            self.pending.add(id.clone(), stack);
        }
        self.pending.stack_mut(id).ok_or_else(|| Error::new(ErrorKind::Corrupt, "a row's pending writes were lost"))
    }

    fn stage_all(&mut self, new: NewWrite, number: WriteNumber) -> Option<Arc<StagedWrite>> {
        let NewWrite { op, ticket, at } = new;
        // The scan reads published rows.
        self.commit();
        let mut rows = Vec::new();
        let pin = self.to.versions.pin_to_read();
        let scanned = self.to.versions.scan(&pin, &mut |row_no, row| {
            rows.push((row_no, row.clone()));
            ControlFlow::Continue(())
        });
        drop(pin);
        if let Err(error) = scanned {
            self.refuse(&ticket, error);
            return None;
        }
        self.pending.add_clear(Clear::new(number));
        for id in self.pending.ids() {
            if let Some(stack) = self.pending.stack_mut(&id) {
                stack.push(Layer::Cleared(number));
            }
            if let Err(error) = self.reshow(&id, Cause::Local) {
                tracing::warn!(table = %self.to.table_name, %id, %error, "a row that is to be deleted could not be hidden");
            }
        }
        let seq = self.batch().seq;
        for (row, stored) in rows {
            if self.pending.holds_row(row) {
                continue;
            }
            let id: Arc<str> = Arc::from(stored.id());
            self.to.versions.put(row, seq, Some(&stored), None);
            self.to.versions.name(&id, seq, Some(row), None);
            let batch = self.batch();
            batch.touch(row, Some(stored.clone()), None, Some(Cause::Local));
            batch.renamed.push(id.clone());
            self.pending.hide(id, row, stored, seq);
        }
        self.batch().note_cause(Cause::Local);
        ticket.number(number, None);
        let key = Arc::from(format!("{}-{number}", self.to.key_prefix));
        Some(Arc::new(StagedWrite { number, key, op, at, ticket, row_is_known: true }))
    }

    // ---- showing -----------------------------------------------------------------------------------------------

    /// Has a row show its confirmed value with its pending writes folded over it.
    fn reshow(&mut self, id: &Arc<str>, cause: Cause) -> Result<()> {
        let Some(stack) = self.pending.stack(id) else { return Ok(()) };
        let (row, tombstone) = (stack.row, stack.tombstone);
        let after = stack.shown(id, self.to.id_column.as_deref())?;
        let before = if tombstone.is_some() { None } else { self.to.versions.row_newest(row)? };
        let seq = self.batch().seq;
        let hidden_since = match (&before, after) {
            (Some(before), Some(after)) if before.shows_as(&after) => return Ok(()),
            (None, None) => return Ok(()),
            (_, Some(mut after)) => {
                if before.is_none() {
                    if self.to.versions.name(id, seq, None, Some(row)) {
                        self.batch().renamed.push(id.clone());
                    }
                    if let Some(since) = tombstone.filter(|since| *since != seq) {
                        self.batch().tombstones.push((row, since));
                    }
                }
                after.set_seq(seq);
                self.to.versions.put(row, seq, before.as_ref(), Some(after.clone()));
                self.batch().touch(row, before, Some(after), Some(cause));
                None
            }
            (Some(_), None) => {
                self.to.versions.put(row, seq, before.as_ref(), None);
                self.to.versions.name(id, seq, Some(row), None);
                let batch = self.batch();
                batch.renamed.push(id.clone());
                batch.touch(row, before, None, Some(cause));
                Some(seq)
            }
        };
        self.batch().note_cause(cause);
        if let Some(stack) = self.pending.stack_mut(id) {
            stack.tombstone = hidden_since;
        }
        Ok(())
    }

    /// Lets go of a row that has no pending writes any more: what it shows is confirmed, and the cache hears of it.
    fn release(&mut self, id: &Arc<str>) {
        if !self.pending.stack(id).is_some_and(Stack::is_settled) {
            return;
        }
        let Some(stack) = self.pending.remove(id) else { return };
        let batch = self.batch();
        let seq = batch.seq;
        batch.covering.extend(stack.uncovered.into_iter().map(|number| (Some(id.clone()), number)));
        self.protection.note(id.clone(), seq);
        if let Some(since) = stack.tombstone {
            self.bury(stack.row, id.clone(), since);
        }
        if stack.missed {
            (self.to.reread)(Some(id));
        }
    }

    /// A row that was hidden is deleted for good.
    fn bury(&mut self, row: RowNo, id: Arc<str>, since: Seq) {
        let seq = self.batch().seq;
        if since != seq {
            self.to.versions.put(row, seq, None, None);
            self.batch().tombstones.push((row, since));
        }
        let batch = self.batch();
        if batch.by_row.get(&row).is_none_or(|place| batch.touched[*place].before.is_none()) {
            batch.gone.push((row, id));
        }
    }

    /// The confirmed value of a row with pending writes is another now.
    pub(super) fn rebase(&mut self, id: &Arc<str>, base: Option<StoredRow>, cause: Cause) -> Result<()> {
        if let Some(stack) = self.pending.stack_mut(id) {
            stack.base = base;
        }
        self.reshow(id, cause)
    }

    // ---- settling ----------------------------------------------------------------------------------------------

    pub(super) fn settle(&mut self, settlement: Settlement) {
        self.publish_first_load();
        let Settlement { write, result, reply } = settlement;
        let is_all = matches!(write.op, WriteOp::DeleteAll);
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
        batch.replies.push((reply, Ok(())));
    }

    fn settle_row(&mut self, write: &Arc<StagedWrite>, result: SettledAs) -> SettledAs {
        let number = write.number;
        let Some(id) = self.pending.id_of(number) else { return result };
        self.pending.forget(number);
        let (result, last_id) = match result {
            SettledAs::Confirmed(settled) => {
                let Settled { id: stored_id, record, changes, at } = settled;
                let noted = self.apply_changes(changes, Cause::Confirmed, Announce::EachRow, None);
                let stored_id = stored_id.unwrap_or_else(|| id.clone());
                let confirmed = noted.and_then(|()| self.confirm_row(write, &id, &stored_id, record, at));
                match confirmed {
                    Ok(()) => {
                        let seq = self.batch().seq;
                        self.protection.note(stored_id.clone(), seq);
                        (SettledAs::confirmed(Some(stored_id.clone())), stored_id)
                    }
                    Err(error) => {
                        self.take_layer(&id, number);
                        (SettledAs::Rejected(error), id.clone())
                    }
                }
            }
            other => {
                self.take_layer(&id, number);
                let made_a_row = matches!(write.op, WriteOp::Insert { .. } | WriteOp::Upsert { .. });
                if made_a_row && !matches!(other, SettledAs::Superseded(_)) {
                    self.reject_orphans(&id);
                }
                (other, id.clone())
            }
        };
        let cause = if matches!(result, SettledAs::Confirmed(_)) { Cause::Confirmed } else { Cause::RolledBack };
        for id in [&id, &last_id] {
            if let Err(error) = self.reshow(id, cause) {
                tracing::warn!(table = %self.to.table_name, %id, %error, "a settled row could not be shown anew");
            }
            self.release(id);
        }
        // Not if another row has the id that was proposed.
        if matches!(write.op, WriteOp::Insert { .. }) && write.ticket.ticket().id().is_some_and(|now| now == last_id) {
            self.name_alias(&id, &last_id);
        }
        let seq = self.batch().seq;
        self.protection.note(id, seq);
        self.batch().covering.push((Some(last_id), number));
        result
    }

    fn take_layer(&mut self, id: &str, number: WriteNumber) {
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
    ) -> Result<Option<StoredRow>> {
        let record = match (&write.op, record) {
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
    fn confirm_row(
        &mut self,
        write: &Arc<StagedWrite>,
        id: &Arc<str>,
        stored_id: &Arc<str>,
        record: Option<Record>,
        at: i64,
    ) -> Result<()> {
        let base = self.pending.stack(id).and_then(|stack| stack.base.clone());
        let value = self.value_after(write, base.as_ref(), stored_id, record, at)?;
        if stored_id == id {
            if let Some(stack) = self.pending.stack_mut(id) {
                stack.remove(write.number);
                // The source has a row that nobody here knows any more.
                stack.missed |= value.is_none() && matches!(write.op, WriteOp::Patch { .. });
                stack.base = value;
            }
            return Ok(());
        }
        // An insert under another id than was proposed has nothing to do with a row that has the proposed one.
        let is_insert = matches!(write.op, WriteOp::Insert { .. });
        let stays_behind = is_insert && base.is_some();
        let Some(stack) = self.pending.stack_mut(id) else { return Ok(()) };
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
            return self.rename(write, id, stored_id, value, layers);
        }
        self.follow(&layers, stored_id);
        if !layers.is_empty() {
            self.stack_of(stored_id)?.join(layers);
        }
        match (self.pending.stack_mut(stored_id), value) {
            (Some(stack), value) => {
                stack.base = value;
                Ok(())
            }
            (None, Some(value)) => self.put(value, Some(Cause::Confirmed), None),
            (None, None) => Ok(()),
        }
    }

    /// The row of these layers goes by another id from now on.
    fn follow(&mut self, layers: &VecDeque<Layer>, id: &Arc<str>) {
        for layer in layers {
            if let Layer::Write(write) = layer {
                write.ticket.rename(id.clone());
                self.pending.note(write.number, id.clone());
            }
        }
    }

    /// A row that nobody but us has seen so far gets the id that the source has chosen, in one step. The first stays an alias.
    fn rename(
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
        self.follow(&layers, new);
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
    fn name_alias(&mut self, first: &Arc<str>, id: &Arc<str>) {
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
    fn reject_orphans(&mut self, id: &Arc<str>) {
        let orphans = self.pending.stack(id).map(Stack::orphans).unwrap_or_default();
        for orphan in orphans {
            if !self.to.writes.withdraw(orphan.number) {
                // The source has it already, and will say.
                continue;
            }
            let message = "the write that was to make this row has failed, and this one with it";
            let error = Error::new(ErrorKind::NotFound, message)
                .with("table", self.to.table_name.to_string())
                .with("id", id.to_string());
            self.take_layer(id, orphan.number);
            self.pending.forget(orphan.number);
            let batch = self.batch();
            batch.covering.push((Some(id.clone()), orphan.number));
            batch.settled.push((orphan, SettledAs::Rejected(error)));
        }
    }

    fn settle_all(&mut self, write: &Arc<StagedWrite>, result: SettledAs) -> SettledAs {
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
            if let Err(error) = self.reshow(&id, cause) {
                tracing::warn!(table = %self.to.table_name, %id, %error, "a row could not be shown anew");
            }
            self.release(&id);
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
        self.batch().covering.push((None, number));
        result
    }

    /// Says what became of a settled write.
    pub(super) fn tell(&self, write: &StagedWrite, result: SettledAs, seq: Seq) {
        let id = write.ticket.ticket().id();
        let failed = |error: Error, state: WriteState| {
            self.to.events.publish(DioEvent::WriteFailed { id: id.clone(), seq, error: error.clone() });
            write.ticket.end(state, || self.to.board.write_failed(&error));
        };
        match result {
            SettledAs::Confirmed(settled) => {
                self.to.events.publish(DioEvent::WriteSettled { id: settled.id.clone(), seq });
                let outcome = WriteOutcome { id: settled.id.map(|id| id.to_string()), seq };
                write.ticket.end(WriteState::Confirmed(outcome), || self.to.board.delivered());
            }
            SettledAs::Rejected(error) => failed(error.clone(), WriteState::Rejected(error)),
            SettledAs::Unknown(error) => failed(error.clone(), WriteState::Unknown(error)),
            SettledAs::Superseded(by) => write.ticket.end(WriteState::Superseded { by }, || {}),
            SettledAs::Cancelled => write.ticket.end(WriteState::Cancelled, || {}),
        }
    }

    /// Hands writes that are shown now on for their delivery.
    pub(super) fn hand_on(&mut self, staged: Vec<Arc<StagedWrite>>, seq: Seq) {
        for write in staged {
            let id = write.ticket.ticket().id();
            self.to.events.publish(DioEvent::WritePending { id, seq });
            write.ticket.staged();
            self.to.writes.push(write);
        }
    }

    /// What the cache need not be told of any more: the settled writes whose rows go to it with this batch.
    pub(super) fn covered(&mut self, covering: Vec<(Option<Arc<str>>, WriteNumber)>) -> Vec<WriteNumber> {
        let mut covered = Vec::new();
        for (id, number) in covering {
            match id.map(|id| {
                self.pending.stack_mut(&id).is_some_and(|stack| {
                    stack.uncovered.push(number);
                    true
                })
            }) {
                Some(true) => {}
                Some(false) => covered.push(number),
                None => self.pending.uncovered_clears.push(number),
            }
        }
        if self.pending.is_empty() {
            covered.append(&mut self.pending.uncovered_clears);
        }
        covered
    }
}
