//! C2, C3: the map grows while readers read, and when it can't, a batch leaves nothing.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use diorama::cache::{CacheBackend, CacheBatch, LmdbBackend, LmdbTestOptions};
use diorama::{ErrorKind, RowNo};

fn batch_of(rows: std::ops::Range<u64>, length: usize) -> CacheBatch {
    let mut batch = CacheBatch::default();
    for row in rows {
        batch.put(RowNo(row), format!("id {row}"), vec![row as u8; length]);
    }
    batch
}

/// Lets the other threads go on when the writer is through, also by a panic.
struct Finished<'a>(&'a AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn the_map_grows_many_times_while_readers_read_and_nobody_sees_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let options = LmdbTestOptions { map_size: 1 << 16, max_map_size: 1 << 30, collide_long_ids: false };
    let backend = LmdbBackend::open_for_tests(directory.path(), options).unwrap();
    let table = backend.open_table("growing").unwrap();
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _finished = Finished(&finished);
            for round in 0..200 {
                table.apply(&batch_of(round * 20..(round + 1) * 20, 3000)).unwrap();
            }
        });
        for _ in 0..3 {
            scope.spawn(|| {
                let mut most = 0;
                while !finished.load(Ordering::Acquire) {
                    let mut seen = 0;
                    let scanned = table.scan(RowNo(0), &mut |row, bytes| {
                        assert_eq!(row.0, seen);
                        assert!(bytes.len() == 3000 && bytes.iter().all(|byte| *byte == row.0 as u8));
                        seen += 1;
                        ControlFlow::Continue(())
                    });
                    scanned.unwrap();
                    assert!(seen >= most && seen.is_multiple_of(20), "{seen} rows after {most}");
                    most = seen;
                    assert!(table.count().unwrap() >= most);
                    if most > 0 {
                        assert_eq!(table.lookup("id 3").unwrap(), Some(RowNo(3)));
                        assert_eq!(table.get(RowNo(most - 1)).unwrap().unwrap().len(), 3000);
                    }
                }
            });
        }
    });
    assert_eq!(table.count().unwrap(), 4000);
    assert!(backend.file_size().unwrap() > 100 << 16, "the map grew a hundredfold: {}", backend.file_size().unwrap());
}

#[test]
fn one_batch_much_larger_than_the_map_is_applied() {
    let directory = tempfile::tempdir().unwrap();
    let options = LmdbTestOptions { map_size: 1 << 16, max_map_size: 1 << 30, collide_long_ids: false };
    let backend = LmdbBackend::open_for_tests(directory.path(), options).unwrap();
    let table = backend.open_table("t").unwrap();
    table.apply(&batch_of(0..5000, 1000)).unwrap();
    assert_eq!(table.count().unwrap(), 5000);
}

#[test]
fn a_batch_that_runs_out_of_space_at_any_of_its_writes_leaves_the_table_as_it_was() {
    let mut refused = 0;
    let mut accepted = 0;
    for kept in (0..12).map(|step| step * 3) {
        for rows in (1..200).step_by(7) {
            let directory = tempfile::tempdir().unwrap();
            let options = LmdbTestOptions { map_size: 1 << 18, max_map_size: 1 << 18, collide_long_ids: false };
            let backend = LmdbBackend::open_for_tests(directory.path(), options).unwrap();
            let table = backend.open_table("t").unwrap();
            let mut batch = batch_of(0..10 + kept, 1000);
            batch.set_meta("state", *b"before");
            table.apply(&batch).unwrap();
            let mut batch = batch_of(1000..1000 + rows, 1000);
            batch.clear = true;
            batch.set_meta("state", *b"after");
            match table.apply(&batch) {
                Ok(()) => {
                    accepted += 1;
                    assert_eq!(table.count().unwrap(), rows);
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::Cache);
                    assert!(error.to_string().contains("full"), "{error}");
                    assert_eq!(table.count().unwrap(), 10 + kept);
                    assert_eq!(table.lookup("id 1000").unwrap(), None);
                    assert_eq!(table.lookup("id 1").unwrap(), Some(RowNo(1)));
                    assert_eq!(table.get(RowNo(9)).unwrap().unwrap().len(), 1000);
                    assert_eq!(table.meta("state").unwrap().as_deref(), Some(b"before".as_slice()));
                    table.apply(&batch_of(0..1, 10)).unwrap();
                }
            }
        }
    }
    assert!(refused > 50 && accepted > 50, "both outcomes are met: {refused} refused, {accepted} accepted");
}

#[test]
fn a_call_from_inside_a_scan_is_refused_instead_of_hanging_and_the_scan_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let backend = LmdbBackend::open(directory.path()).unwrap();
    let table = backend.open_table("t").unwrap();
    table.apply(&batch_of(0..3, 10)).unwrap();
    let mut seen = 0;
    let scanned = table.scan(RowNo(0), &mut |_, _| {
        assert_eq!(table.apply(&batch_of(5..6, 10)).unwrap_err().kind(), ErrorKind::WouldDeadlock);
        assert_eq!(table.get(RowNo(1)).unwrap_err().kind(), ErrorKind::WouldDeadlock);
        assert_eq!(backend.sync().unwrap_err().kind(), ErrorKind::WouldDeadlock);
        assert_eq!(backend.open_table("t").err().unwrap().kind(), ErrorKind::WouldDeadlock);
        assert_eq!(backend.forget_table("t").unwrap_err().kind(), ErrorKind::WouldDeadlock);
        seen += 1;
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    assert_eq!(seen, 3);
    table.apply(&batch_of(5..6, 10)).unwrap();

    let panicked = thread::scope(|scope| {
        let scan = scope.spawn(|| table.scan(RowNo(0), &mut |_, _| panic!("a closure that panics, as the test wants")));
        scan.join().is_err()
    });
    assert!(panicked);
    table.apply(&batch_of(6..7, 10)).unwrap();
    assert_eq!(table.count().unwrap(), 5, "a panic inside a scan leaves the table usable");
}
