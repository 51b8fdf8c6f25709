//! Views: the open views of a Dio, the bodies they share, and how both are published.
//!
//! Invariants:
//! 1. Views with equal queries share one index (`equal_queries_share_one_index`).
//! 2. A view shows its old body until the new one is ready; a request that was superseded never lands.
//! 3. A batch costs the views that it concerns, not all that are open (`a_change_looks_at_the_views_that_it_can_concern`).
//!
//! Not here: how a body comes to be (`builds`, `sides`).

mod answers;
mod builds;
mod first;
mod sides;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::dio::Cause;
use crate::dio::core::body::{Body, BodyKind, Recorded, Scratch};
use crate::dio::core::bulk::Prepared;
use crate::dio::core::customs::Customs;
use crate::dio::core::route::Router;
use crate::dio::core::views::answers::Answer;
use crate::dio::core::views::builds::Build;
use crate::dio::core::views::first::first_part;
use crate::dio::core::{Changed, ChangedRow, Core, Opening, ViewId, ViewSlot};
use crate::dio::queries::Asking;
use crate::scenery::accumulator::BuiltIn;
use crate::scenery::cut::Cut;
use crate::scenery::index::diff::count_differences;
use crate::scenery::index::key::Entry;
use crate::scenery::index::tree::Tree;
use crate::scenery::snapshot::{FirstPart, Gone, LoadState, Root, TableSlot};
use crate::scenery::value::ValueSlot;
use crate::scenery::view_query::ViewQuery;
use crate::{Error, Generation, Seq};

/// Rows of a list from which on it is worth a thread to free it.
const LARGE: usize = 4_096;
/// Changed entries of lists from which on it is worth a thread that has nothing else to do to free what they replaced: mostly a
/// node each.
const MANY: usize = 512;

pub(super) enum State {
    Building(Build),
    Ready(Body),
}

/// One body and those who show it.
pub(super) struct Index {
    id: u64,
    kind: BodyKind,
    query: Arc<ViewQuery>,
    pub(super) state: State,
    value: Option<Arc<ValueSlot>>,
    /// The table views that show it.
    shown_by: Vec<ViewId>,
    /// What changes while a bulk's body is made for it.
    side: Option<Arc<Recorded>>,
}

impl Index {
    /// Shows the result of a value view; the generation is moved by the caller.
    fn show_value(&self, seq: Seq) -> Option<(Arc<ValueSlot>, Generation)> {
        match (&self.state, &self.value) {
            (State::Ready(Body::Value(accumulator)), Some(slot)) => {
                Some((slot.clone(), slot.show(accumulator.result(), seq)?))
            }
            _ => None,
        }
    }
}

/// A table view: what it shows, and what it is to show.
struct TableView {
    slot: Arc<TableSlot>,
    /// The query that it was last asked for.
    wanted: Arc<ViewQuery>,
    answer: Answer,
    shows: Option<u64>,
    /// Of which question the rows are that it shows.
    shown_question: Option<Arc<str>>,
    cut: Cut,
    awaits: Option<Awaited>,
    /// The first rows of what it awaits, as they are published.
    first: Option<Arc<FirstPart>>,
    load: LoadState,
}

/// What a view is to show once its index is there.
#[derive(Clone, Copy)]
struct Awaited {
    index: u64,
    cut: Cut,
    request: u64,
}

#[derive(Default)]
pub(super) struct Views {
    pub(super) indexes: HashMap<u64, Index>,
    tables: HashMap<ViewId, TableView>,
    pub(super) customs: Customs,
    router: Router,
    /// The indexes that are being built.
    building: HashSet<u64>,
    next: u64,
    /// Rows up to this Seq are stale, as last published.
    stale_upto: Seq,
    complete: bool,
    /// Views of which the open batch answers the question.
    newly_answered: Vec<ViewId>,
    scratch: Scratch,
    keys: [Vec<u8>; 2],
    routed: Vec<(u64, u32)>,
    /// How many indexes the last batch was matched against.
    pub(super) asked: usize,
    /// Large lists that nobody needs any more: freeing one takes milliseconds, so another thread does it.
    waste: Vec<Waste>,
}

/// What is dropped off the core.
#[expect(dead_code, reason = "it is there to be dropped")]
enum Waste {
    Index(Index),
    Roots(Gone),
}

/// Signals that are to move once everything is in place.
#[derive(Default)]
pub(super) struct Moved {
    tables: Vec<(Arc<TableSlot>, Generation)>,
    values: Vec<(Arc<ValueSlot>, Generation)>,
    gone: Gone,
}

impl Moved {
    /// Moves the generations; gives back what the views no longer keep.
    pub(super) fn advance(self) -> Gone {
        for (slot, generation) in &self.tables {
            slot.signal.advance_to(*generation);
        }
        for (slot, generation) in &self.values {
            slot.signal.advance_to(*generation);
        }
        self.gone
    }
}

pub(super) fn load_state(complete: bool) -> LoadState {
    if complete { LoadState::Ready } else { LoadState::Loading }
}

fn is_same_order(a: &Tree<Entry>, b: &Tree<Entry>) -> bool {
    a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.row == b.row && a.version == b.version)
}

impl Views {
    /// How many views and indexes there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let values = self.indexes.values().filter(|index| index.value.is_some()).count();
        (self.tables.len() + values + self.customs.len(), self.indexes.len())
    }

    /// Brings every body up to the batch and publishes those that moved.
    pub(super) fn publish(
        &mut self,
        batch: &Arc<Changed>,
        seq: Seq,
        (complete, stale_upto): (bool, Seq),
        cause: Option<Cause>,
        prepared: Option<Prepared>,
    ) -> Moved {
        let mut moved = Moved::default();
        let all_may_move = self.stale_upto != stale_upto || self.complete != complete;
        let stale_before = self.stale_upto;
        self.stale_upto = stale_upto;
        self.complete = complete;
        let changed = match prepared {
            Some(prepared) => self.bring_up_to_bulk(prepared, batch, seq, &mut moved),
            None => self.bring_up(batch, seq, &mut moved),
        };
        let firsts_moved = self.record(batch);
        self.customs.note(batch, &changed, all_may_move);
        let concerned: Vec<ViewId> = if all_may_move {
            self.tables.keys().copied().collect()
        } else {
            let shown_by = |id: &u64| self.indexes.get(id).map(|index| index.shown_by.as_slice()).unwrap_or_default();
            changed.keys().flat_map(shown_by).copied().collect()
        };
        let mut concerned = concerned;
        concerned.append(&mut self.newly_answered);
        concerned.extend(firsts_moved.iter().flat_map(|index| self.waiting_for(*index)).map(|(view, _)| view));
        concerned.sort_unstable();
        concerned.dedup();
        for view in concerned {
            let Some(view) = self.tables.get_mut(&view) else { continue };
            let awaited = view.awaits.filter(|awaited| firsts_moved.contains(&awaited.index));
            if let Some(awaited) = awaited {
                view.first = first_part(&self.indexes, awaited);
            }
            let Some(shown) = view.shows else {
                if awaited.is_some() {
                    moved.tables.push(view.with_first(seq, stale_upto));
                }
                continue;
            };
            let entries = changed.get(&shown).copied();
            let load = view.load_now(complete);
            let Some(Index { state: State::Ready(Body::Table(tree)), query, .. }) = self.indexes.get(&shown) else {
                continue;
            };
            let last = view.slot.roots.newest();
            let becomes_other = |entry: &Entry| (entry.version <= stale_before) != (entry.version <= stale_upto);
            let becomes_stale = |tree: &Tree<Entry>| stale_before != stale_upto && tree.iter().any(becomes_other);
            // What lies beyond the cut may show later, and have shown before: then no difference tells.
            let stale_beyond = view.cut != Cut::Nothing && becomes_stale(tree);
            let tree = view.cut.of(tree);
            // What lies beyond the cut doesn't show.
            let entries = match view.cut {
                Cut::Nothing => entries,
                _ => entries.map(|_| count_differences(&last.tree, &tree)).filter(|entries| *entries > 0),
            };
            let stale_moves = becomes_stale(&tree);
            let moves = entries.is_some() || stale_moves || !view.load.same_as(&load) || awaited.is_some();
            if !moves && !stale_beyond {
                continue;
            }
            view.load = load;
            let root = Root {
                generation: if moves { last.generation.next() } else { last.generation },
                seq,
                tree,
                query: query.clone(),
                load: view.load.clone(),
                stale_upto,
                epoch: last.epoch + u64::from(stale_moves || stale_beyond),
                changed: entries.unwrap_or(0),
                cause,
                first: view.first.clone(),
            };
            moved.tables.push((view.slot.clone(), root.generation));
            moved.gone.add(view.slot.roots.publish(root));
        }
        moved
    }

    /// Brings the bodies that the batch concerns up to it; gives back how many entries of which index changed.
    fn bring_up(&mut self, batch: &Arc<Changed>, seq: Seq, moved: &mut Moved) -> HashMap<u64, usize> {
        let mut changed = HashMap::new();
        self.asked = 0;
        let mut routed = std::mem::take(&mut self.routed);
        for (place, (_, before, after)) in batch.iter().enumerate() {
            self.router.route(place as u32, before, after, &mut self.keys, &mut routed);
        }
        routed.sort_unstable();
        routed.dedup();
        for rows in routed.chunk_by(|a, b| a.0 == b.0) {
            let rows_of_batch = rows.iter().map(|(_, place)| batch.at(*place as usize));
            self.bring_index_up(rows[0].0, batch, rows_of_batch, seq, moved, &mut changed);
        }
        routed.clear();
        self.routed = routed;
        let always = std::mem::take(self.router.always());
        for id in &always {
            self.bring_index_up(*id, batch, batch.iter(), seq, moved, &mut changed);
        }
        *self.router.always() = always;
        changed
    }

    fn bring_index_up<'a>(
        &mut self,
        id: u64,
        batch: &Arc<Changed>,
        rows: impl Iterator<Item = ChangedRow<'a>>,
        seq: Seq,
        moved: &mut Moved,
        changed: &mut HashMap<u64, usize>,
    ) {
        let Some(index) = self.indexes.get_mut(&id) else { return };
        let State::Ready(body) = &mut index.state else { return };
        self.asked += 1;
        let entries = body.apply(&index.query, rows, &mut self.scratch);
        if entries == 0 {
            return;
        }
        if let Some(side) = &index.side {
            side.add(batch.clone());
        }
        changed.insert(id, entries);
        moved.values.extend(index.show_value(seq));
    }

    /// Forgets an index; its build is told to stop.
    fn remove_index(&mut self, id: u64) -> Option<Index> {
        let index = self.indexes.remove(&id)?;
        self.building.remove(&id);
        self.router.remove(id, index.query.guard());
        if let State::Building(build) = &index.state {
            build.cancel.cancel();
        }
        Some(index)
    }

    /// Drops what views no longer keep, elsewhere if that takes long.
    fn throw_away(&mut self, gone: Gone) {
        if gone.entries() >= LARGE {
            self.waste.push(Waste::Roots(gone));
        }
    }

    /// Shows the body of an index in a view, in the place of what it showed.
    fn land(&mut self, view_id: ViewId, awaited: Awaited, seq: Seq) {
        let Awaited { index: index_id, cut, request } = awaited;
        let Some(view) = self.tables.get_mut(&view_id) else { return };
        let Some(Index { state: State::Ready(Body::Table(tree)), query, .. }) = self.indexes.get(&index_id) else {
            return;
        };
        if view.keeps_its_rows(self.complete) {
            view.show_first(None, seq, self.stale_upto);
            return;
        }
        let last = view.slot.roots.newest();
        let showed = view.shows.replace(index_id);
        view.shown_question = view.answer.question().cloned();
        view.cut = cut;
        view.awaits = None;
        let had_first = view.first.take().is_some();
        view.load = view.answer.load_state(self.complete);
        let tree = cut.of(tree);
        let same_index = showed == Some(index_id);
        let (changed, same_order) = if same_index {
            let changed = count_differences(&last.tree, &tree);
            (changed, changed == 0)
        } else {
            (tree.len(), is_same_order(&last.tree, &tree))
        };
        let becomes_other = |entry: &Entry| (entry.version <= last.stale_upto) != (entry.version <= self.stale_upto);
        let stale_moves = last.stale_upto != self.stale_upto && tree.iter().any(becomes_other);
        let same = same_order && last.load.same_as(&view.load) && !stale_moves && !had_first;
        // Published even if nothing moves: the sort keys, and so `position_of` and later differences, are new.
        let root = Root {
            generation: if same { last.generation } else { last.generation.next() },
            seq,
            tree,
            query: query.clone(),
            load: view.load.clone(),
            stale_upto: self.stale_upto,
            epoch: last.epoch + u64::from(!same_index || stale_moves),
            changed,
            cause: None,
            first: None,
        };
        let generation = root.generation;
        let gone = view.slot.roots.publish(root);
        view.slot.signal.advance_to(generation);
        if !view.answer.is_awaited() {
            view.slot.queries.ended(request, view.answer.outcome(self.complete));
        }
        self.throw_away(gone);
        if same_index {
            return;
        }
        if let Some(index) = showed.and_then(|showed| self.indexes.get_mut(&showed)) {
            index.shown_by.retain(|other| *other != view_id);
        }
        if let Some(index) = self.indexes.get_mut(&index_id) {
            index.shown_by.push(view_id);
        }
    }

    fn fail(&mut self, view_id: ViewId, request: u64, seq: Seq, error: &Error) {
        let Some(view) = self.tables.get_mut(&view_id) else { return };
        view.awaits = None;
        let was_asked_for = view.answer.give_up();
        if view.shows.is_some() {
            view.show_first(None, seq, self.stale_upto);
        }
        if was_asked_for {
            view.show_load(LoadState::Failed(error.clone()), seq, self.stale_upto);
        }
        view.first = None;
        if view.shows.is_none() {
            view.load = LoadState::Failed(error.clone());
            let last = view.slot.roots.newest();
            let root = Root {
                generation: last.generation.next(),
                seq,
                tree: Tree::new(),
                query: last.query.clone(),
                load: view.load.clone(),
                stale_upto: self.stale_upto,
                epoch: last.epoch + 1,
                changed: 0,
                cause: None,
                first: None,
            };
            let generation = root.generation;
            view.slot.roots.publish(root);
            view.slot.signal.advance_to(generation);
        }
        view.slot.queries.ended(request, Err(error.clone()));
    }

    /// Lets go of views whose handles are gone and of indexes that nobody shows or awaits.
    pub(super) fn sweep(&mut self) {
        let (tables, indexes) = (&mut self.tables, &mut self.indexes);
        tables.retain(|id, view| {
            let dropped = view.slot.is_dropped();
            if dropped && let Some(index) = view.shows.and_then(|shown| indexes.get_mut(&shown)) {
                index.shown_by.retain(|other| other != id);
            }
            !dropped
        });
        self.customs.sweep();
        let tables = self.tables.values();
        let wanted = tables.flat_map(|view| [view.shows, view.awaits.map(|awaited| awaited.index)]).flatten();
        let wanted: HashSet<u64> = wanted.chain(self.customs.indexes()).collect();
        let is_used = |index: &Index| match &index.value {
            Some(slot) => !slot.is_dropped(),
            None => wanted.contains(&index.id),
        };
        let unused: Vec<u64> = self.indexes.values().filter(|index| !is_used(index)).map(|index| index.id).collect();
        for id in unused {
            if let Some(index) = self.remove_index(id)
                && matches!(&index.state, State::Ready(Body::Table(tree)) if tree.len() >= LARGE)
            {
                self.waste.push(Waste::Index(index));
            }
        }
    }

    pub(super) fn close(&mut self) {
        self.waste.clear();
        for view in self.tables.values() {
            view.slot.close();
        }
        for index in self.indexes.values() {
            if let State::Building(build) = &index.state {
                build.cancel.cancel();
            }
            if let Some(slot) = &index.value {
                slot.close();
            }
        }
        self.customs.close();
        self.indexes.clear();
        self.router.clear();
        self.building.clear();
        self.tables.clear();
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Core {
    /// Lets go of views and indexes that nobody needs; what is large is freed elsewhere.
    pub(super) fn sweep_views(&mut self) {
        self.views.sweep();
        self.free_waste();
    }

    /// What views no longer keep goes away, elsewhere if that takes long.
    pub(super) fn throw_away(&mut self, gone: Gone) {
        // Behind a long job too much would wait.
        if gone.entries() >= LARGE || gone.entries() >= MANY && !self.to.build_pool.has_waiting() {
            self.views.waste.push(Waste::Roots(gone));
        }
        self.free_waste();
    }

    fn free_waste(&mut self) {
        if !self.views.waste.is_empty() {
            let waste = std::mem::take(&mut self.views.waste);
            // A pool that takes no more drops it here.
            let _ = self.to.build_pool.submit(self.to.build_rank, Box::new(move || drop(waste)));
        }
    }

    pub(super) fn set_query(
        &mut self,
        view: ViewId,
        slot: Opening<TableSlot>,
        query: Arc<ViewQuery>,
        cut: Cut,
        request: u64,
        asking: Option<Asking>,
    ) {
        let Some(slot) = slot.arrived() else { return };
        self.views.complete = self.complete;
        self.views.stale_upto = self.stale_upto;
        let index = self.table_index(&query);
        let entry = self.views.tables.entry(view).or_insert_with(|| TableView {
            slot,
            wanted: query.clone(),
            answer: Answer::default(),
            shows: None,
            shown_question: None,
            cut,
            awaits: None,
            first: None,
            load: LoadState::Loading,
        });
        entry.wanted = query.clone();
        entry.answer = Answer::of(asking, request);
        if entry.answer.is_awaited() {
            entry.show_load(load_state(self.complete), self.seq, self.stale_upto);
        }
        let awaited = Awaited { index, cut, request };
        let superseded = entry.awaits.replace(awaited).is_some_and(|before| before.index != index || before.cut != cut);
        if superseded {
            let first = first_part(&self.views.indexes, awaited);
            entry.show_first(first, self.seq, self.stale_upto);
        }
        if matches!(self.views.indexes.get(&index), Some(Index { state: State::Ready(_), .. })) {
            self.views.land(view, awaited, self.seq);
        }
        self.give_up_refused(index);
        self.sweep_views();
    }

    /// The index of the rows in this order: that of other views, or a new one.
    pub(super) fn table_index(&mut self, query: &Arc<ViewQuery>) -> u64 {
        let is_same = |index: &&Index| index.value.is_none() && index.query.canonical() == query.canonical();
        match self.views.indexes.values().find(is_same).map(|index| index.id) {
            Some(index) => index,
            None => self.start_index(BodyKind::Table, query.clone(), None),
        }
    }

    pub(super) fn open_value(&mut self, slot: Opening<ValueSlot>, query: Arc<ViewQuery>, aggregate: BuiltIn) {
        let Some(slot) = slot.arrived() else { return };
        let index = self.start_index(BodyKind::Value(aggregate), query, Some(slot));
        self.show_value(index);
        self.give_up_refused(index);
    }

    /// Makes an index; the build thread fills it, unless there is nothing to fill it with.
    fn start_index(&mut self, kind: BodyKind, query: Arc<ViewQuery>, value: Option<Arc<ValueSlot>>) -> u64 {
        let id = self.views.next_number();
        let state = if self.rows == 0 {
            State::Ready(Body::empty(&kind))
        } else {
            self.views.building.insert(id);
            State::Building(self.start_build(id, &kind, &query, 1))
        };
        self.views.router.add(id, query.guard());
        self.views.indexes.insert(id, Index { id, kind, query, state, value, shown_by: Vec::new(), side: None });
        id
    }

    fn show_value(&mut self, index_id: u64) {
        let Some(Index { state: State::Ready(Body::Value(accumulator)), value: Some(slot), .. }) =
            self.views.indexes.get(&index_id)
        else {
            return;
        };
        if let Some(generation) = slot.show(accumulator.result(), self.seq) {
            slot.signal.advance_to(generation);
        }
        slot.opened();
    }
}
