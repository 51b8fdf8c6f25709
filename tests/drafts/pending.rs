//! Pending: what a draft shows while views show its save already, and what is left when the save ends in any of its ways.

use diorama::prelude::*;
use diorama::sources::memory::{Call, HoldGuard};
use diorama::vista::Capabilities;
use diorama::{RecordStatus, WriteState, WriteTicket};

use crate::{SOON, form, form_on, goes, moves, products, received, saved, too_cheap};

/// A draft whose price is being saved as 33; the source has been asked and doesn't answer yet.
fn saving(source: &MemoryVista, draft: &Draft) -> (HoldGuard, WriteTicket) {
    let held = source.hold(Call::Patch);
    draft.set("price", 33).unwrap();
    let ticket = draft.save().unwrap().unwrap();
    assert!(held.wait_until_held(1, SOON));
    (held, ticket)
}

#[test]
fn a_save_shows_at_once_and_is_nobody_elses_move() {
    let (source, dio, draft) = form();
    let record = dio.record_scenery("a").unwrap();
    let (held, ticket) = saving(&source, &draft);
    assert_eq!((record.status(), record.record().unwrap().int("price")), (RecordStatus::PendingWrite, Some(33)));
    assert_eq!(draft.status(), DraftStatus::Saving);
    let price = draft.field("price");
    assert_eq!((price.value, price.base, price.live), (Some(33.into()), Some(30.into()), Some(33.into())));
    assert_eq!((price.state, draft.is_dirty()), (FieldState::Changed, true));
    draft.set("price", 34).unwrap();
    assert!(draft.conflicts().is_empty(), "the row shows what this draft has sent");
    held.release();
    ticket.wait(SOON).unwrap();
    assert_eq!((draft.status(), draft.conflicts()), (DraftStatus::Changed, vec![]));
}

#[test]
fn a_refused_save_takes_the_row_back_and_leaves_the_fields_the_users() {
    let (source, dio, draft) = form();
    let record = dio.record_scenery("a").unwrap();
    source.fail_next(Call::Patch, 1, too_cheap());
    let (held, ticket) = saving(&source, &draft);
    held.release();
    ticket.wait(SOON).unwrap_err();
    assert_eq!((record.status(), record.record().unwrap().int("price")), (RecordStatus::Fresh, Some(30)));
    let price = draft.field("price");
    assert_eq!((price.value, price.base, price.live), (Some(33.into()), Some(30.into()), Some(30.into())));
    assert_eq!((price.state, price.error.as_deref()), (FieldState::Changed, Some("is below the cost")));
    assert_eq!((draft.status(), draft.is_dirty()), (DraftStatus::Rejected, true));
    saved(&draft);
    assert_eq!((draft.status(), source.row("a").unwrap().int("price")), (DraftStatus::Clean, Some(33)));
}

#[test]
fn what_somebody_else_did_under_a_refused_save_is_a_conflict() {
    let (source, dio, draft) = form();
    source.fail_next(Call::Patch, 1, too_cheap());
    let (held, ticket) = saving(&source, &draft);
    moves(&source, &dio, record! { "price" => 31, "stock" => 4 });
    assert_eq!((draft.conflicts(), draft.get("stock")), (vec![], Some(4.into())));
    held.release();
    ticket.wait(SOON).unwrap_err();
    let price = draft.field("price");
    assert_eq!((price.value, price.base, price.live), (Some(33.into()), Some(30.into()), Some(31.into())));
    assert_eq!((price.state, draft.status()), (FieldState::Conflict, DraftStatus::Conflict));
}

#[test]
fn what_somebody_else_did_under_a_confirmed_save_is_written_over_and_no_conflict() {
    let (source, dio, draft) = form();
    let (held, ticket) = saving(&source, &draft);
    moves(&source, &dio, record! { "price" => 31 });
    held.release();
    ticket.wait(SOON).unwrap();
    assert_eq!((draft.get("price"), draft.status()), (Some(33.into()), DraftStatus::Clean));
    assert_eq!(source.row("a").unwrap().int("price"), Some(33));
}

#[test]
fn a_field_reset_and_set_again_during_a_save_that_fails_begins_where_it_began() {
    let (source, _dio, draft) = form();
    source.fail_next(Call::Patch, 1, too_cheap());
    let (held, ticket) = saving(&source, &draft);
    draft.reset("price");
    assert_eq!(draft.get("price"), Some(33.into()), "as the row shows it");
    draft.set("price", 34).unwrap();
    held.release();
    ticket.wait(SOON).unwrap_err();
    assert_eq!((draft.field("price").base, draft.conflicts()), (Some(30.into()), vec![]));
    assert_eq!(draft.get("price"), Some(34.into()));
}

#[test]
fn a_value_that_another_pending_write_shows_is_saved_all_the_same() {
    let (source, dio, draft) = form();
    let held = source.hold(Call::Patch);
    source.fail_next(Call::Patch, 1, too_cheap());
    draft.set("price", 33).unwrap();
    let other = dio.write(WriteOp::patch("a", record! { "price" => 33 })).unwrap();
    assert_eq!((draft.field("price").live, draft.is_dirty()), (Some(33.into()), true));
    let ticket = draft.save().unwrap().unwrap();
    held.release();
    other.wait(SOON).unwrap_err();
    ticket.wait(SOON).unwrap();
    assert_eq!((source.row("a").unwrap().int("price"), draft.status()), (Some(33), DraftStatus::Clean));
}

#[test]
fn a_row_saved_as_new_and_refused_is_gone_as_it_was() {
    let (source, dio, draft) = form();
    draft.set("price", 3).unwrap();
    goes(&source, &dio);
    let held = source.hold(Call::Insert);
    source.fail_next(Call::Insert, 1, too_cheap());
    let ticket = draft.save_as_new().unwrap();
    assert_eq!((draft.status(), dio.cache().get("a").unwrap().unwrap().int("price")), (DraftStatus::Saving, Some(3)));
    held.release();
    ticket.wait(SOON).unwrap_err();
    assert_eq!((draft.status(), draft.get("price")), (DraftStatus::RowGone, Some(3.into())));
    assert_eq!(draft.errors().len(), 1);
    draft.reset("price");
    assert_eq!(draft.get("price"), Some(30.into()), "what the source had, not what it refused");
}

#[test]
fn a_draft_of_a_row_whose_insert_is_pending_follows_it_to_the_sources_id() {
    let (source, dio, _draft) = form_on(products().assign_ids_from("p"));
    let held = source.hold(Call::Insert);
    let insert = dio.write(WriteOp::insert(record! { "name" => "Bell", "price" => 10 })).unwrap();
    let first = insert.id().unwrap();
    let draft = dio.draft(first.clone()).unwrap();
    assert_eq!((draft.id().as_deref(), draft.status()), (Some(&*first), DraftStatus::Clean));
    draft.set("price", 11).unwrap();
    held.release();
    insert.wait(SOON).unwrap();
    assert_eq!((draft.id().as_deref(), draft.conflicts()), (Some("p1"), vec![]));
    saved(&draft);
    assert_eq!(received(&source)[1], WriteOp::patch("p1", record! { "price" => 11 }));
    assert_eq!((draft.status(), draft.get("id")), (DraftStatus::Clean, Some("p1".into())));
}

// ---- other ends ----------------------------------------------------------------------------------------------------

#[test]
fn a_save_that_is_dropped_before_it_is_delivered_leaves_the_fields_the_users() {
    let (source, dio, draft) = form();
    let held = source.hold(Call::Patch);
    let before = dio.write(WriteOp::patch("a", record! { "stock" => 4 })).unwrap();
    assert!(held.wait_until_held(1, SOON));
    draft.set("price", 33).unwrap();
    let ticket = draft.save().unwrap().unwrap();
    dio.drop_write(ticket.number()).unwrap();
    assert_eq!(ticket.wait(SOON).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!((draft.status(), draft.get("price")), (DraftStatus::Rejected, Some(33.into())));
    assert_eq!(draft.error().unwrap().kind(), ErrorKind::Cancelled);
    held.release();
    before.wait(SOON).unwrap();
    assert_eq!((draft.field("price").live, received(&source).len()), (Some(30.into()), 1));
}

#[test]
fn a_save_that_a_delete_all_supersedes_leaves_the_fields_of_a_row_that_is_gone() {
    let (source, dio, draft) = form();
    let held = source.hold(Call::Patch);
    let before = dio.write(WriteOp::patch("a", record! { "stock" => 4 })).unwrap();
    assert!(held.wait_until_held(1, SOON));
    draft.set("price", 33).unwrap();
    let ticket = draft.save().unwrap().unwrap();
    let all = dio.write(WriteOp::DeleteAll).unwrap();
    held.release();
    assert_eq!(ticket.wait(SOON).unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(matches!(ticket.state(), WriteState::Superseded { .. }), "{ticket:?}");
    before.wait(SOON).unwrap();
    all.wait(SOON).unwrap();
    assert_eq!((draft.status(), draft.get("price")), (DraftStatus::RowGone, Some(33.into())));
    draft.save_as_new().unwrap().wait(SOON).unwrap();
    assert_eq!(source.row("a").unwrap().int("price"), Some(33));
}

#[test]
fn a_new_row_of_which_nobody_knows_whether_it_was_made_stays_a_draft_that_says_so() {
    let able = Capabilities { idempotent_writes: false, ..Capabilities::read_write() };
    let (source, dio, _draft) = form_on(products().with_capabilities(able).assign_ids_from("p"));
    let draft = dio.draft_new().unwrap();
    draft.set("name", "Bell").unwrap();
    draft.set("price", 10).unwrap();
    source.fail_next(Call::Insert, 1, Error::new(ErrorKind::Timeout, "the line went dead"));
    let ticket = draft.save().unwrap().unwrap();
    ticket.wait(SOON).unwrap_err();
    assert!(matches!(ticket.state(), WriteState::Unknown(_)), "{ticket:?}");
    assert_eq!((draft.is_new(), draft.status(), draft.is_dirty()), (true, DraftStatus::Rejected, true));
    assert!(draft.error().unwrap().message().contains("look there before"), "{:?}", draft.error());
    assert_eq!((draft.get("name"), dio.status().pending_writes), (Some("Bell".into()), 0));
}

/// A Dio over a cache on a disk, whose source can't be reached for writes.
#[cfg(feature = "lmdb")]
fn away(directory: &std::path::Path, source: &MemoryVista) -> (Lens, Dio) {
    let lens = Lens::new().cache_at(directory).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    for call in [Call::Patch, Call::Insert] {
        source.fail_next(call, 1_000, Error::new(ErrorKind::Unavailable, "no network"));
    }
    (lens, dio)
}

#[cfg(feature = "lmdb")]
#[test]
fn a_save_that_the_journal_keeps_counts_as_saved_and_what_was_edited_since_does_not() {
    let (directory, source) = (tempfile::tempdir().unwrap(), products());
    let (lens, dio) = away(directory.path(), &source);
    let (draft, edited) = (dio.draft("a").unwrap(), dio.draft("a").unwrap());
    for (draft, field, value) in [(&draft, "price", 33), (&edited, "stock", 6)] {
        draft.set(field, value).unwrap();
        draft.save().unwrap().unwrap().wait_durable(SOON).unwrap();
    }
    edited.set("stock", 7).unwrap();
    edited.set("name", "Big anvil").unwrap();
    lens.close(SOON).unwrap();
    assert_eq!((draft.status(), draft.is_dirty(), draft.error().map(|_| ())), (DraftStatus::Clean, false, None));
    assert_eq!(draft.get("price"), Some(33.into()), "the row as it was last shown");
    assert_eq!((edited.status(), edited.touched()), (DraftStatus::Changed, vec!["stock".into(), "name".into()]));
    drop(dio);

    let (_lens, dio) = away(directory.path(), &source);
    let draft = dio.draft("a").unwrap();
    assert_eq!((draft.get("price"), draft.status()), (Some(33.into()), DraftStatus::Clean));
}

#[cfg(feature = "lmdb")]
#[test]
fn a_new_row_that_the_journal_keeps_is_no_new_row_any_more() {
    let (directory, source) = (tempfile::tempdir().unwrap(), products());
    let (lens, dio) = away(directory.path(), &source);
    let draft = dio.draft_new().unwrap();
    for (field, value) in [("id", Value::from("b")), ("name", "Bell".into()), ("price", 10.into())] {
        draft.set(field, value).unwrap();
    }
    draft.save().unwrap().unwrap().wait_durable(SOON).unwrap();
    assert!(draft.is_new());
    lens.close(SOON).unwrap();
    assert_eq!((draft.id().as_deref(), draft.status(), draft.is_dirty()), (Some("b"), DraftStatus::Clean, false));
    assert_eq!(draft.get("name"), Some("Bell".into()));
}
