//! Writes: the operations a source or a Dio is asked to do, and what comes back.

use crate::value::Record;

/// One write.
///
/// ```
/// use diorama::{record, vista::WriteOp};
///
/// let op = WriteOp::patch("00M", record! { "name" => "Thigpen Field" });
/// assert_eq!(op.id(), Some("00M"));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WriteOp {
    /// A new row. Without an id the source chooses one.
    Insert {
        /// The id the caller wants, if any.
        id: Option<String>,
        /// The whole row.
        record: Record,
    },
    /// A whole row in the place of one that exists.
    Replace {
        /// The row's id.
        id: String,
        /// The whole row.
        record: Record,
    },
    /// A whole row, whether it exists or not.
    Upsert {
        /// The row's id.
        id: String,
        /// The whole row.
        record: Record,
    },
    /// Some fields of a row that exists; the others stay.
    Patch {
        /// The row's id.
        id: String,
        /// The fields to set.
        record: Record,
    },
    /// Deletes a row; a missing one is fine.
    Delete {
        /// The row's id.
        id: String,
    },
    /// Deletes every row.
    DeleteAll,
}

impl WriteOp {
    /// A new row whose id the source chooses.
    pub fn insert(record: Record) -> Self {
        WriteOp::Insert { id: None, record }
    }

    /// A new row under this id.
    pub fn insert_as(id: impl Into<String>, record: Record) -> Self {
        WriteOp::Insert { id: Some(id.into()), record }
    }

    /// A whole row in the place of one that exists.
    pub fn replace(id: impl Into<String>, record: Record) -> Self {
        WriteOp::Replace { id: id.into(), record }
    }

    /// A whole row, whether it exists or not.
    pub fn upsert(id: impl Into<String>, record: Record) -> Self {
        WriteOp::Upsert { id: id.into(), record }
    }

    /// Some fields of a row that exists.
    pub fn patch(id: impl Into<String>, record: Record) -> Self {
        WriteOp::Patch { id: id.into(), record }
    }

    /// Deletes a row.
    pub fn delete(id: impl Into<String>) -> Self {
        WriteOp::Delete { id: id.into() }
    }

    /// Deletes every row.
    pub fn delete_all() -> Self {
        WriteOp::DeleteAll
    }

    /// The id it names, if any.
    pub fn id(&self) -> Option<&str> {
        match self {
            WriteOp::Insert { id, .. } => id.as_deref(),
            WriteOp::Replace { id, .. }
            | WriteOp::Upsert { id, .. }
            | WriteOp::Patch { id, .. }
            | WriteOp::Delete { id } => Some(id),
            WriteOp::DeleteAll => None,
        }
    }

    /// The same for the row of another id.
    pub(crate) fn with_id(mut self, new: &str) -> Self {
        match &mut self {
            WriteOp::Insert { id: Some(id), .. }
            | WriteOp::Replace { id, .. }
            | WriteOp::Upsert { id, .. }
            | WriteOp::Patch { id, .. }
            | WriteOp::Delete { id } => new.clone_into(id),
            WriteOp::Insert { id: None, .. } | WriteOp::DeleteAll => {}
        }
        self
    }

    /// The fields it carries, if any.
    pub fn record(&self) -> Option<&Record> {
        match self {
            WriteOp::Insert { record, .. }
            | WriteOp::Replace { record, .. }
            | WriteOp::Upsert { record, .. }
            | WriteOp::Patch { record, .. } => Some(record),
            WriteOp::Delete { .. } | WriteOp::DeleteAll => None,
        }
    }

    /// Its name: `insert`, `replace`, `upsert`, `patch`, `delete` or `delete_all`.
    pub fn verb(&self) -> &'static str {
        match self {
            WriteOp::Insert { .. } => "insert",
            WriteOp::Replace { .. } => "replace",
            WriteOp::Upsert { .. } => "upsert",
            WriteOp::Patch { .. } => "patch",
            WriteOp::Delete { .. } => "delete",
            WriteOp::DeleteAll => "delete_all",
        }
    }
}

/// What a source did with a write.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Written {
    /// The id under which the row is stored: the source may have chosen another than was proposed. `None` only for
    /// `delete_all`.
    pub id: Option<String>,
    /// The row as the source stored it, where it says; `None`: as it was sent.
    pub record: Option<Record>,
}

impl Written {
    /// Done as sent, under this id.
    pub fn id(id: impl Into<String>) -> Self {
        Written { id: Some(id.into()), record: None }
    }

    /// Done; the source stored this row.
    pub fn row(id: impl Into<String>, record: Record) -> Self {
        Written { id: Some(id.into()), record: Some(record) }
    }
}
