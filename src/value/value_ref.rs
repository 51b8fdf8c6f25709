//! ValueRef: one value, read in place from CBOR bytes or from a [`Value`] in memory, without decoding its neighbours.
//!
//! Invariants: `to_value` equals ciborium's full decode of the same bytes; nothing here allocates except `to_value` and
//! the joining of a string that was stored in several pieces.

use std::borrow::Cow;

use super::Value;
use super::cbor::{self, SegmentReader, Simple};

/// One value, borrowed. Scalars are read; arrays, maps and tagged values are read when asked for.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum ValueRef<'a> {
    /// Null (CBOR's undefined, too).
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer of 64 bits and a sign. Bignums are tags here; [`as_i64`](Self::as_i64) and the order read them, too.
    Int(i128),
    /// A float of any width.
    Float(f64),
    /// Text in one piece.
    Text(&'a str),
    /// Bytes in one piece.
    Bytes(&'a [u8]),
    /// Text stored in several pieces (CBOR's indefinite length); each piece is text.
    SegmentedText(Segments<'a>),
    /// Bytes stored in several pieces.
    SegmentedBytes(Segments<'a>),
    /// An array.
    Array(ArrayRef<'a>),
    /// A map.
    Map(MapRef<'a>),
    /// A tagged value.
    Tag(u64, TaggedRef<'a>),
}

/// The pieces of a text or byte string of indefinite length.
#[derive(Debug, Clone, Copy)]
pub struct Segments<'a> {
    rest: &'a [u8],
    major: u8,
}

/// An array, read item by item.
#[derive(Debug, Clone, Copy)]
pub struct ArrayRef<'a>(Source<'a, &'a [Value]>);

/// A map, read entry by entry.
#[derive(Debug, Clone, Copy)]
pub struct MapRef<'a>(Source<'a, &'a [(Value, Value)]>);

/// What a tag marks, read when asked for.
#[derive(Debug, Clone, Copy)]
pub struct TaggedRef<'a>(Source<'a, &'a Value>);

/// CBOR bytes from behind the head (with the count in it), or the value in memory.
#[derive(Debug, Clone, Copy)]
enum Source<'a, M> {
    Raw(&'a [u8], Option<u64>),
    Memory(M),
}

impl<'a> ValueRef<'a> {
    /// Reads the item at the start of `bytes`; `None` when it is damaged or cut. What follows the item is ignored.
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = cbor::read_head(bytes)?;
        Some(match head.major {
            0 => ValueRef::Int(i128::from(head.argument)),
            1 => ValueRef::Int(-1 - i128::from(head.argument)),
            cbor::TEXT => match head.length() {
                Some(length) => ValueRef::Text(std::str::from_utf8(cbor::take(rest, length)?.0).ok()?),
                None => ValueRef::SegmentedText(Segments::checked(rest, cbor::TEXT)?),
            },
            cbor::BYTES => match head.length() {
                Some(length) => ValueRef::Bytes(cbor::take(rest, length)?.0),
                None => ValueRef::SegmentedBytes(Segments::checked(rest, cbor::BYTES)?),
            },
            cbor::ARRAY => ValueRef::Array(ArrayRef(Source::Raw(rest, head.length()))),
            cbor::MAP => ValueRef::Map(MapRef(Source::Raw(rest, head.length()))),
            cbor::TAG => ValueRef::Tag(head.argument, TaggedRef(Source::Raw(rest, None))),
            _ => match cbor::simple(head)? {
                Simple::Null => ValueRef::Null,
                Simple::Bool(value) => ValueRef::Bool(value),
                Simple::Float(value) => ValueRef::Float(value),
            },
        })
    }

    /// The whole value, decoded; `None` when a part of it is damaged or nests deeper than 256 levels.
    pub fn to_value(&self) -> Option<Value> {
        Some(match *self {
            ValueRef::Null => Value::Null,
            ValueRef::Bool(value) => Value::Bool(value),
            ValueRef::Int(value) => cbor::integer(value),
            ValueRef::Float(value) => Value::Float(value),
            ValueRef::Text(text) => Value::Text(text.to_owned()),
            ValueRef::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
            ValueRef::SegmentedText(segments) => Value::Text(segments.texts().collect()),
            ValueRef::SegmentedBytes(segments) => Value::Bytes(segments.joined().into_owned()),
            ValueRef::Array(ArrayRef(Source::Raw(rest, count))) => cbor::decode_array(rest, count, 0)?.0,
            ValueRef::Array(ArrayRef(Source::Memory(items))) => Value::Array(items.to_vec()),
            ValueRef::Map(MapRef(Source::Raw(rest, count))) => cbor::decode_map(rest, count, 0)?.0,
            ValueRef::Map(MapRef(Source::Memory(entries))) => Value::Map(entries.to_vec()),
            ValueRef::Tag(tag, TaggedRef(Source::Raw(rest, _))) => cbor::decode_tagged(tag, rest, 0)?.0,
            ValueRef::Tag(tag, TaggedRef(Source::Memory(inner))) => Value::Tag(tag, Box::new(inner.clone())),
        })
    }

    /// Appends the value as CBOR, written in one way however it was stored: [`read`](Self::read) and
    /// [`to_value`](Self::to_value) give it back. `None`, and nothing appended, where `to_value` has none.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Option<()> {
        match *self {
            ValueRef::Int(value) => cbor::write_value(&cbor::integer(value), out),
            ValueRef::Float(value) => cbor::write_value(&Value::Float(value), out),
            ValueRef::Text(text) => cbor::write_text(text, out),
            _ => cbor::write_value(&self.to_value()?, out),
        }
        Some(())
    }

    /// Is it null?
    pub fn is_null(&self) -> bool {
        matches!(self, ValueRef::Null)
    }

    /// The value behind any tags. Damaged content counts as null.
    #[must_use]
    pub fn untagged(self) -> Self {
        let mut value = self;
        while let ValueRef::Tag(_, inner) = value {
            value = inner.value().unwrap_or(ValueRef::Null);
        }
        value
    }

    /// The boolean, also behind tags.
    pub fn as_bool(&self) -> Option<bool> {
        match self.untagged() {
            ValueRef::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The integer, also a bignum, also behind tags, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        let mut value = *self;
        loop {
            value = match (value.as_integer(), value) {
                (Some(integer), _) => return i64::try_from(integer).ok(),
                (None, ValueRef::Tag(_, inner)) => inner.value()?,
                (None, _) => return None,
            };
        }
    }

    /// The integer or the bignum (up to 64 bits and a sign), not behind other tags.
    pub(super) fn as_integer(self) -> Option<i128> {
        match self {
            ValueRef::Int(value) => Some(value),
            ValueRef::Tag(tag @ (cbor::TAG_BIG_POSITIVE | cbor::TAG_BIG_NEGATIVE), inner) => {
                cbor::small_bignum(tag, &inner.value()?.untagged_bytes()?)
            }
            _ => None,
        }
    }

    /// The bytes, not behind tags; joined when they were stored in several pieces.
    pub(super) fn untagged_bytes(self) -> Option<Cow<'a, [u8]>> {
        match self {
            ValueRef::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
            ValueRef::SegmentedBytes(segments) => Some(segments.joined()),
            _ => None,
        }
    }

    /// The number, also behind tags: floats as they are; integers, bignums and decimals as the nearest float.
    pub fn as_f64(&self) -> Option<f64> {
        super::order::nearest_f64(*self)
    }

    /// The text, also behind tags. `None` for text stored in several pieces; [`text`](Self::text) reads that, too.
    pub fn as_str(&self) -> Option<&'a str> {
        match self.text()? {
            Cow::Borrowed(text) => Some(text),
            Cow::Owned(_) => None,
        }
    }

    /// The text, also behind tags; joined when it was stored in several pieces.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        match self.untagged() {
            ValueRef::Text(text) => Some(Cow::Borrowed(text)),
            ValueRef::SegmentedText(segments) => Some(segments.joined_text()),
            _ => None,
        }
    }

    /// The bytes, also behind tags; joined when they were stored in several pieces.
    pub fn bytes(&self) -> Option<Cow<'a, [u8]>> {
        self.untagged().untagged_bytes()
    }
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    #[inline]
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Integer(value) => ValueRef::Int(i128::from(*value)),
            Value::Bytes(bytes) => ValueRef::Bytes(bytes),
            Value::Float(value) => ValueRef::Float(*value),
            Value::Text(text) => ValueRef::Text(text),
            Value::Bool(value) => ValueRef::Bool(*value),
            Value::Array(items) => ValueRef::Array(ArrayRef(Source::Memory(items))),
            Value::Map(entries) => ValueRef::Map(MapRef(Source::Memory(entries))),
            Value::Tag(tag, inner) => ValueRef::Tag(*tag, TaggedRef(Source::Memory(inner))),
            // `Value` may grow; ciborium 0.2 has no other kind than null left.
            _ => ValueRef::Null,
        }
    }
}

impl<'a> Segments<'a> {
    /// Walks all pieces once, so that no later step can meet a damaged one.
    fn checked(rest: &'a [u8], major: u8) -> Option<Self> {
        let mut reader = SegmentReader::new(rest, major);
        while let Some(segment) = reader.next_segment()? {
            if major == cbor::TEXT {
                std::str::from_utf8(segment).ok()?;
            }
        }
        Some(Segments { rest, major })
    }

    /// The pieces, as bytes.
    pub fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let mut reader = SegmentReader::new(self.rest, self.major);
        std::iter::from_fn(move || reader.next_segment().flatten())
    }

    fn texts(self) -> impl Iterator<Item = &'a str> {
        self.pieces().map(|piece| std::str::from_utf8(piece).unwrap_or_default())
    }

    /// All pieces as one; borrowed when there is only one.
    pub fn joined(self) -> Cow<'a, [u8]> {
        let mut pieces = self.pieces().filter(|piece| !piece.is_empty());
        let first = pieces.next().unwrap_or_default();
        match pieces.next() {
            None => Cow::Borrowed(first),
            Some(second) => {
                let mut joined = [first, second].concat();
                pieces.for_each(|piece| joined.extend_from_slice(piece));
                Cow::Owned(joined)
            }
        }
    }

    fn joined_text(self) -> Cow<'a, str> {
        let mut pieces = self.texts().filter(|piece| !piece.is_empty());
        let first = pieces.next().unwrap_or_default();
        match pieces.next() {
            None => Cow::Borrowed(first),
            Some(second) => {
                let mut joined = [first, second].concat();
                joined.extend(pieces);
                Cow::Owned(joined)
            }
        }
    }
}

impl<'a> TaggedRef<'a> {
    /// The tagged value; `None` when its bytes are damaged.
    pub fn value(self) -> Option<ValueRef<'a>> {
        match self.0 {
            Source::Raw(rest, _) => ValueRef::read(rest),
            Source::Memory(value) => Some(ValueRef::from(value)),
        }
    }
}

impl<'a> ArrayRef<'a> {
    /// The items in order; ends early at damaged bytes.
    pub fn iter(self) -> ArrayIter<'a> {
        ArrayIter(self.0)
    }
}

impl<'a> IntoIterator for ArrayRef<'a> {
    type Item = ValueRef<'a>;
    type IntoIter = ArrayIter<'a>;

    fn into_iter(self) -> ArrayIter<'a> {
        self.iter()
    }
}

/// The items of an [`ArrayRef`].
#[derive(Debug, Clone)]
pub struct ArrayIter<'a>(Source<'a, &'a [Value]>);

impl<'a> Iterator for ArrayIter<'a> {
    type Item = ValueRef<'a>;

    fn next(&mut self) -> Option<ValueRef<'a>> {
        match &mut self.0 {
            Source::Memory(items) => {
                let (item, rest) = items.split_first()?;
                *items = rest;
                Some(ValueRef::from(item))
            }
            Source::Raw(rest, left) => {
                let item = next_raw_item(rest, left);
                if item.is_none() {
                    *left = Some(0);
                }
                item
            }
        }
    }
}

fn next_raw_item<'a>(rest: &mut &'a [u8], left: &mut Option<u64>) -> Option<ValueRef<'a>> {
    if !cbor::next_is_item(rest, left)? {
        return None;
    }
    let item = ValueRef::read(rest)?;
    *rest = cbor::skip(rest)?;
    Some(item)
}

impl<'a> MapRef<'a> {
    /// The map in these bytes; `None` when they hold something else.
    #[inline]
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = cbor::read_head(bytes)?;
        (head.major == cbor::MAP).then(|| MapRef(Source::Raw(rest, head.length())))
    }

    /// The value of the first entry whose key is this text.
    #[inline]
    pub fn get(self, name: &str) -> Option<ValueRef<'a>> {
        match self.0 {
            Source::Memory(entries) => entries
                .iter()
                .find(|(key, _)| matches!(key, Value::Text(text) if text == name))
                .map(|(_, value)| ValueRef::from(value)),
            Source::Raw(rest, count) => get_raw(rest, count, name.as_bytes()),
        }
    }

    /// The entries in order; ends early at damaged bytes.
    pub fn iter(self) -> MapIter<'a> {
        MapIter(self.0)
    }
}

impl<'a> IntoIterator for MapRef<'a> {
    type Item = (ValueRef<'a>, ValueRef<'a>);
    type IntoIter = MapIter<'a>;

    fn into_iter(self) -> MapIter<'a> {
        self.iter()
    }
}

#[inline]
fn get_raw<'a>(mut rest: &'a [u8], count: Option<u64>, name: &[u8]) -> Option<ValueRef<'a>> {
    let mut left = count;
    while cbor::next_is_item(&mut rest, &mut left)? {
        let (found, value) = match cbor::short_text(rest) {
            Some((key, value)) => (key == name, value),
            None => match_long_key(rest, name)?,
        };
        if found {
            return ValueRef::read(value);
        }
        rest = cbor::skip(value)?;
    }
    None
}

/// Is the key at the start of `bytes` this text, in whatever form; and what follows it.
fn match_long_key<'a>(bytes: &'a [u8], name: &[u8]) -> Option<(bool, &'a [u8])> {
    let (head, after) = cbor::read_head(bytes)?;
    match (head.major, head.length()) {
        (cbor::TEXT, Some(length)) => cbor::take(after, length).map(|(key, value)| (key == name, value)),
        (cbor::TEXT, None) => {
            let key = Segments::checked(after, cbor::TEXT)?;
            Some((key.pieces().flatten().eq(name), cbor::skip(bytes)?))
        }
        _ => Some((false, cbor::skip(bytes)?)),
    }
}

/// The entries of a [`MapRef`], keys and values.
#[derive(Debug, Clone)]
pub struct MapIter<'a>(Source<'a, &'a [(Value, Value)]>);

impl<'a> Iterator for MapIter<'a> {
    type Item = (ValueRef<'a>, ValueRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Memory(entries) => {
                let ((key, value), rest) = entries.split_first()?;
                *entries = rest;
                Some((ValueRef::from(key), ValueRef::from(value)))
            }
            Source::Raw(rest, left) => {
                let entry = next_raw_entry(rest, left);
                if entry.is_none() {
                    *left = Some(0);
                }
                entry
            }
        }
    }
}

fn next_raw_entry<'a>(rest: &mut &'a [u8], left: &mut Option<u64>) -> Option<(ValueRef<'a>, ValueRef<'a>)> {
    if !cbor::next_is_item(rest, left)? {
        return None;
    }
    let key = ValueRef::read(rest)?;
    *rest = cbor::skip(rest)?;
    let value = ValueRef::read(rest)?;
    *rest = cbor::skip(rest)?;
    Some((key, value))
}
