//! Threads that do everything at once, and a recompute in the end.

use std::cmp::Ordering;
use std::thread;

use diorama::LensBuilder;
use diorama::prelude::*;
use diorama::vista::SortBy;

use crate::common::*;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

type Keep = fn(&Record) -> bool;
type Order = fn(&Record, &Record) -> Ordering;

/// The queries that the threads choose from, with what they mean.
fn query(number: u64) -> (Vec<Condition>, Vec<SortBy>, Keep, Order) {
    match number % 4 {
        0 => (vec![], vec![], |_| true, |_, _| Ordering::Equal),
        1 => (vec![Condition::eq("group", "even")], vec![SortBy::asc("n")], is_even, by_n),
        2 => {
            (vec![Condition::lt("n", 150)], vec![SortBy::desc("n")], |row| row.int("n") < Some(150), |a, b| by_n(b, a))
        }
        _ => (
            vec![],
            vec![SortBy::asc("group"), SortBy::desc("n")],
            |_| true,
            |a, b| a.text("group").cmp(&b.text("group")).then_with(|| by_n(b, a)),
        ),
    }
}

fn open(dio: &Dio, number: u64) -> TableScenery {
    let (conditions, sort, ..) = query(number);
    let view = conditions.into_iter().fold(dio.table_scenery(), |view, condition| view.condition(condition));
    sort.into_iter().fold(view, |view, by| view.sort_with(by)).open().unwrap()
}

/// A view together with the query it was last set to.
type Held = (TableScenery, u64);

fn work(dio: &Dio, source: &MemoryVista, thread: u64, steps: u64) -> Vec<Held> {
    let mut dice = Dice(thread * 7_919 + 1);
    let mut views: Vec<Held> = vec![(open(dio, thread), thread)];
    let mut snapshots = Vec::new();
    let mut tickets = Vec::new();
    for step in 0..steps {
        let number = dice.roll(400);
        let n = dice.roll(300) as i64;
        match dice.roll(16) {
            0 | 1 => dio.patched(id(number), row_with(number, n)).unwrap(),
            2 => dio.cache().remove(id(number)).unwrap(),
            3 => dio.cache().insert_many((number..number + 8).map(row)).unwrap(),
            4 => tickets.push(dio.write(WriteOp::upsert(id(number), row_with(number, n))).unwrap()),
            5 => tickets.push(dio.write(WriteOp::delete(id(number))).unwrap()),
            6 => source.outside_silently().upsert(&id(number), row_with(number, n)).unwrap(),
            7 if step.is_multiple_of(5) => dio.refresh().unwrap(),
            8 if views.len() < 6 => views.push((open(dio, number), number)),
            9 if views.len() > 1 => drop(views.swap_remove(dice.roll(views.len() as u64) as usize)),
            10 => {
                let place = dice.roll(views.len() as u64) as usize;
                let (conditions, sort, ..) = query(number);
                views[place].0.set_conditions(conditions).unwrap();
                views[place].0.set_sort(sort).unwrap();
                views[place].1 = number;
            }
            11 if snapshots.len() < 4 => {
                let snapshot = views[0].0.snapshot();
                snapshots.push((ids(&snapshot), snapshot));
            }
            12 if !snapshots.is_empty() => {
                let (before, snapshot) = snapshots.swap_remove(0);
                assert_eq!(ids(&snapshot), before);
            }
            13 => {
                let set = views[0].0.changes_since(Generation(dice.roll(views[0].0.generation().0 + 1)));
                assert_eq!(set.to, set.snapshot.generation());
            }
            14 => dio.invalidate_record(id(number)),
            15 if step.is_multiple_of(9) => dio.flush().unwrap(),
            _ => assert!(dio.value_scenery().count().open().unwrap().int() >= Some(0)),
        }
    }
    for ticket in tickets {
        ticket.wait(SOON).unwrap();
    }
    for (before, snapshot) in snapshots {
        assert_eq!(ids(&snapshot), before);
    }
    views
}

fn everything_at_once(lens: LensBuilder) {
    let (_lens, source, dio) = dio(lens.hot_tier_capacity(20_000), 300);
    let total = dio.value_scenery().sum("n").open().unwrap();
    let count = dio.value_scenery().count().where_eq("group", "even").open().unwrap();
    let records: Vec<RecordScenery> = (0..20).map(|number| dio.record_scenery(id(number * 17)).unwrap()).collect();
    let mut views: Vec<Held> = thread::scope(|scope| {
        let workers: Vec<_> = (0..4_u64)
            .map(|thread| {
                let (dio, source) = (&dio, &source);
                scope.spawn(move || work(dio, source, thread, 250))
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    // Rows may still be on their way from the source: the load thread takes one after the other.
    let last = dio.record_scenery("the last").unwrap();
    source.outside_silently().upsert("the last", row_with(0, 0)).unwrap();
    dio.handle_event(ChangeEvent::Inserted { id: "the last".into(), record: None }).unwrap();
    while last.record().is_none() {
        last.wait_for_change(last.generation(), Some(SOON)).unwrap();
    }
    views.push((open(&dio, 3), 3));
    let rows = dio.cache().list().unwrap();
    for (view, number) in &views {
        view.wait_until_ready(Some(SOON)).unwrap();
        let (_, _, keep, order) = query(*number);
        assert_eq!(shown(&view.snapshot()), recomputed(&dio, keep, order), "{:?}", view.query());
    }
    assert_eq!(total.int(), Some(rows.iter().filter_map(|(_, row)| row.int("n")).sum()));
    assert_eq!(count.int(), Some(rows.iter().filter(|(_, row)| is_even(row)).count() as i64));
    for record in &records {
        assert_eq!(record.record(), dio.cache().get(record.id()).unwrap(), "{}", record.id());
    }
    drop(views);
    settle(&dio);
    dio.flush().unwrap();
    let status = dio.status();
    assert!(status.cache_error.is_none(), "{status:?}");
    assert_eq!(
        (status.views, status.snapshots, status.snapshot_bytes, status.rows_in_memory),
        (2, 0, 0, 0),
        "{status:?}"
    );
    dio.refresh().unwrap();
    let mut here = dio.cache().list().unwrap();
    let mut there = source.rows();
    here.sort_by(|(a, _), (b, _)| a.cmp(b));
    there.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(here, there, "a refresh ends all differences");
}

#[test]
fn t1_after_threads_have_done_everything_at_once_every_view_equals_a_recompute() {
    for _ in 0..3 {
        on_every_storage(everything_at_once);
    }
}

#[test]
fn t1_the_same_holds_with_a_budget_that_snapshots_exceed_all_the_time() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory().snapshot_budget(3_000), 300);
        let views = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut dice = Dice(5);
                for _ in 0..3_000 {
                    let number = dice.roll(300);
                    dio.patched(id(number), row_with(number, dice.roll(300) as i64)).unwrap();
                }
            });
            let mut views = Vec::new();
            let mut held = Vec::new();
            while !writer.is_finished() {
                let view = open(&dio, views.len() as u64);
                let snapshot = view.snapshot();
                held.push((snapshot.row_count(), snapshot));
                views.push((view, views.len() as u64));
                views.truncate(40);
                held.truncate(40);
            }
            for (rows, snapshot) in held {
                assert_eq!(snapshot.row_count(), rows);
                assert!(snapshot.iter().all(|row| matches!(row.status(), RowStatus::Fresh | RowStatus::Expired)));
            }
            views
        });
        for (view, number) in &views {
            let (_, _, keep, order) = query(*number);
            assert_eq!(shown(&view.snapshot()), recomputed(&dio, keep, order));
        }
    });
}
