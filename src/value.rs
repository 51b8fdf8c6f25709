//! Values: what a row is made of, how it is stored, and the one order everything is sorted by.

pub use ciborium::Value;
