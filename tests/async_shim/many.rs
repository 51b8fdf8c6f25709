//! A1: very many futures at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use diorama::clock::Clock;
use diorama::live_threads;
use diorama::prelude::*;

use crate::executors::*;
use crate::limit::limited;
use crate::support::*;

const MANY: usize = 100_000;

#[test]
fn a_hundred_thousand_pending_futures_cost_no_thread_and_wake_by_one_change() {
    limited(Duration::from_secs(240), || {
        let lens = pollster::block_on(lens(Lens::new().in_memory()));
        let dio = pollster::block_on(lens.make_dio(products("many"))).unwrap();
        let view = pollster::block_on(dio.table_scenery().open()).unwrap();
        let own = || {
            let name = lens.name().to_owned();
            let is_own = move |thread: &String| thread.starts_with("many:") || thread.starts_with(&format!("{name}:"));
            live_threads().into_iter().filter(is_own).count()
        };
        let threads = own();
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let cx = &mut Context::from_waker(&waker);
        let seen = view.generation();
        let mut futures: Vec<_> = (0..MANY).map(|_| Box::pin(view.wait_for_change(seen))).collect();
        assert!(size_of_val(&*futures[0]) <= 512, "{} bytes", size_of_val(&*futures[0]));
        for future in &mut futures {
            assert!(future.as_mut().poll(cx).is_pending());
        }
        assert_eq!(own(), threads);
        // One holder for each, and no more however often it is polled.
        assert_eq!(Arc::strong_count(&wakes), MANY + 2);
        assert!(futures[0].as_mut().poll(cx).is_pending());
        assert_eq!(Arc::strong_count(&wakes), MANY + 2);

        dio_patch(&dio, 11);
        until("all are woken", || wakes.count() == MANY);
        for future in &mut futures {
            assert!(future.as_mut().poll(cx).is_ready());
        }
        assert_eq!((wakes.count(), Arc::strong_count(&wakes)), (MANY, 2));

        // Dropped from the front, from the back and from the middle: each costs as much as another.
        let clock = Clock::system();
        let begun = clock.now();
        let seen = view.generation();
        let mut futures: Vec<_> = (0..MANY).map(|_| Some(Box::pin(view.wait_for_change(seen)))).collect();
        for future in futures.iter_mut().flatten() {
            assert!(future.as_mut().poll(cx).is_pending());
        }
        for at in 0..MANY {
            futures[(at * 7_919) % MANY] = None;
        }
        assert_eq!((wakes.count(), Arc::strong_count(&wakes)), (MANY, 2));
        assert!(clock.now().since(begun) < Duration::from_secs(60), "it grows with the square of them");
        dio_patch(&dio, 12);
        assert_eq!(wakes.count(), MANY, "nobody waits any more");
    });
}

fn dio_patch(dio: &Dio, price: i64) {
    dio.patched("b", product("Bell", price)).unwrap();
}

#[test]
fn a_future_that_moves_to_another_task_wakes_that_one() {
    limited(Duration::from_secs(60), || {
        let lens = pollster::block_on(lens(Lens::new().in_memory()));
        let dio = pollster::block_on(lens.make_dio(products("moves"))).unwrap();
        let view = pollster::block_on(dio.table_scenery().open()).unwrap();
        let (first, second) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
        let mut future: Pin<Box<dyn Future<Output = _>>> = Box::pin(view.wait_for_change(view.generation()));
        let mut poll =
            |wakes: &Arc<Wakes>| future.as_mut().poll(&mut Context::from_waker(&Waker::from(wakes.clone()))).is_ready();
        assert!(!poll(&first));
        assert!(!poll(&second));
        assert_eq!(Arc::strong_count(&first), 1, "the first one's waker is gone");
        dio_patch(&dio, 11);
        until("the second one is woken", || second.count() == 1);
        assert_eq!(first.count(), 0);
        assert!(poll(&second));
    });
}
