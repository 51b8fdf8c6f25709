//! Hold: rows that a read has found new while the source has an insert whose row it names itself: each may be that row.
//!
//! Owner: the core.
//! Flow: the writer says that an insert goes to the source → rows of unknown ids that are read meanwhile wait here → the
//! insert is settled, or failed for now → the row of its answer has taken its place, and the others show, in one step.
//! Invariants: a row that the source made of an insert doesn't show beside it
//! (`w4_a_refresh_while_the_source_has_an_insert_shows_its_row_once`); a row is held for no insert that went to the source
//! after it was read (`w4_inserts_that_follow_each_other_don_t_keep_rows_from_showing`); none is lost.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::dio::JUST_NOW;
use crate::dio::core::{Apply, Core, RowChange, RowChanges};
use crate::dio::event::Cause;
use crate::dio::versions::Ahead;
use crate::value::StoredRow;
use crate::{Seq, WriteNumber};

/// A read of more changes than this shows at once: who waits for many rows waits for them rather than for one insert.
const MOST: usize = 1_024;

struct Held {
    row: StoredRow,
    cause: Cause,
    /// Where the read that found it began.
    began: Seq,
    /// The last insert that had gone to the source by then.
    last: u64,
    /// A later copy of the source may have been without it.
    is_doubtful: bool,
}

/// What waits for inserts that the source has.
#[derive(Default)]
pub(super) struct Hold {
    /// Inserts that went to the source, counted in that order.
    count: u64,
    /// Those that the source has.
    at_source: Vec<(u64, WriteNumber)>,
    rows: IndexMap<Arc<str>, Held>,
}

impl Hold {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The source may do this insert from now on.
    fn depart(&mut self, number: WriteNumber) {
        if self.at_source.iter().all(|(_, other)| *other != number) {
            self.count += 1;
            self.at_source.push((self.count, number));
        }
    }

    /// The rows that wait for no insert any more.
    fn due(&mut self) -> Vec<(Arc<str>, Held)> {
        let oldest = self.at_source.first().map_or(u64::MAX, |(count, _)| *count);
        self.rows.extract_if(.., |_, held| held.last < oldest).collect()
    }
}

impl Core {
    pub(super) fn at_source(&mut self, number: WriteNumber) {
        if self.pending.id_of(number).is_some() {
            self.hold.depart(number);
        }
    }

    /// Takes out of a read what may be the row of an insert that the source has.
    pub(super) fn hold_back(&mut self, apply: &mut Apply) {
        if self.hold.at_source.is_empty() {
            return;
        }
        if apply.full_copy.is_some() {
            self.hold.rows.values_mut().for_each(|held| held.is_doubtful = true);
        }
        if let RowChanges::First(rows, _) = &mut apply.changes
            && rows.len() <= MOST
        {
            let rows = std::mem::take(rows).into_iter();
            apply.changes = RowChanges::Each(rows.map(RowChange::Put).collect());
        }
        let RowChanges::Each(changes) = &mut apply.changes else { return };
        let began = match apply.began {
            Some(began) if self.complete && changes.len() <= MOST && !self.pending.has_clear() => began,
            _ => {
                for change in changes.iter() {
                    match (change, change.id()) {
                        (RowChange::Clear, _) => self.hold.rows.clear(),
                        (_, Some(id)) => drop(self.hold.rows.shift_remove(id)),
                        _ => {}
                    }
                }
                return;
            }
        };
        let began = if began == JUST_NOW { self.seq } else { began };
        let (cause, last) = (apply.cause, self.hold.count);
        let mut others = Vec::with_capacity(changes.len());
        for change in std::mem::take(changes) {
            match change {
                RowChange::Put(row) if self.is_unknown(row.id()) && !self.protection.blocks(row.id(), began) => {
                    let id: Arc<str> = Arc::from(row.id());
                    // Inserts that went to the source after it was found first have not made it.
                    let last = self.hold.rows.get(&id).map_or(last, |held| held.last);
                    self.hold.rows.insert(id, Held { row, cause, began, last, is_doubtful: false });
                }
                RowChange::Clear => {
                    self.hold.rows.clear();
                    others.push(RowChange::Clear);
                }
                change => {
                    if let RowChange::Delete(id) = &change {
                        self.hold.rows.shift_remove(id);
                    }
                    others.push(change);
                }
            }
        }
        apply.changes = RowChanges::Each(others);
    }

    fn is_unknown(&mut self, id: &str) -> bool {
        self.pending.stack(id).is_none() && self.newest(id).is_ok_and(|found| found.is_none())
    }

    /// The source has done an insert, as the row `stored`, or will not for now. What waited for it alone shows.
    pub(super) fn landed(&mut self, number: WriteNumber, stored: Option<&Arc<str>>) {
        let at_source = self.hold.at_source.len();
        self.hold.at_source.retain(|(_, other)| *other != number);
        if self.hold.at_source.len() == at_source {
            return;
        }
        if let Some(id) = stored
            && let Some(held) = self.hold.rows.shift_remove(id)
        {
            // Whoever read the row read it after it was made: the answer is no newer.
            self.show_held_row(id, held, None);
        }
        self.show_due();
    }

    /// Shows all that is held: nobody will say any more what the source has made of its inserts.
    pub(super) fn show_held(&mut self) {
        self.hold.at_source.clear();
        self.show_due();
    }

    fn show_due(&mut self) {
        for (id, held) in self.hold.due() {
            let began = held.began;
            self.show_held_row(&id, held, Some(began));
        }
    }

    fn show_held_row(&mut self, id: &Arc<str>, held: Held, began: Option<Seq>) {
        if held.is_doubtful || !self.protection.remembers(held.began) {
            (self.to.reread)(Some(id));
            return;
        }
        // The row of an insert that is confirmed changes with that.
        let cause = if began.is_some() { held.cause } else { Cause::Confirmed };
        self.batch().note_cause(cause);
        if let Err(error) = self.put(held.row, Ahead::default(), Some(cause), began) {
            tracing::warn!(table = %self.to.table_name, %id, %error, "a row that was held back could not be shown");
            (self.to.reread)(Some(id));
        }
    }
}
