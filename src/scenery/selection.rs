//! Selection: rows that a user has chosen, known by their ids, so that no change of a view loses or shifts them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::Result;
use crate::scenery::snapshot::TableSnapshot;

/// A set of chosen rows, kept by id: rows that come, go or move around them, another sort or search change nothing of it. A
/// row that is gone, or that the view doesn't show now, stays chosen until it is [dropped on request](Self::retain_in).
///
/// ```
/// use diorama::prelude::*;
/// use diorama::Selection;
///
/// let rows = ["a", "b", "c", "d"].map(|id| (id, record! { "id" => id }));
/// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("letters", "id").with_rows(rows))?;
/// let view = dio.table_scenery().sort("id", SortDir::Asc).open()?;
///
/// let mut chosen = Selection::new();
/// chosen.extend_range(&view.snapshot(), 1..3)?;
/// chosen.toggle("d");
/// view.set_sort([SortBy::desc("id")])?;
/// view.wait_until_ready(None)?;
/// assert_eq!(chosen.positions(&view.snapshot())?, [0, 1, 2]);
///
/// dio.cache().remove("c")?;
/// assert_eq!(chosen.retain_in(&view.snapshot())?, 1);
/// assert_eq!(chosen.ids().collect::<Vec<_>>(), ["b", "d"]);
/// # Ok::<(), diorama::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(BTreeSet<Arc<str>>);

impl Selection {
    /// Nothing chosen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether this row is chosen: O(log n).
    pub fn contains(&self, id: &str) -> bool {
        self.0.contains(id)
    }

    /// How many rows are chosen, those that no view shows now included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no row is chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The chosen ids, ascending by code point.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|id| &**id)
    }

    /// Chooses a row; says whether it was not chosen before. O(log n).
    pub fn insert(&mut self, id: &str) -> bool {
        !self.contains(id) && self.0.insert(Arc::from(id))
    }

    /// Chooses a row no longer; says whether it was chosen before. O(log n).
    pub fn remove(&mut self, id: &str) -> bool {
        self.0.remove(id)
    }

    /// Chooses a row that is not chosen, and a chosen one no longer; says whether it is chosen now. O(log n).
    pub fn toggle(&mut self, id: &str) -> bool {
        if self.remove(id) {
            return false;
        }
        self.insert(id)
    }

    /// Chooses no row.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Chooses the rows at these positions too, as far as there are any. Reads them: memory, and the cache for rows that are
    /// not in it.
    ///
    /// # Errors
    /// `Expired`, `Closed`, or why a row could not be read. The selection is then as it was.
    pub fn extend_range(&mut self, snapshot: &TableSnapshot, range: Range<usize>) -> Result<()> {
        let ids: Vec<Arc<str>> =
            snapshot.rows(range).map(|row| Ok(Arc::from(row.enriched()?.id()))).collect::<Result<_>>()?;
        self.0.extend(ids);
        Ok(())
    }

    /// Where the chosen rows stand, ascending; those that are not in the view have no position. O(log n) a chosen row.
    ///
    /// # Errors
    /// As [`TableSnapshot::position_of`].
    pub fn positions(&self, snapshot: &TableSnapshot) -> Result<Vec<usize>> {
        let mut positions = Vec::with_capacity(self.len());
        for id in &self.0 {
            positions.extend(snapshot.position_of(id)?);
        }
        positions.sort_unstable();
        Ok(positions)
    }

    /// Drops the rows that are not in the view; says how many. O(log n) a chosen row.
    ///
    /// # Errors
    /// As [`TableSnapshot::position_of`]. The selection is then as it was.
    pub fn retain_in(&mut self, snapshot: &TableSnapshot) -> Result<usize> {
        let mut kept = BTreeSet::new();
        for id in &self.0 {
            if snapshot.position_of(id)?.is_some() {
                kept.insert(id.clone());
            }
        }
        let dropped = self.len() - kept.len();
        self.0 = kept;
        Ok(dropped)
    }
}

impl<I: AsRef<str>> FromIterator<I> for Selection {
    fn from_iter<Ids: IntoIterator<Item = I>>(ids: Ids) -> Self {
        Selection(ids.into_iter().map(|id| Arc::from(id.as_ref())).collect())
    }
}
