//! W5: `delete_all` stands between what is before it and what comes after.

use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::ground::*;
use crate::support::*;

#[test]
fn w5_what_was_not_tried_before_a_delete_all_is_superseded_by_it_and_says_so() {
    in_time(|| {
        let ground = Ground::new(products("w5-superseded"));
        let (_lens, dio) = ground.dio(policy());
        let view = dio.table_scenery().open().unwrap();
        let held = ground.source.hold(Call::Patch);
        let under_way = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let waiting = dio.write(price("b", 11)).unwrap();
        let all = dio.write(WriteOp::delete_all()).unwrap();
        assert_eq!(view.row_count(), 0);
        held.release();
        assert_eq!(superseded_by(&waiting), all.number());
        assert_eq!(waiting.wait(SOON).unwrap_err().kind(), ErrorKind::Cancelled);
        confirmed(&under_way);
        confirmed(&all);
        assert!(ground.seen_of("b").is_empty());
        assert!(dio.failed_writes().is_empty());
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_what_comes_after_a_delete_all_waits_for_it() {
    in_time(|| {
        let ground = Ground::new(products("w5-after"));
        let (_lens, dio) = ground.dio(policy().parallel(3));
        let view = dio.table_scenery().open().unwrap();
        let held = ground.source.hold(Call::DeleteAll);
        let all = dio.write(WriteOp::delete_all()).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let insert = dio.write(WriteOp::insert_as("d", product("Drum", 4))).unwrap();
        assert_eq!(prices(&view.snapshot()), ["d=4"]);
        assert_eq!(ground.source.calls(Call::Insert), 0);
        held.release();
        confirmed(&all);
        confirmed(&insert);
        let calls: Vec<Call> = ground.seen().iter().map(|seen| seen.call).collect();
        assert_eq!(calls, [Call::DeleteAll, Call::Insert]);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_a_delete_all_waits_for_what_is_under_way() {
    in_time(|| {
        let ground = Ground::new(products("w5-under-way"));
        let (_lens, dio) = ground.dio(policy().parallel(3));
        let held = ground.source.hold(Call::Patch);
        let patches = [price("a", 31), price("b", 11)].map(|op| dio.write(op).unwrap());
        assert!(held.wait_until_held(2, SOON));
        let all = dio.write(WriteOp::delete_all()).unwrap();
        held.let_one_pass();
        until("one patch is done", || patches.iter().any(|ticket| ticket.state().has_ended()));
        assert_eq!(ground.source.calls(Call::DeleteAll), 0);
        held.release();
        patches.iter().for_each(confirmed);
        confirmed(&all);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_a_rejected_delete_all_gives_the_rows_back() {
    in_time(|| {
        let ground = Ground::new(products("w5-all-rejected"));
        ground.fails(|call, _| (call.call == Call::DeleteAll).then(refused));
        let (_lens, dio) = ground.dio(policy());
        let view = dio.table_scenery().open().unwrap();
        let held = ground.source.hold(Call::DeleteAll);
        let all = dio.write(WriteOp::delete_all()).unwrap();
        assert_eq!(view.row_count(), 0);
        let patch = dio.write(price("b", 11)).unwrap();
        held.release();
        assert_eq!(rejected(&all).kind(), ErrorKind::Rejected);
        confirmed(&patch);
        assert_eq!(prices(&view.snapshot()), ["a=30", "b=11", "c=20"]);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_a_poisoned_row_does_not_block_a_delete_all_for_longer_than_the_deadline() {
    in_time(|| {
        let ground = Ground::new(products("w5-all-poison"));
        ground.fails(|call, _| (call.id == Some("a")).then(|| broken().with_retry_after(SECOND * 3600)));
        let (_lens, dio) = ground.dio(policy().deadline(SECOND * 60));
        let poisoned = dio.write(price("a", 31)).unwrap();
        waits_until(&poisoned, ground.moment(SECOND * 3600));
        let all = dio.write(WriteOp::delete_all()).unwrap();
        let later = dio.write(WriteOp::insert_as("d", product("Drum", 4))).unwrap();
        until("the delete_all stands in the queue", || {
            dio.retry_write(poisoned.number()).is_err_and(|error| error.kind() == ErrorKind::Conflict)
        });
        // Its patience is counted from when the writer first comes to it, of which nothing tells.
        until("the delete_all loses its patience", || {
            ground.hands.advance(SECOND * 60);
            poisoned.state().has_ended()
        });
        assert_eq!(superseded_by(&poisoned), all.number());
        confirmed(&all);
        confirmed(&later);
        assert_eq!(ground.seen_of("a").len(), 1);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w12_a_dropped_delete_all_gives_the_rows_back_and_lets_the_later_writes_go() {
    in_time(|| {
        let ground = Ground::new(products("w12-all-dropped"));
        ground.fails(|call, _| (call.call == Call::DeleteAll).then(broken));
        let (_lens, dio) = ground.dio(policy());
        let view = dio.table_scenery().open().unwrap();
        let all = dio.write(WriteOp::delete_all()).unwrap();
        waits_until(&all, ground.moment(SECOND));
        let insert = dio.write(WriteOp::insert_as("d", product("Drum", 4))).unwrap();
        dio.drop_write(all.number()).unwrap();
        confirmed(&insert);
        assert_eq!(prices(&view.snapshot()), ["a=30", "b=10", "c=20", "d=4"]);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_two_delete_alls_and_what_is_between_them_end_as_the_last_says() {
    in_time(|| {
        let ground = Ground::new(products("w5-two-alls"));
        let (_lens, dio) = ground.dio(policy());
        let held = ground.source.hold(Call::DeleteAll);
        let first = dio.write(WriteOp::delete_all()).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let between = dio.write(WriteOp::insert_as("d", product("Drum", 4))).unwrap();
        let second = dio.write(WriteOp::delete_all()).unwrap();
        let last = dio.write(WriteOp::insert_as("e", product("Ehru", 5))).unwrap();
        held.release();
        confirmed(&first);
        assert_eq!(superseded_by(&between), second.number());
        confirmed(&second);
        confirmed(&last);
        assert_eq!(ground.source.calls(Call::Insert), 1);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_in_a_batch_a_delete_all_ends_what_is_before_it_and_nothing_that_comes_after() {
    on_both(|cache| {
        let ground = Ground::new(products("w5-batch"));
        let (_lens, dio) = ground.dio_over(&cache, policy());
        let held = ground.source.hold(Call::Patch);
        let under_way = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let insert = |id: &str, price| WriteOp::insert_as(id, product("Drum", price));
        let all = WriteOp::delete_all;
        let tickets = dio.write_batch(vec![price("b", 11), all(), insert("d", 4), all(), insert("e", 5)]).unwrap();
        let [before, first, between, second, after] = &tickets[..] else { panic!("{} tickets", tickets.len()) };
        assert_eq!(superseded_by(before), first.number());
        for ended in [first, between] {
            assert_eq!(superseded_by(ended), second.number());
        }
        held.release();
        [&under_way, second, after].into_iter().for_each(confirmed);
        let calls: Vec<Call> = ground.seen().iter().map(|seen| seen.call).collect();
        assert_eq!(calls, [Call::Patch, Call::DeleteAll, Call::Insert]);
        shows_the_source(&dio, &ground.source);
    });
}
