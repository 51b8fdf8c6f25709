//! The views: tables, snapshots, changes, records, values and the facade, through the public interface.
//!
//! A test's name begins with the behaviour it holds.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "views/changes.rs"]
mod changes;
#[path = "views/common.rs"]
mod common;
#[path = "views/custom_value.rs"]
mod custom_value;
#[path = "views/facade.rs"]
mod facade;
#[path = "common/limit.rs"]
mod limit;
#[path = "views/record.rs"]
mod record;
#[path = "views/selection.rs"]
mod selection;
#[path = "views/setters.rs"]
mod setters;
#[path = "views/sharing.rs"]
mod sharing;
#[path = "views/snapshot.rs"]
mod snapshot;
#[path = "common/storage.rs"]
mod storage;
#[path = "views/stress.rs"]
mod stress;
#[path = "views/table.rs"]
mod table;
#[path = "views/value.rs"]
mod value;
