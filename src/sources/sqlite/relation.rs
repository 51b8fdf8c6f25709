//! Relation: the table, view or query that a vista shows, as the database describes it.
//!
//! Flow: the database's own description → columns with their affinities, the id column, the order of arrival → the schema.
//! Invariants: names go into SQL quoted and qualified, so that none is ever read as SQL or as a text
//! (`names_with_any_characters_are_names`); a relation is compared as a whole to tell that someone else changed it
//! (`a_table_that_someone_changed_is_an_error_that_names_it`).

use rusqlite::{Connection, OptionalExtension};

use super::fault::Fault;
use crate::vista::{Column, ColumnType, Schema};
use crate::{Error, ErrorKind};

/// What the user asked for.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// A table or view of this name.
    Table(String),
    /// A `SELECT`, without a semicolon at its end.
    Query(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Real,
    Numeric,
    Text,
    /// Values are stored and compared as they come.
    Nothing,
}

impl Affinity {
    /// The rules of SQLite: "Determination Of Column Affinity".
    fn of_declared(declared: &str, strict: bool) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if strict && declared == "ANY" || declared.is_empty() {
            Affinity::Nothing
        } else if has("INT") {
            Affinity::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Affinity::Text
        } else if has("BLOB") {
            Affinity::Nothing
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }

    pub(super) fn is_numeric(self) -> bool {
        matches!(self, Affinity::Integer | Affinity::Real | Affinity::Numeric)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RelationColumn {
    pub(super) name: String,
    pub(super) affinity: Affinity,
    pub(super) kind: ColumnType,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
    /// Computed by the database, never written.
    pub(super) generated: bool,
}

impl RelationColumn {
    /// `"name"`: as it is written where SQL wants a bare column name.
    pub(super) fn bare(&self) -> String {
        quoted(&self.name)
    }

    /// `r."name"`: as it is written in expressions.
    pub(super) fn qualified(&self) -> String {
        format!("r.{}", self.bare())
    }
}

/// How texts of ids and stored ids belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IdKind {
    /// `INTEGER PRIMARY KEY`: integers, which the database can choose.
    RowId,
    /// A column that stores text that looks like a number as a number.
    Number,
    Text,
    /// Integers and text side by side.
    Untyped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relation {
    /// What stands behind `FROM`, with `r` as its other name.
    pub(super) from: String,
    /// What writes name; `None`: this relation can't be written.
    pub(super) target: Option<String>,
    /// The columns' affinities are those that SQLite compares by, which only a table's own columns promise.
    pub(super) is_table: bool,
    /// Conditions and order may be asked of it in SQL. A virtual table's module could understand them its own way.
    pub(super) takes_queries: bool,
    pub(super) columns: Vec<RelationColumn>,
    pub(super) id: usize,
    pub(super) id_kind: IdKind,
    /// The database makes sure that no id comes twice.
    pub(super) ids_are_unique: bool,
    /// The order of arrival, as what stands behind `ORDER BY`.
    pub(super) arrival: String,
    /// What the database numbers the rows by, as it is written in expressions.
    pub(super) rowid: Option<String>,
}

/// A name as SQL takes it, whatever its characters.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Relation {
    /// Asks the database.
    ///
    /// # Errors
    /// `NotFound` for a table or id column that isn't there; `Invalid` for one that can't be shown, with the reason.
    pub(super) fn describe(connection: &Connection, subject: &Subject, id: Option<&str>) -> Result<Self, Fault> {
        match subject {
            Subject::Table(name) => Self::of_table(connection, name, id),
            Subject::Query(query) => Self::of_query(connection, query, id),
        }
    }

    pub(super) fn id_column(&self) -> &RelationColumn {
        &self.columns[self.id]
    }

    /// A place in an order is that of one row, and what lies behind it can be asked for.
    pub(super) fn has_pages(&self) -> bool {
        self.arrival_is_unique() && self.takes_queries
    }

    /// No two rows have the same place in the order of arrival.
    pub(super) fn arrival_is_unique(&self) -> bool {
        self.is_table && (self.rowid.is_some() || self.ids_are_unique)
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn of_table(connection: &Connection, name: &str, id: Option<&str>) -> Result<Self, Fault> {
        let found: Option<(String, String, bool, bool)> = connection
            .query_row(
                "SELECT name, type, wr, strict FROM pragma_table_list \
                 WHERE schema = 'main' AND name = ?1 COLLATE NOCASE ORDER BY name = ?1 DESC",
                [name],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .optional()?;
        let Some((name, kind, without_rowid, strict)) = found else {
            let tables = table_names(connection)?;
            let message = format!("the database has no such table; it has: {}", tables.join(", "));
            return Err(Error::new(ErrorKind::NotFound, message).into());
        };
        let (is_table, is_virtual) = (kind == "table", kind == "virtual");

        let mut columns = Vec::new();
        let mut primary_key = Vec::new();
        let mut declared_types = Vec::new();
        let mut statement = connection.prepare(
            "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo(?1, 'main')",
        )?;
        let mut rows = statement.query([&name])?;
        while let Some(row) = rows.next()? {
            let (declared, hidden): (String, i64) = (row.get(1)?, row.get(5)?);
            // 1 is a hidden column of a virtual table; 2 and 3 are generated columns.
            if hidden == 1 {
                continue;
            }
            if row.get::<_, i64>(4)? > 0 {
                primary_key.push(columns.len());
            }
            let affinity = Affinity::of_declared(&declared, strict);
            columns.push(RelationColumn {
                name: row.get(0)?,
                affinity,
                kind: kind_of(&declared, affinity),
                not_null: row.get(2)?,
                has_default: row.get(3)?,
                generated: hidden > 1,
            });
            declared_types.push(declared);
        }

        let id = match (id, &primary_key[..]) {
            (Some(id), _) => position_of_id(&columns, id)?,
            (None, [only]) => *only,
            (None, keys) => {
                let what = match (&*kind, keys) {
                    ("view", _) => "a view has no primary key",
                    (_, []) => "the table has no primary key",
                    _ => "the table's primary key has several columns",
                };
                let message = format!("{what}: name the column that tells its rows apart with `id`");
                return Err(Error::new(ErrorKind::Invalid, message).with("setting", "id").into());
            }
        };
        let indexes = unique_indexes(connection, &name)?;
        let is_key = primary_key == [id];
        let is_rowid = is_table
            && is_key
            && !without_rowid
            && declared_types[id].eq_ignore_ascii_case("INTEGER")
            && !indexes.iter().any(|index| index.is_primary_key);
        let unique = is_key && is_table || indexes.iter().any(|index| index.column == columns[id].name);
        let id_kind = if is_rowid { IdKind::RowId } else { id_kind_of(&columns[id], &declared_types[id], is_table)? };

        let shadowed = |word: &&str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(word));
        let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(|word| !shadowed(word));
        let rowid = match rowid {
            _ if is_rowid => Some(columns[id].qualified()),
            Some(rowid) if is_table && !without_rowid => Some(format!("r.{rowid}")),
            _ => None,
        };
        let arrival = rowid.clone().unwrap_or_else(|| format!("{} COLLATE BINARY", columns[id].qualified()));
        // The database fills in a null there, though the table's description doesn't say so.
        columns[id].not_null |= is_rowid;
        let target = format!("main.{}", quoted(&name));
        Ok(Relation {
            from: format!("{target} AS r"),
            target: is_table.then_some(target),
            is_table,
            takes_queries: !is_virtual,
            ids_are_unique: unique && id_kind != IdKind::Untyped,
            columns,
            id,
            id_kind,
            arrival,
            rowid,
        })
    }

    fn of_query(connection: &Connection, query: &str, id: Option<&str>) -> Result<Self, Fault> {
        let refuse = |message: &str| Fault::Own(Error::new(ErrorKind::Invalid, message).with("setting", "query"));
        // By itself first: text that only closes our parenthesis and goes on is no query.
        let alone = connection.prepare(query).map_err(|error| refused_query(error, query))?;
        if alone.column_count() == 0 || !alone.readonly() {
            return Err(refuse("this is not a `SELECT`"));
        }
        if alone.parameter_count() > 0 {
            return Err(refuse("the query has parameters, and there is nothing to give for them"));
        }
        let from = format!("({query}\n) AS r");
        let whole =
            connection.prepare(&format!("SELECT r.* FROM {from}")).map_err(|error| refused_query(error, query))?;
        let declared: Vec<(String, String)> = whole
            .columns()
            .iter()
            .map(|column| (column.name().to_owned(), column.decl_type().unwrap_or_default().to_owned()))
            .collect();
        let columns: Vec<RelationColumn> = declared
            .iter()
            .map(|(name, declared)| {
                let affinity = Affinity::of_declared(declared, false);
                RelationColumn {
                    name: name.clone(),
                    affinity,
                    kind: kind_of(declared, affinity),
                    not_null: false,
                    has_default: false,
                    generated: false,
                }
            })
            .collect();
        let Some(id) = id else {
            let message = "name the column of the query that tells its rows apart with `id`";
            return Err(Error::new(ErrorKind::Invalid, message).with("setting", "id").into());
        };
        let id = position_of_id(&columns, id)?;
        Ok(Relation {
            target: None,
            is_table: false,
            takes_queries: true,
            id_kind: id_kind_of(&columns[id], &declared[id].1, false)?,
            ids_are_unique: false,
            arrival: format!("{} COLLATE BINARY", columns[id].qualified()),
            rowid: None,
            from,
            columns,
            id,
        })
    }

    /// The columns as the library tells them to others.
    pub(super) fn schema(&self) -> Schema {
        let title = ["name", "title"]
            .iter()
            .find_map(|title| self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(title)));
        let mut schema = Schema::new(&self.id_column().name);
        for (position, column) in self.columns.iter().enumerate() {
            let mut listed = Column::new(&column.name, column.kind);
            if matches!(column.kind, ColumnType::Text | ColumnType::Any) {
                listed = listed.searchable();
            }
            if Some(position) == title {
                listed = listed.title();
            }
            let is_chosen = position == self.id && self.id_kind == IdKind::RowId;
            if column.not_null && !column.has_default && !column.generated && !is_chosen {
                listed = listed.mandatory();
            }
            schema = schema.with(listed);
        }
        schema
    }
}

fn refused_query(error: rusqlite::Error, query: &str) -> Fault {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) if failure.code != rusqlite::ErrorCode::Unknown => {
            Fault::Sqlite(error)
        }
        error => Fault::Own(
            Error::new(ErrorKind::Invalid, "the database doesn't take the query; it must be one `SELECT`")
                .with("setting", "query")
                .with("query", query)
                .with_source(error),
        ),
    }
}

fn position_of_id(columns: &[RelationColumn], id: &str) -> Result<usize, Error> {
    let found = columns.iter().position(|column| column.name == id);
    let found = found.or_else(|| columns.iter().position(|column| column.name.eq_ignore_ascii_case(id)));
    found.ok_or_else(|| {
        let known: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
        Error::new(ErrorKind::NotFound, format!("the id column is not there; the columns are: {}", known.join(", ")))
            .with("setting", "id")
            .with("column", id)
    })
}

fn id_kind_of(column: &RelationColumn, declared: &str, is_table: bool) -> Result<IdKind, Error> {
    let refuse = |what: &str| {
        let message = format!("an id is text or an integer, and this column holds {what}; take another as the id");
        Err(Error::new(ErrorKind::Invalid, message).with("setting", "id").with("column", &column.name))
    };
    match column.affinity {
        Affinity::Real => refuse("floats"),
        _ if column.kind == ColumnType::Bool => refuse("booleans"),
        Affinity::Nothing if !declared.is_empty() && !declared.eq_ignore_ascii_case("ANY") => refuse("bytes"),
        _ if !is_table => Ok(IdKind::Untyped),
        Affinity::Integer | Affinity::Numeric => Ok(IdKind::Number),
        Affinity::Text => Ok(IdKind::Text),
        Affinity::Nothing => Ok(IdKind::Untyped),
    }
}

fn kind_of(declared: &str, affinity: Affinity) -> ColumnType {
    let declared = declared.to_ascii_uppercase();
    match affinity {
        Affinity::Integer => ColumnType::Int,
        Affinity::Real => ColumnType::Float,
        Affinity::Text => ColumnType::Text,
        Affinity::Nothing if declared.contains("BLOB") => ColumnType::Bytes,
        Affinity::Nothing => ColumnType::Any,
        Affinity::Numeric if matches!(&*declared, "BOOL" | "BOOLEAN") => ColumnType::Bool,
        // Dates are text or numbers, as whoever writes them likes.
        Affinity::Numeric if declared.contains("DATE") || declared.contains("TIME") => ColumnType::Any,
        Affinity::Numeric if declared.starts_with("NUM") || declared.starts_with("DEC") => ColumnType::Float,
        Affinity::Numeric => ColumnType::Any,
    }
}

struct UniqueIndex {
    /// The one column that it makes unique.
    column: String,
    is_primary_key: bool,
}

fn unique_indexes(connection: &Connection, table: &str) -> Result<Vec<UniqueIndex>, Fault> {
    let mut statement = connection.prepare(
        "SELECT max(column.name), list.origin = 'pk' FROM pragma_index_list(?1, 'main') AS list, \
         pragma_index_info(list.name, 'main') AS column WHERE list.\"unique\" AND NOT list.partial \
         GROUP BY list.name HAVING count(*) = 1 AND max(column.name) IS NOT NULL",
    )?;
    let indexes =
        statement.query_map([table], |row| Ok(UniqueIndex { column: row.get(0)?, is_primary_key: row.get(1)? }))?;
    Ok(indexes.collect::<rusqlite::Result<_>>()?)
}

fn table_names(connection: &Connection) -> Result<Vec<String>, Fault> {
    let mut statement = connection.prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'view', 'virtual') \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'diorama_writes' ORDER BY name",
    )?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}
