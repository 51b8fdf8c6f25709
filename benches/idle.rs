//! What idling costs: processor time of 64 blocked event readers and 64 blocked waiters over five seconds (Linux).

use std::time::Duration;

use diorama::__bench_events::{EventHub, Notifier};

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
    let hub: EventHub<u64> = EventHub::new(1024);
    let notifier = Notifier::new(0);
    std::thread::scope(|threads| {
        for _ in 0..64 {
            let mut reader = hub.subscribe();
            threads.spawn(move || reader.recv(None));
            threads.spawn(|| notifier.wait_until(1, None));
        }
        while notifier.waiters().0 < 64 {
            std::thread::yield_now();
        }
        // The readers have started by the time of this wait; it also is the wait that is measured.
        let mut watch = hub.subscribe();
        let _ = watch.recv(Some(Duration::from_millis(500)));
        let before = cpu_ticks();
        let _ = watch.recv(Some(Duration::from_secs(5)));
        let after = cpu_ticks();
        match (before, after) {
            (Some(before), Some(after)) => {
                let wakeups = hub.stats().wakeups + notifier.wakeups();
                println!("64 readers + 64 waiters, 5 s idle: {} clock ticks, {wakeups} wake-ups", after - before);
            }
            _ => println!("no /proc/self/stat here: nothing measured"),
        }
        hub.close();
        notifier.close();
    });
}
