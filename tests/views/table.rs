//! Table views: content, order, generations, closing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use diorama::prelude::*;
use diorama::vista::{Column, ColumnType, Schema, SortBy};
use diorama::{LensBuilder, TableSceneryBuilder};

use crate::common::*;
use crate::storage::{ScriptedBackend, Storage};

fn open_ids(view: TableSceneryBuilder) -> Vec<String> {
    ids(&view.open().unwrap().snapshot())
}

#[test]
fn t1_a_view_follows_every_kind_of_change_in_its_order() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens, 6);
        let view = dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Desc).open().unwrap();
        let check = |expected: &[u64]| {
            let expected: Vec<String> = expected.iter().map(|n| id(*n)).collect();
            assert_eq!(ids(&view.snapshot()), expected);
        };
        check(&[4, 2, 0]);
        dio.patched(id(0), row_with(0, 3)).unwrap();
        check(&[4, 0, 2]);
        dio.cache().insert(id(8), row(8).1).unwrap();
        check(&[8, 4, 0, 2]);
        dio.cache().remove(id(4)).unwrap();
        check(&[8, 0, 2]);
        let mut leaves = row(8).1;
        leaves.insert("group", "odd");
        dio.patched(id(8), leaves).unwrap();
        check(&[0, 2]);
        dio.cache().insert_many([row(10), row(12), row(13)]).unwrap();
        check(&[12, 10, 0, 2]);
        dio.write(WriteOp::patch(id(1), record! { "group" => "even" })).unwrap().wait(SOON).unwrap();
        check(&[12, 10, 0, 2, 1]);
        source.outside_silently().upsert(&id(20), row(20).1).unwrap();
        source.outside_silently().delete(&id(0)).unwrap();
        dio.refresh().unwrap();
        check(&[20, 4, 2, 1]);
        dio.handle_event(ChangeEvent::Deleted { id: id(2) }).unwrap();
        check(&[20, 4, 1]);
        dio.handle_event(ChangeEvent::Inserted { id: id(30), record: Some(row(30).1) }).unwrap();
        check(&[30, 20, 4, 1]);
        dio.reconcile(vec![row(2), row(20), row(3)]).unwrap();
        check(&[20, 2]);
        dio.cache().clear().unwrap();
        check(&[]);
        dio.cache().insert(id(6), row(6).1).unwrap();
        check(&[6]);
    });
}

#[test]
fn t1_ties_stand_in_the_order_of_arrival_and_a_row_that_comes_again_is_new() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 5);
        let unsorted = dio.table_scenery().open().unwrap();
        let tied = dio.table_scenery().sort("group", SortDir::Desc).open().unwrap();
        dio.patched(id(2), row_with(2, 77)).unwrap();
        dio.cache().remove(id(0)).unwrap();
        dio.cache().insert(id(0), row(0).1).unwrap();
        dio.cache().insert(id(7), row(7).1).unwrap();
        let expected: Vec<String> = [1, 2, 3, 4, 0, 7].map(id).to_vec();
        assert_eq!(ids(&unsorted.snapshot()), expected);
        let expected: Vec<String> = [1, 3, 7, 2, 4, 0].map(id).to_vec();
        assert_eq!(ids(&tied.snapshot()), expected);
        assert_eq!(open_ids(dio.table_scenery().sort("group", SortDir::Desc)), expected, "rebuilt");
        assert_eq!(dio.cache().list().unwrap().len(), 6);
    });
}

#[test]
#[cfg(feature = "lmdb")]
fn t1_the_order_of_arrival_survives_a_restart() {
    limited(|| {
        let dir = tempfile::tempdir().unwrap();
        let source = source(4);
        let make = || {
            let lens = Lens::new().cache_at(dir.path().join("cache")).build().unwrap();
            let dio = lens.make_dio(source.clone()).unwrap();
            (lens, dio)
        };
        let (lens, dio) = make();
        source.set_offline(true);
        dio.cache().remove(id(1)).unwrap();
        dio.cache().insert(id(9), row(9).1).unwrap();
        dio.cache().insert(id(1), row(1).1).unwrap();
        dio.flush().unwrap();
        assert!(lens.close(SOON).unwrap().is_closed());
        let (_lens, dio) = make();
        dio.cache().insert(id(5), row(5).1).unwrap();
        assert_eq!(open_ids(dio.table_scenery()), [0, 2, 3, 9, 1, 5].map(id));
    });
}

#[test]
fn t2_a_change_that_cannot_affect_a_view_moves_no_generation_and_wakes_nobody() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 1_000);
        let view = dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Asc).open().unwrap();
        let count = dio.value_scenery().where_eq("group", "even").count().open().unwrap();
        let one = dio.record_scenery(id(0)).unwrap();
        let before = (view.generation(), count.generation(), one.generation(), view.snapshot().seq());
        let receivers = [view.subscribe(), count.subscribe(), one.subscribe()];
        for receiver in &receivers {
            receiver.try_recv();
        }
        let (sender, hooked) = mpsc::channel();
        let _hook = view.on_generation(move |generation| sender.send(generation).unwrap()).unwrap();
        for number in 0..50 {
            dio.patched(id(number * 2 + 1), row_with(number * 2 + 1, -5)).unwrap();
        }
        dio.cache().insert(id(2_001), row(2_001).1).unwrap();
        dio.cache().remove(id(3)).unwrap();
        dio.patched(id(2), row(2).1).unwrap();
        settle(&dio);
        assert_eq!((view.generation(), count.generation(), one.generation()), (before.0, before.1, before.2));
        for receiver in &receivers {
            assert_eq!(receiver.try_recv(), None);
        }
        let unmoved = view.changes_since(before.0);
        assert_eq!(unmoved.changes, Changes::List(vec![]));
        assert_eq!(view.wait_for_change(before.0, Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::Timeout);

        dio.patched(id(0), row_with(0, 5)).unwrap();
        assert_eq!(view.generation(), before.0.next());
        assert_eq!(one.generation(), before.2.next());
        assert_eq!(count.generation(), before.1, "the count stays what it was");
        assert_eq!(receivers[0].try_recv(), Some(before.0.next()));
        assert_eq!(hooked.recv_timeout(SOON), Ok(before.0.next()), "the first call of the hook");
        let set = view.changes_since(before.0);
        assert_eq!(set.changes, Changes::List(vec![Change::Move { from: 0, to: 2 }]), "one entry of 500 was touched");
    });
}

#[test]
fn t3_a_generation_is_not_lost_without_subscribers_and_a_late_one_sees_the_newest() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory(), 10);
        let view = dio.table_scenery().open().unwrap();
        let opened = view.generation();
        for round in 0..10 {
            dio.patched(id(3), row_with(3, 100 + round)).unwrap();
        }
        assert_eq!(view.generation().0, opened.0 + 10);
        assert_eq!(view.wait_for_change(opened, Some(Duration::ZERO)).unwrap(), view.generation());
        let late = view.subscribe();
        assert_eq!(late.try_recv(), Some(view.generation()));
        assert_eq!(late.try_recv(), None);
        dio.patched(id(3), row_with(3, 1)).unwrap();
        dio.patched(id(3), row_with(3, 2)).unwrap();
        assert_eq!(late.receiver().recv_timeout(SOON).unwrap(), view.generation().0, "only the newest");
        assert_eq!(late.try_recv(), None);
    });
}

#[test]
fn t3_whoever_has_seen_a_generation_sees_rows_at_least_as_new() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory(), 10);
        let view = dio.table_scenery().where_eq("id", id(3)).open().unwrap();
        let first = view.generation();
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = first;
                let mut shown = -1;
                while shown < 499 {
                    seen = view.wait_for_change(seen, Some(SOON)).unwrap();
                    let snapshot = view.snapshot();
                    assert!(snapshot.generation() >= seen);
                    let n = snapshot.row(0).unwrap().int("n").unwrap();
                    // One generation for each n: generation g shows n = g - first - 1, or newer.
                    assert!(n >= shown && n >= (seen.0 - first.0) as i64 - 1, "{n} at {seen}");
                    assert_eq!(n, (snapshot.generation().0 - first.0) as i64 - 1);
                    shown = n;
                }
            });
            for n in 0..500 {
                dio.patched(id(3), row_with(3, n)).unwrap();
                assert!(view.row(0).unwrap().int("n") >= Some(n));
            }
            watcher.join().unwrap();
        });
    });
}

#[test]
fn t7_every_operator_follows_the_truth_table() {
    limited(|| {
        let null = None::<&str>;
        let source = MemoryVista::new("mixed", "id").with_rows([
            ("int", record! { "v" => 5, "w" => true }),
            ("float", record! { "v" => 5.0, "w" => false }),
            ("more", record! { "v" => 7.5 }),
            ("text", record! { "v" => "5" }),
            ("straße", record! { "v" => "Straße 5" }),
            ("true", record! { "v" => true }),
            ("null", record! { "v" => null }),
            ("absent", record! { "other" => 1 }),
            ("nan", record! { "v" => f64::NAN }),
            ("map", record! { "v" => record! { "x" => 5, "y" => record! { "z" => "deep" } } }),
            ("dotted", record! { "v.x" => 6, "v" => record! { "x" => 5 } }),
        ]);
        let dio = Lens::new().in_memory().build().unwrap().make_dio(source).unwrap();
        let check = |condition: Condition, expected: &[&str]| {
            assert_eq!(open_ids(dio.table_scenery().condition(condition.clone())), expected, "{condition}");
            let others: Vec<String> =
                open_ids(dio.table_scenery()).into_iter().filter(|id| !expected.contains(&id.as_str())).collect();
            let not = Condition::not(condition.clone());
            assert_eq!(open_ids(dio.table_scenery().condition(not)), others, "not {condition}");
        };
        check(Condition::eq("v", 5), &["int", "float"]);
        check(Condition::ne("v", 5), &["more", "text", "straße", "true", "null", "absent", "nan", "map", "dotted"]);
        check(Condition::eq("v", null), &["null", "absent"]);
        check(Condition::is_null("v"), &["null", "absent"]);
        check(Condition::lt("v", 7.5), &["int", "float"]);
        check(Condition::le("v", 7.5), &["int", "float", "more"]);
        check(Condition::gt("v", 5), &["more", "nan"]);
        check(Condition::ge("v", 5), &["int", "float", "more", "nan"]);
        check(Condition::ge("v", "5"), &["text", "straße"]);
        check(Condition::ge("v", null), &[]);
        check(Condition::le("v", null), &[]);
        check(Condition::eq("v", f64::NAN), &["nan"]);
        check(
            Condition::is_in("v", [Value::from("5"), Value::from(7.5), Value::Null]),
            &["more", "text", "null", "absent"],
        );
        check(Condition::is_in("v", Vec::<i64>::new()), &[]);
        check(
            Condition::not_in("v", [5]),
            &["more", "text", "straße", "true", "null", "absent", "nan", "map", "dotted"],
        );
        check(Condition::like("v", "Stra_e%"), &["straße"]);
        check(Condition::like("v", "%5"), &["text", "straße"]);
        check(Condition::like("v", "stra%"), &[]);
        check(Condition::eq("v.x", 5), &["map"]);
        check(Condition::eq("v.x", 6), &["dotted"]);
        check(Condition::eq("v.y.z", "deep"), &["map"]);
        check(Condition::all([]), &open_ids(dio.table_scenery()).iter().map(String::as_str).collect::<Vec<_>>());
        check(Condition::any([]), &[]);
        check(Condition::all([Condition::eq("v", 5), Condition::eq("w", true)]), &["int"]);
        check(Condition::any([Condition::eq("w", false), Condition::is_null("v")]), &["float", "null", "absent"]);
    });
}

#[test]
fn t7_several_sort_columns_each_have_a_direction_and_null_comes_last_in_both() {
    limited(|| {
        let null = None::<&str>;
        let source = MemoryVista::new("sorted", "id").with_rows([
            ("a", record! { "k" => 1, "t" => "x" }),
            ("b", record! { "k" => 1, "t" => "y" }),
            ("c", record! { "k" => null, "t" => "z" }),
            ("d", record! { "k" => 2.5, "t" => null }),
            ("e", record! { "k" => "1" }),
            ("f", record! { "t" => "é" }),
            ("g", record! { "k" => 2.5, "t" => "Z" }),
            ("h", record! { "k" => f64::NAN }),
            ("i", record! { "k" => false }),
            ("j", record! { "k" => -0.0, "t" => "zero" }),
            ("k", record! { "k" => 0, "t" => "zero" }),
        ]);
        let dio = Lens::new().in_memory().build().unwrap().make_dio(source).unwrap();
        let sorted =
            |by: &[(&str, SortDir)]| by.iter().fold(dio.table_scenery(), |view, (path, dir)| view.sort(*path, *dir));
        let (asc, desc) = (SortDir::Asc, SortDir::Desc);
        assert_eq!(
            open_ids(sorted(&[("k", asc), ("t", desc)])),
            ["i", "j", "k", "b", "a", "g", "d", "h", "e", "f", "c"]
        );
        assert_eq!(
            open_ids(sorted(&[("k", desc), ("t", asc)])),
            ["e", "h", "g", "d", "a", "b", "j", "k", "i", "c", "f"]
        );
        assert_eq!(open_ids(sorted(&[("t", desc)])), ["f", "j", "k", "c", "b", "a", "g", "d", "e", "h", "i"]);
    });
}

#[test]
fn t7_a_search_looks_into_texts_numbers_booleans_and_nested_values_whatever_the_case() {
    limited(|| {
        let source = MemoryVista::new("searched", "id").with_rows([
            ("1", record! { "a" => "Über den Wolken" }),
            ("2", record! { "a" => 42.5 }),
            ("3", record! { "a" => -42 }),
            ("4", record! { "a" => true }),
            ("5", record! { "a" => record! { "city" => vec![Value::from("RĪGA"), Value::from(7)] } }),
            ("6", record! { "a" => None::<&str>, "b" => "plain" }),
        ]);
        let dio = Lens::new().in_memory().build().unwrap().make_dio(source).unwrap();
        let found = |text: &str| open_ids(dio.table_scenery().search(text));
        assert_eq!(found("üBER"), ["1"]);
        assert_eq!(found("42"), ["2", "3"]);
        assert_eq!(found("-42"), ["3"]);
        assert_eq!(found("TRU"), ["4"]);
        assert_eq!(found("rīga"), ["5"]);
        assert_eq!(found("city"), Vec::<String>::new(), "names of fields are not searched");
        assert_eq!(found("n"), ["1", "6"]);
        assert_eq!(found("").len(), 6);
        assert_eq!(open_ids(dio.table_scenery().search("42").condition(Condition::lt("a", 0))), ["3"]);
    });
}

#[test]
fn t10_an_unknown_column_is_an_error_that_names_it_when_the_schema_is_known() {
    limited(|| {
        let schema = Schema::new("id")
            .with(Column::new("id", ColumnType::Text))
            .with(Column::new("n", ColumnType::Int))
            .with(Column::new("address", ColumnType::Any))
            .with(Column::new("blob", ColumnType::Bytes).not_orderable());
        let source =
            MemoryVista::new("known", "id").with_schema(schema).with_rows([("a", record! { "id" => "a", "n" => 1 })]);
        let dio = Lens::new().in_memory().build().unwrap().make_dio(source).unwrap();
        let names = |error: Error, column: &str| {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(error.to_string().contains(column) && error.to_string().contains("known"), "{error}");
        };
        names(dio.table_scenery().where_eq("nn", 1).open().unwrap_err(), "nn");
        names(dio.table_scenery().sort("nn", SortDir::Asc).open_now().unwrap_err(), "nn");
        names(dio.value_scenery().sum("nn").open().unwrap_err(), "nn");
        names(dio.value_scenery().count().where_eq("nn.x", 1).open().unwrap_err(), "nn.x");
        names(dio.vista().add_condition_eq("nn", 1).map(drop).unwrap_err(), "nn");
        let deep = Condition::not(Condition::any([Condition::eq("n", 1), Condition::is_null("nowhere")]));
        names(dio.table_scenery().condition(deep).open().unwrap_err(), "nowhere");
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        names(view.set_sort([SortBy::asc("nn")]).unwrap_err(), "nn");
        names(view.set_conditions([Condition::eq("nn", 1)]).unwrap_err(), "nn");
        assert_eq!(view.set_sort([SortBy::asc("blob")]).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(view.query().sort, [SortBy::asc("n")], "a refused query changes nothing");
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(view.row_count(), 1);
        assert_eq!(dio.table_scenery().where_eq("address.city", "Riga").open().unwrap().row_count(), 0);
    });
}

fn closing_keeps_the_views_and_wakes_the_waiters(lens: LensBuilder, close: fn(&Lens, Dio)) {
    let (lens, _source, dio) = dio(lens, 100);
    let view = dio.table_scenery().where_eq("group", "odd").sort("n", SortDir::Desc).open().unwrap();
    let count = dio.value_scenery().count().open().unwrap();
    let one = dio.record_scenery(id(1)).unwrap();
    let snapshot = view.snapshot();
    let before = ids(&snapshot);
    let generation = view.generation();
    let (waiting, woken) = (AtomicBool::new(false), mpsc::channel());
    let receiver = view.subscribe();
    receiver.try_recv();
    thread::scope(|scope| {
        scope.spawn(|| {
            waiting.store(true, Ordering::Release);
            woken.0.send(view.wait_for_change(generation, Some(SOON))).unwrap();
        });
        while !waiting.load(Ordering::Acquire) {
            thread::yield_now();
        }
        close(&lens, dio);
        assert_eq!(woken.1.recv_timeout(SOON).unwrap().unwrap_err().kind(), ErrorKind::Closed);
    });
    assert!(receiver.receiver().recv_timeout(SOON).is_err(), "disconnected");
    assert_eq!(view.generation(), generation);
    assert_eq!((view.row_count(), snapshot.row_count()), (50, 50));
    for snapshot in [snapshot, view.snapshot()] {
        for (index, id) in before.iter().enumerate() {
            let row = snapshot.row(index).unwrap();
            match row.status() {
                RowStatus::Closed => assert_eq!(row.record().unwrap_err().kind(), ErrorKind::Closed),
                status => assert_eq!((row.id(), status), (id.as_str(), RowStatus::Fresh)),
            }
        }
        assert_eq!(snapshot.row(0).unwrap().status(), RowStatus::Fresh, "it was read before, and is in memory");
    }
    assert_eq!(view.set_search(Some("x")).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(view.request_refresh().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(view.wait_for_change(generation, None).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(count.wait_for_change(count.generation(), None).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(one.wait_for_change(one.generation(), None).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(count.int(), Some(100));
    assert_eq!(one.record().unwrap().int("n"), Some(1));
}

#[test]
fn t11_after_closing_the_views_keep_order_and_rows_and_everyone_who_waits_wakes() {
    on_every_storage(|lens| {
        closing_keeps_the_views_and_wakes_the_waiters(lens, |lens, _dio| {
            assert!(lens.close(SOON).unwrap().is_closed());
        });
    });
}

#[test]
fn t11_views_do_not_keep_the_dio_alive() {
    on_every_storage(|lens| closing_keeps_the_views_and_wakes_the_waiters(lens, |_lens, dio| drop(dio)));
}

#[test]
fn t11_a_view_that_is_still_opening_when_the_dio_closes_says_so() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 100);
        let held = backend.hold(Storage::Scan);
        let view = dio.table_scenery().open_now().unwrap();
        let total = dio.value_scenery().sum("n").open_now().unwrap();
        held.wait_until_held(1);
        thread::scope(|scope| {
            let waits = scope.spawn(|| view.wait_until_ready(Some(SOON)));
            let too = scope.spawn(|| total.wait_until_ready(Some(SOON)));
            dio.close(Duration::ZERO).unwrap();
            assert_eq!(waits.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(too.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        });
        drop(held);
        assert!(lens.close(SOON).unwrap().is_closed());
        assert_eq!(view.row_count(), 0);
    });
}

#[test]
fn t13_a_change_that_lands_while_a_view_is_opening_is_in_it() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 1_000);
        let held = backend.hold(Storage::Scan);
        let view = dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Asc).open_now().unwrap();
        let count = dio.value_scenery().count().open_now().unwrap();
        let total = dio.value_scenery().sum("n").where_eq("group", "even").open_now().unwrap();
        held.wait_until_held(1);
        for number in 0..200 {
            dio.patched(id(number), row_with(number, 5_000 - number as i64)).unwrap();
        }
        for number in 300..400 {
            dio.cache().remove(id(number)).unwrap();
        }
        for number in 350..360 {
            dio.cache().insert(id(number), row(number).1).unwrap();
        }
        dio.cache().insert_many((2_000..2_100).map(row)).unwrap();
        dio.flush().unwrap();
        assert_eq!(view.row_count(), 0, "still opening");
        assert_eq!(view.wait_until_ready(Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::Timeout);
        drop(held);
        view.wait_until_ready(Some(SOON)).unwrap();
        count.wait_until_ready(Some(SOON)).unwrap();
        total.wait_until_ready(Some(SOON)).unwrap();
        assert!(matches!(view.load_state(), LoadState::Ready));
        let expected = recomputed(&dio, is_even, by_n);
        assert_eq!(shown(&view.snapshot()), expected);
        assert_eq!(count.int(), Some(dio.cache().count().unwrap() as i64));
        assert_eq!(total.int(), Some(expected.iter().filter_map(|(_, record)| record.int("n")).sum()));
        for (index, (id, _)) in expected.iter().enumerate() {
            assert_eq!(view.position_of(id).unwrap(), Some(index));
        }
    });
}

#[test]
fn t13_views_opened_while_many_threads_write_equal_a_recompute_in_the_end() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 2_000);
        let views = thread::scope(|scope| {
            for writer in 0..3_u64 {
                let dio = &dio;
                scope.spawn(move || {
                    for round in 0..300_u64 {
                        let number = (round * 7 + writer * 13) % 2_200;
                        match round % 5 {
                            0 => dio.cache().remove(id(number)).unwrap(),
                            1 => dio.cache().insert_many((number..number + 20).map(row)).unwrap(),
                            _ => dio.patched(id(number), row_with(number, round as i64 * 3)).unwrap(),
                        }
                    }
                });
            }
            let mut views = Vec::new();
            for round in 0..20 {
                let view = match round % 3 {
                    0 => dio.table_scenery().sort("n", SortDir::Asc).condition(Condition::ge("n", round)),
                    1 => dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Asc),
                    _ => dio.table_scenery().search(format!("{round}")).sort("n", SortDir::Asc),
                };
                views.push((round, view.open().unwrap(), dio.value_scenery().sum("n").open().unwrap()));
            }
            views
        });
        settle(&dio);
        for (round, view, total) in &views {
            let text = format!("{round}");
            let keep = |record: &Record| match round % 3 {
                0 => record.int("n") >= Some(*round),
                1 => is_even(record),
                _ => record.iter().any(|(_, value)| match value {
                    Value::Text(value) => value.contains(&text),
                    Value::Integer(value) => i128::from(*value).to_string().contains(&text),
                    _ => false,
                }),
            };
            assert_eq!(shown(&view.snapshot()), recomputed(&dio, keep, by_n), "round {round}");
            let sum: i64 = dio.cache().list().unwrap().iter().filter_map(|(_, record)| record.int("n")).sum();
            assert_eq!(total.int(), Some(sum));
        }
    });
}

#[test]
fn a_row_that_comes_and_goes_within_one_batch_leaves_nothing_behind() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 10);
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let existing = dio.record_scenery(id(20)).unwrap();
        dio.flush().unwrap();
        let held = backend.hold(Storage::Scan);
        let wait_for_inbox = |messages: usize| {
            while dio.status().inbox < messages {
                thread::yield_now();
            }
        };
        let generation = thread::scope(|scope| {
            // The core scans in order to clear: what is sent meanwhile becomes one batch.
            scope.spawn(|| dio.cache().clear().unwrap());
            held.wait_until_held(1);
            let generation = view.generation();
            let steps = [(true, 20), (false, 20), (true, 21), (false, 21), (true, 21)];
            for (sent, (insert, number)) in steps.into_iter().enumerate() {
                let cache = dio.cache();
                scope.spawn(move || match insert {
                    true => cache.insert(id(number), row(number).1).unwrap(),
                    false => cache.remove(id(number)).unwrap(),
                });
                wait_for_inbox(sent + 1);
            }
            drop(held);
            generation
        });
        assert_eq!(ids(&view.snapshot()), [id(21)]);
        assert_eq!(view.generation(), generation.next(), "one batch");
        assert!(existing.record().is_none());
        dio.flush().unwrap();
        assert!(dio.status().cache_error.is_none(), "{:?}", dio.status().cache_error);
        assert_eq!(dio.status().rows_in_memory, 0);
        assert_eq!((dio.cache().count().unwrap(), dio.cache().list().unwrap().len()), (1, 1));
        assert_eq!(dio.cache().get(&id(20)).unwrap(), None);
    });
}

#[test]
fn t13_views_open_while_rows_change_all_the_time_whatever_the_snapshot_budget() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory().snapshot_budget(0), 20_000);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0;
                while !done.load(Ordering::Acquire) {
                    dio.patched(id(n % 100), row_with(n % 100, n as i64)).unwrap();
                    n += 1;
                }
            });
            let opened: Vec<_> = (0..5)
                .map(|round| dio.table_scenery().sort("n", SortDir::Asc).condition(Condition::ge("n", round)).open())
                .collect();
            let list = dio.vista().list_values().map(|rows| rows.len());
            let listed = dio.cache().list().map(|rows| rows.len());
            let total = dio.value_scenery().sum("n").open();
            done.store(true, Ordering::Release);
            for view in opened {
                assert!(view.unwrap().row_count() > 19_000);
            }
            assert_eq!((list.unwrap(), listed.unwrap()), (20_000, 20_000));
            assert!(total.unwrap().int() > Some(0));
        });
    });
}

#[test]
fn a_refresh_asked_for_right_after_make_dio_reads_the_source_again() {
    limited(|| {
        for _ in 0..200 {
            let (_lens, source, dio) = dio(Lens::new().in_memory(), 2);
            source.outside_silently().delete(&id(1)).unwrap();
            dio.refresh().unwrap();
            assert_eq!(dio.cache().count().unwrap(), 1);
        }
    });
}
