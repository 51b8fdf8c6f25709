//! E3, T3: waiting for a Seq, a generation or a change, with time-outs and in `select!`.

use std::time::Duration;

use crossbeam_channel::{select, unbounded};
use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::wait_any;

use crate::support::*;

const BRIEF: Duration = Duration::from_millis(3);

#[test]
fn e3_wait_for_seq_returns_once_it_is_published_also_for_a_view_that_it_did_not_touch() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("e3-seq")).unwrap();
        let view = dio.table_scenery().where_eq("name", "Anvil").open().unwrap();
        let (generation, seq) = (view.generation(), dio.seq());
        assert_eq!(dio.wait_for_seq(seq, Some(Duration::ZERO)).unwrap(), seq, "it is there already");
        let waiter = dio.clone();
        let waiting = start("wait_for_seq", move || waiter.wait_for_seq(seq.next(), Some(SOON)).unwrap());
        dio.patched("b", product("Bell", 1)).unwrap();
        assert_eq!(waiting.end(), seq.next());
        assert_eq!(view.generation(), generation);
    });
}

#[test]
fn e3_timeouts_are_honoured_and_nothing_is_broken_by_them() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("e3-timeout")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let record = dio.record_scenery("a").unwrap();
        let sum = dio.value_scenery().sum("price").open().unwrap();
        for timeout in [Duration::ZERO, BRIEF] {
            let clock = Clock::system();
            let begun = clock.now();
            let errors = [
                view.wait_for_change(view.generation(), Some(timeout)).unwrap_err(),
                view.wait_for_generation(view.generation().next(), Some(timeout)).unwrap_err(),
                record.wait_for_change(record.generation(), Some(timeout)).unwrap_err(),
                sum.wait_for_change(sum.generation(), Some(timeout)).unwrap_err(),
                dio.wait_for_seq(dio.seq().next(), Some(timeout)).unwrap_err(),
            ];
            assert!(errors.iter().all(|error| error.kind() == ErrorKind::Timeout), "{errors:?}");
            assert!(clock.now().since(begun) >= timeout * 5, "none came too soon");
        }
        let seen = view.generation();
        dio.patched("a", product("Anvil", 31)).unwrap();
        assert_eq!(view.wait_for_change(seen, Some(SOON)).unwrap(), seen.next());
        assert_eq!(sum.int(), Some(61));
    });
}

#[test]
fn e3_no_wake_up_is_lost_however_quick_the_changes_are() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("e3-quick")).unwrap();
        let view = dio.table_scenery().where_eq("name", "Bell").open().unwrap();
        let steps = 2_000;
        let followers: Vec<_> = (0..3)
            .map(|_| {
                let view = view.clone();
                start("a follower", move || {
                    let mut seen = view.generation();
                    while view.row(0).unwrap().int("price") != Some(steps) {
                        seen = view.wait_for_change(seen, Some(SOON)).unwrap();
                    }
                })
            })
            .collect();
        // One change answers the other: a lost wake-up would stop both.
        let (a_view, a_dio) = (view.clone(), dio.clone());
        let echo = start("the echo", move || {
            let mut seen = Generation(0);
            loop {
                let price = a_view.row(0).unwrap().int("price").unwrap();
                if price >= steps {
                    return;
                }
                if price % 2 == 1 {
                    a_dio.patched("b", product("Bell", price + 1)).unwrap();
                }
                seen = a_view.wait_for_change(seen, Some(SOON)).unwrap();
            }
        });
        let mut price = 1;
        while price < steps {
            dio.patched("b", product("Bell", price)).unwrap();
            wait_for(&view, "the echo", |rows| rows.row(0).unwrap().int("price") == Some(price + 1));
            price += 2;
        }
        echo.end();
        followers.into_iter().for_each(Task::end);
    });
}

#[test]
fn e3_subscriptions_of_many_views_work_in_select_and_hold_the_newest_only() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("e3-select")).unwrap();
        let table = dio.table_scenery().where_eq("name", "Bell").open().unwrap();
        let record = dio.record_scenery("a").unwrap();
        let sum = dio.value_scenery().where_eq("name", "Chain").sum("price").open().unwrap();
        let (tables, records, sums) = (table.subscribe(), record.subscribe(), sum.subscribe());
        for subscription in [&tables, &records, &sums] {
            while subscription.try_recv().is_some() {}
        }
        let (_keep, never) = unbounded::<()>();
        let which = || {
            select! {
                recv(tables.receiver()) -> generation => ("table", generation.unwrap()),
                recv(records.receiver()) -> generation => ("record", generation.unwrap()),
                recv(sums.receiver()) -> generation => ("sum", generation.unwrap()),
                recv(never) -> _ => panic!("nobody sends"),
                default(SOON) => panic!("nothing wakes"),
            }
        };
        for round in 0..20 {
            dio.patched("a", product("Anvil", round + 100)).unwrap();
            assert_eq!(which(), ("record", record.generation().0));
            dio.patched("c", product("Chain", round + 100)).unwrap();
            assert_eq!(which(), ("sum", sum.generation().0));
            for price in 0..5 {
                dio.patched("b", product("Bell", round * 10 + price)).unwrap();
            }
            assert_eq!(which(), ("table", table.generation().0), "only the newest of five");
            assert!(tables.try_recv().is_none());
        }
        let changer = dio.clone();
        let later = start("patched", move || changer.patched("b", product("Bell", -1)).unwrap());
        assert_eq!(which().0, "table");
        later.end();
    });
}

#[test]
fn t3_a_late_subscriber_sees_the_newest_generation_and_none_is_lost_without_one() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(products("t3")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let first = view.generation();
        for price in 0..10 {
            dio.patched("b", product("Bell", price + 100)).unwrap();
        }
        assert_eq!(view.generation(), Generation(first.0 + 10));
        let subscribed = view.subscribe();
        assert_eq!(subscribed.receiver().recv_timeout(SOON).unwrap(), view.generation().0);
        assert_eq!(
            view.wait_for_generation(Generation(first.0 + 10), Some(Duration::ZERO)).unwrap(),
            view.generation()
        );
        dio.patched("b", product("Bell", 109)).unwrap();
        assert_eq!(view.generation(), Generation(first.0 + 10), "nothing shown moved");
    });
}

#[test]
fn t13_a_change_that_lands_while_a_view_opens_is_in_it() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(many("t13", 3_000)).unwrap();
        for round in 0..10_i64 {
            let (changer, table) = (dio.clone(), dio.clone());
            let opening = start("open", move || table.table_scenery().sort("price", SortDir::Asc).open().unwrap());
            let changing = start("patched", move || {
                for row in 0..20 {
                    changer.patched(format!("row {row}"), product("moved", -round * 100 - row)).unwrap();
                }
                changer.cache().remove(format!("row {}", 100 + round)).unwrap();
                changer.seq()
            });
            let view = opening.end();
            let seq = changing.end();
            dio.wait_for_seq(seq, Some(SOON)).unwrap();
            let snapshot = view.snapshot();
            assert_eq!(snapshot.row_count(), 3_000 - 1 - round as usize);
            let shown: Vec<i64> = snapshot.iter().map(|row| row.int("price").unwrap()).collect();
            assert!(shown.is_sorted());
            assert_eq!(shown[0], -round * 100 - 19);
            assert_eq!(snapshot.position_of(&format!("row {}", 100 + round)).unwrap(), None);
        }
    });
}

#[test]
fn e3_wait_any_wakes_for_views_of_any_kind_and_dio_and_says_which() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let (dio, other) = (lens.make_dio(products("e3-any")).unwrap(), lens.make_dio(products("e3-other")).unwrap());
        let table = dio.table_scenery().where_eq("name", "Bell").open().unwrap();
        let record = dio.record_scenery("a").unwrap();
        let sum = other.value_scenery().sum("price").open().unwrap();
        let seen = || [table.generation(), record.generation(), sum.generation()];
        let wait = |seen: [Generation; 3], timeout| {
            let views: [&dyn Scenery; 3] = [&table, &record, &sum];
            wait_any(&std::array::from_fn::<_, 3, _>(|at| (views[at], seen[at])), Some(timeout))
        };
        assert_eq!(wait(seen(), Duration::ZERO).unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(wait(seen(), BRIEF).unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(wait_any(&[], Some(BRIEF)).unwrap_err().kind(), ErrorKind::Invalid);
        let before = seen();
        dio.patched("b", product("Bell", 11)).unwrap();
        other.patched("b", product("Bell", 11)).unwrap();
        assert_eq!(wait(before, SOON).unwrap(), [0, 2], "they moved before");
        for (change, which) in [(&dio, 1), (&other, 2), (&dio, 1)] {
            let (price, before) = (100 + table.generation().0 as i64 + record.generation().0 as i64, seen());
            let (a_dio, id) = (change.clone(), "a");
            let changing = start("a change", move || a_dio.patched(id, product("Anvil", price)).unwrap());
            assert_eq!(wait(before, SOON).unwrap(), [which]);
            changing.end();
        }
    });
}

#[test]
fn e3_wait_any_loses_no_wake_up_however_quick_the_changes_are() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let (one, other) = (lens.make_dio(products("e3-ping")).unwrap(), lens.make_dio(products("e3-pong")).unwrap());
        let open = |dio: &Dio| dio.record_scenery("a").unwrap();
        let price = |view: &RecordScenery| view.record().unwrap().int("price").unwrap();
        // Each waits for both and answers the other's: a lost wake-up would stop both.
        let play = move |mine: Dio, views: [RecordScenery; 2]| {
            let mut seen = [Generation(0); 2];
            loop {
                let prices = [price(&views[0]), price(&views[1])];
                if prices[0] == prices[1] + 1 || prices[0] >= 1_000 {
                    if prices.iter().all(|price| *price >= 1_000) {
                        return;
                    }
                } else {
                    mine.patched("a", product("Anvil", prices[1].max(prices[0]) + 1)).unwrap();
                }
                let moved = wait_any(&[(&views[0], seen[0]), (&views[1], seen[1])], Some(SOON)).unwrap();
                for which in moved {
                    seen[which] = views[which].generation();
                }
            }
        };
        let (a, b) = (one.clone(), other.clone());
        let (ours, theirs) = ([open(&one), open(&other)], [open(&other), open(&one)]);
        one.patched("a", product("Anvil", 0)).unwrap();
        other.patched("a", product("Anvil", 0)).unwrap();
        let first = start("one side", move || play(a, ours));
        let second = start("the other side", move || play(b, theirs));
        first.end();
        second.end();
    });
}

#[test]
fn q2_closing_one_dio_wakes_who_waits_for_any_view() {
    on_both(|cache| {
        let lens = cache.lens().build().unwrap();
        let (dio, other) = (lens.make_dio(products("q2-any")).unwrap(), lens.make_dio(products("q2-other")).unwrap());
        let (table, record) = (dio.table_scenery().open().unwrap(), other.record_scenery("a").unwrap());
        let (a, b) = (table.clone(), record.clone());
        let waiting =
            start("wait_any", move || wait_any(&[(&a, a.generation()), (&b, b.generation())], Some(SOON)).unwrap_err());
        other.close(SOON).unwrap();
        let error = waiting.end();
        assert_eq!((error.kind(), error.context("view")), (ErrorKind::Closed, Some("1")));
        let seen = table.generation();
        dio.patched("a", product("Anvil", 77)).unwrap();
        assert_eq!(wait_any(&[(&table, seen), (&record, record.generation())], Some(SOON)).unwrap(), [0]);
    });
}
