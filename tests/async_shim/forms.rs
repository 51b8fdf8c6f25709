//! Typed rows, drafts and imports, from async programs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::{AsyncDio, ImportState};
use serde::{Deserialize, Serialize};

use crate::executors::*;
use crate::source::{Point, ScriptedSource, Trouble};
use crate::support::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Product {
    id: String,
    name: String,
    price: i64,
}

fn typed(id: &str, name: &str, price: i64) -> Product {
    Product { id: id.to_owned(), name: name.to_owned(), price }
}

async fn dio_over(source: &ScriptedSource) -> AsyncDio {
    lens(Lens::new().in_memory()).await.make_dio(source.clone()).await.unwrap()
}

async fn rows_are_structs_in_writes_reads_and_views() {
    let dio = lens(Lens::new().in_memory()).await.make_dio(MemoryVista::new("typed", "id")).await.unwrap();
    let products = dio.typed::<Product>();
    let by_price = products.table_scenery().sort("price", SortDir::Asc).limit(2).open().await.unwrap();
    let mut changes = by_price.change_sets();
    products.insert(&typed("a", "Anvil", 30)).await.unwrap().wait().await.unwrap();
    products.insert_as("b", &typed("b", "Bell", 10)).await.unwrap().wait().await.unwrap();
    products.upsert("c", &typed("c", "Chain", 20)).await.unwrap().wait().await.unwrap();
    products.replace("c", &typed("c", "Chain", 40)).await.unwrap().wait().await.unwrap();
    products.patch("a", &record! { "price" => 5 }).await.unwrap().wait().await.unwrap();
    assert_eq!(products.get("a").await.unwrap(), Some(typed("a", "Anvil", 5)));
    assert_eq!(products.get("nobody").await.unwrap(), None);
    assert_eq!(products.list().await.unwrap().len(), 3);
    assert_eq!(by_price.row(0).await.unwrap(), Some(typed("a", "Anvil", 5)));
    let rows: Vec<Product> = by_price.rows(0..9).await.unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(rows, [typed("a", "Anvil", 5), typed("b", "Bell", 10)]);
    let set = next(&mut changes).await.unwrap();
    assert_eq!(by_price.rows_of(&set.snapshot, 0..1).await.unwrap()[0].id(), "a");
    let one = products.record_scenery("b").await.unwrap();
    assert_eq!(one.value().unwrap(), Some(typed("b", "Bell", 10)));
    let change = begin(one.wait_for_change(one.generation())).await;
    products.delete("b").await.unwrap().wait().await.unwrap();
    change.await.unwrap();
    assert_eq!(one.value().unwrap(), None);
    let error = products.insert_as("x", &typed("y", "Y", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // A row that doesn't fit says so, as ever.
    dio.patched("odd", record! { "id" => "odd" }).await.unwrap();
    let plain = Dio::typed::<Product>(&dio);
    assert_eq!(products.get("odd").await.unwrap_err().to_string(), plain.get("odd").unwrap_err().to_string());
}

async fn a_draft_is_saved_and_says_what_became_of_it() {
    let source = ScriptedSource::new(products("draft"));
    let dio = dio_over(&source).await;
    assert_eq!(dio.draft("nobody").await.unwrap_err().kind(), ErrorKind::NotFound);
    let draft = dio.draft("a").await.unwrap();
    assert!(draft.save().await.unwrap().is_none(), "there is nothing to save");
    let mut generations = draft.generations();
    assert!(next(&mut generations).await.is_some());
    draft.set("price", 31).unwrap();
    assert!(next(&mut generations).await.is_some());
    let held = source.hold(Call::Patch, Point::BeforeWork);
    let ticket = draft.save().await.unwrap().unwrap();
    assert_eq!(draft.status(), DraftStatus::Saving);
    assert_eq!(draft.save().await.unwrap_err().kind(), ErrorKind::Full, "one save at a time");
    let seen = draft.generation();
    let moves = begin(draft.wait_for_change(seen)).await;
    drop(held);
    ticket.wait().await.unwrap();
    moves.await.unwrap();
    assert_eq!(
        (draft.status(), dio.cache().get("a").await.unwrap().unwrap().int("price")),
        (DraftStatus::Clean, Some(31))
    );

    source.next(Call::Patch, Trouble::Fails(Error::new(ErrorKind::Rejected, "not like this")));
    draft.set("price", 32).unwrap();
    draft.save().await.unwrap().unwrap().wait().await.unwrap_err();
    assert_eq!((draft.status(), draft.get("price")), (DraftStatus::Rejected, Some(Value::from(32))));

    dio.cache().remove("a").await.unwrap();
    assert_eq!(draft.status(), DraftStatus::RowGone);
    assert_eq!(draft.save().await.unwrap_err().kind(), ErrorKind::NotFound);
    source.always(Call::Insert, Trouble::Fails(Error::new(ErrorKind::Rejected, "no more")));
    draft.save_as_new().await.unwrap().wait().await.unwrap_err();
    source.heal();
    let new = dio.draft_new().await.unwrap();
    new.set("id", "d").unwrap();
    new.set("name", "Drum").unwrap();
    new.save().await.unwrap().unwrap().wait().await.unwrap();
    assert_eq!((new.id().as_deref(), new.status()), (Some("d"), DraftStatus::Clean));
    dio.close(SOON).await.unwrap();
    new.set("name", "Drums").unwrap();
    assert_eq!(new.save().await.unwrap_err().kind(), ErrorKind::Closed);
}

async fn a_draft_waits_for_room_and_is_as_it_was_when_its_save_is_given_up() {
    let source = ScriptedSource::new(products("draft-full"));
    let lens = lens(Lens::new().in_memory().write_queue_capacity(1)).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    let draft = dio.draft("a").await.unwrap();
    draft.set("price", 31).unwrap();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    dio.write(WriteOp::patch("b", record! { "price" => 1 })).await.unwrap();
    held.wait_until_held(1);
    let mut save = begin(draft.save()).await;
    for _ in 0..50 {
        yield_now().await;
        assert!(save.is_waiting().await);
    }
    assert_eq!(draft.status(), DraftStatus::Saving);
    drop(save);
    // An attempt that is being made on a thread comes to its end first.
    comes_true("it is given up", || draft.status() == DraftStatus::Rejected).await;
    assert_eq!(draft.get("price"), Some(Value::from(31)));
    assert_eq!(draft.error().unwrap().kind(), ErrorKind::Cancelled);
    let save = begin(draft.save()).await;
    drop(held);
    save.await.unwrap().unwrap().wait().await.unwrap();
    assert_eq!((draft.status(), draft.error().is_none()), (DraftStatus::Clean, true));
    assert_eq!(source.calls(Call::Patch), 2, "what was given up was not done");
}

async fn an_import_goes_step_by_step_and_resumes() {
    let source = MemoryVista::new("import", "id");
    let dio = lens(Lens::new().in_memory()).await.make_dio(source.clone()).await.unwrap();
    let rows = || (0..25).map(|number| (format!("p{number}"), record! { "price" => number }));
    let mut import = dio.import(rows()).chunk_rows(10);
    assert_eq!((import.progress().done, import.progress().total), (0, Some(25)));
    assert_eq!(import.step().await.unwrap().unwrap().done, 10);
    let state: ImportState = import.state().clone();
    drop(import);
    let mut again = dio.import(rows()).chunk_rows(10).resume(state);
    assert_eq!(again.run().await.unwrap().done, 25);
    assert!(again.step().await.unwrap().is_none());
    assert_eq!((source.row_count(), dio.status().rows), (25, 25));
    source.fail_next(Call::Batch, 1, cut());
    let mut failing = dio.import(vec![("z", record! { "price" => 1 })]);
    assert_eq!(failing.step().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(failing.run().await.unwrap().done, 1, "another step tries again");
    // A panicking iterator ends its step with an error.
    let mut odd = dio.import((0..3).map(|number| -> (String, Record) { panic!("row {number}") }));
    assert_eq!(odd.step().await.unwrap_err().kind(), ErrorKind::Panicked);
    assert_eq!(odd.step().await.unwrap_err().kind(), ErrorKind::Panicked, "and is gone with it");
}

async fn a_step_whose_future_is_dropped_goes_on_and_the_next_call_tells_how_it_was() {
    let source = ScriptedSource::new(MemoryVista::new("import-drop", "id"));
    let dio = dio_over(&source).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let by_import = taken.clone();
    let rows = (0..20).map(move |number| {
        by_import.fetch_add(1, Ordering::SeqCst);
        (format!("p{number}"), record! { "price" => number })
    });
    let mut import = dio.import(rows).chunk_rows(10);
    let held = source.hold(Call::Batch, Point::BeforeAnswer);
    {
        let mut step = begin(import.step()).await;
        held.wait_until_held(1);
        assert!(step.is_waiting().await);
    }
    assert_eq!(import.state().done(), 0, "as of the last step that was awaited");
    {
        let mut joined = begin(import.step()).await;
        assert!(joined.is_waiting().await);
        drop(held);
        assert_eq!(joined.await.unwrap().unwrap().done, 10);
    }
    assert_eq!(taken.load(Ordering::SeqCst), 10, "one step, not two");
    assert_eq!(import.run().await.unwrap().done, 20);
    assert_eq!((dio.status().rows, source.calls(Call::Batch)), (20, 2));
}

async fn an_import_waits_for_room_among_other_writes() {
    let memory = MemoryVista::new("import-full", "id")
        .with_capabilities(diorama::vista::Capabilities::read_write())
        .with_rows([("a", product("Anvil", 1))]);
    let source = ScriptedSource::new(memory);
    let lens = lens(Lens::new().in_memory().write_queue_capacity(1)).await;
    let dio = lens.make_dio(source.clone()).await.unwrap();
    let held = source.hold(Call::Patch, Point::BeforeWork);
    dio.write(WriteOp::patch("a", record! { "price" => 2 })).await.unwrap();
    held.wait_until_held(1);
    let mut import = dio.import((0..5).map(|number| (format!("p{number}"), record! { "price" => number })));
    let mut run = begin(import.run()).await;
    for _ in 0..50 {
        yield_now().await;
        assert!(run.is_waiting().await);
    }
    drop(held);
    assert_eq!(run.await.unwrap().done, 5);
    assert_eq!(dio.status().rows, 6);
}

on_every_executor!(
    rows_are_structs_in_writes_reads_and_views,
    a_draft_is_saved_and_says_what_became_of_it,
    a_draft_waits_for_room_and_is_as_it_was_when_its_save_is_given_up,
    an_import_goes_step_by_step_and_resumes,
    a_step_whose_future_is_dropped_goes_on_and_the_next_call_tells_how_it_was,
    an_import_waits_for_room_among_other_writes,
);
