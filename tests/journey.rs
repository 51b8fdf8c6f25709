//! The whole path once: source, cache, threads, views, edits.

use std::time::Duration;

use diorama::prelude::*;

const SOON: Duration = Duration::from_secs(20);

fn products() -> MemoryVista {
    MemoryVista::new("products", "id").with_rows([
        ("a", record! { "id" => "a", "name" => "Anvil", "price" => 30 }),
        ("b", record! { "id" => "b", "name" => "Bell", "price" => 10 }),
        ("c", record! { "id" => "c", "name" => "Chain", "price" => 20 }),
    ])
}

fn names(view: &TableScenery) -> Vec<String> {
    view.snapshot().iter().map(|row| row.text("name").unwrap_or("?").to_owned()).collect()
}

#[test]
fn rows_go_from_the_source_into_live_sorted_views_and_edits_reach_the_source() {
    let source = products();
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
    let count = dio.value_scenery().count().open().unwrap();
    let total = dio.value_scenery().sum("price").open().unwrap();
    let bell = dio.record_scenery("b").unwrap();
    assert_eq!(names(&view), ["Bell", "Chain", "Anvil"]);
    assert_eq!((count.int(), total.int()), (Some(3), Some(60)));

    let before = view.snapshot();
    let ticket = dio.write(WriteOp::patch("b", record! { "price" => 99 })).unwrap();
    let outcome = ticket.wait(SOON).unwrap();
    assert_eq!(outcome.id.as_deref(), Some("b"));
    assert_eq!(names(&view), ["Chain", "Anvil", "Bell"]);
    assert_eq!(total.int(), Some(149));
    assert_eq!(bell.record().unwrap().int("price"), Some(99));
    assert_eq!(source.row("b").unwrap().int("price"), Some(99));
    let set = view.changes_since(before.generation());
    assert_eq!(set.changes, Changes::List(vec![Change::Move { from: 0, to: 2 }]));
    assert_eq!(before.row(0).unwrap().int("price"), Some(10), "the old snapshot is frozen");

    source.outside_silently().delete("a").unwrap();
    dio.refresh().unwrap();
    assert_eq!(names(&view), ["Chain", "Bell"]);
    let report = lens.close(SOON).unwrap();
    assert!(report.is_closed(), "{report:?}");
    assert_eq!(report.delivered, 1);
}

#[test]
#[cfg(feature = "lmdb")]
fn a_warm_start_shows_rows_before_the_source_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let source = products();
    {
        let lens = Lens::new().cache_at(dir.path().join("cache")).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        dio.flush().unwrap();
        assert!(lens.close(SOON).unwrap().is_closed());
    }
    source.set_offline(true);
    let lens = Lens::new().cache_at(dir.path().join("cache")).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    assert!(dio.status().warm_start);
    let view = dio.table_scenery().sort("name", SortDir::Desc).open().unwrap();
    assert_eq!(names(&view), ["Chain", "Bell", "Anvil"]);
    assert!(dio.refresh().is_err());
    assert_eq!(view.row_count(), 3);
}
