//! Report: which rules of the source contract a driver broke, by what, and where its answer first differs.

use std::borrow::Borrow;
use std::fmt;

use crate::value::{Record, Value, ValueRef, same_value};

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// A rule of the source contract. Its `Display` is the rule in one sentence.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* #[doc = concat!("\n\n«", $text, "»")] $name,)+
        }

        impl Rule {
            /// Every rule, in the order in which they are checked.
            pub const ALL: &'static [Rule] = &[$(Rule::$name,)+];

            fn text(self) -> &'static str {
                match self {
                    $(Rule::$name => $text,)+
                }
            }
        }
    };
}

rules! {
    /// The fixture's own part: it makes a source that can be listed.
    Fixture => "the fixture makes a source over the rows it is given, and every call that must work does",
    /// The driver's code runs on the library's threads.
    NoPanic => "no call panics",
    /// Name, key, schema and capabilities are asked often and must not change by themselves.
    Identity => "name and source key are not empty, differ between sources, and stay, as schema and capabilities do",
    /// What the schema says holds for the rows.
    Schema => "the id column is listed, columns are listed once, and every value is in a listed column and of its type",
    /// Listing is what everything else is held against.
    ListWhole => "a list of everything has each row once, under its id, with the values it was given",
    /// Nothing is asked twice with two answers.
    ListStable => "a list asked twice gives the same rows in the same order",
    /// Ids are text, never empty, and the row's id column says the same.
    Ids => "ids are text, not empty, each once, and the id column holds the row's id",
    /// Leading zeros, exponents, quotes, spaces, any script, length.
    AwkwardIds => "ids of any text work, and no two of them are taken for one",
    /// One row by its id.
    GetAgrees => "get answers the row that list has, and none for an id that list doesn't have",
    /// Splitting a query loses nothing.
    PushDownWhole => "what push_down accepts and what it leaves make the query again",
    /// A window of something that is filtered later is wrong.
    WindowLast => "a window is accepted only when nothing is left over",
    /// One condition, as the truth table of [`Condition`](crate::vista::Condition) says.
    Conditions => "accepted conditions let through exactly the rows that plain evaluation does",
    /// The one order of values; null last; ties as listed.
    Sort => "accepted sorts give the order of plain evaluation: nulls last both ways, ties as they are listed",
    /// Case never counts, in searchable columns only.
    Search => "accepted searches find exactly the rows that plain evaluation does",
    /// From `offset` on, at most `limit`.
    Windows => "accepted windows give exactly the rows of plain evaluation",
    /// The clauses together.
    Combined => "conditions, search, sort and window accepted together give what plain evaluation gives",
    /// What an application sees through [`Vista`](crate::vista::Vista).
    ThroughVista => "whatever is pushed down, a Vista answers a query as plain evaluation does",
    /// A count of the same query.
    CountAgrees => "count is the number of rows that list gives for the same query without its window",
    /// Piece by piece it is the same whole.
    Pages => "pages followed from the first to the last give the rows of list, each once and in its order",
    /// The last page says that it is the last.
    PagesEnd => "a page without rows is the last one and has no next",
    /// At least one row, at most so many, of a whole query.
    PageLimits => "a page has at most as many rows as asked for, and is Invalid for none and for a window",
    /// A number is right or not called exact.
    PageTotals => "an exact total is the number of rows that list gives, and one of at least so many is no more than that",
    /// A place in an order is not a number of rows.
    PagesAmidChanges => "pages followed while rows come and go give each row that stays exactly once, and none that is gone",
    /// Nothing else leads into the rows.
    Cursors => "a cursor is printable, can be used again, and is Invalid for another query or source, cut short or changed",
    /// A handle's conditions are its own.
    Clones => "clones keep their own narrowing",
    /// Told `false`, so it is refused.
    Denied => "what the capabilities deny answers Unsupported and changes nothing",
    /// Told `true`, so it works.
    Advertised => "what the capabilities promise works",
    /// A new row.
    Insert => "an inserted row is there as it was given, and no other row changed",
    /// The answer of a write names the row.
    WrittenId => "the id that a write answers is the id under which the row is found",
    /// The answer of a write shows the row.
    WrittenRow => "the row that a write answers is the row that is stored",
    /// An id is taken once.
    InsertTaken => "an insert under an id that is taken is a Conflict and changes nothing",
    /// A whole row for a whole row.
    Replace => "a replaced row has the new values and no others",
    /// Nothing to replace.
    ReplaceMissing => "replacing a missing row is NotFound and changes nothing",
    /// A whole row, either way.
    Upsert => "an upserted row has the new values and no others, whether it was there or not",
    /// Some fields.
    Patch => "a patched row has the new values, and its other fields as they were",
    /// Nothing to patch.
    PatchMissing => "patching a missing row is NotFound and changes nothing",
    /// One row less.
    Delete => "a deleted row is gone, and no other row changed",
    /// Deleting is a wish for absence.
    DeleteMissing => "deleting a missing row is fine and changes nothing",
    /// All rows less.
    DeleteAll => "after delete_all there is no row, and rows can come again",
    /// Every value of every column that the fixture names.
    ValuesComeBack => "a written value comes back equal and of the same type",
    /// The schema says what a row must and may have.
    SchemaHeld => "a new row without a mandatory column, with a column that isn't there, or with an empty id is Invalid or Rejected",
    /// An error means that nothing was done.
    NoTrace => "a refused write leaves no trace",
    /// Several writes at once.
    Batch => "a batch does all its writes, in order, and answers each",
    /// All or none.
    BatchWhole => "a batch that is refused does nothing",
    /// The same key is the same write.
    Idempotent => "a write repeated with its key is done once and gets its first answer; another key is another write",
    /// Nobody wants the answer.
    Cancelled => "a cancelled call ends soon, is Cancelled, and writes nothing",
    /// The time is over.
    Deadline => "a call whose deadline is over ends soon, is a Timeout, and writes nothing",
    /// Calls come from several threads.
    Threads => "calls from several threads at once give the answers of calls one by one",
    /// Somebody else changes rows.
    Outside => "a change made from outside is seen by the next call",
    /// Two handles of one source.
    SecondHandle => "a second handle has the same key and sees the same rows, writes of the first included",
    /// The stream tells of every row that others change.
    Changes => "the stream tells every change made from outside, truthfully, and can be waited on and cancelled",
    /// Away is an error, never an empty answer.
    Offline => "a source that can't be reached answers Unavailable, writes nothing, and works again afterwards",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// One breach: the rule, what was asked, and how the answer differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// The rule that is broken.
    pub rule: Rule,
    /// The call, query or write at which it was broken.
    pub asked: String,
    /// What was expected and what came; for rows, the first that differs.
    pub difference: String,
}

/// What [`try_check`](super::try_check) found: every broken rule with its first breaches.
#[derive(Debug, Clone)]
pub struct ContractReport {
    fixture: String,
    failures: Vec<Failure>,
    more: Vec<(Rule, usize)>,
    checks: u64,
}

/// How many breaches of one rule are kept whole.
const SHOWN_PER_RULE: usize = 3;

impl ContractReport {
    pub(super) fn new(fixture: &str) -> Self {
        ContractReport { fixture: fixture.to_owned(), failures: Vec::new(), more: Vec::new(), checks: 0 }
    }

    pub(super) fn checked(&mut self) {
        self.checks += 1;
    }

    pub(super) fn fail(&mut self, rule: Rule, asked: impl Into<String>, difference: impl Into<String>) {
        if self.failures.iter().filter(|failure| failure.rule == rule).count() < SHOWN_PER_RULE {
            self.failures.push(Failure { rule, asked: asked.into(), difference: difference.into() });
        } else if let Some((_, more)) = self.more.iter_mut().find(|(known, _)| *known == rule) {
            *more += 1;
        } else {
            self.more.push((rule, 1));
        }
    }

    /// The first three breaches of each broken rule, in the order in which they were found.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The broken rules, each once, in the order of [`Rule::ALL`].
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.failures.iter().map(|failure| failure.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// How many answers were compared.
    pub fn checks(&self) -> u64 {
        self.checks
    }
}

impl fmt::Display for ContractReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules();
        let (fixture, checks) = (&self.fixture, self.checks);
        write!(f, "`{fixture}` breaks {} rule(s) of the source contract ({checks} checks):", rules.len())?;
        for rule in rules {
            write!(f, "\n\n{rule:?}: {rule}")?;
            for failure in self.failures.iter().filter(|failure| failure.rule == rule) {
                write!(f, "\n  asked: {}", failure.asked)?;
                for line in failure.difference.lines() {
                    write!(f, "\n    {line}")?;
                }
            }
            if let Some((_, more)) = self.more.iter().find(|(known, _)| *known == rule) {
                write!(f, "\n  and {more} more")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ContractReport {}

/// The first place at which two lists of rows differ, in words; `None` when they don't.
pub(super) fn first_difference<R: Borrow<Record>, S: Borrow<Record>>(
    expected: &[(String, R)],
    found: &[(String, S)],
) -> Option<String> {
    let mut pairs = expected.iter().zip(found).enumerate();
    let differs = pairs.find_map(|(position, ((id, record), (found_id, found)))| {
        if id != found_id {
            return Some(format!("row {position} is {}, expected {}", shown_id(found_id), shown_id(id)));
        }
        let difference = field_difference(record.borrow(), found.borrow())?;
        Some(format!("row {position}, {}: {difference}", shown_id(id)))
    });
    let lengths = (expected.len(), found.len());
    let of_lengths = || match lengths {
        (expected_rows, rows) if expected_rows < rows => {
            Some(format!("row {expected_rows} is {}, expected no further row", shown_id(&found[expected_rows].0)))
        }
        (expected_rows, rows) if expected_rows > rows => {
            Some(format!("there is no row {rows}, expected {}", shown_id(&expected[rows].0)))
        }
        _ => None,
    };
    let first = differs.or_else(of_lengths)?;
    Some(format!(
        "{first}\n{} rows expected: {}\n{} rows found: {}",
        lengths.0,
        ids_of(expected),
        lengths.1,
        ids_of(found)
    ))
}

/// The first field in which two rows differ, in words. A field that is null is as one that is absent.
pub(super) fn field_difference(expected: &Record, found: &Record) -> Option<String> {
    let null = Value::Null;
    let value = |record: &Record, name: &str| record.get(name).unwrap_or(&null).clone();
    expected.names().chain(found.names()).find_map(|name| {
        let (wanted, came) = (value(expected, name), value(found, name));
        (!same(&wanted, &came)).then(|| format!("`{name}` is {}, expected {}", shown(&came), shown(&wanted)))
    })
}

/// Whether two values are equal and of the same type.
pub(super) fn same(left: &Value, right: &Value) -> bool {
    same_value(ValueRef::from(left), ValueRef::from(right))
}

fn ids_of<R>(rows: &[(String, R)]) -> String {
    let mut text: Vec<String> = rows.iter().take(12).map(|(id, _)| shown_id(id)).collect();
    if rows.len() > text.len() {
        text.push("…".to_owned());
    }
    text.join(" ")
}

pub(super) fn shown_id(id: &str) -> String {
    match id.char_indices().nth(40) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &id[..end], id.len()),
        None => format!("{id:?}"),
    }
}

pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Integer(number) => format!("the integer {}", i128::from(*number)),
        Value::Float(number) => format!("the float {number:?}"),
        Value::Text(text) => format!("the text {text:?}"),
        Value::Bool(flag) => flag.to_string(),
        Value::Null => "null".to_owned(),
        Value::Bytes(bytes) => format!("the bytes {bytes:?}"),
        Value::Tag(0, text) => format!("the instant {}", text.as_text().unwrap_or("that is no text")),
        Value::Tag(4, parts) => match parts.as_array().map(Vec::as_slice) {
            Some([Value::Integer(exponent), Value::Integer(mantissa)]) => {
                format!("the decimal {}e{}", i128::from(*mantissa), i128::from(*exponent))
            }
            _ => format!("a decimal without exponent and mantissa, {parts:?}"),
        },
        other => format!("{other:?}"),
    };
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
