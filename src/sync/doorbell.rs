//! Doorbell: says "look again" to one thread, any number of rings counting as one until it is answered.

use crossbeam_channel::{Receiver, Sender, bounded};

/// A bell that rings without waiting. Rings that nobody has answered yet are one ring. Clones share the bell.
#[derive(Debug, Clone)]
pub(crate) struct Doorbell {
    ring: Sender<()>,
    answer: Receiver<()>,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        let (ring, answer) = bounded(1);
        Doorbell { ring, answer }
    }

    /// Rings. Never blocks; a bell that still rings stays as it is.
    pub(crate) fn ring(&self) {
        // Full means that the answer is still owed; disconnected can't be, as `self` holds a receiver.
        let _ = self.ring.try_send(());
    }

    /// What a thread waits on, alone or in `select!`. One message is one answered ring.
    pub(crate) fn receiver(&self) -> &Receiver<()> {
        &self.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rings_are_answered_once_and_a_later_ring_again() {
        let bell = Doorbell::new();
        assert!(bell.receiver().try_recv().is_err());
        bell.ring();
        bell.ring();
        assert!(bell.receiver().try_recv().is_ok());
        assert!(bell.receiver().try_recv().is_err());
        bell.ring();
        assert!(bell.receiver().try_recv().is_ok());
    }
}
