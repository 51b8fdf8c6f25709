//! Schedule: when the next refresh is due. A pure state machine fed with moments.
//!
//! Invariants: the first refresh is due one interval after the start; intervals are counted from the end of a refresh, so
//! they don't pile up behind a slow one; failures back off.

use std::time::Duration;

use crate::clock::Moment;

/// The first pause after a failure, unless the interval is shorter.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after failures, unless the interval is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    every: Option<Duration>,
    due: Option<Moment>,
    failures: u32,
}

impl Schedule {
    pub(crate) fn new(every: Option<Duration>, now: Moment) -> Self {
        Schedule { every, due: every.map(|every| now.after(every)), failures: 0 }
    }

    /// When the next refresh is due, if ever.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.due
    }

    /// A refresh ended.
    pub(crate) fn ended(&mut self, now: Moment, well: bool) {
        let Some(every) = self.every else { return };
        self.failures = if well { 0 } else { self.failures.saturating_add(1) };
        let pause = if well { every } else { pause_after(self.failures, every) };
        self.due = Some(now.after(pause));
    }
}

fn pause_after(failures: u32, every: Duration) -> Duration {
    let first = FIRST_PAUSE.min(every);
    let factor = 1_u32.checked_shl(failures.saturating_sub(1).min(30)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(LONGEST_PAUSE.max(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn the_first_refresh_is_due_after_one_interval() {
        assert_eq!(Schedule::new(Some(Duration::from_secs(10)), at(3)).due(), Some(at(13)));
        assert_eq!(Schedule::new(None, at(3)).due(), None);
    }

    #[test]
    fn intervals_are_counted_from_the_end_of_a_slow_refresh() {
        let mut schedule = Schedule::new(Some(Duration::from_secs(10)), at(0));
        schedule.ended(at(45), true);
        assert_eq!(schedule.due(), Some(at(55)));
    }

    #[test]
    fn failures_back_off_and_a_success_ends_that() {
        let mut schedule = Schedule::new(Some(Duration::from_secs(300)), at(0));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            schedule.ended(at(0), false);
            pauses.extend(schedule.due().map(|due| due.0.as_secs()));
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        schedule.ended(at(0), true);
        assert_eq!(schedule.due(), Some(at(300)));
        schedule.ended(at(0), false);
        assert_eq!(schedule.due(), Some(at(5)));
    }

    #[test]
    fn a_short_interval_backs_off_to_a_minute() {
        let mut schedule = Schedule::new(Some(Duration::from_secs(1)), at(0));
        for _ in 0..100 {
            schedule.ended(at(0), false);
        }
        assert_eq!(schedule.due(), Some(at(60)));
    }
}
