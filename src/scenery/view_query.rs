//! View query: a query made ready to be asked of one row after another.

use crate::Result;
use crate::RowNo;
use crate::scenery::index::key::{Entry, SortKey};
use crate::value::StoredRow;
use crate::vista::{Filter, Guard, QueryDescriptor, Schema, SortBy, SortKeyer};

/// A checked query with its filter and sort keys compiled, and the text by which equal queries are known.
#[derive(Debug)]
pub(crate) struct ViewQuery {
    canonical: String,
    filter: Filter,
    guard: Option<Guard>,
    keyer: SortKeyer,
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
        self.filter.matches(row.fields())
    }

    /// The index entry of a row. `scratch` is a buffer to reuse.
    pub(crate) fn entry(&self, row_no: RowNo, row: &StoredRow, scratch: &mut Vec<u8>) -> Entry {
        scratch.clear();
        self.keyer.encode(row.fields(), scratch);
        Entry { key: SortKey::new(scratch), row: row_no, version: row.seq() }
    }
}
