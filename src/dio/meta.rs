//! Meta: the keys of a table's small map in the cache, and the forms of their values.

/// Present when the table holds everything the source had.
pub(crate) const COMPLETE: &str = "complete";
/// When the last full refresh ended: milliseconds since the Unix epoch.
pub(crate) const LAST_REFRESH: &str = "last_refresh";
/// The highest Seq stored.
pub(crate) const SEQ: &str = "seq";
/// The next row number to give.
pub(crate) const NEXT_ROW: &str = "next_row";
/// The fingerprint of the source's schema.
pub(crate) const SCHEMA: &str = "schema";
/// The source's key.
pub(crate) const SOURCE: &str = "source";
/// How many rows the source said it has.
pub(crate) const TOTAL: &str = "total";

/// A number as it is kept.
pub(crate) fn number(value: u64) -> Option<Vec<u8>> {
    Some(value.to_le_bytes().to_vec())
}

/// A number as it was kept; `None` for anything else.
pub(crate) fn read_number(bytes: Option<Vec<u8>>) -> Option<u64> {
    Some(u64::from_le_bytes(bytes?.try_into().ok()?))
}
