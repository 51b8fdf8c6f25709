//! Cache tables: any sequence of batches, forgetting and reopening, over LMDB and over memory, against plain maps.

#![no_main]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arbitrary::{Arbitrary, Result, Unstructured};
use diorama::RowNo;
use diorama::cache::{
    CacheBackend, CacheBatch, CacheOp, CacheTable, LmdbBackend, LmdbTestOptions, MAX_ID_BYTES, MAX_META_KEY_BYTES,
    MemoryBackend,
};
use libfuzzer_sys::fuzz_target;

/// The tables that take turns; the empty name is one as good as any.
const TABLES: [&str; 3] = ["rows", "", "Zeilen ✓"];

#[derive(Debug, Arbitrary)]
struct Script {
    small_map: bool,
    collide_long_ids: bool,
    ops: Vec<Op>,
}

#[derive(Debug, Arbitrary)]
enum Op {
    Apply(u8, Batch),
    Scan(u8, Row, u8),
    Look(u8, Id, Name),
    Forget(u8),
    Sync,
    Reopen,
}

#[derive(Debug, Arbitrary)]
struct Batch {
    clear: bool,
    changes: Vec<Change>,
    meta: Vec<(Name, Option<Vec<u8>>)>,
}

#[derive(Debug, Arbitrary)]
enum Change {
    Put(Row, Id, Bytes),
    Delete(Row, Id),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Row {
    /// Few, so that they meet.
    Near(u8),
    Any(u64),
}

impl Row {
    fn number(self) -> RowNo {
        match self {
            Row::Near(number) => RowNo(u64::from(number % 16)),
            Row::Any(number) => RowNo(number),
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Id {
    Near(u8),
    /// One character so many times: what the key holds is the same for a long way.
    Long(u8, u16),
    Any(String),
    /// One byte more than any id may have.
    TooLong,
}

impl Id {
    fn text(&self) -> String {
        match self {
            Id::Near(number) => format!("{}", number % 16),
            Id::Long(last, length) => format!("{}{last}", "é".repeat(usize::from(*length) % 1024)),
            Id::Any(text) => text.clone(),
            Id::TooLong => "x".repeat(MAX_ID_BYTES + 1),
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Name {
    Near(u8),
    Any(String),
    Long(u8),
}

impl Name {
    fn text(&self) -> String {
        match self {
            Name::Near(number) => format!("{}", number % 4),
            Name::Any(text) => text.clone(),
            // Around the longest that is taken.
            Name::Long(more) => "m".repeat(MAX_META_KEY_BYTES - 1 + usize::from(*more) % 3),
        }
    }
}

#[derive(Debug)]
struct Bytes(Vec<u8>);

impl<'a> Arbitrary<'a> for Bytes {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let bytes: Vec<u8> = u.arbitrary()?;
        // Some rows of more than a page, some of several.
        let length = if u.ratio(1, 4)? { usize::from(u.arbitrary::<u16>()?) } else { bytes.len() };
        Ok(Bytes(bytes.into_iter().cycle().take(length).collect()))
    }
}

/// What a table must hold.
#[derive(Debug, Clone, Default)]
struct Model {
    rows: BTreeMap<RowNo, Arc<[u8]>>,
    ids: BTreeMap<String, RowNo>,
    meta: BTreeMap<String, Vec<u8>>,
    /// The id that each row number was first stored with.
    named: BTreeMap<RowNo, String>,
}

impl Model {
    /// The batch, with every row number kept to the id it has, as the caller of a table promises.
    fn batch(&self, batch: &Batch) -> CacheBatch {
        let mut named = self.named.clone();
        let mut result = CacheBatch { clear: batch.clear, ..CacheBatch::default() };
        for change in &batch.changes {
            let (Change::Put(row, id, _) | Change::Delete(row, id)) = change;
            let row = row.number();
            let id = named.entry(row).or_insert_with(|| id.text()).clone();
            match change {
                Change::Put(_, _, bytes) => result.put(row, id, bytes.0.as_slice()),
                Change::Delete(..) => result.delete(row, id),
            }
        }
        result.meta = batch.meta.iter().map(|(name, value)| (name.text(), value.clone())).collect();
        result
    }

    fn is_good(batch: &CacheBatch) -> bool {
        batch.ops.iter().all(|op| (1..=MAX_ID_BYTES).contains(&op.id().len()))
            && batch.meta.iter().all(|(key, _)| (1..=MAX_META_KEY_BYTES).contains(&key.len()))
    }

    fn apply(&mut self, batch: &CacheBatch) {
        if batch.clear {
            self.rows.clear();
            self.ids.clear();
        }
        for op in &batch.ops {
            self.named.insert(op.row(), op.id().to_owned());
            match op {
                CacheOp::Put { row, id, bytes } => {
                    self.rows.insert(*row, bytes.clone());
                    self.ids.insert(id.to_string(), *row);
                }
                CacheOp::Delete { row, id } => {
                    self.rows.remove(row);
                    if self.ids.get(&**id) == Some(row) {
                        self.ids.remove(&**id);
                    }
                }
            }
        }
        for (key, value) in &batch.meta {
            match value {
                Some(value) => self.meta.insert(key.clone(), value.clone()),
                None => self.meta.remove(key),
            };
        }
    }

    fn check(&self, table: &dyn CacheTable) {
        assert_eq!(table.count().ok(), Some(self.rows.len() as u64));
        for (row, bytes) in &self.rows {
            assert_eq!(table.get(*row).expect("a row").as_ref(), Some(bytes), "{row:?}");
        }
        self.check_scan(table, RowNo(0), usize::MAX);
        let mut ids = BTreeMap::new();
        let scan = table.scan_ids(&mut |id, row| {
            assert_eq!(ids.insert(id.to_owned(), row), None, "{id} came twice");
            ControlFlow::Continue(())
        });
        scan.expect("a scan of the ids");
        assert_eq!(ids, self.ids);
        for (id, row) in &self.ids {
            assert_eq!(table.lookup(id).expect("an id"), Some(*row), "{id}");
        }
        for (key, value) in &self.meta {
            assert_eq!(table.meta(key).expect("a meta value").as_ref(), Some(value), "{key}");
        }
        let asked: Vec<RowNo> = (0..17).rev().map(RowNo).collect();
        let mut found = Vec::new();
        let many = table.get_many(&asked, &mut |position, bytes| found.push((position, bytes.map(<[u8]>::to_vec))));
        many.expect("some rows");
        let expected = asked.iter().map(|row| self.rows.get(row).map(|bytes| bytes.to_vec())).enumerate();
        assert!(expected.eq(found));
    }

    fn check_scan(&self, table: &dyn CacheTable, from: RowNo, most: usize) {
        let mut found = Vec::new();
        let scan = table.scan(from, &mut |row, bytes| {
            found.push((row, bytes.to_vec()));
            if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        scan.expect("a scan of the rows");
        let expected = self.rows.range(from..).take(most).map(|(row, bytes)| (*row, bytes.to_vec()));
        assert!(expected.eq(found), "from {from:?}, {most} rows");
    }
}

fuzz_target!(|script: Script| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let open = || open(directory.path(), &script);
    let memory: Arc<dyn CacheBackend> = MemoryBackend::new();
    let mut backends = [open(), memory];
    let mut models: [Model; TABLES.len()] = Default::default();
    let table = |backend: &Arc<dyn CacheBackend>, which: usize| backend.open_table(TABLES[which]).expect("a table");
    let place = |which: u8| usize::from(which) % TABLES.len();
    for op in &script.ops {
        match op {
            Op::Apply(which, batch) => {
                let which = place(*which);
                let batch = models[which].batch(batch);
                let good = Model::is_good(&batch);
                for backend in &backends {
                    let applied = table(backend, which).apply(&batch);
                    assert_eq!(applied.is_ok(), good, "{applied:?}");
                }
                if good {
                    models[which].apply(&batch);
                }
            }
            Op::Scan(which, from, most) => {
                let which = place(*which);
                let most = usize::from(*most).max(1);
                backends.iter().for_each(|backend| {
                    models[which].check_scan(&*table(backend, which), from.number(), most);
                });
            }
            Op::Look(which, id, name) => {
                let (which, id, name) = (place(*which), id.text(), name.text());
                for backend in &backends {
                    let table = table(backend, which);
                    assert_eq!(table.lookup(&id).expect("an id"), models[which].ids.get(&id).copied(), "{id}");
                    assert_eq!(table.meta(&name).expect("a meta value"), models[which].meta.get(&name).cloned());
                }
            }
            Op::Forget(which) => {
                let which = place(*which);
                backends.iter().for_each(|backend| backend.forget_table(TABLES[which]).expect("a table forgotten"));
                models[which] = Model::default();
            }
            Op::Sync => backends.iter().for_each(|backend| backend.sync().expect("a cache synced")),
            Op::Reopen => {
                // The old one is closed first, or the same one would be given again.
                backends[0] = MemoryBackend::new();
                backends[0] = open();
                assert!(backends[0].warnings().is_empty(), "{:?}", backends[0].warnings());
            }
        }
        for backend in &backends {
            models.iter().enumerate().for_each(|(which, model)| model.check(&*table(backend, which)));
        }
    }
});

fn open(directory: &Path, script: &Script) -> Arc<dyn CacheBackend> {
    let map_size = if script.small_map { 1 << 16 } else { 1 << 24 };
    let options = LmdbTestOptions { map_size, max_map_size: 1 << 30, collide_long_ids: script.collide_long_ids };
    LmdbBackend::open_for_tests(directory.join("cache"), options).expect("a cache on disk")
}
