//! SQLite databases as a source: what is asked in SQL, what is written, and what happens while others use the file.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "sqlite/injection.rs"]
mod injection;
#[path = "sqlite/others.rs"]
mod others;
#[path = "sqlite/queries.rs"]
mod queries;
#[path = "sqlite/reading.rs"]
mod reading;
#[path = "sqlite/support.rs"]
mod support;
#[path = "sqlite/writing.rs"]
mod writing;
