//! Lazy reads: equal to ciborium's full decode, and safe over any bytes.

use ciborium::Value;
use proptest::prelude::*;

use super::generate::{LooseWriter, choices, fields, name, value};
use super::identical;
use crate::value::{Path, RowRef, StoredRow, ValueRef, cbor, compare_refs, encode_sort_key, same_value, type_rank};

/// The rule of dotted paths, over a full decode.
fn reference_get(row: &Value, path: &str) -> Option<Value> {
    let mut row = row;
    while let Value::Tag(_, inner) = row {
        row = inner;
    }
    let entries = row.as_map()?;
    let get = |name: &str| entries.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value);
    if let Some(found) = get(path) {
        return Some(found.clone());
    }
    let (first, rest) = path.split_once('.')?;
    reference_get(get(first)?, rest)
}

/// Everything that can be asked of bytes. Only that it ends and doesn't panic counts.
fn exercise(bytes: &[u8]) {
    let row = RowRef::new(bytes);
    for path in ["", "a", "b", "a.b", "a.b.a", "."] {
        let found = row.get(path);
        assert_eq!(found.is_some(), row.get_path(&Path::new(path)).is_some());
        if let Some(value) = found {
            exercise_value(value);
        }
    }
    row.iter().for_each(|(_, value)| exercise_value(value));
    if let Some(value) = ValueRef::read(bytes) {
        exercise_value(value);
    }
    if let Ok(row) = StoredRow::from_bytes(bytes) {
        let _ = (row.id().len(), row.seq(), row.size(), row.to_record(), row.same_content(&row), format!("{row:?}"));
        row.fields().iter().for_each(|(_, value)| exercise_value(value));
    }
}

fn exercise_value(value: ValueRef<'_>) {
    let mut key = Vec::new();
    encode_sort_key(Some(value), false, &mut key);
    encode_sort_key(Some(value), true, &mut key);
    assert!(compare_refs(Some(value), Some(value)).is_eq());
    assert!(same_value(value, value));
    let _ = (type_rank(value), value.to_value(), value.text(), value.bytes(), value.as_f64(), value.as_i64());
}

fn with_header(fields: &[u8]) -> Vec<u8> {
    let mut bytes = StoredRow::encode("id", &crate::record! {}, 7).as_bytes().to_vec();
    bytes.pop();
    bytes.extend_from_slice(fields);
    bytes
}

proptest! {
    #[test]
    fn a_lazy_read_equals_the_full_decode(fields in fields(), choices in choices(), path in name()) {
        let mut writer = LooseWriter::new(choices);
        writer.row(&fields);
        let full: Result<Value, _> = ciborium::from_reader(&writer.out[..]);
        // ciborium refuses negative bignums beyond 127 bits.
        let Ok(full) = full else { return Ok(()) };
        let row = RowRef::new(&writer.out);

        let entries = full.as_map().unwrap();
        let read: Vec<_> = row.iter().collect();
        prop_assert_eq!(read.len(), entries.len());
        for ((name, value), (full_name, full_value)) in read.iter().zip(entries) {
            prop_assert_eq!(Some(*name), full_name.as_text());
            let value = value.to_value().unwrap();
            prop_assert!(identical(&value, full_value), "{:?} is not {:?}", value, full_value);
        }
        let found = row.get(&path).map(|value| value.to_value().unwrap());
        let expected = reference_get(&full, &path);
        match (&found, &expected) {
            (Some(a), Some(b)) => prop_assert!(identical(a, b)),
            (a, b) => prop_assert!(a.is_none() && b.is_none(), "{:?} is not {:?}", a, b),
        }
        prop_assert!(same(row.get(&path), row.get_path(&Path::new(&path))));
    }

    #[test]
    fn a_value_in_memory_reads_as_its_bytes_do(value in value(), choices in choices()) {
        let mut writer = LooseWriter::new(choices);
        writer.value(&value);
        let raw = ValueRef::read(&writer.out).unwrap();
        let memory = ValueRef::from(&value);
        prop_assert!(same_value(raw, memory));
        prop_assert_eq!(raw.text(), memory.text());
        prop_assert_eq!(raw.bytes(), memory.bytes());
        prop_assert_eq!(raw.as_i64(), memory.as_i64());
        let bits = |value: f64| if value.is_nan() { u64::MAX } else { value.to_bits() };
        prop_assert_eq!(raw.as_f64().map(bits), memory.as_f64().map(bits));
        prop_assert_eq!(raw.as_bool(), memory.as_bool());
        prop_assert_eq!(type_rank(raw), type_rank(memory));
    }

    #[test]
    fn the_writer_writes_what_ciborium_writes(value in value()) {
        let mut ours = Vec::new();
        cbor::write_value(&value, &mut ours);
        let decoded: Result<Value, _> = ciborium::from_reader(&ours[..]);
        let mut theirs = Vec::new();
        ciborium::into_writer(&value, &mut theirs).unwrap();
        let expected: Result<Value, _> = ciborium::from_reader(&theirs[..]);
        match (decoded, expected) {
            // Only bignums differ: they are written without leading zeros.
            (Ok(decoded), Ok(expected)) => {
                prop_assert!(same_value(ValueRef::from(&decoded), ValueRef::from(&expected)));
            }
            (decoded, expected) => prop_assert!(decoded.is_err() && expected.is_err()),
        }
    }

    #[test]
    fn floats_are_as_short_as_ciboriums(bits in prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(|bits| f64::from(f32::from_bits(bits)).to_bits()),
        (-30i32..20, 0i32..4096, any::<bool>()).prop_map(|(power, fraction, negative)| {
            let value = f64::from(fraction) * 2f64.powi(power);
            (if negative { -value } else { value }).to_bits()
        }),
    ]) {
        let value = f64::from_bits(bits);
        prop_assume!(!value.is_nan());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        cbor::write_value(&Value::Float(value), &mut ours);
        ciborium::into_writer(&Value::Float(value), &mut theirs).unwrap();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        exercise(&bytes);
        exercise(&with_header(&bytes));
    }

    #[test]
    fn damaged_rows_are_survived(
        fields in fields(),
        choices in choices(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut writer = LooseWriter::new(choices);
        writer.row(&fields);
        let mut bytes = with_header(&writer.out);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        exercise(&bytes);
        exercise(&bytes[..cut.index(bytes.len())]);
        exercise(&bytes[24.min(bytes.len())..]);
    }
}

fn same(a: Option<ValueRef<'_>>, b: Option<ValueRef<'_>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same_value(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

#[test]
fn every_half_float_reads_as_ciborium_reads_it() {
    for bits in 0..=u16::MAX {
        let [a, b] = bits.to_be_bytes();
        let bytes = [0xf9, a, b];
        let theirs: Value = ciborium::from_reader(&bytes[..]).unwrap();
        let ours = ValueRef::read(&bytes).unwrap().to_value().unwrap();
        assert!(identical(&ours, &theirs), "{bits:#x}: {ours:?} is not {theirs:?}");
        let mut written = Vec::new();
        cbor::write_value(&ours, &mut written);
        let is_nan = theirs.as_float().unwrap().is_nan();
        assert!(is_nan || written == bytes, "{bits:#x} was written as {written:x?}");
    }
}

#[test]
fn nesting_without_end_is_survived() {
    for opening in
        [&[0x81][..], &[0x9f], &[0xc6], &[0xa1, 0x61, 0x61], &[0xbf, 0x61, 0x61], &[0x7f], &[0xa1], &[0xd8, 42]]
    {
        exercise(&opening.repeat(100_000));
        let mut row = vec![0xa2, 0x61, b'a'];
        row.extend_from_slice(&opening.repeat(300));
        exercise(&row);
    }
}

#[test]
fn counts_beyond_the_bytes_reserve_nothing() {
    for major in [2u8, 3, 4, 5] {
        let mut bytes = vec![major << 5 | 27];
        bytes.extend_from_slice(&u64::MAX.to_be_bytes());
        exercise(&bytes);
        assert!(cbor::decode(&bytes).is_none());
        assert!(cbor::skip(&bytes).is_none());
    }
}

#[test]
fn text_in_pieces_compares_and_converts_as_a_whole() {
    let bytes = [0x7f, 0x62, b'a', b'b', 0x60, 0x61, b'c', 0xff];
    let value = ValueRef::read(&bytes).unwrap();
    assert_eq!(value.text().as_deref(), Some("abc"));
    assert_eq!(value.as_str(), None);
    assert!(compare_refs(Some(value), Some(ValueRef::Text("abc"))).is_eq());
    assert!(compare_refs(Some(value), Some(ValueRef::Text("abd"))).is_lt());
    let one_piece = [0x7f, 0x62, b'a', b'b', 0xff];
    assert_eq!(ValueRef::read(&one_piece).unwrap().as_str(), Some("ab"));
}
