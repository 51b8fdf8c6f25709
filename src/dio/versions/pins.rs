//! Pins: which Seqs somebody still reads at, and what of the rows replaced since is kept for them.
//!
//! Owner: behind the lock of `versions`; the core adds and collects, anyone pins and lets go.
//! Invariants:
//! 1. What is kept is kept once, in the bucket of the newest pin that covers it.
//! 2. Together it stays within the budget, or the oldest snapshot expires (`the_oldest_pin_expires_when_the_budget_is_full`).
//!    A pin of a read under way doesn't expire: it is short, and what it reads must be one state.
//! 3. What a released pin held is let go of in slices, so that nobody waits for the whole of it
//!    (`what_released_pins_held_is_given_out_slice_by_slice`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dio::versions::Versions;
use crate::{RowNo, Seq};

/// What the core lets go of between two changes at the most: as long as a few changes take.
const SLICE: usize = 1_024;

/// A version that a batch has replaced: a row's, or an id's meaning.
pub(crate) enum Replaced {
    /// The row's version that began at `from`.
    Row {
        /// The row.
        row: RowNo,
        /// Where the replaced version began.
        from: Seq,
        /// Its size in bytes.
        size: usize,
    },
    /// What the id meant before.
    Id(Arc<str>),
}

impl Replaced {
    /// What it is to snapshots, as replaced by the batch `seq`.
    pub(super) fn retained(self, seq: Seq) -> Retained {
        match self {
            Replaced::Row { row, from, size } => Retained::Row { row, from, size },
            Replaced::Id(id) => Retained::Id { id, until: seq },
        }
    }
}

/// What a snapshot may still ask for and the newest state no longer holds.
pub(super) enum Retained {
    Row { row: RowNo, from: Seq, size: usize },
    Id { id: Arc<str>, until: Seq },
}

impl Retained {
    fn needed_since(&self) -> Seq {
        match self {
            Retained::Row { from, .. } => *from,
            Retained::Id { .. } => Seq(0),
        }
    }

    fn size(&self) -> usize {
        const OVERHEAD: usize = 96;
        match self {
            Retained::Row { size, .. } => size + OVERHEAD,
            Retained::Id { id, .. } => id.len() + OVERHEAD,
        }
    }
}

#[derive(Default)]
struct PinnedSeq {
    holders: usize,
    /// How many of them read a whole state, and are spared by the budget.
    reading: usize,
    bucket: Vec<Retained>,
    /// The size of what is in the bucket.
    bytes: usize,
}

impl PinnedSeq {
    fn keep(&mut self, retained: Retained) {
        self.bytes += retained.size();
        self.bucket.push(retained);
    }
}

#[derive(Default)]
pub(super) struct Pins {
    live: BTreeMap<Seq, PinnedSeq>,
    /// Seqs whose last holder has gone and whose bucket waits for the core.
    released: Vec<Seq>,
    /// Holders of Seqs that have lost their versions to the budget.
    expired: BTreeMap<Seq, usize>,
    bytes: usize,
}

impl Pins {
    /// What was kept for a pin at `seq` is kept for the next older one as far as that needs it; the rest is given out.
    fn hand_down(&mut self, seq: Seq, bucket: Vec<Retained>, drop_now: &mut Vec<Retained>) {
        let mut below = self.live.range_mut(..seq).rev().find(|(_, pin)| pin.holders > 0);
        for retained in bucket {
            match &mut below {
                Some((pinned, lower)) if retained.needed_since() <= **pinned => lower.keep(retained),
                _ => {
                    self.bytes -= retained.size();
                    drop_now.push(retained);
                }
            }
        }
    }

    /// Whether something is held at a Seq before this one.
    pub(super) fn hold_before(&self, seq: Seq) -> bool {
        self.live.range(..seq).any(|(_, pin)| pin.holders > 0)
    }

    /// Keeps of what the batch `seq` replaced the versions that a pin covers, as far as the budget goes; gives out the rest,
    /// and what an expired pin held alone.
    pub(super) fn keep(&mut self, seq: Seq, replaced: impl Iterator<Item = Replaced>, budget: usize) -> Vec<Retained> {
        let mut drop_now = Vec::new();
        let mut newest = self.live.range_mut(..seq).rev().find(|(_, pin)| pin.holders > 0);
        for replaced in replaced {
            let retained = replaced.retained(seq);
            match &mut newest {
                Some((pinned, pin)) if retained.needed_since() <= **pinned => {
                    self.bytes += retained.size();
                    pin.keep(retained);
                }
                _ => drop_now.push(retained),
            }
        }
        while self.is_over(budget)
            && let Some(oldest) = self.live.iter().find(|(_, pin)| pin.reading == 0).map(|(pinned, _)| *pinned)
            && let Some((pinned, pin)) = self.live.remove_entry(&oldest)
        {
            self.released.retain(|released| *released != pinned);
            if pin.holders > 0 {
                self.expired.insert(pinned, pin.holders);
            }
            self.hand_down(pinned, pin.bucket, &mut drop_now);
        }
        drop_now
    }

    /// Gives out what released pins held alone, a slice of it.
    pub(super) fn collect(&mut self) -> Vec<Retained> {
        let mut drop_now = Vec::new();
        let mut left = SLICE;
        while left > 0
            && let Some(seq) = self.released.pop()
        {
            let Some(pin) = self.live.get_mut(&seq).filter(|pin| pin.holders == 0) else { continue };
            let slice = pin.bucket.split_off(pin.bucket.len().saturating_sub(left));
            left -= slice.len();
            pin.bytes -= slice.iter().map(Retained::size).sum::<usize>();
            if pin.bucket.is_empty() {
                self.live.remove(&seq);
            } else {
                self.released.push(seq);
            }
            self.hand_down(seq, slice, &mut drop_now);
        }
        drop_now
    }

    pub(super) fn register(&mut self, seq: Seq, reading: bool) {
        let pin = self.live.entry(seq).or_default();
        pin.holders += 1;
        pin.reading += usize::from(reading);
    }

    /// One holder lets go; says whether something is left for [`collect`](Self::collect).
    pub(super) fn release(&mut self, seq: Seq, reading: bool) -> bool {
        if let Some(pin) = self.live.get_mut(&seq)
            && pin.holders > 0
        {
            pin.holders -= 1;
            pin.reading -= usize::from(reading);
            if pin.holders > 0 {
                return false;
            }
            if pin.bucket.is_empty() {
                self.live.remove(&seq);
                return false;
            }
            self.released.push(seq);
            return true;
        }
        if let Some(holders) = self.expired.get_mut(&seq) {
            *holders -= 1;
            if *holders == 0 {
                self.expired.remove(&seq);
            }
        }
        false
    }

    pub(super) fn is_expired(&self, seq: Seq) -> bool {
        self.expired.contains_key(&seq)
    }

    /// The oldest Seq that a snapshot holds.
    pub(super) fn oldest_snapshot(&self) -> Option<Seq> {
        self.live.iter().find(|(_, pin)| pin.holders > pin.reading).map(|(seq, _)| *seq)
    }

    /// How many holders there are, and how many bytes are kept for them.
    pub(super) fn counts(&self) -> (usize, usize) {
        let live = self.live.values().map(|pin| pin.holders).sum::<usize>();
        (live + self.expired.values().sum::<usize>(), self.bytes)
    }

    /// Whether what is kept is more than the budget, not counting what can't be let go: that of reads under way.
    fn is_over(&self, budget: usize) -> bool {
        self.bytes > budget
            && self.bytes - self.live.values().filter(|pin| pin.reading > 0).map(|pin| pin.bytes).sum::<usize>()
                > budget
    }
}

impl Versions {
    /// Whether something is left to be [collected](Versions::collect).
    pub(crate) fn has_released(&self) -> bool {
        !self.pins.lock().released.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u64) -> Vec<Replaced> {
        (0..count).map(|row| Replaced::Row { row: RowNo(row), from: Seq(1), size: 10 }).collect()
    }

    #[test]
    fn what_released_pins_held_is_given_out_slice_by_slice() {
        const ROWS: usize = 2 * SLICE + 5;
        let mut pins = Pins::default();
        pins.register(Seq(1), false);
        assert!(pins.keep(Seq(2), rows(ROWS as u64).into_iter(), usize::MAX).is_empty());
        let each = pins.bytes / ROWS;
        assert!(pins.release(Seq(1), false));
        assert_eq!(pins.collect().len(), SLICE);
        assert_eq!((pins.bytes, pins.counts().0), ((SLICE + 5) * each, 0));
        // Somebody pins the same Seq once more, and keeps what is left of it.
        pins.register(Seq(1), false);
        assert!(pins.collect().is_empty());
        assert!(pins.released.is_empty());
        assert_eq!(pins.bytes, (SLICE + 5) * each);
        assert!(pins.release(Seq(1), false));
        assert_eq!((pins.collect().len(), pins.collect().len(), pins.collect().len()), (SLICE, 5, 0));
        assert_eq!((pins.bytes, pins.live.len(), pins.released.len()), (0, 0, 0));
    }

    #[test]
    fn what_an_older_pin_needs_is_handed_down_to_it_slice_by_slice() {
        const ROWS: usize = SLICE + 5;
        let mut pins = Pins::default();
        pins.register(Seq(1), false);
        pins.register(Seq(2), false);
        assert!(pins.keep(Seq(3), rows(ROWS as u64).into_iter(), usize::MAX).is_empty());
        let all = pins.bytes;
        assert!(pins.release(Seq(2), false));
        for left in [5, 0] {
            assert!(pins.collect().is_empty());
            assert_eq!(pins.live.get(&Seq(2)).map_or(0, |pin| pin.bucket.len()), left);
        }
        assert_eq!((pins.bytes, pins.live[&Seq(1)].bytes, pins.released.len()), (all, all, 0));
        assert!(pins.release(Seq(1), false));
        assert_eq!(pins.collect().len() + pins.collect().len(), ROWS);
        assert_eq!(pins.bytes, 0);
    }
}
