use proptest::prelude::*;

use super::*;
use crate::prelude::{Lens, MemoryVista};
use crate::record;

/// A row as a screen keeps it.
type Shown = (String, Option<i64>);

fn shown(snapshot: &TableSnapshot) -> Vec<Shown> {
    snapshot.iter().map(|row| (row.id().to_owned(), row.int("n"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    #[test]
    fn old_rows_and_changes_make_the_new_rows(
        batches in prop::collection::vec(prop::collection::vec((0..8_u8, prop::option::of(0..4_i64)), 1..6), 1..12),
        look_every in 1..4_usize,
    ) {
        let lens = Lens::new().in_memory().build().unwrap();
        let dio = lens.make_dio(MemoryVista::new("t", "id")).unwrap();
        let view = dio.table_scenery().condition(Condition::ge("n", 1)).sort("n", SortDir::Desc).open().unwrap();
        let mut seen = view.generation();
        let mut rows = shown(&view.snapshot());
        for (count, batch) in batches.into_iter().enumerate() {
            for (id, n) in batch {
                let id = id.to_string();
                match n {
                    Some(n) => dio.cache().insert(id.as_str(), record! { "id" => id.clone(), "n" => n }).unwrap(),
                    None => dio.cache().remove(id).unwrap(),
                }
            }
            if count % look_every != 0 {
                continue;
            }
            let set = view.changes_since(seen);
            let new = shown(&set.snapshot);
            let Changes::List(changes) = set.changes else { panic!("a few changes are no reset") };
            Change::apply_all(&changes, &mut rows, |index| new[index].clone()).unwrap();
            prop_assert_eq!(&rows, &new);
            seen = set.to;
        }
    }
}
