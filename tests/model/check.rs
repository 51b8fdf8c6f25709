//! What must hold after every operation.

use std::cmp::Ordering;
use std::collections::VecDeque;

use diorama::prelude::*;
use diorama::value::RowRef;
use diorama::{Aggregate, CustomAggregate, RecordStatus, TableSnapshot, ValueStatus};

use crate::local::Local;
use crate::ops::{Cut, Id, Kind, Query};
use crate::plain::{Plain, Table, distinct, extreme, nulls, total};
use crate::run::{NONE, SOON, Stale, World};

/// Earlier states of a view that changes are asked since.
const REMEMBERED: usize = 10;

/// What a table view shows: rows, and how each stands.
type Shown = Vec<(Plain, RowStatus)>;

/// What all views show.
pub(crate) struct State<'a> {
    here: &'a Local,
    /// With what is not settled.
    rows: Table,
    stale: &'a Stale,
}

impl<'a> State<'a> {
    pub(crate) fn new(here: &'a Local, stale: &'a Stale) -> Self {
        State { here, rows: here.shown(), stale }
    }

    fn status(&self, id: &str) -> RowStatus {
        match self.stale {
            _ if self.here.is_pending(id) => RowStatus::PendingWrite,
            Stale::One(stale) if stale == id => RowStatus::Stale,
            Stale::All => RowStatus::Stale,
            _ => RowStatus::Fresh,
        }
    }
}

/// A snapshot and what it showed when it was taken: rows, and first ids of rows that go by another one.
pub(crate) struct Frozen {
    snapshot: TableSnapshot,
    rows: Vec<Plain>,
    aliases: Vec<String>,
}

impl Frozen {
    pub(crate) fn of(view: &TableView, here: &Local) -> Self {
        let texts = (0..14).map(|number| Id(number).text());
        let aliases = texts.filter(|id| here.resolve(id) != *id).collect();
        Frozen { snapshot: view.view.snapshot(), rows: view.query.shown_of(&here.shown()), aliases }
    }
}

pub(crate) struct TableView {
    pub(crate) view: TableScenery,
    pub(crate) query: Query,
    /// Earlier generations and their rows, the newest last.
    past: VecDeque<(Generation, Shown)>,
    /// Changes since an older generation may be a reset.
    floor: Generation,
}

impl TableView {
    pub(crate) fn open(dio: &Dio, query: &Query) -> Self {
        let descriptor = query.descriptor();
        let view =
            descriptor.conditions.into_iter().fold(dio.table_scenery(), |view, condition| view.condition(condition));
        let view = descriptor.sort.into_iter().fold(view, |view, by| view.sort_with(by));
        let view = match query.search {
            Some(text) => view.search(text),
            None => view,
        };
        let view = match query.cut {
            Cut::Nothing => view,
            Cut::First(count) => view.limit(count),
            Cut::Last(count) => view.tail(count),
        };
        let view = view.open().unwrap();
        TableView { view, query: query.clone(), past: VecDeque::new(), floor: NONE }
    }

    /// Cuts it otherwise. The order stays, so the changes are told row by row.
    pub(crate) fn set_cut(&mut self, cut: Cut) {
        self.query.cut = cut;
        match cut {
            Cut::Nothing => self.view.set_limit(None).unwrap(),
            Cut::First(count) => self.view.set_limit(Some(count)).unwrap(),
            Cut::Last(count) => self.view.set_tail(Some(count)).unwrap(),
        }
        self.view.wait_until_ready(Some(SOON)).unwrap();
    }

    pub(crate) fn forget_changes(&mut self) {
        self.floor = self.view.generation();
    }

    fn check(&mut self, state: &State<'_>, one_step: bool, at: &str) {
        let snapshot = self.view.snapshot();
        let rows = self.query.shown_of(&state.rows).into_iter();
        let expected: Shown = rows.map(|row| (row.clone(), state.status(&row.0))).collect();
        let at = format!("{:?} {at}", self.query);
        assert!(matches!(snapshot.load_state(), LoadState::Ready), "{at}");
        let found: Shown = (0..snapshot.row_count()).map(|index| shown(&snapshot, index)).collect();
        assert_eq!(found, expected, "{at}");
        for number in 0..14 {
            let id = Id(number).text();
            let means = state.here.resolve(&id);
            let position = expected.iter().position(|((other, _), _)| *other == means);
            assert_eq!(snapshot.position_of(&id).unwrap(), position, "{id} of {at}");
        }
        let generation = snapshot.generation();
        assert_eq!(generation, self.view.generation(), "{at}");
        if let Some((last, rows)) = self.past.back() {
            let moved = generation.0 - last.0;
            if *rows != expected {
                assert!(moved > 0, "what it shows moved and the generation didn't: {at}");
                assert!(!one_step || moved == 1, "{moved} generations for one batch: {at}");
            } else if one_step {
                assert_eq!(moved, 0, "the generation moved and nothing else: {at}");
            }
        }
        for (from, rows) in &self.past {
            let set = self.view.changes_since(*from);
            assert_eq!((set.from, set.to), (*from, generation), "{at}");
            match set.changes {
                Changes::List(changes) => {
                    let mut mirror = rows.clone();
                    Change::apply_all(&changes, &mut mirror, |index| shown(&set.snapshot, index)).unwrap();
                    assert_eq!(mirror, expected, "by {changes:?} from {rows:?}: {at}");
                    if *from == generation {
                        assert!(changes.is_empty(), "{at}");
                    }
                }
                _ => assert!(*from < self.floor, "a reset since {from}, with {generation} and {}: {at}", self.floor),
            }
        }
        if self.past.back().is_none_or(|(last, _)| *last != generation) {
            self.past.push_back((generation, expected));
        }
        if self.past.len() > REMEMBERED {
            // Not the oldest each time, so that some reach far back.
            self.past.remove(generation.0 as usize % REMEMBERED);
        }
    }
}

fn shown(snapshot: &TableSnapshot, index: usize) -> (Plain, RowStatus) {
    let row = snapshot.row(index).unwrap();
    ((row.id().to_owned(), row.record().unwrap().clone()), row.status())
}

pub(crate) struct ValueView {
    view: ValueScenery,
    kind: Kind,
    path: &'static str,
    query: Query,
    last: Option<(Generation, String)>,
}

/// How many rows have a value at the path; an error when these are four.
struct Present(&'static str, u64);

impl Present {
    fn has(&self, row: RowRef<'_>) -> u64 {
        u64::from(row.get(self.0).is_some_and(|value| !value.is_null()))
    }
}

impl CustomAggregate for Present {
    fn add(&mut self, row: RowRef<'_>) {
        self.1 += self.has(row);
    }

    fn remove(&mut self, row: RowRef<'_>) {
        self.1 -= self.has(row);
    }

    fn result(&self) -> diorama::Result<Value> {
        match self.1 {
            4 => Err(Error::new(ErrorKind::Invalid, "four")),
            count => Ok(count.into()),
        }
    }
}

impl ValueView {
    pub(crate) fn open(dio: &Dio, kind: Kind, path: &'static str, query: &Query) -> Self {
        let descriptor = query.descriptor();
        let view = dio.value_scenery();
        let view = match kind {
            Kind::Count => view.count(),
            Kind::Sum => view.sum(path),
            Kind::Avg => view.aggregate(Aggregate::Avg(path.to_owned())),
            Kind::Min => view.min(path),
            Kind::Max => view.max(path),
            Kind::Distinct => view.distinct(path),
            Kind::Custom => view.custom(move || Present(path, 0)),
            Kind::Computed => view.computed(|rows| {
                let ids: diorama::Result<Vec<String>> =
                    rows.iter().map(|row| row.enriched().map(|row| row.id().to_owned())).collect();
                ids.map(|ids| ids.join(", "))
            }),
        };
        let view = descriptor.conditions.into_iter().fold(view, |view, condition| view.condition(condition));
        let view = descriptor.sort.into_iter().fold(view, |view, by| view.sort_with(by));
        let view = match query.search {
            Some(text) => view.search(text),
            None => view,
        };
        let view = view.open().unwrap();
        ValueView { view, kind, path, query: query.clone(), last: None }
    }

    fn check(&mut self, here: &Table, seq: Seq, one_step: bool, at: &str) {
        let rows = self.query.of(here);
        let at = format!("{:?} {} of {:?} {at}", self.kind, self.path, self.query);
        assert!(self.view.wait_for_seq(seq, Some(SOON)).unwrap() >= seq, "{at}");
        let found = self.view.value();
        let null = nulls(&rows, self.path);
        let total = total(&rows, self.path);
        let (value, counts) = match self.kind {
            Kind::Count => (Some(Value::from(rows.len() as u64)), [0; 3]),
            Kind::Sum => (Some(total.sum()), total.counts()),
            Kind::Avg => (Some(total.mean()), total.counts()),
            Kind::Min => (Some(extreme(&rows, self.path, &found, Ordering::Less)), [null, 0, 0]),
            Kind::Max => (Some(extreme(&rows, self.path, &found, Ordering::Greater)), [null, 0, 0]),
            Kind::Distinct => (Some(Value::from(distinct(&rows, self.path))), [null, 0, 0]),
            Kind::Custom => {
                let count = rows.len() as u64 - null;
                ((count != 4).then(|| Value::from(count)), [0; 3])
            }
            Kind::Computed => {
                let ids: Vec<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
                (Some(Value::from(ids.join(", "))), [0; 3])
            }
        };
        let status = if value.is_some() { ValueStatus::Fresh } else { ValueStatus::Error };
        assert_eq!(self.view.status(), status, "{:?} {at}", self.view.error());
        if let Some(value) = &value {
            assert_eq!(exactly(&found), exactly(value), "{at}");
        } else if let Some((_, last)) = &self.last
            && one_step
        {
            assert!(last.starts_with(&exactly(&found)), "the last value stays, which was {last}: {at}");
        }
        let shown = self.view.counts();
        assert_eq!([shown.skipped, shown.nan, shown.infinite], counts, "{at}");
        let now = (self.view.generation(), format!("{} {counts:?} {status:?}", exactly(&found)));
        if let Some(last) = self.last.replace(now.clone()) {
            check_step((last.0, now.0), last.1 != now.1, one_step, &at);
        }
    }
}

/// The value with every bit of a float; all NaNs are one.
fn exactly(value: &Value) -> String {
    match value {
        Value::Float(value) if !value.is_nan() => format!("{value} {:x}", value.to_bits()),
        other => format!("{other:?}"),
    }
}

fn check_step((before, after): (Generation, Generation), moved: bool, one_step: bool, at: &str) {
    let steps = after.0 - before.0;
    assert!(!moved || steps > 0, "what it shows moved and the generation didn't: {at}");
    if one_step {
        assert_eq!(steps, u64::from(moved), "generations for one batch: {at}");
    }
}

pub(crate) struct RecordView {
    view: RecordScenery,
    /// The id that its row goes by.
    id: String,
    last: Option<(Generation, RecordStatus, Option<Plain>)>,
}

impl RecordView {
    pub(crate) fn open(dio: &Dio, here: &Local, id: &str) -> Self {
        RecordView { view: dio.record_scenery(id).unwrap(), id: here.resolve(id), last: None }
    }

    /// The row of the first id goes by the other one.
    #[allow(dead_code, reason = "the model test has no source that chooses ids")]
    pub(crate) fn follow(&mut self, first: &str, id: &str) {
        if self.id == first {
            id.clone_into(&mut self.id);
        }
    }

    fn check(&mut self, state: &State<'_>, one_step: bool, at: &str) {
        let id = &self.id;
        let record = state.rows.get(id).cloned();
        let status = match (&record, state.status(id)) {
            (None, _) => RecordStatus::NotFound,
            (Some(_), RowStatus::PendingWrite) => RecordStatus::PendingWrite,
            (Some(_), RowStatus::Stale) => RecordStatus::Stale,
            (Some(_), _) => RecordStatus::Fresh,
        };
        assert_eq!((self.view.status(), self.view.record()), (status, record.clone()), "{id} {at}");
        // A row that goes by another id is another one to look at, whatever its fields say.
        let shown = record.map(|record| (id.clone(), record));
        let now = (self.view.generation(), status, shown);
        if let Some(last) = self.last.replace(now.clone()) {
            check_step((last.0, now.0), (last.1, &last.2) != (now.1, &now.2), one_step, &format!("{id} {at}"));
        }
    }
}

impl World {
    /// Compares everything that is open with the model. `one_step`: since the last time there was one batch at the most.
    pub(crate) fn check(&mut self, one_step: bool) {
        let at = self.at.clone();
        let seq = self.dio.seq();
        let state = State::new(&self.here, &self.stale);
        for view in &mut self.tables {
            view.check(&state, one_step, &at);
        }
        for view in &mut self.values {
            view.check(&state.rows, seq, one_step, &at);
        }
        for view in &mut self.records {
            view.check(&state, one_step, &at);
        }
        for (number, frozen) in self.snapshots.iter().enumerate() {
            check_snapshot(frozen, self.may_expire, &format!("snapshot {number} {at}"));
        }
        let rows = state.rows.list();
        assert_eq!(self.dio.cache().list().unwrap(), rows, "{at}");
        assert_eq!(self.dio.cache().count().unwrap(), rows.len() as u64, "{at}");
        assert!(self.dio.wait_for_seq(self.dio.seq(), Some(SOON)).is_ok(), "{at}");
    }
}

fn check_snapshot(frozen: &Frozen, may_expire: bool, at: &str) {
    let Frozen { snapshot, rows, aliases } = frozen;
    assert_eq!(snapshot.row_count(), rows.len(), "{at}");
    assert!(may_expire || !snapshot.is_expired(), "{at}");
    for (index, (row, (id, record))) in snapshot.iter().zip(rows).enumerate() {
        if row.status() == RowStatus::Expired {
            assert!(snapshot.is_expired(), "{at}");
        } else {
            assert_eq!((row.id(), row.record().unwrap()), (id.as_str(), record), "{at}");
        }
        let position = snapshot.position_of(id).unwrap();
        // Beyond the budget nobody knows any more which row a deleted id named.
        assert!(position == Some(index) || (position.is_none() && snapshot.is_expired()), "{id} at {position:?} {at}");
    }
    if !snapshot.is_expired() {
        let absent = (0..14).map(|number| Id(number).text()).filter(|id| !rows.iter().any(|(other, _)| other == id));
        for id in absent.filter(|id| !aliases.contains(id)) {
            assert_eq!(snapshot.position_of(&id).unwrap(), None, "{id} {at}");
        }
    }
}
