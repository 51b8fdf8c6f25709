//! CSV files: any bytes are read as a table or refused; a write leaves untouched lines as they are, byte for byte, and
//! what it wrote is read back; a refused one leaves the file alone.

#![no_main]

use std::path::Path;

use arbitrary::Arbitrary;
use diorama::ErrorKind;
use diorama::sources::CsvVista;
use diorama::value::{Record, Value};
use diorama::vista::{CallCx, ColumnType, QueryDescriptor, TableShell, WriteOp, Written};
use libfuzzer_sys::fuzz_target;

const BOM: &str = "\u{feff}";

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    delimiter: Delimiter,
    /// Which column is the id.
    id: u8,
    text_unless_declared: bool,
    declared: Vec<(u8, Kind)>,
    writes: Vec<Write>,
    text: &'a [u8],
}

#[derive(Debug, Arbitrary)]
enum Delimiter {
    Comma,
    Semicolon,
    Tab,
    Any(u8),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Kind {
    Text,
    Int,
    Float,
    Bool,
    Any,
}

#[derive(Debug, Arbitrary)]
enum Write {
    Insert(Id, Vec<(u8, Cell)>),
    Replace(Id, Vec<(u8, Cell)>),
    Upsert(Id, Vec<(u8, Cell)>),
    Patch(Id, Vec<(u8, Cell)>),
    Delete(Id),
    DeleteAll,
}

#[derive(Debug, Arbitrary)]
enum Id {
    /// That of a row, by its position.
    There(u8),
    Any(String),
}

#[derive(Debug, Arbitrary)]
enum Cell {
    Null,
    Text(String),
    Int(i64),
    Float(f64),
    Tenths(i16),
    Bool(bool),
    List,
}

type Rows = Vec<(String, Record)>;

fuzz_target!(|input: Input<'_>| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("rows.csv");
    std::fs::write(&path, input.text).expect("a file to write");
    let Some(vista) = open(&path, &input) else { return };
    if let Err(error) = vista.list(&CallCx::new(), &QueryDescriptor::default()) {
        // Opening looks at the types of undeclared columns alone.
        assert!(error.kind() == ErrorKind::Corrupt && !input.declared.is_empty(), "{error}");
        return;
    }
    let before = list(&vista);
    check_lines(&path, &input, &before);
    let ops: Vec<WriteOp> = input.writes.iter().map(|write| op(write, &vista, &before)).collect();
    let (mut rows, mut all_done) = (before, true);
    for op in &ops {
        let old = text(&path);
        match write(&vista, op) {
            Ok(written) => rows = check_write(&vista, &rows, op, written, &old, &text(&path), &input),
            Err(_) => {
                all_done = false;
                assert_eq!(text(&path), old, "{op:?} was refused and changed the file");
            }
        }
        assert_eq!(shown(&list(&vista)), shown(&rows), "after {op:?}");
        let again = open(&path, &input).expect("a file that was written can be opened");
        assert_eq!(list(&again).len(), rows.len(), "after {op:?}");
    }
    if ops.len() > 1 {
        std::fs::write(&path, input.text).expect("a file to write");
        let batch = open(&path, &input).expect("a file that was opened before").batch(&CallCx::new(), &ops);
        assert_eq!(batch.is_ok(), all_done, "{batch:?} of {ops:?}");
        match batch {
            Ok(_) => assert_eq!(shown(&list(&vista)), shown(&rows), "{ops:?} at once"),
            Err(_) => assert_eq!(text(&path).as_bytes(), input.text, "a refused batch changed the file"),
        }
    }
    drop(vista);
    let left = std::fs::read_dir(directory.path()).map(Iterator::count);
    assert_eq!(left.ok(), Some(1), "a temporary file was left");
});

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the text of a table")
}

/// A text that shows every bit of a float; all NaNs are one.
fn shown(rows: &Rows) -> String {
    format!("{rows:?}")
}

fn delimiter(input: &Input<'_>) -> u8 {
    match input.delimiter {
        Delimiter::Comma => b',',
        Delimiter::Semicolon => b';',
        Delimiter::Tab => b'\t',
        Delimiter::Any(byte) => byte,
    }
}

fn open(path: &Path, input: &Input<'_>) -> Option<CsvVista> {
    // Its names, taken in the simplest way; a wrong guess is refused.
    let text = String::from_utf8_lossy(input.text);
    let first = text.trim_start_matches(BOM).lines().find(|line| !line.is_empty())?;
    let names: Vec<&str> = first.split(char::from(delimiter(input))).map(|name| name.trim_matches('"')).collect();
    let name = |which: u8| names[usize::from(which) % names.len()].to_owned();
    let mut builder =
        CsvVista::builder(path).id(name(input.id)).delimiter(delimiter(input)).infer_types(!input.text_unless_declared);
    for (which, kind) in &input.declared {
        let kind = match kind {
            Kind::Text => ColumnType::Text,
            Kind::Int => ColumnType::Int,
            Kind::Float => ColumnType::Float,
            Kind::Bool => ColumnType::Bool,
            Kind::Any => ColumnType::Any,
        };
        builder = builder.column(name(*which), kind);
    }
    builder.open().ok()
}

fn list(vista: &CsvVista) -> Rows {
    let cx = CallCx::new();
    let rows = vista.list(&cx, &QueryDescriptor::default()).expect("what was opened can be listed");
    assert_eq!(vista.count(&cx, &QueryDescriptor::default()).ok(), Some(rows.len() as u64));
    for (id, record) in &rows {
        let one = vista.get(&cx, id).expect("what was listed can be read");
        assert_eq!(format!("{one:?}"), format!("{:?}", Some(record)), "{id}");
    }
    rows
}

fn op(write: &Write, vista: &CsvVista, rows: &Rows) -> WriteOp {
    let id = |id: &Id| match id {
        Id::There(which) if !rows.is_empty() => rows[usize::from(*which) % rows.len()].0.clone(),
        Id::There(_) => "nowhere".to_owned(),
        Id::Any(id) => id.clone(),
    };
    let schema = vista.schema();
    let columns = schema.columns();
    let record = |cells: &[(u8, Cell)]| -> Record {
        let name = |which: u8| columns[usize::from(which) % columns.len()].name().to_owned();
        cells.iter().map(|(which, cell)| (name(*which), value(cell))).collect()
    };
    match write {
        Write::Insert(which, cells) => WriteOp::insert_as(id(which), record(cells)),
        Write::Replace(which, cells) => WriteOp::replace(id(which), record(cells)),
        Write::Upsert(which, cells) => WriteOp::upsert(id(which), record(cells)),
        Write::Patch(which, cells) => WriteOp::patch(id(which), record(cells)),
        Write::Delete(which) => WriteOp::delete(id(which)),
        Write::DeleteAll => WriteOp::delete_all(),
    }
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Text(text) => Value::Text(text.clone()),
        Cell::Int(number) => Value::from(*number),
        Cell::Float(number) => Value::Float(*number),
        Cell::Tenths(number) => Value::Float(f64::from(*number) / 10.0),
        Cell::Bool(flag) => Value::Bool(*flag),
        Cell::List => Value::Array(vec![Value::Null]),
    }
}

fn write(vista: &CsvVista, op: &WriteOp) -> diorama::Result<Written> {
    let cx = CallCx::new();
    match op {
        WriteOp::Insert { id, record } => vista.insert(&cx, id.as_deref(), record),
        WriteOp::Replace { id, record } => vista.replace(&cx, id, record),
        WriteOp::Upsert { id, record } => vista.upsert(&cx, id, record),
        WriteOp::Patch { id, record } => vista.patch(&cx, id, record),
        WriteOp::Delete { id } => vista.delete(&cx, id).map(|()| Written::id(id)),
        WriteOp::DeleteAll => vista.delete_all(&cx).map(|()| Written::default()),
        other => panic!("a new kind of write: {other:?}"),
    }
}

/// The lines of the text, each with its line ending, and whether one is blank. Nothing of the library's own reading.
fn lines(text: &str, delimiter: u8) -> Vec<(&str, bool)> {
    let body = text.strip_prefix(BOM).unwrap_or(text);
    let bytes = body.as_bytes();
    let (mut lines, mut start, mut at, mut cell_begins) = (Vec::new(), 0, 0, true);
    while at < bytes.len() {
        match bytes[at] {
            b'"' if cell_begins => {
                at += 1;
                while at < bytes.len() && (bytes[at] != b'"' || bytes.get(at + 1) == Some(&b'"')) {
                    at += if bytes[at] == b'"' { 2 } else { 1 };
                }
                cell_begins = false;
            }
            b'\r' | b'\n' => {
                let end = at + if bytes[at..].starts_with(b"\r\n") { 2 } else { 1 };
                lines.push((&body[start..end], start == at));
                (start, at, cell_begins) = (end, end, true);
                continue;
            }
            byte => cell_begins = byte == delimiter,
        }
        at += 1;
    }
    if start < body.len() {
        lines.push((&body[start..], false));
    }
    lines
}

fn check_lines(path: &Path, input: &Input<'_>, rows: &Rows) {
    let text = text(path);
    let full = lines(&text, delimiter(input)).iter().filter(|(_, blank)| !blank).count();
    assert_eq!(full, rows.len() + 1, "lines of {text:?}");
}

/// Checks what a write that was done did to the file, and says which rows there must be now.
fn check_write(
    vista: &CsvVista,
    rows: &Rows,
    op: &WriteOp,
    written: Written,
    old: &str,
    new: &str,
    input: &Input<'_>,
) -> Rows {
    let old_lines = lines(old, delimiter(input));
    let full: Vec<usize> = (0..old_lines.len()).filter(|line| !old_lines[*line].1).collect();
    let place = op.id().and_then(|id| rows.iter().position(|(other, _)| other == id));
    // The header is the first full line.
    let line = place.map(|place| full[place + 1]);
    let bom = if old.starts_with(BOM) { BOM } else { "" };
    let text = |lines: &[(&str, bool)]| lines.iter().map(|(line, _)| *line).collect::<String>();
    let mut rows = rows.clone();
    match (op, line) {
        (WriteOp::DeleteAll, _) => {
            assert_eq!(new, format!("{bom}{}", text(&old_lines[..=full[0]])), "only the header stays");
            rows.clear();
        }
        (WriteOp::Delete { .. }, Some(line)) => {
            let (before, after) = (text(&old_lines[..line]), text(&old_lines[line + 1..]));
            assert_eq!(new, format!("{bom}{before}{after}"), "{op:?} touched another line");
            rows.remove(place.unwrap_or_default());
        }
        (WriteOp::Delete { .. }, None) => assert_eq!(new, old, "{op:?}"),
        (_, line) => {
            match line {
                Some(line) => {
                    let before = format!("{bom}{}", text(&old_lines[..line]));
                    let ending = &old_lines[line].0[old_lines[line].0.trim_end_matches(['\r', '\n']).len()..];
                    let after = format!("{ending}{}", text(&old_lines[line + 1..]));
                    assert!(new.starts_with(&before) && new.ends_with(&after), "{op:?} touched another line: {new:?}");
                    assert!(new.len() >= before.len() + after.len(), "{op:?} touched another line: {new:?}");
                }
                None => assert!(new.starts_with(old), "{op:?} touched another line: {new:?}"),
            }
            let (Some(id), Some(stored)) = (written.id, written.record) else { panic!("no answer to {op:?}") };
            check_row(vista, op, &id, &stored, place.map(|place| &rows[place].1));
            match place {
                Some(place) => rows[place] = (id, stored),
                None => rows.push((id, stored)),
            }
        }
    }
    rows
}

/// The row that a write left has the values it was given, and those it had or nulls beside.
fn check_row(vista: &CsvVista, op: &WriteOp, id: &str, stored: &Record, before: Option<&Record>) {
    let given = op.record().expect("a write of a row");
    for column in vista.schema().columns() {
        let found = stored.get(column.name()).expect("a row has all columns");
        let expected = match (given.get(column.name()), op) {
            _ if column.is_mandatory() => Value::Text(id.to_owned()),
            (Some(given), _) => given.clone(),
            (None, WriteOp::Patch { .. }) => {
                before.and_then(|row| row.get(column.name())).cloned().unwrap_or(Value::Null)
            }
            (None, _) => Value::Null,
        };
        assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{} after {op:?}", column.name());
    }
}
