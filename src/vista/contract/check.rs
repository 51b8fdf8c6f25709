//! Check: what all parts of the suite share: sources, rows, ids, and ways to hold an answer against the expected one.
//!
//! Flow: sections, each over sources of its own → breaches in the report. A section that can't go on ends early.
//! Invariants: a panic of the driver ends its section, not the suite.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use crate::sync::catch_user;
use crate::value::{Record, Value, ValueRef};
use crate::vista::{CallCx, Column, QueryDescriptor, Schema, TableShell, WriteOp, Written};
use crate::{Error, ErrorKind, Result};

use super::report::{ContractReport, Rule, field_difference, first_difference, shown_id};
use super::{Fixture, Rows, Subject, calls, others, pages, queries, reads, sample, writes};

/// How many rows the larger sources have; the smaller ones have [`FEW`].
const MANY: usize = 24;
const FEW: usize = 6;
/// How many ids are kept for rows that come later.
const FRESH: usize = 8;

/// What a table holds, by id, without the id column.
pub(super) type Contents = BTreeMap<String, Record>;

pub(super) struct Checker<'f> {
    pub(super) fixture: &'f Fixture<'f>,
    pub(super) schema: Schema,
    pub(super) report: ContractReport,
    own_values: Vec<(String, Vec<Value>)>,
}

type Section = fn(&mut Checker<'_>) -> Option<()>;

impl<'f> Checker<'f> {
    pub(super) fn new(fixture: &'f Fixture<'f>) -> Self {
        Checker {
            fixture,
            schema: fixture.schema.clone().unwrap_or_default(),
            report: ContractReport::new(&fixture.name),
            own_values: fixture.values.clone(),
        }
    }

    pub(super) fn run(&mut self) {
        if self.fixture.schema.is_none() && self.learn().is_none() {
            return;
        }
        if !self.has_ids() {
            return;
        }
        let sections: [(&str, Section); 6] = [
            ("reading", reads::check),
            ("queries", queries::check),
            ("pages", pages::check),
            ("writing", writes::check),
            ("contexts and threads", calls::check),
            ("the world outside", others::check),
        ];
        for (name, section) in sections {
            self.fenced(name, section);
        }
    }

    /// Runs a part of the suite; a panic of the driver ends the part.
    pub(super) fn fenced(&mut self, name: &str, part: impl FnOnce(&mut Self) -> Option<()>) {
        let outcome = catch_user("the driver", || {
            part(self);
        });
        if let Err(error) = outcome {
            self.fail(Rule::NoPanic, name, error.message().to_owned());
        }
    }

    /// Whether the fixture's ids are enough and different.
    fn has_ids(&mut self) -> bool {
        let mut ids = self.ids();
        ids.sort_unstable();
        ids.dedup();
        let least = FEW + FRESH + 2;
        self.expect(Rule::Fixture, ids.len() >= least, "ids of the fixture", || {
            format!("{} different ids, expected at least {least}", ids.len())
        })
    }

    /// Takes the schema and the values from a source that has rows of its own.
    fn learn(&mut self) -> Option<()> {
        let subject = self.source(Rows::new())?;
        let rows = self.must(Rule::Fixture, "list of everything", subject.vista.list_values())?;
        self.schema = (*subject.vista.schema()).clone();
        let names: Vec<String> = self.schema.columns().iter().map(|column| column.name().to_owned()).collect();
        for name in names {
            let given = self.own_values.iter().any(|(column, _)| *column == name);
            let values = rows.iter().filter_map(|(_, record)| record.get(&name)).filter(|value| !value.is_null());
            let values: Vec<Value> = values.take(12).cloned().collect();
            if !given && !values.is_empty() {
                self.own_values.push((name, values));
            }
        }
        Some(())
    }

    /// Whether rows can be made up and written.
    pub(super) fn brings_rows(&self) -> bool {
        self.fixture.schema.is_some()
    }

    /// The values that a column is tried with.
    pub(super) fn values(&self, column: &Column) -> Vec<Value> {
        match self.own_values.iter().find(|(name, _)| name == column.name()) {
            Some((_, values)) => values.clone(),
            None if Some(column.name()) == self.schema.id_column() => {
                self.many_ids().iter().take(4).map(|id| sample::id_value(&self.schema, id)).collect()
            }
            None => sample::values_of(column.kind()),
        }
    }

    fn ids(&self) -> Vec<String> {
        match &self.fixture.ids {
            Some(ids) => ids.clone(),
            // In no order, so that the order of arrival is none of the ids either.
            None => {
                let seeds = (0..MANY).map(|number| format!("r{:02}", number * 7 % MANY));
                seeds.chain((1..=FRESH).map(|number| format!("new-{number}"))).collect()
            }
        }
    }

    fn many_ids(&self) -> Vec<String> {
        let mut ids = self.ids();
        ids.truncate(ids.len().saturating_sub(FRESH).min(MANY));
        ids
    }

    /// An id that no row of [`many`](Self::many) has, one of eight.
    pub(super) fn fresh_id(&self, number: usize) -> String {
        let ids = self.ids();
        let position = (ids.len().saturating_sub(FRESH) + number).min(ids.len().saturating_sub(1));
        ids.get(position).cloned().unwrap_or_default()
    }

    /// A whole row with the values of its number.
    pub(super) fn row(&self, number: usize, id: &str) -> Record {
        sample::row(&self.schema, |column| self.values(column), number, id)
    }

    pub(super) fn rows_under(&self, ids: &[String]) -> Rows {
        sample::rows(&self.schema, |column| self.values(column), ids)
    }

    pub(super) fn many(&self) -> Rows {
        self.rows_under(&self.many_ids())
    }

    pub(super) fn few(&self) -> Rows {
        let mut rows = self.many();
        rows.truncate(FEW);
        rows
    }

    /// A new source over these rows.
    pub(super) fn source(&mut self, rows: Rows) -> Option<Subject> {
        let made = (self.fixture.make)(rows);
        self.must(Rule::Fixture, "make a source", made)
    }

    /// A new source over a few rows, and what it holds.
    pub(super) fn source_of_few(&mut self) -> Option<(Subject, Contents)> {
        let rows = self.few();
        let subject = self.source(rows)?;
        let contents = self.contents(&**subject.vista.shell())?;
        Some((subject, contents))
    }

    /// What a source holds now.
    pub(super) fn contents(&mut self, shell: &dyn TableShell) -> Option<Contents> {
        let rows = self.must(Rule::Fixture, "list of everything", list_all(shell))?;
        Some(rows.into_iter().map(|(id, record)| (id, self.without_id(record))).collect())
    }

    /// The row without its id column, which [`Rule::Ids`] looks at.
    pub(super) fn without_id(&self, mut record: Record) -> Record {
        if let Some(id) = self.schema.id_column() {
            record.remove(id);
        }
        record
    }

    pub(super) fn fail(&mut self, rule: Rule, asked: impl Into<String>, difference: impl Into<String>) {
        self.report.fail(rule, asked, difference);
    }

    /// Breaks `rule` unless `holds`.
    pub(super) fn expect(&mut self, rule: Rule, holds: bool, asked: &str, otherwise: impl FnOnce() -> String) -> bool {
        self.report.checked();
        if !holds {
            self.fail(rule, asked, otherwise());
        }
        holds
    }

    /// The answer of a call that has to work.
    pub(super) fn must<T>(&mut self, rule: Rule, asked: &str, answer: Result<T>) -> Option<T> {
        self.report.checked();
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                let rule = if error.kind() == ErrorKind::Unsupported && rule != Rule::Fixture {
                    Rule::Advertised
                } else {
                    rule
                };
                self.fail(rule, asked, format!("answered the error: {error}"));
                None
            }
        }
    }

    /// Breaks `rule` unless the call answered an error of this kind; `None`: of any kind.
    pub(super) fn must_refuse<T>(
        &mut self,
        rule: Rule,
        asked: &str,
        kind: impl Into<Option<ErrorKind>>,
        answer: Result<T>,
    ) -> Option<Error> {
        let kind = kind.into();
        let wanted = kind.map_or("an error".to_owned(), |kind| format!("an error of kind `{kind:?}`"));
        self.report.checked();
        match answer {
            Ok(_) => {
                self.fail(rule, asked, format!("was done, expected {wanted}"));
                None
            }
            Err(error) => {
                if kind.is_some_and(|kind| kind != error.kind()) {
                    self.fail(rule, asked, format!("answered `{:?}` ({error}), expected {wanted}", error.kind()));
                }
                Some(error)
            }
        }
    }

    /// Breaks `rule` unless both are the same rows in the same order.
    pub(super) fn same_rows<R: Borrow<Record>, S: Borrow<Record>>(
        &mut self,
        rule: Rule,
        asked: impl FnOnce() -> String,
        expected: &[(String, R)],
        found: &[(String, S)],
    ) -> bool {
        self.report.checked();
        match first_difference(expected, found) {
            None => true,
            Some(difference) => {
                self.fail(rule, asked(), difference);
                false
            }
        }
    }

    /// Breaks `rule` unless the source holds exactly this.
    pub(super) fn holds(&mut self, rule: Rule, asked: &str, shell: &dyn TableShell, expected: &Contents) -> bool {
        let Some(found) = self.contents(shell) else { return false };
        self.report.checked();
        let missing = expected.iter().find_map(|(id, record)| match found.get(id) {
            None => Some(format!("afterwards the row {} is not there", shown_id(id))),
            Some(stored) => field_difference(record, stored)
                .map(|difference| format!("afterwards, in the row {}, {difference}", shown_id(id))),
        });
        let unexpected = || {
            let id = found.keys().find(|id| !expected.contains_key(*id))?;
            Some(format!("afterwards there is a row {}, expected none", shown_id(id)))
        };
        match missing.or_else(unexpected) {
            None => true,
            Some(difference) => {
                self.fail(rule, asked, difference);
                false
            }
        }
    }
}

/// Everything that a source has.
pub(super) fn list_all(shell: &dyn TableShell) -> Result<Rows> {
    shell.list(&CallCx::new(), &QueryDescriptor::default())
}

/// One write by the call that carries it.
pub(super) fn write(shell: &dyn TableShell, cx: &CallCx, op: &WriteOp) -> Result<Written> {
    match op {
        WriteOp::Insert { id, record } => shell.insert(cx, id.as_deref(), record),
        WriteOp::Replace { id, record } => shell.replace(cx, id, record),
        WriteOp::Upsert { id, record } => shell.upsert(cx, id, record),
        WriteOp::Patch { id, record } => shell.patch(cx, id, record),
        WriteOp::Delete { id } => shell.delete(cx, id).map(|()| Written::id(id.as_str())),
        WriteOp::DeleteAll => shell.delete_all(cx).map(|()| Written::default()),
    }
}

/// A write in a few words.
pub(super) fn said(op: &WriteOp) -> String {
    match op.id() {
        Some(id) => format!("{} of {}", op.verb(), shown_id(id)),
        None => op.verb().to_owned(),
    }
}

/// Whether a value of the id column says that the row's id is `id`. A source may hold it as a number.
pub(super) fn says_id(value: &Value, id: &str) -> bool {
    match ValueRef::from(value).untagged() {
        ValueRef::Null => true,
        ValueRef::Text(text) => text == id,
        ValueRef::Int(number) => number.to_string() == id,
        _ => false,
    }
}
