//! Writer: hands accepted writes to the source and tells the core what became of them.
//!
//! Owner: the threads `<table>:writer` (`-1`, `-2` … when several rows may be under way), started at the first write.
//! Flow: takes what is due from the queue → `on_write` or the source → the core settles it; what failed for now goes back.
//! Invariants: a row's outcomes reach the core in the order of its writes; a panic fails one write and the worker lives.
//! Close/panic: closing drains what it can in its time.
//! Not here: which write is next, and when (`write_queue`, `delivery`); what views show meanwhile (`core/writes`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::clock::Moment;
use crate::dio::core::{Message, RowChange, Settled, SettledAs, Settlement, StagedWrite};
use crate::dio::delivery::{Outcome, Verdict};
use crate::dio::write_queue::{Item, Job};
use crate::dio::{Dio, DioInner, WeakDio, callback, ledger};
use crate::lens::conflict::{Conflict, ConflictPolicy, Merge, Resolution, WriteRequest};
use crate::sync::{catch_user, reply};
use crate::vista::{CallCx, WriteOp, Written};
use crate::{Error, ErrorKind, Record, Result};

/// A writer's thread.
pub(crate) fn run(dio: &Arc<DioInner>, handle: &WeakDio) {
    while let Some(job) = dio.writes.take(dio.clock()) {
        // For the callback. It may become the last handle, whose drop closes the Dio: not before the settlement is sent.
        let strong = dio.lens.callbacks.uses_dio_to_write().then(|| handle.upgrade_or_revive()).flatten();
        match job {
            Job::Superseded(writes, by) => {
                writes.iter().for_each(|write| dio.ledger.may_end(write));
                settle(dio, writes.into_iter().map(|write| (write, SettledAs::Superseded(by))));
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

/// How long the cache is given to become readable before a write that the source has done is settled again.
const SETTLE_AGAIN: Duration = Duration::from_millis(100);

/// Settles writes; returns once the core has: what waits behind them may be a patch of a row that was not inserted, or that
/// has another id now. A closed core drops the settlements, and with them the tickets, which say so.
fn settle(dio: &DioInner, settled: impl Iterator<Item = (Arc<StagedWrite>, SettledAs)>) {
    let mut last = None;
    for (write, result) in settled {
        let (sender, receiver) = reply();
        let _ = dio.send(Message::Settle(Settlement { write, result, reply: Some(sender) }));
        last = Some(receiver);
    }
    if let Some(last) = last {
        let _ = last.wait(None);
    }
}

/// Settles a write that the source has done, and doesn't let go of it while the cache can't be read. Says whether it is
/// settled; else the Dio is being closed, and the next run is to ask the source again.
fn settle_surely(dio: &DioInner, write: &Arc<StagedWrite>, mut result: SettledAs) -> bool {
    let (bell, rung) = bounded(1);
    let mut watch = None;
    loop {
        let (sender, receiver) = reply();
        let _ = dio.send(Message::Settle(Settlement { write: write.clone(), result, reply: Some(sender) }));
        let answer = receiver.wait(None);
        let Some(again) = dio.writes.take_back(write.number) else { return true };
        if let Ok(Err(error)) = answer {
            tracing::warn!(table = %dio.name, %error, "a write is done, but can't be shown as done while the cache can't be read");
            write.ticket.waiting(dio.clock().now().after(SETTLE_AGAIN), error);
        }
        watch.get_or_insert_with(|| dio.cancel.ring_on_cancel(&bell));
        let _ = rung.recv_timeout(SETTLE_AGAIN);
        if !dio.is_open() {
            return false;
        }
        result = again;
    }
}

fn name(dio: &DioInner, op: &WriteOp, error: Error) -> Error {
    let error = error.with("table", dio.name.to_string());
    match op.id() {
        Some(id) => error.with("id", id.to_owned()),
        None => error,
    }
}

/// Has the core know that rows which are read from now on may be the one that the source makes of this insert.
fn say_at_source(dio: &DioInner, item: &Item) {
    if makes_a_nameless_row(&item.op) {
        let _ = dio.send(Message::AtSource(item.write.number));
    }
}

fn say_not_done(dio: &DioInner, item: &Item) {
    if makes_a_nameless_row(&item.op) {
        let _ = dio.send(Message::NotDone(item.write.number));
    }
}

fn deliver_one(dio: &Arc<DioInner>, strong: Option<&Dio>, item: &Item) {
    for write in item.all() {
        write.ticket.delivering(item.attempt);
    }
    let is_lost = makes_a_nameless_row(&item.op) && !dio.master.capabilities().idempotent_writes;
    let row = item.write.ticket.id();
    let noted = dio.ledger.wait_for_ends(&[row]).and_then(|()| match is_lost {
        true => dio.ledger.note_attempts(std::iter::once(item.write.number)),
        false => Ok(()),
    });
    if let Err(error) = noted {
        return conclude(dio, item, Err(name(dio, &item.op, not_noted(error))), false);
    }
    say_at_source(dio, item);
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
    let outcome = Outcome::of(&error);
    if dio.cancel.is_cancelled() && outcome != Outcome::Failed {
        // The closing has ended the call, and seen to the write: it is kept, or has failed.
        return;
    }
    match outcome {
        // The core hears of it before the row's next write may go.
        Outcome::Done | Outcome::Failed => {
            end(dio, item, &SettledAs::Rejected(error));
            dio.writes.finished(now, item, Outcome::Failed);
        }
        Outcome::Transient { .. } if is_lost && Outcome::may_be_done(&error) => {
            let unknown = name(dio, &item.op, Error::new(error.kind(), ledger::MAY_BE_DONE)).with_source(error);
            end(dio, item, &SettledAs::Unknown(unknown));
            dio.writes.finished(now, item, Outcome::Failed);
        }
        outcome => {
            say_not_done(dio, item);
            if is_lost {
                // It was not there. Before the next attempt is noted, maybe by another writer.
                dio.ledger.note_rewritten(item.write.number, &item.op);
            }
            item.all().for_each(|write| dio.ledger.may_end(write));
            match dio.writes.finished(now, item, outcome) {
                Verdict::Waiting { until } => {
                    for write in item.all() {
                        dio.ledger.goes_on(write.number);
                        write.ticket.waiting(until, error.clone());
                    }
                }
                Verdict::GaveUp => end(dio, item, &SettledAs::Rejected(error)),
                Verdict::Superseded { by } => end(dio, item, &SettledAs::Superseded(by)),
                Verdict::Settled | Verdict::NotInFlight => {
                    item.all().for_each(|write| dio.ledger.goes_on(write.number));
                }
            }
        }
    }
}

fn confirm(dio: &Arc<DioInner>, item: &Item, now: Moment, settled: Settled) {
    let Settled { id, record, mut changes, at, .. } = settled;
    let is_settled = item.all().all(|write| {
        let changes: Vec<RowChange> = std::mem::take(&mut changes);
        let settled = Settled { id: id.clone(), record: record.clone(), stored: None, changes, at };
        settle_surely(dio, write, SettledAs::Confirmed(settled))
    });
    let outcome = if is_settled { Outcome::Done } else { Outcome::Unavailable { retry_after: None } };
    dio.writes.finished(now, item, outcome);
}

fn end(dio: &Arc<DioInner>, item: &Item, as_what: &SettledAs) {
    let ended = item.all().map(|write| {
        let result = match as_what {
            SettledAs::Rejected(error) => SettledAs::Rejected(error.clone()),
            SettledAs::Unknown(error) => SettledAs::Unknown(error.clone()),
            SettledAs::Superseded(by) => SettledAs::Superseded(*by),
            SettledAs::Cancelled | SettledAs::Confirmed(_) => SettledAs::Cancelled,
        };
        (write.clone(), result)
    });
    settle(dio, ended);
}

/// Whether a second write like this can make a second row: if the source keeps no keys, it must not be repeated when nobody
/// knows whether it was done.
fn makes_a_nameless_row(op: &WriteOp) -> bool {
    matches!(op, WriteOp::Insert { id: None, .. })
}

fn call_cx(dio: &DioInner, item: &Item, before: Option<Record>) -> CallCx {
    let limit = dio.lens.defaults.delivery.deadline;
    let cx = dio.call_cx();
    let cx = if limit == Duration::MAX { cx } else { cx.deadline_in(limit) };
    cx.with_idempotency_key(item.write.key.clone()).with_attempt(item.attempt).with_before(before)
}

/// What must be durable before the source is asked: that several writes go as one, and which.
fn note_merged(dio: &DioInner, item: &Item) -> Result<()> {
    let Some(journal) = dio.ledger.journal() else { return Ok(()) };
    let (number, merged) = (item.write.number.0, item.merged.iter().map(|write| write.number.0).collect::<Vec<u64>>());
    if !journal.has_taken_in(number, &merged) {
        let (sender, receiver) = reply();
        journal.rewrite(number, &item.op, merged, Box::new(move |result| sender.send(result)));
        receiver.wait(None)??;
    }
    Ok(())
}

/// The journal stands still: it is no news of the source, so it is tried again.
fn not_noted(error: Error) -> Error {
    Error::new(ErrorKind::Cache, error.message()).with_source(error)
}

fn deliver(dio: &Arc<DioInner>, strong: Option<&Dio>, item: &Item) -> Result<Settled> {
    note_merged(dio, item).map_err(not_noted)?;
    let callbacks = &dio.lens.callbacks;
    let is_decided = callbacks.on_conflict.is_some() || dio.lens.defaults.conflicts != ConflictPolicy::MineWins;
    if is_decided {
        // What became of the row's write before this one is known here then, and with it the row before this one.
        dio.catch_up()?;
    }
    let mut before = item.write.before().map(|row| row.to_record()).transpose()?;
    let mut op = Cow::Borrowed(&*item.op);
    // No source compares with a row that was not there.
    let mut checked = is_decided && (!dio.master.capabilities().compares || is_of_no_row(dio, &op, before.as_ref()));
    for _ in 0..CONFLICTS {
        let found = if std::mem::take(&mut checked) { find_conflict(dio, &op, before.as_ref())? } else { None };
        let answer = match found {
            Some(current) => Err((conflict(), current)),
            None => match hand_over(dio, strong, item, &op, before.clone()) {
                Err(error) if error.kind() == ErrorKind::Conflict && may_resolve(dio, &op, before.as_ref()) => {
                    Err((error, read_current(dio, &op)?))
                }
                answer => Ok(answer),
            },
        };
        let (error, current) = match answer {
            Ok(answer) => {
                let (mut written, changes) = answer?;
                if written.record.is_none() && is_decided && item.attempt > 1 {
                    // It may be the answer to what an earlier attempt, or run, has made of the write; nobody keeps that
                    // (`what_a_callback_made_of_a_write_is_done_once_by_a_source_with_keys_and_shows_as_it_was_done`).
                    written.record = op.id().and_then(|id| read_back(dio, id));
                }
                if matches!(op, Cow::Owned(_)) && written.record.is_none() {
                    // The core knows the write as it was made.
                    written.record = done_to(before, &op);
                }
                return settled(dio, &item.write, &op, written, changes);
            }
            Err(met) => met,
        };
        match resolve(dio, strong, &op, before.as_ref(), current.as_ref(), error)? {
            Resolved::Deliver(next) => op = Cow::Owned(next),
            Resolved::Done(written) => return settled(dio, &item.write, &op, written, Vec::new()),
        }
        before = current;
    }
    Err(conflict())
}

/// How often a row may turn out to be changed once more before its write is rejected.
const CONFLICTS: usize = 5;

fn conflict() -> Error {
    Error::new(ErrorKind::Conflict, "somebody else has changed the row since it was last read here")
}

/// Whether a `Conflict` of the source is about a row that was changed, which a policy or the user decides over.
fn may_resolve(dio: &DioInner, op: &WriteOp, before: Option<&Record>) -> bool {
    if matches!(op, WriteOp::Insert { .. }) {
        return dio.lens.callbacks.on_conflict.is_some() && op.id().is_some();
    }
    before.is_some() && dio.master.capabilities().compares
}

/// The row that the source has now, if it is in conflict with the write.
fn find_conflict(dio: &DioInner, op: &WriteOp, before: Option<&Record>) -> Result<Option<Option<Record>>> {
    if matches!(op, WriteOp::Insert { .. } | WriteOp::DeleteAll) || !dio.master.capabilities().get {
        return Ok(None);
    }
    let Some(before) = before else {
        if !is_of_no_row(dio, op, before) {
            return Ok(None);
        }
        let current = read_current(dio, op)?;
        let is_in_conflict = current.is_some() && op.is_in_conflict(&Record::new(), current.as_ref());
        return Ok(is_in_conflict.then_some(current));
    };
    let current = read_current(dio, op)?;
    Ok(op.is_in_conflict(before, current.as_ref()).then_some(current))
}

/// Whether the write is of a row of which it is known here that there was none.
fn is_of_no_row(dio: &DioInner, op: &WriteOp, before: Option<&Record>) -> bool {
    before.is_none() && !matches!(op, WriteOp::Insert { .. } | WriteOp::DeleteAll) && dio.board.is_complete()
}

fn read_current(dio: &DioInner, op: &WriteOp) -> Result<Option<Record>> {
    let Some(id) = op.id() else { return Ok(None) };
    catch_user("the source", || dio.master.get(&dio.call_cx(), id)).and_then(|row| row)
}

enum Resolved {
    Deliver(WriteOp),
    /// Nothing of it is left to do.
    Done(Written),
}

fn resolve(
    dio: &Arc<DioInner>,
    strong: Option<&Dio>,
    op: &WriteOp,
    before: Option<&Record>,
    current: Option<&Record>,
    error: Error,
) -> Result<Resolved> {
    if let Some(on_conflict) = &dio.lens.callbacks.on_conflict {
        let strong = strong.ok_or_else(|| Error::new(ErrorKind::Closed, "the Dio is closed"))?;
        let met = Conflict { op, before, current };
        return match catch_user("on_conflict", || on_conflict(strong, &met)).and_then(|resolution| resolution)? {
            Resolution::Mine => Ok(Resolved::Deliver(op.clone())),
            Resolution::Theirs => Err(error),
            Resolution::Write(other) if other.id() == op.id() && is_delete(&other) == is_delete(op) => {
                Ok(Resolved::Deliver(other))
            }
            Resolution::Write(_) => {
                let message =
                    "what `on_conflict` writes must be of the row in conflict, and a delete only for a delete";
                Err(Error::new(ErrorKind::Invalid, message))
            }
        };
    }
    match (dio.lens.defaults.conflicts, before, current) {
        (ConflictPolicy::MineWins, _, _) => Ok(Resolved::Deliver(op.clone())),
        (ConflictPolicy::MergeFields, before, Some(current)) => {
            let nothing = Record::new();
            match (Merge::of(op, before.unwrap_or(&nothing), current), op.id()) {
                (Some(left), Some(id)) if left.is_empty() => Ok(Resolved::Done(Written::row(id, current.clone()))),
                (Some(left), Some(id)) if left.removed.is_empty() && dio.write_capabilities().patch => {
                    Ok(Resolved::Deliver(WriteOp::patch(id, left.set)))
                }
                (Some(left), Some(id)) if matches!(op, WriteOp::Upsert { .. }) => {
                    Ok(Resolved::Deliver(WriteOp::upsert(id, left.over(current))))
                }
                (Some(left), Some(id)) => Ok(Resolved::Deliver(WriteOp::replace(id, left.over(current)))),
                _ => Err(error),
            }
        }
        _ => Err(error),
    }
}

fn is_delete(op: &WriteOp) -> bool {
    matches!(op, WriteOp::Delete { .. } | WriteOp::DeleteAll)
}

/// The row that a write makes of what the source had.
fn done_to(row: Option<Record>, op: &WriteOp) -> Option<Record> {
    match op {
        WriteOp::Patch { record, .. } => row.map(|mut row| {
            row.merge(record);
            row
        }),
        WriteOp::Insert { record, .. } | WriteOp::Replace { record, .. } | WriteOp::Upsert { record, .. } => {
            Some(record.clone())
        }
        WriteOp::Delete { .. } | WriteOp::DeleteAll => None,
    }
}

/// One call of `on_write` or the source.
fn hand_over(
    dio: &Arc<DioInner>,
    strong: Option<&Dio>,
    item: &Item,
    op: &WriteOp,
    before: Option<Record>,
) -> Result<(Written, Vec<RowChange>)> {
    let cx = call_cx(dio, item, before);
    let Some(on_write) = &dio.lens.callbacks.on_write else {
        let answer = catch_user("the source", || dio.master.write(&cx, op)).and_then(|written| written);
        return match answer {
            Err(error) => done_before(dio, item, error).map(|written| (written, Vec::new())),
            Ok(written) => Ok((written, Vec::new())),
        };
    };
    let strong = strong.ok_or_else(|| Error::new(ErrorKind::Closed, "the Dio is closed"))?;
    let request = WriteRequest { op, cx };
    let (written, batch) = callback::run(dio, "on_write", || on_write(strong, &request))?;
    let changes = match batch.filter(|batch| !batch.is_empty()) {
        Some(batch) => dio.callback_changes(batch),
        None => Vec::new(),
    };
    Ok((written, changes))
}

/// A repeated insert finds its own row, where the source keeps no keys: then it was done.
fn done_before(dio: &DioInner, item: &Item, error: Error) -> Result<Written> {
    let is_repeated = item.attempt > 1 || item.write.is_recovered;
    if let (ErrorKind::Conflict, true, WriteOp::Insert { id: Some(id), record }) =
        (error.kind(), is_repeated, &*item.op)
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
    let nameless_numbers = nameless().map(|item| item.write.number);
    let rows: Vec<_> = items.iter().map(|item| item.write.ticket.id()).collect();
    let noted = dio.ledger.wait_for_ends(&rows).and_then(|()| dio.ledger.note_attempts(nameless_numbers));
    if let Err(error) = noted {
        for item in items {
            conclude(dio, item, Err(name(dio, &item.op, not_noted(error.clone()))), false);
        }
        return;
    }
    items.iter().for_each(|item| say_at_source(dio, item));
    let ops: Vec<WriteOp> = items.iter().map(|item| (*item.op).clone()).collect();
    // The source keeps one answer for the whole batch, and none for its parts.
    let cx = call_cx(dio, first, None).with_idempotency_key(format!("{}+{}", first.write.key, items.len()));
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
                items.iter().for_each(|item| say_not_done(dio, item));
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
