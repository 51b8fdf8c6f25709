//! Event hub: every event to every subscriber in order, from a publisher that waits for none of them.
//!
//! Owner: anyone may publish, one at a time (under the hub's lock, which is held for no wait); each reader belongs to
//! its subscriber.
//! Flow: publish → the ring of a `bus::Bus` → each reader takes what is there; who found nothing sleeps on a Condvar
//! (`recv`) or on its doorbell (`select!`), never on the bus.
//! Invariants:
//! 1. A reader sees every event after its subscription in order, or `Lagged` with the exact number missed
//!    (`readers_see_every_event_in_order_or_the_exact_count_missed`).
//! 2. A full ring never stops the publisher: a fresh bus takes over. A reader that is late drains its old ring and moves
//!    on without loss; one that is a whole further ring behind is left until it comes back, and costs nothing meanwhile
//!    (`sixteen_stuck_readers_never_slow_the_publisher_or_a_live_reader`).
//! 3. The old bus hangs up before anyone is rung, so that who wakes finds the event and not an empty old ring.
//! 4. Without subscribers there is no bus, and publishing is one atomic load (`a_bus_lives_as_long_as_its_readers`).
//! 5. An idle reader sleeps until there is an event (`idle_readers_and_waiters_never_wake`).
//!
//! Close/panic: the bus hangs up, then everyone is rung; readers drain what is left, then see `Closed`.
//! Not here: what the events are, and sceneries, which don't depend on the bus.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::mpsc;
use std::time::Duration;

use bus::{Bus, BusReader};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

#[cfg(feature = "async")]
use crate::sync::Reaching;
use crate::sync::{Notifier, Waited};

/// Hands events to any number of readers. Dropping it closes it.
pub struct EventHub<E: Clone + Send + Sync + 'static> {
    shared: Arc<Shared<E>>,
}

/// Counters of an [`EventHub`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventStats {
    /// Readers alive now.
    pub readers: usize,
    /// Events published while there were readers.
    pub published: u64,
    /// How often a fresh ring took over from a full one.
    pub rotations: u64,
    /// How often a reader blocked in `recv` woke up.
    pub wakeups: u64,
}

/// Why there is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEvent {
    /// None is there now, or none came in the time given.
    Empty,
    /// The reader was too far behind: this many events are lost to it. The next read goes on after them.
    Lagged(u64),
    /// The hub is closed and everything has been read.
    Closed,
}

impl fmt::Display for NoEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoEvent::Empty => f.write_str("no event is there"),
            NoEvent::Lagged(missed) => write!(f, "{missed} events were missed: read the state anew, then go on"),
            NoEvent::Closed => f.write_str("closed: no event will come"),
        }
    }
}

impl std::error::Error for NoEvent {}

/// This many events were missed, in the place where [`EventReader::iter`] yields it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged(pub u64);

/// One subscriber's place in the stream of events. Dropping it ends the subscription.
pub struct EventReader<E: Clone + Send + Sync + 'static> {
    shared: Arc<Shared<E>>,
    id: u64,
    /// `None` when the hub was closed before or after the ring was drained.
    current: Option<BusReader<E>>,
    /// The number of the next event to see, counted from the hub's start.
    seen: u64,
    armed: Arc<AtomicBool>,
    doorbell: Receiver<()>,
}

struct Shared<E> {
    capacity: usize,
    readers: AtomicUsize,
    /// The number of events sent; blocked readers wait for it to pass what they have seen.
    sent: Notifier,
    hub: Mutex<Hub<E>>,
}

struct Hub<E> {
    bus: Option<Bus<E>>,
    sent: u64,
    rotations: u64,
    next_id: u64,
    closed: bool,
    slots: Vec<Slot<E>>,
}

struct Slot<E> {
    id: u64,
    place: Place<E>,
    /// Set by the reader when it found nothing: only then is there need to ring.
    armed: Arc<AtomicBool>,
    bell: Sender<()>,
}

enum Place<E> {
    /// It reads the current bus.
    Current,
    /// It is still in an older ring; this reader, at event number `start`, is what it takes next.
    Late { next: BusReader<E>, start: u64 },
    /// It is a whole ring behind its `next`, which was taken away; it joins anew when it comes back.
    Behind,
}

impl<E: Clone + Send + Sync + 'static> EventHub<E> {
    /// A hub whose readers may be `capacity` events (at least one) behind without loss. Starts nothing.
    pub fn new(capacity: usize) -> Self {
        EventHub {
            shared: Arc::new(Shared {
                capacity: capacity.max(1),
                readers: AtomicUsize::new(0),
                sent: Notifier::new(0),
                hub: Mutex::new(Hub { bus: None, sent: 0, rotations: 0, next_id: 0, closed: false, slots: Vec::new() }),
            }),
        }
    }

    /// Hands the event to every reader. Never waits for one; without readers it does nothing, nor after the closing.
    pub fn publish(&self, event: E) {
        if self.shared.readers.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut hub = self.shared.hub.lock();
        if hub.send(event, self.shared.capacity) {
            let sent = hub.sent;
            hub.ring_armed();
            drop(hub);
            self.shared.sent.advance_to(sent);
        }
    }

    /// A reader of every event published from now on. The first one creates the bus and its thread.
    pub fn subscribe(&self) -> EventReader<E> {
        let (bell, doorbell) = bounded(1);
        let armed = Arc::new(AtomicBool::new(true));
        // Made outside the lock, as it starts a thread, and dropped there if another subscriber was quicker.
        let mut fresh = None;
        let mut hub = self.shared.hub.lock();
        if hub.bus.is_none() && !hub.closed {
            drop(hub);
            fresh = Some(Bus::new(self.shared.capacity));
            hub = self.shared.hub.lock();
        }
        if hub.bus.is_none() && !hub.closed {
            hub.bus = fresh.take();
        }
        let current = hub.bus.as_mut().map(Bus::add_rx);
        hub.next_id += 1;
        let id = hub.next_id;
        if current.is_some() {
            hub.slots.push(Slot { id, place: Place::Current, armed: armed.clone(), bell });
            self.shared.readers.store(hub.slots.len(), Ordering::Release);
        }
        let seen = hub.sent;
        drop(hub);
        drop(fresh);
        EventReader { shared: self.shared.clone(), id, current, seen, armed, doorbell }
    }

    /// Ends the stream: readers drain what is left, then see [`NoEvent::Closed`]. Wakes them all. Waits for none.
    pub fn close(&self) {
        let mut hub = self.shared.hub.lock();
        hub.closed = true;
        drop(hub.bus.take());
        for slot in &mut hub.slots {
            let _ = slot.bell.try_send(());
            // A doorbell that is hung up is ready for ever: who waits on it after the closing doesn't hang.
            slot.bell = bounded(0).0;
        }
        drop(hub);
        self.shared.sent.close();
    }

    /// Counters as they are now.
    pub fn stats(&self) -> EventStats {
        let hub = self.shared.hub.lock();
        EventStats {
            readers: hub.slots.len(),
            published: hub.sent,
            rotations: hub.rotations,
            wakeups: self.shared.sent.wakeups(),
        }
    }
}

impl<E: Clone + Send + Sync + 'static> Drop for EventHub<E> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<E: Clone + Send + Sync + 'static> fmt::Debug for EventHub<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventHub").field("capacity", &self.shared.capacity).field("stats", &self.stats()).finish()
    }
}

impl<E: Clone + Send + Sync> Hub<E> {
    /// Puts the event into the ring, a fresh one if need be; false when there is no bus.
    fn send(&mut self, event: E, capacity: usize) -> bool {
        let Some(bus) = self.bus.as_mut() else { return false };
        if let Err(event) = bus.try_broadcast(event) {
            // The ring is full. A `next` that nobody has taken stands at this ring's start: it is a whole ring behind.
            for slot in &mut self.slots {
                if matches!(slot.place, Place::Late { .. }) {
                    slot.place = Place::Behind;
                }
            }
            if let Err(event) = bus.try_broadcast(event) {
                self.rotate(event, capacity);
            }
        }
        self.sent += 1;
        true
    }

    fn rotate(&mut self, event: E, capacity: usize) {
        let mut fresh = Bus::new(capacity);
        for slot in &mut self.slots {
            if matches!(slot.place, Place::Current) {
                slot.place = Place::Late { next: fresh.add_rx(), start: self.sent };
            }
        }
        // An empty ring of at least one seat takes it.
        let _ = fresh.try_broadcast(event);
        self.rotations += 1;
        self.bus = Some(fresh);
    }

    fn ring_armed(&self) {
        // Pairs with the fence in `EventReader::try_recv`: it sees the event, or this sees that it is armed.
        fence(Ordering::SeqCst);
        for slot in &self.slots {
            if slot.armed.load(Ordering::Relaxed) && slot.armed.swap(false, Ordering::AcqRel) {
                // Full: an earlier ring is not answered yet, and will find this event too.
                let _ = slot.bell.try_send(());
            }
        }
    }

    /// What the reader `id` reads after its ring was drained and hung up, and the number of the first event in it.
    fn next_of(&mut self, id: u64) -> (Option<BusReader<E>>, u64) {
        let sent = self.sent;
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else { return (None, sent) };
        match std::mem::replace(&mut slot.place, Place::Current) {
            Place::Late { next, start } => (Some(next), start),
            // On a closed hub there is no bus to join, which ends the stream.
            Place::Behind | Place::Current => (self.bus.as_mut().map(Bus::add_rx), sent),
        }
    }
}

impl<E: Clone + Send + Sync + 'static> EventReader<E> {
    /// The next event, if one is there. Never blocks.
    ///
    /// After [`NoEvent::Empty`] the [`doorbell`](EventReader::doorbell) rings as soon as there is an event.
    pub fn try_recv(&mut self) -> Result<E, NoEvent> {
        match self.poll() {
            Err(NoEvent::Empty) => {
                self.armed.store(true, Ordering::Relaxed);
                // Pairs with the fence in `Hub::ring_armed`.
                fence(Ordering::SeqCst);
                self.poll()
            }
            other => other,
        }
    }

    /// Blocks until there is an event, the hub is closed, or `timeout` is over (`None`: no limit), which is
    /// [`NoEvent::Empty`].
    ///
    /// Waits on a Condvar, so it may be called inside a future that a simple executor drives.
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<E, NoEvent> {
        match self.poll() {
            Err(NoEvent::Empty) => match self.shared.sent.wait_until(self.seen + 1, timeout) {
                Waited::Reached(_) | Waited::Closed(_) => self.poll(),
                Waited::TimedOut(_) => Err(NoEvent::Empty),
            },
            other => other,
        }
    }

    /// Blocking: each event, or how many were missed, until the hub is closed and drained.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<E, Lagged>> + '_ {
        std::iter::from_fn(move || match self.recv(None) {
            Ok(event) => Some(Ok(event)),
            Err(NoEvent::Lagged(missed)) => Some(Err(Lagged(missed))),
            Err(NoEvent::Closed | NoEvent::Empty) => None,
        })
    }

    /// The channel to put into `crossbeam_channel::select!`: it is ready when there may be something to read.
    ///
    /// Wait on it, then call [`try_recv`](EventReader::try_recv) until it says [`NoEvent::Empty`] or
    /// [`NoEvent::Closed`]: many events are one ring. After the closing it is ready (disconnected) for ever.
    pub fn doorbell(&self) -> &Receiver<()> {
        &self.doorbell
    }

    /// A future of there being something to read, or of the closing.
    #[cfg(feature = "async")]
    pub(crate) fn news(&self) -> Reaching {
        self.shared.sent.reached(self.seen + 1)
    }

    fn poll(&mut self) -> Result<E, NoEvent> {
        loop {
            if let Some(current) = &mut self.current {
                match current.try_recv() {
                    Ok(event) => {
                        self.seen += 1;
                        return Ok(event);
                    }
                    Err(mpsc::TryRecvError::Empty) => return Err(NoEvent::Empty),
                    Err(mpsc::TryRecvError::Disconnected) => {}
                }
            }
            let (next, start) = match self.current {
                Some(_) => self.shared.hub.lock().next_of(self.id),
                None => (None, self.seen),
            };
            self.current = next;
            let missed = start - self.seen;
            self.seen = start;
            if missed > 0 {
                return Err(NoEvent::Lagged(missed));
            }
            if self.current.is_none() {
                return Err(NoEvent::Closed);
            }
        }
    }
}

impl<E: Clone + Send + Sync + 'static> Drop for EventReader<E> {
    fn drop(&mut self) {
        let mut hub = self.shared.hub.lock();
        let position = hub.slots.iter().position(|slot| slot.id == self.id);
        let slot = position.map(|position| hub.slots.swap_remove(position));
        self.shared.readers.store(hub.slots.len(), Ordering::Release);
        let bus = if hub.slots.is_empty() { hub.bus.take() } else { None };
        drop(hub);
        // A ring's worth of events may be dropped with these: not under the lock, for which the publisher would wait.
        drop((slot, bus));
    }
}

impl<E: Clone + Send + Sync + 'static> fmt::Debug for EventReader<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReader").field("id", &self.id).field("seen", &self.seen).finish()
    }
}

#[cfg(test)]
mod tests;
