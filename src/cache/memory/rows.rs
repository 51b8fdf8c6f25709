//! Rows: a map from row number to bytes whose clones share everything until one of them changes.
//!
//! A radix tree of 32 slots a branch and 8 a leaf, as high as its largest key asks for. A change copies the nodes on its path
//! when a clone still shares them, and changes them in place when none does, so that a large batch pays for a copy once. A
//! leaf is small because its copy touches the reference count of every row in it, wherever that lies.

use std::array;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::RowNo;

const BITS: u32 = 5;
const SLOTS: usize = 1 << BITS;
const LEAF_BITS: u32 = 3;
const LEAF_SLOTS: usize = 1 << LEAF_BITS;
/// Rows that are looked for together.
const AT_ONCE: usize = 16;

/// The height at which one node covers every `u64`.
const TOP: u32 = (64 - LEAF_BITS).div_ceil(BITS);

type Bytes = Arc<[u8]>;
type Each<'a> = &'a mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>;

#[derive(Clone)]
enum Node {
    Branch(Arc<[Option<Node>; SLOTS]>),
    Leaf(Arc<[Option<Bytes>; LEAF_SLOTS]>),
}

#[derive(Clone, Default)]
pub(super) struct Rows {
    root: Option<Node>,
    /// How many branches lie above a leaf.
    height: u32,
    len: u64,
}

impl Rows {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn get(&self, key: u64) -> Option<&Bytes> {
        if !covers(self.height, key) {
            return None;
        }
        let mut node = self.root.as_ref()?;
        let mut height = self.height;
        loop {
            match node {
                Node::Branch(slots) => node = slots[slot(height, key)].as_ref()?,
                Node::Leaf(slots) => return slots[slot(0, key)].as_ref(),
            }
            height -= 1;
        }
    }

    /// Many rows, in their order.
    pub(super) fn get_all(&self, rows: &[RowNo]) -> Vec<Option<Bytes>> {
        let mut found = Vec::with_capacity(rows.len());
        for rows in rows.chunks(AT_ONCE) {
            let mut nodes = [None; AT_ONCE];
            for (node, row) in nodes.iter_mut().zip(rows) {
                *node = self.root.as_ref().filter(|_| covers(self.height, row.0));
            }
            // Level by level, since no look depends on the one before: so the processor fetches many nodes at a time.
            for height in (1..=self.height).rev() {
                for (node, row) in nodes.iter_mut().zip(rows) {
                    if let Some(Node::Branch(slots)) = node {
                        *node = slots[slot(height, row.0)].as_ref();
                    }
                }
            }
            found.extend(nodes.iter().zip(rows).map(|(node, row)| match node {
                Some(Node::Leaf(slots)) => slots[slot(0, row.0)].clone(),
                _ => None,
            }));
        }
        found
    }

    pub(super) fn insert(&mut self, key: u64, bytes: Bytes) {
        while !covers(self.height, key) {
            self.height += 1;
            if let Some(root) = self.root.take() {
                let mut slots = array::from_fn(|_| None);
                slots[0] = Some(root);
                self.root = Some(Node::Branch(Arc::new(slots)));
            }
        }
        let mut node = self.root.get_or_insert_with(|| Node::empty(self.height));
        let mut height = self.height;
        loop {
            match node {
                Node::Branch(slots) => {
                    let child = &mut Arc::make_mut(slots)[slot(height, key)];
                    height -= 1;
                    node = child.get_or_insert_with(|| Node::empty(height));
                }
                Node::Leaf(slots) => {
                    let replaced = Arc::make_mut(slots)[slot(0, key)].replace(bytes);
                    self.len += u64::from(replaced.is_none());
                    return;
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: u64) {
        // Looking first keeps a remove of nothing from copying a path.
        if self.get(key).is_none() {
            return;
        }
        self.len -= 1;
        if let Some(root) = &mut self.root
            && root.remove(self.height, key)
        {
            self.root = None;
            self.height = 0;
        }
    }

    /// Every row from `from` on, ascending, until `each` breaks.
    pub(super) fn scan(&self, from: u64, each: Each<'_>) -> ControlFlow<()> {
        match &self.root {
            Some(root) if covers(self.height, from) => root.scan(self.height, 0, from, each),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Node {
    fn empty(height: u32) -> Node {
        if height == 0 {
            Node::Leaf(Arc::new(array::from_fn(|_| None)))
        } else {
            Node::Branch(Arc::new(array::from_fn(|_| None)))
        }
    }

    /// Removes a key that is there; says whether the node is empty afterwards.
    fn remove(&mut self, height: u32, key: u64) -> bool {
        match self {
            Node::Branch(slots) => {
                let slots = Arc::make_mut(slots);
                let child = &mut slots[slot(height, key)];
                if child.as_mut().is_some_and(|node| node.remove(height - 1, key)) {
                    *child = None;
                }
                slots.iter().all(Option::is_none)
            }
            Node::Leaf(slots) => {
                let slots = Arc::make_mut(slots);
                slots[slot(0, key)] = None;
                slots.iter().all(Option::is_none)
            }
        }
    }

    /// `first` is the lowest key that this node covers.
    fn scan(&self, height: u32, first: u64, from: u64, each: Each<'_>) -> ControlFlow<()> {
        let skipped = if from > first { slot(height, from) } else { 0 };
        match self {
            Node::Branch(slots) => {
                for (at, child) in slots.iter().enumerate().skip(skipped) {
                    if let Some(child) = child {
                        child.scan(height - 1, first | (at as u64) << shift(height), from, each)?;
                    }
                }
            }
            Node::Leaf(slots) => {
                for (at, bytes) in slots.iter().enumerate().skip(skipped) {
                    if let Some(bytes) = bytes {
                        each(first | at as u64, bytes)?;
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// How many of a key's bits lie below those that choose among the slots of a branch.
fn shift(height: u32) -> u32 {
    LEAF_BITS + BITS * (height - 1)
}

fn slot(height: u32, key: u64) -> usize {
    match height {
        0 => key as usize & (LEAF_SLOTS - 1),
        _ => (key >> shift(height)) as usize & (SLOTS - 1),
    }
}

fn covers(height: u32, key: u64) -> bool {
    height >= TOP || key >> shift(height + 1) == 0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn collect(rows: &Rows, from: u64) -> Vec<(u64, Vec<u8>)> {
        let mut seen = Vec::new();
        let flow = rows.scan(from, &mut |key, bytes| {
            seen.push((key, bytes.to_vec()));
            ControlFlow::Continue(())
        });
        assert!(flow.is_continue());
        seen
    }

    /// Keys that collide, neighbour each other and reach both ends.
    fn key() -> impl Strategy<Value = u64> {
        prop_oneof![0..70_u64, 30_000..34_000_u64, any::<u64>(), u64::MAX - 70..=u64::MAX]
    }

    proptest! {
        #[test]
        fn equals_a_btree_map_and_older_clones_stay_as_they_were(
            steps in prop::collection::vec((key(), prop::option::weighted(0.6, any::<u8>())), 0..200),
            froms in prop::collection::vec(key(), 1..8),
        ) {
            let mut rows = Rows::default();
            let mut model = BTreeMap::new();
            let mut older = Vec::new();
            for (count, (key, change)) in steps.into_iter().enumerate() {
                match change {
                    Some(byte) => {
                        rows.insert(key, Arc::from([byte]));
                        model.insert(key, vec![byte]);
                    }
                    None => {
                        rows.remove(key);
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(rows.len(), model.len() as u64);
                prop_assert_eq!(rows.get(key).map(|bytes| bytes.to_vec()), model.get(&key).cloned());
                if count % 16 == 0 {
                    older.push((rows.clone(), model.clone()));
                }
            }
            older.push((rows, model));
            for (rows, model) in older {
                for from in froms.iter().copied().chain([0]) {
                    let expected: Vec<_> = model.range(from..).map(|(key, bytes)| (*key, bytes.clone())).collect();
                    prop_assert_eq!(collect(&rows, from), expected);
                }
            }
        }
    }
}
