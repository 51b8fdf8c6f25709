//! Every call of a storage.

use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::stage::{SHORT, SOON, Stage, Task, at_once, builder, on_both, product, start};
use crate::storage::{Fault, Storage};

const FAULTS: [Fault; 2] = [Fault::Error, Fault::Panic];

fn kind_of(fault: Fault) -> ErrorKind {
    match fault {
        Fault::Error => ErrorKind::Cache,
        Fault::Panic => ErrorKind::Panicked,
    }
}

fn each(what: &str, on_disk: bool, calls: &[Storage], body: impl Fn(Stage, Storage, Fault)) {
    for call in calls {
        for fault in FAULTS {
            body(Stage::new(&format!("{what}-{call:?}-{fault:?}-{on_disk}"), on_disk), *call, fault);
        }
    }
}

#[test]
fn a_storage_that_can_not_be_opened_or_read_is_an_error_of_make_dio_and_the_next_one_goes_well() {
    on_both(|on_disk| {
        each("opens", on_disk, &[Storage::OpenTable, Storage::Meta, Storage::Count], |stage, call, fault| {
            stage.storage.fail(call, fault);
            let source = MemoryVista::new(format!("{}-next", stage.name), "id").with_rows([("a", product(1))]);
            let error = stage.lens.make_dio(source.clone()).unwrap_err();
            assert_eq!(error.kind(), kind_of(fault), "{call:?}: {error}");
            assert!(error.to_string().contains(&stage.name), "{error}");
            stage.storage.heal();
            // The table was not left taken: another Lens gets it.
            let other = builder(&stage.storage, &format!("{}-other", stage.name)).build().unwrap();
            assert_eq!(other.make_dio(source.clone()).unwrap().cache().count().unwrap(), 1);
            assert!(other.close(SOON).unwrap().is_closed());
            assert_eq!(stage.lens.make_dio(source).unwrap().cache().count().unwrap(), 1);
            stage.recovers();
        });
    });
}

#[test]
fn what_can_not_be_stored_is_shown_and_kept_in_memory_until_it_can() {
    on_both(|on_disk| {
        each("stores", on_disk, &[Storage::Apply, Storage::Sync], |stage, call, fault| {
            stage.storage.fail(call, fault);
            stage.dio.write(WriteOp::patch("a", product(99))).unwrap().wait(SOON).unwrap();
            assert_eq!(stage.dio.flush().unwrap_err().kind(), kind_of(fault), "{call:?}");
            assert_eq!(stage.dio.status().cache_error.unwrap().kind(), kind_of(fault), "{call:?}");
            stage.nobody_waits(&stage.at_source());
            stage.rows.outside_silently().upsert("d", product(5)).unwrap();
            stage.dio.refresh().unwrap();
            assert_eq!(stage.shown(), stage.at_source(), "{call:?}");
            stage.recovers();
        });
    });
}

#[test]
fn a_storage_that_can_not_be_read_fails_that_read_and_what_failed_is_reported() {
    on_both(|on_disk| {
        each("reads", on_disk, &[Storage::Get, Storage::Lookup], |stage, call, fault| {
            let kind = kind_of(fault);
            let before = stage.table.snapshot();
            stage.storage.fail(call, fault);
            assert_eq!(stage.dio.cache().get("b").unwrap_err().kind(), kind, "{call:?}");
            assert_eq!(stage.dio.vista().get_value("b").unwrap_err().kind(), kind, "{call:?}");
            assert_eq!(before.row_count(), 3, "order and count need no storage");
            if call == Storage::Get {
                let row = before.row(0).unwrap();
                assert_eq!((row.status(), row.record().unwrap_err().kind()), (RowStatus::Failed, kind));
            } else {
                assert_eq!(before.position_of("b").unwrap_err().kind(), kind);
            }
            // The core needs the row as it was before: what it can't do, it says.
            assert_eq!(stage.dio.patched("b", product(12)).unwrap_err().kind(), kind, "{call:?}");
            let (generation, writes) = (stage.table.generation(), stage.source.calls(Call::Patch));
            assert_eq!(stage.dio.write(WriteOp::patch("b", product(13))).unwrap_err().kind(), kind, "{call:?}");
            let status = stage.dio.status();
            assert_eq!((status.pending_writes, status.failed_writes), (0, 0), "it was never accepted: {call:?}");
            assert_eq!((stage.table.generation(), stage.source.calls(Call::Patch)), (generation, writes), "{call:?}");
            stage.rows.outside_silently().upsert("c", product(21)).unwrap();
            assert_eq!(stage.dio.refresh().unwrap_err().kind(), kind, "{call:?}");
            assert_eq!(stage.dio.status().refresh_error.unwrap().kind(), kind);
            stage.storage.heal();
            assert_eq!(stage.table.row_count(), 3, "the views keep their rows");
            stage.recovers();
        });
    });
}

#[test]
fn a_storage_that_can_not_be_scanned_fails_who_needs_all_rows() {
    on_both(|on_disk| {
        each("scans", on_disk, &[Storage::Scan], |stage, call, fault| {
            let kind = kind_of(fault);
            let before = stage.shown();
            stage.storage.fail(call, fault);
            assert_eq!(stage.dio.cache().list().unwrap_err().kind(), kind);
            assert_eq!(stage.dio.vista().list_values().unwrap_err().kind(), kind);
            let dio = stage.dio.clone();
            let opened = at_once("a view", move || dio.table_scenery().where_eq("price", 10).open().map(drop));
            assert_eq!(opened.unwrap_err().kind(), kind);
            let dio = stage.dio.clone();
            let opened = at_once("a count", move || dio.value_scenery().count().where_eq("price", 10).open());
            assert!(opened.map_or(true, |view| view.status() == diorama::ValueStatus::Error));
            let table = stage.table.clone();
            let set = at_once("a sort", move || {
                table.set_sort([SortBy::new("id", SortDir::Asc)]).and_then(|()| table.wait_until_ready(Some(SOON)))
            });
            assert_eq!(set.unwrap_err().kind(), kind);
            assert_eq!(stage.dio.refresh().unwrap_err().kind(), kind);
            assert_eq!(stage.dio.status().refresh_error.unwrap().kind(), kind);
            assert_eq!(stage.dio.cache().clear().unwrap_err().kind(), kind);
            assert_eq!(stage.dio.write(WriteOp::delete_all()).unwrap_err().kind(), kind);
            assert_eq!((stage.dio.status().pending_writes, stage.dio.status().failed_writes), (0, 0));
            assert_eq!((stage.source.calls(Call::DeleteAll), stage.at_source().len()), (0, 3), "it was never accepted");
            assert_eq!(stage.shown(), before, "the views keep their rows");
            stage.storage.heal();
            stage.table.set_sort([SortBy::new("price", SortDir::Asc)]).unwrap();
            stage.table.wait_until_ready(Some(SOON)).unwrap();
            stage.rows.outside_silently().upsert("a", product(40)).unwrap();
            stage.recovers();
        });
    });
}

#[test]
fn a_slow_storage_makes_nobody_wait_but_who_asked_for_it() {
    on_both(|on_disk| {
        for call in [Storage::Apply, Storage::Sync] {
            let stage = Stage::new(&format!("slow-{call:?}-{on_disk}"), on_disk);
            let held = stage.storage.hold(call);
            stage.dio.write(WriteOp::patch("a", product(99))).unwrap().wait(SOON).unwrap();
            let flushed = flush(&stage);
            held.wait_until_held(1);
            stage.nobody_waits(&stage.at_source());
            stage.dio.refresh().unwrap();
            assert!(!flushed.has_ended(), "{call:?}");
            drop(held);
            assert!(flushed.end().is_ok());
            stage.recovers();
        }
    });
}

#[test]
fn a_slow_read_of_the_storage_makes_no_published_state_wait() {
    on_both(|on_disk| {
        for call in [Storage::Get, Storage::Lookup, Storage::Scan] {
            let stage = Stage::new(&format!("slow-{call:?}-{on_disk}"), on_disk);
            let held = stage.storage.hold(call);
            let dio = stage.dio.clone();
            let asked = start("who asks the storage", move || match call {
                Storage::Scan => dio.cache().list().map(drop),
                _ => dio.cache().get("b").map(drop),
            });
            held.wait_until_held(1);
            let (dio, table, sum) = (stage.dio.clone(), stage.table.clone(), stage.sum.clone());
            at_once("reads of what is published", move || {
                assert_eq!((table.row_count(), table.snapshot().row_count()), (3, 3));
                assert_eq!((dio.cache().count().unwrap(), sum.int()), (3, Some(61)));
                assert!(table.snapshot().try_row(0).is_none_or(|row| row.id() == "b"));
                assert!(!dio.status().closed);
            });
            assert!(!asked.has_ended(), "{call:?}");
            drop(held);
            assert!(asked.end().is_ok(), "{call:?}");
            stage.recovers();
        }
    });
}

#[test]
fn closing_ends_in_time_wakes_who_waits_for_a_flush_and_names_the_store_that_stands_still() {
    on_both(|on_disk| {
        for call in [Storage::Apply, Storage::Sync] {
            let stage = Stage::new(&format!("hangs-{call:?}-{on_disk}"), on_disk);
            let held = stage.storage.hold(call);
            stage.dio.write(WriteOp::patch("a", product(99))).unwrap().wait(SOON).unwrap();
            let flushed = flush(&stage);
            held.wait_until_held(1);
            let dio = stage.dio.clone();
            assert!(at_once("close the Dio", move || dio.close(SHORT).unwrap()).is_closed());
            assert_eq!(flushed.end().unwrap_err().kind(), ErrorKind::Closed, "before the storage comes back");
            let lens = stage.lens.clone();
            let report = at_once("close", move || lens.close(SHORT).unwrap());
            assert!(report.still_running.iter().all(|name| name.ends_with(":store")), "{report:?}");
            assert_eq!(report.still_running.len(), 1, "{report:?}");
            stage.nothing_runs();
            drop(held);
            // What was on its way is there for the next one.
            stage.rows.set_offline(true);
            let lens = builder(&stage.storage, &stage.name).build().unwrap();
            let dio = lens.make_dio(stage.source.clone()).unwrap();
            assert_eq!(dio.cache().get("a").unwrap().unwrap().int("price"), Some(99));
            assert!(lens.close(SOON).unwrap().is_closed());
        }
    });
}

/// What only the making of a Dio calls.
const TO_OPEN: [Storage; 3] = [Storage::OpenTable, Storage::Meta, Storage::Count];

fn make_another(stage: &Stage) -> (String, Task<diorama::Result<()>>) {
    let name = format!("{}-next", stage.name);
    let source = MemoryVista::new(name.as_str(), "id").with_rows([("a", product(1))]);
    let lens = stage.lens.clone();
    (name, start("make_dio", move || lens.make_dio(source).map(drop)))
}

#[test]
fn a_storage_that_is_slow_to_open_makes_nobody_wait_but_who_opens_it() {
    on_both(|on_disk| {
        for call in TO_OPEN {
            let stage = Stage::new(&format!("slow-to-open-{call:?}-{on_disk}"), on_disk);
            let held = stage.storage.hold(call);
            let (_, made) = make_another(&stage);
            held.wait_until_held(1);
            stage.nobody_waits(&stage.at_source());
            stage.dio.write(WriteOp::patch("a", product(99))).unwrap().wait(SOON).unwrap();
            stage.dio.refresh().unwrap();
            stage.dio.flush().unwrap();
            assert_eq!(stage.shown(), stage.at_source(), "{call:?}");
            assert!(!made.has_ended(), "{call:?}");
            drop(held);
            made.end().unwrap();
            stage.recovers();
        }
    });
}

#[test]
fn closing_ends_in_time_and_names_the_dio_whose_table_stands_still_while_it_is_opened() {
    on_both(|on_disk| {
        for call in TO_OPEN {
            let stage = Stage::new(&format!("hangs-to-open-{call:?}-{on_disk}"), on_disk);
            let held = stage.storage.hold(call);
            let (name, made) = make_another(&stage);
            held.wait_until_held(1);
            let lens = stage.lens.clone();
            let report = at_once("close", move || lens.close(SHORT).unwrap());
            assert_eq!(report.still_running, [format!("{name}:core")], "{call:?}");
            let error = stage.dio.write(WriteOp::delete("a")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed);
            assert!(!made.has_ended(), "{call:?}: it is in the storage");
            drop(held);
            // Whoever got a Dio after all has one that the closing knew of.
            let _ = made.end();
            assert!(stage.lens.close(SOON).unwrap().is_closed(), "{call:?}");
            stage.nothing_runs();
        }
    });
}

#[test]
fn closing_waits_for_no_application_thread_that_the_storage_holds() {
    on_both(|on_disk| {
        for call in [Storage::Get, Storage::Lookup, Storage::Scan] {
            let stage = Stage::new(&format!("hangs-reader-{call:?}-{on_disk}"), on_disk);
            let held = stage.storage.hold(call);
            let dio = stage.dio.clone();
            let asked = start("who asks the storage", move || match call {
                Storage::Scan => dio.cache().list().map(drop),
                _ => dio.cache().get("b").map(drop),
            });
            held.wait_until_held(1);
            let lens = stage.lens.clone();
            let report = at_once("close", move || lens.close(SHORT).unwrap());
            assert!(report.is_closed(), "{call:?}: {report:?}");
            stage.nothing_runs();
            assert!(!asked.has_ended(), "{call:?}");
            drop(held);
            if let Err(error) = asked.end() {
                assert_eq!(error.kind(), ErrorKind::Closed, "{call:?}: {error}");
            }
        }
    });
}

#[test]
fn closing_ends_in_time_and_names_the_thread_that_a_read_of_the_storage_holds() {
    on_both(|on_disk| {
        // Who reads: the core for a row as it was before, the refresher and the build thread for all rows.
        let readers = [
            (Storage::Get, "core"),
            (Storage::Lookup, "core"),
            (Storage::Scan, "refresh"),
            (Storage::Scan, "lens:build-1"),
        ];
        for (call, reader) in readers {
            let stage = Stage::new(&format!("hangs-{reader}-{call:?}-{on_disk}"), on_disk);
            let held = stage.storage.hold(call);
            let dio = stage.dio.clone();
            let asked = start("who has it read", move || match reader {
                "core" => dio.patched("b", product(12)),
                "refresh" => dio.refresh(),
                _ => dio.table_scenery().where_eq("price", 10).open().map(drop),
            });
            held.wait_until_held(1);
            let (table, sum) = (stage.table.clone(), stage.sum.clone());
            at_once("reads of what is published", move || assert_eq!((table.row_count(), sum.int()), (3, Some(61))));
            let lens = stage.lens.clone();
            let report = at_once("close", move || lens.close(SHORT).unwrap());
            let thread = if reader == "lens:build-1" {
                format!("{}-{reader}", stage.name)
            } else {
                format!("{}:{reader}", stage.name)
            };
            assert!(report.still_running.contains(&thread), "{report:?}");
            assert_eq!(stage.table.row_count(), 3, "the views keep their rows");
            if reader == "refresh" {
                assert_eq!(asked.end().unwrap_err().kind(), ErrorKind::Closed, "before the storage comes back");
                drop(held);
            } else {
                drop(held);
                let _ = asked.end();
            }
            let report = stage.lens.close(SOON).unwrap();
            assert!(report.is_closed(), "{reader}: it ends by itself: {report:?}");
            stage.nothing_runs();
        }
    });
}

#[test]
fn a_table_that_is_slow_to_forget_makes_nobody_wait_but_who_forgets_it() {
    on_both(|on_disk| {
        let stage = Stage::new(&format!("slow-forget-{on_disk}"), on_disk);
        let source = MemoryVista::new(format!("{}-other", stage.name), "id").with_rows([("a", product(1))]);
        let other = stage.lens.make_dio(source).unwrap();
        let table = other.cache_table_name().to_owned();
        assert!(other.close(SOON).unwrap().is_closed());
        let held = stage.storage.hold(Storage::ForgetTable);
        let lens = stage.lens.clone();
        let forgotten = start("forget", move || lens.forget(&table));
        held.wait_until_held(1);
        stage.nobody_waits(&stage.at_source());
        stage.dio.write(WriteOp::patch("a", product(99))).unwrap().wait(SOON).unwrap();
        stage.dio.refresh().unwrap();
        assert!(!forgotten.has_ended());
        drop(held);
        forgotten.end().unwrap();
        stage.recovers();
    });
}

#[test]
fn a_table_that_can_not_be_forgotten_is_an_error_and_can_be_forgotten_later() {
    on_both(|on_disk| {
        each("forgets", on_disk, &[Storage::ForgetTable], |stage, call, fault| {
            let source = MemoryVista::new(format!("{}-other", stage.name), "id").with_rows([("a", product(1))]);
            let other = stage.lens.make_dio(source).unwrap();
            let table = other.cache_table_name().to_owned();
            assert!(other.close(SOON).unwrap().is_closed());
            stage.storage.fail(call, fault);
            assert_eq!(stage.lens.forget(&table).unwrap_err().kind(), kind_of(fault));
            stage.storage.heal();
            stage.lens.forget(&table).unwrap();
            stage.recovers();
        });
    });
}

#[test]
fn a_dio_makes_no_other_call_of_its_storage() {
    on_both(|on_disk| {
        let stage = Stage::new(&format!("storage-calls-{on_disk}"), on_disk);
        let storage = stage.storage.clone();
        stage.recovers();
        for call in [Storage::GetMany, Storage::ScanIds] {
            assert_eq!(storage.calls(call), 0, "`{call:?}` is missing in the matrix");
        }
    });
}

fn flush(stage: &Stage) -> Task<diorama::Result<()>> {
    let dio = stage.dio.clone();
    start("flush", move || dio.flush())
}
