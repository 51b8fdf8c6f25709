//! Tree: a persistent, counted B+tree: a sorted list whose clones cost one reference count and never change.
//!
//! Owner: whoever holds it; a change copies the nodes on its path that another clone still shares, and no others.
//! Invariants (all checked after every step of `any_sequence_of_changes_equals_a_sorted_map`):
//! 1. items ascend strictly by [`Item::order`]; all leaves are equally deep;
//! 2. a child's `count` is the number of items below it, its `first` a copy of the first of them;
//! 3. every node but the root holds as many items or children as its [`Limits`] say; a root that is a branch at least two.

mod merge;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use merge::{Edits, Merged, merge_below};

/// What a [`Tree`] holds: something with a total order, and a payload that may differ under an equal order.
pub(crate) trait Item: Clone {
    /// The order of the list. Two items of equal order replace each other.
    fn order(&self, other: &Self) -> Ordering;
    /// Whether the payload is equal too. Implies equal order.
    fn same(&self, other: &Self) -> bool;
}

/// How many nodes this thread's lookups and changes have looked at or copied: what the tests of O(log n) count.
#[cfg(test)]
pub(crate) mod visits {
    use std::cell::Cell;

    thread_local!(static VISITS: Cell<u64> = const { Cell::new(0) });

    pub(super) fn count() {
        VISITS.with(|visits| visits.set(visits.get() + 1));
    }

    /// The nodes visited since the last call.
    pub(crate) fn take() -> u64 {
        VISITS.with(Cell::take)
    }
}

#[inline]
fn visit() {
    #[cfg(test)]
    visits::count();
}

/// More levels than a tree can have: each has at least two children, so this is more rows than memory can hold.
const MAX_DEPTH: usize = 40;

/// A sorted list of items without duplicates. Lookups, changes and positions cost O(log n), `clone` O(1).
///
/// A leaf holds up to `CAP` items. `benches/index.rs` has the figures behind 32: 16 and 64 make a move of a row dearer.
pub(crate) struct Tree<T, const CAP: usize = 32> {
    root: Node<T, CAP>,
    len: usize,
}

/// A node, which trees share. Its items or children stand beside the reference count: a copy is one allocation, and a look
/// at it follows one pointer.
pub(super) enum Node<T, const CAP: usize> {
    Leaf(Arc<[T]>),
    Branch(Arc<[Child<T, CAP>]>),
}

pub(super) struct Child<T, const CAP: usize> {
    pub(super) first: T,
    pub(super) count: usize,
    pub(super) node: Node<T, CAP>,
}

/// How much a kind of node holds.
#[derive(Clone, Copy)]
struct Limits {
    most: usize,
    /// What a bulk load puts in: a little less, so that the first edits don't split every node.
    fill: usize,
    /// The least, unless the node is the root.
    least: usize,
}

impl Limits {
    const fn up_to(most: usize) -> Self {
        assert!(most >= 4 && most < u16::MAX as usize, "a node can be halved, and a slot is a u16");
        Limits { most, fill: most - most / 16, least: if most / 4 > 2 { most / 4 } else { 2 } }
    }
}

impl<T, const CAP: usize> Node<T, CAP> {
    const LEAF: Limits = Limits::up_to(CAP);
    /// Branches are narrower: a copy of one touches the reference count of every child, each a cache line of its own. That is
    /// most of what a change costs.
    const BRANCH: Limits = Limits::up_to(if CAP * 3 / 8 > 4 { CAP * 3 / 8 } else { 4 });

    fn limits(&self) -> Limits {
        match self {
            Node::Leaf(_) => Self::LEAF,
            Node::Branch(_) => Self::BRANCH,
        }
    }
}

impl<T, const CAP: usize> Clone for Tree<T, CAP> {
    fn clone(&self) -> Self {
        Tree { root: self.root.clone(), len: self.len }
    }
}

impl<T: Item, const CAP: usize> Default for Tree<T, CAP> {
    fn default() -> Self {
        Tree::new()
    }
}

impl<T: Item, const CAP: usize> Tree<T, CAP> {
    /// A tree without items.
    pub(crate) fn new() -> Self {
        Tree { root: Node::empty(), len: 0 }
    }

    /// A tree of these items. Meant for ascending items, which are packed densely in one pass; an item out of order is
    /// inserted afterwards, and one of equal order replaces the earlier.
    pub(crate) fn from_sorted(items: impl IntoIterator<Item = T>) -> Self {
        let mut leaves: Groups<T> = Groups::new(Node::<T, CAP>::LEAF);
        let mut out_of_order = Vec::new();
        for item in items {
            match leaves.last() {
                Some(last) if last.order(&item) != Ordering::Less => out_of_order.push(item),
                _ => leaves.push(item),
            }
        }
        let mut tree = Tree::over(leaves.finish().map(Node::Leaf).filter_map(Child::of).collect());
        for item in out_of_order {
            tree.insert(item);
        }
        tree
    }

    /// A tree over nodes of one height.
    fn over(mut level: Vec<Child<T, CAP>>) -> Self {
        while level.len() > 1 {
            let mut branches = Groups::new(Node::<T, CAP>::BRANCH);
            for child in level {
                branches.push(child);
            }
            level = branches.finish().map(Node::Branch).filter_map(Child::of).collect();
        }
        match level.pop() {
            Some(top) => Tree { root: top.node, len: top.count },
            None => Tree::new(),
        }
    }

    /// How many items it holds.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    /// Whether it holds no item.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether both are clones of one tree, neither changed since. `false` says nothing about equality.
    pub(crate) fn ptr_eq(&self, other: &Self) -> bool {
        self.root.ptr_eq(&other.root)
    }

    pub(super) fn root(&self) -> &Node<T, CAP> {
        &self.root
    }

    /// Puts the item in its place; gives back the item of equal order that stood there.
    pub(crate) fn insert(&mut self, item: T) -> Option<T> {
        let present = self.get_equal(&item).cloned();
        // An identical item changes nothing, so that clones keep sharing everything.
        if present.as_ref().is_none_or(|present| !present.same(&item)) {
            self.merge(Edits::new(&[], std::slice::from_ref(&item)));
        }
        present
    }

    /// Takes out the item of equal order.
    pub(crate) fn remove(&mut self, probe: &T) -> Option<T> {
        let removed = self.get_equal(probe).cloned()?;
        self.merge(Edits::new(std::slice::from_ref(probe), &[]));
        Some(removed)
    }

    /// Takes out all of `removes`, then puts in all of `inserts`. Sorted lists cost one walk over the nodes that they
    /// concern, and those that make up a large share of the tree one pass over it; others O(log n) an item.
    pub(crate) fn merge_sorted(&mut self, removes: &[T], inserts: &[T]) {
        let ascending = |list: &[T]| list.is_sorted_by(|a, b| a.order(b) == Ordering::Less);
        if !ascending(removes) || !ascending(inserts) {
            for item in removes {
                self.remove(item);
            }
            for item in inserts {
                self.insert(item.clone());
            }
            return;
        }
        let edits = Edits::new(removes, inserts);
        if (removes.len() + inserts.len()).saturating_mul(REBUILD_SHARE) >= self.len {
            *self = Tree::from_sorted(Merged::new(self.iter(), edits));
        } else if edits.first().is_some() {
            self.merge(edits);
        }
    }

    /// Applies edits, of which there are some.
    fn merge(&mut self, edits: Edits<'_, T>) {
        let right = merge_below(&mut self.root, edits);
        if !right.is_empty() {
            *self = Tree::over(Child::of(self.root.clone()).into_iter().chain(right).collect());
            return;
        }
        while let Node::Branch(children) = &self.root
            && let [] | [_] = &**children
        {
            self.root = children.first().map_or_else(Node::empty, |only| only.node.clone());
        }
        self.len = self.root.count();
    }

    /// The item at a position.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len {
            return None;
        }
        let mut node = &self.root;
        let mut skip = index;
        loop {
            visit();
            match node {
                Node::Leaf(items) => return items.get(skip),
                Node::Branch(children) => {
                    let slot = child_holding(children, &mut skip);
                    node = &children[slot].node;
                }
            }
        }
    }

    /// The position of the item of equal order, or the position it would take.
    pub(crate) fn find(&self, probe: &T) -> Result<usize, usize> {
        let mut node = &self.root;
        let mut before = 0;
        loop {
            visit();
            match node {
                Node::Leaf(items) => {
                    return match items.binary_search_by(|item| item.order(probe)) {
                        Ok(slot) => Ok(before + slot),
                        Err(slot) => Err(before + slot),
                    };
                }
                Node::Branch(children) => {
                    let slot = child_slot(children, probe);
                    before += children[..slot].iter().map(|child| child.count).sum::<usize>();
                    node = &children[slot].node;
                }
            }
        }
    }

    /// The item of equal order, whatever its payload.
    pub(crate) fn get_equal(&self, probe: &T) -> Option<&T> {
        let mut node = &self.root;
        loop {
            visit();
            match node {
                Node::Leaf(items) => {
                    return items.binary_search_by(|item| item.order(probe)).ok().map(|slot| &items[slot]);
                }
                Node::Branch(children) => node = &children[child_slot(children, probe)].node,
            }
        }
    }

    #[cfg(test)]
    /// The item of equal order, if its payload is the same too.
    pub(crate) fn get_same(&self, probe: &T) -> Option<&T> {
        self.get_equal(probe).filter(|item| item.same(probe))
    }

    /// The items of a range of positions, as a tree that shares all but O(log n) nodes with this one. It is for reading: its
    /// edges may be filled less than a tree that changes needs.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.len);
        let start = range.start.min(end);
        let mut root = part_of(&self.root, self.len, start, end);
        while let Node::Branch(children) = &root
            && let [only] = &**children
        {
            root = only.node.clone();
        }
        Tree { root, len: end - start }
    }

    /// All items in order.
    pub(crate) fn iter(&self) -> Iter<'_, T, CAP> {
        self.iter_from(0)
    }

    /// The items from a position on, in order: O(log n) to start, then O(1) an item on average.
    pub(crate) fn iter_from(&self, index: usize) -> Iter<'_, T, CAP> {
        let mut iter =
            Iter { leaf: [].iter(), above: [&[]; MAX_DEPTH], depth: 0, left: self.len.saturating_sub(index) };
        if iter.left == 0 {
            return iter;
        }
        let mut node = &self.root;
        let mut skip = index;
        loop {
            match node {
                Node::Leaf(items) => {
                    iter.leaf = items[skip..].iter();
                    return iter;
                }
                Node::Branch(children) => {
                    let slot = child_holding(children, &mut skip);
                    iter.above[iter.depth] = &children[slot + 1..];
                    iter.depth += 1;
                    node = &children[slot].node;
                }
            }
        }
    }
}

/// The items from `start` to `end` below a node with `count` of them.
fn part_of<T: Item, const CAP: usize>(node: &Node<T, CAP>, count: usize, start: usize, end: usize) -> Node<T, CAP> {
    if start == 0 && end == count {
        return node.clone();
    }
    visit();
    match node {
        _ if start >= end => Node::empty(),
        Node::Leaf(items) => Node::Leaf(items[start..end].into()),
        Node::Branch(children) => {
            let mut before = 0;
            let mut parts = Vec::new();
            for child in children.iter() {
                let (first, last) = (start.saturating_sub(before), end.saturating_sub(before).min(child.count));
                before += child.count;
                if first < last {
                    parts.extend(Child::of(part_of(&child.node, child.count, first, last)));
                }
            }
            Node::Branch(parts.into())
        }
    }
}

/// From this share (one in so many) on, a batch rebuilds the tree: measured in `benches/index.rs`.
const REBUILD_SHARE: usize = 8;

/// The child that holds an item of this order, or would. One after the other: the processor fetches the next ones ahead,
/// which it can't when each look depends on the last.
fn child_slot<T: Item, const CAP: usize>(children: &[Child<T, CAP>], probe: &T) -> usize {
    children
        .iter()
        .skip(1)
        .position(|child| child.first.order(probe) == Ordering::Greater)
        .unwrap_or(children.len().saturating_sub(1))
}

/// The child that holds the `index`-th item below a branch; leaves in `index` its position in that child.
fn child_holding<T, const CAP: usize>(children: &[Child<T, CAP>], index: &mut usize) -> usize {
    let mut slot = 0;
    while *index >= children[slot].count {
        *index -= children[slot].count;
        slot += 1;
    }
    slot
}

impl<T: Item, const CAP: usize> Child<T, CAP> {
    /// `None` for an empty node, which has no place in a branch.
    fn of(node: Node<T, CAP>) -> Option<Self> {
        let first = node.first()?.clone();
        Some(Child { first, count: node.count(), node })
    }

    /// The node has changed.
    fn refresh(&mut self) {
        if let Some(first) = self.node.first() {
            self.first = first.clone();
        }
        self.count = self.node.count();
    }
}

impl<T: Clone, const CAP: usize> Clone for Child<T, CAP> {
    fn clone(&self) -> Self {
        Child { first: self.first.clone(), count: self.count, node: self.node.clone() }
    }
}

impl<T, const CAP: usize> Clone for Node<T, CAP> {
    fn clone(&self) -> Self {
        match self {
            Node::Leaf(items) => Node::Leaf(Arc::clone(items)),
            Node::Branch(children) => Node::Branch(Arc::clone(children)),
        }
    }
}

impl<T: Item, const CAP: usize> Node<T, CAP> {
    fn empty() -> Self {
        Node::Leaf(Arc::default())
    }

    pub(super) fn ptr_eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Node::Leaf(a), Node::Leaf(b)) => Arc::ptr_eq(a, b),
            (Node::Branch(a), Node::Branch(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    fn first(&self) -> Option<&T> {
        match self {
            Node::Leaf(items) => items.first(),
            Node::Branch(children) => children.first().map(|child| &child.first),
        }
    }

    fn width(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(children) => children.len(),
        }
    }

    fn is_too_narrow(&self) -> bool {
        self.width() < self.limits().least
    }

    /// How many items are below it.
    fn count(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Branch(children) => children.iter().map(|child| child.count).sum(),
        }
    }
}

/// Cuts an ascending stream into nodes of `fill`, the last two levelled so that none is too small.
struct Groups<E> {
    done: Vec<Arc<[E]>>,
    /// The last whole one, which may have to give some to the open one.
    previous: Vec<E>,
    open: Vec<E>,
    limits: Limits,
}

impl<E> Groups<E> {
    fn new(limits: Limits) -> Self {
        Groups {
            done: Vec::new(),
            previous: Vec::with_capacity(limits.fill),
            open: Vec::with_capacity(limits.fill),
            limits,
        }
    }

    fn last(&self) -> Option<&E> {
        self.open.last()
    }

    fn push(&mut self, element: E) {
        if self.open.len() == self.limits.fill {
            self.close_previous();
            std::mem::swap(&mut self.previous, &mut self.open);
        }
        self.open.push(element);
    }

    fn close_previous(&mut self) {
        if !self.previous.is_empty() {
            self.done.push(self.previous.drain(..).collect());
        }
    }

    fn finish(mut self) -> impl Iterator<Item = Arc<[E]>> {
        if self.open.len() < self.limits.least && !self.previous.is_empty() {
            self.previous.append(&mut self.open);
            if self.previous.len() > self.limits.most {
                self.open.extend(self.previous.drain(self.previous.len() / 2..));
            }
        }
        self.close_previous();
        std::mem::swap(&mut self.previous, &mut self.open);
        self.close_previous();
        self.done.into_iter()
    }
}

/// The items of a tree in order, from a position on.
pub(crate) struct Iter<'a, T, const CAP: usize> {
    leaf: std::slice::Iter<'a, T>,
    /// For each branch above the leaf, the children still to come.
    above: [&'a [Child<T, CAP>]; MAX_DEPTH],
    depth: usize,
    left: usize,
}

impl<'a, T, const CAP: usize> Iterator for Iter<'a, T, CAP> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some(item) = self.leaf.next() {
                self.left -= 1;
                return Some(item);
            }
            let level = self.depth.checked_sub(1)?;
            match self.above[level].split_first() {
                None => self.depth = level,
                Some((child, rest)) => {
                    self.above[level] = rest;
                    match &child.node {
                        Node::Leaf(items) => self.leaf = items.iter(),
                        Node::Branch(children) => {
                            self.above[self.depth] = children;
                            self.depth += 1;
                        }
                    }
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T, const CAP: usize> ExactSizeIterator for Iter<'_, T, CAP> {}
