//! Snapshots: frozen, whatever happens later; within their budget; released when dropped.

use diorama::prelude::*;
use diorama::{LensBuilder, TableSnapshot};

use crate::common::*;
use crate::storage::{ScriptedBackend, Storage};

/// What a snapshot said when it was taken.
struct Frozen {
    snapshot: TableSnapshot,
    rows: Vec<(String, Record)>,
}

impl Frozen {
    fn take(view: &TableScenery) -> Self {
        let snapshot = view.snapshot();
        Frozen { rows: shown(&snapshot), snapshot }
    }

    /// Every answer is still the same.
    fn check(&self) {
        let snapshot = &self.snapshot;
        assert!(!snapshot.is_expired());
        assert_eq!(snapshot.row_count(), self.rows.len());
        assert_eq!(shown(snapshot), self.rows);
        for (index, (id, record)) in self.rows.iter().enumerate() {
            let row = snapshot.row(index).unwrap();
            assert_eq!((row.id(), row.record().unwrap(), row.status()), (id.as_str(), record, RowStatus::Fresh));
            assert_eq!(snapshot.position_of(id).unwrap(), Some(index), "{id}");
        }
        assert!(snapshot.row(self.rows.len()).is_none());
    }

    /// Order and count are the same; a row is as it was or `Expired`. How many rows are expired.
    fn check_beyond_budget(&self) -> usize {
        let snapshot = &self.snapshot;
        assert_eq!(snapshot.row_count(), self.rows.len());
        let mut expired = 0;
        for (index, (id, record)) in self.rows.iter().enumerate() {
            let row = snapshot.row(index).unwrap();
            match row.status() {
                RowStatus::Expired => {
                    expired += 1;
                    assert_eq!(row.record().unwrap_err().kind(), ErrorKind::Expired);
                    assert_eq!((row.id(), row.get("n")), ("", None));
                }
                status => {
                    assert_eq!((row.id(), row.record().unwrap(), status), (id.as_str(), record, RowStatus::Fresh));
                }
            }
        }
        expired
    }
}

fn sorted(dio: &Dio) -> TableScenery {
    dio.table_scenery().sort("n", SortDir::Desc).open().unwrap()
}

#[test]
fn t4_no_answer_of_a_snapshot_changes_whatever_happens_to_its_rows() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens.hot_tier_capacity(1), 60);
        dio.flush().unwrap();
        let view = sorted(&dio);
        let filtered = dio.table_scenery().where_eq("group", "even").open().unwrap();
        let mut frozen = vec![Frozen::take(&view), Frozen::take(&filtered)];
        let mut step = |dio: &Dio| {
            frozen.iter().for_each(Frozen::check);
            dio.flush().unwrap();
            frozen.iter().for_each(Frozen::check);
            frozen.push(Frozen::take(&view));
            frozen.push(Frozen::take(&filtered));
        };
        for round in 0..4 {
            for number in 0..60 {
                dio.patched(id(number), row_with(number, 1_000 * round + (number * 37 % 60) as i64)).unwrap();
            }
            step(&dio);
        }
        for number in (0..60).step_by(3) {
            dio.cache().remove(id(number)).unwrap();
        }
        step(&dio);
        for number in (0..60).step_by(6) {
            dio.cache().insert(id(number), row_with(number, -1)).unwrap();
        }
        step(&dio);
        dio.cache().clear().unwrap();
        step(&dio);
        dio.cache().insert_many((30..90).map(row)).unwrap();
        step(&dio);
        source.outside_silently().delete(&id(40)).unwrap();
        dio.refresh().unwrap();
        step(&dio);
        view.set_conditions([Condition::lt("n", 10)]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        filtered.set_sort([diorama::vista::SortBy::desc("name")]).unwrap();
        filtered.wait_until_ready(Some(SOON)).unwrap();
        step(&dio);
        assert_eq!(dio.status().snapshots, frozen.len());
        drop(frozen);
        settle(&dio);
        dio.flush().unwrap();
        let status = dio.status();
        assert_eq!((status.snapshots, status.snapshot_bytes, status.rows_in_memory), (0, 0, 0));
    });
}

#[test]
fn t4_snapshots_let_go_of_in_any_order_leave_the_others_as_they_were() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory().hot_tier_capacity(1), 20);
        let view = sorted(&dio);
        for order in 0..6_usize {
            let mut frozen = Vec::new();
            for round in 0..3 {
                frozen.push(Some(Frozen::take(&view)));
                for number in 0..20 {
                    match (number + round) % 4 {
                        0 => dio.cache().remove(id(number)).unwrap(),
                        1 => {}
                        _ => dio
                            .patched(id(number), row_with(number, (order as u64 * 97 + round * number) as i64))
                            .unwrap(),
                    }
                }
            }
            let first = order / 2;
            let second = (first + 1 + order % 2) % 3;
            for gone in [first, second] {
                frozen[gone] = None;
                settle(&dio);
                frozen.iter().flatten().for_each(Frozen::check);
                dio.flush().unwrap();
                frozen.iter().flatten().for_each(Frozen::check);
            }
        }
    });
}

fn held_through_many_writes(lens: LensBuilder) -> (Lens, Dio) {
    const WRITES: u64 = 100_000;
    let (lens, _source, dio) = dio(lens, 500);
    dio.flush().unwrap();
    let view = sorted(&dio);
    let frozen = Frozen::take(&view);
    // As a program does it that follows a feed: batches of some hundred rows.
    for batch in 0..WRITES / 250 {
        let rows = (0..250).map(|place| {
            let number = (batch * 250 + place) * 7 % 700;
            (id(number), row_with(number, (batch * 31 + place) as i64))
        });
        dio.cache().insert_many(rows).unwrap();
        if batch.is_multiple_of(10) {
            dio.cache().remove(id(batch % 500)).unwrap();
        }
    }
    dio.flush().unwrap();
    frozen.check();
    let status = dio.status();
    // Each of the 500 rows is kept once, however often it was overwritten.
    assert!(status.rows_in_memory <= 600, "{status:?}");
    assert!(status.snapshot_bytes < 1 << 20, "{status:?}");
    drop(frozen);
    settle(&dio);
    dio.flush().unwrap();
    let status = dio.status();
    assert_eq!((status.snapshots, status.snapshot_bytes, status.rows_in_memory), (0, 0, 0), "{status:?}");
    (lens, dio)
}

#[test]
fn t4_a_snapshot_held_through_a_hundred_thousand_writes_costs_one_image_of_each_row() {
    limited(|| {
        held_through_many_writes(Lens::new().in_memory());
    });
}

#[test]
#[cfg(feature = "lmdb")]
fn t4_a_snapshot_held_through_a_hundred_thousand_writes_does_not_grow_the_file() {
    use diorama::cache::{CacheBackend, LmdbBackend};
    limited(|| {
        let dir = tempfile::tempdir().unwrap();
        let backend = LmdbBackend::open(dir.path().join("cache")).unwrap();
        let (_lens, _dio) = held_through_many_writes(Lens::new().cache_source(backend.clone()));
        let bytes = backend.file_size().unwrap();
        assert!(bytes < 8 << 20, "700 small rows take {bytes} bytes");
    });
}

#[test]
fn t4_beyond_the_budget_overwritten_rows_say_expired_and_order_and_count_stay() {
    for budget in [0, 4_000] {
        on_every_storage(if budget == 0 {
            |lens| beyond_the_budget(lens, 0)
        } else {
            |lens| beyond_the_budget(lens, 4_000)
        });
    }
}

fn beyond_the_budget(lens: LensBuilder, budget: usize) {
    let (_lens, _source, dio) = dio(lens.hot_tier_capacity(1).snapshot_budget(budget), 200);
    dio.flush().unwrap();
    let view = sorted(&dio);
    let untouched = Frozen::take(&view);
    untouched.check();
    let within = |dio: &Dio| {
        let status = dio.status();
        assert!(status.snapshot_bytes <= budget, "{status:?}");
    };
    for number in 0..100 {
        dio.patched(id(number), row_with(number, 10_000 + number as i64)).unwrap();
        within(&dio);
        if number == 0 && budget > 0 {
            untouched.check();
        }
    }
    let later = Frozen::take(&view);
    dio.flush().unwrap();
    assert_eq!(untouched.check_beyond_budget(), 100);
    assert!(untouched.snapshot.is_expired());
    later.check();
    for (index, (id, _)) in untouched.rows.iter().enumerate() {
        assert_eq!(untouched.snapshot.position_of(id).unwrap(), Some(index), "{id}");
    }
    for number in 50..150 {
        dio.cache().remove(id(number)).unwrap();
        within(&dio);
    }
    dio.flush().unwrap();
    assert_eq!(untouched.check_beyond_budget(), 150);
    assert_eq!(later.check_beyond_budget(), 100);
    assert_eq!(view.row_count(), 100);
    assert_eq!(Frozen::take(&view).check_beyond_budget(), 0);
    drop((untouched, later));
    settle(&dio);
    dio.flush().unwrap();
    let status = dio.status();
    assert_eq!((status.snapshots, status.snapshot_bytes, status.rows_in_memory), (0, 0, 0), "{status:?}");
}

#[test]
fn t4_an_expired_snapshot_finds_positions_also_while_the_cache_holds_older_rows() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let lens = Lens::new().cache_source(backend.clone()).snapshot_budget(0).hot_tier_capacity(1);
        let (_lens, _source, dio) = dio(lens, 20);
        dio.flush().unwrap();
        let view = sorted(&dio);
        // From here on the cache keeps the first version of every row.
        let _held = backend.hold(Storage::Apply);
        dio.patched(id(3), row_with(3, 500)).unwrap();
        let frozen = Frozen::take(&view);
        assert_eq!(frozen.snapshot.position_of(&id(3)).unwrap(), Some(0));
        dio.patched(id(3), row_with(3, -500)).unwrap();
        assert_eq!(frozen.snapshot.position_of(&id(3)).unwrap(), Some(0));
        assert_eq!(frozen.check_beyond_budget(), 1);
    });
}

#[test]
fn t4_a_snapshot_answers_the_same_while_threads_write_and_flush() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens.hot_tier_capacity(10_000), 300);
        let view = sorted(&dio);
        std::thread::scope(|scope| {
            for writer in 0..2_u64 {
                let dio = &dio;
                scope.spawn(move || {
                    for round in 0..400_u64 {
                        let number = (round * 11 + writer) % 300;
                        match round % 7 {
                            0 => dio.cache().remove(id(number)).unwrap(),
                            1 => dio.cache().insert_many((number..number + 30).map(row)).unwrap(),
                            2 if round.is_multiple_of(3) => dio.flush().unwrap(),
                            _ => dio.patched(id(number), row_with(number, (round * 13) as i64)).unwrap(),
                        }
                    }
                });
            }
            let mut held = Vec::new();
            for _ in 0..30 {
                held.push(Frozen::take(&view));
                if held.len() > 5 {
                    held.remove(2).check();
                }
                held[0].check();
            }
            held.iter().for_each(Frozen::check);
        });
        assert_eq!(shown(&view.snapshot()), recomputed(&dio, |_| true, |a, b| by_n(b, a)));
    });
}
