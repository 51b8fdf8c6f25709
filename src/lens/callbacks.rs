//! Callbacks: the user's code that a Lens runs in the place of the sensible default.

use std::fmt;
use std::sync::Arc;

use crate::lens::conflict::{Conflict, Resolution, WriteRequest};
use crate::vista::{ChangeEvent, QueryDescriptor, Written};
use crate::{Dio, Result};

type ForDio = Arc<dyn Fn(&Dio) -> Result<()> + Send + Sync>;
type ForQuery = Arc<dyn Fn(&Dio, &QueryDescriptor) -> Result<()> + Send + Sync>;
type ForWrite = Arc<dyn Fn(&Dio, &WriteRequest<'_>) -> Result<Written> + Send + Sync>;
type ForConflict = Arc<dyn Fn(&Dio, &Conflict<'_>) -> Result<Resolution> + Send + Sync>;
type ForEvent = Arc<dyn Fn(&Dio, ChangeEvent) -> Result<()> + Send + Sync>;

/// The callbacks of a Lens. Each runs under no lock, on the thread named, and its panic fails that one operation.
#[derive(Clone, Default)]
pub struct LensCallbacks {
    pub(crate) on_start: Option<ForDio>,
    pub(crate) on_refresh: Option<ForDio>,
    pub(crate) on_query: Option<ForQuery>,
    pub(crate) on_write: Option<ForWrite>,
    pub(crate) on_conflict: Option<ForConflict>,
    pub(crate) on_event: Option<ForEvent>,
    /// Whether `on_event` drives a future, which a thread of the application is never made to do.
    #[cfg(feature = "async")]
    pub(crate) on_event_is_async: bool,
    /// In whose context futures are driven.
    #[cfg(feature = "async")]
    pub(crate) runtime: crate::async_shim::runtime::Runtime,
}

impl LensCallbacks {
    /// Whether the first copy is made by a callback (refresher's thread).
    pub fn has_on_start(&self) -> bool {
        self.on_start.is_some()
    }

    /// Whether refreshes are made by a callback (refresher's thread).
    pub fn has_on_refresh(&self) -> bool {
        self.on_refresh.is_some()
    }

    /// Whether rows are brought by a callback, query by query (a load thread of the Lens, or the thread of the library that
    /// waits for them).
    pub fn has_on_query(&self) -> bool {
        self.on_query.is_some()
    }

    /// Whether a new Dio copies its source, or has a callback do so.
    pub(crate) fn copies_at_start(&self) -> bool {
        self.on_query.is_none() || self.on_start.is_some()
    }

    /// Whether writes are delivered by a callback (writer's thread).
    pub fn has_on_write(&self) -> bool {
        self.on_write.is_some()
    }

    /// Whether the delivery of a write may call back.
    pub(crate) fn uses_dio_to_write(&self) -> bool {
        self.on_write.is_some() || self.on_conflict.is_some()
    }

    /// Whether a callback decides over conflicts (writer's thread).
    pub fn has_on_conflict(&self) -> bool {
        self.on_conflict.is_some()
    }

    /// Whether changes from outside are taken in by a callback (the thread that calls `handle_event`).
    pub fn has_on_event(&self) -> bool {
        self.on_event.is_some()
    }
}

impl fmt::Debug for LensCallbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LensCallbacks")
            .field("on_start", &self.has_on_start())
            .field("on_refresh", &self.has_on_refresh())
            .field("on_query", &self.has_on_query())
            .field("on_write", &self.has_on_write())
            .field("on_conflict", &self.has_on_conflict())
            .field("on_event", &self.has_on_event())
            .finish()
    }
}
