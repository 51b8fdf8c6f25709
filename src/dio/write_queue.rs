//! Write queue: the writes that views show and the source does not have yet, for the writers to take from.
//!
//! Owner: callers reserve places, the core fills them, the writers take and finish; each for a moment, under one lock.
//! Flow: reserve → `announce` (the core, once views show it) → `push_all` (once they are accepted) → `take` → `finished`.
//! Invariants: a full queue gives the write back (`a_full_queue_gives_the_write_back`); a place is given back once.
//! Close/panic: `close` refuses new writes and has what waits tried once more; `abandon` ends the writers.
//! Not here: which write is next, and when (`delivery`).

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use crate::clock::{Clock, Moment};
use crate::dio::WriteTicket;
use crate::dio::core::{SettledAs, StagedWrite};
use crate::dio::delivery::{Accepted, Delivery, DeliveryPolicy, Next, Outcome, Pending, Refusal, RowKey, Verdict};
use crate::sync::{Deadline, Notifier, QueueInfo, Waited, deadline_after, on_own_thread, time_left};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, WriteNumber};

/// One write on its way to the source.
pub(crate) struct Item {
    pub(crate) write: Arc<StagedWrite>,
    /// Later writes that go with it; what becomes of it becomes of them.
    pub(crate) merged: Vec<Arc<StagedWrite>>,
    pub(crate) op: Arc<WriteOp>,
    pub(crate) attempt: u32,
}

impl Item {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<StagedWrite>> {
        std::iter::once(&self.write).chain(&self.merged)
    }
}

/// What a writer is to do.
pub(crate) enum Job {
    /// In one call if there are several.
    Deliver(Vec<Item>),
    /// A `delete_all` made these pointless.
    Superseded(Vec<Arc<StagedWrite>>, WriteNumber),
}

/// What became of a write on its way into the queue.
pub(crate) enum Pushed {
    /// It has made these pointless.
    Queued(Vec<Arc<StagedWrite>>),
    /// It was withdrawn before, and ends otherwise.
    Withdrawn,
    /// The closing has left it.
    LeftBehind,
}

impl Pushed {
    /// The writes that it has made pointless.
    pub(crate) fn pointless(&self) -> &[Arc<StagedWrite>] {
        match self {
            Pushed::Queued(superseded) => superseded,
            Pushed::Withdrawn | Pushed::LeftBehind => &[],
        }
    }

    /// The writes that it has made pointless.
    pub(crate) fn superseded(self) -> Vec<Arc<StagedWrite>> {
        match self {
            Pushed::Queued(superseded) => superseded,
            Pushed::Withdrawn | Pushed::LeftBehind => Vec::new(),
        }
    }
}

struct Queue {
    delivery: Delivery,
    writes: HashMap<WriteNumber, Arc<StagedWrite>>,
    /// Places taken: reserved, announced, queued or being delivered.
    used: usize,
    closing: bool,
    abandoned: bool,
    /// What was not settled when it was abandoned.
    left: HashSet<WriteNumber>,
    /// What the source has done with a write, but the core can't settle yet.
    unsettled: HashMap<WriteNumber, SettledAs>,
    /// The queue is closing, nothing is under way, and nothing can be done before some later moment.
    is_stuck: bool,
}

/// See the module.
pub(crate) struct WriteQueue {
    queue: Mutex<Queue>,
    /// How often something has changed that who waits may wait for.
    changes: Notifier,
    bell: (Sender<()>, Receiver<()>),
    capacity: usize,
    writers: usize,
}

impl WriteQueue {
    pub(crate) fn new(capacity: usize, policy: DeliveryPolicy, seed: u64) -> Arc<Self> {
        let writers = policy.parallel.max(1);
        Arc::new(WriteQueue {
            queue: Mutex::new(Queue {
                delivery: Delivery::new(policy, seed),
                writes: HashMap::new(),
                used: 0,
                closing: false,
                abandoned: false,
                left: HashSet::new(),
                unsettled: HashMap::new(),
                is_stuck: false,
            }),
            changes: Notifier::new(0),
            bell: bounded(writers),
            capacity,
            writers,
        })
    }

    /// How many threads are to deliver.
    pub(crate) fn writers(&self) -> usize {
        self.writers
    }

    fn ring(&self) {
        // As many as there are writers: what changed may give work to each.
        while self.bell.0.try_send(()).is_ok() {}
        self.changes.advance();
    }

    /// Reserves places; waits for them up to `timeout`, on the library's own threads not at all.
    ///
    /// # Errors
    /// `Full`; `Closed`.
    pub(crate) fn reserve(&self, places: usize, timeout: Duration) -> Result<()> {
        let may_wait = !on_own_thread() && !timeout.is_zero();
        let deadline = deadline_after(timeout);
        loop {
            let seen = self.changes.get();
            let used = {
                let mut queue = self.queue.lock();
                if queue.closing {
                    return Err(Error::new(ErrorKind::Closed, "the Dio is closed; it takes no more writes"));
                }
                if queue.used + places <= self.capacity || (queue.used == 0 && places > self.capacity) {
                    queue.used += places;
                    return Ok(());
                }
                queue.used
            };
            let waited = may_wait.then(|| self.changes.wait_until(seen + 1, deadline.map(time_left)));
            if !matches!(waited, Some(Waited::Reached(_))) {
                let message = format!("{used} writes are waiting already (write_queue_capacity)");
                return Err(Error::new(ErrorKind::Full, message));
            }
        }
    }

    /// Rises whenever there may be more room than before.
    #[cfg(feature = "async")]
    pub(crate) fn changes(&self) -> &Notifier {
        &self.changes
    }

    /// Gives reserved places back.
    pub(crate) fn give_back(&self, places: usize) {
        self.queue.lock().used -= places;
        self.ring();
    }

    /// A write is in its reserved place, and views show it. By the core; never waits.
    pub(crate) fn announce(&self, write: &Arc<StagedWrite>) {
        let mut queue = self.queue.lock();
        if queue.abandoned {
            queue.used -= 1;
            queue.left.insert(write.number);
        } else {
            queue.writes.insert(write.number, write.clone());
        }
    }

    /// Announced writes may be delivered, unless they were withdrawn meanwhile. Gives back those that have made others
    /// pointless or are not queued. Never waits.
    pub(crate) fn push_all<'a>(&self, writes: &'a [Arc<StagedWrite>]) -> Vec<(&'a Arc<StagedWrite>, Pushed)> {
        let mut told = Vec::new();
        let mut queue = self.queue.lock();
        for write in writes {
            let pushed = if queue.writes.contains_key(&write.number) {
                Pushed::Queued(queue.accept(write, false))
            } else if queue.left.contains(&write.number) {
                Pushed::LeftBehind
            } else {
                Pushed::Withdrawn
            };
            if !matches!(&pushed, Pushed::Queued(pointless) if pointless.is_empty()) {
                told.push((write, pushed));
            }
        }
        drop(queue);
        self.ring();
        told
    }

    /// Takes writes of an earlier run in, whether there is room or not: the source may have them already, whatever that run
    /// noted. Gives back which writes each of them has made pointless. Never waits.
    pub(crate) fn take_in(&self, writes: &[Arc<StagedWrite>]) -> Vec<(WriteNumber, Vec<Arc<StagedWrite>>)> {
        let mut queue = self.queue.lock();
        queue.writes.reserve(writes.len());
        let mut superseded = Vec::new();
        for write in writes {
            queue.used += 1;
            queue.writes.insert(write.number, write.clone());
            let pointless = queue.accept(write, true);
            if !pointless.is_empty() {
                superseded.push((write.number, pointless));
            }
        }
        drop(queue);
        self.ring();
        superseded
    }

    /// A row goes by another id now; its tickets say so already.
    pub(crate) fn rename(&self, old: &Arc<str>, new: &Arc<str>) {
        self.queue.lock().delivery.rename(&RowKey::Id(old.clone()), &RowKey::Id(new.clone()));
        self.ring();
    }

    /// Takes back a write that is not being delivered; `then` is called before what was behind it may go.
    ///
    /// # Errors
    /// Why it can't be.
    pub(crate) fn withdraw(
        &self,
        number: WriteNumber,
        then: impl FnOnce(&StagedWrite),
    ) -> Result<Arc<StagedWrite>, Refusal> {
        let mut queue = self.queue.lock();
        let write = queue.unsettled(number)?.clone();
        match queue.delivery.remove(number) {
            // One that is not accepted yet is unknown there.
            Ok(_) | Err(Refusal::Unknown) => {}
            Err(refusal) => return Err(refusal),
        }
        queue.writes.remove(&number);
        queue.used -= 1;
        then(&write);
        drop(queue);
        self.ring();
        Ok(write)
    }

    /// Has a write that waits tried at once.
    ///
    /// # Errors
    /// Why it can't be.
    pub(crate) fn retry_now(&self, number: WriteNumber) -> Result<(), Refusal> {
        let mut queue = self.queue.lock();
        queue.unsettled(number)?;
        let result = match queue.delivery.retry_now(number) {
            // One that is not accepted yet is tried as soon as it is.
            Err(Refusal::Unknown) => {
                queue.delivery.probe_now();
                Ok(())
            }
            result => result,
        };
        drop(queue);
        self.ring();
        result
    }

    /// All writes that are not settled, in the order of acceptance.
    pub(crate) fn list(&self) -> Vec<Arc<StagedWrite>> {
        let mut list: Vec<_> = self.queue.lock().writes.values().cloned().collect();
        list.sort_by_key(|write| write.number);
        list
    }

    /// The write of this key that is not settled.
    pub(crate) fn of_key(&self, key: &str) -> Option<(WriteOp, WriteTicket)> {
        let queue = self.queue.lock();
        let write = queue.writes.values().find(|write| *write.key == *key)?;
        Some(((*write.op).clone(), write.ticket.ticket()))
    }

    /// How full it is.
    pub(crate) fn info(&self) -> QueueInfo {
        QueueInfo { name: "writes".to_owned(), length: self.queue.lock().used, capacity: Some(self.capacity) }
    }

    /// Whether the queue rests, because the source can't be reached.
    pub(crate) fn is_paused(&self) -> bool {
        self.queue.lock().delivery.is_paused().is_some()
    }

    /// What to do next; waits for it. `None`: nothing any more.
    pub(crate) fn take(&self, clock: &Clock) -> Option<Job> {
        loop {
            let until = {
                let mut queue = self.queue.lock();
                if queue.abandoned {
                    return None;
                }
                match queue.delivery.next(clock.now()) {
                    Next::Deliver(due) => {
                        let items = due.into_iter().filter_map(|due| {
                            let write = queue.writes.get(&due.number)?.clone();
                            let merged = due.merged.iter().filter_map(|number| queue.writes.get(number).cloned());
                            // The row may go by another id since the write was made.
                            let op = match write.ticket.id() {
                                Some(id) => due.op.named(&id),
                                None => due.op,
                            };
                            Some(Item { merged: merged.collect(), write, op, attempt: due.attempt })
                        });
                        return Some(Job::Deliver(items.collect()));
                    }
                    Next::Superseded { by, numbers } => {
                        let writes = numbers.into_iter().filter_map(|number| queue.give_up(number)).collect();
                        return Some(Job::Superseded(writes, by));
                    }
                    Next::WaitUntil(until) => {
                        queue.is_stuck = queue.closing && queue.delivery.in_flight() == 0;
                        Some(until)
                    }
                    Next::Idle => None,
                }
            };
            self.changes.advance();
            match until {
                Some(until) => drop(clock.recv(&self.bell.1, Some(until))),
                None => drop(self.bell.1.recv()),
            }
        }
    }

    /// How the delivery of a write ended. Its place, and those merged with it, are given back if it is over.
    pub(crate) fn finished(&self, now: Moment, item: &Item, outcome: Outcome) -> Verdict {
        let mut queue = self.queue.lock();
        let verdict = queue.delivery.finished(now, item.write.number, outcome);
        if !matches!(verdict, Verdict::Waiting { .. }) {
            for write in item.all() {
                queue.give_up(write.number);
            }
        }
        drop(queue);
        self.ring();
        verdict
    }

    /// What became of a write at the source, for its writer to bring again.
    pub(crate) fn hand_back(&self, number: WriteNumber, result: SettledAs) {
        self.queue.lock().unsettled.insert(number, result);
    }

    /// See [`hand_back`](Self::hand_back).
    pub(crate) fn take_back(&self, number: WriteNumber) -> Option<SettledAs> {
        self.queue.lock().unsettled.remove(&number)
    }

    /// The source refused these as a batch: they go one by one.
    pub(crate) fn split(&self, items: &[Item]) {
        let numbers: Vec<WriteNumber> = items.iter().map(|item| item.write.number).collect();
        self.queue.lock().delivery.split(&numbers);
        self.ring();
    }

    /// Takes no more writes. What waits for a later moment is tried once more at once.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closing = true;
        queue.delivery.resume();
        let waiting: Vec<WriteNumber> = queue
            .delivery
            .iter()
            .filter_map(|(number, _, pending)| matches!(pending, Pending::Waiting { .. }).then_some(number))
            .collect();
        for number in waiting {
            // One behind a `delete_all` isn't tried again.
            let _ = queue.delivery.retry_now(number);
        }
        drop(queue);
        self.ring();
    }

    /// Waits until every write is delivered, or none can be before some later moment.
    pub(crate) fn wait_idle(&self, deadline: Deadline) {
        loop {
            let seen = self.changes.get();
            let is_idle = {
                let queue = self.queue.lock();
                queue.used == 0 || queue.is_stuck
            };
            if is_idle || matches!(self.changes.wait_until(seen + 1, Some(time_left(deadline))), Waited::TimedOut(_)) {
                return;
            }
        }
    }

    /// Ends the writers after the writes they are at. Gives back the writes that are not settled, and says of each whether it
    /// is at the source.
    pub(crate) fn abandon(&self) -> Vec<(Arc<StagedWrite>, bool)> {
        let mut queue = self.queue.lock();
        queue.abandoned = true;
        let rest = std::mem::take(&mut queue.writes);
        let mut rest: Vec<(Arc<StagedWrite>, bool)> = rest
            .into_values()
            .map(|write| {
                let at_the_source = matches!(queue.delivery.pending(write.number), Some(Pending::InFlight { .. }));
                (write, at_the_source)
            })
            .collect();
        queue.used -= rest.len().min(queue.used);
        queue.left = rest.iter().map(|(write, _)| write.number).collect();
        drop(queue);
        rest.sort_by_key(|(write, _)| write.number);
        self.ring();
        rest
    }
}

impl Queue {
    /// Has an announced write delivered; gives back those that it makes pointless.
    fn accept(&mut self, write: &StagedWrite, attempted: bool) -> Vec<Arc<StagedWrite>> {
        let row = write.ticket.id().map_or(RowKey::Table, RowKey::Id);
        let accepted = Accepted { number: write.number, row, op: write.op.clone(), attempted };
        let superseded = self.delivery.accept(accepted);
        self.is_stuck = false;
        superseded.into_iter().filter_map(|number| self.give_up(number)).collect()
    }

    /// A write whose end nobody was told of. It is told before the queue lets go of the write.
    fn unsettled(&self, number: WriteNumber) -> Result<&Arc<StagedWrite>, Refusal> {
        let write = self.writes.get(&number).filter(|write| !write.ticket.ticket().state().has_ended());
        write.ok_or(Refusal::Unknown)
    }

    fn give_up(&mut self, number: WriteNumber) -> Option<Arc<StagedWrite>> {
        let write = self.writes.remove(&number)?;
        self.used -= 1;
        Some(write)
    }
}
