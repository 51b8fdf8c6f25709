//! Inbox: how messages get to the core, and who does its work.
//!
//! Owner: the core lies on its desk. Whoever holds the desk's lock is the core for so long: its thread, or a thread of the
//! application that found it idle and does what it asks for itself, which takes less than having another thread woken.
//! Flow: a message goes to an inbox → a thread of the application takes the desk, if that is free, and handles what waits; else
//! it leaves the message to whoever is there, who looks again after leaving. The library's own threads ring for the core's.
//! Invariants:
//! 1. Messages are taken out of the inboxes under the desk's lock only, and urgent ones all wait in one inbox, so that none is
//!    overtaken by one that was sent after it (`what_is_done_on_the_spot_overtakes_nothing_that_waits`).
//! 2. Whoever leaves the desk looks whether an urgent message has come meanwhile, and handles it or rings for the core's thread;
//!    whoever has sent one looks for the desk afterwards. So none is left lying
//!    (`threads_that_take_turns_at_the_core_lose_nothing`).
//! 3. Whoever is the core has its rank, and so waits for nobody (`who_does_the_cores_work_has_its_rank`).
//! 4. The core's thread takes up what others leave: a bulk change, its closing, a panic, more messages than are fair.
//! 5. A closing doesn't wait for a full inbox beyond its time: the core's thread closes once it has worked that off
//!    (`a_closing_that_the_core_has_no_room_for_is_over_in_its_time_and_the_core_closes_later`).
//!
//! Close/panic: when the core has ended, or panicked on whatever thread, the desk is empty and the inboxes are swept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_channel::{Receiver, Select, Sender, TrySendError, bounded};
use parking_lot::{Mutex, MutexGuard};

use crate::dio::core::{Core, Message};
use crate::sync::{Deadline, Doorbell, QueueInfo, Rank, ReplySender, as_rank, catch_panic, on_own_thread};
use crate::{Error, ErrorKind, Result};

/// Messages waiting in the urgent inbox at the most; a sender waits for the core, which waits for nobody.
const URGENT: usize = 1_024;
/// Batches of many rows waiting at the most.
const BULK: usize = 2;
/// Messages that become one batch at the most.
const BURST: usize = 1_024;
/// Batches that a thread of the application handles at a time at the most, if others go on leaving messages.
const ROUNDS: usize = 4;

/// Where the core lies; empty before it has begun and after it has ended.
#[derive(Default)]
struct Desk(Mutex<Option<Box<Core>>>);

/// What others know of the core: the senders of its inboxes, and its desk.
#[derive(Clone)]
pub(crate) struct CoreHandle {
    urgent: Sender<Message>,
    bulk: Sender<Message>,
    /// Rung for the core's thread when something waits in the urgent inbox that nobody else will handle.
    work: Doorbell,
    bell: Doorbell,
    remains: Arc<Remains>,
    desk: Arc<Desk>,
}

/// The receivers of the core's inboxes. Its drop is the end of the core, and of every message that is left.
pub(crate) struct Inboxes {
    urgent: Receiver<Message>,
    bulk: Receiver<Message>,
    work: Doorbell,
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
    /// Whether an urgent message waits. To be asked by whoever has just left the desk: a sender that found him there leaves
    /// its message to him.
    fn has_urgent(&self) -> bool {
        // Pairs with the fence of the sender, in `swept`: he sees the message, or it the free desk.
        fence(Ordering::SeqCst);
        !self.urgent.is_empty()
    }

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
    let work = Doorbell::new();
    let handle = CoreHandle {
        urgent,
        bulk,
        work: work.clone(),
        bell: bell.clone(),
        remains: remains.clone(),
        desk: desk.clone(),
    };
    (handle, Inboxes { urgent: urgent_inbox, bulk: bulk_inbox, work, bell, remains, desk })
}

impl Core {
    /// Handles everything that waits, urgent before bulk.
    fn work(&mut self, inboxes: &Inboxes) {
        // One bulk change at a time; the next ones wait in their inbox.
        let takes_bulk = inboxes.urgent.is_empty() && !self.has_bulk();
        let bulk = if takes_bulk { inboxes.bulk.try_recv().ok() } else { None };
        self.handle_urgent(&inboxes.urgent);
        if let Some(bulk) = bulk {
            self.handle(bulk);
            self.handle_urgent(&inboxes.urgent);
        }
        self.commit();
        // Behind all that was there before it.
        if inboxes.remains.closes.load(Ordering::Acquire) && inboxes.urgent.is_empty() {
            self.handle(Message::Close { reply: None });
        }
        self.do_slice();
        if is_rung(&inboxes.bell) {
            self.sweep();
        }
    }

    /// Handles what waits in the urgent inbox.
    fn handle_urgent(&mut self, urgent: &Receiver<Message>) {
        urgent.try_iter().take(BURST).for_each(|message| self.handle(message));
    }

    /// The thread's loop: it sleeps until something waits, takes the desk, and handles everything that waits.
    pub(crate) fn run(self, inboxes: Inboxes) {
        let all = |with_bulk: bool| {
            let mut select = Select::new_biased();
            select.recv(inboxes.work.receiver());
            select.recv(inboxes.bell.receiver());
            if with_bulk {
                select.recv(&inboxes.bulk);
            }
            select
        };
        let (mut without_bulk, mut with_bulk) = (all(false), all(true));
        *inboxes.desk.0.lock() = Some(Box::new(self));
        loop {
            is_rung(&inboxes.work);
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
            if !goes_on && !inboxes.remains.has_urgent() {
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
        let sent = self.urgent.try_send(message).or_else(|error| match error {
            TrySendError::Full(message) => {
                self.work.ring();
                self.urgent.send(message).map_err(|_| ())
            }
            TrySendError::Disconnected(_) => Err(()),
        });
        self.work.ring();
        self.sent(sent.is_ok())
    }

    /// Sends a message of many rows; urgent ones overtake it.
    pub(crate) fn send_bulk(&self, message: Message) -> Result<()> {
        self.sent(self.bulk.send(message).is_ok())
    }

    /// Has the core close, behind what waits already. Says whether that is on its way; else a full inbox has left no room for
    /// it up to the deadline, and the core's thread will see to it without an answer.
    pub(crate) fn close(&self, reply: ReplySender<()>, deadline: Option<Deadline>) -> bool {
        let message = Message::Close { reply: Some(reply) };
        // A full inbox is to be worked off.
        self.work.ring();
        let sent = match deadline {
            Some(deadline) => self.urgent.send_deadline(message, deadline).is_ok(),
            None => self.urgent.send(message).is_ok(),
        };
        if !sent {
            self.remains.closes.store(true, Ordering::Release);
        }
        self.work.ring();
        !self.remains.swept() && sent
    }

    fn sent(&self, is_sent: bool) -> Result<()> {
        if is_sent && !self.remains.swept() { Ok(()) } else { Err(gone()) }
    }

    /// Sends a message of few rows, and has it handled here and now, with what waits before it, if nobody is at the core and
    /// this is a thread of the application; says whether it was handled. `rank` is the core's.
    pub(crate) fn do_now(&self, message: Message, rank: Rank) -> Result<bool> {
        if on_own_thread() {
            return self.send(message).map(|()| false);
        }
        match self.urgent.try_send(message) {
            Ok(()) => self.sent(true)?,
            Err(TrySendError::Full(message)) => return self.send(message).map(|()| false),
            Err(TrySendError::Disconnected(_)) => return Err(gone()),
        }
        // Others may leave theirs, as long as somebody is at the core.
        for _ in 0..ROUNDS {
            let Some(desk) = self.desk.0.try_lock() else { return Ok(false) };
            if !self.handle_here(desk, rank) {
                self.work.ring();
                return Ok(false);
            }
            if !self.remains.has_urgent() {
                return Ok(true);
            }
        }
        self.work.ring();
        Ok(true)
    }

    /// Handles what waits in the urgent inbox, if this desk's core has nothing else to do.
    fn handle_here(&self, mut desk: MutexGuard<'_, Option<Box<Core>>>, rank: Rank) -> bool {
        let Some(mut core) = desk.take_if(|core| !core.has_bulk() && !core.closed) else { return false };
        // A panic drops the core, as it would on its own thread.
        let work = move || {
            core.handle_urgent(&self.remains.urgent);
            core.commit();
            if is_rung(&self.bell) {
                core.sweep();
            }
            core
        };
        match as_rank(rank, || catch_panic("the core", work)) {
            Ok(core) => {
                // The core's thread may have been woken to close while this one was at the core.
                let is_left = core.has_bulk() || core.closed || self.remains.closes.load(Ordering::Acquire);
                *desk = Some(core);
                !is_left
            }
            Err(panic) => {
                // Whoever is told may ask for something, and wait for the core's end.
                drop(desk);
                tracing::error!(error = %panic, "the core ended in a panic");
                false
            }
        }
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
