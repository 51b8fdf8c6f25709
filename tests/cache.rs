//! The cache storage layer: every backend against one contract, and what only the one on disk can get wrong.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "cache/backends.rs"]
mod backends;
#[cfg(feature = "lmdb")]
#[path = "cache/damage.rs"]
mod damage;
#[cfg(feature = "lmdb")]
#[path = "cache/disk.rs"]
mod disk;
#[cfg(feature = "lmdb")]
#[path = "cache/growth.rs"]
mod growth;
