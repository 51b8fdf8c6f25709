//! Callback batch: what a callback does through the Dio, kept together until it returns.
//!
//! Owner: the thread that runs the callback.
//! Flow: the batch is opened → the callback's inserts, removals, `clear`, `patched` and `invalidate_*` land in it, and reads
//! there see them → `Ok` applies it as one, `Err` or a panic drops it.
//! Invariants: `clear` followed by inserts is a reconcile: it never blanks a view.

use std::cell::RefCell;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::dio::DioInner;
use crate::dio::board::ReadToken;
use crate::sync::catch_user;
use crate::value::Record;
use crate::{Result, Seq};

/// The doings of a callback.
pub(crate) struct CallbackBatch {
    dio: usize,
    read: ReadToken,
    /// Everything that was there before is to go, unless it is put again.
    pub(crate) cleared: bool,
    /// The rows put (`Some`) and removed (`None`), in order.
    pub(crate) rows: IndexMap<Arc<str>, Option<Record>>,
    pub(crate) invalidated: Vec<Arc<str>>,
    pub(crate) all_invalidated: bool,
}

impl CallbackBatch {
    /// The Seq at which the callback began, and with it whatever it read from the source.
    pub(crate) fn began(&self) -> Seq {
        self.read.began()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.cleared && self.rows.is_empty() && self.invalidated.is_empty() && !self.all_invalidated
    }
}

thread_local! {
    static OPEN: RefCell<Vec<CallbackBatch>> = const { RefCell::new(Vec::new()) };
}

fn address(dio: &DioInner) -> usize {
    std::ptr::from_ref(dio).addr()
}

/// Takes the batch out again, however the callback ends.
struct Opened;

impl Opened {
    fn new(batch: CallbackBatch) -> Self {
        OPEN.with_borrow_mut(|open| open.push(batch));
        Opened
    }

    fn take(self) -> Option<CallbackBatch> {
        let batch = OPEN.with_borrow_mut(Vec::pop);
        std::mem::forget(self);
        batch
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        drop(OPEN.with_borrow_mut(Vec::pop));
    }
}

/// Runs user code as a callback of this Dio. Its result, and on `Ok` what it did.
pub(crate) fn run<T>(
    dio: &Arc<DioInner>,
    what: &'static str,
    user_code: impl FnOnce() -> Result<T>,
) -> Result<(T, Option<CallbackBatch>)> {
    let opened = Opened::new(CallbackBatch {
        dio: address(dio),
        read: dio.begin_read(),
        cleared: false,
        rows: IndexMap::new(),
        invalidated: Vec::new(),
        all_invalidated: false,
    });
    let answer = catch_user(what, user_code).and_then(|result| result)?;
    Ok((answer, opened.take()))
}

/// Whether this thread runs a callback of some Dio.
#[cfg(feature = "async")]
pub(crate) fn is_open() -> bool {
    OPEN.with_borrow(|open| !open.is_empty())
}

/// Calls `with` with the batch that this thread has open for the Dio, if it runs one of its callbacks.
pub(crate) fn with_open<T>(dio: &DioInner, with: impl FnOnce(&mut CallbackBatch) -> T) -> Option<T> {
    OPEN.with_borrow_mut(|open| open.iter_mut().rev().find(|batch| batch.dio == address(dio)).map(with))
}
