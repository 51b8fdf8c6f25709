//! CSV files as a source: what is read, what is refused, and what a write does to the file.
#![cfg(feature = "csv")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use diorama::sources::CsvVista;
use diorama::value::{Record, Value};
use diorama::vista::{CallCx, ColumnType, Condition, QueryDescriptor, SortBy, TableShell, Vista, WriteOp};
use diorama::{Error, ErrorKind, record};
use proptest::prelude::*;

struct Table {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Table {
    fn new(text: impl AsRef<[u8]>) -> Table {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.csv");
        fs::write(&path, text).unwrap();
        Table { directory, path }
    }

    fn open(&self) -> CsvVista {
        CsvVista::open(&self.path, "id").unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    /// The file holds `text`, and nothing lies beside it.
    fn expect(&self, text: &str) {
        assert_eq!(self.text(), text);
        assert_eq!(fs::read_dir(self.directory.path()).unwrap().count(), 1, "a temporary file was left");
    }
}

fn cx() -> CallCx {
    CallCx::new()
}

fn list(vista: &CsvVista) -> Vec<(String, Record)> {
    vista.list(&cx(), &QueryDescriptor::default()).unwrap()
}

fn ids(vista: &CsvVista) -> Vec<String> {
    list(vista).into_iter().map(|(id, _)| id).collect()
}

fn kinds(vista: &CsvVista) -> Vec<ColumnType> {
    vista.schema().columns().iter().map(|column| column.kind()).collect()
}

fn airports_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/airports.csv")
}

// ---- reading

#[test]
fn the_airports_are_read_whole() {
    let vista = CsvVista::open(airports_file(), "iata").unwrap();
    assert_eq!(vista.name(), "airports");
    let rows = list(&vista);
    assert_eq!(rows.len(), 3376);
    assert_eq!(vista.count(&cx(), &QueryDescriptor::default()).unwrap(), 3376);
    assert_eq!(rows[0].0, "00M");
    assert_eq!(rows[3375].0, "ZZV");
    let expected = record! {
        "iata" => "53A", "name" => "Dr. C.P. Savage, Sr.", "city" => "Montezuma", "state" => "GA", "country" => "USA",
        "latitude" => 32.302, "longitude" => -84.00747222,
    };
    assert_eq!(vista.get(&cx(), "53A").unwrap().unwrap(), expected);
    assert_eq!(rows.iter().find(|(id, _)| id == "53A").unwrap().1, expected);
    assert_eq!(vista.get(&cx(), "nowhere").unwrap(), None);

    let schema = vista.schema();
    assert_eq!(schema.id_column(), Some("iata"));
    assert!(schema.column("iata").unwrap().is_mandatory());
    assert!(schema.column("name").unwrap().is_title());
    assert!(schema.column("city").unwrap().is_searchable());
    assert_eq!(schema.column("latitude").unwrap().kind(), ColumnType::Float);
    assert!(!schema.column("latitude").unwrap().is_searchable());
}

#[test]
fn a_vista_answers_conditions_over_the_file() {
    let mut vista = Vista::from(CsvVista::open(airports_file(), "iata").unwrap());
    vista.add_condition_eq("state", "TX").unwrap();
    assert_eq!(vista.list_values().unwrap().len(), 209);
}

#[test]
fn a_patch_of_an_airport_changes_one_cell_of_the_file() {
    let before = fs::read_to_string(airports_file()).unwrap();
    let table = Table::new(&before);
    let vista = CsvVista::open(&table.path, "iata").unwrap();
    vista.patch(&cx(), "00M", &record! { "name" => "Thigpen Field" }).unwrap();
    table.expect(&before.replacen("00M,Thigpen,", "00M,Thigpen Field,", 1));
}

#[test]
fn ids_are_text_whatever_they_look_like() {
    let table = Table::new("id,n\n00501,1\n0E8,2\n7,3\n");
    let vista = table.open();
    assert_eq!(ids(&vista), ["00501", "0E8", "7"]);
    assert_eq!(list(&vista)[2].1, record! { "id" => "7", "n" => 3 });
}

#[test]
fn types_are_inferred_from_the_whole_file() {
    let table = Table::new(
        "id,int,float,bool,zip,quoted,date,empty\n\
         a,1,1,true,10001,1,2001-01-01T00:01:00,\n\
         b,,,,,,,\n\
         c,-3,2.50,false,00501,\"2\",2001-01-02T00:01:00,\n",
    );
    let vista = table.open();
    use ColumnType::{Bool, Float, Int, Text};
    assert_eq!(kinds(&vista), [Text, Int, Float, Bool, Text, Text, Text, Text]);
    let rows = list(&vista);
    assert_eq!(
        rows[2].1,
        record! {
            "id" => "c", "int" => -3, "float" => 2.5, "bool" => false, "zip" => "00501", "quoted" => "2",
            "date" => "2001-01-02T00:01:00", "empty" => (),
        }
    );
    assert!(rows[1].1.iter().skip(1).all(|(_, value)| value.is_null()));
}

#[test]
fn declared_types_win_and_inference_can_be_off() {
    let table = Table::new("id;n;x\na;007;1\n");
    let vista = CsvVista::builder(&table.path)
        .id("id")
        .delimiter(b';')
        .column("n", ColumnType::Int)
        .infer_types(false)
        .name("numbers")
        .open()
        .unwrap();
    assert_eq!(vista.name(), "numbers");
    assert_eq!(list(&vista)[0].1, record! { "id" => "a", "n" => 7, "x" => "1" });
    vista.patch(&cx(), "a", &record! { "x" => "2;3", "n" => 7 }).unwrap();
    table.expect("id;n;x\na;007;\"2;3\"\n");
}

#[test]
fn byte_order_mark_line_breaks_and_blank_lines_are_taken_as_they_come() {
    for text in [
        "id,t\na,x\nb,\"1\n2\"\n",
        "\u{feff}id,t\r\na,x\r\nb,\"1\n2\"\r\n",
        "id,t\ra,x\rb,\"1\n2\"\r",
        "\n\nid,t\n\na,x\n\nb,\"1\n2\"",
        "id,t\r\na,x\nb,\"1\n2\"\r\n\r\n",
    ] {
        let table = Table::new(text);
        let vista = table.open();
        let rows = list(&vista);
        assert_eq!(rows.len(), 2, "{text:?}");
        assert_eq!(rows[0].1, record! { "id" => "a", "t" => "x" }, "{text:?}");
        assert_eq!(vista.get(&cx(), "b").unwrap().unwrap().text("t"), Some("1\n2"), "{text:?}");
    }
}

#[test]
fn a_file_with_only_a_header_has_no_rows() {
    for text in ["id,a", "id,a\n", "\u{feff}id,a\r\n\r\n"] {
        let table = Table::new(text);
        let vista = table.open();
        assert!(list(&vista).is_empty());
        assert_eq!(vista.schema().columns().len(), 2);
    }
}

#[test]
fn the_empty_text_and_null_are_told_apart() {
    let table = Table::new("id,t\na,\nb,\"\"\n");
    let vista = table.open();
    assert_eq!(list(&vista)[0].1.get("t"), Some(&Value::Null));
    assert_eq!(list(&vista)[1].1.text("t"), Some(""));
}

#[test]
fn a_file_that_is_no_table_is_refused_by_name() {
    for text in ["", "id,a\n1\n", "id,a\n1,2\n1,3\n", "id,a\n1,\"2\n", "id,id\n"] {
        let table = Table::new(text);
        let error = CsvVista::open(&table.path, "id").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{text:?}");
        assert!(error.context("file").unwrap().ends_with("rows.csv"), "{error}");
        assert!(error.context("line").is_some() && error.context("column").is_some(), "{error}");
    }
}

#[test]
fn a_cell_of_another_type_than_declared_is_told_with_its_place() {
    let table = Table::new("id,t,n\na,\"1\n2\",1\nb,,x\n");
    let vista = CsvVista::builder(&table.path).id("id").column("n", ColumnType::Int).open().unwrap();
    let place = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        format!("{}:{}", error.context("line").unwrap(), error.context("column").unwrap())
    };
    assert_eq!(place(vista.list(&cx(), &QueryDescriptor::default()).unwrap_err()), "4:n");
    assert_eq!(place(vista.get(&cx(), "b").unwrap_err()), "4:n");
    assert!(vista.get(&cx(), "a").unwrap().is_some());
    vista.patch(&cx(), "b", &record! { "n" => 2 }).unwrap();
    table.expect("id,t,n\na,\"1\n2\",1\nb,,2\n");
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let table = Table::new("id,a\n1,2\n");
    let builder = || CsvVista::builder(&table.path).id("id");
    for (builder, setting) in [
        (CsvVista::builder(&table.path), "id"),
        (builder().delimiter(b'"'), "delimiter"),
        (builder().delimiter(b'\n'), "delimiter"),
        (builder().delimiter(0xE9), "delimiter"),
        (builder().column("a", ColumnType::DateTime), "column"),
        (builder().column("b", ColumnType::Int), "column"),
        (builder().column("id", ColumnType::Int), "column"),
        (builder().column("a", ColumnType::Int).column("a", ColumnType::Text), "column"),
    ] {
        let error = builder.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(error.context("setting"), Some(setting), "{error}");
    }
    let error = CsvVista::open(&table.path, "key").unwrap_err();
    assert_eq!((error.kind(), error.context("column")), (ErrorKind::Invalid, Some("key")));
}

#[test]
fn a_missing_file_and_a_directory_are_told_apart() {
    let table = Table::new("id\n");
    assert_eq!(CsvVista::open(table.path.with_extension("no"), "id").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(CsvVista::open(table.directory.path(), "id").unwrap_err().kind(), ErrorKind::Invalid);
    let vista = table.open();
    fs::remove_file(&table.path).unwrap();
    let error = vista.list(&cx(), &QueryDescriptor::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(vista.insert(&cx(), Some("a"), &record! {}).is_err());
    assert!(!table.path.exists());
}

#[test]
fn conditions_are_left_to_the_caller() {
    let table = Table::new("id,a\n1,2\n");
    let vista = table.open();
    let query = QueryDescriptor { conditions: vec![Condition::IsNull("a".into())], ..Default::default() };
    let split = vista.push_down(&query);
    assert_eq!((split.accepted, split.residual), (QueryDescriptor::default(), query.clone()));
    assert_eq!(vista.list(&cx(), &query).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(vista.count(&cx(), &query).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_cancelled_or_late_call_does_nothing() {
    let table = Table::new("id,a\n1,2\n");
    let vista = table.open();
    let cancelled = cx();
    cancelled.cancel.cancel();
    let error = vista.list(&cancelled, &QueryDescriptor::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let late = cx().deadline_in(std::time::Duration::ZERO);
    assert_eq!(vista.delete(&late, "1").unwrap_err().kind(), ErrorKind::Timeout);
    table.expect("id,a\n1,2\n");
}

// ---- changes from outside

#[test]
fn a_change_from_outside_is_seen() {
    let table = Table::new("id,a\n1,2\n");
    let vista = table.open();
    assert_eq!(ids(&vista), ["1"]);
    // Of the same length, and most likely within the same tick of the file system's clock.
    for id in ["2", "3", "4", "5"] {
        fs::write(&table.path, format!("id,a\n{id},2\n")).unwrap();
        assert_eq!(ids(&vista), [id]);
        assert!(vista.get(&cx(), id).unwrap().is_some());
    }
    fs::write(&table.path, "id,a\n5,2\n6,2\n").unwrap();
    assert_eq!(vista.count(&cx(), &QueryDescriptor::default()).unwrap(), 2);
}

#[test]
fn a_write_keeps_what_another_program_wrote_before_it() {
    let table = Table::new("id,a\n1,x\n");
    let vista = table.open();
    fs::write(&table.path, "id,a\n0,new\n1,y\n").unwrap();
    vista.patch(&cx(), "1", &record! { "a" => "z" }).unwrap();
    table.expect("id,a\n0,new\n1,z\n");
}

#[test]
fn other_columns_or_types_than_at_the_opening_are_an_error() {
    let table = Table::new("id,a\n1,2\n");
    let vista = table.open();
    for (text, column) in [("id,b\n1,2\n", "b"), ("id,a,c\n1,2,3\n", "c"), ("id\n1\n", "a"), ("id,a\n1,x\n", "a")] {
        fs::write(&table.path, text).unwrap();
        let error = vista.list(&cx(), &QueryDescriptor::default()).unwrap_err();
        assert_eq!((error.kind(), error.context("column")), (ErrorKind::Corrupt, Some(column)), "{error}");
        assert!(error.message().contains("open"), "{error}");
    }
    fs::write(&table.path, "id,a\n3,4\n").unwrap();
    assert_eq!(ids(&vista), ["3"]);
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_stays_and_its_file_is_written() {
    let table = Table::new("id,a\n1,2\n");
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.csv");
    std::os::unix::fs::symlink(&table.path, &link).unwrap();
    let vista = CsvVista::open(&link, "id").unwrap();
    assert_eq!(vista.name(), "link");
    assert_eq!(vista.source_key(), table.open().source_key());
    vista.patch(&cx(), "1", &record! { "a" => 3 }).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    table.expect("id,a\n1,3\n");
}

#[cfg(unix)]
#[test]
fn permissions_survive_a_write() {
    use std::os::unix::fs::PermissionsExt;
    let table = Table::new("id,a\n1,2\n");
    for mode in [0o600, 0o664, 0o755] {
        fs::set_permissions(&table.path, fs::Permissions::from_mode(mode)).unwrap();
        table.open().patch(&cx(), "1", &record! { "a" => i64::from(mode) }).unwrap();
        assert_eq!(fs::metadata(&table.path).unwrap().permissions().mode() & 0o7777, mode);
    }
}

#[test]
fn a_read_only_file_is_left_alone() {
    let table = Table::new("id,a\n1,2\n");
    let mut permissions = fs::metadata(&table.path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&table.path, permissions).unwrap();
    let error = table.open().patch(&cx(), "1", &record! { "a" => 3 }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    table.expect("id,a\n1,2\n");
}

#[cfg(unix)]
#[test]
fn a_directory_that_takes_no_new_file_leaves_the_old_one_whole() {
    use std::os::unix::fs::PermissionsExt;
    let table = Table::new("id,a\n1,2\n");
    let vista = table.open();
    let set_mode = |mode| fs::set_permissions(table.directory.path(), fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o555);
    let written = vista.patch(&cx(), "1", &record! { "a" => 3 });
    set_mode(0o755);
    match written {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Source);
            table.expect("id,a\n1,2\n");
        }
        // Root may write where nobody may.
        Ok(_) => table.expect("id,a\n1,3\n"),
    }
}

// ---- writing

#[test]
fn untouched_lines_stay_byte_for_byte() {
    let before = "\u{feff}\"id\",t,n\r\n\r\n\"a\",\"needless\",1\nb,  spaced ,\r\n\"c\",\"q\"\"q\",3\r\n";
    let table = Table::new(before);
    let vista = table.open();
    vista.patch(&cx(), "b", &record! { "n" => 2 }).unwrap();
    table.expect(&before.replace("b,  spaced ,", "b,  spaced ,2"));
    vista.patch(&cx(), "a", &record! { "t" => "still" }).unwrap();
    table.expect(&before.replace("b,  spaced ,", "b,  spaced ,2").replace("needless", "still"));
    vista.delete(&cx(), "b").unwrap();
    table.expect("\u{feff}\"id\",t,n\r\n\r\n\"a\",\"still\",1\n\"c\",\"q\"\"q\",3\r\n");
    vista.replace(&cx(), "c", &record! { "n" => 3 }).unwrap();
    table.expect("\u{feff}\"id\",t,n\r\n\r\n\"a\",\"still\",1\n\"c\",,3\r\n");
    vista.insert(&cx(), Some("d"), &record! { "t" => "x,y", "n" => -1 }).unwrap();
    table.expect("\u{feff}\"id\",t,n\r\n\r\n\"a\",\"still\",1\n\"c\",,3\r\nd,\"x,y\",-1\r\n");
    vista.delete_all(&cx()).unwrap();
    table.expect("\u{feff}\"id\",t,n\r\n");
}

#[test]
fn a_file_without_a_last_line_ending_keeps_that_habit() {
    let table = Table::new("id,a");
    let vista = table.open();
    vista.insert(&cx(), Some("1"), &record! { "a" => "x" }).unwrap();
    table.expect("id,a\n1,x");
    vista.insert(&cx(), Some("2"), &record! { "a" => "y" }).unwrap();
    table.expect("id,a\n1,x\n2,y");
    vista.delete(&cx(), "1").unwrap();
    table.expect("id,a\n2,y");
}

#[test]
fn a_new_row_gets_its_id_from_either_side() {
    let table = Table::new("id,a\n");
    let vista = table.open();
    let written = vista.insert(&cx(), None, &record! { "id" => "x", "a" => "1" }).unwrap();
    assert_eq!(written.id.as_deref(), Some("x"));
    assert_eq!(written.record, Some(record! { "id" => "x", "a" => "1" }));
    assert_eq!(vista.insert(&cx(), Some("y"), &record! {}).unwrap().record, Some(record! { "id" => "y", "a" => () }));
    vista.insert(&cx(), Some("z"), &record! { "id" => "z" }).unwrap();
    table.expect("id,a\nx,\"1\"\ny,\nz,\n");
    for (id, record) in [
        (None, record! { "a" => "1" }),
        (None, record! { "id" => 5 }),
        (None, record! { "id" => "" }),
        (Some(""), record! {}),
        (Some("p"), record! { "id" => "q" }),
    ] {
        let error = vista.insert(&cx(), id, &record).unwrap_err();
        assert_eq!((error.kind(), error.context("column")), (ErrorKind::Invalid, Some("id")), "{error}");
    }
}

#[test]
fn each_write_minds_whether_the_row_is_there() {
    let table = Table::new("id,a\n1,x\n");
    let vista = table.open();
    let row = record! { "a" => "y" };
    assert_eq!(vista.insert(&cx(), Some("1"), &row).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(vista.replace(&cx(), "2", &row).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(vista.patch(&cx(), "2", &row).unwrap_err().kind(), ErrorKind::NotFound);
    vista.delete(&cx(), "2").unwrap();
    table.expect("id,a\n1,x\n");
    vista.upsert(&cx(), "1", &row).unwrap();
    vista.upsert(&cx(), "2", &row).unwrap();
    table.expect("id,a\n1,y\n2,y\n");
}

#[test]
fn a_refused_write_leaves_no_trace() {
    let before = "id,t,n,f,b\na,x,1,1.5,true\n";
    let table = Table::new(before);
    let vista = table.open();
    for (column, value) in [
        ("t", Value::Array(vec![])),
        ("t", Value::Map(vec![])),
        ("t", Value::Bytes(vec![1])),
        ("t", Value::from(1)),
        ("n", Value::Text("word".into())),
        ("n", Value::Float(1.0)),
        ("f", Value::from(1)),
        ("f", Value::Float(f64::NAN)),
        ("b", Value::Text("true".into())),
        ("nowhere", Value::Text("x".into())),
        ("id", Value::Text("other".into())),
    ] {
        let row = record! { column => value };
        for error in [
            vista.patch(&cx(), "a", &row).unwrap_err(),
            vista.replace(&cx(), "a", &row).unwrap_err(),
            vista.upsert(&cx(), "a", &row).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert_eq!((error.context("column"), error.context("id")), (Some(column), Some("a")), "{error}");
        }
        table.expect(before);
    }
}

#[test]
fn written_text_that_looks_like_a_number_stays_text_when_the_file_is_opened_again() {
    let table = Table::new("id,t\na,x\n");
    table.open().patch(&cx(), "a", &record! { "t" => "12" }).unwrap();
    table.expect("id,t\na,\"12\"\n");
    assert_eq!(list(&table.open())[0].1.text("t"), Some("12"));
}

#[test]
fn a_write_that_changes_nothing_leaves_the_very_file() {
    let table = Table::new("id,f\na,1.50\n");
    let vista = table.open();
    let before = fs::metadata(&table.path).unwrap().modified().unwrap();
    let written = vista.patch(&cx(), "a", &record! { "f" => 1.5 }).unwrap();
    assert_eq!(written.record, Some(record! { "id" => "a", "f" => 1.5 }));
    table.expect("id,f\na,1.50\n");
    assert_eq!(fs::metadata(&table.path).unwrap().modified().unwrap(), before);
}

#[test]
fn a_batch_is_written_all_or_none() {
    let table = Table::new("id,n\na,1\nb,2\nc,3\n");
    let vista = table.open();
    let refused = vista.batch(&cx(), &[WriteOp::delete("a"), WriteOp::patch("b", record! { "n" => "x" })]);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    table.expect("id,n\na,1\nb,2\nc,3\n");
    let ops = [
        WriteOp::delete("a"),
        WriteOp::patch("b", record! { "n" => 20 }),
        WriteOp::patch("b", record! { "n" => 21 }),
        WriteOp::insert_as("d", record! { "n" => 4 }),
        WriteOp::patch("d", record! { "n" => 5 }),
        WriteOp::insert_as("a", record! { "n" => 6 }),
        WriteOp::insert_as("e", record! {}),
        WriteOp::delete("e"),
    ];
    assert_eq!(vista.batch(&cx(), &ops).unwrap().len(), 8);
    table.expect("id,n\nb,21\nc,3\nd,5\na,6\n");
    vista.batch(&cx(), &[WriteOp::delete_all(), WriteOp::insert_as("b", record! { "n" => 1 })]).unwrap();
    table.expect("id,n\nb,1\n");
}

#[test]
fn writers_in_one_process_take_turns() {
    let table = Table::new("id,n\n");
    let vista = table.open();
    let (clone, second, third) = (vista.clone(), table.open(), table.open());
    std::thread::scope(|scope| {
        for (writer, vista) in [&vista, &clone, &second, &third].into_iter().enumerate() {
            scope.spawn(move || {
                for row in 0..10 {
                    vista.insert(&cx(), Some(&format!("{writer}-{row}")), &record! { "n" => "x" }).unwrap();
                    assert!(!list(vista).is_empty());
                }
            });
        }
    });
    assert_eq!(ids(&vista).len(), 40);
}

// ---- any rows, any writes

#[derive(Debug, Clone)]
enum Op {
    Put(u8, Option<String>, Option<i64>, Option<f64>),
    PatchText(u8, Option<String>),
    Delete(u8),
}

fn nasty() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        Just(Some(String::new())),
        "[a\",\r\n; \u{feff}é]{1,8}".prop_map(Some),
        "[0-9.e+-]{1,5}".prop_map(Some),
        "true|false|null|NaN|\"\"".prop_map(Some),
        ".{1,10}".prop_map(Some),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let float = prop_oneof![any::<i32>().prop_map(f64::from), -1e300..1e300, Just(-0.0), Just(5e-324)];
    prop_oneof![
        3 => (0u8..8, nasty(), any::<Option<i64>>(), prop::option::of(float))
            .prop_map(|(id, t, n, f)| Op::Put(id, t, n, f)),
        2 => (0u8..8, nasty()).prop_map(|(id, text)| Op::PatchText(id, text)),
        1 => (0u8..8).prop_map(Op::Delete),
    ]
}

/// Ids as nasty as the rest.
fn id(number: u8) -> String {
    ["00501", "0E8", "a,b", "\"", " x ", "line\r\nbreak", "true", "é"][usize::from(number)].to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn what_was_written_is_read_back(
        ops in prop::collection::vec(op(), 1..12),
        ending in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        final_ending: bool,
        bom: bool,
    ) {
        let fixed = [
            "id,t,n,f".to_owned(),
            "\"fixed\",\"needless\"\"quotes\",7,1.50".to_owned(),
            format!("other,\"two{ending}lines\",,0.10"),
        ];
        let start = fixed.join(ending);
        let bom = if bom { "\u{feff}" } else { "" };
        let table = Table::new(format!("{bom}{start}{}", if final_ending { ending } else { "" }));
        let vista = table.open();
        let mut model: BTreeMap<String, Record> = list(&vista).into_iter().collect();
        for op in ops {
            match op {
                Op::Put(number, t, n, f) => {
                    let row = record! { "id" => id(number), "t" => t, "n" => n, "f" => f };
                    let written = vista.upsert(&cx(), &id(number), &row).unwrap();
                    prop_assert!(written.record.unwrap().same_as(&row));
                    model.insert(id(number), row);
                }
                Op::PatchText(number, t) => {
                    let patch = record! { "t" => t };
                    let patched = vista.patch(&cx(), &id(number), &patch);
                    match model.get_mut(&id(number)) {
                        Some(row) => {
                            patched.unwrap();
                            row.merge(&patch);
                        }
                        None => prop_assert_eq!(patched.unwrap_err().kind(), ErrorKind::NotFound),
                    }
                }
                Op::Delete(number) => {
                    vista.delete(&cx(), &id(number)).unwrap();
                    model.remove(&id(number));
                }
            }
        }
        let now = table.text();
        prop_assert!(now.starts_with(&format!("{bom}{start}")), "{:?}", now);
        let reopened = CsvVista::open(&table.path, "id").unwrap();
        prop_assert_eq!(reopened.schema(), vista.schema());
        for vista in [&vista, &reopened] {
            let rows = list(vista);
            prop_assert_eq!(rows.len(), model.len());
            for (id, row) in rows {
                prop_assert!(row.same_as(&model[&id]), "{:?} is not {:?}", row, model[&id]);
                prop_assert!(vista.get(&cx(), &id).unwrap().unwrap().same_as(&row));
            }
        }
    }
}

#[test]
fn a_sort_may_disregard_case() {
    let table = Table::new("id,name\n1,bell\n2,Anvil\n3,BELL\n4,anvil\n");
    let query = QueryDescriptor::new().sorted_with(SortBy::asc("name").case_insensitive());
    let rows = Vista::new(table.open()).list_query(&cx(), &query).unwrap();
    assert_eq!(rows.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["2", "4", "3", "1"]);
}
