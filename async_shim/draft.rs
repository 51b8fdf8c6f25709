//! Draft: a form over a row, saved from async programs.

use std::ops::Deref;
use std::sync::Arc;

use super::call::{call, is_made_here};
use super::dio::AsyncDio;
use super::streams::Generations;
use super::ticket::AsyncWriteTicket;
use super::views::{change, generation, view};
use super::wait::any;
use crate::draft::{NotSaved, Save};
use crate::scenery::signal::Signal;
use crate::{Draft, ErrorKind, Generation, Result, Scenery};

view! {
    /// A user's unsaved changes of a row: a [`Draft`] whose waits are futures. Cheap to clone; clones are one draft.
    AsyncDraft, Draft
}

impl AsyncDio {
    /// A draft of one row's changes: a form over it.
    ///
    /// # Errors
    /// As [`Dio::draft`](crate::Dio::draft).
    pub async fn draft(&self, id: impl Into<Arc<str>>) -> Result<AsyncDraft> {
        let id = id.into();
        self.call(move |dio| dio.draft(id).map(AsyncDraft::from)).await
    }

    /// A draft of a new row.
    ///
    /// # Errors
    /// As [`Dio::draft_new`](crate::Dio::draft_new).
    pub async fn draft_new(&self) -> Result<AsyncDraft> {
        self.call(|dio| dio.draft_new().map(AsyncDraft::from)).await
    }
}

impl AsyncDraft {
    /// Writes what the user has changed, and only that; `None` when there is nothing to write. Waits for room in a full queue
    /// for as long as it is awaited. Dropped meanwhile, the save is given up, and the draft says so
    /// ([`Draft::error`]).
    ///
    /// # Errors
    /// As [`Draft::save`]; `Full` says that a save is under way.
    pub async fn save(&self) -> Result<Option<AsyncWriteTicket>> {
        match self.begin_save()? {
            Some(save) => write(save).await.map(Some),
            None => Ok(None),
        }
    }

    /// Writes the whole row as the form shows it, as a new one. As [`save`](Self::save).
    ///
    /// # Errors
    /// As [`Draft::save_as_new`].
    pub async fn save_as_new(&self) -> Result<AsyncWriteTicket> {
        write(self.begin_save_as_new()?).await
    }
}

async fn write(mut save: Save) -> Result<AsyncWriteTicket> {
    let dio = save.dio().clone();
    loop {
        let signs = dio.inner().signs_of_room();
        let attempt = move || Ok(save.try_write());
        let NotSaved { save: back, error } = match call(&dio.inner().lens.call_pool, attempt).await? {
            Ok(ticket) => return Ok(ticket.into()),
            Err(not_saved) => *not_saved,
        };
        if error.kind() != ErrorKind::Full || is_made_here() {
            return Err(back.fail(error));
        }
        any(signs.of(&error)).await;
        save = back;
    }
}
