//! Rows: drafts whose row goes, and drafts of rows that are not there yet.

use diorama::prelude::*;
use diorama::sources::memory::Call;

use crate::{SOON, fields_of, form, form_on, goes, moves, products, received, refused, said, saved, wait_until};

// ---- rows that go --------------------------------------------------------------------------------------------------

#[test]
fn a_row_that_goes_leaves_the_draft_as_it_was() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    goes(&source, &dio);
    assert_eq!(draft.status(), DraftStatus::RowGone);
    assert_eq!(draft.record(), record! { "id" => "a", "name" => "Anvil", "price" => 33, "stock" => 5 });
    assert_eq!(draft.field("stock").live, None);
    assert!(draft.is_dirty());
}

#[test]
fn a_save_of_a_row_that_is_gone_is_not_found_and_writes_nothing() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    goes(&source, &dio);
    let error = draft.save().unwrap_err();
    assert_eq!((error.kind(), error.context("id")), (ErrorKind::NotFound, Some("a")));
    assert!(received(&source).is_empty());
    assert_eq!((draft.get("price"), draft.status()), (Some(33.into()), DraftStatus::RowGone));
}

#[test]
fn a_row_that_is_gone_can_be_saved_as_a_new_one() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    goes(&source, &dio);
    draft.save_as_new().unwrap().wait(SOON).unwrap();
    let whole = record! { "id" => "a", "name" => "Anvil", "price" => 33, "stock" => 5 };
    assert_eq!(received(&source), [WriteOp::insert_as("a", whole.clone())]);
    assert_eq!((draft.record(), draft.status()), (whole, DraftStatus::Clean));
    moves(&source, &dio, record! { "stock" => 1 });
    assert_eq!(draft.get("stock"), Some(1.into()));
}

#[test]
fn a_row_saved_as_new_under_another_id_is_followed_there() {
    let (source, dio, draft) = form_on(products().assign_ids_from("p"));
    goes(&source, &dio);
    draft.save_as_new().unwrap().wait(SOON).unwrap();
    assert_eq!((draft.id().as_deref(), draft.status()), (Some("p1"), DraftStatus::Clean));
    assert_eq!(draft.get("id"), Some("p1".into()));
}

#[test]
fn a_row_that_is_there_is_not_saved_as_a_new_one() {
    let (source, _dio, draft) = form();
    draft.set("price", 33).unwrap();
    assert_eq!(draft.save_as_new().unwrap_err().kind(), ErrorKind::Conflict);
    assert!(received(&source).is_empty());
}

#[test]
fn a_row_that_comes_again_is_followed_again() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    goes(&source, &dio);
    let row = record! { "id" => "a", "name" => "New anvil", "price" => 31, "stock" => 5 };
    source.outside_silently().upsert("a", row.clone()).unwrap();
    dio.patched("a", row).unwrap();
    assert_eq!((draft.get("name"), draft.get("price")), (Some("New anvil".into()), Some(33.into())));
    assert_eq!(draft.conflicts(), ["price"]);
}

#[test]
fn a_row_that_goes_while_it_is_saved_is_a_refused_save() {
    let (source, dio, draft) = form();
    let held = source.hold(Call::Patch);
    draft.set("price", 33).unwrap();
    let ticket = draft.save().unwrap().unwrap();
    assert!(held.wait_until_held(1, SOON));
    source.outside_silently().delete("a").unwrap();
    // The row is read again behind, and is gone then.
    let reread = source.hold(Call::Get);
    held.release();
    assert_eq!(ticket.wait(SOON).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!((draft.status(), draft.get("price")), (DraftStatus::Rejected, Some(33.into())));
    reread.release();
    dio.refresh().unwrap();
    assert_eq!((draft.status(), draft.get("price")), (DraftStatus::RowGone, Some(33.into())));
    draft.save_as_new().unwrap().wait(SOON).unwrap();
    assert_eq!(source.row("a").unwrap().int("price"), Some(33));
}

// ---- new rows ------------------------------------------------------------------------------------------------------

#[test]
fn a_new_row_without_its_mandatory_fields_is_refused_with_all_of_them() {
    let (source, dio, _draft) = form();
    let draft = dio.draft_new().unwrap();
    draft.set("stock", 1).unwrap();
    draft.set("price", Value::Null).unwrap();
    let error = draft.save().unwrap_err();
    let expected = [said("name", "must have a value"), said("price", "must have a value")];
    assert_eq!((error.kind(), fields_of(&error)), (ErrorKind::Invalid, expected.to_vec()));
    assert_eq!((draft.errors(), draft.status()), (expected.to_vec(), DraftStatus::Rejected));
    assert!(received(&source).is_empty());
    draft.set("name", "Bell").unwrap();
    draft.set("price", 10).unwrap();
    saved(&draft);
    assert_eq!(draft.status(), DraftStatus::Clean);
}

#[test]
fn a_new_row_is_a_draft_of_its_row_once_saved() {
    let (source, dio, _draft) = form_on(products().assign_ids_from("p"));
    let draft = dio.draft_new().unwrap();
    assert_eq!((draft.is_new(), draft.id(), draft.status()), (true, None, DraftStatus::Clean));
    draft.set("name", "Bell").unwrap();
    draft.set("price", 10).unwrap();
    assert_eq!(draft.status(), DraftStatus::Changed);
    let outcome = saved(&draft);
    assert_eq!((draft.id(), draft.is_new()), (outcome.id, false));
    assert_eq!(received(&source), [WriteOp::insert(record! { "name" => "Bell", "price" => 10 })]);
    let id = draft.id().unwrap();
    assert_eq!((id.as_str(), draft.status(), draft.touched()), ("p1", DraftStatus::Clean, vec![]));
    dio.patched(id, record! { "id" => "p1", "name" => "Bell", "price" => 11 }).unwrap();
    wait_until(&draft, "the row's new price", |draft| draft.get("price") == Some(11.into()));
    draft.set("price", 12).unwrap();
    saved(&draft);
    assert_eq!(received(&source)[1], WriteOp::patch("p1", record! { "price" => 12 }));
}

#[test]
fn a_new_row_takes_the_id_that_the_user_gives() {
    let (source, dio, _draft) = form();
    let draft = dio.draft_new().unwrap();
    assert_eq!(draft.set("id", "").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(draft.set("id", 7).unwrap_err().kind(), ErrorKind::Invalid, "the column holds text");
    for (field, value) in [("id", "b".into()), ("name", "Bell".into()), ("price", Value::from(10))] {
        draft.set(field, value).unwrap();
    }
    saved(&draft);
    let row = record! { "id" => "b", "name" => "Bell", "price" => 10 };
    assert_eq!(received(&source), [WriteOp::insert_as("b", row.clone())]);
    assert_eq!((draft.id().as_deref(), draft.record()), (Some("b"), row));
}

#[test]
fn a_new_row_whose_id_is_taken_stays_a_draft() {
    let (source, dio, _draft) = form();
    let draft = dio.draft_new().unwrap();
    for (field, value) in [("id", "a".into()), ("name", "Bell".into()), ("price", Value::from(10))] {
        draft.set(field, value).unwrap();
    }
    assert_eq!(refused(&draft).kind(), ErrorKind::Conflict);
    assert_eq!((draft.is_new(), draft.status()), (true, DraftStatus::Rejected));
    draft.set("id", "b").unwrap();
    saved(&draft);
    assert_eq!((draft.id().as_deref(), source.row_count()), (Some("b"), 2));
}

#[test]
fn edits_made_while_a_new_row_is_saved_are_changes_of_that_row() {
    let (source, dio, _draft) = form_on(products().assign_ids_from("p"));
    let draft = dio.draft_new().unwrap();
    draft.set("name", "Bell").unwrap();
    draft.set("price", 10).unwrap();
    let held = source.hold(Call::Insert);
    let ticket = draft.save().unwrap().unwrap();
    draft.set("price", 11).unwrap();
    held.release();
    ticket.wait(SOON).unwrap();
    assert_eq!((draft.touched(), draft.status()), (vec!["price".into()], DraftStatus::Changed));
    saved(&draft);
    assert_eq!(received(&source)[1], WriteOp::patch("p1", record! { "price" => 11 }));
}
