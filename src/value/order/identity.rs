//! Identity: are two values the same, not merely equal in the order?
//!
//! Invariants: the order of a map's entries doesn't count, nor how a value's bytes were written; the identity bytes of
//! two values are equal exactly when the values are the same.

use super::super::cbor;
use super::super::{MAX_DEPTH, ValueRef};

const NULL: u8 = 0;
const BOOL: u8 = 1;
const INT: u8 = 2;
const FLOAT: u8 = 3;
const TEXT: u8 = 4;
const BYTES: u8 = 5;
const ARRAY: u8 = 6;
const MAP: u8 = 7;
const TAG: u8 = 8;
const END: u8 = 9;

/// Are both the same value, not merely equal in the order? 1 and 1.0 differ, 0.0 and -0.0 too, tags count; every NaN
/// is the same; the order of a map's entries doesn't count.
pub fn same_value(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    match (a, b) {
        (ValueRef::Null, ValueRef::Null) => true,
        (ValueRef::Bool(a), ValueRef::Bool(b)) => a == b,
        (ValueRef::Int(a), ValueRef::Int(b)) => a == b,
        (ValueRef::Float(a), ValueRef::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (ValueRef::Text(a), ValueRef::Text(b)) => a == b,
        (ValueRef::Bytes(a), ValueRef::Bytes(b)) => a == b,
        _ => identity(a, 0) == identity(b, 0),
    }
}

fn identity(value: ValueRef<'_>, depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, depth, &mut out);
    out
}

fn write(value: ValueRef<'_>, depth: usize, out: &mut Vec<u8>) {
    match value {
        ValueRef::Null => out.push(NULL),
        ValueRef::Bool(value) => out.extend_from_slice(&[BOOL, u8::from(value)]),
        ValueRef::Int(value) => write_integer(value, out),
        ValueRef::Float(value) => {
            out.push(FLOAT);
            let bits = if value.is_nan() { u64::MAX } else { value.to_bits() };
            out.extend_from_slice(&bits.to_be_bytes());
        }
        ValueRef::Text(text) => write_bytes(TEXT, text.as_bytes(), out),
        ValueRef::SegmentedText(segments) => write_bytes(TEXT, &segments.joined(), out),
        ValueRef::Bytes(bytes) => write_bytes(BYTES, bytes, out),
        ValueRef::SegmentedBytes(segments) => write_bytes(BYTES, &segments.joined(), out),
        // What nests deeper counts as null.
        _ if depth >= MAX_DEPTH => out.push(NULL),
        ValueRef::Array(items) => {
            out.push(ARRAY);
            items.iter().for_each(|item| write(item, depth + 1, out));
            out.push(END);
        }
        ValueRef::Map(map) => {
            let entry = |(key, value)| {
                let mut entry = identity(key, depth + 1);
                write(value, depth + 1, &mut entry);
                entry
            };
            let mut entries: Vec<Vec<u8>> = map.iter().map(entry).collect();
            entries.sort_unstable();
            out.push(MAP);
            entries.iter().for_each(|entry| out.extend_from_slice(entry));
            out.push(END);
        }
        ValueRef::Tag(tag, inner) => {
            let content = inner.value().unwrap_or(ValueRef::Null);
            if let Some(small) = value.as_integer() {
                return write_integer(small, out);
            }
            out.push(TAG);
            out.extend_from_slice(&tag.to_be_bytes());
            match (tag, content.untagged_bytes()) {
                (cbor::TAG_BIG_POSITIVE | cbor::TAG_BIG_NEGATIVE, Some(bytes)) => {
                    write_bytes(BYTES, cbor::trim_zeros(&bytes), out);
                }
                _ => write(content, depth + 1, out),
            }
        }
    }
}

fn write_integer(value: i128, out: &mut Vec<u8>) {
    out.push(INT);
    out.extend_from_slice(&value.to_be_bytes());
}

fn write_bytes(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}
