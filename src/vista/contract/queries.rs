//! Queries: whatever a source takes of a query, the answer is that of plain evaluation.
//!
//! Flow: query → `push_down` → the accepted part against plain evaluation → the query through a `Vista` → the count.

use crate::ErrorKind;
use crate::value::Record;
use crate::vista::{CallCx, Condition, PushDown, QueryDescriptor, Schema, SortDir, TableShell, Vista};

use super::Rows;
use super::check::{Checker, list_all};
use super::report::Rule;
use super::sample;

/// Of the queries of which a source takes nothing or all, every so many is asked through a `Vista`: all of them would try
/// the library, not the driver.
const VISTA_STEP: usize = 8;

pub(super) fn check(checker: &mut Checker<'_>) -> Option<()> {
    checker.fenced("queries", every_query);
    checker.fenced("clones", clones);
    Some(())
}

struct Table<'a> {
    vista: &'a Vista,
    shell: &'a dyn TableShell,
    schema: &'a Schema,
    /// What the shell and what the Vista have, in their order.
    listed: Rows,
    shown: Rows,
}

fn every_query(checker: &mut Checker<'_>) -> Option<()> {
    let rows = checker.many();
    let subject = checker.source(rows)?;
    let shell = &**subject.vista.shell();
    let listed = checker.must(Rule::Fixture, "list of everything", list_all(shell))?;
    let shown = checker.must(Rule::ThroughVista, "list through a Vista", subject.vista.list_values())?;
    let schema = subject.vista.schema();
    let table = Table { vista: &subject.vista, shell, schema: &schema, listed, shown };
    // What the fixture says counts for what is asked, what the source says for how it is answered.
    let asked_of = asked_schema(&checker.schema, &schema);
    let collations = shell.capabilities().collations;
    let queries = sample::queries(&asked_of, |column| checker.values(column), table.listed.len(), collations);
    for (number, query) in queries.iter().enumerate() {
        one_query(checker, &table, query, number);
    }
    refused_queries(checker, &table);
    Some(())
}

/// The fixture's columns, with the source's word on what they are good for.
pub(super) fn asked_schema(fixture: &Schema, source: &Schema) -> Schema {
    let id = fixture.id_column().unwrap_or_default();
    fixture.columns().iter().fold(Schema::new(id), |schema, column| {
        let orderable = source.column(column.name()).is_none_or(|told| told.is_orderable());
        schema.with(if orderable { column.clone() } else { column.clone().not_orderable() })
    })
}

/// The rule that a query is about.
fn rule_of(query: &QueryDescriptor) -> Rule {
    let parts = [
        (!query.conditions.is_empty(), Rule::Conditions),
        (query.search_text().is_some(), Rule::Search),
        (!query.sort.is_empty(), Rule::Sort),
        (query.window.is_some(), Rule::Windows),
    ];
    let mut rules = parts.into_iter().filter_map(|(is_there, rule)| is_there.then_some(rule));
    match (rules.next(), rules.next()) {
        (Some(rule), None) => rule,
        _ => Rule::Combined,
    }
}

/// A query in words, as it was written: its canonical text would hide a search's case.
pub(super) fn asked(query: &QueryDescriptor) -> String {
    let mut parts: Vec<String> = query.conditions.iter().map(|condition| format!("where {condition}")).collect();
    parts.extend(query.search.as_ref().map(|text| format!("search {text:?}")));
    parts.extend(query.sort.iter().map(|by| format!("order by {by}")));
    parts.extend(query.window.map(|window| format!("limit {} offset {}", window.limit, window.offset)));
    if parts.is_empty() { "everything".to_owned() } else { parts.join(", ") }
}

/// Whether it asks for a window of everything.
fn is_window_alone(query: &QueryDescriptor) -> bool {
    query.window.is_some() && query.without_window().is_empty()
}

/// Plain evaluation.
pub(super) fn plain<'a>(rows: &'a Rows, query: &QueryDescriptor, schema: &Schema) -> Vec<(String, &'a Record)> {
    let shared: Vec<(&str, &Record)> = rows.iter().map(|(id, record)| (id.as_str(), record)).collect();
    let selected = query.apply_by(shared, schema, |(id, record)| (id, record));
    selected.into_iter().map(|(id, record)| (id.to_owned(), record)).collect()
}

fn one_query(checker: &mut Checker<'_>, table: &Table<'_>, query: &QueryDescriptor, number: usize) -> Option<()> {
    let cx = CallCx::new();
    let split = table.shell.push_down(query);
    let expected = plain(&table.listed, query, table.schema);
    split_is_whole(checker, table, query, &split, &expected)?;
    if !split.accepted.is_empty() {
        let accepted = if split.residual.is_empty() {
            expected.clone()
        } else {
            plain(&table.listed, &split.accepted, table.schema)
        };
        let rule = rule_of(&split.accepted);
        let found = checker.must(rule, &asked(&split.accepted), table.shell.list(&cx, &split.accepted))?;
        let words = || format!("list, pushed down: {}", asked(&split.accepted));
        if !checker.same_rows(rule, words, &accepted, &found) {
            return None;
        }
    }
    let can_count = table.shell.capabilities().count && split.residual.is_empty();
    if can_count && (number.is_multiple_of(VISTA_STEP) || !split.accepted.is_empty()) {
        let all = plain(&table.listed, &query.without_window(), table.schema).len() as u64;
        let words = format!("count: {}", asked(&split.accepted));
        let counted = checker.must(Rule::CountAgrees, &words, table.shell.count(&cx, &split.accepted))?;
        if !checker.expect(Rule::CountAgrees, counted == all, &words, || format!("{counted} rows, expected {all}")) {
            return None;
        }
    }
    if number.is_multiple_of(VISTA_STEP) || !(split.accepted.is_empty() || split.residual.is_empty()) {
        let expected = plain(&table.shown, query, table.schema);
        let words = || format!("list through a Vista: {}", asked(query));
        let found = checker.must(Rule::ThroughVista, &words(), table.vista.list_query(&cx, query))?;
        checker.same_rows(Rule::ThroughVista, words, &expected, &found);
        let all = plain(&table.shown, &query.without_window(), table.schema).len() as u64;
        let words = format!("count through a Vista: {}", asked(query));
        let counted = checker.must(Rule::CountAgrees, &words, table.vista.count_query(&cx, query))?;
        checker.expect(Rule::CountAgrees, counted == all, &words, || format!("{counted} rows, expected {all}"));
    }
    Some(())
}

fn split_is_whole(
    checker: &mut Checker<'_>,
    table: &Table<'_>,
    query: &QueryDescriptor,
    split: &PushDown,
    expected: &[(String, &Record)],
) -> Option<()> {
    let PushDown { accepted, residual } = split;
    let words = format!("push_down: {}", asked(query));
    let parts = || format!("accepted: {}\nleft over: {}", asked(accepted), asked(residual));
    if accepted.window.is_some() {
        let is_last = residual.is_empty();
        if !checker.expect(Rule::WindowLast, is_last, &words, parts) {
            return None;
        }
        let denied = !table.shell.capabilities().window;
        if denied {
            checker.fail(Rule::Denied, words, "a window is accepted, and the capabilities deny windows");
            return None;
        }
    } else if is_window_alone(query) && table.shell.capabilities().window {
        checker.fail(Rule::Advertised, words, "the capabilities promise windows, and this one isn't accepted");
        return None;
    }
    if *accepted == *query && residual.is_empty() || *residual == *query && accepted.is_empty() {
        return Some(());
    }
    let first = accepted.apply(table.listed.clone(), table.schema);
    let both = residual.apply(first, table.schema);
    let whole = checker.same_rows(Rule::PushDownWhole, || format!("{words}\n    {}", parts()), expected, &both);
    whole.then_some(())
}

/// Queries that a schema refuses are errors through a `Vista`, never empty answers.
fn refused_queries(checker: &mut Checker<'_>, table: &Table<'_>) {
    let cx = CallCx::new();
    let mut refused: Vec<(QueryDescriptor, ErrorKind)> = Vec::new();
    if table.schema.is_known() {
        let nowhere = "no such column";
        refused.push((QueryDescriptor::new().filtered(Condition::is_null(nowhere)), ErrorKind::NotFound));
        refused.push((QueryDescriptor::new().sorted(nowhere, SortDir::Asc), ErrorKind::NotFound));
    }
    for column in table.schema.columns().iter().filter(|column| !column.is_orderable()) {
        refused.push((QueryDescriptor::new().sorted(column.name(), SortDir::Asc), ErrorKind::Unsupported));
    }
    for (query, kind) in refused {
        let words = format!("list through a Vista: {}", asked(&query));
        checker.must_refuse(Rule::ThroughVista, &words, kind, table.vista.list_query(&cx, &query));
    }
}

fn clones(checker: &mut Checker<'_>) -> Option<()> {
    let rows = checker.many();
    let subject = checker.source(rows)?;
    let (vista, schema) = (&subject.vista, subject.vista.schema());
    if vista.query().search_text().is_some() {
        // A second search would take the place of the first.
        return Some(());
    }
    let path = checker.schema.columns().last()?.name().to_owned();
    let whole = checker.must(Rule::Fixture, "list through a Vista", vista.list_values())?;
    let value = whole.first().and_then(|(_, record)| record.get(&path)).cloned();
    let (mut narrowed, mut searched) = (vista.clone(), vista.clone());
    checker.must(Rule::Clones, "narrow a clone", narrowed.add_condition_eq(path.as_str(), value.clone()).map(drop))?;
    searched.set_search(Some("a"));
    let equals = QueryDescriptor::new().filtered(Condition::eq(path.as_str(), value));
    let searches = QueryDescriptor::new().searching("a");
    let everything = QueryDescriptor::new();
    let mut both = narrowed.clone();
    both.set_search(Some("a"));
    let together = QueryDescriptor { search: searches.search.clone(), ..equals.clone() };
    let handles = [
        (vista, &everything, "the first handle"),
        (&narrowed, &equals, "a narrowed clone"),
        (&searched, &searches, "a clone with a search"),
        (&both, &together, "a searched clone of the narrowed clone"),
    ];
    // Twice, so that each is asked after every other.
    for (handle, query, name) in handles.into_iter().chain(handles) {
        let found = checker.must(Rule::Clones, name, handle.list_values())?;
        checker.same_rows(Rule::Clones, || format!("list of {name}"), &plain(&whole, query, &schema), &found);
        let counted = checker.must(Rule::Clones, name, handle.get_count())?;
        checker.expect(Rule::Clones, counted == found.len() as u64, name, || {
            format!("counts {counted} rows and lists {}", found.len())
        });
        for (id, record) in whole.iter().step_by(3) {
            let row = checker.must(Rule::Clones, name, handle.get_value(id))?;
            let is_shown = found.iter().any(|(shown, _)| shown == id);
            super::reads::agree(checker, Rule::Clones, name, is_shown.then_some(record), row.as_ref());
        }
    }
    Some(())
}
