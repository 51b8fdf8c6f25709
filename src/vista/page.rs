//! Page: some rows of a query, where the next ones begin, and how many there are in all.
//!
//! Invariants: a cursor that was made for something else, cut short or changed is an error, never another place
//! (`a_cursor_opens_as_it_was_sealed_and_in_no_other_way`).

use std::fmt;
use std::sync::Arc;

use crate::value::Record;
use crate::vista::QueryDescriptor;
use crate::{Error, ErrorKind, Result};

/// The form of what [`PageCursor::seal`] makes.
const VERSION: &str = "1";

/// Where a page ended: what [`TableShell::page`](crate::vista::TableShell::page) is handed to go on from there.
///
/// To everybody but its source it is a piece of text that means nothing: printable, to be kept, stored and sent as it is. It
/// stands for a place in an order, not for a number of rows, so it stays good while rows come and go, the row that it was
/// made at included.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageCursor(Arc<str>);

impl PageCursor {
    /// A cursor of this text, as [`as_str`](Self::as_str) gave it. Whether it is one, its source says.
    pub fn from_text(text: impl Into<Arc<str>>) -> Self {
        PageCursor(text.into())
    }

    /// The text, to be stored or sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For sources: a cursor around `place`, the bytes that the source finds the place by, good for `source_key` and `query`
    /// alone.
    ///
    /// The text has a version and a checksum, which catch accidents; it is neither secret nor safe from whoever sets out to
    /// forge one.
    ///
    /// ```
    /// use diorama::vista::{PageCursor, QueryDescriptor, SortDir};
    ///
    /// let by_name = QueryDescriptor::new().sorted("name", SortDir::Asc);
    /// let cursor = PageCursor::seal("shop:products", &by_name, b"after Anvil");
    /// assert_eq!(cursor.open("shop:products", &by_name)?, b"after Anvil");
    /// assert!(cursor.open("shop:products", &QueryDescriptor::new()).is_err());
    /// # Ok::<(), diorama::Error>(())
    /// ```
    pub fn seal(source_key: &str, query: &QueryDescriptor, place: &[u8]) -> Self {
        let hex: String = place.iter().map(|byte| format!("{byte:02x}")).collect();
        PageCursor(format!("{VERSION}-{:016x}-{hex}", checksum(source_key, query, place)).into())
    }

    /// For sources: the place that [`seal`](Self::seal) was given.
    ///
    /// # Errors
    /// `Invalid` for text that `seal` didn't make, or not in this version, or not for this source and query.
    pub fn open(&self, source_key: &str, query: &QueryDescriptor) -> Result<Vec<u8>> {
        let refused = |why: &str| {
            let message = format!("the page cursor {why}; ask for the first page again");
            Err(Error::new(ErrorKind::Invalid, message))
        };
        let mut parts = self.0.splitn(3, '-');
        let (version, sum, hex) = match (parts.next(), parts.next(), parts.next()) {
            (Some(version), Some(sum), Some(hex)) => (version, sum, hex),
            _ => return refused("is none of this source"),
        };
        if version != VERSION {
            return refused("is of another version of this library");
        }
        let Some(place) = bytes_of(hex) else { return refused("is damaged") };
        // As text, so that no other spelling of the number passes.
        if sum != format!("{:016x}", checksum(source_key, query, &place)) {
            return refused("is damaged, or belongs to another source or query");
        }
        Ok(place)
    }
}

impl fmt::Display for PageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a over all that a cursor is good for; each part behind its length, so that none runs into the next.
fn checksum(source_key: &str, query: &QueryDescriptor, place: &[u8]) -> u64 {
    let query = query.without_window().canonical();
    let mut sum = 0xCBF2_9CE4_8422_2325_u64;
    for part in [VERSION.as_bytes(), source_key.as_bytes(), query.as_bytes(), place] {
        let length = (part.len() as u64).to_be_bytes();
        for byte in length.iter().chain(part) {
            sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    sum
}

/// The bytes of a text in small hexadecimal digits, two for each.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// How many rows a query has in all, as far as its source knows without looking at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Total {
    /// This many.
    Exact(u64),
    /// About this many; it may be more or fewer.
    Estimated(u64),
    /// This many or more.
    AtLeast(u64),
    /// The source doesn't say.
    #[default]
    Unknown,
}

/// What [`TableShell::page`](crate::vista::TableShell::page) answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// The rows with their ids, in the order of the query.
    pub rows: Vec<(String, Record)>,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<PageCursor>,
    /// How many rows the query has in all, whichever page this is.
    pub total: Total,
}

impl Page {
    /// For sources: what every source asks of a page before it looks for rows.
    ///
    /// # Errors
    /// `Invalid` for a page of no rows, and for a query with a window, whose place the page takes.
    pub fn check(query: &QueryDescriptor, limit: usize) -> Result<()> {
        let refused = |message: &str| Err(Error::new(ErrorKind::Invalid, message));
        if limit == 0 {
            return refused("a page of no rows leads nowhere; ask for one row at least");
        }
        if query.window.is_some() {
            return refused("pages are of a whole query; leave out its window, or list that");
        }
        Ok(())
    }
}

/// A place in the order of rows that are numbered by arrival: behind the row of this sort key and number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) key: Vec<u8>,
    pub(crate) arrival: u64,
}

impl Place {
    pub(crate) fn seal(&self, source_key: &str, query: &QueryDescriptor) -> PageCursor {
        let mut place = self.arrival.to_be_bytes().to_vec();
        place.extend_from_slice(&self.key);
        PageCursor::seal(source_key, query, &place)
    }

    pub(crate) fn open(cursor: &PageCursor, source_key: &str, query: &QueryDescriptor) -> Result<Self> {
        let place = cursor.open(source_key, query)?;
        match place.split_first_chunk() {
            Some((arrival, key)) => Ok(Place { key: key.to_vec(), arrival: u64::from_be_bytes(*arrival) }),
            None => Err(Error::new(ErrorKind::Invalid, "the page cursor is none of this source")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vista::{Condition, SortDir};

    #[test]
    fn a_cursor_opens_as_it_was_sealed_and_in_no_other_way() {
        let by_name = QueryDescriptor::new().sorted("name", SortDir::Asc);
        let places: [&[u8]; 4] = [b"", b"\0", b"after Anvil", &[255; 70]];
        for place in places {
            let cursor = PageCursor::seal("shop", &by_name, place);
            assert_eq!(cursor.open("shop", &by_name).unwrap(), place);
            assert_eq!(PageCursor::from_text(cursor.to_string()), cursor);
            assert!(cursor.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{cursor}");
            let others = [
                ("shop2", by_name.clone()),
                ("sho", by_name.clone()),
                ("shop", QueryDescriptor::new()),
                ("shop", QueryDescriptor::new().sorted("name", SortDir::Desc)),
                ("shop", by_name.clone().filtered(Condition::is_null("name"))),
            ];
            for (key, query) in &others {
                assert_eq!(cursor.open(key, query).unwrap_err().kind(), ErrorKind::Invalid, "{key} {query:?}");
            }
            let text = cursor.as_str();
            let mut changed: Vec<String> = (0..text.len()).map(|end| text[..end].to_owned()).collect();
            changed.extend((0..text.len()).flat_map(|at| {
                ["0", "f", "F", "g", "-", "é", "00", ""].map(|new| format!("{}{new}{}", &text[..at], &text[at + 1..]))
            }));
            changed.extend([format!("{text}0"), format!("{text}00"), format!("{text}-"), format!(" {text}")]);
            for text in changed.iter().filter(|text| *text != cursor.as_str()) {
                let changed = PageCursor::from_text(text.as_str());
                assert_eq!(changed.open("shop", &by_name).unwrap_err().kind(), ErrorKind::Invalid, "{text:?}");
            }
        }
    }
}
