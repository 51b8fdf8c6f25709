//! A2, A3, A4, Q2, Q3, W7: what async programs get wrong works, or ends in a clear error; it never hangs.

use std::sync::Arc;
use std::time::Duration;

use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{AsyncDio, AsyncLens};
use parking_lot::Mutex;

use crate::executors::*;
use crate::limit::limited;
use crate::source::{Point, ScriptedSource};
use crate::support::*;

async fn dio(table: &str) -> AsyncDio {
    lens(Lens::new().in_memory()).await.make_dio(products(table)).await.unwrap()
}

fn patch(price: i64) -> WriteOp {
    WriteOp::patch("a", record! { "price" => price })
}

async fn q2_every_call_of_a_closed_dio_says_so() {
    let dio = dio("q2-closed").await;
    let view = dio.table_scenery().open().await.unwrap();
    let sum = dio.value_scenery().sum("price").open().await.unwrap();
    let cache = dio.cache();
    // Made before the closing and polled after it.
    let write = dio.write(patch(1));
    let refresh = dio.refresh();
    let change = view.wait_for_change(view.generation());
    dio.close(SOON).await.unwrap();
    let errors = [
        write.await.map(drop).unwrap_err(),
        refresh.await.unwrap_err(),
        change.await.map(drop).unwrap_err(),
        dio.try_write(patch(1)).await.map(drop).unwrap_err().error,
        dio.write_batch(vec![patch(1)]).await.map(drop).unwrap_err(),
        dio.reconcile(Vec::new()).await.unwrap_err(),
        dio.patched("a", product("Anvil", 1)).await.unwrap_err(),
        dio.handle_event(ChangeEvent::Deleted { id: "a".into() }).await.unwrap_err(),
        cache.insert("a", product("Anvil", 1)).await.unwrap_err(),
        cache.clear().await.unwrap_err(),
        dio.table_scenery().open().await.map(drop).unwrap_err(),
        dio.value_scenery().count().open().await.map(drop).unwrap_err(),
        dio.record_scenery("a").await.map(drop).unwrap_err(),
        dio.wait_for_seq(Seq(u64::MAX)).await.map(drop).unwrap_err(),
        sum.wait_for_seq(Seq(u64::MAX)).await.map(drop).unwrap_err(),
        dio.vista().patch_value("a", product("Anvil", 1)).await.map(drop).unwrap_err(),
    ];
    for (number, error) in errors.iter().enumerate() {
        assert_eq!(error.kind(), ErrorKind::Closed, "{number}: {error}");
    }
    dio.wait_for_writes().await.unwrap();
    view.wait_until_ready().await.unwrap();
    assert!(dio.close(SOON).await.unwrap().is_closed());
    let lens = dio.lens();
    lens.close(SOON).await.unwrap();
    assert_eq!(dio.write(patch(1)).await.unwrap_err().kind(), ErrorKind::Closed, "also without the Lens's threads");
    assert_eq!(dio.master().get_count().await.unwrap_err().kind(), ErrorKind::Closed);
}

async fn a_blocking_call_on_an_executors_thread_works() {
    let dio = dio("blocking").await;
    let view = dio.table_scenery().open().await.unwrap();
    let mut waiting = begin(view.wait_for_change(view.generation())).await;
    let plain: &Dio = &dio;
    plain.refresh().unwrap();
    assert!(waiting.is_waiting().await);
    let ticket = plain.write(patch(31)).unwrap();
    ticket.wait(SOON).unwrap();
    plain.wait_for_writes(SOON).unwrap();
    plain.flush().unwrap();
    let blocking: &TableScenery = &view;
    blocking.wait_for_change(Generation(0), Some(SOON)).unwrap();
    waiting.await.unwrap();
    let closing: Dio = plain.clone();
    closing.close(SOON).unwrap();
}

/// What the callbacks of a Lens were told, each once.
type Told = Arc<Mutex<Vec<(&'static str, ErrorKind)>>>;

fn tell(told: &Told, what: &'static str, error: Error) {
    told.lock().push((what, error.kind()));
}

async fn w7_a_wait_in_a_callback_that_would_never_end_is_refused() {
    let told = Told::default();
    let (by_refresh, by_write) = (told.clone(), told.clone());
    let settings = Lens::new()
        .in_memory()
        .on_refresh(move |dio| {
            let dio = AsyncDio::from(dio.clone());
            pollster::block_on(async {
                tell(&by_refresh, "refresh", dio.refresh().await.unwrap_err());
                tell(&by_refresh, "close", dio.close(SOON).await.map(drop).unwrap_err());
                tell(&by_refresh, "close lens", dio.lens().close(SOON).await.map(drop).unwrap_err());
                let ticket = dio.write(WriteOp::upsert("by refresh", product("R", 1))).await?;
                tell(&by_refresh, "settlement", ticket.wait().await.map(drop).unwrap_err());
                tell(&by_refresh, "writes", dio.wait_for_writes().await.unwrap_err());
                // What may be waited for there is: part of the callback's batch.
                dio.patched("by hand", product("H", 1)).await?;
                dio.cache().count().await?;
                Ok(())
            })
        })
        .on_write(move |dio, op| {
            let dio = AsyncDio::from(dio.clone());
            pollster::block_on(async {
                tell(&by_write, "writes of a write", dio.wait_for_writes().await.unwrap_err());
                tell(&by_write, "close of a write", dio.close(SOON).await.map(drop).unwrap_err());
                dio.master().write((**op).clone()).await
            })
        });
    let lens = lens(settings).await;
    let source = ScriptedSource::new(products("w7"));
    let held = source.hold(Call::Upsert, Point::BeforeWork);
    let dio = lens.make_dio(source.clone()).await.unwrap();
    dio.refresh().await.unwrap();
    drop(held);
    dio.wait_for_writes().await.unwrap();
    assert_eq!(dio.cache().get("by hand").await.unwrap().unwrap().int("price"), Some(1));
    let told = told.lock();
    let what: Vec<&str> = told.iter().map(|(what, _)| *what).collect();
    for expected in ["refresh", "close", "close lens", "settlement", "writes", "writes of a write", "close of a write"]
    {
        assert!(what.contains(&expected), "{expected}: {what:?}");
    }
    assert!(told.iter().all(|(_, kind)| *kind == ErrorKind::WouldDeadlock), "{told:?}");
}

/// Its last handle is dropped on the executor's only thread, which does not wait for the source.
async fn q3_the_last_handle_dropped_on_an_executors_thread_does_not_hold_it_up() {
    let rows = products("q3");
    let source = ScriptedSource::new(rows.clone());
    let lens = lens(Lens::new().in_memory().drop_timeout(Duration::from_secs(100))).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    let view = dio.table_scenery().open().await.unwrap();
    let mut generations = view.generations();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    let ticket = dio.write(patch(31)).await.unwrap();
    held.wait_until_held(1);
    let clock = Clock::system();
    let begun = clock.now();
    drop((dio, lens));
    assert!(clock.now().since(begun) < Duration::from_secs(50), "it waits for the source");
    let mut waiting = begin(ticket.wait()).await;
    assert!(waiting.is_waiting().await);
    drop(held);
    // Delivered all the same, within the time that the Lens gives it.
    waiting.await.unwrap();
    while next(&mut generations).await.is_some() {}
    assert_eq!(rows.row("a").unwrap().int("price"), Some(31));
}

on_every_executor!(
    q2_every_call_of_a_closed_dio_says_so,
    a_blocking_call_on_an_executors_thread_works,
    w7_a_wait_in_a_callback_that_would_never_end_is_refused,
    q3_the_last_handle_dropped_on_an_executors_thread_does_not_hold_it_up,
);

const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn select_with_timeouts_in_a_loop_loses_nothing() {
    limited(LIMIT, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let dio = dio("select").await;
            let view = dio.table_scenery().where_eq("name", "Bell").open().await.unwrap();
            let mut events = dio.subscribe_events();
            let changer: Dio = (*dio).clone();
            let changes = start("changes", move || {
                for price in 1_000..1_300 {
                    changer.patched("b", product("Bell", price)).unwrap();
                }
            });
            let (mut seen, mut heard) = (Generation(0), 0);
            while heard < 300 || view.snapshot().row(0).unwrap().int("price") != Some(1_299) {
                // Whatever loses the race is dropped, and begun anew in the next turn.
                tokio::select! {
                    generation = view.wait_for_change(seen) => seen = generation.unwrap(),
                    event = next(&mut events) => {
                        event.unwrap().unwrap();
                        heard += 1;
                    }
                    () = tokio::time::sleep(Duration::from_micros(100)) => {}
                    () = tokio::task::yield_now() => {}
                }
            }
            changes.end();
            let held = tokio::time::timeout(Duration::from_millis(2), dio.wait_for_seq(dio.seq().next())).await;
            assert!(held.is_err(), "the executor's own timeout");
            dio.close(SOON).await.unwrap();
        });
    });
}

#[test]
fn an_executors_thread_goes_on_while_a_thousand_calls_and_a_source_stand_still() {
    limited(LIMIT, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let source = ScriptedSource::new(products("a2"));
            let lens: AsyncLens = lens(Lens::new().in_memory()).await;
            let dio = lens.make_dio(source.clone()).await.unwrap();
            let view = dio.table_scenery().open().await.unwrap();
            let lists = source.hold(Call::List, Point::BeforeWork);
            let patches = source.hold(Call::Patch, Point::BeforeWork);
            let mut calls = tokio::task::JoinSet::new();
            for number in 0..250 {
                let (dio, view) = (dio.clone(), view.clone());
                let (refreshing, counting, writing) = (dio.clone(), dio.clone(), dio.clone());
                let seen = Generation(u64::MAX - number);
                calls.spawn(async move { view.wait_for_generation(seen).await.map(drop) });
                calls.spawn(async move { refreshing.refresh().await });
                calls.spawn(async move { counting.master().list_values().await.map(drop) });
                calls.spawn(async move { writing.write(patch(number as i64)).await?.wait().await.map(drop) });
            }
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            // The source lets go of its calls only after these ticks: a thread that waited for it would never get there.
            for _ in 0..100 {
                tick.tick().await;
            }
            lists.wait_until_held(4);
            patches.wait_until_held(1);
            assert_eq!(calls.len(), 1_000);
            drop((lists, patches));
            dio.wait_for_writes().await.unwrap();
            dio.close(SOON).await.unwrap();
            while let Some(ended) = calls.join_next().await {
                if let Err(error) = ended.unwrap() {
                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                }
            }
        });
    });
}
