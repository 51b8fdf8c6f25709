//! Write: one write as SQL, inside the transaction of its call.
//!
//! Invariants: the answer is the row as the database has it now, defaults, triggers and computed columns included
//! (`a_write_answers_the_row_as_it_is_stored`); a value that the column would change is refused, and no clause of the
//! table's own (`ON CONFLICT REPLACE`) makes a refusal into something else (`an_insert_never_replaces_a_row`).

use rusqlite::params_from_iter;
use rusqlite::types::Value as SqlValue;

use super::cell;
use super::connections::Session;
use super::fault::Fault;
use super::read::Reader;
use super::relation::{IdKind, Relation, RelationColumn};
use super::select::Sql;
use crate::value::{Record, Value};
use crate::vista::{CallCx, WriteOp, Written};
use crate::{Error, ErrorKind};

/// What writes go through.
pub(super) struct Writer<'a> {
    pub(super) session: &'a Session,
    pub(super) cx: &'a CallCx,
    pub(super) reader: &'a Reader,
    /// The table, quoted.
    pub(super) table: &'a str,
}

impl Writer<'_> {
    pub(super) fn apply(&self, op: &WriteOp) -> Result<Written, Fault> {
        match op {
            WriteOp::Insert { id, record } => self.insert(id.as_deref(), record),
            WriteOp::Replace { id, record } => self.update(id, record, true),
            WriteOp::Upsert { id, record } => match self.exists(id)? {
                true => self.update(id, record, true),
                false => self.insert(Some(id), record),
            },
            WriteOp::Patch { id, record } => self.update(id, record, false),
            WriteOp::Delete { id } => {
                let mut sql = Sql::default();
                sql.push(&format!("DELETE FROM {} AS r WHERE ", self.table));
                if self.relation().has_id(id, &mut sql).is_some() && self.run(&sql)? > 1 {
                    return Err(ambiguous(id).into());
                }
                Ok(Written::id(id))
            }
            WriteOp::DeleteAll => {
                let mut sql = Sql::default();
                sql.push(&format!("DELETE FROM {}", self.table));
                self.run(&sql)?;
                Ok(Written::default())
            }
        }
    }

    fn insert(&self, id: Option<&str>, record: &Record) -> Result<Written, Fault> {
        let relation = self.relation();
        let given = match id {
            Some(id) => Some(id.to_owned()),
            None => self.id_in(record)?,
        };
        let mut columns = self.fields(given.as_deref(), record)?;
        match &given {
            Some(id) => {
                let Some(stored) = relation.stored_id(id) else { return Err(self.unfit_id(id).into()) };
                if self.exists(id)? {
                    return Err(taken(id).into());
                }
                columns.push((relation.id_column(), stored));
            }
            None if relation.rowid.is_none() || !self.database_chooses_ids() => {
                let message = "a new row needs its id given: the database doesn't choose one for this column";
                let error = Error::new(ErrorKind::Invalid, message);
                return Err(error.with("column", &*relation.id_column().name).into());
            }
            None => {}
        }
        let mut sql = Sql::default();
        sql.push(&format!("INSERT OR ABORT INTO {}", self.table));
        if columns.is_empty() {
            sql.push(" DEFAULT VALUES");
        } else {
            let names: Vec<String> = columns.iter().map(|(column, _)| column.bare()).collect();
            sql.push(&format!(" ({}) VALUES (", names.join(", ")));
            for (position, (_, value)) in columns.into_iter().enumerate() {
                sql.push(if position == 0 { "" } else { ", " });
                sql.bind(value);
            }
            sql.push(")");
        }
        let refused = || {
            let error = Error::new(ErrorKind::Rejected, "a trigger of the database kept the row out");
            Fault::Own(match &given {
                Some(id) => error.with("id", id),
                None => error,
            })
        };
        if self.run(&sql)? == 0 {
            return Err(refused());
        }
        let stored = match &given {
            _ if relation.rowid.is_some() => {
                self.reader.get_numbered(self.session, self.cx, self.session.connection.last_insert_rowid())?
            }
            Some(id) => self.reader.get(self.session, self.cx, id)?.map(|record| (id.clone(), record)),
            None => None,
        };
        let (id, record) = stored.ok_or_else(refused)?;
        Ok(Written::row(id, record))
    }

    fn update(&self, id: &str, record: &Record, whole: bool) -> Result<Written, Fault> {
        let relation = self.relation();
        if id.is_empty() {
            return Err(self.unfit_id(id).into());
        }
        let mut columns = self.fields(Some(id), record)?;
        if !self.exists(id)? {
            return Err(Error::new(ErrorKind::NotFound, "there is no row of this id").with("id", id).into());
        }
        if whole {
            let id = relation.id_column();
            let left_out = relation.columns.iter().filter(|column| !column.generated && *column != id);
            columns.extend(
                left_out.filter(|column| !record.contains(&column.name)).map(|column| (column, SqlValue::Null)),
            );
        }
        if !columns.is_empty() {
            let mut sql = Sql::default();
            sql.push(&format!("UPDATE OR ABORT {} AS r SET ", self.table));
            for (position, (column, value)) in columns.into_iter().enumerate() {
                sql.push(if position == 0 { "" } else { ", " });
                sql.push(&format!("{} = ", column.bare()));
                sql.bind(value);
            }
            sql.push(" WHERE ");
            let changed = match relation.has_id(id, &mut sql) {
                Some(()) => self.run(&sql)?,
                None => 0,
            };
            match changed {
                0 => {
                    let message = "a trigger of the database kept the change out";
                    return Err(Error::new(ErrorKind::Rejected, message).with("id", id).into());
                }
                1 => {}
                _ => return Err(ambiguous(id).into()),
            }
        }
        match self.reader.get(self.session, self.cx, id)? {
            Some(record) => Ok(Written::row(id, record)),
            None => {
                let message = "a trigger of the database gave the row another id or deleted it";
                Err(Error::new(ErrorKind::Rejected, message).with("id", id).into())
            }
        }
    }

    /// The columns that `record` sets, without the id, and their values as they are stored.
    fn fields(&self, id: Option<&str>, record: &Record) -> Result<Vec<(&RelationColumn, SqlValue)>, Error> {
        let relation = self.relation();
        let mut columns = Vec::with_capacity(record.len() + 1);
        for (name, value) in record.iter() {
            let refuse = |message: String| {
                let error = Error::new(ErrorKind::Invalid, message).with("column", name);
                match id {
                    Some(id) => error.with("id", id),
                    None => error,
                }
            };
            let Some(position) = relation.position(name) else {
                let known: Vec<&str> = relation.columns.iter().map(|column| &*column.name).collect();
                return Err(refuse(format!("no such column; the table has: {}", known.join(", "))));
            };
            let column = &relation.columns[position];
            if column.generated {
                return Err(refuse("the database computes this column; leave it out".into()));
            }
            if position == relation.id {
                let agrees = value.is_null() || id_text(value).is_some_and(|text| Some(&*text) == id);
                if !agrees {
                    return Err(refuse("the id in the row is another than the row's id".into()));
                }
                continue;
            }
            columns.push((column, cell::encode(column, value).map_err(refuse)?));
        }
        Ok(columns)
    }

    /// The id that a new row brings along.
    fn id_in(&self, record: &Record) -> Result<Option<String>, Error> {
        let column = self.relation().id_column();
        match record.get(&column.name).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => id_text(value).map(Some).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "an id is text or an integer").with("column", &*column.name)
            }),
        }
    }

    fn exists(&self, id: &str) -> Result<bool, Fault> {
        let mut sql = Sql::default();
        sql.push(&format!("SELECT 1 FROM {} AS r WHERE ", self.table));
        if self.relation().has_id(id, &mut sql).is_none() {
            return Ok(false);
        }
        sql.push(" LIMIT 1");
        Ok(self.session.connection.prepare_cached(&sql.text)?.exists(params_from_iter(&sql.values))?)
    }

    fn run(&self, sql: &Sql) -> Result<usize, Fault> {
        Ok(self.session.connection.prepare_cached(&sql.text)?.execute(params_from_iter(&sql.values))?)
    }

    fn relation(&self) -> &Relation {
        self.reader.relation()
    }

    fn database_chooses_ids(&self) -> bool {
        self.relation().id_kind == IdKind::RowId || self.relation().id_column().has_default
    }

    fn unfit_id(&self, id: &str) -> Error {
        let message = match self.relation().id_kind {
            _ if id.is_empty() => "an id must not be empty",
            IdKind::RowId => "the ids of this table are integers of 64 bits, written the usual way",
            _ => "the id column would store this text as another number; write it the usual way",
        };
        Error::new(ErrorKind::Invalid, message).with("column", &*self.relation().id_column().name).with("id", id)
    }
}

/// The text of an id in a record.
fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(number) => Some(i128::from(*number).to_string()),
        _ => None,
    }
}

fn taken(id: &str) -> Error {
    Error::new(ErrorKind::Conflict, "there is a row of this id already").with("id", id)
}

fn ambiguous(id: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "several rows have this id; give each an id of its own").with("id", id)
}
