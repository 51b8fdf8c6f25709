//! The stage: a Dio over a scripted source and a scripted storage, with views of every kind open.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use diorama::cache::MemoryBackend;
use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::{DeliveryPolicy, EventReader, LensBuilder, live_threads};

use crate::limit;
use crate::source::ScriptedSource;
use crate::storage::ScriptedBackend;

pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long closing may take where a thread stands still.
pub(crate) const SHORT: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(240);

pub(crate) type Rows = Vec<(String, i64)>;

pub(crate) struct Stage {
    pub(crate) name: String,
    /// The source itself, past its script.
    pub(crate) rows: MemoryVista,
    pub(crate) source: ScriptedSource,
    pub(crate) storage: Arc<ScriptedBackend>,
    pub(crate) lens: Lens,
    pub(crate) dio: Dio,
    pub(crate) table: TableScenery,
    pub(crate) record: RecordScenery,
    pub(crate) sum: ValueScenery,
    pub(crate) events: EventReader<DioEvent>,
    /// Keeps the directory of a cache on disk.
    _directory: Option<tempfile::TempDir>,
}

/// Work beside the test.
pub(crate) struct Task<T>(Receiver<T>, String);

pub(crate) fn start<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    let (sender, receiver) = bounded(1);
    let run = move || drop(sender.send(work()));
    std::thread::Builder::new().name(what.to_owned()).spawn(run).unwrap();
    Task(receiver, what.to_owned())
}

impl<T> Task<T> {
    pub(crate) fn end(self) -> T {
        match self.0.recv_timeout(SOON) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => limit::hangs(&self.1),
            Err(RecvTimeoutError::Disconnected) => panic!("`{}` panicked", self.1),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Work that must not have to wait for anything that stands still.
pub(crate) fn at_once<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    start(what, work).end()
}

pub(crate) fn product(price: i64) -> Record {
    record! { "price" => price }
}

/// Runs a test over a cache in memory and, where there is one, over a cache on disk.
pub(crate) fn on_both(body: impl Fn(bool) + Send + Sync + 'static) {
    limit::limited(LIMIT, move || {
        body(false);
        if cfg!(feature = "lmdb") {
            body(true);
        }
    });
}

fn backend(on_disk: bool) -> (Arc<ScriptedBackend>, Option<tempfile::TempDir>) {
    #[cfg(feature = "lmdb")]
    if on_disk {
        let directory = tempfile::tempdir().unwrap();
        let inner = diorama::cache::LmdbBackend::open(directory.path().join("cache")).unwrap();
        return (ScriptedBackend::new(inner), Some(directory));
    }
    assert!(!on_disk, "there is no disk without the feature");
    (ScriptedBackend::new(MemoryBackend::new()), None)
}

/// The setting of a Lens: hardly any row stays in memory that the storage has, and a write is tried once.
pub(crate) fn builder(storage: &Arc<ScriptedBackend>, name: &str) -> LensBuilder {
    let once = DeliveryPolicy::default().max_attempts(Some(1));
    Lens::new().cache_source(storage.clone()).name(format!("{name}-lens")).hot_tier_capacity(1).delivery(once)
}

impl Stage {
    pub(crate) fn new(name: &str, on_disk: bool) -> Stage {
        Self::on_clock(name, on_disk, Clock::system())
    }

    pub(crate) fn on_clock(name: &str, on_disk: bool, clock: Clock) -> Stage {
        let rows = MemoryVista::new(name, "id").with_rows([("a", product(30)), ("b", product(10)), ("c", product(20))]);
        let source = ScriptedSource::new(rows.clone());
        let (storage, directory) = backend(on_disk);
        let lens = builder(&storage, name).clock(clock).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        // So that the writer's thread is there, too.
        dio.write(WriteOp::patch("a", product(31))).unwrap().wait(SOON).unwrap();
        let stage = Stage {
            name: name.to_owned(),
            table: dio.table_scenery().sort("price", SortDir::Asc).open().unwrap(),
            record: dio.record_scenery("a").unwrap(),
            sum: dio.value_scenery().sum("price").open().unwrap(),
            events: dio.subscribe_events(),
            rows,
            source,
            storage,
            lens,
            dio,
            _directory: directory,
        };
        stage.dio.flush().unwrap();
        stage.dio.cache().remove("no such row").unwrap();
        stage
    }

    pub(crate) fn shown(&self) -> Rows {
        let snapshot = self.table.snapshot();
        snapshot.iter().map(|row| (row.id().to_owned(), row.int("price").unwrap_or(-1))).collect()
    }

    /// What the source has, in the order of the view.
    pub(crate) fn at_source(&self) -> Rows {
        let price = |record: &Record| record.int("price").unwrap_or(-1);
        let mut rows: Rows = self.rows.rows().iter().map(|(id, record)| (id.clone(), price(record))).collect();
        rows.sort_by_key(|(_, price)| *price);
        rows
    }

    /// While something stands still in the source: reads answer, and a change of this process shows.
    pub(crate) fn nobody_waits(&self, expected: &Rows) {
        let (dio, table, record, sum) = (self.dio.clone(), self.table.clone(), self.record.clone(), self.sum.clone());
        let wanted = expected.clone();
        at_once("reads and a change", move || {
            assert_eq!(dio.cache().count().unwrap() as usize, wanted.len());
            assert_eq!(dio.cache().list().unwrap().len(), wanted.len());
            assert_eq!(dio.vista().list_values().unwrap().len(), wanted.len());
            assert_eq!(table.row_count(), wanted.len());
            let shown = wanted.iter().find(|(id, _)| id == "a").map(|(_, price)| *price);
            assert_eq!(record.record().and_then(|record| record.int("price")), shown);
            assert_eq!(sum.int(), Some(wanted.iter().map(|(_, price)| price).sum()));
            let before = table.generation();
            dio.cache().insert("local", product(-5)).unwrap();
            assert_eq!(table.generation(), before.next());
            assert_eq!(table.row(0).unwrap().id(), "local");
            dio.cache().remove("local").unwrap();
            dio.table_scenery().where_eq("price", 10).open().unwrap();
            assert!(!dio.status().closed);
        });
        assert_eq!(self.shown(), *expected, "the views keep their rows");
    }

    /// After the fault: the threads live, and source, cache and views agree again.
    pub(crate) fn recovers(mut self) {
        self.source.heal();
        self.storage.heal();
        for role in ["core", "refresh", "writer"] {
            let thread = format!("{}:{role}", self.name);
            assert!(live_threads().contains(&thread), "{thread} is gone; there are {:?}", live_threads());
        }
        // What a refresh skipped under a pending `delete_all` may be being read again: the next one is not to join that.
        self.dio.refresh().unwrap();
        self.rows.outside_silently().upsert("a", product(33)).unwrap();
        self.dio.refresh().unwrap();
        assert!(self.dio.status().refresh_error.is_none());
        self.dio.write(WriteOp::upsert("after", product(77))).unwrap().wait(SOON).unwrap();
        self.dio.handle_event(ChangeEvent::Updated { id: "b".to_owned(), record: None }).unwrap();
        self.dio.flush().unwrap();
        assert!(self.dio.status().cache_error.is_none());
        let expected = self.at_source();
        assert!(expected.iter().any(|(id, _)| id == "after"));
        assert_eq!(self.shown(), expected);
        let again = self.dio.table_scenery().sort("price", SortDir::Asc).open().unwrap().snapshot();
        assert_eq!(again.iter().map(|row| row.id().to_owned()).collect::<Vec<_>>(), ids(&expected));
        assert_eq!(self.sum.int(), Some(expected.iter().map(|(_, price)| price).sum()));
        assert_eq!(self.record.record().unwrap().int("price"), self.rows.row("a").unwrap().int("price"));
        let report = self.lens.close(SOON).unwrap();
        assert!(report.is_closed(), "{report:?}");
        self.nothing_runs();
        // What the cache kept is what the source had.
        self.rows.set_offline(true);
        self.lens = builder(&self.storage, &self.name).build().unwrap();
        let dio = self.lens.make_dio(self.source.clone()).unwrap();
        let warm = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap().snapshot();
        assert_eq!(warm.iter().map(|row| row.id().to_owned()).collect::<Vec<_>>(), ids(&expected));
        assert!(self.lens.close(SOON).unwrap().is_closed());
    }

    pub(crate) fn nothing_runs(&self) {
        let own = format!("{}:", self.name);
        let left: Vec<String> = live_threads().into_iter().filter(|name| name.starts_with(&own)).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The first event that is wanted.
    pub(crate) fn event(&mut self, what: &str, wanted: impl Fn(&DioEvent) -> bool) -> DioEvent {
        loop {
            match self.events.recv(Some(SOON)) {
                Ok(event) if wanted(&event) => return event,
                Ok(_) => {}
                Err(none) => panic!("no event {what}: {none}"),
            }
        }
    }
}

fn ids(rows: &Rows) -> Vec<String> {
    rows.iter().map(|(id, _)| id.clone()).collect()
}
