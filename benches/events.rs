//! What events and waiting cost: fan-out, publishing past stuck readers, waking one waiter.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use diorama::__bench_events::{EventHub, NoEvent, Notifier, Waited};

type Event = Arc<str>;

/// Publishes in bursts that the ring holds, then every reader drains, on one thread: the cost of the work alone.
fn fan_out(c: &mut Criterion) {
    const BURST: usize = 256;
    let mut group = c.benchmark_group("events/publish_and_read");
    group.throughput(Throughput::Elements(BURST as u64));
    for readers in [1, 16] {
        group.bench_function(BenchmarkId::new("readers", readers), |b| {
            let hub = EventHub::new(1024);
            let mut readers: Vec<_> = (0..readers).map(|_| hub.subscribe()).collect();
            let event: Event = "row".into();
            b.iter(|| {
                for _ in 0..BURST {
                    hub.publish(event.clone());
                }
                for reader in &mut readers {
                    while reader.try_recv() != Err(NoEvent::Empty) {}
                }
            });
            assert_eq!(hub.stats().rotations, 0);
        });
    }
    group.finish();
}

fn publish(c: &mut Criterion) {
    let event: Event = "row".into();
    c.bench_function("events/publish_without_readers", |b| {
        let hub = EventHub::new(1024);
        b.iter(|| hub.publish(black_box(event.clone())));
    });
    c.bench_function("events/publish_with_16_stuck_readers", |b| {
        let hub = EventHub::new(1024);
        let _stuck: Vec<_> = (0..16).map(|_| hub.subscribe()).collect();
        b.iter(|| hub.publish(black_box(event.clone())));
    });
    c.bench_function("events/publish_with_16_stuck_and_1_live_reader", |b| {
        let hub = EventHub::new(1024);
        let _stuck: Vec<_> = (0..16).map(|_| hub.subscribe()).collect();
        let mut live = hub.subscribe();
        b.iter(|| {
            hub.publish(black_box(event.clone()));
            live.try_recv().ok()
        });
    });
    c.bench_function("events/rotation", |b| {
        // A ring of one seat and a reader that drains only every other event: a fresh ring each time.
        let hub = EventHub::new(1);
        let mut reader = hub.subscribe();
        b.iter(|| {
            hub.publish(event.clone());
            hub.publish(event.clone());
            while reader.try_recv() != Err(NoEvent::Empty) {}
        });
        assert!(hub.stats().rotations > 0);
    });
    c.bench_function("events/round_trip_to_a_blocked_reader", |b| {
        let (hub, answers) = (EventHub::new(64), Notifier::new(0));
        let mut reader = hub.subscribe();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for _ in reader.iter() {
                    answers.advance();
                }
            });
            let mut turn = 0;
            b.iter(|| {
                turn += 1;
                hub.publish(event.clone());
                assert_eq!(answers.wait_until(turn, None), Waited::Reached(turn));
            });
            hub.close();
        });
    });
}

fn notifier(c: &mut Criterion) {
    c.bench_function("notifier/get", |b| {
        let notifier = Notifier::new(0);
        b.iter(|| black_box(&notifier).get());
    });
    c.bench_function("notifier/advance_idle", |b| {
        let notifier = Notifier::new(0);
        b.iter(|| black_box(&notifier).advance());
    });
    c.bench_function("notifier/advance_with_a_waiter_for_later", |b| {
        let notifier = Notifier::new(0);
        std::thread::scope(|threads| {
            threads.spawn(|| notifier.wait_until(u64::MAX, None));
            while notifier.waiters().0 == 0 {
                std::thread::yield_now();
            }
            b.iter(|| black_box(&notifier).advance());
            notifier.close();
        });
    });
    c.bench_function("notifier/advance_with_a_subscriber", |b| {
        let notifier = Notifier::new(0);
        let _subscription = notifier.subscribe();
        b.iter(|| black_box(&notifier).advance());
    });
    c.bench_function("notifier/round_trip_of_blocked_waiters", |b| {
        let (there, back) = (Notifier::new(0), Notifier::new(0));
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let mut turn = 1;
                while let Waited::Reached(_) = there.wait_until(turn, None) {
                    back.advance_to(turn);
                    turn += 1;
                }
            });
            let mut turn = 0;
            b.iter(|| {
                turn += 1;
                there.advance_to(turn);
                assert_eq!(back.wait_until(turn, None), Waited::Reached(turn));
            });
            there.close();
        });
    });
}

criterion_group!(benches, fan_out, publish, notifier);
criterion_main!(benches);
