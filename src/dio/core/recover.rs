//! Recover: what an earlier run left in the journal, taken in before the core's thread starts.
//!
//! Owner: the core.
//! Invariants: confirmed writes that the cache may not hold are applied again, as one batch and before all else; pending ones
//! are shown and delivered in their order; what can't be repeated safely is told as unknown.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Mutex;

use crate::dio::core::accept::{Covering, NEVER, done_at};
use crate::dio::core::{Announce, Core, NewWrite, RowChange, StagedWrite};
use crate::dio::event::Cause;
use crate::dio::ledger::MAY_BE_DONE;
use crate::dio::ticket::TicketSender;
use crate::journal::{Outcome, Recovered, RecoveredState, Replay};
use crate::value::StoredRow;
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Seq, WriteNumber};

impl Core {
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
    pub(super) fn reapply(&mut self, writes: Vec<Recovered>) -> HashMap<String, String> {
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

    pub(super) fn recovered_failure(&mut self, write: Recovered, error: Error, may_be_done: bool) {
        let write = self.recovered(write, None);
        self.to.failures.add(&write, error, may_be_done);
    }

    pub(super) fn recovered(&self, write: Recovered, before: Option<StoredRow>) -> StagedWrite {
        let number = WriteNumber(write.write);
        let (ticket, _) = TicketSender::new(write.op.id(), self.to.write_rank, true);
        let key = Arc::from(write.key);
        let (op, at) = (write.op, write.accepted_at);
        StagedWrite { number, key, op, at, ticket, row_is_known: false, before: Mutex::new(before), is_recovered: true }
    }

    /// Shows a write of an earlier run again.
    pub(super) fn restage(
        &mut self,
        mut write: Recovered,
        renamed: &HashMap<String, String>,
    ) -> Option<Arc<StagedWrite>> {
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
