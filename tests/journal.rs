//! Writes over a cache on a disk: accepted means kept, whatever comes between.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{PendingWrite, RowStatus, WriteState};

const SOON: Duration = Duration::from_secs(20);

fn products() -> MemoryVista {
    let row = |id: &str, price: i64| (id.to_owned(), record! { "id" => id, "name" => id, "price" => price });
    MemoryVista::new("products", "id").with_rows([row("a", 30), row("b", 10), row("c", 20)])
}

fn lens(directory: &std::path::Path) -> Lens {
    Lens::new().cache_at(directory).build().unwrap()
}

fn shown(dio: &Dio) -> Vec<(String, i64, RowStatus)> {
    let view = dio.table_scenery().open().unwrap();
    view.snapshot().iter().map(|row| (row.id().to_owned(), row.int("price").unwrap(), row.status())).collect()
}

fn away(source: &MemoryVista) {
    source.fail_next(Call::Patch, 1_000, Error::new(ErrorKind::Unavailable, "no network"));
    source.fail_next(Call::Insert, 1_000, Error::new(ErrorKind::Unavailable, "no network"));
    source.fail_next(Call::Delete, 1_000, Error::new(ErrorKind::Unavailable, "no network"));
}

#[test]
fn w8_what_is_not_delivered_at_the_closing_is_kept_shown_at_the_next_start_and_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let source = products();
    let first = lens(directory.path());
    let dio = first.make_dio(source.clone()).unwrap();
    away(&source);
    let ticket = dio.write(WriteOp::patch("b", record! { "price" => 11 })).unwrap();
    dio.write(WriteOp::delete("a")).unwrap();
    dio.write(WriteOp::insert(record! { "name" => "d", "price" => 5 })).unwrap();
    ticket.wait_durable(SOON).unwrap();
    let report = first.close(SOON).unwrap();
    assert_eq!((report.kept, report.delivered, report.failed), (3, 0, 0), "{report:?}");
    assert!(matches!(ticket.state(), WriteState::Kept), "{ticket:?}");
    drop(dio);

    let second = lens(directory.path());
    let dio = second.make_dio(source.clone()).unwrap();
    let rows = shown(&dio);
    assert_eq!(rows.len(), 3);
    assert_eq!((rows[0].0.as_str(), rows[0].1, rows[0].2), ("b", 11, RowStatus::PendingWrite));
    assert_eq!((rows[1].0.as_str(), rows[1].1, rows[1].2), ("c", 20, RowStatus::Fresh));
    assert_eq!((rows[2].1, rows[2].2), (5, RowStatus::PendingWrite));
    let pending: Vec<PendingWrite> = dio.pending_writes();
    assert_eq!(pending.len(), 3);
    source.heal();
    for write in &pending {
        dio.retry_write(write.number).unwrap();
    }
    dio.wait_for_writes(SOON).unwrap();
    assert_eq!(source.row("b").unwrap().int("price"), Some(11));
    assert!(source.row("a").is_none());
    assert_eq!(source.row_count(), 3);
    assert!(shown(&dio).iter().all(|row| row.2 == RowStatus::Fresh), "{:?}", shown(&dio));
    assert!(dio.pending_writes().is_empty());
    assert!(second.close(SOON).unwrap().is_closed());
}
