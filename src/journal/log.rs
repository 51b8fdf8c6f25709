//! Log: entries in segments, as one thread sees them: append, forget, make small.
//!
//! Invariants:
//! 1. Segments are read and deleted oldest first: an entry that says of an earlier one that it is over never goes before it.
//! 2. After a failed write or sync nothing more is written to that segment: what became of its bytes is not known. The next
//!    segment says up to where it counts (`a_refused_entry_never_comes_back`).
//! 3. A rewritten log has the same entries in the same order, and is complete before the old segments go.

use std::collections::{BTreeMap, HashMap};

use crate::journal::medium::Medium;
use crate::journal::segment::{self, HEADER, Header, Scan};
use crate::{Error, ErrorKind, Result};

/// How large the log gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The usual size of a segment in bytes.
    pub(crate) segment: u64,
    /// The bytes of entries that are not forgotten, beyond which nothing more is taken.
    pub(crate) live: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { segment: 4 << 20, live: 256 << 20 }
    }
}

/// What was found when a log was opened.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// All entries by number, in the order in which they were appended.
    pub(crate) entries: Vec<(u64, Vec<u8>)>,
    /// What was damaged and set aside, other than an end that a crash cut.
    pub(crate) warnings: Vec<Error>,
}

/// Where an entry lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u64,
    size: u64,
}

pub(super) struct Log<M> {
    medium: M,
    limits: Limits,
    places: HashMap<u64, Place>,
    /// The live entries of each segment, oldest first; the last one is written to.
    segments: BTreeMap<u64, usize>,
    live: u64,
    /// Where the last segment goes on; `None` when it is not to be written to.
    end: Option<u64>,
    size: u64,
    /// Up to where the last segment counts, if what follows was refused.
    before_ends: Option<u64>,
}

impl<M: Medium> Log<M> {
    /// Reads what is there.
    ///
    /// # Errors
    /// `Unsupported` for a newer format, which is left as it is; why the medium can't be read.
    pub(super) fn open(mut medium: M, limits: Limits) -> Result<(Self, Opened)> {
        let numbers = medium.list()?;
        let mut contents = Vec::new();
        for number in numbers {
            let bytes = medium.read(number)?;
            // All headers first: a log with a newer part is not touched at all.
            let header = Header::decode(&bytes)?.filter(|header| header.segment == number);
            contents.push((number, bytes, header));
        }
        let mut log = Log {
            medium,
            limits,
            places: HashMap::new(),
            segments: BTreeMap::new(),
            live: 0,
            end: None,
            size: 0,
            before_ends: None,
        };
        let mut opened = Opened::default();
        let mut order: HashMap<u64, usize> = HashMap::new();
        for at in 0..contents.len() {
            let (number, bytes, header) = &contents[at];
            let next = contents.get(at + 1).and_then(|(_, _, header)| *header);
            let Some(header) = header else {
                opened.warnings.push(log.set_aside(*number)?);
                continue;
            };
            let end = next.and_then(|next| next.before_ends).unwrap_or(u64::MAX);
            let mut scan = Scan::new(bytes, *header);
            log.segments.insert(*number, 0);
            while scan.place() < end
                && let Some(found) = scan.next()
            {
                let place = Place { segment: *number, size: segment::size_of(found.payload) as u64 };
                if log.places.insert(found.number, place).is_some_and(|old| {
                    log.live -= old.size;
                    log.segments.get_mut(&old.segment).is_some_and(|count| {
                        *count -= 1;
                        true
                    })
                }) && let Some(old) = order.get(&found.number)
                {
                    opened.entries[*old].1.clear();
                    opened.entries[*old].0 = u64::MAX;
                }
                log.live += place.size;
                log.segments.entry(*number).and_modify(|count| *count += 1);
                order.insert(found.number, opened.entries.len());
                opened.entries.push((found.number, found.payload.to_vec()));
            }
            let is_last = at + 1 == contents.len();
            if is_last {
                log.before_ends = Some(scan.place());
            } else if scan.place() < end && !scan.ends_clean() {
                let message = "a part of the journal is damaged; the writes in it after the damage are lost";
                let warning = Error::new(ErrorKind::Corrupt, message).with("segment", number.to_string());
                opened.warnings.push(warning);
            }
        }
        opened.entries.retain(|(number, _)| *number != u64::MAX);
        log.drop_forgotten()?;
        Ok((log, opened))
    }

    fn set_aside(&mut self, segment: u64) -> Result<Error> {
        let path = self.medium.set_aside(segment)?;
        let message = "a part of the journal has no readable beginning and was set aside";
        Ok(Error::new(ErrorKind::Corrupt, message).with("path", path.display().to_string()))
    }

    /// The bytes of the entries that are not forgotten.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// The bytes of all segments, about.
    pub(super) fn total(&self) -> u64 {
        self.segments.len() as u64 * self.limits.segment
    }

    /// Writes the entries and makes them durable, all or none as far as anybody is told.
    ///
    /// # Errors
    /// `Full` beyond the limit; why the medium failed. None of them is there then.
    pub(super) fn append(&mut self, entries: &[(u64, Vec<u8>)]) -> Result<()> {
        let needed: u64 = entries.iter().map(|(_, payload)| segment::size_of(payload) as u64).sum();
        if self.live + needed > self.limits.live {
            let message = format!("the journal holds {} bytes of writes that are not delivered yet", self.live);
            return Err(Error::new(ErrorKind::Full, message));
        }
        let (segment, place) = self.room_for(needed)?;
        let mut bytes = Vec::with_capacity(needed as usize);
        for (number, payload) in entries {
            segment::encode(segment, place + bytes.len() as u64, *number, payload, &mut bytes);
        }
        let written = self.medium.write(segment, place, &bytes).and_then(|()| self.medium.sync(segment));
        if let Err(error) = written {
            self.end = None;
            self.before_ends = Some(place);
            return Err(error);
        }
        self.end = Some(place + needed);
        self.before_ends = Some(place + needed);
        for (number, payload) in entries {
            self.note(*number, Place { segment, size: segment::size_of(payload) as u64 });
        }
        Ok(())
    }

    fn note(&mut self, number: u64, place: Place) {
        self.live += place.size;
        *self.segments.entry(place.segment).or_default() += 1;
        if let Some(old) = self.places.insert(number, place) {
            self.live -= old.size;
            self.segments.entry(old.segment).and_modify(|count| *count -= 1);
        }
    }

    /// The segment to write so many bytes to, and where.
    fn room_for(&mut self, needed: u64) -> Result<(u64, u64)> {
        if let (Some(end), Some((last, _))) = (self.end, self.segments.last_key_value())
            && end + needed <= self.size
        {
            return Ok((*last, end));
        }
        let number = self.segments.last_key_value().map_or(1, |(last, _)| last + 1);
        let header = Header { segment: number, before_ends: self.before_ends };
        let size = self.limits.segment.max(HEADER as u64 + needed);
        self.medium.create(number, &header.encode(), size)?;
        self.segments.insert(number, 0);
        self.size = size;
        self.end = Some(HEADER as u64);
        self.before_ends = Some(HEADER as u64);
        Ok((number, HEADER as u64))
    }

    /// These entries are over. Their room is given back, oldest segment first.
    ///
    /// # Errors
    /// Why an old segment could not be deleted; it is tried again next time.
    pub(super) fn forget(&mut self, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            if let Some(place) = self.places.remove(number) {
                self.live -= place.size;
                self.segments.entry(place.segment).and_modify(|count| *count -= 1);
            }
        }
        self.drop_forgotten()
    }

    fn drop_forgotten(&mut self) -> Result<()> {
        while self.segments.len() > 1
            && let Some((oldest, 0)) = self.segments.first_key_value().map(|(number, live)| (*number, *live))
        {
            self.medium.delete(oldest)?;
            self.segments.remove(&oldest);
        }
        Ok(())
    }

    /// Writes what is live anew, when an old entry keeps many segments from going.
    ///
    /// # Errors
    /// Why the medium failed; the log is as it was.
    pub(super) fn shrink(&mut self) -> Result<()> {
        const WORTH_IT: u64 = 4;
        if self.segments.len() < 4 || self.total() < self.live.saturating_mul(WORTH_IT) {
            return Ok(());
        }
        let mut entries = Vec::new();
        for segment in self.segments.keys().copied().collect::<Vec<_>>() {
            let bytes = self.medium.read(segment)?;
            let Some(header) = Header::decode(&bytes)? else { continue };
            for found in Scan::new(&bytes, header) {
                if self.places.get(&found.number).is_some_and(|place| place.segment == segment) {
                    entries.push((found.number, found.payload.to_vec()));
                }
            }
        }
        let old: Vec<u64> = self.segments.keys().copied().collect();
        // A new segment, whole or not there; the entries are in both until the old ones are gone.
        self.end = None;
        let limit = std::mem::replace(&mut self.limits.live, u64::MAX);
        let appended = self.append(&entries);
        self.limits.live = limit;
        appended?;
        for segment in old {
            self.medium.delete(segment)?;
            self.segments.remove(&segment);
        }
        Ok(())
    }
}
