//! Cell: values between rows and the database, by the rules of SQLite's column affinities.
//!
//! Invariants: what is read is what is stored, of whatever type (`a_value_of_another_type_than_its_column_is_given_as_it_is`);
//! a value that the column's affinity would turn into another one is refused
//! (`a_value_that_the_column_would_change_is_refused`).

use rusqlite::types::{Value as SqlValue, ValueRef as SqlRef};

use super::relation::{Affinity, RelationColumn};
use crate::value::Value;
use crate::vista::ColumnType;

/// The largest integer up to which every integer is a float.
pub(super) const EXACT_IN_FLOAT: u64 = 1 << 53;

/// A stored value as the rows have it; `None` for text that is not UTF-8.
pub(super) fn decode(column: &RelationColumn, stored: SqlRef<'_>) -> Option<Value> {
    Some(match stored {
        SqlRef::Null => Value::Null,
        SqlRef::Integer(bit @ (0 | 1)) if column.kind == ColumnType::Bool => Value::Bool(bit == 1),
        SqlRef::Integer(number) => Value::Integer(number.into()),
        SqlRef::Real(number) => Value::Float(number),
        SqlRef::Text(text) => Value::Text(std::str::from_utf8(text).ok()?.to_owned()),
        SqlRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    })
}

/// A value as the column stores it without changing it, or why it can't.
pub(super) fn encode(column: &RelationColumn, value: &Value) -> Result<SqlValue, String> {
    let is_bool = column.kind == ColumnType::Bool;
    match value {
        Value::Null => Ok(SqlValue::Null),
        Value::Bool(bit) if is_bool => Ok(SqlValue::Integer(i64::from(*bit))),
        Value::Bool(_) => Err("only a column declared BOOLEAN holds true and false".into()),
        Value::Integer(number) => {
            let number = i64::try_from(*number).map_err(|_| "SQLite's integers have 64 bits with a sign")?;
            match column.affinity {
                _ if is_bool && matches!(number, 0 | 1) => {
                    Err("this column is declared BOOLEAN: give true or false, not 1 or 0".into())
                }
                Affinity::Text => Err("the column would store this number as text; give text".into()),
                Affinity::Real if !is_exact_float(number) => {
                    Err("the column stores floats, and none is exactly this integer".into())
                }
                _ => Ok(SqlValue::Integer(number)),
            }
        }
        Value::Float(number) if number.is_nan() => Err("SQLite has no NaN; give null".into()),
        Value::Float(_) if column.affinity == Affinity::Text => {
            Err("the column would store this number as text; give text".into())
        }
        Value::Float(number) if is_bool && (*number == 0.0 || *number == 1.0) => {
            Err("this column is declared BOOLEAN: give true or false, not 1.0 or 0.0".into())
        }
        Value::Float(number) => Ok(SqlValue::Real(*number)),
        Value::Text(text) if column.affinity.is_numeric() && looks_like_a_number(text) => {
            Err("the column would store this text as a number; give a number".into())
        }
        Value::Text(text) => Ok(SqlValue::Text(text.clone())),
        Value::Bytes(bytes) => Ok(SqlValue::Blob(bytes.clone())),
        Value::Tag(..) => Err("SQLite has no type for a tagged value; give text or a number".into()),
        _ => Err("SQLite has no type for arrays and maps; give text or bytes".into()),
    }
}

/// The integer that this text is, if it is written the one usual way.
pub(super) fn plain_integer(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

fn is_exact_float(number: i64) -> bool {
    (number as f64) as i128 == i128::from(number)
}

/// Whether a column of numeric affinity would turn this text into a number.
pub(super) fn looks_like_a_number(text: &str) -> bool {
    let text = text.trim_matches(|character| matches!(character, ' ' | '\t'..='\r'));
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && all_digits(exponent))
}
