//! Fault: what can go wrong inside a call, and what each of SQLite's answers means to a caller.
//!
//! Invariants: busy and locked are transient (`Unavailable`); a refusal by the database (`Conflict`, `Rejected`) is not.

use rusqlite::ffi::{
    ErrorCode, SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_UNIQUE, SQLITE_SCHEMA,
};

use crate::vista::CallCx;
use crate::{Error, ErrorKind};

/// An error of the library, or one of SQLite that may still be worth another attempt.
pub(super) enum Fault {
    Own(Error),
    Sqlite(rusqlite::Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Own(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Fault::Sqlite(error)
    }
}

impl Fault {
    /// Whether another connection is in the way.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Fault::Sqlite(rusqlite::Error::SqliteFailure(failure, _)) => {
                matches!(failure.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
                    || failure.extended_code == SQLITE_SCHEMA
            }
            _ => false,
        }
    }

    /// Whether the connection it came from is not worth keeping.
    pub(super) fn spoils_the_connection(&self) -> bool {
        match self {
            Fault::Own(_) => false,
            Fault::Sqlite(rusqlite::Error::SqliteFailure(failure, _)) => {
                !matches!(failure.code, ErrorCode::ConstraintViolation | ErrorCode::OperationInterrupted)
            }
            Fault::Sqlite(_) => true,
        }
    }

    /// What the caller is told.
    pub(super) fn into_error(self, cx: &CallCx) -> Error {
        let error = match self {
            Fault::Own(error) => return error,
            Fault::Sqlite(error) => error,
        };
        let rusqlite::Error::SqliteFailure(failure, _) = &error else {
            return Error::new(ErrorKind::Source, "the database answered something unexpected").with_source(error);
        };
        let (kind, message) = match failure.code {
            ErrorCode::OperationInterrupted => {
                return match cx.check() {
                    Err(reason) => reason,
                    Ok(()) => Error::new(ErrorKind::Cancelled, "the database was interrupted").with_source(error),
                };
            }
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                (ErrorKind::Unavailable, "the database is locked by another connection")
            }
            ErrorCode::ConstraintViolation => match failure.extended_code {
                SQLITE_CONSTRAINT_UNIQUE | SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_ROWID => {
                    (ErrorKind::Conflict, "another row has these values, which must be unique")
                }
                _ => (ErrorKind::Rejected, "a constraint or trigger of the database refused the write"),
            },
            ErrorCode::NotADatabase => (ErrorKind::Corrupt, "the file is no SQLite database, or is encrypted"),
            ErrorCode::DatabaseCorrupt => (ErrorKind::Corrupt, "the database file is damaged"),
            ErrorCode::ReadOnly => (ErrorKind::Rejected, "the database can't be written"),
            ErrorCode::AuthorizationForStatementDenied | ErrorCode::PermissionDenied => {
                (ErrorKind::Rejected, "the database may not be accessed this way")
            }
            ErrorCode::CannotOpen => (ErrorKind::Unavailable, "the database file can't be opened"),
            ErrorCode::DiskFull => (ErrorKind::Unavailable, "the disk is full"),
            ErrorCode::TooBig => (ErrorKind::Invalid, "a value is larger than the database takes"),
            _ => (ErrorKind::Source, "the database failed"),
        };
        Error::new(kind, message).with_source(error)
    }
}
