//! Value views of code of your own: where it runs, what its failures do, and that nothing is lost or taken in twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use diorama::prelude::*;
use diorama::value::RowRef;
use diorama::{CustomAggregate, TableSnapshot, ValueStatus};

use crate::common::*;

/// The sum of `n`, which does what the numbers say.
#[derive(Default)]
struct Moody(i64);

const PANIC_IN_ADD: i64 = -1;
const PANIC_IN_REMOVE: i64 = -2;
const PANIC_IN_RESULT: i64 = 1_000;
const ERROR_IN_RESULT: i64 = 2_000;

fn n(row: RowRef<'_>) -> i64 {
    row.get("n").and_then(|value| value.as_i64()).unwrap_or(0)
}

impl CustomAggregate for Moody {
    fn add(&mut self, row: RowRef<'_>) {
        self.0 += n(row);
        assert_ne!(n(row), PANIC_IN_ADD, "no more");
    }

    fn remove(&mut self, row: RowRef<'_>) {
        assert_ne!(n(row), PANIC_IN_REMOVE, "it stays");
        self.0 -= n(row);
    }

    fn result(&self) -> diorama::Result<Value> {
        match self.0 {
            PANIC_IN_RESULT => panic!("a thousand"),
            ERROR_IN_RESULT => Err(Error::new(ErrorKind::Invalid, "two thousand")),
            sum => Ok(sum.into()),
        }
    }
}

fn moody(rows: &TableSnapshot) -> diorama::Result<Value> {
    match rows.iter().filter_map(|row| row.int("n")).sum() {
        PANIC_IN_RESULT | PANIC_IN_ADD => panic!("a thousand, or less than nothing"),
        ERROR_IN_RESULT => Err(Error::new(ErrorKind::Invalid, "two thousand")),
        sum => Ok(Value::from(sum)),
    }
}

fn put(dio: &Dio, id: &str, n: i64) {
    dio.patched(id, record! { "id" => id, "n" => n }).unwrap();
}

fn value_of(dio: &Dio, view: &ValueScenery) -> (Option<i64>, ValueStatus) {
    let seq = dio.seq();
    assert!(view.wait_for_seq(seq, Some(SOON)).unwrap() >= seq);
    (view.int(), view.status())
}

fn small(rows: &[(&str, i64)]) -> (Lens, Dio) {
    let rows = rows.iter().map(|(id, n)| (*id, record! { "id" => *id, "n" => *n }));
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("numbers", "id").with_rows(rows)).unwrap();
    (lens, dio)
}

#[test]
fn v3_a_failing_custom_aggregate_keeps_the_last_value_says_error_and_recovers() {
    limited(|| {
        let (_lens, dio) = small(&[("a", 1)]);
        let kept = dio.value_scenery().custom(Moody::default).open().unwrap();
        let computed = dio.value_scenery().computed(moody).open().unwrap();
        let error = |view: &ValueScenery| view.error().map(|error| (error.kind(), error.to_string()));
        for view in [&kept, &computed] {
            assert_eq!(value_of(&dio, view), (Some(1), ValueStatus::Fresh));
            let generation = view.generation();
            put(&dio, "b", ERROR_IN_RESULT - 1);
            assert_eq!(value_of(&dio, view), (Some(1), ValueStatus::Error), "the last value stays");
            let (kind, text) = error(view).unwrap();
            assert_eq!(kind, ErrorKind::Invalid);
            assert!(text.contains("two thousand") && text.contains("numbers"), "{text}");
            assert_eq!(view.generation(), generation.next());
            put(&dio, "b", 2);
            assert_eq!(value_of(&dio, view), (Some(3), ValueStatus::Fresh));
            assert_eq!((error(view), view.generation()), (None, generation.next().next()));
            put(&dio, "b", PANIC_IN_RESULT - 1);
            assert_eq!(value_of(&dio, view), (Some(3), ValueStatus::Error));
            let (kind, text) = error(view).unwrap();
            assert_eq!(kind, ErrorKind::Panicked);
            assert!(text.contains("a thousand"), "{text}");
            put(&dio, "b", 4);
            assert_eq!(value_of(&dio, view), (Some(5), ValueStatus::Fresh));
            dio.cache().remove("b").unwrap();
            assert_eq!(value_of(&dio, view), (Some(1), ValueStatus::Fresh));
        }
    });
}

#[test]
fn a_panic_is_an_error_and_what_follows_starts_anew() {
    limited(|| {
        let (_lens, dio) = small(&[("a", 1), ("b", 2)]);
        let sum = dio.value_scenery().custom(Moody::default).open().unwrap();
        assert_eq!(value_of(&dio, &sum), (Some(3), ValueStatus::Fresh));
        // What it had added before it panicked is forgotten with it.
        put(&dio, "b", PANIC_IN_ADD);
        assert_eq!(value_of(&dio, &sum), (Some(3), ValueStatus::Error));
        assert_eq!(sum.error().unwrap().kind(), ErrorKind::Panicked);
        let failed = sum.generation();
        put(&dio, "a", 7);
        assert_eq!(value_of(&dio, &sum), (Some(3), ValueStatus::Error), "the row is still there");
        assert_eq!(sum.generation(), failed, "the same failure moves nothing");
        put(&dio, "b", 5);
        assert_eq!(value_of(&dio, &sum), (Some(12), ValueStatus::Fresh));
        put(&dio, "b", PANIC_IN_REMOVE);
        assert_eq!(value_of(&dio, &sum), (Some(5), ValueStatus::Fresh));
        dio.cache().remove("b").unwrap();
        assert_eq!(value_of(&dio, &sum), (Some(5), ValueStatus::Error));
        put(&dio, "c", 1);
        assert_eq!(value_of(&dio, &sum), (Some(8), ValueStatus::Fresh));
    });
}

#[test]
fn v3_a_custom_aggregate_that_can_not_be_made_or_fails_at_first_opens_with_an_error() {
    limited(|| {
        let (_lens, dio) = small(&[("a", ERROR_IN_RESULT)]);
        let may_make = Arc::new(AtomicUsize::new(0));
        let make = {
            let may_make = may_make.clone();
            move || {
                assert_ne!(may_make.load(Ordering::SeqCst), 0, "not yet");
                Moody::default()
            }
        };
        let unmade = dio.value_scenery().custom(make).open().unwrap();
        let kept = dio.value_scenery().custom(Moody::default).open().unwrap();
        let computed = dio.value_scenery().computed(moody).open().unwrap();
        for view in [&unmade, &kept, &computed] {
            assert_eq!((view.value(), view.status()), (Value::Null, ValueStatus::Error));
        }
        may_make.store(1, Ordering::SeqCst);
        put(&dio, "a", 3);
        for view in [&unmade, &kept, &computed] {
            assert_eq!(value_of(&dio, view), (Some(3), ValueStatus::Fresh));
        }
    });
}

#[test]
fn v3_an_unchanged_custom_result_moves_no_generation() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 10);
        let kept = dio.value_scenery().where_eq("group", "even").custom(Moody::default).open().unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let count = runs.clone();
        let computed = dio.value_scenery().where_eq("group", "even").computed(move |rows| {
            count.fetch_add(1, Ordering::SeqCst);
            moody(rows)
        });
        let computed = computed.open().unwrap();
        let before = (kept.generation(), computed.generation());
        assert_eq!((kept.int(), computed.int()), (Some(20), Some(20)));
        let mut renamed = row(2).1;
        renamed.insert("name", "another");
        dio.patched(id(2), renamed).unwrap();
        dio.cache().insert_many([(id(4), row_with(4, 6)), (id(6), row_with(6, 4))]).unwrap();
        let seen = [value_of(&dio, &kept), value_of(&dio, &computed)];
        assert_eq!(seen, [(Some(20), ValueStatus::Fresh); 2]);
        assert_eq!((kept.generation(), computed.generation()), before);
        let ran = runs.load(Ordering::SeqCst);
        let seqs = (kept.seq(), computed.seq());
        dio.patched(id(3), row_with(3, 99)).unwrap();
        let seen = [value_of(&dio, &kept), value_of(&dio, &computed)];
        assert_eq!(seen, [(Some(20), ValueStatus::Fresh); 2]);
        assert_eq!(runs.load(Ordering::SeqCst), ran, "a row that it doesn't see doesn't make it run");
        assert_eq!((kept.seq(), computed.seq()), seqs);
        dio.patched(id(4), row_with(4, 7)).unwrap();
        assert_eq!(kept.wait_for_change(before.0, Some(SOON)).unwrap(), before.0.next());
        assert_eq!(computed.wait_for_change(before.1, Some(SOON)).unwrap(), before.1.next());
        assert_eq!(
            (kept.int(), kept.seq(), computed.int(), computed.seq()),
            (Some(21), dio.seq(), Some(21), dio.seq())
        );
    });
}

/// Notes the threads that it is on.
struct Noted(Sender<(&'static str, String)>);

impl Noted {
    fn note(&self, what: &'static str) {
        let _ = self.0.send((what, thread::current().name().unwrap_or("none").to_owned()));
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.note("drop");
    }
}

impl CustomAggregate for Noted {
    fn add(&mut self, _: RowRef<'_>) {
        self.note("add");
    }

    fn remove(&mut self, _: RowRef<'_>) {
        self.note("remove");
    }

    fn result(&self) -> diorama::Result<Value> {
        self.note("result");
        Ok(Value::Null)
    }
}

#[test]
fn user_code_runs_on_the_build_thread_only() {
    limited(|| {
        let (lens, dio) = small(&[("a", 1), ("b", 2)]);
        let (sender, noted) = unbounded();
        // A value that only closures hold, so that its drop is that of the user's code.
        let (of_make, of_function) = (Noted(sender.clone()), Noted(sender.clone()));
        let kept = dio.value_scenery().custom(move || {
            of_make.note("make");
            Noted(of_make.0.clone())
        });
        let kept = kept.open().unwrap();
        let computed = dio.value_scenery().computed(move |_| {
            of_function.note("compute");
            Ok(0)
        });
        let computed = computed.open().unwrap();
        drop(sender);
        put(&dio, "a", 5);
        dio.cache().remove("b").unwrap();
        for view in [&kept, &computed] {
            view.wait_for_seq(dio.seq(), Some(SOON)).unwrap();
        }
        drop((kept, computed));
        settle(&dio);
        // The build thread has dropped what they were made of before it comes to this.
        dio.value_scenery().computed(|_| Ok(0)).open().unwrap();
        lens.close(SOON).unwrap();
        let noted: Vec<_> = noted.try_iter().collect();
        for what in ["make", "add", "remove", "result", "compute", "drop"] {
            assert!(noted.iter().any(|(noted, _)| *noted == what), "{what}");
        }
        assert_eq!(noted.iter().filter(|(what, _)| *what == "drop").count(), 3);
        for (what, thread) in noted {
            assert!(thread.contains(":build-"), "{what} on {thread}");
        }
    });
}

/// A function that tells that it runs, and goes on when it is let.
fn held() -> (impl Fn(&TableSnapshot) -> diorama::Result<u64> + Send + Sync, Receiver<()>, Sender<()>) {
    let (begins, begun) = bounded(0);
    let (let_go, go_on) = bounded(0);
    let function = move |rows: &TableSnapshot| {
        let _ = begins.send(());
        let _ = go_on.recv();
        Ok(rows.row_count() as u64)
    };
    (function, begun, let_go)
}

#[test]
fn changes_that_come_while_the_code_runs_make_it_run_once_more() {
    limited(|| {
        let (_lens, dio) = small(&[("a", 1)]);
        let (function, begun, let_go) = held();
        let count = dio.value_scenery().computed(function).open_now().unwrap();
        begun.recv().unwrap();
        for number in 0..10 {
            put(&dio, &format!("n{number}"), number);
        }
        let seq = dio.seq();
        let_go.send(()).unwrap();
        begun.recv().unwrap();
        // The first result was shown before the second run began.
        count.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!((count.int(), count.status()), (Some(1), ValueStatus::Fresh), "frozen as it was when it began");
        assert!(count.seq() < seq);
        let_go.send(()).unwrap();
        assert_eq!(count.wait_for_seq(seq, Some(SOON)).unwrap(), seq);
        assert_eq!((count.int(), count.seq()), (Some(11), seq));
        assert!(begun.try_recv().is_err(), "ten changes were one run");
    });
}

#[test]
fn closing_while_the_code_runs_wakes_who_waits_for_the_value() {
    limited(|| {
        let (_lens, dio) = small(&[("a", 1)]);
        let (function, begun, let_go) = held();
        let count = dio.value_scenery().computed(function).open_now().unwrap();
        begun.recv().unwrap();
        let waiting = count.clone();
        let seq = dio.seq();
        let waiter = thread::Builder::new().spawn(move || {
            let error = |result: diorama::Result<()>| result.unwrap_err().kind();
            (error(waiting.wait_until_ready(None)), error(waiting.wait_for_seq(seq, None).map(drop)))
        });
        dio.close(SOON).unwrap();
        assert_eq!(waiter.unwrap().join().unwrap(), (ErrorKind::Closed, ErrorKind::Closed));
        drop(let_go);
        assert_eq!(count.value(), Value::Null);
    });
}

#[test]
fn waiting_for_a_value_inside_its_own_code_is_refused() {
    limited(|| {
        let (_lens, dio) = small(&[("a", 1)]);
        let (sender, kinds) = unbounded();
        let inside = dio.clone();
        let view = dio.value_scenery().computed(move |_| {
            let opened = inside.value_scenery().count().open();
            let _ = sender.send(opened.map(drop).map_err(|error| error.kind()));
            let other = inside.value_scenery().computed(|rows| Ok(rows.row_count() as u64)).open_now()?;
            let waited = other.wait_for_seq(inside.seq(), None);
            let _ = sender.send(waited.map(drop).map_err(|error| error.kind()));
            Ok(1)
        });
        let view = view.open().unwrap();
        assert_eq!(view.int(), Some(1));
        let kinds: Vec<_> = kinds.try_iter().collect();
        assert_eq!(kinds, [Err(ErrorKind::WouldDeadlock); 2]);
    });
}

#[test]
fn v1_a_custom_aggregate_equals_a_recompute() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens, 100);
        let made = Arc::new(AtomicI64::new(0));
        let count = made.clone();
        let make = move || {
            count.fetch_add(1, Ordering::SeqCst);
            Moody::default()
        };
        let even = dio.value_scenery().where_eq("group", "even").custom(make).open().unwrap();
        let last = |rows: &TableSnapshot| {
            let last = rows.row_count().checked_sub(1).and_then(|last| rows.row(last));
            Ok(last.map(|row| row.id().to_owned()))
        };
        let last = dio.value_scenery().condition(Condition::lt("n", 1_000)).sort("n", SortDir::Asc).computed(last);
        let last = last.open().unwrap();
        let check = || {
            let rows = dio.cache().list().unwrap();
            let sum: i64 = rows.iter().filter(|(_, row)| is_even(row)).filter_map(|(_, row)| row.int("n")).sum();
            assert_eq!(value_of(&dio, &even), (Some(sum), ValueStatus::Fresh));
            let greatest = recomputed(&dio, |row| row.int("n").is_some_and(|n| n < 1_000), by_n).pop();
            assert_eq!(value_of(&dio, &last).1, ValueStatus::Fresh);
            assert_eq!(last.value(), greatest.map_or(Value::Null, |(id, _)| Value::from(id)));
        };
        check();
        for number in 0..20 {
            dio.patched(id(number), row_with(number, number as i64 * 77 + 3)).unwrap();
            dio.cache().remove(id(99 - number)).unwrap();
            check();
        }
        dio.cache().insert_many((50..600).map(row)).unwrap();
        check();
        source.outside_silently().delete(&id(10)).unwrap();
        dio.refresh().unwrap();
        check();
        dio.invalidate_all();
        // The re-read that it asks for must be over, or it would bring rows between two of the answers below.
        dio.refresh().unwrap();
        check();
        dio.cache().clear().unwrap();
        check();
        dio.cache().insert(id(2), row(2).1).unwrap();
        check();
        assert_eq!(made.load(Ordering::SeqCst), 1, "changes were enough");
    });
}
