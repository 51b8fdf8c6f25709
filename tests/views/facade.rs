//! The facade: a Dio seen as an ordinary source, over a complete cache and over an incomplete one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::QueryDescriptor;
use diorama::{LensBuilder, TableSceneryBuilder};

use crate::common::*;
use crate::storage::{ScriptedBackend, Storage};

fn queries() -> Vec<QueryDescriptor> {
    let all = QueryDescriptor::new;
    vec![
        all(),
        all().filtered(Condition::eq("group", "even")),
        all().filtered(Condition::eq("group", "odd")).filtered(Condition::ge("n", 20)).sorted("n", SortDir::Desc),
        all().sorted("group", SortDir::Desc),
        all().sorted("group", SortDir::Asc).sorted("name", SortDir::Asc),
        all().sorted_with(SortBy::desc("name").case_insensitive()).searching("1"),
        all().searching("NAME 99997"),
        all().searching("1").filtered(Condition::not(Condition::like("id", "%1"))).sorted("n", SortDir::Desc),
        all().filtered(Condition::any([Condition::lt("n", 3), Condition::is_null("n")])).sorted("n", SortDir::Desc),
        all().filtered(Condition::is_in("n", [3, 5, 500])),
        all().filtered(Condition::eq("n", "no such")),
    ]
}

fn as_view(dio: &Dio, query: &QueryDescriptor) -> TableSceneryBuilder {
    let mut view = dio.table_scenery();
    for condition in &query.conditions {
        view = view.condition(condition.clone());
    }
    for sort in &query.sort {
        view = view.sort_with(sort.clone());
    }
    match &query.search {
        Some(text) => view.search(text.clone()),
        None => view,
    }
}

fn narrowed(dio: &Dio, query: &QueryDescriptor) -> Vista {
    let mut vista = dio.vista();
    for condition in &query.conditions {
        vista.add_condition(condition.clone()).unwrap();
    }
    for sort in &query.sort {
        vista.add_sort_by(sort.clone()).unwrap();
    }
    vista.set_search(query.search.clone());
    vista
}

fn facade_equals_views(dio: &Dio) {
    let cx = CallCx::new();
    for query in queries() {
        let expected = shown(&as_view(dio, &query).open().unwrap().snapshot());
        let vista = narrowed(dio, &query);
        assert_eq!(vista.list_values().unwrap(), expected, "{query:?}");
        assert_eq!(vista.get_count().unwrap(), expected.len() as u64, "{query:?}");
        assert_eq!(dio.vista().list_query(&cx, &query).unwrap(), expected, "{query:?}");
        for (offset, limit) in [(0, 5), (3, 4), (0, 0), (expected.len(), 3), (1, usize::MAX), (usize::MAX, 1)] {
            let window: Vec<_> = expected.iter().skip(offset).take(limit).cloned().collect();
            assert_eq!(vista.list_window(offset, limit).unwrap(), window, "{query:?} {offset} {limit}");
        }
        for number in [0, 3, 7, 12, 900] {
            let row = expected.iter().find(|(row, _)| *row == id(number)).map(|(_, record)| record.clone());
            assert_eq!(vista.get_value(&id(number)).unwrap(), row, "{query:?} {number}");
        }
    }
}

#[test]
fn x4_conditions_sort_search_and_windows_equal_a_view_offline_too() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens, 40);
        facade_equals_views(&dio);
        let lists = source.calls(Call::List);
        source.set_offline(true);
        dio.patched(id(3), row_with(3, 30)).unwrap();
        dio.cache().remove(id(4)).unwrap();
        dio.cache().insert(id(4), row_with(4, 4)).unwrap();
        dio.patched(id(7), record! { "id" => id(7) }).unwrap();
        facade_equals_views(&dio);
        dio.flush().unwrap();
        facade_equals_views(&dio);
        assert_eq!(source.calls(Call::List), lists, "the source was not asked");
        assert_eq!(source.calls(Call::Get) + source.calls(Call::Count), 0);
    });
}

fn incomplete(lens: LensBuilder) -> (MemoryVista, Dio) {
    let source = source(40);
    let lens = lens.on_start(|_| Err(Error::new(ErrorKind::Unavailable, "not now"))).on_start_blocking(false);
    let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
    assert!(!dio.cache().is_complete());
    (source, dio)
}

#[test]
fn x4_over_an_incomplete_cache_the_source_is_asked_or_it_says_unavailable() {
    limited(|| {
        let (source, dio) = incomplete(Lens::new().in_memory());
        dio.cache().insert(id(1), row_with(1, 1_000)).unwrap();
        let mut odd = dio.vista();
        odd.add_condition_eq("group", "odd").unwrap().add_sort("n", SortDir::Asc).unwrap();
        assert_eq!(odd.list_values().unwrap().len(), 20, "never a part as the whole");
        assert_eq!(odd.list_window(0, 1).unwrap(), [row(1)]);
        assert_eq!(dio.vista().get_count().unwrap(), 40);
        assert_eq!(odd.get_count().unwrap(), 20);
        assert_eq!(dio.vista().get_value(&id(2)).unwrap(), Some(row(2).1));
        assert_eq!(dio.vista().get_value(&id(99)).unwrap(), None);
        source.set_offline(true);
        let gets = source.calls(Call::Get);
        assert_eq!(dio.vista().get_value(&id(1)).unwrap(), Some(row_with(1, 1_000)), "the cache has this one");
        assert_eq!(source.calls(Call::Get), gets);
        for error in [
            odd.list_values().unwrap_err(),
            odd.get_count().unwrap_err(),
            dio.vista().get_count().unwrap_err(),
            dio.vista().get_value(&id(2)).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("things"), "{error}");
        }
        source.set_offline(false);
        dio.reconcile(source.rows()).unwrap();
        let lists = source.calls(Call::List);
        assert!(dio.cache().is_complete());
        facade_equals_views(&dio);
        assert_eq!(source.calls(Call::List), lists);
    });
}

#[test]
fn x4_pages_over_an_incomplete_cache_are_the_sources_and_begin_anew_once_it_is_complete() {
    limited(|| {
        let (source, dio) = incomplete(Lens::new().in_memory());
        let mut odd = dio.vista();
        odd.add_condition_eq("group", "odd").unwrap().add_sort("n", SortDir::Desc).unwrap();
        let first = odd.list_page(None, 3).unwrap();
        assert_eq!(first.rows, [row(39), row(37), row(35)]);
        assert_eq!(odd.list_page(first.next.as_ref(), 1).unwrap().rows, [row(33)]);
        let made_up = diorama::vista::PageCursor::from_text("made up");
        assert_eq!(odd.list_page(Some(&made_up), 1).unwrap_err().kind(), ErrorKind::Invalid);
        source.set_offline(true);
        assert_eq!(odd.list_page(first.next.as_ref(), 1).unwrap_err().kind(), ErrorKind::Unavailable);
        dio.reconcile(source.rows()).unwrap();
        assert_eq!(
            odd.list_page(first.next.as_ref(), 1).unwrap_err().kind(),
            ErrorKind::Invalid,
            "the source's cursor"
        );
        let first = odd.list_page(None, 3).unwrap();
        assert_eq!(first.rows, [row(39), row(37), row(35)]);
        assert_eq!(odd.list_page(first.next.as_ref(), 1).unwrap().rows, [row(33)]);
    });
}

#[test]
fn x4_an_incomplete_view_says_loading_and_becomes_ready() {
    limited(|| {
        let (source, dio) = incomplete(Lens::new().in_memory());
        dio.cache().insert(id(1), row(1).1).unwrap();
        let view = dio.table_scenery().open().unwrap();
        assert!(matches!(view.load_state(), LoadState::Loading));
        assert_eq!(view.row_count(), 1);
        let generation = view.generation();
        dio.reconcile(source.rows()).unwrap();
        assert!(matches!(view.load_state(), LoadState::Ready));
        assert_eq!(view.row_count(), 40);
        assert_eq!(view.generation(), generation.next());
    });
}

#[test]
fn x4_writes_go_through_the_queue_to_the_source_and_into_the_views() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens, 10);
        let view = dio.table_scenery().sort("n", SortDir::Desc).open().unwrap();
        let vista = dio.vista();
        let written = vista.insert_value(id(20).as_str(), &row(20).1).unwrap();
        assert_eq!((written.id, written.record), (Some(id(20)), Some(row(20).1)));
        assert_eq!(view.row(0).unwrap().id(), id(20));
        vista.patch_value(&id(3), &record! { "n" => 30 }).unwrap();
        vista.replace_value(&id(4), &row_with(4, 40)).unwrap();
        vista.upsert_value(&id(50), &row(50).1).unwrap();
        vista.delete(&id(0)).unwrap();
        vista.delete("never there").unwrap();
        let expected: Vec<String> = [50, 4, 3, 20, 9, 8, 7, 6, 5, 2, 1].map(id).to_vec();
        assert_eq!(ids(&view.snapshot()), expected);
        let mut rows = source.rows();
        rows.sort_by(|(_, a), (_, b)| by_n(b, a));
        assert_eq!(rows, shown(&view.snapshot()));
        assert_eq!(source.writes().len(), 6);

        assert_eq!(vista.insert_value(id(20).as_str(), &row(20).1).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(vista.patch_value("none", &record! { "n" => 1 }).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(vista.replace_value("none", &record! { "n" => 1 }).unwrap_err().kind(), ErrorKind::NotFound);
        let minted = vista.insert_value(None, &record! { "n" => 1_000 }).unwrap().id.unwrap();
        assert_eq!(view.row(0).unwrap().id(), minted);
        let mut narrow = dio.vista();
        narrow.add_condition_eq("group", "even").unwrap();
        assert_eq!(narrow.delete_all().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(view.row_count(), 12);
        vista.delete_all().unwrap();
        assert_eq!((view.row_count(), source.row_count(), vista.get_count().unwrap()), (0, 0, 0));
    });
}

#[test]
fn x4_a_dio_over_a_facade_equals_it() {
    limited(|| {
        let (_lens, source, below) = dio(Lens::new().in_memory(), 40);
        let mut even = below.vista();
        even.add_condition_eq("group", "even").unwrap().add_sort("n", SortDir::Desc).unwrap();
        let above = Lens::new().in_memory().build().unwrap().make_dio(even.clone()).unwrap();
        let view = above.table_scenery().open().unwrap();
        assert_eq!(shown(&view.snapshot()), even.list_values().unwrap());
        let ticket = above.write(WriteOp::patch(id(2), record! { "n" => 77 })).unwrap();
        ticket.wait(SOON).unwrap();
        assert_eq!(source.row(&id(2)).unwrap().int("n"), Some(77));
        assert_eq!(below.cache().get(&id(2)).unwrap().unwrap().int("n"), Some(77));
        assert_eq!(above.cache().get(&id(2)).unwrap().unwrap().int("n"), Some(77));
        source.outside_silently().delete(&id(4)).unwrap();
        below.refresh().unwrap();
        above.refresh().unwrap();
        assert_eq!(view.row_count(), 19);
    });
}

#[test]
fn x4_rows_are_listed_in_the_order_of_arrival_before_they_are_stored() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 0);
        dio.flush().unwrap();
        let _held = backend.hold(Storage::Apply);
        dio.reconcile((0..3).map(|number| (id(number), row_with(number, 0))).collect()).unwrap();
        dio.patched(id(0), row_with(0, 1)).unwrap();
        let listed = |list: Vec<(String, Record)>| list.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(listed(dio.cache().list().unwrap()), [id(0), id(1), id(2)]);
        assert_eq!(listed(dio.vista().list_values().unwrap().into_iter().collect()), [id(0), id(1), id(2)]);
    });
}

#[test]
fn x4_reads_never_go_back_while_a_row_is_overwritten() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 10);
        dio.flush().unwrap();
        dio.patched(id(3), row_with(3, 0)).unwrap();
        // The cache keeps what is older than any read below.
        let _held = backend.hold(Storage::Apply);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = || {
                let vista = dio.vista();
                let mut last = [0; 2];
                while !done.load(Ordering::Acquire) {
                    let record = dio.cache().get(&id(3)).unwrap().unwrap();
                    let through = vista.get_value(&id(3)).unwrap().unwrap();
                    let reads = [record, through].map(|record| record.int("n").unwrap());
                    assert!(reads[0] >= last[1] && reads[1] >= reads[0], "{reads:?} after {last:?}");
                    last = reads;
                }
            };
            let readers = [scope.spawn(reader), scope.spawn(reader)];
            for n in 0..10_000 {
                dio.patched(id(3), row_with(3, n)).unwrap();
            }
            done.store(true, Ordering::Release);
            for reader in readers {
                reader.join().unwrap();
            }
        });
    });
}
