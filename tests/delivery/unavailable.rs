//! W5: a source that can't be reached pauses the queue; one write probes, and all go on.

use diorama::WriteTicket;
use diorama::prelude::*;

use crate::ground::*;
use crate::support::*;

/// Unavailable for the first `calls` write calls, whatever they are about.
fn away_for(ground: &Ground, calls: usize) {
    let left = std::sync::atomic::AtomicUsize::new(calls);
    ground.fails(move |_, _| {
        use std::sync::atomic::Ordering::SeqCst;
        left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok().then(cut)
    });
}

#[test]
fn w5_an_unavailable_source_pauses_the_queue_and_says_so() {
    in_time(|| {
        let ground = Ground::new(products("w5-pause"));
        away_for(&ground, 1);
        let (_lens, dio) = ground.dio(policy());
        assert!(!dio.status().writes_paused);
        let first = dio.write(price("a", 31)).unwrap();
        let error = waits_until(&first, ground.moment(SECOND * 30));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(dio.status().writes_paused);
        let second = dio.write(price("b", 11)).unwrap();
        ground.hands.advance(SECOND * 30);
        confirmed(&first);
        confirmed(&second);
        assert!(!dio.status().writes_paused);
        assert!(ground.seen()[1..].iter().all(|seen| seen.at == ground.moment(SECOND * 30)), "{:?}", ground.seen());
    });
}

#[test]
fn w5_one_write_alone_probes_an_unavailable_source_and_then_all_go_on() {
    in_time(|| {
        let ground = Ground::new(many("w5-probe", 10));
        away_for(&ground, 3);
        let (_lens, dio) = ground.dio(policy().parallel(3));
        let first = dio.write(price("row 0", -1)).unwrap();
        waits_until(&first, ground.moment(SECOND * 30));
        let others: Vec<WriteTicket> =
            (1..10).map(|row| dio.write(price(&format!("row {row}"), -1)).unwrap()).collect();
        ground.hands.advance(SECOND * 30);
        // 30 s, and the double of it behind.
        waits_until(&first, ground.moment(SECOND * 90));
        ground.hands.advance(SECOND * 60);
        waits_until(&first, ground.moment(SECOND * 210));
        assert!(dio.status().writes_paused);
        ground.hands.advance(SECOND * 120);
        confirmed(&first);
        others.iter().for_each(confirmed);
        let seen = ground.seen();
        assert_eq!(seen.len(), 4 + 9);
        assert!(seen[..4].iter().all(|seen| seen.id.as_deref() == Some("row 0")), "{seen:?}");
        assert_eq!(
            seen[..4].iter().map(|seen| seen.at).collect::<Vec<_>>(),
            [0, 30, 90, 210].map(|s| ground.moment(SECOND * s))
        );
        assert!(!dio.status().writes_paused);
    });
}

#[test]
fn w5_while_the_probe_is_under_way_nothing_else_goes() {
    in_time(|| {
        let ground = Ground::new(products("w5-probing"));
        away_for(&ground, 1);
        let (_lens, dio) = ground.dio(policy().parallel(3));
        let first = dio.write(price("a", 31)).unwrap();
        waits_until(&first, ground.moment(SECOND * 30));
        let others = [price("b", 11), price("c", 21)].map(|op| dio.write(op).unwrap());
        let held = ground.source.hold_answer(diorama::sources::memory::Call::Patch);
        ground.hands.advance(SECOND * 30);
        assert!(held.wait_until_held(1, SOON));
        // Rings for all writers.
        dio.retry_write(others[0].number()).unwrap();
        assert_eq!(ground.seen().len(), 2);
        held.release();
        others.iter().for_each(confirmed);
        assert_eq!(ground.seen()[1].id.as_deref(), Some("a"));
    });
}

#[test]
fn w5_any_answer_of_the_source_ends_the_pause_also_a_refusal() {
    in_time(|| {
        let ground = Ground::new(products("w5-refusal-probe"));
        ground.fails(|call, before| match (call.id, before) {
            (Some("a"), 0) => Some(cut()),
            (Some("a"), _) => Some(refused()),
            _ => None,
        });
        let (_lens, dio) = ground.dio(policy());
        let first = dio.write(price("a", 31)).unwrap();
        waits_until(&first, ground.moment(SECOND * 30));
        let second = dio.write(price("b", 11)).unwrap();
        ground.hands.advance(SECOND * 30);
        assert_eq!(rejected(&first).kind(), ErrorKind::Rejected);
        confirmed(&second);
        assert!(!dio.status().writes_paused);
    });
}

#[test]
fn w5_being_unavailable_uses_up_no_attempts() {
    in_time(|| {
        let ground = Ground::new(products("w5-free"));
        away_for(&ground, 4);
        let (_lens, dio) = ground.dio(policy().max_attempts(Some(1)));
        let ticket = dio.write(price("a", 31)).unwrap();
        for seconds in [30, 90, 210, 450] {
            waits_until(&ticket, ground.moment(SECOND * seconds));
            ground.hands.advance(ground.moment(SECOND * seconds).since(ground.clock.now()));
        }
        confirmed(&ticket);
    });
}

#[test]
fn w12_trying_a_write_at_once_probes_an_unavailable_source() {
    in_time(|| {
        let ground = Ground::new(products("w12-probe"));
        away_for(&ground, 1);
        let (_lens, dio) = ground.dio(policy());
        let first = dio.write(price("a", 31)).unwrap();
        waits_until(&first, ground.moment(SECOND * 30));
        let second = dio.write(price("b", 11)).unwrap();
        dio.retry_write(second.number()).unwrap();
        confirmed(&second);
        confirmed(&first);
        assert_eq!(ground.clock.now(), ground.moment(std::time::Duration::ZERO));
        assert!(!dio.status().writes_paused);
    });
}

#[test]
fn w5_an_unavailable_source_that_names_its_time_is_probed_then() {
    in_time(|| {
        let ground = Ground::new(products("w5-wish"));
        ground.fails(|_, before| (before < 1).then(|| cut().with_retry_after(SECOND * 100)));
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(price("a", 31)).unwrap();
        waits_until(&ticket, ground.moment(SECOND * 100));
        ground.hands.advance(SECOND * 99);
        ground.hands.advance(SECOND);
        confirmed(&ticket);
        assert_eq!(ground.seen()[1].at, ground.moment(SECOND * 100));
    });
}
