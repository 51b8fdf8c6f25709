use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::*;
use crate::prelude::*;

const SOON: Duration = Duration::from_secs(20);

fn eq(n: i64) -> QueryDescriptor {
    QueryDescriptor::new().filtered(Condition::eq("n", n))
}

fn question(query: &QueryDescriptor) -> Arc<Question> {
    Question::new(query, &Schema::open("id")).unwrap()
}

fn flight(asked: Asked) -> Arc<QueryFlight> {
    match asked {
        Asked::New(flight) => flight,
        Asked::Joined(_) => panic!("it is under way"),
        Asked::Answered => panic!("it is answered"),
    }
}

fn is_answered(queries: &Queries, query: &QueryDescriptor) -> bool {
    queries.is_answered(&question(query))
}

#[test]
fn equal_questions_join_whatever_their_order_and_window_and_answer_narrower_ones() {
    let queries = Queries::default();
    let first = flight(queries.ask(&question(&eq(1).sorted("n", SortDir::Desc).windowed(3, 4))).unwrap());
    assert_eq!(first.question.descriptor, eq(1));
    let joined = queries.ask(&question(&eq(1).searching(""))).unwrap();
    assert!(matches!(joined, Asked::Joined(other) if Arc::ptr_eq(&other, &first)));
    assert!(matches!(queries.ask(&question(&eq(2))).unwrap(), Asked::New(_)));
    queries.ended(&first, true);
    assert!(is_answered(&queries, &eq(1)) && is_answered(&queries, &eq(1).searching("x")));
    assert!(!is_answered(&queries, &eq(2)) && !is_answered(&queries, &QueryDescriptor::new()));
    let all = flight(queries.ask(&question(&QueryDescriptor::new())).unwrap());
    queries.ended(&all, true);
    assert!(is_answered(&queries, &eq(2)));
    assert_eq!(queries.0.lock().answered.len(), 1, "what a wider answer covers is not kept");
}

#[test]
fn a_question_that_failed_is_asked_anew() {
    let queries = Queries::default();
    let first = flight(queries.ask(&question(&eq(1))).unwrap());
    queries.ended(&first, false);
    let second = flight(queries.ask(&question(&eq(1))).unwrap());
    assert!(!Arc::ptr_eq(&first, &second) && !is_answered(&queries, &eq(1)));
}

#[test]
fn a_flight_that_began_before_all_was_forgotten_answers_its_askers_alone() {
    let queries = Queries::default();
    let before = flight(queries.ask(&question(&eq(1))).unwrap());
    queries.forget();
    let after = flight(queries.ask(&question(&eq(1))).unwrap());
    assert_eq!(queries.under_way(), 2);
    queries.ended(&before, true);
    assert!(!is_answered(&queries, &eq(1)));
    queries.ended(&after, true);
    assert!(is_answered(&queries, &eq(1)));
    assert_eq!(queries.under_way(), 0);
}

#[test]
fn what_was_answered_and_what_nobody_wants_any_more_is_kept_within_bounds() {
    let queries = Queries::default();
    for n in 0..ANSWERED as i64 + 10 {
        let asked = flight(queries.ask(&question(&eq(n))).unwrap());
        queries.ended(&asked, true);
        drop(queries.ask(&question(&eq(-n - 1))).unwrap());
        drop(queries.inquiry());
    }
    let desk = queries.0.lock();
    assert_eq!(desk.answered.len(), ANSWERED);
    assert!(desk.flights.len() <= SWEEP && desk.inquiries.len() <= SWEEP);
    drop(desk);
    assert!(!is_answered(&queries, &eq(9)) && is_answered(&queries, &eq(10)));
}

#[test]
fn open_views_questions_are_asked_again_but_for_those_that_another_covers() {
    let queries = Queries::default();
    let inquiries: Vec<Arc<Inquiry>> = [eq(1), eq(1).searching("x"), eq(2).searching("y"), eq(2), eq(1)]
        .iter()
        .map(|query| {
            let inquiry = queries.inquiry();
            inquiry.replace(Inquired { question: Some(question(query)), flight: None });
            inquiry
        })
        .collect();
    let wanted = |queries: &Queries| -> Vec<QueryDescriptor> {
        queries.forget_all_but_open().iter().map(|question| question.descriptor.clone()).collect()
    };
    assert_eq!(wanted(&queries), [eq(1), eq(2)]);
    drop(inquiries);
    assert!(wanted(&queries).is_empty());
}

/// A Dio whose queries tell that they began, and go on when they are let go.
fn held_dio() -> (Lens, Dio, Receiver<String>, Sender<()>) {
    let (begin, begun) = unbounded();
    let (let_go, gate) = unbounded();
    let lens = Lens::new()
        .in_memory()
        .on_query(move |_, query| {
            begin.send(query.canonical()).unwrap();
            let _ = gate.recv_timeout(SOON);
            Ok(())
        })
        .build()
        .unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id")).unwrap();
    (lens, dio, begun, let_go)
}

/// Keeps a load thread busy until the sender is dropped.
fn hold_a_load_thread(lens: &Lens) -> Sender<()> {
    let (let_go, held) = bounded::<()>(0);
    let (begin, begun) = bounded(1);
    let job = move || {
        begin.send(()).unwrap();
        let _ = held.recv();
    };
    lens.inner().load_pool.submit(Rank::new(0, Role::Load), Box::new(job)).unwrap();
    begun.recv().unwrap();
    let_go
}

#[test]
fn a_question_that_nobody_wants_any_more_is_not_asked() {
    let (lens, dio, begun, let_go) = held_dio();
    let busy: Vec<Sender<()>> = (0..4).map(|_| hold_a_load_thread(&lens)).collect();
    let view = dio.table_scenery().where_eq("n", 1).open_now().unwrap();
    view.set_conditions([Condition::eq("n", 2)]).unwrap();
    drop(dio.value_scenery().count().where_eq("n", 3).open_now().unwrap());
    view.set_conditions([Condition::eq("n", 4)]).unwrap();
    assert_eq!(dio.status().queries_under_way, 1);
    let_go.send(()).unwrap();
    drop(busy);
    view.wait_until_ready(Some(SOON)).unwrap();
    assert_eq!(begun.try_iter().collect::<Vec<_>>(), ["where n = 4"]);
    assert_eq!(dio.status().queries_under_way, 0);
}

#[test]
fn a_pool_that_takes_no_more_is_the_error_of_whoever_waits() {
    let (lens, dio, begun, _let_go) = held_dio();
    lens.inner().load_pool.hang_up();
    let error = dio.table_scenery().open().unwrap_err();
    assert_eq!((error.kind(), error.context("table")), (ErrorKind::Closed, Some("t")));
    assert_eq!(dio.vista().list_values().unwrap_err().kind(), ErrorKind::Closed);
    let view = dio.table_scenery().open_now().unwrap();
    view.wait_until_ready(Some(SOON)).unwrap_err();
    assert!(matches!(view.load_state(), LoadState::Failed(_)));
    assert!(begun.is_empty());
}

#[test]
fn whoever_waits_for_the_rows_of_a_query_is_woken_by_its_end_and_by_the_closing() {
    let (_lens, dio, begun, _let_go) = held_dio();
    let list = || dio.vista().list_values().map(drop);
    std::thread::scope(|threads| {
        let first = threads.spawn(list);
        begun.recv_timeout(SOON).unwrap();
        let Some(queries) = &dio.inner().queries else { panic!("it has on_query") };
        let under_way = flight_under_way(queries);
        let waiters: Vec<_> = (0..3).map(|_| threads.spawn(list)).collect();
        while under_way.end.ended().waiters().0 < 4 {
            std::thread::yield_now();
        }
        let in_a_moment = CallCx::on(dio.inner().clock().clone()).deadline_in(Duration::from_millis(1));
        let timed = dio.vista().list(&in_a_moment);
        assert_eq!(timed.unwrap_err().kind(), ErrorKind::Timeout, "who has no more time goes, the others wait on");
        dio.close(Duration::ZERO).unwrap();
        for waiter in waiters.into_iter().chain([first]) {
            assert_eq!(waiter.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        }
    });
    assert!(begun.is_empty(), "the source was asked once");
}

fn flight_under_way(queries: &Queries) -> Arc<QueryFlight> {
    let desk = queries.0.lock();
    desk.flights.values().find_map(Weak::upgrade).unwrap()
}
