//! Diorama: a local, reactive copy of slow data, kept fresh and editable.

pub mod cache;
pub mod clock;
mod dio;
pub mod error;
mod lens;
mod numbers;
mod scenery;
pub mod sources;
mod sync;
pub mod value;
pub mod vista;

pub use dio::bus::{EventReader, EventStats, Lagged, NoEvent};
pub use dio::{
    CacheHandle, Cause, CloseReport, Dio, DioEvent, DioShell, DioStatus, EnrichedRecord, HotTier, Refused,
    WriteOutcome, WriteState, WriteTicket,
};
pub use error::{Error, ErrorKind, Result};
pub use lens::{Lens, LensBuilder, LensCallbacks, LensDefaults};
pub use numbers::{Generation, RowNo, Seq};
pub use scenery::changes::Change;
pub use scenery::record::{RecordScenery, RecordStatus};
pub use scenery::signal::{GenerationReceiver, HookRegistration, Scenery};
pub use scenery::snapshot::{LoadState, Row, RowStatus, Rows, TableSnapshot};
pub use scenery::table::{ChangeSet, Changes, TableScenery, TableSceneryBuilder};
pub use scenery::value::{Aggregate, ValueScenery, ValueStatus};
pub use scenery::value_builder::ValueSceneryBuilder;
#[cfg(feature = "csv")]
pub use sources::CsvVista;
pub use sources::MemoryVista;
pub use sync::live_threads;
pub use value::{Record, Value};
pub use vista::{ChangeEvent, Condition, QueryDescriptor, SortDir, TableShell, Vista, WriteOp};

/// Everything that most programs use.
pub mod prelude {
    #[cfg(feature = "csv")]
    pub use crate::sources::CsvVista;
    pub use crate::sources::MemoryVista;
    pub use crate::vista::{CallCx, ChangeEvent, Condition, SortBy, SortDir, Vista, WriteOp, Written};
    pub use crate::{
        Change, Changes, Dio, DioEvent, Error, ErrorKind, Generation, Lens, LoadState, Record, RecordScenery,
        RowStatus, Scenery, Seq, TableScenery, Value, ValueScenery, record,
    };
}

/// What `benches/index.rs` measures. Not part of the interface.
#[doc(hidden)]
pub use scenery::index::bench_support as __bench;

/// What `benches/events.rs` measures. Not part of the interface.
#[doc(hidden)]
pub mod __bench_events {
    pub use crate::dio::bus::{EventHub, EventReader, EventStats, Lagged, NoEvent};
    pub use crate::sync::{Notifier, Subscription, Waited};
}
