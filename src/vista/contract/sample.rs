//! Sample: the rows, values and queries that a source is tried with, made from the columns of its schema.
//!
//! Invariants: everything here is the same at every run; no randomness, no time.

use crate::value::{Record, Value};
use crate::vista::{Column, ColumnType, Condition, QueryDescriptor, Schema, SortBy, SortDir};

use super::Rows;

/// Ids of awkward text: each has been mangled by some source.
pub(super) fn awkward_ids() -> Vec<String> {
    let mut ids: Vec<String> = [
        "7",
        "007",
        "00501",
        "0E8",
        "0e8",
        "7.0",
        "-1",
        "1e400",
        "true",
        "null",
        "NULL",
        " 7",
        "7 ",
        "a b",
        "a,b",
        "a;b",
        "it's",
        "say \"hi\"",
        "%",
        "_",
        "a\\b",
        "a/b",
        "../a",
        "a?b=c&d",
        "#a",
        "Å",
        "A\u{30a}",
        "ß",
        "SS",
        "東京",
        "🦀",
        "'; DROP TABLE rows; --",
        "a\tb",
        "A",
        "a",
    ]
    .map(str::to_owned)
    .into();
    ids.push("long ".repeat(80));
    ids
}

/// The values that a column of this kind is tried with. None of them is null.
pub(super) fn values_of(kind: ColumnType) -> Vec<Value> {
    match kind {
        ColumnType::Bool => vec![true.into(), false.into()],
        ColumnType::Int => [7, -1, 0, 7, 10, 9, i64::MAX, i64::MIN, 9_007_199_254_740_993, 9_007_199_254_740_992]
            .map(Value::from)
            .into(),
        ColumnType::Float => [1.5, -2.25, 0.0, 1.5, 10.0, 9.0, 1e300, -1e300, 5e-324, 0.1, 9_007_199_254_740_992.0]
            .map(Value::from)
            .into(),
        ColumnType::Decimal => [(-2, 1990), (0, -7), (-1, 199), (2, 7), (-2, 1991)]
            .map(|(exponent, mantissa): (i64, i64)| {
                Value::Tag(4, Box::new(Value::Array(vec![exponent.into(), mantissa.into()])))
            })
            .into(),
        ColumnType::Text => [
            "b",
            "a",
            "A",
            "B",
            "ab",
            "",
            "Ärger",
            "ärger",
            "zebra",
            "Zebra",
            "10",
            "9",
            "007",
            "1.5",
            "true",
            " a",
            "a ",
            "it's",
            "say \"hi\"",
            "50%",
            "a_b",
            "a\\b",
            "a,b",
            "line\nbreak",
            "東京",
            "\u{ffee}",
            "🦀",
            "NULL",
            "Straße",
        ]
        .map(Value::from)
        .into(),
        ColumnType::Bytes => {
            [&[1_u8, 2][..], &[], &[0], &[255, 0], b"a"].map(|bytes| Value::Bytes(bytes.to_vec())).into()
        }
        ColumnType::DateTime => [
            "2026-01-02T03:04:05Z",
            "1969-12-31T23:59:59Z",
            "2026-01-02T04:04:05+01:00",
            "2026-01-02T03:04:05.5Z",
            "2000-02-29T00:00:00Z",
        ]
        .map(|text| Value::Tag(0, Box::new(text.into())))
        .into(),
        _ => {
            let nested = |city: &str| Value::Map(vec![("city".into(), city.into()), ("zip".into(), 7.into())]);
            let mut values: Vec<Value> = vec![nested("Riga"), Value::Array(vec![1.into(), "a".into()]), nested("Bern")];
            for kind in [ColumnType::Text, ColumnType::Int, ColumnType::Float, ColumnType::Bool, ColumnType::Bytes] {
                values.extend(values_of(kind).into_iter().take(3));
            }
            values
        }
    }
}

/// The columns without the id.
pub(super) fn columns(schema: &Schema) -> impl Iterator<Item = &Column> + Clone {
    let id = schema.id_column();
    schema.columns().iter().filter(move |column| Some(column.name()) != id)
}

/// An id as the id column has it: a number where the column is one.
pub(super) fn id_value(schema: &Schema, id: &str) -> Value {
    let kind = schema.id_column().and_then(|name| schema.column(name)).map(Column::kind);
    match (kind, id.parse::<i64>()) {
        (Some(ColumnType::Int), Ok(number)) => number.into(),
        _ => id.into(),
    }
}

/// The row of this number: each column has the value of its turn; now and then one is null.
pub(super) fn row(schema: &Schema, values: impl Fn(&Column) -> Vec<Value>, number: usize, id: &str) -> Record {
    let mut record = Record::new();
    if let Some(id_column) = schema.id_column() {
        record.insert(id_column, id_value(schema, id));
    }
    for (position, column) in columns(schema).enumerate() {
        let values = values(column);
        // Columns run through their values at different paces, so that ties in one are told apart by another.
        let turn = number * (position % 3 + 1) + position;
        let is_null = !column.is_mandatory() && turn % 9 == 4;
        let value = if is_null { None } else { values.get(turn % values.len().max(1)) };
        record.insert(column.name(), value.cloned());
    }
    record
}

/// Rows whose ids are in no order.
pub(super) fn rows(schema: &Schema, values: impl Fn(&Column) -> Vec<Value> + Copy, ids: &[String]) -> Rows {
    ids.iter().enumerate().map(|(number, id)| (id.clone(), row(schema, values, number, id))).collect()
}

/// What every column is compared with besides values of its own kind.
fn foreign_values(kind: ColumnType) -> Vec<Value> {
    let mut values =
        vec![Value::Null, Value::from(7), Value::from(7.0), Value::from(7.5), "7".into(), "a".into(), true.into()];
    match kind {
        ColumnType::Int | ColumnType::Float | ColumnType::Decimal => {
            values.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0].map(Value::from));
            values.extend([Value::from(i64::MAX), Value::from(i64::MIN), Value::from(u64::MAX)]);
            values.push(Value::Tag(4, Box::new(Value::Array(vec![Value::from(-1), Value::from(15)]))));
        }
        ColumnType::Bool => values.extend([Value::from(0), Value::from(1)]),
        ColumnType::Text => values.extend([Value::Bytes(b"a".to_vec()), Value::Tag(0, Box::new("a".into()))]),
        _ => {}
    }
    values
}

type Comparison = fn(&str, Value) -> Condition;

const COMPARISONS: [Comparison; 6] = [
    |path, value| Condition::eq(path, value),
    |path, value| Condition::ne(path, value),
    |path, value| Condition::lt(path, value),
    |path, value| Condition::le(path, value),
    |path, value| Condition::gt(path, value),
    |path, value| Condition::ge(path, value),
];

const PATTERNS: [&str; 18] = [
    "%", "", "a", "A", "a%", "%a", "%a%", "_", "__", "%\\_%", "%\\%%", "50\\%", "a\\\\b", "%Ä%", "ä%", "%\n%", "\\",
    "東_",
];

/// Every condition on one column.
fn conditions_on(path: &str, kind: ColumnType, own: &[Value]) -> Vec<Condition> {
    let mut values: Vec<Value> = Vec::new();
    for value in own.iter().cloned().chain(foreign_values(kind)) {
        if !values.iter().any(|known| super::report::same(known, &value)) {
            values.push(value);
        }
    }
    let mut conditions = Vec::new();
    for (position, value) in values.iter().enumerate() {
        for compare in COMPARISONS {
            conditions.push(compare(path, value.clone()));
        }
        let negated = COMPARISONS[position % COMPARISONS.len()];
        conditions.push(Condition::not(negated(path, value.clone())));
        let next = values.get(position + 1).unwrap_or(&Value::Null).clone();
        conditions.push(Condition::is_in(path, [value.clone(), next.clone()]));
        conditions.push(Condition::not_in(path, [value.clone(), next]));
    }
    conditions.push(Condition::is_in(path, [Value::Null; 0]));
    conditions.push(Condition::not_in(path, [Value::Null; 0]));
    conditions.push(Condition::is_null(path));
    conditions.push(Condition::not(Condition::is_null(path)));
    conditions.extend(PATTERNS.iter().map(|pattern| Condition::like(path, *pattern)));
    conditions.push(Condition::not(Condition::like(path, "%a%")));
    conditions
}

/// All the queries that a table of this schema is asked, single clauses before those put together. `own` gives the values
/// that a column is compared with, `rows` is how many rows there are; `collations`: whether sorts may disregard case.
pub(super) fn queries(
    schema: &Schema,
    own: impl Fn(&Column) -> Vec<Value>,
    rows: usize,
    collations: bool,
) -> Vec<QueryDescriptor> {
    let all = QueryDescriptor::new;
    let mut conditions = Vec::new();
    for column in schema.columns() {
        conditions.extend(conditions_on(column.name(), column.kind(), &own(column)));
        if column.kind() == ColumnType::Any {
            let inner = format!("{}.city", column.name());
            conditions.extend(conditions_on(&inner, ColumnType::Text, &["Riga".into(), "Bern".into()]));
        }
    }
    let mut queries: Vec<QueryDescriptor> =
        conditions.iter().map(|condition| all().filtered(condition.clone())).collect();

    let mut pick = Pick(0x9e37_79b9_7f4a_7c15);
    for _ in 0..40 {
        let mut one = || pick.from(&conditions).cloned().unwrap_or(Condition::And(Vec::new()));
        let (a, b, c) = (one(), one(), one());
        queries.push(all().filtered(a.clone()).filtered(Condition::not(b.clone())));
        let both = Condition::And(vec![b, c]);
        queries.push(all().filtered(Condition::Or(vec![a.clone(), both.clone()])));
        queries.push(all().filtered(Condition::not(Condition::Or(vec![a, Condition::not(both)]))));
    }
    queries.push(all().filtered(Condition::And(Vec::new())));
    queries.push(all().filtered(Condition::Or(Vec::new())));

    let texts = [
        "a", "A", "AR", "är", "ÄR", "7", "1.5", "0", "true", "TRUE", "50%", "%", "_", "it's", "\\", "東", "STRASSE",
        "no such", "",
    ];
    queries.extend(texts.map(|text| all().searching(text)));

    let orderable: Vec<&str> =
        schema.columns().iter().filter(|column| column.is_orderable()).map(Column::name).collect();
    let mut sorts: Vec<QueryDescriptor> = Vec::new();
    for (position, name) in orderable.iter().enumerate() {
        for dir in [SortDir::Asc, SortDir::Desc] {
            let other = orderable[(position + 1) % orderable.len()];
            let third = orderable[(position + 2) % orderable.len()];
            let opposite = if dir == SortDir::Asc { SortDir::Desc } else { SortDir::Asc };
            sorts.push(all().sorted(*name, dir));
            sorts.push(all().sorted(*name, dir).sorted(other, opposite));
            sorts.push(all().sorted(*name, dir).sorted(other, dir).sorted(third, opposite));
        }
    }
    if collations {
        for name in &orderable {
            for by in [SortBy::asc(*name), SortBy::desc(*name)] {
                sorts.push(all().sorted_with(by.case_insensitive()));
            }
        }
    }
    queries.extend(sorts.iter().cloned());

    let last = rows.saturating_sub(1);
    let windows = [
        (0, 0),
        (0, 1),
        (0, rows),
        (1, 2),
        (3, rows),
        (last, 5),
        (rows, 1),
        (rows + 5, 5),
        (0, usize::MAX),
        (2, usize::MAX),
        (usize::MAX, 1),
        (0, 5),
        (5, 5),
        (10, 5),
    ];
    queries.extend(windows.map(|(offset, limit)| all().windowed(offset, limit)));
    for _ in 0..80 {
        let mut query = all();
        if pick.below(3) > 0
            && let Some(condition) = pick.from(&conditions)
        {
            query = query.filtered(condition.clone());
        }
        if pick.below(3) == 0
            && let Some(text) = pick.from(&texts)
        {
            query = query.searching(*text);
        }
        if pick.below(3) > 0
            && let Some(sorted) = pick.from(&sorts)
        {
            query.sort.clone_from(&sorted.sort);
        }
        if pick.below(3) > 0
            && let Some((offset, limit)) = pick.from(&windows)
        {
            query = query.windowed(*offset, *limit);
        }
        queries.push(query);
    }
    queries
}

/// Picks that are the same at every run.
struct Pick(u64);

impl Pick {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    fn from<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let position = self.below(items.len());
        items.get(position)
    }
}
