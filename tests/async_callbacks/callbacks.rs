//! Callbacks: async ones run where the blocking ones do, by the same rules.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{AsyncDio, AsyncLens, ConflictPolicy, Resolution};
use tokio::sync::watch;

use crate::support::*;

#[test]
fn each_async_callback_runs_in_the_place_of_the_blocking_one() {
    in_time(|| {
        let source = products();
        let lens = Lens::new()
            .in_memory()
            .conflicts(ConflictPolicy::SourceWins)
            .on_start_async(async |dio| {
                pause().await;
                dio.cache().insert("a", price(1)).await
            })
            .on_refresh_async(async |dio| {
                let rows = dio.master().list_values().await?;
                pause().await;
                dio.cache().clear().await?;
                dio.cache().insert_many(rows).await
            })
            .on_write_async(async |dio, request| {
                pause().await;
                assert!(!request.key().is_empty());
                Dio::master(dio).write(request.cx(), request)
            })
            .on_conflict_async(async |_dio, met| {
                pause().await;
                assert!(met.current.is_some_and(|row| row.int("price") == Some(99)));
                Ok(Resolution::Write(WriteOp::patch(met.op.id().unwrap(), price(55))))
            })
            .on_event_async(async |dio, event| {
                pause().await;
                match event {
                    ChangeEvent::Deleted { id } => dio.cache().remove(id).await,
                    event => Err(Error::new(ErrorKind::Unsupported, format!("{event:?}"))),
                }
            })
            .build()
            .unwrap();
        let callbacks = lens.callbacks();
        assert!(callbacks.has_on_start() && callbacks.has_on_refresh() && callbacks.has_on_write());
        assert!(callbacks.has_on_conflict() && callbacks.has_on_event());
        let dio = lens.make_dio(source.clone()).unwrap();
        assert_eq!(cached(&dio), ["a=1"]);
        dio.refresh().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        write(&dio, WriteOp::patch("b", price(11))).unwrap();
        assert_eq!(source.row("b").unwrap().int("price"), Some(11));
        source.outside_silently().patch("b", price(99)).unwrap();
        write(&dio, WriteOp::patch("b", price(12))).unwrap();
        assert_eq!(source.row("b").unwrap().int("price"), Some(55));
        dio.handle_event(ChangeEvent::Deleted { id: "c".into() }).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=55"]);
        assert_eq!(dio.handle_event(ChangeEvent::Invalidated).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(lens.close(SOON).unwrap().is_closed());
    });
}

#[test]
fn what_an_async_callback_awaits_through_its_dio_is_one_batch_that_reads_there_see() {
    in_time(|| {
        let (seen, sees) = unbounded();
        let lens = Lens::new()
            .in_memory()
            .on_start_async(async |dio| {
                dio.cache().insert_many(vec![("a".into(), price(1)), ("b".into(), price(2))]).await
            })
            .on_refresh_async(async move |dio| {
                dio.cache().clear().await?;
                pause().await;
                dio.cache().insert("b", price(20)).await?;
                dio.patched("c", price(30)).await?;
                pause().await;
                dio.cache().insert("d", price(40)).await?;
                dio.cache().remove("d").await?;
                let view = dio.cache();
                let inside =
                    (view.count().await?, view.get("a").await?, view.get("c").await?, view.list().await?.len());
                let _ = seen.send(inside);
                Ok(())
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let before = (view.generation(), view.snapshot());
        dio.refresh().unwrap();
        assert_eq!(sees.recv_timeout(SOON).unwrap(), (2, None, Some(price(30)), 2));
        assert_eq!(cached(&dio), ["b=20", "c=30"]);
        assert_eq!(view.generation(), before.0.next(), "one step");
        assert_eq!(before.1.row_count(), 2);
    });
}

#[test]
fn an_async_callback_that_fails_or_panics_drops_its_batch_and_the_worker_lives() {
    in_time(|| {
        let (turn, turns) = unbounded();
        let lens = Lens::new()
            .in_memory()
            .on_start_async(async |dio| dio.cache().insert("a", price(1)).await)
            .on_refresh_async(async move |dio| {
                dio.cache().clear().await?;
                dio.cache().insert("x", price(9)).await?;
                pause().await;
                match turns.recv_timeout(SOON) {
                    Ok("fails") => Err(Error::new(ErrorKind::Unavailable, "line cut")),
                    Ok("panics") => panic!("on purpose"),
                    _ => Ok(()),
                }
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        turn.send("fails").unwrap();
        assert_eq!(dio.refresh().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(cached(&dio), ["a=1"]);
        turn.send("panics").unwrap();
        let error = dio.refresh().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert_eq!(error.message(), "on_refresh panicked: on purpose");
        assert_eq!(cached(&dio), ["a=1"]);
        turn.send("works").unwrap();
        dio.refresh().unwrap();
        assert_eq!(cached(&dio), ["x=9"]);
    });
}

#[test]
fn a_callback_whose_future_is_never_ready_ends_with_what_it_waits_for() {
    in_time(|| {
        let (go, gate) = watch::channel(false);
        let (inside, is_inside) = bounded(1);
        let lens = Lens::new()
            .in_memory()
            .on_write_async(async move |_dio, request| {
                let _ = inside.send(());
                let _ = gate.clone().wait_for(|is_open| *is_open).await;
                Ok(Written::id(request.id().unwrap_or_default()))
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        let ticket = dio.write(WriteOp::patch("a", price(31))).unwrap();
        is_inside.recv_timeout(SOON).unwrap();
        assert!(!ticket.state().has_ended());
        go.send_replace(true);
        ticket.wait(SOON).unwrap();
    });
}

/// What each wait of a callback came to.
type Waits = Vec<(&'static str, std::result::Result<(), ErrorKind>)>;

fn kind(error: Error) -> ErrorKind {
    error.kind()
}

/// Awaits whatever could be waiting for the callback itself.
async fn wait_for_everything(dio: &AsyncDio, lens: &OnceLock<Lens>) -> Waits {
    let view = dio.table_scenery().open_now().await.unwrap();
    let record = dio.record_scenery("a").await.unwrap();
    let beyond = Generation(u64::MAX);
    let mut waits = vec![
        ("close", dio.close(SOON).await.map(drop).map_err(kind)),
        ("wait_for_seq", dio.wait_for_seq(Seq(u64::MAX)).await.map(drop).map_err(kind)),
        ("table", view.wait_for_generation(beyond).await.map(drop).map_err(kind)),
        ("record", record.wait_for_change(Generation(1 << 60)).await.map(drop).map_err(kind)),
    ];
    match dio.write(WriteOp::patch("a", price(77))).await {
        Ok(ticket) => {
            waits.push(("ticket", ticket.wait().await.map(drop).map_err(kind)));
            waits.push(("all writes", dio.wait_for_writes().await.map_err(kind)));
            waits.push(("facade", dio.vista().delete("nobody").await.map_err(kind)));
        }
        Err(error) => waits.push(("write", Err(error.kind()))),
    }
    if let Some(lens) = lens.get() {
        waits.push(("lens close", AsyncLens::from(lens.clone()).close(SOON).await.map(drop).map_err(kind)));
    }
    waits
}

#[test]
fn a_callback_that_awaits_its_own_dio_would_deadlock_and_says_so() {
    in_time(|| {
        let (answer, answers) = unbounded();
        let known = Arc::new(OnceLock::new());
        let asked = Arc::new(AtomicBool::new(false));
        let (in_write, in_refresh, in_event) = (known.clone(), known.clone(), answer.clone());
        let written = answer.clone();
        // Nothing but b is settled before everything was waited for.
        let (go, gate) = watch::channel(false);
        let lens = Lens::new()
            .in_memory()
            .on_refresh_async(async move |dio| {
                let mut waits = wait_for_everything(dio, &in_refresh).await;
                waits.push(("refresh", dio.refresh().await.map_err(kind)));
                let _ = answer.send(("refresh", waits));
                Ok(())
            })
            .on_start_async(async |_dio| Ok(()))
            .on_write_async(async move |dio, request| {
                if request.id() == Some("b") && !asked.swap(true, Ordering::SeqCst) {
                    let waits = wait_for_everything(dio, &in_write).await;
                    let _ = written.send(("write", waits));
                } else {
                    let _ = gate.clone().wait_for(|is_open| *is_open).await;
                }
                Ok(Written::id(request.id().unwrap_or_default()))
            })
            .on_event_async(async move |dio, _event| {
                // Here nothing is waited for by the Dio, so everything is allowed.
                let ticket = dio.write(WriteOp::patch("c", price(5))).await?;
                let waits = vec![("ticket", ticket.wait().await.map(drop).map_err(kind))];
                let _ = in_event.send(("event", waits));
                Ok(())
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        known.set(lens.clone()).unwrap();
        let check = |during: &str, at_least: usize| {
            let (in_callback, waits) = answers.recv_timeout(SOON).unwrap();
            assert_eq!(in_callback, during);
            assert!(waits.len() >= at_least, "{waits:?}");
            for (wait, answer) in &waits {
                assert_eq!(*answer, Err(ErrorKind::WouldDeadlock), "{wait} in {during}; all: {waits:?}");
            }
        };
        dio.refresh().unwrap();
        check("refresh", 6);
        // It stands behind those of the refresh, which go on without having been waited for.
        let ticket = dio.write(WriteOp::patch("b", price(1))).unwrap();
        go.send_replace(true);
        ticket.wait(SOON).unwrap();
        check("write", 6);
        dio.wait_for_writes(SOON).unwrap();
        dio.handle_event(ChangeEvent::Invalidated).unwrap();
        assert_eq!(answers.recv_timeout(SOON).unwrap(), ("event", vec![("ticket", Ok(()))]));
    });
}

#[test]
fn a_callback_leaves_the_drop_of_the_apps_last_handle_as_it_was() {
    in_time(|| {
        let source = products();
        let lens = Lens::new()
            .in_memory()
            .drop_timeout(SOON)
            .on_refresh_async(async |dio| {
                drop(dio.clone());
                dio.cache().insert("a", price(30)).await
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let held = source.hold(Call::Patch);
        dio.write(WriteOp::patch("a", price(31))).unwrap();
        assert!(source.wait_until_called(Call::Patch, 1, SOON));
        let (dropped, is_dropped) = bounded(1);
        std::thread::scope(|threads| {
            threads.spawn(move || {
                drop(dio);
                dropped.send(()).unwrap();
            });
            for _ in 0..20_000 {
                std::thread::yield_now();
                assert!(is_dropped.is_empty(), "the drop doesn't wait for the write");
            }
            drop(held);
            is_dropped.recv_timeout(SOON).unwrap();
        });
        assert_eq!(source.row("a").unwrap().int("price"), Some(31));
    });
}

#[test]
fn a_handle_that_a_callback_keeps_works_after_it() {
    in_time(|| {
        let kept: Arc<OnceLock<AsyncDio>> = Arc::default();
        let keeps = kept.clone();
        let lens = Lens::new()
            .in_memory()
            .on_refresh_async(async move |dio| {
                let _ = keeps.set(dio.clone());
                dio.cache().insert("a", price(1)).await
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        let kept = kept.get().unwrap().clone();
        pollster::block_on(kept.cache().insert("b", price(2))).unwrap();
        assert_eq!(cached(&dio), ["a=1", "b=2"]);
        pollster::block_on(kept.close(SOON)).unwrap();
        assert_eq!(pollster::block_on(kept.refresh()).unwrap_err().kind(), ErrorKind::Closed);
    });
}

struct SaysWhenDropped(Sender<&'static str>, &'static str);

impl Drop for SaysWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

#[test]
fn closing_ends_an_async_callback_where_it_awaits() {
    in_time(|| {
        let ((inside, is_inside), (dropped, drops)) = (bounded(4), unbounded());
        let stand = move |what: &'static str| {
            let says = SaysWhenDropped(dropped.clone(), what);
            let _ = inside.send(());
            async move {
                let _says = says;
                std::future::pending::<()>().await;
            }
        };
        let (refreshes, writes, events) = (stand.clone(), stand.clone(), stand);
        let lens = Lens::new()
            .in_memory()
            .on_start_async(async |dio| dio.cache().insert("a", price(30)).await)
            .on_refresh_async(async move |_dio| {
                refreshes("refresh").await;
                Ok(())
            })
            .on_write_async(async move |_dio, _request| {
                writes("write").await;
                Ok(Written::default())
            })
            .on_event_async(async move |dio, _event| {
                // What it waits for of its Dio ends no later.
                let waits = dio.wait_for_seq(Seq(u64::MAX));
                let (_, waited) = tokio::join!(events("event"), waits);
                waited.map(drop)
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        std::thread::scope(|threads| {
            let refresh = threads.spawn(|| dio.refresh());
            let event = threads.spawn(|| dio.handle_event(ChangeEvent::Invalidated));
            let ticket = dio.write(WriteOp::patch("a", price(31))).unwrap();
            for _ in 0..3 {
                is_inside.recv_timeout(SOON).unwrap();
            }
            let report = lens.close(Duration::from_secs(1)).unwrap();
            assert!(report.is_closed(), "{report:?}");
            assert_eq!(refresh.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(event.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(ticket.wait(SOON).unwrap_err().kind(), ErrorKind::Closed);
        });
        let mut drops: Vec<_> = drops.try_iter().collect();
        drops.sort_unstable();
        assert_eq!(drops, ["event", "refresh", "write"]);
    });
}

#[test]
fn an_async_query_brings_its_rows_once_and_a_dropped_opener_leaves_it_going_for_the_others() {
    in_time(|| {
        let (held, calls) = (watch::Sender::new(true), Arc::new(AtomicUsize::new(0)));
        let (waits, counts) = (held.clone(), calls.clone());
        let lens = Lens::new()
            .in_memory()
            .on_query_async(async move |dio, query| {
                counts.fetch_add(1, Ordering::SeqCst);
                let rows = dio.master().list_query(query.clone()).await?;
                let _ = waits.subscribe().wait_for(|is_held| !is_held).await;
                dio.cache().replace_matching(query.clone(), rows).await
            })
            .build()
            .unwrap();
        assert!(lens.callbacks().has_on_query());
        let dio = AsyncDio::from(lens.make_dio(products()).unwrap());
        let cheap = || dio.table_scenery().condition(Condition::le("price", 20));
        pollster::block_on(async {
            let mut dropped = Box::pin(cheap().open());
            let mut kept = Box::pin(cheap().sort("price", SortDir::Asc).open());
            let mut counted = Box::pin(dio.value_scenery().count().condition(Condition::le("price", 20)).open());
            until_views(&dio, 3, || {
                assert!(is_pending(&mut dropped) && is_pending(&mut kept) && is_pending(&mut counted));
            })
            .await;
            drop(dropped);
            held.send_replace(false);
            let view = kept.await.unwrap();
            let ids: Vec<String> = view.snapshot().iter().map(|row| row.id().to_owned()).collect();
            assert_eq!(ids, ["b", "c"]);
            assert_eq!(counted.await.unwrap().int(), Some(2));
            assert_eq!(calls.load(Ordering::SeqCst), 1);
            assert_eq!(dio.vista().list_values().await.unwrap().len(), 3);
            assert_eq!(calls.load(Ordering::SeqCst), 2);
            dio.refresh().await.unwrap();
            assert_eq!(calls.load(Ordering::SeqCst), 3, "what is open, once");
        });
        assert!(lens.close(SOON).unwrap().is_closed());
    });
}

/// Whether a future is not ready yet, asked by a waker that nobody listens to.
fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::Pin::new(future).poll(&mut cx).is_pending()
}

/// Asks again and again until so many views are open.
async fn until_views(dio: &AsyncDio, views: usize, mut ask: impl FnMut()) {
    while dio.status().views < views {
        ask();
        pause().await;
    }
}

#[test]
fn closing_ends_an_async_query_where_it_awaits() {
    in_time(|| {
        let (inside, is_inside) = bounded(1);
        let (dropped, drops) = unbounded();
        let lens = Lens::new()
            .in_memory()
            .on_query_async(async move |_dio, _query| {
                let _says = SaysWhenDropped(dropped.clone(), "query");
                let _ = inside.send(());
                std::future::pending::<()>().await;
                Ok(())
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        std::thread::scope(|threads| {
            let opens = threads.spawn(|| dio.table_scenery().open().map(drop));
            is_inside.recv_timeout(SOON).unwrap();
            assert!(lens.close(Duration::from_secs(1)).unwrap().is_closed());
            assert_eq!(opens.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        });
        assert_eq!(drops.try_iter().collect::<Vec<_>>(), ["query"]);
    });
}
