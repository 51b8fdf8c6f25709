//! Database: the SQLite file that is the source, and a switch that locks it as another program would.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

const AIRPORTS: &str = include_str!("../../data/airports.csv");

/// In WAL mode, so that a lock stops writes alone. What a constraint is called is what a user is told of it.
const SCHEMA: &str = r#"
    PRAGMA journal_mode = WAL;
    BEGIN IMMEDIATE;
    CREATE TABLE airports (
        iata      TEXT PRIMARY KEY,
        name      TEXT CONSTRAINT "an airport has a name" CHECK (trim(name) <> ''),
        city      TEXT,
        state     TEXT CONSTRAINT "a state is two capital letters" CHECK (state GLOB '[A-Z][A-Z]'),
        latitude  REAL CONSTRAINT "a latitude is between -90 and 90" CHECK (latitude BETWEEN -90 AND 90),
        longitude REAL CONSTRAINT "a longitude is between -180 and 180" CHECK (longitude BETWEEN -180 AND 180)
    );
"#;

/// The columns of the file that the table has, by their place there.
const COLUMNS: [usize; 6] = [0, 1, 2, 3, 5, 6];

/// Where the database is, and the lock that this program holds on it, if it does.
pub(crate) struct Database {
    path: PathBuf,
    /// Says on the disk that the database is to be locked at the next start, too.
    marker: PathBuf,
    lock: Mutex<Option<Connection>>,
}

impl Database {
    /// Opens the database in a directory; the first time, makes it of the airports. Blocks.
    pub(crate) fn open(directory: &Path) -> Result<Self, Box<dyn Error>> {
        let path = directory.join("airports.db");
        if !path.exists() {
            // Under another name until it is whole, so that a start that was cut short leaves no half of it.
            let draft = directory.join("airports.new");
            fill(&draft)?;
            fs::rename(&draft, &path)?;
        }
        Ok(Database { path, marker: directory.join("airports.locked"), lock: Mutex::new(None) })
    }

    /// The database's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was locked when the program ended.
    pub(crate) fn was_locked(&self) -> bool {
        self.marker.exists()
    }

    /// Takes the database's one write lock, or gives it back. Blocks while another program holds it, for some seconds.
    pub(crate) fn set_locked(&self, locked: bool) -> Result<(), Box<dyn Error>> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if locked && lock.is_none() {
            let connection = Connection::open(&self.path)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            fs::write(&self.marker, "")?;
            *lock = Some(connection);
        } else if !locked {
            if self.marker.exists() {
                fs::remove_file(&self.marker)?;
            }
            *lock = None;
        }
        Ok(())
    }
}

fn fill(path: &Path) -> Result<(), Box<dyn Error>> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    let connection = Connection::open(path)?;
    connection.execute_batch(SCHEMA)?;
    let mut insert = connection.prepare("INSERT INTO airports VALUES (?, ?, ?, ?, ?, ?)")?;
    for line in csv::Reader::from_reader(AIRPORTS.as_bytes()).records() {
        let line = line?;
        insert.execute(COLUMNS.map(|column| line.get(column).filter(|text| *text != "NA")))?;
    }
    drop(insert);
    connection.execute_batch("COMMIT")?;
    // The last connection that closes leaves the file alone, without what WAL mode keeps beside it.
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}
