//! What must hold of the futures and streams: the behaviours of views, writes and events that the blocking calls are held to,
//! on four executors, and what only a future can get wrong.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

// Before those that use its macro.
#[path = "async_shim/executors.rs"]
#[macro_use]
mod executors;

#[path = "behaviour/support.rs"]
#[allow(dead_code, reason = "shared with the other tests of behaviours")]
mod support;

#[path = "async_shim/cancelling.rs"]
mod cancelling;
#[path = "async_shim/closing.rs"]
mod closing;
#[path = "async_shim/events.rs"]
mod events;
#[path = "async_shim/facade.rs"]
mod facade;
#[path = "async_shim/forms.rs"]
mod forms;
#[path = "common/limit.rs"]
mod limit;
#[path = "async_shim/many.rs"]
mod many;
#[path = "async_shim/misuse.rs"]
mod misuse;
#[path = "async_shim/send.rs"]
mod send;
#[path = "common/source.rs"]
mod source;
#[path = "common/storage.rs"]
mod storage;
#[path = "async_shim/views.rs"]
mod views;
#[path = "async_shim/writes.rs"]
mod writes;
