//! Mirror: a plain list that is kept in step with a table view, row by row.
//!
//! Owner: whoever made it; nothing happens to it between two updates.
//! Invariants: after an update it holds what a fresh one would, with a call of the closure for each changed row only
//! (`a_mirror_makes_only_the_rows_that_changed`); a closure that panics leaves it as it was.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::scenery::changes::change_list;
use crate::scenery::index::diff::{Delta, diff};
use crate::scenery::signal::Scenery;
use crate::scenery::snapshot::{Root, Row, TableSnapshot};
use crate::scenery::table::{Changes, TableScenery};
use crate::{Generation, Seq};

/// A plain list with something for each row of a view, such as the line that a widget shows: the view's order, kept in step
/// with it. It dereferences to a slice.
///
/// An update calls the closure for the rows that are new or have changed, and for no others; a list of other rows than before
/// (another sort, search or condition, or rows that all became stale) is made anew. Between two updates the list stays as it
/// is. It holds the view open, but pins no row.
///
/// ```
/// use diorama::prelude::*;
/// use diorama::VecMirror;
///
/// let rows = [("a", record! { "name" => "Anvil" }), ("b", record! { "name" => "Bell" })];
/// let dio = Lens::new().in_memory().build()?.make_dio(MemoryVista::new("things", "id").with_rows(rows))?;
/// let view = dio.table_scenery().sort("name", SortDir::Asc).open()?;
///
/// let mut lines = VecMirror::new(&view, |row| format!("{}: {}", row.id(), row.text("name").unwrap_or("?")));
/// assert_eq!(lines[..], ["a: Anvil", "b: Bell"]);
///
/// dio.patched("c", record! { "name" => "Axe" })?;
/// assert_eq!(lines.update(), Changes::List(vec![Change::Insert { index: 1 }]));
/// assert_eq!(lines[..], ["a: Anvil", "c: Axe", "b: Bell"]);
/// # Ok::<(), diorama::Error>(())
/// ```
pub struct VecMirror<T> {
    view: TableScenery,
    root: Arc<Root>,
    rows: Vec<T>,
    make: Box<dyn FnMut(&Row) -> T + Send>,
}

impl<T> VecMirror<T> {
    /// A mirror that is in step with the view now. `make` is called for every row, in order; a row that can't be read any
    /// more is given too and says so in its [`status`](Row::status).
    pub fn new(view: &TableScenery, mut make: impl FnMut(&Row) -> T + Send + 'static) -> Self {
        let snapshot = view.snapshot();
        let rows = snapshot.iter().map(|row| make(&row)).collect();
        VecMirror { view: view.clone(), root: snapshot.root().clone(), rows, make: Box::new(make) }
    }

    /// Brings the list into step with the view, and gives back what that changed: steps for a widget that shows the list.
    /// Reads the changed rows, from memory or the cache's map. Nothing new costs one atomic load.
    pub fn update(&mut self) -> Changes {
        if self.view.generation() == self.root.generation {
            return Changes::List(Vec::new());
        }
        let snapshot = self.view.snapshot();
        let root = snapshot.root().clone();
        let changes = if root.epoch == self.root.epoch {
            self.take_over(&snapshot);
            Changes::of_list(change_list(&self.root.tree, &root.tree), root.tree.len())
        } else {
            self.rows = snapshot.iter().map(|row| (self.make)(&row)).collect();
            Changes::Reset
        };
        self.root = root;
        changes
    }

    fn take_over(&mut self, snapshot: &TableSnapshot) {
        let mut old_gone = Vec::new();
        let mut new_here = Vec::new();
        let mut shifts = false;
        diff(&self.root.tree, &snapshot.root().tree, &mut |delta| match delta {
            Delta::Removed { old_index, .. } => {
                shifts = true;
                old_gone.push(old_index);
            }
            Delta::Inserted { new_index, .. } => {
                shifts = true;
                new_here.push(new_index);
            }
            Delta::Updated { old_index, new_index, .. } => {
                old_gone.push(old_index);
                new_here.push(new_index);
            }
        });
        // All calls of the closure come first: what follows can't fail half way.
        let make = &mut self.make;
        let made = new_here.iter().filter_map(|&index| snapshot.row(index).map(|row| (index, make(&row))));
        let mut made = made.collect::<Vec<_>>().into_iter().peekable();
        if !shifts {
            for (index, row) in made {
                self.rows[index] = row;
            }
            return;
        }
        let firsts = old_gone.first().into_iter().chain(new_here.first());
        let Some(first) = firsts.min().copied() else { return };
        let mut old_gone = old_gone.into_iter().peekable();
        let tail = self.rows.split_off(first);
        let kept = tail.into_iter().enumerate().filter(|(at, _)| old_gone.next_if_eq(&(first + at)).is_none());
        for (_, row) in kept {
            while let Some((_, row)) = made.next_if(|(index, _)| *index == self.rows.len()) {
                self.rows.push(row);
            }
            self.rows.push(row);
        }
        self.rows.extend(made.map(|(_, row)| row));
    }

    /// The view that it mirrors.
    pub fn view(&self) -> &TableScenery {
        &self.view
    }

    /// The generation of the view that the list shows.
    pub fn generation(&self) -> Generation {
        self.root.generation
    }

    /// The Seq at which the view looked like the list.
    pub fn seq(&self) -> Seq {
        self.root.seq
    }

    /// The list itself; the mirror ends.
    pub fn into_rows(self) -> Vec<T> {
        self.rows
    }
}

impl<T> Deref for VecMirror<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.rows
    }
}

impl<T: fmt::Debug> fmt::Debug for VecMirror<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VecMirror").field("generation", &self.generation()).field("rows", &self.rows).finish()
    }
}
