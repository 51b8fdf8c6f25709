//! Replay: from the entries of a table, in their order, to its writes and how far each had come.
//!
//! Invariants: what is said of a write whose acceptance is gone says nothing: the write is over
//! (`an_outcome_without_its_acceptance_says_nothing`); a write that another one took in ends with that one.

use std::collections::HashMap;

use crate::journal::log::Numbered;
use crate::journal::record::{self, Before, Confirmed, Fact, Outcome, Said};
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
    Folded { writes: folding.writes.into_iter().flatten().collect(), over: folding.over, warnings: folding.warnings }
}

#[derive(Default)]
struct Folding {
    writes: Vec<Option<(Recovered, Entries)>>,
    places: HashMap<u64, usize>,
    over: Entries,
    warnings: Vec<Error>,
}

impl Folding {
    fn add(&mut self, number: u64, bytes: u64, said: Said) -> Result<()> {
        let Said { write, fact, .. } = said;
        if let Fact::Accepted(accepted) = fact {
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
            self.writes.push(Some((recovered, Entries { numbers: vec![number], bytes })));
            return Ok(());
        }
        let Some((mut recovered, mut entries)) = self.take(write) else {
            self.over.add(number, bytes);
            // The write ended and its acceptance went first; those that it took in ended with it.
            if let Fact::Rewritten { merged, .. } = fact {
                for other in merged {
                    if let Some((_, others)) = self.take(other) {
                        self.over.join(others);
                    }
                }
            }
            return Ok(());
        };
        entries.add(number, bytes);
        match fact {
            Fact::Accepted(_) => {}
            Fact::Attempted => recovered.attempted = true,
            Fact::Rewritten { op, merged } => {
                recovered.op = op;
                recovered.attempted = false;
                recovered.state = RecoveredState::Pending;
                for other in merged.into_iter().filter(|other| *other != write) {
                    if let Some((_, others)) = self.take(other) {
                        entries.join(others);
                    }
                }
            }
            Fact::Outcome(outcome) => match outcome {
                Outcome::Confirmed(confirmed) => recovered.state = RecoveredState::Confirmed(confirmed),
                Outcome::Failed { kind, message } => recovered.state = RecoveredState::Failed { kind, message },
                Outcome::Unknown { message } => recovered.state = RecoveredState::Unknown { message },
                Outcome::Cancelled | Outcome::Superseded { .. } | Outcome::Cleared => {
                    self.over.join(entries);
                    return Ok(());
                }
            },
        }
        if let Some(place) = self.places.get(&write) {
            self.writes[*place] = Some((recovered, entries));
        }
        Ok(())
    }

    fn take(&mut self, write: u64) -> Option<(Recovered, Entries)> {
        self.writes[*self.places.get(&write)?].take()
    }
}
