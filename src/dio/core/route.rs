//! Route: which views' indexes a changed row can concern, found without asking each of them.
//!
//! Owner: the core.
//! Invariants: every index whose query a row matches, before or after, is routed to (`no_index_that_matches_is_left_out`);
//! more may be, for the index asks its whole query itself.
//! Not here: the queries' guards (`vista::Filter::guard`).

use hashbrown::HashMap;

use crate::value::{Path, StoredRow, encode_sort_key};
use crate::vista::Guard;

/// The guards of all indexes.
#[derive(Default)]
pub(super) struct Router {
    lanes: Vec<Lane>,
    /// Indexes without a guard: every row may concern them.
    always: Vec<u64>,
}

/// The guards on one path.
struct Lane {
    path: Path,
    points: HashMap<Box<[u8]>, Vec<u64>>,
    ranges: Ranges,
}

/// Closed ranges of encoded keys, to be asked which of them hold a key.
#[derive(Default)]
struct Ranges {
    /// By their low end, unless `is_sorted` says otherwise.
    entries: Vec<RangeEntry>,
    is_sorted: bool,
}

struct RangeEntry {
    low: Box<[u8]>,
    /// `None`: no end.
    high: Option<Box<[u8]>>,
    index: u64,
    /// The highest end within the subtree of the implicit balanced tree whose root this entry is; `None`: no end.
    highest: Option<Box<[u8]>>,
}

impl Router {
    pub(super) fn add(&mut self, index: u64, guard: Option<&Guard>) {
        let Some(guard) = guard else {
            self.always.push(index);
            return;
        };
        let lane = match self.lanes.iter().position(|lane| lane.path == *guard.path()) {
            Some(place) => &mut self.lanes[place],
            None => {
                self.lanes.push(Lane { path: guard.path().clone(), points: HashMap::new(), ranges: Ranges::default() });
                let last = self.lanes.len() - 1;
                &mut self.lanes[last]
            }
        };
        match guard {
            Guard::Points(_, keys) => {
                for key in keys {
                    lane.points.entry(key.clone()).or_default().push(index);
                }
            }
            Guard::Range(_, low, high) => {
                lane.ranges.is_sorted = false;
                lane.ranges.entries.push(RangeEntry { low: low.clone(), high: high.clone(), index, highest: None });
            }
        }
    }

    pub(super) fn remove(&mut self, index: u64, guard: Option<&Guard>) {
        let Some(guard) = guard else {
            self.always.retain(|other| *other != index);
            return;
        };
        let Some(place) = self.lanes.iter().position(|lane| lane.path == *guard.path()) else { return };
        let lane = &mut self.lanes[place];
        match guard {
            Guard::Points(_, keys) => {
                for key in keys {
                    if let Some(indexes) = lane.points.get_mut(key) {
                        indexes.retain(|other| *other != index);
                        if indexes.is_empty() {
                            lane.points.remove(key);
                        }
                    }
                }
            }
            Guard::Range(..) => {
                lane.ranges.is_sorted = false;
                lane.ranges.entries.retain(|entry| entry.index != index);
            }
        }
        if lane.points.is_empty() && lane.ranges.entries.is_empty() {
            self.lanes.swap_remove(place);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Router::default();
    }

    /// The indexes that every row may concern.
    pub(super) fn always(&mut self) -> &mut Vec<u64> {
        &mut self.always
    }

    /// Whether there is any index with a guard.
    pub(super) fn routes(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// Adds the guarded indexes that a row, which is the `position`th of its batch, may concern. One index may be added
    /// twice.
    pub(super) fn route(
        &mut self,
        position: u32,
        before: Option<&StoredRow>,
        after: Option<&StoredRow>,
        scratch: &mut [Vec<u8>; 2],
        found: &mut Vec<(u64, u32)>,
    ) {
        for lane in &mut self.lanes {
            lane.ranges.make_ready();
            let [old, new] = &mut *scratch;
            for (row, key) in [(before, &mut *old), (after, &mut *new)] {
                key.clear();
                if let Some(row) = row {
                    encode_sort_key(row.fields().get_path(&lane.path), false, key);
                }
            }
            if before.is_some() {
                lane.find(old, position, found);
            }
            if after.is_some() && (before.is_none() || old != new) {
                lane.find(new, position, found);
            }
        }
    }
}

impl Lane {
    fn find(&self, key: &[u8], position: u32, found: &mut Vec<(u64, u32)>) {
        if let Some(indexes) = self.points.get(key) {
            found.extend(indexes.iter().map(|index| (*index, position)));
        }
        Ranges::find(&self.ranges.entries, key, position, found);
    }
}

impl Ranges {
    /// Sorts what was added since the last time. The entries are an implicit balanced tree: the middle is the root.
    fn make_ready(&mut self) {
        if !self.is_sorted {
            self.entries.sort_unstable_by(|a, b| a.low.cmp(&b.low));
            Ranges::find_highest(&mut self.entries);
            self.is_sorted = true;
        }
    }

    fn find_highest(entries: &mut [RangeEntry]) -> Option<Option<Box<[u8]>>> {
        let middle = entries.len() / 2;
        let (left, rest) = entries.split_at_mut(middle);
        let (root, right) = rest.split_first_mut()?;
        let below = [Ranges::find_highest(left), Ranges::find_highest(right)];
        let mut highest = root.high.clone();
        for end in below.into_iter().flatten() {
            // No end is higher than any.
            highest = match (highest, end) {
                (Some(a), Some(b)) => Some(a.max(b)),
                _ => None,
            };
        }
        root.highest.clone_from(&highest);
        Some(highest)
    }

    fn find(entries: &[RangeEntry], key: &[u8], position: u32, found: &mut Vec<(u64, u32)>) {
        let ends_before = |end: &Option<Box<[u8]>>| end.as_deref().is_some_and(|end| end < key);
        let middle = entries.len() / 2;
        let (left, rest) = entries.split_at(middle);
        let Some((root, right)) = rest.split_first() else { return };
        if ends_before(&root.highest) {
            return;
        }
        Ranges::find(left, key, position, found);
        if *root.low <= *key {
            if !ends_before(&root.high) {
                found.push((root.index, position));
            }
            Ranges::find(right, key, position, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scenery::view_query::ViewQuery;
    use crate::value::Value;
    use crate::vista::{Condition, QueryDescriptor, Schema};
    use crate::{Record, record};

    fn query(conditions: Vec<Condition>) -> ViewQuery {
        let descriptor = QueryDescriptor { conditions, ..QueryDescriptor::new() };
        ViewQuery::new(&descriptor, &Schema::open("id")).unwrap()
    }

    fn row(record: &Record) -> StoredRow {
        StoredRow::encode("id", record, 0)
    }

    fn routed(router: &mut Router, before: Option<&StoredRow>, after: Option<&StoredRow>) -> Vec<u64> {
        let mut found = Vec::new();
        router.route(0, before, after, &mut Default::default(), &mut found);
        let mut indexes: Vec<u64> = found.into_iter().map(|(index, _)| index).chain(router.always().to_vec()).collect();
        indexes.sort_unstable();
        indexes.dedup();
        indexes
    }

    #[test]
    fn a_row_goes_to_the_queries_of_its_values_alone() {
        let mut router = Router::default();
        let mut guards = Vec::new();
        for n in 0..1_000_u64 {
            let condition = match n % 2 {
                0 => Condition::eq("group", n),
                _ => Condition::And(vec![Condition::ge("n", n * 10), Condition::lt("n", (n + 2) * 10)]),
            };
            let query = query(vec![condition]);
            router.add(n, query.guard());
            guards.push(query);
        }
        let before = row(&record! { "group" => 4, "n" => 55 });
        let after = row(&record! { "group" => 6, "n" => 72 });
        assert_eq!(routed(&mut router, Some(&before), Some(&after)), [4, 5, 6, 7]);
        assert_eq!(routed(&mut router, None, Some(&after)), [6, 7]);
        assert_eq!(routed(&mut router, Some(&before), None), [4, 5]);
        let edge = row(&record! { "group" => 4, "n" => 70 });
        assert_eq!(
            routed(&mut router, Some(&edge), None),
            [4, 5, 7],
            "whether an end belongs to it is the query's own matter"
        );
        for (n, query) in guards.iter().enumerate() {
            router.remove(n as u64, query.guard());
        }
        assert!(router.lanes.is_empty() && router.always.is_empty());
    }

    #[test]
    fn a_query_without_a_guard_gets_every_row() {
        let mut router = Router::default();
        let unguarded = [
            vec![],
            vec![Condition::like("a", "x%")],
            vec![Condition::eq("a", 1).or(Condition::eq("b", 1))],
            vec![Condition::ne("a", 1)],
        ];
        for (n, conditions) in unguarded.into_iter().enumerate() {
            router.add(n as u64, query(conditions).guard());
        }
        assert_eq!(routed(&mut router, None, Some(&row(&record! {}))), [0, 1, 2, 3]);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-5..5_i64).prop_map(Value::from),
            (-5..5_i64).prop_map(|n| Value::Float(n as f64 / 2.0)),
            Just(Value::Float(f64::NAN)),
            "[ab]{0,2}".prop_map(Value::Text),
        ]
    }

    fn any_leaf() -> impl Strategy<Value = Condition> {
        let path = prop_oneof![Just("a"), Just("b")];
        (path, any_value(), any_value(), 0..8_usize).prop_map(|(path, value, other, which)| match which {
            0 => Condition::eq(path, value),
            1 => Condition::lt(path, value),
            2 => Condition::le(path, value),
            3 => Condition::gt(path, value),
            4 => Condition::ge(path, value),
            5 => Condition::is_in(path, [value, other]),
            6 => Condition::ne(path, value),
            _ => Condition::is_null(path),
        })
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        any_leaf().prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Condition::And),
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Condition::Or),
                inner.prop_map(|condition| Condition::Not(Box::new(condition))),
            ]
        })
    }

    fn any_row() -> impl Strategy<Value = Option<StoredRow>> {
        let fields = (proptest::option::of(any_value()), proptest::option::of(any_value()));
        proptest::option::of(fields.prop_map(|(a, b)| {
            let mut record = Record::new();
            for (name, value) in [("a", a), ("b", b)] {
                if let Some(value) = value {
                    record.insert(name, value);
                }
            }
            row(&record)
        }))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_index_that_matches_is_left_out(
            queries in proptest::collection::vec(proptest::collection::vec(any_condition(), 0..3), 1..20),
            rows in proptest::collection::vec((any_row(), any_row()), 1..20),
            removed in proptest::collection::vec(any::<bool>(), 20),
        ) {
            let queries: Vec<ViewQuery> = queries.into_iter().map(query).collect();
            let mut router = Router::default();
            for (n, query) in queries.iter().enumerate() {
                router.add(n as u64, query.guard());
            }
            for (n, query) in queries.iter().enumerate().filter(|(n, _)| removed[*n]) {
                router.remove(n as u64, query.guard());
            }
            for (before, after) in &rows {
                let found = routed(&mut router, before.as_ref(), after.as_ref());
                for (n, query) in queries.iter().enumerate() {
                    let concerns = [before, after].into_iter().flatten().any(|row| query.matches(row));
                    let is_found = found.contains(&(n as u64));
                    prop_assert!(!removed[n] || !is_found);
                    prop_assert!(is_found || removed[n] || !concerns, "{n} of {found:?}");
                }
            }
        }
    }
}
