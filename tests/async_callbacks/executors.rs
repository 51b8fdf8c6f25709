//! Executors: futures that need a runtime where there is none, and blocking calls made on an executor's own thread. Each is a
//! clear error, or works; none hangs.

use diorama::prelude::*;
use diorama::vista::{Capabilities, QueryDescriptor, Schema};
use diorama::{AsyncDio, AsyncTableShell, ConflictPolicy, Resolution, Result};
use std::sync::Arc;

use crate::support::*;

/// A source that needs a Tokio runtime.
pub(crate) struct Naps;

impl AsyncTableShell for Naps {
    fn name(&self) -> &str {
        "naps"
    }

    fn source_key(&self) -> String {
        "naps".into()
    }

    fn schema(&self) -> Arc<Schema> {
        Arc::new(Schema::open("id"))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { patch: true, ..Capabilities::list_only() }
    }

    async fn list(&self, _cx: &CallCx, _query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        nap().await;
        Ok(vec![("a".to_owned(), price(30))])
    }

    async fn patch(&self, _cx: &CallCx, id: &str, _record: &Record) -> Result<Written> {
        nap().await;
        Ok(Written::id(id))
    }
}

pub(crate) fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_callback_that_needs_a_runtime_says_which_setting_takes_one() {
    in_time(|| {
        let lens = Lens::new()
            .in_memory()
            .on_refresh_async(async |_dio| {
                nap().await;
                Ok(())
            })
            .on_write_async(async |_dio, request| {
                nap().await;
                Ok(Written::id(request.id().unwrap_or_default()))
            })
            .on_event_async(async |_dio, _event| {
                // What asks for the handle itself is no different.
                let _ = tokio::runtime::Handle::current();
                Ok(())
            })
            .on_start_async(async |dio| dio.cache().insert("a", price(1)).await)
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        asks_for_a_runtime(&dio.refresh().unwrap_err(), "tokio_handle");
        asks_for_a_runtime(&write(&dio, WriteOp::patch("a", price(2))).unwrap_err(), "tokio_handle");
        asks_for_a_runtime(&dio.handle_event(ChangeEvent::Invalidated).unwrap_err(), "tokio_handle");
        assert_eq!(cached(&dio), ["a=1"]);

        let starts = Lens::new().in_memory().on_start_async(async |_dio| {
            tokio::spawn(async {});
            Ok(())
        });
        asks_for_a_runtime(&starts.build().unwrap().make_dio(products()).unwrap_err(), "tokio_handle");

        let decides =
            Lens::new().in_memory().conflicts(ConflictPolicy::SourceWins).on_conflict_async(async |_dio, _met| {
                nap().await;
                Ok(Resolution::Theirs)
            });
        let source = products();
        let dio = decides.build().unwrap().make_dio(source.clone()).unwrap();
        source.outside_silently().patch("a", price(99)).unwrap();
        asks_for_a_runtime(&write(&dio, WriteOp::patch("a", price(2))).unwrap_err(), "tokio_handle");
    });
}

#[test]
fn a_source_that_needs_a_runtime_says_which_setting_takes_one() {
    in_time(|| {
        let source = Vista::from_async(Naps);
        asks_for_a_runtime(&source.list_values().unwrap_err(), "AsyncSource::with_tokio");
        let error = Lens::new().in_memory().build().unwrap().make_dio(source).unwrap_err();
        asks_for_a_runtime(&error, "AsyncSource::with_tokio");
        assert_eq!(error.context("table"), Some("naps"));
    });
}

#[test]
fn other_panics_stay_panics() {
    in_time(|| {
        let lens = Lens::new().in_memory().on_refresh_async(async |_dio| panic!("is there no reactor running?"));
        let error = lens.build().unwrap().make_dio(products()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert_eq!(error.message(), "on_refresh panicked: is there no reactor running?");
    });
}

#[test]
fn an_event_handed_over_on_an_executors_thread_is_taken_in_elsewhere() {
    in_time(|| {
        let lens = Lens::new()
            .in_memory()
            .on_event_async(async |dio, event| match event {
                ChangeEvent::Deleted { id } => {
                    // More of Tokio's channels than one task's turn may have: its budget is not the callback's.
                    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
                    for number in 0..1_000 {
                        sender.send(number).await.map_err(|_| Error::new(ErrorKind::Source, "gone"))?;
                        receiver.recv().await;
                    }
                    dio.cache().remove(id).await
                }
                _ => {
                    nap().await;
                    Ok(())
                }
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        current_thread().block_on(async {
            // This thread's runtime stands still as long as the call blocks it.
            asks_for_a_runtime(&dio.handle_event(ChangeEvent::Invalidated).unwrap_err(), "tokio_handle");
            dio.handle_event(ChangeEvent::Deleted { id: "b".into() }).unwrap();
            AsyncDio::from(dio.clone()).handle_event(ChangeEvent::Deleted { id: "c".into() }).await.unwrap();
        });
        assert_eq!(cached(&dio), ["a=30"]);
    });
}

#[test]
fn a_source_called_on_an_executors_thread_does_not_hang() {
    in_time(|| {
        current_thread().block_on(async {
            let source = Vista::from_async(Naps);
            asks_for_a_runtime(&source.list_values().unwrap_err(), "AsyncSource::with_tokio");
            let rows = Vista::from_async(AsyncMemory::new(products())).list_values().unwrap();
            assert_eq!(rows.len(), 3);
        });
    });
}

#[test]
fn a_blocking_callback_set_after_an_async_one_runs_on_the_callers_thread() {
    in_time(|| {
        let lens = Lens::new()
            .in_memory()
            .on_event_async(async |_dio, _event| Ok(()))
            .on_event(|_dio, _event| {
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                Err(Error::new(ErrorKind::Rejected, name))
            })
            .build()
            .unwrap();
        let error = lens.make_dio(products()).unwrap().handle_event(ChangeEvent::Invalidated).unwrap_err();
        assert_eq!(Some(error.message()), std::thread::current().name());
    });
}
