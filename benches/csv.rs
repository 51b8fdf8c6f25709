//! How long a CSV file of 200,000 rows and six columns takes to read and to write.

use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use diorama::record;
use diorama::sources::CsvVista;
use diorama::vista::{CallCx, QueryDescriptor, TableShell};

fn flights() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/data/flights-200k.csv.gz");
    let file = std::fs::File::open(path).expect("the benchmark's data is part of the repository");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("the benchmark's data can be unpacked");
    bytes
}

fn csv(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("flights.csv");
    std::fs::write(&path, flights()).expect("room for the flights");
    let (cx, all) = (CallCx::new(), QueryDescriptor::default());
    let vista = CsvVista::open(&path, "id").expect("the flights are a table");
    assert_eq!(vista.list(&cx, &all).expect("rows").len(), 200_000);

    let mut group = criterion.benchmark_group("csv/flights-200k");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    group.bench_function("open", |bencher| {
        bencher.iter(|| black_box(CsvVista::open(&path, "id").expect("the flights are a table")))
    });
    group.bench_function("list, unchanged file", |bencher| {
        bencher.iter_with_large_drop(|| vista.list(&cx, &all).expect("rows"))
    });
    let mut ending = false;
    group.bench_function("list, changed file", |bencher| {
        bencher.iter_batched(
            || {
                let mut bytes = std::fs::read(&path).expect("the flights");
                match ending {
                    true => drop(bytes.pop()),
                    false => bytes.push(b'\n'),
                }
                ending = !ending;
                std::fs::write(&path, bytes).expect("room for the flights");
            },
            |()| vista.list(&cx, &all).expect("rows"),
            criterion::BatchSize::PerIteration,
        )
    });
    group.bench_function("get", |bencher| bencher.iter(|| black_box(vista.get(&cx, "f0100000").expect("a row"))));
    let mut delay = 0_i64;
    group.bench_function("patch of one cell, synced", |bencher| {
        bencher.iter(|| {
            delay += 1;
            vista.patch(&cx, "f0100000", &record! { "delay" => delay }).expect("a written row")
        })
    });
    group.finish();
}

criterion_group!(benches, csv);
criterion_main!(benches);
