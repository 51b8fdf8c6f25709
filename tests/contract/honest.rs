//! Sources that keep the contract: those of this crate, the facade, and drivers at the edges of what a driver may be.

use std::sync::Arc;

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::contract::{self, Fixture, Rows, Subject};
use diorama::vista::{Capabilities, Column, ColumnType, QueryDescriptor, Schema, TableShell};
use diorama::{LensBuilder, Result};

/// A column of every type.
fn every_type() -> Schema {
    Schema::new("id")
        .with(Column::new("id", ColumnType::Text).mandatory())
        .with(Column::new("name", ColumnType::Text).title().searchable())
        .with(Column::new("stock", ColumnType::Int).searchable())
        .with(Column::new("weight", ColumnType::Float))
        .with(Column::new("active", ColumnType::Bool).searchable())
        .with(Column::new("price", ColumnType::Decimal))
        .with(Column::new("since", ColumnType::DateTime))
        .with(Column::new("mark", ColumnType::Bytes).not_orderable())
        .with(Column::new("rest", ColumnType::Any).searchable())
        .with(Column::new("group", ColumnType::Text).mandatory())
}

/// A source in memory with every hand on it.
fn memory(schema: Schema, rows: Rows) -> (MemoryVista, Subject) {
    let source = MemoryVista::new("products", "id").with_schema(schema).with_rows(rows);
    let (offline, held) = (source.clone(), source.clone());
    let subject = Subject::new(source.clone())
        .second(source.clone())
        .outside(from_outside(&source))
        .offline(move |is_offline| offline.set_offline(is_offline))
        .hold(move || held.hold(Call::List));
    (source, subject)
}

fn from_outside(source: &MemoryVista) -> impl Fn(&WriteOp) -> Result<()> + 'static {
    let outside = source.outside();
    move |op| match op {
        WriteOp::Upsert { id, record } => outside.upsert(id, record.clone()),
        WriteOp::Patch { id, record } => outside.patch(id, record.clone()),
        op => outside.delete(op.id().unwrap_or_default()),
    }
}

#[test]
fn a_table_in_memory_keeps_the_contract() {
    contract::check(&Fixture::new("memory", every_type(), |rows| Ok(memory(every_type(), rows).1)));
}

#[test]
fn a_table_in_memory_that_leaves_queries_to_the_caller_keeps_the_contract() {
    contract::check(&Fixture::new("memory without push-down", every_type(), |rows| {
        let can = Capabilities { window: false, ..Capabilities::read_write() };
        let source = MemoryVista::new("products", "id").with_schema(every_type()).with_rows(rows);
        Ok(source.push_down(false).with_capabilities(can))
    }));
}

#[test]
fn a_table_in_memory_that_pages_and_leaves_queries_to_the_caller_keeps_the_contract() {
    contract::check(&Fixture::new("memory with pages alone", every_type(), |rows| {
        let can = Capabilities { window: false, pages: true, ..Capabilities::read_write() };
        let source = MemoryVista::new("products", "id").with_schema(every_type()).with_rows(rows);
        Ok(source.push_down(false).with_capabilities(can))
    }));
}

#[test]
fn a_table_in_memory_that_does_not_tell_its_columns_keeps_the_contract() {
    contract::check(&Fixture::new("memory, open schema", every_type(), |rows| {
        Ok(MemoryVista::new("products", "id").with_rows(rows))
    }));
}

#[test]
fn a_source_that_chooses_the_ids_keeps_the_contract() {
    contract::check(&Fixture::new("memory, own ids", every_type(), |rows| {
        Ok(MemoryVista::new("products", "id").with_schema(every_type()).with_rows(rows).assign_ids_from("source-"))
    }));
}

#[test]
fn a_source_filled_by_inserts_keeps_the_contract() {
    contract::check(&Fixture::seeded("memory, seeded", every_type(), || {
        Ok(MemoryVista::new("products", "id").with_schema(every_type()))
    }));
}

#[test]
fn a_source_whose_ids_are_numbers_keeps_the_contract() {
    let schema =
        Schema::new("number").with(Column::new("number", ColumnType::Int)).with(Column::new("name", ColumnType::Text));
    let fixture = Fixture::new("memory, numbers as ids", schema.clone(), |rows| {
        Ok(MemoryVista::new("products", "number").with_schema(schema.clone()).with_rows(rows))
    });
    contract::check(&fixture.ids((1..=30).map(|number| number.to_string())));
}

/// As little as a driver may be: a list of rows.
struct ListOnly {
    key: String,
    schema: Arc<Schema>,
    rows: Rows,
}

impl TableShell for ListOnly {
    fn name(&self) -> &str {
        "rows"
    }

    fn source_key(&self) -> String {
        self.key.clone()
    }

    fn schema(&self) -> Arc<Schema> {
        self.schema.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::list_only()
    }

    fn list(&self, cx: &CallCx, _query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        cx.check()?;
        Ok(self.rows.clone())
    }
}

#[test]
fn a_driver_that_can_only_list_keeps_the_contract() {
    contract::check(&Fixture::new("list only", every_type(), |rows: Rows| {
        Ok(ListOnly { key: format!("list:{rows:?}"), schema: Arc::new(every_type()), rows })
    }));
}

#[test]
fn a_narrowed_handle_over_rows_of_its_own_keeps_the_contract() {
    let source = MemoryVista::new("airports", "id").with_rows((0..40).map(|number| {
        let country = ["CH", "USA", "FR"][number % 3];
        (format!("a{number:02}"), record! { "country" => country, "height" => number as i64 % 7 * 100 })
    }));
    contract::check(&Fixture::over("narrowed", || {
        let mut vista = Vista::new(source.clone());
        vista.add_condition_eq("country", "CH")?.add_sort("height", SortDir::Desc)?;
        Ok(vista)
    }));
}

/// The Dio's facade. What others change at the source is there after a refresh.
fn facade(lens: LensBuilder, rows: Rows) -> Result<Subject> {
    let (source, _) = memory(every_type(), rows);
    let lens = lens.build()?;
    let dio = lens.make_dio(source.clone())?;
    let (change, refreshed) = (from_outside(&source), dio.clone());
    let outside = move |op: &WriteOp| change(op).and_then(|()| refreshed.refresh());
    Ok(Subject::new(dio.vista()).second(dio.vista()).outside(outside).keep(lens))
}

#[test]
fn the_facade_over_memory_keeps_the_contract() {
    contract::check(&Fixture::new("facade in memory", every_type(), |rows| facade(Lens::new().in_memory(), rows)));
}

#[cfg(feature = "lmdb")]
#[test]
fn the_facade_over_lmdb_keeps_the_contract() {
    contract::check(&Fixture::new("facade over LMDB", every_type(), |rows| {
        let directory = tempfile::tempdir().unwrap();
        Ok(facade(Lens::new().cache_at(directory.path()), rows)?.keep(directory))
    }));
}

#[test]
fn a_facade_of_a_facade_keeps_the_contract() {
    contract::check(&Fixture::new("facade of a facade", every_type(), |rows| {
        let lower = Lens::new().in_memory().build()?;
        let upper = Lens::new().in_memory().build()?;
        let source = MemoryVista::new("products", "id").with_schema(every_type()).with_rows(rows);
        let dio = upper.make_dio(lower.make_dio(source)?.vista())?;
        Ok(Subject::new(dio.vista()).keep(upper).keep(lower))
    }));
}

#[cfg(feature = "csv")]
mod csv {
    use std::fmt::Write;
    use std::fs;

    use diorama::sources::CsvVista;

    use super::*;

    /// What a CSV file holds.
    fn columns() -> Schema {
        Schema::new("id")
            .with(Column::new("id", ColumnType::Text).mandatory())
            .with(Column::new("name", ColumnType::Text).searchable())
            .with(Column::new("stock", ColumnType::Int))
            .with(Column::new("weight", ColumnType::Float))
            .with(Column::new("active", ColumnType::Bool))
    }

    /// The rows as another program would write them.
    fn text_of(schema: &Schema, rows: &Rows) -> String {
        let names: Vec<&str> = schema.columns().iter().map(Column::name).collect();
        let mut text = format!("{}\n", names.join(","));
        for (_, record) in rows {
            let cells: Vec<String> = names.iter().map(|name| cell(record.get(name))).collect();
            writeln!(text, "{}", cells.join(",")).unwrap();
        }
        text
    }

    fn cell(value: Option<&Value>) -> String {
        match value {
            Some(Value::Text(text)) => format!("\"{}\"", text.replace('"', "\"\"")),
            Some(Value::Integer(number)) => i128::from(*number).to_string(),
            Some(Value::Float(number)) => format!("{number:?}"),
            Some(Value::Bool(flag)) => flag.to_string(),
            _ => String::new(),
        }
    }

    fn file(rows: Rows) -> Result<Subject> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("products.csv");
        fs::write(&path, text_of(&columns(), &rows)).unwrap();
        let open = || {
            let typed = |builder: diorama::sources::CsvVistaBuilder, column: &Column| {
                builder.column(column.name(), column.kind())
            };
            columns().columns().iter().fold(CsvVista::builder(&path).id("id"), typed).open()
        };
        // Another program reads the file with its own eyes and replaces it.
        let (other, away) = (open()?, path.clone());
        let change = move |op: &WriteOp| match op {
            WriteOp::Upsert { id, record } => other.upsert(&CallCx::new(), id, record).map(drop),
            op => other.delete(&CallCx::new(), op.id().unwrap_or_default()),
        };
        let offline = move |is_away: bool| {
            let hidden = away.with_extension("hidden");
            let moved = if is_away { fs::rename(&away, hidden) } else { fs::rename(hidden, &away) };
            moved.unwrap();
        };
        Ok(Subject::new(open()?).second(open()?).outside(change).offline(offline).keep(directory))
    }

    #[test]
    fn a_csv_file_keeps_the_contract() {
        contract::check(&Fixture::new("csv", columns(), file));
    }

    #[test]
    fn a_csv_file_of_somebody_else_keeps_the_contract() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/airports.csv");
        let directory = tempfile::tempdir().unwrap();
        let few: String = fs::read_to_string(path).unwrap().lines().take(60).flat_map(|line| [line, "\n"]).collect();
        let copy = directory.path().join("airports.csv");
        fs::write(&copy, few).unwrap();
        contract::check(&Fixture::over("airports", || CsvVista::open(&copy, "iata")));
    }
}
