//! Tests of the event hub: a plain model beside it, stuck readers, idle readers, closing.

use std::thread::scope;

use proptest::prelude::*;

use super::*;

/// Everything a reader gets without waiting: the events, and the sum of what it missed.
fn drain(reader: &mut EventReader<u64>) -> (Vec<u64>, u64, NoEvent) {
    let (mut events, mut missed) = (Vec::new(), 0);
    loop {
        match reader.try_recv() {
            Ok(event) => events.push(event),
            Err(NoEvent::Lagged(count)) => missed += count,
            Err(end) => return (events, missed, end),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u8),
    Read { reader: usize, at_most: u8 },
    Subscribe,
    Drop { reader: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1u8..8).prop_map(Step::Publish),
        5 => (0usize..6, 1u8..12).prop_map(|(reader, at_most)| Step::Read { reader, at_most }),
        2 => Just(Step::Subscribe),
        1 => (0usize..6).prop_map(|reader| Step::Drop { reader }),
    ];
    prop::collection::vec(step, 1..120)
}

struct Subscriber {
    reader: EventReader<u64>,
    /// The number of the next event it must see.
    position: u64,
    /// The furthest it was behind since it last was up to date.
    furthest: u64,
}

impl Subscriber {
    /// One read, checked against "event number n is the number n".
    fn check_read(&mut self, published: u64, capacity: u64, closed: bool) -> bool {
        match self.reader.try_recv() {
            Ok(event) => {
                assert_eq!(event, self.position, "out of order");
                self.position += 1;
                true
            }
            Err(NoEvent::Lagged(missed)) => {
                assert!(missed > 0);
                assert!(self.furthest > capacity, "lost events though it was never more than a ring behind");
                self.position += missed;
                assert!(self.position <= published, "missed events that were never published");
                self.furthest = published - self.position;
                true
            }
            Err(NoEvent::Empty) => {
                assert!(!closed);
                assert_eq!(self.position, published, "empty with events unread");
                self.furthest = 0;
                false
            }
            Err(NoEvent::Closed) => {
                assert!(closed);
                assert_eq!(self.position, published, "closed with events unread and uncounted");
                false
            }
        }
    }
}

proptest! {
    #[test]
    fn readers_see_every_event_in_order_or_the_exact_count_missed(capacity in 1u64..6, steps in steps()) {
        let hub = EventHub::new(capacity as usize);
        let mut published = 0;
        let mut readers: Vec<Subscriber> = Vec::new();
        for step in steps {
            match step {
                Step::Publish(count) => for _ in 0..count {
                    hub.publish(published);
                    published += 1;
                    for subscriber in &mut readers {
                        subscriber.furthest = subscriber.furthest.max(published - subscriber.position);
                    }
                },
                Step::Subscribe if readers.len() < 6 => {
                    readers.push(Subscriber { reader: hub.subscribe(), position: published, furthest: 0 });
                }
                Step::Subscribe => {}
                Step::Read { reader, at_most } => if let Some(subscriber) = readers.get_mut(reader) {
                    for _ in 0..at_most {
                        if !subscriber.check_read(published, capacity, false) {
                            break;
                        }
                    }
                },
                Step::Drop { reader } => if reader < readers.len() {
                    drop(readers.swap_remove(reader));
                },
            }
            prop_assert_eq!(hub.stats().readers, readers.len());
        }
        hub.close();
        for mut subscriber in readers {
            while subscriber.check_read(published, capacity, true) {}
            prop_assert_eq!(subscriber.reader.recv(None), Err(NoEvent::Closed));
        }
    }
}

#[test]
fn sixteen_stuck_readers_never_slow_the_publisher_or_a_live_reader() {
    let hub = EventHub::new(8);
    let mut stuck: Vec<_> = (0..16).map(|_| hub.subscribe()).collect();
    let mut live = hub.subscribe();
    for event in 0..10_000 {
        hub.publish(event);
        assert_eq!(live.try_recv(), Ok(event));
    }
    // Stuck readers cost one fresh ring when they fall behind, not one per ring's worth of events.
    assert_eq!(hub.stats().rotations, 1);
    for reader in &mut stuck {
        let (events, missed, end) = drain(reader);
        assert_eq!(events, (0..8).collect::<Vec<_>>());
        assert_eq!((missed, end), (9_992, NoEvent::Empty));
    }
    hub.publish(10_000);
    for reader in stuck.iter_mut().chain([&mut live]) {
        assert_eq!(reader.try_recv(), Ok(10_000));
    }
}

#[test]
fn a_late_reader_moves_on_to_the_fresh_ring_without_loss() {
    let hub = EventHub::new(4);
    let mut late = hub.subscribe();
    let _stuck = hub.subscribe();
    for event in 0..3 {
        hub.publish(event);
    }
    assert_eq!(drain(&mut late).0, vec![0, 1, 2]);
    for event in 3..8 {
        hub.publish(event);
    }
    assert_eq!(hub.stats().rotations, 1);
    assert_eq!(drain(&mut late), (vec![3, 4, 5, 6, 7], 0, NoEvent::Empty));
}

#[test]
fn a_bus_lives_as_long_as_its_readers() {
    let hub = EventHub::new(4);
    hub.publish(1);
    assert!(hub.shared.hub.lock().bus.is_none());
    assert_eq!(hub.stats().published, 0);
    let (first, mut second) = (hub.subscribe(), hub.subscribe());
    hub.publish(2);
    drop(first);
    assert_eq!(second.try_recv(), Ok(2));
    drop(second);
    assert!(hub.shared.hub.lock().bus.is_none());
    hub.publish(3);
    let mut third = hub.subscribe();
    hub.publish(4);
    assert_eq!(third.try_recv(), Ok(4));
}

#[test]
fn a_subscriber_after_the_closing_sees_closed_at_once() {
    let hub = EventHub::new(4);
    let mut before = hub.subscribe();
    hub.publish(1);
    hub.close();
    hub.publish(2);
    let mut after = hub.subscribe();
    assert_eq!(after.recv(None), Err(NoEvent::Closed));
    assert!(after.doorbell().recv().is_err());
    assert_eq!(before.iter().collect::<Vec<_>>(), vec![Ok(1)]);
    assert_eq!(before.try_recv(), Err(NoEvent::Closed));
}

#[test]
fn a_timeout_is_honoured_and_loses_nothing() {
    let hub = EventHub::new(4);
    let mut reader = hub.subscribe();
    assert_eq!(reader.recv(Some(Duration::from_millis(1))), Err(NoEvent::Empty));
    assert_eq!(reader.recv(Some(Duration::ZERO)), Err(NoEvent::Empty));
    hub.publish(1);
    assert_eq!(reader.recv(Some(Duration::ZERO)), Ok(1));
}

/// Blocked in `recv`, or in `select!` on the doorbell: each reader accounts for every event, and ends with the hub.
#[test]
fn blocked_readers_of_both_kinds_account_for_every_event() {
    const EVENTS: u64 = 20_000;
    let hub = EventHub::new(64);
    let readers: Vec<_> = (0..4).map(|_| hub.subscribe()).collect();
    scope(|threads| {
        let counts: Vec<_> = readers
            .into_iter()
            .enumerate()
            .map(|(number, mut reader)| {
                threads.spawn(move || {
                    let mut position = 0;
                    if number % 2 == 0 {
                        for item in reader.iter() {
                            match item {
                                Ok(event) => {
                                    assert_eq!(event, position);
                                    position += 1;
                                }
                                Err(Lagged(missed)) => position += missed,
                            }
                        }
                        return position;
                    }
                    loop {
                        crossbeam_channel::select! { recv(reader.doorbell()) -> _ => {} }
                        loop {
                            match reader.try_recv() {
                                Ok(event) => {
                                    assert_eq!(event, position);
                                    position += 1;
                                }
                                Err(NoEvent::Lagged(missed)) => position += missed,
                                Err(NoEvent::Empty) => break,
                                Err(NoEvent::Closed) => return position,
                            }
                        }
                    }
                })
            })
            .collect();
        for event in 0..EVENTS {
            hub.publish(event);
        }
        hub.close();
        for count in counts {
            assert_eq!(count.join().unwrap(), EVENTS);
        }
    });
}

/// One event at a time, and the next only when it was answered: a lost ring would hang this test.
#[test]
fn every_single_event_wakes_a_sleeping_reader() {
    let hub = EventHub::new(1);
    let (mut blocked, mut selecting) = (hub.subscribe(), hub.subscribe());
    let (answer, answers) = bounded(2);
    scope(|threads| {
        let other = answer.clone();
        threads.spawn(move || {
            while let Ok(event) = blocked.recv(None) {
                answer.send(event).unwrap();
            }
        });
        threads.spawn(move || {
            loop {
                let _ = selecting.doorbell().recv();
                loop {
                    match selecting.try_recv() {
                        Ok(event) => other.send(event).unwrap(),
                        Err(NoEvent::Empty) => break,
                        Err(_) => return,
                    }
                }
            }
        });
        for event in 0..5_000 {
            hub.publish(event);
            assert_eq!((answers.recv(), answers.recv()), (Ok(event), Ok(event)));
        }
        hub.close();
    });
}

#[test]
fn idle_readers_and_waiters_never_wake() {
    let (hub, busy_hub) = (EventHub::new(16), EventHub::new(16));
    let notifier = Notifier::new(0);
    scope(|threads| {
        for _ in 0..64 {
            let mut reader: EventReader<u64> = hub.subscribe();
            threads.spawn(move || assert_eq!(reader.recv(None), Err(NoEvent::Closed)));
            let notifier = &notifier;
            threads.spawn(move || assert_eq!(notifier.wait_until(1_000_000, None), Waited::Closed(10_000)));
        }
        while hub.shared.sent.waiters().0 < 64 || notifier.waiters().0 < 64 {
            std::thread::yield_now();
        }
        let mut busy = busy_hub.subscribe();
        for event in 0..10_000 {
            busy_hub.publish(event);
            assert_eq!(busy.recv(None), Ok(event));
            notifier.advance();
        }
        assert_eq!((hub.stats().wakeups, notifier.wakeups()), (0, 0));
        hub.close();
        notifier.close();
    });
    // The closing woke each of them, once.
    assert_eq!((hub.stats().wakeups, notifier.wakeups()), (64, 64));
}
