//! Closing: in which order a Dio's parts end, and what is reported of it.
//!
//! Flow: refuse new → deliver what can be delivered in time → fail the rest → end refresher, writer, core → flush → join.
//! Invariants: everyone who waits is woken; the caller's time is kept; no thread of the library joins another, but for the
//! one that closes a Dio whose last handle was dropped on such a thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::dio::core::StagedWrite;
use crate::dio::{CLOSED, CLOSING, DioInner, OPEN, WriteState};
use crate::lens::Lens;
use crate::sync::{Deadline, Rank, Role, Worker, deadline_after, may_wait_for, reply, spawn, time_left};
use crate::{Error, ErrorKind};

/// How much of the time to close is kept for ending the threads, a quarter at the most.
const TO_END: Duration = Duration::from_millis(250);
/// How long a drop waits for deliveries if nothing keeps what is not delivered.
const TO_DELIVER_ON_DROP: Duration = Duration::from_secs(1);
/// How long a closing without time waits for the disk, so that what was written last is accepted.
const TO_ACCEPT: Duration = Duration::from_millis(250);

/// What closing left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloseReport {
    /// Writes that were delivered since the Dio was made.
    pub delivered: u64,
    /// Accepted writes that the journal keeps for the next run.
    pub kept: u64,
    /// Writes that failed since the Dio was made, those that closing left undelivered among them.
    pub failed: u64,
    /// Threads that were still inside a source, a callback or a hook when the time was over; empty: everything is closed.
    /// They end by themselves when that call returns.
    pub still_running: Vec<String>,
}

impl CloseReport {
    /// Whether everything is closed.
    pub fn is_closed(&self) -> bool {
        self.still_running.is_empty()
    }

    pub(crate) fn add(&mut self, other: CloseReport) {
        self.delivered += other.delivered;
        self.kept += other.kept;
        self.failed += other.failed;
        self.still_running.extend(other.still_running);
    }

    pub(crate) fn still_at_work(&mut self, threads: Vec<String>) {
        self.still_running.extend(threads);
    }
}

/// Whether this thread may wait for the threads of any Dio: an application's, or the one that closes.
fn may_wait() -> bool {
    may_wait_for(Rank::new(u32::MAX / 32, Role::Writer), "the closing of a Dio").is_ok()
}

/// A deadline before this one, which leaves time for ending threads: so that only those stuck in a call are told as
/// running.
pub(crate) fn with_time_to_end(deadline: Deadline) -> Deadline {
    let left = time_left(deadline);
    deadline - (left / 4).min(TO_END)
}

impl DioInner {
    /// Closes, or waits for whoever closes already. `None` is no limit.
    pub(crate) fn close_until(self: &Arc<Self>, deadline: Option<Deadline>) -> CloseReport {
        let deadline = deadline.or_else(|| deadline_after(Duration::from_secs(u64::from(u32::MAX))));
        if self.phase.compare_exchange(OPEN, CLOSING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.wind_down(deadline);
        }
        let mut report = CloseReport::default();
        if may_wait()
            && let Some(deadline) = deadline
        {
            let workers = self.workers.lock().clone();
            for worker in workers {
                if !worker.join_until(deadline) {
                    report.still_running.push(worker.name().to_owned());
                }
            }
        }
        if may_wait() && !self.has_started_writers(deadline) {
            report.still_running.push(format!("{}:writer", self.name));
        }
        let (delivered, failed) = self.board.write_counts();
        report.delivered = delivered;
        report.failed = failed;
        report.kept = self.ledger.kept();
        report
    }

    /// Waits until nobody is about to start the writers' threads; says whether that is so.
    fn has_started_writers(&self, deadline: Option<Deadline>) -> bool {
        match deadline {
            Some(deadline) => self.writer_started.try_lock_until(deadline).is_some(),
            None => {
                drop(self.writer_started.lock());
                true
            }
        }
    }

    pub(super) fn add_worker(&self, worker: Worker) {
        let worker = Arc::new(worker);
        self.lens.add_worker(worker.clone());
        self.workers.lock().push(worker);
    }

    pub(super) fn close_on_drop(self: &Arc<Self>) {
        if self.is_open() {
            let by_default = if self.ledger.is_kept() { Duration::ZERO } else { TO_DELIVER_ON_DROP };
            self.close_until(deadline_after(self.lens.defaults.drop_timeout.unwrap_or(by_default)));
        }
    }

    /// Waits for the journal's sync, so that what was written just before a program's end is accepted.
    #[cfg(feature = "async")]
    pub(super) fn wait_until_accepted(&self) {
        if !self.ledger.is_kept() {
            return;
        }
        let deadline = deadline_after(TO_ACCEPT);
        for write in self.writes.list() {
            let left = deadline.map_or(TO_ACCEPT, time_left);
            // The journal's answer ends the wait, also if it is a refusal.
            let _ = write.ticket.ticket().wait_durable(left);
        }
    }

    /// The last handle is dropped on one of the library's own threads, or on an executor's, for which nobody may wait: a thread of its own does
    /// the closing.
    pub(super) fn close_behind(self: &Arc<Self>, lens: &Lens) {
        if !self.is_open() {
            return;
        }
        let (dio, lens) = (self.clone(), lens.clone());
        let close = move || {
            dio.close_on_drop();
            drop(lens);
        };
        match spawn(format!("{}:close", self.name), Rank::above_all(), close) {
            Ok(worker) => self.add_worker(worker),
            Err(error) => {
                tracing::warn!(table = %self.name, %error, "a Dio is closed without delivering what waits");
                self.close_until(deadline_after(Duration::ZERO));
            }
        }
    }

    fn wind_down(self: &Arc<Self>, deadline: Option<Deadline>) {
        // A writer that is being started is among the workers after this; none is started from here on. Whoever starts one may
        // wait for a disk that stands still, and finds the Dio closed then.
        self.has_started_writers(deadline.map(with_time_to_end));
        self.writes.close();
        self.refresher.hang_up();
        if let Some(queries) = &self.queries {
            queries.hang_up();
        }
        if let Ok(store) = self.store() {
            store.leave(&self.name);
        }
        // A core that has ended in a panic may have taken the places of writes with it that nobody else knows of.
        let is_lost = self.core.has_ended() && self.writes.list().is_empty();
        if let Some(deadline) = deadline.filter(|_| !is_lost) {
            self.writes.wait_idle(with_time_to_end(deadline));
        }
        let undelivered = self.writes.abandon();
        let is_kept = self.ledger.is_kept();
        for (write, _) in undelivered.iter().filter(|(_, at_the_source)| *at_the_source && !is_kept) {
            let message = "the Dio was closed while the source had the write; whether it was done is not known here";
            self.fail(write, message);
        }
        // Before the cancelled call ends, so that whoever waits hears of the closing and not of the call.
        self.refresher.give_up();
        if let Some(queries) = &self.queries {
            queries.give_up();
        }
        self.cancel.cancel();
        let wait = may_wait();
        if is_kept {
            self.keep(undelivered.into_iter().map(|(write, _)| write), deadline.filter(|_| wait));
        } else {
            for (write, _) in undelivered {
                self.fail(&write, "the Dio was closed before the write was delivered");
            }
        }
        let (sender, receiver) = reply();
        // The core waits for nobody, so both are soon, unless a storage that it reads an old row from stands still.
        let closed_by = if wait { deadline.map(with_time_to_end) } else { deadline_after(Duration::ZERO) };
        if self.core.close(sender, closed_by) && wait {
            let _ = receiver.wait(closed_by.map(time_left));
        }
        if wait
            && let (Ok(store), Some(deadline)) = (self.store(), deadline)
            && let Err(error) = store.flush_until(deadline)
        {
            tracing::warn!(table = %self.name, %error, "the cache was not flushed when its Dio was closed");
        }
        self.phase.store(CLOSED, Ordering::Release);
        // A flush that the storage doesn't come back from ends with the Dio.
        if let Ok(store) = self.store() {
            store.wake_waiters();
        }
    }

    /// Leaves undelivered writes to the journal, for the next run.
    fn keep(&self, writes: impl Iterator<Item = Arc<StagedWrite>>, deadline: Option<Deadline>) {
        for write in writes {
            let ticket = write.ticket.ticket();
            if let Some(deadline) = deadline {
                // The journal answers in the time of a sync, or says why not; its answer ends the ticket, too.
                let _ = ticket.wait_durable(time_left(deadline).max(TO_ACCEPT));
            }
            if ticket.is_durable() {
                write.ticket.end(WriteState::Kept, || self.ledger.keep());
            }
        }
    }

    /// Ends a write's ticket, which the closing leaves undelivered.
    fn fail(&self, write: &StagedWrite, message: &'static str) {
        let error = Error::new(ErrorKind::Closed, message).with("table", self.name.to_string());
        write.ticket.end(WriteState::Rejected(error.clone()), || self.board.write_failed(&error));
    }
}
