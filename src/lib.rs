//! Diorama: a local, reactive copy of slow data, kept fresh and editable.

pub mod error;
mod numbers;
pub mod value;

pub use error::{Error, ErrorKind, Result};
pub use numbers::{Generation, RowNo, Seq};
