//! Custom aggregate: what a user's code makes of a view's rows, kept up by additions and removals or computed anew.
//!
//! Owner: the core holds it and never runs it; one job at a time on a build thread does.
//! Invariants: user code runs under no lock and inside a fence against panics; what panicked is made anew from all rows
//! (`a_panic_is_an_error_and_what_follows_starts_anew`); its drop, user code too, is left to a build thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::dio::core::ViewSlot;
use crate::dio::versions::Pin;
use crate::lens::Pool;
use crate::scenery::snapshot::{RowReader, TableSnapshot};
use crate::scenery::value::ValueSlot;
use crate::scenery::view_query::ViewQuery;
use crate::sync::{Rank, catch_panic, catch_user};
use crate::value::{RowRef, StoredRow, Value};
use crate::{Error, ErrorKind, Result};

const WHAT: &str = "the custom aggregate";

/// An aggregate of your own that is kept up row by row: [`ValueSceneryBuilder::custom`](crate::ValueSceneryBuilder::custom).
///
/// It is called on a build thread of the Lens, one call at a time, under no lock. It must depend on the rows alone: each is
/// added once and removed as it was added, in any order. A panic makes the view say [`ValueStatus::Error`] and keep its
/// last value; with the next change the aggregate is made anew from all rows.
///
/// [`ValueStatus::Error`]: crate::ValueStatus::Error
///
/// ```
/// # fn main() -> diorama::Result<()> {
/// use diorama::prelude::*;
/// use diorama::value::RowRef;
/// use diorama::CustomAggregate;
///
/// /// The sum of price times amount.
/// #[derive(Default)]
/// struct Worth(i64);
///
/// fn worth(row: RowRef<'_>) -> i64 {
///     let int = |column| row.get(column).and_then(|value| value.as_i64()).unwrap_or(0);
///     int("price") * int("amount")
/// }
///
/// impl CustomAggregate for Worth {
///     fn add(&mut self, row: RowRef<'_>) {
///         self.0 += worth(row);
///     }
///     fn remove(&mut self, row: RowRef<'_>) {
///         self.0 -= worth(row);
///     }
///     fn result(&self) -> diorama::Result<Value> {
///         Ok(self.0.into())
///     }
/// }
///
/// let rows = [("a", record! { "price" => 3, "amount" => 10 }), ("b", record! { "price" => 5, "amount" => 1 })];
/// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("stock", "id").with_rows(rows))?;
/// let stock = dio.value_scenery().custom(Worth::default).open()?;
/// assert_eq!(stock.int(), Some(35));
/// dio.patched("b", record! { "id" => "b", "price" => 5, "amount" => 2 })?;
/// stock.wait_for_seq(dio.seq(), None)?;
/// assert_eq!(stock.int(), Some(40));
/// # Ok(())
/// # }
/// ```
pub trait CustomAggregate: Send {
    /// Takes in a row.
    fn add(&mut self, row: RowRef<'_>);

    /// Takes out a row that was added.
    fn remove(&mut self, row: RowRef<'_>);

    /// The value of the rows that are in. Called once after each set of changes.
    ///
    /// # Errors
    /// When the rows have no value: the view keeps its last one and says `Error` until there is one again.
    fn result(&self) -> Result<Value>;
}

/// Makes an empty aggregate.
pub(crate) type MakeAggregate = Arc<dyn Fn() -> Box<dyn CustomAggregate> + Send + Sync>;
/// Computes a value from a snapshot.
pub(crate) type Compute = Arc<dyn Fn(&TableSnapshot) -> Result<Value> + Send + Sync>;

/// A row before and after a change, as far as it belongs to the view.
pub(crate) type RowStep = (Option<StoredRow>, Option<StoredRow>);

/// An aggregate that is kept up row by row.
pub(crate) struct Kept {
    make: MakeAggregate,
    /// `None` before the first row, while a job has it, and after a panic. The lock is held to take it and to put it back.
    state: Mutex<Option<Box<dyn CustomAggregate>>>,
}

impl Kept {
    fn new(make: MakeAggregate) -> Self {
        Kept { make, state: Mutex::new(None) }
    }

    /// Whether it can go on from the rows that it has taken in so far.
    pub(crate) fn can_go_on(&self) -> bool {
        self.state.lock().is_some()
    }

    /// Begins anew with all rows as of the pin. `slot` is asked now and then whether anyone still wants it.
    fn begin(&self, query: &ViewQuery, pin: &Pin, slot: &ValueSlot) -> Result<Value> {
        let old = self.state.lock().take();
        catch_user(WHAT, || drop(old))?;
        let mut aggregate = None;
        let outcome = catch_user(WHAT, || {
            let aggregate = aggregate.insert((self.make)());
            let mut unwanted = false;
            pin.versions().scan(pin, &mut |row_no, row| {
                unwanted = row_no.0 % 1_024 == 0 && slot.is_dropped();
                if unwanted {
                    return ControlFlow::Break(());
                }
                if query.matches(row) {
                    aggregate.add(row.fields());
                }
                ControlFlow::Continue(())
            })?;
            if unwanted {
                return Err(Error::new(ErrorKind::Cancelled, "nobody looks at the view any more"));
            }
            Ok(())
        });
        self.end(aggregate, outcome.and_then(|scanned| scanned))
    }

    /// Takes changes in, one after the other.
    fn go_on(&self, steps: &[RowStep]) -> Result<Value> {
        let mut aggregate = self.state.lock().take();
        let outcome = catch_user(WHAT, || {
            let Some(aggregate) = &mut aggregate else { return };
            for (before, after) in steps {
                if let Some(before) = before {
                    aggregate.remove(before.fields());
                }
                if let Some(after) = after {
                    aggregate.add(after.fields());
                }
            }
        });
        self.end(aggregate, outcome)
    }

    /// Asks for the value and keeps the aggregate, unless something panicked: nobody knows what it has taken in then.
    fn end(&self, aggregate: Option<Box<dyn CustomAggregate>>, outcome: Result<()>) -> Result<Value> {
        let Some(aggregate) = aggregate else {
            let lost =
                || Error::new(ErrorKind::Panicked, "the custom aggregate is gone; the next change makes it anew");
            return Err(outcome.err().unwrap_or_else(lost));
        };
        match outcome.and_then(|()| catch_user(WHAT, || aggregate.result())) {
            Ok(result) => {
                *self.state.lock() = Some(aggregate);
                result
            }
            Err(error) => {
                // That it failed says enough of what its drop may add.
                let _ = catch_user(WHAT, || drop(aggregate));
                Err(error)
            }
        }
    }
}

/// What the user gave.
pub(crate) enum CustomCode {
    /// Additions and removals.
    Kept(Kept),
    /// A function of a snapshot.
    Computed(Compute, Arc<RowReader>),
}

impl CustomCode {
    pub(crate) fn kept(make: MakeAggregate) -> Self {
        CustomCode::Kept(Kept::new(make))
    }
}

/// Holds user code where it must not run: when the holder lets go of it, a build thread drops it.
pub(crate) struct OffCore {
    /// `None` only once it is being dropped.
    code: Option<Arc<CustomCode>>,
    pool: Arc<Pool>,
    rank: Rank,
}

impl OffCore {
    pub(crate) fn new(code: CustomCode, pool: Arc<Pool>, rank: Rank) -> Self {
        OffCore { code: Some(Arc::new(code)), pool, rank }
    }

    pub(crate) fn code(&self) -> Option<&Arc<CustomCode>> {
        self.code.as_ref()
    }
}

impl Drop for OffCore {
    fn drop(&mut self) {
        // Moved and not cloned: the build thread could be done with a clone first, and this one would be the last.
        let code = self.code.take();
        let job = Box::new(move || drop(code));
        // Refused only once the Lens is closed, or has more jobs than it can hold: the fence is all that is left then.
        let _ = catch_panic(WHAT, || self.pool.submit(self.rank, job));
    }
}

/// What a job computes.
pub(crate) enum Work {
    /// All rows as of the pin.
    Begin(Pin),
    /// The changes since the last time.
    GoOn(Vec<RowStep>),
    /// The rows of this snapshot.
    Compute(TableSnapshot),
}

impl Work {
    /// Runs the user's code. On a build thread.
    pub(crate) fn run(self, code: &CustomCode, query: &ViewQuery, slot: &ValueSlot) -> Result<Value> {
        match (self, code) {
            (Work::Begin(pin), CustomCode::Kept(kept)) => kept.begin(query, &pin, slot),
            (Work::GoOn(steps), CustomCode::Kept(kept)) => kept.go_on(&steps),
            (Work::Compute(snapshot), CustomCode::Computed(compute, _)) => {
                catch_user(WHAT, || compute(&snapshot)).and_then(|result| result)
            }
            _ => Err(Error::new(ErrorKind::Invalid, "this work is not of this aggregate")),
        }
    }
}
