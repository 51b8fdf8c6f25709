//! View query: a query made ready to be asked of one row after another.

use crate::Result;
use crate::RowNo;
use crate::scenery::index::key::{Entry, SortKey};
use crate::value::{RowRef, StoredRef, StoredRow};
use crate::vista::{Collation, Condition, Filter, Guard, QueryDescriptor, Schema, SortBy, SortKeyer};

/// A checked query with its filter and sort keys compiled, and the text by which equal queries are known.
#[derive(Debug)]
pub(crate) struct ViewQuery {
    canonical: String,
    filter: Filter,
    guard: Option<Guard>,
    keyer: SortKeyer,
    /// Each condition as its canonical text.
    conditions: Vec<String>,
    sort: Vec<SortBy>,
}

impl ViewQuery {
    /// # Errors
    /// `NotFound` or `Invalid`, naming the clause that the schema doesn't have.
    pub(crate) fn new(descriptor: &QueryDescriptor, schema: &Schema) -> Result<Self> {
        descriptor.check(schema)?;
        let filter = Filter::new(descriptor, schema);
        Ok(ViewQuery {
            canonical: descriptor.canonical(),
            guard: filter.guard(),
            filter,
            keyer: SortKeyer::new(&descriptor.sort),
            conditions: descriptor.conditions.iter().map(Condition::canonical).collect(),
            sort: descriptor.sort.clone(),
        })
    }

    pub(crate) fn canonical(&self) -> &str {
        &self.canonical
    }

    /// What every row that matches has in one column, if the query says so.
    pub(crate) fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// Whether entries of both stand in one order.
    pub(crate) fn orders_like(&self, other: &ViewQuery) -> bool {
        self.sort == other.sort
    }

    pub(crate) fn matches(&self, row: &StoredRow) -> bool {
        self.matches_fields(row.fields())
    }

    pub(crate) fn matches_fields(&self, fields: RowRef<'_>) -> bool {
        self.filter.matches(fields)
    }

    /// Whether it asks for the same rows in the reverse order of one column.
    pub(crate) fn is_reverse_of(&self, other: &ViewQuery) -> bool {
        let ([mine], [others]) = (self.sort.as_slice(), other.sort.as_slice()) else { return false };
        // By code point: a key of another collation says more than its one column.
        let same_column = mine.path == others.path && [mine.collation, others.collation] == [Collation::CodePoint; 2];
        same_column && mine.dir != others.dir && self.narrows(other) && other.narrows(self)
    }

    /// Whether every row that matches this one matches the other one too, as far as can be told without the rows.
    pub(crate) fn narrows(&self, other: &ViewQuery) -> bool {
        let holds_needle = match (self.filter.needle(), other.filter.needle()) {
            (_, None) => true,
            (Some(mine), Some(others)) => mine.contains(others),
            (None, Some(_)) => false,
        };
        holds_needle && other.conditions.iter().all(|condition| self.conditions.contains(condition))
    }

    /// Whether every row matches.
    pub(crate) fn matches_all(&self) -> bool {
        self.filter.is_empty()
    }

    /// The index entry of a row that is read in place, if it matches. `scratch` is a buffer to reuse.
    #[inline]
    pub(crate) fn entry_in_place(&self, row_no: RowNo, row: StoredRef<'_>, scratch: &mut Vec<u8>) -> Option<Entry> {
        let fields = row.fields();
        if !self.filter.matches(fields) {
            return None;
        }
        scratch.clear();
        self.keyer.encode(fields, scratch);
        Some(Entry { key: SortKey::new(scratch), row: row_no, version: row.seq() })
    }

    /// The index entry of a row. `scratch` is a buffer to reuse.
    pub(crate) fn entry(&self, row_no: RowNo, row: &StoredRow, scratch: &mut Vec<u8>) -> Entry {
        scratch.clear();
        self.keyer.encode(row.fields(), scratch);
        Entry { key: SortKey::new(scratch), row: row_no, version: row.seq() }
    }
}
