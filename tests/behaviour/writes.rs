//! W: writes, from the call to the source and back, and what callbacks may do.

use std::time::Duration;

use crossbeam_channel::unbounded;
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::{Capabilities, Column, ColumnType, Schema};
use diorama::{RecordStatus, WriteState};

use crate::support::*;

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
        let held = source.hold(Call::Insert);
        let ticket = dio.write(WriteOp::insert(product("Drum", 15))).unwrap();
        let first = ticket.id().unwrap();
        assert_eq!(first.len(), 36, "a UUID until the source has chosen: {first}");
        assert_eq!(dio.cache().get(&first).unwrap().unwrap().text("id"), Some(&*first));
        held.release();
        assert_eq!(ticket.wait(SOON).unwrap().id.as_deref(), Some("srv-1"));
        assert_eq!(ticket.id().as_deref(), Some("srv-1"));
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
        assert_eq!(view.generation(), before.next().next(), "shown in one step, and renamed in one");
        let by_first = dio.cache().get("mine").unwrap().unwrap();
        assert_eq!(by_first.text("id"), Some("srv-1"), "the first id goes on meaning the row");
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
        assert_eq!(names(&seen), ["RecordChanged b", "WritePending b", "RecordChanged b", "WriteFailed b"]);
        assert_eq!(view.generation(), before.next().next());
        let snapshot = view.snapshot();
        assert_eq!(prices(&snapshot), ["a=30", "b=10", "c=20"]);
        assert!(snapshot.iter().all(|row| row.status() == RowStatus::Fresh));
        let status = dio.status();
        assert_eq!((status.failed_writes, status.pending_writes), (1, 0));
        assert_eq!(status.write_error.unwrap().kind(), ErrorKind::Rejected);
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
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

// ---- W11: refusals -------------------------------------------------------------------------------------------------

fn typed(table: &str) -> MemoryVista {
    let schema = Schema::new("id")
        .with(Column::new("id", ColumnType::Text))
        .with(Column::new("name", ColumnType::Text).mandatory())
        .with(Column::new("price", ColumnType::Int));
    products(table).with_schema(schema)
}

#[test]
fn w9_a_durable_write_is_shown_and_on_the_disk_once_the_call_returns() {
    on_both(|cache| {
        let source = products("w9-durable");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        let held = source.hold(Call::Patch);
        let written = dio.write_durable(WriteOp::patch("a", record! { "price" => 15 }));
        if cache.path().is_none() {
            let error = written.unwrap_err();
            assert_eq!((error.kind(), error.context("id")), (ErrorKind::Unsupported, Some("a")));
            assert_eq!(
                (prices(&view.snapshot()).join(" "), dio.status().pending_writes),
                ("b=10 c=20 a=30".to_owned(), 0)
            );
            return;
        }
        let ticket = written.unwrap();
        assert_eq!(prices(&view.snapshot()), ["b=10", "a=15", "c=20"]);
        ticket.wait_durable(Duration::ZERO).unwrap();
        assert!(!ticket.state().has_ended(), "the source has not answered");
        let refused = dio.write_durable(WriteOp::patch("", record! { "price" => 1 })).unwrap_err();
        assert_eq!((refused.kind(), dio.status().pending_writes), (ErrorKind::Invalid, 1));
        let missing = dio.write_durable(WriteOp::replace("nobody", product("N", 1))).unwrap();
        drop(held);
        ticket.wait(SOON).unwrap();
        assert_eq!(missing.wait(SOON).unwrap_err().kind(), ErrorKind::NotFound);
    });
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
