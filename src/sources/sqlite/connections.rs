//! Connections: how calls reach the database: one connection each, a transaction each, and patience with other programs.
//!
//! Owner: nobody; calls run side by side, this vista's writes take turns.
//! Flow: a call → an idle connection or a new one → a transaction → is the relation still what it was? → the work.
//! Invariants: 1. a call ends within one slice of a cancellation, while it waits for a lock too
//! (`a_call_that_waits_for_a_lock_can_be_cancelled`); 2. a write is in the database whole or not at all
//! (`a_batch_is_done_whole_or_not_at_all`); 3. the file's journal mode and settings stay as they are
//! (`the_journal_mode_stays_as_it_is`).

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;
use super::functions;
use super::pages::Places;
use super::relation::{Relation, Subject};
use crate::vista::CallCx;
use crate::{Error, ErrorKind, Result};

/// How long SQLite waits for a lock before the call looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(25);

/// Connections kept for later.
const MAX_IDLE: usize = 8;

/// Steps of SQLite's machine between two looks at the call's context.
const STEPS_PER_LOOK: i32 = 2_000;

#[derive(Debug)]
pub(super) struct Connections {
    path: PathBuf,
    read_only: bool,
    busy_timeout: Duration,
    /// Held only to take or put a connection.
    idle: Mutex<Vec<Session>>,
    /// Held by the one write that is at work.
    turn: Mutex<()>,
    /// The version of the database's schema at which the relation was last found to be as it was.
    known_version: AtomicI64,
}

/// A connection and what was learnt over it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Connection,
    /// Where pages read over it ended.
    pub(super) places: RefCell<Places>,
    file: FileIdentity,
}

/// Which file a path led to: another program may put a new one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity(u64, u64);

fn identity_of(path: &Path) -> io::Result<FileIdentity> {
    let metadata = fs::metadata(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(FileIdentity(metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    {
        // A file that is open can't be replaced there.
        let _ = metadata;
        Ok(FileIdentity(0, 0))
    }
}

impl Connections {
    /// Opens a first connection and describes the relation on it; the answer says, too, whether the file can be written
    /// and whether the database's text is UTF-8.
    pub(super) fn open(
        path: PathBuf,
        read_only: bool,
        busy_timeout: Duration,
        describe: impl Fn(&Connection) -> Result<Relation, Fault>,
    ) -> Result<(Self, Relation, Opened)> {
        let connections = Connections {
            path,
            read_only,
            busy_timeout,
            idle: Mutex::new(Vec::new()),
            turn: Mutex::new(()),
            known_version: AtomicI64::new(0),
        };
        let (relation, opened) = connections.attempts(&CallCx::new(), |session| {
            let connection = &session.connection;
            let transaction = connection.unchecked_transaction()?;
            let version = schema_version(connection)?;
            let relation = describe(connection)?;
            let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
            connections.known_version.store(version, Ordering::Release);
            transaction.finish()?;
            let writable = !read_only && !connection.is_readonly("main")?;
            Ok((relation, Opened { writable, utf8: encoding == "UTF-8" }))
        })?;
        Ok((connections, relation, opened))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in a read transaction, in which all it sees is of one moment. It may run more than once.
    pub(super) fn read<T>(
        &self,
        cx: &CallCx,
        subject: &Subject,
        relation: &Relation,
        work: impl Fn(&Session) -> Result<T, Fault>,
    ) -> Result<T> {
        self.attempts(cx, |session| {
            let connection = &session.connection;
            connection.prepare_cached("BEGIN")?.execute([])?;
            self.check_relation(connection, subject, relation)?;
            let answer = work(session)?;
            connection.prepare_cached("ROLLBACK")?.execute([])?;
            Ok(answer)
        })
    }

    /// Runs `work` in a write transaction, whose effect is there whole when this returns `Ok` and not at all when it
    /// returns an error. It may run more than once.
    pub(super) fn write<T>(
        &self,
        cx: &CallCx,
        subject: &Subject,
        relation: &Relation,
        work: impl Fn(&Session) -> Result<T, Fault>,
    ) -> Result<T> {
        let _turn = loop {
            cx.check()?;
            if let Some(turn) = self.turn.try_lock_for(SLICE) {
                break turn;
            }
        };
        self.attempts(cx, |session| {
            let connection = &session.connection;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            self.check_relation(connection, subject, relation)?;
            let answer = work(session)?;
            cx.check()?;
            // Readers can hold a commit up: the work is done, so only the commit is repeated, and not all of it again.
            self.while_busy(cx, || Ok(connection.execute_batch("COMMIT")?)).map_err(|fault| fault.into_error(cx))?;
            Ok(answer)
        })
    }

    /// Runs `attempt` on a connection, again while other connections are in the way.
    fn attempts<T>(&self, cx: &CallCx, attempt: impl Fn(&Session) -> Result<T, Fault>) -> Result<T> {
        cx.check()?;
        let session = self.take(cx)?;
        let connection = &session.connection;
        let answer = self.while_busy(cx, || {
            let answer = attempt(&session);
            if !connection.is_autocommit() {
                // What a failed attempt did goes; a connection whose transaction can't be ended goes, too.
                let _ = connection.execute_batch("ROLLBACK");
            }
            answer
        });
        connection.progress_handler(0, None::<fn() -> bool>);
        if connection.is_autocommit() && !answer.as_ref().is_err_and(Fault::spoils_the_connection) {
            self.give_back(session);
        }
        answer.map_err(|fault| self.located(fault.into_error(cx)))
    }

    fn while_busy<T>(&self, cx: &CallCx, attempt: impl Fn() -> Result<T, Fault>) -> Result<T, Fault> {
        let mut patience = self.busy_timeout;
        loop {
            match attempt() {
                Err(fault) if fault.is_busy() => {
                    patience = patience.saturating_sub(SLICE);
                    // Why the call ends comes before what it was waiting for.
                    cx.check()?;
                    if patience.is_zero() {
                        return Err(fault);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// An idle connection or a new one, which ends its work when `cx` says so.
    fn take(&self, cx: &CallCx) -> Result<Session> {
        let file = identity_of(&self.path).map_err(|error| {
            self.located(Error::new(ErrorKind::Unavailable, "the database file can't be found").with_source(error))
        })?;
        let mut idle = self.idle.lock().pop();
        if idle.as_ref().is_some_and(|idle| idle.file != file) {
            // Another file stands in its place. Whatever its version says, the relation is to be looked at again.
            let outdated = std::mem::take(&mut *self.idle.lock());
            drop((outdated, idle.take()));
            self.known_version.store(-1, Ordering::Release);
        }
        let session = match idle {
            Some(session) => session,
            None => {
                let connection = self.connect().map_err(|error| self.located(Fault::Sqlite(error).into_error(cx)))?;
                Session { connection, places: RefCell::default(), file }
            }
        };
        let cx = cx.clone();
        session.connection.progress_handler(STEPS_PER_LOOK, Some(move || cx.check().is_err()));
        Ok(session)
    }

    fn give_back(&self, session: Session) {
        let mut kept = self.idle.lock();
        if kept.len() < MAX_IDLE {
            kept.push(session);
        }
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let access = if self.read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
        let connection = Connection::open_with_flags(&self.path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(SLICE.min(self.busy_timeout))?;
        // A quoted name that no column has must be an error, not a text.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
        // Else a statement is compiled again each time it is given values.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_prepared_statement_cache_capacity(32);
        functions::register(&connection)?;
        Ok(connection)
    }

    /// Whether the relation is still the one that was opened. Costs a look at one number when nobody changed anything.
    fn check_relation(&self, connection: &Connection, subject: &Subject, relation: &Relation) -> Result<(), Fault> {
        let version = schema_version(connection)?;
        if version == self.known_version.load(Ordering::Acquire) {
            return Ok(());
        }
        let id = &relation.id_column().name;
        match Relation::describe(connection, subject, Some(id)) {
            Ok(now) if now == *relation => {
                self.known_version.store(version, Ordering::Release);
                Ok(())
            }
            Ok(now) => Err(changed(relation, &now).into()),
            Err(Fault::Own(error)) => {
                let message = "the table is no longer the one that was opened; open it again when it is back";
                let kind = if error.kind() == ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Corrupt };
                Err(Error::new(kind, message).with_source(error).into())
            }
            Err(fault) => Err(fault),
        }
    }

    fn located(&self, error: Error) -> Error {
        error.with("file", self.path.display().to_string())
    }
}

/// What is known of a database once it is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    pub(super) writable: bool,
    pub(super) utf8: bool,
}

fn schema_version(connection: &Connection) -> Result<i64, Fault> {
    Ok(connection.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))?)
}

fn changed(was: &Relation, now: &Relation) -> Error {
    let differs = |left: &Relation, right: &Relation| {
        left.columns.iter().find(|column| !right.columns.contains(column)).map(|column| column.name.clone())
    };
    let column = differs(now, was).or_else(|| differs(was, now));
    let message = "someone changed the table's columns since it was opened; open it again";
    let error = Error::new(ErrorKind::Corrupt, message);
    match column {
        Some(column) => error.with("column", column),
        None => error,
    }
}
