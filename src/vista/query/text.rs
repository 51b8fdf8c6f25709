//! Query text: conditions and queries as text, for people and as keys.
//!
//! Invariants: the canonical text depends on nothing but the query, so that it can name a table on disk for years; two
//! different values never have the same text (`canonical_texts_of_different_values_differ`).

use std::fmt::{self, Write};

use crate::value::Value;
use crate::vista::query::search::folded;
use crate::vista::{Condition, QueryDescriptor, SortBy, SortDir};

/// Words that a bare column name must not be.
const KEYWORDS: [&str; 18] = [
    "and", "asc", "by", "desc", "false", "in", "is", "like", "limit", "not", "null", "offset", "or", "order", "search",
    "true", "where", "tag",
];

impl QueryDescriptor {
    /// The query as a text that is the same for equal queries, whatever the order of their conditions, and differs for
    /// different ones. Empty for the query of all rows.
    ///
    /// ```
    /// use diorama::vista::{Condition, QueryDescriptor, SortDir};
    ///
    /// let query = QueryDescriptor::new().filtered(Condition::eq("state", "TX")).sorted("name", SortDir::Desc);
    /// assert_eq!(query.canonical(), r#"where state = "TX" order by name desc"#);
    /// ```
    pub fn canonical(&self) -> String {
        let mut parts = Vec::new();
        let conjuncts = canonical_children(&self.conditions, Joint::And);
        if !conjuncts.is_empty() {
            parts.push(format!("where {}", conjuncts.join(" and ")));
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

impl fmt::Display for Condition {
    /// The condition for people, in the order in which it was written: `country = "USA" and not (elevation < 10)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::And(children) => write_joined(f, children, Joint::And),
            Condition::Or(children) => write_joined(f, children, Joint::Or),
            Condition::Not(child) => write!(f, "not ({child})"),
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
        write!(f, "{}{direction}", PathText(&self.path))
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

fn write_joined(f: &mut fmt::Formatter<'_>, children: &[Condition], joint: Joint) -> fmt::Result {
    if children.is_empty() {
        return f.write_str(joint.of_none());
    }
    for (position, child) in children.iter().enumerate() {
        if position > 0 {
            f.write_str(joint.word())?;
        }
        match child {
            Condition::And(inner) | Condition::Or(inner) if inner.len() > 1 && children.len() > 1 => {
                write!(f, "({child})")?;
            }
            _ => write!(f, "{child}")?,
        }
    }
    Ok(())
}

/// The texts of a group's children, groups of the same kind opened, sorted, each once.
fn canonical_children(children: &[Condition], joint: Joint) -> Vec<String> {
    let mut texts = Vec::new();
    for child in children {
        match (child, joint) {
            (Condition::And(inner), Joint::And) | (Condition::Or(inner), Joint::Or) => {
                texts.extend(canonical_children(inner, joint));
            }
            _ => texts.push(canonical_condition(child)),
        }
    }
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// A condition's text inside another one: groups stand in parentheses.
fn canonical_condition(condition: &Condition) -> String {
    let group = |children: &[Condition], joint: Joint| {
        let texts = canonical_children(children, joint);
        match &texts[..] {
            [] => joint.of_none().to_string(),
            [only] => only.clone(),
            _ => format!("({})", texts.join(joint.word())),
        }
    };
    match condition {
        Condition::And(children) => group(children, Joint::And),
        Condition::Or(children) => group(children, Joint::Or),
        Condition::Not(child) => format!("not ({})", canonical_condition(child)),
        leaf => leaf_text(leaf, true),
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
        Condition::And(_) | Condition::Or(_) | Condition::Not(_) => canonical_condition(condition),
    }
}

/// A column or dotted path: bare when it can't be mistaken for anything else, otherwise between backticks.
struct PathText<'a>(&'a str);

impl fmt::Display for PathText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        let starts_well = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
        let goes_on_well = characters.all(|next| next.is_ascii_alphanumeric() || next == '_' || next == '.');
        if starts_well && goes_on_well && !KEYWORDS.contains(&self.0) {
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
            } else if character < ' ' || character == '\u{7f}' {
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
            Value::Tag(tag, inner) => write!(f, "tag({tag}, {})", ValueText(inner)),
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
