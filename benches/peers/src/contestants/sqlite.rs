//! rusqlite: a table in a file (WAL, `synchronous = NORMAL`) with an index for each kind of view. The update hook marks the
//! views, and each marked view reads its first 50 rows again; a view's length is only counted when it is opened.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, OptionalExtension, params};

use super::{Done, Prepared, Table};
use crate::rows::{Row, SHOWN_BAND, Tops};

const SCREEN: i64 = 50;

struct Sqlite {
    source: Vec<Row>,
    connection: Connection,
    changed: Arc<AtomicBool>,
    views: Vec<View>,
    /// Count and sum, while they are open.
    values: Option<(i64, i64)>,
}

struct View {
    condition: String,
    by_name: bool,
    shown: Vec<(String, i64)>,
}

pub fn prepare(rows: &[Row], directory: &Path) -> Prepared {
    let file = directory.join("rows.sqlite");
    let is_new = !file.exists();
    let connection = Connection::open(file)?;
    connection.set_prepared_statement_cache_capacity(2_048);
    let changed = Arc::new(AtomicBool::new(false));
    let mark = changed.clone();
    connection.update_hook(Some(move |_, _: &str, _: &str, _| mark.store(true, Ordering::Relaxed)));
    let source = if is_new { rows.to_vec() } else { Vec::new() };
    Ok(Box::new(Sqlite { source, connection, changed, views: Vec::new(), values: None }))
}

fn put(connection: &Connection, row: &Row) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare_cached(
        "insert into rows values (?1, ?2, ?3, ?4, ?5) on conflict (id) do update set
         name = ?2, band = ?3, amount = ?4, note = ?5",
    )?;
    statement.execute(params![row.id, row.name, row.band, row.amount, row.note])
}

/// Some rows of a view, in its order.
fn page(connection: &Connection, condition: &str, by_name: bool, at: usize) -> rusqlite::Result<Vec<(String, i64)>> {
    let order = if by_name { "name" } else { "amount desc" };
    let query = format!("select id, amount from rows {condition} order by {order} limit {SCREEN} offset ?1");
    let mut statement = connection.prepare_cached(&query)?;
    let rows = statement.query_map([at as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn values(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let mut statement = connection.prepare_cached("select count(*), sum(amount) from rows")?;
    statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

impl Sqlite {
    fn put_all<'a>(&mut self, rows: impl Iterator<Item = &'a Row>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for row in rows {
            put(&transaction, row)?;
        }
        transaction.commit()
    }

    fn read_marked_again(&mut self) -> rusqlite::Result<()> {
        if self.changed.swap(false, Ordering::Relaxed) {
            for view in &mut self.views {
                view.shown = page(&self.connection, &view.condition, view.by_name, 0)?;
            }
            if self.values.is_some() {
                self.values = Some(values(&self.connection)?);
            }
        }
        Ok(())
    }
}

impl Table for Sqlite {
    fn seed(&mut self) -> Done<()> {
        self.connection.execute_batch(
            "pragma journal_mode = wal;
             pragma synchronous = normal;
             create table if not exists rows (id text primary key, name text, band integer, amount integer, note text);
             create index if not exists by_amount on rows (amount desc);
             create index if not exists by_band on rows (band, amount desc);",
        )?;
        let source = std::mem::take(&mut self.source);
        self.put_all(source.iter())?;
        Ok(Some(()))
    }

    fn open(&mut self) -> Done<usize> {
        let condition = match self.views.len() {
            0 => String::new(),
            number => format!("where band = {SHOWN_BAND} and amount > -{number}"),
        };
        let count = format!("select count(*) from rows {condition}");
        let count: i64 = self.connection.query_row(&count, [], |row| row.get(0))?;
        let shown = page(&self.connection, &condition, false, 0)?;
        self.views.push(View { condition, by_name: false, shown });
        Ok(Some(count as usize))
    }

    fn change(&mut self, row: &Row, _tops: Tops) -> Done<()> {
        put(&self.connection, row)?;
        self.read_marked_again()?;
        Ok(Some(()))
    }

    fn burst(&mut self, rows: &[Row], _tops: Tops) -> Done<()> {
        self.put_all(rows.iter())?;
        self.read_marked_again()?;
        Ok(Some(()))
    }

    fn window(&mut self, at: usize) -> Done<i64> {
        let condition = &self.views.first().ok_or("no view")?.condition;
        Ok(Some(page(&self.connection, condition, false, at)?.iter().map(|(_, amount)| amount).sum()))
    }

    fn get(&mut self, row: &Row) -> Done<i64> {
        let mut statement =
            self.connection.prepare_cached("select name, band, amount, note from rows where id = ?1")?;
        Ok(statement.query_row([&row.id], |row| row.get(2)).optional()?)
    }

    fn set_values(&mut self, open: bool) -> Done<()> {
        self.values = if open { Some(values(&self.connection)?) } else { None };
        Ok(Some(()))
    }

    fn sort(&mut self, by_name: bool, _first: i64) -> Done<()> {
        let view = self.views.first_mut().ok_or("no view")?;
        view.by_name = by_name;
        view.shown = page(&self.connection, &view.condition, by_name, 0)?;
        Ok(Some(()))
    }

    fn search(&mut self, text: Option<&str>, count: usize) -> Done<()> {
        let view = self.views.first_mut().ok_or("no view")?;
        view.condition =
            text.map_or(String::new(), |text| format!("where name like '%{text}%' or note like '%{text}%'"));
        let query = format!("select count(*) from rows {}", view.condition);
        let found: i64 = self.connection.prepare_cached(&query)?.query_row([], |row| row.get(0))?;
        view.shown = page(&self.connection, &view.condition, view.by_name, 0)?;
        if found as usize != count {
            return Err(format!("{found} rows found instead of {count}").into());
        }
        Ok(Some(()))
    }

    fn reopens(&self) -> bool {
        true
    }

    fn top(&self, view: usize) -> Option<i64> {
        Some(self.views.get(view)?.shown.first()?.1)
    }
}
