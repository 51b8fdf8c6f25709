//! Storage: a cache backend over another whose calls fail, panic or wait when a test says so.
//!
//! `FaultyBackend` of the library fails at the n-th call of any kind; this one is told by the kind of call.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use diorama::cache::{CacheBackend, CacheBatch, CacheTable, MemoryBackend};
use diorama::{Error, ErrorKind, Result, RowNo};

/// How long a call is waited for.
const SOON: Duration = Duration::from_secs(60);

/// A call of the storage contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Storage {
    OpenTable,
    ForgetTable,
    Sync,
    Apply,
    Get,
    GetMany,
    Lookup,
    /// A look-up of this id.
    LookupOf(&'static str),
    Scan,
    ScanIds,
    Count,
    Meta,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Error,
    Panic,
}

#[derive(Default)]
struct Call {
    seen: u64,
    fault: Option<Fault>,
    holders: usize,
    inside: usize,
}

#[derive(Default)]
struct Script {
    calls: Mutex<HashMap<Storage, Call>>,
    changed: Condvar,
}

impl Script {
    fn change<T>(&self, call: Storage, change: impl FnOnce(&mut Call) -> T) -> T {
        let answer = change(self.calls.lock().unwrap().entry(call).or_default());
        self.changed.notify_all();
        answer
    }

    /// The look-ups of this id alone, if a test said something of them.
    fn told_of(&self, id: &str) -> Option<Storage> {
        let calls = self.calls.lock().unwrap();
        calls.keys().copied().find(|call| matches!(call, Storage::LookupOf(told) if *told == id))
    }

    fn run<T>(&self, call: Storage, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.change(call, |state| {
            state.seen += 1;
            state.inside += 1;
        });
        let calls = self.calls.lock().unwrap();
        let mut calls = self.changed.wait_while(calls, |calls| calls[&call].holders > 0).unwrap();
        let state = calls.entry(call).or_default();
        state.inside -= 1;
        let fault = state.fault;
        drop(calls);
        match fault {
            None => work(),
            Some(Fault::Error) => Err(Error::new(ErrorKind::Cache, format!("the storage's `{call:?}` fails as told"))),
            Some(Fault::Panic) => panic!("the storage's `{call:?}` panics as told"),
        }
    }
}

/// Another backend, with a script.
pub(crate) struct ScriptedBackend {
    inner: Arc<dyn CacheBackend>,
    script: Arc<Script>,
}

/// Calls of one kind wait until this is dropped.
pub(crate) struct Held {
    script: Arc<Script>,
    call: Storage,
}

impl ScriptedBackend {
    pub(crate) fn new(inner: Arc<dyn CacheBackend>) -> Arc<Self> {
        Arc::new(ScriptedBackend { inner, script: Arc::default() })
    }

    pub(crate) fn in_memory() -> Arc<Self> {
        Self::new(MemoryBackend::new())
    }

    /// Has every call of this kind wait before it does anything.
    pub(crate) fn hold(&self, call: Storage) -> Held {
        self.script.change(call, |state| state.holders += 1);
        Held { script: self.script.clone(), call }
    }

    /// Has every call of this kind fail before it does anything, until [`heal`](Self::heal).
    pub(crate) fn fail(&self, call: Storage, fault: Fault) {
        self.script.change(call, |state| state.fault = Some(fault));
    }

    pub(crate) fn heal(&self) {
        self.script.calls.lock().unwrap().values_mut().for_each(|call| call.fault = None);
    }

    /// How many calls of this kind have come in.
    pub(crate) fn calls(&self, call: Storage) -> u64 {
        self.script.change(call, |state| state.seen)
    }
}

impl Held {
    /// Blocks until this many calls wait.
    pub(crate) fn wait_until_held(&self, wanted: usize) {
        let calls = self.script.calls.lock().unwrap();
        let is_missing = |calls: &mut HashMap<Storage, Call>| calls[&self.call].inside < wanted;
        let (calls, timeout) = self.script.changed.wait_timeout_while(calls, SOON, is_missing).unwrap();
        drop(calls);
        assert!(!timeout.timed_out(), "nobody calls the storage's `{:?}`", self.call);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.script.change(self.call, |state| state.holders -= 1);
    }
}

impl CacheBackend for ScriptedBackend {
    fn open_table(&self, name: &str) -> Result<Arc<dyn CacheTable>> {
        let inner = self.script.run(Storage::OpenTable, || self.inner.open_table(name))?;
        Ok(Arc::new(ScriptedTable { inner, script: self.script.clone() }))
    }

    fn tables(&self) -> Result<Vec<String>> {
        self.inner.tables()
    }

    fn forget_table(&self, name: &str) -> Result<()> {
        self.script.run(Storage::ForgetTable, || self.inner.forget_table(name))
    }

    fn sync(&self) -> Result<()> {
        self.script.run(Storage::Sync, || self.inner.sync())
    }

    fn location(&self) -> Option<PathBuf> {
        self.inner.location()
    }

    fn file_size(&self) -> Result<u64> {
        self.inner.file_size()
    }

    fn warnings(&self) -> Vec<Error> {
        self.inner.warnings()
    }
}

struct ScriptedTable {
    inner: Arc<dyn CacheTable>,
    script: Arc<Script>,
}

impl CacheTable for ScriptedTable {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn apply(&self, batch: &CacheBatch) -> Result<()> {
        self.script.run(Storage::Apply, || self.inner.apply(batch))
    }

    fn get(&self, row: RowNo) -> Result<Option<Arc<[u8]>>> {
        self.script.run(Storage::Get, || self.inner.get(row))
    }

    fn get_many(&self, rows: &[RowNo], found: &mut dyn FnMut(usize, Option<&[u8]>)) -> Result<()> {
        self.script.run(Storage::GetMany, || self.inner.get_many(rows, found))
    }

    fn lookup(&self, id: &str) -> Result<Option<RowNo>> {
        let of_id = self.script.told_of(id);
        self.script.run(of_id.unwrap_or(Storage::Lookup), || self.inner.lookup(id))
    }

    fn scan(&self, from: RowNo, each: &mut dyn FnMut(RowNo, &[u8]) -> ControlFlow<()>) -> Result<()> {
        self.script.run(Storage::Scan, || self.inner.scan(from, each))
    }

    fn scan_ids(&self, each: &mut dyn FnMut(&str, RowNo) -> ControlFlow<()>) -> Result<()> {
        self.script.run(Storage::ScanIds, || self.inner.scan_ids(each))
    }

    fn count(&self) -> Result<u64> {
        self.script.run(Storage::Count, || self.inner.count())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.script.run(Storage::Meta, || self.inner.meta(key))
    }
}
