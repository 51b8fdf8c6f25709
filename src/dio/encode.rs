//! Encode: many records into stored rows, by the calling thread and, if it is free, a build thread.
//!
//! Flow: the rows are cut into pieces → each thread takes the next piece → the pieces are put together in order.
//! Invariants: the caller does all of the work if nobody helps, so it waits only for a piece that a helper has begun, and a
//! helper waits for nobody.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::dio::DioInner;
use crate::dio::cache_handle::check_id;
use crate::sync::{Rank, Role};
use crate::value::{Record, StoredRow};
use crate::{Error, ErrorKind, Result};

/// Rows in a piece.
const PIECE: usize = 4_096;

type Piece = Result<Vec<StoredRow>>;

struct Work {
    rows: Arc<Vec<(String, Record)>>,
    now: i64,
    next: AtomicUsize,
    done: Mutex<Vec<Option<Piece>>>,
    changed: Condvar,
}

/// Encodes rows with their checks: an empty or overlong id, or values nested too deep, fail with the id.
pub(crate) fn encode_rows(dio: &DioInner, rows: &Arc<Vec<(String, Record)>>, now: i64) -> Result<Vec<StoredRow>> {
    let pieces = rows.len().div_ceil(PIECE);
    if pieces <= 1 {
        return encode_piece(rows, now);
    }
    let work = Arc::new(Work {
        rows: rows.clone(),
        now,
        next: AtomicUsize::new(0),
        done: Mutex::new((0..pieces).map(|_| None).collect()),
        changed: Condvar::new(),
    });
    let help = work.clone();
    // No helper, no harm.
    let _ = dio.lens.build_pool.submit(Rank::new(dio.level, Role::Build), Box::new(move || help.run()));
    work.run();
    work.collect()
}

fn encode_piece(rows: &[(String, Record)], now: i64) -> Piece {
    let mut scratch = Vec::new();
    rows.iter()
        .map(|(id, record)| {
            check_id(id)?;
            record.check_depth().map_err(|error| error.with("id", id.clone()))?;
            Ok(StoredRow::encode_with(&mut scratch, id, record, now))
        })
        .collect()
}

/// A piece that was begun and, should its thread panic, is ended as failed.
struct Begun<'a> {
    work: &'a Work,
    number: usize,
    result: Piece,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let unfinished = Err(Error::new(ErrorKind::Panicked, "encoding rows panicked"));
        self.work.done.lock()[self.number] = Some(std::mem::replace(&mut self.result, unfinished));
        self.work.changed.notify_all();
    }
}

impl Work {
    fn run(&self) {
        while let Some((number, range)) = self.take() {
            let unfinished = Err(Error::new(ErrorKind::Panicked, "encoding rows panicked"));
            let mut begun = Begun { work: self, number, result: unfinished };
            begun.result = encode_piece(&self.rows[range], self.now);
        }
    }

    fn take(&self) -> Option<(usize, Range<usize>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let from = number.checked_mul(PIECE).filter(|from| *from < self.rows.len())?;
        Some((number, from..self.rows.len().min(from + PIECE)))
    }

    fn collect(&self) -> Result<Vec<StoredRow>> {
        let mut done = self.done.lock();
        while done.iter().any(Option::is_none) {
            self.changed.wait(&mut done);
        }
        let mut rows = Vec::with_capacity(self.rows.len());
        for piece in done.drain(..).flatten() {
            rows.append(&mut piece?);
        }
        Ok(rows)
    }
}
