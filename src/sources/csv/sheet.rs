//! Sheet: a CSV text taken apart into its lines and cells, each of which knows its own bytes.
//!
//! Flow: bytes → the `csv` crate finds the records → each record's span in the text, its ids checked → [`Sheet`].
//! Invariants: [`cells_of`] and the `csv` crate see the same cells in every line (`cells_agree_with_the_csv_crate`); the
//! spans of the header and the rows, and what lies between them, are the whole text.
//! Not here: what a cell means (`types`), where the bytes come from (`file`).

use std::borrow::Cow;
use std::ops::Range;

use csv::StringRecord;
use indexmap::IndexMap;
use indexmap::map::Entry;

use super::types::excerpt;
use crate::vista::CallCx;
use crate::{Error, ErrorKind, Result};

/// Between how many rows a call looks whether it is still wanted.
const ROWS_BETWEEN_CHECKS: usize = 4096;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How to read a file, and its name for messages.
#[derive(Debug, Clone)]
pub(super) struct Format {
    pub(super) file: String,
    pub(super) delimiter: u8,
}

impl Format {
    /// An error in the file's content, at the line that starts at or contains `offset`.
    pub(super) fn corrupt(&self, bytes: &[u8], offset: usize, column: &str, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, message)
            .with("file", &*self.file)
            .with("line", line_number(bytes, offset).to_string())
            .with("column", column)
    }
}

/// One cell of a line: its bytes within the line, the quotes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) span: Range<usize>,
    pub(super) quoted: bool,
}

impl Cell {
    /// What the cell says.
    pub(super) fn text<'a>(&self, line: &'a str) -> Cow<'a, str> {
        let raw = &line[self.span.clone()];
        match raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
            Some(inner) if self.quoted => {
                if inner.contains('"') {
                    Cow::Owned(inner.replace("\"\"", "\""))
                } else {
                    Cow::Borrowed(inner)
                }
            }
            _ => Cow::Borrowed(raw),
        }
    }
}

/// Why a line has no cells: the number of the column, from 0, and what is wrong in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    column: usize,
    what: &'static str,
}

/// The cells of one line (without its line ending), put into `cells`.
pub(super) fn cells_of(line: &[u8], delimiter: u8, cells: &mut Vec<Cell>) -> Result<(), Malformed> {
    cells.clear();
    let mut start = 0;
    loop {
        let quoted = line.get(start) == Some(&b'"');
        let end = if quoted {
            let close = closing_quote(line, start)
                .ok_or(Malformed { column: cells.len(), what: "a quote is opened and never closed" })?;
            if line.get(close + 1).is_some_and(|&byte| byte != delimiter) {
                return Err(Malformed { column: cells.len(), what: "there is text after a closing quote" });
            }
            close + 1
        } else {
            line[start..].iter().position(|&byte| byte == delimiter).map_or(line.len(), |length| start + length)
        };
        cells.push(Cell { span: start..end, quoted });
        if end == line.len() {
            return Ok(());
        }
        start = end + 1;
    }
}

fn closing_quote(line: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += line.get(at..)?.iter().position(|&byte| byte == b'"')?;
        if line.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

/// One line as the reading pass sees it.
pub(super) struct Line<'a> {
    /// What the cells say.
    pub(super) fields: &'a StringRecord,
    /// The cells' own bytes; `None` when no cell of the line is quoted.
    cells: Option<&'a [Cell]>,
    /// The line's bytes within the file, without its line ending.
    pub(super) span: Range<usize>,
}

impl Line<'_> {
    pub(super) fn is_quoted(&self, column: usize) -> bool {
        self.cells.is_some_and(|cells| cells.get(column).is_some_and(|cell| cell.quoted))
    }
}

/// A CSV file's text with its lines found.
#[derive(Debug)]
pub(super) struct Sheet {
    pub(super) text: String,
    pub(super) columns: Vec<String>,
    /// The id column's position.
    pub(super) id: usize,
    /// The end of the header line, its line ending not included.
    pub(super) header_end: usize,
    /// The rows by id, in the order of the file: each line's bytes, without its line ending.
    pub(super) rows: IndexMap<Box<str>, Range<usize>>,
}

impl Sheet {
    /// Reads a file's bytes in one pass; `each_row` sees every row as it comes.
    ///
    /// # Errors
    /// `Corrupt` with file, line and column for what is no CSV table with unique ids; `Invalid` without the id column;
    /// what `cx` and `each_row` say.
    pub(super) fn read(
        format: &Format,
        bytes: Vec<u8>,
        id_column: &str,
        cx: &CallCx,
        mut each_row: impl FnMut(&[u8], &[String], &Line<'_>) -> Result<()>,
    ) -> Result<Sheet> {
        let mut columns = Vec::new();
        let mut id = 0;
        let mut header_end = 0;
        let mut rows = IndexMap::new();
        scan(format, &bytes, cx, &mut |line| {
            if columns.is_empty() {
                (columns, id) = header(format, &bytes, id_column, line)?;
                header_end = line.span.end;
                return Ok(());
            }
            let name = line.fields.get(id).unwrap_or_default();
            if name.is_empty() {
                return Err(format.corrupt(&bytes, line.span.start, id_column, "the row has no id"));
            }
            match rows.entry(Box::from(name)) {
                Entry::Vacant(entry) => entry.insert(line.span.clone()),
                Entry::Occupied(entry) => {
                    let first: &Range<usize> = entry.get();
                    let first = line_number(&bytes, first.start);
                    let message = format!("two rows have this id; the other is at line {first}");
                    return Err(format
                        .corrupt(&bytes, line.span.start, id_column, message)
                        .with("id", excerpt(entry.key())));
                }
            };
            each_row(&bytes, &columns, line)
        })?;
        if columns.is_empty() {
            return Err(format.corrupt(
                &bytes,
                0,
                id_column,
                "the file is empty; its first line must name the columns",
            ));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            format.corrupt(error.as_bytes(), offset, "?", "the text is not UTF-8; convert the file to UTF-8")
        })?;
        Ok(Sheet { text, columns, id, header_end, rows })
    }

    /// The line of a row, without its line ending.
    pub(super) fn line(&self, id: &str) -> Option<&str> {
        self.rows.get(id).map(|span| &self.text[span.clone()])
    }

    /// The file's line ending: that of its header, or `\n`.
    pub(super) fn line_ending(&self) -> &str {
        match line_ending_at(self.text.as_bytes(), self.header_end) {
            0 => "\n",
            length => &self.text[self.header_end..self.header_end + length],
        }
    }
}

/// Walks over the lines of a file, the header first; blank lines are skipped.
pub(super) fn scan(
    format: &Format,
    bytes: &[u8],
    cx: &CallCx,
    each: &mut dyn FnMut(&Line<'_>) -> Result<()>,
) -> Result<()> {
    cx.check()?;
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(format.corrupt(bytes, 0, "?", "the text is UTF-16; convert the file to UTF-8"));
    }
    let skipped = if bytes.starts_with(BOM) { BOM.len() } else { 0 };
    let body = &bytes[skipped..];
    let mut reader = csv::ReaderBuilder::new().has_headers(false).delimiter(format.delimiter).from_reader(body);
    let mut columns: Option<Vec<String>> = None;
    let name = |columns: &Option<Vec<String>>, column: usize| {
        let known = columns.as_ref().and_then(|columns| columns.get(column).cloned());
        known.unwrap_or_else(|| format!("number {}", column + 1))
    };
    let mut record = StringRecord::new();
    let mut cells = Vec::new();
    for number in 0_usize.. {
        if number % ROWS_BETWEEN_CHECKS == ROWS_BETWEEN_CHECKS - 1 {
            cx.check()?;
        }
        let start = skipped + offset(reader.position().byte());
        let more = reader.read_record(&mut record);
        let start = start + bytes[start..].iter().take_while(|byte| is_newline(**byte)).count();
        let more = more.map_err(|error| {
            let (column, message) = match error.kind() {
                csv::ErrorKind::Utf8 { err, .. } => {
                    (err.field(), "the text is not UTF-8; convert the file to UTF-8".to_owned())
                }
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    let message = format!("the line has {len} fields, the header has {expected_len}");
                    (offset(*len.min(expected_len)), message)
                }
                _ => (0, error.to_string()),
            };
            format.corrupt(bytes, start, &name(&columns, column), message)
        })?;
        if !more {
            return Ok(());
        }
        let end = skipped + offset(reader.position().byte());
        let end = end - bytes[start..end].iter().rev().take_while(|byte| is_newline(**byte)).count();
        let bare = !bytes[start..end].contains(&b'"');
        if !bare {
            cells_of(&bytes[start..end], format.delimiter, &mut cells)
                .map_err(|Malformed { column, what }| format.corrupt(bytes, start, &name(&columns, column), what))?;
        }
        each(&Line { fields: &record, cells: (!bare).then_some(&cells[..]), span: start..end })?;
        if columns.is_none() {
            columns = Some(record.iter().map(str::to_owned).collect());
        }
    }
    Ok(())
}

fn header(format: &Format, bytes: &[u8], id_column: &str, line: &Line<'_>) -> Result<(Vec<String>, usize)> {
    let columns: Vec<String> = line.fields.iter().map(str::to_owned).collect();
    for (position, column) in columns.iter().enumerate() {
        if columns[..position].contains(column) {
            return Err(format.corrupt(bytes, line.span.start, column, "two columns have this name"));
        }
    }
    let id = columns.iter().position(|column| column == id_column).ok_or_else(|| {
        let known = columns.join(", ");
        Error::new(ErrorKind::Invalid, format!("the file has no such id column; its columns are: {known}"))
            .with("file", &*format.file)
            .with("line", line_number(bytes, line.span.start).to_string())
            .with("column", id_column)
    })?;
    Ok((columns, id))
}

fn offset(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// The length of the line ending at `at`: 0 where there is none.
pub(super) fn line_ending_at(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at..) {
        Some([b'\r', b'\n', ..]) => 2,
        Some([b'\r' | b'\n', ..]) => 1,
        _ => 0,
    }
}

/// The line, counted from 1, that the byte at `offset` is in.
fn line_number(bytes: &[u8], offset: usize) -> usize {
    let before = &bytes[..offset.min(bytes.len())];
    let endings = before.iter().enumerate().filter(|(at, byte)| match byte {
        b'\n' => true,
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        _ => false,
    });
    1 + endings.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn format() -> Format {
        Format { file: "rows.csv".into(), delimiter: b',' }
    }

    fn read(text: &[u8]) -> Result<Sheet> {
        Sheet::read(&format(), text.to_vec(), "id", &CallCx::new(), |_, _, _| Ok(()))
    }

    #[test]
    fn every_row_knows_its_line() {
        let text = "\u{feff}id,name\r\n\r\na,\"two\r\nlines\"\r\nb,plain\r\n\r\n\r\nc,\"\"\"q\"\"\"";
        let sheet = read(text.as_bytes()).unwrap();
        assert_eq!(sheet.columns, ["id", "name"]);
        assert_eq!(&sheet.text[..sheet.header_end], "\u{feff}id,name");
        assert_eq!(sheet.line_ending(), "\r\n");
        assert_eq!(sheet.line("a"), Some("a,\"two\r\nlines\""));
        assert_eq!(sheet.line("b"), Some("b,plain"));
        assert_eq!(sheet.line("c"), Some("c,\"\"\"q\"\"\""));
        assert_eq!(sheet.line("d"), None);
    }

    #[test]
    fn lines_may_end_in_a_lone_carriage_return() {
        let sheet = read(b"id,name\ra,x\rb,y\r").unwrap();
        assert_eq!(sheet.line_ending(), "\r");
        assert_eq!(sheet.line("b"), Some("b,y"));
    }

    #[test]
    fn damage_is_told_with_file_line_and_column() {
        use ErrorKind::{Corrupt, Invalid};
        for (text, kind, line, column, says) in [
            (&b""[..], Corrupt, "1", "id", "empty"),
            (b"\xEF\xBB\xBF", Corrupt, "1", "id", "empty"),
            (b"\r\n\r\n", Corrupt, "1", "id", "empty"),
            (b"a,b\n1,2\n", Invalid, "1", "id", "no such id column"),
            (b"id,a,a\n", Corrupt, "1", "a", "two columns"),
            (b"id,a\n1\n", Corrupt, "2", "a", "1 fields"),
            (b"id,a\r\n1,2\r\n\r\n3,4,5\r\n", Corrupt, "4", "number 3", "3 fields"),
            (b"id,a\n1,2\n1,3\n", Corrupt, "3", "id", "line 2"),
            (b"id,a\n,2\n", Corrupt, "2", "id", "no id"),
            (b"id,a\n\"\",2\n", Corrupt, "2", "id", "no id"),
            (b"id,a\n1,\"x\ny\"\n2,\xFF\n", Corrupt, "4", "a", "UTF-8"),
            (b"id,\xFF\n", Corrupt, "1", "number 2", "UTF-8"),
            (b"id,a\n1,\"x\n", Corrupt, "2", "a", "never closed"),
            (b"id,a\n1,\"x\n2,y\n", Corrupt, "2", "a", "never closed"),
            (b"id,a\n1,\"x\"y\n", Corrupt, "2", "a", "after a closing quote"),
            (b"\"id,a\n", Corrupt, "1", "number 1", "never closed"),
            (b"id,a\r1,x\r1,y\r", Corrupt, "3", "id", "line 2"),
            (b"\xFF\xFEi\0d\0", Corrupt, "1", "?", "UTF-16"),
        ] {
            let error = read(text).unwrap_err();
            let shown = String::from_utf8_lossy(text);
            assert_eq!(error.kind(), kind, "{shown:?}: {error}");
            assert_eq!(error.context("file"), Some("rows.csv"), "{shown:?}: {error}");
            assert_eq!(error.context("line"), Some(line), "{shown:?}: {error}");
            assert_eq!(error.context("column"), Some(column), "{shown:?}: {error}");
            assert!(error.message().contains(says), "{shown:?}: {error}");
        }
    }

    #[test]
    fn a_cancelled_call_ends_between_rows() {
        let mut text = "id\n".to_owned();
        (0..10_000).for_each(|id| text.push_str(&format!("{id}\n")));
        let cx = CallCx::new();
        let mut seen = 0;
        let error = Sheet::read(&format(), text.into_bytes(), "id", &cx, |_, _, _| {
            seen += 1;
            cx.cancel.cancel();
            Ok(())
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(seen < 5_000, "{seen}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(prop_oneof![
            prop::sample::select(&b"id,\"\r\n;ax"[..]), any::<u8>()], 0..60)) {
            let mut text = b"id,a\n".to_vec();
            text.extend(bytes);
            let _ = read(&text);
        }

        #[test]
        fn cells_agree_with_the_csv_crate(text in "[a,\"\r\n\u{e9}]{0,24}") {
            let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
            let expected: Vec<StringRecord> = reader.records().map(|record| record.unwrap()).collect();
            if let [expected] = &expected[..] {
                let line = text.trim_matches(['\r', '\n']);
                let mut cells = Vec::new();
                if cells_of(line.as_bytes(), b',', &mut cells).is_ok() {
                    let texts: Vec<_> = cells.iter().map(|cell| cell.text(line)).collect();
                    prop_assert_eq!(expected.iter().collect::<Vec<_>>(), texts);
                }
            }
        }
    }
}
