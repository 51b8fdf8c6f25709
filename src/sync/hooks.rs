//! Hooks: repaint calls of an application, run one after another on a thread of their own.
//!
//! Owner: the `<lens>:notify` thread runs them; whoever changes a view only rings.
//! Flow: `ring(value)` → the hook is queued once and remembers the newest value → the thread calls it.
//! Invariants:
//! 1. Ringing never runs or waits for user code (`a_blocking_hook_delays_hooks_but_never_who_rings`).
//! 2. A hook is queued at most once, so the queue is bounded by the number of hooks; a call gets the newest value
//!    (`rings_before_a_call_are_one_call_with_the_newest_value`).
//! 3. Once a guard's drop has returned no call begins; one that has begun may still run (`a_dropped_guard_ends_the_calls`).
//! 4. A hook runs and is dropped under no lock, and inside a fence against panics
//!    (`a_panicking_hook_is_dropped_and_the_others_live`).
//!
//! Close/panic: closing runs what is queued, then ends the thread; later rings do nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::prims::{Condvar, Deadline};
use super::thread::{Rank, ThreadInfo, Worker, catch_user, spawn};
use crate::error::{Error, ErrorKind, Result};

type HookFn = Box<dyn FnMut(u64) + Send>;

/// Runs hooks on one thread, which starts at the first hook. Dropping it closes it without waiting.
pub(crate) struct HookRunner {
    name: String,
    shared: Arc<Shared>,
    worker: Mutex<Option<Arc<Worker>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Arc<Cell>>,
    closed: bool,
}

/// One registered hook.
struct Cell {
    /// Whether it stands in the queue. Set by who rings, cleared by the thread before it reads `newest`.
    queued: AtomicBool,
    newest: AtomicU64,
    state: Mutex<State>,
}

enum State {
    Idle(HookFn),
    Running,
    Gone,
}

/// The ringing side of a hook. Clones ring the same hook.
#[derive(Clone)]
pub(crate) struct Hook {
    cell: Arc<Cell>,
    shared: Arc<Shared>,
}

/// The registering side of a hook: dropping it ends the hook, also from inside the hook's own call.
#[must_use = "dropping the guard ends the hook"]
pub(crate) struct HookGuard {
    cell: Arc<Cell>,
}

impl HookRunner {
    /// A runner whose thread will be called `name` (`<lens>:notify`).
    pub(crate) fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(HookRunner { name: name.into(), shared: Arc::default(), worker: Mutex::new(None) })
    }

    /// Registers a hook. The first one starts the thread. [`ErrorKind::Closed`] after the closing,
    /// [`ErrorKind::Unavailable`] when the system gives no thread.
    pub(crate) fn register(self: &Arc<Self>, hook: HookFn) -> Result<(Hook, HookGuard)> {
        let mut worker = self.worker.lock();
        if self.shared.queue.lock().closed {
            return Err(Error::new(ErrorKind::Closed, "the Lens is closed; it takes no more hooks")
                .with("thread", self.name.as_str()));
        }
        if worker.is_none() {
            let shared = self.shared.clone();
            // Nobody ever waits for a hook, so a hook may wait for anyone.
            *worker = Some(Arc::new(spawn(self.name.clone(), Rank::above_all(), move || shared.run())?));
        }
        drop(worker);
        let cell = Arc::new(Cell {
            queued: AtomicBool::new(false),
            newest: AtomicU64::new(0),
            state: Mutex::new(State::Idle(hook)),
        });
        Ok((Hook { cell: cell.clone(), shared: self.shared.clone() }, HookGuard { cell }))
    }

    /// Its thread, once there was a hook.
    pub(crate) fn thread(&self) -> Option<ThreadInfo> {
        self.worker.lock().as_ref().map(|worker| worker.info())
    }

    /// Refuses new rings, runs what is queued and ends the thread; says whether it has ended by the deadline.
    pub(crate) fn close(&self, deadline: Deadline) -> bool {
        self.shared.hang_up();
        let worker = self.worker.lock().clone();
        worker.is_none_or(|worker| worker.join_until(deadline))
    }
}

impl fmt::Debug for HookRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookRunner").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for HookRunner {
    fn drop(&mut self) {
        self.shared.hang_up();
    }
}

impl Hook {
    /// Whether it will never be called again.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.cell.state.lock(), State::Gone)
    }

    /// Has the hook called with `value` or a higher one, soon, on the notify thread. Never runs or waits for user code.
    pub(crate) fn ring(&self, value: u64) {
        self.cell.newest.fetch_max(value, Ordering::AcqRel);
        if self.cell.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut queue = self.shared.queue.lock();
        if !queue.closed {
            queue.ready.push_back(self.cell.clone());
            self.shared.changed.notify_one();
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("newest", &self.cell.newest.load(Ordering::Relaxed)).finish()
    }
}

impl Drop for HookGuard {
    fn drop(&mut self) {
        self.cell.end();
    }
}

impl fmt::Debug for HookGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookGuard").finish_non_exhaustive()
    }
}

impl Shared {
    fn hang_up(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        while let Some(cell) = self.next() {
            cell.call();
        }
    }

    /// Waits for a hook that rang; `None` once closed and empty.
    fn next(&self) -> Option<Arc<Cell>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(cell) = queue.ready.pop_front() {
                return Some(cell);
            }
            if queue.closed {
                return None;
            }
            self.changed.wait(&mut queue, None);
        }
    }
}

impl Cell {
    fn call(&self) {
        let State::Idle(mut hook) = self.swap_unless_gone(State::Running) else { return };
        // Only then may it be queued again: a ring from here on is another call, one before it is in `newest`.
        self.queued.swap(false, Ordering::AcqRel);
        let value = self.newest.load(Ordering::Acquire);
        match catch_user("a repaint hook", || hook(value)) {
            Ok(()) => {
                if let Some(hook) = self.give_back(hook) {
                    drop_fenced(hook);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a repaint hook is dropped, as it panicked");
                self.swap_unless_gone(State::Gone);
                drop_fenced(hook);
            }
        }
    }

    /// Puts the hook back; returns it when the guard was dropped during the call.
    fn give_back(&self, hook: HookFn) -> Option<HookFn> {
        let mut state = self.state.lock();
        if matches!(*state, State::Gone) {
            return Some(hook);
        }
        *state = State::Idle(hook);
        None
    }

    fn swap_unless_gone(&self, new: State) -> State {
        let mut state = self.state.lock();
        if matches!(*state, State::Gone) { State::Gone } else { std::mem::replace(&mut *state, new) }
    }

    fn end(&self) {
        if let State::Idle(hook) = self.swap_unless_gone(State::Gone) {
            drop_fenced(hook);
        }
    }
}

/// Drops a hook: what it captured is the user's, and so is that drop.
fn drop_fenced(hook: HookFn) {
    if let Err(error) = catch_user("dropping a repaint hook", move || drop(hook)) {
        tracing::warn!(%error, "a repaint hook is gone, not quite cleanly");
    }
}

#[cfg(test)]
mod tests;
