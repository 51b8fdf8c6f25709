//! A program that writes is killed at any moment and started again, many times: what it was told to be accepted is done
//! once, or reported.
//!
//! With a storage that fails besides, it is in `src/dio/storage_crash_tests.rs`, which shares all of this.
//!
//! The test is the source: it listens on a socket. The child is this program again, with a Dio over that source and a cache
//! on the disk. It tells what it has written, what was accepted and how it ended, and what it shows whenever it starts.
//!
//! ```text
//! DIORAMA_CRASHES=500 cargo test --release --test crash    the long run
//! DIORAMA_CRASH_SEED=…                                     the same chance again; the moments differ all the same
//! ```

#![cfg(all(unix, feature = "lmdb"))]
// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "crash/book.rs"]
mod book;
#[path = "crash/chance.rs"]
mod chance;
#[path = "crash/child.rs"]
mod child;
#[path = "common/limit.rs"]
mod limit;
#[path = "crash/run.rs"]
mod run;
#[path = "crash/source.rs"]
mod source;
#[path = "crash/wire.rs"]
mod wire;

use diorama::prelude::*;

use run::{crashes, run};

#[test]
#[ignore = "the tests below run it in a process of its own"]
fn a_child_that_writes_until_it_is_killed() {
    child::live(|life| (Lens::new().cache_at(&life.cache), Box::new(|_| {})));
}

#[test]
fn w9_whenever_it_is_killed_accepted_writes_are_done_once_and_confirmed_ones_stay() {
    run(true, crashes(16), ());
}

#[test]
fn w9_without_keys_at_the_source_nothing_accepted_is_lost_and_no_row_is_made_twice() {
    run(false, crashes(8), ());
}
