//! Committer: the journal's thread, which makes what many writers hand over durable with one sync.
//!
//! Owner: the thread `<cache>:journal`; handles put entries into its inbox and never wait for it.
//! Flow: `expect` wakes the thread ahead of time → entries are handed over → it gathers those who shared the last sync and are
//! about to come back, for a moment → one append and one sync → every answer, those to acceptances of a table as one.
//! Invariants:
//! 1. Entries get rising numbers and become durable in the order in which they were handed over.
//! 2. Every entry is answered once: durable, failed, or closed (`whatever_fails_everybody_is_answered_once`).
//! 3. An entry that must get through is tried again until it does, or the journal closes
//!    (`an_outcome_that_found_no_room_is_written_later`), and no later one of these overtakes it
//!    (`an_outcome_that_found_no_room_is_overtaken_by_no_later_one`).
//! 4. What was refused is followed by a mark that it doesn't count, though nothing is handed over any more
//!    (`a_write_that_was_refused_since_the_journal_failed_is_not_found_after_a_restart`).
//!
//! Close/panic: closing commits what was handed over before, then the thread ends; what comes later is answered `Closed`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::journal::log::{Log, Numbered, Opened};
use crate::journal::medium::Medium;
use crate::journal::table::Applied;
use crate::sync::{self, Deadline, Rank, Role, Worker, deadline_after, time_left};
use crate::{Error, ErrorKind, Result};

/// How long the thread waits before it tries again what found no room, if nothing else wakes it: at first, and in the end.
const RETRIES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(500));

/// How long entries wait at the most for others to share their sync: a fraction of what a sync takes.
const GATHERING: Duration = Duration::from_micros(50);

/// How long the thread stays awake at the most for what was announced: longer than the core takes to show a write.
const EXPECTING: Duration = Duration::from_micros(100);

/// Called once, on the journal's thread, with what became of what was asked for. It must not block.
pub(crate) type Answer<T = ()> = Box<dyn FnOnce(Result<T>) + Send>;

/// Gives its answer, at the latest when it is dropped.
struct Asked<T = ()>(Option<Answer<T>>);

impl<T> Asked<T> {
    fn answer(mut self, result: Result<T>) {
        self.give(result);
    }

    fn give(&mut self, result: Result<T>) {
        if let Some(answer) = self.0.take()
            && let Err(error) = sync::catch_panic("an answer of the journal", || answer(result))
        {
            tracing::error!(%error, "an answer of the journal ended in a panic");
        }
    }
}

impl<T> Drop for Asked<T> {
    fn drop(&mut self) {
        self.give(Err(closed()));
    }
}

/// Who waits for an entry.
enum Waiting {
    Alone(Asked),
    /// Told with all others of its table that were committed with it.
    Together(Applied),
}

impl Waiting {
    fn answer(self, result: Result<()>) {
        match self {
            Waiting::Alone(asked) => asked.answer(result),
            Waiting::Together(applied) => applied.answer(result),
        }
    }
}

/// What is to be made durable.
pub(crate) struct Entry {
    number: u64,
    payload: Vec<u8>,
    must: bool,
    waiting: Waiting,
}

impl Entry {
    /// `answer` is called when it is durable, or can't be: on the journal's thread, or on that which hands it over when the
    /// journal is closed. One that `must` get through is tried again instead.
    pub(crate) fn new(number: u64, payload: Vec<u8>, must: bool, answer: Answer) -> Self {
        Entry { number, payload, must, waiting: Waiting::Alone(Asked(Some(answer))) }
    }

    /// The acceptance of a write, which is tried once.
    pub(super) fn acceptance(number: u64, payload: Vec<u8>, applied: Applied) -> Self {
        Entry { number, payload, must: false, waiting: Waiting::Together(applied) }
    }
}

/// What the thread does between two commits.
enum Job {
    Read(Asked<Vec<Numbered>>),
    Wipe(Asked),
}

#[derive(Default)]
struct Inbox {
    entries: VecDeque<Entry>,
    forgotten: Vec<u64>,
    jobs: Vec<Job>,
    /// Something is about to be handed over.
    expected: bool,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    wake: Condvar,
    next_number: AtomicU64,
    /// A hint for who would wake the thread ahead of time.
    asleep: AtomicBool,
}

/// The way into a journal. It keeps nothing alive; after the journal's end it answers `Closed`.
#[derive(Clone)]
pub(crate) struct Inlet(Arc<Shared>);

impl Inlet {
    /// A number for an entry, above all that were given and at least `at_least`.
    pub(crate) fn number(&self, at_least: u64) -> u64 {
        let next = |next: u64| Some(next.max(at_least).saturating_add(1));
        let (Ok(before) | Err(before)) = self.0.next_number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.max(at_least)
    }

    /// The next number that will be given, if nothing asks for a greater one.
    pub(crate) fn next_number(&self) -> u64 {
        self.0.next_number.load(Ordering::Relaxed)
    }

    /// Hands entries over, as one, and returns at once.
    pub(crate) fn append(&self, entries: impl IntoIterator<Item = Entry>) {
        let mut entries = entries.into_iter();
        let mut inbox = self.0.inbox.lock();
        if !inbox.closed {
            inbox.entries.extend(entries.by_ref());
        }
        drop(inbox);
        // Those of a closed journal; their answers are given without the lock.
        entries.for_each(drop);
        self.0.wake.notify_one();
    }

    /// Something will be handed over in a moment: the thread, if it sleeps, wakes meanwhile.
    pub(crate) fn expect(&self) {
        if self.0.asleep.load(Ordering::Relaxed) {
            self.0.inbox.lock().expected = true;
            self.0.wake.notify_one();
        }
    }

    /// These entries are over: their room is given back when there is time.
    pub(crate) fn forget(&self, numbers: impl IntoIterator<Item = u64>) {
        self.0.inbox.lock().forgotten.extend(numbers);
        self.0.wake.notify_one();
    }

    /// Reads all entries that are not forgotten, in their order.
    pub(crate) fn read(&self, answer: Answer<Vec<Numbered>>) {
        self.ask(Job::Read(Asked(Some(answer))));
    }

    /// Has nothing left on the disk of what was forgotten before.
    pub(crate) fn wipe_forgotten(&self, answer: Answer) {
        self.ask(Job::Wipe(Asked(Some(answer))));
    }

    fn ask(&self, job: Job) {
        let mut inbox = self.0.inbox.lock();
        let refused = if inbox.closed {
            Some(job)
        } else {
            inbox.jobs.push(job);
            None
        };
        drop(inbox);
        drop(refused);
        self.0.wake.notify_one();
    }
}

/// The journal of one cache. Dropping it closes it without waiting.
pub(crate) struct Journal {
    inlet: Inlet,
    worker: Worker,
}

impl Journal {
    /// Opens the log and starts its thread, to be called `name`, which drops `held` as the last thing it does.
    ///
    /// # Errors
    /// As [`Log::open`]; `Unavailable` when the system gives no thread.
    pub(crate) fn open(
        name: String,
        medium: impl Medium + 'static,
        segment_bytes: u64,
        check: impl Fn(&[u8]) -> Result<()>,
        held: impl Send + 'static,
    ) -> Result<(Self, Opened)> {
        let (log, opened) = Log::open(medium, segment_bytes, check)?;
        let shared = Arc::new(Shared { next_number: AtomicU64::new(opened.next_number), ..Shared::default() });
        let thread = HangUp(shared.clone());
        let run = move || {
            let _held = held;
            let thread = thread;
            thread.0.run(log);
        };
        let worker = sync::spawn(name, Rank::new(0, Role::Store), run)?;
        Ok((Journal { inlet: Inlet(shared), worker }, opened))
    }

    pub(crate) fn inlet(&self) -> Inlet {
        self.inlet.clone()
    }

    /// Commits what was handed over and ends the thread; says whether it has ended by the deadline.
    pub(crate) fn close(&self, deadline: Option<Deadline>) -> bool {
        self.inlet.0.hang_up();
        deadline.is_some_and(|deadline| self.worker.join_until(deadline))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.inlet.0.hang_up();
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the journal is closed")
}

/// Answers who still waits when the thread ends, however it ends.
struct HangUp(Arc<Shared>);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.hang_up();
        // Dropped without the lock: what is not answered answers then.
        let left = {
            let mut inbox = self.0.inbox.lock();
            (std::mem::take(&mut inbox.entries), std::mem::take(&mut inbox.jobs))
        };
        drop(left);
    }
}

impl Shared {
    fn hang_up(&self) {
        self.inbox.lock().closed = true;
        self.wake.notify_one();
    }

    fn run<M: Medium>(&self, mut log: Log<M>) {
        let mut kept: Vec<Entry> = Vec::new();
        let mut retry = RETRIES.0;
        let mut together = 0;
        loop {
            let retry_in = (!kept.is_empty() || log.is_doubtful()).then_some(retry);
            let (entries, forgotten, jobs, closed) = self.next_round(retry_in, together);
            if !entries.is_empty() {
                together = entries.len();
            }
            kept.extend(entries);
            let nothing_new = kept.is_empty() && forgotten.is_empty() && jobs.is_empty();
            kept = commit(&mut log, std::mem::take(&mut kept));
            if let Err(error) = log.dispel_doubt() {
                tracing::warn!(%error, "the journal may hold what was refused; it is tried again to say that it doesn't count");
            }
            retry = if kept.is_empty() && !log.is_doubtful() { RETRIES.0 } else { RETRIES.1.min(retry * 2) };
            if let Err(error) = log.forget(&forgotten).and_then(|()| log.shrink()) {
                tracing::warn!(%error, "the journal could not be made smaller; it is tried again");
            }
            for job in jobs {
                match job {
                    Job::Read(asked) => asked.answer(log.read_live()),
                    Job::Wipe(asked) => asked.answer(log.wipe_forgotten()),
                }
            }
            if closed && (nothing_new || !kept.is_empty()) {
                break;
            }
        }
        if let Err(error) = log.leave_clean() {
            tracing::warn!(%error, "the journal could not be cleared");
        }
    }

    /// Waits for something to do: what was handed over, and whether that was all. `retry_in`: something is to be tried again.
    /// `together`: how many entries went as one the last time.
    fn next_round(&self, retry_in: Option<Duration>, together: usize) -> (VecDeque<Entry>, Vec<u64>, Vec<Job>, bool) {
        let mut inbox = self.inbox.lock();
        while inbox.entries.is_empty() && inbox.forgotten.is_empty() && inbox.jobs.is_empty() && !inbox.closed {
            if std::mem::take(&mut inbox.expected) {
                stay_awake(&mut inbox, EXPECTING, |inbox| !inbox.entries.is_empty());
                continue;
            }
            self.asleep.store(true, Ordering::Relaxed);
            let timed_out = match retry_in {
                Some(retry_in) => self.wake.wait_for(&mut inbox, retry_in).timed_out(),
                None => {
                    self.wake.wait(&mut inbox);
                    false
                }
            };
            self.asleep.store(false, Ordering::Relaxed);
            if timed_out {
                break;
            }
        }
        inbox.expected = false;
        if !inbox.entries.is_empty() && inbox.entries.len() < together / 2 {
            // Who was told just now is about to come back, and would wait for a whole sync of others if he came too late.
            stay_awake(&mut inbox, GATHERING, |inbox| inbox.entries.len() >= together);
        }
        let inbox = &mut *inbox;
        let (entries, forgotten) = (std::mem::take(&mut inbox.entries), std::mem::take(&mut inbox.forgotten));
        (entries, forgotten, std::mem::take(&mut inbox.jobs), inbox.closed)
    }
}

/// Waits for something that is but a moment off, while others have the processor if they need it.
fn stay_awake(inbox: &mut MutexGuard<'_, Inbox>, at_most: Duration, is_there: impl Fn(&Inbox) -> bool) {
    let Some(until) = deadline_after(at_most) else { return };
    while !is_there(inbox) && !inbox.closed && inbox.jobs.is_empty() && !time_left(until).is_zero() {
        MutexGuard::unlocked(inbox, std::thread::yield_now);
    }
}

/// Makes the entries durable together. If that fails, one by one: a large one may not have found room where others do.
/// Gives back those that are to be tried again. Of those that must get through none overtakes another: an end of a write that
/// is found without the end of an earlier one would have that done again over it.
fn commit<M: Medium>(log: &mut Log<M>, entries: Vec<Entry>) -> Vec<Entry> {
    if entries.is_empty() {
        return entries;
    }
    let mut waiting = Vec::with_capacity(entries.len());
    let mut batch = Vec::with_capacity(entries.len());
    for Entry { number, payload, must, waiting: who } in entries {
        batch.push((number, payload));
        waiting.push((must, who));
    }
    let Err(error) = log.append(&batch) else {
        tell_all(waiting.into_iter().map(|(_, who)| who));
        return Vec::new();
    };
    let alone = batch.len() == 1;
    let mut kept = Vec::new();
    for (entry, (must, waiting)) in batch.into_iter().zip(waiting) {
        let entry = [entry];
        let result = match &kept[..] {
            _ if alone => Err(error.clone()),
            [_, ..] if must => Err(error.clone()),
            _ => log.append(&entry),
        };
        match result {
            Err(error) if must && error.kind() != ErrorKind::Invalid => {
                tracing::warn!(%error, "an outcome could not be journaled; it is tried again");
                let [(number, payload)] = entry;
                kept.push(Entry { number, payload, must, waiting });
            }
            result => waiting.answer(result),
        }
    }
    kept
}

/// What is durable now is told: acceptances first, for threads of the application wait for these, and each table's as one.
fn tell_all(waiting: impl Iterator<Item = Waiting>) {
    let mut alone = Vec::new();
    let mut together: Vec<Vec<Applied>> = Vec::new();
    for who in waiting {
        match who {
            Waiting::Alone(asked) => alone.push(asked),
            Waiting::Together(applied) => {
                let is_its =
                    |group: &&mut Vec<Applied>| group.first().is_some_and(|first| first.is_told_with(&applied));
                match together.iter_mut().find(is_its) {
                    Some(group) => group.push(applied),
                    None => together.push(vec![applied]),
                }
            }
        }
    }
    together.into_iter().for_each(Applied::answer_durable);
    alone.into_iter().for_each(|asked| asked.answer(Ok(())));
}
