//! Drive: a future of the user's, brought to its end on this thread.
//!
//! Flow: poll → wait until something wakes it → poll again.
//! Invariants:
//! 1. No wake-up is lost, whatever the future blocks in while it is polled. `pollster` sleeps on the one token that a thread
//!    has, and a blocking call inside of the future may take it; so a wake is noted beside it, and a noted wake is a poll
//!    (`a_wake_up_that_a_nested_block_on_takes_is_not_lost` and those after it).
//! 2. A call of a source ends when it is cancelled or its time is over, on whichever clock: the future is dropped
//!    (`a_call_that_is_cancelled_drops_its_future`, `a_call_ends_at_its_deadline_on_the_clock_of_the_lens`).
//! 3. A callback ends where it awaits when its Dio closes (`closing_ends_an_async_callback_where_it_awaits`).
//!
//! Not here: the fence against panics, and the runtime's context; they are `runtime`'s.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crossbeam_channel::{Sender, bounded};

use crate::Result;
use crate::vista::{CallCx, CancelToken};

/// Notes that the future was woken, and wakes the thread that drives it.
struct Noted {
    woken: AtomicBool,
    thread: Waker,
}

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.wake_by_ref();
    }
}

/// What the future comes to; `None`: the token was cancelled first, and the future is dropped. Blocks for as long as that takes.
pub(super) fn until_cancelled<F: Future>(cancel: &CancelToken, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut driver = None;
    pollster::block_on(poll_fn(|cx| {
        let (noted, waker, _watch) = driver.get_or_insert_with(|| {
            let noted = Arc::new(Noted { woken: AtomicBool::new(false), thread: cx.waker().clone() });
            let waker = Waker::from(noted.clone());
            let watch = cancel.wake_on_cancel(&waker);
            (noted, waker, watch)
        });
        loop {
            if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(Some(answer));
            }
            if cancel.is_cancelled() {
                return Poll::Ready(None);
            }
            // Once this says no, nothing but the executor's sleep is between here and the thread's token.
            if !noted.woken.swap(false, Ordering::AcqRel) {
                return Poll::Pending;
            }
        }
    }))
}

struct Bell(Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // One ring that waits is as good as two.
        let _ = self.0.try_send(());
    }
}

/// What the future comes to, for as long as the call is wanted; then it is dropped.
pub(super) fn while_wanted<T>(cx: &CallCx, future: impl Future<Output = Result<T>>) -> Result<T> {
    let (bell, rung) = bounded(1);
    let _watch = cx.cancel.ring_on_cancel(&bell);
    let waker = Waker::from(Arc::new(Bell(bell)));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return answer;
        }
        cx.check()?;
        // Why it woke doesn't matter: what can have happened is looked at above.
        let _ = cx.clock().recv(&rung, cx.deadline());
    }
}
