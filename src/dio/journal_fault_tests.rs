//! What goes to the source, and what is found after a restart, when the journal fails at the wrong moment.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::{FaultyBackend, MemoryBackend};
use crate::journal::faulty_medium;
use crate::lens::Lens;
use crate::sources::MemoryVista;
use crate::sources::memory::Call;
use crate::sync::Waited;
use crate::vista::WriteOp;
use crate::{DeliveryPolicy, Dio, ErrorKind, Record, WriteState, WriteTicket, record};

const LONG: Duration = Duration::from_secs(60);

fn source() -> MemoryVista {
    let row = |id: &str| (id.to_owned(), record! { "a" => 0, "b" => 0, "c" => 0 });
    MemoryVista::new("things", "id").with_rows(["r1", "r2"].map(row)).assign_ids_from("s")
}

/// Tried again at once, or not before it is opened again.
fn policy(again: Duration) -> DeliveryPolicy {
    let policy = DeliveryPolicy::default().first_delay(again).max_delay(again).probe_every(again).deadline(LONG);
    policy.coalesce_patches(true)
}

const AT_ONCE: Duration = Duration::from_millis(1);

fn open(directory: &Path, again: Duration, source: &MemoryVista) -> (Lens, Dio) {
    let lens = Lens::new().cache_at(directory).delivery(policy(again)).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    (lens, dio)
}

fn close(lens: Lens, dio: Dio) {
    drop(dio);
    assert!(lens.close(LONG).unwrap().is_closed());
}

/// The journal's faults, to be called before it is opened.
fn faults(directory: &Path) -> Arc<FaultyBackend> {
    let faults = FaultyBackend::new(MemoryBackend::new());
    faulty_medium::fail_with(directory, faults.faults());
    faults
}

fn accepted(dio: &Dio, op: WriteOp) -> WriteTicket {
    let ticket = dio.write(op).unwrap();
    ticket.wait_durable(LONG).unwrap();
    ticket
}

fn patch(dio: &Dio, id: &str, field: &str) -> WriteTicket {
    accepted(dio, WriteOp::patch(id, record! { field => 1 }))
}

/// The same, and it may be delivered.
fn queued_patch(dio: &Dio, id: &str, field: &str) -> WriteTicket {
    let ticket = patch(dio, id, field);
    // The journal queues one after the other, each right after it is told to be durable.
    let last = patch(dio, "r2", "c");
    dio.drop_write(last.number()).unwrap();
    ticket
}

/// Waits until it is in such a state.
fn wait_until(ticket: &WriteTicket, is_it: impl Fn(&WriteState) -> bool) {
    loop {
        let seen = ticket.moves().get();
        let state = ticket.state();
        if is_it(&state) {
            return;
        }
        assert!(!state.has_ended(), "{state:?}");
        let moved = ticket.moves().wait_until(seen + 1, Some(LONG));
        assert!(matches!(moved, Waited::Reached(_)), "{:?}", ticket.state());
    }
}

fn waits(state: &WriteState) -> bool {
    matches!(state, WriteState::Waiting { .. })
}

/// Patches of one row for these fields, which go as one: the first attempt found the source gone.
fn tried_as_one(dio: &Dio, source: &MemoryVista) -> [WriteTicket; 3] {
    let held = source.hold(Call::Patch);
    let first = patch(dio, "r2", "a");
    assert!(held.wait_until_held(1, LONG));
    let tickets = ["a", "b", "c"].map(|field| queued_patch(dio, "r1", field));
    held.let_one_pass();
    first.wait(LONG).unwrap();
    assert!(held.wait_until_held(1, LONG));
    source.set_offline(true);
    held.release();
    tickets.iter().for_each(|ticket| wait_until(ticket, waits));
    tickets
}

fn fields(row: &Record) -> [Option<i64>; 3] {
    ["a", "b", "c"].map(|field| row.int(field))
}

/// What the source has of the row once a new start has delivered what was left.
fn delivered_after_a_restart(directory: &Path, source: &MemoryVista) -> [Option<i64>; 3] {
    source.set_offline(false);
    let (lens, dio) = open(directory, AT_ONCE, source);
    dio.wait_for_writes(LONG).unwrap();
    close(lens, dio);
    fields(&source.row("r1").unwrap())
}

/// Else a crash would have something else delivered under the key of what was sent.
#[test]
fn patches_that_go_as_one_are_not_sent_before_that_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let journal = faults(directory.path());
    let source = source();
    let (lens, dio) = open(directory.path(), AT_ONCE, &source);
    let held = source.hold(Call::Patch);
    let other = patch(&dio, "r2", "a");
    assert!(held.wait_until_held(1, LONG));
    let both = ["a", "b"].map(|field| queued_patch(&dio, "r1", field));
    journal.fail_from(1);
    held.release();
    other.wait(LONG).unwrap();
    wait_until(&both[0], |state| matches!(state, WriteState::Delivering { attempt } if *attempt > 3));
    assert_eq!(source.calls(Call::Patch), 1);
    journal.heal();
    for ticket in &both {
        ticket.wait(LONG).unwrap();
    }
    assert_eq!((source.calls(Call::Patch), fields(&source.row("r1").unwrap())), (2, [Some(1), Some(1), Some(0)]));
    close(lens, dio);
}

#[test]
fn a_write_that_goes_with_others_stays_cancelled_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let source = source();
    let (lens, dio) = open(directory.path(), LONG, &source);
    let [_, second, _] = tried_as_one(&dio, &source);
    dio.drop_write(second.number()).unwrap();
    close(lens, dio);
    assert_eq!(delivered_after_a_restart(directory.path(), &source), [Some(1), Some(0), Some(1)]);
}

#[test]
fn writes_that_went_with_one_that_is_cancelled_are_delivered_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let source = source();
    let (lens, dio) = open(directory.path(), LONG, &source);
    let [first, ..] = tried_as_one(&dio, &source);
    dio.drop_write(first.number()).unwrap();
    close(lens, dio);
    assert_eq!(delivered_after_a_restart(directory.path(), &source), [Some(0), Some(1), Some(1)]);
}

/// Else a crash would have it delivered over the later one.
#[test]
fn what_comes_after_a_cancelled_write_waits_for_its_end_though_the_row_goes_by_another_id_now() {
    let directory = tempfile::tempdir().unwrap();
    let journal = faults(directory.path());
    let source = source();
    let (lens, dio) = open(directory.path(), AT_ONCE, &source);
    let held = source.hold(Call::Insert);
    let insert = accepted(&dio, WriteOp::insert(record! { "a" => 0, "b" => 0 }));
    let id = insert.id().unwrap();
    assert!(held.wait_until_held(1, LONG));
    let [dropped, later] = ["a", "b"].map(|field| patch(&dio, &id, field));
    journal.fail_from(1);
    dio.drop_write(dropped.number()).unwrap();
    held.release();
    wait_until(&later, |state| matches!(state, WriteState::Waiting { error, .. } if error.kind() == ErrorKind::Cache));
    assert_ne!(later.id().unwrap(), id);
    assert_eq!(source.calls(Call::Patch), 0);
    journal.heal();
    insert.wait(LONG).unwrap();
    later.wait(LONG).unwrap();
    assert_eq!(fields(&source.row(&later.id().unwrap()).unwrap())[..2], [Some(0), Some(1)]);
    close(lens, dio);
}

#[test]
fn a_write_of_a_row_that_goes_by_another_id_now_is_of_that_row_in_every_later_run() {
    let directory = tempfile::tempdir().unwrap();
    let journal = faults(directory.path());
    let source = source();
    let (lens, dio) = open(directory.path(), AT_ONCE, &source);
    let held = [Call::Insert, Call::Patch].map(|call| source.hold(call));
    let insert = accepted(&dio, WriteOp::insert(record! { "a" => 0, "b" => 0 }));
    assert!(held[0].wait_until_held(1, LONG));
    let later = patch(&dio, &insert.id().unwrap(), "b");
    journal.fail_from(1);
    let [insert_held, patch_held] = held;
    insert_held.release();
    assert!(patch_held.wait_until_held(1, LONG));
    // What was handed over to the journal before has been tried by then.
    let refused = dio.write(WriteOp::patch("r2", record! { "b" => 1 }));
    refused.and_then(|ticket| ticket.wait_durable(LONG)).unwrap_err();
    journal.heal();
    insert.wait(LONG).unwrap();
    let id = later.id().unwrap();
    source.set_offline(true);
    patch_held.release();
    wait_until(&later, waits);
    close(lens, dio);
    // The next run's cache has the row, so that the insert is forgotten.
    let (lens, dio) = open(directory.path(), LONG, &source);
    dio.flush().unwrap();
    close(lens, dio);
    delivered_after_a_restart(directory.path(), &source);
    assert_eq!(fields(&source.row(&id).unwrap())[..2], [Some(0), Some(1)]);
}

#[test]
fn a_write_that_was_refused_since_the_journal_failed_is_not_found_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let journal = faults(directory.path());
    let source = source();
    let (lens, dio) = open(directory.path(), LONG, &source);
    source.set_offline(true);
    patch(&dio, "r1", "a");
    // Written, but not synced; nor can a new file say that it doesn't count.
    journal.fail_from(2);
    let refused = dio.write_durable(WriteOp::patch("r1", record! { "b" => 1 })).unwrap_err();
    assert_eq!((refused.kind(), refused.context("id")), (ErrorKind::Cache, Some("r1")));
    journal.heal();
    close(lens, dio);
    assert_eq!(delivered_after_a_restart(directory.path(), &source), [Some(1), Some(0), Some(0)]);
}
