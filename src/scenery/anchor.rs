//! Anchor: a row of a view that a screen holds on to while rows come and go around it.
//!
//! Invariants: whatever happened to other rows, an anchored row is found where it stands, and one that is gone where it stood
//! (`an_anchor_finds_its_row_or_where_it_stood`); each answer costs O(log n) (`anchors_and_ranks_look_at_few_nodes`).

use std::fmt;
use std::sync::Arc;

use crate::RowNo;
use crate::scenery::index::key::Entry;
use crate::scenery::snapshot::TableSnapshot;
use crate::scenery::view_query::ViewQuery;
use crate::value::{Record, StoredRow};

/// A row of a snapshot, to be found again in later ones: what a list holds on to so that rows which come in above don't shift
/// what is on the screen. Made by [`TableSnapshot::anchor`]; it keeps no row and pins no snapshot.
#[derive(Clone)]
pub struct Anchor {
    id: Arc<str>,
    entry: Entry,
    index: usize,
    query: Arc<ViewQuery>,
}

impl Anchor {
    /// The id of the row.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The position it had in the snapshot that made the anchor.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchor").field("id", &self.id).field("index", &self.index).finish()
    }
}

impl TableSnapshot {
    /// Holds on to the row at a position: O(log n). `None` past the end, and for a row that can't be read any more.
    ///
    /// ```
    /// use diorama::prelude::*;
    ///
    /// let rows = ["b", "d", "f"].map(|id| (id, record! { "id" => id }));
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("letters", "id").with_rows(rows))?;
    /// let view = dio.table_scenery().sort("id", SortDir::Asc).open()?;
    /// let top = view.snapshot().anchor(1).unwrap(); // The first row on the screen is "d".
    ///
    /// dio.patched("a", record! { "id" => "a" })?;
    /// assert_eq!(view.snapshot().locate(&top), 2); // The list scrolls by one, and "d" stays where it was on the screen.
    /// dio.cache().remove("d")?;
    /// assert_eq!(view.snapshot().locate(&top), 2); // Where it stood is now "f".
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn anchor(&self, index: usize) -> Option<Anchor> {
        let entry = self.root().tree.get(index)?.clone();
        let id = Arc::from(self.row(index)?.enriched().ok()?.id());
        Some(Anchor { id, entry, index, query: self.root().query.clone() })
    }

    /// Where an anchored row stands here: O(log n). A row that is not here any more (or can't be sought, because the Dio is
    /// closed) gives the position where it stood, that of the row which followed it; if the view is sorted otherwise since
    /// then, the position it had. At the most [`row_count`](Self::row_count). Reads memory, and the cache for a row that is
    /// not in it.
    pub fn locate(&self, anchor: &Anchor) -> usize {
        let tree = &self.root().tree;
        let by_entry = self.root().query.orders_like(&anchor.query).then(|| tree.find(&anchor.entry));
        if let Some(Ok(index)) = by_entry {
            return index;
        }
        match (self.position_of(&anchor.id), by_entry) {
            (Ok(Some(index)), _) | (_, Some(Err(index))) => index,
            _ => anchor.index.min(tree.len()),
        }
    }

    /// The position that a row with these fields would take if it came in now: O(log n), and reads no rows. Among rows that
    /// sort alike it comes last. Whether the view's conditions let it in is not asked.
    ///
    /// ```
    /// use diorama::prelude::*;
    ///
    /// let rows = [10, 20, 30].map(|n| (n.to_string(), record! { "id" => n.to_string(), "points" => n }));
    /// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("players", "id").with_rows(rows))?;
    /// let best = dio.table_scenery().sort("points", SortDir::Desc).open()?.snapshot();
    /// assert_eq!(best.rank(&record! { "points" => 25 }), 1);
    /// assert_eq!(best.rank(&record! { "points" => 20 }), 2);
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn rank(&self, record: &Record) -> usize {
        let row = StoredRow::encode("", record, 0);
        let last_of_its_kind = self.root().query.entry(RowNo(u64::MAX), &row, &mut Vec::new());
        match self.root().tree.find(&last_of_its_kind) {
            Ok(index) | Err(index) => index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TableScenery;
    use crate::prelude::{Dio, Lens, MemoryVista, SortDir};
    use crate::record;
    use crate::scenery::index::tree::visits;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What a view sorted by `n` shows: by the value, then by arrival.
    fn in_order(rows: &BTreeMap<String, (i64, u64)>) -> Vec<(i64, u64, String)> {
        let mut order: Vec<_> = rows.iter().map(|(id, (n, arrived))| (*n, *arrived, id.clone())).collect();
        order.sort();
        order
    }

    fn opened(ids: impl Iterator<Item = u64>) -> (Lens, Dio, TableScenery) {
        let lens = Lens::new().in_memory().build().unwrap();
        let rows = ids.map(|n| (n.to_string(), record! { "id" => n.to_string(), "n" => n * 10 }));
        let dio = lens.make_dio(MemoryVista::new("t", "id").with_rows(rows)).unwrap();
        let view = dio.table_scenery().sort("n", SortDir::Asc).open().unwrap();
        (lens, dio, view)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

        #[test]
        fn an_anchor_finds_its_row_or_where_it_stood(
            steps in prop::collection::vec((0..12_u8, prop::option::of(0..6_i64), any::<prop::sample::Index>()), 1..40),
        ) {
            let (_lens, dio, view) = opened(0..0);
            let mut rows: BTreeMap<String, (i64, u64)> = BTreeMap::new();
            let mut anchors: Vec<(Anchor, (i64, u64, String))> = Vec::new();
            for (at, (id, n, index)) in steps.into_iter().enumerate() {
                let id = id.to_string();
                match n {
                    Some(n) => {
                        dio.cache().insert(id.as_str(), record! { "id" => id.clone(), "n" => n }).unwrap();
                        rows.entry(id).or_insert((n, at as u64)).0 = n;
                    }
                    None => {
                        dio.cache().remove(id.as_str()).unwrap();
                        rows.remove(&id);
                    }
                }
                let (snapshot, order) = (view.snapshot(), in_order(&rows));
                for (anchor, stood) in &anchors {
                    let here = order.iter().position(|row| row.2 == stood.2);
                    let expected = here.unwrap_or_else(|| order.partition_point(|row| row < stood));
                    prop_assert_eq!(snapshot.locate(anchor), expected, "{:?} in {:?}", stood, order);
                }
                for n in -1..7 {
                    let expected = order.partition_point(|row| row.0 <= n);
                    prop_assert_eq!(snapshot.rank(&record! { "n" => n }), expected, "{} in {:?}", n, order);
                }
                prop_assert!(snapshot.anchor(order.len()).is_none());
                if !order.is_empty() {
                    let index = index.index(order.len());
                    let anchor = snapshot.anchor(index).unwrap();
                    prop_assert_eq!((anchor.id(), anchor.index()), (&*order[index].2, index));
                    anchors.push((anchor, order[index].clone()));
                }
            }
        }
    }

    #[test]
    fn an_anchor_outlives_another_sort_and_the_dio() {
        let (lens, dio, view) = opened(0..10);
        let anchors: Vec<Anchor> = (0..10).map(|index| view.snapshot().anchor(index).unwrap()).collect();
        view.set_sort([crate::vista::SortBy::desc("n")]).unwrap();
        view.wait_until_ready(None).unwrap();
        assert_eq!(
            anchors.iter().map(|anchor| view.snapshot().locate(anchor)).collect::<Vec<_>>(),
            [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
        );
        for gone in 2..10 {
            dio.cache().remove(gone.to_string()).unwrap();
        }
        let places: Vec<usize> = anchors.iter().map(|anchor| view.snapshot().locate(anchor)).collect();
        assert_eq!(places, [1, 0, 2, 2, 2, 2, 2, 2, 2, 2], "the position it had, at the most the end");
        lens.close(std::time::Duration::from_secs(30)).unwrap();
        assert!(view.snapshot().locate(&anchors[9]) <= 2);
    }

    #[test]
    fn anchors_and_ranks_look_at_few_nodes() {
        let (_lens, dio, view) = opened(0..20_000);
        let anchor = view.snapshot().anchor(10_000).unwrap();
        dio.cache().insert("10000", record! { "id" => "10000", "n" => 15 }).unwrap();
        let moved = view.snapshot();
        dio.cache().remove("10000").unwrap();
        let gone = view.snapshot();
        visits::take();
        assert_eq!(moved.locate(&anchor), 2);
        assert_eq!(gone.locate(&anchor), 10_000);
        assert_eq!(gone.rank(&record! { "n" => 12 }), 2);
        assert!(gone.anchor(5_000).is_some());
        assert!(visits::take() < 60);
    }
}
