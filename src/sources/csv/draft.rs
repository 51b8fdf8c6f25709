//! Draft: writes applied to a sheet, as pieces of text to be put in the place of others.
//!
//! Invariants: a byte outside the cells, lines and line endings that a write is about stays as it is
//! (`untouched_lines_stay_byte_for_byte`); a refused write leaves no trace in the draft.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::Table;
use super::sheet::{Cell, Sheet, cells_of, line_ending_at};
use super::types::{excerpt, identical};
use crate::value::{Record, Value};
use crate::vista::{WriteOp, Written};
use crate::{Error, ErrorKind, Result};

/// The text that a row of the sheet gets instead of its own; `None`: the line goes.
struct Change {
    end: usize,
    line: Option<String>,
}

/// Writes applied to a sheet.
pub(super) struct Draft<'a> {
    table: &'a Table,
    sheet: &'a Sheet,
    cleared: bool,
    /// By the start of the row's line.
    changed: BTreeMap<usize, Change>,
    /// The lines of new rows, by id.
    added: IndexMap<String, String>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(table: &'a Table, sheet: &'a Sheet) -> Self {
        Draft { table, sheet, cleared: false, changed: BTreeMap::new(), added: IndexMap::new() }
    }

    /// Applies one write.
    ///
    /// # Errors
    /// `Invalid` for values that the file can't hold, with column and id; `NotFound`, `Conflict` as the contract says.
    pub(super) fn apply(&mut self, op: &WriteOp) -> Result<Written> {
        match op {
            WriteOp::Insert { id, record } => {
                let id = self.id_of_new_row(id.as_deref(), record)?;
                if self.line(&id).is_some() {
                    return Err(self.refuse(ErrorKind::Conflict, &id, "a row with this id exists"));
                }
                self.put(&id, record, true)
            }
            WriteOp::Replace { id, record } => {
                self.expect_row(id)?;
                self.put(id, record, true)
            }
            WriteOp::Upsert { id, record } => self.put(id, record, true),
            WriteOp::Patch { id, record } => {
                self.expect_row(id)?;
                self.put(id, record, false)
            }
            WriteOp::Delete { id } => {
                if self.added.shift_remove(id.as_str()).is_none()
                    && !self.cleared
                    && let Some(span) = self.sheet.rows.get(id.as_str())
                {
                    let end = span.end + line_ending_at(self.sheet.text.as_bytes(), span.end);
                    self.changed.insert(span.start, Change { end, line: None });
                }
                Ok(Written::id(id))
            }
            WriteOp::DeleteAll => {
                self.cleared = true;
                self.changed.clear();
                self.added.clear();
                Ok(Written::default())
            }
        }
    }

    /// The new text; `None` when it is the old one.
    pub(super) fn finish(self) -> Option<String> {
        let old = &self.sheet.text;
        let ending = self.sheet.line_ending();
        let mut new = String::with_capacity(old.len() + 128);
        if self.cleared {
            let end = self.sheet.header_end;
            new.push_str(&old[..end + line_ending_at(old.as_bytes(), end)]);
        } else {
            let mut copied = 0;
            for (start, Change { end, line }) in &self.changed {
                new.push_str(&old[copied..*start]);
                new.push_str(line.as_deref().unwrap_or_default());
                copied = *end;
            }
            new.push_str(&old[copied..]);
        }
        // A file whose last line has no line ending keeps that habit.
        let ends_in_newline = old.ends_with(['\r', '\n']);
        for line in self.added.values() {
            if !new.ends_with(['\r', '\n']) {
                new.push_str(ending);
            }
            new.push_str(line);
            if ends_in_newline {
                new.push_str(ending);
            }
        }
        (new != *old).then_some(new)
    }

    fn line(&self, id: &str) -> Option<&str> {
        if let Some(line) = self.added.get(id) {
            return Some(line);
        }
        let span = self.sheet.rows.get(id).filter(|_| !self.cleared)?;
        match self.changed.get(&span.start) {
            Some(change) => change.line.as_deref(),
            None => self.sheet.line(id),
        }
    }

    fn expect_row(&self, id: &str) -> Result<()> {
        match self.line(id) {
            Some(_) => Ok(()),
            None => Err(self.refuse(ErrorKind::NotFound, id, "no such row")),
        }
    }

    fn id_of_new_row(&self, id: Option<&str>, record: &Record) -> Result<String> {
        let in_record = record.get(self.table.id_column()).filter(|value| !value.is_null());
        match (id, in_record) {
            (Some(id), _) => Ok(id.to_owned()),
            (None, Some(Value::Text(id))) => Ok(id.clone()),
            (None, Some(_)) => Err(self.refuse_cell("", self.table.id_column(), "an id is text")),
            (None, None) => Err(self.refuse_cell("", self.table.id_column(), "a new row needs its id given")),
        }
    }

    /// Puts the row's line: all its cells, or only those that `record` names.
    fn put(&mut self, id: &str, record: &Record, whole: bool) -> Result<Written> {
        let line = self.line_with(id, record, whole)?;
        let stored = self.table.decode_line(&line).map_err(|(column, message)| {
            Error::new(ErrorKind::Corrupt, message)
                .with("file", &*self.table.format.file)
                .with("column", column)
                .with("id", excerpt(id))
        })?;
        match self.sheet.rows.get(id) {
            Some(span) if self.line(id).is_some() && !self.added.contains_key(id) => {
                self.changed.insert(span.start, Change { end: span.end, line: Some(line) });
            }
            _ => {
                self.added.insert(id.to_owned(), line);
            }
        }
        Ok(Written::row(id, stored))
    }

    fn line_with(&self, id: &str, record: &Record, whole: bool) -> Result<String> {
        let table = self.table;
        if id.is_empty() {
            return Err(self.refuse_cell(id, table.id_column(), "an id can't be empty"));
        }
        for (name, value) in record.iter() {
            let Some(position) = table.columns.iter().position(|column| *column.name == *name) else {
                let known: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
                return Err(self.refuse_cell(id, name, format!("no such column; the file has: {}", known.join(", "))));
            };
            let agrees = value.is_null() || matches!(value, Value::Text(text) if text == id);
            if position == table.id && !agrees {
                return Err(self.refuse_cell(id, name, "the id in the row is another than the row's id"));
            }
        }
        let current = self.line(id);
        let mut cells = Vec::new();
        if let Some(line) = current {
            // The sheet was read, and its lines taken apart, before; a line that can't be is written anew.
            if cells_of(line.as_bytes(), table.format.delimiter, &mut cells).is_err() {
                cells.clear();
            }
        }
        let id_value = Value::Text(id.to_owned());
        let mut text = String::new();
        for (position, column) in table.columns.iter().enumerate() {
            if position > 0 {
                text.push(char::from(table.format.delimiter));
            }
            let old = current.and_then(|line| cells.get(position).map(|cell| (cell, line)));
            let wanted = match record.get(&column.name) {
                _ if position == table.id => Some(&id_value),
                None if whole || old.is_none() => Some(&Value::Null),
                wanted => wanted,
            };
            match (wanted, old) {
                (None, Some((cell, line))) => text.push_str(&line[cell.span.clone()]),
                (Some(wanted), Some((cell, line)))
                    if column.decode(&cell.text(line), cell.quoted).is_ok_and(|old| identical(&old, wanted)) =>
                {
                    text.push_str(&line[cell.span.clone()]);
                }
                (wanted, old) => {
                    let encoded = column
                        .encode(wanted.unwrap_or(&Value::Null))
                        .map_err(|message| self.refuse_cell(id, &column.name, message))?;
                    let was_quoted =
                        matches!(wanted, Some(Value::Text(_))) && old.is_some_and(|(Cell { quoted, .. }, _)| *quoted);
                    push_cell(&mut text, &encoded.text, encoded.quoted || was_quoted, table.format.delimiter);
                }
            }
        }
        Ok(text)
    }

    fn refuse(&self, kind: ErrorKind, id: &str, message: &str) -> Error {
        Error::new(kind, message).with("file", &*self.table.format.file).with("id", excerpt(id))
    }

    fn refuse_cell(&self, id: &str, column: &str, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
            .with("file", &*self.table.format.file)
            .with("column", column)
            .with("id", excerpt(id))
    }
}

fn push_cell(line: &mut String, text: &str, quoted: bool, delimiter: u8) {
    let special = |byte: u8| byte == delimiter || matches!(byte, b'"' | b'\r' | b'\n');
    // Other programs trim bare cells; the quotes keep their hands off.
    let spaced = text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace);
    if !quoted && !spaced && !text.bytes().any(special) {
        line.push_str(text);
        return;
    }
    line.push('"');
    for (position, piece) in text.split('"').enumerate() {
        if position > 0 {
            line.push_str("\"\"");
        }
        line.push_str(piece);
    }
    line.push('"');
}
