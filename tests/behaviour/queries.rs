//! F5: rows that come query by query.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::{QueryDescriptor, col};
use diorama::{LensBuilder, LoadState, ValueStatus};
use parking_lot::Mutex;

use crate::support::*;

/// What the source was asked for, in order.
type Log = Arc<Mutex<Vec<String>>>;

fn asked(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock())
}

fn answer(dio: &Dio, query: &QueryDescriptor) -> diorama::Result<()> {
    let rows = dio.master().list_query(&CallCx::new(), query)?;
    dio.cache().replace_matching(query, rows)
}

/// A Lens that asks the source query by query, and what it asks.
fn logged(lens: LensBuilder) -> (LensBuilder, Log) {
    let log = Log::default();
    let noted = log.clone();
    let lens = lens.on_query(move |dio, query| {
        noted.lock().push(query.canonical());
        answer(dio, query)
    });
    (lens, log)
}

/// A Lens whose queries tell that they began, wait until they are let go, then read the source.
fn held(lens: LensBuilder) -> (LensBuilder, Receiver<String>, Sender<()>) {
    let (begin, begun) = unbounded();
    let (let_go, gate) = unbounded();
    let lens = lens.on_query(move |dio, query| {
        let _ = begin.send(query.canonical());
        let _ = gate.recv_timeout(SOON);
        answer(dio, query)
    });
    (lens, begun, let_go)
}

fn cheap() -> Condition {
    col("price").le(20)
}

const CHEAP: &str = "where price <= 20";

fn is_ready(view: &TableScenery) -> bool {
    matches!(view.load_state(), LoadState::Ready)
}

fn failure(view: &TableScenery) -> Option<ErrorKind> {
    match view.load_state() {
        LoadState::Failed(error) => Some(error.kind()),
        _ => None,
    }
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

// ---- once, however many ask ----------------------------------------------------------------------------------------

#[test]
fn f5_a_query_is_asked_once_however_many_open_views_of_it_at_once() {
    on_both(|cache| {
        let (lens, begun, let_go) = held(cache.lens());
        let dio = lens.build().unwrap().make_dio(products("f5-once")).unwrap();
        let tables: Vec<Task<Vec<String>>> = (0..4)
            .map(|number| {
                let dio = dio.clone();
                start("table", move || {
                    let sort = ["name", "price"][number % 2];
                    let view = dio.table_scenery().condition(cheap()).sort(sort, SortDir::Desc).limit(number + 1);
                    let view = view.open().unwrap();
                    assert!(is_ready(&view));
                    ids(&view.snapshot())
                })
            })
            .collect();
        let values: Vec<Task<Option<i64>>> = (0..4)
            .map(|_| {
                let dio = dio.clone();
                start("value", move || dio.value_scenery().sum("price").condition(cheap()).open().unwrap().int())
            })
            .collect();
        assert_eq!(begun.recv_timeout(SOON).unwrap(), CHEAP, "without order and limit");
        until("all views are open", || dio.status().views == 8);
        let facade = dio.clone();
        let listed = start("facade", move || {
            let mut rows = facade.vista();
            rows.add_condition(cheap()).unwrap();
            rows.list_values().unwrap().len()
        });
        assert_eq!(dio.status().queries_under_way, 1);
        let_go.send(()).unwrap();
        for table in tables {
            assert!(table.end().iter().all(|id| id == "b" || id == "c"));
        }
        for value in values {
            assert_eq!(value.end(), Some(30));
        }
        assert_eq!(listed.end(), 2);
        assert!(begun.is_empty());
        assert_eq!(cached(&dio), ["b=10", "c=20"]);
    });
}

#[test]
fn f5_a_panic_releases_whoever_waits_with_an_error_and_the_next_ask_works() {
    on_both(|cache| {
        let (go, gate) = unbounded::<()>();
        let panics = AtomicBool::new(true);
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let lens = cache.lens().on_query(move |dio, query| {
            counted.fetch_add(1, Ordering::SeqCst);
            dio.cache().insert("x", product("X", 1))?;
            if panics.load(Ordering::SeqCst) {
                let _ = gate.recv_timeout(SOON);
                panics.store(false, Ordering::SeqCst);
                panic!("on purpose");
            }
            dio.cache().remove("x")?;
            answer(dio, query)
        });
        let dio = lens.build().unwrap().make_dio(products("f5-panic")).unwrap();
        let open = |dio: &Dio| {
            let dio = dio.clone();
            start("open", move || dio.table_scenery().open().map(drop))
        };
        let waiting: Vec<Task<Result<(), Error>>> = (0..4).map(|_| open(&dio)).collect();
        until("all wait", || dio.status().views == 4);
        go.send(()).unwrap();
        for waits in waiting {
            let error = waits.end().unwrap_err();
            assert_eq!((error.kind(), error.context("table")), (ErrorKind::Panicked, Some("f5-panic")));
            assert!(error.message().contains("on_query"), "{error}");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert!(cached(&dio).is_empty(), "nothing of it is applied");
        assert_eq!(dio.table_scenery().open().unwrap().row_count(), 3);
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn f5_an_error_is_whoever_waits_own_and_the_next_one_asks_again() {
    on_both(|cache| {
        let source = products("f5-error");
        let (lens, log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        source.fail_next(Call::List, 3, cut());
        let error = dio.table_scenery().open().unwrap_err();
        assert_eq!((error.kind(), error.context("table")), (ErrorKind::Unavailable, Some("f5-error")));
        assert_eq!(dio.value_scenery().count().open().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(dio.vista().list_values().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(dio.vista().list_values().unwrap().len(), 3);
        assert_eq!(asked(&log).len(), 4);
    });
}

#[test]
fn f5_a_query_whose_rows_are_there_is_not_asked() {
    on_both(|cache| {
        let (lens, log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(products("f5-narrower")).unwrap();
        let view = dio.table_scenery().condition(cheap()).open().unwrap();
        assert_eq!(asked(&log), [CHEAP]);
        let same = dio.table_scenery().condition(cheap()).sort("price", SortDir::Asc).open().unwrap();
        let narrower = dio.table_scenery().condition(cheap()).search("bell").open_now().unwrap();
        narrower.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(
            (ids(&same.snapshot()), ids(&narrower.snapshot())),
            (vec!["b".into(), "c".into()], vec!["b".into()])
        );
        view.set_sort([SortBy::desc("price")]).unwrap();
        view.set_search(Some("chain")).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(ids(&view.snapshot()), ["c"]);
        assert!(asked(&log).is_empty());
        let other = dio.table_scenery().condition(col("price").le(30)).open().unwrap();
        assert_eq!((other.row_count(), asked(&log)), (3, vec!["where price <= 30".to_owned()]));
        view.set_conditions([]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(asked(&log), ["search \"chain\""], "any row could have been called so");
    });
}

#[test]
fn f5_the_facade_asks_for_its_query_and_answers_from_the_cache() {
    on_both(|cache| {
        let source = products("f5-facade");
        let (lens, log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        let mut facade = dio.vista();
        facade.add_condition(cheap()).unwrap().add_sort("price", SortDir::Desc).unwrap();
        let listed: Vec<String> = facade.list_values().unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(listed, ["c", "b"]);
        assert_eq!(facade.get_count().unwrap(), 2);
        let page = facade.list_page(None, 1).unwrap();
        assert_eq!((page.rows[0].0.as_str(), page.next.is_some()), ("c", true));
        let rest = facade.list_page(page.next.as_ref(), 5).unwrap();
        assert_eq!((rest.rows[0].0.as_str(), rest.next.is_some()), ("b", false));
        assert_eq!(facade.list_window(1, 1).unwrap()[0].0, "b");
        assert_eq!(asked(&log), [CHEAP]);
        assert_eq!(dio.vista().get_value("a").unwrap().unwrap().int("price"), Some(30), "one row is the source's own");
        assert_eq!((source.calls(Call::Get), asked(&log).len()), (1, 0));
        assert_eq!(dio.vista().get_count().unwrap(), 3);
        assert_eq!(asked(&log), [""]);
        dio.invalidate_all();
        assert_eq!(facade.get_count().unwrap(), 2);
        assert_eq!(asked(&log), [CHEAP], "what was answered before is asked again");
    });
}

// ---- what views show -----------------------------------------------------------------------------------------------

#[test]
fn f5_an_open_view_is_ready_in_one_step_with_its_rows() {
    on_both(|cache| ready_in_one_step(held(cache.lens())));
}

#[test]
fn f5_an_open_view_is_ready_in_one_step_with_very_many_rows() {
    on_both(|cache| ready_in_one_step(held(cache.lens().bulk_changes(2))));
}

fn ready_in_one_step((lens, begun, let_go): (LensBuilder, Receiver<String>, Sender<()>)) {
    let dio = lens.build().unwrap().make_dio(products("f5-step")).unwrap();
    dio.cache().insert("b", product("Bell", 11)).unwrap();
    dio.cache().insert("gone", product("Gone", 5)).unwrap();
    let view = dio.table_scenery().condition(cheap()).sort("price", SortDir::Asc).open_now().unwrap();
    let count = dio.value_scenery().count().condition(cheap()).open_now().unwrap();
    let shown = wait_for(&view, "what the cache has", |snapshot| snapshot.row_count() == 2);
    assert_eq!(prices(&shown), ["gone=5", "b=11"]);
    assert!(matches!(shown.load_state(), LoadState::Loading));
    begun.recv_timeout(SOON).unwrap();
    until("the value is there", || count.int() == Some(2));
    assert_eq!(count.status(), ValueStatus::Loading);
    assert_eq!(count.wait_until_ready(Some(Duration::ZERO)).unwrap_err().kind(), ErrorKind::Timeout);
    let before = (view.generation(), count.generation());
    let_go.send(()).unwrap();
    view.wait_until_ready(Some(SOON)).unwrap();
    count.wait_until_ready(Some(SOON)).unwrap();
    let shown = view.snapshot();
    assert_eq!(prices(&shown), ["b=10", "c=20"]);
    assert!(matches!(shown.load_state(), LoadState::Ready));
    assert_eq!((count.int(), count.status()), (Some(2), ValueStatus::Fresh));
    assert_eq!((view.generation(), count.generation()), (before.0.next(), before.1.next()));
}

#[test]
fn f5_a_view_that_the_source_has_no_answer_for_keeps_what_it_shows_and_says_so() {
    on_both(|cache| {
        let source = products("f5-keeps");
        let (lens, log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        dio.cache().insert("b", product("Bell", 11)).unwrap();
        source.fail_next(Call::List, 2, cut());
        let view = dio.table_scenery().condition(cheap()).open_now().unwrap();
        assert_eq!(view.wait_until_ready(Some(SOON)).unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!((prices(&view.snapshot()), failure(&view)), (vec!["b=11".into()], Some(ErrorKind::Unavailable)));
        let sum = dio.value_scenery().sum("price").condition(cheap()).open_now().unwrap();
        assert_eq!(sum.wait_until_ready(Some(SOON)).unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!((sum.int(), sum.status()), (Some(11), ValueStatus::Error));
        assert_eq!(sum.error().unwrap().kind(), ErrorKind::Unavailable);
        dio.cache().insert("z", product("Zip", 1)).unwrap();
        assert_eq!((view.row_count(), sum.int()), (2, Some(12)), "they follow the cache all the same");
        assert_eq!((failure(&view), sum.status()), (Some(ErrorKind::Unavailable), ValueStatus::Error));
        assert_eq!(asked(&log).len(), 2);
        dio.refresh().unwrap();
        assert_eq!(asked(&log), [CHEAP], "once for both");
        assert!(is_ready(&view));
        assert_eq!((prices(&view.snapshot()), sum.int()), (vec!["b=10".into(), "c=20".into()], Some(30)));
        assert_eq!((sum.status(), sum.error().is_none()), (ValueStatus::Fresh, true));
        view.wait_until_ready(Some(SOON)).unwrap();
        sum.wait_until_ready(Some(SOON)).unwrap();
    });
}

#[test]
fn f5_rows_stay_until_the_source_has_answered_the_next_query() {
    on_both(|cache| {
        let source = products("f5-stay");
        let (lens, begun, let_go) = held(cache.lens());
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        let_go.send(()).unwrap();
        let view = dio.table_scenery().condition(cheap()).open().unwrap();
        begun.recv_timeout(SOON).unwrap();
        view.set_conditions([col("price").gt(20)]).unwrap();
        begun.recv_timeout(SOON).unwrap();
        wait_for(&view, "that it loads", |snapshot| matches!(snapshot.load_state(), LoadState::Loading));
        assert_eq!(prices(&view.snapshot()), ["b=10", "c=20"]);
        view.set_sort([SortBy::desc("price")]).unwrap();
        // A change is shown by the rows that are there.
        dio.cache().insert("z", product("Zip", 1)).unwrap();
        assert_eq!(prices(&view.snapshot()), ["b=10", "c=20", "z=1"]);
        let before = view.generation();
        let_go.send(()).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!((prices(&view.snapshot()), is_ready(&view)), (vec!["a=30".into()], true));
        assert_eq!(view.generation(), before.next());
        assert!(begun.is_empty(), "another order is not asked for");

        source.fail_next(Call::List, 1, cut());
        view.set_search(Some("an")).unwrap();
        view.set_conditions([]).unwrap();
        let_go.send(()).unwrap();
        assert_eq!(view.wait_until_ready(Some(SOON)).unwrap_err().kind(), ErrorKind::Unavailable);
        let shown = view.snapshot();
        assert_eq!(prices(&shown), ["a=30"], "what the cache has of it");
        assert_eq!((failure(&view), view.query().search.as_deref()), (Some(ErrorKind::Unavailable), Some("an")));
        view.set_conditions([cheap()]).unwrap();
        view.set_search(None).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert!(is_ready(&view), "back to what was answered");
    });
}

#[test]
fn f5_values_of_user_code_are_ready_with_the_rows_of_their_query_taken_in() {
    on_both(|cache| {
        let (lens, begun, let_go) = held(cache.lens());
        let dio = lens.build().unwrap().make_dio(products("f5-custom")).unwrap();
        let median = dio
            .value_scenery()
            .condition(cheap())
            .computed(|rows| Ok((matches!(rows.load_state(), LoadState::Ready), rows.row_count() as i64).1))
            .open_now()
            .unwrap();
        until("the first value", || median.int() == Some(0));
        assert_eq!(median.status(), ValueStatus::Loading);
        begun.recv_timeout(SOON).unwrap();
        let_go.send(()).unwrap();
        median.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!((median.int(), median.status()), (Some(2), ValueStatus::Fresh));
    });
}

#[test]
fn f5_a_row_that_leaves_one_query_is_read_again_for_another_that_has_it() {
    on_both(|cache| {
        let source = products("f5-leaves");
        let (lens, _log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        let named = dio.table_scenery().condition(col("name").ge("B")).sort("name", SortDir::Asc).open().unwrap();
        source.outside_silently().patch("b", record! { "price" => 25 }).unwrap();
        let cheap = dio.table_scenery().condition(cheap()).open().unwrap();
        assert_eq!(prices(&cheap.snapshot()), ["c=20"]);
        let shown = wait_for(&named, "b again", |snapshot| snapshot.row_count() == 2);
        assert_eq!(prices(&shown), ["b=25", "c=20"]);
    });
}

#[test]
fn f5_a_row_that_goes_from_one_query_to_another_while_both_are_asked_is_not_lost() {
    on_both(|cache| {
        let (read, has_read) = unbounded();
        let (go, gates): (Vec<Sender<()>>, Vec<Receiver<()>>) = (0..2).map(|_| unbounded()).unzip();
        let lens = cache.lens().on_query(move |dio, query| {
            let rows = dio.master().list_query(&CallCx::new(), query)?;
            let _ = read.send(());
            let _ = gates[usize::from(query.canonical() != CHEAP)].recv_timeout(SOON);
            dio.cache().replace_matching(query, rows)
        });
        let source = products("f5-goes-over");
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        dio.cache().insert("b", product("Bell", 10)).unwrap();
        source.outside_silently().patch("b", record! { "price" => 25 }).unwrap();
        let of_cheap = dio.table_scenery().condition(cheap()).open_now().unwrap();
        let of_dear =
            dio.table_scenery().condition(col("price").gt(20)).sort("price", SortDir::Asc).open_now().unwrap();
        has_read.recv_timeout(SOON).unwrap();
        has_read.recv_timeout(SOON).unwrap();
        go[0].send(()).unwrap();
        of_cheap.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(prices(&of_cheap.snapshot()), ["c=20"]);
        go[1].send(()).unwrap();
        of_dear.wait_until_ready(Some(SOON)).unwrap();
        let shown = wait_for(&of_dear, "both", |snapshot| snapshot.row_count() == 2);
        assert_eq!(prices(&shown), ["b=25", "a=30"]);
    });
}

// ---- the cache as a whole ------------------------------------------------------------------------------------------

#[test]
fn f5_nothing_copies_the_source_whole() {
    on_both(|cache| {
        let source = products("f5-whole");
        let (lens, log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        dio.refresh().unwrap();
        dio.invalidate_all();
        dio.refresh().unwrap();
        assert_eq!((source.calls(Call::List), asked(&log).len()), (0, 0), "nothing is open");
        let view = dio.table_scenery().condition(cheap()).open().unwrap();
        dio.vista().list_query(&CallCx::new(), &QueryDescriptor::new().filtered(col("price").gt(20))).unwrap();
        assert_eq!(asked(&log), [CHEAP, "where price > 20"]);
        source.outside_silently().patch("b", record! { "price" => 12 }).unwrap();
        source.outside_silently().delete("c").unwrap();
        let generation = view.generation();
        dio.refresh().unwrap();
        assert_eq!(asked(&log), [CHEAP], "what is open");
        assert_eq!((prices(&view.snapshot()), view.generation()), (vec!["b=12".into()], generation.next()));
        assert!(!dio.cache().is_complete() && !dio.status().complete);
        assert_eq!(dio.status().last_refresh, None);
        assert_eq!(source.calls(Call::List), 3);
        drop(view);
        dio.refresh().unwrap();
        assert_eq!(source.calls(Call::List), 3);
    });
}

#[test]
fn f5_invalidated_rows_stay_and_are_fresh_again_once_their_query_is_answered() {
    on_both(|cache| {
        let (lens, begun, let_go) = held(cache.lens());
        let dio = lens.build().unwrap().make_dio(products("f5-stale")).unwrap();
        let_go.send(()).unwrap();
        let view = dio.table_scenery().condition(cheap()).open().unwrap();
        begun.recv_timeout(SOON).unwrap();
        dio.invalidate_all();
        begun.recv_timeout(SOON).unwrap();
        let stale = view.snapshot();
        assert!(stale.iter().all(|row| row.status() == RowStatus::Stale));
        assert_eq!((stale.row_count(), is_ready(&view)), (2, true));
        let_go.send(()).unwrap();
        let fresh = wait_for(&view, "fresh rows", |rows| rows.iter().all(|row| row.status() == RowStatus::Fresh));
        assert_eq!(prices(&fresh), ["b=10", "c=20"]);
        assert!(is_ready(&view));
    });
}

#[test]
fn f5_a_refresh_fails_with_the_first_error_and_views_keep_their_rows() {
    on_both(|cache| {
        let source = products("f5-refresh-fails");
        let (lens, _log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().condition(cheap()).open().unwrap();
        source.fail_next(Call::List, 1, cut());
        assert_eq!(dio.refresh().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!((view.row_count(), is_ready(&view)), (2, true));
        assert_eq!(dio.status().refresh_error.unwrap().kind(), ErrorKind::Unavailable);
        dio.refresh().unwrap();
    });
}

#[test]
fn f5_a_query_that_invalidates_what_it_reads_is_not_repeated_for_ever() {
    on_both(|cache| {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let lens = cache.lens().on_query(move |dio, query| {
            counted.fetch_add(1, Ordering::SeqCst);
            dio.invalidate_all();
            answer(dio, query)
        });
        let dio = lens.build().unwrap().make_dio(products("f5-invalidates")).unwrap();
        let views = [0, 1, 2].map(|n| dio.table_scenery().condition(col("price").gt(n)).open_now().unwrap());
        for view in &views {
            view.wait_until_ready(Some(SOON)).unwrap();
        }
        dio.refresh().unwrap();
        until("an end of it", || {
            let before = calls.load(Ordering::SeqCst);
            (0..20_000).for_each(|_| std::thread::yield_now());
            !dio.status().refreshing && calls.load(Ordering::SeqCst) == before
        });
    });
}

#[test]
fn f5_a_schedule_asks_again_for_what_is_open() {
    in_time(|| {
        let (clock, hands) = Clock::manual();
        let source = products("f5-schedule");
        let (lens, log) = logged(Lens::new().in_memory().clock(clock).refresh_every(Duration::from_secs(10)));
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().condition(cheap()).open().unwrap();
        source.outside_silently().patch("b", record! { "price" => 12 }).unwrap();
        hands.wait_for_sleepers(1);
        let seen = view.generation();
        hands.advance(Duration::from_secs(10));
        view.wait_for_change(seen, Some(SOON)).unwrap();
        assert_eq!(prices(&view.snapshot()), ["b=12", "c=20"]);
        assert_eq!(asked(&log), [CHEAP, CHEAP]);
    });
}

#[test]
fn f5_a_new_run_has_the_rows_and_asks_again() {
    on_both(|cache| {
        let source = products("f5-restart");
        let (lens, log) = logged(cache.lens());
        let lens = lens.build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        dio.table_scenery().condition(cheap()).open().unwrap();
        // What an earlier run copied whole is no whole for ever.
        dio.reconcile(dio.master().list_values().unwrap()).unwrap();
        assert!(dio.status().complete);
        assert_eq!(dio.table_scenery().open().unwrap().row_count(), 3);
        assert_eq!(asked(&log), [CHEAP], "a complete cache never asks");
        drop(dio);
        assert!(lens.close(SOON).unwrap().is_closed());

        let (lens, begun, let_go) = held(cache.lens());
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        let status = dio.status();
        assert!(status.warm_start && !status.complete && status.rows == 3, "{status:?}");
        let view = dio.table_scenery().condition(cheap()).open_now().unwrap();
        let shown = wait_for(&view, "the rows of the last run", |snapshot| snapshot.row_count() == 2);
        assert!(matches!(shown.load_state(), LoadState::Loading));
        assert_eq!(begun.recv_timeout(SOON).unwrap(), CHEAP);
        let_go.send(()).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert!(is_ready(&view));
    });
}

#[test]
fn f5_what_other_callbacks_put_is_the_whole_only_if_they_say_so() {
    on_both(|cache| {
        let (lens, log) = logged(cache.lens());
        let whole = Arc::new(AtomicBool::new(false));
        let is_whole = whole.clone();
        let lens = lens.on_start(|dio| dio.cache().insert("a", product("Anvil", 30))).on_refresh(move |dio| {
            if is_whole.load(Ordering::SeqCst) {
                return dio.reconcile(dio.master().list(&CallCx::new())?);
            }
            dio.cache().insert("b", product("Bell", 10))
        });
        let dio = lens.build().unwrap().make_dio(products("f5-others")).unwrap();
        assert_eq!((cached(&dio), dio.status().complete), (vec!["a=30".into()], false));
        dio.refresh().unwrap();
        assert_eq!((cached(&dio).len(), dio.status().complete, asked(&log).len()), (2, false, 0));
        assert_eq!(dio.vista().get_count().unwrap(), 3);
        assert_eq!(asked(&log), [""]);
        whole.store(true, Ordering::SeqCst);
        dio.refresh().unwrap();
        assert!(dio.status().complete);
        assert_eq!((dio.vista().get_count().unwrap(), asked(&log).len()), (3, 0));
    });
}

#[test]
fn f5_a_cache_that_is_cleared_is_asked_for_again() {
    on_both(|cache| {
        let (lens, log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(products("f5-cleared")).unwrap();
        assert_eq!(dio.vista().get_count().unwrap(), 3);
        dio.cache().clear().unwrap();
        assert_eq!(dio.vista().get_count().unwrap(), 3);
        assert_eq!(asked(&log).len(), 2);
    });
}

#[test]
fn f5_a_view_that_waits_is_ready_when_the_cache_becomes_whole() {
    on_both(|cache| {
        let (lens, begun, let_go) = held(cache.lens());
        let dio = lens.build().unwrap().make_dio(products("f5-becomes")).unwrap();
        let view = dio.table_scenery().condition(cheap()).open_now().unwrap();
        let count = dio.value_scenery().count().open_now().unwrap();
        begun.recv_timeout(SOON).unwrap();
        dio.reconcile(dio.master().list_values().unwrap()).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        count.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!((view.row_count(), is_ready(&view)), (2, true));
        assert_eq!((count.int(), count.status()), (Some(3), ValueStatus::Fresh));
        drop(let_go);
    });
}

// ---- together with writes, waits and closing -----------------------------------------------------------------------

#[test]
fn f5_a_write_during_a_query_is_not_undone_by_it() {
    on_both(|cache| {
        let source = products("f5-write");
        let (read, has_read) = unbounded();
        let (go, gate) = unbounded::<()>();
        let lens = cache.lens().on_query(move |dio, query| {
            let rows = dio.master().list_query(&CallCx::new(), query)?;
            let _ = read.send(());
            let _ = gate.recv_timeout(SOON);
            dio.cache().replace_matching(query, rows)
        });
        let dio = lens.build().unwrap().make_dio(source.clone()).unwrap();
        let view = dio.table_scenery().condition(cheap()).sort("price", SortDir::Asc).open_now().unwrap();
        has_read.recv_timeout(SOON).unwrap();
        write(&dio, WriteOp::upsert("b", product("Bell", 13))).unwrap();
        write(&dio, WriteOp::upsert("n", product("New", 1))).unwrap();
        write(&dio, WriteOp::delete("c")).unwrap();
        go.send(()).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(prices(&view.snapshot()), ["n=1", "b=13"]);
        assert!(view.snapshot().iter().all(|row| row.status() == RowStatus::Fresh));
    });
}

#[test]
fn f5_closing_releases_whoever_waits_for_a_query() {
    on_both(|cache| {
        let (lens, begun, let_go) = held(cache.lens());
        let lens = lens.build().unwrap();
        let dio = lens.make_dio(products("f5-close")).unwrap();
        let view = dio.table_scenery().open_now().unwrap();
        let open = |work: fn(&Dio) -> Result<(), Error>| {
            let dio = dio.clone();
            start("waits", move || work(&dio))
        };
        let waits = [
            open(|dio| dio.table_scenery().open().map(drop)),
            open(|dio| dio.value_scenery().count().open().map(drop)),
            open(|dio| dio.vista().list_values().map(drop)),
            open(Dio::refresh),
        ];
        begun.recv_timeout(SOON).unwrap();
        until("all views are open", || dio.status().views == 3);
        until("it refreshes", || dio.status().refreshing);
        dio.close(Duration::ZERO).unwrap();
        for wait in waits {
            assert_eq!(wait.end().unwrap_err().kind(), ErrorKind::Closed);
        }
        assert_eq!(view.wait_until_ready(None).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(dio.vista().list_values().unwrap_err().kind(), ErrorKind::Closed);
        let_go.send(()).unwrap();
        let_go.send(()).unwrap();
        drop(let_go);
        assert!(lens.close(SOON).unwrap().is_closed());
    });
}

#[test]
fn f5_waiting_in_on_query_for_a_query_of_the_own_dio_would_deadlock_and_says_so() {
    on_both(|cache| {
        let (answers, seen) = unbounded();
        let lens = cache.lens().on_query(move |dio, query| {
            let open = dio.table_scenery().condition(col("price").gt(5));
            let view = open.clone().open_now()?;
            let kinds = [
                open.open().map(drop),
                view.wait_until_ready(None),
                dio.value_scenery().count().open_now()?.wait_until_ready(None),
                dio.vista().list_values().map(drop),
                dio.refresh(),
            ]
            .map(|waited| waited.map_err(|error| error.kind()));
            let _ = answers.send(kinds);
            answer(dio, query)
        });
        let dio = lens.build().unwrap().make_dio(products("f5-deadlock")).unwrap();
        assert_eq!(dio.table_scenery().condition(cheap()).open().unwrap().row_count(), 2);
        assert_eq!(seen.recv_timeout(SOON).unwrap(), [Err(ErrorKind::WouldDeadlock); 5]);
    });
}

#[test]
fn f5_other_callbacks_may_wait_for_a_query() {
    on_both(|cache| {
        let (lens, log) = logged(cache.lens());
        let lens =
            lens.on_refresh(|dio| dio.table_scenery().condition(cheap()).open().map(drop)).on_write(|dio, request| {
                assert_eq!(dio.vista().get_count()?, 3);
                dio.master().write(&CallCx::new(), request)
            });
        let dio = lens.build().unwrap().make_dio(products("f5-callbacks")).unwrap();
        dio.refresh().unwrap();
        assert_eq!(cached(&dio), ["b=10", "c=20"]);
        write(&dio, WriteOp::patch("b", record! { "price" => 11 })).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=11", "c=20"]);
        assert_eq!(asked(&log), [CHEAP, ""]);
    });
}

#[test]
fn f5_queries_of_a_dio_on_a_dio_never_wait_for_each_others_threads() {
    in_time(|| {
        let (lens, log) = logged(Lens::new().in_memory());
        let lens = lens.build().unwrap();
        let source = many("f5-stack", 40);
        let lower = lens.make_dio(source).unwrap();
        let mut facade = lower.vista();
        facade.add_condition(col("name").eq("same")).unwrap();
        let upper = lens.make_dio(facade).unwrap();
        // More than there are load threads, each of which waits for one of the Dio below.
        let views: Vec<TableScenery> =
            (0..40).map(|n| upper.table_scenery().where_eq("price", n).open_now().unwrap()).collect();
        for view in &views {
            view.wait_until_ready(Some(SOON)).unwrap();
            assert_eq!(view.row_count(), 1);
        }
        assert_eq!(asked(&log).len(), 80);
    });
}

#[test]
fn f5_views_of_any_query_at_once_show_what_the_source_has() {
    on_both(|cache| {
        let source = many("f5-many", 60);
        let (lens, log) = logged(cache.lens());
        let dio = lens.build().unwrap().make_dio(source).unwrap();
        let tasks: Vec<Task<()>> = (0..6)
            .map(|task| {
                let dio = dio.clone();
                start("many", move || {
                    for turn in 0..10 {
                        let (low, high) = (turn * 5, turn * 5 + task);
                        let view = dio.table_scenery().condition(col("price").between(low, high)).open().unwrap();
                        let rows: Vec<String> = (low..=high).map(|n| format!("row {n}={n}")).collect();
                        assert_eq!(sorted(prices(&view.snapshot())), sorted(rows));
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(Task::end);
        assert!(asked(&log).len() <= 60);
        assert_eq!(dio.status().queries_under_way, 0);
    });
}
