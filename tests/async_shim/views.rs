//! T, R, V: views, followed by futures and streams.

use diorama::async_shim::wait_any;
use diorama::prelude::*;
use diorama::value::RowRef;
use diorama::vista::{Column, ColumnType, Schema};
use diorama::{AsyncDio, ChangeSet, CustomAggregate, RecordStatus, ValueStatus, VecMirror};

use crate::executors::*;
use crate::storage::{ScriptedBackend, Storage};
use crate::support::*;

async fn dio(table: &str) -> AsyncDio {
    lens(Lens::new().in_memory()).await.make_dio(products(table)).await.unwrap()
}

async fn t1_a_view_shows_what_the_blocking_one_shows() {
    let dio = dio("t1").await;
    for number in 0..40 {
        dio.patched(format!("row {number}"), product(if number % 3 == 0 { "Third" } else { "Other" }, number % 7))
            .await
            .unwrap();
    }
    let view = dio
        .table_scenery()
        .condition(Condition::ge("price", 2))
        .search("thi")
        .sort("price", SortDir::Desc)
        .sort("id", SortDir::Asc)
        .open()
        .await
        .unwrap();
    let plain: &Dio = &dio;
    let blocking = plain
        .table_scenery()
        .condition(Condition::ge("price", 2))
        .search("thi")
        .sort("price", SortDir::Desc)
        .sort("id", SortDir::Asc)
        .open()
        .unwrap();
    assert_eq!(prices(&view.snapshot()), prices(&blocking.snapshot()));
    assert_eq!(view.row_count(), 10);
    let first = view.row(0).await.unwrap().unwrap();
    assert_eq!(first.int("price"), Some(6));
    assert_eq!(view.position_of(first.id()).await.unwrap(), Some(0));
    assert_eq!(view.rows(1..4).await.unwrap().len(), 3);
    assert!(view.row(10).await.unwrap().is_none());

    let few = dio.table_scenery().sort("price", SortDir::Asc).limit(2).open().await.unwrap();
    let last = dio.table_scenery().sort("price", SortDir::Asc).tail(1).where_eq("name", "Anvil").open().await.unwrap();
    assert_eq!((few.row_count(), ids(&last.snapshot())), (2, vec!["a".to_owned()]));
    dio.patched("new", product("Least", -1)).await.unwrap();
    assert_eq!(ids(&few.snapshot())[0], "new");
    assert_eq!(few.row_count(), 2);
}

async fn t3_a_generation_moves_exactly_when_what_is_shown_moves_and_wakes_who_waits() {
    let dio = dio("t3").await;
    let bell = dio.table_scenery().where_eq("name", "Bell").open().await.unwrap();
    let seen = bell.generation();
    let mut change = begin(bell.wait_for_change(seen)).await;
    let mut far = begin(bell.wait_for_generation(Generation(seen.0 + 3))).await;
    dio.patched("a", product("Anvil", 1)).await.unwrap();
    dio.patched("b", product("Bell", 10)).await.unwrap();
    assert!(change.is_waiting().await && far.is_waiting().await, "nothing shown has moved");
    dio.patched("b", product("Bell", 11)).await.unwrap();
    assert_eq!(change.await.unwrap(), seen.next());
    assert!(far.is_waiting().await);
    dio.cache().remove("b").await.unwrap();
    dio.cache().insert("b", product("Bell", 12)).await.unwrap();
    assert_eq!(far.await.unwrap(), Generation(seen.0 + 3));
    assert_eq!(bell.wait_for_generation(seen).await.unwrap(), bell.generation(), "it is there already");
}

async fn t3_a_stream_of_generations_has_the_newest_and_ends_with_the_dio() {
    let dio = dio("t3-stream").await;
    let view = dio.table_scenery().open().await.unwrap();
    let mut generations = view.generations();
    assert_eq!(next(&mut generations).await, Some(view.generation()));
    assert_eq!(try_next(&mut generations).await, None);
    for price in 0..5 {
        dio.patched("b", product("Bell", 100 + price)).await.unwrap();
    }
    assert_eq!(next(&mut generations).await, Some(view.generation()), "five moves are one item");
    assert_eq!(try_next(&mut generations).await, None);
    dio.patched("b", product("Bell", 0)).await.unwrap();
    assert!(dio.close(SOON).await.unwrap().is_closed());
    assert_eq!(next(&mut generations).await, Some(view.generation()), "what moved before the closing comes first");
    assert_eq!(next(&mut generations).await, None);
    assert_eq!(next(&mut generations).await, None, "also when asked again");
    let mut late = view.generations();
    assert_eq!(next(&mut late).await, Some(view.generation()));
    assert_eq!(next(&mut late).await, None);
}

/// What a plain list makes of a change set.
fn apply(set: ChangeSet, rows: &mut Vec<String>) {
    let row = |index: usize| {
        let row = set.snapshot.row(index).unwrap();
        format!("{}={}", row.id(), row.int("price").unwrap_or(-1))
    };
    match &set.changes {
        Changes::List(changes) => Change::apply_all(changes, rows, row).unwrap(),
        _ => *rows = (0..set.snapshot.row_count()).map(row).collect(),
    }
    assert_eq!(*rows, prices(&set.snapshot));
}

async fn t5_change_sets_applied_to_a_plain_list_make_the_snapshot() {
    let dio = dio("t5").await;
    let view = dio.table_scenery().sort("price", SortDir::Asc).open().await.unwrap();
    let mut rows = prices(&view.snapshot());
    let mut mirror = VecMirror::new(&view, |row| format!("{}={}", row.id(), row.int("price").unwrap_or(-1)));
    let mut changes = view.change_sets();
    assert!(try_next(&mut changes).await.is_none());
    for step in 0..30_i64 {
        match step % 5 {
            0 => dio.cache().insert(format!("row {step}"), product("New", (step * 7) % 40)).await.unwrap(),
            1 => dio.patched("a", product("Anvil", (step * 11) % 50)).await.unwrap(),
            2 => dio.cache().remove(format!("row {}", step - 2)).await.unwrap(),
            3 => {
                let many = (0..4).map(|at| (format!("row {step} {at}"), product("Many", at * 9))).collect();
                dio.cache().insert_many(many).await.unwrap();
            }
            _ => {
                dio.patched("b", product("Bell", step)).await.unwrap();
                dio.patched("c", product("Chain", -step)).await.unwrap();
            }
        }
        let before = rows.clone();
        apply(next(&mut changes).await.unwrap(), &mut rows);
        mirror.update();
        assert_eq!((&mirror[..], rows == before), (&rows[..], false), "step {step}");
    }
    view.set_sort([SortBy::desc("price")]).unwrap();
    view.wait_until_ready().await.unwrap();
    apply(next(&mut changes).await.unwrap(), &mut rows);
    let from = view.generation();
    dio.cache().clear().await.unwrap();
    apply(next(&mut changes).await.unwrap(), &mut rows);
    assert!(rows.is_empty());
    dio.close(SOON).await.unwrap();
    assert!(next(&mut changes).await.is_none());
    let mut again = view.change_sets_since(from);
    assert_eq!(next(&mut again).await.map(|set| set.to), Some(view.generation()), "also of a closed Dio");
}

async fn t8_another_query_is_awaited_and_the_old_rows_stay_until_then() {
    let backend = ScriptedBackend::in_memory();
    let lens = lens(Lens::new().cache_source(backend.clone())).await;
    let dio = lens.make_dio(products("t8")).await.unwrap();
    dio.flush().await.unwrap();
    let view = dio.table_scenery().sort("price", SortDir::Asc).open().await.unwrap();
    let scans = backend.hold(Storage::Scan);
    view.set_conditions([Condition::eq("name", "Bell")]).unwrap();
    let mut ready = begin(view.wait_until_ready()).await;
    assert!(ready.is_waiting().await);
    assert_eq!(view.row_count(), 3);
    drop(scans);
    let plain: &TableScenery = &view;
    plain.wait_until_ready(Some(SOON)).unwrap();
    // Another request before the future looks: the one that it waits for is answered all the same.
    let scans = backend.hold(Storage::Scan);
    view.set_conditions([Condition::eq("name", "Chain")]).unwrap();
    ready.await.unwrap();
    assert_eq!(ids(&view.snapshot()), ["b"]);
    drop(scans);
    view.wait_until_ready().await.unwrap();
    assert_eq!(ids(&view.snapshot()), ["c"]);

    let scans = backend.hold(Storage::Scan);
    let filling = dio.table_scenery().where_eq("name", "Anvil").open_now().await.unwrap();
    let mut ready = begin(filling.wait_until_ready()).await;
    assert!(ready.is_waiting().await);
    assert!(matches!(filling.load_state(), LoadState::Loading), "{:?}", filling.load_state());
    let closing = begin(dio.close(std::time::Duration::ZERO)).await;
    assert_eq!(ready.await.unwrap_err().kind(), ErrorKind::Closed);
    drop(scans);
    closing.await.unwrap();
}

async fn t8_first_rows_come_before_the_whole() {
    let backend = ScriptedBackend::in_memory();
    let lens = lens(Lens::new().cache_source(backend.clone())).await;
    let dio = lens.make_dio(many("t8-first", 70_000)).await.unwrap();
    dio.flush().await.unwrap();
    let view = dio.table_scenery().sort("price", SortDir::Desc).open().await.unwrap();
    let scans = backend.hold(Storage::Scan);
    view.set_conditions([Condition::ge("price", 10)]).unwrap();
    let first = view.wait_for_first_rows().await.unwrap().expect("the scan is held");
    assert_eq!(first.row(0).unwrap().int("price"), Some(69_999));
    assert_eq!(view.row_count(), 70_000);
    drop(scans);
    view.wait_until_ready().await.unwrap();
    assert!(view.wait_for_first_rows().await.unwrap().is_none());
    assert_eq!(view.row_count(), 69_990);
}

async fn t10_a_query_that_cannot_be_is_an_error() {
    let schema =
        Schema::new("id").with(Column::new("id", ColumnType::Text)).with(Column::new("name", ColumnType::Text));
    let source = MemoryVista::new("t10", "id").with_schema(schema);
    let dio = lens(Lens::new().in_memory()).await.make_dio(source).await.unwrap();
    let error = dio.table_scenery().sort("nmae", SortDir::Asc).open().await.map(drop).unwrap_err();
    let plain: &Dio = &dio;
    let blocking = plain.table_scenery().sort("nmae", SortDir::Asc).open().map(drop).unwrap_err();
    assert_eq!(error.to_string(), blocking.to_string());
    let error = dio.record_scenery("").await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), plain.record_scenery("").map(drop).unwrap_err().to_string());
}

async fn t11_closing_wakes_who_waits_and_the_rows_stay() {
    let dio = dio("t11").await;
    let view = dio.table_scenery().open().await.unwrap();
    let record = dio.record_scenery("a").await.unwrap();
    let sum = dio.value_scenery().sum("price").open().await.unwrap();
    let (table_waits, record_waits, sum_waits, seq_waits) = (
        begin(view.wait_for_change(view.generation())).await,
        begin(record.wait_for_change(record.generation())).await,
        begin(sum.wait_for_seq(Seq(u64::MAX))).await,
        begin(dio.wait_for_seq(Seq(u64::MAX))).await,
    );
    dio.close(SOON).await.unwrap();
    for error in [
        table_waits.await.map(drop).unwrap_err(),
        record_waits.await.map(drop).unwrap_err(),
        sum_waits.await.map(drop).unwrap_err(),
        seq_waits.await.map(drop).unwrap_err(),
        dio.table_scenery().open().await.map(drop).unwrap_err(),
        dio.record_scenery("a").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
    assert_eq!(view.row_count(), 3);
}

async fn t13_a_change_that_lands_while_a_view_opens_is_in_it() {
    let lens = lens(Lens::new().in_memory()).await;
    let dio = lens.make_dio(many("t13", 3_000)).await.unwrap();
    for round in 0..10_i64 {
        let opening = begin(dio.table_scenery().sort("price", SortDir::Asc).open()).await;
        for row in 0..20 {
            dio.patched(format!("row {row}"), product("moved", -round * 100 - row)).await.unwrap();
        }
        dio.cache().remove(format!("row {}", 100 + round)).await.unwrap();
        let view = opening.await.unwrap();
        let snapshot = view.snapshot();
        assert_eq!(snapshot.row_count(), 3_000 - 1 - round as usize);
        assert_eq!(snapshot.row(0).unwrap().int("price"), Some(-round * 100 - 19));
    }
}

async fn r1_a_record_view_follows_its_row() {
    let dio = dio("r1").await;
    let view = dio.record_scenery("a").await.unwrap();
    assert_eq!((view.status(), view.record().unwrap().int("price")), (RecordStatus::Fresh, Some(30)));
    let seen = view.generation();
    let mut moves = begin(view.wait_for_change(seen)).await;
    dio.patched("b", product("Bell", 1)).await.unwrap();
    assert!(moves.is_waiting().await, "another row's change");
    dio.cache().remove("a").await.unwrap();
    let seen = moves.await.unwrap();
    assert_eq!(view.status(), RecordStatus::NotFound);
    dio.patched("a", product("Anvil", 7)).await.unwrap();
    view.wait_for_change(seen).await.unwrap();
    assert_eq!((view.status(), view.record().unwrap().int("price")), (RecordStatus::Fresh, Some(7)));
    let given = dio.record_scenery_with("z", product("Given", 99)).await.unwrap();
    assert_eq!(given.record().unwrap().text("name"), Some("Given"));
    let mut generations = given.generations();
    assert!(next(&mut generations).await.is_some());
}

/// The product of all prices.
struct Product(i64);

impl CustomAggregate for Product {
    fn add(&mut self, row: RowRef<'_>) {
        self.0 *= price_of(row);
    }

    fn remove(&mut self, row: RowRef<'_>) {
        self.0 /= price_of(row);
    }

    fn result(&self) -> diorama::Result<Value> {
        match self.0 {
            0..1_000_000 => Ok(Value::from(self.0)),
            _ => Err(Error::new(ErrorKind::Invalid, "too much")),
        }
    }
}

fn price_of(row: RowRef<'_>) -> i64 {
    row.get("price").and_then(|price| price.as_i64()).unwrap_or(1)
}

async fn v1_values_equal_a_recompute_and_are_awaited() {
    let dio = dio("v1").await;
    let sum = dio.value_scenery().sum("price").open().await.unwrap();
    let cheap = dio.value_scenery().count().condition(Condition::lt("price", 25)).open().await.unwrap();
    let max = dio.value_scenery().max("price").open().await.unwrap();
    let names = dio.value_scenery().distinct("name").open().await.unwrap();
    let product_of = dio.value_scenery().custom(|| Product(1)).open().await.unwrap();
    let first = dio
        .value_scenery()
        .sort("price", SortDir::Asc)
        .computed(|rows| Ok(rows.row(0).map(|row| row.id().to_owned()).unwrap_or_default()))
        .open()
        .await
        .unwrap();
    assert_eq!((sum.int(), cheap.int(), max.int(), names.int()), (Some(60), Some(2), Some(30), Some(3)));
    assert_eq!((product_of.int(), first.value()), (Some(6_000), Value::from("b")));
    let moves = begin(max.wait_for_change(max.generation())).await;
    dio.patched("a", product("Bell", 5)).await.unwrap();
    moves.await.unwrap();
    let seq = dio.seq();
    for value in [&sum, &cheap, &max, &names, &product_of, &first] {
        assert!(value.wait_for_seq(seq).await.unwrap() >= seq);
    }
    assert_eq!((sum.int(), cheap.int(), max.int(), names.int()), (Some(35), Some(3), Some(20), Some(2)));
    assert_eq!((product_of.int(), first.value()), (Some(1_000), Value::from("a")));

    // V3: a failing one keeps its last value, and recovers.
    dio.patched("b", product("Bell", 1_000_000)).await.unwrap();
    product_of.wait_for_seq(dio.seq()).await.unwrap();
    assert_eq!((product_of.status(), product_of.int()), (ValueStatus::Error, Some(1_000)));
    dio.patched("b", product("Bell", 1)).await.unwrap();
    product_of.wait_for_seq(dio.seq()).await.unwrap();
    assert_eq!((product_of.status(), product_of.int()), (ValueStatus::Fresh, Some(100)));
    product_of.wait_until_ready().await.unwrap();
    assert!(next(&mut sum.generations()).await.is_some());
}

async fn e3_wait_for_seq_is_ready_once_it_is_published() {
    let dio = dio("e3-seq").await;
    let seq = dio.seq();
    assert_eq!(dio.wait_for_seq(seq).await.unwrap(), seq, "it is there already");
    let mut waiting = begin(dio.wait_for_seq(seq.next())).await;
    assert!(waiting.is_waiting().await);
    dio.patched("b", product("Bell", 1)).await.unwrap();
    assert_eq!(waiting.await.unwrap(), seq.next());
}

async fn e3_wait_any_wakes_for_views_of_any_kind_and_dio_and_says_which() {
    let (dio, other) = (dio("e3-any").await, dio("e3-other").await);
    let table = dio.table_scenery().where_eq("name", "Bell").open().await.unwrap();
    let record = dio.record_scenery("a").await.unwrap();
    let sum = other.value_scenery().sum("price").open().await.unwrap();
    let seen = || [table.generation(), record.generation(), sum.generation()];
    let before = seen();
    let views = [(&table as &(dyn Scenery + Sync), before[0]), (&record, before[1]), (&sum, before[2])];
    let mut waiting = begin(wait_any(&views)).await;
    assert!(waiting.is_waiting().await);
    other.patched("a", product("Anvil", 31)).await.unwrap();
    assert_eq!(waiting.await.unwrap(), [2]);
    dio.patched("a", product("Anvil", 31)).await.unwrap();
    dio.patched("b", product("Bell", 31)).await.unwrap();
    assert_eq!(wait_any(&views).await.unwrap(), [0, 1, 2], "all of them have moved by now");
    assert_eq!(wait_any(&[]).await.unwrap_err().kind(), ErrorKind::Invalid);
    let now = seen();
    let views = [(&table as &(dyn Scenery + Sync), now[0]), (&sum, now[2])];
    let waiting = begin(wait_any(&views)).await;
    other.close(SOON).await.unwrap();
    let error = waiting.await.unwrap_err();
    assert_eq!((error.kind(), error.context("view")), (ErrorKind::Closed, Some("1")));
}

async fn e3_no_wake_up_is_lost_however_quick_the_changes_are() {
    let (one, other) = (dio("e3-ping").await, dio("e3-pong").await);
    // Each waits for both and answers the other's: a lost wake-up would stop both.
    async fn play(mine: AsyncDio, theirs: AsyncDio) {
        let (ours, theirs) = (mine.record_scenery("a").await.unwrap(), theirs.record_scenery("a").await.unwrap());
        let mut seen = [Generation(0); 2];
        loop {
            let price = |view: &RecordScenery| view.record().unwrap().int("price").unwrap();
            let prices = [price(&ours), price(&theirs)];
            if prices[0] <= prices[1] && prices[0] < 500 {
                mine.patched("a", product("Anvil", prices[1] + 1)).await.unwrap();
            } else if prices.iter().all(|price| *price >= 500) {
                return;
            }
            let moved = wait_any(&[(&ours, seen[0]), (&theirs, seen[1])]).await.unwrap();
            for which in moved {
                seen[which] = if which == 0 { ours.generation() } else { theirs.generation() };
            }
        }
    }
    let (first, second) = (play(one.clone(), other.clone()), play(other, one));
    let (mut first, mut second) = (begin(first).await, begin(second).await);
    // Both by one task, which is woken for either.
    std::future::poll_fn(|cx| {
        let mut over = true;
        for side in [&mut first, &mut second] {
            over &= side.poll_again(cx);
        }
        if over { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Rows that are on the disk alone are read by a future.
#[cfg(feature = "lmdb")]
async fn c9_rows_are_read_from_the_disk() {
    let cache = Cache::disk();
    let source = many("c9", 5_000);
    let dio = lens(cache.lens()).await.make_dio(source.clone()).await.unwrap();
    dio.flush().await.unwrap();
    assert!(dio.close(SOON).await.unwrap().is_closed());
    let dio = lens(cache.lens()).await.make_dio(source).await.unwrap();
    let view = dio.table_scenery().sort("price", SortDir::Asc).open().await.unwrap();
    assert_eq!((view.row_count(), dio.status().warm_start), (5_000, true));
    assert_eq!(view.row(4_321).await.unwrap().unwrap().int("price"), Some(4_321));
    let rows = view.rows(1_000..1_200).await.unwrap();
    assert!(rows.iter().map(|row| row.int("price").unwrap()).eq(1_000..1_200));
    assert_eq!(view.position_of("row 77").await.unwrap(), Some(77));
    assert_eq!(view.position_of("nobody").await.unwrap(), None);
}

#[cfg(feature = "lmdb")]
mod on_disk {
    use super::c9_rows_are_read_from_the_disk;

    on_every_executor!(c9_rows_are_read_from_the_disk);
}

on_every_executor!(
    t1_a_view_shows_what_the_blocking_one_shows,
    t3_a_generation_moves_exactly_when_what_is_shown_moves_and_wakes_who_waits,
    t3_a_stream_of_generations_has_the_newest_and_ends_with_the_dio,
    t5_change_sets_applied_to_a_plain_list_make_the_snapshot,
    t8_another_query_is_awaited_and_the_old_rows_stay_until_then,
    t8_first_rows_come_before_the_whole,
    t10_a_query_that_cannot_be_is_an_error,
    t11_closing_wakes_who_waits_and_the_rows_stay,
    t13_a_change_that_lands_while_a_view_opens_is_in_it,
    r1_a_record_view_follows_its_row,
    v1_values_equal_a_recompute_and_are_awaited,
    e3_wait_for_seq_is_ready_once_it_is_published,
    e3_wait_any_wakes_for_views_of_any_kind_and_dio_and_says_which,
    e3_no_wake_up_is_lost_however_quick_the_changes_are,
);
