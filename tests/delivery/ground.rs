//! Ground: a source that fails as told and tells when it was called, a clock that the test moves, and tickets to look at.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use diorama::clock::{Clock, ManualClock, Moment};
use diorama::prelude::*;
use diorama::sources::memory::{Call, SeenCall};
use diorama::vista::Capabilities;
use diorama::{DeliveryPolicy, LensBuilder, WriteNumber, WriteState, WriteTicket};
use parking_lot::Mutex;

use crate::support::*;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A write call as the source saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Moment,
    pub(crate) call: Call,
    pub(crate) id: Option<String>,
    pub(crate) ops: Vec<WriteOp>,
    pub(crate) attempt: u32,
    pub(crate) key: String,
}

/// A source under a clock that the test moves.
pub(crate) struct Ground {
    pub(crate) source: MemoryVista,
    pub(crate) clock: Clock,
    pub(crate) hands: ManualClock,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Ground {
    pub(crate) fn new(source: MemoryVista) -> Self {
        let (clock, hands) = Clock::manual();
        let ground = Ground { source, clock, hands, seen: Arc::default() };
        ground.fails(|_, _| None);
        ground
    }

    /// Says which write calls fail: `decide` gets the call, and how many there were before of its kind and id.
    pub(crate) fn fails(&self, decide: impl Fn(&SeenCall<'_>, usize) -> Option<Error> + Send + Sync + 'static) {
        let (clock, seen) = (self.clock.clone(), self.seen.clone());
        let counts: Mutex<HashMap<(Call, Option<String>), usize>> = Mutex::default();
        self.source.fail_when(move |call| {
            if call.ops.is_empty() {
                return None;
            }
            let id = call.id.map(str::to_owned);
            let before = {
                let mut counts = counts.lock();
                let count = counts.entry((call.call, id.clone())).or_default();
                *count += 1;
                *count - 1
            };
            seen.lock().push(Seen {
                at: clock.now(),
                call: call.call,
                id,
                ops: call.ops.to_vec(),
                attempt: call.attempt,
                key: call.idempotency_key.unwrap_or_default().to_owned(),
            });
            decide(call, before)
        });
    }

    pub(crate) fn lens(&self, cache: &Cache) -> LensBuilder {
        cache.lens().clock(self.clock.clone())
    }

    /// A Dio over the source, in memory unless told otherwise.
    pub(crate) fn dio(&self, policy: DeliveryPolicy) -> (Lens, Dio) {
        self.dio_over(&Cache::memory(), policy)
    }

    pub(crate) fn dio_over(&self, cache: &Cache, policy: DeliveryPolicy) -> (Lens, Dio) {
        let lens = self.lens(cache).delivery(policy).build().unwrap();
        let dio = lens.make_dio(self.source.clone()).unwrap();
        (lens, dio)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// The write calls about this row.
    pub(crate) fn seen_of(&self, id: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.id.as_deref() == Some(id)).collect()
    }

    /// The moment that is so far from the clock's beginning.
    pub(crate) fn moment(&self, after: Duration) -> Moment {
        Moment::default().after(after)
    }
}

/// No chance in its waits: 1 s, 2 s, 4 s …, and an unavailable source is tried again after 30 s.
pub(crate) fn policy() -> DeliveryPolicy {
    DeliveryPolicy::default().jitter(0.0).first_delay(SECOND)
}

pub(crate) fn broken() -> Error {
    Error::new(ErrorKind::Source, "broken for now")
}

pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::Timeout, "no answer came")
}

pub(crate) fn refused() -> Error {
    Error::new(ErrorKind::Rejected, "not like this")
}

pub(crate) fn price(id: &str, price: i64) -> WriteOp {
    WriteOp::patch(id, record! { "price" => price })
}

/// Blocks until the write waits for exactly this moment; why.
pub(crate) fn waits_until(ticket: &WriteTicket, moment: Moment) -> Error {
    until(&format!("the write waits for {moment:?}"), || {
        let state = ticket.state();
        assert!(!state.has_ended(), "{state:?}");
        matches!(state, WriteState::Waiting { until, .. } if until == moment)
    });
    match ticket.state() {
        WriteState::Waiting { error, .. } => error,
        state => panic!("{state:?}"),
    }
}

/// Blocks until the write has ended.
pub(crate) fn ended(ticket: &WriteTicket) -> WriteState {
    let _ = ticket.wait(SOON);
    ticket.state()
}

pub(crate) fn confirmed(ticket: &WriteTicket) {
    if let Err(error) = ticket.wait(SOON) {
        panic!("{error}; {ticket:?}");
    }
}

pub(crate) fn rejected(ticket: &WriteTicket) -> Error {
    match ended(ticket) {
        WriteState::Rejected(error) => error,
        state => panic!("{state:?}"),
    }
}

pub(crate) fn superseded_by(ticket: &WriteTicket) -> WriteNumber {
    match ended(ticket) {
        WriteState::Superseded { by } => by,
        state => panic!("{state:?}"),
    }
}

/// All, but a write is not known by its key.
pub(crate) fn forgetful() -> Capabilities {
    Capabilities { idempotent_writes: false, batch: true, ..Capabilities::read_write() }
}

/// Fails the test if the view shows anything that is not confirmed, or another row than the source.
pub(crate) fn shows_the_source(dio: &Dio, source: &MemoryVista) {
    let view = dio.table_scenery().open().unwrap();
    let snapshot = view.snapshot();
    assert!(snapshot.iter().all(|row| row.status() == RowStatus::Fresh), "{:?}", prices(&snapshot));
    let mut shown: Vec<(String, Record)> =
        snapshot.iter().map(|row| (row.id().to_owned(), plain(row.record().unwrap().clone()))).collect();
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    let mut there: Vec<(String, Record)> = source.rows().into_iter().map(|(id, row)| (id, plain(row))).collect();
    there.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(shown, there);
}

/// The row without its id, and in one order of fields.
pub(crate) fn plain(row: Record) -> Record {
    let mut fields: Vec<(String, Value)> = row
        .iter()
        .filter(|(field, _)| *field != "id")
        .map(|(field, value)| (field.to_owned(), value.clone()))
        .collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields.into_iter().collect()
}

/// What a power cut leaves: the files as they are now, beside those that the running program goes on with.
#[cfg(feature = "lmdb")]
pub(crate) fn crashed(cache: &Cache) -> Cache {
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let after = Cache::disk();
    copy(&cache.path().unwrap(), &after.path().unwrap());
    after
}
