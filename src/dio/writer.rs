//! Writer: hands accepted writes to the source and tells the core what became of them.
//!
//! Owner: the threads `<table>:writer` (`-1`, `-2` … when several rows may be under way), started at the first write.
//! Flow: takes what is due from the queue → `on_write` or the source → the core settles it; what failed for now goes back.
//! Invariants: a row's outcomes reach the core in the order of its writes; a panic fails one write and the worker lives.
//! Close/panic: closing drains what it can in its time.
//! Not here: which write is next, and when (`write_queue`, `delivery`); what views show meanwhile (`core/writes`).

use std::sync::Arc;

use crate::clock::Moment;
use crate::dio::core::{Message, RowChange, Settled, SettledAs, Settlement, StagedWrite};
use crate::dio::delivery::{Outcome, Verdict};
use crate::dio::write_queue::{Item, Job};
use crate::dio::{Dio, DioInner, WeakDio, callback};
use crate::sync::catch_user;
use crate::vista::{CallCx, WriteOp, Written};
use crate::{Error, ErrorKind, Record, Result};

/// A writer's thread.
pub(crate) fn run(dio: &Arc<DioInner>, handle: &WeakDio) {
    while let Some(job) = dio.writes.take(dio.clock()) {
        // For the callback. It may become the last handle, whose drop closes the Dio: not before the settlement is sent.
        let strong = dio.lens.callbacks.on_write.as_ref().and_then(|_| handle.upgrade_or_revive());
        match job {
            Job::Superseded(writes, by) => {
                for write in writes {
                    settle(dio, write, SettledAs::Superseded(by));
                }
            }
            Job::Deliver(items) if items.len() > 1 => deliver_batch(dio, &items),
            Job::Deliver(items) => {
                for item in &items {
                    deliver_one(dio, strong.as_ref(), item);
                }
            }
        }
        drop(strong);
    }
}

/// A closed core drops the settlement, and with it the ticket, which says so.
fn settle(dio: &DioInner, write: Arc<StagedWrite>, result: SettledAs) {
    let _ = dio.send(Message::Settle(Settlement { write, result }));
}

fn name(dio: &DioInner, op: &WriteOp, error: Error) -> Error {
    let error = error.with("table", dio.name.to_string());
    match op.id() {
        Some(id) => error.with("id", id.to_owned()),
        None => error,
    }
}

fn deliver_one(dio: &Arc<DioInner>, strong: Option<&Dio>, item: &Item) {
    for write in item.all() {
        write.ticket.delivering(item.attempt);
    }
    let is_lost = makes_a_nameless_row(&item.op) && !dio.master.capabilities().idempotent_writes;
    if is_lost && let Err(error) = dio.ledger.note_attempts(std::iter::once(item.write.number)) {
        return conclude(dio, item, Err(name(dio, &item.op, error)), false);
    }
    let span = tracing::debug_span!("deliver", table = %dio.name, write = item.op.verb(), id = item.op.id());
    let result = span.in_scope(|| {
        let result = deliver(dio, strong, item).map_err(|error| name(dio, &item.op, error));
        match &result {
            Ok(_) => tracing::debug!(attempt = item.attempt, "delivered"),
            Err(error) => tracing::debug!(attempt = item.attempt, %error, "not delivered"),
        }
        result
    });
    conclude(dio, item, result, is_lost);
}

/// What a delivery means for the write: it is settled, or will be tried again, unless it must not be (`is_lost`).
fn conclude(dio: &Arc<DioInner>, item: &Item, result: Result<Settled>, is_lost: bool) {
    let now = dio.clock().now();
    let error = match result {
        Ok(settled) => return confirm(dio, item, now, settled),
        Err(error) => error,
    };
    match Outcome::of(&error) {
        // The core hears of it before the row's next write may go.
        Outcome::Done | Outcome::Failed => {
            end(dio, item, &SettledAs::Rejected(error));
            dio.writes.finished(now, item, Outcome::Failed);
        }
        Outcome::Transient { .. } if is_lost => {
            let message = "the source did not say whether it has made the row, and asking it again could make a second one; \
                           look there before you insert it again";
            let unknown = name(dio, &item.op, Error::new(error.kind(), message)).with_source(error);
            end(dio, item, &SettledAs::Unknown(unknown));
            dio.writes.finished(now, item, Outcome::Failed);
        }
        outcome => {
            if is_lost {
                // It was not there. Before the next attempt is noted, maybe by another writer.
                dio.ledger.note_rewritten(item.write.number, &item.op);
            }
            match dio.writes.finished(now, item, outcome) {
                Verdict::Waiting { until } => {
                    for write in item.all() {
                        write.ticket.waiting(until, error.clone());
                    }
                }
                Verdict::GaveUp => end(dio, item, &SettledAs::Rejected(error)),
                Verdict::Superseded { by } => end(dio, item, &SettledAs::Superseded(by)),
                Verdict::Settled | Verdict::NotInFlight => {}
            }
        }
    }
}

fn confirm(dio: &Arc<DioInner>, item: &Item, now: Moment, settled: Settled) {
    let Settled { id, record, mut changes, at, .. } = settled;
    for write in item.all() {
        let changes: Vec<RowChange> = std::mem::take(&mut changes);
        let settled = Settled { id: id.clone(), record: record.clone(), stored: None, changes, at };
        settle(dio, write.clone(), SettledAs::Confirmed(settled));
    }
    if id != item.write.ticket.ticket().id() {
        // The row's next write is to go by the id that the source has chosen, so the core must know it first.
        let _ = dio.catch_up();
    }
    dio.writes.finished(now, item, Outcome::Done);
}

fn end(dio: &Arc<DioInner>, item: &Item, as_what: &SettledAs) {
    for write in item.all() {
        let result = match as_what {
            SettledAs::Rejected(error) => SettledAs::Rejected(error.clone()),
            SettledAs::Unknown(error) => SettledAs::Unknown(error.clone()),
            SettledAs::Superseded(by) => SettledAs::Superseded(*by),
            SettledAs::Cancelled | SettledAs::Confirmed(_) => SettledAs::Cancelled,
        };
        settle(dio, write.clone(), result);
    }
}

/// Whether a second write like this can make a second row: if the source keeps no keys, it must not be repeated when nobody
/// knows whether it was done.
fn makes_a_nameless_row(op: &WriteOp) -> bool {
    matches!(op, WriteOp::Insert { id: None, .. })
}

fn call_cx(dio: &DioInner, item: &Item) -> CallCx {
    dio.call_cx()
        .deadline_in(dio.lens.defaults.delivery.deadline)
        .with_idempotency_key(item.write.key.clone())
        .with_attempt(item.attempt)
}

fn deliver(dio: &Arc<DioInner>, strong: Option<&Dio>, item: &Item) -> Result<Settled> {
    let op = &item.op;
    let mut changes = Vec::new();
    let written = match &dio.lens.callbacks.on_write {
        Some(on_write) => {
            let strong = strong.ok_or_else(|| Error::new(ErrorKind::Closed, "the Dio is closed"))?;
            let (written, batch) = callback::run(dio, "on_write", || on_write(strong, op))?;
            if let Some(batch) = batch.filter(|batch| !batch.is_empty()) {
                changes = dio.callback_changes(batch);
            }
            written
        }
        None => {
            let answer = catch_user("the source", || dio.master.write(&call_cx(dio, item), op));
            match answer.and_then(|written| written) {
                Err(error) => done_before(dio, item, error)?,
                Ok(written) => written,
            }
        }
    };
    settled(dio, &item.write, op, written, changes)
}

/// A repeated insert finds its own row, where the source keeps no keys: then it was done.
fn done_before(dio: &DioInner, item: &Item, error: Error) -> Result<Written> {
    let is_repeated = item.attempt > 1 || item.write.is_recovered;
    if let (ErrorKind::Conflict, true, WriteOp::Insert { id: Some(id), record }) = (error.kind(), is_repeated, &item.op)
        && let Some(row) = read_back(dio, id)
        && record.iter().all(|(field, value)| row.get(field) == Some(value))
    {
        return Ok(Written::row(id.clone(), row));
    }
    Err(error)
}

fn settled(
    dio: &DioInner,
    write: &StagedWrite,
    op: &WriteOp,
    written: Written,
    changes: Vec<RowChange>,
) -> Result<Settled> {
    let at = dio.clock().wall_ms();
    if matches!(op, WriteOp::DeleteAll) {
        return Ok(Settled { id: None, record: None, stored: None, changes, at });
    }
    let Some(id) = written.id.or_else(|| op.id().map(str::to_owned)) else {
        return Err(Error::new(
            ErrorKind::Invalid,
            "the row was inserted, but nobody said under which id; `on_write` must return it",
        ));
    };
    let record = match (op, written.record) {
        // The source has a row that the cache doesn't: a patch alone can't show it.
        (WriteOp::Patch { .. }, None) if !write.row_is_known => read_back(dio, &id),
        (_, record) => record,
    };
    Ok(Settled { id: Some(Arc::from(id)), record, stored: None, changes, at })
}

/// The row as the source has it, where it can be asked.
fn read_back(dio: &DioInner, id: &str) -> Option<Record> {
    catch_user("the source", || dio.master.get(&dio.call_cx(), id)).and_then(|row| row).ok().flatten()
}

/// Several writes in one call, all or none. One that is refused has them all go alone.
fn deliver_batch(dio: &Arc<DioInner>, items: &[Item]) {
    for write in items.iter().flat_map(Item::all) {
        write.ticket.delivering(1);
    }
    let Some(first) = items.first() else { return };
    let nameless = || items.iter().filter(|item| makes_a_nameless_row(&item.op));
    if let Err(error) = dio.ledger.note_attempts(nameless().map(|item| item.write.number)) {
        for item in items {
            conclude(dio, item, Err(name(dio, &item.op, error.clone())), false);
        }
        return;
    }
    let ops: Vec<WriteOp> = items.iter().map(|item| item.op.clone()).collect();
    // The source keeps one answer for the whole batch, and none for its parts.
    let cx = call_cx(dio, first).with_idempotency_key(format!("{}+{}", first.write.key, items.len()));
    let span = tracing::debug_span!("deliver", table = %dio.name, writes = ops.len());
    let answer = span.in_scope(|| catch_user("the source", || dio.master.batch(&cx, &ops)));
    match answer.and_then(|written| written) {
        Ok(written) if written.len() == items.len() => {
            for (item, written) in items.iter().zip(written) {
                conclude(dio, item, settled(dio, &item.write, &item.op, written, Vec::new()), false);
            }
        }
        Ok(written) => {
            let message = format!("the source gave {} answers for a batch of {} writes", written.len(), items.len());
            let error = Error::new(ErrorKind::Source, message);
            batch_failed(dio, items, &error);
        }
        Err(error) => match Outcome::of(&error) {
            Outcome::Done | Outcome::Failed => {
                nameless().for_each(|item| dio.ledger.note_rewritten(item.write.number, &item.op));
                dio.writes.split(items);
            }
            _ => batch_failed(dio, items, &error),
        },
    }
}

fn batch_failed(dio: &Arc<DioInner>, items: &[Item], error: &Error) {
    for item in items {
        let is_lost = makes_a_nameless_row(&item.op);
        conclude(dio, item, Err(name(dio, &item.op, error.clone())), is_lost);
    }
}

#[cfg(test)]
mod tests;
