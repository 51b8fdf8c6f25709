//! W: writes that are shown and not settled: what they show, and what a refusal takes back.

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{Cause, RecordStatus, WriteState, WriteTicket};

use crate::stage::*;
use crate::support::*;

// ---- W1: an accepted write shows before the source is called -------------------------------------------------------

#[test]
fn w1_each_kind_of_write_shows_in_every_view_before_the_source_has_done_anything() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-shows"));
        let dio = stage.dio.clone();
        let by_price = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        let cheap = dio.table_scenery().condition(Condition::lt("price", 20)).open().unwrap();
        let records = ["a", "b", "c", "d"].map(|id| dio.record_scenery(id).unwrap());
        let (count, sum) =
            (dio.value_scenery().count().open().unwrap(), dio.value_scenery().sum("price").open().unwrap());
        let facade = dio.vista();
        stage.write(WriteOp::patch("a", price(5)));
        stage.write(WriteOp::delete("b"));
        stage.write(WriteOp::replace("c", price(50)));
        stage.write(WriteOp::insert_as("d", product("Drum", 15)));
        stage.write(WriteOp::upsert("e", product("Egg", 1)));
        assert_eq!(stage.shown(), ["a=5*", "c=50*", "d=15*", "e=1*"]);
        assert_eq!(marked(&by_price), ["e=1*", "a=5*", "d=15*", "c=50*"]);
        assert_eq!(marked(&cheap), ["a=5*", "d=15*", "e=1*"]);
        let statuses = records.each_ref().map(|record| record.status());
        assert_eq!(
            statuses,
            [
                RecordStatus::PendingWrite,
                RecordStatus::NotFound,
                RecordStatus::PendingWrite,
                RecordStatus::PendingWrite
            ]
        );
        assert_eq!(records[0].record().unwrap().text("name"), Some("Anvil"), "a patch merges");
        assert_eq!(records[2].record().unwrap().text("name"), None, "a replace doesn't");
        assert_eq!((count.int(), sum.int()), (Some(4), Some(71)));
        assert_eq!(cached(&dio), ["a=5", "c=50", "d=15", "e=1"]);
        assert_eq!((facade.get_count().unwrap(), facade.get_value("b").unwrap()), (4, None));
        assert_eq!(facade.get_value("a").unwrap().unwrap().int("price"), Some(5));
        let opened = dio.table_scenery().sort("price", SortDir::Desc).open().unwrap();
        assert_eq!(marked(&opened), ["c=50*", "d=15*", "a=5*", "e=1*"], "a view that is opened meanwhile, too");
        assert_eq!(stage.source.row("a").unwrap().int("price"), Some(30), "the source has done nothing yet");
        assert_eq!(dio.status().pending_writes, 5);
        stage.let_go();
    });
}

#[test]
fn w1_a_write_moves_a_view_once_when_it_shows_and_once_when_it_is_confirmed() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-steps"));
        let other = stage.dio.table_scenery().where_eq("name", "Bell").open().unwrap();
        let record = stage.dio.record_scenery("a").unwrap();
        let mut mirror = Mirror::of(&stage.view);
        let (before, other_before) = (record.generation(), other.generation());
        let ticket = stage.write(WriteOp::patch("a", price(5)));
        assert_eq!(mirror.follow(), (Some(Cause::Local), 1));
        assert_eq!((record.status(), record.generation()), (RecordStatus::PendingWrite, before.next()));
        stage.let_go();
        ticket.wait(SOON).unwrap();
        assert_eq!(mirror.follow(), (Some(Cause::Confirmed), 1));
        assert_eq!((record.status(), record.generation()), (RecordStatus::Fresh, before.next().next()));
        assert_eq!(stage.shown(), ["a=5", "b=10", "c=20"]);
        assert_eq!(other.generation(), other_before, "a view that the row doesn't concern never moves");
    });
}

#[test]
fn w1_a_confirmed_row_shows_what_the_source_made_of_it() {
    on_both(|cache| {
        let source = products("w1-made");
        let rows = source.clone();
        let (go, may_go) = crossbeam_channel::bounded::<()>(1);
        let lens = cache
            .lens()
            .on_write(move |dio, op| {
                let _ = may_go.recv_timeout(SOON);
                dio.master().write(&CallCx::new(), op)?;
                // The source rounds prices.
                Ok(Written { id: Some("a".to_owned()), record: Some(product("Anvil, rounded", 10)) })
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(rows).unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Asc).sort("name", SortDir::Asc).open().unwrap();
        let mut mirror = Mirror::of(&view);
        let ticket = dio.write(WriteOp::patch("a", price(11))).unwrap();
        assert_eq!(marked(&view), ["b=10", "a=11*", "c=20"]);
        mirror.follow();
        go.send(()).unwrap();
        ticket.wait(SOON).unwrap();
        assert_eq!(marked(&view), ["a=10", "b=10", "c=20"]);
        assert_eq!(mirror.follow(), (Some(Cause::Confirmed), 1));
    });
}

#[test]
fn w1_a_rejected_write_returns_the_last_confirmed_value_to_its_place_and_says_why_everywhere() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-rejected"));
        let by_price = stage.dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        let sum = stage.dio.value_scenery().sum("price").open().unwrap();
        let record = stage.dio.record_scenery("c").unwrap();
        let mut mirrors = [Mirror::of(&stage.view), Mirror::of(&by_price)];
        let before = stage.view.snapshot().row(2).unwrap().enriched().unwrap().row_no();
        let mut events = stage.dio.subscribe_events();
        stage.refuse_next(Call::Patch);
        let ticket = stage.write(WriteOp::patch("c", price(1)));
        assert_eq!(
            (stage.shown(), marked(&by_price)),
            (strings(["a=30", "b=10", "c=1*"]), strings(["c=1*", "b=10", "a=30"]))
        );
        assert_eq!(sum.int(), Some(41));
        for mirror in &mut mirrors {
            assert_eq!(mirror.follow(), (Some(Cause::Local), 1));
        }
        stage.let_go();
        assert_eq!(ticket.wait(SOON).unwrap_err().kind(), ErrorKind::Rejected);
        assert_eq!(
            (stage.shown(), marked(&by_price)),
            (strings(["a=30", "b=10", "c=20"]), strings(["b=10", "c=20", "a=30"]))
        );
        assert_eq!((sum.int(), record.status()), (Some(60), RecordStatus::Fresh));
        assert_eq!(record.record().unwrap(), product("Chain", 20), "exactly as it was");
        for mirror in &mut mirrors {
            assert_eq!(mirror.follow(), (Some(Cause::RolledBack), 1));
        }
        let after = stage.view.snapshot().row(2).unwrap().enriched().unwrap().row_no();
        assert_eq!(after, before, "it is the same row");
        let WriteState::Rejected(error) = ticket.state() else { panic!("{ticket:?}") };
        assert!(error.message().contains("on purpose"), "{error}");
        let seen = events_until(&mut events, "WriteFailed", |event| matches!(event, DioEvent::WriteFailed { .. }));
        let DioEvent::WriteFailed { id, error, .. } = seen.last().unwrap() else { panic!("{seen:?}") };
        assert_eq!((id.as_deref(), error.kind()), (Some("c"), ErrorKind::Rejected));
        let causes: Vec<Cause> = seen.iter().filter_map(DioEvent::cause).collect();
        assert_eq!(causes, [Cause::Local, Cause::RolledBack]);
        stage.dio.refresh().unwrap();
        assert_eq!(mirrors.each_mut().map(Mirror::follow), [(None, 0), (None, 0)], "nothing of it is left");
    });
}

#[test]
fn w1_a_rejected_delete_brings_the_row_back_to_its_place() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-undelete"));
        let record = stage.dio.record_scenery("b").unwrap();
        let mut mirror = Mirror::of(&stage.view);
        stage.refuse_next(Call::Delete);
        let ticket = stage.write(WriteOp::delete("b"));
        assert_eq!(stage.shown(), ["a=30", "c=20"]);
        assert_eq!(record.status(), RecordStatus::NotFound);
        mirror.follow();
        stage.let_go();
        ticket.wait(SOON).unwrap_err();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20"]);
        assert_eq!(record.status(), RecordStatus::Fresh);
        assert_eq!(mirror.follow(), (Some(Cause::RolledBack), 1));
    });
}

#[test]
fn w1_a_confirmed_delete_moves_no_view_again() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-delete"));
        let ticket = stage.write(WriteOp::delete("b"));
        let mut mirror = Mirror::of(&stage.view);
        stage.let_go();
        ticket.wait(SOON).unwrap();
        assert_eq!(mirror.follow(), (None, 0));
        assert_eq!(stage.shown(), ["a=30", "c=20"]);
    });
}

#[test]
fn w1_a_write_that_changes_nothing_shows_as_pending_all_the_same() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-same"));
        let mut mirror = Mirror::of(&stage.view);
        let ticket = stage.write(WriteOp::patch("b", price(10)));
        assert_eq!(stage.shown(), ["a=30", "b=10*", "c=20"]);
        assert_eq!(mirror.follow(), (Some(Cause::Local), 1));
        stage.let_go();
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20"]);
        assert_eq!(mirror.follow(), (Some(Cause::Confirmed), 1));
    });
}

#[test]
fn w1_a_row_that_a_write_takes_into_a_condition_or_out_of_it_goes_and_comes_back() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-condition"));
        let cheap = stage.dio.table_scenery().condition(Condition::le("price", 10)).open().unwrap();
        let first = stage.dio.table_scenery().sort("price", SortDir::Asc).limit(1).open().unwrap();
        let found = stage.dio.table_scenery().search("bell").open().unwrap();
        let mut mirrors = [&cheap, &first, &found].map(Mirror::of);
        stage.refuse_next(Call::Patch);
        let leaves = stage.write(WriteOp::patch("b", record! { "price" => 100, "name" => "Gong" }));
        assert_eq!((marked(&cheap), marked(&first), marked(&found)), (strings([]), strings(["c=20"]), strings([])));
        let enters = stage.write(WriteOp::patch("a", record! { "price" => 1, "name" => "Bell jar" }));
        assert_eq!((marked(&cheap), marked(&first)), (strings(["a=1*"]), strings(["a=1*"])));
        assert_eq!(marked(&found), ["a=1*"]);
        for mirror in &mut mirrors {
            mirror.follow();
        }
        stage.let_go();
        leaves.wait(SOON).unwrap_err();
        enters.wait(SOON).unwrap();
        assert_eq!((marked(&cheap), marked(&first)), (strings(["a=1", "b=10"]), strings(["a=1"])));
        assert_eq!(marked(&found), ["a=1", "b=10"]);
        for mirror in &mut mirrors {
            mirror.follow();
        }
    });
}

#[test]
fn w1_a_snapshot_taken_before_keeps_its_content_through_showing_refusal_and_confirmation() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-snapshot"));
        let before = stage.view.snapshot();
        let frozen = |snapshot: &diorama::TableSnapshot| {
            let rows: Vec<_> =
                snapshot.iter().map(|row| (row.id().to_owned(), row.int("price"), row.status())).collect();
            (rows, snapshot.position_of("b").unwrap(), snapshot.position_of("d").unwrap())
        };
        let at_first = frozen(&before);
        stage.refuse_next(Call::Patch);
        let tickets =
            [WriteOp::patch("a", price(1)), WriteOp::delete("b"), WriteOp::insert_as("d", product("Drum", 4))]
                .map(|op| stage.write(op));
        let pending = stage.view.snapshot();
        let meanwhile = frozen(&pending);
        assert_eq!(meanwhile.0[0], ("a".to_owned(), Some(1), RowStatus::PendingWrite));
        assert_eq!(frozen(&before), at_first);
        stage.let_go();
        tickets[0].wait(SOON).unwrap_err();
        tickets[1].wait(SOON).unwrap();
        tickets[2].wait(SOON).unwrap();
        stage.dio.flush().unwrap();
        assert_eq!((frozen(&before), frozen(&pending)), (at_first, meanwhile));
        assert_eq!(stage.shown(), ["a=30", "c=20", "d=4"]);
    });
}

#[test]
fn w1_a_patch_of_a_row_that_nobody_here_knows_shows_nothing_until_the_source_has_confirmed_it() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-unknown"));
        stage.source.outside_silently().upsert("d", product("Drum", 15)).unwrap();
        let mut mirror = Mirror::of(&stage.view);
        let tickets = [
            stage.write(WriteOp::patch("d", price(16))),
            stage.write(WriteOp::patch("nobody", price(1))),
            stage.write(WriteOp::replace("no one", price(1))),
        ];
        assert_eq!(mirror.follow(), (None, 0));
        assert_eq!(stage.dio.status().pending_writes, 3);
        stage.let_go();
        tickets[0].wait(SOON).unwrap();
        assert_eq!(kind_of(tickets[1].wait(SOON)), ErrorKind::NotFound);
        assert_eq!(kind_of(tickets[2].wait(SOON)), ErrorKind::NotFound);
        mirror.follow();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "d=16"]);
        assert_eq!(stage.dio.cache().get("d").unwrap().unwrap().text("name"), Some("Drum"), "whole");
    });
}

#[test]
fn w1_a_confirmed_patch_of_a_row_that_was_forgotten_here_meanwhile_brings_the_row_back() {
    on_both(|cache| {
        let source = products("w1-forgotten");
        let lens = cache
            .lens()
            .on_write(|dio, op| dio.master().write(&CallCx::new(), op).map(|_| Written::default()))
            .build()
            .unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let held = source.hold(Call::Patch);
        let patch = dio.write(WriteOp::patch("b", price(11))).unwrap();
        dio.cache().remove("b").unwrap();
        assert_eq!(marked(&view), ["a=30", "c=20"]);
        held.release();
        patch.wait(SOON).unwrap();
        wait_for(&view, "the row that the source has", |snapshot| prices(snapshot) == ["a=30", "c=20", "b=11"]);
        // One behind another that is refused: what nobody here knew is read, too.
        source.outside_silently().upsert("d", product("Drum", 15)).unwrap();
        source.fail_next(Call::Patch, 1, Error::new(ErrorKind::Rejected, "on purpose"));
        let held = source.hold(Call::Patch);
        let patches = [1, 16].map(|n| dio.write(WriteOp::patch("d", price(n))).unwrap());
        held.release();
        patches[0].wait(SOON).unwrap_err();
        patches[1].wait(SOON).unwrap();
        assert_eq!(marked(&view), ["a=30", "c=20", "b=11", "d=16"]);
    });
}

#[test]
fn w1_a_value_view_follows_what_is_pending_and_returns_to_what_was_confirmed() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-values"));
        let values = stage.dio.value_scenery();
        let views = [
            values.max("price").open(),
            stage.dio.value_scenery().sum("price").open(),
            stage.dio.value_scenery().count().where_eq("name", "Bell").open(),
        ]
        .map(Result::unwrap);
        let shown = || views.each_ref().map(|view| view.int());
        let before = views.each_ref().map(|view| view.generation());
        stage.refuse_next(Call::Delete);
        let delete = stage.write(WriteOp::delete("a"));
        assert_eq!(shown(), [Some(20), Some(30), Some(1)]);
        let insert = stage.write(WriteOp::insert(product("Bell", 99)));
        assert_eq!(shown(), [Some(99), Some(129), Some(2)]);
        stage.let_go();
        delete.wait(SOON).unwrap_err();
        insert.wait(SOON).unwrap();
        assert_eq!(shown(), [Some(99), Some(159), Some(2)]);
        let steps: Vec<u64> = views.iter().zip(before).map(|(view, before)| view.generation().0 - before.0).collect();
        assert_eq!(steps, [2, 3, 1], "only what moved the result moved the view");
    });
}

#[test]
fn w1_events_tell_of_each_row_once_when_it_shows_and_once_when_it_settles() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w1-events"));
        let mut events = stage.dio.subscribe_events();
        stage.refuse_next(Call::Delete);
        let tickets = [WriteOp::insert_as("d", product("Drum", 15)), WriteOp::delete("b")].map(|op| stage.write(op));
        let shown = names(&events_now(&mut events));
        assert_eq!(shown, ["RecordInserted d", "WritePending d", "RecordRemoved b", "WritePending b"]);
        stage.let_one_pass(Call::Insert);
        tickets[0].wait(SOON).unwrap();
        assert_eq!(names(&events_now(&mut events)), ["RecordChanged d", "WriteSettled d"]);
        stage.let_go();
        tickets[1].wait(SOON).unwrap_err();
        assert_eq!(names(&events_now(&mut events)), ["RecordInserted b", "WriteFailed b"]);
    });
}

// ---- W2: several writes on one row ---------------------------------------------------------------------------------

#[test]
fn w2_the_first_of_two_writes_is_rejected_and_takes_only_its_own_effect_back() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w2-first"));
        let mut mirror = Mirror::of(&stage.view);
        stage.refuse_next(Call::Patch);
        let first = stage.write(WriteOp::patch("b", record! { "price" => 11, "colour" => "red" }));
        let second = stage.write(WriteOp::patch("b", record! { "name" => "Gong", "size" => 3 }));
        let shown = || stage.dio.cache().get("b").unwrap().unwrap();
        let mut both = product_of("b", "Gong", 11);
        both.merge(&record! { "colour" => "red", "size" => 3 });
        assert_eq!(shown(), both);
        mirror.follow();
        stage.let_one_pass(Call::Patch);
        first.wait(SOON).unwrap_err();
        let mut only_second = product_of("b", "Gong", 10);
        only_second.merge(&record! { "size" => 3 });
        assert_eq!(stage.dio.cache().get("b").unwrap().unwrap(), only_second);
        assert_eq!(stage.shown(), ["a=30", "b=10*", "c=20"], "the second is still on its way");
        assert_eq!(mirror.follow(), (Some(Cause::RolledBack), 1));
        stage.let_go();
        second.wait(SOON).unwrap();
        assert_eq!(stage.dio.cache().get("b").unwrap().unwrap(), only_second);
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20"]);
        assert_eq!(stage.source.row("b").unwrap().int("size"), Some(3));
    });
}

#[test]
fn w2_the_second_of_two_writes_is_rejected_and_the_first_stays() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w2-second"));
        let first = stage.write(WriteOp::patch("b", price(11)));
        let second = stage.write(WriteOp::replace("b", price(12)));
        assert_eq!(stage.shown(), ["a=30", "b=12*", "c=20"]);
        stage.refuse_next(Call::Replace);
        stage.let_go();
        first.wait(SOON).unwrap();
        second.wait(SOON).unwrap_err();
        assert_eq!(stage.shown(), ["a=30", "b=11", "c=20"]);
        assert_eq!(stage.dio.cache().get("b").unwrap().unwrap().text("name"), Some("Bell"));
    });
}

#[test]
fn w2_a_confirmed_write_keeps_what_later_ones_of_the_row_show() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w2-confirmed"));
        let mut mirror = Mirror::of(&stage.view);
        let first = stage.write(WriteOp::patch("b", price(11)));
        let second = stage.write(WriteOp::patch("b", price(12)));
        mirror.follow();
        stage.let_one_pass(Call::Patch);
        first.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=12*", "c=20"]);
        assert_eq!(mirror.follow(), (None, 0), "nothing that shows has moved");
        stage.let_go();
        second.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=12", "c=20"]);
        assert_eq!(mirror.follow(), (Some(Cause::Confirmed), 1));
    });
}

#[test]
fn w2_a_deleted_row_that_is_inserted_again_stays_when_the_deletion_is_rejected() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w2-again"));
        stage.refuse_next(Call::Delete);
        let delete = stage.write(WriteOp::delete("b"));
        assert_eq!(stage.shown(), ["a=30", "c=20"]);
        let upsert = stage.write(WriteOp::upsert("b", price(1)));
        assert_eq!(stage.shown(), ["a=30", "b=1*", "c=20"], "in its old place");
        stage.let_go();
        delete.wait(SOON).unwrap_err();
        upsert.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=1", "c=20"]);
    });
}

#[test]
fn w2_writes_of_one_row_reach_the_source_in_the_order_in_which_they_were_accepted() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w2-order"));
        let tickets: Vec<WriteTicket> = (0..20).map(|n| stage.write(WriteOp::patch("b", price(n)))).collect();
        assert!(tickets.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        stage.let_go();
        tickets.iter().for_each(|ticket| drop(ticket.wait(SOON).unwrap()));
        let seen: Vec<i64> = stage
            .source
            .writes()
            .iter()
            .filter_map(|write| match &write.op {
                WriteOp::Patch { record, .. } => record.int("price"),
                _ => None,
            })
            .collect();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        assert_eq!(stage.shown(), ["a=30", "b=19", "c=20"]);
    });
}

#[test]
fn w2_a_rejected_insert_takes_its_later_patches_with_it() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w2-orphans"));
        let mut mirror = Mirror::of(&stage.view);
        stage.refuse_next(Call::Insert);
        let insert = stage.write(WriteOp::insert_as("d", product("Drum", 15)));
        stage.wait_until_held(Call::Insert);
        let patches = [WriteOp::patch("d", price(16)), WriteOp::replace("d", price(17))].map(|op| stage.write(op));
        let other = stage.write(WriteOp::patch("a", price(31)));
        assert_eq!(stage.shown(), ["a=31*", "b=10", "c=20", "d=17*"]);
        mirror.follow();
        stage.let_go();
        assert_eq!(kind_of(insert.wait(SOON)), ErrorKind::Rejected);
        for patch in patches {
            let error = patch.wait(SOON).unwrap_err();
            assert_eq!((error.kind(), error.context("id")), (ErrorKind::NotFound, Some("d")));
        }
        other.wait(SOON).unwrap();
        mirror.follow();
        assert_eq!(stage.shown(), ["a=31", "b=10", "c=20"]);
        assert_eq!(stage.source.calls(Call::Replace), 0, "the source never hears of them");
        assert_eq!((stage.dio.status().failed_writes, stage.dio.status().pending_writes), (3, 0));
    });
}

#[test]
fn w2_a_rejected_patch_of_a_row_that_only_the_source_knows_leaves_later_writes_of_it_alone() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w2-known-there"));
        stage.source.outside_silently().upsert("d", product("Drum", 15)).unwrap();
        stage.refuse_next(Call::Patch);
        let first = stage.write(WriteOp::patch("d", price(1)));
        stage.wait_until_held(Call::Patch);
        let second = stage.write(WriteOp::patch("d", price(16)));
        stage.let_go();
        assert_eq!(kind_of(first.wait(SOON)), ErrorKind::Rejected);
        second.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "d=16"]);
    });
}

// ---- W3: delete-all ------------------------------------------------------------------------------------------------

#[test]
fn w3_delete_all_hides_every_row_at_once_and_what_follows_it_shows() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w3-all-hides"));
        let count = stage.dio.value_scenery().count().open().unwrap();
        let record = stage.dio.record_scenery("a").unwrap();
        let mut mirror = Mirror::of(&stage.view);
        let all = stage.write(WriteOp::delete_all());
        assert_eq!(mirror.follow(), (Some(Cause::Local), 1), "one step for all");
        assert_eq!((stage.shown().len(), count.int(), record.status()), (0, Some(0), RecordStatus::NotFound));
        let after = stage.write(WriteOp::upsert("b", product("Bell", 5)));
        let unknown = stage.write(WriteOp::patch("a", price(5)));
        assert_eq!(stage.shown(), ["b=5*"]);
        assert_eq!(stage.source.row_count(), 3);
        stage.let_go();
        all.wait(SOON).unwrap();
        after.wait(SOON).unwrap();
        assert_eq!(kind_of(unknown.wait(SOON)), ErrorKind::NotFound);
        mirror.follow();
        assert_eq!(stage.shown(), ["b=5"]);
        assert_eq!(cached(&stage.dio), ["b=5"]);
    });
}

#[test]
fn w3_a_rejected_delete_all_brings_every_row_back_in_its_old_order() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w3-all-back").with_rows([("0", product("Zero", 0))]));
        let by_price = stage.dio.table_scenery().sort("price", SortDir::Desc).open().unwrap();
        let mut mirror = Mirror::of(&stage.view);
        let before = mirror.rows.clone();
        stage.refuse_next(Call::DeleteAll);
        let all = stage.write(WriteOp::delete_all());
        mirror.follow();
        assert!(mirror.rows.is_empty());
        stage.let_go();
        assert_eq!(kind_of(all.wait(SOON)), ErrorKind::Rejected);
        assert_eq!(mirror.follow(), (Some(Cause::RolledBack), 1), "one step for all");
        assert_eq!(mirror.rows, before);
        assert_eq!(prices(&by_price.snapshot()), ["a=30", "c=20", "b=10", "0=0"]);
        stage.dio.refresh().unwrap();
        assert_eq!(mirror.follow(), (None, 0));
    });
}

#[test]
fn w3_a_rejected_delete_all_leaves_the_writes_before_and_after_it_their_effects() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w3-all-between"));
        let before = stage.write(WriteOp::patch("a", price(31)));
        stage.wait_until_held(Call::Patch);
        stage.refuse_next(Call::DeleteAll);
        let all = stage.write(WriteOp::delete_all());
        let after = stage.write(WriteOp::upsert("b", product("Bell", 11)));
        assert_eq!(stage.shown(), ["b=11*"]);
        stage.let_go();
        before.wait(SOON).unwrap();
        all.wait(SOON).unwrap_err();
        after.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=31", "b=11", "c=20"]);
    });
}

#[test]
fn w3_the_first_of_two_delete_alls_is_rejected_and_the_second_goes_on_hiding_every_row() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w3-all-twice"));
        stage.refuse_next(Call::DeleteAll);
        let first = stage.write(WriteOp::delete_all());
        stage.wait_until_held(Call::DeleteAll);
        let second = stage.write(WriteOp::delete_all());
        let mut mirror = Mirror::of(&stage.view);
        stage.let_one_pass(Call::DeleteAll);
        first.wait(SOON).unwrap_err();
        assert_eq!(mirror.follow(), (None, 0));
        assert!(stage.shown().is_empty());
        stage.let_go();
        second.wait(SOON).unwrap();
        assert_eq!(mirror.follow(), (None, 0));
        assert_eq!((cached(&stage.dio).len(), stage.source.row_count()), (0, 0));
        stage.dio.refresh().unwrap();
        assert!(stage.shown().is_empty());
    });
}
