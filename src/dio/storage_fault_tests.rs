//! A Dio whose storage, cache and journal alike, fails at every n-th call: what was accepted is done once, and what was
//! confirmed stays, whatever fails and however the Dio ends.
//!
//! ```text
//! DIORAMA_STORAGE_FAULTS=1 cargo test --release --lib storage_fault    each call, instead of one in some
//! ```

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::{CacheBackend, CacheBatch, FaultyBackend, LmdbBackend, MemoryBackend};
use crate::journal::faulty_medium;
use crate::lens::Lens;
use crate::sources::MemoryVista;
use crate::sources::memory::Call;
use crate::sync::Waited;
use crate::vista::WriteOp;
use crate::{DeliveryPolicy, Dio, Error, ErrorKind, Record, WriteState, WriteTicket, record};

const LONG: Duration = Duration::from_secs(60);
/// How long a delivery is waited for that faults may put off.
const A_MOMENT: Duration = Duration::from_millis(50);
const NAMED: [i64; 4] = [1, 2, 3, 4];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    /// One call is not made.
    At,
    /// One call is made and reports a failure.
    After,
    /// No call is made any more.
    From,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    ClosedWithFaults,
    Healed,
    Dropped,
}

/// A write, and what was said of it.
#[derive(Debug, Clone)]
struct Noted {
    tag: i64,
    /// Rises from write to write. `None` deletes the row.
    mark: Option<i64>,
    ticket: Option<WriteTicket>,
    accepted: bool,
    confirmed: bool,
    /// It failed, or a later `delete_all` stands for it.
    over: bool,
    /// It was not accepted, and the disk took it when told so.
    refused: bool,
}

/// One source and one cache, with a Dio that comes and goes.
struct World {
    directory: PathBuf,
    source: MemoryVista,
    writes: Vec<Noted>,
    next_mark: i64,
    seen: usize,
    keys: HashSet<String>,
    /// What is being done, for who has to understand a failure.
    at: String,
    /// Whether the disk takes anything before the end.
    disk_recovers: bool,
}

fn policy() -> DeliveryPolicy {
    let at_once = Duration::from_millis(1);
    DeliveryPolicy::default().first_delay(at_once).max_delay(at_once).probe_every(at_once).deadline(LONG)
}

fn id(tag: i64) -> String {
    format!("r{tag}")
}

impl World {
    fn new(directory: &Path) -> Self {
        let row = |tag: i64| (id(tag), record! { "tag" => tag, "mark" => 0 });
        let source = MemoryVista::new("things", "id").with_source_key("things").with_rows(NAMED.map(row));
        World {
            directory: directory.to_owned(),
            source: source.assign_ids_from("s"),
            writes: Vec::new(),
            next_mark: 100,
            seen: 0,
            keys: HashSet::new(),
            at: String::new(),
            disk_recovers: true,
        }
    }

    fn open(&self) -> (std::sync::Arc<FaultyBackend>, Lens) {
        let backend = FaultyBackend::new(LmdbBackend::open(&self.directory).unwrap());
        faulty_medium::fail_with(&self.directory, backend.faults());
        let lens = Lens::new().cache_source(backend.clone()).delivery(policy()).build().unwrap();
        (backend, lens)
    }

    /// Writes while something fails, and ends with writes that are not delivered. Says how many calls there were.
    fn live(&mut self, mode: Mode, n: u64, ending: Ending) -> u64 {
        self.at = format!("{mode:?} {n}, {ending:?}, the first life");
        self.disk_recovers = mode != Mode::From || ending == Ending::Healed;
        self.source.set_offline(false);
        let (backend, lens) = self.open();
        arm(&backend, mode, n);
        let dio = match lens.make_dio(self.source.clone()) {
            Ok(dio) => Some(dio),
            // Only one call fails then.
            Err(_) => lens.make_dio(self.source.clone()).ok(),
        };
        if let Some(dio) = &dio {
            let first = self.insert(dio);
            for tag in [1, 2] {
                self.patch(dio, &id(tag), tag);
            }
            if let Some((named, tag)) = first {
                self.patch(dio, &named, tag);
            }
            let _ = dio.wait_for_writes(A_MOMENT);
            let _ = dio.refresh();
            self.note(dio);
            self.source.set_offline(true);
            self.patch(dio, &id(3), 3);
            self.write(dio, 4, None, WriteOp::delete(id(4)));
            self.patch(dio, &id(1), 1);
            self.insert(dio);
            self.upsert(dio, 4);
            self.note(dio);
        }
        end(&backend, lens, dio, ending);
        self.note_ends();
        backend.calls()
    }

    /// Opens it again while something fails.
    fn meet(&mut self, mode: Mode, n: u64, ending: Ending) -> u64 {
        self.at = format!("{mode:?} {n}, {ending:?}, the second life");
        self.disk_recovers = mode != Mode::From || ending == Ending::Healed;
        let (backend, lens) = self.open();
        arm(&backend, mode, n);
        let dio = lens.make_dio(self.source.clone()).ok();
        if let Some(dio) = &dio {
            self.patch(dio, &id(2), 2);
            self.note(dio);
        }
        end(&backend, lens, dio, ending);
        self.note_ends();
        backend.calls()
    }

    /// Without faults: everything accepted is there, and goes to the source.
    fn recover(&mut self) {
        let (_, lens) = self.open();
        let dio = lens.make_dio(self.source.clone()).unwrap();
        self.check_shown(&dio);
        self.source.set_offline(false);
        dio.wait_for_writes(LONG).unwrap_or_else(|error| panic!("{}: {error}: {:?}", self.at, dio.pending_writes()));
        for failed in dio.failed_writes() {
            let mark = failed.op.record().and_then(|record| record.int("mark"));
            let is_known = |write: &Noted| write.over || !write.accepted || self.is_orphaned(write.tag);
            let is_known = self.writes.iter().any(|write| write.mark == mark && is_known(write));
            assert!(is_known, "{}: {failed:?}", self.at);
            dio.clear_failed(failed.number).unwrap();
        }
        // The first one may join one that began before the writes were settled.
        dio.refresh().and_then(|()| dio.refresh()).unwrap();
        self.check_effects();
        let shown: BTreeMap<String, Record> = rows(&dio);
        let expected: BTreeMap<String, Record> = self.source.rows().into_iter().collect();
        assert_eq!(shown, expected, "{}", self.at);
        // All four are there for the next time, and not too many others.
        let others = self.source.rows().into_iter().filter(|(id, _)| id.starts_with('s'));
        for (other, _) in others.take(2) {
            let tag = self.source.row(&other).and_then(|row| row.int("tag")).unwrap();
            self.write(&dio, tag, None, WriteOp::delete(other));
        }
        dio.wait_for_writes(LONG).unwrap();
        dio.flush().unwrap();
        self.note(&dio);
        self.check_effects();
        drop(dio);
        let report = lens.close(LONG).unwrap();
        assert!(report.is_closed() && report.kept == 0, "{}: {report:?}", self.at);
        self.writes.clear();
    }

    /// Whether the row's insert was refused: what was written over it, and accepted, is a write of no row then.
    fn is_orphaned(&self, tag: i64) -> bool {
        let insert = self.writes.iter().find(|write| write.tag == tag).filter(|_| tag > NAMED[3]);
        insert.is_some_and(|insert| insert.ticket.is_none() && !insert.accepted)
    }

    fn mark(&mut self) -> i64 {
        self.next_mark += 1;
        self.next_mark
    }

    fn patch(&mut self, dio: &Dio, id: &str, tag: i64) {
        let mark = self.mark();
        self.write(dio, tag, Some(mark), WriteOp::patch(id, record! { "mark" => mark }));
    }

    fn upsert(&mut self, dio: &Dio, tag: i64) {
        let mark = self.mark();
        self.write(dio, tag, Some(mark), WriteOp::upsert(id(tag), record! { "tag" => tag, "mark" => mark }));
    }

    /// Its first id, and its tag.
    fn insert(&mut self, dio: &Dio) -> Option<(String, i64)> {
        let mark = self.mark();
        let ticket = self.write(dio, mark, Some(mark), WriteOp::insert(record! { "tag" => mark, "mark" => mark }))?;
        Some((ticket.id()?.to_string(), mark))
    }

    fn write(&mut self, dio: &Dio, tag: i64, mark: Option<i64>, op: WriteOp) -> Option<WriteTicket> {
        // Refused: it leaves no trace.
        let ticket = dio.write(op).ok()?;
        self.writes.push(Noted {
            tag,
            mark,
            ticket: Some(ticket.clone()),
            accepted: false,
            confirmed: false,
            over: false,
            refused: false,
        });
        Some(ticket)
    }

    fn note(&mut self, _: &Dio) {
        for write in &mut self.writes {
            if let Some(ticket) = &write.ticket {
                write.accepted |= ticket.wait_durable(LONG).is_ok();
            }
        }
        self.note_states();
    }

    fn note_states(&mut self) {
        let mut refused: HashSet<i64> = HashSet::new();
        for write in &mut self.writes {
            let Some(ticket) = &write.ticket else { continue };
            match ticket.state() {
                WriteState::Confirmed(_) => write.confirmed = true,
                WriteState::Superseded { .. } => write.over = true,
                WriteState::Kept => assert!(ticket.is_durable(), "{}: {write:?}", self.at),
                WriteState::Rejected(error) => {
                    // With the insert of its row, which was refused.
                    let is_orphan = error.kind() == ErrorKind::NotFound && refused.contains(&write.tag);
                    assert!(is_orphan || !write.accepted, "{}: accepted, but {error}: {write:?}", self.at);
                    // One that was refused may be found all the same if the disk takes nothing any more.
                    write.refused = !write.accepted && self.disk_recovers;
                    write.over = write.accepted;
                    refused.insert(write.tag);
                }
                WriteState::Unknown(error) => panic!("{}: {error}: {write:?}", self.at),
                _ => {}
            }
        }
    }

    /// The Dio is gone: nobody may wait for a ticket any more.
    fn note_ends(&mut self) {
        self.note_states();
        for write in &mut self.writes {
            if let Some(ticket) = write.ticket.take() {
                write.accepted |= ticket.is_durable();
                assert!(ticket.state().has_ended(), "{}: {ticket:?}", self.at);
            }
        }
    }

    /// Each row shows the last write of it that was accepted, or a later one that may have been.
    fn check_shown(&self, dio: &Dio) {
        let mut shown: BTreeMap<i64, i64> = BTreeMap::new();
        let pending: HashSet<String> =
            dio.pending_writes().iter().filter_map(|write| Some(write.id.as_ref()?.to_string())).collect();
        let mut is_pending: BTreeMap<i64, bool> = BTreeMap::new();
        for (id, row) in rows(dio) {
            let (tag, mark) = (row.int("tag").unwrap(), row.int("mark").unwrap());
            let other = shown.insert(tag, mark);
            // One whose answer was lost with the first life may show beside the row that it made, until it is repeated.
            let may_be = pending.contains(&id) | is_pending.insert(tag, pending.contains(&id)).unwrap_or_default();
            assert!(other.is_none() || (may_be && tag > NAMED[3]), "{}: row {tag} shows twice", self.at);
            shown.insert(tag, mark.max(other.unwrap_or(mark)));
        }
        let tags: HashSet<i64> = self.writes.iter().map(|write| write.tag).collect();
        for tag in tags {
            let of_row: Vec<&Noted> = self.writes.iter().filter(|write| write.tag == tag && !write.over).collect();
            let last = of_row.iter().rposition(|write| write.accepted || write.confirmed);
            let may_show = of_row[last.unwrap_or(0)..].iter().filter(|write| !write.refused);
            let mut allowed: Vec<Option<i64>> = may_show.map(|write| write.mark).collect();
            if self.is_orphaned(tag) {
                allowed.push(None);
            }
            if last.is_none() {
                // None of them may have been accepted.
                let before = self.source.rows().into_iter().find(|(_, row)| row.int("tag") == Some(tag));
                allowed.push(before.and_then(|(_, row)| row.int("mark")));
            }
            let found = shown.get(&tag).copied();
            assert!(allowed.contains(&found), "{}: row {tag} shows {found:?}, not {allowed:?}: {of_row:#?}", self.at);
        }
    }

    /// What was accepted was done once, and what wasn't not twice.
    fn check_effects(&mut self) {
        let done: Vec<_> = self.source.writes().into_iter().filter(|write| write.done).collect();
        for write in &done[self.seen..] {
            let key = write.idempotency_key.clone().unwrap();
            assert!(self.keys.insert(key), "{}: done twice: {write:?}", self.at);
        }
        for write in self.writes.iter().filter(|write| write.accepted && !write.over) {
            let is_it = |op: &WriteOp| match (write.mark, op) {
                (Some(mark), op) => op.record().is_some_and(|record| record.int("mark") == Some(mark)),
                (None, WriteOp::Delete { .. }) => true,
                (None, _) => false,
            };
            let times = done.iter().filter(|done| is_it(&done.op)).count();
            let is_once = if write.mark.is_some() { times == 1 } else { times > 0 };
            let is_once = is_once || (times == 0 && self.is_orphaned(write.tag));
            assert!(is_once, "{}: done {times} times: {write:?}", self.at);
        }
        self.seen = done.len();
    }
}

fn rows(dio: &Dio) -> BTreeMap<String, Record> {
    let view = dio.table_scenery().open().unwrap();
    let snapshot = view.snapshot();
    snapshot.iter().map(|row| (row.id().to_owned(), row.record().unwrap().clone())).collect()
}

fn arm(backend: &FaultyBackend, mode: Mode, n: u64) {
    match mode {
        Mode::At => backend.fail_at(n),
        Mode::After => backend.fail_after(n),
        Mode::From => backend.fail_from(n),
    }
}

fn end(backend: &FaultyBackend, lens: Lens, dio: Option<Dio>, ending: Ending) {
    if ending == Ending::Healed {
        backend.heal();
    }
    if ending == Ending::Dropped {
        drop(dio);
    }
    let report = lens.close(LONG).unwrap();
    assert!(report.is_closed(), "{report:?}");
}

#[test]
fn whatever_call_of_the_storage_fails_no_accepted_write_is_lost() {
    let every = if std::env::var_os("DIORAMA_STORAGE_FAULTS").is_some() { 1 } else { 13 };
    let chance = RandomState::new();
    for mode in [Mode::At, Mode::After, Mode::From] {
        let directory = tempfile::tempdir().unwrap();
        let mut world = World::new(directory.path());
        world.live(mode, u64::MAX / 2, Ending::Healed);
        world.recover();
        // Which ones of all differ from run to run.
        let mut n = 1 + chance.hash_one(mode as u8) % every;
        let (mut first_ends, mut second_ends) = (false, false);
        while !first_ends || !second_ends {
            let ending = [Ending::ClosedWithFaults, Ending::Healed, Ending::Dropped][(n / every % 3) as usize];
            first_ends = world.live(mode, n, ending) < n;
            second_ends = world.meet(mode, n, ending) < n;
            world.recover();
            n += every;
        }
        eprintln!("{mode:?}: up to {n}");
    }
}

#[test]
fn a_write_of_a_row_that_is_damaged_in_the_cache_is_delivered_and_the_row_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::new(directory.path());
    {
        let (_, lens) = world.open();
        let dio = lens.make_dio(world.source.clone()).unwrap();
        dio.flush().unwrap();
        world.source.set_offline(true);
        world.patch(&dio, &id(2), 2);
        world.note(&dio);
        drop(dio);
        assert!(lens.close(LONG).unwrap().is_closed());
    }
    {
        let backend = LmdbBackend::open(directory.path()).unwrap();
        let table = backend.open_table("things").unwrap();
        let row = table.lookup("r2").unwrap().unwrap();
        let mut batch = CacheBatch::default();
        batch.put(row, "r2", b"no row".as_slice());
        table.apply(&batch).unwrap();
    }
    let (_, lens) = world.open();
    let dio = lens.make_dio(world.source.clone()).unwrap();
    assert_eq!(dio.pending_writes().len(), 1);
    world.source.set_offline(false);
    dio.wait_for_writes(LONG).unwrap();
    dio.refresh().and_then(|()| dio.refresh()).unwrap();
    let expected: BTreeMap<String, Record> = world.source.rows().into_iter().collect();
    assert_eq!(rows(&dio), expected);
    assert_eq!(expected["r2"].int("mark"), world.writes[0].mark);
    world.check_effects();
    dio.flush().unwrap();
    drop(dio);
    assert!(lens.close(LONG).unwrap().is_closed());
}

/// Else a crash would have the refused write delivered again, over the later one.
#[test]
fn what_comes_after_a_refused_write_waits_until_the_journal_has_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let journal = FaultyBackend::new(MemoryBackend::new());
    faulty_medium::fail_with(directory.path(), journal.faults());
    let row = |tag: i64| (id(tag), record! { "id" => id(tag), "mark" => 0 });
    let source = MemoryVista::new("things", "id").with_rows([1, 2].map(row));
    let lens = Lens::new().cache_at(directory.path()).delivery(policy()).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    source.fail_next(Call::Patch, 1, Error::new(ErrorKind::Rejected, "not this one"));
    let held = source.hold(Call::Patch);
    let [refused, later, other] = [(1, 1), (1, 2), (2, 3)].map(|(tag, mark)| {
        let ticket = dio.write(WriteOp::patch(id(tag), record! { "mark" => mark })).unwrap();
        ticket.wait_durable(LONG).unwrap();
        ticket
    });
    assert!(held.wait_until_held(1, LONG));
    journal.fail_from(1);
    held.release();
    assert_eq!(refused.wait(LONG).unwrap_err().kind(), ErrorKind::Rejected);
    other.wait(LONG).unwrap();
    loop {
        let seen = later.moves().get();
        match later.state() {
            WriteState::Waiting { error, .. } => break assert_eq!(error.kind(), ErrorKind::Cache),
            state => assert!(!state.has_ended(), "{state:?}"),
        }
        let moved = later.moves().wait_until(seen + 1, Some(LONG));
        assert!(matches!(moved, Waited::Reached(_)), "{:?}", later.state());
    }
    assert_eq!(source.calls(Call::Patch), 2);
    journal.heal();
    later.wait(LONG).unwrap();
    let expected: BTreeMap<String, Record> = source.rows().into_iter().collect();
    assert_eq!(expected["r1"].int("mark"), Some(2));
    assert_eq!(rows(&dio), expected);
    drop(dio);
    assert!(lens.close(LONG).unwrap().is_closed());
}
