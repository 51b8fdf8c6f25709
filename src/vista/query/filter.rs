//! Filter: a query compiled for asking it of many rows, field by field from their bytes.
//!
//! Invariants: the truth table of [`Condition`] and nothing else (`every_operator_follows_the_truth_table`); one row
//! allocates nothing, save where its text was stored in several pieces, maps are compared or a key disregards case.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::value::{
    Path, RowRef, TypeRank, Value, ValueRef, compare, compare_ref_to_value, compare_refs, encode_sort_key, type_rank,
};
use crate::vista::query::like::LikePattern;
use crate::vista::query::search::{Needle, folded};
use crate::vista::{Collation, Condition, QueryDescriptor, Schema, SortBy, SortDir};

/// The conditions and the search of a query, compiled. Its sort and window don't count here.
///
/// ```
/// use diorama::record;
/// use diorama::value::StoredRow;
/// use diorama::vista::{Condition, Filter, QueryDescriptor, Schema};
///
/// let query = QueryDescriptor::new().filtered(Condition::gt("elevation", 300));
/// let filter = Filter::new(&query, &Schema::open("id"));
/// let row = StoredRow::encode("00M", &record! { "elevation" => 351.0 }, 0);
/// assert!(filter.matches(row.fields()));
/// ```
#[derive(Debug, Clone)]
pub struct Filter {
    tests: Vec<Test>,
    search: Option<Search>,
}

#[derive(Debug, Clone)]
enum Test {
    Equal(Path, Value),
    Ordered {
        path: Path,
        value: Value,
        rank: TypeRank,
        less: bool,
        equal: bool,
        greater: bool,
    },
    /// The values in order.
    OneOf(Path, Vec<Value>),
    Like(Path, LikePattern),
    Null(Path),
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
}

#[derive(Debug, Clone)]
struct Search {
    needle: Needle,
    columns: Columns,
}

#[derive(Debug, Clone)]
enum Columns {
    These(Vec<Path>),
    AllBut(Vec<String>),
}

impl Filter {
    /// Compiles the conditions and the search of `query` for rows of a table of this schema.
    pub fn new(query: &QueryDescriptor, schema: &Schema) -> Self {
        let search = query.search_text().map(|text| Search { needle: Needle::new(text), columns: columns_of(schema) });
        Filter { tests: query.conditions.iter().map(Test::new).collect(), search }
    }

    /// Whether it lets every row through.
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty() && self.search.is_none()
    }

    /// The text searched for, folded.
    pub(crate) fn needle(&self) -> Option<&str> {
        self.search.as_ref().map(|search| search.needle.as_str())
    }

    /// What every row that matches has in one column: the narrowest that the conditions say.
    pub(crate) fn guard(&self) -> Option<Guard> {
        let mut guards: Vec<Guard> = Vec::new();
        collect_guards(&self.tests, &mut guards);
        guards.into_iter().min_by_key(Guard::width)
    }

    /// Whether the row is one that the query asks for.
    pub fn matches(&self, row: RowRef<'_>) -> bool {
        self.tests.iter().all(|test| test.holds(row)) && self.search.as_ref().is_none_or(|search| search.finds(row))
    }
}

/// A necessary condition of a query, in encoded sort keys of one column.
#[derive(Debug, Clone)]
pub(crate) enum Guard {
    /// The column has one of these keys.
    Points(Path, Vec<Box<[u8]>>),
    /// Its key is not below the first nor above the second (`None`: there is no end).
    Range(Path, Box<[u8]>, Option<Box<[u8]>>),
}

impl Guard {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Guard::Points(path, _) | Guard::Range(path, ..) => path,
        }
    }

    /// Less is narrower, as far as can be told without the rows.
    fn width(&self) -> usize {
        const HALF_OPEN: usize = usize::MAX;
        const CLOSED: usize = usize::MAX - 1;
        match self {
            Guard::Points(_, keys) => keys.len(),
            Guard::Range(_, low, Some(_)) if !low.is_empty() => CLOSED,
            Guard::Range(..) => HALF_OPEN,
        }
    }
}

fn key_of(value: &Value) -> Box<[u8]> {
    let mut key = Vec::new();
    encode_sort_key(Some(ValueRef::from(value)), false, &mut key);
    key.into()
}

/// The guards of tests that must all hold; ranges of one column are made one.
fn collect_guards(tests: &[Test], guards: &mut Vec<Guard>) {
    for test in tests {
        match test {
            Test::Equal(path, value) => guards.push(Guard::Points(path.clone(), vec![key_of(value)])),
            Test::OneOf(path, values) => {
                let mut keys: Vec<Box<[u8]>> = values.iter().map(key_of).collect();
                keys.dedup();
                guards.push(Guard::Points(path.clone(), keys));
            }
            Test::Null(path) => guards.push(Guard::Points(path.clone(), vec![key_of(&Value::Null)])),
            Test::Ordered { path, value, less, greater, .. } => {
                let key = key_of(value);
                let mut low = if *less { Box::default() } else { key.clone() };
                let mut high = if *greater { None } else { Some(key) };
                guards.retain(|guard| match guard {
                    Guard::Range(other, other_low, other_high) if other == path => {
                        low = std::cmp::max(other_low.clone(), std::mem::take(&mut low));
                        high = match (other_high.clone(), high.take()) {
                            (Some(a), Some(b)) => Some(a.min(b)),
                            (a, b) => a.or(b),
                        };
                        false
                    }
                    _ => true,
                });
                guards.push(Guard::Range(path.clone(), low, high));
            }
            Test::All(inner) => collect_guards(inner, guards),
            Test::Like(..) | Test::Any(_) | Test::Not(_) => {}
        }
    }
}

/// What a search looks into: the searchable columns, or all when there are none; hidden ones never.
fn columns_of(schema: &Schema) -> Columns {
    let columns = schema.columns();
    if columns.iter().any(|column| column.is_searchable()) {
        let shown = columns.iter().filter(|column| column.is_searchable() && !column.is_hidden());
        Columns::These(shown.map(|column| Path::new(column.name())).collect())
    } else {
        let hidden = columns.iter().filter(|column| column.is_hidden());
        Columns::AllBut(hidden.map(|column| column.name().to_string()).collect())
    }
}

impl Search {
    fn finds(&self, row: RowRef<'_>) -> bool {
        match &self.columns {
            Columns::These(paths) => {
                paths.iter().any(|path| row.get_path(path).is_some_and(|value| self.needle.is_in(value)))
            }
            Columns::AllBut(hidden) if hidden.is_empty() => {
                let needle = &self.needle;
                row.any_value(
                    |text| needle.is_in_ascii(text),
                    |integer| needle.is_in_integer(integer),
                    |value| needle.is_in(value),
                )
            }
            Columns::AllBut(hidden) => {
                row.iter().any(|(name, value)| !hidden.iter().any(|one| one == name) && self.needle.is_in(value))
            }
        }
    }
}

impl Test {
    fn new(condition: &Condition) -> Self {
        let ordered = |path: &str, value: &Value, less: bool, equal: bool, greater: bool| Test::Ordered {
            path: Path::new(path),
            value: value.clone(),
            rank: type_rank(ValueRef::from(value)),
            less,
            equal,
            greater,
        };
        let one_of = |path: &str, values: &[Value]| {
            let mut values = values.to_vec();
            values.sort_by(compare);
            Test::OneOf(Path::new(path), values)
        };
        match condition {
            Condition::Eq(path, value) => Test::Equal(Path::new(path), value.clone()),
            Condition::Ne(path, value) => Test::Not(Box::new(Test::Equal(Path::new(path), value.clone()))),
            Condition::Lt(path, value) => ordered(path, value, true, false, false),
            Condition::Le(path, value) => ordered(path, value, true, true, false),
            Condition::Gt(path, value) => ordered(path, value, false, false, true),
            Condition::Ge(path, value) => ordered(path, value, false, true, true),
            Condition::In(path, values) => one_of(path, values),
            Condition::NotIn(path, values) => Test::Not(Box::new(one_of(path, values))),
            Condition::Like(path, pattern) => Test::Like(Path::new(path), LikePattern::new(pattern)),
            Condition::IsNull(path) => Test::Null(Path::new(path)),
            Condition::And(children) => Test::All(children.iter().map(Test::new).collect()),
            Condition::Or(children) => Test::Any(children.iter().map(Test::new).collect()),
            Condition::Not(child) => Test::Not(Box::new(Test::new(child))),
        }
    }

    fn holds(&self, row: RowRef<'_>) -> bool {
        match self {
            Test::Equal(path, value) => {
                compare_refs(row.get_path(path), Some(ValueRef::from(value))) == Ordering::Equal
            }
            Test::Ordered { path, value, rank, less, equal, greater } => {
                let Some(found) = row.get_path(path) else { return false };
                if *rank == TypeRank::Null || type_rank(found) != *rank {
                    return false;
                }
                match compare_ref_to_value(found, value) {
                    Ordering::Less => *less,
                    Ordering::Equal => *equal,
                    Ordering::Greater => *greater,
                }
            }
            Test::OneOf(path, values) => {
                let found = row.get_path(path).unwrap_or(ValueRef::Null);
                values.binary_search_by(|value| compare_ref_to_value(found, value).reverse()).is_ok()
            }
            Test::Like(path, pattern) => match row.get_path(path) {
                Some(ValueRef::Text(text)) => pattern.matches(text),
                Some(found) if type_rank(found) == TypeRank::Text => {
                    found.text().is_some_and(|text| pattern.matches(&text))
                }
                _ => false,
            },
            Test::Null(path) => row.get_path(path).is_none_or(|found| type_rank(found) == TypeRank::Null),
            Test::All(tests) => tests.iter().all(|test| test.holds(row)),
            Test::Any(tests) => tests.iter().any(|test| test.holds(row)),
            Test::Not(test) => !test.holds(row),
        }
    }
}

/// Encodes the sort columns of a row so that comparing the bytes of two rows orders them.
#[derive(Debug, Clone)]
pub struct SortKeyer(Vec<KeyColumn>);

#[derive(Debug, Clone)]
struct KeyColumn {
    path: Path,
    descending: bool,
    collation: Collation,
}

impl SortKeyer {
    /// A keyer for these sort columns, the first one deciding first.
    pub fn new(sort: &[SortBy]) -> Self {
        let column = |by: &SortBy| KeyColumn {
            path: Path::new(&by.path),
            descending: by.dir == SortDir::Desc,
            collation: by.collation,
        };
        SortKeyer(sort.iter().map(column).collect())
    }

    /// Whether every key is empty: there are no sort columns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the row's key to `key`. Rows with the same key keep the order of their arrival.
    pub fn encode(&self, row: RowRef<'_>, key: &mut Vec<u8>) {
        for KeyColumn { path, descending, collation } in &self.0 {
            let value = row.get_path(path);
            if let (Collation::CaseInsensitive, Some(text)) = (collation, value.and_then(as_text)) {
                // The folded text decides; the text itself, behind it, between those that fold alike.
                let folded: String = folded(&text).collect();
                encode_sort_key(Some(ValueRef::Text(&folded)), *descending, key);
            }
            encode_sort_key(value, *descending, key);
        }
    }
}

/// What the order takes for text.
fn as_text(value: ValueRef<'_>) -> Option<Cow<'_, str>> {
    (type_rank(value) == TypeRank::Text).then(|| value.text())?
}
