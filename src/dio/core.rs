//! Core: the one thread that changes a Dio's state: rows, views, pending writes.
//!
//! Owner: the thread `<table>:core`. Others hold a [`CoreHandle`] and read what is published.
//! Flow: messages → one batch of row changes → row versions → view indexes → published roots → generations → the store,
//! replies and events. A burst that waited in the inbox is one batch and one Seq; a change of very many rows is taken in by
//! and by between other messages, and published at once (`bulk`).
//! Invariants:
//! 1. Apply before publish before notify: whoever has seen a generation, an event or a returned call sees rows at least
//!    that new.
//! 2. The core never waits for another thread, writes no file, and runs no user code; the one thing it may meet on disk is
//!    a cold before-image.
//! 3. A row is never changed by a read that began before the row's last change or pending write (`protect`).
//!
//! Close/panic: on `Close`, or if it should ever panic, it closes every view's signal and ends. Messages that it has not
//! handled, and those that come later, are dropped, whatever thread sends them: their replies, tickets and new views say
//! `Closed` (`a_message_that_the_core_never_handles_is_answered_closed`).
//! Not here: when to refresh (`refresh`), delivering writes (`writer`), storing (`store`).

mod accept;
mod batch;
mod body;
mod bulk;
mod customs;
mod hold;
mod inbox;
mod pending;
mod protect;
mod recover;
mod route;
mod settle;
mod views;
mod writes;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::dio::event::{Cause, DioEvent};
use crate::dio::fresh::{FreshRows, IdIndex};
use crate::dio::hot_tier::STATUS_STALE;
use crate::dio::ledger::Ledger;
use crate::dio::place::Place;
use crate::dio::queries::{Asking, Question};
use crate::dio::store::Store;
use crate::dio::ticket::TicketSender;
use crate::dio::versions::{Replaced, Versions};
use crate::dio::{EventHub, Failures, StateBoard, WriteQueue};
use crate::journal::Reservation;
use crate::lens::Pool;
use crate::scenery::accumulator::BuiltIn;
use crate::scenery::custom::OffCore;
use crate::scenery::cut::Cut;
use crate::scenery::record::RecordSlot;
use crate::scenery::snapshot::TableSlot;
use crate::scenery::value::ValueSlot;
use crate::scenery::view_query::ViewQuery;
use crate::sync::{Rank, ReplySender};
use crate::value::{Record, StoredRow, Value};
use crate::vista::WriteOp;
use crate::{Error, Generation, Result, RowNo, Seq, WriteNumber};

pub(crate) use body::{Body, First};
pub(crate) use inbox::{CoreHandle, inboxes};

use accept::Acceptances;
use batch::OpenBatch;
use bulk::{Bulk, LargeAnswer, Made};
pub(crate) use bulk::{Helper, helper};
use hold::Hold;
use pending::{Aliases, Pending};
use protect::Protection;
use views::Views;

/// A change of one row, or of all.
#[derive(Debug, Clone)]
pub(crate) enum RowChange {
    /// The row is this from now on. Its Seq is set by the core.
    Put(StoredRow),
    /// The row is gone.
    Delete(Arc<str>),
    /// Every row is gone.
    Clear,
    /// The row awaits its re-read.
    MarkStale(Arc<str>),
    /// Every row awaits its re-read.
    MarkAllStale,
}

impl RowChange {
    /// The id of the row that it is about, if it is about one.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            RowChange::Put(row) => Some(row.id()),
            RowChange::Delete(id) | RowChange::MarkStale(id) => Some(id),
            RowChange::Clear | RowChange::MarkAllStale => None,
        }
    }
}

/// The changes of one message.
pub(crate) enum RowChanges {
    /// Row by row.
    Each(Vec<RowChange>),
    /// These rows, for a table that had none when the sender looked.
    First(Vec<StoredRow>, IdIndex),
}

impl RowChanges {
    fn len(&self) -> usize {
        match self {
            RowChanges::Each(changes) => changes.len(),
            RowChanges::First(rows, _) => rows.len(),
        }
    }
}

impl From<Vec<RowChange>> for RowChanges {
    fn from(changes: Vec<RowChange>) -> Self {
        RowChanges::Each(changes)
    }
}

/// Which events a set of changes makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announce {
    /// One event for each row that changed.
    EachRow,
    /// One `Invalidated`, if anything changed.
    Once,
    /// None: the sender announces it.
    Nothing,
}

impl Announce {
    /// The same for changes that replace everything.
    pub(crate) fn for_many(self) -> Self {
        match self {
            Announce::EachRow | Announce::Once => Announce::Once,
            Announce::Nothing => Announce::Nothing,
        }
    }
}

/// The end of a full copy of the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FullCopy {
    /// When it ended, in milliseconds since the Unix epoch.
    pub(crate) at: i64,
    /// How many rows the source has.
    pub(crate) total: Option<u64>,
}

/// A set of row changes, applied together.
pub(crate) struct Apply {
    pub(crate) changes: RowChanges,
    pub(crate) cause: Cause,
    pub(crate) announce: Announce,
    /// The Seq at which the read behind these changes began; rows touched since are left alone.
    pub(crate) began: Option<Seq>,
    pub(crate) full_copy: Option<FullCopy>,
    pub(crate) reply: Option<ReplySender<Result<Seq>>>,
    /// Its sender may not wait for the threads that bodies are made on, so however many they are, the core alone applies them.
    pub(crate) at_once: bool,
}

/// A write that was checked, on its way to the core.
pub(crate) struct NewWrite {
    /// In the queue; the first field, so that it is free again before anybody hears of the write's end. A write of an earlier
    /// run needs none.
    pub(crate) place: Option<Place>,
    pub(crate) op: WriteOp,
    pub(crate) ticket: TicketSender,
    /// When it was made, in milliseconds since the Unix epoch.
    pub(crate) at: i64,
    /// Its room in the journal.
    pub(crate) room: Option<Reservation>,
    /// Under which its maker can tell it from others.
    pub(crate) key: Option<Arc<str>>,
}

/// A write that views show, on its way to the source.
pub(crate) struct StagedWrite {
    pub(crate) number: WriteNumber,
    /// Under which the source can tell it from others.
    pub(crate) key: Arc<str>,
    pub(crate) op: Arc<WriteOp>,
    pub(crate) at: i64,
    pub(crate) ticket: TicketSender,
    /// Whether anything is known of the row here, so that a patch can be folded over it.
    pub(crate) row_is_known: bool,
    /// Whether an earlier run accepted it, and may have had the source do it.
    pub(crate) is_recovered: bool,
    /// The row as it was last confirmed before it, as far as that is known.
    before: Mutex<Option<StoredRow>>,
}

impl StagedWrite {
    pub(crate) fn before(&self) -> Option<StoredRow> {
        self.before.lock().clone()
    }
}

/// What became of a write.
pub(crate) struct Settlement {
    pub(crate) write: Arc<StagedWrite>,
    pub(crate) result: SettledAs,
    /// Answered once it shows: a later write of the row may go by another id from then on, or not at all.
    pub(crate) reply: Option<ReplySender<Result<Seq>>>,
}

pub(crate) enum SettledAs {
    Confirmed(Settled),
    Rejected(Error),
    /// Whether the source has done it can't be found out.
    Unknown(Error),
    Superseded(WriteNumber),
    Cancelled,
}

impl SettledAs {
    fn confirmed(id: Option<Arc<str>>) -> Self {
        SettledAs::Confirmed(Settled { id, record: None, stored: None, changes: Vec::new(), at: 0 })
    }
}

/// A confirmed write's effect.
pub(crate) struct Settled {
    /// The id under which the row is stored.
    pub(crate) id: Option<Arc<str>>,
    /// The row, where the source says how it stored it.
    pub(crate) record: Option<Record>,
    /// The row as the core has made of it; `None`: there is none.
    pub(crate) stored: Option<StoredRow>,
    /// What a callback did beside it.
    pub(crate) changes: Vec<RowChange>,
    /// When, in milliseconds since the Unix epoch.
    pub(crate) at: i64,
}

pub(crate) type ViewId = u64;

pub(crate) enum Message {
    Apply(Apply),
    /// The rows that answer a question to the source.
    ApplyAnswer {
        apply: Apply,
        question: Arc<Question>,
        /// Whoever waits for it makes the bodies of views itself, if they are to be made aside.
        helper: Helper,
    },
    /// A question to the source has come to its end. Its rows were applied before.
    Answered {
        question: Arc<Question>,
        result: Result<()>,
        /// Answered once the views show so.
        reply: Option<ReplySender<()>>,
    },
    /// Shown together, or refused together.
    Stage(Vec<NewWrite>),
    Settle(Settlement),
    /// An insert whose row the source names goes to the source.
    AtSource(WriteNumber),
    /// The source has not done it, for now.
    NotDone(WriteNumber),
    /// A new table view, or another query for one that is there.
    SetQuery {
        view: ViewId,
        slot: Opening<TableSlot>,
        query: Arc<ViewQuery>,
        cut: Cut,
        request: u64,
        /// Where the source is asked query by query.
        asking: Option<Asking>,
    },
    OpenValue {
        slot: Opening<ValueSlot>,
        query: Arc<ViewQuery>,
        aggregate: BuiltIn,
    },
    OpenCustom {
        slot: Opening<ValueSlot>,
        query: Arc<ViewQuery>,
        user: OffCore,
    },
    OpenRecord {
        slot: Opening<RecordSlot>,
        given: bool,
    },
    /// The first entries of a body that is being built, with the changes up to the `taken`th batch since it was begun.
    First {
        index: u64,
        build: u64,
        first: First,
        taken: usize,
    },
    Built {
        index: u64,
        build: u64,
        result: Result<Body>,
    },
    /// What the build thread made for the bulk change of this Seq.
    BulkMade {
        seq: Seq,
        made: Made,
    },
    /// What user code made of the rows up to `seq`.
    Computed {
        custom: u64,
        seq: Seq,
        result: Result<Value>,
    },
    Close {
        reply: Option<ReplySender<()>>,
    },
}

/// What a view and the core share.
pub(crate) trait ViewSlot: Send + Sync {
    /// Wakes everyone who waits for the view, for good.
    fn close(&self);

    /// What it shows now, in words and numbers.
    fn look(&self) -> ViewLook;

    /// Whether all its handles are gone.
    fn is_dropped(&self) -> bool;
}

/// What a view shows, for diagnostics.
pub(crate) struct ViewLook {
    pub(crate) generation: Generation,
    pub(crate) seq: Seq,
    pub(crate) rows: Option<usize>,
    pub(crate) state: String,
}

/// A view on its way to the core. One that never gets there is closed, so that nobody waits for it.
pub(crate) struct Opening<S: ViewSlot>(Option<Arc<S>>);

impl<S: ViewSlot> Opening<S> {
    pub(crate) fn new(slot: Arc<S>) -> Self {
        Opening(Some(slot))
    }

    fn arrived(mut self) -> Option<Arc<S>> {
        self.0.take()
    }
}

impl<S: ViewSlot> Drop for Opening<S> {
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            slot.close();
        }
    }
}

/// What the core knows of the table when it starts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TableState {
    pub(crate) seq: Seq,
    pub(crate) next_row: u64,
    pub(crate) rows: u64,
    pub(crate) complete: bool,
    pub(crate) last_refresh: Option<i64>,
    pub(crate) total: Option<u64>,
}

/// What the core hands its results to.
pub(crate) struct Surroundings {
    pub(crate) table_name: Arc<str>,
    pub(crate) versions: Arc<Versions>,
    pub(crate) store: Arc<Store>,
    pub(crate) events: Arc<EventHub<DioEvent>>,
    pub(crate) board: Arc<StateBoard>,
    pub(crate) writes: Arc<WriteQueue>,
    pub(crate) failures: Arc<Failures>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) build_pool: Arc<Pool>,
    /// Its thread shares the scan of a large table when it has nothing else to do.
    pub(crate) load_pool: Arc<Pool>,
    /// Changes of one message from which on they are a bulk.
    pub(crate) bulk_changes: usize,
    pub(crate) build_rank: Rank,
    /// The column of the schema that holds a row's id.
    pub(crate) id_column: Option<String>,
    /// The beginning of the keys of writes, like no other.
    pub(crate) key_prefix: String,
    /// The rank of who settles writes.
    pub(crate) write_rank: Rank,
    /// Has a row (or all) read again, behind. Never blocks.
    pub(crate) reread: Reread,
}

/// See [`Surroundings::reread`].
pub(crate) type Reread = Box<dyn Fn(Option<&Arc<str>>) + Send>;

/// The state of a Dio.
pub(crate) struct Core {
    to: Surroundings,
    handle: CoreHandle,
    acceptances: Arc<Acceptances>,
    seq: Seq,
    next_row: u64,
    rows: u64,
    complete: bool,
    stale_upto: Seq,
    protection: Protection,
    pending: Pending,
    hold: Hold,
    aliases: Aliases,
    next_write: WriteNumber,
    /// Settled writes that the cache was told of since the journal was told that it is synced.
    unsynced: usize,
    views: Views,
    records: HashMap<Arc<str>, Vec<Arc<RecordSlot>>>,
    batch: Option<OpenBatch>,
    bulk: Option<Box<Bulk>>,
    /// Large answers that wait for the one that is being taken in.
    answers: VecDeque<LargeAnswer>,
    /// Whether more row versions are let go of at the next sweep.
    collects: bool,
    closed: bool,
}

impl Core {
    pub(crate) fn new(to: Surroundings, handle: CoreHandle, state: TableState) -> Self {
        let (writes, ledger) = (to.writes.clone(), to.ledger.clone());
        Core {
            to,
            acceptances: Arc::new(Acceptances { writes, core: handle.clone(), ledger }),
            handle,
            seq: state.seq,
            next_row: state.next_row,
            rows: state.rows,
            complete: state.complete,
            stale_upto: Seq(0),
            protection: Protection::new(state.seq),
            pending: Pending::default(),
            hold: Hold::default(),
            aliases: Aliases::default(),
            next_write: WriteNumber(1),
            unsynced: 0,
            views: Views::default(),
            records: HashMap::new(),
            batch: None,
            bulk: None,
            answers: VecDeque::new(),
            collects: false,
            closed: false,
        }
    }

    fn handle(&mut self, message: Message) {
        if self.closed {
            return;
        }
        match message {
            Message::Apply(mut apply) => {
                self.hold_back(&mut apply);
                if self.is_bulk(&apply) { self.begin_bulk(apply, None) } else { self.apply(apply) }
            }
            Message::ApplyAnswer { mut apply, question, helper } => {
                self.hold_back(&mut apply);
                self.answer(apply, question, helper);
            }
            Message::Stage(writes) => self.stage(writes),
            Message::Settle(settlement) => self.settle(settlement),
            Message::AtSource(number) => self.at_source(number),
            Message::NotDone(number) => self.landed(number, None),
            other => {
                self.commit();
                match other {
                    Message::SetQuery { view, slot, query, cut, request, asking } => {
                        self.set_query(view, slot, query, cut, request, asking);
                    }
                    Message::Answered { question, result, reply } => {
                        self.answered(&question, &result);
                        if let Some(reply) = reply {
                            reply.send(());
                        }
                    }
                    Message::OpenValue { slot, query, aggregate } => self.open_value(slot, query, aggregate),
                    Message::OpenCustom { slot, query, user } => self.open_custom(slot, query, user),
                    Message::OpenRecord { slot, given } => self.open_record(slot, given),
                    Message::First { index, build, first, taken } => self.first_made(index, build, first, taken),
                    Message::Built { index, build, result } => self.built(index, build, result),
                    Message::BulkMade { seq, made } => self.bulk_made(seq, made),
                    Message::Computed { custom, seq, result } => self.computed(custom, seq, result),
                    Message::Close { reply } => {
                        self.show_held();
                        self.commit();
                        self.close(reply);
                    }
                    Message::Apply(_)
                    | Message::ApplyAnswer { .. }
                    | Message::Stage(_)
                    | Message::Settle(_)
                    | Message::AtSource(_)
                    | Message::NotDone(_) => {}
                }
                self.to.board.set_views(self.views.counts());
            }
        }
    }

    /// Lets go of views whose handles are gone, and of row versions that no snapshot needs any more: of many by and by, so that
    /// no change waits for the whole.
    fn sweep(&mut self) {
        self.to.versions.collect();
        let goes_on = self.to.versions.has_released();
        if goes_on {
            self.handle.bell().ring();
        }
        // The views once at the beginning, and once more at the end: there may be very many.
        if std::mem::replace(&mut self.collects, goes_on) && goes_on {
            return;
        }
        self.sweep_views();
        self.records.retain(|_, slots| {
            slots.retain(|slot| !slot.dropped.is_set());
            !slots.is_empty()
        });
        self.to.board.set_views(self.views.counts());
    }

    fn close(&mut self, reply: Option<ReplySender<()>>) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.views.close();
        for slot in self.records.values().flatten() {
            slot.close();
        }
        self.to.versions.published_notifier().close();
        self.to.events.publish(DioEvent::Closed { seq: self.seq });
        self.to.events.close();
        if let Some(reply) = reply {
            reply.send(());
        }
    }

    fn open_record(&mut self, slot: Opening<RecordSlot>, given: bool) {
        let Some(slot) = slot.arrived() else { return };
        let found = self.to.versions.lookup_newest(&slot.id).and_then(|row| match row {
            Some(row) => Ok(self.to.versions.row_newest(row)?.map(|stored| (row, stored))),
            None => Ok(None),
        });
        // The row may go by another id than the first one, under which it is asked for.
        let id = match &found {
            Ok(Some((_, stored))) if stored.id() != &*slot.id => Arc::from(stored.id()),
            _ => slot.id.clone(),
        };
        // A row handed in by the caller stays until the cache has something to say about it.
        let mut moved = (!given || matches!(found, Ok(Some(_)))) && slot.show(found, self.seq);
        moved |= slot.set_stale(self.stale_upto);
        self.records.entry(id).or_default().push(slot.clone());
        // The handle may have been looked at before.
        if moved {
            slot.advance();
        }
    }

    fn stale_copy(row: &StoredRow) -> StoredRow {
        let mut row = row.clone();
        row.set_status(STATUS_STALE);
        row
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Only a panic leaves it open.
        self.close(None);
    }
}

/// A row before and after a batch.
#[derive(Debug, Clone)]
pub(crate) struct Touched {
    pub(crate) row: RowNo,
    pub(crate) before: Option<StoredRow>,
    pub(crate) after: Option<StoredRow>,
}

/// A row of a batch: what it was, and what it is.
pub(crate) type ChangedRow<'a> = (RowNo, Option<&'a StoredRow>, Option<&'a StoredRow>);

/// Everything that a batch changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) touched: Vec<Touched>,
    /// Rows of a first load.
    pub(crate) fresh: Option<Arc<FreshRows>>,
}

impl Changed {
    pub(crate) fn len(&self) -> usize {
        self.touched.len() + self.fresh.as_ref().map_or(0, |fresh| fresh.rows().len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every row with what it was and what it is.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ChangedRow<'_>> {
        let touched = self.touched.iter().map(|touched| (touched.row, touched.before.as_ref(), touched.after.as_ref()));
        let fresh = self.fresh.iter().flat_map(|fresh| fresh.iter()).map(|(row_no, row)| (row_no, None, Some(row)));
        touched.chain(fresh)
    }

    /// The row at this place of [`iter`](Self::iter), which there must be.
    pub(crate) fn at(&self, place: usize) -> ChangedRow<'_> {
        match (self.touched.get(place), &self.fresh) {
            (None, Some(fresh)) => {
                let place = place - self.touched.len();
                (fresh.number(place), None, Some(&fresh.rows()[place]))
            }
            _ => {
                let touched = &self.touched[place];
                (touched.row, touched.before.as_ref(), touched.after.as_ref())
            }
        }
    }
}

impl Touched {
    /// What it replaced, if there was something.
    pub(crate) fn replaced(&self) -> Option<Replaced> {
        let before = self.before.as_ref()?;
        Some(Replaced::Row { row: self.row, from: before.seq(), size: before.size() })
    }

    /// The row's id; a touched row has one on at least one side.
    pub(crate) fn id(&self) -> &str {
        self.after.as_ref().or(self.before.as_ref()).map_or("", StoredRow::id)
    }
}

#[cfg(test)]
mod tests;
