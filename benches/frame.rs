//! What a frame costs in which nothing has changed, over 1,000 open views of a Dio.

// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use diorama::clock::Clock;
use diorama::prelude::*;

const VIEWS: i64 = 1_000;

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rows = (0..VIEWS).map(|n| (n.to_string(), record! { "id" => n.to_string(), "n" => n }));
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("rows", "id").with_rows(rows)).unwrap();
    let views: Vec<TableScenery> = (0..VIEWS).map(|n| dio.table_scenery().where_eq("n", n).open().unwrap()).collect();
    let clock = Clock::system();
    let measure = |what: &str, times: u32, ask: &dyn Fn()| {
        let begin = clock.now();
        (0..times).for_each(|_| ask());
        println!("{what}: {:.1} ns", clock.now().since(begin).as_nanos() as f64 / f64::from(times));
    };
    let ask = || {
        black_box(black_box(&dio).view_moves());
    };
    measure("whether any of 1,000 idle views has moved", 50_000_000, &ask);
    let ask_each = || {
        for view in &views {
            black_box(view.generation());
        }
    };
    measure("the generations of 1,000 idle views, one by one", 50_000, &ask_each);
}
