//! Inner: what the handles, views and threads of a Dio do with the parts that they share.
//!
//! Flow: a change → a message to the core → its reply, once that is visible; a write → its room → a message, once checked.
//! Invariants: every wait for another thread asks the waiting rule first (`may_wait_for`).
//! Not here: what the application calls (`dio`), and what the core does with a message (`core`).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::clock::Clock;
#[cfg(feature = "async")]
use crate::dio::SignsOfRoom;
use crate::dio::board::ReadToken;
use crate::dio::callback::CallbackBatch;
use crate::dio::core::{Announce, Apply, FullCopy, Message, NewWrite, RowChange};
use crate::dio::place::Place;
use crate::dio::queries::Queries;
use crate::dio::store::{Store, is_small};
use crate::dio::ticket::{TicketSender, not_durable};
use crate::dio::versions::RowRead;
use crate::dio::{Cause, DioInner, DioStatus, Flight, OPEN, WriteTicket, at_newest, queries, reconcile};
use crate::journal::Reservation;
use crate::scenery::signal::Signal;
use crate::scenery::view_query::ViewQuery;
#[cfg(feature = "async")]
use crate::sync::Notifier;
use crate::sync::{Rank, Role, may_wait_for, reply};
use crate::value::{Record, StoredRow};
use crate::vista::{Capabilities, QueryDescriptor, WriteOp};
use crate::{Error, Generation, Result, RowNo, Seq};

impl DioInner {
    pub(crate) fn clock(&self) -> &Clock {
        &self.lens.clock
    }

    pub(crate) fn is_open(&self) -> bool {
        self.phase.load(Ordering::Acquire) == OPEN
    }

    pub(crate) fn published(&self) -> Seq {
        self.reader.versions.published()
    }

    pub(crate) fn store(&self) -> Result<Arc<Store>> {
        self.lens.store()
    }

    pub(crate) fn next_view(&self) -> u64 {
        self.next_view.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn signal(&self) -> Signal {
        let rank = Rank::new(self.level, Role::Writer);
        Signal::new(Generation(0), self.lens.hooks.clone(), rank, self.view_moves.clone())
    }

    pub(crate) fn name_error(&self, error: Error) -> Error {
        error.with("table", self.name.to_string())
    }

    pub(crate) fn name_write(&self, id: Option<&str>, error: Error) -> Error {
        let error = self.name_error(error);
        match id {
            Some(id) => error.with("id", id.to_owned()),
            None => error,
        }
    }

    pub(crate) fn view_query(&self, descriptor: &QueryDescriptor) -> Result<ViewQuery> {
        ViewQuery::new(descriptor, &self.schema).map_err(|error| self.name_error(error))
    }

    pub(crate) fn send(&self, message: Message) -> Result<()> {
        self.core.send(message).map_err(|error| self.name_error(error))
    }

    /// Has the core handle a message: here and now if it is idle, which is said; else as soon as its thread comes to it.
    fn do_or_send(&self, message: Message) -> Result<bool> {
        self.core.do_now(message, Rank::new(self.level, Role::Core))
    }

    /// Sends changes of many rows; urgent messages overtake them, unless the sender holds up what they would wait for.
    pub(crate) fn send_bulk(&self, apply: Apply) -> Result<()> {
        self.send_bulk_message(Message::Apply(apply))
    }

    fn send_bulk_message(&self, message: Message) -> Result<()> {
        let sent = if self.must_apply_at_once() { self.core.send(message) } else { self.core.send_bulk(message) };
        sent.map_err(|error| self.name_error(error))
    }

    /// Returns once everything sent to the core so far is published. A read that is to answer a mark of staleness begins
    /// after it: marking a row is a change of it, and an older read's answer would be taken for older than the row.
    pub(crate) fn catch_up(&self) -> Result<()> {
        self.change(Vec::new(), Cause::Outside, Announce::Nothing, None).map(drop)
    }

    pub(crate) fn begin_read(&self) -> ReadToken {
        self.board.begin_read(|| self.published())
    }

    /// The first copy that `make_dio` is to wait for, if any: all who ask before it has ended get it.
    pub(crate) fn take_first_copy_to_wait_for(&self) -> Option<Arc<Flight>> {
        // Complete rows are there a moment before the copy has ended; who went on then would have a refresh join it.
        self.first_copy.lock().clone().filter(|copy| !copy.has_ended() || !self.board.is_complete())
    }

    /// Sends changes to the core and returns when they are visible.
    pub(crate) fn change(
        &self,
        changes: Vec<RowChange>,
        cause: Cause,
        announce: Announce,
        began: Option<Seq>,
    ) -> Result<Seq> {
        may_wait_for(Rank::new(self.level, Role::Core), "the core of a Dio")?;
        self.wait_for_room(&changes)?;
        let (sender, receiver) = reply();
        let at_once = self.must_apply_at_once();
        let is_bulk = !at_once && changes.len() >= self.lens.defaults.bulk_changes;
        let reply = Some(sender);
        let apply = Apply { changes: changes.into(), cause, announce, began, full_copy: None, reply, at_once };
        // One bulk change at a time: the next one waits where it holds nobody up.
        if is_bulk {
            self.send_bulk(apply)?
        } else {
            self.do_or_send(Message::Apply(apply)).map_err(|error| self.name_error(error))?;
        }
        receiver.wait(None).and_then(|result| result).map_err(|error| self.name_error(error))
    }

    /// Waits until the store has room for these changes.
    fn wait_for_room(&self, changes: &[RowChange]) -> Result<()> {
        let bytes = |change: &RowChange| if let RowChange::Put(row) = change { row.size() } else { 0 };
        let is_small = changes.len() < self.lens.defaults.bulk_changes && is_small(changes.iter().map(bytes).sum());
        self.store()?.wait_for_room(is_small).map_err(|error| self.name_error(error))
    }

    /// Whether this thread may not wait for bodies to be made.
    pub(crate) fn must_apply_at_once(&self) -> bool {
        may_wait_for(Rank::new(self.level, Role::Build), "the views of a bulk change").is_err()
    }

    /// What a callback did, applied as one batch; returns when it is visible.
    pub(super) fn apply_callback(
        self: &Arc<Self>,
        batch: CallbackBatch,
        cause: Cause,
        announce: Announce,
        full_copy: bool,
    ) -> Result<Seq> {
        self.apply_callback_as(batch, cause, announce, full_copy, Message::Apply, || ())
    }

    /// The same, with what else the core is to know of the batch, and what is done while the core is at work.
    pub(super) fn apply_callback_as(
        self: &Arc<Self>,
        batch: CallbackBatch,
        cause: Cause,
        announce: Announce,
        full_copy: bool,
        into_message: impl FnOnce(Apply) -> Message,
        meanwhile: impl FnOnce(),
    ) -> Result<Seq> {
        let began = batch.began();
        let invalidated = batch.invalidated.clone();
        let all_invalidated = batch.all_invalidated;
        let seq = if batch.cleared {
            if !full_copy {
                self.forget_answers();
            }
            let rows = batch.rows.iter().filter_map(|(id, row)| Some((id.to_string(), row.clone()?))).collect();
            reconcile::reconcile(self, began, rows, cause, announce.for_many(), full_copy)?
        } else {
            let changes = self.callback_changes_of(&batch);
            may_wait_for(Rank::new(self.level, Role::Core), "the core of a Dio")?;
            self.wait_for_room(&changes)?;
            let (sender, receiver) = reply();
            let now = self.clock().wall_ms();
            self.send_bulk_message(into_message(Apply {
                changes: changes.into(),
                cause,
                announce,
                began: Some(began),
                full_copy: full_copy.then_some(FullCopy { at: now, total: None }),
                reply: Some(sender),
                at_once: self.must_apply_at_once(),
            }))?;
            meanwhile();
            receiver.wait(None).and_then(|result| result).map_err(|error| self.name_error(error))?
        };
        // The batch, and with it the note of its read, lived until its rows were judged by it.
        drop(batch);
        self.invalidate(&invalidated, all_invalidated);
        Ok(seq)
    }

    /// What an `on_write` callback did beside its write.
    pub(super) fn callback_changes(self: &Arc<Self>, batch: CallbackBatch) -> Vec<RowChange> {
        let mut changes = if batch.cleared { vec![RowChange::Clear] } else { Vec::new() };
        changes.extend(self.callback_changes_of(&batch));
        self.invalidate(&batch.invalidated, batch.all_invalidated);
        changes
    }

    pub(super) fn callback_changes_of(&self, batch: &CallbackBatch) -> Vec<RowChange> {
        let now = self.clock().wall_ms();
        let change = |(id, row): (&Arc<str>, &Option<Record>)| match row {
            Some(record) => RowChange::Put(StoredRow::encode(id, record, now)),
            None => RowChange::Delete(id.clone()),
        };
        batch.rows.iter().map(change).collect()
    }

    /// Calls `each` with every row as it is now; see [`Versions::scan`].
    pub(crate) fn scan_now(&self, each: &mut dyn FnMut(RowNo, &StoredRow) -> ControlFlow<()>) -> Result<()> {
        let pin = self.reader.versions.pin_to_read();
        self.reader.versions.scan(&pin, each).map_err(|error| self.name_error(error))
    }

    pub(super) fn find_now(&self, id: &str) -> Result<Option<(RowNo, StoredRow)>> {
        let versions = &self.reader.versions;
        at_newest(versions, |seq| {
            let Some(row_no) = versions.lookup_as_of(id, seq)? else { return Ok(None) };
            match versions.row_as_of(row_no, seq)? {
                RowRead::Found(stored) => Ok(Some((row_no, stored))),
                RowRead::Absent | RowRead::Expired => Ok(None),
            }
        })
    }

    /// Takes a place in the queue, and room in the journal, for each of these writes, or for none.
    pub(super) fn take_room(&self, ops: &[WriteOp], timeout: Duration) -> Result<Vec<Option<Reservation>>> {
        self.writes.reserve(ops.len(), timeout)?;
        let room = self.ledger.reserve(ops, timeout);
        if room.is_err() {
            self.writes.give_back(ops.len());
        }
        room
    }

    pub(super) fn new_write(
        &self,
        op: WriteOp,
        key: Option<Arc<str>>,
        room: Option<Reservation>,
    ) -> (NewWrite, WriteTicket) {
        let rank = Rank::new(self.level, Role::Writer);
        let (ticket, receipt) = TicketSender::new(op.id(), rank, self.ledger.is_kept());
        let place = Some(Place::of(self.writes.clone()));
        (NewWrite { place, op, ticket, at: self.clock().wall_ms(), room, key }, receipt)
    }

    /// Has writes shown, as one step; returns once they are.
    pub(super) fn stage(&self, new: Vec<NewWrite>, receipts: &[WriteTicket]) -> Result<()> {
        self.hand_over(new);
        // The core waits for nobody, so this is soon; whoever waits for a core may not.
        match may_wait_for(Rank::new(self.level, Role::Core), "the core of a Dio") {
            Ok(()) => receipts.iter().try_for_each(WriteTicket::wait_staged),
            Err(_) => Ok(()),
        }
    }

    /// Has writes shown, as one step, without waiting for it; what becomes of them their tickets say.
    pub(super) fn hand_over(&self, new: Vec<NewWrite>) {
        // Else it was handled here, or the core is gone, and the writes with it.
        if let Ok(false) = self.do_or_send(Message::Stage(new)) {
            self.expect_writes();
        }
    }

    /// Whether this thread may wait for a write to be on the disk, and there is a disk.
    pub(crate) fn can_be_durable(&self) -> Result<()> {
        may_wait_for(Rank::new(self.level, Role::Writer), "a write to be on the disk")?;
        if self.ledger.is_kept() { Ok(()) } else { Err(not_durable()) }
    }

    /// Wakes the journal's thread while the core's wakes, which takes as long.
    fn expect_writes(&self) {
        if let Some(journal) = self.ledger.journal() {
            journal.expect();
        }
    }

    /// What rises when there may be more room for a write than now.
    #[cfg(feature = "async")]
    pub(crate) fn signs_of_room(&self) -> SignsOfRoom {
        let next = |notifier: &Notifier| notifier.reached(notifier.get() + 1);
        SignsOfRoom {
            queue: next(self.writes.changes()),
            journal: self.ledger.journal().map(|journal| next(journal.freed())),
            // No Seq: it ends by the closing alone.
            closing: self.reader.versions.published_notifier().reached(u64::MAX),
        }
    }

    /// Asks for a refresh without waiting for it.
    pub(crate) fn request_refresh(&self) -> Result<()> {
        self.refresher.refresh().map(drop).map_err(|error| self.name_error(error))
    }

    /// What writes can do: what the source can, or all when a callback delivers them.
    pub(crate) fn write_capabilities(&self) -> Capabilities {
        if self.lens.callbacks.on_write.is_some() { Capabilities::read_write() } else { self.master.capabilities() }
    }

    pub(super) fn status(&self) -> DioStatus {
        let mut status = self.board.status();
        let versions = self.reader.versions.stats();
        status.rows_in_memory = versions.rows_in_memory;
        status.snapshots = versions.pinned;
        status.snapshot_bytes = versions.retained_bytes;
        status.inbox = self.core.waiting();
        status.closed = !self.is_open();
        status.journaled_writes = self.ledger.journal().map_or(0, |journal| journal.len());
        status.writes_paused = self.writes.is_paused();
        status.queries_under_way = self.queries.as_ref().map_or(0, Queries::under_way);
        if let Ok(store) = self.store() {
            status.unstored_bytes = store.waiting_bytes();
            status.cache_error = store.failure();
        }
        status
    }

    /// Whatever was asked of the source is to be asked again.
    pub(crate) fn forget_answers(&self) {
        if let Some(queries) = &self.queries {
            queries.forget();
        }
    }

    /// Asks for a refresh that begins from now on. Never blocks.
    pub(crate) fn refresh_anew(&self) {
        // A closed Dio reads nothing again.
        let _ = if queries::is_flying() { self.request_refresh() } else { self.refresher.refresh_anew() };
    }
}
