//! Query: which rows, in which order: conditions, search, sort and window.
//!
//! Flow: a description ([`QueryDescriptor`]) → checked against a schema → compiled ([`Filter`], [`SortKeyer`]) → asked row
//! by row.
//! Invariants: a condition has one meaning everywhere, the truth table of [`Condition`]; the canonical text of two
//! queries is the same only when they ask for the same rows in the same order.

mod builder;
mod filter;
mod lexer;
mod like;
mod parse;
mod search;
pub(crate) mod text;

use std::ops::Range;
use std::sync::Arc;

use crate::value::{IntoValue, MAX_DEPTH, Record, StoredRow, Value, is_deeper_than};
use crate::vista::Schema;
use crate::{Error, ErrorKind, Result};

pub use builder::{Col, col};
pub(crate) use filter::Guard;
pub use filter::{Filter, SortKeyer};
#[cfg(feature = "sqlite")]
pub(crate) use like::LikePattern;
#[cfg(feature = "sqlite")]
pub(crate) use search::Needle;

/// For how many levels conditions may hold conditions. Beyond any filter a person or a program means, and far from the end
/// of a thread's stack.
const MAX_LEVELS: usize = 128;

/// The direction of a sort column. Null and absent come last in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SortDir {
    /// Smallest first.
    #[default]
    Asc,
    /// Largest first.
    Desc,
}

/// How a sort compares text. Everything else compares the same under each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Collation {
    /// By code point: `Bell`, `anvil`, `Ärger`.
    #[default]
    CodePoint,
    /// Whatever its case, by the rule of [`QueryDescriptor::search`]: `anvil`, `Bell`, `Ärger`. Texts that differ in nothing but
    /// case are ordered by code point, then by arrival. Text inside arrays and maps is compared by code point.
    CaseInsensitive,
}

/// One column of a sort.
///
/// ```
/// use diorama::prelude::*;
///
/// let rows = ["Bell", "anvil", "ANVIL"].map(|name| (name, record! { "name" => name }));
/// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("things", "name").with_rows(rows))?;
/// let by_name = dio.table_scenery().sort_with(SortBy::asc("name").case_insensitive()).open()?;
/// let names: Vec<String> = by_name.snapshot().iter().map(|row| row.id().to_owned()).collect();
/// assert_eq!(names, ["ANVIL", "anvil", "Bell"]);
/// # Ok::<(), diorama::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SortBy {
    /// The column or dotted path.
    pub path: Arc<str>,
    /// The direction.
    pub dir: SortDir,
    /// How text is compared.
    pub collation: Collation,
}

impl SortBy {
    /// A sort by `path`, text by code point.
    pub fn new(path: impl Into<Arc<str>>, dir: SortDir) -> Self {
        SortBy { path: path.into(), dir, collation: Collation::default() }
    }

    /// Smallest first by `path`.
    pub fn asc(path: impl Into<Arc<str>>) -> Self {
        Self::new(path, SortDir::Asc)
    }

    /// Largest first by `path`.
    pub fn desc(path: impl Into<Arc<str>>) -> Self {
        Self::new(path, SortDir::Desc)
    }

    /// The same, with text compared whatever its case: [`Collation::CaseInsensitive`]. Written `name nocase desc`.
    #[must_use]
    pub fn case_insensitive(mut self) -> Self {
        self.collation = Collation::CaseInsensitive;
        self
    }
}

/// A part of the rows: `limit` of them from `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// How many rows are left out first.
    pub offset: usize,
    /// How many rows follow at the most.
    pub limit: usize,
}

impl Window {
    /// `limit` rows from `offset` on.
    pub fn new(offset: usize, limit: usize) -> Self {
        Window { offset, limit }
    }

    /// The positions it covers of `length` rows.
    pub fn range_of(self, length: usize) -> Range<usize> {
        let start = self.offset.min(length);
        start..self.offset.saturating_add(self.limit).min(length)
    }
}

/// A condition on one row; two-valued, absent counts as null.
///
/// | operator | on null | between different types |
/// | --- | --- | --- |
/// | `eq`, `is_in` | null equals null only | false |
/// | `ne`, `not_in` | true, unless compared with null | true |
/// | `lt`, `le`, `gt`, `ge`, `like` | false | false |
/// | `is_null` | true | – |
///
/// All numbers are one type and compare exactly. `not` is plain negation. Comparing a column with a value of a type that it
/// never holds is no error: the answer is that of the table, false or true for every row.
///
/// A path is a column's name or reaches into maps (`address.city`); a column of that very name wins.
///
/// [`col`] makes conditions, and so does text: [`Condition::parse`] reads what `Display` writes, for filters that are typed
/// or saved, and for logs.
///
/// ```
/// use diorama::vista::{Condition, col};
///
/// let high_in_usa = col("country").eq("USA").and(col("elevation").ge(1000));
/// assert_eq!(high_in_usa.to_string(), r#"country = "USA" and elevation >= 1000"#);
/// assert_eq!(Condition::parse(r#"country = "USA" and elevation >= 1000"#)?, high_in_usa);
/// # Ok::<(), diorama::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Condition {
    /// Equal.
    Eq(Arc<str>, Value),
    /// Not equal.
    Ne(Arc<str>, Value),
    /// Less than.
    Lt(Arc<str>, Value),
    /// Less than or equal.
    Le(Arc<str>, Value),
    /// Greater than.
    Gt(Arc<str>, Value),
    /// Greater than or equal.
    Ge(Arc<str>, Value),
    /// Equal to one of these.
    In(Arc<str>, Vec<Value>),
    /// Equal to none of these.
    NotIn(Arc<str>, Vec<Value>),
    /// Text that matches a pattern: `%` any text, `_` any one character, `\` takes the next character as it is;
    /// case counts.
    Like(Arc<str>, String),
    /// Null or absent.
    IsNull(Arc<str>),
    /// All of these; true when empty.
    And(Vec<Condition>),
    /// At least one of these; false when empty.
    Or(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
}

/// Which rows, in which order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueryDescriptor {
    /// Conditions that must all hold.
    pub conditions: Vec<Condition>,
    /// Text that must occur, whatever its case, in a searchable column (in any column when the schema calls none
    /// searchable; never in a hidden one): in text, in a number as it is written out (`1000`, not `1e3`), in `true` or
    /// `false`, in a datetime's text, and in any of these inside arrays and maps, whose keys don't count. Case is Unicode's
    /// full case folding, in no particular language, so that `strasse` finds `STRASSE` and `Straße`; besides, `İ` and `ı`
    /// are `i`. Accents count, and composed letters differ from decomposed ones.
    pub search: Option<String>,
    /// The order; ties, and everything without a sort, in the order of arrival.
    pub sort: Vec<SortBy>,
    /// The part of the result that is wanted; `None`: all of it.
    pub window: Option<Window>,
}

impl Condition {
    /// The value at `path` equals `value`; null equals null and absent.
    pub fn eq(path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        Condition::Eq(path.into(), value.into_value())
    }

    /// The value at `path` is another than `value`; true for null and for another type.
    pub fn ne(path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        Condition::Ne(path.into(), value.into_value())
    }

    /// The value at `path` is of the same type as `value` and less.
    pub fn lt(path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        Condition::Lt(path.into(), value.into_value())
    }

    /// The value at `path` is of the same type as `value` and not greater.
    pub fn le(path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        Condition::Le(path.into(), value.into_value())
    }

    /// The value at `path` is of the same type as `value` and greater.
    pub fn gt(path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        Condition::Gt(path.into(), value.into_value())
    }

    /// The value at `path` is of the same type as `value` and not less.
    pub fn ge(path: impl Into<Arc<str>>, value: impl IntoValue) -> Self {
        Condition::Ge(path.into(), value.into_value())
    }

    /// The value at `path` equals one of `values`; false when there are none.
    pub fn is_in<V: IntoValue>(path: impl Into<Arc<str>>, values: impl IntoIterator<Item = V>) -> Self {
        Condition::In(path.into(), values.into_iter().map(V::into_value).collect())
    }

    /// The value at `path` equals none of `values`; true when there are none.
    pub fn not_in<V: IntoValue>(path: impl Into<Arc<str>>, values: impl IntoIterator<Item = V>) -> Self {
        Condition::NotIn(path.into(), values.into_iter().map(V::into_value).collect())
    }

    /// The value at `path` is text that matches `pattern` from end to end: `%` any text, `_` any one character, `\`
    /// takes the next character as it is; case counts.
    pub fn like(path: impl Into<Arc<str>>, pattern: impl Into<String>) -> Self {
        Condition::Like(path.into(), pattern.into())
    }

    /// The value at `path` is null or absent.
    pub fn is_null(path: impl Into<Arc<str>>) -> Self {
        Condition::IsNull(path.into())
    }

    /// The columns and dotted paths it looks at, each once, in the order of their first mention.
    pub fn paths(&self) -> Vec<&Arc<str>> {
        let mut paths = Vec::new();
        // It gives no reason to stop.
        let _ = self.each_clause(&mut |path, _| {
            if !paths.contains(&path) {
                paths.push(path);
            }
            Ok(())
        });
        paths
    }

    /// Whether conditions in it hold conditions for more than so many levels.
    fn is_deeper_than(&self, levels: usize) -> bool {
        let inner = match self {
            Condition::And(children) | Condition::Or(children) => children.as_slice(),
            Condition::Not(child) => std::slice::from_ref(&**child),
            _ => return false,
        };
        levels == 0 || inner.iter().any(|child| child.is_deeper_than(levels - 1))
    }

    /// The values that it compares with itself, not in conditions that it holds.
    fn values(&self) -> &[Value] {
        match self {
            Condition::Eq(_, value)
            | Condition::Ne(_, value)
            | Condition::Lt(_, value)
            | Condition::Le(_, value)
            | Condition::Gt(_, value)
            | Condition::Ge(_, value) => std::slice::from_ref(value),
            Condition::In(_, values) | Condition::NotIn(_, values) => values,
            _ => &[],
        }
    }

    /// Calls `each` with every condition in it that holds no other one, and the path which that one looks at.
    fn each_clause<'a>(&'a self, each: &mut dyn FnMut(&'a Arc<str>, &'a Condition) -> Result<()>) -> Result<()> {
        match self {
            Condition::Eq(path, _)
            | Condition::Ne(path, _)
            | Condition::Lt(path, _)
            | Condition::Le(path, _)
            | Condition::Gt(path, _)
            | Condition::Ge(path, _)
            | Condition::In(path, _)
            | Condition::NotIn(path, _)
            | Condition::Like(path, _)
            | Condition::IsNull(path) => each(path, self),
            Condition::And(children) | Condition::Or(children) => {
                children.iter().try_for_each(|child| child.each_clause(each))
            }
            Condition::Not(child) => child.each_clause(each),
        }
    }

    /// Whether every path in it can mean something in a table of this schema. The types of the values are not checked: see
    /// the table above. Whatever takes conditions checks them.
    ///
    /// ```
    /// use diorama::vista::{Column, ColumnType, Schema, col};
    ///
    /// let schema = Schema::new("id").with(Column::new("id", ColumnType::Text)).with(Column::new("price", ColumnType::Int));
    /// let error = col("price").lt(10).and(!col("prize").gt(1)).check(&schema).unwrap_err();
    /// assert_eq!((error.context("column"), error.context("clause")), (Some("prize"), Some("prize > 1")));
    /// ```
    ///
    /// # Errors
    /// `NotFound`, naming the column and, of a nested condition, the innermost clause, when the schema is known and lacks
    /// the column. `Invalid` when conditions nest deeper than 128 levels, or a value deeper than
    /// [`MAX_DEPTH`](crate::value::MAX_DEPTH).
    pub fn check(&self, schema: &Schema) -> Result<()> {
        if self.is_deeper_than(MAX_LEVELS) {
            let what = format!("the condition nests deeper than {MAX_LEVELS} levels; make it flatter");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        self.each_clause(&mut |path, clause| {
            if clause.values().iter().any(|value| is_deeper_than(value, MAX_DEPTH)) {
                let what = format!("the value nests deeper than {MAX_DEPTH} levels; no row has such a value");
                return Err(Error::new(ErrorKind::Invalid, what).with("column", path.to_string()));
            }
            Ok(())
        })?;
        self.each_clause(&mut |path, clause| {
            schema.check_path(path).map_err(|error| error.with("clause", shortened(&clause.to_string())))
        })
    }
}

/// At most two hundred characters of a text, for an error.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl QueryDescriptor {
    /// All rows in the order of arrival.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition that must hold too.
    #[must_use]
    pub fn filtered(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Adds a sort column after those that are there.
    #[must_use]
    pub fn sorted(mut self, path: impl Into<Arc<str>>, dir: SortDir) -> Self {
        self.sort.push(SortBy::new(path, dir));
        self
    }

    /// Adds a sort column with a collation of its own after those that are there.
    #[must_use]
    pub fn sorted_with(mut self, by: SortBy) -> Self {
        self.sort.push(by);
        self
    }

    /// Sets the text to search for.
    #[must_use]
    pub fn searching(mut self, text: impl Into<String>) -> Self {
        self.search = Some(text.into());
        self
    }

    /// Sets the part of the result that is wanted.
    #[must_use]
    pub fn windowed(mut self, offset: usize, limit: usize) -> Self {
        self.window = Some(Window::new(offset, limit));
        self
    }

    /// Whether it asks for all rows in the order of arrival. An empty search text asks for nothing.
    pub fn is_empty(&self) -> bool {
        !self.is_filtered() && self.sort.is_empty() && self.window.is_none()
    }

    /// Whether a condition or a search may leave rows out.
    pub fn is_filtered(&self) -> bool {
        !self.conditions.is_empty() || self.search_text().is_some()
    }

    /// The text searched for, `None` when there is none or it is empty.
    pub fn search_text(&self) -> Option<&str> {
        self.search.as_deref().filter(|text| !text.is_empty())
    }

    /// The same without its window.
    #[must_use]
    pub fn without_window(&self) -> Self {
        QueryDescriptor { window: None, ..self.clone() }
    }

    /// Whether it can be asked of a table of this schema.
    ///
    /// # Errors
    /// `NotFound` for a column that a known schema lacks, `Unsupported` for a sort by a column that rows can't be ordered
    /// by; both name the column and the clause.
    pub fn check(&self, schema: &Schema) -> Result<()> {
        for condition in &self.conditions {
            condition.check(schema)?;
        }
        for sort in &self.sort {
            sort.check(schema)?;
        }
        Ok(())
    }

    /// The query over plain rows: filter, search, stable sort, window. Blocks for the time it takes to compute.
    ///
    /// A path that no row has is null in every row; see [`check`](Self::check).
    ///
    /// ```
    /// use diorama::record;
    /// use diorama::vista::{Condition, QueryDescriptor, Schema, SortDir};
    ///
    /// let rows = vec![
    ///     ("a".to_string(), record! { "price" => 3 }),
    ///     ("b".to_string(), record! { "price" => 1 }),
    ///     ("c".to_string(), record! { "price" => 2 }),
    /// ];
    /// let query = QueryDescriptor::new().filtered(Condition::gt("price", 1)).sorted("price", SortDir::Asc);
    /// let ids: Vec<String> = query.apply(rows, &Schema::open("id")).into_iter().map(|(id, _)| id).collect();
    /// assert_eq!(ids, ["c", "a"]);
    /// ```
    pub fn apply(&self, rows: Vec<(String, Record)>, schema: &Schema) -> Vec<(String, Record)> {
        self.apply_by(rows, schema, |(id, record)| (id, record))
    }

    /// [`apply`](Self::apply) over anything that has an id and a record.
    pub(crate) fn apply_by<T>(
        &self,
        mut rows: Vec<T>,
        schema: &Schema,
        parts: impl Fn(&T) -> (&str, &Record),
    ) -> Vec<T> {
        if self.is_filtered() || !self.sort.is_empty() {
            let filter = Filter::new(self, schema);
            let keyer = SortKeyer::new(&self.sort);
            let mut keyed = Vec::with_capacity(rows.len());
            for row in rows {
                let (id, record) = parts(&row);
                let stored = StoredRow::encode(id, record, 0);
                let fields = stored.fields();
                if filter.matches(fields) {
                    let mut key = Vec::new();
                    keyer.encode(fields, &mut key);
                    keyed.push((key, row));
                }
            }
            if !self.sort.is_empty() {
                keyed.sort_by(|(left, _), (right, _)| left.cmp(right));
            }
            rows = keyed.into_iter().map(|(_, row)| row).collect();
        }
        if let Some(window) = self.window {
            let range = window.range_of(rows.len());
            rows.truncate(range.end);
            rows.drain(..range.start);
        }
        rows
    }
}

impl SortBy {
    /// Whether rows of a table of this schema can be ordered by it.
    ///
    /// # Errors
    /// `NotFound` for a column that a known schema lacks, `Unsupported` for one that rows can't be ordered by; both name
    /// the column and the clause.
    pub fn check(&self, schema: &Schema) -> Result<()> {
        let with_clause = |error: Error| error.with("clause", shortened(&format!("order by {self}")));
        schema.check_path(&self.path).map_err(with_clause)?;
        let first = self.path.split('.').next().unwrap_or(&self.path);
        match schema.column(&self.path).or_else(|| schema.column(first)) {
            Some(column) if !column.is_orderable() => Err(with_clause(
                Error::new(ErrorKind::Unsupported, "rows can't be ordered by this column; leave it out of the sort")
                    .with("column", column.name()),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
