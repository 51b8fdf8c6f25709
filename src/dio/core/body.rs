//! Body: what a view is made of, an order or an aggregate, built by a scan once and then kept in step change by change.
//!
//! Owner: the core; a build thread makes new ones from a pinned scan.
//! Invariants: a body equals a full filter-and-sort (or a full recompute) of the rows at its Seq.

use std::ops::ControlFlow;

use crate::dio::core::ChangedRow;
use crate::dio::versions::{Pin, Versions};
use crate::scenery::accumulator::{Accumulator, BuiltIn};
use crate::scenery::index::key::{Entry, Sorted, reversed};
use crate::scenery::index::tree::{Item, Tree};
use crate::scenery::view_query::ViewQuery;
use crate::value::StoredRef;
use crate::vista::CancelToken;
use crate::{Error, ErrorKind, Result, RowNo};

/// Changed rows from which on the tree is changed in one pass.
const MANY: usize = 256;
/// A list that holds every row gets the room for so many at once, whatever the table says that it has.
const RESERVED: usize = 1 << 22;
/// A build looks so often whether it is still wanted: within a tenth of a millisecond.
const ROWS_BETWEEN_LOOKS: usize = 512;

/// What is to be built.
#[derive(Debug, Clone)]
pub(crate) enum BodyKind {
    Table,
    Value(BuiltIn),
}

pub(crate) enum Body {
    Table(Tree<Entry>),
    Value(Accumulator),
}

/// Where the rows of a new body come from.
#[derive(Clone)]
pub(crate) enum Rows {
    /// The whole table.
    Table,
    /// A ready list of the same rows, sorted by one column the other way.
    Reverse(Tree<Entry>),
    /// A ready list that holds every row that matches, and others.
    Among(Tree<Entry>),
}

impl Body {
    pub(crate) fn empty(kind: &BodyKind) -> Self {
        match kind {
            BodyKind::Table => Body::Table(Tree::new()),
            BodyKind::Value(aggregate) => Body::Value(Accumulator::new(aggregate)),
        }
    }

    /// Builds it from the rows as of the pin; ready lists are as of the pin too. On a build thread.
    pub(crate) fn build(
        kind: &BodyKind,
        query: &ViewQuery,
        rows: &Rows,
        versions: &Versions,
        pin: &Pin,
        cancel: &CancelToken,
    ) -> Result<Self> {
        check(cancel)?;
        match kind {
            BodyKind::Table => Ok(Body::Table(build_table(query, rows, versions, pin, cancel)?)),
            BodyKind::Value(aggregate) => {
                let mut accumulator = Accumulator::new(aggregate);
                scan(versions, pin, cancel, |_, row| {
                    if query.matches_fields(row.fields()) {
                        accumulator.add(row.fields());
                    }
                })?;
                accumulator.settle();
                Ok(Body::Value(accumulator))
            }
        }
    }

    /// Takes in rows of a batch: first what was, then what is. Gives back how many entries changed.
    pub(crate) fn apply<'a>(
        &mut self,
        query: &ViewQuery,
        rows: impl Iterator<Item = ChangedRow<'a>>,
        scratch: &mut Vec<u8>,
    ) -> usize {
        match self {
            Body::Table(tree) => apply_to_tree(tree, query, rows, scratch),
            Body::Value(accumulator) => {
                let mut changed = 0;
                for (_, before, after) in rows {
                    if let Some(before) = before.filter(|row| query.matches(row)) {
                        accumulator.remove(before.fields());
                        changed += 1;
                    }
                    if let Some(after) = after.filter(|row| query.matches(row)) {
                        accumulator.add(after.fields());
                        changed += 1;
                    }
                }
                accumulator.settle();
                changed
            }
        }
    }
}

fn build_table(
    query: &ViewQuery,
    rows: &Rows,
    versions: &Versions,
    pin: &Pin,
    cancel: &CancelToken,
) -> Result<Tree<Entry>> {
    let mut scratch = Vec::new();
    let mut entries = Vec::new();
    let mut take = |entries: &mut Vec<Entry>, row_no, row: StoredRef<'_>| {
        entries.extend(query.entry_in_place(row_no, row, &mut scratch));
    };
    match rows {
        Rows::Reverse(list) => return Ok(reversed(list)),
        Rows::Table => {
            if query.matches_all() {
                // What memory alone holds is a small part, or a first load.
                entries.reserve(versions.stored_rows().min(RESERVED));
            }
            scan(versions, pin, cancel, |row_no, row| take(&mut entries, row_no, row))?;
        }
        Rows::Among(list) => {
            let mut rows: Vec<RowNo> = list.iter().map(|entry| entry.row).collect();
            rows.sort_unstable();
            for rows in rows.chunks(ROWS_BETWEEN_LOOKS) {
                versions.read_in_place(pin, rows, &mut |row_no, row| take(&mut entries, row_no, row))?;
                check(cancel)?;
            }
        }
    }
    let sorted = Sorted::new(entries);
    check(cancel)?;
    Ok(Tree::from_sorted(sorted))
}

/// Calls `each` with every row as of the pin, until the view wants something else.
fn scan(
    versions: &Versions,
    pin: &Pin,
    cancel: &CancelToken,
    mut each: impl FnMut(RowNo, StoredRef<'_>),
) -> Result<()> {
    let mut rows = 0_usize;
    versions.scan_in_place(pin, &mut |row_no, row| {
        rows += 1;
        if rows.is_multiple_of(ROWS_BETWEEN_LOOKS) && cancel.is_cancelled() {
            return ControlFlow::Break(());
        }
        each(row_no, row);
        ControlFlow::Continue(())
    })?;
    check(cancel)
}

fn check(cancel: &CancelToken) -> Result<()> {
    if cancel.is_cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "the view's query was replaced while it was being built"));
    }
    Ok(())
}

fn apply_to_tree<'a>(
    tree: &mut Tree<Entry>,
    query: &ViewQuery,
    rows: impl Iterator<Item = ChangedRow<'a>>,
    scratch: &mut Vec<u8>,
) -> usize {
    let mut removes = Vec::new();
    let mut inserts = Vec::new();
    for (row_no, before, after) in rows {
        if let Some(before) = before.filter(|row| query.matches(row)) {
            removes.push(query.entry(row_no, before, scratch));
        }
        if let Some(after) = after.filter(|row| query.matches(row)) {
            inserts.push(query.entry(row_no, after, scratch));
        }
    }
    let changed = removes.len().max(inserts.len());
    if changed < MANY {
        for entry in &removes {
            tree.remove(entry);
        }
        for entry in inserts {
            tree.insert(entry);
        }
    } else {
        removes.sort_unstable_by(Item::order);
        inserts.sort_unstable_by(Item::order);
        tree.merge_sorted(&removes, inserts);
    }
    changed
}
