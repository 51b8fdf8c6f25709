use std::cell::Cell;

use super::*;
use crate::cache::{CacheBackend, MemoryBackend};
use crate::dio::versions::RowRead;
use crate::record;
use crate::scenery::signal::Scenery;
use crate::sources::MemoryVista;
use crate::sources::memory::Call;
use crate::sync::Doorbell;
use crate::value::StoredRow;
use crate::{Generation, RowNo};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_read_that_is_overtaken_never_answers_with_an_older_row_than_its_beginning() {
    let table = MemoryBackend::new().open_table("t").unwrap();
    let versions = Arc::new(Versions::new(table.clone(), Seq(0), 1 << 20, Doorbell::new()));
    let row = |seq: u64| {
        let mut row = StoredRow::encode("a", &record! { "n" => seq as i64 }, 0);
        row.set_seq(Seq(seq));
        row
    };
    let publish = |seq: u64| {
        let before = versions.row_newest(RowNo(1)).unwrap();
        if before.is_none() {
            versions.name(&Arc::from("a"), Seq(seq), None, Some(RowNo(1)));
        }
        versions.put(RowNo(1), Seq(seq), before.as_ref(), Some(row(seq)));
        versions.publish(Seq(seq));
        if let Some(before) = before {
            let replaced = versions::Replaced::Row { row: RowNo(1), from: before.seq(), size: before.size() };
            versions.supersede(Seq(seq), vec![replaced]);
        }
    };
    // The cache has the first version, memory the second, which the reader has seen.
    publish(1);
    let mut batch = crate::cache::CacheBatch::default();
    batch.put(RowNo(1), "a", row(1).as_bytes());
    table.apply(&batch).unwrap();
    versions.stored(RowNo(1), Seq(1), "a", false);
    publish(2);
    let overtaken = Cell::new(false);
    let read = at_newest(&versions, |seq| {
        if !overtaken.replace(true) {
            publish(3);
        }
        versions.find_as_of("a", seq)
    });
    match read.unwrap() {
        RowRead::Found(row) => assert_eq!(row.seq(), Seq(3)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_source_tells_is_taken_in_though_a_refresh_was_quicker() {
    let source = MemoryVista::new("t", "id").with_rows([("a", record! { "id" => "a", "n" => 1 })]);
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(source).unwrap();
    // What the core takes in between the call and its message.
    let row = StoredRow::encode("a", &record! { "id" => "a", "n" => 3 }, 0);
    dio.cache().insert("a", record! { "id" => "a", "n" => 2 }).unwrap();
    dio.inner().change(vec![RowChange::Put(row)], Cause::Outside, Announce::EachRow, Some(JUST_NOW)).unwrap();
    assert_eq!(dio.cache().get("a").unwrap().unwrap().int("n"), Some(3));
}

#[test]
fn an_invalidation_during_a_refresh_is_followed_by_another_refresh() {
    let source = MemoryVista::new("t", "id").with_rows([("a", record! { "id" => "a", "n" => 1 })]);
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    let view = dio.record_scenery("a").unwrap();
    let held = source.hold_answer(Call::List);
    dio.inner().request_refresh().unwrap();
    assert!(held.wait_until_held(1, SOON));
    // The refresh under way has read the old row already.
    source.outside_silently().upsert("a", record! { "id" => "a", "n" => 2 }).unwrap();
    dio.invalidate_all();
    held.release();
    let mut seen = Generation(0);
    while view.record().unwrap().int("n") != Some(2) || view.status() == crate::RecordStatus::Stale {
        seen = view.wait_for_change(seen, Some(SOON)).unwrap();
    }
}

#[test]
fn a_list_in_a_callback_has_its_rows_in_the_place_of_the_old_ones() {
    let rows = ["a", "b", "c"].map(|id| (id, record! { "id" => id, "n" => 1 }));
    let lens = Lens::new()
        .in_memory()
        .on_event(|dio, _| {
            let cache = dio.cache();
            cache.insert("b", record! { "id" => "b", "n" => 2 })?;
            cache.remove("c")?;
            cache.insert("d", record! { "id" => "d", "n" => 2 })?;
            let listed: Vec<(String, Option<i64>)> =
                cache.list()?.into_iter().map(|(id, row)| (id, row.int("n"))).collect();
            assert_eq!(listed, [("a".into(), Some(1)), ("b".into(), Some(2)), ("d".into(), Some(2))]);
            Ok(())
        })
        .build()
        .unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id").with_rows(rows)).unwrap();
    dio.handle_event(ChangeEvent::Invalidated).unwrap();
    assert_eq!(dio.cache().count().unwrap(), 3);
}

#[test]
fn asking_whether_anything_moved_takes_no_lock() {
    let lens = crate::Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id")).unwrap();
    let view = dio.table_scenery().open().unwrap();
    // A question that took one of these would stop here for ever.
    let _published = dio.inner().reader.versions.published_notifier().hold_lock();
    let _moved = view.signal().hold_locks();
    assert_eq!((dio.seq(), view.generation()), (dio.seq(), view.generation()));
    assert_eq!(dio.view_moves(), dio.view_moves());
}

#[test]
fn a_closing_is_over_in_its_time_though_a_first_write_waits_for_the_disk() {
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id")).unwrap();
    // Whoever opens the journal for the first write holds this.
    let starting = dio.inner().writer_started.lock();
    let (report, reports) = crossbeam_channel::bounded(1);
    let closing = {
        let dio = dio.clone();
        let close = move || report.send(dio.close(Duration::from_millis(100)));
        std::thread::Builder::new().spawn(close).unwrap()
    };
    let seen = reports.recv_timeout(SOON).expect("the closing goes on beyond its time").unwrap();
    assert!(seen.still_running.contains(&"t:writer".to_owned()), "{seen:?}");
    closing.join().unwrap().unwrap();
    drop(starting);
    assert_eq!(dio.write(WriteOp::delete("a")).unwrap_err().kind(), ErrorKind::Closed);
    assert!(dio.close(SOON).unwrap().is_closed());
}
