//! Value scenery builder: which aggregate over which rows.

use std::sync::Arc;

use crate::dio::DioInner;
use crate::dio::core::{Message, Opening};
use crate::scenery::signal::Dropped;
use crate::scenery::value::{Aggregate, ValueScenery, ValueSlot};
use crate::sync::{Rank, Role, may_wait_for};
use crate::value::IntoValue;
use crate::vista::{Condition, QueryDescriptor};
use crate::{Error, ErrorKind, Result};

/// Describes a value view before it is opened: [`Dio::value_scenery`](crate::Dio::value_scenery).
#[must_use = "nothing is opened before `open` or `open_now`"]
#[derive(Debug, Clone)]
pub struct ValueSceneryBuilder {
    dio: Arc<DioInner>,
    query: QueryDescriptor,
    aggregate: Option<Aggregate>,
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
        self.aggregate = Some(aggregate);
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
    /// `Invalid` when no aggregate was chosen; an unknown column; `Closed`; `WouldDeadlock` on a thread of the library that
    /// views are built on.
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
        let Some(aggregate) = self.aggregate else {
            return Err(Error::new(ErrorKind::Invalid, "a value view needs an aggregate: call `count`, `sum`, …")
                .with("table", self.dio.name.to_string()));
        };
        let aggregate = aggregate.built_in();
        if let Some(column) = aggregate.column() {
            self.dio
                .schema
                .check_path(column.as_str())
                .map_err(|error| error.with("table", self.dio.name.to_string()))?;
        }
        let query = Arc::new(self.dio.view_query(&self.query)?);
        let slot = Arc::new(ValueSlot::new(self.dio.signal(), Dropped::new(self.dio.core.bell().clone())));
        let view = ValueScenery::new(slot.clone());
        self.dio.send(Message::OpenValue { slot: Opening::new(slot), query, aggregate })?;
        Ok(view)
    }
}
