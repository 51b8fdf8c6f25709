//! Writes: how the core shows a write at once, and what it makes of the source's answer.
//!
//! Owner: the core.
//! Flow: [`Core::stage`] folds a write over its row → the commit shows it and hands it on for delivery → [`Core::settle`]
//! takes it off again: over a new confirmed value, or over the old one.
//! Invariants: a row with pending writes is never handed to the cache; what the source did under another id is shown once.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Mutex;

use crate::dio::core::pending::{Clear, Layer, Stack, with_id};
use crate::dio::core::{Announce, Core, Message, NewWrite, RowChange, Settled, SettledAs, Settlement, StagedWrite};
use crate::dio::event::{Cause, DioEvent};
use crate::dio::ledger::MAY_BE_DONE;
use crate::dio::ticket::{TicketSender, WriteOutcome, WriteState};
use crate::dio::write_queue::Pushed;
use crate::journal::{Acceptance, Confirmed, Outcome, Recovered, RecoveredState, Replay, Reservation, TableJournal};
use crate::value::{Record, StoredRow};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, RowNo, Seq, WriteNumber};

impl Core {
    // ---- staging -----------------------------------------------------------------------------------------------

    pub(super) fn stage(&mut self, new: Vec<NewWrite>) {
        self.publish_first_load();
        let mut new = new.into_iter();
        let mut shown: Vec<(Arc<StagedWrite>, Option<Reservation>)> = Vec::new();
        while let Some(mut write) = new.next() {
            let room = write.room.take();
            let number = self.next_write;
            let staged = match &write.op {
                WriteOp::DeleteAll => self.stage_all(write, number, None),
                _ => self.stage_row(write, number),
            };
            match staged {
                Ok(write) => {
                    self.next_write = number.next();
                    shown.push((write, room));
                }
                Err(error) => {
                    // None of them is taken.
                    for (write, _) in shown.drain(..).rev() {
                        self.take_back(&write);
                        self.refuse(&write.ticket, error.clone());
                    }
                    for write in new.by_ref() {
                        self.refuse(&write.ticket, error.clone());
                    }
                }
            }
        }
        self.to.board.set_pending(self.pending.writes());
        self.batch().staged.extend(shown);
    }

    /// Undoes the staging of a write.
    fn take_back(&mut self, write: &StagedWrite) {
        if matches!(write.op, WriteOp::DeleteAll) {
            self.settle_all(write, SettledAs::Cancelled);
        } else if let Some(id) = self.pending.id_of(write.number) {
            self.pending.forget(write.number);
            self.take_layer(&id, write.number);
            self.show_again(&id, Cause::RolledBack);
        }
    }

    fn refuse(&self, ticket: &TicketSender, error: Error) {
        ticket.refuse(error.with("table", self.to.table_name.to_string()));
        self.to.writes.give_back(1);
    }

    fn stage_row(&mut self, new: NewWrite, number: WriteNumber) -> Result<Arc<StagedWrite>> {
        let NewWrite { op, ticket, at, key, .. } = new;
        let unstaged = op.id().map_or(Ok(()), |id| self.unstage(id));
        let prepared = unstaged.and_then(|()| self.row_of(op, key.as_ref())).and_then(|(id, op)| {
            let stack = self.stack_of(&id)?;
            let is_known = stack.base.is_some() || stack.makes_a_row();
            let (row, is_hidden) = (stack.row, stack.tombstone.is_some());
            let before = if is_hidden { None } else { self.to.versions.row_newest(row)? };
            Ok((id, op, is_known, before))
        });
        let (id, op, row_is_known, before) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.refuse(&ticket, error.clone());
                return Err(error);
            }
        };
        ticket.number(number, Some(id.clone()));
        // A row that the source is to name goes by the key of its insert until then.
        let key = if op.id().is_none() { id.clone() } else { key.unwrap_or_else(|| self.key(number)) };
        let write = Arc::new(StagedWrite {
            number,
            key,
            op,
            at,
            ticket,
            row_is_known,
            before: Mutex::new(before),
            is_recovered: false,
        });
        self.push_layer(&id, &write);
        if let Err(error) = self.reshow(&id, Cause::Local) {
            self.take_layer(&id, number);
            self.pending.forget(number);
            // Without writes the row is like any other again.
            self.release(&id);
            self.refuse(&write.ticket, error.clone());
            return Err(error);
        }
        Ok(write)
    }

    /// The id of the row that a write is about, and the write with that id: a row that the source has renamed answers to its
    /// first id, too. A row that the source is to name goes by an id of ours until then.
    fn row_of(&self, op: WriteOp, key: Option<&Arc<str>>) -> Result<(Arc<str>, WriteOp)> {
        let Some(id) = op.id() else {
            if let Some(key) = key
                && self.pending.stack(key).is_none()
                && self.to.versions.lookup_newest(key)?.is_none()
            {
                return Ok((key.clone(), op));
            }
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

    fn key(&self, number: WriteNumber) -> Arc<str> {
        Arc::from(format!("{}-{number}", self.to.key_prefix))
    }

    fn push_layer(&mut self, id: &Arc<str>, write: &Arc<StagedWrite>) {
        self.pending.note(write.number, id.clone());
        if let Some(stack) = self.pending.stack_mut(id) {
            stack.push(Layer::Write(write.clone()));
        }
    }

    /// `key`: the one it had in an earlier run.
    fn stage_all(&mut self, new: NewWrite, number: WriteNumber, key: Option<Arc<str>>) -> Result<Arc<StagedWrite>> {
        let NewWrite { op, ticket, at, key: given, .. } = new;
        let is_recovered = key.is_some();
        let key = key.or(given).unwrap_or_else(|| self.key(number));
        // The scan reads published rows.
        self.finish_bulk();
        self.commit();
        let mut rows = Vec::new();
        let pin = self.to.versions.pin_to_read();
        let scanned = self.to.versions.scan(&pin, &mut |row_no, row| {
            rows.push((row_no, row.clone()));
            ControlFlow::Continue(())
        });
        drop(pin);
        if let Err(error) = scanned {
            self.refuse(&ticket, error.clone());
            return Err(error);
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
        Ok(Arc::new(StagedWrite {
            number,
            key,
            op,
            at,
            ticket,
            row_is_known: true,
            before: Mutex::new(None),
            is_recovered,
        }))
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

    /// Shows a row without a write that is over, and lets go of it if that was the last one.
    fn show_again(&mut self, id: &Arc<str>, cause: Cause) {
        if let Some(stack) = self.pending.stack(id)
            && let Some(next) = stack.writes().next()
        {
            next.before.lock().clone_from(&stack.base);
        }
        if let Err(error) = self.reshow(id, cause) {
            tracing::warn!(table = %self.to.table_name, %id, %error, "a row could not be shown without a write that is over");
        }
        self.release(id);
    }

    /// Lets go of a row that has no pending writes any more: what it shows is confirmed, and the cache hears of it.
    fn release(&mut self, id: &Arc<str>) {
        if !self.pending.stack(id).is_some_and(Stack::is_settled) {
            return;
        }
        let Some(stack) = self.pending.remove(id) else { return };
        let batch = self.batch();
        let seq = batch.seq;
        let uncovered = stack.uncovered.into_iter();
        batch.covering.extend(uncovered.map(|number| Covering {
            id: Some(id.clone()),
            number,
            is_said: true,
            done_at: seq,
        }));
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

    fn settle_row(&mut self, write: &Arc<StagedWrite>, result: SettledAs) -> SettledAs {
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
                let made_a_row = matches!(write.op, WriteOp::Insert { .. } | WriteOp::Upsert { .. });
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
        if matches!(write.op, WriteOp::Insert { .. }) && write.ticket.ticket().id().is_some_and(|now| now == last_id) {
            self.name_alias(&id, &last_id);
        }
        let seq = self.batch().seq;
        self.protection.note(id, seq);
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
    ) -> Result<Option<StoredRow>> {
        let base = self.pending.stack(id).and_then(|stack| stack.base.clone());
        let value = self.value_after(write, base.as_ref(), stored_id, record, at)?;
        if stored_id == id {
            if let Some(stack) = self.pending.stack_mut(id) {
                stack.remove(write.number);
                // The source has a row that nobody here knows any more.
                stack.missed |= value.is_none() && matches!(write.op, WriteOp::Patch { .. });
                stack.base.clone_from(&value);
            }
            return Ok(value);
        }
        // An insert under another id than was proposed has nothing to do with a row that has the proposed one.
        let is_insert = matches!(write.op, WriteOp::Insert { .. });
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
    fn follow(&mut self, layers: &VecDeque<Layer>, old: &Arc<str>, id: &Arc<str>) {
        for layer in layers {
            if let Layer::Write(write) = layer {
                write.ticket.rename(id.clone());
                self.pending.note(write.number, id.clone());
                // The journal will forget who was renamed before it forgets these.
                self.to.ledger.note_rewritten(write.number, &write.op.clone().with_id(id));
            }
        }
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

    fn settle_all(&mut self, write: &StagedWrite, result: SettledAs) -> SettledAs {
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

    /// Says what became of a settled write.
    pub(super) fn tell(&self, write: &Arc<StagedWrite>, result: SettledAs, seq: Seq) {
        let id = write.ticket.ticket().id();
        let failed = |error: Error, state: WriteState| {
            self.to.events.publish(DioEvent::WriteFailed { id: id.clone(), seq, error: error.clone() });
            write.ticket.end(state, || self.to.board.write_failed(&error));
        };
        match result {
            SettledAs::Confirmed(settled) => {
                let noted = self.confirmation(&settled, seq);
                self.to.events.publish(DioEvent::WriteSettled { id: settled.id.clone(), seq });
                let state = WriteState::Confirmed(WriteOutcome { id: settled.id.map(|id| id.to_string()), seq });
                let is_nameless = matches!(write.op, WriteOp::Insert { id: None, .. });
                if is_nameless && !write.ticket.ticket().state().has_ended() {
                    // After a crash nobody may be able to say it again.
                    self.to.board.delivered();
                    let write = write.clone();
                    self.to.ledger.note_then(write.number, &noted, move || write.ticket.end(state, || {}));
                } else {
                    self.to.ledger.note(write.number, &noted);
                    write.ticket.end(state, || self.to.board.delivered());
                }
            }
            SettledAs::Rejected(error) => {
                let (kind, message) = (error.kind(), error.to_string());
                self.to.ledger.note(write.number, &Outcome::Failed { kind, message });
                self.to.failures.add(write, error.clone(), false);
                failed(error.clone(), WriteState::Rejected(error));
            }
            SettledAs::Unknown(error) => {
                self.to.ledger.note(write.number, &Outcome::Unknown { message: error.to_string() });
                self.to.failures.add(write, error.clone(), true);
                failed(error.clone(), WriteState::Unknown(error));
            }
            SettledAs::Superseded(by) => {
                self.to.ledger.note(write.number, &Outcome::Superseded { by: by.0 });
                write.ticket.end(WriteState::Superseded { by }, || {});
            }
            SettledAs::Cancelled => {
                self.to.ledger.note(write.number, &Outcome::Cancelled);
                write.ticket.end(WriteState::Cancelled, || {});
            }
        }
    }

    /// Hands writes that are shown now on for their delivery: through the journal, if there is one.
    pub(super) fn hand_on(&mut self, staged: Vec<(Arc<StagedWrite>, Option<Reservation>)>, seq: Seq) {
        for (write, room) in staged {
            let id = write.ticket.ticket().id();
            self.to.events.publish(DioEvent::WritePending { id, seq });
            // Whoever has made it finds it among the pending ones.
            self.to.writes.announce(&write);
            write.ticket.staged();
            match (self.to.ledger.journal(), room) {
                (Some(journal), Some(room)) => self.accept(&journal, room, write),
                _ => {
                    let superseded = self.to.writes.push(write.number, false).superseded();
                    self.supersede_writes(superseded, write.number);
                }
            }
        }
    }

    /// A `delete_all` has made these pointless before they were tried.
    fn supersede_writes(&mut self, writes: Vec<Arc<StagedWrite>>, by: WriteNumber) {
        if writes.is_empty() {
            return;
        }
        for write in writes {
            self.settle(Settlement { write, result: SettledAs::Superseded(by), reply: None });
        }
        self.commit();
    }

    /// Has the journal make a write durable; then it is delivered.
    fn accept(&self, journal: &TableJournal, room: Reservation, write: Arc<StagedWrite>) {
        let (writes, core, ledger) = (self.to.writes.clone(), self.handle.clone(), self.to.ledger.clone());
        let before = write.before().and_then(|row| row.to_record().ok());
        let op = match write.ticket.ticket().id() {
            Some(id) => write.op.clone().with_id(&id),
            None => write.op.clone(),
        };
        let staged = write.clone();
        let answer = Box::new(move |result: Result<()>| match result {
            Ok(()) => {
                staged.ticket.durable();
                match writes.push(staged.number, false) {
                    Pushed::Queued(superseded) => {
                        for write in superseded {
                            let result = SettledAs::Superseded(staged.number);
                            let _ = core.send(Message::Settle(Settlement { write, result, reply: None }));
                        }
                    }
                    Pushed::LeftBehind => staged.ticket.end(WriteState::Kept, || ledger.keep()),
                    Pushed::Withdrawn => {}
                }
            }
            Err(error) => {
                // Taken back already, or the Dio is closed.
                if writes.withdraw(staged.number).is_ok() {
                    let result = SettledAs::Rejected(error);
                    let _ = core.send(Message::Settle(Settlement { write: staged, result, reply: None }));
                } else {
                    staged.ticket.end(WriteState::Rejected(error), || {});
                }
            }
        });
        let acceptance =
            Acceptance { write: write.number.0, key: &write.key, op: &op, before: before.as_ref(), at: write.at };
        journal.accept(room, acceptance, answer);
    }

    /// What the journal is to know of a confirmed write. While other writes of the row are pending, the cache does not hear
    /// of it, so it is not covered by any Seq.
    fn confirmation(&self, settled: &Settled, seq: Seq) -> Outcome {
        let is_held = match &settled.id {
            Some(id) => self.pending.stack(id).is_some(),
            None => !self.pending.is_empty(),
        };
        let covered_by = if is_held { NEVER } else { seq };
        confirmed(settled.id.as_deref(), settled.stored.clone(), seq, covered_by)
    }

    /// The settled writes whose rows go to the cache with this batch.
    pub(super) fn covered(&mut self, covering: Vec<Covering>) -> Vec<Covering> {
        let mut covered = Vec::new();
        for covering in covering {
            match covering.id.as_ref().map(|id| self.pending.stack_mut(id)) {
                Some(Some(stack)) => stack.uncovered.push(covering.number),
                Some(None) => covered.push(covering),
                None => self.pending.uncovered_clears.push(covering),
            }
        }
        if self.pending.is_empty() {
            covered.append(&mut self.pending.uncovered_clears);
        } else {
            self.pending.uncovered_clears.iter_mut().for_each(|clear| clear.is_said = true);
        }
        covered
    }

    /// The cache is told of these with the batch `seq`: once it is synced, the journal may forget them.
    pub(super) fn cover(&mut self, covered: &[Covering], seq: Seq) {
        for covering in covered.iter().filter(|covering| covering.is_said) {
            // What was noted says that no Seq covers it; this does. Rows that were made after a `delete_all` stay.
            let outcome = match &covering.id {
                Some(id) => confirmed(Some(id), self.newest(id).ok().flatten().map(|(_, row)| row), seq, seq),
                None => confirmed(None, None, covering.done_at, seq),
            };
            self.to.ledger.note(covering.number, &outcome);
        }
        self.unsynced += covered.len();
        if self.unsynced == 0 || (!self.pending.is_empty() && self.unsynced < SYNC_EVERY) {
            return;
        }
        self.unsynced = 0;
        if let Some(journal) = self.to.ledger.journal() {
            self.to.store.sync_then(Box::new(move || journal.cache_synced(seq)));
        }
    }

    // ---- after a restart ---------------------------------------------------------------------------------------

    /// Takes in what the journal kept of earlier runs: confirmed writes that the cache may not hold are applied again, pending
    /// ones are shown again, and go on to the source. Before the thread starts.
    pub(crate) fn recover(&mut self, replay: Replay) {
        self.next_write = WriteNumber(replay.next_write.max(1));
        // What is done from now on is newer than all that was done before.
        let newest = replay.writes.iter().filter_map(|write| match &write.state {
            RecoveredState::Confirmed(confirmed) => {
                Some(if confirmed.seq == NEVER { done_at(confirmed) } else { confirmed.seq })
            }
            _ => None,
        });
        self.seq = newest.fold(self.seq, Seq::max);
        let (confirmed, rest): (Vec<Recovered>, Vec<Recovered>) =
            replay.writes.into_iter().partition(|write| matches!(write.state, RecoveredState::Confirmed(_)));
        let renamed = self.reapply(confirmed);
        let mut pending = Vec::new();
        for write in rest {
            match &write.state {
                RecoveredState::Confirmed(_) => {}
                RecoveredState::Failed { kind, message } => {
                    let error = Error::new(*kind, message.clone());
                    self.recovered_failure(write, error, false);
                }
                RecoveredState::Unknown { message } => {
                    let error = Error::new(ErrorKind::Source, message.clone());
                    self.recovered_failure(write, error, true);
                }
                RecoveredState::Pending if write.attempted && matches!(write.op, WriteOp::Insert { id: None, .. }) => {
                    let message = MAY_BE_DONE.to_owned();
                    self.to.ledger.note(WriteNumber(write.write), &Outcome::Unknown { message });
                    self.recovered_failure(write, Error::new(ErrorKind::Source, MAY_BE_DONE), true);
                }
                RecoveredState::Pending => pending.push(write),
            }
        }
        let shown: Vec<Arc<StagedWrite>> =
            pending.into_iter().filter_map(|write| self.restage(write, &renamed)).collect();
        self.commit();
        for write in shown {
            write.ticket.durable();
            self.to.writes.announce(&write);
            // The earlier run may have had it at the source, whatever it noted.
            let superseded = self.to.writes.push(write.number, true).superseded();
            self.supersede_writes(superseded, write.number);
        }
        self.to.board.set_pending(self.pending.writes());
    }

    /// Applies confirmed writes again, as one batch. Gives back which rows the source has named otherwise.
    fn reapply(&mut self, writes: Vec<Recovered>) -> HashMap<String, String> {
        let mut renamed = HashMap::new();
        let mut rows: IndexMap<String, (Option<StoredRow>, Seq)> = IndexMap::new();
        let mut cleared = None;
        let mut covering = Vec::new();
        for write in writes {
            let RecoveredState::Confirmed(confirmed) = write.state else { continue };
            let done_at = done_at(&confirmed);
            let is_said = confirmed.seq == NEVER;
            let id = confirmed.id.as_deref().map(Arc::from);
            covering.push(Covering { id, number: WriteNumber(write.write), is_said, done_at });
            let Some(id) = confirmed.id else {
                rows.clear();
                cleared = Some(done_at);
                continue;
            };
            let proposed = write.op.id().map_or_else(|| write.key.clone(), str::to_owned);
            if proposed != id {
                renamed.insert(proposed.clone(), id.clone());
                if !matches!(write.op, WriteOp::Insert { .. }) {
                    rows.insert(proposed, (None, done_at));
                }
            }
            if let Some(row) = confirmed.row {
                rows.insert(id, ((!confirmed.deleted).then_some(row), done_at));
            }
        }
        let mut changes = Vec::new();
        if let Some(cleared) = cleared {
            let pin = self.to.versions.pin_to_read();
            let scanned = self.to.versions.scan(&pin, &mut |_, row| {
                // What the cache has stored since was made after it.
                if row.seq() < cleared && !rows.contains_key(row.id()) {
                    changes.push(RowChange::Delete(Arc::from(row.id())));
                }
                ControlFlow::Continue(())
            });
            if let Err(error) = scanned {
                tracing::warn!(table = %self.to.table_name, %error, "rows that were deleted may show until the next refresh");
            }
        }
        for (id, (row, seq)) in rows {
            // What the cache has stored since is newer.
            if self.newest(&id).is_ok_and(|found| found.is_some_and(|(_, found)| found.seq() > seq)) {
                continue;
            }
            changes.push(match row {
                Some(row) => RowChange::Put(row),
                None => RowChange::Delete(Arc::from(id)),
            });
        }
        if let Err(error) = self.apply_changes(changes, Cause::Confirmed, Announce::Nothing, None) {
            tracing::warn!(table = %self.to.table_name, %error, "confirmed writes could not be applied again");
        }
        if covering.is_empty() {
            return renamed;
        }
        self.batch().force = true;
        self.commit();
        if let Some(journal) = self.to.ledger.journal() {
            for covering in &covering {
                journal.reapplied(covering.number.0, self.seq);
            }
        }
        self.cover(&covering, self.seq);
        renamed
    }

    fn recovered_failure(&mut self, write: Recovered, error: Error, may_be_done: bool) {
        let write = self.recovered(write, None);
        self.to.failures.add(&write, error, may_be_done);
    }

    fn recovered(&self, write: Recovered, before: Option<StoredRow>) -> StagedWrite {
        let number = WriteNumber(write.write);
        let (ticket, _) = TicketSender::new(write.op.id(), self.to.write_rank, true);
        let key = Arc::from(write.key);
        let (op, at) = (write.op, write.accepted_at);
        StagedWrite { number, key, op, at, ticket, row_is_known: false, before: Mutex::new(before), is_recovered: true }
    }

    /// Shows a write of an earlier run again.
    fn restage(&mut self, mut write: Recovered, renamed: &HashMap<String, String>) -> Option<Arc<StagedWrite>> {
        let number = WriteNumber(write.write);
        if let Some(id) = write.op.id()
            && let Some(new) = renamed.get(id)
            && self.newest(id).is_ok_and(|row| row.is_none())
        {
            write.op = write.op.with_id(new);
        }
        self.to.writes.occupy();
        let shown = if matches!(write.op, WriteOp::DeleteAll) {
            let staged = self.recovered(write, None);
            let StagedWrite { op, ticket, at, key, .. } = staged;
            self.stage_all(NewWrite { op, ticket, at, room: None, key: None }, number, Some(key))
        } else {
            let id: Arc<str> = write.op.id().map_or_else(|| Arc::from(write.key.as_str()), Arc::from);
            let before = write.before.take().map(|record| StoredRow::encode(&id, &record, write.accepted_at));
            let staged = Arc::new(self.recovered(write, before));
            staged.ticket.number(number, Some(id.clone()));
            let placed = self.stack_of(&id).map(drop);
            self.push_layer(&id, &staged);
            placed.and_then(|()| self.reshow(&id, Cause::Local)).map(|()| staged)
        };
        match shown {
            Ok(write) => Some(write),
            Err(error) => {
                tracing::warn!(table = %self.to.table_name, write = number.0, %error, "an undelivered write could not be shown");
                self.to.writes.give_back(1);
                None
            }
        }
    }
}

/// A settled write on its way to being forgotten by the journal.
pub(super) struct Covering {
    /// The row that the cache is to hold; `None`: all rows.
    pub(super) id: Option<Arc<str>>,
    pub(super) number: WriteNumber,
    /// Whether the journal was told that no Seq covers it.
    pub(super) is_said: bool,
    /// The batch that showed it.
    pub(super) done_at: Seq,
}

/// The Seq of a confirmation that the cache has not been told of.
const NEVER: Seq = Seq(u64::MAX);
/// Settled writes after which the cache is synced, so that the journal may forget them, also while others are pending.
const SYNC_EVERY: usize = 1_024;

fn confirmed(id: Option<&str>, row: Option<StoredRow>, seq: Seq, covered_by: Seq) -> Outcome {
    let deleted = row.is_none();
    // A deleted row is told by an empty one, for its Seq; so are all rows.
    let mut row = row.unwrap_or_else(|| StoredRow::encode(id.unwrap_or_default(), &Record::new(), 0));
    row.set_seq(seq);
    Outcome::Confirmed(Confirmed { id: id.map(str::to_owned), row: Some(row), deleted, seq: covered_by })
}

/// The batch that showed a confirmation.
fn done_at(confirmed: &Confirmed) -> Seq {
    confirmed.row.as_ref().map_or(Seq(0), StoredRow::seq)
}
