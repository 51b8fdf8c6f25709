//! Executors: one test, run by each of four; and futures that a test polls by hand.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use diorama::AsyncLens;
use diorama::LensBuilder;
use futures_core::Stream;

use crate::limit::limited;

/// How long a test may take on one executor.
const TEST: Duration = Duration::from_secs(240);

/// Runs each of these async functions as a test on each executor.
macro_rules! on_every_executor {
    ($($test:ident),* $(,)?) => {
        on_every_executor!(@on tokio_multi_thread, $($test),*);
        on_every_executor!(@on tokio_current_thread, $($test),*);
        on_every_executor!(@on smol, $($test),*);
        on_every_executor!(@on block_on, $($test),*);
    };
    (@on $executor:ident, $($test:ident),*) => {
        mod $executor {
            $(#[test]
            fn $test() {
                crate::executors::$executor(super::$test);
            })*
        }
    };
}

pub(crate) fn tokio_multi_thread<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    limited(TEST, move || on_tokio(&runtime, test()));
}

pub(crate) fn tokio_current_thread<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    limited(TEST, move || {
        on_tokio(&tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(), test())
    });
}

fn on_tokio(runtime: &tokio::runtime::Runtime, test: impl Future<Output = ()> + Send + 'static) {
    if let Err(error) = runtime.block_on(runtime.spawn(test)) {
        resume_unwind(error.into_panic());
    }
}

pub(crate) fn smol<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    limited(TEST, move || smol::block_on(smol::spawn(test())));
}

/// The simplest there is.
pub(crate) fn block_on<F: Future<Output = ()> + Send + 'static>(test: fn() -> F) {
    limited(TEST, move || pollster::block_on(test()));
}

/// A future that has begun: it was polled, and goes on when it is awaited.
pub(crate) struct Begun<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    answer: Option<T>,
}

/// Polls the future once.
pub(crate) async fn begin<'a, T>(future: impl Future<Output = T> + Send + 'a) -> Begun<'a, T> {
    let mut begun = Begun { future: Box::pin(future), answer: None };
    begun.is_waiting().await;
    begun
}

impl<T> Begun<'_, T> {
    /// Polls it again, and says whether it still has no answer.
    pub(crate) async fn is_waiting(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(!self.poll_again(cx))).await
    }

    /// Polls it if it has no answer yet, and says whether it has one now.
    pub(crate) fn poll_again(&mut self, cx: &mut Context<'_>) -> bool {
        if self.answer.is_none()
            && let Poll::Ready(answer) = self.future.as_mut().poll(cx)
        {
            self.answer = Some(answer);
        }
        self.answer.is_some()
    }
}

impl<T> Unpin for Begun<'_, T> {}

impl<T> Future for Begun<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => self.future.as_mut().poll(cx),
        }
    }
}

/// Lets other tasks of this executor run.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Looks until something is so that nothing tells of.
pub(crate) async fn comes_true(what: &str, is_so: impl Fn() -> bool) {
    let clock = diorama::clock::Clock::system();
    let end = clock.now().after(crate::support::SOON);
    while !is_so() {
        assert!(clock.now() < end, "never: {what}");
        std::thread::yield_now();
        yield_now().await;
    }
}

/// The next item of a stream.
pub(crate) async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)).await
}

/// The next item of a stream, if it is there.
pub(crate) async fn try_next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|cx| match Pin::new(&mut *stream).poll_next(cx) {
        Poll::Ready(item) => Poll::Ready(item),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Counts how often it was woken.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// The Lens of these settings.
pub(crate) async fn lens(settings: LensBuilder) -> AsyncLens {
    AsyncLens::build(settings).await.unwrap()
}
