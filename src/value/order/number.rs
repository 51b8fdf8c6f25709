//! Number: integers, floats, bignums and decimals, compared exactly and encoded in the same order.
//!
//! The key: the nearest float in total order (eight bytes), one byte that says whether the exact value is below, equal
//! to or above it, and only if not equal the exact value as decimal digits: the decimal exponent (four bytes), the digits
//! plus one, 0; all turned over for negative numbers. So an integer up to 2^53 takes ten bytes with its rank.
//! Invariants: "nearest" never depends on how a number is written, and never turns two numbers round; the exact part
//! decides between numbers with the same nearest float.

use std::cmp::Ordering;

use super::super::cbor;
use super::super::{ArrayRef, ValueRef};
use super::TypeRank;

/// Bignums longer than this are ordered as the bytes they are, not as numbers.
const MAX_BIGNUM_BYTES: usize = 128;

/// Decimals with an exponent beyond this are ordered as the arrays they are, not as numbers.
const MAX_EXPONENT: i128 = 100_000;

const BELOW: u8 = 0;
const EQUAL: u8 = 1;
const ABOVE: u8 = 2;

pub(super) enum Number {
    Int(i128),
    Float(f64),
    /// `mantissa × 10^exponent`, not zero.
    Decimal {
        mantissa: i128,
        exponent: i32,
    },
    Big(Exact),
}

/// A number that isn't zero, digit by digit: `0.d₁d₂… × 10^exponent`, without zeros at either end.
pub(super) struct Exact {
    negative: bool,
    exponent: i32,
    digits: Vec<u8>,
}

impl Number {
    /// The number that a tag makes of the value behind it; `None` when it is no number, or an absurd one.
    pub(super) fn of_tagged(tag: u64, inner: ValueRef<'_>) -> Option<Self> {
        match tag {
            cbor::TAG_BIG_POSITIVE | cbor::TAG_BIG_NEGATIVE => {
                let magnitude = inner.untagged_bytes()?;
                big(tag == cbor::TAG_BIG_NEGATIVE, cbor::trim_zeros(&magnitude), 0)
            }
            cbor::TAG_DECIMAL => match inner {
                ValueRef::Array(parts) => decimal(parts),
                _ => None,
            },
            _ => None,
        }
    }

    /// The nearest float; a finite number stays finite.
    pub(super) fn nearest(&self) -> f64 {
        match self {
            // The processor converts 64 bits itself; wider ones take a call.
            Number::Int(value) => i64::try_from(*value).map_or_else(|_| *value as f64, |value| value as f64),
            Number::Float(value) => *value,
            Number::Decimal { mantissa, exponent } => nearest_decimal(*mantissa, *exponent),
            Number::Big(exact) => exact.nearest(),
        }
    }

    pub(super) fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => return a.cmp(b),
            (Number::Float(a), Number::Float(b)) => return total_bits(*a).cmp(&total_bits(*b)),
            (Number::Int(a), Number::Float(b)) => return compare_int_to_float(*a, *b),
            (Number::Float(a), Number::Int(b)) => return compare_int_to_float(*b, *a).reverse(),
            _ => {}
        }
        let (a, b) = (self.nearest(), other.nearest());
        let (a_side, b_side) = (self.side_of(a), other.side_of(b));
        total_bits(a).cmp(&total_bits(b)).then_with(|| a_side.cmp(&b_side)).then_with(|| match a_side {
            Ordering::Equal => Ordering::Equal,
            _ => self.exact().compare(&other.exact()),
        })
    }

    #[inline]
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let nearest = self.nearest();
        let side = match self {
            // Every integer up to 2^53 is a float.
            Number::Int(value) if value.unsigned_abs() <= 1 << 53 => Ordering::Equal,
            _ => self.side_of(nearest),
        };
        let side_byte = match side {
            Ordering::Less => BELOW,
            Ordering::Equal => EQUAL,
            Ordering::Greater => ABOVE,
        };
        let mut key = [TypeRank::Number as u8, 0, 0, 0, 0, 0, 0, 0, 0, side_byte];
        key[1..9].copy_from_slice(&total_bits(nearest).to_be_bytes());
        out.extend_from_slice(&key);
        if side != Ordering::Equal {
            self.exact().encode(out);
        }
    }

    /// Is the exact number below, equal to or above its nearest float?
    fn side_of(&self, nearest: f64) -> Ordering {
        match self {
            Number::Int(value) => compare_int_to_float(*value, nearest),
            Number::Float(_) => Ordering::Equal,
            Number::Decimal { mantissa, exponent } => compare_decimal_to_float(*mantissa, *exponent, nearest)
                .unwrap_or_else(|| self.exact().compare_to_float(nearest)),
            Number::Big(exact) => exact.compare_to_float(nearest),
        }
    }

    /// The digits of a number that differs from its nearest float, so that it is neither zero nor a float.
    fn exact(&self) -> Exact {
        match self {
            Number::Int(value) => Exact::of_integer(*value, 0),
            Number::Decimal { mantissa, exponent } => Exact::of_integer(*mantissa, *exponent),
            Number::Float(value) => Exact::of_float(*value),
            Number::Big(exact) => {
                Exact { negative: exact.negative, exponent: exact.exponent, digits: exact.digits.clone() }
            }
        }
    }
}

/// The bits of a float as an integer of the same order: -0.0 equals 0.0, every NaN is the same and last.
#[inline]
fn total_bits(value: f64) -> u64 {
    if value.is_nan() {
        return u64::MAX;
    }
    // Adding zero makes -0.0 a 0.0.
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn compare_int_to_float(int: i128, float: f64) -> Ordering {
    const TWO_TO_127: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;
    if float.is_nan() || float >= TWO_TO_127 {
        return Ordering::Less;
    }
    if float < -TWO_TO_127 {
        return Ordering::Greater;
    }
    let whole = float.trunc();
    int.cmp(&(whole as i128)).then_with(|| whole.total_cmp(&float))
}

/// A decimal is an array of exponent and mantissa.
fn decimal(parts: ArrayRef<'_>) -> Option<Number> {
    let mut parts = parts.iter();
    let (Some(exponent), Some(mantissa), None) = (parts.next(), parts.next(), parts.next()) else { return None };
    let exponent = exponent.as_integer().filter(|exponent| exponent.abs() <= MAX_EXPONENT)? as i32;
    match mantissa {
        ValueRef::Int(mantissa) => Some(decimal_of(mantissa, exponent)),
        ValueRef::Tag(tag @ (cbor::TAG_BIG_POSITIVE | cbor::TAG_BIG_NEGATIVE), inner) => {
            let magnitude = inner.value()?.untagged_bytes()?;
            big(tag == cbor::TAG_BIG_NEGATIVE, cbor::trim_zeros(&magnitude), exponent)
        }
        _ => None,
    }
}

fn decimal_of(mantissa: i128, exponent: i32) -> Number {
    match (mantissa, exponent) {
        (_, 0) | (0, _) => Number::Int(mantissa),
        _ => Number::Decimal { mantissa, exponent },
    }
}

/// The number `magnitude × 10^exponent`, or `(-1 - magnitude) × 10^exponent`.
fn big(negative: bool, magnitude: &[u8], exponent: i32) -> Option<Number> {
    if magnitude.len() > MAX_BIGNUM_BYTES {
        return None;
    }
    if magnitude.len() < 16 {
        let magnitude = magnitude.iter().fold(0i128, |sum, byte| sum << 8 | i128::from(*byte));
        return Some(decimal_of(if negative { -1 - magnitude } else { magnitude }, exponent));
    }
    // Limbs of 32 bits, the lowest first.
    let mut limbs: Vec<u32> =
        magnitude.rchunks(4).map(|chunk| chunk.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))).collect();
    if negative {
        let mut carry = true;
        for limb in &mut limbs {
            (*limb, carry) = limb.overflowing_add(u32::from(carry));
        }
        limbs.extend(carry.then_some(1));
    }
    let mut digits = Vec::new();
    while limbs.iter().any(|limb| *limb != 0) {
        let mut remainder = 0u64;
        for limb in limbs.iter_mut().rev() {
            let value = remainder << 32 | u64::from(*limb);
            *limb = (value / 1_000_000_000) as u32;
            remainder = value % 1_000_000_000;
        }
        for _ in 0..9 {
            digits.push((remainder % 10) as u8);
            remainder /= 10;
        }
    }
    digits.reverse();
    Some(Number::Big(Exact::new(negative, digits, exponent)))
}

fn nearest_decimal(mantissa: i128, exponent: i32) -> f64 {
    // Both are floats exactly, so that one division or product rounds once.
    if mantissa.unsigned_abs() <= 1 << 53 && exponent.abs() <= 22 {
        let (mantissa, power) = (mantissa as f64, POWERS_OF_TEN[exponent.unsigned_abs() as usize]);
        return if exponent < 0 { mantissa / power } else { mantissa * power };
    }
    finite(&format!("{mantissa}e{exponent}"))
}

const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The nearest finite float to a decimal literal.
fn finite(literal: &str) -> f64 {
    literal.parse::<f64>().unwrap_or(f64::NAN).clamp(f64::MIN, f64::MAX)
}

/// Compares exactly in 128 bits; `None` when they don't suffice.
fn compare_decimal_to_float(mantissa: i128, exponent: i32, float: f64) -> Option<Ordering> {
    let bits = float.to_bits();
    let biased = (bits >> 52 & 0x7ff) as i32;
    let fraction = i128::from(bits & ((1 << 52) - 1));
    let (whole, shift) = if biased == 0 { (fraction, -1074) } else { (fraction | 1 << 52, biased - 1075) };
    let whole = if float.is_sign_negative() { -whole } else { whole };
    // mantissa × 10^exponent against whole × 2^shift, each power moved to where its exponent is positive.
    let power = 10i128.checked_pow(exponent.unsigned_abs())?;
    let (mut left, mut right) = (mantissa, whole);
    if exponent < 0 {
        right = right.checked_mul(power)?;
    } else {
        left = left.checked_mul(power)?;
    }
    let two = 2i128.checked_pow(shift.unsigned_abs())?;
    if shift < 0 {
        left = left.checked_mul(two)?;
    } else {
        right = right.checked_mul(two)?;
    }
    Some(left.cmp(&right))
}

impl Exact {
    /// `digits × 10^exponent`, the digits as one whole number with the highest first, not all zero.
    fn new(negative: bool, mut digits: Vec<u8>, exponent: i32) -> Self {
        let leading = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..leading);
        let exponent = exponent + digits.len() as i32;
        while digits.last() == Some(&0) {
            digits.pop();
        }
        Exact { negative, exponent, digits }
    }

    fn of_integer(value: i128, exponent: i32) -> Self {
        let digits = value.unsigned_abs().to_string().into_bytes().into_iter().map(|digit| digit - b'0').collect();
        Exact::new(value < 0, digits, exponent)
    }

    fn of_float(value: f64) -> Self {
        // No float has more than 767 significant digits, so that this is exact.
        let text = format!("{:.766e}", value.abs());
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_digit).map(|digit| digit - b'0').collect();
        let after_point = digits.len() as i32 - 1;
        Exact::new(value < 0.0, digits, exponent.parse().unwrap_or(0) - after_point)
    }

    fn nearest(&self) -> f64 {
        let digits: String = self.digits.iter().map(|digit| char::from(digit + b'0')).collect();
        let sign = if self.negative { "-" } else { "" };
        finite(&format!("{sign}0.{digits}e{}", self.exponent))
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.compare_magnitude(other),
            (true, true) => other.compare_magnitude(self),
        }
    }

    fn compare_magnitude(&self, other: &Self) -> Ordering {
        self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits))
    }

    fn compare_to_float(&self, float: f64) -> Ordering {
        if float == 0.0 {
            return if self.negative { Ordering::Less } else { Ordering::Greater };
        }
        self.compare(&Exact::of_float(float))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&(self.exponent ^ i32::MIN).to_be_bytes());
        out.extend(self.digits.iter().map(|digit| digit + 1));
        out.push(super::END);
        if self.negative {
            out[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}
