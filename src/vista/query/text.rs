//! Query text: conditions and queries as text, for people and as keys.
//!
//! Invariants: the canonical text depends on nothing but the query, so that it can name a table on disk for years; two
//! different values never have the same text (`canonical_texts_of_different_values_differ`); `parse` reads it back
//! (`what_is_written_is_read_back`).

use std::fmt::{self, Write};

use crate::value::Value;
use crate::vista::query::search::folded;
use crate::vista::{Collation, Condition, QueryDescriptor, SortBy, SortDir};

pub(super) const TAG_DATETIME: u64 = 0;
pub(super) const TAG_DECIMAL: u64 = 4;

/// Words that are written between backticks when they are columns: those that `parse` would take for something else, and
/// those that would confuse people.
const KEYWORDS: [&str; 18] = [
    "and", "asc", "between", "by", "desc", "false", "in", "is", "like", "limit", "not", "null", "offset", "or",
    "order", "search", "true", "where",
];

impl QueryDescriptor {
    /// The query as a text that is the same for equal queries, whatever the order of their conditions, and differs for
    /// different ones. Empty for the query of all rows. [`parse`](Self::parse) reads it back.
    ///
    /// ```
    /// use diorama::vista::{QueryDescriptor, SortDir, col};
    ///
    /// let query = QueryDescriptor::new().filtered(col("state").eq("TX")).sorted("name", SortDir::Desc);
    /// assert_eq!(query.canonical(), r#"where state = "TX" order by name desc"#);
    /// ```
    pub fn canonical(&self) -> String {
        let mut parts = Vec::new();
        let conditions = Canonical::joined(self.conditions.iter().map(Canonical::of), Joint::And);
        if !conditions.is_always_true() {
            parts.push(format!("where {}", conditions.text));
        }
        if let Some(search) = self.search_text() {
            let needle: String = folded(search).collect();
            parts.push(format!("search {}", Quoted(&needle, '"')));
        }
        if !self.sort.is_empty() {
            let columns: Vec<String> = self.sort.iter().map(SortBy::to_string).collect();
            parts.push(format!("order by {}", columns.join(", ")));
        }
        if let Some(window) = self.window {
            parts.push(format!("limit {} offset {}", window.limit, window.offset));
        }
        parts.join(" ")
    }
}

impl Condition {
    /// The condition as a text that is the same whatever the order and the grouping of its parts: for saved filters and
    /// logs. [`parse`](Self::parse) reads it back. `Display` keeps the order in which the condition was written.
    ///
    /// ```
    /// use diorama::vista::{Condition, col};
    ///
    /// let cheap = col("state").is_in(["TX", "OK"]).and(col("price").lt(10));
    /// assert_eq!(cheap.canonical(), r#"price < 10 and state in ("OK", "TX")"#);
    /// assert_eq!(Condition::parse(&cheap.canonical())?.canonical(), cheap.canonical());
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn canonical(&self) -> String {
        Canonical::of(self).text
    }
}

impl fmt::Display for Condition {
    /// The condition for people, in the order in which it was written: `country = "USA" and not (elevation < 10)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::And(children) => write_joined(f, children, Joint::And),
            Condition::Or(children) => write_joined(f, children, Joint::Or),
            Condition::Not(child) => match (opened(child), negated_text(child)) {
                (_, Some(text)) => f.write_str(&text),
                (child, None) => write!(f, "not ({child})"),
            },
            leaf => f.write_str(&leaf_text(leaf, false)),
        }
    }
}

impl fmt::Display for SortBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.dir {
            SortDir::Asc => "",
            SortDir::Desc => " desc",
        };
        let collation = match self.collation {
            Collation::CodePoint => "",
            Collation::CaseInsensitive => " nocase",
        };
        write!(f, "{}{collation}{direction}", PathText(&self.path))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Joint {
    And,
    Or,
}

impl Joint {
    fn word(self) -> &'static str {
        match self {
            Joint::And => " and ",
            Joint::Or => " or ",
        }
    }

    /// What a group without children means.
    fn of_none(self) -> &'static str {
        match self {
            Joint::And => "true",
            Joint::Or => "false",
        }
    }
}

/// What a group of one is: the one in it.
fn opened(mut condition: &Condition) -> &Condition {
    while let Condition::And(children) | Condition::Or(children) = condition
        && let [only] = &children[..]
    {
        condition = only;
    }
    condition
}

fn write_joined(f: &mut fmt::Formatter<'_>, children: &[Condition], joint: Joint) -> fmt::Result {
    if children.is_empty() {
        return f.write_str(joint.of_none());
    }
    for (position, child) in children.iter().enumerate() {
        if position > 0 {
            f.write_str(joint.word())?;
        }
        match opened(child) {
            child @ (Condition::And(inner) | Condition::Or(inner)) if inner.len() > 1 && children.len() > 1 => {
                write!(f, "({child})")?;
            }
            child => write!(f, "{child}")?,
        }
    }
    Ok(())
}

/// A condition in canonical form.
struct Canonical {
    text: String,
    /// What joins the parts, of which there are none or several; `None`: it is no group.
    joint: Option<Joint>,
    parts: Vec<Canonical>,
    /// The text of its negation, where that has a way of its own to be said.
    negated: Option<String>,
}

impl Canonical {
    fn of(condition: &Condition) -> Self {
        let (text, negated) = match condition {
            Condition::And(children) => return Self::joined(children.iter().map(Self::of), Joint::And),
            Condition::Or(children) => return Self::joined(children.iter().map(Self::of), Joint::Or),
            Condition::Not(child) => {
                // Judged by the canonical child: a group of equal conditions is one of them.
                let child = Self::of(child);
                (child.negated.unwrap_or_else(|| format!("not ({})", child.text)), None)
            }
            leaf => (leaf_text(leaf, true), negated_text(leaf)),
        };
        Canonical { text, joint: None, parts: Vec::new(), negated }
    }

    /// Groups of the same kind opened, sorted, each once.
    fn joined(children: impl Iterator<Item = Canonical>, joint: Joint) -> Self {
        let mut parts = Vec::new();
        for child in children {
            if child.joint == Some(joint) {
                parts.extend(child.parts);
            } else {
                parts.push(child);
            }
        }
        parts.sort_by_cached_key(Canonical::as_part);
        parts.dedup_by(|one, other| one.text == other.text);
        if parts.len() == 1
            && let Some(only) = parts.pop()
        {
            return only;
        }
        let text = match &parts[..] {
            [] => joint.of_none().to_owned(),
            _ => parts.iter().map(Canonical::as_part).collect::<Vec<_>>().join(joint.word()),
        };
        Canonical { text, joint: Some(joint), parts, negated: None }
    }

    /// Its text inside another condition: groups stand in parentheses.
    fn as_part(&self) -> String {
        if self.parts.is_empty() { self.text.clone() } else { format!("({})", self.text) }
    }

    fn is_always_true(&self) -> bool {
        self.joint == Some(Joint::And) && self.parts.is_empty()
    }
}

/// The text of what negates a condition, where that has a way of its own to be said.
fn negated_text(condition: &Condition) -> Option<String> {
    match opened(condition) {
        Condition::IsNull(path) => Some(format!("{} is not null", PathText(path))),
        Condition::Like(path, pattern) => Some(format!("{} not like {}", PathText(path), Quoted(pattern, '"'))),
        _ => None,
    }
}

/// The text of a condition that holds no other one. In canonical form the values of a list are sorted, each once.
fn leaf_text(condition: &Condition, canonical: bool) -> String {
    let compared =
        |path: &str, operator: &str, value: &Value| format!("{} {operator} {}", PathText(path), ValueText(value));
    let listed = |path: &str, operator: &str, values: &[Value]| {
        let mut texts: Vec<String> = values.iter().map(|value| ValueText(value).to_string()).collect();
        if canonical {
            texts.sort_unstable();
            texts.dedup();
        }
        format!("{} {operator} ({})", PathText(path), texts.join(", "))
    };
    match condition {
        Condition::Eq(path, value) => compared(path, "=", value),
        Condition::Ne(path, value) => compared(path, "!=", value),
        Condition::Lt(path, value) => compared(path, "<", value),
        Condition::Le(path, value) => compared(path, "<=", value),
        Condition::Gt(path, value) => compared(path, ">", value),
        Condition::Ge(path, value) => compared(path, ">=", value),
        Condition::In(path, values) => listed(path, "in", values),
        Condition::NotIn(path, values) => listed(path, "not in", values),
        Condition::Like(path, pattern) => format!("{} like {}", PathText(path), Quoted(pattern, '"')),
        Condition::IsNull(path) => format!("{} is null", PathText(path)),
        Condition::And(_) | Condition::Or(_) | Condition::Not(_) => Canonical::of(condition).text,
    }
}

/// A column or dotted path: bare when it can't be mistaken for anything else, otherwise between backticks.
struct PathText<'a>(&'a str);

impl fmt::Display for PathText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        let starts_well = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        let goes_on_well = characters.all(|next| next.is_ascii_alphanumeric() || next == '_' || next == '.');
        if starts_well && goes_on_well && !KEYWORDS.iter().any(|keyword| keyword.eq_ignore_ascii_case(self.0)) {
            f.write_str(self.0)
        } else {
            write!(f, "{}", Quoted(self.0, '`'))
        }
    }
}

/// Text between quotation marks, with the mark, backslashes and control characters escaped.
struct Quoted<'a>(&'a str, char);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = self.1;
        f.write_char(mark)?;
        for character in self.0.chars() {
            if character == mark || character == '\\' {
                write!(f, "\\{character}")?;
            } else if character.is_control() {
                write!(f, "\\u{{{:x}}}", u32::from(character))?;
            } else {
                f.write_char(character)?;
            }
        }
        f.write_char(mark)
    }
}

/// A value so that no two different values have the same text: `1`, `1.0` and `"1"` differ.
pub(crate) struct ValueText<'a>(pub(crate) &'a Value);

impl fmt::Display for ValueText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{}", i128::from(*value)),
            // Debug writes the shortest text that reads back as the same float, always with a point or an exponent.
            Value::Float(value) => write!(f, "{value:?}"),
            Value::Text(text) => write!(f, "{}", Quoted(text, '"')),
            Value::Bytes(bytes) => {
                f.write_str("h'")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_char('\'')
            }
            Value::Tag(tag, inner) => match (*tag, &**inner) {
                (TAG_DATETIME, Value::Text(instant)) => write!(f, "datetime({})", Quoted(instant, '"')),
                (TAG_DECIMAL, Value::Array(parts)) => match parts[..] {
                    [Value::Integer(exponent), Value::Integer(mantissa)] => {
                        write!(
                            f,
                            "decimal(\"{}\")",
                            DecimalText { exponent: exponent.into(), mantissa: mantissa.into() }
                        )
                    }
                    _ => write!(f, "tag({tag}, {})", ValueText(inner)),
                },
                _ => write!(f, "tag({tag}, {})", ValueText(inner)),
            },
            Value::Array(items) => {
                f.write_char('[')?;
                for (position, item) in items.iter().enumerate() {
                    let lead = if position == 0 { "" } else { ", " };
                    write!(f, "{lead}{}", ValueText(item))?;
                }
                f.write_char(']')
            }
            Value::Map(entries) => {
                f.write_char('{')?;
                for (position, (key, value)) in entries.iter().enumerate() {
                    let lead = if position == 0 { "" } else { ", " };
                    write!(f, "{lead}{}: {}", ValueText(key), ValueText(value))?;
                }
                f.write_char('}')
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// A decimal so that no two of different digits or exponents have the same text: `19.90`, `7e99`.
struct DecimalText {
    exponent: i128,
    mantissa: i128,
}

/// Decimals with more digits than this behind the point are written with an exponent.
const MAX_DECIMALS: u32 = 38;

impl fmt::Display for DecimalText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DecimalText { exponent, mantissa } = *self;
        match u32::try_from(-exponent) {
            Ok(0) => write!(f, "{mantissa}"),
            Ok(decimals @ 1..=MAX_DECIMALS) => {
                let unit = 10_u128.pow(decimals);
                let sign = if mantissa < 0 { "-" } else { "" };
                let (whole, fraction) = (mantissa.unsigned_abs() / unit, mantissa.unsigned_abs() % unit);
                write!(f, "{sign}{whole}.{fraction:0width$}", width = decimals as usize)
            }
            _ => write!(f, "{mantissa}e{exponent}"),
        }
    }
}
