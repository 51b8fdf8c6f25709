//! What a row costs: encoding it, reading one field in place against decoding it whole, and making a sort key.

use std::hint::black_box;

use ciborium::Value;
use criterion::{Criterion, criterion_group, criterion_main};
use diorama::record;
use diorama::value::{Path, Record, StoredRow, compare_refs, encode_sort_key};

/// Six fields, about 200 bytes.
fn airport() -> Record {
    record! {
        "iata" => "00M",
        "name" => "Thigpen Field Municipal Airport and Heliport of Bay Springs",
        "city" => "Bay Springs, Jasper County, Mississippi, United States",
        "latitude" => 31.95376472,
        "longitude" => -89.23450472,
        "elevation" => 351,
    }
}

fn row_read(c: &mut Criterion) {
    let record = airport();
    let row = StoredRow::encode("00M", &record, 1_700_000_000_000);
    let mut fields = Vec::new();
    ciborium::into_writer(&record, &mut fields).expect("writing to memory");
    assert!((180..240).contains(&fields.len()), "the row has {} bytes", fields.len());
    let elevation = Path::new("elevation");
    let name = Path::new("name");
    let decimal = Value::Tag(4, Box::new(Value::Array(vec![(-2).into(), 1999.into()])));
    let priced = StoredRow::encode("1", &record! { "price" => decimal }, 0);
    let price = Path::new("price");

    c.bench_function("row/sixth field lazily", |b| {
        b.iter(|| black_box(&row).fields().get_path(black_box(&elevation)).and_then(|value| value.as_i64()));
    });
    c.bench_function("row/full decode by ciborium", |b| {
        b.iter(|| ciborium::from_reader::<Value, _>(black_box(&fields[..])).expect("a sound row"));
    });
    c.bench_function("row/to_record", |b| b.iter(|| black_box(&row).to_record().expect("a sound row")));
    c.bench_function("row/encode", |b| b.iter(|| StoredRow::encode(black_box("00M"), black_box(&record), 5)));
    let turned = StoredRow::encode("00M", &record.iter().rev().map(|(name, value)| (name, value.clone())).collect(), 5);
    c.bench_function("row/same content, equal bytes", |b| b.iter(|| black_box(&row).same_content(black_box(&row))));
    c.bench_function("row/same content, other order", |b| b.iter(|| black_box(&row).same_content(black_box(&turned))));

    let mut key = Vec::with_capacity(256);
    for (what, row, path) in [
        ("row/sort key of an integer, read and encoded", &row, &elevation),
        ("row/sort key of a text, read and encoded", &row, &name),
        ("row/sort key of a decimal, read and encoded", &priced, &price),
    ] {
        c.bench_function(what, |b| {
            b.iter(|| {
                key.clear();
                encode_sort_key(black_box(row).fields().get_path(black_box(path)), false, &mut key);
                key.len()
            });
        });
    }
    let (int, text) = (row.fields().get("elevation"), row.fields().get("iata"));
    for (what, value) in [("row/sort key of an integer, encoded", int), ("row/sort key of a short text, encoded", text)]
    {
        c.bench_function(what, |b| {
            b.iter(|| {
                key.clear();
                encode_sort_key(black_box(value), false, &mut key);
                key.len()
            });
        });
    }
    c.bench_function("row/compare two integers", |b| b.iter(|| compare_refs(black_box(int), black_box(int))));
}

criterion_group!(benches, row_read);
criterion_main!(benches);
