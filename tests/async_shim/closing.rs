//! L, C, F, Q: Lenses and Dios made, brought up to date and closed by futures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::executors::*;
use crate::source::{Point, ScriptedSource, Trouble};
use crate::support::*;

async fn l1_settings_that_cannot_be_are_refused_as_ever() {
    let settings = || Lens::new().in_memory().write_queue_capacity(0);
    let error = diorama::AsyncLens::build(settings()).await.unwrap_err();
    assert_eq!(error.to_string(), settings().build().unwrap_err().to_string());
}

async fn l3_make_dio_waits_for_a_slow_first_copy_and_reports_a_failing_one() {
    let source = ScriptedSource::new(products("l3"));
    let lens = lens(Lens::new().in_memory()).await;
    let held = source.hold(Call::List, Point::BeforeWork);
    let mut first = begin(lens.make_dio(source.clone())).await;
    held.wait_until_held(1);
    let mut second = begin(lens.make_dio(source.clone())).await;
    for _ in 0..20 {
        yield_now().await;
        assert!(first.is_waiting().await && second.is_waiting().await);
    }
    drop(held);
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.cache().count().await.unwrap(), 3);
    first.patched("d", product("Drum", 1)).await.unwrap();
    assert_eq!(second.cache().count().await.unwrap(), 4, "L5: the same Dio");
    assert_eq!(source.calls(Call::List), 1);

    let source = ScriptedSource::new(products("l3-fails"));
    source.next(Call::List, Trouble::Fails(cut()));
    assert_eq!(lens.make_dio(source.clone()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let source = MemoryVista::new("l3-log", "id").with_schema(diorama::vista::Schema::without_id());
    let plain: &Lens = &lens;
    assert_eq!(
        lens.make_dio(source.clone()).await.unwrap_err().to_string(),
        plain.make_dio(source).unwrap_err().to_string()
    );
}

async fn l3_without_waiting_the_views_fill_behind() {
    let source = ScriptedSource::new(products("l3-behind"));
    let lens = lens(Lens::new().in_memory().on_start_blocking(false)).await;
    let held = source.hold(Call::List, Point::BeforeWork);
    let dio = lens.make_dio(source.clone()).await.unwrap();
    let view = dio.table_scenery().open_now().await.unwrap();
    let seen = view.generation();
    assert!(matches!(view.snapshot().load_state(), LoadState::Loading));
    drop(held);
    dio.refresh().await.unwrap();
    if view.row_count() < 3 {
        view.wait_for_change(seen).await.unwrap();
    }
    assert_eq!(view.row_count(), 3);
}

async fn f2_several_futures_join_one_refresh() {
    let source = ScriptedSource::new(products("f2"));
    let dio = lens(Lens::new().in_memory()).await.make_dio(source.clone()).await.unwrap();
    let calls = source.calls(Call::List);
    let held = source.hold(Call::List, Point::BeforeWork);
    let mut refreshes = Vec::new();
    for _ in 0..5 {
        refreshes.push(begin(dio.refresh()).await);
    }
    held.wait_until_held(1);
    for refresh in &mut refreshes {
        assert!(refresh.is_waiting().await);
    }
    // One that is dropped takes nothing from the others.
    drop(refreshes.pop());
    drop(held);
    for refresh in refreshes {
        refresh.await.unwrap();
    }
    assert_eq!(source.calls(Call::List), calls + 1);
    source.next(Call::List, Trouble::Fails(cut()));
    assert_eq!(dio.refresh().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(dio.cache().count().await.unwrap(), 3);
}

async fn f3_rows_come_in_by_every_way() {
    let heard = Arc::new(AtomicUsize::new(0));
    let by_callback = heard.clone();
    let settings = Lens::new().in_memory().on_event(move |dio, event| {
        by_callback.fetch_add(1, Ordering::SeqCst);
        match event {
            ChangeEvent::Invalidated => Err(Error::new(ErrorKind::Invalid, "not this one")),
            _ => dio.patched("heard", product("Heard", 1)),
        }
    });
    let dio = lens(settings).await.make_dio(products("f3")).await.unwrap();
    let view = dio.table_scenery().sort("price", SortDir::Asc).open().await.unwrap();
    let began = dio.seq();
    dio.reconcile(vec![("x".to_owned(), product("X", 1)), ("a".to_owned(), product("Anvil", 30))]).await.unwrap();
    assert_eq!(prices(&view.snapshot()), ["x=1", "a=30"]);
    let twice = vec![("x".to_owned(), product("X", 1)), ("x".to_owned(), product("X", 2))];
    assert_eq!(dio.reconcile(twice).await.unwrap_err().kind(), ErrorKind::Invalid);
    dio.reconcile_as_of(began, vec![("x".to_owned(), product("X", 9))]).await.unwrap();
    assert_eq!(prices(&view.snapshot()), ["x=1"], "what was changed since stays as it is");
    dio.handle_event(ChangeEvent::Deleted { id: "a".into() }).await.unwrap();
    assert_eq!((heard.load(Ordering::SeqCst), view.row_count()), (1, 2));
    assert_eq!(dio.handle_event(ChangeEvent::Invalidated).await.unwrap_err().message(), "not this one");
    dio.patched("", product("", 1)).await.unwrap_err();
}

async fn c1_the_cache_is_read_and_changed_directly() {
    let dio = lens(Lens::new().in_memory()).await.make_dio(products("c1")).await.unwrap();
    let cache = dio.cache();
    cache.insert("d", product("Drum", 4)).await.unwrap();
    assert_eq!(cache.get("d").await.unwrap().unwrap().int("price"), Some(4));
    cache.insert_many(vec![("e".to_owned(), product("E", 5)), ("f".to_owned(), product("F", 6))]).await.unwrap();
    cache.remove("a").await.unwrap();
    assert_eq!((cache.count().await.unwrap(), cache.list().await.unwrap().len()), (5, 5));
    assert!(cache.is_complete());
    cache.clear().await.unwrap();
    assert_eq!((cache.count().await.unwrap(), cache.get("d").await.unwrap()), (0, None));
    assert_eq!(cache.insert("", product("", 1)).await.unwrap_err().kind(), ErrorKind::Invalid);
    dio.flush().await.unwrap();
}

async fn q1_closing_ends_the_threads_and_says_what_became_of_the_writes() {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    let table = format!("q1-{}", RUN.fetch_add(1, Ordering::SeqCst));
    let source = ScriptedSource::new(products(&table));
    let lens = lens(Lens::new().in_memory()).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    dio.write(WriteOp::upsert("d", product("Drum", 1))).await.unwrap().wait().await.unwrap();
    dio.master().get_count().await.unwrap();
    assert!(!threads_of(&table).is_empty());
    // No time that is too long: for ever is waited for, too.
    let report = lens.close(Duration::MAX).await.unwrap();
    assert!(report.is_closed(), "{report:?}");
    assert_eq!(report.delivered, 1);
    assert_eq!(threads_of(&table), Vec::<String>::new());
    assert_eq!(threads_of(&format!("{}:", lens.name())), Vec::<String>::new());
    assert_eq!(lens.make_dio(products("late")).await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(lens.close(SOON).await.unwrap().is_closed(), "once more");
}

on_every_executor!(
    l1_settings_that_cannot_be_are_refused_as_ever,
    l3_make_dio_waits_for_a_slow_first_copy_and_reports_a_failing_one,
    l3_without_waiting_the_views_fill_behind,
    f2_several_futures_join_one_refresh,
    f3_rows_come_in_by_every_way,
    c1_the_cache_is_read_and_changed_directly,
    q1_closing_ends_the_threads_and_says_what_became_of_the_writes,
);

#[cfg(feature = "lmdb")]
mod on_disk {
    use super::*;

    async fn w9_writes_that_closing_keeps_are_delivered_by_the_next_run() {
        let source = ScriptedSource::new(products("w9-kept"));
        let cache = Cache::disk();
        let first = lens(cache.lens()).await;
        let dio = first.make_dio(source.clone()).await.unwrap();
        source.always(Call::Patch, Trouble::Fails(cut()));
        let ticket = dio.write(WriteOp::patch("a", record! { "price" => 31 })).await.unwrap();
        ticket.wait_durable().await.unwrap();
        let waiting = begin(ticket.wait()).await;
        let report = first.close(SOON).await.unwrap();
        assert_eq!((report.kept, report.delivered, report.still_running), (1, 0, Vec::new()));
        waiting.await.unwrap_err();

        let held = source.hold(Call::Patch, Point::BeforeWork);
        source.heal();
        let second = lens(cache.lens()).await;
        let dio = second.make_dio(source.clone()).await.unwrap();
        let view = dio.table_scenery().open().await.unwrap();
        assert_eq!(prices(&view.snapshot())[0], "a=31", "pending, and shown");
        let pending = dio.pending_writes();
        assert_eq!(pending.len(), 1);
        let mut settled = begin(dio.wait_for_writes()).await;
        held.wait_until_held(1);
        assert!(settled.is_waiting().await);
        drop(held);
        settled.await.unwrap();
        assert_eq!(prices(&view.snapshot())[0], "a=31");
        assert!(second.close(SOON).await.unwrap().is_closed());
    }

    async fn l8_what_is_forgotten_is_gone() {
        let cache = Cache::disk();
        let source = ScriptedSource::new(products("l8"));
        let first = lens(cache.lens()).await;
        let dio = first.make_dio(source.clone()).await.unwrap();
        assert_eq!(first.forget("l8").await.unwrap_err().kind(), ErrorKind::Conflict, "it is open");
        dio.flush().await.unwrap();
        dio.close(SOON).await.unwrap();
        drop(dio);
        first.forget("l8").await.unwrap();
        let calls = source.calls(Call::List);
        let dio = first.make_dio(source.clone()).await.unwrap();
        assert_eq!((source.calls(Call::List), dio.cache().count().await.unwrap()), (calls + 1, 3));
        first.close(SOON).await.unwrap();
    }

    on_every_executor!(w9_writes_that_closing_keeps_are_delivered_by_the_next_run, l8_what_is_forgotten_is_gone);
}
