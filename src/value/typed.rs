//! Typed: records to and from the caller's own structs, through serde.
//!
//! Invariants: what `record_of` makes of a value, `typed_of` makes into it again; integers are taken for floats, too; an
//! error names the column it arose in, and the way to the field below it.
//! Not here: `Record` as a serde value itself (`record`).

use std::fmt;

use serde::Serialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use super::{Record, Value, ValueRef, cbor};
use crate::{Error, ErrorKind, Result};

pub(super) fn record_of<T: Serialize>(value: &T) -> Result<Record> {
    let invalid = |what: String| Error::new(ErrorKind::Invalid, what).with("type", std::any::type_name::<T>());
    let value = Value::serialized(value).map_err(|error| invalid(format!("it can't be made a record: {error}")))?;
    let Value::Map(entries) = value else {
        return Err(invalid("only a struct or a map can be made a record".to_owned()));
    };
    let mut record = Record::with_capacity(entries.len());
    for (name, value) in entries {
        match name {
            Value::Text(name) => record.insert(name, value),
            other => return Err(invalid(format!("a column's name must be text, not {other:?}"))),
        };
    }
    Ok(record)
}

pub(super) fn typed_of<T: DeserializeOwned>(record: &Record) -> Result<T> {
    read(RecordReader { record, id: None })
}

/// The row `id` as a `T`, which may have the id column as a field or not, as text or as an integer.
pub(crate) fn typed_row_of<T: DeserializeOwned>(record: &Record, id_column: Option<&str>, id: &str) -> Result<T> {
    let value = id_column.and_then(|column| record.get(column)).filter(|value| !value.is_null()).cloned();
    let value = value.unwrap_or_else(|| Value::Text(id.to_owned()));
    read(RecordReader { record, id: id_column.map(|column| IdField { column, value: &value }) })
}

fn read<T: DeserializeOwned>(record: RecordReader<'_>) -> Result<T> {
    T::deserialize(record).map_err(|mismatch| {
        let mut error = Error::new(ErrorKind::Invalid, format!("the record doesn't fit the type: {}", mismatch.what));
        if let Some(Step::Name(column)) = mismatch.path.last() {
            error = error.with("column", column.clone());
        }
        if mismatch.path.len() > 1 {
            error = error.with("field", mismatch.dotted());
        }
        error.with("type", std::any::type_name::<T>())
    })
}

/// What serde says when a value doesn't fit, and the way to the value.
#[derive(Debug)]
struct Mismatch {
    what: String,
    /// The innermost step first.
    path: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Name(String),
    Item(usize),
}

impl Mismatch {
    fn under(mut self, step: impl FnOnce() -> Step) -> Self {
        self.path.push(step());
        self
    }

    /// The way as a dotted path: `address.lines[2]`.
    fn dotted(&self) -> String {
        let mut text = String::new();
        for step in self.path.iter().rev() {
            match step {
                Step::Name(name) if text.is_empty() => text.push_str(name),
                Step::Name(name) => text.extend([".", name]),
                Step::Item(position) => text.push_str(&format!("[{position}]")),
            }
        }
        text
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Mismatch { what: what.to_string(), path: Vec::new() }
    }

    fn missing_field(field: &'static str) -> Self {
        Mismatch { what: format!("missing field `{field}`"), path: vec![Step::Name(field.to_owned())] }
    }
}

/// The record as a map.
struct RecordReader<'de> {
    record: &'de Record,
    id: Option<IdField<'de>>,
}

/// The id column, and the id as its value.
#[derive(Clone, Copy)]
struct IdField<'de> {
    column: &'de str,
    value: &'de Value,
}

impl<'de> RecordReader<'de> {
    /// The columns; `with_id` puts the id among them, else its column is left out. Without an id to know of, all as they are.
    fn columns(self, with_id: bool) -> impl Iterator<Item = (&'de str, Field<'de>)> {
        let RecordReader { record, id } = self;
        let is_id = move |name: &str| id.is_some_and(|id| id.column == name);
        let absent = id.filter(|id| with_id && !record.contains(id.column));
        let fields =
            record.iter().filter(move |(name, _)| with_id || !is_id(name)).map(move |(name, value)| match id {
                Some(id) if id.column == name => (name, Field::Id(id.value)),
                _ => (name, Field::Value(value)),
            });
        fields.chain(absent.map(|id| (id.column, Field::Id(id.value))))
    }
}

impl<'de> Deserializer<'de> for RecordReader<'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_map(Columns { left: self.columns(true), current: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let with_id = self.id.is_none_or(|id| fields.contains(&id.column));
        visitor.visit_map(Columns { left: self.columns(with_id), current: None })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        let mut columns = self.record.iter();
        match (columns.next(), columns.next()) {
            (Some((variant, value)), None) => visitor.visit_enum(Variant { name: variant, value: Some(value) }),
            _ => Err(de::Error::custom(format!("one of {name}'s variants {variants:?} must be the only column"))),
        }
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

enum Field<'de> {
    Value(&'de Value),
    Id(&'de Value),
}

struct Columns<'de, I> {
    left: I,
    current: Option<(&'de str, Field<'de>)>,
}

impl<'de, I: Iterator<Item = (&'de str, Field<'de>)>> de::MapAccess<'de> for Columns<'de, I> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        let Some((name, field)) = self.left.next() else { return Ok(None) };
        self.current = Some((name, field));
        let key = seed.deserialize(de::value::BorrowedStrDeserializer::new(name));
        key.map(Some).map_err(|mismatch: Mismatch| mismatch.under(|| Step::Name(name.to_owned())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let (name, field) = self.current.take().unwrap_or(("", Field::Value(&Value::Null)));
        let value = match field {
            Field::Value(value) => seed.deserialize(ValueReader(value)),
            Field::Id(value) => seed.deserialize(IdReader(value)),
        };
        value.map_err(|mismatch| mismatch.under(|| Step::Name(name.to_owned())))
    }

    fn size_hint(&self) -> Option<usize> {
        self.left.size_hint().1
    }
}

/// An id as serde reads it: text that is exactly an integer is taken for one, and an integer for its text.
struct IdReader<'de>(&'de Value);

macro_rules! integer_ids {
    ($($method:ident),+) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
                match self.integer_in_text() {
                    Some(id) => visit_integer(id, visitor),
                    None => ValueReader(self.0).$method(visitor),
                }
            }
        )+
    };
}

macro_rules! text_ids {
    ($($method:ident),+) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
                match ValueReader(self.0).untagged().0 {
                    Value::Integer(id) => visitor.visit_string(i128::from(*id).to_string()),
                    _ => ValueReader(self.0).$method(visitor),
                }
            }
        )+
    };
}

impl IdReader<'_> {
    fn integer_in_text(&self) -> Option<i128> {
        let text = self.0.as_text()?;
        text.parse().ok().filter(|id: &i128| id.to_string() == text)
    }
}

impl<'de> Deserializer<'de> for IdReader<'de> {
    type Error = Mismatch;

    integer_ids! {
        deserialize_i8, deserialize_i16, deserialize_i32, deserialize_i64, deserialize_i128, deserialize_u8,
        deserialize_u16, deserialize_u32, deserialize_u64, deserialize_u128
    }

    text_ids! { deserialize_str, deserialize_string }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        ValueReader(self.0).deserialize_enum(name, variants, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        ValueReader(self.0).deserialize_any(visitor)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    serde::forward_to_deserialize_any! {
        bool f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

fn visit_integer<'de, V: Visitor<'de>>(value: i128, visitor: V) -> Result<V::Value, Mismatch> {
    if let Ok(value) = u64::try_from(value) {
        visitor.visit_u64(value)
    } else if let Ok(value) = i64::try_from(value) {
        visitor.visit_i64(value)
    } else {
        visitor.visit_i128(value)
    }
}

/// A value as serde reads it.
#[derive(Clone, Copy)]
struct ValueReader<'de>(&'de Value);

impl<'de> ValueReader<'de> {
    fn untagged(self) -> Self {
        let mut value = self.0;
        while let Value::Tag(_, inner) = value {
            value = inner;
        }
        ValueReader(value)
    }

    /// The integer, also a bignum of up to 128 bits.
    fn wide_integer<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Tag(tag @ (cbor::TAG_BIG_POSITIVE | cbor::TAG_BIG_NEGATIVE), inner) => {
                let magnitude = match inner.as_ref() {
                    Value::Bytes(bytes) if cbor::trim_zeros(bytes).len() <= 16 => {
                        cbor::trim_zeros(bytes).iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte))
                    }
                    _ => return Err(de::Error::custom("a bignum of more than 128 bits")),
                };
                match (*tag, i128::try_from(magnitude)) {
                    (cbor::TAG_BIG_POSITIVE, _) => visitor.visit_u128(magnitude),
                    (_, Ok(magnitude)) => visitor.visit_i128(-1 - magnitude),
                    (_, Err(_)) => Err(de::Error::custom("a negative bignum of more than 127 bits")),
                }
            }
            Value::Tag(_, inner) => ValueReader(inner).wide_integer(visitor),
            _ => self.deserialize_any(visitor),
        }
    }
}

/// These read through tags, as ciborium does.
macro_rules! through_tags {
    ($($method:ident),+) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
                self.untagged().deserialize_any(visitor)
            }
        )+
    };
}

macro_rules! integers {
    ($($method:ident),+) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
                self.wide_integer(visitor)
            }
        )+
    };
}

impl<'de> Deserializer<'de> for ValueReader<'de> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Integer(value) => visit_integer(i128::from(*value), visitor),
            Value::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Bool(value) => visitor.visit_bool(*value),
            // ciborium's own types ask for tags in this form.
            Value::Tag(tag, inner) => visitor.visit_enum(Tagged { tag: Some(*tag), inner }),
            Value::Array(items) => {
                let mut left = Items { left: items.iter().enumerate() };
                let value = visitor.visit_seq(&mut left)?;
                match left.left.len() {
                    0 => Ok(value),
                    more => Err(de::Error::invalid_length(items.len(), &Fewer(items.len() - more))),
                }
            }
            Value::Map(entries) => {
                let mut left = Entries { left: entries.iter(), current: None };
                let value = visitor.visit_map(&mut left)?;
                match left.left.len() {
                    0 => Ok(value),
                    more => Err(de::Error::invalid_length(entries.len(), &Fewer(entries.len() - more))),
                }
            }
            // `Value` may grow; ciborium 0.2 has no other kind than null left.
            _ => visitor.visit_unit(),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        self.untagged().deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mismatch> {
        self.untagged().deserialize_any(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.untagged().deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.untagged().deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Tag(tag, inner) if name == CIBORIUM_TAG => visitor.visit_enum(Tagged { tag: Some(*tag), inner }),
            inner if name == CIBORIUM_TAG => visitor.visit_enum(Tagged { tag: None, inner }),
            Value::Tag(_, inner) => ValueReader(inner).deserialize_enum(name, variants, visitor),
            Value::Text(variant) => visitor.visit_enum(Variant { name: variant, value: None }),
            Value::Map(entries) => match &entries[..] {
                [(Value::Text(variant), value)] => visitor.visit_enum(Variant { name: variant, value: Some(value) }),
                _ => Err(de::Error::custom(format!("a map of one entry, a variant of {name}, was expected"))),
            },
            _ => Err(de::Error::custom(format!("a variant of {name} was expected"))),
        }
    }

    through_tags! {
        deserialize_bool, deserialize_char, deserialize_str, deserialize_string, deserialize_bytes,
        deserialize_byte_buf, deserialize_unit, deserialize_seq, deserialize_map, deserialize_identifier
    }

    integers! {
        deserialize_i8, deserialize_i16, deserialize_i32, deserialize_i64, deserialize_i128, deserialize_u8,
        deserialize_u16, deserialize_u32, deserialize_u64, deserialize_u128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match ValueRef::from(self.0).as_f64() {
            Some(value) => visitor.visit_f64(value),
            None => self.untagged().deserialize_any(visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl<'de> IntoDeserializer<'de, Mismatch> for ValueReader<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// How many items a type takes of an array or a map that has more.
struct Fewer(usize);

impl de::Expected for Fewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of them", self.0)
    }
}

/// An array's items, which errors are told the position of.
struct Items<I> {
    left: I,
}

impl<'de, I: ExactSizeIterator<Item = (usize, &'de Value)>> de::SeqAccess<'de> for Items<I> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let Some((position, item)) = self.left.next() else { return Ok(None) };
        let item = seed.deserialize(ValueReader(item));
        item.map(Some).map_err(|mismatch| mismatch.under(|| Step::Item(position)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}

/// A map's entries, which errors are told the key of.
struct Entries<'de> {
    left: std::slice::Iter<'de, (Value, Value)>,
    current: Option<&'de (Value, Value)>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        self.current = self.left.next();
        let Some((key, _)) = self.current else { return Ok(None) };
        seed.deserialize(ValueReader(key)).map(Some).map_err(|mismatch| mismatch.under(|| key_step(key)))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        let Some((key, value)) = self.current.take() else { return Err(de::Error::custom("a value without a key")) };
        seed.deserialize(ValueReader(value)).map_err(|mismatch| mismatch.under(|| key_step(key)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}

fn key_step(key: &Value) -> Step {
    match key.as_text() {
        Some(name) => Step::Name(name.to_owned()),
        None => Step::Name(format!("{key:?}")),
    }
}

/// An enum's variant: its name, and its content unless it has none.
struct Variant<'de> {
    name: &'de str,
    value: Option<&'de Value>,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = Mismatch;
    type Variant = ValueReader<'de>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, ValueReader<'de>), Mismatch> {
        let name = seed.deserialize(StrDeserializer::new(self.name))?;
        Ok((name, ValueReader(self.value.unwrap_or(&Value::Null))))
    }
}

impl<'de> de::VariantAccess<'de> for ValueReader<'de> {
    type Error = Mismatch;

    fn unit_variant(self) -> Result<(), Mismatch> {
        match self.0 {
            Value::Null => Ok(()),
            _ => Err(de::Error::custom("this variant has no content")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mismatch> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_map(visitor)
    }
}

/// The name of the enum by which ciborium's types ask for a tag.
const CIBORIUM_TAG: &str = "@@TAG@@";

/// A tag in ciborium's form: a variant of two fields, the tag and the value; or of the value alone.
struct Tagged<'de> {
    tag: Option<u64>,
    inner: &'de Value,
}

impl<'de> de::EnumAccess<'de> for Tagged<'de> {
    type Error = Mismatch;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Mismatch> {
        let name = if self.tag.is_some() { "@@TAGGED@@" } else { "@@UNTAGGED@@" };
        Ok((seed.deserialize(StrDeserializer::new(name))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Tagged<'de> {
    type Error = Mismatch;

    fn unit_variant(self) -> Result<(), Mismatch> {
        Err(de::Error::custom("a tagged value was expected"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mismatch> {
        seed.deserialize(ValueReader(self.inner))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_seq(TagThenValue { tag: self.tag, inner: Some(self.inner) })
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Mismatch> {
        Err(de::Error::custom("a tagged value was expected"))
    }
}

struct TagThenValue<'de> {
    tag: Option<u64>,
    inner: Option<&'de Value>,
}

impl<'de> de::SeqAccess<'de> for TagThenValue<'de> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        if let Some(tag) = self.tag.take() {
            return seed.deserialize(tag.into_deserializer()).map(Some);
        }
        self.inner.take().map(|inner| seed.deserialize(ValueReader(inner))).transpose()
    }
}
