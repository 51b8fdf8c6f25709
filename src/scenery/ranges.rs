//! Ranges: the steps between two states of a list, those that lie together as one.
//!
//! Invariants: the ranges of a list of steps do what the steps do (`ranges_turn_old_into_new`), in no more steps, and a block
//! of rows that comes, goes, moves or changes is one (`what_lies_together_is_one_step`).

use std::iter::repeat_with;
use std::ops::Range;

use crate::Result;
use crate::scenery::changes::{Change, misfit};
use crate::scenery::table::Changes;

/// So few steps are never told as a reset, however few the rows are.
const FEW: usize = 32;

/// One step from an old list of rows to a new one, for a run of rows that lie together: what list widgets are told
/// (`removeRows`, `moveRows`, `insertRows`, `dataChanged`). [`Changes::ranges`] gives them.
///
/// Steps are meant to be applied one after the other, in the order given; positions are those at the moment when the step is
/// applied, counted from 0. Removes come first, then moves, then inserts, then updates, so the ranges of inserts and updates
/// are positions in the new list too. No range is empty.
///
/// ```
/// use diorama::prelude::*;
/// use diorama::ChangeRange;
///
/// let rows = (10..20).map(|n| (n.to_string(), record! { "id" => n.to_string() }));
/// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("things", "id").with_rows(rows))?;
/// let view = dio.table_scenery().sort("id", SortDir::Asc).open()?;
/// let before = view.snapshot();
///
/// dio.cache().insert_many((10..60).map(|n| (n.to_string(), record! { "id" => n.to_string() })))?;
/// let news = view.changes_since(before.generation());
/// assert_eq!(news.changes.ranges(), Some(vec![ChangeRange::Insert { range: 10..50 }]));
/// # Ok::<(), diorama::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeRange {
    /// New rows stand at `range`; what stood at its beginning and after it moves on by its length.
    Insert {
        /// The positions of the new rows.
        range: Range<usize>,
    },
    /// The rows at `range` are gone; what stood after them moves back by its length.
    Remove {
        /// The positions of the rows that go.
        range: Range<usize>,
    },
    /// The rows at `from` are taken out together and put in again, in their order. Their content has changed too.
    Move {
        /// The positions they are taken from.
        from: Range<usize>,
        /// The position that the first of them has afterwards, in the list from which all were taken out before.
        to: usize,
    },
    /// The rows at `range` stay where they are, with other content.
    Update {
        /// The positions of the rows.
        range: Range<usize>,
    },
}

impl ChangeRange {
    fn of(change: Change) -> Self {
        match change {
            Change::Insert { index } => ChangeRange::Insert { range: index..index + 1 },
            Change::Remove { index } => ChangeRange::Remove { range: index..index + 1 },
            Change::Move { from, to } => ChangeRange::Move { from: from..from + 1, to },
            Change::Update { index } => ChangeRange::Update { range: index..index + 1 },
        }
    }

    /// Takes in the step that follows it, if both are one; says whether.
    fn takes(&mut self, change: Change) -> bool {
        match (self, change) {
            (ChangeRange::Insert { range }, Change::Insert { index })
            | (ChangeRange::Update { range }, Change::Update { index })
                if index == range.end =>
            {
                range.end += 1;
            }
            (ChangeRange::Remove { range }, Change::Remove { index }) if index == range.start => range.end += 1,
            (ChangeRange::Remove { range }, Change::Remove { index }) if index + 1 == range.start => {
                range.start = index
            }
            // A block that moves towards the beginning leaves those of it that are still to go where they are …
            (ChangeRange::Move { from, to }, Change::Move { from: next_from, to: next_to })
                if *to < from.start && next_from == from.end && next_to == *to + from.len() =>
            {
                from.end += 1;
            }
            // … and one that moves towards the end draws them to where its first one stood.
            (ChangeRange::Move { from, to }, Change::Move { from: next_from, to: next_to })
                if *to > from.start + 1 && next_from == from.start && next_to + 1 == *to + from.len() =>
            {
                from.end += 1;
                *to -= 1;
            }
            _ => return false,
        }
        true
    }

    /// The same steps, those that lie together as one.
    pub(crate) fn of_list(changes: &[Change]) -> Vec<Self> {
        let mut ranges: Vec<ChangeRange> = Vec::new();
        for change in changes {
            if !ranges.last_mut().is_some_and(|last| last.takes(*change)) {
                ranges.push(ChangeRange::of(*change));
            }
        }
        ranges
    }

    /// Whether it can be applied to a list of so many rows.
    fn fits(&self, len: usize) -> bool {
        let lies_in = |range: &Range<usize>| range.start <= range.end && range.end <= len;
        match self {
            ChangeRange::Insert { range } => range.start <= range.end && range.start <= len,
            ChangeRange::Remove { range } | ChangeRange::Update { range } => lies_in(range),
            ChangeRange::Move { from, to } => lies_in(from) && *to <= len - from.len(),
        }
    }

    /// Applies `changes` to `rows`, a list that mirrors the old snapshot, so that it mirrors the new one. `fetch` is called
    /// with a position in the new snapshot for each row that is new or has changed, in ascending order, once a row.
    ///
    /// Costs O(rows) a step at the most, and calls nothing but `fetch`.
    ///
    /// # Errors
    /// `Invalid` for a range outside the list: the changes were made for another list. `rows` is then empty; fill it anew.
    pub fn apply_all<R>(changes: &[ChangeRange], rows: &mut Vec<R>, mut fetch: impl FnMut(usize) -> R) -> Result<()> {
        let mut slots: Vec<Option<R>> = rows.drain(..).map(Some).collect();
        for change in changes {
            if !change.fits(slots.len()) {
                return Err(misfit(change, slots.len()));
            }
            match change {
                ChangeRange::Insert { range } => {
                    slots.splice(range.start..range.start, repeat_with(|| None).take(range.len()));
                }
                ChangeRange::Remove { range } => drop(slots.drain(range.clone())),
                ChangeRange::Move { from, to } => {
                    slots.drain(from.clone());
                    slots.splice(*to..*to, repeat_with(|| None).take(from.len()));
                }
                ChangeRange::Update { range } => slots[range.clone()].fill_with(|| None),
            }
        }
        rows.extend(slots.into_iter().enumerate().map(|(index, slot)| slot.unwrap_or_else(|| fetch(index))));
        Ok(())
    }
}

impl Changes {
    /// The list with steps that lie together as one; `None` for a [`Reset`](Self::Reset).
    pub fn ranges(&self) -> Option<Vec<ChangeRange>> {
        match self {
            Changes::List(changes) => Some(ChangeRange::of_list(changes)),
            Changes::Reset => None,
        }
    }

    /// A list for a view that now has so many rows; told as [`Reset`](Self::Reset) if reading them all is shorter.
    pub(crate) fn of_list(changes: Vec<Change>, rows: usize) -> Self {
        // What lies together counts once: an emptied view is one step.
        let is_longer = changes.len() > rows.max(FEW) && ChangeRange::of_list(&changes).len() > rows.max(FEW);
        if is_longer { Changes::Reset } else { Changes::List(changes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::scenery::changes::change_list;
    use crate::scenery::index::key::{Entry, SortKey};
    use crate::scenery::index::tree::Tree;
    use crate::{RowNo, Seq};
    use proptest::prelude::*;

    /// Rows by number, with these keys and versions.
    fn tree(rows: impl IntoIterator<Item = (u64, (u8, u64))>) -> Tree<Entry, 4> {
        let mut tree = Tree::new();
        for (row, (key, version)) in rows {
            tree.insert(Entry { key: SortKey::new(&[key]), row: RowNo(row), version: Seq(version) });
        }
        tree
    }

    fn shown(tree: &Tree<Entry, 4>) -> Vec<(u64, u64)> {
        tree.iter().map(|entry| (entry.row.0, entry.version.0)).collect()
    }

    fn check(old: &Tree<Entry, 4>, new: &Tree<Entry, 4>) -> Vec<ChangeRange> {
        let changes = change_list(old, new);
        let ranges = ChangeRange::of_list(&changes);
        assert!(ranges.len() <= changes.len());
        let new_rows = shown(new);
        let mut rows = shown(old);
        let mut fetched = Vec::new();
        ChangeRange::apply_all(&ranges, &mut rows, |index| {
            fetched.push(index);
            new_rows[index]
        })
        .unwrap();
        assert_eq!(rows, new_rows, "{:?} by {ranges:?}, from {changes:?}", shown(old));
        assert!(fetched.is_sorted_by(|a, b| a < b));
        assert_eq!(fetched.len(), changes.iter().filter(|change| !matches!(change, Change::Remove { .. })).count());
        ranges
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn ranges_turn_old_into_new(
            old in prop::collection::btree_map(0u64..30, (0u8..20, 0u64..2), 0..30),
            new in prop::collection::btree_map(0u64..30, (0u8..20, 0u64..2), 0..30),
        ) {
            check(&tree(old), &tree(new));
        }

        #[test]
        fn blocks_that_move_turn_old_into_new(
            len in 1usize..24,
            blocks in prop::collection::vec((any::<prop::sample::Index>(), 1usize..8, any::<prop::sample::Index>()), 1..4),
        ) {
            let keyed = |order: &[u64], version: u64| {
                tree(order.iter().enumerate().map(|(key, &row)| (row, (key as u8, version))).collect::<Vec<_>>())
            };
            let mut order: Vec<u64> = (0..len as u64).collect();
            let old = keyed(&order, 0);
            for (from, rows, to) in blocks {
                let from = from.index(len);
                let block: Vec<u64> = order.drain(from..(from + rows).min(len)).collect();
                let to = to.index(order.len() + 1);
                order.splice(to..to, block);
            }
            check(&old, &keyed(&order, 1));
        }

        #[test]
        fn the_ranges_of_any_steps_do_what_the_steps_do(
            len in 0usize..8,
            steps in prop::collection::vec((0u8..4, 0usize..9, 0usize..9), 0..20),
        ) {
            let mut now = len;
            let mut list = Vec::new();
            for (kind, a, b) in steps {
                match kind {
                    0 => {
                        list.push(Change::Insert { index: a % (now + 1) });
                        now += 1;
                    }
                    _ if now == 0 => {}
                    1 => {
                        list.push(Change::Remove { index: a % now });
                        now -= 1;
                    }
                    2 => list.push(Change::Move { from: a % now, to: b % now }),
                    _ => list.push(Change::Update { index: a % now }),
                }
            }
            // Each row is known by its old position; what is fetched is known by none.
            let mut by_steps: Vec<Option<usize>> = (0..len).map(Some).collect();
            let mut by_ranges = by_steps.clone();
            Change::apply_all(&list, &mut by_steps, |_| None).unwrap();
            ChangeRange::apply_all(&ChangeRange::of_list(&list), &mut by_ranges, |_| None).unwrap();
            prop_assert_eq!(by_ranges, by_steps, "{:?}", list);
        }
    }

    #[test]
    fn what_lies_together_is_one_step() {
        let one =
            |rows: std::ops::Range<u64>, shift: u8, version: u64| rows.map(move |n| (n, (n as u8 + shift, version)));
        let all = || tree(one(0..20, 100, 0));
        let without = tree(one(0..5, 100, 0).chain(one(15..20, 100, 0)));
        assert_eq!(check(&all(), &without), [ChangeRange::Remove { range: 5..15 }]);
        assert_eq!(check(&without, &all()), [ChangeRange::Insert { range: 5..15 }]);
        let changed = tree(one(0..5, 100, 0).chain(one(5..15, 100, 1)).chain(one(15..20, 100, 0)));
        assert_eq!(check(&all(), &changed), [ChangeRange::Update { range: 5..15 }]);
        let up = tree(one(0..5, 100, 0).chain(one(15..20, 100, 0)).chain(one(5..15, 0, 1)));
        assert_eq!(check(&all(), &up), [ChangeRange::Move { from: 5..15, to: 0 }]);
        let down = tree(one(0..5, 100, 0).chain(one(15..20, 100, 0)).chain(one(5..15, 200, 1)));
        assert_eq!(check(&all(), &down), [ChangeRange::Move { from: 5..15, to: 10 }]);
        assert_eq!(check(&all(), &all()), []);
    }

    #[test]
    fn a_list_longer_than_the_rows_is_told_as_reset() {
        let every_other: Vec<Change> = (0..100).rev().map(|index| Change::Remove { index: 2 * index }).collect();
        assert_eq!(Changes::of_list(every_other.clone(), 99), Changes::Reset);
        assert_eq!(Changes::of_list(every_other.clone(), 100), Changes::List(every_other.clone()));
        let few = every_other[68..].to_vec();
        assert_eq!(Changes::of_list(few.clone(), 3), Changes::List(few));
        let cleared: Vec<Change> = (0..100).rev().map(|index| Change::Remove { index }).collect();
        assert_eq!(Changes::of_list(cleared.clone(), 0), Changes::List(cleared));
        assert_eq!(Changes::Reset.ranges(), None);
    }

    #[test]
    fn ranges_for_other_rows_are_refused() {
        let (start, end) = (2, 1);
        for change in [
            ChangeRange::Insert { range: 3..4 },
            ChangeRange::Insert { range: start..end },
            ChangeRange::Remove { range: 1..3 },
            ChangeRange::Update { range: 2..3 },
            ChangeRange::Move { from: 0..2, to: 1 },
            ChangeRange::Move { from: 1..3, to: 0 },
        ] {
            let error = ChangeRange::apply_all(&[change], &mut vec![1, 2], |_| 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
