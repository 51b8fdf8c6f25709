//! Writes: the operations a source or a Dio is asked to do, and what comes back.

use std::sync::Arc;

use crate::value::{Record, Value};

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

    /// The same for the row of this id, which it mostly is already.
    pub(crate) fn named(self: Arc<Self>, id: &str) -> Arc<Self> {
        match self.id() {
            Some(named) if named != id => Arc::new((*self).clone().with_id(id)),
            _ => self,
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

    /// Whether the row has changed in what the write is about: `before` is the row as the writer knew it, `current` the row
    /// as it is (`None`: gone). A patch is about the fields that it sets; that both mean the same is no conflict; an insert
    /// and `delete_all` know no row before them.
    ///
    /// ```
    /// use diorama::{record, vista::WriteOp};
    ///
    /// let cheaper = WriteOp::patch("b", record! { "price" => 9 });
    /// let before = record! { "name" => "Bell", "price" => 10 };
    /// assert!(!cheaper.is_in_conflict(&before, Some(&record! { "name" => "Gong", "price" => 10 })));
    /// assert!(cheaper.is_in_conflict(&before, Some(&record! { "name" => "Bell", "price" => 12 })));
    /// ```
    pub fn is_in_conflict(&self, before: &Record, current: Option<&Record>) -> bool {
        match (self, current) {
            (WriteOp::Insert { .. } | WriteOp::DeleteAll, _) | (WriteOp::Delete { .. }, None) => false,
            (_, None) => true,
            (WriteOp::Patch { record, .. }, Some(current)) => record.iter().any(|(field, mine)| {
                let theirs = current.get(field);
                theirs != before.get(field) && theirs != Some(mine)
            }),
            (WriteOp::Delete { id }, Some(current)) => !is_same_row(id, before, current),
            (WriteOp::Replace { id, record } | WriteOp::Upsert { id, record }, Some(current)) => {
                !is_same_row(id, before, current) && !is_same_row(id, record, current)
            }
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

/// Whether two records of one row have the same fields. One of them may carry the row's id, too.
fn is_same_row(id: &str, a: &Record, b: &Record) -> bool {
    let is_in = |a: &Record, b: &Record| {
        a.iter().all(|(field, value)| match b.get(field) {
            Some(other) => other == value,
            None => matches!(value, Value::Text(text) if text == id),
        })
    };
    is_in(a, b) && is_in(b, a)
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
