//! Tests of the hooks: coalescing, blocking, panicking, ending from anywhere.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::*;
use crate::sync::{deadline_after, live_threads};

fn soon() -> Deadline {
    deadline_after(Duration::from_secs(60)).unwrap()
}

/// A hook that reports its calls.
fn reporting(runner: &Arc<HookRunner>) -> (Hook, HookGuard, Receiver<u64>) {
    let (sender, calls) = unbounded();
    let (hook, guard) = runner.register(Box::new(move |value| sender.send(value).unwrap())).unwrap();
    (hook, guard, calls)
}

/// A hook that says that it was entered, and stays until it is let go.
fn blocking(runner: &Arc<HookRunner>) -> (Hook, HookGuard, Receiver<u64>, Sender<()>) {
    let (sender, entered) = unbounded();
    let (release, released) = bounded::<()>(0);
    let hook = move |value| {
        sender.send(value).unwrap();
        let _ = released.recv();
    };
    let (hook, guard) = runner.register(Box::new(hook)).unwrap();
    (hook, guard, entered, release)
}

#[test]
fn a_ring_calls_the_hook_with_its_value() {
    let runner = HookRunner::new("plain:notify");
    assert!(!live_threads().contains(&"plain:notify".to_owned()), "no hook, no thread");
    let (hook, _guard, calls) = reporting(&runner);
    for value in 1..100 {
        hook.ring(value);
        assert_eq!(calls.recv(), Ok(value));
    }
    assert!(runner.close(soon()));
    assert!(!live_threads().contains(&"plain:notify".to_owned()));
}

#[test]
fn rings_before_a_call_are_one_call_with_the_newest_value() {
    let runner = HookRunner::new("coalesce:notify");
    let (blocker, _blocker_guard, entered, release) = blocking(&runner);
    let (hook, _guard, calls) = reporting(&runner);
    blocker.ring(1);
    assert_eq!(entered.recv(), Ok(1));
    for value in [3, 9, 5] {
        hook.ring(value);
    }
    assert_eq!(runner.shared.queue.lock().ready.len(), 1);
    drop(release);
    assert!(runner.close(soon()));
    assert_eq!(calls.iter().next(), Some(9));
    drop((hook, _guard));
    assert_eq!(calls.iter().next(), None);
}

#[test]
fn a_blocking_hook_delays_hooks_but_never_who_rings() {
    let runner = HookRunner::new("blocking:notify");
    let (blocker, _blocker_guard, entered, release) = blocking(&runner);
    let (hook, _guard, calls) = reporting(&runner);
    blocker.ring(1);
    assert_eq!(entered.recv(), Ok(1));
    for value in 2..1_000 {
        blocker.ring(value);
        hook.ring(value);
    }
    assert!(calls.is_empty());
    assert!(!runner.close(deadline_after(Duration::ZERO).unwrap()), "the hook is still in its call");
    release.send(()).unwrap();
    assert_eq!(entered.recv(), Ok(999), "what was queued before the closing is called");
    drop(release);
    assert_eq!(calls.recv(), Ok(999));
    assert!(runner.close(soon()));
}

#[test]
fn a_panicking_hook_is_dropped_and_the_others_live() {
    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("on purpose, in a drop");
        }
    }
    let runner = HookRunner::new("panic:notify");
    let captured = Arc::new(());
    let (held, also) = (captured.clone(), PanicsWhenDropped);
    let (bad, _bad_guard) = runner
        .register(Box::new(move |_| {
            let _captured = (&held, &also);
            panic!("on purpose");
        }))
        .unwrap();
    let (hook, _guard, calls) = reporting(&runner);
    bad.ring(1);
    hook.ring(1);
    assert_eq!(calls.recv(), Ok(1));
    assert_eq!(Arc::strong_count(&captured), 1, "what it captured is gone");
    bad.ring(2);
    hook.ring(2);
    assert_eq!(calls.recv(), Ok(2));
    assert!(runner.close(soon()));
}

#[test]
fn a_dropped_guard_ends_the_calls() {
    let runner = HookRunner::new("guard:notify");
    let (blocker, _blocker_guard, entered, release) = blocking(&runner);
    let (hook, guard, calls) = reporting(&runner);
    blocker.ring(1);
    assert_eq!(entered.recv(), Ok(1));
    hook.ring(1);
    drop(guard);
    drop(release);
    assert!(runner.close(soon()));
    assert!(calls.recv().is_err(), "never called, and what it captured is gone");
    drop(hook);
}

#[test]
fn a_guard_dropped_inside_its_own_call_neither_hangs_nor_is_called_again() {
    let runner = HookRunner::new("own:notify");
    let (give, given) = bounded::<HookGuard>(1);
    let (sender, calls) = unbounded();
    let (hook, guard) = runner
        .register(Box::new(move |value| {
            drop(given.try_recv());
            sender.send(value).unwrap();
        }))
        .unwrap();
    give.send(guard).unwrap();
    hook.ring(1);
    assert_eq!(calls.recv(), Ok(1));
    assert!(calls.recv().is_err(), "what it captured is gone");
    hook.ring(2);
    assert!(runner.close(soon()));
}

#[test]
fn a_hook_that_closes_its_runner_does_not_hang() {
    let runner = HookRunner::new("closes:notify");
    let (sender, closed) = bounded(1);
    let weak = Arc::downgrade(&runner);
    let close = move |_| sender.send(weak.upgrade().unwrap().close(soon())).unwrap();
    let (hook, _guard) = runner.register(Box::new(close)).unwrap();
    hook.ring(1);
    assert_eq!(closed.recv(), Ok(false), "it can't wait for itself");
    assert!(runner.close(soon()));
}

#[test]
fn a_closed_runner_takes_no_hook_and_ignores_rings() {
    let runner = HookRunner::new("closed:notify");
    let (hook, _guard, calls) = reporting(&runner);
    assert!(runner.close(soon()));
    hook.ring(1);
    assert!(calls.try_recv().is_err());
    assert_eq!(runner.register(Box::new(|_| {})).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_dropped_runner_ends_its_thread() {
    let runner = HookRunner::new("dropped:notify");
    let (_hook, _guard, _calls) = reporting(&runner);
    let worker = runner.worker.lock().clone().unwrap();
    drop(runner);
    assert!(worker.join_until(soon()));
}
