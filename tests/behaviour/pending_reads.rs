//! W10: what is read from the source, or told from outside, while writes are not settled.

use diorama::Cause;
use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::stage::*;
use crate::support::*;

/// Blocks until the row is this in the source's own words, read again behind.
fn wait_until(stage: &Stage, rows: &[&str]) {
    wait_for(&stage.view, &format!("{rows:?}"), |snapshot| {
        prices(snapshot) == rows && snapshot.iter().all(|row| row.status() == RowStatus::Fresh)
    });
}

#[test]
fn w10_a_refresh_under_a_pending_write_leaves_its_row_alone_and_takes_the_others() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-under"));
        let ticket = stage.write(WriteOp::patch("a", price(99)));
        stage.source.outside_silently().patch("b", price(11)).unwrap();
        stage.dio.refresh().unwrap();
        assert_eq!(stage.shown(), ["a=99*", "b=11", "c=20"]);
        stage.let_go();
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=99", "b=11", "c=20"]);
    });
}

#[test]
fn w10_what_a_refresh_skipped_is_read_again_when_the_write_is_rejected() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-skipped"));
        stage.refuse_next(Call::Patch);
        let ticket = stage.write(WriteOp::patch("a", price(99)));
        stage.source.outside_silently().patch("a", price(31)).unwrap();
        stage.dio.refresh().unwrap();
        assert_eq!(stage.shown(), ["a=99*", "b=10", "c=20"]);
        stage.let_go();
        ticket.wait(SOON).unwrap_err();
        wait_until(&stage, &["a=31", "b=10", "c=20"]);
    });
}

#[test]
fn w10_a_refresh_that_still_lists_a_row_whose_deletion_is_pending_does_not_bring_it_back() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-deleted"));
        let ticket = stage.write(WriteOp::delete("b"));
        let mut mirror = Mirror::of(&stage.view);
        stage.dio.refresh().unwrap();
        assert_eq!(mirror.follow(), (None, 0));
        stage.let_go();
        ticket.wait(SOON).unwrap();
        stage.source.wait_until_called(Call::Get, 1, SOON);
        assert_eq!(stage.shown(), ["a=30", "c=20"]);
        stage.dio.refresh().unwrap();
        assert_eq!(mirror.follow(), (None, 0));
    });
}

#[test]
fn w10_a_refresh_that_does_not_list_a_pending_insert_leaves_it_in_place() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-inserted"));
        let ticket = stage.write(WriteOp::insert_as("d", product("Drum", 15)));
        let mut mirror = Mirror::of(&stage.view);
        stage.dio.refresh().unwrap();
        assert_eq!(mirror.follow(), (None, 0));
        stage.let_go();
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20", "d=15"]);
    });
}

#[test]
fn w10_a_refresh_that_began_before_a_write_was_rejected_undoes_nothing_newer() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-before"));
        let late = stage.source.hold_answer(Call::List);
        let refreshing = stage.dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        // What the list says of a is old: somebody told of it since.
        stage.refuse_next(Call::Patch);
        let ticket = stage.write(WriteOp::patch("a", price(99)));
        stage.dio.patched("a", product_of("a", "Anvil", 31)).unwrap();
        stage.let_go();
        ticket.wait(SOON).unwrap_err();
        assert_eq!(stage.shown(), ["a=31", "b=10", "c=20"]);
        late.release();
        refresh.end().unwrap();
        assert_eq!(stage.shown(), ["a=31", "b=10", "c=20"]);
    });
}

#[test]
fn w10_a_change_from_outside_goes_under_a_pending_patch() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-outside"));
        stage.refuse_next(Call::Patch);
        let ticket = stage.write(WriteOp::patch("a", price(99)));
        let mut events = stage.dio.subscribe_events();
        stage.dio.patched("a", product_of("a", "Amboss", 31)).unwrap();
        let shown = stage.dio.cache().get("a").unwrap().unwrap();
        assert_eq!(shown, product_of("a", "Amboss", 99), "the patch is folded over what was told");
        assert_eq!(stage.shown()[0], "a=99*");
        let causes: Vec<_> = events_now(&mut events).iter().filter_map(DioEvent::cause).collect();
        assert_eq!(causes, [Cause::Outside]);
        stage.let_go();
        ticket.wait(SOON).unwrap_err();
        assert_eq!(stage.dio.cache().get("a").unwrap().unwrap(), product_of("a", "Amboss", 31));
    });
}

#[test]
fn w10_a_row_that_is_deleted_outside_under_a_pending_patch_is_gone_and_comes_back_when_told() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-gone"));
        let ticket = stage.write(WriteOp::patch("a", price(99)));
        stage.source.outside_silently().delete("a").unwrap();
        stage.dio.cache().remove("a").unwrap();
        assert_eq!(stage.shown(), ["b=10", "c=20"], "a patch makes no row");
        stage.dio.patched("a", product_of("a", "Anvil", 31)).unwrap();
        assert_eq!(stage.shown(), ["a=99*", "b=10", "c=20"]);
        stage.dio.cache().remove("a").unwrap();
        stage.let_go();
        assert_eq!(kind_of(ticket.wait(SOON)), ErrorKind::NotFound);
        assert_eq!(stage.shown(), ["b=10", "c=20"]);
        stage.dio.flush().unwrap();
    });
}

#[test]
fn w10_a_refresh_under_a_pending_delete_all_brings_no_row_back_and_is_made_again() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-all-pending"));
        stage.refuse_next(Call::DeleteAll);
        let all = stage.write(WriteOp::delete_all());
        let mut mirror = Mirror::of(&stage.view);
        stage.source.outside_silently().patch("b", price(11)).unwrap();
        stage.source.outside_silently().upsert("d", product("Drum", 15)).unwrap();
        stage.dio.refresh().unwrap();
        assert_eq!(mirror.follow(), (None, 0), "no row comes back, and no new one shows alone");
        stage.let_go();
        all.wait(SOON).unwrap_err();
        wait_until(&stage, &["a=30", "b=11", "c=20", "d=15"]);
    });
}

#[test]
fn w10_the_read_that_follows_a_delete_all_takes_what_was_told_before_it_began_and_leaves_what_was_told_since() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-all-then-told"));
        let first = stage.source.hold_answer(Call::List);
        let refreshing = stage.dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(first.wait_until_held(1, SOON));
        let all = stage.write(WriteOp::delete_all());
        // What is read under it is kept off, so that all rows are read again after it. The load thread does one read after
        // the other: once it asks for b, what it read of a was kept off.
        for (id, calls) in [("a", 1), ("b", 2)] {
            stage.dio.handle_event(ChangeEvent::Updated { id: id.to_owned(), record: None }).unwrap();
            assert!(stage.source.wait_until_called(Call::Get, calls, SOON));
        }
        stage.let_go();
        all.wait(SOON).unwrap();
        // The source has neither of these two.
        stage.dio.patched("t", product("Tuba", 1)).unwrap();
        let second = stage.source.hold(Call::List);
        first.release();
        refresh.end().unwrap();
        assert_eq!(stage.shown(), ["t=1"], "told after the first list was read");
        assert!(second.wait_until_held(1, SOON));
        stage.dio.patched("u", product("Urn", 2)).unwrap();
        assert_eq!(stage.shown(), ["t=1", "u=2"]);
        second.release();
        wait_until(&stage, &["u=2"]);
        assert_eq!(stage.source.calls(Call::List), 3);
    });
}

#[test]
fn w10_what_a_delete_all_kept_off_is_read_again_after_a_refresh_that_began_before() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-all-under-way"));
        stage.refuse_next(Call::DeleteAll);
        let all = stage.write(WriteOp::delete_all());
        let late = stage.source.hold_answer(Call::List);
        let refreshing = stage.dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        // Nobody tells of this, and the list that is on its way doesn't know it.
        stage.source.outside_silently().patch("b", price(11)).unwrap();
        for (id, calls) in [("a", 1), ("b", 2), ("c", 3)] {
            stage.dio.handle_event(ChangeEvent::Updated { id: id.to_owned(), record: None }).unwrap();
            assert!(stage.source.wait_until_called(Call::Get, calls, SOON));
        }
        stage.let_go();
        all.wait(SOON).unwrap_err();
        assert_eq!(stage.shown(), ["a=30", "b=10", "c=20"]);
        late.release();
        refresh.end().unwrap();
        wait_until(&stage, &["a=30", "b=11", "c=20"]);
    });
}

#[test]
fn w10_clearing_the_cache_goes_under_pending_writes() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-clear"));
        let tickets =
            [WriteOp::patch("a", price(99)), WriteOp::upsert("b", product("Bell", 11))].map(|op| stage.write(op));
        stage.dio.cache().clear().unwrap();
        assert_eq!(stage.shown(), ["b=11*"]);
        stage.let_go();
        tickets.iter().for_each(|ticket| drop(ticket.wait(SOON).unwrap()));
        assert_eq!(stage.shown(), ["a=99", "b=11"]);
    });
}

#[test]
fn w10_clearing_the_cache_goes_under_a_pending_delete_all() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-clear-all"));
        stage.refuse_next(Call::DeleteAll);
        let all = stage.write(WriteOp::delete_all());
        stage.dio.cache().clear().unwrap();
        stage.dio.cache().insert("b", product("Bell", 12)).unwrap();
        stage.let_go();
        all.wait(SOON).unwrap_err();
        assert_eq!(stage.shown(), ["b=12"], "what was cleared does not come back");
    });
}

#[test]
fn w10_the_facade_reads_what_is_pending_and_its_own_writes_wait_for_the_source() {
    on_both(|cache| {
        let mut stage = Stage::new(&cache, products("w10-facade"));
        let facade = stage.dio.vista();
        let ticket = stage.write(WriteOp::patch("a", price(5)));
        let mut cheap = stage.dio.vista();
        cheap.add_condition(Condition::lt("price", 20)).unwrap();
        let ids: Vec<String> = cheap.list_values().unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!((ids, cheap.get_count().unwrap()), (strings(["a", "b"]), 2));
        let writing = start("a write through the facade", move || facade.delete("b"));
        wait_for(&stage.view, "the facade's delete", |snapshot| snapshot.row_count() == 2);
        assert!(is_still_waiting(&writing));
        stage.let_go();
        writing.end().unwrap();
        ticket.wait(SOON).unwrap();
        assert_eq!(stage.shown(), ["a=5", "c=20"]);
    });
}

// ---- closing -------------------------------------------------------------------------------------------------------

#[cfg(feature = "lmdb")]
#[test]
fn w9_a_cache_file_holds_confirmed_rows_only() {
    in_time(|| {
        let cache = Cache::disk();
        let source = products("w9-confirmed");
        {
            let lens = cache.lens().build().unwrap();
            let dio = lens.make_dio(source.clone()).unwrap();
            write(&dio, WriteOp::patch("c", price(21))).unwrap();
            let held = WRITES.map(|call| source.hold(call));
            let at_the_source = dio.write(WriteOp::patch("a", price(99))).unwrap();
            assert!(held[3].wait_until_held(1, SOON));
            let pointless =
                [WriteOp::delete("b"), WriteOp::insert_as("d", product("Drum", 15))].map(|op| dio.write(op).unwrap());
            let all = dio.write(WriteOp::delete_all()).unwrap();
            // It makes those pointless that have not come to the source.
            for ticket in &pointless {
                assert_eq!(kind_of(ticket.wait(SOON)), ErrorKind::Cancelled);
            }
            dio.flush().unwrap();
            assert_eq!(cached(&dio), Vec::<String>::new());
            let report = lens.close(std::time::Duration::from_millis(1)).unwrap();
            assert_eq!((report.delivered, report.failed, report.kept), (1, 0, 2), "{report:?}");
            assert_eq!([at_the_source, all].map(|ticket| kind_of(ticket.wait(SOON))), [ErrorKind::Closed; 2]);
            drop(held);
            assert!(lens.close(SOON).unwrap().is_closed());
        }
        // Nothing else in the cache knows of them.
        std::fs::remove_dir_all(cache.path().unwrap().join("journal")).unwrap();
        source.set_offline(true);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=21"]);
    });
}
