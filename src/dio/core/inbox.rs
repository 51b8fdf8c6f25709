//! Inbox: how messages get to the core, and who does its work.
//!
//! Owner: the core lies on its desk. Whoever holds the desk's lock is the core for so long: its thread, or a thread of the
//! application that found it idle and does what it asks for itself, which takes less than having another thread woken.
//! Flow: a message goes to an inbox → the core's thread wakes, takes the desk, then the message; or, while the desk is free,
//! the sender takes it, and handles what waits there and its own message on the spot.
//! Invariants:
//! 1. Messages are taken out of the inboxes under the desk's lock only, so that one that is handled on the spot overtakes
//!    none that was sent before it (`what_is_done_on_the_spot_overtakes_nothing_that_waits`).
//! 2. Whoever is the core has its rank, and so waits for nobody (`who_does_the_cores_work_has_its_rank`).
//! 3. The core's thread takes up what others leave: a bulk change, its closing, a panic.
//!
//! 4. A closing doesn't wait for a full inbox beyond its time: the core's thread closes once it has worked that off
//!    (`a_closing_that_the_core_has_no_room_for_is_over_in_its_time_and_the_core_closes_later`).
//!
//! Close/panic: when the core has ended, or panicked on whatever thread, the desk is empty and the inboxes are swept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Select, Sender, bounded};
use parking_lot::Mutex;

use crate::dio::core::{Core, Message};
use crate::sync::{Deadline, Doorbell, QueueInfo, Rank, ReplySender, as_rank, catch_panic, on_own_thread};
use crate::{Error, ErrorKind, Result};

/// Messages waiting in the urgent inbox at the most; a sender waits for the core, which waits for nobody.
const URGENT: usize = 1_024;
/// Batches of many rows waiting at the most.
const BULK: usize = 2;
/// Messages that become one batch at the most.
const BURST: usize = 1_024;

/// Where the core lies; empty before it has begun and after it has ended.
#[derive(Default)]
struct Desk(Mutex<Option<Box<Core>>>);

/// What others know of the core: the senders of its inboxes, and its desk.
#[derive(Clone)]
pub(crate) struct CoreHandle {
    urgent: Sender<Message>,
    bulk: Sender<Message>,
    bell: Doorbell,
    remains: Arc<Remains>,
    desk: Arc<Desk>,
}

/// The receivers of the core's inboxes. Its drop is the end of the core, and of every message that is left.
pub(crate) struct Inboxes {
    urgent: Receiver<Message>,
    bulk: Receiver<Message>,
    bell: Doorbell,
    remains: Arc<Remains>,
    desk: Arc<Desk>,
}

/// What is left of the inboxes when the core has ended. A channel keeps what nobody received for as long as it has a
/// sender, and with it the replies that somebody waits for: so the core, and then every later sender, empties it.
struct Remains {
    ended: AtomicBool,
    /// Whether the core is to close, though no message says so.
    closes: AtomicBool,
    urgent: Receiver<Message>,
    bulk: Receiver<Message>,
}

impl Remains {
    /// Drops every message if the core has ended; says whether it has.
    fn swept(&self) -> bool {
        // Pairs with the fence in the drop of `Inboxes`: the sender sees the end, or the core the message.
        fence(Ordering::SeqCst);
        let ended = self.ended.load(Ordering::Relaxed);
        if ended {
            while self.urgent.try_recv().is_ok() || self.bulk.try_recv().is_ok() {}
        }
        ended
    }
}

impl Drop for Inboxes {
    fn drop(&mut self) {
        // The core first: it tells its views, and whoever still waits for an answer hears of it by the sweeping.
        let core = self.desk.0.lock().take();
        drop(core);
        self.remains.ended.store(true, Ordering::Relaxed);
        self.remains.swept();
    }
}

pub(crate) fn inboxes(bell: Doorbell) -> (CoreHandle, Inboxes) {
    let (urgent, urgent_inbox) = bounded(URGENT);
    let (bulk, bulk_inbox) = bounded(BULK);
    let remains = Arc::new(Remains {
        ended: AtomicBool::new(false),
        closes: AtomicBool::new(false),
        urgent: urgent_inbox.clone(),
        bulk: bulk_inbox.clone(),
    });
    let desk = Arc::<Desk>::default();
    let handle = CoreHandle { urgent, bulk, bell: bell.clone(), remains: remains.clone(), desk: desk.clone() };
    (handle, Inboxes { urgent: urgent_inbox, bulk: bulk_inbox, bell, remains, desk })
}

impl Core {
    /// Handles everything that waits, urgent before bulk.
    fn work(&mut self, inboxes: &Inboxes) {
        // One bulk change at a time; the next ones wait in their inbox.
        let takes_bulk = inboxes.urgent.is_empty() && !self.has_bulk();
        let bulk = if takes_bulk { inboxes.bulk.try_recv().ok() } else { None };
        self.handle_all(&inboxes.urgent, bulk);
        // Behind all that was there before it.
        if inboxes.remains.closes.load(Ordering::Acquire) && inboxes.urgent.is_empty() {
            self.handle(Message::Close { reply: None });
        }
        self.do_slice();
        if is_rung(&inboxes.bell) {
            self.sweep();
        }
    }

    /// Handles what waits in the urgent inbox, and one message that is not in it behind that, as one batch.
    fn handle_all(&mut self, urgent: &Receiver<Message>, last: Option<Message>) {
        let mut handled = 0;
        let mut handle_urgent = |core: &mut Core| {
            while handled < BURST
                && let Ok(message) = urgent.try_recv()
            {
                core.handle(message);
                handled += 1;
            }
        };
        handle_urgent(self);
        if let Some(message) = last {
            self.handle(message);
            handle_urgent(self);
        }
        self.commit();
    }

    /// The thread's loop: it sleeps until something waits, takes the desk, and handles everything that waits.
    pub(crate) fn run(self, inboxes: Inboxes) {
        let all = |with_bulk: bool| {
            let mut select = Select::new_biased();
            select.recv(&inboxes.urgent);
            select.recv(inboxes.bell.receiver());
            if with_bulk {
                select.recv(&inboxes.bulk);
            }
            select
        };
        let (mut without_bulk, mut with_bulk) = (all(false), all(true));
        *inboxes.desk.0.lock() = Some(Box::new(self));
        loop {
            let mut desk = inboxes.desk.0.lock();
            // Gone: another thread panicked at it. Off the desk, so that a panic here leaves nobody half a core.
            let Some(mut core) = desk.take() else { return };
            core.work(&inboxes);
            if core.closed {
                return;
            }
            let (goes_on, takes_bulk) = (core.has_slice(), !core.has_bulk());
            *desk = Some(core);
            drop(desk);
            if !goes_on {
                if takes_bulk {
                    with_bulk.ready()
                } else {
                    without_bulk.ready()
                };
            }
        }
    }
}

impl CoreHandle {
    /// Sends a message of few rows. Waits only while a full inbox is being worked off.
    pub(crate) fn send(&self, message: Message) -> Result<()> {
        self.send_to(&self.urgent, message)
    }

    /// Sends a message of many rows; urgent ones overtake it.
    pub(crate) fn send_bulk(&self, message: Message) -> Result<()> {
        self.send_to(&self.bulk, message)
    }

    /// Has the core close, behind what waits already. Says whether that is on its way; else a full inbox has left no room for
    /// it up to the deadline, and the core's thread will see to it without an answer.
    pub(crate) fn close(&self, reply: ReplySender<()>, deadline: Option<Deadline>) -> bool {
        let message = Message::Close { reply: Some(reply) };
        let sent = match deadline {
            Some(deadline) => self.urgent.send_deadline(message, deadline).is_ok(),
            None => self.urgent.send(message).is_ok(),
        };
        if !sent {
            self.remains.closes.store(true, Ordering::Release);
            self.bell.ring();
        }
        !self.remains.swept() && sent
    }

    fn send_to(&self, inbox: &Sender<Message>, message: Message) -> Result<()> {
        match inbox.send(message) {
            Ok(()) if !self.remains.swept() => Ok(()),
            _ => Err(gone()),
        }
    }

    /// Has a message of few rows handled here and now, behind those that wait, if nobody is at the core and this is a thread of
    /// the application; gives it back else. `rank` is the core's.
    pub(crate) fn do_now(&self, message: Message, rank: Rank) -> Option<Message> {
        if on_own_thread() {
            return Some(message);
        }
        let Some(mut desk) = self.desk.0.try_lock() else { return Some(message) };
        let Some(mut core) = desk.take_if(|core| !core.has_bulk() && !core.closed) else { return Some(message) };
        // A panic drops the core, as it would on its own thread.
        let work = move || {
            core.handle_all(&self.remains.urgent, Some(message));
            if is_rung(&self.bell) {
                core.sweep();
            }
            core
        };
        match as_rank(rank, || catch_panic("the core", work)) {
            Ok(core) => {
                // The bell may have been that of a closing.
                let is_left = core.has_bulk() || core.closed || self.remains.closes.load(Ordering::Acquire);
                *desk = Some(core);
                if is_left {
                    self.bell.ring();
                }
            }
            Err(panic) => {
                self.bell.ring();
                // Whoever is told may ask for something, and wait for the core's end.
                drop(desk);
                tracing::error!(error = %panic, "the core ended in a panic");
            }
        }
        None
    }

    /// Whether nobody handles messages any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.remains.ended.load(Ordering::Acquire)
    }

    pub(crate) fn bell(&self) -> &Doorbell {
        &self.bell
    }

    /// Messages waiting.
    pub(crate) fn waiting(&self) -> usize {
        self.urgent.len() + self.bulk.len()
    }

    /// Its inboxes.
    pub(crate) fn queues(&self) -> [QueueInfo; 2] {
        [("core: urgent", &self.urgent), ("core: bulk", &self.bulk)].map(|(name, inbox)| QueueInfo {
            name: name.to_owned(),
            length: inbox.len(),
            capacity: inbox.capacity(),
        })
    }
}

/// Answers the bell.
fn is_rung(bell: &Doorbell) -> bool {
    bell.receiver().try_recv().is_ok()
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "the Dio is closed")
}

#[cfg(test)]
mod tests;
