//! Keys: a view's encoded sort key in 16 bytes, and the 32-byte entry made of it, a row number and the row's version.
//!
//! Invariants: keys compare exactly like their plain bytes (`keys_compare_like_their_bytes`); short keys never, and long
//! ones only behind equal prefixes, follow a pointer to do so.

use std::cmp::Ordering;
use std::fmt;
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

#[derive(Clone)]
enum Repr {
    /// The bytes, zeros up to 14, then the length: equal up to the zeros, the shorter comes first.
    Inline([u8; INLINE + 1]),
    Long([u8; PREFIX], Arc<Box<[u8]>>),
}

impl SortKey {
    /// The key with these bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        if bytes.len() <= INLINE {
            let mut inline = [0; INLINE + 1];
            inline[..bytes.len()].copy_from_slice(bytes);
            inline[INLINE] = bytes.len() as u8;
            return SortKey(Repr::Inline(inline));
        }
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&bytes[..PREFIX]);
        SortKey(Repr::Long(prefix, Arc::new(bytes.into())))
    }

    /// The bytes it was made of.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline(inline) => &inline[..usize::from(inline[INLINE])],
            Repr::Long(_, bytes) => bytes,
        }
    }

    /// The key of the same value when the one column that it is made of is sorted the other way; see `value::order`.
    pub(crate) fn turned_over(&self) -> Self {
        const MOST: usize = 256;
        let bytes = self.as_bytes();
        if self.is_of_null() {
            return self.clone();
        }
        let mut turned = [0; MOST];
        match turned.get_mut(..bytes.len()) {
            Some(turned) => {
                turned.iter_mut().zip(bytes).for_each(|(turned, byte)| *turned = !byte);
                SortKey::new(turned)
            }
            None => SortKey::new(&bytes.iter().map(|byte| !byte).collect::<Vec<u8>>()),
        }
    }

    /// Whether it is the key of one column that is null or absent: last in both directions.
    pub(crate) fn is_of_null(&self) -> bool {
        self.as_bytes() == [TypeRank::Null as u8]
    }

    /// The first bytes, with zeros where a short key has none.
    fn prefix(&self) -> [u8; PREFIX] {
        match &self.0 {
            Repr::Inline(inline) => std::array::from_fn(|at| inline[at]),
            Repr::Long(prefix, _) => *prefix,
        }
    }

    #[cold]
    fn cmp_behind_prefix(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Long(_, a), Repr::Long(_, b)) if Arc::ptr_eq(a, b) => Ordering::Equal,
            _ => self.as_bytes().cmp(other.as_bytes()),
        }
    }
}

/// 15 bytes as two big-endian numbers that share a byte, which compare like the bytes.
#[inline]
fn halves(inline: &[u8; INLINE + 1]) -> (u64, u64) {
    let half = |from: usize| u64::from_be_bytes(std::array::from_fn(|at| inline[from + at]));
    (half(0), half(INLINE - 7))
}

impl Ord for SortKey {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        if let (Repr::Inline(a), Repr::Inline(b)) = (&self.0, &other.0) {
            return halves(a).cmp(&halves(b));
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
        write!(f, "SortKey(\"{}\")", self.as_bytes().escape_ascii())
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

/// Entries on their way out in the order of a view.
pub(crate) struct Sorted {
    entries: Vec<Entry>,
    /// Where the entries stand, in order; `None` when they stand in order themselves.
    places: Option<std::vec::IntoIter<u32>>,
    next: usize,
    /// The next ones, last first: read together, so that the processor waits for many of them at once.
    ready: Vec<Entry>,
}

impl Sorted {
    /// Puts entries in order.
    pub(crate) fn new(mut entries: Vec<Entry>) -> Self {
        let places = match places_in_order(&entries) {
            Some(places) => Some(places.into_iter()),
            None => {
                entries.sort_unstable_by(Item::order);
                None
            }
        };
        Sorted { entries, places, next: 0, ready: Vec::with_capacity(AT_ONCE) }
    }
}

impl Iterator for Sorted {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let Some(places) = &mut self.places else {
            self.next += 1;
            return self.entries.get(self.next - 1).cloned();
        };
        if self.ready.is_empty() {
            let next = places.as_slice();
            let next = &next[..next.len().min(AT_ONCE)];
            self.ready.extend(next.iter().rev().map(|place| self.entries[*place as usize].clone()));
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
fn places_in_order(entries: &[Entry]) -> Option<Vec<u32>> {
    if entries.len() < FEW || u32::try_from(entries.len()).is_err() {
        return None;
    }
    let bits = |entry: &Entry| match &entry.key.0 {
        Repr::Inline(inline) => {
            let (high, low) = halves(inline);
            // The halves share a byte.
            Some(u128::from(high) << 56 | u128::from(low))
        }
        Repr::Long(..) => None,
    };
    let first = bits(entries.first()?)?;
    let mut differing = 0;
    for entry in entries {
        differing |= bits(entry)? ^ first;
    }
    let shift = differing.leading_zeros().min(64);
    let window = |entry: &Entry| ((bits(entry).unwrap_or(0) << shift) >> 64) as u64;
    let unused = ((differing << shift >> 64) as u64).trailing_zeros().min(63);
    let mut places: Vec<u32>;
    if 64 - unused <= 32 {
        let numbers = |(place, entry): (usize, &Entry)| (window(entry) >> unused) << 32 | place as u64;
        let mut numbers: Vec<u64> = entries.iter().enumerate().map(numbers).collect();
        numbers.sort_unstable();
        places = numbers.into_iter().map(|number| number as u32).collect();
    } else {
        let mut numbers: Vec<(u64, u32)> =
            entries.iter().enumerate().map(|(place, entry)| (window(entry), place as u32)).collect();
        numbers.sort_unstable();
        places = numbers.into_iter().map(|(_, place)| place).collect();
    }
    let is_whole = differing << shift << 64 == 0;
    if !is_whole || !entries.is_sorted_by(|a, b| a.row < b.row) {
        // What the window doesn't tell.
        let at = |place: &u32| &entries[*place as usize];
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
            prop_assert_eq!(key_a.as_bytes(), &a[..]);
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
        expected.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()).then(a.row.cmp(&b.row)));
        let found: Vec<Entry> = Sorted::new(entries).collect();
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(&expected).all(|(found, expected)| found.same(expected) && found.row == expected.row));
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
                Tree::<Entry>::from_sorted(Sorted::new(values.iter().enumerate().map(entry).collect()))
            };
            for descending in [false, true] {
                let (found, expected) = (reversed(&sorted(descending)), sorted(!descending));
                prop_assert_eq!(found.len(), values.len());
                prop_assert!(found.iter().zip(expected.iter()).all(|(found, expected)| found.same(expected)));
            }
        }
    }
}
