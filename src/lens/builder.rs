//! Lens builder: settings in, a checked Lens out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::DeliveryPolicy;
use crate::cache::{CacheBackend, MemoryBackend};
use crate::clock::Clock;
use crate::dio::Dio;
use crate::lens::conflict::{Conflict, ConflictPolicy, Resolution, WriteRequest};
use crate::lens::{Lens, LensCallbacks, LensDefaults};
use crate::vista::{ChangeEvent, QueryDescriptor, Written};
use crate::{Error, ErrorKind, Result};

enum CacheChoice {
    At(PathBuf),
    Backend(Arc<dyn CacheBackend>),
}

/// Builds a [`Lens`]: where the cache lives, which callbacks run, how often to refresh.
#[must_use = "a Lens is made by `build`"]
pub struct LensBuilder {
    name: Option<String>,
    cache: Option<CacheChoice>,
    pub(crate) callbacks: LensCallbacks,
    defaults: LensDefaults,
    clock: Clock,
}

impl std::fmt::Debug for LensBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LensBuilder")
            .field("name", &self.name)
            .field("callbacks", &self.callbacks)
            .field("defaults", &self.defaults)
            .finish_non_exhaustive()
    }
}

impl LensBuilder {
    pub(crate) fn new() -> Self {
        LensBuilder {
            name: None,
            cache: None,
            callbacks: LensCallbacks::default(),
            defaults: LensDefaults::default(),
            clock: Clock::system(),
        }
    }

    /// The Lens's name, which begins the names of its threads. Default: `lens-N`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Keeps the cache in LMDB in this directory, which is created when it is missing. Two Lenses on one path share it.
    /// Needs the feature `lmdb`.
    pub fn cache_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = Some(CacheChoice::At(path.into()));
        self
    }

    /// Keeps the cache in memory: nothing survives the Lens.
    pub fn in_memory(self) -> Self {
        self.cache_source(MemoryBackend::new())
    }

    /// Keeps the cache in this backend.
    pub fn cache_source(mut self, backend: Arc<dyn CacheBackend>) -> Self {
        self.cache = Some(CacheChoice::Backend(backend));
        self
    }

    /// Fills the cache when a Dio starts, in the place of copying the source. What it does through the Dio's `cache()` is
    /// applied when it returns `Ok`, and dropped when it fails.
    pub fn on_start(mut self, callback: impl Fn(&Dio) -> Result<()> + Send + Sync + 'static) -> Self {
        self.callbacks.on_start = Some(Arc::new(callback));
        self
    }

    /// Whether `make_dio` waits for the first copy when the cache is not complete. Default: yes.
    pub fn on_start_blocking(mut self, blocking: bool) -> Self {
        self.defaults.on_start_blocking = blocking;
        self
    }

    /// Refreshes the cache, in the place of copying the source. As [`on_start`](Self::on_start), whose part it takes too
    /// where that is not set, unless rows come by [`on_query`](Self::on_query).
    pub fn on_refresh(mut self, callback: impl Fn(&Dio) -> Result<()> + Send + Sync + 'static) -> Self {
        self.callbacks.on_refresh = Some(Arc::new(callback));
        self
    }

    /// Brings the rows of one query into the cache, for a source too large to copy: rows come when a query asks for them. The
    /// callback brings every row for which the query's conditions and search hold;
    /// [`replace_matching`](crate::CacheHandle::replace_matching) is made for it. Order and window are the views' own, and not
    /// in the query. `Ok` says that the query is answered. As [`on_start`](Self::on_start); on a load thread of the Lens (four at
    /// the most), or on the thread of the library that waits for the rows.
    ///
    /// With it, and without `on_start`, `make_dio` copies nothing, and the cache stays incomplete. A view that is opened, or asked
    /// for other conditions or another search, and the reads of [`Dio::vista`] ask for their query; `open` and the facade wait
    /// for the answer and then answer from the cache. `open_now` shows what the cache has, as
    /// [`Loading`](crate::LoadState::Loading), until the answer is there; if the source can't be asked, it says
    /// [`Failed`](crate::LoadState::Failed) and keeps what it shows.
    ///
    /// A query is under way once, however many ask. One whose rows an answered query has brought already (the same, or one
    /// that asks for more) is not asked, until a refresh: [`Dio::refresh`], [`Dio::invalidate_all`] and
    /// [`refresh_every`](Self::refresh_every) don't copy the source then, but ask again for what the open views show, and forget
    /// what else was answered. What fails is forgotten at once: who asks next asks the source. A new run remembers rows, not
    /// what was answered.
    ///
    /// With `on_start` or [`on_refresh`](Self::on_refresh) beside it, those do what they do without it, but what they put is taken
    /// for the whole of the source only if they say so, by `clear` or [`Dio::reconcile`]: over a whole copy nothing is asked.
    ///
    /// ```
    /// use diorama::prelude::*;
    ///
    /// let rows = [("00M", "MS"), ("DAL", "TX"), ("AUS", "TX")].map(|(id, state)| (id, record! { "state" => state }));
    /// let airports = Lens::new()
    ///     .in_memory()
    ///     .on_query(|dio, query| {
    ///         let rows = dio.master().list_query(&CallCx::new(), query)?;
    ///         dio.cache().replace_matching(query, rows)
    ///     })
    ///     .build()?
    ///     .make_dio(MemoryVista::new("airports", "id").with_rows(rows))?;
    /// assert_eq!(airports.cache().count()?, 0);
    ///
    /// let texan = airports.table_scenery().where_eq("state", "TX").open()?;
    /// assert_eq!((texan.row_count(), airports.cache().count()?), (2, 2));
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn on_query(mut self, callback: impl Fn(&Dio, &QueryDescriptor) -> Result<()> + Send + Sync + 'static) -> Self {
        self.callbacks.on_query = Some(Arc::new(callback));
        self
    }

    /// Reads the source again this often; the first time after one interval. Default: only when asked.
    pub fn refresh_every(mut self, interval: Duration) -> Self {
        self.defaults.refresh_every = Some(interval);
        self
    }

    /// How long each call that a Dio makes to its source may take, on the Lens's clock: a copy of the whole source, the re-read
    /// of a row, one delivery of a write. `None`: as long as it likes. Default: 5 minutes. A call that is told so by its
    /// [`CallCx`](crate::vista::CallCx) ends with `Timeout`: a refresh fails and is tried again when due, a write fails. Calls
    /// that callbacks make carry the context which those give them.
    ///
    /// A source whose whole list takes longer needs more than the default.
    pub fn source_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.defaults.source_timeout = timeout.into();
        self
    }

    /// Delivers writes, in the place of handing them to the source. `dio.master().write(&cx, op)` does what the default
    /// does; the [`WriteRequest`] stands for the write, and has its key, its attempt and the row before it. An `Ok` says that
    /// the source has the write.
    pub fn on_write(
        mut self,
        callback: impl Fn(&Dio, &WriteRequest<'_>) -> Result<Written> + Send + Sync + 'static,
    ) -> Self {
        self.callbacks.on_write = Some(Arc::new(callback));
        self
    }

    /// What wins when a row was changed at the source after the user of a write last saw it. Default:
    /// [`ConflictPolicy::MineWins`].
    pub fn conflicts(mut self, policy: ConflictPolicy) -> Self {
        self.defaults.conflicts = policy;
        self
    }

    /// Decides over each write in conflict, in the place of a policy; also over an insert whose id the source has already.
    /// Runs on the writer's thread; an error rejects the write. As [`on_start`](Self::on_start).
    ///
    /// What it decides is not kept. If the source's answer is lost, or the program ends before it comes, the write is delivered
    /// again as it was made, and this is asked again about the row as it is then. A source with
    /// [`idempotent_writes`](crate::vista::Capabilities::idempotent_writes) does it once all the same, and the first answer
    /// counts. At any other, [`current`](Conflict::current) may hold what this made of the write before: decide so that doing
    /// it twice does no harm, say by setting a value rather than by adding to it.
    pub fn on_conflict(
        mut self,
        callback: impl Fn(&Dio, &Conflict<'_>) -> Result<Resolution> + Send + Sync + 'static,
    ) -> Self {
        self.callbacks.on_conflict = Some(Arc::new(callback));
        self
    }

    /// Takes in changes from outside, in the place of applying them. As [`on_start`](Self::on_start).
    pub fn on_event(mut self, callback: impl Fn(&Dio, ChangeEvent) -> Result<()> + Send + Sync + 'static) -> Self {
        self.callbacks.on_event = Some(Arc::new(callback));
        #[cfg(feature = "async")]
        {
            self.callbacks.on_event_is_async = false;
        }
        self
    }

    /// How many writes may wait or be under way in each Dio. Default: 1,024.
    pub fn write_queue_capacity(mut self, writes: usize) -> Self {
        self.defaults.write_queue_capacity = writes;
        self
    }

    /// How long `write` waits for room in a full queue. Default: 30 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.write_timeout = timeout;
        self
    }

    /// How many bytes of writes that are not over the journal beside a cache on a disk may hold; beyond that writes wait, or
    /// are refused with `Full`. Lenses on one cache share the journal, and the greatest capacity holds. Default: 256 MiB.
    pub fn journal_capacity(mut self, bytes: u64) -> Self {
        self.defaults.journal_capacity = bytes;
        self
    }

    /// How writes are delivered: how often and when one that fails is tried again, how many go at once or in one call.
    /// Default: [`DeliveryPolicy::default`].
    pub fn delivery(mut self, policy: DeliveryPolicy) -> Self {
        self.defaults.delivery = policy;
        self
    }

    /// Bytes of overwritten rows that each Dio keeps for snapshots. Default: 64 MiB. With 0, rows overwritten after a
    /// snapshot was taken answer `Expired`.
    pub fn snapshot_budget(mut self, bytes: usize) -> Self {
        self.defaults.snapshot_budget = bytes;
        self
    }

    /// Bytes of decoded rows that each Dio keeps for reading. Default: 32 MiB.
    pub fn hot_tier_capacity(mut self, bytes: usize) -> Self {
        self.defaults.hot_tier_capacity = bytes;
        self
    }

    /// How many rows changed at once, by a refresh or a callback or [`insert_many`](crate::CacheHandle::insert_many), are a
    /// bulk change: it is taken in by and by, while edits of single rows go through, and shows in one step when all of it is
    /// there. Fewer are applied in one go. Default: 2,048.
    pub fn bulk_changes(mut self, rows: usize) -> Self {
        self.defaults.bulk_changes = rows;
        self
    }

    /// How many events a subscriber may be behind before it lags. Default: 1,024.
    pub fn event_capacity(mut self, events: usize) -> Self {
        self.defaults.event_capacity = events;
        self
    }

    /// How long dropping the last handle of a Dio waits for undelivered writes. Default: not at all where the journal keeps
    /// them (a cache on a disk), else 1 s.
    pub fn drop_timeout(mut self, timeout: Duration) -> Self {
        self.defaults.drop_timeout = Some(timeout);
        self
    }

    /// The clock for schedules, deadlines and fetch times. Default: the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the settings and opens the cache.
    ///
    /// # Errors
    /// `Invalid`, naming the setting; `Cache` when the cache can't be opened, with the cause.
    pub fn build(self) -> Result<Lens> {
        let Some(cache) = self.cache else {
            return Err(setting("cache_at", "a Lens needs a cache: call `cache_at`, `in_memory` or `cache_source`"));
        };
        let counts = [
            ("write_queue_capacity", self.defaults.write_queue_capacity),
            ("event_capacity", self.defaults.event_capacity),
            ("hot_tier_capacity", self.defaults.hot_tier_capacity),
            ("bulk_changes", self.defaults.bulk_changes),
        ];
        for (name, value) in counts {
            if value == 0 {
                return Err(setting(name, "it must not be zero"));
            }
        }
        if self.defaults.journal_capacity == 0 {
            return Err(setting("journal_capacity", "it must not be zero"));
        }
        if self.defaults.refresh_every.is_some_and(|interval| interval.is_zero()) {
            return Err(setting("refresh_every", "the interval must not be zero"));
        }
        self.defaults.delivery.check()?;
        #[cfg(feature = "tokio")]
        self.callbacks.runtime.check("tokio_handle")?;
        if self.defaults.source_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(setting("source_timeout", "no call ends in no time; for no limit, set `None`"));
        }
        let backend = match cache {
            CacheChoice::Backend(backend) => backend,
            CacheChoice::At(path) => open_at(path)?,
        };
        Lens::start(self.name, backend, self.callbacks, self.defaults, self.clock)
    }
}

#[cfg(feature = "lmdb")]
fn open_at(path: PathBuf) -> Result<Arc<dyn CacheBackend>> {
    let backend = crate::cache::LmdbBackend::open(&path).map_err(|error| error.with("setting", "cache_at"))?;
    Ok(backend)
}

#[cfg(not(feature = "lmdb"))]
fn open_at(path: PathBuf) -> Result<Arc<dyn CacheBackend>> {
    Err(Error::new(ErrorKind::Unsupported, "a cache on disk needs the feature `lmdb` of this library")
        .with("setting", "cache_at")
        .with("path", path.display().to_string()))
}

fn setting(name: &'static str, message: &str) -> Error {
    Error::new(ErrorKind::Invalid, message).with("setting", name)
}
