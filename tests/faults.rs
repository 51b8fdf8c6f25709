//! The fault matrix: every call of a source and of a storage that a Dio makes, failing, panicking, standing still and slow,
//! and what must hold then: who reads doesn't wait, views keep their rows, what failed is reported, the threads live on,
//! closing ends in time and names who hangs, and once the fault is over everything is as if it had not been.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "common/limit.rs"]
mod limit;
#[path = "common/source.rs"]
mod source;
#[path = "faults/sources.rs"]
mod sources;
#[path = "faults/stage.rs"]
mod stage;
#[path = "common/storage.rs"]
mod storage;
#[path = "faults/storages.rs"]
mod storages;
