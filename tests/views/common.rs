//! What the tests of the views share.

use std::time::Duration;

use diorama::LensBuilder;
use diorama::prelude::*;

use crate::limit;

/// The timeout of every call that takes one.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How long a whole test may take, for the calls that take no timeout.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs a test that tells where it hangs.
pub(crate) fn limited(body: impl FnOnce() + Send + 'static) {
    limit::limited(LIMIT, body);
}

/// Runs a test over a cache in memory and over one on disk.
pub(crate) fn on_every_storage(body: fn(LensBuilder)) {
    limited(move || body(Lens::new().in_memory()));
    #[cfg(feature = "lmdb")]
    limited(move || {
        let dir = tempfile::tempdir().unwrap();
        body(Lens::new().cache_at(dir.path().join("cache")));
    });
}

/// The row `number` of a table: two groups, a name that sorts the other way round.
pub(crate) fn row(number: u64) -> (String, Record) {
    let id = id(number);
    let group = if number.is_multiple_of(2) { "even" } else { "odd" };
    let record =
        record! { "id" => &id, "n" => number, "group" => group, "name" => format!("name {:06}", 999_999 - number) };
    (id, record)
}

pub(crate) fn id(number: u64) -> String {
    format!("r{number:06}")
}

/// The row `number` with another `n`.
pub(crate) fn row_with(number: u64, n: i64) -> Record {
    let mut record = row(number).1;
    record.insert("n", n);
    record
}

pub(crate) fn source(rows: u64) -> MemoryVista {
    MemoryVista::new("things", "id").with_rows((0..rows).map(row))
}

/// A Dio over `rows` rows that has copied them.
pub(crate) fn dio(lens: LensBuilder, rows: u64) -> (Lens, MemoryVista, Dio) {
    let source = source(rows);
    let lens = lens.build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    assert_eq!(dio.cache().count().unwrap(), rows);
    (lens, source, dio)
}

pub(crate) fn ids(snapshot: &diorama::TableSnapshot) -> Vec<String> {
    snapshot.iter().map(|row| row.id().to_owned()).collect()
}

pub(crate) fn shown(snapshot: &diorama::TableSnapshot) -> Vec<(String, Record)> {
    snapshot.iter().map(|row| (row.id().to_owned(), row.record().unwrap().clone())).collect()
}

/// Returns when the core has handled everything sent before and has swept up what was dropped before.
pub(crate) fn settle(dio: &Dio) {
    // The answer to the first comes before the sweep that follows it, the answer to the second after that.
    dio.cache().remove("no such row").unwrap();
    dio.cache().remove("no such row").unwrap();
}

/// The cache's rows, filtered and sorted from scratch; ties keep the order of arrival.
pub(crate) fn recomputed(
    dio: &Dio,
    keep: impl Fn(&Record) -> bool,
    order: impl Fn(&Record, &Record) -> std::cmp::Ordering,
) -> Vec<(String, Record)> {
    let mut rows = dio.cache().list().unwrap();
    rows.retain(|(_, record)| keep(record));
    rows.sort_by(|(_, a), (_, b)| order(a, b));
    rows
}

pub(crate) fn by_n(a: &Record, b: &Record) -> std::cmp::Ordering {
    a.int("n").cmp(&b.int("n"))
}

pub(crate) fn is_even(record: &Record) -> bool {
    record.text("group") == Some("even")
}
