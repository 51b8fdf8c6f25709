//! Slices: batches of one table, written in as few transactions as their size allows.
//!
//! Flow: a batch, or small ones that follow each other, is cut into slices → one atomic `apply` each → the versions in memory
//! that are stored now are let go.
//! Invariants: a batch that takes several slices is bracketed: until its last one the table says that it is not complete
//! (`a_long_batch_is_bracketed`). After a failure what is not stored comes back, as a batch that can be tried again.
//!
//! Not here: the queue, and when it is tried again (`store`).

use std::sync::Arc;

use crate::cache::{CacheBatch, CacheOp, CacheTable};
use crate::dio::fresh::FreshRows;
use crate::dio::meta;
use crate::dio::store::{SLICE_BYTES, SLICE_ROWS, StoreBatch, op_bytes, user};
use crate::dio::versions::Versions;
use crate::{Error, Result, Seq};

/// What one transaction takes from the queue.
struct Slice {
    table: Arc<dyn CacheTable>,
    batch: CacheBatch,
    /// For each op (beyond a first load's) the Seq and the versions it belongs to.
    stamps: Vec<(Seq, Arc<Versions>)>,
    bytes: usize,
}

/// What became of some batches.
#[derive(Default)]
pub(super) struct Written {
    /// Bytes that are stored.
    pub(super) bytes: usize,
    /// Those of small changes.
    pub(super) small_bytes: usize,
    pub(super) rows: u64,
    pub(super) transactions: u64,
    pub(super) failure: Option<Error>,
    /// After a failure: what is to be tried again.
    pub(super) unwritten: Vec<StoreBatch>,
    pub(super) rubbish: Rubbish,
}

/// Many small things to be freed when nobody waits: freeing a load's rows takes as long as writing them.
#[derive(Default)]
pub(super) struct Rubbish {
    fresh: Vec<Arc<FreshRows>>,
    ops: Vec<Vec<CacheOp>>,
}

impl Rubbish {
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.ops.is_empty()
    }

    pub(super) fn add(&mut self, other: Rubbish) {
        self.fresh.extend(other.fresh);
        self.ops.extend(other.ops);
    }
}

/// Writes batches of one table in as few transactions as their size allows. After
/// an error the batches that are not stored come back.
pub(super) fn write(mut batches: Vec<StoreBatch>) -> Written {
    let is_long =
        |batch: &StoreBatch| batch.fresh.is_some() || batch.ops.len() > SLICE_ROWS || batch.bytes() > SLICE_BYTES;
    if batches.len() == 1
        && let Some(batch) = batches.pop_if(|batch| is_long(batch))
    {
        return write_long(batch);
    }
    let Some(first) = batches.first() else { return Written::default() };
    let mut slice = Slice::of(&first.table);
    for batch in &batches {
        for op in &batch.ops {
            slice.push(op.clone(), batch);
        }
        for (key, value) in &batch.meta {
            slice.batch.meta.retain(|(other, _)| other != key);
            slice.batch.meta.push((key.clone(), value.clone()));
        }
    }
    match slice.apply() {
        Ok(()) => Written {
            bytes: slice.bytes,
            small_bytes: batches.iter().map(StoreBatch::small_bytes).sum(),
            rows: slice.batch.ops.len() as u64,
            transactions: 1,
            ..Written::default()
        },
        Err(error) => Written { failure: Some(error), unwritten: batches, ..Written::default() },
    }
}

/// Writes one batch that is too long for one transaction. After an error its unwritten rest comes back.
///
/// The first slice brings the numbers that the rows use up, and says that the table is not complete; the last one brings
/// the rest of the meta.
fn write_long(mut batch: StoreBatch) -> Written {
    let mut written = Written::default();
    let mut opening = match bracket(&mut batch) {
        Ok(opening) => opening,
        Err(error) => return Written { failure: Some(error), unwritten: vec![batch], ..written },
    };
    let mut ops = std::mem::take(&mut batch.ops).into_iter();
    loop {
        let mut slice = Slice::of(&batch.table);
        let mut taken = 0;
        if let Some((fresh, done)) = &batch.fresh {
            for (row, stored) in fresh.iter().skip(*done) {
                if slice.is_full() {
                    break;
                }
                slice.push_fresh(CacheOp::Put { row, id: Arc::from(stored.id()), bytes: stored.bytes() });
                taken += 1;
            }
        }
        while !slice.is_full()
            && let Some(op) = ops.next()
        {
            slice.push(op, &batch);
        }
        let fresh_left = batch.fresh.as_ref().map_or(0, |(fresh, done)| fresh.rows().len() - done - taken);
        let last = ops.len() == 0 && fresh_left == 0;
        slice.batch.meta = if last { batch.meta.clone() } else { std::mem::take(&mut opening) };
        if let Err(error) = slice.apply() {
            batch.ops = slice.batch.ops.split_off(taken);
            batch.ops.extend(ops);
            return Written { failure: Some(error), unwritten: vec![batch], ..written };
        }
        if let Some((_, done)) = &mut batch.fresh {
            *done += taken;
        }
        written.bytes += slice.bytes;
        written.small_bytes += if batch.is_load { 0 } else { slice.bytes };
        written.rows += slice.batch.ops.len() as u64;
        written.transactions += 1;
        written.rubbish.ops.push(slice.batch.ops);
        if last {
            if let Some((fresh, _)) = batch.fresh {
                batch.versions.stored_fresh(&fresh);
                written.rubbish.fresh.push(fresh);
            }
            return written;
        }
    }
}

/// The meta that goes with the first slice of a long batch: the table is not complete until the last one, and no row number
/// or Seq of the batch is given again even if the last one never comes. What the table says of its completeness now is
/// added to the batch's own meta, to be said again at its end.
fn bracket(batch: &mut StoreBatch) -> Result<Vec<(String, Option<Vec<u8>>)>> {
    if batch.meta.iter().all(|(key, _)| key != meta::COMPLETE)
        && let Some(complete) = user(|| batch.table.meta(meta::COMPLETE))?
    {
        batch.meta.push((meta::COMPLETE.to_owned(), Some(complete)));
    }
    let marks = batch.meta.iter().filter(|(key, _)| key == meta::SEQ || key == meta::NEXT_ROW).cloned();
    Ok(marks.chain([(meta::COMPLETE.to_owned(), None)]).collect())
}

impl Slice {
    fn of(table: &Arc<dyn CacheTable>) -> Self {
        Slice { table: table.clone(), batch: CacheBatch::default(), stamps: Vec::new(), bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.batch.ops.len() >= SLICE_ROWS || self.bytes >= SLICE_BYTES
    }

    fn push(&mut self, op: CacheOp, batch: &StoreBatch) {
        self.bytes += op_bytes(&op);
        self.batch.ops.push(op);
        self.stamps.push((batch.seq, batch.versions.clone()));
    }

    /// A row of a first load: it comes before all others, and is let go with its load.
    fn push_fresh(&mut self, op: CacheOp) {
        self.bytes += op_bytes(&op);
        self.batch.ops.push(op);
    }

    fn apply(&self) -> Result<()> {
        let ops = &self.batch.ops;
        let span = tracing::debug_span!("store", table = self.table.name(), rows = ops.len(), bytes = self.bytes);
        span.in_scope(|| user(|| self.table.apply(&self.batch)))?;
        for (op, (seq, versions)) in ops[ops.len() - self.stamps.len()..].iter().zip(&self.stamps) {
            match op {
                CacheOp::Put { row, id, .. } => versions.stored(*row, *seq, id, false),
                CacheOp::Delete { row, id } => versions.stored(*row, *seq, id, true),
            }
        }
        Ok(())
    }
}
