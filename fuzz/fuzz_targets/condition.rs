//! Conditions and queries as text: any text is survived; what is read is written and read back as the same, and means the
//! same for rows of every kind of value.

#![no_main]

use std::sync::LazyLock;

use diorama::value::{StoredRow, Value};
use diorama::vista::{Filter, Schema};
use diorama::{Condition, QueryDescriptor, record};
use libfuzzer_sys::fuzz_target;

/// Rows with something of each kind behind the paths that a fuzzer tries first.
static ROWS: LazyLock<Vec<StoredRow>> = LazyLock::new(|| {
    let map = |name: &str, value: Value| Value::Map(vec![(name.into(), value)]);
    let tag = |tag: u64, value: Value| Value::Tag(tag, Box::new(value));
    let rows = [
        record! {},
        record! { "a" => 1, "b" => "text", "c" => 2.5, "d" => true },
        record! { "a" => (), "b" => vec![1_u8, 255], "c" => f64::NAN, "d" => Value::Array(vec![1.into(), Value::Null]) },
        record! { "a" => map("b", 3.into()), "a.b" => -0.0, "b" => map("c", map("d", "x".into())), "c" => "", "d" => "%_\\" },
        record! { "a" => tag(0, "2026-01-01T00:00:00Z".into()), "b" => tag(2, Value::Bytes(vec![255; 20])),
        "c" => tag(4, Value::Array(vec![(-2).into(), 1990.into()])), "d" => tag(99, "tagged".into()) },
    ];
    rows.iter().map(|row| StoredRow::encode("id", row, 0)).collect()
});

fuzz_target!(|text: &str| {
    if let Ok(condition) = Condition::parse(text) {
        check_condition(&condition);
    }
    if let Ok(query) = QueryDescriptor::parse(text) {
        check_query(&query);
    }
});

fn check_condition(condition: &Condition) {
    let written = condition.to_string();
    let back = read(&written);
    // All bits of a float show in its Debug text, but for NaN, which is one here.
    assert_eq!(format!("{back:?}"), format!("{condition:?}"), "by {written}");
    let canonical = condition.canonical();
    let normal = read(&canonical);
    assert_eq!(normal.canonical(), canonical);
    condition.paths();

    let answers = answers(&query_of(condition));
    assert_eq!(self::answers(&query_of(&back)), answers, "{written}");
    assert_eq!(self::answers(&query_of(&normal)), answers, "{written} and {canonical}");
    let not: Vec<bool> = self::answers(&query_of(&!condition.clone())).iter().map(|answer| !answer).collect();
    assert_eq!(not, answers, "{written} and its negation");
}

fn read(text: &str) -> Condition {
    Condition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn query_of(condition: &Condition) -> QueryDescriptor {
    QueryDescriptor::new().filtered(condition.clone())
}

fn check_query(query: &QueryDescriptor) {
    let canonical = query.canonical();
    let back = QueryDescriptor::parse(&canonical).unwrap_or_else(|error| panic!("{canonical}: {error}"));
    assert_eq!(back.canonical(), canonical);
    assert_eq!((&back.window, &back.sort), (&query.window, &query.sort), "{canonical}");
    assert_eq!(answers(&back), answers(query), "{canonical}");
}

fn answers(query: &QueryDescriptor) -> Vec<bool> {
    let filter = Filter::new(query, &Schema::open("id"));
    ROWS.iter().map(|row| filter.matches(row.fields())).collect()
}
