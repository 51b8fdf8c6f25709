//! What `benches/journal.rs` needs of this crate-private module. Not part of the interface.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't do its work may as well stop")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};

use super::record::{self, Acceptance, bytes_for};
use super::registry::{PathJournal, for_path};
use super::replay;
use super::table::TableJournal;
use crate::value::StoredRow;
use crate::vista::WriteOp;
use crate::{Result, Seq, record};

/// A table's journal, and writes of five fields for it. A failure panics.
pub struct Writes {
    journal: TableJournal,
    _path: Arc<PathJournal>,
    found: usize,
    next: AtomicU64,
    op: WriteOp,
    row: StoredRow,
}

impl Writes {
    /// Opens the journal of this cache directory, which is made.
    pub fn open(cache: &Path) -> Self {
        std::fs::create_dir_all(cache).unwrap();
        let path = for_path(cache, 1 << 30).unwrap();
        let (journal, replay) = path.table("airports", Seq(0), 0).unwrap();
        let row = record! {
            "name" => "Thigpen Field", "city" => "Bay Springs", "state" => "MS", "latitude" => 31.953_764, "elevation" => 351,
        };
        let (found, next) = (replay.writes.len(), AtomicU64::new(replay.next_write));
        Writes {
            journal,
            _path: path,
            found,
            next,
            row: StoredRow::encode("00M", &row, 0),
            op: WriteOp::upsert("00M", row),
        }
    }

    /// How many writes were found.
    pub fn found(&self) -> usize {
        self.found
    }

    /// The bytes of one entry.
    pub fn bytes_of_one(&self) -> usize {
        let key = self.journal.key(1);
        let accepted = Acceptance { write: 1, key: &key, op: &self.op, before: Some(&self.row), at: 1 };
        replay::bytes_of(&record::accepted("airports", accepted).unwrap()) as usize
    }

    fn say(&self, answer: impl FnOnce(Result<()>) + Send + 'static) {
        let write = self.next.fetch_add(1, Ordering::Relaxed);
        let key = self.journal.key(write);
        let accepted = Acceptance { write, key: &key, op: &self.op, before: Some(&self.row), at: 1 };
        match self.journal.reserve(bytes_for(&self.op)) {
            Ok(room) => self.journal.accept(room, accepted, Box::new(answer)),
            Err(error) => answer(Err(error)),
        }
    }

    /// Accepts a write and waits until it is durable.
    pub fn accept(&self) {
        self.accept_with_under_way(1, 1);
    }

    /// Accepts so many writes, with so many under way at once, and waits for all.
    pub fn accept_with_under_way(&self, under_way: usize, writes: usize) {
        let (sender, answers) = bounded::<Result<()>>(under_way);
        let say = |sender: &Sender<Result<()>>| {
            let sender = sender.clone();
            self.say(move |result| sender.send(result).unwrap());
        };
        for said in 0..writes {
            if said >= under_way {
                answers.recv().unwrap().unwrap();
            }
            say(&sender);
        }
        for _ in 0..under_way.min(writes) {
            answers.recv().unwrap().unwrap();
        }
    }

    /// Hands so many writes over and waits for nothing.
    pub fn hand_over(&self, writes: usize) {
        for _ in 0..writes {
            self.say(|_| {});
        }
    }
}
