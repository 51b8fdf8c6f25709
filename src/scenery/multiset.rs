//! Multiset: the values of a column in their order, each with how often it occurs: the least, the greatest, how many differ.
//!
//! Owner: the core, as a part of a value view; a build thread while it is filled.
//! Flow: [`add`](Multiset::add) and [`remove`](Multiset::remove) note changes → [`settle`](Multiset::settle) makes them at
//! once, those that undo each other left out.
//! Invariants:
//! 1. What it tells depends only on which values are in, never on what came and went
//!    (`any_history_equals_a_recompute`).
//! 2. One change, the removal of the least or the greatest included, visits O(log n) nodes
//!    (`one_change_visits_a_path_of_the_tree_whatever_its_size`).

use std::cmp::Ordering;

use crate::scenery::index::key::SortKey;
use crate::scenery::index::tree::{Item, Tree};
use crate::value::{TypeRank, Value, ValueRef, encode_sort_key};

/// Changed values from which on the tree is changed in one pass.
const MANY: usize = 256;

/// A value and how often it is in; or, not settled yet, by how much that changes.
#[derive(Debug, Clone)]
struct Counted {
    key: SortKey,
    /// The value itself, as CBOR: values that are equal in the order need not be the same. Empty when none is ever shown.
    value: SortKey,
    times: i64,
}

impl Item for Counted {
    fn order(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key).then_with(|| self.value.cmp(&other.value))
    }

    fn same(&self, other: &Self) -> bool {
        self.times == other.times && self.order(other) == Ordering::Equal
    }
}

/// Values that are not null, and how often each is in.
#[derive(Clone)]
pub(crate) struct Multiset {
    tree: Tree<Counted>,
    unsettled: Vec<Counted>,
    /// Whether values that are equal in the order are told apart, which only who shows one needs.
    keeps_values: bool,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Multiset {
    /// An empty one whose least and greatest value can be asked for.
    pub(crate) fn of_values() -> Self {
        Multiset { tree: Tree::new(), unsettled: Vec::new(), keeps_values: true, key: Vec::new(), value: Vec::new() }
    }

    /// An empty one that only tells how many values differ in the order.
    pub(crate) fn of_keys() -> Self {
        Multiset { keeps_values: false, ..Multiset::of_values() }
    }

    /// Puts a value in; `false` for null, which is left out, as is a value whose bytes are damaged.
    pub(crate) fn add(&mut self, value: Option<ValueRef<'_>>) -> bool {
        self.note(value, 1)
    }

    /// Takes a value out that was put in; `false` for what was left out.
    pub(crate) fn remove(&mut self, value: Option<ValueRef<'_>>) -> bool {
        self.note(value, -1)
    }

    fn note(&mut self, value: Option<ValueRef<'_>>, times: i64) -> bool {
        let Some(value) = value else { return false };
        self.key.clear();
        encode_sort_key(Some(value), false, &mut self.key);
        if self.key.first() == Some(&(TypeRank::Null as u8)) {
            return false;
        }
        self.value.clear();
        if self.keeps_values && value.encode(&mut self.value).is_none() {
            return false;
        }
        self.unsettled.push(Counted { key: SortKey::new(&self.key), value: SortKey::new(&self.value), times });
        true
    }

    /// Makes the changes noted since the last time: O(log n) each, and one pass for many.
    pub(crate) fn settle(&mut self) {
        self.unsettled.sort_unstable_by(Counted::order);
        self.unsettled.dedup_by(|next, kept| {
            let same = next.order(kept) == Ordering::Equal;
            if same {
                kept.times += next.times;
            }
            same
        });
        self.unsettled.retain(|changed| changed.times != 0);
        let many = self.unsettled.len() >= MANY;
        let (mut removes, mut inserts) = (Vec::new(), Vec::new());
        for mut changed in self.unsettled.drain(..) {
            changed.times += self.tree.get_equal(&changed).map_or(0, |present| present.times);
            if changed.times != 0 {
                inserts.push(changed);
            } else {
                removes.push(changed);
            }
        }
        self.tree.merge_sorted(&removes, &inserts);
        if many {
            // A first filling leaves room for as many again.
            self.unsettled = Vec::new();
        }
    }

    /// How many values differ: in the order for [`of_keys`](Self::of_keys).
    pub(crate) fn distinct(&self) -> u64 {
        self.tree.len() as u64
    }

    /// The least value in the order; of those equal in it always the same one, a whole number before a float.
    pub(crate) fn least(&self) -> Option<Value> {
        self.tree.get(0).and_then(Counted::shown)
    }

    /// The greatest value in the order; of those equal in it the same one that [`least`](Self::least) would take.
    pub(crate) fn greatest(&self) -> Option<Value> {
        let last = self.tree.get(self.tree.len().checked_sub(1)?)?;
        let before_its_equals = Counted { key: last.key.clone(), value: SortKey::new(&[]), times: 0 };
        let (Ok(first) | Err(first)) = self.tree.find(&before_its_equals);
        self.tree.get(first).and_then(Counted::shown)
    }
}

impl Counted {
    fn shown(&self) -> Option<Value> {
        ValueRef::read(&self.value.bytes())?.to_value()
    }
}

#[cfg(test)]
mod tests;
