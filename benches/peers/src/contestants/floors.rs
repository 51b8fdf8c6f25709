//! Floors: what the least that could be done costs, without anything around it.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use diorama::__bench::{Entries, Index};
use lmdb::{Database, DatabaseFlags, Environment, EnvironmentFlags, Transaction, WriteFlags};

use super::{Done, PATIENCE, Prepared, Table};
use crate::rows::{Row, SHOWN_BAND, Tops};

/// The views as sets of amount and row, nothing else.
struct Sets {
    rows: Vec<Row>,
    views: Vec<BTreeSet<(Reverse<i64>, usize)>>,
}

pub fn sets(rows: &[Row], _directory: &Path) -> Prepared {
    Ok(Box::new(Sets { rows: rows.to_vec(), views: Vec::new() }))
}

fn is_in_view(row: &Row, view: usize) -> bool {
    view == 0 || row.band == SHOWN_BAND
}

impl Table for Sets {
    fn open(&mut self) -> Done<usize> {
        let number = self.views.len();
        let shown = self.rows.iter().filter(|row| is_in_view(row, number));
        let view: BTreeSet<_> = shown.map(|row| (Reverse(row.amount), row.index)).collect();
        let count = view.len();
        self.views.push(view);
        Ok(Some(count))
    }

    fn change(&mut self, row: &Row, _tops: Tops) -> Done<()> {
        let old = &self.rows[row.index];
        for (number, view) in self.views.iter_mut().enumerate() {
            if is_in_view(old, number) {
                view.remove(&(Reverse(old.amount), row.index));
            }
            if is_in_view(row, number) {
                view.insert((Reverse(row.amount), row.index));
            }
        }
        self.rows[row.index] = row.clone();
        Ok(Some(()))
    }

    fn burst(&mut self, rows: &[Row], tops: Tops) -> Done<()> {
        for row in rows {
            self.change(row, tops)?;
        }
        Ok(Some(()))
    }

    fn window(&mut self, at: usize) -> Done<i64> {
        // It has no positions: it walks.
        Ok(self.views.first().map(|view| view.iter().skip(at).take(50).map(|(amount, _)| amount.0).sum()))
    }

    fn top(&self, view: usize) -> Option<i64> {
        Some(self.views.get(view)?.first()?.0.0)
    }
}

/// Diorama's counted tree alone: one view of all rows, each change published.
struct CountedTree {
    rows: Vec<Row>,
    tree: Option<Index<64>>,
    version: u64,
}

pub fn counted_tree(rows: &[Row], _directory: &Path) -> Prepared {
    Ok(Box::new(CountedTree { rows: rows.to_vec(), tree: None, version: 0 }))
}

/// Sorts bytewise as the amounts do downwards.
fn key(amount: i64) -> Vec<u8> {
    (u64::MAX - amount as u64).to_be_bytes().to_vec()
}

impl Table for CountedTree {
    fn open(&mut self) -> Done<usize> {
        if self.tree.is_some() {
            return Ok(None);
        }
        let mut keyed: Vec<_> = self.rows.iter().map(|row| (key(row.amount), row.index as u64)).collect();
        keyed.sort_unstable();
        self.tree = Some(Index::load(&Entries::new(&keyed)));
        Ok(Some(keyed.len()))
    }

    fn change(&mut self, row: &Row, _tops: Tops) -> Done<()> {
        let tree = self.tree.as_mut().ok_or("no view")?;
        self.version += 1;
        tree.move_row(row.index as u64, &key(self.rows[row.index].amount), &key(row.amount), self.version);
        tree.publish();
        self.rows[row.index].amount = row.amount;
        Ok(Some(()))
    }

    fn top(&self, view: usize) -> Option<i64> {
        // Its entries can't be read from outside; it is tested where it lives.
        let largest = self.rows.iter().map(|row| row.amount).max()?;
        (self.tree.is_some() && view == 0).then_some(largest)
    }
}

/// Rows put and read with the LMDB binding, each change in a transaction that isn't synced.
struct RawLmdb {
    rows: Vec<Row>,
    environment: Environment,
    database: Database,
}

pub fn raw_lmdb(rows: &[Row], directory: &Path) -> Prepared {
    let environment = Environment::new()
        .set_flags(EnvironmentFlags::NO_SUB_DIR | EnvironmentFlags::NO_SYNC)
        .set_map_size(1 << 34)
        .open(&directory.join("raw.mdb"))?;
    let database = environment.create_db(None, DatabaseFlags::empty())?;
    Ok(Box::new(RawLmdb { rows: rows.to_vec(), environment, database }))
}

fn bytes(row: &Row) -> Vec<u8> {
    let mut bytes = row.amount.to_le_bytes().to_vec();
    bytes.extend(row.band.to_le_bytes());
    bytes.extend(row.name.as_bytes());
    bytes.extend(row.note.as_bytes());
    bytes
}

impl Table for RawLmdb {
    fn seed(&mut self) -> Done<()> {
        let mut transaction = self.environment.begin_rw_txn()?;
        for row in &self.rows {
            transaction.put(self.database, &row.id, &bytes(row), WriteFlags::empty())?;
        }
        transaction.commit()?;
        Ok(Some(()))
    }

    fn change(&mut self, row: &Row, tops: Tops) -> Done<()> {
        self.burst(std::slice::from_ref(row), tops)
    }

    fn burst(&mut self, rows: &[Row], _tops: Tops) -> Done<()> {
        let mut transaction = self.environment.begin_rw_txn()?;
        for row in rows {
            transaction.put(self.database, &row.id, &bytes(row), WriteFlags::empty())?;
        }
        transaction.commit()?;
        Ok(Some(()))
    }

    fn get(&mut self, row: &Row) -> Done<i64> {
        let transaction = self.environment.begin_ro_txn()?;
        let bytes = transaction.get(self.database, &row.id)?;
        Ok(Some(i64::from_le_bytes(bytes[..8].try_into()?)))
    }
}

/// A call to another thread and back, through a mutex and condition variables: nothing is done there.
struct Handover {
    state: Arc<(Mutex<Ball>, Condvar)>,
    woken: Receiver<Instant>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Ball {
    Here,
    There,
    Over,
}

pub fn condvar(_rows: &[Row], _directory: &Path) -> Prepared {
    let state = Arc::new((Mutex::new(Ball::Here), Condvar::new()));
    let other = state.clone();
    let (tell, woken) = channel();
    let thread = std::thread::spawn(move || {
        let (ball, moved) = &*other;
        let mut ball = ball.lock().unwrap_or_else(PoisonError::into_inner);
        while *ball != Ball::Over {
            if *ball == Ball::There {
                let _ = tell.send(Instant::now());
                *ball = Ball::Here;
                moved.notify_one();
            }
            ball = moved.wait(ball).unwrap_or_else(PoisonError::into_inner);
        }
    });
    Ok(Box::new(Handover { state, woken, thread: Some(thread) }))
}

impl Table for Handover {
    fn change(&mut self, _row: &Row, _tops: Tops) -> Done<()> {
        let (ball, moved) = &*self.state;
        let mut ball = ball.lock().unwrap_or_else(PoisonError::into_inner);
        *ball = Ball::There;
        moved.notify_one();
        drop(moved.wait_while(ball, |ball| *ball == Ball::There).unwrap_or_else(PoisonError::into_inner));
        while self.woken.try_recv().is_ok() {}
        Ok(Some(()))
    }

    fn wake(&mut self, _row: &Row, _tops: Tops) -> Done<Instant> {
        let (ball, moved) = &*self.state;
        *ball.lock().unwrap_or_else(PoisonError::into_inner) = Ball::There;
        moved.notify_one();
        Ok(Some(self.woken.recv_timeout(PATIENCE)?))
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        let (ball, moved) = &*self.state;
        *ball.lock().unwrap_or_else(PoisonError::into_inner) = Ball::Over;
        moved.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
