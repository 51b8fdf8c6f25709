//! Back-off: how long to wait before the next attempt, as the docstring of [`DeliveryPolicy`] says it.

use std::time::Duration;

use super::policy::DeliveryPolicy;

/// The longest that a source's own wish is heeded: a mistaken header must not stop a queue for ever.
const LONGEST_WISH: Duration = Duration::from_secs(24 * 60 * 60);

/// The waits of one queue. Its chance is a SplitMix64 generator, so that a seed replays it.
#[derive(Debug)]
pub(super) struct Backoff {
    state: u64,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Backoff { state: seed }
    }

    /// The wait after the `failures`-th failure of a write.
    pub(super) fn retry(&mut self, policy: &DeliveryPolicy, failures: u32, wish: Option<Duration>) -> Duration {
        self.wait(policy, policy.first_delay, policy.max_delay, failures, wish)
    }

    /// The wait after the source was found unavailable `failures` times in a row.
    pub(super) fn probe(&mut self, policy: &DeliveryPolicy, failures: u32, wish: Option<Duration>) -> Duration {
        let longest = policy.max_delay.max(policy.probe_every);
        self.wait(policy, policy.probe_every, longest, failures, wish)
    }

    fn wait(
        &mut self,
        policy: &DeliveryPolicy,
        first: Duration,
        longest: Duration,
        failures: u32,
        wish: Option<Duration>,
    ) -> Duration {
        let chance = policy.jitter * self.chance();
        match wish {
            Some(wish) => times(wish.max(policy.first_delay).min(LONGEST_WISH), 1.0 + chance),
            None => {
                let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
                times(first.saturating_mul(factor).min(longest), 1.0 - chance)
            }
        }
    }

    /// A number drawn evenly from 0 up to but not including 1.
    fn chance(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        // The upper 53 bits are as many as a float holds exactly.
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn times(duration: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).unwrap_or(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plain() -> DeliveryPolicy {
        DeliveryPolicy::default().jitter(0.0)
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(1);
        let policy = plain().first_delay(SECOND).max_delay(SECOND * 20);
        let waits: Vec<u64> = (1..=7).map(|failures| backoff.retry(&policy, failures, None).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 20, 20]);
        assert_eq!(backoff.retry(&policy, u32::MAX, None), SECOND * 20);
        assert_eq!(backoff.probe(&policy, 1, None), SECOND * 30, "a probe interval above the longest wait stays");
        assert_eq!(backoff.probe(&policy, 9, None), SECOND * 30);
        let endless = plain().max_delay(Duration::MAX);
        assert!(backoff.retry(&endless, u32::MAX, None) > SECOND * (1 << 30));
    }

    #[test]
    fn jitter_takes_its_part_away_and_no_more() {
        let policy = plain().first_delay(SECOND).jitter(0.2);
        let mut backoff = Backoff::new(7);
        let waits: Vec<Duration> = (0..1_000).map(|_| backoff.retry(&policy, 1, None)).collect();
        let (least, most) = (SECOND.mul_f64(0.8), SECOND);
        assert!(waits.iter().all(|wait| (least..=most).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < SECOND.mul_f64(0.81)));
        assert!(waits.iter().any(|wait| *wait > SECOND.mul_f64(0.99)));
        let mut again = Backoff::new(7);
        assert!(waits.iter().all(|wait| *wait == again.retry(&policy, 1, None)), "a seed replays");
        let mut other = Backoff::new(8);
        assert!(waits.iter().any(|wait| *wait != other.retry(&policy, 1, None)));
    }

    #[test]
    fn a_wish_of_the_source_is_waited_for_in_full_within_limits() {
        let mut backoff = Backoff::new(3);
        let policy = plain().jitter(0.5);
        for _ in 0..100 {
            let wait = backoff.retry(&policy, 9, Some(SECOND * 7));
            assert!((SECOND * 7..=SECOND * 7 + SECOND * 7 / 2).contains(&wait));
        }
        assert_eq!(backoff.retry(&plain(), 1, Some(Duration::ZERO)), Duration::from_millis(500));
        assert_eq!(backoff.probe(&plain(), 1, Some(Duration::MAX)), LONGEST_WISH);
    }
}
