//! Journal: an append-only log on the disk of the writes that were accepted and of what became of them.
//!
//! Owner: the thread `<cache>:journal`, one per cache directory (`committer`).
//! Flow: an entry is handed over → the thread writes all that wait and syncs once → each is told that it is durable.
//! Invariants:
//! 1. What was told to be durable is found again after a crash at any moment (`whatever_fails_nothing_durable_is_lost`).
//! 2. What was refused is not found again once the log goes on behind it (`a_refused_entry_never_comes_back`).
//! 3. A file of a newer format is left as it is.
//!
//! Not here: what the entries mean, and when they may be forgotten.

mod committer;
mod log;
mod medium;
mod segment;
#[cfg(test)]
mod tests;

pub(crate) use committer::Journal;
pub(crate) use log::{Limits, Opened};
pub(crate) use medium::Directory;
