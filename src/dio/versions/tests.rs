//! Versions against a plain list of states, one for each Seq; the steps of the core and of the store interleave freely.

use std::ops::ControlFlow;

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::cache::{CacheBackend, CacheBatch, MemoryBackend};
use crate::dio::fresh::IdIndex;
use crate::dio::versions::scan::Scan;
use crate::record;
use crate::value::StoredRef;

type State = BTreeMap<String, i64>;

struct Change {
    row: RowNo,
    id: Arc<str>,
    before: Option<StoredRow>,
    after: Option<StoredRow>,
}

/// What the store is to do.
enum ToStore {
    Batch(Seq, CacheBatch),
    /// A first load of which so many rows are stored.
    Fresh(Arc<FreshRows>, usize),
}

/// A scan under way, of which so many parts are read.
struct Scanning {
    pin: Pin,
    scan: Scan,
    parts: usize,
    met: Vec<RowSet>,
    seen: State,
}

/// A core of one thread, and a store that takes a step when it is told to.
struct Bench {
    versions: Arc<Versions>,
    table: Arc<dyn CacheTable>,
    seq: Seq,
    next_row: u64,
    open: Vec<Change>,
    renamed: Vec<Arc<str>>,
    unsuperseded: Option<(Seq, Vec<Replaced>)>,
    unstored: VecDeque<ToStore>,
    /// The rows of a first load that is not published yet.
    loaded: State,
    /// What every published Seq showed.
    states: BTreeMap<Seq, State>,
    pins: Vec<Pin>,
    scans: Vec<Scanning>,
    /// What was looked for together since the last publishing.
    ahead: BTreeMap<&'static str, Ahead>,
}

impl Bench {
    fn new(budget: usize) -> Self {
        let table = MemoryBackend::new().open_table("t").unwrap();
        Bench {
            versions: Arc::new(Versions::new(table.clone(), Seq(0), budget, Doorbell::new())),
            table,
            seq: Seq(0),
            next_row: 1,
            open: Vec::new(),
            renamed: Vec::new(),
            unsuperseded: None,
            unstored: VecDeque::new(),
            loaded: State::new(),
            states: BTreeMap::from([(Seq(0), State::new())]),
            pins: Vec::new(),
            scans: Vec::new(),
            ahead: BTreeMap::new(),
        }
    }

    fn look_ahead(&mut self) {
        let ahead = self.versions.look_ahead(IDS.map(Some).into_iter().chain([None]));
        assert_eq!(ahead.len(), IDS.len() + 1);
        self.ahead = IDS.into_iter().zip(ahead).collect();
    }

    /// A first load of so many rows, if the table is empty; the store takes some of them before it is published.
    fn load(&mut self, rows: usize, stored_before: usize) {
        let is_empty = self.states[&self.seq].is_empty() && self.open.is_empty() && self.renamed.is_empty();
        if rows == 0 || !is_empty || !self.versions.is_all_stored() {
            return;
        }
        let row = |id: &&str| StoredRow::encode(id, &record! { "value" => 9 }, 0);
        let rows: Vec<StoredRow> = IDS.iter().take(rows).map(row).collect();
        let by_id = IdIndex::new(&rows).unwrap();
        self.loaded = rows.iter().map(|row| (row.id().to_owned(), value_of(row))).collect();
        let fresh = FreshRows::new(self.seq.next(), RowNo(self.next_row), rows, by_id);
        self.next_row += fresh.rows().len() as u64;
        self.versions.add_fresh(fresh.clone());
        self.unstored.push_back(ToStore::Fresh(fresh, 0));
        (0..stored_before).for_each(|_| self.store_one());
        self.check_all();
        self.publish();
    }

    fn newest(&mut self, id: &str) -> Option<(RowNo, StoredRow)> {
        let row = self.versions.lookup_newest(id).unwrap();
        let found = row.and_then(|row| self.versions.row_newest(row).unwrap().map(|stored| (row, stored)));
        let ahead = self.ahead.remove(id).unwrap_or_default();
        let told = self.versions.find_newest(id, ahead).unwrap();
        let version = |found: &Option<(RowNo, StoredRow)>| found.as_ref().map(|(row, stored)| (*row, stored.seq()));
        assert_eq!(version(&told), version(&found), "{id}");
        told
    }

    fn touch(&mut self, row: RowNo, id: Arc<str>, before: Option<StoredRow>, after: Option<StoredRow>) {
        match self.open.iter_mut().find(|change| change.row == row) {
            Some(change) => change.after = after,
            None => self.open.push(Change { row, id, before, after }),
        }
    }

    fn put(&mut self, id: &str, value: i64) {
        let seq = self.seq.next();
        let id: Arc<str> = Arc::from(id);
        let mut stored = StoredRow::encode(&id, &record! { "value" => value }, 0);
        stored.set_seq(seq);
        let (row, before) = match self.newest(&id) {
            Some((row, before)) => (row, Some(before)),
            None => {
                let row = RowNo(self.next_row);
                self.next_row += 1;
                if self.versions.name(&id, seq, None, Some(row)) {
                    self.renamed.push(id.clone());
                }
                (row, None)
            }
        };
        self.versions.put(row, seq, before.as_ref(), Some(stored.clone()));
        self.touch(row, id, before, Some(stored));
    }

    fn delete(&mut self, id: &str) {
        let seq = self.seq.next();
        let Some((row, before)) = self.newest(id) else { return };
        let id: Arc<str> = Arc::from(id);
        self.versions.put(row, seq, Some(&before), None);
        self.versions.name(&id, seq, Some(row), None);
        self.renamed.push(id.clone());
        self.touch(row, id, Some(before), None);
    }

    /// Publishes what is open; what it replaced is let go of by a later [`supersede`](Self::supersede).
    fn publish(&mut self) {
        self.supersede();
        self.ahead.clear();
        let seq = self.seq.next();
        let mut batch = CacheBatch::default();
        let mut state = self.states[&self.seq].clone();
        state.append(&mut self.loaded);
        let mut replaced: Vec<Replaced> = self.renamed.drain(..).map(Replaced::Id).collect();
        for change in self.open.drain(..) {
            if let (Some(before), Some(after)) = (&change.before, &change.after)
                && before.same_content(after)
            {
                self.versions.unput(change.row, seq);
                continue;
            }
            if let Some(before) = &change.before {
                replaced.push(Replaced::Row { row: change.row, from: before.seq(), size: before.size() });
            }
            match &change.after {
                Some(after) => {
                    batch.put(change.row, change.id.clone(), after.as_bytes());
                    state.insert(change.id.to_string(), value_of(after));
                }
                None => {
                    batch.delete(change.row, change.id.clone());
                    // It may have been put again, under another row number, and then stands further down.
                    state.remove(&*change.id);
                }
            }
        }
        self.seq = seq;
        self.states.insert(seq, state);
        self.versions.publish(seq);
        self.unstored.push_back(ToStore::Batch(seq, batch));
        self.unsuperseded = Some((seq, replaced));
    }

    fn supersede(&mut self) {
        if let Some((seq, replaced)) = self.unsuperseded.take() {
            self.versions.supersede(seq, replaced);
        }
    }

    fn store_one(&mut self) {
        let (seq, batch) = match self.unstored.pop_front() {
            None => return,
            Some(ToStore::Batch(seq, batch)) => (seq, batch),
            Some(ToStore::Fresh(fresh, stored)) if stored == fresh.rows().len() => {
                self.versions.stored_fresh(&fresh);
                return;
            }
            Some(ToStore::Fresh(fresh, stored)) => {
                let slice = fresh.iter().skip(stored).take(2);
                let mut batch = CacheBatch::default();
                slice.for_each(|(row, stored)| batch.put(row, stored.id(), stored.as_bytes()));
                self.table.apply(&batch).unwrap();
                self.unstored.push_front(ToStore::Fresh(fresh, stored + batch.ops.len()));
                return;
            }
        };
        self.table.apply(&batch).unwrap();
        for op in &batch.ops {
            let deleted = matches!(op, crate::cache::CacheOp::Delete { .. });
            self.versions.stored(op.row(), seq, op.id(), deleted);
        }
    }

    /// What a pin sees equals the state of its Seq, by every way of reading.
    fn check(&self, pin: &Pin) {
        let expected = &self.states[&pin.seq()];
        let mut seen = State::new();
        let mut rows = Vec::new();
        let scanned = self.versions.scan(pin, &mut |row, stored| {
            assert!(seen.insert(stored.id().to_owned(), value_of(stored)).is_none(), "{} came twice", stored.id());
            rows.push((row, stored.clone()));
            ControlFlow::Continue(())
        });
        if let Err(error) = scanned {
            assert_eq!(error.kind(), ErrorKind::Expired);
            assert!(pin.is_expired() && !pin.reading);
            return;
        }
        assert_eq!(&seen, expected, "a scan at {:?}", pin.seq());
        assert!(rows.is_sorted_by_key(|(row, _)| *row), "nothing was deleted meanwhile");
        self.check_read_by_number(pin);
        for (row, stored) in rows {
            match self.versions.row_exact(row, stored.seq()).unwrap() {
                RowRead::Found(found) => assert!(found.same_content(&stored)),
                other => panic!("{other:?} for a row that a pin covers"),
            }
        }
        for id in IDS {
            let found = match self.versions.find_as_of(id, pin.seq()).unwrap() {
                RowRead::Found(stored) => Some(value_of(&stored)),
                // No version of a row that came later was ever there to be kept.
                RowRead::Absent | RowRead::Expired => None,
            };
            assert_eq!(found, expected.get(id).copied(), "{id} at {:?}", pin.seq());
        }
    }

    /// Rows that are read by their numbers are those read one by one, in the same order.
    fn check_read_by_number(&self, pin: &Pin) {
        let numbers: Vec<RowNo> = (0..=self.next_row).map(|number| RowNo(number * 5 % (self.next_row + 1))).collect();
        let mut read = Vec::new();
        self.versions.read_in_place(pin, &numbers, &mut |row, stored| read.push((row, stored.to_row()))).unwrap();
        let mut expected = numbers.iter().filter_map(|row| match self.versions.row_as_of(*row, pin.seq()).unwrap() {
            RowRead::Found(stored) => Some((*row, stored)),
            RowRead::Absent | RowRead::Expired => None,
        });
        for (row, stored) in read {
            let (expected_row, expected) = expected.next().expect("no other row");
            assert!(row == expected_row && stored.same_content(&expected), "{row:?} at {:?}", pin.seq());
        }
        assert!(expected.next().is_none(), "all rows");
    }

    fn begin_scan(&mut self, parts: usize, reading: bool) {
        let pin = if reading { self.versions.pin_to_read() } else { self.pin() };
        let scan = self.versions.begin_scan(&pin, parts, self.next_row);
        self.scans.push(Scanning { pin, scan, parts, met: Vec::new(), seen: State::new() });
    }

    /// Reads the next part of every scan, or ends it: then it has seen the state of its Seq.
    fn scan_on(&mut self) {
        let (versions, states) = (&self.versions, &self.states);
        self.scans.retain_mut(|Scanning { pin, scan, parts, met, seen }| {
            let mut see = |_: RowNo, stored: StoredRef<'_>| {
                let stored = stored.to_row();
                assert!(seen.insert(stored.id().to_owned(), value_of(&stored)).is_none(), "{} came twice", stored.id());
                ControlFlow::Continue(())
            };
            if met.len() < *parts {
                met.push(versions.scan_part(scan, met.len(), &mut see).unwrap().unwrap());
                return true;
            }
            match versions.scan_rest(scan, met, &mut see) {
                Ok(()) => assert_eq!(seen, &states[&pin.seq()], "a scan in parts at {:?}", pin.seq()),
                Err(error) => assert!(error.kind() == ErrorKind::Expired && pin.is_expired() && !pin.reading),
            }
            false
        });
    }

    /// A snapshot's pin.
    fn pin(&self) -> Pin {
        self.versions.pin_with(|| ((), Seq(0))).0
    }

    fn pin_later(&mut self, reading: bool) {
        let pin = if reading { self.versions.pin_to_read() } else { self.pin() };
        self.pins.push(pin);
    }

    fn check_all(&self) {
        for pin in &self.pins {
            self.check(pin);
        }
        self.check(&self.versions.pin_to_read());
    }

    /// Everything is let go and stored: memory must be empty.
    fn wind_up(&mut self) {
        self.publish();
        self.supersede();
        while !self.unstored.is_empty() {
            self.store_one();
        }
        self.check_all();
        while !self.scans.is_empty() {
            self.scan_on();
        }
        self.pins.clear();
        self.versions.collect();
        assert_eq!(self.versions.stats(), VersionStats::default());
        assert_eq!(self.versions.ids_in_memory.load(Ordering::Relaxed), 0, "ids kept for ever");
        let chains = self.versions.rows.iter().map(|shard| shard.lock().len()).sum::<usize>();
        let names = self.versions.ids.iter().map(|shard| shard.lock().len()).sum::<usize>();
        assert_eq!((chains, names), (0, 0));
        self.check_all();
    }
}

fn value_of(row: &StoredRow) -> i64 {
    row.fields().get("value").and_then(|value| value.as_i64()).unwrap()
}

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Debug, Clone)]
enum Step {
    Put(usize, i64),
    Delete(usize),
    Publish,
    Supersede,
    Store,
    Pin { reading: bool },
    Unpin(usize),
    Collect,
    Check,
    Load { rows: usize, stored_before: usize },
    BeginScan { parts: usize, reading: bool },
    ScanOn,
    LookAhead,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..IDS.len(), 0..3_i64).prop_map(|(id, value)| Step::Put(id, value)),
        3 => (0..IDS.len()).prop_map(Step::Delete),
        4 => Just(Step::Publish),
        2 => Just(Step::Supersede),
        4 => Just(Step::Store),
        2 => any::<bool>().prop_map(|reading| Step::Pin { reading }),
        2 => (0..8_usize).prop_map(Step::Unpin),
        1 => Just(Step::Collect),
        2 => Just(Step::Check),
        1 => load(),
        1 => (1..5_usize, any::<bool>()).prop_map(|(parts, reading)| Step::BeginScan { parts, reading }),
        3 => Just(Step::ScanOn),
        2 => Just(Step::LookAhead),
    ]
}

fn load() -> impl Strategy<Value = Step> {
    (0..=IDS.len(), 0..4_usize).prop_map(|(rows, stored_before)| Step::Load { rows, stored_before })
}

/// Many begin with a first load.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    (load(), prop::collection::vec(step(), 0..120)).prop_map(|(load, rest)| std::iter::once(load).chain(rest).collect())
}

fn run(budget: usize, steps: Vec<Step>) {
    let mut bench = Bench::new(budget);
    for step in steps {
        match step {
            Step::Put(id, value) => bench.put(IDS[id], value),
            Step::Delete(id) => bench.delete(IDS[id]),
            Step::Publish => bench.publish(),
            Step::Supersede => bench.supersede(),
            Step::Store => bench.store_one(),
            Step::Pin { reading } => bench.pin_later(reading),
            Step::Unpin(at) if at < bench.pins.len() => drop(bench.pins.swap_remove(at)),
            Step::Unpin(_) => {}
            Step::Collect => bench.versions.collect(),
            Step::Check => bench.check_all(),
            Step::Load { rows, stored_before } => bench.load(rows, stored_before),
            Step::BeginScan { parts, reading } => bench.begin_scan(parts, reading),
            Step::ScanOn => bench.scan_on(),
            Step::LookAhead => bench.look_ahead(),
        }
    }
    bench.wind_up();
}

proptest! {
    #[test]
    fn every_pin_sees_the_state_of_its_seq_and_nothing_stays_behind(steps in steps()) {
        run(1 << 20, steps);
    }

    #[test]
    fn beyond_the_budget_a_pin_expires_and_never_sees_another_state(
        budget in 0..1_500_usize,
        steps in steps(),
    ) {
        run(budget, steps);
    }
}

#[test]
fn a_pinned_version_survives_its_overwriting_on_the_disk() {
    let mut bench = Bench::new(1 << 20);
    bench.put("a", 1);
    bench.publish();
    bench.store_one();
    let pin = bench.pin();
    bench.put("a", 2);
    bench.publish();
    bench.supersede();
    bench.store_one();
    bench.check(&pin);
    bench.check(&bench.pin());
    assert!(bench.versions.stats().retained_bytes > 0);
    drop(pin);
    bench.wind_up();
}

#[test]
fn the_oldest_pin_expires_when_the_budget_is_full() {
    let mut bench = Bench::new(400);
    bench.put("a", 0);
    bench.publish();
    let oldest = bench.pin();
    bench.put("a", 1);
    bench.publish();
    let newer = bench.pin();
    for value in 2..6 {
        bench.put("a", value);
        bench.put("b", value);
        bench.publish();
        bench.supersede();
        bench.store_one();
    }
    assert!(!oldest.is_expired(), "one version each is within the budget");
    bench.pin_later(false);
    bench.put("a", 6);
    bench.put("b", 6);
    bench.publish();
    bench.supersede();
    assert!(oldest.is_expired() && !bench.pins[0].is_expired());
    assert!(bench.versions.stats().retained_bytes <= 400);
    bench.check(&newer);
    drop((oldest, newer));
    bench.wind_up();
}

#[test]
fn a_row_that_came_back_to_its_stored_content_leaves_memory() {
    let mut bench = Bench::new(1 << 20);
    bench.put("a", 1);
    bench.publish();
    bench.put("a", 2);
    // The store is done with the first version while the second, which comes to nothing, is open.
    bench.store_one();
    bench.put("a", 1);
    bench.wind_up();
}

#[test]
fn a_read_under_way_never_expires_nor_takes_the_place_of_snapshots() {
    let mut bench = Bench::new(300);
    bench.put("a", 0);
    bench.put("b", 0);
    bench.publish();
    bench.pin_later(true);
    for value in 1..10 {
        bench.put("a", value);
        bench.put("b", value);
        bench.publish();
        bench.supersede();
        bench.pin_later(false);
    }
    assert!(bench.versions.stats().retained_bytes > 300);
    assert!(!bench.pins[0].is_expired());
    assert!(!bench.pins.last().unwrap().is_expired(), "nothing of it was overwritten");
    bench.wind_up();
}
