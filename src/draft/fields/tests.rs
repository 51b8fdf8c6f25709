use super::*;
use crate::record;

/// A row that is there.
fn there(record: &Record) -> Row<'_> {
    Row { shown: Some(record), is_there: true, is_pending: false }
}

/// A row that is there, with a write that is not settled.
fn pending(record: &Record) -> Row<'_> {
    Row { is_pending: true, ..there(record) }
}

/// A row that has gone.
fn gone(record: &Record) -> Row<'_> {
    Row { shown: Some(record), is_there: false, is_pending: false }
}

fn touched(fields: &Fields) -> Vec<&str> {
    fields.touched().collect()
}

fn begin(fields: &mut Fields, row: &Record) -> Record {
    let sent = fields.changes(there(row));
    fields.begin(sent.clone());
    sent
}

fn refused() -> Error {
    Error::new(ErrorKind::Rejected, "no")
}

#[test]
fn a_field_set_to_what_the_row_has_is_not_touched() {
    let row = record! { "n" => 1 };
    let mut fields = Fields::default();
    assert!(!fields.set("n", 1.into(), there(&row)));
    assert!(!fields.set("absent", Value::Null, there(&row)), "null and absent are the same");
    assert!(fields.set("n", 2.into(), there(&row)));
    assert!(fields.set("n", 1.into(), there(&row)));
    assert!(touched(&fields).is_empty() && !fields.is_dirty(there(&row)));
}

#[test]
fn one_and_one_point_zero_are_different_values() {
    let row = record! { "n" => 1 };
    let mut fields = Fields::default();
    assert!(fields.set("n", 1.0.into(), there(&row)));
    assert_eq!(touched(&fields), ["n"]);
}

#[test]
fn a_conflict_is_a_row_that_left_the_base_for_another_value_than_the_users() {
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&record! { "n" => 1 }));
    let state = |n: Option<i64>| fields.field("n", there(&record! { "n" => n })).state;
    assert_eq!(state(Some(1)), FieldState::Changed);
    assert_eq!(state(Some(2)), FieldState::Changed, "somebody else wanted the same");
    assert_eq!(state(Some(3)), FieldState::Conflict);
    assert_eq!(state(None), FieldState::Conflict);
    assert_eq!(fields.field("n", gone(&record! { "n" => 3 })).state, FieldState::Changed, "the row says all of it");
}

#[test]
fn a_field_in_conflict_that_is_set_keeps_its_first_base() {
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&record! { "n" => 1 }));
    let row = record! { "n" => 3 };
    fields.set("n", 4.into(), there(&row));
    let field = fields.field("n", there(&row));
    assert_eq!((field.base, field.live, field.state), (Some(1.into()), Some(3.into()), FieldState::Conflict));
}

#[test]
fn mine_takes_the_rows_value_for_the_base_and_theirs_for_the_field() {
    let row = record! { "n" => 3, "m" => 3 };
    let mut fields = Fields::default();
    for name in ["n", "m"] {
        fields.set(name, 2.into(), there(&record! { "n" => 1, "m" => 1 }));
    }
    assert!(fields.resolve("n", Keep::Mine, there(&row)));
    assert!(fields.resolve("m", Keep::Theirs, there(&row)));
    assert!(!fields.resolve("n", Keep::Theirs, there(&row)), "without a conflict nothing is resolved");
    assert_eq!(touched(&fields), ["n"]);
    assert_eq!(fields.changes(there(&row)), record! { "n" => 2 });
}

#[test]
fn a_confirmed_save_lets_go_of_what_was_not_edited_since() {
    let row = record! { "n" => 1, "m" => 1 };
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&row));
    fields.set("m", 2.into(), there(&row));
    begin(&mut fields, &row);
    fields.set("m", 3.into(), there(&row));
    let saved = record! { "n" => 2, "m" => 2 };
    fields.confirmed(there(&saved));
    assert_eq!(touched(&fields), ["m"]);
    let field = fields.field("m", there(&saved));
    assert_eq!((field.base, field.state), (Some(2.into()), FieldState::Changed));
}

#[test]
fn a_field_that_the_source_stored_otherwise_is_in_conflict_with_an_edit_since() {
    let row = record! { "n" => "a" };
    let mut fields = Fields::default();
    fields.set("n", " b ".into(), there(&row));
    begin(&mut fields, &row);
    fields.set("n", "c".into(), there(&row));
    let trimmed = record! { "n" => "b" };
    fields.confirmed(there(&trimmed));
    assert_eq!(fields.in_conflict(there(&trimmed)).collect::<Vec<_>>(), ["n"]);
}

#[test]
fn a_field_taken_back_while_it_is_saved_is_changed_once_that_is_confirmed() {
    let row = record! { "n" => 1 };
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&row));
    begin(&mut fields, &row);
    fields.set("n", 1.into(), there(&row));
    assert_eq!(touched(&fields), ["n"], "the save will change the row");
    let saved = record! { "n" => 2 };
    fields.confirmed(there(&saved));
    assert_eq!(fields.changes(there(&saved)), record! { "n" => 1 });
}

#[test]
fn a_field_taken_back_while_it_is_saved_is_untouched_once_that_has_failed() {
    let row = record! { "n" => 1 };
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&row));
    begin(&mut fields, &row);
    fields.set("n", 1.into(), there(&row));
    fields.failed(refused(), there(&row));
    assert!(touched(&fields).is_empty());
}

#[test]
fn a_row_that_shows_the_value_being_saved_is_not_in_conflict_with_an_edit_since() {
    let row = record! { "n" => 1 };
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&row));
    begin(&mut fields, &row);
    fields.set("n", 3.into(), there(&row));
    let state = |n: i64| fields.field("n", there(&record! { "n" => n })).state;
    assert_eq!((state(2), state(4)), (FieldState::Changed, FieldState::Conflict));
}

#[test]
fn theirs_of_a_field_that_is_being_saved_is_kept_for_the_next_save() {
    let mut fields = Fields::default();
    let row = record! { "n" => 1 };
    fields.set("n", 2.into(), there(&row));
    begin(&mut fields, &row);
    assert!(fields.resolve("n", Keep::Theirs, there(&record! { "n" => 5 })));
    assert_eq!(fields.value("n", there(&row)), Some(&5.into()));
    let saved = record! { "n" => 2 };
    fields.confirmed(there(&saved));
    assert_eq!(fields.changes(there(&saved)), record! { "n" => 5 });
}

#[test]
fn fields_that_the_row_has_got_are_not_written_and_are_let_go_with_the_save() {
    let mut fields = Fields::default();
    let row = record! { "n" => 1, "m" => 1 };
    fields.set("n", 2.into(), there(&row));
    fields.set("m", 2.into(), there(&row));
    let row = record! { "n" => 2, "m" => 1 };
    assert_eq!(begin(&mut fields, &row), record! { "m" => 2 });
    assert_eq!(touched(&fields), ["n", "m"], "the save may fail");
    fields.confirmed(there(&record! { "n" => 2, "m" => 2 }));
    assert!(touched(&fields).is_empty());
}

#[test]
fn a_refusal_by_the_schema_is_the_error_of_its_column() {
    let row = Record::new();
    let mut fields = Fields::default();
    fields.failed(refused().with("column", "n"), there(&row));
    assert_eq!(fields.errors(), [("n".to_owned(), "no".to_owned())]);
    fields.failed(refused().with_field("m", "one").with_field("m", "two"), there(&row));
    assert_eq!(fields.errors(), [("m".to_owned(), "one; two".to_owned())]);
}

#[test]
fn the_error_of_a_field_goes_when_it_is_edited_and_the_general_one_stays() {
    let row = record! { "n" => 1 };
    let mut fields = Fields::default();
    fields.failed(refused().with_field("n", "low").with_field("m", "long"), there(&row));
    assert!(fields.set("n", 5.into(), there(&row)));
    assert!(fields.reset("m"));
    assert!(fields.errors().is_empty() && fields.error().is_some());
    assert!(fields.reset_all());
    assert!(fields.error().is_none());
}

#[test]
fn the_value_of_a_save_under_way_is_no_move_of_the_row_and_its_loss_is_none_either() {
    let (before, during) = (record! { "n" => 1 }, record! { "n" => 2 });
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&before));
    begin(&mut fields, &before);
    assert!(fields.is_dirty(pending(&during)));
    fields.set("n", 3.into(), pending(&during));
    assert_eq!(fields.in_conflict(pending(&during)).count(), 0);
    fields.failed(refused(), there(&before));
    let n = fields.field("n", there(&before));
    assert_eq!((n.value, n.base, n.state), (Some(3.into()), Some(1.into()), FieldState::Changed));
}

#[test]
fn what_somebody_else_did_under_a_save_that_fails_is_a_conflict_then() {
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&record! { "n" => 1 }));
    begin(&mut fields, &record! { "n" => 1 });
    assert_eq!(fields.in_conflict(pending(&record! { "n" => 2 })).count(), 0);
    fields.failed(refused(), there(&record! { "n" => 7 }));
    assert_eq!(fields.in_conflict(there(&record! { "n" => 7 })).collect::<Vec<_>>(), ["n"]);
}

#[test]
fn a_field_reset_while_it_is_saved_and_set_again_keeps_its_first_base() {
    let (before, during) = (record! { "n" => 1 }, record! { "n" => 2 });
    for again in [2, 3] {
        let mut fields = Fields::default();
        fields.set("n", 2.into(), there(&before));
        begin(&mut fields, &before);
        fields.reset("n");
        fields.set("n", again.into(), pending(&during));
        fields.failed(refused(), there(&before));
        let n = fields.field("n", there(&before));
        assert_eq!((n.value, n.base, n.state), (Some(again.into()), Some(1.into()), FieldState::Changed));
    }
}

#[test]
fn a_value_that_another_pending_write_shows_is_still_to_be_saved() {
    let (before, during) = (record! { "n" => 1 }, record! { "n" => 2 });
    let mut fields = Fields::default();
    fields.set("n", 2.into(), there(&before));
    assert!(fields.is_dirty(pending(&during)));
    assert_eq!(fields.changes(pending(&during)), record! { "n" => 2 });
    assert_eq!(touched(&fields), ["n"]);
    assert!(!fields.is_dirty(there(&during)));
}
