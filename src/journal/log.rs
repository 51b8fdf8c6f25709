//! Log: entries in segments, as one thread sees them: append, forget, make small.
//!
//! Invariants:
//! 1. Segments are deleted oldest first: an entry that says of an earlier one that it is over never goes before it.
//! 2. After a failed write or sync no more entries are written to that segment: what became of its bytes is not known. The next
//!    segment says up to where it counts (`a_refused_entry_never_comes_back`). Where none can be made, zeros are to take the
//!    place of those bytes (`a_refused_entry_never_comes_back_though_nothing_more_can_be_appended`); until either is durable a
//!    crash may bring back what was refused.
//! 3. A rewritten log has the same entries, and is complete before the old segments go. While both are there an entry may be
//!    found twice, and anywhere: its number tells its place in the order.
//! 4. No number is ever given twice, even when nothing is left of the entry that had it (`a_number_is_never_given_twice`).

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::journal::medium::Medium;
use crate::journal::segment::{self, At, HEADER, Header, Scan};
use crate::{Error, ErrorKind, Result};

/// The usual size of a segment in bytes.
pub(crate) const SEGMENT_BYTES: u64 = 1 << 20;

/// The size of a segment when there is no room for one of the usual size.
const SMALL_SEGMENT: u64 = 16 << 10;

/// An entry: its number, and its bytes.
pub(crate) type Numbered = (u64, Vec<u8>);

/// What was found when a log was opened.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// All entries by number, in the order in which they were appended.
    pub(crate) entries: Vec<Numbered>,
    /// The number that the next entry is to have, at least.
    pub(crate) next_number: u64,
    /// What was damaged, other than an end that a crash cut.
    pub(crate) warnings: Vec<Error>,
}

/// Where an entry lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u64,
    size: u64,
}

/// What is known of a segment.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// How many entries in it are not forgotten.
    live: usize,
    size: u64,
}

/// Bytes of which it is not known whether they are there, and which don't count.
#[derive(Debug, Clone, Copy)]
struct Doubtful {
    segment: u64,
    place: u64,
    size: usize,
}

pub(super) struct Log<M> {
    medium: M,
    segment_bytes: u64,
    places: HashMap<u64, Place>,
    /// Oldest first; the last one is written to.
    segments: BTreeMap<u64, Segment>,
    live: u64,
    /// Where the last segment goes on; `None` when it is not to be written to.
    end: Option<u64>,
    /// Up to where the last segment counts, if that is known.
    before_ends: Option<u64>,
    /// What was refused and may be there all the same.
    doubtful: Option<Doubtful>,
    next_segment: u64,
    next_number: u64,
}

impl<M: Medium> Log<M> {
    /// Reads what is there. Nothing is changed before all of it was read and found to be of a known format; `check` judges
    /// the format of an entry's bytes.
    ///
    /// # Errors
    /// `Unsupported` for a newer format, which is left as it is; why the medium can't be read.
    pub(super) fn open(
        mut medium: M,
        segment_bytes: u64,
        check: impl Fn(&[u8]) -> Result<()>,
    ) -> Result<(Self, Opened)> {
        let mut headers = BTreeMap::new();
        for number in medium.list()? {
            let header = Header::decode(&medium.read(number, HEADER)?)?;
            headers.insert(number, header.filter(|header| header.segment == number));
        }
        let last = headers.last_key_value().map(|(last, _)| *last);
        let mut log = Log {
            medium,
            segment_bytes,
            places: HashMap::new(),
            segments: BTreeMap::new(),
            live: 0,
            end: None,
            before_ends: None,
            doubtful: None,
            next_segment: last.map_or(1, |last| last + 1),
            next_number: 1,
        };
        let mut opened = Opened::default();
        let mut found: BTreeMap<u64, (Place, Vec<u8>)> = BTreeMap::new();
        for (number, header) in &headers {
            let Some(header) = header else { continue };
            let mut bytes = log.medium.read(*number, usize::MAX)?;
            log.segments.insert(*number, Segment { live: 0, size: bytes.len() as u64 });
            log.next_number = log.next_number.max(header.numbers_from);
            let next = headers.get(&(number + 1)).copied().flatten();
            let end = next.and_then(|next| next.before_ends);
            bytes.truncate(end.map_or(usize::MAX, |end| end as usize));
            let mut scan = Scan::new(&bytes, *header);
            for entry in scan.by_ref() {
                check(entry.payload)?;
                let place = Place { segment: *number, size: segment::size_of(entry.payload) as u64 };
                found.insert(entry.number, (place, entry.payload.to_vec()));
            }
            let is_last = Some(*number) == last;
            let is_cut = match end {
                Some(end) => scan.place() != end,
                None => !is_last && !scan.ends_clean(),
            };
            if is_cut || scan.is_damaged() {
                let message = "a part of the journal is damaged; the writes that were there are lost";
                opened.warnings.push(at_segment(message, *number));
            }
            if is_last {
                log.before_ends = Some(scan.place());
            }
            let is_oldest = log.segments.len() == 1;
            if !is_oldest && header.before_ends.is_some() && !headers.contains_key(&(number - 1)) {
                let message = "a part of the journal is missing; the writes that were in it are lost";
                opened.warnings.push(at_segment(message, number - 1));
            }
        }
        for (number, (place, payload)) in found {
            log.note(number, place);
            opened.entries.push((number, payload));
        }
        opened.next_number = log.next_number;
        // What only the system's memory holds may be read, and be gone after the next crash.
        if let Some(last) = log.segments.keys().next_back().copied().filter(|_| !opened.entries.is_empty()) {
            log.medium.sync(last)?;
        }
        for number in headers.iter().filter(|(_, header)| header.is_none()).map(|(number, _)| *number) {
            let path = log.medium.set_aside(number)?;
            let message = "a part of the journal has no readable beginning and was set aside; its writes are lost";
            opened.warnings.push(at_segment(message, number).with("path", path.display().to_string()));
        }
        log.drop_forgotten()?;
        Ok((log, opened))
    }

    /// The bytes of the entries that are not forgotten.
    #[cfg(test)]
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// The bytes of all segments.
    fn total(&self) -> u64 {
        self.segments.values().map(|segment| segment.size).sum()
    }

    /// Writes the entries and makes them durable, all or none as far as anybody is told.
    ///
    /// # Errors
    /// `Full` when the disk is, `Invalid` for an entry that is too long for a log, or why the medium failed. None of them
    /// is there then.
    pub(super) fn append(&mut self, entries: &[Numbered]) -> Result<()> {
        if entries.iter().any(|(_, payload)| payload.len() > segment::LONGEST) {
            return Err(Error::new(ErrorKind::Invalid, "a write of 2 GiB or more can't be journaled"));
        }
        let needed: u64 = entries.iter().map(|(_, payload)| segment::size_of(payload) as u64).sum();
        let (segment, place) = self.room_for(needed)?;
        let mut bytes = Vec::with_capacity(needed as usize);
        for (number, payload) in entries {
            let at = At { segment, place: place + bytes.len() as u64, begins_batch: bytes.is_empty() };
            segment::encode(at, *number, payload, &mut bytes);
        }
        let written = self.medium.write(segment, place, &bytes).and_then(|()| self.medium.sync(segment));
        if let Err(error) = written {
            self.end = None;
            self.before_ends = Some(place);
            self.doubtful = Some(Doubtful { segment, place, size: bytes.len() });
            // If this fails too, it is tried again later, at the latest by the next append.
            let _ = self.dispel_doubt();
            return Err(error);
        }
        self.end = Some(place + needed);
        self.before_ends = Some(place + needed);
        for (number, payload) in entries {
            self.note(*number, Place { segment, size: segment::size_of(payload) as u64 });
        }
        Ok(())
    }

    /// Whether what was refused may be found after a crash.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.is_some()
    }

    /// Makes it durable that what was refused is not there, or doesn't count.
    ///
    /// # Errors
    /// Why the medium failed; what was refused may be found after a crash.
    pub(super) fn dispel_doubt(&mut self) -> Result<()> {
        let Some(Doubtful { segment, place, size }) = self.doubtful else { return Ok(()) };
        self.room_for(0).map(drop).or_else(|_| {
            // Even without the sync a process that starts anew doesn't read them then.
            self.medium.write(segment, place, &vec![0; size])?;
            self.medium.sync(segment)?;
            self.doubtful = None;
            Ok(())
        })
    }

    fn note(&mut self, number: u64, place: Place) {
        self.next_number = self.next_number.max(number.saturating_add(1));
        self.live += place.size;
        self.segments.entry(place.segment).and_modify(|segment| segment.live += 1);
        if let Some(old) = self.places.insert(number, place) {
            self.leave(old);
        }
    }

    fn leave(&mut self, place: Place) {
        self.live -= place.size;
        self.segments.entry(place.segment).and_modify(|segment| segment.live -= 1);
    }

    /// The segment to write so many bytes to, and where.
    fn room_for(&mut self, needed: u64) -> Result<(u64, u64)> {
        if let (Some(end), Some((last, segment))) = (self.end, self.segments.last_key_value())
            && end + needed <= segment.size
        {
            return Ok((*last, end));
        }
        let needed = HEADER as u64 + needed;
        let sizes = [needed.max(self.segment_bytes), needed.max(SMALL_SEGMENT.min(self.segment_bytes))];
        self.create(sizes[0]).or_else(|error| {
            let smaller = error.kind() == ErrorKind::Full && sizes[1] < sizes[0];
            if smaller { self.create(sizes[1]) } else { Err(error) }
        })
    }

    /// Makes the segment that is written to next.
    fn create(&mut self, size: u64) -> Result<(u64, u64)> {
        let segment = self.next_segment;
        let header = Header { segment, before_ends: self.before_ends, numbers_from: self.next_number };
        if let Err(error) = self.medium.create(segment, &header.encode(), size) {
            // It may be there after a crash, and says where the one before it ends: nothing may be written there any more.
            if error.kind() != ErrorKind::Full {
                self.end = None;
            }
            return Err(error);
        }
        self.doubtful = None;
        self.next_segment += 1;
        self.segments.insert(segment, Segment { live: 0, size });
        self.end = Some(HEADER as u64);
        self.before_ends = self.end;
        Ok((segment, HEADER as u64))
    }

    /// These entries are over. Their room is given back, oldest segment first.
    ///
    /// # Errors
    /// Why an old segment could not be deleted; it is tried again next time.
    pub(super) fn forget(&mut self, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            if let Some(place) = self.places.remove(number) {
                self.leave(place);
            }
        }
        self.drop_forgotten()
    }

    fn drop_forgotten(&mut self) -> Result<()> {
        while self.segments.len() > 1
            && let Some((oldest, segment)) = self.segments.first_key_value()
            && segment.live == 0
        {
            let oldest = *oldest;
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
        self.rewrite()
    }

    /// Writes what is live anew, so that nothing is left of what is forgotten.
    ///
    /// # Errors
    /// Why the medium failed; the log is as it was, or a part of the old segments is left.
    pub(super) fn rewrite(&mut self) -> Result<()> {
        let entries = self.read_live()?;
        let old: Vec<u64> = self.segments.keys().copied().collect();
        // A new segment, whole or not there; the entries are in both until the old ones are gone.
        self.end = None;
        if entries.is_empty() {
            self.create(HEADER as u64)?;
        } else {
            self.append(&entries)?;
        }
        for segment in old {
            self.medium.delete(segment)?;
            self.segments.remove(&segment);
        }
        Ok(())
    }

    /// As [`rewrite`](Self::rewrite), and deletes what was set aside for its damage as well.
    pub(super) fn wipe_forgotten(&mut self) -> Result<()> {
        self.rewrite()?;
        self.medium.delete_aside()
    }

    /// At the end: leaves no entries behind that are all forgotten.
    pub(super) fn leave_clean(&mut self) -> Result<()> {
        let is_clean = self.segments.len() < 2 && self.total() <= HEADER as u64;
        if self.live > 0 || is_clean { Ok(()) } else { self.rewrite() }
    }

    /// The entries that are not forgotten, in their order.
    ///
    /// # Errors
    /// Why the medium can't be read; `Corrupt` when an entry is not there any more.
    pub(super) fn read_live(&mut self) -> Result<Vec<Numbered>> {
        let mut entries = Vec::with_capacity(self.places.len());
        for (number, segment) in &self.segments {
            if segment.live == 0 {
                continue;
            }
            let bytes = self.medium.read(*number, usize::MAX)?;
            let Some(header) = Header::decode(&bytes)? else { continue };
            for found in Scan::new(&bytes, header) {
                if self.places.get(&found.number).is_some_and(|place| place.segment == *number) {
                    entries.push((found.number, found.payload.to_vec()));
                }
            }
        }
        if entries.len() != self.places.len() {
            let message = format!("{} entries of the journal can't be read again", self.places.len() - entries.len());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        entries.sort_unstable_by_key(|(number, _)| *number);
        Ok(entries)
    }
}

fn at_segment(message: &str, segment: u64) -> Error {
    Error::new(ErrorKind::Corrupt, message).with("segment", segment.to_string())
}
