//! Peers: Diorama beside other libraries, doing the same things with the same rows; what `peers` and `peers-memory` share.

pub mod contestants;
pub mod report;
pub mod rows;
pub mod scenarios;
