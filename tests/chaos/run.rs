//! Runs a plan over a Dio and over the model.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use diorama::clock::{Clock, ManualClock};
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{Generation, LensBuilder, TableSnapshot, WriteTicket};

use crate::check::{RecordView, TableView, ValueView};
use crate::ground::{Ground, Keep};
use crate::ops::Op;
use crate::plain::{Plain, Table};
use crate::source::{HeldCalls, Point, ScriptedSource, Trouble, WRITES};
use crate::steps::{Asked, Fault, Kind, Plan, Step, Write};

pub(crate) const SOON: Duration = Duration::from_secs(60);
/// The generation before the first.
pub(crate) const NONE: Generation = Generation(0);
/// Views of each kind and snapshots that are open at once.
pub(crate) const OPEN: usize = 5;

/// Which rows await their re-read.
#[derive(Debug, Clone, PartialEq)]
#[allow(dead_code, reason = "the checks are shared with the model test, which looks at stale rows, too")]
pub(crate) enum Stale {
    None,
    One(String),
    All,
}

/// A refresh that stays in the source.
pub(crate) struct Listing {
    held: HeldCalls,
    /// What it has read, if it has.
    read: Option<Vec<Plain>>,
    /// Rows changed here since it began: it must leave them alone.
    pub(crate) touched: Keep,
    asker: Option<JoinHandle<diorama::Result<()>>>,
}

/// A write that was accepted and is not settled.
pub(crate) struct Pending {
    pub(crate) op: WriteOp,
    ticket: WriteTicket,
    /// What the source made of it, if it has it already.
    done: Option<Result<Effect, ErrorKind>>,
}

/// What a write that went well does to the rows here.
pub(crate) enum Effect {
    Put(String, Record),
    Remove(String),
    Clear,
}

pub(crate) struct World {
    kind: Kind,
    lens: Lens,
    pub(crate) dio: Dio,
    clock: Clock,
    hands: ManualClock,
    pub(crate) source: ScriptedSource,
    pub(crate) ground: Ground,
    /// Dios whose refresher sleeps on the clock when nothing goes on.
    refreshers: usize,
    builder: Box<dyn Fn() -> LensBuilder + Send>,
    on_disk: bool,
    every: Option<Duration>,
    now: Duration,
    due: Option<Duration>,
    refresh_failures: u32,
    failed_writes: u64,
    pub(crate) listing: Option<Listing>,
    pub(crate) pending: Vec<Pending>,
    held_writes: Vec<HeldCalls>,
    /// The rows that the cache must have.
    pub(crate) here: Table,
    /// The rows that the source must have.
    pub(crate) there: Table,
    pub(crate) stale: Stale,
    pub(crate) tables: Vec<TableView>,
    pub(crate) values: Vec<ValueView>,
    pub(crate) records: Vec<RecordView>,
    pub(crate) snapshots: Vec<(TableSnapshot, Vec<Plain>)>,
    pub(crate) may_expire: bool,
    pub(crate) at: String,
}

/// Runs a plan; `reached` says which step it is at.
pub(crate) fn run(plan: &Plan, reached: &AtomicUsize) {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(plan, directory.path().join("cache"), directory.path().join("rows.csv"));
    world.check(true);
    for (number, step) in plan.steps.iter().enumerate() {
        reached.store(number, Ordering::Relaxed);
        world.at = format!("after step {number}");
        let one_step = world.step(step);
        world.check(one_step);
        world.check_status();
    }
    world.finish();
}

impl World {
    fn new(plan: &Plan, cache: PathBuf, file: PathBuf) -> World {
        let (clock, hands) = Clock::manual();
        let (on_disk, small, every) = (plan.on_disk, plan.small_budget, plan.refresh_every);
        let on_clock = clock.clone();
        let builder = move || {
            // A held call goes on for as long as the run holds it: `tests/faults` has the deadlines.
            let lens = Lens::new().clock(on_clock.clone()).source_timeout(None);
            let lens = if on_disk { lens.cache_at(cache.clone()) } else { lens.in_memory() };
            let lens = if small { lens.snapshot_budget(600).hot_tier_capacity(1) } else { lens };
            match every {
                Some(every) => lens.refresh_every(every),
                None => lens,
            }
        };
        let ground = Ground::new(plan.kind, &clock, file);
        let source = ScriptedSource::over(ground.shell());
        let lens = builder().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        World {
            kind: plan.kind,
            lens,
            dio,
            clock,
            hands,
            source,
            ground,
            refreshers: if plan.kind == Kind::Facade { 2 } else { 1 },
            builder: Box::new(builder),
            on_disk,
            every,
            now: Duration::ZERO,
            due: every,
            refresh_failures: 0,
            failed_writes: 0,
            listing: None,
            pending: Vec::new(),
            held_writes: Vec::new(),
            here: Table::default(),
            there: Table::default(),
            stale: Stale::None,
            tables: Vec::new(),
            values: Vec::new(),
            records: Vec::new(),
            snapshots: Vec::new(),
            may_expire: small,
            at: "at the start".into(),
        }
    }

    /// Does it to both. Says whether the rows changed in one batch at the most.
    fn step(&mut self, step: &Step) -> bool {
        // A step that is in the way of what is under way ends that first.
        let alone = self.listing.is_none();
        match step {
            Step::Do(Op::Restart) => self.restart(),
            Step::Do(Op::Refresh) => {
                self.end_refresh(None);
                self.dio.refresh().unwrap();
                self.end_of_refresh(None, self.there.list(), Keep::none());
            }
            Step::Do(Op::RefreshOffline) => self.refresh_fails(Fault::Unavailable),
            Step::Do(Op::InvalidateAll) => {
                self.end_refresh(None);
                let began = self.source.calls(Call::List);
                self.dio.invalidate_all();
                self.source.wait_until_called(Call::List, began + 1);
                self.wait_for_refresher();
                self.end_of_refresh(None, self.there.list(), Keep::none());
                // All rows moved, and back.
                self.tables.iter_mut().for_each(TableView::forget_changes);
                return false;
            }
            Step::Do(op) => return self.apply(op),
            Step::BeginRefresh(asked, has_read) => self.begin_refresh(*asked, *has_read),
            Step::EndRefresh(fault) => {
                self.end_refresh(*fault);
                return true;
            }
            Step::BeginWrites(writes, is_done) => self.begin_writes(writes, *is_done),
            Step::EndWrites(fault) => {
                self.end_writes(*fault);
                return false;
            }
            Step::RefreshFails(fault) => self.refresh_fails(*fault),
            Step::WriteFails(write, fault) => {
                self.end_writes(None);
                let Some(op) = self.op(write) else { return false };
                self.source.next(Call::of(&op), trouble(*fault));
                self.write(op, Some(*fault));
                return false;
            }
            Step::ReadFails(id, fault) => {
                let calls = self.source.calls(Call::Get);
                self.source.next(Call::Get, trouble(*fault));
                self.dio.handle_event(ChangeEvent::Updated { id: id.text(), record: None }).unwrap();
                self.source.wait_until_ended(Call::Get, calls + 1);
            }
            Step::SlowRefresh(time) => self.slow_refresh(*time),
            Step::SlowWrite(write, time) => {
                self.end_writes(None);
                self.slow_write(write, *time);
                return false;
            }
            Step::Tick(time) => self.tick(*time),
        }
        alone
    }

    // ---- refreshes ---------------------------------------------------------------------------------------------

    /// A refresh ended well with these rows.
    fn refreshed_with(&mut self, rows: Vec<Plain>, keep: &Keep) {
        self.adopt(&rows, keep);
        self.refresh_failures = 0;
        self.due = self.every.map(|every| self.now + every);
    }

    fn refresh_failed(&mut self) {
        self.refresh_failures += 1;
        // The back-off of the schedule: 5 s, or the interval if that is shorter, doubled up to a minute.
        let factor = 1 << (self.refresh_failures - 1).min(8);
        let longest = Duration::from_secs(60);
        self.due =
            self.every.map(|every| self.now + (every.min(Duration::from_secs(5)) * factor).min(longest.max(every)));
    }

    fn end_of_refresh(&mut self, fault: Option<Fault>, rows: Vec<Plain>, touched: Keep) {
        match fault {
            None => {
                let keep = self.pending.iter().fold(touched, |keep, write| keep.with_target(&write.op));
                self.refreshed_with(rows, &keep);
            }
            Some(fault) => {
                self.refresh_failed();
                assert_eq!(self.dio.status().refresh_error.unwrap().kind(), kind_of(fault), "{}", self.at);
            }
        }
    }

    /// Returns when the refresher sleeps: what it was at has ended, to the last line.
    fn wait_for_refresher(&self) {
        self.hands.wait_for_sleepers(self.refreshers);
    }

    fn refresh_fails(&mut self, fault: Fault) {
        self.end_refresh(None);
        self.source.next(Call::List, trouble(fault));
        assert_eq!(self.dio.refresh().unwrap_err().kind(), kind_of(fault), "{}", self.at);
        self.end_of_refresh(Some(fault), Vec::new(), Keep::none());
    }

    fn begin_refresh(&mut self, asked: Asked, has_read: bool) {
        if self.listing.is_some() {
            return;
        }
        let held = self.source.hold(Call::List, if has_read { Point::BeforeAnswer } else { Point::BeforeWork });
        let mut asker = None;
        match (asked, self.due, self.tables.first()) {
            (Asked::WhenDue, Some(due), _) => {
                // Asleep before, it wakes; not yet asleep, it finds that it is due.
                self.hands.advance(due - self.now);
                self.now = due;
            }
            (Asked::OfView, _, Some(view)) => {
                // An ended flight must not be joined.
                self.wait_for_refresher();
                view.view.request_refresh().unwrap();
            }
            _ => {
                self.wait_for_refresher();
                let dio = self.dio.clone();
                let ask = move || dio.refresh();
                asker = Some(std::thread::Builder::new().name("asks for a refresh".into()).spawn(ask).unwrap());
            }
        }
        held.wait_until_held(1);
        let read = has_read.then(|| self.there.list());
        self.listing = Some(Listing { held, read, touched: Keep::none(), asker });
    }

    pub(crate) fn end_refresh(&mut self, fault: Option<Fault>) {
        let Some(Listing { held, read, touched, asker }) = self.listing.take() else { return };
        // What has been read can't fail any more.
        let fault = fault.filter(|_| read.is_none());
        if let Some(fault) = fault {
            self.source.next(Call::List, trouble(fault));
        }
        let rows = read.unwrap_or_else(|| self.there.list());
        drop(held);
        self.wait_for_refresher();
        if let Some(asker) = asker {
            let said = asker.join().unwrap().map_err(|error| error.kind());
            assert_eq!(said, fault.map_or(Ok(()), |fault| Err(kind_of(fault))), "{}", self.at);
        }
        self.end_of_refresh(fault, rows, touched);
    }

    fn slow_refresh(&mut self, time: Duration) {
        self.end_refresh(None);
        self.wait_for_refresher();
        let calls = self.source.calls(Call::List);
        self.source.set_latency(Call::List, time);
        let dio = self.dio.clone();
        let asker = std::thread::Builder::new().name("asks for a refresh".into()).spawn(move || dio.refresh()).unwrap();
        self.source.wait_until_called(Call::List, calls + 1);
        // It sleeps in the source now.
        self.wait_for_refresher();
        self.hands.advance(time);
        self.now += time;
        asker.join().unwrap().unwrap();
        self.source.heal();
        self.end_of_refresh(None, self.there.list(), Keep::none());
    }

    fn tick(&mut self, time: Duration) {
        self.hands.advance(time);
        self.now += time;
        if self.listing.is_some() {
            return;
        }
        self.wait_for_refresher();
        if self.due.is_some_and(|due| due <= self.now) {
            self.end_of_refresh(None, self.there.list(), Keep::none());
        }
    }

    // ---- writes ------------------------------------------------------------------------------------------------

    /// A write with what it leaves at the source, and so here, or why it fails.
    pub(crate) fn write(&mut self, op: WriteOp, fault: Option<Fault>) {
        let ticket = self.dio.write(op.clone()).unwrap();
        if !self.pending.is_empty() {
            self.pending.push(Pending { op, ticket, done: None });
            return;
        }
        self.settled(Pending { op, ticket, done: None }, fault);
    }

    fn settled(&mut self, write: Pending, fault: Option<Fault>) {
        let Pending { op, ticket, done } = write;
        let expected = done.unwrap_or_else(|| self.at_source(&op, fault));
        let outcome = ticket.wait(SOON).map_err(|error| error.kind());
        self.touch_target(&op);
        match expected {
            Ok(effect) => {
                let id = match &effect {
                    Effect::Put(id, _) | Effect::Remove(id) => Some(id.clone()),
                    Effect::Clear => None,
                };
                assert_eq!(outcome.map(|outcome| outcome.id), Ok(id), "{op:?} {}", self.at);
                self.take_effect(effect);
            }
            Err(kind) => {
                self.failed_writes += 1;
                assert_eq!(outcome.map(|outcome| outcome.id), Err(kind), "{op:?} {}", self.at);
            }
        }
    }

    fn at_source(&mut self, op: &WriteOp, fault: Option<Fault>) -> Result<Effect, ErrorKind> {
        match fault {
            None => self.ground.model(&mut self.there, op),
            // Its own failure comes before the loss of the answer.
            Some(Fault::AnswerLost) => {
                self.ground.model(&mut self.there, op)?;
                Err(kind_of(Fault::AnswerLost))
            }
            Some(fault) => Err(kind_of(fault)),
        }
    }

    fn begin_writes(&mut self, writes: &[Write], is_done: bool) {
        if !self.pending.is_empty() {
            return;
        }
        let ops: Vec<WriteOp> = writes.iter().filter_map(|write| self.op(write)).collect();
        let Some(first) = ops.first() else { return };
        // Only what can't fail comes as far as its answer.
        let is_done = is_done && matches!(first, WriteOp::Upsert { .. } | WriteOp::Delete { .. });
        let point = if is_done { Point::BeforeAnswer } else { Point::BeforeWork };
        let first = Call::of(first);
        for op in ops {
            let done = (is_done && self.pending.is_empty()).then(|| self.at_source(&op, None));
            if self.pending.is_empty() {
                let calls = if is_done { vec![first] } else { WRITES.to_vec() };
                self.held_writes = calls.into_iter().map(|call| self.source.hold(call, point)).collect();
            }
            let ticket = self.dio.write(op.clone()).unwrap();
            self.pending.push(Pending { op, ticket, done });
            if self.pending.len() == 1 {
                let held = self.held_writes.iter().find(|held| held.call() == first).unwrap();
                held.wait_until_held(1);
            }
        }
    }

    pub(crate) fn end_writes(&mut self, fault: Option<Fault>) {
        let writes = std::mem::take(&mut self.pending);
        let Some(first) = writes.first() else { return };
        let mut fault = fault.filter(|_| first.done.is_none());
        if let Some(fault) = fault {
            self.source.next(Call::of(&first.op), trouble(fault));
        }
        self.held_writes.clear();
        for write in writes {
            self.settled(write, fault.take());
        }
    }

    fn slow_write(&mut self, write: &Write, time: Duration) {
        let Some(op) = self.op(write) else { return };
        // A refresh must not become due meanwhile, for which of the two comes first would be open.
        let left = self.due.filter(|_| self.listing.is_none()).map(|due| due - self.now);
        let time = left.map_or(time, |left| time.min(left.saturating_sub(Duration::from_millis(1))));
        if time.is_zero() {
            return;
        }
        let call = Call::of(&op);
        let calls = self.source.calls(call);
        self.source.set_latency(call, time);
        let ticket = self.dio.write(op.clone()).unwrap();
        self.source.wait_until_called(call, calls + 1);
        let refreshers = self.refreshers - usize::from(self.listing.is_some());
        self.hands.wait_for_sleepers(refreshers + 1);
        self.hands.advance(time);
        self.now += time;
        self.settled(Pending { op, ticket, done: None }, None);
        self.source.heal();
    }

    // ---- the whole ---------------------------------------------------------------------------------------------

    fn check_status(&self) {
        // What was accepted is among the pending ones once the core has heard of it.
        self.settle();
        let status = self.dio.status();
        let counted = (status.refresh_failures, status.failed_writes, status.rows, status.complete);
        let expected = (self.refresh_failures, self.failed_writes, self.here.list().len() as u64, true);
        assert_eq!(counted, expected, "{}", self.at);
        assert_eq!(status.pending_writes > 0, self.pending.iter().any(|write| has_target(&write.op)), "{}", self.at);
        assert!(status.cache_error.is_none() && !status.closed, "{status:?} {}", self.at);
    }

    fn forget_views(&mut self) {
        self.tables.clear();
        self.values.clear();
        self.records.clear();
        self.snapshots.clear();
    }

    /// Closes everything, a refresh in the middle of it, and makes it anew: from the disk, while the source is away, or from
    /// the source.
    fn restart(&mut self) {
        self.end_writes(None);
        let view = self.dio.table_scenery().open().unwrap();
        assert!(self.lens.close(SOON).unwrap().is_closed(), "{}", self.at);
        assert_eq!(view.wait_for_change(view.generation(), None).unwrap_err().kind(), ErrorKind::Closed);
        if let Some(Listing { asker: Some(asker), .. }) = self.listing.take() {
            assert_eq!(asker.join().unwrap().unwrap_err().kind(), ErrorKind::Closed, "{}", self.at);
        }
        self.forget_views();
        if self.on_disk {
            self.source.next(Call::List, trouble(Fault::Unavailable));
        }
        self.lens = (self.builder)().build().unwrap();
        self.dio = self.lens.make_dio(self.source.clone()).unwrap();
        self.wait_for_refresher();
        (self.refresh_failures, self.failed_writes) = (0, 0);
        if self.on_disk {
            self.refresh_failed();
        } else {
            self.here = Table::default();
            self.refreshed_with(self.there.list(), &Keep::none());
        }
    }

    fn finish(mut self) {
        self.at = "at the end".into();
        self.end_refresh(None);
        self.end_writes(None);
        self.check(false);
        self.dio.refresh().unwrap();
        self.refreshed_with(self.there.list(), &Keep::none());
        self.check(false);
        self.forget_views();
        self.settle();
        self.dio.flush().unwrap();
        let status = self.dio.status();
        let left = (status.views, status.indexes, status.snapshots, status.snapshot_bytes, status.rows_in_memory);
        assert_eq!(left, (0, 0, 0, 0, 0), "{status:?}");
        assert_eq!(self.ground.rows(), self.there.list(), "the model of the {:?} source is wrong", self.kind);
        assert_eq!(self.clock.now().0, self.now, "the model of the time is wrong");
        assert!(self.lens.close(SOON).unwrap().is_closed());
    }
}

fn has_target(op: &WriteOp) -> bool {
    op.id().is_some() || matches!(op, WriteOp::DeleteAll)
}

pub(crate) fn kind_of(fault: Fault) -> ErrorKind {
    match fault {
        Fault::Unavailable | Fault::AnswerLost => ErrorKind::Unavailable,
        Fault::Rejected => ErrorKind::Rejected,
        Fault::Panics => ErrorKind::Panicked,
    }
}

fn trouble(fault: Fault) -> Trouble {
    let error = || Error::new(kind_of(fault), "the plan says so");
    match fault {
        Fault::Unavailable | Fault::Rejected => Trouble::Fails(error()),
        Fault::Panics => Trouble::Panics,
        Fault::AnswerLost => Trouble::AnswerLost(error()),
    }
}
