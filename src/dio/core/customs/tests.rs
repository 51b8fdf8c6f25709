use std::time::Duration;

use super::*;
use crate::dio::core::tests::hold_builds;
use crate::prelude::*;
use crate::value::RowRef;
use crate::{CustomAggregate, ValueStatus};

const SOON: Duration = Duration::from_secs(20);

fn dio(rows: i64) -> (Lens, Dio) {
    let rows = (0..rows).map(row);
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id").with_rows(rows)).unwrap();
    (lens, dio)
}

fn row(number: i64) -> (String, Record) {
    (format!("r{number}"), record! { "id" => format!("r{number}"), "n" => number })
}

/// A sum that tells how often it began anew and how many changes it took in.
#[derive(Default)]
struct Sum {
    sum: i64,
    changes: Arc<parking_lot::Mutex<Vec<usize>>>,
}

impl Sum {
    fn new(changes: &Arc<parking_lot::Mutex<Vec<usize>>>) -> Self {
        changes.lock().push(0);
        Sum { sum: 0, changes: changes.clone() }
    }

    fn change(&mut self, by: i64) {
        self.sum += by;
        *self.changes.lock().last_mut().unwrap() += 1;
    }
}

fn n(row: RowRef<'_>) -> i64 {
    row.get("n").and_then(|value| value.as_i64()).unwrap()
}

impl CustomAggregate for Sum {
    fn add(&mut self, row: RowRef<'_>) {
        self.change(n(row));
    }

    fn remove(&mut self, row: RowRef<'_>) {
        self.change(-n(row));
    }

    fn result(&self) -> Result<Value> {
        Ok(self.sum.into())
    }
}

#[test]
fn what_changes_while_no_job_runs_or_one_waits_is_taken_in_once() {
    let (_lens, dio) = dio(3);
    let changes = Arc::default();
    let sum = {
        let changes = Arc::clone(&changes);
        dio.value_scenery().condition(Condition::lt("n", 100)).custom(move || Sum::new(&changes)).open().unwrap()
    };
    assert_eq!((sum.int(), changes.lock().clone()), (Some(3), vec![3]));
    let before = sum.generation();
    let held = hold_builds(&dio);
    dio.patched("r0", row(0).1).unwrap();
    dio.cache().insert_many([row(7), row(8), row(200)]).unwrap();
    dio.cache().remove("r1").unwrap();
    dio.cache().insert("r2", record! { "id" => "r2", "n" => 300 }).unwrap();
    assert_eq!(sum.wait_for_seq(dio.seq(), Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!((sum.int(), sum.status(), sum.generation()), (Some(3), ValueStatus::Fresh, before));
    drop(held);
    assert_eq!(sum.wait_for_seq(dio.seq(), Some(SOON)).unwrap(), dio.seq());
    assert_eq!(sum.int(), Some(15));
    assert_eq!(*changes.lock(), [7], "two came, one went, one went out of the condition; nothing was read anew");
    // The first change had its job, all others one more.
    assert!(sum.generation().0 <= before.0 + 2);
}

#[test]
fn with_more_changes_than_are_kept_all_rows_are_read_anew() {
    let (_lens, dio) = dio(3);
    let changes = Arc::default();
    let sum = {
        let changes = Arc::clone(&changes);
        dio.value_scenery().custom(move || Sum::new(&changes)).open().unwrap()
    };
    let held = hold_builds(&dio);
    dio.cache().insert("r3", row(3).1).unwrap();
    dio.cache().insert_many((4..4 + RECORDED as i64).map(row)).unwrap();
    dio.cache().insert_many((1_000..1_004).map(row)).unwrap();
    drop(held);
    sum.wait_for_seq(dio.seq(), Some(SOON)).unwrap();
    let rows = 4 + RECORDED as i64;
    assert_eq!(sum.int(), Some(rows * (rows - 1) / 2 + 4_006));
    let within = changes.lock().clone();
    assert_eq!(within, [4, 4 + RECORDED + 4], "the first change was on its way, the rest is read anew");
    dio.cache().remove("r1003").unwrap();
    sum.wait_for_seq(dio.seq(), Some(SOON)).unwrap();
    assert_eq!(*changes.lock(), [4, 4 + RECORDED + 5], "and then changes are enough again");
}

#[test]
fn a_custom_value_that_no_thread_computes_is_an_error() {
    let (lens, dio) = dio(3);
    let changes = Arc::default();
    let open = || {
        let changes = Arc::clone(&changes);
        dio.value_scenery().custom(move || Sum::new(&changes)).open().unwrap()
    };
    let before = open();
    lens.inner().build_pool.hang_up();
    let kept = open();
    let computed = dio.value_scenery().computed(|rows| Ok(rows.row_count() as u64)).open().unwrap();
    for view in [&kept, &computed] {
        assert_eq!((view.status(), view.value()), (ValueStatus::Error, Value::Null));
        assert_eq!(view.error().unwrap().kind(), ErrorKind::Closed);
    }
    dio.patched("r0", row(9).1).unwrap();
    before.wait_for_seq(dio.seq(), Some(SOON)).unwrap();
    assert_eq!((before.status(), before.int()), (ValueStatus::Error, Some(3)), "the last value stays");
    assert_eq!(computed.wait_for_seq(dio.seq(), Some(SOON)).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_computed_value_shares_the_index_of_a_table_view_and_lets_go_of_it() {
    let (_lens, dio) = dio(3);
    let table = dio.table_scenery().sort("n", SortDir::Desc).open().unwrap();
    let first = |rows: &crate::TableSnapshot| Ok(rows.row(0).and_then(|row| row.int("n")));
    let greatest = dio.value_scenery().sort("n", SortDir::Desc).computed(first).open().unwrap();
    let least = dio.value_scenery().sort("n", SortDir::Asc).computed(first).open().unwrap();
    assert_eq!((greatest.int(), least.int()), (Some(2), Some(0)));
    let counts = || {
        // The counters are those of the messages before the last one.
        dio.cache().remove("none").unwrap();
        dio.cache().remove("none").unwrap();
        (dio.status().views, dio.status().indexes)
    };
    assert_eq!(counts(), (3, 2));
    drop(table);
    assert_eq!(counts(), (2, 2), "a value view keeps its index");
    drop(greatest);
    assert_eq!(counts(), (1, 1));
    drop(least);
    assert_eq!(counts(), (0, 0));
}
