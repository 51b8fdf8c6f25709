//! Model: random scripts on the queue beside plain lists that are searched from end to end.
//!
//! The model says word by word what `next` must answer, what each operation returns and where each write stands. Lengths of
//! waits are the queue's own; the model holds them to the bounds of the policy. What holds whatever the model thinks (order
//! in a row, one call at a time, no call after the end, one probe, everything drains) is asserted apart from it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::key_of;
use super::*;
use crate::record;
use crate::value::Record;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Patch,
    Upsert,
    InsertNew,
    DeleteAll,
}

#[derive(Debug, Clone)]
enum Step {
    Accept { row: u8, kind: Kind, attempted: bool },
    Next,
    Finish { which: usize, outcome: Outcome },
    Pass { ms: u64 },
    PassUntilDue,
    Remove { which: usize },
    RetryNow { which: usize },
    Resume,
    Rename { old: u8, new: u8 },
    Split { which: usize },
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        8 => Just(Kind::Patch),
        3 => Just(Kind::Upsert),
        1 => Just(Kind::InsertNew),
        1 => Just(Kind::DeleteAll),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let wish = proptest::option::weighted(0.3, (0_u64..200).prop_map(Duration::from_secs));
    prop_oneof![
        5 => Just(Outcome::Done),
        1 => Just(Outcome::Failed),
        4 => wish.clone().prop_map(|retry_after| Outcome::Transient { retry_after }),
        2 => wish.prop_map(|retry_after| Outcome::Unavailable { retry_after }),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let which = 0..64_usize;
    prop_oneof![
        10 => (0..4_u8, kinds(), proptest::bool::weighted(0.1))
            .prop_map(|(row, kind, attempted)| Step::Accept { row, kind, attempted }),
        12 => Just(Step::Next),
        10 => (which.clone(), outcomes()).prop_map(|(which, outcome)| Step::Finish { which, outcome }),
        3 => (0..40_000_u64).prop_map(|ms| Step::Pass { ms }),
        4 => Just(Step::PassUntilDue),
        1 => which.clone().prop_map(|which| Step::Remove { which }),
        1 => which.clone().prop_map(|which| Step::RetryNow { which }),
        1 => Just(Step::Resume),
        1 => (0..4_u8, 0..4_u8).prop_map(|(old, new)| Step::Rename { old, new }),
        1 => which.prop_map(|which| Step::Split { which }),
    ]
}

fn policies() -> impl Strategy<Value = DeliveryPolicy> {
    let attempts = proptest::option::weighted(0.3, 1..4_u32);
    (attempts, 1..5_usize, 1..6_usize, any::<bool>(), 0.0..=1.0).prop_map(
        |(attempts, parallel, batch, coalesce, jitter)| {
            DeliveryPolicy::default()
                .max_attempts(attempts)
                .parallel(parallel)
                .batch(batch)
                .coalesce_patches(coalesce)
                .jitter(jitter)
        },
    )
}

/// A write that is not over.
#[derive(Debug, Clone)]
struct Open {
    row: RowKey,
    op: WriteOp,
    attempts: u32,
    failures: u32,
    alone: bool,
    place: Place,
    call: usize,
    lead: Option<WriteNumber>,
}

struct Model {
    policy: DeliveryPolicy,
    open: BTreeMap<WriteNumber, Open>,
    newest: u64,
    now: Moment,
    patience: Option<(WriteNumber, Moment)>,
    /// Until when, failures in a row, and the probe.
    pause: Option<(Moment, u32, Option<WriteNumber>)>,
    calls: usize,
    /// How each write ended; a write ends once.
    ended: BTreeMap<WriteNumber, &'static str>,
}

fn op_of(kind: Kind, row: u8, number: u64) -> WriteOp {
    let field = format!("f{}", number % 3);
    let record: Record = record! { field => number as i64, "last" => number as i64 };
    match kind {
        Kind::Patch => WriteOp::patch(row.to_string(), record),
        Kind::Upsert => WriteOp::upsert(row.to_string(), record),
        Kind::InsertNew => WriteOp::insert(record),
        Kind::DeleteAll => WriteOp::delete_all(),
    }
}

fn deletes_all(op: &WriteOp) -> bool {
    matches!(op, WriteOp::DeleteAll)
}

fn is_patch(op: &WriteOp) -> bool {
    matches!(op, WriteOp::Patch { .. })
}

impl Model {
    fn end(&mut self, lead: WriteNumber, how: &'static str) -> Vec<WriteNumber> {
        let numbers: Vec<WriteNumber> = [lead].into_iter().chain(self.merged_into(lead)).collect();
        for number in &numbers {
            assert!(self.open.remove(number).is_some());
            assert_eq!(self.ended.insert(*number, how), None, "write {number} ended twice");
        }
        numbers
    }

    fn merged_into(&self, lead: WriteNumber) -> Vec<WriteNumber> {
        self.open.iter().filter(|(_, open)| open.lead == Some(lead)).map(|(number, _)| *number).collect()
    }

    fn leads(&self) -> impl Iterator<Item = (WriteNumber, &Open)> {
        self.open.iter().filter(|(_, open)| open.lead.is_none()).map(|(number, open)| (*number, open))
    }

    fn away(&self) -> Vec<WriteNumber> {
        self.leads().filter(|(_, open)| open.place == Place::Away).map(|(number, _)| number).collect()
    }

    fn calls_under_way(&self) -> usize {
        let mut calls: Vec<usize> = self.away().iter().map(|number| self.open[number].call).collect();
        calls.sort_unstable();
        calls.dedup();
        calls.len()
    }

    fn barrier(&self) -> Option<WriteNumber> {
        self.leads().filter(|(_, open)| deletes_all(&open.op)).map(|(number, _)| number).max()
    }

    fn patience(&mut self, barrier: WriteNumber) -> Moment {
        if self.patience.is_none_or(|(number, _)| number != barrier) {
            self.patience = Some((barrier, self.now.after(self.policy.deadline)));
        }
        self.patience.unwrap().1
    }

    /// The writes of a row that are not over, first to last.
    fn row(&self, row: &RowKey) -> Vec<WriteNumber> {
        self.leads().filter(|(_, open)| open.row == *row).map(|(number, _)| number).collect()
    }

    /// First writes of rows of which nothing is away.
    fn heads(&self) -> Vec<WriteNumber> {
        let is_head = |(number, open): &(WriteNumber, &Open)| {
            let row = self.row(&open.row);
            row[0] == *number && row.iter().all(|number| self.open[number].place != Place::Away)
        };
        self.leads().filter(is_head).map(|(number, _)| number).collect()
    }

    fn answer_at(&self, due: Moment) -> Option<Next> {
        if self.calls_under_way() >= self.policy.parallel {
            return Some(Next::Idle);
        }
        let moment = match self.pause {
            None => due,
            Some((_, _, Some(_))) => return Some(Next::Idle),
            Some((until, _, None)) => due.max(until),
        };
        (moment > self.now).then_some(Next::WaitUntil(moment))
    }

    fn next(&mut self) -> Next {
        if let Some(barrier) = self.barrier() {
            let until = self.patience(barrier);
            let before = |(number, _): &(WriteNumber, &Open)| *number < barrier;
            let tried = |(_, open): &(WriteNumber, &Open)| open.attempts > 0 && open.place != Place::Away;
            let tried: Vec<WriteNumber> = self.leads().filter(before).filter(tried).map(|(number, _)| number).collect();
            if !tried.is_empty() {
                if until > self.now {
                    return Next::WaitUntil(until);
                }
                let numbers = tried.into_iter().flat_map(|number| self.end(number, "superseded")).collect();
                return Next::Superseded { by: barrier, numbers };
            }
            if !self.away().is_empty() {
                return Next::Idle;
            }
            let due = match self.open[&barrier].place {
                Place::Waiting(until) => until.max(self.now),
                _ => self.now,
            };
            return self.answer_at(due).unwrap_or_else(|| self.depart(&[barrier]));
        }
        let heads = self.heads();
        for head in &heads {
            let turn = WriteNumber(self.newest + 1);
            let open = self.open.get_mut(head).unwrap();
            if matches!(open.place, Place::Waiting(until) if until <= self.now) {
                open.place = Place::Ready(turn);
            }
        }
        let due = heads.iter().map(|head| match self.open[head].place {
            Place::Waiting(until) => until,
            _ => self.now,
        });
        let Some(due) = due.min() else { return Next::Idle };
        if let Some(answer) = self.answer_at(due) {
            return answer;
        }
        let numbers = self.choose(heads);
        self.depart(&numbers)
    }

    fn choose(&mut self, mut pool: Vec<WriteNumber>) -> Vec<WriteNumber> {
        let limit = if self.pause.is_some() { 1 } else { self.policy.batch };
        let mut chosen = Vec::new();
        while chosen.len() < limit {
            let turn = |number: &WriteNumber| match self.open[number].place {
                Place::Ready(turn) => Some((turn, *number)),
                Place::Waiting(until) => (until <= self.now).then_some((WriteNumber(self.newest + 1), *number)),
                Place::Away => None,
            };
            let Some((_, number)) = pool.iter().filter_map(turn).min() else { break };
            if self.open[&number].alone && !chosen.is_empty() {
                break;
            }
            pool.retain(|other| *other != number);
            self.merge(number);
            chosen.push(number);
            if self.open[&number].alone {
                break;
            }
            let row = self.row(&self.open[&number].row);
            let behind = row.into_iter().find(|other| *other > number);
            pool.extend(behind.filter(|behind| !self.open[behind].alone));
        }
        chosen
    }

    fn merge(&mut self, lead: WriteNumber) {
        let may = |open: &Open| open.attempts == 0 && is_patch(&open.op);
        if !self.policy.coalesce_patches || !may(&self.open[&lead]) {
            return;
        }
        for number in self.row(&self.open[&lead].row.clone()).into_iter().filter(|number| *number > lead) {
            if !may(&self.open[&number]) {
                return;
            }
            self.open.get_mut(&number).unwrap().lead = Some(lead);
        }
    }

    fn depart(&mut self, numbers: &[WriteNumber]) -> Next {
        self.calls += 1;
        let mut deliver = Vec::new();
        for number in numbers {
            let merged = self.merged_into(*number);
            let mut op = self.open[number].op.clone();
            if let (WriteOp::Patch { record, .. }, false) = (&mut op, merged.is_empty()) {
                merged.iter().for_each(|later| record.merge(self.open[later].op.record().unwrap()));
            }
            let open = self.open.get_mut(number).unwrap();
            open.attempts += 1;
            open.alone |= numbers.len() == 1;
            open.place = Place::Away;
            open.call = self.calls;
            deliver.push(Due { number: *number, op: Arc::new(op), attempt: open.attempts, merged });
        }
        if let Some((_, _, probe)) = &mut self.pause {
            *probe = Some(numbers[0]);
        }
        Next::Deliver(deliver)
    }

    fn is_probe(&self, number: WriteNumber) -> bool {
        self.pause.is_some_and(|(_, _, probe)| probe == Some(number))
    }

    /// Holds a wait to the bounds of the policy.
    fn check_wait(&self, until: Moment, first: Duration, longest: Duration, failures: u32, wish: Option<Duration>) {
        let (least, most) = match wish {
            Some(wish) => {
                let wish = wish.max(self.policy.first_delay);
                (wish, wish.mul_f64(1.0 + self.policy.jitter))
            }
            None => {
                let most = first.saturating_mul(1 << (failures - 1).min(20)).min(longest);
                (most.mul_f64(1.0 - self.policy.jitter), most)
            }
        };
        let rounding = Duration::from_micros(1);
        let waited = until.since(self.now);
        assert!(waited + rounding >= least && waited <= most + rounding, "{waited:?} is not in {least:?}..{most:?}");
    }

    fn finished(&mut self, queue: &Delivery, number: WriteNumber, outcome: Outcome, verdict: Verdict) {
        let was_probe = self.is_probe(number);
        if was_probe && !matches!(outcome, Outcome::Unavailable { .. }) {
            self.pause = None;
        }
        let open = self.open.get_mut(&number).unwrap();
        let mut wait = None;
        match outcome {
            Outcome::Done | Outcome::Failed => {
                assert_eq!(verdict, Verdict::Settled);
                self.end(number, "settled");
                return;
            }
            Outcome::Transient { .. } => {
                open.failures += 1;
                if self.policy.max_attempts.is_some_and(|most| open.failures >= most) {
                    assert_eq!(verdict, Verdict::GaveUp);
                    self.end(number, "given up");
                    return;
                }
                wait = queue.place(number);
            }
            Outcome::Unavailable { retry_after } => {
                let until = queue.is_paused().expect("an absence pauses");
                match self.pause {
                    Some((paused_until, failures, probe)) if !was_probe => {
                        assert!(until >= paused_until, "late news shortens no pause");
                        match retry_after {
                            Some(wish) => assert!(until >= self.now.after(wish)),
                            None => assert_eq!(until, paused_until),
                        }
                        self.pause = Some((until, failures, probe));
                    }
                    was => {
                        let failures = was.map_or(0, |(_, failures, _)| failures) + 1;
                        let first = self.policy.probe_every;
                        self.check_wait(until, first, first.max(self.policy.max_delay), failures, retry_after);
                        self.pause = Some((until, failures, None));
                    }
                }
            }
        }
        let barrier = self.barrier().filter(|barrier| number < *barrier);
        if let Some(by) = barrier
            && self.patience(by) <= self.now
        {
            assert_eq!(verdict, Verdict::Superseded { by });
            self.end(number, "superseded");
            return;
        }
        let failures = self.open[&number].failures;
        let place = match (outcome, wait) {
            (Outcome::Transient { retry_after }, Some(Place::Waiting(until))) => {
                self.check_wait(until, self.policy.first_delay, self.policy.max_delay, failures, retry_after);
                Place::Waiting(until)
            }
            (Outcome::Unavailable { .. }, None) => Place::Ready(number),
            wrong => panic!("{wrong:?}"),
        };
        self.open.get_mut(&number).unwrap().place = place;
        let until = match (barrier, place) {
            (Some(by), _) => self.patience(by),
            (None, Place::Waiting(until)) => until,
            (None, _) => self.pause.unwrap().0.max(self.now),
        };
        assert_eq!(verdict, Verdict::Waiting { until });
    }

    /// The write that stands for this one, unless it is away.
    fn at_rest(&self, number: WriteNumber) -> Result<WriteNumber, Refusal> {
        let lead = self.open.get(&number).ok_or(Refusal::Unknown)?.lead.unwrap_or(number);
        if self.open[&lead].place == Place::Away { Err(Refusal::InFlight) } else { Ok(lead) }
    }

    fn remove(&mut self, number: WriteNumber) -> Result<Arc<WriteOp>, Refusal> {
        self.at_rest(number)?;
        let heirs = self.merged_into(number);
        let gone = self.open.remove(&number).unwrap();
        self.ended.insert(number, "removed");
        for heir in &heirs {
            let open = self.open.get_mut(heir).unwrap();
            open.lead = Some(heirs[0]).filter(|lead| lead != heir);
            if open.lead.is_none() {
                (open.attempts, open.failures, open.alone) = (gone.attempts, gone.failures, gone.alone);
                open.place = gone.place;
            }
        }
        Ok(Arc::new(gone.op))
    }

    fn retry_now(&mut self, number: WriteNumber) -> Result<(), Refusal> {
        let lead = self.at_rest(number)?;
        if let Some(barrier) = self.barrier().filter(|barrier| lead < *barrier) {
            return Err(Refusal::Behind(barrier));
        }
        self.open.get_mut(&lead).unwrap().place = Place::Ready(lead);
        if let Some((until, _, _)) = &mut self.pause {
            *until = Moment::default();
        }
        Ok(())
    }
}

struct Run {
    queue: Delivery,
    model: Model,
}

impl Run {
    fn accept(&mut self, row: u8, kind: Kind, attempted: bool) {
        self.model.newest += 1;
        let number = WriteNumber(self.model.newest);
        let op = op_of(kind, row, number.0);
        let row = key_of(number, &op);
        let mut superseded = Vec::new();
        if deletes_all(&op) {
            let untried = |(_, open): &(WriteNumber, &Open)| open.attempts == 0;
            let before: Vec<WriteNumber> = self.model.leads().filter(untried).map(|(number, _)| number).collect();
            superseded.extend(before.into_iter().flat_map(|number| self.model.end(number, "superseded")));
        }
        let (attempts, place) = (u32::from(attempted), Place::Ready(number));
        let open = Open {
            row: row.clone(),
            op: op.clone(),
            attempts,
            failures: 0,
            alone: attempted,
            place,
            call: 0,
            lead: None,
        };
        self.model.open.insert(number, open);
        assert_eq!(self.queue.accept(Accepted { number, row, op: Arc::new(op), attempted }), superseded);
    }

    fn next(&mut self) -> Next {
        let paused = self.model.pause.is_some();
        let away_before = self.model.away();
        let expected = self.model.next();
        let answer = self.queue.next(self.model.now);
        assert_eq!(answer, expected);
        if let Next::Deliver(due) = &answer {
            self.check_call(due, &away_before, paused);
        }
        answer
    }

    /// What holds of every call, whatever the model thinks.
    fn check_call(&self, due: &[Due], away_before: &[WriteNumber], paused: bool) {
        let model = &self.model;
        let numbers: Vec<WriteNumber> = due.iter().map(|due| due.number).collect();
        assert!(!paused || due.len() == 1, "one probe");
        assert!(!due.is_empty() && due.len() <= model.policy.batch.max(1));
        for (at, number) in numbers.iter().enumerate() {
            assert!(!model.ended.contains_key(number), "write {number} is over");
            assert!(due.len() == 1 || !deletes_all(&model.open[number].op));
            let row = &model.open[number].row;
            assert!(away_before.iter().all(|away| model.open[away].row != *row), "two calls for one row");
            for earlier in model.row(row).iter().filter(|earlier| *earlier < number) {
                assert!(numbers[..at].contains(earlier), "write {number} overtook {earlier}");
            }
            for (other, open) in model.leads() {
                let behind = deletes_all(&open.op) && other < *number;
                let before = deletes_all(&model.open[number].op) && other < *number;
                assert!(!behind && !before, "write {number} passed {other}");
            }
        }
        assert!(model.calls_under_way() <= model.policy.parallel);
    }

    fn finish(&mut self, number: WriteNumber, outcome: Outcome) {
        let verdict = self.queue.finished(self.model.now, number, outcome);
        self.model.finished(&self.queue, number, outcome, verdict);
        assert_eq!(self.queue.finished(self.model.now, number, outcome), Verdict::NotInFlight);
    }

    fn pass_until_due(&mut self) {
        if let Next::WaitUntil(moment) = self.next() {
            assert!(moment > self.model.now);
            self.model.now = moment;
            let next = self.next();
            assert!(
                matches!(next, Next::Deliver(_) | Next::Superseded { .. }),
                "nothing to do at the moment said: {next:?}"
            );
        }
    }

    fn step(&mut self, step: Step) {
        // A number that is open, over or not given yet.
        let any = |which: usize, newest: u64| WriteNumber(which as u64 % (newest + 2));
        let newest = self.model.newest;
        match step {
            Step::Accept { row, kind, attempted } => self.accept(row, kind, attempted),
            Step::Next => drop(self.next()),
            Step::Finish { which, outcome } => {
                let away = self.model.away();
                if !away.is_empty() {
                    self.finish(away[which % away.len()], outcome);
                }
            }
            Step::Pass { ms } => self.model.now = self.model.now.after(Duration::from_millis(ms)),
            Step::PassUntilDue => self.pass_until_due(),
            Step::Remove { which } => {
                let number = any(which, newest);
                assert_eq!(self.queue.remove(number), self.model.remove(number));
            }
            Step::RetryNow { which } => {
                let number = any(which, newest);
                assert_eq!(self.queue.retry_now(number), self.model.retry_now(number));
            }
            Step::Resume => {
                self.queue.resume();
                self.model.pause = None;
            }
            Step::Rename { old, new } => self.rename(old, new),
            Step::Split { which } => self.split(which),
        }
        self.check_state();
    }

    fn rename(&mut self, old: u8, new: u8) {
        let key = |row: u8| RowKey::Id(Arc::from(row.to_string()));
        let (old, new) = (key(old), key(new));
        let model = &mut self.model;
        let mut moved = Vec::new();
        if old != new {
            for number in model.row(&old) {
                moved.push(number);
                moved.extend(model.merged_into(number));
            }
        }
        moved.iter().for_each(|number| model.open.get_mut(number).unwrap().row = new.clone());
        self.queue.rename(&old, &new);
    }

    fn split(&mut self, which: usize) {
        let away = self.model.away();
        if away.is_empty() {
            return;
        }
        let call = self.model.open[&away[which % away.len()]].call;
        let numbers: Vec<WriteNumber> =
            away.into_iter().filter(|number| self.model.open[number].call == call).collect();
        self.queue.split(&numbers);
        for number in numbers {
            if self.model.is_probe(number) {
                self.model.pause = None;
            }
            let open = self.model.open.get_mut(&number).unwrap();
            open.alone = true;
            open.place = Place::Ready(number);
        }
    }

    fn check_state(&self) {
        let (queue, model) = (&self.queue, &self.model);
        let expected = model.open.iter().map(|(number, open)| {
            let lead = &model.open[&open.lead.unwrap_or(*number)];
            let attempts = lead.attempts;
            let pending = match lead.place {
                Place::Away => Pending::InFlight { attempt: attempts },
                Place::Ready(_) => Pending::Queued { attempts },
                Place::Waiting(until) => Pending::Waiting { attempts, until },
            };
            (*number, &open.op, pending)
        });
        let listed = queue.iter().map(|(number, op, pending)| (number, &**op, pending));
        assert_eq!(listed.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert_eq!((queue.entries.len(), queue.in_flight()), (model.open.len(), model.calls_under_way()));
        assert_eq!(queue.is_paused(), model.pause.map(|(until, _, _)| until));
        for number in 1..=model.newest {
            let number = WriteNumber(number);
            assert_ne!(model.open.contains_key(&number), model.ended.contains_key(&number), "write {number} is lost");
            assert_eq!(queue.pending(number).is_some(), model.open.contains_key(&number));
        }
    }

    /// With good outcomes and time alone everything ends.
    fn drain(&mut self) {
        for _ in 0..10 * (self.model.newest + 10) {
            for number in self.model.away() {
                self.finish(number, Outcome::Done);
            }
            match self.next() {
                Next::Idle => break,
                Next::WaitUntil(moment) => {
                    self.model.now = moment;
                    assert!(!matches!(self.next(), Next::WaitUntil(_) | Next::Idle));
                }
                Next::Deliver(_) | Next::Superseded { .. } => {}
            }
        }
        self.check_state();
        assert_eq!(self.queue.entries.len(), 0, "left behind: {:?}", self.queue);
        assert_eq!(self.queue.line.first_ready(), None);
        assert_eq!((self.queue.fresh.len(), self.queue.tried.len(), self.queue.flying.len()), (0, 0, 0));
    }
}

/// `DIORAMA_DELIVERY_CASES=1000000` makes a long run.
fn cases() -> u32 {
    std::env::var("DIORAMA_DELIVERY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_queue_does_what_plain_lists_do(
        policy in policies(),
        seed in any::<u64>(),
        script in proptest::collection::vec(steps(), 0..120),
    ) {
        let model = Model {
            policy: policy.clone(),
            open: BTreeMap::new(),
            newest: 0,
            now: Moment::default(),
            patience: None,
            pause: None,
            calls: 0,
            ended: BTreeMap::new(),
        };
        let mut run = Run { queue: Delivery::new(policy, seed), model };
        for step in script {
            run.step(step);
        }
        run.drain();
    }
}
