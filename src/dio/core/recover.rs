//! Recover: what an earlier run left in the journal, taken in before the core's thread starts.
//!
//! Owner: the core.
//! Invariants: confirmed writes that the cache may not hold are applied again, as one batch and before all else; pending ones
//! are shown and delivered in their order; what can't be repeated safely is told as unknown. If the cache can't be read, the
//! Dio can't be made, and the journal keeps all of it (`whatever_call_of_the_storage_fails_no_accepted_write_is_lost`).

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Mutex;

use crate::dio::core::accept::{Covering, NEVER, done_at};
use crate::dio::core::pending::Stack;
use crate::dio::core::{Announce, Core, NewWrite, RowChange, StagedWrite};
use crate::dio::delivery::Outcome as Attempted;
use crate::dio::event::Cause;
use crate::dio::ledger::MAY_BE_DONE;
use crate::dio::ticket::TicketSender;
use crate::journal::{Confirmed, Outcome, Recovered, RecoveredState, Replay};
use crate::value::StoredRow;
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, Seq, WriteNumber};

impl Core {
    /// Takes in what the journal kept of earlier runs: confirmed writes that the cache may not hold are applied again, pending
    /// ones are shown again, and go on to the source. Before the thread starts.
    ///
    /// # Errors
    /// Why the cache can't be read. A damaged row in it is none: the next refresh brings that again.
    pub(crate) fn recover(&mut self, replay: Replay) -> Result<()> {
        self.next_write = WriteNumber(replay.next_write.max(1));
        // What is done from now on is newer than all that was done before.
        let newest = replay.writes.iter().filter_map(|write| match &write.state {
            RecoveredState::Confirmed(confirmed) => {
                Some(if confirmed.seq == NEVER { done_at(confirmed) } else { confirmed.seq })
            }
            _ => None,
        });
        self.seq = newest.fold(self.seq, Seq::max);
        let mut rest = replay.writes;
        let ended = Ended::of(&rest);
        let confirmed = rest.extract_if(.., |write| matches!(write.state, RecoveredState::Confirmed(_))).collect();
        let renamed = self.reapply(confirmed)?;
        let mut pending = Vec::with_capacity(rest.len());
        for write in rest {
            match &write.state {
                RecoveredState::Confirmed(_) => {}
                RecoveredState::Failed { kind, message } => {
                    let error = Error::new(*kind, message.clone());
                    let may_be_done = Attempted::may_be_done(&error);
                    self.recovered_failure(write, error, may_be_done);
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
        self.name_back(&mut pending)?;
        self.pending.reserve(pending.len());
        self.batch().reserve(pending.len());
        let restaged = pending.into_iter().map(|write| self.restage(write, &renamed, &ended));
        let shown = restaged.collect::<Result<Vec<Arc<StagedWrite>>>>()?;
        self.commit();
        shown.iter().for_each(|write| write.ticket.durable());
        for (by, superseded) in self.to.writes.take_in(&shown) {
            self.supersede_writes(superseded, by);
        }
        self.to.board.set_pending(self.pending.writes());
        Ok(())
    }

    /// Applies confirmed writes again, as one batch. Gives back which rows the source has named otherwise.
    fn reapply(&mut self, writes: Vec<Recovered>) -> Result<HashMap<String, String>> {
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
            self.unless_damaged(scanned, "rows that were deleted may show until the next refresh")?;
        }
        for (id, (row, seq)) in rows {
            // What the cache has stored since is newer.
            let found = self.newest(&id).map(|found| found.is_some_and(|(_, found)| found.seq() > seq));
            if self.unless_damaged(found, DAMAGED)? == Some(true) {
                continue;
            }
            changes.push(match row {
                Some(row) => RowChange::Put(row),
                None => RowChange::Delete(Arc::from(id)),
            });
        }
        for change in changes {
            let applied = self.apply_changes(vec![change], Cause::Confirmed, Announce::Nothing, None);
            self.unless_damaged(applied, DAMAGED)?;
        }
        if covering.is_empty() {
            return Ok(renamed);
        }
        self.batch().force = true;
        self.commit();
        if let Some(journal) = self.to.ledger.journal() {
            for covering in &covering {
                journal.reapplied(covering.number.0, self.seq);
            }
        }
        self.cover(&covering, self.seq);
        Ok(renamed)
    }

    /// What came of it; `None` if it met a damaged row, which is told.
    fn unless_damaged<T>(&self, result: Result<T>, consequence: &str) -> Result<Option<T>> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(table = %self.to.table_name, %error, "{consequence}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn recovered_failure(&mut self, write: Recovered, error: Error, may_be_done: bool) {
        let write = self.recovered(write, None);
        self.to.failures.add(&write, error, may_be_done);
    }

    fn recovered(&self, write: Recovered, before: Option<StoredRow>) -> StagedWrite {
        let number = WriteNumber(write.write);
        let (ticket, _) = TicketSender::new(write.op.id(), self.to.write_rank, true);
        let key = Arc::from(write.key);
        let (op, at) = (Arc::new(write.op), write.accepted_at);
        StagedWrite { number, key, op, at, ticket, row_is_known: false, before: Mutex::new(before), is_recovered: true }
    }

    /// A row with writes that is damaged in the cache counts as one that isn't there, and is read again after them.
    fn bury_damaged(&mut self, id: &Arc<str>) -> Result<()> {
        let known = self.to.versions.lookup_newest(id)?;
        let row = known.unwrap_or_else(|| self.new_row());
        let mut stack = Stack::new(row, None);
        stack.missed = true;
        if known.is_some() {
            let seq = self.batch().seq;
            self.to.versions.put(row, seq, None, None);
            self.to.versions.name(id, seq, known, None);
            let batch = self.batch();
            batch.renamed.push(id.clone());
            batch.force = true;
            (stack.was_known, stack.tombstone) = (true, Some(seq));
        }
        self.pending.add(id.clone(), stack);
        Ok(())
    }

    /// The journal may have the name that the source gave an inserted row, with later writes of that row, and not the end of
    /// the insert. Such writes go by the insert's own name until that is settled again; they would be of a row unknown here.
    fn name_back(&mut self, pending: &mut [Recovered]) -> Result<()> {
        let inserts: HashSet<String> = pending.iter().filter_map(proposed_by_insert).map(str::to_owned).collect();
        let mut names: HashMap<String, String> = HashMap::new();
        for write in &*pending {
            let (Some(new), Some(before)) = (write.op.id(), &write.before) else { continue };
            let old = before.0.id();
            if old == new || !inserts.contains(old) {
                continue;
            }
            let found = self.newest(new).map(|found| found.is_some());
            if self.unless_damaged(found, DAMAGED)? == Some(false) {
                names.insert(new.to_owned(), old.to_owned());
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        for write in pending {
            if let Some(old) = write.op.id().and_then(|id| names.get(id)) {
                write.op = write.op.clone().with_id(old);
            }
        }
        Ok(())
    }

    /// Shows a write of an earlier run again.
    fn restage(
        &mut self,
        mut write: Recovered,
        renamed: &HashMap<String, String>,
        ended: &Ended,
    ) -> Result<Arc<StagedWrite>> {
        let number = WriteNumber(write.write);
        if let Some(id) = write.op.id()
            && let Some(new) = renamed.get(id)
            && self.newest(id).is_ok_and(|row| row.is_none())
        {
            write.op = write.op.with_id(new);
        }
        if matches!(write.op, WriteOp::DeleteAll) {
            let found = self.rows_to_hide();
            let rows = self.unless_damaged(found, "rows that are to be deleted show until then")?.unwrap_or_default();
            let StagedWrite { ticket, at, key, .. } = self.recovered(write, None);
            let new = NewWrite { place: None, op: WriteOp::DeleteAll, ticket, at, room: None, key: None };
            return Ok(self.stage_all(new, number, Some(key), rows));
        }
        let id: Arc<str> = write.op.id().map_or_else(|| Arc::from(write.key.as_str()), Arc::from);
        let before = write.before.take().map(|before| before.0);
        let staged = Arc::new(self.recovered(write, before));
        staged.ticket.number(number, Some(id.clone()));
        let is_first = self.pending.stack(&id).is_none();
        let placed = self.stack_of(&id).map(|stack| stack.tombstone.is_none().then(|| stack.base.clone()));
        let base = match self.unless_damaged(placed, DAMAGED)? {
            Some(base) => {
                let base = base.filter(|_| is_first);
                if let Some(base) = base.as_ref().filter(|_| ended.concerns(&id)) {
                    // The journal has what was shown, as if the writes before it were done as they were made
                    // (`a_write_of_ones_own_that_was_refused_in_the_last_run_is_not_somebody_elses_change`).
                    staged.before.lock().clone_from(base);
                }
                base
            }
            None => {
                self.bury_damaged(&id)?;
                Some(None)
            }
        };
        self.push_layer(&id, &staged);
        let shown = match base {
            // Without other writes a row shows what is confirmed.
            Some(base) => self.show(&id, base, Cause::Local),
            None => self.reshow(&id, Cause::Local),
        };
        self.unless_damaged(shown, DAMAGED)?;
        Ok(staged)
    }
}

/// The rows of which the journal has writes that are not pending any more.
#[derive(Default)]
struct Ended {
    rows: HashSet<String>,
    all: bool,
}

impl Ended {
    fn of(writes: &[Recovered]) -> Self {
        let mut ended = Ended::default();
        for write in writes.iter().filter(|write| !matches!(write.state, RecoveredState::Pending)) {
            ended.all |= matches!(write.op, WriteOp::DeleteAll);
            ended.rows.insert(write.op.id().unwrap_or(&write.key).to_owned());
            if let RecoveredState::Confirmed(Confirmed { id: Some(id), .. }) = &write.state {
                ended.rows.insert(id.clone());
            }
        }
        ended
    }

    fn concerns(&self, id: &str) -> bool {
        self.all || self.rows.contains(id)
    }
}

/// The id that the row of an insert goes by until the source has it.
fn proposed_by_insert(write: &Recovered) -> Option<&str> {
    matches!(write.op, WriteOp::Insert { .. }).then(|| write.op.id().unwrap_or(&write.key))
}

/// What a damaged row in the cache means for a write of it.
const DAMAGED: &str = "a write of an earlier run doesn't show until its damaged row is read again";
