//! Change sets: what turns one state of a view into another, and how batches step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::SortBy;
use diorama::{Cause, ChangeRange, VecMirror};

use crate::common::*;

/// A list on a screen: it knows a generation and its rows, and follows by change sets.
struct Mirror {
    generation: Generation,
    rows: Vec<(String, Record)>,
}

impl Mirror {
    fn new(view: &TableScenery) -> Self {
        let snapshot = view.snapshot();
        Mirror { generation: snapshot.generation(), rows: shown(&snapshot) }
    }

    /// Follows to the newest state; says whether by a list, or anew because more rows went than are left.
    fn follow(&mut self, view: &TableScenery) -> bool {
        let set = view.changes_since(self.generation);
        assert_eq!((set.from, set.to), (self.generation, set.snapshot.generation()));
        let row = |index: usize| {
            let row = set.snapshot.row(index).unwrap();
            (row.id().to_owned(), row.record().unwrap().clone())
        };
        if let Some(ranges) = set.changes.ranges() {
            let mut rows = self.rows.clone();
            ChangeRange::apply_all(&ranges, &mut rows, row).unwrap();
            assert_eq!(rows, shown(&set.snapshot), "by ranges");
        }
        let by_list = match set.changes {
            Changes::List(changes) => {
                Change::apply_all(&changes, &mut self.rows, row).unwrap();
                true
            }
            Changes::Reset => {
                let left = set.snapshot.row_count();
                let many_went = self.rows.len() - left.min(self.rows.len()) > left;
                self.rows = (0..set.snapshot.row_count()).map(row).collect();
                many_went
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(self.rows, shown(&set.snapshot));
        self.generation = set.to;
        by_list
    }
}

#[test]
fn t5_the_old_rows_and_the_changes_make_the_new_rows_index_by_index() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens, 40);
        let views = [
            dio.table_scenery().open().unwrap(),
            dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Desc).open().unwrap(),
            dio.table_scenery().search("1").sort("group", SortDir::Asc).sort("n", SortDir::Asc).open().unwrap(),
        ];
        let mut mirrors: Vec<Mirror> = views.iter().map(Mirror::new).collect();
        let mut lazy: Vec<Mirror> = views.iter().map(Mirror::new).collect();
        let mut step = |what: &str| {
            for (mirror, view) in mirrors.iter_mut().zip(&views) {
                assert!(mirror.follow(view), "{what}");
            }
        };
        step("nothing");
        dio.patched(id(5), row_with(5, 100)).unwrap();
        step("an update");
        dio.patched(id(6), row_with(6, 31)).unwrap();
        step("a move");
        dio.cache().remove(id(8)).unwrap();
        step("a removal");
        dio.cache().insert(id(8), row(8).1).unwrap();
        step("an insertion");
        dio.cache().insert_many((30..60).map(|number| (id(number), row_with(number, 60 - number as i64)))).unwrap();
        step("many");
        source.outside_silently().upsert(&id(70), row(70).1).unwrap();
        dio.refresh().unwrap();
        step("a refresh");
        dio.invalidate_record(id(70));
        settle(&dio);
        step("an invalidation");
        let reversed = (0..40).rev().map(|number| (id(number), row_with(number, 1_000 - number as i64)));
        dio.reconcile(reversed.collect()).unwrap();
        step("everything moves");
        dio.cache().clear().unwrap();
        step("a clearance");
        for (mirror, view) in lazy.iter_mut().zip(&views) {
            assert!(mirror.follow(view), "all of it at once");
        }
    });
}

#[test]
fn t5_a_generation_too_long_ago_or_of_another_query_gets_reset() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory(), 20);
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let mut mirror = Mirror::new(&view);
        for n in 0..2_000 {
            dio.patched(id(3), row_with(3, 1_000 + n)).unwrap();
        }
        assert!(!mirror.follow(&view), "2,000 generations ago");
        assert!(mirror.follow(&view), "now");
        view.set_sort([SortBy::desc("n")]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert!(!mirror.follow(&view), "another order");
        dio.patched(id(4), row_with(4, -1)).unwrap();
        assert!(mirror.follow(&view));
        assert_eq!(view.changes_since(Generation(1_000_000)).changes, Changes::Reset, "never was");
    });
}

#[test]
fn t5_a_mirror_that_follows_while_threads_write_ends_with_the_rows() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 200);
        let view = dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Asc).open().unwrap();
        let mut mirror = Mirror::new(&view);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..2_u64)
                .map(|writer| {
                    let dio = &dio;
                    scope.spawn(move || {
                        for round in 0..500_u64 {
                            let number = (round * 17 + writer * 5) % 220;
                            match round % 6 {
                                0 => dio.cache().remove(id(number)).unwrap(),
                                1 => dio.cache().insert_many((number..number + 5).map(row)).unwrap(),
                                _ => dio.patched(id(number), row_with(number, (round * 7) as i64)).unwrap(),
                            }
                        }
                    })
                })
                .collect();
            while !writers.iter().all(|writer| writer.is_finished()) {
                mirror.follow(&view);
            }
        });
        mirror.follow(&view);
        assert_eq!(mirror.rows, recomputed(&dio, is_even, by_n));
    });
}

#[test]
fn t6_many_changes_in_one_batch_are_one_step_and_one_change_set() {
    on_every_storage(|lens| {
        let lens = lens.on_event(|dio, _| {
            // Removed, put again, changed twice: what counts is where it ends.
            dio.cache().remove(id(0))?;
            dio.cache().insert(id(100), row(100).1)?;
            dio.patched(id(2), row_with(2, 50))?;
            dio.patched(id(2), row_with(2, 51))?;
            dio.cache().remove(id(4))?;
            dio.cache().insert(id(4), row_with(4, 52))?;
            dio.cache().insert(id(200), row(200).1)?;
            dio.cache().remove(id(200))
        });
        let (_lens, source, dio) = dio(lens, 10);
        let view = dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Asc).open().unwrap();
        let count = dio.value_scenery().count().open().unwrap();
        let total = dio.value_scenery().sum("n").open().unwrap();
        let one = dio.record_scenery(id(2)).unwrap();
        let mut mirror = Mirror::new(&view);
        let mut before = (view.generation(), total.generation(), one.generation());
        let mut one_step = |moved: (u64, u64, u64)| {
            let now = (view.generation(), total.generation(), one.generation());
            assert_eq!((now.0.0 - before.0.0, now.1.0 - before.1.0, now.2.0 - before.2.0), moved);
            before = now;
            assert!(mirror.follow(&view));
        };
        let start = view.snapshot();
        dio.handle_event(ChangeEvent::Invalidated).unwrap();
        one_step((1, 1, 1));
        assert_eq!(ids(&view.snapshot()), [6, 8, 2, 4, 100].map(id));
        let Changes::List(changes) = view.changes_since(start.generation()).changes else { panic!("a list") };
        assert!(changes.len() <= 5, "{changes:?}");
        let count_before = count.generation();
        dio.cache().insert_many((20..500).map(row)).unwrap();
        one_step((1, 1, 0));
        assert_eq!(count.generation(), count_before.next());
        dio.cache().insert_many((20..500).map(row)).unwrap();
        one_step((0, 0, 0));
        source.outside_silently().delete(&id(2)).unwrap();
        source.outside_silently().upsert(&id(6), row_with(6, 1_000)).unwrap();
        dio.refresh().unwrap();
        one_step((1, 1, 1));
        assert_eq!(one.status(), diorama::RecordStatus::NotFound);
        dio.refresh().unwrap();
        one_step((0, 0, 0));
        dio.cache().clear().unwrap();
        one_step((1, 1, 0));
        dio.cache().clear().unwrap();
        one_step((0, 0, 0));
    });
}

#[test]
fn t5_a_mirror_makes_only_the_rows_that_changed() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 1_000);
        let view = dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Asc).open().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let mut mirror = VecMirror::new(&view, move |row| {
            counted.fetch_add(1, Ordering::Relaxed);
            (row.id().to_owned(), row.record().unwrap().clone())
        });
        let mut update = |made: usize, what: &str| {
            calls.store(0, Ordering::Relaxed);
            let changes = mirror.update();
            assert_eq!(calls.load(Ordering::Relaxed), made, "{what}");
            let snapshot = view.snapshot();
            assert_eq!(mirror[..], shown(&snapshot), "{what}");
            assert_eq!((mirror.generation(), mirror.seq()), (snapshot.generation(), snapshot.seq()), "{what}");
            changes
        };
        assert_eq!(update(0, "nothing"), Changes::List(vec![]));
        dio.patched(id(6), row_with(6, 7)).unwrap();
        assert_eq!(update(1, "one, where it stands"), Changes::List(vec![Change::Update { index: 3 }]));
        dio.patched(id(0), row_with(0, 5_000)).unwrap();
        assert_eq!(update(1, "one moves"), Changes::List(vec![Change::Move { from: 0, to: 499 }]));
        dio.cache().insert_many((1_000..1_100).map(row)).unwrap();
        let news = update(50, "new ones");
        assert_eq!(news.ranges(), Some(vec![ChangeRange::Insert { range: 499..549 }]));
        dio.cache().insert_many((100..200).map(|number| (id(number), row_with(number, number as i64 + 300)))).unwrap();
        update(50, "a block moves");
        dio.cache().remove(id(500)).unwrap();
        assert!(matches!(&update(0, "one goes"), Changes::List(list) if list.len() == 1));
        view.set_sort([SortBy::desc("n")]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(update(549, "another order"), Changes::Reset);
        dio.cache().clear().unwrap();
        assert_eq!(update(0, "a clearance").ranges(), Some(vec![ChangeRange::Remove { range: 0..549 }]));
    });
}

#[test]
fn t5_a_mirror_whose_closure_panics_stays_as_it_was() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory(), 10);
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let mut mirror = VecMirror::new(&view, |row| {
            assert_ne!(row.int("n"), Some(77));
            row.id().to_owned()
        });
        let before = mirror.to_vec();
        dio.cache().insert_many([row(20), (id(3), row_with(3, 77))]).unwrap();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mirror.update())).unwrap_err();
        assert_eq!(mirror[..], before[..]);
        dio.patched(id(3), row_with(3, 78)).unwrap();
        mirror.update();
        assert_eq!(mirror[..], ids(&view.snapshot())[..]);
    });
}

#[test]
fn t5_a_mirror_that_updates_while_threads_write_ends_with_the_rows() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 100);
        let view = dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Asc).open().unwrap();
        let record = |row: &diorama::Row| (row.id().to_owned(), row.record().unwrap().clone());
        let mut mirror = VecMirror::new(&view, record);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..500_u64 {
                    let number = (round * 17) % 120;
                    match round % 4 {
                        0 => dio.cache().remove(id(number)).unwrap(),
                        1 => dio.cache().insert_many((number..number + 9).map(row)).unwrap(),
                        _ => dio.patched(id(number), row_with(number, (round * 7) as i64)).unwrap(),
                    }
                }
            });
            while !writer.is_finished() {
                mirror.update();
            }
        });
        mirror.update();
        assert_eq!(mirror[..], recomputed(&dio, is_even, by_n)[..]);
    });
}

#[test]
fn a_change_set_says_why_if_there_is_one_reason() {
    limited(|| {
        let (_lens, source, dio) = dio(Lens::new().in_memory(), 10);
        let view = dio.table_scenery().where_eq("group", "even").open().unwrap();
        let other = dio.table_scenery().where_eq("group", "odd").open().unwrap();
        let start = view.generation();
        let since = |from| view.changes_since(from).cause;
        assert_eq!(since(start), None, "nothing changed");
        dio.cache().insert(id(2), row_with(2, 50)).unwrap();
        dio.cache().insert_many([(id(2), row_with(2, 51)), (id(4), row_with(4, 51))]).unwrap();
        assert_eq!(since(start), Some(Cause::Local));
        let local = view.generation();
        let held = source.hold(Call::Patch);
        let ticket = dio.write(WriteOp::patch(id(4), record! { "n" => 60 })).unwrap();
        assert_eq!(since(start), Some(Cause::Local), "a write that is not settled is this program's own");
        let pending = view.generation();
        drop(held);
        ticket.wait(SOON).unwrap();
        assert_eq!(since(pending), Some(Cause::Confirmed));
        assert_eq!(since(local), None, "two reasons");
        let confirmed = view.generation();
        source.fail_next(Call::Patch, 1, Error::new(ErrorKind::Rejected, "on purpose"));
        let held = source.hold(Call::Patch);
        let ticket = dio.write(WriteOp::patch(id(4), record! { "n" => 61 })).unwrap();
        let pending = view.generation();
        drop(held);
        ticket.wait(SOON).unwrap_err();
        assert_eq!(since(pending), Some(Cause::RolledBack));
        assert_eq!(since(confirmed), None, "two reasons");
        let confirmed = view.generation();
        source.outside_silently().upsert(&id(6), row_with(6, 1_000)).unwrap();
        dio.cache().insert(id(1), row_with(1, 7)).unwrap();
        dio.refresh().unwrap();
        assert_eq!(since(confirmed), Some(Cause::Refresh), "what doesn't show doesn't count");
        assert_eq!(other.changes_since(Generation(1)).cause, None);
        let refreshed = view.generation();
        dio.cache().clear().unwrap();
        assert_eq!(since(refreshed), Some(Cause::Local));
        view.set_sort([SortBy::desc("n")]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(since(refreshed), None, "another query");
    });
}
