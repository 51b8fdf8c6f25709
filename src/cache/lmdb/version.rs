//! Version: asks the LMDB that was linked which one it is.
//!
//! The binding builds its own LMDB unless the system has one that pkg-config finds, and an application can't be forced to
//! set `LIBLMDB_NO_PKG_CONFIG`; so the library that is really there is looked at before it is used.

#![allow(unsafe_code)]

use std::ffi::c_int;

use crate::{Error, ErrorKind, Result};

/// The first release this is tested with; all 0.9 releases share one file format.
const OLDEST: (c_int, c_int, c_int) = (0, 9, 24);

/// # Errors
/// `Cache` when the linked LMDB is older than 0.9.24 or not a 0.9.
pub(super) fn check() -> Result<()> {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: `mdb_version` writes one int through each pointer that isn't null, and all three point to live, exclusively
    // borrowed ints. It needs no environment, and the static string it returns isn't touched.
    let text = unsafe { lmdb_sys::mdb_version(&raw mut major, &raw mut minor, &raw mut patch) };
    debug_assert!(!text.is_null());
    accept((major, minor, patch))
}

fn accept(version: (c_int, c_int, c_int)) -> Result<()> {
    let (major, minor, patch) = version;
    if version >= OLDEST && (major, minor) == (OLDEST.0, OLDEST.1) {
        return Ok(());
    }
    let message = format!(
        "the LMDB library linked is {major}.{minor}.{patch}, but 0.9.24 or a later 0.9 is needed; set LIBLMDB_NO_PKG_CONFIG \
         when building to use the one that comes with the binding"
    );
    Err(Error::new(ErrorKind::Cache, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linked_lmdb_is_accepted_older_and_next_generation_ones_are_not() {
        check().unwrap();
        assert!(accept((0, 9, 31)).is_ok());
        for version in [(0, 9, 23), (0, 8, 30), (0, 10, 0), (1, 0, 0)] {
            assert_eq!(accept(version).unwrap_err().kind(), ErrorKind::Cache);
        }
    }
}
