//! Record: what an entry of the journal says of a write, and its bytes.
//!
//! ```text
//! version 1 | CBOR [table, write, kind] | CBOR [what the kind has]
//! ```
//!
//! Invariants: any bytes are read without a panic (`any_bytes_are_a_record_or_an_error`); what was written is read back
//! (`a_record_comes_back`); a later version is `Unsupported` before anything else of it is read.

use ciborium::de::Error as ReadError;
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use crate::value::{Record, StoredRow, Value};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, Seq};

/// The version that this library writes.
const VERSION: u8 = 1;

/// A write that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Accepted {
    /// The key under which it is delivered, the same at every attempt.
    pub(crate) key: String,
    pub(crate) op: WriteOp,
    pub(crate) before: Option<Before>,
    /// The wall time of acceptance in milliseconds since the Unix epoch.
    pub(crate) accepted_at: i64,
}

/// The row that was shown before a write. Its fields are copied as they are, and read when somebody asks for them.
#[derive(Debug, Clone)]
pub(crate) struct Before(pub(crate) StoredRow);

impl PartialEq for Before {
    fn eq(&self, other: &Self) -> bool {
        self.0.field_bytes() == other.0.field_bytes()
    }
}

/// What the source made of a write, so that the cache can be brought to it without asking again.
#[derive(Debug, Clone)]
pub(crate) struct Confirmed {
    /// The id under which the row is stored.
    pub(crate) id: Option<String>,
    /// The row as it is now; `None`: not known, or there is none.
    pub(crate) row: Option<StoredRow>,
    /// The row, or with `delete_all` every row, is gone.
    pub(crate) deleted: bool,
    /// The batch of the Dio in which the effect entered the cache.
    pub(crate) seq: Seq,
}

impl PartialEq for Confirmed {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |confirmed: &Self| confirmed.row.as_ref().map(|row| row.as_bytes().to_vec());
        (&self.id, self.deleted, self.seq) == (&other.id, other.deleted, other.seq) && bytes(self) == bytes(other)
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Done; it is over once the cache holds it durably.
    Confirmed(Confirmed),
    /// Refused for good. It is kept until the user has seen to it.
    Failed {
        /// What the user can do.
        kind: ErrorKind,
        /// Why.
        message: String,
    },
    /// Nobody knows whether the source did it. It is kept as one that failed.
    Unknown {
        /// Why.
        message: String,
    },
    /// It was taken back, and with it what it had taken in.
    Cancelled,
    /// It was taken back, and gave these back that it had taken in: they are to be delivered as they were accepted.
    CancelledAlone {
        /// Their numbers.
        gave_back: Vec<u64>,
    },
    /// Another write stands for it.
    Superseded {
        /// That write's number.
        by: u64,
    },
    /// The user has seen to one that failed or is unknown.
    Cleared,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    Accepted(Accepted),
    /// From here on the source may have done it.
    Attempted,
    /// What will be delivered from here on, in the place of what was accepted: it has taken in other writes, or is tried anew.
    Rewritten {
        op: WriteOp,
        merged: Vec<u64>,
    },
    Outcome(Outcome),
}

/// An entry's content.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) table: String,
    /// The number of the write within its table.
    pub(crate) write: u64,
    pub(crate) fact: Fact,
}

/// A write op as it is written: its verb's code, id and fields.
type OpRef<'a> = (u8, Option<&'a str>, Option<&'a Record>);
type OpParts = (u8, Option<String>, Option<Record>);

struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// CBOR's null.
const NULL: u8 = 0xf6;

const ACCEPTED: u8 = 1;
const ATTEMPTED: u8 = 2;
const REWRITTEN: u8 = 3;
const CONFIRMED: u8 = 4;
const FAILED: u8 = 5;
const UNKNOWN: u8 = 6;
const CANCELLED: u8 = 7;
const SUPERSEDED: u8 = 8;
const CLEARED: u8 = 9;
const CANCELLED_ALONE: u8 = 10;

fn op_ref(op: &WriteOp) -> OpRef<'_> {
    let verb = match op {
        WriteOp::Insert { .. } => 1,
        WriteOp::Replace { .. } => 2,
        WriteOp::Upsert { .. } => 3,
        WriteOp::Patch { .. } => 4,
        WriteOp::Delete { .. } => 5,
        WriteOp::DeleteAll => 6,
    };
    (verb, op.id(), op.record())
}

fn op_of(parts: OpParts) -> Result<WriteOp> {
    Ok(match parts {
        (1, id, Some(record)) => WriteOp::Insert { id, record },
        (2, Some(id), Some(record)) => WriteOp::Replace { id, record },
        (3, Some(id), Some(record)) => WriteOp::Upsert { id, record },
        (4, Some(id), Some(record)) => WriteOp::Patch { id, record },
        (5, Some(id), None) => WriteOp::Delete { id },
        (6, None, None) => WriteOp::DeleteAll,
        _ => return Err(damaged("an operation that can't be")),
    })
}

/// The codes of the kinds of failure; none is ever used again for another.
const KINDS: [(u8, ErrorKind); 16] = [
    (1, ErrorKind::NotFound),
    (2, ErrorKind::Conflict),
    (3, ErrorKind::Unsupported),
    (4, ErrorKind::Invalid),
    (5, ErrorKind::Unavailable),
    (6, ErrorKind::Rejected),
    (7, ErrorKind::Full),
    (8, ErrorKind::Timeout),
    (9, ErrorKind::Closed),
    (10, ErrorKind::Expired),
    (11, ErrorKind::WouldDeadlock),
    (12, ErrorKind::Corrupt),
    (13, ErrorKind::Source),
    (14, ErrorKind::Cache),
    (15, ErrorKind::Panicked),
    (16, ErrorKind::Cancelled),
];

/// A kind without a code is as good as one of the source's.
const ANY_KIND: (u8, ErrorKind) = KINDS[12];

fn code_of(kind: ErrorKind) -> u8 {
    KINDS.iter().find(|(_, other)| *other == kind).unwrap_or(&ANY_KIND).0
}

fn kind_of(code: u8) -> ErrorKind {
    KINDS.iter().find(|(other, _)| *other == code).unwrap_or(&ANY_KIND).1
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("an entry of the journal can't be read: it holds {what}"))
}

/// Writes CBOR; into memory that can't fail, and a record's values always can be written.
fn put(out: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    ciborium::into_writer(value, out)
        .map_err(|cause| Error::new(ErrorKind::Invalid, "a write can't be journaled").with_source(cause))
}

fn take<T: DeserializeOwned>(bytes: &mut &[u8]) -> Result<T> {
    ciborium::from_reader(bytes).map_err(|cause: ReadError<std::io::Error>| damaged("other data").with_source(cause))
}

struct Head<'a> {
    table: &'a str,
    write: u64,
}

impl Head<'_> {
    fn start(&self, kind: u8) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(256);
        out.push(VERSION);
        put(&mut out, &(self.table, self.write, kind))?;
        Ok(out)
    }

    fn with(&self, kind: u8, body: &impl Serialize) -> Result<Vec<u8>> {
        let mut out = self.start(kind)?;
        put(&mut out, body)?;
        Ok(out)
    }
}

/// A write that is to be accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceptance<'a> {
    /// The write's number within its table.
    pub(crate) write: u64,
    /// The key under which it is delivered, the same at every attempt.
    pub(crate) key: &'a str,
    pub(crate) op: &'a WriteOp,
    /// The row that was shown before it.
    pub(crate) before: Option<&'a StoredRow>,
    /// The wall time in milliseconds since the Unix epoch.
    pub(crate) at: i64,
}

/// The bytes that say a write was accepted.
///
/// # Errors
/// `Invalid` when a value can't be written.
pub(super) fn accepted(table: &str, accepted: Acceptance<'_>) -> Result<Vec<u8>> {
    let Acceptance { write, key, op, before, at } = accepted;
    let mut out = Head { table, write }.start(ACCEPTED)?;
    // An array of four.
    out.push(0x84);
    put(&mut out, &key)?;
    put(&mut out, &op_ref(op))?;
    match before {
        Some(row) => out.extend_from_slice(row.field_bytes()),
        None => out.push(NULL),
    }
    put(&mut out, &at)?;
    Ok(out)
}

/// The bytes that say a write is being tried.
pub(super) fn attempted(table: &str, write: u64) -> Result<Vec<u8>> {
    Head { table, write }.with(ATTEMPTED, &())
}

/// The bytes that say what a write has become.
pub(super) fn rewritten(table: &str, write: u64, op: &WriteOp, merged: &[u64]) -> Result<Vec<u8>> {
    Head { table, write }.with(REWRITTEN, &(op_ref(op), merged))
}

/// The bytes that say how a write ended.
pub(super) fn outcome(table: &str, write: u64, outcome: &Outcome) -> Result<Vec<u8>> {
    let head = Head { table, write };
    match outcome {
        Outcome::Confirmed(Confirmed { id, row, deleted, seq }) => {
            head.with(CONFIRMED, &(id, row.as_ref().map(|row| Bytes(row.as_bytes())), deleted, seq.0))
        }
        Outcome::Failed { kind, message } => head.with(FAILED, &(code_of(*kind), message)),
        Outcome::Unknown { message } => head.with(UNKNOWN, &(message,)),
        Outcome::Cancelled => head.with(CANCELLED, &()),
        Outcome::CancelledAlone { gave_back } => head.with(CANCELLED_ALONE, &(gave_back,)),
        Outcome::Superseded { by } => head.with(SUPERSEDED, &(by,)),
        Outcome::Cleared => head.with(CLEARED, &()),
    }
}

/// About how many bytes the journal needs for a write, its before-image and its outcome.
pub(crate) fn bytes_for(op: &WriteOp) -> u64 {
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What can't be written is refused when it is to be.
    let _ = ciborium::into_writer(&op_ref(op), &mut count);
    256 + 2 * count.0
}

/// Whether this version knows the record's.
///
/// # Errors
/// `Unsupported` when a newer version wrote it.
pub(super) fn check_version(bytes: &[u8]) -> Result<()> {
    match bytes.first() {
        Some(version) if *version > VERSION => {
            let message = format!(
                "the journal holds records of version {version}, this version of the library knows version {VERSION}; use the \
                 one that wrote it, or a newer one: nothing was changed"
            );
            Err(Error::new(ErrorKind::Unsupported, message))
        }
        _ => Ok(()),
    }
}

fn head_of(bytes: &[u8]) -> Result<(&[u8], String, u64, u8)> {
    check_version(bytes)?;
    let mut rest = match bytes.split_first() {
        Some((&VERSION, rest)) => rest,
        _ => return Err(damaged("no record")),
    };
    let (table, write, kind) = take(&mut rest)?;
    Ok((rest, table, write, kind))
}

/// The table that a record is about.
///
/// # Errors
/// As [`read`].
pub(super) fn table_of(bytes: &[u8]) -> Result<String> {
    head_of(bytes).map(|(_, table, _, _)| table)
}

fn accepted_of(rest: &mut &[u8]) -> Result<Accepted> {
    match rest.split_first() {
        Some((0x84, items)) => *rest = items,
        _ => return Err(damaged("a write that was not accepted")),
    }
    let key: String = take(rest)?;
    let op = op_of(take(rest)?)?;
    let before = match rest.split_first() {
        Some((&NULL, after)) => {
            *rest = after;
            None
        }
        _ => {
            let id = op.id().unwrap_or(&key);
            let (row, after) = StoredRow::over_fields(id, rest, 0).ok_or_else(|| damaged("a row that is none"))?;
            *rest = after;
            Some(Before(row))
        }
    };
    Ok(Accepted { key, op, before, accepted_at: take(rest)? })
}

/// Reads a record.
///
/// # Errors
/// `Unsupported` when a newer version wrote it; `Corrupt` for anything else.
pub(super) fn read(bytes: &[u8]) -> Result<Said> {
    let (mut rest, table, write, kind) = head_of(bytes)?;
    let rest = &mut rest;
    let fact = match kind {
        ACCEPTED => Fact::Accepted(accepted_of(rest)?),
        REWRITTEN => {
            let (op, merged) = take(rest)?;
            Fact::Rewritten { op: op_of(op)?, merged }
        }
        CONFIRMED => {
            let (id, row, deleted, seq): (_, Value, _, _) = take(rest)?;
            let row = match row {
                Value::Null => None,
                Value::Bytes(row) => Some(StoredRow::from_bytes(&row)?),
                _ => return Err(damaged("a row that is none")),
            };
            Fact::Outcome(Outcome::Confirmed(Confirmed { id, row, deleted, seq: Seq(seq) }))
        }
        FAILED => {
            let (code, message) = take(rest)?;
            Fact::Outcome(Outcome::Failed { kind: kind_of(code), message })
        }
        UNKNOWN => {
            let (message,) = take(rest)?;
            Fact::Outcome(Outcome::Unknown { message })
        }
        SUPERSEDED => {
            let (by,) = take(rest)?;
            Fact::Outcome(Outcome::Superseded { by })
        }
        CANCELLED_ALONE => {
            let (gave_back,) = take(rest)?;
            Fact::Outcome(Outcome::CancelledAlone { gave_back })
        }
        ATTEMPTED | CANCELLED | CLEARED => {
            let () = take(rest)?;
            match kind {
                ATTEMPTED => Fact::Attempted,
                CANCELLED => Fact::Outcome(Outcome::Cancelled),
                _ => Fact::Outcome(Outcome::Cleared),
            }
        }
        _ => return Err(damaged("a kind of record that is not known")),
    };
    if !rest.is_empty() {
        return Err(damaged("more than it should"));
    }
    Ok(Said { table, write, fact })
}
