//! Merge: taking items out of a tree and putting others in, in one walk over the nodes that hold them.
//!
//! Invariants: those of the tree, once the caller has mended the node at the top (`any_sequence_of_changes_equals_a_sorted_map`).

use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;

use super::{Child, Item, Limits, Node, child_slot, visit};

/// Items to take out, then items to put in; both lists ascend.
pub(super) struct Edits<'a, T> {
    removes: &'a [T],
    inserts: &'a [T],
}

impl<T> Clone for Edits<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Edits<'_, T> {}

impl<'a, T: Item> Edits<'a, T> {
    pub(super) fn new(removes: &'a [T], inserts: &'a [T]) -> Self {
        Edits { removes, inserts }
    }

    /// The first item that they concern.
    pub(super) fn first(&self) -> Option<&'a T> {
        match (self.removes.first(), self.inserts.first()) {
            (Some(remove), Some(insert)) => Some(if remove.order(insert) == Ordering::Less { remove } else { insert }),
            (remove, insert) => remove.or(insert),
        }
    }

    /// Takes off those that concern what comes before `bound`, or all.
    fn take_before(&mut self, bound: Option<&T>) -> Self {
        let Some(bound) = bound else { return std::mem::replace(self, Edits::new(&[], &[])) };
        let (removes, removes_left) = self.removes.split_at(count_before(self.removes, bound));
        let (inserts, inserts_left) = self.inserts.split_at(count_before(self.inserts, bound));
        *self = Edits::new(removes_left, inserts_left);
        Edits::new(removes, inserts)
    }

    /// Takes off those of `item`'s order, which is that of the first: whether it is taken out, and what is put in.
    fn take(&mut self, item: &T) -> (bool, Option<&'a T>) {
        let is_removed = self.removes.first().is_some_and(|remove| remove.order(item) == Ordering::Equal);
        if is_removed {
            self.removes = &self.removes[1..];
        }
        let put = self.inserts.first().filter(|insert| insert.order(item) == Ordering::Equal);
        if put.is_some() {
            self.inserts = &self.inserts[1..];
        }
        (is_removed, put)
    }
}

/// How many items come before `bound`. They are mostly few of many.
fn count_before<T: Item>(items: &[T], bound: &T) -> usize {
    let is_before = |item: &T| item.order(bound) == Ordering::Less;
    let mut step = 1;
    while items.get(step - 1).is_some_and(is_before) {
        step *= 2;
    }
    let (from, to) = (step / 2, items.len().min(step - 1));
    from + items[from..to].partition_point(is_before)
}

/// Applies edits, of which there are some, below a node. Gives back the nodes to its right that it takes when it becomes too
/// wide. The node itself may be left too narrow, or empty: the caller mends that.
pub(super) fn merge_below<T: Item, const CAP: usize>(
    node: &mut Node<T, CAP>,
    mut edits: Edits<'_, T>,
) -> Vec<Child<T, CAP>> {
    visit();
    let children = match node {
        Node::Leaf(items) => {
            if let Some(edited) = with_one_edit(items, edits, Node::<T, CAP>::LEAF.most) {
                *items = edited;
                return Vec::new();
            }
            let mut edited = merged(items, edits);
            let right = cut_off(&mut edited, Node::<T, CAP>::LEAF, Node::Leaf);
            *items = edited.into();
            return right;
        }
        Node::Branch(children) => children,
    };
    if Arc::strong_count(children) > 1 {
        // What `make_mut` would do, but its copies go by way of the stack, which takes twice as long.
        *children = children.iter().cloned().collect();
    }
    let own = Arc::make_mut(children);
    let mut at = 0;
    let mut is_too_narrow = false;
    let mut cut_off_below = Vec::new();
    while let Some(first) = edits.first() {
        at += child_slot(&own[at..], first);
        let edits_below = edits.take_before(own.get(at + 1).map(|next| &next.first));
        let child = &mut own[at];
        let right = merge_below(&mut child.node, edits_below);
        child.refresh();
        is_too_narrow |= child.node.is_too_narrow();
        at += 1;
        if !right.is_empty() {
            cut_off_below.push((at, right));
        }
    }
    if !is_too_narrow && cut_off_below.is_empty() {
        return Vec::new();
    }
    let mut joined = own.to_vec();
    for (at, right) in cut_off_below.into_iter().rev() {
        joined.splice(at..at, right);
    }
    if is_too_narrow {
        mend(&mut joined);
    }
    let right = cut_off(&mut joined, Node::<T, CAP>::BRANCH, Node::Branch);
    *children = joined.into();
    right
}

/// The items of a leaf with the one edit applied, if there are no more and they fit into a leaf.
fn with_one_edit<T: Item>(items: &[T], mut edits: Edits<'_, T>, most: usize) -> Option<Arc<[T]>> {
    let first = edits.first()?;
    let (is_removed, put) = edits.take(first);
    if edits.first().is_some() {
        return None;
    }
    let (before, found) = place(items, first);
    let present = if is_removed { None } else { items[before..before + found].first() };
    let kept = put.or(present);
    let after = &items[before + found..];
    (before + usize::from(kept.is_some()) + after.len() <= most)
        .then(|| items[..before].iter().chain(kept).chain(after).cloned().collect())
}

/// How many items come before one of this order, and whether (1) or not (0) that one is there. One after the other: they are
/// all copied anyway, and so they are fetched ahead.
fn place<T: Item>(items: &[T], probe: &T) -> (usize, usize) {
    let mut slot = 0;
    for item in items {
        match item.order(probe) {
            Ordering::Less => slot += 1,
            Ordering::Equal => return (slot, 1),
            Ordering::Greater => break,
        }
    }
    (slot, 0)
}

/// The items of a leaf with edits applied.
fn merged<T: Item>(mut items: &[T], mut edits: Edits<'_, T>) -> Vec<T> {
    let mut merged = Vec::with_capacity(items.len() + edits.inserts.len());
    while let Some(first) = edits.first() {
        let (before, found) = place(items, first);
        merged.extend_from_slice(&items[..before]);
        let present = &items[before..before + found];
        items = &items[before + found..];
        match edits.take(first) {
            (_, Some(put)) => merged.push(put.clone()),
            (true, None) => {}
            (false, None) => merged.extend_from_slice(present),
        }
    }
    merged.extend_from_slice(items);
    merged
}

/// Cuts what is too wide for one node into even parts; the first stays.
fn cut_off<E, T: Item, const CAP: usize>(
    of: &mut Vec<E>,
    limits: Limits,
    node: impl Fn(Arc<[E]>) -> Node<T, CAP>,
) -> Vec<Child<T, CAP>> {
    if of.len() <= limits.most {
        return Vec::new();
    }
    let mut right = Vec::new();
    for parts in (2..=of.len().div_ceil(limits.most)).rev() {
        right.extend(Child::of(node(of.drain(of.len() - of.len() / parts..).collect())));
    }
    right.reverse();
    right
}

/// Joins children that are too narrow with their neighbours, as far as they have any. What is in them is mended too.
fn mend<T: Item, const CAP: usize>(children: &mut Vec<Child<T, CAP>>) {
    let mut at = 0;
    while let Some(child) = children.get(at) {
        if child.node.width() == 0 {
            children.remove(at);
        } else if child.node.is_too_narrow() && children.len() > 1 {
            at = at.saturating_sub(1);
            join(children, at);
        } else {
            at += 1;
        }
    }
}

/// Joins a child with the one to its right, or levels both when they don't fit into one node.
fn join<T: Item, const CAP: usize>(children: &mut Vec<Child<T, CAP>>, at: usize) {
    visit();
    let right = children.remove(at + 1);
    let left = &mut children[at];
    let rest = match (&mut left.node, &right.node) {
        (Node::Leaf(left), Node::Leaf(right)) => {
            let mut both = [&**left, right].concat();
            let rest = cut_off(&mut both, Node::<T, CAP>::LEAF, Node::Leaf);
            *left = both.into();
            rest
        }
        (Node::Branch(left), Node::Branch(right)) => {
            let mut both = [&**left, right].concat();
            // One that had a single child may have left that too narrow.
            mend(&mut both);
            let rest = cut_off(&mut both, Node::<T, CAP>::BRANCH, Node::Branch);
            *left = both.into();
            rest
        }
        // All leaves are equally deep.
        _ => vec![right],
    };
    left.refresh();
    children.splice(at + 1..at + 1, rest);
}

/// Items in order, with edits applied.
pub(super) struct Merged<'a, T, I: Iterator<Item = &'a T>> {
    old: Peekable<I>,
    edits: Edits<'a, T>,
}

impl<'a, T, I: Iterator<Item = &'a T>> Merged<'a, T, I> {
    pub(super) fn new(old: I, edits: Edits<'a, T>) -> Self {
        Merged { old: old.peekable(), edits }
    }
}

impl<'a, T: Item, I: Iterator<Item = &'a T>> Iterator for Merged<'a, T, I> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        loop {
            let Some(first) = self.edits.first() else { return self.old.next().cloned() };
            let order = self.old.peek().map_or(Ordering::Greater, |old| old.order(first));
            if order == Ordering::Less {
                return self.old.next().cloned();
            }
            let present = if order == Ordering::Equal { self.old.next() } else { None };
            let (is_removed, put) = self.edits.take(first);
            let kept = put.or(if is_removed { None } else { present });
            if kept.is_some() {
                return kept.cloned();
            }
        }
    }
}
