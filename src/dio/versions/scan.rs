//! Scan: all rows of a table as of a pin, from the disk and from memory, in parts that several threads can take.
//!
//! Flow: what memory holds is noted → each part reads its rows from the disk → the rest are the rows that no part met.
//! Invariants: each row of the pin's Seq comes once, in whatever part, while the store writes and the core changes rows
//! (`tests/views/stress`).

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::dio::fresh::FreshRows;
use crate::dio::versions::{Pin, RowMap, RowRead, RowSet, Version, Versions, expired};
use crate::value::{StoredRef, StoredRow};
use crate::{Result, RowNo, Seq};

/// A scan under way.
#[derive(Clone)]
pub(crate) struct Scan {
    seq: Seq,
    memory: RowMap<Option<StoredRow>>,
    fresh: Vec<Arc<FreshRows>>,
}

/// The rows that a part has met on the disk; `None` when its reader has stopped it.
pub(crate) type Met = Option<RowSet>;

impl Versions {
    /// Calls `each` with every row as it was at `pin`'s Seq: first those on the disk by row number, then those that only
    /// memory holds, in no order. `each` must not block nor call back into the cache.
    ///
    /// # Errors
    /// `Expired` when the pin lost its versions to the budget meanwhile.
    pub(crate) fn scan(&self, pin: &Pin, each: &mut dyn FnMut(RowNo, &StoredRow) -> ControlFlow<()>) -> Result<()> {
        self.scan_in_place(pin, &mut |row_no, row| each(row_no, &row.to_row()))
    }

    /// As [`scan`](Self::scan), with rows that are read where they lie: nothing is copied.
    pub(crate) fn scan_in_place(
        &self,
        pin: &Pin,
        each: &mut dyn FnMut(RowNo, StoredRef<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let scan = self.begin_scan(pin);
        match self.scan_part(&scan, RowNo(0), None, each)? {
            Some(met) => self.scan_rest(scan, &[met], each),
            None => Ok(()),
        }
    }

    /// Begins a scan in parts.
    pub(crate) fn begin_scan(&self, pin: &Pin) -> Scan {
        let seq = pin.seq;
        // What memory holds goes first: a version that is stored, and forgotten by memory, after the disk's state of a part
        // was frozen would otherwise be seen in neither.
        let memory = self.all_in_memory(|version| version.covers(seq));
        let fresh = self.first_loads().filter(|fresh| fresh.seq() <= seq).collect();
        Scan { seq, memory, fresh }
    }

    /// The rows on the disk with numbers from `from` up to, and without, `until`, in their order.
    pub(crate) fn scan_part(
        &self,
        scan: &Scan,
        from: RowNo,
        until: Option<RowNo>,
        each: &mut dyn FnMut(RowNo, StoredRef<'_>) -> ControlFlow<()>,
    ) -> Result<Met> {
        let mut met = RowSet::starting_at(from);
        let mut stopped = false;
        let mut failed = None;
        let mut panicked = None;
        // A panic in here is not the backend's: it goes on to the caller, but not through the backend.
        let mut guarded = |row: RowNo, stored: StoredRef<'_>| {
            catch_unwind(AssertUnwindSafe(|| each(row, stored))).unwrap_or_else(|panic| {
                panicked = Some(panic);
                ControlFlow::Break(())
            })
        };
        let mut take = |row: RowNo, bytes: &[u8]| {
            if until.is_some_and(|until| row >= until) {
                return ControlFlow::Break(());
            }
            met.insert(row);
            let flow = if let Some(version) = scan.memory.get(&row) {
                version.as_ref().map_or(ControlFlow::Continue(()), |stored| guarded(row, stored.into()))
            } else if let Some(stored) = scan.fresh.iter().find_map(|fresh| fresh.row(row)) {
                guarded(row, stored.into())
            } else {
                match StoredRef::from_bytes(bytes) {
                    Ok(stored) if stored.seq() <= scan.seq => guarded(row, stored),
                    // Overwritten since the pin; what was there before is in memory, unless there was nothing.
                    Ok(_) => match self.in_memory(row, |version| version.covers(scan.seq)) {
                        Some(RowRead::Found(stored)) => guarded(row, (&stored).into()),
                        _ => ControlFlow::Continue(()),
                    },
                    Err(error) => {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            };
            stopped = flow.is_break();
            flow
        };
        let scanned = self.read_table(|table| table.scan(from, &mut take));
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        scanned?;
        match failed {
            Some(error) => Err(error),
            None if stopped => Ok(None),
            None => Ok(Some(met)),
        }
    }

    /// Ends a scan of which all parts are read: rows that were not on the disk yet, and rows deleted from it since the pin.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub(crate) fn scan_rest(
        &self,
        scan: Scan,
        met: &[RowSet],
        each: &mut dyn FnMut(RowNo, StoredRef<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let is_met = |row: RowNo| met.iter().any(|met| met.contains(row));
        let mut rest = self.all_in_memory(|version| version.covers(scan.seq));
        rest.extend(scan.memory);
        for (row, stored) in scan.fresh.iter().flat_map(|fresh| fresh.iter()) {
            if !is_met(row) && !rest.contains_key(&row) && each(row, stored.into()).is_break() {
                return Ok(());
            }
        }
        for (row, version) in &rest {
            if let Some(stored) = version
                && !is_met(*row)
                && each(*row, stored.into()).is_break()
            {
                return Ok(());
            }
        }
        if self.is_expired(scan.seq) { Err(expired()) } else { Ok(()) }
    }
}

impl Version {
    fn covers(&self, seq: Seq) -> bool {
        self.from <= seq && seq < self.until
    }
}
