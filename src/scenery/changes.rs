//! Changes: the index-exact list of steps that turns one order of rows into another.
//!
//! Flow: the diff of two index roots → removed and inserted rows paired by their number → [`Change`]s.
//! Invariants: applied one by one to the old rows, the list gives the new rows (`the_list_turns_old_into_new`); no row
//! moves that could have stayed (`only_rows_out_of_order_move`); the cost is O(k log k) for k changed rows.

use std::collections::HashMap;
use std::fmt;

use super::index::diff::{Delta, diff};
use super::index::key::Entry;
use super::index::tree::Tree;
use crate::{Error, ErrorKind, Result, RowNo};

/// One step from an old list of rows to a new one.
///
/// Steps are meant to be applied one after the other, in the order given: each index is a position in the list at the
/// moment its step is applied, counted from 0. A list has its removes first, then its moves, then its inserts, then its
/// updates, so the indices of inserts and updates are positions in the new list too.
///
/// [`Change::apply_all`] does it for a `Vec`:
///
/// ```
/// use diorama::Change;
///
/// let new = ["ant", "cat", "bee"];
/// let steps = [Change::Remove { index: 2 }, Change::Move { from: 0, to: 1 }, Change::Insert { index: 0 }];
/// let mut rows = vec!["bee", "cat", "dog"];
/// Change::apply_all(&steps, &mut rows, |index| new[index])?;
/// assert_eq!(rows, new);
/// # Ok::<(), diorama::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// A new row stands at `index`; what stood there and after it moves one on.
    Insert {
        /// The position of the new row.
        index: usize,
    },
    /// The row at `index` is gone; what stood after it moves one back.
    Remove {
        /// The position of the row that goes.
        index: usize,
    },
    /// The row at `from` is taken out and put in again at `to`. Its content has changed too.
    Move {
        /// The position it is taken from.
        from: usize,
        /// The position it has afterwards, in the list from which it was taken out before.
        to: usize,
    },
    /// The row at `index` stays where it is, with other content.
    Update {
        /// The position of the row.
        index: usize,
    },
}

impl Change {
    /// Applies `changes` to `rows`, a list that mirrors the old snapshot, so that it mirrors the new one. `fetch` is called
    /// with a position in the new snapshot for each row that is new or has changed, in ascending order, once a row.
    ///
    /// Costs O(rows) and calls nothing but `fetch`. An index outside the list is an error of kind
    /// [`Invalid`](ErrorKind::Invalid): the changes were made for another list. `rows` is then empty; fill it anew.
    pub fn apply_all<R>(changes: &[Change], rows: &mut Vec<R>, mut fetch: impl FnMut(usize) -> R) -> Result<()> {
        let mut slots: Vec<Option<R>> = rows.drain(..).map(Some).collect();
        for change in changes {
            let len = slots.len();
            let fits = match *change {
                Change::Insert { index } => index <= len,
                Change::Remove { index } | Change::Update { index } => index < len,
                Change::Move { from, to } => from < len && to < len,
            };
            if !fits {
                return Err(misfit(change, len));
            }
            match *change {
                Change::Insert { index } => slots.insert(index, None),
                Change::Remove { index } => drop(slots.remove(index)),
                Change::Move { from, to } => {
                    slots.remove(from);
                    slots.insert(to, None);
                }
                Change::Update { index } => slots[index] = None,
            }
        }
        rows.extend(slots.into_iter().enumerate().map(|(index, slot)| slot.unwrap_or_else(|| fetch(index))));
        Ok(())
    }
}

/// The error of a change that was made for another list.
pub(crate) fn misfit(change: &impl fmt::Debug, len: usize) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "the change {change:?} doesn't fit a list of {len} rows: it was made for another list; read the rows anew"
        ),
    )
}

/// A row that is in both trees at different places of the order.
struct Pair {
    old_index: usize,
    new_index: usize,
}

/// The steps from the rows of `old` to the rows of `new`. A row that is taken out at one place and put in at another is a
/// move, or an update when it can stay where it is. Each tree has a row once at most.
pub(crate) fn change_list<const CAP: usize>(old: &Tree<Entry, CAP>, new: &Tree<Entry, CAP>) -> Vec<Change> {
    let mut removed: Vec<(usize, RowNo)> = Vec::new();
    let mut inserted: Vec<(usize, RowNo)> = Vec::new();
    let mut updates: Vec<usize> = Vec::new();
    diff(old, new, &mut |delta| match delta {
        Delta::Removed { old_index, item } => removed.push((old_index, item.row)),
        Delta::Inserted { new_index, item } => inserted.push((new_index, item.row)),
        Delta::Updated { new_index, .. } => updates.push(new_index),
    });

    let mut new_index_of: HashMap<RowNo, usize> = inserted.iter().map(|&(index, row)| (row, index)).collect();
    let mut pairs = Vec::new();
    let mut removes = Vec::new();
    for (old_index, row) in removed {
        match new_index_of.remove(&row) {
            Some(new_index) => pairs.push(Pair { old_index, new_index }),
            None => removes.push(old_index),
        }
    }
    let mut inserts: Vec<usize> = new_index_of.into_values().collect();
    inserts.sort_unstable();

    // From here on positions are counted without the rows that go and the rows that come: both lists hold the same rows.
    for pair in &mut pairs {
        pair.old_index -= count_below(&removes, pair.old_index);
        pair.new_index -= count_below(&inserts, pair.new_index);
    }
    let (staying, moving) = split_by_need_to_move(pairs);
    updates.extend(staying.iter().map(|pair| final_index(&inserts, pair.new_index)));
    updates.sort_unstable();

    let mut changes = Vec::with_capacity(removes.len() + moving.len() + inserts.len() + updates.len());
    changes.extend(removes.iter().rev().map(|&index| Change::Remove { index }));
    push_moves(moving, &mut changes);
    changes.extend(inserts.iter().map(|&index| Change::Insert { index }));
    changes.extend(updates.iter().map(|&index| Change::Update { index }));
    changes
}

fn count_below(sorted: &[usize], index: usize) -> usize {
    sorted.partition_point(|&other| other < index)
}

/// The position, counted with the inserts, of what has the position `index` without them.
fn final_index(inserts: &[usize], index: usize) -> usize {
    // The i-th insert has inserts[i] - i other rows before it, which never falls with i.
    let (mut low, mut high) = (0, inserts.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if inserts[middle] - middle <= index {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    index + low
}

/// Splits the pairs, given in old order, into those that can stay and the fewest that have to move. A pair can stay when
/// no untouched row gets on its other side, and it is part of the longest run of such pairs that keeps its order.
fn split_by_need_to_move(pairs: Vec<Pair>) -> (Vec<Pair>, Vec<Pair>) {
    let mut new_indices: Vec<usize> = pairs.iter().map(|pair| pair.new_index).collect();
    new_indices.sort_unstable();
    // tails[n]: the pair with the least new index that ends a run of n + 1 pairs; before[p]: its predecessor in the run.
    let mut tails: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; pairs.len()];
    for (at, pair) in pairs.iter().enumerate() {
        let untouched_before = pair.old_index - at;
        let untouched_before_in_new = pair.new_index - count_below(&new_indices, pair.new_index);
        if untouched_before != untouched_before_in_new {
            continue;
        }
        let length = tails.partition_point(|&tail| pairs[tail].new_index < pair.new_index);
        before[at] = length.checked_sub(1).map(|shorter| tails[shorter]);
        match tails.get_mut(length) {
            Some(tail) => *tail = at,
            None => tails.push(at),
        }
    }
    let mut stays = vec![false; pairs.len()];
    let mut run = tails.last().copied();
    while let Some(at) = run {
        stays[at] = true;
        run = before[at];
    }
    let (mut staying, mut moving) = (Vec::new(), Vec::new());
    for (at, pair) in pairs.into_iter().enumerate() {
        if stays[at] { staying.push(pair) } else { moving.push(pair) }
    }
    (staying, moving)
}

/// Writes down the moves in ascending new position. Between the standing rows each moving row has a gap: the number of
/// standing rows before it. A row that arrives is put before the rows of its gap that are still to go.
fn push_moves(moving: Vec<Pair>, changes: &mut Vec<Change>) {
    // In old order.
    let old_gaps: Vec<usize> = moving.iter().enumerate().map(|(at, pair)| pair.old_index - at).collect();
    let mut in_new_order: Vec<(usize, usize)> =
        moving.iter().enumerate().map(|(at, pair)| (pair.new_index, at)).collect();
    in_new_order.sort_unstable();
    let new_gaps: Vec<usize> = in_new_order.iter().enumerate().map(|(placed, (index, _))| index - placed).collect();

    let mut waiting = Counts::ones(moving.len());
    for (placed, &(new_index, at)) in in_new_order.iter().enumerate() {
        let gap = old_gaps[at];
        let placed_before = new_gaps[..placed].partition_point(|&new_gap| new_gap <= gap);
        let from = gap + placed_before + waiting.sum_below(at);
        waiting.take_one(at);
        let to = new_index + waiting.sum_below(count_below(&old_gaps, new_gaps[placed]));
        changes.push(Change::Move { from, to });
    }
}

/// Prefix sums that can be changed, both in O(log n) (a Fenwick tree).
struct Counts(Vec<usize>);

impl Counts {
    fn ones(len: usize) -> Self {
        Counts((1..=len).map(|at| at & at.wrapping_neg()).collect())
    }

    fn take_one(&mut self, index: usize) {
        let mut at = index + 1;
        while let Some(sum) = self.0.get_mut(at - 1) {
            *sum -= 1;
            at += at & at.wrapping_neg();
        }
    }

    fn sum_below(&self, index: usize) -> usize {
        let mut at = index;
        let mut sum = 0;
        while at > 0 {
            sum += self.0[at - 1];
            at &= at - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seq;
    use crate::scenery::index::key::SortKey;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Rows = BTreeMap<u64, (u8, u64)>;

    fn tree(rows: &Rows) -> Tree<Entry, 4> {
        let mut tree = Tree::new();
        for (&row, &(key, version)) in rows {
            tree.insert(entry(row, key, version));
        }
        tree
    }

    fn entry(row: u64, key: u8, version: u64) -> Entry {
        Entry { key: SortKey::new(&[key]), row: RowNo(row), version: Seq(version) }
    }

    fn shown(tree: &Tree<Entry, 4>) -> Vec<(u64, u64)> {
        tree.iter().map(|entry| (entry.row.0, entry.version.0)).collect()
    }

    fn check(old: &Tree<Entry, 4>, new: &Tree<Entry, 4>) -> Vec<Change> {
        let (old_rows, new_rows) = (shown(old), shown(new));
        let changes = change_list(old, new);
        let mut rows = old_rows.clone();
        let mut fetched = 0;
        Change::apply_all(&changes, &mut rows, |index| {
            fetched += 1;
            new_rows[index]
        })
        .unwrap();
        assert_eq!(rows, new_rows, "{old_rows:?} by {changes:?}");
        assert_eq!(fetched, changes.iter().filter(|change| !matches!(change, Change::Remove { .. })).count());
        for change in &changes {
            match *change {
                Change::Move { from, to } => assert_ne!(from, to, "{old_rows:?} to {new_rows:?} by {changes:?}"),
                Change::Insert { index } => assert!(old_rows.iter().all(|(row, _)| *row != new_rows[index].0)),
                Change::Update { index } => assert!(old_rows.iter().any(|(row, _)| *row == new_rows[index].0)),
                Change::Remove { .. } => {}
            }
        }
        changes
    }

    /// Rows 0, 1, 2 … with these keys, as versions of `version`.
    fn keyed(keys: &[u8], version: u64) -> Tree<Entry, 4> {
        tree(&keys.iter().enumerate().map(|(row, &key)| (row as u64, (key, version))).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_list_turns_old_into_new(
            old in prop::collection::btree_map(0u64..30, (0u8..20, 0u64..2), 0..30),
            new in prop::collection::btree_map(0u64..30, (0u8..20, 0u64..2), 0..30),
        ) {
            check(&tree(&old), &tree(&new));
        }

        #[test]
        fn edits_of_a_shared_tree_turn_old_into_new(
            old in prop::collection::btree_map(0u64..200, (any::<u8>(), 0u64..2), 0..200),
            edits in prop::collection::vec((0u64..220, prop::option::of((any::<u8>(), 0u64..3))), 0..40),
        ) {
            let mut rows = old.clone();
            let before = tree(&old);
            let mut after = before.clone();
            for (row, value) in edits {
                if let Some((key, version)) = rows.remove(&row) {
                    after.remove(&entry(row, key, version));
                }
                if let Some((key, version)) = value {
                    rows.insert(row, (key, version));
                    after.insert(entry(row, key, version));
                }
            }
            check(&before, &after);
            check(&after, &before);
        }

        #[test]
        fn any_reordering_of_all_rows_at_once_works(
            old in prop::collection::vec(any::<u8>(), 12),
            new in prop::collection::vec(any::<u8>(), 12),
        ) {
            check(&keyed(&old, 0), &keyed(&new, 1));
        }
    }

    #[test]
    fn only_rows_out_of_order_move() {
        let changes = check(&keyed(&[10, 20, 30, 40], 0), &keyed(&[55, 25, 35, 45], 1));
        assert_eq!(
            changes,
            [
                Change::Move { from: 0, to: 3 },
                Change::Update { index: 0 },
                Change::Update { index: 1 },
                Change::Update { index: 2 },
            ]
        );
        let changes = check(&keyed(&[10, 20, 30], 0), &keyed(&[11, 21, 31], 1));
        assert_eq!(changes, (0..3).map(|index| Change::Update { index }).collect::<Vec<_>>());
    }

    #[test]
    fn equal_trees_give_no_changes() {
        assert_eq!(check(&keyed(&[3, 1, 2], 7), &keyed(&[3, 1, 2], 7)), []);
    }

    #[test]
    fn a_list_for_other_rows_is_refused() {
        for change in [
            Change::Insert { index: 3 },
            Change::Remove { index: 2 },
            Change::Update { index: 2 },
            Change::Move { from: 2, to: 0 },
            Change::Move { from: 0, to: 2 },
        ] {
            let error = Change::apply_all(&[change], &mut vec![1, 2], |_| 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
