//! Processor: what threads have used of the processors, which says more than a call's own time where that depends on whether it
//! finds a processor awake. Zero where the system doesn't tell.
#![allow(dead_code, reason = "a part of several benches, which use a part of it")]

use std::path::Path;
use std::time::Duration;

/// What this thread has used so far.
pub(crate) fn time_of_thread() -> Duration {
    used(Path::new("/proc/thread-self")).unwrap_or_default().0
}

/// What all threads that there are have used so far.
pub(crate) fn time_of_all() -> Duration {
    time_and_turns_of_all().0
}

/// The same, and how often one of them was given a processor.
pub(crate) fn time_and_turns_of_all() -> (Duration, u64) {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.filter_map(|task| used(&task.path())).fold((Duration::ZERO, 0), |all, one| (all.0 + one.0, all.1 + one.1))
}

fn used(task: &Path) -> Option<(Duration, u64)> {
    let schedule = std::fs::read_to_string(task.join("schedstat")).ok()?;
    let mut numbers = schedule.split_whitespace().map(|number| number.parse().ok());
    Some((Duration::from_nanos(numbers.next()??), numbers.nth(1)??))
}
