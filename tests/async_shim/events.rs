//! E1: events as a stream.

use diorama::prelude::*;
use diorama::{Cause, Lagged};

use crate::executors::*;
use crate::support::*;

async fn e1_every_stream_has_every_event_in_order_and_ends_at_the_closing() {
    let dio = lens(Lens::new().in_memory()).await.make_dio(products("e1-order")).await.unwrap();
    let (mut first, mut second) = (dio.subscribe_events(), dio.subscribe_events());
    assert!(try_next(&mut first).await.is_none(), "nothing has happened");
    let mut step = begin(next(&mut first)).await;
    assert!(step.is_waiting().await);
    dio.patched("b", product("Bell", 0)).await.unwrap();
    let event = step.await.unwrap().unwrap();
    assert_eq!((event.id(), event.cause()), (Some("b"), Some(Cause::Outside)));
    for price in 1..100 {
        dio.patched("b", product("Bell", price)).await.unwrap();
        if price % 10 == 0 {
            dio.write(WriteOp::upsert(format!("row {price}"), product("W", price)))
                .await
                .unwrap()
                .wait()
                .await
                .unwrap();
        }
    }
    dio.close(SOON).await.unwrap();
    let mut seen = vec![event];
    while let Some(event) = next(&mut first).await {
        seen.push(event.unwrap());
    }
    let mut other = Vec::new();
    while let Some(event) = next(&mut second).await {
        other.push(event.unwrap());
    }
    assert_eq!(names(&seen), names(&other));
    assert!(seen.iter().map(DioEvent::seq).is_sorted());
    let count = |name: &str| names(&seen).iter().filter(|other| other.starts_with(name)).count();
    assert_eq!((count("RecordChanged b"), count("WriteSettled"), count("Closed")), (100, 9, 1));
    assert!(next(&mut first).await.is_none(), "also when asked again");
}

async fn e1_a_stream_that_lags_is_told_how_many_it_missed_and_goes_on() {
    let lens = lens(Lens::new().in_memory().event_capacity(8)).await;
    let dio = lens.make_dio(products("e1-lag")).await.unwrap();
    let mut stuck = dio.subscribe_events();
    let mut live = dio.subscribe_events();
    for price in 0..50 {
        dio.patched("b", product("Bell", 1_000 + price)).await.unwrap();
        assert_eq!(next(&mut live).await.unwrap().unwrap().id(), Some("b"));
    }
    let (mut seen, mut missed) = (0, 0);
    while let Some(event) = try_next(&mut stuck).await {
        match event {
            Ok(_) => seen += 1,
            Err(Lagged(number)) => missed += number,
        }
    }
    assert_eq!(seen + missed, 50);
    assert!(missed > 0);
    dio.patched("b", product("Bell", 0)).await.unwrap();
    assert_eq!(next(&mut stuck).await.unwrap().unwrap().seq(), dio.seq(), "it goes on with what comes then");
}

async fn e1_whoever_has_an_event_sees_rows_at_least_that_new() {
    let dio = lens(Lens::new().in_memory()).await.make_dio(products("e1-newer")).await.unwrap();
    let view = dio.table_scenery().where_eq("name", "Bell").open().await.unwrap();
    let mut events = dio.subscribe_events();
    let changer: Dio = (*dio).clone();
    let changes = start("changes", move || {
        for price in 0..300 {
            changer.patched("b", product("Bell", price)).unwrap();
        }
    });
    let mut last = -1;
    while last < 299 {
        let event = next(&mut events).await.unwrap().unwrap();
        let price = view.snapshot().row(0).unwrap().int("price").unwrap();
        assert!(dio.seq() >= event.seq() && view.snapshot().seq() >= event.seq());
        assert!(price >= last);
        last = price;
    }
    changes.end();
}

on_every_executor!(
    e1_every_stream_has_every_event_in_order_and_ends_at_the_closing,
    e1_a_stream_that_lags_is_told_how_many_it_missed_and_goes_on,
    e1_whoever_has_an_event_sees_rows_at_least_that_new,
);
