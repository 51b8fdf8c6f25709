//! A database in a directory of its own.

use std::path::PathBuf;

use diorama::sources::{SqliteVista, SqliteVistaBuilder};
use diorama::value::Record;
use diorama::vista::{CallCx, QueryDescriptor, TableShell};
use rusqlite::Connection;

pub(crate) struct Database {
    _directory: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Database {
    pub(crate) fn new(sql: &str) -> Database {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        Database { _directory: directory, path }
    }

    /// Another program's connection.
    pub(crate) fn connection(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    pub(crate) fn run(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap();
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.connection().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub(crate) fn text(&self, sql: &str) -> String {
        self.connection().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub(crate) fn open(&self, table: &str) -> SqliteVista {
        SqliteVista::open(&self.path, table).unwrap()
    }

    pub(crate) fn builder(&self) -> SqliteVistaBuilder {
        SqliteVista::builder(&self.path)
    }
}

pub(crate) fn cx() -> CallCx {
    CallCx::new()
}

pub(crate) fn list(vista: &SqliteVista) -> Vec<(String, Record)> {
    vista.list(&cx(), &QueryDescriptor::default()).unwrap()
}

pub(crate) fn ids(vista: &SqliteVista) -> Vec<String> {
    list(vista).into_iter().map(|(id, _)| id).collect()
}
