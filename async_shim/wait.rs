//! Wait: waiting without a thread for what a blocking call would wait for, on the same notifiers.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use crate::sync::{Notifier, Reaching};
use crate::{ErrorKind, Result};

/// What `look` says once `notifier` has reached `at_least`, or is closed. `look` is the blocking call, given no time: it says
/// `Timeout` while there is nothing to say, and what is wrong with waiting here at all.
pub(super) async fn wait<T>(notifier: &Notifier, at_least: u64, look: impl Fn() -> Result<T>) -> Result<T> {
    match look() {
        Err(error) if error.kind() == ErrorKind::Timeout => {
            notifier.reached(at_least).await;
            look()
        }
        answer => answer,
    }
}

/// Until one of them has come to its end.
pub(super) async fn any(waits: Vec<Reaching>) {
    let mut waits = pin!(waits);
    poll_fn(|cx| {
        let mut is_over = waits.is_empty();
        for wait in waits.iter_mut() {
            is_over |= pin!(wait).poll(cx).is_ready();
        }
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
