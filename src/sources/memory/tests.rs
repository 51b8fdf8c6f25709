use std::thread;

use super::*;
use crate::clock::Clock;
use crate::record;
use crate::vista::{CancelToken, Column, ColumnType, Condition, Vista};
use crate::{Error, ErrorKind};

const LONG: Duration = Duration::from_secs(30);

fn products() -> MemoryVista {
    let rows = ["a", "b", "c"].map(|id| (id, record! { "id" => id, "price" => 1 }));
    MemoryVista::new("products", "id").with_rows(rows)
}

fn ids(source: &MemoryVista) -> Vec<String> {
    source.rows().into_iter().map(|(id, _)| id).collect()
}

fn all(source: &MemoryVista, cx: &CallCx) -> Result<usize> {
    source.list(cx, &QueryDescriptor::default()).map(|rows| rows.len())
}

fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "down")
}

#[test]
fn rows_keep_the_order_of_their_arrival() -> Result<()> {
    let source = products();
    let cx = CallCx::new();
    source.upsert(&cx, "a", &record! { "id" => "a", "price" => 9 })?;
    source.delete(&cx, "b")?;
    source.insert(&cx, Some("b"), &record! { "id" => "b" })?;
    assert_eq!(ids(&source), ["a", "c", "b"]);
    assert_eq!(source.row("a").and_then(|row| row.int("price")), Some(9));
    Ok(())
}

#[test]
fn two_tables_of_one_name_are_two_sources_unless_told_otherwise() {
    assert_ne!(products().source_key(), products().source_key());
    let source = products();
    assert_eq!(source.source_key(), source.clone().source_key());
    assert_eq!(products().with_source_key("x").source_key(), "x");
}

#[test]
fn the_schema_is_open_unless_declared() {
    let query = QueryDescriptor::new().filtered(Condition::eq("colour", "red"));
    assert_eq!(products().list(&CallCx::new(), &query).unwrap(), []);
    let declared = products().with_schema(Schema::new("id").with(Column::new("id", ColumnType::Text)));
    let error = declared.list(&CallCx::new(), &query).unwrap_err();
    assert_eq!((error.kind(), error.context("table")), (ErrorKind::NotFound, Some("products")));
}

#[test]
fn a_batch_is_done_whole_or_not_at_all() -> Result<()> {
    let source = products();
    let cx = CallCx::new();
    let before = source.rows();
    let refused = source.batch(
        &cx,
        &[
            WriteOp::patch("a", record! { "price" => 2 }),
            WriteOp::delete("b"),
            WriteOp::insert_as("d", record! { "id" => "d" }),
            WriteOp::delete_all(),
            WriteOp::upsert("e", record! { "id" => "e" }),
            WriteOp::patch("a", record! { "price" => 3 }),
        ],
    );
    let error = refused.unwrap_err();
    assert_eq!((error.kind(), error.context("id")), (ErrorKind::NotFound, Some("a")));
    assert_eq!(source.rows(), before);
    assert!(source.writes().iter().all(|write| !write.done));
    let done = source.batch(&cx, &[WriteOp::delete("b"), WriteOp::insert_as("b", record! { "id" => "b" })])?;
    assert_eq!(done, [Written::id("b"), Written::id("b")]);
    assert_eq!(ids(&source), ["a", "c", "b"]);
    Ok(())
}

#[test]
fn a_repeated_key_gets_its_first_answer_and_is_done_once() -> Result<()> {
    let source = products().assign_ids_from("p-");
    let cx = CallCx::new().with_idempotency_key("op-1");
    source.lose_next_answers(Call::Insert, 1, down());
    let row = record! { "id" => "draft", "price" => 5 };
    assert_eq!(source.insert(&cx, Some("draft"), &row).unwrap_err().message(), "down");
    let answer = source.insert(&cx.clone().with_attempt(2), Some("draft"), &row)?;
    assert_eq!(answer, Written::row("p-1", record! { "id" => "p-1", "price" => 5 }));
    assert_eq!(ids(&source), ["a", "b", "c", "p-1"]);
    let writes = source.writes();
    let seen: Vec<_> =
        writes.iter().map(|write| (write.idempotency_key.as_deref(), write.attempt, write.done)).collect();
    assert_eq!(seen, [(Some("op-1"), 1, true), (Some("op-1"), 2, false)]);

    let forgetful = products().with_capabilities(Capabilities::read_write());
    for _ in 0..2 {
        forgetful.insert(&cx, None, &record! { "price" => 1 })?;
    }
    assert_eq!(ids(&forgetful), ["a", "b", "c", "1", "2"]);
    Ok(())
}

#[test]
fn scripted_failures_come_in_order_and_then_end() -> Result<()> {
    let source = products();
    let cx = CallCx::new();
    source.fail_next(Call::List, 2, down());
    source.fail_next(Call::List, 1, Error::new(ErrorKind::Rejected, "no"));
    let kinds: Vec<_> = (0..4).map(|_| all(&source, &cx).err().map(|error| error.kind())).collect();
    let down_kind = Some(ErrorKind::Unavailable);
    assert_eq!(kinds, [down_kind, down_kind, Some(ErrorKind::Rejected), None]);
    assert_eq!((source.calls(Call::List), source.calls(Call::Get)), (4, 0));

    source.fail_always(Call::Get, down());
    source.fail_when(|seen| {
        (seen.id == Some("b") && seen.ops.len() == 1).then(|| Error::new(ErrorKind::Conflict, "b is poisoned"))
    });
    assert!(source.get(&cx, "a").is_err() && source.get(&cx, "a").is_err());
    assert_eq!(source.delete(&cx, "b").unwrap_err().kind(), ErrorKind::Conflict);
    source.delete(&cx, "a")?;
    source.heal();
    source.delete(&cx, "b")?;
    assert!(source.get(&cx, "c")?.is_some());
    Ok(())
}

#[test]
fn a_scripted_panic_leaves_the_source_usable() -> Result<()> {
    let source = products();
    source.panic_next(Call::Get);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| source.get(&CallCx::new(), "a")));
    assert!(panicked.is_err());
    assert!(source.get(&CallCx::new(), "a")?.is_some());
    Ok(())
}

#[test]
fn held_calls_wait_until_they_are_let_go() {
    let source = products();
    let guard = source.hold(Call::List);
    thread::scope(|scope| {
        let first = scope.spawn(|| all(&source, &CallCx::new()));
        let second = scope.spawn(|| all(&source, &CallCx::new()));
        assert!(guard.wait_until_held(2, LONG));
        assert!(!first.is_finished() && !second.is_finished());
        assert!(source.get(&CallCx::new(), "a").is_ok(), "other calls are not held");
        source.outside().delete("a").unwrap();
        guard.release();
        assert_eq!((first.join().unwrap().unwrap(), second.join().unwrap().unwrap()), (2, 2));
    });
    assert_eq!(all(&source, &CallCx::new()).unwrap(), 2);
}

#[test]
fn one_call_can_be_let_pass() {
    let source = products();
    let guard = source.hold(Call::Count);
    thread::scope(|scope| {
        let calls = [(); 3].map(|()| scope.spawn(|| source.count(&CallCx::new(), &QueryDescriptor::default())));
        assert!(guard.wait_until_held(3, LONG));
        guard.let_one_pass();
        assert!(source.shared.script.wait_in_test(LONG, || guard.held() == 2));
        drop(guard);
        assert!(calls.into_iter().all(|call| call.join().unwrap().is_ok()));
    });
}

#[test]
fn a_held_answer_has_the_rows_from_before() {
    let source = products();
    let guard = source.hold_answer(Call::List);
    thread::scope(|scope| {
        let list = scope.spawn(|| all(&source, &CallCx::new()));
        assert!(guard.wait_until_held(1, LONG));
        source.outside().delete_all().unwrap();
        guard.release();
        assert_eq!(list.join().unwrap().unwrap(), 3);
    });
}

#[test]
fn a_blocked_call_ends_when_it_is_cancelled() {
    let source = products().with_latency(Duration::from_secs(3600));
    let guard = source.hold(Call::List);
    let (held, slow) = (CancelToken::new(), CancelToken::new());
    thread::scope(|scope| {
        let in_gate = scope.spawn(|| all(&source, &CallCx::new().with_cancel(held.clone())));
        let in_latency = scope.spawn(|| source.get(&CallCx::new().with_cancel(slow.clone()), "a"));
        assert!(guard.wait_until_held(1, LONG));
        assert!(source.wait_until_called(Call::Get, 1, LONG));
        held.cancel();
        slow.cancel();
        assert_eq!(in_gate.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(in_latency.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
    assert_eq!(guard.held(), 0);
    let error = all(&source, &CallCx::new().with_cancel(held)).unwrap_err();
    assert_eq!((error.kind(), error.context("table")), (ErrorKind::Cancelled, Some("products")));
}

#[test]
fn latency_and_deadline_pass_on_the_calls_own_clock() {
    let source = products().with_latency(Duration::from_secs(10));
    let (clock, hands) = Clock::manual();
    thread::scope(|scope| {
        let patient = scope.spawn(|| all(&source, &CallCx::on(clock.clone())));
        let hasty = scope.spawn(|| all(&source, &CallCx::on(clock.clone()).deadline_in(Duration::from_secs(5))));
        hands.wait_for_sleepers(2);
        hands.advance(Duration::from_secs(6));
        assert_eq!(hasty.join().unwrap().unwrap_err().kind(), ErrorKind::Timeout);
        assert!(!patient.is_finished());
        hands.wait_for_sleepers(1);
        hands.advance(Duration::from_secs(4));
        assert_eq!(patient.join().unwrap().unwrap(), 3);
    });
}

#[test]
fn offline_every_call_is_unavailable_and_rows_stay() -> Result<()> {
    let source = products();
    source.set_offline(true);
    let error = Vista::new(source.clone()).list_values().unwrap_err();
    assert_eq!((error.kind(), error.context("table")), (ErrorKind::Unavailable, Some("products")));
    assert!(source.delete(&CallCx::new(), "a").is_err());
    source.set_offline(false);
    assert_eq!(all(&source, &CallCx::new())?, 3);
    Ok(())
}

#[test]
fn edits_from_outside_reach_the_stream() -> Result<()> {
    let source = products();
    let cx = CallCx::new();
    source.outside().delete("c")?;
    let mut stream = source.changes(&cx)?;
    source.outside().patch("a", record! { "price" => 7 })?;
    source.outside().upsert("z", record! { "id" => "z" })?;
    source.outside().delete("z")?;
    source.outside().delete("z")?;
    source.outside_silently().delete("b")?;
    source.delete(&cx, "b")?;
    source.outside().delete_all()?;
    source.emit(ChangeEvent::Updated { id: "q".into(), record: None });
    source.end_streams(None);
    source.emit(ChangeEvent::Invalidated);
    let patched = record! { "id" => "a", "price" => 7 };
    let expected = [
        ChangeEvent::Updated { id: "a".into(), record: Some(patched) },
        ChangeEvent::Inserted { id: "z".into(), record: Some(record! { "id" => "z" }) },
        ChangeEvent::Deleted { id: "z".into() },
        ChangeEvent::Invalidated,
        ChangeEvent::Updated { id: "q".into(), record: None },
    ];
    for event in expected {
        assert_eq!(stream.next(&cx)?, Some(event));
    }
    assert_eq!((stream.next(&cx)?, source.open_streams()), (None, 1));
    drop(stream);
    assert_eq!(source.open_streams(), 0);
    assert_eq!(source.outside().patch("gone", record! {}).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

#[test]
fn a_waiting_stream_wakes_for_news_loss_end_and_cancelling() {
    let source = products();
    let cx = CallCx::new();
    let wake_with = |wake: &dyn Fn(&CancelToken)| {
        let mut stream = source.changes(&cx).unwrap();
        let calls = source.calls(Call::NextChange);
        let token = CancelToken::new();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| stream.next(&CallCx::new().with_cancel(token.clone())));
            assert!(source.wait_until_called(Call::NextChange, calls + 1, LONG));
            wake(&token);
            waiting.join().unwrap()
        })
    };
    let news = wake_with(&|_| source.outside().delete("a").unwrap());
    assert_eq!(news.unwrap(), Some(ChangeEvent::Deleted { id: "a".into() }));
    assert_eq!(wake_with(&|_| source.end_streams(Some(down()))).unwrap_err().message(), "down");
    assert_eq!(wake_with(&|_| source.end_streams(None)).unwrap(), None);
    assert_eq!(wake_with(&CancelToken::cancel).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(wake_with(&|_| source.set_offline(true)).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn a_stream_that_nobody_reads_stays_bounded() -> Result<()> {
    let source = products();
    let mut stream = source.changes(&CallCx::new())?;
    for number in 0..10_000 {
        source.outside().patch("a", record! { "price" => number })?;
    }
    assert_eq!(stream.next(&CallCx::new())?, Some(ChangeEvent::Invalidated));
    Ok(())
}

#[test]
fn an_id_column_follows_the_id_that_the_source_chose() -> Result<()> {
    let source = products().assign_ids(|record| format!("x{}", record.int("price").unwrap_or(0)));
    let proposed = record! { "id" => "tmp", "price" => 4 };
    let written = source.insert(&CallCx::new(), Some("tmp"), &proposed)?;
    assert_eq!(written, Written::row("x4", record! { "id" => "x4", "price" => 4 }));
    assert_eq!(source.row("x4"), written.record);
    let taken = source.insert(&CallCx::new(), None, &proposed).unwrap_err();
    assert_eq!((taken.kind(), taken.context("id")), (ErrorKind::Conflict, Some("x4")));
    let nameless = products().assign_ids(|_| String::new()).insert(&CallCx::new(), None, &proposed);
    assert_eq!(nameless.unwrap_err().kind(), ErrorKind::Invalid);
    Ok(())
}
