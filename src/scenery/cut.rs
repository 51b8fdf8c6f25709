//! Cut: how much of a sorted list a view shows: all of it, its beginning or its end.

use crate::scenery::index::key::Entry;
use crate::scenery::index::tree::Tree;

/// How much of its rows a table view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Cut {
    /// Every row.
    #[default]
    Nothing,
    /// So many from the beginning.
    First(usize),
    /// So many from the end.
    Last(usize),
}

impl Cut {
    /// The part of the order that shows. It shares all but O(log n) nodes with the whole.
    pub(crate) fn of(self, tree: &Tree<Entry>) -> Tree<Entry> {
        match self {
            Cut::Nothing => tree.clone(),
            Cut::First(rows) => tree.part(0..rows),
            Cut::Last(rows) => tree.part(tree.len().saturating_sub(rows)..tree.len()),
        }
    }
}
