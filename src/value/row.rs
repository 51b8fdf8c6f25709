//! Row: a stored row, its header and CBOR fields in one shared buffer, and the lazy reader of single fields.
//!
//! Flow: `Record` → `StoredRow::encode` → cache and views → `fields().get(path)` → `ValueRef`.
//! Invariants: equal records have equal field bytes when their fields have the same order; any bytes are survived;
//! reading a field neither decodes the others nor allocates.

use std::sync::Arc;

use super::cbor;
use super::path;
use super::{MapIter, MapRef, Path, Record, ValueRef, same_value};
use crate::{Error, ErrorKind, Result, Seq};

/// The version of the stored format that this library writes. It reads this one only.
pub const ROW_FORMAT_VERSION: u8 = 1;

const STATUS_AT: usize = 1;
const SEQ_AT: usize = 2;
const FETCHED_AT: usize = 10;
const ID_LENGTH_AT: usize = 18;
const ID_AT: usize = 22;

/// One row as it is stored: header, id and fields in one shared buffer. Cheap to clone.
///
/// The layout, little-endian: format version `u8`, status `u8`, Seq `u64`, fetched-at `i64` (milliseconds since the
/// Unix epoch), length of the id `u32`, the id in UTF-8, then one CBOR map of the fields.
///
/// ```
/// use diorama::record;
/// use diorama::value::StoredRow;
///
/// let row = StoredRow::encode("00M", &record! { "name" => "Thigpen", "elevation" => 351 }, 0);
/// assert_eq!(row.id(), "00M");
/// assert_eq!(row.fields().get("elevation").and_then(|value| value.as_i64()), Some(351));
/// ```
#[derive(Clone)]
pub struct StoredRow(Arc<[u8]>);

impl StoredRow {
    /// Encodes a record, with Seq 0 and status 0. `fetched_at` is in milliseconds since the Unix epoch.
    ///
    /// Values nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH) are stored as null.
    pub fn encode(id: &str, record: &Record, fetched_at: i64) -> Self {
        Self::encode_with(&mut Vec::new(), id, record, fetched_at)
    }

    /// [`encode`](Self::encode) through a buffer that many rows can share.
    pub(crate) fn encode_with(out: &mut Vec<u8>, id: &str, record: &Record, fetched_at: i64) -> Self {
        out.clear();
        out.reserve(ID_AT + id.len() + 9 + record.encoded_size_hint());
        write_header(out, id, fetched_at);
        cbor::write_head(cbor::MAP, record.len() as u64, out);
        for (name, value) in record.iter() {
            cbor::write_text(name, out);
            cbor::write_value(value, out);
        }
        StoredRow(Arc::from(out.as_slice()))
    }

    /// A row over its fields as [`field_bytes`](Self::field_bytes) has them, at the start of `bytes`; and what follows them.
    /// `None` when they are no map, or cut.
    pub(crate) fn over_fields<'a>(id: &str, bytes: &'a [u8], fetched_at: i64) -> Option<(Self, &'a [u8])> {
        let (head, _) = cbor::read_head(bytes)?;
        let rest = cbor::skip(bytes).filter(|_| head.major == cbor::MAP)?;
        let fields = &bytes[..bytes.len() - rest.len()];
        let mut out = Vec::with_capacity(ID_AT + id.len() + fields.len());
        write_header(&mut out, id, fetched_at);
        out.extend_from_slice(fields);
        Some((StoredRow(Arc::from(out)), rest))
    }

    /// The fields, as one CBOR map.
    pub(crate) fn field_bytes(&self) -> &[u8] {
        &self.0[self.fields_at()..]
    }

    /// A row from stored bytes, which are copied. Fails with [`ErrorKind::Corrupt`] as [`from_arc`](Self::from_arc).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        check(bytes)?;
        Ok(StoredRow(bytes.into()))
    }

    /// A row over stored bytes. Checks the header and the id, not the fields.
    ///
    /// Fails with [`ErrorKind::Corrupt`] when the bytes are cut, the id isn't UTF-8, or a newer version of the library
    /// wrote them (the error says so).
    pub fn from_arc(bytes: Arc<[u8]>) -> Result<Self> {
        check(&bytes)?;
        Ok(StoredRow(bytes))
    }

    /// The row's id.
    pub fn id(&self) -> &str {
        // Checked when the row was made.
        std::str::from_utf8(&self.0[ID_AT..self.fields_at()]).unwrap_or_default()
    }

    /// The Dio's Seq of this version of the row; 0 before it has one.
    pub fn seq(&self) -> Seq {
        Seq(u64::from_le_bytes(self.header(SEQ_AT)))
    }

    /// Sets the Seq: in place when this is the only handle, else in a copy.
    pub fn set_seq(&mut self, seq: Seq) {
        self.header_mut(SEQ_AT, seq.0.to_le_bytes());
    }

    /// When the row was fetched, in milliseconds since the Unix epoch.
    pub fn fetched_at(&self) -> i64 {
        i64::from_le_bytes(self.header(FETCHED_AT))
    }

    /// The same row, fetched at another time (milliseconds since the Unix epoch). Copies only when the buffer is shared.
    #[must_use]
    pub fn with_fetched_at(mut self, fetched_at: i64) -> Self {
        self.header_mut(FETCHED_AT, fetched_at.to_le_bytes());
        self
    }

    /// The status byte; its meaning is the owner's.
    pub fn status(&self) -> u8 {
        self.0[STATUS_AT]
    }

    /// Sets the status byte: in place when this is the only handle, else in a copy.
    pub fn set_status(&mut self, status: u8) {
        self.header_mut(STATUS_AT, [status]);
    }

    /// The stored bytes, as [`from_bytes`](Self::from_bytes) takes them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The stored bytes, shared.
    pub(crate) fn bytes(&self) -> Arc<[u8]> {
        self.0.clone()
    }

    /// The number of stored bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The fields, read lazily.
    #[inline]
    pub fn fields(&self) -> RowRef<'_> {
        RowRef::new(&self.0[self.fields_at()..])
    }

    /// All fields, decoded. Of two columns of one name the first counts.
    ///
    /// Fails with [`ErrorKind::Corrupt`] when the fields are damaged, nest deeper than 256 levels, or a column's name
    /// isn't plain text.
    pub fn to_record(&self) -> Result<Record> {
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what).with("id", self.id());
        let fields = self.fields();
        let (head, mut rest) = cbor::read_head(fields.bytes)
            .filter(|(head, _)| head.major == cbor::MAP)
            .ok_or_else(|| corrupt("the stored row holds no fields; let the table load again"))?;
        let damaged = || corrupt("the fields of the stored row are damaged; let the table load again");
        let mut left = head.length();
        let mut record = Record::with_capacity(left.map_or(0, |count| count.min(64) as usize));
        while cbor::next_is_item(&mut rest, &mut left).ok_or_else(damaged)? {
            let (name, after) = read_name(rest).ok_or_else(damaged)?;
            let (value, after) = cbor::decode(after).ok_or_else(damaged)?;
            record.insert_if_absent(name, value);
            rest = after;
        }
        Ok(record)
    }

    /// Do both rows have the same fields with equal canonical values? The order of fields doesn't count, nor do ids and
    /// headers; 1 and 1.0 differ; NaN equals NaN. Equal bytes are the fast answer.
    pub fn same_content(&self, other: &StoredRow) -> bool {
        let (mine, others) = (self.fields(), other.fields());
        if mine.bytes == others.bytes {
            return true;
        }
        // Rows mostly have their columns in one order, and then the first value that differs settles it.
        let in_step = mine.iter().zip(others).take_while(|((name, _), (other, _))| name == other);
        if in_step.into_iter().any(|((_, value), (_, other))| !same_value(value, other)) {
            return false;
        }
        let (Some(mine_count), Some(other_count)) = (mine.count_fields(), others.count_fields()) else { return false };
        // Both ways, since damaged bytes may hold one column twice.
        mine_count == other_count && mine.is_within(others) && others.is_within(mine)
    }

    /// Whether nobody could tell the two apart in a view: the same content under the same id, with the same status.
    pub(crate) fn shows_as(&self, other: &StoredRow) -> bool {
        self.status() == other.status() && self.id() == other.id() && self.same_content(other)
    }

    #[inline]
    fn fields_at(&self) -> usize {
        fields_at(&self.0)
    }

    #[inline]
    fn header<const N: usize>(&self, at: usize) -> [u8; N] {
        header(&self.0, at)
    }

    fn header_mut<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        Arc::make_mut(&mut self.0)[at..at + N].copy_from_slice(&bytes);
    }
}

/// A stored row in bytes that belong to somebody else. Reading it copies nothing.
#[derive(Clone, Copy)]
pub(crate) struct StoredRef<'a>(&'a [u8]);

impl<'a> StoredRef<'a> {
    /// As [`StoredRow::from_bytes`], without the copy.
    pub(crate) fn from_bytes(bytes: &'a [u8]) -> Result<Self> {
        check(bytes)?;
        Ok(StoredRef(bytes))
    }

    pub(crate) fn seq(self) -> Seq {
        Seq(u64::from_le_bytes(header(self.0, SEQ_AT)))
    }

    #[inline]
    pub(crate) fn fields(self) -> RowRef<'a> {
        RowRef::new(&self.0[fields_at(self.0)..])
    }

    pub(crate) fn to_row(self) -> StoredRow {
        StoredRow(self.0.into())
    }
}

impl<'a> From<&'a StoredRow> for StoredRef<'a> {
    fn from(row: &'a StoredRow) -> Self {
        StoredRef(&row.0)
    }
}

/// The header and the id of a new row.
fn write_header(out: &mut Vec<u8>, id: &str, fetched_at: i64) {
    out.extend_from_slice(&[ROW_FORMAT_VERSION, 0]);
    out.extend_from_slice(&0u64.to_le_bytes());
    out.extend_from_slice(&fetched_at.to_le_bytes());
    out.extend_from_slice(&(id.len() as u32).to_le_bytes());
    out.extend_from_slice(id.as_bytes());
}

#[inline]
fn fields_at(bytes: &[u8]) -> usize {
    ID_AT + u32::from_le_bytes(header(bytes, ID_LENGTH_AT)) as usize
}

#[inline]
fn header<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    // Every row has a whole header: `encode` writes it and `check` refuses less.
    let mut found = [0; N];
    found.copy_from_slice(&bytes[at..at + N]);
    found
}

impl std::fmt::Debug for StoredRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredRow")
            .field("id", &self.id())
            .field("seq", &self.seq().0)
            .field("status", &self.status())
            .field("fetched_at", &self.fetched_at())
            .field("fields", &self.to_record())
            .finish()
    }
}

fn check(bytes: &[u8]) -> Result<()> {
    let corrupt = |what: String| Err(Error::new(ErrorKind::Corrupt, what));
    match bytes.first() {
        Some(&ROW_FORMAT_VERSION) => {}
        Some(version) if *version > ROW_FORMAT_VERSION => {
            return corrupt(format!(
                "a newer version of the library wrote this row (format {version}, known is {ROW_FORMAT_VERSION}); \
                 update the library or let the table load again"
            ));
        }
        _ => return corrupt("these bytes are no stored row; let the table load again".to_owned()),
    }
    let Some(header) = bytes.first_chunk::<ID_AT>() else {
        return corrupt("the stored row is cut in its header; let the table load again".to_owned());
    };
    let [.., a, b, c, d] = *header;
    let id = cbor::take(&bytes[ID_AT..], u64::from(u32::from_le_bytes([a, b, c, d])));
    let Some((id, _)) = id else {
        return corrupt("the stored row is cut in its id; let the table load again".to_owned());
    };
    match std::str::from_utf8(id) {
        Ok(_) => Ok(()),
        Err(error) => {
            let error = Error::new(ErrorKind::Corrupt, "the id of the stored row isn't UTF-8").with_source(error);
            Err(error.with("id", String::from_utf8_lossy(id)))
        }
    }
}

/// A column's name: text of definite length. What follows it is the value.
#[inline]
fn read_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (head, rest) = cbor::read_head(bytes)?;
    if head.major != cbor::TEXT {
        return None;
    }
    let (name, rest) = cbor::take(rest, head.length()?)?;
    Some((std::str::from_utf8(name).ok()?, rest))
}

/// The fields of a stored row, read lazily in place. Damaged bytes read as absent.
#[derive(Debug, Clone, Copy)]
pub struct RowRef<'a> {
    bytes: &'a [u8],
}

impl<'a> RowRef<'a> {
    /// The row whose fields are the CBOR map at the start of `bytes`. Nothing is checked until it is read.
    pub fn new(bytes: &'a [u8]) -> Self {
        RowRef { bytes }
    }

    /// The value at a dotted path; `None` when absent or damaged. A column of that very name wins.
    #[inline]
    pub fn get(&self, path: &str) -> Option<ValueRef<'a>> {
        path::find(MapRef::read(self.bytes)?, path)
    }

    /// As [`get`](Self::get), with a path taken apart before.
    #[inline]
    pub fn get_path(&self, path: &Path) -> Option<ValueRef<'a>> {
        path.find(MapRef::read(self.bytes)?)
    }

    /// The value of the column of exactly this name.
    #[inline]
    pub fn column(&self, name: &str) -> Option<ValueRef<'a>> {
        MapRef::read(self.bytes)?.get(name)
    }

    /// The columns and their values in stored order; ends early at damaged bytes.
    pub fn iter(&self) -> RowIter<'a> {
        RowIter(MapRef::read(self.bytes).map(MapRef::iter))
    }

    /// Whether a value of [`iter`](Self::iter) passes: `ascii` is asked of short ASCII text and `integer` of integers, which
    /// they get before anything is made of them, `other` of every other value.
    #[inline]
    pub(crate) fn any_value(
        &self,
        ascii: impl Fn(&[u8]) -> bool,
        integer: impl Fn(i64) -> bool,
        other: impl Fn(ValueRef<'a>) -> bool,
    ) -> bool {
        self.find_value(ascii, integer, other).unwrap_or(false)
    }

    /// `None`: the bytes are damaged before a value passed.
    #[inline]
    fn find_value(
        &self,
        ascii: impl Fn(&[u8]) -> bool,
        integer: impl Fn(i64) -> bool,
        other: impl Fn(ValueRef<'a>) -> bool,
    ) -> Option<bool> {
        let (head, mut rest) = cbor::read_head(self.bytes)?;
        if head.major != cbor::MAP {
            return Some(false);
        }
        let mut left = head.length();
        while cbor::next_is_item(&mut rest, &mut left)? {
            let (is_named, value) = match cbor::short_text(rest) {
                Some((name, value)) if name.is_ascii() => (true, value),
                _ => (matches!(ValueRef::read(rest)?, ValueRef::Text(_)), cbor::skip(rest)?),
            };
            if let Some((text, after)) = cbor::short_text(value)
                && text.is_ascii()
            {
                if is_named && ascii(text) {
                    return Some(true);
                }
                rest = after;
            } else if let Some((number, after)) = cbor::integer_of_64_bits(value) {
                if is_named && integer(number) {
                    return Some(true);
                }
                rest = after;
            } else {
                let read = ValueRef::read(value)?;
                rest = cbor::skip(value)?;
                if is_named && other(read) {
                    return Some(true);
                }
            }
        }
        Some(false)
    }

    fn is_within(self, other: RowRef<'_>) -> bool {
        self.iter().all(|(name, value)| other.column(name).is_some_and(|other| same_value(value, other)))
    }

    /// The number of fields, if all of them can be read.
    fn count_fields(self) -> Option<u64> {
        let (head, mut rest) = cbor::read_head(self.bytes)?;
        if head.major != cbor::MAP {
            return None;
        }
        let mut left = head.length();
        let mut count = 0;
        while cbor::next_is_item(&mut rest, &mut left)? {
            let (_, after) = read_name(rest)?;
            ValueRef::read(after)?;
            rest = cbor::skip(after)?;
            count += 1;
        }
        Some(count)
    }
}

impl<'a> IntoIterator for RowRef<'a> {
    type Item = (&'a str, ValueRef<'a>);
    type IntoIter = RowIter<'a>;

    fn into_iter(self) -> RowIter<'a> {
        self.iter()
    }
}

/// The columns of a [`RowRef`] and their values. Entries whose name isn't plain text are passed over.
#[derive(Debug, Clone)]
pub struct RowIter<'a>(Option<MapIter<'a>>);

impl<'a> Iterator for RowIter<'a> {
    type Item = (&'a str, ValueRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.as_mut()?.find_map(|(name, value)| match name {
            ValueRef::Text(name) => Some((name, value)),
            _ => None,
        })
    }
}
