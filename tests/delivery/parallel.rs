//! W5: with `parallel` rows are under way at once, a row's own writes never.

use diorama::WriteTicket;
use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::ground::*;
use crate::support::*;

#[test]
fn w5_as_many_rows_as_the_policy_says_are_under_way_at_once() {
    in_time(|| {
        let ground = Ground::new(many("w5-parallel", 10));
        let (_lens, dio) = ground.dio(policy().parallel(3));
        let held = ground.source.hold(Call::Patch);
        let tickets: Vec<WriteTicket> =
            (0..10).map(|row| dio.write(price(&format!("row {row}"), -1)).unwrap()).collect();
        assert!(held.wait_until_held(3, SOON));
        assert_eq!(ground.source.calls(Call::Patch), 3);
        let mut threads = threads_of("w5-parallel:writer");
        threads.sort();
        assert_eq!(threads, ["w5-parallel:writer-1", "w5-parallel:writer-2", "w5-parallel:writer-3"]);
        held.let_one_pass();
        assert!(ground.source.wait_until_called(Call::Patch, 4, SOON));
        assert!(held.wait_until_held(3, SOON));
        held.release();
        tickets.iter().for_each(confirmed);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w2_writes_of_one_row_are_never_under_way_at_once() {
    in_time(|| {
        let ground = Ground::new(products("w2-one-by-one"));
        let (_lens, dio) = ground.dio(policy().parallel(3));
        let held = ground.source.hold(Call::Patch);
        let tickets: Vec<WriteTicket> = (11..15).map(|to| dio.write(price("b", to)).unwrap()).collect();
        assert!(held.wait_until_held(1, SOON));
        let other = dio.write(price("c", 21)).unwrap();
        assert!(held.wait_until_held(2, SOON));
        assert_eq!((held.held(), ground.source.calls(Call::Patch)), (2, 2));
        held.release();
        tickets.iter().chain([&other]).for_each(confirmed);
        let sent: Vec<_> = ground.seen_of("b").iter().map(|seen| seen.ops[0].record().unwrap().int("price")).collect();
        assert_eq!(sent, [11, 12, 13, 14].map(Some));
    });
}

#[test]
fn w5_one_writer_has_one_call_under_way() {
    in_time(|| {
        let ground = Ground::new(products("w5-single"));
        let (_lens, dio) = ground.dio(policy());
        let held = ground.source.hold(Call::Patch);
        let tickets = [price("a", 31), price("b", 11)].map(|op| dio.write(op).unwrap());
        assert!(held.wait_until_held(1, SOON));
        assert_eq!(threads_of("w5-single:writer"), ["w5-single:writer"]);
        assert_eq!(ground.source.calls(Call::Patch), 1);
        held.release();
        tickets.iter().for_each(confirmed);
    });
}

#[test]
fn w2_a_row_that_is_given_another_id_keeps_the_order_of_its_writes_among_parallel_ones() {
    in_time(|| {
        let ground = Ground::new(products("w2-rename").assign_ids_from("srv-"));
        let (_lens, dio) = ground.dio(policy().parallel(3));
        let held = ground.source.hold_answer(Call::Insert);
        let insert = dio.write(WriteOp::insert(product("Drum", 0))).unwrap();
        let id = insert.id().unwrap();
        let patches: Vec<WriteTicket> = (1..6).map(|to| dio.write(price(&id, to)).unwrap()).collect();
        assert!(held.wait_until_held(1, SOON));
        held.release();
        confirmed(&insert);
        patches.iter().for_each(confirmed);
        assert_eq!(ground.source.row("srv-1").unwrap().int("price"), Some(5));
        assert_eq!(ground.seen_of("srv-1").len(), 5);
        shows_the_source(&dio, &ground.source);
    });
}
