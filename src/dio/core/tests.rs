//! What the core does with a burst of messages, by a Dio whose core is given work.

use std::time::Duration;

use super::*;
use crate::RecordStatus;
use crate::lens::QUERIES_AT_ONCE;
use crate::prelude::*;
use crate::sync::{Doorbell, reply};

const SOON: Duration = Duration::from_secs(20);

fn source() -> MemoryVista {
    MemoryVista::new("t", "id").with_rows([("a", record! { "id" => "a", "n" => 1 })])
}

fn dio(source: &MemoryVista) -> (Lens, Dio) {
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    (lens, dio)
}

fn apply(changes: Vec<RowChange>) -> Message {
    Message::Apply(Apply {
        changes: changes.into(),
        cause: Cause::Local,
        announce: Announce::EachRow,
        began: None,
        full_copy: None,
        reply: None,
        at_once: false,
    })
}

fn put(id: &str) -> RowChange {
    RowChange::Put(StoredRow::encode(id, &record! { "id" => id }, 0))
}

/// Keeps the build thread busy until the sender is dropped.
pub(super) fn hold_builds(dio: &Dio) -> crossbeam_channel::Sender<()> {
    hold(&dio.inner().lens.build_pool)
}

/// Keeps every thread busy that makes the bodies of a bulk change, until the senders are dropped.
pub(super) fn hold_threads(dio: &Dio) -> Vec<crossbeam_channel::Sender<()>> {
    let mut held = hold_load_threads(dio);
    held.push(hold(&dio.inner().lens.build_pool));
    held
}

/// Keeps every thread busy that asks the source, until the senders are dropped.
pub(super) fn hold_load_threads(dio: &Dio) -> Vec<crossbeam_channel::Sender<()>> {
    let lens = &dio.inner().lens;
    let threads = if lens.callbacks.has_on_query() { QUERIES_AT_ONCE } else { 1 };
    (0..threads).map(|_| hold(&lens.load_pool)).collect()
}

fn hold(pool: &Pool) -> crossbeam_channel::Sender<()> {
    let (let_go, held) = crossbeam_channel::bounded::<()>(0);
    let (begin, begun) = crossbeam_channel::bounded(1);
    let job = move || {
        begin.send(()).unwrap();
        let _ = held.recv();
    };
    pool.submit(Rank::new(0, crate::sync::Role::Build), Box::new(job)).unwrap();
    begun.recv().unwrap();
    let_go
}

#[test]
fn a_message_that_the_core_never_handles_is_answered_closed() {
    // The handle lives on, as it does in every Dio that somebody holds.
    let (handle, inboxes) = inboxes(Doorbell::new());
    let message = || {
        let (sender, receiver) = reply();
        (Message::Close { reply: Some(sender) }, receiver)
    };
    let (before, asked_before) = message();
    handle.send(before).unwrap();
    let (bulk, asked_bulk) = message();
    handle.send_bulk(bulk).unwrap();
    drop(inboxes);
    assert_eq!(asked_before.wait(Some(SOON)).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(asked_bulk.wait(Some(SOON)).unwrap_err().kind(), ErrorKind::Closed);
    let (after, asked_after) = message();
    assert_eq!(handle.send(after).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(asked_after.wait(Some(SOON)).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(handle.waiting(), 0);
}

#[test]
fn a_view_that_never_reaches_the_core_is_closed() {
    let (_lens, dio) = dio(&source());
    let view = dio.table_scenery().open().unwrap();
    assert!(dio.close(SOON).unwrap().is_closed());
    assert_eq!(view.set_search(Some("x")).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(dio.table_scenery().open().unwrap_err().kind(), ErrorKind::Closed);
    let slot = Arc::new(RecordSlot::new(
        Arc::from("a"),
        None,
        dio.inner().signal(),
        crate::scenery::signal::Dropped::new(Doorbell::new()),
    ));
    drop(Opening::new(slot.clone()));
    let reader = dio.inner().reader.clone();
    let record = crate::scenery::record::RecordScenery::new(slot, reader);
    assert_eq!(record.wait_for_change(Generation(0), Some(SOON)).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_row_put_and_deleted_in_one_batch_leaves_no_trace() {
    let (_lens, dio) = dio(&source());
    let view = dio.table_scenery().open().unwrap();
    let before = view.generation();
    let both = vec![put("gone"), RowChange::Delete(Arc::from("gone"))];
    dio.inner().change(both, Cause::Local, Announce::EachRow, None).unwrap();
    let thrice = vec![put("x"), RowChange::Delete(Arc::from("x")), put("x")];
    let seq = dio.inner().change(thrice, Cause::Local, Announce::EachRow, None).unwrap();
    dio.flush().unwrap();
    assert_eq!(dio.status().cache_error.map(|error| error.to_string()), None);
    assert_eq!(dio.cache().get("gone").unwrap(), None);
    assert_eq!(dio.seq(), seq);
    assert_eq!(view.generation(), before.next(), "only the row that stayed shows");
    assert_eq!(dio.status().rows, 2);
    assert_eq!(dio.status().rows_in_memory, 0);
}

#[test]
fn an_id_that_no_cache_takes_fails_its_change_and_not_the_cache() {
    let source = source();
    let (_lens, dio) = dio(&source);
    let error = dio.inner().change(vec![put("")], Cause::Local, Announce::EachRow, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    dio.cache().insert("b", record! { "id" => "b" }).unwrap();
    dio.flush().unwrap();
    assert_eq!(dio.cache().count().unwrap(), 2);
}

#[test]
fn clear_and_a_staleness_of_all_are_announced_whatever_shares_their_batch() {
    let (_lens, dio) = dio(&source());
    let mut events = dio.subscribe_events();
    dio.cache().clear().unwrap();
    let mut invalidated = |cause: Cause| loop {
        match events.recv(Some(SOON)).unwrap() {
            DioEvent::Invalidated { cause: seen, .. } if seen == cause => return,
            DioEvent::Invalidated { cause: seen, .. } => panic!("{seen:?} instead of {cause:?}"),
            _ => {}
        }
    };
    invalidated(Cause::Local);
    let both = vec![put("b"), RowChange::MarkAllStale];
    dio.inner().change(both, Cause::Local, Announce::EachRow, None).unwrap();
    invalidated(Cause::Outside);
}

#[test]
fn a_record_view_opened_late_says_what_the_table_says_of_staleness() {
    let source = source();
    let (_lens, dio) = dio(&source);
    dio.inner().send(apply(vec![RowChange::MarkAllStale])).unwrap();
    let view = dio.record_scenery("a").unwrap();
    // The view is the core's once a later message is answered.
    dio.cache().insert("b", record! { "id" => "b" }).unwrap();
    assert_eq!(view.status(), RecordStatus::Stale);
    assert_eq!(view.generation(), Generation(1), "it was fresh to who looked before");
}

#[test]
fn a_row_of_a_first_load_that_changes_right_behind_it_is_one_row() {
    let source = MemoryVista::new("t", "id");
    let (_lens, dio) = dio(&source);
    for round in 0..200 {
        dio.cache().clear().unwrap();
        dio.flush().unwrap();
        let rows: Vec<StoredRow> =
            (0..50).map(|n| StoredRow::encode(&format!("r{n}"), &record! { "n" => round }, 0)).collect();
        let by_id = crate::dio::fresh::IdIndex::new(&rows).unwrap();
        let first = Message::Apply(Apply {
            changes: RowChanges::First(rows, by_id),
            cause: Cause::Refresh,
            announce: Announce::Once,
            began: None,
            full_copy: None,
            reply: None,
            at_once: false,
        });
        dio.inner().send(first).unwrap();
        for n in 0..50 {
            dio.inner().send(apply(vec![put(&format!("r{n}"))])).unwrap();
        }
        let listed = || dio.cache().list().unwrap().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        dio.cache().remove("r0").unwrap();
        assert_eq!(listed(), (1..50).map(|n| format!("r{n}")).collect::<Vec<_>>());
        assert_eq!(dio.cache().count().unwrap(), 49);
    }
}
