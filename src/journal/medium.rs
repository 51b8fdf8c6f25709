//! Medium: where the segments of a log lie: a directory, or what a test puts in its place.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::journal::segment;
use crate::sync::lock_file;
use crate::{Error, ErrorKind, Result};

/// Numbered files. Each call either happens or fails; after a crash, what was not synced may be there or not, in any part.
pub(crate) trait Medium: Send {
    /// The numbers of the segments there are, ascending.
    fn list(&mut self) -> Result<Vec<u64>>;
    /// The first bytes of a segment, at most so many.
    fn read(&mut self, segment: u64, at_most: usize) -> Result<Vec<u8>>;
    /// Makes a segment of so many bytes, these at its beginning and zeros after them; it replaces one of its number.
    /// Durable when it returns. When it fails with `Full` it is not there; when it fails otherwise it may be, after a crash.
    fn create(&mut self, segment: u64, beginning: &[u8], size: u64) -> Result<()>;
    /// Writes into a segment.
    fn write(&mut self, segment: u64, place: u64, bytes: &[u8]) -> Result<()>;
    /// Makes what was written into a segment durable.
    fn sync(&mut self, segment: u64) -> Result<()>;
    /// Deletes a segment, durably; one that is not there is fine.
    fn delete(&mut self, segment: u64) -> Result<()>;
    /// Puts a segment aside, so that somebody may look at it; says where it is then.
    fn set_aside(&mut self, segment: u64) -> Result<PathBuf>;
    /// Deletes what was put aside.
    fn delete_aside(&mut self) -> Result<()>;
}

const SEGMENT: &str = ".journal";
const ASIDE: &str = ".damaged";

/// Segments as files of a directory, which one process has at a time.
pub(crate) struct Directory {
    path: PathBuf,
    /// The segment that is written to.
    open: Option<(u64, File)>,
    /// Keeps other processes out while it is open.
    _lock: File,
}

impl Directory {
    /// The directory is made if it is not there; it and its files are for this user alone.
    ///
    /// # Errors
    /// `Cache` when another process has it, or why it can't be made.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        make_directory(path).map_err(|cause| failed("the journal's directory could not be made", path, cause))?;
        let lock = path.join("lock");
        let mut options = OpenOptions::new();
        let file = owner_only(options.read(true).write(true).create(true).truncate(false)).open(&lock);
        let file = file.map_err(|cause| failed("the journal's lock file could not be opened", &lock, cause))?;
        match lock_file(&file) {
            Ok(()) => Ok(Directory { path: path.to_owned(), open: None, _lock: file }),
            Err(TryLockError::WouldBlock) => {
                let message = "this journal is in use by another process; close that, or use another directory";
                Err(Error::new(ErrorKind::Cache, message).with("path", path.display().to_string()))
            }
            Err(TryLockError::Error(cause)) => Err(failed("the journal could not be locked", &lock, cause)),
        }
    }

    /// Whether there may be entries in this directory, or what only opening it can judge. Reads a few bytes of each file.
    pub(crate) fn may_hold_entries(path: &Path) -> bool {
        let listed = match fs::read_dir(path) {
            Ok(listed) => listed,
            Err(cause) => return cause.kind() != io::ErrorKind::NotFound,
        };
        listed.into_iter().any(|entry| {
            let Ok(entry) = entry else { return true };
            let is_segment = entry.file_name().to_str().is_some_and(|name| segment_of(name).is_some());
            is_segment && read(&entry.path(), segment::BEGINNING).map_or(true, |bytes| segment::holds_entries(&bytes))
        })
    }

    fn path_of(&self, segment: u64) -> PathBuf {
        self.path.join(format!("{segment:016}{SEGMENT}"))
    }

    fn file(&mut self, segment: u64) -> Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != segment) {
            let path = self.path_of(segment);
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.map_err(|cause| failed("a part of the journal could not be opened", &path, cause))?;
            self.open = Some((segment, file));
        }
        match &self.open {
            Some((_, file)) => Ok(file),
            None => Err(Error::new(ErrorKind::Cache, "a part of the journal is not open")),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }

    fn make(&self, path: &Path, beginning: &[u8], size: u64) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let mut file = owner_only(options.read(true).write(true).create_new(true)).open(path)?;
        // Zeros are written and not only reserved: a later sync has then nothing to do but the bytes themselves.
        file.write_all(beginning)?;
        let mut left = size.saturating_sub(beginning.len() as u64);
        let zeros = vec![0; left.min(256 << 10) as usize];
        while left > 0 {
            let part = left.min(zeros.len() as u64);
            file.write_all(&zeros[..part as usize])?;
            left -= part;
        }
        file.sync_all()?;
        Ok(file)
    }

    fn files(&self, ending: &str) -> io::Result<Vec<String>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            files.extend(entry?.file_name().into_string().ok().filter(|name| name.ends_with(ending)));
        }
        Ok(files)
    }
}

fn segment_of(name: &str) -> Option<u64> {
    name.strip_suffix(SEGMENT)?.parse().ok()
}

fn owner_only(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Makes the directory durable too: an entry in a directory that a crash takes away is not durable.
fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    for parent in path.ancestors().skip(1).take(2).filter(|parent| !parent.as_os_str().is_empty()) {
        sync_directory(parent)?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn read(path: &Path, at_most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(at_most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failed(what: &str, path: &Path, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => ErrorKind::Full,
        _ => ErrorKind::Cache,
    };
    Error::new(kind, what).with("path", path.display().to_string()).with_source(cause)
}

impl Medium for Directory {
    fn list(&mut self) -> Result<Vec<u64>> {
        let files = self.files(SEGMENT);
        let files = files.map_err(|cause| failed("the journal could not be listed", &self.path, cause))?;
        let mut segments: Vec<u64> = files.iter().filter_map(|name| segment_of(name)).collect();
        segments.sort_unstable();
        Ok(segments)
    }

    fn read(&mut self, segment: u64, at_most: usize) -> Result<Vec<u8>> {
        let path = self.path_of(segment);
        read(&path, at_most).map_err(|cause| failed("a part of the journal could not be read", &path, cause))
    }

    fn create(&mut self, segment: u64, beginning: &[u8], size: u64) -> Result<()> {
        // Under its own name only once it is whole.
        let (path, new) = (self.path_of(segment), self.path.join("new"));
        let what = "a new part of the journal could not be made";
        let _ = fs::remove_file(&new);
        let file = match self.make(&new, beginning, size) {
            Ok(file) => file,
            Err(cause) => {
                let _ = fs::remove_file(&new);
                return Err(failed(what, &path, cause));
            }
        };
        if let Err(cause) = fs::rename(&new, &path).and_then(|()| self.sync_directory()) {
            let _ = fs::remove_file(&new);
            let _ = fs::remove_file(&path);
            // Never `Full`: whether the name is there after a crash is not known.
            return Err(Error::new(ErrorKind::Cache, what).with("path", path.display().to_string()).with_source(cause));
        }
        self.open = Some((segment, file));
        Ok(())
    }

    fn write(&mut self, segment: u64, place: u64, bytes: &[u8]) -> Result<()> {
        let mut file = self.file(segment)?;
        let written = file.seek(SeekFrom::Start(place)).and_then(|_| file.write_all(bytes));
        written.map_err(|cause| failed("the journal could not be written", &self.path_of(segment), cause))
    }

    fn sync(&mut self, segment: u64) -> Result<()> {
        let synced = self.file(segment)?.sync_data();
        synced.map_err(|cause| failed("the journal could not be synced", &self.path_of(segment), cause))
    }

    fn delete(&mut self, segment: u64) -> Result<()> {
        self.open.take_if(|(open, _)| *open == segment);
        let path = self.path_of(segment);
        let removed = match fs::remove_file(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        // Also when it was gone already: the sync may be what failed the last time, and the next segment must not go first.
        let deleted = removed.and_then(|()| self.sync_directory());
        deleted.map_err(|cause| failed("an old part of the journal could not be deleted", &path, cause))
    }

    fn set_aside(&mut self, segment: u64) -> Result<PathBuf> {
        self.open.take_if(|(open, _)| *open == segment);
        let path = self.path_of(segment);
        let mut names = (1..).map(|count| self.path.join(format!("{segment:016}-{count}{ASIDE}")));
        let aside = names.find(|name| !name.exists()).unwrap_or_else(|| path.with_extension("damaged"));
        let moved = fs::rename(&path, &aside).and_then(|()| self.sync_directory());
        moved.map_err(|cause| failed("a damaged part of the journal could not be set aside", &path, cause))?;
        Ok(aside)
    }

    fn delete_aside(&mut self) -> Result<()> {
        let deleted = self.files(ASIDE).and_then(|files| {
            files.iter().try_for_each(|name| fs::remove_file(self.path.join(name)))?;
            self.sync_directory()
        });
        deleted.map_err(|cause| failed("damaged parts of the journal could not be deleted", &self.path, cause))
    }
}
