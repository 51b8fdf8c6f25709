//! Refresher: the first copy of the source, and its repetition when asked or due.
//!
//! Owner: the thread `<table>:refresh`.
//! Flow: `refresh()` joins the flight under way or starts one → the callback or a copy of the source → one batch to the
//! core → everyone in the flight gets its result. With `on_query` it asks again for what the open views want (`queries`).
//! Invariants: one refresh runs at a time, and those who ask meanwhile get its result
//! (`two_refreshes_at_once_run_once`); a failed one keeps the rows and backs off; what must be read anew is not taken from a
//! flight that began before (`w10_what_a_delete_all_kept_off_is_read_again_after_a_refresh_that_began_before`).
//! Close/panic: closing drops the inbox's sender; flights that have not begun end as `Closed`, and when the time for what is
//! under way is over, whoever waits for one that has begun is told the same.

use std::sync::Arc;
use std::thread::ThreadId;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::Result;
use crate::clock::Received;
use crate::dio::callback;
use crate::dio::core::Announce;
use crate::dio::event::{Cause, DioEvent};
use crate::dio::flight::{Flight, closed};
use crate::dio::reconcile::reconcile;
use crate::dio::schedule::Schedule;
use crate::dio::{DioInner, WeakDio};

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Start,
    Refresh,
}

struct Desk {
    inbox: Option<Sender<(Kind, Arc<Flight>)>>,
    current: Option<Arc<Flight>>,
    /// Something was invalidated after the current flight had begun to read: another is to follow it.
    again: bool,
    /// The refresher's own thread, once it runs.
    thread: Option<ThreadId>,
}

/// Where refreshes are asked for.
pub(crate) struct Refresher {
    desk: Mutex<Desk>,
}

pub(crate) struct RefreshInbox(Receiver<(Kind, Arc<Flight>)>);

impl Refresher {
    pub(crate) fn new() -> (Self, RefreshInbox) {
        // One flight is asked for at a time; the second place is for the one after the start.
        let (sender, receiver) = bounded(2);
        (
            Refresher { desk: Mutex::new(Desk { inbox: Some(sender), current: None, again: false, thread: None }) },
            RefreshInbox(receiver),
        )
    }

    /// The first copy.
    pub(crate) fn start(&self) -> Result<Arc<Flight>> {
        self.ask(Kind::Start)
    }

    /// The refresh under way, or a new one.
    pub(crate) fn refresh(&self) -> Result<Arc<Flight>> {
        self.ask(Kind::Refresh)
    }

    fn ask(&self, kind: Kind) -> Result<Arc<Flight>> {
        let mut desk = self.desk.lock();
        if let Some(flight) = &desk.current {
            return Ok(flight.clone());
        }
        let flight = Flight::new();
        match &desk.inbox {
            Some(inbox) if inbox.try_send((kind, flight.clone())).is_ok() => {
                desk.current = Some(flight.clone());
                Ok(flight)
            }
            _ => Err(closed()),
        }
    }

    /// A flight that is due by the schedule; `None` when one is asked for already.
    fn due(&self) -> Option<Arc<Flight>> {
        let mut desk = self.desk.lock();
        if desk.current.is_some() {
            return None;
        }
        let flight = Flight::new();
        desk.current = Some(flight.clone());
        Some(flight)
    }

    /// Asks for a refresh that begins from now on, and waits for none. One that invalidates what it has just read itself is
    /// not repeated.
    pub(crate) fn refresh_anew(&self) -> Result<()> {
        let mut desk = self.desk.lock();
        if desk.current.is_some() {
            desk.again |= desk.thread != Some(std::thread::current().id());
            return Ok(());
        }
        drop(desk);
        self.refresh().map(drop)
    }

    fn ended(&self) {
        let mut desk = self.desk.lock();
        desk.current = None;
        if std::mem::take(&mut desk.again) {
            drop(desk);
            // Closed: nothing is to be refreshed any more.
            let _ = self.refresh();
        }
    }

    /// Takes no more flights; the one under way goes on, one that waits ends as `Closed`.
    pub(crate) fn hang_up(&self) {
        self.desk.lock().inbox = None;
    }

    /// Whoever waits for the flight under way gets `Closed`: the source may never come back.
    pub(crate) fn give_up(&self) {
        let current = self.desk.lock().current.clone();
        if let Some(flight) = current {
            flight.end(Err(closed()));
        }
    }
}

/// The refresher's thread.
pub(crate) fn run(dio: &Arc<DioInner>, handle: &WeakDio, inbox: &RefreshInbox) {
    dio.refresher.desk.lock().thread = Some(std::thread::current().id());
    let clock = dio.clock().clone();
    let mut schedule = Schedule::new(dio.lens.defaults.refresh_every, clock.now());
    loop {
        let (kind, flight) = match clock.recv(&inbox.0, schedule.due()) {
            Received::Message(asked) => asked,
            Received::Due => match dio.refresher.due() {
                Some(flight) => (Kind::Refresh, flight),
                None => continue,
            },
            Received::Disconnected => return,
        };
        let result = if dio.is_open() { fly(dio, handle, kind) } else { Err(closed()) };
        schedule.ended(clock.now(), result.is_ok());
        // Who asks from here on gets a new flight, for the source may have changed since this one read it.
        dio.refresher.ended();
        flight.end(result);
    }
}

fn fly(dio: &Arc<DioInner>, handle: &WeakDio, kind: Kind) -> Result<()> {
    let _span = tracing::debug_span!("refresh", table = %dio.name).entered();
    dio.board.refresh_began();
    dio.events.publish(DioEvent::Refreshing { seq: dio.published() });
    let result = dio.catch_up().and_then(|()| refresh_once(dio, handle, kind));
    let result = result.map_err(|error| error.with("table", dio.name.to_string()));
    dio.board.refresh_ended(result.clone());
    let seq = dio.published();
    match &result {
        Ok(()) => {
            tracing::debug!(seq = seq.0, rows = dio.board.rows(), "refreshed");
            dio.events.publish(DioEvent::Refreshed { seq });
        }
        Err(error) => {
            tracing::warn!(table = %dio.name, %error, "a refresh failed; the rows stay as they are");
            dio.events.publish(DioEvent::RefreshFailed { seq, error: error.clone() });
            dio.events.publish(DioEvent::StatusChanged { seq });
        }
    }
    result
}

fn refresh_once(dio: &Arc<DioInner>, handle: &WeakDio, kind: Kind) -> Result<()> {
    // What was marked as stale before is marked by now: the read begins after it, and so makes it fresh.
    dio.change(Vec::new(), Cause::Refresh, Announce::Nothing, None)?;
    let callbacks = &dio.lens.callbacks;
    let (what, callback) = match (kind, &callbacks.on_start, &callbacks.on_refresh, &dio.queries) {
        (Kind::Start, Some(on_start), ..) => ("on_start", on_start),
        (_, _, Some(on_refresh), _) => ("on_refresh", on_refresh),
        (.., Some(queries)) => return dio.ask_again(queries),
        _ => return copy_source(dio),
    };
    let Some(strong) = handle.upgrade() else { return Err(closed()) };
    let ((), batch) = callback::run(dio, what, || callback(&strong))?;
    // The last handle may be this one: it must not be dropped before the batch is in.
    let applied = match batch {
        Some(batch) => {
            // Where rows come query by query, some rows are not all: only who says which there are has copied the whole.
            let full_copy = dio.queries.is_none() || batch.cleared;
            dio.apply_callback(batch, Cause::Refresh, Announce::Nothing, full_copy).map(drop)
        }
        None => Ok(()),
    };
    drop(strong);
    applied
}

/// What happens without callbacks: the source's rows become the cache's.
fn copy_source(dio: &Arc<DioInner>) -> Result<()> {
    let read = dio.begin_read();
    let rows = dio.read_source(|master, cx| master.list(cx))?;
    reconcile(dio, read.began(), rows, Cause::Refresh, Announce::Nothing, true).map(drop)
}

#[cfg(test)]
mod tests;
