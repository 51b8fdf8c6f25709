//! W5: writes that wait go to a source that takes batches in one call.

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{Lens, WriteTicket};

use crate::ground::*;
use crate::support::*;

/// A Dio whose next writes wait behind one that is held, so that they go together.
fn crowded(ground: &Ground, batch: usize) -> (Lens, Dio, impl FnOnce()) {
    let (lens, dio) = ground.dio(policy().batch(batch));
    let held = ground.source.hold(Call::Patch);
    let first = dio.write(price("a", 31)).unwrap();
    assert!(held.wait_until_held(1, SOON));
    let go = move || {
        held.release();
        confirmed(&first);
    };
    (lens, dio, go)
}

#[test]
fn w5_writes_that_wait_go_in_one_call() {
    in_time(|| {
        let ground = Ground::new(products("w5-batch"));
        let (_lens, dio, go) = crowded(&ground, 10);
        let ops = vec![price("b", 11), WriteOp::delete("c"), WriteOp::insert(product("Drum", 4)), price("b", 12)];
        let tickets: Vec<WriteTicket> = ops.into_iter().map(|op| dio.write(op).unwrap()).collect();
        go();
        tickets.iter().for_each(confirmed);
        assert_eq!((ground.source.calls(Call::Batch), ground.source.calls(Call::Patch)), (1, 1));
        assert_eq!(ground.seen()[1].ops.len(), 4);
        assert_eq!(ground.source.row("b").unwrap().int("price"), Some(12));
        assert_eq!(ground.source.row_count(), 3);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_a_batch_is_no_longer_than_the_policy_says() {
    in_time(|| {
        let ground = Ground::new(many("w5-batch-length", 8).with_rows([("a", product("Anvil", 30))]));
        let (_lens, dio, go) = crowded(&ground, 3);
        let tickets: Vec<WriteTicket> =
            (0..8).map(|row| dio.write(price(&format!("row {row}"), -1)).unwrap()).collect();
        go();
        tickets.iter().for_each(confirmed);
        assert_eq!(ground.seen().iter().map(|seen| seen.ops.len()).collect::<Vec<_>>(), [1, 3, 3, 2]);
    });
}

#[test]
fn w5_of_a_refused_batch_each_goes_alone_and_only_the_bad_one_fails() {
    in_time(|| {
        let ground = Ground::new(products("w5-batch-refused"));
        let (_lens, dio, go) = crowded(&ground, 10);
        let good = dio.write(price("b", 11)).unwrap();
        let bad = dio.write(WriteOp::insert_as("a", product("Again", 1))).unwrap();
        let too = dio.write(price("c", 21)).unwrap();
        go();
        confirmed(&good);
        confirmed(&too);
        assert_eq!(rejected(&bad).kind(), ErrorKind::Conflict);
        assert_eq!(ground.source.calls(Call::Batch), 1);
        assert_eq!(dio.failed_writes().len(), 1);
        dio.refresh().unwrap();
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_a_batch_that_fails_for_now_is_tried_again() {
    in_time(|| {
        let ground = Ground::new(products("w5-batch-broken"));
        ground.fails(|call, before| (call.call == Call::Batch && before < 1).then(broken));
        let (_lens, dio, go) = crowded(&ground, 10);
        let tickets = [price("b", 11), price("c", 21)].map(|op| dio.write(op).unwrap());
        go();
        tickets.iter().for_each(|ticket| {
            waits_until(ticket, ground.moment(SECOND));
        });
        ground.hands.advance(SECOND);
        tickets.iter().for_each(confirmed);
        assert_eq!(ground.source.calls(Call::Batch), 2);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_a_batch_whose_answer_was_lost_is_not_done_a_second_time() {
    in_time(|| {
        let ground = Ground::new(products("w5-batch-lost"));
        let (_lens, dio, go) = crowded(&ground, 10);
        ground.source.lose_next_answers(Call::Batch, 1, lost());
        let tickets = [price("b", 11), price("c", 21)].map(|op| dio.write(op).unwrap());
        go();
        tickets.iter().for_each(|ticket| {
            waits_until(ticket, ground.moment(SECOND));
        });
        // Somebody else's write after ours must not be undone by a repetition.
        ground.source.outside_silently().patch("b", record! { "price" => 99 }).unwrap();
        ground.hands.advance(SECOND);
        tickets.iter().for_each(confirmed);
        assert_eq!(ground.source.row("b").unwrap().int("price"), Some(99));
    });
}

#[test]
fn w5_an_unavailable_source_pauses_a_batch_as_a_whole() {
    in_time(|| {
        let ground = Ground::new(products("w5-batch-away"));
        ground.fails(|call, before| (call.call == Call::Batch && before < 1).then(cut));
        let (_lens, dio, go) = crowded(&ground, 10);
        let tickets = [price("b", 11), price("c", 21)].map(|op| dio.write(op).unwrap());
        go();
        tickets.iter().for_each(|ticket| {
            waits_until(ticket, ground.moment(SECOND * 30));
        });
        assert!(dio.status().writes_paused);
        ground.hands.advance(SECOND * 30);
        tickets.iter().for_each(confirmed);
        assert!(!dio.status().writes_paused);
    });
}

#[test]
fn w5_a_source_that_takes_no_batches_gets_none() {
    in_time(|| {
        let source = products("w5-no-batch");
        let ground = Ground::new(source.with_capabilities(diorama::vista::Capabilities::read_write()));
        let (_lens, dio, go) = crowded(&ground, 10);
        let tickets = [price("b", 11), price("c", 21)].map(|op| dio.write(op).unwrap());
        go();
        tickets.iter().for_each(confirmed);
        assert_eq!(ground.source.calls(Call::Batch), 0);
    });
}

#[test]
fn w5_a_lens_that_looks_for_conflicts_sends_each_write_alone() {
    in_time(|| {
        let ground = Ground::new(products("w5-batch-conflicts"));
        let lens = ground.lens(&Cache::memory()).delivery(policy().batch(10));
        let lens = lens.conflicts(diorama::ConflictPolicy::SourceWins).build().unwrap();
        let dio = lens.make_dio(ground.source.clone()).unwrap();
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let tickets = [price("b", 11), price("c", 21)].map(|op| dio.write(op).unwrap());
        ground.source.outside_silently().patch("b", record! { "price" => 99 }).unwrap();
        held.release();
        confirmed(&first);
        assert_eq!(rejected(&tickets[0]).kind(), ErrorKind::Conflict);
        confirmed(&tickets[1]);
        assert_eq!(ground.source.row("b").unwrap().int("price"), Some(99));
    });
}
