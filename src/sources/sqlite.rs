//! SQLite: a table, a view or a query of a SQLite database as a data source.
//!
//! Owner: nobody; calls run side by side, each on a connection and in a transaction of its own.
//! Flow: a query → `select` says which part SQL answers exactly → `read`; a write → `write`, with its answer noted by
//! `keys`; `connections` does both, again while others hold a lock.
//! Invariants: 1. what SQL can't answer exactly is left to the caller (`what_sqlite_answers_is_what_plain_evaluation_gives`);
//! 2. a table that someone changed is an error, not rows of another shape
//! (`a_table_that_someone_changed_is_an_error_that_names_it`).
//! Not here: telling what others change; the database is read again when it is asked.

mod cell;
mod connections;
mod fault;
mod functions;
mod keys;
mod pages;
mod read;
mod relation;
mod select;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::connections::{Connections, Session};
use self::fault::Fault;
use self::read::Reader;
use self::relation::{Relation, Subject};
use self::select::Target;
use self::write::Writer;
use crate::value::Record;
use crate::vista::{
    CallCx, Capabilities, Page, PageCursor, PushDown, QueryDescriptor, Schema, TableShell, Total, WriteOp, Written,
};
use crate::{Error, ErrorKind, Result};

/// A table, a view or a query of a SQLite database as a data source. Clones share one set of connections.
///
/// The database and the table exist already. Columns and their types come from the database: a declared type with
/// `INT` is an integer, `BOOL` and `BOOLEAN` a boolean (stored as 0 or 1), and so on by SQLite's own rules; dates are
/// whatever was stored, text or numbers. SQLite lets a column hold values of other types; they are read as they are.
///
/// # Ids
///
/// The id is the primary key, or the column named with [`id`](SqliteVistaBuilder::id): integers (as text: `7`) or text,
/// never null or empty, never twice. A table without a primary key, and a view or a query always, needs it named.
///
/// # Queries
///
/// Conditions, sort, search and windows become SQL, with every value bound and every name quoted, as far as SQL means the
/// same as [`Condition`](crate::vista::Condition) and the order of values. The rest (dotted paths, integers beyond 64
/// bits, decimals, datetimes, arrays and maps as values; very large conditions; everything of a virtual table; the order
/// of text in a UTF-16 database) is left to the caller, as [`push_down`](TableShell::push_down) tells. Comparisons and
/// sorts of a table are served by its indexes, unless an index has another collation than `BINARY`; `like` and search
/// look at every row. Without a sort, rows come in the order of their rowid, else of their id.
///
/// A window that begins at or behind the end of one read earlier over the same connection goes on from there, while nobody
/// has written; so pages of a long table cost the same at its end as at its beginning. A
/// [`page`](TableShell::page) goes on behind the last row of the one before in any case, whoever writes. Views, queries and
/// virtual tables have windows and no pages: nothing there promises that a place in an order is that of one row.
///
/// # Writes
///
/// Each call is one transaction, a [`batch`](TableShell::batch) too. A write answers the row as the database has it
/// afterwards. Values that the column would change (text that looks like a number in a column of numbers, a number in a
/// column of text, NaN) and that SQLite has no type for (arrays, maps, tags) are refused with `Invalid`; what constraints,
/// foreign keys and triggers refuse is `Rejected`, a value that must be unique and isn't is `Conflict`. A new row gets the
/// database's defaults in the columns it doesn't name; replacing a row puts null into them. Views, queries and virtual
/// tables can only be read.
///
/// A write with an [idempotency key](CallCx::idempotency_key) notes its answer, in the same transaction, in a table of its
/// own in the database, `diorama_writes`, which the first such write makes: repeated with the key, by whichever process,
/// it is done once. The newest 10,000 answers are kept.
/// [`idempotent_writes(false)`](SqliteVistaBuilder::idempotent_writes) leaves the database without that table.
///
/// # Other programs
///
/// Other connections, of this process or of others, may read and write at any time. A call waits up to
/// [`busy_timeout`](SqliteVistaBuilder::busy_timeout) for their locks, ends early when it is cancelled or its deadline
/// passes, and is `Unavailable` after that. What they write is seen by the next call. Columns added, dropped or declared
/// anew make every call fail with `Corrupt` until the vista is opened again. The journal mode stays as it is; in WAL mode
/// readers and writers don't wait for one another.
///
/// ```
/// use diorama::sources::SqliteVista;
/// use diorama::vista::{Condition, SortDir, Vista};
/// use diorama::record;
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("shop.db");
/// # rusqlite::Connection::open(&path)?.execute_batch(
/// #     "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price REAL);
/// #      INSERT INTO products VALUES (1, 'Anvil', 30.0), (2, 'Bell', 10.5), (3, 'Candle', NULL)")?;
///
/// let mut products = Vista::new(SqliteVista::open(path, "products")?);
/// products.add_condition(Condition::ge("price", 10))?.add_sort("price", SortDir::Asc)?;
/// assert_eq!(products.list_values()?[0].1.text("name"), Some("Bell"));
///
/// let written = products.insert_value(None, &record! { "name" => "Drum", "price" => 99.0 })?;
/// assert_eq!(written.id.as_deref(), Some("4"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SqliteVista(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connections: Connections,
    subject: Subject,
    reader: Reader,
    schema: Arc<Schema>,
    name: String,
    source_key: String,
    utf8: bool,
    can_write: bool,
    keeps_answers: bool,
}

/// What [`SqliteVista::builder`] asks for: [`table`](Self::table) or [`query`](Self::query) is needed, the rest has
/// defaults.
#[derive(Debug, Clone)]
pub struct SqliteVistaBuilder {
    path: PathBuf,
    subject: Option<Subject>,
    id: Option<String>,
    name: Option<String>,
    read_only: bool,
    busy_timeout: Duration,
    idempotent_writes: bool,
}

impl SqliteVistaBuilder {
    /// The table or view to show.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.subject = Some(Subject::Table(table.into()));
        self
    }

    /// A `SELECT` whose rows are shown, read-only. It needs [`id`](Self::id) and [`name`](Self::name). It is run as it is:
    /// never make it out of text that others gave.
    #[must_use]
    pub fn query(mut self, select: impl Into<String>) -> Self {
        self.subject = Some(Subject::Query(select.into()));
        self
    }

    /// The name of the id column; the primary key unless given.
    #[must_use]
    pub fn id(mut self, column: impl Into<String>) -> Self {
        self.id = Some(column.into());
        self
    }

    /// What the rows are called, and their cache table; the table's name unless given.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether the database is opened for reading only; `false` unless given. A file that can't be written is read all
    /// the same, and its vista tells so.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// How long a call waits for the locks of other connections, 5 seconds unless given; zero: not at all. A call's own
    /// deadline ends the wait earlier.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Whether answers to writes are kept under their idempotency keys, in the table `diorama_writes` of the database;
    /// `true` unless given.
    #[must_use]
    pub fn idempotent_writes(mut self, keep: bool) -> Self {
        self.idempotent_writes = keep;
        self
    }

    /// Opens the database and looks at the table's columns, not at its rows. Blocks for that long, up to the busy time-out
    /// if another connection holds the database.
    ///
    /// # Errors
    /// `Invalid` for a setting that is missing or can't be, a query that is no `SELECT`, a table whose id column isn't
    /// known; `NotFound` without the file, the table or the id column; `Corrupt` for a file that is no database;
    /// `Unavailable` while another connection holds it.
    pub fn open(self) -> Result<SqliteVista> {
        let shown = self.path.display().to_string();
        let setting = |setting: &str, message: &str| {
            Error::new(ErrorKind::Invalid, message).with("setting", setting).with("file", &*shown)
        };
        let subject = match self.subject.clone() {
            None => return Err(setting("table", "name a table, or give a query")),
            Some(Subject::Query(query)) => {
                Subject::Query(query.trim_end_matches(|end: char| end == ';' || end.is_whitespace()).to_owned())
            }
            Some(table) => table,
        };
        let name = match (&self.name, &subject) {
            (Some(name), _) | (None, Subject::Table(name)) => name.clone(),
            (None, Subject::Query(_)) => return Err(setting("name", "a query has no name of its own; give it one")),
        };
        let real = std::fs::canonicalize(&self.path).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Source,
            };
            Error::new(kind, "the database file can't be found").with("file", &*shown).with_source(error)
        })?;
        if real.is_dir() {
            return Err(setting("path", "this is a directory, not a database"));
        }
        let id = self.id.as_deref();
        let describe = |connection: &rusqlite::Connection| Relation::describe(connection, &subject, id);
        let (connections, relation, opened) =
            Connections::open(real, self.read_only, self.busy_timeout, describe).map_err(|error| at(error, &name))?;
        let source_key =
            format!("sqlite:{}:{}:{}", connections.path().display(), relation.from, relation.id_column().name);
        let can_write = opened.writable && relation.target.is_some();
        Ok(SqliteVista(Arc::new(Shared {
            connections,
            schema: Arc::new(relation.schema()),
            subject,
            reader: Reader::new(relation),
            name,
            source_key,
            utf8: opened.utf8,
            can_write,
            keeps_answers: can_write && self.idempotent_writes,
        })))
    }
}

impl SqliteVista {
    /// Opens a table or a view of a database. Blocks as [`SqliteVistaBuilder::open`] does.
    ///
    /// # Errors
    /// As [`SqliteVistaBuilder::open`].
    pub fn open(path: impl AsRef<Path>, table: impl Into<String>) -> Result<SqliteVista> {
        SqliteVista::builder(path).table(table).open()
    }

    /// Asks for more than [`open`](Self::open) does.
    ///
    /// ```
    /// use diorama::sources::SqliteVista;
    /// use diorama::vista::{CallCx, QueryDescriptor, TableShell};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("shop.db");
    /// # rusqlite::Connection::open(&path)?.execute_batch(
    /// #     "CREATE TABLE sales (shop TEXT, amount INTEGER); INSERT INTO sales VALUES ('Riga', 2), ('Riga', 3)")?;
    ///
    /// let per_shop = SqliteVista::builder(path)
    ///     .query("SELECT shop, sum(amount) AS amount FROM sales GROUP BY shop")
    ///     .id("shop")
    ///     .name("sales per shop")
    ///     .open()?;
    /// assert!(!per_shop.capabilities().insert);
    /// let rows = per_shop.list(&CallCx::new(), &QueryDescriptor::default())?;
    /// assert_eq!(rows[0].1.int("amount"), Some(5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(path: impl AsRef<Path>) -> SqliteVistaBuilder {
        SqliteVistaBuilder {
            path: path.as_ref().to_path_buf(),
            subject: None,
            id: None,
            name: None,
            read_only: false,
            busy_timeout: Duration::from_secs(5),
            idempotent_writes: true,
        }
    }

    fn target(&self) -> Target<'_> {
        Target { relation: self.0.reader.relation(), schema: &self.0.schema, utf8: self.0.utf8 }
    }

    fn read<T>(&self, cx: &CallCx, work: impl Fn(&Session) -> Result<T, Fault>) -> Result<T> {
        let Shared { connections, subject, reader, name, .. } = &*self.0;
        connections.read(cx, subject, reader.relation(), work).map_err(|error| at(error, name))
    }

    fn refuse_query(&self, call: &str) -> Error {
        let message = format!("this source does not answer all of this query in `{call}`; see `push_down`");
        Error::new(ErrorKind::Unsupported, message).with("table", &*self.0.name)
    }

    fn write(&self, cx: &CallCx, call: &str, ops: &[WriteOp]) -> Result<Vec<Written>> {
        let Shared { connections, subject, reader, name, .. } = &*self.0;
        let relation = reader.relation();
        let Some(table) = relation.target.as_deref().filter(|_| self.0.can_write) else {
            return Err(self.unsupported(call));
        };
        let key = cx.idempotency_key().filter(|_| self.0.keeps_answers);
        let work = |session: &Session| {
            let connection = &session.connection;
            if let Some(key) = key
                && let Some(answers) = keys::first_answer(connection, table, key)?
            {
                if answers.len() == ops.len() {
                    return Ok(answers);
                }
                let message = "this idempotency key belongs to another write; give each write a key of its own";
                return Err(Error::new(ErrorKind::Invalid, message).with("key", key).into());
            }
            let writer = Writer { session, cx, reader, table };
            let answers = ops.iter().map(|op| {
                cx.check()?;
                writer.apply(op).map_err(|fault| match fault {
                    busy if busy.is_busy() => busy,
                    other => Fault::Own(at_write(other.into_error(cx), op)),
                })
            });
            let answers = answers.collect::<Result<Vec<Written>, Fault>>()?;
            if let Some(key) = key {
                keys::keep(connection, table, key, &answers)?;
            }
            Ok(answers)
        };
        connections.write(cx, subject, relation, work).map_err(|error| at(error, name))
    }

    fn write_one(&self, cx: &CallCx, op: WriteOp) -> Result<Written> {
        Ok(self.write(cx, op.verb(), std::slice::from_ref(&op))?.pop().unwrap_or_default())
    }
}

fn at(error: Error, name: &str) -> Error {
    error.with("table", name)
}

fn at_write(error: Error, op: &WriteOp) -> Error {
    let error = error.with("write", op.verb());
    match op.id() {
        Some(id) => error.with("id", id),
        None => error,
    }
}

impl TableShell for SqliteVista {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn source_key(&self) -> String {
        self.0.source_key.clone()
    }

    fn schema(&self) -> Arc<Schema> {
        self.0.schema.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let pages = self.0.reader.relation().has_pages();
        if self.0.can_write {
            Capabilities { pages, batch: true, idempotent_writes: self.0.keeps_answers, ..Capabilities::read_write() }
        } else {
            Capabilities { pages, ..Capabilities::read_only() }
        }
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        self.target().split(query)
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        query.check(&self.0.schema).map_err(|error| at(error, &self.0.name))?;
        let rows = self.read(cx, |session| self.0.reader.list(session, cx, self.target(), query))?;
        rows.ok_or_else(|| self.refuse_query("list"))
    }

    fn page(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        let Shared { reader, schema, source_key, name, .. } = &*self.0;
        if !reader.relation().has_pages() {
            return Err(self.unsupported("page"));
        }
        let opened = Page::check(query, limit)
            .and_then(|()| query.check(schema))
            .and_then(|()| after.map(|cursor| pages::open(cursor, source_key, query)).transpose());
        let place = opened.map_err(|error| at(error, name))?;
        let found = self.read(cx, |session| reader.page(session, cx, self.target(), query, place.as_deref(), limit))?;
        let (rows, next) = found.ok_or_else(|| self.refuse_query("page"))?;
        let next = next.map(|key| pages::seal(source_key, query, key)).transpose().map_err(|error| at(error, name))?;
        let known = rows.len() as u64 + u64::from(next.is_some());
        let is_all = after.is_none() && next.is_none();
        Ok(Page { rows, next, total: if is_all { Total::Exact(known) } else { Total::AtLeast(known) } })
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        self.read(cx, |session| self.0.reader.get(session, cx, id)).map_err(|error| error.with("id", id))
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        query.check(&self.0.schema).map_err(|error| at(error, &self.0.name))?;
        let count = self.read(cx, |session| self.0.reader.count(session, self.target(), query))?;
        count.ok_or_else(|| self.refuse_query("count"))
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        self.write_one(cx, WriteOp::Insert { id: id.map(str::to_owned), record: record.clone() })
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write_one(cx, WriteOp::replace(id, record.clone()))
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write_one(cx, WriteOp::upsert(id, record.clone()))
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.write_one(cx, WriteOp::patch(id, record.clone()))
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        self.write_one(cx, WriteOp::delete(id)).map(drop)
    }

    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        self.write_one(cx, WriteOp::delete_all()).map(drop)
    }

    fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        self.write(cx, "batch", ops)
    }
}
