//! Scan: all rows of a table as of a pin, from the disk and from memory, in parts that several threads can take; and many rows
//! by their numbers.
//!
//! Flow: what memory holds is noted → each part reads its range of row numbers, from memory and from the disk → the rest are the
//! rows that no part met.
//! Invariants: each row of the pin's Seq comes once, in whatever part, while the store writes and the core changes rows
//! (`tests/views/stress`, `every_pin_sees_the_state_of_its_seq_and_nothing_stays_behind`).

use std::iter::Peekable;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::dio::fresh::FreshRows;
use crate::dio::versions::{Pin, RowRead, RowSet, Versions, expired};
use crate::value::{StoredRef, StoredRow};
use crate::{Result, RowNo, Seq};

/// A scan under way, in parts by row number.
pub(crate) struct Scan {
    seq: Seq,
    rows_of_part: u64,
    /// What memory holds of the rows of each part, until the part is read.
    memory: Vec<Mutex<Vec<InMemory>>>,
    /// Of the rows in these, the disk knows nothing that is asked for.
    fresh: Vec<Arc<FreshRows>>,
}

/// A row that memory has a version of; `None`: it is deleted.
type InMemory = (RowNo, Option<StoredRow>);

/// The rows that a part is done with; `None` when its reader has stopped it.
pub(crate) type Met = Option<RowSet>;

type Each<'a> = &'a mut dyn FnMut(RowNo, StoredRef<'_>) -> ControlFlow<()>;

impl Scan {
    /// The numbers that the rows of a part have.
    pub(crate) fn part(&self, number: usize) -> Range<RowNo> {
        let from = |number: usize| RowNo(number as u64 * self.rows_of_part);
        let is_last = number + 1 == self.memory.len();
        from(number)..if is_last { RowNo(u64::MAX) } else { from(number + 1) }
    }

    fn part_of(&self, row: RowNo) -> usize {
        usize::try_from(row.0 / self.rows_of_part).unwrap_or(usize::MAX).min(self.memory.len() - 1)
    }
}

/// A part that is being read.
struct Reading<'a> {
    memory: Peekable<std::vec::IntoIter<InMemory>>,
    met: RowSet,
    each: Each<'a>,
}

impl Reading<'_> {
    /// The rows before this one that memory alone has.
    #[inline]
    fn go_to(&mut self, row: RowNo) -> ControlFlow<()> {
        while let Some((row, version)) = self.memory.next_if(|(next, _)| *next < row) {
            self.take(row, version)?;
        }
        ControlFlow::Continue(())
    }

    fn take(&mut self, row: RowNo, version: Option<StoredRow>) -> ControlFlow<()> {
        self.met.insert(row);
        version.map_or(ControlFlow::Continue(()), |stored| (self.each)(row, (&stored).into()))
    }

    /// The next row there is in a first load or on the disk: `other` calls for what it is there, unless memory knows better.
    #[inline]
    fn meet(&mut self, row: RowNo, other: impl FnOnce(Each<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        self.go_to(row)?;
        if let Some((_, version)) = self.memory.next_if(|(next, _)| *next == row) {
            return self.take(row, version);
        }
        self.met.insert(row);
        other(self.each)
    }
}

impl Versions {
    /// Calls `each` with every row as it was at `pin`'s Seq, by row number; those deleted from the disk meanwhile come last, in
    /// no order. `each` must not block nor call back into the cache.
    ///
    /// # Errors
    /// `Expired` when the pin lost its versions to the budget meanwhile.
    pub(crate) fn scan(&self, pin: &Pin, each: &mut dyn FnMut(RowNo, &StoredRow) -> ControlFlow<()>) -> Result<()> {
        self.scan_in_place(pin, &mut |row_no, row| each(row_no, &row.to_row()))
    }

    /// As [`scan`](Self::scan), with rows that are read where they lie: nothing is copied.
    pub(crate) fn scan_in_place(&self, pin: &Pin, each: Each<'_>) -> Result<()> {
        let scan = self.begin_scan(pin, 1, 0);
        match self.scan_part(&scan, 0, each)? {
            Some(met) => self.scan_rest(&scan, &[met], each),
            None => Ok(()),
        }
    }

    /// Begins a scan in so many parts, at least one. Row numbers end at about `rows_upto`.
    pub(crate) fn begin_scan(&self, pin: &Pin, parts: usize, rows_upto: u64) -> Scan {
        let memory = std::iter::repeat_with(Mutex::default).take(parts).collect();
        let rows_of_part = (rows_upto / parts as u64).max(1);
        let mut scan = Scan { seq: pin.seq, rows_of_part, memory, fresh: Vec::new() };
        // What memory holds goes first: a version that is stored, and forgotten by memory, after the disk's state of a part
        // was frozen would otherwise be seen in neither. First loads go after it: the store lets go of them before what
        // replaces their rows.
        let mut note = |row: RowNo, version: Option<&StoredRow>| {
            let part = scan.part_of(row);
            scan.memory[part].get_mut().push((row, version.cloned()));
        };
        self.each_in_chains(pin.seq, |_| true, &mut note);
        scan.fresh = self.first_loads_upto(pin.seq);
        scan
    }

    /// The rows of a part by their numbers. To be called once for each.
    pub(crate) fn scan_part(&self, scan: &Scan, number: usize, each: Each<'_>) -> Result<Met> {
        let part = scan.part(number);
        let mut memory = std::mem::take(&mut *scan.memory[number].lock());
        memory.sort_unstable_by_key(|(row, _)| *row);
        let mut reading = Reading { memory: memory.into_iter().peekable(), met: RowSet::starting_at(part.start), each };
        let mut from = part.start;
        for fresh in &scan.fresh {
            let numbers = fresh.numbers_in(&part);
            if numbers.is_empty() {
                continue;
            }
            if self.scan_disk(scan, from..numbers.start, &mut reading)?.is_break() {
                return Ok(None);
            }
            for (row, stored) in fresh.rows_in(&part) {
                if reading.meet(row, |each| each(row, stored.into())).is_break() {
                    return Ok(None);
                }
            }
            from = numbers.end;
        }
        if self.scan_disk(scan, from..part.end, &mut reading)?.is_break() || reading.go_to(part.end).is_break() {
            return Ok(None);
        }
        Ok(Some(reading.met))
    }

    /// The rows on the disk in this range, and what memory has of those before each.
    fn scan_disk(&self, scan: &Scan, rows: Range<RowNo>, reading: &mut Reading<'_>) -> Result<ControlFlow<()>> {
        let mut stopped = ControlFlow::Continue(());
        if rows.is_empty() {
            return Ok(stopped);
        }
        let mut failed = None;
        let mut panicked = None;
        let mut take = |row: RowNo, bytes: &[u8]| {
            if row >= rows.end {
                return ControlFlow::Break(());
            }
            let on_disk = |each: Each<'_>| match StoredRef::from_bytes(bytes) {
                Ok(stored) if stored.seq() <= scan.seq => each(row, stored),
                // Overwritten since the pin; what was there before is in memory, unless there was nothing.
                Ok(_) => match self.in_memory(row, |version| version.covers(scan.seq)) {
                    Some(RowRead::Found(stored)) => each(row, (&stored).into()),
                    _ => ControlFlow::Continue(()),
                },
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            };
            // A panic in here is not the backend's: it goes on to the caller, but not through the backend.
            stopped = catch_unwind(AssertUnwindSafe(|| reading.meet(row, on_disk))).unwrap_or_else(|panic| {
                panicked = Some(panic);
                ControlFlow::Break(())
            });
            stopped
        };
        let scanned = self.read_table(|table| table.scan(rows.start, &mut take));
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        scanned?;
        failed.map_or(Ok(stopped), Err)
    }

    /// Ends a scan of which all parts are read, with the rows deleted from the disk since the pin.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub(crate) fn scan_rest(&self, scan: &Scan, met: &[RowSet], each: Each<'_>) -> Result<()> {
        let is_met = |row: RowNo| met.get(scan.part_of(row)).is_some_and(|met| met.contains(row));
        let mut rest = Vec::new();
        let mut keep = |row, version: Option<&StoredRow>| rest.extend(version.map(|stored| (row, stored.clone())));
        self.each_in_chains(scan.seq, |row| !is_met(row), &mut keep);
        for (row, stored) in &rest {
            if each(*row, stored.into()).is_break() {
                return Ok(());
            }
        }
        if self.is_expired(scan.seq) { Err(expired()) } else { Ok(()) }
    }

    /// Calls `each` with those of these rows that there were at `pin`'s Seq, in their order. `each` must not block nor call back
    /// into the cache.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub(crate) fn read_in_place(
        &self,
        pin: &Pin,
        rows: &[RowNo],
        each: &mut dyn FnMut(RowNo, StoredRef<'_>),
    ) -> Result<()> {
        let seq = pin.seq;
        // Memory goes first, and in this order, for the same reasons as in a scan.
        let memory: Vec<Option<RowRead>> =
            rows.iter().map(|row| self.in_chains(*row, |version| version.covers(seq))).collect();
        let fresh = self.first_loads_upto(seq);
        let fresh_row = |row: RowNo| fresh.iter().find_map(|fresh| fresh.row(row));
        let is_unknown = |place: &usize| memory[*place].is_none() && fresh_row(rows[*place]).is_none();
        let unknown: Vec<usize> = (0..rows.len()).filter(is_unknown).collect();
        let mut next = 0;
        let take_known = |places: Range<usize>, each: &mut dyn FnMut(RowNo, StoredRef<'_>)| {
            for place in places {
                match (&memory[place], rows[place]) {
                    (Some(RowRead::Found(stored)), row) => each(row, stored.into()),
                    (Some(_), _) => {}
                    (None, row) => {
                        if let Some(stored) = fresh_row(row) {
                            each(row, stored.into());
                        }
                    }
                }
            }
        };
        let mut failed = None;
        let mut take = |place: usize, bytes: Option<&[u8]>| {
            let place = unknown[place];
            take_known(next..place, each);
            next = place + 1;
            let row = rows[place];
            match bytes.map(StoredRef::from_bytes) {
                Some(Ok(stored)) if stored.seq() <= seq => each(row, stored),
                Some(Err(error)) => failed = Some(error),
                // Overwritten or deleted since the pin; what was there before is in memory, unless there was nothing.
                _ => {
                    if let Some(RowRead::Found(stored)) = self.in_memory(row, |version| version.covers(seq)) {
                        each(row, (&stored).into());
                    }
                }
            }
        };
        if !unknown.is_empty() {
            let asked: Vec<RowNo> = unknown.iter().map(|place| rows[*place]).collect();
            self.read_table(|table| table.get_many(&asked, &mut take))?;
        }
        take_known(next..rows.len(), each);
        match failed {
            Some(error) => Err(error),
            None if self.is_expired(seq) => Err(expired()),
            None => Ok(()),
        }
    }
}
