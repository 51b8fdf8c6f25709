//! Frame loops: what a frame costs in which nothing has changed, and that none misses a change.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::thread;

use diorama::prelude::*;

struct Counting;

thread_local! {
    /// How often this thread has asked for memory.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends frees what it had after its counter is gone.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn row(number: u64, n: u64) -> (String, Record) {
    let id = number.to_string();
    (id.clone(), record! { "id" => id, "n" => n })
}

fn opened(views: u64) -> (Lens, Dio, Vec<TableScenery>) {
    let lens = Lens::new().in_memory().build().unwrap();
    let rows = (0..views).map(|number| row(number, number));
    let dio = lens.make_dio(MemoryVista::new("rows", "id").with_rows(rows)).unwrap();
    let views = (0..views).map(|n| dio.table_scenery().where_eq("n", n).open().unwrap()).collect();
    (lens, dio, views)
}

/// What a frame loop keeps between two frames.
struct Screen {
    asked: u64,
    painted: Vec<Generation>,
}

impl Screen {
    fn new(views: &[TableScenery]) -> Self {
        Screen { asked: u64::MAX, painted: vec![Generation(u64::MAX); views.len()] }
    }

    /// Paints the views that have moved; says how many.
    fn frame(&mut self, dio: &Dio, views: &[TableScenery]) -> usize {
        let moves = dio.view_moves();
        if moves == self.asked {
            return 0;
        }
        self.asked = moves;
        let mut repainted = 0;
        for (view, painted) in views.iter().zip(&mut self.painted) {
            let generation = view.generation();
            if generation != *painted {
                *painted = generation;
                repainted += 1;
            }
        }
        repainted
    }
}

#[test]
fn a_frame_in_which_nothing_changed_allocates_nothing() {
    let (_lens, dio, views) = opened(200);
    let mut screen = Screen::new(&views);
    assert_eq!(screen.frame(&dio, &views), 200);
    let before = ASKED.get();
    for _ in 0..1_000 {
        assert_eq!(screen.frame(&dio, &views), 0);
        assert!(views.iter().zip(&screen.painted).all(|(view, painted)| view.generation() == *painted));
        std::hint::black_box(dio.seq());
    }
    assert_eq!(ASKED.get(), before);
    assert!(ASKED.get() > 0, "the counter counts");
    dio.patched("7", row(7, 8).1).unwrap();
    let seen = screen.painted[8];
    views[8].wait_for_change(seen, None).unwrap();
    views[7].wait_for_change(screen.painted[7], None).unwrap();
    let repainted: usize = (0..3).map(|_| screen.frame(&dio, &views)).sum();
    assert_eq!(repainted, 2, "those that show it, before or after");
    dio.patched("unseen", row(1_000, 1_000).1).unwrap();
    assert_eq!(screen.frame(&dio, &views), 0, "what no view shows moves nothing");
}

#[test]
fn a_frame_loop_that_asks_for_moves_misses_none() {
    let (_lens, dio, views) = opened(20);
    let mut screen = Screen::new(&views);
    for round in 0..200 {
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0..5 {
                    dio.patched(number.to_string(), row(number, (number + round) % 20).1).unwrap();
                }
                views[3].set_sort([SortBy::desc("id")]).unwrap();
                views[3].set_sort([]).unwrap();
            });
            while !writer.is_finished() {
                screen.frame(&dio, &views);
            }
        });
        // The core has moved every generation before it answers the second of these.
        views[3].wait_until_ready(None).unwrap();
        (0..2).for_each(|_| dio.cache().remove("no such row").unwrap());
        screen.frame(&dio, &views);
        let newest: Vec<Generation> = views.iter().map(|view| view.generation()).collect();
        assert_eq!(screen.painted, newest);
    }
}
