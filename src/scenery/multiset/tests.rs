use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::scenery::index::tree::visits;
use crate::value::compare;

fn value() -> impl Strategy<Value = Value> {
    let decimal = |exponent: i64, mantissa: i64| {
        Value::Tag(4, Box::new(Value::from(vec![Value::from(exponent), Value::from(mantissa)])))
    };
    prop_oneof![
        (-3..3_i64).prop_map(Value::from),
        prop::sample::select(vec![1.0, -0.0, 0.0, f64::NAN, f64::INFINITY, 2.5]).prop_map(Value::from),
        (-1..2_i64, -20..20_i64).prop_map(move |(exponent, mantissa)| decimal(exponent, mantissa)),
        prop::sample::select(vec!["", "a", "b", "a text that is longer than a short key", "a\0\u{1}"])
            .prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        Just(Value::Bytes(vec![0, 1, 2])),
        Just(Value::Tag(0, Box::new("2024-01-01T00:00:00Z".into()))),
        Just(Value::Tag(0, Box::new("2024-01-01T01:00:00+01:00".into()))),
        Just(Value::from(vec![Value::from(1), Value::Null])),
    ]
}

fn shown(value: Option<Value>) -> String {
    match value {
        Some(Value::Float(value)) => format!("{:x}", value.to_bits()),
        other => format!("{other:?}"),
    }
}

fn all(multiset: &Multiset, keys: &Multiset) -> (String, String, u64) {
    (shown(multiset.least()), shown(multiset.greatest()), keys.distinct())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_history_equals_a_recompute(
        steps in prop::collection::vec((value(), any::<bool>(), any::<prop::sample::Index>(), any::<bool>()), 1..80),
    ) {
        let (mut values, mut keys) = (Multiset::of_values(), Multiset::of_keys());
        let mut present: Vec<Value> = Vec::new();
        for (value, remove, which, settle) in steps {
            if remove && !present.is_empty() {
                let gone = present.swap_remove(which.index(present.len()));
                prop_assert_eq!(values.remove(Some((&gone).into())), !gone.is_null());
                keys.remove(Some((&gone).into()));
            } else {
                prop_assert_eq!(values.add(Some((&value).into())), !value.is_null());
                keys.add(Some((&value).into()));
                present.push(value);
            }
            if !settle {
                continue;
            }
            values.settle();
            keys.settle();
            let mut anew = (Multiset::of_values(), Multiset::of_keys());
            for value in present.iter().rev() {
                anew.0.add(Some(value.into()));
                anew.1.add(Some(value.into()));
            }
            anew.0.settle();
            anew.1.settle();
            prop_assert_eq!(all(&values, &keys), all(&anew.0, &anew.1));
            // By the order itself.
            let mut sorted: Vec<&Value> = present.iter().filter(|value| !value.is_null()).collect();
            sorted.sort_by(|a, b| compare(a, b));
            sorted.dedup_by(|a, b| compare(a, b) == Ordering::Equal);
            prop_assert_eq!(keys.distinct(), sorted.len() as u64);
            let is = |shown: Option<Value>, expected: Option<&&Value>| match (shown, expected) {
                (Some(shown), Some(expected)) => compare(&shown, expected) == Ordering::Equal,
                (shown, expected) => shown.is_none() && expected.is_none(),
            };
            prop_assert!(is(values.least(), sorted.first()), "{:?}", values.least());
            prop_assert!(is(values.greatest(), sorted.last()), "{:?}", values.greatest());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn many_changes_at_once_are_the_same_as_one_by_one(
        first in prop::collection::vec(0..500_i64, 0..1_500),
        then in prop::collection::vec((0..500_i64, any::<bool>()), 0..1_500),
    ) {
        let (mut at_once, mut single) = (Multiset::of_values(), Multiset::of_values());
        let mut model: BTreeMap<i64, usize> = BTreeMap::new();
        let mut step = |number: i64, add: bool| {
            let value = Value::from(number);
            let value = Some(ValueRef::from(&value));
            let times = model.entry(number).or_default();
            if add {
                at_once.add(value);
                single.add(value);
                *times += 1;
            } else if *times > 0 {
                at_once.remove(value);
                single.remove(value);
                *times -= 1;
            }
            single.settle();
        };
        first.iter().for_each(|number| step(*number, true));
        then.iter().for_each(|(number, add)| step(*number, *add));
        at_once.settle();
        let left: BTreeSet<i64> = model.iter().filter(|(_, times)| **times > 0).map(|(number, _)| *number).collect();
        for multiset in [&at_once, &single] {
            prop_assert_eq!(multiset.distinct(), left.len() as u64);
            prop_assert_eq!(multiset.least(), left.first().map(|number| Value::from(*number)));
            prop_assert_eq!(multiset.greatest(), left.last().map(|number| Value::from(*number)));
        }
    }
}

#[test]
fn of_values_equal_in_the_order_always_the_same_one_is_shown() {
    let shown = |values: &[Value]| {
        let mut multiset = Multiset::of_values();
        for value in values {
            multiset.add(Some(value.into()));
            multiset.settle();
        }
        (shown(multiset.least()), shown(multiset.greatest()))
    };
    let one = [Value::from(1), Value::from(1.0)];
    assert_eq!(shown(&one), shown(&[one[1].clone(), one[0].clone()]));
    assert_eq!(shown(&one), shown(&one[..1]), "the integer");
    assert_eq!(shown(&[Value::from(-0.0), Value::from(0.0)]), shown(&[Value::from(0.0)]));
}

/// The most nodes that one step visits.
fn visited(multiset: &mut Multiset, steps: usize, mut step: impl FnMut(&mut Multiset)) -> u64 {
    let mut most = 0;
    for _ in 0..steps {
        visits::take();
        step(multiset);
        multiset.settle();
        let _ = (multiset.least(), multiset.greatest(), multiset.distinct());
        most = most.max(visits::take());
    }
    most
}

#[test]
fn one_change_visits_a_path_of_the_tree_whatever_its_size() {
    let mut most = Vec::new();
    for rows in [1_000_i64, 1_000_000] {
        let mut multiset = Multiset::of_values();
        let int = |number: i64| Value::from(number);
        for number in 0..rows {
            multiset.add(Some(ValueRef::Int(number.into())));
        }
        multiset.settle();
        assert_eq!(multiset.distinct(), rows as u64);
        let mut at = 0;
        let update = visited(&mut multiset, 200, |multiset| {
            at = (at + rows / 3 + 1) % rows;
            multiset.remove(Some((&int(at)).into()));
            multiset.add(Some((&int(rows + at)).into()));
            multiset.settle();
            multiset.remove(Some((&int(rows + at)).into()));
            multiset.add(Some((&int(at)).into()));
        });
        let remove_greatest = visited(&mut multiset, 200, |multiset| {
            let greatest = multiset.greatest();
            multiset.remove(greatest.as_ref().map(ValueRef::from));
        });
        let remove_least = visited(&mut multiset, 200, |multiset| {
            let least = multiset.least();
            multiset.remove(least.as_ref().map(ValueRef::from));
        });
        println!(
            "{rows} rows: at the most {update} nodes for two updates and back, {remove_greatest} for the removal of the greatest, {remove_least} of the least"
        );
        most.push([update, remove_greatest, remove_least]);
    }
    // A million is a thousand times a thousand: twice the levels.
    for (small, large) in most[0].iter().zip(&most[1]) {
        assert!(*large <= small * 3 && *large < 200, "{most:?}");
    }
}
