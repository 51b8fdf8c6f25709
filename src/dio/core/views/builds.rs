//! Builds: the bodies that build threads make from a pinned scan, or from a list that is ready.
//!
//! Flow: an index without a body → a job of a build thread, from where its rows come most cheaply → its first rows, if it is
//! large → the body, with what changed meanwhile → the views that wait for it.
//! Invariants:
//! 1. While a body is being built its index records every batch since its scan; before it is shown it takes them in: no
//!    change is lost (`a_change_that_lands_while_a_view_is_opening_is_in_it`).
//! 2. What is recorded is bounded: beyond it the build starts again, up to a few times.
//!
//! Not here: how a body is made (`body`), what is shown until then (`first`).

use std::sync::Arc;

use crate::dio::core::body::{self, Body, BodyKind, First, Ground, Recorded, Rows};
use crate::dio::core::views::{Awaited, Index, LARGE, State, TableView, Views};
use crate::dio::core::{Changed, Core, Message, ViewId};
use crate::scenery::view_query::ViewQuery;
use crate::vista::CancelToken;
use crate::{Error, ErrorKind, Result};

/// Changed rows recorded during a build beyond which it starts again.
const RECORDED: usize = 1 << 18;
/// How often a build starts again before the view says that it failed.
const ATTEMPTS: u32 = 4;

/// A list of this share of the table's rows (one in so many) is read row by row; for more, a scan is cheaper.
const SCAN_SHARE: usize = 4;

/// A build under way.
pub(in crate::dio::core) struct Build {
    pub(super) number: u64,
    attempt: u32,
    pub(super) cancel: CancelToken,
    /// Why there is no thread for it.
    refused: Option<Error>,
    pub(super) recorded: Arc<Recorded>,
    /// What it will begin with, if that is known.
    pub(super) first: Option<First>,
}

impl Core {
    pub(super) fn start_build(&mut self, index: u64, kind: &BodyKind, query: &Arc<ViewQuery>, attempt: u32) -> Build {
        let number = self.views.next_number();
        self.to.board.build_began(attempt > 1);
        let cancel = CancelToken::new();
        let pin = Arc::new(self.to.versions.pin_to_read());
        let is_table = matches!(kind, BodyKind::Table);
        let rows = if is_table { self.views.rows_for(query, self.rows) } else { Rows::Table };
        let is_large = match &rows {
            Rows::Among(list, _) => list.len() >= body::LARGE,
            Rows::Table | Rows::Reverse(_) => is_table && self.rows as usize >= body::LARGE,
        };
        let ground = Ground {
            rows,
            ordered: if is_large { self.views.ordered_for(query) } else { None },
            is_large,
            helper: (self.to.load_pool.clone(), self.to.build_rank),
            rows_upto: self.next_row,
        };
        let (kind, query, handle, token) = (kind.clone(), query.clone(), self.handle.clone(), cancel.clone());
        let recorded: Arc<Recorded> = Arc::default();
        let catches_up = recorded.clone();
        let table = self.to.table_name.clone();
        let job = move || {
            let span = tracing::debug_span!("build", table = %table, query = query.canonical(), seq = pin.seq().0);
            let result = span.in_scope(|| {
                let mut show_first = |mut first: First| {
                    let mut scratch = Vec::new();
                    let batches = catches_up.since(0).unwrap_or_default();
                    let taken = batches.len();
                    for batch in batches {
                        first.apply(&query, &batch, &mut scratch);
                    }
                    tracing::debug!("first rows");
                    // A closed core wants none.
                    let _ = handle.send(Message::First { index, build: number, first, taken });
                };
                let result = Body::build(&kind, &query, &ground, &pin, &token, &mut show_first)
                    .map(|body| catches_up.take_into(body, &query, &token));
                match &result {
                    Ok(_) => tracing::debug!("built"),
                    Err(error) => tracing::debug!(%error, "not built"),
                }
                result
            });
            drop((pin, ground));
            // A closed core wants no result.
            let _ = handle.send(Message::Built { index, build: number, result });
        };
        let refused = self.to.build_pool.submit(self.to.build_rank, Box::new(job)).err();
        Build { number, attempt, cancel, refused, recorded, first: None }
    }

    /// A build that no thread will make fails at once: nobody is to wait for it.
    pub(in crate::dio::core) fn give_up_refused(&mut self, index: u64) {
        if let Some(Index { state: State::Building(Build { refused: Some(error), .. }), .. }) =
            self.views.indexes.get(&index)
        {
            let error = error.clone();
            self.build_failed(index, &error);
        }
    }

    pub(in crate::dio::core) fn built(&mut self, index_id: u64, number: u64, result: Result<Body>) {
        let Some(index) = self.views.indexes.get_mut(&index_id) else { return };
        let State::Building(build) = &mut index.state else { return };
        if build.number != number {
            return;
        }
        match result {
            Ok(mut body) if !build.cancel.is_cancelled() => {
                for batch in build.recorded.take() {
                    body.apply(&index.query, batch.iter(), &mut self.views.scratch);
                }
                index.state = State::Ready(body);
                self.views.building.remove(&index_id);
                for (view, awaited) in self.views.waiting_for(index_id) {
                    self.views.land(view, awaited, self.seq);
                }
                self.show_value(index_id);
                self.run_customs();
            }
            Err(error) if !may_try_again(&error) || build.attempt >= ATTEMPTS => self.build_failed(index_id, &error),
            _ => {
                let (kind, query, attempt) = (index.kind.clone(), index.query.clone(), build.attempt + 1);
                let build = self.start_build(index_id, &kind, &query, attempt);
                if let Some(index) = self.views.indexes.get_mut(&index_id) {
                    index.state = State::Building(build);
                }
                self.show_first_of(index_id);
                self.give_up_refused(index_id);
            }
        }
        self.sweep_views();
    }

    fn build_failed(&mut self, index_id: u64, error: &Error) {
        let error = error.clone().with("table", self.to.table_name.to_string());
        for (view, awaited) in self.views.waiting_for(index_id) {
            self.views.fail(view, awaited.request, self.seq, &error);
        }
        self.views.customs.index_failed(index_id, &error, self.seq);
        if let Some(slot) = self.views.remove_index(index_id).and_then(|index| index.value) {
            slot.give_up(error, self.seq);
        }
    }
}

fn may_try_again(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Expired | ErrorKind::Cancelled)
}

impl Views {
    /// Keeps the batch for the indexes that are being built; gives back those of which the first rows changed.
    pub(super) fn record(&mut self, batch: &Arc<Changed>) -> Vec<u64> {
        let mut moved = Vec::new();
        if batch.is_empty() {
            return moved;
        }
        for id in &self.building {
            let Some(Index { state: State::Building(build), query, .. }) = self.indexes.get_mut(id) else { continue };
            if let Some(first) = &mut build.first {
                if batch.len() >= LARGE {
                    build.first = None;
                    moved.push(*id);
                } else if first.apply(query, batch, &mut self.scratch.key) {
                    moved.push(*id);
                }
            }
            if build.recorded.add(batch.clone()) > RECORDED {
                // What was recorded is in the scan of the next attempt; the running one is told to stop, and its end starts
                // the next.
                build.cancel.cancel();
                drop(build.recorded.take());
            }
        }
        moved
    }

    /// Where the rows of a query come from most cheaply. Every list that is ready is as of the newest published Seq.
    fn rows_for(&self, query: &ViewQuery, rows_of_table: u64) -> Rows {
        let mut rows = Rows::Table;
        let mut fewest = usize::try_from(rows_of_table).unwrap_or(usize::MAX) / SCAN_SHARE;
        for index in self.indexes.values() {
            let State::Ready(Body::Table(tree)) = &index.state else { continue };
            if query.is_reverse_of(&index.query) {
                return Rows::Reverse(tree.clone());
            }
            if tree.len() <= fewest && query.narrows(&index.query) {
                fewest = tree.len();
                rows = Rows::Among(tree.clone(), query.orders_like(&index.query));
            }
        }
        rows
    }

    pub(super) fn waiting_for(&self, index: u64) -> Vec<(ViewId, Awaited)> {
        let awaits = |(id, view): (&ViewId, &TableView)| {
            let awaited = view.awaits?;
            (awaited.index == index).then_some((*id, awaited))
        };
        self.tables.iter().filter_map(awaits).collect()
    }
}
