//! W5: with `coalesce_patches` patches of a row that were not tried yet go as one.

use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::ground::*;
use crate::support::*;

#[test]
fn w5_patches_that_wait_for_the_same_row_go_as_one_and_all_end() {
    in_time(|| {
        let ground = Ground::new(products("w5-coalesce"));
        let (_lens, dio) = ground.dio(policy().coalesce_patches(true));
        let view = dio.table_scenery().open().unwrap();
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let tickets = [price("b", 11), WriteOp::patch("b", record! { "name" => "Gong" }), price("b", 12)]
            .map(|op| dio.write(op).unwrap());
        assert_eq!(prices(&view.snapshot()), ["a=31", "b=12", "c=20"]);
        held.release();
        confirmed(&first);
        tickets.iter().for_each(confirmed);
        let seen = ground.seen_of("b");
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].ops[0].record(), Some(&record! { "price" => 12, "name" => "Gong" }));
        assert!(dio.pending_writes().is_empty());
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_patches_that_go_as_one_fail_as_one() {
    in_time(|| {
        let ground = Ground::new(products("w5-coalesce-fail"));
        ground.fails(|call, _| (call.id == Some("b")).then(refused));
        let (_lens, dio) = ground.dio(policy().coalesce_patches(true));
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let tickets = [price("b", 11), price("b", 12)].map(|op| dio.write(op).unwrap());
        held.release();
        confirmed(&first);
        tickets.iter().for_each(|ticket| assert_eq!(rejected(ticket).kind(), ErrorKind::Rejected));
        assert_eq!(dio.failed_writes().len(), 2);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w5_a_patch_that_was_tried_takes_no_other_in() {
    in_time(|| {
        let ground = Ground::new(products("w5-coalesce-tried"));
        ground.fails(|call, before| (call.id == Some("b") && before < 1).then(broken));
        let (_lens, dio) = ground.dio(policy().coalesce_patches(true));
        let first = dio.write(price("b", 11)).unwrap();
        waits_until(&first, ground.moment(SECOND));
        let later = [price("b", 12), price("b", 13)].map(|op| dio.write(op).unwrap());
        ground.hands.advance(SECOND);
        confirmed(&first);
        later.iter().for_each(confirmed);
        let sent: Vec<_> = ground.seen_of("b").iter().map(|seen| seen.ops[0].record().unwrap().int("price")).collect();
        assert_eq!(sent, [11, 11, 13].map(Some));
    });
}

#[test]
fn w5_only_patches_that_follow_each_other_go_as_one() {
    in_time(|| {
        let ground = Ground::new(products("w5-coalesce-between"));
        let (_lens, dio) = ground.dio(policy().coalesce_patches(true));
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let ops = [price("b", 11), WriteOp::replace("b", product("Gong", 12)), price("b", 13), price("b", 14)];
        let tickets = ops.map(|op| dio.write(op).unwrap());
        held.release();
        confirmed(&first);
        tickets.iter().for_each(confirmed);
        let calls: Vec<Call> = ground.seen_of("b").iter().map(|seen| seen.call).collect();
        assert_eq!(calls, [Call::Patch, Call::Replace, Call::Patch]);
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn w12_a_patch_dropped_from_those_that_go_as_one_leaves_the_others() {
    in_time(|| {
        let ground = Ground::new(products("w12-coalesce-drop"));
        ground.fails(|call, before| (call.id == Some("b") && before < 1).then(broken));
        let (_lens, dio) = ground.dio(policy().coalesce_patches(true));
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let kept = dio.write(price("b", 11)).unwrap();
        let dropped = dio.write(WriteOp::patch("b", record! { "name" => "Gong" })).unwrap();
        held.release();
        confirmed(&first);
        waits_until(&kept, ground.moment(SECOND));
        dio.drop_write(dropped.number()).unwrap();
        ground.hands.advance(SECOND);
        confirmed(&kept);
        assert!(matches!(dropped.state(), diorama::WriteState::Cancelled));
        let row = ground.source.row("b").unwrap();
        assert_eq!((row.text("name"), row.int("price")), (Some("Bell"), Some(11)));
        dio.refresh().unwrap();
        shows_the_source(&dio, &ground.source);
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn w8_patches_that_went_as_one_do_so_after_a_restart_under_the_same_key() {
    in_time(|| {
        let cache = Cache::disk();
        let ground = Ground::new(products("w8-coalesce"));
        let is_broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        ground.fails({
            let is_broken = is_broken.clone();
            move |call, _| (call.id == Some("b") && is_broken.load(std::sync::atomic::Ordering::SeqCst)).then(broken)
        });
        let (lens, dio) = ground.dio_over(&cache, policy().coalesce_patches(true));
        let held = ground.source.hold(Call::Patch);
        let first = dio.write(price("a", 31)).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let tickets =
            [price("b", 11), WriteOp::patch("b", record! { "name" => "Gong" })].map(|op| dio.write(op).unwrap());
        // The journal answers in order: the two are in the queue by then.
        dio.write(price("c", 21)).unwrap().wait_durable(SOON).unwrap();
        held.release();
        confirmed(&first);
        waits_until(&tickets[0], ground.moment(SECOND));
        drop(dio);
        let report = lens.close(SOON).unwrap();
        assert!(report.is_closed(), "{report:?}");
        drop(lens);
        is_broken.store(false, std::sync::atomic::Ordering::SeqCst);

        let held = ground.source.hold(Call::Patch);
        let (_lens, dio) = ground.dio_over(&cache, policy().coalesce_patches(true));
        let view = dio.table_scenery().open().unwrap();
        let row = view.snapshot().iter().nth(1).unwrap();
        assert_eq!(
            (row.text("name"), row.int("price"), row.status()),
            (Some("Gong"), Some(11), RowStatus::PendingWrite)
        );
        held.release();
        dio.wait_for_writes(SOON).unwrap();
        let seen = ground.seen_of("b");
        assert!(
            seen.len() > 1 && seen.iter().all(|other| other.key == seen[0].key && other.ops == seen[0].ops),
            "{seen:?}"
        );
        shows_the_source(&dio, &ground.source);
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn w9_after_a_restart_a_patch_that_the_source_may_have_takes_no_other_in() {
    in_time(|| {
        let cache = Cache::disk();
        let ground = Ground::new(products("w9-coalesce"));
        let (lens, dio) = ground.dio_over(&cache, policy().coalesce_patches(true));
        ground.source.lose_next_answers(Call::Patch, 2, lost());
        let first = dio.write(price("b", 11)).unwrap();
        waits_until(&first, ground.moment(SECOND));
        let second = dio.write(WriteOp::patch("b", record! { "name" => "Gong" })).unwrap();
        second.wait_durable(SOON).unwrap();
        assert_eq!(lens.close(SOON).unwrap().kept, 2);
        drop((dio, lens));

        let (_lens, dio) = ground.dio_over(&cache, policy().coalesce_patches(true));
        dio.wait_for_writes(SOON).unwrap();
        let row = ground.source.row("b").unwrap();
        assert_eq!((row.text("name"), row.int("price")), (Some("Gong"), Some(11)));
        shows_the_source(&dio, &ground.source);
    });
}
