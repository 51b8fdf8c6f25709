//! Async shim: the library's handles for async programs: the same calls, awaited.
//!
//! Flow: a call → at once, on a thread of the library; else its asking part on one of the Lens's two small pools (`call`), and
//! its waiting part on the notifier that wakes blocking waiters (`wait`).
//! Invariants:
//! 1. Nothing here decides anything: each handle wraps the blocking one, and dereferences to it.
//! 2. No future has a thread. Dropping one at any point frees its waiter, and cancels nothing that was accepted.
//! 3. A poll never waits, but on a thread of the library, whose work an async callback is.
//!
//! Not here: an executor, timers, rows.

//! # Async programs
//!
//! With the feature `async`, every call that waits has a future: [`AsyncLens`], [`AsyncDio`], [`AsyncTableScenery`] and the
//! other types here have the blocking types' methods under the same names, to be awaited, and without their timeouts: use your
//! executor's, for a future may be dropped at any time. They work on any executor (Tokio of both kinds, smol, a bare
//! `block_on`), none comes along, and there is no thread per future.
//!
//! What doesn't wait is no future: each type dereferences to the blocking one, whose
//! [`snapshot`](crate::TableScenery::snapshot), [`generation`](crate::Scenery::generation),
//! [`status`](crate::Dio::status) and so on are there as they are.
//!
//! ```
//! use diorama::prelude::*;
//! use diorama::AsyncLens;
//!
//! # fn main() -> diorama::Result<()> {
//! # pollster::block_on(async {
//! let source = MemoryVista::new("products", "id").with_rows([("a", record! { "price" => 30 })]);
//! let lens = AsyncLens::build(Lens::new().in_memory()).await?;
//! let products = lens.make_dio(source).await?;
//! let by_price = products.table_scenery().sort("price", SortDir::Asc).open().await?;
//!
//! let before = by_price.generation();
//! let ticket = products.write(WriteOp::insert_as("b", record! { "price" => 10 })).await?;
//! by_price.wait_for_change(before).await?;
//! assert_eq!(by_price.snapshot().row(0).unwrap().int("price"), Some(10));
//!
//! ticket.wait().await?;
//! lens.close(std::time::Duration::from_secs(5)).await?;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! Three kinds of streams ([`futures_core::Stream`]) say what is new: [`AsyncTableScenery::generations`] and those of the other
//! views, [`AsyncTableScenery::change_sets`], and [`AsyncDio::subscribe_events`].
//!
//! # What a future waits for, and where
//!
//! | futures of | are woken by | use a thread of |
//! | --- | --- | --- |
//! | generations, Seqs, tickets, refreshes, first copies, events | whoever moves them | nobody |
//! | `write`, `patched`, reads of the cache | the core | the Lens's `call` pool (2 threads), for some microseconds |
//! | `make_dio`, `reconcile`, `handle_event`, `flush`, imports, calls of a source | the source or the disk | the Lens's `source-call` pool (4 threads) |
//! | `close`, [`AsyncLens::build`] | their end | a thread of their own |
//!
//! A future does nothing before it is polled. Dropping one takes back what has not begun; what has begun goes on to its end:
//! a write that was taken is delivered, a refresh that runs is applied.
//!
//! On a thread of the library (an async callback) the asking part is done then and there, so that what a callback does through
//! its Dio is part of its batch, and a wait that could never end is [`WouldDeadlock`](crate::ErrorKind::WouldDeadlock) as
//! ever.
//!
//! # Callbacks and sources
//!
//! Callbacks may be futures: [`on_start_async`](crate::LensBuilder::on_start_async),
//! [`on_refresh_async`](crate::LensBuilder::on_refresh_async), [`on_write_async`](crate::LensBuilder::on_write_async),
//! [`on_conflict_async`](crate::LensBuilder::on_conflict_async), [`on_event_async`](crate::LensBuilder::on_event_async). So may
//! the calls of a source: [`AsyncTableShell`], which [`Vista::from_async`](crate::Vista::from_async) makes an ordinary one. Any
//! Lens takes them, also one that is used without futures.
//!
//! The thread that would run the blocking callback, or make the blocking call, drives the future, so that it need not be
//! `Send`. A call is dropped when it is cancelled or its time is over; a callback when its Dio closes.
//!
//! Futures that need Tokio are given a multi-thread runtime's handle by `LensBuilder::tokio_handle`, or by
//! `AsyncSource::with_tokio` (feature `tokio`). Without it they fail with an error that says so:
//!
//! ```
//! use diorama::prelude::*;
//!
//! # fn main() -> diorama::Result<()> {
//! let lens = Lens::new()
//!     .in_memory()
//!     .on_refresh_async(async |dio| {
//!         tokio::time::sleep(std::time::Duration::from_millis(1)).await;
//!         dio.cache().insert("a", record! { "price" => 30 }).await
//!     })
//!     .build()?;
//! let error = lens.make_dio(MemoryVista::new("products", "id")).unwrap_err();
//! assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Invalid, Some("tokio_handle")));
//! # Ok(())
//! # }
//! ```
//!
//! # Ending
//!
//! Await [`AsyncLens::close`] before the program ends. The drop of the last [`AsyncDio`] closes it behind, on a thread of its
//! own; it waits for nothing but the journal's sync of writes made just before, 250 ms at the most.

mod call;
pub(crate) mod callbacks;
mod dio;
mod draft;
mod drive;
mod import;
mod lens;
pub(crate) mod runtime;
mod source;
mod streams;
mod table;
mod ticket;
mod typed;
mod views;
mod vista;
mod wait;

pub use dio::{AsyncCacheHandle, AsyncDio};
pub use draft::AsyncDraft;
pub use import::AsyncImport;
pub use lens::AsyncLens;
pub use source::{AsyncSource, AsyncTableShell, ChangesFromOutside};
pub use streams::{ChangeSets, EventStream, Generations};
pub use table::{AsyncTableScenery, AsyncTableSceneryBuilder};
pub use ticket::AsyncWriteTicket;
pub use typed::{AsyncTypedDio, AsyncTypedRecord, AsyncTypedTable, AsyncTypedTableBuilder};
pub use views::{AsyncRecordScenery, AsyncValueScenery, AsyncValueSceneryBuilder, wait_any};
pub use vista::AsyncVista;
