//! Queries: which rows the source is asked for, question by question, where a Lens has `on_query`.
//!
//! Owner: the desk is shared by whoever asks; a flight is flown by a load thread of the Lens, or by the thread of the library
//! that waits for it and finds that nobody has begun it.
//! Flow: a view or the facade asks → the flight of that question that is under way, or a new one → the callback → one batch to
//! the core → the question is answered → the views hear of it → whoever waits goes on.
//! Invariants:
//! 1. A question is under way once, however many ask; what is answered is not asked again until it is forgotten
//!    (`f5_a_query_is_asked_once_however_many_open_views_of_it_at_once`).
//! 2. A question is answered only when its rows are published, and before anybody hears of it.
//! 3. What began before everything was forgotten answers those who wait for it, and nobody later
//!    (`a_flight_that_began_before_all_was_forgotten_answers_its_askers_alone`).
//! 4. A flight that nobody has begun and nobody wants any more is never flown
//!    (`a_question_that_nobody_wants_any_more_is_not_asked`).
//!
//! Close/panic: closing takes no more questions; when the time for what is under way is over, whoever waits is told `Closed`. A
//! panic of the callback is the error of its flight alone.
//! Not here: what views show of it (`core::views::answers`).

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Result;
use crate::dio::DioInner;
use crate::dio::callback::{self, CallbackBatch};
use crate::dio::core::{Announce, Message, helper};
use crate::dio::event::Cause;
use crate::dio::flight::{Flight, closed};
use crate::scenery::view_query::ViewQuery;
use crate::sync::{Rank, Role, as_rank, catch_panic, may_wait_for, on_own_thread, reply};
use crate::vista::{CallCx, QueryDescriptor, Schema};

/// Answered questions that are remembered. What is forgotten is asked again.
const ANSWERED: usize = 1_024;
/// Rows on which two answers don't agree: so many are read again one by one; for more, the open views' questions are asked
/// again.
const FEW: usize = 64;
/// Entries from which on those of what is gone are looked for.
const SWEEP: usize = 64;

/// Which rows are to come from the source: the conditions and the search of a query, without its order and window.
#[derive(Debug)]
pub(crate) struct Question {
    descriptor: QueryDescriptor,
    query: ViewQuery,
    key: Arc<str>,
}

impl Question {
    pub(crate) fn new(descriptor: &QueryDescriptor, schema: &Schema) -> Result<Arc<Self>> {
        let descriptor = QueryDescriptor {
            conditions: descriptor.conditions.clone(),
            search: descriptor.search_text().map(str::to_owned),
            ..QueryDescriptor::default()
        };
        let query = ViewQuery::new(&descriptor, schema)?;
        let key = Arc::from(query.canonical());
        Ok(Arc::new(Question { descriptor, query, key }))
    }

    /// By which equal questions are known.
    pub(crate) fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Whether every row that `query` wants is among the rows of this question.
    pub(crate) fn covers(&self, query: &ViewQuery) -> bool {
        query.narrows(&self.query)
    }
}

/// What a view's query asks of the source, as the core is told.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    /// The question's key.
    pub(crate) key: Arc<str>,
    /// Whether its rows are there.
    pub(crate) is_answered: bool,
}

/// What a view wants of the source, for as long as there is a handle of the view.
#[derive(Default)]
pub(crate) struct Inquiry(Mutex<Inquired>);

#[derive(Default)]
struct Inquired {
    question: Option<Arc<Question>>,
    /// The flight that it waits for. Held, so that it is flown.
    flight: Option<Arc<QueryFlight>>,
}

impl Inquiry {
    fn question(&self) -> Option<Arc<Question>> {
        self.0.lock().question.clone()
    }

    fn replace(&self, with: Inquired) {
        let before = std::mem::replace(&mut *self.0.lock(), with);
        drop(before);
    }
}

/// One question on its way to the source.
pub(crate) struct QueryFlight {
    question: Arc<Question>,
    /// See [`Desk::era`].
    era: u64,
    begun: AtomicBool,
    end: Arc<Flight>,
}

impl QueryFlight {
    /// Whether the caller is the one that flies it.
    fn claim(&self) -> bool {
        !self.begun.swap(true, Ordering::AcqRel)
    }
}

/// What becomes of a question.
enum Asked {
    Answered,
    /// Somebody has asked it.
    Joined(Arc<QueryFlight>),
    /// It is to be submitted.
    New(Arc<QueryFlight>),
}

#[derive(Default)]
struct Desk {
    closed: bool,
    /// How often everything was forgotten.
    era: u64,
    /// What is under way, by the era that it began in.
    flights: HashMap<(u64, Arc<str>), Weak<QueryFlight>>,
    sweep_flights_at: usize,
    /// Oldest first. None of them is covered by a younger one.
    answered: VecDeque<Arc<Question>>,
    inquiries: Vec<Weak<Inquiry>>,
    sweep_inquiries_at: usize,
}

impl Desk {
    fn is_answered(&self, question: &Question) -> bool {
        self.answered.iter().any(|answered| answered.covers(&question.query))
    }

    fn forget(&mut self) {
        self.era += 1;
        self.answered.clear();
    }

    fn open_questions(&self) -> Vec<Arc<Question>> {
        let inquiries: Vec<Arc<Inquiry>> = self.inquiries.iter().filter_map(Weak::upgrade).collect();
        inquiries.iter().filter_map(|inquiry| inquiry.question()).collect()
    }
}

thread_local! {
    static FLYING: Cell<bool> = const { Cell::new(false) };
}

/// Notes that this thread flies until it is dropped.
struct Flying {
    outer: bool,
}

impl Flying {
    fn begin() -> Self {
        Flying { outer: FLYING.replace(true) }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        FLYING.set(self.outer);
    }
}

/// Whether this thread flies. The refresh that a flight asks for may be the one that it is a part of: that is not repeated, or
/// it would be for ever.
pub(crate) fn is_flying() -> bool {
    FLYING.get()
}

/// Where the source is asked question by question.
#[derive(Default)]
pub(crate) struct Queries(Mutex<Desk>);

impl Queries {
    /// The inquiry of a new view.
    fn inquiry(&self) -> Arc<Inquiry> {
        let inquiry = Arc::new(Inquiry::default());
        let mut desk = self.0.lock();
        if desk.inquiries.len() >= desk.sweep_inquiries_at {
            desk.inquiries.retain(|inquiry| inquiry.strong_count() > 0);
            desk.sweep_inquiries_at = SWEEP.max(desk.inquiries.len() * 2);
        }
        desk.inquiries.push(Arc::downgrade(&inquiry));
        inquiry
    }

    fn is_answered(&self, question: &Question) -> bool {
        self.0.lock().is_answered(question)
    }

    fn ask(&self, question: &Arc<Question>) -> Result<Asked> {
        let mut desk = self.0.lock();
        if desk.closed {
            return Err(closed());
        }
        if desk.is_answered(question) {
            return Ok(Asked::Answered);
        }
        let place = (desk.era, question.key.clone());
        if let Some(flight) = desk.flights.get(&place).and_then(Weak::upgrade) {
            return Ok(Asked::Joined(flight));
        }
        if desk.flights.len() >= desk.sweep_flights_at {
            desk.flights.retain(|_, flight| flight.strong_count() > 0);
            desk.sweep_flights_at = SWEEP.max(desk.flights.len() * 2);
        }
        let (question, era) = (question.clone(), desk.era);
        let flight = Arc::new(QueryFlight { question, era, begun: AtomicBool::new(false), end: Flight::new() });
        desk.flights.insert(place, Arc::downgrade(&flight));
        Ok(Asked::New(flight))
    }

    /// A flight has ended, its rows are published if it went well.
    fn ended(&self, flight: &Arc<QueryFlight>, went_well: bool) {
        let mut desk = self.0.lock();
        let place = (flight.era, flight.question.key.clone());
        // Of a question that nobody wanted any more, and that is asked anew, another one may be under way.
        if desk.flights.get(&place).is_some_and(|other| other.as_ptr() == Arc::as_ptr(flight)) {
            desk.flights.remove(&place);
        }
        if went_well && flight.era == desk.era && !desk.is_answered(&flight.question) {
            desk.answered.retain(|answered| !flight.question.covers(&answered.query));
            desk.answered.push_back(flight.question.clone());
            if desk.answered.len() > ANSWERED {
                desk.answered.pop_front();
            }
        }
    }

    /// No question is answered any more, nor will be by what is under way.
    pub(crate) fn forget(&self) {
        self.0.lock().forget();
    }

    /// Forgets all, and says what the open views want: none that another one covers.
    fn forget_all_but_open(&self) -> Vec<Arc<Question>> {
        let mut questions = {
            let mut desk = self.0.lock();
            desk.forget();
            desk.open_questions()
        };
        let mut keys = HashSet::new();
        questions.retain(|question| keys.insert(question.key.clone()));
        let mut wanted: Vec<Arc<Question>> = Vec::new();
        for question in questions {
            if !wanted.iter().any(|other| other.covers(&question.query)) {
                wanted.retain(|other| !question.covers(&other.query));
                wanted.push(question);
            }
        }
        wanted
    }

    /// What was answered, or is wanted by open views, and may have rows in common with this question without being a part of it.
    fn others(&self, question: &Question) -> Vec<Arc<Question>> {
        let desk = self.0.lock();
        let mut others: Vec<Arc<Question>> = desk.answered.iter().cloned().collect();
        others.extend(desk.open_questions());
        drop(desk);
        let mut keys = HashSet::new();
        others.retain(|other| !question.covers(&other.query) && keys.insert(other.key.clone()));
        others
    }

    /// How many questions are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.0.lock().flights.values().filter(|flight| flight.strong_count() > 0).count()
    }

    /// Takes no more questions; what is under way goes on.
    pub(crate) fn hang_up(&self) {
        self.0.lock().closed = true;
    }

    /// Whoever waits for a flight gets `Closed`: the source may never come back.
    pub(crate) fn give_up(&self) {
        let flights: Vec<Arc<QueryFlight>> = self.0.lock().flights.values().filter_map(Weak::upgrade).collect();
        for flight in flights {
            flight.end.end(Err(closed()));
        }
    }
}

impl DioInner {
    /// The inquiry of a new view, where the source is asked query by query.
    pub(crate) fn new_inquiry(&self) -> Option<Arc<Inquiry>> {
        self.queries.as_ref().map(Queries::inquiry)
    }

    /// Notes what a view wants from now on, before the core hears of it: a refresh that begins later asks for it, too.
    pub(crate) fn inquire(&self, inquiry: Option<&Arc<Inquiry>>, query: &QueryDescriptor) -> Result<Option<Asking>> {
        let (Some(queries), Some(inquiry)) = (&self.queries, inquiry) else { return Ok(None) };
        let question = Question::new(query, &self.schema).map_err(|error| self.name_error(error))?;
        inquiry.replace(Inquired { question: Some(question.clone()), flight: None });
        let is_answered = self.board.is_complete() || queries.is_answered(&question);
        Ok(Some(Asking { key: question.key.clone(), is_answered }))
    }

    /// Asks the source for what a view wants, once the view is on its way to the core: what the core hears of the answer comes
    /// after the view. Waits for nobody.
    pub(crate) fn ask_for(self: &Arc<Self>, inquiry: Option<&Arc<Inquiry>>, asking: Option<&Asking>) {
        let (Some(queries), Some(inquiry), Some(Asking { is_answered: false, .. })) = (&self.queries, inquiry, asking)
        else {
            return;
        };
        let Some(question) = inquiry.question() else { return };
        let (flight, is_new) = match queries.ask(&question) {
            Ok(Asked::Joined(flight)) => (flight, false),
            Ok(Asked::New(flight)) => (flight, true),
            Ok(Asked::Answered) => {
                // A moment ago it was not. A closed core has no views.
                let _ = self.core.send(Message::Answered { question, result: Ok(()), reply: None });
                return;
            }
            // The closing ends the view's waiting.
            Err(_) => return,
        };
        inquiry.replace(Inquired { question: Some(question), flight: Some(flight.clone()) });
        if is_new {
            self.submit(&flight);
        }
    }

    /// A thread of the library that is about to wait for a view asks the source itself if nobody has begun to: every load
    /// thread may be waiting as it does.
    pub(crate) fn hasten(self: &Arc<Self>, inquiry: Option<&Arc<Inquiry>>) {
        let flight = inquiry.and_then(|inquiry| inquiry.0.lock().flight.clone());
        if let Some(flight) = flight {
            self.fly_here(&flight);
        }
    }

    /// Blocks until the cache has every row of a query, whatever its order and window. The Dio asks query by query.
    ///
    /// # Errors
    /// What the callback fails with; `Timeout`; `Full`; `Closed`; `WouldDeadlock`.
    pub(crate) fn bring(self: &Arc<Self>, queries: &Queries, cx: &CallCx, query: &QueryDescriptor) -> Result<()> {
        let question = Question::new(query, &self.schema)?;
        if queries.is_answered(&question) {
            return Ok(());
        }
        may_wait_for(Rank::new(self.level, Role::Load), "a query of the source")?;
        let flight = match queries.ask(&question).map_err(|error| self.name_error(error))? {
            Asked::Answered => return Ok(()),
            Asked::Joined(flight) => flight,
            Asked::New(flight) => {
                if !on_own_thread() {
                    self.submit(&flight);
                }
                flight
            }
        };
        self.fly_here(&flight);
        flight.end.wait_for(cx.remaining()).map_err(|error| self.name_error(error))
    }

    /// A refresh: what was answered is forgotten, and what the open views want is asked for again.
    ///
    /// # Errors
    /// The first one of a question; the others are asked all the same.
    pub(crate) fn ask_again(self: &Arc<Self>, queries: &Queries) -> Result<()> {
        // Rows on which answers don't agree are read one by one. Where that can't be, no two are read at the same time.
        let is_one_by_one = !self.master.capabilities().get;
        let mut flights = Vec::new();
        for question in queries.forget_all_but_open() {
            let flight = match queries.ask(&question)? {
                Asked::Answered => continue,
                Asked::Joined(flight) => flight,
                Asked::New(flight) => {
                    if !is_one_by_one {
                        self.submit(&flight);
                    }
                    flight
                }
            };
            if is_one_by_one {
                self.fly_here(&flight);
            }
            flights.push(flight);
        }
        let mut result = Ok(());
        for flight in flights {
            self.fly_here(&flight);
            result = result.and(flight.end.wait());
        }
        result
    }

    /// Leaves a flight to the load threads. The job doesn't keep it: nobody may want it any more by the time.
    fn submit(self: &Arc<Self>, flight: &Arc<QueryFlight>) {
        let (dio, job) = (Arc::downgrade(self), Arc::downgrade(flight));
        let job = move || {
            if let (Some(dio), Some(flight)) = (dio.upgrade(), job.upgrade())
                && flight.claim()
            {
                dio.fly(&flight);
            }
        };
        let submitted = self.lens.load_pool.submit(Rank::new(self.level, Role::Load), Box::new(job));
        if let Err(error) = submitted
            && flight.claim()
        {
            self.land(flight, Err(error));
        }
    }

    /// Flies it on this thread of the library, unless somebody does.
    fn fly_here(self: &Arc<Self>, flight: &Arc<QueryFlight>) {
        if on_own_thread() && flight.claim() {
            as_rank(Rank::new(self.level, Role::Load), || self.fly(flight));
        }
    }

    fn fly(self: &Arc<Self>, flight: &Arc<QueryFlight>) {
        let _flying = Flying::begin();
        let query = flight.question.key();
        let span = tracing::debug_span!("query", table = %self.name, query = %query);
        let result = span.in_scope(|| {
            // Whoever waits is to be told, whatever happens here.
            catch_panic("a query", || self.ask_source(&flight.question)).and_then(|result| result)
        });
        match &result {
            Ok(()) => tracing::debug!(table = %self.name, query = %query, "answered"),
            Err(error) => {
                tracing::warn!(table = %self.name, query = %query, %error, "a query failed; the rows stay as they are");
            }
        }
        self.land(flight, result);
    }

    fn land(self: &Arc<Self>, flight: &Arc<QueryFlight>, result: Result<()>) {
        let result = result.map_err(|error| self.name_error(error));
        if let Some(queries) = &self.queries {
            queries.ended(flight, result.is_ok());
        }
        let (sender, views_heard) = reply();
        let (question, reply) = (flight.question.clone(), Some(sender));
        let told = self.core.send(Message::Answered { question, result: result.clone(), reply });
        // What is not flown is told of by whoever asks, who waits for nobody. A closed core has no views.
        if told.is_ok() && on_own_thread() {
            let _ = views_heard.wait(None);
        }
        flight.end.end(result);
    }

    /// Runs the callback, and has what it did published.
    fn ask_source(self: &Arc<Self>, question: &Arc<Question>) -> Result<()> {
        let Some(on_query) = &self.lens.callbacks.on_query else { return Ok(()) };
        if !self.is_open() {
            return Err(closed());
        }
        // What was marked as stale before is marked by now: the read begins after it, and so makes it fresh.
        self.catch_up()?;
        let handle = self.handle.lock().clone();
        let Some(strong) = handle.upgrade() else { return Err(closed()) };
        let ((), batch) = callback::run(self, "on_query", || on_query(&strong, &question.descriptor))?;
        let applied = match batch {
            Some(batch) => self.apply_answer(batch, question),
            None => Ok(()),
        };
        // The last handle may be this one: it must not be dropped before the batch is in.
        drop(strong);
        applied
    }

    fn apply_answer(self: &Arc<Self>, batch: CallbackBatch, question: &Arc<Question>) -> Result<()> {
        let mut doubtful = self.left_out_of_others(&batch, question);
        let began = batch.began();
        let put: Vec<Arc<str>> = batch.rows.iter().filter(|(_, row)| row.is_some()).map(|(id, _)| id.clone()).collect();
        let (helper, jobs) = helper();
        let into_message = |apply| Message::ApplyAnswer { apply, question: question.clone(), helper };
        // Other threads of the pools may wait for this flight, and none of them be free.
        let help = || jobs.iter().for_each(|job| job());
        let applied = self.apply_callback_as(batch, Cause::Refresh, Announce::Once, false, into_message, help)?;
        // What another answer took out meanwhile was read before this one, or after it: only the source can tell.
        if applied > began.next() {
            doubtful.extend(put.into_iter().filter(|id| matches!(self.find_now(id), Ok(None))));
        }
        if doubtful.len() > FEW {
            self.refresh_anew();
        } else {
            doubtful.iter().for_each(|id| self.reload(id));
        }
        Ok(())
    }

    /// The rows that an answer takes out of the cache, though another question has them among its own: at the source they may
    /// only have left this one.
    fn left_out_of_others(&self, batch: &CallbackBatch, question: &Question) -> Vec<Arc<str>> {
        let mut gone = batch.rows.iter().filter(|(_, row)| row.is_none()).map(|(id, _)| id).peekable();
        let Some(queries) = self.queries.as_ref().filter(|_| gone.peek().is_some()) else { return Vec::new() };
        let others = queries.others(question);
        if others.is_empty() {
            return Vec::new();
        }
        let is_of_another = |id: &&Arc<str>| match self.find_now(id) {
            Ok(Some((_, row))) => others.iter().any(|other| other.query.matches(&row)),
            // A cache that can't be read says so when the batch is applied.
            Ok(None) | Err(_) => false,
        };
        gone.filter(is_of_another).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
