//! The plain meaning of queries: conditions, search, order and sums over rows in a list.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use diorama::value::compare;
use diorama::vista::SortBy;
use diorama::{Condition, QueryDescriptor, Record, SortDir, Value};

use crate::ops::{C, Query};

/// A row of the model: its id and its fields.
pub(crate) type Plain = (String, Record);

/// A table in the order of arrival.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    rows: BTreeMap<u64, Plain>,
    next: u64,
}

impl Table {
    fn place(&self, id: &str) -> Option<u64> {
        self.rows.iter().find(|(_, (row, _))| row == id).map(|(place, _)| *place)
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Record> {
        self.place(id).map(|place| &self.rows[&place].1)
    }

    pub(crate) fn put(&mut self, id: &str, record: Record) {
        let place = self.place(id).unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.rows.insert(place, (id.to_owned(), record));
    }

    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(place) = self.place(id) {
            self.rows.remove(&place);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }

    pub(crate) fn list(&self) -> Vec<Plain> {
        self.rows.values().cloned().collect()
    }

    /// Rows that stay keep their place, new ones come after them.
    pub(crate) fn become_rows(&mut self, rows: &[Plain]) {
        self.rows.retain(|_, (id, _)| rows.iter().any(|(other, _)| other == id));
        rows.iter().for_each(|(id, record)| self.put(id, record.clone()));
    }
}

/// The value at a dotted path; at each level a field of the very whole name wins.
fn at(record: &Record, path: &str) -> Value {
    fn inside(value: &Value, path: &str) -> Option<Value> {
        let Value::Map(entries) = value else { return None };
        let field = |name: &str| {
            entries.iter().find(|(key, _)| *key == Value::Text(name.to_owned())).map(|(_, value)| value.clone())
        };
        field(path).or_else(|| {
            let (first, rest) = path.split_once('.')?;
            inside(&field(first)?, rest)
        })
    }
    let fields = record.iter().map(|(name, value)| (Value::Text(name.to_owned()), value.clone())).collect();
    inside(&Value::Map(fields), path).unwrap_or(Value::Null)
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Integer(_) | Value::Float(_) => 2,
        Value::Text(_) => 3,
        Value::Array(_) => 4,
        Value::Map(_) => 5,
        other => panic!("the model makes no {other:?}"),
    }
}

fn ordered(record: &Record, path: &str, with: &Value, holds: fn(Ordering) -> bool) -> bool {
    let value = at(record, path);
    !value.is_null() && kind(&value) == kind(with) && holds(compare(&value, with))
}

fn like(text: &[char], pattern: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['%', rest @ ..] => (0..=text.len()).any(|skipped| like(&text[skipped..], rest)),
        ['_', rest @ ..] => !text.is_empty() && like(&text[1..], rest),
        ['\\', wanted, rest @ ..] | [wanted, rest @ ..] => text.first() == Some(wanted) && like(&text[1..], rest),
    }
}

impl C {
    pub(crate) fn holds(&self, record: &Record) -> bool {
        let equals = |path: &str, value: &Value| compare(&at(record, path), value) == Ordering::Equal;
        match self {
            C::Eq(path, value) => equals(path, &value.value()),
            C::Ne(path, value) => !equals(path, &value.value()),
            C::Lt(path, value) => ordered(record, path, &value.value(), Ordering::is_lt),
            C::Le(path, value) => ordered(record, path, &value.value(), Ordering::is_le),
            C::Gt(path, value) => ordered(record, path, &value.value(), Ordering::is_gt),
            C::Ge(path, value) => ordered(record, path, &value.value(), Ordering::is_ge),
            C::In(path, values) => values.iter().any(|value| equals(path, &value.value())),
            C::NotIn(path, values) => !values.iter().any(|value| equals(path, &value.value())),
            C::Like(path, pattern) => match at(record, path) {
                Value::Text(text) => like(&text.chars().collect::<Vec<_>>(), &pattern.chars().collect::<Vec<_>>()),
                _ => false,
            },
            C::IsNull(path) => at(record, path).is_null(),
            C::And(all) => all.iter().all(|condition| condition.holds(record)),
            C::Or(any) => any.iter().any(|condition| condition.holds(record)),
            C::Not(condition) => !condition.holds(record),
        }
    }

    pub(crate) fn condition(&self) -> Condition {
        let values = |values: &[crate::ops::V]| values.iter().map(crate::ops::V::value).collect::<Vec<_>>();
        match self {
            C::Eq(path, value) => Condition::eq(*path, value.value()),
            C::Ne(path, value) => Condition::ne(*path, value.value()),
            C::Lt(path, value) => Condition::lt(*path, value.value()),
            C::Le(path, value) => Condition::le(*path, value.value()),
            C::Gt(path, value) => Condition::gt(*path, value.value()),
            C::Ge(path, value) => Condition::ge(*path, value.value()),
            C::In(path, list) => Condition::is_in(*path, values(list)),
            C::NotIn(path, list) => Condition::not_in(*path, values(list)),
            C::Like(path, pattern) => Condition::like(*path, *pattern),
            C::IsNull(path) => Condition::is_null(*path),
            C::And(all) => Condition::all(all.iter().map(C::condition)),
            C::Or(any) => Condition::any(any.iter().map(C::condition)),
            C::Not(condition) => Condition::not(condition.condition()),
        }
    }
}

fn folded(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).map(|character| if character == 'ς' { 'σ' } else { character }).collect()
}

fn found_in(value: &Value, text: &str) -> bool {
    match value {
        Value::Text(value) => folded(value).contains(&folded(text)),
        Value::Bool(value) => value.to_string().contains(&folded(text)),
        Value::Integer(value) => i128::from(*value).to_string().contains(&folded(text)),
        Value::Float(value) => value.to_string().to_lowercase().contains(&folded(text)),
        Value::Array(items) => items.iter().any(|item| found_in(item, text)),
        Value::Map(entries) => entries.iter().any(|(_, value)| found_in(value, text)),
        _ => false,
    }
}

impl Query {
    pub(crate) fn keeps(&self, record: &Record) -> bool {
        self.conditions.iter().all(|condition| condition.holds(record))
            && self.search.is_none_or(|text| record.iter().any(|(_, value)| found_in(value, text)))
    }

    fn order(&self, a: &Record, b: &Record) -> Ordering {
        let mut order = Ordering::Equal;
        for (path, descending) in &self.sort {
            let (a, b) = (at(a, path), at(b, path));
            order = order.then_with(|| match compare(&a, &b) {
                different if *descending && !a.is_null() && !b.is_null() => different.reverse(),
                different => different,
            });
        }
        order
    }

    /// The rows it asks for, in its order; ties keep theirs.
    pub(crate) fn of(&self, table: &Table) -> Vec<Plain> {
        let mut rows = table.list();
        rows.retain(|(_, record)| self.keeps(record));
        rows.sort_by(|(_, a), (_, b)| self.order(a, b));
        rows
    }

    pub(crate) fn sort_by(&self) -> Vec<SortBy> {
        let by = |(path, descending): &(&'static str, bool)| {
            SortBy::new(*path, if *descending { SortDir::Desc } else { SortDir::Asc })
        };
        self.sort.iter().map(by).collect()
    }

    pub(crate) fn descriptor(&self) -> QueryDescriptor {
        QueryDescriptor {
            conditions: self.conditions.iter().map(C::condition).collect(),
            search: self.search.map(str::to_owned),
            sort: self.sort_by(),
            window: None,
        }
    }
}

/// The sum of a column and how many rows have no number there: an integer when all are; else the float nearest to the exact
/// total.
pub(crate) fn sum(rows: &[Plain], path: &str) -> (Value, u64) {
    /// All finite numbers that the model makes are multiples of 2^-60 and less than 2^54.
    const UNIT: f64 = (1_u64 << 60) as f64;
    let (mut total, mut exact, mut skipped, mut only_integers, mut beyond) = (0_i128, 0_i128, 0, true, 0.0);
    for (_, record) in rows {
        match at(record, path) {
            Value::Integer(value) => {
                total += i128::from(value);
                exact += i128::from(value) << 60;
            }
            Value::Float(value) if value.is_finite() => {
                only_integers = false;
                // Both factors are powers of two or fit 53 bits: nothing is lost.
                exact += (value * UNIT) as i128;
            }
            Value::Float(value) => {
                only_integers = false;
                beyond += value;
            }
            _ => skipped += 1,
        }
    }
    let value = match () {
        () if only_integers => Value::from(i64::try_from(total).unwrap()),
        () if beyond != 0.0 => Value::Float(beyond),
        () => Value::Float(exact as f64 / UNIT),
    };
    (value, skipped)
}
