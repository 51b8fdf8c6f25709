//! Typed: a Dio's rows as a struct of the application's own.
//!
//! Flow: records → serde → `T`, and back for writes; everything else is the Dio's and its views' own.
//! Invariants: an error of a row that doesn't fit names the table, the row's id and the field (`tests/typed.rs`).

mod view;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::dio::{Dio, WriteTicket};
use crate::scenery::record::RecordScenery;
#[cfg(feature = "async")]
use crate::scenery::table::TableScenery;
use crate::value::{Record, Value, typed_row_of};
use crate::vista::{ColumnType, Schema, WriteOp};
use crate::{Error, ErrorKind, Result};

pub use view::{TypedChangeSet, TypedRecord, TypedSnapshot, TypedTable, TypedTableBuilder};

/// A Dio whose rows are `T`s: [`Dio::typed`]. A cheap clone; like the Dio itself, it keeps the Dio alive.
///
/// `T` is any struct with serde's `Deserialize` for reading and `Serialize` for writing; its fields are the columns, with what `rename`, `default`,
/// `flatten` and the like say. Columns that `T` doesn't have are left out, `Option` fields may be null or missing.
///
/// **Ids.** The id column may be a field of `T` or not. As a field it may be text or an integer: text that is exactly an
/// integer (`"7"`, not `"07"`) is taken for one, and an integer for its text. In writes a row's id is that field, unless it
/// is given; an `Option` that is `None` leaves the choice to the source. Ids that are arguments are anything that prints as
/// the id: `"a"`, `7`.
///
/// ```
/// use std::time::Duration;
/// use diorama::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Product {
///     id: u32,
///     name: String,
///     price: Option<f64>,
/// }
///
/// # fn main() -> diorama::Result<()> {
/// let lens = Lens::new().in_memory().build()?;
/// let dio = lens.make_dio(MemoryVista::new("products", "id"))?;
/// let products = dio.typed::<Product>();
///
/// let soon = Duration::from_secs(5);
/// products.insert(&Product { id: 7, name: "Bell".into(), price: Some(10.0) })?.wait(soon)?;
/// products.insert(&Product { id: 8, name: "Anvil".into(), price: None })?.wait(soon)?;
/// products.patch(7, &record! { "price" => 12 })?.wait(soon)?;
/// assert_eq!(products.get(7)?.and_then(|bell| bell.price), Some(12.0));
///
/// let by_name = products.table_scenery().sort("name", SortDir::Asc).open()?;
/// let names: Vec<String> =
///     by_name.snapshot().iter().map(|row| row.map(|product| product.name)).collect::<diorama::Result<_>>()?;
/// assert_eq!(names, ["Anvil", "Bell"]);
/// # Ok(())
/// # }
/// ```
pub struct TypedDio<T> {
    dio: Dio,
    rows: RowType<T>,
}

impl<T> Clone for TypedDio<T> {
    fn clone(&self) -> Self {
        TypedDio { dio: self.dio.clone(), rows: self.rows.clone() }
    }
}

impl<T> fmt::Debug for TypedDio<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedDio").field("dio", &self.dio).field("type", &std::any::type_name::<T>()).finish()
    }
}

impl Dio {
    /// Its rows as `T`s: reads, writes and views in a struct of your own. Costs nothing; no row is looked at before it is
    /// asked for.
    pub fn typed<T>(&self) -> TypedDio<T> {
        let inner = self.inner();
        let rows = RowType { table: inner.name.clone(), schema: inner.schema.clone(), is: PhantomData };
        TypedDio { dio: self.clone(), rows }
    }
}

impl<T> TypedDio<T> {
    /// The Dio itself.
    pub fn dio(&self) -> &Dio {
        &self.dio
    }

    /// Deletes a row, as [`Dio::write`] does.
    ///
    /// # Errors
    /// As [`Dio::write`].
    pub fn delete(&self, id: impl fmt::Display) -> Result<WriteTicket> {
        self.dio.write(WriteOp::delete(id.to_string()))
    }

    /// Sets some fields of a row, as [`Dio::write`] does: `record! { "price" => 12 }`, or a struct with some of the columns
    /// (its `None`s are written as null unless `skip_serializing_if` leaves them out).
    ///
    /// # Errors
    /// `Invalid` when `fields` isn't a struct or a map, or names another id; as [`Dio::write`].
    pub fn patch(&self, id: impl fmt::Display, fields: &impl Serialize) -> Result<WriteTicket> {
        self.dio.write(self.patch_op(id.to_string(), fields)?)
    }

    pub(crate) fn patch_op(&self, id: String, fields: &impl Serialize) -> Result<WriteOp> {
        let record = self.rows.record_of(fields, Some(&id))?.1;
        Ok(WriteOp::patch(id, record))
    }
}

impl<T: DeserializeOwned> TypedDio<T> {
    // ---- reading -----------------------------------------------------------------------------------------------

    /// One row, from the cache; `None` when there is none.
    ///
    /// # Errors
    /// `Invalid` when the row doesn't fit `T`, with its `table`, `id` and `column` (and the `field` below that); `Closed`,
    /// or why the cache could not be read.
    pub fn get(&self, id: impl fmt::Display) -> Result<Option<T>> {
        let id = id.to_string();
        self.dio.cache().get(&id)?.map(|record| self.read(&id, &record)).transpose()
    }

    pub(crate) fn read(&self, id: &str, record: &Record) -> Result<T> {
        self.rows.read(id, record)
    }

    /// All rows with their ids, in the order of arrival. Reads the whole cache.
    ///
    /// # Errors
    /// As [`get`](Self::get), at the first row that doesn't fit.
    pub fn list(&self) -> Result<Vec<(String, T)>> {
        let rows = self.dio.cache().list()?;
        rows.into_iter()
            .map(|(id, record)| {
                let row = self.read(&id, &record)?;
                Ok((id, row))
            })
            .collect()
    }

    // ---- views -------------------------------------------------------------------------------------------------

    /// Describes a table view of `T`s; then `open()`.
    pub fn table_scenery(&self) -> TypedTableBuilder<T> {
        TypedTableBuilder::new(self.dio.table_scenery(), self.rows.clone())
    }

    /// Follows one row by its id, as [`Dio::record_scenery`] does.
    ///
    /// # Errors
    /// `Invalid` for an empty id; `Closed`.
    pub fn record_scenery(&self, id: impl fmt::Display) -> Result<TypedRecord<T>> {
        Ok(self.record_of(self.dio.record_scenery(id.to_string())?))
    }

    pub(crate) fn record_of(&self, view: RecordScenery) -> TypedRecord<T> {
        TypedRecord::new(view, self.rows.clone())
    }

    #[cfg(feature = "async")]
    pub(crate) fn table_of(&self, view: TableScenery) -> TypedTable<T> {
        TypedTable::new(view, self.rows.clone())
    }
}

impl<T: Serialize> TypedDio<T> {
    // ---- writing -----------------------------------------------------------------------------------------------

    /// A new row, as [`Dio::write`] does. Its id is that of `T`'s id field; without one, or when that is `None`, the source
    /// chooses it (the ticket's outcome tells).
    ///
    /// # Errors
    /// `Invalid` when `T` can't be made a record, or its id is neither text nor an integer; as [`Dio::write`].
    pub fn insert(&self, row: &T) -> Result<WriteTicket> {
        self.dio.write(self.insert_op(row)?)
    }

    pub(crate) fn insert_op(&self, row: &T) -> Result<WriteOp> {
        let (id, record) = self.rows.record_of(row, None)?;
        Ok(WriteOp::Insert { id, record })
    }

    /// A write of a whole row under this id.
    pub(crate) fn whole_op(&self, id: String, row: &T, op: fn(String, Record) -> WriteOp) -> Result<WriteOp> {
        let record = self.rows.whole_record_of(row, &id)?;
        Ok(op(id, record))
    }

    /// A new row under this id.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), and `Invalid` when `T`'s id field is another than `id`.
    pub fn insert_as(&self, id: impl fmt::Display, row: &T) -> Result<WriteTicket> {
        self.dio.write(self.whole_op(id.to_string(), row, WriteOp::insert_as)?)
    }

    /// A whole row in the place of one that exists. Columns that `T` doesn't have are gone afterwards: use
    /// [`patch`](Self::patch) to keep them.
    ///
    /// # Errors
    /// As [`insert_as`](Self::insert_as).
    pub fn replace(&self, id: impl fmt::Display, row: &T) -> Result<WriteTicket> {
        self.dio.write(self.whole_op(id.to_string(), row, WriteOp::replace)?)
    }

    /// A whole row, whether it exists or not.
    ///
    /// # Errors
    /// As [`insert_as`](Self::insert_as).
    pub fn upsert(&self, id: impl fmt::Display, row: &T) -> Result<WriteTicket> {
        self.dio.write(self.whole_op(id.to_string(), row, WriteOp::upsert)?)
    }
}

/// How the rows of one table become `T`s and back.
struct RowType<T> {
    table: Arc<str>,
    schema: Arc<Schema>,
    is: PhantomData<fn() -> T>,
}

impl<T> Clone for RowType<T> {
    fn clone(&self) -> Self {
        RowType { table: self.table.clone(), schema: self.schema.clone(), is: PhantomData }
    }
}

impl<T: DeserializeOwned> RowType<T> {
    fn read(&self, id: &str, record: &Record) -> Result<T> {
        typed_row_of(record, self.schema.id_column(), id)
            .map_err(|error| error.with("table", self.table.to_string()).with("id", id))
    }
}

impl<T> RowType<T> {
    /// A record for a write, and the id that it names or is given. An id of null is taken out.
    fn record_of(&self, row: &impl Serialize, given: Option<&str>) -> Result<(Option<String>, Record)> {
        let wrong = |error: Error| {
            let error = error.with("table", self.table.to_string());
            if let Some(id) = given { error.with("id", id) } else { error }
        };
        let mut record = Record::from_typed(row).map_err(wrong)?;
        let Some(column) = self.schema.id_column() else { return Ok((given.map(str::to_owned), record)) };
        let named = match record.get(column) {
            None => None,
            Some(Value::Null) => {
                record.remove(column);
                None
            }
            Some(Value::Text(id)) => Some(id.clone()),
            Some(Value::Integer(id)) => Some(i128::from(*id).to_string()),
            Some(_) => {
                let error = Error::new(ErrorKind::Invalid, "a row's id must be text or an integer");
                return Err(wrong(error.with("column", column)));
            }
        };
        if let (Some(given), Some(named)) = (given, &named)
            && given != named
        {
            let message = format!("the id in the row is {named:?}, not the one given; they must agree");
            return Err(wrong(Error::new(ErrorKind::Invalid, message).with("column", column)));
        }
        if let Some(id) = &named
            && let Some(value) = record.get_mut(column)
        {
            *value = self.id_value(value.clone(), id);
        }
        Ok((given.map(str::to_owned).or(named), record))
    }

    /// A whole record, the id column included where the table may have one.
    fn whole_record_of(&self, row: &impl Serialize, id: &str) -> Result<Record> {
        let mut record = self.record_of(row, Some(id))?.1;
        if let Some(column) = self.schema.id_column()
            && !record.contains(column)
            && (!self.schema.is_known() || self.schema.column(column).is_some())
        {
            record.insert(column, self.id_value(Value::Text(id.to_owned()), id));
        }
        Ok(record)
    }

    /// The id as its column stores it, where the schema says how; otherwise as it is.
    fn id_value(&self, value: Value, id: &str) -> Value {
        let column = self.schema.id_column().and_then(|column| self.schema.column(column));
        match column.map(|column| column.kind()) {
            Some(ColumnType::Text) => Value::Text(id.to_owned()),
            Some(ColumnType::Int) => match id.parse::<i64>() {
                Ok(number) if number.to_string() == id => Value::from(number),
                _ => value,
            },
            _ => value,
        }
    }
}
