//! Tests of the values: lazy reads against full decodes, and the order against its encoding, over generated values and
//! generated CBOR.

mod generate;
mod lazy;
mod ordering;
mod rows;

use ciborium::Value;

/// The same kind and content, floats bit by bit except that every NaN is the same.
fn identical(a: &Value, b: &Value) -> bool {
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
