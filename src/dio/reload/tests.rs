//! Who asks the source when a row is to be read again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::prelude::*;
use crate::sources::memory::Call;
use crate::sync::may_wait_for;
use crate::vista::{CallCx, Capabilities, QueryDescriptor, Schema, TableShell, Written};

const SOON: Duration = Duration::from_secs(20);

/// Notes whether it was asked by whoever is the core, who may wait for nobody.
struct Watched {
    source: MemoryVista,
    asked_by_the_core: Arc<AtomicBool>,
}

impl Watched {
    fn note(&self) {
        if may_wait_for(Rank::new(0, Role::Core), "the core of a Dio").is_err() {
            self.asked_by_the_core.store(true, Ordering::Relaxed);
        }
    }
}

impl TableShell for Watched {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn source_key(&self) -> String {
        self.note();
        self.source.source_key()
    }

    fn schema(&self) -> Arc<Schema> {
        self.note();
        self.source.schema()
    }

    fn capabilities(&self) -> Capabilities {
        self.note();
        self.source.capabilities()
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        self.note();
        self.source.list(cx, query)
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        self.note();
        self.source.get(cx, id)
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.note();
        self.source.patch(cx, id, record)
    }
}

#[test]
fn the_source_is_asked_nothing_by_the_core() {
    for get in [true, false] {
        let row = |n: i64| record! { "id" => "a", "n" => n };
        let source = MemoryVista::new("t", "id").with_rows([("a", row(1))]);
        let source = source.with_capabilities(Capabilities { get, ..Capabilities::read_write() });
        let asked_by_the_core = Arc::<AtomicBool>::default();
        let lens = Lens::new().in_memory().build().unwrap();
        let watched = Watched { source: source.clone(), asked_by_the_core: asked_by_the_core.clone() };
        let dio = lens.make_dio(Vista::new(watched)).unwrap();
        let view = dio.record_scenery("a").unwrap();
        source.outside_silently().upsert("a", row(2)).unwrap();
        source.fail_next(Call::Patch, 1, Error::new(ErrorKind::Conflict, "somebody else has changed it"));
        dio.write(WriteOp::patch("a", record! { "n" => 3 })).unwrap().wait(SOON).unwrap_err();
        // The core has the row read again that somebody else has changed.
        let mut seen = Generation(0);
        while view.record().unwrap().int("n") != Some(2) {
            seen = view.wait_for_change(seen, Some(SOON)).unwrap();
        }
        assert!(!asked_by_the_core.load(Ordering::Relaxed), "get: {get}");
    }
}
