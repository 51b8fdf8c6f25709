//! Select: the part of a query that SQL answers exactly as the library's own evaluation does, as SQL.
//!
//! Flow: a query → what SQL takes of it (`Split`) → text with `?` for every value.
//! Invariants: whatever is taken, the answer is the one of plain evaluation, row by row and in its order
//! (`what_sqlite_answers_is_what_plain_evaluation_gives`); no value and no pattern is ever part of the text
//! (`values_are_bound_and_never_become_sql`).
//!
//! Where SQL means something else:
//!
//! | SQL | here |
//! | --- | --- |
//! | `NOT` of unknown is unknown | `NOT` becomes `IS NOT TRUE`; without it, unknown and false are the same |
//! | any number < any text < any blob | `typeof` stands beside `<`, `<=`, `>`, `>=` |
//! | a column's affinity changes what it is compared with | `+column` has no affinity; only where it can't matter the column is bare, so that an index serves |
//! | a column's collation | `COLLATE BINARY`: the order of bytes, in UTF-8 that of code points |
//! | null first | `NULLS LAST` |
//! | booleans are integers | in a column declared BOOLEAN, the integers 0 and 1 are told apart from all else |

use rusqlite::types::Value as SqlValue;

use super::cell::EXACT_IN_FLOAT;
use super::functions;
use super::relation::{Affinity, Relation, RelationColumn};
use crate::value::Value;
use crate::vista::{Collation, ColumnType, Condition, PushDown, QueryDescriptor, Schema, SortBy, SortDir};

/// SQLite refuses expressions nested deeper than 1,000; a chain of `AND` is as deep as it is long.
const MAX_NODES: usize = 250;

/// SQLite orders by 2,000 terms at the most, and a page that goes on behind a row nests one level for each.
const MAX_SORT_COLUMNS: usize = 32;

/// SQLite binds 32,766 values at the most.
const MAX_VALUES: usize = 30_000;

/// What SQL is written for.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) relation: &'a Relation,
    pub(super) schema: &'a Schema,
    /// Text is stored as UTF-8. In UTF-16 the order of bytes is not that of code points.
    pub(super) utf8: bool,
}

/// SQL and the values of its `?`, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Sql {
    pub(super) text: String,
    pub(super) values: Vec<SqlValue>,
    nodes: usize,
}

/// A value that a stored one can be compared with.
enum Operand {
    Null,
    Bool(bool),
    Number(SqlValue),
    Text(String),
    Bytes(Vec<u8>),
}

impl Operand {
    /// `None` for values whose comparison SQL doesn't know.
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Operand::Null,
            Value::Bool(value) => Operand::Bool(*value),
            Value::Integer(number) => Operand::Number(SqlValue::Integer(i64::try_from(*number).ok()?)),
            Value::Float(number) if !number.is_nan() => Operand::Number(SqlValue::Real(*number)),
            Value::Text(text) => Operand::Text(text.clone()),
            Value::Bytes(bytes) => Operand::Bytes(bytes.clone()),
            _ => return None,
        })
    }
}

/// One thing that rows are ordered by. Null is last in both directions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Term {
    pub(super) expression: String,
    pub(super) descending: bool,
    pub(super) nullable: bool,
}

impl Target<'_> {
    /// What SQL answers of `query`.
    pub(super) fn split(&self, query: &QueryDescriptor) -> PushDown {
        if !self.relation.takes_queries {
            let only_a_window = query.without_window().is_empty();
            return if only_a_window { PushDown::everything(query) } else { PushDown::nothing(query) };
        }
        let mut split = PushDown::default();
        let mut taken = Sql::default();
        for condition in &query.conditions {
            let mut one = Sql::default();
            let fits = self.condition(condition, &mut one).is_some()
                && taken.nodes + one.nodes <= MAX_NODES
                && taken.values.len() + one.values.len() <= MAX_VALUES;
            if fits {
                taken.nodes += one.nodes;
                taken.values.append(&mut one.values);
                split.accepted.conditions.push(condition.clone());
            } else {
                split.residual.conditions.push(condition.clone());
            }
        }
        if let Some(text) = query.search_text() {
            let fits = taken.nodes + self.searched().count() <= MAX_NODES;
            let side = if fits { &mut split.accepted } else { &mut split.residual };
            side.search = Some(text.to_owned());
        }
        let sorts = query.sort.len() <= MAX_SORT_COLUMNS && self.terms(query).is_some();
        let side = if sorts { &mut split.accepted } else { &mut split.residual };
        side.sort.clone_from(&query.sort);
        // A window is of the rows that are left in the end.
        let rest = QueryDescriptor { window: None, ..split.residual.clone() };
        let side = if rest.is_empty() { &mut split.accepted } else { &mut split.residual };
        side.window = query.window;
        split
    }

    /// What holds for the rows of an accepted query, behind `lead`, or nothing; `None` when it asks for more than SQL
    /// answers.
    pub(super) fn filter(&self, query: &QueryDescriptor, lead: &str, sql: &mut Sql) -> Option<()> {
        if query.is_filtered() && !self.relation.takes_queries {
            return None;
        }
        let mut lead = lead;
        for condition in &query.conditions {
            sql.text.push_str(lead);
            self.condition(condition, sql)?;
            lead = " AND ";
        }
        if let Some(text) = query.search_text() {
            sql.text.push_str(lead);
            sql.text.push_str("(0");
            for column in self.searched() {
                let is_bool = i64::from(column.kind == ColumnType::Bool);
                sql.push(&format!(" OR {}({}, ", functions::SEARCH, column.qualified()));
                sql.bind(SqlValue::Text(text.to_owned()));
                sql.push(&format!(", {is_bool})"));
            }
            sql.text.push(')');
        }
        Some(())
    }

    /// What rows are ordered by for an accepted query, the order of arrival last: it decides between ties, and all
    /// without a sort.
    pub(super) fn terms(&self, query: &QueryDescriptor) -> Option<Vec<Term>> {
        let mut terms = Vec::with_capacity(query.sort.len() + 1);
        for by in &query.sort {
            self.sort(by, &mut terms)?;
        }
        terms.push(Term { expression: self.relation.arrival.clone(), descending: false, nullable: false });
        Some(terms)
    }

    /// The columns that a search looks into: the searchable ones, or all when there are none.
    fn searched(&self) -> impl Iterator<Item = &RelationColumn> {
        let some = self.schema.columns().iter().any(|column| column.is_searchable());
        let is_searched = move |(column, _): &(&crate::vista::Column, &RelationColumn)| column.is_searchable() || !some;
        self.schema.columns().iter().zip(&self.relation.columns).filter(is_searched).map(|(_, column)| column)
    }

    /// A path is a column only by its whole name; what reaches into values is not for SQL.
    fn column(&self, path: &str) -> Option<&RelationColumn> {
        self.relation.columns.iter().find(|column| column.name == path)
    }

    fn sort(&self, by: &SortBy, terms: &mut Vec<Term>) -> Option<()> {
        let column = self.column(&by.path)?;
        // SQLite's own NOCASE knows ASCII alone.
        if !self.utf8 || !self.relation.takes_queries || by.collation != Collation::CodePoint {
            return None;
        }
        let name = column.qualified();
        let descending = by.dir == SortDir::Desc;
        if column.kind == ColumnType::Bool {
            terms.push(Term { expression: format!("({name} IS NULL)"), descending: false, nullable: false });
            terms.push(Term { expression: format!("({} IS NOT TRUE)", is_bool(column)), descending, nullable: false });
        }
        let nullable = !(column.not_null && self.relation.is_table);
        terms.push(Term { expression: format!("{name} COLLATE BINARY"), descending, nullable });
        Some(())
    }

    /// Appends an expression that is true exactly where the condition holds.
    fn condition(&self, condition: &Condition, sql: &mut Sql) -> Option<()> {
        sql.nodes += 1;
        if sql.nodes > MAX_NODES {
            return None;
        }
        match condition {
            Condition::Eq(path, value) => self.equal(self.column(path)?, value, sql),
            Condition::Ne(path, value) => sql.negated(|sql| self.equal(self.column(path)?, value, sql)),
            Condition::Lt(path, value) => self.ordered(self.column(path)?, "<", value, sql),
            Condition::Le(path, value) => self.ordered(self.column(path)?, "<=", value, sql),
            Condition::Gt(path, value) => self.ordered(self.column(path)?, ">", value, sql),
            Condition::Ge(path, value) => self.ordered(self.column(path)?, ">=", value, sql),
            Condition::In(path, values) => self.one_of(self.column(path)?, values, sql),
            Condition::NotIn(path, values) => sql.negated(|sql| self.one_of(self.column(path)?, values, sql)),
            Condition::Like(path, pattern) => {
                sql.push(&format!("{}({}, ", functions::LIKE, self.column(path)?.qualified()));
                sql.bind(SqlValue::Text(pattern.clone()));
                sql.push(")");
                Some(())
            }
            Condition::IsNull(path) => {
                sql.push(&format!("{} IS NULL", self.column(path)?.qualified()));
                Some(())
            }
            Condition::And(children) => self.joined(children, "1", " AND ", sql),
            Condition::Or(children) => self.joined(children, "0", " OR ", sql),
            Condition::Not(child) => sql.negated(|sql| self.condition(child, sql)),
        }
    }

    fn joined(&self, children: &[Condition], when_empty: &str, between: &str, sql: &mut Sql) -> Option<()> {
        sql.text.push('(');
        for (position, child) in children.iter().enumerate() {
            sql.push(if position == 0 { "" } else { between });
            self.condition(child, sql)?;
        }
        sql.push(if children.is_empty() { when_empty } else { "" });
        sql.text.push(')');
        Some(())
    }

    fn equal(&self, column: &RelationColumn, value: &Value, sql: &mut Sql) -> Option<()> {
        match Operand::of(value)? {
            Operand::Null => sql.push(&format!("{} IS NULL", column.qualified())),
            Operand::Bool(_) if column.kind != ColumnType::Bool => sql.push("0"),
            Operand::Bool(value) => {
                sql.push(&format!("({} AND {} = {})", is_bool(column), column.qualified(), i64::from(value)));
            }
            Operand::Number(number) => {
                let guard = unless_bool(column);
                sql.compare(&format!("({guard}{} = ", self.beside_number(column, &number)), number, ")");
            }
            Operand::Text(text) => {
                sql.compare(&format!("({} = ", self.beside_text(column)), SqlValue::Text(text), ")");
            }
            Operand::Bytes(bytes) => {
                sql.compare(&format!("({} = ", self.beside_bytes(column)), SqlValue::Blob(bytes), ")");
            }
        }
        Some(())
    }

    fn ordered(&self, column: &RelationColumn, operator: &str, value: &Value, sql: &mut Sql) -> Option<()> {
        let name = column.qualified();
        match Operand::of(value)? {
            Operand::Null => sql.push("0"),
            Operand::Bool(_) if column.kind != ColumnType::Bool => sql.push("0"),
            Operand::Bool(value) => {
                sql.push(&format!("({} AND {name} {operator} {})", is_bool(column), i64::from(value)));
            }
            Operand::Number(number) => {
                let left = self.beside_number(column, &number);
                let lead =
                    format!("({}typeof({name}) IN ('integer', 'real') AND {left} {operator} ", unless_bool(column));
                sql.compare(&lead, number, ")");
            }
            Operand::Text(_) if !self.utf8 => return None,
            Operand::Text(text) => {
                let lead = format!("(typeof({name}) = 'text' AND {} {operator} ", self.beside_text(column));
                sql.compare(&lead, SqlValue::Text(text), ")");
            }
            Operand::Bytes(bytes) => {
                let lead = format!("(typeof({name}) = 'blob' AND {} {operator} ", self.beside_bytes(column));
                sql.compare(&lead, SqlValue::Blob(bytes), ")");
            }
        }
        Some(())
    }

    fn one_of(&self, column: &RelationColumn, values: &[Value], sql: &mut Sql) -> Option<()> {
        let (mut numbers, mut texts, mut blobs) = (Vec::new(), Vec::new(), Vec::new());
        let mut left_of_numbers = self.beside_number(column, &SqlValue::Integer(0));
        sql.text.push('(');
        for value in values {
            match Operand::of(value)? {
                Operand::Null | Operand::Bool(_) => {
                    sql.nodes += 1;
                    self.equal(column, value, sql)?;
                    sql.text.push_str(" OR ");
                }
                Operand::Number(number) => {
                    let left = self.beside_number(column, &number);
                    if left.starts_with('+') {
                        left_of_numbers = left;
                    }
                    numbers.push(number);
                }
                Operand::Text(text) => texts.push(SqlValue::Text(text)),
                Operand::Bytes(bytes) => blobs.push(SqlValue::Blob(bytes)),
            }
        }
        let numbers_left = format!("{}{left_of_numbers}", unless_bool(column));
        let groups = [(numbers_left, numbers), (self.beside_text(column), texts), (self.beside_bytes(column), blobs)];
        for (left, values) in groups {
            if !values.is_empty() {
                sql.text.push_str(&format!("({left} IN ("));
                for (position, value) in values.into_iter().enumerate() {
                    sql.push(if position == 0 { "" } else { ", " });
                    sql.bind(value);
                }
                sql.text.push_str(")) OR ");
            }
        }
        sql.text.push_str("0)");
        Some(())
    }

    /// The column as it is compared with a number: a column of text would turn the number into text, and an index on a
    /// column of floats would round a large integer.
    fn beside_number(&self, column: &RelationColumn, number: &SqlValue) -> String {
        let exact = match (column.affinity, number) {
            (Affinity::Text, _) => false,
            (Affinity::Real, SqlValue::Integer(number)) => number.unsigned_abs() <= EXACT_IN_FLOAT,
            _ => true,
        };
        self.bare_if(exact, column)
    }

    /// The column as it is compared with text: a column of numbers would turn the text into a number where it can.
    fn beside_text(&self, column: &RelationColumn) -> String {
        format!("{} COLLATE BINARY", self.bare_if(!column.affinity.is_numeric(), column))
    }

    fn beside_bytes(&self, column: &RelationColumn) -> String {
        self.bare_if(true, column)
    }

    fn bare_if(&self, exact: bool, column: &RelationColumn) -> String {
        let plus = if exact && self.relation.is_table { "" } else { "+" };
        format!("{plus}{}", column.qualified())
    }
}

/// True exactly where the column holds a boolean, never null.
fn is_bool(column: &RelationColumn) -> String {
    let name = column.qualified();
    format!("(typeof({name}) = 'integer' AND +{name} IN (0, 1))")
}

/// What keeps booleans out of a comparison of numbers.
fn unless_bool(column: &RelationColumn) -> String {
    if column.kind == ColumnType::Bool { format!("NOT {} AND ", is_bool(column)) } else { String::new() }
}

impl Sql {
    pub(super) fn append(&mut self, other: Sql) {
        self.text.push_str(&other.text);
        self.values.extend(other.values);
    }

    /// Appends `ORDER BY …`.
    pub(super) fn order(&mut self, terms: &[Term]) {
        for (position, term) in terms.iter().enumerate() {
            self.push(if position == 0 { " ORDER BY " } else { ", " });
            self.push(&term.expression);
            // Null is the least there, so that it comes last by itself when the order is turned round.
            self.push(match term {
                Term { descending: true, .. } => " DESC",
                Term { nullable: true, .. } => " NULLS LAST",
                Term { .. } => "",
            });
        }
    }

    /// Appends `LIMIT … OFFSET …`.
    pub(super) fn window(&mut self, offset: usize, limit: usize) {
        let whole = |number: usize| SqlValue::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        self.push(" LIMIT ");
        self.bind(whole(limit));
        self.push(" OFFSET ");
        self.bind(whole(offset));
    }

    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub(super) fn bind(&mut self, value: SqlValue) {
        self.text.push('?');
        self.values.push(value);
    }

    fn compare(&mut self, lead: &str, value: SqlValue, end: &str) {
        self.text.push_str(lead);
        self.bind(value);
        self.text.push_str(end);
    }

    /// True where the inner expression is false or unknown, never null.
    fn negated(&mut self, inner: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        self.text.push_str("((");
        inner(self)?;
        self.text.push_str(") IS NOT TRUE)");
        Some(())
    }
}
