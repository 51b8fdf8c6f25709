//! First: the first rows of an order that is still being made, shown to those who await it.
//!
//! Invariants: they are what the order begins with, as of the newest batch
//! (`t13_changes_of_the_first_rows_are_in_them`); whoever awaits something else sees none of them.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::dio::core::views::builds::Build;
use crate::dio::core::views::{Awaited, Body, Index, State, TableView, Views};
use crate::dio::core::{Core, First};
use crate::scenery::cut::Cut;
use crate::scenery::index::key::Entry;
use crate::scenery::index::tree::Tree;
use crate::scenery::snapshot::{FirstPart, TableSlot};
use crate::scenery::view_query::ViewQuery;
use crate::{Generation, Seq};

/// What a view publishes of the first rows that it awaits.
pub(super) fn first_part(indexes: &HashMap<u64, Index>, awaited: Awaited) -> Option<Arc<FirstPart>> {
    let index = indexes.get(&awaited.index)?;
    let State::Building(Build { first: Some(first), .. }) = &index.state else { return None };
    let tree = match awaited.cut {
        Cut::Last(_) => return None,
        cut => cut.of(first.tree()),
    };
    tree.get(0).is_some().then(|| Arc::new(FirstPart { tree, query: index.query.clone() }))
}

impl TableView {
    /// Publishes other first rows of what it awaits, beside the rows that it shows. The caller moves the generation.
    pub(super) fn with_first(&self, seq: Seq, stale_upto: Seq) -> (Arc<TableSlot>, Generation) {
        let root = self.slot.roots.newest().with_first(self.first.clone(), seq, stale_upto);
        let generation = root.generation;
        drop(self.slot.roots.publish(root));
        (self.slot.clone(), generation)
    }

    pub(super) fn show_first(&mut self, first: Option<Arc<FirstPart>>, seq: Seq, stale_upto: Seq) {
        if self.first.is_none() && first.is_none() {
            return;
        }
        self.first = first;
        let (slot, generation) = self.with_first(seq, stale_upto);
        slot.signal.advance_to(generation);
    }
}

impl Core {
    /// Shows the first rows of what is being built to those who await it, unless the whole is about to come.
    pub(in crate::dio::core) fn first_made(&mut self, index_id: u64, number: u64, mut first: First, taken: usize) {
        let Some(index) = self.views.indexes.get_mut(&index_id) else { return };
        let State::Building(build) = &mut index.state else { return };
        let Some(batches) = build.recorded.since(taken) else { return };
        if build.number != number || build.cancel.is_cancelled() {
            return;
        }
        for batch in batches {
            first.apply(&index.query, &batch, &mut self.views.scratch.key);
        }
        build.first = Some(first);
        self.show_first_of(index_id);
    }

    /// Publishes the first rows of an index, or that there are none any more, to those who await it.
    pub(super) fn show_first_of(&mut self, index_id: u64) {
        for (view, awaited) in self.views.waiting_for(index_id) {
            let first = first_part(&self.views.indexes, awaited);
            if let Some(view) = self.views.tables.get_mut(&view) {
                view.show_first(first, self.seq, self.stale_upto);
            }
        }
    }
}

impl Views {
    /// A ready list in the order of a query that holds every row that matches it.
    pub(super) fn ordered_for(&self, query: &ViewQuery) -> Option<Tree<Entry>> {
        let is_one = |index: &&Index| query.orders_like(&index.query) && query.narrows(&index.query);
        let lists = self.indexes.values().filter(is_one).filter_map(|index| match &index.state {
            State::Ready(Body::Table(tree)) => Some(tree),
            _ => None,
        });
        lists.min_by_key(|tree| tree.len()).cloned()
    }
}
