//! Writes: each does what it says and nothing else, and one that is refused does nothing.
//!
//! Flow: a source of a few rows → a write → its answer, and all rows, against what must be there.

use crate::value::{Record, Value};
use crate::vista::{CallCx, Capabilities, TableShell, WriteOp, Written};
use crate::{ErrorKind, Result};

use super::check::{Checker, Contents, list_all, said, write};
use super::report::{Rule, field_difference, same, shown, shown_id};
use super::{Rows, reads, sample};

pub(super) fn check(checker: &mut Checker<'_>) -> Option<()> {
    if !checker.brings_rows() {
        return Some(());
    }
    checker.fenced("inserts", inserts);
    checker.fenced("replaces", replaces);
    checker.fenced("patches", patches);
    checker.fenced("upserts", upserts);
    checker.fenced("deletes", deletes);
    checker.fenced("values", values_come_back);
    checker.fenced("what the schema refuses", schema_is_held);
    checker.fenced("batches", batches);
    checker.fenced("repeated writes", repeated_writes);
    Some(())
}

/// A source of a few rows while it is being written.
pub(super) struct Table<'a> {
    pub(super) shell: &'a dyn TableShell,
    pub(super) can: Capabilities,
    /// What it must hold.
    pub(super) contents: Contents,
    /// An id that it has.
    pub(super) existing: String,
    pub(super) other: String,
}

impl<'a> Table<'a> {
    pub(super) fn new(shell: &'a dyn TableShell, contents: Contents) -> Self {
        let mut ids = contents.keys();
        let existing = ids.next().cloned().unwrap_or_default();
        let other = ids.next().cloned().unwrap_or_default();
        Table { shell, can: shell.capabilities(), contents, existing, other }
    }

    pub(super) fn write(&self, op: &WriteOp) -> Result<Written> {
        write(self.shell, &CallCx::new(), op)
    }

    /// Does a write that must be done; the answer's id must be that of the row afterwards.
    fn done(&mut self, checker: &mut Checker<'_>, rule: Rule, op: &WriteOp) -> Option<String> {
        let asked = said(op);
        let written = checker.must(rule, &asked, self.write(op))?;
        self.landed(checker, rule, &asked, op, &written)
    }

    /// Holds the source against what it must hold after a write that answered `written`.
    fn landed(
        &mut self,
        checker: &mut Checker<'_>,
        rule: Rule,
        asked: &str,
        op: &WriteOp,
        written: &Written,
    ) -> Option<String> {
        let Some(id) = written.id.clone() else {
            checker.fail(Rule::WrittenId, asked, "the answer names no id");
            return None;
        };
        let may_choose = matches!(op, WriteOp::Insert { .. });
        if !may_choose && op.id() != Some(id.as_str()) {
            checker.fail(Rule::WrittenId, asked, format!("the answer names the id {}", shown_id(&id)));
            return None;
        }
        let is_there = checker.contents(self.shell)?.contains_key(&id);
        let otherwise = || format!("the answer names the id {}, under which there is no row", shown_id(&id));
        if !checker.expect(Rule::WrittenId, is_there, asked, otherwise) {
            return None;
        }
        self.expect_after(checker, op, &id);
        if !checker.holds(rule, asked, self.shell, &self.contents) {
            // All that follows would differ by this, too.
            return None;
        }
        let rows = checker.must(rule, asked, list_all(self.shell))?;
        reads::ids_of(checker, &rows);
        let stored = rows.into_iter().find(|(row, _)| *row == id).map(|(_, record)| record)?;
        if let Some(told) = &written.record {
            let difference = field_difference(&checker.without_id(stored), &checker.without_id(told.clone()));
            checker.expect(Rule::WrittenRow, difference.is_none(), asked, || {
                format!("in the answer, {}", difference.unwrap_or_default())
            });
        }
        Some(id)
    }

    fn expect_after(&mut self, checker: &Checker<'_>, op: &WriteOp, id: &str) {
        let Some(record) = op.record() else { return };
        let record = checker.without_id(record.clone());
        match op {
            WriteOp::Patch { .. } => self.contents.entry(id.to_owned()).or_default().merge(&record),
            _ => {
                self.contents.insert(id.to_owned(), record);
            }
        }
    }

    /// Does a write that must be refused and leave no trace.
    fn refused(&self, checker: &mut Checker<'_>, rule: Rule, kind: impl Into<Option<ErrorKind>>, op: &WriteOp) {
        let asked = said(op);
        if checker.must_refuse(rule, &asked, kind, self.write(op)).is_some() {
            checker.holds(Rule::NoTrace, &asked, self.shell, &self.contents);
        }
    }
}

fn inserts(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let mut table = Table::new(&**subject.vista.shell(), contents);
    if !table.can.insert {
        return Some(());
    }
    let fresh = checker.fresh_id(0);
    let op = WriteOp::insert_as(fresh.as_str(), checker.row(3, &fresh));
    let id = table.done(checker, Rule::Insert, &op)?;
    let source_chooses = id != fresh;

    // Without an id the source finds one, in the row or by itself, or says that it needs one.
    let fresh = checker.fresh_id(1);
    for record in [checker.row(4, &fresh), checker.without_id(checker.row(5, &fresh))] {
        let op = WriteOp::insert(record);
        let asked = "insert without an id";
        match table.write(&op) {
            Ok(written) => {
                table.landed(checker, Rule::Insert, asked, &op, &written)?;
            }
            Err(error) => {
                checker.must_refuse(Rule::Insert, asked, ErrorKind::Invalid, Err::<(), _>(error));
                checker.holds(Rule::NoTrace, asked, table.shell, &table.contents);
            }
        }
    }

    let taken = table.existing.clone();
    let again = WriteOp::insert_as(taken.as_str(), checker.row(6, &taken));
    if source_chooses {
        table.done(checker, Rule::Insert, &again)?;
    } else {
        table.refused(checker, Rule::InsertTaken, ErrorKind::Conflict, &again);
    }
    Some(())
}

/// A row with the value of one column alone, and that column.
fn one_field(checker: &Checker<'_>, now: &Record) -> Option<Record> {
    let column = sample::columns(&checker.schema).next()?;
    let null = Value::Null;
    let current = now.get(column.name()).unwrap_or(&null);
    let value = checker.values(column).into_iter().find(|value| !same(value, current))?;
    let mut record = Record::new();
    record.insert(column.name(), value);
    Some(record)
}

/// A whole row in which only mandatory columns have a value, and one more.
fn sparse_row(checker: &Checker<'_>, number: usize, id: &str) -> Record {
    let mut record = checker.row(number, id);
    for column in sample::columns(&checker.schema).filter(|column| !column.is_mandatory()).skip(1) {
        record.remove(column.name());
    }
    record
}

fn replaces(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let mut table = Table::new(&**subject.vista.shell(), contents);
    if !table.can.replace {
        return Some(());
    }
    let (existing, other) = (table.existing.clone(), table.other.clone());
    let op = WriteOp::replace(existing.as_str(), checker.row(7, &existing));
    table.done(checker, Rule::Replace, &op)?;
    // The columns that a whole row doesn't name are null.
    let op = WriteOp::replace(other.as_str(), sparse_row(checker, 8, &other));
    table.done(checker, Rule::Replace, &op)?;
    let missing = checker.fresh_id(0);
    let op = WriteOp::replace(missing.as_str(), checker.row(7, &missing));
    table.refused(checker, Rule::ReplaceMissing, ErrorKind::NotFound, &op);
    Some(())
}

fn patches(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let mut table = Table::new(&**subject.vista.shell(), contents);
    if !table.can.patch {
        return Some(());
    }
    let existing = table.existing.clone();
    let now = table.contents.get(&existing).cloned().unwrap_or_default();
    let op = WriteOp::patch(existing.as_str(), one_field(checker, &now)?);
    table.done(checker, Rule::Patch, &op)?;
    let optional = sample::columns(&checker.schema).find(|column| !column.is_mandatory());
    if let Some(name) = optional.map(|column| column.name().to_owned()) {
        let mut to_null = Record::new();
        to_null.insert(name, Value::Null);
        table.done(checker, Rule::Patch, &WriteOp::patch(existing.as_str(), to_null))?;
    }
    table.done(checker, Rule::Patch, &WriteOp::patch(existing.as_str(), Record::new()))?;
    let missing = checker.fresh_id(0);
    let op = WriteOp::patch(missing.as_str(), one_field(checker, &Record::new())?);
    table.refused(checker, Rule::PatchMissing, ErrorKind::NotFound, &op);
    Some(())
}

fn upserts(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let mut table = Table::new(&**subject.vista.shell(), contents);
    if !table.can.upsert {
        return Some(());
    }
    let (existing, other, fresh) = (table.existing.clone(), table.other.clone(), checker.fresh_id(0));
    for op in [
        WriteOp::upsert(existing.as_str(), checker.row(7, &existing)),
        WriteOp::upsert(other.as_str(), sparse_row(checker, 8, &other)),
        WriteOp::upsert(fresh.as_str(), checker.row(9, &fresh)),
        WriteOp::upsert(fresh.as_str(), checker.row(10, &fresh)),
    ] {
        table.done(checker, Rule::Upsert, &op)?;
    }
    Some(())
}

fn deletes(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let mut table = Table::new(&**subject.vista.shell(), contents);
    let existing = table.existing.clone();
    if table.can.delete {
        let op = WriteOp::delete(existing.as_str());
        checker.must(Rule::Delete, &said(&op), table.write(&op))?;
        table.contents.remove(&existing);
        if !checker.holds(Rule::Delete, &said(&op), table.shell, &table.contents) {
            return None;
        }
        for id in [existing, checker.fresh_id(0)] {
            let op = WriteOp::delete(id.as_str());
            checker.must(Rule::DeleteMissing, &format!("{}, which is missing", said(&op)), table.write(&op));
            checker.holds(Rule::DeleteMissing, &said(&op), table.shell, &table.contents);
        }
    }
    if table.can.delete_all {
        for time in ["delete_all", "delete_all of an empty table"] {
            checker.must(Rule::DeleteAll, time, table.write(&WriteOp::delete_all()))?;
            table.contents.clear();
            checker.holds(Rule::DeleteAll, time, table.shell, &table.contents);
        }
        if table.can.insert {
            let fresh = checker.fresh_id(0);
            let op = WriteOp::insert_as(fresh.as_str(), checker.row(3, &fresh));
            table.done(checker, Rule::DeleteAll, &op)?;
        }
    }
    Some(())
}

fn values_come_back(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let table = Table::new(&**subject.vista.shell(), contents);
    let columns: Vec<_> = sample::columns(&checker.schema).cloned().collect();
    let tried: Vec<Vec<Value>> = columns.iter().map(|column| checker.values(column)).collect();
    let most = tried.iter().map(Vec::len).max().unwrap_or(0);
    let existing = table.existing.clone();
    for number in 0..most {
        let mut record = checker.row(0, &existing);
        for (column, values) in columns.iter().zip(&tried) {
            record.insert(column.name(), values.get(number % values.len().max(1)).cloned());
        }
        let op = match table.can {
            Capabilities { replace: true, .. } => WriteOp::replace(existing.as_str(), record),
            Capabilities { upsert: true, .. } => WriteOp::upsert(existing.as_str(), record),
            Capabilities { patch: true, .. } => WriteOp::patch(existing.as_str(), record),
            Capabilities { insert: true, .. } if number < 6 => {
                let fresh = checker.fresh_id(number);
                if let Some(id_column) = checker.schema.id_column() {
                    record.insert(id_column, sample::id_value(&checker.schema, &fresh));
                }
                WriteOp::insert_as(fresh, record)
            }
            _ => return Some(()),
        };
        let asked = said(&op);
        let Some(written) = checker.must(Rule::ValuesComeBack, &asked, table.write(&op)) else { continue };
        let id = written.id.unwrap_or_default();
        let rows = checker.must(Rule::ValuesComeBack, &asked, list_all(table.shell))?;
        let found = rows.iter().find(|(row, _)| *row == id).map(|(_, record)| record);
        let sent = op.record().cloned().unwrap_or_default();
        for column in &columns {
            let null = Value::Null;
            let wanted = sent.get(column.name()).unwrap_or(&null);
            let came = found.and_then(|record| record.get(column.name())).unwrap_or(&null);
            checker.expect(Rule::ValuesComeBack, same(wanted, came), &asked, || {
                format!(
                    "in `{}`, which is {}, {} came back as {}",
                    column.name(),
                    column.kind(),
                    shown(wanted),
                    shown(came)
                )
            });
        }
    }
    Some(())
}

fn schema_is_held(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let table = Table::new(&**subject.vista.shell(), contents);
    let fresh = checker.fresh_id(0);
    let whole = checker.row(3, &fresh);
    let id_column = checker.schema.id_column().unwrap_or_default().to_owned();
    let mut unknown = whole.clone();
    unknown.insert("no such column", 1);
    let mut refused: Vec<WriteOp> = Vec::new();
    let schema = table.shell.schema();
    if table.can.insert {
        for column in schema.columns().iter().filter(|column| column.is_mandatory() && column.name() != id_column) {
            for value in [None, Some(Value::Null)] {
                let mut lacking = whole.clone();
                lacking.remove(column.name());
                if let Some(value) = value {
                    lacking.insert(column.name(), value);
                }
                refused.push(WriteOp::insert_as(fresh.as_str(), lacking));
            }
        }
        refused.push(WriteOp::insert_as("", whole.clone()));
        if schema.is_known() {
            refused.push(WriteOp::insert_as(fresh.as_str(), unknown.clone()));
        }
    }
    if table.can.upsert {
        refused.push(WriteOp::upsert("", whole));
        if schema.is_known() {
            refused.push(WriteOp::upsert(fresh.as_str(), unknown));
        }
    }
    if table.can.patch && schema.is_known() {
        let mut unknown = Record::new();
        unknown.insert("no such column", 1);
        refused.push(WriteOp::patch(table.existing.as_str(), unknown));
    }
    for op in &refused {
        let columns: Vec<&str> = op.record().map(|record| record.names().collect()).unwrap_or_default();
        let asked = format!("{} with the columns {}", said(op), columns.join(", "));
        // One that was done would show in all that follow.
        let error = checker.must_refuse(Rule::SchemaHeld, &asked, None, table.write(op))?;
        // The driver's own check says `Invalid`, a constraint of the source `Rejected`.
        let is_final = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Rejected);
        checker.expect(Rule::SchemaHeld, is_final, &asked, || {
            format!("answered `{:?}` ({error}), expected `Invalid` or `Rejected`", error.kind())
        });
        checker.holds(Rule::NoTrace, &asked, table.shell, &table.contents);
    }
    Some(())
}

/// Writes that can be done together, each of which the capabilities allow, and what is there afterwards.
fn some_writes(checker: &Checker<'_>, table: &Table<'_>) -> (Vec<WriteOp>, Contents) {
    let (existing, other, fresh) = (table.existing.as_str(), table.other.as_str(), checker.fresh_id(0));
    let can = table.can;
    let new = checker.row(9, &fresh);
    let patch = one_field(checker, &table.contents.get(existing).cloned().unwrap_or_default()).unwrap_or_default();
    let candidates = [
        (can.patch, WriteOp::patch(existing, patch)),
        (can.upsert, WriteOp::upsert(fresh.as_str(), new.clone())),
        (can.replace && can.upsert, WriteOp::replace(fresh.as_str(), checker.row(10, &fresh))),
        (can.replace && !can.patch, WriteOp::replace(existing, checker.row(10, existing))),
        (can.insert && !can.upsert, WriteOp::insert_as(fresh.as_str(), new)),
        (can.delete, WriteOp::delete(other)),
    ];
    let ops: Vec<WriteOp> = candidates.into_iter().filter_map(|(allowed, op)| allowed.then_some(op)).collect();
    let mut after = table.contents.clone();
    for op in &ops {
        let id = op.id().unwrap_or_default().to_owned();
        let record = checker.without_id(op.record().cloned().unwrap_or_default());
        match op {
            WriteOp::Delete { .. } => drop(after.remove(&id)),
            WriteOp::Patch { .. } => after.entry(id).or_default().merge(&record),
            _ => drop(after.insert(id, record)),
        }
    }
    (ops, after)
}

fn batches(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let mut table = Table::new(&**subject.vista.shell(), contents);
    if !table.can.batch {
        return Some(());
    }
    let cx = CallCx::new();
    let (ops, after) = some_writes(checker, &table);

    // Refused, by a write that can't be done, wherever it stands.
    let missing = checker.fresh_id(2);
    let bad = match table.can {
        Capabilities { replace: true, .. } => {
            Some((WriteOp::replace(missing.as_str(), checker.row(3, &missing)), ErrorKind::NotFound))
        }
        Capabilities { patch: true, .. } => {
            Some((WriteOp::patch(missing.as_str(), one_field(checker, &Record::new())?), ErrorKind::NotFound))
        }
        Capabilities { insert: true, .. } => {
            Some((WriteOp::insert_as(table.existing.as_str(), checker.row(3, &table.existing)), ErrorKind::Conflict))
        }
        _ => None,
    };
    if let Some((bad, kind)) = bad {
        for position in [ops.len(), 1, 0] {
            let mut refused = ops.clone();
            refused.insert(position.min(ops.len()), bad.clone());
            let asked = format!("batch of {} writes, in which the {} can't be done", refused.len(), said(&bad));
            checker.must_refuse(Rule::BatchWhole, &asked, kind, table.shell.batch(&cx, &refused));
            if !checker.holds(Rule::BatchWhole, &asked, table.shell, &table.contents) {
                return None;
            }
        }
    }

    let asked = format!("batch: {}", ops.iter().map(said).collect::<Vec<_>>().join("; "));
    let written = checker.must(Rule::Batch, &asked, table.shell.batch(&cx, &ops))?;
    checker.expect(Rule::Batch, written.len() == ops.len(), &asked, || {
        format!("{} answers, expected {}", written.len(), ops.len())
    });
    for (op, written) in ops.iter().zip(&written) {
        let may_choose = matches!(op, WriteOp::Insert { .. });
        checker.expect(Rule::Batch, may_choose || written.id.as_deref() == op.id(), &asked, || {
            format!("the answer of the {} names the id {:?}", said(op), written.id)
        });
    }
    let chosen = ops.iter().zip(&written).any(|(op, written)| written.id.as_deref() != op.id());
    if !chosen {
        table.contents = after;
        checker.holds(Rule::Batch, &asked, table.shell, &table.contents);
    }
    let before = checker.contents(table.shell)?;
    checker.must(Rule::Batch, "batch of no writes", table.shell.batch(&cx, &[]));
    checker.holds(Rule::Batch, "batch of no writes", table.shell, &before);
    Some(())
}

fn repeated_writes(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let table = Table::new(&**subject.vista.shell(), contents);
    if !table.can.idempotent_writes {
        return Some(());
    }
    let keyed = |key: &str, attempt| CallCx::new().with_idempotency_key(key).with_attempt(attempt);
    let (ops, _) = some_writes(checker, &table);
    let fresh = checker.fresh_id(3);
    let insert = table.can.insert.then(|| WriteOp::insert_as(fresh.as_str(), checker.row(11, &fresh)));
    let nameless = table.can.insert.then(|| WriteOp::insert(checker.without_id(checker.row(12, "none"))));
    for (number, op) in ops.into_iter().chain(insert).chain(nameless).enumerate() {
        let key = format!("key-{number}");
        let asked = format!("{}, repeated with its key", said(&op));
        let first = match write(table.shell, &keyed(&key, 1), &op) {
            Err(error) if error.kind() == ErrorKind::Invalid && op.id().is_none() => continue,
            first => checker.must(Rule::Idempotent, &asked, first)?,
        };
        let after_first = checker.contents(table.shell)?;
        let Some(again) = checker.must(Rule::Idempotent, &asked, write(table.shell, &keyed(&key, 2), &op)) else {
            continue;
        };
        checker.expect(Rule::Idempotent, again == first, &asked, || format!("answered {again:?}, first {first:?}"));
        checker.holds(Rule::Idempotent, &asked, table.shell, &after_first);
    }

    // A repetition that comes late undoes nothing that was done meanwhile, and another key is another write.
    let existing = table.existing.as_str();
    let whole = |number: usize| match table.can {
        Capabilities { upsert: true, .. } => Some(WriteOp::upsert(existing, checker.row(number, existing))),
        Capabilities { replace: true, .. } => Some(WriteOp::replace(existing, checker.row(number, existing))),
        _ => None,
    };
    let (Some(old), Some(new)) = (whole(20), whole(21)) else { return Some(()) };
    let asked = format!("{} with an old key, after another write of the row", said(&old));
    checker.must(Rule::Idempotent, &asked, write(table.shell, &keyed("old", 1), &old))?;
    checker.must(Rule::Idempotent, &asked, write(table.shell, &keyed("new", 1), &new))?;
    let after = checker.contents(table.shell)?;
    let stored = after.get(existing).cloned().unwrap_or_default();
    let wanted = checker.without_id(new.record().cloned().unwrap_or_default());
    let difference = field_difference(&wanted, &stored);
    checker
        .expect(Rule::Idempotent, difference.is_none(), "a write with another key", || difference.unwrap_or_default());
    checker.must(Rule::Idempotent, &asked, write(table.shell, &keyed("old", 2), &old))?;
    checker.holds(Rule::Idempotent, &asked, table.shell, &after);
    Some(())
}

/// The rows of a list as contents.
pub(super) fn contents_of(checker: &Checker<'_>, rows: Rows) -> Contents {
    rows.into_iter().map(|(id, record)| (id, checker.without_id(record))).collect()
}
