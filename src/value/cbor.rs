//! CBOR: the few steps of the format that rows need: read a head, skip an item, decode a value, write a value.
//!
//! Invariants: any bytes are survived; no step recurses deeper than a fixed bound; what the writer writes has definite
//! lengths and the shortest integers and floats, so that equal rows have equal bytes.
//! Not here: what the bytes mean in a row (`row`), and their order (`order`).

use super::{MAX_DEPTH, Value};

pub(super) const BYTES: u8 = 2;
pub(super) const TEXT: u8 = 3;
pub(super) const ARRAY: u8 = 4;
pub(super) const MAP: u8 = 5;
pub(super) const TAG: u8 = 6;

pub(super) const TAG_DATETIME: u64 = 0;
pub(super) const TAG_BIG_POSITIVE: u64 = 2;
pub(super) const TAG_BIG_NEGATIVE: u64 = 3;
pub(super) const TAG_DECIMAL: u64 = 4;

const INDEFINITE: u8 = 31;
const BREAK: u8 = 0xff;
const NULL: u8 = 0xf6;

/// ciborium decodes 256 levels; so does this reader, so that both read the same rows.
const MAX_DECODE_DEPTH: usize = 256;

/// No announced length makes the decoder reserve room for more items than this at once.
const MAX_RESERVED_ITEMS: usize = 64;

/// The first byte of an item and the number that belongs to it.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) major: u8,
    pub(super) minor: u8,
    pub(super) argument: u64,
}

impl Head {
    /// The announced length, or `None` for an item that runs to its break.
    #[inline]
    pub(super) fn length(self) -> Option<u64> {
        (self.minor != INDEFINITE).then_some(self.argument)
    }
}

#[inline]
pub(super) fn read_head(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (major, minor) = (first >> 5, first & 0x1f);
    let (argument, rest) = match minor {
        0..=23 => (u64::from(minor), rest),
        24 => {
            let (argument, rest) = rest.split_first()?;
            (u64::from(*argument), rest)
        }
        25 => {
            let (argument, rest) = rest.split_first_chunk()?;
            (u64::from(u16::from_be_bytes(*argument)), rest)
        }
        26 => {
            let (argument, rest) = rest.split_first_chunk()?;
            (u64::from(u32::from_be_bytes(*argument)), rest)
        }
        27 => {
            let (argument, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*argument), rest)
        }
        INDEFINITE if !matches!(major, 0 | 1 | TAG) => (0, rest),
        _ => return None,
    };
    Some((Head { major, minor, argument }, rest))
}

/// The next `length` bytes, and what follows them.
#[inline]
pub(super) fn take(bytes: &[u8], length: u64) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(length).ok()?)
}

/// What follows the break that ends an item of indefinite length, if a break is next.
#[inline]
pub(super) fn after_break(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(&[BREAK])
}

/// The bytes an item takes, by its first byte, where that byte alone tells; else 0.
static SIZES: [u8; 256] = {
    let mut sizes = [0; 256];
    let mut first = 0;
    while first < 256 {
        let (major, minor) = (first as u8 >> 5, first as u8 & 0x1f);
        sizes[first] = match (major, minor) {
            (0 | 1 | 7, 0..=23) => 1,
            (0 | 1 | 7, 24..=27) => 1 + (1 << (minor - 24)),
            (BYTES | TEXT, 0..=23) => 1 + minor,
            _ => 0,
        };
        first += 1;
    }
    sizes
};

/// What follows the next item.
#[inline]
pub(super) fn skip(bytes: &[u8]) -> Option<&[u8]> {
    let first = *bytes.first()?;
    match (SIZES[usize::from(first)], first) {
        (0, 0x58 | 0x78) => bytes.get(2 + usize::from(*bytes.get(1)?)..),
        (0, _) => skip_items(bytes, 1, 0),
        (size, _) => bytes.get(usize::from(size)..),
    }
}

/// The text at the start of `bytes`, as bytes, if its length is in its first byte; and what follows it.
#[inline]
pub(super) fn short_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first @ 0x60..=0x77, rest) = bytes.split_first()? else { return None };
    rest.split_at_checked(usize::from(first & 0x1f))
}

/// The integer at the start of `bytes`, if it is no bignum and fits; and what follows it.
#[inline]
pub(super) fn integer_of_64_bits(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let is_negative = match bytes.first()? >> 5 {
        0 => false,
        1 => true,
        _ => return None,
    };
    let (head, rest) = read_head(bytes)?;
    let argument = i64::try_from(head.argument).ok()?;
    Some((if is_negative { -1 - argument } else { argument }, rest))
}

fn skip_items(mut bytes: &[u8], mut pending: u64, depth: usize) -> Option<&[u8]> {
    while pending > 0 {
        pending -= 1;
        let (head, rest) = read_head(bytes)?;
        bytes = match (head.major, head.length()) {
            (BYTES | TEXT, Some(length)) => take(rest, length)?.1,
            (BYTES | TEXT, None) => skip_segments(rest, head.major)?,
            (ARRAY, Some(count)) => {
                pending += items_that_fit(count, rest)?;
                rest
            }
            (MAP, Some(count)) => {
                pending += 2 * items_that_fit(count, rest)?;
                rest
            }
            (ARRAY, None) => skip_to_break(rest, 1, depth + 1)?,
            (MAP, None) => skip_to_break(rest, 2, depth + 1)?,
            (TAG, _) => {
                pending += 1;
                rest
            }
            (_, Some(_)) => rest,
            (_, None) => return None,
        };
    }
    Some(bytes)
}

/// An item takes at least one byte, so that no honest count exceeds the bytes left.
fn items_that_fit(count: u64, rest: &[u8]) -> Option<u64> {
    (count <= rest.len() as u64).then_some(count)
}

fn skip_to_break(mut bytes: &[u8], items_at_once: u64, depth: usize) -> Option<&[u8]> {
    if depth > MAX_DECODE_DEPTH {
        return None;
    }
    loop {
        if let Some(rest) = after_break(bytes) {
            return Some(rest);
        }
        bytes = skip_items(bytes, items_at_once, depth)?;
    }
}

fn skip_segments(bytes: &[u8], major: u8) -> Option<&[u8]> {
    let mut reader = SegmentReader::new(bytes, major);
    while reader.next_segment()?.is_some() {}
    Some(reader.rest)
}

/// Walks the pieces of a text or byte string of indefinite length, from behind its head.
#[derive(Clone)]
pub(super) struct SegmentReader<'a> {
    pub(super) rest: &'a [u8],
    major: u8,
    open: usize,
}

impl<'a> SegmentReader<'a> {
    pub(super) fn new(rest: &'a [u8], major: u8) -> Self {
        SegmentReader { rest, major, open: 1 }
    }

    /// The next piece; `Some(None)` at the end; `None` when the bytes are damaged.
    pub(super) fn next_segment(&mut self) -> Option<Option<&'a [u8]>> {
        while self.open > 0 {
            if let Some(rest) = after_break(self.rest) {
                self.rest = rest;
                self.open -= 1;
                continue;
            }
            let (head, rest) = read_head(self.rest)?;
            if head.major != self.major {
                return None;
            }
            match head.length() {
                // Pieces within pieces aren't in the standard, but ciborium reads them.
                None => {
                    self.open += 1;
                    self.rest = rest;
                }
                Some(length) => {
                    let (segment, rest) = take(rest, length)?;
                    self.rest = rest;
                    return Some(Some(segment));
                }
            }
        }
        Some(None)
    }
}

/// The float or simple value behind a head of major type 7.
pub(super) enum Simple {
    Null,
    Bool(bool),
    Float(f64),
}

#[inline]
pub(super) fn simple(head: Head) -> Option<Simple> {
    Some(match (head.minor, head.argument) {
        (0..=24, 20) => Simple::Bool(false),
        (0..=24, 21) => Simple::Bool(true),
        (0..=24, 22 | 23) => Simple::Null,
        (25, bits) => Simple::Float(half_to_f64(bits as u16)),
        (26, bits) => Simple::Float(f64::from(f32::from_bits(bits as u32))),
        (27, bits) => Simple::Float(f64::from_bits(bits)),
        _ => return None,
    })
}

fn half_to_f64(half: u16) -> f64 {
    let exponent = i32::from(half >> 10 & 0x1f);
    let fraction = f64::from(half & 0x3ff);
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => return f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if half >> 15 == 1 { -magnitude } else { magnitude }
}

/// The integer that a bignum (tag 2 or 3) of these bytes stands for, if CBOR would also write it without the tag.
pub(super) fn small_bignum(tag: u64, bytes: &[u8]) -> Option<i128> {
    let trimmed = trim_zeros(bytes);
    if trimmed.len() > 8 {
        return None;
    }
    let magnitude = trimmed.iter().fold(0i128, |sum, byte| sum << 8 | i128::from(*byte));
    Some(if tag == TAG_BIG_NEGATIVE { -1 - magnitude } else { magnitude })
}

pub(super) fn trim_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Decodes the next item whole, as ciborium would, and what follows it. A negative bignum too large for ciborium
/// stays a tag.
pub(super) fn decode(bytes: &[u8]) -> Option<(Value, &[u8])> {
    decode_item(bytes, 0)
}

fn decode_item(bytes: &[u8], depth: usize) -> Option<(Value, &[u8])> {
    let (head, rest) = read_head(bytes)?;
    Some(match head.major {
        0 => (Value::Integer(head.argument.into()), rest),
        1 => (integer(-1 - i128::from(head.argument)), rest),
        BYTES => match head.length() {
            Some(length) => {
                let (bytes, rest) = take(rest, length)?;
                (Value::Bytes(bytes.to_vec()), rest)
            }
            None => {
                let (bytes, rest) = join_segments(rest, BYTES)?;
                (Value::Bytes(bytes), rest)
            }
        },
        TEXT => match head.length() {
            Some(length) => {
                let (bytes, rest) = take(rest, length)?;
                (Value::Text(std::str::from_utf8(bytes).ok()?.to_owned()), rest)
            }
            None => {
                let mut reader = SegmentReader::new(rest, TEXT);
                let mut text = String::new();
                while let Some(segment) = reader.next_segment()? {
                    text.push_str(std::str::from_utf8(segment).ok()?);
                }
                (Value::Text(text), reader.rest)
            }
        },
        ARRAY => decode_array(rest, head.length(), depth)?,
        MAP => decode_map(rest, head.length(), depth)?,
        TAG => decode_tagged(head.argument, rest, depth)?,
        _ => match simple(head)? {
            Simple::Null => (Value::Null, rest),
            Simple::Bool(value) => (Value::Bool(value), rest),
            Simple::Float(value) => (Value::Float(value), rest),
        },
    })
}

fn join_segments(bytes: &[u8], major: u8) -> Option<(Vec<u8>, &[u8])> {
    let mut reader = SegmentReader::new(bytes, major);
    let mut joined = Vec::new();
    while let Some(segment) = reader.next_segment()? {
        joined.extend_from_slice(segment);
    }
    Some((joined, reader.rest))
}

/// Integers within 64 bits and a sign always fit `Value::Integer`; a wider one becomes a bignum.
pub(super) fn integer(value: i128) -> Value {
    Value::from(value)
}

/// Decodes an array from behind its head.
pub(super) fn decode_array(mut rest: &[u8], count: Option<u64>, depth: usize) -> Option<(Value, &[u8])> {
    if depth >= MAX_DECODE_DEPTH {
        return None;
    }
    let mut items = Vec::with_capacity(reserve(count));
    let mut left = count;
    loop {
        match next_is_item(&mut rest, &mut left)? {
            false => return Some((Value::Array(items), rest)),
            true => {
                let (item, after) = decode_item(rest, depth + 1)?;
                items.push(item);
                rest = after;
            }
        }
    }
}

/// Decodes a map from behind its head.
pub(super) fn decode_map(mut rest: &[u8], count: Option<u64>, depth: usize) -> Option<(Value, &[u8])> {
    if depth >= MAX_DECODE_DEPTH {
        return None;
    }
    let mut entries = Vec::with_capacity(reserve(count));
    let mut left = count;
    loop {
        match next_is_item(&mut rest, &mut left)? {
            false => return Some((Value::Map(entries), rest)),
            true => {
                let (key, after) = decode_item(rest, depth + 1)?;
                let (value, after) = decode_item(after, depth + 1)?;
                entries.push((key, value));
                rest = after;
            }
        }
    }
}

/// Decodes a tagged item from behind the tag.
pub(super) fn decode_tagged(tag: u64, rest: &[u8], depth: usize) -> Option<(Value, &[u8])> {
    if let Some((bytes, after)) = short_bignum(tag, rest) {
        let value = match small_bignum(tag, bytes) {
            Some(value) => integer(value),
            None => Value::Tag(tag, Box::new(Value::Bytes(trim_zeros(bytes).to_vec()))),
        };
        return Some((value, after));
    }
    if depth >= MAX_DECODE_DEPTH {
        return None;
    }
    let (inner, rest) = decode_item(rest, depth + 1)?;
    Some((Value::Tag(tag, Box::new(inner)), rest))
}

/// The bytes of a bignum that ciborium reads as a number: of definite length, at most 16 bytes.
#[inline]
pub(super) fn short_bignum(tag: u64, rest: &[u8]) -> Option<(&[u8], &[u8])> {
    if tag != TAG_BIG_POSITIVE && tag != TAG_BIG_NEGATIVE {
        return None;
    }
    let (head, rest) = read_head(rest)?;
    match head.length() {
        Some(length @ 0..=16) if head.major == BYTES => take(rest, length),
        _ => None,
    }
}

fn reserve(count: Option<u64>) -> usize {
    count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0).min(MAX_RESERVED_ITEMS)
}

/// Counts one item off; false at the end, which is consumed; `None` when nothing is left to read.
#[inline]
pub(super) fn next_is_item(rest: &mut &[u8], left: &mut Option<u64>) -> Option<bool> {
    match left {
        Some(0) => Some(false),
        Some(count) => {
            *count -= 1;
            Some(true)
        }
        None => match after_break(rest) {
            Some(after) => {
                *rest = after;
                Some(false)
            }
            None => (!rest.is_empty()).then_some(true),
        },
    }
}

#[inline]
pub(super) fn write_head(major: u8, argument: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    if argument < 24 {
        out.push(major | argument as u8);
    } else if let Ok(argument) = u8::try_from(argument) {
        out.extend_from_slice(&[major | 24, argument]);
    } else if let Ok(argument) = u16::try_from(argument) {
        let [a, b] = argument.to_be_bytes();
        out.extend_from_slice(&[major | 25, a, b]);
    } else if let Ok(argument) = u32::try_from(argument) {
        let [a, b, c, d] = argument.to_be_bytes();
        out.extend_from_slice(&[major | 26, a, b, c, d]);
    } else {
        out.push(major | 27);
        out.extend_from_slice(&argument.to_be_bytes());
    }
}

#[inline]
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    write_head(TEXT, text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Writes `value`; what nests deeper than [`MAX_DEPTH`] is written as null.
pub(super) fn write_value(value: &Value, out: &mut Vec<u8>) {
    write_nested(value, 0, out);
}

fn write_nested(value: &Value, depth: usize, out: &mut Vec<u8>) {
    match value {
        Value::Integer(value) => write_integer(i128::from(*value), out),
        Value::Bytes(bytes) => write_bytes(bytes, out),
        Value::Float(value) => write_float(*value, out),
        Value::Text(text) => write_text(text, out),
        Value::Bool(value) => out.push(if *value { 0xf5 } else { 0xf4 }),
        _ if depth >= MAX_DEPTH => out.push(NULL),
        Value::Tag(tag, inner) => write_tagged(*tag, inner, depth, out),
        Value::Array(items) => {
            write_head(ARRAY, items.len() as u64, out);
            for item in items {
                write_nested(item, depth + 1, out);
            }
        }
        Value::Map(entries) => {
            write_head(MAP, entries.len() as u64, out);
            for (key, value) in entries {
                write_nested(key, depth + 1, out);
                write_nested(value, depth + 1, out);
            }
        }
        // `Value` may grow; ciborium 0.2 has no other kind than null left.
        _ => out.push(NULL),
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_head(BYTES, bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn write_tagged(tag: u64, inner: &Value, depth: usize, out: &mut Vec<u8>) {
    let bignum = match inner {
        Value::Bytes(bytes) if tag == TAG_BIG_POSITIVE || tag == TAG_BIG_NEGATIVE => Some(bytes),
        _ => None,
    };
    if let Some(small) = bignum.and_then(|bytes| small_bignum(tag, bytes)) {
        return write_integer(small, out);
    }
    write_head(TAG, tag, out);
    match bignum {
        Some(bytes) => write_bytes(trim_zeros(bytes), out),
        None => write_nested(inner, depth + 1, out),
    }
}

/// `value` lies within 64 bits and a sign, as `Value::Integer` and [`small_bignum`] do.
#[inline]
fn write_integer(value: i128, out: &mut Vec<u8>) {
    if value >= 0 { write_head(0, value as u64, out) } else { write_head(1, !value as u64, out) }
}

/// The shortest float that keeps the value, as ciborium writes it; every NaN the same.
fn write_float(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        return out.extend_from_slice(&[0xf9, 0x7e, 0x00]);
    }
    if let Some(half) = f64_to_half(value) {
        let [a, b] = half.to_be_bytes();
        return out.extend_from_slice(&[0xf9, a, b]);
    }
    let single = value as f32;
    if f64::from(single) == value {
        out.push(0xfa);
        out.extend_from_slice(&single.to_be_bytes());
    } else {
        out.push(0xfb);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// The half-precision bits of `value`, if they keep it exactly.
fn f64_to_half(value: f64) -> Option<u16> {
    let bits = value.to_bits();
    let sign = (bits >> 48) as u16 & 0x8000;
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    match exponent {
        0 if fraction == 0 => Some(sign),
        0x7ff => (fraction == 0).then_some(sign | 0x7c00),
        // Normal halves: 2^-14 to 2^15, ten bits of fraction.
        1009..=1038 => {
            let kept = (fraction >> 42) as u16;
            (fraction.trailing_zeros() >= 42).then_some(sign | ((exponent - 1008) as u16) << 10 | kept)
        }
        // Subnormal halves: multiples of 2^-24.
        999..=1008 => {
            let shift = (1051 - exponent) as u32;
            let whole = fraction | 1 << 52;
            (whole.trailing_zeros() >= shift).then(|| sign | (whole >> shift) as u16)
        }
        _ => None,
    }
}
