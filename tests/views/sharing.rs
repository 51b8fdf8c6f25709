//! Sharing: equal queries have one index; what is dropped costs nothing.

use diorama::cache::{CacheBackend, MemoryBackend};
use diorama::prelude::*;
use diorama::vista::SortBy;

use crate::common::*;
use crate::storage::{ScriptedBackend, Storage};

fn counts(dio: &Dio) -> (usize, usize) {
    settle(dio);
    let status = dio.status();
    (status.views, status.indexes)
}

#[test]
fn t9_equal_queries_share_one_index_and_the_last_handle_frees_it() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 100);
        let open = || dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Desc).open().unwrap();
        let first = open();
        let second = open();
        let clone = first.clone();
        assert_eq!(counts(&dio), (2, 1));
        let other = dio.table_scenery().where_eq("group", "even").sort("n", SortDir::Asc).open().unwrap();
        assert_eq!(counts(&dio), (3, 2));
        drop(first);
        assert_eq!(counts(&dio), (3, 2), "a clone is left");
        drop(clone);
        assert_eq!(counts(&dio), (2, 2), "the second shows the index");
        dio.patched(id(0), row_with(0, 1_000)).unwrap();
        assert_eq!((second.row(0).unwrap().id(), other.row(49).unwrap().id()), (id(0).as_str(), id(0).as_str()));
        drop(second);
        assert_eq!(counts(&dio), (1, 1));
        drop(other);
        assert_eq!(counts(&dio), (0, 0));
    });
}

#[test]
fn t9_views_that_share_an_index_while_it_is_built_both_get_it() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 100);
        let held = backend.hold(Storage::Scan);
        let views: Vec<TableScenery> =
            (0..3).map(|_| dio.table_scenery().sort("n", SortDir::Desc).open_now().unwrap()).collect();
        held.wait_until_held(1);
        assert_eq!(counts(&dio), (3, 1));
        dio.cache().remove(id(99)).unwrap();
        drop(held);
        for view in &views {
            view.wait_until_ready(Some(SOON)).unwrap();
            assert_eq!((view.row_count(), view.row(0).unwrap().id()), (99, id(98).as_str()));
        }
    });
}

#[test]
fn t9_a_setter_on_one_view_never_alters_another() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 100);
        let open = || dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let (changed, kept) = (open(), open());
        let before = (kept.generation(), ids(&kept.snapshot()));
        changed.set_sort([SortBy::desc("n")]).unwrap();
        changed.set_conditions([Condition::eq("group", "odd")]).unwrap();
        changed.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(changed.row_count(), 50);
        assert_eq!((kept.generation(), ids(&kept.snapshot())), before);
        assert_eq!(kept.query().sort, [SortBy::asc("n")]);
        assert_eq!(counts(&dio), (2, 2));
        changed.set_conditions([]).unwrap();
        changed.set_sort([SortBy::asc("n")]).unwrap();
        changed.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(counts(&dio), (2, 1), "equal again, shared again");
        dio.patched(id(5), row_with(5, 1_000)).unwrap();
        assert_eq!(ids(&changed.snapshot()), ids(&kept.snapshot()));
        assert_eq!(kept.generation(), before.0.next());
    });
}

#[test]
fn t14_a_dropped_view_leaves_no_work_no_memory_and_no_thread() {
    limited(|| {
        let name = "a lens of its own";
        let lens = Lens::new().cache_source(MemoryBackend::new() as std::sync::Arc<dyn CacheBackend>).name(name);
        let (_lens, _source, dio) = dio(lens, 300);
        let threads = || {
            let mut threads = diorama::live_threads();
            threads.retain(|thread| thread.starts_with(name));
            threads.sort();
            threads
        };
        let one = || {
            let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
            let hook = view.on_generation(|_| {}).unwrap();
            (view, hook)
        };
        drop(one());
        let before = threads();
        for round in 0..30 {
            let table = dio.table_scenery().condition(Condition::gt("n", round)).open().unwrap();
            let opening = dio.table_scenery().search(format!("{round}")).open_now().unwrap();
            let count = dio.value_scenery().count().condition(Condition::gt("n", round)).open().unwrap();
            let record = dio.record_scenery(id(round as u64)).unwrap();
            let receiver = table.subscribe();
            let (hooked, hook) = one();
            dio.patched(id(3), row_with(3, i64::from(round))).unwrap();
            drop((table, opening, count, record, receiver, hooked, hook));
        }
        // The build thread takes one job after the other: what was still to be built has been given up now.
        drop(one());
        assert_eq!(counts(&dio), (0, 0));
        dio.flush().unwrap();
        let status = dio.status();
        assert_eq!((status.snapshots, status.snapshot_bytes, status.rows_in_memory), (0, 0, 0), "{status:?}");
        assert_eq!(threads(), before);
    });
}

#[test]
fn t14_a_view_that_is_dropped_while_it_opens_is_given_up() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 100);
        let held = backend.hold(Storage::Scan);
        let view = dio.table_scenery().open_now().unwrap();
        let total = dio.value_scenery().sum("n").open_now().unwrap();
        held.wait_until_held(1);
        assert_eq!(counts(&dio), (2, 2));
        drop((view, total));
        assert_eq!(counts(&dio), (0, 0));
        drop(held);
        let next = dio.table_scenery().open().unwrap();
        assert_eq!(next.row_count(), 100);
        assert_eq!(counts(&dio), (1, 1));
    });
}
