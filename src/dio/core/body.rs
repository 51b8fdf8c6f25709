//! Body: what a view is made of, an order or an aggregate, built by a scan once and then kept in step change by change.
//!
//! Owner: the core; a build thread makes new ones from a pinned scan.
//! Invariants: a body equals a full filter-and-sort (or a full recompute) of the rows at its Seq.

use std::ops::ControlFlow;

use crate::dio::core::ChangedRow;
use crate::dio::versions::{Pin, Versions};
use crate::scenery::accumulator::{Accumulator, BuiltIn};
use crate::scenery::index::key::Entry;
use crate::scenery::index::tree::Tree;
use crate::scenery::view_query::ViewQuery;
use crate::vista::CancelToken;
use crate::{Error, ErrorKind, Result};

/// Changed rows from which on the tree is changed in one pass.
const MANY: usize = 256;

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

impl Body {
    pub(crate) fn empty(kind: &BodyKind) -> Self {
        match kind {
            BodyKind::Table => Body::Table(Tree::new()),
            BodyKind::Value(aggregate) => Body::Value(Accumulator::new(aggregate)),
        }
    }

    /// Builds it from the rows as of the pin. On a build thread.
    pub(crate) fn build(
        kind: &BodyKind,
        query: &ViewQuery,
        versions: &Versions,
        pin: &Pin,
        cancel: &CancelToken,
    ) -> Result<Self> {
        let mut scratch = Vec::new();
        let mut entries = Vec::new();
        let mut accumulator = match kind {
            BodyKind::Table => None,
            BodyKind::Value(aggregate) => Some(Accumulator::new(aggregate)),
        };
        let mut cancelled = false;
        versions.scan(pin, &mut |row_no, row| {
            if row_no.0 % 1_024 == 0 && cancel.is_cancelled() {
                cancelled = true;
                return ControlFlow::Break(());
            }
            if query.matches(row) {
                match &mut accumulator {
                    Some(accumulator) => accumulator.add(row.fields()),
                    None => entries.push(query.entry(row_no, row, &mut scratch)),
                }
            }
            ControlFlow::Continue(())
        })?;
        if cancelled {
            return Err(Error::new(ErrorKind::Cancelled, "the view's query was replaced while it was being built"));
        }
        Ok(match accumulator {
            Some(mut accumulator) => {
                accumulator.settle();
                Body::Value(accumulator)
            }
            None => {
                entries.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(a.row.cmp(&b.row)));
                Body::Table(Tree::from_sorted(entries))
            }
        })
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
        let order = |a: &Entry, b: &Entry| a.key.cmp(&b.key).then(a.row.cmp(&b.row));
        removes.sort_unstable_by(order);
        inserts.sort_unstable_by(order);
        tree.merge_sorted(&removes, inserts);
    }
    changed
}
