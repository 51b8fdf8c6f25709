//! Draft: the fields of a form, some changed by the user and not saved yet, over the row as it is.
//!
//! Owner: whoever holds a handle edits it, under a short lock of its own; the core moves the row below and ends the saves.
//! Flow: the live row (a record view) and the user's fields → what the form shows → `save` → a write of what changed → its
//! ticket, looked at by every later read.
//! Invariants:
//! 1. The row that is shown may have writes in it that are not settled, of this draft or of others. What a draft keeps of
//!    the user is let go of only once the source has it (`fields`), and a row that goes is remembered as it was confirmed.
//! 2. An untouched field shows the row's value, a touched one the user's, whatever happens in between
//!    (`tests/drafts.rs`, `whatever_happens_…`).
//! 3. No call but `save` and `save_as_new` waits for anything slow, and they do so outside the lock: a frame loop that reads
//!    meanwhile goes on.
//! 4. The generation moves after what the draft shows has moved: by an edit, the row, or the end of a save.
//!
//! Close/panic: a closed Dio's draft keeps what it shows; its saves are `Closed`. A save that the journal keeps counts as
//! saved.
//! Not here: which fields are touched and in conflict (`fields`); the path of a write (`dio`).

mod fields;

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::dio::{Dio, EnrichedRecord, WeakDio, WriteState, WriteTicket};
use crate::scenery::record::{RecordScenery, RecordStatus};
use crate::scenery::signal::{Scenery, Signal};
use crate::value::{IntoValue, Record, Value};
use crate::vista::{Schema, WriteOp};
use crate::{Error, ErrorKind, Result};

pub use fields::{DraftField, FieldState, Keep};
use fields::{Fields, Row};

/// What a new row's draft follows until there is a row: nothing looks at what this id has.
const NO_ROW: &str = "a new row";

/// How a draft stands. Of several that are so, the first in this order is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DraftStatus {
    /// A save is under way: views show it already, and the source has not confirmed it. Edits are taken meanwhile.
    Saving,
    /// The row was deleted. Untouched fields show what the source last had in it; [`Draft::save_as_new`] brings it
    /// back.
    RowGone,
    /// A touched field is another at the source now: [`Draft::conflicts`], [`Draft::resolve`].
    Conflict,
    /// The last save failed, and nothing of the draft is lost: [`Draft::error`], [`Draft::errors`].
    Rejected,
    /// There is something to save.
    Changed,
    /// There is nothing to save: the draft shows the row.
    Clean,
}

/// A save under way.
struct Saving {
    /// `None` until the write is in the queue.
    ticket: Option<WriteTicket>,
    /// The whole row as it would be.
    folded: Record,
}

/// What untouched fields show.
enum Shown {
    Nothing,
    Row(Arc<EnrichedRecord>),
    /// What was saved of a new row, where the row itself can't be followed any more.
    Saved(Record),
}

struct State {
    id: Option<Arc<str>>,
    /// The row; of a new one, and of one that can't be followed any more, nothing (`follows`).
    view: RecordScenery,
    follows: bool,
    shown: Shown,
    /// The row without writes that are not settled, as it was last seen: what is left of one that goes.
    settled: Option<Arc<EnrichedRecord>>,
    is_there: bool,
    is_pending: bool,
    fields: Fields,
    saving: Option<Saving>,
}

impl State {
    /// What the row is now. A read of a row that is going and coming shows the last one, and the generation moves again.
    fn look_at_row(&mut self) {
        if !self.follows {
            return;
        }
        let (status, row) = self.view.look();
        self.is_there = status != RecordStatus::NotFound;
        self.is_pending = status == RecordStatus::PendingWrite;
        match row {
            Some(row) => {
                if !self.is_pending {
                    self.settled = Some(row.clone());
                }
                // The source has chosen another id for a row whose insert was still pending.
                if self.id.as_deref().is_some_and(|id| id != row.id()) {
                    self.id = Some(Arc::from(row.id()));
                }
                self.shown = Shown::Row(row);
            }
            None => {
                if let (false, Some(settled)) = (self.is_there, &self.settled) {
                    self.shown = Shown::Row(settled.clone());
                }
            }
        }
    }

    fn parts(&mut self) -> (&mut Fields, Row<'_>) {
        let shown = match &self.shown {
            Shown::Nothing => None,
            Shown::Row(row) => Some(row.record()),
            Shown::Saved(record) => Some(record),
        };
        (&mut self.fields, Row { shown, is_there: self.is_there, is_pending: self.is_pending })
    }
}

struct Inner {
    dio: WeakDio,
    table: Arc<str>,
    schema: Arc<Schema>,
    signal: Arc<Signal>,
    state: Mutex<State>,
}

/// A user's unsaved changes of one row, or of a row to be: [`Dio::draft`], [`Dio::draft_new`].
///
/// Fields that the user has not touched follow the row. One that he has touched stays as he set it; when the row's value
/// becomes another meanwhile, the field is in [`Conflict`](FieldState::Conflict), and says so until it is
/// [resolved](Self::resolve) or reset. [`save`](Self::save) writes what changed and nothing else. A save that is refused
/// leaves the draft as it is, with the error and what the source said of single fields
/// ([`Error::with_field`]); correct them and save again.
///
/// **When a field is touched.** From `set` on, until it is reset, resolved for [`Theirs`](Keep::Theirs), or saved. A
/// field that is set to what the row has is not touched: it follows the row again. Null and absent are the same. What the
/// row had when the field was first touched is its base: a conflict is a row that has neither that nor the user's value.
///
/// **While a save is under way** every view shows what is saved at once, as pending, and edits go on; the draft still holds
/// what the user set, so that a refusal, which takes the row back, takes nothing from him. Once it is confirmed, a field that
/// was not edited since follows the row again, as the source stored it; one that was stays touched, with what was saved as
/// its base. A field that somebody else changed meanwhile is in conflict when the save fails. One save at a time: another is
/// refused as `Full`. A save that is under way when the Dio closes, and that its journal [keeps](crate::WriteState::Kept),
/// counts as saved: it is delivered when the table is opened again.
///
/// Reads answer from memory and never wait, so that a frame loop may ask for each field in each frame. Cheap to clone;
/// clones are one draft. Like a view, a draft doesn't keep its Dio alive; dropping it drops what is unsaved, and cancels no
/// save under way.
///
/// It is a [`Scenery`]: its generation moves when an edit, the row or the end of a save moves what it shows.
///
/// ```
/// use std::time::Duration;
/// use diorama::prelude::*;
/// use diorama::{DraftStatus, FieldState, Keep};
///
/// # fn main() -> diorama::Result<()> {
/// let rows = [("a", record! { "name" => "Anvil", "price" => 30, "stock" => 5 })];
/// let source = MemoryVista::new("products", "id").with_rows(rows);
/// let dio = Lens::new().in_memory().build()?.make_dio(source.clone())?;
///
/// let draft = dio.draft("a")?;
/// draft.set("name", "Big anvil")?;
/// draft.set("price", 33)?;
///
/// // Meanwhile somebody else changes the row.
/// source.outside().patch("a", record! { "price" => 31, "stock" => 4 })?;
/// dio.refresh()?;
/// assert_eq!(draft.get("stock"), Some(4.into()), "untouched fields follow");
/// assert_eq!(draft.get("price"), Some(33.into()), "touched ones stay");
/// assert_eq!(draft.field("price").state, FieldState::Conflict);
/// assert_eq!(draft.save().unwrap_err().kind(), ErrorKind::Conflict);
///
/// draft.resolve("price", Keep::Theirs);
/// if let Some(ticket) = draft.save()? {
///     ticket.wait(Duration::from_secs(5))?;
/// }
/// assert_eq!(draft.status(), DraftStatus::Clean);
/// assert_eq!(source.row("a"), Some(record! { "name" => "Big anvil", "price" => 31, "stock" => 4 }));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Draft(Arc<Inner>);

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("table", &self.0.table)
            .field("id", &self.id())
            .field("status", &self.status())
            .field("touched", &self.touched())
            .finish()
    }
}

impl Dio {
    /// A draft of one row's changes: a form over it. Reads the row from the cache; afterwards nothing of it waits.
    ///
    /// ```
    /// use std::time::Duration;
    /// use diorama::prelude::*;
    ///
    /// # fn main() -> diorama::Result<()> {
    /// let rows = [("a", record! { "name" => "Anvil", "price" => 30 })];
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("products", "id").with_rows(rows))?;
    /// let draft = dio.draft("a")?;
    /// draft.set("price", 33)?;
    /// assert_eq!(draft.touched(), ["price"]);
    /// if let Some(ticket) = draft.save()? {
    ///     ticket.wait(Duration::from_secs(5))?;
    /// }
    /// assert!(!draft.is_dirty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotFound` when there is no such row, `Unavailable` when that can't be known as the cache is not complete yet;
    /// `Invalid` for an empty id; `Closed`.
    pub fn draft(&self, id: impl Into<Arc<str>>) -> Result<Draft> {
        let id = id.into();
        let signal = Arc::new(self.inner().signal());
        let view = self.open_record(id.clone(), None, signal.clone())?;
        let draft = Draft::new(self, signal, view, Some(id.clone()));
        if draft.read(|state| state.is_there) {
            return Ok(draft);
        }
        let error = match self.inner().board.is_complete() {
            true => Error::new(ErrorKind::NotFound, "there is no such row to edit; `draft_new` makes one"),
            false => Error::new(
                ErrorKind::Unavailable,
                "the row is not in the cache, which is not complete yet; ask again once the first copy has ended",
            ),
        };
        Err(self.inner().name_error(error).with("id", id.to_string()))
    }

    /// A draft of a new row. All its fields are empty; set what they should begin with. The id column may be set, where the
    /// source takes ids; without it the source chooses. Once saved, it is a draft of that row.
    ///
    /// ```
    /// use std::time::Duration;
    /// use diorama::prelude::*;
    ///
    /// # fn main() -> diorama::Result<()> {
    /// let source = MemoryVista::new("products", "id").assign_ids_from("p");
    /// let dio = Lens::new().in_memory().build()?.make_dio(source)?;
    /// let draft = dio.draft_new()?;
    /// draft.set("name", "Bell")?;
    /// if let Some(ticket) = draft.save()? {
    ///     ticket.wait(Duration::from_secs(5))?;
    /// }
    /// assert_eq!(draft.id().as_deref(), Some("p1"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Closed`.
    pub fn draft_new(&self) -> Result<Draft> {
        let signal = Arc::new(self.inner().signal());
        let view = self.open_record(Arc::from(NO_ROW), Some(Record::new()), signal.clone())?;
        Ok(Draft::new(self, signal, view, None))
    }
}

/// How a save ended.
enum Ending {
    UnderWay,
    /// The source has the row under this id, or the journal will deliver it.
    Done(Option<Arc<str>>),
    Failed(Error),
}

/// The one place that knows the states of a write.
fn ending_of(ticket: &WriteTicket) -> Ending {
    let state = ticket.state();
    match state.outcome() {
        None => Ending::UnderWay,
        Some(Ok(outcome)) => Ending::Done(outcome.id.map(Arc::from)),
        // The Dio is closed: what it shows of the row stays as it is, and the next one begins with it.
        Some(Err(_)) if matches!(state, WriteState::Kept) => Ending::Done(ticket.id()),
        // Nobody knows whether the source has it: the row is read again, and the user's fields are compared with that.
        Some(Err(error)) => Ending::Failed(error),
    }
}

/// Reading. Nothing here waits.
impl Draft {
    fn new(dio: &Dio, signal: Arc<Signal>, view: RecordScenery, id: Option<Arc<str>>) -> Self {
        let follows = id.is_some();
        let state = State {
            id,
            view,
            follows,
            shown: Shown::Nothing,
            settled: None,
            is_there: false,
            is_pending: false,
            fields: Fields::default(),
            saving: None,
        };
        let inner = dio.inner();
        let (table, schema) = (inner.name.clone(), inner.schema.clone());
        Draft(Arc::new(Inner { dio: dio.downgrade(), table, schema, signal, state: Mutex::new(state) }))
    }

    /// The row's id; `None` for a new row that is not saved yet.
    pub fn id(&self) -> Option<String> {
        self.read(|state| state.id.as_deref().map(str::to_owned))
    }

    /// Whether it is a new row that is not saved yet.
    pub fn is_new(&self) -> bool {
        self.read(|state| state.id.is_none())
    }

    /// What the field shows: the user's value where he has set one, else the row's.
    pub fn get(&self, field: &str) -> Option<Value> {
        self.read_fields(|fields, row| fields.value(field, row).cloned())
    }

    /// The whole row as the form shows it.
    pub fn record(&self) -> Record {
        self.read_fields(|fields, row| fields.folded(row))
    }

    /// One field with everything known about it.
    pub fn field(&self, field: &str) -> DraftField {
        self.read_fields(|fields, row| fields.field(field, row))
    }

    /// The fields that the user has set, in the order in which he first did.
    pub fn touched(&self) -> Vec<String> {
        self.read_fields(|fields, _| fields.touched().map(str::to_owned).collect())
    }

    /// The fields that are another at the source than when the user began to change them, and not what he wants either.
    pub fn conflicts(&self) -> Vec<String> {
        self.read_fields(|fields, row| fields.in_conflict(row).map(str::to_owned).collect())
    }

    /// Whether something would be lost with the draft: a touched field has a value that the source is not known to have. That
    /// is so of one that is being saved, and of each one while the row shows other writes that are not confirmed.
    pub fn is_dirty(&self) -> bool {
        self.read_fields(|fields, row| fields.is_dirty(row))
    }

    /// How it stands.
    pub fn status(&self) -> DraftStatus {
        self.read(|state| {
            let is_gone = state.id.is_some() && !state.is_there;
            let (fields, row) = state.parts();
            if fields.is_saving() {
                DraftStatus::Saving
            } else if is_gone {
                DraftStatus::RowGone
            } else if fields.in_conflict(row).next().is_some() {
                DraftStatus::Conflict
            } else if fields.error().is_some() {
                DraftStatus::Rejected
            } else if fields.is_dirty(row) {
                DraftStatus::Changed
            } else {
                DraftStatus::Clean
            }
        })
    }

    /// Why the last save failed; `None` from the next save or `reset_all` on.
    pub fn error(&self) -> Option<Error> {
        self.read_fields(|fields, _| fields.error().cloned())
    }

    /// What the failed save was told of single fields, as name and message. A message goes when its field is set or reset, and
    /// all go with the [`error`](Self::error).
    pub fn errors(&self) -> Vec<(String, String)> {
        self.read_fields(|fields, _| fields.errors().to_vec())
    }

    /// Reads under the lock, after a look at the save under way and at the row.
    fn read<T>(&self, read: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.state.lock();
        self.look(&mut state);
        read(&mut state)
    }

    fn read_fields<T>(&self, read: impl FnOnce(&mut Fields, Row<'_>) -> T) -> T {
        self.read(|state| {
            let (fields, row) = state.parts();
            read(fields, row)
        })
    }

    /// Takes in how the save ended, if it has, and what the row is now. The ticket first: a row is published before its
    /// ticket ends.
    fn look(&self, state: &mut State) {
        let ending = match &state.saving {
            Some(Saving { ticket: Some(ticket), .. }) => ending_of(ticket),
            _ => Ending::UnderWay,
        };
        match ending {
            Ending::UnderWay => state.look_at_row(),
            Ending::Done(id) => {
                if let (Some(saving), Some(id)) = (state.saving.take(), id) {
                    self.follow(state, id, saving.folded);
                }
                state.look_at_row();
                let (fields, row) = state.parts();
                fields.confirmed(row);
            }
            Ending::Failed(error) => {
                state.saving = None;
                state.look_at_row();
                let (fields, row) = state.parts();
                fields.failed(error, row);
            }
        }
    }

    /// The row was saved under this id, which may be new to the draft. What was saved shows until the core has looked for the
    /// row, which is at the head of its inbox.
    fn follow(&self, state: &mut State, id: Arc<str>, mut saved: Record) {
        if state.id.as_ref() == Some(&id) {
            return;
        }
        let stored_id = self.0.schema.id_column().and_then(|column| saved.get_mut(column));
        if let Some(Value::Text(stored_id)) = stored_id {
            *stored_id = id.to_string();
        }
        let dio = self.0.dio.upgrade();
        let view = dio.and_then(|dio| dio.open_record(id.clone(), Some(saved.clone()), self.0.signal.clone()).ok());
        state.id = Some(id);
        state.follows = view.is_some();
        match view {
            Some(view) => state.view = view,
            None => {
                (state.shown, state.is_there, state.is_pending) = (Shown::Saved(saved), true, false);
            }
        }
    }
}

/// Editing. Nothing here waits.
impl Draft {
    /// Sets a field: the user has typed something. The first time, what the row has now becomes the field's base.
    ///
    /// # Errors
    /// `Invalid`, naming the [field](Error::fields): a column that the table doesn't have, a value of another type than the
    /// column's or nested too deep, the id of a row that has one. Nothing changes then.
    pub fn set(&self, field: &str, value: impl IntoValue) -> Result<()> {
        let value = value.into_value();
        self.edit(|state| {
            self.check(state, field, &value).map_err(|error| self.refuse(error, field))?;
            let (fields, row) = state.parts();
            Ok(fields.set(field, value, row))
        })
    }

    /// Takes back what the user did to a field: it follows the row again. An untouched field stays as it is.
    pub fn reset(&self, field: &str) {
        self.change(|fields, _| fields.reset(field));
    }

    /// Takes back everything that the user did, and forgets the errors. What is being saved goes on being saved.
    pub fn reset_all(&self) {
        self.change(|fields, _| fields.reset_all());
    }

    /// Ends the conflict of a field: with [`Mine`](Keep::Mine) the next save writes the user's value over what the row
    /// has now, with [`Theirs`](Keep::Theirs) the field follows the row again. A field without a conflict stays as it
    /// is. A row that moves once more makes a new conflict.
    pub fn resolve(&self, field: &str, resolution: Keep) {
        self.change(|fields, row| fields.resolve(field, resolution, row));
    }

    fn change(&self, change: impl FnOnce(&mut Fields, Row<'_>) -> bool) {
        let moved = self.read_fields(change);
        if moved {
            self.0.signal.advance();
        }
    }

    fn edit(&self, edit: impl FnOnce(&mut State) -> Result<bool>) -> Result<()> {
        if self.read(edit)? {
            self.0.signal.advance();
        }
        Ok(())
    }

    fn check(&self, state: &mut State, field: &str, value: &Value) -> Result<()> {
        let schema = &self.0.schema;
        let one = Record::from_iter([(field, value)]);
        one.check_depth()?;
        if schema.id_column() != Some(field) {
            return schema.check_record(&one, false);
        }
        if let Some(id) = state.id.clone() {
            // A form that sets all of its fields may set this one, too, as it is.
            let shown = state.parts().1.shown.and_then(|row| row.get(field).cloned());
            let is_id = Schema::id_of(value).is_some_and(|value| *value == *id);
            return match is_id || shown.as_ref() == Some(value) {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Invalid, "the id of a row that is there can't be changed")),
            };
        }
        if !value.is_null() && Schema::id_of(value).is_none_or(|id| id.is_empty()) {
            return Err(Error::new(ErrorKind::Invalid, "an id is a text that is not empty, or an integer"));
        }
        match schema.column(field) {
            Some(_) => schema.check_record(&one, false),
            None => Ok(()),
        }
    }

    fn refuse(&self, error: Error, field: &str) -> Error {
        let refused = Error::new(error.kind(), "the field does not take this value");
        refused.with_field(field, error.message()).with("table", self.0.table.to_string())
    }
}

/// Saving.
impl Draft {
    /// Writes what the user has changed, and only that: a patch of the changed fields, or the whole row as the form shows it
    /// to a source that can replace and not patch; a new row is inserted, even without any field. `None` when there is
    /// nothing to write.
    ///
    /// Every view shows it when this returns. The ticket tells what becomes of it, and so does the draft: `Saving` until then.
    /// As [`Dio::write`], it may wait for room in the write queue; reads of the draft don't meanwhile.
    ///
    /// # Errors
    /// The draft stays as it is in each case:
    /// `Conflict`, with the [fields](Error::fields): [resolve](Self::resolve) them first. `NotFound`: the row is gone
    /// ([`save_as_new`](Self::save_as_new)). `Full`: a save is under way, or the write queue is full. `Invalid`: a new row
    /// lacks a mandatory column, or a value is refused; with the fields, which [`errors`](Self::errors) then has, too. As
    /// [`Dio::write`].
    pub fn save(&self) -> Result<Option<WriteTicket>> {
        self.begin_save()?.map(Save::write).transpose()
    }

    /// Writes the whole row as the form shows it, as a new one: for a draft whose row is gone. It is inserted under the id
    /// that it had, unless the source chooses another. On a draft of a new row it does what [`save`](Self::save) does.
    ///
    /// # Errors
    /// `Conflict` while the row is there; otherwise as [`save`](Self::save).
    pub fn save_as_new(&self) -> Result<WriteTicket> {
        self.begin_save_as_new()?.write()
    }

    /// Has the draft `Saving`. Waits for nothing.
    pub(crate) fn begin_save(&self) -> Result<Option<Save>> {
        self.begin(State::prepare)
    }

    /// As [`begin_save`](Self::begin_save), for [`save_as_new`](Self::save_as_new).
    pub(crate) fn begin_save_as_new(&self) -> Result<Save> {
        let nothing = || Error::new(ErrorKind::Invalid, "there is nothing to save");
        self.begin(State::prepare_new).and_then(|save| save.ok_or_else(nothing))
    }

    fn begin(&self, prepare: fn(&mut State, &Dio) -> Result<Option<WriteOp>>) -> Result<Option<Save>> {
        let closed = || Error::new(ErrorKind::Closed, "the Dio of this draft is closed");
        let dio = self.0.dio.upgrade().ok_or_else(|| self.name(closed()))?;
        let (prepared, moved) = self.read(|state| {
            let before = state.fields.extent();
            let prepared = match state.saving {
                Some(_) => Err(Error::new(ErrorKind::Full, "a save of this draft is under way; wait for its ticket")),
                None => prepare(state, &dio),
            };
            (prepared, state.fields.extent() != before)
        });
        if moved {
            self.0.signal.advance();
        }
        let op = prepared.map_err(|error| self.name(error))?;
        Ok(op.map(|op| Save { draft: self.clone(), dio, op: Some(op) }))
    }

    fn taken(&self, ticket: &WriteTicket) {
        if let Some(saving) = &mut self.0.state.lock().saving {
            saving.ticket = Some(ticket.clone());
        }
        let signal = Arc::downgrade(&self.0.signal);
        ticket.at_end(move || advance(&signal));
    }

    fn not_taken(&self, error: Error) {
        self.read(|state| {
            state.saving = None;
            let (fields, row) = state.parts();
            fields.failed(error, row);
        });
        self.0.signal.advance();
    }

    fn name(&self, error: Error) -> Error {
        let error = error.with("table", self.0.table.to_string());
        match self.0.state.lock().id.as_deref() {
            Some(id) => error.with("id", id),
            None => error,
        }
    }
}

/// A save that has begun, and whose write is not taken yet. Dropped, it is given up.
pub(crate) struct Save {
    draft: Draft,
    dio: Dio,
    /// `None` once that is over.
    op: Option<WriteOp>,
}

/// A save whose write found no room, or was refused.
#[cfg(feature = "async")]
pub(crate) struct NotSaved {
    pub(crate) save: Save,
    pub(crate) error: Error,
}

impl Save {
    fn write(mut self) -> Result<WriteTicket> {
        let Some(op) = self.op.take() else { return Err(given_up()) };
        match self.dio.write(op) {
            Ok(ticket) => {
                self.draft.taken(&ticket);
                Ok(ticket)
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// [`write`](Self::write), if there is room in the queue now.
    #[cfg(feature = "async")]
    pub(crate) fn try_write(mut self) -> Result<WriteTicket, Box<NotSaved>> {
        let Some(op) = self.op.take() else { return Err(Box::new(NotSaved { save: self, error: given_up() })) };
        match self.dio.try_write(op) {
            Ok(ticket) => {
                self.draft.taken(&ticket);
                Ok(ticket)
            }
            Err(refused) => {
                self.op = Some(refused.op);
                Err(Box::new(NotSaved { save: self, error: refused.error }))
            }
        }
    }

    /// Ends it with the error, which it gives back.
    pub(crate) fn fail(mut self, error: Error) -> Error {
        self.op = None;
        self.draft.not_taken(error.clone());
        error
    }

    /// The Dio that is to take the write.
    #[cfg(feature = "async")]
    pub(crate) fn dio(&self) -> &Dio {
        &self.dio
    }
}

impl Drop for Save {
    fn drop(&mut self) {
        if self.op.take().is_some() {
            self.draft.not_taken(given_up());
        }
    }
}

fn given_up() -> Error {
    Error::new(ErrorKind::Cancelled, "the save was given up before there was room for its write; save again")
}

fn advance(signal: &Weak<Signal>) {
    if let Some(signal) = signal.upgrade() {
        signal.advance();
    }
}

impl State {
    /// What `save` writes. From here on the save is under way.
    fn prepare(&mut self, dio: &Dio) -> Result<Option<WriteOp>> {
        let Some(id) = self.id.as_deref().map(str::to_owned) else { return self.prepare_new(dio) };
        if !self.is_there {
            let message = "the row is gone; `save_as_new` brings it back with what the draft shows";
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let (fields, row) = self.parts();
        if let Some(error) = fields::conflict(fields.in_conflict(row)) {
            return Err(error);
        }
        let folded = fields.folded(row);
        let changes = fields.changes(row);
        if changes.is_empty() {
            return Ok(None);
        }
        fields.begin(changes.clone());
        let able = dio.inner().write_capabilities();
        let op = match able.replace && !able.patch {
            true => WriteOp::replace(id, folded.clone()),
            false => WriteOp::patch(id, changes),
        };
        self.saving = Some(Saving { ticket: None, folded });
        Ok(Some(op))
    }

    /// What `save_as_new` writes. From here on the save is under way.
    fn prepare_new(&mut self, dio: &Dio) -> Result<Option<WriteOp>> {
        if self.id.is_some() && self.is_there {
            let message = "the row is there; `save` changes it";
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let schema = &dio.inner().schema;
        let id_column = schema.id_column();
        let (fields, row) = self.parts();
        let folded = fields.folded(row);
        if let Some(error) = missing(schema, &folded).map(|error| dio.inner().name_error(error)) {
            fields.failed(error.clone(), row);
            return Err(error);
        }
        let sent = fields.changes(row);
        fields.begin(sent);
        let mut record = folded.clone();
        let given = id_column.and_then(|column| folded.get(column)).and_then(Schema::id_of);
        // An id that is not given is not null either, and a table may not have its id as a column.
        if let Some(column) = id_column
            && (record.get(column).is_some_and(Value::is_null)
                || (schema.is_known() && schema.column(column).is_none()))
        {
            record.remove(column);
        }
        let id = self.id.as_deref().map(str::to_owned).or(given);
        self.saving = Some(Saving { ticket: None, folded });
        Ok(Some(WriteOp::Insert { id, record }))
    }
}

/// What a new row lacks.
fn missing(schema: &Schema, record: &Record) -> Option<Error> {
    let is_given = |name: &str| record.get(name).is_some_and(|value| !value.is_null());
    let mut missing = schema
        .columns()
        .iter()
        .filter(|column| column.is_mandatory() && schema.id_column() != Some(column.name()) && !is_given(column.name()))
        .peekable();
    missing.peek()?;
    let error = Error::new(ErrorKind::Invalid, "the new row lacks mandatory fields");
    Some(missing.fold(error, |error, column| error.with_field(column.name(), "must have a value")))
}

impl Scenery for Draft {
    fn signal(&self) -> &Signal {
        &self.0.signal
    }
}
