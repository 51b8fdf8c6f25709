//! Medium: where the segments of a log lie: a directory, or what a test puts in its place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// Numbered files. Each call either happens or fails; after a crash, what was not synced may be there or not, in any part.
pub(crate) trait Medium: Send {
    /// The numbers of the segments there are, ascending.
    fn list(&mut self) -> Result<Vec<u64>>;
    /// All bytes of a segment.
    fn read(&mut self, segment: u64) -> Result<Vec<u8>>;
    /// Makes a segment of so many bytes, these at its beginning and zeros after them; durable when it returns, or not there.
    fn create(&mut self, segment: u64, beginning: &[u8], size: u64) -> Result<()>;
    /// Writes into a segment.
    fn write(&mut self, segment: u64, place: u64, bytes: &[u8]) -> Result<()>;
    /// Makes what was written into a segment durable.
    fn sync(&mut self, segment: u64) -> Result<()>;
    /// Deletes a segment; one that is not there is fine.
    fn delete(&mut self, segment: u64) -> Result<()>;
    /// Puts a segment aside, so that somebody may look at it; says where it is then.
    fn set_aside(&mut self, segment: u64) -> Result<PathBuf>;
}

/// Segments as files of a directory.
pub(crate) struct Directory {
    path: PathBuf,
    /// The segment that is written to.
    open: Option<(u64, File)>,
}

impl Directory {
    /// The directory is made if it is not there, for this user alone.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|cause| failed("the journal's directory could not be made", path, cause))?;
        Ok(Directory { path: path.to_owned(), open: None })
    }

    fn path_of(&self, segment: u64) -> PathBuf {
        self.path.join(format!("{segment:016}.journal"))
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
        File::open(&self.path)?.sync_all()
    }

    fn make(&self, path: &Path, beginning: &[u8], size: u64) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        // Zeros are written and not only reserved: a later sync has then nothing to do but the bytes themselves.
        let mut place = 0;
        let zeros = vec![0; 64 << 10];
        while place < size {
            let part = zeros.len().min((size - place) as usize);
            file.write_all_at(&zeros[..part], place)?;
            place += part as u64;
        }
        file.write_all_at(beginning, 0)?;
        file.sync_all()?;
        Ok(file)
    }
}

fn failed(what: &str, path: &Path, cause: io::Error) -> Error {
    let kind = if cause.kind() == io::ErrorKind::StorageFull { ErrorKind::Full } else { ErrorKind::Cache };
    Error::new(kind, what).with("path", path.display().to_string()).with_source(cause)
}

impl Medium for Directory {
    fn list(&mut self) -> Result<Vec<u64>> {
        let failed = |cause| failed("the journal could not be listed", &self.path, cause);
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".journal")).map(str::parse::<u64>);
            segments.extend(number.and_then(std::result::Result::ok));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn read(&mut self, segment: u64) -> Result<Vec<u8>> {
        let path = self.path_of(segment);
        fs::read(&path).map_err(|cause| failed("a part of the journal could not be read", &path, cause))
    }

    fn create(&mut self, segment: u64, beginning: &[u8], size: u64) -> Result<()> {
        // Under its own name only once it is whole.
        let (path, new) = (self.path_of(segment), self.path.join("new"));
        let what = "a new part of the journal could not be made";
        let _ = fs::remove_file(&new);
        let made = self.make(&new, beginning, size);
        let made = made.and_then(|file| fs::rename(&new, &path).map(|()| file));
        let made = made.and_then(|file| self.sync_directory().map(|()| file));
        match made {
            Ok(file) => {
                self.open = Some((segment, file));
                Ok(())
            }
            Err(cause) => {
                let _ = fs::remove_file(&new);
                let _ = fs::remove_file(&path);
                Err(failed(what, &path, cause))
            }
        }
    }

    fn write(&mut self, segment: u64, place: u64, bytes: &[u8]) -> Result<()> {
        let path = self.path_of(segment);
        let written = self.file(segment)?.write_all_at(bytes, place);
        written.map_err(|cause| failed("the journal could not be written", &path, cause))
    }

    fn sync(&mut self, segment: u64) -> Result<()> {
        let path = self.path_of(segment);
        let synced = self.file(segment)?.sync_data();
        synced.map_err(|cause| failed("the journal could not be synced", &path, cause))
    }

    fn delete(&mut self, segment: u64) -> Result<()> {
        self.open.take_if(|(open, _)| *open == segment);
        let path = self.path_of(segment);
        let deleted = match fs::remove_file(&path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync_directory()),
        };
        deleted.map_err(|cause| failed("an old part of the journal could not be deleted", &path, cause))
    }

    fn set_aside(&mut self, segment: u64) -> Result<PathBuf> {
        self.open.take_if(|(open, _)| *open == segment);
        let path = self.path_of(segment);
        let aside = path.with_extension("damaged");
        fs::rename(&path, &aside)
            .map_err(|cause| failed("a damaged part of the journal could not be set aside", &path, cause))?;
        Ok(aside)
    }
}
