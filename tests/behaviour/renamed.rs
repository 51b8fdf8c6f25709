//! W4: rows that the source stores under another id than the one that they went by.

use diorama::prelude::*;
use diorama::sources::memory::{Call, HoldGuard};
use diorama::{Cause, DeliveryPolicy, RecordStatus, WriteTicket};
use std::time::Duration;

use crate::stage::*;
use crate::support::*;

#[test]
fn w4_an_insert_without_an_id_shows_under_one_of_ours_and_moves_to_the_sources_in_one_step() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w4-mint").assign_ids_from("srv-"));
        let mut mirror = Mirror::of(&stage.view);
        let ticket = stage.write(WriteOp::insert(product("Drum", 15)));
        let first = ticket.id().unwrap();
        let record = stage.dio.record_scenery(first.clone()).unwrap();
        assert_eq!(stage.shown(), ["a=30".to_owned(), "b=10".to_owned(), "c=20".to_owned(), format!("{first}=15*")]);
        let row_no = |stage: &Stage| stage.view.snapshot().row(3).unwrap().enriched().unwrap().row_no();
        let number = row_no(&stage);
        let later = stage.write(WriteOp::patch("c", price(21)));
        mirror.follow();
        stage.let_one_pass(Call::Insert);
        let outcome = ticket.wait(SOON).unwrap();
        assert_eq!((outcome.id.as_deref(), ticket.id().as_deref()), (Some("srv-1"), Some("srv-1")));
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=21*", "srv-1=15"]);
        assert_eq!(mirror.follow(), (Some(Cause::Confirmed), 1));
        assert_eq!(row_no(&stage), number, "it is the same row");
        assert_eq!(stage.view.position_of("srv-1").unwrap(), Some(3));
        let by_first = stage.dio.cache().get(&first).unwrap().unwrap();
        assert_eq!(by_first.text("id"), Some("srv-1"), "the first id goes on meaning the row");
        assert_eq!(record.record(), Some(by_first), "also for who follows it by that id");
        stage.let_go();
        later.wait(SOON).unwrap();
        stage.dio.refresh().unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=21", "srv-1=15"]);
    });
}

#[test]
fn w4_a_patch_that_waits_for_an_insert_reaches_the_source_under_the_id_that_it_chose() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w4-patch").assign_ids_from("srv-"));
        let insert = stage.write(WriteOp::insert_as("mine", product("Drum", 15)));
        stage.wait_until_held(Call::Insert);
        let patch = stage.write(WriteOp::patch("mine", price(16)));
        let delete = stage.write(WriteOp::insert(product("Egg", 1)));
        let gone = stage.write(WriteOp::delete(delete.id().unwrap().to_string()));
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "mine=16*"]);
        let mut mirror = Mirror::of(&stage.view);
        stage.let_go();
        insert.wait(SOON).unwrap();
        assert_eq!(patch.wait(SOON).unwrap().id.as_deref(), Some("srv-1"));
        delete.wait(SOON).unwrap();
        gone.wait(SOON).unwrap();
        mirror.follow();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "srv-1=16"]);
        assert_eq!(stage.source.row("srv-1").unwrap().int("price"), Some(16));
        assert_eq!((stage.source.row("mine"), stage.source.row("srv-2")), (None, None));
    });
}

#[test]
fn w4_a_row_is_renamed_though_a_write_that_waits_hides_what_the_source_made_of_it() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w4-hidden").assign_ids_from("srv-"));
        let mut mine = product("Drum", 16);
        mine.merge(&record! { "id" => "mine" });
        let insert = stage.write(WriteOp::insert_as("mine", product("Drum", 15)));
        let upsert = stage.write(WriteOp::upsert("mine", mine));
        let mut mirror = Mirror::of(&stage.view);
        stage.let_one_pass(Call::Insert);
        insert.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "srv-1=16*"]);
        assert_eq!(mirror.follow(), (Some(Cause::Confirmed), 1));
        stage.let_go();
        upsert.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "srv-1=16"]);
    });
}

#[test]
fn w4_a_write_by_the_first_id_after_the_row_was_renamed_goes_to_the_row() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w4-alias").assign_ids_from("srv-"));
        stage.let_go();
        let ticket = stage.write(WriteOp::insert(product("Drum", 15)));
        let first = ticket.id().unwrap().to_string();
        ticket.wait(SOON).unwrap();
        stage.dio.flush().unwrap();
        let record = stage.dio.record_scenery(first.as_str()).unwrap();
        write(&stage.dio, WriteOp::patch(first.as_str(), price(16))).unwrap();
        assert_eq!(record.record().unwrap().int("price"), Some(16), "a view by the first id follows the row");
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "srv-1=16"]);
        write(&stage.dio, WriteOp::delete(first.as_str())).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20"]);
        assert_eq!((stage.source.row("srv-1"), stage.dio.cache().get(&first).unwrap()), (None, None));
    });
}

#[test]
fn w4_a_rejected_insert_without_an_id_leaves_nothing() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w4-rejected").assign_ids_from("srv-"));
        let mut mirror = Mirror::of(&stage.view);
        stage.refuse_next(Call::Insert);
        let ticket = stage.write(WriteOp::insert(product("Drum", 15)));
        let first = ticket.id().unwrap();
        mirror.follow();
        assert_eq!(mirror.rows.len(), 4);
        stage.let_go();
        ticket.wait(SOON).unwrap_err();
        assert_eq!(mirror.follow(), (Some(Cause::RolledBack), 1));
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20"]);
        assert_eq!(stage.dio.cache().get(&first).unwrap(), None);
        stage.dio.flush().unwrap();
    });
}

#[test]
fn w4_a_row_that_a_refresh_brought_under_the_chosen_id_is_shown_once_after_the_confirmation() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w4-refreshed").assign_ids_from("srv-"));
        stage.let_go();
        let held = stage.source.hold_answer(Call::Insert);
        let ticket = stage.write(WriteOp::insert(product("Drum", 15)));
        let first = ticket.id().unwrap();
        assert!(held.wait_until_held(1, SOON));
        stage.dio.refresh().unwrap();
        let mut mirror = Mirror::of(&stage.view);
        let record = stage.dio.record_scenery(first.clone()).unwrap();
        let before = record.generation();
        drop(held);
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "srv-1=15"]);
        assert_eq!(mirror.follow(), (Some(Cause::Confirmed), 1));
        assert_eq!((record.status(), record.generation()), (RecordStatus::Fresh, before.next()));
        write(&stage.dio, WriteOp::patch("srv-1", price(16))).unwrap();
        assert_eq!(record.record().unwrap().int("price"), Some(16), "it follows the row");
        let by_first = stage.dio.cache().get(&first).unwrap();
        // Its `id` field is gone with what was read: the source doesn't keep one in its rows.
        assert_eq!(by_first.and_then(|row| row.int("price")), Some(16), "the first id means that row");
    });
}

/// A Dio that has an insert at its source, done and not answered.
fn at_the_source(cache: &Cache, name: &str) -> (Stage, HoldGuard, WriteTicket) {
    let lens = cache.lens().delivery(DeliveryPolicy::default().parallel(2));
    let mut stage = Stage::on(lens, products(name).assign_ids_from("srv-"));
    stage.let_go();
    let held = stage.source.hold_answer(Call::Insert);
    let ticket = stage.write(WriteOp::insert(product("Drum", 15)));
    assert!(held.wait_until_held(1, SOON));
    (stage, held, ticket)
}

#[test]
fn w4_a_refresh_while_the_source_has_an_insert_shows_its_row_once() {
    on_both(|cache| {
        let (stage, held, ticket) = at_the_source(&cache, "w4-once");
        let first = ticket.id().unwrap();
        let mut mirror = Mirror::of(&stage.view);
        stage.source.outside_silently().upsert("srv-1", product("Drum", 17)).unwrap();
        stage.dio.refresh().unwrap();
        assert_eq!(stage.shown(), ["a=30".to_owned(), "b=10".to_owned(), "c=20".to_owned(), format!("{first}=15*")]);
        assert_eq!(mirror.follow().1, 0, "nothing moved");
        drop(held);
        ticket.wait(SOON).unwrap();
        let expected = ["a=30", "b=10", "c=20", "srv-1=17"];
        assert_eq!(stage.shown(), expected, "the answer is older than what was read");
        assert_eq!(mirror.follow(), (Some(Cause::Confirmed), 1));
        stage.dio.refresh().unwrap();
        assert_eq!(stage.shown(), expected);
    });
}

#[test]
fn w4_an_event_of_the_source_while_it_has_an_insert_shows_its_row_once() {
    on_both(|cache| {
        let (stage, held, ticket) = at_the_source(&cache, "w4-event");
        let record = Some(product("Drum", 15));
        stage.dio.handle_event(ChangeEvent::Inserted { id: "srv-1".to_owned(), record }).unwrap();
        assert_eq!(stage.view.row_count(), 4);
        drop(held);
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "srv-1=15"]);
    });
}

#[test]
fn w4_rows_of_others_that_are_read_meanwhile_show_with_the_answer() {
    on_both(|cache| {
        let (stage, held, ticket) = at_the_source(&cache, "w4-others");
        stage.source.outside_silently().upsert("x", product("Xylophone", 7)).unwrap();
        stage.source.outside_silently().upsert("b", product("Bell", 11)).unwrap();
        let mut mirror = Mirror::of(&stage.view);
        stage.dio.refresh().unwrap();
        assert_eq!(stage.view.row_count(), 4);
        assert_eq!(stage.shown()[1], "b=11", "what is known moves on");
        mirror.follow();
        drop(held);
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=11", "c=20", "srv-1=15", "x=7"]);
        assert_eq!(mirror.follow().1, 1, "in one step");
        stage.dio.flush().unwrap();
    });
}

#[test]
fn w4_rows_of_others_show_when_the_insert_is_refused_or_fails_for_now() {
    on_both(|cache| {
        for kind in [ErrorKind::Rejected, ErrorKind::Timeout] {
            let policy = DeliveryPolicy::default().first_delay(SOON).max_delay(SOON).jitter(0.0);
            let mut stage = Stage::on(cache.lens().delivery(policy), products("w4-refused").assign_ids_from("srv-"));
            let view = stage.view.clone();
            stage.source.fail_next(Call::Insert, 1, Error::new(kind, "on purpose"));
            let ticket = stage.write(WriteOp::insert(product("Drum", 15)));
            stage.wait_until_held(Call::Insert);
            stage.source.outside_silently().upsert("x", product("Xylophone", 7)).unwrap();
            stage.dio.refresh().unwrap();
            let before = view.generation();
            assert_eq!(view.row_count(), 4);
            stage.let_go();
            view.wait_for_change(before, Some(SOON)).unwrap();
            assert!(view.position_of("x").unwrap().is_some(), "{kind:?}");
            if kind == ErrorKind::Rejected {
                ticket.wait(SOON).unwrap_err();
                assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "x=7"]);
            } else {
                assert_eq!(view.row_count(), 5, "the insert waits for its next attempt");
            }
            stage._lens.close(SOON).unwrap();
        }
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn w4_rows_that_wait_for_an_insert_are_there_after_the_closing() {
    let cache = Cache::disk();
    let source = {
        let (stage, held, _) = at_the_source(&cache, "w4-closed");
        stage.source.outside_silently().upsert("x", product("Xylophone", 7)).unwrap();
        stage.dio.refresh().unwrap();
        assert_eq!(stage.view.row_count(), 4);
        let source = stage.source.clone();
        source.set_offline(true);
        stage._lens.close(Duration::ZERO).unwrap();
        drop(held);
        assert!(stage._lens.close(SOON).unwrap().is_closed());
        source
    };
    let lens = cache.lens().build().unwrap();
    let dio = lens.make_dio(source).unwrap();
    assert_eq!(dio.cache().get("x").unwrap().unwrap().int("price"), Some(7));
}

#[test]
fn w4_inserts_that_follow_each_other_don_t_keep_rows_from_showing() {
    on_both(|cache| {
        let (stage, held, first) = at_the_source(&cache, "w4-many");
        stage.source.outside_silently().upsert("x", product("Xylophone", 7)).unwrap();
        stage.dio.refresh().unwrap();
        let second = stage.write(WriteOp::insert(product("Egg", 16)));
        assert!(held.wait_until_held(2, SOON));
        // It lists them again: they are not newer for it.
        stage.dio.refresh().unwrap();
        assert_eq!(stage.view.row_count(), 5);
        held.let_one_pass();
        let (done, other) = loop {
            match (first.state().has_ended(), second.state().has_ended()) {
                (true, false) => break (first, second),
                (false, true) => break (second, first),
                _ => drop(first.wait(Duration::from_millis(1))),
            }
        };
        done.wait(SOON).unwrap();
        let x = stage.view.position_of("x").unwrap();
        assert_eq!(x.is_some(), done.id().as_deref() == Some("srv-1"), "x was found while that one alone was there");
        drop(held);
        other.wait(SOON).unwrap();
        stage.dio.refresh().unwrap();
        assert_eq!(stage.view.row_count(), 6);
    });
}

#[test]
fn w4_a_row_that_is_gone_before_the_answer_comes_never_shows() {
    on_both(|cache| {
        let (stage, held, ticket) = at_the_source(&cache, "w4-gone");
        stage.source.outside_silently().upsert("x", product("Xylophone", 7)).unwrap();
        stage.source.outside_silently().upsert("y", product("Yo-yo", 8)).unwrap();
        stage.dio.refresh().unwrap();
        stage.source.outside_silently().delete("x").unwrap();
        stage.dio.refresh().unwrap();
        stage.source.outside_silently().delete("y").unwrap();
        stage.dio.handle_event(ChangeEvent::Deleted { id: "y".to_owned() }).unwrap();
        drop(held);
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "srv-1=15"]);
    });
}

#[test]
fn w4_a_row_that_is_cleared_before_the_answer_comes_never_shows() {
    on_both(|cache| {
        let (stage, held, ticket) = at_the_source(&cache, "w4-cleared");
        stage.source.outside_silently().upsert("x", product("Xylophone", 7)).unwrap();
        stage.dio.refresh().unwrap();
        stage.dio.cache().clear().unwrap();
        drop(held);
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["srv-1=15"], "x was read before the cache was cleared");
        stage.dio.refresh().unwrap();
        assert_eq!(stage.shown(), ["srv-1=15", "a=30", "b=10", "c=20", "x=7"]);
    });
}

#[test]
fn w4_a_first_copy_waits_for_no_insert() {
    let source = products("w4-first").assign_ids_from("srv-");
    let lens = Cache::memory().lens().on_start_blocking(false).build().unwrap();
    let listed = source.hold(Call::List);
    let dio = lens.make_dio(source.clone()).unwrap();
    let view = dio.table_scenery().open().unwrap();
    let held = source.hold(Call::Insert);
    let ticket = dio.write(WriteOp::insert(product("Drum", 15))).unwrap();
    assert!(held.wait_until_held(1, SOON));
    drop(listed);
    dio.refresh().unwrap();
    assert_eq!(view.row_count(), 4);
    drop(held);
    ticket.wait(SOON).unwrap();
}

#[test]
fn w4_a_delete_all_after_an_insert_deletes_the_row_under_the_id_that_the_source_chose() {
    on_both(|cache| {
        let lens = cache.lens().delivery(DeliveryPolicy::default().parallel(3));
        let mut stage = Stage::on(lens, products("w4-all").assign_ids_from("srv-"));
        let inserts = [Some("a"), Some("d"), None]
            .map(|id| stage.write(WriteOp::Insert { id: id.map(str::to_owned), record: product("New", 1) }));
        stage.wait_until_so_many_are_held(Call::Insert, 3);
        let all = stage.write(WriteOp::delete_all());
        let mut mirror = Mirror::of(&stage.view);
        assert!(mirror.rows.is_empty());
        for _ in &inserts {
            stage.let_one_pass(Call::Insert);
        }
        for insert in inserts {
            insert.wait(SOON).unwrap();
            assert_eq!(mirror.follow(), (None, 0), "hidden before and after");
        }
        stage.let_go();
        all.wait(SOON).unwrap();
        assert_eq!((mirror.follow(), stage.source.row_count()), ((None, 0), 0));
    });
}
