//! F: refreshes on a schedule and on demand, reconciling, and changes told from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::unbounded;
use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{Cause, RecordStatus};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

fn is_failure(event: &DioEvent) -> bool {
    matches!(event, DioEvent::RefreshFailed { .. })
}

// ---- F1: on a schedule ---------------------------------------------------------------------------------------------

#[test]
fn f1_the_first_scheduled_refresh_comes_after_one_interval_and_the_next_after_another() {
    on_both(|cache| {
        let source = products("f1-first");
        let (clock, hands) = Clock::manual();
        let lens = cache.lens().clock(clock).refresh_every(SECOND * 10).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        for round in 1..=3 {
            hands.wait_for_sleepers(1);
            hands.advance(SECOND * 9);
            hands.wait_for_sleepers(1);
            assert_eq!(source.calls(Call::List), round);
            hands.advance(SECOND);
            hands.wait_for_sleepers(1);
            assert_eq!(source.calls(Call::List), round + 1);
        }
        let at = dio.status().last_refresh.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(at, SECOND * 30);
    });
}

#[test]
fn f1_intervals_do_not_pile_up_behind_a_slow_refresh() {
    on_both(|cache| {
        let source = products("f1-slow");
        let (clock, hands) = Clock::manual();
        let lens = cache.lens().clock(clock).refresh_every(SECOND * 10).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        hands.wait_for_sleepers(1);
        let held = source.hold(Call::List);
        hands.advance(SECOND * 10);
        assert!(held.wait_until_held(1, SOON));
        for _ in 0..10 {
            hands.advance(SECOND * 10);
        }
        assert_eq!(held.held(), 1);
        held.release();
        events_until(&mut events, "Refreshed", |event| matches!(event, DioEvent::Refreshed { .. }));
        for _ in 0..9 {
            hands.wait_for_sleepers(1);
            hands.advance(SECOND);
        }
        hands.wait_for_sleepers(1);
        assert_eq!(source.calls(Call::List), 2, "the missed ones are not made up for");
        hands.advance(SECOND);
        hands.wait_for_sleepers(1);
        assert_eq!(source.calls(Call::List), 3);
    });
}

#[test]
fn f1_a_failing_refresh_keeps_the_rows_shows_and_backs_off_until_it_goes_well() {
    on_both(|cache| {
        let source = products("f1-fails");
        let (clock, hands) = Clock::manual();
        let lens = cache.lens().clock(clock).refresh_every(SECOND * 10).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        hands.wait_for_sleepers(1);
        let (last_refresh, generation) = (dio.status().last_refresh, view.generation());
        source.outside_silently().delete_all().unwrap();
        source.fail_always(Call::List, cut());
        let mut events = dio.subscribe_events();

        let attempt = |most: u64| {
            let before = source.calls(Call::List);
            for second in 1..=most {
                hands.wait_for_sleepers(1);
                hands.advance(SECOND);
                hands.wait_for_sleepers(1);
                if source.calls(Call::List) > before {
                    return second;
                }
            }
            panic!("no attempt within {most} s");
        };
        assert_eq!(attempt(10), 10);
        let mut pauses = Vec::new();
        for failures in 1..=8 {
            let status = dio.status();
            assert_eq!(status.refresh_failures, failures);
            assert_eq!(status.refresh_error.as_ref().map(Error::kind), Some(ErrorKind::Unavailable));
            assert_eq!(status.last_refresh, last_refresh, "a failed one records no time");
            assert!(!status.refreshing);
            assert_eq!((view.generation(), view.row_count()), (generation, 3), "the rows stay");
            pauses.push(attempt(600));
        }
        assert!(pauses.is_sorted() && pauses[7] > pauses[0], "{pauses:?}");
        let failures = names(&events_now(&mut events)).iter().filter(|name| *name == "RefreshFailed").count();
        assert_eq!(failures, 9);

        source.heal();
        attempt(600);
        hands.wait_for_sleepers(1);
        let status = dio.status();
        assert_eq!((status.refresh_failures, status.refresh_error.is_none(), status.rows), (0, true, 0));
        assert!(status.last_refresh > last_refresh);
        assert_eq!(attempt(600), 10, "the back-off is over");
    });
}

#[test]
fn f1_without_an_interval_nothing_is_refreshed_by_itself() {
    in_time(|| {
        let source = products("f1-none");
        let (clock, hands) = Clock::manual();
        let lens = Lens::new().in_memory().clock(clock).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        hands.wait_for_sleepers(1);
        hands.advance(SECOND * 1_000_000);
        hands.wait_for_sleepers(1);
        assert_eq!(source.calls(Call::List), 1);
        dio.refresh().unwrap();
        assert_eq!(source.calls(Call::List), 2);
    });
}

// ---- F2: on demand -------------------------------------------------------------------------------------------------

#[test]
fn f2_refresh_returns_when_the_rows_are_there() {
    on_both(|cache| {
        let source = products("f2-rows");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        source.outside_silently().patch("b", record! { "price" => 25 }).unwrap();
        source.outside_silently().delete("a").unwrap();
        source.outside_silently().upsert("d", product("Drum", 15)).unwrap();
        dio.refresh().unwrap();
        assert_eq!(prices(&view.snapshot()), ["d=15", "c=20", "b=25"]);
        assert_eq!(dio.status().total, Some(3));
    });
}

#[test]
fn f2_refresh_returns_its_error_and_the_rows_stay() {
    on_both(|cache| {
        let source = products("f2-error");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        source.fail_next(Call::List, 1, cut());
        let error = dio.refresh().unwrap_err();
        assert_eq!((error.kind(), error.context("table")), (ErrorKind::Unavailable, Some("f2-error")));
        let seen = events_until(&mut events, "RefreshFailed", is_failure);
        assert_eq!(names(&seen), ["Refreshing", "RefreshFailed"]);
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        dio.refresh().unwrap();
        assert_eq!(dio.status().refresh_failures, 0);
    });
}

#[test]
fn f2_rows_with_a_repeated_or_empty_id_fail_the_refresh_and_change_nothing() {
    on_both(|cache| {
        for (bad, named) in [("a", "a"), ("", "")] {
            let good = Arc::new(AtomicBool::new(true));
            let is_good = good.clone();
            let lens = cache
                .lens()
                .on_start(|dio| dio.reconcile(vec![("a".to_owned(), product("A", 1))]))
                .on_refresh(move |dio| {
                    let mut rows = vec![("a".to_owned(), product("A", 2)), ("b".to_owned(), product("B", 2))];
                    if !is_good.load(Ordering::SeqCst) {
                        rows.push((bad.to_owned(), product("Bad", 3)));
                    }
                    dio.reconcile(rows)
                })
                .build()
                .unwrap();
            let dio = lens.make_dio(MemoryVista::new(format!("f2-bad {bad}"), "id")).unwrap();
            good.store(false, Ordering::SeqCst);
            let error = dio.refresh().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(bad.is_empty() || error.context("id") == Some(named), "{error}");
            assert_eq!(cached(&dio), ["a=1"]);
        }
    });
}

#[test]
fn f2_two_refreshes_at_once_run_once() {
    on_both(|cache| {
        let source = products("f2-once");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let held = source.hold(Call::List);
        let first = dio.clone();
        let first = start("refresh", move || first.refresh());
        assert!(held.wait_until_held(1, SOON));
        assert!(dio.status().refreshing);
        // Those that ask and don't wait join it for sure.
        for _ in 0..10 {
            view.request_refresh().unwrap();
        }
        held.release();
        first.end().unwrap();
        dio.refresh().unwrap();
        assert_eq!(source.calls(Call::List), 3, "the first copy, the one that all joined, and the one after it");
    });
}

#[test]
fn f2_however_many_threads_refresh_one_runs_at_a_time_and_each_gets_the_result_of_one() {
    on_both(|cache| {
        let (running, most, runs) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let seen_most = most.clone();
        let lens = cache
            .lens()
            .on_refresh(move |_| {
                seen_most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let run = runs.fetch_add(1, Ordering::SeqCst);
                running.fetch_sub(1, Ordering::SeqCst);
                if run % 2 == 0 { Ok(()) } else { Err(Error::new(ErrorKind::Rejected, format!("run {run}"))) }
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("f2-many"));
        let dio = dio.unwrap();
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let dio = dio.clone();
                start("refresh", move || {
                    for _ in 0..25 {
                        if let Err(error) = dio.refresh() {
                            assert_eq!(error.kind(), ErrorKind::Rejected);
                        }
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(Task::end);
        assert_eq!(most.load(Ordering::SeqCst), 1);
    });
}

// ---- F3: reconcile -------------------------------------------------------------------------------------------------

#[test]
fn f3_reconcile_makes_the_cache_equal_the_rows_in_one_step_with_one_event() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("f3-step")).unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        let other = dio.table_scenery().where_eq("name", "Chain").open().unwrap();
        let mut events = dio.subscribe_events();
        let (generation, untouched, seq) = (view.generation(), other.generation(), dio.seq());
        let rows = vec![
            ("c".to_owned(), product("Chain", 20)),
            ("b".to_owned(), product("Bell", 25)),
            ("d".to_owned(), product("Drum", 15)),
            ("e".to_owned(), product("Egg", 5)),
        ];
        dio.reconcile(rows).unwrap();
        assert_eq!(prices(&view.snapshot()), ["e=5", "d=15", "c=20", "b=25"]);
        assert_eq!((view.generation(), dio.seq()), (generation.next(), seq.next()));
        assert_eq!(other.generation(), untouched);
        let seen: Vec<DioEvent> = events_now(&mut events).into_iter().filter(is_about_rows).collect();
        assert!(matches!(&seen[..], [DioEvent::Invalidated { cause: Cause::Refresh, .. }]), "{seen:?}");
    });
}

#[test]
fn f3_reconcile_with_an_empty_or_repeated_id_changes_nothing() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("f3-bad")).unwrap();
        let seq = dio.seq();
        let row = |id: &str| (id.to_owned(), product("X", 1));
        let error = dio.reconcile(vec![row("x"), row("y"), row("x")]).unwrap_err();
        assert_eq!((error.kind(), error.context("id")), (ErrorKind::Invalid, Some("x")));
        assert_eq!(dio.reconcile(vec![row("x"), row("")]).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!((cached(&dio).len(), dio.seq()), (3, seq));
        dio.reconcile(Vec::new()).unwrap();
        assert_eq!(dio.status().rows, 0);
    });
}

#[test]
fn f3_a_hundred_thousand_identical_rows_move_nothing_and_make_no_event() {
    on_both(|cache| {
        let source = many("f3-same", 100_000);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        dio.flush().unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Desc).open().unwrap();
        let first = dio.record_scenery("row 0").unwrap();
        let sum = dio.value_scenery().sum("price").open().unwrap();
        let generations = (view.generation(), first.generation(), sum.generation());
        let seq = dio.seq();
        let mut events = dio.subscribe_events();
        dio.reconcile(source.rows()).unwrap();
        dio.refresh().unwrap();
        // The order in which the source lists is no change either.
        let mut rows = source.rows();
        rows.reverse();
        dio.reconcile(rows).unwrap();
        assert_eq!((view.generation(), first.generation(), sum.generation()), generations);
        assert_eq!(dio.seq(), seq);
        assert_eq!(names(&events_now(&mut events)), ["Refreshing", "Refreshed"]);
        let status = dio.status();
        assert_eq!((status.rows, status.unstored_bytes), (100_000, 0));
        assert_eq!(view.row(0).unwrap().id(), "row 99999");
        assert!(matches!(view.changes_since(generations.0).changes, Changes::List(list) if list.is_empty()));
    });
}

#[test]
fn f3_after_any_reconcile_the_cache_equals_the_source_also_after_a_restart() {
    on_both(|cache| {
        let source = many("f3-equal", 500);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let sorted = |source: &MemoryVista| {
            let mut rows: Vec<String> =
                source.rows().iter().map(|(id, row)| format!("{id}={}", row.int("price").unwrap_or(-1))).collect();
            rows.sort();
            rows
        };
        for round in 0..20_i64 {
            for step in 0..30 {
                let id = format!("row {}", (round * 37 + step * 11) % 600);
                if step % 3 == 0 {
                    source.outside_silently().delete(&id).unwrap();
                } else {
                    source.outside_silently().upsert(&id, product("new", round * 1_000 + step)).unwrap();
                }
            }
            dio.reconcile(source.rows()).unwrap();
            assert_eq!(cached(&dio), sorted(&source), "round {round}");
        }
        drop(dio);
        assert!(lens.close(SOON).unwrap().is_closed());
        source.set_offline(true);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        assert_eq!(cached(&dio), sorted(&source));
    });
}

// ---- F6: never blank -----------------------------------------------------------------------------------------------

#[test]
fn f6_no_view_is_ever_empty_because_of_a_refresh() {
    on_both(|cache| {
        let round = AtomicUsize::new(0);
        let lens = cache
            .lens()
            .on_start(|dio| dio.cache().insert("first", product("First", 0)))
            .on_refresh(move |dio| {
                let round = round.fetch_add(1, Ordering::SeqCst);
                let row = |number: usize| (format!("round {round} row {number}"), product("kept", number as i64));
                match round % 4 {
                    0 => {
                        dio.cache().clear()?;
                        dio.cache().insert_many((0..50).map(row))
                    }
                    1 => {
                        for (id, _) in dio.cache().list()? {
                            dio.cache().remove(id)?;
                        }
                        (0..50).map(row).try_for_each(|(id, record)| dio.cache().insert(id, record))
                    }
                    2 => dio.reconcile((0..50).map(row).collect()),
                    _ => {
                        dio.cache().clear()?;
                        dio.cache().insert("x", product("kept", 1))?;
                        dio.cache().clear()?;
                        dio.cache().insert_many((0..1_000).map(row))
                    }
                }
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("f6")).unwrap();
        let plain = dio.table_scenery().open().unwrap();
        let sorted = dio.table_scenery().sort("price", SortDir::Desc).open().unwrap();
        let count = dio.value_scenery().count().open().unwrap();
        let (closed, is_closed) = unbounded::<()>();
        let watched = [plain.clone(), sorted.clone()];
        let counted = count.clone();
        let watcher = start("the watcher", move || {
            let mut looks = 0_u64;
            while !matches!(is_closed.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected)) {
                for view in &watched {
                    let snapshot = view.snapshot();
                    assert!(snapshot.row_count() > 0, "a view is empty at {}", snapshot.seq());
                    assert!(snapshot.iter().next().is_some());
                }
                assert!(counted.int() > Some(0));
                looks += 1;
            }
            looks
        });
        let every_generation = plain.clone();
        let first = plain.generation();
        let waiter = start("the waiter", move || {
            let mut seen = first;
            while let Ok(generation) = every_generation.wait_for_change(seen, Some(SOON)) {
                assert!(every_generation.row_count() > 0);
                seen = generation;
            }
        });
        for _ in 0..60 {
            dio.refresh().unwrap();
        }
        assert!(plain.generation() > first);
        drop(closed);
        assert!(watcher.end() > 0);
        dio.close(SOON).unwrap();
        waiter.end();
    });
}

// ---- F7: told from outside -----------------------------------------------------------------------------------------

#[test]
fn f7_an_event_with_a_row_is_applied_before_handle_event_returns() {
    on_both(|cache| {
        let source = products("f7-row");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        let view = dio.table_scenery().open().unwrap();
        let (id, record) = ("d".to_owned(), Some(product("Drum", 15)));
        dio.handle_event(ChangeEvent::Inserted { id, record }).unwrap();
        let (id, record) = ("b".to_owned(), Some(record! { "price" => 11 }));
        dio.handle_event(ChangeEvent::Updated { id, record }).unwrap();
        dio.handle_event(ChangeEvent::Deleted { id: "a".to_owned() }).unwrap();
        dio.handle_event(ChangeEvent::Deleted { id: "never there".to_owned() }).unwrap();
        assert_eq!(prices(&view.snapshot()), ["b=11", "c=20", "d=15"]);
        assert_eq!(dio.cache().get("b").unwrap().unwrap().get("name"), None, "the whole row is replaced");
        let seen = events_now(&mut events);
        assert_eq!(names(&seen), ["RecordInserted d", "RecordChanged b", "RecordRemoved a"]);
        assert!(seen.iter().all(|event| event.cause() == Some(Cause::Outside)));
        assert_eq!((source.calls(Call::Get), source.calls(Call::List)), (0, 1));
    });
}

#[test]
fn f7_an_event_without_a_row_re_reads_that_row_only() {
    on_both(|cache| {
        let source = products("f7-reread");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        source.outside_silently().patch("b", record! { "price" => 11 }).unwrap();
        source.outside_silently().upsert("d", product("Drum", 15)).unwrap();
        source.outside_silently().patch("a", record! { "price" => 31 }).unwrap();
        dio.handle_event(ChangeEvent::Updated { id: "b".to_owned(), record: None }).unwrap();
        dio.handle_event(ChangeEvent::Inserted { id: "d".to_owned(), record: None }).unwrap();
        wait_for(&view, "b and d as they are now", |rows| prices(rows) == ["a=30", "b=11", "c=20", "d=15"]);
        assert_eq!((source.calls(Call::Get), source.calls(Call::List)), (2, 1));
    });
}

#[test]
fn f7_a_source_without_get_is_read_whole_when_one_row_is_to_be_re_read() {
    on_both(|cache| {
        let able = diorama::vista::Capabilities { get: false, ..diorama::vista::Capabilities::read_write() };
        let source = products("f7-whole").with_capabilities(able);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        source.outside_silently().patch("b", record! { "price" => 11 }).unwrap();
        dio.invalidate_record("b");
        wait_for(&view, "b as it is now", |rows| {
            prices(rows) == ["a=30", "b=11", "c=20"] && rows.iter().all(|row| row.status() == RowStatus::Fresh)
        });
    });
}

#[test]
fn f7_on_event_takes_the_place_of_applying_and_runs_on_the_callers_thread() {
    on_both(|cache| {
        let (seen, sees) = unbounded();
        let lens = cache
            .lens()
            .on_event(move |dio, event| {
                let _ = seen.send(std::thread::current().id());
                match event {
                    ChangeEvent::Deleted { .. } => Err(Error::new(ErrorKind::Rejected, "no")),
                    _ => dio.cache().insert("from event", product("E", 1)),
                }
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("f7-callback")).unwrap();
        let mut events = dio.subscribe_events();
        let record = Some(product("Ignored", 1));
        dio.handle_event(ChangeEvent::Updated { id: "a".to_owned(), record }).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "from event=1"]);
        assert_eq!(names(&events_now(&mut events)), ["RecordInserted from event"]);
        let error = dio.handle_event(ChangeEvent::Deleted { id: "a".to_owned() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert_eq!(cached(&dio).len(), 4);
        assert!(sees.try_iter().all(|thread| thread == std::thread::current().id()));
    });
}

#[test]
fn f7_patched_replaces_the_whole_row_and_returns_when_it_is_visible() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("f7-patched")).unwrap();
        let mut events = dio.subscribe_events();
        let view = dio.table_scenery().open().unwrap();
        dio.patched("b", record! { "price" => 11 }).unwrap();
        dio.patched("d", product("Drum", 15)).unwrap();
        assert_eq!(prices(&view.snapshot()), ["a=30", "b=11", "c=20", "d=15"]);
        assert_eq!(dio.cache().get("b").unwrap().unwrap().get("name"), None);
        let seen = events_now(&mut events);
        assert_eq!(names(&seen), ["RecordChanged b", "RecordInserted d"]);
        assert!(seen.iter().all(|event| event.cause() == Some(Cause::Outside)));
        assert_eq!(dio.patched("", product("Empty", 1)).unwrap_err().kind(), ErrorKind::Invalid);
    });
}

#[test]
fn f7_an_invalidated_row_is_marked_stale_until_it_is_read_again() {
    on_both(|cache| {
        let source = products("f7-stale");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let (bell, anvil) = (dio.record_scenery("b").unwrap(), dio.record_scenery("a").unwrap());
        let untouched = anvil.generation();
        let held = source.hold(Call::Get);
        dio.invalidate_record("b");
        let stale = |number: usize| {
            move |rows: &diorama::TableSnapshot| {
                rows.iter().filter(|row| row.status() == RowStatus::Stale).count() == number
            }
        };
        let snapshot = wait_for(&view, "one stale row", stale(1));
        assert_eq!(snapshot.row(1).unwrap().status(), RowStatus::Stale);
        assert_eq!(prices(&snapshot), ["a=30", "b=10", "c=20"]);
        while bell.status() != RecordStatus::Stale {
            bell.wait_for_change(bell.generation(), Some(SOON)).unwrap();
        }
        held.release();
        wait_for(&view, "no stale row", stale(0));
        while bell.status() != RecordStatus::Fresh {
            bell.wait_for_change(bell.generation(), Some(SOON)).unwrap();
        }
        assert_eq!(anvil.generation(), untouched, "another row's view doesn't move");
    });
}

#[test]
fn f7_a_failed_re_read_keeps_the_row() {
    on_both(|cache| {
        let source = products("f7-keep");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        source.fail_next(Call::Get, 1, cut());
        dio.invalidate_record("b");
        assert!(source.wait_until_called(Call::Get, 1, SOON));
        wait_for(&view, "a stale row", |rows| rows.row(1).is_some_and(|row| row.status() == RowStatus::Stale));
        // One re-read after the other: the first has failed when the second is made.
        source.outside_silently().patch("a", record! { "price" => 31 }).unwrap();
        dio.invalidate_record("a");
        wait_for(&view, "a as it is now", |rows| prices(rows) == ["a=31", "b=10", "c=20"]);
        assert_eq!(view.row(1).unwrap().status(), RowStatus::Stale, "nobody has said that it is fresh");
        dio.refresh().unwrap();
        assert_eq!(view.row(1).unwrap().status(), RowStatus::Fresh);
    });
}

#[test]
fn f7_invalidating_all_marks_every_row_stale_and_reads_the_source_again() {
    on_both(|cache| {
        let source = products("f7-all");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        let view = dio.table_scenery().open().unwrap();
        let bell = dio.record_scenery("b").unwrap();
        let held = source.hold(Call::List);
        source.outside_silently().patch("b", record! { "price" => 11 }).unwrap();
        dio.handle_event(ChangeEvent::Invalidated).unwrap();
        let all =
            |status: RowStatus| move |rows: &diorama::TableSnapshot| rows.iter().all(|row| row.status() == status);
        let snapshot = wait_for(&view, "only stale rows", all(RowStatus::Stale));
        assert_eq!(prices(&snapshot), ["a=30", "b=10", "c=20"]);
        events_until(&mut events, "Invalidated", |event| {
            matches!(event, DioEvent::Invalidated { cause: Cause::Outside, .. })
        });
        assert!(held.wait_until_held(1, SOON));
        held.release();
        let snapshot = wait_for(&view, "only fresh rows", all(RowStatus::Fresh));
        assert_eq!(prices(&snapshot), ["a=30", "b=11", "c=20"]);
        assert!(prices(&snapshot).len() == 3 && bell.record().unwrap().int("price") == Some(11));
    });
}

#[test]
fn f7_what_is_invalidated_while_a_refresh_has_read_its_rows_is_read_again() {
    on_both(|cache| {
        let source = products("f7-again");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        source.outside_silently().patch("b", record! { "price" => 11 }).unwrap();
        dio.invalidate_all();
        late.release();
        refresh.end().unwrap();
        wait_for(&view, "what changed since the refresh read", |rows| {
            prices(rows) == ["a=30", "b=11", "c=20"] && rows.iter().all(|row| row.status() == RowStatus::Fresh)
        });
    });
}
