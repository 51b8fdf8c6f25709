//! Calls: what a call's context asks of a source, and calls from several threads.

use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::clock::Clock;
use crate::vista::{CallCx, CancelToken, QueryDescriptor, TableShell, WriteOp};
use crate::{Error, ErrorKind, Result};

use super::check::{Checker, Contents, list_all, said, write};
use super::report::Rule;
use super::writes::{Table, contents_of};

/// How long a call that hangs is given to show that it doesn't.
const GLANCE: Duration = Duration::from_millis(5);
const THREADS: usize = 4;

pub(super) fn check(checker: &mut Checker<'_>) -> Option<()> {
    checker.fenced("cancelled calls", |checker| unwanted(checker, Rule::Cancelled));
    checker.fenced("calls that are too late", |checker| unwanted(checker, Rule::Deadline));
    checker.fenced("calls that hang", hanging);
    checker.fenced("threads", threads);
    Some(())
}

/// A context of a call that is not wanted any more, and the error that says so.
fn spent(rule: Rule) -> (CallCx, ErrorKind) {
    if rule == Rule::Cancelled {
        let cx = CallCx::new();
        cx.cancel.cancel();
        return (cx, ErrorKind::Cancelled);
    }
    // A clock that stands still at a deadline that has come.
    let (clock, _) = Clock::manual();
    (CallCx::on(clock).deadline_in(Duration::ZERO), ErrorKind::Timeout)
}

fn unwanted(checker: &mut Checker<'_>, rule: Rule) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let table = Table::new(&**subject.vista.shell(), contents);
    let (shell, can) = (table.shell, table.can);
    let (cx, kind) = spent(rule);
    let all = QueryDescriptor::default();
    checker.must_refuse(rule, "list", kind, shell.list(&cx, &all));
    if can.get {
        checker.must_refuse(rule, "get", kind, shell.get(&cx, &table.existing));
    }
    if can.count {
        checker.must_refuse(rule, "count", kind, shell.count(&cx, &all));
    }
    if can.pages {
        checker.must_refuse(rule, "page", kind, shell.page(&cx, &all, None, 2));
    }
    if !checker.brings_rows() {
        return Some(());
    }
    let (existing, fresh) = (table.existing.as_str(), checker.fresh_id(0));
    let (new, other) = (checker.row(9, &fresh), checker.row(10, existing));
    let writes = [
        (can.insert, WriteOp::insert_as(fresh.as_str(), new.clone())),
        (can.upsert, WriteOp::upsert(fresh.as_str(), new)),
        (can.replace, WriteOp::replace(existing, other.clone())),
        (can.patch, WriteOp::patch(existing, other)),
        (can.delete, WriteOp::delete(existing)),
        (can.delete_all, WriteOp::delete_all()),
    ];
    let allowed: Vec<WriteOp> = writes.into_iter().filter_map(|(allowed, op)| allowed.then_some(op)).collect();
    for op in &allowed {
        checker.must_refuse(rule, &said(op), kind, write(shell, &cx, op));
        if !checker.holds(rule, &said(op), shell, &table.contents) {
            return None;
        }
    }
    if can.batch && !allowed.is_empty() {
        checker.must_refuse(rule, "batch", kind, shell.batch(&cx, &allowed[..1]));
        checker.holds(rule, "batch", shell, &table.contents);
    }
    Some(())
}

/// A call that hangs in the source is given back when it is cancelled, and when its deadline comes.
fn hanging(checker: &mut Checker<'_>) -> Option<()> {
    let rows = checker.few();
    let subject = checker.source(rows)?;
    let hold = subject.hold.as_ref()?;
    let shell = &**subject.vista.shell();
    let all = QueryDescriptor::default();
    for rule in [Rule::Cancelled, Rule::Deadline] {
        let (clock, hands) = Clock::manual();
        let cancel = CancelToken::new();
        let cx = match rule {
            Rule::Cancelled => CallCx::new().with_cancel(cancel.clone()),
            _ => CallCx::on(clock).deadline_in(Duration::from_secs(1)),
        };
        let (answer, answered) = bounded(1);
        let held = hold();
        thread::scope(|scope| {
            let (cx, all) = (&cx, &all);
            scope.spawn(move || {
                // The receiver is there until the scope ends.
                let _ = answer.send(shell.list(cx, all));
            });
            if let Ok(early) = answered.recv_timeout(GLANCE) {
                let early = early.map(|rows| rows.len());
                checker.fail(Rule::Fixture, "list, while the source is held", format!("answered {early:?}"));
                return;
            }
            let kind = match rule {
                Rule::Cancelled => {
                    cancel.cancel();
                    ErrorKind::Cancelled
                }
                _ => {
                    hands.advance(Duration::from_secs(1));
                    ErrorKind::Timeout
                }
            };
            let asked = "list that hangs in the source";
            let patience = checker.fixture.patience;
            match answered.recv_timeout(patience) {
                Ok(answer) => drop(checker.must_refuse(rule, asked, kind, answer)),
                Err(_) => checker.fail(rule, asked, format!("was not given back within {patience:?}")),
            }
            drop(held);
        });
    }
    checker.must(Rule::Cancelled, "list after a call that hung", list_all(shell))?;
    Some(())
}

fn threads(checker: &mut Checker<'_>) -> Option<()> {
    let (subject, contents) = checker.source_of_few()?;
    let table = Table::new(&**subject.vista.shell(), contents);
    let (shell, can) = (table.shell, table.can);
    let before = checker.must(Rule::Fixture, "list of everything", list_all(shell))?;
    let cx = CallCx::new();

    let read = |number: usize| -> Result<()> {
        for _ in 0..5 {
            let rows = shell.list(&cx, &QueryDescriptor::default())?;
            if rows != before {
                return Err(Error::new(ErrorKind::Source, "list gave other rows than before"));
            }
            if can.get
                && let Some((id, record)) = before.get(number)
                && shell.get(&cx, id)?.as_ref() != Some(record)
            {
                return Err(Error::new(ErrorKind::Source, "get gave another row than list").with("id", id));
            }
        }
        Ok(())
    };
    for answer in on_threads(&read) {
        if let Err(error) = answer {
            checker.fail(Rule::Threads, format!("list and get on {THREADS} threads"), error.to_string());
        }
    }
    if !can.insert || !checker.brings_rows() {
        return Some(());
    }

    let asked = format!("inserts of other rows on {THREADS} threads");
    let ids: Vec<String> = (0..THREADS).map(|number| checker.fresh_id(number)).collect();
    let rows = checker.rows_under(&ids);
    let insert = |number: usize| match rows.get(number) {
        Some((id, record)) => shell.insert(&cx, Some(id), record).map(|written| written.id.unwrap_or_default()),
        None => Ok(String::new()),
    };
    let mut expected: Contents = contents_of(checker, before.clone());
    let mut source_chooses = false;
    for ((id, record), answer) in rows.iter().zip(on_threads(&insert)) {
        let written = checker.must(Rule::Threads, &asked, answer)?;
        source_chooses |= written != *id;
        expected.insert(written, checker.without_id(record.clone()));
    }
    checker.holds(Rule::Threads, &asked, shell, &expected);

    if !source_chooses {
        let asked = format!("insert of one id on {THREADS} threads");
        let id = checker.fresh_id(THREADS);
        let record = checker.row(3, &id);
        let answers = on_threads(&|_| shell.insert(&cx, Some(&id), &record));
        let done = answers.iter().filter(|answer| answer.is_ok()).count();
        checker.expect(Rule::Threads, done == 1, &asked, || format!("{done} were done, expected one"));
        for answer in answers.into_iter().filter(Result::is_err) {
            checker.must_refuse(Rule::Threads, &asked, ErrorKind::Conflict, answer);
        }
        expected.insert(id, checker.without_id(record));
        checker.holds(Rule::Threads, &asked, shell, &expected);
    }
    Some(())
}

/// Does the work on several threads at once, each with its number.
fn on_threads<T: Send>(work: &(dyn Fn(usize) -> Result<T> + Sync)) -> Vec<Result<T>> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || work(number))).collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended.map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Whether `shell` still answers; for the end of a section that made it fail.
pub(super) fn answers(shell: &dyn TableShell) -> Result<usize> {
    list_all(shell).map(|rows| rows.len())
}
