//! The plain meaning of queries: conditions, search, order and sums over rows in a list.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use diorama::value::compare;
use diorama::vista::SortBy;
use diorama::{Condition, QueryDescriptor, Record, SortDir, Value};

use crate::ops::{C, Cut, Query};

/// A row of the model: its id and its fields.
pub(crate) type Plain = (String, Record);

/// A table in the order of arrival.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    rows: BTreeMap<u64, Plain>,
    next: u64,
    /// Places that are kept for rows, be they there or not.
    kept: BTreeMap<String, u64>,
}

impl Table {
    pub(crate) fn place(&self, id: &str) -> Option<u64> {
        let kept = self.kept.get(id).copied();
        kept.or_else(|| self.rows.iter().find(|(_, (row, _))| row == id).map(|(place, _)| *place))
    }

    /// The row at a place.
    pub(crate) fn at(&self, place: u64) -> Option<&Plain> {
        self.rows.get(&place)
    }

    /// The row's place stays its own whatever becomes of the row; one that isn't there gets the next.
    pub(crate) fn keep_place(&mut self, id: &str) {
        let place = self.place(id).unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.kept.insert(id.to_owned(), place);
    }

    pub(crate) fn drop_place(&mut self, id: &str) {
        self.kept.remove(id);
    }

    /// The place is another row's from now on.
    pub(crate) fn move_place(&mut self, from: &str, to: &str) {
        if let Some(place) = self.kept.remove(from) {
            self.kept.insert(to.to_owned(), place);
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Record> {
        self.rows.get(&self.place(id)?).map(|(_, record)| record)
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

/// As [`folded`], with the one letter among the model's texts that folds into two.
fn folded_fully(text: &str) -> String {
    folded(text).replace('ß', "ss")
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
        for (path, descending, nocase) in &self.sort {
            let (a, b) = (at(a, path), at(b, path));
            let compared = match (&a, &b) {
                (Value::Text(a), Value::Text(b)) if *nocase => {
                    folded_fully(a).cmp(&folded_fully(b)).then_with(|| a.cmp(b))
                }
                _ => compare(&a, &b),
            };
            order = order.then_with(|| match compared {
                different if *descending && !a.is_null() && !b.is_null() => different.reverse(),
                different => different,
            });
        }
        order
    }

    /// The rows that a table view of it shows.
    pub(crate) fn shown_of(&self, table: &Table) -> Vec<Plain> {
        let mut rows = self.of(table);
        match self.cut {
            Cut::Nothing => {}
            Cut::First(count) => rows.truncate(count),
            Cut::Last(count) => drop(rows.drain(..rows.len().saturating_sub(count))),
        }
        rows
    }

    /// The rows it asks for, in its order; ties keep theirs.
    pub(crate) fn of(&self, table: &Table) -> Vec<Plain> {
        let mut rows = table.list();
        rows.retain(|(_, record)| self.keeps(record));
        rows.sort_by(|(_, a), (_, b)| self.order(a, b));
        rows
    }

    pub(crate) fn sort_by(&self) -> Vec<SortBy> {
        let by = |(path, descending, nocase): &crate::ops::By| {
            let by = SortBy::new(*path, if *descending { SortDir::Desc } else { SortDir::Asc });
            if *nocase { by.case_insensitive() } else { by }
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

/// All finite numbers that the model makes are multiples of 2^-60 and less than 2^54.
const UNIT: f64 = (1_u64 << 60) as f64;

/// What a column's numbers add up to.
#[derive(Default)]
pub(crate) struct Total {
    integers: i128,
    /// Integers and finite floats, in units of 2^-60.
    exact: i128,
    /// What NaNs and infinities add up to; 0 without any.
    beyond: f64,
    numbers: u64,
    floats: u64,
    skipped: u64,
    nans: u64,
    infinities: u64,
}

pub(crate) fn total(rows: &[Plain], path: &str) -> Total {
    let mut total = Total::default();
    for (_, record) in rows {
        match at(record, path) {
            Value::Integer(value) => {
                total.integers += i128::from(value);
                total.exact += i128::from(value) << 60;
                total.numbers += 1;
            }
            Value::Float(value) => {
                if value.is_finite() {
                    // Both factors are powers of two or fit 53 bits: nothing is lost.
                    total.exact += (value * UNIT) as i128;
                } else {
                    total.beyond += value;
                }
                total.nans += u64::from(value.is_nan());
                total.infinities += u64::from(value.is_infinite());
                total.floats += 1;
                total.numbers += 1;
            }
            _ => total.skipped += 1,
        }
    }
    total
}

impl Total {
    /// An integer when all are; else the float nearest to the exact total.
    pub(crate) fn sum(&self) -> Value {
        match () {
            () if self.floats == 0 => Value::from(i64::try_from(self.integers).unwrap()),
            () if self.beyond != 0.0 => Value::Float(self.beyond),
            () => Value::Float(self.exact as f64 / UNIT),
        }
    }

    /// The float nearest to the exact mean.
    pub(crate) fn mean(&self) -> Value {
        match () {
            () if self.numbers == 0 => Value::Null,
            () if self.beyond != 0.0 => Value::Float(self.beyond),
            () if self.exact == 0 => Value::Float(0.0),
            () => {
                // As many bits as there are, so that one more for what is left over decides every tie.
                let room = self.exact.unsigned_abs().leading_zeros();
                let scaled = self.exact.unsigned_abs() << room;
                let divisor = u128::from(self.numbers);
                let quotient = (scaled / divisor) | u128::from(!scaled.is_multiple_of(divisor));
                let nearest = quotient as f64 / 2_f64.powi(room as i32) / UNIT;
                Value::Float(if self.exact < 0 { -nearest } else { nearest })
            }
        }
    }

    /// Rows without a number, NaNs, infinities.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [self.skipped, self.nans, self.infinities]
    }
}

/// How many rows have no value in a column.
pub(crate) fn nulls(rows: &[Plain], path: &str) -> u64 {
    rows.iter().filter(|(_, record)| at(record, path).is_null()).count() as u64
}

/// The value of a column than which no other is `better`; of equal ones the one that was found, if it is one of them.
pub(crate) fn extreme(rows: &[Plain], path: &str, found: &Value, better: Ordering) -> Value {
    let values: Vec<Value> = rows.iter().map(|(_, record)| at(record, path)).filter(|value| !value.is_null()).collect();
    let is_best = |value: &&Value| !values.iter().any(|other| compare(other, value) == better);
    let same = |value: &&Value| format!("{value:?}") == format!("{found:?}");
    let best = values.iter().filter(is_best);
    best.clone().find(same).or(best.clone().next()).cloned().unwrap_or(Value::Null)
}

/// How many values of a column differ in the order.
pub(crate) fn distinct(rows: &[Plain], path: &str) -> u64 {
    let mut values: Vec<Value> = Vec::new();
    for (_, record) in rows {
        let value = at(record, path);
        if !value.is_null() && !values.iter().any(|other| compare(other, &value) == Ordering::Equal) {
            values.push(value);
        }
    }
    values.len() as u64
}
