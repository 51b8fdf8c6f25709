//! Async callbacks and async sources: driven on the library's threads, by any future, with a Tokio runtime and without.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "async_callbacks/callbacks.rs"]
mod callbacks;
#[path = "async_callbacks/executors.rs"]
mod executors;
#[path = "common/limit.rs"]
mod limit;
#[path = "async_callbacks/sources.rs"]
mod sources;
#[path = "async_callbacks/support.rs"]
mod support;
#[cfg(feature = "tokio")]
#[path = "async_callbacks/tokio_runtime.rs"]
mod tokio_runtime;
#[path = "async_callbacks/wake_ups.rs"]
mod wake_ups;
