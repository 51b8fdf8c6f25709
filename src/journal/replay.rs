//! Replay: from the entries of a table, in their order, to its writes and how far each had come.
//!
//! Invariants: what is said of a write whose acceptance is gone says nothing: the write is over
//! (`an_outcome_without_its_acceptance_says_nothing`); a write that another one took in ends with that one
//! (`writes_that_were_taken_in_end_with_the_one_that_took_them`), unless that one is cancelled alone
//! (`a_write_that_is_cancelled_gives_back_those_that_it_had_taken_in`).

use std::collections::{HashMap, HashSet};

use crate::journal::log::Numbered;
use crate::journal::record::{self, Accepted, Before, Confirmed, Fact, Outcome, Said};
use crate::journal::segment;
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result};

/// A write that was found in the journal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recovered {
    pub(crate) write: u64,
    pub(crate) key: String,
    /// What is to be delivered, or was.
    pub(crate) op: WriteOp,
    pub(crate) before: Option<Before>,
    pub(crate) accepted_at: i64,
    /// The source may have done it.
    pub(crate) attempted: bool,
    pub(crate) state: RecoveredState,
}

/// How far a write had come.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RecoveredState {
    /// To be delivered.
    Pending,
    /// Its effect may be missing in the cache; it is applied again, and not delivered.
    Confirmed(Confirmed),
    /// To be listed among the failed.
    Failed { kind: ErrorKind, message: String },
    /// To be listed among those whose end is not known.
    Unknown { message: String },
}

/// The entries of a write, and their bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Entries {
    pub(super) numbers: Vec<u64>,
    pub(super) bytes: u64,
}

impl Entries {
    pub(super) fn add(&mut self, number: u64, bytes: u64) {
        self.numbers.push(number);
        self.bytes += bytes;
    }

    pub(super) fn join(&mut self, others: Entries) {
        self.numbers.extend(others.numbers);
        self.bytes += others.bytes;
    }
}

/// What became of the entries of a table.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// In the order of acceptance.
    pub(super) writes: Vec<(Recovered, Entries)>,
    /// What needs no more to be known.
    pub(super) over: Entries,
    pub(super) warnings: Vec<Error>,
}

/// The bytes that an entry takes in the journal.
pub(super) fn bytes_of(payload: &[u8]) -> u64 {
    segment::size_of(payload) as u64
}

/// Folds the entries, which come in the order in which they were made.
pub(super) fn fold(entries: &[Numbered]) -> Folded {
    // Most entries of a long journal are acceptances.
    let (writes, places) = (Vec::with_capacity(entries.len()), HashMap::with_capacity(entries.len()));
    let mut folding = Folding { writes, places, ..Folding::default() };
    for (number, payload) in entries {
        let added = record::read(payload).and_then(|said| folding.add(*number, bytes_of(payload), said));
        // It stays in the journal: somebody may be able to read it.
        folding.warnings.extend(added.err().map(|error| error.with("entry", number.to_string())));
    }
    folding.end()
}

/// A write, and how it stands to others.
struct Found {
    recovered: Recovered,
    entries: Entries,
    /// What it was before others were taken in.
    own: Option<WriteOp>,
    /// What it took in is to be joined with that anew.
    is_to_be_joined: bool,
    taken_in: Vec<u64>,
    /// The write that took it in.
    lead: Option<u64>,
    is_cancelled: bool,
}

#[derive(Default)]
struct Folding {
    writes: Vec<Option<Found>>,
    places: HashMap<u64, usize>,
    /// What was taken in by writes whose acceptance is gone.
    taken_in: HashMap<u64, Vec<u64>>,
    over: Entries,
    warnings: Vec<Error>,
}

impl Folding {
    fn add(&mut self, number: u64, bytes: u64, said: Said) -> Result<()> {
        let Said { write, fact, .. } = said;
        if let Fact::Accepted(accepted) = fact {
            return self.accepted(write, Entries { numbers: vec![number], bytes }, accepted);
        }
        let Some(found) = self.found(write) else {
            self.over.add(number, bytes);
            match fact {
                Fact::Rewritten { merged, .. } => self.take_in(write, merged),
                Fact::Outcome(Outcome::CancelledAlone { gave_back }) => self.give_back(write, &gave_back),
                _ => {}
            }
            return Ok(());
        };
        found.entries.add(number, bytes);
        let recovered = &mut found.recovered;
        match fact {
            Fact::Accepted(_) => {}
            Fact::Attempted => recovered.attempted = true,
            Fact::Rewritten { op, merged } => {
                let before = std::mem::replace(&mut recovered.op, op);
                recovered.attempted = false;
                recovered.state = RecoveredState::Pending;
                if !merged.is_empty() {
                    found.own.get_or_insert(before);
                    self.take_in(write, merged);
                } else if !found.taken_in.is_empty() {
                    // Of its own part alone: what it took in stays with it.
                    found.own = Some(recovered.op.clone());
                    found.is_to_be_joined = true;
                }
            }
            Fact::Outcome(outcome) => match outcome {
                Outcome::Cancelled if found.lead.is_some() => {
                    found.is_cancelled = true;
                    if let Some(lead) = found.lead.and_then(|lead| self.found(lead)) {
                        lead.is_to_be_joined = true;
                    }
                }
                // It ends with the write that took it in.
                _ if found.lead.is_some() => {}
                Outcome::Confirmed(confirmed) => recovered.state = RecoveredState::Confirmed(confirmed),
                Outcome::Failed { kind, message } => recovered.state = RecoveredState::Failed { kind, message },
                Outcome::Unknown { message } => recovered.state = RecoveredState::Unknown { message },
                Outcome::Cancelled | Outcome::Superseded { .. } | Outcome::Cleared => self.is_over(write),
                Outcome::CancelledAlone { gave_back } => {
                    self.give_back(write, &gave_back);
                    self.is_over(write);
                }
            },
        }
        Ok(())
    }

    fn accepted(&mut self, write: u64, entries: Entries, accepted: Accepted) -> Result<()> {
        if self.places.contains_key(&write) {
            let message = format!("the journal has two writes of the number {write}; the second is left alone");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let recovered = Recovered {
            write,
            key: accepted.key,
            op: accepted.op,
            before: accepted.before,
            accepted_at: accepted.accepted_at,
            attempted: false,
            state: RecoveredState::Pending,
        };
        self.places.insert(write, self.writes.len());
        let found = Found {
            recovered,
            entries,
            own: None,
            is_to_be_joined: false,
            taken_in: Vec::new(),
            lead: None,
            is_cancelled: false,
        };
        self.writes.push(Some(found));
        Ok(())
    }

    fn found(&mut self, write: u64) -> Option<&mut Found> {
        self.writes[*self.places.get(&write)?].as_mut()
    }

    fn lead_of(&self, write: u64) -> Option<u64> {
        self.writes[*self.places.get(&write)?].as_ref()?.lead
    }

    fn take_in(&mut self, write: u64, others: Vec<u64>) {
        let mut root = write;
        while let Some(lead) = self.lead_of(root) {
            root = lead;
        }
        for other in others.into_iter().filter(|other| *other != root) {
            let Some(taken) = self.found(other).filter(|found| found.lead.is_none()) else { continue };
            taken.lead = Some(write);
            match self.found(write) {
                Some(found) => found.taken_in.push(other),
                None => self.taken_in.entry(write).or_default().push(other),
            }
        }
    }

    /// These, which this write took in, stand for themselves again.
    fn give_back(&mut self, write: u64, others: &[u64]) {
        let taken_in = match self.found(write) {
            Some(found) => Some(&mut found.taken_in),
            None => self.taken_in.get_mut(&write),
        };
        if let Some(taken_in) = taken_in {
            let others: HashSet<u64> = others.iter().copied().collect();
            taken_in.retain(|other| !others.contains(other));
        }
        for other in others {
            if let Some(found) = self.found(*other).filter(|found| found.lead == Some(write)) {
                found.lead = None;
            }
        }
    }

    /// What is delivered for a write is its own part and what it took in, but for what was cancelled.
    fn join(&mut self, lead: u64) {
        let Some(found) = self.found(lead).filter(|found| found.is_to_be_joined) else { return };
        let (own, taken_in) = (found.own.clone(), found.taken_in.clone());
        let Some(WriteOp::Patch { mut record, .. }) = own else { return };
        for other in taken_in {
            if let Some(Found { recovered, is_cancelled: false, .. }) = self.found(other)
                && let Some(later) = recovered.op.record()
            {
                record.merge(later);
            }
        }
        if let Some(found) = self.found(lead)
            && let WriteOp::Patch { record: joined, .. } = &mut found.recovered.op
        {
            *joined = record;
        }
    }

    /// Nothing more needs to be known of a write, nor of what it took in.
    fn is_over(&mut self, write: u64) {
        let mut ending = vec![write];
        while let Some(write) = ending.pop() {
            let found = self.places.get(&write).and_then(|place| self.writes[*place].take());
            if let Some(found) = found {
                self.over.join(found.entries);
                ending.extend(found.taken_in);
            }
        }
    }

    fn end(mut self) -> Folded {
        // They ended, and their acceptances went first; what they took in ended with them.
        for (_, taken_in) in std::mem::take(&mut self.taken_in) {
            taken_in.into_iter().for_each(|write| self.is_over(write));
        }
        for place in 0..self.writes.len() {
            if let Some(Found { recovered, is_to_be_joined: true, .. }) = &self.writes[place] {
                self.join(recovered.write);
            }
        }
        let is_taken_in = |place: &usize| self.writes[*place].as_ref().is_some_and(|found| found.lead.is_some());
        let taken_in: Vec<usize> = (0..self.writes.len()).filter(is_taken_in).collect();
        for place in taken_in {
            let Some(found) = &mut self.writes[place] else { continue };
            // With their leads they stay, so that others find the way along them.
            let (mut lead, entries) = (found.recovered.write, std::mem::take(&mut found.entries));
            while let Some(further) = self.lead_of(lead) {
                lead = further;
            }
            match self.found(lead) {
                Some(found) => found.entries.join(entries),
                None => self.over.join(entries),
            }
        }
        let writes = self.writes.into_iter().flatten().filter(|found| found.lead.is_none());
        let writes = writes.map(|found| (found.recovered, found.entries)).collect();
        Folded { writes, over: self.over, warnings: self.warnings }
    }
}
