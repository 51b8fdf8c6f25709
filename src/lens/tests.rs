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
