//! What can happen to a Dio, as data, and how it is made up.

use std::fmt;
use std::ops::Range;

use diorama::{Record, Value};
use proptest::prelude::*;

/// A field of a row.
#[derive(Clone, PartialEq)]
pub(crate) enum V {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<V>),
    Map(Vec<(String, V)>),
}

impl fmt::Debug for V {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            V::Null => f.write_str("null"),
            V::Bool(value) => value.fmt(f),
            V::Int(value) => value.fmt(f),
            V::Float(value) => value.fmt(f),
            V::Text(value) => value.fmt(f),
            V::List(items) => items.fmt(f),
            V::Map(entries) => f.debug_map().entries(entries.iter().map(|(name, value)| (name, value))).finish(),
        }
    }
}

impl V {
    pub(crate) fn value(&self) -> Value {
        match self {
            V::Null => Value::Null,
            V::Bool(value) => Value::Bool(*value),
            V::Int(value) => Value::from(*value),
            V::Float(value) => Value::Float(*value),
            V::Text(value) => Value::Text(value.clone()),
            V::List(items) => Value::Array(items.iter().map(V::value).collect()),
            V::Map(entries) => {
                Value::Map(entries.iter().map(|(name, value)| (Value::Text(name.clone()), value.value())).collect())
            }
        }
    }
}

/// The fields of a row beside its id.
#[derive(Clone, PartialEq)]
pub(crate) struct Fields(pub(crate) Vec<(&'static str, V)>);

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, value))).finish()
    }
}

impl Fields {
    pub(crate) fn patch(&self) -> Record {
        self.0.iter().map(|(name, value)| (*name, value.value())).collect()
    }

    pub(crate) fn record(&self, id: &str) -> Record {
        let mut record = Record::new();
        record.insert("id", id);
        record.merge(&self.patch());
        record
    }
}

/// A row's id: few, so that operations meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) u8);

impl Id {
    pub(crate) fn text(self) -> String {
        match self.0 {
            0 => "00501".into(),
            1 => "0E8".into(),
            2 => "Ünïcode ✓".into(),
            3 => "long ".repeat(200),
            number => format!("r{number}"),
        }
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A condition, as plain data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum C {
    Eq(&'static str, V),
    Ne(&'static str, V),
    Lt(&'static str, V),
    Le(&'static str, V),
    Gt(&'static str, V),
    Ge(&'static str, V),
    In(&'static str, Vec<V>),
    NotIn(&'static str, Vec<V>),
    Like(&'static str, &'static str),
    IsNull(&'static str),
    And(Vec<C>),
    Or(Vec<C>),
    Not(Box<C>),
}

/// A sort column: its path, whether it is descending, whether it disregards case.
pub(crate) type By = (&'static str, bool, bool);

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Query {
    pub(crate) conditions: Vec<C>,
    pub(crate) search: Option<&'static str>,
    /// Columns, and whether they descend.
    pub(crate) sort: Vec<By>,
    pub(crate) cut: Cut,
}

/// How much of the rows a table view shows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Cut {
    #[default]
    Nothing,
    First(usize),
    Last(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Event {
    InsertedWithout,
    UpdatedWithout,
    Deleted,
}

/// What a value view computes of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    Distinct,
    /// Code of the test that takes rows in and out: how many have a value; an error when these are four.
    Custom,
    /// Code of the test that reads a snapshot: the ids in order.
    Computed,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    // The cache.
    Insert(Id, Fields),
    Remove(Id),
    InsertMany(Vec<(Id, Fields)>),
    Clear,
    Patched(Id, Fields),
    /// The same content again.
    PutAgain(Id),
    // Writes.
    WriteInsert(Id, Fields),
    WriteReplace(Id, Fields),
    WriteUpsert(Id, Fields),
    WritePatch(Id, Fields),
    WriteDelete(Id),
    WriteDeleteAll,
    /// A write that the source refuses.
    WriteFails(Id, Fields),
    // The source.
    OutsideUpsert(Id, Fields),
    OutsideDelete(Id),
    Refresh,
    RefreshOffline,
    Reconcile(Vec<(Id, Fields)>),
    /// The cache's own rows without some.
    ReconcileWithout(Vec<Id>),
    Told(Id, Fields),
    Event(Id, Event),
    Invalidate(Id),
    InvalidateAll,
    // Views.
    Open(Query),
    OpenValue(Kind, &'static str, Query),
    OpenRecord(Id),
    Drop(u8),
    SetCut(u8, Cut),
    SetSort(u8, Vec<By>),
    SetSearch(u8, Option<&'static str>),
    SetConditions(u8, Vec<C>),
    Snapshot(u8),
    DropSnapshot(u8),
    Facade(Query, usize, usize),
    // The store.
    Flush,
    Restart,
}

/// A list of operations that prints one a line.
#[derive(Clone)]
pub(crate) struct Script(pub(crate) Vec<Op>);

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        self.0.iter().enumerate().try_for_each(|(number, op)| writeln!(f, "    {}. {op:?}", number + 1))
    }
}

pub(crate) const COLUMNS: [&str; 4] = ["a", "b", "t", "m"];
pub(crate) const PATHS: [&str; 8] = ["a", "b", "t", "m", "m.x", "m.x.y", "id", "nowhere"];
pub(crate) const TEXTS: [&str; 10] = ["", "a", "Anvil", "ÄRGER", "ärger", "Straße", "日本", "5", "a%b_c", "Ωmega ΟΔΟΣ"];
pub(crate) const SEARCHES: [&str; 9] = ["a", "är", "5", "TRUE", "ß", "本", "οδοσ", "-1", "0.1"];
pub(crate) const PATTERNS: [&str; 7] = ["%", "a%", "_", "%r%", "Stra_e", "a\\%b\\_c", ""];
pub(crate) const FLOATS: [f64; 12] =
    [0.0, -0.0, 0.1, -0.5, 5.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e15, 9007199254740993.0, -1e15];
pub(crate) const INTS: [i64; 10] = [0, 1, -1, 5, 2, 3, 1 << 53, (1 << 53) + 1, 1_000_000_007, -(1 << 53)];

fn scalar() -> impl Strategy<Value = V> {
    prop_oneof![
        1 => Just(V::Null),
        1 => any::<bool>().prop_map(V::Bool),
        4 => prop::sample::select(&INTS[..]).prop_map(V::Int),
        3 => prop::sample::select(&FLOATS[..]).prop_map(V::Float),
        3 => prop::sample::select(&TEXTS[..]).prop_map(|text| V::Text(text.into())),
    ]
}

fn nested() -> impl Strategy<Value = V> {
    let map = |value: V, name: &str| V::Map(vec![(name.to_owned(), value)]);
    prop_oneof![
        scalar().prop_map(move |value| map(value, "x")),
        scalar().prop_map(move |value| map(map(value, "y"), "x")),
        (scalar(), scalar()).prop_map(|(a, b)| V::Map(vec![("z".into(), a), ("x".into(), b)])),
        prop::collection::vec(scalar(), 0..3).prop_map(V::List),
    ]
}

fn value() -> impl Strategy<Value = V> {
    prop_oneof![4 => scalar(), 1 => nested()]
}

pub(crate) fn fields() -> impl Strategy<Value = Fields> {
    let some = |value: BoxedStrategy<V>| prop::option::weighted(0.8, value);
    (some(scalar().boxed()), some(scalar().boxed()), some(scalar().boxed()), some(value().boxed())).prop_map(
        |(a, b, t, m)| {
            let values = COLUMNS.into_iter().zip([a, b, t, m]);
            Fields(values.filter_map(|(name, value)| Some((name, value?))).collect())
        },
    )
}

pub(crate) fn id() -> impl Strategy<Value = Id> {
    (0..14_u8).prop_map(Id)
}

fn rows() -> impl Strategy<Value = Vec<(Id, Fields)>> {
    prop::collection::vec((id(), fields()), 0..10)
}

fn path() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => prop::sample::select(&COLUMNS[..]), 2 => prop::sample::select(&PATHS[..])]
}

fn condition() -> impl Strategy<Value = C> {
    let leaf = prop_oneof![
        (path(), value()).prop_map(|(path, value)| C::Eq(path, value)),
        (path(), value()).prop_map(|(path, value)| C::Ne(path, value)),
        (path(), scalar()).prop_map(|(path, value)| C::Lt(path, value)),
        (path(), value()).prop_map(|(path, value)| C::Le(path, value)),
        (path(), scalar()).prop_map(|(path, value)| C::Gt(path, value)),
        (path(), value()).prop_map(|(path, value)| C::Ge(path, value)),
        (path(), prop::collection::vec(value(), 0..4)).prop_map(|(path, values)| C::In(path, values)),
        (path(), prop::collection::vec(value(), 0..4)).prop_map(|(path, values)| C::NotIn(path, values)),
        (path(), prop::sample::select(&PATTERNS[..])).prop_map(|(path, pattern)| C::Like(path, pattern)),
        path().prop_map(C::IsNull),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(C::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(C::Or),
            inner.prop_map(|condition| C::Not(Box::new(condition))),
        ]
    })
}

fn conditions() -> impl Strategy<Value = Vec<C>> {
    prop::collection::vec(condition(), 0..3)
}

fn search() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::weighted(0.3, prop::sample::select(&SEARCHES[..]))
}

fn sort() -> impl Strategy<Value = Vec<By>> {
    prop::collection::vec((path(), any::<bool>(), any::<bool>()), 0..3)
}

fn query() -> impl Strategy<Value = Query> {
    (conditions(), search(), sort(), cut()).prop_map(|(conditions, search, sort, cut)| Query {
        conditions,
        search,
        sort,
        cut,
    })
}

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![
        4 => Just(Cut::Nothing),
        1 => (0..5_usize).prop_map(Cut::First),
        1 => (0..5_usize).prop_map(Cut::Last),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    use Kind::{Avg, Computed, Count, Custom, Distinct, Max, Min, Sum};
    prop::sample::select(&[Count, Sum, Sum, Avg, Min, Max, Distinct, Custom, Computed][..])
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let event = prop::sample::select(&[Event::InsertedWithout, Event::UpdatedWithout, Event::Deleted][..]);
    prop_oneof![
        6 => (id(), fields()).prop_map(|(id, fields)| Op::Insert(id, fields)),
        4 => id().prop_map(Op::Remove),
        3 => rows().prop_map(Op::InsertMany),
        1 => Just(Op::Clear),
        6 => (id(), fields()).prop_map(|(id, fields)| Op::Patched(id, fields)),
        2 => id().prop_map(Op::PutAgain),
        1 => (id(), fields()).prop_map(|(id, fields)| Op::WriteInsert(id, fields)),
        1 => (id(), fields()).prop_map(|(id, fields)| Op::WriteReplace(id, fields)),
        2 => (id(), fields()).prop_map(|(id, fields)| Op::WriteUpsert(id, fields)),
        2 => (id(), fields()).prop_map(|(id, fields)| Op::WritePatch(id, fields)),
        1 => id().prop_map(Op::WriteDelete),
        1 => Just(Op::WriteDeleteAll),
        1 => (id(), fields()).prop_map(|(id, fields)| Op::WriteFails(id, fields)),
        4 => (id(), fields()).prop_map(|(id, fields)| Op::OutsideUpsert(id, fields)),
        2 => id().prop_map(Op::OutsideDelete),
        3 => Just(Op::Refresh),
        1 => Just(Op::RefreshOffline),
        2 => rows().prop_map(Op::Reconcile),
        2 => prop::collection::vec(id(), 0..6).prop_map(Op::ReconcileWithout),
        2 => (id(), fields()).prop_map(|(id, fields)| Op::Told(id, fields)),
        2 => (id(), event).prop_map(|(id, event)| Op::Event(id, event)),
        2 => id().prop_map(Op::Invalidate),
        1 => Just(Op::InvalidateAll),
        6 => query().prop_map(Op::Open),
        6 => (kind(), path(), query()).prop_map(|(kind, path, query)| Op::OpenValue(kind, path, query)),
        2 => id().prop_map(Op::OpenRecord),
        2 => any::<u8>().prop_map(Op::Drop),
        2 => (any::<u8>(), cut()).prop_map(|(view, cut)| Op::SetCut(view, cut)),
        2 => (any::<u8>(), sort()).prop_map(|(view, sort)| Op::SetSort(view, sort)),
        1 => (any::<u8>(), search()).prop_map(|(view, search)| Op::SetSearch(view, search)),
        2 => (any::<u8>(), conditions()).prop_map(|(view, conditions)| Op::SetConditions(view, conditions)),
        5 => any::<u8>().prop_map(Op::Snapshot),
        2 => any::<u8>().prop_map(Op::DropSnapshot),
        2 => (query(), 0..6_usize, 0..8_usize).prop_map(|(query, offset, limit)| Op::Facade(query, offset, limit)),
        2 => Just(Op::Flush),
        2 => Just(Op::Restart),
    ]
}

/// A script of so many operations.
pub(crate) fn script(length: Range<usize>) -> impl Strategy<Value = Script> {
    prop::collection::vec(op(), length).prop_map(Script)
}
