//! The order: total, exact, and the same as its encoding.

use std::cmp::Ordering;

use ciborium::Value;
use proptest::prelude::*;

use super::generate::{LooseWriter, choices, number, value};
use crate::value::{
    TypeRank, ValueRef, compare, compare_ref_to_value, compare_refs, encode_sort_key, encode_value_sort_key, type_rank,
};

fn key(value: Option<&Value>, descending: bool) -> Vec<u8> {
    let mut out = Vec::new();
    encode_value_sort_key(value, descending, &mut out);
    out
}

fn is_null(value: &Value) -> bool {
    type_rank(ValueRef::from(value)) == TypeRank::Null
}

/// What a descending column promises.
fn compare_descending(a: &Value, b: &Value) -> Ordering {
    match (is_null(a), is_null(b)) {
        (false, false) => compare(b, a),
        (a_null, b_null) => a_null.cmp(&b_null),
    }
}

fn check_pair(a: &Value, b: &Value) -> Result<(), TestCaseError> {
    let order = compare(a, b);
    prop_assert_eq!(compare(b, a), order.reverse(), "not antisymmetric");
    let (a_key, b_key) = (key(Some(a), false), key(Some(b), false));
    prop_assert_eq!(a_key.cmp(&b_key), order, "{:x?} and {:x?}", a_key, b_key);
    let (a_down, b_down) = (key(Some(a), true), key(Some(b), true));
    prop_assert_eq!(a_down.cmp(&b_down), compare_descending(a, b), "descending");
    if order != Ordering::Equal {
        prop_assert!(!a_key.starts_with(&b_key) && !b_key.starts_with(&a_key), "a key starts with another");
    }
    Ok(())
}

fn check_triple(mut values: [Value; 3]) -> Result<(), TestCaseError> {
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        check_pair(&values[a], &values[b])?;
    }
    values.sort_by(compare);
    let [a, b, c] = &values;
    prop_assert!(compare(a, b).is_le() && compare(b, c).is_le() && compare(a, c).is_le(), "not transitive");
    if compare(a, b).is_eq() && compare(b, c).is_eq() {
        prop_assert!(compare(a, c).is_eq(), "not transitive in equality");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_encoded_order_of_values_is_the_order(a in value(), b in value(), c in value()) {
        check_triple([a, b, c])?;
    }

    #[test]
    fn the_encoded_order_of_numbers_is_the_order(a in number(), b in number(), c in number()) {
        check_triple([a, b, c])?;
    }

    #[test]
    fn values_read_in_place_are_ordered_as_in_memory(a in value(), b in value(), x in choices(), y in choices()) {
        let (mut a_raw, mut b_raw) = (LooseWriter::new(x), LooseWriter::new(y));
        a_raw.value(&a);
        b_raw.value(&b);
        let (a_ref, b_ref) = (ValueRef::read(&a_raw.out), ValueRef::read(&b_raw.out));
        prop_assert_eq!(compare_refs(a_ref, b_ref), compare(&a, &b));
        prop_assert_eq!(compare_ref_to_value(a_ref.unwrap(), &b), compare(&a, &b));
        let mut raw_key = Vec::new();
        encode_sort_key(a_ref, false, &mut raw_key);
        prop_assert_eq!(raw_key, key(Some(&a), false));
    }

    #[test]
    fn keys_of_several_columns_are_put_together(
        rows in prop::collection::vec((prop::option::of(value()), prop::option::of(value()), any::<bool>()), 3),
        descending in any::<[bool; 3]>(),
        shared in 0usize..3,
    ) {
        let absent = Value::Null;
        let column = |row: &(Option<Value>, Option<Value>, bool), second: bool| {
            let picked = if second { &row.1 } else { &row.0 };
            picked.clone().unwrap_or(Value::Null)
        };
        // Two rows of three columns that agree in the first `shared` ones.
        let left: Vec<Value> = rows.iter().map(|row| column(row, false)).collect();
        let right: Vec<Value> =
            rows.iter().enumerate().map(|(at, row)| column(row, at >= shared)).collect();
        let (mut left_key, mut right_key) = (Vec::new(), Vec::new());
        let mut expected = Ordering::Equal;
        for at in 0..3 {
            let (a, b) = (&left[at], &right[at]);
            encode_value_sort_key((*a != absent).then_some(a), descending[at], &mut left_key);
            encode_value_sort_key(Some(b), descending[at], &mut right_key);
            let order = if descending[at] { compare_descending(a, b) } else { compare(a, b) };
            expected = expected.then(order);
        }
        prop_assert_eq!(left_key.cmp(&right_key), expected);
    }

    #[test]
    fn small_decimals_compare_as_fractions(a in -3000i64..3000, x in -3i32..4, b in -3000i64..3000, y in -3i32..4) {
        let scaled = |mantissa: i64, exponent: i32| i128::from(mantissa) * 10i128.pow((exponent + 3) as u32);
        prop_assert_eq!(compare(&decimal(x, a), &decimal(y, b)), scaled(a, x).cmp(&scaled(b, y)));
        prop_assert_eq!(compare(&decimal(x, a), &Value::from(b)), scaled(a, x).cmp(&scaled(b, 0)));
    }

    #[test]
    fn a_decimal_is_the_same_number_however_it_is_written(mantissa in any::<i32>(), exponent in -350i32..320, zeros in 0u32..9) {
        let longer = i64::from(mantissa) * 10i64.pow(zeros);
        let (a, b) = (decimal(exponent, mantissa.into()), decimal(exponent - zeros as i32, longer));
        prop_assert!(compare(&a, &b).is_eq());
        prop_assert_eq!(key(Some(&a), false), key(Some(&b), false));
    }

    #[test]
    fn whole_floats_and_integers_compare_exactly(a in any::<i64>(), power in 0u32..12, b in -4i64..5) {
        let float = (a >> power) as f64;
        let near = float as i128 + i128::from(b);
        prop_assert_eq!(compare(&Value::from(near), &Value::Float(float)), near.cmp(&(float as i128)));
    }
}

fn decimal(exponent: i32, mantissa: i64) -> Value {
    Value::Tag(4, Box::new(Value::Array(vec![exponent.into(), mantissa.into()])))
}

fn bignum(negative: bool, bytes: &[u8]) -> Value {
    Value::Tag(if negative { 3 } else { 2 }, Box::new(Value::Bytes(bytes.to_vec())))
}

fn datetime(text: &str) -> Value {
    Value::Tag(0, Box::new(Value::from(text)))
}

/// Each group's members are equal to each other and less than the next group's.
fn check_ladder(groups: &[Vec<Value>]) {
    for (i, a) in groups.iter().enumerate() {
        for (j, b) in groups.iter().enumerate() {
            for (a, b) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))) {
                assert_eq!(compare(a, b), i.cmp(&j), "{a:?} and {b:?}");
                assert_eq!(key(Some(a), false).cmp(&key(Some(b), false)), i.cmp(&j), "keys of {a:?} and {b:?}");
            }
        }
    }
}

#[test]
fn numbers_of_all_kinds_stand_in_their_exact_order() {
    let f = Value::Float;
    let i = |value: i128| Value::from(value);
    check_ladder(&[
        vec![f(f64::NEG_INFINITY)],
        vec![decimal(400, -1)],
        vec![decimal(399, -1)],
        vec![bignum(true, &[0xff; 128])],
        vec![f(-2f64.powi(64) * 1.5)],
        vec![i(-(1 << 64)), f(-2f64.powi(64)), bignum(true, &[0xff; 8])],
        vec![i(-(1 << 53) - 1)],
        vec![i(-(1 << 53)), f(-2f64.powi(53))],
        vec![decimal(-1, -11)],
        vec![f(-1.1 + 1e-15)],
        vec![i(-1), f(-1.0), decimal(-1, -10), bignum(true, &[])],
        vec![decimal(-401, -1)],
        vec![decimal(-402, -1)],
        vec![f(0.0), f(-0.0), i(0), decimal(5, 0), bignum(false, &[0, 0])],
        vec![decimal(-402, 1)],
        vec![f(5e-324)],
        vec![decimal(-1, 1)],
        vec![f(0.1)],
        vec![decimal(-17, 10_000_000_000_000_001)],
        vec![f(0.5), decimal(-1, 5), decimal(-3, 500)],
        vec![i(1), f(1.0)],
        vec![f(19.99)],
        vec![decimal(-2, 1999)],
        vec![i((1 << 53) - 1)],
        vec![i(1 << 53), f(2f64.powi(53))],
        vec![i((1 << 53) + 1)],
        vec![decimal(-1, ((1 << 53) + 1) * 10 + 1)],
        vec![i((1 << 53) + 2), f(2f64.powi(53) + 2.0)],
        vec![i(i128::from(u64::MAX))],
        vec![f(2f64.powi(64)), bignum(false, &[1, 0, 0, 0, 0, 0, 0, 0, 0])],
        vec![bignum(false, &[1, 0, 0, 0, 0, 0, 0, 0, 1]), bignum(false, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 1])],
        vec![bignum(false, &[0xff; 17])],
        vec![f(2f64.powi(136))],
        vec![f(f64::MAX)],
        vec![decimal(400, 1)],
        vec![decimal(401, 1)],
        vec![f(f64::INFINITY)],
        vec![f(f64::NAN), f(-f64::NAN)],
    ]);
}

#[test]
fn kinds_follow_each_other_with_null_last() {
    check_ladder(&[
        vec![Value::Bool(false)],
        vec![Value::Bool(true), Value::Tag(99, Box::new(Value::Bool(true)))],
        vec![Value::from(5), Value::Tag(1, Box::new(Value::from(5)))],
        vec![Value::from("")],
        vec![Value::from("\u{0}")],
        vec![Value::from("\u{1}")],
        vec![Value::from("Z")],
        vec![Value::from("a")],
        vec![Value::from("a\u{0}")],
        vec![Value::from("ab")],
        vec![Value::from("é")],
        vec![Value::from("\u{ffff}")],
        vec![Value::from("\u{10000}")],
        vec![Value::Bytes(vec![])],
        vec![Value::Bytes(vec![0, 0xff])],
        vec![Value::Bytes(vec![0xff])],
        vec![datetime("1969-12-31T23:59:59Z")],
        vec![datetime("1970-01-01T00:00:00Z"), datetime("1970-01-01t01:30:00.000+01:30")],
        vec![datetime("2024-02-29T12:00:00.05Z"), datetime("2024-02-29T12:00:00.050000000000000000000z")],
        vec![datetime("2024-02-29T12:00:00.050000000000000000001Z")],
        vec![datetime("2024-02-29T12:00:00.5Z")],
        vec![datetime("2024-02-29T12:00:59Z"), datetime("2024-02-29T09:30:59-02:30")],
        vec![datetime("2024-02-29T12:00:60Z"), datetime("2024-02-29T12:01:00Z")],
        vec![datetime("")],
        vec![datetime("2023-02-29T12:00:00Z")],
        vec![datetime("2024-02-29 12:00:00Z")],
        vec![Value::Array(vec![])],
        vec![Value::Array(vec![1.into()]), Value::Array(vec![1.0.into()])],
        vec![Value::Array(vec![1.into(), 0.into()])],
        vec![Value::Array(vec![1.into(), Value::Null])],
        vec![Value::Array(vec![2.into()])],
        vec![Value::Array(vec![Value::Null])],
        vec![Value::Map(vec![])],
        vec![
            Value::Map(vec![("a".into(), 1.into()), ("b".into(), 2.into())]),
            Value::Map(vec![("b".into(), 2.into()), ("a".into(), 1.0.into())]),
        ],
        vec![Value::Map(vec![("a".into(), 2.into())])],
        vec![Value::Map(vec![("b".into(), 1.into())])],
        vec![Value::Null, Value::Tag(7, Box::new(Value::Null))],
    ]);
}

#[test]
fn an_integer_up_to_two_to_the_53_takes_ten_bytes() {
    for value in [0i64, 1, -1, 1 << 53, -(1 << 53)] {
        assert_eq!(key(Some(&Value::from(value)), false).len(), 10);
    }
}

#[test]
fn absurd_numbers_are_ordered_as_what_they_are_made_of() {
    let absurd = Value::Tag(4, Box::new(Value::Array(vec![i64::MAX.into(), 1.into()])));
    assert_eq!(type_rank(ValueRef::from(&absurd)), TypeRank::Array);
    assert_eq!(type_rank(ValueRef::from(&bignum(false, &[1; 129]))), TypeRank::Bytes);
    assert_eq!(type_rank(ValueRef::from(&bignum(false, &[1; 128]))), TypeRank::Number);
}

#[test]
fn the_days_of_four_centuries_count_up_one_by_one() {
    let seconds = |text: &str| {
        let key = key(Some(&datetime(text)), false);
        i64::from_be_bytes(key[2..10].try_into().unwrap()) ^ i64::MIN
    };
    let mut expected = seconds("1800-01-01T00:00:00Z");
    assert_eq!(seconds("1970-01-01T00:00:00Z"), 0);
    assert_eq!(seconds("2000-03-01T00:00:00Z"), 951_868_800);
    assert_eq!(seconds("0000-01-01T00:00:00Z"), -62_167_219_200);
    for year in 1800..2200 {
        for month in 1..=12 {
            for day in 1..=31 {
                let text = format!("{year:04}-{month:02}-{day:02}T00:00:00Z");
                let key = key(Some(&datetime(&text)), false);
                if key[1] == 1 {
                    assert_eq!(seconds(&text), expected, "{text}");
                    expected += 86_400;
                }
            }
        }
    }
    assert_eq!(expected, seconds("2200-01-01T00:00:00Z"));
}
