//! Batch: row changes on their way from messages to everything that shows them.
//!
//! Flow: [`Core::apply`], and staging and settling (`writes`), add to the open batch → [`Core::commit`] publishes it
//! (`publish`).

mod publish;

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::dio::JUST_NOW;
use crate::dio::cache_handle::check_id;
use crate::dio::core::{
    Announce, Apply, Core, FullCopy, RowChange, RowChanges, SettledAs, StagedWrite, Touched, accept::Covering,
};
use crate::dio::event::Cause;
use crate::dio::fresh::{FreshRows, IdIndex};
use crate::dio::meta;
use crate::dio::queries::Question;
use crate::dio::store::StoreBatch;
use crate::dio::versions::{Ahead, RowMap};
use crate::journal::Reservation;
use crate::sync::ReplySender;
use crate::value::StoredRow;
use crate::{Error, ErrorKind, Result, RowNo, Seq};

pub(super) use publish::Publication;

/// Rows that are looked for together, before the first of them is changed.
const ROWS_AHEAD: usize = 64;

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
        let result = self.apply_each(changes, own_event, began);
        // `clear` publishes what was open and begins another batch.
        let batch = self.batch();
        batch.note_cause(cause);
        if announce == Announce::Once {
            batch.once = Some(cause);
        }
        result
    }

    fn apply_each(&mut self, changes: Vec<RowChange>, cause: Option<Cause>, began: Option<Seq>) -> Result<()> {
        let mut changes = changes.into_iter();
        while !changes.as_slice().is_empty() {
            for ahead in self.look_ahead(changes.as_slice()) {
                let Some(change) = changes.next() else { break };
                self.apply_change(change, ahead, cause, began)?;
            }
        }
        Ok(())
    }

    /// What the cache has of the rows of the next changes, of one at the least: it counts for as long as only these are applied.
    pub(super) fn look_ahead(&self, changes: &[RowChange]) -> Vec<Ahead> {
        // A `Clear` publishes what is open, and the store may have it before the changes behind are applied.
        let next = changes.iter().take(ROWS_AHEAD).position(|change| matches!(change, RowChange::Clear));
        let next = next.map_or(changes.len().min(ROWS_AHEAD), |clear| clear + 1);
        if next == 1 || self.rows == 0 {
            return std::iter::repeat_with(Ahead::default).take(next).collect();
        }
        self.to.versions.look_ahead(changes[..next].iter().map(RowChange::id))
    }

    pub(super) fn apply_change(
        &mut self,
        change: RowChange,
        ahead: Ahead,
        cause: Option<Cause>,
        began: Option<Seq>,
    ) -> Result<()> {
        match change {
            RowChange::Put(row) => self.put(row, ahead, cause, began),
            RowChange::Delete(id) if self.pending.stack(&id).is_some() || self.unhides(&id) => {
                match began.is_some() && self.pending.keeps_off(&id) {
                    true => Ok(()),
                    false => self.rebase(&id, None, cause.unwrap_or(Cause::Local)),
                }
            }
            RowChange::Delete(id) => match self.newest_with(&id, ahead)? {
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
                if let Some((row_no, before)) = self.newest_with(&id, ahead)? {
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
        self.newest_with(id, Ahead::default())
    }

    /// [`newest`](Self::newest) of what was looked for ahead.
    fn newest_with(&mut self, id: &str, ahead: Ahead) -> Result<Option<(RowNo, StoredRow)>> {
        self.unstage(id)?;
        self.look_up(id, ahead)
    }

    /// The newest row of this id, that of the open batch and of a bulk under way included.
    fn look_up(&self, id: &str, ahead: Ahead) -> Result<Option<(RowNo, StoredRow)>> {
        // Under the first id of a row that the source has named otherwise there is no row.
        Ok(self.to.versions.find_newest(id, ahead)?.filter(|(_, row)| row.id() == id))
    }

    /// Whether a change from a read that began at `began` must leave this row alone.
    fn skips(&mut self, id: &str, before: Option<&StoredRow>, began: Option<Seq>) -> bool {
        let Some(began) = began else { return false };
        self.pending.keeps_off(id) || self.protection.blocks(id, began) || before.is_some_and(|row| row.seq() > began)
    }

    pub(super) fn put(&mut self, row: StoredRow, ahead: Ahead, cause: Option<Cause>, began: Option<Seq>) -> Result<()> {
        // The cache refuses a whole batch for one such id, and would for ever.
        check_id(row.id())?;
        // An empty table needs no look at the disk for its first rows.
        let found = if self.rows == 0 && self.bulk.is_none() {
            self.newest_in_memory(row.id())
        } else {
            self.newest_with(row.id(), ahead)?
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
}
