//! Tests of the notifier on real threads; `tests/interleavings.rs` checks its orderings.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::scope;
use std::time::Duration;

use super::notifier::Reaching;
use super::{Notifier, Waited};

const SHORT: Option<Duration> = Some(Duration::from_millis(1));

/// Until that many threads are blocked in the notifier.
fn until_waiting(notifier: &Notifier, threads: usize) {
    while notifier.waiters().0 < threads {
        std::thread::yield_now();
    }
}

#[test]
fn the_number_only_rises() {
    let notifier = Notifier::new(5);
    notifier.advance_to(3);
    assert_eq!(notifier.get(), 5);
    notifier.advance_to(9);
    assert_eq!(notifier.advance(), 10);
    assert_eq!(notifier.get(), 10);
}

#[test]
fn reached_wins_over_closed_and_closed_over_a_timeout() {
    let notifier = Notifier::new(1);
    assert_eq!(notifier.wait_until(1, None), Waited::Reached(1));
    assert_eq!(notifier.wait_until(2, Some(Duration::ZERO)), Waited::TimedOut(1));
    assert_eq!(notifier.wait_until(2, SHORT), Waited::TimedOut(1));
    assert_eq!(notifier.waiters(), (0, 0));
    notifier.close();
    assert!(notifier.is_closed());
    assert_eq!(notifier.wait_until(1, None), Waited::Reached(1));
    assert_eq!(notifier.wait_until(2, None), Waited::Closed(1));
    assert_eq!(notifier.wait_until(2, Some(Duration::ZERO)), Waited::Closed(1));
}

#[test]
fn each_waiter_wakes_for_its_own_aim() {
    let notifier = Notifier::new(0);
    scope(|threads| {
        let low = threads.spawn(|| notifier.wait_until(2, None));
        let high = threads.spawn(|| notifier.wait_until(4, None));
        until_waiting(&notifier, 2);
        notifier.advance_to(2);
        assert!(matches!(low.join().unwrap(), Waited::Reached(2)));
        assert_eq!(notifier.waiters().0, 1);
        notifier.advance_to(7);
        assert_eq!(high.join().unwrap(), Waited::Reached(7));
    });
    assert_eq!(notifier.wakeups(), 2);
}

#[test]
fn an_advance_below_every_aim_wakes_nobody() {
    let notifier = Notifier::new(0);
    scope(|threads| {
        threads.spawn(|| assert_eq!(notifier.wait_until(1_000, None), Waited::Reached(1_000)));
        until_waiting(&notifier, 1);
        {
            // An advance that took the lock would stop here for ever.
            let _held = notifier.hold_lock();
            for _ in 0..999 {
                notifier.advance();
            }
        }
        assert_eq!(notifier.wakeups(), 0);
        notifier.advance();
    });
    assert_eq!(notifier.wakeups(), 1);
}

#[test]
fn an_aim_beyond_every_number_waits_for_the_closing() {
    let notifier = Notifier::new(0);
    scope(|threads| {
        let waiter = threads.spawn(|| notifier.wait_until(u64::MAX, None));
        until_waiting(&notifier, 1);
        notifier.advance();
        notifier.close();
        assert_eq!(waiter.join().unwrap(), Waited::Closed(1));
    });
}

#[test]
fn a_subscriber_finds_the_newest_number_only() {
    let notifier = Notifier::new(3);
    let subscription = notifier.subscribe();
    assert_eq!(subscription.receiver().try_recv(), Ok(3), "the number at its start");
    notifier.advance();
    notifier.advance();
    assert_eq!(subscription.receiver().try_recv(), Ok(5));
    assert!(subscription.receiver().try_recv().is_err());
    notifier.advance();
    notifier.close();
    assert_eq!(subscription.receiver().recv(), Ok(6), "what was reached before the closing");
    assert!(subscription.receiver().recv().is_err(), "then it is disconnected");
    let late = notifier.subscribe();
    assert_eq!(late.receiver().recv(), Ok(6));
    assert!(late.receiver().recv().is_err());
}

#[test]
fn a_dropped_subscription_costs_nothing() {
    let notifier = Notifier::new(0);
    let (one, two) = (notifier.subscribe(), notifier.subscribe());
    assert_eq!(notifier.waiters(), (0, 2));
    drop(one);
    notifier.advance();
    assert_eq!(two.receiver().recv(), Ok(1));
    drop(two);
    assert_eq!(notifier.waiters(), (0, 0));
    let _held = notifier.hold_lock();
    notifier.advance();
}

#[test]
fn many_notifiers_can_be_selected_at_once() {
    let (first, second) = (Notifier::new(0), Notifier::new(0));
    let subscriptions = [first.subscribe(), second.subscribe()];
    for subscription in &subscriptions {
        assert_eq!(subscription.receiver().recv(), Ok(0));
    }
    scope(|threads| {
        threads.spawn(|| second.advance());
        crossbeam_channel::select! {
            recv(subscriptions[0].receiver()) -> _ => panic!("the first did not move"),
            recv(subscriptions[1].receiver()) -> value => assert_eq!(value, Ok(1)),
        }
    });
}

#[test]
fn ping_pong_over_two_notifiers_loses_no_wake_up() {
    let (ping, pong) = (Notifier::new(0), Notifier::new(0));
    scope(|threads| {
        threads.spawn(|| {
            for turn in 1..=5_000 {
                assert_eq!(ping.wait_until(turn, None), Waited::Reached(turn));
                pong.advance();
            }
        });
        for turn in 1..=5_000 {
            ping.advance();
            assert_eq!(pong.wait_until(turn, None), Waited::Reached(turn));
        }
    });
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(future: &mut Reaching, woken: &Arc<Woken>) -> Poll<Waited> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(woken.clone())))
}

#[test]
fn a_task_is_woken_once_and_for_its_own_aim() {
    let notifier = Notifier::new(0);
    let woken = Arc::new(Woken::default());
    let mut future = notifier.reached(2);
    assert_eq!(poll(&mut future, &woken), Poll::Pending);
    assert_eq!(poll(&mut future, &woken), Poll::Pending, "polled again it keeps its one place");
    assert_eq!(notifier.waiters(), (1, 0));
    notifier.advance();
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    notifier.advance();
    notifier.advance();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert_eq!(poll(&mut future, &woken), Poll::Ready(Waited::Reached(3)));
    assert_eq!(notifier.waiters(), (0, 0));
}

#[test]
fn a_dropped_future_leaves_no_waiter() {
    let notifier = Notifier::new(0);
    let woken = Arc::new(Woken::default());
    let mut futures: Vec<Reaching> = (1..1_000).map(|aim| notifier.reached(aim % 7 + 1)).collect();
    for future in &mut futures {
        assert_eq!(poll(future, &woken), Poll::Pending);
    }
    assert_eq!(notifier.waiters().0, futures.len());
    drop(futures);
    assert_eq!(notifier.waiters(), (0, 0));
    assert_eq!(Arc::strong_count(&woken), 1, "its waker is gone, too");
    notifier.advance_to(9);
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
}

#[test]
fn closing_wakes_tasks_and_a_number_reached_before_wins() {
    let notifier = Notifier::new(0);
    let woken = Arc::new(Woken::default());
    let (mut near, mut far, mut late) = (notifier.reached(1), notifier.reached(5), notifier.reached(5));
    assert_eq!(poll(&mut near, &woken), Poll::Pending);
    assert_eq!(poll(&mut far, &woken), Poll::Pending);
    notifier.advance();
    notifier.close();
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert_eq!(poll(&mut near, &woken), Poll::Ready(Waited::Reached(1)));
    assert_eq!(poll(&mut far, &woken), Poll::Ready(Waited::Closed(1)));
    assert_eq!(poll(&mut late, &woken), Poll::Ready(Waited::Closed(1)));
}

/// Looks at the notifier when it is woken, and when it is dropped: under its lock that would never end.
struct Nosy(Notifier, bool);

impl Wake for Nosy {
    fn wake(self: Arc<Self>) {
        self.0.waiters();
        assert!(!self.1, "an executor's own fault");
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.0.waiters();
    }
}

#[test]
fn wakers_run_and_are_dropped_under_no_lock_and_may_panic() {
    let notifier = Notifier::new(0);
    let nosy = |panics| Waker::from(Arc::new(Nosy(notifier.clone(), panics)));
    let mut futures = [notifier.reached(1), notifier.reached(1), notifier.reached(9)];
    for (future, panics) in futures.iter_mut().zip([true, false, false]) {
        assert!(Pin::new(&mut *future).poll(&mut Context::from_waker(&nosy(panics))).is_pending());
        assert!(Pin::new(future).poll(&mut Context::from_waker(&nosy(panics))).is_pending());
    }
    let woken = Arc::new(Woken::default());
    let mut last = notifier.reached(1);
    assert!(poll(&mut last, &woken).is_pending());
    notifier.advance();
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "whoever panicked before it");
    drop(futures);
    assert_eq!(notifier.waiters().0, 0);
}
