use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::value::{Record, StoredRow};

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![0.1, -0.1, 1e300, -1e300, f64::NAN, f64::INFINITY]).prop_map(Value::from),
        Just(Value::Null),
        Just(Value::from("text")),
    ]
}

fn row(value: Option<&Value>) -> StoredRow {
    let mut record = Record::default();
    if let Some(value) = value {
        record.insert("n", value.clone());
    }
    StoredRow::encode("id", &record, 0)
}

fn shown(accumulator: &Accumulator) -> (String, u64) {
    let (value, skipped) = accumulator.result();
    let value = match value {
        Ok(Value::Float(value)) if !value.is_nan() => format!("{:x}", value.to_bits()),
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    };
    (value, skipped)
}

proptest! {
    #[test]
    fn sums_and_counts_equal_a_recompute(
        steps in prop::collection::vec((0..6_u8, prop::option::of(prop::option::of(number()))), 0..60),
    ) {
        let aggregates = [Aggregate::Count, Aggregate::Sum("n".into())];
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
                let mut anew = Accumulator::new(aggregate);
                for row in rows.values() {
                    anew.add(row.fields());
                }
                prop_assert_eq!(shown(kept), shown(&anew));
            }
        }
    }
}
