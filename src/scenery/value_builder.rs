//! Value scenery builder: which aggregate over which rows.

use std::fmt;
use std::sync::Arc;

use crate::dio::DioInner;
use crate::dio::core::Message;
use crate::scenery::custom::{Compute, CustomAggregate, CustomCode, MakeAggregate, OffCore};
use crate::scenery::signal::Dropped;
use crate::scenery::snapshot::TableSnapshot;
use crate::scenery::value::{Aggregate, TakenIn, ValueScenery, ValueSlot};
use crate::sync::{Notifier, Rank, Role, may_wait_for};
use crate::value::IntoValue;
use crate::vista::{Condition, QueryDescriptor, SortBy, SortDir};
use crate::{Error, ErrorKind, Result};

/// Describes a value view before it is opened: [`Dio::value_scenery`](crate::Dio::value_scenery).
#[must_use = "nothing is opened before `open` or `open_now`"]
#[derive(Debug, Clone)]
pub struct ValueSceneryBuilder {
    dio: Arc<DioInner>,
    query: QueryDescriptor,
    aggregate: Option<Chosen>,
}

/// What is to be computed.
#[derive(Clone)]
enum Chosen {
    BuiltIn(Aggregate),
    Custom(MakeAggregate),
    Computed(Compute),
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chosen::BuiltIn(aggregate) => aggregate.fmt(f),
            Chosen::Custom(_) => f.write_str("Custom"),
            Chosen::Computed(_) => f.write_str("Computed"),
        }
    }
}

impl ValueSceneryBuilder {
    pub(crate) fn new(dio: Arc<DioInner>) -> Self {
        ValueSceneryBuilder { dio, query: QueryDescriptor::default(), aggregate: None }
    }

    /// How many rows there are.
    pub fn count(self) -> Self {
        self.aggregate(Aggregate::Count)
    }

    /// The exact sum of a column: see [`Aggregate::Sum`].
    pub fn sum(self, column: impl Into<String>) -> Self {
        self.aggregate(Aggregate::Sum(column.into()))
    }

    /// The mean of a column's numbers, rounded once: see [`Aggregate::Avg`].
    ///
    /// ```
    /// # fn main() -> diorama::Result<()> {
    /// use diorama::prelude::*;
    ///
    /// let rows = [("a", record! { "price" => 1 }), ("b", record! { "price" => 2 }), ("c", record! { "price" => "?" })];
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("products", "id").with_rows(rows))?;
    /// let mean = dio.value_scenery().avg("price").open()?;
    /// assert_eq!((mean.float(), mean.skipped()), (Some(1.5), 1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn avg(self, column: impl Into<String>) -> Self {
        self.aggregate(Aggregate::Avg(column.into()))
    }

    /// The least value of a column that is not null: see [`Aggregate::Min`].
    pub fn min(self, column: impl Into<String>) -> Self {
        self.aggregate(Aggregate::Min(column.into()))
    }

    /// The greatest value of a column that is not null: see [`Aggregate::Max`].
    ///
    /// ```
    /// # fn main() -> diorama::Result<()> {
    /// use diorama::prelude::*;
    ///
    /// let rows = [("a", record! { "delay" => 5 }), ("b", record! { "delay" => 90 })];
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("flights", "id").with_rows(rows))?;
    /// let worst = dio.value_scenery().max("delay").open()?;
    /// let kinds = dio.value_scenery().distinct("delay").condition(Condition::gt("delay", 0)).open()?;
    /// assert_eq!((worst.int(), kinds.int()), (Some(90), Some(2)));
    /// dio.patched("b", record! { "id" => "b", "delay" => 5 })?;
    /// assert_eq!((worst.int(), kinds.int()), (Some(5), Some(1)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn max(self, column: impl Into<String>) -> Self {
        self.aggregate(Aggregate::Max(column.into()))
    }

    /// How many different values a column has, null not counted: see [`Aggregate::Distinct`].
    pub fn distinct(self, column: impl Into<String>) -> Self {
        self.aggregate(Aggregate::Distinct(column.into()))
    }

    /// This aggregate.
    pub fn aggregate(mut self, aggregate: Aggregate) -> Self {
        self.aggregate = Some(Chosen::BuiltIn(aggregate));
        self
    }

    /// An aggregate of your own, which takes rows in and out: see [`CustomAggregate`]. `make` makes an empty one; it is
    /// called again after a panic.
    ///
    /// It runs on a build thread of the Lens, so that the value follows a change soon after it:
    /// [`ValueScenery::wait_for_seq`] waits for it.
    pub fn custom<A: CustomAggregate + 'static>(mut self, make: impl Fn() -> A + Send + Sync + 'static) -> Self {
        self.aggregate = Some(Chosen::Custom(Arc::new(move || Box::new(make()))));
        self
    }

    /// A function of a snapshot of the matching rows, in the order of [`sort`](Self::sort). It is computed anew when a
    /// matching row has changed; changes that come while it runs make it run once more.
    ///
    /// It runs on a build thread of the Lens, on which views are opened and sorted, too: what takes long delays those. The
    /// value follows a change soon after it: [`ValueScenery::wait_for_seq`] waits for it. When the function fails or
    /// panics, the view keeps its last value and says [`ValueStatus::Error`](crate::ValueStatus::Error) until it works
    /// again.
    ///
    /// ```
    /// # fn main() -> diorama::Result<()> {
    /// use diorama::prelude::*;
    ///
    /// let rows = [("a", record! { "delay" => 5 }), ("b", record! { "delay" => 90 }), ("c", record! { "delay" => 7 })];
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("flights", "id").with_rows(rows))?;
    /// let median = dio
    ///     .value_scenery()
    ///     .sort("delay", SortDir::Asc)
    ///     .computed(|flights| Ok(flights.row(flights.row_count() / 2).and_then(|row| row.int("delay"))))
    ///     .open()?;
    /// assert_eq!(median.int(), Some(7));
    /// dio.patched("a", record! { "id" => "a", "delay" => 30 })?;
    /// median.wait_for_seq(dio.seq(), None)?;
    /// assert_eq!(median.int(), Some(30));
    /// # Ok(())
    /// # }
    /// ```
    pub fn computed<V: IntoValue>(
        mut self,
        function: impl Fn(&TableSnapshot) -> Result<V> + Send + Sync + 'static,
    ) -> Self {
        self.aggregate = Some(Chosen::Computed(Arc::new(move |rows| function(rows).map(V::into_value))));
        self
    }

    /// The order of the rows that [`computed`](Self::computed) gets; a second call sorts ties of the first. No other
    /// aggregate depends on an order.
    pub fn sort(mut self, path: impl Into<Arc<str>>, dir: SortDir) -> Self {
        self.query.sort.push(SortBy::new(path, dir));
        self
    }

    /// As [`sort`](Self::sort), by a column with a collation of its own.
    pub fn sort_with(mut self, by: SortBy) -> Self {
        self.query.sort.push(by);
        self
    }

    /// Only over rows whose column (or dotted path) equals this value.
    pub fn where_eq(self, path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        self.condition(Condition::eq(path, value))
    }

    /// Only over rows for which this holds too.
    pub fn condition(mut self, condition: Condition) -> Self {
        self.query.conditions.push(condition);
        self
    }

    /// Only over rows in which this text occurs, whatever its case.
    pub fn search(mut self, text: impl Into<String>) -> Self {
        self.query.search = Some(text.into());
        self
    }

    /// Opens the view and returns when it has its first value.
    ///
    /// # Errors
    /// `Invalid` when no aggregate was chosen; an unknown column; what [`on_query`](crate::LensBuilder::on_query) failed with;
    /// `Closed`; `WouldDeadlock` on a thread of the library that views are built on.
    pub fn open(self) -> Result<ValueScenery> {
        may_wait_for(Rank::new(self.dio.level, Role::Build), "the filling of a view")?;
        let view = self.open_now()?;
        view.wait_until_ready(None)?;
        Ok(view)
    }

    /// Opens the view and returns at once; its generation moves when it has its first value.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for the waiting.
    pub fn open_now(self) -> Result<ValueScenery> {
        let Some(chosen) = self.aggregate.clone() else {
            return Err(Error::new(ErrorKind::Invalid, "a value view needs an aggregate: call `count`, `sum`, …")
                .with("table", self.dio.name.to_string()));
        };
        if let Chosen::BuiltIn(aggregate) = &chosen
            && let Some(column) = aggregate.column()
        {
            self.dio.schema.check_path(column).map_err(|error| self.dio.name_error(error))?;
        }
        let query = Arc::new(self.dio.view_query(&self.query)?);
        let taken_in = match &chosen {
            Chosen::BuiltIn(_) => TakenIn::WithItsDio(self.dio.reader.versions.clone()),
            Chosen::Custom(_) | Chosen::Computed(_) => TakenIn::Behind(Notifier::new(0)),
        };
        let dropped = Dropped::new(self.dio.core.bell().clone());
        let inquiry = self.dio.new_inquiry();
        let asking = self.dio.inquire(inquiry.as_ref(), &self.query)?;
        let slot = Arc::new(ValueSlot::new(self.dio.signal(), dropped, taken_in, asking.as_ref()));
        let view = ValueScenery::new(slot.clone(), self.dio.clone(), inquiry.clone());
        let slot = self.dio.opening(format!("value {chosen:?} {}", query.canonical()), &slot);
        let message = match chosen {
            Chosen::BuiltIn(aggregate) => Message::OpenValue { slot, query, aggregate: aggregate.built_in() },
            Chosen::Custom(make) => Message::OpenCustom { slot, query, user: self.off_core(CustomCode::kept(make)) },
            Chosen::Computed(compute) => {
                let code = CustomCode::Computed(compute, self.dio.reader.clone());
                Message::OpenCustom { slot, query, user: self.off_core(code) }
            }
        };
        self.dio.send(message)?;
        self.dio.ask_for(inquiry.as_ref(), asking.as_ref());
        Ok(view)
    }

    fn off_core(&self, code: CustomCode) -> OffCore {
        OffCore::new(code, self.dio.lens.build_pool.clone(), Rank::new(self.dio.level, Role::Build))
    }
}
