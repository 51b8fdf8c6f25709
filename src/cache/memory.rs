//! Memory backend: tables that live in this process only; nothing is durable.
//!
//! Flow: a batch is applied to a private copy of the table's state, which shares all untouched parts with the published
//! one → one pointer swap publishes it → readers clone that pointer and read on for as long as they like.
//! Invariants: 1. a published state never changes (`contract::check`, the frozen scan); 2. no lock is held while a batch
//! is applied or a closure runs, but for the writers' own.

mod ids;
mod rows;

use std::collections::BTreeMap;
use std::mem;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use self::ids::Ids;
use self::rows::Rows;
use crate::cache::{CacheBackend, CacheBatch, CacheOp, CacheTable};
use crate::{Result, RowNo};

/// Keeps all tables in memory; they are gone with the last handle.
///
/// Each backend is a world of its own: two of them never share a table.
#[derive(Default)]
pub struct MemoryBackend {
    tables: Mutex<BTreeMap<String, Arc<MemoryTable>>>,
}

impl MemoryBackend {
    /// A backend without tables.
    pub fn new() -> Arc<MemoryBackend> {
        Arc::default()
    }
}

impl CacheBackend for MemoryBackend {
    fn open_table(&self, name: &str) -> Result<Arc<dyn CacheTable>> {
        let mut tables = self.tables.lock();
        let table = Arc::clone(tables.entry(name.to_owned()).or_insert_with(|| Arc::new(MemoryTable::new(name))));
        drop(tables);
        table.change(|state| state.listed = true);
        Ok(table)
    }

    fn tables(&self) -> Result<Vec<String>> {
        let tables = self.tables.lock();
        Ok(tables.values().filter(|table| table.state().listed).map(|table| table.name.clone()).collect())
    }

    fn forget_table(&self, name: &str) -> Result<()> {
        let table = self.tables.lock().get(name).map(Arc::clone);
        if let Some(table) = table {
            table.change(|state| *state = State::default());
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn location(&self) -> Option<PathBuf> {
        None
    }

    fn file_size(&self) -> Result<u64> {
        Ok(0)
    }
}

/// Everything a reader can see of a table. A clone shares all of it.
#[derive(Clone, Default)]
struct State {
    /// Whether `tables()` names the table: it was opened or written since it was last forgotten.
    listed: bool,
    rows: Rows,
    ids: Ids,
    meta: Arc<BTreeMap<String, Vec<u8>>>,
}

struct MemoryTable {
    name: String,
    /// Held by the one writer for as long as it works.
    writing: Mutex<()>,
    /// Held for a pointer's clone or swap only.
    published: Mutex<Arc<State>>,
}

impl MemoryTable {
    fn new(name: &str) -> MemoryTable {
        MemoryTable { name: name.to_owned(), writing: Mutex::default(), published: Mutex::default() }
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.published.lock())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let _writing = self.writing.lock();
        let mut state = State::clone(&self.state());
        change(&mut state);
        let state = Arc::new(state);
        let replaced = mem::replace(&mut *self.published.lock(), state);
        // Freeing a large state takes long: not under the readers' lock.
        drop(replaced);
    }
}

impl CacheTable for MemoryTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn apply(&self, batch: &CacheBatch) -> Result<()> {
        batch.check()?;
        self.change(|state| {
            state.listed = true;
            if batch.clear {
                state.rows = Rows::default();
                state.ids = Ids::default();
            }
            for op in &batch.ops {
                match op {
                    CacheOp::Put { row, id, bytes } => {
                        state.rows.insert(row.0, Arc::clone(bytes));
                        state.ids.insert(id, *row);
                    }
                    CacheOp::Delete { row, id } => {
                        state.rows.remove(row.0);
                        state.ids.remove(id, *row);
                    }
                }
            }
            if !batch.meta.is_empty() {
                let meta = Arc::make_mut(&mut state.meta);
                for (key, value) in &batch.meta {
                    match value {
                        Some(value) => meta.insert(key.clone(), value.clone()),
                        None => meta.remove(key),
                    };
                }
            }
        });
        Ok(())
    }

    fn get(&self, row: RowNo) -> Result<Option<Arc<[u8]>>> {
        Ok(self.state().rows.get(row.0).map(Arc::clone))
    }

    fn get_many(&self, rows: &[RowNo], found: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        let state = self.state();
        for (position, row) in rows.iter().enumerate() {
            found(position, state.rows.get(row.0).map(|bytes| &**bytes));
        }
        Ok(())
    }

    fn get_all(&self, rows: &[RowNo]) -> Result<Vec<Option<Arc<[u8]>>>> {
        Ok(self.state().rows.get_all(rows))
    }

    fn lookup_all(&self, ids: &[&str]) -> Result<Vec<Option<RowNo>>> {
        Ok(self.state().ids.get_all(ids))
    }

    fn lookup(&self, id: &str) -> Result<Option<RowNo>> {
        Ok(self.state().ids.get(id))
    }

    fn scan(&self, from: RowNo, each: &mut dyn FnMut(RowNo, &[u8]) -> ControlFlow<()>) -> Result<()> {
        // The break is the caller's own wish, not news to the caller.
        let _ = self.state().rows.scan(from.0, &mut |row, bytes| each(RowNo(row), bytes));
        Ok(())
    }

    fn scan_ids(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> Result<()> {
        let _ = self.state().ids.scan(each);
        Ok(())
    }

    fn count(&self) -> Result<u64> {
        Ok(self.state().rows.len())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.state().meta.get(key).cloned())
    }
}
