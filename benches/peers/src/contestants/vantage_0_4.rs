//! vantage-diorama 0.4.0, as its example `scenery_basic` uses it: a `MockShell` as the master, listed into a redb cache by
//! `on_start`. It has no cache in memory.
//!
//! Its views know equality only, so its filtered views all have the same query; it shares nothing among them.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use ciborium::Value;
use tokio::sync::watch;
use tokio::time::timeout;
use vantage_dataset_0_4::prelude::ReadableValueSet;
use vantage_diorama_0_4::{Dio, Generation, Lens, SortDir, TableScenery};
use vantage_types_0_4::Record;
use vantage_vista_0_4::mocks::MockShell;
use vantage_vista_0_4::{Column, Vista, VistaMetadata};

use super::{Done, PATIENCE, RUNTIME, Table};
use crate::rows::{Row, SHOWN_BAND, Tops};

struct Vantage {
    source: MockShell,
    lens: Arc<Lens>,
    dio: Option<Dio>,
    views: Vec<View>,
}

struct View {
    scenery: Arc<dyn TableScenery>,
    generation: watch::Receiver<Generation>,
}

pub fn on_redb(rows: &[Row], directory: &Path) -> Result<Box<dyn Table>, Box<dyn Error>> {
    let mut metadata =
        VistaMetadata::new().with_column(Column::new("id", "String").with_flag("id")).with_id_column("id");
    for (name, kind) in [("name", "String"), ("band", "i64"), ("amount", "i64"), ("note", "String")] {
        metadata = metadata.with_column(Column::new(name, kind));
    }
    let mut source = MockShell::new().with_metadata(metadata);
    for row in rows {
        source = source.with_record(row.id.as_str(), record(row));
    }
    let lens = Lens::new()
        .cache_at(directory.join("cache.redb"))
        .runtime(RUNTIME.handle().clone())
        .on_start(|dio| {
            let dio = dio.clone();
            async move {
                let rows = dio.master().list_values().await?;
                dio.cache().insert_values(rows).await
            }
        })
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Box::new(Vantage { source, lens: Arc::new(lens), dio: None, views: Vec::new() }))
}

fn record(row: &Row) -> Record<Value> {
    let mut record = Record::new();
    record.insert("id".to_owned(), Value::Text(row.id.clone()));
    record.insert("name".to_owned(), Value::Text(row.name.clone()));
    record.insert("band".to_owned(), Value::Integer(row.band.into()));
    record.insert("amount".to_owned(), Value::Integer(row.amount.into()));
    record.insert("note".to_owned(), Value::Text(row.note.clone()));
    record
}

fn int(record: &Record<Value>, column: &str) -> Option<i64> {
    record.get(column)?.as_integer()?.try_into().ok()
}

impl Vantage {
    fn dio(&self) -> Result<&Dio, &'static str> {
        self.dio.as_ref().ok_or("not seeded")
    }
}

impl View {
    fn top(&self) -> Option<i64> {
        int(&self.scenery.row(0)?.record, "amount")
    }
}

async fn wait_until_shown(views: &mut [View], tops: Tops) -> Result<(), Box<dyn Error>> {
    for (number, view) in views.iter_mut().enumerate() {
        loop {
            view.generation.borrow_and_update();
            if view.top() == Some(tops.of_view(number)) {
                break;
            }
            timeout(PATIENCE, view.generation.changed()).await??;
        }
    }
    Ok(())
}

impl Table for Vantage {
    fn seed(&mut self) -> Done<()> {
        let vista = Vista::new("rows", Box::new(self.source.clone()));
        let dio = RUNTIME.block_on(self.lens.make_dio(vista))?;
        self.dio = Some(dio);
        Ok(Some(()))
    }

    fn open(&mut self) -> Done<usize> {
        let mut query = self.dio()?.table_scenery().sort("amount", SortDir::Desc);
        if !self.views.is_empty() {
            query = query.where_eq("band", Value::Integer(SHOWN_BAND.into()));
        }
        let scenery = RUNTIME.block_on(query.open())?;
        let count = scenery.row_count();
        self.views.push(View { generation: scenery.subscribe(), scenery });
        Ok(Some(count))
    }

    fn change(&mut self, row: &Row, tops: Tops) -> Done<()> {
        let dio = self.dio()?.clone();
        RUNTIME.block_on(async {
            dio.patched(row.id.as_str(), record(row)).await?;
            wait_until_shown(&mut self.views, tops).await
        })?;
        Ok(Some(()))
    }

    fn burst(&mut self, rows: &[Row], tops: Tops) -> Done<()> {
        let dio = self.dio()?.clone();
        RUNTIME.block_on(async {
            dio.cache().insert_values(rows.iter().map(|row| (row.id.clone(), record(row))).collect()).await?;
            dio.invalidate_all();
            wait_until_shown(&mut self.views, tops).await
        })?;
        Ok(Some(()))
    }

    fn window(&mut self, at: usize) -> Done<i64> {
        let view = &self.views.first().ok_or("no view")?.scenery;
        Ok(Some((at..at + 50).filter_map(|index| int(&view.row(index)?.record, "amount")).sum()))
    }

    fn get(&mut self, row: &Row) -> Done<i64> {
        let record = RUNTIME.block_on(self.dio()?.cache().get_value(&row.id))?;
        Ok(record.and_then(|record| int(&record, "amount")))
    }

    fn top(&self, view: usize) -> Option<i64> {
        self.views.get(view)?.top()
    }
}
