//! Contestants: what each library does for the same table, each behind one trait and in its own file.

mod diorama;
mod eyeball;
mod floors;
mod signals;
mod sqlite;
mod vantage_0_4;
mod vantage_1_5;

use std::error::Error;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::rows::{Row, Tops};

/// `None` where the library has no such thing.
pub type Done<T> = Result<Option<T>, Box<dyn Error>>;

pub type Prepared = Result<Box<dyn Table>, Box<dyn Error>>;

/// After this long, something that should have become visible never will.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Contestant {
    pub name: &'static str,
    /// Makes the source with its rows and whatever else isn't measured; `directory` is empty and its own.
    pub prepare: fn(rows: &[Row], directory: &Path) -> Prepared,
    /// Where the work of a change is done.
    pub works: Works,
    /// Its memory can't be counted.
    pub allocates_in_c: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Works {
    /// In the caller's thread, or on the one of this name, then whoever waits is told.
    InCallerOr(&'static str),
    /// In the caller's thread.
    InCaller,
    /// On the threads of an executor.
    Elsewhere,
}

/// One library over one table. What isn't said to be a check is measured; what a library lacks stays as it is here.
pub trait Table {
    /// From the source into the library's own store.
    fn seed(&mut self) -> Done<()> {
        Ok(None)
    }

    /// Opens one more view, in descending order of the amount, and keeps it open: number 0 shows all rows, every other one
    /// the shown band, and no two have the same query. How many rows it shows.
    fn open(&mut self) -> Done<usize> {
        Ok(None)
    }

    /// Replaces a row; returns when every open view shows it.
    fn change(&mut self, _row: &Row, _tops: Tops) -> Done<()> {
        Ok(None)
    }

    /// Replaces many rows in the way that the library has for many; returns when every open view shows the last.
    fn burst(&mut self, _rows: &[Row], _tops: Tops) -> Done<()> {
        Ok(None)
    }

    /// Replaces many rows through the library's way of writing to its source, without waiting in between.
    fn write(&mut self, _rows: &[Row], _tops: Tops) -> Done<Writing> {
        Ok(None)
    }

    /// The sum of the amounts of 50 rows of view 0, beginning here.
    fn window(&mut self, _at: usize) -> Done<i64> {
        Ok(None)
    }

    /// Opens view 0; the sum of the amounts of its first 50 rows as soon as these can be shown.
    fn first_screen(&mut self) -> Done<i64> {
        self.open()?;
        self.window(0)
    }

    /// The amount of one row.
    fn get(&mut self, _row: &Row) -> Done<i64> {
        Ok(None)
    }

    /// Opens a count of all rows and a sum of their amounts, or closes them; while they are open, a change is visible only
    /// when they are right, too.
    fn set_values(&mut self, _open: bool) -> Done<()> {
        Ok(None)
    }

    /// Sorts view 0 upwards by name or downwards by amount; returns when its first row has this amount.
    fn sort(&mut self, _by_name: bool, _first: i64) -> Done<()> {
        Ok(None)
    }

    /// Searches in view 0, or ends that; returns when it shows so many rows.
    fn search(&mut self, _text: Option<&str>, _count: usize) -> Done<()> {
        Ok(None)
    }

    /// Not measured: somebody else changes rows of the source.
    fn change_source(&mut self, _rows: &[Row]) -> Result<(), Box<dyn Error>> {
        Ok(())
    }

    /// Brings in what has changed in the source; returns when every open view shows it.
    fn refresh(&mut self, _tops: Tops) -> Done<()> {
        Ok(None)
    }

    /// Replaces a row while another thread or task waits for view 0 to change: when it had woken.
    fn wake(&mut self, _row: &Row, _tops: Tops) -> Done<Instant> {
        Ok(None)
    }

    /// Whether `seed` on a directory that has been seeded before opens what is there.
    fn reopens(&self) -> bool {
        false
    }

    /// A check: what a view shows first.
    fn top(&self, _view: usize) -> Option<i64> {
        None
    }
}

/// How long many writes took, all together.
pub struct Writing {
    /// Until every open view showed the last; `None` where writing shows nothing by itself.
    pub until_shown: Option<Duration>,
    /// Until the source had all.
    pub until_stored: Duration,
}

/// The executor of those that need one.
pub static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let built = tokio::runtime::Builder::new_multi_thread().enable_time().worker_threads(2).build();
    built.unwrap_or_else(|error| panic!("no executor: {error}"))
});

pub fn all() -> Vec<Contestant> {
    let contestant = |name, prepare, works| Contestant { name, prepare, works, allocates_in_c: false };
    let core = Works::InCallerOr("rows:core");
    vec![
        contestant("diorama lmdb", diorama::on_lmdb, core),
        contestant("diorama memory", diorama::in_memory, core),
        contestant("vantage 0.4.0 redb", vantage_0_4::on_redb, Works::Elsewhere),
        contestant("vantage 1.5.0 redb", vantage_1_5::on_redb, Works::Elsewhere),
        contestant("vantage 1.5.0 memory", vantage_1_5::in_memory, Works::Elsewhere),
        contestant("eyeball-im", eyeball::prepare, Works::InCaller),
        contestant("futures-signals", signals::prepare, Works::InCaller),
        Contestant { allocates_in_c: true, ..contestant("rusqlite", sqlite::prepare, Works::InCaller) },
        contestant("floor: BTreeSet", floors::sets, Works::InCaller),
        contestant("floor: counted tree", floors::counted_tree, Works::InCaller),
        contestant("floor: raw LMDB", floors::raw_lmdb, Works::InCaller),
        contestant("floor: condvar", floors::condvar, Works::Elsewhere),
    ]
}
