//! Search: whether a text occurs in a row's values, whatever its case.
//!
//! The rule: two letters are the same when they are so in Unicode's full case folding (`ẞ`, `ß` and `ss`; `Σ`, `σ` and `ς`;
//! `ﬁ` and `fi`), in no particular language; besides, `İ` and `ı` are the same as `i`. Accents count, and nothing is
//! normalised: `é` is not `e` followed by an accent.
//! Invariants: letters are folded one by one, so that a word is found wherever it stands; folding what is folded changes
//! nothing (`folding_twice_is_folding_once`); nothing allocates per row, save for text that was stored in several pieces
//! and for bignums.

use std::fmt::{self, Write};

use crate::value::{MAX_DEPTH, ValueRef};

const TAG_BIG_POSITIVE: u64 = 2;
const TAG_BIG_NEGATIVE: u64 = 3;
const TAG_DECIMAL: u64 = 4;

/// The combining dot above.
const DOT: char = '\u{307}';

/// The characters of `text` as a search compares them. A dot above an `i` falls away: `İ` in lower case has one.
pub(super) fn folded(text: &str) -> impl Iterator<Item = char> + '_ {
    let mut after_i = false;
    text.chars().flat_map(folded_letter).filter(move |character| {
        let falls_away = after_i && *character == DOT;
        after_i = *character == 'i' || falls_away;
        !falls_away
    })
}

/// Through upper case, where letters meet that have several lower cases (`ς` and `σ`) or none of their own (`ß`), and which
/// `ẞ` reaches from its lower case alone.
fn folded_letter(letter: char) -> impl Iterator<Item = char> {
    letter.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

/// A text to search for, folded once.
#[derive(Debug, Clone)]
pub(crate) struct Needle {
    text: String,
    is_ascii: bool,
    could_be_number: bool,
    could_be_integer: bool,
}

impl Needle {
    pub(crate) fn new(text: &str) -> Self {
        let text: String = folded(text).collect();
        let could_be_number = text.bytes().all(|byte| b"0123456789.-einfa".contains(&byte));
        let digits = text.strip_prefix('-').unwrap_or(&text);
        let could_be_integer = digits.bytes().all(|byte| byte.is_ascii_digit());
        Needle { is_ascii: text.is_ascii(), text, could_be_number, could_be_integer }
    }

    /// The folded text. What holds this text holds each part of it, too.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it occurs in `value`: in text, in a number's or boolean's plain text, or in any item of an array or value of
    /// a map.
    pub(crate) fn is_in(&self, value: ValueRef<'_>) -> bool {
        self.is_in_nested(value, 0)
    }

    fn is_in_nested(&self, value: ValueRef<'_>, depth: usize) -> bool {
        match value {
            ValueRef::Text(text) => self.is_in_text(text),
            ValueRef::SegmentedText(_) => value.text().is_some_and(|text| self.is_in_text(&text)),
            ValueRef::Bool(value) => self.is_in_text(if value { "true" } else { "false" }),
            ValueRef::Int(value) => match i64::try_from(value) {
                Ok(value) => self.is_in_integer(value),
                Err(_) => self.is_in_number(format_args!("{value}")),
            },
            ValueRef::Float(value) => self.is_in_number(format_args!("{value}")),
            ValueRef::Null | ValueRef::Bytes(_) | ValueRef::SegmentedBytes(_) => false,
            _ if depth >= MAX_DEPTH => false,
            ValueRef::Array(items) => items.iter().any(|item| self.is_in_nested(item, depth + 1)),
            ValueRef::Map(entries) => entries.iter().any(|(_, value)| self.is_in_nested(value, depth + 1)),
            ValueRef::Tag(tag, inner) => {
                if let Some(integer) = bignum(tag, value) {
                    self.is_in_number(format_args!("{integer}"))
                } else if let Some(decimal) = Decimal::of(tag, value) {
                    self.is_in_number(format_args!("{decimal}"))
                } else {
                    inner.value().is_some_and(|inner| self.is_in_nested(inner, depth + 1))
                }
            }
        }
    }

    /// Whether it occurs in this ASCII text.
    #[inline]
    pub(crate) fn is_in_ascii(&self, text: &[u8]) -> bool {
        // Folding ASCII gives ASCII, so a search text with other letters in it can't occur.
        self.is_ascii && occurs_in_ascii(self.text.as_bytes(), text)
    }

    /// Whether it occurs in this integer's plain text.
    #[inline]
    pub(crate) fn is_in_integer(&self, value: i64) -> bool {
        self.could_be_integer && self.is_in_digits(value)
    }

    fn is_in_digits(&self, value: i64) -> bool {
        const MOST: usize = 20;
        let mut plain = [0; MOST];
        let mut at = MOST;
        let mut rest = value.unsigned_abs();
        loop {
            at -= 1;
            plain[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            at -= 1;
            plain[at] = b'-';
        }
        occurs_in_ascii(self.text.as_bytes(), &plain[at..])
    }

    fn is_in_text(&self, text: &str) -> bool {
        if text.is_ascii() {
            return self.is_in_ascii(text.as_bytes());
        }
        let Some(first) = self.text.chars().next() else { return true };
        let mut rest = text.chars();
        loop {
            let here = rest.as_str();
            let Some(character) = rest.next() else { return false };
            if character.is_ascii() && character.to_ascii_lowercase() != first {
                continue;
            }
            // One letter may fold into several, and the search text may begin at any of them.
            for skipped in 0..folded_letter(character).count() {
                let mut folded_here = folded(here).skip(skipped);
                if self.text.chars().all(|wanted| folded_here.next() == Some(wanted)) {
                    return true;
                }
            }
        }
    }

    fn is_in_number(&self, number: fmt::Arguments<'_>) -> bool {
        if !self.could_be_number {
            return false;
        }
        let mut plain = PlainText { bytes: [0; PLAIN_TEXT_BYTES], length: 0 };
        // An error says that the text is longer than any number's; what was written is searched all the same.
        let _ = plain.write_fmt(number);
        occurs_in_ascii(self.text.as_bytes(), &plain.bytes[..plain.length])
    }
}

/// Whether `needle`, in lower case, occurs in `text`.
#[inline]
fn occurs_in_ascii(needle: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return true };
    if needle.len() > text.len() {
        return false;
    }
    let upper = first.to_ascii_uppercase();
    text.windows(needle.len())
        .any(|here| (here[0] == *first || here[0] == upper) && here[1..].eq_ignore_ascii_case(rest))
}

/// The longest plain text of a float has 345 bytes.
const PLAIN_TEXT_BYTES: usize = 352;

/// A short text on the stack.
struct PlainText {
    bytes: [u8; PLAIN_TEXT_BYTES],
    length: usize,
}

impl Write for PlainText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

/// The integer that a bignum stands for, up to 127 bits and a sign.
fn bignum(tag: u64, value: ValueRef<'_>) -> Option<i128> {
    if !matches!(tag, TAG_BIG_POSITIVE | TAG_BIG_NEGATIVE) {
        return None;
    }
    let bytes = value.bytes()?;
    let magnitude = bytes.iter().try_fold(0_u128, |sum, byte| Some(sum.checked_mul(256)? | u128::from(*byte)))?;
    let magnitude = i128::try_from(magnitude).ok()?;
    Some(if tag == TAG_BIG_NEGATIVE { -1 - magnitude } else { magnitude })
}

/// An integer, also as a bignum.
fn integer(value: ValueRef<'_>) -> Option<i128> {
    match value {
        ValueRef::Int(integer) => Some(integer),
        ValueRef::Tag(tag, _) => bignum(tag, value),
        _ => None,
    }
}

/// A decimal, `mantissa * 10^exponent`, of a size that people write out.
struct Decimal {
    mantissa: i128,
    exponent: i128,
}

impl Decimal {
    fn of(tag: u64, value: ValueRef<'_>) -> Option<Self> {
        let ValueRef::Array(parts) = value.untagged() else { return None };
        let mut parts = parts.iter();
        match (tag, parts.next()?, parts.next()?) {
            (TAG_DECIMAL, ValueRef::Int(exponent), mantissa) => {
                Some(Decimal { mantissa: integer(mantissa)?, exponent })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Decimal {
    /// `19.90`; with an exponent when there would be more than forty zeros to write.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal { mantissa, exponent } = *self;
        match exponent {
            0..=40 if mantissa != 0 => {
                write!(f, "{mantissa}")?;
                (0..exponent).try_for_each(|_| f.write_char('0'))
            }
            -38..=-1 => {
                let decimals = exponent.unsigned_abs() as usize;
                let unit = 10_u128.pow(decimals as u32);
                let sign = if mantissa < 0 { "-" } else { "" };
                let size = mantissa.unsigned_abs();
                write!(f, "{sign}{}.{:0decimals$}", size / unit, size % unit)
            }
            _ if mantissa == 0 => f.write_char('0'),
            _ => write!(f, "{mantissa}e{exponent}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Record;
    use crate::value::{RowRef, StoredRow, Value};

    fn check(needle: &str, value: impl Into<Value>, expected: bool) {
        let value = value.into();
        assert_eq!(Needle::new(needle).is_in(ValueRef::from(&value)), expected, "{needle:?} in {value:?}");
    }

    #[test]
    fn text_is_found_whatever_its_case() {
        check("field", "Thigpen Field", true);
        check("PEN F", "Thigpen Field", true);
        check("fields", "Thigpen Field", false);
        check("zürich", "ZÜRICH Airport", true);
        check("ü", "Zurich", false);
        check("airport", "Zürich AIRPORT", true);
        check("k", "273 \u{212a}", true);
        check("οδος", "ΟΔΟΣ", true);
        check("ΟΔΟΣ", "οδοσα", true);
        check("ab", "aab", true);
        check("x", "é", false);
        check("é", "e\u{301}", false);
    }

    #[test]
    fn letters_of_several_forms_are_one() {
        let same = |forms: &[&str]| {
            for one in forms {
                for other in forms {
                    check(one, *other, true);
                    check(&format!("b{one}A"), format!("aB{other}a"), true);
                }
            }
        };
        same(&["ß", "ẞ", "ss", "SS", "ſs"]);
        same(&["Σ", "σ", "ς"]);
        same(&["İ", "i", "I", "ı", "i\u{307}", "I\u{307}"]);
        same(&["ﬁ", "fi", "FI", "Fi"]);
        same(&["ﬃ", "ﬀi", "fﬁ", "FFI"]);
        same(&["ŉ", "ʼN", "ʼn"]);
        same(&["µ", "μ", "Μ"]);
        same(&["K", "k", "K"]);
        same(&["Å", "å", "Å"]);
        same(&["Ǆ", "ǅ", "ǆ"]);
        same(&["\u{390}", "\u{1fd3}", "ι\u{308}\u{301}"]);
        same(&["ᾳ", "ᾼ", "αι", "ΑΙ"]);
        same(&["Ꭰ", "ꭰ"]);
        check("istanbul", "İSTANBUL", true);
        check("ISPARTA", "ısparta", true);
        check("strasse", "Hauptstraße 1", true);
        check("s", "ß", true);
        check("sx", "ßx", true);
        check("i", "ﬁ", true);
        check("\u{307}", "i\u{307}", true);
        check("\u{307}", "z\u{307}", true);
        check("z", "ß", false);
    }

    #[test]
    fn folding_twice_is_folding_once() {
        for letter in '\0'..=char::MAX {
            let once: String = folded_letter(letter).collect();
            let twice: String = once.chars().flat_map(folded_letter).collect();
            assert_eq!(once, twice, "{letter}");
            assert!(
                letter == '\0' || !letter.is_ascii() || once == letter.to_ascii_lowercase().to_string(),
                "{letter}"
            );
        }
    }

    #[test]
    fn numbers_and_booleans_are_found_by_their_plain_text() {
        check("35", 1351, true);
        check("-1", -17, true);
        check("1.5", 21.5, true);
        check("e5", 1e5, false);
        check("000", 1e5, true);
        check("0001", f64::MIN_POSITIVE, false);
        check("5", 5e-324, true);
        check("nan", f64::NAN, true);
        check("TRU", true, true);
        check("true", false, false);
        check("null", Value::Null, false);
        for integer in [0, 7, -7, 10, -10, i64::MAX, i64::MIN, 1_234_567_890] {
            let plain = integer.to_string();
            for from in 0..plain.len() {
                for to in from + 1..=plain.len() {
                    check(&plain[from..to], integer, true);
                }
            }
            check(&format!("{plain}0"), integer, false);
            check(&format!("{plain}-"), integer, false);
            check("-", integer, integer < 0);
            check("--", integer, false);
        }
        check("a", Value::Bytes(b"a".to_vec()), false);
    }

    #[test]
    fn decimals_are_found_as_people_write_them() {
        let decimal = |exponent: i64, mantissa: i64| {
            Value::Tag(4, Box::new(Value::Array(vec![exponent.into(), mantissa.into()])))
        };
        check("19.90", decimal(-2, 1990), true);
        check("-0.05", decimal(-2, -5), true);
        check("700", decimal(2, 7), true);
        check("7e99", decimal(99, 7), true);
        check("0.00", decimal(-2, 0), true);
        check("1e-900000000", decimal(-900_000_000, 1), true);
        check("0", decimal(i64::MAX, 0), true);
    }

    #[test]
    fn bignums_are_found_like_other_integers() {
        let bignum = |tag: u64, bytes: &[u8]| Value::Tag(tag, Box::new(Value::Bytes(bytes.to_vec())));
        check("36893488147419103232", Value::from(1_i128 << 65), true);
        check("-36893488147419103232", Value::from(-(1_i128 << 65)), true);
        check("258", bignum(2, &[0, 0, 1, 2]), true);
        check("-259", bignum(3, &[1, 2]), true);
        check("0", bignum(2, &[0xff; 17]), false);
        let mantissa = Value::from(12_345_678_901_234_567_890_123_i128);
        check("1234567890123456789.0123", Value::Tag(4, Box::new(Value::Array(vec![(-4).into(), mantissa]))), true);
    }

    #[test]
    fn nested_values_and_tagged_text_are_searched_and_keys_are_not() {
        let nested = Value::Map(vec![("city".into(), Value::Array(vec!["Riga".into(), 7.into()]))]);
        check("rig", nested.clone(), true);
        check("7", nested.clone(), true);
        check("city", nested, false);
        check("2026-01", Value::Tag(0, Box::new("2026-01-02T00:00:00Z".into())), true);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            "[abK ]{0,5}".prop_map(Value::Text),
            "[ab]{22,26}".prop_map(Value::Text),
            "[aßſİK\u{307}]{0,4}".prop_map(Value::Text),
            any::<i64>().prop_map(Value::from),
            (-99..99_i64).prop_map(Value::from),
            (-9..9_i64).prop_map(|n| Value::Float(n as f64 / 4.0)),
            any::<bool>().prop_map(Value::Bool),
            Just(Value::Null),
        ];
        leaf.prop_recursive(2, 6, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Value::Array))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn a_row_is_searched_as_its_values_are(
            columns in prop::collection::vec(("[a-zé]{1,30}", any_value()), 0..5),
            needle in "[abks1-9.-]{1,2}",
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let record: Record = columns.into_iter().collect();
            let row = StoredRow::encode("", &record, 0);
            let mut bytes = row.as_bytes()[22..].to_vec();
            if let Some((place, byte)) = damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            let (row, needle) = (RowRef::new(&bytes), Needle::new(&needle));
            let found = row.any_value(
                |text| needle.is_in_ascii(text),
                |integer| needle.is_in_integer(integer),
                |value| needle.is_in(value),
            );
            prop_assert_eq!(found, row.iter().any(|(_, value)| needle.is_in(value)));
        }
    }
}
