//! Diff: what changed between two trees, found without looking at what they share.
//!
//! Invariants: a subtree that both trees hold is skipped whole, so the cost follows the changes and not the size
//! (`visited_nodes_follow_the_changes_not_the_size`).

use std::cmp::Ordering;

use super::tree::{Child, Item, Node, Tree};

/// One difference between two trees. Positions are those in the old and in the new tree, untouched by each other.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only the tests look at whole items"))]
pub(crate) enum Delta<'a, T> {
    /// Only the old tree has it.
    Removed { old_index: usize, item: &'a T },
    /// Only the new tree has it.
    Inserted { new_index: usize, item: &'a T },
    /// Both have an item of this order, with different payloads.
    Updated { old_index: usize, new_index: usize, old: &'a T, new: &'a T },
}

/// How many items differ.
pub(crate) fn count_differences<T: Item, const CAP: usize>(old: &Tree<T, CAP>, new: &Tree<T, CAP>) -> usize {
    let mut count = 0;
    diff(old, new, &mut |_| count += 1);
    count
}

/// Calls `visit` with every difference in the order of the items; gives back how many nodes it looked into.
pub(crate) fn diff<'a, T: Item, const CAP: usize>(
    old: &'a Tree<T, CAP>,
    new: &'a Tree<T, CAP>,
    visit: &mut impl FnMut(Delta<'a, T>),
) -> usize {
    if old.ptr_eq(new) {
        return 0;
    }
    let (mut left, mut right) = (Cursor::new(old), Cursor::new(new));
    loop {
        let (at_left, at_right) = (left.peek(), right.peek());
        let order = match (&at_left, &at_right) {
            (None, None) => return left.visited + right.visited,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(l), Some(r)) => l.first().order(r.first()),
        };
        match (order, at_left, at_right) {
            (Ordering::Less, Some(At::Item(item)), _) => visit(Delta::Removed { old_index: left.take_item(), item }),
            (Ordering::Less, _, _) => left.descend(),
            (Ordering::Greater, _, Some(At::Item(item))) => {
                visit(Delta::Inserted { new_index: right.take_item(), item });
            }
            (Ordering::Greater, _, _) => right.descend(),
            (Ordering::Equal, Some(At::Item(old)), Some(At::Item(new))) => {
                let (old_index, new_index) = (left.take_item(), right.take_item());
                if !old.same(new) {
                    visit(Delta::Updated { old_index, new_index, old, new });
                }
            }
            (Ordering::Equal, Some(At::Subtree(l)), Some(At::Subtree(r))) => {
                if l.node.ptr_eq(&r.node) {
                    left.skip_subtree();
                    right.skip_subtree();
                    continue;
                }
                // The lower one may be a part of the taller, so the taller is opened first.
                let (left_height, right_height) = (left.height(), right.height());
                if left_height >= right_height {
                    left.descend();
                }
                if right_height >= left_height {
                    right.descend();
                }
            }
            (Ordering::Equal, Some(At::Subtree(_)), _) => left.descend(),
            (Ordering::Equal, _, _) => right.descend(),
        }
    }
}

/// What a cursor stands at: a subtree not yet looked into, or an item.
enum At<'a, T, const CAP: usize> {
    Subtree(&'a Child<T, CAP>),
    Item(&'a T),
}

impl<'a, T, const CAP: usize> At<'a, T, CAP> {
    fn first(&self) -> &'a T {
        match self {
            At::Subtree(child) => &child.first,
            At::Item(item) => item,
        }
    }
}

/// A walk over a tree that looks into a subtree only when told to.
struct Cursor<'a, T, const CAP: usize> {
    /// For each open branch, from the root down, the children still to come.
    branches: Vec<&'a [Child<T, CAP>]>,
    /// What is left of the open leaf.
    leaf: &'a [T],
    /// The position of the current item, or of the first item of the current subtree.
    index: usize,
    /// How many levels of branches the tree has.
    levels: usize,
    visited: usize,
}

impl<'a, T: Item, const CAP: usize> Cursor<'a, T, CAP> {
    fn new(tree: &'a Tree<T, CAP>) -> Self {
        let mut levels = 0;
        let mut node = tree.root();
        while let Node::Branch(children) = node
            && let Some(first) = children.first()
        {
            levels += 1;
            node = &first.node;
        }
        let mut cursor = Cursor { branches: Vec::with_capacity(levels), leaf: &[], index: 0, levels, visited: 0 };
        cursor.open(tree.root());
        cursor
    }

    fn open(&mut self, node: &'a Node<T, CAP>) {
        self.visited += 1;
        match node {
            Node::Leaf(items) => self.leaf = items,
            Node::Branch(children) => self.branches.push(children),
        }
    }

    fn peek(&mut self) -> Option<At<'a, T, CAP>> {
        if let Some(item) = self.leaf.first() {
            return Some(At::Item(item));
        }
        loop {
            match self.branches.last()?.first() {
                Some(child) => return Some(At::Subtree(child)),
                None => self.branches.pop(),
            };
        }
    }

    /// How many levels of branches the current subtree has, plus one for its leaves.
    fn height(&self) -> usize {
        self.levels + 1 - self.branches.len()
    }

    fn take_item(&mut self) -> usize {
        if let [_, rest @ ..] = self.leaf {
            self.leaf = rest;
        }
        self.index += 1;
        self.index - 1
    }

    fn take_subtree(&mut self) -> Option<&'a Child<T, CAP>> {
        let branch = self.branches.last_mut()?;
        let (child, rest) = branch.split_first()?;
        *branch = rest;
        Some(child)
    }

    fn descend(&mut self) {
        if let Some(child) = self.take_subtree() {
            self.open(&child.node);
        }
    }

    fn skip_subtree(&mut self) {
        if let Some(child) = self.take_subtree() {
            self.index += child.count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Pair(u32, u32);

    impl Item for Pair {
        fn order(&self, other: &Self) -> Ordering {
            self.0.cmp(&other.0)
        }

        fn same(&self, other: &Self) -> bool {
            self == other
        }
    }

    type Model = BTreeMap<u32, u32>;
    type Found = (Option<(usize, Pair)>, Option<(usize, Pair)>);

    fn found<const CAP: usize>(old: &Tree<Pair, CAP>, new: &Tree<Pair, CAP>) -> Vec<Found> {
        let mut found = Vec::new();
        diff(old, new, &mut |delta| {
            found.push(match delta {
                Delta::Removed { old_index, item } => (Some((old_index, *item)), None),
                Delta::Inserted { new_index, item } => (None, Some((new_index, *item))),
                Delta::Updated { old_index, new_index, old, new } => (Some((old_index, *old)), Some((new_index, *new))),
            });
        });
        found
    }

    fn expected(old: &Model, new: &Model) -> Vec<Found> {
        let place =
            |model: &Model, key: u32| model.get(&key).map(|&payload| (model.range(..key).count(), Pair(key, payload)));
        let keys: std::collections::BTreeSet<u32> = old.keys().chain(new.keys()).copied().collect();
        keys.into_iter()
            .filter(|key| old.get(key) != new.get(key))
            .map(|key| (place(old, key), place(new, key)))
            .collect()
    }

    fn tree(model: &Model) -> Tree<Pair, 4> {
        Tree::from_sorted(model.iter().map(|(&key, &payload)| Pair(key, payload)))
    }

    fn model() -> impl Strategy<Value = Model> {
        prop::collection::btree_map(0u32..150, 0u32..2, 0..100)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn unrelated_trees_are_compared_item_by_item(old in model(), new in model()) {
            prop_assert_eq!(found(&tree(&old), &tree(&new)), expected(&old, &new));
        }

        #[test]
        fn edits_of_a_clone_are_found(
            old in model(),
            edits in prop::collection::vec((0u32..150, prop::option::of(0u32..2)), 0..120),
        ) {
            let before = tree(&old);
            let (mut after, mut new) = (before.clone(), old.clone());
            for (key, payload) in edits {
                match payload {
                    Some(payload) => {
                        after.insert(Pair(key, payload));
                        new.insert(key, payload);
                    }
                    None => {
                        after.remove(&Pair(key, 0));
                        new.remove(&key);
                    }
                }
            }
            prop_assert_eq!(found(&before, &after), expected(&old, &new));
            prop_assert_eq!(found(&after, &before), expected(&new, &old));
            for (from, to) in [(0, 7), (3, 40), (20, usize::MAX)] {
                let part_of = |model: &Model| model.clone().into_iter().take(to).skip(from).collect::<Model>();
                let (old, new) = (part_of(&old), part_of(&new));
                prop_assert_eq!(found(&before.part(from..to), &after.part(from..to)), expected(&old, &new));
                prop_assert_eq!(found(&after.part(from..to), &before.part(from..to)), expected(&new, &old));
            }
        }
    }

    #[test]
    fn visited_nodes_follow_the_changes_not_the_size() {
        // With 4 items a node a tree of 200,000 has about 9 levels, one of 1,000 about 5.
        for (len, changes, most) in [(1_000, 1, 60), (200_000, 1, 110), (1_000, 10, 500), (200_000, 10, 1_000)] {
            let old: Tree<Pair, 4> = Tree::from_sorted((0..len).map(|key| Pair(key * 2, 0)));
            for salt in 0..50 {
                let mut new = old.clone();
                for change in 0..changes {
                    let random = |salt: u32| (salt.wrapping_mul(2_654_435_761) >> 8) % len;
                    new.remove(&Pair(random(salt * 100 + change) * 2, 0));
                    new.insert(Pair(random(salt * 100 + change + 50) * 2 + 1, 0));
                }
                let mut found = 0;
                let visited = diff(&old, &new, &mut |_| found += 1);
                assert!(found <= 2 * changes && found > 0);
                assert!(visited <= most, "{visited} nodes of a tree of {len} for {changes} moves");
            }
        }
    }

    #[test]
    fn clones_are_equal_without_a_look() {
        let tree: Tree<Pair, 4> = Tree::from_sorted((0..1_000).map(|key| Pair(key, 0)));
        assert_eq!(diff(&tree, &tree.clone(), &mut |_| {}), 0);
    }
}
