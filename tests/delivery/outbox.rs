//! W12, W1, W6: what is on its way and what has failed can be listed, tried again and dropped; what there is no room for
//! comes back.

use std::time::{Duration, UNIX_EPOCH};

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{WriteNumber, WriteState, WriteTicket};

use crate::ground::*;
use crate::support::*;

// ---- pending writes ------------------------------------------------------------------------------------------------

#[test]
fn w12_pending_writes_are_listed_in_order_with_what_is_known_of_each() {
    on_both(|cache| {
        let ground = Ground::new(products("w12-list"));
        ground.hands.set_wall_ms(5_000);
        let (_lens, dio) = ground.dio_over(&cache, policy());
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("b", 11)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let ops = [WriteOp::insert(product("Drum", 4)), WriteOp::delete("a"), WriteOp::delete_all()];
        let others = ops.clone().map(|op| dio.write(op).unwrap());
        until("the delete_all takes the place of two", || dio.pending_writes().len() == 2);
        let pending = dio.pending_writes();
        assert_eq!(pending[0].number, first.number());
        assert_eq!((pending[0].id.as_deref(), &pending[0].op), (Some("b"), &price("b", 11)));
        assert!(matches!(pending[0].state, WriteState::Delivering { attempt: 1 }), "{pending:?}");
        assert_eq!(pending[0].made_at, UNIX_EPOCH + Duration::from_secs(5));
        assert_eq!((pending[1].id.as_deref(), &pending[1].op), (None, &WriteOp::delete_all()));
        assert_eq!(pending[1].number, others[2].number());
        held.release();
        confirmed(&others[2]);
        assert!(dio.pending_writes().is_empty());
    });
}

#[test]
fn w12_a_dropped_write_shows_no_more_and_is_not_sent() {
    on_both(|cache| {
        let ground = Ground::new(products("w12-drop"));
        let (_lens, dio) = ground.dio_over(&cache, policy());
        let view = dio.table_scenery().open().unwrap();
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let dropped = dio.write(price("b", 11)).unwrap();
        let kept = dio.write(WriteOp::patch("b", record! { "name" => "Gong" })).unwrap();
        dio.drop_write(dropped.number()).unwrap();
        assert!(matches!(dropped.state(), WriteState::Cancelled), "{dropped:?}");
        assert_eq!(dropped.wait(SOON).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(prices(&view.snapshot()), ["a=31", "b=10", "c=20"]);
        assert_eq!(dio.pending_writes().len(), 2);
        assert_eq!(dio.drop_write(dropped.number()).unwrap_err().kind(), ErrorKind::NotFound);
        held.release();
        confirmed(&first);
        confirmed(&kept);
        assert_eq!(ground.source.row("b").unwrap().int("price"), Some(10));
        assert!(dio.failed_writes().is_empty());
    });
}

#[test]
fn w12_a_write_under_way_can_not_be_dropped() {
    in_time(|| {
        let ground = Ground::new(products("w12-flying"));
        let (_lens, dio) = ground.dio(policy());
        let held = ground.source.hold(Call::Patch);
        let ticket = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let error = dio.drop_write(ticket.number()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(error.context("table"), Some("w12-flying"));
        dio.retry_write(ticket.number()).unwrap();
        held.release();
        confirmed(&ticket);
        assert_eq!(dio.drop_write(ticket.number()).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(dio.drop_write(WriteNumber(999)).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn w12_a_dropped_insert_takes_the_patches_of_its_row_with_it() {
    on_both(|cache| {
        let ground = Ground::new(products("w12-drop-insert"));
        let (_lens, dio) = ground.dio_over(&cache, policy());
        let view = dio.table_scenery().open().unwrap();
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let insert = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
        let patch = dio.write(price(&insert.id().unwrap(), 5)).unwrap();
        assert_eq!(view.row_count(), 4);
        dio.drop_write(insert.number()).unwrap();
        assert_eq!(view.row_count(), 3);
        let error = rejected(&patch);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_eq!(dio.failed_writes().len(), 1);
        held.release();
        confirmed(&first);
        dio.wait_for_writes(SOON).unwrap();
        assert_eq!((ground.source.calls(Call::Insert), ground.source.calls(Call::Patch)), (0, 1));
    });
}

#[test]
fn w12_a_dropped_write_that_was_tried_leaves_the_row_as_the_source_has_it() {
    in_time(|| {
        let ground = Ground::new(products("w12-drop-tried"));
        ground.source.lose_next_answers(Call::Patch, 1, lost());
        let (_lens, dio) = ground.dio(policy());
        let view = dio.table_scenery().open().unwrap();
        let ticket = dio.write(price("b", 11)).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        dio.drop_write(ticket.number()).unwrap();
        let shown = wait_for(&view, "the row as it is", |snapshot| prices(snapshot)[1] == "b=11");
        assert_eq!(shown.iter().nth(1).unwrap().status(), RowStatus::Fresh);
    });
}

// ---- failed writes -------------------------------------------------------------------------------------------------

fn refusing(table: &str) -> Ground {
    let ground = Ground::new(products(table));
    ground.fails(|call, before| (call.id == Some("b") && before < 1).then(refused));
    ground
}

#[test]
fn w1_a_failed_write_is_kept_until_it_is_cleared() {
    in_time(|| {
        let ground = refusing("w1-cleared");
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("b", 11)).unwrap();
        rejected(&ticket);
        let failed = dio.failed_writes();
        assert_eq!(failed.len(), 1);
        assert_eq!((failed[0].number, failed[0].id.as_deref()), (ticket.number(), Some("b")));
        assert_eq!((&failed[0].op, failed[0].may_be_done), (&price("b", 11), false));
        assert_eq!(failed[0].error.kind(), ErrorKind::Rejected);
        let cleared = dio.clear_failed(ticket.number()).unwrap();
        assert_eq!(cleared.op, price("b", 11));
        assert!(dio.failed_writes().is_empty());
        assert_eq!(dio.clear_failed(ticket.number()).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn w1_a_failed_write_can_be_made_again_as_it_was() {
    in_time(|| {
        let ground = refusing("w1-again");
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("b", 11)).unwrap();
        rejected(&ticket);
        let again = dio.retry_failed(ticket.number(), None).unwrap();
        confirmed(&again);
        assert_ne!(again.number(), ticket.number());
        let seen = ground.seen_of("b");
        assert_ne!(seen[0].key, seen[1].key, "it is another write");
        assert!(dio.failed_writes().is_empty());
        assert_eq!(dio.retry_failed(ticket.number(), None).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn w1_a_failed_write_can_be_edited_and_is_kept_when_the_edit_is_refused() {
    in_time(|| {
        let ground = refusing("w1-edited");
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("b", 11)).unwrap();
        rejected(&ticket);
        let error = dio.retry_failed(ticket.number(), Some(WriteOp::delete(""))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(dio.failed_writes().len(), 1);
        confirmed(&dio.retry_failed(ticket.number(), Some(price("b", 12))).unwrap());
        assert!(dio.failed_writes().is_empty());
        assert_eq!(ground.source.row("b").unwrap().int("price"), Some(12));
    });
}

#[test]
fn w1_a_failed_insert_is_kept_with_its_row() {
    in_time(|| {
        let ground = Ground::new(products("w1-insert"));
        ground.fails(|call, before| (call.call == Call::Insert && before < 1).then(refused));
        let (_lens, dio) = ground.dio(policy());
        let view = dio.table_scenery().open().unwrap();
        let ticket = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
        rejected(&ticket);
        assert_eq!(view.row_count(), 3);
        assert_eq!(dio.failed_writes()[0].op, WriteOp::insert(product("Drum", 4)));
        confirmed(&dio.retry_failed(ticket.number(), None).unwrap());
        assert_eq!(view.row_count(), 4);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w1_the_last_failed_writes_are_kept_and_no_more() {
    in_time(|| {
        let ground = Ground::new(products("w1-many"));
        ground.fails(|_, _| Some(refused()));
        let (_lens, dio) = ground.dio(policy());
        let tickets: Vec<WriteTicket> = (0..1_030).map(|to| dio.write(price("b", to)).unwrap()).collect();
        tickets.iter().for_each(|ticket| drop(rejected(ticket)));
        let failed = dio.failed_writes();
        assert_eq!(failed.len(), 1_024);
        assert_eq!((failed[0].number, failed[1_023].number), (tickets[6].number(), tickets[1_029].number()));
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn w1_failed_writes_are_there_after_a_restart_until_they_are_cleared_or_made_again() {
    in_time(|| {
        let cache = Cache::disk();
        let ground = Ground::new(products("w1-restart"));
        ground.fails(|_, before| (before < 1).then(refused));
        let restart = |work: &dyn Fn(&Dio)| {
            let (lens, dio) = ground.dio_over(&cache, policy());
            work(&dio);
            drop(dio);
            assert!(lens.close(SOON).unwrap().is_closed());
        };
        restart(&|dio| {
            for op in [price("a", 31), price("b", 11), WriteOp::insert_as("d", product("Drum", 4))] {
                rejected(&dio.write(op).unwrap());
            }
        });
        restart(&|dio| {
            let failed = dio.failed_writes();
            assert_eq!(failed.len(), 3);
            assert_eq!((&failed[0].op, failed[0].error.kind()), (&price("a", 31), ErrorKind::Rejected));
            assert!(failed[0].error.to_string().contains("not like this"), "{}", failed[0].error);
            assert_eq!(failed[1].id.as_deref(), Some("b"));
            let view = dio.table_scenery().open().unwrap();
            assert_eq!(prices(&view.snapshot()), ["a=30", "b=10", "c=20"]);
            dio.clear_failed(failed[0].number).unwrap();
        });
        restart(&|dio| {
            let failed = dio.failed_writes();
            assert_eq!(failed.iter().map(|failed| failed.id.as_deref().unwrap()).collect::<Vec<_>>(), ["b", "d"]);
            confirmed(&dio.retry_failed(failed[0].number, Some(price("b", 12))).unwrap());
        });
        restart(&|dio| {
            let failed = dio.failed_writes();
            assert_eq!(failed.len(), 1);
            confirmed(&dio.retry_failed(failed[0].number, None).unwrap());
        });
        restart(&|dio| {
            assert!(dio.failed_writes().is_empty());
            shows_the_source(dio, &ground.source);
        });
        assert_eq!(ground.source.row("b").unwrap().int("price"), Some(12));
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn w12_a_dropped_write_is_gone_after_a_restart() {
    in_time(|| {
        let cache = Cache::disk();
        let ground = Ground::new(products("w12-drop-restart"));
        let (lens, dio) = ground.dio_over(&cache, policy());
        ground.source.set_offline(true);
        let kept = dio.write(price("b", 11)).unwrap();
        let dropped = dio.write(price("c", 21)).unwrap();
        dropped.wait_durable(SOON).unwrap();
        waits_until(&kept, ground.moment(SECOND * 30));
        dio.drop_write(dropped.number()).unwrap();
        assert_eq!(lens.close(SOON).unwrap().kept, 1);
        drop((dio, lens));
        ground.source.set_offline(false);
        let (_lens, dio) = ground.dio_over(&cache, policy());
        dio.wait_for_writes(SOON).unwrap();
        assert_eq!(ground.source.row("c").unwrap().int("price"), Some(20));
        assert_eq!(ground.source.row("b").unwrap().int("price"), Some(11));
    });
}

// ---- several at once -----------------------------------------------------------------------------------------------

#[test]
fn w1_several_writes_are_one_step_of_every_view() {
    on_both(|cache| {
        let ground = Ground::new(products("w1-batch"));
        let (_lens, dio) = ground.dio_over(&cache, policy());
        let view = dio.table_scenery().open().unwrap();
        let held = ground.source.hold(Call::Patch);
        let before = view.generation();
        let ops =
            vec![price("a", 31), price("b", 11), WriteOp::insert_as("d", product("Drum", 4)), WriteOp::delete("c")];
        let tickets = dio.write_batch(ops).unwrap();
        assert_eq!(view.generation(), before.next());
        assert_eq!(prices(&view.snapshot()), ["a=31", "b=11", "d=4"]);
        held.release();
        tickets.iter().for_each(confirmed);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w11_of_several_writes_one_that_is_refused_refuses_all() {
    on_both(|cache| {
        let ground = Ground::new(products("w11-batch"));
        let (_lens, dio) = ground.dio_over(&cache, policy());
        let view = dio.table_scenery().open().unwrap();
        let before = view.generation();
        let error = dio.write_batch(vec![price("a", 31), WriteOp::delete(""), price("b", 11)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(view.generation(), before);
        assert!(dio.pending_writes().is_empty());
        assert!(dio.write_batch(Vec::new()).unwrap().is_empty());
        assert!(ground.seen().is_empty());
    });
}

#[test]
fn w2_of_several_writes_each_ends_on_its_own() {
    in_time(|| {
        let ground = refusing("w2-batch");
        let (_lens, dio) = ground.dio(policy());
        let tickets = dio.write_batch(vec![price("a", 31), price("b", 11), price("c", 21)]).unwrap();
        confirmed(&tickets[0]);
        assert_eq!(rejected(&tickets[1]).kind(), ErrorKind::Rejected);
        confirmed(&tickets[2]);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w6_several_writes_without_room_for_all_are_all_refused() {
    in_time(|| {
        let ground = Ground::new(products("w6-batch"));
        let lens = ground.lens(&Cache::memory()).write_queue_capacity(3).write_timeout(Duration::ZERO).build().unwrap();
        let dio = lens.make_dio(ground.source.clone()).unwrap();
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let error = dio.write_batch(vec![price("a", 32), price("b", 11), price("c", 21)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        assert_eq!(cached(&dio), ["a=31", "b=10", "c=20"]);
        let two = dio.write_batch(vec![price("b", 11), price("c", 21)]).unwrap();
        held.release();
        confirmed(&first);
        two.iter().for_each(confirmed);
    });
}

// ---- no room -------------------------------------------------------------------------------------------------------

#[test]
fn w6_a_full_queue_gives_the_write_back_and_write_waits_for_room() {
    on_both(|cache| {
        let ground = Ground::new(products("w6-full"));
        let lens = ground.lens(&cache).write_queue_capacity(1).build().unwrap();
        let dio = lens.make_dio(ground.source.clone()).unwrap();
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let refused = dio.try_write(price("b", 11)).unwrap_err();
        assert_eq!((refused.error.kind(), &refused.op), (ErrorKind::Full, &price("b", 11)));
        assert_eq!(cached(&dio), ["a=31", "b=10", "c=20"], "it leaves no trace");
        let second = start("the write that waits", {
            let dio = dio.clone();
            move || dio.write(price("b", 12)).unwrap()
        });
        assert!(is_still_waiting(&second));
        held.release();
        confirmed(&first);
        confirmed(&second.end());
        shows_the_source(&dio, &ground.source);
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn w6_a_full_journal_gives_the_write_back_and_write_waits_for_room() {
    in_time(|| {
        let ground = Ground::new(products("w6-journal"));
        let cache = Cache::disk();
        let lens = ground.lens(&cache).journal_capacity(64 << 10).build().unwrap();
        let dio = lens.make_dio(ground.source.clone()).unwrap();
        let held = ground.source.hold(Call::Patch);
        let long = |to: i64| WriteOp::patch("a", record! { "price" => to, "text" => "x".repeat(20 << 10) });
        let first = dio.write(long(31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let mut tickets = vec![first];
        let refused = loop {
            match dio.try_write(long(32)) {
                Ok(ticket) => tickets.push(ticket),
                Err(refused) => break refused,
            }
            assert!(tickets.len() < 10, "the journal is never full");
        };
        assert_eq!((refused.error.kind(), &refused.op), (ErrorKind::Full, &long(32)), "{}", refused.error);
        assert_eq!(dio.pending_writes().len(), tickets.len());
        let waiting = start("the write that waits", {
            let dio = dio.clone();
            let op = refused.op;
            move || dio.write(op).unwrap()
        });
        assert!(is_still_waiting(&waiting));
        held.release();
        tickets.iter().for_each(confirmed);
        confirmed(&waiting.end());
        // Room comes back for as many as one likes.
        for to in 0..20 {
            confirmed(&dio.write(long(to)).unwrap());
        }
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn w6_a_write_that_no_journal_has_room_for_is_refused_at_once() {
    in_time(|| {
        let ground = Ground::new(products("w6-too-long"));
        let cache = Cache::disk();
        let lens = ground.lens(&cache).journal_capacity(64 << 10).build().unwrap();
        let dio = lens.make_dio(ground.source.clone()).unwrap();
        let error = dio.write(WriteOp::patch("a", record! { "text" => "x".repeat(128 << 10) })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        confirmed(&dio.write(price("a", 31)).unwrap());
        shows_the_source(&dio, &ground.source);
    });
}

// ---- durable -------------------------------------------------------------------------------------------------------

#[test]
fn w8_over_memory_no_write_is_durable_and_the_ticket_says_so() {
    in_time(|| {
        let ground = Ground::new(products("w8-memory"));
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("a", 31)).unwrap();
        let error = ticket.wait_durable(SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        confirmed(&ticket);
        assert_eq!(ticket.wait_durable(SOON).unwrap_err().kind(), ErrorKind::Unsupported);
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn w8_over_a_disk_a_write_is_durable_before_the_source_has_it() {
    in_time(|| {
        let ground = Ground::new(products("w8-disk"));
        let cache = Cache::disk();
        let (_lens, dio) = ground.dio_over(&cache, policy());
        ground.source.set_offline(true);
        let ticket = dio.write(price("a", 31)).unwrap();
        ticket.wait_durable(SOON).unwrap();
        assert!(!ticket.state().has_ended());
        waits_until(&ticket, ground.moment(SECOND * 30));
        ground.source.set_offline(false);
        dio.retry_write(ticket.number()).unwrap();
        confirmed(&ticket);
        ticket.wait_durable(SOON).unwrap();
    });
}
