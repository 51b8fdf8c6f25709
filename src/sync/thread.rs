//! Threads: starting, naming, ranking and joining the library's threads, and the fence around user code.
//!
//! Invariants:
//! 1. A thread of the library waits only for threads of lower rank (`only_a_lower_rank_may_be_waited_for`).
//! 2. A worker's end is signalled however it ends, a panic included (`a_panicking_worker_is_still_joined`), and after its
//!    name has left the list of live threads (`live_threads_lists_a_worker_until_it_is_joined`).
//! 3. A panic of user code becomes an error of the one operation (`a_panic_of_user_code_becomes_an_error`).

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::notifier::{Notifier, Waited};
use super::prims::{Deadline, time_left};
use crate::error::{Error, ErrorKind, Result};

/// What a thread is for; it orders the threads of one Dio by who may wait for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Core,
    Store,
    Build,
    Load,
    Refresh,
    Writer,
}

impl Role {
    fn number(self) -> u32 {
        match self {
            Role::Core | Role::Store => 0,
            Role::Build | Role::Load => 1,
            Role::Refresh => 2,
            Role::Writer => 3,
        }
    }
}

/// A thread's place in the waiting order: it may wait for threads of lower rank only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(u32);

impl Rank {
    /// The rank of a thread of this role in a Dio with `level` Dios stacked below it.
    pub(crate) fn new(level: u32, role: Role) -> Self {
        Rank(level.saturating_mul(16).saturating_add(role.number()))
    }

    /// Above every Dio: for a thread that nobody ever waits for.
    pub(crate) fn above_all() -> Self {
        Rank(u32::MAX)
    }
}

thread_local! {
    static CURRENT_RANK: Cell<Option<Rank>> = const { Cell::new(None) };
    static CURRENT_ACTIVITY: RefCell<Option<Arc<Activity>>> = const { RefCell::new(None) };
}

/// What user code a thread is in.
#[derive(Default)]
struct Activity(Mutex<Option<(&'static str, Instant)>>);

/// Notes that this thread of the library is in user code until it is dropped.
struct InUserCode {
    activity: Option<Arc<Activity>>,
    outer: Option<(&'static str, Instant)>,
}

impl InUserCode {
    #[expect(clippy::disallowed_methods, reason = "how long a call has really taken, whatever clock the Lens has")]
    fn enter(what: &'static str) -> Self {
        // A thread of the application that ends, and calls as it lets go of its own, has none any more.
        let activity = CURRENT_ACTIVITY.try_with(|activity| activity.borrow().clone()).ok().flatten();
        let outer = activity.as_ref().and_then(|activity| activity.0.lock().replace((what, Instant::now())));
        InUserCode { activity, outer }
    }
}

impl Drop for InUserCode {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            *activity.0.lock() = self.outer;
        }
    }
}

/// A queue between two threads, as [`Dio::diagnostics`](crate::Dio::diagnostics) shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueInfo {
    /// What waits in it for whom.
    pub name: String,
    /// How much waits now.
    pub length: usize,
    /// How much may wait; `None` when it is bounded otherwise.
    pub capacity: Option<usize>,
}

/// A thread of the library, as [`Dio::diagnostics`](crate::Dio::diagnostics) shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadInfo {
    /// Its name: the table's, or the Lens's, and what it does.
    pub name: String,
    /// Whether its work is over.
    pub finished: bool,
    /// The code that is not the library's which it is in (the source, a callback, a cache backend, a hook), and since when.
    /// `None`: it works on its own, or waits for work.
    pub inside: Option<(&'static str, Duration)>,
}

/// Whether the caller runs on a thread of the library.
pub(crate) fn on_own_thread() -> bool {
    CURRENT_RANK.get().is_some()
}

/// Runs work on this thread of the library with another rank: a pool's thread works for one Dio after another.
pub(crate) fn as_rank<T>(rank: Rank, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Rank>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT_RANK.set(self.0);
        }
    }
    let _restore = Restore(CURRENT_RANK.replace(Some(rank)));
    work()
}

/// Whether the current thread may wait for a thread of this rank; `what` ends the sentence "wait for …".
///
/// An application's thread always may. [`ErrorKind::WouldDeadlock`] names the thread and what it wanted.
pub(crate) fn may_wait_for(rank: Rank, what: &str) -> Result<()> {
    match CURRENT_RANK.get() {
        None => Ok(()),
        Some(current) if current > rank => Ok(()),
        Some(_) => {
            let thread = std::thread::current();
            let message = format!(
                "this thread may not wait for {what}: that may be waiting for it; \
                 wait on a thread of the application, or don't wait here"
            );
            Err(Error::new(ErrorKind::WouldDeadlock, message).with("thread", thread.name().unwrap_or("unnamed")))
        }
    }
}

/// Names of the library's threads in this process that have been started and have not ended, in the order of their starts.
/// (The threads of the `bus` crate, one for each Dio with event readers, are not among them.)
pub fn live_threads() -> Vec<String> {
    LIVE.lock().iter().map(|(_, name)| name.clone()).collect()
}

static LIVE: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

struct LiveEntry {
    key: u64,
}

impl LiveEntry {
    fn add(name: &str) -> Self {
        let mut live = LIVE.lock();
        let key = live.last().map_or(0, |(key, _)| key + 1);
        live.push((key, name.to_owned()));
        LiveEntry { key }
    }
}

impl Drop for LiveEntry {
    fn drop(&mut self) {
        LIVE.lock().retain(|(key, _)| *key != self.key);
    }
}

/// Lives in the worker's thread; its drop is the worker's last word.
struct EndSignal {
    ended: Notifier,
    live: Option<LiveEntry>,
}

impl Drop for EndSignal {
    fn drop(&mut self) {
        self.live = None;
        self.ended.advance_to(1);
    }
}

/// A started thread. Dropping it detaches the thread; [`join_until`](Worker::join_until) waits for its end.
pub(crate) struct Worker {
    name: String,
    activity: Arc<Activity>,
    /// 1 once its work is over.
    ended: Notifier,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).field("finished", &self.is_finished()).finish()
    }
}

impl Worker {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it is doing.
    pub(crate) fn info(&self) -> ThreadInfo {
        let inside = self.activity.0.lock().map(|(what, since)| (what, since.elapsed()));
        ThreadInfo { name: self.name.clone(), finished: self.is_finished(), inside }
    }

    /// Whether its work is over, by return or by panic.
    pub(crate) fn is_finished(&self) -> bool {
        self.ended.get() > 0
    }

    /// 1 once its work is over and its name has left the list of live threads.
    #[cfg(feature = "async")]
    pub(crate) fn ended(&self) -> &Notifier {
        &self.ended
    }

    /// Waits until the thread has ended or the deadline is over; says whether it has ended.
    ///
    /// On the worker's own thread it returns false at once. Any other wait of a thread of the library is for the caller
    /// to justify with [`may_wait_for`].
    pub(crate) fn join_until(&self, deadline: Deadline) -> bool {
        if self.handle.lock().as_ref().is_some_and(|handle| handle.thread().id() == std::thread::current().id()) {
            return false;
        }
        if !matches!(self.ended.wait_until(1, Some(time_left(deadline))), Waited::Reached(_)) {
            return false;
        }
        let handle = self.handle.lock().take();
        if let Some(handle) = handle {
            // A panic was caught and logged inside; what is left of the thread is its exit.
            let _ = handle.join();
        }
        true
    }
}

/// Starts a thread of the library. Fails with [`ErrorKind::Unavailable`] when the system gives no thread.
///
/// A panic that escapes `work` is caught and logged; it ends the worker like a return.
pub(crate) fn spawn(name: String, rank: Rank, work: impl FnOnce() + Send + 'static) -> Result<Worker> {
    let ended = Notifier::new(0);
    let end = EndSignal { ended: ended.clone(), live: Some(LiveEntry::add(&name)) };
    let activity = Arc::new(Activity::default());
    let current = activity.clone();
    let run = move || {
        let _end = end;
        CURRENT_RANK.set(Some(rank));
        CURRENT_ACTIVITY.set(Some(current));
        if let Err(panic) = catch_panic("a worker thread", work) {
            let thread = std::thread::current();
            tracing::error!(thread = thread.name().unwrap_or("unnamed"), error = %panic, "a worker thread ended in a panic");
        }
    };
    // The system's name for a thread can't hold a NUL; a table's name can.
    let started = std::thread::Builder::new().name(name.replace('\0', "\u{2400}")).spawn(run);
    match started {
        Ok(handle) => Ok(Worker { name, activity, ended, handle: Mutex::new(Some(handle)) }),
        Err(cause) => {
            Err(Error::new(ErrorKind::Unavailable, "the system gave no new thread; close something and retry")
                .with("thread", name)
                .with_source(cause))
        }
    }
}

/// Runs user code; a panic becomes [`ErrorKind::Panicked`] with the panic's text. `what` begins the sentence "… panicked".
pub(crate) fn catch_user<T>(what: &'static str, user_code: impl FnOnce() -> T) -> Result<T> {
    let _inside = InUserCode::enter(what);
    catch_panic(what, user_code)
}

/// Runs work of the library's own; a panic becomes an error, as of user code.
pub(crate) fn catch_panic<T>(what: &str, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = if let Some(text) = payload.downcast_ref::<&'static str>() {
            (*text).to_owned()
        } else if let Some(text) = payload.downcast_ref::<String>() {
            text.clone()
        } else {
            "no text".to_owned()
        };
        // The payload is the user's too, and so is its drop.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(payload)));
        Error::new(ErrorKind::Panicked, format!("{what} panicked: {text}"))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::sync::deadline_after;

    fn soon() -> Deadline {
        deadline_after(Duration::from_secs(60)).unwrap()
    }

    /// Runs `check` on a thread of that rank.
    fn on_rank<T: Send + 'static>(rank: Rank, check: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = bounded(1);
        let worker = spawn("check:rank".into(), rank, move || sender.send(check()).unwrap()).unwrap();
        assert!(worker.join_until(soon()));
        receiver.recv().unwrap()
    }

    #[test]
    fn only_a_lower_rank_may_be_waited_for() {
        use Role::{Build, Core, Load, Refresh, Store, Writer};
        let rising = [&[Core, Store][..], &[Build, Load], &[Refresh], &[Writer]];
        let ranked: Vec<(usize, Rank)> = (0..3)
            .flat_map(|level| rising.iter().enumerate().map(move |step| (level, step)))
            .flat_map(|(level, (step, roles))| {
                roles.iter().map(move |role| (level * 10 + step, Rank::new(level as u32, *role)))
            })
            .collect();
        for &(place, rank) in &ranked {
            let others = ranked.clone();
            on_rank(rank, move || {
                for (other_place, other) in others {
                    assert_eq!(may_wait_for(other, "it").is_ok(), place > other_place);
                }
            });
        }
        assert!(Rank::above_all() > Rank::new(1_000, Writer));
        assert_eq!(Rank::new(u32::MAX, Core), Rank::above_all());
    }

    #[test]
    fn a_thread_of_the_application_may_wait_for_anyone() {
        assert!(!on_own_thread());
        assert!(may_wait_for(Rank::above_all(), "anything").is_ok());
        assert!(on_rank(Rank::new(0, Role::Core), on_own_thread));
    }

    #[test]
    fn a_refused_wait_names_the_thread_and_what_it_wanted() {
        let error =
            on_rank(Rank::new(0, Role::Load), || may_wait_for(Rank::new(0, Role::Writer), "a ticket").unwrap_err());
        assert_eq!(error.kind(), ErrorKind::WouldDeadlock);
        assert_eq!(error.context("thread"), Some("check:rank"));
        assert!(error.message().contains("wait for a ticket"), "{error}");
    }

    #[test]
    fn a_panicking_worker_is_still_joined() {
        let worker = spawn("panics:core".into(), Rank::new(0, Role::Core), || panic!("on purpose")).unwrap();
        assert!(worker.join_until(soon()));
        assert!(worker.is_finished());
        assert!(worker.join_until(soon()), "joining twice is fine");
    }

    #[test]
    fn live_threads_lists_a_worker_until_it_is_joined() {
        let listed = || live_threads().iter().any(|name| name == "odd\0name:core");
        let (release, released) = bounded::<()>(0);
        let worker = spawn("odd\0name:core".into(), Rank::new(0, Role::Core), move || {
            let _ = released.recv();
        })
        .unwrap();
        assert_eq!(worker.name(), "odd\0name:core");
        assert!(listed());
        assert!(!worker.is_finished());
        assert!(!worker.join_until(deadline_after(Duration::ZERO).unwrap()), "it still runs");
        drop(release);
        assert!(worker.join_until(soon()));
        assert!(!listed());
    }

    #[test]
    fn a_worker_does_not_join_itself() {
        let (give, given) = bounded::<Worker>(1);
        let (answer, answers) = bounded(1);
        let worker = spawn("self:core".into(), Rank::new(0, Role::Core), move || {
            let me = given.recv().unwrap();
            answer.send(me.join_until(soon())).unwrap();
        })
        .unwrap();
        give.send(worker).unwrap();
        assert_eq!(answers.recv(), Ok(false));
    }

    #[test]
    fn a_thread_that_ends_may_call_user_code_as_it_lets_go_of_its_own() {
        struct CallsWhenDropped(crossbeam_channel::Sender<Result<u8>>);
        impl Drop for CallsWhenDropped {
            fn drop(&mut self) {
                self.0.send(catch_user("the callback", || 7)).unwrap();
            }
        }
        thread_local!(static OWN: RefCell<Option<CallsWhenDropped>> = const { RefCell::new(None) });
        let (sender, receiver) = bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                OWN.set(Some(CallsWhenDropped(sender)));
                // What this leaves with the thread is let go of before what it had already.
                catch_user("the callback", || ()).unwrap();
            });
        });
        assert_eq!(receiver.recv().unwrap().unwrap(), 7);
    }

    #[test]
    fn a_panic_of_user_code_becomes_an_error() {
        struct PanicsWhenDropped;
        impl Drop for PanicsWhenDropped {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(catch_user("the callback", || 7).unwrap(), 7);
        let check = |user_code: fn(), expected: &str| {
            let error = catch_user("the callback", user_code).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Panicked);
            assert_eq!(error.message(), expected);
        };
        check(|| panic!("plain"), "the callback panicked: plain");
        check(|| panic!("row {}", 5), "the callback panicked: row 5");
        check(|| std::panic::panic_any(PanicsWhenDropped), "the callback panicked: no text");
    }
}
