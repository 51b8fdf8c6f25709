//! E: events, their order and their loss, and repaint hooks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{bounded, unbounded};
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{Cause, NoEvent};

use crate::support::*;

#[test]
fn e1_every_subscriber_sees_every_event_in_order() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("e1-order")).unwrap();
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let mut events = dio.subscribe_events();
                start("a reader", move || {
                    let mut seen = Vec::new();
                    for event in events.iter() {
                        seen.push(event.unwrap());
                    }
                    seen
                })
            })
            .collect();
        for step in 0..100 {
            dio.patched("b", product("Bell", step)).unwrap();
            if step % 10 == 0 {
                dio.write(WriteOp::upsert(format!("row {step}"), product("W", step))).unwrap().wait(SOON).unwrap();
            }
        }
        assert!(dio.close(SOON).unwrap().is_closed());
        let seen: Vec<Vec<DioEvent>> = readers.into_iter().map(Task::end).collect();
        for events in &seen {
            assert!(events.iter().map(DioEvent::seq).is_sorted());
            assert_eq!(names(events), names(&seen[0]));
            let count = |name: &str| names(events).iter().filter(|other| other.starts_with(name)).count();
            assert_eq!((count("RecordChanged b"), count("RecordInserted")), (100, 10));
            assert_eq!((count("WritePending"), count("WriteSettled"), count("Closed")), (10, 10, 1));
        }
    });
}

#[test]
fn e1_a_reader_that_lags_is_told_exactly_how_many_it_missed_and_goes_on() {
    on_both(|cache| {
        for (capacity, steps) in [(1_usize, 50_i64), (8, 50), (8, 1_000), (64, 10)] {
            let lens = cache.lens().event_capacity(capacity).build().unwrap();
            let dio = lens.make_dio(products(&format!("e1-lag-{capacity}-{steps}"))).unwrap();
            let mut stuck = dio.subscribe_events();
            let mut live = dio.subscribe_events();
            for step in 0..steps {
                dio.patched("b", product("Bell", step + 1_000)).unwrap();
                let event = live.recv(Some(SOON)).unwrap();
                assert_eq!(event.id(), Some("b"), "a stuck reader costs another one nothing");
            }
            let (mut seen, mut missed) = (Vec::new(), 0);
            loop {
                match stuck.try_recv() {
                    Ok(event) => seen.push(event.seq().0),
                    Err(NoEvent::Lagged(number)) => missed += number,
                    Err(NoEvent::Empty) => break,
                    Err(NoEvent::Closed) => panic!("it is open"),
                }
            }
            assert_eq!(seen.len() as u64 + missed, steps as u64, "capacity {capacity}, {steps} events");
            assert!(seen.is_sorted());
            assert!(missed > 0 || capacity == 64, "{seen:?}");
            dio.patched("b", product("Bell", 0)).unwrap();
            let next = events_until(&mut stuck, "the next", |event| event.seq() == dio.seq());
            assert_eq!(next.len(), 1, "it goes on with what comes then");
        }
    });
}

#[test]
fn e1_whoever_has_an_event_sees_rows_at_least_that_new() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("e1-newer")).unwrap();
        let view = dio.table_scenery().where_eq("name", "Bell").open().unwrap();
        let mut events = dio.subscribe_events();
        let (reader, a_view) = (dio.clone(), view.clone());
        let checker = start("the reader", move || {
            let mut last = -1;
            while last < 299 {
                let event = events.recv(Some(SOON)).unwrap();
                let price = a_view.row(0).unwrap().int("price").unwrap();
                assert!(reader.seq() >= event.seq() && a_view.snapshot().seq() >= event.seq());
                assert!(price >= last);
                last = price;
            }
        });
        for step in 0..300 {
            dio.patched("b", product("Bell", step)).unwrap();
        }
        checker.end();
    });
}

#[test]
fn e1_each_event_carries_its_cause() {
    on_both(|cache| {
        let source = products("e1-cause");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        let causes = |events: &mut diorama::EventReader<DioEvent>| {
            let seen = events_now(events);
            seen.iter().filter(|event| is_about_rows(event)).map(|event| event.cause().unwrap()).collect::<Vec<_>>()
        };
        dio.cache().insert("d", product("Drum", 1)).unwrap();
        dio.cache().remove("d").unwrap();
        assert_eq!(causes(&mut events), [Cause::Local, Cause::Local]);
        dio.patched("d", product("Drum", 1)).unwrap();
        assert_eq!(causes(&mut events), [Cause::Outside]);
        write(&dio, WriteOp::upsert("d", product("Drum", 2))).unwrap();
        assert_eq!(causes(&mut events), [Cause::Local, Cause::Confirmed], "shown, and confirmed");
        source.fail_next(Call::Upsert, 1, Error::new(ErrorKind::Rejected, "on purpose"));
        write(&dio, WriteOp::upsert("d", product("Drum", 3))).unwrap_err();
        assert_eq!(causes(&mut events), [Cause::Local, Cause::RolledBack], "shown, and taken back");
        write(&dio, WriteOp::delete("d")).unwrap();
        assert_eq!(causes(&mut events), [Cause::Local], "gone, and gone it stays");
        dio.reconcile(Vec::new()).unwrap();
        assert_eq!(causes(&mut events), [Cause::Refresh]);
        dio.reconcile(Vec::new()).unwrap();
        assert_eq!(causes(&mut events), []);
    });
}

#[test]
fn e1_the_doorbell_works_in_select() {
    in_time(|| {
        let lens = Lens::new().in_memory().build().unwrap();
        let dio = lens.make_dio(products("e1-select")).unwrap();
        let mut events = dio.subscribe_events();
        let (_keep, never) = unbounded::<()>();
        assert_eq!(events.try_recv().unwrap_err(), NoEvent::Empty);
        let changer = dio.clone();
        let task = start("patched", move || changer.patched("b", product("Bell", 1)).unwrap());
        crossbeam_channel::select! {
            recv(events.doorbell()) -> _ => {}
            recv(never) -> _ => panic!("nobody sends"),
            default(SOON) => panic!("the doorbell never rings"),
        }
        assert_eq!(names(&events_now(&mut events)), ["RecordChanged b"]);
        task.end();
    });
}

#[test]
fn e4_a_hook_that_panics_is_dropped_and_the_others_live() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("e4-panic")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let _panics = view
            .on_generation(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                panic!("on purpose");
            })
            .unwrap();
        let (ring, rings) = unbounded();
        let _lives = view.on_generation(move |generation| ring.send(generation).unwrap_or(())).unwrap();
        for step in 0..5 {
            dio.patched("b", product("Bell", step)).unwrap();
            let wanted = view.generation();
            while rings.recv_timeout(SOON).unwrap() < wanted {}
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1, "it is called no more");
        assert!(!threads_of(&format!("{}:notify", lens.name())).is_empty());
    });
}

#[test]
fn e4_a_hook_that_blocks_delays_hooks_but_never_the_dio() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("e4-block")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let (inside, is_inside) = bounded(1);
        let (go, may_go) = bounded::<()>(0);
        let _blocks = view
            .on_generation(move |_| {
                let _ = inside.try_send(());
                let _ = may_go.recv();
            })
            .unwrap();
        let (ring, rings) = unbounded();
        dio.patched("b", product("Bell", 0)).unwrap();
        is_inside.recv_timeout(SOON).unwrap();
        let _later = view.on_generation(move |generation| ring.send(generation).unwrap_or(())).unwrap();
        for step in 1..=100 {
            dio.patched("b", product("Bell", step)).unwrap();
        }
        dio.write(WriteOp::delete("a")).unwrap().wait(SOON).unwrap();
        dio.refresh().unwrap();
        dio.flush().unwrap();
        assert!(rings.is_empty(), "hooks come one after the other");
        let newest = view.generation();
        drop(go);
        assert_eq!(rings.recv_timeout(SOON).unwrap(), newest, "one call for all, with the newest");
    });
}

#[test]
fn e4_a_dropped_registration_ends_its_hook() {
    in_time(|| {
        let lens = Lens::new().in_memory().build().unwrap();
        let dio = lens.make_dio(products("e4-drop")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let (gone, is_gone) = bounded::<()>(1);
        let registration = view
            .on_generation(move |_| {
                let _keep = &gone;
            })
            .unwrap();
        drop(registration);
        assert_eq!(is_gone.recv_timeout(SOON), Err(crossbeam_channel::RecvTimeoutError::Disconnected));
        dio.patched("b", product("Bell", 1)).unwrap();
    });
}
