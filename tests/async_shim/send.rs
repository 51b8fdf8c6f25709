//! Compile-time checks: every type goes to another thread, and so does every future.

use std::time::Duration;

use diorama::QueryDescriptor;
use diorama::async_shim::{ChangeSets, EventStream, Generations, wait_any};
use diorama::prelude::*;
use diorama::{
    AsyncCacheHandle, AsyncDio, AsyncDraft, AsyncImport, AsyncLens, AsyncRecordScenery, AsyncTableScenery,
    AsyncTableSceneryBuilder, AsyncTypedDio, AsyncTypedRecord, AsyncTypedTable, AsyncTypedTableBuilder,
    AsyncValueScenery, AsyncValueSceneryBuilder, AsyncVista, AsyncWriteTicket,
};

use crate::executors::lens;
use crate::support::*;

#[test]
fn every_type_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    fn handle<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    handle::<AsyncLens>();
    handle::<AsyncDio>();
    handle::<AsyncCacheHandle>();
    handle::<AsyncVista>();
    handle::<AsyncWriteTicket>();
    handle::<AsyncTableScenery>();
    handle::<AsyncTableSceneryBuilder>();
    handle::<AsyncRecordScenery>();
    handle::<AsyncValueScenery>();
    handle::<AsyncDraft>();
    handle::<AsyncTypedDio<Row>>();
    handle::<AsyncTypedTable<Row>>();
    handle::<AsyncTypedRecord<Row>>();
    shared::<AsyncTypedTableBuilder<Row>>();
    shared::<AsyncValueSceneryBuilder>();
    shared::<Generations<Draft>>();
    shared::<Generations<TableScenery>>();
    shared::<Generations<RecordScenery>>();
    shared::<Generations<ValueScenery>>();
    shared::<ChangeSets>();
    fn goes<T: Send + Unpin + 'static>() {}
    goes::<EventStream>();
    goes::<Generations<TableScenery>>();
    goes::<ChangeSets>();
    goes::<AsyncImport<std::vec::IntoIter<(String, Record)>>>();
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Row {
    id: String,
}

/// A future that can go to another thread. It is dropped, and does nothing before it is polled.
fn goes<F: Future + Send>(future: F) {
    drop(future);
}

#[test]
fn every_future_can_go_to_another_thread() {
    let lens: AsyncLens = pollster::block_on(lens(Lens::new().in_memory()));
    let dio: AsyncDio = pollster::block_on(lens.make_dio(products("send"))).unwrap();
    let op = || WriteOp::patch("a", record! { "price" => 1 });
    goes(AsyncLens::build(Lens::new().in_memory()));
    goes(lens.make_dio(products("send-too")));
    goes(lens.forget("nothing"));
    goes(lens.close(Duration::ZERO));

    goes(dio.write(op()));
    goes(dio.try_write(op()));
    goes(dio.write_batch(vec![op()]));
    goes(dio.retry_failed(diorama::WriteNumber(1), None));
    goes(dio.drop_write(diorama::WriteNumber(1)));
    goes(dio.wait_for_writes());
    goes(dio.refresh());
    goes(dio.reconcile(Vec::new()));
    goes(dio.reconcile_as_of(Seq(0), Vec::new()));
    goes(dio.patched("a", record! {}));
    goes(dio.handle_event(ChangeEvent::Invalidated));
    goes(dio.wait_for_seq(Seq(u64::MAX)));
    goes(dio.flush());
    goes(dio.close(Duration::ZERO));
    goes(dio.record_scenery("a"));
    goes(dio.record_scenery_with("a", record! {}));

    let cache = dio.cache();
    goes(cache.get("a"));
    goes(cache.list());
    goes(cache.count());
    goes(cache.insert("a", record! {}));
    goes(cache.remove("a"));
    goes(cache.clear());
    goes(cache.insert_many(Vec::new()));

    for vista in [dio.vista(), dio.master()] {
        goes(vista.list_values());
        goes(vista.list_window(0, 1));
        goes(vista.list_page(None, 1));
        goes(vista.list_query(QueryDescriptor::new()));
        goes(vista.page_query(QueryDescriptor::new(), None, 1));
        goes(vista.count_query(QueryDescriptor::new()));
        goes(vista.batch(vec![op()]));
        goes(vista.get_value("a"));
        goes(vista.get_count());
        goes(vista.write(op()));
        goes(vista.insert_value(None, record! {}));
        goes(vista.replace_value("a", record! {}));
        goes(vista.upsert_value("a", record! {}));
        goes(vista.patch_value("a", record! {}));
        goes(vista.delete("a"));
        goes(vista.delete_all());
    }

    goes(dio.table_scenery().open());
    goes(dio.table_scenery().open_now());
    goes(dio.value_scenery().count().open());
    goes(dio.value_scenery().count().open_now());
    let view = pollster::block_on(dio.table_scenery().open()).unwrap();
    goes(view.wait_for_generation(Generation(0)));
    goes(view.wait_for_change(Generation(0)));
    goes(view.wait_until_ready());
    goes(view.wait_for_first_rows());
    goes(view.row(0));
    goes(view.rows(0..1));
    goes(view.position_of("a"));
    let record = pollster::block_on(dio.record_scenery("a")).unwrap();
    goes(record.wait_for_generation(Generation(0)));
    goes(record.wait_for_change(Generation(0)));
    let value = pollster::block_on(dio.value_scenery().count().open()).unwrap();
    goes(value.wait_for_generation(Generation(0)));
    goes(value.wait_for_change(Generation(0)));
    goes(value.wait_for_seq(Seq(0)));
    goes(value.wait_until_ready());
    goes(wait_any(&[(&view, Generation(0)), (&record, Generation(0)), (&value, Generation(0))]));

    let rows = dio.typed::<Row>();
    let row = Row { id: "a".to_owned() };
    goes(rows.get("a"));
    goes(rows.list());
    goes(rows.insert(&row));
    goes(rows.insert_as("a", &row));
    goes(rows.replace("a", &row));
    goes(rows.upsert("a", &row));
    goes(rows.patch("a", &row));
    goes(rows.delete("a"));
    goes(rows.record_scenery("a"));
    goes(rows.table_scenery().open());
    goes(rows.table_scenery().open_now());
    let typed_view = pollster::block_on(rows.table_scenery().open()).unwrap();
    goes(typed_view.row(0));
    goes(typed_view.rows(0..1));
    goes(view.rows_of(&view.snapshot(), 0..1));

    goes(dio.draft("a"));
    goes(dio.draft_new());
    let draft = pollster::block_on(dio.draft("a")).unwrap();
    goes(draft.save());
    goes(draft.save_as_new());
    goes(draft.wait_for_change(Generation(0)));
    let mut import = dio.import(Vec::<(String, Record)>::new());
    goes(import.step());
    goes(import.run());

    goes(dio.write_durable(op()));
    let ticket = pollster::block_on(dio.write(op())).unwrap();
    goes(ticket.wait());
    goes(ticket.wait_durable());
    // What was not polled was not done.
    pollster::block_on(ticket.wait()).unwrap();
    assert_eq!((dio.status().pending_writes, dio.status().rows), (0, 3));
    assert!(dio.failed_writes().is_empty());
}
