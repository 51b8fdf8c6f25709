//! Diorama: a `MemoryVista` as the source, through a Lens with the cache in LMDB or in memory.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use diorama::prelude::*;

use super::{Done, PATIENCE, Prepared, Table, Writing};
use crate::rows::{Row, SHOWN_BAND, Tops};

struct Diorama {
    source: MemoryVista,
    /// `None` for the cache in memory.
    cache: Option<PathBuf>,
    // Views and values are dropped before their Dio.
    views: Vec<TableScenery>,
    values: Option<(ValueScenery, ValueScenery)>,
    rows: i64,
    woken: Option<(Receiver<Instant>, Arc<AtomicI64>)>,
    dio: Option<Dio>,
}

pub fn on_lmdb(rows: &[Row], directory: &Path) -> Prepared {
    Ok(prepare(rows, Some(directory.join("cache"))))
}

pub fn in_memory(rows: &[Row], _directory: &Path) -> Prepared {
    Ok(prepare(rows, None))
}

fn prepare(rows: &[Row], cache: Option<PathBuf>) -> Box<dyn Table> {
    let count = rows.len() as i64;
    let rows = rows.iter().map(|row| (row.id.clone(), record(row)));
    let source = MemoryVista::new("rows", "id").with_source_key("compared").with_rows(rows);
    Box::new(Diorama { source, cache, views: Vec::new(), values: None, rows: count, woken: None, dio: None })
}

fn record(row: &Row) -> Record {
    record! {
        "id" => row.id.as_str(), "name" => row.name.as_str(), "band" => row.band, "amount" => row.amount,
        "note" => row.note.as_str(),
    }
}

impl Diorama {
    fn dio(&self) -> Result<&Dio, &'static str> {
        self.dio.as_ref().ok_or("not seeded")
    }

    /// A call returns when its change is visible; this makes sure of it.
    fn wait_until_shown(&self, tops: Tops) -> Result<(), Box<dyn Error>> {
        if let Some((count, sum)) = &self.values {
            for (value, wanted) in [(count, self.rows), (sum, tops.sum)] {
                loop {
                    let generation = value.generation();
                    if value.int() == Some(wanted) {
                        break;
                    }
                    value.wait_for_change(generation, Some(PATIENCE))?;
                }
            }
        }
        for (number, view) in self.views.iter().enumerate() {
            loop {
                let generation = view.generation();
                if self.top(number) == Some(tops.of_view(number)) {
                    break;
                }
                view.wait_for_change(generation, Some(PATIENCE))?;
            }
        }
        Ok(())
    }
}

impl Table for Diorama {
    fn seed(&mut self) -> Done<()> {
        let lens = match &self.cache {
            Some(directory) => Lens::new().cache_at(directory),
            None => Lens::new().in_memory(),
        };
        let dio = lens.build()?.make_dio(self.source.clone())?;
        self.dio = Some(dio);
        Ok(Some(()))
    }

    fn open(&mut self) -> Done<usize> {
        // Whoever waits for view 0 ends with the next change.
        self.woken = None;
        let mut query = self.dio()?.table_scenery();
        if let number @ 1.. = self.views.len() {
            query = query.where_eq("band", SHOWN_BAND).condition(Condition::gt("amount", -(number as i64)));
        }
        let view = query.sort("amount", SortDir::Desc).open()?;
        let count = view.row_count();
        self.views.push(view);
        Ok(Some(count))
    }

    fn change(&mut self, row: &Row, tops: Tops) -> Done<()> {
        self.dio()?.patched(row.id.as_str(), record(row))?;
        self.wait_until_shown(tops)?;
        Ok(Some(()))
    }

    fn burst(&mut self, rows: &[Row], tops: Tops) -> Done<()> {
        self.dio()?.cache().insert_many(rows.iter().map(|row| (row.id.clone(), record(row))))?;
        self.wait_until_shown(tops)?;
        Ok(Some(()))
    }

    fn write(&mut self, rows: &[Row], tops: Tops) -> Done<Writing> {
        let dio = self.dio()?;
        let begin = Instant::now();
        for row in rows {
            dio.write(WriteOp::replace(row.id.as_str(), record(row)))?;
        }
        self.wait_until_shown(tops)?;
        let until_shown = Some(begin.elapsed());
        dio.wait_for_writes(PATIENCE)?;
        Ok(Some(Writing { until_shown, until_stored: begin.elapsed() }))
    }

    fn window(&mut self, at: usize) -> Done<i64> {
        let snapshot = self.views.first().ok_or("no view")?.snapshot();
        Ok(Some(snapshot.rows(at..at + 50).filter_map(|row| row.int("amount")).sum()))
    }

    fn first_screen(&mut self) -> Done<i64> {
        let view = self.dio()?.table_scenery().sort("amount", SortDir::Desc).open_now()?;
        let first = view.wait_for_first_rows(Some(PATIENCE))?;
        self.views.push(view);
        match first {
            Some(first) => Ok(Some(first.iter().take(50).filter_map(|row| row.int("amount")).sum())),
            None => self.window(0),
        }
    }

    fn get(&mut self, row: &Row) -> Done<i64> {
        Ok(self.dio()?.cache().get(&row.id)?.and_then(|record| record.int("amount")))
    }

    fn set_values(&mut self, open: bool) -> Done<()> {
        self.values = None;
        if open {
            let dio = self.dio()?;
            self.values = Some((dio.value_scenery().count().open()?, dio.value_scenery().sum("amount").open()?));
        }
        Ok(Some(()))
    }

    fn sort(&mut self, by_name: bool, _first: i64) -> Done<()> {
        let view = self.views.first().ok_or("no view")?;
        view.set_sort([if by_name { SortBy::asc("name") } else { SortBy::desc("amount") }])?;
        view.wait_until_ready(Some(PATIENCE))?;
        Ok(Some(()))
    }

    fn search(&mut self, text: Option<&str>, count: usize) -> Done<()> {
        let view = self.views.first().ok_or("no view")?;
        view.set_search(text)?;
        view.wait_until_ready(Some(PATIENCE))?;
        match view.row_count() {
            found if found == count => Ok(Some(())),
            found => Err(format!("{found} rows found instead of {count}").into()),
        }
    }

    fn change_source(&mut self, rows: &[Row]) -> Result<(), Box<dyn Error>> {
        let outside = self.source.outside_silently();
        rows.iter().try_for_each(|row| outside.upsert(&row.id, record(row)))?;
        Ok(())
    }

    fn refresh(&mut self, tops: Tops) -> Done<()> {
        self.dio()?.refresh()?;
        self.wait_until_shown(tops)?;
        Ok(Some(()))
    }

    fn wake(&mut self, row: &Row, tops: Tops) -> Done<Instant> {
        if self.woken.is_none() {
            let view = self.views.first().ok_or("no view")?.clone();
            let (tell, woken) = channel();
            let wanted = Arc::new(AtomicI64::new(tops.all));
            self.woken = Some((woken, wanted.clone()));
            let mut generation = view.generation();
            // It ends when the view is closed or nobody listens.
            std::thread::spawn(move || {
                while let Ok(next) = view.wait_for_change(generation, None) {
                    let at = Instant::now();
                    generation = next;
                    let first = view.row(0).and_then(|row| row.int("amount"));
                    if first == Some(wanted.load(Ordering::Relaxed)) && tell.send(at).is_err() {
                        break;
                    }
                }
            });
        }
        let (woken, wanted) = self.woken.as_ref().ok_or("nobody waits")?;
        wanted.store(tops.all, Ordering::Relaxed);
        self.dio()?.patched(row.id.as_str(), record(row))?;
        Ok(Some(woken.recv_timeout(PATIENCE)?))
    }

    fn reopens(&self) -> bool {
        self.cache.is_some()
    }

    fn top(&self, view: usize) -> Option<i64> {
        self.views.get(view)?.row(0)?.int("amount")
    }
}
