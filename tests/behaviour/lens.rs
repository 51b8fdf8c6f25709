//! L: building a Lens and making Dios with it.

#[cfg(feature = "lmdb")]
use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::Schema;

use crate::support::*;

#[test]
fn l1_a_lens_without_a_cache_is_an_error_that_names_the_setting() {
    let error = Lens::new().build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.context("setting"), Some("cache_at"));
}

#[test]
fn l1_a_zero_capacity_or_interval_is_an_error_that_names_the_setting() {
    let builders = [
        ("write_queue_capacity", Lens::new().in_memory().write_queue_capacity(0)),
        ("event_capacity", Lens::new().in_memory().event_capacity(0)),
        ("hot_tier_capacity", Lens::new().in_memory().hot_tier_capacity(0)),
        ("refresh_every", Lens::new().in_memory().refresh_every(Duration::ZERO)),
        ("source_timeout", Lens::new().in_memory().source_timeout(Duration::ZERO)),
    ];
    for (setting, builder) in builders {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(error.context("setting"), Some(setting));
    }
}

#[test]
#[cfg(feature = "lmdb")]
fn l1_an_unopenable_path_is_an_error_that_names_the_setting_and_the_path_and_keeps_the_cause() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a file");
    std::fs::write(&file, "no directory").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Lens::new().cache_at(&path).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cache, "{error}");
        assert_eq!(error.context("setting"), Some("cache_at"));
        assert!(error.to_string().contains("a file"), "{error}");
        assert!(error.source().is_some(), "{error}");
    }
}

#[test]
fn l2_a_source_without_an_id_column_is_an_error_that_names_the_table() {
    in_time(|| {
        let lens = Lens::new().in_memory().build().unwrap();
        let error = lens.make_dio(MemoryVista::new("l2-log", "id").with_schema(Schema::without_id())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.context("table"), Some("l2-log"));
        assert!(threads_of("l2-log").is_empty());
    });
}

#[test]
fn f2_a_call_of_the_source_has_as_much_time_as_the_lens_gives_it() {
    let timeouts = [(Some(Duration::from_secs(7)), 6, 1), (Some(Duration::from_secs(300)), 299, 1), (None, 1 << 40, 1)];
    for (timeout, in_time, more) in timeouts {
        let (clock, hands) = diorama::clock::Clock::manual();
        let source = products("f2-timeout");
        let lens = Lens::new().in_memory().clock(clock).source_timeout(timeout).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let held = source.hold(Call::List);
        let asked = dio.clone();
        let refreshed = start("refresh", move || asked.refresh());
        assert!(source.wait_until_called(Call::List, 2, SOON));
        hands.advance(Duration::from_secs(in_time));
        assert!(dio.status().refreshing, "{timeout:?}");
        hands.advance(Duration::from_secs(more));
        match timeout {
            None => {
                drop(held);
                refreshed.end().unwrap();
            }
            Some(timeout) => {
                let error = refreshed.end().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
                assert_eq!(error.context("source_timeout"), Some(format!("{timeout:?}").as_str()));
                drop(held);
            }
        }
        dio.refresh().unwrap();
    }
    assert_eq!(Lens::new().in_memory().build().unwrap().defaults().source_timeout, Some(Duration::from_secs(300)));
}

#[test]
fn l3_over_an_incomplete_cache_the_first_read_sees_the_first_copy() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("l3-copy")).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        let status = dio.status();
        assert!(status.complete && !status.warm_start);
        assert_eq!((status.rows, status.total), (3, Some(3)));
    });
}

#[test]
fn l3_over_an_incomplete_cache_the_first_read_sees_what_on_start_put() {
    on_both(|cache| {
        let lens = cache.lens().on_start(|dio| dio.cache().insert("x", product("Xylophone", 7))).build().unwrap();
        let source = products("l3-on-start");
        let dio = lens.make_dio(source.clone()).unwrap();
        assert_eq!(dio.table_scenery().open().unwrap().row_count(), 1);
        assert_eq!(cached(&dio), ["x=7"]);
        assert_eq!(source.calls(Call::List), 0, "on_start takes the place of the copy");
        assert!(dio.status().complete);
    });
}

#[test]
fn l3_over_a_complete_cache_it_returns_at_once_and_starts_behind() {
    on_both(|cache| {
        let source = products("l3-warm");
        let lens = cache.lens().build().unwrap();
        drop(lens.make_dio(source.clone()).unwrap());
        assert!(lens.close(SOON).unwrap().is_closed());

        source.outside_silently().upsert("d", product("Drum", 40)).unwrap();
        let held = source.hold(Call::List);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().open().unwrap();
        assert_eq!(ids(&view.snapshot()), ["a", "b", "c"]);
        assert!(held.wait_until_held(1, SOON), "the start runs behind");
        held.release();
        wait_for(&view, "the new row", |rows| rows.row_count() == 4);
    });
}

#[test]
fn l3_over_a_complete_cache_it_starts_offline_too() {
    on_both(|cache| {
        let source = products("l3-offline");
        let lens = cache.lens().build().unwrap();
        drop(lens.make_dio(source.clone()).unwrap());
        assert!(lens.close(SOON).unwrap().is_closed());

        source.set_offline(true);
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        assert!(dio.status().warm_start);
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        assert_eq!(dio.refresh().unwrap_err().kind(), ErrorKind::Unavailable);
        source.set_offline(false);
        dio.refresh().unwrap();
        assert!(dio.status().refresh_error.is_none());
    });
}

#[test]
fn l3_non_blocking_it_returns_at_once_and_views_fill_when_it_ends_and_seeded_is_published() {
    on_both(|cache| {
        let source = products("l3-behind");
        let held = source.hold(Call::List);
        let lens = cache.lens().on_start_blocking(false).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        assert_eq!(view.row_count(), 0);
        assert!(matches!(view.load_state(), LoadState::Loading), "{:?}", view.load_state());
        assert!(!dio.status().complete);
        assert!(held.wait_until_held(1, SOON));
        held.release();
        events_until(&mut events, "Seeded", |event| matches!(event, DioEvent::Seeded { .. }));
        assert_eq!(prices(&view.snapshot()), ["b=10", "c=20", "a=30"], "whoever saw the event sees the rows");
        assert!(matches!(view.load_state(), LoadState::Ready), "{:?}", view.load_state());
    });
}

#[test]
fn l4_the_error_of_a_start_that_was_waited_for_comes_back_with_the_table_and_the_cause() {
    on_both(|cache| {
        let lens = cache.lens().on_start(|_| Err(Error::new(ErrorKind::Rejected, "not today"))).build().unwrap();
        let error = lens.make_dio(products("l4-callback")).unwrap_err();
        assert_eq!((error.kind(), error.context("table")), (ErrorKind::Rejected, Some("l4-callback")));

        let lens = cache.lens().on_start(|_| panic!("on purpose")).build().unwrap();
        let error = lens.make_dio(products("l4-panic")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(error.to_string().contains("on_start") && error.to_string().contains("on purpose"), "{error}");

        let lens = cache.lens().build().unwrap();
        let source = products("l4-source");
        source.fail_next(Call::List, 1, cut());
        let error = lens.make_dio(source.clone()).unwrap_err();
        assert_eq!((error.kind(), error.context("table")), (ErrorKind::Unavailable, Some("l4-source")));
        let dio = lens.make_dio(source).unwrap();
        assert_eq!(dio.status().rows, 3, "the next one succeeds");
    });
}

#[test]
fn l4_the_error_of_a_start_that_was_not_waited_for_is_an_event_and_shows_in_the_status() {
    on_both(|cache| {
        let source = products("l4-behind");
        let held = source.hold(Call::List);
        source.fail_next(Call::List, 1, cut());
        let lens = cache.lens().on_start_blocking(false).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let mut events = dio.subscribe_events();
        held.release();
        let seen = events_until(&mut events, "RefreshFailed", |event| matches!(event, DioEvent::RefreshFailed { .. }));
        let Some(DioEvent::RefreshFailed { error, .. }) = seen.last() else { panic!("{seen:?}") };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let status = dio.status();
        assert_eq!(status.refresh_error.map(|error| error.kind()), Some(ErrorKind::Unavailable));
        assert_eq!((status.refresh_failures, status.complete), (1, false));
    });
}

#[test]
fn l4_a_failing_start_over_a_complete_cache_keeps_serving() {
    on_both(|cache| {
        let source = products("l4-warm");
        let lens = cache.lens().build().unwrap();
        drop(lens.make_dio(source.clone()).unwrap());
        assert!(lens.close(SOON).unwrap().is_closed());

        let (go, may_go) = crossbeam_channel::bounded::<()>(1);
        let lens = cache
            .lens()
            .on_start(move |dio| {
                dio.cache().clear()?;
                let _ = may_go.recv_timeout(SOON);
                Err(Error::new(ErrorKind::Rejected, "not today"))
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(source).unwrap();
        let mut events = dio.subscribe_events();
        go.send(()).unwrap();
        events_until(&mut events, "RefreshFailed", |event| matches!(event, DioEvent::RefreshFailed { .. }));
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        assert_eq!(dio.status().refresh_error.unwrap().kind(), ErrorKind::Rejected);
    });
}

#[test]
fn l5_asking_twice_for_one_source_and_query_gives_the_same_dio() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let source = products("l5-twice");
        let first = lens.make_dio(source.clone()).unwrap();
        let second = lens.make_dio(source.clone()).unwrap();
        first.cache().insert("x", product("Xylophone", 7)).unwrap();
        assert_eq!(second.seq(), first.seq());
        assert_eq!(second.cache().get("x").unwrap().unwrap().int("price"), Some(7));
        assert_eq!(source.calls(Call::List), 1);

        let mut cheap = Vista::new(source.clone());
        cheap.add_condition_eq("price", 10).unwrap();
        let narrowed = lens.make_dio(cheap.clone()).unwrap();
        assert_eq!(cached(&narrowed), ["b=10"], "another query is another Dio");
        assert_eq!(cached(&lens.make_dio(cheap).unwrap()), ["b=10"]);
        assert_eq!(cached(&first), ["a=30", "b=10", "c=20", "x=7"]);
        assert_eq!(source.calls(Call::List), 2);
    });
}

#[test]
fn l5_two_threads_racing_for_a_dio_get_the_same_one() {
    on_both(|cache| {
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = starts.clone();
        let lens = cache
            .lens()
            .on_start(move |dio| {
                counted.fetch_add(1, Ordering::SeqCst);
                dio.cache().insert("x", product("Xylophone", 7))
            })
            .build()
            .unwrap();
        for round in 1..=20 {
            let source = products("l5-race");
            let barrier = Arc::new(Barrier::new(4));
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    let (lens, source, barrier) = (lens.clone(), source.clone(), barrier.clone());
                    start("make_dio", move || {
                        barrier.wait();
                        let dio = lens.make_dio(source).unwrap();
                        assert_eq!(cached(&dio), ["x=7"]);
                        barrier.wait();
                        dio
                    })
                })
                .collect();
            let dios: Vec<Dio> = racers.into_iter().map(Task::end).collect();
            assert_eq!(starts.load(Ordering::SeqCst), round);
            assert_eq!(threads_of("l5-race:core").len(), 1);
            dios[0].cache().insert("y", product("Yoyo", 1)).unwrap();
            assert!(dios.iter().all(|dio| dio.cache().get("y").unwrap().is_some()));
            drop(dios);
            // Another source each time: the rows of the last one go.
        }
    });
}

#[test]
fn l5_once_all_handles_are_gone_the_next_dio_is_new() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let source = products("l5-next");
        let first = lens.make_dio(source.clone()).unwrap();
        let facade = first.vista();
        drop(first);
        assert!(lens.make_dio(source.clone()).is_ok());
        assert_eq!(source.calls(Call::List), 1, "a facade keeps it alive");
        drop(facade);
        let held = source.hold(Call::List);
        let next = lens.make_dio(source.clone()).unwrap();
        assert!(held.wait_until_held(1, SOON), "a new Dio reads the source again");
        assert!(next.status().warm_start);
        drop(held);
    });
}

#[test]
fn l5_a_view_does_not_keep_its_dio_alive() {
    in_time(|| {
        let lens = Lens::new().in_memory().build().unwrap();
        let dio = lens.make_dio(products("l5-view")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        drop(dio);
        assert_eq!(view.wait_for_change(view.generation(), Some(SOON)).unwrap_err().kind(), ErrorKind::Closed);
        assert!(threads_of("l5-view:").is_empty());
    });
}

#[test]
fn l5_while_a_dio_is_being_closed_making_it_waits_and_gives_a_new_one() {
    on_both(|cache| {
        let rows = products("l5-closing");
        let (deaf, source) = Deaf::new(rows, DeafTo::Lists);
        let lens = cache.lens().on_start_blocking(false).build().unwrap();
        let dio = lens.make_dio(deaf.clone()).unwrap();
        source.wait_until_inside();
        let report = dio.close(Duration::from_millis(1)).unwrap();
        assert!(!report.is_closed(), "{report:?}");
        let asked = lens.clone();
        let made = start("make_dio", move || asked.make_dio(deaf).unwrap());
        assert!(is_still_waiting(&made), "the old one is still in the source");
        source.let_one_go();
        let next = made.end();
        source.wait_until_inside();
        source.let_one_go();
        let view = next.table_scenery().open().unwrap();
        wait_for(&view, "the rows", |rows| rows.row_count() == 3);
        assert!(dio.status().closed && !next.status().closed);
    });
}

#[test]
fn l6_two_tables_on_one_lens_never_see_each_others_rows() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let one = lens.make_dio(products("l6-one")).unwrap();
        let two = lens.make_dio(MemoryVista::new("l6-two", "id").with_rows([("a", product("Ant", 1))])).unwrap();
        assert_eq!(cached(&two), ["a=1"]);
        two.cache().clear().unwrap();
        two.write(WriteOp::insert_as("b", product("Bee", 2))).unwrap().wait(SOON).unwrap();
        one.write(WriteOp::delete("c")).unwrap().wait(SOON).unwrap();
        assert_eq!(cached(&one), ["a=30", "b=10"]);
        assert_eq!(cached(&two), ["b=2"]);
        assert_eq!(one.status().rows, 2);
    });
}

#[test]
fn l6_names_with_any_character_are_safe() {
    on_both(|cache| {
        let long = "long ".repeat(2_000);
        let names =
            ["", " ", "a/b", "../up", "a\0b", "a\0", "ü\n\t\"'", "rows", "meta", "rows.mdb", "CON", "日本", &long];
        let sources: Vec<MemoryVista> = names
            .iter()
            .enumerate()
            .map(|(number, name)| MemoryVista::new(*name, "id").with_rows([("x", product("Any", number as i64))]))
            .collect();
        let lens = cache.lens().build().unwrap();
        let dios: Vec<Dio> = sources.iter().map(|source| lens.make_dio(source.clone()).unwrap()).collect();
        for (number, dio) in dios.iter().enumerate() {
            assert_eq!(cached(dio), [format!("x={number}")]);
        }
        drop(dios);
        assert!(lens.close(SOON).unwrap().is_closed());
        let lens = cache.lens().build().unwrap();
        for (number, source) in sources.into_iter().enumerate() {
            source.set_offline(true);
            let dio = lens.make_dio(source).unwrap();
            assert_eq!(cached(&dio), [format!("x={number}")], "after a restart, offline");
        }
    });
}

#[test]
fn l7_two_sources_of_one_name_on_one_lens_are_an_error_that_names_both() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let first = lens.make_dio(products("l7").with_source_key("shop one")).unwrap();
        let error = lens.make_dio(products("l7").with_source_key("shop two")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let text = error.to_string();
        assert!(text.contains("shop one") && text.contains("shop two") && text.contains("l7"), "{text}");
        assert_eq!(cached(&first), ["a=30", "b=10", "c=20"], "the first one goes on");
        first.refresh().unwrap();
    });
}

#[test]
fn l7_one_table_through_two_lenses_on_one_cache_is_an_error_that_names_it() {
    on_both(|cache| {
        let one = cache.lens().build().unwrap();
        let two = cache.lens().build().unwrap();
        let first = one.make_dio(products("l7-lenses").with_source_key("shop one")).unwrap();
        for key in ["shop one", "shop two"] {
            let error = two.make_dio(products("l7-lenses").with_source_key(key)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            let text = error.to_string();
            assert!(text.contains("shop one") && text.contains(key) && text.contains("l7-lenses"), "{text}");
        }
        assert_eq!(cached(&two.make_dio(products("l7-other")).unwrap()).len(), 3, "another table is fine");
        assert!(first.close(SOON).unwrap().is_closed());
        assert_eq!(cached(&two.make_dio(products("l7-lenses").with_source_key("shop one")).unwrap()).len(), 3);
    });
}

#[test]
fn l7_rows_of_another_source_are_never_shown_under_the_same_name() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        drop(lens.make_dio(products("l7-next").with_source_key("shop one")).unwrap());
        assert!(lens.close(SOON).unwrap().is_closed());
        let lens = cache.lens().on_start_blocking(false).build().unwrap();
        let other = MemoryVista::new("l7-next", "id").with_source_key("shop two");
        other.set_offline(true);
        let dio = lens.make_dio(other).unwrap();
        assert_eq!(dio.table_scenery().open().unwrap().row_count(), 0);
        assert!(!dio.status().complete);
    });
}

#[test]
fn l8_a_forgotten_table_leaves_nothing_of_its_rows_on_the_disk() {
    on_both(|cache| {
        let marker = "m4rk3r-of-the-f0rg0tten";
        let secret = |row: usize| product(&format!("{marker} content {row} {}", "x".repeat(row % 3_000)), row as i64);
        let source = MemoryVista::new("l8-secret", "id")
            .with_rows((0..2_000).map(|row| (format!("{marker} id {row}"), secret(row))));
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let other = lens.make_dio(products("l8-other")).unwrap();
        dio.write(WriteOp::patch(format!("{marker} id 7"), record! { "name" => format!("{marker} again") }))
            .unwrap()
            .wait(SOON)
            .unwrap();
        dio.write(WriteOp::delete(format!("{marker} id 8"))).unwrap().wait(SOON).unwrap();
        dio.flush().unwrap();
        assert!(cache.path().is_none_or(|path| finds(&path, marker)), "the marker is there to be found at first");

        assert_eq!(lens.forget("l8-secret").unwrap_err().kind(), ErrorKind::Conflict, "a Dio of it is open");
        assert!(dio.close(SOON).unwrap().is_closed());
        lens.forget("l8-secret").unwrap();
        assert!(cache.path().is_none_or(|path| !finds(&path, marker)), "while the Lens is open");
        assert_eq!(cached(&other), ["a=30", "b=10", "c=20"]);
        assert!(lens.close(SOON).unwrap().is_closed());
        assert!(cache.path().is_none_or(|path| !finds(&path, marker)), "after closing");

        let lens = cache.lens().on_start_blocking(false).build().unwrap();
        source.set_offline(true);
        let dio = lens.make_dio(source).unwrap();
        assert_eq!((dio.status().rows, dio.status().complete), (0, false));
        assert_eq!(dio.status().last_refresh, None);
    });
}

fn finds(directory: &std::path::Path, marker: &str) -> bool {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().any(|path| {
        let named = path.to_string_lossy().contains(marker);
        if path.is_dir() {
            return named || finds(&path, marker);
        }
        let bytes = std::fs::read(path).unwrap();
        named || bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
    })
}
