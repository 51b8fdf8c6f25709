//! W10: reads that began before a write never undo it.

use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::support::*;

// ---- W10: stale reads never undo a write ---------------------------------------------------------------------------

/// Whether the stale list is held before or after it read its rows, and when the writes come.
#[derive(Clone, Copy, Debug)]
enum When {
    /// Accepted before the answer, delivered and settled before it.
    Settled,
    /// Accepted before the answer, under way until after it.
    Pending,
}

/// A refresh has read its rows and not answered while each kind of write is made; then it answers.
fn stale_refresh(cache: &Cache, when: When) {
    let source = products("w10-refresh").with_rows([("d", product("Drum", 40)), ("e", product("Egg", 50))]);
    let lens = cache.lens().build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    let view = dio.table_scenery().sort("name", SortDir::Asc).open().unwrap();
    // Somebody else changed b, which is not written here: the refresh is to bring that.
    source.outside_silently().patch("b", record! { "price" => 11 }).unwrap();
    let late = source.hold_answer(Call::List);
    let refreshing = dio.clone();
    let refresh = start("refresh", move || refreshing.refresh());
    assert!(late.wait_until_held(1, SOON));

    let slow = matches!(when, When::Pending).then(|| source.hold(Call::Patch));
    let tickets = [
        WriteOp::patch("a", record! { "price" => 99 }),
        WriteOp::delete("c"),
        WriteOp::insert_as("n", product("New", 70)),
        WriteOp::replace("d", product("Drum", 41)),
        WriteOp::delete("e"),
        WriteOp::upsert("e", product("Egg", 51)),
    ]
    .map(|op| dio.write(op).unwrap());
    if let Some(slow) = slow {
        assert!(slow.wait_until_held(1, SOON));
        late.release();
        refresh.end().unwrap();
        slow.release();
        for ticket in &tickets {
            ticket.wait(SOON).unwrap();
        }
    } else {
        for ticket in &tickets {
            ticket.wait(SOON).unwrap();
        }
        late.release();
        refresh.end().unwrap();
    }
    assert_eq!(prices(&view.snapshot()), ["a=99", "b=11", "d=41", "e=51", "n=70"], "{when:?}");
    assert_eq!(cached(&dio), ["a=99", "b=11", "d=41", "e=51", "n=70"], "{when:?}");
    dio.refresh().unwrap();
    assert_eq!(cached(&dio), ["a=99", "b=11", "d=41", "e=51", "n=70"], "{when:?}");
    dio.flush().unwrap();
}

#[test]
fn w10_a_refresh_that_began_before_writes_were_settled_undoes_none_of_them() {
    on_both(|cache| stale_refresh(&cache, When::Settled));
}

#[test]
fn w10_a_refresh_that_ends_while_writes_are_pending_undoes_none_of_them() {
    on_both(|cache| stale_refresh(&cache, When::Pending));
}

#[test]
fn w10_a_refresh_that_began_before_delete_all_brings_no_row_back() {
    on_both(|cache| {
        let source = products("w10-all");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        write(&dio, WriteOp::delete_all()).unwrap();
        write(&dio, WriteOp::insert_as("n", product("New", 70))).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["n=70"]);
    });
}

#[test]
fn w10_a_refresh_that_began_before_an_insert_whose_id_the_source_chose_does_not_remove_it() {
    on_both(|cache| {
        let source = products("w10-chosen").assign_ids_from("srv-");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        write(&dio, WriteOp::insert(product("New", 70))).unwrap();
        write(&dio, WriteOp::insert_as("mine", product("New", 71))).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "srv-1=70", "srv-2=71"]);
    });
}

#[test]
fn w10_a_deleted_row_is_not_brought_back_by_a_later_list_that_began_before_the_deletion() {
    on_both(|cache| {
        let source = products("w10-chosen-gone").assign_ids_from("srv-");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        write(&dio, WriteOp::insert(product("New", 70))).unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        write(&dio, WriteOp::delete("srv-1")).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
    });
}

#[test]
fn w10_a_row_confirmed_as_it_is_is_not_overwritten_by_a_list_that_began_before() {
    on_both(|cache| {
        let source = products("w10-as-it-is");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        source.outside_silently().patch("a", record! { "price" => 99 }).unwrap();
        let held = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        std::thread::scope(|threads| {
            let refresh = threads.spawn(move || refreshing.refresh());
            assert!(held.wait_until_held(1, SOON));
            // Newer than the list: the row is back to what the cache has anyway.
            let row = dio.cache().get("a").unwrap().unwrap();
            dio.patched("a", row.clone()).unwrap();
            held.release();
            refresh.join().unwrap().unwrap();
            assert_eq!(dio.cache().get("a").unwrap(), Some(row));
        });
    });
}

#[test]
fn w10_a_row_told_to_be_gone_that_the_cache_never_had_is_not_brought_by_a_list_that_began_before() {
    on_both(|cache| {
        let source = products("w10-told-gone");
        let late = source.hold_answer(Call::List);
        let lens = cache.lens().on_start_blocking(false).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        assert!(late.wait_until_held(1, SOON));
        source.outside_silently().delete("a").unwrap();
        dio.handle_event(ChangeEvent::Deleted { id: "a".to_owned() }).unwrap();
        source.outside_silently().delete("b").unwrap();
        dio.cache().remove("b").unwrap();
        late.release();
        until("the first copy has ended", || dio.status().complete);
        assert_eq!(cached(&dio), ["c=20"]);
    });
}

#[test]
fn w10_a_row_told_or_read_again_as_it_is_is_not_overwritten_by_a_list_that_began_before() {
    on_both(|cache| {
        let source = products("w10-told-as-is");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        for id in ["a", "b"] {
            source.outside_silently().upsert(id, product("Older", 1)).unwrap();
        }
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        // Both go back to what the cache has: the list that is on its way is the older news.
        source.outside_silently().upsert("a", product("Anvil", 30)).unwrap();
        source.outside_silently().upsert("b", product("Bell", 10)).unwrap();
        let record = Some(product("Anvil", 30));
        dio.handle_event(ChangeEvent::Updated { id: "a".to_owned(), record }).unwrap();
        let seq = dio.seq();
        dio.handle_event(ChangeEvent::Updated { id: "b".to_owned(), record: None }).unwrap();
        dio.wait_for_seq(seq.next(), Some(SOON)).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
    });
}

#[test]
fn w10_a_re_read_of_one_row_that_began_before_a_write_does_not_undo_it() {
    on_both(|cache| {
        let source = products("w10-reread");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let late = source.hold_answer(Call::Get);
        dio.invalidate_record("a");
        assert!(late.wait_until_held(1, SOON));
        // The load thread does one read after the other.
        write(&dio, WriteOp::patch("a", record! { "price" => 99 })).unwrap();
        late.let_one_pass();
        dio.invalidate_record("c");
        assert!(late.wait_until_held(1, SOON));
        while source.calls(Call::Get) < 2 {
            assert!(source.wait_until_called(Call::Get, 2, SOON));
        }
        assert_eq!(dio.cache().get("a").unwrap().unwrap().int("price"), Some(99));
        write(&dio, WriteOp::delete("c")).unwrap();
        late.release();
        dio.invalidate_record("b");
        assert!(source.wait_until_called(Call::Get, 3, SOON));
        wait_for(&view, "b re-read", |rows| rows.iter().all(|row| row.status() == RowStatus::Fresh));
        assert_eq!(cached(&dio), ["a=99", "b=10"]);
    });
}

#[test]
fn w10_an_invalidated_row_that_is_gone_at_the_source_goes_and_a_new_one_comes() {
    on_both(|cache| {
        let source = products("w10-gone");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        source.outside_silently().delete("a").unwrap();
        source.outside_silently().upsert("n", product("New", 70)).unwrap();
        dio.invalidate_record("a");
        dio.invalidate_record("n");
        wait_for(&view, "n for a", |rows| ids(rows) == ["b", "c", "n"]);
        assert_eq!(source.calls(Call::List), 1, "only these rows were read");
    });
}

#[test]
fn w10_reconcile_as_of_leaves_alone_what_was_written_since_and_reconcile_takes_the_rows_as_read_now() {
    on_both(|cache| {
        let source = products("w10-as-of");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let began = dio.seq();
        let mut rows = source.rows();
        write(&dio, WriteOp::patch("a", record! { "price" => 99 })).unwrap();
        write(&dio, WriteOp::delete("c")).unwrap();
        write(&dio, WriteOp::insert_as("n", product("New", 70))).unwrap();
        rows[1].1 = product("Bell", 12);
        rows.push(("o".to_owned(), product("Old", 80)));
        dio.reconcile_as_of(began, rows.clone()).unwrap();
        assert_eq!(cached(&dio), ["a=99", "b=12", "n=70", "o=80"]);
        dio.reconcile(rows).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=12", "c=20", "o=80"]);
    });
}

#[test]
fn w10_a_refresh_callback_that_began_before_a_write_does_not_undo_it() {
    on_both(|cache| {
        let source = products("w10-callback");
        let lens = cache
            .lens()
            .on_refresh(|dio| {
                let rows = dio.master().list(&CallCx::new())?;
                dio.cache().clear()?;
                dio.cache().insert_many(rows)
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let late = source.hold_answer(Call::List);
        let refreshing = dio.clone();
        let refresh = start("refresh", move || refreshing.refresh());
        assert!(late.wait_until_held(1, SOON));
        write(&dio, WriteOp::patch("a", record! { "price" => 99 })).unwrap();
        write(&dio, WriteOp::delete("b")).unwrap();
        write(&dio, WriteOp::insert_as("n", product("New", 70))).unwrap();
        late.release();
        refresh.end().unwrap();
        assert_eq!(cached(&dio), ["a=99", "c=20", "n=70"]);
    });
}
