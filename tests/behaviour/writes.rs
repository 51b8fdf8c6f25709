//! W: writes, from the call to the source and back, and what callbacks may do.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::{Capabilities, Column, ColumnType, Schema};
use diorama::{RecordStatus, WriteOutcome, WriteState};
use parking_lot::Mutex;

use crate::support::*;

fn write(dio: &Dio, op: WriteOp) -> Result<WriteOutcome, Error> {
    dio.write(op)?.wait(SOON)
}

fn kind_of(result: Result<WriteOutcome, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

// ---- W3: every kind of write ---------------------------------------------------------------------------------------

#[test]
fn w3_an_insert_with_an_id_is_stored_and_shown_under_it() {
    on_both(|cache| {
        let source = products("w3-insert");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        let outcome = write(&dio, WriteOp::insert_as("d", product("Drum", 15))).unwrap();
        assert_eq!(outcome.id.as_deref(), Some("d"));
        assert_eq!(prices(&view.snapshot()), ["b=10", "d=15", "c=20", "a=30"]);
        assert!(view.snapshot().seq() >= outcome.seq);
        assert_eq!(source.row("d").unwrap().int("price"), Some(15));
        assert_eq!(kind_of(write(&dio, WriteOp::insert_as("d", product("Again", 1)))), ErrorKind::Conflict);
        assert_eq!(prices(&view.snapshot()), ["b=10", "d=15", "c=20", "a=30"], "nothing of the failed one shows");
    });
}

#[test]
fn w3_an_insert_without_an_id_gets_the_sources_id() {
    on_both(|cache| {
        let source = products("w3-mint").assign_ids_from("srv-");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let ticket = dio.write(WriteOp::insert(product("Drum", 15))).unwrap();
        assert_eq!(ticket.id(), None);
        assert_eq!(ticket.wait(SOON).unwrap().id.as_deref(), Some("srv-1"));
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "srv-1=15"]);
        assert!(source.row("srv-1").is_some());
    });
}

#[test]
fn w3_a_row_that_the_source_stores_under_another_id_is_shown_once_under_that_one() {
    on_both(|cache| {
        let source = products("w3-rename").assign_ids_from("srv-");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let before = view.generation();
        let outcome = write(&dio, WriteOp::insert_as("mine", product("Drum", 15))).unwrap();
        assert_eq!(outcome.id.as_deref(), Some("srv-1"));
        assert_eq!(ids(&view.snapshot()), ["a", "b", "c", "srv-1"]);
        assert_eq!(view.generation(), before.next(), "in one step");
        assert!(dio.cache().get("mine").unwrap().is_none());
        dio.refresh().unwrap();
        assert_eq!(ids(&view.snapshot()), ["a", "b", "c", "srv-1"]);
    });
}

#[test]
fn w3_replace_takes_the_whole_row_and_a_missing_one_is_not_found() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("w3-replace")).unwrap();
        write(&dio, WriteOp::replace("b", record! { "price" => 11 })).unwrap();
        let row = dio.cache().get("b").unwrap().unwrap();
        assert_eq!((row.int("price"), row.get("name")), (Some(11), None));
        let error = write(&dio, WriteOp::replace("x", record! { "price" => 1 })).unwrap_err();
        assert_eq!((error.kind(), error.context("id")), (ErrorKind::NotFound, Some("x")));
        assert_eq!(cached(&dio), ["a=30", "b=11", "c=20"]);
    });
}

#[test]
fn w3_patch_merges_and_a_missing_row_is_not_found() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("w3-patch")).unwrap();
        write(&dio, WriteOp::patch("b", record! { "price" => 11, "sold" => true })).unwrap();
        let row = dio.cache().get("b").unwrap().unwrap();
        assert_eq!((row.int("price"), row.text("name"), row.bool("sold")), (Some(11), Some("Bell"), Some(true)));
        let error = write(&dio, WriteOp::patch("x", record! { "price" => 1 })).unwrap_err();
        assert_eq!((error.kind(), error.context("id")), (ErrorKind::NotFound, Some("x")));
        assert_eq!(cached(&dio), ["a=30", "b=11", "c=20"]);
    });
}

#[test]
fn w3_upsert_takes_the_whole_row_whether_it_is_there_or_not() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("w3-upsert")).unwrap();
        write(&dio, WriteOp::upsert("b", record! { "price" => 11 })).unwrap();
        write(&dio, WriteOp::upsert("d", product("Drum", 15))).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=11", "c=20", "d=15"]);
        assert_eq!(dio.cache().get("b").unwrap().unwrap().get("name"), None);
    });
}

#[test]
fn w3_delete_removes_the_row_and_a_missing_one_is_fine() {
    on_both(|cache| {
        let source = products("w3-delete");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let bell = dio.record_scenery("b").unwrap();
        write(&dio, WriteOp::delete("b")).unwrap();
        write(&dio, WriteOp::delete("b")).unwrap();
        write(&dio, WriteOp::delete("never there")).unwrap();
        assert_eq!(cached(&dio), ["a=30", "c=20"]);
        assert_eq!(bell.status(), RecordStatus::NotFound);
        assert_eq!(source.row_count(), 2);
    });
}

#[test]
fn w3_delete_all_empties_the_table_and_what_follows_it_stays() {
    on_both(|cache| {
        let source = products("w3-delete-all");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let all = dio.write(WriteOp::delete_all()).unwrap();
        let after = dio.write(WriteOp::insert_as("d", product("Drum", 15))).unwrap();
        assert_eq!(all.wait(SOON).unwrap().id, None);
        after.wait(SOON).unwrap();
        assert_eq!(prices(&view.snapshot()), ["d=15"]);
        assert_eq!(source.row_count(), 1);
        assert_eq!(dio.status().rows, 1);
    });
}

#[test]
fn w3_writes_through_the_facade_wait_for_their_settlement() {
    on_both(|cache| {
        let source = products("w3-facade").assign_ids_from("srv-");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let facade = dio.vista();
        assert_eq!(facade.insert_value(None, &product("Drum", 15)).unwrap().id.as_deref(), Some("srv-1"));
        facade.patch_value("b", &record! { "price" => 11 }).unwrap();
        facade.delete("c").unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=11", "srv-1=15"]);
        assert_eq!(facade.replace_value("x", &product("X", 1)).unwrap_err().kind(), ErrorKind::NotFound);
        facade.delete_all().unwrap();
        assert_eq!((facade.get_count().unwrap(), source.row_count()), (0, 0));
    });
}

#[test]
fn w3_a_failed_write_leaves_the_confirmed_row_and_says_why_everywhere() {
    on_both(|cache| {
        let source = products("w3-failed");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        let view = dio.table_scenery().open().unwrap();
        let before = view.generation();
        source.fail_next(Call::Patch, 1, Error::new(ErrorKind::Rejected, "too cheap"));
        let ticket = dio.write(WriteOp::patch("b", record! { "price" => 1 })).unwrap();
        let error = ticket.wait(SOON).unwrap_err();
        assert_eq!((error.kind(), error.context("id")), (ErrorKind::Rejected, Some("b")));
        assert_eq!(error.context("table"), Some("w3-failed"));
        assert!(matches!(ticket.state(), WriteState::Rejected(_)));
        let seen = events_until(&mut events, "WriteFailed", |event| matches!(event, DioEvent::WriteFailed { .. }));
        assert_eq!(names(&seen), ["WritePending b", "WriteFailed b"]);
        assert_eq!(view.generation(), before);
        let status = dio.status();
        assert_eq!((status.failed_writes, status.pending_writes), (1, 0));
        assert_eq!(status.write_error.unwrap().kind(), ErrorKind::Rejected);
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
    });
}

// ---- W6: a full queue ----------------------------------------------------------------------------------------------

#[test]
fn w6_a_full_queue_gives_the_write_back_and_takes_it_once_there_is_room() {
    on_both(|cache| {
        let source = products("w6-full");
        let lens = cache.lens().write_queue_capacity(2).write_timeout(Duration::from_millis(5)).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let held = source.hold(Call::Patch);
        let first = dio.write(WriteOp::patch("a", record! { "price" => 1 })).unwrap();
        let second = dio.try_write(WriteOp::patch("b", record! { "price" => 2 })).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let third = WriteOp::patch("c", record! { "price" => 3 });
        let refused = dio.try_write(third.clone()).unwrap_err();
        assert_eq!((refused.op, refused.error.kind()), (third.clone(), ErrorKind::Full));
        assert_eq!(refused.error.context("table"), Some("w6-full"));
        assert_eq!(dio.write(third.clone()).unwrap_err().kind(), ErrorKind::Full, "after the time-out");
        assert_eq!(first.wait(Duration::ZERO).unwrap_err().kind(), ErrorKind::Timeout);
        held.release();
        first.wait(SOON).unwrap();
        second.wait(SOON).unwrap();
        loop {
            // The last one's place is given back just after its ticket ends.
            match dio.try_write(third.clone()) {
                Ok(ticket) => break drop(ticket.wait(SOON).unwrap()),
                Err(refused) => assert_eq!(refused.error.kind(), ErrorKind::Full),
            }
        }
        assert_eq!(cached(&dio), ["a=1", "b=2", "c=3"]);
    });
}

#[test]
fn w6_write_waits_for_room() {
    in_time(|| {
        let source = products("w6-waits");
        let lens = Lens::new().in_memory().write_queue_capacity(1).write_timeout(SOON).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let held = source.hold(Call::Patch);
        dio.write(WriteOp::patch("a", record! { "price" => 1 })).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let writer = dio.clone();
        let waiting = start("write", move || write(&writer, WriteOp::patch("b", record! { "price" => 2 })));
        held.release();
        waiting.end().unwrap();
        assert_eq!(cached(&dio), ["a=1", "b=2", "c=20"]);
    });
}

#[test]
fn w6_on_the_librarys_own_threads_write_does_not_wait_for_room() {
    in_time(|| {
        let source = products("w6-own");
        let (answer, answers) = unbounded();
        let lens = Lens::new()
            .in_memory()
            .write_queue_capacity(1)
            .write_timeout(SOON * 10)
            .on_refresh(move |dio| {
                let refused = dio.write(WriteOp::delete("b"));
                let _ = answer.send(refused.map(drop).map_err(|error| error.kind()));
                Ok(())
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let _ = answers.try_recv();
        let held = source.hold(Call::Patch);
        dio.write(WriteOp::delete("nobody")).unwrap().wait(SOON).unwrap();
        while dio.try_write(WriteOp::patch("a", record! { "price" => 1 })).is_err() {}
        assert!(held.wait_until_held(1, SOON));
        dio.refresh().unwrap();
        assert_eq!(answers.try_iter().last(), Some(Err(ErrorKind::Full)));
        held.release();
    });
}

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

// ---- W10: stale reads never undo a write ---------------------------------------------------------------------------

/// Whether the stale list is held before or after it read its rows, and when the writes come.
#[derive(Clone, Copy, Debug)]
enum When {
    /// Accepted before the answer, delivered and settled before it.
    Settled,
    /// Accepted before the answer, under way until after it.
    Pending,
}

/// A refresh has read its rows and not answered while each kind of write is made; then it answers.
fn stale_refresh(cache: &Cache, when: When) {
    let source = products("w10-refresh").with_rows([("d", product("Drum", 40)), ("e", product("Egg", 50))]);
    let lens = cache.lens().build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    let view = dio.table_scenery().sort("name", SortDir::Asc).open().unwrap();
    // Somebody else changed b, which is not written here: the refresh is to bring that.
    source.outside_silently().patch("b", record! { "price" => 11 }).unwrap();
    let late = source.hold_answer(Call::List);
    let refreshing = dio.clone();
    let refresh = start("refresh", move || refreshing.refresh());
    assert!(late.wait_until_held(1, SOON));

    let slow = matches!(when, When::Pending).then(|| source.hold(Call::Patch));
    let tickets = [
        WriteOp::patch("a", record! { "price" => 99 }),
        WriteOp::delete("c"),
        WriteOp::insert_as("n", product("New", 70)),
        WriteOp::replace("d", product("Drum", 41)),
        WriteOp::delete("e"),
        WriteOp::upsert("e", product("Egg", 51)),
    ]
    .map(|op| dio.write(op).unwrap());
    if let Some(slow) = slow {
        assert!(slow.wait_until_held(1, SOON));
        late.release();
        refresh.end().unwrap();
        slow.release();
        for ticket in &tickets {
            ticket.wait(SOON).unwrap();
        }
    } else {
        for ticket in &tickets {
            ticket.wait(SOON).unwrap();
        }
        late.release();
        refresh.end().unwrap();
    }
    assert_eq!(prices(&view.snapshot()), ["a=99", "b=11", "d=41", "e=51", "n=70"], "{when:?}");
    assert_eq!(cached(&dio), ["a=99", "b=11", "d=41", "e=51", "n=70"], "{when:?}");
    dio.refresh().unwrap();
    assert_eq!(cached(&dio), ["a=99", "b=11", "d=41", "e=51", "n=70"], "{when:?}");
    dio.flush().unwrap();
}

#[test]
fn w10_a_refresh_that_began_before_writes_were_settled_undoes_none_of_them() {
    on_both(|cache| stale_refresh(&cache, When::Settled));
}

#[test]
fn w10_a_refresh_that_ends_while_writes_are_pending_undoes_none_of_them() {
    on_both(|cache| stale_refresh(&cache, When::Pending));
}

#[test]
fn w10_a_refresh_that_began_before_delete_all_brings_no_row_back() {
    on_both(|cache| {
        let source = products("w10-all");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        write(&dio, WriteOp::delete_all()).unwrap();
        write(&dio, WriteOp::insert_as("n", product("New", 70))).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["n=70"]);
    });
}

#[test]
fn w4_an_id_that_was_proposed_in_vain_leaves_the_row_that_has_it_alone() {
    on_both(|cache| {
        let source = products("w4").assign_ids_from("srv-");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let outcome = dio.write(WriteOp::insert_as("a", product("Acorn", 5))).unwrap().wait(SOON).unwrap();
        assert_eq!(outcome.id.as_deref(), Some("srv-1"));
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "srv-1=5"]);
        dio.refresh().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "srv-1=5"], "as the source has them");
    });
}

#[test]
fn w10_a_refresh_that_began_before_an_insert_whose_id_the_source_chose_does_not_remove_it() {
    on_both(|cache| {
        let source = products("w10-chosen").assign_ids_from("srv-");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        write(&dio, WriteOp::insert(product("New", 70))).unwrap();
        write(&dio, WriteOp::insert_as("mine", product("New", 71))).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "srv-1=70", "srv-2=71"]);
    });
}

#[test]
fn w10_a_deleted_row_is_not_brought_back_by_a_later_list_that_began_before_the_deletion() {
    on_both(|cache| {
        let source = products("w10-chosen-gone").assign_ids_from("srv-");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        write(&dio, WriteOp::insert(product("New", 70))).unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        write(&dio, WriteOp::delete("srv-1")).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
    });
}

#[test]
fn w10_a_row_confirmed_as_it_is_is_not_overwritten_by_a_list_that_began_before() {
    on_both(|cache| {
        let source = products("w10-as-it-is");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        source.outside_silently().patch("a", record! { "price" => 99 }).unwrap();
        let held = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        std::thread::scope(|threads| {
            let refresh = threads.spawn(move || refreshing.refresh());
            assert!(held.wait_until_held(1, SOON));
            // Newer than the list: the row is back to what the cache has anyway.
            let row = dio.cache().get("a").unwrap().unwrap();
            dio.patched("a", row.clone()).unwrap();
            held.release();
            refresh.join().unwrap().unwrap();
            assert_eq!(dio.cache().get("a").unwrap(), Some(row));
        });
    });
}

#[test]
fn w10_a_row_told_to_be_gone_that_the_cache_never_had_is_not_brought_by_a_list_that_began_before() {
    on_both(|cache| {
        let source = products("w10-told-gone");
        let late = source.hold_answer(Call::List);
        let lens = cache.lens().on_start_blocking(false).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        assert!(late.wait_until_held(1, SOON));
        source.outside_silently().delete("a").unwrap();
        dio.handle_event(ChangeEvent::Deleted { id: "a".to_owned() }).unwrap();
        source.outside_silently().delete("b").unwrap();
        dio.cache().remove("b").unwrap();
        late.release();
        until("the first copy has ended", || dio.status().complete);
        assert_eq!(cached(&dio), ["c=20"]);
    });
}

#[test]
fn w10_a_row_told_or_read_again_as_it_is_is_not_overwritten_by_a_list_that_began_before() {
    on_both(|cache| {
        let source = products("w10-told-as-is");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        for id in ["a", "b"] {
            source.outside_silently().upsert(id, product("Older", 1)).unwrap();
        }
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        // Both go back to what the cache has: the list that is on its way is the older news.
        source.outside_silently().upsert("a", product("Anvil", 30)).unwrap();
        source.outside_silently().upsert("b", product("Bell", 10)).unwrap();
        let record = Some(product("Anvil", 30));
        dio.handle_event(ChangeEvent::Updated { id: "a".to_owned(), record }).unwrap();
        let seq = dio.seq();
        dio.handle_event(ChangeEvent::Updated { id: "b".to_owned(), record: None }).unwrap();
        dio.wait_for_seq(seq.next(), Some(SOON)).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
    });
}

#[test]
fn w10_a_re_read_of_one_row_that_began_before_a_write_does_not_undo_it() {
    on_both(|cache| {
        let source = products("w10-reread");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let late = source.hold_answer(Call::Get);
        dio.invalidate_record("a");
        assert!(late.wait_until_held(1, SOON));
        // The load thread does one read after the other.
        write(&dio, WriteOp::patch("a", record! { "price" => 99 })).unwrap();
        late.let_one_pass();
        dio.invalidate_record("c");
        assert!(late.wait_until_held(1, SOON));
        while source.calls(Call::Get) < 2 {
            assert!(source.wait_until_called(Call::Get, 2, SOON));
        }
        assert_eq!(dio.cache().get("a").unwrap().unwrap().int("price"), Some(99));
        write(&dio, WriteOp::delete("c")).unwrap();
        late.release();
        dio.invalidate_record("b");
        assert!(source.wait_until_called(Call::Get, 3, SOON));
        wait_for(&view, "b re-read", |rows| rows.iter().all(|row| row.status() == RowStatus::Fresh));
        assert_eq!(cached(&dio), ["a=99", "b=10"]);
    });
}

#[test]
fn w10_an_invalidated_row_that_is_gone_at_the_source_goes_and_a_new_one_comes() {
    on_both(|cache| {
        let source = products("w10-gone");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        source.outside_silently().delete("a").unwrap();
        source.outside_silently().upsert("n", product("New", 70)).unwrap();
        dio.invalidate_record("a");
        dio.invalidate_record("n");
        wait_for(&view, "n for a", |rows| ids(rows) == ["b", "c", "n"]);
        assert_eq!(source.calls(Call::List), 1, "only these rows were read");
    });
}

#[test]
fn w10_reconcile_as_of_leaves_alone_what_was_written_since_and_reconcile_takes_the_rows_as_read_now() {
    on_both(|cache| {
        let source = products("w10-as-of");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let began = dio.seq();
        let mut rows = source.rows();
        write(&dio, WriteOp::patch("a", record! { "price" => 99 })).unwrap();
        write(&dio, WriteOp::delete("c")).unwrap();
        write(&dio, WriteOp::insert_as("n", product("New", 70))).unwrap();
        rows[1].1 = product("Bell", 12);
        rows.push(("o".to_owned(), product("Old", 80)));
        dio.reconcile_as_of(began, rows.clone()).unwrap();
        assert_eq!(cached(&dio), ["a=99", "b=12", "n=70", "o=80"]);
        dio.reconcile(rows).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=12", "c=20", "o=80"]);
    });
}

#[test]
fn w10_a_refresh_callback_that_began_before_a_write_does_not_undo_it() {
    on_both(|cache| {
        let source = products("w10-callback");
        let lens = cache
            .lens()
            .on_refresh(|dio| {
                let rows = dio.master().list(&CallCx::new())?;
                dio.cache().clear()?;
                dio.cache().insert_many(rows)
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        write(&dio, WriteOp::patch("a", record! { "price" => 99 })).unwrap();
        write(&dio, WriteOp::delete("b")).unwrap();
        write(&dio, WriteOp::insert_as("n", product("New", 70))).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["a=99", "c=20", "n=70"]);
    });
}

// ---- W11: refusals -------------------------------------------------------------------------------------------------

fn typed(table: &str) -> MemoryVista {
    let schema = Schema::new("id")
        .with(Column::new("id", ColumnType::Text))
        .with(Column::new("name", ColumnType::Text).mandatory())
        .with(Column::new("price", ColumnType::Int));
    products(table).with_schema(schema)
}

#[test]
fn w11_what_the_schema_refuses_fails_at_once_and_leaves_no_trace() {
    on_both(|cache| {
        let source = typed("w11-schema");
        let lens = cache.lens().write_queue_capacity(1).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        let seq = dio.seq();
        let refused = [
            (WriteOp::patch("a", record! { "colour" => "red" }), "colour"),
            (WriteOp::patch("a", record! { "price" => "cheap" }), "price"),
            (WriteOp::upsert("a", record! { "name" => "A", "price" => 1.5 }), "price"),
            (WriteOp::insert_as("n", record! { "price" => 1 }), "name"),
        ];
        for (op, column) in refused {
            let back = dio.try_write(op.clone()).unwrap_err();
            assert_eq!((back.error.kind(), back.error.context("column")), (ErrorKind::Invalid, Some(column)));
            assert_eq!(back.error.context("table"), Some("w11-schema"));
            assert_eq!(back.op, op);
            assert_eq!(dio.write(op).unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert_eq!(dio.write(WriteOp::delete("")).unwrap_err().kind(), ErrorKind::Invalid);
        let long = "x".repeat(65 * 1024);
        assert_eq!(dio.write(WriteOp::upsert(long, product("Long", 1))).unwrap_err().kind(), ErrorKind::Invalid);
        assert!(names(&events_now(&mut events)).is_empty());
        assert_eq!(dio.seq(), seq);
        assert!(source.writes().is_empty());
        let status = dio.status();
        assert_eq!((status.pending_writes, status.failed_writes), (0, 0));
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        write(&dio, WriteOp::patch("a", record! { "price" => 1 })).unwrap();
    });
}

#[test]
fn w11_what_the_source_cannot_do_is_refused_at_once_and_leaves_no_trace() {
    on_both(|cache| {
        let source = products("w11-able").with_capabilities(Capabilities { patch: true, ..Capabilities::read_only() });
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        let ops = [
            WriteOp::insert(product("N", 1)),
            WriteOp::replace("a", product("N", 1)),
            WriteOp::upsert("a", product("N", 1)),
            WriteOp::delete("a"),
            WriteOp::delete_all(),
        ];
        for op in ops {
            let error = dio.write(op.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.message().contains(op.verb()), "{error}");
        }
        assert!(events_now(&mut events).is_empty() && source.writes().is_empty());
        assert!(threads_of("w11-able:writer").is_empty(), "no thread was started for them");
        write(&dio, WriteOp::patch("a", record! { "price" => 1 })).unwrap();
        let able = dio.vista().capabilities();
        assert!(able.patch && !able.insert && !able.delete_all);
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
        assert_eq!(kind_of(write(&dio, WriteOp::delete("a"))), ErrorKind::Rejected);
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        assert_eq!(view.generation(), generation);
        assert!(view.snapshot().iter().all(|row| row.status() == RowStatus::Fresh));
        assert_eq!(source.calls(Call::Get), 0);
    });
}

#[test]
fn batch_what_on_write_does_beside_its_write_shows_with_it_in_one_step() {
    on_both(|cache| {
        let lens = cache
            .lens()
            .on_write(|dio, op| {
                let total = dio.cache().list()?.iter().filter_map(|(_, row)| row.int("price")).sum::<i64>();
                dio.cache().insert("total", product("Total", total))?;
                dio.master().write(&CallCx::new(), op)
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products("batch-write")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let generation = view.generation();
        let outcome = write(&dio, WriteOp::delete("a")).unwrap();
        seen.lock().push(prices(&view.snapshot()));
        assert_eq!(*seen.lock(), [vec!["b=10".to_owned(), "c=20".to_owned(), "total=60".to_owned()]]);
        assert_eq!((view.generation(), view.snapshot().seq()), (generation.next(), outcome.seq));
    });
}
