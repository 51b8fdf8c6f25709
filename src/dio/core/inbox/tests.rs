//! What is done on the spot, by a Dio whose core is asked by several threads.

use std::sync::Mutex;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use super::*;
use crate::dio::core::{Announce, Apply, RowChange};
use crate::dio::event::{Cause, DioEvent};
use crate::prelude::*;
use crate::sync::{Role, reply};
use crate::value::StoredRow;

const SOON: Duration = Duration::from_secs(20);

fn dio() -> (Lens, Dio) {
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id")).unwrap();
    (lens, dio)
}

fn put(n: i64) -> RowChange {
    RowChange::Put(StoredRow::encode("a", &record! { "id" => "a", "n" => n }, 0))
}

fn apply(change: RowChange) -> Apply {
    Apply {
        changes: vec![change].into(),
        cause: Cause::Local,
        announce: Announce::EachRow,
        began: None,
        full_copy: None,
        reply: None,
        at_once: false,
    }
}

/// Has it done on this thread.
fn do_now(dio: &Dio, message: Message) {
    let core = &dio.inner().core;
    let desk = core.desk.0.lock();
    core.urgent.try_send(message).unwrap();
    if !core.handle_here(desk, Rank::new(dio.inner().level, Role::Core)) {
        core.work.ring();
    }
}

#[test]
fn what_is_done_on_the_spot_overtakes_nothing_that_waits() {
    let (_lens, dio) = dio();
    for n in 0..4_000 {
        for before in 0..n % 3 {
            dio.inner().send(Message::Apply(apply(put(-before)))).unwrap();
        }
        dio.patched("a", record! { "id" => "a", "n" => n }).unwrap();
        assert_eq!(dio.cache().get("a").unwrap().unwrap().int("n"), Some(n));
    }
}

#[test]
fn threads_that_take_turns_at_the_core_lose_nothing() {
    const EACH: i64 = 500;
    let (_lens, dio) = dio();
    let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_i64 {
            let dio = &dio;
            scope.spawn(move || {
                for n in 0..EACH {
                    let id = format!("{thread}:{n}");
                    dio.patched(&*id, record! { "id" => id.as_str(), "n" => n }).unwrap();
                    assert!(dio.cache().get(&id).unwrap().is_some(), "it is there for who made it");
                }
            });
        }
    });
    assert_eq!((view.row_count(), dio.status().rows), (4 * EACH as usize, 4 * EACH as u64));
    assert_eq!(dio.seq(), Seq(view.generation().0), "each batch was one step");
}

#[test]
fn all_that_a_large_snapshot_kept_is_let_go_of_though_nothing_else_happens() {
    let (_lens, dio) = dio();
    let views: Vec<_> = (0..3).map(|_| dio.table_scenery().open().unwrap()).collect();
    let write_all = |n: i64| {
        for part in 0..10 {
            let rows = (0..1_000).map(|row| format!("{part}:{row}"));
            dio.cache().insert_many(rows.map(|id| (id.clone(), record! { "id" => id, "n" => n }))).unwrap();
        }
    };
    write_all(1);
    let held = views[0].snapshot();
    write_all(2);
    assert!(dio.status().snapshot_bytes > 0);
    drop(held);
    drop(views);
    let clock = crate::clock::Clock::system();
    let end = clock.now().after(SOON);
    let left = || (dio.status().views, dio.status().snapshot_bytes);
    while left() != (0, 0) {
        assert!(clock.now() < end, "{:?} is left", left());
        std::thread::yield_now();
    }
}

/// Does something with a Dio when it is woken, and notes where and what came of it.
struct Meddler(Dio, Mutex<Option<(ThreadId, ErrorKind)>>);

impl Wake for Meddler {
    fn wake(self: Arc<Self>) {
        let error = self.0.patched("b", record! { "id" => "b" }).unwrap_err();
        *self.1.lock().unwrap() = Some((std::thread::current().id(), error.kind()));
    }
}

#[test]
fn who_does_the_cores_work_has_its_rank() {
    let (_lens, dio) = dio();
    let meddler = Arc::new(Meddler(dio.clone(), Mutex::default()));
    let waker = Waker::from(meddler.clone());
    let (sender, receiver) = reply();
    let mut receiver = std::pin::pin!(receiver);
    assert!(receiver.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    do_now(&dio, Message::Apply(Apply { reply: Some(sender), ..apply(put(1)) }));
    let seen = *meddler.1.lock().unwrap();
    assert_eq!(seen, Some((std::thread::current().id(), ErrorKind::WouldDeadlock)));
    assert!(matches!(receiver.poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(Ok(_)))));
    dio.patched("b", record! { "id" => "b" }).unwrap();
}

/// Panics at the first thing that it is told.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::DEBUG
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        panic!("on purpose");
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Makes changes until this thread's subscriber is told of one. `tracing` remembers who wants to be told of what, and may
/// remember for a moment what it asked another thread, which has no subscriber.
fn until_told<T>(dio: &Dio, mut change: impl FnMut(Apply) -> Option<T>) -> T {
    for n in dio.inner().published().0 as i64.. {
        tracing::callsite::rebuild_interest_cache();
        if let Some(told) = change(apply(put(n))) {
            return told;
        }
    }
    unreachable!("the numbers don't end")
}

#[test]
fn a_core_that_panics_on_a_thread_of_the_application_is_closed_for_all() {
    let (lens, dio) = dio();
    let view = dio.table_scenery().open().unwrap();
    let before = view.generation();
    let error = tracing::subscriber::with_default(Panics, || {
        until_told(&dio, |change| {
            let (sender, receiver) = reply();
            do_now(&dio, Message::Apply(Apply { reply: Some(sender), ..change }));
            receiver.wait(Some(SOON)).err()
        })
    });
    assert_eq!(error.kind(), ErrorKind::Closed);
    let seen = view.wait_for_change(before, Some(SOON)).map(|_| view.wait_for_change(view.generation(), Some(SOON)));
    assert!(seen.is_err() || seen.is_ok_and(|next| next.is_err()), "the view is closed");
    assert_eq!(dio.patched("a", record! { "id" => "a" }).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(dio.write(WriteOp::delete("a")).unwrap().wait(SOON).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(dio.inner().writes.info().length, 0, "the closing waits for no write that nobody has");
    assert!(lens.close(SOON).unwrap().is_closed());
}

/// Panics at the first thing that it is told, and asks for something when it is told of that.
struct PanicsAndAsks(Dio, Mutex<Option<ErrorKind>>);

impl tracing::Subscriber for PanicsAndAsks {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        matches!(*metadata.level(), tracing::Level::DEBUG | tracing::Level::ERROR)
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if *event.metadata().level() == tracing::Level::DEBUG {
            panic!("on purpose");
        }
        let error = self.0.patched("b", record! { "id" => "b" }).unwrap_err();
        *self.1.lock().unwrap() = Some(error.kind());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn who_is_told_of_a_panic_on_the_spot_may_ask_for_something() {
    let (lens, dio) = dio();
    let subscriber = Arc::new(PanicsAndAsks(dio.clone(), Mutex::default()));
    let (told, hears) = bounded(1);
    let worker = {
        let (dio, subscriber) = (dio.clone(), subscriber.clone());
        let work = move || {
            // As a thread of the application.
            let dispatch = tracing::Dispatch::new(subscriber.clone());
            tracing::dispatcher::with_default(&dispatch, || {
                until_told(&dio, |change| {
                    do_now(&dio, Message::Apply(change));
                    *subscriber.1.lock().unwrap()
                })
            });
            let _ = told.send(());
        };
        std::thread::Builder::new().spawn(work).unwrap()
    };
    assert_eq!(hears.recv_timeout(SOON), Ok(()), "it waits for itself");
    worker.join().unwrap();
    assert_eq!(*subscriber.1.lock().unwrap(), Some(ErrorKind::Closed));
    assert!(lens.close(SOON).unwrap().is_closed());
}

#[test]
fn a_thread_that_panics_and_closes_the_core_shows_what_was_held_back() {
    struct Closes<'a>(&'a Dio);
    impl Drop for Closes<'_> {
        fn drop(&mut self) {
            do_now(self.0, Message::Close { reply: None });
        }
    }
    let (lens, dio) = dio();
    let mut events = dio.subscribe_events();
    let ops = [WriteOp::insert(record! { "n" => 1 })];
    let room = dio.inner().take_room(&ops, SOON).unwrap().pop().flatten();
    let [op] = ops;
    let (new, receipt) = dio.inner().new_write(op, None, room);
    do_now(&dio, Message::Stage(vec![new]));
    do_now(&dio, Message::AtSource(receipt.number()));
    do_now(&dio, Message::Apply(Apply { began: Some(dio.seq()), ..apply(put(7)) }));
    assert!(dio.cache().get("a").unwrap().is_none(), "it may be the row of the insert");
    catch_panic("a thread", || {
        let _closes = Closes(&dio);
        panic!("on purpose");
    })
    .unwrap_err();
    let is_of_row = |event: &DioEvent| matches!(event, DioEvent::RecordInserted { id, .. } if &**id == "a");
    assert!(events.iter().any(|event| event.is_ok_and(|event| is_of_row(&event))));
    lens.close(Duration::ZERO).unwrap();
}

#[test]
fn a_closing_that_the_core_has_no_room_for_is_over_in_its_time_and_the_core_closes_later() {
    let (lens, dio) = dio();
    let view = dio.table_scenery().open().unwrap();
    let core = dio.inner().core.clone();
    // As if whoever is the core read an old row from a storage that stands still.
    let desk = core.desk.0.lock();
    let mut last = None;
    for n in 0..URGENT {
        let (sender, receiver) = reply();
        let message = Message::Apply(Apply { reply: Some(sender), ..apply(put(n as i64)) });
        assert!(core.urgent.try_send(message).is_ok());
        last = Some(receiver);
    }
    let (report, reports) = bounded(1);
    let closing = {
        let dio = dio.clone();
        let close = move || {
            let _ = report.send(dio.close(Duration::from_millis(100)));
        };
        std::thread::Builder::new().spawn(close).unwrap()
    };
    let seen = reports.recv_timeout(SOON).expect("the closing goes on beyond its time").unwrap();
    assert!(seen.still_running.contains(&"t:core".to_owned()), "{seen:?}");
    closing.join().unwrap();
    drop(desk);
    assert!(last.unwrap().wait(Some(SOON)).unwrap().is_ok(), "what waited before it is done");
    assert!(lens.close(SOON).unwrap().is_closed());
    assert!(view.wait_for_change(view.generation(), Some(SOON)).is_err(), "nobody waits for the view any more");
}

/// Ends the core as a panic at its desk does. Nobody is told of it but by that.
fn lose_core(dio: &Dio) {
    let core = loop {
        if let Some(core) = dio.inner().core.desk.0.lock().take() {
            break core;
        }
        std::thread::yield_now();
    };
    drop(core);
    dio.inner().core.work.ring();
}

#[test]
fn a_write_that_was_on_its_way_when_the_core_was_gone_keeps_no_place() {
    let (lens, dio) = dio();
    let inner = dio.inner();
    let core = inner.core.clone();
    let ops = [WriteOp::delete("a"), WriteOp::delete("b")];
    let room = inner.take_room(&ops, SOON).unwrap();
    let new = ops.into_iter().zip(room).map(|(op, room)| inner.new_write(op, None, room));
    let (new, receipts): (Vec<_>, Vec<_>) = new.unzip();
    // Whoever is at the core panics while the writes wait in its inbox.
    let mut desk = loop {
        let desk = core.desk.0.lock();
        if desk.is_some() {
            break desk;
        }
        drop(desk);
        std::thread::yield_now();
    };
    inner.hand_over(new);
    let lost = desk.take();
    drop(desk);
    drop(lost);
    core.work.ring();
    for receipt in receipts {
        assert_eq!(receipt.wait(SOON).unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(inner.writes.info().length, 0);
    assert!(lens.close(SOON).unwrap().is_closed());
}

#[test]
fn a_closing_waits_for_no_write_that_was_lost_with_the_core() {
    const FOR_EVER: Duration = Duration::from_secs(3_600);
    let (lens, dio) = dio();
    // The core had the write already, and nobody else has.
    dio.inner().writes.reserve(1, Duration::ZERO).unwrap();
    lose_core(&dio);
    while !dio.inner().core.has_ended() {
        std::thread::yield_now();
    }
    let (report, reports) = bounded(1);
    let closing = std::thread::Builder::new().spawn(move || report.send(lens.close(FOR_EVER))).unwrap();
    let seen = reports.recv_timeout(SOON).expect("the closing waits for a write that nobody has").unwrap();
    assert!(seen.is_closed());
    closing.join().unwrap().unwrap();
}
