use super::*;
use crate::{Error, ErrorKind, record};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Outcome = Outcome::Transient { retry_after: None };
const AWAY: Outcome = Outcome::Unavailable { retry_after: None };

fn at(seconds: u64) -> Moment {
    Moment(SECOND * u32::try_from(seconds).unwrap())
}

fn n(number: u64) -> WriteNumber {
    WriteNumber(number)
}

fn ns(numbers: &[u64]) -> Vec<WriteNumber> {
    numbers.iter().copied().map(WriteNumber).collect()
}

fn policy() -> DeliveryPolicy {
    DeliveryPolicy::default().jitter(0.0).first_delay(SECOND).max_delay(SECOND * 100)
}

fn queue(policy: DeliveryPolicy) -> Delivery {
    policy.check().unwrap();
    Delivery::new(policy, 1)
}

/// The row that a write names. The one that an insert makes under an id of the source's goes by the insert's number.
pub(super) fn key_of(number: WriteNumber, op: &WriteOp) -> RowKey {
    match op.id() {
        Some(id) => RowKey::Id(Arc::from(id)),
        None if matches!(op, WriteOp::DeleteAll) => RowKey::Table,
        None => RowKey::Id(Arc::from(format!("new {number}"))),
    }
}

fn accepted(number: u64, op: WriteOp) -> Accepted {
    Accepted { number: n(number), row: key_of(n(number), &op), op: Arc::new(op), attempted: false }
}

fn patch(number: u64, id: &str) -> Accepted {
    accepted(number, WriteOp::patch(id, record! { "n" => number as i64 }))
}

fn delete_all(number: u64) -> Accepted {
    accepted(number, WriteOp::delete_all())
}

fn filled(policy: DeliveryPolicy, ids: &[&str]) -> Delivery {
    let mut queue = queue(policy);
    for (number, id) in (1..).zip(ids) {
        assert_eq!(queue.accept(patch(number, id)), []);
    }
    queue
}

#[track_caller]
fn deliver(queue: &mut Delivery, now: Moment) -> Vec<Due> {
    match queue.next(now) {
        Next::Deliver(due) => due,
        other => panic!("nothing to deliver: {other:?}"),
    }
}

/// The numbers of the delivery that is due now.
#[track_caller]
fn next(queue: &mut Delivery, now: Moment) -> Vec<u64> {
    deliver(queue, now).iter().map(|due| due.number.0).collect()
}

/// Delivers one after the other, all well, and says in which order.
fn drain(queue: &mut Delivery, now: Moment) -> Vec<u64> {
    let mut order = Vec::new();
    while let Next::Deliver(due) = queue.next(now) {
        for due in due {
            order.push(due.number.0);
            assert_eq!(queue.finished(now, due.number, Outcome::Done), Verdict::Settled);
        }
    }
    order
}

#[test]
fn writes_go_in_the_order_of_acceptance_and_are_forgotten_when_settled() {
    let mut queue = filled(policy(), &["a", "b", "a"]);
    assert_eq!(next(&mut queue, at(0)), [1]);
    assert_eq!((queue.next(at(0)), queue.in_flight(), queue.entries.len()), (Next::Idle, 1, 3));
    assert_eq!(queue.finished(at(0), n(1), Outcome::Failed), Verdict::Settled);
    assert_eq!(queue.finished(at(0), n(1), Outcome::Done), Verdict::NotInFlight);
    assert_eq!(drain(&mut queue, at(0)), [2, 3]);
    assert_eq!((queue.next(at(0)), queue.entries.len(), queue.pending(n(3))), (Next::Idle, 0, None));
}

#[test]
fn rows_go_side_by_side_up_to_the_policy_and_a_row_never_twice_at_once() {
    let mut queue = filled(policy().parallel(2), &["a", "a", "b", "c"]);
    assert_eq!([next(&mut queue, at(0)), next(&mut queue, at(0))], [[1], [3]]);
    assert_eq!(queue.next(at(0)), Next::Idle);
    assert_eq!(queue.finished(at(0), n(1), Outcome::Done), Verdict::Settled);
    assert_eq!(next(&mut queue, at(0)), [2]);
}

#[test]
fn an_insert_whose_id_the_source_chooses_is_a_row_of_its_own() {
    let mut queue = queue(policy().parallel(2));
    queue.accept(accepted(1, WriteOp::insert(record! {})));
    queue.accept(accepted(2, WriteOp::insert(record! {})));
    assert_eq!([next(&mut queue, at(0)), next(&mut queue, at(0))], [[1], [2]]);
}

#[test]
fn a_failing_write_backs_off_and_holds_up_its_own_row_only() {
    let mut queue = filled(policy(), &["a", "a", "b"]);
    assert_eq!(next(&mut queue, at(0)), [1]);
    assert_eq!(queue.finished(at(10), n(1), SOON), Verdict::Waiting { until: at(11) });
    assert_eq!(queue.pending(n(1)), Some(Pending::Waiting { attempts: 1, until: at(11) }));
    assert_eq!(drain(&mut queue, at(10)), [3]);
    assert_eq!(queue.next(at(10)), Next::WaitUntil(at(11)));
    let due = deliver(&mut queue, at(11));
    assert_eq!((due[0].number, due[0].attempt), (n(1), 2));
    assert_eq!(queue.finished(at(11), n(1), SOON), Verdict::Waiting { until: at(13) });
    assert_eq!(drain(&mut queue, at(13)), [1, 2]);
}

#[test]
fn the_wish_of_the_source_takes_the_place_of_the_delay() {
    let mut queue = filled(policy(), &["a"]);
    let wish = Some(SECOND * 42);
    next(&mut queue, at(0));
    assert_eq!(
        queue.finished(at(0), n(1), Outcome::Transient { retry_after: wish }),
        Verdict::Waiting { until: at(42) }
    );
    next(&mut queue, at(42));
    let wished = Outcome::Unavailable { retry_after: wish };
    assert_eq!(queue.finished(at(42), n(1), wished), Verdict::Waiting { until: at(84) });
    assert_eq!((queue.is_paused(), queue.next(at(83))), (Some(at(84)), Next::WaitUntil(at(84))));
}

#[test]
fn a_write_is_given_up_after_its_attempts_and_its_row_goes_on() {
    let mut queue = filled(policy().max_attempts(Some(2)), &["a", "a"]);
    next(&mut queue, at(0));
    queue.finished(at(0), n(1), AWAY);
    next(&mut queue, at(30));
    assert_eq!(queue.finished(at(30), n(1), SOON), Verdict::Waiting { until: at(31) }, "away doesn't count");
    next(&mut queue, at(31));
    assert_eq!(queue.finished(at(31), n(1), SOON), Verdict::GaveUp);
    assert_eq!((queue.pending(n(1)), drain(&mut queue, at(31))), (None, vec![2]));
}

#[test]
fn a_retry_takes_its_turn_behind_what_was_accepted_before_it_was_due() {
    let mut queue = filled(policy(), &["a", "b"]);
    next(&mut queue, at(0));
    queue.finished(at(0), n(1), SOON);
    next(&mut queue, at(0));
    queue.accept(patch(3, "c"));
    queue.finished(at(5), n(2), Outcome::Done);
    assert_eq!(next(&mut queue, at(5)), [3]);
    queue.accept(patch(4, "d"));
    queue.finished(at(5), n(3), Outcome::Done);
    assert_eq!(drain(&mut queue, at(5)), [1, 4]);
}

#[test]
fn an_unavailable_source_pauses_everything_and_one_write_probes() {
    let mut queue = filled(policy().parallel(4).batch(3), &["a", "b", "c", "d", "e"]);
    assert_eq!([next(&mut queue, at(0)), next(&mut queue, at(0))], [vec![1, 2, 3], vec![4, 5]]);
    assert_eq!(queue.finished(at(0), n(1), AWAY), Verdict::Waiting { until: at(30) });
    assert_eq!(queue.finished(at(1), n(2), AWAY), Verdict::Waiting { until: at(30) }, "news of the same absence");
    assert_eq!(queue.finished(at(1), n(3), AWAY), Verdict::Waiting { until: at(30) });
    assert_eq!((queue.pending(n(3)), queue.is_paused()), (Some(Pending::Queued { attempts: 1 }), Some(at(30))));
    assert_eq!(queue.finished(at(2), n(4), Outcome::Done), Verdict::Settled);
    assert_eq!(queue.next(at(2)), Next::WaitUntil(at(30)), "what was sent before the pause doesn't end it");
    assert_eq!((next(&mut queue, at(30)), queue.next(at(30))), (vec![1], Next::Idle));
    assert_eq!(queue.finished(at(30), n(1), AWAY), Verdict::Waiting { until: at(90) });
    assert_eq!((next(&mut queue, at(90)), queue.next(at(90))), (vec![1], Next::Idle));
    assert_eq!(queue.finished(at(91), n(1), Outcome::Failed), Verdict::Settled, "an answer, though a bad one");
    assert_eq!([next(&mut queue, at(91)), vec![]], [vec![2, 3], vec![]]);
    assert_eq!(queue.is_paused(), None);
}

#[test]
fn resuming_or_retrying_by_hand_ends_the_waits() {
    let mut queue = filled(policy().parallel(2), &["a", "b"]);
    next(&mut queue, at(0));
    queue.finished(at(0), n(1), AWAY);
    queue.resume();
    assert_eq!([next(&mut queue, at(0)), next(&mut queue, at(0))], [[1], [2]]);
    assert_eq!(queue.retry_now(n(1)), Err(Refusal::InFlight));
    queue.finished(at(0), n(1), SOON);
    assert_eq!(queue.retry_now(n(1)), Ok(()));
    assert_eq!(next(&mut queue, at(0)), [1]);
    queue.finished(at(0), n(1), AWAY);
    queue.finished(at(0), n(2), AWAY);
    assert_eq!(queue.next(at(1)), Next::WaitUntil(at(30)));
    assert_eq!(queue.retry_now(n(2)), Ok(()));
    assert_eq!((next(&mut queue, at(1)), queue.next(at(1))), (vec![1], Next::Idle), "one probe");
    assert_eq!(queue.retry_now(n(9)), Err(Refusal::Unknown));
}

#[test]
fn a_delete_all_supersedes_what_nobody_tried_and_awaits_the_rest_up_to_the_deadline() {
    let mut queue = filled(policy().parallel(3), &["a", "a", "b", "c"]);
    assert_eq!([next(&mut queue, at(0)), next(&mut queue, at(0)), next(&mut queue, at(0))], [[1], [3], [4]]);
    assert_eq!(queue.finished(at(0), n(1), SOON), Verdict::Waiting { until: at(1) });
    assert_eq!(queue.accept(delete_all(5)), ns(&[2]));
    assert_eq!(queue.accept(patch(6, "z")), []);
    assert_eq!(queue.next(at(2)), Next::WaitUntil(at(62)), "no new attempt of 1, nor anything behind the barrier");
    assert_eq!(queue.retry_now(n(1)), Err(Refusal::Behind(n(5))));
    assert_eq!(queue.finished(at(3), n(3), SOON), Verdict::Waiting { until: at(62) });
    assert_eq!(queue.next(at(62)), Next::Superseded { by: n(5), numbers: ns(&[1, 3]) });
    assert_eq!(queue.next(at(62)), Next::Idle, "4 is still at the source");
    assert_eq!(queue.finished(at(99), n(4), SOON), Verdict::Superseded { by: n(5) });
    assert_eq!(next(&mut queue, at(99)), [5]);
    assert_eq!(queue.next(at(99)), Next::Idle);
    assert_eq!(queue.finished(at(99), n(5), SOON), Verdict::Waiting { until: at(100) });
    assert_eq!(queue.next(at(99)), Next::WaitUntil(at(100)));
    assert_eq!(drain(&mut queue, at(100)), [5, 6]);
}

#[test]
fn a_delete_all_goes_at_once_when_nothing_was_tried_before_it() {
    let mut queue = filled(policy(), &["a", "b"]);
    assert_eq!(queue.accept(delete_all(3)), ns(&[1, 2]));
    queue.accept(patch(4, "a"));
    assert_eq!(queue.accept(delete_all(5)), ns(&[3, 4]), "a newer one makes an untried one pointless, too");
    assert_eq!(drain(&mut queue, at(0)), [5]);
}

#[test]
fn a_delete_all_that_is_dropped_lets_both_sides_go_on() {
    let mut queue = filled(policy(), &["a"]);
    next(&mut queue, at(0));
    queue.accept(delete_all(2));
    queue.accept(patch(3, "b"));
    queue.finished(at(0), n(1), SOON);
    assert_eq!(queue.remove(n(2)).unwrap().verb(), "delete_all");
    assert_eq!(drain(&mut queue, at(0)), [3]);
    assert_eq!(drain(&mut queue, at(1)), [1]);
}

#[test]
fn what_was_tried_before_a_restart_is_tried_again_alone() {
    let mut queue = queue(policy().batch(9).coalesce_patches(true));
    queue.accept(Accepted { attempted: true, ..patch(1, "a") });
    queue.accept(patch(2, "a"));
    queue.accept(patch(3, "a"));
    let due = deliver(&mut queue, at(0));
    assert_eq!((due.len(), due[0].attempt, due[0].merged.len()), (1, 2, 0));
    queue.finished(at(0), n(1), Outcome::Done);
    assert_eq!(deliver(&mut queue, at(0))[0].merged, ns(&[3]));
}

#[test]
fn patches_that_nobody_tried_go_as_one_and_stay_one() {
    let mut queue = queue(policy().coalesce_patches(true));
    queue.accept(accepted(1, WriteOp::patch("a", record! { "x" => 1, "y" => 1 })));
    queue.accept(patch(2, "b"));
    queue.accept(accepted(3, WriteOp::patch("a", record! { "y" => 3, "z" => 3 })));
    queue.accept(accepted(4, WriteOp::upsert("a", record! {})));
    queue.accept(accepted(5, WriteOp::patch("a", record! { "x" => 5 })));
    let due = deliver(&mut queue, at(0));
    let joined = WriteOp::patch("a", record! { "x" => 1, "y" => 3, "z" => 3 });
    assert_eq!(due, [Due { number: n(1), op: Arc::new(joined.clone()), attempt: 1, merged: ns(&[3]) }]);
    assert_eq!((queue.pending(n(3)), queue.entries.len()), (Some(Pending::InFlight { attempt: 1 }), 5));
    assert_eq!(queue.remove(n(3)), Err(Refusal::InFlight));
    queue.finished(at(0), n(1), SOON);
    assert_eq!(drain(&mut queue, at(0)), [2]);
    let due = deliver(&mut queue, at(1));
    assert_eq!((&*due[0].op, due[0].attempt, &due[0].merged), (&joined, 2, &ns(&[3])));
    assert_eq!(queue.finished(at(1), n(1), Outcome::Done), Verdict::Settled);
    assert_eq!((queue.pending(n(3)), drain(&mut queue, at(1))), (None, vec![4, 5]));
}

#[test]
fn a_write_dropped_out_of_merged_ones_leaves_the_others() {
    let mut queue = queue(policy().coalesce_patches(true));
    for number in 1..=3 {
        queue.accept(accepted(number, WriteOp::patch("a", record! { format!("f{number}") => 0 })));
    }
    next(&mut queue, at(0));
    queue.finished(at(0), n(1), SOON);
    assert_eq!(queue.remove(n(1)).unwrap().record(), Some(&record! { "f1" => 0 }));
    assert_eq!(queue.next(at(0)), Next::WaitUntil(at(1)), "the others still wait");
    let due = deliver(&mut queue, at(1));
    assert_eq!((due[0].number, due[0].attempt, &due[0].merged), (n(2), 2, &ns(&[3])));
    assert_eq!(due[0].op.record(), Some(&record! { "f2" => 0, "f3" => 0 }));
    queue.finished(at(1), n(2), SOON);
    queue.remove(n(3)).unwrap();
    assert_eq!(deliver(&mut queue, at(3))[0].op.record(), Some(&record! { "f2" => 0 }));
}

#[test]
fn batches_take_due_writes_in_order_and_none_that_went_alone_before() {
    let mut queue = filled(policy().batch(3), &["a"]);
    assert_eq!(next(&mut queue, at(0)), [1]);
    queue.finished(at(0), n(1), SOON);
    for (number, id) in [(2, "b"), (3, "a"), (4, "b"), (5, "c"), (6, "d")] {
        queue.accept(patch(number, id));
    }
    assert_eq!(next(&mut queue, at(0)), [2, 4, 5]);
    assert_eq!(queue.in_flight(), 1);
    for number in [2, 4, 5] {
        queue.finished(at(0), n(number), Outcome::Done);
    }
    assert_eq!(next(&mut queue, at(1)), [6]);
    queue.finished(at(1), n(6), Outcome::Done);
    assert_eq!(next(&mut queue, at(1)), [1]);
}

#[test]
fn a_refused_batch_goes_one_by_one() {
    let mut queue = filled(policy().batch(5), &["a", "a", "b"]);
    assert_eq!(next(&mut queue, at(0)), [1, 2, 3]);
    queue.split(&ns(&[1, 2, 3]));
    assert_eq!(queue.in_flight(), 0);
    queue.accept(patch(4, "c"));
    let mut calls = Vec::new();
    while let Next::Deliver(due) = queue.next(at(0)) {
        calls.push(due.len());
        due.iter().for_each(|due| assert_eq!(queue.finished(at(0), due.number, Outcome::Done), Verdict::Settled));
    }
    assert_eq!(calls, [1, 1, 1, 1]);
}

#[test]
fn a_user_may_drop_what_is_not_at_the_source() {
    let mut queue = filled(policy(), &["a", "a", "a"]);
    next(&mut queue, at(0));
    assert_eq!(queue.remove(n(1)), Err(Refusal::InFlight));
    assert_eq!(queue.remove(n(2)).unwrap().id(), Some("a"));
    assert_eq!(queue.remove(n(2)), Err(Refusal::Unknown));
    queue.finished(at(0), n(1), SOON);
    queue.remove(n(1)).unwrap();
    assert_eq!(drain(&mut queue, at(0)), [3]);
    let said = [Refusal::Unknown, Refusal::InFlight, Refusal::Behind(n(7))].map(|refusal| refusal.to_string());
    assert!(said[2].contains("write 7") && said.iter().all(|said| !said.is_empty()));
}

#[test]
fn writes_follow_a_row_to_its_new_id_in_the_order_of_acceptance() {
    let mut queue = queue(policy().parallel(2));
    for (number, id) in [(1, "tmp"), (2, "real"), (3, "tmp"), (4, "real"), (5, "tmp")] {
        queue.accept(patch(number, id));
    }
    assert_eq!([next(&mut queue, at(0)), next(&mut queue, at(0))], [[1], [2]]);
    queue.finished(at(0), n(1), Outcome::Done);
    let (old, new) = (RowKey::Id(Arc::from("tmp")), RowKey::Id(Arc::from("real")));
    queue.rename(&old, &new);
    queue.rename(&old, &new);
    queue.rename(&new, &new);
    assert_eq!(queue.next(at(0)), Next::Idle, "2 is under way for the same row");
    queue.finished(at(0), n(2), Outcome::Done);
    assert_eq!(drain(&mut queue, at(0)), [3, 4, 5]);
}

#[test]
fn merged_writes_follow_a_row_together() {
    let mut queue = filled(policy().coalesce_patches(true), &["tmp", "tmp", "tmp"]);
    next(&mut queue, at(0));
    queue.finished(at(0), n(1), SOON);
    queue.accept(patch(4, "real"));
    let key = |id: &str| RowKey::Id(Arc::from(id));
    queue.rename(&key("tmp"), &key("real"));
    queue.remove(n(1)).unwrap();
    assert_eq!(queue.next(at(0)), Next::WaitUntil(at(1)), "4 waits behind them");
    let due = deliver(&mut queue, at(1));
    assert_eq!((due[0].op.record(), &due[0].merged), (Some(&record! { "n" => 3 }), &ns(&[3])));
    assert_eq!(queue.next(at(1)), Next::Idle);
    queue.finished(at(1), n(2), Outcome::Done);
    assert_eq!(drain(&mut queue, at(1)), [4]);
}

#[test]
fn a_number_that_is_queued_already_is_left_as_it_is() {
    let mut queue = filled(policy(), &["a"]);
    assert_eq!(queue.accept(patch(1, "b")), []);
    assert_eq!((queue.entries.len(), deliver(&mut queue, at(0))[0].op.id()), (1, Some("a")));
}

#[test]
fn errors_settle_retry_or_pause_by_their_kind() {
    let wish = Some(SECOND * 9);
    let of = |kind| Outcome::of(&Error::new(kind, "").with_retry_after(SECOND * 9));
    assert_eq!(of(ErrorKind::Unavailable), Outcome::Unavailable { retry_after: wish });
    for kind in [ErrorKind::Timeout, ErrorKind::Source, ErrorKind::Cancelled, ErrorKind::Full] {
        assert_eq!(of(kind), Outcome::Transient { retry_after: wish });
    }
    for kind in [ErrorKind::Rejected, ErrorKind::Conflict, ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Panicked]
    {
        assert_eq!(of(kind), Outcome::Failed);
    }
    assert_eq!(Outcome::of(&Error::new(ErrorKind::Timeout, "")), SOON);
}

#[test]
fn a_wrong_setting_is_named() {
    let wrong = [
        ("max_attempts", policy().max_attempts(Some(0))),
        ("first_delay", policy().first_delay(Duration::ZERO)),
        ("max_delay", policy().max_delay(Duration::from_millis(999))),
        ("jitter", policy().jitter(1.01)),
        ("jitter", policy().jitter(f64::NAN)),
        ("parallel", policy().parallel(0)),
        ("batch", policy().batch(0)),
        ("probe_every", policy().probe_every(Duration::ZERO)),
        ("deadline", policy().deadline(Duration::ZERO)),
    ];
    for (setting, policy) in wrong {
        let error = policy.check().unwrap_err();
        assert_eq!((error.kind(), error.context("setting")), (ErrorKind::Invalid, Some(setting)));
    }
    DeliveryPolicy::default().check().unwrap();
}

/// Counts how often the queue looks at a write or lists a row anew; each is a look-up in an ordered map.
#[test]
fn a_hundred_thousand_writes_are_accepted_and_drained_in_steps_that_follow_their_number() {
    let cases = [
        (100_000, 100_000, 1, false),
        (100_000, 1, 50, true),
        (10_000, 1, 1, false),
        (10_000, 100, 1, true),
        (10_000, 100, 50, false),
    ];
    for (writes, rows, batch, coalesce) in cases {
        let mut queue = queue(policy().batch(batch).coalesce_patches(coalesce).parallel(4));
        for number in 1..=writes {
            queue.accept(patch(number, &(number % rows).to_string()));
        }
        let mut settled = 0;
        // Every write fails once: the queue is full of rows that wait.
        for (now, outcome) in [(at(0), SOON), (at(1), Outcome::Done)] {
            while let Next::Deliver(due) = queue.next(now) {
                for due in due {
                    if queue.finished(now, due.number, outcome) == Verdict::Settled {
                        settled += 1 + due.merged.len() as u64;
                    }
                }
            }
        }
        assert_eq!((settled, queue.entries.len()), (writes, 0));
        let steps = queue.line.steps.get();
        println!("{writes} writes of {rows} rows in batches of {batch}: {steps} steps");
        assert!(steps <= 10 * writes);
    }
}
