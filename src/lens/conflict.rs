//! Conflict: what becomes of a write when somebody else has changed its row meanwhile.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::value::{Record, Value};
use crate::vista::{CallCx, WriteOp};

/// What wins when a row was changed at the source after the user of a write last saw it.
///
/// All but [`MineWins`](Self::MineWins) have the row read from the source before each write, unless the source
/// [compares](crate::vista::Capabilities::compares) by itself. A patch is in conflict only over the fields it sets; what others
/// changed beside them stays in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ConflictPolicy {
    /// The write is done all the same: the last one wins. The default.
    #[default]
    MineWins,
    /// The write is rejected with `Conflict`, and the row becomes the source's.
    SourceWins,
    /// Field by field: what only one side changed is taken from it; what both changed stays the source's. A delete of a row
    /// that was changed is rejected.
    MergeFields,
}

/// A write whose row was changed at the source meanwhile, as [`on_conflict`](crate::LensBuilder::on_conflict) gets it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Conflict<'a> {
    /// The write.
    pub op: &'a WriteOp,
    /// The row as it was known here when the write was made; `None`: it was not.
    pub before: Option<&'a Record>,
    /// The row as the source has it now; `None`: it is gone.
    pub current: Option<&'a Record>,
}

/// What is to become of a write in conflict.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Resolution {
    /// It is done all the same.
    Mine,
    /// It is rejected, and the row becomes the source's.
    Theirs,
    /// This is done in its place; it must be of the same row.
    Write(WriteOp),
}

/// A write on its way to the source, as [`on_write`](crate::LensBuilder::on_write) gets it. It stands for its [`WriteOp`].
#[derive(Debug)]
pub struct WriteRequest<'a> {
    pub(crate) op: &'a WriteOp,
    pub(crate) cx: CallCx,
}

impl WriteRequest<'_> {
    /// The write.
    pub fn op(&self) -> &WriteOp {
        self.op
    }

    /// Under which the source can tell this write from others, the same at every attempt.
    pub fn key(&self) -> &str {
        self.cx.idempotency_key().unwrap_or_default()
    }

    /// Which attempt it is, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.cx.attempt()
    }

    /// The row as it was last confirmed before this write; `None`: it is not known here.
    pub fn before(&self) -> Option<&Record> {
        self.cx.before()
    }

    /// The context for the calls to the source: key, attempt, row before, deadline, cancellation.
    pub fn cx(&self) -> &CallCx {
        &self.cx
    }
}

impl Deref for WriteRequest<'_> {
    type Target = WriteOp;

    fn deref(&self) -> &WriteOp {
        self.op
    }
}

impl fmt::Display for WriteRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (attempt {})", self.op.verb(), self.op.id().unwrap_or("-"), self.attempt())
    }
}

/// What is left of a write in a merge: what it changes and nobody else has.
#[derive(Debug, PartialEq)]
pub(crate) struct Merge {
    pub(crate) set: Record,
    pub(crate) removed: Vec<Arc<str>>,
}

impl Merge {
    /// `None`: the write is of a kind that can't be merged.
    pub(crate) fn of(op: &WriteOp, before: &Record, current: &Record) -> Option<Self> {
        let (record, id, is_whole) = match op {
            WriteOp::Patch { id, record } => (record, id, false),
            WriteOp::Replace { id, record } | WriteOp::Upsert { id, record } => (record, id, true),
            WriteOp::Insert { .. } | WriteOp::Delete { .. } | WriteOp::DeleteAll => return None,
        };
        let mut set = Record::new();
        for (field, mine) in record.iter() {
            let (was, theirs) = (before.get(field), current.get(field));
            if was != Some(mine) && was == theirs {
                set.insert(field, mine.clone());
            }
        }
        // A row may carry its own id, also where the write doesn't.
        let is_id = |value: &Value| matches!(value, Value::Text(text) if text == id);
        let is_removed =
            |field: &str, was: &Value| !record.contains(field) && current.get(field) == Some(was) && !is_id(was);
        let removed = before.iter().filter(|(field, was)| is_whole && is_removed(field, was));
        let removed = removed.map(|(field, _)| Arc::from(field)).collect();
        Some(Merge { set, removed })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    /// The row with it.
    pub(crate) fn over(&self, current: &Record) -> Record {
        let mut row = current.clone();
        row.merge(&self.set);
        for field in &self.removed {
            row.remove(field);
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    #[test]
    fn a_patch_is_in_conflict_over_the_fields_it_sets_only() {
        let before = record! { "name" => "Bell", "price" => 10 };
        let patch = WriteOp::patch("b", record! { "price" => 11 });
        let is = |current: &Record| patch.is_in_conflict(&before, Some(current));
        assert!(!is(&record! { "name" => "Gong", "price" => 10 }));
        assert!(is(&record! { "name" => "Bell", "price" => 12 }));
        assert!(!is(&record! { "name" => "Bell", "price" => 11 }), "the same was meant");
        assert!(patch.is_in_conflict(&before, None));
        assert!(!WriteOp::delete("b").is_in_conflict(&before, None));
        assert!(WriteOp::delete("b").is_in_conflict(&before, Some(&record! { "name" => "Bell", "price" => 12 })));
    }

    #[test]
    fn a_merge_takes_what_only_one_side_changed_and_leaves_the_source_what_both_did() {
        let before = record! { "name" => "Bell", "price" => 10, "stock" => 1 };
        let mine = record! { "name" => "Gong", "price" => 11, "stock" => 1 };
        let theirs = record! { "name" => "Bell", "price" => 12, "stock" => 5 };
        let left = Merge::of(&WriteOp::replace("b", mine), &before, &theirs).unwrap();
        assert_eq!((&left.set, left.removed.len()), (&record! { "name" => "Gong" }, 0));
        assert_eq!(left.over(&theirs), record! { "name" => "Gong", "price" => 12, "stock" => 5 });
    }

    #[test]
    fn a_merge_removes_what_only_the_write_has_removed() {
        let before = record! { "id" => "b", "name" => "Bell", "price" => 10, "stock" => 1 };
        let theirs = record! { "id" => "b", "name" => "Bell", "price" => 12, "stock" => 1 };
        let left = Merge::of(&WriteOp::replace("b", record! { "name" => "Bell" }), &before, &theirs).unwrap();
        assert_eq!(left.over(&theirs), record! { "id" => "b", "name" => "Bell", "price" => 12 });
        assert!(Merge::of(&WriteOp::patch("b", record! { "name" => "Bell" }), &before, &theirs).unwrap().is_empty());
    }
}
