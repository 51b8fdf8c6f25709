//! Value scenery builder: which aggregate over which rows.

use std::sync::Arc;

use crate::dio::DioInner;
use crate::dio::core::Message;
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

    /// The exact sum of a column.
    pub fn sum(self, column: impl Into<String>) -> Self {
        self.aggregate(Aggregate::Sum(column.into()))
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
            return Err(Error::new(ErrorKind::Invalid, "a value view needs an aggregate: call `count` or `sum`")
                .with("table", self.dio.name.to_string()));
        };
        if let Aggregate::Sum(column) = &aggregate {
            self.dio.schema.check_path(column).map_err(|error| error.with("table", self.dio.name.to_string()))?;
        }
        let query = Arc::new(self.dio.view_query(&self.query)?);
        let slot = Arc::new(ValueSlot::new(self.dio.signal(), Dropped::new(self.dio.core.bell().clone())));
        let view = ValueScenery::new(slot.clone());
        let slot = self.dio.opening(format!("value {aggregate:?} {}", query.canonical()), &slot);
        self.dio.send(Message::OpenValue { slot, query, aggregate })?;
        Ok(view)
    }
}
