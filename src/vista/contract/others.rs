//! Others: what somebody else does to the source: changes it, holds another handle of it, takes it off the net.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ErrorKind;
use crate::clock::Clock;
use crate::vista::{CallCx, ChangeEvent, ChangeStream, QueryDescriptor, WriteOp};

use super::calls::answers;
use super::check::{Checker, Contents, said, write};
use super::report::{Rule, field_difference, shown_id};
use super::writes::Table;

pub(super) fn check(checker: &mut Checker<'_>) -> Option<()> {
    checker.fenced("changes from outside", outside);
    checker.fenced("a second handle", second_handle);
    checker.fenced("the stream of changes", stream);
    checker.fenced("a source that is away", offline);
    Some(())
}

/// Changes that somebody else makes, and what is there after each.
fn edits(checker: &Checker<'_>, table: &Table<'_>) -> Vec<(WriteOp, Contents)> {
    let (existing, other, fresh) = (table.existing.as_str(), table.other.as_str(), checker.fresh_id(0));
    let mut contents = table.contents.clone();
    let ops = [
        WriteOp::upsert(fresh.as_str(), checker.row(9, &fresh)),
        WriteOp::upsert(existing, checker.row(11, existing)),
        WriteOp::delete(other),
    ];
    let mut edits = Vec::new();
    for op in ops {
        let id = op.id().unwrap_or_default().to_owned();
        match op.record() {
            Some(record) => contents.insert(id, checker.without_id(record.clone())),
            None => contents.remove(&id),
        };
        edits.push((op, contents.clone()));
    }
    edits
}

fn outside(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let change = subject.outside.as_ref()?;
    let table = Table::new(&**subject.vista.shell(), contents);
    let cx = CallCx::new();
    for (op, after) in edits(checker, &table) {
        let asked = format!("{} from outside", said(&op));
        checker.must(Rule::Fixture, &asked, change(&op))?;
        checker.holds(Rule::Outside, &asked, table.shell, &after);
        let id = op.id().unwrap_or_default();
        if table.can.get {
            let found = checker.must(Rule::Outside, &asked, table.shell.get(&cx, id))?;
            let expected = after.contains_key(id);
            checker.expect(Rule::Outside, found.is_some() == expected, &asked, || {
                format!("get says that there is a row: {}, expected {expected}", found.is_some())
            });
        }
        if table.can.count {
            let all = QueryDescriptor::default();
            let counted = checker.must(Rule::Outside, &asked, table.shell.count(&cx, &all))?;
            let expected = after.len() as u64;
            checker.expect(Rule::Outside, counted == expected, &asked, || {
                format!("count says {counted}, expected {expected}")
            });
        }
    }
    Some(())
}

fn second_handle(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let second = subject.second.as_ref()?;
    let (first, second) = (subject.vista.shell(), second.shell());
    checker.expect(Rule::SecondHandle, first.source_key() == second.source_key(), "source_key", || {
        format!("the handles have the keys {:?} and {:?}", first.source_key(), second.source_key())
    });
    checker.holds(Rule::SecondHandle, "list by a second handle", &**second, &contents);
    let table = Table::new(&**first, contents);
    let cx = CallCx::new();
    for (op, after) in edits(checker, &table) {
        let can = table.can;
        let allowed = if op.record().is_some() { can.upsert } else { can.delete };
        if !allowed {
            return Some(());
        }
        let asked = format!("{} by the first handle", said(&op));
        checker.must(Rule::SecondHandle, &asked, write(table.shell, &cx, &op))?;
        checker.holds(Rule::SecondHandle, &format!("list by the second handle, after {asked}"), &**second, &after);
    }
    Some(())
}

fn stream(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let table = Table::new(&**subject.vista.shell(), contents);
    if !table.can.changes {
        return Some(());
    }
    let mut stream = checker.must(Rule::Changes, "changes", table.shell.changes(&CallCx::new()))?;
    if let Some(change) = &subject.outside {
        let edits = edits(checker, &table);
        for (op, _) in &edits {
            checker.must(Rule::Fixture, &format!("{} from outside", said(op)), change(op))?;
        }
        let (_, after) = edits.last()?;
        follow(checker, &mut *stream, &edits, after)?;
    }
    let cx = CallCx::new();
    cx.cancel.cancel();
    checker.must_refuse(Rule::Changes, "next, cancelled", ErrorKind::Cancelled, stream.next(&cx));
    let (clock, _) = Clock::manual();
    let late = CallCx::on(clock).deadline_in(Duration::ZERO);
    checker.must_refuse(Rule::Changes, "next, after its deadline", ErrorKind::Timeout, stream.next(&late));
    Some(())
}

/// Reads the stream until it has told of every edit, or that anything may have changed.
fn follow(
    checker: &mut Checker<'_>,
    stream: &mut dyn ChangeStream,
    edits: &[(WriteOp, Contents)],
    after: &Contents,
) -> Option<()> {
    let asked = "next, after changes from outside";
    let mut untold: BTreeSet<&str> = edits.iter().filter_map(|(op, _)| op.id()).collect();
    let edited = untold.clone();
    while !untold.is_empty() {
        let cx = CallCx::new().deadline_in(checker.fixture.patience);
        let Some(event) = checker.must(Rule::Changes, asked, stream.next(&cx))? else {
            checker.fail(Rule::Changes, asked, format!("the stream ended, and never told of {untold:?}"));
            return None;
        };
        let (id, told) = match &event {
            ChangeEvent::Invalidated => return Some(()),
            ChangeEvent::Inserted { id, record } | ChangeEvent::Updated { id, record } => (id.as_str(), Some(record)),
            ChangeEvent::Deleted { id } => (id.as_str(), None),
        };
        untold.remove(id);
        let is_true = match (told, after.get(id)) {
            _ if !edited.contains(id) => false,
            (None, None) | (Some(None), Some(_)) => true,
            (Some(Some(told)), Some(stored)) => field_difference(stored, &checker.without_id(told.clone())).is_none(),
            (None, Some(_)) | (Some(_), None) => false,
        };
        checker.expect(Rule::Changes, is_true, asked, || {
            format!("told {event:?}, and the source has in {} {:?}", shown_id(id), after.get(id))
        });
    }
    Some(())
}

fn offline(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let set_offline = subject.offline.as_ref()?;
    let table = Table::new(&**subject.vista.shell(), contents);
    let (cx, can, away) = (CallCx::new(), table.can, ErrorKind::Unavailable);
    set_offline(true);
    let all = QueryDescriptor::default();
    checker.must_refuse(Rule::Offline, "list while away", away, table.shell.list(&cx, &all));
    if can.get {
        checker.must_refuse(Rule::Offline, "get while away", away, table.shell.get(&cx, &table.existing));
    }
    if can.count {
        checker.must_refuse(Rule::Offline, "count while away", away, table.shell.count(&cx, &all));
    }
    if can.pages {
        checker.must_refuse(Rule::Offline, "page while away", away, table.shell.page(&cx, &all, None, 2));
    }
    for (op, _) in edits(checker, &table) {
        if if op.record().is_some() { can.upsert } else { can.delete } {
            let asked = format!("{} while away", said(&op));
            checker.must_refuse(Rule::Offline, &asked, away, write(table.shell, &cx, &op));
        }
    }
    set_offline(false);
    checker.must(Rule::Offline, "list after the source came back", answers(table.shell))?;
    checker.holds(Rule::Offline, "list after the source came back", table.shell, &table.contents);
    Some(())
}
