//! Committer: the journal's thread, which makes what many writers hand over durable with one sync.
//!
//! Owner: the thread `<cache>:journal`; handles put entries into its inbox and never wait for it.
//! Invariants: entries become durable in the order in which they were handed over; those that fail are told so, each once
//! (`whatever_fails_everybody_is_answered_once`).
//! Close/panic: closing commits what was handed over before, then the thread ends; what comes later is answered `Closed`.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::journal::log::{Limits, Log, Opened};
use crate::journal::medium::Medium;
use crate::sync::{self, Deadline, Rank, Role, Worker};
use crate::{Error, ErrorKind, Result};

/// Called once, on the journal's thread, with what became of an entry. It must not block.
pub(crate) type Answer = Box<dyn FnOnce(Result<()>) + Send>;

struct Entry {
    number: u64,
    payload: Vec<u8>,
    answer: Answer,
}

#[derive(Default)]
struct Inbox {
    entries: VecDeque<Entry>,
    forgotten: Vec<u64>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    wake: Condvar,
}

/// A handle on the journal of one cache. Dropping it closes the journal without waiting.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    worker: Worker,
}

impl Journal {
    /// Opens the log and starts its thread, to be called `name`.
    ///
    /// # Errors
    /// As the log's; `Unavailable` when the system gives no thread.
    pub(crate) fn open(name: String, medium: impl Medium + 'static, limits: Limits) -> Result<(Self, Opened)> {
        let (log, opened) = Log::open(medium, limits)?;
        let shared = Arc::new(Shared::default());
        let thread = shared.clone();
        let worker = sync::spawn(name, Rank::new(0, Role::Store), move || thread.run(log))?;
        Ok((Journal { shared, worker }, opened))
    }

    /// Hands an entry over and returns at once; `answer` is called when it is durable, or can't be. Numbers are unique.
    pub(crate) fn append(&self, number: u64, payload: Vec<u8>, answer: Answer) {
        let mut inbox = self.shared.inbox.lock();
        if inbox.closed {
            drop(inbox);
            answer(Err(closed()));
            return;
        }
        inbox.entries.push_back(Entry { number, payload, answer });
        drop(inbox);
        self.shared.wake.notify_one();
    }

    /// These entries are over: their room is given back when there is time.
    pub(crate) fn forget(&self, numbers: impl IntoIterator<Item = u64>) {
        let mut inbox = self.shared.inbox.lock();
        inbox.forgotten.extend(numbers);
        drop(inbox);
        self.shared.wake.notify_one();
    }

    /// Commits what was handed over and ends the thread; says whether it has ended by the deadline.
    pub(crate) fn close(&self, deadline: Deadline) -> bool {
        self.shared.hang_up();
        self.worker.join_until(deadline)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.hang_up();
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the journal is closed")
}

impl Shared {
    fn hang_up(&self) {
        self.inbox.lock().closed = true;
        self.wake.notify_one();
    }

    fn run<M: Medium>(&self, mut log: Log<M>) {
        loop {
            let (entries, forgotten) = {
                let mut inbox = self.inbox.lock();
                while inbox.entries.is_empty() && inbox.forgotten.is_empty() {
                    if inbox.closed {
                        return;
                    }
                    self.wake.wait(&mut inbox);
                }
                (std::mem::take(&mut inbox.entries), std::mem::take(&mut inbox.forgotten))
            };
            commit(&mut log, entries.into());
            if let Err(error) = log.forget(&forgotten).and_then(|()| log.shrink()) {
                tracing::warn!(%error, "the journal could not be made smaller; it is tried again");
            }
        }
    }
}

/// Makes the entries durable together. If that fails, one by one: a large one may not have found room where others do.
fn commit<M: Medium>(log: &mut Log<M>, entries: Vec<Entry>) {
    let mut answers = Vec::with_capacity(entries.len());
    let mut batch = Vec::with_capacity(entries.len());
    for Entry { number, payload, answer } in entries {
        batch.push((number, payload));
        answers.push(answer);
    }
    match log.append(&batch) {
        Ok(()) => answers.into_iter().for_each(|answer| answer(Ok(()))),
        Err(error) if batch.len() < 2 => answers.into_iter().for_each(|answer| answer(Err(error.clone()))),
        Err(_) => {
            for (entry, answer) in batch.chunks(1).zip(answers) {
                answer(log.append(entry));
            }
        }
    }
}
