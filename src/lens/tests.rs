#![expect(
    clippy::disallowed_methods,
    reason = "a thread of the application that hangs must fail the test; a scope would wait for it"
)]

use std::sync::mpsc;

use super::*;
use crate::prelude::*;
use crate::sources::memory::Call;

const SOON: Duration = Duration::from_secs(20);

fn source() -> MemoryVista {
    MemoryVista::new("t", "id").with_rows([("a", record! { "id" => "a", "n" => 1 })])
}

/// Does it on another thread, so that a hang fails the test instead of stopping it.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, answer) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(work()).unwrap());
    let answer = answer.recv_timeout(SOON).expect("it hangs, or has panicked");
    thread.join().unwrap();
    answer
}

#[test]
fn two_threads_get_the_same_dio() {
    let lens = Lens::new().in_memory().build().unwrap();
    let source = source();
    let held = source.hold(Call::List);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (lens, source) = (lens.clone(), source.clone());
            std::thread::spawn(move || lens.make_dio(source).unwrap())
        })
        .collect();
    assert!(held.wait_until_held(1, SOON));
    held.release();
    let dios: Vec<Dio> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(dios.iter().all(|dio| Arc::ptr_eq(dio.inner(), dios[0].inner())));
    assert_eq!(source.calls(Call::List), 1);
}

/// A Lens whose `on_write` says when it begins and waits for a word.
fn slow_writes(drop_timeout: Duration) -> (Lens, mpsc::Receiver<()>, crossbeam_channel::Sender<()>) {
    let (begin, begun) = mpsc::channel();
    let (let_go, held) = crossbeam_channel::bounded::<()>(0);
    let lens = Lens::new()
        .in_memory()
        .drop_timeout(drop_timeout)
        .on_write(move |dio, op| {
            let _ = begin.send(());
            let _ = held.recv();
            dio.master().write(&CallCx::new(), op)
        })
        .build()
        .unwrap();
    (lens, begun, let_go)
}

#[test]
fn a_table_is_free_again_though_its_last_thread_outlived_every_handle() {
    let (lens, begun, let_go) = slow_writes(Duration::ZERO);
    let source = source();
    let dio = lens.make_dio(source.clone()).unwrap();
    let ticket = dio.write(WriteOp::patch("a", record! { "n" => 2 })).unwrap();
    begun.recv().unwrap();
    drop(dio);
    drop(let_go);
    in_time(move || lens.make_dio(source).unwrap());
    // It was in the source's hands, and was settled.
    ticket.wait(SOON).unwrap();
}

#[test]
fn writes_behind_a_callback_are_delivered_while_the_dio_is_closed_or_dropped() {
    for drops in [false, true] {
        let (lens, begun, let_go) = slow_writes(SOON);
        let source = source();
        let dio = lens.make_dio(source.clone()).unwrap();
        let tickets: Vec<_> =
            (0..3).map(|n| dio.write(WriteOp::upsert(format!("w{n}"), record! { "n" => n })).unwrap()).collect();
        begun.recv().unwrap();
        if drops {
            drop(dio);
            drop(let_go);
        } else {
            let closing = std::thread::spawn(move || dio.close(SOON).unwrap());
            drop(let_go);
            let report = closing.join().unwrap();
            assert_eq!((report.delivered, report.failed, report.is_closed()), (3, 0, true));
        }
        for ticket in tickets {
            ticket.wait(SOON).unwrap();
        }
        assert_eq!(source.row_count(), 4);
    }
}

#[test]
fn who_waits_for_a_source_that_never_answers_is_woken_by_the_closing() {
    let (begin, begun) = mpsc::channel();
    let (let_go, held) = crossbeam_channel::bounded::<()>(0);
    let lens = Lens::new()
        .in_memory()
        .on_refresh(move |_| {
            begin.send(()).unwrap();
            let _ = held.recv();
            Ok(())
        })
        .on_start(|_| Ok(()))
        .build()
        .unwrap();
    let dio = lens.make_dio(source()).unwrap();
    let waiting = {
        let dio = dio.clone();
        std::thread::spawn(move || dio.refresh())
    };
    begun.recv().unwrap();
    let report = dio.close(Duration::ZERO).unwrap();
    assert!(report.still_running.iter().any(|thread| thread == "t:refresh"), "{report:?}");
    assert_eq!(in_time(move || waiting.join().unwrap()).unwrap_err().kind(), ErrorKind::Closed);
    drop(let_go);
}

#[test]
fn a_closed_lens_wakes_who_waits_for_a_seat_and_closes_what_is_being_made() {
    let lens = Lens::new().in_memory().build().unwrap();
    lens.inner().seats.lock().insert("t".into(), Seat::Starting);
    let waiting = {
        let lens = lens.clone();
        std::thread::spawn(move || lens.make_dio(source()).map(drop))
    };
    // Whether it sleeps already or not, it must learn of the closing.
    lens.close(Duration::ZERO).unwrap();
    assert_eq!(in_time(move || waiting.join().unwrap()).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_source_that_panics_while_its_dio_is_made_leaves_the_seat_free() {
    #[derive(Debug)]
    struct Panics;
    impl crate::vista::TableShell for Panics {
        fn name(&self) -> &str {
            "t"
        }
        fn schema(&self) -> Arc<crate::vista::Schema> {
            Arc::new(crate::vista::Schema::open("id"))
        }
        fn capabilities(&self) -> crate::vista::Capabilities {
            crate::vista::Capabilities::read_write()
        }
        fn source_key(&self) -> String {
            "panics".into()
        }
        fn list(&self, _: &CallCx, _: &crate::vista::QueryDescriptor) -> Result<Vec<(String, Record)>> {
            Ok(Vec::new())
        }
        fn stack_level(&self) -> u32 {
            panic!("on purpose")
        }
    }
    let lens = Lens::new().in_memory().build().unwrap();
    for _ in 0..2 {
        let lens = lens.clone();
        let error = in_time(move || lens.make_dio(Vista::new(Panics)).map(drop).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Panicked);
    }
}

/// One thread's part of the crowd: everything that an application may do with a Dio, in an order of its own.
fn one_of_a_crowd(lens: &Lens, source: &MemoryVista, seed: u64) {
    let mut random = seed;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % below
    };
    let closed_or = |expected: &[ErrorKind], error: Error| {
        assert!(error.kind() == ErrorKind::Closed || expected.contains(&error.kind()), "{error}");
    };
    for _ in 0..12 {
        let Ok(dio) = lens.make_dio(source.clone()) else { continue };
        let mut views: Vec<TableScenery> = Vec::new();
        for _ in 0..20 {
            let id = format!("r{}", next(30));
            let row = record! { "id" => id.clone(), "n" => next(5) as i64 };
            let done = match next(12) {
                0 => dio.cache().insert(id, row),
                1 => dio.cache().remove(id),
                2 => dio.cache().clear(),
                3 => dio.cache().list().map(drop),
                4 => dio.refresh(),
                5 => dio.flush(),
                6 => dio.write(WriteOp::upsert(id, row)).and_then(|ticket| ticket.wait(SOON)).map(drop),
                7 => dio.table_scenery().sort("n", SortDir::Asc).open().map(|view| views.push(view)),
                8 => dio.value_scenery().sum("n").open().map(drop),
                9 => dio.table_scenery().where_eq("n", 1).open_now().and_then(|view| {
                    view.set_search(Some("r1"))?;
                    view.wait_until_ready(Some(SOON))
                }),
                10 => {
                    dio.invalidate_record(id);
                    Ok(())
                }
                _ if next(6) == 0 => dio.close(Duration::from_millis(next(3))).map(drop),
                _ => {
                    dio.invalidate_all();
                    Ok(())
                }
            };
            if let Err(error) = done {
                closed_or(&[], error);
            }
            for view in &views {
                assert!(view.snapshot().iter().all(|row| matches!(
                    row.status(),
                    RowStatus::Fresh
                        | RowStatus::Stale
                        | RowStatus::PendingWrite
                        | RowStatus::Expired
                        | RowStatus::Closed
                )));
            }
        }
    }
}

#[test]
fn no_thread_is_alive_after_a_closing_though_its_dio_was_dropped_before() {
    for round in 0..50 {
        let name = format!("gone-{round}");
        let lens = Lens::new().in_memory().drop_timeout(Duration::ZERO).build().unwrap();
        let source = MemoryVista::new(name.as_str(), "id");
        drop(lens.make_dio(source).unwrap());
        assert!(lens.close(SOON).unwrap().is_closed());
        let alive: Vec<String> = crate::live_threads().into_iter().filter(|thread| thread.starts_with(&name)).collect();
        assert!(alive.is_empty(), "{alive:?}");
    }
}

#[test]
fn a_crowd_that_makes_uses_and_closes_dios_leaves_nothing_behind() {
    let source = MemoryVista::new("t", "id")
        .with_rows((0..20).map(|n| (format!("r{n}"), record! { "id" => format!("r{n}"), "n" => n })));
    let lens = Lens::new().in_memory().snapshot_budget(2_000).drop_timeout(Duration::ZERO).build().unwrap();
    let threads: Vec<_> = (1..=4)
        .map(|seed| {
            let (lens, source) = (lens.clone(), source.clone());
            move || one_of_a_crowd(&lens, &source, seed * 0x9E37_79B9)
        })
        .map(std::thread::spawn)
        .collect();
    in_time(move || threads.into_iter().for_each(|thread| thread.join().unwrap()));
    let dio = lens.make_dio(source.clone()).unwrap();
    dio.refresh().unwrap();
    let count = dio.value_scenery().count().open().unwrap();
    assert_eq!(count.int(), Some(source.row_count() as i64));
    drop(count);
    // The counters are those of the messages before the last one.
    for n in 0..2 {
        dio.cache().insert("r1", record! { "id" => "r1", "n" => n }).unwrap();
        dio.flush().unwrap();
    }
    let status = dio.status();
    assert_eq!((status.views, status.indexes, status.snapshots), (0, 0, 0), "{status:?}");
    assert_eq!((status.rows_in_memory, status.snapshot_bytes), (0, 0), "{status:?}");
    assert!(lens.close(SOON).unwrap().is_closed());
}
