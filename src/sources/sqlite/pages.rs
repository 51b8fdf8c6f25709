//! Pages: what begins where something read earlier ended, read from there on instead of from the first row.
//!
//! Flow: a page → `WHERE` the place in its cursor is passed. A window → was a row before it read, and is the database still as it was then? → `WHERE` that row's place in the
//! order is passed → the rest of the way by `OFFSET`; else `OFFSET` alone. The last row's place is noted.
//! Invariants: a noted place counts only while nobody has written anything since (`pages_see_what_others_wrote`); with it
//! or without, the rows are the same (`pages_put_together_are_the_whole`).

use std::collections::VecDeque;

use ciborium::Value;
use rusqlite::Connection;
use rusqlite::types::Value as SqlValue;

use super::fault::Fault;
use super::select::{Sql, Term};
use crate::vista::{PageCursor, QueryDescriptor};
use crate::{Error, ErrorKind};

/// Places noted for each connection.
const KEPT: usize = 64;

/// The state of the database as one connection sees it. It differs as soon as anyone has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DataVersion {
    others: i64,
    own: u64,
}

/// The last rows of windows, the newest at the end.
#[derive(Debug, Default)]
pub(super) struct Places(VecDeque<Place>);

#[derive(Debug)]
struct Place {
    /// Without its window.
    query: QueryDescriptor,
    version: DataVersion,
    /// How many rows come before the next one.
    passed: usize,
    /// The terms of the last row passed.
    key: Vec<SqlValue>,
}

impl DataVersion {
    /// To be asked inside the transaction that reads.
    pub(super) fn of(connection: &Connection) -> Result<Self, Fault> {
        let others = connection.prepare_cached("PRAGMA main.data_version")?.query_row([], |row| row.get(0))?;
        Ok(DataVersion { others, own: connection.total_changes() })
    }
}

impl Places {
    /// The last noted row before `offset`: how many rows it and those before it are, and its terms.
    pub(super) fn before(
        &mut self,
        query: &QueryDescriptor,
        version: DataVersion,
        offset: usize,
    ) -> Option<(usize, Vec<SqlValue>)> {
        self.0.retain(|place| place.version == version);
        let fits = |place: &&Place| place.passed <= offset && place.query == *query;
        self.0.iter().filter(fits).max_by_key(|place| place.passed).map(|place| (place.passed, place.key.clone()))
    }

    pub(super) fn note(&mut self, query: QueryDescriptor, version: DataVersion, passed: usize, key: Vec<SqlValue>) {
        self.0.retain(|place| place.passed != passed || place.query != query);
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Place { query, version, passed, key });
    }
}

/// A cursor behind the row whose terms are `key`.
pub(super) fn seal(source_key: &str, query: &QueryDescriptor, key: Vec<SqlValue>) -> Result<PageCursor, Error> {
    let values = key.into_iter().map(|value| match value {
        SqlValue::Null => Value::Null,
        SqlValue::Integer(number) => number.into(),
        SqlValue::Real(number) => number.into(),
        SqlValue::Text(text) => text.into(),
        SqlValue::Blob(bytes) => Value::Bytes(bytes),
    });
    let mut place = Vec::new();
    ciborium::into_writer(&Value::Array(values.collect()), &mut place).map_err(|cause| {
        Error::new(ErrorKind::Source, "the place of a page's last row can't be written").with_source(cause)
    })?;
    Ok(PageCursor::seal(source_key, query, &place))
}

/// The terms in a cursor.
pub(super) fn open(cursor: &PageCursor, source_key: &str, query: &QueryDescriptor) -> Result<Vec<SqlValue>, Error> {
    let place = cursor.open(source_key, query)?;
    let Ok(Value::Array(values)) = ciborium::from_reader(&place[..]) else { return Err(not_ours()) };
    let term = |value| match value {
        Value::Null => Some(SqlValue::Null),
        Value::Integer(number) => i64::try_from(number).ok().map(SqlValue::Integer),
        Value::Float(number) => Some(SqlValue::Real(number)),
        Value::Text(text) => Some(SqlValue::Text(text)),
        Value::Bytes(bytes) => Some(SqlValue::Blob(bytes)),
        _ => None,
    };
    values.into_iter().map(term).collect::<Option<Vec<_>>>().ok_or_else(not_ours)
}

/// The error for a cursor that passed as one and holds no place of this table.
pub(super) fn not_ours() -> Error {
    Error::new(ErrorKind::Invalid, "the page cursor is none of this table; ask for the first page again")
}

/// Appends what is true for the rows behind the one whose terms are `key`. The answer: are those all of them? Where it is
/// `false`, rows with null in the first term may follow.
pub(super) fn behind(terms: &[Term], key: &[SqlValue], sql: &mut Sql) -> bool {
    let (Some(first), Some(value)) = (terms.first(), key.first()) else { return false };
    let is_null = *value == SqlValue::Null;
    // Says again what the rest implies, in a form that an index serves.
    if is_null {
        sql.push(&format!("({} IS NULL AND ", first.expression));
    } else {
        let operator = if first.descending { "<=" } else { ">=" };
        sql.push(&format!("({} {operator} ", first.expression));
        sql.bind(value.clone());
        sql.push(" AND ");
    }
    for (term, value) in terms.iter().zip(key) {
        let (name, operator) = (&term.expression, if term.descending { "<" } else { ">" });
        match value {
            SqlValue::Null => sql.push(&format!("({name} IS NULL AND ")),
            value => {
                sql.push(&format!("({name} {operator} "));
                sql.bind(value.clone());
                let or_null = if term.nullable { format!(" OR {name} IS NULL") } else { String::new() };
                sql.push(&format!("{or_null} OR {name} = "));
                sql.bind(value.clone());
                sql.push(" AND ");
            }
        }
    }
    sql.push("0");
    sql.push(&")".repeat(terms.len() + 1));
    is_null || !first.nullable
}
