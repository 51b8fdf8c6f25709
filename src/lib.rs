//! Diorama: a local, reactive copy of slow data, kept fresh and editable.
//!
//! A desktop app, a game or a service shows and edits rows that live somewhere slow: a file, a database, a web service.
//! Diorama stands in between. It keeps a copy in a cache on disk, answers every read from it, brings it up to date when
//! asked or on a schedule, shows edits at once and delivers them to the source behind, and tells exactly the views that
//! changed. It is made of plain threads and blocking calls; there is no executor, and a frame loop never waits.
//!
//! ```
//! use std::time::Duration;
//! use diorama::prelude::*;
//!
//! # fn main() -> diorama::Result<()> {
//! // The source. `CsvVista::open("products.csv", "id")` would be a file; a `TableShell` of your own can be anything.
//! let source = MemoryVista::new("products", "id").with_rows([
//!     ("a", record! { "id" => "a", "name" => "Anvil", "price" => 30 }),
//!     ("b", record! { "id" => "b", "name" => "Bell", "price" => 10 }),
//! ]);
//!
//! // The policy, and the source run through it. `cache_at("directory")` keeps the rows between runs.
//! let lens = Lens::new().in_memory().refresh_every(Duration::from_secs(300)).build()?;
//! let products = lens.make_dio(source)?;
//!
//! // Views: a sorted list, and a sum.
//! let by_price = products.table_scenery().sort("price", SortDir::Asc).open()?;
//! let total = products.value_scenery().sum("price").open()?;
//! let before = by_price.snapshot();
//! assert_eq!(before.row(0).unwrap().text("name"), Some("Bell"));
//!
//! // An edit. Every view shows it when this returns; once its ticket is confirmed, the source has it.
//! let ticket = products.write(WriteOp::patch("b", record! { "price" => 99 }))?;
//! assert_eq!(total.int(), Some(129));
//! ticket.wait(Duration::from_secs(5))?;
//!
//! // What changed, as a list widget wants it. The old snapshot is frozen.
//! let changes = by_price.changes_since(before.generation()).changes;
//! assert_eq!(changes, Changes::List(vec![Change::Move { from: 0, to: 1 }]));
//! assert_eq!(before.row(0).unwrap().int("price"), Some(10));
//!
//! let report = lens.close(Duration::from_secs(5))?;
//! assert!(report.is_closed());
//! # Ok(())
//! # }
//! ```
//!
//! # The words
//!
//! | word | what it is |
//! | --- | --- |
//! | [`Vista`] | one data source behind a narrow contract ([`TableShell`]) that tells its capabilities; ready-made: [`MemoryVista`], `CsvVista`, `SqliteVista` |
//! | [`Lens`] | the policy, built once: where the cache lives, callbacks, refreshing. It makes Dios |
//! | [`Dio`] | one Vista run through a Lens: its cache table, threads, write queue, events and views |
//! | [`Scenery`] | a reactive view on a Dio: [`TableScenery`], [`RecordScenery`] or [`ValueScenery`] |
//! | facade | [`Dio::vista`]: the Dio as an ordinary Vista again, answered from the cache, so that Dios stack |
//! | [`Seq`] | a Dio's number of the last published batch; snapshots, events and outcomes of writes carry it |
//! | [`Generation`] | a view's counter: it moves, by one, exactly when what the view shows moves |
//!
//! A row is a [`Record`]: columns and [`Value`]s, made with [`record!`] or from a struct of yours through serde. Its id is
//! text, whatever it looks like.
//!
//! # Views
//!
//! [`TableScenery::snapshot`] is cheap and frozen, contents included: whatever happens later, it gives the same answers.
//! There are four ways to learn that there is something new, and each fits one kind of program:
//!
//! | program | way |
//! | --- | --- |
//! | frame loop | compare [`generation()`](Scenery::generation), one atomic load, with the one painted last; with many views, [`Dio::view_moves`] first |
//! | toolkit with a repaint call | [`on_generation`](Scenery::on_generation) |
//! | worker thread | [`wait_for_change`](Scenery::wait_for_change), or [`wait_any`] for several views |
//! | thread that waits for several things | [`subscribe`](Scenery::subscribe), whose receiver works in `crossbeam_channel::select!` |
//!
//! [`changes_since`](TableScenery::changes_since) gives the steps from an older generation to the newest, index by index,
//! or [`Changes::Reset`] when a view no longer remembers that far back; [`Changes::ranges`] joins what lies together, for list
//! widgets, and [`VecMirror`] keeps a plain list in step. A list that scrolls holds on to
//! a row with [`TableSnapshot::anchor`], and a [`Selection`] keeps chosen rows by id. [`Dio::subscribe_events`] tells of rows,
//! refreshes and writes rather than of views.
//!
//! What a view shows is narrowed by [`Condition`]s, made with [`col`] or read from text, and by a search that disregards case
//! ([`QueryDescriptor::search`] has the exact rule). [`Dio::typed`] gives views, reads and writes in a struct of your own.
//!
//! # Threads and waiting
//!
//! One thread per Dio, its core, changes the Dio's state; others read the source, deliver writes and store the cache. You
//! may call from any thread of yours. What a call may wait for:
//!
//! | calls | wait for |
//! | --- | --- |
//! | `generation`, `view_moves`, `snapshot`, `row_count`, `try_row`, `status`, `seq`, `request_refresh`, `invalidate_record`; reads and edits of a [`Draft`] | nothing that is slow; fit for a frame loop |
//! | `row`, `rows`, `position_of`, `cache().get` | at most a read of the cache file, through its memory map |
//! | `patched`, `cache().insert`, `reconcile` | the core, which waits for nobody |
//! | `write`, [`Draft::save`] | the core, and before it room in the write queue and the journal, up to `write_timeout`, for which `try_write` doesn't wait |
//! | `drop_write` | the core |
//! | `open` of a view | a scan of the cached rows; with `on_query`, the source before it, unless the rows of its query are there; `open_now` doesn't |
//! | `make_dio` over an empty cache, `refresh`, [`WriteTicket::wait`], `wait_for_writes`, writes through the facade, `Import::step` | the source, whose calls are told to end after `source_timeout` |
//! | `flush`, [`Dio::write_durable`], [`WriteTicket::wait_durable`] | the disk |
//!
//! Callbacks, sources and hooks run on the library's threads, under no lock; a panic of theirs fails that one operation.
//! In them, a wait that could never end (a callback that waits for its own Dio's writes, a refresh inside a refresh) is an
//! error of kind [`WouldDeadlock`](ErrorKind::WouldDeadlock) and not a hang. On threads of your own every wait is allowed.
//!
//! # Writes
//!
//! [`Dio::write`] checks the write against the source's capabilities and schema, and returns a [`WriteTicket`] once every
//! view shows it. What then becomes of it:
//!
//! 1. **Shown.** Its row is [`PendingWrite`](RowStatus::PendingWrite): what the source last confirmed, with the writes that
//!    are not settled over it, in their order. A read of the source that began before a write never undoes it.
//! 2. **Accepted.** Over a cache on the disk it is durable as soon as the journal beside the cache has it
//!    ([`Dio::write_durable`], [`WriteTicket::wait_durable`]). Over a cache in memory no write outlives the program.
//! 3. **Delivered** to the source, or to `on_write`, after the writes of its row that came before it. What fails for now is
//!    tried again, by the [`DeliveryPolicy`]; a source that can't be reached pauses all writes. Each attempt carries the same
//!    key, by which a source that can tell repeats does a write once ([`WriteRequest`]).
//! 4. **Settled.** Confirmed, the row is `Fresh`, as the source stored it, perhaps under another id. Refused, only this
//!    write's effect is taken back; the error is in the ticket, in a `WriteFailed` event and in [`Dio::failed_writes`], from
//!    where it can be made again, corrected or not ([`Dio::retry_failed`]), or cleared.
//!
//! [`Dio::pending_writes`] lists what is not settled; one of them can be tried at once ([`Dio::retry_write`]) or taken back
//! ([`Dio::drop_write`]). What is not delivered when the program ends, or is killed, is shown as pending again at the next
//! start, and delivered then. Whether the source made a row that it was to name itself can't always be found out after a
//! failure: such a write ends as [`Unknown`](WriteState::Unknown) and is not repeated.
//!
//! When somebody else changed the row after it was last seen here, the [`ConflictPolicy`] of
//! [`LensBuilder::conflicts`] says who wins, or [`on_conflict`](LensBuilder::on_conflict) decides. Unless told otherwise
//! the write does.
//!
//! [`Dio::draft`] is for forms: a user's unsaved fields over the live row, with conflicts where both moved, and a `save` that
//! writes what changed and, refused, leaves the user his fields. [`Dio::import`] is for many rows at once, with progress, and
//! can be stopped and resumed; its rows show once the source has them.
//!
//! # Errors
//!
//! There is one [`Error`]. Its [`kind`](Error::kind) says what you can do next, its text says what happened and to which
//! table, id or file, and [`source`](std::error::Error::source) keeps the cause; a source that refuses a row may name the
//! [fields](Error::fields) that are wrong. A source that can't be reached is no error
//! for readers: they go on reading the cache, and [`Dio::status`] says why the last refresh failed.
//!
//! # Looking inside
//!
//! [`Dio::status`] says how a Dio is doing, [`Dio::diagnostics`] everything else: print it when something seems stuck. It
//! names each thread, the source or callback that it is in and for how long, what waits in each queue, every open view, and
//! what snapshots keep. Work is traced with the `tracing` crate: spans and events at debug, warnings for what failed behind.
//!
//! # Closing
//!
//! [`Lens::close`] and [`Dio::close`] refuse new work, deliver what can be delivered in the time given, wake everyone who
//! waits, end the threads, and report what was left: the journal keeps it for the next start, and without one it has failed.
//! Views keep their order and the rows in memory, and say
//! [`Closed`](ErrorKind::Closed) for the rest. Dropping the last handle of a Dio closes it too, waiting `drop_timeout` (1 s)
//! at the most for its writes. Views don't keep a Dio alive; handles, facades and event callbacks that hold a handle do.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `lmdb` | yes | the cache on disk, in LMDB: [`LensBuilder::cache_at`]; needs a C compiler |
//! | `csv` | yes | `CsvVista`: a CSV file as a source |
//! | `async` | no | futures of every call that waits, and streams, async callbacks and sources: `async_shim`; no executor comes along |
//! | `tokio` | no | `async`, and async callbacks and sources in the context of a Tokio runtime: `LensBuilder::tokio_handle`, `AsyncSource::with_tokio` |
//! | `sqlite` | no | `SqliteVista`: a table, a view or a query of a SQLite database as a source; needs a C compiler |
//!
//! `ARCHITECTURE.md` in the repository says how it works inside and what holds it together.

// For tests that share code with integration tests, which know the library by its name.
#[cfg(test)]
extern crate self as diorama;

#[cfg(feature = "async")]
#[path = "../async_shim/shim.rs"]
pub mod async_shim;
pub mod cache;
pub mod clock;
mod dio;
mod draft;
pub mod error;
mod import;
mod journal;
mod lens;
mod numbers;
mod scenery;
pub mod sources;
mod sync;
mod typed;
pub mod value;
pub mod vista;

#[cfg(feature = "async")]
pub use async_shim::{
    AsyncCacheHandle, AsyncDio, AsyncDraft, AsyncImport, AsyncLens, AsyncRecordScenery, AsyncSource, AsyncTableScenery,
    AsyncTableSceneryBuilder, AsyncTableShell, AsyncTypedDio, AsyncTypedRecord, AsyncTypedTable,
    AsyncTypedTableBuilder, AsyncValueScenery, AsyncValueSceneryBuilder, AsyncVista, AsyncWriteTicket,
};
pub use dio::bus::{EventReader, EventStats, Lagged, NoEvent};
pub use dio::delivery::DeliveryPolicy;
pub use dio::{
    CacheHandle, Cause, CloseReport, Counters, Diagnostics, Dio, DioEvent, DioShell, DioStatus, EnrichedRecord,
    FailedWrite, HotTier, PendingWrite, Refused, StoreCounters, ViewInfo, WriteOutcome, WriteState, WriteTicket,
};
pub use draft::{Draft, DraftField, DraftStatus, FieldState, Keep};
pub use error::{Error, ErrorKind, Result};
pub use import::{Import, ImportProgress, ImportRow, ImportState, IntoImportRow};
pub use lens::{Conflict, ConflictPolicy, Lens, LensBuilder, LensCallbacks, LensDefaults, Resolution, WriteRequest};
pub use numbers::{Generation, RowNo, Seq, WriteNumber};
pub use scenery::anchor::Anchor;
pub use scenery::changes::Change;
pub use scenery::custom::CustomAggregate;
pub use scenery::mirror::VecMirror;
pub use scenery::ranges::ChangeRange;
pub use scenery::record::{RecordScenery, RecordStatus};
pub use scenery::selection::Selection;
pub use scenery::signal::{GenerationReceiver, HookRegistration, Scenery, wait_any};
pub use scenery::snapshot::{FirstRows, LoadState, Row, RowStatus, Rows, TableSnapshot};
pub use scenery::table::{ChangeSet, Changes, TableScenery, TableSceneryBuilder};
pub use scenery::value::{Aggregate, ValueCounts, ValueScenery, ValueStatus};
pub use scenery::value_builder::ValueSceneryBuilder;
#[cfg(feature = "csv")]
pub use sources::CsvVista;
pub use sources::MemoryVista;
#[cfg(feature = "sqlite")]
pub use sources::SqliteVista;
pub use sync::{QueueInfo, ThreadInfo, live_threads};
pub use typed::{TypedChangeSet, TypedDio, TypedRecord, TypedSnapshot, TypedTable, TypedTableBuilder};
pub use value::{Record, Value};
pub use vista::{ChangeEvent, Col, Condition, QueryDescriptor, SortDir, TableShell, Vista, WriteOp, col};

/// Everything that most programs use.
pub mod prelude {
    #[cfg(feature = "csv")]
    pub use crate::sources::CsvVista;
    pub use crate::sources::MemoryVista;
    #[cfg(feature = "sqlite")]
    pub use crate::sources::SqliteVista;
    pub use crate::vista::{CallCx, ChangeEvent, Condition, SortBy, SortDir, Vista, WriteOp, Written, col};
    pub use crate::{
        Change, Changes, Dio, DioEvent, Draft, DraftField, DraftStatus, Error, ErrorKind, FieldState, Generation, Keep,
        Lens, LoadState, Record, RecordScenery, RowStatus, Scenery, Seq, TableScenery, TypedDio, TypedTable, Value,
        ValueScenery, record,
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

/// What `benches/journal.rs` measures. Not part of the interface.
#[doc(hidden)]
pub use journal::bench_support as __bench_journal;

/// The examples of the README, compiled and run as tests.
#[cfg(all(doctest, feature = "csv"))]
#[doc = include_str!("../README.md")]
pub struct ReadmeExamples;

/// The driver of the cookbook, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../docs/cookbook/writing-a-driver.md")]
pub struct WritingADriver;

/// The async programs of the cookbook, compiled and run as tests.
#[cfg(all(doctest, feature = "async"))]
#[doc = include_str!("../docs/cookbook/async-programs.md")]
pub struct AsyncPrograms;
