//! File: reading a whole file as it is at one moment, telling whether it is still that file, and putting another in its
//! place at once.
//!
//! Invariants:
//! 1. [`replace`] leaves either the old file or the whole new one, and no temporary file
//!    (`a_replacement_that_fails_leaves_the_file_and_no_litter`).
//! 2. It replaces only the bytes it was told of (`a_file_that_changed_meanwhile_is_not_replaced`). Between that look and
//!    the rename remains a moment of microseconds in which another program's write would be lost; no file system
//!    offers to close it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::{Error, ErrorKind, Result};

/// How long a file must have rested before its stamp alone tells that it is the same: the coarsest file systems tell
/// times in steps of two seconds.
const RESTED_MS: i64 = 3_000;

/// How often a file that changes while it is read is read again.
const READ_ATTEMPTS: usize = 5;

/// What the file system tells of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marks {
    len: u64,
    modified: Option<SystemTime>,
    /// Device, inode, seconds and nanoseconds of the last change of status: a set-back modification time shows here.
    #[cfg(unix)]
    inode: (u64, u64, i64, i64),
}

impl Marks {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Marks {
            len: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            inode: (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn changed_ms(&self) -> Option<i64> {
        let modified = self.modified?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let modified = i64::try_from(modified.as_millis()).ok()?;
        #[cfg(unix)]
        let modified = modified.max(self.inode.2.saturating_mul(1000).saturating_add(self.inode.3 / 1_000_000));
        Some(modified)
    }
}

/// Which file it was that was read.
#[derive(Debug, Clone)]
pub(super) struct Stamp {
    marks: Marks,
    /// Whether the file had rested long enough, when it was read, that a later write shows in its marks.
    rested: bool,
}

/// A file's bytes and which file it was.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) bytes: Vec<u8>,
    pub(super) stamp: Stamp,
}

/// What a second look at a file found.
#[derive(Debug)]
pub(super) enum Look {
    /// The same file, by its marks.
    Same,
    /// The same bytes; from now on this stamp tells it.
    SameBytes(Stamp),
    /// Another file.
    Other(Reading),
}

/// Reads the whole file. Blocks for as long as the disk takes.
///
/// # Errors
/// `NotFound`, `InvalidInput` when it is no regular file, `ResourceBusy` when somebody keeps changing it, and the system's.
pub(super) fn read(path: &Path) -> io::Result<Reading> {
    for _ in 0..READ_ATTEMPTS {
        // Opening a pipe would wait for its writer.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut file = File::open(path)?;
        let before = Marks::of(&file.metadata()?);
        let now_ms = Clock::system().wall_ms();
        let mut bytes = Vec::with_capacity(usize::try_from(before.len).unwrap_or(0).saturating_add(1));
        file.read_to_end(&mut bytes)?;
        if Marks::of(&file.metadata()?) == before && before.len == bytes.len() as u64 {
            let rested = before.changed_ms().is_some_and(|changed| now_ms.saturating_sub(changed) > RESTED_MS);
            return Ok(Reading { bytes, stamp: Stamp { marks: before, rested } });
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the file keeps changing while it is read"))
}

/// Looks whether the file is still the one of `stamp` with these bytes; reads it where its marks can't tell.
///
/// # Errors
/// As [`read`].
pub(super) fn look(path: &Path, stamp: &Stamp, bytes: &[u8]) -> io::Result<Look> {
    if stamp.rested && Marks::of(&fs::metadata(path)?) == stamp.marks {
        return Ok(Look::Same);
    }
    let reading = read(path)?;
    Ok(if reading.bytes == bytes { Look::SameBytes(reading.stamp) } else { Look::Other(reading) })
}

/// Puts `new` in the place of the file at once, if it is still the one of `stamp` with the bytes `old`. Syncs to the disk.
/// `before_swap` runs when all is prepared, and can stop it. Permissions stay; so do owner and group where the system
/// lets this process give files away.
///
/// # Errors
/// `Conflict` when the file is another by now; `Rejected` when it is marked read-only; `Source` with the system's error;
/// what `before_swap` says. After an error the file is as it was.
pub(super) fn replace(
    path: &Path,
    stamp: &Stamp,
    old: &[u8],
    new: &[u8],
    before_swap: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let failed = |what: &str, error: io::Error| {
        Error::new(ErrorKind::Source, format!("{what}; the file is as it was"))
            .with("file", shown(path))
            .with_source(error)
    };
    let real = fs::canonicalize(path).map_err(|error| failed("the file can't be found", error))?;
    let metadata = fs::metadata(&real).map_err(|error| failed("the file can't be looked at", error))?;
    if metadata.permissions().readonly() {
        return Err(Error::new(ErrorKind::Rejected, "the file is read-only; make it writable to change its rows")
            .with("file", shown(&real)));
    }
    let directory = real.parent().unwrap_or(Path::new("/"));
    let mut temporary = tempfile::Builder::new()
        .prefix(".diorama-")
        .suffix(".tmp")
        .tempfile_in(directory)
        .map_err(|error| failed("no temporary file can be made beside it", error))?;
    temporary
        .write_all(new)
        .and_then(|()| keep_attributes(temporary.as_file(), &metadata))
        .and_then(|()| temporary.as_file().sync_all())
        .map_err(|error| failed("the new content can't be written beside it", error))?;
    before_swap()?;
    if let Look::Other(_) = look(path, stamp, old).map_err(|error| failed("the file can't be read again", error))? {
        return Err(Error::new(
            ErrorKind::Conflict,
            "the file was changed by another program during this write; refresh, then write again",
        )
        .with("file", shown(&real)));
    }
    temporary.persist(&real).map_err(|error| failed("the new content can't be put in its place", error.error))?;
    #[cfg(unix)]
    if let Ok(directory) = File::open(directory) {
        // The rename is done and seen by everyone. A system that can't sync directories can only make it durable later.
        let _ = directory.sync_all();
    }
    Ok(())
}

#[cfg(unix)]
fn keep_attributes(file: &File, old: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        // Only root can give a file away; the write itself is allowed all the same.
        let _ = fchown(file, Some(old.uid()), Some(old.gid()));
    }
    // After the owner: a change of owner clears mode bits.
    file.set_permissions(old.permissions())
}

#[cfg(not(unix))]
fn keep_attributes(file: &File, old: &Metadata) -> io::Result<()> {
    file.set_permissions(old.permissions())
}

/// A path for messages.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn file_with(content: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows.csv");
        fs::write(&path, content).unwrap();
        (directory, path)
    }

    fn names(directory: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_replacement_that_fails_leaves_the_file_and_no_litter() {
        let (directory, path) = file_with("old");
        let reading = read(&path).unwrap();
        let stop = || Err(Error::new(ErrorKind::Cancelled, "stop"));
        let error = replace(&path, &reading.stamp, &reading.bytes, b"new", stop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(&directory), ["rows.csv"]);
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_not_replaced() {
        let (directory, path) = file_with("old");
        let reading = read(&path).unwrap();
        let meddle = || {
            // As long as the old content, and within the same tick of the file system's clock.
            fs::write(&path, "abc").unwrap();
            Ok(())
        };
        let error = replace(&path, &reading.stamp, &reading.bytes, b"new", meddle).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("rows.csv"));
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert_eq!(names(&directory), ["rows.csv"]);
    }

    #[test]
    fn a_file_that_vanished_meanwhile_is_not_made_again() {
        let (directory, path) = file_with("old");
        let reading = read(&path).unwrap();
        let meddle = || {
            fs::remove_file(&path).unwrap();
            Ok(())
        };
        let error = replace(&path, &reading.stamp, &reading.bytes, b"new", meddle).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source);
        assert!(names(&directory).is_empty());
    }

    #[test]
    fn a_replacement_that_cannot_be_put_in_place_leaves_what_is_there() {
        let (directory, path) = file_with("old");
        let reading = read(&path).unwrap();
        let meddle = || {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            Ok(())
        };
        assert!(replace(&path, &reading.stamp, &reading.bytes, b"new", meddle).is_err());
        assert!(path.is_dir());
        assert_eq!(names(&directory), ["rows.csv"]);
    }

    #[test]
    fn a_set_back_modification_time_hides_no_change() {
        let (_directory, path) = file_with("old");
        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let set_back = || File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        set_back();
        let reading = read(&path).unwrap();
        fs::write(&path, "abc").unwrap();
        set_back();
        let looked = look(&path, &reading.stamp, &reading.bytes).unwrap();
        assert!(matches!(looked, Look::Other(other) if other.bytes == b"abc"));
    }

    #[test]
    fn a_touched_file_is_the_same() {
        let (_directory, path) = file_with("old");
        let reading = read(&path).unwrap();
        fs::write(&path, "old").unwrap();
        assert!(matches!(look(&path, &reading.stamp, &reading.bytes).unwrap(), Look::SameBytes(_)));
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
