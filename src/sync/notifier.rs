//! Notifier: a number that only rises (a generation, a Seq), and those who wait for it to rise: threads and tasks.
//!
//! Owner: anyone may advance it; anyone may wait. The number itself is read with one atomic load.
//! Flow: advance → if someone wants that value: wake the threads it satisfies, give subscribers the newest value.
//! Invariants (the first four are model-checked by `tests/interleavings.rs`):
//! 1. No wake-up is lost: a waiter returns once the number reaches what it waits for.
//! 2. Closing wakes every waiter and disconnects every subscriber; a value reached before wins over the closing.
//! 3. A subscriber that looks late finds the newest value, and nothing older after it.
//! 4. Several waiters with different aims are each woken.
//! 5. A thread that waits for several notifiers wakes for each of them, and for the closing of each (model-checked, too).
//! 6. An advance that satisfies nobody takes no lock (`an_advance_below_every_aim_wakes_nobody`, in
//!    `notifier_tests`, which is not a child of this file because the models include the file by its path).
//! 7. A task that waits is told as a thread is, by the same advance; a future that is dropped leaves nothing behind
//!    (`a_dropped_future_leaves_no_waiter`). An executor's wakers run, and are dropped, under no lock, and inside a fence
//!    against panics.
//!
//! Close/panic: closing is for good; the number may still rise, but nobody is told.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::prims::{AtomicBool, AtomicU64, Condvar, Deadline, Mutex, Ordering, deadline_after, fence};

/// No one waits: an aim that no number reaches.
const NOBODY: u64 = u64::MAX;

/// How a wait on a [`Notifier`] ended, with the number as it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The number is at least what was waited for.
    Reached(u64),
    /// The notifier was closed before the number got there.
    Closed(u64),
    /// The time given was over first.
    TimedOut(u64),
}

/// A number that only rises, with blocking waiters and `select!`-able subscribers. Clones share it.
#[derive(Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

struct Shared {
    value: AtomicU64,
    /// The lowest number that anyone waits for; [`NOBODY`] when no one does, 0 while there are subscribers. Changed under
    /// the lock only. An advance reads it after a fence, a waiter writes it before one: one of the two sees the other.
    wanted: AtomicU64,
    closed: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By what they wait for.
    waiters: BTreeMap<Place, Wake>,
    subscribers: Vec<Subscriber>,
    next_id: u64,
    closed: bool,
    /// How often a blocked thread came back from its Condvar.
    wakeups: u64,
}

/// A place among those who wait: what for, and who.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at_least: u64,
    id: u64,
}

/// How who waits is woken.
enum Wake {
    /// A thread that waits for this notifier alone, under its lock.
    Alone(Arc<Condvar>),
    /// A thread that waits for several.
    Any(Arc<Alarm>),
    /// A task of an executor.
    Task(Waker),
}

impl Wake {
    /// Wakes a thread; gives back the waker of a task, for after the lock.
    fn wake(self) -> Option<Waker> {
        match self {
            Wake::Alone(condvar) => condvar.notify_all(),
            Wake::Any(alarm) => alarm.ring(),
            Wake::Task(waker) => return Some(waker),
        }
        None
    }
}

/// Wakes tasks, under no lock. An executor whose waker panics harms nobody else.
fn wake_tasks(wakers: Vec<Waker>) {
    for waker in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

/// Wakes a thread that waits for several notifiers. Its lock is taken last, by whoever rings and by the sleeper, who holds no
/// other then.
struct Alarm {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Alarm {
    fn new() -> Arc<Self> {
        Arc::new(Alarm { rung: Mutex::new(false), wake: Condvar::new() })
    }

    fn ring(&self) {
        *self.rung.lock() = true;
        self.wake.notify_all();
    }

    /// Blocks until it has rung since the last time, or the deadline; says whether the deadline ended it.
    fn wait(&self, deadline: Option<Deadline>) -> bool {
        let mut rung = self.rung.lock();
        while !*rung {
            if self.wake.wait(&mut rung, deadline) {
                return true;
            }
        }
        *rung = false;
        false
    }
}

/// A place among the waiters of one notifier, for a thread that waits for several.
struct Watch<'a> {
    shared: &'a Shared,
    place: Place,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        // A thread's alarm: no executor's code.
        let _ = self.shared.waiting.lock().leave(self.shared, self.place);
    }
}

/// How a wait for one of several notifiers ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitedAny {
    /// At least one has reached what was waited for.
    Reached,
    /// None has, and this one is closed.
    Closed(usize),
    /// The time given was over first.
    TimedOut,
}

struct Subscriber {
    id: u64,
    told: u64,
    sender: Sender<u64>,
    /// The subscriber's own channel, to take out a value that a newer one replaces.
    receiver: Receiver<u64>,
}

impl Subscriber {
    /// Replaces what the subscriber has not taken yet. Under the lock there is one sender, so this ends at the second turn
    /// at the latest.
    fn tell(&mut self, value: u64) {
        if self.told == value {
            return;
        }
        self.told = value;
        while let Err(TrySendError::Full(_)) = self.sender.try_send(value) {
            let _ = self.receiver.try_recv();
        }
    }
}

impl Waiting {
    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn wanted(&self) -> u64 {
        if self.subscribers.is_empty() {
            self.waiters.first_key_value().map_or(NOBODY, |(place, _)| place.at_least)
        } else {
            0
        }
    }

    fn join(&mut self, shared: &Shared, at_least: u64, wake: Wake) -> Place {
        let place = Place { at_least, id: self.take_id() };
        self.waiters.insert(place, wake);
        shared.update_wanted(self);
        place
    }

    /// What is given back may be a task's waker: it is to be dropped after the lock.
    #[must_use = "dropped under the lock, an executor's code would run there"]
    fn leave(&mut self, shared: &Shared, place: Place) -> Option<Wake> {
        let wake = self.waiters.remove(&place);
        shared.update_wanted(self);
        wake
    }
}

impl Notifier {
    /// A notifier that stands at `initial`.
    pub fn new(initial: u64) -> Self {
        Notifier {
            shared: Arc::new(Shared {
                value: AtomicU64::new(initial),
                wanted: AtomicU64::new(NOBODY),
                closed: AtomicBool::new(false),
                waiting: Mutex::new(Waiting::default()),
            }),
        }
    }

    /// The number now. One atomic load; what was written before the number rose is visible to who reads it here.
    pub fn get(&self) -> u64 {
        self.shared.value.load(Ordering::Acquire)
    }

    /// Raises the number by one and returns it. Never waits for a waiter.
    pub fn advance(&self) -> u64 {
        let value = self.shared.value.fetch_add(1, Ordering::AcqRel) + 1;
        self.shared.tell(value);
        value
    }

    /// Raises the number to `value`; a lower value changes nothing. Never waits for a waiter.
    pub fn advance_to(&self, value: u64) {
        if self.shared.value.fetch_max(value, Ordering::AcqRel) < value {
            self.shared.tell(value);
        }
    }

    /// Wakes every waiter with [`Waited::Closed`] and disconnects every subscriber, for good.
    pub fn close(&self) {
        let mut waiting = self.shared.waiting.lock();
        waiting.closed = true;
        self.shared.closed.store(true, Ordering::Release);
        let tasks = std::mem::take(&mut waiting.waiters).into_values().filter_map(Wake::wake).collect();
        let subscribers = std::mem::take(&mut waiting.subscribers);
        self.shared.update_wanted(&waiting);
        drop(waiting);
        drop(subscribers);
        wake_tasks(tasks);
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Blocks until the number is at least `at_least`, the notifier is closed, or `timeout` is over (`None`: no limit).
    ///
    /// A number that has been reached wins over a closing and over a timeout. Waits on a Condvar, so it may be called
    /// inside a future that a simple executor drives.
    pub fn wait_until(&self, at_least: u64, timeout: Option<Duration>) -> Waited {
        let value = self.get();
        if value >= at_least {
            return Waited::Reached(value);
        }
        if timeout == Some(Duration::ZERO) && !self.is_closed() {
            return Waited::TimedOut(value);
        }
        self.shared.block_until(at_least, timeout)
    }

    /// Blocks until at least one of these notifiers has reached the number beside it, one of them is closed, or `timeout` is
    /// over (`None`: no limit). As [`wait_until`](Self::wait_until), whose rules hold; the thread sleeps once for all.
    pub fn wait_any(aims: &[(&Notifier, u64)], timeout: Option<Duration>) -> WaitedAny {
        if let Some(ended) = ended_any(aims) {
            return ended;
        }
        if timeout == Some(Duration::ZERO) {
            return WaitedAny::TimedOut;
        }
        let deadline = timeout.and_then(deadline_after);
        let alarm = Alarm::new();
        let watches: Vec<Watch<'_>> =
            aims.iter().filter_map(|(notifier, at_least)| notifier.shared.watch(*at_least, &alarm)).collect();
        let mut timed_out = false;
        let ended = loop {
            // Whoever advances or closes from here on sees the watches and rings; what was done before is seen here.
            if let Some(ended) = ended_any(aims) {
                break ended;
            }
            if timed_out {
                break WaitedAny::TimedOut;
            }
            timed_out = alarm.wait(deadline);
        };
        drop(watches);
        ended
    }

    /// A subscription that holds the number now and then the newest one after each rise.
    pub fn subscribe(&self) -> Subscription {
        let (sender, receiver) = bounded(1);
        let mut waiting = self.shared.waiting.lock();
        let id = waiting.take_id();
        let mut subscriber = Subscriber { id, told: NOBODY, sender, receiver: receiver.clone() };
        if waiting.closed {
            subscriber.tell(self.get());
        } else {
            waiting.subscribers.push(subscriber);
            self.shared.update_wanted(&waiting);
            fence(Ordering::SeqCst);
            let value = self.get();
            if let Some(subscriber) = waiting.subscribers.last_mut() {
                subscriber.tell(value);
            }
        }
        drop(waiting);
        Subscription { receiver, id, shared: self.shared.clone() }
    }

    /// A future of the number being at least `at_least`, or of the closing. A number that has been reached wins. It may be
    /// dropped at any time.
    pub fn reached(&self, at_least: u64) -> Reaching {
        Reaching { notifier: self.clone(), at_least, place: None }
    }

    /// How many threads and tasks wait here now, and how many subscriptions are open.
    pub fn waiters(&self) -> (usize, usize) {
        let waiting = self.shared.waiting.lock();
        (waiting.waiters.len(), waiting.subscribers.len())
    }

    /// How often a blocked thread has woken here since the start. An idle waiter adds nothing to it.
    pub fn wakeups(&self) -> u64 {
        self.shared.waiting.lock().wakeups
    }

    /// Holds the lock, for a test that something takes none.
    #[cfg(test)]
    pub(crate) fn hold_lock(&self) -> impl Sized + '_ {
        self.shared.waiting.lock()
    }
}

fn ended_any(aims: &[(&Notifier, u64)]) -> Option<WaitedAny> {
    // Looked at before the numbers: a number that was reached before the closing wins.
    let closed = aims.iter().position(|(notifier, _)| notifier.is_closed());
    if aims.iter().any(|(notifier, at_least)| notifier.get() >= *at_least) {
        return Some(WaitedAny::Reached);
    }
    closed.map(WaitedAny::Closed)
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("value", &self.get()).field("closed", &self.is_closed()).finish()
    }
}

impl Shared {
    fn update_wanted(&self, waiting: &Waiting) {
        self.wanted.store(waiting.wanted(), Ordering::Relaxed);
    }

    fn tell(&self, value: u64) {
        fence(Ordering::SeqCst);
        if value < self.wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.waiting.lock();
        // Another advance may have overtaken this one on the way to the lock.
        let newest = self.value.load(Ordering::Acquire);
        let mut tasks = Vec::new();
        while let Some(first) = waiting.waiters.first_entry().filter(|first| first.key().at_least <= newest) {
            tasks.extend(first.remove().wake());
        }
        for subscriber in &mut waiting.subscribers {
            subscriber.tell(newest);
        }
        self.update_wanted(&waiting);
        drop(waiting);
        wake_tasks(tasks);
    }

    fn block_until(&self, at_least: u64, timeout: Option<Duration>) -> Waited {
        let deadline = timeout.and_then(deadline_after);
        let mut waiting = self.waiting.lock();
        let wake = Arc::new(Condvar::new());
        let place = (!waiting.closed).then(|| waiting.join(self, at_least, Wake::Alone(wake.clone())));
        fence(Ordering::SeqCst);
        let mut timed_out = false;
        loop {
            let value = self.value.load(Ordering::Acquire);
            let ended = if value >= at_least {
                Waited::Reached(value)
            } else if waiting.closed {
                Waited::Closed(value)
            } else if timed_out {
                Waited::TimedOut(value)
            } else {
                timed_out = wake.wait(&mut waiting, deadline);
                waiting.wakeups += 1;
                continue;
            };
            // A thread's own Condvar: no executor's code.
            let _ = place.and_then(|place| waiting.leave(self, place));
            return ended;
        }
    }

    /// Has the alarm rung when the number is at least `at_least`, or at the closing.
    fn watch(&self, at_least: u64, alarm: &Arc<Alarm>) -> Option<Watch<'_>> {
        let mut waiting = self.waiting.lock();
        // After a closing nobody rings; who looks finds it closed.
        let place = (!waiting.closed).then(|| waiting.join(self, at_least, Wake::Any(alarm.clone())));
        drop(waiting);
        fence(Ordering::SeqCst);
        place.map(|place| Watch { shared: self, place })
    }
}

/// See [`Notifier::reached`]. [`Waited::TimedOut`] is never its answer.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Reaching {
    notifier: Notifier,
    at_least: u64,
    place: Option<Place>,
}

impl Reaching {
    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            let wake = self.notifier.shared.waiting.lock().leave(&self.notifier.shared, place);
            drop(wake);
        }
    }
}

impl Future for Reaching {
    type Output = Waited;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Waited> {
        let this = &mut *self;
        let shared = this.notifier.shared.clone();
        let value = this.notifier.get();
        if value >= this.at_least {
            this.leave();
            return Poll::Ready(Waited::Reached(value));
        }
        // Cloned, and what it replaces dropped, outside the lock: both are the executor's code.
        let waker = Wake::Task(cx.waker().clone());
        let mut waiting = shared.waiting.lock();
        let is_closed = waiting.closed;
        let replaced = if is_closed {
            Some(waker)
        } else if let Some(wake) = this.place.and_then(|place| waiting.waiters.get_mut(&place)) {
            Some(std::mem::replace(wake, waker))
        } else {
            this.place = Some(waiting.join(&shared, this.at_least, waker));
            None
        };
        drop(waiting);
        drop(replaced);
        // Whoever advances from here on sees the place; what was advanced before is seen here.
        fence(Ordering::SeqCst);
        let value = this.notifier.get();
        if value >= this.at_least {
            this.leave();
            Poll::Ready(Waited::Reached(value))
        } else if is_closed {
            Poll::Ready(Waited::Closed(value))
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Reaching {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A notifier's newest number, as a channel for `select!`. Dropping it ends the subscription.
pub struct Subscription {
    receiver: Receiver<u64>,
    id: u64,
    shared: Arc<Shared>,
}

impl Subscription {
    /// The channel: it holds at most one number, the newest not taken yet, and is disconnected by the closing.
    pub fn receiver(&self) -> &Receiver<u64> {
        &self.receiver
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock();
        waiting.subscribers.retain(|subscriber| subscriber.id != self.id);
        self.shared.update_wanted(&waiting);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).finish()
    }
}
