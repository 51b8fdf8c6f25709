//! Memory changes: edits made by somebody else, and the streams that tell them.
//!
//! Invariants: an edit and its event are one step; a stream's queue is bounded: when it is full, all it had to tell
//! becomes one `Invalidated`.

use std::collections::{BTreeMap, VecDeque};

use crate::value::Record;
use crate::vista::{CallCx, ChangeEvent, ChangeStream, WriteOp};
use crate::{Error, Result};

use super::MemoryVista;
use super::script::{Call, offline};

const STREAM_CAPACITY: usize = 4096;

/// The open streams and what each has still to tell.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: BTreeMap<u64, Queue>,
    next: u64,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<ChangeEvent>,
    end: Option<Result<()>>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn tell(&mut self, event: &ChangeEvent) {
        for queue in self.open.values_mut().filter(|queue| queue.end.is_none()) {
            if queue.events.len() >= STREAM_CAPACITY {
                queue.events.clear();
                queue.events.push_back(ChangeEvent::Invalidated);
            } else {
                queue.events.push_back(event.clone());
            }
        }
    }

    pub(super) fn end(&mut self, error: Option<&Error>) {
        for queue in self.open.values_mut().filter(|queue| queue.end.is_none()) {
            queue.end = Some(error.map_or(Ok(()), |error| Err(error.clone())));
        }
    }
}

/// One open stream.
pub(super) struct MemoryStream {
    vista: MemoryVista,
    id: u64,
}

impl MemoryStream {
    pub(super) fn open(vista: MemoryVista) -> Self {
        let id = {
            let streams = &mut vista.shared.state.lock().streams;
            streams.next += 1;
            streams.open.insert(streams.next, Queue::default());
            streams.next
        };
        MemoryStream { vista, id }
    }

    /// What the stream says now: `None` when there is nothing to tell yet.
    fn take(&self) -> Option<Result<Option<ChangeEvent>>> {
        if self.vista.shared.script.is_offline() {
            return Some(Err(offline()));
        }
        let mut state = self.vista.shared.state.lock();
        let Some(queue) = state.streams.open.get_mut(&self.id) else { return Some(Ok(None)) };
        match queue.events.pop_front() {
            Some(event) => Some(Ok(Some(event))),
            None => queue.end.clone().map(|end| end.map(|()| None)),
        }
    }
}

impl ChangeStream for MemoryStream {
    fn next(&mut self, cx: &CallCx) -> Result<Option<ChangeEvent>> {
        self.vista.run(cx, Call::NextChange, None, &[], || {
            self.vista.shared.script.wait(cx, None, || self.take())?.unwrap_or(Ok(None))
        })
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.vista.shared.state.lock().streams.open.remove(&self.id);
    }
}

/// Edits made by somebody else, past the source's calls: not counted, held, failed or logged, and capabilities don't count.
#[derive(Debug, Clone)]
pub struct Outside {
    vista: MemoryVista,
    tells: bool,
}

impl Outside {
    pub(super) fn new(vista: MemoryVista, tells: bool) -> Self {
        Outside { vista, tells }
    }

    /// Puts a whole row, whether it exists or not.
    ///
    /// # Errors
    /// `Invalid` for an empty id.
    pub fn upsert(&self, id: &str, record: Record) -> Result<()> {
        self.edit(&WriteOp::upsert(id, record))
    }

    /// Sets some fields of a row.
    ///
    /// # Errors
    /// `NotFound` when there is no such row, `Invalid` for an empty id.
    pub fn patch(&self, id: &str, record: Record) -> Result<()> {
        self.edit(&WriteOp::patch(id, record))
    }

    /// Deletes a row; a missing one is fine, and nothing is told of it.
    ///
    /// # Errors
    /// `Invalid` for an empty id.
    pub fn delete(&self, id: &str) -> Result<()> {
        self.edit(&WriteOp::delete(id))
    }

    /// Deletes all rows; told as `Invalidated`.
    ///
    /// # Errors
    /// None at present.
    pub fn delete_all(&self) -> Result<()> {
        self.edit(&WriteOp::delete_all())
    }

    fn edit(&self, op: &WriteOp) -> Result<()> {
        let shared = &self.vista.shared;
        {
            let mut state = shared.state.lock();
            let existed = op.id().is_some_and(|id| state.rows.get(id).is_some());
            state.rows.apply(op).map_err(|error| self.vista.at(error))?;
            let stored = |id: &str| state.rows.get(id).map(|record| (**record).clone());
            let event = match op.id() {
                None => Some(ChangeEvent::Invalidated),
                Some(id) => match (existed, stored(id)) {
                    (true, Some(record)) => Some(ChangeEvent::Updated { id: id.to_string(), record: Some(record) }),
                    (false, Some(record)) => Some(ChangeEvent::Inserted { id: id.to_string(), record: Some(record) }),
                    (true, None) => Some(ChangeEvent::Deleted { id: id.to_string() }),
                    (false, None) => None,
                },
            };
            if let Some(event) = event.filter(|_| self.tells) {
                state.streams.tell(&event);
            }
        }
        shared.script.ring();
        Ok(())
    }
}
