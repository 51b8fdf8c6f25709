//! Reload: rows that are not to be trusted any more, and their re-read on the load thread.
//!
//! Invariants: one re-read of a row is queued at a time; a failed one keeps the row; the core asks the source nothing
//! (`the_source_is_asked_nothing_by_the_core`).

use std::sync::Arc;

use crate::dio::core::{Announce, Apply, Message, RowChange};
use crate::dio::event::Cause;
use crate::dio::{DioInner, WeakDio};
use crate::sync::{Rank, Role};
use crate::value::{Record, StoredRow};
use crate::{ErrorKind, Result};

impl DioInner {
    /// Marks rows (or all) as stale and has them read again. Returns at once.
    pub(crate) fn invalidate(self: &Arc<Self>, ids: &[Arc<str>], all: bool) {
        if ids.is_empty() && !all {
            return;
        }
        let mut changes: Vec<RowChange> = ids.iter().cloned().map(RowChange::MarkStale).collect();
        if all {
            changes.push(RowChange::MarkAllStale);
        }
        let announce = Announce::EachRow;
        let apply = Apply {
            changes: changes.into(),
            cause: Cause::Outside,
            announce,
            began: None,
            full_copy: None,
            reply: None,
            at_once: false,
        };
        if let Err(error) = self.send(Message::Apply(apply))
            && error.kind() != ErrorKind::Closed
        {
            tracing::warn!(table = %self.name, %error, "rows could not be marked as stale");
        }
        if all {
            self.forget_answers();
            self.refresh_anew();
        } else {
            for id in ids {
                self.reload(id);
            }
        }
    }

    /// Reads one row again, behind. A source that can't be asked for one row is read whole.
    pub(crate) fn reload(self: &Arc<Self>, id: &Arc<str>) {
        if self.master.capabilities().get { self.reload_behind(id) } else { self.refresh_anew() }
    }

    /// The same, and what the source can do is asked behind, too: for who holds a lock.
    pub(super) fn reload_behind(self: &Arc<Self>, id: &Arc<str>) {
        if !self.reloads.lock().insert(id.clone()) {
            return;
        }
        let handle = self.handle.lock().clone();
        let row = id.clone();
        let job = move || reload_now(&handle, &row);
        if let Err(error) = self.lens.load_pool.submit(Rank::new(self.level, Role::Load), Box::new(job)) {
            self.reloads.lock().remove(id);
            if error.kind() == ErrorKind::Full {
                self.refresh_anew();
            }
        }
    }

    /// Frees many rows on the load thread: it takes as long as reading them did, and the caller waits to go on.
    pub(crate) fn discard(&self, rows: Arc<Vec<(String, Record)>>) {
        const FEW: usize = 1_000;
        if rows.len() > FEW {
            // A closed pool drops the job, and the rows with it, here.
            let _ = self.lens.load_pool.submit(Rank::new(self.level, Role::Load), Box::new(move || drop(rows)));
        }
    }

    /// Runs a job on the load thread that only warms memory; it may be left out. Says whether it will be run.
    pub(crate) fn preload(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let rank = Rank::new(self.level, Role::Load);
        let submitted = self.lens.load_pool.submit(rank, Box::new(job));
        if let Err(error) = &submitted {
            tracing::debug!(table = %self.name, %error, "a viewport was not preloaded");
        }
        submitted.is_ok()
    }
}

fn reload_now(handle: &WeakDio, id: &Arc<str>) {
    let Some(dio) = handle.inner() else { return };
    // From here on a new change of the row deserves a new read.
    dio.reloads.lock().remove(id);
    if !dio.is_open() {
        return;
    }
    if !dio.master.capabilities().get {
        dio.refresh_anew();
        return;
    }
    if let Err(error) = read_and_apply(&dio, id) {
        tracing::warn!(table = %dio.name, id = %id, %error, "a row could not be read again; it stays as it is");
    }
}

fn read_and_apply(dio: &Arc<DioInner>, id: &Arc<str>) -> Result<()> {
    dio.catch_up()?;
    let read = dio.begin_read();
    let row = dio.read_source(|master, cx| master.get(cx, id))?;
    let change = match row {
        Some(record) => RowChange::Put(StoredRow::encode(id, &record, dio.clock().wall_ms())),
        None => RowChange::Delete(id.clone()),
    };
    dio.change(vec![change], Cause::Outside, Announce::EachRow, Some(read.began())).map(drop)
}

#[cfg(test)]
mod tests;
