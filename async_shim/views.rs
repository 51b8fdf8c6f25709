//! Views: record and value views from async programs, and what all views have in common.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::call::call;
use super::streams::Generations;
use super::wait::{any, wait};
use crate::lens::Pool;
use crate::scenery::custom::CustomAggregate;
use crate::scenery::record::RecordScenery;
use crate::scenery::signal::Signal;
use crate::scenery::snapshot::TableSnapshot;
use crate::scenery::value::{Aggregate, ValueScenery};
use crate::scenery::value_builder::ValueSceneryBuilder;
use crate::value::IntoValue;
use crate::vista::{Condition, SortBy, SortDir};
use crate::{ErrorKind, Generation, Result, Scenery, Seq};

/// The methods of a builder that only add to what it wraps.
macro_rules! chained {
    ($name:ident $(<$row:ident>)?, $inner:ident; $($(#[$doc:meta])* $method:ident($($argument:ident: $kind:ty),*);)*) => {
        impl$(<$row>)? $name$(<$row>)? {
            $($(#[$doc])*
            pub fn $method(mut self, $($argument: $kind),*) -> Self {
                self.inner = $inner::$method(self.inner, $($argument),*);
                self
            })*
        }
    };
}
pub(super) use chained;

/// Waits until a view's generation is at least `at_least`.
pub(super) async fn generation(view: &impl Scenery, at_least: Generation) -> Result<Generation> {
    let look = || view.wait_for_generation(at_least, Some(Duration::ZERO));
    wait(view.signal().notifier(), at_least.0, look).await
}

/// Waits until a view's generation is beyond `since`.
pub(super) async fn change(view: &impl Scenery, since: Generation) -> Result<Generation> {
    generation(view, Generation(since.0.saturating_add(1))).await
}

/// Waits until at least one of these views is beyond the generation given with it, and gives back which are: see
/// [`crate::wait_any`].
///
/// # Errors
/// As [`crate::wait_any`], but for the timeout.
pub async fn wait_any(views: &[(&(dyn Scenery + Sync), Generation)]) -> Result<Vec<usize>> {
    let look = || {
        let views: Vec<(&dyn Scenery, Generation)> =
            views.iter().map(|(view, since)| (*view as &dyn Scenery, *since)).collect();
        crate::wait_any(&views, Some(Duration::ZERO))
    };
    loop {
        let news = views.iter().map(|(view, since)| view.signal().beyond(*since)).collect();
        match look() {
            Err(error) if error.kind() == ErrorKind::Timeout => any(news).await,
            answer => return answer,
        }
    }
}

macro_rules! view {
    ($(#[$doc:meta])* $name:ident, $inner:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name($inner);

        impl From<$inner> for $name {
            fn from(view: $inner) -> Self {
                $name(view)
            }
        }

        impl Deref for $name {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl Scenery for $name {
            fn signal(&self) -> &Signal {
                self.0.signal()
            }
        }

        impl $name {
            /// Waits until the generation is at least `at_least`, and gives back the newest.
            ///
            /// # Errors
            /// As [`Scenery::wait_for_generation`], but for the timeout.
            pub async fn wait_for_generation(&self, at_least: Generation) -> Result<Generation> {
                generation(&self.0, at_least).await
            }

            /// Waits until the generation is beyond `since`, and gives back the newest.
            ///
            /// # Errors
            /// As [`wait_for_generation`](Self::wait_for_generation).
            pub async fn wait_for_change(&self, since: Generation) -> Result<Generation> {
                change(&self.0, since).await
            }

            /// The newest generation now, and then after each move. It ends when the Dio closes, and keeps the view.
            pub fn generations(&self) -> Generations<$inner> {
                Generations::new(self.0.clone())
            }
        }
    };
}

pub(super) use view;

view! {
    /// One row, followed by its id: a [`RecordScenery`] whose waits are futures. Cheap to clone.
    AsyncRecordScenery, RecordScenery
}

view! {
    /// A live aggregate: a [`ValueScenery`] whose waits are futures. Cheap to clone.
    AsyncValueScenery, ValueScenery
}

impl AsyncValueScenery {
    /// Waits until the value takes in everything up to `seq`, whether or not that changes it.
    ///
    /// # Errors
    /// As [`ValueScenery::wait_for_seq`], but for the timeout.
    pub async fn wait_for_seq(&self, seq: Seq) -> Result<Seq> {
        let look = || self.0.wait_for_seq(seq, Some(Duration::ZERO));
        if let Err(error) = look()
            && error.kind() == ErrorKind::Timeout
        {
            self.0.opened().reached(1).await;
        }
        wait(self.0.taken_in(), seq.0, look).await
    }

    /// Waits until the first value is there.
    ///
    /// # Errors
    /// As [`ValueScenery::wait_until_ready`], but for the timeout.
    pub async fn wait_until_ready(&self) -> Result<()> {
        wait(self.0.ready(), 1, || self.0.wait_until_ready(Some(Duration::ZERO))).await
    }
}

/// Describes a value view before it is opened: [`AsyncDio::value_scenery`](super::AsyncDio::value_scenery).
#[must_use = "nothing is opened before `open` or `open_now`"]
pub struct AsyncValueSceneryBuilder {
    inner: ValueSceneryBuilder,
    pool: Arc<Pool>,
}

chained! { AsyncValueSceneryBuilder, ValueSceneryBuilder;
    /// The number of rows.
    count();
    /// The sum of a column: see [`Aggregate::Sum`].
    sum(column: impl Into<String>);
    /// The mean of a column: see [`Aggregate::Avg`].
    avg(column: impl Into<String>);
    /// The least value of a column: see [`Aggregate::Min`].
    min(column: impl Into<String>);
    /// The greatest value of a column: see [`Aggregate::Max`].
    max(column: impl Into<String>);
    /// How many different values a column has: see [`Aggregate::Distinct`].
    distinct(column: impl Into<String>);
    /// This aggregate.
    aggregate(aggregate: Aggregate);
    /// The order of the rows that [`computed`](Self::computed) gets.
    sort(path: impl Into<Arc<str>>, dir: SortDir);
    /// As [`sort`](Self::sort), by a column with a collation of its own.
    sort_with(by: SortBy);
    /// Only over rows whose column (or dotted path) equals this value.
    where_eq(path: impl Into<Arc<str>>, value: impl IntoValue);
    /// Only over rows for which this holds too.
    condition(condition: Condition);
    /// Only over rows in which this text occurs, whatever its case.
    search(text: impl Into<String>);
}

impl AsyncValueSceneryBuilder {
    pub(super) fn new(inner: ValueSceneryBuilder, pool: Arc<Pool>) -> Self {
        AsyncValueSceneryBuilder { inner, pool }
    }

    /// An aggregate of your own: see [`ValueSceneryBuilder::custom`].
    pub fn custom<A: CustomAggregate + 'static>(mut self, make: impl Fn() -> A + Send + Sync + 'static) -> Self {
        self.inner = self.inner.custom(make);
        self
    }

    /// A function of a snapshot of the matching rows: see [`ValueSceneryBuilder::computed`].
    pub fn computed<V: IntoValue>(
        mut self,
        function: impl Fn(&TableSnapshot) -> Result<V> + Send + Sync + 'static,
    ) -> Self {
        self.inner = self.inner.computed(function);
        self
    }

    /// Opens the view; ready when it has its first value.
    ///
    /// # Errors
    /// As [`ValueSceneryBuilder::open`].
    pub async fn open(self) -> Result<AsyncValueScenery> {
        let view = self.open_now().await?;
        view.wait_until_ready().await?;
        Ok(view)
    }

    /// Opens the view, which gets its value behind.
    ///
    /// # Errors
    /// As [`ValueSceneryBuilder::open_now`].
    pub async fn open_now(self) -> Result<AsyncValueScenery> {
        let inner = self.inner;
        call(&self.pool, move || inner.open_now()).await.map(AsyncValueScenery)
    }
}
