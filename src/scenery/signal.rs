//! Signal: a scenery's generation and everyone who waits for it to move: threads, channels, repaint hooks.
//!
//! Owner: the core advances it; anyone reads, waits, subscribes.
//! Invariants: what a generation shows is in place before the generation moves; a move is counted for the Dio after that
//! (`a_frame_loop_that_asks_for_moves_misses_none`).
//! Close/panic: closing wakes every waiter with `Closed` and disconnects every subscriber.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Receiver;
use parking_lot::Mutex;

#[cfg(feature = "async")]
use crate::sync::Reaching;
use crate::sync::{
    Doorbell, Hook, HookGuard, HookRunner, Notifier, Rank, Subscription, Waited, WaitedAny, may_wait_for,
};
use crate::{Error, ErrorKind, Generation, Result};

/// The part of a view that the core and its handles share, whatever the view shows.
#[doc(hidden)]
#[derive(Debug)]
pub struct Signal {
    generation: Notifier,
    hooks: Mutex<Vec<Hook>>,
    has_hooks: AtomicBool,
    runner: Arc<HookRunner>,
    rank: Rank,
    /// How often views of the Dio have moved.
    moves: Arc<AtomicU64>,
}

impl Signal {
    pub(crate) fn new(first: Generation, runner: Arc<HookRunner>, rank: Rank, moves: Arc<AtomicU64>) -> Self {
        Signal {
            generation: Notifier::new(first.0),
            hooks: Mutex::default(),
            has_hooks: AtomicBool::new(false),
            runner,
            rank,
            moves,
        }
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.get())
    }

    /// Moves the generation; the core's last step of a publication.
    pub(crate) fn advance_to(&self, generation: Generation) {
        self.generation.advance_to(generation.0);
        self.tell(generation);
    }

    /// Moves the generation by one, whoever else moves it at the same time.
    pub(crate) fn advance(&self) {
        let generation = Generation(self.generation.advance());
        self.tell(generation);
    }

    fn tell(&self, generation: Generation) {
        // After the generation: who sees the move counted finds the generation moved.
        self.moves.fetch_add(1, Ordering::Release);
        if self.has_hooks.load(Ordering::Acquire) {
            for hook in self.hooks.lock().iter() {
                hook.ring(generation.0);
            }
        }
    }

    pub(crate) fn close(&self) {
        self.generation.close();
    }

    fn wait(&self, at_least: u64, timeout: Option<Duration>) -> Result<Generation> {
        if self.generation.get() < at_least && !self.generation.is_closed() {
            self.may_wait("a change of a view")?;
        }
        match self.generation.wait_until(at_least, timeout) {
            Waited::Reached(generation) => Ok(Generation(generation)),
            Waited::Closed(_) => Err(closed()),
            Waited::TimedOut(_) => Err(Error::new(ErrorKind::Timeout, "the view didn't change within the time given")),
        }
    }

    /// Blocks until the generation is beyond `since`, or `other` is at least `at_least`.
    pub(crate) fn wait_or(
        &self,
        since: Generation,
        other: &Notifier,
        at_least: u64,
        timeout: Option<Duration>,
    ) -> Result<()> {
        match Notifier::wait_any(&[(&self.generation, since.0.saturating_add(1)), (other, at_least)], timeout) {
            WaitedAny::Reached => Ok(()),
            WaitedAny::Closed(_) => Err(closed()),
            WaitedAny::TimedOut => {
                Err(Error::new(ErrorKind::Timeout, "the view had no first rows within the time given"))
            }
        }
    }

    /// The generation, for who waits without a thread.
    #[cfg(feature = "async")]
    pub(crate) fn notifier(&self) -> &Notifier {
        &self.generation
    }

    /// A future of the generation being beyond `since`.
    #[cfg(feature = "async")]
    pub(crate) fn beyond(&self, since: Generation) -> Reaching {
        self.generation.reached(since.0.saturating_add(1))
    }

    /// # Errors
    /// `WouldDeadlock` on a thread that moves the view.
    pub(crate) fn may_wait(&self, what: &str) -> Result<()> {
        may_wait_for(self.rank, what)
    }

    /// Holds its locks, for a test that something takes none.
    #[cfg(test)]
    pub(crate) fn hold_locks(&self) -> impl Sized + '_ {
        (self.generation.hold_lock(), self.hooks.lock())
    }

    fn add_hook(&self, hook: Box<dyn FnMut(u64) + Send>) -> Result<HookGuard> {
        let (hook, guard) = self.runner.register(hook)?;
        let mut hooks = self.hooks.lock();
        hooks.retain(|hook| !hook.is_gone());
        hooks.push(hook);
        drop(hooks);
        self.has_hooks.store(true, Ordering::Release);
        Ok(guard)
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the Dio of this view is closed")
}

/// Tells the core that a handle is gone: set by the last handle's drop, looked at by the core.
#[derive(Debug)]
pub(crate) struct Dropped {
    flag: AtomicBool,
    bell: Doorbell,
}

impl Dropped {
    pub(crate) fn new(bell: Doorbell) -> Arc<Self> {
        Arc::new(Dropped { flag: AtomicBool::new(false), bell })
    }

    pub(crate) fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    pub(crate) fn guard(self: &Arc<Self>) -> DropGuard {
        DropGuard(self.clone())
    }
}

/// Held by the handles of a view.
#[derive(Debug)]
pub(crate) struct DropGuard(Arc<Dropped>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.flag.store(true, Ordering::Release);
        self.0.bell.ring();
    }
}

/// A repaint hook's registration: dropping it ends the hook.
#[must_use = "dropping it ends the hook"]
#[derive(Debug)]
pub struct HookRegistration {
    _guard: HookGuard,
}

/// A channel that holds the newest generation of a view; it works in [`crossbeam_channel::select!`].
#[derive(Debug)]
pub struct GenerationReceiver(Subscription);

impl GenerationReceiver {
    /// The receiver for `select!`. It holds one generation at the most, the newest, and is disconnected when the Dio
    /// closes.
    pub fn receiver(&self) -> &Receiver<u64> {
        self.0.receiver()
    }

    /// The newest generation not yet taken from here, if there is one. Doesn't block.
    pub fn try_recv(&self) -> Option<Generation> {
        self.receiver().try_recv().ok().map(Generation)
    }
}

/// What all reactive views have in common: a generation that moves exactly when what they show moves.
///
/// The methods are the same for [`TableScenery`](crate::TableScenery), [`RecordScenery`](crate::RecordScenery) and
/// [`ValueScenery`](crate::ValueScenery).
pub trait Scenery {
    /// The part shared with the core.
    #[doc(hidden)]
    fn signal(&self) -> &Signal;

    /// The newest generation: one atomic load, for a frame loop to compare with the last one it has painted.
    fn generation(&self) -> Generation {
        self.signal().generation()
    }

    /// Blocks until the generation is at least `at_least`, and gives back the newest; `None` waits without limit.
    ///
    /// # Errors
    /// `Timeout`; `Closed` when the Dio closes; `WouldDeadlock` on a thread that the change may be waiting for.
    fn wait_for_generation(&self, at_least: Generation, timeout: Option<Duration>) -> Result<Generation> {
        self.signal().wait(at_least.0, timeout)
    }

    /// Blocks until the generation is beyond `since`, and gives back the newest; `None` waits without limit.
    ///
    /// # Errors
    /// As [`wait_for_generation`](Self::wait_for_generation).
    fn wait_for_change(&self, since: Generation, timeout: Option<Duration>) -> Result<Generation> {
        self.signal().wait(since.0.saturating_add(1), timeout)
    }

    /// A channel that always holds the newest generation not yet taken.
    fn subscribe(&self) -> GenerationReceiver {
        GenerationReceiver(self.signal().generation.subscribe())
    }

    /// Has `hook` called with the newest generation soon after each change, on the Lens's notify thread: several quick
    /// changes may be one call. A hook that panics is dropped with a warning. It is meant for a toolkit's repaint call.
    ///
    /// # Errors
    /// `Closed` after closing; `Unavailable` when the system gives no thread.
    fn on_generation(&self, mut hook: impl FnMut(Generation) + Send + 'static) -> Result<HookRegistration>
    where
        Self: Sized,
    {
        let guard = self.signal().add_hook(Box::new(move |generation| hook(Generation(generation))))?;
        Ok(HookRegistration { _guard: guard })
    }
}

/// Blocks until at least one of these views is beyond the generation given with it, and gives back which are: their positions
/// in `views`, ascending. The views may be of any kind and of different Dios. `None` waits without limit.
///
/// The thread sleeps until one of them moves; no change between the look at a view and this call is missed, since the
/// generations say what was seen. To wait for channels too, [`subscribe`](Scenery::subscribe) to each view and use `select!`.
///
/// ```
/// use std::time::Duration;
/// use diorama::prelude::*;
/// use diorama::wait_any;
///
/// let rows = [("a", record! { "price" => 1 })];
/// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("things", "id").with_rows(rows))?;
/// let (one, total) = (dio.record_scenery("b")?, dio.value_scenery().sum("price").open()?);
/// let seen = (one.generation(), total.generation());
///
/// dio.patched("a", record! { "price" => 2 })?;
/// let moved = wait_any(&[(&one, seen.0), (&total, seen.1)], Some(Duration::from_secs(5)))?;
/// assert_eq!(moved, [1]);
/// # Ok::<(), diorama::Error>(())
/// ```
///
/// # Errors
/// `Timeout`; `Closed`, with the `view` (its position), when none has moved and the Dio of one is closed; `WouldDeadlock` on a
/// thread that a change may be waiting for; `Invalid` without any view.
pub fn wait_any(views: &[(&dyn Scenery, Generation)], timeout: Option<Duration>) -> Result<Vec<usize>> {
    if views.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "there is no view to wait for; give at least one"));
    }
    let moved = || -> Vec<usize> {
        let has_moved = |(_, (view, since)): &(usize, &(&dyn Scenery, Generation))| view.generation() > *since;
        views.iter().enumerate().filter(has_moved).map(|(position, _)| position).collect()
    };
    let at_once = moved();
    if !at_once.is_empty() {
        return Ok(at_once);
    }
    for (view, _) in views {
        view.signal().may_wait("a change of a view")?;
    }
    let aims: Vec<(&Notifier, u64)> =
        views.iter().map(|(view, since)| (&view.signal().generation, since.0.saturating_add(1))).collect();
    match Notifier::wait_any(&aims, timeout) {
        WaitedAny::Reached => Ok(moved()),
        WaitedAny::Closed(position) => Err(closed().with("view", position.to_string())),
        WaitedAny::TimedOut => Err(Error::new(ErrorKind::Timeout, "no view changed within the time given")),
    }
}
