//! Values: any value at all, also such as no source would have, made from a fuzzer's bytes; and when two are one.

use arbitrary::{Result, Unstructured};
use diorama::value::Value;

/// Nested no deeper than this; the library's own limits are for whole rows of bytes.
const DEEPEST: u32 = 4;

pub fn value(u: &mut Unstructured<'_>) -> Result<Value> {
    nested(u, DEEPEST)
}

fn nested(u: &mut Unstructured<'_>, deeper: u32) -> Result<Value> {
    let kinds = if deeper == 0 { 10 } else { 13 };
    Ok(match u.int_in_range(0..=kinds)? {
        0 => Value::Null,
        1 => Value::Bool(u.arbitrary()?),
        2 => Value::from(u.arbitrary::<i8>()?),
        3 => Value::from(u.arbitrary::<i64>()?),
        4 => Value::from(u.arbitrary::<u64>()?),
        5 => Value::Float(f64::from_bits(u.arbitrary()?)),
        6 => Value::Float(f64::from(u.arbitrary::<i16>()?) / 10.0),
        7 => Value::Text(u.arbitrary()?),
        8 => Value::Bytes(u.arbitrary()?),
        9 => Value::Tag(0, Box::new(Value::Text(u.arbitrary()?))),
        10 => Value::Tag(u.int_in_range(2..=3)?, Box::new(Value::Bytes(u.arbitrary()?))),
        11 => Value::Array(several(u, |u| nested(u, deeper - 1))?),
        12 => Value::Map(several(u, |u| Ok((nested(u, deeper - 1)?, nested(u, deeper - 1)?)))?),
        _ if u.arbitrary()? => {
            let exponent = Value::from(u.arbitrary::<i8>()?);
            Value::Tag(4, Box::new(Value::Array(vec![exponent, nested(u, 0)?])))
        }
        _ => Value::Tag(u.arbitrary()?, Box::new(nested(u, deeper - 1)?)),
    })
}

/// Up to four.
pub fn several<T>(u: &mut Unstructured<'_>, mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=4)?;
    (0..count).map(|_| one(u)).collect()
}

/// The same kind and content, floats bit by bit except that every NaN is the same.
pub fn identical(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| identical(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((a, x), (b, y))| identical(a, b) && identical(x, y))
        }
        (Value::Tag(a, x), Value::Tag(b, y)) => a == b && identical(x, y),
        (a, b) => a == b,
    }
}
