//! Sides: the bodies of indexes as a bulk change makes them, beside those that are shown meanwhile.
//!
//! Invariants: until a bulk ends, every change of an index is recorded for its side too; what is made replaces the body in the
//! bulk's one step (`an_edit_during_a_bulk_change_is_published_before_it`).

use std::ops::Range;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::Seq;
use crate::dio::core::Changed;
use crate::dio::core::bulk::{Bodies, Prepared, Side, Todo};
use crate::dio::core::views::{Moved, State, Views};

impl Views {
    /// Brings every body up to a bulk: those that were made for it take in the rest and replace the old ones.
    pub(super) fn bring_up_to_bulk(
        &mut self,
        mut prepared: Prepared,
        batch: &Changed,
        seq: Seq,
        moved: &mut Moved,
    ) -> HashMap<u64, usize> {
        let mut changed = HashMap::new();
        for (id, index) in &mut self.indexes {
            let side = index.side.take();
            let State::Ready(body) = &mut index.state else { continue };
            let entries = match prepared.bodies.remove(id) {
                Some(Some((mut made, mut entries))) => {
                    for batch in side.iter().flat_map(|side| side.take()) {
                        made.apply(&index.query, batch.iter(), &mut self.scratch);
                    }
                    let late = made.apply(&index.query, prepared.late.iter(), &mut self.scratch);
                    // What was taken back may be all that the bulk would have changed here.
                    if entries <= prepared.taken_back {
                        entries = body.count_differences(&made).unwrap_or(entries + late);
                    }
                    *body = made;
                    entries
                }
                Some(None) => body.apply(&index.query, prepared.late.iter(), &mut self.scratch),
                None => body.apply(&index.query, batch.iter(), &mut self.scratch),
            };
            if entries > 0 {
                changed.insert(*id, entries);
                moved.values.extend(index.show_value(seq));
            }
        }
        changed
    }

    /// The bodies that are to be made for a bulk: of every index that is ready and has no part in it yet, and again of those
    /// that are made. Rows are routed to the indexes up to `newest`.
    pub(in crate::dio::core) fn sides(&mut self, newest: u64, bodies: &mut Bodies) -> Vec<Side> {
        let mut sides = Vec::new();
        for (id, index) in &mut self.indexes {
            let State::Ready(body) = &index.state else { continue };
            let todo = match (&index.side, bodies.remove(id)) {
                (None, _) if *id <= newest => Todo::Routed(body.clone()),
                (None, _) => Todo::All(body.clone()),
                (Some(_), Some(Some((body, entries)))) => Todo::Nothing(body, entries),
                (Some(_), known) => {
                    bodies.extend(known.map(|known| (*id, known)));
                    continue;
                }
            };
            let recorded = index.side.get_or_insert_default().clone();
            sides.push(Side { index: *id, query: index.query.clone(), recorded, todo });
        }
        sides
    }

    /// Whether an index became ready after [`sides`](Self::sides).
    pub(in crate::dio::core) fn has_without_side(&self) -> bool {
        self.indexes.values().any(|index| index.side.is_none() && matches!(index.state, State::Ready(_)))
    }

    /// A change that is none for the views, but for the bodies that are made for a bulk.
    pub(in crate::dio::core) fn record_for_sides(&self, change: &Arc<Changed>) {
        for side in self.indexes.values().filter_map(|index| index.side.as_ref()) {
            side.add(change.clone());
        }
    }

    pub(in crate::dio::core) fn forget_sides(&mut self) {
        self.indexes.values_mut().for_each(|index| index.side = None);
    }

    /// Finds out which indexes some rows may concern; says whether any index is to be found so.
    pub(in crate::dio::core) fn route(
        &mut self,
        batch: &Changed,
        places: Range<usize>,
        routed: &mut Vec<(u64, u32)>,
    ) -> bool {
        if !self.router.routes() {
            return false;
        }
        for place in places {
            let (_, before, after) = batch.at(place);
            self.router.route(place as u32, before, after, &mut self.keys, routed);
        }
        true
    }

    /// The indexes that every row concerns.
    pub(in crate::dio::core) fn always(&mut self) -> HashSet<u64> {
        self.router.always().iter().copied().collect()
    }
}
