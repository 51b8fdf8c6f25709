//! Table journal: one table's writes in the journal of its cache, from acceptance until nothing needs to be known of them.
//!
//! Owner: the table's Dio says what happens; the journal's thread answers. Neither waits for the other.
//! Flow: a fact → its bytes → the journal; the end of a write, or the cache's sync → all entries of the write are forgotten.
//! Invariants:
//! 1. All entries of a write are forgotten together, and with them those of the writes it took in and did not give back, so
//!    that none of them is ever found without its end (`whatever_fails_a_write_is_found_as_it_was_left`).
//! 2. An outcome gets through: it is tried again until it is durable (`an_outcome_that_found_no_room_is_written_later`).
//!
//! Not here: the bound on bytes (`room`), and what is shown or delivered.

use std::any::Any;
use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::journal::committer::{Answer, Entry, Inlet, closed};
use crate::journal::log::Numbered;
use crate::journal::record::{self, Acceptance, Outcome};
use crate::journal::registry::PathJournal;
use crate::journal::replay::{self, Entries, Recovered, RecoveredState};
use crate::journal::room::{Reservation, Room};
use crate::sync::{self, Notifier};
use crate::vista::WriteOp;
use crate::{Error, Result, Seq};

/// What was found of a table.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// In the order of acceptance, without those whose effect the cache holds.
    pub(crate) writes: Vec<Recovered>,
    /// No write of the table that was durable ever had this number or a greater one.
    pub(crate) next_write: u64,
    /// What could not be read; it stays in the journal.
    pub(crate) warnings: Vec<Error>,
}

impl Replay {
    /// Whether there is anything to deliver.
    pub(crate) fn has_pending(&self) -> bool {
        self.writes.iter().any(|write| matches!(write.state, RecoveredState::Pending))
    }
}

/// What is known of a write that is not over.
#[derive(Default)]
struct Kept {
    entries: Entries,
    confirmed: Option<Seq>,
    /// The writes that it took in; they end with it, unless it is cancelled before they are.
    taken_in: Vec<u64>,
    /// The write that took it in.
    lead: Option<u64>,
    /// It was cancelled after it was taken in.
    is_cancelled: bool,
}

#[derive(Default)]
struct State {
    writes: HashMap<u64, Kept>,
    /// By the Seq that the cache must hold durably before they are forgotten.
    confirmed: BTreeSet<(Seq, u64)>,
    synced: Seq,
    /// How many of `writes` another one has taken in.
    taken_in: usize,
}

impl State {
    /// The write is over, with those that it took in; their entries are to be forgotten.
    fn end(&mut self, write: u64) -> Entries {
        let mut over = Entries::default();
        let mut ending = vec![write];
        while let Some(write) = ending.pop() {
            let Some(kept) = self.writes.remove(&write) else { continue };
            if let Some(seq) = kept.confirmed {
                self.confirmed.remove(&(seq, write));
            }
            self.taken_in -= usize::from(kept.lead.is_some());
            over.join(kept.entries);
            ending.extend(kept.taken_in);
        }
        over
    }

    /// One write has taken in others.
    fn take_in(&mut self, write: u64, others: Vec<u64>) {
        let mut root = write;
        while let Some(lead) = self.writes.get(&root).and_then(|kept| kept.lead) {
            root = lead;
        }
        for other in others.into_iter().filter(|other| *other != root) {
            let Some(taken) = self.writes.get_mut(&other).filter(|kept| kept.lead.is_none()) else { continue };
            taken.lead = Some(write);
            self.taken_in += 1;
            if let Some(kept) = self.writes.get_mut(&write) {
                kept.taken_in.push(other);
            }
        }
    }

    /// A write is being cancelled: what that means for those that it took in, and for the one that took it in.
    fn cancel(&mut self, write: u64) -> (Outcome, Noted) {
        let Some(kept) = self.writes.get_mut(&write) else { return (Outcome::Cancelled, Noted::Over) };
        if kept.lead.is_some() {
            kept.is_cancelled = true;
            // Until that one ends it is to be known that this one is no part of it.
            return (Outcome::Cancelled, Noted::Nothing);
        }
        let taken_in = std::mem::take(&mut kept.taken_in);
        let (cancelled, others): (Vec<u64>, Vec<u64>) =
            taken_in.into_iter().partition(|other| self.writes.get(other).is_some_and(|kept| kept.is_cancelled));
        if let Some(kept) = self.writes.get_mut(&write) {
            kept.taken_in = cancelled;
        }
        for other in &others {
            if let Some(kept) = self.writes.get_mut(other) {
                kept.lead = None;
                self.taken_in -= 1;
            }
        }
        let outcome =
            if others.is_empty() { Outcome::Cancelled } else { Outcome::CancelledAlone { gave_back: others } };
        (outcome, Noted::Over)
    }

    fn confirm(&mut self, write: u64, seq: Seq) {
        if let Some(kept) = self.writes.get_mut(&write) {
            if let Some(old) = kept.confirmed.replace(seq) {
                self.confirmed.remove(&(old, write));
            }
            self.confirmed.insert((seq, write));
        }
    }

    fn end_covered(&mut self) -> Entries {
        let mut over = Entries::default();
        while let Some((seq, write)) = self.confirmed.first().copied()
            && seq <= self.synced
        {
            over.join(self.end(write));
            self.confirmed.remove(&(seq, write));
        }
        over
    }

    /// An entry of a write is durable and says this, or can't be: what is to be forgotten then.
    fn done(&mut self, write: u64, number: u64, bytes: u64, noted: Option<Noted>) -> Entries {
        let known = self.writes.get_mut(&write).filter(|kept| kept.entries.numbers.contains(&number));
        match (known, noted) {
            (Some(_), Some(noted)) => self.note(write, noted),
            (Some(kept), None) => {
                kept.entries.numbers.retain(|other| *other != number);
                kept.entries.bytes -= bytes;
                if kept.entries.numbers.is_empty() {
                    self.end(write);
                }
                Entries { numbers: vec![number], bytes }
            }
            // The write ended meanwhile, and its room was given back.
            (None, _) => Entries { numbers: vec![number], bytes: 0 },
        }
    }

    /// What was durably said of a write.
    fn note(&mut self, write: u64, noted: Noted) -> Entries {
        match noted {
            Noted::Nothing => Entries::default(),
            Noted::Over => self.end(write),
            Noted::Confirmed(seq) => {
                self.confirm(write, seq);
                self.end_covered()
            }
            Noted::Merged(others) => {
                self.take_in(write, others);
                Entries::default()
            }
        }
    }
}

/// What changes once an entry is durable.
enum Noted {
    Nothing,
    Over,
    Confirmed(Seq),
    Merged(Vec<u64>),
}

/// The part that outlives a Dio's handle: entries may still be answered when that is gone.
pub(super) struct Table {
    name: String,
    inlet: Inlet,
    room: Arc<Room>,
    state: Mutex<State>,
}

impl Table {
    pub(super) fn new(name: String, inlet: Inlet, room: Arc<Room>) -> Self {
        Table { name, inlet, room, state: Mutex::default() }
    }

    fn forget(&self, over: Entries) {
        if !over.numbers.is_empty() {
            self.inlet.forget(over.numbers);
        }
        self.room.give_back(over.bytes);
    }

    /// Brings the state to what was found, whose bytes take room already unless this table was open before.
    pub(super) fn replay(&self, found: &[Numbered], synced: Seq) -> Replay {
        let folded = replay::fold(found);
        let mut state = State { synced, ..State::default() };
        let mut over = folded.over;
        let mut writes = Vec::with_capacity(folded.writes.len());
        for (recovered, entries) in folded.writes {
            match &recovered.state {
                RecoveredState::Confirmed(confirmed) if confirmed.seq <= synced => over.join(entries),
                // One that is confirmed waits for `reapplied`: its own Seq was given before the restart.
                _ => {
                    state.writes.insert(recovered.write, Kept { entries, ..Kept::default() });
                    writes.push(recovered);
                }
            }
        }
        *self.state.lock() = state;
        self.forget(over);
        Replay { writes, next_write: self.inlet.next_number(), warnings: folded.warnings }
    }

    /// Nobody has this table any more; gives back the room of what it knew.
    pub(super) fn clear(&self) {
        let state = std::mem::take(&mut *self.state.lock());
        self.room.give_back(state.writes.values().map(|kept| kept.entries.bytes).sum());
    }

    /// Takes room for an entry, and notes it as one of the write's: its number, and its bytes.
    fn register(&self, write: u64, payload: &[u8]) -> (u64, u64) {
        let bytes = replay::bytes_of(payload);
        // Above the write's own number, so that the numbers given to entries always cover those of writes.
        let number = self.inlet.number(write.saturating_add(1));
        self.room.take(bytes);
        self.state.lock().writes.entry(write).or_default().entries.add(number, bytes);
        (number, bytes)
    }

    /// What is said of a write, on its way to the journal.
    fn entry(self: &Arc<Self>, write: u64, payload: Vec<u8>, must: bool, noted: Noted, answer: Answer) -> Entry {
        let (number, bytes) = self.register(write, &payload);
        let table = self.clone();
        let done = move |result: Result<()>| {
            table.done(write, number, bytes, result.is_ok().then_some(noted));
            answer(result);
        };
        Entry::new(number, payload, must, Box::new(done))
    }

    /// An entry is durable and changes this, or can't be.
    fn done(&self, write: u64, number: u64, bytes: u64, noted: Option<Noted>) {
        let over = self.state.lock().done(write, number, bytes, noted);
        self.forget(over);
    }
}

/// What an [`Acceptor`] knows a write by; the journal doesn't look at it.
pub(crate) type Applicant = Arc<dyn Any + Send + Sync>;

/// Hears what became of writes that were to be accepted: on the journal's thread, or on the caller's when the journal is
/// closed. It must not block.
pub(crate) trait Acceptor: Send + Sync {
    /// These are durable since the last sync, in the order in which they were handed over.
    fn accepted(&self, writes: Vec<Applicant>);
    /// This one is not accepted.
    fn refused(&self, write: Applicant, error: Error);
}

/// Who waits for an acceptance. It is refused at the latest when this is dropped.
pub(super) struct Applied {
    table: Arc<Table>,
    acceptor: Arc<dyn Acceptor>,
    write: u64,
    number: u64,
    bytes: u64,
    applicant: Option<Applicant>,
}

impl Applied {
    /// Whether one call can tell of both.
    pub(super) fn is_told_with(&self, other: &Applied) -> bool {
        Arc::ptr_eq(&self.table, &other.table)
            && std::ptr::addr_eq(Arc::as_ptr(&self.acceptor), Arc::as_ptr(&other.acceptor))
    }

    pub(super) fn answer(mut self, result: Result<()>) {
        match result {
            Ok(()) => Applied::answer_durable(vec![self]),
            Err(error) => self.refuse(error),
        }
    }

    /// All of these, which are [told as one](Self::is_told_with), are durable.
    pub(super) fn answer_durable(mut group: Vec<Applied>) {
        let Some(first) = group.first() else { return };
        let (table, acceptor) = (first.table.clone(), first.acceptor.clone());
        let mut over = Entries::default();
        {
            let mut state = table.state.lock();
            for applied in &group {
                over.join(state.done(applied.write, applied.number, applied.bytes, Some(Noted::Nothing)));
            }
        }
        table.forget(over);
        let writes = group.iter_mut().filter_map(|applied| applied.applicant.take()).collect();
        fenced(|| acceptor.accepted(writes));
    }

    fn refuse(&mut self, error: Error) {
        if let Some(applicant) = self.applicant.take() {
            self.table.done(self.write, self.number, self.bytes, None);
            fenced(|| self.acceptor.refused(applicant, error));
        }
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        self.refuse(closed());
    }
}

fn fenced(answer: impl FnOnce()) {
    if let Err(error) = sync::catch_panic("an answer of the journal", answer) {
        tracing::error!(%error, "an answer of the journal ended in a panic");
    }
}

/// A table's way to the journal. All calls return at once; answers come on the journal's thread, or on the caller's when
/// there is nothing to be done: the journal is closed, what is said can't be written, or it is about a write that is over.
/// An answer must not block.
pub(crate) struct TableJournal {
    table: Arc<Table>,
    /// Makes the keys of this opening unlike those of any other.
    session: String,
    path: Arc<PathJournal>,
}

impl TableJournal {
    pub(super) fn new(table: Arc<Table>, path: Arc<PathJournal>, wall_ms: i64) -> Self {
        // The seeds of the standard library's hash maps are the random bytes of the system that need no other package.
        let random = || RandomState::new().hash_one((wall_ms, std::process::id()));
        let session = format!("{wall_ms:x}-{:016x}{:016x}", random(), random());
        TableJournal { table, session, path }
    }

    /// The idempotency key of a write: no other write anywhere has it.
    pub(crate) fn key(&self, write: u64) -> String {
        format!("{}-{write:x}", self.session)
    }

    /// Takes room for a write, before it is shown; [`bytes_for`](record::bytes_for) says how much.
    ///
    /// # Errors
    /// `Full` when there is not so much; [`freed`](Self::freed) moves when there is more. `Invalid` when there never will be.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Reservation> {
        self.table.room.reserve(bytes).map_err(|error| error.with("table", &*self.table.name))
    }

    /// Moves whenever room is given back.
    pub(crate) fn freed(&self) -> &Notifier {
        self.table.room.freed()
    }

    /// Makes the acceptance of one write durable, as [`HandOver::accept`].
    pub(crate) fn accept(&self, room: Reservation, accepted: Acceptance<'_>, answer: Answer) {
        self.hand_over(Arc::new(One)).accept(room, accepted, Arc::new(Mutex::new(Some(answer))));
    }

    /// A write is on its way to be accepted: the journal's thread wakes meanwhile.
    pub(crate) fn expect(&self) {
        self.table.inlet.expect();
    }

    /// To have several writes accepted with one sync; `acceptor` hears of them.
    pub(crate) fn hand_over(&self, acceptor: Arc<dyn Acceptor>) -> HandOver<'_> {
        HandOver { table: &self.table, acceptor, entries: Vec::new() }
    }

    /// Notes durably that the source may have done a write from now on.
    pub(crate) fn attempted(&self, write: u64, answer: Answer) {
        self.say(write, record::attempted(&self.table.name, write), false, Noted::Nothing, answer);
    }

    /// Notes what will be delivered for a write from now on: it has taken in the writes `merged`, or is to be tried anew. The
    /// writes taken in need no outcome; they end with this one.
    pub(crate) fn rewrite(&self, write: u64, op: &WriteOp, merged: Vec<u64>, answer: Answer) {
        let payload = record::rewritten(&self.table.name, write, op, &merged);
        self.say(write, payload, false, Noted::Merged(merged), answer);
    }

    /// Notes by which id the row of a write goes, as which its own part is to be delivered. It is tried until it is durable, and
    /// no outcome that is noted later is durable before it.
    pub(crate) fn renamed(&self, write: u64, op: &WriteOp) {
        let payload = record::rewritten(&self.table.name, write, op, &[]);
        self.say(write, payload, true, Noted::Nothing, Box::new(|_| {}));
    }

    /// Whether it is durable that this write has taken in these and, but for those that were cancelled, no others.
    pub(crate) fn has_taken_in(&self, write: u64, others: &[u64]) -> bool {
        let state = self.table.state.lock();
        let taken_in = state.writes.get(&write).map(|kept| &kept.taken_in[..]).unwrap_or_default();
        let mut living =
            taken_in.iter().filter(|other| state.writes.get(*other).is_some_and(|kept| !kept.is_cancelled));
        others.iter().all(|other| living.next() == Some(other)) && living.next().is_none()
    }

    /// Notes what became of a write. It is tried until it is durable; the answer is an error only when the journal closes
    /// before that. What a write that is [`Cancelled`](Outcome::Cancelled) had taken in in this run is to be delivered after
    /// all.
    pub(crate) fn outcome(&self, write: u64, outcome: &Outcome, answer: Option<Answer>) {
        let cancelled;
        let (outcome, noted) = match outcome {
            Outcome::Cancelled => {
                let noted;
                (cancelled, noted) = self.table.state.lock().cancel(write);
                (&cancelled, noted)
            }
            Outcome::Confirmed(confirmed) => (outcome, Noted::Confirmed(confirmed.seq)),
            Outcome::Failed { .. } | Outcome::Unknown { .. } => (outcome, Noted::Nothing),
            Outcome::CancelledAlone { .. } | Outcome::Superseded { .. } | Outcome::Cleared => (outcome, Noted::Over),
        };
        let answer = answer.unwrap_or_else(|| Box::new(|_| {}));
        self.say(write, record::outcome(&self.table.name, write, outcome), true, noted, answer);
    }

    fn say(&self, write: u64, payload: Result<Vec<u8>>, must: bool, noted: Noted, answer: Answer) {
        // What was taken in ends with the write that took it in, unless it is cancelled before.
        let is_known = |kept: &Kept| kept.lead.is_none() || kept.is_cancelled;
        let is_over = !self.table.state.lock().writes.get(&write).is_some_and(is_known);
        match payload {
            Ok(_) if is_over => answer(Ok(())),
            Ok(payload) => self.table.inlet.append([self.table.entry(write, payload, must, noted, answer)]),
            Err(error) => answer(Err(error.with("table", &*self.table.name))),
        }
    }

    /// The effect of a write that was found confirmed is in the cache again, as part of the batch of this Seq. All of them
    /// belong into one batch, the first one after the start: only then does a cache that holds the Seq of a confirmation hold
    /// its effect, whatever crashes come between.
    pub(crate) fn reapplied(&self, write: u64, seq: Seq) {
        let over = {
            let mut state = self.table.state.lock();
            state.confirm(write, seq);
            state.end_covered()
        };
        self.table.forget(over);
    }

    /// The cache holds everything up to this Seq durably: confirmed writes up to it are forgotten.
    pub(crate) fn cache_synced(&self, seq: Seq) {
        let over = {
            let mut state = self.table.state.lock();
            state.synced = state.synced.max(seq);
            state.end_covered()
        };
        self.table.forget(over);
    }

    /// How many writes of the table the journal knows that no other one has taken in.
    pub(crate) fn len(&self) -> usize {
        let state = self.table.state.lock();
        state.writes.len() - state.taken_in
    }
}

/// Writes that are handed over to the journal as one, when this is dropped.
pub(crate) struct HandOver<'a> {
    table: &'a Arc<Table>,
    acceptor: Arc<dyn Acceptor>,
    entries: Vec<Entry>,
}

impl HandOver<'_> {
    /// Makes the acceptance of a write durable, in the room taken for it. When that is refused the write is not accepted:
    /// `Full` when the disk is full.
    pub(crate) fn accept(&mut self, room: Reservation, accepted: Acceptance<'_>, applicant: Applicant) {
        match record::accepted(&self.table.name, accepted) {
            Ok(payload) => {
                // The room is taken before the reservation is given back, so that nobody gets in between.
                let (number, bytes) = self.table.register(accepted.write, &payload);
                let (table, acceptor) = (self.table.clone(), self.acceptor.clone());
                let applied =
                    Applied { table, acceptor, write: accepted.write, number, bytes, applicant: Some(applicant) };
                self.entries.push(Entry::acceptance(number, payload, applied));
            }
            Err(error) => self.acceptor.refused(applicant, error.with("table", &*self.table.name)),
        }
        drop(room);
    }
}

impl Drop for HandOver<'_> {
    fn drop(&mut self) {
        if !self.entries.is_empty() {
            self.table.inlet.append(self.entries.drain(..));
        }
    }
}

/// Has the answer to a single write given, which is its applicant.
struct One;

impl One {
    fn answer(write: &Applicant, result: Result<()>) {
        let answer = write.downcast_ref::<Mutex<Option<Answer>>>().and_then(|answer| answer.lock().take());
        if let Some(answer) = answer {
            answer(result);
        }
    }
}

impl Acceptor for One {
    fn accepted(&self, writes: Vec<Applicant>) {
        writes.iter().for_each(|write| One::answer(write, Ok(())));
    }

    fn refused(&self, write: Applicant, error: Error) {
        One::answer(&write, Err(error));
    }
}

impl Drop for TableJournal {
    fn drop(&mut self) {
        self.path.left(&self.table.name);
    }
}
