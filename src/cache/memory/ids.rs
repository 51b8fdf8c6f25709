//! Ids: a map from id to row number whose clones share everything until one of them changes.
//!
//! A hash trie: 32 slots a branch, a bucket splits when it is full. Ids of equal hash end in one bucket that doesn't.

use std::array;
use std::hash::BuildHasher;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use hashbrown::DefaultHashBuilder;

use crate::RowNo;

const BITS: u32 = 5;
const SLOTS: usize = 1 << BITS;
const BUCKET: usize = 16;
/// Ids that are looked for together.
const AT_ONCE: usize = 16;

/// One hasher for all tables, so that an empty one costs nothing.
static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

#[derive(Clone)]
enum Node {
    Branch(Arc<[Option<Node>; SLOTS]>),
    Bucket(Arc<Vec<Entry>>),
}

#[derive(Clone)]
struct Entry {
    hash: u64,
    id: Arc<str>,
    row: RowNo,
}

#[derive(Clone, Default)]
pub(super) struct Ids {
    root: Option<Node>,
}

impl Ids {
    pub(super) fn get(&self, id: &str) -> Option<RowNo> {
        self.get_hashed(hash(id), id)
    }

    /// Gives the id this row number, whichever it had.
    pub(super) fn insert(&mut self, id: &Arc<str>, row: RowNo) {
        self.insert_hashed(hash(id), id, row);
    }

    /// Removes the id if it has this row number.
    pub(super) fn remove(&mut self, id: &str, row: RowNo) {
        self.remove_hashed(hash(id), id, row);
    }

    /// Every id, in no order, until `each` breaks.
    pub(super) fn scan(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> ControlFlow<()> {
        match &self.root {
            Some(root) => root.scan(each),
            None => ControlFlow::Continue(()),
        }
    }

    fn get_hashed(&self, hash: u64, id: &str) -> Option<RowNo> {
        let mut node = self.root.as_ref()?;
        let mut depth = 0;
        loop {
            match node {
                Node::Branch(slots) => node = slots[slot(depth, hash)].as_ref()?,
                Node::Bucket(entries) => return entries.iter().find(|entry| entry.is(hash, id)).map(|entry| entry.row),
            }
            depth += 1;
        }
    }

    /// Many ids, in their order.
    pub(super) fn get_all(&self, ids: &[&str]) -> Vec<Option<RowNo>> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(AT_ONCE) {
            let hashes: [u64; AT_ONCE] = array::from_fn(|place| ids.get(place).map_or(0, |id| hash(id)));
            let mut nodes = [None; AT_ONCE];
            nodes[..ids.len()].fill(self.root.as_ref());
            // Level by level, since no look depends on the one before: so the processor fetches many nodes at a time.
            let mut depth = 0;
            let mut goes_on = true;
            while std::mem::take(&mut goes_on) {
                for (node, hash) in nodes.iter_mut().zip(&hashes) {
                    if let Some(Node::Branch(slots)) = node {
                        *node = slots[slot(depth, *hash)].as_ref();
                        goes_on = true;
                    }
                }
                depth += 1;
            }
            let of_hash: [Option<&Entry>; AT_ONCE] = array::from_fn(|place| match nodes[place] {
                Some(Node::Bucket(entries)) => entries.iter().find(|entry| entry.hash == hashes[place]),
                _ => None,
            });
            found.extend(ids.iter().zip(&hashes).zip(of_hash).map(|((id, hash), entry)| match entry {
                Some(entry) if *entry.id == **id => Some(entry.row),
                // Another id of the same hash.
                Some(_) => self.get_hashed(*hash, id),
                None => None,
            }));
        }
        found
    }

    fn insert_hashed(&mut self, hash: u64, id: &Arc<str>, row: RowNo) {
        // Most puts change a row that keeps its number: looking first keeps them from copying a path.
        if self.get_hashed(hash, id) == Some(row) {
            return;
        }
        let mut node = self.root.get_or_insert_with(|| Node::Bucket(Arc::default()));
        let mut depth = 0;
        loop {
            if let Node::Bucket(entries) = node
                && entries.len() >= BUCKET
                && depth * BITS < u64::BITS
                && !entries.iter().any(|entry| entry.is(hash, id))
            {
                *node = split(depth, entries);
            }
            match node {
                Node::Branch(slots) => {
                    let child = &mut Arc::make_mut(slots)[slot(depth, hash)];
                    node = child.get_or_insert_with(|| Node::Bucket(Arc::default()));
                    depth += 1;
                }
                Node::Bucket(entries) => {
                    let at = entries.iter().position(|entry| entry.is(hash, id));
                    let entries = Arc::make_mut(entries);
                    match at {
                        Some(at) => entries[at].row = row,
                        None => entries.push(Entry { hash, id: Arc::clone(id), row }),
                    }
                    return;
                }
            }
        }
    }

    fn remove_hashed(&mut self, hash: u64, id: &str, row: RowNo) {
        // Looking first keeps a remove of nothing from copying a path.
        if self.get_hashed(hash, id) != Some(row) {
            return;
        }
        if let Some(root) = &mut self.root
            && root.remove(0, hash, id)
        {
            self.root = None;
        }
    }
}

impl Entry {
    fn is(&self, hash: u64, id: &str) -> bool {
        self.hash == hash && *self.id == *id
    }
}

impl Node {
    /// Removes an id that is there; says whether the node is empty afterwards.
    fn remove(&mut self, depth: u32, hash: u64, id: &str) -> bool {
        match self {
            Node::Branch(slots) => {
                let slots = Arc::make_mut(slots);
                let child = &mut slots[slot(depth, hash)];
                if child.as_mut().is_some_and(|node| node.remove(depth + 1, hash, id)) {
                    *child = None;
                }
                slots.iter().all(Option::is_none)
            }
            Node::Bucket(entries) => {
                let entries = Arc::make_mut(entries);
                if let Some(at) = entries.iter().position(|entry| entry.is(hash, id)) {
                    entries.swap_remove(at);
                }
                entries.is_empty()
            }
        }
    }

    fn scan(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> ControlFlow<()> {
        match self {
            Node::Branch(slots) => {
                for child in slots.iter().flatten() {
                    child.scan(each)?;
                }
            }
            Node::Bucket(entries) => {
                for entry in entries.iter() {
                    each(&entry.id, entry.row)?;
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn split(depth: u32, entries: &[Entry]) -> Node {
    let mut buckets: [Vec<Entry>; SLOTS] = array::from_fn(|_| Vec::new());
    for entry in entries {
        buckets[slot(depth, entry.hash)].push(entry.clone());
    }
    let slots = buckets.map(|bucket| (!bucket.is_empty()).then(|| Node::Bucket(Arc::new(bucket))));
    Node::Branch(Arc::new(slots))
}

fn hash(id: &str) -> u64 {
    HASHER.hash_one(id)
}

fn slot(depth: u32, hash: u64) -> usize {
    (hash >> (BITS * depth)) as usize & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn collect(ids: &Ids) -> BTreeMap<String, RowNo> {
        let mut seen = BTreeMap::new();
        let flow = ids.scan(&mut |id, row| {
            assert!(seen.insert(id.to_owned(), row).is_none(), "{id} came twice");
            ControlFlow::Continue(())
        });
        assert!(flow.is_continue());
        seen
    }

    proptest! {
        /// `spread` masks the hash: 0 puts all ids into one bucket, 0xf into few.
        #[test]
        fn equals_a_map_whatever_collides_and_older_clones_stay_as_they_were(
            spread in prop::sample::select(vec![0, 0xf, 0xf000_0000_0000_0000, u64::MAX]),
            steps in prop::collection::vec((0..120_u64, prop::option::weighted(0.7, 0..3_u64), 0..3_u64), 0..300),
        ) {
            let mut ids = Ids::default();
            let mut model = BTreeMap::new();
            let mut older = Vec::new();
            for (count, (id, put, had)) in steps.into_iter().enumerate() {
                let id: Arc<str> = id.to_string().into();
                let hash = hash(&id) & spread;
                match put {
                    Some(row) => {
                        ids.insert_hashed(hash, &id, RowNo(row));
                        model.insert(id.to_string(), RowNo(row));
                    }
                    None => {
                        ids.remove_hashed(hash, &id, RowNo(had));
                        if model.get(&*id) == Some(&RowNo(had)) {
                            model.remove(&*id);
                        }
                    }
                }
                prop_assert_eq!(ids.get_hashed(hash, &id), model.get(&*id).copied());
                if spread == u64::MAX {
                    let all: Vec<String> = (0..120).map(|id: u64| id.to_string()).collect();
                    let all: Vec<&str> = all.iter().map(String::as_str).collect();
                    let expected: Vec<Option<RowNo>> = all.iter().map(|id| model.get(*id).copied()).collect();
                    prop_assert_eq!(ids.get_all(&all), expected);
                }
                if count % 32 == 0 {
                    older.push((ids.clone(), model.clone()));
                }
            }
            older.push((ids, model));
            for (ids, model) in older {
                prop_assert_eq!(collect(&ids), model);
            }
        }
    }
}
