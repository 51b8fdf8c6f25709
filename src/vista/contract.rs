//! Contract: what every data source must do, as a suite of checks that anybody's driver can run.
//!
//! One call checks a driver against [`TableShell`](crate::vista::TableShell): what its capabilities promise works, what
//! they deny is `Unsupported`, and whatever it takes of a query it answers exactly as plain evaluation
//! ([`QueryDescriptor::apply`](crate::vista::QueryDescriptor::apply)) does. A driver says how its source is made over
//! given rows; the suite brings the rows, the queries and the writes.
//!
//! ```
//! use diorama::sources::MemoryVista;
//! use diorama::vista::{Column, ColumnType, Schema, contract};
//!
//! // The columns that the driver can hold; the suite's rows have these.
//! let schema = Schema::new("id")
//!     .with(Column::new("id", ColumnType::Text))
//!     .with(Column::new("name", ColumnType::Text).searchable())
//!     .with(Column::new("price", ColumnType::Int));
//! let fixture = contract::Fixture::new("products", schema.clone(), |rows| {
//!     Ok(MemoryVista::new("products", "id").with_schema(schema.clone()).with_rows(rows))
//! });
//! contract::check(&fixture);
//! ```
//!
//! [`Rule`] lists what is checked. What can only be checked with a hand on the source (changes from outside, a second
//! handle, a source that is away or hangs) is checked where the fixture gives that hand: see [`Subject`].
//! `docs/cookbook/writing-a-driver.md` in the repository writes a driver from nothing and runs this over it.

mod calls;
mod check;
mod others;
mod pages;
mod queries;
mod reads;
mod report;
mod sample;
mod writes;

use std::any::Any;
use std::fmt;
use std::time::Duration;

use crate::Result;
use crate::value::{Record, Value};
use crate::vista::{Schema, Vista, WriteOp};

use check::Checker;

pub use report::{ContractReport, Failure, Rule};

/// Rows with their ids, in order.
pub type Rows = Vec<(String, Record)>;

type Make<'a> = Box<dyn Fn(Rows) -> Result<Subject> + 'a>;

type Outside = Box<dyn Fn(&WriteOp) -> Result<()>>;

/// How the suite gets sources of one driver, and what they can hold.
pub struct Fixture<'a> {
    name: String,
    /// `None`: the source has rows of its own, and says itself which columns they have.
    schema: Option<Schema>,
    make: Make<'a>,
    ids: Option<Vec<String>>,
    values: Vec<(String, Vec<Value>)>,
    patience: Duration,
}

/// How long a call that was told to end may take unless the fixture says otherwise: long, for slow machines.
const PATIENCE: Duration = Duration::from_secs(20);

impl fmt::Debug for Fixture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> Fixture<'a> {
    /// A driver whose sources can be made over any rows.
    ///
    /// `schema` names the columns that a source can hold, the id column among them. `make` is called many times; each call
    /// gives a new source, not narrowed, that holds exactly these rows in this order and shares them with no other.
    pub fn new<S: Into<Subject>>(
        name: impl Into<String>,
        schema: Schema,
        make: impl Fn(Rows) -> Result<S> + 'a,
    ) -> Self {
        Self::making(name.into(), Some(schema), Box::new(move |rows| make(rows).map(Into::into)))
    }

    /// A driver whose sources are made empty and filled by inserts of the suite. It must take the ids it is given.
    pub fn seeded<S: Into<Subject>>(
        name: impl Into<String>,
        schema: Schema,
        make: impl Fn() -> Result<S> + 'a,
    ) -> Self {
        Self::new(name, schema, move |rows| {
            let subject: Subject = make()?.into();
            for (id, record) in rows {
                subject.vista.insert_value(id.as_str(), &record)?;
            }
            Ok(subject)
        })
    }

    /// A source that has rows already, or a narrowed [`Vista`]: its reads are checked against its own list, and nothing is
    /// written. The columns are those of its schema, and compared with the values that its rows have.
    pub fn over<S: Into<Subject>>(name: impl Into<String>, make: impl Fn() -> Result<S> + 'a) -> Self {
        Self::making(name.into(), None, Box::new(move |_| make().map(Into::into)))
    }

    fn making(name: String, schema: Option<Schema>, make: Make<'a>) -> Self {
        Fixture { name, schema, make, ids: None, values: Vec::new(), patience: PATIENCE }
    }

    /// Sets the values that rows have in `column` and that it is compared with, for a column that can't hold everything
    /// its type can. Null is tried besides, unless the column is mandatory.
    #[must_use]
    pub fn values<V: Into<Value>>(mut self, column: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        self.values.push((column.into(), values.into_iter().map(Into::into).collect()));
        self
    }

    /// Sets the ids that rows get, for a source that can't take any text (a number given by a database, say): at least
    /// sixteen, all different. The rules about awkward ids are left out then.
    #[must_use]
    pub fn ids<I: Into<String>>(mut self, ids: impl IntoIterator<Item = I>) -> Self {
        self.ids = Some(ids.into_iter().map(Into::into).collect());
        self
    }

    /// Sets how long a call may take that hangs in the source and was told to end, and how long a change may be under way
    /// in the stream: 20 s of real time unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// A source to be checked, and the hands that the suite gets on it. Anything that is a [`Vista`] is one without hands.
pub struct Subject {
    vista: Vista,
    second: Option<Vista>,
    outside: Option<Outside>,
    offline: Option<Box<dyn Fn(bool)>>,
    hold: Option<Box<dyn Fn() -> Box<dyn Any>>>,
    /// Dropped after the handles.
    kept: Vec<Box<dyn Any>>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("vista", &self.vista).finish_non_exhaustive()
    }
}

impl<V: Into<Vista>> From<V> for Subject {
    fn from(vista: V) -> Self {
        Subject::new(vista)
    }
}

impl Subject {
    /// A source without hands on it.
    pub fn new(vista: impl Into<Vista>) -> Self {
        Subject { vista: vista.into(), second: None, outside: None, offline: None, hold: None, kept: Vec::new() }
    }

    /// Keeps what the source needs (a directory, a server) until the suite is done with it.
    #[must_use]
    pub fn keep(mut self, needed: impl Any) -> Self {
        self.kept.push(Box::new(needed));
        self
    }

    /// A second handle of the same source, opened by itself rather than cloned.
    #[must_use]
    pub fn second(mut self, vista: impl Into<Vista>) -> Self {
        self.second = Some(vista.into());
        self
    }

    /// How somebody else changes rows (upserts, patches and deletes are asked for), past this handle. It returns once the
    /// next `list` must show the change.
    #[must_use]
    pub fn outside(mut self, change: impl Fn(&WriteOp) -> Result<()> + 'static) -> Self {
        self.outside = Some(Box::new(change));
        self
    }

    /// How the source is taken off the net (`true`) and brought back (`false`).
    #[must_use]
    pub fn offline(mut self, set_offline: impl Fn(bool) + 'static) -> Self {
        self.offline = Some(Box::new(set_offline));
        self
    }

    /// How `list` is made to hang in the source: until what is returned is dropped.
    #[must_use]
    pub fn hold<G: 'static>(mut self, hold: impl Fn() -> G + 'static) -> Self {
        self.hold = Some(Box::new(move || Box::new(hold()) as Box<dyn Any>));
        self
    }
}

/// Checks a driver. Blocks for as long as its calls take; some thousand of them.
///
/// # Panics
/// With a [`ContractReport`] when a rule is broken.
pub fn check(fixture: &Fixture<'_>) {
    if let Err(report) = try_check(fixture) {
        panic!("{report}");
    }
}

/// [`check`], for whoever wants the report.
///
/// # Errors
/// Every broken rule, with its first breaches.
pub fn try_check(fixture: &Fixture<'_>) -> Result<(), ContractReport> {
    let mut checker = Checker::new(fixture);
    checker.run();
    let report = checker.report;
    if report.failures().is_empty() { Ok(()) } else { Err(report) }
}
