//! Diorama: a `MemoryVista` as the source, through a Lens with the cache in LMDB or in memory.

use std::error::Error;
use std::path::Path;

use diorama::prelude::*;

use super::{Done, PATIENCE, Table};
use crate::rows::{Row, SHOWN_BAND, Tops};

struct Diorama {
    source: MemoryVista,
    lens: Lens,
    dio: Option<Dio>,
    views: Vec<TableScenery>,
}

pub fn on_lmdb(rows: &[Row], directory: &Path) -> Result<Box<dyn Table>, Box<dyn Error>> {
    Ok(prepare(rows, Lens::new().cache_at(directory.join("cache")).build()?))
}

pub fn in_memory(rows: &[Row], _directory: &Path) -> Result<Box<dyn Table>, Box<dyn Error>> {
    Ok(prepare(rows, Lens::new().in_memory().build()?))
}

fn prepare(rows: &[Row], lens: Lens) -> Box<dyn Table> {
    let rows = rows.iter().map(|row| (row.id.clone(), record(row)));
    let source = MemoryVista::new("rows", "id").with_source_key("compared").with_rows(rows);
    Box::new(Diorama { source, lens, dio: None, views: Vec::new() })
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
        let dio = self.lens.make_dio(self.source.clone())?;
        self.dio = Some(dio);
        Ok(Some(()))
    }

    fn open(&mut self) -> Done<usize> {
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

    fn window(&mut self, at: usize) -> Done<i64> {
        let snapshot = self.views.first().ok_or("no view")?.snapshot();
        Ok(Some(snapshot.rows(at..at + 50).filter_map(|row| row.int("amount")).sum()))
    }

    fn get(&mut self, row: &Row) -> Done<i64> {
        Ok(self.dio()?.cache().get(&row.id)?.and_then(|record| record.int("amount")))
    }

    fn top(&self, view: usize) -> Option<i64> {
        self.views.get(view)?.row(0)?.int("amount")
    }
}
