//! Path: a dotted name that reaches into maps, `address.city`.
//!
//! Invariants: at each level a column of the very whole name wins; only then is the first segment looked up and the
//! rest sought in it, by the same rule.

use std::fmt;
use std::sync::Arc;

use super::{MapRef, Value, ValueRef};

/// A dotted path, taken apart once. Cheap to clone.
///
/// ```
/// use diorama::value::{Path, StoredRow, Value};
/// use diorama::record;
///
/// let address = Value::Map(vec![("city".into(), "Riga".into())]);
/// let row = StoredRow::encode("1", &record! { "address" => address }, 0);
/// let city = row.fields().get_path(&Path::new("address.city"));
/// assert_eq!(city.and_then(|city| city.as_str()), Some("Riga"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path {
    full: Arc<str>,
    is_dotted: bool,
}

impl Path {
    /// The path of this name. Any text is a path; one without a dot is simply a column.
    pub fn new(path: &str) -> Self {
        Path { full: path.into(), is_dotted: path.contains('.') }
    }

    /// The path as it was given.
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The part before the first dot: the column that a schema would know, unless it has one of the whole name.
    pub fn first_segment(&self) -> &str {
        split(&self.full).map_or(&*self.full, |(first, _)| first)
    }

    #[inline]
    pub(super) fn find<'a>(&self, map: MapRef<'a>) -> Option<ValueRef<'a>> {
        match map.get(&self.full) {
            None if self.is_dotted => find_below(map, &self.full),
            found => found,
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Path({:?})", self.full)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl From<&str> for Path {
    fn from(path: &str) -> Self {
        Path::new(path)
    }
}

fn split(path: &str) -> Option<(&str, &str)> {
    path.split_once('.')
}

#[inline]
pub(super) fn find<'a>(map: MapRef<'a>, path: &str) -> Option<ValueRef<'a>> {
    map.get(path).or_else(|| find_below(map, path))
}

fn find_below<'a>(mut map: MapRef<'a>, mut path: &str) -> Option<ValueRef<'a>> {
    while let Some((first, rest)) = split(path) {
        map = match map.get(first)?.untagged() {
            ValueRef::Map(inner) => inner,
            _ => return None,
        };
        if let Some(found) = map.get(rest) {
            return Some(found);
        }
        path = rest;
    }
    None
}

/// The same rule over values in memory: `path` is sought in `value`, which must be a map, also behind tags.
pub(super) fn find_in_value<'a>(mut value: &'a Value, mut path: &str) -> Option<&'a Value> {
    loop {
        while let Value::Tag(_, inner) = value {
            value = inner;
        }
        let Value::Map(entries) = value else { return None };
        let get = |name: &str| {
            let entry = entries.iter().find(|(key, _)| matches!(key, Value::Text(text) if text == name));
            entry.map(|(_, value)| value)
        };
        if let Some(found) = get(path) {
            return Some(found);
        }
        let (first, rest) = split(path)?;
        value = get(first)?;
        path = rest;
    }
}
