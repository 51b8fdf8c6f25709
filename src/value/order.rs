//! Order: the one total order on values, and its order-preserving byte encoding.
//!
//! Flow: two values → `compare`; one value → `encode_sort_key` → bytes that compare the same way.
//! Invariants: `compare(a, b) == encode(a).cmp(encode(b))`; with `descending` the reverse, null and absent last both
//! times; no key is the start of another, so that keys of several columns are simply put together.
//!
//! A key is a rank byte and its content:
//!
//! | kind | content |
//! | --- | --- |
//! | boolean | 0 or 1 |
//! | number | see `order/number.rs` |
//! | text, bytes | the bytes, 0 and 1 escaped as `1 1` and `1 2`, then 0 |
//! | datetime | see `order/datetime.rs` |
//! | array | the keys of the items, then 0 |
//! | map | the keys of name and value of each entry, sorted by name, then 0 |
//! | null, absent | nothing; its rank 0xFF stays last in both directions |
//!
//! A descending key is the same with all bits turned over.

mod datetime;
mod identity;
mod number;

use std::borrow::Cow;
use std::cmp::Ordering;

pub use self::identity::same_value;

use self::datetime::Datetime;
use self::number::Number;
use super::cbor;
use super::{ArrayRef, MAX_DEPTH, MapRef, Segments, Value, ValueRef};

/// The kinds of value in their order; values of different kinds never compare as equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TypeRank {
    /// Booleans.
    Bool = 0x10,
    /// Integers, floats, bignums and decimals.
    Number = 0x20,
    /// Text.
    Text = 0x30,
    /// Bytes.
    Bytes = 0x40,
    /// Text under tag 0.
    Datetime = 0x50,
    /// Arrays.
    Array = 0x60,
    /// Maps.
    Map = 0x70,
    /// Null, and absent.
    Null = 0xff,
}

/// Less than every rank, so that a shorter list comes first.
const END: u8 = 0;
const ESCAPE: u8 = 1;

/// A value as the order sees it: numbers, datetimes and transparent tags are recognised.
enum Ranked<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Text<'a>),
    Bytes(Text<'a>),
    Datetime(Datetime<'a>),
    Array(ArrayRef<'a>),
    Map(MapRef<'a>),
}

/// The bytes of text or bytes, whole or in pieces.
#[derive(Clone, Copy)]
enum Text<'a> {
    Whole(&'a [u8]),
    Pieces(Segments<'a>),
}

impl<'a> Ranked<'a> {
    fn of(mut value: ValueRef<'a>) -> Self {
        loop {
            let (tag, inner) = match value {
                ValueRef::Null => return Ranked::Null,
                ValueRef::Bool(value) => return Ranked::Bool(value),
                ValueRef::Int(value) => return Ranked::Number(Number::Int(value)),
                ValueRef::Float(value) => return Ranked::Number(Number::Float(value)),
                ValueRef::Text(text) => return Ranked::Text(Text::Whole(text.as_bytes())),
                ValueRef::Bytes(bytes) => return Ranked::Bytes(Text::Whole(bytes)),
                ValueRef::SegmentedText(segments) => return Ranked::Text(Text::Pieces(segments)),
                ValueRef::SegmentedBytes(segments) => return Ranked::Bytes(Text::Pieces(segments)),
                ValueRef::Array(array) => return Ranked::Array(array),
                ValueRef::Map(map) => return Ranked::Map(map),
                ValueRef::Tag(tag, inner) => (tag, inner.value().unwrap_or(ValueRef::Null)),
            };
            if let Some(number) = Number::of_tagged(tag, inner) {
                return Ranked::Number(number);
            }
            if tag == cbor::TAG_DATETIME {
                match inner {
                    ValueRef::Text(text) => return Ranked::Datetime(Datetime::of(Cow::Borrowed(text))),
                    ValueRef::SegmentedText(_) => {
                        return Ranked::Datetime(Datetime::of(inner.text().unwrap_or_default()));
                    }
                    _ => {}
                }
            }
            value = inner;
        }
    }

    fn rank(&self) -> TypeRank {
        match self {
            Ranked::Null => TypeRank::Null,
            Ranked::Bool(_) => TypeRank::Bool,
            Ranked::Number(_) => TypeRank::Number,
            Ranked::Text(_) => TypeRank::Text,
            Ranked::Bytes(_) => TypeRank::Bytes,
            Ranked::Datetime(_) => TypeRank::Datetime,
            Ranked::Array(_) => TypeRank::Array,
            Ranked::Map(_) => TypeRank::Map,
        }
    }
}

/// The kind of a value in the order. A tag that the order doesn't know is transparent.
pub fn type_rank(value: ValueRef<'_>) -> TypeRank {
    Ranked::of(value).rank()
}

/// Compares two values in the one order.
///
/// Booleans come first, then numbers (exactly, of whatever kind; NaN last), text by code point, bytes, datetimes as
/// instants, arrays item by item, maps as lists sorted by key, null last.
///
/// ```
/// use diorama::value::{Value, compare};
/// use std::cmp::Ordering;
///
/// assert_eq!(compare(&Value::from(1), &Value::from(1.0)), Ordering::Equal);
/// assert_eq!(compare(&Value::from(2), &Value::from("1")), Ordering::Less);
/// assert_eq!(compare(&Value::Null, &Value::from("1")), Ordering::Greater);
/// ```
pub fn compare(a: &Value, b: &Value) -> Ordering {
    compare_nested(ValueRef::from(a), ValueRef::from(b), 0)
}

/// [`compare`] for values read in place; absent equals null.
pub fn compare_refs(a: Option<ValueRef<'_>>, b: Option<ValueRef<'_>>) -> Ordering {
    compare_nested(a.unwrap_or(ValueRef::Null), b.unwrap_or(ValueRef::Null), 0)
}

/// [`compare`] for a value read in place and one in memory.
pub fn compare_ref_to_value(a: ValueRef<'_>, b: &Value) -> Ordering {
    compare_nested(a, ValueRef::from(b), 0)
}

fn compare_nested(a: ValueRef<'_>, b: ValueRef<'_>, depth: usize) -> Ordering {
    match (a, b) {
        (ValueRef::Int(a), ValueRef::Int(b)) => return a.cmp(&b),
        (ValueRef::Text(a), ValueRef::Text(b)) => return a.cmp(b),
        _ => {}
    }
    match (Ranked::of(a), Ranked::of(b)) {
        (Ranked::Bool(a), Ranked::Bool(b)) => a.cmp(&b),
        (Ranked::Number(a), Ranked::Number(b)) => a.compare(&b),
        (Ranked::Text(a), Ranked::Text(b)) | (Ranked::Bytes(a), Ranked::Bytes(b)) => a.compare(b),
        (Ranked::Datetime(a), Ranked::Datetime(b)) => a.compare(&b),
        (Ranked::Array(a), Ranked::Array(b)) => compare_arrays(a, b, depth),
        // Sorting by key compares keys many times, and keys may be maps themselves; encoding does each once.
        (Ranked::Map(a), Ranked::Map(b)) => sorted_entries(a, depth).cmp(&sorted_entries(b, depth)),
        (a, b) => a.rank().cmp(&b.rank()),
    }
}

fn compare_arrays(a: ArrayRef<'_>, b: ArrayRef<'_>, depth: usize) -> Ordering {
    if depth >= MAX_DEPTH {
        return Ordering::Equal;
    }
    let (mut a, mut b) = (a.iter(), b.iter());
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) => match compare_nested(a, b, depth + 1) {
                Ordering::Equal => {}
                different => return different,
            },
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

/// Appends the sort key of a value to `out`. Keys of several columns are put one behind the other.
///
/// Null and absent come last, descending or not.
///
/// ```
/// use diorama::value::{ValueRef, encode_sort_key};
///
/// let key = |value: ValueRef<'_>, descending| {
///     let mut out = Vec::new();
///     encode_sort_key(Some(value), descending, &mut out);
///     out
/// };
/// assert!(key(ValueRef::Int(1), false) < key(ValueRef::Float(1.5), false));
/// assert!(key(ValueRef::Int(1), true) > key(ValueRef::Float(1.5), true));
/// assert!(key(ValueRef::Int(1), true) < key(ValueRef::Null, true));
/// ```
#[inline]
pub fn encode_sort_key(value: Option<ValueRef<'_>>, descending: bool, out: &mut Vec<u8>) {
    let start = out.len();
    encode_nested(value.unwrap_or(ValueRef::Null), 0, out);
    if descending && out.get(start) != Some(&(TypeRank::Null as u8)) {
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// [`encode_sort_key`] for a value in memory.
pub fn encode_value_sort_key(value: Option<&Value>, descending: bool, out: &mut Vec<u8>) {
    encode_sort_key(value.map(ValueRef::from), descending, out);
}

#[inline]
fn encode_nested(value: ValueRef<'_>, depth: usize, out: &mut Vec<u8>) {
    match value {
        ValueRef::Int(value) => Number::Int(value).encode(out),
        ValueRef::Text(text) => {
            out.push(TypeRank::Text as u8);
            encode_bytes(text.as_bytes(), out);
            out.push(END);
        }
        _ => encode_ranked(value, depth, out),
    }
}

fn encode_ranked(value: ValueRef<'_>, depth: usize, out: &mut Vec<u8>) {
    let value = Ranked::of(value);
    let rank = value.rank() as u8;
    match value {
        Ranked::Null => out.push(rank),
        Ranked::Bool(value) => out.extend_from_slice(&[rank, u8::from(value)]),
        Ranked::Number(number) => number.encode(out),
        Ranked::Text(text) | Ranked::Bytes(text) => {
            out.push(rank);
            text.pieces(|piece| encode_bytes(piece, out));
            out.push(END);
        }
        Ranked::Datetime(datetime) => {
            out.push(rank);
            datetime.encode(out);
        }
        Ranked::Array(items) => {
            out.push(rank);
            if depth < MAX_DEPTH {
                items.iter().for_each(|item| encode_nested(item, depth + 1, out));
            }
            out.push(END);
        }
        Ranked::Map(map) => {
            out.push(rank);
            sorted_entries(map, depth).iter().for_each(|entry| out.extend_from_slice(entry));
            out.push(END);
        }
    }
}

/// The encoded entries of a map in the order of their keys (then values, should a key come twice).
fn sorted_entries(map: MapRef<'_>, depth: usize) -> Vec<Vec<u8>> {
    if depth >= MAX_DEPTH {
        return Vec::new();
    }
    let encoded = |(key, value)| {
        let mut entry = Vec::new();
        encode_nested(key, depth + 1, &mut entry);
        encode_nested(value, depth + 1, &mut entry);
        entry
    };
    let mut entries: Vec<Vec<u8>> = map.iter().map(encoded).collect();
    entries.sort_unstable();
    entries
}

/// Appends bytes in which 0 can't occur, in the same order.
#[inline]
fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let needs_escape = bytes.iter().fold(false, |found, byte| found | (*byte <= ESCAPE));
    if !needs_escape {
        return out.extend_from_slice(bytes);
    }
    for byte in bytes {
        if *byte <= ESCAPE {
            out.push(ESCAPE);
            out.push(byte + 1);
        } else {
            out.push(*byte);
        }
    }
}

impl<'a> Text<'a> {
    fn compare(self, other: Text<'_>) -> Ordering {
        match (self, other) {
            (Text::Whole(a), Text::Whole(b)) => a.cmp(b),
            (Text::Whole(a), Text::Pieces(b)) => a.iter().cmp(b.pieces().flatten()),
            (Text::Pieces(a), Text::Whole(b)) => a.pieces().flatten().cmp(b),
            (Text::Pieces(a), Text::Pieces(b)) => a.pieces().flatten().cmp(b.pieces().flatten()),
        }
    }

    fn pieces(self, mut each: impl FnMut(&'a [u8])) {
        match self {
            Text::Whole(bytes) => each(bytes),
            Text::Pieces(segments) => segments.pieces().for_each(each),
        }
    }
}

/// A number as a sum takes it in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Summand {
    /// An integer; a bignum below 2^120 too.
    Int(i128),
    /// A float; of a decimal and of a larger bignum the nearest one.
    Float(f64),
}

/// What a value adds to a sum; `None` for what the order doesn't take for a number.
#[inline]
pub(crate) fn summand(value: ValueRef<'_>) -> Option<Summand> {
    match value {
        ValueRef::Int(value) => Some(Summand::Int(value)),
        ValueRef::Float(value) => Some(Summand::Float(value)),
        ValueRef::Tag(..) => match Ranked::of(value) {
            Ranked::Number(Number::Int(value)) => Some(Summand::Int(value)),
            Ranked::Number(number) => Some(Summand::Float(number.nearest())),
            _ => None,
        },
        _ => None,
    }
}

/// The number behind any tags as the nearest float.
pub(super) fn nearest_f64(value: ValueRef<'_>) -> Option<f64> {
    match Ranked::of(value) {
        Ranked::Number(number) => Some(number.nearest()),
        _ => None,
    }
}
