//! Making: from a source and a Lens to a Dio at work, and the end of its last thread.
//!
//! Flow: the cache table is claimed and read → a table of another source or schema is wiped → core and refresher start → the
//! first copy is asked for, unless rows come query by query.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::cache::CacheTable;
use crate::dio::core::{self, Core, Surroundings, TableState};
use crate::dio::hot_tier::HotTier;
use crate::dio::ledger::Ledger;
use crate::dio::queries::Queries;
use crate::dio::refresh::{self, Refresher};
use crate::dio::store::Store;
use crate::dio::versions::Versions;
use crate::dio::writer;
use crate::dio::{Dio, DioInner, EventHub, Failures, Handle, OPEN, StateBoard, WeakDio, WriteQueue, diagnostics, meta};
use crate::journal::Replay;
use crate::lens::{Lens, LensInner};
use crate::scenery::snapshot::RowReader;
use crate::sync::{self, Doorbell, Rank, Role, catch_user};
use crate::vista::{CancelToken, Vista};
use crate::{ConflictPolicy, Error, ErrorKind, Result, Seq};

/// Held by every thread of a Dio; its drop is the Dio's end. By then nothing else of the Dio may be left, so it holds what
/// it needs.
pub(crate) struct LastThread {
    lens: Arc<LensInner>,
    versions: Arc<Versions>,
    weak: WeakDio,
    store: Arc<Store>,
    ledger: Arc<Ledger>,
    table: Arc<str>,
}

impl Drop for LastThread {
    fn drop(&mut self) {
        self.ledger.close();
        self.store.release(&self.table);
        self.versions.detach();
        self.lens.leave(&self.table, &self.weak);
    }
}

impl DioInner {
    pub(crate) fn make(lens: &Lens, table_name: &str, master: Vista) -> Result<Dio> {
        let name: Arc<str> = Arc::from(table_name);
        let failed = |error: Error| error.with("table", table_name);
        let lens_inner = lens.inner();
        let store = lens_inner.store()?;
        let source = master.source_key();
        store.claim(table_name, lens_inner.id, &source, Rank::new(master.stack_level(), Role::Writer))?;
        let made = Self::start(lens, &store, name, master, &source).map_err(failed);
        if made.is_err() {
            store.release(table_name);
        }
        made
    }

    fn start(lens: &Lens, store: &Arc<Store>, name: Arc<str>, master: Vista, source: &str) -> Result<Dio> {
        let lens_inner = lens.inner();
        let defaults = &lens_inner.defaults;
        // An earlier Dio of this table may have left rows on their way to the disk.
        store.drain()?;
        let table = catch_user("the cache backend", || store.backend().open_table(&name)).and_then(|table| table)?;
        let schema = master.schema();
        let fingerprint = schema.fingerprint();
        let read = || read_state(lens_inner, store, &table, source, &fingerprint);
        let mut state = catch_user("the cache backend", read).and_then(|state| state)?;
        let callbacks = &lens_inner.callbacks;
        let is_warm = state.complete || (callbacks.on_query.is_some() && state.rows > 0);
        // Nothing copies the source, so an earlier run's copy doesn't pass for the whole for ever.
        state.complete &= callbacks.copies_at_start();

        let bell = Doorbell::new();
        let versions = Arc::new(Versions::new(table, state.seq, defaults.snapshot_budget, bell.clone()));
        let (core_handle, inboxes) = core::inboxes(bell);
        let events = Arc::new(EventHub::new(defaults.event_capacity));
        let board = StateBoard::new(&state, is_warm);
        let key = uuid::Uuid::now_v7();
        // A callback gets one write, and so does who decides over a conflict.
        let takes_batches = callbacks.on_write.is_none()
            && callbacks.on_conflict.is_none()
            && defaults.conflicts == ConflictPolicy::MineWins
            && master.capabilities().batch;
        let policy = match takes_batches {
            true => defaults.delivery.clone(),
            false => defaults.delivery.clone().batch(1),
        };
        let writes = WriteQueue::new(defaults.write_queue_capacity, policy, key.as_u64_pair().1);
        let failures = Arc::new(Failures::default());
        let ledger = Ledger::new(lens_inner.clone(), name.clone());
        let replay = ledger.recover(state.seq)?;
        let (refresher, refresh_inbox) = Refresher::new();
        let level = master.stack_level();
        let reader = Arc::new(RowReader {
            table: name.clone(),
            versions: versions.clone(),
            hot: HotTier::new(defaults.hot_tier_capacity),
        });
        let inner = Arc::new(DioInner {
            lens: lens_inner.clone(),
            master,
            name: name.clone(),
            schema,
            level,
            reader,
            core: core_handle.clone(),
            events: events.clone(),
            board: board.clone(),
            writes: writes.clone(),
            failures: failures.clone(),
            ledger: ledger.clone(),
            refresher,
            queries: callbacks.on_query.is_some().then(Queries::default),
            cancel: CancelToken::new(),
            phase: AtomicU8::new(OPEN),
            workers: Mutex::default(),
            writer_started: Mutex::new(false),
            handle: Mutex::default(),
            first_copy: Mutex::new(None),
            reloads: Mutex::new(HashSet::new()),
            next_view: AtomicU64::new(1),
            view_moves: Arc::default(),
            open_views: diagnostics::OpenViews::default(),
            last_thread: Mutex::new(None),
        });
        let dio = Dio { handle: Arc::new(Handle::new(inner.clone(), lens.clone(), true)) };
        let weak = dio.downgrade();
        *inner.handle.lock() = weak.clone();
        let last = Arc::new(LastThread {
            lens: lens_inner.clone(),
            versions: versions.clone(),
            weak: weak.clone(),
            store: store.clone(),
            ledger: ledger.clone(),
            table: name.clone(),
        });
        *inner.last_thread.lock() = Some(Arc::downgrade(&last));

        let mut core = Core::new(
            Surroundings {
                table_name: name.clone(),
                versions,
                store: store.clone(),
                events,
                board,
                writes,
                failures,
                ledger: ledger.clone(),
                build_pool: lens_inner.build_pool.clone(),
                load_pool: lens_inner.load_pool.clone(),
                bulk_changes: defaults.bulk_changes,
                build_rank: Rank::new(level, Role::Build),
                id_column: inner.schema.id_column().map(str::to_owned),
                key_prefix: key.simple().to_string(),
                write_rank: Rank::new(level, Role::Writer),
                reread: reread(&inner),
            },
            core_handle,
            state,
        );
        let has_pending = replay.as_ref().is_some_and(Replay::has_pending);
        if let Some(replay) = replay {
            for warning in &replay.warnings {
                lens_inner.warn(warning.clone().with("table", name.to_string()));
            }
            core.recover(replay)?;
        }
        if callbacks.copies_at_start() {
            let first_copy = inner.refresher.start()?;
            if !state.complete && defaults.on_start_blocking {
                *inner.first_copy.lock() = Some(first_copy);
            }
        }
        inner.start_thread("core", Role::Core, &last, move |_| core.run(inboxes))?;
        if has_pending {
            inner.start_writer(&weak)?;
        }
        let thread_handle = weak;
        inner.start_thread("refresh", Role::Refresh, &last, move |dio| {
            refresh::run(&dio, &thread_handle, &refresh_inbox);
        })?;
        Ok(dio)
    }

    fn start_thread(
        self: &Arc<Self>,
        role_name: &str,
        role: Role,
        last: &Arc<LastThread>,
        work: impl FnOnce(Arc<DioInner>) + Send + 'static,
    ) -> Result<()> {
        let (dio, last) = (self.clone(), last.clone());
        let worker = sync::spawn(format!("{}:{role_name}", self.name), Rank::new(self.level, role), move || {
            work(dio);
            drop(last);
        })?;
        self.add_worker(worker);
        Ok(())
    }

    /// Starts the writers' threads at the first write.
    pub(crate) fn start_writer(self: &Arc<Self>, handle: &WeakDio) -> Result<()> {
        let mut started = self.writer_started.lock();
        if *started {
            return Ok(());
        }
        let last = self.last_thread.lock().as_ref().and_then(Weak::upgrade);
        let (Some(last), true) = (last, self.is_open()) else {
            return Err(Error::new(ErrorKind::Closed, "the Dio is closed"));
        };
        self.ledger.open_to_write()?;
        // A closing doesn't wait for the disk.
        if !self.is_open() {
            return Err(Error::new(ErrorKind::Closed, "the Dio is closed"));
        }
        let writers = self.writes.writers();
        for number in 1..=writers {
            let name = if writers == 1 { "writer".to_owned() } else { format!("writer-{number}") };
            let handle = handle.clone();
            self.start_thread(&name, Role::Writer, &last, move |dio| writer::run(&dio, &handle))?;
        }
        *started = true;
        Ok(())
    }
}

/// How the core has rows read again.
fn reread(dio: &Arc<DioInner>) -> core::Reread {
    let dio = Arc::downgrade(dio);
    Box::new(move |id| match (dio.upgrade(), id) {
        (Some(dio), Some(id)) => dio.reload_behind(id),
        (Some(dio), None) => dio.refresh_anew(),
        (None, _) => {}
    })
}

/// What the cache knows of the table. One that was filled from another source, or under another schema, is wiped.
fn read_state(
    lens: &LensInner,
    store: &Store,
    table: &Arc<dyn CacheTable>,
    source: &str,
    schema: &str,
) -> Result<TableState> {
    let number = |key: &str| -> Result<Option<u64>> { Ok(meta::read_number(table.meta(key)?)) };
    let text = |key: &str| -> Result<Option<String>> {
        Ok(table.meta(key)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let seq = Seq(number(meta::SEQ)?.unwrap_or(0));
    let next_row = number(meta::NEXT_ROW)?.unwrap_or(1);
    let (known_source, known_schema) = (text(meta::SOURCE)?, text(meta::SCHEMA)?);
    let differs = |known: &Option<String>, now: &str| known.as_deref().is_some_and(|known| known != now);
    let fresh = TableState { seq, next_row, ..TableState::default() };
    let identity = vec![(meta::SOURCE.to_owned(), Some(source.into())), (meta::SCHEMA.to_owned(), Some(schema.into()))];
    if differs(&known_source, source) || differs(&known_schema, schema) {
        let what = if differs(&known_source, source) { "source" } else { "schema" };
        let message = format!("the cached rows are of another {what}; they were dropped and are fetched again");
        let warning = Error::new(ErrorKind::Corrupt, message).with("table", table.name());
        tracing::warn!(%warning, "a cached table is rebuilt");
        lens.warn(warning);
        let mut table_meta = identity;
        table_meta.push((meta::COMPLETE.to_owned(), None));
        table_meta.push((meta::LAST_REFRESH.to_owned(), None));
        table_meta.push((meta::TOTAL.to_owned(), None));
        store.reset(table.clone(), true, table_meta)?;
        return Ok(fresh);
    }
    if known_source.is_none() || known_schema.is_none() {
        store.reset(table.clone(), false, identity)?;
    }
    Ok(TableState {
        rows: table.count()?,
        complete: number(meta::COMPLETE)?.is_some(),
        last_refresh: number(meta::LAST_REFRESH)?.map(|at| at as i64),
        total: number(meta::TOTAL)?,
        ..fresh
    })
}
