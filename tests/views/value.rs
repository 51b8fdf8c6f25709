//! Value views: aggregates that equal a recompute, and move only when their value does.

use diorama::prelude::*;
use diorama::{Aggregate, ValueStatus};

use crate::common::*;

fn numbers(rows: &[(&str, Value)]) -> MemoryVista {
    MemoryVista::new("numbers", "id")
        .with_rows(rows.iter().map(|(id, value)| (*id, record! { "v" => value, "group" => &id[..1] })))
}

fn bits(view: &ValueScenery) -> (String, Option<u64>) {
    let value = view.value();
    let float = match &value {
        Value::Float(value) => Some(value.to_bits()),
        _ => None,
    };
    (format!("{value:?}"), float)
}

#[test]
fn v1_count_and_sum_with_conditions_equal_a_recompute_after_every_change() {
    on_every_storage(|lens| {
        let (_lens, source, dio) = dio(lens, 100);
        let all = dio.value_scenery().count().open().unwrap();
        let even = dio.value_scenery().aggregate(Aggregate::Count).where_eq("group", "even").open().unwrap();
        let found = dio.value_scenery().count().search("999 9").condition(Condition::lt("n", 50)).open().unwrap();
        let total = dio.value_scenery().sum("n").open().unwrap();
        let odd = dio.value_scenery().sum("n").where_eq("group", "odd").open().unwrap();
        let check = || {
            let rows = dio.cache().list().unwrap();
            let count = |keep: &dyn Fn(&Record) -> bool| rows.iter().filter(|(_, row)| keep(row)).count() as i64;
            let sum = |keep: &dyn Fn(&Record) -> bool| {
                rows.iter().filter(|(_, row)| keep(row)).filter_map(|(_, row)| row.int("n")).sum::<i64>()
            };
            assert_eq!(all.int(), Some(count(&|_| true)));
            assert_eq!(even.int(), Some(count(&is_even)));
            assert_eq!(found.int(), Some(0));
            assert_eq!(total.int(), Some(sum(&|_| true)));
            assert_eq!(odd.int(), Some(sum(&|row| !is_even(row))));
            assert_eq!(total.skipped(), count(&|row| row.int("n").is_none()) as u64);
        };
        check();
        for number in 0..20 {
            dio.patched(id(number), row_with(number, -(number as i64) * 1_000_000_007)).unwrap();
            check();
        }
        dio.patched(id(21), record! { "id" => id(21), "n" => "no number", "group" => "odd" }).unwrap();
        check();
        dio.cache().remove(id(99)).unwrap();
        check();
        let mut crosses = row(50).1;
        crosses.insert("group", "odd");
        dio.patched(id(50), crosses).unwrap();
        check();
        dio.cache().insert_many((90..600).map(row)).unwrap();
        check();
        source.outside_silently().delete(&id(10)).unwrap();
        dio.refresh().unwrap();
        check();
        dio.cache().clear().unwrap();
        check();
        assert_eq!(total.int(), Some(0));
        dio.cache().insert(id(1), row(1).1).unwrap();
        check();
    });
}

#[test]
fn v1_sums_of_integers_and_floats_are_bit_for_bit_those_of_a_view_opened_anew() {
    limited(|| {
        let start = [
            ("a1", Value::from(1)),
            ("a2", Value::from(0.1)),
            ("b1", Value::from(1e300)),
            ("b2", Value::from(-1e300)),
            ("b3", Value::from(f64::MIN_POSITIVE / 8.0)),
            ("c1", Value::from(i64::MAX)),
            ("c2", Value::from(i64::MIN)),
            ("d1", Value::from(-0.0)),
            ("d2", Value::Null),
            ("d3", Value::from("7")),
            ("e1", Value::from(u64::MAX)),
        ];
        let dio = Lens::new().in_memory().build().unwrap().make_dio(numbers(&start)).unwrap();
        let open = |group: &str| match group {
            "" => dio.value_scenery().sum("v").open().unwrap(),
            group => dio.value_scenery().sum("v").where_eq("group", group).open().unwrap(),
        };
        let groups = ["", "a", "b", "c", "d", "e"];
        let live: Vec<ValueScenery> = groups.iter().map(|group| open(group)).collect();
        let check = |what: &str| {
            for (group, live) in groups.iter().zip(&live) {
                let anew = open(group);
                assert_eq!(
                    (bits(live), live.status(), live.skipped()),
                    (bits(&anew), anew.status(), anew.skipped()),
                    "{group} after {what}"
                );
            }
        };
        check("opening");
        let put = |id: &str, value: Value| dio.patched(id, record! { "v" => &value, "group" => &id[..1] }).unwrap();
        for value in [
            Value::from(f64::NAN),
            Value::from(f64::INFINITY),
            Value::from(f64::NEG_INFINITY),
            Value::from(f64::MAX),
            Value::from(-0.0),
            Value::from(3),
            Value::from(2.5),
            Value::Null,
            Value::from(1u64 << 63),
        ] {
            for id in ["a1", "b2", "c2", "d1", "x9"] {
                put(id, value.clone());
                check(&format!("{id} = {value:?}"));
            }
        }
        dio.cache().remove("b1").unwrap();
        check("a removal");
        dio.cache().clear().unwrap();
        check("a clearance");
        assert!(live.iter().all(|live| live.int() == Some(0)));
    });
}

#[test]
fn v1_sums_are_correctly_rounded_whatever_came_and_went() {
    limited(|| {
        let dio = Lens::new().in_memory().build().unwrap().make_dio(numbers(&[])).unwrap();
        let total = dio.value_scenery().sum("v").open().unwrap();
        assert_eq!(total.int(), Some(0));
        let put = |id: &str, value: Value| dio.patched(id, record! { "v" => &value }).unwrap();
        let float = |expected: f64| assert_eq!(total.float().unwrap().to_bits(), expected.to_bits(), "{total:?}");
        for number in 0..10 {
            put(&format!("t{number}"), Value::from(0.1));
        }
        float(1.0);
        // Ten times the float nearest to 0.1 is a little more than 1, so that what follows is beyond a tie.
        put("large", Value::from(1e16));
        float(1e16 + 2.0);
        put("large", Value::from(1e300));
        float(1e300);
        dio.cache().remove("large").unwrap();
        float(1.0);
        put("int", Value::from(1_i64 << 53));
        float(9007199254740994.0);
        put("t0", Value::from(0));
        float(9007199254740992.0);
        dio.cache().clear().unwrap();
        assert_eq!(total.int(), Some(0), "no float is in any more");
        put("zero", Value::from(-0.0));
        assert_eq!(total.float(), Some(0.0));
        assert_eq!(total.int(), None);
    });
}

#[test]
fn v2_a_sum_that_does_not_fit_is_an_error_that_recovers_and_non_numbers_are_counted() {
    limited(|| {
        let dio = Lens::new().in_memory().build().unwrap().make_dio(numbers(&[("a", Value::from(u64::MAX))])).unwrap();
        let total = dio.value_scenery().sum("v").open().unwrap();
        assert_eq!((total.status(), total.value()), (ValueStatus::Fresh, Value::from(u64::MAX)));
        let generation = total.generation();
        dio.patched("b", record! { "v" => 1 }).unwrap();
        assert_eq!((total.status(), total.value()), (ValueStatus::Error, Value::from(u64::MAX)), "the last one stays");
        assert_eq!(total.generation(), generation.next());
        assert!(total.error().unwrap().to_string().contains('v'));
        dio.patched("b", record! { "v" => -1 }).unwrap();
        assert_eq!((total.status(), total.value()), (ValueStatus::Fresh, Value::from(u64::MAX - 1)));
        assert!(total.error().is_none());
        assert_eq!(total.generation(), generation.next().next());
        dio.patched("c", record! { "v" => "text" }).unwrap();
        dio.patched("d", record! { "other" => 1 }).unwrap();
        assert_eq!((total.value(), total.skipped()), (Value::from(u64::MAX - 1), 2));
        dio.patched("e", record! { "v" => f64::NAN }).unwrap();
        assert!(total.float().unwrap().is_nan());
        dio.cache().remove("e").unwrap();
        assert_eq!(total.value(), Value::from(u64::MAX - 1));
    });
}

#[test]
fn v3_an_unchanged_result_moves_no_generation() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 10);
        let count = dio.value_scenery().count().where_eq("group", "even").open().unwrap();
        let total = dio.value_scenery().sum("n").open().unwrap();
        let before = (count.generation(), total.generation());
        let news = total.subscribe();
        news.try_recv();
        let mut renamed = row(2).1;
        renamed.insert("name", "another");
        dio.patched(id(2), renamed).unwrap();
        dio.cache().insert_many([(id(4), row_with(4, 6)), (id(6), row_with(6, 4))]).unwrap();
        assert_eq!((count.generation(), total.generation(), news.try_recv()), (before.0, before.1, None));
        assert_eq!(total.int(), Some(45));
        dio.patched(id(4), row_with(4, 7)).unwrap();
        assert_eq!((count.generation(), total.generation()), (before.0, before.1.next()));
        assert_eq!(news.try_recv(), Some(before.1.next()));
        assert_eq!(total.wait_for_change(before.1, Some(SOON)).unwrap(), before.1.next());
        assert_eq!(total.seq(), dio.seq());
    });
}

#[test]
fn v3_a_value_view_needs_an_aggregate() {
    limited(|| {
        let (_lens, _source, dio) = dio(Lens::new().in_memory(), 1);
        let error = dio.value_scenery().open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    });
}
