//! Call context: what every call to a source carries: whether it is still wanted, until when, and which attempt it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use parking_lot::Mutex;

#[cfg(feature = "async")]
use crate::async_shim::runtime::Runtime;
use crate::clock::{Clock, Moment};
use crate::value::Record;
use crate::{Error, ErrorKind, Result};

/// A flag that says «nobody wants the answer any more». Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<Cancel>);

#[derive(Debug, Default)]
struct Cancel {
    cancelled: AtomicBool,
    bells: Mutex<Vec<(u64, Bell)>>,
    next_bell: AtomicU64,
}

/// How who waits for the token is told.
#[derive(Debug)]
enum Bell {
    Channel(Sender<()>),
    /// Of this library's: it runs no executor's code.
    #[cfg(feature = "async")]
    Task(std::task::Waker),
}

impl Bell {
    fn ring(&self) {
        match self {
            Bell::Channel(bell) => {
                let _ = bell.try_send(());
            }
            #[cfg(feature = "async")]
            Bell::Task(task) => task.wake_by_ref(),
        }
    }
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels every clone of this token and rings the bells that wait for it. Never blocks.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        let bells = std::mem::take(&mut *self.0.bells.lock());
        for (_, bell) in bells {
            bell.ring();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Rings `bell` (one `try_send`) when the token is cancelled, at once if it is already: so a source that waits on a
    /// channel of its own wakes without polling. Dropping the answer takes the bell off.
    ///
    /// ```
    /// use diorama::vista::CancelToken;
    ///
    /// let token = CancelToken::new();
    /// let (bell, rung) = crossbeam_channel::bounded(1);
    /// let _watch = token.ring_on_cancel(&bell);
    /// token.clone().cancel();
    /// assert!(rung.try_recv().is_ok());
    /// ```
    pub fn ring_on_cancel(&self, bell: &Sender<()>) -> CancelWatch {
        self.watch(Bell::Channel(bell.clone()))
    }

    /// Wakes the driver of a future when the token is cancelled, at once if it is already.
    #[cfg(feature = "async")]
    pub(crate) fn wake_on_cancel(&self, driver: &std::task::Waker) -> CancelWatch {
        self.watch(Bell::Task(driver.clone()))
    }

    fn watch(&self, bell: Bell) -> CancelWatch {
        let id = self.0.next_bell.fetch_add(1, Ordering::Relaxed);
        let mut bells = self.0.bells.lock();
        // `cancel` sets the flag before it takes the bells: either it is seen here or the bell is seen there.
        if self.is_cancelled() {
            bell.ring();
        } else {
            bells.push((id, bell));
        }
        drop(bells);
        CancelWatch { cancel: self.0.clone(), id }
    }
}

/// Keeps a bell on a [`CancelToken`] until it is dropped.
#[derive(Debug)]
#[must_use = "the bell is taken off when this is dropped"]
pub struct CancelWatch {
    cancel: Arc<Cancel>,
    id: u64,
}

impl Drop for CancelWatch {
    fn drop(&mut self) {
        self.cancel.bells.lock().retain(|(id, _)| *id != self.id);
    }
}

/// What a call to a source carries.
///
/// A driver looks at [`check`](Self::check) before it starts and between steps, and hands
/// [`remaining`](Self::remaining) to whatever time-out its client library takes.
///
/// ```
/// use std::time::Duration;
/// use diorama::vista::CallCx;
///
/// let cx = CallCx::new().deadline_in(Duration::from_secs(5)).with_idempotency_key("op-17");
/// assert!(cx.check().is_ok());
/// cx.cancel.cancel();
/// assert!(cx.check().is_err());
/// ```
#[derive(Debug, Clone)]
pub struct CallCx {
    /// Set when the answer is not wanted any more.
    pub cancel: CancelToken,
    deadline: Option<Moment>,
    clock: Clock,
    idempotency_key: Option<Arc<str>>,
    attempt: u32,
    before: Option<Arc<Record>>,
    /// In whose context an async source makes the call, if it was given none itself.
    #[cfg(feature = "async")]
    runtime: Runtime,
}

impl Default for CallCx {
    fn default() -> Self {
        Self::new()
    }
}

impl CallCx {
    /// A context without a deadline, on the system's clock, for a first attempt.
    pub fn new() -> Self {
        Self::on(Clock::system())
    }

    /// The same on a given clock.
    pub fn on(clock: Clock) -> Self {
        CallCx {
            cancel: CancelToken::new(),
            deadline: None,
            clock,
            idempotency_key: None,
            attempt: 1,
            before: None,
            #[cfg(feature = "async")]
            runtime: Runtime::default(),
        }
    }

    /// The call is to end within `after`.
    #[must_use]
    pub fn deadline_in(mut self, after: Duration) -> Self {
        self.deadline = Some(self.clock.now().after(after));
        self
    }

    /// The key under which a source that keeps keys answers a repeated write with its first answer.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Which attempt this is, counted from 1.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// The row as the writer knew it. A source that [compares](crate::vista::Capabilities::compares) refuses the write with
    /// `Conflict` when its row is another one.
    #[must_use]
    pub fn with_before(mut self, before: Option<Record>) -> Self {
        self.before = before.map(Arc::new);
        self
    }

    /// The row as the writer knew it, for a write of a row that was known.
    pub fn before(&self) -> Option<&Record> {
        self.before.as_deref()
    }

    /// The token that cancels this call.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    #[cfg(feature = "async")]
    pub(crate) fn in_runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    #[cfg(feature = "async")]
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The idempotency key of a write; `None` for reads.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    /// Which attempt this is, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The time left, zero when it is over; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.since(self.clock.now()))
    }

    /// The moment on [`clock`](Self::clock) at which the call is to end; `None` without a deadline.
    pub fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// The clock that deadlines are told on.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the call should go on.
    ///
    /// # Errors
    /// `Cancelled` when the token was cancelled, `Timeout` when the deadline has passed.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the call was cancelled"));
        }
        if self.remaining().is_some_and(|left| left.is_zero()) {
            return Err(Error::new(ErrorKind::Timeout, "the call's deadline has passed"));
        }
        Ok(())
    }
}
