//! Accumulator: the running state of a built-in aggregate, to which rows are added and from which they are taken.
//!
//! Owner: the core; a build thread while it is filled.
//! Invariants: its result depends only on which rows are in (`any_history_equals_a_recompute_bit_by_bit`); a change of one
//! row costs O(log n) (`one_row_costs_a_path_of_the_tree_whatever_the_number_of_rows`).

use crate::scenery::exact_sum::{ExactSum, SumResult};
use crate::scenery::multiset::Multiset;
use crate::scenery::value::ValueCounts;
use crate::value::{Path, RowRef, Summand, Value, ValueRef, summand};
use crate::{Error, ErrorKind, Result};

/// An aggregate that the library knows how to keep.
#[derive(Debug, Clone)]
pub(crate) enum BuiltIn {
    Count,
    Sum(Path),
    Avg(Path),
    Min(Path),
    Max(Path),
    Distinct(Path),
}

/// The running state of a [`BuiltIn`]. A clone shares what is large.
#[derive(Clone)]
pub(crate) struct Accumulator {
    aggregate: BuiltIn,
    rows: Rows,
}

/// What is known of the rows that are in.
#[derive(Clone)]
enum Rows {
    Counted(u64),
    Summed {
        sum: Box<ExactSum>,
        /// Rows without a number.
        skipped: u64,
    },
    Ordered {
        values: Box<Multiset>,
        /// Rows without a value.
        skipped: u64,
    },
}

impl Accumulator {
    pub(crate) fn new(aggregate: &BuiltIn) -> Self {
        let ordered = |values| Rows::Ordered { values: Box::new(values), skipped: 0 };
        let rows = match aggregate {
            BuiltIn::Count => Rows::Counted(0),
            BuiltIn::Sum(_) | BuiltIn::Avg(_) => Rows::Summed { sum: Box::new(ExactSum::new()), skipped: 0 },
            BuiltIn::Min(_) | BuiltIn::Max(_) => ordered(Multiset::of_values()),
            BuiltIn::Distinct(_) => ordered(Multiset::of_keys()),
        };
        Accumulator { aggregate: aggregate.clone(), rows }
    }

    /// Puts a row in. It counts once [`settle`](Self::settle) was called.
    pub(crate) fn add(&mut self, row: RowRef<'_>) {
        let value = self.aggregate.value(row);
        match &mut self.rows {
            Rows::Counted(count) => *count += 1,
            Rows::Summed { sum, skipped } => match value.and_then(summand) {
                Some(Summand::Int(value)) => sum.add_int(value),
                Some(Summand::Float(value)) => sum.add_float(value),
                None => *skipped += 1,
            },
            Rows::Ordered { values, skipped } => *skipped += u64::from(!values.add(value)),
        }
    }

    /// Takes a row out that was put in. It counts no more once [`settle`](Self::settle) was called.
    pub(crate) fn remove(&mut self, row: RowRef<'_>) {
        let value = self.aggregate.value(row);
        match &mut self.rows {
            Rows::Counted(count) => *count -= 1,
            Rows::Summed { sum, skipped } => match value.and_then(summand) {
                Some(Summand::Int(value)) => sum.remove_int(value),
                Some(Summand::Float(value)) => sum.remove_float(value),
                None => *skipped -= 1,
            },
            Rows::Ordered { values, skipped } => *skipped -= u64::from(!values.remove(value)),
        }
    }

    /// Ends a batch of changes.
    pub(crate) fn settle(&mut self) {
        if let Rows::Ordered { values, .. } = &mut self.rows {
            values.settle();
        }
    }

    /// The value, and what it leaves out.
    pub(crate) fn result(&self) -> (Result<Value>, ValueCounts) {
        match &self.rows {
            Rows::Counted(count) => (Ok(Value::from(*count)), ValueCounts::default()),
            Rows::Summed { sum, skipped } => {
                let value = match self.aggregate {
                    BuiltIn::Avg(_) => Ok(sum.mean().map_or(Value::Null, Value::Float)),
                    _ => self.total(sum),
                };
                (value, ValueCounts { skipped: *skipped, nan: sum.nans(), infinite: sum.infinities() })
            }
            Rows::Ordered { values, skipped } => {
                let value = match self.aggregate {
                    BuiltIn::Min(_) => values.least().unwrap_or(Value::Null),
                    BuiltIn::Max(_) => values.greatest().unwrap_or(Value::Null),
                    _ => Value::from(values.distinct()),
                };
                (Ok(value), ValueCounts { skipped: *skipped, ..ValueCounts::default() })
            }
        }
    }

    fn total(&self, sum: &ExactSum) -> Result<Value> {
        let integer = match sum.result() {
            SumResult::Float(value) if !sum.only_integers() => return Ok(Value::Float(value)),
            // Beyond 128 bits.
            SumResult::Float(_) => None,
            SumResult::Int(value) => ciborium::value::Integer::try_from(value).ok(),
        };
        integer.map(Value::Integer).ok_or_else(|| {
            let error = Error::new(ErrorKind::Invalid, "the sum doesn't fit 64 bits and a sign");
            match self.aggregate.column() {
                Some(path) => error.with("column", path.as_str()),
                None => error,
            }
        })
    }
}

impl BuiltIn {
    /// The column it reads.
    pub(crate) fn column(&self) -> Option<&Path> {
        match self {
            BuiltIn::Count => None,
            BuiltIn::Sum(path)
            | BuiltIn::Avg(path)
            | BuiltIn::Min(path)
            | BuiltIn::Max(path)
            | BuiltIn::Distinct(path) => Some(path),
        }
    }

    fn value<'a>(&self, row: RowRef<'a>) -> Option<ValueRef<'a>> {
        row.get_path(self.column()?)
    }
}

#[cfg(test)]
mod tests;
