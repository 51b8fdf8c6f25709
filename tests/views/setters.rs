//! Setters: another sort, search or set of conditions for a view that is open.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::thread;
use std::time::Duration;

use diorama::prelude::*;
use diorama::vista::SortBy;

use crate::common::*;
use crate::storage::{ScriptedBackend, Storage};

fn by_name(a: &Record, b: &Record) -> Ordering {
    a.text("name").cmp(&b.text("name"))
}

#[test]
fn t8_the_old_rows_stay_readable_and_live_until_the_new_ones_are_ready() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 100);
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let held = backend.hold(Storage::Scan);
        let generation = view.generation();
        // The conditions first: the reverse of an order that is there needs no scan, and would show at once.
        view.set_conditions([Condition::eq("group", "odd")]).unwrap();
        view.set_sort([SortBy::desc("n")]).unwrap();
        held.wait_until_held(1);
        assert_eq!(view.query().sort, [SortBy::desc("n")], "the query it is about to show");
        assert_eq!((view.row_count(), view.generation()), (100, generation));
        assert_eq!(view.row(0).unwrap().id(), id(0));
        assert!(matches!(view.load_state(), LoadState::Ready));
        dio.cache().remove(id(0)).unwrap();
        assert_eq!(view.row(0).unwrap().id(), id(1), "the old order follows meanwhile");
        assert_eq!(view.generation(), generation.next());
        assert_eq!(view.wait_until_ready(Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::Timeout);
        dio.patched(id(3), row_with(3, 500)).unwrap();
        drop(held);
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(view.row(0).unwrap().id(), id(3), "changed during the building");
        let odd = |record: &Record| !is_even(record);
        assert_eq!(shown(&view.snapshot()), recomputed(&dio, odd, |a, b| by_n(b, a)));
    });
}

#[test]
fn t8_a_superseded_request_never_lands() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 300);
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        for round in 0..20 {
            let start = view.generation();
            let first = ids(&view.snapshot());
            let held = backend.hold(Storage::Scan);
            view.set_search(Some("no such text")).unwrap();
            held.wait_until_held(1);
            view.set_conditions([Condition::lt("n", -1)]).unwrap();
            view.set_search(None).unwrap();
            view.set_conditions([Condition::ge("n", 100 + round)]).unwrap();
            settle(&dio);
            assert_eq!(ids(&view.snapshot()), first);
            drop(held);
            view.wait_until_ready(Some(SOON)).unwrap();
            assert_eq!(view.row_count(), 200 - round as usize);
            assert_eq!(view.generation(), start.next(), "one step, from the first to the last");
            view.set_conditions([]).unwrap();
            view.wait_until_ready(Some(SOON)).unwrap();
            assert_eq!(view.row_count(), 300);
        }
    });
}

#[test]
fn t8_a_query_that_shows_the_same_rows_moves_no_generation() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory(), 50);
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let generation = view.generation();
        view.set_sort([SortBy::desc("name")]).unwrap();
        view.set_search(Some("NAME")).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(view.generation(), generation);
        dio.patched(id(3), row_with(3, 70)).unwrap();
        assert_eq!(view.generation(), generation.next());
        assert_eq!(view.position_of(&id(3)).unwrap(), Some(3), "sorted by name now");
        assert_eq!(view.position_of(&id(49)).unwrap(), Some(49));
    });
}

#[test]
fn t8_a_view_never_blanks_while_it_is_set_and_rows_change() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 1_000);
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut looks = 0;
                let mut last = Generation(0);
                while !done.load(Atomic::Acquire) || looks == 0 {
                    let snapshot = view.snapshot();
                    assert!(snapshot.row_count() >= 400, "{} rows", snapshot.row_count());
                    assert!(snapshot.generation() >= last, "a generation goes back");
                    last = snapshot.generation();
                    let rows = shown(&snapshot);
                    let sorted = |order: fn(&Record, &Record) -> Ordering| {
                        rows.is_sorted_by(|(_, a), (_, b)| order(a, b) != Ordering::Greater)
                    };
                    assert!(sorted(by_n) || sorted(|a, b| by_n(b, a)) || sorted(by_name), "no order at all");
                    looks += 1;
                }
            });
            let writer = scope.spawn(|| {
                for round in 0..300_u64 {
                    let number = round * 7 % 1_000;
                    match round % 3 {
                        0 if round < 150 => dio.cache().remove(id(number)).unwrap(),
                        1 => dio.cache().insert_many((number..number + 10).map(row)).unwrap(),
                        _ => dio.patched(id(number), row_with(number, (round * 5) as i64)).unwrap(),
                    }
                }
            });
            let mut round = 0;
            while !writer.is_finished() || round < 30 {
                match round % 6 {
                    0 => view.set_sort([SortBy::desc("n")]).unwrap(),
                    1 => view.set_conditions([Condition::eq("group", "even")]).unwrap(),
                    2 => view.set_sort([SortBy::asc("name")]).unwrap(),
                    3 => view.set_search(Some("name")).unwrap(),
                    4 => view.set_conditions([]).unwrap(),
                    _ => view.set_sort([SortBy::asc("n")]).unwrap(),
                }
                if round % 4 == 3 {
                    view.wait_until_ready(Some(SOON)).unwrap();
                }
                round += 1;
            }
            done.store(true, Atomic::Release);
            watcher.join().unwrap();
        });
        view.set_sort([SortBy::desc("n")]).unwrap();
        view.set_search(None).unwrap();
        view.set_conditions([Condition::eq("group", "even")]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(shown(&view.snapshot()), recomputed(&dio, is_even, |a, b| by_n(b, a)));
    });
}
