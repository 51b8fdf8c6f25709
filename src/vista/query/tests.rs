use std::cmp::Ordering;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::record;
use crate::value::{TypeRank, ValueRef, compare, type_rank};
use crate::vista::{Column, ColumnType};

mod text;

fn decimal(exponent: i64, mantissa: i64) -> Value {
    Value::Tag(4, Box::new(Value::Array(vec![exponent.into(), mantissa.into()])))
}

fn datetime(text: &str) -> Value {
    Value::Tag(0, Box::new(text.into()))
}

fn holds(condition: &Condition, record: &Record) -> bool {
    let query = QueryDescriptor::new().filtered(condition.clone());
    Filter::new(&query, &Schema::open("id")).matches(StoredRow::encode("1", record, 0).fields())
}

#[test]
fn every_operator_follows_the_truth_table() {
    let null = || Value::Null;
    let absent = record! { "other" => 1 };
    let of = |value: Value| record! { "v" => value };
    let check = |condition: Condition, record: &Record, expected: bool| {
        assert_eq!(holds(&condition, record), expected, "{condition} on {record:?}");
        assert_eq!(holds(&Condition::not(condition.clone()), record), !expected, "not ({condition}) on {record:?}");
    };
    for row in [&absent, &of(null()), &of(Value::Tag(999, Box::new(null())))] {
        check(Condition::is_null("v"), row, true);
        check(Condition::eq("v", null()), row, true);
        check(Condition::ne("v", null()), row, false);
        check(Condition::is_in("v", [null(), 1.into()]), row, true);
        check(Condition::not_in("v", [null(), 1.into()]), row, false);
        for literal in [Value::from(1), "x".into(), true.into(), null()] {
            check(Condition::eq("v", literal.clone()), row, literal.is_null());
            check(Condition::ne("v", literal.clone()), row, !literal.is_null());
            check(Condition::lt("v", literal.clone()), row, false);
            check(Condition::le("v", literal.clone()), row, false);
            check(Condition::gt("v", literal.clone()), row, false);
            check(Condition::ge("v", literal.clone()), row, false);
        }
        check(Condition::is_in("v", [1, 2]), row, false);
        check(Condition::not_in("v", [1, 2]), row, true);
        check(Condition::like("v", "%"), row, false);
    }

    let one_per_type = [
        true.into(),
        Value::from(1),
        "1".into(),
        Value::Bytes(b"1".to_vec()),
        datetime("2026-01-01T00:00:00Z"),
        Value::Array(vec![1.into()]),
        Value::Map(vec![("a".into(), 1.into())]),
    ];
    for (left_position, left) in one_per_type.iter().enumerate() {
        let row = of(left.clone());
        check(Condition::is_null("v"), &row, false);
        check(Condition::eq("v", null()), &row, false);
        check(Condition::ne("v", null()), &row, true);
        check(Condition::lt("v", null()), &row, false);
        check(Condition::is_in("v", [null()]), &row, false);
        check(Condition::not_in("v", Vec::<Value>::new()), &row, true);
        check(Condition::is_in("v", Vec::<Value>::new()), &row, false);
        check(Condition::like("v", "_"), &row, *left == Value::from("1"));
        for (right_position, right) in one_per_type.iter().enumerate() {
            let same = left_position == right_position;
            check(Condition::eq("v", right.clone()), &row, same);
            check(Condition::ne("v", right.clone()), &row, !same);
            check(Condition::lt("v", right.clone()), &row, false);
            check(Condition::le("v", right.clone()), &row, same);
            check(Condition::gt("v", right.clone()), &row, false);
            check(Condition::ge("v", right.clone()), &row, same);
            check(Condition::is_in("v", [right.clone()]), &row, same);
            check(Condition::not_in("v", [right.clone()]), &row, !same);
        }
    }

    let one_and_a_half = of(1.5.into());
    for equal in [Value::from(1.5), decimal(-1, 15)] {
        check(Condition::eq("v", equal.clone()), &one_and_a_half, true);
        check(Condition::ge("v", equal.clone()), &one_and_a_half, true);
        check(Condition::gt("v", equal), &one_and_a_half, false);
    }
    check(Condition::lt("v", 2), &one_and_a_half, true);
    check(Condition::gt("v", 1), &one_and_a_half, true);
    let large = of(Value::from(9_007_199_254_740_993_i64));
    check(Condition::eq("v", 9_007_199_254_740_992.0), &large, false);
    check(Condition::gt("v", 9_007_199_254_740_992.0), &large, true);
    let noon = of(datetime("2026-01-01T12:00:00Z"));
    check(Condition::eq("v", datetime("2026-01-01T13:00:00+01:00")), &noon, true);
    check(Condition::lt("v", datetime("2026-01-01T12:00:00.5Z")), &noon, true);
    check(Condition::gt("v", "2025"), &noon, false);
    check(Condition::like("v", "2026%"), &noon, false);

    let row = of("Straße".into());
    check(Condition::like("v", "Stra_e"), &row, true);
    check(Condition::like("v", "stra%"), &row, false);
    check(Condition::all([]), &row, true);
    check(Condition::any([]), &row, false);
    check(Condition::all([Condition::is_null("v"), Condition::eq("v", "Straße")]), &row, false);
    check(Condition::any([Condition::is_null("v"), Condition::eq("v", "Straße")]), &row, true);
}

#[test]
fn a_path_reaches_into_maps_and_a_column_of_that_very_name_wins() {
    let address = Value::Map(vec![("city".into(), "Riga".into())]);
    let nested = record! { "address" => address.clone() };
    assert!(holds(&Condition::eq("address.city", "Riga"), &nested));
    let both = record! { "address" => address, "address.city" => "Tartu" };
    assert!(holds(&Condition::eq("address.city", "Tartu"), &both));
}

#[test]
fn a_search_looks_into_searchable_columns_and_never_into_hidden_ones() {
    let record = record! { "name" => "Riga", "code" => "RIX", "secret" => "pw" };
    let finds = |schema: &Schema, text: &str| {
        let filter = Filter::new(&QueryDescriptor::new().searching(text), schema);
        filter.matches(StoredRow::encode("1", &record, 0).fields())
    };
    let text = |name: &str| Column::new(name, ColumnType::Text);
    let open = Schema::open("id");
    assert!(finds(&open, "rix") && finds(&open, "PW") && finds(&open, "") && !finds(&open, "oslo"));
    let unflagged = Schema::new("id").with(text("name")).with(text("code")).with(text("secret").hidden());
    assert!(finds(&unflagged, "rix") && finds(&unflagged, "riga") && !finds(&unflagged, "pw"));
    let flagged =
        Schema::new("id").with(text("name").searchable()).with(text("code")).with(text("secret").searchable().hidden());
    assert!(finds(&flagged, "riga") && !finds(&flagged, "rix") && !finds(&flagged, "pw"));
}

#[test]
fn an_unknown_or_unorderable_column_is_an_error_that_names_the_clause() {
    let schema = Schema::new("id")
        .with(Column::new("name", ColumnType::Text))
        .with(Column::new("photo", ColumnType::Bytes).not_orderable());
    let check = |query: QueryDescriptor, kind: ErrorKind, column: &str, clause: &str| {
        let error = query.check(&schema).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!((error.context("column"), error.context("clause")), (Some(column), Some(clause)));
    };
    let any = Condition::any([Condition::eq("name", "a"), Condition::gt("prise", 1)]);
    check(QueryDescriptor::new().filtered(any), ErrorKind::NotFound, "prise", "prise > 1");
    check(QueryDescriptor::new().sorted("nam", SortDir::Desc), ErrorKind::NotFound, "nam", "order by nam desc");
    check(QueryDescriptor::new().sorted("photo", SortDir::Asc), ErrorKind::Unsupported, "photo", "order by photo");
    let fine = QueryDescriptor::new().filtered(Condition::eq("name.x", 1)).sorted("name", SortDir::Asc);
    assert!(fine.check(&schema).is_ok());
    assert!(QueryDescriptor::new().sorted("anything", SortDir::Asc).check(&Schema::open("id")).is_ok());
}

#[test]
fn conditions_read_well() {
    let check = |condition: Condition, expected: &str| assert_eq!(condition.to_string(), expected);
    let usa = || Condition::eq("country", "USA");
    let low = || Condition::lt("elevation", 10);
    check(Condition::all([usa(), Condition::not(low())]), r#"country = "USA" and not (elevation < 10)"#);
    check(
        Condition::any([Condition::all([usa(), low()]), low()]),
        r#"(country = "USA" and elevation < 10) or elevation < 10"#,
    );
    check(Condition::all([Condition::any([usa()])]), r#"country = "USA""#);
    check(Condition::not_in("a b", ["x", "y\"\\\n"]), r#"`a b` not in ("x", "y\"\\\u{a}")"#);
    check(Condition::like("name", "A%"), r#"name like "A%""#);
    check(Condition::is_null("not"), "`not` is null");
    check(Condition::all([]), "true");
    check(Condition::any([]), "false");
    check(Condition::ne("v", Value::Bytes(vec![1, 255])), "v != h'01ff'");
    check(Condition::ge("v", decimal(-2, 5)), r#"v >= decimal("0.05")"#);
    assert_eq!(Condition::all([usa(), low(), usa()]).paths(), [&Arc::from("country"), &Arc::from("elevation")]);
}

#[test]
fn the_canonical_text_ignores_the_order_of_conditions_and_repetitions() {
    let query = |conditions: Vec<Condition>| QueryDescriptor { conditions, ..QueryDescriptor::default() };
    let (a, b, c) = (Condition::eq("a", 1), Condition::is_in("b", ["x", "y"]), Condition::is_null("c"));
    let first = query(vec![a.clone(), b.clone(), Condition::any([a.clone(), c.clone()])]);
    let b_again = Condition::is_in("b", ["y", "x", "y"]);
    let second = query(vec![Condition::all([Condition::any([c, a.clone()]), b_again]), a.clone(), a.clone()]);
    assert_eq!(first.canonical(), second.canonical());
    assert_eq!(first.canonical(), r#"where (a = 1 or c is null) and a = 1 and b in ("x", "y")"#);
    assert_eq!(QueryDescriptor::default().canonical(), "");
    assert_eq!(QueryDescriptor::new().searching("").canonical(), "");
    assert!(QueryDescriptor::new().searching("").is_empty());
    let whole = query(vec![a]).searching("Ü\"").sorted("n", SortDir::Desc).sorted("m", SortDir::Asc).windowed(5, 10);
    assert_eq!(whole.canonical(), r#"where a = 1 search "ü\"" order by n desc, m limit 10 offset 5"#);
    assert_eq!(whole.without_window().window, None);
}

#[test]
fn look_alikes_have_different_canonical_texts() {
    let map = |key: &str| Value::Map(vec![(key.into(), 1.into())]);
    let look_alikes = [
        Condition::eq("a", 1),
        Condition::eq("a", 1.0),
        Condition::eq("a", "1"),
        Condition::eq("a", "\"1\""),
        Condition::eq("a", "1\" and b = \"2"),
        Condition::all([Condition::eq("a", "1"), Condition::eq("b", "2")]),
        Condition::any([Condition::eq("a", "1"), Condition::eq("b", "2")]),
        Condition::eq("a = 1", 1),
        Condition::eq("a", Value::Null),
        Condition::eq("a", "null"),
        Condition::is_null("a"),
        Condition::eq("a", true),
        Condition::eq("a", "true"),
        Condition::eq("a", Value::Bytes(b"1".to_vec())),
        Condition::eq("a", 0.0),
        Condition::eq("a", -0.0),
        Condition::eq("a", "\n"),
        Condition::eq("a", "\\n"),
        Condition::eq("a", "\\u{a}"),
        Condition::eq("a", Value::Array(vec!["x".into(), "y".into()])),
        Condition::eq("a", Value::Array(vec!["x, y".into()])),
        Condition::eq("a", map("k")),
        Condition::eq("a", map("k: 1, l")),
        Condition::eq("a", datetime("2026")),
        Condition::is_in("a", ["x", "y"]),
        Condition::is_in("a", ["x\", \"y"]),
        Condition::not_in("a", ["x", "y"]),
        Condition::like("a", "1"),
        Condition::eq("`a`", 1),
        Condition::eq("a.b", 1),
        Condition::eq("", 1),
        Condition::not(Condition::eq("a", 1)),
        Condition::ne("a", 1),
    ];
    let texts: Vec<String> =
        look_alikes.iter().map(|one| QueryDescriptor::new().filtered(one.clone()).canonical()).collect();
    for (position, text) in texts.iter().enumerate() {
        let first = texts.iter().position(|other| other == text);
        assert_eq!(first, Some(position), "{text}");
    }
    let search = QueryDescriptor::new().searching("x\" order by \"y");
    let sorted = QueryDescriptor::new().searching("x").sorted("y", SortDir::Asc);
    assert_ne!(search.canonical(), sorted.canonical());
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..4_i64).prop_map(Value::from),
        prop_oneof![Just(0.0), Just(-0.0), Just(1.0), Just(1.5), Just(f64::NAN), Just(f64::INFINITY), any::<f64>()]
            .prop_map(Value::from),
        (-2..2_i64, -20..20_i64).prop_map(|(exponent, mantissa)| decimal(exponent, mantissa)),
        "[ab1\"\\\\ÄäΣ, ]{0,3}".prop_map(Value::from),
        "[ab]{0,2}".prop_map(|text| Value::Bytes(text.into_bytes())),
        prop_oneof![Just("2026-01-01T00:00:00Z"), Just("2026-01-01T01:00:00+01:00"), Just("2026-01-02T00:00:00Z")]
            .prop_map(datetime),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|entries: BTreeMap<String, Value>| {
                Value::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
            }),
        ]
    })
}

fn any_path() -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(vec!["a", "b", "c", "m.a", "m"]).prop_map(Arc::from)
}

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    prop::collection::vec((prop::sample::select(vec!["a", "b", "c", "m", "m.a"]), any_value()), 0..5)
        .prop_map(|fields| fields.into_iter().collect())
}

pub(crate) fn any_rows() -> impl Strategy<Value = Vec<(String, Record)>> {
    prop::collection::vec(any_record(), 0..12).prop_map(|records| {
        records.into_iter().enumerate().map(|(number, record)| (format!("r{number}"), record)).collect()
    })
}

pub(crate) fn any_condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        (0..6_usize, any_path(), any_value()).prop_map(|(operator, path, value)| match operator {
            0 => Condition::Eq(path, value),
            1 => Condition::Ne(path, value),
            2 => Condition::Lt(path, value),
            3 => Condition::Le(path, value),
            4 => Condition::Gt(path, value),
            _ => Condition::Ge(path, value),
        }),
        (any_path(), prop::collection::vec(any_value(), 0..4)).prop_map(|(path, values)| Condition::In(path, values)),
        (any_path(), prop::collection::vec(any_value(), 0..4))
            .prop_map(|(path, values)| Condition::NotIn(path, values)),
        (any_path(), "[ab1%_]{0,3}").prop_map(|(path, pattern)| Condition::Like(path, pattern)),
        any_path().prop_map(Condition::IsNull),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::Or),
            inner.prop_map(Condition::not),
        ]
    })
}

pub(crate) fn any_query() -> impl Strategy<Value = QueryDescriptor> {
    let direction = prop_oneof![Just(SortDir::Asc), Just(SortDir::Desc)];
    (
        prop::collection::vec(any_condition(), 0..3),
        prop::option::weighted(0.2, "[a1Äσ.]{0,1}"),
        prop::collection::vec(
            (any_path(), direction, any::<bool>()).prop_map(|(path, dir, nocase)| {
                let by = SortBy::new(path, dir);
                if nocase { by.case_insensitive() } else { by }
            }),
            0..3,
        ),
        prop::option::weighted(0.4, (0..6_usize, 0..6_usize).prop_map(|(offset, limit)| Window { offset, limit })),
    )
        .prop_map(|(conditions, search, sort, window)| QueryDescriptor { conditions, search, sort, window })
}

/// The truth table once more, as plainly as it can be said, over whole records.
fn plainly(condition: &Condition, record: &Record) -> bool {
    let at = |path: &str| record.get_path(path).cloned().unwrap_or(Value::Null);
    let rank = |value: &Value| type_rank(ValueRef::from(value));
    let equal = |left: &Value, right: &Value| rank(left) == rank(right) && compare(left, right) == Ordering::Equal;
    let ordered = |path: &str, right: &Value, wanted: &[Ordering]| {
        let left = at(path);
        rank(&left) != TypeRank::Null && rank(&left) == rank(right) && wanted.contains(&compare(&left, right))
    };
    match condition {
        Condition::Eq(path, value) => equal(&at(path), value),
        Condition::Ne(path, value) => !equal(&at(path), value),
        Condition::Lt(path, value) => ordered(path, value, &[Ordering::Less]),
        Condition::Le(path, value) => ordered(path, value, &[Ordering::Less, Ordering::Equal]),
        Condition::Gt(path, value) => ordered(path, value, &[Ordering::Greater]),
        Condition::Ge(path, value) => ordered(path, value, &[Ordering::Greater, Ordering::Equal]),
        Condition::In(path, values) => values.iter().any(|value| equal(&at(path), value)),
        Condition::NotIn(path, values) => !values.iter().any(|value| equal(&at(path), value)),
        Condition::Like(path, pattern) => match at(path) {
            Value::Text(text) => like::LikePattern::new(pattern).matches(&text),
            _ => false,
        },
        Condition::IsNull(path) => rank(&at(path)) == TypeRank::Null,
        Condition::And(children) => children.iter().all(|child| plainly(child, record)),
        Condition::Or(children) => children.iter().any(|child| plainly(child, record)),
        Condition::Not(child) => !plainly(child, record),
    }
}

fn plain_text(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => i128::from(*value).to_string(),
        Value::Float(value) => value.to_string(),
        Value::Tag(4, _) => {
            // Exponents are between -2 and 1 here.
            let Value::Tag(_, parts) = value else { return String::new() };
            let Value::Array(parts) = &**parts else { return String::new() };
            let part = |at: usize| parts[at].as_integer().map(i128::from).unwrap();
            match part(0) {
                0 => part(1).to_string(),
                exponent if exponent > 0 => (part(1) * 10_i128.pow(exponent as u32)).to_string(),
                exponent => {
                    format!("{:.*}", exponent.unsigned_abs() as usize, part(1) as f64 / 10_f64.powi(-exponent as i32))
                }
            }
        }
        Value::Tag(_, inner) => plain_text(inner),
        Value::Array(items) => items.iter().map(plain_text).collect::<Vec<_>>().join("\u{0}"),
        Value::Map(entries) => entries.iter().map(|(_, value)| plain_text(value)).collect::<Vec<_>>().join("\u{0}"),
        _ => String::new(),
    }
}

/// Filter, then search, then sort column by column, then cut: the definition of a query.
pub(crate) fn plain_answer(query: &QueryDescriptor, rows: &[(String, Record)]) -> Vec<(String, Record)> {
    let mut rows: Vec<(String, Record)> = rows.to_vec();
    rows.retain(|(_, record)| query.conditions.iter().all(|condition| plainly(condition, record)));
    if let Some(text) = &query.search {
        let lower = |text: &str| text.to_lowercase().to_uppercase().to_lowercase().replace('ς', "σ");
        rows.retain(|(_, record)| {
            record.iter().any(|(_, value)| lower(&plain_text(value)).contains(&lower(text))) || text.is_empty()
        });
    }
    rows.sort_by(|(_, left), (_, right)| {
        query.sort.iter().fold(Ordering::Equal, |so_far, by| {
            let (left, right) = (left.get_path(&by.path), right.get_path(&by.path));
            let is_null =
                |value: Option<&Value>| value.is_none_or(|value| type_rank(ValueRef::from(value)) == TypeRank::Null);
            so_far.then_with(|| match (is_null(left), is_null(right)) {
                (false, false) => {
                    let (left, right) = (left.unwrap_or(&Value::Null), right.unwrap_or(&Value::Null));
                    let lower = |text: &str| text.to_lowercase().to_uppercase().to_lowercase().replace('ς', "σ");
                    let order = match (by.collation, left, right) {
                        (Collation::CaseInsensitive, Value::Text(left), Value::Text(right)) => {
                            lower(left).cmp(&lower(right)).then_with(|| left.cmp(right))
                        }
                        _ => compare(left, right),
                    };
                    if by.dir == SortDir::Desc { order.reverse() } else { order }
                }
                (left, right) => left.cmp(&right),
            })
        })
    });
    match query.window {
        Some(window) => rows.into_iter().skip(window.offset).take(window.limit).collect(),
        None => rows,
    }
}

/// The same value in every bit: what a canonical text must tell apart.
fn same_bits(left: &Condition, right: &Condition) -> bool {
    // NaN differs from itself in `==`, so compare Debug texts, which ciborium's values derive field by field.
    format!("{left:?}") == format!("{right:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_compiled_filter_agrees_with_the_plain_truth_table(condition in any_condition(), record in any_record()) {
        prop_assert_eq!(holds(&condition, &record), plainly(&condition, &record), "{}", condition);
    }

    #[test]
    fn apply_agrees_with_the_plain_definition(query in any_query(), rows in any_rows()) {
        let expected = plain_answer(&query, &rows);
        prop_assert_eq!(query.apply(rows, &Schema::open("id")), expected, "{}", query.canonical());
    }

    #[test]
    fn canonical_texts_of_different_values_differ(left in any_value(), right in any_value()) {
        let text = |value: &Value| QueryDescriptor::new().filtered(Condition::eq("a", value.clone())).canonical();
        let same = same_bits(&Condition::eq("a", left.clone()), &Condition::eq("a", right.clone()));
        prop_assert_eq!(text(&left) == text(&right), same);
    }

    #[test]
    fn queries_of_one_canonical_text_have_one_answer(
        left in any_query(),
        right in any_query(),
        rows in any_rows(),
        turn in any::<bool>(),
    ) {
        let mut turned = left.clone();
        turned.conditions.reverse();
        prop_assert_eq!(left.canonical(), turned.canonical());
        let other = if turn { turned } else { right };
        if left.canonical() == other.canonical() {
            prop_assert_eq!(plain_answer(&left, &rows), plain_answer(&other, &rows));
        }
    }
}

#[test]
fn a_sort_that_disregards_case_orders_as_a_search_folds() {
    let texts = ["b", "A", "a", "Straße", "STRASSE", "strasse", "Z", "ÄRGER", "ärger", "B", "aa", ""];
    let mut rows: Vec<(String, Record)> =
        texts.iter().enumerate().map(|(at, text)| (at.to_string(), record! { "t" => *text })).collect();
    let others = [Value::from(5), Value::Null, Value::Bool(true), Value::Array(vec![Value::from("a")])];
    rows.extend(others.into_iter().enumerate().map(|(at, value)| (format!("o{at}"), record! { "t" => value })));
    rows.push(("late".to_owned(), record! { "t" => "a" }));
    let by = |by: SortBy| {
        let query = QueryDescriptor::new().sorted_with(by.case_insensitive());
        let sorted = query.apply(rows.clone(), &Schema::open("id"));
        sorted.into_iter().map(|(id, record)| record.text("t").map_or(id, str::to_owned)).collect::<Vec<_>>()
    };
    let up = [
        "o2", "o0", "", "A", "a", "a", "aa", "B", "b", "STRASSE", "Straße", "strasse", "Z", "ÄRGER", "ärger", "o3",
        "o1",
    ];
    assert_eq!(by(SortBy::asc("t")), up);
    let mut down: Vec<&str> = up[..16].iter().rev().copied().collect();
    down.push("o1");
    assert_eq!(by(SortBy::desc("t")), down, "null stays last");
    let ids = |by: SortBy| {
        let query = QueryDescriptor::new().sorted_with(by.case_insensitive());
        query.apply(rows.clone(), &Schema::open("id")).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    let arrival = |ids: Vec<String>| ids.into_iter().filter(|id| id == "2" || id == "late").collect::<Vec<_>>();
    assert_eq!(arrival(ids(SortBy::asc("t"))), ["2", "late"], "equal texts keep their order");
    assert_eq!(arrival(ids(SortBy::desc("t"))), ["2", "late"]);
}

#[test]
fn a_collation_is_part_of_the_text() {
    let query = QueryDescriptor::parse("order by name NOCASE desc, nocase, `x y` nocase asc").unwrap();
    let expected =
        [SortBy::desc("name").case_insensitive(), SortBy::asc("nocase"), SortBy::asc("x y").case_insensitive()];
    assert_eq!(query.sort, expected);
    assert_eq!(query.canonical(), "order by name nocase desc, nocase, `x y` nocase");
    assert_ne!(query.canonical(), QueryDescriptor::parse("order by name desc, nocase, `x y`").unwrap().canonical());
}
