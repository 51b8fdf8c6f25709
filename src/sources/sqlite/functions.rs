//! Functions: the library's own pattern match and search, made callable from SQL.
//!
//! SQLite's `LIKE` ignores the case of ASCII letters and its `GLOB` ends at a zero character; these do neither, for they
//! are the very code that conditions are evaluated with elsewhere.

use std::convert::Infallible;

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ValueRef as SqlRef;

use crate::value::ValueRef;
use crate::vista::{LikePattern, Needle};

/// `diorama_like(value, pattern)`: 1 or 0, never null.
pub(super) const LIKE: &str = "diorama_like";

/// `diorama_search(value, text, is a boolean column)`: 1 or 0, never null.
pub(super) const SEARCH: &str = "diorama_search";

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function(LIKE, 2, flags, |call| {
        let pattern =
            call.get_or_create_aux(1, |pattern| Ok::<_, Infallible>(LikePattern::new(text_of(pattern).unwrap_or(""))))?;
        Ok(text_of(call.get_raw(0)).is_some_and(|text| pattern.matches(text)))
    })?;
    connection.create_scalar_function(SEARCH, 3, flags, |call| {
        let needle =
            call.get_or_create_aux(1, |needle| Ok::<_, Infallible>(Needle::new(text_of(needle).unwrap_or(""))))?;
        let is_bool_column = call.get_raw(2) == SqlRef::Integer(1);
        let value = match call.get_raw(0) {
            SqlRef::Integer(bit @ (0 | 1)) if is_bool_column => ValueRef::Bool(bit == 1),
            SqlRef::Integer(number) => ValueRef::Int(number.into()),
            SqlRef::Real(number) => ValueRef::Float(number),
            text @ SqlRef::Text(_) => text_of(text).map_or(ValueRef::Null, ValueRef::Text),
            SqlRef::Null | SqlRef::Blob(_) => ValueRef::Null,
        };
        Ok(needle.is_in(value))
    })
}

fn text_of(value: SqlRef<'_>) -> Option<&str> {
    match value {
        SqlRef::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}
