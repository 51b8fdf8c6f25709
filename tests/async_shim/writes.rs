//! W: writes, made and awaited by futures.

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::Capabilities;
use diorama::{AsyncDio, AsyncLens, WriteState};

use crate::executors::*;
use crate::source::{Point, ScriptedSource, Trouble};
use crate::support::*;

fn price(id: &str, price: i64) -> WriteOp {
    WriteOp::patch(id, record! { "price" => price })
}

fn refused() -> Error {
    Error::new(ErrorKind::Rejected, "not like this")
}

async fn dio_over(source: &ScriptedSource) -> (AsyncLens, AsyncDio) {
    let lens = lens(Lens::new().in_memory()).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    (lens, dio)
}

async fn w1_a_write_shows_at_once_and_is_confirmed_or_taken_back() {
    let source = ScriptedSource::new(products("w1"));
    let (_lens, dio) = dio_over(&source).await;
    let view = dio.table_scenery().open().await.unwrap();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    let ticket = dio.write(price("a", 31)).await.unwrap();
    let row = view.snapshot().row(0).unwrap();
    assert_eq!((row.int("price"), row.status()), (Some(31), RowStatus::PendingWrite), "before the source is asked");
    let mut waiting = begin(ticket.wait()).await;
    held.wait_until_held(1);
    assert!(waiting.is_waiting().await);
    drop(held);
    let outcome = waiting.await.unwrap();
    assert_eq!(outcome.id.as_deref(), Some("a"));
    assert_eq!(view.snapshot().row(0).unwrap().status(), RowStatus::Fresh);
    assert!(matches!(ticket.state(), WriteState::Confirmed(_)));

    source.next(Call::Patch, Trouble::Fails(refused()));
    let error = dio.write(price("b", 11)).await.unwrap().wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert_eq!(prices(&view.snapshot()), ["a=31", "b=10", "c=20"]);
}

async fn w2_the_order_of_a_row_is_kept_and_a_refusal_takes_back_its_own_alone() {
    let source = ScriptedSource::new(products("w2"));
    let (_lens, dio) = dio_over(&source).await;
    let view = dio.table_scenery().open().await.unwrap();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    source.next(Call::Patch, Trouble::Fails(refused()));
    let first = dio.write(WriteOp::patch("a", record! { "price" => 1, "first" => true })).await.unwrap();
    let second = dio.write(WriteOp::patch("a", record! { "second" => true })).await.unwrap();
    let third = dio.write(price("a", 3)).await.unwrap();
    assert_eq!(view.snapshot().row(0).unwrap().int("price"), Some(3));
    drop(held);
    assert_eq!(first.wait().await.unwrap_err().kind(), ErrorKind::Rejected);
    second.wait().await.unwrap();
    third.wait().await.unwrap();
    dio.wait_for_writes().await.unwrap();
    let row = view.snapshot().row(0).unwrap().record().unwrap().clone();
    assert_eq!((row.int("price"), row.get("first"), row.bool("second")), (Some(3), None, Some(true)));
}

async fn w6_a_full_queue_gives_the_op_back_or_makes_the_future_wait_and_then_go_on() {
    let source = ScriptedSource::new(products("w6"));
    let lens = lens(Lens::new().in_memory().write_queue_capacity(1)).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    let view = dio.table_scenery().open().await.unwrap();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    dio.write(price("a", 1)).await.unwrap();
    held.wait_until_held(1);
    let refused = dio.try_write(price("b", 2)).await.unwrap_err();
    assert_eq!((refused.error.kind(), &refused.op), (ErrorKind::Full, &price("b", 2)));
    let mut writes = Vec::new();
    for value in 0..8 {
        writes.push(begin(dio.write(price("b", 100 + value))).await);
    }
    let mut batch = begin(dio.write_batch(vec![WriteOp::upsert("d", product("Drum", 1)), price("c", 5)])).await;
    for _ in 0..50 {
        yield_now().await;
        assert!(batch.is_waiting().await);
    }
    assert!(writes[0].is_waiting().await);
    assert_eq!(prices(&view.snapshot()), ["a=1", "b=10", "c=20"], "what has no room doesn't show");
    drop(held);
    for write in writes {
        write.await.unwrap().wait().await.unwrap();
    }
    for ticket in batch.await.unwrap() {
        ticket.wait().await.unwrap();
    }
    assert_eq!((view.row_count(), dio.cache().get("c").await.unwrap().unwrap().int("price")), (4, Some(5)));
    assert_eq!(dio.status().pending_writes, 0);
}

async fn w6_a_failed_write_that_finds_no_room_waits_too_when_it_is_made_again() {
    let source = ScriptedSource::new(products("w6-again"));
    let lens = lens(Lens::new().in_memory().write_queue_capacity(1)).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    source.next(Call::Patch, Trouble::Fails(refused()));
    dio.write(price("a", 1)).await.unwrap().wait().await.unwrap_err();
    let failed = dio.failed_writes();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    dio.write(price("b", 2)).await.unwrap();
    held.wait_until_held(1);
    let mut again = begin(dio.retry_failed(failed[0].number, None)).await;
    for _ in 0..50 {
        yield_now().await;
        assert!(again.is_waiting().await);
    }
    drop(held);
    again.await.unwrap().wait().await.unwrap();
    assert_eq!(dio.failed_writes().len(), 0);
    assert_eq!(dio.cache().get("a").await.unwrap().unwrap().int("price"), Some(1));
}

async fn w6_closing_ends_a_write_that_waits_for_room() {
    let source = ScriptedSource::new(products("w6-close"));
    let lens = lens(Lens::new().in_memory().write_queue_capacity(1)).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    dio.write(price("a", 1)).await.unwrap();
    held.wait_until_held(1);
    let waiting = begin(dio.write(price("b", 2))).await;
    let closing = begin(dio.close(std::time::Duration::ZERO)).await;
    assert_eq!(waiting.await.unwrap_err().kind(), ErrorKind::Closed);
    drop(held);
    closing.await.unwrap();
}

async fn w11_what_is_refused_leaves_no_trace_and_a_batch_is_all_or_none() {
    let source = products("w11").with_capabilities(Capabilities { delete: false, ..Capabilities::read_write() });
    let lens = lens(Lens::new().in_memory()).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    let view = dio.table_scenery().open().await.unwrap();
    let before = (view.generation(), dio.seq());
    let plain: &Dio = &dio;
    let error = dio.write(WriteOp::delete("a")).await.unwrap_err();
    assert_eq!(error.to_string(), plain.write(WriteOp::delete("a")).unwrap_err().to_string());
    let error = dio.write_batch(vec![price("a", 1), WriteOp::delete("a")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let refused = dio.try_write(WriteOp::delete("b")).await.unwrap_err();
    assert_eq!((refused.error.kind(), refused.op), (ErrorKind::Unsupported, WriteOp::delete("b")));
    assert_eq!((view.generation(), dio.seq()), before);
    let tickets = dio.write_batch(vec![price("a", 1), price("b", 2)]).await.unwrap();
    assert_eq!(prices(&view.snapshot()), ["a=1", "b=2", "c=20"]);
    for ticket in tickets {
        ticket.wait().await.unwrap();
    }
    assert!(dio.write_batch(Vec::new()).await.unwrap().is_empty());
    // A patch of a row that is not there: as the blocking call says.
    let error = dio.write(price("nobody", 1)).await.unwrap().wait().await.unwrap_err();
    let blocking = plain.write(price("nobody", 1)).unwrap().wait(SOON).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (blocking.kind(), blocking.to_string()));
}

async fn w12_failed_writes_are_listed_made_again_or_dropped() {
    let source = ScriptedSource::new(products("w12"));
    let (_lens, dio) = dio_over(&source).await;
    let view = dio.table_scenery().open().await.unwrap();
    source.next(Call::Patch, Trouble::Fails(refused()));
    dio.write(price("a", 1)).await.unwrap().wait().await.unwrap_err();
    let failed = dio.failed_writes();
    assert_eq!((failed.len(), failed[0].error.kind()), (1, ErrorKind::Rejected));
    let again = dio.retry_failed(failed[0].number, Some(price("a", 2))).await.unwrap();
    again.wait().await.unwrap();
    assert!(dio.failed_writes().is_empty());
    assert_eq!(dio.retry_failed(failed[0].number, None).await.unwrap_err().kind(), ErrorKind::NotFound);

    let held = source.hold(Call::Patch, Point::BeforeWork);
    let under_way = dio.write(price("b", 1)).await.unwrap();
    held.wait_until_held(1);
    let behind = dio.write(price("b", 2)).await.unwrap();
    let pending = dio.pending_writes();
    assert_eq!(dio.drop_write(pending[0].number).await.unwrap_err().kind(), ErrorKind::Conflict);
    dio.drop_write(pending[1].number).await.unwrap();
    assert_eq!(prices(&view.snapshot())[1], "b=1");
    assert!(matches!(behind.state(), WriteState::Cancelled));
    assert!(behind.wait().await.is_err());
    drop(held);
    under_way.wait().await.unwrap();
    assert_eq!(prices(&view.snapshot()), ["a=2", "b=1", "c=20"]);
}

async fn w4_a_row_gets_the_id_that_the_source_gives_it() {
    let source = ScriptedSource::new(MemoryVista::new("w4", "id").assign_ids_from("p"));
    let (_lens, dio) = dio_over(&source).await;
    let view = dio.table_scenery().open().await.unwrap();
    let held = source.hold(Call::Insert, Point::BeforeWork);
    let ticket = dio.write(WriteOp::insert(product("Bell", 1))).await.unwrap();
    let provisional = ticket.id().unwrap();
    assert_eq!(ids(&view.snapshot()), [provisional.to_string()]);
    let record = dio.record_scenery(provisional.clone()).await.unwrap();
    let moves = begin(record.wait_for_change(record.generation())).await;
    drop(held);
    assert_eq!(ticket.wait().await.unwrap().id.as_deref(), Some("p1"));
    moves.await.unwrap();
    assert_eq!(ids(&view.snapshot()), ["p1"], "in one step, never twice");
    assert_eq!(record.record().unwrap().text("name"), Some("Bell"));
}

async fn w9_durable_is_what_the_journal_has() {
    let (_lens, dio) = dio_over(&ScriptedSource::new(products("w9"))).await;
    let ticket = dio.write(price("a", 1)).await.unwrap();
    let error = ticket.wait_durable().await.unwrap_err();
    let plain: &diorama::WriteTicket = &ticket;
    let blocking = plain.wait_durable(SOON).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unsupported, blocking.to_string()));
    let seq = dio.seq();
    assert_eq!(dio.write_durable(price("a", 2)).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(dio.seq(), seq, "it was not taken");
    ticket.wait().await.unwrap();
}

on_every_executor!(
    w1_a_write_shows_at_once_and_is_confirmed_or_taken_back,
    w2_the_order_of_a_row_is_kept_and_a_refusal_takes_back_its_own_alone,
    w4_a_row_gets_the_id_that_the_source_gives_it,
    w6_a_full_queue_gives_the_op_back_or_makes_the_future_wait_and_then_go_on,
    w6_a_failed_write_that_finds_no_room_waits_too_when_it_is_made_again,
    w6_closing_ends_a_write_that_waits_for_room,
    w9_durable_is_what_the_journal_has,
    w11_what_is_refused_leaves_no_trace_and_a_batch_is_all_or_none,
    w12_failed_writes_are_listed_made_again_or_dropped,
);

#[cfg(feature = "lmdb")]
mod journaled {
    use super::*;

    async fn w6_a_full_journal_makes_the_future_wait_without_turning_round() {
        let source = ScriptedSource::new(products("w6-journal"));
        let cache = Cache::disk();
        let lens = lens(cache.lens().journal_capacity(6_000)).await;
        let dio = lens.make_dio(source.clone()).await.unwrap();
        let held = source.hold(Call::Patch, Point::BeforeWork);
        let large = |id: &str| WriteOp::patch(id, record! { "name" => "x".repeat(2_500) });
        let first = dio.write(large("a")).await.unwrap();
        held.wait_until_held(1);
        assert_eq!(dio.try_write(large("b")).await.unwrap_err().error.context("setting"), Some("journal_capacity"));
        let mut polls = 0;
        let mut second = Box::pin(dio.write(large("b")));
        let mut over = false;
        // Polled whenever it is woken, for a good while.
        let wakes = std::sync::Arc::new(Wakes::default());
        let waker = std::task::Waker::from(wakes.clone());
        let mut seen = usize::MAX;
        for _ in 0..20_000 {
            if wakes.count() != seen {
                seen = wakes.count();
                polls += 1;
                over |= second.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_ready();
            }
            std::thread::yield_now();
        }
        assert!(!over && polls < 20, "woken {polls} times for nothing");
        drop(held);
        first.wait().await.unwrap();
        second.await.unwrap().wait().await.unwrap();

        let held = source.hold(Call::Patch, Point::BeforeWork);
        dio.write(large("a")).await.unwrap();
        held.wait_until_held(1);
        let waiting = begin(dio.write(large("b"))).await;
        let closing = begin(dio.close(std::time::Duration::from_secs(1))).await;
        assert_eq!(waiting.await.unwrap_err().kind(), ErrorKind::Closed);
        drop(held);
        closing.await.unwrap();
    }

    async fn w9_an_accepted_write_is_durable_before_the_source_has_it() {
        let source = ScriptedSource::new(products("w9-disk"));
        let cache = Cache::disk();
        let lens = lens(cache.lens()).await;
        let dio = lens.make_dio(source.clone()).await.unwrap();
        let held = source.hold(Call::Patch, Point::BeforeWork);
        let ticket = dio.write(price("a", 1)).await.unwrap();
        ticket.wait_durable().await.unwrap();
        assert!(!ticket.state().has_ended());
        let both = dio.write_durable(price("b", 1)).await.unwrap();
        assert_eq!(
            (
                (*both).wait_durable(std::time::Duration::ZERO).is_ok(),
                dio.cache().get("b").await.unwrap().unwrap().int("price")
            ),
            (true, Some(1))
        );
        drop(held);
        ticket.wait().await.unwrap();
        both.wait().await.unwrap();
        ticket.wait_durable().await.unwrap();
    }

    on_every_executor!(
        w6_a_full_journal_makes_the_future_wait_without_turning_round,
        w9_an_accepted_write_is_durable_before_the_source_has_it,
    );
}
