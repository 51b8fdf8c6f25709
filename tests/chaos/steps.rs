//! What can happen in a chaos run, as data, and how it is made up from one seed.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::ops::{self, Fields, Id, Op};

/// Which source is under the Dio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// It chooses the ids of inserted rows.
    ChoosesIds,
    Csv,
    /// The facade of another Dio.
    Facade,
}

/// One whole run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) on_disk: bool,
    pub(crate) small_budget: bool,
    pub(crate) refresh_every: Option<Duration>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Unavailable,
    Rejected,
    Panics,
    /// The call does its work, and nobody hears of it.
    AnswerLost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Insert,
    Replace,
    Upsert,
    Patch,
    Delete,
    DeleteAll,
}

#[derive(Debug, Clone)]
pub(crate) struct Write(pub(crate) Verb, pub(crate) Id, pub(crate) Fields);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Plainly,
    OfView,
    WhenDue,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Do(Op),
    /// A refresh begins and stays in the source: before it reads (`false`), or with what it has read (`true`).
    BeginRefresh(Asked, bool),
    EndRefresh(Option<Fault>),
    /// Writes are accepted and the first stays in the source: before it is done (`false`), or after it (`true`).
    BeginWrites(Vec<Write>, bool),
    /// They go on one by one, some of them wrong.
    EndWrites(Vec<Option<Fault>>),
    /// Everything is closed while writes are on their way, and made anew.
    CloseWithWrites(Vec<Write>, bool),
    RefreshFails(Fault),
    WriteFails(Write, Fault),
    /// Somebody says that a row has changed, and it can't be read.
    ReadFails(Id, Fault),
    SlowRefresh(Duration),
    SlowWrite(Write, Duration),
    /// Time goes by.
    Tick(Duration),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(&[Fault::Unavailable, Fault::Rejected, Fault::Panics, Fault::AnswerLost][..])
}

fn maybe_fault() -> impl Strategy<Value = Option<Fault>> {
    prop::option::weighted(0.3, fault())
}

fn write() -> impl Strategy<Value = Write> {
    let verb = prop_oneof![
        3 => Just(Verb::Insert),
        3 => Just(Verb::Replace),
        4 => Just(Verb::Upsert),
        4 => Just(Verb::Patch),
        3 => Just(Verb::Delete),
        1 => Just(Verb::DeleteAll),
    ];
    (verb, ops::id(), ops::fields()).prop_map(|(verb, id, fields)| Write(verb, id, fields))
}

fn time() -> impl Strategy<Value = Duration> {
    (1..15_000_u64).prop_map(Duration::from_millis)
}

fn step() -> impl Strategy<Value = Step> {
    let asked = prop::sample::select(&[Asked::Plainly, Asked::OfView, Asked::WhenDue][..]);
    prop_oneof![
        60 => ops::op().prop_map(Step::Do),
        5 => (asked, any::<bool>()).prop_map(|(asked, answer)| Step::BeginRefresh(asked, answer)),
        4 => maybe_fault().prop_map(Step::EndRefresh),
        5 => (prop::collection::vec(write(), 1..5), any::<bool>())
            .prop_map(|(writes, answer)| Step::BeginWrites(writes, answer)),
        4 => prop::collection::vec(maybe_fault(), 1..5).prop_map(Step::EndWrites),
        1 => (prop::collection::vec(write(), 1..5), any::<bool>())
            .prop_map(|(writes, answer)| Step::CloseWithWrites(writes, answer)),
        2 => fault().prop_map(Step::RefreshFails),
        4 => (write(), fault()).prop_map(|(write, fault)| Step::WriteFails(write, fault)),
        1 => (ops::id(), fault()).prop_map(|(id, fault)| Step::ReadFails(id, fault)),
        1 => time().prop_map(Step::SlowRefresh),
        2 => (write(), time()).prop_map(|(write, time)| Step::SlowWrite(write, time)),
        5 => time().prop_map(Step::Tick),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let kind = prop_oneof![
        4 => Just(Kind::Plain),
        2 => Just(Kind::ChoosesIds),
        1 => Just(Kind::Csv),
        2 => Just(Kind::Facade),
    ];
    let every = prop::option::weighted(0.6, Just(Duration::from_secs(10)));
    let on_disk = prop::bool::weighted(if cfg!(feature = "lmdb") { 0.15 } else { 0.0 });
    (kind, on_disk, prop::bool::weighted(0.15), every, prop::collection::vec(step(), 100..300)).prop_map(
        |(kind, on_disk, small_budget, refresh_every, steps)| {
            let kind = if cfg!(feature = "csv") || kind != Kind::Csv { kind } else { Kind::Plain };
            Plan { kind, on_disk, small_budget, refresh_every, steps }
        },
    )
}

impl Plan {
    /// The run that this seed means, the same each time.
    pub(crate) fn of(seed: u64) -> Plan {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        plan().new_tree(&mut runner).unwrap().current()
    }
}
