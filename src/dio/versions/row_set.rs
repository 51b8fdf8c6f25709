//! Row set and row map: collections keyed by row numbers, which are small and dense.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;

use crate::RowNo;

/// Row numbers are dense and unguessable to nobody: a multiplication spreads them well enough.
#[derive(Default)]
pub(crate) struct RowHasher(u64);

impl Hasher for RowHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
}

pub(crate) type RowMap<T> = HashMap<RowNo, T, BuildHasherDefault<RowHasher>>;

/// A set of row numbers from a first one on: a growing bit map, since they are dense.
#[derive(Default)]
pub(crate) struct RowSet {
    words: Vec<u64>,
    /// How many words before the first are left out.
    skipped: usize,
}

impl RowSet {
    /// An empty set that will hold no row before `first`.
    pub(crate) fn starting_at(first: RowNo) -> Self {
        RowSet { words: Vec::new(), skipped: (first.0 / 64) as usize }
    }

    pub(crate) fn insert(&mut self, row: RowNo) {
        let Some(word) = ((row.0 / 64) as usize).checked_sub(self.skipped) else { return };
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (row.0 % 64);
    }

    /// The rows in it, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = RowNo> {
        let of_word = |(place, word): (usize, &u64)| {
            let first = (place + self.skipped) as u64 * 64;
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| u64::from(left.trailing_zeros()))?;
                left &= left - 1;
                Some(RowNo(first + bit))
            })
        };
        self.words.iter().enumerate().flat_map(of_word)
    }

    pub(crate) fn contains(&self, row: RowNo) -> bool {
        let word = ((row.0 / 64) as usize).checked_sub(self.skipped).and_then(|word| self.words.get(word));
        word.is_some_and(|word| word & (1 << (row.0 % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_in_order_whatever_the_first_one_is() {
        for first in [0, 1, 63, 64, 1_000] {
            let mut set = RowSet::starting_at(RowNo(first));
            let rows = [0, 1, 63, 64, 127, 128, 500].map(|row| RowNo(first + row));
            rows.iter().rev().for_each(|row| set.insert(*row));
            assert!(set.iter().eq(rows), "{first}");
            assert!(rows.iter().all(|row| set.contains(*row)) && !set.contains(RowNo(first + 2)));
        }
        assert_eq!(RowSet::default().iter().count(), 0);
    }
}
