//! The ground: the source under the Dio, what others do to it, and what a write makes of its rows.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use diorama::clock::Clock;
use diorama::prelude::*;
#[cfg(feature = "csv")]
use diorama::sources::CsvVista;
use diorama::vista::{QueryDescriptor, TableShell};

use crate::local::{Effect, Unsettled};
use crate::ops::{self, By, C, Fields, Query, V};
use crate::plain::{Plain, Table};
use crate::run::SOON;
use crate::steps::Kind;

const COLUMNS: [&str; 5] = ["id", "a", "b", "t", "m"];

/// Rows that a read must leave alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keep {
    all: bool,
    ids: BTreeSet<String>,
}

impl Keep {
    pub(crate) fn none() -> Keep {
        Keep::default()
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.all || self.ids.contains(id)
    }

    pub(crate) fn add(&mut self, id: &str) {
        self.ids.insert(id.to_owned());
    }

    pub(crate) fn with_write(mut self, write: &Unsettled) -> Keep {
        self.all |= write.id.is_none();
        self.ids.extend(write.id.clone());
        self
    }
}

enum Source {
    Memory(MemoryVista),
    #[cfg(feature = "csv")]
    Csv(CsvVista),
    Facade(Lens, Dio),
}

pub(crate) struct Ground {
    kind: Kind,
    source: Source,
    /// How many ids the source has chosen.
    chosen: u64,
}

impl Ground {
    pub(crate) fn new(kind: Kind, clock: &Clock, file: PathBuf) -> Ground {
        let memory = || MemoryVista::new("table", "id");
        let source = match kind {
            Kind::Plain => Source::Memory(memory()),
            Kind::ChoosesIds => Source::Memory(memory().assign_ids_from("chosen ")),
            #[cfg(feature = "csv")]
            Kind::Csv => {
                std::fs::write(&file, COLUMNS.join(",") + "\n").unwrap();
                Source::Csv(CsvVista::builder(&file).id("id").infer_types(false).open().unwrap())
            }
            #[cfg(not(feature = "csv"))]
            Kind::Csv => panic!("no plan has a file without the feature: {}", file.display()),
            Kind::Facade => {
                let lens = Lens::new().in_memory().clock(clock.clone()).build().unwrap();
                let dio = lens.make_dio(memory()).unwrap();
                Source::Facade(lens, dio)
            }
        };
        Ground { kind, source, chosen: 0 }
    }

    pub(crate) fn shell(&self) -> Arc<dyn TableShell> {
        match &self.source {
            Source::Memory(memory) => Arc::new(memory.clone()),
            #[cfg(feature = "csv")]
            Source::Csv(csv) => Arc::new(csv.clone()),
            Source::Facade(_, dio) => dio.vista().shell().clone(),
        }
    }

    /// What the source lists.
    pub(crate) fn rows(&self) -> Vec<Plain> {
        self.shell().list(&CallCx::new(), &QueryDescriptor::default()).unwrap()
    }

    /// Somebody else does a write.
    pub(crate) fn outside(&self, op: &WriteOp) {
        match &self.source {
            Source::Memory(memory) => match op {
                WriteOp::Upsert { id, record } => memory.outside_silently().upsert(id, record.clone()).unwrap(),
                WriteOp::Delete { id } => memory.outside_silently().delete(id).map(drop).unwrap(),
                other => panic!("nobody does {other:?}"),
            },
            #[cfg(feature = "csv")]
            Source::Csv(csv) => drop(diorama::vista::Vista::new(csv.clone()).write(&CallCx::new(), op).unwrap()),
            Source::Facade(_, dio) => drop(dio.write(op.clone()).unwrap().wait(SOON).unwrap()),
        }
    }

    /// What the source makes of a write, in the model of its rows.
    pub(crate) fn model(&mut self, there: &mut Table, op: &WriteOp) -> Result<Effect, ErrorKind> {
        let put = |there: &mut Table, id: &str, record: &Record| {
            let record = self.stored(record);
            there.put(id, record.clone());
            Ok(Effect::Put(id.to_owned(), record))
        };
        match op {
            WriteOp::Insert { record, .. } if self.kind == Kind::ChoosesIds => {
                self.chosen += 1;
                let id = format!("chosen {}", self.chosen);
                let mut record = record.clone();
                record.insert("id", &id);
                there.put(&id, record.clone());
                Ok(Effect::Put(id, record))
            }
            WriteOp::Insert { id: Some(id), .. } if there.get(id).is_some() => Err(ErrorKind::Conflict),
            WriteOp::Replace { id, .. } | WriteOp::Patch { id, .. } if there.get(id).is_none() => {
                Err(ErrorKind::NotFound)
            }
            WriteOp::Insert { id: Some(id), record }
            | WriteOp::Replace { id, record }
            | WriteOp::Upsert { id, record } => put(there, id, record),
            WriteOp::Patch { id, record } => {
                let mut patched = there.get(id).cloned().unwrap();
                patched.merge(record);
                put(there, id, &patched)
            }
            WriteOp::Delete { id } => {
                there.remove(id);
                Ok(Effect::Remove(id.clone()))
            }
            WriteOp::DeleteAll => {
                there.clear();
                Ok(Effect::Clear)
            }
            // An insert without an id only goes to a source that chooses one.
            other => panic!("the model can't do {other:?}"),
        }
    }

    /// The row as the source gives it back.
    fn stored(&self, record: &Record) -> Record {
        if self.kind != Kind::Csv {
            return record.clone();
        }
        COLUMNS.iter().map(|column| (*column, record.get(column).cloned().unwrap_or(Value::Null))).collect()
    }

    pub(crate) fn chooses_ids(&self) -> bool {
        self.kind == Kind::ChoosesIds
    }

    /// Whether the columns are known and all text.
    pub(crate) fn is_text(&self) -> bool {
        self.kind == Kind::Csv
    }

    /// Fields that the source can hold.
    pub(crate) fn fit(&self, fields: &Fields) -> Fields {
        if !self.is_text() {
            return fields.clone();
        }
        let text = |value: &V| match value {
            V::Null | V::Text(_) => value.clone(),
            other => V::Text(format!("{other:?}")),
        };
        Fields(fields.0.iter().map(|(name, value)| (*name, text(value))).collect())
    }

    /// A query that the schema lets through.
    pub(crate) fn fit_query(&self, query: &Query) -> Query {
        if !self.is_text() {
            return query.clone();
        }
        let conditions = query.conditions.iter().filter(|condition| is_known(condition)).cloned().collect();
        let sort = query.sort.iter().filter(|(path, ..)| COLUMNS.contains(path)).copied().collect();
        Query { conditions, search: query.search, sort, cut: query.cut }
    }

    /// What can be computed of a column.
    pub(crate) fn fit_value(&self, kind: ops::Kind, path: &'static str) -> (ops::Kind, &'static str) {
        match kind {
            _ if !self.is_text() => (kind, path),
            ops::Kind::Sum | ops::Kind::Avg => (ops::Kind::Distinct, "a"),
            _ if !COLUMNS.contains(&path) => (kind, "b"),
            _ => (kind, path),
        }
    }

    pub(crate) fn fit_sort(&self, sort: &[By]) -> Vec<By> {
        self.fit_query(&Query { sort: sort.to_vec(), ..Query::default() }).sort
    }

    pub(crate) fn fit_conditions(&self, conditions: &[C]) -> Vec<C> {
        self.fit_query(&Query { conditions: conditions.to_vec(), ..Query::default() }).conditions
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Source::Facade(lens, _) = &self.source
            && !std::thread::panicking()
        {
            assert!(lens.close(SOON).unwrap().is_closed());
        }
    }
}

fn is_known(condition: &C) -> bool {
    match condition {
        C::Eq(path, _) | C::Ne(path, _) | C::Lt(path, _) | C::Le(path, _) | C::Gt(path, _) | C::Ge(path, _) => {
            COLUMNS.contains(path)
        }
        C::In(path, _) | C::NotIn(path, _) | C::Like(path, _) | C::IsNull(path) => COLUMNS.contains(path),
        C::And(all) | C::Or(all) => all.iter().all(is_known),
        C::Not(condition) => is_known(condition),
    }
}
