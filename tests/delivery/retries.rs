//! W5: a write that fails for now is tried again, at its moment, and holds up nobody but its row.

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{WriteState, WriteTicket};

use crate::ground::*;
use crate::support::*;

#[test]
fn w5_a_write_that_fails_for_now_is_tried_again_at_its_moment_and_not_before() {
    in_time(|| {
        let ground = Ground::new(products("w5-again"));
        ground.fails(|call, before| (call.id == Some("b") && before < 2).then(broken));
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("b", 11)).unwrap();
        let error = waits_until(&ticket, ground.moment(SECOND));
        assert_eq!((error.kind(), error.context("id")), (ErrorKind::Source, Some("b")));
        ground.hands.advance(SECOND - std::time::Duration::from_millis(1));
        // The one writer has looked at what is due, and did not find it.
        confirmed(&dio.write(price("c", 21)).unwrap());
        assert_eq!(ground.seen_of("b").len(), 1);
        ground.hands.advance(std::time::Duration::from_millis(1));
        waits_until(&ticket, ground.moment(SECOND * 3));
        ground.hands.advance(SECOND * 2);
        confirmed(&ticket);
        let moments: Vec<_> = ground.seen_of("b").iter().map(|seen| seen.at).collect();
        assert_eq!(moments, [0, 1, 3].map(|seconds| ground.moment(SECOND * seconds)));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_attempts_are_counted_and_each_has_the_same_key() {
    in_time(|| {
        let ground = Ground::new(products("w5-key"));
        ground.fails(|call, before| (call.id == Some("b") && before < 3).then(broken));
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("b", 11)).unwrap();
        for seconds in [1, 3, 7] {
            waits_until(&ticket, ground.moment(SECOND * seconds));
            ground.hands.advance(ground.moment(SECOND * seconds).since(ground.clock.now()));
        }
        confirmed(&ticket);
        let other = dio.write(price("b", 12)).unwrap();
        confirmed(&other);
        let seen = ground.seen_of("b");
        assert_eq!(seen.iter().map(|seen| seen.attempt).collect::<Vec<_>>(), [1, 2, 3, 4, 1]);
        assert!(!seen[0].key.is_empty());
        assert!(seen[..4].iter().all(|other| other.key == seen[0].key), "{seen:?}");
        assert_ne!(seen[4].key, seen[0].key);
    });
}

#[test]
fn w5_the_row_shows_the_write_as_pending_while_it_waits() {
    in_time(|| {
        let ground = Ground::new(products("w5-shown"));
        ground.fails(|_, before| (before < 1).then(broken));
        let (_lens, dio) = ground.dio(policy());
        let view = dio.table_scenery().open().unwrap();
        let ticket = dio.write(price("b", 11)).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        let snapshot = view.snapshot();
        assert_eq!(prices(&snapshot), ["a=30", "b=11", "c=20"]);
        assert_eq!(snapshot.iter().nth(1).unwrap().status(), RowStatus::PendingWrite);
        assert_eq!(dio.pending_writes().len(), 1);
        assert!(matches!(dio.pending_writes()[0].state, WriteState::Waiting { .. }));
        assert!(!dio.status().writes_paused);
        assert!(dio.failed_writes().is_empty());
    });
}

#[test]
fn w5_a_source_that_says_how_long_it_wants_to_be_left_alone_is_left_alone_so_long() {
    in_time(|| {
        let ground = Ground::new(products("w5-retry-after"));
        ground
            .fails(|call, before| (call.id == Some("b") && before < 1).then(|| broken().with_retry_after(SECOND * 17)));
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("b", 11)).unwrap();
        let error = waits_until(&ticket, ground.moment(SECOND * 17));
        assert_eq!(error.retry_after(), Some(SECOND * 17));
        ground.hands.advance(SECOND * 16);
        confirmed(&dio.write(price("c", 21)).unwrap());
        assert_eq!(ground.seen_of("b").len(), 1);
        ground.hands.advance(SECOND);
        confirmed(&ticket);
    });
}

#[test]
fn w5_a_write_is_given_up_after_its_attempts_with_the_last_error() {
    in_time(|| {
        let ground = Ground::new(products("w5-max"));
        ground.fails(|call, before| {
            (call.id == Some("b")).then(|| Error::new(ErrorKind::Source, format!("broken {}", before + 1)))
        });
        let (_lens, dio) = ground.dio(policy().max_attempts(Some(3)));
        let view = dio.table_scenery().open().unwrap();
        let ticket = dio.write(price("b", 11)).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        ground.hands.advance(SECOND);
        waits_until(&ticket, ground.moment(SECOND * 3));
        ground.hands.advance(SECOND * 2);
        let error = rejected(&ticket);
        assert_eq!(error.kind(), ErrorKind::Source);
        assert!(error.to_string().contains("broken 3"), "{error}");
        assert_eq!(ground.seen_of("b").len(), 3);
        assert_eq!(prices(&view.snapshot()), ["a=30", "b=10", "c=20"]);
        let failed = dio.failed_writes();
        assert_eq!(failed.len(), 1);
        assert!(failed[0].error.to_string().contains("broken 3"));
        assert!(dio.pending_writes().is_empty());
    });
}

#[test]
fn w5_a_write_that_was_given_up_lets_the_next_of_its_row_go() {
    in_time(|| {
        let ground = Ground::new(products("w5-max-next"));
        ground.fails(|call, _| {
            let is_bad = call.ops[0].record().is_some_and(|record| record.int("price") == Some(11));
            is_bad.then(broken)
        });
        let (_lens, dio) = ground.dio(policy().max_attempts(Some(1)));
        let bad = dio.write(price("b", 11)).unwrap();
        let good = dio.write(WriteOp::patch("b", record! { "name" => "Gong" })).unwrap();
        rejected(&bad);
        confirmed(&good);
        let row = ground.source.row("b").unwrap();
        assert_eq!((row.text("name"), row.int("price")), (Some("Gong"), Some(10)));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_what_was_given_up_though_the_source_did_it_is_read_again() {
    in_time(|| {
        for (call, op, left) in [
            (Call::Patch, price("b", 11), vec!["a=30", "b=11", "c=20"]),
            (Call::Delete, WriteOp::delete("b"), vec!["a=30", "c=20"]),
            (Call::DeleteAll, WriteOp::delete_all(), vec![]),
        ] {
            let ground = Ground::new(products("w5-given-up"));
            ground.source.lose_next_answers(call, 1, lost());
            let (_lens, dio) = ground.dio(policy().max_attempts(Some(1)));
            let view = dio.table_scenery().open().unwrap();
            let ticket = dio.write(op).unwrap();
            assert_eq!(rejected(&ticket).kind(), ErrorKind::Timeout);
            assert!(dio.failed_writes()[0].may_be_done, "{call}");
            loop {
                let generation = view.generation();
                if prices(&view.snapshot()) == left {
                    break;
                }
                view.wait_for_change(generation, Some(SOON)).unwrap();
            }
        }
    });
}

#[test]
fn w5_what_the_source_refuses_is_not_tried_again() {
    in_time(|| {
        for kind in [ErrorKind::Rejected, ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Unsupported] {
            let ground = Ground::new(products("w5-refused"));
            ground.fails(move |call, _| (call.id == Some("b")).then(|| Error::new(kind, "no")));
            let (_lens, dio) = ground.dio(policy());
            let ticket = dio.write(price("b", 11)).unwrap();
            assert_eq!(rejected(&ticket).kind(), kind);
            ground.hands.advance(SECOND * 3600);
            confirmed(&dio.write(price("c", 21)).unwrap());
            assert_eq!(ground.seen_of("b").len(), 1);
        }
    });
}

#[test]
fn w5_a_poisoned_row_blocks_only_itself() {
    in_time(|| {
        let ground = Ground::new(many("w5-poison", 40));
        ground.fails(|call, _| (call.id == Some("row 7")).then(broken));
        let (_lens, dio) = ground.dio(policy());
        let poisoned = dio.write(price("row 7", -1)).unwrap();
        let others: Vec<WriteTicket> = (0..40)
            .filter(|row| *row != 7)
            .map(|row| dio.write(price(&format!("row {row}"), 1_000 + row)).unwrap())
            .collect();
        others.iter().for_each(confirmed);
        waits_until(&poisoned, ground.moment(SECOND));
        assert_eq!(dio.pending_writes().len(), 1);
    });
}

#[test]
fn w2_writes_of_a_row_go_in_their_order_also_behind_one_that_is_tried_again() {
    in_time(|| {
        let ground = Ground::new(products("w2-order"));
        ground.fails(|call, before| (call.id == Some("b") && before < 1).then(broken));
        let (_lens, dio) = ground.dio(policy().parallel(3));
        let tickets: Vec<WriteTicket> = (11..15).map(|to| dio.write(price("b", to)).unwrap()).collect();
        waits_until(&tickets[0], ground.moment(SECOND));
        confirmed(&dio.write(price("c", 21)).unwrap());
        assert_eq!(ground.seen_of("b").len(), 1, "the others wait behind it");
        ground.hands.advance(SECOND);
        tickets.iter().for_each(confirmed);
        let sent: Vec<_> = ground.seen_of("b").iter().map(|seen| seen.ops[0].record().unwrap().int("price")).collect();
        assert_eq!(sent, [11, 11, 12, 13, 14].map(Some));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w12_a_write_that_waits_for_its_moment_can_be_tried_at_once() {
    in_time(|| {
        let ground = Ground::new(products("w12-now"));
        ground.fails(|_, before| (before < 1).then(broken));
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("b", 11)).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        dio.retry_write(ticket.number()).unwrap();
        confirmed(&ticket);
        assert_eq!(ground.clock.now(), ground.moment(std::time::Duration::ZERO));
        let error = dio.retry_write(ticket.number()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    });
}

#[test]
fn w5_a_call_that_takes_longer_than_its_deadline_is_tried_again_and_done_once() {
    in_time(|| {
        let ground = Ground::new(products("w5-deadline"));
        let (_lens, dio) = ground.dio(policy().deadline(SECOND * 5));
        let held = ground.source.hold_answer(diorama::sources::memory::Call::Patch);
        let ticket = dio.write(price("b", 11)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        ground.hands.advance(SECOND * 5);
        let error = waits_until(&ticket, ground.moment(SECOND * 6));
        assert_eq!(error.kind(), ErrorKind::Timeout);
        held.release();
        ground.hands.advance(SECOND);
        confirmed(&ticket);
        assert_eq!(ground.source.writes().iter().filter(|seen| seen.done).count(), 1);
    });
}
