//! Line: the writes of each row in their order, and which rows have one that may go.
//!
//! Invariants:
//! 1. A row's first write may go only while no write of that row is away.
//! 2. Each operation costs O(log n), `rename` that times the writes that move.
//!
//! Not here: barriers, pauses and what a write is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::WriteNumber;
use crate::clock::Moment;

/// Which writes keep their order among each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum RowKey {
    /// The row that has this id, or goes by it until the source has chosen one.
    Id(Arc<str>),
    /// All rows.
    Table,
}

/// Where a write of a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It may go when its turn comes: that of its own number, or of a later one.
    Ready(WriteNumber),
    /// It waits for this moment.
    Waiting(Moment),
    /// It is being delivered.
    Away,
}

#[derive(Debug, Default)]
struct Row {
    writes: Writes,
    away: usize,
    /// Where the row's first write is listed.
    listed: Option<Listed>,
}

/// The writes of a row in their order. Most rows have one at the most, which takes no memory of its own.
#[derive(Debug, Default)]
struct Writes {
    first: Option<(WriteNumber, Place)>,
    later: BTreeMap<WriteNumber, Place>,
}

#[derive(Debug, Clone, Copy)]
enum Listed {
    Ready(Turn),
    Waiting(Moment, WriteNumber),
}

/// The turn and the number of a write.
pub(super) type Turn = (WriteNumber, WriteNumber);

#[derive(Debug, Default)]
pub(super) struct Line {
    rows: HashMap<RowKey, Row>,
    /// First writes of rows that may go.
    ready: BTreeSet<Turn>,
    /// First writes of rows that wait for a moment.
    waiting: BTreeMap<(Moment, WriteNumber), RowKey>,
    /// How often a row was listed anew or looked into.
    #[cfg(test)]
    pub(super) steps: std::cell::Cell<u64>,
}

impl Line {
    pub(super) fn add(&mut self, row: &RowKey, number: WriteNumber, place: Place) {
        self.step();
        let found = self.rows.entry(row.clone()).or_default();
        found.writes.insert(number, place);
        found.away += usize::from(place == Place::Away);
        found.list(row, &mut self.ready, &mut self.waiting);
    }

    pub(super) fn remove(&mut self, row: &RowKey, number: WriteNumber) {
        self.step();
        let Entry::Occupied(mut entry) = self.rows.entry(row.clone()) else { return };
        let found = entry.get_mut();
        let Some(place) = found.writes.remove(number) else { return };
        found.away -= usize::from(place == Place::Away);
        found.list(row, &mut self.ready, &mut self.waiting);
        if found.writes.first.is_none() {
            entry.remove();
        }
    }

    pub(super) fn put(&mut self, row: &RowKey, number: WriteNumber, place: Place) {
        self.step();
        let Some(found) = self.rows.get_mut(row) else { return };
        let Some(held) = found.writes.get_mut(number) else { return };
        found.away -= usize::from(*held == Place::Away);
        found.away += usize::from(place == Place::Away);
        *held = place;
        found.list(row, &mut self.ready, &mut self.waiting);
    }

    pub(super) fn place(&self, row: &RowKey, number: WriteNumber) -> Option<Place> {
        self.rows.get(row)?.writes.get(number)
    }

    /// The write of this row that was accepted next after `number`.
    pub(super) fn after(&self, row: &RowKey, number: WriteNumber) -> Option<(WriteNumber, Place)> {
        self.step();
        self.rows.get(row)?.writes.after(number)
    }

    /// Whose turn it is among the rows' first writes that may go.
    pub(super) fn first_ready(&self) -> Option<Turn> {
        self.ready.first().copied()
    }

    /// When the next of the waiting ones may go.
    pub(super) fn first_waiting(&self) -> Option<Moment> {
        self.waiting.first_key_value().map(|((until, _), _)| *until)
    }

    /// Makes what waits for `now` or an earlier moment ready, for this turn.
    pub(super) fn wake(&mut self, now: Moment, turn: WriteNumber) {
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            let (number, row) = (first.key().1, first.get().clone());
            self.put(&row, number, Place::Ready(turn.max(number)));
        }
    }

    /// The writes of `old` become writes of `new`, each in its place in the order of acceptance. Returns them.
    pub(super) fn rename(&mut self, old: &RowKey, new: &RowKey) -> Vec<WriteNumber> {
        if old == new {
            return Vec::new();
        }
        let Some(mut from) = self.rows.remove(old) else { return Vec::new() };
        from.unlist(&mut self.ready, &mut self.waiting);
        let moved = from.writes.iter().map(|(number, _)| number).collect();
        self.step();
        let to = self.rows.entry(new.clone()).or_default();
        from.writes.iter().for_each(|(number, place)| to.writes.insert(number, place));
        to.away += from.away;
        to.list(new, &mut self.ready, &mut self.waiting);
        moved
    }

    fn step(&self) {
        #[cfg(test)]
        self.steps.set(self.steps.get() + 1);
    }
}

impl Row {
    /// Lists its first write anew.
    fn list(
        &mut self,
        key: &RowKey,
        ready: &mut BTreeSet<Turn>,
        waiting: &mut BTreeMap<(Moment, WriteNumber), RowKey>,
    ) {
        self.unlist(ready, waiting);
        let Some((number, place)) = self.writes.first.filter(|_| self.away == 0) else { return };
        self.listed = match place {
            Place::Ready(turn) => {
                ready.insert((turn, number));
                Some(Listed::Ready((turn, number)))
            }
            Place::Waiting(until) => {
                waiting.insert((until, number), key.clone());
                Some(Listed::Waiting(until, number))
            }
            Place::Away => None,
        };
    }

    fn unlist(&mut self, ready: &mut BTreeSet<Turn>, waiting: &mut BTreeMap<(Moment, WriteNumber), RowKey>) {
        match self.listed.take() {
            Some(Listed::Ready(turn)) => drop(ready.remove(&turn)),
            Some(Listed::Waiting(until, number)) => drop(waiting.remove(&(until, number))),
            None => {}
        }
    }
}

impl Writes {
    fn insert(&mut self, number: WriteNumber, place: Place) {
        match &mut self.first {
            None => self.first = Some((number, place)),
            Some(first) if first.0 == number => first.1 = place,
            Some(first) if first.0 > number => {
                let (first, place) = std::mem::replace(first, (number, place));
                self.later.insert(first, place);
            }
            Some(_) => drop(self.later.insert(number, place)),
        }
    }

    fn remove(&mut self, number: WriteNumber) -> Option<Place> {
        match self.first {
            Some((first, place)) if first == number => {
                self.first = self.later.pop_first();
                Some(place)
            }
            _ => self.later.remove(&number),
        }
    }

    fn get(&self, number: WriteNumber) -> Option<Place> {
        match self.first {
            Some((first, place)) if first == number => Some(place),
            _ => self.later.get(&number).copied(),
        }
    }

    fn get_mut(&mut self, number: WriteNumber) -> Option<&mut Place> {
        match &mut self.first {
            Some((first, place)) if *first == number => Some(place),
            _ => self.later.get_mut(&number),
        }
    }

    fn after(&self, number: WriteNumber) -> Option<(WriteNumber, Place)> {
        let first = self.first.filter(|(first, _)| *first > number);
        let next = || self.later.range((Excluded(number), Unbounded)).next().map(|(number, place)| (*number, *place));
        first.or_else(next)
    }

    fn iter(&self) -> impl Iterator<Item = (WriteNumber, Place)> {
        self.first.into_iter().chain(self.later.iter().map(|(number, place)| (*number, *place)))
    }
}
