//! Fields: what a user has changed of a row, over the row as it is; the part of a draft that knows no thread and no Dio.
//!
//! Invariants (`fields/tests.rs`):
//! 1. A field's value is lost only by a call that says so: `reset`, `resolve` for theirs, or a save that was confirmed.
//! 2. A value that the row shows and the source has not confirmed is no reason to let go of the user's.
//! 3. A field that is being saved stays touched, whatever it is set to: the save may yet fail, or have written another value.
//! 4. Null and absent are the same.

use std::sync::Arc;

use indexmap::IndexMap;

use crate::value::{Record, Value, ValueRef, same_value};
use crate::{Error, ErrorKind};

/// How a field of a draft stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldState {
    /// It follows the row.
    Untouched,
    /// The user has set it; it keeps his value.
    Changed,
    /// The user has set it, and since then the row's own value has become another, which isn't the user's either, nor what
    /// this draft is saving.
    Conflict,
}

/// One field of a draft, with everything known about it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DraftField {
    /// What the form shows: the user's value, else the row's.
    pub value: Option<Value>,
    /// The row's value when the user began to change it; of an untouched field what `value` is.
    pub base: Option<Value>,
    /// The row's value now, with writes that are not confirmed yet, this draft's save included; `None` also when there is no
    /// row.
    pub live: Option<Value>,
    /// How the field stands.
    pub state: FieldState,
    /// What the source said of it when it refused the last save.
    pub error: Option<String>,
}

/// Which value a field in conflict takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    /// The user's: the next save writes it over what the row has.
    Mine,
    /// The row's: the user's value is dropped, and the field follows the row again.
    Theirs,
}

/// The row under a draft.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// What untouched fields show: the row, or how it was before it went.
    pub(super) shown: Option<&'a Record>,
    /// Whether there is such a row now.
    pub(super) is_there: bool,
    /// Whether writes are in it that the source has not confirmed.
    pub(super) is_pending: bool,
}

impl<'a> Row<'a> {
    fn shown(self, name: &str) -> Option<&'a Value> {
        self.shown.and_then(|record| record.get(name))
    }

    fn live(self, name: &str) -> Option<&'a Value> {
        self.shown(name).filter(|_| self.is_there)
    }
}

struct Touch {
    value: Value,
    /// What the row had when the user began.
    base: Option<Value>,
}

/// What a save under way writes.
struct Sent {
    changes: Record,
    /// What the row had in these fields when the user began to change them.
    bases: Vec<(Arc<str>, Option<Value>)>,
}

/// The touched fields, those that are being saved, and what was wrong with them.
#[derive(Default)]
pub(super) struct Fields {
    touched: IndexMap<Arc<str>, Touch>,
    sent: Option<Sent>,
    error: Option<Error>,
    errors: Vec<(String, String)>,
}

fn is_same(a: Option<&Value>, b: Option<&Value>) -> bool {
    same_value(a.map_or(ValueRef::Null, ValueRef::from), b.map_or(ValueRef::Null, ValueRef::from))
}

impl Touch {
    /// Whether the row shows another value than the user's.
    fn differs(&self, name: &str, row: Row<'_>) -> bool {
        !row.is_there || !is_same(row.live(name), Some(&self.value))
    }

    /// Whether the source is not known to have the user's value.
    fn is_unsaved(&self, name: &str, row: Row<'_>) -> bool {
        row.is_pending || self.differs(name, row)
    }
}

/// Several messages for one field become one.
fn add_error(errors: &mut Vec<(String, String)>, field: &str, message: &str) {
    match errors.iter_mut().find(|(known, _)| known == field) {
        Some((_, known)) => {
            known.push_str("; ");
            known.push_str(message);
        }
        None => errors.push((field.to_owned(), message.to_owned())),
    }
}

impl Fields {
    // ---- reading -----------------------------------------------------------------------------------------------

    /// What the field shows.
    pub(super) fn value<'a>(&'a self, name: &str, row: Row<'a>) -> Option<&'a Value> {
        self.touched.get(name).map(|touch| &touch.value).or_else(|| row.shown(name))
    }

    /// The row with the user's values over it.
    pub(super) fn folded(&self, row: Row<'_>) -> Record {
        let mut record = row.shown.cloned().unwrap_or_default();
        record.extend(self.touched.iter().map(|(name, touch)| (name.clone(), &touch.value)));
        record
    }

    pub(super) fn field(&self, name: &str, row: Row<'_>) -> DraftField {
        let live = row.live(name).cloned();
        let error = self.errors.iter().find(|(field, _)| field == name).map(|(_, message)| message.clone());
        match self.touched.get(name) {
            None => {
                let value = row.shown(name).cloned();
                DraftField { base: value.clone(), value, live, state: FieldState::Untouched, error }
            }
            Some(touch) => {
                let state = if self.conflicts(name, touch, row) { FieldState::Conflict } else { FieldState::Changed };
                DraftField { value: Some(touch.value.clone()), base: touch.base.clone(), live, state, error }
            }
        }
    }

    /// The touched fields, in the order they were first touched.
    pub(super) fn touched(&self) -> impl Iterator<Item = &str> {
        self.touched.keys().map(|name| &**name)
    }

    /// The fields in conflict.
    pub(super) fn in_conflict(&self, row: Row<'_>) -> impl Iterator<Item = &str> {
        let in_conflict = move |(name, touch): &(&Arc<str>, &Touch)| self.conflicts(name, touch, row);
        self.touched.iter().filter(in_conflict).map(|(name, _)| &**name)
    }

    fn conflicts(&self, name: &str, touch: &Touch, row: Row<'_>) -> bool {
        let live = row.live(name);
        let sent = self.sent.as_ref().and_then(|sent| sent.changes.get(name));
        let is_own = sent.is_some_and(|sent| is_same(live, Some(sent)));
        row.is_there && !is_same(live, touch.base.as_ref()) && !is_same(live, Some(&touch.value)) && !is_own
    }

    /// Whether a field has a value that the source is not known to have.
    pub(super) fn is_dirty(&self, row: Row<'_>) -> bool {
        self.touched.iter().any(|(name, touch)| self.is_sent(name) || touch.is_unsaved(name, row))
    }

    fn is_sent(&self, name: &str) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.changes.contains(name))
    }

    /// Whether a save is under way.
    pub(super) fn is_saving(&self) -> bool {
        self.sent.is_some()
    }

    /// What differs after a save has begun, was refused at once, or found nothing to do, if anything does.
    pub(super) fn extent(&self) -> (usize, usize, bool, bool) {
        (self.touched.len(), self.errors.len(), self.error.is_some(), self.is_saving())
    }

    pub(super) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    pub(super) fn errors(&self) -> &[(String, String)] {
        &self.errors
    }

    // ---- changing ----------------------------------------------------------------------------------------------
    // Each says whether anything changed.

    /// The user sets a field. What the row shows anyway is no change: the field follows the row again.
    pub(super) fn set(&mut self, name: &str, value: Value, row: Row<'_>) -> bool {
        let had_error = self.forget_error(name);
        let shown = row.shown(name);
        if is_same(shown, Some(&value)) && row.shown.is_some() && !self.is_sent(name) {
            return self.touched.shift_remove(name).is_some() || had_error;
        }
        match self.touched.get_mut(name) {
            Some(touch) if same_value(ValueRef::from(&touch.value), ValueRef::from(&value)) => had_error,
            Some(touch) => {
                touch.value = value;
                true
            }
            None => {
                // What the row shows of a field that is being saved is what was sent.
                let sent = self.sent.iter().flat_map(|sent| &sent.bases).find(|(sent, _)| **sent == *name);
                let base = sent.map_or_else(|| shown.cloned(), |(_, base)| base.clone());
                self.touched.insert(Arc::from(name), Touch { value, base });
                true
            }
        }
    }

    /// The field follows the row again.
    pub(super) fn reset(&mut self, name: &str) -> bool {
        let had_error = self.forget_error(name);
        self.touched.shift_remove(name).is_some() || had_error
    }

    /// All fields follow the row again, and no error is left.
    pub(super) fn reset_all(&mut self) -> bool {
        let had_errors = self.forget_errors();
        let had_any = !self.touched.is_empty();
        self.touched.clear();
        had_any || had_errors
    }

    /// Ends the conflict of a field, if it has one.
    pub(super) fn resolve(&mut self, name: &str, resolution: Keep, row: Row<'_>) -> bool {
        let is_sent = self.is_sent(name);
        if !self.touched.get(name).is_some_and(|touch| self.conflicts(name, touch, row)) {
            return false;
        }
        let live = row.live(name).cloned();
        match (resolution, self.touched.get_mut(name)) {
            (Keep::Mine, Some(touch)) => touch.base = live,
            // The save under way will write over it: what the user wants back must be saved after that.
            (Keep::Theirs, Some(touch)) if is_sent => touch.value = live.unwrap_or(Value::Null),
            _ => drop(self.reset(name)),
        }
        true
    }

    // ---- saving ------------------------------------------------------------------------------------------------

    /// The touched fields that the source is not known to have yet. No error is left; without any such field no touch either.
    pub(super) fn changes(&mut self, row: Row<'_>) -> Record {
        self.forget_errors();
        let is_new = |(name, touch): &(&Arc<str>, &Touch)| touch.is_unsaved(name, row);
        let changes: Record =
            self.touched.iter().filter(is_new).map(|(name, touch)| (name.clone(), &touch.value)).collect();
        if changes.is_empty() {
            self.touched.clear();
        }
        changes
    }

    /// A save of these fields begins.
    pub(super) fn begin(&mut self, changes: Record) {
        let sent = self.touched.iter().filter(|(name, _)| changes.contains(name));
        let bases = sent.map(|(name, touch)| (name.clone(), touch.base.clone())).collect();
        self.sent = Some(Sent { changes, bases });
    }

    /// The save was confirmed, and this is the row now: what the user did since survives, over what was saved.
    pub(super) fn confirmed(&mut self, row: Row<'_>) {
        let sent = self.sent.take().map(|sent| sent.changes).unwrap_or_default();
        self.forget_errors();
        self.touched.retain(|name, touch| match sent.get(name) {
            Some(saved) => {
                touch.base = Some(saved.clone());
                !is_same(Some(saved), Some(&touch.value))
            }
            None => touch.is_unsaved(name, row),
        });
    }

    /// The save failed: everything stays, with what was wrong.
    pub(super) fn failed(&mut self, error: Error, row: Row<'_>) {
        let sent = self.sent.take().map(|sent| sent.changes).unwrap_or_default();
        self.errors.clear();
        for (field, message) in error.fields() {
            add_error(&mut self.errors, field, message);
        }
        // A refusal by the schema names its column.
        if let (true, Some(column)) = (self.errors.is_empty(), error.context("column")) {
            add_error(&mut self.errors, column, error.message());
        }
        self.error = Some(error);
        // What the user took back while it was being saved could not be let go then.
        self.touched.retain(|name, touch| {
            let is_taken_back = sent.contains(name) && is_same(touch.base.as_ref(), Some(&touch.value));
            !is_taken_back || touch.differs(name, row)
        });
    }

    fn forget_error(&mut self, name: &str) -> bool {
        let before = self.errors.len();
        self.errors.retain(|(field, _)| field != name);
        self.errors.len() < before
    }

    fn forget_errors(&mut self) -> bool {
        let had_any = self.error.is_some() || !self.errors.is_empty();
        self.error = None;
        self.errors.clear();
        had_any
    }
}

/// The error of a save whose fields are in conflict.
pub(super) fn conflict<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Error> {
    let mut fields = fields.peekable();
    fields.peek()?;
    let error = Error::new(ErrorKind::Conflict, "the row has changed under the draft; resolve these fields, then save");
    Some(fields.fold(error, |error, field| error.with_field(field, "is another at the source now")))
}

#[cfg(test)]
mod tests;
