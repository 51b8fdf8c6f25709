//! Pages: following cursors gives the rows of `list`, also while rows come and go, and no other cursor leads anywhere.

use std::collections::BTreeSet;

use crate::ErrorKind;
use crate::Result;
use crate::vista::{CallCx, Condition, Page, PageCursor, QueryDescriptor, SortDir, TableShell, Total, WriteOp};

use super::check::{Checker, list_all, said, write};
use super::queries::{asked, plain};
use super::report::{Rule, shown_id};
use super::{Rows, Subject, sample};

/// How many rows are asked for, one after the other.
const LIMITS: [usize; 6] = [3, 1, 7, 2, 100, usize::MAX];
/// Of the queries with more than a sort, every so many is followed page by page.
const STEP: usize = 5;
/// How many queries are followed while rows change.
const MOST: usize = 8;
/// Pages are this short while rows change, so that there are many.
const SHORT: usize = 3;

pub(super) fn check(checker: &mut Checker<'_>) -> Option<()> {
    checker.fenced("pages", every_query);
    checker.fenced("cursors", cursors);
    checker.fenced("pages while rows change", amid_changes);
    Some(())
}

/// A source with pages over many rows.
fn paged(checker: &mut Checker<'_>) -> Option<Subject> {
    let rows = checker.many();
    let subject = checker.source(rows)?;
    subject.vista.capabilities().pages.then_some(subject)
}

/// Whether the source answers all of the query itself, so that it can be asked for pages of it.
fn is_taken(shell: &dyn TableShell, query: &QueryDescriptor) -> bool {
    let split = shell.push_down(query);
    split.residual.is_empty() && split.accepted == *query
}

fn every_query(checker: &mut Checker<'_>) -> Option<()> {
    let subject = paged(checker)?;
    let shell = &**subject.vista.shell();
    let (cx, schema) = (CallCx::new(), subject.vista.schema());
    let listed = checker.must(Rule::Fixture, "list of everything", list_all(shell))?;
    let shown = checker.must(Rule::ThroughVista, "list through a Vista", subject.vista.list_values())?;
    let all = QueryDescriptor::new();
    for limit in LIMITS {
        let words = format!("pages of {limit}: everything");
        follow(checker, &words, &plain(&listed, &all, &schema), limit, |after| shell.page(&cx, &all, after, limit));
    }
    let asked_of = super::queries::asked_schema(&checker.schema, &schema);
    let collations = shell.capabilities().collations;
    let queries = sample::queries(&asked_of, |column| checker.values(column), listed.len(), collations);
    let whole = queries.iter().filter(|query| query.window.is_none());
    for (number, query) in whole.enumerate() {
        if query.is_filtered() && !number.is_multiple_of(STEP) {
            continue;
        }
        let limit = LIMITS[number % LIMITS.len()];
        if is_taken(shell, query) {
            let words = format!("pages of {limit}: {}", asked(query));
            let expected = plain(&listed, query, &schema);
            follow(checker, &words, &expected, limit, |after| shell.page(&cx, query, after, limit))?;
        }
        let own = subject.vista.query();
        let sorts = QueryDescriptor { sort: [&query.sort[..], &own.sort[..]].concat(), ..QueryDescriptor::new() };
        if number.is_multiple_of(STEP) && shell.push_down(&sorts).residual.sort.is_empty() {
            let words = format!("pages of {limit} through a Vista: {}", asked(query));
            let expected = plain(&shown, query, &schema);
            follow(checker, &words, &expected, limit, |after| subject.vista.page_query(&cx, query, after, limit))?;
        }
    }
    Some(())
}

/// Follows a query from its first page to its last; the answer is its cursors.
fn follow<R: std::borrow::Borrow<crate::Record>>(
    checker: &mut Checker<'_>,
    words: &str,
    expected: &[(String, R)],
    limit: usize,
    page: impl Fn(Option<&PageCursor>) -> Result<Page>,
) -> Option<Vec<PageCursor>> {
    let (mut rows, mut cursors): (Rows, Vec<PageCursor>) = (Rows::new(), Vec::new());
    loop {
        let found = checker.must(Rule::Pages, words, page(cursors.last()))?;
        is_fit(checker, words, &found, limit)?;
        let all = expected.len() as u64;
        let is_true = match found.total {
            Total::Exact(total) => total == all,
            Total::AtLeast(total) => total <= all,
            Total::Estimated(_) | Total::Unknown => true,
        };
        checker.expect(Rule::PageTotals, is_true, words, || format!("{:?}, and there are {all}", found.total));
        rows.extend(found.rows);
        match found.next {
            None => break,
            Some(_) if rows.len() > expected.len() => break,
            Some(next) => cursors.push(next),
        }
    }
    checker.same_rows(Rule::Pages, || words.to_owned(), expected, &rows).then_some(cursors)
}

/// What every page is, whatever its rows.
fn is_fit(checker: &mut Checker<'_>, words: &str, page: &Page, limit: usize) -> Option<()> {
    let count = page.rows.len();
    let fits = checker.expect(Rule::PageLimits, count <= limit, words, || format!("a page has {count} rows"));
    let ends = checker.expect(Rule::PagesEnd, count > 0 || page.next.is_none(), words, || {
        "a page without rows says that others follow".to_owned()
    });
    let is_printable = page.next.as_ref().is_none_or(|next| {
        let text = next.as_str();
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    let prints = checker.expect(Rule::Cursors, is_printable, words, || {
        format!("the cursor {:?} is empty or has other characters than printable ASCII", page.next)
    });
    (fits && ends && prints).then_some(())
}

fn cursors(checker: &mut Checker<'_>) -> Option<()> {
    let subject = paged(checker)?;
    let shell = &**subject.vista.shell();
    let (cx, all) = (CallCx::new(), QueryDescriptor::new());
    let listed = checker.must(Rule::Fixture, "list of everything", list_all(shell))?;
    let invalid = ErrorKind::Invalid;
    checker.must_refuse(Rule::PageLimits, "a page of 0 rows", invalid, shell.page(&cx, &all, None, 0));
    let windowed = QueryDescriptor::new().windowed(1, 2);
    checker.must_refuse(Rule::PageLimits, "a page of a window", invalid, shell.page(&cx, &windowed, None, 2));

    let first = checker.must(Rule::Pages, "the first page", shell.page(&cx, &all, None, SHORT))?;
    let Some(cursor) = first.next else { return Some(()) };
    let behind = &listed[first.rows.len().min(listed.len())..];
    let handles = [(Some(&subject.vista), "the first handle"), (subject.second.as_ref(), "a second handle")];
    for (handle, name) in handles {
        let Some(handle) = handle else { continue };
        // The same place again and again, with pages of other lengths.
        for limit in [1, 5, 2, 1] {
            let words = format!("a page of {limit} behind the first, by {name}");
            let page = checker.must(Rule::Cursors, &words, handle.shell().page(&cx, &all, Some(&cursor), limit))?;
            is_fit(checker, &words, &page, limit)?;
            let expected = &behind[..page.rows.len().max(1).min(behind.len())];
            checker.same_rows(Rule::Cursors, || words.clone(), expected, &page.rows);
        }
    }

    for text in malformed(cursor.as_str()) {
        let words = format!("the cursor {text:?}, which is none");
        let made_up = PageCursor::from_text(text);
        checker.must_refuse(Rule::Cursors, &words, invalid, shell.page(&cx, &all, Some(&made_up), SHORT));
    }
    let mut foreign: Vec<(String, PageCursor)> = Vec::new();
    let others = other_queries(checker, shell, &listed);
    for query in &others {
        let page = checker.must(Rule::Pages, &asked(query), shell.page(&cx, query, None, SHORT))?;
        if let Some(next) = page.next {
            foreign.push((format!("a cursor of another query ({})", asked(query)), next));
        }
        let words = format!("the cursor of everything for another query ({})", asked(query));
        checker.must_refuse(Rule::Cursors, &words, invalid, shell.page(&cx, query, Some(&cursor), SHORT));
    }
    if checker.brings_rows() {
        let mut rows = checker.many();
        rows.reverse();
        let other = checker.source(rows)?;
        let page = other.vista.shell().page(&cx, &all, None, SHORT);
        let page = checker.must(Rule::Pages, "the first page of another source", page)?;
        foreign.extend(page.next.map(|next| ("a cursor of another source".to_owned(), next)));
    }
    for (words, cursor) in &foreign {
        checker.must_refuse(Rule::Cursors, words, invalid, shell.page(&cx, &all, Some(cursor), SHORT));
    }
    Some(())
}

/// Text that looks more or less like this cursor.
fn malformed(cursor: &str) -> Vec<String> {
    let mut texts: Vec<String> = ["", "0", "3", "none", "-", "null", "r00"].map(str::to_owned).into();
    let ends: Vec<usize> = cursor.char_indices().map(|(at, _)| at).collect();
    for at in [0, ends.len() / 3, ends.len() / 2, ends.len().saturating_sub(1)] {
        let Some(at) = ends.get(at).copied() else { continue };
        let (before, behind) = cursor.split_at(at);
        let mut rest = behind.chars();
        let new = if rest.next() == Some('1') { '2' } else { '1' };
        texts.push(before.to_owned());
        texts.push(format!("{before}{new}{}", rest.as_str()));
    }
    texts.extend([format!("{cursor}0"), format!("{cursor}{cursor}"), format!(" {cursor}")]);
    texts.retain(|text| text != cursor);
    texts
}

/// Queries that are answered whole, each with another order or other rows than everything.
fn other_queries(checker: &Checker<'_>, shell: &dyn TableShell, rows: &Rows) -> Vec<QueryDescriptor> {
    let mut queries = Vec::new();
    for column in checker.schema.columns() {
        let name = column.name();
        if column.is_orderable() {
            queries.extend([SortDir::Asc, SortDir::Desc].map(|dir| QueryDescriptor::new().sorted(name, dir)));
        }
        let value = rows.first().and_then(|(_, record)| record.get(name)).cloned();
        queries.push(QueryDescriptor::new().filtered(Condition::ne(name, value)));
    }
    queries.retain(|query| is_taken(shell, query));
    queries
}

/// Rows go and come between pages: before the cursor, behind it, and the one that it was made at.
fn amid_changes(checker: &mut Checker<'_>) -> Option<()> {
    if !checker.brings_rows() {
        return Some(());
    }
    let subject = paged(checker)?;
    let listed = checker.must(Rule::Fixture, "list of everything", list_all(&**subject.vista.shell()))?;
    let mut queries = other_queries(checker, &**subject.vista.shell(), &listed);
    queries.insert(0, QueryDescriptor::new());
    // Each takes a source of its own. Steps that three doesn't divide meet every direction and a condition.
    let step = [1, 2, 4, 5, 7].into_iter().find(|step| queries.len() / step <= MOST).unwrap_or(8);
    for query in queries.into_iter().step_by(step) {
        changing(checker, &query)?;
    }
    Some(())
}

/// Does one change, by somebody else's hand if there is one; whether it could be done.
fn edit(checker: &mut Checker<'_>, subject: &Subject, op: &WriteOp) -> Option<bool> {
    let can = subject.vista.capabilities();
    let done = match (&subject.outside, op) {
        (Some(outside), op) => outside(op),
        (None, WriteOp::Delete { .. }) if can.delete => write(&**subject.vista.shell(), &CallCx::new(), op).map(drop),
        (None, WriteOp::Upsert { id, record }) if can.insert => {
            let op = WriteOp::insert_as(id.as_str(), record.clone());
            write(&**subject.vista.shell(), &CallCx::new(), &op).map(drop)
        }
        _ => return Some(false),
    };
    checker.must(Rule::Fixture, &said(op), done)?;
    Some(true)
}

fn changing(checker: &mut Checker<'_>, query: &QueryDescriptor) -> Option<()> {
    let subject = paged(checker)?;
    let shell = &**subject.vista.shell();
    let cx = CallCx::new();
    let listed = checker.must(Rule::Fixture, "list of everything", list_all(shell))?;
    let schema = subject.vista.schema();
    let expected: Vec<String> = plain(&listed, query, &schema).into_iter().map(|(id, _)| id).collect();
    let words = format!("pages of {SHORT} while rows change: {}", asked(query));
    let mut gone: BTreeSet<String> = BTreeSet::new();
    let mut given: Vec<String> = Vec::new();
    let mut fresh = 0;
    let mut after: Option<PageCursor> = None;
    for number in 0.. {
        let page = checker.must(Rule::PagesAmidChanges, &words, shell.page(&cx, query, after.as_ref(), SHORT))?;
        is_fit(checker, &words, &page, SHORT)?;
        for (id, _) in &page.rows {
            let is_there = !gone.contains(id);
            checker.expect(Rule::PagesAmidChanges, is_there, &words, || {
                format!("the row {} was deleted before this page, and is in it", shown_id(id))
            });
        }
        given.extend(page.rows.into_iter().map(|(id, _)| id));
        after = page.next;
        if after.is_none() || given.len() > 2 * listed.len() {
            break;
        }
        let there = |id: &&String| expected.contains(id) && !gone.contains(*id);
        let victim = match number % 4 {
            // The row that the cursor was made at, one given long ago, and the next to come.
            0 => given.iter().rev().find(there).cloned(),
            1 => given.iter().find(there).cloned(),
            2 => expected.iter().find(|id| !given.contains(id) && !gone.contains(*id)).cloned(),
            _ => None,
        };
        if let Some(id) = victim
            && edit(checker, &subject, &WriteOp::delete(id.as_str()))?
        {
            gone.insert(id);
        }
        // The values of a row that was given: where rows are sorted, it comes before the cursor.
        let model = given.iter().find_map(|id| listed.iter().find(|(listed, _)| listed == id));
        if let Some((_, record)) = model.filter(|_| number % 2 == 1 && fresh < 6) {
            let id = checker.fresh_id(fresh);
            fresh += 1;
            let mut record = record.clone();
            if let Some(column) = checker.schema.id_column() {
                record.insert(column, sample::id_value(&checker.schema, &id));
            }
            edit(checker, &subject, &WriteOp::upsert(id.as_str(), record))?;
        }
    }
    let stayed: Vec<&String> = expected.iter().filter(|id| !gone.contains(*id)).collect();
    let found: Vec<&String> = given.iter().filter(|id| stayed.contains(id)).collect();
    checker.expect(Rule::PagesAmidChanges, stayed == found, &words, || {
        let shown = |ids: &[&String]| ids.iter().map(|id| shown_id(id)).collect::<Vec<_>>().join(" ");
        format!("of the rows that stayed, {} were given, expected {}", shown(&found), shown(&stayed))
    });
    Some(())
}
