//! View index: the sorted order of a view, as a persistent counted B+tree of entries.
//!
//! Owner: the core changes its own tree; everyone else holds clones of the root, which never change.
//! Not here: rows and their contents, conditions, and who publishes which root when.

pub(crate) mod diff;
pub(crate) mod key;
pub(crate) mod tree;

/// What `benches/index.rs` needs of this crate-private module. Not part of the interface.
#[doc(hidden)]
pub mod bench_support {
    use super::diff::diff;
    use super::key::{Entry, SortKey};
    use super::tree::Tree;
    use crate::scenery::changes::{Change, change_list};
    use crate::{RowNo, Seq};

    /// A sort key and the row that has it.
    pub type Keyed = (Vec<u8>, u64);

    /// Entries, in the order given.
    pub struct Entries(Vec<Entry>);

    impl Entries {
        /// An entry for each row.
        pub fn new(rows: &[Keyed]) -> Self {
            Entries(rows.iter().map(|(key, row)| entry(key, *row, 0)).collect())
        }
    }

    /// A tree, and a clone of it as a view would publish it.
    pub struct Index<const CAP: usize> {
        tree: Tree<Entry, CAP>,
        published: Tree<Entry, CAP>,
    }

    impl<const CAP: usize> Index<CAP> {
        /// Loads ascending entries.
        pub fn load(entries: &Entries) -> Self {
            let tree = Tree::from_sorted(entries.0.iter().cloned());
            Index { published: tree.clone(), tree }
        }

        /// Gives a row another key.
        pub fn move_row(&mut self, row: u64, from: &[u8], to: &[u8], version: u64) {
            self.tree.merge_sorted(&[entry(from, row, 0)], &[entry(to, row, version)]);
        }

        /// Takes out and puts in many at once; both ascend.
        pub fn merge(&mut self, removes: &Entries, inserts: &Entries) {
            self.tree.merge_sorted(&removes.0, &inserts.0);
        }

        /// Replaces the published clone.
        pub fn publish(&mut self) {
            self.published = self.tree.clone();
        }

        /// Reads a window; gives back the sum of its row numbers.
        pub fn read(&self, from: usize, rows: usize) -> u64 {
            self.tree.iter_from(from).take(rows).map(|entry| entry.row.0).sum()
        }

        /// Compares the published clone with the tree; gives back how many nodes that took.
        pub fn diff(&self) -> usize {
            diff(&self.published, &self.tree, &mut |_| {})
        }

        /// The changes since the last publication.
        pub fn changes(&self) -> Vec<Change> {
            change_list(&self.published, &self.tree)
        }
    }

    fn entry(key: &[u8], row: u64, version: u64) -> Entry {
        Entry { key: SortKey::new(key), row: RowNo(row), version: Seq(version) }
    }
}
