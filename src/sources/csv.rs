//! CSV: a file of comma-separated values as a data source, read whole, written by replacing it.
//!
//! Owner: nobody; calls run side by side, and this process's writes to one file take turns.
//! Flow: `file` reads the bytes → `sheet` finds lines and cells → `types` gives values; a write → `draft` → new bytes →
//! `file` puts them in the old ones' place.
//! Invariants: 1. a file that is as it was is not read again, one that isn't is never taken for it
//! (`a_change_from_outside_is_seen`); 2. a write that fails leaves the file as it was (`a_refused_write_leaves_no_trace`).
//! Not here: conditions, search, sort; this source answers none of them itself.

mod draft;
mod file;
mod sheet;
mod types;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use self::draft::Draft;
use self::file::{Look, Stamp};
use self::sheet::{Format, Line, Sheet, cells_of, scan};
use self::types::{CsvColumn, Evidence};
use crate::value::Record;
use crate::vista::{CallCx, Capabilities, Column, ColumnType, QueryDescriptor, Schema, TableShell, WriteOp, Written};
use crate::{Error, ErrorKind, Result};

/// A CSV file as a data source. Clones share one file.
///
/// The file's first line names the columns; one of them is the id, which is text whatever it looks like (`00501`, `0E8`),
/// never empty and never twice. The text is UTF-8, with or without a byte order mark; lines end in LF, CRLF or CR; quoted
/// cells may hold line breaks; blank lines are skipped.
///
/// # Types
///
/// A column is declared with [`column`](CsvVistaBuilder::column), or its type is inferred when the file is opened, from
/// all its cells that aren't empty:
///
/// | every cell is | type |
/// | --- | --- |
/// | `true` or `false` | bool |
/// | a 64-bit integer as it is usually written (`7`, `-12`; not `007`, `+1`, `-0`) | int |
/// | such an integer or a number with a point (`2.5`, `1.5e300`; not `1e5`, `.5`) that a float holds | float |
/// | anything else, or in quotes | text |
///
/// So a number in quotes is text. Types stay as they were when the file was opened: a cell that doesn't fit its column
/// later is an error that names it. Dates are text. Declare the columns whose type must not depend on the file's content.
///
/// An empty cell is null; in a text column an empty cell in quotes (`""`) is the empty text.
///
/// # Writes
///
/// A write reads the file again, changes the cells or the line it is about, leaves every other byte as it is, and puts the
/// new file in the old one's place at once: after a crash there is the old file or the new one (a process killed in the
/// middle may leave a hidden `.diorama-….tmp` beside it). A write answers the row as it will be read back. Symbolic links are followed; hard links to the file keep the old content. If another program changed
/// the file meanwhile, the write fails with `Conflict` and nothing is written. Values that the file can't hold (arrays,
/// maps, bytes, another type than the column's, an unknown column) are refused with `Invalid`. A whole row puts null into
/// the columns it doesn't name. A batch is one replacement of the file, all or none.
///
/// The file's text and an index of its ids stay in memory between calls.
///
/// ```
/// use diorama::sources::CsvVista;
/// use diorama::vista::{CallCx, QueryDescriptor, TableShell};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("airports.csv");
/// # std::fs::write(&path, "iata,name,latitude\n00M,Thigpen,31.95\n")?;
///
/// let airports = CsvVista::open(path, "iata")?;
/// let rows = airports.list(&CallCx::new(), &QueryDescriptor::default())?;
/// assert_eq!(rows[0].0, "00M");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct CsvVista(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Table,
    schema: Arc<Schema>,
    name: String,
    source_key: String,
    path: PathBuf,
    /// What was read last. Held only to take or put it, never while reading.
    known: Mutex<Option<Known>>,
    /// Held by the one write that is at work on this file, through whichever vista.
    turn: Arc<Mutex<()>>,
}

/// How the file's lines are read, fixed when it is opened.
#[derive(Debug)]
struct Table {
    format: Format,
    columns: Vec<CsvColumn>,
    /// The id column's position.
    id: usize,
}

#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    sheet: Arc<Sheet>,
}

/// What [`CsvVista::builder`] asks for: [`id`](Self::id) is needed, the rest has defaults.
#[derive(Debug, Clone)]
pub struct CsvVistaBuilder {
    path: PathBuf,
    id: Option<String>,
    name: Option<String>,
    delimiter: u8,
    infer: bool,
    declared: Vec<(String, ColumnType)>,
}

impl CsvVistaBuilder {
    /// The name of the id column. Its values are text.
    #[must_use]
    pub fn id(mut self, column: impl Into<String>) -> Self {
        self.id = Some(column.into());
        self
    }

    /// The table's name; the file's name without its ending unless given.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The character between cells, a comma unless given: any ASCII character but quotes and line breaks.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// Declares a column's type: `Text`, `Int`, `Float` or `Bool`. A declared number may be written in any way that Rust
    /// parses (`+1`, `007`, `1e5`, `NaN`).
    #[must_use]
    pub fn column(mut self, name: impl Into<String>, kind: ColumnType) -> Self {
        self.declared.push((name.into(), kind));
        self
    }

    /// Whether columns that aren't declared get an inferred type (the default); else they are text.
    #[must_use]
    pub fn infer_types(mut self, infer: bool) -> Self {
        self.infer = infer;
        self
    }

    /// Reads the file once, to check it and to find the columns and their types. Blocks for as long as that takes.
    ///
    /// # Errors
    /// `Invalid` for a setting that can't be, or a column that the file doesn't have; `NotFound` without the file;
    /// `Corrupt`, with file, line and column, for a file that can't be read as a table; `Source` for the rest.
    pub fn open(self) -> Result<CsvVista> {
        let setting = |setting: &str, message: &str| {
            Error::new(ErrorKind::Invalid, message).with("setting", setting).with("file", file::shown(&self.path))
        };
        let id = self.id.as_deref().ok_or_else(|| setting("id", "the id column's name is needed"))?;
        if !self.delimiter.is_ascii() || matches!(self.delimiter, b'"' | b'\r' | b'\n') {
            return Err(setting("delimiter", "cells can't be told apart by this character"));
        }
        for (position, (name, kind)) in self.declared.iter().enumerate() {
            if !matches!(kind, ColumnType::Text | ColumnType::Int | ColumnType::Float | ColumnType::Bool) {
                return Err(setting("column", "a CSV column is `text`, `int`, `float` or `bool`").with("column", name));
            }
            if self.declared[..position].iter().any(|(other, _)| other == name) {
                return Err(setting("column", "the column is declared twice").with("column", name));
            }
            if name == id && *kind != ColumnType::Text {
                return Err(setting("column", "an id is always text").with("column", name));
            }
        }

        let absent = |error| unreadable(&self.path, error, ErrorKind::NotFound);
        let path = std::path::absolute(&self.path).map_err(absent)?;
        let real = std::fs::canonicalize(&path).map_err(absent)?;
        let reading = file::read(&path).map_err(absent)?;
        let format = Format { file: file::shown(&path), delimiter: self.delimiter };
        let mut evidence: Vec<Evidence> = Vec::new();
        let sheet = Sheet::read(&format, reading.bytes, id, &CallCx::new(), |_, columns, line| {
            evidence.resize(columns.len(), Evidence::new());
            if self.infer {
                for (position, (evidence, field)) in evidence.iter_mut().zip(line.fields).enumerate() {
                    evidence.see(field, line.is_quoted(position));
                }
            }
            Ok(())
        })?;
        evidence.resize(sheet.columns.len(), Evidence::new());
        for (name, _) in &self.declared {
            if !sheet.columns.contains(name) {
                let known = sheet.columns.join(", ");
                let message = format!("the declared column is not in the file; its columns are: {known}");
                return Err(setting("column", &message).with("column", name).with("line", "1"));
            }
        }
        let columns: Vec<CsvColumn> = sheet
            .columns
            .iter()
            .zip(&evidence)
            .map(|(name, evidence)| {
                let declared = self.declared.iter().find(|(declared, _)| declared == name).map(|(_, kind)| *kind);
                let declared = if name == id { Some(ColumnType::Text) } else { declared };
                CsvColumn {
                    name: Arc::from(name.as_str()),
                    kind: declared.unwrap_or_else(|| evidence.kind()),
                    declared: declared.is_some() || !self.infer,
                }
            })
            .collect();
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(CsvVista(Arc::new(Shared {
            schema: Arc::new(schema_of(&columns, id)),
            name: self.name.clone().unwrap_or_else(stem),
            source_key: format!("csv:{}", file::shown(&real)),
            table: Table { format, columns, id: sheet.id },
            path,
            known: Mutex::new(Some(Known { stamp: reading.stamp, sheet: Arc::new(sheet) })),
            turn: turn_of(real),
        })))
    }
}

fn schema_of(columns: &[CsvColumn], id: &str) -> Schema {
    let title = ["name", "title"]
        .iter()
        .find_map(|title| columns.iter().position(|column| column.name.eq_ignore_ascii_case(title)));
    columns.iter().enumerate().fold(Schema::new(id), |schema, (position, column)| {
        let mut listed = Column::new(&*column.name, column.kind);
        if column.kind == ColumnType::Text {
            listed = listed.searchable();
        }
        if Some(position) == title {
            listed = listed.title();
        }
        if *column.name == *id {
            listed = listed.mandatory();
        }
        schema.with(listed)
    })
}

impl Table {
    fn id_column(&self) -> &str {
        self.columns.get(self.id).map_or("", |column| &*column.name)
    }

    /// A line as the reading pass sees it, as a row.
    fn decode(&self, bytes: &[u8], line: &Line<'_>) -> Result<(String, Record)> {
        let mut record = Record::with_capacity(self.columns.len());
        for (position, (column, field)) in self.columns.iter().zip(line.fields).enumerate() {
            let value = column
                .decode(field, line.is_quoted(position))
                .map_err(|message| self.format.corrupt(bytes, line.span.start, &column.name, message))?;
            record.insert(column.name.clone(), value);
        }
        Ok((line.fields.get(self.id).unwrap_or_default().to_owned(), record))
    }

    /// One line (without its line ending) as a record, or the column that is wrong and why.
    fn decode_line(&self, line: &str) -> Result<Record, (String, String)> {
        let mut cells = Vec::with_capacity(self.columns.len());
        if cells_of(line.as_bytes(), self.format.delimiter, &mut cells).is_err() || cells.len() != self.columns.len() {
            return Err((self.id_column().to_owned(), "the line can't be taken apart".to_owned()));
        }
        let mut record = Record::with_capacity(self.columns.len());
        for (column, cell) in self.columns.iter().zip(&cells) {
            let value =
                column.decode(&cell.text(line), cell.quoted).map_err(|message| (column.name.to_string(), message))?;
            record.insert(column.name.clone(), value);
        }
        Ok(record)
    }
}

impl CsvVista {
    /// Opens a file whose column `id_column` is the id; the types of the others are inferred. Reads the file once.
    ///
    /// # Errors
    /// As [`CsvVistaBuilder::open`].
    pub fn open(path: impl AsRef<Path>, id_column: impl Into<String>) -> Result<CsvVista> {
        CsvVista::builder(path).id(id_column).open()
    }

    /// Asks for more than [`open`](Self::open) does.
    ///
    /// ```
    /// use diorama::sources::CsvVista;
    /// use diorama::vista::{ColumnType, TableShell};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("stock.csv");
    /// # std::fs::write(&path, "article;left;shelf\nA-1;12;007\n")?;
    ///
    /// let stock = CsvVista::builder(path).id("article").delimiter(b';').column("shelf", ColumnType::Int).open()?;
    /// assert_eq!(stock.schema().column("shelf").map(|column| column.kind()), Some(ColumnType::Int));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(path: impl AsRef<Path>) -> CsvVistaBuilder {
        CsvVistaBuilder {
            path: path.as_ref().to_path_buf(),
            id: None,
            name: None,
            delimiter: b',',
            infer: true,
            declared: Vec::new(),
        }
    }

    /// The file as it is now. `each_row` sees its rows if it had to be read; the answer says whether it had.
    fn current(&self, cx: &CallCx, mut each_row: impl FnMut(&[u8], &Line<'_>) -> Result<()>) -> Result<(Known, bool)> {
        cx.check()?;
        let Shared { table, path, .. } = &*self.0;
        let known = self.0.known.lock().clone();
        let looked = match &known {
            Some(known) => file::look(path, &known.stamp, known.sheet.text.as_bytes()),
            None => file::read(path).map(Look::Other),
        };
        let looked = looked.map_err(|error| unreadable(path, error, ErrorKind::Unavailable))?;
        let (known, read) = match (looked, known) {
            (Look::Same, Some(known)) => return Ok((known, false)),
            (Look::SameBytes(stamp), Some(known)) => (Known { stamp, ..known }, false),
            (Look::Other(reading), _) => {
                let same_columns = |columns: &[String]| {
                    columns.len() == table.columns.len()
                        && columns.iter().zip(&table.columns).all(|(found, column)| **found == *column.name)
                };
                let mut checked = false;
                let sheet =
                    Sheet::read(&table.format, reading.bytes, table.id_column(), cx, |bytes, columns, line| {
                        if !checked && !same_columns(columns) {
                            return Err(self.other_columns(columns));
                        }
                        checked = true;
                        each_row(bytes, line)
                    })?;
                if !same_columns(&sheet.columns) {
                    return Err(self.other_columns(&sheet.columns));
                }
                (Known { stamp: reading.stamp, sheet: Arc::new(sheet) }, true)
            }
            (Look::Same | Look::SameBytes(_), None) => {
                return Err(Error::new(ErrorKind::Source, "the file was told to be as it was before it was read")
                    .with("file", file::shown(path)));
            }
        };
        *self.0.known.lock() = Some(known.clone());
        Ok((known, read))
    }

    fn other_columns(&self, columns: &[String]) -> Error {
        let was: Vec<&str> = self.0.table.columns.iter().map(|column| &*column.name).collect();
        let differs = columns.iter().zip(&was).find(|(found, was)| found != *was).map(|(found, _)| found.as_str());
        let differs = differs.or_else(|| columns.get(was.len()).map(String::as_str));
        let differs = differs.or_else(|| was.get(columns.len()).copied()).unwrap_or_default();
        let message =
            format!("the file's columns are no longer those it was opened with ({}); open it again", was.join(", "));
        Error::new(ErrorKind::Corrupt, message)
            .with("file", &*self.0.table.format.file)
            .with("line", "1")
            .with("column", differs)
    }

    fn only_everything(&self, call: &str, query: &QueryDescriptor) -> Result<()> {
        if *query == QueryDescriptor::default() {
            return Ok(());
        }
        Err(self.unsupported(&format!("{call} with conditions, search, sort or a window")))
    }

    fn write(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        cx.check()?;
        let turn = match cx.remaining() {
            Some(left) => self.0.turn.try_lock_for(left),
            None => Some(self.0.turn.lock()),
        };
        let Some(_turn) = turn else {
            return Err(Error::new(ErrorKind::Timeout, "another write to this file took too long")
                .with("file", file::shown(&self.0.path)));
        };
        let (known, _) = self.current(cx, |_, _| Ok(()))?;
        let mut draft = Draft::new(&self.0.table, &known.sheet);
        let written = ops.iter().map(|op| draft.apply(op)).collect::<Result<Vec<Written>>>()?;
        if let Some(new) = draft.finish() {
            let old = known.sheet.text.as_bytes();
            file::replace(&self.0.path, &known.stamp, old, new.as_bytes(), || cx.check())?;
            *self.0.known.lock() = None;
        }
        Ok(written)
    }

    fn write_one(&self, cx: &CallCx, op: WriteOp) -> Result<Written> {
        Ok(self.write(cx, &[op])?.pop().unwrap_or_default())
    }
}

/// The lock that this process's writers to one file take turns by: between a write's last look at the file and its rename
/// there is a moment that only a lock can close.
fn turn_of(real: PathBuf) -> Arc<Mutex<()>> {
    static TURNS: Mutex<BTreeMap<PathBuf, Weak<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let mut turns = TURNS.lock();
    turns.retain(|_, turn| turn.strong_count() > 0);
    if let Some(turn) = turns.get(&real).and_then(Weak::upgrade) {
        return turn;
    }
    let turn = Arc::new(Mutex::new(()));
    turns.insert(real, Arc::downgrade(&turn));
    turn
}

fn unreadable(path: &Path, error: io::Error, when_missing: ErrorKind) -> Error {
    let (kind, message) = match error.kind() {
        io::ErrorKind::NotFound => (when_missing, "there is no such file"),
        io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory => {
            (ErrorKind::Invalid, "this is not a file with rows")
        }
        io::ErrorKind::ResourceBusy => (ErrorKind::Unavailable, "the file can't be read now"),
        _ => (ErrorKind::Source, "the file can't be read"),
    };
    Error::new(kind, message).with("file", file::shown(path)).with_source(error)
}

impl TableShell for CsvVista {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn source_key(&self) -> String {
        self.0.source_key.clone()
    }

    fn schema(&self) -> Arc<Schema> {
        self.0.schema.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { window: false, batch: true, ..Capabilities::read_write() }
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        self.only_everything("list", query)?;
        let table = &self.0.table;
        let mut rows = Vec::new();
        let (known, read) = self.current(cx, |bytes, line| {
            rows.push(table.decode(bytes, line)?);
            Ok(())
        })?;
        if !read {
            let sheet = &known.sheet;
            let bytes = sheet.text.as_bytes();
            rows.reserve_exact(sheet.rows.len());
            scan(&table.format, bytes, cx, &mut |line| {
                if line.span.start >= sheet.header_end {
                    rows.push(table.decode(bytes, line)?);
                }
                Ok(())
            })?;
        }
        Ok(rows)
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        let (known, _) = self.current(cx, |_, _| Ok(()))?;
        let Some(span) = known.sheet.rows.get(id) else { return Ok(None) };
        let text = &known.sheet.text;
        let record =
            self.0.table.decode_line(&text[span.clone()]).map_err(|(column, message)| {
                self.0.table.format.corrupt(text.as_bytes(), span.start, &column, message)
            })?;
        Ok(Some(record))
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        self.only_everything("count", query)?;
        Ok(self.current(cx, |_, _| Ok(()))?.0.sheet.rows.len() as u64)
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        self.write_one(cx, WriteOp::Insert { id: id.map(str::to_owned), record: record.clone() })
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write_one(cx, WriteOp::replace(id, record.clone()))
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write_one(cx, WriteOp::upsert(id, record.clone()))
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write_one(cx, WriteOp::patch(id, record.clone()))
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        self.write_one(cx, WriteOp::delete(id)).map(drop)
    }

    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        self.write_one(cx, WriteOp::delete_all()).map(drop)
    }

    fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        self.write(cx, ops)
    }
}
