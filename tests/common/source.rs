//! Source: any source, with calls that fail, panic, wait or take their time when a test says so.
//!
//! `MemoryVista` can do this to itself; this one does it to a file or another Dio as well.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use diorama::sources::memory::Call;
use diorama::vista::{
    CallCx, Capabilities, ChangeStream, Page, PageCursor, PushDown, QueryDescriptor, Schema, TableShell, WriteOp,
    Written,
};
use diorama::{Error, ErrorKind, Record, Result};

/// How long a call is waited for.
const SOON: Duration = Duration::from_secs(60);

/// The calls that change rows.
pub(crate) const WRITES: [Call; 6] =
    [Call::Insert, Call::Replace, Call::Upsert, Call::Patch, Call::Delete, Call::DeleteAll];

/// How a call goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// It fails before it does anything.
    Fails(Error),
    /// It panics before it does anything.
    Panics,
    /// It does its work, and fails then.
    AnswerLost(Error),
}

/// Where a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Point {
    BeforeWork,
    BeforeAnswer,
}

#[derive(Default)]
struct State {
    seen: HashMap<Call, u64>,
    ended: HashMap<Call, u64>,
    always: HashMap<Call, Trouble>,
    next: HashMap<Call, Trouble>,
    latency: HashMap<Call, Duration>,
    holders: HashMap<(Call, Point), usize>,
    inside: HashMap<(Call, Point), usize>,
    /// Held calls that may go on all the same.
    passes: HashMap<(Call, Point), usize>,
    bells: Vec<Sender<()>>,
    /// Ids that nobody can read, and whether somebody has tried.
    unreadable: HashMap<String, bool>,
    deaf: bool,
}

#[derive(Default)]
struct Script {
    state: Mutex<State>,
    changed: Condvar,
}

impl Script {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let answer = change(&mut state);
        for bell in &state.bells {
            // A bell that is full has been rung already.
            let _ = bell.try_send(());
        }
        drop(state);
        self.changed.notify_all();
        answer
    }

    /// Waits while somebody holds the point; a call that is cancelled or late goes on, and fails, unless it is deaf.
    fn pass(&self, cx: &CallCx, at: (Call, Point)) -> Result<()> {
        let (bell, rung) = bounded(1);
        if self.change(|state| {
            let is_held = state.holders.get(&at).is_some_and(|holders| *holders > 0);
            if is_held {
                *state.inside.entry(at).or_default() += 1;
                state.bells.push(bell.clone());
            }
            !is_held
        }) {
            return Ok(());
        }
        let watch = cx.cancel.ring_on_cancel(&bell);
        let passes = |state: &State| state.passes.get(&at).is_some_and(|passes| *passes > 0);
        let waits = |state: &State| (state.deaf || cx.check().is_ok()) && state.holders[&at] > 0 && !passes(state);
        let deaf = || self.state.lock().unwrap().deaf;
        while waits(&self.state.lock().unwrap()) {
            match cx.deadline().filter(|_| !deaf()) {
                Some(deadline) => drop(cx.clock().recv(&rung, Some(deadline))),
                // Not one of the clock's sleepers, whom a test may be counting.
                None => drop(rung.recv()),
            }
        }
        drop(watch);
        self.change(|state| {
            *state.inside.entry(at).or_default() -= 1;
            if let Some(passes) = state.passes.get_mut(&at) {
                *passes = passes.saturating_sub(1);
            }
            state.bells.retain(|other| !other.same_channel(&bell));
        });
        cx.check()
    }

    /// One call; its end is noted, be it a panic.
    fn run<T>(&self, cx: &CallCx, call: Call, work: impl FnOnce() -> Result<T>) -> Result<T> {
        struct End<'a>(&'a Script, Call);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.change(|state| *state.ended.entry(self.1).or_default() += 1);
            }
        }
        let _end = End(self, call);
        self.go_through(cx, call, work)
    }

    fn go_through<T>(&self, cx: &CallCx, call: Call, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let latency = self.change(|state| {
            *state.seen.entry(call).or_default() += 1;
            state.latency.get(&call).copied()
        });
        cx.check()?;
        self.pass(cx, (call, Point::BeforeWork))?;
        if let Some(latency) = latency {
            let (bell, rung) = bounded(1);
            let _watch = cx.cancel.ring_on_cancel(&bell);
            cx.clock().recv(&rung, Some(cx.clock().now().after(latency)));
            cx.check()?;
        }
        let trouble = self.change(|state| state.next.remove(&call).or_else(|| state.always.get(&call).cloned()));
        match trouble {
            None => {}
            Some(Trouble::Fails(error)) => return Err(error),
            Some(Trouble::Panics) => panic!("the source's `{call}` panics as told"),
            Some(Trouble::AnswerLost(error)) => return work().and(Err(error)),
        }
        let answer = work()?;
        self.pass(cx, (call, Point::BeforeAnswer))?;
        Ok(answer)
    }
}

/// Another source, with a script. Clones share it.
#[derive(Clone)]
pub(crate) struct ScriptedSource {
    inner: Arc<dyn TableShell>,
    script: Arc<Script>,
}

/// Calls of one kind wait until this is dropped, they are cancelled or their deadline has come.
pub(crate) struct HeldCalls {
    script: Arc<Script>,
    at: (Call, Point),
}

impl ScriptedSource {
    pub(crate) fn new(inner: impl TableShell) -> Self {
        Self::over(Arc::new(inner))
    }

    pub(crate) fn over(inner: Arc<dyn TableShell>) -> Self {
        ScriptedSource { inner, script: Arc::default() }
    }

    /// Has the next call of this kind go wrong.
    pub(crate) fn next(&self, call: Call, trouble: Trouble) {
        self.script.change(|state| state.next.insert(call, trouble));
    }

    /// Has every call of this kind go wrong, until [`heal`](Self::heal).
    pub(crate) fn always(&self, call: Call, trouble: Trouble) {
        self.script.change(|state| state.always.insert(call, trouble));
    }

    /// Has held calls wait on when they are cancelled or late.
    pub(crate) fn be_deaf(&self) {
        self.script.change(|state| state.deaf = true);
    }

    /// Nothing goes wrong or takes time any more. Held calls stay held.
    pub(crate) fn heal(&self) {
        self.script.change(|state| {
            state.always.clear();
            state.next.clear();
            state.latency.clear();
        });
    }

    /// Has calls of this kind take so long, on the clock of their context.
    pub(crate) fn set_latency(&self, call: Call, latency: Duration) {
        self.script.change(|state| state.latency.insert(call, latency));
    }

    pub(crate) fn hold(&self, call: Call, point: Point) -> HeldCalls {
        self.script.change(|state| *state.holders.entry((call, point)).or_default() += 1);
        HeldCalls { script: self.script.clone(), at: (call, point) }
    }

    /// Nobody can read this row.
    pub(crate) fn make_unreadable(&self, id: &str) {
        self.script.change(|state| state.unreadable.insert(id.to_owned(), false));
    }

    /// Blocks until somebody has tried to read such a row.
    pub(crate) fn wait_until_tried(&self, id: &str) {
        self.script.wait(&format!("a read of `{id}`"), |state| state.unreadable[id]);
    }

    /// How many calls of this kind have come in.
    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.script.state.lock().unwrap().seen.get(&call).copied().unwrap_or(0)
    }

    /// Blocks until this many calls of this kind have come in.
    pub(crate) fn wait_until_called(&self, call: Call, calls: u64) {
        self.script
            .wait(&format!("call {calls} of `{call}`"), |state| state.seen.get(&call).copied().unwrap_or(0) >= calls);
    }

    /// Blocks until this many calls of this kind have come to their end.
    pub(crate) fn wait_until_ended(&self, call: Call, calls: u64) {
        self.script.wait(&format!("the end of call {calls} of `{call}`"), |state| {
            state.ended.get(&call).copied().unwrap_or(0) >= calls
        });
    }
}

impl Script {
    fn wait(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap();
        let (state, timeout) = self.changed.wait_timeout_while(state, SOON, |state| !is_so(state)).unwrap();
        drop(state);
        assert!(!timeout.timed_out(), "never at the source: {what}");
    }
}

impl HeldCalls {
    pub(crate) fn call(&self) -> Call {
        self.at.0
    }

    /// Blocks until this many calls wait.
    pub(crate) fn wait_until_held(&self, calls: usize) {
        self.script.wait(&format!("a held `{}`", self.at.0), |state| {
            state.inside.get(&self.at).copied().unwrap_or(0) >= calls
        });
    }

    /// Lets one call go on.
    pub(crate) fn let_one_pass(&self) {
        self.script.change(|state| *state.passes.entry(self.at).or_default() += 1);
    }
}

impl Drop for HeldCalls {
    fn drop(&mut self) {
        self.script.change(|state| {
            *state.holders.entry(self.at).or_default() -= 1;
            state.passes.remove(&self.at);
        });
    }
}

impl TableShell for ScriptedSource {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn source_key(&self) -> String {
        self.inner.source_key()
    }

    fn schema(&self) -> Arc<Schema> {
        self.inner.schema()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        self.inner.push_down(query)
    }

    fn stack_level(&self) -> u32 {
        self.inner.stack_level()
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        self.script.run(cx, Call::List, || self.inner.list(cx, query))
    }

    fn page(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        self.script.run(cx, Call::Page, || self.inner.page(cx, query, after, limit))
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        if self.script.change(|state| state.unreadable.get_mut(id).map(|tried| *tried = true)).is_some() {
            return Err(Error::new(ErrorKind::Unavailable, "nobody can read it"));
        }
        self.script.run(cx, Call::Get, || self.inner.get(cx, id))
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        self.script.run(cx, Call::Count, || self.inner.count(cx, query))
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        self.script.run(cx, Call::Insert, || self.inner.insert(cx, id, record))
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.script.run(cx, Call::Replace, || self.inner.replace(cx, id, record))
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.script.run(cx, Call::Upsert, || self.inner.upsert(cx, id, record))
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.script.run(cx, Call::Patch, || self.inner.patch(cx, id, record))
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        self.script.run(cx, Call::Delete, || self.inner.delete(cx, id))
    }

    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        self.script.run(cx, Call::DeleteAll, || self.inner.delete_all(cx))
    }

    fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        self.script.run(cx, Call::Batch, || self.inner.batch(cx, ops))
    }

    fn changes(&self, cx: &CallCx) -> Result<Box<dyn ChangeStream>> {
        self.script.run(cx, Call::Changes, || self.inner.changes(cx))
    }
}
