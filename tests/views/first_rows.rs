//! First rows of a large order, while the rest of it is made: the scan of the table is held meanwhile.

use std::sync::Arc;

use diorama::FirstRows;
use diorama::prelude::*;

use crate::common::*;
use crate::storage::{ScriptedBackend, Storage};

/// Enough rows that the first of them are worth showing before the rest.
const ROWS: u64 = 70_000;

fn held_dio() -> (Lens, Arc<ScriptedBackend>, Dio) {
    let backend = ScriptedBackend::in_memory();
    let (lens, _, dio) = dio(Lens::new().cache_source(backend.clone()), ROWS);
    dio.flush().unwrap();
    (lens, backend, dio)
}

fn numbers(first: &FirstRows) -> Vec<i64> {
    first.iter().map(|row| row.int("n").unwrap()).collect()
}

#[test]
fn t8_first_matches_come_before_the_whole_and_the_old_rows_stay_until_then() {
    limited(|| {
        let (_lens, backend, dio) = held_dio();
        let view = dio.table_scenery().sort("n", SortDir::Desc).open().unwrap();
        assert!(view.first_rows().is_none());
        let scans = backend.hold(Storage::Scan);
        let before = view.generation();
        view.set_conditions([Condition::eq("group", "odd")]).unwrap();
        let first = view.wait_for_first_rows(Some(SOON)).unwrap().expect("the scan is held");
        assert!(first.len() >= 50 && !first.is_empty());
        let odd: Vec<i64> = (0..first.len() as i64).map(|n| ROWS as i64 - 1 - 2 * n).collect();
        assert_eq!(numbers(&first), odd);
        assert_eq!(view.generation(), before.next(), "they are a step of the view");
        let news = view.changes_since(before);
        assert_eq!((news.snapshot.row_count(), news.changes), (ROWS as usize, Changes::List(Vec::new())));
        assert_eq!(view.snapshot().row(1).unwrap().int("n"), Some(ROWS as i64 - 2));
        drop(scans);
        view.wait_until_ready(Some(SOON)).unwrap();
        assert!(view.first_rows().is_none());
        assert!(view.wait_for_first_rows(Some(SOON)).unwrap().is_none());
        assert_eq!(view.row_count(), ROWS as usize / 2);
        assert_eq!(numbers(&first), odd, "they are frozen");
    });
}

#[test]
fn t13_changes_of_the_first_rows_are_in_them() {
    limited(|| {
        let (_lens, backend, dio) = held_dio();
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let scans = backend.hold(Storage::Scan);
        view.set_conditions([Condition::eq("group", "even")]).unwrap();
        let first = view.wait_for_first_rows(Some(SOON)).unwrap().expect("the scan is held");
        assert_eq!(numbers(&first)[..3], [0, 2, 4]);
        let seen = view.generation();
        dio.patched(id(0).as_str(), row_with(0, 3)).unwrap();
        assert_eq!(view.generation(), seen.next(), "one step for the rows shown and the first to come");
        let moved = view.first_rows().unwrap();
        assert_eq!(numbers(&moved)[..3], [2, 3, 4]);
        assert!(moved.seq() > first.seq());
        dio.cache().remove(id(2)).unwrap();
        dio.patched(id(60_000).as_str(), row_with(60_000, 5)).unwrap();
        assert_eq!(numbers(&view.first_rows().unwrap())[..4], [3, 4, 5, 6]);
        assert_eq!(numbers(&first)[..3], [0, 2, 4], "frozen, contents included");
        // What is far behind them moves the rows shown, and not them.
        dio.patched(id(50_000).as_str(), row_with(50_000, 60_001)).unwrap();
        assert_eq!(numbers(&view.first_rows().unwrap())[..4], [3, 4, 5, 6]);
        drop(scans);
        view.wait_until_ready(Some(SOON)).unwrap();
        let shown: Vec<i64> = view.snapshot().rows(0..4).map(|row| row.int("n").unwrap()).collect();
        assert_eq!(shown, [3, 4, 5, 6]);
    });
}

#[test]
fn t8_another_query_takes_the_first_rows_of_the_last_one_away() {
    limited(|| {
        let (_lens, backend, dio) = held_dio();
        let view = dio.table_scenery().sort("n", SortDir::Asc).limit(10).open().unwrap();
        let scans = backend.hold(Storage::Scan);
        view.set_conditions([Condition::eq("group", "even")]).unwrap();
        let first = view.wait_for_first_rows(Some(SOON)).unwrap().expect("the scan is held");
        assert_eq!(first.len(), 10, "no more than the view is to show");
        view.set_sort([SortBy::new("name", SortDir::Asc)]).unwrap();
        // The core has it once a later message is answered.
        dio.cache().remove("nobody").unwrap();
        assert!(view.first_rows().is_none());
        drop(scans);
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(view.row(0).unwrap().int("n"), Some(69_998));
    });
}

#[test]
fn t8_a_view_that_is_opened_has_its_first_rows_before_the_whole() {
    limited(|| {
        let (_lens, _backend, dio) = held_dio();
        let view = dio.table_scenery().sort("name", SortDir::Asc).open_now().unwrap();
        // They may come or be overtaken by the whole.
        match view.wait_for_first_rows(Some(SOON)).unwrap() {
            Some(first) => assert_eq!(numbers(&first)[..2], [69_999, 69_998]),
            None => assert_eq!(view.row_count(), ROWS as usize),
        }
        view.wait_until_ready(Some(SOON)).unwrap();
        assert!(view.first_rows().is_none());
        dio.close(SOON).unwrap();
        assert!(view.wait_for_first_rows(Some(SOON)).unwrap().is_none());
    });
}
