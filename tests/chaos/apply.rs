//! The plain operations, done to the Dio and to the model, whatever is under way beside them.

use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::check::{Frozen, RecordView, TableView, ValueView};
use crate::ground::Keep;
use crate::local::Unsettled;
use crate::ops::{Event, Fields, Id, Op, Query};
use crate::plain::Plain;
use crate::run::{OPEN, SOON, Waiting, World};
use crate::source::Trouble;
use crate::steps::{Fault, Verb, Write};

impl World {
    /// Does it to both. Says whether the rows changed in one batch at the most.
    pub(crate) fn apply(&mut self, op: &Op) -> bool {
        let dio = self.dio.clone();
        match op {
            Op::Insert(id, fields) | Op::Patched(id, fields) => {
                let (id, record) = (id.text(), fields.record(&id.text()));
                match op {
                    Op::Insert(..) => dio.cache().insert(id.as_str(), record.clone()).unwrap(),
                    _ => dio.patched(id.as_str(), record.clone()).unwrap(),
                }
                self.put(&id, record);
            }
            Op::Remove(id) => {
                dio.cache().remove(id.text()).unwrap();
                self.remove(&id.text());
            }
            Op::InsertMany(rows) => {
                let rows = listed(rows);
                dio.cache().insert_many(rows.clone()).unwrap();
                rows.into_iter().for_each(|(id, record)| self.put(&id, record));
            }
            Op::Clear => {
                dio.cache().clear().unwrap();
                self.here.list().iter().for_each(|(id, _)| self.touch(id));
                self.waiting.clear();
                self.here.clear();
            }
            Op::PutAgain(id) => {
                if let Some(record) = self.here.shown().get(&id.text()).cloned() {
                    dio.patched(id.text(), record.clone()).unwrap();
                    self.put(&id.text(), record);
                }
            }
            Op::WriteInsert(id, fields) => self.write_as(Verb::Insert, *id, fields),
            Op::WriteReplace(id, fields) => self.write_as(Verb::Replace, *id, fields),
            Op::WriteUpsert(id, fields) => self.write_as(Verb::Upsert, *id, fields),
            Op::WritePatch(id, fields) => self.write_as(Verb::Patch, *id, fields),
            Op::WriteDelete(id) => self.write_as(Verb::Delete, *id, &Fields(Vec::new())),
            Op::WriteDeleteAll => self.write_as(Verb::DeleteAll, Id(0), &Fields(Vec::new())),
            Op::WriteFails(id, fields) => {
                self.end_writes(&[]);
                let op = self.op(&Write(Verb::Upsert, *id, fields.clone())).unwrap();
                self.source.next(Call::Upsert, Trouble::Fails(Error::new(ErrorKind::Rejected, "the plan says so")));
                self.write(op, Some(Fault::Rejected));
                return false;
            }
            Op::OutsideUpsert(id, fields) => {
                let op = WriteOp::upsert(id.text(), self.ground.fit(fields).record(&id.text()));
                self.ground.outside(&op);
                let done = self.ground.model(&mut self.there, &op);
                assert!(done.is_ok(), "{}", self.at);
            }
            Op::OutsideDelete(id) => {
                self.ground.outside(&WriteOp::delete(id.text()));
                self.there.remove(&id.text());
            }
            Op::Reconcile(rows) => {
                let rows = listed(rows);
                let twice =
                    rows.iter().enumerate().any(|(place, (id, _))| rows[..place].iter().any(|(other, _)| other == id));
                match dio.reconcile(rows.clone()) {
                    Ok(()) => {
                        assert!(!twice, "{}", self.at);
                        self.here.skip(&rows);
                        self.adopt(&rows, &self.protected());
                    }
                    Err(error) => assert!(twice && error.kind() == ErrorKind::Invalid, "{error} {}", self.at),
                }
            }
            Op::ReconcileWithout(ids) => {
                let mut rows = self.here.list();
                rows.retain(|(id, _)| !ids.iter().any(|gone| gone.text() == *id));
                dio.reconcile(rows.clone()).unwrap();
                self.here.skip(&rows);
                self.adopt(&rows, &self.protected());
            }
            Op::Told(id, fields) => {
                let (id, record) = (id.text(), fields.record(&id.text()));
                dio.handle_event(ChangeEvent::Updated { id: id.clone(), record: Some(record.clone()) }).unwrap();
                match self.protected().has(&id) {
                    true => self.here.skip_one(&id),
                    false => self.found(&id, record),
                }
            }
            Op::Event(id, Event::Deleted) => {
                dio.handle_event(ChangeEvent::Deleted { id: id.text() }).unwrap();
                match self.protected().has(&id.text()) {
                    true => self.here.skip_one(&id.text()),
                    false => self.remove(&id.text()),
                }
            }
            Op::Event(id, event) => {
                let event = match event {
                    Event::InsertedWithout => ChangeEvent::Inserted { id: id.text(), record: None },
                    _ => ChangeEvent::Updated { id: id.text(), record: None },
                };
                self.reread(&id.text(), false, || dio.handle_event(event).unwrap());
                return false;
            }
            Op::Invalidate(id) => {
                self.reread(&id.text(), true, || dio.invalidate_record(id.text()));
                return false;
            }
            Op::Open(query) => {
                if self.tables.len() < OPEN {
                    self.tables.push(TableView::open(&dio, &self.ground.fit_query(query)));
                }
            }
            Op::OpenValue(kind, path, query) => {
                if self.values.len() < OPEN {
                    let (kind, path) = self.ground.fit_value(*kind, path);
                    self.values.push(ValueView::open(&dio, kind, path, &self.ground.fit_query(query)));
                }
            }
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
            Op::SetSort(view, sort) => {
                let sort = self.ground.fit_sort(sort);
                self.set(*view, |view| {
                    view.query.sort = sort;
                    view.view.set_sort(view.query.sort_by()).unwrap();
                });
            }
            Op::SetSearch(view, search) => self.set(*view, |view| {
                view.query.search = *search;
                view.view.set_search(*search).unwrap();
            }),
            Op::SetConditions(view, conditions) => {
                let conditions = self.ground.fit_conditions(conditions);
                self.set(*view, |view| {
                    view.query.conditions = conditions;
                    view.view.set_conditions(view.query.descriptor().conditions).unwrap();
                });
            }
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
            Op::Facade(query, offset, limit) => self.facade(&self.ground.fit_query(query), *offset, *limit),
            Op::Flush => {
                dio.flush().unwrap();
                if self.snapshots.is_empty() {
                    self.settle();
                    // What is not confirmed is nowhere else.
                    assert!(dio.status().rows_in_memory <= self.here.held(), "{}", self.at);
                }
            }
            Op::Refresh | Op::RefreshOffline | Op::InvalidateAll | Op::Restart => panic!("a step of its own: {op:?}"),
        }
        true
    }

    // ---- the model ---------------------------------------------------------------------------------------------

    /// The rows whose writes are on their way.
    pub(crate) fn protected(&self) -> Keep {
        self.here.unsettled().iter().fold(Keep::none(), Keep::with_write)
    }

    pub(crate) fn touch(&mut self, id: &str) {
        if let Some(listing) = &mut self.listing {
            listing.touched.add(id);
        }
    }

    pub(crate) fn touch_target(&mut self, write: &Unsettled) {
        if let Some(listing) = &mut self.listing {
            listing.touched = std::mem::take(&mut listing.touched).with_write(write);
        }
    }

    pub(crate) fn put(&mut self, id: &str, record: Record) {
        self.touch(id);
        self.waiting.retain(|waiting| waiting.id != id);
        self.here.put(id, record);
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.touch(id);
        self.waiting.retain(|waiting| waiting.id != id);
        self.here.remove(id);
    }

    /// A read of the source has found a row.
    pub(crate) fn found(&mut self, id: &str, record: Record) {
        let may_be_the_inserts = !self.here.clears_all()
            && self.here.unsettled().first().is_some_and(|write| matches!(write.op, WriteOp::Insert { id: None, .. }));
        if !may_be_the_inserts || self.here.confirmed(id).is_some() {
            return self.put(id, record);
        }
        match self.waiting.iter_mut().find(|waiting| waiting.id == id) {
            Some(waiting) => (waiting.record, waiting.is_doubtful) = (record, false),
            None => self.waiting.push(Waiting { id: id.to_owned(), record, is_doubtful: false }),
        }
    }

    /// The rows here become these, but for those that must be left alone.
    pub(crate) fn adopt(&mut self, rows: &[Plain], keep: &Keep) {
        self.waiting.iter_mut().for_each(|waiting| waiting.is_doubtful = true);
        for (id, _) in self.here.list() {
            if !keep.has(&id) && !rows.iter().any(|(other, _)| *other == id) {
                self.remove(&id);
            }
        }
        for (id, record) in rows {
            if !keep.has(id) && self.here.confirmed(id) != Some(record) {
                self.found(id, record.clone());
            }
        }
    }

    /// The write as the library takes it.
    pub(crate) fn op(&self, write: &Write) -> Option<WriteOp> {
        let Write(verb, id, fields) = write;
        let proposes = !self.ground.chooses_ids() || id.0 % 2 == 0;
        let (id, fields) = (id.text(), self.ground.fit(fields));
        let record = fields.record(&id);
        Some(match verb {
            Verb::Insert if proposes => WriteOp::insert_as(id, record),
            Verb::Insert => WriteOp::insert(record),
            Verb::Replace => WriteOp::replace(id, record),
            Verb::Upsert => WriteOp::upsert(id, record),
            Verb::Patch => WriteOp::patch(id, fields.patch()),
            Verb::Delete => WriteOp::delete(id),
            Verb::DeleteAll => WriteOp::delete_all(),
        })
    }

    fn write_as(&mut self, verb: Verb, id: Id, fields: &Fields) {
        if let Some(op) = self.op(&Write(verb, id, fields.clone())) {
            self.write(op, None);
        }
    }

    /// Something that has one row read again, behind. Returns when what was read is visible.
    fn reread(&mut self, id: &str, marks: bool, ask: impl FnOnce()) {
        // A row that is being written is left alone, and nothing tells of that.
        self.end_writes(&[]);
        let seq = self.dio.seq();
        ask();
        // One batch marks the row, and one brings what was read, be it as it was.
        let wanted = Seq(seq.0 + 1 + u64::from(marks && self.here.confirmed(id).is_some()));
        assert!(self.dio.wait_for_seq(wanted, Some(SOON)).is_ok(), "{}", self.at);
        // Views move right after the batch is told of.
        self.settle();
        match self.there.get(id).cloned() {
            Some(record) => self.put(id, record),
            None => self.remove(id),
        }
    }

    // ---- views -------------------------------------------------------------------------------------------------

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
        let shown = self.here.shown();
        let expected = query.of(&shown);
        let vista = self.dio.vista();
        let cx = CallCx::new();
        let descriptor = query.descriptor();
        assert_eq!(vista.list_query(&cx, &descriptor).unwrap(), expected, "{}", self.at);
        assert_eq!(vista.count_query(&cx, &descriptor).unwrap(), expected.len() as u64, "{}", self.at);
        let window: Vec<Plain> = expected.into_iter().skip(offset).take(limit).collect();
        assert_eq!(vista.list_query(&cx, &descriptor.windowed(offset, limit)).unwrap(), window, "{}", self.at);
        for number in 0..14 {
            let id = Id(number).text();
            assert_eq!(vista.get_value(&id).unwrap().as_ref(), shown.get(&self.here.resolve(&id)), "{}", self.at);
        }
    }

    /// Returns when the core has handled all that was sent before and swept up what was dropped before.
    pub(crate) fn settle(&self) {
        self.dio.cache().remove("no such row").unwrap();
        self.dio.cache().remove("no such row").unwrap();
    }
}

fn listed(rows: &[(Id, Fields)]) -> Vec<Plain> {
    rows.iter().map(|(id, fields)| (id.text(), fields.record(&id.text()))).collect()
}
