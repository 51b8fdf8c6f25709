use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A number with a payload.
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
type Small = Tree<Pair, 4>;

fn pairs(model: &Model) -> Vec<Pair> {
    model.iter().map(|(&key, &payload)| Pair(key, payload)).collect()
}

/// Checks the invariants below a node; gives back its height and its number of items.
fn check_node<const CAP: usize>(node: &Node<Pair, CAP>, is_root: bool) -> (usize, usize) {
    let least = if is_root { 0 } else { node.limits().least };
    assert!(node.width() >= least && node.width() <= node.limits().most, "{} wide, root: {is_root}", node.width());
    match node {
        Node::Leaf(items) => {
            assert!(items.is_sorted_by(|a, b| a.0 < b.0));
            (1, items.len())
        }
        Node::Branch(children) => {
            assert!(children.len() >= 2);
            let mut total = 0;
            let mut heights = Vec::new();
            for child in children.iter() {
                let (height, count) = check_node(&child.node, false);
                assert_eq!(child.count, count);
                assert_eq!(Some(&child.first), child.node.first());
                heights.push(height);
                total += count;
            }
            assert!(heights.iter().all(|&height| height == heights[0]));
            (heights[0] + 1, total)
        }
    }
}

fn check<const CAP: usize>(tree: &Tree<Pair, CAP>, model: &Model) {
    assert_eq!(check_node(&tree.root, true).1, tree.len());
    let items: Vec<Pair> = tree.iter().copied().collect();
    assert_eq!(items, pairs(model));
    assert_eq!(tree.len(), model.len());
    assert_eq!(tree.is_empty(), model.is_empty());
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u32, u32),
    Remove(u32),
    Merge(Vec<u32>, Vec<(u32, u32)>),
    MergeSorted(Vec<u32>, Vec<(u32, u32)>),
    KeepAClone,
    Read(u32, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0u32..120;
    let lists = || (prop::collection::vec(0u32..120, 0..30), prop::collection::vec((0u32..120, 0u32..3), 0..30));
    prop_oneof![
        8 => (key.clone(), 0u32..3).prop_map(|(key, payload)| Op::Insert(key, payload)),
        6 => key.clone().prop_map(Op::Remove),
        1 => lists().prop_map(|(removes, inserts)| Op::Merge(removes, inserts)),
        1 => lists().prop_map(|(removes, inserts)| Op::MergeSorted(removes, inserts)),
        1 => Just(Op::KeepAClone),
        2 => (key, 0usize..130).prop_map(|(key, index)| Op::Read(key, index)),
    ]
}

fn merge(tree: &mut Small, model: &mut Model, removes: &[u32], inserts: &[(u32, u32)]) {
    let removes: Vec<Pair> = removes.iter().map(|&key| Pair(key, 9)).collect();
    let inserted: Vec<Pair> = inserts.iter().map(|&(key, payload)| Pair(key, payload)).collect();
    tree.merge_sorted(&removes, &inserted);
    for remove in removes {
        model.remove(&remove.0);
    }
    model.extend(inserts.iter().copied());
}

fn read(tree: &Small, model: &Model, key: u32, index: usize) {
    let items = pairs(model);
    assert_eq!(tree.get(index), items.get(index));
    assert_eq!(tree.find(&Pair(key, 9)), items.binary_search_by(|item| item.0.cmp(&key)));
    let present = model.get(&key).map(|&payload| Pair(key, payload));
    assert_eq!(tree.get_equal(&Pair(key, 9)), present.as_ref());
    assert_eq!(tree.get_same(&Pair(key, 1)), present.as_ref().filter(|item| item.1 == 1));
    let rest: Vec<Pair> = tree.iter_from(index).copied().collect();
    assert_eq!(rest, items.get(index..).unwrap_or_default());
    assert_eq!(tree.iter_from(index).len(), rest.len());
    let range = index..key as usize;
    let part = tree.part(range.clone());
    let expected = &items[range.start.min(items.len())..range.end.min(items.len()).max(range.start.min(items.len()))];
    assert_eq!((part.iter().copied().collect::<Vec<_>>(), part.len()), (expected.to_vec(), expected.len()));
    assert_eq!((part.get(0), part.get(part.len())), (expected.first(), None));
    assert_eq!(part.find(&Pair(key, 9)), expected.binary_search_by(|item| item.0.cmp(&key)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_sequence_of_changes_equals_a_sorted_map(ops in prop::collection::vec(op(), 0..120)) {
        let mut tree = Small::new();
        let mut model = Model::new();
        let mut kept = Vec::new();
        for op in ops {
            match op {
                Op::Insert(key, payload) => {
                    let replaced = tree.insert(Pair(key, payload));
                    prop_assert_eq!(replaced, model.insert(key, payload).map(|payload| Pair(key, payload)));
                }
                Op::Remove(key) => {
                    let removed = tree.remove(&Pair(key, 9));
                    prop_assert_eq!(removed, model.remove(&key).map(|payload| Pair(key, payload)));
                }
                Op::Merge(removes, inserts) => merge(&mut tree, &mut model, &removes, &inserts),
                Op::MergeSorted(mut removes, inserts) => {
                    removes.sort_unstable();
                    removes.dedup();
                    let inserts: Vec<(u32, u32)> = inserts.into_iter().collect::<Model>().into_iter().collect();
                    merge(&mut tree, &mut model, &removes, &inserts);
                }
                Op::KeepAClone => kept.push((tree.clone(), model.clone())),
                Op::Read(key, index) => read(&tree, &model, key, index),
            }
            check(&tree, &model);
        }
        for (tree, model) in &kept {
            check(tree, model);
        }
    }

    #[test]
    fn a_bulk_load_of_any_size_is_well_formed(len in 0u32..2_000) {
        let model: Model = (0..len).map(|key| (key, key)).collect();
        check(&Small::from_sorted(pairs(&model)), &model);
        check(&Tree::<Pair, 32>::from_sorted(pairs(&model)), &model);
    }

    #[test]
    fn a_bulk_load_out_of_order_keeps_the_last_of_equals(items in prop::collection::vec((0u32..60, any::<u32>()), 0..80)) {
        let model: Model = items.iter().copied().collect();
        check(&Small::from_sorted(items.iter().map(|&(key, payload)| Pair(key, payload))), &model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// Runs empty whole nodes and fill others; they are too small a share for the tree to be made anew.
    #[test]
    fn merged_runs_leave_a_well_formed_tree(
        loaded in 400u32..3_000,
        runs in prop::collection::vec((0u32..6_000, 0u32..40, 0u32..6_000, 0u32..40, 1u32..3), 1..40),
    ) {
        let mut model: Model = (0..loaded).map(|key| (key * 2, 0)).collect();
        let mut tree = Small::from_sorted(pairs(&model));
        let mut kept = Vec::new();
        for (payload, (gone, most_gone, put, most_put, step)) in (1..).zip(runs) {
            kept.push((tree.clone(), model.clone()));
            let most = model.len() as u32 / 20;
            let removes: Vec<u32> = (gone..).step_by(step as usize).take(most_gone.min(most) as usize).collect();
            let inserts: Vec<_> = (put..).step_by(step as usize).map(|key| (key, payload)).take(most_put.min(most) as usize).collect();
            merge(&mut tree, &mut model, &removes, &inserts);
            check(&tree, &model);
        }
        for (tree, model) in &kept {
            check(tree, model);
        }
    }
}

#[test]
fn a_large_tree_of_the_usual_width_stays_well_formed_while_it_grows_and_shrinks() {
    let mut tree: Tree<Pair> = Tree::new();
    let mut model = Model::new();
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut kept = Vec::new();
    // Mostly inserts, then mostly removes, down to nothing.
    for (steps, removes_in_ten) in [(30_000, 2), (60_000, 8), (20_000, 10)] {
        for step in 0..steps {
            let key = random() % 10_000;
            if random() % 10 < removes_in_ten {
                // Something present, so that the tree does shrink.
                let key = model.range(key..).next().or(model.iter().next()).map_or(key, |(&key, _)| key);
                assert_eq!(tree.remove(&Pair(key, 0)).map(|item| item.1), model.remove(&key));
            } else {
                let payload = random();
                assert_eq!(tree.insert(Pair(key, payload)).map(|item| item.1), model.insert(key, payload));
            }
            if step % 5_000 == 0 {
                check(&tree, &model);
                kept.push((tree.clone(), model.clone()));
            }
        }
    }
    assert!(tree.is_empty());
    for (tree, model) in &kept {
        check(tree, model);
    }
}

#[test]
fn a_bulk_load_is_dense() {
    let tree: Tree<Pair> = Tree::from_sorted((0..10_000).map(|key| Pair(key, 0)));
    fn leaves(node: &Node<Pair, 32>) -> usize {
        match node {
            Node::Leaf(_) => 1,
            Node::Branch(children) => children.iter().map(|child| leaves(&child.node)).sum(),
        }
    }
    assert!(leaves(&tree.root) * 32 * 9 <= 10_000 * 10);
}

#[test]
fn an_identical_or_absent_item_leaves_everything_shared() {
    let mut tree: Small = Tree::from_sorted((0..100).map(|key| Pair(key * 2, 0)));
    let before = tree.clone();
    assert_eq!(tree.insert(Pair(50, 0)), Some(Pair(50, 0)));
    assert_eq!(tree.remove(&Pair(51, 0)), None);
    assert!(tree.ptr_eq(&before));
    assert_eq!(tree.insert(Pair(50, 1)), Some(Pair(50, 0)));
    assert!(!tree.ptr_eq(&before));
    assert_eq!(before.get_equal(&Pair(50, 9)), Some(&Pair(50, 0)));
}

#[test]
fn an_unshared_tree_is_changed_in_place() {
    let mut tree: Tree<Pair> = Tree::from_sorted((0..10_000).map(|key| Pair(key * 2, 0)));
    let root = |tree: &Tree<Pair>| match &tree.root {
        Node::Leaf(items) => Arc::as_ptr(items).cast::<u8>(),
        Node::Branch(children) => Arc::as_ptr(children).cast(),
    };
    let before = root(&tree);
    tree.insert(Pair(5_001, 0));
    tree.remove(&Pair(700, 0));
    assert_eq!(root(&tree), before);
}
