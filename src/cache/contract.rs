//! Contract: what every cache backend must do, as a suite of checks that anybody's backend can run.
//!
//! The functions panic with a message that names the broken promise, so they are called from a test:
//!
//! ```
//! use diorama::cache::{CacheBackend, MemoryBackend, contract};
//! use std::sync::Arc;
//!
//! contract::check(&|| MemoryBackend::new() as Arc<dyn CacheBackend>);
//! ```

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{CacheBackend, CacheBatch, CacheTable, FaultyBackend, MAX_ID_BYTES, MAX_META_KEY_BYTES};
use crate::{ErrorKind, Result, RowNo};

/// Makes a backend for one check.
pub type Make<'a> = &'a dyn Fn() -> Arc<dyn CacheBackend>;

/// Checks a backend while it is open. `make` gives an empty backend of its own at each call.
///
/// # Panics
/// When a promise of [`CacheBackend`] or [`CacheTable`] is broken.
pub fn check(make: Make<'_>) {
    a_batch_is_visible_whole(&*make());
    a_row_moves_when_its_id_gets_another_number(&*make());
    ids_of_any_shape_work(&*make());
    ids_and_meta_keys_out_of_bounds_are_refused(&*make());
    clear_drops_rows_and_ids_but_not_meta(&*make());
    scans_are_ascending_and_stop_when_told(&*make());
    tables_of_any_name_are_apart(&*make());
    every_handle_of_a_name_is_the_same_table(&*make());
    a_forgotten_table_is_gone_and_its_handles_stay_usable(&*make());
    any_history_equals_a_plain_model(&*make());
    a_scan_sees_one_state_while_batches_are_applied(&*make());
    check_under_faults(make);
}

/// Checks what a durable backend keeps. `open` opens the same place at each call, which is empty at the first; the suite
/// drops every handle before it calls `open` again.
///
/// # Panics
/// When a promise of [`CacheBackend`] or [`CacheTable`] is broken.
pub fn check_durable(open: Make<'_>) {
    assert!(open().location().is_some(), "a durable backend says where it keeps its rows");
    rows_ids_and_meta_survive_reopening(open);
    a_history_with_reopening_equals_a_plain_model(open);
    a_forgotten_table_stays_forgotten(open);
}

/// Checks that a storage call which fails, at whichever place of a history, leaves each table as it was before that call
/// or as it would be after it; and that everything works again afterwards. Part of [`check`].
///
/// # Panics
/// When a table is left in a third state.
pub fn check_under_faults(make: Make<'_>) {
    type Plan = fn(&FaultyBackend, u64);
    let plans: [(&str, Plan); 3] = [
        ("before it was made", FaultyBackend::fail_at),
        ("after it was made", FaultyBackend::fail_after),
        ("and all later ones", FaultyBackend::fail_from),
    ];
    for (when, plan) in plans {
        for n in 1.. {
            let backend = FaultyBackend::new(make());
            plan(&backend, n);
            let done = run_until_it_fails(&*backend);
            let is_through = done == HISTORY + 1;
            backend.heal();
            let table = must("open a table after a fault", backend.open_table("faulty"));
            let found = contents(&*table);
            let (before, after) = (model_after(done), model_after((done + 1).min(HISTORY)));
            assert!(
                found == before || found == after,
                "with storage call {n} failing {when}, the table is neither as before nor as after the batch: {found:?}"
            );
            must("apply after a fault", table.apply(&step(HISTORY)));
            assert_eq!(
                must("get after a fault", table.get(RowNo(HISTORY))).as_deref(),
                Some([HISTORY as u8; 3].as_slice()),
                "a row written after a fault is there"
            );
            if is_through {
                break;
            }
        }
    }
}

/// How many batches the history under faults has.
const HISTORY: u64 = 6;

fn step(number: u64) -> CacheBatch {
    let mut batch = CacheBatch { clear: number == 3, ..CacheBatch::default() };
    batch.put(RowNo(number), format!("id {number}"), [number as u8; 3]);
    batch.put(RowNo(100), "every step", [number as u8]);
    if number > 0 {
        batch.delete(RowNo(number - 1), format!("id {}", number - 1));
    }
    batch.set_meta("step", [number as u8]);
    batch
}

/// The number of batches that were applied before a call failed; `HISTORY` + 1 when all calls worked.
fn run_until_it_fails(backend: &dyn CacheBackend) -> u64 {
    let mut done = 0;
    let mut run = || -> Result<()> {
        let table = backend.open_table("faulty")?;
        while done < HISTORY {
            table.apply(&step(done))?;
            done += 1;
            table.count()?;
        }
        backend.sync()
    };
    match run() {
        Ok(()) => HISTORY + 1,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Cache, "an injected fault comes out as it went in: {error}");
            done
        }
    }
}

fn model_after(steps: u64) -> Contents {
    let mut model = Contents::default();
    for number in 0..steps.min(HISTORY) {
        model.apply(&step(number));
    }
    model
}

/// What a table holds, as plainly as it can be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Contents {
    rows: BTreeMap<RowNo, Vec<u8>>,
    ids: BTreeMap<String, RowNo>,
    step: Option<Vec<u8>>,
}

impl Contents {
    fn apply(&mut self, batch: &CacheBatch) {
        if batch.clear {
            self.rows.clear();
            self.ids.clear();
        }
        for op in &batch.ops {
            match op {
                super::CacheOp::Put { row, id, bytes } => {
                    self.rows.insert(*row, bytes.to_vec());
                    self.ids.insert(id.to_string(), *row);
                }
                super::CacheOp::Delete { row, id } => {
                    self.rows.remove(row);
                    if self.ids.get(&**id) == Some(row) {
                        self.ids.remove(&**id);
                    }
                }
            }
        }
        for (key, value) in &batch.meta {
            if key == "step" {
                self.step.clone_from(value);
            }
        }
    }
}

/// Reads a table in every way there is, and checks that they agree.
fn contents(table: &dyn CacheTable) -> Contents {
    let mut found = Contents { step: must("meta", table.meta("step")), ..Contents::default() };
    let scanned = table.scan(RowNo(0), &mut |row, bytes| {
        if let Some((last, _)) = found.rows.last_key_value() {
            assert!(*last < row, "a scan is ascending, but {row} came after {last}");
        }
        found.rows.insert(row, bytes.to_vec());
        ControlFlow::Continue(())
    });
    must("scan", scanned);
    let scanned = table.scan_ids(&mut |id, row| {
        assert!(found.ids.insert(id.to_owned(), row).is_none(), "scan_ids gives each id once, but {id:?} came twice");
        ControlFlow::Continue(())
    });
    must("scan_ids", scanned);
    assert_eq!(must("count", table.count()), found.rows.len() as u64, "count is the number of rows a scan gives");
    for (row, bytes) in &found.rows {
        assert_eq!(
            must("get", table.get(*row)).as_deref(),
            Some(&**bytes),
            "get gives what a scan gives for row {row}"
        );
    }
    for (id, row) in &found.ids {
        assert_eq!(must("lookup", table.lookup(id)), Some(*row), "lookup gives what scan_ids gives for {}", shown(id));
    }
    let ids: Vec<&str> = found.ids.keys().rev().map(|id| &**id).chain(["an id that no row has", ""]).collect();
    let rows: Vec<Option<RowNo>> = ids.iter().map(|id| found.ids.get(*id).copied()).collect();
    assert_eq!(must("lookup_all", table.lookup_all(&ids)), rows, "lookup_all gives what scan_ids gives, in order");
    let wanted: Vec<RowNo> = found.rows.keys().rev().copied().chain([RowNo(u64::MAX - 1)]).collect();
    let mut positions = Vec::new();
    let many = table.get_many(&wanted, &mut |position, bytes| {
        positions.push(position);
        let expected = found.rows.get(&wanted[position]).map(|bytes| &**bytes);
        assert_eq!(bytes, expected, "get_many gives what a scan gives for row {}", wanted[position]);
    });
    must("get_many", many);
    let all = must("get_all", table.get_all(&wanted));
    assert!(
        all.iter().map(Option::as_deref).eq(wanted.iter().map(|row| found.rows.get(row).map(|bytes| &**bytes))),
        "get_all gives what a scan gives, in order"
    );
    assert_eq!(positions, (0..wanted.len()).collect::<Vec<_>>(), "get_many answers once for each row, in order");
    found
}

fn must<T>(what: &str, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {error}"),
    }
}

fn shown(id: &str) -> String {
    if id.len() > 40 { format!("an id of {} bytes", id.len()) } else { format!("the id {id:?}") }
}

fn put_one(row: u64, id: &str, bytes: &[u8]) -> CacheBatch {
    let mut batch = CacheBatch::default();
    batch.put(RowNo(row), id, bytes);
    batch
}

fn a_batch_is_visible_whole(backend: &dyn CacheBackend) {
    let table = must("open_table", backend.open_table("rows"));
    assert_eq!(contents(&*table), Contents::default(), "a new table is empty");
    let mut batch = CacheBatch::default();
    batch.put(RowNo(7), "seven", *b"7");
    batch.put(RowNo(u64::MAX), "last", *b"last");
    batch.put(RowNo(0), "first", []);
    batch.put(RowNo(7), "seven", *b"seven");
    batch.set_meta("step", *b"loaded");
    batch.set_meta("empty", []);
    must("apply", table.apply(&batch));
    let mut model = Contents::default();
    model.apply(&batch);
    assert_eq!(contents(&*table), model, "what was applied is what is read");
    assert_eq!(must("meta", table.meta("empty")), Some(Vec::new()), "an empty meta value is not an absent one");
    assert_eq!(must("meta", table.meta("never set")), None, "a meta key never set has no value");
    assert_eq!(must("get", table.get(RowNo(1))), None, "a row never put is not there");
    assert_eq!(must("lookup", table.lookup("First")), None, "ids are exact");
    assert_eq!(must("lookup", table.lookup("")), None, "no row has the empty id");

    let mut batch = CacheBatch::default();
    batch.delete(RowNo(7), "seven");
    batch.delete(RowNo(8), "never there");
    batch.put(RowNo(9), "brief", *b"gone within its batch");
    batch.delete(RowNo(9), "brief");
    batch.remove_meta("step");
    batch.remove_meta("never set");
    must("apply", table.apply(&batch));
    model.apply(&batch);
    assert_eq!(contents(&*table), model, "deletes take the row, its id and nothing else");
    must("apply an empty batch", table.apply(&CacheBatch::default()));
    assert_eq!(contents(&*table), model, "an empty batch changes nothing");
}

fn a_row_moves_when_its_id_gets_another_number(backend: &dyn CacheBackend) {
    let table = must("open_table", backend.open_table("rows"));
    for id in ["short", &"long ".repeat(1000)] {
        must("apply", table.apply(&put_one(1, id, b"old")));
        must("apply", table.apply(&put_one(2, id, b"new")));
        assert_eq!(must("lookup", table.lookup(id)), Some(RowNo(2)), "a put moves {} to its new row", shown(id));
        assert!(must("get", table.get(RowNo(1))).is_some(), "the row that the id left stays until it is deleted");
        let mut batch = CacheBatch::default();
        batch.delete(RowNo(1), id);
        must("apply", table.apply(&batch));
        assert_eq!(must("lookup", table.lookup(id)), Some(RowNo(2)), "deleting the left row leaves the moved id");
        assert_eq!(must("count", table.count()), 1, "one row is left of the two");
        let mut batch = CacheBatch::default();
        batch.delete(RowNo(2), id);
        batch.put(RowNo(3), id, *b"again");
        batch.delete(RowNo(3), id);
        must("apply", table.apply(&batch));
        assert_eq!(contents(&*table), Contents::default(), "the ops of one id happen in their order");
    }
}

fn ids_of_any_shape_work(backend: &dyn CacheBackend) {
    let mut ids: Vec<String> = [
        "00501",
        "501",
        "0E8",
        "0e8",
        "1.0",
        "1",
        "-1",
        " ",
        " 1",
        "1 ",
        "\0",
        "\0\0",
        "a\0b",
        "a",
        "A",
        "ä",
        "a\u{308}",
        "日本",
        "🦀",
        "\u{10FFFF}",
        "null",
        "../x",
        "a/b",
        "%00",
        "\n",
        "\u{FEFF}a",
    ]
    .map(str::to_owned)
    .to_vec();
    // Around every length at which an index might change its ways, and ids that differ in their last byte only.
    for length in [255, 256, 390, 399, 400, 401, 402, 500, 503, 504, 511, 512, 1024, 4096, 65_535, MAX_ID_BYTES] {
        ids.push("x".repeat(length));
        ids.push(format!("{}y", "x".repeat(length - 1)));
        ids.push(format!("{}\0", "x".repeat(length - 1)));
    }
    let table = must("open_table", backend.open_table("ids"));
    let mut batch = CacheBatch::default();
    for (row, id) in ids.iter().enumerate().rev() {
        batch.put(RowNo(row as u64), id.as_str(), id.as_bytes().iter().copied().take(9).collect::<Vec<u8>>());
    }
    must("apply ids of any shape", table.apply(&batch));
    let mut model = Contents::default();
    model.apply(&batch);
    assert!(contents(&*table) == model, "each id, whatever its shape and length, finds its own row");
    let mut batch = CacheBatch::default();
    for (row, id) in ids.iter().enumerate().step_by(2) {
        batch.delete(RowNo(row as u64), id.as_str());
    }
    must("delete ids of any shape", table.apply(&batch));
    model.apply(&batch);
    assert!(contents(&*table) == model, "deleting an id leaves those that look like it");
}

fn ids_and_meta_keys_out_of_bounds_are_refused(backend: &dyn CacheBackend) {
    let table = must("open_table", backend.open_table("rows"));
    must("apply", table.apply(&put_one(1, "kept", b"kept")));
    let before = contents(&*table);
    let refused = |what: &str, batch: &CacheBatch| {
        match table.apply(batch) {
            Ok(()) => panic!("{what} must be refused"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{what} is refused as invalid, not: {error}"),
        }
        assert_eq!(contents(&*table), before, "a batch refused for {what} changes nothing");
    };
    for (what, id) in [("an empty id", String::new()), ("an id that is too long", "x".repeat(MAX_ID_BYTES + 1))] {
        let mut batch = put_one(2, "good", b"good");
        batch.clear = true;
        batch.put(RowNo(3), id.as_str(), *b"bad");
        batch.set_meta("step", *b"bad");
        refused(what, &batch);
        let mut batch = put_one(2, "good", b"good");
        batch.delete(RowNo(1), id);
        refused(what, &batch);
    }
    for key in [String::new(), "k".repeat(MAX_META_KEY_BYTES + 1)] {
        let mut batch = put_one(2, "good", b"good");
        batch.set_meta(key.as_str(), *b"bad");
        refused("a meta key out of bounds", &batch);
        assert_eq!(must("meta", table.meta(&key)), None, "a meta key out of bounds has no value");
    }
    let longest = "k".repeat(MAX_META_KEY_BYTES);
    let mut batch = CacheBatch::default();
    batch.set_meta(longest.as_str(), *b"good");
    must("apply the longest meta key", table.apply(&batch));
    assert_eq!(must("meta", table.meta(&longest)).as_deref(), Some(b"good".as_slice()), "the longest meta key works");
}

fn clear_drops_rows_and_ids_but_not_meta(backend: &dyn CacheBackend) {
    let table = must("open_table", backend.open_table("rows"));
    let other = must("open_table", backend.open_table("other"));
    must("apply", other.apply(&put_one(1, "other", b"other")));
    let mut batch = CacheBatch::default();
    for row in 0..1000 {
        batch.put(RowNo(row), format!("row {row}"), [0; 50]);
    }
    batch.put(RowNo(1000), "long ".repeat(200), *b"long");
    batch.set_meta("step", *b"kept");
    must("apply", table.apply(&batch));
    let mut model = Contents::default();
    model.apply(&batch);
    let mut batch = put_one(5, "row 5", b"after");
    batch.clear = true;
    must("apply a clearing batch", table.apply(&batch));
    model.apply(&batch);
    assert_eq!(contents(&*table), model, "a clearing batch leaves meta and what it puts itself");
    must("clear", table.apply(&CacheBatch { clear: true, ..CacheBatch::default() }));
    assert_eq!(must("count", table.count()), 0, "a cleared table is empty");
    assert_eq!(must("count", other.count()), 1, "clearing a table leaves its neighbour alone");
}

fn scans_are_ascending_and_stop_when_told(backend: &dyn CacheBackend) {
    let table = must("open_table", backend.open_table("rows"));
    let below = must("open_table", backend.open_table("below"));
    let numbers = [0, 1, 31, 32, 33, 255, 256, 1023, 1024, 65_535, 1 << 32, (1 << 32) + 1, u64::MAX - 1, u64::MAX];
    let mut batch = CacheBatch::default();
    for number in numbers.iter().rev() {
        batch.put(RowNo(*number), number.to_string(), number.to_string().into_bytes());
    }
    must("apply", table.apply(&batch));
    must("apply", below.apply(&put_one(3, "3", b"3")));
    for from in numbers.iter().flat_map(|number| [number.saturating_sub(1), *number, number.saturating_add(1)]) {
        let mut seen = Vec::new();
        let scanned = table.scan(RowNo(from), &mut |row, bytes| {
            assert_eq!(bytes, row.to_string().as_bytes(), "a scan gives each row its own bytes");
            seen.push(row.0);
            ControlFlow::Continue(())
        });
        must("scan", scanned);
        let expected: Vec<u64> = numbers.iter().copied().filter(|number| *number >= from).collect();
        assert_eq!(
            seen, expected,
            "a scan from {from} gives every row from there on, ascending, and none of a neighbour"
        );
    }
    let mut calls = 0;
    let mut stop = || {
        calls += 1;
        if calls % 3 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    must("scan", table.scan(RowNo(0), &mut |_, _| stop()));
    must("scan_ids", table.scan_ids(&mut |_, _| stop()));
    assert_eq!(calls, 6, "a scan ends when its closure breaks");
}

fn tables_of_any_name_are_apart(backend: &dyn CacheBackend) {
    let long = "n".repeat(5000);
    let longer = "n".repeat(5001);
    let names = [
        "a", "A", "a ", "", " ", "a/b", "a\\b", "..", "a\0", "a\0b", "\0", "a:1", "a.b", "日本", "rows", "ids", "meta",
        "tables", "%", "a%00", "con", &long, &longer,
    ];
    for (at, name) in names.iter().enumerate() {
        let table = must("open a table of an odd name", backend.open_table(name));
        assert_eq!(table.name(), *name, "a table has the name it was opened with");
        let mut batch = put_one(1, "same id", name.as_bytes());
        batch.set_meta("step", [at as u8]);
        must("apply", table.apply(&batch));
    }
    for (at, name) in names.iter().enumerate() {
        let table = must("open a table again", backend.open_table(name));
        let mut model = Contents::default();
        let mut batch = put_one(1, "same id", name.as_bytes());
        batch.set_meta("step", [at as u8]);
        model.apply(&batch);
        assert_eq!(contents(&*table), model, "the table {name:?} has its own rows, ids and meta");
    }
    let mut listed = must("tables", backend.tables());
    listed.sort();
    let mut expected: Vec<String> = names.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!(listed, expected, "tables() names each table once");
}

fn every_handle_of_a_name_is_the_same_table(backend: &dyn CacheBackend) {
    let one = must("open_table", backend.open_table("shared"));
    let two = must("open_table", backend.open_table("shared"));
    must("apply", one.apply(&put_one(1, "id", b"bytes")));
    assert_eq!(contents(&*two), contents(&*one), "two handles of one name show the same rows");
}

fn a_forgotten_table_is_gone_and_its_handles_stay_usable(backend: &dyn CacheBackend) {
    must("forget a table that was never there", backend.forget_table("secret"));
    let secret = must("open_table", backend.open_table("secret"));
    let kept = must("open_table", backend.open_table("kept"));
    let mut batch = put_one(1, "id", b"bytes");
    batch.put(RowNo(2), "long ".repeat(200), *b"long");
    batch.set_meta("step", *b"step");
    must("apply", secret.apply(&batch));
    must("apply", kept.apply(&batch));
    let before = contents(&*kept);
    must("forget_table", backend.forget_table("secret"));
    assert_eq!(contents(&*secret), Contents::default(), "an open handle of a forgotten table sees an empty one");
    assert_eq!(must("tables", backend.tables()), ["kept"], "a forgotten table is not listed");
    assert_eq!(contents(&*kept), before, "forgetting a table leaves its neighbour alone");

    must("apply through an old handle", secret.apply(&put_one(9, "new", b"new")));
    let again = must("open_table", backend.open_table("secret"));
    assert_eq!(contents(&*again), contents(&*secret), "old and new handles of a forgotten table are one table");
    assert_eq!(must("count", again.count()), 1, "writing through an old handle makes the table exist again");
    assert_eq!(must("tables", backend.tables()).len(), 2, "a table that exists again is listed again");
    must("forget_table", backend.forget_table("secret"));
    must("open_table", backend.open_table("secret"));
    assert_eq!(must("tables", backend.tables()).len(), 2, "opening a forgotten table makes it exist again");
}

/// A fixed sequence that looks random: the same in every run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn batch(&mut self) -> CacheBatch {
        let mut batch = CacheBatch { clear: self.below(40) == 0, ..CacheBatch::default() };
        for _ in 0..self.below(30) {
            let row = self.below(200);
            // Ids of neighbouring rows meet, so that ids move between rows; some are long.
            let name = (row + self.below(2)) % 200;
            let id = if name.is_multiple_of(7) { format!("{name:>0500}") } else { format!("id {name}") };
            if self.below(3) == 0 {
                batch.delete(RowNo(row), id);
            } else {
                let length = if self.below(20) == 0 { self.below(20_000) } else { self.below(300) };
                batch.put(RowNo(row), id, vec![self.below(256) as u8; length as usize]);
            }
        }
        if self.below(4) == 0 {
            batch.set_meta("step", self.below(1000).to_string().into_bytes());
        }
        batch
    }
}

fn any_history_equals_a_plain_model(backend: &dyn CacheBackend) {
    let mut sequence = Sequence(1);
    let names = ["model one", "model two"];
    let tables = names.map(|name| must("open_table", backend.open_table(name)));
    let mut models = [Contents::default(), Contents::default()];
    for round in 0..200 {
        let at = sequence.below(2) as usize;
        let batch = sequence.batch();
        must("apply", tables[at].apply(&batch));
        models[at].apply(&batch);
        if round % 10 == 0 {
            for (table, model) in tables.iter().zip(&models) {
                assert!(
                    contents(&**table) == *model,
                    "after batch {round} of a history, the table differs from a plain model"
                );
            }
        }
    }
}

/// Each batch gives all rows the same new bytes, in 50 rows of each of several pages or nodes.
fn a_scan_sees_one_state_while_batches_are_applied(backend: &dyn CacheBackend) {
    const ROWS: u64 = 500;
    let version = |version: u64| {
        let mut batch = CacheBatch { clear: version % 5 == 4, ..CacheBatch::default() };
        for row in 0..ROWS {
            batch.put(RowNo(row), format!("id {row}"), version.to_be_bytes());
        }
        batch.set_meta("step", version.to_be_bytes());
        batch
    };
    let table = must("open_table", backend.open_table("frozen"));
    must("apply", table.apply(&version(0)));
    let done = AtomicBool::new(false);
    let all: Vec<RowNo> = (0..ROWS).map(RowNo).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            // Set on a panic too, or the readers would go on for ever.
            let _done = SetOnDrop(&done);
            for number in 1..60 {
                must("apply during scans", table.apply(&version(number)));
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut newest = Vec::new();
                while !done.load(Ordering::Acquire) {
                    let mut seen = Vec::new();
                    let scanned = table.scan(RowNo(0), &mut |_, bytes| {
                        seen.push(bytes.to_vec());
                        ControlFlow::Continue(())
                    });
                    must("scan during batches", scanned);
                    assert_eq!(seen.len() as u64, ROWS, "a scan during a batch sees all rows of one state");
                    assert!(seen.iter().all(|bytes| *bytes == seen[0]), "a scan during a batch never mixes two states");
                    assert!(seen[0] >= newest, "a later scan never sees an older state");
                    let mut many = Vec::new();
                    let got = table.get_many(&all, &mut |_, bytes| many.push(bytes.map(<[u8]>::to_vec)));
                    must("get_many during batches", got);
                    assert!(
                        many.iter().all(|bytes| *bytes == many[0]),
                        "get_many during a batch never mixes two states"
                    );
                    assert_eq!(must("count", table.count()), ROWS, "count during a batch is that of one state");
                    newest = seen.swap_remove(0);
                }
            });
        }
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn rows_ids_and_meta_survive_reopening(open: Make<'_>) {
    let mut model = Contents::default();
    for round in 0..4_u64 {
        let backend = open();
        assert!(
            backend.warnings().is_empty(),
            "a cache closed properly opens without a warning: {:?}",
            backend.warnings()
        );
        let table = must("open_table", backend.open_table("kept"));
        assert_eq!(contents(&*table), model, "at opening {round}, everything applied before is there");
        let mut batch = CacheBatch::default();
        for row in 0..100 {
            batch.put(RowNo(round * 100 + row), format!("id {round}/{row}"), vec![round as u8; row as usize * 50]);
        }
        batch.put(RowNo(10_000 + round), format!("{round}").repeat(3000), *b"long id");
        batch.set_meta("step", round.to_string().into_bytes());
        must("apply", table.apply(&batch));
        model.apply(&batch);
        must("sync", backend.sync());
        assert!(must("file_size", backend.file_size()) > 0, "a durable backend with rows uses some disk");
    }
    assert_eq!(must("tables", open().tables()), ["kept"], "the names of tables survive");
    must("forget_table", open().forget_table("kept"));
}

fn a_history_with_reopening_equals_a_plain_model(open: Make<'_>) {
    let mut sequence = Sequence(2);
    let mut model = Contents::default();
    for round in 0..20 {
        let backend = open();
        let table = must("open_table", backend.open_table("history"));
        assert!(contents(&*table) == model, "after reopening {round}, the table differs from a plain model");
        for _ in 0..10 {
            let batch = sequence.batch();
            must("apply", table.apply(&batch));
            model.apply(&batch);
        }
    }
    must("forget_table", open().forget_table("history"));
}

fn a_forgotten_table_stays_forgotten(open: Make<'_>) {
    {
        let backend = open();
        for name in ["secret", "kept"] {
            let table = must("open_table", backend.open_table(name));
            let mut batch = put_one(1, "id", b"bytes");
            batch.set_meta("step", *b"step");
            must("apply", table.apply(&batch));
        }
        must("forget_table", backend.forget_table("secret"));
    }
    {
        let backend = open();
        assert_eq!(must("tables", backend.tables()), ["kept"], "a forgotten table is not listed after a restart");
        let kept = must("open_table", backend.open_table("kept"));
        assert_eq!(must("count", kept.count()), 1, "the neighbour of a forgotten table survives a restart");
        let new = must("open_table", backend.open_table("new"));
        assert_eq!(contents(&*new), Contents::default(), "a table made after a forgotten one is empty");
        let secret = must("open_table", backend.open_table("secret"));
        assert_eq!(contents(&*secret), Contents::default(), "a forgotten table is empty when it is opened again");
    }
    let backend = open();
    for name in ["secret", "kept", "new"] {
        must("forget_table", backend.forget_table(name));
    }
}
