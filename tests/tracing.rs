//! E5: spans and events at debug level, and what they cost when nobody listens.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use diorama::prelude::*;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Id, Level, Metadata, Subscriber, span};

const SOON: Duration = Duration::from_secs(60);

static LISTENS: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicU64 = AtomicU64::new(1);
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Notes the names of spans, and messages of events, with the table they are about.
struct Listener;

#[derive(Default)]
struct Fields {
    message: String,
    table: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "table" => self.table = format!("{value:?}"),
            _ => {}
        }
    }
}

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::sometimes() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if LISTENS.load(Ordering::SeqCst) { LevelFilter::DEBUG } else { LevelFilter::WARN })
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if *metadata.level() >= Level::DEBUG && metadata.target().starts_with("diorama") {
            ASKED.fetch_add(1, Ordering::SeqCst);
        }
        self.wants(metadata)
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        SEEN.lock().unwrap().insert(format!("span {} of {}", span.metadata().name(), fields.table.replace('"', "")));
        Id::from_u64(NEXT.fetch_add(1, Ordering::SeqCst))
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        SEEN.lock().unwrap().insert(format!("event {}", fields.message));
    }

    fn record(&self, _: &Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Listener {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        LISTENS.load(Ordering::SeqCst) && *metadata.level() <= Level::DEBUG && metadata.target().starts_with("diorama")
    }
}

fn use_a_dio(table: &str) {
    let source = MemoryVista::new(table, "id").with_rows([("a", record! { "id" => "a", "n" => 1 })]);
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(source).unwrap();
    let _view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
    dio.write(WriteOp::upsert("b", record! { "id" => "b", "n" => 2 })).unwrap().wait(SOON).unwrap();
    dio.flush().unwrap();
    assert!(lens.close(SOON).unwrap().is_closed());
}

#[test]
fn e5_work_is_traced_at_debug_and_nobody_is_asked_when_it_is_off() {
    tracing::subscriber::set_global_default(Listener).unwrap();
    use_a_dio("unheard");
    assert_eq!(ASKED.load(Ordering::SeqCst), 0, "a level that is off is decided once for all, not at every batch");
    assert!(SEEN.lock().unwrap().is_empty(), "{SEEN:?}");

    LISTENS.store(true, Ordering::SeqCst);
    tracing::callsite::rebuild_interest_cache();
    use_a_dio("heard");
    let seen = SEEN.lock().unwrap().clone();
    for name in ["refresh", "deliver", "build", "store"] {
        assert!(seen.contains(&format!("span {name} of heard")), "no span {name} in {seen:?}");
    }
    for message in ["batch", "refreshed", "built", "delivered"] {
        assert!(seen.contains(&format!("event {message}")), "no event {message} in {seen:?}");
    }
}
