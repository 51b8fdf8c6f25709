//! Defaults: the plain settings of a Lens.

use std::time::Duration;

use crate::DeliveryPolicy;
use crate::lens::conflict::ConflictPolicy;

/// The settings that every Dio of a Lens starts from. Set through [`LensBuilder`](crate::LensBuilder).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LensDefaults {
    /// Whether `make_dio` waits for the first copy of an incomplete cache. Default: yes.
    pub on_start_blocking: bool,
    /// How often the source is read again; `None`: only when asked. Default: `None`.
    pub refresh_every: Option<Duration>,
    /// How long one call of the source may take; `None`: as long as it likes. Default: 5 minutes.
    pub source_timeout: Option<Duration>,
    /// How many writes may wait or be under way. Default: 1,024.
    pub write_queue_capacity: usize,
    /// How long `write` waits for room in a full queue. Default: 30 s.
    pub write_timeout: Duration,
    /// Bytes of writes that are not over, and of what became of them, in the journal beside a cache on a disk. Default:
    /// 256 MiB.
    pub journal_capacity: u64,
    /// What wins when somebody else changed a row meanwhile. Default: [`ConflictPolicy::MineWins`].
    pub conflicts: ConflictPolicy,
    /// How writes are delivered: retries, pauses, how many at once. Default: [`DeliveryPolicy::default`].
    pub delivery: DeliveryPolicy,
    /// Bytes of overwritten rows kept for snapshots. Default: 64 MiB.
    pub snapshot_budget: usize,
    /// Bytes of decoded rows kept for reading. Default: 32 MiB.
    pub hot_tier_capacity: usize,
    /// Rows changed at once from which on they are taken in by and by, while edits go through. Default: 2,048.
    pub bulk_changes: usize,
    /// Events that a subscriber may be behind before it lags. Default: 1,024.
    pub event_capacity: usize,
    /// How long dropping the last handle waits for undelivered writes. `None`: not at all where the journal keeps them, else
    /// 1 s. Default: `None`.
    pub drop_timeout: Option<Duration>,
}

impl Default for LensDefaults {
    fn default() -> Self {
        LensDefaults {
            on_start_blocking: true,
            refresh_every: None,
            source_timeout: Some(Duration::from_secs(300)),
            write_queue_capacity: 1_024,
            write_timeout: Duration::from_secs(30),
            journal_capacity: 256 << 20,
            conflicts: ConflictPolicy::default(),
            delivery: DeliveryPolicy::default(),
            snapshot_budget: 64 << 20,
            hot_tier_capacity: 32 << 20,
            // Fewer are applied within some milliseconds.
            bulk_changes: 2_048,
            event_capacity: 1_024,
            drop_timeout: None,
        }
    }
}
