use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::scenery::index::tree::visits;
use crate::value::{Record, StoredRow, compare};

fn aggregates() -> Vec<BuiltIn> {
    let path = || Path::new("n");
    vec![
        BuiltIn::Count,
        BuiltIn::Sum(path()),
        BuiltIn::Avg(path()),
        BuiltIn::Min(path()),
        BuiltIn::Max(path()),
        BuiltIn::Distinct(path()),
    ]
}

fn tagged(tag: u64, value: impl Into<Value>) -> Value {
    Value::Tag(tag, Box::new(value.into()))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => any::<i64>().prop_map(Value::from),
        3 => (-3..3_i64).prop_map(Value::from),
        1 => prop::sample::select(vec![u64::MAX, u64::MAX - 1]).prop_map(Value::from),
        3 => any::<f64>().prop_map(Value::from),
        3 => prop::sample::select(
            vec![0.1, -0.1, 1e300, -1e300, 0.0, -0.0, f64::MAX, 5e-324, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]
        ).prop_map(Value::from),
        1 => (-30..30_i64, any::<i64>())
            .prop_map(|(exponent, mantissa)| tagged(4, vec![Value::from(exponent), Value::from(mantissa)])),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| tagged(2, Value::Bytes(bytes))),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| tagged(3, Value::Bytes(bytes))),
        1 => Just(Value::Null),
        1 => "[a-c]{0,18}".prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
    ]
}

fn row(value: Option<&Value>) -> StoredRow {
    let mut record = Record::default();
    if let Some(value) = value {
        record.insert("n", value.clone());
    }
    StoredRow::encode("id", &record, 0)
}

fn shown(accumulator: &Accumulator) -> (String, ValueCounts) {
    let (value, counts) = accumulator.result();
    let value = match value {
        Ok(Value::Float(value)) if !value.is_nan() => format!("{:x}", value.to_bits()),
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    };
    (value, counts)
}

fn of(aggregate: &BuiltIn, values: &[Value]) -> Accumulator {
    let mut accumulator = Accumulator::new(aggregate);
    values.iter().for_each(|value| accumulator.add(row(Some(value)).fields()));
    accumulator.settle();
    accumulator
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_history_equals_a_recompute_bit_by_bit(
        steps in prop::collection::vec((0..8_u8, prop::option::of(prop::option::of(value()))), 0..60),
    ) {
        let aggregates = aggregates();
        let mut kept: Vec<Accumulator> = aggregates.iter().map(Accumulator::new).collect();
        let mut rows: BTreeMap<u8, StoredRow> = BTreeMap::new();
        for (id, change) in steps {
            let after = change.as_ref().map(|value| row(value.as_ref()));
            let before = match &after {
                Some(after) => rows.insert(id, after.clone()),
                None => rows.remove(&id),
            };
            for (aggregate, kept) in aggregates.iter().zip(&mut kept) {
                if let Some(before) = &before {
                    kept.remove(before.fields());
                }
                if let Some(after) = &after {
                    kept.add(after.fields());
                }
                kept.settle();
                let mut anew = Accumulator::new(aggregate);
                for row in rows.values().rev() {
                    anew.add(row.fields());
                }
                anew.settle();
                prop_assert_eq!(shown(kept), shown(&anew));
            }
        }
    }

    #[test]
    fn the_least_and_the_greatest_are_those_of_the_one_order(values in prop::collection::vec(value(), 0..20)) {
        let mut sorted: Vec<Value> = values.iter().filter(|value| !value.is_null()).cloned().collect();
        sorted.sort_by(compare);
        let [.., min, max, distinct] = aggregates().try_into().unwrap_or([const { BuiltIn::Count }; 6]);
        let result = |aggregate| of(aggregate, &values).result();
        let is = |shown: &Value, expected: Option<&Value>| compare(shown, expected.unwrap_or(&Value::Null)).is_eq();
        prop_assert!(is(&result(&min).0.unwrap(), sorted.first()));
        prop_assert!(is(&result(&max).0.unwrap(), sorted.last()));
        prop_assert_eq!(result(&max).1.skipped, (values.len() - sorted.len()) as u64);
        sorted.dedup_by(|a, b| compare(a, b).is_eq());
        prop_assert_eq!(result(&distinct).0.unwrap(), Value::from(sorted.len() as u64));
    }
}

#[test]
fn without_values_there_is_a_count_and_a_sum_but_no_mean_least_or_greatest() {
    let results: Vec<Value> = aggregates().iter().map(|aggregate| of(aggregate, &[]).result().0.unwrap()).collect();
    assert_eq!(results, [0.into(), 0.into(), Value::Null, Value::Null, Value::Null, 0.into()]);
    let nulls: Vec<_> = aggregates().iter().map(|aggregate| of(aggregate, &[Value::Null]).result()).collect();
    assert_eq!(nulls.iter().map(|(_, counts)| counts.skipped).collect::<Vec<_>>(), [0, 1, 1, 1, 1, 1]);
}

#[test]
fn bignums_are_integers_and_decimals_the_nearest_floats() {
    let sum = |values: &[Value]| shown(&of(&BuiltIn::Sum(Path::new("n")), values));
    let two_to_64 = tagged(2, Value::Bytes(vec![1, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(sum(&[two_to_64.clone(), (-1).into()]).0, format!("{:?}", Value::from(u64::MAX)));
    assert!(sum(&[two_to_64]).0.contains("64 bits"));
    let tenth = tagged(4, vec![Value::from(-1), Value::from(1)]);
    assert_eq!(sum(&[tenth, 0.25.into()]).0, format!("{:x}", 0.35_f64.to_bits()));
    let mean = of(&BuiltIn::Avg(Path::new("n")), &[u64::MAX.into(), u64::MAX.into(), 0.into()]);
    assert_eq!(
        mean.result().0.unwrap(),
        Value::from(12_297_829_382_473_034_410_f64),
        "a total that doesn't fit has a mean"
    );
}

#[test]
fn nans_and_infinities_are_counted() {
    let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0].map(Value::from);
    for aggregate in [BuiltIn::Sum(Path::new("n")), BuiltIn::Avg(Path::new("n"))] {
        let (value, counts) = of(&aggregate, &values).result();
        assert!(matches!(value, Ok(Value::Float(value)) if value.is_nan()));
        assert_eq!(counts, ValueCounts { skipped: 0, nan: 1, infinite: 2 });
    }
}

/// The nodes that one change of a row visits, with its result.
fn visited(accumulator: &mut Accumulator, before: Option<&StoredRow>, after: Option<&StoredRow>) -> u64 {
    visits::take();
    if let Some(before) = before {
        accumulator.remove(before.fields());
    }
    if let Some(after) = after {
        accumulator.add(after.fields());
    }
    accumulator.settle();
    accumulator.result().0.unwrap();
    visits::take()
}

#[test]
fn one_row_costs_a_path_of_the_tree_whatever_the_number_of_rows() {
    let path = || Path::new("n");
    let number = |number: i64| row(Some(&Value::from(number)));
    let most_of = |rows: i64| -> Vec<(BuiltIn, u64)> {
        let filled = [BuiltIn::Count, BuiltIn::Sum(path()), BuiltIn::Max(path()), BuiltIn::Distinct(path())];
        let mut filled = filled.map(|aggregate| Accumulator::new(&aggregate));
        for n in 0..rows {
            let row = number(n);
            filled.iter_mut().for_each(|accumulator| accumulator.add(row.fields()));
        }
        filled.iter_mut().for_each(Accumulator::settle);
        let mut most = |which: usize, aggregate: BuiltIn| {
            let accumulator = &mut filled[which];
            accumulator.aggregate = aggregate.clone();
            // The greatest goes, and the next one, and so on; the least; a row changes. Then all of it back.
            let gone =
                (1..100).flat_map(|step| [(rows - step, None), (step - 1, None), (rows / 2 + step, Some(rows + step))]);
            let gone: Vec<(i64, Option<i64>)> = gone.collect();
            let back = gone.iter().rev().map(|(before, after)| (*after, Some(*before)));
            let there = gone.iter().map(|(before, after)| (Some(*before), *after));
            let visited = there.chain(back).map(|(before, after)| {
                let [before, after] = [before, after].map(|n| n.map(number));
                visited(accumulator, before.as_ref(), after.as_ref())
            });
            (aggregate, visited.max().unwrap_or(0))
        };
        vec![
            most(0, BuiltIn::Count),
            most(1, BuiltIn::Sum(path())),
            most(1, BuiltIn::Avg(path())),
            most(2, BuiltIn::Max(path())),
            most(2, BuiltIn::Min(path())),
            most(3, BuiltIn::Distinct(path())),
        ]
    };
    for ((aggregate, small), (_, large)) in most_of(1_000).into_iter().zip(most_of(1_000_000)) {
        println!("{aggregate:?}: at the most {small} nodes a change with 1,000 rows, {large} with 1,000,000");
        // A million is a thousand times a thousand: twice the levels.
        assert!(large <= small * 3 && large <= 100, "{aggregate:?}: {small} nodes of 1,000 rows, {large} of 1,000,000");
    }
}
