use std::ops::ControlFlow;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::*;
use crate::RowNo;
use crate::cache::{FaultyBackend, MemoryBackend};
use crate::dio::meta;
use crate::prelude::*;
use crate::sync::Doorbell;
use crate::value::StoredRow;

/// Called with each batch before it is applied.
type Before = Arc<dyn Fn(&CacheBatch) + Send + Sync>;

/// A table that has each batch looked at before it is applied.
struct Watched {
    inner: Arc<dyn CacheTable>,
    before: Before,
}

/// Tells of each batch, and waits for a word.
fn told_and_held(told: Sender<CacheBatch>, go: Receiver<()>) -> Before {
    Arc::new(move |batch| {
        told.send(batch.clone()).unwrap();
        // Hung up: from here on it goes by itself.
        let _ = go.recv();
    })
}

impl CacheTable for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn apply(&self, batch: &CacheBatch) -> Result<()> {
        (self.before)(batch);
        self.inner.apply(batch)
    }
    fn get(&self, row: RowNo) -> Result<Option<Arc<[u8]>>> {
        self.inner.get(row)
    }
    fn lookup(&self, id: &str) -> Result<Option<RowNo>> {
        self.inner.lookup(id)
    }
    fn scan(&self, from: RowNo, each: &mut dyn FnMut(RowNo, &[u8]) -> ControlFlow<()>) -> Result<()> {
        self.inner.scan(from, each)
    }
    fn scan_ids(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> Result<()> {
        self.inner.scan_ids(each)
    }
    fn count(&self) -> Result<u64> {
        self.inner.count()
    }
    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.inner.meta(key)
    }
}

fn versions(table: &Arc<dyn CacheTable>) -> Arc<Versions> {
    Arc::new(Versions::new(table.clone(), Seq(0), 1 << 20, Doorbell::new()))
}

/// A batch of these rows, which are in `versions` too, as the core does it.
fn batch(
    table: &Arc<dyn CacheTable>,
    versions: &Arc<Versions>,
    seq: u64,
    rows: std::ops::Range<u64>,
    completes: bool,
) -> StoreBatch {
    let mut meta = vec![(meta::SEQ.to_owned(), meta::number(seq)), (meta::NEXT_ROW.to_owned(), meta::number(rows.end))];
    if completes {
        meta.push((meta::COMPLETE.to_owned(), meta::number(1)));
    }
    let ops: Vec<CacheOp> = rows
        .map(|row| {
            let id: Arc<str> = Arc::from(format!("row {row}"));
            let mut stored = StoredRow::encode(&id, &record! { "seq" => seq as i64 }, 0);
            stored.set_seq(Seq(seq));
            let before = versions.row_newest(RowNo(row)).unwrap();
            if before.is_none() {
                versions.name(&id, Seq(seq), None, Some(RowNo(row)));
            }
            versions.put(RowNo(row), Seq(seq), before.as_ref(), Some(stored.clone()));
            CacheOp::Put { row: RowNo(row), id, bytes: stored.bytes() }
        })
        .collect();
    versions.publish(Seq(seq));
    let is_load = ops.len() > SLICE_ROWS;
    StoreBatch { table: table.clone(), versions: versions.clone(), seq: Seq(seq), fresh: None, is_load, ops, meta }
}

fn number(table: &Arc<dyn CacheTable>, key: &str) -> Option<u64> {
    meta::read_number(table.meta(key).unwrap())
}

#[test]
fn rows_are_stored_in_the_order_they_came() {
    let backend = MemoryBackend::new();
    let (told, batches) = unbounded();
    let (let_go, go) = bounded(0);
    let table: Arc<dyn CacheTable> =
        Arc::new(Watched { inner: backend.open_table("t").unwrap(), before: told_and_held(told, go) });
    let store = Store::of(backend).unwrap();
    let versions = versions(&table);
    store.put(batch(&table, &versions, 1, 1..2, false));
    let first = batches.recv().unwrap();
    // While the first is being applied the others pile up, and share a transaction.
    for seq in 2..=20 {
        store.put(batch(&table, &versions, seq, 1..2, false));
    }
    drop(let_go);
    store.drain().unwrap();
    assert_eq!(first.ops.len(), 1);
    assert_eq!(batches.recv().unwrap().ops.len(), 19);
    assert_eq!(number(&table, meta::SEQ), Some(20));
    let bytes = table.get(RowNo(1)).unwrap().unwrap();
    assert_eq!(StoredRow::from_arc(bytes).unwrap().seq(), Seq(20));
    assert_eq!(store.waiting_bytes(), 0);
}

#[test]
fn what_is_left_while_the_thread_dozes_is_stored_though_nobody_wakes_it() {
    let backend = MemoryBackend::new();
    let (told, batches) = unbounded();
    let before: Before = Arc::new(move |batch| told.send(batch.clone()).unwrap());
    let table: Arc<dyn CacheTable> = Arc::new(Watched { inner: backend.open_table("t").unwrap(), before });
    let store = Store::of(backend).unwrap();
    let versions = versions(&table);
    for seq in 1..=200 {
        store.put(batch(&table, &versions, seq, 1..2, false));
        // It has just stored something, and soon dozes.
        batches.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    store.drain().unwrap();
    assert_eq!((number(&table, meta::SEQ), store.waiting_bytes()), (Some(200), 0));
}

#[test]
fn a_long_batch_is_bracketed() {
    for completes in [true, false] {
        let backend = FaultyBackend::new(MemoryBackend::new());
        let table = backend.open_table("t").unwrap();
        let store = Store::of(backend.clone()).unwrap();
        let versions = versions(&table);
        store.put(batch(&table, &versions, 1, 1..2, true));
        store.drain().unwrap();
        assert_eq!(number(&table, meta::COMPLETE), Some(1));
        // The first slice of the next batch is applied and the second is not: as a crash in between.
        let long = batch(&table, &versions, 2, 2..2 + 2 * SLICE_ROWS as u64, completes);
        // The one that says nothing of completeness has the table asked first.
        backend.fail_from(if completes { 2 } else { 3 });
        store.put(long);
        store.drain().unwrap_err();
        backend.heal();
        assert_eq!(table.count().unwrap(), 1 + SLICE_ROWS as u64);
        assert_eq!(number(&table, meta::COMPLETE), None, "a part of the batch is there");
        assert_eq!(number(&table, meta::SEQ), Some(2), "no row is newer than the Seq that is resumed");
        assert_eq!(number(&table, meta::NEXT_ROW), Some(2 + 2 * SLICE_ROWS as u64), "no row's number is given again");
        store.drain().unwrap();
        assert_eq!(table.count().unwrap(), 1 + 2 * SLICE_ROWS as u64);
        assert_eq!(number(&table, meta::COMPLETE), Some(1), "complete again");
        assert_eq!(versions.stats().rows_in_memory, 0);
    }
}

#[test]
fn a_failed_batch_is_tried_again_at_the_next_flush() {
    let backend = FaultyBackend::new(MemoryBackend::new());
    let table = backend.open_table("t").unwrap();
    let store = Store::of(backend.clone()).unwrap();
    let versions = versions(&table);
    let (first, second) = (batch(&table, &versions, 1, 1..2, false), batch(&table, &versions, 2, 1..3, false));
    backend.fail_from(1);
    store.put(first);
    assert_eq!(store.flush(None).unwrap_err().kind(), ErrorKind::Cache);
    store.put(second);
    assert_eq!(store.flush(None).unwrap_err().kind(), ErrorKind::Cache);
    assert!(store.failure().is_some() && store.waiting_bytes() > 0);
    assert!(versions.row_in_memory(RowNo(1), Seq(2)).is_some(), "its rows stay in memory");
    for _ in 0..100 {
        store.flush(None).unwrap_err();
    }
    assert!(store.shared.queue.lock().jobs.len() < 6, "flushes that fail don't pile up");
    backend.heal();
    store.flush(None).unwrap();
    assert!(store.failure().is_none());
    assert_eq!(store.waiting_bytes(), 0);
    assert_eq!(number(&table, meta::SEQ), Some(2));
    assert_eq!(table.count().unwrap(), 2);
}

#[test]
fn a_new_handle_goes_on_with_a_thread_that_still_stores() {
    let backend = MemoryBackend::new();
    let (told, batches) = unbounded();
    let (let_go, go) = bounded(0);
    let table: Arc<dyn CacheTable> =
        Arc::new(Watched { inner: backend.open_table("t").unwrap(), before: told_and_held(told, go) });
    let store = Store::of(backend.clone()).unwrap();
    store.put(batch(&table, &versions(&table), 1, 1..2, false));
    batches.recv().unwrap();
    drop(store);
    let store = Store::of(backend).unwrap();
    let timeout = store.flush(Some(Duration::ZERO)).unwrap_err();
    assert_eq!(timeout.kind(), ErrorKind::Timeout, "what the old handle left is before it");
    drop(let_go);
    store.drain().unwrap();
    assert_eq!(number(&table, meta::SEQ), Some(1));
}

#[test]
fn a_table_that_is_being_left_is_waited_for_and_one_in_use_is_a_conflict_that_names_the_source() {
    let rank = Rank::new(0, Role::Writer);
    let store = Store::of(MemoryBackend::new()).unwrap();
    store.claim("t", 1, "first", rank).unwrap();
    let error = store.claim("t", 2, "second", rank).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message().contains("`first`") && error.message().contains("`second`"), "{error}");
    store.leave("t");
    let (told, claims) = unbounded();
    std::thread::scope(|threads| {
        threads.spawn(|| told.send(store.claim("t", 2, "second", rank)).unwrap());
        assert!(claims.try_recv().is_err(), "it waits");
        store.release("t");
        claims.recv().unwrap().unwrap();
    });
    assert_eq!(store.claim("t", 1, "first", rank).unwrap_err().kind(), ErrorKind::Conflict);
}

/// A backend whose tables have each batch looked at before it is applied.
struct WatchedBackend {
    inner: Arc<dyn CacheBackend>,
    before: Before,
}

impl CacheBackend for WatchedBackend {
    fn open_table(&self, name: &str) -> Result<Arc<dyn CacheTable>> {
        Ok(Arc::new(Watched { inner: self.inner.open_table(name)?, before: self.before.clone() }))
    }
    fn tables(&self) -> Result<Vec<String>> {
        self.inner.tables()
    }
    fn forget_table(&self, name: &str) -> Result<()> {
        self.inner.forget_table(name)
    }
    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }
    fn location(&self) -> Option<PathBuf> {
        self.inner.location()
    }
    fn file_size(&self) -> Result<u64> {
        self.inner.file_size()
    }
}

/// A row of so many bytes, and some.
fn row_of(id: String, bytes: usize) -> (String, Record) {
    let record = record! { "id" => id.as_str(), "text" => "x".repeat(bytes) };
    (id, record)
}

#[test]
fn a_small_change_waits_for_no_load_and_many_are_bounded_all_the_same() {
    let gate = Arc::new(Mutex::new(()));
    let of_store = gate.clone();
    let before: Before = Arc::new(move |_| drop(of_store.lock()));
    let backend = Arc::new(WatchedBackend { inner: MemoryBackend::new(), before });
    let lens = Lens::new().cache_source(backend).bulk_changes(8).build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id")).unwrap();
    let store = dio.inner().store().unwrap();
    let bytes = || {
        let queue = store.shared.queue.lock();
        (queue.bytes - queue.small_bytes, queue.small_bytes)
    };
    dio.flush().unwrap();
    let held = gate.lock();
    let load = (0..8).map(|row| row_of(format!("row {row}"), HIGH_WATER / 8)).collect();
    dio.reconcile(load).unwrap();
    let (of_load, small) = bytes();
    assert!(of_load > HIGH_WATER && small == 0, "{of_load} {small}");
    assert!(store.shared.queue.lock().is_full(false), "another load waits");

    let (told, changes) = bounded(0);
    let bytes_of_one = 2 * 4096;
    let (dio, bytes) = (&dio, &bytes);
    std::thread::scope(|threads| {
        threads.spawn(move || {
            for number in 0..3 * ROOM_OF_SMALL / 4096 {
                let (id, mut record) = row_of(format!("row {}", number % 20), 4096);
                record.insert("number", number as i64);
                dio.patched(id, record).unwrap();
                let (of_load, small) = bytes();
                // Once the load is stored, its room is theirs as well.
                let is_bounded = small <= ROOM_OF_SMALL + bytes_of_one || of_load + small <= HIGH_WATER + bytes_of_one;
                assert!(is_bounded, "{small} of small changes and {of_load} of the load after {number}");
                if told.send(number).is_err() {
                    return;
                }
            }
        });
        while !store.shared.queue.lock().is_full(true) {
            changes.recv().expect("there is no bound");
        }
        let (load_now, small) = bytes();
        assert!(load_now == of_load && small > ROOM_OF_SMALL, "{load_now} {small}");
        // The change that waits now goes on when there is room.
        drop(held);
        changes.iter().for_each(drop);
    });
    dio.flush().unwrap();
    assert_eq!(bytes(), (0, 0));
    // A change that is not small waits as a load does.
    let held = gate.lock();
    dio.cache().insert_many((100..108).map(|row| row_of(format!("row {row}"), HIGH_WATER / 8))).unwrap();
    let (_, large) = row_of("large".to_owned(), SMALL);
    std::thread::scope(|threads| {
        let (told, is_in) = bounded(1);
        let other = dio.clone();
        threads.spawn(move || told.send(other.patched("large", large)).unwrap());
        dio.patched("small", record! { "id" => "small" }).unwrap();
        assert!(is_in.try_recv().is_err());
        drop(held);
        is_in.recv().unwrap().unwrap();
    });
}

#[test]
fn numbers_alone_take_one_place_and_are_stored_with_what_comes_next() {
    let backend = MemoryBackend::new();
    let (told, batches) = unbounded();
    let (let_go, go) = bounded(0);
    let before = told_and_held(told, go);
    let watched = |name: &str| -> Arc<dyn CacheTable> {
        Arc::new(Watched { inner: backend.open_table(name).unwrap(), before: before.clone() })
    };
    let tables = [watched("a"), watched("b")];
    let store = Store::of(backend.clone()).unwrap();
    let versions = tables.each_ref().map(versions);
    store.put(batch(&tables[0], &versions[0], 1, 1..2, false));
    assert_eq!(batches.recv().unwrap().ops.len(), 1);
    for seq in 2..100 {
        for (table, versions) in tables.iter().zip(&versions) {
            store.put(batch(table, versions, seq, 2..2, false));
        }
    }
    assert_eq!(store.queue().length, 2, "one for each table");
    drop(let_go);
    store.drain().unwrap();
    assert_eq!(tables.each_ref().map(|table| number(table, meta::SEQ)), [Some(99), Some(99)]);
    assert_eq!(batches.try_iter().count(), 2);
    // Behind a change of rows they don't overtake it.
    store.put(batch(&tables[0], &versions[0], 100, 3..3, false));
    store.put(batch(&tables[0], &versions[0], 101, 1..2, false));
    store.put(batch(&tables[0], &versions[0], 102, 3..3, false));
    store.flush(None).unwrap();
    let rows: usize = batches.try_iter().map(|batch| batch.ops.len()).sum();
    assert_eq!((rows, number(&tables[0], meta::SEQ)), (1, Some(102)));
}
