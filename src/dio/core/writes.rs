//! Writes: how the core shows a write at once, and what it makes of the source's answer.
//!
//! Owner: the core.
//! Flow: [`Core::stage`] folds a write over its row → the commit shows it and hands it on for delivery → [`Core::settle`]
//! takes it off again: over a new confirmed value, or over the old one.
//! Invariants: a row with pending writes is never handed to the cache; what the source did under another id is shown once.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::dio::core::accept::Covering;
use crate::dio::core::pending::{Clear, Layer, Stack};
use crate::dio::core::{Core, NewWrite, SettledAs, StagedWrite};
use crate::dio::event::Cause;
use crate::dio::place::Place;
use crate::dio::ticket::TicketSender;
use crate::journal::Reservation;
use crate::value::StoredRow;
use crate::vista::WriteOp;
use crate::{Error, Result, RowNo, Seq, WriteNumber};

/// A row and its number.
type Found = (RowNo, StoredRow);

impl Core {
    // ---- staging -----------------------------------------------------------------------------------------------

    pub(super) fn stage(&mut self, mut new: Vec<NewWrite>) {
        new.iter_mut().filter_map(|write| write.place.as_mut()).for_each(Place::hand_over);
        self.publish_first_load();
        let mut new = new.into_iter();
        let mut shown: Vec<(Arc<StagedWrite>, Option<Reservation>)> = Vec::new();
        while let Some(mut write) = new.next() {
            let room = write.room.take();
            let number = self.next_write;
            let staged = match &write.op {
                WriteOp::DeleteAll => match self.rows_to_hide() {
                    Ok(rows) => Ok(self.stage_all(write, number, None, rows)),
                    Err(error) => {
                        self.refuse(&write.ticket, error.clone());
                        Err(error)
                    }
                },
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
    pub(super) fn take_back(&mut self, write: &StagedWrite) {
        if matches!(*write.op, WriteOp::DeleteAll) {
            let _ = self.settle_all(write, SettledAs::Cancelled);
        } else if let Some(id) = self.pending.id_of(write.number) {
            self.pending.forget(write.number);
            self.take_layer(&id, write.number);
            self.show_again(&id, Cause::RolledBack);
        }
    }

    pub(super) fn refuse(&self, ticket: &TicketSender, error: Error) {
        ticket.refuse(error.with("table", self.to.table_name.to_string()));
        self.to.writes.give_back(1);
    }

    pub(super) fn stage_row(&mut self, new: NewWrite, number: WriteNumber) -> Result<Arc<StagedWrite>> {
        let NewWrite { op, ticket, at, key, .. } = new;
        let unstaged = op.id().map_or(Ok(()), |id| self.unstage(id));
        let prepared = unstaged.and_then(|()| self.row_of(op, key.as_ref())).and_then(|(id, op, found)| {
            let before = match found.filter(|_| !self.unhides(&id) && self.pending.stack(&id).is_none()) {
                // A row without pending writes shows what was found.
                Some((row, stored)) => {
                    self.stack_over(&id, Some((row, stored.clone())));
                    Some(stored)
                }
                None => {
                    self.stack_of(&id)?;
                    self.shown_now(&id)?
                }
            };
            let is_known = self.pending.stack(&id).is_some_and(|stack| stack.base.is_some() || stack.makes_a_row());
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
            op: Arc::new(op),
            at,
            ticket,
            row_is_known,
            before: Mutex::new(before.clone()),
            is_recovered: false,
        });
        self.push_layer(&id, &write);
        if let Err(error) = self.show(&id, before, Cause::Local) {
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
    /// first id, too. A row that the source is to name goes by an id of ours until then. With the row of that id, if it was
    /// looked for and found.
    pub(super) fn row_of(&self, op: WriteOp, key: Option<&Arc<str>>) -> Result<(Arc<str>, WriteOp, Option<Found>)> {
        let Some(id) = op.id() else {
            if let Some(key) = key
                && self.pending.stack(key).is_none()
                && self.to.versions.lookup_newest(key)?.is_none()
            {
                return Ok((key.clone(), op, None));
            }
            return Ok((Arc::from(uuid::Uuid::now_v7().to_string()), op, None));
        };
        if self.pending.stack(id).is_none()
            && let Some(row) = self.to.versions.lookup_newest(id)?
            && let Some(stored) = self.to.versions.row_newest(row)?
        {
            if stored.id() != id {
                let op = op.with_id(stored.id());
                return Ok((Arc::from(stored.id()), op, None));
            }
            return Ok((Arc::from(id), op, Some((row, stored))));
        }
        Ok((Arc::from(id), op, None))
    }

    /// The stack of this row, a new one if there is none.
    pub(super) fn stack_of(&mut self, id: &Arc<str>) -> Result<&mut Stack> {
        self.unhides(id);
        let found = if self.pending.stack(id).is_none() { self.newest(id)? } else { None };
        Ok(self.stack_over(id, found))
    }

    /// The stack of this row, which is not hidden; a new one over the row as it was found if there is none.
    pub(super) fn stack_over(&mut self, id: &Arc<str>, found: Option<Found>) -> &mut Stack {
        let next = RowNo(self.next_row);
        let (row, base) = found.map_or((next, None), |(row, base)| (row, Some(base)));
        let stack = self.pending.stack_over(id, row, base);
        if stack.row == next {
            self.next_row += 1;
        }
        stack
    }

    pub(super) fn new_row(&mut self) -> RowNo {
        let row = RowNo(self.next_row);
        self.next_row += 1;
        row
    }

    pub(super) fn key(&self, number: WriteNumber) -> Arc<str> {
        Arc::from(format!("{}-{number}", self.to.key_prefix))
    }

    pub(super) fn push_layer(&mut self, id: &Arc<str>, write: &Arc<StagedWrite>) {
        self.pending.note(write.number, id.clone());
        if let Some(stack) = self.pending.stack_mut(id) {
            stack.push(Layer::Write(write.clone()));
        }
    }

    /// All rows, for a `delete_all` to hide them.
    pub(super) fn rows_to_hide(&mut self) -> Result<Vec<(RowNo, StoredRow)>> {
        // The scan reads published rows.
        self.finish_bulk();
        self.commit();
        let mut rows = Vec::new();
        let pin = self.to.versions.pin_to_read();
        self.to.versions.scan(&pin, &mut |row_no, row| {
            rows.push((row_no, row.clone()));
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    }

    /// Hides these rows, which are [`rows_to_hide`](Self::rows_to_hide). `key`: the one it had in an earlier run.
    pub(super) fn stage_all(
        &mut self,
        new: NewWrite,
        number: WriteNumber,
        key: Option<Arc<str>>,
        rows: Vec<(RowNo, StoredRow)>,
    ) -> Arc<StagedWrite> {
        let NewWrite { op, ticket, at, key: given, .. } = new;
        let is_recovered = key.is_some();
        let key = key.or(given).unwrap_or_else(|| self.key(number));
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
        let (op, before) = (Arc::new(op), Mutex::new(None));
        Arc::new(StagedWrite { number, key, op, at, ticket, row_is_known: true, before, is_recovered })
    }

    // ---- showing -----------------------------------------------------------------------------------------------

    /// Has a row show its confirmed value with its pending writes folded over it.
    pub(super) fn reshow(&mut self, id: &Arc<str>, cause: Cause) -> Result<()> {
        let before = self.shown_now(id)?;
        self.show(id, before, cause)
    }

    /// What a row with pending writes shows, in the open batch.
    pub(super) fn shown_now(&self, id: &str) -> Result<Option<StoredRow>> {
        match self.pending.stack(id) {
            // The cache may still have one that is hidden.
            Some(stack) if stack.tombstone.is_none() => self.to.versions.row_newest(stack.row),
            _ => Ok(None),
        }
    }

    /// [`reshow`](Self::reshow) for a row that shows `before`.
    pub(super) fn show(&mut self, id: &Arc<str>, before: Option<StoredRow>, cause: Cause) -> Result<()> {
        let Some(stack) = self.pending.stack(id) else { return Ok(()) };
        let (row, tombstone) = (stack.row, stack.tombstone);
        let after = stack.shown(id, self.to.id_column.as_deref())?;
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
    pub(super) fn show_again(&mut self, id: &Arc<str>, cause: Cause) {
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
    pub(super) fn release(&mut self, id: &Arc<str>) {
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
    pub(super) fn bury(&mut self, row: RowNo, id: Arc<str>, since: Seq) {
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
}
