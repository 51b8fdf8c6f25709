//! A Tokio runtime: with its handle, callbacks and sources use its timers, tasks and sockets; one that can't be used so is
//! refused, and one that ends too early is an error.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crossbeam_channel::bounded;
use diorama::prelude::*;
use diorama::{AsyncDio, AsyncSource, Result, TableShell};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use crate::executors::{Naps, current_thread};
use crate::support::*;

fn one_worker() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn cut(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Source, "line cut").with_source(cause)
}

/// Answers each connection with what it was sent, once.
fn echoes() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let run = move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut said = [0; 4];
            stream.read_exact(&mut said).unwrap();
            stream.write_all(&said).unwrap();
        }
    };
    // It ends with the process.
    drop(std::thread::Builder::new().spawn(run).unwrap());
    address
}

/// A timer, a task and a socket.
async fn uses_everything(address: SocketAddr) -> Result<i64> {
    nap().await;
    let said = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"ping").await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.map(|_| said)
    });
    let mut stream = TcpStream::connect(address).await.map_err(cut)?;
    stream.write_all(b"pong").await.map_err(cut)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.map_err(cut)?;
    assert_eq!((said.await.map_err(cut)?.map_err(cut)?.as_str(), &answer), ("ping", b"pong"));
    Ok(7)
}

#[test]
fn timers_tasks_and_sockets_work_in_every_callback_with_a_handle() {
    in_time(|| {
        let (runtime, address) = (one_worker(), echoes());
        let source = products();
        let put = async move |dio: &AsyncDio, id: &'static str| {
            let answer = uses_everything(address).await?;
            dio.cache().insert(id, price(answer)).await
        };
        let lens = Lens::new()
            .in_memory()
            .on_start_async(async move |dio| put(dio, "start").await)
            .on_refresh_async(async move |dio| put(dio, "refresh").await)
            .on_event_async(async move |dio, _event| put(dio, "event").await)
            .on_write_async(async move |dio, request| {
                uses_everything(address).await?;
                Dio::master(dio).write(request.cx(), request)
            })
            // The order of the settings is of no matter.
            .tokio_handle(runtime.handle().clone())
            .build()
            .unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        dio.refresh().unwrap();
        dio.handle_event(ChangeEvent::Invalidated).unwrap();
        assert_eq!(cached(&dio), ["start=7", "refresh=7", "event=7"]);
        write(&dio, WriteOp::patch("a", price(31))).unwrap();
        assert_eq!(source.row("a").unwrap().int("price"), Some(31));
        assert!(lens.close(SOON).unwrap().is_closed());
    });
}

#[test]
fn a_source_works_in_the_context_of_its_own_runtime_or_of_the_lens_or_of_the_calling_thread() {
    in_time(|| {
        let runtime = one_worker();
        let own = AsyncSource::new(Naps).with_tokio(runtime.handle().clone()).unwrap();
        assert_eq!(Vista::new(own.clone()).list_values().unwrap().len(), 1);
        let plain = Lens::new().in_memory().build().unwrap();
        assert_eq!(cached(&plain.make_dio(own).unwrap()), ["a=30"]);

        let lens = Lens::new().in_memory().tokio_handle(runtime.handle().clone()).build().unwrap();
        let dio = lens.make_dio(Vista::from_async(Naps)).unwrap();
        assert_eq!(cached(&dio), ["a=30"]);
        write(&dio, WriteOp::patch("a", price(31))).unwrap();
        assert_eq!(cached(&dio), ["a=31"]);

        let called = runtime.handle().spawn_blocking(|| Vista::from_async(Naps).list_values());
        assert_eq!(runtime.block_on(called).unwrap().unwrap().len(), 1);
        let _entered = runtime.enter();
        assert_eq!(Vista::from_async(Naps).list_values().unwrap().len(), 1);
    });
}

#[test]
fn a_current_thread_runtime_is_refused() {
    in_time(|| {
        let runtime = current_thread();
        let error = Lens::new().in_memory().tokio_handle(runtime.handle().clone()).build().unwrap_err();
        assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Invalid, Some("tokio_handle")));
        assert!(error.message().contains("current-thread") && error.message().contains("multi-thread"), "{error}");
        let error = AsyncSource::new(Naps).with_tokio(runtime.handle().clone()).unwrap_err();
        assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Invalid, Some("AsyncSource::with_tokio")));
        assert_eq!(error.context("table"), Some("naps"));
        // Nor is it taken from the calling thread, which drives it or not.
        let _entered = runtime.enter();
        asks_for_a_runtime(&Vista::from_async(Naps).list_values().unwrap_err(), "AsyncSource::with_tokio");
    });
}

#[test]
fn a_blocking_call_on_the_runtimes_only_worker_thread_works() {
    in_time(|| {
        let runtime = one_worker();
        let lens = Lens::new()
            .in_memory()
            .tokio_handle(runtime.handle().clone())
            .on_event_async(async |dio, _event| {
                nap().await;
                dio.cache().insert("event", price(1)).await
            })
            .build()
            .unwrap();
        let dio = lens.make_dio(products()).unwrap();
        let taken_in = dio.clone();
        let source = AsyncSource::new(Naps).with_tokio(runtime.handle().clone()).unwrap();
        let blocks = runtime.spawn(async move {
            taken_in.handle_event(ChangeEvent::Invalidated).unwrap();
            Vista::new(source).list_values().unwrap().len()
        });
        assert_eq!(runtime.block_on(blocks).unwrap(), 1);
        // In a `LocalSet`, where Tokio hands nothing on.
        let local = tokio::task::LocalSet::new();
        runtime.block_on(local.run_until(async { dio.handle_event(ChangeEvent::Invalidated) })).unwrap();
        // And from a runtime that stands still meanwhile.
        current_thread().block_on(async { dio.handle_event(ChangeEvent::Invalidated) }).unwrap();
        assert_eq!(cached(&dio).last().unwrap(), "event=1");
    });
}

/// What a callback waits for while the runtime ends under it.
async fn for_a_timer() -> Result<()> {
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    Ok(())
}

async fn for_a_task() -> Result<()> {
    tokio::spawn(std::future::pending()).await.map_err(cut)
}

async fn for_a_socket(silent: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(silent).await.map_err(cut)?;
    stream.read_u8().await.map(drop).map_err(cut)
}

#[test]
fn a_runtime_that_is_shut_down_under_a_callback_is_an_error_and_no_hang() {
    in_time(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = listener.local_addr().unwrap();
        for (waits_for, kind) in
            [("a timer", ErrorKind::Unavailable), ("a task", ErrorKind::Source), ("a socket", ErrorKind::Source)]
        {
            let runtime = one_worker();
            let (inside, is_inside) = bounded(1);
            let lens = Lens::new()
                .in_memory()
                .tokio_handle(runtime.handle().clone())
                .on_start_async(async |_dio| Ok(()))
                .on_refresh_async(async move |_dio| {
                    let waits = async {
                        match waits_for {
                            "a timer" => for_a_timer().await,
                            "a task" => for_a_task().await,
                            _ => for_a_socket(silent).await,
                        }
                    };
                    let tells = async {
                        nap().await;
                        let _ = inside.try_send(());
                    };
                    let (waited, ()) = tokio::join!(waits, tells);
                    waited
                })
                .build()
                .unwrap();
            let dio = lens.make_dio(products()).unwrap();
            std::thread::scope(|threads| {
                let refresh = threads.spawn(|| dio.refresh());
                is_inside.recv_timeout(SOON).unwrap();
                runtime.shutdown_timeout(SOON);
                let error = refresh.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), kind, "{waits_for}: {error}");
                if kind == ErrorKind::Unavailable {
                    assert_eq!(error.context("setting"), Some("tokio_handle"));
                    assert!(error.message().contains("shut down"), "{error}");
                }
                // And so it is from here on.
                assert!(dio.refresh().is_err(), "{waits_for}");
            });
            assert!(lens.close(SOON).unwrap().is_closed());
        }
    });
}

#[cfg(feature = "lmdb")]
#[test]
fn a_write_whose_runtime_is_gone_waits_for_the_next_start() {
    in_time(|| {
        let directory = tempfile::tempdir().unwrap();
        let source = products();
        let lens = |runtime: &Runtime| {
            let settings = Lens::new().cache_at(directory.path()).tokio_handle(runtime.handle().clone());
            let settings = settings.on_write_async(async |dio, request| {
                nap().await;
                Dio::master(dio).write(request.cx(), request)
            });
            settings.build().unwrap()
        };
        let runtime = one_worker();
        let first = lens(&runtime);
        let dio = first.make_dio(source.clone()).unwrap();
        runtime.shutdown_timeout(SOON);
        let ticket = dio.write(WriteOp::patch("a", price(31))).unwrap();
        ticket.wait_durable(SOON).unwrap();
        let report = first.close(SOON).unwrap();
        assert_eq!((report.is_closed(), report.kept, report.failed), (true, 1, 0), "{report:?}");
        drop((dio, ticket));
        drop(first);

        let runtime = one_worker();
        let second = lens(&runtime);
        let dio = second.make_dio(source.clone()).unwrap();
        dio.wait_for_writes(SOON).unwrap();
        assert_eq!(source.row("a").unwrap().int("price"), Some(31));
        second.close(SOON).unwrap();
    });
}

#[test]
fn a_stream_of_changes_is_polled_in_the_runtimes_context() {
    in_time(|| {
        struct Ticks(AsyncMemory);

        impl diorama::AsyncTableShell for Ticks {
            fn name(&self) -> &str {
                "ticks"
            }

            fn source_key(&self) -> String {
                "ticks".into()
            }

            fn schema(&self) -> std::sync::Arc<diorama::vista::Schema> {
                TableShell::schema(&self.0.rows)
            }

            fn capabilities(&self) -> diorama::vista::Capabilities {
                TableShell::capabilities(&self.0.rows)
            }

            async fn list(
                &self,
                cx: &CallCx,
                query: &diorama::vista::QueryDescriptor,
            ) -> Result<Vec<(String, Record)>> {
                self.0.rows.list(cx, query)
            }

            async fn changes(&self, _cx: &CallCx) -> Result<diorama::async_shim::ChangesFromOutside> {
                struct Once(bool);
                impl futures_core::Stream for Once {
                    type Item = Result<ChangeEvent>;

                    fn poll_next(
                        mut self: std::pin::Pin<&mut Self>,
                        _cx: &mut std::task::Context<'_>,
                    ) -> std::task::Poll<Option<Self::Item>> {
                        // As anything does that makes a timer on its way.
                        let _ = tokio::runtime::Handle::current();
                        let is_over = std::mem::replace(&mut self.0, true);
                        std::task::Poll::Ready((!is_over).then_some(Ok(ChangeEvent::Invalidated)))
                    }
                }
                Ok(Box::pin(Once(false)))
            }
        }

        let runtime = one_worker();
        let ticks = AsyncSource::new(Ticks(AsyncMemory::new(products())));
        let ticks = ticks.with_tokio(runtime.handle().clone()).unwrap();
        let mut changes = ticks.changes(&CallCx::new()).unwrap();
        assert_eq!(changes.next(&CallCx::new()).unwrap(), Some(ChangeEvent::Invalidated));
        assert_eq!(changes.next(&CallCx::new()).unwrap(), None);
    });
}
