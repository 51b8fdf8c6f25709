//! Runs a plan over a Dio and over the model.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use diorama::clock::{Clock, ManualClock};
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{DeliveryPolicy, Generation, LensBuilder, WriteTicket};

use crate::check::{Frozen, RecordView, TableView, ValueView};
use crate::ground::{Ground, Keep};
use crate::local::{Effect, Local};
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

/// What is known of a write that was accepted and is not settled, beside what it does to the rows here.
pub(crate) struct Pending {
    ticket: WriteTicket,
    /// What the source made of it, if it has it already.
    done: Option<Result<Effect, ErrorKind>>,
}

/// A row that a read has found new while the source has an insert that it may be the row of.
pub(crate) struct Waiting {
    pub(crate) id: String,
    pub(crate) record: Record,
    /// A later copy of the source was without it.
    pub(crate) is_doubtful: bool,
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
    /// Those of `here`, in their order.
    pub(crate) pending: Vec<Pending>,
    /// Rows that show once the insert at the source is settled.
    pub(crate) waiting: Vec<Waiting>,
    /// Such rows that are read again then.
    rereads: Vec<String>,
    held_writes: Vec<HeldCalls>,
    held_answer: Option<HeldCalls>,
    barriers: u64,
    /// The rows that the cache must show.
    pub(crate) here: Local,
    /// The rows that the source must have.
    pub(crate) there: Table,
    pub(crate) stale: Stale,
    pub(crate) tables: Vec<TableView>,
    pub(crate) values: Vec<ValueView>,
    pub(crate) records: Vec<RecordView>,
    pub(crate) snapshots: Vec<Frozen>,
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
            let lens = Lens::new()
                .clock(on_clock.clone())
                .source_timeout(None)
                .delivery(DeliveryPolicy::default().max_attempts(Some(1)).deadline(Duration::MAX));
            let lens = if on_disk { lens.cache_at(cache.clone()) } else { lens.in_memory() };
            let lens = if small { lens.snapshot_budget(600).hot_tier_capacity(1).bulk_changes(2) } else { lens };
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
            waiting: Vec::new(),
            rereads: Vec::new(),
            held_writes: Vec::new(),
            held_answer: None,
            barriers: 0,
            here: Local::default(),
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
            Step::Do(Op::Restart) => {
                self.end_writes(&[]);
                self.restart();
            }
            Step::CloseWithWrites(writes, is_done) => {
                self.begin_writes(writes, *is_done);
                if self.on_disk {
                    // The journal would keep them: the crash test looks at that.
                    self.end_writes(&[]);
                }
                self.restart();
            }
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
            Step::EndWrites(faults) => {
                self.end_writes(faults);
                return false;
            }
            Step::RefreshFails(fault) => self.refresh_fails(*fault),
            Step::WriteFails(write, fault) => {
                self.end_writes(&[]);
                let Some(op) = self.op(write) else { return false };
                self.source.next(Call::of(&op), trouble_of_write(*fault));
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
                self.end_writes(&[]);
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
                self.here.skip(&rows);
                let keep = self.here.unsettled().iter().fold(touched, Keep::with_write);
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

    /// A write that comes behind those that are held, or is alone: then it goes through.
    pub(crate) fn write(&mut self, op: WriteOp, fault: Option<Fault>) {
        if self.pending.is_empty() {
            self.begin_write(op, false);
            self.end_writes(&[fault]);
        } else {
            self.accept(op);
        }
    }

    /// A write that shows now.
    fn accept(&mut self, op: WriteOp) {
        let target = op.id().map(|id| self.here.target(id));
        let is_all = matches!(op, WriteOp::DeleteAll);
        if is_all && self.here.clears_all() {
            // What the earlier one has kept off is read again at once.
            self.end_refresh(None);
            self.check(true);
        }
        let before = is_all.then(|| (self.source.calls(Call::List), self.source.hold(Call::Get, Point::BeforeWork)));
        let ticket = self.dio.write(op.clone()).unwrap();
        let id = ticket.id().map(|id| id.to_string());
        let op = match target {
            Some(target) => {
                assert_eq!(id.as_ref(), Some(&target), "{op:?} {}", self.at);
                named(op, &target)
            }
            None => op,
        };
        self.here.stage(op, id);
        self.pending.push(Pending { ticket, done: None });
        if let Some((lists, gets)) = before {
            let pointless = self.here.supersede();
            for write in self.pending.drain(1..1 + pointless) {
                assert_eq!(write.ticket.wait(SOON).unwrap_err().kind(), ErrorKind::Cancelled, "{}", self.at);
            }
            if pointless > 0 {
                self.reread_skipped(lists, gets);
                // Rows may have been read again.
                return self.check(false);
            }
        }
        self.check(true);
    }

    /// A write that stays in the source: before it is done, or with what it has done.
    fn begin_write(&mut self, op: WriteOp, is_done: bool) {
        let call = Call::of(&op);
        self.held_writes = WRITES.into_iter().map(|call| self.source.hold(call, Point::BeforeWork)).collect();
        let answer = is_done.then(|| self.source.hold(call, Point::BeforeAnswer));
        self.accept(op);
        self.held(call).wait_until_held(1);
        if let Some(answer) = answer {
            self.held(call).let_one_pass();
            answer.wait_until_held(1);
            self.held_answer = Some(answer);
            let op = self.here.unsettled()[0].op.clone();
            let done = self.at_source(&op, None);
            self.pending[0].done = Some(done);
        }
    }

    fn held(&self, call: Call) -> &HeldCalls {
        self.held_writes.iter().find(|held| held.call() == call).unwrap()
    }

    fn at_source(&mut self, op: &WriteOp, fault: Option<Fault>) -> Result<Effect, ErrorKind> {
        match fault {
            None => self.ground.model(&mut self.there, op),
            // Its own failure comes before the loss of the answer.
            Some(Fault::AnswerLost) => {
                self.ground.model(&mut self.there, op)?;
                Err(kind_of_write(Fault::AnswerLost))
            }
            Some(fault) => Err(kind_of_write(fault)),
        }
    }

    fn begin_writes(&mut self, writes: &[Write], is_done: bool) {
        if !self.pending.is_empty() {
            return;
        }
        for write in writes {
            let Some(op) = self.op(write) else { continue };
            if self.pending.is_empty() {
                // Only what can't fail comes as far as its answer.
                let can_not_fail = matches!(op, WriteOp::Upsert { .. } | WriteOp::Delete { .. })
                    || (matches!(op, WriteOp::Insert { .. }) && self.ground.chooses_ids());
                self.begin_write(op, is_done && can_not_fail);
            } else {
                self.accept(op);
            }
        }
    }

    /// The writes that are held go on, one by one, and some go wrong.
    pub(crate) fn end_writes(&mut self, faults: &[Option<Fault>]) {
        if self.here.clears_all() {
            // What it skips is read again as soon as all rows may be.
            self.end_refresh(None);
            self.check(true);
        }
        let mut faults = faults.iter().copied().cycle();
        while !self.pending.is_empty() {
            let write = self.pending.remove(0);
            let mut op = self.here.unsettled()[0].op.clone();
            if let (Some(_), Some(id)) = (op.id(), &self.here.unsettled()[0].id) {
                op = named(op, id);
            }
            let fault = faults.next().flatten().filter(|_| write.done.is_none());
            let lists = self.source.calls(Call::List);
            // Rows are read again after all are, so that new ones come in one order.
            let gets = self.source.hold(Call::Get, Point::BeforeWork);
            let held_lists = self.source.hold(Call::List, Point::BeforeWork);
            let call = Call::of(&op);
            match self.held_answer.take() {
                Some(answer) => drop(answer),
                None => {
                    self.held(call).wait_until_held(1);
                    if let Some(fault) = fault {
                        self.source.next(call, trouble_of_write(fault));
                    }
                    self.held(call).let_one_pass();
                }
            }
            let expected = write.done.unwrap_or_else(|| self.at_source(&op, fault));
            self.settled(&write.ticket, &op, expected);
            if let Some(next) = self.here.unsettled().first() {
                // What is read again is read while the next write is there.
                self.held(Call::of(&next.op)).wait_until_held(1);
            }
            drop(held_lists);
            self.reread_skipped(lists, gets);
        }
        self.held_writes.clear();
    }

    /// The oldest write ends as it is expected to, there and here.
    fn settled(&mut self, ticket: &WriteTicket, op: &WriteOp, expected: Result<Effect, ErrorKind>) {
        let outcome = ticket.wait(SOON).map_err(|error| error.kind());
        let write = self.here.unsettled()[0].clone();
        self.touch_target(&write);
        let waiting = std::mem::take(&mut self.waiting);
        let mut stored = None;
        match expected {
            Ok(effect) => {
                let id = match &effect {
                    Effect::Put(id, _) | Effect::Remove(id) => Some(id.clone()),
                    Effect::Clear => None,
                };
                assert_eq!(outcome.map(|outcome| outcome.id), Ok(id.clone()), "{op:?} {}", self.at);
                if let Some(id) = id {
                    self.touch(&id);
                    stored = Some(id);
                }
                if let Some((first, id)) = self.here.confirm(effect) {
                    self.records.iter_mut().for_each(|view| view.follow(&first, &id));
                }
            }
            Err(kind) => {
                // It is read again: somebody else seems to know more of it, or the source may have done it.
                let is_changed = matches!(kind, ErrorKind::Conflict | ErrorKind::NotFound);
                let may_be_done = matches!(kind, ErrorKind::Source | ErrorKind::Panicked);
                match &write.id {
                    Some(id) if is_changed || (may_be_done && write.op.id().is_some()) => self.here.miss(id),
                    None if may_be_done => self.here.miss_all(),
                    _ => {}
                }
                self.failed_writes += 1;
                assert_eq!(outcome.map(|outcome| outcome.id), Err(kind), "{op:?} {}", self.at);
                for place in self.here.reject().into_iter().rev() {
                    let orphan = self.pending.remove(place).ticket.wait(SOON);
                    assert_eq!(orphan.unwrap_err().kind(), ErrorKind::NotFound, "{}", self.at);
                    self.failed_writes += 1;
                }
            }
        }
        self.show_waiting(waiting, stored.as_deref());
        for (write, pending) in self.here.unsettled().iter().zip(&self.pending) {
            assert_eq!(pending.ticket.id().as_deref(), write.id.as_deref(), "{}", self.at);
        }
    }

    /// What waited for an insert shows now, but for its own row.
    fn show_waiting(&mut self, waiting: Vec<Waiting>, stored: Option<&str>) {
        for row in waiting {
            match () {
                () if row.is_doubtful => self.rereads.push(row.id),
                // It was read after it was made.
                () if stored == Some(&*row.id) => self.put(&row.id, row.record),
                () if self.protected().has(&row.id) => self.here.skip_one(&row.id),
                () => self.put(&row.id, row.record),
            }
        }
        // Its own one first.
        self.rereads.sort_by_key(|id| stored != Some(id));
    }

    /// What a read had to leave alone is read again once its writes are settled.
    fn reread_skipped(&mut self, lists: u64, gets: HeldCalls) {
        let (mut rows, all) = (self.here.take_rereads(), self.here.take_reread_of_all());
        for id in std::mem::take(&mut self.rereads) {
            if !rows.contains(&id) {
                rows.push(id);
            }
        }
        if rows.is_empty() && !all {
            self.check(true);
            return;
        }
        if all {
            self.source.wait_until_called(Call::List, lists + 1);
            self.wait_for_refresher();
            self.end_of_refresh(None, self.there.list(), Keep::none());
        }
        drop(gets);
        // The load thread does one thing after the other, so that it has read the rows when it comes to this one.
        self.barriers += 1;
        let barrier = format!("barrier {}", self.barriers);
        self.source.make_unreadable(&barrier);
        self.dio.handle_event(ChangeEvent::Updated { id: barrier.clone(), record: None }).unwrap();
        self.source.wait_until_tried(&barrier);
        for id in rows {
            match self.there.get(&id).cloned() {
                _ if self.protected().has(&id) => self.here.skip_one(&id),
                Some(record) => self.found(&id, record),
                None => self.remove(&id),
            }
        }
        self.check(false);
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
        self.accept(op);
        self.source.wait_until_called(call, calls + 1);
        let refreshers = self.refreshers - usize::from(self.listing.is_some());
        self.hands.wait_for_sleepers(refreshers + 1);
        let lists = self.source.calls(Call::List);
        let gets = self.source.hold(Call::Get, Point::BeforeWork);
        self.hands.advance(time);
        self.now += time;
        let write = self.pending.remove(0);
        let op = self.here.unsettled()[0].op.clone();
        let expected = self.at_source(&op, None);
        self.settled(&write.ticket, &op, expected);
        self.source.heal();
        self.reread_skipped(lists, gets);
    }

    // ---- the whole ---------------------------------------------------------------------------------------------

    fn check_status(&self) {
        // What was accepted is among the pending ones once the core has heard of it.
        self.settle();
        let status = self.dio.status();
        let counted = (status.refresh_failures, status.failed_writes, status.rows, status.complete);
        let expected = (self.refresh_failures, self.failed_writes, self.here.list().len() as u64, true);
        assert_eq!(counted, expected, "{}", self.at);
        assert_eq!(status.pending_writes, self.pending.len(), "{}", self.at);
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
        let view = self.dio.table_scenery().open().unwrap();
        if !self.pending.is_empty() {
            self.dio.flush().unwrap();
            self.lens.close(Duration::from_millis(1)).unwrap();
            for write in self.pending.drain(..) {
                assert_eq!(write.ticket.wait(SOON).unwrap_err().kind(), ErrorKind::Closed, "{}", self.at);
            }
        }
        assert!(self.lens.close(SOON).unwrap().is_closed(), "{}", self.at);
        assert_eq!(view.wait_for_change(view.generation(), None).unwrap_err().kind(), ErrorKind::Closed);
        if let Some(Listing { asker: Some(asker), .. }) = self.listing.take() {
            assert_eq!(asker.join().unwrap().unwrap_err().kind(), ErrorKind::Closed, "{}", self.at);
        }
        self.forget_views();
        self.held_writes.clear();
        self.held_answer = None;
        if self.on_disk {
            self.source.next(Call::List, trouble(Fault::Unavailable));
        }
        self.lens = (self.builder)().build().unwrap();
        self.dio = self.lens.make_dio(self.source.clone()).unwrap();
        self.wait_for_refresher();
        (self.refresh_failures, self.failed_writes) = (0, 0);
        if self.on_disk {
            let dio = self.dio.clone();
            self.here = std::mem::take(&mut self.here).into_stored(|id| dio.cache().get(id).unwrap());
            self.refresh_failed();
        } else {
            self.here = Local::default();
            self.refreshed_with(self.there.list(), &Keep::none());
        }
    }

    fn finish(mut self) {
        self.at = "at the end".into();
        self.end_refresh(None);
        self.end_writes(&[]);
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

/// The write, of the row of this id.
fn named(mut op: WriteOp, name: &str) -> WriteOp {
    match &mut op {
        WriteOp::Insert { id: Some(id), .. }
        | WriteOp::Replace { id, .. }
        | WriteOp::Upsert { id, .. }
        | WriteOp::Patch { id, .. }
        | WriteOp::Delete { id } => name.clone_into(id),
        _ => {}
    }
    op
}

pub(crate) fn kind_of(fault: Fault) -> ErrorKind {
    match fault {
        Fault::Unavailable | Fault::AnswerLost => ErrorKind::Unavailable,
        Fault::Rejected => ErrorKind::Rejected,
        Fault::Panics => ErrorKind::Panicked,
    }
}

/// A write that finds its source away would wait for it; one that fails otherwise has one attempt here.
fn kind_of_write(fault: Fault) -> ErrorKind {
    match kind_of(fault) {
        ErrorKind::Unavailable => ErrorKind::Source,
        kind => kind,
    }
}

fn trouble(fault: Fault) -> Trouble {
    trouble_with(fault, kind_of(fault))
}

fn trouble_of_write(fault: Fault) -> Trouble {
    trouble_with(fault, kind_of_write(fault))
}

fn trouble_with(fault: Fault, kind: ErrorKind) -> Trouble {
    let error = || Error::new(kind, "the plan says so");
    match fault {
        Fault::Unavailable | Fault::Rejected => Trouble::Fails(error()),
        Fault::Panics => Trouble::Panics,
        Fault::AnswerLost => Trouble::AnswerLost(error()),
    }
}
