//! The stage of tests of unsettled writes: a Dio all of whose writes wait at the source, and a list that follows a view.

use diorama::prelude::*;
use diorama::sources::memory::{Call, HoldGuard};
use diorama::{Cause, LensBuilder, Row, WriteTicket};

use crate::support::*;

/// A Dio over rows a, b and c, all of whose writes wait at the source.
pub(crate) struct Stage {
    pub(crate) source: MemoryVista,
    pub(crate) _lens: Lens,
    pub(crate) dio: Dio,
    pub(crate) view: TableScenery,
    pub(crate) held: Vec<(Call, HoldGuard)>,
}

pub(crate) const WRITES: [Call; 6] =
    [Call::Insert, Call::Replace, Call::Upsert, Call::Patch, Call::Delete, Call::DeleteAll];

impl Stage {
    pub(crate) fn new(cache: &Cache, source: MemoryVista) -> Self {
        Stage::on(cache.lens(), source)
    }

    pub(crate) fn on(lens: LensBuilder, source: MemoryVista) -> Self {
        let lens = lens.build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let held = WRITES.map(|call| (call, source.hold(call))).into();
        Stage { source, _lens: lens, dio, view, held }
    }

    /// A write that is shown, and waits.
    pub(crate) fn write(&self, op: WriteOp) -> WriteTicket {
        self.dio.write(op).unwrap()
    }

    pub(crate) fn wait_until_held(&self, call: Call) {
        self.wait_until_so_many_are_held(call, 1);
    }

    pub(crate) fn wait_until_so_many_are_held(&self, call: Call, count: usize) {
        let held = self.held.iter().find(|(other, _)| *other == call).map(|(_, held)| held);
        assert!(held.unwrap().wait_until_held(count, SOON), "too few `{call}` come to the source");
    }

    /// Has the source do the one that waits.
    pub(crate) fn let_one_pass(&self, call: Call) {
        self.held.iter().find(|(other, _)| *other == call).unwrap().1.let_one_pass();
    }

    /// Has the source do all that waits, and all that comes.
    pub(crate) fn let_go(&mut self) {
        self.held.clear();
    }

    pub(crate) fn refuse_next(&self, call: Call) {
        self.source.fail_next(call, 1, Error::new(ErrorKind::Rejected, "on purpose"));
    }

    /// Each row as `id=price`, with a mark if it waits for the source.
    pub(crate) fn shown(&self) -> Vec<String> {
        marked(&self.view)
    }
}

pub(crate) fn marked(view: &TableScenery) -> Vec<String> {
    let mark = |status| match status {
        RowStatus::Fresh => "",
        RowStatus::PendingWrite => "*",
        other => panic!("a row is {other:?}"),
    };
    let row = |row: Row| format!("{}={}{}", row.id(), row.int("price").unwrap_or(-1), mark(row.status()));
    view.snapshot().iter().map(row).collect()
}

pub(crate) fn price(price: i64) -> Record {
    record! { "price" => price }
}

/// A list of rows that is kept by change sets alone.
pub(crate) struct Mirror {
    pub(crate) view: TableScenery,
    pub(crate) seen: Generation,
    pub(crate) rows: Vec<(String, i64, RowStatus)>,
}

impl Mirror {
    pub(crate) fn of(view: &TableScenery) -> Self {
        let snapshot = view.snapshot();
        let rows = snapshot.iter().map(|row| Mirror::row(&row)).collect();
        Mirror { view: view.clone(), seen: snapshot.generation(), rows }
    }

    pub(crate) fn row(row: &Row) -> (String, i64, RowStatus) {
        (row.id().to_owned(), row.int("price").unwrap_or(-1), row.status())
    }

    /// Follows the view; says why it changed and in how many steps.
    pub(crate) fn follow(&mut self) -> (Option<Cause>, u64) {
        let set = self.view.changes_since(self.seen);
        let Changes::List(changes) = set.changes else { panic!("a reset") };
        Change::apply_all(&changes, &mut self.rows, |index| Mirror::row(&set.snapshot.row(index).unwrap())).unwrap();
        let expected: Vec<_> = set.snapshot.iter().map(|row| Mirror::row(&row)).collect();
        assert_eq!(self.rows, expected, "by {changes:?}");
        let steps = set.to.0 - self.seen.0;
        self.seen = set.to;
        (set.cause, steps)
    }
}

pub(crate) fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

pub(crate) fn product_of(id: &str, name: &str, price: i64) -> Record {
    let mut record = record! { "id" => id };
    record.merge(&product(name, price));
    record
}
