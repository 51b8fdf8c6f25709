//! Builder: conditions written as they are read, `col("price").lt(10).and(col("state").is_in(["TX", "OK"]))`.
//!
//! Not here: what a condition means ([`Condition`]); conditions as text (`text`, `parse`).

use std::ops::Not;
use std::sync::Arc;

use crate::value::IntoValue;
use crate::vista::Condition;

/// A column or dotted path to make a condition of; see [`Col`].
pub fn col(path: impl Into<Arc<str>>) -> Col {
    Col(path.into())
}

/// A column or dotted path (`address.city`), made by [`col`]; each method makes a [`Condition`] on its value.
///
/// ```
/// use diorama::vista::col;
///
/// let cheap = col("price").lt(10).and(col("state").is_in(["TX", "OK"]));
/// assert_eq!(cheap.to_string(), r#"price < 10 and state in ("TX", "OK")"#);
/// assert_eq!((!cheap).to_string(), r#"not (price < 10 and state in ("TX", "OK"))"#);
/// ```
#[derive(Debug, Clone)]
#[must_use = "a column alone is no condition"]
pub struct Col(Arc<str>);

impl Col {
    /// Equals `value`; null equals null and absent.
    pub fn eq(&self, value: impl IntoValue) -> Condition {
        Condition::eq(self.0.clone(), value)
    }

    /// Is another than `value`; true for null and for another type.
    pub fn ne(&self, value: impl IntoValue) -> Condition {
        Condition::ne(self.0.clone(), value)
    }

    /// Is of the same type as `value` and less.
    pub fn lt(&self, value: impl IntoValue) -> Condition {
        Condition::lt(self.0.clone(), value)
    }

    /// Is of the same type as `value` and not greater.
    pub fn le(&self, value: impl IntoValue) -> Condition {
        Condition::le(self.0.clone(), value)
    }

    /// Is of the same type as `value` and greater.
    pub fn gt(&self, value: impl IntoValue) -> Condition {
        Condition::gt(self.0.clone(), value)
    }

    /// Is of the same type as `value` and not less.
    pub fn ge(&self, value: impl IntoValue) -> Condition {
        Condition::ge(self.0.clone(), value)
    }

    /// Is not less than `low` and not greater than `high`: `ge(low).and(le(high))`.
    pub fn between(&self, low: impl IntoValue, high: impl IntoValue) -> Condition {
        self.ge(low).and(self.le(high))
    }

    /// Equals one of `values`; false when there are none.
    pub fn is_in<V: IntoValue>(&self, values: impl IntoIterator<Item = V>) -> Condition {
        Condition::is_in(self.0.clone(), values)
    }

    /// Equals none of `values`; true when there are none.
    pub fn not_in<V: IntoValue>(&self, values: impl IntoIterator<Item = V>) -> Condition {
        Condition::not_in(self.0.clone(), values)
    }

    /// Is text that matches `pattern` from end to end: `%` any text, `_` any one character, `\` takes the next character
    /// as it is; case counts.
    pub fn like(&self, pattern: impl Into<String>) -> Condition {
        Condition::like(self.0.clone(), pattern)
    }

    /// Is text that begins with exactly this.
    pub fn starts_with(&self, text: &str) -> Condition {
        self.like(format!("{}%", literally(text)))
    }

    /// Is text that ends with exactly this.
    pub fn ends_with(&self, text: &str) -> Condition {
        self.like(format!("%{}", literally(text)))
    }

    /// Is text in which exactly this occurs; case counts, other than in a search.
    pub fn contains(&self, text: &str) -> Condition {
        self.like(format!("%{}%", literally(text)))
    }

    /// Is null or absent.
    pub fn is_null(&self) -> Condition {
        Condition::is_null(self.0.clone())
    }

    /// Is neither null nor absent.
    pub fn is_not_null(&self) -> Condition {
        !self.is_null()
    }
}

/// The pattern that matches this text alone.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

impl Condition {
    /// All of `conditions`; true when there are none.
    pub fn all(conditions: impl IntoIterator<Item = Condition>) -> Self {
        Condition::And(conditions.into_iter().collect())
    }

    /// At least one of `conditions`; false when there are none.
    pub fn any(conditions: impl IntoIterator<Item = Condition>) -> Self {
        Condition::Or(conditions.into_iter().collect())
    }

    /// This and `other`. Each call binds what stands before it: `a.or(b).and(c)` is `(a or b) and c`. A chain of one kind
    /// stays flat, whichever end it grows at.
    #[must_use]
    pub fn and(self, other: Condition) -> Self {
        match (self, other) {
            (Condition::And(mut first), Condition::And(more)) => {
                first.extend(more);
                Condition::And(first)
            }
            (Condition::And(mut first), other) => {
                first.push(other);
                Condition::And(first)
            }
            (first, Condition::And(mut more)) if !more.is_empty() => {
                more.insert(0, first);
                Condition::And(more)
            }
            (first, other) => Condition::And(vec![first, other]),
        }
    }

    /// This or `other`. Each call binds what stands before it: `a.and(b).or(c)` is `(a and b) or c`. A chain of one kind
    /// stays flat, whichever end it grows at.
    #[must_use]
    pub fn or(self, other: Condition) -> Self {
        match (self, other) {
            (Condition::Or(mut first), Condition::Or(more)) => {
                first.extend(more);
                Condition::Or(first)
            }
            (Condition::Or(mut first), other) => {
                first.push(other);
                Condition::Or(first)
            }
            (first, Condition::Or(mut more)) if !more.is_empty() => {
                more.insert(0, first);
                Condition::Or(more)
            }
            (first, other) => Condition::Or(vec![first, other]),
        }
    }

    /// Not this; the same as `!`.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "it is implemented; this one needs no import")]
    pub fn not(self) -> Self {
        Condition::Not(Box::new(self))
    }
}

impl Not for Condition {
    type Output = Condition;

    fn not(self) -> Condition {
        Condition::not(self)
    }
}
