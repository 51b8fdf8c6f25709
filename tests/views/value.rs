//! Value views: aggregates that equal a recompute, and move only when their value does.

use diorama::prelude::*;
use diorama::{Aggregate, ValueCounts, ValueStatus};

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

/// What the model makes of a column: numbers are quarters, so that plain arithmetic is exact.
mod plain {
    use std::cmp::Ordering;

    use diorama::prelude::*;
    use diorama::value::compare;

    pub(super) fn quarters(value: &Value) -> Option<i64> {
        match value {
            Value::Integer(value) => i64::try_from(*value).ok().map(|value| value * 4),
            Value::Float(value) => Some((value * 4.0) as i64),
            _ => None,
        }
    }

    pub(super) fn sum(values: &[Value]) -> Value {
        let total: i64 = values.iter().filter_map(quarters).sum();
        match values.iter().any(|value| matches!(value, Value::Float(_))) {
            true => Value::Float(total as f64 / 4.0),
            false => Value::from(total / 4),
        }
    }

    pub(super) fn mean(values: &[Value]) -> Value {
        let quarters: Vec<i64> = values.iter().filter_map(quarters).collect();
        // Both are small: the processor rounds their quotient once.
        let mean = || Value::Float(quarters.iter().sum::<i64>() as f64 / (4 * quarters.len()) as f64);
        if quarters.is_empty() { Value::Null } else { mean() }
    }

    /// The value that is not null and than which no other is more in this direction.
    pub(super) fn extreme(values: &[Value], better: Ordering) -> Value {
        let best = values
            .iter()
            .filter(|value| !value.is_null())
            .reduce(|best, value| if compare(value, best) == better { value } else { best });
        best.cloned().unwrap_or(Value::Null)
    }

    /// How many values differ by [`Condition::eq`].
    pub(super) fn distinct(dio: &Dio, values: &[Value]) -> u64 {
        let mut kinds: Vec<&Value> = Vec::new();
        for value in values.iter().filter(|value| !value.is_null()) {
            let query = |dio: &Dio| -> Result<u64, Error> {
                let mut rows = dio.vista();
                rows.add_condition(Condition::eq("v", value.clone()))?;
                rows.add_condition(Condition::is_in(
                    "v",
                    kinds.iter().map(|kind| (*kind).clone()).collect::<Vec<_>>(),
                ))?;
                rows.get_count()
            };
            if query(dio).unwrap() == 0 {
                kinds.push(value);
            }
        }
        kinds.len() as u64
    }
}

mod any_changes {
    use diorama::value::compare;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Change {
        Put(u8, Value),
        Remove(u8),
        Many(Vec<(u8, Value)>),
        Reconcile(Vec<(u8, Value)>),
        RemoveGreatest,
        Clear,
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            6 => (-9..9_i64).prop_map(Value::from),
            6 => (-40..40_i64).prop_map(|quarters| Value::Float(quarters as f64 / 4.0)),
            1 => "[ab]{0,2}".prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
            1 => Just(Value::Null),
        ]
    }

    fn change() -> impl Strategy<Value = Change> {
        let rows = || prop::collection::vec((0..12_u8, value()), 0..8);
        prop_oneof![
            8 => (0..12_u8, value()).prop_map(|(id, value)| Change::Put(id, value)),
            3 => (0..12_u8).prop_map(Change::Remove),
            2 => rows().prop_map(Change::Many),
            1 => rows().prop_map(Change::Reconcile),
            4 => Just(Change::RemoveGreatest),
            1 => Just(Change::Clear),
        ]
    }

    fn stored((id, value): (u8, Value)) -> (String, Record) {
        (
            format!("r{id}"),
            record! { "id" => format!("r{id}"), "v" => value, "group" => if id < 6 { "a" } else { "b" } },
        )
    }

    fn apply(dio: &Dio, greatest: &ValueScenery, change: Change) {
        match change {
            Change::Put(id, value) => {
                let (id, record) = stored((id, value));
                dio.patched(id, record).unwrap();
            }
            Change::Remove(id) => dio.cache().remove(format!("r{id}")).unwrap(),
            Change::Many(rows) => dio.cache().insert_many(rows.into_iter().map(stored)).unwrap(),
            Change::Reconcile(mut rows) => {
                rows.sort_by_key(|(id, _)| *id);
                rows.dedup_by_key(|(id, _)| *id);
                dio.reconcile(rows.into_iter().map(stored).collect()).unwrap();
            }
            Change::RemoveGreatest => {
                let value = greatest.value();
                let rows = dio.cache().list().unwrap();
                let found = rows.iter().find(|(_, row)| row.get("v").is_some_and(|v| compare(v, &value).is_eq()));
                if let Some((id, _)) = found {
                    dio.cache().remove(id.as_str()).unwrap();
                }
            }
            Change::Clear => dio.cache().clear().unwrap(),
        }
    }

    fn open(dio: &Dio, group: Option<&str>) -> Vec<ValueScenery> {
        let column = || "v".to_owned();
        let aggregates = [
            Aggregate::Count,
            Aggregate::Sum(column()),
            Aggregate::Avg(column()),
            Aggregate::Min(column()),
            Aggregate::Max(column()),
            Aggregate::Distinct(column()),
        ];
        let open = |aggregate| {
            let view = dio.value_scenery().aggregate(aggregate);
            let view = match group {
                Some(group) => view.where_eq("group", group),
                None => view,
            };
            view.open().unwrap()
        };
        aggregates.into_iter().map(open).collect()
    }

    fn check(dio: &Dio, views: &[ValueScenery], group: Option<&str>) {
        use std::cmp::Ordering::{Greater, Less};
        let rows = dio.cache().list().unwrap();
        let rows = rows.iter().filter(|(_, row)| group.is_none_or(|group| row.text("group") == Some(group)));
        let values: Vec<Value> = rows.map(|(_, row)| row.get("v").cloned().unwrap_or(Value::Null)).collect();
        let nulls = values.iter().filter(|value| value.is_null()).count() as u64;
        let not_numbers = values.iter().filter(|value| plain::quarters(value).is_none()).count() as u64;
        let shown: Vec<(String, Option<u64>)> = views[..3].iter().map(bits).collect();
        let bits_of = |value: Value| match value {
            Value::Float(float) => (format!("{value:?}"), Some(float.to_bits())),
            other => (format!("{other:?}"), None),
        };
        let expected = [Value::from(values.len() as u64), plain::sum(&values), plain::mean(&values)];
        assert_eq!(shown, expected.map(bits_of), "{values:?}");
        for (view, direction) in [(&views[3], Less), (&views[4], Greater)] {
            assert!(compare(&view.value(), &plain::extreme(&values, direction)).is_eq(), "{view:?} of {values:?}");
        }
        if group.is_none() {
            assert_eq!(views[5].value(), Value::from(plain::distinct(dio, &values)), "{values:?}");
        }
        let skipped: Vec<u64> = views.iter().map(ValueScenery::skipped).collect();
        assert_eq!(skipped, [0, not_numbers, not_numbers, nulls, nulls, nulls], "{values:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn v1_every_aggregate_with_conditions_equals_a_recompute_after_any_changes(
            changes in prop::collection::vec(change(), 1..24),
        ) {
            limited(move || {
                let dio = Lens::new().in_memory().build().unwrap().make_dio(MemoryVista::new("numbers", "id")).unwrap();
                let groups = [None, Some("a"), Some("b")];
                let live: Vec<Vec<ValueScenery>> = groups.iter().map(|group| open(&dio, *group)).collect();
                for change in changes {
                    apply(&dio, &live[0][4], change);
                    for (group, live) in groups.iter().zip(&live) {
                        check(&dio, live, *group);
                    }
                }
                for (group, live) in groups.iter().zip(&live) {
                    let anew = open(&dio, *group);
                    let shown = |views: &[ValueScenery]| -> Vec<_> {
                        views.iter().map(|view| (bits(view), view.status(), view.counts())).collect()
                    };
                    assert_eq!(shown(live), shown(&anew), "{group:?}");
                }
            });
        }
    }
}

#[test]
fn v1_the_least_and_the_greatest_of_mixed_types_follow_the_one_order() {
    limited(|| {
        let tag = |tag, text: &str| Value::Tag(tag, Box::new(Value::from(text)));
        // From the least to the greatest; null is no value.
        let rising = [
            Value::from(false),
            Value::from(f64::NEG_INFINITY),
            Value::from(-3),
            Value::from(2.5),
            Value::from(u64::MAX),
            Value::from(f64::NAN),
            Value::from("10"),
            Value::from("9"),
            Value::Bytes(vec![0]),
            tag(0, "2024-01-01T00:00:00+02:00"),
            tag(0, "2024-01-01T00:00:00Z"),
            Value::from(vec![Value::from(1)]),
        ];
        let dio = Lens::new().in_memory().build().unwrap().make_dio(numbers(&[("null", Value::Null)])).unwrap();
        let [least, greatest, kinds] = ["min", "max", "distinct"].map(|what| {
            let view = dio.value_scenery();
            let view = match what {
                "min" => view.min("v"),
                "max" => view.max("v"),
                _ => view.distinct("v"),
            };
            view.open().unwrap()
        });
        assert_eq!([least.value(), greatest.value(), kinds.value()], [Value::Null, Value::Null, 0.into()]);
        let same = |view: &ValueScenery, value: &Value| assert_eq!(format!("{:?}", view.value()), format!("{value:?}"));
        for (number, value) in rising.iter().enumerate() {
            dio.patched(format!("r{number}"), record! { "v" => value }).unwrap();
            same(&least, &rising[0]);
            same(&greatest, value);
            assert_eq!((kinds.int(), kinds.skipped()), (Some(number as i64 + 1), 1));
        }
        for number in (1..rising.len()).rev() {
            dio.cache().remove(format!("r{number}")).unwrap();
            same(&greatest, &rising[number - 1]);
        }
        // The same by `eq`.
        for (id, value) in [("x", Value::from(7)), ("y", Value::from(7.0)), ("z", tag(0, "2024-01-01T00:00:00Z"))] {
            dio.patched(id, record! { "v" => &value }).unwrap();
        }
        dio.patched("zz", record! { "v" => tag(0, "2024-01-01T01:00:00+01:00") }).unwrap();
        assert_eq!(kinds.int(), Some(3));
    });
}

#[test]
fn v2_a_mean_has_no_total_too_large_and_counts_what_it_can_not_take() {
    limited(|| {
        let max = Value::from(u64::MAX);
        let dio =
            Lens::new().in_memory().build().unwrap().make_dio(numbers(&[("a", max.clone()), ("b", max)])).unwrap();
        let mean = dio.value_scenery().avg("v").open().unwrap();
        assert_eq!((mean.value(), mean.status()), (Value::Float(u64::MAX as f64), ValueStatus::Fresh));
        dio.patched("c", record! { "v" => 1 }).unwrap();
        assert_eq!(mean.float(), Some(12_297_829_382_473_034_411_u64 as f64));
        dio.patched("d", record! { "v" => "n/a" }).unwrap();
        dio.patched("e", record! { "v" => f64::INFINITY }).unwrap();
        assert_eq!((mean.float(), mean.counts().infinite, mean.counts().skipped), (Some(f64::INFINITY), 1, 1));
        dio.patched("f", record! { "v" => f64::NAN }).unwrap();
        assert!(mean.float().is_some_and(f64::is_nan));
        assert_eq!(mean.counts().nan, 1);
        let generation = mean.generation();
        dio.patched("g", record! { "v" => f64::NAN }).unwrap();
        assert_eq!((mean.counts().nan, mean.generation()), (2, generation.next()), "what is counted is shown, too");
        dio.cache().clear().unwrap();
        assert_eq!((mean.value(), mean.counts()), (Value::Null, ValueCounts::default()));
    });
}
