//! Interleavings: the notifier's own source, run under `loom`, which tries every order its threads can take.
//!
//! The models are small, so that a plain `cargo test` runs them in seconds.

/// The names of `sync::prims` over loom's primitives. A wait with a deadline times out at once, after letting others run.
#[allow(clippy::unwrap_used, reason = "a test")]
mod prims {
    use std::ops::{Deref, DerefMut};
    use std::time::Duration;

    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

    #[derive(Clone, Copy)]
    pub(crate) struct Deadline;

    pub(crate) fn deadline_after(_timeout: Duration) -> Option<Deadline> {
        Some(Deadline)
    }

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    /// Holds loom's guard in an option, for a wait takes it and gives it back.
    pub(crate) struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        inner: Option<loom::sync::MutexGuard<'a, T>>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard { mutex: self, inner: Some(self.0.lock().unwrap()) }
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.inner.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.inner.as_mut().unwrap()
        }
    }

    pub(crate) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Condvar(loom::sync::Condvar::new())
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Option<Deadline>) -> bool {
            let inner = guard.inner.take().unwrap();
            if deadline.is_some() {
                drop(inner);
                loom::thread::yield_now();
                guard.inner = Some(guard.mutex.0.lock().unwrap());
                return true;
            }
            guard.inner = Some(self.0.wait(inner).unwrap());
            false
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

#[allow(dead_code, unreachable_pub, reason = "the library's own file, of which the models use a part")]
#[path = "../src/sync/notifier.rs"]
mod notifier;

use std::time::Duration;

use loom::thread::spawn;
use notifier::{Notifier, Waited, WaitedAny};

/// Runs the model in every order that needs at most this many preemptions; more than three find nothing new in models
/// of two or three threads, and take minutes.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn a_waiter_always_wakes_when_its_number_is_reached() {
    check(|| {
        let notifier = Notifier::new(0);
        let waiter = spawn({
            let notifier = notifier.clone();
            move || notifier.wait_until(1, None)
        });
        notifier.advance();
        assert_eq!(waiter.join().unwrap(), Waited::Reached(1));
        assert_eq!(notifier.waiters(), (0, 0));
    });
}

#[test]
fn waiters_with_different_aims_all_wake() {
    check(|| {
        let notifier = Notifier::new(0);
        let waiters = [1, 2].map(|aim| {
            let notifier = notifier.clone();
            spawn(move || notifier.wait_until(aim, None))
        });
        notifier.advance();
        notifier.advance();
        for waiter in waiters {
            assert!(matches!(waiter.join().unwrap(), Waited::Reached(1 | 2)));
        }
    });
}

#[test]
fn two_who_advance_at_once_wake_a_waiter_for_both() {
    check(|| {
        let notifier = Notifier::new(0);
        let advancers = [(); 2].map(|()| {
            let notifier = notifier.clone();
            spawn(move || notifier.advance())
        });
        assert_eq!(notifier.wait_until(2, None), Waited::Reached(2));
        for advancer in advancers {
            advancer.join().unwrap();
        }
    });
}

#[test]
fn closing_wakes_everyone_and_what_was_reached_before_wins() {
    check(|| {
        let notifier = Notifier::new(0);
        let waiters = [1, 9].map(|aim| {
            let notifier = notifier.clone();
            spawn(move || notifier.wait_until(aim, None))
        });
        notifier.advance();
        notifier.close();
        let [reached, closed] = waiters.map(|waiter| waiter.join().unwrap());
        assert_eq!((reached, closed), (Waited::Reached(1), Waited::Closed(1)));
        assert_eq!(notifier.waiters(), (0, 0));
    });
}

#[test]
fn a_waiter_that_gives_up_takes_no_wake_up_from_another() {
    check(|| {
        let notifier = Notifier::new(0);
        let brief = spawn({
            let notifier = notifier.clone();
            move || notifier.wait_until(1, Some(Duration::from_secs(1)))
        });
        let patient = spawn({
            let notifier = notifier.clone();
            move || notifier.wait_until(1, None)
        });
        notifier.advance();
        assert_eq!(patient.join().unwrap(), Waited::Reached(1));
        assert!(matches!(brief.join().unwrap(), Waited::Reached(1) | Waited::TimedOut(0)));
        assert_eq!(notifier.waiters(), (0, 0));
    });
}

#[test]
fn a_subscriber_ends_with_the_newest_number_whoever_was_quicker() {
    check(|| {
        let notifier = Notifier::new(0);
        let advancers = [(); 2].map(|()| {
            let notifier = notifier.clone();
            spawn(move || notifier.advance())
        });
        let subscription = notifier.subscribe();
        let mut seen: Vec<u64> = subscription.receiver().try_iter().collect();
        for advancer in advancers {
            advancer.join().unwrap();
        }
        seen.extend(subscription.receiver().try_iter());
        assert!(seen.is_sorted_by(|earlier, later| earlier < later), "{seen:?}");
        assert_eq!(seen.last(), Some(&2));
    });
}

#[test]
fn who_sees_the_number_sees_what_was_written_before_it_rose() {
    use loom::sync::atomic::{AtomicU64, Ordering};
    check(|| {
        let notifier = Notifier::new(0);
        let written = std::sync::Arc::new(AtomicU64::new(0));
        let writer = spawn({
            let (notifier, written) = (notifier.clone(), written.clone());
            move || {
                written.store(7, Ordering::Relaxed);
                notifier.advance_to(1);
            }
        });
        if notifier.get() == 1 {
            assert_eq!(written.load(Ordering::Relaxed), 7);
        }
        assert_eq!(notifier.wait_until(1, None), Waited::Reached(1));
        assert_eq!(written.load(Ordering::Relaxed), 7);
        writer.join().unwrap();
    });
}

#[test]
fn a_waiter_for_several_wakes_for_each_of_them() {
    for moves in 0..2 {
        check(move || {
            let both = [Notifier::new(0), Notifier::new(0)];
            let waiter = spawn({
                let both = both.clone();
                move || {
                    let ended = Notifier::wait_any(&[(&both[0], 1), (&both[1], 1)], None);
                    (ended, both[moves].get())
                }
            });
            both[moves].advance();
            assert_eq!(waiter.join().unwrap(), (WaitedAny::Reached, 1));
            assert_eq!(both.map(|notifier| notifier.waiters()), [(0, 0); 2]);
        });
    }
}

#[test]
fn a_waiter_for_several_wakes_when_one_is_closed_and_a_number_reached_before_wins() {
    check(|| {
        let both = [Notifier::new(0), Notifier::new(0)];
        let waiter = spawn({
            let both = both.clone();
            move || Notifier::wait_any(&[(&both[0], 1), (&both[1], 1)], None)
        });
        both[1].close();
        assert_eq!(waiter.join().unwrap(), WaitedAny::Closed(1));
        assert_eq!(both[0].waiters(), (0, 0));
    });
    check(|| {
        let both = [Notifier::new(0), Notifier::new(0)];
        let waiter = spawn({
            let both = both.clone();
            move || Notifier::wait_any(&[(&both[0], 1), (&both[1], 1)], None)
        });
        both[0].advance();
        both[1].close();
        assert_eq!(waiter.join().unwrap(), WaitedAny::Reached);
    });
}

#[test]
fn a_waiter_for_several_and_one_for_one_of_them_both_wake() {
    check(|| {
        let both = [Notifier::new(0), Notifier::new(0)];
        let any = spawn({
            let both = both.clone();
            move || Notifier::wait_any(&[(&both[0], 1), (&both[1], 1)], None)
        });
        let one = spawn({
            let first = both[0].clone();
            move || first.wait_until(1, None)
        });
        both[0].advance();
        assert_eq!(any.join().unwrap(), WaitedAny::Reached);
        assert_eq!(one.join().unwrap(), Waited::Reached(1));
    });
}

/// Drives a future on a model's thread: sleeps until it is woken, and looks again.
#[allow(clippy::unwrap_used, reason = "a test")]
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    struct Park {
        woken: loom::sync::Mutex<bool>,
        changed: loom::sync::Condvar,
    }
    impl std::task::Wake for Park {
        fn wake(self: std::sync::Arc<Self>) {
            *self.woken.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }
    let park = std::sync::Arc::new(Park { woken: loom::sync::Mutex::new(false), changed: loom::sync::Condvar::new() });
    let waker = std::task::Waker::from(park.clone());
    loop {
        if let std::task::Poll::Ready(answer) =
            std::pin::Pin::new(&mut future).poll(&mut std::task::Context::from_waker(&waker))
        {
            return answer;
        }
        let mut woken = park.woken.lock().unwrap();
        while !*woken {
            woken = park.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

#[test]
fn a_task_always_wakes_when_its_number_is_reached() {
    check(|| {
        let notifier = Notifier::new(0);
        let other = notifier.clone();
        let waiter = spawn(move || block_on(other.reached(2)));
        notifier.advance();
        notifier.advance();
        assert_eq!(waiter.join().unwrap(), Waited::Reached(2));
        assert_eq!(notifier.waiters().0, 0);
    });
}

#[test]
fn a_task_and_a_thread_wake_for_one_advance_and_a_dropped_future_takes_nothing() {
    check(|| {
        let notifier = Notifier::new(0);
        let (for_task, for_thread) = (notifier.clone(), notifier.clone());
        let task = spawn(move || {
            let mut dropped = for_task.reached(1);
            let waker = std::task::Waker::noop();
            let _ = std::pin::Pin::new(&mut dropped).poll(&mut std::task::Context::from_waker(waker));
            drop(dropped);
            block_on(for_task.reached(1))
        });
        let waiter = spawn(move || for_thread.wait_until(1, None));
        notifier.advance();
        assert_eq!(task.join().unwrap(), Waited::Reached(1));
        assert_eq!(waiter.join().unwrap(), Waited::Reached(1));
        assert_eq!(notifier.waiters().0, 0);
    });
}

#[test]
fn closing_wakes_a_task() {
    check(|| {
        let notifier = Notifier::new(0);
        let other = notifier.clone();
        let waiter = spawn(move || block_on(other.reached(1)));
        notifier.close();
        assert_eq!(waiter.join().unwrap(), Waited::Closed(0));
    });
}
