//! Q: closing a Dio and a Lens, whatever goes on in them, and dropping handles.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{DioShell, NoEvent};
use parking_lot::Mutex;

use crate::storage::{ScriptedBackend, Storage};
use crate::support::*;

/// No thread of a Lens of this name, of these tables or of the cache is alive, and no file of the cache is open.
fn nothing_is_left(cache: &Cache, lens: &str, tables: &[&str]) {
    let mut prefixes: Vec<String> = tables.iter().map(|table| format!("{table}:")).collect();
    prefixes.push(format!("{lens}:"));
    if let Some(path) = cache.path() {
        prefixes.push(format!("{}:", path.file_name().unwrap().to_string_lossy()));
        #[cfg(target_os = "linux")]
        assert!(open_files(&path).is_empty(), "{:?}", open_files(&path));
    }
    for prefix in prefixes {
        assert_eq!(threads_of(&prefix), Vec::<String>::new());
    }
}

#[cfg(target_os = "linux")]
fn open_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .filter(|file| file.starts_with(directory))
        .collect()
}

// ---- Q1 ------------------------------------------------------------------------------------------------------------

#[test]
fn q1_after_closing_no_thread_is_alive_no_file_is_open_and_the_report_says_what_was_delivered_and_failed() {
    on_both(|cache| {
        let source = products("q1-all");
        let lens = cache.lens().name("q1-lens").refresh_every(Duration::from_secs(3_600)).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let other = lens.make_dio(products("q1-other")).unwrap();
        let mut events = dio.subscribe_events();
        let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        let hooked = view.on_generation(|_| {}).unwrap();
        let record = dio.record_scenery("a").unwrap();
        let sum = other.value_scenery().sum("price").open().unwrap();
        dio.write(WriteOp::patch("a", record! { "price" => 1 })).unwrap().wait(SOON).unwrap();
        assert!(dio.write(WriteOp::replace("x", product("X", 1))).unwrap().wait(SOON).is_err());
        other.write(WriteOp::delete("a")).unwrap().wait(SOON).unwrap();
        dio.invalidate_record("b");
        view.set_viewport(0..3);
        let snapshot = view.snapshot();
        assert!(!threads_of("q1-all:").is_empty() && !threads_of("q1-lens:").is_empty());
        #[cfg(target_os = "linux")]
        assert!(cache.path().is_none_or(|path| !open_files(&path).is_empty()), "there is something to close");

        let report = lens.close(SOON).unwrap();
        assert!(report.is_closed(), "{report:?}");
        assert_eq!((report.delivered, report.failed, report.kept), (2, 1, 0));
        nothing_is_left(&cache, "q1-lens", &["q1-all", "q1-other"]);
        assert_eq!(lens.make_dio(source).unwrap_err().kind(), ErrorKind::Closed);
        assert!(lens.close(SOON).unwrap().is_closed(), "once more is fine");
        let last = events.iter().last().unwrap().unwrap();
        assert!(matches!(last, DioEvent::Closed { .. }), "{last:?}");
        assert_eq!(events.try_recv().unwrap_err(), NoEvent::Closed);
        drop((hooked, record, sum, snapshot, view, dio, other));
        nothing_is_left(&cache, "q1-lens", &["q1-all", "q1-other"]);
    });
}

#[test]
fn q1_what_is_in_the_queue_when_closing_begins_is_delivered_in_time() {
    on_both(|cache| {
        let source = many("q1-queue", 200);
        let lens = cache.lens().name("q1-queue-lens").build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let tickets: Vec<_> = (0..200)
            .map(|row| dio.write(WriteOp::patch(format!("row {row}"), record! { "price" => -5 })).unwrap())
            .collect();
        let report = lens.close(SOON).unwrap();
        assert!(report.is_closed(), "{report:?}");
        assert_eq!((report.delivered, report.failed), (200, 0));
        assert!(tickets.iter().all(|ticket| ticket.wait(Duration::ZERO).is_ok()));
        nothing_is_left(&cache, "q1-queue-lens", &["q1-queue"]);
        source.set_offline(true);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source).unwrap();
        assert!(cached(&dio).iter().all(|row| row.ends_with("=-5")), "the cache has what was confirmed");
    });
}

#[test]
fn q1_closing_one_dio_leaves_the_others_alone() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let one = lens.make_dio(products("q1-one")).unwrap();
        let two = lens.make_dio(products("q1-two")).unwrap();
        assert!(one.close(SOON).unwrap().is_closed());
        assert!(threads_of("q1-one:").is_empty());
        two.write(WriteOp::delete("a")).unwrap().wait(SOON).unwrap();
        two.refresh().unwrap();
        two.flush().unwrap();
        assert_eq!(cached(&two), ["b=10", "c=20"]);
        assert!(one.status().closed && !two.status().closed);
    });
}

#[test]
fn q1_a_lens_on_the_same_path_goes_on_when_another_is_closed() {
    on_both(|cache| {
        let one = cache.lens().build().unwrap();
        let two = cache.lens().build().unwrap();
        let _first = one.make_dio(products("q1-path-one")).unwrap();
        let second = two.make_dio(products("q1-path-two")).unwrap();
        assert!(one.close(SOON).unwrap().is_closed());
        second.write(WriteOp::delete("a")).unwrap().wait(SOON).unwrap();
        second.flush().unwrap();
        assert_eq!(cached(&second), ["b=10", "c=20"]);
        assert!(two.close(SOON).unwrap().is_closed());
        nothing_is_left(&cache, two.name(), &["q1-path-one", "q1-path-two"]);
    });
}

#[test]
fn q1_a_dio_that_is_being_made_while_its_lens_is_closed_is_closed_too() {
    in_time(|| {
        let backend = ScriptedBackend::in_memory();
        let held = backend.hold(Storage::Apply);
        let lens = Lens::new().cache_source(backend).name("q1-making").build().unwrap();
        let (maker, source) = (lens.clone(), products("q1-making"));
        let making = start("make_dio", move || maker.make_dio(source));
        held.wait_until_held(1);
        let closer = lens.clone();
        let closing = start("close", move || closer.close(SOON).unwrap());
        assert!(is_still_waiting(&closing), "a Dio is being made");
        drop(held);
        let made = making.end();
        let report = closing.end();
        assert!(report.is_closed(), "{report:?}");
        // Its first copy may be there before the closing has come to it.
        match made {
            Ok(dio) => assert!(dio.status().closed),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
        }
        assert_eq!(threads_of("q1-making:"), Vec::<String>::new());
    });
}

#[test]
fn q1_a_table_is_forgotten_by_one_at_a_time() {
    in_time(|| {
        let backend = ScriptedBackend::in_memory();
        let lens = Lens::new().cache_source(backend.clone()).build().unwrap();
        assert!(lens.make_dio(products("q1-forgotten")).unwrap().close(SOON).unwrap().is_closed());
        let held = backend.hold(Storage::ForgetTable);
        let forget = |name| {
            let lens = lens.clone();
            start(name, move || lens.forget("q1-forgotten").map_err(|error| error.to_string()))
        };
        let first = forget("the first");
        held.wait_until_held(1);
        let second = forget("the second");
        let (maker, source) = (lens.clone(), products("q1-forgotten"));
        let making = start("make_dio", move || maker.make_dio(source).map(|dio| dio.close(SOON).unwrap().is_closed()));
        assert!(is_still_waiting(&second) && is_still_waiting(&making));
        drop(held);
        assert_eq!(first.end(), Ok(()));
        assert!(making.end().unwrap());
        // It comes before the Dio, while that is open, or after it.
        if let Err(error) = second.end() {
            assert!(error.contains("a Dio of this table is"), "{error}");
        }
    });
}

// ---- Q2 ------------------------------------------------------------------------------------------------------------

#[test]
fn q2_closing_wakes_everyone_who_waits_with_closed() {
    on_both(|cache| {
        let lens = cache.lens().name("q2-lens").build().unwrap();
        let dio = lens.make_dio(products("q2-waiters")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let record = dio.record_scenery("a").unwrap();
        let sum = dio.value_scenery().sum("price").open().unwrap();
        let mut events = dio.subscribe_events();
        let subscribed = view.subscribe();
        let (ready, is_ready) = bounded(16);
        let mut tasks = Vec::new();
        let mut wait = |what: &str, work: Box<dyn FnOnce() -> ErrorKind + Send>| {
            let ready = ready.clone();
            tasks.push(start(what, move || {
                ready.send(()).unwrap();
                work()
            }));
        };
        let (a_view, beyond) = (view.clone(), Some(SOON * 2));
        wait(
            "wait_for_generation",
            Box::new(move || a_view.wait_for_generation(Generation(u64::MAX), beyond).unwrap_err().kind()),
        );
        let a_view = view.clone();
        wait(
            "wait_for_change",
            Box::new(move || a_view.wait_for_change(a_view.generation(), beyond).unwrap_err().kind()),
        );
        wait("record", Box::new(move || record.wait_for_change(record.generation(), beyond).unwrap_err().kind()));
        wait("value", Box::new(move || sum.wait_for_change(sum.generation(), None).unwrap_err().kind()));
        let a_dio = dio.clone();
        wait("wait_for_seq", Box::new(move || a_dio.wait_for_seq(Seq(u64::MAX), None).unwrap_err().kind()));
        wait(
            "events",
            Box::new(move || match events.iter().last() {
                Some(Ok(DioEvent::Closed { .. })) => ErrorKind::Closed,
                other => panic!("{other:?}"),
            }),
        );
        wait(
            "select",
            Box::new(move || {
                loop {
                    match subscribed.receiver().recv_timeout(SOON) {
                        Ok(generation) => assert!(generation >= 1),
                        Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return ErrorKind::Closed,
                        Err(timeout) => panic!("{timeout:?}"),
                    }
                }
            }),
        );
        for _ in 0..7 {
            is_ready.recv_timeout(SOON).unwrap();
        }
        assert!(lens.close(SOON).unwrap().is_closed());
        for task in tasks {
            assert_eq!(task.end(), ErrorKind::Closed);
        }
        nothing_is_left(&cache, "q2-lens", &["q2-waiters"]);
    });
}

#[test]
fn q2_everything_asked_after_closing_says_closed() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("q2-after")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let facade = dio.vista();
        assert!(dio.close(SOON).unwrap().is_closed());
        let closed = |what: &str, result: diorama::Result<()>| {
            assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::Closed), "{what}");
        };
        closed("write", dio.write(WriteOp::delete("a")).map(drop));
        closed("try_write", dio.try_write(WriteOp::delete("a")).map(drop).map_err(|refused| refused.error));
        closed("refresh", dio.refresh());
        closed("reconcile", dio.reconcile(Vec::new()));
        closed("patched", dio.patched("a", product("A", 1)));
        closed("insert", dio.cache().insert("a", product("A", 1)));
        closed("clear", dio.cache().clear());
        closed("handle_event", dio.handle_event(ChangeEvent::Deleted { id: "a".to_owned() }));
        closed("table", dio.table_scenery().open().map(drop));
        closed("value", dio.value_scenery().count().open().map(drop));
        closed("record", dio.record_scenery("a").map(drop));
        closed("set_sort", view.set_sort([SortBy::new("price", SortDir::Asc)]));
        closed("request_refresh", view.request_refresh());
        closed("wait", view.wait_for_change(view.generation(), None).map(drop));
        closed("wait_for_seq", dio.wait_for_seq(dio.seq().next(), None).map(drop));
        closed("facade", facade.delete("a"));
        dio.invalidate_record("a");
        dio.invalidate_all();
        assert_eq!(dio.subscribe_events().recv(Some(SOON)).unwrap_err(), NoEvent::Closed);
        assert!(dio.status().closed);
    });
}

#[test]
fn q2_closing_while_a_refresh_is_in_a_source_that_listens_ends_it_with_closed() {
    on_both(|cache| {
        let source = products("q2-refresh");
        let lens = cache.lens().name("q2-refresh-lens").build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let held = source.hold(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(held.wait_until_held(1, SOON));
        let report = lens.close(SOON).unwrap();
        assert!(report.is_closed(), "{report:?}");
        assert_eq!(refresh.end().unwrap_err().kind(), ErrorKind::Closed);
        nothing_is_left(&cache, "q2-refresh-lens", &["q2-refresh"]);
    });
}

#[test]
fn q2_closing_while_a_re_read_of_a_row_is_in_the_source_ends_it() {
    on_both(|cache| {
        let source = products("q2-reread");
        let lens = cache.lens().name("q2-reread-lens").build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let held = source.hold(Call::Get);
        dio.invalidate_record("a");
        assert!(held.wait_until_held(1, SOON));
        let report = lens.close(SOON).unwrap();
        assert!(report.is_closed(), "{report:?}");
        nothing_is_left(&cache, "q2-reread-lens", &["q2-reread"]);
    });
}

#[test]
fn q2_closing_while_make_dio_waits_for_the_first_copy_ends_it_with_closed() {
    on_both(|cache| {
        let source = products("q2-making");
        let held = source.hold(Call::List);
        let lens = cache.lens().name("q2-making-lens").build().unwrap();
        let maker = lens.clone();
        let given = source.clone();
        let making = start("make_dio", move || maker.make_dio(given));
        assert!(held.wait_until_held(1, SOON));
        let report = lens.close(SOON).unwrap();
        assert!(report.is_closed(), "{report:?}");
        assert_eq!(making.end().unwrap_err().kind(), ErrorKind::Closed);
        nothing_is_left(&cache, "q2-making-lens", &["q2-making"]);
    });
}

#[test]
fn q2_writes_that_cannot_be_delivered_in_time_are_kept_by_a_journal_or_fail_and_nothing_is_left() {
    on_both(|cache| {
        let source = products("q2-writes");
        let lens = cache.lens().name("q2-writes-lens").write_queue_capacity(3).write_timeout(SOON * 2).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let held = source.hold(Call::Patch);
        let tickets = ["a", "b", "c"].map(|id| dio.write(WriteOp::patch(id, record! { "price" => 1 })).unwrap());
        assert!(held.wait_until_held(1, SOON));
        let (begun, has_begun) = bounded(1);
        let blocked = dio.clone();
        let blocked = start("a write that waits for room", move || {
            begun.send(()).unwrap();
            blocked.write(WriteOp::delete("a")).map(drop)
        });
        has_begun.recv_timeout(SOON).unwrap();
        // The source listens to cancellation: its thread ends although the time to deliver is over.
        let report = lens.close(Duration::from_secs(3)).unwrap();
        assert!(report.is_closed(), "{report:?}");
        let (failed, kept) = if cache.path().is_some() { (0, 3) } else { (3, 0) };
        assert_eq!((report.delivered, report.failed, report.kept), (0, failed, kept));
        for ticket in tickets {
            assert_eq!(ticket.wait(SOON).unwrap_err().kind(), ErrorKind::Closed);
        }
        assert_eq!(blocked.end().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(source.row("a").unwrap().int("price"), Some(30));
        nothing_is_left(&cache, "q2-writes-lens", &["q2-writes"]);
    });
}

#[test]
fn q2_a_refresh_in_a_deaf_source_times_out_and_is_named_and_its_waiters_wake() {
    on_both(|cache| {
        let (deaf, source) = Deaf::new(products("q2-deaf"), DeafTo::Lists);
        let lens = cache.lens().name("q2-deaf-lens").on_start_blocking(false).build().unwrap();
        let dio = lens.make_dio(deaf).unwrap();
        source.wait_until_inside();
        let (begun, has_begun) = bounded(1);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || {
            begun.send(()).unwrap();
            refreshing.refresh()
        });
        has_begun.recv_timeout(SOON).unwrap();
        let report = lens.close(Duration::from_secs(1)).unwrap();
        assert_eq!(report.still_running, ["q2-deaf:refresh"]);
        assert_eq!(refresh.end().unwrap_err().kind(), ErrorKind::Closed, "before the source comes back");
        source.let_one_go();
        assert!(dio.close(SOON).unwrap().is_closed(), "it ends by itself");
        assert_eq!(threads_of("q2-deaf:"), Vec::<String>::new());
    });
}

#[test]
fn q2_a_write_in_a_deaf_source_times_out_and_is_named_and_its_waiters_wake() {
    on_both(|cache| {
        let (deaf, source) = Deaf::new(products("q2-deaf-write"), DeafTo::Writes);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(deaf).unwrap();
        let ticket = dio.write(WriteOp::patch("a", record! { "price" => 1 })).unwrap();
        let next = dio.write(WriteOp::patch("b", record! { "price" => 1 })).unwrap();
        source.wait_until_inside();
        let waiting = ticket.clone();
        let waiting = start("the ticket", move || waiting.wait(SOON * 2));
        let report = dio.close(Duration::from_secs(1)).unwrap();
        assert_eq!(report.still_running, ["q2-deaf-write:writer"]);
        assert_eq!(next.wait(SOON).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(waiting.end().unwrap_err().kind(), ErrorKind::Closed, "before the source comes back");
        source.let_one_go();
        assert!(dio.close(SOON).unwrap().is_closed());
        assert_eq!(threads_of("q2-deaf-write:"), Vec::<String>::new());
    });
}

#[test]
fn q2_a_callback_that_stands_still_is_named() {
    on_both(|cache| {
        let (inside, is_inside) = bounded::<()>(1);
        let (go, may_go) = bounded::<()>(1);
        let lens = cache
            .lens()
            .on_refresh(move |dio| {
                dio.cache().insert("late", product("Late", 1))?;
                let _ = inside.send(());
                let _ = may_go.recv();
                Ok(())
            })
            .on_start(|dio| dio.cache().insert("a", product("A", 1)))
            .build()
            .unwrap();
        let dio = lens.make_dio(products("q2-callback")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        view.request_refresh().unwrap();
        is_inside.recv_timeout(SOON).unwrap();
        assert_eq!(dio.close(Duration::from_secs(1)).unwrap().still_running, ["q2-callback:refresh"]);
        go.send(()).unwrap();
        assert!(dio.close(SOON).unwrap().is_closed());
        assert_eq!(view.row_count(), 1, "what it did after the closing is not taken");
    });
}

#[test]
fn q2_a_hook_that_stands_still_is_named() {
    in_time(|| {
        let lens = Lens::new().in_memory().name("q2-hook").build().unwrap();
        let dio = lens.make_dio(products("q2-hook-table")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let (inside, is_inside) = bounded::<()>(1);
        let (go, may_go) = bounded::<()>(0);
        let _hook = view
            .on_generation(move |_| {
                let _ = inside.try_send(());
                let _ = may_go.recv();
            })
            .unwrap();
        dio.patched("b", product("Bell", 1)).unwrap();
        is_inside.recv_timeout(SOON).unwrap();
        assert_eq!(lens.close(Duration::from_secs(1)).unwrap().still_running, ["q2-hook:notify"]);
        assert_eq!(threads_of("q2-hook-table:"), Vec::<String>::new());
        drop(go);
        until("the hook's thread has ended", || threads_of("q2-hook:").is_empty());
    });
}

#[test]
fn q2_closing_twice_at_once_is_fine() {
    on_both(|cache| {
        for _ in 0..10 {
            let source = products("q2-twice");
            let lens = cache.lens().build().unwrap();
            let dio = lens.make_dio(source).unwrap();
            dio.write(WriteOp::delete("a")).unwrap();
            let tasks: Vec<_> = (0..4)
                .map(|number| {
                    let (lens, dio) = (lens.clone(), dio.clone());
                    start("close", move || if number % 2 == 0 { lens.close(SOON) } else { dio.close(SOON) })
                })
                .collect();
            for task in tasks {
                let report = task.end().unwrap();
                assert!(report.is_closed(), "{report:?}");
            }
            assert_eq!(threads_of("q2-twice:"), Vec::<String>::new());
        }
    });
}

// ---- T11: views afterwards -----------------------------------------------------------------------------------------

#[test]
fn t11_views_of_a_closed_dio_keep_their_order_and_the_rows_in_memory_and_say_closed_for_the_rest() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(many("t11", 2_000)).unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Desc).open().unwrap();
        let record = dio.record_scenery("row 7").unwrap();
        let sum = dio.value_scenery().sum("price").open().unwrap();
        dio.flush().unwrap();
        let before = view.snapshot();
        let first: Vec<String> = before.rows(0..10).map(|row| row.id().to_owned()).collect();
        assert!(dio.close(SOON).unwrap().is_closed());
        for snapshot in [before, view.snapshot()] {
            assert_eq!(snapshot.row_count(), 2_000);
            let again: Vec<String> = snapshot.rows(0..10).map(|row| row.id().to_owned()).collect();
            assert_eq!(again, first);
            for row in snapshot.iter() {
                match row.status() {
                    RowStatus::Fresh => assert!(row.record().is_ok()),
                    status => {
                        assert_eq!(status, RowStatus::Closed);
                        assert_eq!(row.record().unwrap_err().kind(), ErrorKind::Closed);
                    }
                }
            }
            assert_eq!(snapshot.iter().last().unwrap().status(), RowStatus::Closed, "never read before");
        }
        assert_eq!(record.record().unwrap().int("price"), Some(7));
        assert_eq!(sum.int(), Some(1_999_000));
        let generation = view.generation();
        assert!(dio.patched("row 7", product("late", 1)).is_err());
        assert_eq!(view.generation(), generation);
    });
}

// ---- Q3 ------------------------------------------------------------------------------------------------------------

#[test]
fn q3_dropping_the_last_handle_delivers_what_is_in_the_queue_within_the_drop_timeout() {
    on_both(|cache| {
        let source = many("q3-drop", 50);
        let lens = cache.lens().drop_timeout(SOON).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let tickets: Vec<_> = (0..50)
            .map(|row| dio.write(WriteOp::patch(format!("row {row}"), record! { "price" => -5 })).unwrap())
            .collect();
        drop(dio);
        assert!(tickets.iter().all(|ticket| ticket.wait(Duration::ZERO).is_ok()));
        assert!(source.rows().iter().all(|(_, row)| row.int("price") == Some(-5)));
        assert_eq!(threads_of("q3-drop:"), Vec::<String>::new());
    });
}

#[test]
fn q3_dropping_the_last_handle_over_undelivered_writes_waits_no_longer_than_the_drop_timeout() {
    on_both(|cache| {
        let (deaf, source) = Deaf::new(products("q3-deaf"), DeafTo::Writes);
        let lens = cache.lens().drop_timeout(Duration::from_millis(50)).build().unwrap();
        let dio = lens.make_dio(deaf).unwrap();
        let first = dio.write(WriteOp::patch("a", record! { "price" => 1 })).unwrap();
        let second = dio.write(WriteOp::patch("b", record! { "price" => 1 })).unwrap();
        source.wait_until_inside();
        start("drop", move || drop(dio)).end();
        assert_eq!(second.wait(SOON).unwrap_err().kind(), ErrorKind::Closed);
        source.let_one_go();
        assert_eq!(first.wait(SOON).unwrap_err().kind(), ErrorKind::Closed);
    });
}

/// A callback of each kind drops the last handle that the application has.
#[test]
fn q3_dropping_the_last_handle_inside_a_callback_neither_hangs_nor_panics() {
    on_both(|cache| {
        for which in ["on_refresh", "on_write", "on_start", "on_event", "hook"] {
            let table = format!("q3-inside-{which}");
            let last: Arc<Mutex<Vec<(Dio, Lens)>>> = Arc::default();
            let (dropped, drops) = unbounded();
            let drop_last = |name: &'static str| {
                let (last, dropped) = (last.clone(), dropped.clone());
                move || {
                    if which == name && !last.lock().is_empty() {
                        let handles = std::mem::take(&mut *last.lock());
                        drop(handles);
                        let _ = dropped.send(());
                    }
                }
            };
            let (in_refresh, in_write, in_event, in_hook) =
                (drop_last("on_refresh"), drop_last("on_write"), drop_last("on_event"), drop_last("hook"));
            let (in_start, may_start) = (drop_last("on_start"), bounded::<()>(1));
            let start_gate = may_start.1.clone();
            let lens = cache
                .lens()
                .on_start_blocking(which != "on_start")
                .drop_timeout(SOON * 10)
                .on_start(move |_| {
                    let _ = start_gate.recv();
                    in_start();
                    Ok(())
                })
                .on_refresh(move |_| {
                    in_refresh();
                    Ok(())
                })
                .on_write(move |_, op| {
                    in_write();
                    Ok(Written::id(op.id().unwrap_or_default()))
                })
                .on_event(move |_, _| {
                    in_event();
                    Ok(())
                })
                .build()
                .unwrap();
            if which != "on_start" {
                may_start.0.send(()).unwrap();
            }
            let dio = lens.make_dio(products(&table)).unwrap();
            let view = dio.table_scenery().open().unwrap();
            let _hook = view.on_generation(move |_| in_hook()).unwrap();
            let mut events = dio.subscribe_events();
            let cause = dio.clone();
            last.lock().push((dio, lens));
            let ticket = match which {
                "on_refresh" => {
                    view.request_refresh().unwrap();
                    None
                }
                "on_write" => Some(cause.write(WriteOp::upsert("a", product("A", 1))).unwrap()),
                "on_start" => {
                    may_start.0.send(()).unwrap();
                    None
                }
                "on_event" => {
                    let event = ChangeEvent::Invalidated;
                    let shell = cause.clone();
                    start("handle_event", move || shell.handle_event(event)).end().unwrap();
                    None
                }
                _ => {
                    cause.patched("a", product("A", 1)).unwrap();
                    None
                }
            };
            drop(cause);
            drops.recv_timeout(SOON).unwrap_or_else(|_| panic!("{which} never dropped it"));
            // Whatever order the two drops came in, the Dio closes.
            let closed = view.wait_for_generation(Generation(u64::MAX), Some(SOON)).unwrap_err();
            assert_eq!(closed.kind(), ErrorKind::Closed, "{which}");
            if let Some(ticket) = ticket {
                let _ = ticket.wait(SOON).map_err(|error| assert_eq!(error.kind(), ErrorKind::Closed));
            }
            let end = events.iter().last().unwrap().unwrap();
            assert!(matches!(end, DioEvent::Closed { .. }), "{which}: {end:?}");
            let again = cache.lens().build().unwrap();
            assert!(start("make_dio", move || again.make_dio(products(&format!("{table}-next")))).end().is_ok());
        }
    });
}

#[test]
fn q3_what_a_dropped_lens_left_on_its_way_to_the_cache_is_there_before_the_next_lens_reads_it() {
    in_time(|| {
        let backend = ScriptedBackend::in_memory();
        let source = products("q3-behind");
        let lens = Lens::new().cache_source(backend.clone()).drop_timeout(Duration::ZERO).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        dio.flush().unwrap();
        let held = backend.hold(Storage::Apply);
        dio.cache().insert("d", product("Drum", 15)).unwrap();
        drop((dio, lens));
        until("the threads of the Dio have ended", || threads_of("q3-behind:").is_empty());
        source.set_offline(true);
        let making = start("make_dio", move || {
            let lens = Lens::new().cache_source(backend).on_start_blocking(false).build().unwrap();
            lens.make_dio(source).unwrap()
        });
        assert!(is_still_waiting(&making), "a row is on its way to the cache");
        drop(held);
        let dio = making.end();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "d=15"]);
        dio.cache().insert("e", product("Egg", 16)).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "d=15", "e=16"]);
    });
}

#[test]
fn q3_a_facade_and_a_shell_keep_the_dio_alive_and_the_last_of_them_closes_it() {
    in_time(|| {
        let lens = Lens::new().in_memory().build().unwrap();
        let dio = lens.make_dio(products("q3-facade")).unwrap();
        let facade = dio.vista();
        fn is_shell<T: diorama::vista::TableShell>() {}
        is_shell::<DioShell>();
        drop(dio);
        assert_eq!(facade.get_count().unwrap(), 3);
        facade.delete("a").unwrap();
        let twin = facade.clone();
        drop(facade);
        assert_eq!(twin.list_values().unwrap().len(), 2);
        drop(twin);
        assert_eq!(threads_of("q3-facade:"), Vec::<String>::new());
    });
}
