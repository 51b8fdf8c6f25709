//! Customs: the value views of user code, of which the core notes what is to be computed, and shows what was.
//!
//! Flow: a batch makes views due → [`Core::run_customs`] gives the build thread one job for each → its result comes back
//! as a message → [`Core::computed`] shows it. What changes while a job runs is due again when it ends.
//! Invariants:
//! 1. The core runs no user code (`user_code_runs_on_the_build_thread_only`).
//! 2. A view takes every matching change in once, or all rows anew (`a_custom_aggregate_equals_a_recompute`).
//!
//! Not here: running the code (`scenery::custom`).

use std::sync::Arc;

use hashbrown::HashMap;

use crate::dio::core::views::{Index, State};
use crate::dio::core::{Body, Changed, Core, Message, Opening, ViewSlot};
use crate::dio::queries::Question;
use crate::scenery::custom::{CustomCode, OffCore, RowStep, Work};
use crate::scenery::snapshot::{LoadState, Root, TableSnapshot};
use crate::scenery::value::{ValueCounts, ValueSlot};
use crate::scenery::view_query::ViewQuery;
use crate::{Error, Result, Seq, Value};

/// Changed rows that a view keeps for its next job; with more, the job reads all rows.
const RECORDED: usize = if cfg!(test) { 16 } else { 1 << 18 };

/// Where a view's rows come from.
enum Source {
    /// Changes, row by row.
    Steps {
        pending: Vec<RowStep>,
        /// The next job begins anew.
        anew: bool,
    },
    /// The table index of this number.
    Index(u64),
}

/// A value view of user code.
pub(super) struct Custom {
    slot: Arc<ValueSlot>,
    query: Arc<ViewQuery>,
    user: OffCore,
    source: Source,
    /// Something changed that no job has taken in.
    due: bool,
    running: bool,
    /// The source has brought the rows of its query; it is told once they are taken in.
    is_answered: bool,
}

impl Custom {
    fn note_answer(&mut self, question: &Question) {
        if !self.is_answered && self.slot.lacks_answer() && question.covers(&self.query) {
            self.is_answered = true;
            // The function may ask how far the rows are there.
            self.due |= matches!(self.source, Source::Index(_));
        }
    }
}

/// The value views of user code by number.
#[derive(Default)]
pub(super) struct Customs(HashMap<u64, Custom>);

impl Customs {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Notes a batch. `moved` are the indexes that it changed; `all_moved`: rows became stale, or the table complete.
    pub(super) fn note(&mut self, batch: &Changed, moved: &HashMap<u64, usize>, all_moved: bool) {
        for custom in self.0.values_mut() {
            match &mut custom.source {
                Source::Index(index) => custom.due |= all_moved || moved.contains_key(index),
                Source::Steps { pending, anew } => {
                    for (_, before, after) in batch.iter() {
                        let before = before.filter(|row| custom.query.matches(row));
                        let after = after.filter(|row| custom.query.matches(row));
                        if before.is_none() && after.is_none() {
                            continue;
                        }
                        custom.due = true;
                        if !*anew {
                            pending.push((before.cloned(), after.cloned()));
                            *anew = pending.len() > RECORDED;
                        }
                        if *anew {
                            *pending = Vec::new();
                            break;
                        }
                    }
                }
            }
        }
    }

    /// The indexes that are needed.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u64> {
        self.0.values().filter_map(|custom| match custom.source {
            Source::Index(index) => Some(index),
            Source::Steps { .. } => None,
        })
    }

    /// Lets go of views whose handles are gone.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|_, custom| !custom.slot.is_dropped());
    }

    /// These questions are answered by the batch that is about to be published.
    pub(super) fn note_answers(&mut self, answered: &[Arc<Question>]) {
        for custom in self.0.values_mut() {
            answered.iter().for_each(|question| custom.note_answer(question));
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Arc<ValueSlot>> {
        self.0.values().map(|custom| &custom.slot)
    }

    /// The index could not be built: its views have no value and get none.
    pub(super) fn index_failed(&mut self, failed: u64, error: &Error, seq: Seq) {
        self.0.retain(|_, custom| {
            let concerned = matches!(custom.source, Source::Index(index) if index == failed);
            if concerned {
                custom.slot.give_up(error.clone(), seq);
            }
            !concerned
        });
    }

    pub(super) fn close(&mut self) {
        for custom in self.0.values() {
            custom.slot.close();
        }
        self.0.clear();
    }
}

impl Core {
    pub(super) fn open_custom(&mut self, slot: Opening<ValueSlot>, query: Arc<ViewQuery>, user: OffCore) {
        let Some(slot) = slot.arrived() else { return };
        let Some(code) = user.code() else { return };
        let (source, index) = match **code {
            CustomCode::Kept(_) => (Source::Steps { pending: Vec::new(), anew: true }, None),
            CustomCode::Computed(..) => {
                let index = self.table_index(&query);
                (Source::Index(index), Some(index))
            }
        };
        let id = self.views.next_number();
        self.views
            .customs
            .0
            .insert(id, Custom { slot, query, user, source, due: true, running: false, is_answered: false });
        if let Some(index) = index {
            self.give_up_refused(index);
        }
        self.run_customs();
    }

    /// Gives the build thread a job for every view that is due and has none; who has nothing to wait for is up to date.
    pub(super) fn run_customs(&mut self) {
        let mut refused = Vec::new();
        for (id, custom) in &mut self.views.customs.0 {
            if custom.running {
                continue;
            }
            if !custom.due {
                custom.slot.take_in(self.seq);
                if std::mem::take(&mut custom.is_answered)
                    && let Some(generation) = custom.slot.needs_no_answer()
                {
                    custom.slot.signal.advance_to(generation);
                }
                continue;
            }
            let Some(code) = custom.user.code().cloned() else { continue };
            let work = match (&mut custom.source, &*code) {
                (Source::Steps { pending, anew }, CustomCode::Kept(kept)) if !*anew && kept.can_go_on() => {
                    Work::GoOn(std::mem::take(pending))
                }
                (Source::Steps { pending, anew }, _) => {
                    *pending = Vec::new();
                    *anew = false;
                    Work::Begin(self.to.versions.pin_to_read())
                }
                (Source::Index(index), CustomCode::Computed(_, reader)) => {
                    let Some(Index { state: State::Ready(Body::Table(tree)), .. }) = self.views.indexes.get(index)
                    else {
                        continue;
                    };
                    let root = Root {
                        generation: custom.slot.signal.generation(),
                        seq: self.seq,
                        tree: tree.clone(),
                        query: custom.query.clone(),
                        load: match custom.is_answered {
                            true => LoadState::Ready,
                            false => custom.slot.load_state(self.complete),
                        },
                        stale_upto: self.stale_upto,
                        epoch: 0,
                        changed: 0,
                        cause: None,
                        first: None,
                    };
                    Work::Compute(TableSnapshot::of_root(root, reader))
                }
                (Source::Index(_), CustomCode::Kept(_)) => continue,
            };
            custom.due = false;
            custom.running = true;
            let (id, seq, handle) = (*id, self.seq, self.handle.clone());
            let (query, slot) = (custom.query.clone(), custom.slot.clone());
            let job = move || {
                let result = work.run(&code, &query, &slot);
                // A closed core wants no result.
                let _ = handle.send(Message::Computed { custom: id, seq, result });
            };
            if let Err(error) = self.to.build_pool.submit(self.to.build_rank, Box::new(job)) {
                if let Source::Steps { anew, .. } = &mut custom.source {
                    // What the job would have taken in is lost.
                    *anew = true;
                }
                refused.push((id, error));
            }
        }
        for (id, error) in refused {
            self.computed(id, self.seq, Err(error));
        }
    }

    /// A question to the source has come to its end; its rows are published.
    pub(super) fn customs_answered(&mut self, question: &Question, result: &Result<()>) {
        for custom in self.views.customs.0.values_mut() {
            if result.is_ok() {
                custom.note_answer(question);
            } else if let Some(generation) = custom.slot.answered(question, &custom.query, result) {
                custom.slot.signal.advance_to(generation);
            }
        }
        self.run_customs();
    }

    /// Shows the result of a job that took in everything up to `seq`.
    pub(super) fn computed(&mut self, id: u64, seq: Seq, result: Result<Value>) {
        let Some(custom) = self.views.customs.0.get_mut(&id) else { return };
        custom.running = false;
        let result = result.map_err(|error| error.with("table", self.to.table_name.to_string()));
        if let Some(generation) = custom.slot.show((result, ValueCounts::default()), seq) {
            custom.slot.signal.advance_to(generation);
        }
        custom.slot.opened();
        custom.slot.take_in(seq);
        self.run_customs();
    }
}

#[cfg(test)]
mod tests;
