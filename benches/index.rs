//! Index: what a view's order costs to change, read, compare and load, at 10,000 and 1,000,000 rows.
//!
//! Run with `cargo bench --bench index`. A move is a remove, an insert and a publication: the clone published before is
//! alive while the tree changes, and is dropped after.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use diorama::__bench::{Entries, Index, Keyed};

/// Random numbers that are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

type MakeKey = fn(&mut Random) -> Vec<u8>;

fn integer(random: &mut Random) -> Vec<u8> {
    [&[2], &random.next().to_be_bytes()[..]].concat()
}

fn short_text(random: &mut Random) -> Vec<u8> {
    format!("\x03class-{:02}\0", random.below(50)).into_bytes()
}

fn long_text(random: &mut Random) -> Vec<u8> {
    format!("\x03a category with a long name, {:02}\0", random.below(50)).into_bytes()
}

/// Unsorted: row n has the n-th key.
fn keys(rows: usize, make: MakeKey) -> Vec<Vec<u8>> {
    let mut random = Random(7);
    (0..rows).map(|_| make(&mut random)).collect()
}

fn sorted(keys: &[Vec<u8>]) -> Entries {
    let mut rows: Vec<Keyed> = keys.iter().enumerate().map(|(row, key)| (key.clone(), row as u64)).collect();
    rows.sort_unstable();
    Entries::new(&rows)
}

fn moves<const CAP: usize>(c: &mut Criterion, rows: usize, name: &str, make: MakeKey) {
    let mut keys = keys(rows, make);
    let mut index = Index::<CAP>::load(&sorted(&keys));
    let mut random = Random(1);
    let mut version = 0;
    c.bench_function(&format!("move one row/{name}/{rows}/cap {CAP}"), |b| {
        b.iter_batched(
            || (random.below(rows), make(&mut random)),
            |(row, to)| {
                version += 1;
                index.move_row(row as u64, &keys[row], &to, version);
                index.publish();
                std::mem::replace(&mut keys[row], to)
            },
            BatchSize::SmallInput,
        );
    });
}

fn reads_and_loads<const CAP: usize>(c: &mut Criterion) {
    const ROWS: usize = 1_000_000;
    let keys = keys(ROWS, integer);
    let entries = sorted(&keys);
    let mut index = Index::<CAP>::load(&entries);
    let mut random = Random(2);
    c.bench_function(&format!("read 50 of 1000000/cap {CAP}"), |b| {
        b.iter(|| index.read(random.below(ROWS - 50), 50));
    });
    c.bench_function(&format!("read all of 1000000/cap {CAP}"), |b| b.iter(|| index.read(0, ROWS)));
    let to = integer(&mut random);
    index.move_row(77, &keys[77], &to, 1);
    c.bench_function(&format!("diff of one move in 1000000/cap {CAP}"), |b| b.iter(|| index.diff()));
    c.bench_function(&format!("change list of one move in 1000000/cap {CAP}"), |b| b.iter(|| index.changes()));
    c.bench_function(&format!("load 1000000/cap {CAP}"), |b| {
        b.iter_with_large_drop(|| Index::<CAP>::load(black_box(&entries)));
    });
    for share in [4, 16, 64, 256] {
        let changed: Vec<Keyed> =
            keys.iter().enumerate().step_by(share * 2).map(|(row, key)| (key.clone(), row as u64)).collect();
        let list = |mut rows: Vec<Keyed>| {
            rows.sort_unstable();
            Entries::new(&rows)
        };
        let inserts = list(changed.iter().map(|(_, row)| (integer(&mut random), *row)).collect());
        let removes = list(changed);
        c.bench_function(&format!("merge one in {share} into 1000000/cap {CAP}"), |b| {
            b.iter_batched(
                || Index::<CAP>::load(&entries),
                |mut index| {
                    index.merge(&removes, &inserts);
                    index
                },
                BatchSize::PerIteration,
            );
        });
    }
}

fn all_moves<const CAP: usize>(c: &mut Criterion) {
    for rows in [10_000, 1_000_000] {
        moves::<CAP>(c, rows, "integers", integer);
        moves::<CAP>(c, rows, "50 short texts", short_text);
        moves::<CAP>(c, rows, "50 long texts", long_text);
    }
}

fn index(c: &mut Criterion) {
    all_moves::<16>(c);
    all_moves::<32>(c);
    all_moves::<64>(c);
    reads_and_loads::<32>(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    targets = index
}
criterion_main!(benches);
