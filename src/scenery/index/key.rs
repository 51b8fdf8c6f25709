//! Keys: a view's encoded sort key in 16 bytes, and the 32-byte entry made of it, a row number and the row's version.
//!
//! Invariants: keys compare exactly like their plain bytes (`keys_compare_like_their_bytes`); short keys never, and long
//! ones only behind equal prefixes, follow a pointer to do so.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::tree::{Item, Tree};
use crate::value::TypeRank;
use crate::{RowNo, Seq};

/// The longest key that is kept whole without an allocation.
const INLINE: usize = 14;
/// How much of a longer key stands beside its pointer.
const PREFIX: usize = 7;

/// An encoded sort key: up to 14 bytes inline, a longer one shared between its clones.
#[derive(Clone)]
pub(crate) struct SortKey(Repr);

/// Bytes stand in numbers, first byte highest, which compare like them. They are numbers and not arrays because nodes are
/// copied key by key: numbers go through registers, arrays by way of the stack.
#[derive(Clone)]
enum Repr {
    /// The bytes, zeros up to 14, and the length: equal up to the zeros, the shorter comes first.
    Inline { length: u8, bytes_12: u16, bytes_8: u32, bytes_0: u64 },
    /// The first seven bytes, and all.
    Long { byte_6: u8, bytes_4: u16, bytes_0: u32, all: Arc<Box<[u8]>> },
}

/// The bytes of a key.
pub(crate) enum KeyBytes<'a> {
    Inline([u8; INLINE + 2], u8),
    Long(&'a [u8]),
}

impl Deref for KeyBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            KeyBytes::Inline(bytes, length) => &bytes[..usize::from(*length)],
            KeyBytes::Long(bytes) => bytes,
        }
    }
}

impl SortKey {
    /// The key with these bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        if bytes.len() <= INLINE {
            let mut inline = [0; INLINE + 2];
            inline[..bytes.len()].copy_from_slice(bytes);
            let inline = u128::from_be_bytes(inline);
            return SortKey(Repr::Inline {
                length: bytes.len() as u8,
                bytes_12: (inline >> 16) as u16,
                bytes_8: (inline >> 32) as u32,
                bytes_0: (inline >> 64) as u64,
            });
        }
        let mut prefix = [0; 8];
        prefix[..PREFIX].copy_from_slice(&bytes[..PREFIX]);
        let prefix = u64::from_be_bytes(prefix);
        SortKey(Repr::Long {
            byte_6: (prefix >> 8) as u8,
            bytes_4: (prefix >> 16) as u16,
            bytes_0: (prefix >> 32) as u32,
            all: Arc::new(bytes.into()),
        })
    }

    /// The bytes it was made of.
    pub(crate) fn bytes(&self) -> KeyBytes<'_> {
        match &self.0 {
            Repr::Inline { length, .. } => KeyBytes::Inline((self.inline().unwrap_or(0) << 8).to_be_bytes(), *length),
            Repr::Long { all, .. } => KeyBytes::Long(all),
        }
    }

    /// The bytes and the length of an inline key, as one number of 120 bits.
    #[inline]
    fn inline(&self) -> Option<u128> {
        match self.0 {
            Repr::Inline { length, bytes_12, bytes_8, bytes_0 } => {
                let rest = u64::from(bytes_8) << 24 | u64::from(bytes_12) << 8 | u64::from(length);
                Some(u128::from(bytes_0) << 56 | u128::from(rest))
            }
            Repr::Long { .. } => None,
        }
    }

    /// The key of the same value when the one column that it is made of is sorted the other way; see `value::order`.
    pub(crate) fn turned_over(&self) -> Self {
        const MOST: usize = 256;
        let bytes = self.bytes();
        if self.is_of_null() {
            return self.clone();
        }
        let mut turned = [0; MOST];
        match turned.get_mut(..bytes.len()) {
            Some(turned) => {
                turned.iter_mut().zip(&*bytes).for_each(|(turned, byte)| *turned = !byte);
                SortKey::new(turned)
            }
            None => SortKey::new(&bytes.iter().map(|byte| !byte).collect::<Vec<u8>>()),
        }
    }

    /// Whether it is the key of one column that is null or absent: last in both directions.
    pub(crate) fn is_of_null(&self) -> bool {
        *self.bytes() == [TypeRank::Null as u8]
    }

    /// The first bytes, with zeros where a short key has none.
    fn prefix(&self) -> u64 {
        match self.0 {
            Repr::Inline { bytes_0, .. } => bytes_0 >> 8,
            Repr::Long { byte_6, bytes_4, bytes_0, .. } => {
                u64::from(bytes_0) << 24 | u64::from(bytes_4) << 8 | u64::from(byte_6)
            }
        }
    }

    #[cold]
    fn cmp_behind_prefix(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Long { all: a, .. }, Repr::Long { all: b, .. }) if Arc::ptr_eq(a, b) => Ordering::Equal,
            _ => self.bytes().cmp(&other.bytes()),
        }
    }
}

impl Ord for SortKey {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        if let (Some(a), Some(b)) = (self.inline(), other.inline()) {
            return a.cmp(&b);
        }
        self.prefix().cmp(&other.prefix()).then_with(|| self.cmp_behind_prefix(other))
    }
}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SortKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SortKey {}

impl fmt::Debug for SortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SortKey(\"{}\")", self.bytes().escape_ascii())
    }
}

/// One row of a view's index: its place is its key, then its number; its version tells whether its content changed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: SortKey,
    pub(crate) row: RowNo,
    pub(crate) version: Seq,
}

const _: () = assert!(size_of::<SortKey>() == 16 && size_of::<Entry>() == 32);

impl Item for Entry {
    #[inline]
    fn order(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key).then_with(|| self.row.cmp(&other.row))
    }

    fn same(&self, other: &Self) -> bool {
        self.version == other.version && self.order(other) == Ordering::Equal
    }
}

/// The entries of a list sorted by one column, as if the column had been sorted the other way: other values the other way
/// round, nulls last all the same, and ties in the order of their arrival.
pub(crate) fn reversed(list: &Tree<Entry>) -> Tree<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    let mut last: Option<&SortKey> = None;
    for entry in list.iter() {
        let key = match entries.last() {
            // Equal long keys share their bytes.
            Some(turned) if last == Some(&entry.key) => turned.key.clone(),
            _ => entry.key.turned_over(),
        };
        last = Some(&entry.key);
        entries.push(Entry { key, row: entry.row, version: entry.version });
    }
    let values = entries.partition_point(|entry| !entry.key.is_of_null());
    let (values, nulls) = entries.split_at(values);
    let ties = values.chunk_by(|a, b| a.key == b.key).rev();
    Tree::from_sorted(ties.flatten().chain(nulls).cloned())
}

/// Entries in several lists, each of which has its place: none needs to be copied behind another.
struct Parts {
    lists: Vec<Vec<Entry>>,
    /// A place is the number of a list, shifted by so many bits, and the place in it.
    shift: u32,
}

impl Parts {
    /// The lists, or if their places don't fit into 32 bits one of them all.
    fn new(lists: Vec<Vec<Entry>>) -> Self {
        let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
        let shift = usize::BITS - longest.saturating_sub(1).leading_zeros();
        let fits = (lists.len() as u64).checked_shl(shift).is_some_and(|places| places <= 1 << 32);
        if fits { Parts { lists, shift } } else { Parts { lists: vec![joined(lists)], shift } }
    }

    fn len(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.lists.iter().flatten()
    }

    fn with_places(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.lists.iter().enumerate().flat_map(|(number, list)| {
            let first = (number << self.shift) as u32;
            list.iter().enumerate().map(move |(place, entry)| (first | place as u32, entry))
        })
    }

    #[inline]
    fn at(&self, place: u32) -> &Entry {
        let place = place as usize;
        &self.lists[place >> self.shift][place & ((1 << self.shift) - 1)]
    }
}

fn joined(mut lists: Vec<Vec<Entry>>) -> Vec<Entry> {
    match lists.len() {
        0 | 1 => lists.pop().unwrap_or_default(),
        _ => lists.into_iter().flatten().collect(),
    }
}

/// Entries on their way out in the order of a view.
pub(crate) struct Sorted {
    /// The next ones, last first: read together, so that the processor waits for many of them at once.
    ready: Vec<Entry>,
    rest: Rest,
}

/// The entries that are not read yet.
enum Rest {
    /// They stand in order.
    InOrder(std::vec::IntoIter<Entry>),
    /// Where they stand, in order.
    Places(Parts, std::vec::IntoIter<u32>),
}

impl Sorted {
    /// Puts the entries of several lists in order.
    pub(crate) fn of(lists: Vec<Vec<Entry>>) -> Self {
        let parts = Parts::new(lists);
        let rest = match places_in_order(&parts) {
            Some(places) => Rest::Places(parts, places.into_iter()),
            None => {
                let mut entries = joined(parts.lists);
                entries.sort_unstable_by(Item::order);
                Rest::InOrder(entries.into_iter())
            }
        };
        Sorted { ready: Vec::with_capacity(AT_ONCE), rest }
    }
}

impl Iterator for Sorted {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let (parts, places) = match &mut self.rest {
            Rest::InOrder(entries) => return entries.next(),
            Rest::Places(parts, places) => (parts, places),
        };
        if self.ready.is_empty() {
            let next = places.as_slice();
            let next = &next[..next.len().min(AT_ONCE)];
            self.ready.extend(next.iter().rev().map(|place| parts.at(*place).clone()));
            places.nth(AT_ONCE - 1);
        }
        self.ready.pop()
    }
}

/// Entries that are read together.
const AT_ONCE: usize = 64;
/// Entries below which they are sorted as they are.
const FEW: usize = 4_096;

/// Where the entries stand, in order, if all keys are inline: then small numbers are sorted in place of the entries. Each
/// is made of the 64 bits of the key from the first one on in which any two differ, and of a place.
fn places_in_order(entries: &Parts) -> Option<Vec<u32>> {
    if entries.len() < FEW || u64::from(u32::MAX) < (entries.lists.len() as u64) << entries.shift {
        return None;
    }
    let bits = |entry: &Entry| entry.key.inline();
    let first = bits(entries.iter().next()?)?;
    let mut differing = 0;
    for entry in entries.lists.iter().flatten() {
        differing |= bits(entry)? ^ first;
    }
    let shift = differing.leading_zeros().min(64);
    let window = |entry: &Entry| ((bits(entry).unwrap_or(0) << shift) >> 64) as u64;
    let unused = ((differing << shift >> 64) as u64).trailing_zeros().min(63);
    let mut places: Vec<u32>;
    if 64 - unused <= 32 {
        let mut numbers: Vec<u64> = Vec::with_capacity(entries.len());
        let number = |(place, entry): (u32, &Entry)| (window(entry) >> unused) << 32 | u64::from(place);
        entries.with_places().map(number).for_each(|number| numbers.push(number));
        numbers.sort_unstable();
        places = numbers.into_iter().map(|number| number as u32).collect();
    } else {
        let mut numbers: Vec<(u64, u32)> = Vec::with_capacity(entries.len());
        entries.with_places().for_each(|(place, entry)| numbers.push((window(entry), place)));
        numbers.sort_unstable();
        places = numbers.into_iter().map(|(_, place)| place).collect();
    }
    let is_whole = differing << shift << 64 == 0;
    if !is_whole || !entries.iter().is_sorted_by(|a, b| a.row < b.row) {
        // What the window doesn't tell.
        let at = |place: &u32| entries.at(*place);
        for alike in places.chunk_by_mut(|a, b| window(at(a)) == window(at(b))) {
            alike.sort_unstable_by(|a, b| at(a).order(at(b)));
        }
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Value, encode_value_sort_key};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn keys_compare_like_their_bytes(
            shared in prop::collection::vec(0u8..2, 0..18),
            a in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..20),
            b in prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..20),
        ) {
            let (a, b) = ([shared.clone(), a].concat(), [shared, b].concat());
            let (key_a, key_b) = (SortKey::new(&a), SortKey::new(&b));
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            prop_assert_eq!(key_b.cmp(&key_a), b.cmp(&a));
            prop_assert_eq!(key_a.clone().cmp(&key_a), Ordering::Equal);
            prop_assert_eq!(key_a == key_b, a == b);
            prop_assert_eq!(&*key_a.bytes(), &a[..]);
        }
    }

    #[test]
    fn trailing_zeros_count() {
        for len in 0..24 {
            let (shorter, longer) = (SortKey::new(&vec![0; len]), SortKey::new(&vec![0; len + 1]));
            assert!(shorter < longer, "{len}");
        }
    }

    fn check_sorted(keys: Vec<Vec<u8>>, rows_ascend: bool) {
        let rows = keys.len() as u64;
        let row = |place: usize| if rows_ascend { place as u64 } else { (place as u64).wrapping_mul(7_919) % rows };
        let entry =
            |(place, key): (usize, &Vec<u8>)| Entry { key: SortKey::new(key), row: RowNo(row(place)), version: Seq(1) };
        let entries: Vec<Entry> = keys.iter().enumerate().map(entry).collect();
        let mut expected = entries.clone();
        expected.sort_by(|a, b| a.key.bytes().cmp(&b.key.bytes()).then(a.row.cmp(&b.row)));
        let (one, another) = entries.split_at(entries.len() / 3);
        let in_lists = vec![one.to_vec(), Vec::new(), another.to_vec(), Vec::new()];
        for found in [Sorted::of(vec![entries.clone()]), Sorted::of(in_lists)] {
            let found: Vec<Entry> = found.collect();
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(&expected).all(|(a, b)| a.same(b) && a.row == b.row));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..Default::default() })]

        #[test]
        fn many_entries_are_sorted_like_their_bytes(
            shared in prop::collection::vec(any::<u8>(), 0..10),
            few in any::<bool>(),
            longest in 1_usize..20,
            seed in any::<u64>(),
            rows_ascend in any::<bool>(),
        ) {
            let mut random = seed;
            let mut next = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 33) as usize
            };
            let keys = (0..FEW + 100).map(|_| {
                let length = if few { longest } else { next() % longest };
                let rest = (0..length).map(|_| if few { (next() % 3) as u8 } else { next() as u8 });
                shared.iter().copied().chain(rest).collect()
            });
            check_sorted(keys.collect(), rows_ascend);
        }
    }

    #[test]
    fn many_equal_entries_keep_their_arrival() {
        for key in [&b""[..], b"same", b"a key that is a long one"] {
            check_sorted(vec![key.to_vec(); FEW], true);
            check_sorted(vec![key.to_vec(); FEW], false);
        }
    }

    fn any_value() -> impl Strategy<Value = Option<Value>> {
        prop_oneof![
            Just(None),
            Just(Some(Value::Null)),
            any::<bool>().prop_map(|value| Some(Value::Bool(value))),
            (-3..3_i64).prop_map(|value| Some(Value::from(value))),
            any::<i64>().prop_map(|value| Some(Value::from(value))),
            any::<f64>().prop_map(|value| Some(Value::Float(value))),
            "[a\0]{0,3}|[a-c]{12,18}|x{300,302}".prop_map(|value| Some(Value::Text(value))),
            prop::collection::vec((0..2_i64).prop_map(Value::from), 0..3).prop_map(|items| Some(Value::Array(items))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_list_turned_round_is_the_list_sorted_the_other_way(values in prop::collection::vec(any_value(), 0..150)) {
            let sorted = |descending| {
                let entry = |(row, value): (usize, &Option<Value>)| {
                    let mut key = Vec::new();
                    encode_value_sort_key(value.as_ref(), descending, &mut key);
                    Entry { key: SortKey::new(&key), row: RowNo(row as u64), version: Seq(row as u64 + 7) }
                };
                Tree::<Entry>::from_sorted(Sorted::of(vec![values.iter().enumerate().map(entry).collect()]))
            };
            for descending in [false, true] {
                let (found, expected) = (reversed(&sorted(descending)), sorted(!descending));
                prop_assert_eq!(found.len(), values.len());
                prop_assert!(found.iter().zip(expected.iter()).all(|(found, expected)| found.same(expected)));
            }
        }
    }
}
