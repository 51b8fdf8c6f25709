//! Answers: what views show of whether the source has been asked for their rows, where that is done query by query.
//!
//! Flow: a question is answered, with its rows or with an error → the views that wait for it show so, and what they await.
//! Invariants:
//! 1. A view is not ready before the rows of its query are published (`f5_an_open_view_is_ready_in_one_step_with_its_rows`).
//! 2. Rows of one question stay until another one is answered, well or not
//!    (`f5_rows_stay_until_the_source_has_answered_the_next_query`).
//!
//! Not here: asking (`dio::queries`).

use std::sync::Arc;

use crate::dio::core::views::{Body, Index, State, TableView, Views};
use crate::dio::core::{Core, ViewId};
use crate::dio::queries::{Asking, Question};
use crate::scenery::snapshot::LoadState;
use crate::{Result, Seq};

/// How a view's query stands to the source.
#[derive(Default)]
pub(super) struct Answer {
    /// The key of the question that it puts; `None` where nobody asks query by query.
    question: Option<Arc<str>>,
    /// The view's request that it belongs to.
    request: u64,
    /// Whether the request waits for it.
    is_awaited: bool,
    /// `None`: nothing yet. A part of the rows never passes for the whole.
    said: Option<Result<()>>,
}

impl Answer {
    pub(super) fn of(asking: Option<Asking>, request: u64) -> Self {
        let Some(Asking { key, is_answered }) = asking else { return Answer::default() };
        Answer { question: Some(key), request, is_awaited: !is_answered, said: is_answered.then_some(Ok(())) }
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    pub(super) fn question(&self) -> Option<&Arc<str>> {
        self.question.as_ref()
    }

    /// What a view that shows the rows of this query says of them.
    pub(super) fn load_state(&self, complete: bool) -> LoadState {
        match &self.said {
            _ if complete => LoadState::Ready,
            None => LoadState::Loading,
            Some(Ok(())) => LoadState::Ready,
            Some(Err(error)) => LoadState::Failed(error.clone()),
        }
    }

    /// How a request ends whose rows are shown.
    pub(super) fn outcome(&self, complete: bool) -> Result<()> {
        match &self.said {
            Some(said) if !complete => said.clone(),
            _ => Ok(()),
        }
    }

    /// The query will not be shown, whatever the source says; whether it was waited for.
    pub(super) fn give_up(&mut self) -> bool {
        std::mem::take(self).is_awaited
    }
}

impl TableView {
    /// Whether it goes on showing the rows of another question.
    pub(super) fn keeps_its_rows(&self, complete: bool) -> bool {
        !complete && self.answer.is_awaited() && self.shows.is_some() && self.shown_question != self.answer.question
    }

    /// What it is to say of the rows that it shows, in a batch.
    pub(super) fn load_now(&self, complete: bool) -> LoadState {
        let is_told = self.awaits.is_none() && matches!(self.answer.said, Some(Ok(())));
        if complete || is_told { LoadState::Ready } else { self.load.clone() }
    }

    /// Publishes how far it is filled, if that is something else.
    pub(super) fn show_load(&mut self, load: LoadState, seq: Seq, stale_upto: Seq) {
        if self.shows.is_none() || self.load.same_as(&load) {
            return;
        }
        self.load = load;
        let root = self.slot.roots.newest().with_load(self.load.clone(), seq, stale_upto);
        let generation = root.generation;
        drop(self.slot.roots.publish(root));
        self.slot.signal.advance_to(generation);
    }
}

impl Views {
    /// These questions are answered by the batch that is about to be published: what it publishes may say so. Gives back the
    /// views that do.
    pub(in crate::dio::core) fn note_answers(&mut self, answered: &[Arc<Question>]) {
        if answered.is_empty() {
            return;
        }
        for (id, view) in &mut self.tables {
            let is_answered = answered.iter().any(|question| question.covers(&view.wanted));
            if is_answered && view.answer.question.is_some() {
                view.answer.said = Some(Ok(()));
                self.newly_answered.push(*id);
            }
        }
        for index in self.indexes.values() {
            if let Some(slot) = &index.value
                && answered.iter().any(|question| question.covers(&index.query))
            {
                slot.note_answer();
            }
        }
        self.customs.note_answers(answered);
    }

    /// A view's question has come to its end; what it awaits shows, or how far what it shows is filled.
    fn end_waiting(&mut self, view_id: ViewId, seq: Seq) {
        let Some(view) = self.tables.get_mut(&view_id) else { return };
        view.answer.is_awaited = false;
        if let Some(awaited) = view.awaits {
            if matches!(self.indexes.get(&awaited.index), Some(Index { state: State::Ready(Body::Table(_)), .. })) {
                self.land(view_id, awaited, seq);
            }
            return;
        }
        let load = view.answer.load_state(self.complete);
        view.show_load(load, seq, self.stale_upto);
        view.slot.queries.ended(view.answer.request, view.answer.outcome(self.complete));
    }
}

impl Core {
    /// A question to the source has come to its end; its rows are published.
    pub(in crate::dio::core) fn answered(&mut self, question: &Question, result: &Result<()>) {
        self.views.complete = self.complete;
        self.views.stale_upto = self.stale_upto;
        let concerned = |view: &TableView| match result {
            Ok(()) => view.answer.question.is_some() && question.covers(&view.wanted),
            Err(_) => view.answer.is_awaited() && view.answer.question() == Some(question.key()),
        };
        let views: Vec<ViewId> =
            self.views.tables.iter().filter(|(_, view)| concerned(view)).map(|(id, _)| *id).collect();
        for id in views {
            if let Some(view) = self.views.tables.get_mut(&id) {
                view.answer.said = Some(result.clone());
            }
            self.views.end_waiting(id, self.seq);
        }
        for index in self.views.indexes.values() {
            if let Some(slot) = &index.value
                && let Some(generation) = slot.answered(question, &index.query, result)
            {
                slot.signal.advance_to(generation);
            }
        }
        self.customs_answered(question, result);
        self.sweep_views();
    }

    /// The cache has become complete: nobody waits for an answer any more.
    pub(in crate::dio::core) fn end_all_waiting(&mut self) {
        let waits = |view: &TableView| view.answer.is_awaited();
        let views: Vec<ViewId> = self.views.tables.iter().filter(|(_, view)| waits(view)).map(|(id, _)| *id).collect();
        for id in views {
            self.views.end_waiting(id, self.seq);
        }
        for slot in
            self.views.indexes.values().filter_map(|index| index.value.as_ref()).chain(self.views.customs.slots())
        {
            if let Some(generation) = slot.needs_no_answer() {
                slot.signal.advance_to(generation);
            }
        }
    }
}
