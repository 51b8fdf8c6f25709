//! Record: a row in memory, an ordered map from column to value, and the ways in and out of it.
//!
//! Invariants: columns keep the order in which they first came; equality ignores that order.

use std::fmt;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;
use indexmap::IndexMap;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{MAX_DEPTH, Value, ValueRef, path, same_value, typed};
use crate::{Error, ErrorKind, Result};

/// A row in memory: columns and their values, in the order they came.
///
/// Two records are equal when they have the same fields with equal canonical values, in whatever order; 1 and 1.0
/// differ, NaN equals NaN.
///
/// ```
/// use diorama::record;
///
/// let row = record! { "name" => "Thigpen Field", "elevation" => 351, "closed" => None::<bool> };
/// assert_eq!(row.text("name"), Some("Thigpen Field"));
/// assert_eq!(row.int("elevation"), Some(351));
/// assert!(row.get("closed").is_some_and(|value| value.is_null()));
/// ```
#[derive(Clone, Default)]
pub struct Record {
    fields: IndexMap<Arc<str>, Value, DefaultHashBuilder>,
}

impl Record {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty record with room for this many fields.
    pub fn with_capacity(fields: usize) -> Self {
        Record { fields: IndexMap::with_capacity_and_hasher(fields, DefaultHashBuilder::default()) }
    }

    /// Sets a column and returns its former value. A column that exists keeps its place.
    pub fn insert(&mut self, name: impl Into<Arc<str>>, value: impl IntoValue) -> Option<Value> {
        self.fields.insert(name.into(), value.into_value())
    }

    pub(super) fn insert_if_absent(&mut self, name: &str, value: Value) {
        self.fields.entry(name.into()).or_insert(value);
    }

    /// The value of the column of exactly this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// The value at a dotted path that reaches into maps (`address.city`). At each level a column of the very whole
    /// name wins.
    pub fn get_path(&self, path: &str) -> Option<&Value> {
        if let Some(found) = self.get(path) {
            return Some(found);
        }
        let (first, rest) = path.split_once('.')?;
        path::find_in_value(self.get(first)?, rest)
    }

    /// The value of the column of exactly this name, to be changed in place.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.fields.get_mut(name)
    }

    /// Takes a column out; the others keep their order.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.fields.shift_remove(name)
    }

    /// Is there a column of exactly this name (null or not)?
    pub fn contains(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Is there no column?
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The columns and their values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + DoubleEndedIterator {
        self.fields.iter().map(|(name, value)| (&**name, value))
    }

    /// The names of the columns, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator {
        self.fields.keys().map(|name| &**name)
    }

    /// The text in this column, also behind tags; `None` when absent or something else.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value_ref(name)?.as_str()
    }

    /// The integer in this column, also behind tags; `None` when absent, something else or too large.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.value_ref(name)?.as_i64()
    }

    /// The number in this column, also behind tags; integers and decimals become the nearest float.
    pub fn float(&self, name: &str) -> Option<f64> {
        self.value_ref(name)?.as_f64()
    }

    /// The boolean in this column, also behind tags.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.value_ref(name)?.as_bool()
    }

    /// The bytes in this column, also behind tags.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        match self.value_ref(name)?.untagged() {
            ValueRef::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn value_ref(&self, name: &str) -> Option<ValueRef<'_>> {
        self.get(name).map(ValueRef::from)
    }

    /// Lays a patch over this record: its fields win, new ones come last.
    pub fn merge(&mut self, patch: &Record) {
        self.fields.extend(patch.fields.iter().map(|(name, value)| (Arc::clone(name), value.clone())));
    }

    /// Do both have the same fields with equal canonical values? The order of fields doesn't count; 1 and 1.0 differ;
    /// NaN equals NaN. This is what `==` does.
    pub fn same_as(&self, other: &Record) -> bool {
        let same = |(name, value): (&str, &Value)| {
            other.get(name).is_some_and(|other| same_value(ValueRef::from(value), ValueRef::from(other)))
        };
        self.len() == other.len() && self.iter().all(same)
    }

    /// Fails with [`ErrorKind::Invalid`] when a value nests deeper than [`MAX_DEPTH`]: what lies deeper would be stored
    /// as null.
    pub fn check_depth(&self) -> Result<()> {
        match self.iter().find(|(_, value)| is_deeper_than(value, MAX_DEPTH)) {
            None => Ok(()),
            Some((name, _)) => {
                let what = format!("the value nests deeper than {MAX_DEPTH} levels; make it flatter");
                Err(Error::new(ErrorKind::Invalid, what).with("column", name))
            }
        }
    }

    /// The record of a struct or a map, through its `Serialize`.
    ///
    /// Fails with [`ErrorKind::Invalid`] when `T` isn't a struct or a map with text keys.
    pub fn from_typed<T: Serialize>(value: &T) -> Result<Self> {
        typed::record_of(value)
    }

    /// This record as a `T`, through its `Deserialize`. Integers are taken for floats, too.
    ///
    /// Fails with [`ErrorKind::Invalid`]; the error's context names the `column` where one is to blame, and the `field`
    /// (`address.lines[2]`) when it lies deeper.
    pub fn to_typed<T: DeserializeOwned>(&self) -> Result<T> {
        typed::typed_of(self)
    }

    /// About how many bytes the fields take in CBOR; a hint for reserving, not a bound.
    pub(crate) fn encoded_size_hint(&self) -> usize {
        let of_value = |value: &Value| match value {
            Value::Text(text) => text.len() + 5,
            Value::Bytes(bytes) => bytes.len() + 5,
            Value::Array(items) => items.len() * 9 + 5,
            Value::Map(entries) => entries.len() * 18 + 5,
            _ => 9,
        };
        self.iter().map(|(name, value)| name.len() + 2 + of_value(value)).sum()
    }
}

/// Whether arrays, maps and tags in it nest for more than so many levels.
pub(crate) fn is_deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(_) | Value::Map(_) | Value::Tag(..) if levels == 0 => true,
        Value::Array(items) => items.iter().any(|item| is_deeper_than(item, levels - 1)),
        Value::Map(entries) => {
            entries.iter().any(|(key, value)| is_deeper_than(key, levels - 1) || is_deeper_than(value, levels - 1))
        }
        Value::Tag(_, inner) => is_deeper_than(inner, levels - 1),
        _ => false,
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.same_as(other)
    }
}

impl Eq for Record {}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<N: Into<Arc<str>>, V: IntoValue> FromIterator<(N, V)> for Record {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut record = Record::new();
        record.extend(fields);
        record
    }
}

impl<N: Into<Arc<str>>, V: IntoValue> Extend<(N, V)> for Record {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, fields: I) {
        self.fields.extend(fields.into_iter().map(|(name, value)| (name.into(), value.into_value())));
    }
}

impl IntoIterator for Record {
    type Item = (Arc<str>, Value);
    type IntoIter = indexmap::map::IntoIter<Arc<str>, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.into_iter()
    }
}

impl<'a> IntoIterator for &'a Record {
    type Item = (&'a Arc<str>, &'a Value);
    type IntoIter = indexmap::map::Iter<'a, Arc<str>, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.iter()
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from column to value")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut record = Record::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    record.insert(name, value);
                }
                Ok(record)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// What a [`Record`] takes as a value: all that `Value` converts from, and `Option` (`None` is null), `()` (null),
/// [`Record`] (a map) and borrowed values.
pub trait IntoValue {
    /// The value.
    fn into_value(self) -> Value;
}

macro_rules! into_value {
    ($($type:ty),+ $(,)?) => {
        $(
            impl IntoValue for $type {
                #[inline]
                fn into_value(self) -> Value {
                    Value::from(self)
                }
            }
        )+
    };
}

into_value! {
    bool, char, &str, String, &[u8], Vec<u8>, Vec<Value>, Vec<(Value, Value)>,
    u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64,
}

impl IntoValue for Value {
    #[inline]
    fn into_value(self) -> Value {
        self
    }
}

impl IntoValue for &Value {
    fn into_value(self) -> Value {
        self.clone()
    }
}

impl IntoValue for &String {
    fn into_value(self) -> Value {
        Value::Text(self.clone())
    }
}

impl IntoValue for std::borrow::Cow<'_, str> {
    fn into_value(self) -> Value {
        Value::Text(self.into_owned())
    }
}

impl IntoValue for Arc<str> {
    fn into_value(self) -> Value {
        Value::Text((*self).to_owned())
    }
}

impl IntoValue for usize {
    fn into_value(self) -> Value {
        Value::Integer(self.into())
    }
}

impl IntoValue for isize {
    fn into_value(self) -> Value {
        Value::Integer(self.into())
    }
}

impl IntoValue for () {
    fn into_value(self) -> Value {
        Value::Null
    }
}

impl<T: IntoValue> IntoValue for Option<T> {
    fn into_value(self) -> Value {
        self.map_or(Value::Null, T::into_value)
    }
}

impl IntoValue for Record {
    fn into_value(self) -> Value {
        Value::Map(self.into_iter().map(|(name, value)| (Value::Text((*name).to_owned()), value)).collect())
    }
}

/// A [`Record`](crate::value::Record) of these columns and values; anything that is
/// [`IntoValue`](crate::value::IntoValue) is a value.
///
/// ```
/// use diorama::record;
///
/// let row = record! { "name" => "Riga", "population" => 605_273, "mayor" => None::<&str> };
/// assert_eq!(row.len(), 3);
/// ```
#[macro_export]
macro_rules! record {
    ($($name:expr => $value:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut record = $crate::value::Record::new();
        $( record.insert($name, $value); )*
        record
    }};
}
