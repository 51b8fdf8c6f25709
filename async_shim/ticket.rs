//! Ticket: the receipt of a write, awaited.

use std::ops::Deref;
use std::time::Duration;

use crate::dio::WriteOutcome;
use crate::{ErrorKind, Result, WriteTicket};

/// The receipt of a write: a [`WriteTicket`] whose waits are futures. Cheap to clone; dropping it cancels nothing.
#[derive(Debug, Clone)]
pub struct AsyncWriteTicket(WriteTicket);

impl From<WriteTicket> for AsyncWriteTicket {
    fn from(ticket: WriteTicket) -> Self {
        AsyncWriteTicket(ticket)
    }
}

impl Deref for AsyncWriteTicket {
    type Target = WriteTicket;

    fn deref(&self) -> &WriteTicket {
        &self.0
    }
}

impl AsyncWriteTicket {
    /// Waits until the write is confirmed or has failed.
    ///
    /// # Errors
    /// As [`WriteTicket::wait`], but for the timeout.
    pub async fn wait(&self) -> Result<WriteOutcome> {
        self.until(|ticket| ticket.wait(Duration::ZERO)).await
    }

    /// Waits until the write is accepted: it is on the disk, and survives a crash.
    ///
    /// # Errors
    /// As [`WriteTicket::wait_durable`], but for the timeout.
    pub async fn wait_durable(&self) -> Result<()> {
        self.until(|ticket| ticket.wait_durable(Duration::ZERO)).await
    }

    /// Waits until every view shows the write, or the core has refused it.
    pub(super) async fn wait_staged(&self) -> Result<()> {
        loop {
            let seen = self.0.moves().get();
            if self.0.is_staged() {
                return self.0.wait_staged();
            }
            self.0.moves().reached(seen + 1).await;
        }
    }

    async fn until<T>(&self, look: impl Fn(&WriteTicket) -> Result<T>) -> Result<T> {
        loop {
            let seen = self.0.moves().get();
            // Looked at first: what a ticket that has ended says is final, a `Timeout` of the source's among it.
            let has_ended = self.0.state().has_ended();
            match look(&self.0) {
                Err(error) if error.kind() == ErrorKind::Timeout && !has_ended => {}
                answer => return answer,
            }
            self.0.moves().reached(seen + 1).await;
        }
    }
}
