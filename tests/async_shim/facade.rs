//! X: the Dio as a source again, through futures.

use diorama::AsyncDio;
use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::executors::*;
use crate::source::{Point, ScriptedSource, Trouble};
use crate::support::*;

async fn dio_over(source: &ScriptedSource) -> AsyncDio {
    lens(Lens::new().in_memory()).await.make_dio(source.clone()).await.unwrap()
}

async fn x4_reads_answer_from_the_cache_also_offline() {
    let source = ScriptedSource::new(products("x4-reads"));
    let dio = dio_over(&source).await;
    for call in [Call::List, Call::Get, Call::Count, Call::Page] {
        source.always(call, Trouble::Fails(cut()));
    }
    let facade = dio.vista();
    assert_eq!(facade.list_values().await.unwrap().len(), 3);
    assert_eq!(facade.get_count().await.unwrap(), 3);
    assert_eq!(facade.get_value("a").await.unwrap().unwrap().int("price"), Some(30));
    assert_eq!(facade.get_value("nobody").await.unwrap(), None);
    assert_eq!(facade.list_window(1, 1).await.unwrap().len(), 1);
    let page = facade.list_page(None, 2).await.unwrap();
    assert_eq!(page.rows.len(), 2);
    assert_eq!(facade.list_page(page.next, 2).await.unwrap().rows.len(), 1);
    let query = || diorama::QueryDescriptor::new().sorted("price", SortDir::Asc);
    assert_eq!(facade.list_query(query()).await.unwrap()[0].0, "b");
    assert_eq!(facade.count_query(query().filtered(Condition::gt("price", 15))).await.unwrap(), 2);
    assert_eq!(facade.page_query(query(), None, 1).await.unwrap().rows[0].0, "b");
    let plain: &Vista = &facade;
    assert_eq!(
        facade.batch(Vec::new()).await.unwrap_err().to_string(),
        plain.batch(&CallCx::new(), &[]).unwrap_err().to_string()
    );
    let cheap = facade.narrowed(|vista| vista.add_condition(Condition::lt("price", 25)).map(drop)).unwrap();
    assert_eq!((cheap.get_count().await.unwrap(), facade.get_count().await.unwrap()), (2, 3));
    assert_eq!(dio.master().list_values().await.unwrap_err().kind(), ErrorKind::Unavailable, "past the cache");
}

async fn x4_writes_wait_for_their_settlement() {
    let source = ScriptedSource::new(products("x4-writes"));
    let dio = dio_over(&source).await;
    let facade = dio.vista();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    let mut write = begin(facade.patch_value("a", record! { "price" => 31 })).await;
    comes_true("it shows", || dio.status().pending_writes == 1).await;
    assert!(write.is_waiting().await, "the source has not confirmed it");
    held.wait_until_held(1);
    drop(held);
    let written = write.await.unwrap();
    assert_eq!((written.id.as_deref(), written.record.unwrap().int("price")), (Some("a"), Some(31)));

    source.next(Call::Upsert, Trouble::Fails(Error::new(ErrorKind::Rejected, "not like this")));
    let error = facade.upsert_value("d", product("Drum", 1)).await.unwrap_err();
    source.next(Call::Upsert, Trouble::Fails(Error::new(ErrorKind::Rejected, "not like this")));
    let plain: &Vista = &facade;
    let blocking = plain.upsert_value("d", &product("Drum", 1)).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Rejected, blocking.to_string()));
    facade.insert_value(Some("d".to_owned()), product("Drum", 2)).await.unwrap();
    facade.replace_value("d", product("Drum", 3)).await.unwrap();
    facade.delete("d").await.unwrap();
    let cheap = facade.narrowed(|vista| vista.add_condition(Condition::lt("price", 25)).map(drop)).unwrap();
    assert_eq!(cheap.delete_all().await.unwrap_err().kind(), ErrorKind::Invalid);
    facade.delete_all().await.unwrap();
    assert_eq!(facade.get_count().await.unwrap(), 0);

    // A write whose future is dropped is delivered all the same.
    let held = source.hold(Call::Upsert, Point::BeforeWork);
    let mut write = begin(facade.upsert_value("e", product("Echo", 1))).await;
    comes_true("it shows", || dio.status().pending_writes == 1).await;
    assert!(write.is_waiting().await);
    drop(write);
    drop(held);
    dio.wait_for_writes().await.unwrap();
    assert_eq!(facade.get_value("e").await.unwrap().unwrap().int("price"), Some(1));
}

async fn a_call_of_the_source_goes_past_the_cache_and_is_cancelled_with_its_future() {
    let source = ScriptedSource::new(products("master"));
    let dio = dio_over(&source).await;
    let master = dio.master();
    master.upsert_value("d", product("Drum", 1)).await.unwrap();
    assert_eq!(master.get_count().await.unwrap(), 4);
    assert_eq!(dio.cache().count().await.unwrap(), 3, "nobody told the Dio");
    let held = source.hold(Call::Get, Point::BeforeWork);
    let mut get = begin(master.get_value("a")).await;
    held.wait_until_held(1);
    assert!(get.is_waiting().await);
    drop(get);
    source.wait_until_ended(Call::Get, 1);
}

async fn x2_a_dio_over_another_ones_facade_follows_it() {
    let source = ScriptedSource::new(products("x2"));
    let below = dio_over(&source).await;
    let above = lens(Lens::new().in_memory()).await.make_dio((*below.vista()).clone()).await.unwrap();
    let view = above.table_scenery().sort("price", SortDir::Asc).open().await.unwrap();
    assert_eq!(ids(&view.snapshot()), ["b", "c", "a"]);
    let ticket = above.write(WriteOp::patch("b", record! { "price" => 99 })).await.unwrap();
    assert_eq!(ids(&view.snapshot()), ["c", "a", "b"], "at once");
    ticket.wait().await.unwrap();
    assert_eq!(below.cache().get("b").await.unwrap().unwrap().int("price"), Some(99));
    below.patched("a", product("Anvil", 1)).await.unwrap();
    above.refresh().await.unwrap();
    assert_eq!(ids(&view.snapshot()), ["a", "c", "b"]);
}

on_every_executor!(
    x4_reads_answer_from_the_cache_also_offline,
    x4_writes_wait_for_their_settlement,
    a_call_of_the_source_goes_past_the_cache_and_is_cancelled_with_its_future,
    x2_a_dio_over_another_ones_facade_follows_it,
);
