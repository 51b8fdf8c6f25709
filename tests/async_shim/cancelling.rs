//! A3: a future that is dropped, after any of its polls, leaves no waiter and no job, and takes back nothing that was taken.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use diorama::async_shim::wait_any;
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{AsyncDio, AsyncLens};

use crate::executors::*;
use crate::limit::limited;
use crate::source::{Point, ScriptedSource};
use crate::storage::{ScriptedBackend, Storage};
use crate::support::*;

/// More polls than any call takes.
const POLLS: usize = 50;

fn in_time(body: impl FnOnce() + Send + 'static) {
    limited(Duration::from_secs(240), body);
}

/// Polls the future so often at the most, each time after it was woken, and drops it. Its answer, if it came to one; and who
/// is still there of those that were to be woken.
fn polled<T>(polls: usize, future: impl Future<Output = T>) -> (Option<T>, Arc<Wakes>) {
    let wakes = Arc::new(Wakes::default());
    let mut answer = None;
    {
        let mut future = pin!(future);
        let waker = Waker::from(wakes.clone());
        for poll in 0..polls {
            let before = wakes.count();
            if let Poll::Ready(ready) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                answer = Some(ready);
                break;
            }
            if poll + 1 < polls {
                until("a wake-up", || wakes.count() > before);
            }
        }
    }
    (answer, wakes)
}

/// Makes the call again and again, and drops it after 0, 1, 2 … polls, until it comes to its end. After each time nobody
/// waits, and `check` holds. What the last call said.
fn dropped_everywhere<T, F: Future<Output = T>>(
    dio: &AsyncDio,
    mut call: impl FnMut() -> F,
    mut check: impl FnMut(bool),
) -> T {
    for polls in 0..POLLS {
        let (answer, wakes) = polled(polls, call());
        assert_eq!(Arc::strong_count(&wakes), 1, "somebody would wake it after {polls} polls");
        until("no job is left", || jobs(dio) == 0);
        check(answer.is_some());
        if let Some(answer) = answer {
            return answer;
        }
    }
    panic!("it never comes to an end");
}

/// How many calls of futures wait for a thread.
fn jobs(dio: &Dio) -> usize {
    dio.diagnostics().queues.iter().filter(|queue| queue.name.ends_with("call")).map(|queue| queue.length).sum()
}

struct Ground {
    source: ScriptedSource,
    backend: Arc<ScriptedBackend>,
    lens: AsyncLens,
    dio: AsyncDio,
}

impl Ground {
    fn new(table: &str) -> Self {
        Self::over(Lens::new(), table)
    }

    fn over(settings: diorama::LensBuilder, table: &str) -> Self {
        let source = ScriptedSource::new(products(table));
        let backend = ScriptedBackend::in_memory();
        let lens = pollster::block_on(lens(settings.cache_source(backend.clone())));
        let dio = pollster::block_on(lens.make_dio(source.clone())).unwrap();
        Ground { source, backend, lens, dio }
    }

    /// Blocks until every call that was begun is over: both threads of the pool have been elsewhere since. Then until every
    /// write is settled.
    fn settle(&self) {
        let held = self.backend.hold(Storage::LookupOf("nobody"));
        let cache = self.dio.cache();
        let mut reads = [Box::pin(cache.get("nobody")), Box::pin(cache.get("nobody"))];
        for read in &mut reads {
            assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        held.wait_until_held(2);
        drop(held);
        for read in reads {
            assert_eq!(pollster::block_on(read).unwrap(), None);
        }
        // What they sent to the core comes before this.
        self.plain().cache().remove("no such row").unwrap();
        self.plain().wait_for_writes(SOON).unwrap();
    }

    fn plain(&self) -> &Dio {
        &self.dio
    }

    fn cached(&self, id: &str) -> Option<i64> {
        self.plain().cache().get(id).unwrap().and_then(|row| row.int("price"))
    }

    fn at_source(&self, id: &str) -> Option<i64> {
        self.plain().master().get_value(id).unwrap().and_then(|row| row.int("price"))
    }
}

#[test]
fn a_write_was_taken_and_lands_or_was_not_taken_at_all() {
    in_time(|| {
        let ground = Ground::new("drop-write");
        let dio = &ground.dio;
        let price = std::cell::Cell::new(100);
        let write = || {
            price.set(price.get() + 1);
            dio.write(WriteOp::patch("a", record! { "price" => price.get() }))
        };
        let lands = |is_known: bool| {
            ground.settle();
            let (cached, at_source) = (ground.cached("a").unwrap(), ground.at_source("a").unwrap());
            assert_eq!(cached, at_source);
            assert!(!is_known || cached == price.get());
        };
        dropped_everywhere(dio, write, lands).unwrap();
        let try_write = || dio.try_write(WriteOp::patch("a", record! { "price" => 1 }));
        dropped_everywhere(dio, try_write, |_| ground.settle()).unwrap();
        let batch = || {
            price.set(price.get() + 1);
            let both = ["b", "c"].map(|id| WriteOp::patch(id, record! { "price" => price.get() }));
            dio.write_batch(both.into())
        };
        dropped_everywhere(dio, batch, |_| {
            ground.settle();
            let [b, c] = ["b", "c"].map(|id| ground.at_source(id));
            assert!(b == c || (b, c) == (Some(10), Some(20)), "all or none: {b:?} {c:?}");
        })
        .unwrap();
        assert_eq!(ground.at_source("b"), Some(price.get()));
    });
}

#[test]
fn what_a_full_queue_keeps_waiting_is_not_done_once_its_future_is_gone() {
    in_time(|| {
        let ground = Ground::over(Lens::new().write_queue_capacity(1), "drop-full");
        let dio = &ground.dio;
        let held = ground.source.hold(Call::Patch, Point::BeforeWork);
        let first = pollster::block_on(dio.write(WriteOp::patch("a", record! { "price" => 1 }))).unwrap();
        held.wait_until_held(1);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut write = Box::pin(dio.write(WriteOp::patch("b", record! { "price" => 1 })));
        let ops = vec![WriteOp::patch("b", record! { "price" => 1 }), WriteOp::delete("c")];
        let mut batch = Box::pin(dio.write_batch(ops));
        for _ in 0..20 {
            assert!(write.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert!(batch.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            until("the calls have been made", || jobs(dio) == 0);
        }
        drop((write, batch, waker));
        assert_eq!(Arc::strong_count(&wakes), 1);
        drop(held);
        pollster::block_on(first.wait()).unwrap();
        ground.settle();
        assert_eq!((ground.at_source("b"), ground.at_source("c")), (Some(10), Some(20)));
        assert_eq!(ground.source.calls(Call::Patch), 1);
    });
}

#[test]
fn a_call_that_has_not_begun_is_taken_back() {
    in_time(|| {
        let ground = Ground::new("drop-early");
        let (dio, backend) = (&ground.dio, &ground.backend);
        // Both threads of the pool stand still in the storage.
        let held = backend.hold(Storage::Lookup);
        let cache = dio.cache();
        let mut reads = [Box::pin(cache.get("nobody")), Box::pin(cache.get("no one"))];
        for read in &mut reads {
            assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        held.wait_until_held(2);
        for id in ["a", "b", "new"] {
            let (answer, wakes) = polled(1, dio.write(WriteOp::upsert(id, record! { "price" => 1 })));
            assert!(answer.is_none());
            assert_eq!((jobs(dio), Arc::strong_count(&wakes)), (0, 1));
        }
        let (answer, _) = polled(1, dio.patched("a", record! { "price" => 1 }));
        assert!(answer.is_none());
        // And one that is let wait is done.
        let mut waiting = Box::pin(dio.patched("c", product("Chain", 77)));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(jobs(dio), 1);
        drop(held);
        pollster::block_on(waiting).unwrap();
        for read in reads {
            assert_eq!(pollster::block_on(read).unwrap(), None);
        }
        assert_eq!((ground.cached("a"), ground.cached("c"), ground.cached("new")), (Some(30), Some(77), None));
        assert_eq!(ground.source.calls(Call::Upsert), 0);
    });
}

#[test]
fn every_other_call_leaves_nothing_behind() {
    in_time(|| {
        let ground = Ground::new("drop-calls");
        let (dio, lens, cache) = (&ground.dio, &ground.lens, ground.dio.cache());
        let nothing = |_: bool| {};
        dropped_everywhere(dio, || dio.refresh(), nothing).unwrap();
        dropped_everywhere(dio, || dio.reconcile(vec![("a".to_owned(), product("Anvil", 30))]), nothing).unwrap();
        dropped_everywhere(dio, || dio.patched("d", product("Drum", 1)), nothing).unwrap();
        dropped_everywhere(dio, || dio.handle_event(ChangeEvent::Deleted { id: "d".into() }), nothing).unwrap();
        dropped_everywhere(dio, || dio.flush(), nothing).unwrap();
        dropped_everywhere(dio, || cache.get("a"), nothing).unwrap();
        dropped_everywhere(dio, || cache.list(), nothing).unwrap();
        dropped_everywhere(dio, || cache.count(), nothing).unwrap();
        dropped_everywhere(dio, || cache.insert("e", product("E", 1)), nothing).unwrap();
        dropped_everywhere(dio, || cache.insert_many(vec![("f".to_owned(), product("F", 1))]), nothing).unwrap();
        dropped_everywhere(dio, || cache.remove("f"), nothing).unwrap();
        let view = dropped_everywhere(dio, || dio.table_scenery().sort("price", SortDir::Asc).open(), nothing).unwrap();
        dropped_everywhere(dio, || dio.value_scenery().sum("price").open(), nothing).unwrap();
        dropped_everywhere(dio, || dio.record_scenery("a"), nothing).unwrap();
        dropped_everywhere(dio, || view.row(0), nothing).unwrap();
        dropped_everywhere(dio, || view.rows(0..2), nothing).unwrap();
        dropped_everywhere(dio, || view.position_of("a"), nothing).unwrap();
        let (facade, master) = (dio.vista(), dio.master());
        dropped_everywhere(dio, || facade.list_values(), nothing).unwrap();
        dropped_everywhere(dio, || master.get_value("a"), nothing).unwrap();
        let written = |_: bool| {
            ground.settle();
            assert_eq!(ground.cached("g"), ground.at_source("g"));
        };
        dropped_everywhere(dio, || facade.upsert_value("g", record! { "price" => 5 }), written).unwrap();
        assert_eq!(ground.at_source("g"), Some(5));
        dropped_everywhere(dio, || dio.wait_for_writes(), nothing).unwrap();
        let table = std::cell::Cell::new(0);
        let made = dropped_everywhere(
            dio,
            || {
                table.set(table.get() + 1);
                lens.make_dio(products(&format!("drop-make-{}", table.get())))
            },
            nothing,
        );
        assert_eq!(pollster::block_on(made.unwrap().cache().count()).unwrap(), 3);
        dropped_everywhere(dio, || AsyncLens::build(Lens::new().in_memory()), nothing).unwrap();
        dropped_everywhere(dio, || lens.forget("nothing"), nothing).unwrap();
        until("the Dios whose making was given up are closed", || {
            diorama::live_threads().iter().filter(|name| name.starts_with("drop-make-")).count() == 0
        });
    });
}

#[test]
fn a_refresh_goes_on_without_those_who_asked_for_it() {
    in_time(|| {
        let ground = Ground::new("drop-refresh");
        let dio = &ground.dio;
        ground.plain().master().upsert_value("d", &product("Drum", 4)).unwrap();
        let held = ground.source.hold(Call::List, Point::BeforeWork);
        let (answer, wakes) = polled(1, dio.refresh());
        held.wait_until_held(1);
        assert_eq!((answer.is_none(), Arc::strong_count(&wakes)), (true, 1));
        let view = pollster::block_on(dio.table_scenery().open()).unwrap();
        drop(held);
        wait_for(&view, "the new row", |rows| rows.row_count() == 4);
    });
}

#[test]
fn a_closing_goes_on_without_who_asked_for_it() {
    in_time(|| {
        for polls in 0..2 {
            let ground = Ground::new("drop-close");
            let view = pollster::block_on(ground.dio.table_scenery().open()).unwrap();
            let change = start("a wait", {
                let view: TableScenery = (*view).clone();
                move || view.wait_for_change(view.generation(), Some(SOON)).map_err(|error| error.kind())
            });
            let (answer, _) = polled(polls, ground.dio.close(SOON));
            assert!(answer.is_none());
            if polls == 0 {
                assert_eq!(ground.plain().cache().count().unwrap(), 3, "it was never asked for");
                ground.plain().close(SOON).unwrap();
            }
            assert_eq!(change.end(), Err(ErrorKind::Closed));
        }
    });
}

#[test]
fn waits_for_what_does_not_come_leave_nothing() {
    in_time(|| {
        let ground = Ground::new("drop-waits");
        let dio = &ground.dio;
        let held = ground.source.hold(Call::Patch, Point::BeforeWork);
        let ticket = pollster::block_on(dio.write(WriteOp::patch("a", record! { "price" => 1 }))).unwrap();
        let view = pollster::block_on(dio.table_scenery().open()).unwrap();
        let record = pollster::block_on(dio.record_scenery("b")).unwrap();
        let sum = pollster::block_on(dio.value_scenery().sum("price").open()).unwrap();
        held.wait_until_held(1);
        let never = Generation(u64::MAX);
        let views = [(&view as &(dyn Scenery + Sync), never), (&record, never), (&sum, never)];
        let mut events = dio.subscribe_events();
        let mut generations = view.generations();
        assert!(pollster::block_on(next(&mut generations)).is_some());
        let mut changes = view.change_sets();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        for polls in 0..4 {
            let mut waits: Vec<std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>> = vec![
                Box::pin(async { drop(view.wait_for_generation(never).await) }),
                Box::pin(async { drop(record.wait_for_change(never).await) }),
                Box::pin(async { drop(sum.wait_for_seq(Seq(u64::MAX)).await) }),
                Box::pin(async { drop(dio.wait_for_seq(Seq(u64::MAX)).await) }),
                Box::pin(async { drop(ticket.wait().await) }),
                Box::pin(async { drop(dio.wait_for_writes().await) }),
                Box::pin(async { drop(wait_any(&views).await) }),
                Box::pin(async { drop(next(&mut events).await) }),
                Box::pin(async { assert!(next(&mut generations).await.is_none()) }),
                Box::pin(async { drop(next(&mut changes).await) }),
            ];
            for _ in 0..polls {
                for (number, wait) in waits.iter_mut().enumerate() {
                    let poll = wait.as_mut().poll(&mut Context::from_waker(&waker));
                    assert!(poll.is_pending(), "wait {number}");
                }
            }
            drop(waits);
        }
        drop((events, generations, changes));
        drop(waker);
        assert_eq!(Arc::strong_count(&wakes), 1);
        drop(held);
        pollster::block_on(ticket.wait()).unwrap();
        assert_eq!(wakes.count(), 0, "nobody waits any more");
    });
}
