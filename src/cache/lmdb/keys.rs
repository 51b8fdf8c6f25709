//! Keys: how tables, rows, ids and meta values are named inside the few databases of the file.
//!
//! Every key begins with the table's number, big-endian, so that a table is one range of each database.
//! Invariants: no key is empty or longer than the 511 bytes LMDB takes; two ids never share a mapping, also when their
//! hashes collide (test `long_ids_of_one_hash_stay_apart`).

use crate::RowNo;

/// A table's number. 0 is the file's own: its meta values say what the file is.
pub(super) type Table = u32;

pub(super) const FILE: Table = 0;

/// Longer ids are hashed into the key and kept whole in the value.
const LONGEST_IN_KEY: usize = 400;
const SHORT: u8 = 0;
const LONG: u8 = 1;

/// Maps a long id to 64 bits, the same on every machine and in every release.
pub(super) type Hash = fn(&[u8]) -> u64;

/// FNV-1a.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

pub(super) fn row(table: Table, row: RowNo) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&table.to_be_bytes());
    key[4..].copy_from_slice(&row.0.to_be_bytes());
    key
}

/// The row number in a key that [`row`] made for this table; `None` beyond the table's range.
pub(super) fn row_in(table: Table, key: &[u8]) -> Option<RowNo> {
    let number = key.strip_prefix(&table.to_be_bytes())?;
    Some(RowNo(u64::from_be_bytes(number.try_into().ok()?)))
}

pub(super) fn meta(table: Table, key: &str) -> Vec<u8> {
    [&table.to_be_bytes(), key.as_bytes()].concat()
}

pub(super) fn is_long(id: &str) -> bool {
    id.len() > LONGEST_IN_KEY
}

/// Writes the key of an id over `key`.
pub(super) fn id(table: Table, id: &str, hash: Hash, key: &mut Vec<u8>) {
    key.clear();
    key.extend_from_slice(&table.to_be_bytes());
    if is_long(id) {
        key.push(LONG);
        key.extend_from_slice(&hash(id.as_bytes()).to_be_bytes());
    } else {
        key.push(SHORT);
        key.extend_from_slice(id.as_bytes());
    }
}

/// What a key of the ids' database, without its table, stands for.
pub(super) enum IdKey<'a> {
    /// The id itself; the value is its row number.
    Short(&'a str),
    /// The value is an [`Entries`].
    Long,
}

/// `None` for a key that [`id`] never makes.
pub(super) fn id_in(rest: &[u8]) -> Option<IdKey<'_>> {
    match rest.split_first()? {
        (&SHORT, id) => std::str::from_utf8(id).ok().map(IdKey::Short),
        (&LONG, _) => Some(IdKey::Long),
        _ => None,
    }
}

/// `None` for a value that isn't a row number.
pub(super) fn row_number(value: &[u8]) -> Option<RowNo> {
    Some(RowNo(u64::from_be_bytes(value.try_into().ok()?)))
}

/// All long ids of one hash: the row number, the id's length, the id, one after the other.
pub(super) struct Entries<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Entries<'a> {
    /// `None` inside for bytes that aren't such a list.
    type Item = Option<(&'a str, RowNo)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = |bytes: &'a [u8]| {
            let (number, rest) = bytes.split_first_chunk::<8>()?;
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let (id, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            Some((std::str::from_utf8(id).ok()?, RowNo(u64::from_be_bytes(*number)), rest))
        };
        match read(self.0) {
            Some((id, row, rest)) => {
                self.0 = rest;
                Some(Some((id, row)))
            }
            None => {
                self.0 = &[];
                Some(None)
            }
        }
    }
}

/// The list with the id mapped to `row`, or without the id. `None` when the list is damaged.
pub(super) fn with_entry(entries: &[u8], id: &str, row: Option<RowNo>) -> Option<Vec<u8>> {
    let mut changed = Vec::with_capacity(entries.len() + id.len() + 12);
    let mut push = |id: &str, row: RowNo| {
        changed.extend_from_slice(&row.0.to_be_bytes());
        changed.extend_from_slice(&(id.len() as u32).to_be_bytes());
        changed.extend_from_slice(id.as_bytes());
    };
    for entry in Entries(entries) {
        let (other, other_row) = entry?;
        if other != id {
            push(other, other_row);
        }
    }
    if let Some(row) = row {
        push(id, row);
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_as_entries_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Entries(&bytes).count() <= bytes.len());
        }
    }

    #[test]
    fn keys_stay_within_what_lmdb_takes() {
        let mut key = Vec::new();
        for length in [1, LONGEST_IN_KEY, LONGEST_IN_KEY + 1, 65_536] {
            id(u32::MAX, &"x".repeat(length), hash, &mut key);
            assert!((1..=511).contains(&key.len()), "an id of {length} bytes made a key of {}", key.len());
        }
        assert!(meta(1, &"k".repeat(crate::cache::MAX_META_KEY_BYTES)).len() <= 511);
    }
}
