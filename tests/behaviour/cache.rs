//! C: what a Dio finds in its cache on the disk after a restart, a crash and damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::{Column, ColumnType, Schema};

use crate::support::*;

const FILE: &str = "rows.mdb";

fn is_damage(warnings: &[Error]) -> bool {
    warnings.len() == 1
        && warnings[0].context("path").is_some_and(|path| Path::new(path).file_name().is_some_and(|name| name == FILE))
}

// ---- C1 ------------------------------------------------------------------------------------------------------------

#[test]
fn c1_rows_completeness_refresh_time_and_total_survive_a_restart() {
    on_both(|cache| {
        let source = products("c1");
        let (clock, hands) = Clock::manual();
        hands.set_wall_ms(1_700_000_000_123);
        let lens = cache.lens().clock(clock).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let before = dio.status();
        assert_eq!((before.warm_start, before.complete, before.total), (false, true, Some(3)));
        let at = before.last_refresh.unwrap();
        assert_eq!(at.duration_since(std::time::UNIX_EPOCH).unwrap(), Duration::from_millis(1_700_000_000_123));
        dio.write(WriteOp::upsert("d", product("Drum", 15))).unwrap().wait(SOON).unwrap();
        dio.patched("e", product("Egg", 16)).unwrap();
        let seq = dio.seq();
        drop(dio);
        assert!(lens.close(SOON).unwrap().is_closed());

        source.set_offline(true);
        let (clock, hands) = Clock::manual();
        hands.set_wall_ms(1_800_000_000_000);
        let lens = cache.lens().clock(clock).build().unwrap();
        let dio = lens.make_dio(source.clone()).unwrap();
        let status = dio.status();
        assert_eq!((status.warm_start, status.complete, status.total), (true, true, Some(3)));
        assert_eq!((status.last_refresh, status.rows), (Some(at), 5));
        assert!(dio.seq() >= seq, "a Seq is never given twice");
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20", "d=15", "e=16"]);
        assert_eq!(dio.vista().list_values().unwrap().len(), 5, "the facade answers offline, too");
        let view = dio.table_scenery().open().unwrap();
        assert_eq!(ids(&view.snapshot()), ["a", "b", "c", "d", "e"], "in the order of arrival");
        assert!(matches!(view.load_state(), LoadState::Ready));
    });
}

#[test]
fn c1_changes_after_a_restart_never_meet_rows_or_numbers_of_the_last_run() {
    on_both(|cache| {
        let source = products("c1-again");
        for run in 0..5_i64 {
            let lens = cache.lens().build().unwrap();
            let dio = lens.make_dio(source.clone()).unwrap();
            dio.refresh().unwrap();
            let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
            dio.write(WriteOp::upsert(format!("run {run}"), product("Run", 100 + run))).unwrap().wait(SOON).unwrap();
            dio.write(WriteOp::delete(format!("run {}", run - 2))).unwrap().wait(SOON).unwrap();
            let mut expected = vec!["b=10".to_owned(), "c=20".to_owned(), "a=30".to_owned()];
            expected.extend((0.max(run - 1)..=run).map(|run| format!("run {run}={}", 100 + run)));
            assert_eq!(prices(&view.snapshot()), expected, "run {run}");
            assert!(lens.close(SOON).unwrap().is_closed());
        }
    });
}

// ---- C6 ------------------------------------------------------------------------------------------------------------

/// Fills a cache, spoils its file, and opens it again: a warning that names the file, which is set aside, and the rows are
/// fetched again.
fn spoiled_is_set_aside_and_rebuilt(spoil: impl Fn(&Path)) {
    let cache = Cache::disk();
    let source = many("c6", 2_000);
    let lens = cache.lens().build().unwrap();
    drop(lens.make_dio(source.clone()).unwrap());
    assert!(lens.warnings().is_empty());
    assert!(lens.close(SOON).unwrap().is_closed());

    let directory = cache.path().unwrap();
    spoil(&directory.join(FILE));
    let bad = fs::read(directory.join(FILE)).unwrap();
    let lens = cache.lens().build().unwrap();
    let warnings = lens.warnings();
    assert!(is_damage(&warnings), "{warnings:?}");
    let aside = PathBuf::from(warnings[0].context("set aside as").unwrap());
    assert!(fs::read(aside).unwrap() == bad, "the bad file is kept as it was");
    let dio = lens.make_dio(source.clone()).unwrap();
    assert!(!dio.status().warm_start);
    assert_eq!((dio.status().rows, source.calls(Call::List)), (2_000, 2), "rebuilt from the source");
    dio.write(WriteOp::delete("row 0")).unwrap().wait(SOON).unwrap();
    drop(dio);
    assert!(lens.close(SOON).unwrap().is_closed());

    source.set_offline(true);
    let lens = cache.lens().build().unwrap();
    assert!(lens.warnings().is_empty(), "told once");
    assert_eq!(lens.make_dio(source).unwrap().status().rows, 1_999);
}

#[test]
fn c6_a_truncated_cache_file_is_set_aside_with_a_warning_and_rebuilt_from_the_source() {
    in_time(|| {
        for keep in [0_u64, 100, 5_000, 40_000] {
            spoiled_is_set_aside_and_rebuilt(|file| {
                fs::OpenOptions::new().write(true).open(file).unwrap().set_len(keep).unwrap();
            });
        }
    });
}

#[test]
fn c6_a_foreign_cache_file_is_set_aside_with_a_warning_and_rebuilt_from_the_source() {
    in_time(|| spoiled_is_set_aside_and_rebuilt(|file| fs::write(file, "SQLite format 3\0".repeat(999)).unwrap()));
}

#[test]
fn c6_a_cache_file_of_a_newer_format_is_set_aside_with_a_warning_and_rebuilt_from_the_source() {
    in_time(|| {
        spoiled_is_set_aside_and_rebuilt(|file| {
            // The key of the format's number, and behind it that number.
            let key = b"\0\0\0\0diorama format";
            let mut bytes = fs::read(file).unwrap();
            let places: Vec<usize> = (0..bytes.len() - key.len()).filter(|at| bytes[*at..].starts_with(key)).collect();
            assert!(!places.is_empty());
            for at in places {
                let number = at + key.len();
                bytes[number..number + 4].copy_from_slice(&7_777_u32.to_be_bytes());
            }
            fs::write(file, bytes).unwrap();
        });
    });
}

#[test]
fn c6_rows_of_another_schema_are_dropped_and_fetched_again() {
    on_both(|cache| {
        let schema =
            |kind| Schema::new("id").with(Column::new("name", ColumnType::Text)).with(Column::new("price", kind));
        let source = |kind| products("c6-schema").with_source_key("shop").with_schema(schema(kind));
        let lens = cache.lens().build().unwrap();
        let other = products("c6-untouched");
        drop(lens.make_dio(source(ColumnType::Int)).unwrap());
        drop(lens.make_dio(other.clone()).unwrap());
        assert!(lens.close(SOON).unwrap().is_closed());

        let lens = cache.lens().on_start_blocking(false).build().unwrap();
        let changed = source(ColumnType::Float);
        let held = changed.hold(Call::List);
        let dio = lens.make_dio(changed).unwrap();
        let status = dio.status();
        assert_eq!((status.rows, status.complete, status.last_refresh), (0, false, None));
        let warnings = lens.warnings();
        assert!(
            warnings
                .iter()
                .any(|warning| warning.context("table") == Some("c6-schema")
                    && warning.message().contains("another schema")),
            "{warnings:?}"
        );
        let view = dio.table_scenery().open().unwrap();
        assert_eq!(view.row_count(), 0);
        held.release();
        wait_for(&view, "the rows fetched again", |rows| rows.row_count() == 3);
        other.set_offline(true);
        assert_eq!(cached(&lens.make_dio(other).unwrap()).len(), 3, "another table stays");
        drop(dio);
        assert!(lens.close(SOON).unwrap().is_closed());

        let lens = cache.lens().build().unwrap();
        let same = source(ColumnType::Float);
        same.set_offline(true);
        assert!(lens.make_dio(same).unwrap().status().warm_start, "the same schema is warm");
    });
}

// ---- C9 ------------------------------------------------------------------------------------------------------------

const ROLE: &str = "DIORAMA_TEST_CRASHES_IN";

/// Runs the test of this name once more in a process of its own, which is to crash, with its cache in `directory`.
fn crash(test: &str, directory: &Path) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(!child.status.success(), "the child was to crash: {said}");
    assert!(said.contains("about to crash"), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
}

fn crash_now() -> ! {
    println!("about to crash");
    std::process::abort()
}

fn reopened(directory: &Path) -> (Lens, MemoryVista) {
    let lens = Lens::new().cache_at(directory).on_start_blocking(false).build().unwrap();
    assert!(lens.warnings().is_empty(), "{:?}", lens.warnings());
    let source = many("c9", 500).with_source_key("shop");
    source.set_offline(true);
    (lens, source)
}

#[test]
fn c9_what_was_flushed_is_there_after_a_crash() {
    if let Some(directory) = std::env::var_os(ROLE) {
        let lens = Lens::new().cache_at(directory).build().unwrap();
        let dio = lens.make_dio(many("c9", 500).with_source_key("shop")).unwrap();
        dio.write(WriteOp::patch("row 7", record! { "price" => -7 })).unwrap().wait(SOON).unwrap();
        dio.cache().remove("row 8").unwrap();
        dio.flush().unwrap();
        crash_now();
    }
    in_time(|| {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("cache");
        crash("cache::c9_what_was_flushed_is_there_after_a_crash", &directory);
        let (lens, source) = reopened(&directory);
        let dio = lens.make_dio(source).unwrap();
        let status = dio.status();
        assert!(status.complete && status.warm_start && status.last_refresh.is_some());
        assert_eq!((status.rows, status.total), (499, Some(500)));
        assert_eq!(dio.cache().get("row 7").unwrap().unwrap().int("price"), Some(-7));
        assert_eq!(dio.cache().get("row 8").unwrap(), None);
    });
}

#[test]
fn c9_a_crash_without_flush_loses_nothing_but_what_is_newest() {
    if let Some(directory) = std::env::var_os(ROLE) {
        let lens = Lens::new().cache_at(directory).build().unwrap();
        let dio = lens.make_dio(many("c9", 500).with_source_key("shop")).unwrap();
        dio.flush().unwrap();
        for step in 1..=200 {
            dio.cache().insert("row 7", product("step", -step)).unwrap();
            dio.cache().insert(format!("new {step}"), product("step", -step)).unwrap();
        }
        assert_eq!(dio.cache().get("row 7").unwrap().unwrap().int("price"), Some(-200), "visible before it is stored");
        crash_now();
    }
    in_time(|| {
        for _ in 0..5 {
            let root = tempfile::tempdir().unwrap();
            let directory = root.path().join("cache");
            crash("cache::c9_a_crash_without_flush_loses_nothing_but_what_is_newest", &directory);
            let (lens, source) = reopened(&directory);
            let dio = lens.make_dio(source.clone()).unwrap();
            assert!(dio.status().complete);
            let rows = dio.cache().list().unwrap();
            let new: Vec<i64> = rows
                .iter()
                .filter(|(id, _)| id.starts_with("new "))
                .map(|(_, row)| row.int("price").unwrap())
                .collect();
            assert_eq!(new, (1..=new.len() as i64).map(|step| -step).collect::<Vec<_>>(), "a prefix of the changes");
            let seven = dio.cache().get("row 7").unwrap().unwrap().int("price").unwrap();
            let expected = [-(new.len() as i64), -(new.len() as i64) - 1];
            assert!(expected.contains(&seven) || (new.is_empty() && seven == 7), "{seven}, {}", new.len());
            assert_eq!(rows.len(), 500 + new.len());
            assert_eq!(dio.status().rows as usize, rows.len());
            source.set_offline(false);
            dio.refresh().or_else(|_| dio.refresh()).unwrap();
            assert_eq!(dio.status().rows, 500);
            assert_eq!(dio.cache().get("row 7").unwrap().unwrap().int("price"), Some(7));
        }
    });
}

#[test]
fn c9_a_crash_during_the_first_copy_leaves_a_cache_that_is_known_to_be_incomplete_or_whole() {
    if let Some(directory) = std::env::var_os(ROLE) {
        let lens = Lens::new().cache_at(directory).build().unwrap();
        // Too many for one slice: stored while this goes on.
        let dio = lens.make_dio(many("c9", 60_000).with_source_key("shop")).unwrap();
        assert_eq!(dio.status().rows, 60_000);
        crash_now();
    }
    in_time(|| {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("cache");
        crash(
            "cache::c9_a_crash_during_the_first_copy_leaves_a_cache_that_is_known_to_be_incomplete_or_whole",
            &directory,
        );
        let (lens, source) = reopened(&directory);
        let dio = lens.make_dio(source).unwrap();
        let status = dio.status();
        assert_eq!(dio.cache().list().unwrap().len() as u64, status.rows);
        assert!(!status.complete || status.rows == 60_000, "{} rows are said to be all", status.rows);
    });
}
