use std::time::Duration;

use crate::ValueStatus;
use crate::dio::core::tests::hold_builds;
use crate::prelude::*;

const SOON: Duration = Duration::from_secs(20);

fn dio(rows: i64) -> (Lens, Dio) {
    let rows = (0..rows).map(|n| (format!("r{n}"), record! { "id" => format!("r{n}"), "n" => n }));
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id").with_rows(rows)).unwrap();
    (lens, dio)
}

#[test]
fn a_change_that_lands_while_a_view_is_opening_is_in_it() {
    let (_lens, dio) = dio(3);
    let held = hold_builds(&dio);
    let view = dio.table_scenery().sort("n", SortDir::Asc).open_now().unwrap();
    let sum = dio.value_scenery().sum("n").open_now().unwrap();
    // The core has the views, and their scans are pinned, once later messages are answered.
    dio.cache().insert("r1", record! { "id" => "r1", "n" => 10 }).unwrap();
    dio.cache().insert("r9", record! { "id" => "r9", "n" => 9 }).unwrap();
    dio.cache().remove("r0").unwrap();
    assert_eq!(view.row_count(), 0);
    drop(held);
    view.wait_until_ready(Some(SOON)).unwrap();
    sum.wait_until_ready(Some(SOON)).unwrap();
    let shown: Vec<i64> = view.snapshot().iter().filter_map(|row| row.int("n")).collect();
    assert_eq!(shown, [2, 9, 10]);
    assert_eq!(sum.int(), Some(21));
}

#[test]
fn equal_queries_share_one_index() {
    let (_lens, dio) = dio(3);
    let open =
        |least: i64| dio.table_scenery().condition(Condition::ge("n", least)).sort("n", SortDir::Asc).open().unwrap();
    let (first, second, other) = (open(1), open(1), open(2));
    // The counters are those of the messages before the last one.
    dio.cache().insert("x", record! { "id" => "x", "n" => 4 }).unwrap();
    dio.cache().insert("x", record! { "id" => "x", "n" => 5 }).unwrap();
    assert_eq!((dio.status().views, dio.status().indexes), (3, 2));
    second.set_conditions([Condition::ge("n", 2)]).unwrap();
    second.wait_until_ready(Some(SOON)).unwrap();
    assert_eq!((first.row_count(), second.row_count(), other.row_count()), (3, 2, 2));
    drop(first);
    dio.cache().insert("y", record! { "id" => "y", "n" => 6 }).unwrap();
    dio.cache().insert("z", record! { "id" => "z", "n" => 7 }).unwrap();
    assert_eq!((dio.status().views, dio.status().indexes), (2, 1), "the last view of an index takes it along");
    assert_eq!((second.row_count(), other.row_count()), (4, 4));
}

#[test]
fn a_view_that_no_thread_builds_fails_instead_of_loading_for_ever() {
    let (lens, dio) = dio(3);
    lens.inner().build_pool.hang_up();
    let view = dio.table_scenery().open_now().unwrap();
    assert_eq!(view.wait_until_ready(Some(SOON)).unwrap_err().kind(), ErrorKind::Closed);
    assert!(matches!(view.load_state(), LoadState::Failed(_)));
    let sum = dio.value_scenery().sum("n").open().unwrap();
    assert_eq!(sum.status(), ValueStatus::Error);
}

#[test]
fn a_change_looks_at_the_views_that_it_can_concern() {
    let (_lens, dio) = dio(1_000);
    let of_one = |n: i64| dio.table_scenery().where_eq("n", n).sort("n", SortDir::Asc).open_now().unwrap();
    let of_ten = |n: i64| {
        let range = [Condition::ge("n", n), Condition::lt("n", n + 10)];
        let view = dio.table_scenery().sort("id", SortDir::Asc);
        range.into_iter().fold(view, |view, condition| view.condition(condition)).open_now().unwrap()
    };
    let views: Vec<TableScenery> = (0..500).map(of_one).chain((0..500).map(|n| of_ten(n * 10))).collect();
    let sum = dio.value_scenery().sum("n").where_eq("n", 42).open().unwrap();
    for view in &views {
        view.wait_until_ready(Some(SOON)).unwrap();
    }
    let generations: Vec<Generation> = views.iter().map(|view| view.generation()).collect();
    let before = dio.diagnostics().counters.indexes_asked;
    dio.patched("r42", record! { "id" => "r42", "n" => 4_242 }).unwrap();
    let after = dio.diagnostics().counters.indexes_asked;
    // Equal to 42 (a table and a sum), from 40 to 50, from 4,240 to 4,250.
    assert_eq!(after - before, 4);
    assert_eq!((views[42].row_count(), views[504].row_count(), views[924].row_count()), (0, 9, 1));
    assert_eq!(sum.int(), Some(0));
    let moved = views.iter().zip(&generations).filter(|(view, before)| view.generation() != **before).count();
    assert_eq!(moved, 3, "nobody else moved");

    // Views that are dropped, or ask for something else, are not looked at any more.
    views[504].set_conditions([Condition::eq("n", 7)]).unwrap();
    views[504].wait_until_ready(Some(SOON)).unwrap();
    drop(sum);
    let mut views = views;
    views.drain(..500);
    // Their going is noticed by the batch after which the bell is answered.
    dio.cache().insert("x", record! { "id" => "x", "n" => -1 }).unwrap();
    dio.cache().insert("x", record! { "id" => "x", "n" => -2 }).unwrap();
    let before = dio.diagnostics().counters.indexes_asked;
    dio.patched("r41", record! { "id" => "r41", "n" => 7 }).unwrap();
    let after = dio.diagnostics().counters.indexes_asked;
    // Equal to 7, from 0 to 10; nothing is left that asks for 40 to 50.
    assert_eq!(after - before, 2);
    assert_eq!(views[4].row_count(), 2);
}

/// A view shows what its query makes of all rows.
fn check_like_anew(dio: &Dio, view: &TableScenery) {
    let (wanted, rows) = (view.query(), dio.cache().list().unwrap());
    let expected = wanted.apply(rows, &crate::vista::Schema::open("id"));
    let shown: Vec<(String, Record)> =
        view.snapshot().iter().map(|row| (row.id().to_owned(), row.record().unwrap().clone())).collect();
    assert_eq!(shown.len(), expected.len());
    for (shown, expected) in shown.iter().zip(&expected) {
        assert_eq!(shown.0, expected.0);
    }
}

fn mixed(n: i64) -> Record {
    let mut record = record! { "id" => format!("r{n}"), "name" => format!("{}{}{}", n % 7, n % 5, n % 3) };
    if n % 4 != 0 {
        record.insert("n", n * 37 % 50);
    }
    record
}

fn mixed_dio(rows: i64) -> (Lens, Dio) {
    let rows: Vec<(String, Record)> = (0..rows).map(|n| (format!("r{n}"), mixed(n))).collect();
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id").with_rows(rows)).unwrap();
    (lens, dio)
}

#[test]
fn a_reversed_sort_keeps_nulls_last_ties_in_their_order_and_changes_made_meanwhile() {
    let (_lens, dio) = mixed_dio(500);
    let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
    for dir in [SortDir::Desc, SortDir::Asc, SortDir::Desc] {
        let held = hold_builds(&dio);
        view.set_sort([SortBy::new("n", dir)]).unwrap();
        dio.cache().insert("r1", record! { "id" => "r1" }).unwrap();
        dio.cache().insert("r4", record! { "id" => "r4", "n" => 7 }).unwrap();
        dio.cache().remove("r9").unwrap();
        dio.cache().insert("r9", record! { "id" => "r9", "n" => 7 }).unwrap();
        drop(held);
        view.wait_until_ready(Some(SOON)).unwrap();
        check_like_anew(&dio, &view);
    }
}

#[test]
fn a_query_that_narrows_what_is_shown_finds_the_same_rows_as_one_opened_anew() {
    let (_lens, dio) = mixed_dio(2_000);
    let view = dio.table_scenery().sort("n", SortDir::Desc).search("6").open().unwrap();
    let mut salt = 0;
    let mut edit_and_check = |change: &dyn Fn()| {
        let held = hold_builds(&dio);
        change();
        salt += 1;
        for n in 0..20 {
            let n = n * 17 + salt;
            match n % 3 {
                0 => dio.cache().remove(format!("r{n}")).unwrap(),
                _ => {
                    let mut record = mixed(n);
                    record.insert("name", format!("64{n}"));
                    dio.cache().insert(format!("r{n}"), record).unwrap();
                }
            }
        }
        drop(held);
        view.wait_until_ready(Some(SOON)).unwrap();
        check_like_anew(&dio, &view);
    };
    edit_and_check(&|| view.set_search(Some("64")).unwrap());
    edit_and_check(&|| view.set_search(Some("641")).unwrap());
    edit_and_check(&|| view.set_search(Some("64")).unwrap());
    edit_and_check(&|| view.set_conditions([Condition::gt("n", 10)]).unwrap());
    edit_and_check(&|| view.set_sort([SortBy::new("name", SortDir::Asc)]).unwrap());
    edit_and_check(&|| view.set_conditions([Condition::gt("n", 10), Condition::lt("n", 40)]).unwrap());
    edit_and_check(&|| view.set_search(None).unwrap());
}
