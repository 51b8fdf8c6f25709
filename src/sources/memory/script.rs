//! Memory script: what a test tells a [`MemoryVista`](super::MemoryVista) to do: wait, block, fail, panic, be away.
//!
//! Flow: a call comes in → counted → gate → latency → offline → fault → the work → gate of the answer → lost answer.
//! Invariants: user code runs under no lock; every wait ends when the call is cancelled or its deadline passes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use crate::clock::{Clock, Moment};
use crate::vista::{CallCx, WriteOp};
use crate::{Error, ErrorKind, Result};

/// A call of the source contract, as a script names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`list`](crate::vista::TableShell::list).
    List,
    /// [`page`](crate::vista::TableShell::page).
    Page,
    /// [`get`](crate::vista::TableShell::get).
    Get,
    /// [`count`](crate::vista::TableShell::count).
    Count,
    /// [`insert`](crate::vista::TableShell::insert).
    Insert,
    /// [`replace`](crate::vista::TableShell::replace).
    Replace,
    /// [`upsert`](crate::vista::TableShell::upsert).
    Upsert,
    /// [`patch`](crate::vista::TableShell::patch).
    Patch,
    /// [`delete`](crate::vista::TableShell::delete).
    Delete,
    /// [`delete_all`](crate::vista::TableShell::delete_all).
    DeleteAll,
    /// [`batch`](crate::vista::TableShell::batch).
    Batch,
    /// [`changes`](crate::vista::TableShell::changes): a stream is opened.
    Changes,
    /// [`ChangeStream::next`](crate::vista::ChangeStream::next) on an open stream.
    NextChange,
}

const CALLS: usize = Call::NextChange as usize + 1;

impl Call {
    /// The name of the method: `list`, `delete_all` …
    pub fn as_str(self) -> &'static str {
        match self {
            Call::List => "list",
            Call::Page => "page",
            Call::Get => "get",
            Call::Count => "count",
            Call::Insert => "insert",
            Call::Replace => "replace",
            Call::Upsert => "upsert",
            Call::Patch => "patch",
            Call::Delete => "delete",
            Call::DeleteAll => "delete_all",
            Call::Batch => "batch",
            Call::Changes => "changes",
            Call::NextChange => "next_change",
        }
    }

    /// The call that carries this write.
    pub fn of(op: &WriteOp) -> Self {
        match op {
            WriteOp::Insert { .. } => Call::Insert,
            WriteOp::Replace { .. } => Call::Replace,
            WriteOp::Upsert { .. } => Call::Upsert,
            WriteOp::Patch { .. } => Call::Patch,
            WriteOp::Delete { .. } => Call::Delete,
            WriteOp::DeleteAll => Call::DeleteAll,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One call as `fail_when` sees it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SeenCall<'a> {
    /// Which call.
    pub call: Call,
    /// How many calls of this kind there have been, this one included.
    pub number: u64,
    /// The row's id, where the call names one.
    pub id: Option<&'a str>,
    /// The writes: one, several for a batch, none for a read.
    pub ops: &'a [WriteOp],
    /// Which attempt the caller says this is.
    pub attempt: u32,
    /// The caller's idempotency key.
    pub idempotency_key: Option<&'a str>,
}

type FailWhen = Arc<dyn Fn(&SeenCall<'_>) -> Option<Error> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Before,
    Answer,
}

#[derive(Clone)]
enum Fault {
    Error(Error),
    Panic,
}

#[derive(Default)]
struct Gate {
    holders: usize,
    inside: usize,
    passes: usize,
}

#[derive(Default)]
struct CallScript {
    seen: u64,
    latency: Duration,
    before: Gate,
    answer: Gate,
    next: VecDeque<(u64, Fault)>,
    lost: VecDeque<(u64, Error)>,
    always: Option<Error>,
}

#[derive(Default)]
struct State {
    calls: [CallScript; CALLS],
    offline: bool,
    fail_when: Option<FailWhen>,
}

/// The script and the waits of one source.
#[derive(Default)]
pub(super) struct Script {
    state: Mutex<State>,
    bells: Mutex<Bells>,
}

#[derive(Default)]
struct Bells {
    next: u64,
    waiting: Vec<(u64, Sender<()>)>,
}

impl State {
    fn call(&mut self, call: Call) -> &mut CallScript {
        &mut self.calls[call as usize]
    }

    fn gate(&mut self, call: Call, point: Point) -> &mut Gate {
        match point {
            Point::Before => &mut self.call(call).before,
            Point::Answer => &mut self.call(call).answer,
        }
    }
}

/// Takes one off the front of a queue of `(how many, what)`.
fn take_next<T: Clone>(queue: &mut VecDeque<(u64, T)>) -> Option<T> {
    let (left, what) = queue.front_mut()?;
    let what = what.clone();
    *left = left.saturating_sub(1);
    if *left == 0 {
        queue.pop_front();
    }
    Some(what)
}

/// Takes a waiter's bell off when the wait ends.
struct Waiting<'a> {
    bells: &'a Mutex<Bells>,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.bells.lock().waiting.retain(|(id, _)| *id != self.id);
    }
}

/// Leaves a gate when the wait at it ends.
struct Inside<'a> {
    script: &'a Script,
    call: Call,
    point: Point,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.script.state.lock().gate(self.call, self.point).inside -= 1;
        self.script.ring();
    }
}

impl Script {
    /// Wakes every wait, so that it looks again.
    pub(super) fn ring(&self) {
        for (_, bell) in &self.bells.lock().waiting {
            // A bell that is full has been rung and not yet been heard: the wait will look after this change.
            let _ = bell.try_send(());
        }
    }

    fn register(&self, bell: Sender<()>) -> Waiting<'_> {
        let mut bells = self.bells.lock();
        bells.next += 1;
        let id = bells.next;
        bells.waiting.push((id, bell));
        Waiting { bells: &self.bells, id }
    }

    /// Blocks until `ready` answers, `until` comes (`None` is returned then), or the call is no longer wanted. `ready` is
    /// asked again after every [`ring`](Self::ring).
    pub(super) fn wait<T>(
        &self,
        cx: &CallCx,
        until: Option<Moment>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        let (bell, rung) = bounded(1);
        let _waiting = self.register(bell.clone());
        let _watch = cx.cancel.ring_on_cancel(&bell);
        let deadline = [until, cx.deadline()].into_iter().flatten().min();
        loop {
            cx.check()?;
            if let Some(answer) = ready() {
                return Ok(Some(answer));
            }
            if until.is_some_and(|until| until <= cx.clock().now()) {
                return Ok(None);
            }
            cx.clock().recv(&rung, deadline);
        }
    }

    fn pass_gate(&self, cx: &CallCx, call: Call, point: Point) -> Result<()> {
        {
            let mut state = self.state.lock();
            let gate = state.gate(call, point);
            if gate.holders == 0 {
                return Ok(());
            }
            gate.inside += 1;
        }
        let _inside = Inside { script: self, call, point };
        self.ring();
        self.wait(cx, None, || {
            let mut state = self.state.lock();
            let gate = state.gate(call, point);
            let open = gate.holders == 0 || gate.passes > 0;
            gate.passes = gate.passes.saturating_sub(usize::from(open));
            open.then_some(())
        })?;
        Ok(())
    }

    /// What happens before a call's work.
    pub(super) fn enter(&self, cx: &CallCx, call: Call, id: Option<&str>, ops: &[WriteOp]) -> Result<()> {
        cx.check()?;
        let (number, latency) = {
            let mut state = self.state.lock();
            let script = state.call(call);
            script.seen += 1;
            (script.seen, script.latency)
        };
        self.ring();
        self.pass_gate(cx, call, Point::Before)?;
        if !latency.is_zero() {
            self.wait(cx, Some(cx.clock().now().after(latency)), || None::<()>)?;
        }
        let (fault, fail_when) = {
            let mut state = self.state.lock();
            if state.offline {
                return Err(offline());
            }
            let fail_when = state.fail_when.clone();
            let script = state.call(call);
            (take_next(&mut script.next).or_else(|| script.always.clone().map(Fault::Error)), fail_when)
        };
        match fault {
            Some(Fault::Error(error)) => return Err(error),
            Some(Fault::Panic) => panic_as_told(call),
            None => {}
        }
        let seen = SeenCall { call, number, id, ops, attempt: cx.attempt(), idempotency_key: cx.idempotency_key() };
        if let Some(error) = fail_when.and_then(|fail_when| fail_when(&seen)) {
            return Err(error);
        }
        cx.check()
    }

    /// What happens between a call's work and its answer.
    pub(super) fn leave(&self, cx: &CallCx, call: Call) -> Result<()> {
        self.pass_gate(cx, call, Point::Answer)?;
        match take_next(&mut self.state.lock().call(call).lost) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    pub(super) fn is_offline(&self) -> bool {
        self.state.lock().offline
    }

    pub(super) fn set_offline(&self, offline: bool) {
        self.state.lock().offline = offline;
        self.ring();
    }

    pub(super) fn set_latency(&self, call: Call, latency: Duration) {
        self.state.lock().call(call).latency = latency;
    }

    pub(super) fn set_latency_of_all(&self, latency: Duration) {
        let mut state = self.state.lock();
        for call in &mut state.calls[..Call::NextChange as usize] {
            call.latency = latency;
        }
    }

    pub(super) fn fail_next(&self, call: Call, times: u64, error: Error) {
        if times > 0 {
            self.state.lock().call(call).next.push_back((times, Fault::Error(error)));
        }
    }

    pub(super) fn panic_next(&self, call: Call) {
        self.state.lock().call(call).next.push_back((1, Fault::Panic));
    }

    pub(super) fn lose_next_answers(&self, call: Call, times: u64, error: Error) {
        if times > 0 {
            self.state.lock().call(call).lost.push_back((times, error));
        }
    }

    pub(super) fn fail_always(&self, call: Call, error: Error) {
        self.state.lock().call(call).always = Some(error);
    }

    pub(super) fn fail_when(&self, fail_when: FailWhen) {
        let old = self.state.lock().fail_when.replace(fail_when);
        drop(old);
    }

    pub(super) fn heal(&self) {
        let old = {
            let mut state = self.state.lock();
            for call in &mut state.calls {
                call.next.clear();
                call.lost.clear();
                call.always = None;
            }
            state.fail_when.take()
        };
        drop(old);
        self.set_offline(false);
    }

    pub(super) fn calls(&self, call: Call) -> u64 {
        self.state.lock().call(call).seen
    }

    /// Blocks until `ready` says yes, up to `timeout` of real time.
    pub(super) fn wait_in_test(&self, timeout: Duration, ready: impl Fn() -> bool) -> bool {
        let clock = Clock::system();
        let until = clock.now().after(timeout);
        let answer = self.wait(&CallCx::on(clock), Some(until), || ready().then_some(()));
        matches!(answer, Ok(Some(())))
    }
}

pub(super) fn offline() -> Error {
    Error::new(ErrorKind::Unavailable, "the source can't be reached; it is scripted to be offline")
}

#[expect(clippy::panic, reason = "a script asks for exactly this panic, to test what the caller makes of it")]
fn panic_as_told(call: Call) -> ! {
    panic!("the source's `{call}` panics, as its script says")
}

/// Holds the calls of one kind until it is released or dropped. Several guards for one call hold until the last is gone.
#[must_use = "the calls go on when the guard is dropped"]
pub struct HoldGuard {
    script: Arc<Script>,
    call: Call,
    point: Point,
}

impl HoldGuard {
    pub(super) fn new(script: Arc<Script>, call: Call, point: Point) -> Self {
        script.state.lock().gate(call, point).holders += 1;
        HoldGuard { script, call, point }
    }

    /// How many calls are inside now.
    pub fn held(&self) -> usize {
        self.script.state.lock().gate(self.call, self.point).inside
    }

    /// Blocks until at least `count` calls are inside, up to `timeout` of real time; whether they came.
    pub fn wait_until_held(&self, count: usize, timeout: Duration) -> bool {
        self.script.wait_in_test(timeout, || self.held() >= count)
    }

    /// Lets one call through, the next to come if none is inside.
    pub fn let_one_pass(&self) {
        self.script.state.lock().gate(self.call, self.point).passes += 1;
        self.script.ring();
    }

    /// Lets all go on.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        {
            let mut state = self.script.state.lock();
            let gate = state.gate(self.call, self.point);
            gate.holders -= 1;
            if gate.holders == 0 {
                gate.passes = 0;
            }
        }
        self.script.ring();
    }
}

impl fmt::Debug for HoldGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldGuard").field("call", &self.call).field("held", &self.held()).finish()
    }
}
