//! Another program at the same database, to see what the pages make of it.
//!
//! ```text
//! other-program <database> run <sql>    runs one statement, and prints the rows that it answers
//! other-program <database> lock         says "locked", and keeps others from writing until its input ends
//! ```

use std::error::Error;
use std::io::{Read, stdin};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [database, "run", sql] => run(&connect(database)?, sql),
        [database, "lock"] => {
            let connection = connect(database)?;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            println!("locked");
            stdin().read_to_end(&mut Vec::new())?;
            Ok(())
        }
        _ => Err("usage: other-program <database> run <sql> | other-program <database> lock".into()),
    }
}

/// Opens a database that is there already.
fn connect(path: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

fn run(connection: &Connection, sql: &str) -> Result<(), Box<dyn Error>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let cells: Result<Vec<String>, rusqlite::Error> = (0..columns).map(|at| row.get_ref(at).map(text)).collect();
        println!("{}", cells?.join("\t"));
    }
    Ok(())
}

fn text(cell: ValueRef<'_>) -> String {
    match cell {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}
