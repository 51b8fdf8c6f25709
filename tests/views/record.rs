//! Record views: one row, followed by its id.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use diorama::RecordStatus;
use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::common::*;
use crate::storage::{ScriptedBackend, Storage};

#[test]
fn r1_a_cached_row_is_fresh_and_an_absent_one_is_not_found() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens, 10);
        dio.flush().unwrap();
        source.set_offline(true);
        let here = dio.record_scenery(id(3)).unwrap();
        assert_eq!((here.status(), here.record()), (RecordStatus::Fresh, Some(row(3).1)));
        assert_eq!(here.id(), id(3));
        let absent = dio.record_scenery(id(30)).unwrap();
        assert_eq!((absent.status(), absent.record()), (RecordStatus::NotFound, None));
        assert!(absent.error().is_none());
        assert_eq!(dio.record_scenery("").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(source.calls(Call::Get), 0, "nobody asked the source");
    });
}

#[test]
fn r1_a_failed_reload_keeps_the_row() {
    limited(|| {
        let (_lens, source, dio) = dio(Lens::new().in_memory(), 10);
        let view = dio.record_scenery(id(3)).unwrap();
        source.fail_next(Call::Get, 1, Error::new(ErrorKind::Unavailable, "line cut"));
        let generation = view.generation();
        dio.invalidate_record(id(3));
        view.wait_for_change(generation, Some(SOON)).unwrap();
        assert!(source.wait_until_called(Call::Get, 1, SOON));
        assert_eq!((view.status(), view.record()), (RecordStatus::Stale, Some(row(3).1)));
        source.outside_silently().upsert(&id(3), row_with(3, 33)).unwrap();
        dio.handle_event(ChangeEvent::Updated { id: id(3), record: None }).unwrap();
        while view.status() != RecordStatus::Fresh {
            view.wait_for_change(view.generation(), Some(SOON)).unwrap();
        }
        assert_eq!(view.record(), Some(row_with(3, 33)));
    });
}

#[test]
fn r2_a_record_view_follows_its_row_alone_through_every_change() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens, 10);
        let view = dio.record_scenery(id(3)).unwrap();
        let start = view.generation().0;
        let mut steps = 0;
        let mut check = |moved: u64, status: RecordStatus, n: Option<i64>| {
            steps += moved;
            assert_eq!(view.generation().0 - start, steps);
            assert_eq!((view.status(), view.record().and_then(|record| record.int("n"))), (status, n));
        };
        check(0, RecordStatus::Fresh, Some(3));
        dio.patched(id(4), row_with(4, 9)).unwrap();
        dio.cache().remove(id(5)).unwrap();
        dio.cache().insert(id(50), row(50).1).unwrap();
        dio.cache().insert(id(3), row(3).1).unwrap();
        check(0, RecordStatus::Fresh, Some(3));
        dio.patched(id(3), row_with(3, 30)).unwrap();
        check(1, RecordStatus::Fresh, Some(30));
        dio.cache().remove(id(3)).unwrap();
        check(1, RecordStatus::NotFound, None);
        dio.cache().remove(id(3)).unwrap();
        check(0, RecordStatus::NotFound, None);
        dio.cache().insert(id(3), row_with(3, 31)).unwrap();
        check(1, RecordStatus::Fresh, Some(31));
        dio.refresh().unwrap();
        check(1, RecordStatus::Fresh, Some(3));
        dio.write(WriteOp::patch(id(3), record! { "n" => 32 })).unwrap().wait(SOON).unwrap();
        check(2, RecordStatus::Fresh, Some(32));
        source.outside_silently().delete(&id(3)).unwrap();
        dio.refresh().unwrap();
        check(1, RecordStatus::NotFound, None);
        dio.cache().insert_many([row(1), row(3)]).unwrap();
        check(1, RecordStatus::Fresh, Some(3));
        dio.cache().clear().unwrap();
        check(1, RecordStatus::NotFound, None);
    });
}

#[test]
fn r2_a_row_that_goes_and_comes_again_in_one_batch_is_one_step() {
    limited(|| {
        let backend = ScriptedBackend::in_memory();
        let (_lens, _source, dio) = dio(Lens::new().cache_source(backend.clone()), 10);
        let view = dio.record_scenery(id(3)).unwrap();
        let generation = view.generation();
        let held = backend.hold(Storage::Scan);
        thread::scope(|scope| {
            let cache = dio.cache();
            scope.spawn(move || cache.clear().unwrap());
            held.wait_until_held(1);
            let cache = dio.cache();
            scope.spawn(move || cache.insert(id(3), row_with(3, 4)).unwrap());
            while dio.status().inbox == 0 {
                thread::yield_now();
            }
            drop(held);
        });
        assert_eq!(view.record(), Some(row_with(3, 4)));
        assert_eq!(view.generation(), generation.next());
    });
}

#[test]
fn r2_no_change_is_lost_while_a_record_view_is_opening() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory(), 10);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let opener = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let view = dio.record_scenery(id(3)).unwrap();
                    let generation = view.generation();
                    let seen = view.record();
                    settle(&dio);
                    // What has changed since the view was read moves its generation (just after it shows).
                    let now = view.record();
                    if seen != now {
                        let moved = view.wait_for_change(generation, Some(Duration::from_secs(20)));
                        assert!(moved.is_ok(), "{seen:?} became {now:?} in silence");
                    }
                }
            });
            for n in 0..5_000 {
                match n % 5 {
                    0 => dio.cache().remove(id(3)).unwrap(),
                    _ => dio.patched(id(3), row_with(3, n)).unwrap(),
                }
            }
            done.store(true, Ordering::Release);
            opener.join().unwrap();
        });
    });
}

#[test]
fn r3_a_given_row_shows_at_once_and_the_cache_takes_its_place() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 10);
        let unknown = dio.record_scenery_with(id(30), row_with(30, 1)).unwrap();
        assert_eq!((unknown.status(), unknown.record()), (RecordStatus::Fresh, Some(row_with(30, 1))));
        settle(&dio);
        assert_eq!((unknown.status(), unknown.record()), (RecordStatus::Fresh, Some(row_with(30, 1))));
        let known = dio.record_scenery_with(id(3), row_with(3, -1)).unwrap();
        let at_once = known.record().unwrap().int("n");
        assert!(at_once == Some(-1) || at_once == Some(3));
        settle(&dio);
        assert_eq!(known.record(), Some(row(3).1));
        if at_once == Some(-1) {
            assert_ne!(known.generation(), Generation(0), "it was replaced in silence");
        }
        dio.cache().insert(id(30), row(30).1).unwrap();
        assert_eq!(unknown.record(), Some(row(30).1));
        dio.cache().remove(id(30)).unwrap();
        assert_eq!((unknown.status(), unknown.record()), (RecordStatus::NotFound, None));
    });
}

#[test]
fn a_record_view_opened_while_all_rows_are_stale_says_so_until_they_are_read_again() {
    limited(|| {
        let (_lens, source, dio) = dio(Lens::new().in_memory(), 10);
        let before = dio.record_scenery(id(3)).unwrap();
        let table = dio.table_scenery().open().unwrap();
        let held = source.hold(Call::List);
        dio.invalidate_all();
        settle(&dio);
        assert!(held.wait_until_held(1, SOON));
        let after = dio.record_scenery(id(3)).unwrap();
        settle(&dio);
        assert_eq!(table.row(3).unwrap().status(), RowStatus::Stale);
        assert_eq!((before.status(), after.status()), (RecordStatus::Stale, RecordStatus::Stale));
        dio.patched(id(4), row_with(4, 5)).unwrap();
        let newer = dio.record_scenery(id(4)).unwrap();
        assert_eq!(newer.status(), RecordStatus::Fresh);
        drop(held);
        dio.refresh().unwrap();
        assert_eq!(table.row(3).unwrap().status(), RowStatus::Fresh);
        assert_eq!((before.status(), after.status()), (RecordStatus::Fresh, RecordStatus::Fresh));
        assert_eq!(
            after.wait_for_change(after.generation(), Some(Duration::ZERO)).unwrap_err().kind(),
            ErrorKind::Timeout
        );
    });
}

#[test]
fn an_invalidation_during_a_refresh_is_followed_by_a_read_of_its_own() {
    limited(|| {
        let (_lens, source, dio) = dio(Lens::new().in_memory(), 10);
        let table = dio.table_scenery().open().unwrap();
        let held = source.hold_answer(Call::List);
        table.request_refresh().unwrap();
        assert!(held.wait_until_held(1, SOON));
        // The refresh has read the source already: it doesn't know of this.
        source.outside_silently().upsert(&id(3), row_with(3, 33)).unwrap();
        dio.invalidate_all();
        settle(&dio);
        let generation = table.generation();
        held.let_one_pass();
        assert!(source.wait_until_called(Call::List, 3, SOON), "the source was not read again");
        settle(&dio);
        assert_eq!(table.row(3).unwrap().status(), RowStatus::Stale, "the older read makes nothing fresh");
        drop(held);
        while table.row(3).unwrap().status() != RowStatus::Fresh {
            table.wait_for_change(generation, Some(SOON)).unwrap();
        }
        assert_eq!(table.row(3).unwrap().int("n"), Some(33));
    });
}
