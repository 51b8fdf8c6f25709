//! vantage-diorama 1.5.0, as its example `scenery_basic` uses it: a `MockShell` as the master, listed by an eager loader
//! into a cache in redb or in memory; changes come in through `apply_change`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use ciborium::Value;
use tokio::sync::watch;
use tokio::time::timeout;
use vantage_dataset_1_5::prelude::ReadableValueSet;
use vantage_diorama_1_5::{Cache, ChangeEvent, Dio, Generation, Lens, Loader, LoaderCx, TableScenery};
use vantage_types_1_5::Record;
use vantage_vista_1_5::mocks::MockShell;
use vantage_vista_1_5::{Column, Condition, FilterOp, SortDirection, Vista, VistaMetadata};

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
    prepare(rows, Cache::redb(directory.join("cache.redb")))
}

pub fn in_memory(rows: &[Row], _directory: &Path) -> Result<Box<dyn Table>, Box<dyn Error>> {
    prepare(rows, Cache::memory())
}

fn prepare(rows: &[Row], cache: Cache) -> Result<Box<dyn Table>, Box<dyn Error>> {
    let mut metadata =
        VistaMetadata::new().with_column(Column::new("id", "String").with_flag("id")).with_id_column("id");
    for (name, kind) in [("name", "String"), ("band", "i64"), ("amount", "i64"), ("note", "String")] {
        metadata = metadata.with_column(Column::new(name, kind));
    }
    let mut source = MockShell::new().with_metadata(metadata);
    for row in rows {
        source = source.with_record(row.id.as_str(), record(row));
    }
    let lens = Lens::builder()
        .cache(cache)
        .runtime(RUNTIME.handle().clone())
        .loader(Loader::eager(|cx: LoaderCx| async move {
            let rows = cx.master().list_values().await?;
            cx.cache().insert_values(rows).await
        }))
        .build()?;
    Ok(Box::new(Vantage { source, lens, dio: None, views: Vec::new() }))
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
        let vista = Vista::new("rows", self.source.clone());
        let dio = RUNTIME.block_on(self.lens.dio(vista).build())?;
        self.dio = Some(dio);
        Ok(Some(()))
    }

    fn open(&mut self) -> Done<usize> {
        let mut query = self.dio()?.table_scenery().order("amount", SortDirection::Descending);
        if let number @ 1.. = self.views.len() {
            let floor = Value::Integer((-(number as i64)).into());
            query = query
                .filter(Condition::new("band", FilterOp::Eq, Value::Integer(SHOWN_BAND.into())))
                .filter(Condition::new("amount", FilterOp::Gt, floor));
        }
        let scenery = RUNTIME.block_on(query.open())?;
        let count = scenery.row_count();
        self.views.push(View { generation: scenery.subscribe(), scenery });
        Ok(Some(count))
    }

    fn change(&mut self, row: &Row, tops: Tops) -> Done<()> {
        let dio = self.dio()?.clone();
        RUNTIME.block_on(async {
            dio.apply_change(ChangeEvent::Updated { id: row.id.clone(), new: Some(record(row)) }).await?;
            wait_until_shown(&mut self.views, tops).await
        })?;
        Ok(Some(()))
    }

    fn burst(&mut self, rows: &[Row], tops: Tops) -> Done<()> {
        // It has no call for many changes but `reconcile`, which wants the whole set.
        let dio = self.dio()?.clone();
        RUNTIME.block_on(async {
            for row in rows {
                dio.apply_change(ChangeEvent::Updated { id: row.id.clone(), new: Some(record(row)) }).await?;
            }
            wait_until_shown(&mut self.views, tops).await
        })?;
        Ok(Some(()))
    }

    fn window(&mut self, at: usize) -> Done<i64> {
        let view = &self.views.first().ok_or("no view")?.scenery;
        Ok(Some((at..at + 50).filter_map(|index| int(&view.row(index)?.record, "amount")).sum()))
    }

    fn get(&mut self, row: &Row) -> Done<i64> {
        let record = RUNTIME.block_on(self.dio()?.cached().get_value(&row.id))?;
        Ok(record.and_then(|record| int(&record, "amount")))
    }

    fn top(&self, view: usize) -> Option<i64> {
        self.views.get(view)?.top()
    }
}
