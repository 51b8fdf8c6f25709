//! Check: what is refused of a write before anything is done with it.

use crate::dio::DioInner;
use crate::dio::cache_handle::check_id;
use crate::value::{Record, TypeRank, Value, ValueRef, type_rank};
use crate::vista::{ColumnType, WriteOp};
use crate::{Error, ErrorKind, Result};

impl DioInner {
    /// Whether the capabilities and the schema allow the write.
    pub(crate) fn check_write(&self, op: &WriteOp) -> Result<()> {
        let able = self.write_capabilities();
        let allowed = match op {
            WriteOp::Insert { .. } => able.insert,
            WriteOp::Replace { .. } => able.replace,
            WriteOp::Upsert { .. } => able.upsert,
            WriteOp::Patch { .. } => able.patch,
            WriteOp::Delete { .. } => able.delete,
            WriteOp::DeleteAll => able.delete_all,
        };
        if !allowed {
            return Err(Error::new(ErrorKind::Unsupported, format!("this source does not support `{}`", op.verb())));
        }
        if let Some(id) = op.id() {
            check_id(id)?;
        }
        let Some(record) = op.record() else { return Ok(()) };
        record.check_depth()?;
        self.check_fields(record)?;
        if matches!(op, WriteOp::Insert { .. }) { self.check_mandatory(record) } else { Ok(()) }
    }

    fn check_fields(&self, record: &Record) -> Result<()> {
        for (name, value) in record.iter() {
            let Some(column) = self.schema.column(name) else {
                if self.schema.is_known() {
                    return Err(Error::new(ErrorKind::Invalid, "no such column").with("column", name.to_owned()));
                }
                continue;
            };
            if !fits(value, column.kind()) {
                let message = format!("the column holds {}, not {}", column.kind(), kind_of(value));
                return Err(Error::new(ErrorKind::Invalid, message).with("column", name.to_owned()));
            }
        }
        Ok(())
    }

    fn check_mandatory(&self, record: &Record) -> Result<()> {
        for column in self.schema.columns() {
            let is_id = self.schema.id_column() == Some(column.name());
            let missing = record.get(column.name()).is_none_or(|value| matches!(value, Value::Null));
            if column.is_mandatory() && !is_id && missing {
                return Err(Error::new(ErrorKind::Invalid, "a new row must have a value for this column")
                    .with("column", column.name().to_owned()));
            }
        }
        Ok(())
    }
}

fn fits(value: &Value, kind: ColumnType) -> bool {
    let rank = type_rank(ValueRef::from(value));
    match kind {
        _ if rank == TypeRank::Null => true,
        ColumnType::Bool => rank == TypeRank::Bool,
        ColumnType::Int => matches!(value, Value::Integer(_)),
        ColumnType::Float | ColumnType::Decimal => rank == TypeRank::Number,
        ColumnType::Text => rank == TypeRank::Text,
        ColumnType::Bytes => rank == TypeRank::Bytes,
        ColumnType::DateTime => rank == TypeRank::Datetime,
        _ => true,
    }
}

fn kind_of(value: &Value) -> &'static str {
    match type_rank(ValueRef::from(value)) {
        TypeRank::Bool => "bool",
        TypeRank::Number if matches!(value, Value::Integer(_)) => "int",
        TypeRank::Number => "a number that is not an int",
        TypeRank::Text => "text",
        TypeRank::Bytes => "bytes",
        TypeRank::Datetime => "datetime",
        TypeRank::Array => "an array",
        TypeRank::Map => "a map",
        TypeRank::Null => "null",
    }
}
