//! Policy: how accepted writes go to the source; plain settings.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// How accepted writes are delivered to the source: how often they are tried, how long is waited in between, and how many
/// go at once.
///
/// A write that fails for now (a timeout, a failure of the source that says nothing of the write) waits and is tried again;
/// meanwhile later writes of its row wait behind it and other rows go on. The n-th wait takes
///
/// ```text
/// min(max_delay, first_delay · 2ⁿ⁻¹) · (1 − jitter · r),   r drawn evenly from 0..1
/// ```
///
/// A source that is [`Unavailable`](ErrorKind::Unavailable) pauses all writes; after a wait of the same form, with
/// `probe_every` in the place of `first_delay` and the longer of both as the limit, one write is tried, and if the source
/// answers it, whatever the answer is, all go on. When the source says how long it wants to be left alone
/// ([`Error::retry_after`]) that takes the place of the formula: it is waited for in full, `jitter` makes it longer instead
/// of shorter, and it counts as at least `first_delay` and at most a day.
///
/// ```
/// use std::time::Duration;
/// use diorama::DeliveryPolicy;
///
/// let policy = DeliveryPolicy::default().max_attempts(Some(5)).first_delay(Duration::from_secs(1)).parallel(4);
/// assert!(policy.check().is_ok());
/// assert!(policy.parallel(0).check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DeliveryPolicy {
    /// How often a write is tried before it is given up and rejected with its last error, at least 1; `None`: for ever.
    /// Attempts that found the source unavailable don't count. Default: `None`.
    pub max_attempts: Option<u32>,
    /// The wait after the first failed attempt, above zero. Default: 500 ms.
    pub first_delay: Duration,
    /// The longest wait between two attempts, at least `first_delay`. Default: 5 min.
    pub max_delay: Duration,
    /// The part of a wait that chance may take away, 0 to 1, so that many programs don't come back at the same instant.
    /// Default: 0.2.
    pub jitter: f64,
    /// How many deliveries, each a single write or a batch, may be under way at once, at least 1. Writes of one row go one
    /// after the other in any case. Default: 1.
    pub parallel: usize,
    /// How many writes go to the source in one call, at least 1, which means no batches. Default: 1.
    pub batch: usize,
    /// Whether patches of a row that follow each other directly and were not tried yet go as one, later fields over earlier
    /// ones. Default: no.
    pub coalesce_patches: bool,
    /// The first wait before an unavailable source is tried again, above zero. Default: 30 s.
    pub probe_every: Duration,
    /// How long one call to the source may take, above zero (`Duration::MAX`: as long as the Lens's `source_timeout` allows); also how long a `delete_all` waits for writes that were tried
    /// before it and have no clear outcome. Default: 60 s.
    pub deadline: Duration,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        DeliveryPolicy {
            max_attempts: None,
            first_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(5 * 60),
            jitter: 0.2,
            parallel: 1,
            batch: 1,
            coalesce_patches: false,
            probe_every: Duration::from_secs(30),
            deadline: Duration::from_secs(60),
        }
    }
}

impl DeliveryPolicy {
    /// Sets [`max_attempts`](DeliveryPolicy::max_attempts): a number of attempts, or `None` for no limit.
    #[must_use]
    pub fn max_attempts(mut self, attempts: Option<u32>) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets [`first_delay`](DeliveryPolicy::first_delay), the wait after the first failed attempt.
    #[must_use]
    pub fn first_delay(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// Sets [`max_delay`](DeliveryPolicy::max_delay), the longest wait between two attempts.
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Sets [`jitter`](DeliveryPolicy::jitter), the part of a wait that chance may take away: 0 for none, 1 for all of it.
    #[must_use]
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// Sets [`parallel`](DeliveryPolicy::parallel), the number of deliveries under way at once.
    #[must_use]
    pub fn parallel(mut self, deliveries: usize) -> Self {
        self.parallel = deliveries;
        self
    }

    /// Sets [`batch`](DeliveryPolicy::batch), the number of writes in one call; 1 for no batches.
    #[must_use]
    pub fn batch(mut self, writes: usize) -> Self {
        self.batch = writes;
        self
    }

    /// Sets [`coalesce_patches`](DeliveryPolicy::coalesce_patches).
    #[must_use]
    pub fn coalesce_patches(mut self, coalesce: bool) -> Self {
        self.coalesce_patches = coalesce;
        self
    }

    /// Sets [`probe_every`](DeliveryPolicy::probe_every), the first wait before an unavailable source is tried again.
    #[must_use]
    pub fn probe_every(mut self, wait: Duration) -> Self {
        self.probe_every = wait;
        self
    }

    /// Sets [`deadline`](DeliveryPolicy::deadline), the time that one call to the source may take.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// Checks each setting against its limits. Doesn't block.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid), naming the first wrong setting in its message and as the context `"setting"`.
    pub fn check(&self) -> Result<()> {
        let rules = [
            ("max_attempts", self.max_attempts != Some(0), "at least 1, or none for no limit"),
            ("first_delay", !self.first_delay.is_zero(), "above zero"),
            ("max_delay", self.max_delay >= self.first_delay, "at least `first_delay`"),
            ("jitter", (0.0..=1.0).contains(&self.jitter), "between 0 and 1"),
            ("parallel", self.parallel > 0, "at least 1"),
            ("batch", self.batch > 0, "at least 1"),
            ("probe_every", !self.probe_every.is_zero(), "above zero"),
            ("deadline", !self.deadline.is_zero(), "above zero"),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            None => Ok(()),
            Some((setting, _, limit)) => {
                let message = format!("`{setting}` of the delivery policy must be {limit}");
                Err(Error::new(ErrorKind::Invalid, message).with("setting", setting))
            }
        }
    }
}
