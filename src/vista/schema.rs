//! Schema: the columns of a table, their types and what they are good for.

use std::fmt;

use crate::value::{Record, TypeRank, Value, ValueRef, type_rank};
use crate::{Error, ErrorKind, Result};

/// The type of a column's values. A value of another type can still occur where the source doesn't enforce it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ColumnType {
    /// Anything, or unknown.
    Any,
    /// True or false.
    Bool,
    /// Integers.
    Int,
    /// Floating-point numbers.
    Float,
    /// Exact decimals (tag 4).
    Decimal,
    /// Text.
    Text,
    /// Bytes.
    Bytes,
    /// Instants (tag 0).
    DateTime,
}

impl ColumnType {
    /// Whether a column of this type can have this value; null always.
    pub(crate) fn holds(self, value: &Value) -> bool {
        let rank = type_rank(ValueRef::from(value));
        rank == TypeRank::Null
            || match self {
                ColumnType::Bool => rank == TypeRank::Bool,
                ColumnType::Int => matches!(value, Value::Integer(_)),
                ColumnType::Float | ColumnType::Decimal => rank == TypeRank::Number,
                ColumnType::Text => rank == TypeRank::Text,
                ColumnType::Bytes => rank == TypeRank::Bytes,
                ColumnType::DateTime => rank == TypeRank::Datetime,
                ColumnType::Any => true,
            }
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

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ColumnType::Any => "any",
            ColumnType::Bool => "bool",
            ColumnType::Int => "int",
            ColumnType::Float => "float",
            ColumnType::Decimal => "decimal",
            ColumnType::Text => "text",
            ColumnType::Bytes => "bytes",
            ColumnType::DateTime => "datetime",
        })
    }
}

/// One column: its name, type and flags.
///
/// ```
/// use diorama::vista::{Column, ColumnType};
///
/// let name = Column::new("name", ColumnType::Text).title().searchable();
/// assert!(name.is_title() && name.is_orderable());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    name: String,
    kind: ColumnType,
    title: bool,
    searchable: bool,
    orderable: bool,
    hidden: bool,
    mandatory: bool,
}

impl Column {
    /// A column that can be ordered by and has no other flag.
    pub fn new(name: impl Into<String>, kind: ColumnType) -> Self {
        Column {
            name: name.into(),
            kind,
            title: false,
            searchable: false,
            orderable: true,
            hidden: false,
            mandatory: false,
        }
    }

    /// Its value names the row for people.
    #[must_use]
    pub fn title(mut self) -> Self {
        self.title = true;
        self
    }

    /// Searches look into it. When no column of a schema is searchable, searches look into all.
    #[must_use]
    pub fn searchable(mut self) -> Self {
        self.searchable = true;
        self
    }

    /// Rows can't be ordered by it.
    #[must_use]
    pub fn not_orderable(mut self) -> Self {
        self.orderable = false;
        self
    }

    /// Not meant for people.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// A new row must give it.
    #[must_use]
    pub fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }

    /// The column's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its values.
    pub fn kind(&self) -> ColumnType {
        self.kind
    }

    /// See [`title`](Self::title).
    pub fn is_title(&self) -> bool {
        self.title
    }

    /// See [`searchable`](Self::searchable).
    pub fn is_searchable(&self) -> bool {
        self.searchable
    }

    /// See [`not_orderable`](Self::not_orderable).
    pub fn is_orderable(&self) -> bool {
        self.orderable
    }

    /// See [`hidden`](Self::hidden).
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// See [`mandatory`](Self::mandatory).
    pub fn is_mandatory(&self) -> bool {
        self.mandatory
    }
}

/// The columns of a table and which of them is the id.
///
/// A schema is either *known* (it lists every column: a query that names another one is an error) or *open* (the source
/// doesn't tell its columns).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schema {
    id_column: Option<String>,
    columns: Vec<Column>,
    open: bool,
}

impl Schema {
    /// A known schema whose id column is `id_column`; add the columns, the id among them.
    pub fn new(id_column: impl Into<String>) -> Self {
        Schema { id_column: Some(id_column.into()), columns: Vec::new(), open: false }
    }

    /// A schema that doesn't know its columns beyond the id.
    pub fn open(id_column: impl Into<String>) -> Self {
        Schema { id_column: Some(id_column.into()), columns: Vec::new(), open: true }
    }

    /// A schema without an id column. No Dio can be made of its table.
    pub fn without_id() -> Self {
        Schema { id_column: None, columns: Vec::new(), open: false }
    }

    /// Adds a column.
    #[must_use]
    pub fn with(mut self, column: Column) -> Self {
        self.columns.push(column);
        self
    }

    /// The name of the id column.
    pub fn id_column(&self) -> Option<&str> {
        self.id_column.as_deref()
    }

    /// The id that a value of the id column means; `None` for what is no id.
    pub(crate) fn id_of(value: &Value) -> Option<String> {
        match value {
            Value::Text(id) => Some(id.clone()),
            Value::Integer(id) => Some(i128::from(*id).to_string()),
            _ => None,
        }
    }

    /// The columns in their order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether every column is listed.
    pub fn is_known(&self) -> bool {
        !self.open
    }

    /// Whether a path (`name` or `address.city`) can mean something in this table.
    ///
    /// # Errors
    /// `NotFound`, naming the column, when the schema is known and has neither a column of that very name nor one of
    /// the path's first part.
    pub fn check_path(&self, path: &str) -> Result<()> {
        let first = path.split('.').next().unwrap_or(path);
        if self.open || self.column(path).is_some() || self.column(first).is_some() {
            return Ok(());
        }
        let known: Vec<&str> = self.columns.iter().map(Column::name).collect();
        Err(Error::new(ErrorKind::NotFound, format!("no such column; the table has: {}", known.join(", ")))
            .with("column", path))
    }

    /// Whether a row may have these values: none in a column that a known schema lacks, none of another type than its
    /// column's, and, in a new row, one for every mandatory column but the id. For drivers, before they write.
    ///
    /// ```
    /// use diorama::record;
    /// use diorama::vista::{Column, ColumnType, Schema};
    ///
    /// let schema = Schema::new("id")
    ///     .with(Column::new("id", ColumnType::Text))
    ///     .with(Column::new("name", ColumnType::Text).mandatory())
    ///     .with(Column::new("stock", ColumnType::Int));
    /// assert!(schema.check_record(&record! { "stock" => 3 }, false).is_ok());
    /// assert!(schema.check_record(&record! { "stock" => 3 }, true).is_err());
    /// assert!(schema.check_record(&record! { "stock" => "three" }, false).is_err());
    /// ```
    ///
    /// # Errors
    /// `Invalid`, naming the column.
    pub fn check_record(&self, record: &Record, is_new: bool) -> Result<()> {
        let refuse =
            |message: String, column: &str| Err(Error::new(ErrorKind::Invalid, message).with("column", column));
        for (name, value) in record.iter() {
            match self.column(name).map(Column::kind) {
                None if self.is_known() => return refuse("no such column".to_owned(), name),
                Some(kind) if !kind.holds(value) => {
                    return refuse(format!("the column holds {kind}, not {}", kind_of(value)), name);
                }
                _ => {}
            }
        }
        let is_given = |column: &Column| record.get(column.name()).is_some_and(|value| !value.is_null());
        let is_id = |column: &Column| self.id_column() == Some(column.name());
        let missing = |column: &&Column| column.is_mandatory() && !is_id(column) && !is_given(column);
        match self.columns.iter().find(missing) {
            Some(column) if is_new => refuse("a new row must have a value for this column".to_owned(), column.name()),
            _ => Ok(()),
        }
    }

    /// A short text that changes when the schema does: a cache of another schema is rebuilt.
    pub fn fingerprint(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("1;{:?};{}", self.id_column, self.open);
        for column in &self.columns {
            let _ = write!(text, ";{:?}:{}", column.name, column.kind);
        }
        text
    }
}
