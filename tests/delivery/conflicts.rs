//! Conflicts: what becomes of a write whose row somebody else has changed, by each policy, over sources that compare and
//! sources that don't.

use std::sync::Arc;

#[cfg(feature = "lmdb")]
use diorama::LensBuilder;
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::Capabilities;
use diorama::{ConflictPolicy, Resolution};
use parking_lot::Mutex;

use crate::ground::*;
use crate::support::*;

/// Over a source that compares by itself, and over one that doesn't.
fn on_either(body: impl Fn(bool) + Send + Sync + 'static) {
    in_time(move || [false, true].into_iter().for_each(&body));
}

fn ground(table: &str, compares: bool) -> Ground {
    let rows = ["a", "b", "c"].map(|id| (id, record! { "id" => id, "name" => "Bell", "price" => 10, "stock" => 1 }));
    let source = MemoryVista::new(table, "id").with_rows(rows);
    let capabilities = Capabilities { compares, idempotent_writes: true, ..Capabilities::read_write() };
    Ground::new(source.with_capabilities(capabilities))
}

fn dio(ground: &Ground, policy: ConflictPolicy) -> (Lens, Dio) {
    let lens = ground.lens(&Cache::memory()).delivery(crate::ground::policy()).conflicts(policy).build().unwrap();
    let dio = lens.make_dio(ground.source.clone()).unwrap();
    (lens, dio)
}

/// Somebody else sets these fields of b.
fn theirs(ground: &Ground, fields: Record) {
    ground.source.outside_silently().patch("b", fields).unwrap();
}

fn whole(name: &str, price: i64, stock: i64) -> Record {
    record! { "id" => "b", "name" => name, "price" => price, "stock" => stock }
}

fn at_source(ground: &Ground) -> (String, i64, i64) {
    let row = ground.source.row("b").unwrap();
    (row.text("name").unwrap().to_owned(), row.int("price").unwrap(), row.int("stock").unwrap())
}

/// Blocks until the view shows the rows that the source has; what a conflict found is read again behind.
fn comes_to_show_the_source(dio: &Dio, ground: &Ground) {
    let view = dio.table_scenery().open().unwrap();
    let there = |snapshot: &diorama::TableSnapshot| {
        snapshot.iter().count() == ground.source.row_count()
            && snapshot.iter().all(|row| {
                row.status() == RowStatus::Fresh
                    && ground
                        .source
                        .row(row.id())
                        .is_some_and(|there| plain(there) == plain(row.record().unwrap().clone()))
            })
    };
    wait_for(&view, "what the source has", there);
}

// ---- mine wins -----------------------------------------------------------------------------------------------------

#[test]
fn the_last_one_wins_by_default_and_the_row_is_not_asked_for_first() {
    on_either(|compares| {
        let ground = ground("mine", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::default());
        theirs(&ground, record! { "price" => 99, "stock" => 7 });
        confirmed(&dio.write(price("b", 11)).unwrap());
        assert_eq!(at_source(&ground), ("Bell".into(), 11, 7));
        if !compares {
            assert_eq!(ground.source.calls(Call::Get), 0);
        }
        theirs(&ground, record! { "price" => 98 });
        confirmed(&dio.write(WriteOp::replace("b", whole("Gong", 12, 2))).unwrap());
        assert_eq!(at_source(&ground), ("Gong".into(), 12, 2));
        theirs(&ground, record! { "price" => 97 });
        confirmed(&dio.write(WriteOp::delete("b")).unwrap());
        assert!(ground.source.row("b").is_none());
        comes_to_show_the_source(&dio, &ground);
    });
}

#[test]
fn mine_does_not_win_over_a_row_that_is_gone() {
    on_either(|compares| {
        let ground = ground("mine-gone", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::MineWins);
        ground.source.outside_silently().delete("b").unwrap();
        assert_eq!(rejected(&dio.write(price("b", 11)).unwrap()).kind(), ErrorKind::NotFound);
        comes_to_show_the_source(&dio, &ground);
        ground.source.outside_silently().delete("c").unwrap();
        confirmed(&dio.write(WriteOp::delete("c")).unwrap());
        comes_to_show_the_source(&dio, &ground);
    });
}

// ---- the source wins -----------------------------------------------------------------------------------------------

#[test]
fn the_source_wins_over_a_patch_of_what_somebody_else_changed() {
    on_either(|compares| {
        let ground = ground("theirs-patch", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::SourceWins);
        theirs(&ground, record! { "price" => 99 });
        let ticket = dio.write(price("b", 11)).unwrap();
        let error = rejected(&ticket);
        assert_eq!((error.kind(), error.context("id")), (ErrorKind::Conflict, Some("b")));
        assert_eq!(at_source(&ground), ("Bell".into(), 99, 1));
        assert_eq!(dio.failed_writes()[0].number, ticket.number());
        comes_to_show_the_source(&dio, &ground);
        // Now it was seen.
        confirmed(&dio.retry_failed(ticket.number(), None).unwrap());
        assert_eq!(at_source(&ground), ("Bell".into(), 11, 1));
    });
}

#[test]
fn a_patch_beside_what_somebody_else_changed_is_no_conflict() {
    on_either(|compares| {
        let ground = ground("theirs-beside", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::SourceWins);
        theirs(&ground, record! { "price" => 99 });
        confirmed(&dio.write(WriteOp::patch("b", record! { "name" => "Gong" })).unwrap());
        assert_eq!(at_source(&ground), ("Gong".into(), 99, 1));
        theirs(&ground, record! { "name" => "Drum" });
        confirmed(&dio.write(WriteOp::patch("b", record! { "name" => "Drum" })).unwrap());
    });
}

#[test]
fn the_source_wins_over_a_replace_and_a_delete_of_a_row_that_somebody_else_changed() {
    on_either(|compares| {
        for op in [
            WriteOp::replace("b", whole("Gong", 10, 1)),
            WriteOp::upsert("b", whole("Gong", 10, 1)),
            WriteOp::delete("b"),
        ] {
            let ground = ground("theirs-replace", compares);
            let (_lens, dio) = dio(&ground, ConflictPolicy::SourceWins);
            theirs(&ground, record! { "price" => 99 });
            assert_eq!(rejected(&dio.write(op).unwrap()).kind(), ErrorKind::Conflict);
            assert_eq!(at_source(&ground), ("Bell".into(), 99, 1));
            comes_to_show_the_source(&dio, &ground);
        }
    });
}

#[test]
fn without_anybody_else_every_write_is_done_under_every_policy() {
    on_either(|compares| {
        for policy in [ConflictPolicy::MineWins, ConflictPolicy::SourceWins, ConflictPolicy::MergeFields] {
            let ground = ground("alone", compares);
            let (_lens, dio) = dio(&ground, policy);
            let ops = [
                price("b", 11),
                price("b", 12),
                WriteOp::replace("b", record! { "name" => "Gong" }),
                WriteOp::upsert("b", whole("Drum", 1, 2)),
                WriteOp::delete("b"),
                WriteOp::insert_as("b", whole("Harp", 3, 4)),
                price("b", 5),
                WriteOp::delete("a"),
            ];
            // All at once, so that each finds the one before it on its way.
            let held = ground.source.hold(Call::Patch);
            let tickets = dio.write_batch(ops.to_vec()).unwrap();
            held.release();
            tickets.iter().for_each(confirmed);
            assert_eq!(at_source(&ground), ("Harp".into(), 5, 4));
            shows_the_source(&dio, &ground.source);
        }
    });
}

#[test]
fn the_writes_of_ones_own_before_it_are_not_somebody_elses() {
    on_either(|compares| {
        let ground = ground("own", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::SourceWins);
        let held = ground.source.hold_answer(Call::Patch);
        let tickets: Vec<_> = (11..15).map(|to| dio.write(price("b", to)).unwrap()).collect();
        assert!(held.wait_until_held(1, SOON));
        // Read while they are pending.
        dio.refresh().unwrap();
        held.release();
        tickets.iter().for_each(confirmed);
        assert_eq!(at_source(&ground), ("Bell".into(), 14, 1));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn a_write_of_ones_own_that_was_refused_is_not_somebody_elses_change() {
    on_either(|compares| {
        let ground = ground("own-refused", compares);
        ground.fails(|call, before| (call.id == Some("b") && before < 1).then(refused));
        let (_lens, dio) = dio(&ground, ConflictPolicy::SourceWins);
        let tickets = dio.write_batch(vec![price("b", 11), price("b", 12)]).unwrap();
        assert_eq!(rejected(&tickets[0]).kind(), ErrorKind::Rejected);
        confirmed(&tickets[1]);
        assert_eq!(at_source(&ground), ("Bell".into(), 12, 1));
    });
}

#[test]
fn a_write_whose_answer_was_lost_does_not_conflict_with_itself() {
    on_either(|compares| {
        for policy in [ConflictPolicy::SourceWins, ConflictPolicy::MergeFields] {
            for (call, op) in [
                (Call::Patch, price("b", 11)),
                (Call::Replace, WriteOp::replace("b", record! { "name" => "Gong" })),
                (Call::Delete, WriteOp::delete("b")),
            ] {
                let ground = ground("lost", compares);
                let (_lens, dio) = dio(&ground, policy);
                ground.source.lose_next_answers(call, 1, lost());
                let ticket = dio.write(op).unwrap();
                waits_until(&ticket, ground.moment(SECOND));
                ground.hands.advance(SECOND);
                confirmed(&ticket);
                shows_the_source(&dio, &ground.source);
            }
        }
    });
}

#[test]
fn a_row_that_is_gone_is_a_conflict_and_goes() {
    on_either(|compares| {
        for policy in [ConflictPolicy::SourceWins, ConflictPolicy::MergeFields] {
            for op in [price("b", 11), WriteOp::replace("b", whole("Gong", 1, 1))] {
                let ground = ground("gone", compares);
                let (_lens, dio) = dio(&ground, policy);
                ground.source.outside_silently().delete("b").unwrap();
                assert_eq!(rejected(&dio.write(op).unwrap()).kind(), ErrorKind::Conflict);
                assert!(ground.source.row("b").is_none());
                comes_to_show_the_source(&dio, &ground);
            }
            let ground = ground("gone-delete", compares);
            let (_lens, dio) = dio(&ground, policy);
            ground.source.outside_silently().delete("b").unwrap();
            confirmed(&dio.write(WriteOp::delete("b")).unwrap());
        }
    });
}

#[test]
fn an_insert_of_a_row_that_is_there_is_a_conflict_whatever_the_policy() {
    on_either(|compares| {
        for policy in [ConflictPolicy::MineWins, ConflictPolicy::SourceWins, ConflictPolicy::MergeFields] {
            let ground = ground("insert", compares);
            let (_lens, dio) = dio(&ground, policy);
            ground.source.outside_silently().upsert("d", whole("Drum", 4, 4)).unwrap();
            assert_eq!(
                rejected(&dio.write(WriteOp::insert_as("d", product("Mine", 1))).unwrap()).kind(),
                ErrorKind::Conflict
            );
            comes_to_show_the_source(&dio, &ground);
        }
    });
}

#[test]
fn a_write_of_a_row_that_somebody_else_has_made_meanwhile_is_a_conflict() {
    on_either(|compares| {
        let whole = || record! { "name" => "Mine" };
        let blind = [
            WriteOp::patch("d", whole()),
            WriteOp::replace("d", whole()),
            WriteOp::upsert("d", whole()),
            WriteOp::delete("d"),
        ];
        for op in blind {
            let ground = ground("upsert", compares);
            let (_lens, dio) = dio(&ground, ConflictPolicy::SourceWins);
            ground.source.outside_silently().upsert("d", record! { "id" => "d", "name" => "Theirs" }).unwrap();
            assert_eq!(rejected(&dio.write(op).unwrap()).kind(), ErrorKind::Conflict);
            comes_to_show_the_source(&dio, &ground);
        }
    });
}

#[test]
fn a_conflict_takes_only_its_own_write_back() {
    on_either(|compares| {
        let ground = ground("theirs-stack", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::SourceWins);
        theirs(&ground, record! { "price" => 99 });
        let held = ground.source.hold(if compares { Call::Patch } else { Call::Get });
        let bad = dio.write(price("b", 11)).unwrap();
        let good = dio.write(WriteOp::patch("b", record! { "name" => "Gong" })).unwrap();
        held.release();
        assert_eq!(rejected(&bad).kind(), ErrorKind::Conflict);
        confirmed(&good);
        assert_eq!(at_source(&ground), ("Gong".into(), 99, 1));
        comes_to_show_the_source(&dio, &ground);
    });
}

// ---- field by field ------------------------------------------------------------------------------------------------

#[test]
fn a_merge_takes_what_only_one_side_changed_and_leaves_the_source_the_rest() {
    on_either(|compares| {
        for make in [WriteOp::replace as fn(&'static str, Record) -> WriteOp, WriteOp::upsert] {
            let ground = ground("merge", compares);
            let (_lens, dio) = dio(&ground, ConflictPolicy::MergeFields);
            theirs(&ground, record! { "price" => 99, "stock" => 7 });
            confirmed(&dio.write(make("b", whole("Gong", 11, 1))).unwrap());
            assert_eq!(at_source(&ground), ("Gong".into(), 99, 7));
            shows_the_source(&dio, &ground.source);
        }
    });
}

#[test]
fn a_merge_of_a_patch_leaves_out_what_both_changed() {
    on_either(|compares| {
        let ground = ground("merge-patch", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::MergeFields);
        theirs(&ground, record! { "price" => 99 });
        confirmed(&dio.write(WriteOp::patch("b", record! { "name" => "Gong", "price" => 11 })).unwrap());
        assert_eq!(at_source(&ground), ("Gong".into(), 99, 1));
        shows_the_source(&dio, &ground.source);
        theirs(&ground, record! { "price" => 98 });
        confirmed(&dio.write(price("b", 12)).unwrap());
        assert_eq!(at_source(&ground), ("Gong".into(), 98, 1));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn a_field_that_only_mine_has_removed_is_gone_after_a_merge() {
    on_either(|compares| {
        let ground = ground("merge-removed", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::MergeFields);
        theirs(&ground, record! { "price" => 99 });
        confirmed(&dio.write(WriteOp::replace("b", record! { "name" => "Gong", "price" => 10 })).unwrap());
        let row = ground.source.row("b").unwrap();
        assert_eq!(plain(row), plain(record! { "name" => "Gong", "price" => 99 }));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn a_merge_does_not_delete_a_row_that_somebody_else_changed() {
    on_either(|compares| {
        let ground = ground("merge-delete", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::MergeFields);
        theirs(&ground, record! { "price" => 99 });
        assert_eq!(rejected(&dio.write(WriteOp::delete("b")).unwrap()).kind(), ErrorKind::Conflict);
        comes_to_show_the_source(&dio, &ground);
    });
}

#[test]
fn a_merge_whose_answer_was_lost_shows_what_was_merged() {
    on_either(|compares| {
        let ground = ground("merge-lost", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::MergeFields);
        theirs(&ground, record! { "price" => 99 });
        // The merged one, which is a patch.
        ground.source.lose_next_answers(Call::Patch, 1, lost());
        let ticket = dio.write(WriteOp::replace("b", whole("Gong", 11, 1))).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        ground.hands.advance(SECOND);
        confirmed(&ticket);
        assert_eq!(at_source(&ground), ("Gong".into(), 99, 1));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn a_merge_whose_answer_was_lost_shows_what_was_merged_also_where_whole_rows_are_written() {
    on_either(|compares| {
        let capabilities =
            Capabilities { patch: false, compares, idempotent_writes: true, ..Capabilities::read_write() };
        let ground = ground("merge-lost-whole", compares);
        let ground = Ground::new(ground.source.with_capabilities(capabilities));
        let (_lens, dio) = dio(&ground, ConflictPolicy::MergeFields);
        theirs(&ground, record! { "price" => 99 });
        if compares {
            let held = ground.source.hold(Call::Replace);
            let ticket = dio.write(WriteOp::replace("b", whole("Gong", 11, 1))).unwrap();
            assert!(held.wait_until_held(1, SOON));
            held.let_one_pass();
            assert!(ground.source.wait_until_called(Call::Replace, 2, SOON));
            ground.source.lose_next_answers(Call::Replace, 1, lost());
            held.release();
            waits_until(&ticket, ground.moment(SECOND));
            ground.hands.advance(SECOND);
            confirmed(&ticket);
        } else {
            ground.source.lose_next_answers(Call::Replace, 1, lost());
            let ticket = dio.write(WriteOp::replace("b", whole("Gong", 11, 1))).unwrap();
            waits_until(&ticket, ground.moment(SECOND));
            ground.hands.advance(SECOND);
            confirmed(&ticket);
        }
        assert_eq!(at_source(&ground), ("Gong".into(), 99, 1));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn an_upsert_of_a_row_that_is_not_there_is_no_conflict() {
    on_either(|compares| {
        for policy in [ConflictPolicy::SourceWins, ConflictPolicy::MergeFields] {
            let ground = ground("upsert-new", compares);
            let (_lens, dio) = dio(&ground, policy);
            confirmed(&dio.write(WriteOp::upsert("d", record! { "name" => "Mine" })).unwrap());
            shows_the_source(&dio, &ground.source);
        }
    });
}

#[test]
fn a_merge_of_an_upsert_with_a_row_that_somebody_else_has_made_adds_what_that_lacks() {
    on_either(|compares| {
        let ground = ground("upsert-merge", compares);
        let (_lens, dio) = dio(&ground, ConflictPolicy::MergeFields);
        ground.source.outside_silently().upsert("d", record! { "id" => "d", "name" => "Theirs" }).unwrap();
        confirmed(&dio.write(WriteOp::upsert("d", record! { "name" => "Mine", "price" => 3 })).unwrap());
        let row = ground.source.row("d").unwrap();
        assert_eq!((row.text("name"), row.int("price")), (Some("Theirs"), Some(3)));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn a_merge_goes_on_when_the_row_is_changed_once_more() {
    in_time(|| {
        let ground = ground("merge-twice", true);
        let (_lens, dio) = dio(&ground, ConflictPolicy::MergeFields);
        theirs(&ground, record! { "price" => 99 });
        let held = ground.source.hold(Call::Patch);
        let ticket = dio.write(WriteOp::replace("b", whole("Gong", 10, 5))).unwrap();
        assert!(held.wait_until_held(1, SOON));
        theirs(&ground, record! { "stock" => 8 });
        held.release();
        confirmed(&ticket);
        assert_eq!(at_source(&ground), ("Gong".into(), 99, 8));
        shows_the_source(&dio, &ground.source);
    });
}

// ---- a callback ----------------------------------------------------------------------------------------------------

type Met = (WriteOp, Option<Record>, Option<Record>);

fn deciding(
    ground: &Ground,
    decide: impl Fn(&Record) -> Resolution + Send + Sync + 'static,
) -> (Lens, Dio, Arc<Mutex<Vec<Met>>>) {
    let met: Arc<Mutex<Vec<Met>>> = Arc::default();
    let seen = met.clone();
    let lens = ground.lens(&Cache::memory()).delivery(policy()).on_conflict(move |_, conflict| {
        let plain_of = |row: Option<&Record>| row.cloned().map(plain);
        seen.lock().push((conflict.op.clone(), plain_of(conflict.before), plain_of(conflict.current)));
        Ok(decide(conflict.current.unwrap_or(&Record::new())))
    });
    let lens = lens.build().unwrap();
    let dio = lens.make_dio(ground.source.clone()).unwrap();
    (lens, dio, met)
}

#[test]
fn a_callback_gets_the_write_the_row_before_and_the_row_as_it_is() {
    on_either(|compares| {
        let ground = ground("callback", compares);
        let (_lens, dio, met) = deciding(&ground, |_| Resolution::Mine);
        confirmed(&dio.write(price("b", 11)).unwrap());
        assert!(met.lock().is_empty(), "no conflict");
        theirs(&ground, record! { "price" => 99 });
        confirmed(&dio.write(price("b", 12)).unwrap());
        let row = |price: i64| Some(plain(record! { "name" => "Bell", "price" => price, "stock" => 1 }));
        assert_eq!(*met.lock(), [(price("b", 12), row(11), row(99))]);
        assert_eq!(at_source(&ground), ("Bell".into(), 12, 1));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn a_callback_can_leave_the_row_to_the_source() {
    on_either(|compares| {
        let ground = ground("callback-theirs", compares);
        let (_lens, dio, _) = deciding(&ground, |_| Resolution::Theirs);
        theirs(&ground, record! { "price" => 99 });
        assert_eq!(rejected(&dio.write(price("b", 12)).unwrap()).kind(), ErrorKind::Conflict);
        comes_to_show_the_source(&dio, &ground);
    });
}

#[test]
fn a_callback_can_have_another_write_done() {
    on_either(|compares| {
        let ground = ground("callback-write", compares);
        let (_lens, dio, _) =
            deciding(&ground, |current| Resolution::Write(price("b", current.int("price").unwrap() + 1)));
        theirs(&ground, record! { "price" => 99 });
        confirmed(&dio.write(price("b", 12)).unwrap());
        assert_eq!(at_source(&ground), ("Bell".into(), 100, 1));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn what_a_callback_made_of_a_write_whose_answer_was_lost_is_done_once_by_a_source_with_keys() {
    on_either(|compares| {
        let ground = ground("callback-lost", compares);
        let one_more = |current: &Record| {
            let mut row = current.clone();
            row.insert("price", current.int("price").unwrap() + 1);
            Resolution::Write(WriteOp::replace("b", row))
        };
        let (_lens, dio, _) = deciding(&ground, one_more);
        theirs(&ground, record! { "price" => 99 });
        // That of a conflict is none.
        ground.source.lose_next_answers(Call::Replace, 1, lost());
        let ticket = dio.write(price("b", 12)).unwrap();
        waits_until(&ticket, ground.moment(SECOND));
        ground.hands.advance(SECOND);
        confirmed(&ticket);
        assert_eq!(at_source(&ground), ("Bell".into(), 100, 1));
        shows_the_source(&dio, &ground.source);
    });
}

#[test]
fn a_callback_can_not_have_another_row_written() {
    on_either(|compares| {
        for other in [price("a", 1), WriteOp::delete("b"), WriteOp::delete_all()] {
            let ground = ground("callback-other", compares);
            let (_lens, dio, _) = deciding(&ground, move |_| Resolution::Write(other.clone()));
            theirs(&ground, record! { "price" => 99 });
            assert_eq!(rejected(&dio.write(price("b", 12)).unwrap()).kind(), ErrorKind::Invalid);
            assert_eq!((ground.source.row_count(), at_source(&ground)), (3, ("Bell".into(), 99, 1)));
        }
    });
}

#[test]
fn a_callback_that_panics_fails_the_write_and_the_worker_lives() {
    on_either(|compares| {
        let ground = ground("callback-panic", compares);
        let (_lens, dio, _) = deciding(&ground, |_| panic!("on purpose"));
        theirs(&ground, record! { "price" => 99 });
        assert_eq!(rejected(&dio.write(price("b", 12)).unwrap()).kind(), ErrorKind::Panicked);
        confirmed(&dio.write(price("a", 12)).unwrap());
    });
}

#[test]
fn a_row_that_can_not_be_read_keeps_the_write_waiting() {
    in_time(|| {
        let ground = ground("unreadable", false);
        let (_lens, dio) = dio(&ground, ConflictPolicy::SourceWins);
        ground.source.fail_next(Call::Get, 1, cut());
        let ticket = dio.write(price("b", 12)).unwrap();
        waits_until(&ticket, ground.moment(SECOND * 30));
        assert_eq!(ground.source.calls(Call::Patch), 0);
        ground.hands.advance(SECOND * 30);
        confirmed(&ticket);
    });
}

// ---- after a crash -------------------------------------------------------------------------------------------------

/// What was made of a write in conflict is not in the journal: who decides is asked again, unless the source knows the key.
#[cfg(feature = "lmdb")]
mod after_a_crash {
    use super::*;

    type Build = fn(LensBuilder) -> LensBuilder;

    fn merging(lens: LensBuilder) -> LensBuilder {
        lens.conflicts(ConflictPolicy::MergeFields)
    }

    /// What both have added to the price counts.
    fn adding(lens: LensBuilder) -> LensBuilder {
        lens.on_conflict(|_, conflict| {
            let price_of = |row: Option<&Record>| row.and_then(|row| row.int("price")).unwrap_or_default();
            let mine = price_of(conflict.op.record()) - price_of(conflict.before);
            let mut row = conflict.current.cloned().unwrap_or_default();
            row.insert("price", price_of(conflict.current) + mine);
            Ok(Resolution::Write(WriteOp::replace("b", row)))
        })
    }

    fn insisting(lens: LensBuilder) -> LensBuilder {
        lens.on_conflict(|_, _| Ok(Resolution::Mine))
    }

    fn open(ground: &Ground, cache: &Cache, build: Build) -> (Lens, Dio) {
        let lens = build(ground.lens(cache).delivery(policy())).build().unwrap();
        let dio = lens.make_dio(ground.source.clone()).unwrap();
        (lens, dio)
    }

    /// Its answers don't tell the rows: those to patches would.
    fn ground(compares: bool, idempotent_writes: bool) -> Ground {
        let ground = super::ground("crash", compares);
        let capabilities = Capabilities { patch: false, compares, idempotent_writes, ..Capabilities::read_write() };
        Ground::new(ground.source.with_capabilities(capabilities))
    }

    /// Somebody else has changed the row, the source does what is made of the write, and its answer is lost with the program.
    /// The next run delivers the write again, and shows what the source has without reading it whole.
    fn is_delivered_again(ground: &Ground, build: Build, op: WriteOp, as_what: Call) {
        let cache = Cache::disk();
        let (_first, dio) = open(ground, &cache, build);
        dio.flush().unwrap();
        theirs(ground, record! { "price" => 99, "stock" => 7 });
        let held = ground.source.hold_answer(as_what);
        let ticket = dio.write(op).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let after = crashed(&cache);
        held.release();
        confirmed(&ticket);
        let held = ground.source.hold(Call::List);
        let (_lens, again) = open(ground, &after, build);
        again.wait_for_writes(SOON).unwrap();
        assert!(again.failed_writes().is_empty(), "{:?}", again.failed_writes());
        shows_the_source(&again, &ground.source);
        held.release();
    }

    fn times_done(ground: &Ground) -> usize {
        ground.source.writes().iter().filter(|seen| seen.done).count()
    }

    #[test]
    fn a_merge_that_a_crash_found_at_the_source_is_not_done_again_and_shows_as_it_was_merged() {
        on_either(|compares| {
            for has_keys in [false, true] {
                let replace = WriteOp::replace as fn(&'static str, Record) -> WriteOp;
                for (make, merged_as) in [(replace, Call::Replace), (WriteOp::upsert, Call::Upsert)] {
                    let ground = ground(compares, has_keys);
                    let op = make("b", whole("Gong", 11, 1));
                    is_delivered_again(&ground, merging, op, merged_as);
                    assert_eq!(at_source(&ground), ("Gong".into(), 99, 7));
                    assert_eq!(times_done(&ground), 1);
                }
            }
        });
    }

    #[test]
    fn a_write_that_a_callback_insisted_on_is_the_same_after_a_crash() {
        on_either(|compares| {
            for has_keys in [false, true] {
                let ground = ground(compares, has_keys);
                let op = WriteOp::replace("b", whole("Gong", 11, 1));
                is_delivered_again(&ground, insisting, op, Call::Replace);
                assert_eq!(at_source(&ground), ("Gong".into(), 11, 1));
            }
        });
    }

    #[test]
    fn what_a_callback_made_of_a_write_is_done_once_by_a_source_with_keys_and_shows_as_it_was_done() {
        on_either(|compares| {
            let ground = ground(compares, true);
            is_delivered_again(&ground, adding, WriteOp::replace("b", whole("Bell", 12, 1)), Call::Replace);
            assert_eq!(at_source(&ground), ("Bell".into(), 101, 7));
            assert_eq!(times_done(&ground), 1);
        });
    }
    #[test]
    fn without_keys_a_callback_is_asked_again_about_the_row_that_it_has_made() {
        on_either(|compares| {
            let ground = ground(compares, false);
            is_delivered_again(&ground, adding, WriteOp::replace("b", whole("Bell", 12, 1)), Call::Replace);
            // 99 and 2, and once more the 2 that it had made of it.
            assert_eq!(at_source(&ground), ("Bell".into(), 103, 7));
            assert_eq!(times_done(&ground), 2);
        });
    }
    #[test]
    fn a_write_of_ones_own_that_was_refused_in_the_last_run_is_not_somebody_elses_change() {
        on_either(|compares| {
            let ground = super::ground("own-refused-before", compares);
            ground.fails(|call, before| match (call.id, before) {
                (Some("b"), 0) => Some(refused()),
                (Some("b"), 1) => Some(cut()),
                _ => None,
            });
            let cache = Cache::disk();
            let source_wins: Build = |lens| lens.conflicts(ConflictPolicy::SourceWins);
            let (_first, dio) = open(&ground, &cache, source_wins);
            let tickets = dio.write_batch(vec![price("b", 11), price("b", 12)]).unwrap();
            assert_eq!(rejected(&tickets[0]).kind(), ErrorKind::Rejected);
            waits_until(&tickets[1], ground.moment(SECOND * 30));
            let (_lens, again) = open(&ground, &crashed(&cache), source_wins);
            again.wait_for_writes(SOON).unwrap();
            let failed: Vec<WriteOp> = again.failed_writes().into_iter().map(|failed| failed.op).collect();
            assert_eq!(failed, [price("b", 11)]);
            assert_eq!(at_source(&ground), ("Bell".into(), 12, 1));
        });
    }
}
