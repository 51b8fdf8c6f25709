//! Value scenery: one aggregate over a Dio's rows, kept up change by change.
//!
//! Owner: the core adds and removes; handles read.
//! Invariants: an aggregate equals a recompute, bit by bit (`sums_and_counts_equal_a_recompute`); a result that stays the
//! same moves no generation.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::dio::core::{ViewLook, ViewSlot};
use crate::scenery::exact_sum::{ExactSum, SumResult};
use crate::scenery::signal::{DropGuard, Dropped, Scenery, Signal};
use crate::sync::Notifier;
use crate::value::{Path, RowRef, Value, ValueRef, same_value};
use crate::vista::query::text::ValueText;
use crate::{Error, ErrorKind, Generation, Result, Seq};

/// What a value scenery computes over the rows that match.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Aggregate {
    /// How many rows there are.
    Count,
    /// The exact sum of a column: an integer when all of them are, else the correctly rounded float. Rows without a number
    /// there are left out and counted in [`ValueScenery::skipped`].
    Sum(String),
}

/// How a value scenery's value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueStatus {
    /// The rows are being read for the first time.
    Loading,
    /// The value is that of the newest rows.
    Fresh,
    /// The newest rows have no value; the last one stays.
    Error,
}

/// The running state of an aggregate.
pub(crate) enum Accumulator {
    Count(u64),
    Sum { path: Path, sum: Box<ExactSum>, skipped: u64 },
}

impl Accumulator {
    pub(crate) fn new(aggregate: &Aggregate) -> Self {
        match aggregate {
            Aggregate::Count => Accumulator::Count(0),
            Aggregate::Sum(path) => {
                Accumulator::Sum { path: Path::new(path), sum: Box::new(ExactSum::new()), skipped: 0 }
            }
        }
    }

    pub(crate) fn add(&mut self, row: RowRef<'_>) {
        match self {
            Accumulator::Count(count) => *count += 1,
            Accumulator::Sum { path, sum, skipped } => match row.get_path(path).map(ValueRef::untagged) {
                Some(ValueRef::Int(value)) => sum.add_int(value),
                Some(ValueRef::Float(value)) => sum.add_float(value),
                _ => *skipped += 1,
            },
        }
    }

    pub(crate) fn remove(&mut self, row: RowRef<'_>) {
        match self {
            Accumulator::Count(count) => *count -= 1,
            Accumulator::Sum { path, sum, skipped } => match row.get_path(path).map(ValueRef::untagged) {
                Some(ValueRef::Int(value)) => sum.remove_int(value),
                Some(ValueRef::Float(value)) => sum.remove_float(value),
                _ => *skipped -= 1,
            },
        }
    }

    /// The value, and how many rows had none to add.
    pub(crate) fn result(&self) -> (Result<Value>, u64) {
        match self {
            Accumulator::Count(count) => (Ok(Value::from(*count)), 0),
            Accumulator::Sum { path, sum, skipped } => {
                let value = match sum.result() {
                    SumResult::Float(value) => Ok(Value::Float(value)),
                    SumResult::Int(value) => {
                        ciborium::value::Integer::try_from(value).map(Value::Integer).map_err(|_| {
                            Error::new(ErrorKind::Invalid, "the sum doesn't fit 64 bits").with("column", path.as_str())
                        })
                    }
                };
                (value, *skipped)
            }
        }
    }
}

struct ValueState {
    value: Value,
    status: ValueStatus,
    error: Option<Error>,
    skipped: u64,
    seq: Seq,
}

/// The core's and the handles' common part of a value view.
pub(crate) struct ValueSlot {
    state: Mutex<ValueState>,
    pub(crate) signal: Signal,
    pub(crate) dropped: Arc<Dropped>,
    opened: Notifier,
}

impl ValueSlot {
    pub(crate) fn new(signal: Signal, dropped: Arc<Dropped>) -> Self {
        let state =
            ValueState { value: Value::Null, status: ValueStatus::Loading, error: None, skipped: 0, seq: Seq(0) };
        ValueSlot { state: Mutex::new(state), signal, dropped, opened: Notifier::new(0) }
    }

    /// Shows a result; gives back the generation to move to, if anything shown moved.
    pub(crate) fn show(&self, (result, skipped): (Result<Value>, u64), seq: Seq) -> Option<Generation> {
        let mut state = self.state.lock();
        state.seq = seq;
        let moved = match &result {
            Ok(value) => {
                state.status != ValueStatus::Fresh
                    || state.skipped != skipped
                    || !same_value(ValueRef::from(&state.value), ValueRef::from(value))
            }
            Err(_) => state.status != ValueStatus::Error || state.skipped != skipped,
        };
        state.skipped = skipped;
        match result {
            Ok(value) => {
                state.value = value;
                state.status = ValueStatus::Fresh;
                state.error = None;
            }
            Err(error) => {
                state.status = ValueStatus::Error;
                state.error = Some(error);
            }
        }
        moved.then(|| self.signal.generation().next())
    }

    pub(crate) fn fail(&self, error: Error, seq: Seq) -> Option<Generation> {
        self.show((Err(error), 0), seq)
    }

    /// The first result is there.
    pub(crate) fn opened(&self) {
        self.opened.advance_to(1);
    }
}

impl ViewSlot for ValueSlot {
    fn close(&self) {
        self.signal.close();
        self.opened.close();
    }

    fn look(&self) -> ViewLook {
        let state = self.state.lock();
        let words = match &state.error {
            Some(error) => format!("error: {error}"),
            None if state.status == ValueStatus::Loading => "loading".to_owned(),
            None => format!("shows {}", ValueText(&state.value)),
        };
        ViewLook { generation: self.signal.generation(), seq: state.seq, rows: None, state: words }
    }

    fn is_dropped(&self) -> bool {
        self.dropped.is_set()
    }
}

struct Handle {
    slot: Arc<ValueSlot>,
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
    pub(crate) fn new(slot: Arc<ValueSlot>) -> Self {
        let guard = slot.dropped.guard();
        ValueScenery(Arc::new(Handle { slot, _guard: guard }))
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
        self.0.slot.state.lock().error.clone()
    }

    /// How many matching rows had no number in the column.
    pub fn skipped(&self) -> u64 {
        self.0.slot.state.lock().skipped
    }

    /// The last batch that the value takes in and that had a part in it.
    pub fn seq(&self) -> Seq {
        self.0.slot.state.lock().seq
    }

    /// Blocks until the first value is there or the time is over.
    ///
    /// # Errors
    /// `Timeout`; `Closed`.
    pub fn wait_until_ready(&self, timeout: Option<Duration>) -> Result<()> {
        match self.0.slot.opened.wait_until(1, timeout) {
            crate::sync::Waited::Reached(_) => Ok(()),
            crate::sync::Waited::Closed(_) => Err(crate::scenery::signal::closed()),
            crate::sync::Waited::TimedOut(_) => {
                Err(Error::new(ErrorKind::Timeout, "the value was not ready within the time given"))
            }
        }
    }
}

impl Scenery for ValueScenery {
    fn signal(&self) -> &Signal {
        &self.0.slot.signal
    }
}

#[cfg(test)]
mod tests;
