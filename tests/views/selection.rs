//! Selections: rows kept by id while a view changes.

use diorama::Selection;
use diorama::prelude::*;

use crate::common::*;

#[test]
fn a_selection_survives_every_change_of_the_view() {
    on_every_storage(|lens| {
        let (_lens, _source, dio) = dio(lens, 100);
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        let mut chosen = Selection::new();
        chosen.extend_range(&view.snapshot(), 10..13).unwrap();
        chosen.extend_range(&view.snapshot(), 98..1_000).unwrap();
        assert!(!chosen.insert(&id(11)) && chosen.toggle(&id(0)) && !chosen.toggle(&id(12)));
        let ids = [0, 10, 11, 98, 99].map(id);
        let positions = |chosen: &Selection| chosen.positions(&view.snapshot()).unwrap();
        assert_eq!(positions(&chosen), [0, 10, 11, 98, 99]);
        dio.cache().insert_many((200..205).map(|number| (id(number), row_with(number, -1)))).unwrap();
        dio.patched(id(10), row_with(10, 1_000)).unwrap();
        assert_eq!(positions(&chosen), [5, 15, 102, 103, 104]);
        view.set_sort([SortBy::desc("n")]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(positions(&chosen), [0, 1, 2, 89, 99]);
        view.set_conditions([Condition::eq("group", "even")]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(positions(&chosen).len(), 3, "10, 98 and 0 show");
        dio.cache().remove(id(98)).unwrap();
        assert_eq!(chosen.ids().collect::<Vec<_>>(), ids, "what doesn't show, and what is gone, is still chosen");
        view.set_conditions([]).unwrap();
        view.wait_until_ready(Some(SOON)).unwrap();
        assert_eq!(chosen.retain_in(&view.snapshot()).unwrap(), 1);
        assert_eq!(chosen, [0, 10, 11, 99].map(id).iter().collect());
        dio.cache().insert(id(98), row(98).1).unwrap();
        assert_eq!(positions(&chosen).len(), 4, "dropped on request");
        assert!(chosen.remove(&id(0)) && !chosen.remove(&id(0)) && chosen.len() == 3);
        chosen.clear();
        assert!(chosen.is_empty() && positions(&chosen).is_empty());
    });
}
