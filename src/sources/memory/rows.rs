//! Memory rows: the rows of a table in the order of their arrival, with writes that can be taken back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::value::Record;
use crate::vista::{WriteOp, Written};
use crate::{Error, ErrorKind, Result};

/// The rows, found by id, listed in the order in which they first came. A row that was deleted and comes again is last.
#[derive(Debug, Default)]
pub(super) struct Rows {
    in_order: BTreeMap<u64, (Arc<str>, Arc<Record>)>,
    place_of: HashMap<Arc<str>, u64>,
    next_place: u64,
}

/// What takes one write back.
#[derive(Debug)]
pub(super) enum Undo {
    /// The row as it was, with its place; `None`: there was none.
    Row(Arc<str>, Option<(u64, Arc<Record>)>),
    /// All rows as they were.
    All(Rows),
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.in_order.len()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Arc<Record>> {
        self.place_of.get(id).and_then(|place| self.in_order.get(place)).map(|(_, record)| record)
    }

    /// All rows in their order. Cheap for each: the records are shared.
    pub(super) fn list(&self) -> Vec<(Arc<str>, Arc<Record>)> {
        self.in_order.values().cloned().collect()
    }

    /// The same with their places: numbers that rise with the order, and that are given once.
    pub(super) fn list_placed(&self) -> Vec<(u64, Arc<str>, Arc<Record>)> {
        self.in_order.iter().map(|(place, (id, record))| (*place, id.clone(), record.clone())).collect()
    }

    pub(super) fn put(&mut self, id: &str, record: Record) -> Undo {
        let record = Arc::new(record);
        if let Some(place) = self.place_of.get(id)
            && let Some((id, stored)) = self.in_order.get_mut(place)
        {
            return Undo::Row(id.clone(), Some((*place, std::mem::replace(stored, record))));
        }
        let id: Arc<str> = id.into();
        self.place_of.insert(id.clone(), self.next_place);
        self.in_order.insert(self.next_place, (id.clone(), record));
        self.next_place += 1;
        Undo::Row(id, None)
    }

    pub(super) fn remove(&mut self, id: &str) -> Undo {
        let before = self.place_of.remove(id).and_then(|place| Some((place, self.in_order.remove(&place)?.1)));
        Undo::Row(id.into(), before)
    }

    pub(super) fn clear(&mut self) -> Undo {
        let empty = Rows { next_place: self.next_place, ..Rows::default() };
        Undo::All(std::mem::replace(self, empty))
    }

    /// Does one write; an insert's id has been chosen already.
    pub(super) fn apply(&mut self, op: &WriteOp) -> Result<(Written, Undo)> {
        let refused = |kind: ErrorKind, message: &str, id: &str| Err(Error::new(kind, message).with("id", id));
        let missing = |id: &str| refused(ErrorKind::NotFound, "there is no row of this id", id);
        if op.id().is_some_and(str::is_empty) {
            return refused(ErrorKind::Invalid, "an id must not be empty", "");
        }
        match op {
            WriteOp::Insert { id: None, .. } => refused(ErrorKind::Invalid, "the source chose no id for the row", ""),
            WriteOp::Insert { id: Some(id), .. } if self.get(id).is_some() => {
                refused(ErrorKind::Conflict, "there is a row of this id already", id)
            }
            WriteOp::Replace { id, .. } if self.get(id).is_none() => missing(id),
            WriteOp::Insert { id: Some(id), record }
            | WriteOp::Replace { id, record }
            | WriteOp::Upsert { id, record } => Ok((Written::id(id.as_str()), self.put(id, record.clone()))),
            WriteOp::Patch { id, record } => match self.get(id) {
                None => missing(id),
                Some(stored) => {
                    let mut patched = (**stored).clone();
                    patched.merge(record);
                    Ok((Written::row(id.as_str(), patched.clone()), self.put(id, patched)))
                }
            },
            WriteOp::Delete { id } => Ok((Written::id(id.as_str()), self.remove(id))),
            WriteOp::DeleteAll => Ok((Written::default(), self.clear())),
        }
    }

    /// Does several writes, all or none.
    pub(super) fn apply_all(&mut self, ops: &[WriteOp]) -> Result<Vec<Written>> {
        let mut answers = Vec::with_capacity(ops.len());
        let mut undos = Vec::with_capacity(ops.len());
        for op in ops {
            match self.apply(op) {
                Ok((written, undo)) => {
                    answers.push(written);
                    undos.push(undo);
                }
                Err(error) => {
                    undos.into_iter().rev().for_each(|undo| self.take_back(undo));
                    return Err(error);
                }
            }
        }
        Ok(answers)
    }

    fn take_back(&mut self, undo: Undo) {
        match undo {
            Undo::Row(id, None) => {
                self.remove(&id);
            }
            Undo::Row(id, Some((place, record))) => {
                self.place_of.insert(id.clone(), place);
                self.in_order.insert(place, (id, record));
            }
            Undo::All(rows) => *self = rows,
        }
    }
}
