//! Generators: values with many neighbours and near misses, and CBOR of every legal form.

use ciborium::Value;
use proptest::prelude::*;

pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-c\u{0}\u{1}\u{2}]{0,4}",
        1 => "[a-z]{20,40}",
        1 => any::<String>(),
    ]
}

fn integer() -> impl Strategy<Value = i128> {
    let near = prop_oneof![
        Just(0i128),
        Just(23),
        Just(255),
        Just(65_535),
        Just(1i128 << 32),
        Just(1i128 << 53),
        Just(1i128 << 60),
        Just(1i128 << 63),
        Just((1i128 << 64) - 5),
    ];
    prop_oneof![
        (near, -4i128..5, any::<bool>()).prop_map(|(base, offset, negative)| {
            let value = base + offset;
            if negative { -value } else { value }
        }),
        any::<i64>().prop_map(i128::from),
        any::<u64>().prop_map(i128::from),
        -10i128..10,
    ]
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        any::<u64>().prop_map(f64::from_bits),
        any::<f32>().prop_map(f64::from),
        integer().prop_map(|value| value as f64),
        (-40i32..40).prop_map(|tenths| f64::from(tenths) / 10.0),
        (-30i32..20, 0i32..2048).prop_map(|(power, fraction)| f64::from(fraction) * 2f64.powi(power)),
        Just(f64::NAN),
        Just(-f64::NAN),
        Just(-0.0),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE),
        Just(5e-324),
    ]
}

fn bignum() -> impl Strategy<Value = Value> {
    let magnitude = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        2 => integer().prop_map(|value| value.unsigned_abs().to_be_bytes().to_vec()),
        1 => Just(vec![0xff; 16]),
        1 => prop::collection::vec(any::<u8>(), 120..140),
    ];
    (2u64..4, magnitude).prop_map(|(tag, bytes)| Value::Tag(tag, Box::new(Value::Bytes(bytes))))
}

fn decimal() -> impl Strategy<Value = Value> {
    let exponent = prop_oneof![8 => -4i64..5, 1 => -400i64..400, 1 => Just(-100_001), 1 => Just(i64::MAX)];
    let mantissa = prop_oneof![
        3 => (-50i64..50).prop_map(Value::from),
        2 => integer().prop_map(Value::from),
        1 => bignum(),
        1 => Just(Value::Float(1.5)),
    ];
    (exponent, mantissa)
        .prop_map(|(exponent, mantissa)| Value::Tag(4, Box::new(Value::Array(vec![exponent.into(), mantissa]))))
}

fn datetime() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "(1969|1970|2000|2024)-(01|02|12)-(0[1-9]|2[89])T(00|23):59:(00|60)(\\.[0-2]{1,3})?(Z|[+-]0[01]:[03]0)",
        text(),
    ];
    text.prop_map(|text| Value::Tag(0, Box::new(Value::Text(text))))
}

pub(super) fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => integer().prop_map(Value::from),
        3 => float().prop_map(Value::Float),
        1 => bignum(),
        2 => decimal(),
    ]
}

pub(super) fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::Bool),
        4 => number(),
        3 => text().prop_map(Value::Text),
        1 => prop::collection::vec(prop_oneof![0u8..3, any::<u8>()], 0..6).prop_map(Value::Bytes),
        1 => datetime(),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((inner.clone(), inner.clone()), 0..4).prop_map(Value::Map),
            prop::collection::vec((name().prop_map(Value::Text), inner.clone()), 0..4).prop_map(Value::Map),
            (prop_oneof![0u64..6, any::<u64>()], inner).prop_map(|(tag, inner)| Value::Tag(tag, Box::new(inner))),
        ]
    })
}

pub(super) fn name() -> impl Strategy<Value = String> {
    "[ab](\\.[ab]){0,2}"
}

/// The fields of a row: distinct names, any values.
pub(super) fn fields() -> impl Strategy<Value = Vec<(String, Value)>> {
    prop::collection::btree_map(name(), value(), 0..6).prop_map(|fields| fields.into_iter().collect()).prop_shuffle()
}

/// Choices for the writer below, used up one by one and then all zero.
pub(super) fn choices() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..60)
}

/// Writes CBOR in any form that means the same: longer widths, indefinite lengths, strings in pieces.
pub(super) struct LooseWriter {
    pub(super) out: Vec<u8>,
    choices: std::vec::IntoIter<u8>,
}

impl LooseWriter {
    pub(super) fn new(choices: Vec<u8>) -> Self {
        LooseWriter { out: Vec::new(), choices: choices.into_iter() }
    }

    fn choose(&mut self, below: u8) -> u8 {
        self.choices.next().unwrap_or(0) % below
    }

    fn head(&mut self, major: u8, argument: u64) {
        let shortest = match argument {
            0..24 => 0,
            24..0x100 => 1,
            0x100..0x1_0000 => 2,
            0x1_0000..0x1_0000_0000 => 3,
            _ => 4,
        };
        let bytes = argument.to_be_bytes();
        match shortest.max(self.choose(5)) {
            0 => self.out.push(major << 5 | argument as u8),
            width => {
                self.out.push(major << 5 | (23 + width));
                self.out.extend_from_slice(&bytes[8 - (1 << (width - 1))..]);
            }
        }
    }

    pub(super) fn row(&mut self, fields: &[(String, Value)]) {
        let indefinite = self.choose(3) == 1;
        self.open(5, fields.len(), indefinite);
        for (name, value) in fields {
            self.head(3, name.len() as u64);
            self.out.extend_from_slice(name.as_bytes());
            self.value(value);
        }
        self.close(indefinite);
    }

    pub(super) fn value(&mut self, value: &Value) {
        match value {
            Value::Integer(value) => match i128::from(*value) {
                value @ 0.. => self.head(0, value as u64),
                value => self.head(1, !value as u64),
            },
            Value::Bytes(bytes) => self.string(2, bytes),
            // Pieces of text must be text: cut between characters.
            Value::Text(text) => match self.choose(3) {
                1 => {
                    self.out.push(0x7f);
                    let middle = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                    self.string(3, &text.as_bytes()[..middle]);
                    self.string(3, &text.as_bytes()[middle..]);
                    self.out.push(0xff);
                }
                _ => self.definite_string(3, text.as_bytes()),
            },
            Value::Float(value) => self.float(*value),
            Value::Bool(value) => self.simple(20 + u8::from(*value)),
            Value::Null => {
                let null_or_undefined = 22 + self.choose(2);
                self.simple(null_or_undefined);
            }
            Value::Tag(tag, inner) => {
                self.head(6, *tag);
                self.value(inner);
            }
            Value::Array(items) => {
                let indefinite = self.choose(3) == 1;
                self.open(4, items.len(), indefinite);
                items.iter().for_each(|item| self.value(item));
                self.close(indefinite);
            }
            Value::Map(entries) => {
                let indefinite = self.choose(3) == 1;
                self.open(5, entries.len(), indefinite);
                for (key, value) in entries {
                    self.value(key);
                    self.value(value);
                }
                self.close(indefinite);
            }
            other => panic!("a new kind of value: {other:?}"),
        }
    }

    fn open(&mut self, major: u8, count: usize, indefinite: bool) {
        if indefinite { self.out.push(major << 5 | 31) } else { self.head(major, count as u64) }
    }

    fn close(&mut self, indefinite: bool) {
        self.out.extend(indefinite.then_some(0xff));
    }

    fn definite_string(&mut self, major: u8, bytes: &[u8]) {
        self.head(major, bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    fn string(&mut self, major: u8, bytes: &[u8]) {
        if self.choose(3) != 1 || major == 3 {
            return self.definite_string(major, bytes);
        }
        self.out.push(major << 5 | 31);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        self.definite_string(major, first);
        self.string(major, second);
        self.out.push(0xff);
    }

    fn simple(&mut self, value: u8) {
        if self.choose(4) == 1 {
            self.out.extend_from_slice(&[0xf8, value]);
        } else {
            self.out.push(0xe0 | value);
        }
    }

    fn float(&mut self, value: f64) {
        let mut shortest = Vec::new();
        ciborium::into_writer(&Value::Float(value), &mut shortest).unwrap();
        match self.choose(3) {
            0 => self.out.extend_from_slice(&shortest),
            1 if f64::from(value as f32).to_bits() == value.to_bits() => {
                self.out.push(0xfa);
                self.out.extend_from_slice(&(value as f32).to_be_bytes());
            }
            _ => {
                self.out.push(0xfb);
                self.out.extend_from_slice(&value.to_be_bytes());
            }
        }
    }
}
