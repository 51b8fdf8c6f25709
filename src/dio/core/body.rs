//! Body: what a view is made of, an order or an aggregate, built by a scan once and then kept in step change by change.
//!
//! Owner: the core; a build thread makes new ones from a pinned scan.
//! Invariants: a body equals a full filter-and-sort (or a full recompute) of the rows at its Seq.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::dio::core::{Changed, ChangedRow};
use crate::dio::versions::{Pin, RowSet, Versions};
use crate::lens::Pool;
use crate::scenery::accumulator::{Accumulator, BuiltIn};
use crate::scenery::index::diff::count_differences;
use crate::scenery::index::key::{Entry, Sorted, reversed};
use crate::scenery::index::tree::{Item, Tree};
use crate::scenery::view_query::ViewQuery;
use crate::sync::{Pieces, Rank};
use crate::value::StoredRef;
use crate::vista::CancelToken;
use crate::{Error, ErrorKind, Result, RowNo};

/// A list that holds every row gets the room for so many at once, whatever the table says that it has.
const RESERVED: usize = 1 << 22;
/// A build looks so often whether it is still wanted: within a tenth of a millisecond.
const ROWS_BETWEEN_LOOKS: usize = 512;

/// Changed rows that a finished build leaves to the core, which takes them in within a tenth of a millisecond.
const LITTLE: usize = 64;
/// How often a finished build looks for changes at the most.
const ROUNDS: usize = 32;

/// Entries whose room is kept from one batch for the next.
const ENTRIES_KEPT: usize = 2_048;

/// Parts of a scan that is shared.
const PARTS: usize = 16;
/// Rows of a list that are read in one piece: more are shared.
const ROWS_OF_PIECE: usize = if cfg!(test) { 64 } else { 2_048 };
/// Rows that are shown before the rest of a large list is there.
const FIRST_ROWS: usize = if cfg!(test) { 8 } else { 256 };
/// Rows of a list in the right order that are looked at for them: some milliseconds' work.
const FIRST_LOOKS: usize = if cfg!(test) { 64 } else { 16_384 };
/// Rows from which on making a list takes tens of milliseconds.
pub(crate) const LARGE: usize = if cfg!(test) { 256 } else { 65_536 };

/// What is to be built.
#[derive(Debug, Clone)]
pub(crate) enum BodyKind {
    Table,
    Value(BuiltIn),
}

#[derive(Clone)]
pub(crate) enum Body {
    Table(Tree<Entry>),
    Value(Accumulator),
}

/// Where the rows of a new body come from.
#[derive(Clone)]
pub(crate) enum Rows {
    /// The whole table.
    Table,
    /// A ready list of the same rows, sorted by one column the other way.
    Reverse(Tree<Entry>),
    /// A ready list that holds every row that matches, and others.
    Among(Tree<Entry>, IsOrdered),
}

/// Whether a list is in the order of the query.
type IsOrdered = bool;

/// What a body is built from.
pub(crate) struct Ground {
    pub(crate) rows: Rows,
    /// A ready list in the order of the query that holds every row that matches.
    pub(crate) ordered: Option<Tree<Entry>>,
    /// Whether its building takes so long that the first rows are worth showing before.
    pub(crate) is_large: bool,
    /// Who shares the reading of many rows.
    pub(crate) helper: (Arc<Pool>, Rank),
    /// Row numbers end here.
    pub(crate) rows_upto: u64,
}

/// Room that changes of one body after the other use.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) key: Vec<u8>,
    removes: Vec<Entry>,
    inserts: Vec<Entry>,
}

impl Body {
    pub(crate) fn empty(kind: &BodyKind) -> Self {
        match kind {
            BodyKind::Table => Body::Table(Tree::new()),
            BodyKind::Value(aggregate) => Body::Value(Accumulator::new(aggregate)),
        }
    }

    /// Builds it from the rows as of the pin; ready lists are as of the pin too. On a build thread. `show_first` gets the
    /// first entries of a large list before the rest is there.
    pub(crate) fn build(
        kind: &BodyKind,
        query: &Arc<ViewQuery>,
        ground: &Ground,
        pin: &Arc<Pin>,
        cancel: &CancelToken,
        show_first: &mut dyn FnMut(First),
    ) -> Result<Self> {
        check(cancel)?;
        let versions = pin.versions();
        match kind {
            BodyKind::Table => Ok(Body::Table(build_table(query, ground, pin, cancel, show_first)?)),
            BodyKind::Value(aggregate) => {
                let mut accumulator = Accumulator::new(aggregate);
                scan(versions, pin, cancel, |_, row| {
                    if query.matches_fields(row.fields()) {
                        accumulator.add(row.fields());
                    }
                })?;
                accumulator.settle();
                Ok(Body::Value(accumulator))
            }
        }
    }

    /// How many entries another state of it differs by; `None` for an aggregate.
    pub(crate) fn count_differences(&self, other: &Body) -> Option<usize> {
        match (self, other) {
            (Body::Table(old), Body::Table(new)) => Some(count_differences(old, new)),
            _ => None,
        }
    }

    /// Takes in rows of a batch: first what was, then what is. Gives back how many entries changed.
    pub(crate) fn apply<'a>(
        &mut self,
        query: &ViewQuery,
        rows: impl Iterator<Item = ChangedRow<'a>>,
        scratch: &mut Scratch,
    ) -> usize {
        match self {
            Body::Table(tree) => apply_to_tree(tree, query, rows, scratch),
            Body::Value(accumulator) => {
                let mut changed = 0;
                for (_, before, after) in rows {
                    if let Some(before) = before.filter(|row| query.matches(row)) {
                        accumulator.remove(before.fields());
                        changed += 1;
                    }
                    if let Some(after) = after.filter(|row| query.matches(row)) {
                        accumulator.add(after.fields());
                        changed += 1;
                    }
                }
                accumulator.settle();
                changed
            }
        }
    }
}

/// The first entries of an order that is being made, kept in step with changes.
pub(crate) struct First {
    tree: Tree<Entry>,
    /// The last entry it was made with: what comes after it isn't known.
    last: Entry,
}

impl First {
    /// `None` without entries, which are sorted.
    fn new(entries: Vec<Entry>) -> Option<Self> {
        let last = entries.last()?.clone();
        Some(First { tree: Tree::from_sorted(entries), last })
    }

    pub(crate) fn tree(&self) -> &Tree<Entry> {
        &self.tree
    }

    /// Takes in a batch; says whether an entry changed.
    pub(crate) fn apply(&mut self, query: &ViewQuery, batch: &Changed, scratch: &mut Vec<u8>) -> bool {
        let mut moved = false;
        for (row_no, before, after) in batch.iter() {
            if let Some(before) = before.filter(|row| query.matches(row)) {
                moved |= self.tree.remove(&query.entry(row_no, before, scratch)).is_some();
            }
            if let Some(after) = after.filter(|row| query.matches(row)) {
                let entry = query.entry(row_no, after, scratch);
                if entry.order(&self.last) != Ordering::Greater {
                    self.tree.insert(entry);
                    moved = true;
                }
            }
        }
        moved
    }
}

/// The smallest entries seen so far.
struct Smallest {
    entries: Vec<Entry>,
    /// No entry behind this one is among them.
    bound: Option<Entry>,
}

impl Smallest {
    fn new() -> Self {
        Smallest { entries: Vec::with_capacity(2 * FIRST_ROWS), bound: None }
    }

    #[inline]
    fn add(&mut self, entry: &Entry) {
        if self.bound.as_ref().is_some_and(|bound| entry.order(bound) == Ordering::Greater) {
            return;
        }
        self.entries.push(entry.clone());
        if self.entries.len() == 2 * FIRST_ROWS {
            let (_, last, _) = self.entries.select_nth_unstable_by(FIRST_ROWS - 1, Item::order);
            self.bound = Some(last.clone());
            self.entries.truncate(FIRST_ROWS);
        }
    }

    fn sorted(mut self) -> Vec<Entry> {
        self.entries.sort_unstable_by(Item::order);
        self.entries.truncate(FIRST_ROWS);
        self.entries
    }
}

/// What changes while a body is being built: the core adds, the build takes it in, and the core the little that is left.
#[derive(Default)]
pub(crate) struct Recorded(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    batches: Vec<Arc<Changed>>,
    rows: usize,
    /// Batches that were taken in.
    taken: usize,
}

impl Waiting {
    fn take(&mut self) -> Vec<Arc<Changed>> {
        self.rows = 0;
        self.taken += self.batches.len();
        std::mem::take(&mut self.batches)
    }
}

impl Recorded {
    /// Adds a batch; gives back how many rows wait.
    pub(crate) fn add(&self, batch: Arc<Changed>) -> usize {
        let mut waiting = self.0.lock();
        waiting.rows += batch.len();
        waiting.batches.push(batch);
        waiting.rows
    }

    /// Everything that waits.
    pub(crate) fn take(&self) -> Vec<Arc<Changed>> {
        self.0.lock().take()
    }

    /// The batches from the `from`th on, which stay; `None` when some of them are gone.
    pub(crate) fn since(&self, from: usize) -> Option<Vec<Arc<Changed>>> {
        let waiting = self.0.lock();
        Some(waiting.batches.get(from.checked_sub(waiting.taken)?..)?.to_vec())
    }

    /// Takes what waits into the body until little is left, or it grows faster than it can be taken in.
    pub(crate) fn take_into(&self, mut body: Body, query: &ViewQuery, cancel: &CancelToken) -> Body {
        let mut scratch = Scratch::default();
        for _ in 0..ROUNDS {
            let batches = match self.0.lock() {
                waiting if waiting.rows <= LITTLE || cancel.is_cancelled() => return body,
                mut waiting => waiting.take(),
            };
            for batch in batches {
                body.apply(query, batch.iter(), &mut scratch);
            }
        }
        body
    }
}

fn build_table(
    query: &Arc<ViewQuery>,
    ground: &Ground,
    pin: &Arc<Pin>,
    cancel: &CancelToken,
    show_first: &mut dyn FnMut(First),
) -> Result<Tree<Entry>> {
    let versions = pin.versions();
    let mut scratch = Vec::new();
    let mut lists = Vec::new();
    let mut entries = Vec::new();
    let mut shows_first = ground.is_large;
    if let Some(ordered) = &ground.ordered {
        let (found, all) = first_of(ordered, query, pin, cancel)?;
        if all {
            return Ok(Tree::from_sorted(found));
        }
        shows_first &= found.is_empty();
        First::new(found).map(&mut *show_first);
    }
    let mut smallest = Smallest::new();
    match &ground.rows {
        Rows::Reverse(list) => return Ok(reversed(list)),
        Rows::Table if ground.is_large => {
            (lists, smallest) = entries_in_parts(query, ground, pin, cancel, shows_first)?;
        }
        Rows::Table => {
            if query.matches_all() {
                // What memory alone holds is a small part, or a first load.
                entries.reserve(versions.stored_rows().min(RESERVED));
            }
            scan(versions, pin, cancel, |row_no, row| {
                if let Some(entry) = query.entry_in_place(row_no, row, &mut scratch) {
                    if shows_first {
                        smallest.add(&entry);
                    }
                    entries.push(entry);
                }
            })?;
        }
        Rows::Among(list, true) => return narrowed(list, query, ground, pin, cancel),
        Rows::Among(list, false) => {
            shows_first = false;
            let query = query.clone();
            let take = move |(entries, scratch): &mut (Vec<Entry>, Vec<u8>), row_no, row: StoredRef<'_>| {
                entries.extend(query.entry_in_place(row_no, row, scratch));
            };
            lists = read_in_pieces(list, ground, pin, cancel, take)?.into_iter().map(|(entries, _)| entries).collect();
        }
    }
    lists.push(entries);
    if shows_first && lists.iter().map(Vec::len).sum::<usize>() >= LARGE {
        First::new(smallest.sorted()).map(&mut *show_first);
    }
    let sorted = Sorted::of(lists);
    check(cancel)?;
    Ok(Tree::from_sorted(sorted))
}

/// The entries of all rows that match, and the smallest of them if `shows_first`, from a scan that a helper shares.
fn entries_in_parts(
    query: &Arc<ViewQuery>,
    ground: &Ground,
    pin: &Arc<Pin>,
    cancel: &CancelToken,
    shows_first: bool,
) -> Result<(Vec<Vec<Entry>>, Smallest)> {
    let scan = Arc::new(pin.versions().begin_scan(pin, PARTS, ground.rows_upto));
    let part = {
        let (scan, query, pin, cancel) = (scan.clone(), query.clone(), pin.clone(), cancel.clone());
        let rows_of_part = usize::try_from(ground.rows_upto / PARTS as u64).unwrap_or(0).min(RESERVED);
        move |number: usize| {
            let mut part = Part::new(query.clone(), shows_first);
            if query.matches_all() {
                part.entries.reserve(rows_of_part);
            }
            let mut looks = 0_usize;
            let met = pin.versions().scan_part(&scan, number, &mut |row_no, row| {
                looks += 1;
                if looks.is_multiple_of(ROWS_BETWEEN_LOOKS) && cancel.is_cancelled() {
                    return ControlFlow::Break(());
                }
                part.take(row_no, row);
                ControlFlow::Continue(())
            })?;
            check(&cancel)?;
            Ok((part, met.unwrap_or_default()))
        }
    };
    let pieces = Pieces::new(PARTS, part);
    ask_for_help(&pieces, ground);
    let (mut parts, met): (Vec<Part>, Vec<RowSet>) = pieces.finish()?.into_iter().unzip();
    let mut rest = Part::new(query.clone(), shows_first);
    pin.versions().scan_rest(&scan, &met, &mut |row_no, row| {
        rest.take(row_no, row);
        ControlFlow::Continue(())
    })?;
    parts.push(rest);
    let mut smallest = Smallest::new();
    parts.iter().flat_map(|part| &part.smallest.entries).for_each(|entry| smallest.add(entry));
    Ok((parts.into_iter().map(|part| part.entries).collect(), smallest))
}

/// What of a list in the order of the query matches: its entries stay as they are, since it is as of the pin, too.
fn narrowed(
    list: &Tree<Entry>,
    query: &Arc<ViewQuery>,
    ground: &Ground,
    pin: &Arc<Pin>,
    cancel: &CancelToken,
) -> Result<Tree<Entry>> {
    let query = query.clone();
    let take = move |found: &mut Vec<RowNo>, row_no, row: StoredRef<'_>| {
        if query.matches_fields(row.fields()) {
            found.push(row_no);
        }
    };
    let mut matching = RowSet::default();
    for row in read_in_pieces(list, ground, pin, cancel, take)?.into_iter().flatten() {
        matching.insert(row);
    }
    Ok(Tree::from_sorted(list.iter().filter(|entry| matching.contains(entry.row)).cloned()))
}

/// Reads the rows of a list where they lie, by their numbers, so that neighbours are read together; a helper shares many.
/// Gives back what `take` made of each piece.
fn read_in_pieces<T: Default + Send + 'static>(
    list: &Tree<Entry>,
    ground: &Ground,
    pin: &Arc<Pin>,
    cancel: &CancelToken,
    take: impl Fn(&mut T, RowNo, StoredRef<'_>) + Send + Sync + 'static,
) -> Result<Vec<T>> {
    let mut rows = RowSet::default();
    list.iter().for_each(|entry| rows.insert(entry.row));
    let rows: Vec<RowNo> = rows.iter().collect();
    let count = rows.len().div_ceil(ROWS_OF_PIECE);
    let piece = {
        let (pin, cancel) = (pin.clone(), cancel.clone());
        move |number: usize| {
            let rows = &rows[number * ROWS_OF_PIECE..rows.len().min((number + 1) * ROWS_OF_PIECE)];
            let mut found = T::default();
            for rows in rows.chunks(ROWS_BETWEEN_LOOKS) {
                pin.versions().read_in_place(&pin, rows, &mut |row_no, row| take(&mut found, row_no, row))?;
                check(&cancel)?;
            }
            Ok(found)
        }
    };
    let pieces = Pieces::new(count, piece);
    if count > 1 {
        ask_for_help(&pieces, ground);
    }
    pieces.finish()
}

fn ask_for_help<T: Send + 'static>(pieces: &Arc<Pieces<T>>, ground: &Ground) {
    let (pool, rank) = &ground.helper;
    let help = pieces.clone();
    // No helper, no harm.
    let _ = pool.submit(*rank, Box::new(move || help.help()));
}

/// What one part of a scan found.
struct Part {
    query: Arc<ViewQuery>,
    scratch: Vec<u8>,
    entries: Vec<Entry>,
    smallest: Smallest,
    shows_first: bool,
}

impl Part {
    fn new(query: Arc<ViewQuery>, shows_first: bool) -> Self {
        Part { query, scratch: Vec::new(), entries: Vec::new(), smallest: Smallest::new(), shows_first }
    }

    #[inline]
    fn take(&mut self, row_no: RowNo, row: StoredRef<'_>) {
        if let Some(entry) = self.query.entry_in_place(row_no, row, &mut self.scratch) {
            if self.shows_first {
                self.smallest.add(&entry);
            }
            self.entries.push(entry);
        }
    }
}

/// The first entries of a query, from a ready list in its order that holds every row that matches; says whether these are
/// all. It gives up after so many rows: then there may be fewer than wanted.
fn first_of(list: &Tree<Entry>, query: &ViewQuery, pin: &Pin, cancel: &CancelToken) -> Result<(Vec<Entry>, bool)> {
    let mut scratch = Vec::new();
    let mut found = Vec::new();
    let mut list = list.iter();
    let mut looked = 0;
    while found.len() < FIRST_ROWS && looked < FIRST_LOOKS {
        let rows: Vec<RowNo> = list.by_ref().take(ROWS_BETWEEN_LOOKS).map(|entry| entry.row).collect();
        if rows.is_empty() {
            return Ok((found, true));
        }
        looked += rows.len();
        let each = &mut |row_no, row: StoredRef<'_>| found.extend(query.entry_in_place(row_no, row, &mut scratch));
        pin.versions().read_in_place(pin, &rows, each)?;
        check(cancel)?;
    }
    Ok((found, false))
}

/// Calls `each` with every row as of the pin, until the view wants something else.
fn scan(
    versions: &Versions,
    pin: &Pin,
    cancel: &CancelToken,
    mut each: impl FnMut(RowNo, StoredRef<'_>),
) -> Result<()> {
    let mut rows = 0_usize;
    versions.scan_in_place(pin, &mut |row_no, row| {
        rows += 1;
        if rows.is_multiple_of(ROWS_BETWEEN_LOOKS) && cancel.is_cancelled() {
            return ControlFlow::Break(());
        }
        each(row_no, row);
        ControlFlow::Continue(())
    })?;
    check(cancel)
}

fn check(cancel: &CancelToken) -> Result<()> {
    if cancel.is_cancelled() {
        return Err(Error::new(ErrorKind::Cancelled, "the view's query was replaced while it was being built"));
    }
    Ok(())
}

fn apply_to_tree<'a>(
    tree: &mut Tree<Entry>,
    query: &ViewQuery,
    rows: impl Iterator<Item = ChangedRow<'a>>,
    scratch: &mut Scratch,
) -> usize {
    let Scratch { key, removes, inserts } = scratch;
    for (row_no, before, after) in rows {
        if let Some(before) = before.filter(|row| query.matches(row)) {
            removes.push(query.entry(row_no, before, key));
        }
        if let Some(after) = after.filter(|row| query.matches(row)) {
            inserts.push(query.entry(row_no, after, key));
        }
    }
    removes.sort_unstable_by(Item::order);
    inserts.sort_unstable_by(Item::order);
    tree.merge_sorted(removes, inserts);
    let changed = removes.len().max(inserts.len());
    for entries in [removes, inserts] {
        entries.clear();
        entries.shrink_to(ENTRIES_KEPT);
    }
    changed
}

#[cfg(test)]
mod tests;
