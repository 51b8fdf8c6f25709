//! Segment: the bytes of one file of the log: a header, then entries, then zeros up to its preallocated size.
//!
//! ```text
//! header   magic 8 | format 4 | segment 8 | where the segment before ends 8 | checksum 4
//! entry    length of the payload 4 | checksum of the rest, and of the segment and the place 4 | number 8 | payload
//! ```
//!
//! Invariants: any bytes are read without a panic (`any_bytes_are_read`); an entry whose bytes changed, or that lies at
//! another place than it was written to, is not taken (`a_changed_byte_ends_the_segment`).

use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"DIORAMAJ";
/// The format that this version writes.
const FORMAT: u32 = 1;
pub(super) const HEADER: usize = 32;
const ENTRY_HEADER: usize = 16;

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) segment: u64,
    /// Up to where the entries of the segment before count: what was written after that was refused. `None`: all of them.
    pub(super) before_ends: Option<u64>,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.segment.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.before_ends.unwrap_or(u64::MAX).to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header of a file. `None`: the file was never finished being made.
    ///
    /// # Errors
    /// `Unsupported` when a newer version wrote it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(bytes) = bytes.get(..HEADER) else { return Ok(None) };
        if &bytes[..8] != MAGIC || crc32fast::hash(&bytes[..28]) != u32_at(bytes, 28) {
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
        Ok(Some(Header { segment: u64_at(bytes, 12), before_ends }))
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

fn checksum(segment: u64, place: u64, number: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [segment, place, number] {
        hasher.update(&part.to_le_bytes());
    }
    hasher.update(&(payload.len() as u64).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Appends an entry to `bytes`, to be written at `place` of the segment.
pub(super) fn encode(segment: u64, place: u64, number: u64, payload: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&checksum(segment, place, number, payload).to_le_bytes());
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
}

impl<'a> Scan<'a> {
    /// Reads the bytes of a whole file, whose header is `header`.
    pub(super) fn new(bytes: &'a [u8], header: Header) -> Self {
        Scan { bytes, segment: header.segment, place: HEADER }
    }

    /// Where the next entry is, or would be.
    pub(super) fn place(&self) -> u64 {
        self.place as u64
    }

    /// Whether what follows the last entry is nothing but unused room.
    pub(super) fn ends_clean(&self) -> bool {
        self.bytes.get(self.place..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0))
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let rest = self.bytes.get(self.place..)?;
        let header = rest.get(..ENTRY_HEADER)?;
        let length = u32_at(header, 0) as usize;
        let payload = rest.get(ENTRY_HEADER..ENTRY_HEADER.checked_add(length)?)?;
        let number = u64_at(header, 8);
        if u32_at(header, 4) != checksum(self.segment, self.place as u64, number, payload) {
            return None;
        }
        self.place += size_of(payload);
        Some(Found { number, payload })
    }
}
