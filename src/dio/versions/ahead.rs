//! Ahead: what the cache's table says of rows that are about to be changed, asked for many at once, which takes a part of the
//! time that it takes one after the other.
//!
//! Owner: the core.
//! Invariants: memory is asked before the table, and again before the answer counts. Only the core adds versions, so what the
//! table says of a row that memory doesn't know stays true until the core changes it, which memory tells then
//! (`every_pin_sees_the_state_of_its_seq_and_nothing_stays_behind`).

use crate::dio::versions::{NEWEST, RowRead, Version, Versions};
use crate::value::StoredRow;
use crate::{Result, RowNo};

/// What the table says of one id, for as long as nothing is published; by default nothing is known.
#[derive(Default)]
pub(crate) struct Ahead {
    /// The row that it names, if it names one.
    named: Option<Option<RowNo>>,
    stored: Option<StoredRow>,
}

fn is_newest(version: &Version) -> bool {
    version.covers(NEWEST)
}

impl Versions {
    /// Looks for the rows of these ids, as far as they are not in memory. What can't be read is to be asked for anew.
    pub(crate) fn look_ahead<'a>(&self, ids: impl Iterator<Item = Option<&'a str>>) -> Vec<Ahead> {
        let mut ahead = Vec::new();
        let (mut places, mut asked) = (Vec::new(), Vec::new());
        for id in ids {
            if let Some(id) = id.filter(|id| self.meaning_in_memory(id, NEWEST).is_none()) {
                places.push(ahead.len());
                asked.push(id);
            }
            ahead.push(Ahead::default());
        }
        let Ok(named) = self.read_table(|table| table.lookup_all(&asked)) else { return ahead };
        let mut rows = Vec::with_capacity(named.len());
        let mut places_of_rows = Vec::with_capacity(named.len());
        for (place, named) in places.into_iter().zip(named) {
            ahead[place].named = Some(named);
            if let Some(row) = named.filter(|row| self.in_memory(*row, is_newest).is_none()) {
                places_of_rows.push(place);
                rows.push(row);
            }
        }
        let Ok(stored) = self.read_table(|table| table.get_all(&rows)) else { return ahead };
        for (place, bytes) in places_of_rows.into_iter().zip(stored) {
            ahead[place].stored = bytes.and_then(|bytes| StoredRow::from_arc(bytes).ok());
        }
        ahead
    }

    /// The row that an id names now and its newest version, published or not: for the core alone.
    pub(crate) fn find_newest(&self, id: &str, ahead: Ahead) -> Result<Option<(RowNo, StoredRow)>> {
        let named = match ahead.named {
            Some(named) => self.meaning_in_memory(id, NEWEST).map_or(named, |meaning| meaning.row),
            None => self.lookup_newest(id)?,
        };
        let Some(row) = named else { return Ok(None) };
        let stored = match ahead.stored.filter(|_| ahead.named == Some(Some(row))) {
            Some(stored) => match self.in_memory(row, is_newest) {
                Some(RowRead::Found(newer)) => Some(newer),
                Some(RowRead::Absent | RowRead::Expired) => None,
                None => Some(stored),
            },
            None => self.row_newest(row)?,
        };
        Ok(stored.map(|stored| (row, stored)))
    }
}
