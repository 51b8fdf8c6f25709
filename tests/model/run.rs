//! Runs a script over a Dio and over the model.

use std::time::Duration;

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{Generation, LensBuilder};

use crate::check::{Frozen, RecordView, TableView, ValueView};
use crate::local::{Effect, Local};
use crate::ops::{Event, Id, Kind, Op, Query, Script};
use crate::plain::{Plain, Table};

pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Views of each kind and snapshots that are open at once.
const OPEN: usize = 6;

pub(crate) fn over_memory(script: &Script) {
    run(script, &|| Lens::new().in_memory(), false, false);
}

pub(crate) fn beyond_the_budget(script: &Script) {
    run(script, &|| Lens::new().in_memory().snapshot_budget(600).hot_tier_capacity(1).bulk_changes(2), true, false);
}

#[cfg(feature = "lmdb")]
pub(crate) fn over_disk(script: &Script) {
    let dir = tempfile::tempdir().unwrap();
    run(
        script,
        &|| Lens::new().cache_at(dir.path().join("cache")).hot_tier_capacity(2_000).bulk_changes(5),
        false,
        true,
    );
}

fn run(script: &Script, lens: &dyn Fn() -> LensBuilder, may_expire: bool, may_restart: bool) {
    let source = MemoryVista::new("table", "id");
    let built = lens().build().unwrap();
    let dio = built.make_dio(source.clone()).unwrap();
    let mut world = World {
        lens: built,
        dio,
        source,
        here: Local::default(),
        there: Table::default(),
        stale: Stale::None,
        tables: Vec::new(),
        values: Vec::new(),
        records: Vec::new(),
        snapshots: Vec::new(),
        may_expire,
        at: "at the start".into(),
    };
    world.check(true);
    for (number, op) in script.0.iter().enumerate() {
        world.at = format!("after {}. {op:?}", number + 1);
        if *op == Op::Restart {
            if may_restart {
                world = world.restart(lens);
            }
            continue;
        }
        let one_step = world.apply(op);
        world.check(one_step);
    }
    world.finish();
}

/// Which rows await their re-read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stale {
    None,
    One(String),
    All,
}

pub(crate) struct World {
    lens: Lens,
    pub(crate) dio: Dio,
    source: MemoryVista,
    /// The rows that the cache must show.
    pub(crate) here: Local,
    /// The rows that the source must have.
    there: Table,
    pub(crate) stale: Stale,
    pub(crate) tables: Vec<TableView>,
    pub(crate) values: Vec<ValueView>,
    pub(crate) records: Vec<RecordView>,
    pub(crate) snapshots: Vec<Frozen>,
    pub(crate) may_expire: bool,
    pub(crate) at: String,
}

impl World {
    /// Does it to both. Says whether the rows changed in one batch at the most.
    fn apply(&mut self, op: &Op) -> bool {
        let dio = self.dio.clone();
        match op {
            Op::Insert(id, fields) => {
                dio.cache().insert(id.text(), fields.record(&id.text())).unwrap();
                self.here.put(&id.text(), fields.record(&id.text()));
            }
            Op::Remove(id) => {
                dio.cache().remove(id.text()).unwrap();
                self.here.remove(&id.text());
            }
            Op::InsertMany(rows) => {
                let rows: Vec<Plain> = rows.iter().map(|(id, fields)| (id.text(), fields.record(&id.text()))).collect();
                dio.cache().insert_many(rows.clone()).unwrap();
                rows.into_iter().for_each(|(id, record)| self.here.put(&id, record));
            }
            Op::Clear => {
                dio.cache().clear().unwrap();
                self.here.clear();
            }
            Op::Patched(id, fields) => {
                dio.patched(id.text(), fields.record(&id.text())).unwrap();
                self.here.put(&id.text(), fields.record(&id.text()));
            }
            Op::PutAgain(id) => {
                if let Some(record) = self.here.confirmed(&id.text()) {
                    dio.patched(id.text(), record.clone()).unwrap();
                }
            }
            Op::WriteInsert(id, fields) => {
                let (id, record) = (id.text(), fields.record(&id.text()));
                let is_there = self.there.get(&id).is_some();
                let expected =
                    if is_there { Err(ErrorKind::Conflict) } else { Ok(Effect::Put(id.clone(), record.clone())) };
                self.write(WriteOp::insert_as(id, record), expected);
            }
            Op::WriteReplace(id, fields) => {
                let (id, record) = (id.text(), fields.record(&id.text()));
                let is_there = self.there.get(&id).is_some();
                let expected =
                    if is_there { Ok(Effect::Put(id.clone(), record.clone())) } else { Err(ErrorKind::NotFound) };
                self.write(WriteOp::replace(id, record), expected);
            }
            Op::WriteUpsert(id, fields) => {
                let (id, record) = (id.text(), fields.record(&id.text()));
                self.write(WriteOp::upsert(id.as_str(), record.clone()), Ok(Effect::Put(id, record)));
            }
            Op::WritePatch(id, fields) => {
                let id = id.text();
                let expected = self.there.get(&id).cloned().ok_or(ErrorKind::NotFound).map(|mut record| {
                    record.merge(&fields.patch());
                    Effect::Put(id.clone(), record)
                });
                self.write(WriteOp::patch(id, fields.patch()), expected);
            }
            Op::WriteDelete(id) => {
                self.write(WriteOp::delete(id.text()), Ok(Effect::Remove(id.text())));
            }
            Op::WriteDeleteAll => {
                self.write(WriteOp::delete_all(), Ok(Effect::Clear));
            }
            Op::WriteFails(id, fields) => {
                let (id, record) = (id.text(), fields.record(&id.text()));
                self.source.fail_next(Call::Upsert, 1, Error::new(ErrorKind::Rejected, "the script says so"));
                self.write(WriteOp::upsert(id, record), Err(ErrorKind::Rejected));
            }
            Op::OutsideUpsert(id, fields) => {
                self.source.outside_silently().upsert(&id.text(), fields.record(&id.text())).unwrap();
                self.there.put(&id.text(), fields.record(&id.text()));
            }
            Op::OutsideDelete(id) => {
                self.source.outside_silently().delete(&id.text()).unwrap();
                self.there.remove(&id.text());
            }
            Op::Refresh => {
                dio.refresh().unwrap();
                self.here.become_rows(&self.there.list());
            }
            Op::RefreshOffline => {
                self.source.set_offline(true);
                assert_eq!(dio.refresh().unwrap_err().kind(), ErrorKind::Unavailable);
                self.source.set_offline(false);
            }
            Op::Reconcile(rows) => {
                let rows: Vec<Plain> = rows.iter().map(|(id, fields)| (id.text(), fields.record(&id.text()))).collect();
                let twice =
                    rows.iter().enumerate().any(|(place, (id, _))| rows[..place].iter().any(|(other, _)| other == id));
                match dio.reconcile(rows.clone()) {
                    Ok(()) => {
                        assert!(!twice, "{}", self.at);
                        self.here.become_rows(&rows);
                    }
                    Err(error) => assert!(twice && error.kind() == ErrorKind::Invalid, "{error} {}", self.at),
                }
            }
            Op::ReconcileWithout(ids) => {
                let mut rows = self.here.list();
                rows.retain(|(id, _)| !ids.iter().any(|gone| gone.text() == *id));
                dio.reconcile(rows.clone()).unwrap();
                self.here.become_rows(&rows);
            }
            Op::Told(id, fields) => {
                let record = fields.record(&id.text());
                dio.handle_event(ChangeEvent::Updated { id: id.text(), record: Some(record.clone()) }).unwrap();
                self.here.put(&id.text(), record);
            }
            Op::Event(id, Event::Deleted) => {
                dio.handle_event(ChangeEvent::Deleted { id: id.text() }).unwrap();
                self.here.remove(&id.text());
            }
            Op::Event(id, event) => {
                let event = match event {
                    Event::InsertedWithout => ChangeEvent::Inserted { id: id.text(), record: None },
                    _ => ChangeEvent::Updated { id: id.text(), record: None },
                };
                self.reread(&id.text(), || dio.handle_event(event).unwrap(), false);
            }
            Op::Invalidate(id) => {
                self.reread(&id.text(), || dio.invalidate_record(id.text()), true);
                return false;
            }
            Op::InvalidateAll => {
                let held = self.source.hold(Call::List);
                dio.invalidate_all();
                self.settle();
                self.stale = Stale::All;
                self.forget_changes();
                self.check(true);
                assert!(held.wait_until_held(1, SOON), "{}", self.at);
                drop(held);
                dio.refresh().unwrap();
                self.stale = Stale::None;
                self.here.become_rows(&self.there.list());
                self.forget_changes();
                return false;
            }
            Op::Open(query) => {
                if self.tables.len() < OPEN {
                    self.tables.push(TableView::open(&dio, query));
                }
            }
            Op::OpenValue(kind, path, query) => self.open_value(*kind, path, query),
            Op::OpenRecord(id) => {
                if self.records.len() < OPEN {
                    self.records.push(RecordView::open(&dio, &self.here, &id.text()));
                }
            }
            Op::Drop(which) => self.drop_view(usize::from(*which)),
            Op::SetCut(view, cut) => {
                if let Some(place) = usize::from(*view).checked_rem(self.tables.len()) {
                    self.tables[place].set_cut(*cut);
                }
            }
            Op::SetSort(view, sort) => self.set(*view, |view| {
                view.query.sort.clone_from(sort);
                view.view.set_sort(view.query.sort_by()).unwrap();
            }),
            Op::SetSearch(view, search) => self.set(*view, |view| {
                view.query.search = *search;
                view.view.set_search(*search).unwrap();
            }),
            Op::SetConditions(view, conditions) => self.set(*view, |view| {
                view.query.conditions.clone_from(conditions);
                view.view.set_conditions(view.query.descriptor().conditions).unwrap();
            }),
            Op::Snapshot(view) => {
                if let Some(place) = usize::from(*view).checked_rem(self.tables.len())
                    && self.snapshots.len() < OPEN
                {
                    self.snapshots.push(Frozen::of(&self.tables[place], &self.here));
                }
            }
            Op::DropSnapshot(which) => {
                if let Some(place) = usize::from(*which).checked_rem(self.snapshots.len()) {
                    self.snapshots.swap_remove(place);
                }
            }
            Op::Facade(query, offset, limit) => self.facade(query, *offset, *limit),
            Op::Flush => {
                dio.flush().unwrap();
                if self.snapshots.is_empty() {
                    self.settle();
                    assert_eq!(dio.status().rows_in_memory, 0, "{}", self.at);
                }
            }
            Op::Restart => {}
        }
        true
    }

    fn open_value(&mut self, kind: Kind, path: &'static str, query: &Query) {
        if self.values.len() < OPEN {
            self.values.push(ValueView::open(&self.dio, kind, path, query));
        }
    }

    /// A write with what it does at the source, and so here, or why it fails. Both the batch that shows it and the one that
    /// settles it are looked at.
    fn write(&mut self, op: WriteOp, expected: Result<Effect, ErrorKind>) {
        let held = self.source.hold(Call::of(&op));
        let ticket = self.dio.write(op.clone()).unwrap();
        self.here.stage(op.clone(), op.id().map(str::to_owned));
        self.check(true);
        if let (Err(kind @ (ErrorKind::Conflict | ErrorKind::NotFound)), Some(id)) = (&expected, op.id()) {
            // Somebody else knows more of the row: it is read again.
            self.here.reject();
            let refused = || {
                drop(held);
                assert_eq!(ticket.wait(SOON).unwrap_err().kind(), *kind);
            };
            self.reread(id, refused, false);
            return self.check(false);
        }
        drop(held);
        let outcome = ticket.wait(SOON);
        match expected {
            Ok(effect) => {
                assert_eq!(outcome.unwrap().id.as_deref(), op.id(), "{}", self.at);
                match &effect {
                    Effect::Put(id, record) => self.there.put(id, record.clone()),
                    Effect::Remove(id) => self.there.remove(id),
                    Effect::Clear => self.there.clear(),
                }
                self.here.confirm(effect);
            }
            Err(kind) => {
                assert_eq!(outcome.unwrap_err().kind(), kind, "{}", self.at);
                self.here.reject();
            }
        }
    }

    /// Something that has one row read again, behind. Returns when what was read is visible.
    fn reread(&mut self, id: &str, ask: impl FnOnce(), marks_stale: bool) {
        let held = self.source.hold_answer(Call::Get);
        ask();
        assert!(held.wait_until_held(1, SOON), "{}", self.at);
        self.settle();
        if marks_stale && self.here.confirmed(id).is_some() {
            self.stale = Stale::One(id.to_owned());
            self.check(true);
            self.stale = Stale::None;
        }
        // The batch of what was read has a Seq of its own, be the row as it was. Without waiting for that it could meet a
        // `delete_all` that comes next, which would keep it off and then have all rows read again, whatever is done here by then.
        let seq = self.dio.seq();
        held.let_one_pass();
        // The next hold must not take this call for its own.
        while held.held() > 0 {
            std::thread::yield_now();
        }
        drop(held);
        match self.there.get(id) {
            Some(record) => self.here.put(id, record.clone()),
            None => self.here.remove(id),
        }
        assert!(self.dio.wait_for_seq(seq.next(), Some(SOON)).is_ok(), "{}", self.at);
        // Views move right after the batch is told of.
        self.settle();
    }

    /// Returns when the core has handled all that was sent before and swept up what was dropped before.
    pub(crate) fn settle(&self) {
        self.dio.cache().remove("no such row").unwrap();
        self.dio.cache().remove("no such row").unwrap();
    }

    fn forget_changes(&mut self) {
        self.tables.iter_mut().for_each(TableView::forget_changes);
    }

    fn set(&mut self, which: u8, set: impl FnOnce(&mut TableView)) {
        if let Some(place) = usize::from(which).checked_rem(self.tables.len()) {
            let view = &mut self.tables[place];
            set(view);
            view.view.wait_until_ready(Some(SOON)).unwrap();
            view.forget_changes();
        }
    }

    fn drop_view(&mut self, which: usize) {
        let (tables, values) = (self.tables.len(), self.values.len());
        let Some(place) = which.checked_rem(tables + values + self.records.len()) else { return };
        if place < tables {
            self.tables.swap_remove(place);
        } else if place < tables + values {
            self.values.swap_remove(place - tables);
        } else {
            self.records.swap_remove(place - tables - values);
        }
    }

    fn facade(&self, query: &Query, offset: usize, limit: usize) {
        let expected = query.of(&self.here.shown());
        let vista = self.dio.vista();
        let cx = CallCx::new();
        let descriptor = query.descriptor();
        assert_eq!(vista.list_query(&cx, &descriptor).unwrap(), expected, "{}", self.at);
        assert_eq!(vista.count_query(&cx, &descriptor).unwrap(), expected.len() as u64, "{}", self.at);
        let window: Vec<Plain> = expected.into_iter().skip(offset).take(limit).collect();
        assert_eq!(vista.list_query(&cx, &descriptor.windowed(offset, limit)).unwrap(), window, "{}", self.at);
        for number in 0..14 {
            let id = Id(number).text();
            assert_eq!(vista.get_value(&id).unwrap().as_ref(), self.here.confirmed(&id), "{}", self.at);
        }
    }

    /// Closes everything and opens it again while the source is away: the rows come from the disk.
    fn restart(mut self, lens: &dyn Fn() -> LensBuilder) -> World {
        self.check(true);
        self.dio.flush().unwrap();
        assert!(self.lens.close(SOON).unwrap().is_closed(), "{}", self.at);
        let World { dio, lens: old, source, here, there, may_expire, at, .. } = self;
        drop((dio, old));
        source.set_offline(true);
        let built = lens().build().unwrap();
        let dio = built.make_dio(source.clone()).unwrap();
        // The refresh that a warm start makes behind has failed when this one has.
        assert_eq!(dio.refresh().unwrap_err().kind(), ErrorKind::Unavailable);
        source.set_offline(false);
        let (tables, values, records, snapshots) = Default::default();
        let stale = Stale::None;
        let mut world =
            World { lens: built, dio, source, here, there, stale, tables, values, records, snapshots, may_expire, at };
        world.check(true);
        world
    }

    fn finish(mut self) {
        self.at = "at the end".into();
        self.check(true);
        self.tables.clear();
        self.values.clear();
        self.records.clear();
        self.snapshots.clear();
        self.settle();
        self.dio.flush().unwrap();
        let status = self.dio.status();
        let left = (status.views, status.indexes, status.snapshots, status.snapshot_bytes, status.rows_in_memory);
        assert_eq!(left, (0, 0, 0, 0, 0), "{status:?}");
        assert!(status.cache_error.is_none(), "{status:?}");
        assert_eq!(self.dio.wait_for_seq(self.dio.seq(), Some(Duration::ZERO)).unwrap(), self.dio.seq());
        assert_eq!(self.source.rows(), self.there.list(), "the model of the source is wrong");
        assert!(self.lens.close(SOON).unwrap().is_closed());
    }
}

/// The generation before the first.
pub(crate) const NONE: Generation = Generation(0);
