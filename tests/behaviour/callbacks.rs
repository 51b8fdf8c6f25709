//! W: what callbacks may do: panic, wait for something, change many rows as one batch.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Sender, unbounded};
use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::support::*;

// ---- W7: callbacks that panic or wait ------------------------------------------------------------------------------

#[test]
fn w7_on_write_panics_and_that_write_fails_and_the_worker_lives() {
    on_both(|cache| {
        let lens = cache
            .lens()
            .on_write(|dio, op| {
                assert!(op.id() != Some("b"), "on purpose");
                dio.master().write(&CallCx::new(), op)
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("w7-panic")).unwrap();
        let error = write(&dio, WriteOp::patch("b", record! { "price" => 1 })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(error.message().contains("on_write") && error.message().contains("on purpose"), "{error}");
        write(&dio, WriteOp::patch("a", record! { "price" => 1 })).unwrap();
        assert_eq!(cached(&dio), ["a=1", "b=10", "c=20"]);
    });
}

#[test]
fn w7_a_source_that_panics_fails_that_one_call() {
    on_both(|cache| {
        let source = products("w7-source");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        source.panic_next(Call::Patch);
        assert_eq!(kind_of(write(&dio, WriteOp::patch("b", record! { "price" => 1 }))), ErrorKind::Panicked);
        write(&dio, WriteOp::patch("b", record! { "price" => 2 })).unwrap();
        source.panic_next(Call::List);
        assert_eq!(dio.refresh().unwrap_err().kind(), ErrorKind::Panicked);
        dio.refresh().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=2", "c=20"]);
    });
}

#[test]
fn w7_a_callback_that_panics_drops_its_batch_and_the_next_one_starts_afresh() {
    on_both(|cache| {
        let panics = Arc::new(AtomicBool::new(true));
        let once = panics.clone();
        let lens = cache
            .lens()
            .on_refresh(move |dio| {
                dio.cache().insert("x", product("X", 1))?;
                assert!(!once.swap(false, Ordering::SeqCst), "on purpose");
                Ok(())
            })
            .on_start(|dio| dio.cache().insert("a", product("A", 1)))
            .build()
            .unwrap();
        let dio = lens.make_dio(products("w7-batch")).unwrap();
        assert_eq!(dio.refresh().unwrap_err().kind(), ErrorKind::Panicked);
        assert_eq!(cached(&dio), ["a=1"]);
        dio.refresh().unwrap();
        assert_eq!(cached(&dio), ["a=1", "x=1"]);
    });
}

/// What each wait of a callback came to.
type Waits = Vec<(&'static str, Result<(), ErrorKind>)>;

/// Every wait that could be for the callback's own thread.
fn wait_for_everything(dio: &Dio, lens: &OnceLock<Lens>) -> Waits {
    let kind = |error: Error| error.kind();
    let view = dio.table_scenery().open_now().unwrap();
    let record = dio.record_scenery("a").unwrap();
    let beyond = Generation(u64::MAX);
    let mut waits = vec![
        ("close", dio.close(SOON).map(drop).map_err(kind)),
        ("write_durable", dio.write_durable(WriteOp::delete("nobody")).map(drop).map_err(kind)),
        ("wait_for_seq", dio.wait_for_seq(Seq(u64::MAX), Some(SOON)).map(drop).map_err(kind)),
        ("table wait_for_generation", view.wait_for_generation(beyond, Some(SOON)).map(drop).map_err(kind)),
        ("table wait_for_change", view.wait_for_change(Generation(1 << 60), Some(SOON)).map(drop).map_err(kind)),
        ("record wait_for_generation", record.wait_for_generation(beyond, Some(SOON)).map(drop).map_err(kind)),
    ];
    match dio.write(WriteOp::patch("a", record! { "price" => 77 })) {
        Ok(ticket) => {
            waits.push(("ticket", ticket.wait(SOON).map(drop).map_err(kind)));
            waits.push(("facade", dio.vista().delete("nobody").map_err(kind)));
        }
        Err(error) => waits.push(("write", Err(error.kind()))),
    }
    if let Some(lens) = lens.get() {
        waits.push(("lens close", lens.close(SOON).map(drop).map_err(kind)));
    }
    waits
}

fn all_would_deadlock(waits: &Waits) {
    assert!(waits.len() >= 7, "{waits:?}");
    for (wait, answer) in waits {
        assert_eq!(*answer, Err(ErrorKind::WouldDeadlock), "{wait}; all: {waits:?}");
    }
}

#[test]
fn w7_waiting_for_the_own_dio_in_on_write_would_deadlock_and_says_so() {
    on_both(|cache| {
        let (answer, answers) = unbounded();
        let (asked, knows) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let lens_of = knows.clone();
        let lens = cache
            .lens()
            .on_write(move |dio, op| {
                if op.id() == Some("b") && !asked.swap(true, Ordering::SeqCst) {
                    let mut waits = wait_for_everything(dio, &lens_of);
                    waits.retain(|(wait, _)| *wait != "facade");
                    let _ = answer.send(waits);
                }
                dio.master().write(&CallCx::new(), op)
            })
            .build()
            .unwrap();
        knows.set(lens.clone()).unwrap();
        let dio = lens.make_dio(products("w7-on-write")).unwrap();
        write(&dio, WriteOp::patch("b", record! { "price" => 1 })).unwrap();
        let waits: Waits = answers.try_recv().unwrap();
        all_would_deadlock(&waits);
        write(&dio, WriteOp::delete("c")).unwrap();
        assert_eq!(cached(&dio), ["a=77", "b=1"], "everything went on, also the write asked for in the callback");
    });
}

#[test]
fn w7_refreshing_in_on_write_is_no_cycle_and_works() {
    on_both(|cache| {
        let lens = cache
            .lens()
            .on_write(|dio, op| {
                let written = dio.master().write(&CallCx::new(), op)?;
                dio.refresh()?;
                Ok(written)
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("w7-refresh")).unwrap();
        write(&dio, WriteOp::patch("b", record! { "price" => 1 })).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=1", "c=20"]);
    });
}

#[test]
fn w7_waiting_for_the_own_dio_in_on_start_or_on_refresh_would_deadlock_and_says_so() {
    on_both(|cache| {
        let (answer, answers) = unbounded();
        let knows = Arc::new(OnceLock::new());
        let source = products("w7-on-refresh");
        let check = |lens_of: Arc<OnceLock<Lens>>, answer: Sender<Waits>, source: MemoryVista| {
            move |dio: &Dio| {
                // A write that is settled already is not waited for.
                let held = [source.hold(Call::Patch), source.hold(Call::Delete)];
                let mut waits = wait_for_everything(dio, &lens_of);
                drop(held);
                waits.push(("refresh", dio.refresh().map_err(|error| error.kind())));
                if let Some(lens) = lens_of.get() {
                    let made = lens.make_dio(source.clone());
                    // A Dio that is complete is given at once; waiting for its first copy here can't be.
                    if !dio.status().complete {
                        waits.push(("make_dio", made.map(drop).map_err(|error| error.kind())));
                    }
                }
                let _ = answer.send(waits);
                dio.cache().insert("x", product("X", 1))
            }
        };
        let lens = cache
            .lens()
            .on_start(check(knows.clone(), answer.clone(), source.clone()))
            .on_refresh(check(knows.clone(), answer, source.clone()))
            .build()
            .unwrap();
        knows.set(lens.clone()).unwrap();
        let dio = lens.make_dio(source).unwrap();
        let waits = answers.try_recv().unwrap();
        all_would_deadlock(&waits);
        assert!(waits.iter().any(|(wait, _)| *wait == "make_dio"), "{waits:?}");
        dio.refresh().unwrap();
        all_would_deadlock(&answers.try_recv().unwrap());
        assert!(dio.cache().get("x").unwrap().is_some());
        write(&dio, WriteOp::delete("nobody")).unwrap();
    });
}

#[test]
fn w7_a_hook_may_wait_for_anything_but_the_closing() {
    in_time(|| {
        let (answer, answers) = unbounded();
        let lens = Lens::new().in_memory().build().unwrap();
        let dio = lens.make_dio(products("w7-hook")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let (in_hook, lens_in_hook) = (dio.clone(), lens.clone());
        let done = AtomicUsize::new(0);
        let _hook = view.on_generation(move |_| {
            if done.fetch_add(1, Ordering::SeqCst) > 0 {
                return;
            }
            let settled = write(&in_hook, WriteOp::patch("b", record! { "price" => 2 })).map(drop);
            let _ = answer.send((settled, in_hook.refresh(), in_hook.close(SOON), lens_in_hook.close(SOON)));
        });
        write(&dio, WriteOp::patch("b", record! { "price" => 1 })).unwrap();
        let (settled, refreshed, closed, lens_closed) = answers.recv_timeout(SOON).unwrap();
        settled.unwrap();
        refreshed.unwrap();
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::WouldDeadlock);
        assert_eq!(lens_closed.unwrap_err().kind(), ErrorKind::WouldDeadlock);
        assert_eq!(cached(&dio), ["a=30", "b=2", "c=20"]);
    });
}

#[test]
fn w7_on_event_runs_on_the_callers_thread_and_may_wait_there() {
    in_time(|| {
        let lens = Lens::new()
            .in_memory()
            .on_event(|dio, _| {
                write(dio, WriteOp::patch("b", record! { "price" => 1 }))?;
                dio.refresh()
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("w7-on-event")).unwrap();
        dio.handle_event(ChangeEvent::Invalidated).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=1", "c=20"]);
    });
}

// ---- what a callback does is one batch -----------------------------------------------------------------------------

#[test]
fn batch_clear_and_insert_in_on_refresh_are_one_step_and_reads_inside_see_them() {
    on_both(|cache| {
        let lens = cache
            .lens()
            .on_start(|dio| {
                dio.cache().insert_many([("a".to_owned(), product("A", 1)), ("b".to_owned(), product("B", 2))])
            })
            .on_refresh(|dio| {
                let rows = dio.cache();
                assert_eq!(rows.count()?, 2);
                rows.clear()?;
                assert_eq!((rows.count()?, rows.get("a")?, rows.list()?.len()), (0, None, 0));
                rows.insert("b", product("B", 3))?;
                rows.insert("c", product("C", 4))?;
                rows.insert("d", product("D", 5))?;
                rows.remove("d")?;
                dio.patched("e", product("E", 6))?;
                assert_eq!(rows.get("b")?.and_then(|row| row.int("price")), Some(3));
                assert_eq!(rows.get("d")?, None);
                assert_eq!((rows.count()?, rows.list()?.len()), (3, 3));
                Ok(())
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("batch-clear")).unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        let (generation, seq) = (view.generation(), dio.seq());
        dio.refresh().unwrap();
        assert_eq!(prices(&view.snapshot()), ["b=3", "c=4", "e=6"]);
        assert_eq!((view.generation(), dio.seq()), (generation.next(), seq.next()));
    });
}

#[test]
fn batch_what_a_callback_did_is_not_seen_outside_before_it_returns() {
    on_both(|cache| {
        let (inside, is_inside) = crossbeam_channel::bounded::<()>(1);
        let (go, may_go) = crossbeam_channel::bounded::<()>(1);
        let lens = cache
            .lens()
            .on_start(|dio| dio.cache().insert("a", product("A", 1)))
            .on_refresh(move |dio| {
                dio.cache().clear()?;
                dio.cache().insert("b", product("B", 2))?;
                let _ = inside.send(());
                let _ = may_go.recv_timeout(SOON);
                Ok(())
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("batch-outside")).unwrap();
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        is_inside.recv_timeout(SOON).unwrap();
        assert_eq!(cached(&dio), ["a=1"]);
        // A change from elsewhere meanwhile is newer than what the callback read.
        dio.patched("c", product("C", 3)).unwrap();
        go.send(()).unwrap();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["b=2", "c=3"]);
    });
}

#[test]
fn batch_a_callback_that_fails_drops_everything_it_did() {
    on_both(|cache| {
        let fails = |dio: &Dio| -> diorama::Result<()> {
            dio.cache().clear()?;
            dio.cache().insert("x", product("X", 1))?;
            dio.patched("y", product("Y", 1))?;
            dio.reconcile(vec![("z".to_owned(), product("Z", 1))])?;
            dio.invalidate_record("a");
            dio.invalidate_all();
            Err(Error::new(ErrorKind::Rejected, "not today"))
        };
        let source = products("batch-err");
        let lens = cache
            .lens()
            .on_start(|dio| dio.reconcile(dio.master().list(&CallCx::new())?))
            .on_refresh(fails)
            .on_event(move |dio, _| fails(dio))
            .on_write(move |dio, _| fails(dio).map(|()| Written::default()))
            .build()
            .unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let generation = view.generation();
        assert_eq!(dio.refresh().unwrap_err().kind(), ErrorKind::Rejected);
        assert_eq!(dio.handle_event(ChangeEvent::Invalidated).unwrap_err().kind(), ErrorKind::Rejected);
        assert_eq!(view.generation(), generation);
        assert_eq!(kind_of(write(&dio, WriteOp::delete("a"))), ErrorKind::Rejected);
        assert_eq!(prices(&view.snapshot()), ["a=30", "b=10", "c=20"]);
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        assert_eq!(view.generation(), generation.next().next(), "the write itself showed, and was taken back");
        assert!(view.snapshot().iter().all(|row| row.status() == RowStatus::Fresh));
        assert_eq!(source.calls(Call::Get), 0);
    });
}

#[test]
fn batch_what_on_write_does_beside_its_write_shows_with_it_in_one_step() {
    on_both(|cache| {
        let (go, may_go) = crossbeam_channel::bounded::<()>(1);
        let lens = cache
            .lens()
            .on_write(move |dio, op| {
                let _ = may_go.recv_timeout(SOON);
                let total = dio.cache().list()?.iter().filter_map(|(_, row)| row.int("price")).sum::<i64>();
                dio.cache().insert("total", product("Total", total))?;
                dio.master().write(&CallCx::new(), op)
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("batch-write")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let generation = view.generation();
        let ticket = dio.write(WriteOp::patch("a", record! { "price" => 31 })).unwrap();
        assert_eq!(prices(&view.snapshot()), ["a=31", "b=10", "c=20"], "the write alone");
        assert_eq!(view.generation(), generation.next());
        go.send(()).unwrap();
        let outcome = ticket.wait(SOON).unwrap();
        let snapshot = view.snapshot();
        assert_eq!(
            prices(&snapshot),
            ["a=31", "b=10", "c=20", "total=61"],
            "`on_write` sees the write that it is asked for"
        );
        assert!(snapshot.iter().all(|row| row.status() == RowStatus::Fresh));
        assert_eq!((view.generation(), snapshot.seq()), (generation.next().next(), outcome.seq));
    });
}
