//! Segment: the bytes of one file of the log: a header, then entries, then zeros up to its preallocated size.
//!
//! ```text
//! header   magic 8 | format 4 | segment 8 | where the segment before ends 8 | numbers begin here 8 | checksum 4
//! entry    length of the payload, and whether it begins a batch 4 | checksum 4 | number 8 | payload
//! ```
//!
//! The checksum of an entry is over the rest of it, its segment and its place. A batch is what was written and synced at
//! once: whatever begins a batch proves that the batches before it were durable.
//!
//! Invariants: any bytes are read without a panic (`any_bytes_are_read`); an entry whose bytes changed, or that lies at
//! another place than it was written to, is not taken (`a_changed_byte_costs_its_batch_and_is_told`); the header of every
//! later format begins with the same fields and ends with its checksum at the same place.

use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"DIORAMAJ";
/// The format that this version writes.
const FORMAT: u32 = 1;
pub(super) const HEADER: usize = 40;
const ENTRY_HEADER: usize = 16;
/// Set in the length of an entry that begins a batch.
const BEGINS_BATCH: u32 = 1 << 31;
/// No payload is longer.
pub(super) const LONGEST: usize = (BEGINS_BATCH - 1) as usize;

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) segment: u64,
    /// Up to where the entries of the segment before count: what was written after that was refused. `None`: all of them.
    pub(super) before_ends: Option<u64>,
    /// No entry written before this segment has this number or a greater one.
    pub(super) numbers_from: u64,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.segment.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.before_ends.unwrap_or(u64::MAX).to_le_bytes());
        bytes[28..36].copy_from_slice(&self.numbers_from.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header of a file. `None`: the file was never finished being made.
    ///
    /// # Errors
    /// `Unsupported` when a newer version wrote it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(bytes) = bytes.get(..HEADER) else { return Ok(None) };
        if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..36]) != u32_at(bytes, 36) {
            return Ok(None);
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            let message = format!(
                "the journal is of format {format}, this version knows format {FORMAT}; use the version that wrote it, or a \
                 newer one: nothing was changed"
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let before_ends = Some(u64_at(bytes, 20)).filter(|end| *end != u64::MAX);
        Ok(Some(Header { segment: u64_at(bytes, 12), before_ends, numbers_from: u64_at(bytes, 28) }))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The bytes that an entry takes.
pub(super) fn size_of(payload: &[u8]) -> usize {
    ENTRY_HEADER + payload.len()
}

/// Whether a file with these first bytes holds anything: an entry, or what this version can't read.
pub(super) fn holds_entries(beginning: &[u8]) -> bool {
    match Header::decode(beginning) {
        Ok(Some(_)) => beginning.get(HEADER..HEADER + ENTRY_HEADER).is_some_and(|entry| u64_at(entry, 8) != 0),
        Ok(None) | Err(_) => true,
    }
}

/// How much of a file [`holds_entries`] looks at.
pub(super) const BEGINNING: usize = HEADER + ENTRY_HEADER;

fn checksum(segment: u64, place: u64, number: u64, length: u32, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [segment, place, number] {
        hasher.update(&part.to_le_bytes());
    }
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Where an entry is written to.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) segment: u64,
    pub(super) place: u64,
    pub(super) begins_batch: bool,
}

/// Appends an entry to `bytes`. The number is not zero, the payload not longer than [`LONGEST`].
pub(super) fn encode(at: At, number: u64, payload: &[u8], bytes: &mut Vec<u8>) {
    let length = payload.len() as u32 | if at.begins_batch { BEGINS_BATCH } else { 0 };
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(at.segment, at.place, number, length, payload).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(payload);
}

/// An entry as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) number: u64,
    pub(super) payload: &'a [u8],
}

/// The entries of a segment, and how they end.
pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    segment: u64,
    place: usize,
    damaged: bool,
}

impl<'a> Scan<'a> {
    /// Reads the bytes of a file, whose header is `header`, up to where they count.
    pub(super) fn new(bytes: &'a [u8], header: Header) -> Self {
        Scan { bytes, segment: header.segment, place: HEADER, damaged: false }
    }

    /// Where the next entry is, or would be.
    pub(super) fn place(&self) -> u64 {
        self.place as u64
    }

    /// Whether bytes that had been durable were passed over, because they are damaged.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Whether what follows the last entry is nothing but unused room.
    pub(super) fn ends_clean(&self) -> bool {
        self.bytes.get(self.place..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0))
    }

    fn entry_at(&self, place: usize) -> Option<Found<'a>> {
        let rest = self.bytes.get(place..)?;
        let header = rest.get(..ENTRY_HEADER)?;
        let length = u32_at(header, 0);
        let end = ENTRY_HEADER.checked_add((length & !BEGINS_BATCH) as usize)?;
        let payload = rest.get(ENTRY_HEADER..end)?;
        let number = u64_at(header, 8);
        let intact = number != 0 && u32_at(header, 4) == checksum(self.segment, place as u64, number, length, payload);
        intact.then_some(Found { number, payload })
    }

    /// The next batch behind bytes that are no entry. What a crash cut has none behind it.
    fn batch_behind(&self) -> Option<usize> {
        const FLAG_AT: usize = 3;
        let from = self.place + 1;
        let flags = self.bytes.get(from + FLAG_AT..)?.iter().enumerate();
        let mut begins = flags.filter(|(_, byte)| **byte & 0x80 != 0).map(|(at, _)| from + at);
        begins.find(|at| self.entry_at(*at).is_some())
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let found = match self.entry_at(self.place) {
            Some(found) => found,
            None => {
                self.place = self.batch_behind()?;
                self.damaged = true;
                self.entry_at(self.place)?
            }
        };
        self.place += size_of(found.payload);
        Some(found)
    }
}
