//! Every call of a source.

use std::time::Duration;

use diorama::clock::Clock;
use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::source::{HeldCalls, Point, Trouble};
use crate::stage::{Rows, SHORT, SOON, Stage, Task, on_both, start};

/// What a Dio calls in a source. It never asks it to count, for pages, for a batch or for changes.
const CALLS: [Call; 8] =
    [Call::List, Call::Get, Call::Insert, Call::Replace, Call::Upsert, Call::Patch, Call::Delete, Call::DeleteAll];

/// Has the Dio make the call, and tells how it ended; a re-read ends without a word.
fn make(stage: &Stage, call: Call) -> Task<Result<(), ErrorKind>> {
    let dio = stage.dio.clone();
    let op = match call {
        Call::Insert => WriteOp::insert_as("new", product()),
        Call::Replace => WriteOp::replace("b", product()),
        Call::Upsert => WriteOp::upsert("new", product()),
        Call::Patch => WriteOp::patch("b", product()),
        Call::Delete => WriteOp::delete("b"),
        Call::DeleteAll => WriteOp::delete_all(),
        Call::Get => {
            let done = dio.handle_event(ChangeEvent::Updated { id: "b".to_owned(), record: None });
            return start("re-read", move || done.map_err(|error| error.kind()));
        }
        _ => return start("refresh", move || dio.refresh().map_err(|error| error.kind())),
    };
    let ticket = dio.write(op).unwrap();
    start("write", move || ticket.wait(SOON).map(drop).map_err(|error| error.kind()))
}

fn product() -> Record {
    crate::stage::product(55)
}

/// What a view shows, by price, while the call stands still.
fn shown_meanwhile(call: Call, before: &Rows) -> Rows {
    let mut rows = before.clone();
    match call {
        Call::Insert | Call::Upsert => rows.push(("new".to_owned(), 55)),
        Call::Replace | Call::Patch => rows.iter_mut().filter(|(id, _)| id == "b").for_each(|(_, price)| *price = 55),
        Call::Delete => rows.retain(|(id, _)| id != "b"),
        Call::DeleteAll => rows.clear(),
        _ => {}
    }
    rows.sort_by_key(|(_, price)| *price);
    rows
}

fn is_write(call: Call) -> bool {
    !matches!(call, Call::List | Call::Get)
}

fn thread_of(stage: &Stage, call: Call) -> String {
    match call {
        Call::List => format!("{}:refresh", stage.name),
        Call::Get => format!("{}-lens:load-1", stage.name),
        _ => format!("{}:writer", stage.name),
    }
}

/// What the source may have done of a write that was given up is read again, behind: not before it is let go of.
fn hold_what_is_read_again(stage: &Stage, call: Call) -> Option<[HeldCalls; 2]> {
    is_write(call).then(|| [Call::Get, Call::List].map(|read| stage.source.hold(read, Point::BeforeWork)))
}

#[test]
fn a_call_of_the_source_that_fails_or_panics_is_reported_and_leaves_everything_as_it_was() {
    on_both(|on_disk| {
        for call in CALLS {
            let error = |kind| Error::new(kind, "as told");
            // A write over a source that can't be reached would wait for it; one that fails otherwise has one attempt here.
            let for_now = if is_write(call) { ErrorKind::Source } else { ErrorKind::Unavailable };
            let troubles = [
                (Trouble::Fails(error(for_now)), for_now),
                (Trouble::Fails(error(ErrorKind::Rejected)), ErrorKind::Rejected),
                (Trouble::Panics, ErrorKind::Panicked),
                (Trouble::AnswerLost(error(for_now)), for_now),
            ];
            for (number, (trouble, kind)) in troubles.into_iter().enumerate() {
                let mut stage = Stage::new(&format!("fails-{call}-{number}-{on_disk}"), on_disk);
                let before = stage.shown();
                stage.source.always(call, trouble);
                let calls = stage.source.calls(call);
                let read_again = hold_what_is_read_again(&stage, call);
                let outcome = make(&stage, call).end();
                stage.source.wait_until_ended(call, calls + 1);
                stage.nobody_waits(&before);
                drop(read_again);
                let status = stage.dio.status();
                if call == Call::List {
                    assert_eq!(outcome, Err(kind), "{call}");
                    assert_eq!(status.refresh_error.unwrap().kind(), kind, "{call}");
                    assert_eq!(status.refresh_failures, 1);
                    stage.event(
                        "RefreshFailed",
                        |event| matches!(event, DioEvent::RefreshFailed { error, .. } if error.kind() == kind),
                    );
                } else if is_write(call) {
                    assert_eq!(outcome, Err(kind), "{call}");
                    assert_eq!((status.failed_writes, status.pending_writes), (1, 0), "{call}");
                    assert_eq!(status.write_error.unwrap().kind(), kind, "{call}");
                    stage.event(
                        "WriteFailed",
                        |event| matches!(event, DioEvent::WriteFailed { error, .. } if error.kind() == kind),
                    );
                }
                stage.recovers();
            }
        }
    });
}

#[test]
fn a_slow_call_of_the_source_makes_nobody_else_wait_and_has_its_effect_when_it_comes() {
    on_both(|on_disk| {
        for call in CALLS {
            for point in [Point::BeforeWork, Point::BeforeAnswer] {
                let stage = Stage::new(&format!("slow-{call}-{point:?}-{on_disk}"), on_disk);
                let before = stage.shown();
                stage.rows.outside_silently().upsert("b", crate::stage::product(11)).unwrap();
                let held = stage.source.hold(call, point);
                let made = make(&stage, call);
                held.wait_until_held(1);
                stage.nobody_waits(&shown_meanwhile(call, &before));
                assert!(call == Call::Get || !made.has_ended(), "{call}");
                if is_write(call) {
                    assert_eq!(stage.dio.status().pending_writes, 1, "{call}");
                    stage.dio.refresh().unwrap();
                } else {
                    stage.dio.write(WriteOp::patch("c", product())).unwrap().wait(SOON).unwrap();
                }
                drop(held);
                assert_eq!(made.end(), Ok(()), "{call}");
                if call != Call::Get {
                    // A write that was under way kept its row from the refresh: it is as the source has it now.
                    assert_eq!(stage.shown(), stage.at_source(), "{call}");
                }
                stage.recovers();
            }
        }
    });
}

#[test]
fn a_call_of_the_source_that_stands_still_ends_at_its_deadline_and_is_reported() {
    on_both(|on_disk| {
        for call in CALLS {
            for point in [Point::BeforeWork, Point::BeforeAnswer] {
                let (clock, hands) = Clock::manual();
                let mut stage = Stage::on_clock(&format!("late-{call}-{point:?}-{on_disk}"), on_disk, clock);
                let defaults = stage.lens.defaults();
                let timeout =
                    if is_write(call) { defaults.delivery.deadline } else { defaults.source_timeout.unwrap() };
                let before = stage.shown();
                let calls = stage.source.calls(call);
                let held = stage.source.hold(call, point);
                let read_again = hold_what_is_read_again(&stage, call);
                let made = make(&stage, call);
                held.wait_until_held(1);
                stage.nobody_waits(&shown_meanwhile(call, &before));
                hands.advance(timeout - Duration::from_nanos(1));
                stage.nobody_waits(&shown_meanwhile(call, &before));
                assert!(call == Call::Get || !made.has_ended(), "{call}");
                hands.advance(Duration::from_nanos(1));
                stage.source.wait_until_ended(call, calls + 1);
                let outcome = made.end();
                stage.nobody_waits(&before);
                drop(read_again);
                let status = stage.dio.status();
                let late = ErrorKind::Timeout;
                if call == Call::List {
                    assert_eq!(outcome, Err(late), "{call}");
                    let error = status.refresh_error.unwrap();
                    assert_eq!((error.kind(), error.context("source_timeout")), (late, Some("300s")), "{error}");
                    stage.event(
                        "RefreshFailed",
                        |event| matches!(event, DioEvent::RefreshFailed { error, .. } if error.kind() == late),
                    );
                } else if is_write(call) {
                    assert_eq!(outcome, Err(late), "{call}");
                    assert_eq!((status.failed_writes, status.pending_writes), (1, 0), "{call}");
                    stage.event(
                        "WriteFailed",
                        |event| matches!(event, DioEvent::WriteFailed { error, .. } if error.kind() == late),
                    );
                }
                drop(held);
                stage.recovers();
            }
        }
    });
}

#[test]
fn closing_ends_a_call_of_the_source_that_stands_still_and_listens() {
    on_both(|on_disk| {
        for call in CALLS {
            let stage = Stage::new(&format!("hangs-{call}-{on_disk}"), on_disk);
            let before = stage.shown();
            let held = stage.source.hold(call, Point::BeforeWork);
            let made = make(&stage, call);
            held.wait_until_held(1);
            stage.nobody_waits(&shown_meanwhile(call, &before));
            let report = stage.lens.close(SHORT).unwrap();
            assert!(report.is_closed(), "{call}: {report:?}");
            assert_eq!((report.delivered, report.failed), (1, u64::from(is_write(call) && !on_disk)), "{call}");
            if call != Call::Get {
                assert_eq!(made.end(), Err(ErrorKind::Closed), "{call}");
            }
            stage.nothing_runs();
        }
    });
}

#[test]
fn closing_names_the_thread_whose_call_of_the_source_stands_still_and_does_not_listen() {
    on_both(|on_disk| {
        for call in CALLS {
            let stage = Stage::new(&format!("deaf-{call}-{on_disk}"), on_disk);
            let before = stage.shown();
            stage.source.be_deaf();
            let held = stage.source.hold(call, Point::BeforeWork);
            let made = make(&stage, call);
            held.wait_until_held(1);
            stage.nobody_waits(&shown_meanwhile(call, &before));
            let report = stage.lens.close(SHORT).unwrap();
            assert_eq!(report.still_running, [thread_of(&stage, call)], "{call}");
            if call != Call::Get {
                assert_eq!(made.end(), Err(ErrorKind::Closed), "{call}: before the source comes back");
            }
            drop(held);
            assert!(stage.lens.close(SOON).unwrap().is_closed(), "{call}: it ends by itself");
            stage.nothing_runs();
        }
    });
}

#[test]
fn a_first_copy_that_fails_is_an_error_of_make_dio_and_the_next_one_goes_well() {
    on_both(|on_disk| {
        for trouble in [Trouble::Fails(Error::new(ErrorKind::Rejected, "as told")), Trouble::Panics] {
            let stage = Stage::new(&format!("first-{}-{on_disk}", matches!(trouble, Trouble::Panics)), on_disk);
            let kind = if matches!(trouble, Trouble::Panics) { ErrorKind::Panicked } else { ErrorKind::Rejected };
            let rows = MemoryVista::new(format!("{}-next", stage.name), "id").with_rows([("a", product())]);
            let source = crate::source::ScriptedSource::new(rows);
            source.always(Call::List, trouble);
            assert_eq!(stage.lens.make_dio(source.clone()).unwrap_err().kind(), kind);
            source.heal();
            assert_eq!(stage.lens.make_dio(source).unwrap().cache().count().unwrap(), 1);
            stage.recovers();
        }
    });
}

#[test]
fn a_dio_makes_no_other_call_of_its_source() {
    on_both(|on_disk| {
        let stage = Stage::new(&format!("calls-{on_disk}"), on_disk);
        for call in CALLS {
            let calls = stage.source.calls(call);
            // Some find no row of theirs by then.
            let _ = make(&stage, call).end();
            stage.source.wait_until_ended(call, calls + 1);
        }
        stage.dio.vista().get_count().unwrap();
        for call in [Call::Count, Call::Page, Call::Batch, Call::Changes] {
            assert_eq!(stage.source.calls(call), 0, "`{call}` is missing in the matrix");
        }
        stage.recovers();
    });
}
