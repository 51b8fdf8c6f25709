//! Types: what a cell's text means in its column, and which text a value gets there.
//!
//! Invariants: what [`CsvColumn::encode`] accepts, [`CsvColumn::decode`] gives back as the same value of the same type
//! (`what_is_written_reads_back`); it never turns an inferred column into one of another type
//! (`a_written_cell_keeps_the_columns_inferred_type`).

use std::sync::Arc;

use crate::value::Value;
use crate::vista::ColumnType;

/// A column of the file.
#[derive(Debug, Clone)]
pub(super) struct CsvColumn {
    pub(super) name: Arc<str>,
    pub(super) kind: ColumnType,
    /// Whether the type was told by the user. An inferred type takes only the text that it would be inferred from.
    pub(super) declared: bool,
}

/// A cell as it is to be written, before quoting.
#[derive(Debug, PartialEq)]
pub(super) struct Encoded {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl CsvColumn {
    /// The value of a cell, or what is wrong with it.
    pub(super) fn decode(&self, text: &str, quoted: bool) -> Result<Value, String> {
        if self.kind == ColumnType::Text {
            return Ok(if text.is_empty() && !quoted { Value::Null } else { Value::Text(text.to_owned()) });
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        let value = match (self.kind, self.declared) {
            (ColumnType::Bool, _) => plain_bool(text).map(Value::Bool),
            (ColumnType::Int, false) => plain_int(text).map(Value::from),
            (ColumnType::Int, true) => text.parse::<i64>().ok().map(Value::from),
            (ColumnType::Float, false) => plain_float(text).map(Value::Float),
            (ColumnType::Float, true) => text.parse::<f64>().ok().map(Value::Float),
            _ => None,
        };
        value.ok_or_else(|| {
            let (kind, shown) = (self.kind, excerpt(text));
            if self.declared {
                format!("\"{shown}\" is not of the declared type `{kind}`; mend the file or declare the column as text")
            } else {
                format!("\"{shown}\" is not `{kind}`, the type of this column when the file was opened; open it again")
            }
        })
    }

    /// The cell that says `value` in this column, or why there is none.
    pub(super) fn encode(&self, value: &Value) -> Result<Encoded, String> {
        let bare = |text: String| Ok(Encoded { text, quoted: false });
        match (self.kind, value) {
            (_, Value::Null) => bare(String::new()),
            (ColumnType::Text, Value::Text(text)) => {
                // Quoted, a number is text to the inference, so the column stays text when the file is opened again.
                let quoted = text.is_empty() || (!self.declared && looks_typed(text));
                Ok(Encoded { text: text.clone(), quoted })
            }
            (ColumnType::Bool, Value::Bool(flag)) => bare(flag.to_string()),
            (ColumnType::Int, Value::Integer(number)) => match i64::try_from(i128::from(*number)) {
                Ok(number) => bare(number.to_string()),
                Err(_) => Err("the integer is beyond 64 bits".to_owned()),
            },
            (ColumnType::Float, Value::Float(number)) if number.is_finite() => bare(float_text(*number)),
            // Only one NaN can be told from text, so another bit pattern would come back changed.
            (ColumnType::Float, Value::Float(number)) if self.declared => bare(number.to_string()),
            (ColumnType::Float, Value::Float(_)) => {
                Err("NaN and infinities need a column that is declared as float".to_owned())
            }
            (ColumnType::Float, Value::Integer(_)) => {
                Err("the column holds `float`, the value is an integer; give it as a float".to_owned())
            }
            (kind, other) => Err(format!("the column holds `{kind}`, the value is {}", noun(other))),
        }
    }
}

/// What the cells of one column seen so far could all be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    seen: bool,
    bool: bool,
    int: bool,
    float: bool,
}

impl Evidence {
    pub(super) fn new() -> Self {
        Evidence { seen: false, bool: true, int: true, float: true }
    }

    pub(super) fn see(&mut self, text: &str, quoted: bool) {
        if text.is_empty() && !quoted {
            return;
        }
        self.seen = true;
        if quoted {
            (self.bool, self.int, self.float) = (false, false, false);
            return;
        }
        self.bool = self.bool && plain_bool(text).is_some();
        self.int = self.int && plain_int(text).is_some();
        self.float = self.float && plain_float(text).is_some();
    }

    pub(super) fn kind(self) -> ColumnType {
        match self {
            Evidence { seen: false, .. } => ColumnType::Text,
            Evidence { bool: true, .. } => ColumnType::Bool,
            Evidence { int: true, .. } => ColumnType::Int,
            Evidence { float: true, .. } => ColumnType::Float,
            _ => ColumnType::Text,
        }
    }
}

/// Whether two values are one, told bit by bit: `0.0` and `-0.0` differ.
pub(super) fn identical(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Float(left), Value::Float(right)) => left.to_bits() == right.to_bits(),
        _ => left == right,
    }
}

fn looks_typed(text: &str) -> bool {
    plain_bool(text).is_some() || plain_int(text).is_some() || plain_float(text).is_some()
}

fn plain_bool(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A whole number that is written as it would be written back: `7`, `-7`; not `007`, `+7`, `-0`.
fn plain_int(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let (&first, _) = digits.split_first()?;
    if !digits.iter().all(u8::is_ascii_digit) || (first == b'0' && text.len() > 1) {
        return None;
    }
    text.parse().ok()
}

/// A number that a float can say: digits with a point (`1.5`, `-0.25`, `1.5e300`; not `1e5`, `.5`, `01.5`) of at most 17
/// significant digits, or an integer that a float holds exactly.
fn plain_float(text: &str) -> Option<f64> {
    let Some((whole, rest)) = text.split_once('.') else {
        let number = plain_int(text)?;
        let float = number as f64;
        return (float as i128 == i128::from(number)).then_some(float);
    };
    let whole = whole.strip_prefix('-').unwrap_or(whole).as_bytes();
    let fraction = rest.split(['e', 'E']).next().unwrap_or(rest).as_bytes();
    let leading_zero = whole.len() > 1 && whole[0] == b'0';
    if whole.is_empty() || fraction.is_empty() || leading_zero {
        return None;
    }
    let (mut significant, mut zeros) = (0, 0);
    for digit in whole.iter().chain(fraction) {
        match digit {
            b'0' => zeros += usize::from(significant > 0),
            b'1'..=b'9' => {
                significant += zeros + 1;
                zeros = 0;
            }
            _ => return None,
        }
    }
    let float: f64 = text.parse().ok()?;
    let vanished = float == 0.0 && significant > 0;
    (significant <= 17 && float.is_finite() && !vanished).then_some(float)
}

/// The shortest text that reads back as the same float, always with a point.
fn float_text(number: f64) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0e{exponent}"),
        _ => text,
    }
}

fn noun(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "an integer",
        Value::Bytes(_) => "bytes",
        Value::Float(_) => "a float",
        Value::Text(_) => "text",
        Value::Bool(_) => "a boolean",
        Value::Tag(..) => "a tagged value",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        _ => "of a kind that CSV can't hold",
    }
}

/// The start of a text, for messages.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 40;
    let mut excerpt: String = text.chars().take(SHOWN).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inferred(cells: &[&str]) -> ColumnType {
        let mut evidence = Evidence::new();
        cells.iter().for_each(|cell| evidence.see(cell, false));
        evidence.kind()
    }

    fn column(kind: ColumnType, declared: bool) -> CsvColumn {
        CsvColumn { name: "c".into(), kind, declared }
    }

    #[test]
    fn the_narrowest_type_that_loses_no_text_is_inferred() {
        for (cells, expected) in [
            (&["1", "", "-3"][..], ColumnType::Int),
            (&["0", "9223372036854775807"], ColumnType::Int),
            (&["9223372036854775808"], ColumnType::Text),
            (&["1", "2.5"], ColumnType::Float),
            (&["9007199254740993", "2.5"], ColumnType::Text),
            (&["1.5e300"], ColumnType::Float),
            (&["1.5e999"], ColumnType::Text),
            (&["1.5e-999"], ColumnType::Text),
            (&["0.123456789012345678901"], ColumnType::Text),
            (&["-89.23450472"], ColumnType::Float),
            (&["38.50", "100.00"], ColumnType::Float),
            (&["true", "false"], ColumnType::Bool),
            (&["true", "1"], ColumnType::Text),
            (&["True"], ColumnType::Text),
            (&["00501", "10001"], ColumnType::Text),
            (&["+1"], ColumnType::Text),
            (&["-0"], ColumnType::Text),
            (&["1e5"], ColumnType::Text),
            (&["0E8"], ColumnType::Text),
            (&["00.5"], ColumnType::Text),
            (&[".5"], ColumnType::Text),
            (&["5."], ColumnType::Text),
            (&["1.2.3"], ColumnType::Text),
            (&["1.5e"], ColumnType::Text),
            (&["NaN"], ColumnType::Text),
            (&["inf"], ColumnType::Text),
            (&[" 1"], ColumnType::Text),
            (&["-"], ColumnType::Text),
            (&["2001-01-01"], ColumnType::Text),
            (&["", ""], ColumnType::Text),
            (&[], ColumnType::Text),
        ] {
            assert_eq!(inferred(cells), expected, "{cells:?}");
        }
    }

    #[test]
    fn a_quoted_number_is_text() {
        let mut evidence = Evidence::new();
        evidence.see("1", false);
        evidence.see("2", true);
        assert_eq!(evidence.kind(), ColumnType::Text);
    }

    #[test]
    fn values_of_another_type_are_refused() {
        for (kind, value) in [
            (ColumnType::Int, Value::Text("x".into())),
            (ColumnType::Int, Value::Float(1.0)),
            (ColumnType::Int, Value::from(u64::MAX)),
            (ColumnType::Float, Value::from(1)),
            (ColumnType::Float, Value::Float(f64::NAN)),
            (ColumnType::Float, Value::Float(f64::INFINITY)),
            (ColumnType::Bool, Value::Text("true".into())),
            (ColumnType::Text, Value::from(1)),
            (ColumnType::Text, Value::Bytes(vec![1])),
            (ColumnType::Text, Value::Array(vec![])),
            (ColumnType::Text, Value::Map(vec![])),
            (ColumnType::Text, Value::Tag(0, Box::new(Value::Text("2001-01-01T00:00:00Z".into())))),
        ] {
            assert!(column(kind, false).encode(&value).is_err(), "{kind} {value:?}");
        }
    }

    #[test]
    fn a_declared_float_column_takes_what_a_float_can_be() {
        let column = column(ColumnType::Float, true);
        for number in [f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e300, 5e-324] {
            let cell = column.encode(&Value::Float(number)).unwrap();
            assert!(identical(&column.decode(&cell.text, cell.quoted).unwrap(), &Value::Float(number)), "{number}");
        }
        let cell = column.encode(&Value::Float(f64::NAN)).unwrap();
        assert!(matches!(column.decode(&cell.text, false), Ok(Value::Float(number)) if number.is_nan()));
    }

    fn values() -> impl Strategy<Value = (ColumnType, Value)> {
        prop_oneof![
            any::<i64>().prop_map(|number| (ColumnType::Int, Value::from(number))),
            any::<u64>().prop_map(f64::from_bits).prop_filter_map("finite", |number| number
                .is_finite()
                .then_some((ColumnType::Float, Value::Float(number)))),
            (-1000i32..1000).prop_map(|number| (ColumnType::Float, Value::Float(f64::from(number) / 8.0))),
            any::<bool>().prop_map(|flag| (ColumnType::Bool, Value::Bool(flag))),
            ".{0,12}".prop_map(|text| (ColumnType::Text, Value::Text(text))),
            "-?0{0,2}[0-9]{0,4}[.e]?[0-9]{0,3}".prop_map(|text| (ColumnType::Text, Value::Text(text))),
            Just((ColumnType::Text, Value::Null)),
            Just((ColumnType::Int, Value::Null)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back((kind, value) in values(), declared: bool) {
            let column = column(kind, declared);
            let cell = column.encode(&value).unwrap();
            let back = column.decode(&cell.text, cell.quoted).unwrap();
            prop_assert!(identical(&back, &value), "{:?} came back as {:?}", value, back);
        }

        #[test]
        fn a_written_cell_keeps_the_columns_inferred_type((kind, value) in values()) {
            let cell = column(kind, false).encode(&value).unwrap();
            let mut evidence = Evidence::new();
            evidence.see(&cell.text, cell.quoted);
            if kind == ColumnType::Float {
                // An integer column can't hold it, and no float column turns to text by it.
                prop_assert!(evidence.kind() == ColumnType::Float || value == Value::Null);
            } else if value != Value::Null {
                prop_assert_eq!(evidence.kind(), kind);
            }
        }
    }
}
