//! What must hold of a Lens, a Dio and their views, through the public interface alone. Each test's name begins with the
//! number of the behaviour it holds.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "lmdb")]
#[path = "behaviour/cache.rs"]
mod cache;
#[path = "behaviour/callbacks.rs"]
mod callbacks;
#[path = "behaviour/closing.rs"]
mod closing;
#[path = "behaviour/diagnostics.rs"]
mod diagnostics;
#[path = "behaviour/events.rs"]
mod events;
#[path = "behaviour/freshness.rs"]
mod freshness;
#[path = "behaviour/lens.rs"]
mod lens;
#[path = "common/limit.rs"]
mod limit;
#[path = "behaviour/pending.rs"]
mod pending;
#[path = "behaviour/pending_reads.rs"]
mod pending_reads;
#[path = "behaviour/queries.rs"]
mod queries;
#[path = "behaviour/renamed.rs"]
mod renamed;
#[path = "behaviour/replace_matching.rs"]
mod replace_matching;
#[path = "behaviour/stage.rs"]
mod stage;
#[path = "behaviour/stale_reads.rs"]
mod stale_reads;
#[path = "common/storage.rs"]
mod storage;
#[path = "behaviour/support.rs"]
mod support;
#[path = "behaviour/waiting.rs"]
mod waiting;
#[path = "behaviour/writes.rs"]
mod writes;
