//! Bulk changes with edits in between, by a Dio whose build thread is held while it would make the bodies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;
use proptest::prelude::*;

use crate::dio::core::tests::{hold_load_threads, hold_threads};
use crate::dio::core::{Announce, RowChange, helper};
use crate::dio::event::Cause;
use crate::dio::queries::Question;
use crate::prelude::*;
use crate::sync::reply;
use crate::value::StoredRow;
use crate::vista::{QueryDescriptor, Schema};
use crate::{LoadState, Result, Seq};

use super::super::{Apply, Message};

const SOON: Duration = Duration::from_secs(20);
const BULK: usize = 24;
const ROWS: i64 = 4 * BULK as i64;

fn row(n: i64, value: i64) -> Record {
    record! { "id" => format!("r{n}"), "n" => value, "half" => n % 2 }
}

fn dio() -> (Lens, Dio) {
    let rows = (0..ROWS).map(|n| (format!("r{n}"), row(n, n)));
    let lens = Lens::new().in_memory().bulk_changes(BULK).build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id").with_rows(rows)).unwrap();
    (lens, dio)
}

fn put(n: i64, value: i64) -> RowChange {
    RowChange::Put(StoredRow::encode(&format!("r{n}"), &row(n, value), 0))
}

fn delete(n: i64) -> RowChange {
    RowChange::Delete(format!("r{n}").into())
}

/// Sends changes as one message; what it gives back waits for their Seq.
fn send(dio: &Dio, changes: Vec<RowChange>, began: Option<Seq>) -> impl FnOnce() -> Result<Result<Seq>> {
    let (sender, receiver) = reply();
    let apply = Apply {
        changes: changes.into(),
        cause: Cause::Refresh,
        announce: Announce::Once,
        began,
        full_copy: None,
        reply: Some(sender),
        at_once: false,
    };
    dio.inner().send(Message::Apply(apply)).unwrap();
    move || receiver.wait(Some(SOON))
}

/// Views of several kinds, and what they show of a table.
struct Views {
    all: TableScenery,
    half: TableScenery,
    least: TableScenery,
    sum: ValueScenery,
    max: ValueScenery,
}

impl Views {
    fn of(dio: &Dio) -> Self {
        Views {
            all: dio.table_scenery().sort("n", SortDir::Desc).open().unwrap(),
            half: dio.table_scenery().where_eq("half", 1).sort("n", SortDir::Asc).open().unwrap(),
            least: dio.table_scenery().sort("n", SortDir::Asc).limit(5).open().unwrap(),
            sum: dio.value_scenery().sum("n").where_eq("half", 0).open().unwrap(),
            max: dio.value_scenery().max("n").open().unwrap(),
        }
    }

    fn generations(&self) -> Vec<Generation> {
        let tables = [&self.all, &self.half, &self.least].map(|view| view.generation());
        tables.into_iter().chain([self.sum.generation(), self.max.generation()]).collect()
    }

    /// As [`check`](Self::check), for rows of which several may have one number.
    fn check_sorted(&self, dio: &Dio) {
        let rows = dio.cache().list().unwrap();
        let numbers = |wanted: &dyn Fn(i64) -> bool| -> Vec<i64> {
            let wanted = |row: &&(String, Record)| wanted(row.1.int("half").unwrap());
            let mut numbers: Vec<i64> = rows.iter().filter(wanted).map(|(_, row)| row.int("n").unwrap()).collect();
            numbers.sort_unstable();
            numbers
        };
        let shown =
            |view: &TableScenery| -> Vec<i64> { view.snapshot().iter().map(|row| row.int("n").unwrap()).collect() };
        let all = numbers(&|_| true);
        assert!(shown(&self.all).iter().rev().eq(all.iter()));
        assert_eq!(shown(&self.half), numbers(&|half| half == 1));
        assert_eq!(shown(&self.least), all[..all.len().min(5)]);
        assert_eq!(self.sum.int(), Some(numbers(&|half| half == 0).iter().sum()));
        assert_eq!(self.max.int(), all.last().copied());
        assert_eq!(dio.status().rows as usize, rows.len());
    }

    /// All of them show what a plain list of the rows makes of them.
    fn check(&self, dio: &Dio) {
        let mut rows: Vec<(i64, i64, String)> = dio
            .cache()
            .list()
            .unwrap()
            .into_iter()
            .map(|(id, row)| (row.int("n").unwrap(), row.int("half").unwrap(), id))
            .collect();
        let shown = |view: &TableScenery| -> Vec<(i64, String)> {
            view.snapshot().iter().map(|row| (row.int("n").unwrap(), row.id().to_owned())).collect()
        };
        rows.sort_by_key(|(n, ..)| *n);
        let of = |wanted: &dyn Fn(i64) -> bool| -> Vec<(i64, String)> {
            rows.iter().filter(|(_, half, _)| wanted(*half)).map(|(n, _, id)| (*n, id.clone())).collect()
        };
        let ascending = of(&|_| true);
        assert_eq!(shown(&self.all), ascending.iter().rev().cloned().collect::<Vec<_>>());
        assert_eq!(shown(&self.half), of(&|half| half == 1));
        assert_eq!(shown(&self.least), ascending[..ascending.len().min(5)]);
        assert_eq!(self.sum.int(), Some(of(&|half| half == 0).iter().map(|(n, _)| n).sum()));
        assert_eq!(self.max.int(), ascending.last().map(|(n, _)| *n));
        assert_eq!(dio.status().rows as usize, rows.len());
    }
}

#[test]
fn a_bulk_change_is_one_step_of_every_view() {
    let (_lens, dio) = dio();
    let views = Views::of(&dio);
    let before = views.generations();
    let changes = (0..ROWS).step_by(2).map(|n| if n % 6 == 0 { delete(n) } else { put(n, 1_000 - n) });
    let new = (0..10).map(|n| put(ROWS + n, 5_000 + n));
    let seq = send(&dio, changes.chain(new).collect(), None)().unwrap().unwrap();
    assert_eq!(dio.seq(), seq);
    let after: Vec<Generation> = before.iter().map(|generation| generation.next()).collect();
    assert_eq!(views.generations(), after);
    views.check(&dio);
    let delta = views.all.changes_since(before[0]);
    assert_eq!((delta.from, delta.to, delta.cause), (before[0], after[0], Some(Cause::Refresh)));
    assert!(matches!(delta.changes, Changes::List(_)));
}

#[test]
fn an_edit_during_a_bulk_change_is_published_before_it() {
    let (_lens, dio) = dio();
    let views = Views::of(&dio);
    let held = hold_threads(&dio);
    let bulk = send(&dio, (0..ROWS).map(|n| put(n, n + 7_000)).collect(), None);
    let before = dio.seq();
    let old = views.all.snapshot();
    // A row of the bulk, a new one, one that goes, and one that the bulk doesn't have.
    dio.patched("r3", row(3, -3)).unwrap();
    dio.cache().insert("new", record! { "id" => "new", "n" => -9, "half" => 1 }).unwrap();
    dio.cache().remove("r4").unwrap();
    assert!(dio.seq() > before);
    views.check(&dio);
    assert_eq!(dio.cache().get("r3").unwrap().unwrap().int("n"), Some(-3));
    assert_eq!(dio.cache().get("r5").unwrap().unwrap().int("n"), Some(5));
    assert_eq!(dio.cache().get("r4").unwrap(), None);
    let during = views.all.snapshot();
    drop(held);
    let seq = bulk().unwrap().unwrap();
    assert_eq!(dio.seq(), seq);
    // It came last, so it has the last word.
    assert_eq!(dio.cache().get("r3").unwrap().unwrap().int("n"), Some(7_003));
    assert_eq!(dio.cache().get("r4").unwrap().unwrap().int("n"), Some(7_004));
    views.check(&dio);
    assert!(old.iter().all(|row| row.int("n").unwrap() < 7_000), "a snapshot is frozen");
    assert_eq!(during.row_count(), ROWS as usize);
    assert!(during.iter().all(|row| row.int("n").unwrap() < 7_000));
    dio.flush().unwrap();
    views.check(&dio);
    drop((old, during));
}

/// A Dio that has the rows and asks the source query by query, and a view whose own question waits for a thread.
fn asking(hold: fn(&Dio) -> Vec<Sender<()>>) -> (Lens, Dio, TableScenery, Vec<Sender<()>>) {
    let lens = Lens::new().in_memory().bulk_changes(BULK).on_query(|_, _| Ok(())).build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id")).unwrap();
    dio.cache().insert_many((0..ROWS).map(|n| (format!("r{n}"), row(n, n)))).unwrap();
    let held = hold(&dio);
    let view = dio.table_scenery().where_eq("half", 1).sort("n", SortDir::Asc).open_now().unwrap();
    (lens, dio, view, held)
}

/// Sends the rows that answer what the view wants, as they were read now.
fn send_answer(dio: &Dio, changes: Vec<RowChange>) -> impl FnOnce() -> Result<Result<Seq>> + use<> {
    send_answer_of(1, dio, changes)
}

/// The same for other rows than those of the view.
fn send_answer_of(half: i64, dio: &Dio, changes: Vec<RowChange>) -> impl FnOnce() -> Result<Result<Seq>> + use<> {
    let read = dio.inner().begin_read();
    let (sender, receiver) = reply();
    let apply = Apply {
        changes: changes.into(),
        cause: Cause::Refresh,
        announce: Announce::Once,
        began: Some(read.began()),
        full_copy: None,
        reply: Some(sender),
        at_once: false,
    };
    let query = QueryDescriptor::new().filtered(Condition::eq("half", half));
    let question = Question::new(&query, &Schema::open("id")).unwrap();
    dio.inner().send(Message::ApplyAnswer { apply, question, helper: helper().0 }).unwrap();
    move || {
        let answer = receiver.wait(Some(SOON));
        drop(read);
        answer
    }
}

fn odd() -> impl Iterator<Item = i64> {
    (0..ROWS).filter(|n| n % 2 == 1)
}

#[test]
fn an_edit_during_a_large_answer_is_published_before_it() {
    let (_lens, dio, view, held) = asking(hold_threads);
    let answer = send_answer(&dio, odd().map(|n| put(n, n + 7_000)).collect());
    dio.patched("r3", row(3, -3)).unwrap();
    let n_of = |id: &str| dio.cache().get(id).unwrap().unwrap().int("n");
    assert_eq!((n_of("r3"), n_of("r5")), (Some(-3), Some(5)), "the answer isn't there yet");
    assert!(matches!(view.load_state(), LoadState::Loading));
    drop(held);
    answer().unwrap().unwrap();
    assert_eq!((n_of("r3"), n_of("r5")), (Some(-3), Some(7_005)), "the edit came after what was read");
    view.wait_until_ready(Some(SOON)).unwrap();
    let shown: Vec<i64> = view.snapshot().iter().map(|row| row.int("n").unwrap()).collect();
    let expected: Vec<i64> = [-3].into_iter().chain(odd().filter(|n| *n != 3).map(|n| n + 7_000)).collect();
    assert_eq!(shown, expected);
}

#[test]
fn large_answers_wait_for_each_other_and_hold_up_no_edit() {
    let (_lens, dio, view, held) = asking(hold_threads);
    let even = || (0..ROWS).filter(|n| n % 2 == 0);
    let first = send_answer(&dio, odd().map(|n| put(n, n + 7_000)).collect());
    let second = send_answer_of(0, &dio, even().map(|n| put(n, n + 8_000)).collect());
    dio.patched("r3", row(3, -3)).unwrap();
    dio.patched("r4", row(4, -4)).unwrap();
    let n_of = |id: &str| dio.cache().get(id).unwrap().unwrap().int("n");
    let four = || ["r3", "r4", "r5", "r6"].map(n_of);
    assert_eq!(four(), [Some(-3), Some(-4), Some(5), Some(6)]);
    drop(held);
    assert!(first().unwrap().unwrap() < second().unwrap().unwrap());
    assert_eq!(four(), [Some(-3), Some(-4), Some(7_005), Some(8_006)]);
    view.wait_until_ready(Some(SOON)).unwrap();
    assert_eq!(view.row_count(), odd().count());
}

#[test]
fn a_large_answer_is_taken_in_by_and_by_though_every_other_thread_is_busy() {
    let version = Arc::new(AtomicI64::new(1));
    let asked = version.clone();
    let lens = Lens::new().in_memory().bulk_changes(BULK).on_query(move |dio, query| {
        let added = 1_000 * asked.load(Ordering::SeqCst);
        dio.cache().replace_matching(query, odd().map(|n| (format!("r{n}"), row(n, n + added))))
    });
    let lens = lens.build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id")).unwrap();
    let view = dio.table_scenery().where_eq("half", 1).sort("n", SortDir::Asc).open().unwrap();
    for now in [2, 3] {
        version.store(now, Ordering::SeqCst);
        let mut held = hold_threads(&dio);
        if now == 3 {
            // The one flies; else the thread that refreshes does.
            held.remove(0);
        }
        let (seq, generation) = (dio.seq(), view.generation());
        dio.refresh().unwrap();
        assert!(dio.seq().0 - seq.0 >= super::ROOM, "by and by");
        let shown = view.snapshot();
        assert_eq!(shown.generation(), generation.next());
        assert!(shown.iter().map(|row| row.int("n").unwrap()).eq(odd().map(|n| n + 1_000 * now)));
        drop((shown, held));
    }
}

#[test]
fn a_large_answer_says_so_with_its_rows_and_only_if_it_is_all_in() {
    for is_refused in [false, true] {
        let (lens, dio, view, held) = asking(hold_load_threads);
        let mut built = view.snapshot();
        while built.row_count() == 0 {
            view.wait_for_change(built.generation(), Some(SOON)).unwrap();
            built = view.snapshot();
        }
        assert!(matches!(view.load_state(), LoadState::Loading));
        let mut changes: Vec<RowChange> = odd().map(|n| put(n, n + 7_000)).collect();
        if is_refused {
            let id = "x".repeat(crate::cache::MAX_ID_BYTES + 1);
            changes.push(RowChange::Put(StoredRow::encode(&id, &row(1, 1), 0)));
        }
        let answer = send_answer(&dio, changes)().unwrap();
        assert_eq!(answer.is_err(), is_refused);
        let shown = view.snapshot();
        assert_eq!((shown.generation(), shown.row_count()), (built.generation().next(), odd().count()));
        assert_eq!(matches!(shown.load_state(), LoadState::Ready), !is_refused);
        assert_eq!(shown.row(0).unwrap().int("n"), Some(7_001));
        drop((held, built, shown, view, dio));
        drop(lens);
    }
}

#[test]
fn a_bulk_read_leaves_rows_edited_meanwhile_alone() {
    let (_lens, dio) = dio();
    let views = Views::of(&dio);
    // Between the slices, and while the bodies would be made; or whenever they come.
    for (round, held_before) in [true, false].into_iter().enumerate() {
        let value = 10_000 * (round as i64 + 1);
        let read = dio.inner().begin_read();
        let began = read.began();
        let held = held_before.then(|| hold_threads(&dio));
        let bulk = send(&dio, (0..ROWS).map(|n| put(n, n + value)).collect(), Some(began));
        dio.patched("r3", row(3, -value)).unwrap();
        dio.cache().remove("r4").unwrap();
        dio.cache().remove("r5").unwrap();
        dio.patched("r5", row(5, -5)).unwrap();
        drop(held);
        bulk().unwrap().unwrap();
        drop(read);
        let n = |id: &str| dio.cache().get(id).unwrap().and_then(|row| row.int("n"));
        assert_eq!((n("r3"), n("r4"), n("r5"), n("r6")), (Some(-value), None, Some(-5), Some(value + 6)));
        views.check(&dio);
    }
}

#[test]
fn rows_that_a_bulk_change_brings_anew_may_be_edited_before_they_are_there() {
    let (_lens, dio) = dio();
    let views = Views::of(&dio);
    let held = hold_threads(&dio);
    let bulk = send(&dio, (ROWS..2 * ROWS).map(|n| put(n, n)).collect(), None);
    let first = format!("r{ROWS}");
    let second = format!("r{}", ROWS + 1);
    let third = format!("r{}", ROWS + 2);
    dio.cache().insert(first.as_str(), row(ROWS, -1)).unwrap();
    dio.cache().insert(second.as_str(), row(ROWS + 1, -2)).unwrap();
    dio.cache().remove(second.as_str()).unwrap();
    dio.cache().remove(third.as_str()).unwrap();
    views.check(&dio);
    dio.flush().unwrap();
    drop(held);
    bulk().unwrap().unwrap();
    views.check(&dio);
    assert_eq!(dio.cache().count().unwrap(), 2 * ROWS as u64);
    let ids: Vec<String> = dio.cache().list().unwrap().into_iter().map(|(id, _)| id).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "no row is there twice");
    dio.flush().unwrap();
    views.check(&dio);
}

#[test]
fn deleted_rows_of_a_bulk_change_may_be_edited_before_they_are_gone() {
    let (_lens, dio) = dio();
    let views = Views::of(&dio);
    let began = dio.seq();
    let held = hold_threads(&dio);
    // What is unknown to the disk, too.
    dio.cache().insert("r1", row(1, 1_077)).unwrap();
    let bulk = send(&dio, (0..ROWS - 5).map(delete).collect(), Some(began));
    dio.patched("r2", row(2, 1_022)).unwrap();
    dio.cache().remove("r3").unwrap();
    views.check(&dio);
    drop(held);
    bulk().unwrap().unwrap();
    views.check(&dio);
    assert_eq!(dio.cache().count().unwrap(), 7);
    dio.flush().unwrap();
    views.check(&dio);
    assert_eq!(dio.cache().get("r1").unwrap().unwrap().int("n"), Some(1_077));
}

#[test]
fn views_opened_during_a_bulk_change_show_it_when_it_ends() {
    let (_lens, dio) = dio();
    let views = Views::of(&dio);
    let held = hold_threads(&dio);
    let bulk = send(&dio, (0..ROWS).map(|n| put(n, -n)).collect(), None);
    let late = dio.table_scenery().where_eq("half", 0).sort("n", SortDir::Desc).open_now().unwrap();
    dio.patched("r8", row(8, 88)).unwrap();
    drop(views.half);
    drop(held);
    bulk().unwrap().unwrap();
    late.wait_until_ready(Some(SOON)).unwrap();
    let shown: Vec<i64> = late.snapshot().iter().map(|row| row.int("n").unwrap()).collect();
    assert_eq!(shown, (0..ROWS).step_by(2).map(|n| -n).collect::<Vec<_>>());
    assert_eq!(views.all.row_count(), ROWS as usize);
}

#[test]
fn a_bulk_change_that_was_all_taken_back_moves_nothing() {
    let (_lens, dio) = dio();
    let views = Views::of(&dio);
    let began = dio.seq();
    let held = hold_threads(&dio);
    let bulk = send(&dio, (0..ROWS).step_by(2).map(|n| put(n, n + 100)).collect(), Some(began));
    for n in (0..ROWS).step_by(2) {
        dio.patched(format!("r{n}").as_str(), row(n, n - 100)).unwrap();
    }
    let before = views.generations();
    drop(held);
    bulk().unwrap().unwrap();
    assert_eq!(views.generations(), before);
    views.check(&dio);
}

#[test]
fn closing_ends_a_bulk_change_that_is_under_way() {
    let (_lens, dio) = dio();
    let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
    let held = hold_threads(&dio);
    let bulk = send(&dio, (0..ROWS).map(|n| put(n, -n)).collect(), None);
    dio.patched("r1", row(1, 11)).unwrap();
    let report = dio.close(SOON);
    drop(held);
    assert!(report.unwrap().is_closed());
    assert_eq!(bulk().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(view.row_count(), ROWS as usize);
}

#[test]
fn a_bulk_change_whose_bodies_no_thread_makes_is_made_by_the_core() {
    let (lens, dio) = dio();
    let views = Views::of(&dio);
    lens.inner().build_pool.hang_up();
    lens.inner().load_pool.hang_up();
    let bulk = send(&dio, (0..ROWS).map(|n| put(n, 3 * n)).collect(), None);
    bulk().unwrap().unwrap();
    views.check(&dio);
}

#[test]
fn a_row_that_no_cache_takes_fails_a_bulk_change_and_what_came_before_it_stays() {
    let (_lens, dio) = dio();
    let views = Views::of(&dio);
    let bad = RowChange::Put(StoredRow::encode("", &row(0, 0), 0));
    let changes = (0..ROWS / 2).map(|n| put(n, -n)).chain([bad]).chain((ROWS / 2..ROWS).map(|n| put(n, -n))).collect();
    let error = send(&dio, changes, None)().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    views.check(&dio);
    assert_eq!(views.sum.int(), Some((0..ROWS).step_by(2).map(|n| if n < ROWS / 2 { -n } else { n }).sum()));
}

/// One change of one row: `None` takes it away.
type Edit = (i64, Option<i64>);

fn edits(most: usize) -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec((0..30_i64, prop::option::weighted(0.7, -50..50_i64)), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_edits_during_a_bulk_change_equal_a_plain_list(
        before in edits(20),
        bulk in edits(60),
        meanwhile in edits(25),
        is_read in any::<bool>(),
        is_held in any::<bool>(),
        flushes in any::<bool>(),
    ) {
        let lens = Lens::new().in_memory().bulk_changes(2).build().unwrap();
        let dio = lens.make_dio(MemoryVista::new("t", "id").with_rows((0..15).map(|n| (format!("r{n}"), row(n, n))))).unwrap();
        let views = Views::of(&dio);
        let mut plain: BTreeMap<i64, i64> = (0..15).map(|n| (n, n)).collect();
        let edit = |plain: &mut BTreeMap<i64, i64>, (n, value): Edit| match value {
            Some(value) => drop(plain.insert(n, value)),
            None => drop(plain.remove(&n)),
        };
        let make = |(n, value): Edit| match value {
            Some(value) => dio.cache().insert(format!("r{n}"), row(n, value)).unwrap(),
            None => dio.cache().remove(format!("r{n}")).unwrap(),
        };
        let found = || {
            let n_of = |id: &str| id[1..].parse::<i64>().unwrap();
            let rows = dio.cache().list().unwrap();
            let found: BTreeMap<i64, i64> = rows.iter().map(|(id, row)| (n_of(id), row.int("n").unwrap())).collect();
            assert_eq!(found.len(), rows.len(), "a row is there twice");
            found
        };
        for change in before {
            make(change);
            edit(&mut plain, change);
        }
        let read = dio.inner().begin_read();
        let held = is_held.then(|| hold_threads(&dio));
        // A row once: what comes twice in one message has its own test.
        let bulk: BTreeMap<i64, Option<i64>> = bulk.into_iter().collect();
        let changes = bulk.iter().map(|(n, value)| value.map_or_else(|| delete(*n), |value| put(*n, value))).collect();
        let ended = send(&dio, changes, is_read.then(|| read.began()));
        let mut edited = plain.clone();
        for change in &meanwhile {
            make(*change);
            edit(&mut edited, *change);
            if is_held && bulk.len() > 1 {
                prop_assert_eq!(found(), edited.clone(), "the bulk shows before its end");
                views.check_sorted(&dio);
            }
            if flushes {
                dio.flush().unwrap();
            }
        }
        let seen = views.all.snapshot();
        let rows_seen = seen.row_count();
        drop(held);
        ended().unwrap().unwrap();
        let touched = |n: &i64| meanwhile.iter().any(|(edited, _)| edited == n);
        // What the bulk wouldn't change when it looks is not part of it, and it may look before any of the edits or after: the
        // row was once, before them or between two of them, what the bulk makes of it.
        let was = |n: &i64, value: &Option<i64>| {
            plain.get(n) == value.as_ref() || meanwhile.iter().any(|(edited, made)| edited == n && made == value)
        };
        let is_open = |n: &i64| touched(n) && bulk.get(n).is_some_and(|value| was(n, value));
        let mut expected = edited.clone();
        for (n, value) in &bulk {
            if !(is_read && touched(n)) {
                edit(&mut expected, (*n, *value));
            }
        }
        let is_expected = || {
            let mut found = found();
            found.retain(|n, _| !is_open(n));
            expected.iter().filter(|(n, _)| !is_open(n)).eq(&found)
        };
        let is_certain = is_held && bulk.len() > 1;
        prop_assert!(!is_certain || is_expected(), "{:?} is not {expected:?}", found());
        if is_held {
            prop_assert_eq!(seen.iter().filter(|row| row.status() == RowStatus::Fresh).count(), rows_seen);
        }
        drop(read);
        views.check_sorted(&dio);
        dio.flush().unwrap();
        views.check_sorted(&dio);
        prop_assert!(!is_certain || is_expected());
    }
}
