//! Drafts: a form's unsaved fields over a row that others change, saved, refused, corrected. One behaviour a test.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "drafts/any.rs"]
mod any;
#[path = "common/limit.rs"]
mod limit;
#[path = "drafts/pending.rs"]
mod pending;
#[path = "drafts/rows.rs"]
mod rows;

use std::time::Duration;

use crossbeam_channel::unbounded;
use diorama::WriteRequest;
use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::{Capabilities, Column, ColumnType, Schema};
use diorama::{WriteOutcome, WriteTicket, wait_any};

/// Longer than anything here takes, also on a busy machine: who waits that long hangs.
const SOON: Duration = Duration::from_secs(60);

fn anvil() -> Record {
    record! { "id" => "a", "name" => "Anvil", "price" => 30, "stock" => 5 }
}

fn products() -> MemoryVista {
    let schema = Schema::new("id")
        .with(Column::new("id", ColumnType::Text).mandatory())
        .with(Column::new("name", ColumnType::Text).mandatory())
        .with(Column::new("price", ColumnType::Int).mandatory())
        .with(Column::new("stock", ColumnType::Int))
        .with(Column::new("note", ColumnType::Text));
    MemoryVista::new("products", "id").with_schema(schema).with_rows([("a", anvil())])
}

/// A source, a Dio on it, and a draft of its row `a`.
fn form() -> (MemoryVista, Dio, Draft) {
    form_on(products())
}

fn form_on(source: MemoryVista) -> (MemoryVista, Dio, Draft) {
    let dio = Lens::new().in_memory().build().unwrap().make_dio(source.clone()).unwrap();
    let draft = dio.draft("a").unwrap();
    (source, dio, draft)
}

/// Somebody else changes fields of the row `a`, and the Dio hears of it.
fn moves(source: &MemoryVista, dio: &Dio, fields: Record) {
    source.outside_silently().patch("a", fields).unwrap();
    dio.patched("a", source.row("a").unwrap()).unwrap();
}

/// Somebody else deletes the row `a`, and the Dio hears of it.
fn goes(source: &MemoryVista, dio: &Dio) {
    source.outside_silently().delete("a").unwrap();
    dio.handle_event(ChangeEvent::Deleted { id: "a".into() }).unwrap();
}

fn saved(draft: &Draft) -> WriteOutcome {
    draft.save().unwrap().unwrap().wait(SOON).unwrap()
}

fn refused(draft: &Draft) -> Error {
    draft.save().unwrap().unwrap().wait(SOON).unwrap_err()
}

fn too_cheap() -> Error {
    Error::new(ErrorKind::Rejected, "the product was refused").with_field("price", "is below the cost")
}

fn fields_of(error: &Error) -> Vec<(String, String)> {
    error.fields().map(|(name, message)| (name.to_owned(), message.to_owned())).collect()
}

fn said(name: &str, message: &str) -> (String, String) {
    (name.to_owned(), message.to_owned())
}

/// The writes that the source has received.
fn received(source: &MemoryVista) -> Vec<WriteOp> {
    source.writes().into_iter().map(|write| write.op).collect()
}

/// Waits until the draft is so; fails when it never is.
fn wait_until(draft: &Draft, what: &str, is_so: impl Fn(&Draft) -> bool) {
    loop {
        let seen = draft.generation();
        if is_so(draft) {
            return;
        }
        if let Err(error) = draft.wait_for_change(seen, Some(SOON)) {
            panic!("never: {what}: {error}; {draft:?}");
        }
    }
}

// ---- following the row ---------------------------------------------------------------------------------------------

#[test]
fn untouched_fields_follow_the_row() {
    let (source, dio, draft) = form();
    assert_eq!((draft.record(), draft.status()), (anvil(), DraftStatus::Clean));
    moves(&source, &dio, record! { "stock" => 4 });
    assert_eq!(draft.get("stock"), Some(4.into()));
    assert_eq!((draft.touched(), draft.status()), (vec![], DraftStatus::Clean));
}

#[test]
fn touched_fields_stay_as_the_user_set_them() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    moves(&source, &dio, record! { "name" => "Big anvil", "stock" => 4 });
    assert_eq!(draft.record(), record! { "id" => "a", "name" => "Big anvil", "price" => 33, "stock" => 4 });
    assert_eq!((draft.touched(), draft.status()), (vec!["price".into()], DraftStatus::Changed));
    let price = draft.field("price");
    assert_eq!((price.value, price.base, price.live), (Some(33.into()), Some(30.into()), Some(30.into())));
    assert_eq!((price.state, draft.field("stock").state), (FieldState::Changed, FieldState::Untouched));
}

#[test]
fn a_touched_field_that_the_source_moves_is_in_conflict() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    moves(&source, &dio, record! { "price" => 31 });
    let price = draft.field("price");
    assert_eq!((price.value, price.base, price.live), (Some(33.into()), Some(30.into()), Some(31.into())));
    assert_eq!((price.state, draft.status()), (FieldState::Conflict, DraftStatus::Conflict));
    assert_eq!(draft.conflicts(), ["price"]);
}

#[test]
fn a_conflict_is_over_once_the_source_moves_back_or_to_the_users_value() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    for price in [30, 33] {
        moves(&source, &dio, record! { "price" => 31 });
        assert_eq!(draft.status(), DraftStatus::Conflict);
        moves(&source, &dio, record! { "price" => price });
        assert!(draft.conflicts().is_empty());
        assert_eq!(draft.get("price"), Some(33.into()));
    }
    assert!(!draft.is_dirty(), "the row has it");
}

#[test]
fn a_reset_field_follows_the_row_again() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    draft.set("name", "Small anvil").unwrap();
    moves(&source, &dio, record! { "price" => 31 });
    draft.reset("price");
    assert_eq!((draft.get("price"), draft.touched()), (Some(31.into()), vec!["name".into()]));
    draft.reset_all();
    assert_eq!((draft.get("name"), draft.status()), (Some("Anvil".into()), DraftStatus::Clean));
}

#[test]
fn a_field_set_back_to_what_the_row_has_is_untouched() {
    let (_source, _dio, draft) = form();
    draft.set("price", 33).unwrap();
    draft.set("price", 30).unwrap();
    assert_eq!((draft.touched(), draft.is_dirty()), (vec![], false));
}

#[test]
fn clones_are_one_draft() {
    let (_source, _dio, draft) = form();
    draft.clone().set("price", 33).unwrap();
    assert_eq!(draft.get("price"), Some(33.into()));
}

#[test]
fn a_draft_can_be_sent_and_shared() {
    fn is_send_and_sync<T: Send + Sync + 'static>() {}
    is_send_and_sync::<Draft>();
}

// ---- what is refused at once ---------------------------------------------------------------------------------------

#[test]
fn a_value_that_the_schema_refuses_changes_nothing_and_names_its_field() {
    let (_source, _dio, draft) = form();
    let before = draft.generation();
    for (field, value) in [("prize", Value::from(1)), ("price", Value::from("cheap")), ("id", Value::from("b"))] {
        let error = draft.set(field, value).unwrap_err();
        assert_eq!((error.kind(), error.context("table")), (ErrorKind::Invalid, Some("products")));
        assert_eq!(error.fields().map(|(name, _)| name).collect::<Vec<_>>(), [field]);
    }
    assert_eq!((draft.generation(), draft.record(), draft.errors()), (before, anvil(), vec![]));
}

#[test]
fn the_id_of_a_row_may_be_set_to_what_it_is() {
    let (_source, _dio, draft) = form();
    draft.set("id", "a").unwrap();
    assert!(draft.touched().is_empty());
}

#[test]
fn a_draft_of_a_row_that_is_not_there_is_not_found() {
    let (_source, dio, _draft) = form();
    let error = dio.draft("z").unwrap_err();
    assert_eq!((error.kind(), error.context("id")), (ErrorKind::NotFound, Some("z")));
    assert_eq!(dio.draft("").unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_draft_of_a_row_that_an_incomplete_cache_lacks_is_unavailable() {
    let source = products();
    let held = source.hold(Call::List);
    let lens = Lens::new().in_memory().on_start_blocking(false).build().unwrap();
    let dio = lens.make_dio(source).unwrap();
    assert_eq!(dio.draft("a").unwrap_err().kind(), ErrorKind::Unavailable);
    held.release();
    dio.refresh().unwrap();
    assert_eq!(dio.draft("a").unwrap().record(), anvil());
}

// ---- saving --------------------------------------------------------------------------------------------------------

#[test]
fn a_save_writes_the_changed_fields_alone() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    draft.set("name", "Big anvil").unwrap();
    draft.set("name", "Anvil").unwrap();
    moves(&source, &dio, record! { "stock" => 4 });
    saved(&draft);
    assert_eq!(received(&source), [WriteOp::patch("a", record! { "price" => 33 })]);
    assert_eq!((draft.status(), draft.touched()), (DraftStatus::Clean, vec![]));
    assert_eq!(draft.record(), dio.cache().get("a").unwrap().unwrap());
}

#[test]
fn a_save_without_changes_writes_nothing() {
    let (source, dio, draft) = form();
    assert!(draft.save().unwrap().is_none());
    draft.set("price", 33).unwrap();
    moves(&source, &dio, record! { "price" => 33 });
    assert!(draft.save().unwrap().is_none(), "the row has it already");
    assert_eq!((received(&source), draft.touched()), (vec![], vec![]));
}

#[test]
fn a_save_with_conflicts_writes_nothing_and_names_them() {
    let (source, dio, draft) = form();
    for (field, value) in [("price", Value::from(33)), ("name", "Big anvil".into()), ("stock", 1.into())] {
        draft.set(field, value).unwrap();
    }
    moves(&source, &dio, record! { "price" => 31, "name" => "Old anvil" });
    let error = draft.save().unwrap_err();
    assert_eq!((error.kind(), error.context("id")), (ErrorKind::Conflict, Some("a")));
    assert_eq!(error.fields().map(|(name, _)| name).collect::<Vec<_>>(), ["price", "name"]);
    assert!(received(&source).is_empty());
    assert_eq!((draft.get("price"), draft.status()), (Some(33.into()), DraftStatus::Conflict));
}

#[test]
fn a_conflict_resolved_for_mine_is_saved_over_the_row() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    moves(&source, &dio, record! { "price" => 31 });
    draft.resolve("price", Keep::Mine);
    assert_eq!(draft.status(), DraftStatus::Changed);
    saved(&draft);
    assert_eq!(source.row("a").unwrap().int("price"), Some(33));
}

#[test]
fn a_conflict_resolved_for_mine_comes_again_when_the_source_moves_again() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    moves(&source, &dio, record! { "price" => 31 });
    draft.resolve("price", Keep::Mine);
    moves(&source, &dio, record! { "price" => 32 });
    assert_eq!(draft.conflicts(), ["price"]);
}

#[test]
fn a_conflict_resolved_for_theirs_follows_the_row() {
    let (source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    moves(&source, &dio, record! { "price" => 31 });
    draft.resolve("price", Keep::Theirs);
    assert_eq!((draft.get("price"), draft.status()), (Some(31.into()), DraftStatus::Clean));
}

#[test]
fn a_source_that_can_replace_and_not_patch_gets_the_whole_row() {
    let able = Capabilities { patch: false, ..Capabilities::read_write() };
    let (source, dio, draft) = form_on(products().with_capabilities(able));
    draft.set("price", 33).unwrap();
    moves(&source, &dio, record! { "stock" => 4 });
    saved(&draft);
    let whole = record! { "id" => "a", "name" => "Anvil", "price" => 33, "stock" => 4 };
    assert_eq!(received(&source), [WriteOp::replace("a", whole)]);
    assert_eq!(draft.status(), DraftStatus::Clean);
}

#[test]
fn a_save_that_the_source_is_not_able_to_do_keeps_the_draft() {
    let (_source, _dio, draft) = form_on(products().with_capabilities(Capabilities::read_only()));
    draft.set("price", 33).unwrap();
    assert_eq!(draft.save().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!((draft.get("price"), draft.status()), (Some(33.into()), DraftStatus::Rejected));
    assert_eq!(draft.error().unwrap().kind(), ErrorKind::Unsupported);
}

#[test]
fn what_the_source_stored_otherwise_is_what_the_saved_draft_shows() {
    let source = products();
    let rows = source.clone();
    let trims = move |_: &Dio, op: &WriteRequest<'_>| {
        let record = op.record().cloned().unwrap_or_default();
        let name = record.text("name").unwrap_or_default().trim().to_owned();
        rows.outside_silently().patch("a", record! { "name" => name })?;
        Ok(Written::row("a", rows.row("a").unwrap_or_default()))
    };
    let dio = Lens::new().in_memory().on_write(trims).build().unwrap().make_dio(source).unwrap();
    let draft = dio.draft("a").unwrap();
    draft.set("name", " Big anvil ").unwrap();
    saved(&draft);
    assert_eq!((draft.get("name"), draft.status()), (Some("Big anvil".into()), DraftStatus::Clean));
}

// ---- while a save is under way -------------------------------------------------------------------------------------

#[test]
fn edits_made_while_a_save_is_under_way_survive_it() {
    let (source, _dio, draft) = form();
    let held = source.hold(Call::Patch);
    draft.set("price", 33).unwrap();
    draft.set("name", "Big anvil").unwrap();
    let ticket = draft.save().unwrap().unwrap();
    assert!(held.wait_until_held(1, SOON));
    assert_eq!((draft.status(), draft.is_dirty()), (DraftStatus::Saving, true));
    draft.set("name", "Bigger anvil").unwrap();
    draft.set("stock", 7).unwrap();
    held.release();
    ticket.wait(SOON).unwrap();
    assert_eq!((draft.touched(), draft.status()), (vec!["name".into(), "stock".into()], DraftStatus::Changed));
    let name = draft.field("name");
    assert_eq!((name.value, name.base), (Some("Bigger anvil".into()), Some("Big anvil".into())));
    saved(&draft);
    assert_eq!(received(&source)[1], WriteOp::patch("a", record! { "name" => "Bigger anvil", "stock" => 7 }));
    assert_eq!(draft.status(), DraftStatus::Clean);
}

#[test]
fn a_second_save_while_one_is_under_way_is_full_and_changes_nothing() {
    let (source, _dio, draft) = form();
    let held = source.hold(Call::Patch);
    draft.set("price", 33).unwrap();
    let ticket = draft.save().unwrap().unwrap();
    draft.set("stock", 7).unwrap();
    assert_eq!(draft.save().unwrap_err().kind(), ErrorKind::Full);
    assert_eq!((draft.status(), draft.error().map(|_| ())), (DraftStatus::Saving, None));
    held.release();
    ticket.wait(SOON).unwrap();
    assert_eq!((draft.touched(), received(&source).len()), (vec!["stock".into()], 1));
}

#[test]
fn a_field_taken_back_while_it_is_saved_is_to_be_saved_again() {
    let (source, _dio, draft) = form();
    let held = source.hold(Call::Patch);
    draft.set("price", 33).unwrap();
    let ticket = draft.save().unwrap().unwrap();
    draft.set("price", 30).unwrap();
    held.release();
    ticket.wait(SOON).unwrap();
    assert_eq!((draft.get("price"), draft.status()), (Some(30.into()), DraftStatus::Changed));
    saved(&draft);
    assert_eq!(source.row("a").unwrap().int("price"), Some(30));
}

#[test]
fn a_dropped_draft_cancels_no_save() {
    let (source, _dio, draft) = form();
    let held = source.hold(Call::Patch);
    draft.set("price", 33).unwrap();
    let ticket = draft.save().unwrap().unwrap();
    drop(draft);
    held.release();
    ticket.wait(SOON).unwrap();
    assert_eq!(source.row("a").unwrap().int("price"), Some(33));
}

#[test]
fn reads_go_on_while_a_save_waits_for_room_in_the_queue() {
    let source = products();
    let lens = Lens::new().in_memory().write_queue_capacity(1).write_timeout(SOON).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    let held = source.hold(Call::Delete);
    let first = dio.write(WriteOp::delete("z")).unwrap();
    assert!(held.wait_until_held(1, SOON));
    let draft = dio.draft("a").unwrap();
    draft.set("price", 33).unwrap();
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| draft.save().unwrap().unwrap());
        wait_until(&draft, "saving", |draft| draft.status() == DraftStatus::Saving);
        assert_eq!(draft.get("price"), Some(33.into()));
        draft.set("stock", 1).unwrap();
        held.release();
        let ticket: WriteTicket = saving.join().unwrap();
        ticket.wait(SOON).unwrap();
    });
    first.wait(SOON).unwrap();
    assert_eq!(draft.touched(), ["stock"]);
}

#[test]
fn a_save_for_which_the_queue_has_no_room_keeps_the_draft() {
    let source = products();
    let lens = Lens::new().in_memory().write_queue_capacity(1).write_timeout(Duration::from_millis(1)).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    let held = source.hold(Call::Delete);
    let first = dio.write(WriteOp::delete("z")).unwrap();
    let draft = dio.draft("a").unwrap();
    draft.set("price", 33).unwrap();
    assert_eq!(draft.save().unwrap_err().kind(), ErrorKind::Full);
    assert_eq!((draft.get("price"), draft.status()), (Some(33.into()), DraftStatus::Rejected));
    held.release();
    first.wait(SOON).unwrap();
    let ticket = loop {
        // The first one's place is given back just after its ticket ends.
        match draft.save() {
            Ok(ticket) => break ticket,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Full),
        }
    };
    ticket.unwrap().wait(SOON).unwrap();
    assert_eq!(draft.status(), DraftStatus::Clean);
}

// ---- refused saves -------------------------------------------------------------------------------------------------

#[test]
fn a_refused_save_keeps_the_draft_with_an_error_for_each_field() {
    let (source, _dio, draft) = form();
    draft.set("price", 3).unwrap();
    draft.set("name", "Big anvil").unwrap();
    source.fail_next(Call::Patch, 1, too_cheap().with_field("name", "is taken"));
    let error = refused(&draft);
    let expected = [said("price", "is below the cost"), said("name", "is taken")];
    assert_eq!(fields_of(&error), expected);
    assert_eq!(draft.errors(), expected);
    assert_eq!(draft.field("price").error.as_deref(), Some("is below the cost"));
    assert_eq!((draft.error().unwrap().kind(), draft.status()), (ErrorKind::Rejected, DraftStatus::Rejected));
    assert_eq!((draft.get("price"), draft.touched().len()), (Some(3.into()), 2));
}

#[test]
fn a_refused_save_that_is_corrected_is_saved() {
    let (source, _dio, draft) = form();
    draft.set("price", 3).unwrap();
    draft.set("stock", 4).unwrap();
    source.fail_next(Call::Patch, 1, too_cheap());
    refused(&draft);
    draft.set("price", 33).unwrap();
    assert!(draft.errors().is_empty(), "the field's error goes with the edit");
    assert_eq!(draft.status(), DraftStatus::Rejected, "the save has not been repeated");
    saved(&draft);
    assert_eq!((draft.status(), draft.error().map(|_| ())), (DraftStatus::Clean, None));
    assert_eq!(received(&source)[1], WriteOp::patch("a", record! { "price" => 33, "stock" => 4 }));
}

#[test]
fn a_refused_save_leaves_the_fields_that_are_not_touched_to_the_row() {
    let (source, dio, draft) = form();
    draft.set("price", 3).unwrap();
    source.fail_next(Call::Patch, 1, too_cheap());
    refused(&draft);
    moves(&source, &dio, record! { "name" => "Old anvil", "price" => 31 });
    assert_eq!((draft.get("name"), draft.get("price")), (Some("Old anvil".into()), Some(3.into())));
    assert_eq!((draft.conflicts(), draft.status()), (vec!["price".into()], DraftStatus::Conflict));
}

#[test]
fn the_fields_that_a_callback_names_reach_the_draft_through_a_wrapping_error() {
    let refuses = |_: &Dio, _: &WriteRequest<'_>| {
        Err(Error::new(ErrorKind::Rejected, "the service said no").with_source(too_cheap()))
    };
    let dio = Lens::new().in_memory().on_write(refuses).build().unwrap().make_dio(products()).unwrap();
    let draft = dio.draft("a").unwrap();
    draft.set("price", 3).unwrap();
    refused(&draft);
    assert_eq!(draft.errors(), [said("price", "is below the cost")]);
}

#[test]
fn a_field_taken_back_during_a_save_that_fails_is_untouched() {
    let (source, _dio, draft) = form();
    let held = source.hold(Call::Patch);
    source.fail_next(Call::Patch, 1, too_cheap());
    draft.set("price", 3).unwrap();
    let ticket = draft.save().unwrap().unwrap();
    draft.set("price", 30).unwrap();
    held.release();
    ticket.wait(SOON).unwrap_err();
    assert_eq!((draft.touched(), draft.status()), (vec![], DraftStatus::Rejected));
}

// ---- generations, waiting, closing ---------------------------------------------------------------------------------

#[test]
fn the_generation_moves_with_edits_and_not_without() {
    let (_source, dio, draft) = form();
    let (first, moves) = (draft.generation(), dio.view_moves());
    draft.set("price", 33).unwrap();
    assert!(draft.generation() > first && dio.view_moves() > moves);
    let second = draft.generation();
    draft.set("price", 33).unwrap();
    draft.reset("name");
    draft.resolve("price", Keep::Theirs);
    assert_eq!(draft.generation(), second, "nothing has changed");
    draft.reset("price");
    assert!(draft.generation() > second);
}

#[test]
fn the_generation_moves_when_a_save_begins_and_not_when_there_is_none() {
    let (source, dio, draft) = form();
    let first = draft.generation();
    assert!(draft.save().unwrap().is_none());
    assert_eq!(draft.generation(), first, "nothing to save");
    draft.set("price", 33).unwrap();
    moves(&source, &dio, record! { "price" => 31 });
    let second = draft.generation();
    draft.save().unwrap_err();
    assert_eq!(draft.generation(), second, "in conflict");
    draft.resolve("price", Keep::Mine);
    let held = source.hold(Call::Patch);
    let third = draft.generation();
    draft.save().unwrap();
    let fourth = draft.generation();
    assert_eq!(fourth, third.next().next(), "the save has begun, and the row shows it");
    draft.save().unwrap_err();
    assert_eq!(draft.generation(), fourth, "one is under way");
    drop(held);
}

#[test]
fn the_generation_moves_with_the_row() {
    let (source, dio, draft) = form();
    let seen = draft.generation();
    moves(&source, &dio, record! { "stock" => 4 });
    assert!(draft.generation() > seen);
    dio.patched("b", record! { "name" => "Bell" }).unwrap();
    assert_eq!(draft.generation(), seen.next(), "another row");
}

#[test]
fn the_generation_moves_when_a_save_is_refused() {
    let (source, _dio, draft) = form();
    let held = source.hold(Call::Patch);
    source.fail_next(Call::Patch, 1, too_cheap());
    draft.set("price", 3).unwrap();
    draft.save().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| wait_until(&draft, "refused", |draft| draft.status() == DraftStatus::Rejected));
        assert!(held.wait_until_held(1, SOON));
        held.release();
    });
    assert_eq!(draft.errors().len(), 1);
}

#[test]
fn a_hook_is_called_for_the_end_of_a_save() {
    let (source, _dio, draft) = form();
    source.fail_next(Call::Patch, 1, too_cheap());
    let (tell, told) = unbounded();
    let form = draft.clone();
    let _hook = draft
        .on_generation(move |_| {
            let _ = tell.send(form.status());
        })
        .unwrap();
    draft.set("price", 3).unwrap();
    draft.save().unwrap();
    while told.recv_timeout(SOON).unwrap() != DraftStatus::Rejected {}
}

#[test]
fn a_draft_can_be_waited_for_beside_views() {
    let (source, dio, draft) = form();
    let other = dio.record_scenery("z").unwrap();
    let seen = [(&draft as &dyn Scenery, draft.generation()), (&other, other.generation())];
    moves(&source, &dio, record! { "stock" => 4 });
    assert_eq!(wait_any(&seen, Some(SOON)).unwrap(), [0]);
}

#[test]
fn closing_wakes_who_waits_for_a_draft_of_a_row_or_of_a_new_one() {
    let (_source, dio, draft) = form();
    let new = dio.draft_new().unwrap();
    std::thread::scope(|scope| {
        let waits = [draft, new].map(|draft| {
            scope.spawn(move || draft.wait_for_change(Generation(u64::MAX - 1), Some(SOON)).unwrap_err().kind())
        });
        dio.close(SOON).unwrap();
        assert_eq!(waits.map(|wait| wait.join().unwrap()), [ErrorKind::Closed; 2]);
    });
}

#[test]
fn a_closed_dios_draft_keeps_what_it_shows_and_saves_no_more() {
    let (_source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    dio.close(SOON).unwrap();
    assert_eq!(draft.get("price"), Some(33.into()));
    assert_eq!(draft.get("name"), Some("Anvil".into()));
    assert_eq!(draft.save().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(draft.touched(), ["price"]);
}

#[test]
fn a_new_row_whose_dio_closes_behind_its_save_keeps_what_was_saved() {
    let (_source, dio, _draft) = form_on(products().assign_ids_from("p"));
    let draft = dio.draft_new().unwrap();
    draft.set("name", "Bell").unwrap();
    draft.set("price", 10).unwrap();
    draft.save().unwrap().unwrap().wait(SOON).unwrap();
    dio.close(SOON).unwrap();
    assert_eq!((draft.id().as_deref(), draft.get("name")), (Some("p1"), Some("Bell".into())));
}

#[test]
fn a_draft_does_not_keep_its_dio_alive() {
    let (_source, dio, draft) = form();
    draft.set("price", 33).unwrap();
    drop(dio);
    assert_eq!(draft.save().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(draft.get("price"), Some(33.into()));
}
