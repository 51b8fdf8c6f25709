//! Publish: a batch that is complete, brought to everything that shows its rows.
//!
//! Flow: [`Core::commit`], or the end of a bulk → rows that came to nothing are undone → views and record views get new roots →
//! the Seq is published → the store, generations, events, tickets and replies.
//! Invariants: apply before publish before notify; what a batch replaced is let go of only after its Seq is published.
//!
//! Not here: how rows get into a batch (`batch`), how a view is brought up to it (`views`).

use std::sync::Arc;

use crate::cache::CacheOp;
use crate::dio::core::batch::OpenBatch;
use crate::dio::core::bulk::{MANY_REPLACED, Prepared, op_of, retain};
use crate::dio::core::{Changed, Core, Touched};
use crate::dio::event::{Cause, DioEvent};
use crate::dio::meta;
use crate::dio::store::StoreBatch;
use crate::dio::versions::{Ahead, Replaced};
use crate::scenery::record::RecordSlot;
use crate::scenery::snapshot::Gone;
use crate::value::StoredRow;
use crate::{RowNo, Seq};

/// A batch that is ready to be published.
pub(in crate::dio::core) struct Publication {
    pub(in crate::dio::core) batch: OpenBatch,
    pub(in crate::dio::core) changed: Arc<Changed>,
    pub(in crate::dio::core) causes: Vec<Option<Cause>>,
    /// For a bulk: the views as they will be, and what the store is to do.
    pub(in crate::dio::core) prepared: Option<(Prepared, Vec<CacheOp>)>,
}

impl Core {
    /// Publishes the open batch, if there is one.
    pub(in crate::dio::core) fn commit(&mut self) {
        let Some(mut batch) = self.batch.take() else { return };
        let (touched, causes) = self.really_touched(&mut batch);
        let changed = Arc::new(Changed { touched, fresh: batch.fresh.take() });
        self.publish_batch(Publication { batch, changed, causes, prepared: None });
    }

    pub(in crate::dio::core) fn publish_batch(&mut self, publication: Publication) {
        let Publication { mut batch, changed, causes, prepared } = publication;
        let seq = batch.seq;
        let state_before = (self.complete, self.stale_upto);
        if batch.stale_all {
            self.stale_upto = seq;
        }
        if batch.full_copy.is_some() {
            self.complete = true;
            if self.stale_upto <= batch.copy_began {
                self.stale_upto = Seq(0);
            }
        }
        let state_changed = state_before != (self.complete, self.stale_upto);
        let seeded = self.complete && !state_before.0;
        let visible = !changed.is_empty() || !batch.gone.is_empty() || batch.force || state_changed;
        let covered = self.covered(std::mem::take(&mut batch.covering));
        let mut gone = Gone::default();

        if visible {
            self.seq = seq;
            self.rows += changed.fresh.as_ref().map_or(0, |fresh| fresh.rows().len() as u64);
            for touched in &changed.touched {
                match (&touched.before, &touched.after) {
                    (None, Some(_)) => self.rows += 1,
                    (Some(_), None) => self.rows = self.rows.saturating_sub(1),
                    _ => {}
                }
            }
            let why = batch.why.flatten();
            let is_large = changed.touched.len() >= MANY_REPLACED;
            let (prepared, ops) = match prepared {
                Some((prepared, ops)) => (Some(prepared), ops),
                None => {
                    let mut ops = Vec::with_capacity(changed.touched.len());
                    ops.extend(self.confirmed(&changed.touched).map(op_of));
                    (None, ops)
                }
            };
            self.views.note_answers(&batch.answered);
            let moved = self.views.publish(&changed, seq, (self.complete, self.stale_upto), why, prepared);
            let records = self.publish_records(&changed, &batch.shown_anew, seq, state_changed);
            // The count may be ahead of the rows for a moment, `complete` never: a part would pass for the whole.
            self.to.board.batch(self.rows, changed.len(), self.views.asked);
            tracing::debug!(table = %self.to.table_name, seq = seq.0, changed = changed.len(), rows = self.rows, "batch");
            self.to.versions.publish(seq);
            self.to.board.set_table(seq, self.rows, self.complete, batch.full_copy);
            self.store(ops, &batch, seq);
            gone = moved.advance();
            self.run_customs();
            for slot in records {
                slot.advance();
            }
            if is_large {
                self.supersede(&[], Vec::new(), &batch.tombstones, seq);
                self.supersede_elsewhere(changed.clone(), batch.renamed, seq);
            } else {
                self.supersede(&changed.touched, batch.renamed, &batch.tombstones, seq);
            }
            self.protection.prune(self.to.board.oldest_read().unwrap_or(seq));
            self.announce(&changed, &causes, batch.once, batch.stale_all, seq);
        } else if batch.full_copy.is_some() {
            self.store(Vec::new(), &batch, self.seq);
            self.to.board.set_table(self.seq, self.rows, self.complete, batch.full_copy);
        }
        let seq = self.seq;
        if seeded {
            self.end_all_waiting();
            self.to.events.publish(DioEvent::Seeded { seq });
        }
        self.cover(&covered, seq);
        for (write, result) in batch.settled {
            self.tell(&write, result, seq);
        }
        self.hand_on(batch.staged, seq);
        for (reply, result) in batch.replies {
            reply.send(result.map(|()| seq));
        }
        // Nobody waits for it.
        self.throw_away(gone);
    }

    /// The rows that differ after the batch, with the causes of their events; what came back to where it was is undone.
    pub(in crate::dio::core) fn really_touched(&self, batch: &mut OpenBatch) -> (Vec<Touched>, Vec<Option<Cause>>) {
        let mut touched = std::mem::take(&mut batch.touched);
        let mut causes = std::mem::take(&mut batch.causes);
        let known = std::mem::take(&mut batch.differs);
        let (seq, versions) = (batch.seq, &self.to.versions);
        let differs = |(touched, known): (&Touched, &bool)| match (&touched.before, &touched.after) {
            (Some(before), Some(after)) => *known || !before.shows_as(after),
            (None, None) => false,
            _ => true,
        };
        let differs: Vec<bool> = touched.iter().zip(&known).map(differs).collect();
        if differs.iter().all(|differs| *differs) {
            return (touched, causes);
        }
        for (touched, differs) in touched.iter().zip(&differs) {
            if !differs && touched.after.is_some() {
                versions.unput(touched.row, seq);
            }
        }
        retain(&mut touched, &differs);
        retain(&mut causes, &differs);
        (touched, causes)
    }

    fn store(&self, mut ops: Vec<CacheOp>, batch: &OpenBatch, seq: Seq) {
        let Ok(table) = self.to.versions.table() else { return };
        let gone = batch.gone.iter().map(|(row, id)| CacheOp::Delete { row: *row, id: id.clone() });
        ops.splice(0..0, gone);
        let mut table_meta =
            vec![(meta::SEQ.to_owned(), meta::number(seq.0)), (meta::NEXT_ROW.to_owned(), meta::number(self.next_row))];
        // What is held back is missing in the cache, which is not to pass for as new as this copy.
        if let Some(copy) = batch.full_copy.filter(|_| self.hold.is_empty()) {
            table_meta.push((meta::COMPLETE.to_owned(), meta::number(1)));
            table_meta.push((meta::LAST_REFRESH.to_owned(), meta::number(copy.at.max(0) as u64)));
            table_meta.push((meta::TOTAL.to_owned(), copy.total.and_then(meta::number)));
        }
        let versions = self.to.versions.clone();
        self.to.store.put(StoreBatch {
            table,
            versions,
            seq,
            fresh: None,
            is_load: batch.is_load,
            ops,
            meta: table_meta,
        });
    }

    /// The rows that show what is confirmed: the store has no others.
    pub(in crate::dio::core) fn confirmed<'a>(&'a self, touched: &'a [Touched]) -> impl Iterator<Item = &'a Touched> {
        touched.iter().filter(|touched| !self.pending.holds_row(touched.row))
    }

    fn supersede(&self, touched: &[Touched], renamed: Vec<Arc<str>>, tombstones: &[(RowNo, Seq)], seq: Seq) {
        let buried = tombstones.iter().map(|(row, from)| Replaced::Row { row: *row, from: *from, size: 0 });
        let rows = touched.iter().filter_map(Touched::replaced);
        self.to.versions.supersede(seq, rows.chain(buried).chain(renamed.into_iter().map(Replaced::Id)));
    }

    fn publish_records(
        &self,
        changed: &Changed,
        shown_anew: &[Arc<str>],
        seq: Seq,
        state_changed: bool,
    ) -> Vec<Arc<RecordSlot>> {
        let mut moved = Vec::new();
        if self.records.is_empty() {
            return moved;
        }
        for (row_no, before, after) in changed.iter() {
            let Some(id) = after.or(before).map(StoredRow::id) else { continue };
            for slot in self.records.get(id).into_iter().flatten() {
                if slot.show(Ok(after.map(|row| (row_no, row.clone()))), seq) {
                    moved.push(slot.clone());
                }
            }
        }
        for id in shown_anew {
            for slot in self.records.get(id).into_iter().flatten() {
                if slot.show(self.look_up(id, Ahead::default()), seq) {
                    moved.push(slot.clone());
                }
            }
        }
        if state_changed {
            for slot in self.records.values().flatten() {
                // One step, though it was shown anew above.
                if slot.set_stale(self.stale_upto) && !moved.iter().any(|other| Arc::ptr_eq(other, slot)) {
                    moved.push(slot.clone());
                }
            }
        }
        // A row that was deleted and came again, or that became stale too, moves its views once all the same.
        moved.sort_unstable_by_key(|slot| Arc::as_ptr(slot).addr());
        moved.dedup_by(|a, b| Arc::ptr_eq(a, b));
        moved
    }

    fn announce(&self, changed: &Changed, causes: &[Option<Cause>], once: Option<Cause>, all: bool, seq: Seq) {
        let touched = &changed.touched;
        if let Some(cause) = once
            && (all || changed.fresh.is_some() || causes.iter().any(Option::is_none))
        {
            self.to.events.publish(DioEvent::Invalidated { seq, cause });
        }
        if causes.iter().all(Option::is_none) {
            return;
        }
        for (touched, cause) in touched.iter().zip(causes) {
            let Some(cause) = *cause else { continue };
            let id: Arc<str> = Arc::from(touched.id());
            self.to.events.publish(match (&touched.before, &touched.after) {
                (None, Some(_)) => DioEvent::RecordInserted { id, seq, cause },
                (Some(_), Some(_)) => DioEvent::RecordChanged { id, seq, cause },
                (Some(_), None) => DioEvent::RecordRemoved { id, seq, cause },
                (None, None) => continue,
            });
        }
    }
}
