//! Fresh rows: the rows of a first load, all new, in one block instead of a version chain each.
//!
//! Invariants: row numbers are consecutive in the order given; ids are unique; nothing changes after it was made.

use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::value::StoredRow;
use crate::{RowNo, Seq};

/// Positions of rows by id. It keeps no ids of its own: the rows have them.
#[derive(Debug, Default)]
pub(crate) struct IdIndex {
    positions: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl IdIndex {
    /// An index of these rows; an id that is there twice is the error.
    pub(crate) fn new(rows: &[StoredRow]) -> Result<Self, &str> {
        let hasher = DefaultHashBuilder::default();
        let mut positions = HashTable::with_capacity(rows.len());
        for (position, row) in rows.iter().enumerate() {
            let id = row.id();
            let hash = hasher.hash_one(id);
            if positions.find(hash, |other: &u32| rows[*other as usize].id() == id).is_some() {
                return Err(id);
            }
            positions.insert_unique(hash, position as u32, |other| hasher.hash_one(rows[*other as usize].id()));
        }
        Ok(IdIndex { positions, hasher })
    }

    /// The position of the row of this id. `rows` are those it was made of.
    pub(crate) fn find(&self, rows: &[StoredRow], id: &str) -> Option<usize> {
        let same = |position: &u32| rows[*position as usize].id() == id;
        self.positions.find(self.hasher.hash_one(id), same).map(|position| *position as usize)
    }
}

/// The rows of a first load.
#[derive(Debug)]
pub(crate) struct FreshRows {
    seq: Seq,
    first: RowNo,
    rows: Vec<StoredRow>,
    by_id: IdIndex,
}

impl FreshRows {
    /// Gives the rows their Seq and consecutive numbers from `first` on.
    pub(crate) fn new(seq: Seq, first: RowNo, mut rows: Vec<StoredRow>, by_id: IdIndex) -> Arc<Self> {
        for row in &mut rows {
            row.set_seq(seq);
        }
        Arc::new(FreshRows { seq, first, rows, by_id })
    }

    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    pub(crate) fn rows(&self) -> &[StoredRow] {
        &self.rows
    }

    pub(crate) fn row(&self, row: RowNo) -> Option<&StoredRow> {
        self.rows.get(usize::try_from(row.0.checked_sub(self.first.0)?).ok()?)
    }

    pub(crate) fn find(&self, id: &str) -> Option<RowNo> {
        self.by_id.find(&self.rows, id).map(|position| self.number(position))
    }

    pub(crate) fn number(&self, position: usize) -> RowNo {
        RowNo(self.first.0 + position as u64)
    }

    /// Those of its row numbers that lie in this range.
    pub(crate) fn numbers_in(&self, range: &Range<RowNo>) -> Range<RowNo> {
        let end = self.number(self.rows.len());
        let from = range.start.clamp(self.first, end);
        from..range.end.clamp(from, end)
    }

    /// Its rows with numbers in this range.
    pub(crate) fn rows_in(&self, range: &Range<RowNo>) -> impl Iterator<Item = (RowNo, &StoredRow)> {
        let numbers = self.numbers_in(range);
        let rows = (numbers.start.0 - self.first.0) as usize..(numbers.end.0 - self.first.0) as usize;
        (numbers.start.0..).map(RowNo).zip(self.rows.get(rows).unwrap_or_default())
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (RowNo, &StoredRow)> {
        self.rows.iter().enumerate().map(|(position, row)| (self.number(position), row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    #[test]
    fn rows_are_found_by_id_and_by_number() {
        let rows: Vec<StoredRow> =
            (0..100).map(|n| StoredRow::encode(&format!("id {n}"), &record! { "n" => n }, 0)).collect();
        let by_id = IdIndex::new(&rows).unwrap();
        let fresh = FreshRows::new(Seq(7), RowNo(50), rows, by_id);
        assert_eq!(fresh.find("id 0"), Some(RowNo(50)));
        assert_eq!(fresh.row(RowNo(149)).unwrap().id(), "id 99");
        assert_eq!(fresh.row(RowNo(149)).unwrap().seq(), Seq(7));
        assert!(fresh.row(RowNo(49)).is_none() && fresh.row(RowNo(150)).is_none());
        assert_eq!(fresh.find("another"), None);
        for (range, expected) in [
            (0..u64::MAX, 50..150),
            (0..50, 50..50),
            (0..60, 50..60),
            (60..70, 60..70),
            (149..151, 149..150),
            (200..300, 150..150),
        ] {
            let range = RowNo(range.start)..RowNo(range.end);
            assert_eq!(fresh.numbers_in(&range), RowNo(expected.start)..RowNo(expected.end));
            let rows = fresh.rows_in(&range).map(|(row, stored)| (row, stored.id().to_owned()));
            assert!(rows.eq(expected.map(|row| (RowNo(row), format!("id {}", row - 50)))));
        }
    }

    #[test]
    fn an_id_that_is_there_twice_is_named() {
        let rows: Vec<StoredRow> = ["a", "b", "a"].map(|id| StoredRow::encode(id, &record! {}, 0)).into();
        assert_eq!(IdIndex::new(&rows).err(), Some("a"));
    }
}
