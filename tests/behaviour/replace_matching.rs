//! F5: the rows of one query, replaced in the cache.

use std::collections::BTreeMap;

use crossbeam_channel::unbounded;
use diorama::prelude::*;
use diorama::vista::{QueryDescriptor, col};
use proptest::prelude::*;

use crate::support::*;

fn cheap(price: i64) -> QueryDescriptor {
    // Order and window are none of its business.
    QueryDescriptor::new().filtered(col("price").le(price)).sorted("name", SortDir::Desc).windowed(1, 1)
}

fn rows<const N: usize>(rows: [(&str, i64); N]) -> Vec<(String, Record)> {
    rows.iter().map(|(id, price)| ((*id).to_owned(), product("P", *price))).collect()
}

#[test]
fn f5_the_rows_that_match_are_replaced_in_one_step_and_others_stay() {
    on_both(|cache| {
        let dio = cache.lens().build().unwrap().make_dio(products("replace")).unwrap();
        let view = dio.table_scenery().sort("price", SortDir::Asc).open().unwrap();
        let mut events = dio.subscribe_events();
        let generation = view.generation();
        dio.cache().replace_matching(&cheap(20), rows([("c", 15), ("new", 5), ("dear", 99)])).unwrap();
        assert_eq!(prices(&view.snapshot()), ["new=5", "c=15", "a=30", "dear=99"]);
        assert_eq!(view.generation(), generation.next());
        assert_eq!(names(&events_now(&mut events)), ["Invalidated"]);
        dio.cache().replace_matching(&cheap(20), rows([("c", 15), ("new", 5)])).unwrap();
        assert_eq!(view.generation(), generation.next(), "nothing has changed");
        dio.cache().replace_matching(&QueryDescriptor::new(), Vec::new()).unwrap();
        assert_eq!(dio.cache().count().unwrap(), 0);
    });
}

#[test]
fn f5_rows_that_cannot_be_meant_are_refused_and_nothing_is_changed() {
    in_time(|| {
        let dio = Lens::new().in_memory().build().unwrap().make_dio(products("refused")).unwrap();
        for wrong in [rows([("x", 1), ("", 2)]), rows([("x", 1), ("x", 2)])] {
            let error = dio.cache().replace_matching(&cheap(20), wrong).unwrap_err();
            assert_eq!((error.kind(), error.context("table")), (ErrorKind::Invalid, Some("refused")));
        }
        assert_eq!(cached(&dio), ["a=30", "b=10", "c=20"]);
        dio.close(SOON).unwrap();
        let closed = dio.cache().replace_matching(&cheap(20), Vec::new());
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[test]
fn f5_rows_with_a_write_on_its_way_are_left_alone() {
    on_both(|cache| {
        let source = products("replace-pending");
        let dio = cache.lens().build().unwrap().make_dio(source.clone()).unwrap();
        let held = source.hold(diorama::sources::memory::Call::Patch);
        let ticket = dio.write(WriteOp::patch("b", record! { "price" => 11 })).unwrap();
        dio.cache().replace_matching(&cheap(20), rows([("c", 15)])).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=11", "c=15"]);
        held.release();
        ticket.wait(SOON).unwrap();
        assert_eq!(cached(&dio), ["a=30", "b=11", "c=15"]);
    });
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, i64),
    Remove(u8),
    Clear,
    Replace(i64, BTreeMap<u8, i64>),
}

fn step() -> impl Strategy<Value = Step> {
    let (id, price) = (0..8_u8, 0..6_i64);
    prop_oneof![
        4 => (id.clone(), price.clone()).prop_map(|(id, price)| Step::Put(id, price)),
        2 => id.clone().prop_map(Step::Remove),
        1 => Just(Step::Clear),
        5 => (price.clone(), prop::collection::btree_map(id, price, 0..4))
            .prop_map(|(upto, rows)| Step::Replace(upto, rows)),
    ]
}

impl Step {
    fn plainly(&self, rows: &mut BTreeMap<String, i64>) {
        match self {
            Step::Put(id, price) => drop(rows.insert(id.to_string(), *price)),
            Step::Remove(id) => drop(rows.remove(&id.to_string())),
            Step::Clear => rows.clear(),
            Step::Replace(upto, given) => {
                rows.retain(|_, price| *price > *upto);
                rows.extend(given.iter().map(|(id, price)| (id.to_string(), *price)));
            }
        }
    }

    fn to(&self, dio: &Dio) -> diorama::Result<()> {
        let cache = dio.cache();
        match self {
            Step::Put(id, price) => cache.insert(id.to_string(), product("P", *price)),
            Step::Remove(id) => cache.remove(id.to_string()),
            Step::Clear => cache.clear(),
            Step::Replace(upto, given) => {
                let rows = given.iter().map(|(id, price)| (id.to_string(), product("P", *price)));
                cache.replace_matching(&cheap(*upto), rows)
            }
        }
    }
}

fn plain(rows: &BTreeMap<String, i64>) -> Vec<String> {
    rows.iter().map(|(id, price)| format!("{id}={price}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn f5_replacing_what_matches_is_what_it_says_in_callbacks_and_outside(
        batches in prop::collection::vec((any::<bool>(), prop::collection::vec(step(), 1..8)), 1..8),
    ) {
        let (steps, to_do) = unbounded::<Vec<Step>>();
        let (see, seen) = unbounded();
        let lens = Lens::new().in_memory().on_event(move |dio, _| {
            for step in to_do.try_iter().flatten() {
                step.to(dio)?;
            }
            let _ = see.send(cached(dio));
            Ok(())
        });
        let dio = lens.build().unwrap().make_dio(MemoryVista::new("model", "id")).unwrap();
        let view = dio.table_scenery().open().unwrap();
        let mut model = BTreeMap::new();
        for (in_callback, batch) in batches {
            batch.iter().for_each(|step| step.plainly(&mut model));
            if in_callback {
                steps.send(batch).unwrap();
                dio.handle_event(ChangeEvent::Invalidated).unwrap();
                prop_assert_eq!(seen.recv().unwrap(), plain(&model), "as reads in the callback see them");
            } else {
                batch.iter().for_each(|step| step.to(&dio).unwrap());
            }
            prop_assert_eq!(cached(&dio), plain(&model));
            prop_assert_eq!(view.row_count(), model.len());
        }
    }
}
