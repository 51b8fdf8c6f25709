//! Batch: row changes on their way from messages to everything that shows them.
//!
//! Flow: [`Core::apply`], and staging and settling (`writes`), add to the open batch → [`Core::commit`] publishes it.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::cache::CacheOp;
use crate::dio::JUST_NOW;
use crate::dio::cache_handle::check_id;
use crate::dio::core::bulk::{MANY_REPLACED, Prepared, op_of, retain};
use crate::dio::core::{
    Announce, Apply, Changed, Core, FullCopy, RowChange, RowChanges, SettledAs, StagedWrite, Touched, accept::Covering,
};
use crate::dio::event::{Cause, DioEvent};
use crate::dio::fresh::{FreshRows, IdIndex};
use crate::dio::meta;
use crate::dio::queries::Question;
use crate::dio::store::StoreBatch;
use crate::dio::versions::{Replaced, RowMap};
use crate::journal::Reservation;
use crate::scenery::snapshot::Gone;
use crate::sync::ReplySender;
use crate::value::StoredRow;
use crate::{Error, ErrorKind, Result, RowNo, Seq};

/// Row changes that will be published together.
pub(crate) struct OpenBatch {
    pub(super) seq: Seq,
    pub(super) touched: Vec<Touched>,
    fresh: Option<Arc<FreshRows>>,
    /// For each touched row the cause of its own event; `None` when an event for all covers it.
    causes: Vec<Option<Cause>>,
    /// For each touched row whether it is known to differ from what it was; else it is compared at the end.
    differs: Vec<bool>,
    pub(super) by_row: RowMap<usize>,
    /// Rows of which nothing shows, before and after the batch, but that the store is to delete, and memory to forget.
    pub(super) gone: Vec<(RowNo, Arc<str>)>,
    /// Ids whose meaning changed.
    pub(super) renamed: Vec<Arc<str>>,
    /// Rows that record views go over to.
    pub(super) shown_anew: Vec<Arc<str>>,
    /// The cause of the one `Invalidated` that covers the rows without an event of their own.
    once: Option<Cause>,
    /// Why the batch changes rows: `None` so far, then the cause, if there is one for all.
    why: Option<Option<Cause>>,
    /// A new Seq even if no row changed.
    pub(super) force: bool,
    full_copy: Option<FullCopy>,
    /// Where the read behind the full copy began: what was invalidated since is still stale.
    copy_began: Seq,
    pub(super) replies: Vec<(ReplySender<Result<Seq>>, Result<()>)>,
    /// Writes that this batch shows.
    pub(super) staged: Vec<(Arc<StagedWrite>, Option<Reservation>)>,
    pub(super) settled: Vec<(Arc<StagedWrite>, SettledAs)>,
    /// Settled writes whose rows the cache hears of with this batch, if nothing else is pending on them.
    pub(super) covering: Vec<Covering>,
    /// Rows whose memory of being deleted is replaced, with the Seq at which that version began.
    pub(super) tombstones: Vec<(RowNo, Seq)>,
    stale_all: bool,
    /// Questions to the source that it answers.
    answered: Vec<Arc<Question>>,
    /// It has changes of very many rows.
    is_load: bool,
}

impl OpenBatch {
    pub(super) fn new(seq: Seq) -> Self {
        OpenBatch {
            seq,
            touched: Vec::new(),
            fresh: None,
            causes: Vec::new(),
            differs: Vec::new(),
            by_row: RowMap::default(),
            gone: Vec::new(),
            renamed: Vec::new(),
            shown_anew: Vec::new(),
            once: None,
            why: None,
            force: false,
            full_copy: None,
            copy_began: Seq(0),
            replies: Vec::new(),
            staged: Vec::new(),
            settled: Vec::new(),
            covering: Vec::new(),
            tombstones: Vec::new(),
            stale_all: false,
            answered: Vec::new(),
            is_load: false,
        }
    }

    /// The batch of a bulk change, which has it for itself.
    pub(super) fn of_bulk(
        seq: Seq,
        cause: Cause,
        announce: Announce,
        reply: Option<ReplySender<Result<Seq>>>,
        answered: Option<Arc<Question>>,
    ) -> Self {
        let mut batch = OpenBatch::new(seq);
        batch.is_load = true;
        batch.note_cause(cause);
        if announce == Announce::Once {
            batch.once = Some(cause);
        }
        batch.replies.extend(reply.map(|reply| (reply, Ok(()))));
        batch.answered.extend(answered);
        batch
    }

    /// A bulk change is all in, or failed.
    pub(super) fn end_of_bulk(&mut self, failure: Option<Error>, full_copy: Option<FullCopy>, began: Option<Seq>) {
        match failure {
            Some(error) => {
                self.replies.iter_mut().for_each(|(_, result)| *result = Err(error.clone()));
                self.answered.clear();
            }
            None => self.full_copy = full_copy,
        }
        self.copy_began = began.unwrap_or(self.seq);
    }

    /// Makes room for so many rows.
    pub(super) fn reserve(&mut self, rows: usize) {
        self.touched.reserve(rows);
        self.causes.reserve(rows);
        self.differs.reserve(rows);
        self.by_row.reserve(rows);
    }

    /// Whether it put rows that it deleted again.
    pub(super) fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    pub(super) fn note_cause(&mut self, cause: Cause) {
        let mixed = self.why.is_some_and(|noted| noted != Some(cause));
        self.why = Some((!mixed).then_some(cause));
    }

    pub(super) fn touch(
        &mut self,
        row: RowNo,
        before: Option<StoredRow>,
        after: Option<StoredRow>,
        cause: Option<Cause>,
    ) {
        match self.by_row.get(&row) {
            Some(position) => {
                self.touched[*position].after = after;
                self.causes[*position] = cause.or(self.causes[*position]);
                self.differs[*position] = false;
            }
            None => {
                self.by_row.insert(row, self.touched.len());
                self.touched.push(Touched { row, before, after });
                self.causes.push(cause);
                self.differs.push(false);
            }
        }
    }

    /// Touches a row that was found to differ from `before`.
    fn touch_differing(
        &mut self,
        row: RowNo,
        before: Option<StoredRow>,
        after: Option<StoredRow>,
        cause: Option<Cause>,
    ) {
        let rows = self.touched.len();
        self.touch(row, before, after, cause);
        if let Some(differs) = self.differs.get_mut(rows) {
            *differs = true;
        }
    }
}

/// A batch that is ready to be published.
pub(super) struct Publication {
    pub(super) batch: OpenBatch,
    pub(super) changed: Arc<Changed>,
    pub(super) causes: Vec<Option<Cause>>,
    /// For a bulk: the views as they will be, and what the store is to do.
    pub(super) prepared: Option<(Prepared, Vec<CacheOp>)>,
}

impl Core {
    pub(super) fn batch(&mut self) -> &mut OpenBatch {
        let seq = self.seq.next();
        self.batch.get_or_insert_with(|| OpenBatch::new(seq))
    }

    /// A first load is published before anything else is judged by the number of rows: its store may have let it go by then.
    pub(super) fn publish_first_load(&mut self) {
        if self.batch.as_ref().is_some_and(|batch| batch.fresh.is_some()) {
            self.commit();
        }
    }

    pub(super) fn apply(&mut self, apply: Apply) {
        self.publish_first_load();
        let Apply { changes, cause, announce, began, full_copy, reply, at_once: _ } = apply;
        let is_load = changes.len() >= self.to.bulk_changes;
        let result = match began {
            Some(began) if !self.protection.remembers(began) => {
                Err(Error::new(ErrorKind::Expired, "too much was written since this read began; read the source again"))
            }
            _ => match changes {
                RowChanges::Each(changes) => self.apply_changes(changes, cause, announce, began),
                RowChanges::First(rows, by_id) => self.apply_first(rows, by_id, cause, announce, began),
            },
        };
        let batch = self.batch();
        batch.is_load |= is_load;
        if result.is_ok() && full_copy.is_some() {
            batch.note_cause(cause);
            batch.full_copy = full_copy;
            batch.copy_began = began.unwrap_or(batch.seq);
        }
        if let Some(reply) = reply {
            batch.replies.push((reply, result));
        } else if let Err(error) = result {
            tracing::warn!(table = %self.to.table_name, %error, "a change of rows could not be applied");
        }
    }

    /// [`apply`](Self::apply) of the rows that answer a question.
    pub(super) fn apply_answer(&mut self, apply: Apply, question: Arc<Question>) {
        self.apply(apply);
        let batch = self.batch();
        if matches!(batch.replies.last(), Some((_, Ok(())))) {
            batch.answered.push(question);
        }
    }

    /// A first load, as one block if the table is as empty as its sender thought.
    fn apply_first(
        &mut self,
        rows: Vec<StoredRow>,
        by_id: IdIndex,
        cause: Cause,
        announce: Announce,
        began: Option<Seq>,
    ) -> Result<()> {
        let untouched = self.batch.as_ref().is_none_or(|batch| batch.touched.is_empty());
        let unprotected = self.pending.is_empty() && began.is_none_or(|began| !self.protection.blocks_any(began));
        if self.rows > 0 || !untouched || !unprotected || rows.is_empty() || !self.to.versions.is_all_stored() {
            return self.apply_changes(rows.into_iter().map(RowChange::Put).collect(), cause, announce, began);
        }
        let seq = self.batch().seq;
        let fresh = FreshRows::new(seq, RowNo(self.next_row), rows, by_id);
        self.next_row += fresh.rows().len() as u64;
        self.to.versions.add_fresh(fresh.clone());
        // The rows replace nothing that anyone could want to read, so the disk may have them before the views do.
        self.store_fresh(&fresh);
        let batch = self.batch();
        batch.fresh = Some(fresh);
        batch.note_cause(cause);
        if announce != Announce::Nothing {
            batch.once = Some(cause);
        }
        Ok(())
    }

    pub(super) fn apply_changes(
        &mut self,
        changes: Vec<RowChange>,
        cause: Cause,
        announce: Announce,
        began: Option<Seq>,
    ) -> Result<()> {
        let own_event = (announce == Announce::EachRow).then_some(cause);
        if announce == Announce::Once {
            self.batch().once = Some(cause);
        }
        if changes.is_empty() {
            return Ok(());
        }
        let batch = self.batch();
        batch.note_cause(cause);
        batch.reserve(changes.len());
        let result = changes.into_iter().try_for_each(|change| self.apply_change(change, own_event, began));
        // `clear` publishes what was open and begins another batch.
        let batch = self.batch();
        batch.note_cause(cause);
        if announce == Announce::Once {
            batch.once = Some(cause);
        }
        result
    }

    pub(super) fn apply_change(&mut self, change: RowChange, cause: Option<Cause>, began: Option<Seq>) -> Result<()> {
        match change {
            RowChange::Put(row) => self.put(row, cause, began),
            RowChange::Delete(id) if self.pending.stack(&id).is_some() || self.unhides(&id) => {
                match began.is_some() && self.pending.keeps_off(&id) {
                    true => Ok(()),
                    false => self.rebase(&id, None, cause.unwrap_or(Cause::Local)),
                }
            }
            RowChange::Delete(id) => match self.newest(&id)? {
                Some((row_no, before)) if !self.skips(&id, Some(&before), began) => {
                    self.delete(row_no, &id, before, cause);
                    Ok(())
                }
                None if !self.skips(&id, None, began) => {
                    self.confirm(&id, began);
                    Ok(())
                }
                _ => Ok(()),
            },
            RowChange::Clear => self.clear(cause),
            RowChange::MarkStale(id) if self.pending.stack(&id).is_some() => {
                // It is read again anyway, once its writes are settled.
                self.pending.keeps_off(&id);
                Ok(())
            }
            RowChange::MarkStale(id) => {
                if let Some((row_no, before)) = self.newest(&id)? {
                    let mut after = Core::stale_copy(&before);
                    let seq = self.batch().seq;
                    after.set_seq(seq);
                    self.to.versions.put(row_no, seq, Some(&before), Some(after.clone()));
                    self.batch().touch(row_no, Some(before), Some(after), cause);
                }
                Ok(())
            }
            RowChange::MarkAllStale => {
                let batch = self.batch();
                batch.stale_all = true;
                batch.once = Some(Cause::Outside);
                batch.force = true;
                Ok(())
            }
        }
    }

    /// The newest row of this id, that of the open batch included, to be changed.
    pub(super) fn newest(&mut self, id: &str) -> Result<Option<(RowNo, StoredRow)>> {
        self.unstage(id)?;
        self.look_up(id)
    }

    /// The newest row of this id, that of the open batch and of a bulk under way included.
    fn look_up(&self, id: &str) -> Result<Option<(RowNo, StoredRow)>> {
        match self.to.versions.lookup_newest(id)? {
            // Under the first id of a row that the source has named otherwise there is no row.
            Some(row_no) => {
                Ok(self.to.versions.row_newest(row_no)?.filter(|row| row.id() == id).map(|row| (row_no, row)))
            }
            None => Ok(None),
        }
    }

    /// Whether a change from a read that began at `began` must leave this row alone.
    fn skips(&mut self, id: &str, before: Option<&StoredRow>, began: Option<Seq>) -> bool {
        let Some(began) = began else { return false };
        self.pending.keeps_off(id) || self.protection.blocks(id, began) || before.is_some_and(|row| row.seq() > began)
    }

    pub(super) fn put(&mut self, row: StoredRow, cause: Option<Cause>, began: Option<Seq>) -> Result<()> {
        // The cache refuses a whole batch for one such id, and would for ever.
        check_id(row.id())?;
        // An empty table needs no look at the disk for its first rows.
        let found = if self.rows == 0 && self.bulk.is_none() {
            self.newest_in_memory(row.id())
        } else {
            self.newest(row.id())?
        };
        let before = found.as_ref().map(|(_, before)| before);
        if self.skips(row.id(), before, began) {
            return Ok(());
        }
        if !self.pending.is_empty() && (self.pending.stack(row.id()).is_some() || self.unhides(row.id())) {
            let id: Arc<str> = Arc::from(row.id());
            return self.rebase(&id, Some(row), cause.unwrap_or(Cause::Local));
        }
        if found.is_none() {
            self.pending.tell(row.id());
        }
        self.put_over(found, row, cause, began);
        Ok(())
    }

    /// [`put`](Self::put) for a row without pending writes, over what there is of it.
    pub(super) fn put_over(
        &mut self,
        found: Option<(RowNo, StoredRow)>,
        mut row: StoredRow,
        cause: Option<Cause>,
        began: Option<Seq>,
    ) {
        let before = found.as_ref().map(|(_, before)| before);
        // What was read since all rows became stale is fresh again, though it is what it was.
        let freshens = |before: &StoredRow| {
            before.seq() <= self.stale_upto && began.is_some_and(|began| began >= self.stale_upto && began != JUST_NOW)
        };
        if before
            .is_some_and(|before| before.status() == row.status() && before.same_content(&row) && !freshens(before))
        {
            self.confirm(row.id(), began);
            return;
        }
        let seq = self.batch().seq;
        row.set_seq(seq);
        let (row_no, before) = match found {
            Some((row_no, before)) => (row_no, Some(before)),
            None => {
                let row_no = self.new_row();
                let id: Arc<str> = Arc::from(row.id());
                if self.to.versions.name(&id, seq, None, Some(row_no)) {
                    self.batch().renamed.push(id);
                }
                (row_no, None)
            }
        };
        self.to.versions.put(row_no, seq, before.as_ref(), Some(row.clone()));
        self.batch().touch_differing(row_no, before, Some(row), cause);
    }

    /// A row that a pending `delete_all` hides gets a stack of its own, if it is one.
    pub(super) fn unhides(&mut self, id: &str) -> bool {
        let stack = self.pending.unhide(id);
        let is_hidden = stack.is_some();
        if let Some(stack) = stack {
            self.pending.add(Arc::from(id), stack);
        }
        is_hidden
    }

    /// A row is, or is not, as it was: nothing moves, but a read under way that began earlier may have seen something else,
    /// and must not bring that back.
    fn confirm(&mut self, id: &str, began: Option<Seq>) {
        if self.to.board.oldest_read().is_none() {
            return;
        }
        let batch = self.batch();
        batch.force = true;
        // Reads that began at the same Seq can't be told apart; those that begin later see a later one.
        let seq = began.filter(|began| *began != JUST_NOW).map_or(batch.seq, Seq::next);
        self.protection.note(Arc::from(id), seq);
    }

    fn newest_in_memory(&self, id: &str) -> Option<(RowNo, StoredRow)> {
        let row_no = self.to.versions.newest_name_in_memory(id)?;
        self.to.versions.newest_in_memory(row_no).filter(|row| row.id() == id).map(|row| (row_no, row))
    }

    fn delete(&mut self, row_no: RowNo, id: &str, before: StoredRow, cause: Option<Cause>) {
        let seq = self.batch().seq;
        let id: Arc<str> = Arc::from(id);
        self.to.versions.put(row_no, seq, Some(&before), None);
        self.to.versions.name(&id, seq, Some(row_no), None);
        self.protection.note(id.clone(), seq);
        let batch = self.batch();
        batch.touch(row_no, Some(before), None, cause);
        if batch.by_row.get(&row_no).is_some_and(|position| batch.touched[*position].before.is_none()) {
            batch.gone.push((row_no, id.clone()));
        }
        batch.renamed.push(id);
    }

    fn clear(&mut self, cause: Option<Cause>) -> Result<()> {
        // What is in the open batch becomes visible first: the scan below reads published rows.
        self.commit();
        let pin = self.to.versions.pin_to_read();
        let mut rows = Vec::new();
        self.to.versions.scan(&pin, &mut |row_no, row| {
            rows.push((row_no, row.clone()));
            ControlFlow::Continue(())
        })?;
        for id in self.pending.hidden() {
            self.unhides(&id);
        }
        for id in self.pending.ids() {
            self.rebase(&id, None, cause.unwrap_or(Cause::Local))?;
        }
        for (row_no, row) in rows {
            if !self.pending.holds_row(row_no) {
                let id: Arc<str> = Arc::from(row.id());
                self.delete(row_no, &id, row, cause);
            }
        }
        Ok(())
    }

    /// Publishes the open batch, if there is one.
    pub(super) fn commit(&mut self) {
        let Some(mut batch) = self.batch.take() else { return };
        let (touched, causes) = self.really_touched(&mut batch);
        let changed = Arc::new(Changed { touched, fresh: batch.fresh.take() });
        self.publish_batch(Publication { batch, changed, causes, prepared: None });
    }

    pub(super) fn publish_batch(&mut self, publication: Publication) {
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
                None => (None, self.confirmed(&changed.touched).map(op_of).collect()),
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
    pub(super) fn really_touched(&self, batch: &mut OpenBatch) -> (Vec<Touched>, Vec<Option<Cause>>) {
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

    /// Leaves a first load to the store: until its batch is committed the table says that it is not complete.
    fn store_fresh(&self, fresh: &Arc<FreshRows>) {
        let Ok(table) = self.to.versions.table() else { return };
        let table_meta = vec![
            (meta::SEQ.to_owned(), meta::number(fresh.seq().0)),
            (meta::NEXT_ROW.to_owned(), meta::number(self.next_row)),
            (meta::COMPLETE.to_owned(), None),
        ];
        self.to.store.put(StoreBatch {
            table,
            versions: self.to.versions.clone(),
            seq: fresh.seq(),
            fresh: Some((fresh.clone(), 0)),
            is_load: true,
            ops: Vec::new(),
            meta: table_meta,
        });
    }

    /// The rows that show what is confirmed: the store has no others.
    pub(super) fn confirmed<'a>(&'a self, touched: &'a [Touched]) -> impl Iterator<Item = &'a Touched> {
        touched.iter().filter(|touched| !self.pending.holds_row(touched.row))
    }

    fn supersede(&self, touched: &[Touched], renamed: Vec<Arc<str>>, tombstones: &[(RowNo, Seq)], seq: Seq) {
        let buried = tombstones.iter().map(|(row, from)| Replaced::Row { row: *row, from: *from, size: 0 });
        let rows = touched.iter().filter_map(Touched::replaced);
        let replaced: Vec<Replaced> = rows.chain(buried).chain(renamed.into_iter().map(Replaced::Id)).collect();
        self.to.versions.supersede(seq, replaced);
    }

    fn publish_records(
        &self,
        changed: &Changed,
        shown_anew: &[Arc<str>],
        seq: Seq,
        state_changed: bool,
    ) -> Vec<Arc<crate::scenery::record::RecordSlot>> {
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
                if slot.show(self.look_up(id), seq) {
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
