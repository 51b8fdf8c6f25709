//! File: everything about the cache file that is not LMDB's business: its lock, its modes, and whether it is sound.
//!
//! Invariants: 1. a file that fails [`inspect`] is never handed to LMDB, which would kill the process over some of them;
//! 2. a file is set aside by renaming it, never overwritten, until a table is forgotten.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as IoErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::sync::lock_file;
use crate::{Error, ErrorKind, Result};

pub(super) const DATA: &str = "rows.mdb";
const LOCK: &str = "rows.lock";

/// LMDB's own constants (`mdb.c`): the stamp and the format version of a meta page, and its page flag.
const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
const META_PAGE: u16 = 0x08;

/// The bytes of a pointer, which LMDB also uses for page numbers and sizes in the file.
const WORD: usize = size_of::<usize>();
const PAGE_HEADER: usize = WORD + 8;
const TREE: usize = 8 + 5 * WORD;
const META: usize = PAGE_HEADER + 8 + 2 * WORD + 2 * TREE + 2 * WORD;

/// Why a file can't be used, in one word for the name it is set aside under, and in a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsound {
    pub(super) word: &'static str,
    pub(super) why: String,
}

impl Unsound {
    pub(super) fn new(word: &'static str, why: impl Into<String>) -> Unsound {
        Unsound { word, why: why.into() }
    }
}

pub(super) fn io_failed(path: &Path, doing: &str, cause: io::Error) -> Error {
    Error::new(ErrorKind::Cache, format!("cannot {doing}")).with("path", path.display().to_string()).with_source(cause)
}

/// Creates the directory, for its owner only, unless it is there; returns its canonical path.
pub(super) fn create_directory(directory: &Path) -> Result<PathBuf> {
    if directory.as_os_str().as_encoded_bytes().contains(&0) {
        let message = "the path of a cache can't contain a zero byte";
        return Err(Error::new(ErrorKind::Invalid, message).with("path", directory.display().to_string()));
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|cause| io_failed(directory, "create the cache's directory", cause))?;
    directory.canonicalize().map_err(|cause| io_failed(directory, "find the cache's directory", cause))
}

/// Takes the lock that keeps other processes out for as long as the file stays open.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    owner_only(&mut options);
    let file = options.open(&path).map_err(|cause| io_failed(&path, "open the cache's lock file", cause))?;
    match lock_file(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message =
                "this cache is in use by another process; close that, or give this one a directory of its own";
            Err(Error::new(ErrorKind::Cache, message).with("path", directory.display().to_string()))
        }
        Err(TryLockError::Error(cause)) => Err(io_failed(&path, "lock the cache", cause)),
    }
}

/// The data file opened beside LMDB, to see to its length.
pub(super) fn open_data(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|cause| io_failed(path, "open the cache's file", cause))
}

/// Takes away what others may do with a file that was made more open than ours are.
pub(super) fn restrict(path: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(|cause| io_failed(path, "restrict the cache's file to its owner", cause))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Makes the directory's entries durable: a created, renamed or removed file.
pub(super) fn sync_directory(directory: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(directory)
            .and_then(|file| file.sync_all())
            .map_err(|cause| io_failed(directory, "sync the cache's directory", cause))?;
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != IoErrorKind::NotFound => {
            Err(io_failed(path, "remove a file of the cache", cause))
        }
        _ => Ok(()),
    }
}

/// Where LMDB puts its reader table for a data file.
pub(super) fn readers_of(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push("-lock");
    PathBuf::from(name)
}

/// The mark that says that a call found the data file damaged where [`inspect`] doesn't look.
fn damage_mark(data: &Path) -> PathBuf {
    data.with_extension("mdb-damaged")
}

/// Has the data file set aside when it is next opened. Best effort: the caller is told of the damage anyhow.
pub(super) fn mark_damaged(data: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    owner_only(&mut options);
    if let Err(error) = options.open(damage_mark(data)) {
        tracing::warn!(%error, path = %data.display(), "a damaged cache file could not be marked");
    }
}

/// Before a fresh data file is made: the mark was about the one before it.
pub(super) fn clear_damage_mark(data: &Path) -> Result<()> {
    remove_if_there(&damage_mark(data))
}

/// Renames a file that can't be used to `rows.mdb.<word>-<unix seconds>`, with a counter if that is taken.
pub(super) fn set_aside(data: &Path, unsound: &Unsound) -> Result<PathBuf> {
    let seconds = Clock::system().wall_ms() / 1_000;
    let mut counter = 0_u32;
    let aside = loop {
        let suffix = if counter == 0 { String::new() } else { format!("-{counter}") };
        let aside = data.with_file_name(format!("{DATA}.{}-{seconds}{suffix}", unsound.word));
        if fs::symlink_metadata(&aside).is_err_and(|cause| cause.kind() == IoErrorKind::NotFound) {
            break aside;
        }
        counter += 1;
    };
    fs::rename(data, &aside).map_err(|cause| io_failed(data, "set the unusable cache file aside", cause))?;
    Ok(aside)
}

/// Removes what [`set_aside`] kept: those files hold rows too.
pub(super) fn remove_set_aside(directory: &Path) -> Result<()> {
    let failed = |cause| io_failed(directory, "list the cache's directory", cause);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let is_ours = name.to_str().and_then(|name| name.strip_prefix(DATA)?.strip_prefix('.')).is_some_and(|rest| {
            let words = ["truncated-", "foreign-", "newer-", "damaged-"];
            words
                .iter()
                .any(|word| rest.strip_prefix(word).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
        });
        if is_ours {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn owner_only(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    #[cfg(not(unix))]
    let _ = options;
}

/// Whether LMDB can be trusted with this file: an LMDB file, of its format, and not shorter than its header says.
///
/// The outer error is for a file that can't be read at all.
pub(super) fn inspect(path: &Path) -> Result<Result<(), Unsound>> {
    if damage_mark(path).exists() {
        return Ok(Err(Unsound::new("damaged", "an earlier call found it damaged")));
    }
    let read = |file: &mut File| -> io::Result<Result<(), Unsound>> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(IoErrorKind::InvalidInput, "not a regular file"));
        }
        let length = file.metadata()?.len();
        let mut head = Vec::new();
        // Two pages of the largest size LMDB has.
        file.take(2 * 0x10000).read_to_end(&mut head)?;
        Ok(inspect_head(&head, length))
    };
    File::open(path)
        .and_then(|mut file| read(&mut file))
        .map_err(|cause| io_failed(path, "read the cache's file", cause))
}

struct Meta {
    page_size: u64,
    last_page: u64,
    transaction: u64,
}

fn inspect_head(head: &[u8], length: u64) -> Result<(), Unsound> {
    let truncated = |needed: u64| {
        Err(Unsound::new("truncated", format!("it has {length} bytes where its header promises {needed}")))
    };
    if head.len() < META {
        return truncated(META as u64);
    }
    let first = read_meta(head)?;
    if !first.page_size.is_power_of_two() || !(512..=0x10000).contains(&first.page_size) {
        return Err(Unsound::new("damaged", format!("its header names a page size of {}", first.page_size)));
    }
    let Some(second) = head.get(first.page_size as usize..).filter(|rest| rest.len() >= META) else {
        return truncated(2 * first.page_size);
    };
    let second = read_meta(second)?;
    let newest = if second.transaction > first.transaction { &second } else { &first };
    let promised = newest.last_page.checked_add(1).and_then(|pages| pages.checked_mul(first.page_size));
    match promised {
        _ if second.page_size != first.page_size => {
            Err(Unsound::new("damaged", "its two headers contradict each other"))
        }
        None => Err(Unsound::new("damaged", "its header promises more pages than a file can have")),
        Some(promised) if length < promised => truncated(promised),
        Some(_) => Ok(()),
    }
}

/// `page` has at least `META` bytes.
fn read_meta(page: &[u8]) -> Result<Meta, Unsound> {
    let meta = &page[PAGE_HEADER..];
    let trees = 8 + 2 * WORD;
    if u16_at(page, WORD + 2) & META_PAGE == 0 || u32_at(meta, 0) != MAGIC {
        return Err(Unsound::new("foreign", "it is not an LMDB file of this kind of machine"));
    }
    match u32_at(meta, 4) {
        DATA_VERSION => {}
        version if version < DATA_VERSION => {
            return Err(Unsound::new(
                "foreign",
                format!("its LMDB format version is {version}, {DATA_VERSION} is ours"),
            ));
        }
        version => {
            let why = format!("its LMDB format version is {version}, this program knows {DATA_VERSION}");
            return Err(Unsound::new("newer", why));
        }
    }
    Ok(Meta {
        page_size: u64::from(u32_at(meta, trees)),
        last_page: word_at(meta, trees + 2 * TREE),
        transaction: word_at(meta, trees + 2 * TREE + WORD),
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; WORD];
    word.copy_from_slice(&bytes[at..at + WORD]);
    usize::from_ne_bytes(word) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_files_set_aside_by_us_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join(DATA);
        for word in ["truncated", "damaged"] {
            for _ in 0..3 {
                fs::write(&data, word).unwrap();
                set_aside(&data, &Unsound::new(word, "")).unwrap();
            }
        }
        fs::write(directory.path().join("rows.mdb.backup"), "theirs").unwrap();
        fs::write(directory.path().join("rows.mdb.damaged-by-me"), "theirs").unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 8);
        remove_set_aside(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_inspected_without_a_panic(
            mut head in prop::collection::vec(any::<u8>(), 0..9000),
            length in any::<u64>(),
            with_magic in any::<bool>(),
        ) {
            if with_magic {
                for at in [0, 4096] {
                    if head.len() > at + PAGE_HEADER + 8 {
                        head[at + WORD + 2..at + WORD + 4].copy_from_slice(&META_PAGE.to_ne_bytes());
                        head[at + PAGE_HEADER..at + PAGE_HEADER + 4].copy_from_slice(&MAGIC.to_ne_bytes());
                        head[at + PAGE_HEADER + 4..at + PAGE_HEADER + 8].copy_from_slice(&1_u32.to_ne_bytes());
                    }
                    let size = at + PAGE_HEADER + 8 + 2 * WORD;
                    if head.len() > size + 4 {
                        head[size..size + 4].copy_from_slice(&4096_u32.to_ne_bytes());
                    }
                }
            }
            let _ = inspect_head(&head, length);
        }
    }
}
