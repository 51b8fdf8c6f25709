//! A table's writes under faults and crashes at every step, against a plain map of what they must look like afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use proptest::prelude::*;

use super::registry::PathJournal;
use super::tests::{FakeDisk, SMALL};
use super::*;
use crate::vista::WriteOp;
use crate::{ErrorKind, Result, Seq, record};

/// How a write is found.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Nothing,
    Pending { version: u64, attempted: bool },
    Confirmed(u64),
    Failed,
    Unknown,
}

#[derive(Debug, Clone)]
enum Step {
    Accept,
    Attempt(u8),
    Rewrite(u8, u8),
    End(u8, u8),
    Sync(u8),
    FailAfter(u8, bool),
    NoRoom(bool),
    Crash(u8, Option<u8>, bool),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Accept),
        2 => any::<u8>().prop_map(Step::Attempt),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(which, other)| Step::Rewrite(which, other)),
        6 => (any::<u8>(), 0..8_u8).prop_map(|(which, how)| Step::End(which, how)),
        2 => any::<u8>().prop_map(Step::Sync),
        3 => (0..9_u8, any::<bool>()).prop_map(|(calls, late)| Step::FailAfter(calls, late)),
        1 => any::<bool>().prop_map(Step::NoRoom),
        2 => (0..3_u8, prop::option::of(any::<u8>()), any::<bool>()).prop_map(|(kept, torn, ghosts)| Step::Crash(kept, torn, ghosts)),
        1 => Just(Step::Reopen),
    ]
}

/// What was said without being known to be durable: what the writes are if it is.
struct Unclear {
    writes: Vec<(u64, Seen)>,
    /// An outcome is tried until it is durable, and answers then.
    answer: Option<Receiver<Result<()>>>,
}

struct Model {
    disk: FakeDisk,
    path: Arc<PathJournal>,
    journal: Option<TableJournal>,
    writes: BTreeMap<u64, Seen>,
    unclear: Vec<Unclear>,
    next_write: u64,
    version: u64,
    seq: u64,
    synced: u64,
    /// The confirmed writes whose effects came back with the first batch after a restart, and its Seq. Once the cache holds
    /// that, they may be found again or not: their effects are there, and nothing newer can be.
    again: BTreeMap<u64, u64>,
    /// What writes have taken in since the last restart, as it was.
    taken_in: BTreeMap<u64, Vec<(u64, Seen)>>,
}

fn op(version: u64) -> WriteOp {
    WriteOp::upsert("00M", record! { "version" => version, "text" => "x".repeat(version as usize * 13 % 90) })
}

fn path_on(disk: &FakeDisk) -> Arc<PathJournal> {
    Arc::new(PathJournal::open("test:journal".into(), disk.clone(), SMALL, 1 << 30, None).unwrap())
}

impl Model {
    fn new() -> Self {
        let disk = FakeDisk::default();
        let path = path_on(&disk);
        let (journal, replay) = path.table("airports", Seq(0), 0).unwrap();
        Model {
            disk,
            path,
            journal: Some(journal),
            writes: BTreeMap::new(),
            unclear: Vec::new(),
            next_write: replay.next_write,
            version: 0,
            seq: 0,
            synced: 0,
            again: BTreeMap::new(),
            taken_in: BTreeMap::new(),
        }
    }

    fn journal(&self) -> &TableJournal {
        self.journal.as_ref().unwrap()
    }

    /// Says something, and waits until the journal has dealt with it, and with what it forgets for it.
    fn say(&mut self, writes: Vec<(u64, Seen)>, must: bool, say: impl FnOnce(&TableJournal, Answer)) {
        let (sender, answer) = unbounded();
        say(self.journal(), Box::new(move |result| sender.send(result).unwrap()));
        self.path.settle();
        match answer.try_recv() {
            Ok(Ok(())) => {
                self.writes.extend(writes);
                // The log has gone on behind what was refused before.
                self.unclear.retain(|unclear| unclear.answer.is_some());
            }
            // The disk fails one call at a time, so that there is always a way to say that it doesn't count.
            Ok(Err(_)) => {}
            Err(_) => {
                assert!(must, "everything else is answered");
                self.unclear.push(Unclear { writes, answer: Some(answer) });
            }
        }
        self.hear();
    }

    /// Takes in what became durable later.
    fn hear(&mut self) {
        for Unclear { writes, answer } in std::mem::take(&mut self.unclear) {
            match answer.as_ref().map(Receiver::try_recv) {
                Some(Ok(result)) => {
                    assert!(result.is_ok(), "an outcome gets through");
                    self.writes.extend(writes);
                }
                _ => self.unclear.push(Unclear { writes, answer }),
            }
        }
    }

    /// One of the writes of which everything is clear, and that are like this.
    fn pick(&self, which: u8, like: impl Fn(&Seen) -> bool) -> Option<u64> {
        let waits = |write: &u64| {
            let outcomes = self.unclear.iter().filter(|unclear| unclear.answer.is_some());
            outcomes.flat_map(|unclear| &unclear.writes).any(|(other, _)| other == write)
        };
        let fitting: Vec<u64> =
            self.writes.iter().filter(|(write, seen)| like(seen) && !waits(write)).map(|(write, _)| *write).collect();
        fitting.get(usize::from(which).checked_rem(fitting.len())?).copied()
    }

    fn accept(&mut self) {
        let (write, version) = (self.next_write, self.version + 1);
        self.next_write += 1;
        self.version = version;
        let key = self.journal().key(write);
        let pending = Seen::Pending { version, attempted: false };
        self.say(vec![(write, pending)], false, |journal, answer| {
            let room = journal.reserve(10).unwrap();
            let accepted = Acceptance { write, key: &key, op: &op(version), before: None, at: 0 };
            journal.accept(room, accepted, answer);
        });
    }

    fn end(&mut self, write: u64, how: u8) {
        if how == 6 {
            let others = self.taken_in.remove(&write).unwrap_or_default();
            let writes = [(write, Seen::Nothing)].into_iter().chain(others).collect();
            return self.say(writes, true, |journal, answer| {
                journal.outcome(write, &Outcome::Cancelled, Some(answer));
            });
        }
        let (seen, outcome) = match how {
            0 => (Seen::Failed, Outcome::Failed { kind: ErrorKind::Rejected, message: "no".into() }),
            1 => (Seen::Unknown, Outcome::Unknown { message: "cut off".into() }),
            2 => (Seen::Nothing, Outcome::Superseded { by: 1 }),
            3 => (Seen::Nothing, Outcome::Cleared),
            _ => {
                self.seq += 1;
                let confirmed = Confirmed { id: None, row: None, deleted: true, seq: Seq(self.seq) };
                (Seen::Confirmed(self.seq), Outcome::Confirmed(confirmed))
            }
        };
        self.say(vec![(write, seen)], true, |journal, answer| journal.outcome(write, &outcome, Some(answer)));
    }

    fn act(&mut self, step: Step) {
        let is_pending = |seen: &Seen| matches!(seen, Seen::Pending { .. });
        let is_untried = |seen: &Seen| matches!(seen, Seen::Pending { attempted: false, .. });
        match step {
            Step::Accept => self.accept(),
            Step::Attempt(which) => {
                let Some(write) = self.pick(which, is_untried) else { return };
                let Seen::Pending { version, .. } = self.writes[&write] else { return };
                let seen = Seen::Pending { version, attempted: true };
                self.say(vec![(write, seen)], false, |journal, answer| journal.attempted(write, answer));
            }
            Step::Rewrite(which, other) => {
                let like = |seen: &Seen| is_untried(seen) || matches!(seen, Seen::Failed | Seen::Unknown);
                let Some(write) = self.pick(which, like) else { return };
                let merged: Vec<u64> = self.pick(other, is_untried).into_iter().filter(|o| *o != write).collect();
                self.version += 1;
                let version = self.version;
                let now = Seen::Pending { version, attempted: false };
                let mut writes = vec![(write, now.clone())];
                writes.extend(merged.iter().map(|other| (*other, Seen::Nothing)));
                let taken_in: Vec<_> = merged.iter().map(|other| (*other, self.writes[other].clone())).collect();
                self.say(writes, false, |journal, answer| journal.rewrite(write, &op(version), merged, answer));
                if self.writes[&write] == now {
                    self.taken_in.entry(write).or_default().extend(taken_in);
                }
            }
            Step::End(which, how) => {
                let fits = |seen: &Seen| is_pending(seen) || matches!(seen, Seen::Failed | Seen::Unknown);
                if let Some(write) = self.pick(which, fits) {
                    self.end(write, how);
                }
            }
            Step::Sync(how_far) => {
                self.synced += u64::from(how_far).checked_rem(self.seq + 1 - self.synced).unwrap_or(0);
                self.journal().cache_synced(Seq(self.synced));
                self.path.settle();
            }
            Step::FailAfter(calls, late) => self.disk.fail_after(calls.into(), late),
            Step::NoRoom(full) => self.disk.leave_room(full.then_some(0)),
            Step::Crash(kept, torn, ghosts) => {
                let disk = self.disk.crash(kept.into(), torn.map(usize::from), ghosts);
                self.restart(disk);
            }
            Step::Reopen => {
                self.journal = None;
                self.disk.heal();
                self.path.settle();
                self.hear();
                self.reopen();
            }
        }
    }

    fn restart(&mut self, disk: FakeDisk) {
        self.journal = None;
        self.disk = disk;
        self.path = path_on(&self.disk);
        assert!(self.path.take_warnings().is_empty());
        self.reopen();
        self.unclear.clear();
    }

    fn is_covered(&self, write: u64) -> bool {
        self.again.get(&write).is_some_and(|seq| *seq <= self.synced)
    }

    /// Opens the table, compares, and takes up what was found.
    fn reopen(&mut self) {
        self.taken_in.clear();
        let (journal, replay) = self.path.table("airports", Seq(self.synced), 0).unwrap();
        assert!(replay.warnings.is_empty());
        assert!(replay.next_write >= self.writes.keys().next_back().map_or(0, |last| last + 1));
        let found: BTreeMap<u64, Seen> = replay.writes.iter().map(|write| (write.write, seen(write))).collect();
        let order: Vec<u64> = replay.writes.iter().map(|write| write.write).collect();
        assert!(order.is_sorted(), "they come in the order of acceptance: {order:?}");
        let unclear: Vec<&(u64, Seen)> = self.unclear.iter().flat_map(|unclear| &unclear.writes).collect();
        let all = self.writes.keys().chain(found.keys()).chain(unclear.iter().map(|(write, _)| write));
        for write in all {
            let found = found.get(write).unwrap_or(&Seen::Nothing);
            let shown = |seen: &Seen| match seen {
                Seen::Confirmed(seq) if *seq <= self.synced => Seen::Nothing,
                other => other.clone(),
            };
            let expected = self.writes.get(write).unwrap_or(&Seen::Nothing);
            let may_be = self.is_covered(*write).then_some(Seen::Nothing).into_iter();
            let mut may_be =
                may_be.chain(unclear.iter().filter(|(other, _)| other == write).map(|(_, seen)| shown(seen)));
            assert!(
                *found == shown(expected) || may_be.any(|seen| seen == *found),
                "{write}: {found:?}, not {expected:?}"
            );
        }
        self.next_write = replay.next_write;
        let covered: Vec<u64> = self.again.keys().copied().filter(|write| self.is_covered(*write)).collect();
        let gone = covered.into_iter().filter_map(|write| Some((write, self.writes.get(&write)?.clone())));
        self.writes = gone.chain(found).collect();
        // The Dio goes on behind what its cache holds; its first batch brings the confirmed effects back.
        self.seq = self.synced + 1;
        for (write, seen) in &self.writes {
            if matches!(seen, Seen::Confirmed(_)) {
                journal.reapplied(*write, Seq(self.seq));
                self.again.entry(*write).or_insert(self.seq);
            }
        }
        self.journal = Some(journal);
    }

    /// Brings every write to its end: then nothing is left.
    fn come_to_rest(&mut self) {
        self.restart(self.disk.crash(0, None, false));
        let all: Vec<u64> = self.writes.keys().copied().collect();
        for write in all {
            if !matches!(self.writes[&write], Seen::Confirmed(_)) {
                self.end(write, (write % 2) as u8 * 2 + 2);
            }
        }
        self.journal().cache_synced(Seq(self.seq));
        self.path.settle();
        assert_eq!((self.path.bytes(), self.journal().len()), (0, 0));
        self.journal = None;
        self.path.close();
        let (_, opened) = super::log::Log::open(self.disk.crash(0, None, true), SMALL, |_| Ok(())).unwrap();
        assert!(opened.entries.is_empty() && opened.warnings.is_empty());
    }
}

fn seen(write: &Recovered) -> Seen {
    let version = write.op.record().and_then(|record| record.int("version")).unwrap();
    match &write.state {
        RecoveredState::Pending => Seen::Pending { version: version as u64, attempted: write.attempted },
        RecoveredState::Confirmed(confirmed) => Seen::Confirmed(confirmed.seq.0),
        RecoveredState::Failed { .. } => Seen::Failed,
        RecoveredState::Unknown { .. } => Seen::Unknown,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_a_write_is_found_as_it_was_left(steps in prop::collection::vec(step(), 1..50)) {
        let mut model = Model::new();
        for step in steps {
            model.act(step);
        }
        model.come_to_rest();
    }
}

#[test]
fn a_crash_or_a_fault_at_any_call_leaves_each_write_as_it_was() {
    use Step::{Accept, Attempt, Crash, End, Rewrite, Sync};
    let script = [
        Accept,
        Accept,
        Attempt(0),
        Accept,
        Rewrite(1, 1),
        End(0, 4),
        Accept,
        Accept,
        End(1, 0),
        Sync(1),
        Accept,
        End(2, 5),
        Accept,
        End(0, 1),
        Sync(1),
        End(0, 3),
        Accept,
        End(1, 4),
        Accept,
        Sync(2),
        End(0, 2),
        Accept,
        Accept,
        Rewrite(2, 3),
        End(2, 6),
        Accept,
    ];
    for late in [false, true] {
        for call in 0..80 {
            for crash_at in [script.len() / 2, script.len()] {
                let mut model = Model::new();
                model.act(Step::FailAfter(call, late));
                for step in &script[..crash_at] {
                    model.act(step.clone());
                }
                model.act(Crash(1, Some(40), late));
                for step in &script[crash_at..] {
                    model.act(step.clone());
                }
                model.come_to_rest();
            }
        }
    }
}
