//! Bulk: a change of very many rows that becomes visible in one step, while edits go through.
//!
//! Flow: [`Core::begin_bulk`] → its rows are staged in slices, between which other messages are handled and published → the
//! build thread makes the bodies of the views as they will be → [`Core::end_bulk`] takes in what changed meanwhile and
//! publishes all of it as one batch.
//! Invariants:
//! 1. Nobody sees a staged row before the end: its Seq is far above those that are published meanwhile
//!    (`an_edit_during_a_bulk_change_is_published_before_it`, `an_edit_during_a_large_answer_is_published_before_it`).
//! 2. An edit of a staged row takes it back first. What was taken back is applied anew at the end, on top of the edit and by
//!    the rules of every change: a stale read leaves an edited row alone (`a_bulk_read_leaves_rows_edited_meanwhile_alone`).
//! 3. Between two messages the core works on a slice of a bulk, whatever its size. Its end costs what was edited meanwhile,
//!    and a few nanoseconds a row.
//! 4. The answer to a query is taken in so without another thread than the one that waits for it
//!    (`a_large_answer_is_taken_in_by_and_by_though_every_other_thread_is_busy`), one answer after the other
//!    (`large_answers_wait_for_each_other_and_hold_up_no_edit`).
//!
//! Not here: how one row is changed and a batch published (`batch`).

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use crate::cache::CacheOp;
use crate::dio::core::batch::{OpenBatch, Publication};
use crate::dio::core::body::{Body, Recorded, Scratch};
use crate::dio::core::{Announce, Apply, Changed, ChangedRow, Core, FullCopy, Message, RowChange, RowChanges, Touched};
use crate::dio::event::Cause;
use crate::dio::queries::Question;
use crate::dio::versions::{Ahead, Replaced, RowMap, Versions};
use crate::lens::Job;
use crate::scenery::view_query::ViewQuery;
use crate::vista::CancelToken;
use crate::{Error, Result, RowNo, Seq};

/// Rows that are staged between two looks into the inbox: less than a millisecond's work.
const ROWS_AT_ONCE: usize = if cfg!(test) { 8 } else { 256 };
/// Rows whose views are found out between two looks into the inbox.
const ROUTES_AT_ONCE: usize = 2_048;
/// How far a bulk's Seq is above the one published when it begins: room for what is published meanwhile.
const ROOM: u64 = 1 << 20;
/// When so few Seqs are left below a bulk's, it ends at once.
const LAST_ROOM: u64 = 1 << 14;
/// How often the build thread makes bodies for views that were opened meanwhile; after that the core does.
const ROUNDS: u32 = 4;
/// Rows of a batch from which on another thread lets go of what they replaced: for fewer it takes the core less than a
/// millisecond.
pub(super) const MANY_REPLACED: usize = 2_048;
/// Versions that are superseded under one lock.
const SUPERSEDED_AT_ONCE: usize = 1_024;

/// A bulk change under way.
pub(super) struct Bulk {
    seq: Seq,
    cause: Option<Cause>,
    began: Option<Seq>,
    full_copy: Option<FullCopy>,
    left: std::vec::IntoIter<RowChange>,
    /// Changes of rows that were taken back. They come before those that are left, which may be of the same rows.
    again: Vec<RowChange>,
    /// Changes of rows with pending writes, which fold their writes over them when all else is there.
    deferred: Vec<RowChange>,
    failure: Option<Error>,
    helper: Option<Helper>,
    batch: OpenBatch,
    stage: Stage,
}

/// To a thread that does what is to be done aside for a bulk change for as long as it is under way.
pub(crate) type Helper = Sender<Job>;

/// A helper, and what it is to do: until that ends.
pub(crate) fn helper() -> (Helper, Receiver<Job>) {
    bounded(ROUNDS as usize)
}

enum Stage {
    /// Rows are put into the row versions.
    Rows,
    /// All rows are there; it is found out which indexes they concern, of those up to `newest`.
    Routes { staged: Staged, next: usize, routed: Vec<(u64, u32)>, newest: u64 },
    /// The build thread makes bodies.
    Bodies { staged: Staged, made: Made, round: u32 },
}

/// What a bulk changes, but for what was taken back.
struct Staged {
    changed: Arc<Changed>,
    causes: Vec<Option<Cause>>,
    /// Where the rows stand in `changed`.
    places: RowMap<usize>,
    taken_back: HashSet<RowNo>,
}

/// The bodies of indexes as a bulk makes them, and how many entries it changes; `None`: it doesn't concern the index.
pub(super) type Bodies = HashMap<u64, Option<(Body, usize)>>;

/// What the build thread made.
#[derive(Default)]
pub(crate) struct Made {
    bodies: Bodies,
    /// What the store is to do, of the rows that `changed` has.
    ops: Option<Vec<CacheOp>>,
}

/// The body of one index that is to be made.
pub(super) struct Side {
    pub(super) index: u64,
    pub(super) query: Arc<ViewQuery>,
    /// What changes in the index meanwhile.
    pub(super) recorded: Arc<Recorded>,
    pub(super) todo: Todo,
}

pub(super) enum Todo {
    /// Take in the rows that are routed to it.
    Routed(Body),
    /// Take in all rows.
    All(Body),
    /// They are in: only take in what changed since.
    Nothing(Body, usize),
}

/// What brings the views up to the end of a bulk.
pub(super) struct Prepared {
    pub(super) bodies: Bodies,
    /// How many rows the bodies may have and the bulk has not.
    pub(super) taken_back: usize,
    /// Rows that were applied anew: no body has them yet.
    pub(super) late: Arc<Changed>,
}

/// Very many rows that answer a question. Their sender waits for no thread of the pools: it makes the bodies itself.
pub(super) struct LargeAnswer {
    apply: Apply,
    question: Arc<Question>,
    helper: Helper,
}

impl Core {
    /// Whether a message's changes are to be a bulk.
    pub(super) fn is_bulk(&self, apply: &Apply) -> bool {
        self.bulk.is_none() && !apply.at_once && self.may_be_bulk(apply)
    }

    fn may_be_bulk(&self, apply: &Apply) -> bool {
        let RowChanges::Each(changes) = &apply.changes else { return false };
        let is_of_one_row = |change: &RowChange| matches!(change, RowChange::Put(_) | RowChange::Delete(_));
        !self.pending.has_clear()
            && changes.len() >= self.to.bulk_changes
            && changes.iter().all(is_of_one_row)
            && apply.began.is_none_or(|began| self.protection.remembers(began))
    }

    /// Takes in what answers a question: very many rows by and by, one answer after the other.
    pub(super) fn answer(&mut self, apply: Apply, question: Arc<Question>, helper: Helper) {
        match &self.bulk {
            _ if !self.may_be_bulk(&apply) => self.apply_answer(apply, question),
            None => self.begin_bulk(apply, Some((question, helper))),
            Some(bulk) if bulk.helper.is_some() => self.answers.push_back(LargeAnswer { apply, question, helper }),
            // That one may need the very threads that wait for this.
            Some(_) => self.apply_answer(apply, question),
        }
    }

    /// Begins a bulk change, whose rows answer a question. No other is under way.
    pub(super) fn begin_bulk(&mut self, apply: Apply, answer: Option<(Arc<Question>, Helper)>) {
        self.commit();
        let Apply { changes, cause, announce, began, full_copy, reply, at_once: _ } = apply;
        let changes: Vec<RowChange> = match changes {
            RowChanges::Each(changes) => changes,
            RowChanges::First(rows, _) => rows.into_iter().map(RowChange::Put).collect(),
        };
        let seq = Seq(self.seq.0 + ROOM);
        let (answered, helper) = answer.unzip();
        self.bulk = Some(Box::new(Bulk {
            seq,
            cause: (announce == Announce::EachRow).then_some(cause),
            began,
            full_copy,
            left: changes.into_iter(),
            again: Vec::new(),
            deferred: Vec::new(),
            failure: None,
            helper,
            batch: OpenBatch::of_bulk(seq, cause, announce, reply, answered),
            stage: Stage::Rows,
        }));
    }

    /// Whether a bulk is under way, or waits to be begun.
    pub(super) fn has_bulk(&self) -> bool {
        self.bulk.is_some() || !self.answers.is_empty()
    }

    /// Whether a bulk waits for the core to go on with it.
    pub(super) fn has_slice(&self) -> bool {
        self.bulk.as_ref().is_some_and(|bulk| !matches!(bulk.stage, Stage::Bodies { .. }))
    }

    /// Goes on with the bulk, or begins one that waits. No batch is open.
    pub(super) fn do_slice(&mut self) {
        self.do_slice_of_bulk();
        while self.bulk.is_none()
            && let Some(LargeAnswer { apply, question, helper }) = self.answers.pop_front()
        {
            self.answer(apply, question, helper);
            self.commit();
        }
    }

    fn do_slice_of_bulk(&mut self) {
        let Some(mut bulk) = self.bulk.take() else { return };
        let is_last = bulk.seq.0 - self.seq.0 < LAST_ROOM;
        match &mut bulk.stage {
            _ if is_last => {
                self.bulk = Some(bulk);
                self.end_bulk();
                return;
            }
            Stage::Rows => {
                if self.stage_rows(&mut bulk, ROWS_AT_ONCE) {
                    let staged = self.all_staged(&mut bulk);
                    let newest = self.views.next_number();
                    bulk.stage = Stage::Routes { staged, next: 0, routed: Vec::new(), newest };
                }
            }
            Stage::Routes { staged, next, routed, .. } => {
                let until = (*next + ROUTES_AT_ONCE).min(staged.changed.len());
                if self.views.route(&staged.changed, *next..until, routed) && until < staged.changed.len() {
                    *next = until;
                } else {
                    self.make_bodies(&mut bulk);
                }
            }
            Stage::Bodies { .. } => {}
        }
        self.bulk = Some(bulk);
        if self.bulk.as_ref().is_some_and(|bulk| bulk.is_refused()) {
            self.end_bulk();
        }
    }

    /// Stages rows; says whether all are.
    fn stage_rows(&mut self, bulk: &mut Bulk, most: usize) -> bool {
        let outer = self.batch.replace(std::mem::replace(&mut bulk.batch, OpenBatch::new(bulk.seq)));
        debug_assert!(outer.is_none(), "what is open is published before a slice of a bulk");
        let mut all = false;
        let mut staged = 0;
        let mut ahead = Vec::new().into_iter();
        // A row that came and went within the bulk can't be taken back: then nothing comes in between.
        while staged < most || self.batch.as_ref().is_some_and(OpenBatch::has_gone) {
            staged += 1;
            if ahead.as_slice().is_empty() && !bulk.left.as_slice().is_empty() {
                ahead = self.look_ahead(bulk.left.as_slice()).into_iter();
            }
            let change = match bulk.again.pop() {
                Some(again) => Some((again, Ahead::default())),
                None => bulk.left.next().map(|change| (change, ahead.next().unwrap_or_default())),
            };
            let Some((change, ahead)) = change else {
                all = true;
                break;
            };
            if change.id().is_some_and(|id| self.pending.stack(id).is_some()) {
                bulk.deferred.push(change);
                continue;
            }
            if let Err(error) = self.apply_change(change, ahead, bulk.cause, bulk.began) {
                bulk.failure = Some(error);
                bulk.left = Vec::new().into_iter();
                bulk.again = Vec::new();
            }
        }
        if let Some(batch) = self.batch.take() {
            bulk.batch = batch;
        }
        all
    }

    /// What is staged, once all rows are.
    fn all_staged(&self, bulk: &mut Bulk) -> Staged {
        let rows = bulk.batch.touched.len();
        let mut places = std::mem::take(&mut bulk.batch.by_row);
        let (touched, causes) = self.really_touched(&mut bulk.batch);
        if touched.len() != rows {
            places = touched.iter().enumerate().map(|(place, touched)| (touched.row, place)).collect();
        }
        let changed = Arc::new(Changed { touched, fresh: None });
        Staged { changed, causes, places, taken_back: HashSet::new() }
    }

    /// Has the build thread make the bodies that are to be, of every index that has none yet.
    fn make_bodies(&mut self, bulk: &mut Bulk) {
        let (staged, routed, newest, mut made, round) = match std::mem::replace(&mut bulk.stage, Stage::Rows) {
            Stage::Rows => return,
            Stage::Routes { staged, routed, newest, .. } => (staged, routed, newest, Made::default(), 1),
            Stage::Bodies { staged, made, round } => (staged, Vec::new(), 0, made, round + 1),
        };
        let sides = self.views.sides(newest, &mut made.bodies);
        let (changed, skipped) = (staged.changed.clone(), staged.taken_back.clone());
        let (always, ops, seq) = (self.views.always(), made.ops.is_none(), bulk.seq);
        let handle = self.handle.clone();
        let job: Job = Box::new(move || {
            let bodies = make(sides, &changed, &skipped, routed, &always);
            let ops = ops.then(|| changed.touched.iter().map(op_of).collect());
            drop(changed);
            // A closed core wants no result.
            let _ = handle.send(Message::BulkMade { seq, made: Made { bodies, ops } });
        });
        // Whichever thread is free first does it: the one may be in a user's aggregate, the other in a source.
        let job = Arc::new(Mutex::new(Some(job)));
        let take = || -> Job {
            let job = job.clone();
            Box::new(move || {
                let job = job.lock().take();
                if let Some(job) = job {
                    job();
                }
            })
        };
        let helps = bulk.helper.as_ref().is_some_and(|helper| helper.try_send(take()).is_ok());
        let pools = [&self.to.build_pool, &self.to.load_pool];
        let takers = pools.into_iter().filter(|pool| pool.submit(self.to.build_rank, take()).is_ok());
        let takers = takers.count() + usize::from(helps);
        // If nobody takes it, the core makes the bodies.
        let round = if takers == 0 { u32::MAX } else { round };
        bulk.stage = Stage::Bodies { staged, made, round };
    }

    /// Takes what the build thread made; ends the bulk, unless views were opened meanwhile.
    pub(super) fn bulk_made(&mut self, seq: Seq, new: Made) {
        let Some(mut bulk) = self.bulk.take_if(|bulk| bulk.seq == seq) else { return };
        let Stage::Bodies { made, round, .. } = &mut bulk.stage else {
            self.bulk = Some(bulk);
            return;
        };
        made.bodies.extend(new.bodies);
        made.ops = new.ops.or(made.ops.take());
        let goes_on = *round < ROUNDS && self.views.has_without_side();
        if goes_on {
            self.make_bodies(&mut bulk);
        }
        let ends = !goes_on || bulk.is_refused();
        self.bulk = Some(bulk);
        if ends {
            self.end_bulk();
        }
    }

    /// Publishes a bulk that is under way, before something that concerns every row.
    pub(super) fn finish_bulk(&mut self) {
        if self.bulk.is_some() {
            self.commit();
            self.end_bulk();
        }
    }

    /// Publishes the bulk, from whatever stage it is in. No batch is open.
    fn end_bulk(&mut self) {
        let Some(mut bulk) = self.bulk.take() else { return };
        if matches!(bulk.stage, Stage::Rows) {
            self.stage_rows(&mut bulk, usize::MAX);
            let staged = self.all_staged(&mut bulk);
            bulk.stage = Stage::Bodies { staged, made: Made::default(), round: u32::MAX };
        }
        if let Some(began) = bulk.began {
            self.bulk = Some(bulk);
            self.unstage_protected(began);
            let Some(again) = self.bulk.take() else { return };
            bulk = again;
        }
        let seq = bulk.seq;
        let outer = self.batch.replace(std::mem::replace(&mut bulk.batch, OpenBatch::new(seq)));
        debug_assert!(outer.is_none(), "what is open is published before a bulk");
        for change in std::mem::take(&mut bulk.deferred).into_iter().chain(std::mem::take(&mut bulk.again)) {
            if let Err(error) = self.apply_change(change, Ahead::default(), bulk.cause, bulk.began) {
                bulk.failure = Some(error);
            }
        }
        let Some(mut batch) = self.batch.take() else { return };
        let (late, late_causes) = self.really_touched(&mut batch);
        let (staged, made) = match bulk.stage {
            Stage::Routes { staged, .. } => (staged, Made::default()),
            Stage::Bodies { staged, made, .. } => (staged, made),
            Stage::Rows => return,
        };
        let Staged { mut changed, mut causes, taken_back, .. } = staged;
        let mut ops = made.ops.unwrap_or_else(|| changed.touched.iter().map(op_of).collect());
        if !taken_back.is_empty() || !late.is_empty() {
            let mut touched = match Arc::try_unwrap(changed) {
                Ok(changed) => changed.touched,
                Err(shared) => shared.touched.clone(),
            };
            let stays: Vec<bool> = touched.iter().map(|touched| !taken_back.contains(&touched.row)).collect();
            retain(&mut touched, &stays);
            retain(&mut causes, &stays);
            retain(&mut ops, &stays);
            ops.extend(self.confirmed(&late).map(op_of));
            touched.extend(late.iter().cloned());
            causes.extend(late_causes);
            changed = Arc::new(Changed { touched, fresh: None });
        }
        let late = Arc::new(Changed { touched: late, fresh: None });
        batch.end_of_bulk(bulk.failure, bulk.full_copy, bulk.began);
        let prepared = Prepared { bodies: made.bodies, taken_back: taken_back.len(), late };
        self.publish_batch(Publication { batch, changed, causes, prepared: Some((prepared, ops)) });
        self.views.forget_sides();
    }

    /// Before a row of this id is looked at to be changed: what a bulk has staged of it is taken back.
    pub(super) fn unstage(&mut self, id: &str) -> Result<()> {
        let Some(bulk) = &self.bulk else { return Ok(()) };
        let versions = &self.to.versions;
        let staged = |row: Option<RowNo>| row.filter(|row| bulk.has_staged(*row));
        let row = match staged(versions.lookup_newest(id)?) {
            Some(row) => Some(row),
            None => staged(versions.lookup_as_of(id, Seq(bulk.seq.0 - 1))?),
        };
        if let Some(row) = row {
            self.unstage_row(row);
        }
        Ok(())
    }

    fn unstage_row(&mut self, row: RowNo) {
        let Some(bulk) = &mut self.bulk else { return };
        let Some(touched) = bulk.forget(row) else { return };
        let id: Arc<str> = Arc::from(touched.id());
        let versions = &self.to.versions;
        versions.unput(row, bulk.seq);
        if touched.before.is_none() || touched.after.is_none() {
            versions.unname(&id, bulk.seq, touched.before.is_some().then_some(row));
        }
        bulk.again.push(match &touched.after {
            Some(row) => RowChange::Put(row.clone()),
            None => RowChange::Delete(id),
        });
        if matches!(bulk.stage, Stage::Bodies { .. }) {
            let back = Touched { row, before: touched.after, after: touched.before };
            self.views.record_for_sides(&Arc::new(Changed { touched: vec![back], fresh: None }));
        }
    }

    /// Takes back what a read that began at `began` must leave alone by now, and what is not noted in the row itself.
    fn unstage_protected(&mut self, began: Seq) {
        let rows: Vec<RowNo> = match (&self.bulk, self.protection.blocks_every(began)) {
            (Some(bulk), true) => bulk.staged_rows(),
            _ => Vec::new(),
        };
        for row in rows {
            self.unstage_row(row);
        }
    }

    /// Lets go of what a large batch replaced, on the build thread.
    pub(super) fn supersede_elsewhere(&self, changed: Arc<Changed>, renamed: Vec<Arc<str>>, seq: Seq) {
        let renamed: Arc<[Arc<str>]> = renamed.into();
        let (versions, of_job) = (self.to.versions.clone(), (changed.clone(), renamed.clone()));
        let job = move || supersede_all(&versions, &of_job.0, &of_job.1, seq);
        if self.to.build_pool.submit(self.to.build_rank, Box::new(job)).is_err() {
            supersede_all(&self.to.versions, &changed, &renamed, seq);
        }
    }
}

fn supersede_all(versions: &Versions, changed: &Changed, renamed: &[Arc<str>], seq: Seq) {
    for touched in changed.touched.chunks(SUPERSEDED_AT_ONCE) {
        versions.supersede(seq, touched.iter().filter_map(Touched::replaced));
    }
    for ids in renamed.chunks(SUPERSEDED_AT_ONCE) {
        versions.supersede(seq, ids.iter().cloned().map(Replaced::Id));
    }
}

impl Bulk {
    fn has_staged(&self, row: RowNo) -> bool {
        match &self.stage {
            Stage::Rows => self.batch.by_row.contains_key(&row),
            Stage::Routes { staged, .. } | Stage::Bodies { staged, .. } => staged.places.contains_key(&row),
        }
    }

    fn staged_rows(&self) -> Vec<RowNo> {
        match &self.stage {
            Stage::Rows => self.batch.by_row.keys().copied().collect(),
            Stage::Routes { staged, .. } | Stage::Bodies { staged, .. } => staged.places.keys().copied().collect(),
        }
    }

    /// Takes a row out of what is staged.
    fn forget(&mut self, row: RowNo) -> Option<Touched> {
        match &mut self.stage {
            Stage::Rows => {
                let place = self.batch.by_row.remove(&row)?;
                let nothing = Touched { row, before: None, after: None };
                Some(std::mem::replace(self.batch.touched.get_mut(place)?, nothing))
            }
            Stage::Routes { staged, .. } | Stage::Bodies { staged, .. } => {
                let place = staged.places.remove(&row)?;
                staged.taken_back.insert(row);
                staged.changed.touched.get(place).cloned()
            }
        }
    }

    /// Whether no thread makes its bodies.
    fn is_refused(&self) -> bool {
        matches!(self.stage, Stage::Bodies { round: u32::MAX, .. })
    }
}

/// Keeps of a list what `stays` says.
pub(super) fn retain<T>(list: &mut Vec<T>, stays: &[bool]) {
    let mut stays = stays.iter();
    list.retain(|_| stays.next().is_none_or(|stays| *stays));
}

/// What the store is to do for a changed row.
pub(super) fn op_of(touched: &Touched) -> CacheOp {
    match &touched.after {
        Some(row) => CacheOp::Put { row: touched.row, id: Arc::from(row.id()), bytes: row.bytes() },
        None => CacheOp::Delete { row: touched.row, id: Arc::from(touched.id()) },
    }
}

/// Makes the bodies. On the build thread.
fn make(
    sides: Vec<Side>,
    changed: &Changed,
    skipped: &HashSet<RowNo>,
    mut routed: Vec<(u64, u32)>,
    always: &HashSet<u64>,
) -> Bodies {
    routed.sort_unstable();
    routed.dedup();
    let is_in = |row: &ChangedRow<'_>| !skipped.contains(&row.0);
    let mut scratch = Scratch::default();
    let mut made = Vec::new();
    let mut bodies = Bodies::new();
    for Side { index, query, recorded, todo } in sides {
        let routed = match &todo {
            Todo::Routed(_) if !always.contains(&index) => {
                let from = routed.partition_point(|(other, _)| *other < index);
                let until = routed.partition_point(|(other, _)| *other <= index);
                Some(&routed[from..until])
            }
            _ => None,
        };
        let (body, entries) = match (todo, routed) {
            (Todo::Nothing(body, entries), _) => (body, entries),
            (_, Some([])) => {
                bodies.insert(index, None);
                continue;
            }
            (Todo::Routed(mut body) | Todo::All(mut body), Some(routed)) => {
                let rows = routed.iter().map(|(_, place)| changed.at(*place as usize)).filter(is_in);
                let entries = body.apply(&query, rows, &mut scratch);
                (body, entries)
            }
            (Todo::Routed(mut body) | Todo::All(mut body), None) => {
                let entries = body.apply(&query, changed.iter().filter(is_in), &mut scratch);
                (body, entries)
            }
        };
        made.push((index, query, recorded, body, entries));
    }
    let goes_on = CancelToken::new();
    for (index, query, recorded, body, entries) in made {
        bodies.insert(index, Some((recorded.take_into(body, &query, &goes_on), entries)));
    }
    bodies
}

#[cfg(test)]
mod tests;
