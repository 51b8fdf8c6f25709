//! Read: rows and counts, each call in one transaction of one moment.
//!
//! Invariants: an id that can't be one (null, a float, bytes, empty) or that comes twice is an error that names it, and
//! never a row left out (`a_row_without_a_usable_id_is_an_error`).

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::Row;
use rusqlite::types::{Value as SqlValue, ValueRef as SqlRef};

use super::cell;
use super::connections::Session;
use super::fault::Fault;
use super::pages::{self, DataVersion};
use super::relation::{IdKind, Relation};
use super::select::{Sql, Target, Term};
use crate::value::Record;
use crate::vista::{CallCx, QueryDescriptor};
use crate::{Error, ErrorKind};

/// Rows between two looks at the call's context.
const ROWS_PER_LOOK: usize = 512;

/// Of which row the terms are wanted, which follow the columns: at the latest that at `position`.
#[derive(Debug, Clone, Copy)]
struct Key {
    terms: usize,
    position: usize,
}

impl Key {
    const NONE: Key = Key { terms: 0, position: 0 };
}

/// The terms as further columns of a `SELECT`.
fn key_columns(terms: &[Term]) -> String {
    terms.iter().map(|term| format!(", {}", term.expression)).collect()
}

/// A table's columns as they are read.
#[derive(Debug)]
pub(super) struct Reader {
    relation: Relation,
    names: Vec<Arc<str>>,
    /// `r."a", r."b"`.
    columns: String,
}

impl Reader {
    pub(super) fn new(relation: Relation) -> Self {
        let names = relation.columns.iter().map(|column| Arc::from(&*column.name)).collect();
        let columns = relation.columns.iter().map(|column| column.qualified()).collect::<Vec<_>>().join(", ");
        Reader { relation, names, columns }
    }

    pub(super) fn relation(&self) -> &Relation {
        &self.relation
    }

    /// The rows of a query; `None` when it asks for more than SQL answers.
    pub(super) fn list(
        &self,
        session: &Session,
        cx: &CallCx,
        target: Target<'_>,
        query: &QueryDescriptor,
    ) -> Result<Option<Vec<(String, Record)>>, Fault> {
        let (mut filter, mut more_filter) = (Sql::default(), Sql::default());
        let (Some(()), Some(()), Some(terms)) = (
            target.filter(query, " WHERE ", &mut filter),
            target.filter(query, " AND ", &mut more_filter),
            target.terms(query),
        ) else {
            return Ok(None);
        };
        let from_the_first_row = |keyed: &str, key: Key| {
            let mut sql = self.select(keyed);
            sql.append(filter);
            sql.order(&terms);
            if let Some(window) = query.window {
                sql.window(window.offset, window.limit);
            }
            self.rows(session, cx, &sql, key)
        };
        let Some(window) = query.window.filter(|_| self.relation.arrival_is_unique()) else {
            return Ok(Some(from_the_first_row("", Key::NONE)?.0));
        };
        let keyed = key_columns(&terms);
        let last = Key { terms: terms.len(), position: usize::MAX };
        let version = DataVersion::of(&session.connection)?;
        let all = query.without_window();
        let place = session.places.borrow_mut().before(&all, version, window.offset);
        let mut found = None;
        if let Some((passed, key)) = place {
            let mut sql = self.select(&keyed);
            sql.push(" WHERE ");
            // Before the conditions: of two bounds of one column, SQLite takes the first to its index.
            let are_all = pages::behind(&terms, &key, &mut sql);
            sql.append(more_filter);
            sql.order(&terms);
            sql.window(window.offset - passed, window.limit);
            let (rows, key) = self.rows(session, cx, &sql, last)?;
            if are_all || rows.len() == window.limit {
                found = Some((rows, key));
            }
        }
        let (rows, key) = match found {
            Some(found) => found,
            None => from_the_first_row(&keyed, last)?,
        };
        if !rows.is_empty() {
            session.places.borrow_mut().note(all, version, window.offset + rows.len(), key);
        }
        Ok(Some(rows))
    }

    /// At most `limit` rows of a query from the first, or from behind the row whose terms are `after`; and the terms of the
    /// last of them if others follow. `None` when the query asks for more than SQL answers.
    #[expect(clippy::type_complexity, reason = "rows as every source gives them, and one key")]
    pub(super) fn page(
        &self,
        session: &Session,
        cx: &CallCx,
        target: Target<'_>,
        query: &QueryDescriptor,
        after: Option<&[SqlValue]>,
        limit: usize,
    ) -> Result<Option<(Vec<(String, Record)>, Option<Vec<SqlValue>>)>, Fault> {
        let Some(terms) = target.terms(query) else { return Ok(None) };
        if after.is_some_and(|after| after.len() != terms.len()) {
            return Err(pages::not_ours().into());
        }
        let wanted = limit.saturating_add(1);
        let (mut rows, mut key): (Vec<(String, Record)>, Vec<SqlValue>) = (Vec::new(), Vec::new());
        // What lies behind a row, and then the rows with null in the first term, which an index finds by themselves.
        let mut with_null_only = false;
        loop {
            let mut sql = self.select(&key_columns(&terms));
            let mut lead = " WHERE ";
            let mut are_all = true;
            if with_null_only {
                sql.push(&format!(" WHERE {} IS NULL", terms.first().map_or("1", |first| &first.expression)));
                lead = " AND ";
            } else if let Some(after) = after {
                sql.push(lead);
                are_all = pages::behind(&terms, after, &mut sql);
                lead = " AND ";
            }
            if target.filter(query, lead, &mut sql).is_none() {
                return Ok(None);
            }
            sql.order(&terms);
            sql.window(0, wanted - rows.len());
            let position = limit.saturating_sub(rows.len()).saturating_sub(1);
            let is_key_missing = rows.len() < limit;
            let (more, last) = self.rows(session, cx, &sql, Key { terms: terms.len(), position })?;
            if is_key_missing && !more.is_empty() {
                key = last;
            }
            rows.extend(more);
            if are_all || with_null_only || rows.len() == wanted {
                break;
            }
            with_null_only = true;
        }
        let has_next = rows.len() > limit;
        rows.truncate(limit);
        Ok(Some((rows, has_next.then_some(key))))
    }

    /// How many rows a query has; `None` when it asks for more than SQL answers.
    pub(super) fn count(
        &self,
        session: &Session,
        target: Target<'_>,
        query: &QueryDescriptor,
    ) -> Result<Option<u64>, Fault> {
        let mut sql = Sql::default();
        sql.push(&format!("SELECT count(*) FROM {}", self.relation.from));
        let Some(()) = target.filter(query, " WHERE ", &mut sql) else { return Ok(None) };
        let mut statement = session.connection.prepare_cached(&sql.text)?;
        let count: i64 = statement.query_row(rusqlite::params_from_iter(&sql.values), |row| row.get(0))?;
        Ok(Some(u64::try_from(count).unwrap_or(0)))
    }

    /// The row of this id.
    pub(super) fn get(&self, session: &Session, cx: &CallCx, id: &str) -> Result<Option<Record>, Fault> {
        let mut sql = self.select("");
        sql.push(" WHERE ");
        if self.relation.has_id(id, &mut sql).is_none() {
            return Ok(None);
        }
        sql.push(" LIMIT 2");
        let (mut rows, _) = self.rows(session, cx, &sql, Key::NONE)?;
        Ok(rows.pop().map(|(_, record)| record))
    }

    /// The row that the database numbers so, with its id.
    pub(super) fn get_numbered(
        &self,
        session: &Session,
        cx: &CallCx,
        number: i64,
    ) -> Result<Option<(String, Record)>, Fault> {
        let Some(rowid) = &self.relation.rowid else { return Ok(None) };
        let mut sql = self.select("");
        sql.push(&format!(" WHERE {rowid} = "));
        sql.bind(SqlValue::Integer(number));
        Ok(self.rows(session, cx, &sql, Key::NONE)?.0.pop())
    }

    fn select(&self, more_columns: &str) -> Sql {
        let mut sql = Sql::default();
        sql.push(&format!("SELECT {}{} FROM {}", self.columns, more_columns, self.relation.from));
        sql
    }

    /// The rows, and of the one that `key` names, or of the last before it, the values of the terms.
    #[expect(clippy::type_complexity, reason = "rows as every source gives them, and one key")]
    fn rows(
        &self,
        session: &Session,
        cx: &CallCx,
        sql: &Sql,
        key: Key,
    ) -> Result<(Vec<(String, Record)>, Vec<SqlValue>), Fault> {
        let mut statement = session.connection.prepare_cached(&sql.text)?;
        let mut found = statement.query(rusqlite::params_from_iter(&sql.values))?;
        let mut rows: Vec<(String, Record)> = Vec::new();
        let mut values = Vec::new();
        let mut ids = HashSet::new();
        while let Some(row) = found.next()? {
            if rows.len() % ROWS_PER_LOOK == ROWS_PER_LOOK - 1 {
                cx.check()?;
            }
            let (id, record) = self.decode(row)?;
            if !self.relation.ids_are_unique && !ids.insert(id.clone()) {
                return Err(self.unusable_id("two rows have the same id", &id).into());
            }
            if key.terms > 0 && rows.len() <= key.position {
                values.clear();
                for position in 0..key.terms {
                    values.push(row.get(self.names.len() + position)?);
                }
            }
            rows.push((id, record));
        }
        Ok((rows, values))
    }

    fn decode(&self, row: &Row<'_>) -> Result<(String, Record), Fault> {
        let id = self.id_of(row.get_ref(self.relation.id)?)?;
        let mut record = Record::with_capacity(self.names.len());
        for (position, (column, name)) in self.relation.columns.iter().zip(&self.names).enumerate() {
            let value = cell::decode(column, row.get_ref(position)?).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "the database holds text that is not UTF-8; store it as a blob")
                    .with("column", &*column.name)
                    .with("id", &*id)
            })?;
            record.insert(name.clone(), value);
        }
        Ok((id, record))
    }

    fn id_of(&self, stored: SqlRef<'_>) -> Result<String, Error> {
        let refuse = |shown: &str| {
            Err(self.unusable_id("a row's id is neither text nor an integer; give the row one that is", shown))
        };
        match stored {
            SqlRef::Integer(number) => Ok(number.to_string()),
            SqlRef::Text(text) => match std::str::from_utf8(text) {
                Ok("") => Err(self.unusable_id("a row's id is empty; give the row one that isn't", "''")),
                Ok(text) => Ok(text.to_owned()),
                Err(_) => refuse("text that is not UTF-8"),
            },
            SqlRef::Null => refuse("null"),
            SqlRef::Real(number) => refuse(&number.to_string()),
            SqlRef::Blob(_) => refuse("a blob"),
        }
    }

    fn unusable_id(&self, message: &str, id: &str) -> Error {
        Error::new(ErrorKind::Corrupt, message).with("column", &*self.relation.id_column().name).with("id", id)
    }
}

impl Relation {
    /// The stored id of this text; `None` when no row can have it.
    pub(super) fn stored_id(&self, id: &str) -> Option<SqlValue> {
        let text = || SqlValue::Text(id.to_owned());
        match self.id_kind {
            _ if id.is_empty() => None,
            IdKind::RowId => cell::plain_integer(id).map(SqlValue::Integer),
            IdKind::Number => match cell::plain_integer(id) {
                Some(number) => Some(SqlValue::Integer(number)),
                None => (!cell::looks_like_a_number(id)).then(text),
            },
            IdKind::Text | IdKind::Untyped => Some(text()),
        }
    }

    /// Appends what is true for the rows of this id; `None` when there can't be one.
    pub(super) fn has_id(&self, id: &str, sql: &mut Sql) -> Option<()> {
        let stored = self.stored_id(id)?;
        let name = self.id_column().qualified();
        match (self.id_kind, &stored) {
            (IdKind::Untyped, _) => {
                // A column of a view may have an affinity, which the plus takes away.
                let plus = if self.is_table { "" } else { "+" };
                sql.push(&format!("({plus}{name} COLLATE BINARY = "));
                sql.bind(stored);
                if let Some(number) = cell::plain_integer(id) {
                    sql.push(&format!(" OR {plus}{name} = "));
                    sql.bind(SqlValue::Integer(number));
                }
                sql.push(")");
            }
            (_, SqlValue::Integer(_)) => {
                sql.push(&format!("{name} = "));
                sql.bind(stored);
            }
            _ => {
                // The first by the column's own collation, so that its index serves; the second exactly.
                sql.push(&format!("({name} = "));
                sql.bind(stored.clone());
                sql.push(&format!(" AND {name} COLLATE BINARY = "));
                sql.bind(stored);
                sql.push(")");
            }
        }
        Some(())
    }
}
