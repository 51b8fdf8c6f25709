//! C2, C4, C8: the same contract for every backend, bare and wrapped.

use diorama::cache::{CacheBackend, FaultyBackend, MemoryBackend, contract};

#[test]
fn memory_keeps_the_contract() {
    contract::check(&|| MemoryBackend::new());
}

#[test]
fn a_faulty_wrapper_that_fails_nothing_keeps_the_contract() {
    contract::check(&|| FaultyBackend::new(MemoryBackend::new()));
}

#[test]
fn a_faulty_wrapper_fails_the_call_it_is_told_to_and_counts() {
    let backend = FaultyBackend::new(MemoryBackend::new());
    backend.fail_from(2);
    assert!(backend.open_table("t").is_ok());
    assert!(backend.sync().is_err());
    assert!(backend.tables().is_err());
    backend.heal();
    let table = backend.open_table("t").unwrap();
    let before = backend.calls();
    backend.fail_after(1);
    let mut batch = diorama::cache::CacheBatch::default();
    batch.put(diorama::RowNo(1), "id", *b"bytes");
    assert!(table.apply(&batch).is_err());
    assert_eq!(table.count().unwrap(), 1, "the call was made all the same");
    assert_eq!(backend.calls(), before + 2);
    backend.fail_every(2);
    assert!((0..3).all(|_| backend.sync().is_ok() && table.apply(&Default::default()).is_err()));
    backend.heal();
    assert!((0..3).all(|_| backend.sync().is_ok()));
}

#[cfg(feature = "lmdb")]
mod on_disk {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use diorama::cache::{LmdbBackend, LmdbTestOptions};

    use super::*;

    /// Makes each backend in a directory of its own.
    fn check_in_fresh_directories(open: impl Fn(std::path::PathBuf) -> Arc<dyn CacheBackend>) {
        let root = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        contract::check(&|| open(root.path().join(made.fetch_add(1, Ordering::Relaxed).to_string())));
        contract::check_durable(&|| open(root.path().join("durable")));
    }

    #[test]
    fn lmdb_keeps_the_contract() {
        check_in_fresh_directories(|directory| LmdbBackend::open(directory).unwrap());
    }

    #[test]
    fn lmdb_keeps_the_contract_through_a_faulty_wrapper() {
        check_in_fresh_directories(|directory| FaultyBackend::new(LmdbBackend::open(directory).unwrap()));
    }

    #[test]
    fn lmdb_keeps_the_contract_with_a_map_that_must_grow_all_the_time_and_long_ids_that_collide() {
        let options = LmdbTestOptions { map_size: 1 << 16, max_map_size: 1 << 30, collide_long_ids: true };
        check_in_fresh_directories(|directory| LmdbBackend::open_for_tests(directory, options).unwrap());
    }
}
