//! Imports: many rows into a source, in batches or one by one, stopped and resumed. One behaviour a test.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::time::Duration;

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::{Capabilities, Column, ColumnType, Schema};
use diorama::{Import, ImportRow, ImportState};

const SOON: Duration = Duration::from_secs(60);

fn open(source: &MemoryVista) -> Dio {
    Lens::new().in_memory().build().unwrap().make_dio(source.clone()).unwrap()
}

fn rows(numbers: std::ops::Range<i64>) -> impl Iterator<Item = (String, Record)> {
    numbers.map(|number| (format!("r{number}"), record! { "n" => number }))
}

fn source() -> MemoryVista {
    MemoryVista::new("rows", "id")
}

/// A source that takes its writes one by one.
fn one_by_one() -> MemoryVista {
    source().with_capabilities(Capabilities::read_write())
}

/// What a source has, as `id=n`.
fn stored(source: &MemoryVista) -> Vec<String> {
    source.rows().iter().map(|(id, record)| format!("{id}={}", record.int("n").unwrap_or(-1))).collect()
}

fn expected(numbers: std::ops::Range<i64>) -> Vec<String> {
    numbers.map(|number| format!("r{number}={number}")).collect()
}

fn refuse(source: &MemoryVista, id: &'static str) {
    source.fail_when(move |call| {
        let names = call.ops.iter().any(|op| op.id() == Some(id));
        names.then(|| Error::new(ErrorKind::Rejected, "not this one"))
    });
}

fn place(error: &Error) -> (ErrorKind, Option<&str>, Option<&str>) {
    (error.kind(), error.context("row"), error.context("id"))
}

fn fails<I>(import: &mut Import<I>) -> Error
where
    I: Iterator,
    I::Item: diorama::IntoImportRow,
{
    import.run().unwrap_err()
}

// ---- in one call ---------------------------------------------------------------------------------------------------

#[test]
fn a_source_with_batches_gets_a_chunk_in_one_call_and_views_move_once_for_it() {
    let source = source();
    let dio = open(&source);
    let view = dio.table_scenery().open().unwrap();
    let mut import = dio.import(rows(0..25)).chunk_rows(10);
    let mut seen = Vec::new();
    let mut generation = view.generation();
    while let Some(progress) = import.step().unwrap() {
        seen.push((progress.done, progress.total));
        generation = generation.next();
        assert_eq!((view.generation(), view.row_count() as u64), (generation, progress.done));
    }
    assert_eq!(seen, [(10, Some(25)), (20, Some(25)), (25, Some(25))]);
    assert_eq!((source.calls(Call::Batch), source.calls(Call::Upsert)), (3, 0));
    assert_eq!(stored(&source), expected(0..25));
    assert_eq!(dio.status().rows, 25);
}

#[test]
fn what_the_source_stored_is_what_is_shown() {
    let source = source().assign_ids_from("s");
    let dio = open(&source);
    let row = record! { "id" => None::<&str>, "n" => 1 };
    dio.import([row.clone(), row]).run().unwrap();
    assert_eq!(dio.cache().get("s2").unwrap().unwrap(), source.row("s2").unwrap());
    dio.refresh().unwrap();
    assert_eq!(dio.status().rows, 2);
}

#[test]
fn a_batch_that_is_refused_is_written_one_by_one_up_to_the_row_that_is_to_blame() {
    let source = source();
    let dio = open(&source);
    refuse(&source, "r7");
    let mut import = dio.import(rows(0..10));
    let error = fails(&mut import);
    assert_eq!(place(&error), (ErrorKind::Rejected, Some("8"), Some("r7")));
    assert_eq!(import.state().done(), 7);
    assert_eq!(stored(&source)[..7], expected(0..7));
    source.heal();
    import.run().unwrap();
    assert_eq!(source.row_count(), 10);
}

#[test]
fn a_batch_that_does_not_reach_the_source_names_its_rows_and_is_tried_again_by_the_next_step() {
    let source = source();
    let dio = open(&source);
    let mut import = dio.import(rows(0..30)).chunk_rows(10);
    import.step().unwrap();
    source.set_offline(true);
    let error = fails(&mut import);
    assert_eq!((error.kind(), error.context("rows")), (ErrorKind::Unavailable, Some("11 to 20")));
    assert_eq!((import.state().done(), source.row_count()), (10, 10));
    source.set_offline(false);
    import.run().unwrap();
    assert_eq!(stored(&source), expected(0..30));
}

#[test]
fn rows_without_ids_whose_answer_was_lost_are_not_doubled_by_a_source_that_does_nothing_twice() {
    let source = source();
    let dio = open(&source);
    let records = || (0..20).map(|number| record! { "n" => number });
    let mut import = dio.import(records()).chunk_rows(10);
    import.step().unwrap();
    source.lose_next_answers(Call::Batch, 1, Error::new(ErrorKind::Unavailable, "line cut"));
    fails(&mut import);
    let mut again = dio.import(records()).chunk_rows(10).resume(import.state().clone());
    assert_eq!(again.run().unwrap().done, 20);
    assert_eq!((source.row_count(), dio.status().rows), (20, 20));
}

// ---- one by one ----------------------------------------------------------------------------------------------------

#[test]
fn a_source_without_batches_gets_the_rows_one_by_one_in_their_order() {
    let source = one_by_one();
    let dio = open(&source);
    let progress = dio.import(rows(0..200)).run().unwrap();
    assert_eq!((progress.done, progress.total), (200, Some(200)));
    assert_eq!((stored(&source), dio.status().rows), (expected(0..200), 200));
}

#[test]
fn a_callback_that_delivers_writes_gets_the_rows_in_the_place_of_the_source() {
    let source = source();
    let (tell, told) = crossbeam_channel::unbounded();
    let deliver = move |_: &Dio, op: &diorama::WriteRequest<'_>| {
        tell.send(op.id().unwrap().to_owned()).unwrap();
        Ok(Written::id(op.id().unwrap()))
    };
    let dio = Lens::new().in_memory().on_write(deliver).build().unwrap().make_dio(source.clone()).unwrap();
    dio.import(rows(0..3)).run().unwrap();
    assert_eq!(
        (told.try_iter().collect::<Vec<_>>(), source.row_count()),
        (vec!["r0".into(), "r1".into(), "r2".into()], 0)
    );
    assert_eq!(dio.status().rows, 3);
}

#[test]
fn the_first_refused_row_is_named_and_those_before_it_are_done() {
    let source = one_by_one();
    let dio = open(&source);
    refuse(&source, "r7");
    let mut import = dio.import(rows(0..10));
    assert_eq!(place(&fails(&mut import)), (ErrorKind::Rejected, Some("8"), Some("r7")));
    assert_eq!((import.state().done(), stored(&source)[..7].to_vec()), (7, expected(0..7)));
    source.heal();
    import.run().unwrap();
    assert_eq!((import.state().done(), source.row_count()), (10, 10));
}

#[test]
fn a_full_queue_is_waited_for() {
    let source = one_by_one();
    let lens = Lens::new().in_memory().write_queue_capacity(1).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    dio.import(rows(0..50)).run().unwrap();
    assert_eq!(stored(&source), expected(0..50));
}

#[test]
fn a_row_without_an_id_behind_a_refused_one_is_not_written() {
    let source = one_by_one();
    let dio = open(&source);
    source.fail_when(|call| {
        let is_bad = call.ops.iter().any(|op| op.record().and_then(|record| record.int("n")) == Some(2));
        is_bad.then(|| Error::new(ErrorKind::Rejected, "not this one"))
    });
    let mut import = dio.import((0..5).map(|number| record! { "n" => number }));
    assert_eq!(place(&fails(&mut import)), (ErrorKind::Rejected, Some("3"), None));
    assert_eq!((import.state().done(), source.row_count()), (2, 2));
    source.heal();
    import.run().unwrap();
    assert_eq!(source.row_count(), 5);
}

// ---- rows that are there -------------------------------------------------------------------------------------------

#[test]
fn rows_that_are_there_are_replaced_and_not_doubled() {
    for source in [source(), one_by_one()] {
        let dio = open(&source);
        dio.import(rows(0..10)).run().unwrap();
        dio.import(rows(0..10).map(|(id, _)| (id, record! { "n" => 7 }))).run().unwrap();
        assert_eq!((source.row_count(), dio.status().rows), (10, 10));
        assert!(dio.cache().list().unwrap().iter().all(|(_, record)| record.int("n") == Some(7)));
    }
}

#[test]
fn a_source_that_can_not_upsert_is_told_to_insert_or_to_replace() {
    for batch in [true, false] {
        let able = Capabilities { upsert: false, batch, ..Capabilities::read_write() };
        let source = source().with_capabilities(able).with_rows([("r1", record! { "n" => 70 })]);
        let dio = open(&source);
        // The cache doesn't know of this one.
        source.outside_silently().upsert("r2", record! { "n" => 70 }).unwrap();
        dio.import(rows(0..4)).run().unwrap();
        let mut stored = stored(&source);
        stored.sort();
        assert_eq!((stored, source.calls(Call::Upsert)), (expected(0..4), 0));
    }
}

#[test]
fn a_source_that_can_only_insert_keeps_the_rows_that_are_there() {
    let able = Capabilities { insert: true, ..Capabilities::read_only() };
    let source = source().with_capabilities(able).with_rows([("r1", record! { "n" => 70 })]);
    let dio = open(&source);
    assert_eq!(dio.import(rows(0..3)).run().unwrap().done, 3);
    assert_eq!(stored(&source), ["r1=70", "r0=0", "r2=2"]);
}

#[test]
fn the_id_column_is_the_id_of_a_row_that_comes_without_one() {
    let source = source();
    let dio = open(&source);
    dio.import([record! { "id" => "x", "n" => 1 }, record! { "id" => 7, "n" => 2 }]).run().unwrap();
    assert_eq!(stored(&source), ["x=1", "7=2"]);
}

// ---- rows that can't be imported -----------------------------------------------------------------------------------

#[test]
fn a_row_that_the_schema_refuses_is_named_before_it_is_sent() {
    let schema = Schema::new("id").with(Column::new("id", ColumnType::Text)).with(Column::new("n", ColumnType::Int));
    for source in [source(), one_by_one()] {
        let source = source.with_schema(schema.clone());
        let dio = open(&source);
        let wrong = [("bad".to_owned(), record! { "n" => "many" })];
        let mut import = dio.import(rows(0..2).chain(wrong).chain(rows(3..4)));
        let error = fails(&mut import);
        assert_eq!(place(&error), (ErrorKind::Invalid, Some("3"), Some("bad")));
        assert_eq!((error.context("column"), error.context("table")), (Some("n"), Some("rows")));
        assert_eq!((import.state().done(), source.writes().len()), (2, 2));
        assert_eq!(place(&fails(&mut import)), (ErrorKind::Invalid, Some("3"), Some("bad")), "it stays");
    }
}

#[test]
fn an_error_of_the_iterator_ends_the_import_there() {
    let source = source();
    let dio = open(&source);
    let broken = Error::new(ErrorKind::Corrupt, "line 3 is no row");
    let lines = rows(0..2).map(Ok).chain([Err(broken)]).chain(rows(3..4).map(Ok));
    let mut import = dio.import(lines);
    for _ in 0..2 {
        let error = fails(&mut import);
        assert_eq!(place(&error), (ErrorKind::Corrupt, Some("3"), None));
        assert_eq!((import.state().done(), stored(&source)), (2, expected(0..2)));
    }
}

#[test]
fn a_source_that_can_not_be_written_is_unsupported() {
    let dio = open(&source().with_capabilities(Capabilities::read_only()));
    assert_eq!(place(&fails(&mut dio.import(rows(0..2)))), (ErrorKind::Unsupported, Some("1"), Some("r0")));
}

#[test]
fn an_empty_id_is_invalid() {
    let source = source();
    let dio = open(&source);
    let mut import = dio.import([ImportRow { id: Some(String::new()), record: record! { "n" => 1 } }]);
    assert_eq!(fails(&mut import).kind(), ErrorKind::Invalid);
    assert!(source.writes().is_empty());
}

#[test]
fn an_import_into_a_closed_dio_is_closed() {
    for source in [source(), one_by_one()] {
        let dio = open(&source);
        let mut import = dio.import(rows(0..2));
        dio.close(SOON).unwrap();
        assert_eq!(fails(&mut import).kind(), ErrorKind::Closed);
        assert!(source.writes().is_empty());
    }
}

#[test]
fn a_panic_of_the_source_fails_the_chunk_alone() {
    let source = source();
    let dio = open(&source);
    source.panic_next(Call::Batch);
    let mut import = dio.import(rows(0..3));
    assert_eq!(fails(&mut import).kind(), ErrorKind::Panicked);
    import.run().unwrap();
    assert_eq!(stored(&source), expected(0..3));
}

// ---- stopping and going on -----------------------------------------------------------------------------------------

#[test]
fn an_import_is_resumed_by_its_kept_state_and_writes_no_row_again() {
    let source = source();
    let dio = open(&source);
    let mut import = dio.import(rows(0..30)).chunk_rows(10);
    import.step().unwrap();
    let kept = Record::from_typed(import.state()).unwrap();
    drop(import);
    let state: ImportState = kept.to_typed().unwrap();
    assert_eq!(state.done(), 10);
    let mut import = dio.import(rows(0..30)).chunk_rows(10).resume(state);
    assert_eq!(import.progress().total, Some(30));
    assert_eq!(import.run().unwrap().done, 30);
    assert_eq!((source.writes().len(), stored(&source)), (30, expected(0..30)));
}

#[test]
fn resuming_with_fewer_rows_than_are_done_is_invalid() {
    let source = source();
    let dio = open(&source);
    let mut import = dio.import(rows(0..10));
    import.run().unwrap();
    let mut import = dio.import(rows(0..3)).resume(import.state().clone());
    for _ in 0..2 {
        let error = fails(&mut import);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("there are 3 rows, fewer than the 10 that are done"), "{error}");
    }
}

#[test]
fn rows_are_taken_a_chunk_at_a_time() {
    let dio = open(&source());
    let taken = Cell::new(0);
    let counted = rows(0..100).inspect(|_| taken.set(taken.get() + 1));
    let mut import = dio.import(counted).chunk_rows(10);
    import.step().unwrap();
    assert_eq!(taken.get(), 10);
    import.step().unwrap();
    assert_eq!(taken.get(), 20);
}

#[test]
fn large_rows_make_a_chunk_of_fewer() {
    let source = source();
    let dio = open(&source);
    let large = "x".repeat(1 << 20);
    let mut import = dio.import((0..10).map(|number| (number.to_string(), record! { "text" => large.as_str() })));
    assert_eq!(import.step().unwrap().unwrap().done, 4);
}

#[test]
fn an_import_of_no_rows_does_nothing() {
    let source = source();
    let mut import = open(&source).import(Vec::<Record>::new());
    assert!(import.step().unwrap().is_none());
    assert_eq!((import.progress().total, source.calls(Call::Batch)), (Some(0), 0));
}

#[test]
fn a_refresh_that_listed_the_source_before_the_import_undoes_nothing_of_it() {
    let source = source();
    let dio = open(&source);
    let late = source.hold_answer(Call::List);
    std::thread::scope(|scope| {
        let refresh = scope.spawn(|| dio.refresh());
        assert!(late.wait_until_held(1, SOON));
        dio.import(rows(0..5)).run().unwrap();
        late.release();
        refresh.join().unwrap().unwrap();
    });
    assert_eq!(dio.status().rows, 5);
}
