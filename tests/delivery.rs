//! What must hold of writes on their way to the source, of the list of those that are on it or have failed, and of
//! conflicts, through the public interface alone. Each test's name begins with the number of the behaviour it holds.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "delivery/barrier.rs"]
mod barrier;
#[path = "delivery/batches.rs"]
mod batches;
#[path = "delivery/coalescing.rs"]
mod coalescing;
#[path = "delivery/conflicts.rs"]
mod conflicts;
#[path = "delivery/convergence.rs"]
mod convergence;
#[path = "delivery/facade.rs"]
mod facade;
#[path = "delivery/ground.rs"]
mod ground;
#[path = "common/limit.rs"]
mod limit;
#[path = "delivery/outbox.rs"]
mod outbox;
#[path = "delivery/parallel.rs"]
mod parallel;
#[path = "delivery/retries.rs"]
mod retries;
#[path = "behaviour/support.rs"]
#[allow(dead_code, reason = "shared with the other tests of behaviours")]
mod support;
#[path = "delivery/unavailable.rs"]
mod unavailable;
#[path = "delivery/unknown.rs"]
mod unknown;
