//! Delivery: which accepted write goes to the source next, and when. A pure state machine fed with moments.
//!
//! Owner: whoever holds it behind a lock; it has no threads, no clock and does no I/O.
//! Flow: `accept` → `next` says what to deliver or until when to wait → the caller delivers → `finished` says what became
//! of the write.
//! Invariants, held by the model in `delivery/model.rs`:
//! 1. Writes of a row go in the order of acceptance, one delivery at a time; while one waits, other rows go on.
//! 2. What was accepted is listed until it is settled, given up, superseded or removed, and never delivered after that.
//! 3. While the source is unavailable one write at a time probes; any other answer lets all go on.
//! 4. A write that was tried is never merged with another one, and stays merged with what it was merged with.
//! 5. Who waits as `next` says is then given something to do.
//! 6. An operation costs O(log n) of the queue's length for each write that it returns, moves or finds merged
//!    (`a_hundred_thousand_writes_are_accepted_and_drained_in_steps_that_follow_their_number`).
//!
//! Not here: tickets, the journal, calling the source, and what a row shows meanwhile.

mod backoff;
mod line;
#[cfg(test)]
mod model;
mod policy;
mod protocol;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::WriteNumber;
use crate::clock::Moment;
use crate::vista::WriteOp;

use backoff::Backoff;
pub(crate) use line::RowKey;
use line::{Line, Place};
pub use policy::DeliveryPolicy;
pub(crate) use protocol::{Accepted, Due, Next, Outcome, Pending, Refusal, Verdict};

#[derive(Debug)]
struct Entry {
    op: Arc<WriteOp>,
    row: RowKey,
    /// How often it was handed out.
    attempts: u32,
    /// How many of these count against `max_attempts`.
    failures: u32,
    /// Whether it may not share a call with others: it went alone before.
    alone: bool,
    /// The call it is in.
    flight: Option<u64>,
    /// The write it was merged into; that one stands for it everywhere but in `Delivery::entries`.
    lead: Option<WriteNumber>,
    merged: Vec<WriteNumber>,
    /// The patch that stands for it and `merged`, once made.
    joined: Option<Arc<WriteOp>>,
}

#[derive(Debug)]
struct Pause {
    until: Moment,
    /// How often in a row the source was unavailable.
    failures: u32,
    probe: Option<WriteNumber>,
}

/// The queue of a table's accepted writes.
#[derive(Debug)]
pub(crate) struct Delivery {
    policy: DeliveryPolicy,
    backoff: Backoff,
    entries: BTreeMap<WriteNumber, Entry>,
    /// Writes that nobody tried; merged ones left out, here and in the next two.
    fresh: BTreeSet<WriteNumber>,
    /// Writes that were tried and are not being delivered.
    tried: BTreeSet<WriteNumber>,
    flying: BTreeSet<WriteNumber>,
    line: Line,
    /// The highest number so far. A write that waited for a moment takes its turn behind it, so that writes which fail again
    /// and again don't hold up those that were never tried.
    newest: WriteNumber,
    /// Every `delete_all`. The last one stands between what is before it and what comes after.
    barriers: BTreeSet<WriteNumber>,
    /// Until when the last `delete_all` waits for writes that were tried before it.
    patience: Option<(WriteNumber, Moment)>,
    /// The calls under way, and how many of their writes are not finished.
    flights: HashMap<u64, usize>,
    next_flight: u64,
    pause: Option<Pause>,
}

impl Delivery {
    /// An empty queue. The seed is that of the chance in its waits.
    pub(crate) fn new(policy: DeliveryPolicy, seed: u64) -> Self {
        Delivery {
            policy,
            backoff: Backoff::new(seed),
            entries: BTreeMap::new(),
            fresh: BTreeSet::new(),
            tried: BTreeSet::new(),
            flying: BTreeSet::new(),
            line: Line::default(),
            newest: WriteNumber::default(),
            barriers: BTreeSet::new(),
            patience: None,
            flights: HashMap::new(),
            next_flight: 0,
            pause: None,
        }
    }

    /// Takes a write over. Returns those that it supersedes: for a `delete_all` all that came before it and were not
    /// tried. They are forgotten. A number that is in the queue already is left as it is.
    pub(crate) fn accept(&mut self, accepted: Accepted) -> Vec<WriteNumber> {
        let Accepted { number, row, op, attempted } = accepted;
        if number <= self.newest && self.entries.contains_key(&number) {
            return Vec::new();
        }
        let mut superseded = Vec::new();
        if matches!(*op, WriteOp::DeleteAll) {
            let before: Vec<WriteNumber> = self.fresh.range(..number).copied().collect();
            for earlier in before {
                superseded.extend(self.forget(earlier));
            }
            self.barriers.insert(number);
        }
        self.newest = self.newest.max(number);
        self.line.add(&row, number, Place::Ready(number));
        if attempted { &mut self.tried } else { &mut self.fresh }.insert(number);
        let entry = Entry {
            op,
            row,
            attempts: u32::from(attempted),
            failures: 0,
            alone: attempted,
            flight: None,
            lead: None,
            merged: Vec::new(),
            joined: None,
        };
        self.entries.insert(number, entry);
        superseded
    }

    /// What to do at this moment.
    pub(crate) fn next(&mut self, now: Moment) -> Next {
        if let Some(&barrier) = self.barriers.last() {
            return self.next_at(barrier, now);
        }
        self.line.wake(now, self.turn_behind_all());
        let due = match self.line.first_ready() {
            Some(_) => now,
            None => match self.line.first_waiting() {
                Some(until) => until,
                None => return Next::Idle,
            },
        };
        match self.opens(due) {
            None => Next::Idle,
            Some(moment) if moment > now => Next::WaitUntil(moment),
            Some(_) => {
                let limit = if self.pause.is_some() { 1 } else { self.policy.batch };
                let numbers = self.choose(now, limit);
                self.depart(&numbers)
            }
        }
    }

    /// What to do while this `delete_all` is the last one: nothing before it is tried again, nothing after it goes.
    fn next_at(&mut self, barrier: WriteNumber, now: Moment) -> Next {
        let until = self.patience(barrier, now);
        if self.tried.range(..barrier).next().is_some() {
            if until > now {
                return Next::WaitUntil(until);
            }
            let before: Vec<WriteNumber> = self.tried.range(..barrier).copied().collect();
            let numbers = before.into_iter().flat_map(|earlier| self.forget(earlier)).collect();
            return Next::Superseded { by: barrier, numbers };
        }
        if !self.flying.is_empty() {
            return Next::Idle;
        }
        let due = match self.place(barrier) {
            Some(Place::Waiting(until)) => until.max(now),
            _ => now,
        };
        match self.opens(due) {
            None => Next::Idle,
            Some(moment) if moment > now => Next::WaitUntil(moment),
            Some(_) => {
                self.move_to(barrier, Place::Away);
                self.depart(&[barrier])
            }
        }
    }

    /// Until when the last `delete_all` waits for what was tried before it; counted from when this is first asked.
    fn patience(&mut self, barrier: WriteNumber, now: Moment) -> Moment {
        match self.patience {
            Some((number, until)) if number == barrier => until,
            _ => {
                let until = now.after(self.policy.deadline);
                self.patience = Some((barrier, until));
                until
            }
        }
    }

    /// When a delivery that could begin at `due` may begin; `None`: not before something is finished.
    fn opens(&self, due: Moment) -> Option<Moment> {
        if self.flights.len() >= self.policy.parallel {
            return None;
        }
        match &self.pause {
            None => Some(due),
            Some(Pause { probe: Some(_), .. }) => None,
            Some(pause) => Some(due.max(pause.until)),
        }
    }

    /// Takes up to `limit` writes that may share a call out of the line, in the order of acceptance.
    fn choose(&mut self, now: Moment, limit: usize) -> Vec<WriteNumber> {
        let mut chosen = Vec::new();
        // Writes right behind a chosen one of the same row; all that is chosen keeps its order in the call.
        let mut behind = BTreeSet::new();
        while chosen.len() < limit
            && let Some(turn) = self.line.first_ready().into_iter().chain(behind.first().copied()).min()
        {
            let (_, number) = turn;
            let alone = self.goes_alone(number);
            if alone && !chosen.is_empty() {
                break;
            }
            behind.remove(&turn);
            self.merge_patches_behind(number);
            let Some(row) = self.entries.get(&number).map(|entry| entry.row.clone()) else { break };
            self.line.put(&row, number, Place::Away);
            chosen.push(number);
            if alone {
                break;
            }
            if let Some((next, place)) = self.line.after(&row, number) {
                let turn = match place {
                    Place::Ready(turn) => Some((turn, next)),
                    Place::Waiting(until) => (until <= now).then_some((self.turn_behind_all(), next)),
                    Place::Away => None,
                };
                behind.extend(turn.filter(|_| !self.goes_alone(next)));
            }
        }
        chosen
    }

    fn turn_behind_all(&self) -> WriteNumber {
        WriteNumber(self.newest.0.saturating_add(1))
    }

    fn goes_alone(&self, number: WriteNumber) -> bool {
        self.entries.get(&number).is_some_and(|entry| entry.alone)
    }

    fn is_fresh_patch(&self, number: WriteNumber) -> bool {
        let is_patch = |entry: &Entry| matches!(*entry.op, WriteOp::Patch { .. });
        self.fresh.contains(&number) && self.entries.get(&number).is_some_and(is_patch)
    }

    /// Merges the patches right behind this one into it, if policy and their state allow.
    fn merge_patches_behind(&mut self, lead: WriteNumber) {
        if !self.policy.coalesce_patches || !self.is_fresh_patch(lead) {
            return;
        }
        let Some(row) = self.entries.get(&lead).map(|entry| entry.row.clone()) else { return };
        let mut merged = Vec::new();
        while let Some((next, _)) = self.line.after(&row, lead)
            && self.is_fresh_patch(next)
        {
            self.line.remove(&row, next);
            self.fresh.remove(&next);
            if let Some(entry) = self.entries.get_mut(&next) {
                entry.lead = Some(lead);
            }
            merged.push(next);
        }
        if let Some(entry) = self.entries.get_mut(&lead) {
            entry.merged = merged;
        }
    }

    /// Hands these out as one call.
    fn depart(&mut self, numbers: &[WriteNumber]) -> Next {
        let flight = self.next_flight;
        self.next_flight += 1;
        let mut deliver = Vec::with_capacity(numbers.len());
        for &number in numbers {
            let Some(op) = self.op_to_deliver(number) else { continue };
            let Some(entry) = self.entries.get_mut(&number) else { continue };
            entry.attempts = entry.attempts.saturating_add(1);
            entry.alone |= numbers.len() == 1;
            entry.flight = Some(flight);
            deliver.push(Due { number, op, attempt: entry.attempts, merged: entry.merged.clone() });
            self.fresh.remove(&number);
            self.tried.remove(&number);
            self.flying.insert(number);
        }
        self.flights.insert(flight, deliver.len());
        if let Some(pause) = &mut self.pause {
            pause.probe = numbers.first().copied();
        }
        Next::Deliver(deliver)
    }

    /// The write, or the patch that stands for it and those merged with it.
    fn op_to_deliver(&mut self, number: WriteNumber) -> Option<Arc<WriteOp>> {
        let entry = self.entries.get(&number)?;
        if let Some(joined) = &entry.joined {
            return Some(joined.clone());
        }
        let (WriteOp::Patch { id, record }, false) = (&*entry.op, entry.merged.is_empty()) else {
            return Some(entry.op.clone());
        };
        let mut record = record.clone();
        for later in entry.merged.iter().filter_map(|number| self.entries.get(number)?.op.record()) {
            record.merge(later);
        }
        let joined = Arc::new(WriteOp::patch(id.clone(), record));
        self.entries.get_mut(&number)?.joined = Some(joined.clone());
        Some(joined)
    }

    /// Says how the delivery of a write ended: once for each [`Due`], by its own number.
    pub(crate) fn finished(&mut self, now: Moment, number: WriteNumber, outcome: Outcome) -> Verdict {
        if !self.land(number) {
            return Verdict::NotInFlight;
        }
        let was_probe = self.is_probe(number);
        let until = match outcome {
            Outcome::Unavailable { retry_after } => self.pause_after(now, was_probe, retry_after),
            Outcome::Transient { retry_after } => {
                let failures = self.count_failure(number);
                if self.policy.max_attempts.is_some_and(|most| failures >= most) {
                    self.answered(was_probe);
                    self.forget(number);
                    return Verdict::GaveUp;
                }
                self.answered(was_probe);
                now.after(self.backoff.retry(&self.policy, failures, retry_after))
            }
            Outcome::Done | Outcome::Failed => {
                self.answered(was_probe);
                self.forget(number);
                return Verdict::Settled;
            }
        };
        let barrier = self.barriers.last().copied().filter(|barrier| number < *barrier);
        if let Some(by) = barrier
            && self.patience(by, now) <= now
        {
            self.forget(number);
            return Verdict::Superseded { by };
        }
        let place = match outcome {
            Outcome::Transient { .. } => Place::Waiting(until),
            // The pause of the whole queue is wait enough.
            _ => Place::Ready(number),
        };
        self.move_to(number, place);
        Verdict::Waiting { until: barrier.map_or(until, |by| self.patience(by, now)) }
    }

    fn is_probe(&self, number: WriteNumber) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.probe == Some(number))
    }

    /// The source was reached: all go on.
    fn answered(&mut self, was_probe: bool) {
        if was_probe {
            self.pause = None;
        }
    }

    /// Pauses the queue, or goes on pausing it. What was sent before the pause began neither prolongs nor ends it, unless
    /// the source says for how long it wants to be left alone.
    fn pause_after(&mut self, now: Moment, was_probe: bool, wish: Option<Duration>) -> Moment {
        let (failures, paused_until) = match &self.pause {
            None => (1, now),
            Some(pause) if was_probe => (pause.failures.saturating_add(1), now),
            Some(pause) if wish.is_none() => return pause.until.max(now),
            Some(pause) => (pause.failures, pause.until),
        };
        let until = now.after(self.backoff.probe(&self.policy, failures, wish)).max(paused_until);
        let probe = self.pause.as_ref().and_then(|pause| pause.probe).filter(|_| !was_probe);
        self.pause = Some(Pause { until, failures, probe });
        until
    }

    fn count_failure(&mut self, number: WriteNumber) -> u32 {
        let Some(entry) = self.entries.get_mut(&number) else { return 0 };
        entry.failures = entry.failures.saturating_add(1);
        entry.failures
    }

    /// Ends the write's part in its call; says whether it had one.
    fn land(&mut self, number: WriteNumber) -> bool {
        let Some(flight) = self.entries.get_mut(&number).and_then(|entry| entry.flight.take()) else { return false };
        self.flying.remove(&number);
        self.tried.insert(number);
        if let Some(open) = self.flights.get_mut(&flight) {
            *open -= 1;
            if *open == 0 {
                self.flights.remove(&flight);
            }
        }
        true
    }

    fn move_to(&mut self, number: WriteNumber, place: Place) {
        if let Some(entry) = self.entries.get(&number) {
            self.line.put(&entry.row, number, place);
        }
    }

    fn place(&self, number: WriteNumber) -> Option<Place> {
        self.line.place(&self.entries.get(&number)?.row, number)
    }

    /// Takes a write and those merged with it out of everything. Returns their numbers.
    fn forget(&mut self, number: WriteNumber) -> Vec<WriteNumber> {
        let Some(entry) = self.entries.remove(&number) else { return Vec::new() };
        self.line.remove(&entry.row, number);
        self.fresh.remove(&number);
        self.tried.remove(&number);
        self.barriers.remove(&number);
        let mut numbers = vec![number];
        for merged in entry.merged {
            self.entries.remove(&merged);
            numbers.push(merged);
        }
        numbers
    }

    /// These go one by one from now on. Those in flight come back to their places at once: the source refused to take them
    /// as a batch and did none of them.
    pub(crate) fn split(&mut self, numbers: &[WriteNumber]) {
        for &number in numbers {
            if self.land(number) {
                self.move_to(number, Place::Ready(number));
                self.answered(self.is_probe(number));
            }
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.alone = true;
            }
        }
    }

    /// The write that stands for this one: itself, or what it was merged into.
    fn lead_of(&self, number: WriteNumber) -> Result<WriteNumber, Refusal> {
        let entry = self.entries.get(&number).ok_or(Refusal::Unknown)?;
        Ok(entry.lead.unwrap_or(number))
    }

    /// The same, of a write that is not being delivered.
    fn lead_at_rest(&self, number: WriteNumber) -> Result<WriteNumber, Refusal> {
        let lead = self.lead_of(number)?;
        if self.flying.contains(&lead) { Err(Refusal::InFlight) } else { Ok(lead) }
    }

    /// Drops a write that its user doesn't want any more. Those merged with it stay.
    pub(crate) fn remove(&mut self, number: WriteNumber) -> Result<Arc<WriteOp>, Refusal> {
        let lead = self.lead_at_rest(number)?;
        let op = self.entries.get(&number).map(|entry| entry.op.clone()).ok_or(Refusal::Unknown)?;
        if lead != number {
            self.entries.remove(&number);
            if let Some(entry) = self.entries.get_mut(&lead) {
                entry.merged.retain(|merged| *merged != number);
                entry.joined = None;
            }
            return Ok(op);
        }
        let place = self.place(number).unwrap_or(Place::Ready(number));
        let heirs = self.entries.get_mut(&number).map(|entry| std::mem::take(&mut entry.merged)).unwrap_or_default();
        let was = self.entries.get(&number).map(|entry| (entry.attempts, entry.failures, entry.alone));
        self.forget(number);
        if let (Some((&heir, rest)), Some((attempts, failures, alone))) = (heirs.split_first(), was) {
            for merged in rest {
                if let Some(entry) = self.entries.get_mut(merged) {
                    entry.lead = Some(heir);
                }
            }
            if let Some(entry) = self.entries.get_mut(&heir) {
                (entry.attempts, entry.failures, entry.alone) = (attempts, failures, alone);
                entry.lead = None;
                entry.merged = rest.to_vec();
                self.line.add(&entry.row, heir, place);
                self.tried.insert(heir);
            }
        }
        Ok(op)
    }

    /// Ends the write's waiting, and that of a paused queue: the next probe is due now.
    pub(crate) fn retry_now(&mut self, number: WriteNumber) -> Result<(), Refusal> {
        let lead = self.lead_at_rest(number)?;
        if let Some(&barrier) = self.barriers.last()
            && lead < barrier
        {
            return Err(Refusal::Behind(barrier));
        }
        self.move_to(lead, Place::Ready(lead));
        self.probe_now();
        Ok(())
    }

    /// The next probe of a paused queue is due now.
    pub(crate) fn probe_now(&mut self) {
        if let Some(pause) = &mut self.pause {
            pause.until = Moment::default();
        }
    }

    /// The source is known to be there again: all go on.
    pub(crate) fn resume(&mut self) {
        self.pause = None;
    }

    /// The row has another key from now on. Its writes follow and keep the order of acceptance, also among those that are
    /// queued under the new key. Writes accepted later are to come under the new key.
    pub(crate) fn rename(&mut self, old: &RowKey, new: &RowKey) {
        for number in self.line.rename(old, new) {
            let merged = match self.entries.get_mut(&number) {
                Some(entry) => {
                    entry.row = new.clone();
                    entry.merged.clone()
                }
                None => Vec::new(),
            };
            for later in merged {
                if let Some(entry) = self.entries.get_mut(&later) {
                    entry.row = new.clone();
                }
            }
        }
    }

    /// How many deliveries are under way; a batch is one.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Where a write stands; `None`: it is not in the queue (any more).
    pub(crate) fn pending(&self, number: WriteNumber) -> Option<Pending> {
        let lead = self.lead_of(number).ok()?;
        let attempts = self.entries.get(&lead)?.attempts;
        Some(match self.place(lead)? {
            Place::Away => Pending::InFlight { attempt: attempts },
            Place::Ready(_) => Pending::Queued { attempts },
            Place::Waiting(until) => Pending::Waiting { attempts, until },
        })
    }

    /// All writes in the order of acceptance, each as it was accepted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WriteNumber, &Arc<WriteOp>, Pending)> {
        self.entries.iter().filter_map(|(number, entry)| Some((*number, &entry.op, self.pending(*number)?)))
    }

    /// Until when the queue is paused because the source is unavailable. Past while a probe is under way.
    pub(crate) fn is_paused(&self) -> Option<Moment> {
        self.pause.as_ref().map(|pause| pause.until)
    }
}
