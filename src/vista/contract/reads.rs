//! Reads: what a source says of itself, lists and finds; and what it must refuse.

use std::collections::BTreeSet;

use crate::ErrorKind;
use crate::value::{Record, Value};
use crate::vista::{CallCx, QueryDescriptor, WriteOp};

use super::Rows;
use super::check::{Checker, list_all, said, says_id, write};
use super::report::{Rule, field_difference, shown, shown_id};
use super::sample;

pub(super) fn check(checker: &mut Checker<'_>) -> Option<()> {
    checker.fenced("identity", identity);
    checker.fenced("listing", listing);
    checker.fenced("get", get);
    checker.fenced("calls that the capabilities deny", denied);
    checker.fenced("awkward ids", awkward_ids);
    Some(())
}

fn identity(checker: &mut Checker<'_>) -> Option<()> {
    let rows = checker.few();
    let subject = checker.source(rows)?;
    let shell = subject.vista.shell();
    let told = || (shell.name().to_owned(), shell.source_key(), shell.schema(), shell.capabilities());
    let (name, key, schema, capabilities) = told();
    checker.expect(Rule::Identity, !name.is_empty() && !key.is_empty(), "name, source_key", || {
        format!("name is {name:?}, source key is {key:?}")
    });
    list_all(&**shell).ok();
    checker.expect(
        Rule::Identity,
        told() == (name, key.clone(), schema, capabilities),
        "the same, after a list",
        || "name, source key, schema or capabilities are others than before".to_owned(),
    );
    if checker.brings_rows() {
        let other = checker.source(Rows::new())?;
        checker.expect(Rule::Identity, other.vista.source_key() != key, "source_key of another source", || {
            format!("both sources have the key {key:?}, and other rows")
        });
    }
    Some(())
}

fn listing(checker: &mut Checker<'_>) -> Option<()> {
    let rows = checker.many();
    let subject = checker.source(rows.clone())?;
    let shell = &**subject.vista.shell();
    let mut found = checker.must(Rule::Fixture, "list of everything", list_all(shell))?;
    let again = checker.must(Rule::Fixture, "list of everything", list_all(shell))?;
    checker.same_rows(Rule::ListStable, || "list of everything, a second time".to_owned(), &found, &again);
    ids_of(checker, &found);
    schema_of(checker, &found, subject.vista.schema().is_known());
    if checker.brings_rows() {
        let mut expected = rows;
        for list in [&mut expected, &mut found] {
            list.sort_by(|(left, _), (right, _)| left.cmp(right));
            for (_, record) in list.iter_mut() {
                *record = checker.without_id(std::mem::take(record));
            }
        }
        checker.same_rows(Rule::ListWhole, || "list of everything, by id".to_owned(), &expected, &found);
        let empty = checker.source(Rows::new())?;
        let none = checker.must(Rule::Fixture, "list of an empty source", list_all(&**empty.vista.shell()))?;
        checker.same_rows(Rule::ListWhole, || "list of an empty source".to_owned(), &Rows::new(), &none);
    }
    Some(())
}

/// Each id once, not empty, and said by the id column, too.
pub(super) fn ids_of(checker: &mut Checker<'_>, rows: &Rows) {
    let id_column = checker.schema.id_column().unwrap_or_default().to_owned();
    let mut seen = BTreeSet::new();
    for (position, (id, record)) in rows.iter().enumerate() {
        checker.expect(Rule::Ids, !id.is_empty(), "list of everything", || format!("row {position} has an empty id"));
        checker.expect(Rule::Ids, seen.insert(id), "list of everything", || {
            format!("row {position} has the id {}, which another row has, too", shown_id(id))
        });
        let said = record.get(&id_column).unwrap_or(&Value::Null);
        checker.expect(Rule::Ids, says_id(said, id), "list of everything", || {
            format!("row {position} has the id {}, and in `{id_column}` {}", shown_id(id), shown(said))
        });
    }
}

fn schema_of(checker: &mut Checker<'_>, rows: &Rows, is_known: bool) {
    let subject = checker.source(checker.many());
    let Some(subject) = subject else { return };
    let schema = subject.vista.schema();
    let expected_id = checker.schema.id_column().map(str::to_owned);
    checker.expect(Rule::Schema, schema.id_column() == expected_id.as_deref(), "schema", || {
        format!("the id column is {:?}, expected {expected_id:?}", schema.id_column())
    });
    let mut seen = BTreeSet::new();
    for column in schema.columns() {
        checker.expect(Rule::Schema, seen.insert(column.name()), "schema", || {
            format!("the column `{}` is listed twice", column.name())
        });
    }
    if !is_known {
        return;
    }
    checker.expect(Rule::Schema, schema.id_column().is_some_and(|id| seen.contains(id)), "schema", || {
        format!("the id column {:?} is not among the columns {seen:?}", schema.id_column())
    });
    for (id, record) in rows {
        for (name, value) in record.iter() {
            let kind = schema.column(name).map(|column| column.kind());
            checker.expect(Rule::Schema, kind.is_some(), "schema, and list of everything", || {
                format!("the row {} has a column `{name}` that the schema doesn't list", shown_id(id))
            });
            if let Some(kind) = kind {
                checker.expect(Rule::Schema, kind.holds(value), "schema, and list of everything", || {
                    format!("the row {} has in `{name}`, which is {kind}, {}", shown_id(id), shown(value))
                });
            }
        }
    }
}

fn get(checker: &mut Checker<'_>) -> Option<()> {
    let rows = checker.many();
    let subject = checker.source(rows)?;
    let shell = &**subject.vista.shell();
    let listed = checker.must(Rule::Fixture, "list of everything", list_all(shell))?;
    let shown_rows = checker.must(Rule::ThroughVista, "list through a Vista", subject.vista.list_values())?;
    let cx = CallCx::new();
    if shell.capabilities().get {
        for (id, record) in &listed {
            let asked = format!("get of {}", shown_id(id));
            let found = checker.must(Rule::GetAgrees, &asked, shell.get(&cx, id))?;
            agree(checker, Rule::GetAgrees, &asked, Some(record), found.as_ref());
        }
        for id in ids_near(&listed) {
            let asked = format!("get of {}, which list doesn't have", shown_id(&id));
            let found = checker.must(Rule::GetAgrees, &asked, shell.get(&cx, &id))?;
            agree(checker, Rule::GetAgrees, &asked, None, found.as_ref());
        }
    }
    for (id, _) in &listed {
        let asked = format!("get of {} through a Vista", shown_id(id));
        let expected = shown_rows.iter().find(|(shown, _)| shown == id).map(|(_, record)| record);
        let found = checker.must(Rule::ThroughVista, &asked, subject.vista.get_value(id))?;
        agree(checker, Rule::ThroughVista, &asked, expected, found.as_ref());
    }
    Some(())
}

/// Ids that no row has, each close to one that a row has.
fn ids_near(rows: &Rows) -> Vec<String> {
    let mut ids = vec!["no such row".to_owned(), "%".to_owned(), "0".to_owned()];
    if let Some((id, _)) = rows.first() {
        let shorter: String = id.chars().skip(1).collect();
        let variants =
            [id.to_uppercase(), id.to_lowercase(), format!("{id} "), format!(" {id}"), format!("{id}'"), shorter];
        ids.extend(variants.into_iter().filter(|variant| !variant.is_empty()));
    }
    ids.retain(|id| !rows.iter().any(|(other, _)| other == id));
    ids
}

pub(super) fn agree(
    checker: &mut Checker<'_>,
    rule: Rule,
    asked: &str,
    expected: Option<&Record>,
    found: Option<&Record>,
) -> bool {
    let difference = match (expected, found) {
        (None, None) => None,
        (Some(_), None) => Some("there is none, expected the row that list has".to_owned()),
        (None, Some(_)) => Some("there is a row, expected none".to_owned()),
        (Some(expected), Some(found)) => field_difference(expected, found),
    };
    checker.expect(rule, difference.is_none(), asked, || difference.unwrap_or_default())
}

/// Everything that the capabilities deny is `Unsupported`, and done by nobody.
fn denied(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, before) = checker.source_of_few()?;
    let shell = &**subject.vista.shell();
    let (cx, all, can) = (CallCx::new(), QueryDescriptor::default(), shell.capabilities());
    let unsupported = ErrorKind::Unsupported;
    let existing = before.keys().next().cloned().unwrap_or_default();
    if !can.get {
        checker.must_refuse(Rule::Denied, "get", unsupported, shell.get(&cx, &existing));
    }
    if !can.count {
        checker.must_refuse(Rule::Denied, "count", unsupported, shell.count(&cx, &all));
    }
    if !can.pages {
        checker.must_refuse(Rule::Denied, "page", unsupported, shell.page(&cx, &all, None, 1));
        checker.must_refuse(Rule::Denied, "page through a Vista", unsupported, subject.vista.page(&cx, None, 1));
    }
    if !can.changes {
        checker.must_refuse(Rule::Denied, "changes", unsupported, shell.changes(&cx));
    }
    if !checker.brings_rows() {
        return Some(());
    }
    let fresh = checker.fresh_id(0);
    let (new, other) = (checker.row(1, &fresh), checker.row(2, &existing));
    let writes = [
        (can.insert, WriteOp::insert_as(fresh.as_str(), new.clone())),
        (can.upsert, WriteOp::upsert(fresh.as_str(), new.clone())),
        (can.replace, WriteOp::replace(existing.as_str(), other.clone())),
        (can.patch, WriteOp::patch(existing.as_str(), other)),
        (can.delete, WriteOp::delete(existing.as_str())),
        (can.delete_all, WriteOp::delete_all()),
    ];
    for (_, op) in writes.iter().filter(|(allowed, _)| !allowed) {
        let asked = said(op);
        checker.must_refuse(Rule::Denied, &asked, unsupported, write(shell, &cx, op));
        checker.holds(Rule::Denied, &asked, shell, &before);
    }
    if !can.batch {
        let ops: Vec<WriteOp> = writes.iter().take(1).map(|(_, op)| op.clone()).collect();
        checker.must_refuse(Rule::Denied, "batch", unsupported, shell.batch(&cx, &ops));
        checker.holds(Rule::Denied, "batch", shell, &before);
    }
    Some(())
}

fn awkward_ids(checker: &mut Checker<'_>) -> Option<()> {
    if !checker.brings_rows() || checker.fixture.ids.is_some() {
        return Some(());
    }
    let ids = sample::awkward_ids();
    let rows = checker.rows_under(&ids);
    let subject = checker.source(rows.clone())?;
    let shell = &**subject.vista.shell();
    let mut found = checker.must(Rule::AwkwardIds, "list of rows with awkward ids", list_all(shell))?;
    found.sort_by_key(|(id, _)| ids.iter().position(|known| known == id).unwrap_or(usize::MAX));
    let without_id = |checker: &Checker<'_>, rows: Rows| -> Rows {
        rows.into_iter().map(|(id, record)| (id, checker.without_id(record))).collect()
    };
    let (expected, found) = (without_id(checker, rows), without_id(checker, found));
    checker.same_rows(Rule::AwkwardIds, || "list of rows with awkward ids".to_owned(), &expected, &found);
    let (cx, can) = (CallCx::new(), shell.capabilities());
    if can.get {
        for (id, record) in &expected {
            let asked = format!("get of {}", shown_id(id));
            let row = checker.must(Rule::AwkwardIds, &asked, shell.get(&cx, id))?;
            let row = row.map(|row| checker.without_id(row));
            agree(checker, Rule::AwkwardIds, &asked, Some(record), row.as_ref());
        }
    }
    let mut contents = checker.contents(shell)?;
    if can.delete {
        for id in ids.iter().step_by(2) {
            let op = WriteOp::delete(id.as_str());
            checker.must(Rule::AwkwardIds, &said(&op), write(shell, &cx, &op))?;
            contents.remove(id);
        }
        checker.holds(Rule::AwkwardIds, "deletes of every other awkward id", shell, &contents);
    }
    if can.upsert {
        for (number, id) in ids.iter().enumerate() {
            let record = checker.row(number + 1, id);
            let op = WriteOp::upsert(id.as_str(), record.clone());
            checker.must(Rule::AwkwardIds, &said(&op), write(shell, &cx, &op))?;
            contents.insert(id.clone(), checker.without_id(record));
        }
        checker.holds(Rule::AwkwardIds, "upserts of every awkward id", shell, &contents);
    }
    Some(())
}
