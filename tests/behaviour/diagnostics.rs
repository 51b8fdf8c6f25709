//! E5: what anyone can read of a Dio's threads, queues, versions and views, also while something hangs.

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{Aggregate, live_threads};

use crate::support::*;

#[test]
fn e5_diagnostics_show_views_threads_queues_and_counters() {
    on_both(|cache| {
        let source = products("e5");
        let lens = cache.lens().build().unwrap();
        let dio = lens.make_dio(source).unwrap();
        let sorted =
            dio.table_scenery().sort("price", SortDir::Desc).condition(Condition::ge("price", 20)).open().unwrap();
        let count = dio.value_scenery().aggregate(Aggregate::Count).open().unwrap();
        let record = dio.record_scenery("a").unwrap();
        let held = sorted.snapshot();
        dio.patched("a", product("Apple", 31)).unwrap();
        dio.write(WriteOp::upsert("d", product("Drum", 15))).unwrap().wait(SOON).unwrap();
        dio.flush().unwrap();

        // A settled write gives its place in the queue back right after its ticket says so.
        let has_room = || dio.diagnostics().queues.iter().any(|queue| queue.name == "writes" && queue.length == 0);
        until("the write's place is free", has_room);

        let seen = dio.diagnostics();
        assert_eq!(seen.table, dio.cache_table_name());
        assert_eq!(seen.status.seq, dio.seq());
        let views: Vec<(&str, Option<usize>, &str)> =
            seen.views.iter().map(|view| (view.what.as_str(), view.rows, view.state.as_str())).collect();
        assert_eq!(
            views,
            [
                ("table where price >= 20 order by price desc", Some(2), "ready"),
                ("value Count ", None, "shows 4"),
                ("record a", None, "fresh"),
            ]
        );
        assert_eq!(seen.views[0].generation, sorted.generation());
        assert!(seen.counters.batches >= 3 && seen.counters.changed_rows >= 5, "{seen}");
        assert_eq!((seen.counters.builds, seen.counters.builds_restarted), (2, 0));
        assert_eq!((seen.counters.refreshes, seen.counters.refreshes_failed), (1, 0));
        assert_eq!((seen.counters.writes_delivered, seen.counters.writes_failed), (1, 0));
        assert!(seen.store.transactions >= 2 && seen.store.rows >= 5 && seen.store.bytes > 0, "{seen}");
        assert_eq!(seen.oldest_snapshot, Some(held.seq()), "{seen}");
        assert_eq!(seen.cache_path.is_some(), cache.path().is_some());
        let names: Vec<&str> = seen.threads.iter().map(|thread| thread.name.as_str()).collect();
        for name in ["core", "refresh", "writer"] {
            assert!(names.contains(&format!("{}:{name}", seen.table).as_str()), "{names:?}");
        }
        assert!(seen.threads.iter().all(|thread| live_threads().contains(&thread.name)), "{names:?}");
        let writes = seen.queues.iter().find(|queue| queue.name == "writes").unwrap();
        assert_eq!((writes.length, writes.capacity), (0, Some(lens.defaults().write_queue_capacity)));
        let text = seen.to_string();
        for part in ["4 rows", "complete", "price desc: generation", "writes    0 pending, 1 delivered, 0 failed"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }

        drop((sorted, count, record, held));
        dio.cache().count().unwrap();
        let after = dio.diagnostics();
        assert_eq!((after.views, after.oldest_snapshot), (vec![], None));
    });
}

#[test]
fn e5_diagnostics_answer_while_the_source_hangs_and_say_where() {
    in_time(|| {
        let source = products("e5 hangs");
        let lens = Lens::new().in_memory().build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let held = source.hold(Call::Upsert);
        let ticket = dio.write(WriteOp::upsert("d", product("Drum", 15))).unwrap();
        let behind = dio.write(WriteOp::upsert("e", product("Egg", 16))).unwrap();
        assert!(held.wait_until_held(1, SOON));
        let seen = dio.diagnostics();
        let writer = seen.threads.iter().find(|thread| thread.name.ends_with(":writer")).unwrap();
        assert_eq!(writer.inside.map(|(what, _)| what), Some("the source"), "{seen}");
        assert!(seen.to_string().contains(":writer: in the source for"), "{seen}");
        assert_eq!(seen.queues.iter().find(|queue| queue.name == "writes").unwrap().length, 2);
        assert_eq!(seen.status.pending_writes, 2);
        drop(held);
        ticket.wait(SOON).unwrap();
        behind.wait(SOON).unwrap();
        until("the writer is back", || dio.diagnostics().threads.iter().all(|thread| thread.inside.is_none()));
        assert!(lens.close(SOON).unwrap().is_closed());
        let closed = dio.diagnostics();
        assert!(closed.status.closed && closed.to_string().contains("closed"), "{closed}");
    });
}
