//! Book: what the child said over all its lives, and whether it fits what it shows and what the source saw.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::child::FIRST_MARK;
use super::source::Effect;
use super::wire::{Mark, Report, ShownRow, Verb};

#[derive(Default)]
pub(crate) struct Book {
    keeps_keys: bool,
    intended: Vec<Mark>,
    next_mark: i64,
    accepted: BTreeMap<u64, Mark>,
    confirmed: HashMap<u64, Mark>,
    failed: HashMap<u64, (bool, String)>,
    superseded: HashMap<u64, u64>,
    /// Marks of writes that the storage took none of.
    refused: HashSet<i64>,
    /// The last confirmed write of each row.
    last: HashMap<i64, Mark>,
    /// The last confirmed write that deleted all rows.
    last_of_all: i64,
    /// What was shown last.
    pub(crate) shown: Vec<ShownRow>,
    pub(crate) rest: Option<(usize, usize, u64, bool)>,
    said: Vec<(usize, Report)>,
    /// Looks at what is shown, and pending writes seen there.
    pub(crate) looks: usize,
    pub(crate) seen_pending: usize,
}

fn mark_of(row: &ShownRow) -> i64 {
    row.fields.get("mark").copied().unwrap_or_default()
}

fn deletes(mark: &Mark) -> bool {
    matches!(mark.verb, Verb::Delete | Verb::DeleteAll)
}

impl Book {
    pub(crate) fn new(keeps_keys: bool) -> Self {
        Book { keeps_keys, ..Book::default() }
    }

    pub(crate) fn next_mark(&self) -> i64 {
        self.next_mark.max(FIRST_MARK)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// What the write of this number is, if it was accepted.
    #[allow(dead_code, reason = "only a journal whose end is torn off must know")]
    pub(crate) fn mark_of(&self, number: u64) -> Option<&Mark> {
        self.accepted.get(&number)
    }

    pub(crate) fn summary(&self) -> String {
        let unknown = self.failed.values().filter(|(may_be_done, _)| *may_be_done).count();
        format!(
            "{} accepted, {} confirmed, {} failed, {unknown} unknown, {} superseded, {} refused, {} looks, {} pending seen",
            self.accepted.len(),
            self.confirmed.len(),
            self.failed.len() - unknown,
            self.superseded.len(),
            self.refused.len(),
            self.looks,
            self.seen_pending,
        )
    }

    /// What was said of a row and of writes to all rows, for who has to understand a failure.
    fn history(&self, tag: i64) -> String {
        let mut history = String::new();
        for (look, report) in &self.said {
            let (what, mark, number) = match report {
                Report::Intends(mark) => ("intends", mark, None),
                Report::Accepted { mark, number } => ("accepted", mark, Some(*number)),
                Report::Confirmed { mark, number } => ("confirmed", mark, Some(*number)),
                Report::Refused(mark) => ("refused", mark, None),
                _ => continue,
            };
            if mark.tag == Some(tag) || (mark.tag.is_none() && mark.mark > tag) {
                let failed = number.and_then(|number| self.failed.get(&number).or(None));
                let superseded = number.and_then(|number| self.superseded.get(&number));
                let line = format!("life {look}: {what} {mark:?} {number:?} {failed:?} {superseded:?}\n");
                history.push_str(&line);
            }
        }
        history
    }

    pub(crate) fn note(&mut self, report: Report) {
        self.said.push((self.looks, report.clone()));
        match report {
            Report::Intends(mark) => {
                self.next_mark = self.next_mark.max(mark.mark + 1);
                self.intended.push(mark);
            }
            Report::Accepted { mark, number } => {
                let before = self.accepted.insert(number, mark);
                assert!(before.is_none(), "two accepted writes have the number {number}: {before:?} and {mark:?}");
            }
            Report::Confirmed { mark, number } => {
                self.confirmed.insert(number, mark);
                match mark.tag {
                    None => self.last_of_all = self.last_of_all.max(mark.mark),
                    Some(tag) => {
                        let last = self.last.entry(tag).or_insert(mark);
                        if last.mark < mark.mark {
                            *last = mark;
                        }
                    }
                }
            }
            Report::Failed { number, may_be_done, error } => {
                // Without a key, one whose confirmation the crash took is done again, and may find its row gone.
                let may_fail_again = |mark: &Mark| !self.keeps_keys && mark.is_named;
                let is_possible = self.confirmed.get(&number).is_none_or(may_fail_again);
                assert!(is_possible, "write {number} was confirmed, and failed: {error}");
                self.failed.insert(number, (may_be_done, error));
            }
            Report::Refused(mark) => drop(self.refused.insert(mark.mark)),
            Report::Superseded { number, by } => drop(self.superseded.insert(number, by)),
            Report::Shows { rows, pending } => {
                self.check_shown(&rows, &pending);
                self.shown = rows;
            }
            Report::Rests { pending, failed, kept, is_closed } => self.rest = Some((pending, failed, kept, is_closed)),
        }
    }

    fn check_shown(&mut self, rows: &[ShownRow], pending: &[(u64, Option<String>, Verb)]) {
        self.looks += 1;
        self.seen_pending += pending.len();
        let mut by_tag = HashMap::new();
        for row in rows {
            let tag = row.fields.get("tag").copied();
            // A row that a patch alone has made known here has no tag.
            let Some(tag) = tag else { continue };
            let Some(other) = by_tag.insert(tag, row) else { continue };
            // An insert whose answer the crash took may show beside the row that it made, until it is repeated.
            assert!(tag >= FIRST_MARK && (row.is_pending || other.is_pending), "shown twice: {row:?} and {other:?}");
            if mark_of(other) > mark_of(row) {
                by_tag.insert(tag, other);
            }
        }
        self.check_pending(rows, pending);
        if !self.keeps_keys {
            // A source without keys does again what a crash kept from being noted, and goes back meanwhile.
            return;
        }
        for (tag, last) in &self.last {
            let last_deletes = deletes(last) || self.last_of_all > last.mark;
            let confirmed = last.mark.max(self.last_of_all);
            match by_tag.get(tag).map(|row| mark_of(row)) {
                Some(shown) => assert!(
                    shown > confirmed || (!last_deletes && shown == confirmed),
                    "row {tag} shows {shown}, but {confirmed} was confirmed: {:?}\n{}",
                    by_tag.get(tag),
                    self.history(*tag),
                ),
                None => {
                    let may_be_gone = |mark: &Mark| {
                        deletes(mark) && mark.mark >= confirmed && mark.tag.is_none_or(|other| other == *tag)
                    };
                    let is_gone = last_deletes || self.intended.iter().any(may_be_gone);
                    assert!(is_gone, "row {tag} is not shown, but {confirmed} was confirmed\n{}", self.history(*tag));
                }
            }
        }
    }

    /// The last pending write of a row decides what it shows.
    fn check_pending(&self, rows: &[ShownRow], pending: &[(u64, Option<String>, Verb)]) {
        let by_id: HashMap<&str, &ShownRow> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
        let mut last: HashMap<&str, (u64, Verb)> = HashMap::new();
        let mut all = 0;
        for (number, id, verb) in pending {
            match id {
                Some(id) => {
                    let known = last.entry(id).or_insert((*number, *verb));
                    if known.0 < *number {
                        *known = (*number, *verb);
                    }
                }
                None => all = all.max(*number),
            }
        }
        for (id, (number, verb)) in last {
            let makes_a_row = matches!(verb, Verb::Insert | Verb::Upsert);
            if makes_a_row && number > all {
                let row = by_id.get(id).unwrap_or_else(|| panic!("the pending write {number} of {id} is not shown"));
                assert!(
                    row.is_pending,
                    "the pending write {number} of {id} does not show as pending: {row:?}\n{}",
                    self.history(row.fields.get("tag").copied().unwrap_or_default())
                );
            }
        }
    }

    /// Holds what the source saw to what was said.
    pub(crate) fn check_effects(&self, effects: &[Effect]) {
        let mut numbers: HashMap<u64, &str> = HashMap::new();
        let mut marks: HashMap<i64, usize> = HashMap::new();
        let mut keys = HashSet::new();
        for effect in effects {
            let is_first = keys.insert(effect.key.as_str());
            assert!(is_first || !self.keeps_keys, "two effects of one key: {effect:?}");
            if let Some(number) = number_of(effect)
                && let Some(other) = numbers.insert(number, &effect.key)
            {
                assert_eq!(other, effect.key, "two writes have the number {number}");
            }
            if let Some(mark) = effect.mark {
                let times = marks.entry(mark).or_default();
                *times += 1;
                let is_lost = effect.verb == Verb::Insert && !effect.is_named;
                assert!(*times == 1 || (!self.keeps_keys && !is_lost), "done {times} times: {effect:?}");
            }
        }
        let mut lost = Vec::new();
        for (number, mark) in &self.accepted {
            let is_done = match (mark.verb, mark.is_named) {
                (Verb::Insert, false) => marks.contains_key(&mark.mark),
                _ => numbers.contains_key(number),
            };
            let is_told = self.failed.contains_key(number)
                || self.superseded.contains_key(number)
                || effects.iter().any(|other| {
                    other.verb == Verb::DeleteAll && number_of(other).is_some_and(|other| other > *number)
                });
            if !is_done && !is_told {
                lost.push((*number, *mark));
            }
            if self.confirmed.contains_key(number) {
                assert!(is_done, "write {number} was confirmed, but the source never had it: {mark:?}");
            }
        }
        assert!(lost.is_empty(), "{} accepted writes are lost: {lost:?}", lost.len());
        if self.keeps_keys {
            self.check_order(effects);
        }
    }

    /// Writes are done in the order in which they were accepted, row by row, and all of them before or after a `delete_all`.
    fn check_order(&self, effects: &[Effect]) {
        let mut last: HashMap<&str, &Effect> = HashMap::new();
        let mut newest: Option<&Effect> = None;
        let mut all: Option<&Effect> = None;
        for effect in effects {
            let Some(number) = number_of(effect) else { continue };
            let before = match &effect.id {
                Some(id) => last.insert(id, effect),
                None => newest,
            };
            for earlier in before.into_iter().chain(all) {
                let is_late = number_of(earlier) >= Some(number);
                assert!(!is_late, "{effect:?} came after {earlier:?}\n{}", self.history(self.tag_of(effect)),);
            }
            if newest.and_then(number_of).is_none_or(|newest| newest < number) {
                newest = Some(effect);
            }
            if effect.id.is_none() {
                all = Some(effect);
            }
        }
    }

    /// The row of an effect, by its tag.
    fn tag_of(&self, effect: &Effect) -> i64 {
        let mark = self.intended.iter().find(|mark| Some(mark.mark) == effect.mark);
        mark.and_then(|mark| mark.tag).unwrap_or_default()
    }
}

/// The number of a write is the end of its key; an insert whose row the source names goes by another one.
fn number_of(effect: &Effect) -> Option<u64> {
    if effect.verb == Verb::Insert && !effect.is_named {
        return None;
    }
    effect.key.rsplit('-').next()?.parse().ok()
}
