//! Keys: a view's encoded sort key in 16 bytes, and the 32-byte entry made of it, a row number and the row's version.
//!
//! Invariants: keys compare exactly like their plain bytes (`keys_compare_like_their_bytes`); short keys never, and long
//! ones only behind equal prefixes, follow a pointer to do so.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::tree::Item;
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
fn halves(inline: &[u8; INLINE + 1]) -> (u64, u64) {
    let half = |from: usize| u64::from_be_bytes(std::array::from_fn(|at| inline[from + at]));
    (half(0), half(INLINE - 7))
}

impl Ord for SortKey {
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
    fn order(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key).then_with(|| self.row.cmp(&other.row))
    }

    fn same(&self, other: &Self) -> bool {
        self.version == other.version && self.order(other) == Ordering::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}
