//! Pieces: work that is cut up, done by the calling thread and by whoever helps.
//!
//! Flow: each thread takes the next piece → the results are put together in order.
//! Invariants: the caller does all of the work if nobody helps, so it waits only for pieces that a helper has begun, and a
//! helper waits for nobody (`a_caller_without_help_does_all_of_it`). A helper that comes too late holds nothing of the work.
//! Close/panic: a piece that panics in a helper fails; what panics in the caller goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::{Error, ErrorKind, Result};

type Work<T> = Arc<dyn Fn(usize) -> Result<T> + Send + Sync>;

/// Work in so many pieces, each of which has a result.
pub(crate) struct Pieces<T> {
    /// `None` once all is done.
    work: Mutex<Option<Work<T>>>,
    count: usize,
    next: AtomicUsize,
    done: Mutex<Vec<Option<Result<T>>>>,
    changed: Condvar,
}

/// A piece that was begun and, should its thread panic, is ended as failed.
struct Begun<'a, T> {
    pieces: &'a Pieces<T>,
    number: usize,
    result: Result<T>,
}

impl<T> Drop for Begun<'_, T> {
    fn drop(&mut self) {
        let unfinished = Err(panicked());
        self.pieces.done.lock()[self.number] = Some(std::mem::replace(&mut self.result, unfinished));
        self.pieces.changed.notify_all();
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Panicked, "a piece of work on many rows panicked")
}

impl<T> Pieces<T> {
    /// Work in `count` pieces; `work` gets the number of a piece, from 0 on.
    pub(crate) fn new(count: usize, work: impl Fn(usize) -> Result<T> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Pieces {
            work: Mutex::new(Some(Arc::new(work))),
            count,
            next: AtomicUsize::new(0),
            done: Mutex::new((0..count).map(|_| None).collect()),
            changed: Condvar::new(),
        })
    }

    /// Does pieces until none is left to begin.
    pub(crate) fn help(&self) {
        let Some(work) = self.work.lock().clone() else { return };
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                return;
            }
            let mut begun = Begun { pieces: self, number, result: Err(panicked()) };
            begun.result = work(number);
        }
    }

    /// Does what is left to begin, waits for what others have begun, and gives back all results in order, or the first
    /// failure. To be called once.
    pub(crate) fn finish(&self) -> Result<Vec<T>> {
        self.help();
        let mut done = self.done.lock();
        while done.iter().any(Option::is_none) {
            self.changed.wait(&mut done);
        }
        self.work.lock().take();
        done.drain(..).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_without_help_does_all_of_it() {
        let pieces = Pieces::new(5, |number| Ok(number * 2));
        assert_eq!(pieces.finish().unwrap(), [0, 2, 4, 6, 8]);
        assert_eq!(Pieces::<usize>::new(0, Ok).finish().unwrap(), [0; 0]);
    }

    #[test]
    fn a_piece_that_panics_in_a_helper_fails_the_work() {
        let pieces = Pieces::new(2, |number| if number == 0 { panic!("as told") } else { Ok(number) });
        std::thread::scope(|scope| scope.spawn(|| pieces.help()).join().unwrap_err());
        assert_eq!(pieces.finish().unwrap_err().kind(), ErrorKind::Panicked);
    }

    #[test]
    fn results_of_several_threads_are_in_order() {
        let pieces = Pieces::new(1_000, Ok);
        std::thread::scope(|scope| {
            scope.spawn(|| pieces.help());
            scope.spawn(|| pieces.help());
            assert!(pieces.finish().unwrap().into_iter().eq(0..1_000));
        });
    }
}
