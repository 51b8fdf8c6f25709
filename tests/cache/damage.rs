//! C6, L1: files that can't be used are set aside with a warning; paths that can't be used are errors; nothing panics.

use std::error::Error as _;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use diorama::cache::{CacheBackend, CacheBatch, LmdbBackend};
use diorama::{ErrorKind, RowNo};

const FILE: &str = "rows.mdb";

/// The offset of the first meta page's magic number, of the version behind it, and of the last page's number.
const MAGIC_AT: usize = size_of::<usize>() + 8;
const PAGE: usize = 4096;

fn fill(directory: &Path) {
    let backend = LmdbBackend::open(directory).unwrap();
    let table = backend.open_table("airports").unwrap();
    let mut batch = CacheBatch::default();
    for row in 0..2000 {
        batch.put(RowNo(row), format!("id {row}"), vec![row as u8; 100]);
    }
    table.apply(&batch).unwrap();
    backend.sync().unwrap();
}

fn set_aside(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("rows.mdb.")).collect()
}

/// Opens a directory whose file is bad: it must be set aside, byte by byte, and a fresh cache must work.
fn must_be_set_aside(directory: &Path, word: &str) {
    let bad = fs::read(directory.join(FILE)).unwrap();
    let before = set_aside(directory);
    let backend = LmdbBackend::open(directory).unwrap();
    let warnings = backend.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].kind(), ErrorKind::Corrupt);
    assert_eq!(Path::new(warnings[0].context("path").unwrap()).file_name().unwrap(), FILE);
    let aside = PathBuf::from(warnings[0].context("set aside as").unwrap());
    assert!(aside.file_name().unwrap().to_str().unwrap().starts_with(&format!("{FILE}.{word}-")), "{aside:?}");
    assert!(fs::read(&aside).unwrap() == bad, "the file set aside is the bad one, untouched");
    assert_eq!(set_aside(directory).len(), before.len() + 1, "no earlier one was overwritten");
    let table = backend.open_table("airports").unwrap();
    assert_eq!(table.count().unwrap(), 0);
    let mut batch = CacheBatch::default();
    batch.put(RowNo(1), "id", *b"bytes");
    table.apply(&batch).unwrap();
}

#[test]
fn a_file_truncated_at_any_length_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let used = LmdbBackend::open(directory.path()).unwrap().file_size().unwrap();
    let whole = fs::read(directory.path().join(FILE)).unwrap();
    let page = PAGE as u64;
    let lengths = [
        0,
        1,
        8,
        100,
        152,
        page - 1,
        page,
        page + 1,
        2 * page - 1,
        2 * page,
        3 * page,
        used / 2,
        used - page,
        used - 1,
    ];
    for length in lengths {
        fs::write(directory.path().join(FILE), &whole[..length as usize]).unwrap();
        must_be_set_aside(directory.path(), "truncated");
    }
    // What is behind the last page is no loss.
    fs::write(directory.path().join(FILE), &whole[..used as usize]).unwrap();
    let backend = LmdbBackend::open(directory.path()).unwrap();
    assert!(backend.warnings().is_empty());
    assert_eq!(backend.open_table("airports").unwrap().count().unwrap(), 2000);
}

#[test]
fn the_file_is_as_long_as_its_header_says_after_every_batch() {
    let directory = tempfile::tempdir().unwrap();
    let backend = LmdbBackend::open(directory.path()).unwrap();
    let table = backend.open_table("t").unwrap();
    for round in 0..100_u64 {
        // Rows that are put and deleted in one batch leave pages that are counted and never written.
        let mut batch = CacheBatch::default();
        for row in 0..round * 10 {
            batch.put(RowNo(row), format!("id {row}"), vec![1; 5000]);
        }
        for row in 0..round * 10 {
            batch.delete(RowNo(row), format!("id {row}"));
        }
        table.apply(&batch).unwrap();
        let length = fs::metadata(directory.path().join(FILE)).unwrap().len();
        assert!(length >= backend.file_size().unwrap(), "in round {round}");
    }
}

#[test]
fn a_foreign_file_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE), b"SQLite format 3\0".repeat(1000)).unwrap();
    must_be_set_aside(directory.path(), "foreign");
}

#[test]
fn an_lmdb_file_of_another_program_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let environment = lmdb::Environment::new()
        .set_flags(lmdb::EnvironmentFlags::NO_SUB_DIR)
        .set_max_dbs(8)
        .set_map_size(1 << 24)
        .open(&directory.path().join(FILE))
        .unwrap();
    let database = environment.create_db(Some("rows"), lmdb::DatabaseFlags::empty()).unwrap();
    let mut txn = environment.begin_rw_txn().unwrap();
    txn.put(database, b"key", b"value", lmdb::WriteFlags::empty()).unwrap();
    lmdb::Transaction::commit(txn).unwrap();
    drop(environment);
    must_be_set_aside(directory.path(), "foreign");
}

#[test]
fn an_lmdb_file_with_our_databases_but_not_our_format_is_set_aside() {
    for (format, word) in [(None, "foreign"), (Some(2_u32), "newer"), (Some(u32::MAX), "newer"), (Some(0), "foreign")] {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path());
        let environment = lmdb::Environment::new()
            .set_flags(lmdb::EnvironmentFlags::NO_SUB_DIR)
            .set_max_dbs(8)
            .set_map_size(1 << 24)
            .open(&directory.path().join(FILE))
            .unwrap();
        let meta = environment.open_db(Some("meta")).unwrap();
        let mut txn = environment.begin_rw_txn().unwrap();
        let key = b"\0\0\0\0diorama format";
        match format {
            Some(format) => txn.put(meta, key, &format.to_be_bytes(), lmdb::WriteFlags::empty()).unwrap(),
            None => txn.del(meta, key, None).unwrap(),
        }
        lmdb::Transaction::commit(txn).unwrap();
        drop(environment);
        must_be_set_aside(directory.path(), word);
    }
}

#[test]
fn damage_that_a_call_meets_is_told_and_the_file_is_set_aside_at_the_next_opening() {
    // What a lookup reads, and what opening reads.
    for (database, key) in [("ids", b"\0\0\0\x01\0id 7".as_slice()), ("tables", b"\0\0\0\x01")] {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path());
        let environment = lmdb::Environment::new()
            .set_flags(lmdb::EnvironmentFlags::NO_SUB_DIR)
            .set_max_dbs(8)
            .set_map_size(1 << 24)
            .open(&directory.path().join(FILE))
            .unwrap();
        let damaged = environment.open_db(Some(database)).unwrap();
        let mut txn = environment.begin_rw_txn().unwrap();
        txn.put(damaged, &key, b"bad", lmdb::WriteFlags::empty()).unwrap();
        lmdb::Transaction::commit(txn).unwrap();
        drop(environment);
        if database == "ids" {
            let backend = LmdbBackend::open(directory.path()).unwrap();
            let table = backend.open_table("airports").unwrap();
            assert_eq!(table.lookup("id 8").unwrap(), Some(RowNo(8)));
            let error = table.lookup("id 7").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert_eq!(error.context("table"), Some("airports"));
        }
        must_be_set_aside(directory.path(), "damaged");
        assert!(LmdbBackend::open(directory.path()).unwrap().warnings().is_empty(), "told once");
    }
}

#[test]
fn damaged_headers_are_set_aside() {
    // (offset in both meta pages, bytes, the word)
    let changes: [(usize, &[u8], &str); 4] = [
        (MAGIC_AT, &[1, 2, 3, 4], "foreign"),
        (MAGIC_AT + 4, &2_u32.to_ne_bytes(), "newer"),
        (MAGIC_AT + 4, &999_u32.to_ne_bytes(), "newer"),
        (MAGIC_AT + 8 + 2 * size_of::<usize>(), &77_u32.to_ne_bytes(), "damaged"),
    ];
    for (at, change, word) in changes {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path());
        let path = directory.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        for page in [0, PAGE] {
            bytes[page + at..page + at + change.len()].copy_from_slice(change);
        }
        fs::write(&path, bytes).unwrap();
        must_be_set_aside(directory.path(), word);
    }
}

#[test]
fn a_leftover_of_a_replacement_that_a_crash_cut_off_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    fs::write(directory.path().join("rows.mdb-new"), b"half a file").unwrap();
    // A mark of damage without the file it was about.
    let fresh = directory.path().join("fresh");
    fs::create_dir(&fresh).unwrap();
    fs::write(fresh.join("rows.mdb-damaged"), b"").unwrap();
    assert!(LmdbBackend::open(&fresh).unwrap().warnings().is_empty());
    fs::write(directory.path().join("rows.mdb-lock"), b"a reader table of who knows whom").unwrap();
    let backend = LmdbBackend::open(directory.path()).unwrap();
    assert!(backend.warnings().is_empty());
    assert_eq!(backend.open_table("airports").unwrap().count().unwrap(), 2000);
    backend.forget_table("airports").unwrap();
    assert!(!directory.path().join("rows.mdb-new").exists());
}

#[test]
fn a_path_that_cannot_be_a_cache_is_an_error_that_names_it_and_keeps_the_cause() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let blocked = root.path().join("blocked");
    fs::create_dir_all(blocked.join(FILE)).unwrap();
    let lock_blocked = root.path().join("lock blocked");
    fs::create_dir_all(lock_blocked.join("rows.lock")).unwrap();
    for path in [file.clone(), file.join("below"), blocked, lock_blocked] {
        let Err(error) = LmdbBackend::open(&path) else { panic!("{path:?} can't be a cache") };
        assert_eq!(error.kind(), ErrorKind::Cache);
        assert!(error.context("path").unwrap().starts_with(path.to_str().unwrap()), "{error}");
        assert!(error.source().is_some(), "{error}");
    }
    let Err(error) = LmdbBackend::open("a\0b") else { panic!("a path with a zero byte can't be a cache") };
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // What stood in the way is gone: the same path works.
    fs::remove_file(&file).unwrap();
    LmdbBackend::open(&file).unwrap();
}

#[cfg(unix)]
#[test]
fn a_directory_that_may_not_be_written_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o500)).unwrap();
    // The superuser may write everywhere, and then there is nothing to see.
    if OpenOptions::new().write(true).create(true).truncate(true).open(root.path().join("probe")).is_ok() {
        return;
    }
    for path in [root.path().to_owned(), root.path().join("below")] {
        let Err(error) = LmdbBackend::open(&path) else { panic!("{path:?} may not be written") };
        assert_eq!(error.kind(), ErrorKind::Cache);
        assert!(error.context("path").is_some() && error.source().is_some());
    }
}
