//! What is done when the source does not say whether it did a write.

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{Dio, WriteState};

use crate::ground::*;
use crate::support::*;

/// A moment later than anything is waited for, and the one writer has looked at what is due since.
fn an_hour_later(ground: &Ground, dio: &Dio) {
    ground.hands.advance(SECOND * 3_600);
    confirmed(&dio.write(price("c", 21)).unwrap());
}

#[test]
fn w9_an_insert_that_may_be_done_is_unknown_and_not_sent_again_where_the_source_keeps_no_keys() {
    in_time(|| {
        let ground = Ground::new(products("w9-unknown").with_capabilities(forgetful()));
        ground.source.lose_next_answers(Call::Insert, 1, lost());
        let (_lens, dio) = ground.dio(policy());
        let view = dio.table_scenery().open().unwrap();
        let ticket = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
        let WriteState::Unknown(error) = ended(&ticket) else { panic!("{ticket:?}") };
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(error.context("table"), Some("w9-unknown"));
        assert_eq!(ticket.wait(SOON).unwrap_err().kind(), ErrorKind::Timeout);
        let failed = dio.failed_writes();
        assert_eq!((failed.len(), failed[0].may_be_done), (1, true));
        assert_eq!(failed[0].op, WriteOp::insert(product("Drum", 4)));
        assert!(dio.pending_writes().is_empty());
        assert_eq!(prices(&view.snapshot()), ["a=30", "b=10", "c=20"]);
        an_hour_later(&ground, &dio);
        assert_eq!(ground.source.calls(Call::Insert), 1);
        assert_eq!(ground.source.row_count(), 4);
        dio.refresh().unwrap();
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w9_the_patches_of_a_row_whose_insert_is_unknown_fail_with_it() {
    in_time(|| {
        let ground = Ground::new(products("w9-unknown-patch").with_capabilities(forgetful()));
        ground.source.lose_next_answers(Call::Insert, 1, lost());
        let (_lens, dio) = ground.dio(policy());
        let held = ground.source.hold_answer(Call::Insert);
        let insert = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let patch = dio.write(price(&insert.id().unwrap(), 5)).unwrap();
        held.release();
        assert!(matches!(ended(&insert), WriteState::Unknown(_)), "{insert:?}");
        assert_eq!(rejected(&patch).kind(), ErrorKind::NotFound);
        assert_eq!(ground.source.calls(Call::Patch), 0);
    });
}

#[test]
fn w9_an_insert_that_is_known_not_to_be_done_is_sent_again() {
    in_time(|| {
        let ground = Ground::new(products("w9-not-done").with_capabilities(forgetful()));
        ground.fails(|call, before| (call.call == Call::Insert && before < 1).then(cut));
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
        waits_until(&ticket, ground.moment(SECOND * 30));
        ground.hands.advance(SECOND * 30);
        confirmed(&ticket);
        assert_eq!(ground.source.row_count(), 4);
    });
}

#[test]
fn w9_an_insert_that_may_be_done_is_sent_again_under_its_key_and_made_once() {
    in_time(|| {
        let ground = Ground::new(products("w9-key"));
        ground.source.lose_next_answers(Call::Insert, 1, lost());
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        ground.hands.advance(SECOND);
        confirmed(&ticket);
        assert_eq!(ground.source.row_count(), 4);
        let writes = ground.source.writes();
        assert_eq!(writes.len(), 2);
        assert_eq!(writes[0].idempotency_key, writes[1].idempotency_key);
        assert!(dio.failed_writes().is_empty());
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w9_an_insert_with_an_id_that_finds_its_own_row_was_done() {
    in_time(|| {
        let ground = Ground::new(products("w9-own").with_capabilities(forgetful()));
        ground.source.lose_next_answers(Call::Insert, 1, lost());
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(WriteOp::insert_as("d", product("Drum", 4))).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        ground.hands.advance(SECOND);
        confirmed(&ticket);
        assert_eq!(ground.source.row_count(), 4);
        assert_eq!(ground.source.writes().iter().filter(|seen| seen.done).count(), 1);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w9_an_insert_with_an_id_that_finds_anothers_row_is_a_conflict() {
    in_time(|| {
        let ground = Ground::new(products("w9-anothers").with_capabilities(forgetful()));
        ground.fails(|call, before| (call.call == Call::Insert && before < 1).then(lost));
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(WriteOp::insert_as("d", product("Drum", 4))).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        ground.source.outside_silently().upsert("d", product("Dulcimer", 9)).unwrap();
        ground.hands.advance(SECOND);
        assert_eq!(rejected(&ticket).kind(), ErrorKind::Conflict);
        assert_eq!(ground.source.row("d").unwrap().text("name"), Some("Dulcimer"));
    });
}

#[test]
fn w9_a_delete_whose_answer_was_lost_ends_confirmed() {
    in_time(|| {
        let ground = Ground::new(products("w9-delete").with_capabilities(forgetful()));
        ground.source.lose_next_answers(Call::Delete, 1, lost());
        let (_lens, dio) = ground.dio(policy());
        let ticket = dio.write(WriteOp::delete("b")).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        ground.hands.advance(SECOND);
        confirmed(&ticket);
        shows_the_source(&dio, &ground.source);
    });
}

#[cfg(feature = "lmdb")]
mod over_a_disk {
    use diorama::vista::Capabilities;

    use super::*;

    #[test]
    fn w9_an_unknown_insert_stays_unknown_after_a_restart_and_is_not_sent() {
        in_time(|| {
            let cache = Cache::disk();
            let ground = Ground::new(products("w9-unknown-kept").with_capabilities(forgetful()));
            ground.source.lose_next_answers(Call::Insert, 1, lost());
            let (lens, dio) = ground.dio_over(&cache, policy());
            let ticket = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
            assert!(matches!(ended(&ticket), WriteState::Unknown(_)), "{ticket:?}");
            drop(dio);
            assert!(lens.close(SOON).unwrap().is_closed());
            drop(lens);

            let (_lens, dio) = ground.dio_over(&cache, policy());
            let failed = dio.failed_writes();
            assert_eq!((failed.len(), failed[0].may_be_done), (1, true));
            assert_eq!(failed[0].op, WriteOp::insert(product("Drum", 4)));
            an_hour_later(&ground, &dio);
            assert_eq!(ground.source.calls(Call::Insert), 1);
        });
    }

    #[test]
    fn w9_an_insert_that_a_crash_found_at_the_source_is_unknown_and_not_sent_again() {
        in_time(|| {
            let cache = Cache::disk();
            let ground = Ground::new(products("w9-crash").with_capabilities(forgetful()));
            let (_first, dio) = ground.dio_over(&cache, policy());
            let held = ground.source.hold_answer(Call::Insert);
            let ticket = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
            assert!(held.wait_until_held(1, SOON));
            let after = crashed(&cache);
            let (lens, again) = ground.dio_over(&after, policy());
            let is_unknown = |dio: &Dio| {
                let failed = dio.failed_writes();
                assert_eq!((failed.len(), failed[0].may_be_done), (1, true), "{failed:?}");
                assert_eq!(failed[0].op, WriteOp::insert(product("Drum", 4)));
                assert!(dio.pending_writes().is_empty());
            };
            is_unknown(&again);
            an_hour_later(&ground, &again);
            assert_eq!(ground.source.calls(Call::Insert), 1);
            drop(again);
            assert!(lens.close(SOON).unwrap().is_closed());
            drop(lens);
            // It stays so.
            let (_lens, again) = ground.dio_over(&after, policy());
            is_unknown(&again);
            assert_eq!(ground.source.calls(Call::Insert), 1);
            held.release();
            let _ = ticket.wait(SOON);
        });
    }

    #[test]
    fn w9_an_insert_that_was_known_not_to_be_done_before_a_restart_is_sent_after_it() {
        in_time(|| {
            let cache = Cache::disk();
            let ground = Ground::new(products("w9-away").with_capabilities(forgetful()));
            let (lens, dio) = ground.dio_over(&cache, policy());
            ground.source.set_offline(true);
            let ticket = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
            waits_until(&ticket, ground.moment(SECOND * 30));
            let report = lens.close(SOON).unwrap();
            assert_eq!(report.kept, 1, "{report:?}");
            drop((dio, lens));
            ground.source.set_offline(false);
            let (_lens, dio) = ground.dio_over(&cache, policy());
            dio.wait_for_writes(SOON).unwrap();
            assert!(dio.failed_writes().is_empty(), "{:?}", dio.failed_writes());
            assert_eq!(ground.source.row_count(), 4);
        });
    }

    #[test]
    fn w9_an_insert_with_an_id_that_a_crash_found_at_the_source_ends_confirmed_after_it() {
        in_time(|| {
            for capabilities in [forgetful(), Capabilities { idempotent_writes: true, ..forgetful() }] {
                let cache = Cache::disk();
                let ground = Ground::new(products("w9-crash-id").with_capabilities(capabilities));
                let (_first, dio) = ground.dio_over(&cache, policy());
                let held = ground.source.hold_answer(Call::Insert);
                let ticket = dio.write(WriteOp::insert_as("d", product("Drum", 4))).unwrap();
                assert!(held.wait_until_held(1, SOON));
                let after = crashed(&cache);
                held.release();
                confirmed(&ticket);
                let (_lens, again) = ground.dio_over(&after, policy());
                again.wait_for_writes(SOON).unwrap();
                assert!(again.failed_writes().is_empty(), "{:?}", again.failed_writes());
                assert_eq!(ground.source.writes().iter().filter(|seen| seen.done).count(), 1);
                again.refresh().unwrap();
                shows_the_source(&again, &ground.source);
            }
        });
    }

    #[test]
    fn w9_an_insert_that_a_crash_found_at_a_source_with_keys_is_made_once() {
        in_time(|| {
            let cache = Cache::disk();
            let ground = Ground::new(products("w9-crash-key"));
            let (_first, dio) = ground.dio_over(&cache, policy());
            let held = ground.source.hold_answer(Call::Insert);
            let ticket = dio.write(WriteOp::insert(product("Drum", 4))).unwrap();
            assert!(held.wait_until_held(1, SOON));
            let after = crashed(&cache);
            held.release();
            confirmed(&ticket);
            let (_lens, again) = ground.dio_over(&after, policy());
            again.wait_for_writes(SOON).unwrap();
            assert!(again.failed_writes().is_empty(), "{:?}", again.failed_writes());
            assert_eq!(ground.source.row_count(), 4);
            shows_the_source(&again, &ground.source);
        });
    }
}
