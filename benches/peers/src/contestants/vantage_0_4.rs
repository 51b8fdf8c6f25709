//! vantage-diorama 0.4.0, as its example `scenery_basic` uses it: a `MockShell` as the master, listed into a redb cache by
//! `on_start`. It has no cache in memory.
//!
//! Its views know equality only, so its filtered views all have the same query; it shares nothing among them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use ciborium::Value;
use tokio::sync::watch;
use tokio::time::timeout;
use vantage_dataset_0_4::prelude::{ReadableValueSet, WritableValueSet};
use vantage_diorama_0_4::{Dio, Generation, Lens, SortDir, TableScenery, ValueScenery};
use vantage_types_0_4::Record;
use vantage_vista_0_4::mocks::MockShell;
use vantage_vista_0_4::{Column, Vista, VistaMetadata};

use super::{Done, PATIENCE, Prepared, RUNTIME, Table, Writing};
use crate::rows::{Row, SHOWN_BAND, Tops};

struct Vantage {
    source: MockShell,
    cache: PathBuf,
    dio: Option<Dio>,
    views: Vec<View>,
    values: Vec<Badge>,
    rows: i64,
    woken: Option<(Receiver<Instant>, Arc<AtomicI64>)>,
}

/// A count or a sum.
struct Badge {
    scenery: Arc<dyn ValueScenery>,
    generation: watch::Receiver<Generation>,
}

struct View {
    scenery: Arc<dyn TableScenery>,
    generation: watch::Receiver<Generation>,
}

pub fn on_redb(rows: &[Row], directory: &Path) -> Prepared {
    let mut metadata =
        VistaMetadata::new().with_column(Column::new("id", "String").with_flag("id")).with_id_column("id");
    for (name, kind) in [("name", "String"), ("band", "i64"), ("amount", "i64"), ("note", "String")] {
        metadata = metadata.with_column(Column::new(name, kind));
    }
    let mut source = MockShell::new().with_metadata(metadata);
    for row in rows {
        source = source.with_record(row.id.as_str(), record(row));
    }
    Ok(Box::new(Vantage {
        source,
        cache: directory.join("cache.redb"),
        dio: None,
        views: Vec::new(),
        values: Vec::new(),
        rows: rows.len() as i64,
        woken: None,
    }))
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

fn top(view: &dyn TableScenery) -> Option<i64> {
    int(&view.row(0)?.record, "amount")
}

/// Waits until something is so, which can only become so when the generation moves.
async fn wait_until(
    generation: &mut watch::Receiver<Generation>,
    is_so: impl Fn() -> bool,
) -> Result<(), Box<dyn Error>> {
    loop {
        generation.borrow_and_update();
        if is_so() {
            return Ok(());
        }
        timeout(PATIENCE, generation.changed()).await??;
    }
}

impl Vantage {
    async fn wait_until_shown(&mut self, tops: Tops) -> Result<(), Box<dyn Error>> {
        for (badge, wanted) in self.values.iter_mut().zip([self.rows, tops.sum]) {
            let wanted = Some(Value::Integer(wanted.into()));
            wait_until(&mut badge.generation, || badge.scenery.value() == wanted).await?;
        }
        for (number, view) in self.views.iter_mut().enumerate() {
            let (scenery, wanted) = (&view.scenery, Some(tops.of_view(number)));
            wait_until(&mut view.generation, || top(&**scenery) == wanted).await?;
        }
        Ok(())
    }
}

impl Table for Vantage {
    fn seed(&mut self) -> Done<()> {
        let lens = Lens::new()
            .cache_at(&self.cache)
            .runtime(RUNTIME.handle().clone())
            .on_start(|dio| {
                let dio = dio.clone();
                async move {
                    let rows = dio.master().list_values().await?;
                    dio.cache().insert_values(rows).await
                }
            })
            .on_refresh(|dio| {
                let dio = dio.clone();
                async move {
                    let rows = dio.master().list_values().await?;
                    dio.cache().clear().await?;
                    dio.cache().insert_values(rows).await
                }
            })
            .build()
            .map_err(|error| error.to_string())?;
        let vista = Vista::new("rows", Box::new(self.source.clone()));
        let dio = RUNTIME.block_on(Arc::new(lens).make_dio(vista))?;
        self.dio = Some(dio);
        Ok(Some(()))
    }

    fn open(&mut self) -> Done<usize> {
        // Whoever waits for view 0 ends with the next change.
        self.woken = None;
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
            self.wait_until_shown(tops).await
        })?;
        Ok(Some(()))
    }

    fn burst(&mut self, rows: &[Row], tops: Tops) -> Done<()> {
        let dio = self.dio()?.clone();
        RUNTIME.block_on(async {
            dio.cache().insert_values(rows.iter().map(|row| (row.id.clone(), record(row))).collect()).await?;
            dio.invalidate_all();
            self.wait_until_shown(tops).await
        })?;
        Ok(Some(()))
    }

    fn write(&mut self, rows: &[Row], _tops: Tops) -> Done<Writing> {
        // Its queue is first in, first out. Nobody is told when the source has a write, and no view shows it by itself.
        let dio = self.dio()?.clone();
        let Some(last) = rows.last() else { return Ok(None) };
        let begin = Instant::now();
        RUNTIME.block_on(async {
            let facade = dio.vista();
            for row in rows {
                facade.replace_value(&row.id, &record(row)).await?;
            }
            let wanted = record(last);
            while dio.master().get_value(&last.id).await?.as_ref() != Some(&wanted) {
                if begin.elapsed() > PATIENCE {
                    return Err("the source never had the last write".into());
                }
                tokio::task::yield_now().await;
            }
            Ok(Some(Writing { until_shown: None, until_stored: begin.elapsed() }))
        })
    }

    fn window(&mut self, at: usize) -> Done<i64> {
        let view = &self.views.first().ok_or("no view")?.scenery;
        Ok(Some((at..at + 50).filter_map(|index| int(&view.row(index)?.record, "amount")).sum()))
    }

    fn get(&mut self, row: &Row) -> Done<i64> {
        let record = RUNTIME.block_on(self.dio()?.cache().get_value(&row.id))?;
        Ok(record.and_then(|record| int(&record, "amount")))
    }

    fn set_values(&mut self, open: bool) -> Done<()> {
        self.values.clear();
        if open {
            let count = RUNTIME.block_on(self.dio()?.value_scenery().count().open())?;
            let sum = RUNTIME.block_on(self.dio()?.value_scenery().sum("amount").open())?;
            for scenery in [count, sum] {
                self.values.push(Badge { generation: scenery.subscribe(), scenery });
            }
        }
        Ok(Some(()))
    }

    fn sort(&mut self, by_name: bool, first: i64) -> Done<()> {
        let view = self.views.first_mut().ok_or("no view")?;
        view.scenery.set_sort(
            Some(if by_name { "name" } else { "amount" }.to_owned()),
            if by_name { SortDir::Asc } else { SortDir::Desc },
        );
        let scenery = &view.scenery;
        RUNTIME.block_on(wait_until(&mut view.generation, || top(&**scenery) == Some(first)))?;
        Ok(Some(()))
    }

    fn search(&mut self, text: Option<&str>, count: usize) -> Done<()> {
        let view = self.views.first_mut().ok_or("no view")?;
        view.scenery.set_search(text.map(str::to_owned));
        let scenery = &view.scenery;
        RUNTIME.block_on(wait_until(&mut view.generation, || scenery.row_count() == count))?;
        Ok(Some(()))
    }

    fn change_source(&mut self, rows: &[Row]) -> Result<(), Box<dyn Error>> {
        // Its clones share the rows.
        for row in rows {
            let _ = self.source.clone().with_record(row.id.as_str(), record(row));
        }
        Ok(())
    }

    fn refresh(&mut self, tops: Tops) -> Done<()> {
        let dio = self.dio()?.clone();
        RUNTIME.block_on(async {
            dio.refresh().await?;
            self.wait_until_shown(tops).await
        })?;
        Ok(Some(()))
    }

    fn wake(&mut self, row: &Row, tops: Tops) -> Done<Instant> {
        if self.woken.is_none() {
            let scenery = self.views.first().ok_or("no view")?.scenery.clone();
            let mut generation = scenery.subscribe();
            generation.borrow_and_update();
            let (tell, woken) = channel();
            let wanted = Arc::new(AtomicI64::new(tops.all));
            self.woken = Some((woken, wanted.clone()));
            // It ends when the view is closed or nobody listens. A generation may still be of the change before.
            RUNTIME.spawn(async move {
                while generation.changed().await.is_ok() {
                    let at = Instant::now();
                    if top(&*scenery) == Some(wanted.load(Ordering::Relaxed)) && tell.send(at).is_err() {
                        break;
                    }
                }
            });
        }
        let (woken, wanted) = self.woken.as_ref().ok_or("nobody waits")?;
        // Told twice of the change before.
        while woken.try_recv().is_ok() {}
        wanted.store(tops.all, Ordering::Relaxed);
        let dio = self.dio()?;
        RUNTIME.block_on(async { dio.patched(row.id.as_str(), record(row)).await })?;
        Ok(Some(woken.recv_timeout(PATIENCE)?))
    }

    fn reopens(&self) -> bool {
        true
    }

    fn top(&self, view: usize) -> Option<i64> {
        top(&*self.views.get(view)?.scenery)
    }
}
