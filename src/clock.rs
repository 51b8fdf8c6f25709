//! Clock: the only door to the time of day and to schedules, so that a test can hold the time in its hands.
//!
//! Owner: anyone reads it; a manual clock moves when its [`ManualClock`] is told to, and at no other time.
//! Invariants:
//! 1. The moment never goes back; the wall time may jump either way (`the_wall_time_may_jump_and_the_moment_does_not`).
//! 2. A thread that waits on a manual clock wakes when the clock reaches its moment, never before
//!    (`a_sleeper_wakes_at_its_moment_and_not_before`).
//!
//! Not here: the timeouts of blocking calls; they are real time always and live in `sync`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select};
use parking_lot::{Condvar, Mutex};

/// A moment on a [`Clock`]: the time since that clock's start. Moments of two clocks don't compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// The moment `later` after this one, at most the last one that can be said.
    #[must_use]
    pub fn after(self, later: Duration) -> Moment {
        Moment(self.0.saturating_add(later))
    }

    /// The time from `earlier` to this moment; zero if that is not earlier.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What [`Clock::recv`] came back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received<T> {
    /// A message. One that is there wins over a moment that is due.
    Message(T),
    /// The moment has come.
    Due,
    /// All senders are gone and the inbox is empty.
    Disconnected,
}

/// A source of time: the system's, or a test's. Cheap to clone; clones are the same clock.
#[derive(Debug, Clone)]
pub struct Clock(Kind);

#[derive(Debug, Clone)]
enum Kind {
    System { start: Instant },
    Manual(Arc<Manual>),
}

impl Clock {
    /// The system's clocks: the monotonic one for moments, the wall clock for [`wall_ms`](Clock::wall_ms).
    #[expect(clippy::disallowed_methods, reason = "the door to the system's monotonic clock")]
    pub fn system() -> Clock {
        Clock(Kind::System { start: Instant::now() })
    }

    /// A clock that stands still until its [`ManualClock`] moves it. It starts at moment zero, wall time zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// use diorama::clock::Clock;
    ///
    /// let (clock, hands) = Clock::manual();
    /// let before = clock.now();
    /// hands.advance(Duration::from_secs(5));
    /// assert_eq!(clock.now().since(before), Duration::from_secs(5));
    /// assert_eq!(clock.wall_ms(), 5_000);
    /// ```
    pub fn manual() -> (Clock, ManualClock) {
        let manual = Arc::new(Manual::default());
        (Clock(Kind::Manual(manual.clone())), ManualClock(manual))
    }

    /// The moment now. It never goes back. Doesn't block.
    #[expect(clippy::disallowed_methods, reason = "the door to the system's monotonic clock")]
    pub fn now(&self) -> Moment {
        match &self.0 {
            Kind::System { start } => Moment(Instant::now().saturating_duration_since(*start)),
            Kind::Manual(manual) => manual.state.lock().now,
        }
    }

    /// The wall time in milliseconds since 1970-01-01 UTC, negative before it. It may jump either way. Doesn't block.
    #[expect(clippy::disallowed_methods, reason = "the door to the system's wall clock")]
    pub fn wall_ms(&self) -> i64 {
        match &self.0 {
            Kind::System { .. } => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => whole_ms(since),
                Err(before) => whole_ms(before.duration()).saturating_neg(),
            },
            Kind::Manual(manual) => manual.state.lock().wall_ms(),
        }
    }

    /// Blocks until the inbox has a message or is disconnected, or until the moment on this clock (`None`: no moment).
    ///
    /// It is what a worker's loop stands in; it takes no lock while it waits. A message that is there wins over a moment
    /// that is due.
    pub fn recv<T>(&self, inbox: &Receiver<T>, until: Option<Moment>) -> Received<T> {
        match &self.0 {
            Kind::System { start } => {
                let deadline = until.and_then(|until| start.checked_add(until.0));
                let received = match deadline {
                    Some(deadline) => inbox.recv_deadline(deadline),
                    None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                };
                match received {
                    Ok(message) => Received::Message(message),
                    Err(RecvTimeoutError::Timeout) => Received::Due,
                    Err(RecvTimeoutError::Disconnected) => Received::Disconnected,
                }
            }
            Kind::Manual(manual) => manual.recv(inbox, until),
        }
    }
}

fn whole_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The hands of a manual [`Clock`]: they move it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Manual>);

impl ManualClock {
    /// Moves the moment and the wall time on, and wakes those whose moment has come. Doesn't wait for them.
    pub fn advance(&self, by: Duration) {
        let mut state = self.0.state.lock();
        state.now = state.now.after(by);
        let now = state.now;
        // Who is woken leaves the count of sleepers here and now: see `wait_for_sleepers`.
        state.sleepers.retain(|sleeper| {
            let due = sleeper.until.is_some_and(|until| until <= now);
            if due {
                // One ring at most is ever sent to a bell, which has room for it.
                let _ = sleeper.bell.try_send(());
            }
            !due
        });
    }

    /// Sets the wall time (milliseconds since 1970-01-01 UTC), forwards or back. The moment stays.
    pub fn set_wall_ms(&self, wall_ms: i64) {
        let mut state = self.0.state.lock();
        state.wall_base_ms = wall_ms;
        state.wall_set_at = state.now;
    }

    /// Blocks until at least `count` threads stand in [`Clock::recv`] of this clock. Without limit: for tests.
    ///
    /// A thread woken by [`advance`](ManualClock::advance) is not counted again before it comes back to wait, so after
    /// `advance` this says that its work is done.
    pub fn wait_for_sleepers(&self, count: usize) {
        let mut state = self.0.state.lock();
        while state.sleepers.len() < count {
            self.0.slept.wait(&mut state);
        }
    }
}

#[derive(Debug, Default)]
struct Manual {
    state: Mutex<ManualState>,
    slept: Condvar,
}

#[derive(Debug, Default)]
struct ManualState {
    now: Moment,
    wall_base_ms: i64,
    wall_set_at: Moment,
    sleepers: Vec<Sleeper>,
    next_id: u64,
}

#[derive(Debug)]
struct Sleeper {
    id: u64,
    until: Option<Moment>,
    bell: Sender<()>,
}

impl ManualState {
    fn wall_ms(&self) -> i64 {
        self.wall_base_ms.saturating_add(whole_ms(self.now.since(self.wall_set_at)))
    }
}

impl Manual {
    fn recv<T>(&self, inbox: &Receiver<T>, until: Option<Moment>) -> Received<T> {
        match inbox.try_recv() {
            Ok(message) => return Received::Message(message),
            Err(TryRecvError::Disconnected) => return Received::Disconnected,
            Err(TryRecvError::Empty) => {}
        }
        let (bell, rung) = bounded(1);
        let mut state = self.state.lock();
        if until.is_some_and(|until| until <= state.now) {
            return Received::Due;
        }
        state.next_id += 1;
        let id = state.next_id;
        state.sleepers.push(Sleeper { id, until, bell: bell.clone() });
        self.slept.notify_all();
        drop(state);
        // `bell` stays alive here, so that `rung` says only "rung", never "disconnected".
        let received = select! {
            recv(inbox) -> message => message.map_or(Received::Disconnected, Received::Message),
            recv(rung) -> _ => Received::Due,
        };
        drop(bell);
        self.state.lock().sleepers.retain(|sleeper| sleeper.id != id);
        match received {
            // Both were ready and the choice fell on the bell: the message wins, as on the system's clock.
            Received::Due => inbox.try_recv().map_or(Received::Due, Received::Message),
            received => received,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::scope;

    use crossbeam_channel::unbounded;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_wall_time_may_jump_and_the_moment_does_not() {
        let (clock, hands) = Clock::manual();
        hands.set_wall_ms(1_000_000);
        hands.advance(SECOND);
        assert_eq!((clock.now(), clock.wall_ms()), (Moment(SECOND), 1_001_000));
        hands.set_wall_ms(-5);
        assert_eq!((clock.now(), clock.wall_ms()), (Moment(SECOND), -5));
        hands.advance(Duration::MAX);
        assert_eq!(clock.now(), Moment(Duration::MAX));
        assert_eq!(clock.now().after(SECOND), clock.now());
    }

    #[test]
    fn the_system_clock_goes_on_and_says_when_a_moment_is_due() {
        let clock = Clock::system();
        let (sender, inbox) = unbounded();
        let until = clock.now().after(Duration::from_millis(2));
        assert_eq!(clock.recv(&inbox, Some(until)), Received::Due);
        assert!(clock.now() >= until);
        assert!(clock.wall_ms() > 1_600_000_000_000);
        sender.send(7).unwrap();
        assert_eq!(clock.recv(&inbox, Some(Moment::default())), Received::Message(7), "a message wins");
        sender.send(8).unwrap();
        assert_eq!(clock.recv(&inbox, Some(Moment(Duration::MAX))), Received::Message(8), "a moment beyond all time");
        drop(sender);
        assert_eq!(clock.recv(&inbox, None), Received::Disconnected);
    }

    #[test]
    fn a_message_wins_over_a_due_moment_and_a_hang_up_is_seen() {
        let (clock, hands) = Clock::manual();
        let (sender, inbox) = unbounded();
        hands.advance(SECOND);
        sender.send(1).unwrap();
        assert_eq!(clock.recv(&inbox, Some(Moment(SECOND))), Received::Message(1));
        assert_eq!(clock.recv(&inbox, Some(Moment(SECOND))), Received::Due);
        drop(sender);
        assert_eq!(clock.recv(&inbox, Some(Moment(SECOND))), Received::Disconnected);
        assert_eq!(clock.recv(&inbox, None), Received::Disconnected);
    }

    #[test]
    fn a_sleeper_wakes_at_its_moment_and_not_before() {
        let (clock, hands) = Clock::manual();
        let (_sender, inbox) = unbounded::<()>();
        let (woke, wakes) = unbounded();
        scope(|threads| {
            threads.spawn(|| {
                for second in [2, 3, 10] {
                    assert_eq!(clock.recv(&inbox, Some(Moment(SECOND * second))), Received::Due);
                    woke.send(clock.now()).unwrap();
                }
            });
            let expected: [&[u64]; 10] = [&[], &[2], &[3], &[], &[], &[], &[], &[], &[], &[10]];
            for (second, wanted) in expected.iter().enumerate() {
                hands.wait_for_sleepers(1);
                hands.advance(SECOND);
                if second < 9 {
                    hands.wait_for_sleepers(1);
                    let seen: Vec<_> = wakes.try_iter().collect();
                    let wanted: Vec<_> = wanted.iter().map(|&second| Moment(SECOND * second as u32)).collect();
                    assert_eq!(seen, wanted);
                }
            }
        });
        assert_eq!(wakes.try_recv(), Ok(Moment(SECOND * 10)));
    }

    #[test]
    fn a_message_or_a_hang_up_wakes_a_sleeper() {
        let (clock, hands) = Clock::manual();
        let (sender, inbox) = unbounded();
        scope(|threads| {
            let sleeper = threads.spawn(|| [clock.recv(&inbox, Some(Moment(SECOND))), clock.recv(&inbox, None)]);
            hands.wait_for_sleepers(1);
            sender.send(5).unwrap();
            drop(sender);
            assert_eq!(sleeper.join().unwrap(), [Received::Message(5), Received::Disconnected]);
        });
    }

    #[test]
    fn many_sleepers_wake_each_at_its_own_moment() {
        let (clock, hands) = Clock::manual();
        let (_sender, inbox) = unbounded::<()>();
        scope(|threads| {
            let sleepers: Vec<_> = (1..=8)
                .map(|second| {
                    let (clock, inbox) = (&clock, &inbox);
                    threads.spawn(move || (clock.recv(inbox, Some(Moment(SECOND * second))), clock.now()))
                })
                .collect();
            for (already, sleeper) in sleepers.into_iter().enumerate() {
                hands.wait_for_sleepers(8 - already);
                hands.advance(SECOND);
                assert_eq!(sleeper.join().unwrap(), (Received::Due, Moment(SECOND * (already as u32 + 1))));
            }
        });
    }
}
