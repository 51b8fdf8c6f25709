//! Journal: an append-only log on the disk of the writes that were accepted and of what became of them.
//!
//! Owner: the thread `<cache>:journal`, one per cache directory (`committer`).
//! Flow: an entry is handed over → the thread writes all that wait and syncs once → each is told that it is durable.
//! Invariants:
//! 1. What was told to be durable is found again after a crash at any moment (`whatever_fails_nothing_durable_is_lost`).
//! 2. What was refused is not found again once the disk takes anything at all, which is tried until it does, or the journal
//!    closes (`a_refused_entry_never_comes_back`,
//!    `a_write_that_was_refused_since_the_journal_failed_is_not_found_after_a_restart`).
//! 3. A file of a newer format is left as it is.
//! 4. A write whose end is durable is never found without its end (`whatever_fails_a_write_is_found_as_it_was_left`).
//!
//! Not here: delivering writes, and deciding what becomes of them. Parts: `segment` the bytes of a file, `medium` the
//! files, `log` their order, `committer` the thread, `record` what entries mean, `replay` what they say together, `room` how many bytes
//! there may be, `table` one table's writes, `registry` one journal a directory.

#[doc(hidden)]
pub mod bench_support;
mod committer;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
pub(crate) mod faulty_medium;
mod log;
mod medium;
mod record;
mod registry;
mod replay;
mod room;
mod segment;
mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use committer::Answer;
pub(crate) use record::{Acceptance, Confirmed, Outcome, bytes_for};
pub(crate) use registry::{PathJournal, for_path, has_entries, wipe};
pub(crate) use replay::{Recovered, RecoveredState};
pub(crate) use room::Reservation;
pub(crate) use table::{Acceptor, Applicant, HandOver, Replay, TableJournal};
