//! Writer: hands accepted writes to the source, in the order they were accepted.
//!
//! Owner: the thread `<table>:writer`, started at the first write.
//! Flow: a caller reserves a place → the core shows the write and puts it into the queue → the writer delivers it by
//! `on_write` or to the source → the core settles it: rows, views, ticket.
//! Invariants: a full queue gives the write back (`a_full_queue_gives_the_write_back`); a panic fails one write and the
//! worker lives.
//! Close/panic: closing drains what it can in its time; the rest fails as `Closed`.
//! Not here: showing a write before it is delivered (`core/writes`), and keeping it across a crash.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::dio::core::{Message, Settled, SettledAs, Settlement, StagedWrite};
use crate::dio::{Dio, DioInner, WeakDio, callback};
use crate::sync::{Deadline, QueueInfo, catch_user, deadline_after, on_own_thread, reply};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, WriteNumber};

#[derive(Default)]
struct Queue {
    writes: VecDeque<Arc<StagedWrite>>,
    /// The write being delivered.
    current: Option<Arc<StagedWrite>>,
    /// Places taken: reserved, queued or being delivered.
    used: usize,
    closing: bool,
    abandoned: bool,
}

/// The bounded queue between the callers, the core and the writer.
pub(crate) struct WriteQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
    capacity: usize,
}

impl WriteQueue {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(WriteQueue { queue: Mutex::default(), changed: Condvar::new(), capacity })
    }

    /// Reserves a place; waits for one up to `timeout`, on the library's own threads not at all.
    ///
    /// # Errors
    /// `Full`; `Closed`.
    pub(crate) fn reserve(&self, timeout: Duration) -> Result<()> {
        let may_wait = !on_own_thread() && !timeout.is_zero();
        let deadline = deadline_after(timeout);
        let mut queue = self.queue.lock();
        loop {
            if queue.closing {
                return Err(Error::new(ErrorKind::Closed, "the Dio is closed; it takes no more writes"));
            }
            if queue.used < self.capacity {
                queue.used += 1;
                return Ok(());
            }
            let timed_out = match deadline {
                _ if !may_wait => true,
                Some(deadline) => self.changed.wait_until(&mut queue, deadline).timed_out(),
                None => {
                    self.changed.wait(&mut queue);
                    false
                }
            };
            if timed_out && queue.used >= self.capacity {
                let message = format!("{} writes are waiting already (write_queue_capacity)", self.capacity);
                return Err(Error::new(ErrorKind::Full, message));
            }
        }
    }

    /// Gives reserved places back.
    pub(crate) fn give_back(&self, places: usize) {
        self.queue.lock().used -= places;
        self.changed.notify_all();
    }

    /// Puts a write into its reserved place. By the core; never waits.
    pub(crate) fn push(&self, write: Arc<StagedWrite>) {
        let mut queue = self.queue.lock();
        if queue.abandoned {
            queue.used -= 1;
            drop(queue);
            drop(write);
        } else {
            queue.writes.push_back(write);
        }
        self.changed.notify_all();
    }

    /// Takes back a write whose delivery has not begun; says whether it could.
    pub(crate) fn withdraw(&self, number: WriteNumber) -> bool {
        let mut queue = self.queue.lock();
        let Some(place) = queue.writes.iter().position(|write| write.number == number) else { return false };
        queue.writes.remove(place);
        queue.used -= 1;
        self.changed.notify_all();
        true
    }

    /// Gives a delivered write's place back: its settlement is on its way to the core.
    fn release(&self) {
        let mut queue = self.queue.lock();
        queue.used -= 1;
        let settled = queue.current.take();
        drop(queue);
        drop(settled);
        self.changed.notify_all();
    }

    /// How full it is.
    pub(crate) fn info(&self) -> QueueInfo {
        QueueInfo { name: "writes".to_owned(), length: self.queue.lock().used, capacity: Some(self.capacity) }
    }

    fn pop(&self) -> Option<Arc<StagedWrite>> {
        let mut queue = self.queue.lock();
        loop {
            if queue.abandoned {
                return None;
            }
            if let Some(write) = queue.writes.pop_front() {
                queue.current = Some(write.clone());
                return Some(write);
            }
            self.changed.wait(&mut queue);
        }
    }

    /// Takes no more writes.
    pub(crate) fn close(&self) {
        self.queue.lock().closing = true;
        self.changed.notify_all();
    }

    /// Waits until every write is delivered; says whether it is.
    pub(crate) fn wait_idle(&self, deadline: Deadline) -> bool {
        let mut queue = self.queue.lock();
        while queue.used > 0 {
            if self.changed.wait_until(&mut queue, deadline).timed_out() {
                return queue.used == 0;
            }
        }
        true
    }

    /// Ends the writer after the write it is at. Gives back the writes that were not begun, and that one.
    pub(crate) fn abandon(&self) -> (Vec<Arc<StagedWrite>>, Option<Arc<StagedWrite>>) {
        let mut queue = self.queue.lock();
        queue.abandoned = true;
        let rest: Vec<Arc<StagedWrite>> = queue.writes.drain(..).collect();
        queue.used -= rest.len();
        self.changed.notify_all();
        (rest, queue.current.take())
    }
}

/// The writer's thread.
pub(crate) fn run(dio: &Arc<DioInner>, handle: &WeakDio) {
    while let Some(write) = dio.writes.pop() {
        write.ticket.delivering(1);
        // For the callback. It may become the last handle, whose drop closes the Dio: not before the settlement is sent.
        let strong = dio.lens.callbacks.on_write.as_ref().and_then(|_| handle.upgrade_or_revive());
        let span = tracing::debug_span!("deliver", table = %dio.name, write = write.op.verb(), id = write.op.id());
        let result = span.in_scope(|| {
            let op = write.op_now();
            let result = deliver(dio, strong.as_ref(), &write, &op).map_err(|error| name(dio, &op, error));
            match &result {
                Ok(_) => tracing::debug!("delivered"),
                Err(error) => tracing::debug!(%error, "not delivered"),
            }
            result
        });
        let result = match result {
            Ok(settled) => SettledAs::Confirmed(settled),
            Err(error) => SettledAs::Rejected(error),
        };
        // A closed core drops the settlement, and with it the ticket, which says so.
        let (reply, settled) = reply();
        if dio.send(Message::Settle(Settlement { write, result, reply })).is_ok() {
            // What waits behind it may be a patch of the row that was not inserted, or that has another id now.
            let _ = settled.wait(None);
        }
        dio.writes.release();
        drop(strong);
    }
}

fn name(dio: &DioInner, op: &WriteOp, error: Error) -> Error {
    let error = error.with("table", dio.name.to_string());
    match op.id() {
        Some(id) => error.with("id", id.to_owned()),
        None => error,
    }
}

fn deliver(dio: &Arc<DioInner>, strong: Option<&Dio>, write: &StagedWrite, op: &WriteOp) -> Result<Settled> {
    let mut changes = Vec::new();
    let cx = dio.call_cx().with_idempotency_key(write.key.clone());
    let written = match &dio.lens.callbacks.on_write {
        Some(on_write) => {
            let strong = strong.ok_or_else(|| Error::new(ErrorKind::Closed, "the Dio is closed"))?;
            let (written, batch) = callback::run(dio, "on_write", || on_write(strong, op))?;
            if let Some(batch) = batch.filter(|batch| !batch.is_empty()) {
                changes = dio.callback_changes(batch);
            }
            written
        }
        None => catch_user("the source", || dio.master.write(&cx, op)).and_then(|written| written)?,
    };
    let at = dio.clock().wall_ms();
    if matches!(op, WriteOp::DeleteAll) {
        return Ok(Settled { id: None, record: None, changes, at });
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
    Ok(Settled { id: Some(Arc::from(id)), record, changes, at })
}

/// The row as the source has it, where it can be asked.
fn read_back(dio: &DioInner, id: &str) -> Option<crate::Record> {
    catch_user("the source", || dio.master.get(&dio.call_cx(), id)).and_then(|row| row).ok().flatten()
}

#[cfg(test)]
mod tests;
