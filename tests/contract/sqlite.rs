//! The SQLite source keeps the contract of sources, with ids of text and of integers.

use diorama::Value;
use diorama::sources::SqliteVista;
use diorama::vista::contract::{self, Fixture, Rows, Subject};
use diorama::vista::{CallCx, Column, ColumnType, Schema, TableShell, WriteOp};
use rusqlite::types::Value as Sql;

const COLUMNS: [&str; 7] = ["id", "name", "stock", "weight", "active", "mark", "group"];

fn schema(id: ColumnType) -> Schema {
    Schema::new("id")
        .with(Column::new("id", id))
        .with(Column::new("name", ColumnType::Text))
        .with(Column::new("stock", ColumnType::Int))
        .with(Column::new("weight", ColumnType::Float))
        .with(Column::new("active", ColumnType::Bool))
        .with(Column::new("mark", ColumnType::Bytes))
        .with(Column::new("group", ColumnType::Text).mandatory())
}

fn as_sql(value: Option<&Value>) -> Sql {
    match value {
        Some(Value::Text(text)) => Sql::Text(text.clone()),
        Some(Value::Integer(number)) => Sql::Integer(i128::from(*number) as i64),
        Some(Value::Float(number)) => Sql::Real(*number),
        Some(Value::Bool(yes)) => Sql::Integer(i64::from(*yes)),
        Some(Value::Bytes(bytes)) => Sql::Blob(bytes.clone()),
        _ => Sql::Null,
    }
}

/// A new database file with a table of these rows, put there by other means than the source's own.
fn table_of(id: &str, rows: &Rows) -> diorama::Result<Subject> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("products.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    let create = format!(
        "CREATE TABLE products (id {id} PRIMARY KEY NOT NULL, name TEXT, stock INTEGER, weight REAL, active BOOLEAN, \
         mark BLOB, \"group\" TEXT NOT NULL)"
    );
    database.execute_batch(&create).unwrap();
    for (_, record) in rows {
        let values = COLUMNS.map(|column| as_sql(record.get(column)));
        database.execute("INSERT INTO products VALUES (?,?,?,?,?,?,?)", rusqlite::params_from_iter(values)).unwrap();
    }
    let open = || SqliteVista::open(&path, "products");
    let somebody = open()?;
    let outside = move |op: &WriteOp| match op {
        WriteOp::Upsert { id, record } => somebody.upsert(&CallCx::new(), id, record).map(drop),
        op => somebody.delete(&CallCx::new(), op.id().unwrap_or_default()),
    };
    Ok(Subject::new(open()?).second(open()?).outside(outside).keep(directory))
}

#[test]
fn a_sqlite_table_with_ids_of_text_keeps_the_contract() {
    contract::check(&Fixture::new("sqlite", schema(ColumnType::Text), |rows| table_of("TEXT", &rows)));
}

#[test]
fn a_sqlite_table_with_ids_of_integers_keeps_the_contract() {
    let ids = (1..=40).map(|number| number.to_string());
    contract::check(&Fixture::new("sqlite", schema(ColumnType::Int), |rows| table_of("INTEGER", &rows)).ids(ids));
}
