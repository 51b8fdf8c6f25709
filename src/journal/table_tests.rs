use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use proptest::prelude::*;

use super::record::{self, Accepted, Before, Fact, Said};
use super::registry::PathJournal;
use super::tests::{FakeDisk, SMALL};
use super::*;
use crate::value::{Record, StoredRow, Value};
use crate::vista::WriteOp;
use crate::{Error, ErrorKind, Result, Seq, record};

const MUCH: u64 = 1 << 20;

fn path_on(disk: &FakeDisk, capacity: u64) -> Result<Arc<PathJournal>> {
    PathJournal::open("test:journal".into(), disk.clone(), SMALL, capacity, None).map(Arc::new)
}

fn table_on(disk: &FakeDisk, synced: u64) -> (TableJournal, Replay) {
    path_on(disk, MUCH).unwrap().table("airports", Seq(synced), 0).unwrap()
}

fn answer() -> (Answer, Receiver<Result<()>>) {
    let (sender, receiver) = unbounded();
    (Box::new(move |result| sender.send(result).unwrap()), receiver)
}

fn awaited(receiver: &Receiver<Result<()>>) -> Result<()> {
    receiver.recv_timeout(Duration::from_secs(60)).unwrap()
}

/// Says it and waits until it is durable, or can't be.
fn said(say: impl FnOnce(Answer)) -> Result<()> {
    let (answer, receiver) = answer();
    say(answer);
    awaited(&receiver)
}

fn op(write: u64) -> WriteOp {
    WriteOp::patch(format!("id-{write}"), record! { "name" => format!("name {write}") })
}

fn accept(journal: &TableJournal, write: u64) -> Result<()> {
    let op = op(write);
    let room = journal.reserve(bytes_for(&op))?;
    let key = journal.key(write);
    let accepted = Acceptance { write, key: &key, op: &op, before: None, at: 5 };
    said(|answer| journal.accept(room, accepted, answer))
}

fn end(journal: &TableJournal, write: u64, outcome: Outcome) -> Result<()> {
    said(|answer| journal.outcome(write, &outcome, Some(answer)))
}

fn confirmed(seq: u64) -> Confirmed {
    Confirmed { id: Some("00M".into()), row: None, deleted: false, seq: Seq(seq) }
}

fn failed() -> Outcome {
    Outcome::Failed { kind: ErrorKind::Rejected, message: "no".into() }
}

fn numbers(replay: &Replay) -> Vec<u64> {
    replay.writes.iter().map(|write| write.write).collect()
}

#[test]
fn an_accepted_write_comes_back_as_it_was() {
    let disk = FakeDisk::default();
    let (journal, replay) = table_on(&disk, 0);
    assert!(replay.writes.is_empty() && replay.warnings.is_empty());
    let before = record! { "name" => "Old", "at" => Value::Tag(0, Box::new("2026-01-01T00:00:00Z".into())) };
    let write = replay.next_write;
    let (key, op) = (journal.key(write), op(write));
    let before = StoredRow::encode(&format!("id-{write}"), &before, 3);
    let accepted = Acceptance { write, key: &key, op: &op, before: Some(&before), at: 17 };
    said(|answer| journal.accept(journal.reserve(1_000).unwrap(), accepted, answer)).unwrap();
    said(|answer| journal.attempted(write, answer)).unwrap();
    let (_, replay) = table_on(&disk.crash(0, None, false), 0);
    let expected = Recovered {
        write,
        key,
        op,
        before: Some(Before(before)),
        accepted_at: 17,
        attempted: true,
        state: RecoveredState::Pending,
    };
    assert_eq!(replay.writes, [expected]);
    assert!(replay.next_write > write);
}

/// Passes on what an acceptor hears: the writes of each call, and why not where they are refused.
struct Heard(Sender<(Vec<u64>, Option<ErrorKind>)>);

impl Heard {
    fn number(write: &Applicant) -> u64 {
        *write.downcast_ref().unwrap()
    }
}

impl Acceptor for Heard {
    fn accepted(&self, writes: Vec<Applicant>) {
        self.0.send((writes.iter().map(Heard::number).collect(), None)).unwrap();
    }

    fn refused(&self, write: Applicant, error: Error) {
        self.0.send((vec![Heard::number(&write)], Some(error.kind()))).unwrap();
    }
}

/// Hands writes over as one.
fn hand_over(journal: &TableJournal, heard: &Arc<Heard>, writes: impl IntoIterator<Item = u64>) {
    let mut handing = journal.hand_over(heard.clone());
    for write in writes {
        let (key, op) = (journal.key(write), op(write));
        let accepted = Acceptance { write, key: &key, op: &op, before: None, at: 5 };
        handing.accept(journal.reserve(bytes_for(&op)).unwrap(), accepted, Arc::new(write));
    }
}

/// Has the journal's thread stand still in an answer, about this write, until what is returned is dropped.
fn hold_thread(journal: &TableJournal, write: u64) -> Sender<()> {
    let (release, held) = bounded::<()>(0);
    let (sender, is_held) = bounded(1);
    let op = op(write);
    let (key, room) = (journal.key(write), journal.reserve(bytes_for(&op)).unwrap());
    let accepted = Acceptance { write, key: &key, op: &op, before: None, at: 5 };
    let hold = move |_| {
        sender.send(()).unwrap();
        let _ = held.recv();
    };
    journal.accept(room, accepted, Box::new(hold));
    is_held.recv_timeout(Duration::from_secs(60)).unwrap();
    release
}

#[test]
fn acceptances_that_share_a_sync_are_told_as_one_to_whom_they_concern() {
    let path = path_on(&FakeDisk::default(), MUCH).unwrap();
    let (journal, _) = path.table("airports", Seq(0), 0).unwrap();
    let (others, _) = path.table("runways", Seq(0), 0).unwrap();
    let ((sender, heard), (other_sender, other_heard)) = (unbounded(), unbounded());
    let (acceptor, other) = (Arc::new(Heard(sender)), Arc::new(Heard(other_sender)));
    let release = hold_thread(&journal, 1);
    hand_over(&journal, &acceptor, [2, 3]);
    hand_over(&others, &other, [2]);
    let (answer, attempted) = answer();
    journal.attempted(2, answer);
    hand_over(&others, &other, [3]);
    hand_over(&journal, &acceptor, [4]);
    drop(release);
    awaited(&attempted).unwrap();
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [(vec![2, 3, 4], None)], "before the other answers");
    assert_eq!(other_heard.try_iter().collect::<Vec<_>>(), [(vec![2, 3], None)]);
}

#[test]
fn whatever_fails_each_acceptance_is_told_once_and_those_accepted_are_found() {
    for late in [false, true] {
        for call in 0..12 {
            let disk = FakeDisk::default();
            let path = path_on(&disk, MUCH).unwrap();
            let (journal, _) = path.table("airports", Seq(0), 0).unwrap();
            let (sender, heard) = unbounded();
            let acceptor = Arc::new(Heard(sender));
            let release = hold_thread(&journal, 1);
            disk.fail_after(call, late);
            hand_over(&journal, &acceptor, 2..=4);
            hand_over(&journal, &acceptor, 5..=6);
            drop(release);
            path.close();
            hand_over(&journal, &acceptor, [7]);
            drop(acceptor);
            let told: Vec<(Vec<u64>, Option<ErrorKind>)> = heard.iter().collect();
            let mut all: Vec<u64> = told.iter().flat_map(|(writes, _)| writes.iter().copied()).collect();
            all.sort_unstable();
            assert_eq!(all, [2, 3, 4, 5, 6, 7], "{call} {late}");
            assert_eq!(told.last(), Some(&(vec![7], Some(ErrorKind::Closed))));
            let accepted = told.iter().filter(|(_, refused)| refused.is_none());
            let accepted: Vec<u64> = [1].into_iter().chain(accepted.flat_map(|(writes, _)| writes.clone())).collect();
            let (_, replay) = table_on(&disk.crash(0, None, true), 0);
            assert_eq!(numbers(&replay), accepted, "{call} {late}");
            drop((journal, path));
        }
    }
}

#[test]
fn each_state_comes_back_and_what_is_over_does_not() {
    let disk = FakeDisk::default();
    let (journal, _) = table_on(&disk, 0);
    for write in 1..=9 {
        accept(&journal, write).unwrap();
    }
    let row = StoredRow::encode("00M", &record! { "name" => "Thigpen" }, 3);
    let with_row = Confirmed { row: Some(row), ..confirmed(8) };
    end(&journal, 2, Outcome::Confirmed(with_row.clone())).unwrap();
    end(&journal, 3, failed()).unwrap();
    end(&journal, 4, Outcome::Unknown { message: "cut off".into() }).unwrap();
    end(&journal, 5, Outcome::Cancelled).unwrap();
    end(&journal, 6, Outcome::Superseded { by: 7 }).unwrap();
    end(&journal, 8, failed()).unwrap();
    end(&journal, 8, Outcome::Cleared).unwrap();
    end(&journal, 9, failed()).unwrap();
    said(|answer| journal.rewrite(9, &op(99), Vec::new(), answer)).unwrap();
    let (journal, replay) = table_on(&disk.crash(0, None, false), 7);
    assert_eq!(numbers(&replay), [1, 2, 3, 4, 7, 9]);
    let states: Vec<RecoveredState> = replay.writes.iter().map(|write| write.state.clone()).collect();
    assert_eq!(
        states,
        [
            RecoveredState::Pending,
            RecoveredState::Confirmed(with_row),
            RecoveredState::Failed { kind: ErrorKind::Rejected, message: "no".into() },
            RecoveredState::Unknown { message: "cut off".into() },
            RecoveredState::Pending,
            RecoveredState::Pending,
        ]
    );
    assert_eq!(replay.writes[5].op, op(99), "a failed one that is tried anew, with another content");
    journal.reapplied(2, Seq(8));
    assert_eq!(journal.len(), 6);
    journal.cache_synced(Seq(8));
    assert_eq!(journal.len(), 5);
    let (_, replay) = table_on(&disk.crash(0, None, false), 8);
    assert_eq!(numbers(&replay), [1, 3, 4, 7, 9], "what the cache holds needs no outcome");
}

#[test]
fn writes_that_were_taken_in_end_with_the_one_that_took_them() {
    let disk = FakeDisk::default();
    let (journal, _) = table_on(&disk, 0);
    for write in 1..=5 {
        accept(&journal, write).unwrap();
    }
    said(|answer| journal.rewrite(2, &op(20), vec![3], answer)).unwrap();
    said(|answer| journal.rewrite(1, &op(10), vec![2, 4], answer)).unwrap();
    end(&journal, 2, Outcome::Superseded { by: 1 }).unwrap();
    assert_eq!(journal.len(), 2);
    let crashed = disk.crash(0, None, false);
    let (again, replay) = table_on(&crashed, 0);
    assert_eq!(numbers(&replay), [1, 5]);
    assert_eq!(replay.writes[0].op, op(10));
    assert_eq!(again.len(), 2);
    for journal in [journal, again] {
        end(&journal, 1, Outcome::Confirmed(confirmed(3))).unwrap();
        journal.cache_synced(Seq(3));
        assert_eq!(journal.len(), 1);
    }
    for disk in [disk, crashed] {
        assert_eq!(numbers(&table_on(&disk.crash(0, None, false), 3).1), [5]);
    }
}

/// A patch of one field.
fn field(name: &str) -> WriteOp {
    WriteOp::patch("00M", record! { name => 1 })
}

/// Three patches of a row, of which the first has taken in the others.
fn three_as_one(disk: &FakeDisk) -> TableJournal {
    let (journal, _) = table_on(disk, 0);
    for (write, name) in (1..).zip(["a", "b", "c"]) {
        let op = field(name);
        let accepted = Acceptance { write, key: name, op: &op, before: None, at: 5 };
        said(|answer| journal.accept(journal.reserve(1_000).unwrap(), accepted, answer)).unwrap();
    }
    let all = WriteOp::patch("00M", record! { "a" => 1, "b" => 1, "c" => 1 });
    said(|answer| journal.rewrite(1, &all, vec![2, 3], answer)).unwrap();
    journal
}

fn ops(replay: &Replay) -> Vec<(u64, WriteOp)> {
    replay.writes.iter().map(|write| (write.write, write.op.clone())).collect()
}

#[test]
fn a_write_that_is_cancelled_gives_back_those_that_it_had_taken_in() {
    let disk = FakeDisk::default();
    let journal = three_as_one(&disk);
    assert!(journal.has_taken_in(1, &[2, 3]) && !journal.has_taken_in(1, &[2]));
    end(&journal, 1, Outcome::Cancelled).unwrap();
    assert_eq!(journal.len(), 2);
    let (again, replay) = table_on(&disk.crash(0, None, false), 0);
    assert_eq!(ops(&replay), [(2, field("b")), (3, field("c"))]);
    assert_eq!(again.len(), 2);
    // They go as one again, and what stands for them is cancelled by a later run: nothing is left then.
    said(|answer| journal.rewrite(2, &op(20), vec![3], answer)).unwrap();
    let disk = disk.crash(0, None, false);
    let (again, replay) = table_on(&disk, 0);
    assert_eq!(ops(&replay), [(2, op(20))]);
    end(&again, 2, Outcome::Cancelled).unwrap();
    assert_eq!(again.len(), 0);
    assert!(table_on(&disk.crash(0, None, false), 0).1.writes.is_empty());
}

#[test]
fn a_write_whose_row_goes_by_another_id_keeps_what_it_took_in() {
    let disk = FakeDisk::default();
    let journal = three_as_one(&disk);
    journal.renamed(1, &WriteOp::patch("01N", record! { "a" => 1 }));
    end(&journal, 3, Outcome::Cancelled).unwrap();
    let (_, replay) = table_on(&disk.crash(0, None, false), 0);
    assert_eq!(ops(&replay), [(1, WriteOp::patch("01N", record! { "a" => 1, "b" => 1 }))]);
}

#[test]
fn a_write_that_was_taken_in_and_is_cancelled_is_left_out() {
    let disk = FakeDisk::default();
    let journal = three_as_one(&disk);
    end(&journal, 2, Outcome::Cancelled).unwrap();
    assert!(journal.has_taken_in(1, &[3]));
    let without = WriteOp::patch("00M", record! { "a" => 1, "c" => 1 });
    let crashed = disk.crash(0, None, false);
    let (again, replay) = table_on(&crashed, 0);
    assert_eq!(ops(&replay), [(1, without)]);
    end(&again, 1, Outcome::Cancelled).unwrap();
    assert!(table_on(&crashed.crash(0, None, false), 0).1.writes.is_empty());
    end(&journal, 1, Outcome::Cancelled).unwrap();
    assert_eq!(journal.len(), 1);
    let disk = disk.crash(0, None, false);
    let (again, replay) = table_on(&disk, 0);
    assert_eq!(ops(&replay), [(3, field("c"))]);
    end(&again, 3, failed()).unwrap();
    end(&again, 3, Outcome::Cleared).unwrap();
    assert_eq!(again.len(), 0);
}

#[test]
fn an_outcome_without_its_acceptance_says_nothing() {
    let disk = FakeDisk::default();
    let (journal, _) = table_on(&disk, 0);
    end(&journal, 7, failed()).unwrap();
    assert_eq!((journal.len(), journal.reserve(0).is_ok()), (0, true));
    let entries =
        vec![(1, record::outcome("airports", 7, &failed()).unwrap()), (2, record::attempted("airports", 8).unwrap())];
    let folded = super::replay::fold(&entries);
    assert!(folded.writes.is_empty() && folded.warnings.is_empty());
    assert_eq!(folded.over.numbers, [1, 2]);
    // Nor does that of a write taken in, when the acceptance of the one that took it is gone, as after a crash in between.
    let key = "k";
    let taken_in = Acceptance { write: 9, key, op: &op(9), before: None, at: 0 };
    let entries = vec![
        (3, record::accepted("airports", taken_in).unwrap()),
        (4, record::rewritten("airports", 8, &op(8), &[9]).unwrap()),
    ];
    let mut folded = super::replay::fold(&entries);
    folded.over.numbers.sort_unstable();
    assert!(folded.writes.is_empty());
    assert_eq!(folded.over.numbers, [3, 4]);
}

#[test]
fn a_full_journal_refuses_before_anything_is_written() {
    let disk = FakeDisk::default();
    let path = path_on(&disk, 1_000).unwrap();
    let (journal, _) = path.table("airports", Seq(0), 0).unwrap();
    let error = journal.reserve(1_001).err().unwrap();
    assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Invalid, Some("journal_capacity")));
    let held = journal.reserve(600).unwrap();
    let calls = disk.calls();
    let error = journal.reserve(401).err().unwrap();
    assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Full, Some("journal_capacity")));
    assert!(error.message().contains("journal_capacity") && error.context("table") == Some("airports"), "{error}");
    assert_eq!(disk.calls(), calls);
    let freed = journal.freed().get();
    drop(held);
    assert!(journal.freed().get() > freed);
    // What has room once is taken, however large it is.
    let op = WriteOp::patch("1", record! { "text" => "x".repeat(5_000) });
    let accepted = Acceptance { write: 1, key: "k", op: &op, before: None, at: 0 };
    said(|answer| journal.accept(journal.reserve(10).unwrap(), accepted, answer)).unwrap();
    assert!(path.bytes() > 5_000, "larger than a segment, too");
    assert_eq!(journal.reserve(1).err().unwrap().kind(), ErrorKind::Full);
    end(&journal, 1, Outcome::Cancelled).unwrap();
    assert_eq!(path.bytes(), 0);
    assert!(journal.reserve(1_000).is_ok());
}

#[test]
fn a_full_disk_refuses_the_write_and_keeps_the_others() {
    let disk = FakeDisk::default();
    let (journal, _) = table_on(&disk, 0);
    accept(&journal, 1).unwrap();
    disk.leave_room(Some(0));
    let mut write = 2;
    while let Ok(()) = accept(&journal, write) {
        write += 1;
    }
    assert_eq!(accept(&journal, write).unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(journal.len() as u64, write - 1);
    disk.leave_room(None);
    accept(&journal, write + 1).unwrap();
    let (_, replay) = table_on(&disk.crash(0, None, false), 0);
    assert_eq!(numbers(&replay), (1..write).chain([write + 1]).collect::<Vec<_>>());
}

#[test]
fn an_outcome_that_found_no_room_is_written_later() {
    let disk = FakeDisk::default();
    let (journal, _) = table_on(&disk, 0);
    accept(&journal, 1).unwrap();
    disk.leave_room(Some(0));
    let long = Outcome::Failed { kind: ErrorKind::Rejected, message: "no".repeat(200) };
    let (answer, receiver) = answer();
    journal.outcome(1, &long, Some(answer));
    // Answered after the outcome found no room.
    accept(&journal, 2).and_then(|()| accept(&journal, 3)).unwrap_err();
    assert!(receiver.is_empty());
    disk.leave_room(None);
    accept(&journal, 4).unwrap();
    awaited(&receiver).unwrap();
    let (_, replay) = table_on(&disk.crash(0, None, false), 0);
    let state = &replay.writes.iter().find(|write| write.write == 1).unwrap().state;
    assert!(matches!(state, RecoveredState::Failed { .. }), "{state:?}");
}

#[test]
fn an_outcome_that_found_no_room_is_overtaken_by_no_later_one() {
    let disk = FakeDisk::default();
    let (journal, _) = table_on(&disk, 0);
    accept(&journal, 1).and_then(|()| accept(&journal, 2)).unwrap();
    disk.leave_room(Some(0));
    let long = Outcome::Failed { kind: ErrorKind::Rejected, message: "no".repeat(400) };
    let (first, of_first) = answer();
    let (second, of_second) = answer();
    journal.outcome(1, &long, Some(first));
    journal.outcome(2, &Outcome::Cancelled, Some(second));
    // Answered after both were tried, be there room for it or not.
    let _ = accept(&journal, 3);
    assert!(of_first.is_empty() && of_second.is_empty());
    disk.leave_room(None);
    accept(&journal, 4).unwrap();
    awaited(&of_first).and_then(|()| awaited(&of_second)).unwrap();
    let numbers = numbers(&table_on(&disk.crash(0, None, false), 0).1);
    assert!(numbers.contains(&1) && !numbers.contains(&2), "{numbers:?}");
}

#[test]
fn tables_share_the_journal_and_nothing_else() {
    let disk = FakeDisk::default();
    let path = path_on(&disk, MUCH).unwrap();
    let (airports, _) = path.table("airports", Seq(0), 0).unwrap();
    let (odd, _) = path.table("a\0/ü", Seq(0), 0).unwrap();
    for write in 1..=3 {
        accept(&airports, write).unwrap();
        accept(&odd, write).unwrap();
    }
    end(&airports, 1, Outcome::Cancelled).unwrap();
    assert_ne!(airports.key(1), odd.key(1));
    assert_eq!((airports.len(), odd.len()), (2, 3));
    let path = path_on(&disk.crash(0, None, false), MUCH).unwrap();
    let (_airports, replay) = path.table("airports", Seq(0), 0).unwrap();
    assert_eq!(numbers(&replay), [2, 3]);
    assert_eq!(numbers(&path.table("a\0/ü", Seq(0), 0).unwrap().1), [1, 2, 3]);
    assert!(path.table("other", Seq(0), 0).unwrap().1.writes.is_empty());
}

#[test]
fn a_table_is_opened_once_at_a_time() {
    let disk = FakeDisk::default();
    let path = path_on(&disk, MUCH).unwrap();
    let (journal, _) = path.table("airports", Seq(0), 0).unwrap();
    assert_eq!(path.table("airports", Seq(0), 0).err().unwrap().kind(), ErrorKind::Invalid);
    assert_eq!(path.wipe("airports").unwrap_err().kind(), ErrorKind::Invalid);
    for write in 1..=3 {
        accept(&journal, write).unwrap();
    }
    end(&journal, 2, Outcome::Cancelled).unwrap();
    end(&journal, 3, Outcome::Confirmed(confirmed(9))).unwrap();
    let bytes = path.bytes();
    drop(journal);
    let (journal, replay) = path.table("airports", Seq(8), 0).unwrap();
    assert_eq!(numbers(&replay), [1, 3]);
    assert_eq!(path.bytes(), bytes);
    drop(journal);
    let (journal, replay) = path.table("airports", Seq(9), 0).unwrap();
    assert_eq!(numbers(&replay), [1]);
    end(&journal, 1, Outcome::Cancelled).unwrap();
    assert_eq!(path.bytes(), 0);
}

#[test]
fn a_wiped_table_leaves_nothing_on_the_disk() {
    let disk = FakeDisk::default();
    let path = path_on(&disk, MUCH).unwrap();
    let (airports, _) = path.table("airports", Seq(0), 0).unwrap();
    let (flights, _) = path.table("flights", Seq(0), 0).unwrap();
    for write in 1..=5 {
        accept(&airports, write).unwrap();
        accept(&flights, write + 100).unwrap();
    }
    end(&airports, 3, Outcome::Cancelled).unwrap();
    drop(airports);
    assert!(disk.holds(b"airports") && disk.holds(b"name 3"));
    path.wipe("airports").unwrap();
    assert!(!disk.holds(b"airports") && !disk.holds(b"name 3"));
    let (airports, replay) = path.table("airports", Seq(0), 0).unwrap();
    assert!(replay.writes.is_empty());
    assert!(replay.next_write > 105, "numbers are not given again");
    assert_eq!(airports.len(), 0);
    let crashed = disk.crash(0, None, true);
    let path = path_on(&crashed, MUCH).unwrap();
    assert_eq!(numbers(&path.table("flights", Seq(0), 0).unwrap().1), [101, 102, 103, 104, 105]);
}

#[test]
fn a_record_of_a_later_version_is_refused_and_nothing_is_touched() {
    let disk = FakeDisk::default();
    let (journal, _) = table_on(&disk, 0);
    for write in 1..10 {
        accept(&journal, write).unwrap();
        end(&journal, write, Outcome::Cancelled).unwrap();
    }
    let mut payload = record::attempted("airports", 1).unwrap();
    payload[0] = 2;
    let crashed = disk.crash(0, None, false);
    let (mut log, _) = super::log::Log::open(crashed.clone(), SMALL, |_| Ok(())).unwrap();
    log.append(&[(500, payload)]).unwrap();
    let calls = crashed.calls();
    let error = path_on(&crashed, MUCH).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("version 2"), "{error}");
    assert!(crashed.calls() > calls && crashed.holds(b"airports"));
    assert!(!crashed.was_changed_since(calls));
}

#[test]
fn what_cant_be_read_is_told_and_stays() {
    let disk = FakeDisk::default();
    let (journal, _) = table_on(&disk, 0);
    accept(&journal, 1).unwrap();
    let disk = disk.crash(0, None, false);
    let (mut log, _) = super::log::Log::open(disk.clone(), SMALL, |_| Ok(())).unwrap();
    let mut odd = record::attempted("airports", 1).unwrap();
    odd.push(0);
    log.append(&[(500, vec![1, 2, 3]), (501, odd)]).unwrap();
    drop(log);
    for _ in 0..2 {
        let path = path_on(&disk, MUCH).unwrap();
        assert_eq!(path.take_warnings().len(), 1);
        let (_, replay) = path.table("airports", Seq(0), 0).unwrap();
        assert_eq!((numbers(&replay), replay.warnings.len()), (vec![1], 1));
    }
}

#[test]
fn one_journal_serves_all_on_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    assert!(!has_entries(&cache));
    assert_eq!(for_path(&cache, MUCH).unwrap_err().kind(), ErrorKind::Cache);
    wipe(&cache, "airports").unwrap();
    std::fs::create_dir(&cache).unwrap();
    let first = for_path(&cache, 10).unwrap();
    let second = for_path(&cache.join("..").join("cache"), MUCH).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let (journal, _) = first.table("airports", Seq(0), 0).unwrap();
    accept(&journal, 1).unwrap();
    assert!(crate::live_threads().iter().any(|name| name == "cache:journal"));
    drop((first, second, journal));
    assert!(has_entries(&cache));
    let again = for_path(&cache, MUCH).unwrap();
    let (journal, replay) = again.table("airports", Seq(0), 0).unwrap();
    assert_eq!(numbers(&replay), [1]);
    end(&journal, 1, Outcome::Cancelled).unwrap();
    drop((again, journal));
    assert!(!has_entries(&cache), "a journal that is at rest is empty");
    let journals: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| drop(for_path(&cache, MUCH).unwrap()))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    assert!(journals.iter().all(std::result::Result::is_ok));
    wipe(&cache, "airports").unwrap();
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::Float),
        ".{0,8}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..8).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((".{0,4}".prop_map(Value::Text), inner.clone()), 0..4).prop_map(Value::Map),
            (6..200_u64, inner).prop_map(|(tag, value)| Value::Tag(tag, Box::new(value))),
        ]
    })
}

fn fields() -> impl Strategy<Value = Record> {
    prop::collection::vec((".{0,6}", value()), 0..5).prop_map(|fields| fields.into_iter().collect())
}

fn any_op() -> impl Strategy<Value = WriteOp> {
    prop_oneof![
        (prop::option::of(".{0,9}"), fields()).prop_map(|(id, record)| WriteOp::Insert { id, record }),
        (".{0,9}", fields()).prop_map(|(id, record)| WriteOp::replace(id, record)),
        (".{0,9}", fields()).prop_map(|(id, record)| WriteOp::upsert(id, record)),
        (".{0,9}", fields()).prop_map(|(id, record)| WriteOp::patch(id, record)),
        ".{0,9}".prop_map(WriteOp::delete),
        Just(WriteOp::DeleteAll),
    ]
}

fn any_kind() -> impl Strategy<Value = ErrorKind> {
    prop::sample::select(vec![ErrorKind::Rejected, ErrorKind::Conflict, ErrorKind::Source, ErrorKind::NotFound])
}

fn fact() -> impl Strategy<Value = Fact> {
    let accepted = (".{0,9}", any_op(), prop::option::of(fields()), any::<i64>());
    let confirmed = (prop::option::of(".{0,9}"), prop::option::of(fields()), any::<bool>(), any::<u64>());
    prop_oneof![
        accepted.prop_map(|(key, op, before, accepted_at)| {
            let before = before.map(|before| Before(StoredRow::encode(op.id().unwrap_or(&key), &before, 0)));
            Fact::Accepted(Accepted { key, op, before, accepted_at })
        }),
        Just(Fact::Attempted),
        (any_op(), prop::collection::vec(any::<u64>(), 0..4)).prop_map(|(op, merged)| Fact::Rewritten { op, merged }),
        confirmed.prop_map(|(id, row, deleted, seq)| {
            let row = row.map(|row| StoredRow::encode(id.as_deref().unwrap_or_default(), &row, 4));
            Fact::Outcome(Outcome::Confirmed(Confirmed { id, row, deleted, seq: Seq(seq) }))
        }),
        (any_kind(), ".{0,9}").prop_map(|(kind, message)| Fact::Outcome(Outcome::Failed { kind, message })),
        ".{0,9}".prop_map(|message| Fact::Outcome(Outcome::Unknown { message })),
        any::<u64>().prop_map(|by| Fact::Outcome(Outcome::Superseded { by })),
        Just(Fact::Outcome(Outcome::Cancelled)),
        prop::collection::vec(any::<u64>(), 0..4)
            .prop_map(|gave_back| Fact::Outcome(Outcome::CancelledAlone { gave_back })),
        Just(Fact::Outcome(Outcome::Cleared)),
    ]
}

fn bytes_of(said: &Said) -> Result<Vec<u8>> {
    let Said { table, write, fact } = said;
    match fact {
        Fact::Accepted(Accepted { key, op, before, accepted_at }) => {
            let before = before.as_ref().map(|before| &before.0);
            let accepted = Acceptance { write: *write, key, op, before, at: *accepted_at };
            record::accepted(table, accepted)
        }
        Fact::Attempted => record::attempted(table, *write),
        Fact::Rewritten { op, merged } => record::rewritten(table, *write, op, merged),
        Fact::Outcome(outcome) => record::outcome(table, *write, outcome),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_record_comes_back(table in ".{0,9}", write in any::<u64>(), fact in fact()) {
        let said = Said { table, write, fact };
        let bytes = bytes_of(&said).unwrap();
        prop_assert_eq!(record::table_of(&bytes).unwrap(), said.table.clone());
        prop_assert_eq!(record::read(&bytes).unwrap(), said);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(
        fact in fact(),
        noise in prop::collection::vec(any::<u8>(), 0..60),
        at in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let _ = record::read(&noise).map_err(|error: Error| error.kind());
        let mut bytes = bytes_of(&Said { table: "airports".into(), write: 1, fact }).unwrap();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
            prop_assert!(record::read(&bytes).is_err());
        } else {
            bytes[at] ^= noise.first().copied().unwrap_or(1);
            let _ = record::read(&bytes);
        }
    }
}
