//! Value scenery: one aggregate over a Dio's rows, kept up change by change.
//!
//! Owner: the core adds and removes; handles read.
//! Invariants: an aggregate equals a recompute, bit by bit (`accumulator`); a result that stays the
//! same moves no generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::dio::DioInner;
use crate::dio::core::{ViewLook, ViewSlot};
use crate::dio::queries::{Asking, Inquiry, Question};
use crate::dio::versions::Versions;
use crate::scenery::accumulator::BuiltIn;
use crate::scenery::signal::{DropGuard, Dropped, Scenery, Signal, closed};
use crate::scenery::snapshot::LoadState;
use crate::scenery::view_query::ViewQuery;
use crate::sync::{Notifier, Rank, Role, Waited, deadline_after, may_wait_for, time_left};
use crate::value::{Path, Value, ValueRef, same_value};
use crate::vista::query::text::ValueText;
use crate::{Error, ErrorKind, Generation, Result, Seq};

/// What a value scenery computes over the rows that match.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Aggregate {
    /// How many rows there are.
    Count,
    /// The exact sum of a column: an integer when all of them are, else the correctly rounded float; 0 without rows. An
    /// integer that doesn't fit CBOR's 64 bits and a sign is an error, until it fits again.
    ///
    /// Bignums below 2^120 are integers here too. Larger ones and decimals (CBOR's tag 4) are first rounded to the
    /// nearest float, each by itself; everything after that is exact. Rows without a number are left out and counted in
    /// [`ValueScenery::counts`].
    Sum(String),
    /// The mean of a column: its exact sum divided by how many numbers there are, rounded to a float once, ties to even.
    /// Numbers are taken as by [`Sum`](Self::Sum), but no total is too large. Null without numbers.
    Avg(String),
    /// The least value of a column in the one order of [`compare`](crate::value::compare), of whatever type. Null when
    /// there is none.
    ///
    /// Of values that are equal in the order, like 1 and 1.0, always the same one is shown, whatever came first.
    Min(String),
    /// The greatest value of a column in the one order that is not null: NaN is greater than all other numbers, text
    /// greater than numbers. Null when there is none.
    Max(String),
    /// How many different values a column has, null not counted. Values that are equal in the one order, like 1 and 1.0,
    /// are one.
    Distinct(String),
}

impl Aggregate {
    /// The column it reads.
    pub(crate) fn column(&self) -> Option<&str> {
        match self {
            Aggregate::Count => None,
            Aggregate::Sum(column)
            | Aggregate::Avg(column)
            | Aggregate::Min(column)
            | Aggregate::Max(column)
            | Aggregate::Distinct(column) => Some(column),
        }
    }

    pub(crate) fn built_in(&self) -> BuiltIn {
        match self {
            Aggregate::Count => BuiltIn::Count,
            Aggregate::Sum(column) => BuiltIn::Sum(Path::new(column)),
            Aggregate::Avg(column) => BuiltIn::Avg(Path::new(column)),
            Aggregate::Min(column) => BuiltIn::Min(Path::new(column)),
            Aggregate::Max(column) => BuiltIn::Max(Path::new(column)),
            Aggregate::Distinct(column) => BuiltIn::Distinct(Path::new(column)),
        }
    }
}

/// How a value scenery's value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueStatus {
    /// The rows are being read for the first time. With [`on_query`](crate::LensBuilder::on_query): the source is being asked
    /// for them, and the value is that of the rows that are there already.
    Loading,
    /// The value is that of the newest rows. One of code of your own follows them soon after:
    /// [`ValueScenery::wait_for_seq`].
    Fresh,
    /// The newest rows have no value, or computing it failed, and the last one stays; or the source could not be asked for the
    /// rows, and the value may not be that of all there are.
    Error,
}

/// What an aggregate's value leaves out, or can't tell apart by itself. It is a part of what the view shows: when it moves, so
/// does the generation.
///
/// ```
/// # fn main() -> diorama::Result<()> {
/// use diorama::prelude::*;
///
/// let rows = [("a", record! { "v" => 1 }), ("b", record! { "v" => "n/a" }), ("c", record! { "v" => f64::NAN })];
/// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("t", "id").with_rows(rows))?;
/// let total = dio.value_scenery().sum("v").open()?;
/// assert!(total.float().is_some_and(f64::is_nan));
/// assert_eq!((total.counts().skipped, total.counts().nan, total.counts().infinite), (1, 1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ValueCounts {
    /// Matching rows that are left out: without a number for sum and average, null or absent for minimum, maximum and
    /// distinct.
    pub skipped: u64,
    /// NaNs that a sum or an average takes in, which make it NaN. Not counted by the others, which order NaN after all
    /// other numbers.
    pub nan: u64,
    /// Infinities of either sign that a sum or an average takes in.
    pub infinite: u64,
}

struct ValueState {
    value: Value,
    /// As it was last told.
    status: ValueStatus,
    /// Whether there is a value, or an error in its place.
    is_computed: bool,
    error: Option<Error>,
    answer: Answer,
    counts: ValueCounts,
    seq: Seq,
}

/// What the source has said of the rows, where it is asked query by query.
enum Answer {
    /// It is not asked so.
    NotAsked,
    Given,
    /// To the question of this key.
    Awaited(Arc<str>),
    Failed(Error),
}

impl ValueState {
    fn status_now(&self) -> ValueStatus {
        match &self.answer {
            Answer::Failed(_) => ValueStatus::Error,
            _ if self.error.is_some() => ValueStatus::Error,
            Answer::Awaited(_) => ValueStatus::Loading,
            Answer::NotAsked | Answer::Given if self.is_computed => ValueStatus::Fresh,
            Answer::NotAsked | Answer::Given => ValueStatus::Loading,
        }
    }

    fn error(&self) -> Option<Error> {
        match &self.answer {
            Answer::Failed(error) => self.error.as_ref().or(Some(error)).cloned(),
            _ => self.error.clone(),
        }
    }

    /// Tells how the value stands; says whether that is something else.
    fn tell_status(&mut self) -> bool {
        let now = self.status_now();
        std::mem::replace(&mut self.status, now) != now
    }
}

/// The core's and the handles' common part of a value view.
pub(crate) struct ValueSlot {
    state: Mutex<ValueState>,
    pub(crate) signal: Signal,
    pub(crate) dropped: Arc<Dropped>,
    opened: Notifier,
    /// 1 once it is opened, and the source has answered if it was asked.
    ready: Notifier,
    /// Where it is said up to which Seq everything is in the value, once there is one.
    taken_in: TakenIn,
    /// There is no value and there will be none.
    gave_up: AtomicBool,
}

/// What tells how far a value has come.
pub(crate) enum TakenIn {
    /// It is in step with its Dio: what is published is in it.
    WithItsDio(Arc<Versions>),
    /// It follows some time behind.
    Behind(Notifier),
}

impl TakenIn {
    fn notifier(&self) -> &Notifier {
        match self {
            TakenIn::WithItsDio(versions) => versions.published_notifier(),
            TakenIn::Behind(notifier) => notifier,
        }
    }
}

impl ValueSlot {
    pub(crate) fn new(signal: Signal, dropped: Arc<Dropped>, taken_in: TakenIn, asking: Option<&Asking>) -> Self {
        let answer = match asking {
            None => Answer::NotAsked,
            Some(Asking { is_answered: true, .. }) => Answer::Given,
            Some(Asking { is_answered: false, key }) => Answer::Awaited(key.clone()),
        };
        let state = ValueState {
            value: Value::Null,
            status: ValueStatus::Loading,
            is_computed: false,
            error: None,
            answer,
            counts: ValueCounts::default(),
            seq: Seq(0),
        };
        let (state, opened, ready) = (Mutex::new(state), Notifier::new(0), Notifier::new(0));
        ValueSlot { state, signal, dropped, opened, ready, taken_in, gave_up: AtomicBool::new(false) }
    }

    /// Shows a result; gives back the generation to move to, if anything shown moved.
    pub(crate) fn show(&self, (result, counts): (Result<Value>, ValueCounts), seq: Seq) -> Option<Generation> {
        let mut state = self.state.lock();
        state.seq = seq;
        state.is_computed = true;
        let mut moved = state.counts != counts
            || match &result {
                Ok(value) => !same_value(ValueRef::from(&state.value), ValueRef::from(value)),
                Err(error) => state.error.as_ref().is_none_or(|shown| shown.message() != error.message()),
            };
        state.counts = counts;
        match result {
            Ok(value) => {
                state.value = value;
                state.error = None;
            }
            Err(error) => state.error = Some(error),
        }
        moved |= state.tell_status();
        moved.then(|| self.signal.generation().next())
    }

    /// A question to the source has come to its end, and its rows are in the value. As [`show`](Self::show).
    pub(crate) fn answered(&self, question: &Question, query: &ViewQuery, result: &Result<()>) -> Option<Generation> {
        let mut state = self.state.lock();
        state.answer = match (result, &state.answer) {
            (_, Answer::NotAsked) => return None,
            (Ok(()), _) if question.covers(query) => Answer::Given,
            (Err(error), Answer::Awaited(key)) if key == question.key() => Answer::Failed(error.clone()),
            _ => return None,
        };
        self.tell_answer(state)
    }

    /// All rows are there, whatever the source says. As [`show`](Self::show).
    pub(crate) fn needs_no_answer(&self) -> Option<Generation> {
        let mut state = self.state.lock();
        if matches!(state.answer, Answer::NotAsked) {
            return None;
        }
        state.answer = Answer::Given;
        self.tell_answer(state)
    }

    fn tell_answer(&self, mut state: MutexGuard<'_, ValueState>) -> Option<Generation> {
        let moved = state.tell_status();
        drop(state);
        self.tell_ready();
        moved.then(|| self.signal.generation().next())
    }

    /// The question is answered; what is shown next says so.
    pub(crate) fn note_answer(&self) {
        let mut state = self.state.lock();
        if !matches!(state.answer, Answer::NotAsked) {
            state.answer = Answer::Given;
        }
    }

    /// Whether the source was asked and has not brought the rows.
    pub(crate) fn lacks_answer(&self) -> bool {
        matches!(self.state.lock().answer, Answer::Awaited(_) | Answer::Failed(_))
    }

    /// How far the rows are there that the value is computed of.
    pub(crate) fn load_state(&self, complete: bool) -> LoadState {
        match &self.state.lock().answer {
            _ if complete => LoadState::Ready,
            Answer::Given => LoadState::Ready,
            Answer::NotAsked | Answer::Awaited(_) => LoadState::Loading,
            Answer::Failed(error) => LoadState::Failed(error.clone()),
        }
    }

    fn tell_ready(&self) {
        if self.opened.get() > 0 && !matches!(self.state.lock().answer, Answer::Awaited(_)) {
            self.ready.advance_to(1);
        }
    }

    /// Says why there is no value, and that there will be none.
    pub(crate) fn give_up(&self, error: Error, seq: Seq) {
        if let Some(generation) = self.show((Err(error), ValueCounts::default()), seq) {
            self.signal.advance_to(generation);
        }
        self.gave_up.store(true, Ordering::Release);
        self.note_answer();
        self.opened();
        if let TakenIn::Behind(notifier) = &self.taken_in {
            notifier.close();
        }
    }

    /// The first result is there.
    pub(crate) fn opened(&self) {
        self.opened.advance_to(1);
        self.tell_ready();
    }

    /// Everything up to `seq` is in the value, which follows behind.
    pub(crate) fn take_in(&self, seq: Seq) {
        if let TakenIn::Behind(notifier) = &self.taken_in {
            notifier.advance_to(seq.0);
        }
    }
}

impl ViewSlot for ValueSlot {
    fn close(&self) {
        self.signal.close();
        self.opened.close();
        self.ready.close();
        if let TakenIn::Behind(notifier) = &self.taken_in {
            notifier.close();
        }
    }

    fn look(&self) -> ViewLook {
        let (value, status, error, seq) = {
            let state = self.state.lock();
            (state.value.clone(), state.status, state.error(), state.seq)
        };
        // The cause of an error may be a user's, and its text is made by the user's code: not under the lock.
        let words = match error {
            Some(error) => format!("error: {error}"),
            None if status == ValueStatus::Loading => "loading".to_owned(),
            None => format!("shows {}", ValueText(&value)),
        };
        ViewLook { generation: self.signal.generation(), seq, rows: None, state: words }
    }

    fn is_dropped(&self) -> bool {
        self.dropped.is_set()
    }
}

struct Handle {
    slot: Arc<ValueSlot>,
    dio: Arc<DioInner>,
    /// What it wants of the source, where that is asked query by query.
    inquiry: Option<Arc<Inquiry>>,
    _guard: DropGuard,
}

/// A reactive view of one aggregate. Cheap to clone; the core forgets it when the last clone is dropped.
#[derive(Clone)]
pub struct ValueScenery(Arc<Handle>);

impl std::fmt::Debug for ValueScenery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValueScenery").field("value", &self.value()).field("status", &self.status()).finish()
    }
}

impl ValueScenery {
    pub(crate) fn new(slot: Arc<ValueSlot>, dio: Arc<DioInner>, inquiry: Option<Arc<Inquiry>>) -> Self {
        let guard = slot.dropped.guard();
        ValueScenery(Arc::new(Handle { slot, dio, inquiry, _guard: guard }))
    }

    /// The newest value; null before the first. Doesn't block.
    pub fn value(&self) -> Value {
        self.0.slot.state.lock().value.clone()
    }

    /// The newest value as an integer, if it is one that fits.
    pub fn int(&self) -> Option<i64> {
        match self.0.slot.state.lock().value {
            Value::Integer(value) => i64::try_from(value).ok(),
            _ => None,
        }
    }

    /// The newest value as a float, if it is a number.
    pub fn float(&self) -> Option<f64> {
        ValueRef::from(&self.0.slot.state.lock().value).as_f64()
    }

    /// How the value stands.
    pub fn status(&self) -> ValueStatus {
        self.0.slot.state.lock().status
    }

    /// Why the newest rows have no value.
    pub fn error(&self) -> Option<Error> {
        self.0.slot.state.lock().error()
    }

    /// How many matching rows are left out: those without a number in the column of a sum or an average, those where the
    /// column of a minimum, maximum or distinct is null.
    pub fn skipped(&self) -> u64 {
        self.counts().skipped
    }

    /// What the value leaves out or can't tell: rows without a number, NaNs, infinities.
    pub fn counts(&self) -> ValueCounts {
        self.0.slot.state.lock().counts
    }

    /// The last batch that the value takes in and that had a part in it.
    pub fn seq(&self) -> Seq {
        self.0.slot.state.lock().seq
    }

    /// Blocks until the value takes in everything up to `seq`, whether or not that changes it. A built-in aggregate does as
    /// soon as the Dio has published `seq`; one of code of your own some time later.
    ///
    /// # Errors
    /// `Timeout`; `Closed`; why the view could not be filled; `WouldDeadlock` on a thread of the library that views are
    /// built on.
    pub fn wait_for_seq(&self, seq: Seq, timeout: Option<Duration>) -> Result<Seq> {
        let slot = &self.0.slot;
        let notifier = slot.taken_in.notifier();
        if slot.opened.get() == 0 || notifier.get() < seq.0 {
            slot.signal.may_wait("a value view")?;
        }
        let deadline = timeout.and_then(deadline_after);
        let timed_out = || Error::new(ErrorKind::Timeout, "the value didn't come to that Seq within the time given");
        match slot.opened.wait_until(1, timeout) {
            Waited::Reached(_) if slot.gave_up.load(Ordering::Acquire) => {
                return Err(self.error().unwrap_or_else(closed));
            }
            Waited::Reached(_) => {}
            Waited::Closed(_) => return Err(closed()),
            Waited::TimedOut(_) => return Err(timed_out()),
        }
        match notifier.wait_until(seq.0, deadline.map(time_left)) {
            Waited::Reached(seq) => Ok(Seq(seq)),
            Waited::Closed(_) if slot.gave_up.load(Ordering::Acquire) => Err(self.error().unwrap_or_else(closed)),
            Waited::Closed(_) => Err(closed()),
            Waited::TimedOut(_) => Err(timed_out()),
        }
    }

    /// 1 once the first value is there.
    #[cfg(feature = "async")]
    pub(crate) fn opened(&self) -> &Notifier {
        &self.0.slot.opened
    }

    /// The Seq up to which everything is in the value.
    #[cfg(feature = "async")]
    pub(crate) fn taken_in(&self) -> &Notifier {
        self.0.slot.taken_in.notifier()
    }

    /// 1 once the first value is there, and the source has answered if it was asked.
    #[cfg(feature = "async")]
    pub(crate) fn ready(&self) -> &Notifier {
        &self.0.slot.ready
    }

    /// Blocks until the first value is there or the time is over. With [`on_query`](crate::LensBuilder::on_query): until it is
    /// that of the rows that the source brings.
    ///
    /// # Errors
    /// What the source could not be asked for; `Timeout`; `Closed`; `WouldDeadlock` on a thread of the library that views are
    /// built on.
    pub fn wait_until_ready(&self, timeout: Option<Duration>) -> Result<()> {
        let Handle { slot, dio, inquiry, .. } = &*self.0;
        if slot.ready.get() == 0 {
            may_wait_for(Rank::new(dio.level, Role::Build), "the filling of a view")?;
            dio.hasten(inquiry.as_ref());
        }
        match slot.ready.wait_until(1, timeout) {
            Waited::Reached(_) => match &slot.state.lock().answer {
                Answer::Failed(error) => Err(error.clone()),
                _ => Ok(()),
            },
            Waited::Closed(_) => Err(closed()),
            Waited::TimedOut(_) => Err(Error::new(ErrorKind::Timeout, "the value was not ready within the time given")),
        }
    }
}

impl Scenery for ValueScenery {
    fn signal(&self) -> &Signal {
        &self.0.slot.signal
    }
}
