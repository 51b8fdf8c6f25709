//! Hot tier: decoded rows that all views of a Dio share, bounded by bytes.
//!
//! Owner: anyone reads and fills it; the cache inside evicts the least used.
//! Invariants: a row version never changes, so an entry is never stale: it is found by row number *and* version.
//! Not here: which version a view shows (`scenery`), raw bytes (`versions`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hashbrown::DefaultHashBuilder;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::value::{Record, StoredRow, Value};
use crate::{Result, RowNo, Seq};

/// A row with everything known about it beside its fields.
#[derive(Debug, Clone)]
pub struct EnrichedRecord {
    id: Arc<str>,
    record: Record,
    seq: Seq,
    row: RowNo,
    fetched_at: SystemTime,
    pub(crate) stale: bool,
    pub(crate) pending: bool,
}

/// The status byte of a stored row that awaits its re-read.
pub(crate) const STATUS_STALE: u8 = 1;
/// The status byte of a row that shows writes which are not settled. It never goes to the cache.
pub(crate) const STATUS_PENDING: u8 = 2;

impl EnrichedRecord {
    pub(crate) fn decode(row: RowNo, stored: &StoredRow) -> Result<Self> {
        Ok(EnrichedRecord {
            id: Arc::from(stored.id()),
            record: stored.to_record()?,
            seq: stored.seq(),
            row,
            fetched_at: time_of(stored.fetched_at()),
            stale: stored.status() == STATUS_STALE,
            pending: stored.status() == STATUS_PENDING,
        })
    }

    /// A row that came without the cache, handed to [`Dio::record_scenery_with`](crate::Dio::record_scenery_with).
    pub(crate) fn given(id: Arc<str>, record: Record, seq: Seq, fetched_at: SystemTime) -> Self {
        EnrichedRecord { id, record, seq, row: RowNo(0), fetched_at, stale: false, pending: false }
    }

    /// The row's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its fields.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The batch that made this version of the row.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The row's number: the order in which the source first gave its rows.
    pub fn row_no(&self) -> RowNo {
        self.row
    }

    /// When the row was fetched from the source.
    pub fn fetched_at(&self) -> SystemTime {
        self.fetched_at
    }
}

/// The moment that is this many milliseconds after (or before) the Unix epoch.
pub(crate) fn time_of(wall_ms: i64) -> SystemTime {
    let distance = Duration::from_millis(wall_ms.unsigned_abs());
    let time = if wall_ms < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<(RowNo, Seq), Arc<EnrichedRecord>> for ByBytes {
    fn weight(&self, _key: &(RowNo, Seq), row: &Arc<EnrichedRecord>) -> u64 {
        const ENTRY: u64 = 160;
        const FIELD: u64 = 88;
        let fields: u64 = row.record.iter().map(|(_, value)| FIELD + heap_bytes(value)).sum();
        ENTRY + row.id.len() as u64 + fields
    }
}

fn heap_bytes(value: &Value) -> u64 {
    match value {
        Value::Text(text) => text.len() as u64,
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::Tag(_, inner) => 32 + heap_bytes(inner),
        Value::Array(items) => items.iter().map(|item| 32 + heap_bytes(item)).sum(),
        Value::Map(entries) => entries.iter().map(|(key, value)| 64 + heap_bytes(key) + heap_bytes(value)).sum(),
        _ => 0,
    }
}

/// Decoded rows shared by all views of a Dio, bounded by bytes.
pub struct HotTier {
    cache: Cache<(RowNo, Seq), Arc<EnrichedRecord>, ByBytes, DefaultHashBuilder>,
}

impl std::fmt::Debug for HotTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HotTier").field("rows", &self.len()).field("bytes", &self.bytes()).finish()
    }
}

impl HotTier {
    /// A tier that holds at most `capacity` bytes of rows.
    pub(crate) fn new(capacity: usize) -> Self {
        const TYPICAL_ROW: usize = 600;
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        HotTier { cache: Cache::with(capacity / TYPICAL_ROW, capacity as u64, ByBytes, hasher, lifecycle) }
    }

    pub(crate) fn get(&self, row: RowNo, version: Seq) -> Option<Arc<EnrichedRecord>> {
        self.cache.get(&(row, version))
    }

    /// Decodes a row and keeps it.
    pub(crate) fn fill(&self, row: RowNo, stored: &StoredRow) -> Result<Arc<EnrichedRecord>> {
        let decoded = Arc::new(EnrichedRecord::decode(row, stored)?);
        self.cache.insert((row, stored.seq()), decoded.clone());
        Ok(decoded)
    }

    /// How many rows it holds.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// The bytes it holds, estimated.
    pub fn bytes(&self) -> usize {
        self.cache.weight() as usize
    }
}
