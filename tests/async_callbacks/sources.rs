//! Sources: an async one behind the adapter is a source like any other.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::vista::contract::{self, Fixture, Rows, Subject};
use diorama::vista::{Capabilities, Column, ColumnType, QueryDescriptor, Schema};
use diorama::{AsyncSource, AsyncTableShell, Result, TableShell};

use crate::support::*;

fn schema() -> Schema {
    Schema::new("id")
        .with(Column::new("id", ColumnType::Text).mandatory())
        .with(Column::new("name", ColumnType::Text).title().searchable())
        .with(Column::new("stock", ColumnType::Int).searchable())
        .with(Column::new("weight", ColumnType::Float))
        .with(Column::new("active", ColumnType::Bool).searchable())
        .with(Column::new("rest", ColumnType::Any).searchable())
}

/// An async source with every hand on it.
fn subject(rows: Rows) -> Result<Subject> {
    let source = AsyncMemory::new(MemoryVista::new("products", "id").with_schema(schema()).with_rows(rows));
    let (changed, offline, held) = (source.clone(), source.clone(), source.clone());
    let outside = move |op: &WriteOp| {
        let by = changed.rows.outside();
        let id = op.id().unwrap_or_default().to_owned();
        match op {
            WriteOp::Upsert { record, .. } => by.upsert(&id, record.clone())?,
            WriteOp::Patch { record, .. } => by.patch(&id, record.clone())?,
            _ => by.delete(&id)?,
        }
        changed.tell(&match changed.rows.row(&id) {
            Some(record) => ChangeEvent::Updated { id, record: Some(record) },
            None => ChangeEvent::Deleted { id },
        });
        Ok(())
    };
    Ok(Subject::new(Vista::from_async(source.clone()))
        .second(AsyncSource::new(source))
        .outside(outside)
        .offline(move |is_offline| offline.rows.set_offline(is_offline))
        .hold(move || held.hold()))
}

#[test]
fn an_async_source_keeps_the_contract() {
    in_time(|| contract::check(&Fixture::new("async memory", schema(), subject)));
}

#[test]
fn an_async_source_with_nothing_but_a_list_keeps_the_contract() {
    in_time(|| {
        contract::check(&Fixture::new("async list", schema(), |rows| {
            let rows = MemoryVista::new("products", "id").with_schema(schema()).with_rows(rows);
            let rows = rows.push_down(false).with_capabilities(Capabilities::list_only());
            Ok(Vista::from_async(AsyncMemory::new(rows)))
        }));
    });
}

#[test]
fn a_facade_over_an_async_source_keeps_the_contract() {
    in_time(|| {
        contract::check(&Fixture::new("facade over async", schema(), |rows| {
            let lens = Lens::new().in_memory().build()?;
            let source = MemoryVista::new("products", "id").with_schema(schema()).with_rows(rows);
            let dio = lens.make_dio(Vista::from_async(AsyncMemory::new(source)))?;
            Ok(Subject::new(dio.vista()).keep(lens))
        }));
    });
}

#[test]
fn an_async_source_that_denies_a_call_says_so_under_its_name() {
    let source = AsyncSource::new(Stands::new().0);
    let cx = CallCx::new();
    let error = source.page(&cx, &QueryDescriptor::default(), None, 2).unwrap_err();
    assert_eq!((error.kind(), error.context("table")), (ErrorKind::Unsupported, Some("stands")));
    assert_eq!(source.batch(&cx, &[]).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(source.changes(&cx).err().unwrap().kind(), ErrorKind::Unsupported);
    assert_eq!(source.delete_all(&cx).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(format!("{source:?}").contains("stands"));
    assert_eq!(source.shell().name(), "stands");
}

// ---- calls that are not wanted any more ----------------------------------------------------------------------------

/// A source whose list is never ready, and says when it is asked and when it is dropped.
struct Stands {
    said: Sender<&'static str>,
}

impl Stands {
    fn new() -> (Self, crossbeam_channel::Receiver<&'static str>) {
        let (said, says) = bounded(16);
        (Stands { said }, says)
    }
}

struct SaysWhenDropped(Sender<&'static str>);

impl Drop for SaysWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.try_send("dropped");
    }
}

impl AsyncTableShell for Stands {
    fn name(&self) -> &str {
        "stands"
    }

    fn source_key(&self) -> String {
        "stands".into()
    }

    fn schema(&self) -> Arc<Schema> {
        Arc::new(Schema::open("id"))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::list_only()
    }

    async fn list(&self, _cx: &CallCx, _query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        let _says = SaysWhenDropped(self.said.clone());
        let _ = self.said.try_send("asked");
        std::future::pending().await
    }
}

#[test]
fn a_call_that_is_cancelled_drops_its_future() {
    in_time(|| {
        let (source, says) = Stands::new();
        let source = Vista::from_async(source);
        let cx = CallCx::new();
        std::thread::scope(|threads| {
            let call = threads.spawn(|| source.list(&cx));
            assert_eq!(says.recv_timeout(SOON), Ok("asked"));
            cx.cancel.cancel();
            assert_eq!(call.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        });
        assert_eq!(says.try_recv(), Ok("dropped"), "before the call has returned");
        assert_eq!(source.list(&cx).unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(says.is_empty(), "not asked at all");
    });
}

#[test]
fn a_call_ends_at_its_deadline_on_the_clock_of_the_system() {
    in_time(|| {
        let source = Vista::from_async(Stands::new().0);
        let cx = CallCx::new().deadline_in(Duration::from_millis(3));
        assert_eq!(source.list(&cx).unwrap_err().kind(), ErrorKind::Timeout);
    });
}

#[test]
fn a_call_ends_at_its_deadline_on_the_clock_of_the_lens() {
    in_time(|| {
        let (clock, hands) = Clock::manual();
        let (source, says) = Stands::new();
        let settings = Lens::new().in_memory().clock(clock).source_timeout(Duration::from_secs(5));
        let lens = settings.on_start_blocking(false).build().unwrap();
        let dio = lens.make_dio(Vista::from_async(source)).unwrap();
        let mut events = dio.subscribe_events();
        assert_eq!(says.recv_timeout(SOON), Ok("asked"));
        hands.advance(Duration::from_secs(4));
        assert!(says.is_empty());
        hands.advance(Duration::from_secs(1));
        assert_eq!(says.recv_timeout(SOON), Ok("dropped"));
        let error = loop {
            if let DioEvent::RefreshFailed { error, .. } = events.recv(Some(SOON)).unwrap() {
                break error;
            }
        };
        assert_eq!((error.kind(), error.context("source_timeout")), (ErrorKind::Timeout, Some("5s")));
    });
}

#[test]
fn closing_a_dio_ends_the_call_that_its_async_source_stands_in() {
    in_time(|| {
        let (source, says) = Stands::new();
        let lens = Lens::new().in_memory().on_start_blocking(false).build().unwrap();
        let dio = lens.make_dio(Vista::from_async(source)).unwrap();
        assert_eq!(says.recv_timeout(SOON), Ok("asked"));
        let report = dio.close(SOON).unwrap();
        assert!(report.is_closed(), "{report:?}");
        assert_eq!(says.recv_timeout(SOON), Ok("dropped"));
    });
}

#[test]
fn a_source_that_panics_is_an_error_of_that_call() {
    in_time(|| {
        let rows = products();
        let source = Vista::from_async(AsyncMemory::new(rows.clone()));
        rows.panic_next(diorama::sources::memory::Call::List);
        let error = source.list_values().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(error.message().starts_with("the source panicked"), "{error}");
        assert_eq!(source.list_values().unwrap().len(), 3);
    });
}

// ---- the whole way -------------------------------------------------------------------------------------------------

#[test]
fn a_dio_over_an_async_source_reads_writes_and_refreshes() {
    in_time(|| {
        let rows = products();
        let lens = Lens::new().in_memory().build().unwrap();
        let dio = lens.make_dio(Vista::from_async(AsyncMemory::new(rows.clone()))).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        write(&dio, WriteOp::patch("b", price(11))).unwrap();
        assert_eq!(rows.row("b").unwrap().int("price"), Some(11));
        rows.outside_silently().delete("c").unwrap();
        dio.refresh().unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=11"]);
        assert!(lens.close(SOON).unwrap().is_closed());
    });
}

#[test]
fn a_stream_of_changes_goes_on_after_a_cancelled_wait_and_ends_once() {
    in_time(|| {
        let source = AsyncMemory::new(products());
        let mut changes = Vista::from_async(source.clone()).changes(&CallCx::new()).unwrap();
        let late = CallCx::new().deadline_in(Duration::from_millis(1));
        assert_eq!(changes.next(&late).unwrap_err().kind(), ErrorKind::Timeout);
        let event = ChangeEvent::Deleted { id: "a".into() };
        source.tell(&event);
        assert_eq!(changes.next(&CallCx::new()).unwrap(), Some(event));
        source.end_streams();
        assert_eq!(changes.next(&CallCx::new()).unwrap(), None);
        assert_eq!(changes.next(&CallCx::new()).unwrap(), None);
    });
}

#[test]
fn an_async_source_is_one_for_threads() {
    fn is_shared<T: Send + Sync + Clone>() {}
    is_shared::<AsyncSource<AsyncMemory>>();
}
