//! Keys: the answers to earlier writes, kept in the database itself, so that a write repeated with its idempotency key is
//! done once.
//!
//! Invariants: the answer is stored in the transaction of its write: both are there or neither
//! (`a_write_repeated_after_a_crash_is_done_once`).

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use crate::value::Record;
use crate::vista::Written;
use crate::{Error, ErrorKind};

/// Answers kept in one database.
const KEPT: i64 = 10_000;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS main.diorama_writes (\
    number INTEGER PRIMARY KEY AUTOINCREMENT, relation TEXT NOT NULL, key TEXT NOT NULL, answer BLOB NOT NULL, \
    UNIQUE (relation, key))";

/// The answers to the write of this key, if it was done before.
pub(super) fn first_answer(connection: &Connection, relation: &str, key: &str) -> Result<Option<Vec<Written>>, Fault> {
    connection.execute_batch(CREATE)?;
    let stored: Option<Vec<u8>> = connection
        .prepare_cached("SELECT answer FROM main.diorama_writes WHERE relation = ?1 AND key = ?2")?
        .query_row([relation, key], |row| row.get(0))
        .optional()?;
    stored.map(|bytes| Ok(decode(&bytes)?)).transpose()
}

/// Keeps the answers to the write of this key, and forgets the oldest.
pub(super) fn keep(connection: &Connection, relation: &str, key: &str, answers: &[Written]) -> Result<(), Fault> {
    connection
        .prepare_cached("INSERT INTO main.diorama_writes (relation, key, answer) VALUES (?1, ?2, ?3)")?
        .execute(params![relation, key, encode(answers)?])?;
    let newest = connection.last_insert_rowid();
    connection.prepare_cached("DELETE FROM main.diorama_writes WHERE number <= ?1")?.execute([newest - KEPT])?;
    Ok(())
}

type Stored = Vec<(Option<String>, Option<Record>)>;

fn encode(answers: &[Written]) -> Result<Vec<u8>, Error> {
    let answers: Stored = answers.iter().map(|written| (written.id.clone(), written.record.clone())).collect();
    let mut bytes = Vec::new();
    ciborium::into_writer(&answers, &mut bytes)
        .map_err(|error| Error::new(ErrorKind::Source, "a write's answer can't be kept").with_source(error))?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Vec<Written>, Error> {
    let answers: Stored = ciborium::from_reader(bytes).map_err(|error| {
        let message = "the answer kept for this idempotency key is damaged; look whether the write was done";
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    })?;
    Ok(answers.into_iter().map(|(id, record)| Written { id, record }).collect())
}
