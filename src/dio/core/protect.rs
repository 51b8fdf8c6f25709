//! Protection: which rows a read that began earlier must leave alone, because a local write or deletion is newer.
//!
//! Owner: the core.
//! Invariants: a stale read never undoes a write (`a_read_that_began_before_a_write_was_settled_is_skipped`).

use std::sync::Arc;

use hashbrown::HashMap;

use crate::Seq;

/// Settled and deleted ids remembered at the least.
const REMEMBERED: usize = 65_536;

#[derive(Debug)]
pub(crate) struct Protection {
    /// When an id's last write was settled, or its row deleted: what no row is there to tell.
    recent: HashMap<Arc<str>, Seq>,
    /// The newest Seq in `recent`.
    newest: Seq,
    all_settled: Seq,
    /// Reads that began before this can't be judged any more.
    floor: Seq,
    prune_at: usize,
}

impl Protection {
    pub(crate) fn new(seq: Seq) -> Self {
        Protection { recent: HashMap::new(), newest: Seq(0), all_settled: Seq(0), floor: seq, prune_at: REMEMBERED }
    }

    /// A write of all rows was settled, visible at `seq`.
    pub(crate) fn note_all(&mut self, seq: Seq) {
        self.all_settled = seq;
    }

    /// The row of this id was deleted, settled or found as it is at `seq`.
    pub(crate) fn note(&mut self, id: Arc<str>, seq: Seq) {
        let noted = self.recent.entry(id).or_default();
        *noted = seq.max(*noted);
        self.newest = self.newest.max(seq);
    }

    /// Whether a read that began at `began` must leave this id alone.
    pub(crate) fn blocks(&self, id: &str, began: Seq) -> bool {
        self.all_settled > began || (!self.recent.is_empty() && self.recent.get(id).is_some_and(|seq| *seq > began))
    }

    /// Whether a read that began at `began` must leave every id alone.
    pub(crate) fn blocks_every(&self, began: Seq) -> bool {
        self.all_settled > began
    }

    /// Whether a read that began at `began` must leave any id alone.
    pub(crate) fn blocks_any(&self, began: Seq) -> bool {
        self.all_settled > began || self.recent.values().any(|seq| *seq > began)
    }

    /// Whether a read that began at `began` can still be judged.
    pub(crate) fn remembers(&self, began: Seq) -> bool {
        began >= self.floor
    }

    /// Forgets what no read under way can need: `oldest` is where the oldest of them began.
    pub(crate) fn prune(&mut self, oldest: Seq) {
        let all_are_old = self.recent.len() >= REMEMBERED && self.newest <= oldest;
        if self.recent.len() < self.prune_at && !all_are_old {
            return;
        }
        if all_are_old {
            // Their room, too: they may have been a whole table's.
            self.recent = HashMap::new();
        }
        self.recent.retain(|_, seq| *seq > oldest);
        self.floor = self.floor.max(oldest);
        self.prune_at = REMEMBERED.max(self.recent.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_began_before_a_write_was_settled_is_skipped() {
        let mut protection = Protection::new(Seq(0));
        protection.note(Arc::from("a"), Seq(6));
        assert!(!protection.blocks("b", Seq(5)), "another row");
        assert!(protection.blocks("a", Seq(5)), "settled since");
        assert!(!protection.blocks("a", Seq(6)), "began after");
    }

    #[test]
    fn a_settled_delete_all_protects_every_row_from_older_reads() {
        let mut protection = Protection::new(Seq(0));
        protection.note_all(Seq(10));
        assert!(protection.blocks("anything", Seq(9)));
        assert!(!protection.blocks("anything", Seq(10)));
    }

    #[test]
    fn a_whole_tables_ids_are_forgotten_once_the_read_that_needs_them_has_ended() {
        let mut protection = Protection::new(Seq(0));
        for number in 0..2 * REMEMBERED {
            protection.note(Arc::from(format!("row {number}")), Seq(7));
        }
        protection.prune(Seq(6));
        assert!(protection.blocks("row 1", Seq(6)));
        protection.prune(Seq(8));
        assert_eq!(protection.recent.capacity(), 0);
        assert!(!protection.remembers(Seq(7)) && protection.remembers(Seq(8)));
    }

    #[test]
    fn what_is_forgotten_is_known_to_be_forgotten() {
        let mut protection = Protection::new(Seq(0));
        for number in 0..REMEMBERED as u64 {
            protection.note(Arc::from(format!("row {number}")), Seq(number + 1));
        }
        protection.prune(Seq(100));
        assert!(!protection.remembers(Seq(99)));
        assert!(protection.remembers(Seq(100)));
        assert!(protection.blocks("row 200", Seq(150)));
    }
}
