//! The source contract: every source of this crate keeps it, and drivers that lie about anything are caught by name.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "contract/honest.rs"]
mod honest;
#[path = "contract/liars.rs"]
mod liars;
