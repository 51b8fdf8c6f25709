//! What idling costs: processor time of 64 blocked event readers and 64 blocked waiters of a Dio over five seconds (Linux).

// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use diorama::prelude::*;
use diorama::{NoEvent, record};

/// Processor time of this process so far, user and system, in clock ticks (usually 10 ms each).
fn cpu_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name, in brackets, may hold spaces; user and system time are the 12th and 13th field after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rows = (0..1_000).map(|n| (format!("id {n}"), record! { "n" => n }));
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("numbers", "id").with_rows(rows)).unwrap();
    let views: Vec<TableScenery> = (0..64)
        .map(|n| dio.table_scenery().condition(Condition::ge("n", n)).sort("n", SortDir::Desc).open().unwrap())
        .collect();
    std::thread::scope(|threads| {
        for view in &views {
            let mut reader = dio.subscribe_events();
            threads.spawn(move || {
                loop {
                    match reader.recv(None) {
                        Err(NoEvent::Closed) => break,
                        _ => continue,
                    }
                }
            });
            threads.spawn(|| view.wait_for_change(view.generation(), None));
        }
        // A reader that waits for nothing is the clock here.
        let mut watch = dio.subscribe_events();
        let _ = watch.recv(Some(Duration::from_secs(1)));
        let before = cpu_ticks();
        let _ = watch.recv(Some(Duration::from_secs(5)));
        let after = cpu_ticks();
        match (before, after) {
            (Some(before), Some(after)) => {
                println!("64 event readers + 64 view waiters, 5 s idle: {} clock ticks", after - before);
            }
            _ => println!("no /proc here: nothing measured"),
        }
        lens.close(Duration::from_secs(10)).unwrap();
    });
}
