//! Values: what a row is made of, how it is stored, and the one order everything is sorted by.
//!
//! Flow: [`Record`] (in memory) → [`StoredRow`] (header and CBOR bytes) → [`RowRef`] → [`ValueRef`] (one field, read
//! lazily) → [`encode_sort_key`].
//! Invariants: a lazy read equals a full decode; `compare(a, b)` equals the comparison of the encoded keys; bytes from
//! anywhere are survived.

mod cbor;
mod order;
mod path;
mod record;
mod row;
mod typed;
mod value_ref;

pub use ciborium::Value;
pub(crate) use order::{Summand, summand};
pub use order::{
    TypeRank, compare, compare_ref_to_value, compare_refs, encode_sort_key, encode_value_sort_key, same_value,
    type_rank,
};
pub use path::Path;
pub(crate) use record::is_deeper_than;
pub use record::{IntoValue, Record};
pub(crate) use row::StoredRef;
pub use row::{ROW_FORMAT_VERSION, RowIter, RowRef, StoredRow};
pub(crate) use typed::typed_row_of;
pub use value_ref::{ArrayIter, ArrayRef, MapIter, MapRef, Segments, TaggedRef, ValueRef};

/// How deep arrays, maps and tags may nest inside one field. What lies deeper counts as null: it is stored as null and
/// sorts as null. [`Record::check_depth`] refuses such a record with an error.
pub const MAX_DEPTH: usize = 128;

#[cfg(test)]
mod tests;
