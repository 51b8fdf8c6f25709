//! Search: the same text finds the same rows in every source and every view, whatever its case.
//!
//! The rows are those of a source in memory, of a CSV file where a file can hold them, of live views and of a Dio's facade.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use diorama::prelude::*;
use diorama::vista::{Column, ColumnType, QueryDescriptor, Schema, Window};
use proptest::prelude::*;

const SOON: Duration = Duration::from_secs(30);

type Rows = Vec<(String, Record)>;

/// Letters of several forms, and some that look like them.
const LETTERS: [&str; 36] = [
    "a", "A", "b", "ä", "Ä", "a\u{308}", "ß", "ẞ", "s", "S", "ſ", "ss", "i", "I", "İ", "ı", "\u{307}", "Σ", "σ", "ς",
    "ﬁ", "f", "F", "ﬀ", "µ", "Μ", "K", "k", "Ǆ", "ǆ", "é", "É", " ", ",", "\"", "Ꭰ",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(LETTERS.to_vec()), 0..5).prop_map(|letters| letters.concat())
}

/// What a CSV file can hold, too.
fn flat_value(kind: usize) -> BoxedStrategy<Value> {
    match kind % 4 {
        0 => text().prop_map(Value::from).boxed(),
        1 => prop_oneof![-12..12_i64, any::<i64>()].prop_map(Value::from).boxed(),
        2 => prop::sample::select(vec![1e3, 1e-3, -0.5, 1e21, 12.0, 5e-324, f64::MAX]).prop_map(Value::Float).boxed(),
        _ => any::<bool>().prop_map(Value::from).boxed(),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => (0..4_usize).prop_flat_map(flat_value),
        1 => Just(Value::Null),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY]).prop_map(Value::Float),
        1 => (-3..3_i64, -999..999_i64).prop_map(|(exponent, mantissa)| {
            Value::Tag(4, Box::new(Value::Array(vec![exponent.into(), mantissa.into()])))
        }),
        1 => Just(Value::from(i128::from(u64::MAX) * 1000)),
        1 => Just(Value::Tag(0, Box::new("2026-01-02T00:00:00Z".into()))),
        1 => text().prop_map(|text| Value::Bytes(text.into_bytes())),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map(text(), inner, 0..3)
                .prop_map(|entries| Value::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())),
        ]
    })
}

fn any_rows() -> impl Strategy<Value = Rows> {
    let columns = prop::sample::select(vec!["id", "name", "more", "m.x", "secret"]);
    let record = prop::collection::btree_map(columns, any_value(), 0..5);
    prop::collection::vec(record, 0..8).prop_map(|records| {
        let row = |(number, mut fields): (usize, std::collections::BTreeMap<&str, Value>)| {
            let id = format!("r{number}");
            // An id that is among the fields is the row's own.
            if let Some(value) = fields.get_mut("id") {
                *value = Value::Text(id.clone());
            }
            (id, fields.into_iter().collect())
        };
        records.into_iter().enumerate().map(row).collect()
    })
}

fn any_schema() -> impl Strategy<Value = Schema> {
    prop::collection::vec((any::<bool>(), any::<bool>()), 5).prop_map(|flags| {
        let names = ["id", "name", "more", "m.x", "secret"];
        names.into_iter().zip(flags).fold(Schema::new("id"), |schema, (name, (searchable, hidden))| {
            let column = Column::new(name, ColumnType::Any);
            let column = if searchable { column.searchable() } else { column };
            schema.with(if hidden { column.hidden() } else { column })
        })
    })
}

/// Whole texts, and the beginnings, middles and ends of what rows show.
fn any_needle() -> impl Strategy<Value = String> {
    let shown = vec![
        "1000",
        "1e3",
        "0.001",
        "1",
        "-",
        ".5",
        "TRUE",
        "fals",
        "e",
        "nan",
        "Inf",
        "2026-01",
        "18446744073709551615000",
        "r1",
        "R",
        "null",
        "0.0",
        "\u{0}",
    ];
    prop_oneof![2 => text(), 1 => prop::sample::select(shown).prop_map(str::to_owned)]
}

fn plainly_folded(text: &str) -> String {
    let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<String>();
    let mut folded = lower(&lower(text).to_uppercase());
    while folded.contains("i\u{307}") {
        folded = folded.replace("i\u{307}", "i");
    }
    folded
}

/// Every text that a search of this value looks into.
fn plain_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::Text(text) => texts.push(text.clone()),
        Value::Bool(flag) => texts.push(flag.to_string()),
        Value::Integer(number) => texts.push(i128::from(*number).to_string()),
        Value::Float(number) => texts.push(number.to_string()),
        Value::Tag(2, _) => texts.push((i128::from(u64::MAX) * 1000).to_string()),
        Value::Tag(4, parts) => {
            let parts: Vec<i128> =
                parts.as_array().unwrap().iter().map(|part| part.as_integer().unwrap().into()).collect();
            texts.push(match parts[..] {
                [exponent, mantissa] if exponent < 0 => {
                    let unit = 10_i128.pow(exponent.unsigned_abs() as u32);
                    let sign = if mantissa < 0 { "-" } else { "" };
                    let width = exponent.unsigned_abs() as usize;
                    format!("{sign}{}.{:0width$}", mantissa.abs() / unit, mantissa.abs() % unit)
                }
                [exponent, mantissa] => (mantissa * 10_i128.pow(exponent as u32)).to_string(),
                _ => String::new(),
            });
        }
        Value::Tag(_, inner) => plain_texts(inner, texts),
        Value::Array(items) => items.iter().for_each(|item| plain_texts(item, texts)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| plain_texts(value, texts)),
        _ => {}
    }
}

/// The ids that a search finds: its definition.
fn plain_answer(rows: &Rows, schema: &Schema, needle: &str) -> Vec<String> {
    let some_searchable = schema.columns().iter().any(Column::is_searchable);
    let looked_into = |name: &str| {
        schema
            .column(name)
            .map_or(!some_searchable, |column| !column.is_hidden() && (column.is_searchable() || !some_searchable))
    };
    // A text that begins with a dot above finds the dot above an i, too, which folding takes away.
    let found = |text: &str| {
        let needle = plainly_folded(needle);
        text.char_indices().any(|(start, _)| plainly_folded(&text[start..]).contains(&needle))
    };
    let answer = rows.iter().filter(|(_, record)| {
        let mut texts = Vec::new();
        record.iter().filter(|(name, _)| looked_into(name)).for_each(|(_, value)| plain_texts(value, &mut texts));
        needle.is_empty() || texts.iter().any(|text| found(text))
    });
    answer.map(|(id, _)| id.clone()).collect()
}

fn ids(rows: &Rows) -> Vec<String> {
    rows.iter().map(|(id, _)| id.clone()).collect()
}

/// What a source finds, its window and its count included.
fn found_by(vista: &Vista, needle: &str) -> Vec<String> {
    let cx = CallCx::new();
    let query = QueryDescriptor::new().searching(needle);
    let found = ids(&vista.list_query(&cx, &query).unwrap());
    let mut narrowed = vista.clone();
    narrowed.set_search(Some(needle));
    assert_eq!(ids(&narrowed.list(&cx).unwrap()), found, "{needle:?}");
    assert_eq!(narrowed.count(&cx).unwrap(), found.len() as u64, "{needle:?}");
    for id in ids(&vista.list(&cx).unwrap()) {
        assert_eq!(narrowed.get(&cx, &id).unwrap().is_some(), found.contains(&id), "{needle:?} {id}");
    }
    let window = QueryDescriptor { window: Some(Window::new(1, 2)), ..query };
    let expected: Vec<&String> = found.iter().skip(1).take(2).collect();
    assert_eq!(ids(&vista.list_query(&cx, &window).unwrap()).iter().collect::<Vec<_>>(), expected, "{needle:?}");
    found
}

/// What a Dio of this source finds: a view that is opened with the search, one that is asked for it later, one that is open
/// while the rows come in one by one, a count, and the facade.
fn found_by_dio_everywhere(source: Vista, needles: &[String], expected: &dyn Fn(&str) -> Vec<String>) {
    let dio = Lens::new().in_memory().build().unwrap().make_dio(source).unwrap();
    let shown = |table: &TableScenery| table.snapshot().iter().map(|row| row.id().to_owned()).collect::<Vec<_>>();
    let asked_later = dio.table_scenery().open().unwrap();
    let facade = dio.vista();
    for needle in needles {
        let expected = expected(needle);
        assert_eq!(shown(&dio.table_scenery().search(needle).open().unwrap()), expected, "{needle:?}");
        asked_later.set_search(Some(needle)).unwrap();
        asked_later.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(shown(&asked_later), expected, "{needle:?}");
        assert_eq!(found_by(&facade, needle), expected, "{needle:?}");
        let text = dio.table_scenery().search(needle).open().unwrap().query().canonical();
        let read_back = QueryDescriptor::parse(&text).unwrap();
        let again = facade.list_query(&CallCx::new(), &read_back).unwrap();
        assert_eq!(ids(&again), expected, "{text}");
    }
    let open: Vec<TableScenery> =
        needles.iter().map(|needle| dio.table_scenery().search(needle).open().unwrap()).collect();
    let rows = dio.cache().list().unwrap();
    dio.cache().clear().unwrap();
    for (id, record) in rows {
        dio.cache().insert(id, record).unwrap();
    }
    for (needle, table) in needles.iter().zip(&open) {
        assert_eq!(shown(table), expected(needle), "{needle:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_search_finds_the_same_rows_in_a_source_a_view_and_a_facade(
        rows in any_rows(),
        schema in any_schema(),
        needles in prop::collection::vec(any_needle(), 1..6),
    ) {
        let expected = |needle: &str| plain_answer(&rows, &schema, needle);
        let source = Vista::new(MemoryVista::new("things", "id").with_schema(schema.clone()).with_rows(rows.clone()));
        for needle in &needles {
            prop_assert_eq!(found_by(&source, needle), expected(needle), "{:?}", needle);
        }
        found_by_dio_everywhere(source, &needles, &expected);
    }
}

#[cfg(feature = "csv")]
proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_search_finds_the_same_rows_in_a_file_as_in_memory(
        columns in (0..4_usize).prop_flat_map(|kind| {
            let column = move |kind| prop::collection::vec(flat_value(kind), 6);
            (column(0), column(kind), column(3 - kind))
        }),
        needles in prop::collection::vec(any_needle(), 1..6),
    ) {
        let quoted = |value: &Value| match value {
            Value::Text(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            Value::Integer(number) => i128::from(*number).to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => String::new(),
        };
        let mut file = "id,name,more,other\n".to_owned();
        for row in 0..6 {
            let cells = [&columns.0, &columns.1, &columns.2].map(|column| quoted(&column[row])).join(",");
            file.push_str(&format!("r{row},{cells}\n"));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("things.csv");
        std::fs::write(&path, file).unwrap();
        let in_file = Vista::new(CsvVista::open(&path, "id").unwrap());
        let schema = in_file.schema();
        let rows = in_file.list(&CallCx::new()).unwrap();
        let in_memory = MemoryVista::new("things", "id").with_schema(Schema::clone(&schema)).with_rows(rows.clone());
        let in_memory = Vista::new(in_memory);
        let expected = |needle: &str| plain_answer(&rows, &schema, needle);
        for needle in &needles {
            prop_assert_eq!(found_by(&in_file, needle), expected(needle), "{:?}", needle);
            prop_assert_eq!(found_by(&in_memory, needle), expected(needle), "{:?}", needle);
        }
        found_by_dio_everywhere(in_file, &needles, &expected);
    }
}

#[test]
fn a_search_knows_letters_of_several_forms_and_numbers_as_they_are_written_out() {
    let nested = Value::Map(vec![("key".into(), Value::Array(vec!["Οδυσσεύς".into(), true.into(), 7.25.into()]))]);
    let rows = [
        ("strasse", record! { "name" => "Große Straße" }),
        ("capital", record! { "name" => "GROẞE STRASSE" }),
        ("turkish", record! { "name" => "İSTANBUL ısparta" }),
        ("ligature", record! { "name" => "eﬃcient" }),
        ("nested", record! { "name" => "x", "more" => nested }),
        ("number", record! { "name" => 1e3, "more" => 18_446_744_073_709_551_615_u64 }),
    ];
    let source = Vista::new(MemoryVista::new("things", "id").with_rows(rows));
    let check = |needle: &str, expected: &[&str]| {
        assert_eq!(found_by(&source, needle), expected, "{needle:?}");
    };
    check("strasse", &["strasse", "capital"]);
    check("GROSSE", &["strasse", "capital"]);
    check("große", &["strasse", "capital"]);
    check("Istanbul", &["turkish"]);
    check("i̇stanbul", &["turkish"]);
    check("ISPARTA", &["turkish"]);
    check("EFFICIENT", &["ligature"]);
    check("ΟΔΥΣΣΕΎΣ", &["nested"]);
    check("οδυσσεύσ", &["nested"]);
    check("οδυσσευς", &[]);
    check("TRUE", &["nested"]);
    check("7.25", &["nested"]);
    check("key", &[]);
    check("1000", &["number"]);
    check("1e3", &[]);
    check("18446744073709551615", &["number"]);
}
