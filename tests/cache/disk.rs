//! C1, C5, C7, C9, L8: one environment a directory, private files, durable when told, and nothing left when forgotten.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use diorama::cache::{CacheBackend, CacheBatch, LmdbBackend, LmdbTestOptions};
use diorama::{ErrorKind, RowNo};

const CHILD: &str = "DIORAMA_TEST_CACHE_CHILD";

fn put(row: u64, id: &str, bytes: impl Into<Arc<[u8]>>) -> CacheBatch {
    let mut batch = CacheBatch::default();
    batch.put(RowNo(row), id, bytes);
    batch
}

/// Runs one test of this file in a process of its own, with a directory to work on; without one it returns at once.
fn run_child(test: &str, directory: &Path) -> std::process::Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, directory)
        .output()
        .unwrap()
}

fn child_directory() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

#[test]
fn a_path_opened_twice_is_one_environment_however_it_is_written() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("cache");
    let one = LmdbBackend::open(&directory).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&directory, root.path().join("link")).unwrap();
    let spelled = if cfg!(unix) { root.path().join("link") } else { directory.join(".") };
    let two = LmdbBackend::open(spelled).unwrap();
    assert_eq!(one.location(), two.location());
    let table = one.open_table("t").unwrap();
    table.apply(&put(1, "id", *b"bytes")).unwrap();
    assert_eq!(two.open_table("t").unwrap().count().unwrap(), 1);
    drop((one, table));
    assert_eq!(two.open_table("t").unwrap().count().unwrap(), 1, "closing one handle leaves the other whole");
}

#[cfg(target_os = "linux")]
#[test]
fn the_last_handle_dropped_closes_every_file() {
    let open_files = |directory: &Path| -> Vec<PathBuf> {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        let files = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        files.filter(|file| file.starts_with(directory)).collect()
    };
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().canonicalize().unwrap();
    let backend = LmdbBackend::open(&directory).unwrap();
    let again = LmdbBackend::open(&directory).unwrap();
    let table = backend.open_table("t").unwrap();
    table.apply(&put(1, "id", *b"bytes")).unwrap();
    backend.forget_table("t").unwrap();
    table.apply(&put(1, "id", *b"bytes")).unwrap();
    drop((backend, again));
    assert_eq!(table.count().unwrap(), 1, "a table keeps its backend open");
    assert!(!open_files(&directory).is_empty());
    drop(table);
    assert_eq!(open_files(&directory), Vec::<PathBuf>::new());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(directory.to_str().unwrap()), "no file stays mapped");
}

#[test]
fn threads_that_open_and_close_one_path_at_once_never_meet_an_error() {
    let root = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        for number in 0..4_u64 {
            let root = root.path();
            scope.spawn(move || {
                for round in 0..25 {
                    let backend = LmdbBackend::open(root).unwrap();
                    let table = backend.open_table("t").unwrap();
                    table.apply(&put(number, &number.to_string(), *b"bytes")).unwrap();
                    assert!(table.count().unwrap() >= 1, "in round {round}");
                }
            });
        }
    });
    let backend = LmdbBackend::open(root.path()).unwrap();
    assert_eq!(backend.open_table("t").unwrap().count().unwrap(), 4);
}

#[test]
fn a_second_process_gets_a_clear_error_and_does_no_harm() {
    let root = tempfile::tempdir().unwrap();
    let backend = LmdbBackend::open(root.path()).unwrap();
    let table = backend.open_table("t").unwrap();
    table.apply(&put(1, "id", *b"bytes")).unwrap();
    let output = run_child("disk::child_that_may_not_open", root.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(table.count().unwrap(), 1);
    drop((backend, table));
    let output = run_child("disk::child_that_writes_without_closing", root.path());
    assert!(!output.status.success(), "the child ends by aborting");
    let table = LmdbBackend::open(root.path()).unwrap().open_table("t").unwrap();
    assert_eq!(table.count().unwrap(), 3, "the lock of a process that died is gone, and what it applied is there");
}

#[test]
fn child_that_may_not_open() {
    let Some(directory) = child_directory() else { return };
    let Err(error) = LmdbBackend::open(&directory) else { panic!("a second process must not open the cache") };
    assert_eq!(error.kind(), ErrorKind::Cache);
    assert!(error.message().contains("another process"), "{error}");
    assert_eq!(error.context("path").map(PathBuf::from), Some(directory.canonicalize().unwrap()));
}

#[test]
fn child_that_writes_without_closing() {
    let Some(directory) = child_directory() else { return };
    let backend = LmdbBackend::open(directory).unwrap();
    let table = backend.open_table("t").unwrap();
    table.apply(&put(2, "two", *b"bytes")).unwrap();
    table.apply(&put(3, "three", *b"bytes")).unwrap();
    std::process::abort();
}

/// All rows of a version, so that half a batch would show.
fn version(version: u64) -> CacheBatch {
    let mut batch = CacheBatch { clear: version.is_multiple_of(3), ..CacheBatch::default() };
    for row in 0..60 {
        batch.put(RowNo(row), format!("id {row}"), vec![version as u8; 200 + version as usize % 50 * 30]);
    }
    batch.set_meta("version", version.to_be_bytes());
    batch
}

#[test]
fn a_process_killed_between_or_within_batches_leaves_a_whole_one_and_no_less_than_it_had_applied() {
    let root = tempfile::tempdir().unwrap();
    let mut applied = 0;
    for kill_after in [1, 2, 5, 9, 14, 30] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::child_that_is_killed", "--nocapture"])
            .env(CHILD, root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let versions = lines.filter_map(|line| line.unwrap().strip_prefix("applied ")?.parse::<u64>().ok());
        let told = versions.take(kill_after).last();
        child.kill().unwrap();
        child.wait().unwrap();
        applied = told.unwrap().max(applied);

        let backend = LmdbBackend::open(root.path()).unwrap();
        assert!(backend.warnings().is_empty(), "{:?}", backend.warnings());
        let table = backend.open_table("t").unwrap();
        let found = u64::from_be_bytes(table.meta("version").unwrap().unwrap().try_into().unwrap());
        assert!(found >= applied, "version {applied} was applied, {found} is there");
        let mut rows = 0;
        let scanned = table.scan(RowNo(0), &mut |row, bytes| {
            assert!(row.0 == rows && bytes.iter().all(|byte| *byte == found as u8), "row {row} of version {found}");
            rows += 1;
            ControlFlow::Continue(())
        });
        scanned.unwrap();
        assert_eq!((rows, table.count().unwrap()), (60, 60));
        assert_eq!(table.lookup("id 59").unwrap(), Some(RowNo(59)));
        applied = found;
    }
}

#[test]
fn child_that_is_killed() {
    let Some(directory) = child_directory() else { return };
    // Small, so that some are killed while the map grows.
    let options = LmdbTestOptions { map_size: 1 << 16, max_map_size: 1 << 30, collide_long_ids: false };
    let backend = LmdbBackend::open_for_tests(directory, options).unwrap();
    let table = backend.open_table("t").unwrap();
    let before = table.meta("version").unwrap().map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
    for number in before + 1..before + 10_000 {
        table.apply(&version(number)).unwrap();
        println!("applied {number}");
    }
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("a").join("b");
    let backend = LmdbBackend::open(&directory).unwrap();
    let table = backend.open_table("t").unwrap();
    table.apply(&put(1, "id", *b"bytes")).unwrap();
    backend.forget_table("t").unwrap();
    table.apply(&put(1, "id", *b"bytes")).unwrap();
    let modes_are_private = || {
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&root.path().join("a")), 0o700);
        let files: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 3, "{files:?}");
        for file in files {
            assert_eq!(mode(&file), 0o600, "{file:?}");
        }
    };
    modes_are_private();
    drop((table, backend));
    // A file that was made more open is closed again when the cache is opened.
    fs::set_permissions(directory.join("rows.mdb"), fs::Permissions::from_mode(0o644)).unwrap();
    let _backend = LmdbBackend::open(&directory).unwrap();
    modes_are_private();
}

fn files_with(directory: &Path, marker: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let holds = |path: &PathBuf| fs::read(path).unwrap().windows(marker.len()).any(|bytes| bytes == marker.as_bytes());
    files.filter(holds).collect()
}

#[test]
fn forgetting_a_table_leaves_none_of_its_bytes_in_any_file() {
    const MARKER: &str = "sEcReT-mArKeR";
    for map_size in [1 << 16, 1 << 30] {
        let root = tempfile::tempdir().unwrap();
        // A file set aside may hold the table's rows as well.
        fs::write(root.path().join("rows.mdb"), MARKER.repeat(1000)).unwrap();
        let options = LmdbTestOptions { map_size, max_map_size: 1 << 30, collide_long_ids: false };
        let backend = LmdbBackend::open_for_tests(root.path(), options).unwrap();
        let secret = backend.open_table(&format!("name {MARKER}")).unwrap();
        let kept = backend.open_table("kept").unwrap();
        for round in 0..10_u64 {
            let mut batch = CacheBatch::default();
            for row in 0..50 {
                let long = if row % 10 == 0 { "l".repeat(1000) } else { String::new() };
                batch.put(
                    RowNo(round * 50 + row),
                    format!("{MARKER}{round}/{row}{long}"),
                    MARKER.repeat(30).into_bytes(),
                );
            }
            batch.set_meta(format!("{MARKER} key"), MARKER);
            secret.apply(&batch).unwrap();
            kept.apply(&put(round, &round.to_string(), vec![b'k'; 3000])).unwrap();
            if round % 3 == 0 {
                secret.apply(&CacheBatch { clear: true, ..CacheBatch::default() }).unwrap();
            }
        }
        assert_eq!(files_with(root.path(), MARKER).len(), 2);
        let before = backend.file_size().unwrap();
        backend.forget_table(secret.name()).unwrap();
        assert_eq!(files_with(root.path(), MARKER), Vec::<PathBuf>::new());
        assert_eq!(kept.count().unwrap(), 10);
        assert!(backend.file_size().unwrap() < before, "the rewritten file is smaller");
        kept.apply(&put(99, "after", *b"bytes")).unwrap();
        drop((backend, secret, kept));
        let backend = LmdbBackend::open(root.path()).unwrap();
        assert!(backend.warnings().is_empty());
        assert_eq!(backend.open_table("kept").unwrap().count().unwrap(), 11);
        assert_eq!(backend.tables().unwrap(), ["kept"]);
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn readers_go_on_while_a_table_is_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let backend = LmdbBackend::open(root.path()).unwrap();
    let kept = backend.open_table("kept").unwrap();
    let mut batch = CacheBatch::default();
    for row in 0..500 {
        batch.put(RowNo(row), row.to_string(), vec![row as u8; 500]);
    }
    kept.apply(&batch).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut row = 0;
                while !stop.load(Ordering::Acquire) {
                    row = (row + 1) % 500;
                    assert_eq!(kept.get(RowNo(row)).unwrap().unwrap()[0], row as u8);
                    assert_eq!(kept.lookup(&row.to_string()).unwrap(), Some(RowNo(row)));
                }
            });
        }
        // The readers end with this, also when an assertion fails.
        let _stop = SetOnDrop(&stop);
        for round in 0..10 {
            let table = backend.open_table(&format!("forgotten {round}")).unwrap();
            table.apply(&batch).unwrap();
            backend.forget_table(table.name()).unwrap();
        }
    });
}

#[test]
fn a_forgetting_that_was_cut_off_is_finished_when_the_cache_is_opened() {
    const MARKER: &str = "sEcReT-mArKeR";
    let root = tempfile::tempdir().unwrap();
    {
        let backend = LmdbBackend::open(root.path()).unwrap();
        let table = backend.open_table("t").unwrap();
        table.apply(&put(1, "id", MARKER.repeat(500).into_bytes())).unwrap();
        table.apply(&CacheBatch { clear: true, ..CacheBatch::default() }).unwrap();
        // Where the new file is to be made, something stands in the way.
        fs::create_dir(root.path().join("rows.mdb-new")).unwrap();
        let error = backend.forget_table("t").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cache);
        assert_eq!(table.count().unwrap(), 0);
        table.apply(&put(2, "new", *b"bytes")).unwrap();
        assert_eq!(table.count().unwrap(), 1, "the cache goes on working");
        assert_eq!(files_with_plain(root.path(), MARKER), 1);
    }
    {
        let backend = LmdbBackend::open(root.path()).unwrap();
        assert_eq!(backend.warnings().len(), 1, "it still can't be finished, and says so");
    }
    fs::remove_dir(root.path().join("rows.mdb-new")).unwrap();
    let backend = LmdbBackend::open(root.path()).unwrap();
    assert!(backend.warnings().is_empty());
    assert_eq!(files_with_plain(root.path(), MARKER), 0);
    assert_eq!(backend.open_table("t").unwrap().count().unwrap(), 1);
}

#[test]
fn long_ids_of_one_hash_stay_apart() {
    let root = tempfile::tempdir().unwrap();
    let options = LmdbTestOptions { map_size: 1 << 24, max_map_size: 1 << 30, collide_long_ids: true };
    let id = |number: u64| format!("{}{number}", "x".repeat(1000));
    {
        let table = LmdbBackend::open_for_tests(root.path(), options).unwrap().open_table("t").unwrap();
        let mut batch = CacheBatch::default();
        for number in 0..20 {
            batch.put(RowNo(number), id(number), *b"bytes");
        }
        batch.delete(RowNo(4), id(4));
        batch.delete(RowNo(99), id(5));
        table.apply(&batch).unwrap();
        table.apply(&put(100, &id(6), *b"moved")).unwrap();
    }
    let table = LmdbBackend::open_for_tests(root.path(), options).unwrap().open_table("t").unwrap();
    for number in 0..20 {
        let expected = match number {
            4 => None,
            6 => Some(RowNo(100)),
            number => Some(RowNo(number)),
        };
        assert_eq!(table.lookup(&id(number)).unwrap(), expected, "of the id that ends in {number}");
    }
    assert_eq!(table.lookup(&id(20)).unwrap(), None, "the hash alone is not the id");
}

fn files_with_plain(directory: &Path, marker: &str) -> usize {
    let bytes = fs::read(directory.join("rows.mdb")).unwrap();
    usize::from(bytes.windows(marker.len()).any(|window| window == marker.as_bytes()))
}
