//! X3: a write of a Dio over another one's facade, which is tried again, is one write in the Dio below.

use std::time::Duration;

use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::ground::*;
use crate::support::*;

/// A Dio over another one, which waits so long for that.
fn stacked(ground: &Ground, deadline: Duration) -> (Vec<Lens>, Dio, Dio) {
    let (lower_lens, lower) = ground.dio(policy().deadline(SECOND * 3_600));
    let upper_lens = ground.lens(&Cache::memory()).delivery(policy().deadline(deadline)).build().unwrap();
    let upper = upper_lens.make_dio(lower.vista()).unwrap();
    (vec![lower_lens, upper_lens], lower, upper)
}

/// A call's key, and an end to its patience.
fn under(key: &str) -> CallCx {
    CallCx::new().with_idempotency_key(key)
}

#[test]
fn x3_a_repeated_key_waits_for_the_write_that_is_on_its_way() {
    in_time(|| {
        for op in [price("b", 11), WriteOp::insert(product("Drum", 4)), WriteOp::delete("b"), WriteOp::delete_all()] {
            let ground = Ground::new(products("x3-key"));
            let (_lens, dio) = ground.dio(policy());
            let facade = dio.vista();
            let held = ground.source.hold(Call::of(&op));
            let first = start("the first call", {
                let (facade, op) = (facade.clone(), op.clone());
                move || facade.write(&under("one"), &op)
            });
            assert!(held.wait_until_held(1, SOON));
            let second = start("the same again", {
                let (facade, op) = (facade.clone(), op.clone());
                move || facade.write(&under("one"), &op)
            });
            assert!(is_still_waiting(&second));
            assert_eq!(dio.pending_writes().len(), 1);
            held.release();
            assert_eq!(first.end().unwrap().id, second.end().unwrap().id);
            assert_eq!(ground.source.calls(Call::of(&op)), 1);
            assert_eq!(ground.seen()[0].key, "one", "the source hears of it");
            shows_the_source(&dio, &ground.source);
        }
    });
}

#[test]
fn x3_another_write_of_the_same_key_is_another_write() {
    in_time(|| {
        let ground = Ground::new(products("x3-other"));
        let (_lens, dio) = ground.dio(policy());
        let facade = dio.vista();
        let held = ground.source.hold(Call::Patch);
        let first = start("the first call", {
            let facade = facade.clone();
            move || facade.write(&under("one"), &price("b", 11))
        });
        assert!(held.wait_until_held(1, SOON));
        let second = start("another", move || facade.write(&under("one"), &price("b", 12)));
        until("both are pending", || dio.pending_writes().len() == 2);
        held.release();
        first.end().unwrap();
        second.end().unwrap();
        assert_eq!(ground.source.row("b").unwrap().int("price"), Some(12));
        let keys: Vec<String> = ground.seen().into_iter().map(|seen| seen.key).collect();
        assert_ne!(keys[0], keys[1]);
    });
}

#[test]
fn x3_a_key_that_is_the_id_of_a_row_harms_nobody() {
    in_time(|| {
        let ground = Ground::new(products("x3-id"));
        let (_lens, dio) = ground.dio(policy());
        let facade = dio.vista();
        facade.write(&under("b"), &WriteOp::insert(product("Drum", 4))).unwrap();
        facade.write(&under(""), &WriteOp::insert(product("Harp", 5))).unwrap();
        assert_eq!(ground.source.row_count(), 5);
        assert_eq!(ground.source.row("b").unwrap().text("name"), Some("Bell"));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn x3_a_write_that_an_upper_dio_tries_again_is_one_write_below() {
    in_time(|| {
        for op in [price("b", 11), WriteOp::insert_as("d", product("Drum", 4)), WriteOp::delete("b")] {
            let ground = Ground::new(products("x3-stacked"));
            let (_lenses, lower, upper) = stacked(&ground, Duration::from_millis(1));
            let held = ground.source.hold(Call::of(&op));
            // It waits in real time for the Dio below, and gives up soon.
            let ticket = upper.write(op.clone()).unwrap();
            let error = waits_until(&ticket, ground.moment(SECOND));
            assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
            assert!(held.wait_until_held(1, SOON));
            ground.hands.advance(SECOND);
            waits_until(&ticket, ground.moment(SECOND * 3));
            assert_eq!(lower.pending_writes().len(), 1);
            held.release();
            lower.wait_for_writes(SOON).unwrap();
            until("the upper one hears of it", || {
                ground.hands.advance(SECOND * 300);
                ticket.state().has_ended()
            });
            confirmed(&ticket);
            assert!(ground.seen().iter().all(|seen| seen.key == ground.seen()[0].key), "{:?}", ground.seen());
            assert_eq!(ground.source.writes().iter().filter(|seen| seen.done).count(), 1);
            upper.refresh().unwrap();
            shows_the_source(&lower, &ground.source);
            shows_the_source(&upper, &ground.source);
        }
    });
}

#[test]
fn x3_a_write_through_two_dios_ends_confirmed_in_both() {
    in_time(|| {
        let ground = Ground::new(products("x3-through").assign_ids_from("srv-"));
        let (_lenses, lower, upper) = stacked(&ground, SECOND * 60);
        confirmed(&upper.write(price("b", 11)).unwrap());
        let insert = upper.write(WriteOp::insert(product("Drum", 4))).unwrap();
        assert_eq!(insert.wait(SOON).unwrap().id.as_deref(), Some("srv-1"));
        confirmed(&upper.write(price("srv-1", 5)).unwrap());
        shows_the_source(&lower, &ground.source);
        shows_the_source(&upper, &ground.source);
    });
}

#[test]
fn x3_what_the_source_refuses_is_refused_through_two_dios() {
    in_time(|| {
        let ground = Ground::new(products("x3-refused"));
        ground.fails(|call, _| (call.id == Some("b")).then(refused));
        let (_lenses, lower, upper) = stacked(&ground, SECOND * 60);
        let error = rejected(&upper.write(price("b", 11)).unwrap());
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert_eq!(ground.seen().len(), 1);
        assert_eq!((lower.failed_writes().len(), upper.failed_writes().len()), (1, 1));
        shows_the_source(&lower, &ground.source);
        shows_the_source(&upper, &ground.source);
    });
}
