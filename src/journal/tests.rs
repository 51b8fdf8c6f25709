use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::log::Log;
use super::medium::Medium;
use super::segment::{self, HEADER, Header, Scan};
use super::*;
use crate::sync::deadline_after;
use crate::{Error, ErrorKind, Result};

const SMALL: Limits = Limits { segment: 256, live: 4_096 };

#[derive(Default, Clone)]
struct FileState {
    durable: Vec<u8>,
    /// What was written since the last sync.
    written: Vec<(usize, Vec<u8>)>,
}

impl FileState {
    fn content(&self, writes_kept: usize, torn: Option<usize>) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (at, (place, written)) in self.written.iter().enumerate() {
            let kept = if at < writes_kept { written.len() } else { torn.unwrap_or(0).min(written.len()) };
            if at > writes_kept {
                break;
            }
            let end = (place + kept).max(bytes.len());
            bytes.resize(end, 0);
            bytes[*place..place + kept].copy_from_slice(&written[..kept]);
        }
        bytes
    }
}

/// Files in memory that forget at a crash what was not synced, and fail when told to.
#[derive(Default)]
struct Disk {
    files: BTreeMap<u64, FileState>,
    /// Calls until one fails.
    fails_in: Option<u32>,
    /// A failing call has its effect all the same.
    fails_late: bool,
    aside: Vec<u64>,
    calls: u32,
    syncs: u32,
}

#[derive(Clone, Default)]
struct FakeDisk(Arc<Mutex<Disk>>);

impl FakeDisk {
    fn call<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> Result<T> {
        let mut disk = self.0.lock();
        disk.calls += 1;
        let fails = disk.fails_in == Some(0);
        disk.fails_in = disk.fails_in.and_then(|left| left.checked_sub(1));
        let error = || Error::new(ErrorKind::Cache, "on purpose");
        if fails && !disk.fails_late {
            return Err(error());
        }
        let result = act(&mut disk);
        if fails { Err(error()) } else { Ok(result) }
    }

    fn fail_after(&self, calls: u32, late: bool) {
        let mut disk = self.0.lock();
        disk.fails_in = Some(calls);
        disk.fails_late = late;
    }

    /// What is there after a crash: of what was not synced so many writes, and so many bytes of the next one.
    fn crash(&self, writes_kept: usize, torn: Option<usize>) -> FakeDisk {
        let disk = self.0.lock();
        let files = disk.files.iter().map(|(number, file)| {
            (*number, FileState { durable: file.content(writes_kept, torn), written: Vec::new() })
        });
        FakeDisk(Arc::new(Mutex::new(Disk { files: files.collect(), ..Disk::default() })))
    }

    fn is_set_aside(&self, segment: u64) -> bool {
        self.0.lock().aside.contains(&segment)
    }
}

impl Medium for FakeDisk {
    fn list(&mut self) -> Result<Vec<u64>> {
        self.call(|disk| disk.files.keys().copied().collect())
    }

    fn read(&mut self, segment: u64) -> Result<Vec<u8>> {
        let content = self.call(|disk| disk.files.get(&segment).map(|file| file.content(usize::MAX, None)))?;
        content.ok_or_else(|| Error::new(ErrorKind::Cache, "there is no such segment"))
    }

    fn create(&mut self, segment: u64, beginning: &[u8], size: u64) -> Result<()> {
        // Whole or not there: one that fails is taken back.
        let created = self.call(|disk| {
            let mut bytes = beginning.to_vec();
            bytes.resize(size as usize, 0);
            disk.files.insert(segment, FileState { durable: bytes, written: Vec::new() });
        });
        if created.is_err() {
            self.0.lock().files.remove(&segment);
        }
        created
    }

    fn write(&mut self, segment: u64, place: u64, bytes: &[u8]) -> Result<()> {
        self.call(|disk| disk.files.get_mut(&segment).unwrap().written.push((place as usize, bytes.to_vec())))
    }

    fn sync(&mut self, segment: u64) -> Result<()> {
        self.call(|disk| {
            disk.syncs += 1;
            let file = disk.files.get_mut(&segment).unwrap();
            file.durable = file.content(usize::MAX, None);
            file.written.clear();
        })
    }

    fn delete(&mut self, segment: u64) -> Result<()> {
        self.call(|disk| drop(disk.files.remove(&segment)))
    }

    fn set_aside(&mut self, segment: u64) -> Result<PathBuf> {
        self.call(|disk| {
            disk.files.remove(&segment);
            disk.aside.push(segment);
            PathBuf::from(format!("{segment}.damaged"))
        })
    }
}

fn open(disk: &FakeDisk) -> (Log<FakeDisk>, Opened) {
    Log::open(disk.clone(), SMALL).unwrap()
}

fn entry(number: u64, size: usize) -> (u64, Vec<u8>) {
    (number, vec![number as u8; size])
}

#[test]
fn entries_come_back_in_order_after_a_restart() {
    let disk = FakeDisk::default();
    let (mut log, opened) = open(&disk);
    assert!(opened.entries.is_empty() && opened.warnings.is_empty());
    let entries: Vec<(u64, Vec<u8>)> = (1..30).map(|number| entry(number, number as usize * 3)).collect();
    for pair in entries.chunks(2) {
        log.append(pair).unwrap();
    }
    assert!(disk.0.lock().files.len() > 3, "in several segments");
    let (_, opened) = open(&disk.crash(0, None));
    assert_eq!(opened.entries, entries);
    assert!(opened.warnings.is_empty());
}

#[test]
fn forgotten_entries_give_their_segments_back_oldest_first() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    for number in 1..30 {
        log.append(&[entry(number, 50)]).unwrap();
    }
    log.forget(&(2..30).collect::<Vec<_>>()).unwrap();
    let (_, opened) = open(&disk.crash(0, None));
    assert_eq!(opened.entries.len(), 29, "the first one keeps all that came after it");
    assert!(log.live() < 100);
    log.shrink().unwrap();
    assert_eq!(disk.0.lock().files.len(), 1);
    let disk = disk.crash(0, None);
    let (mut log, opened) = open(&disk);
    assert_eq!(opened.entries, [entry(1, 50)]);
    log.forget(&[1]).unwrap();
    log.append(&[entry(31, 10)]).unwrap();
    // The thread does so after every commit.
    log.forget(&[]).unwrap();
    let (_, opened) = open(&disk.crash(0, None));
    assert_eq!(opened.entries, [entry(31, 10)]);
}

#[test]
fn a_full_log_refuses_and_takes_again_what_fits() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    log.append(&[entry(1, 4_000)]).unwrap();
    assert_eq!(log.append(&[entry(2, 200)]).unwrap_err().kind(), ErrorKind::Full);
    log.append(&[entry(3, 10)]).unwrap();
    log.forget(&[1]).unwrap();
    log.append(&[entry(4, 3_000)]).unwrap();
    let (_, opened) = open(&disk.crash(0, None));
    let numbers: Vec<u64> = opened.entries.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [3, 4]);
}

#[test]
fn a_refused_entry_never_comes_back() {
    for late in [false, true] {
        for call in 0..2 {
            let disk = FakeDisk::default();
            let (mut log, _) = open(&disk);
            log.append(&[entry(1, 20)]).unwrap();
            disk.fail_after(call, late);
            log.append(&[entry(2, 20)]).unwrap_err();
            log.append(&[entry(3, 20)]).unwrap();
            for writes_kept in 0..3 {
                let (_, opened) = open(&disk.crash(writes_kept, Some(30)));
                assert_eq!(opened.entries, [entry(1, 20), entry(3, 20)], "call {call}, late {late}");
            }
        }
    }
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    log.append(&[entry(1, 20)]).unwrap();
    let newer = {
        let mut bytes = Header { segment: 2, before_ends: None }.encode();
        bytes[8] = 9;
        let checksum = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&checksum.to_le_bytes());
        bytes.to_vec()
    };
    disk.0.lock().files.insert(2, FileState { durable: newer, written: Vec::new() });
    let before = disk.crash(0, None);
    let error = Log::open(disk.clone(), SMALL).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("format 9"), "{error}");
    let files = |disk: &FakeDisk| disk.0.lock().files.iter().map(|(n, f)| (*n, f.durable.clone())).collect::<Vec<_>>();
    assert_eq!(files(&disk), files(&before));
}

#[test]
fn damage_in_the_middle_is_told_and_costs_its_segment_only() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    for number in 1..10 {
        log.append(&[entry(number, 60)]).unwrap();
    }
    disk.0.lock().files.get_mut(&1).unwrap().durable[HEADER + 100] ^= 1;
    disk.0.lock().files.get_mut(&2).unwrap().durable[3] ^= 1;
    let (_, opened) = open(&disk);
    assert!(disk.is_set_aside(2));
    assert_eq!(opened.warnings.len(), 2, "{:?}", opened.warnings);
    let numbers: Vec<u64> = opened.entries.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 5, 6, 7, 8, 9]);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    Forget(u8),
    Shrink,
    FailAfter(u8, bool),
    Crash(u8, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(0..120_usize, 1..4).prop_map(Step::Append),
        3 => any::<u8>().prop_map(Step::Forget),
        1 => Just(Step::Shrink),
        2 => (0..6_u8, any::<bool>()).prop_map(|(calls, late)| Step::FailAfter(calls, late)),
        1 => (0..3_u8, prop::option::of(any::<u8>())).prop_map(|(kept, torn)| Step::Crash(kept, torn)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_nothing_durable_is_lost(steps in prop::collection::vec(step(), 1..60)) {
        let mut disk = FakeDisk::default();
        let mut log = open(&disk).0;
        let mut next = 1;
        // What must be there; what may be, because nobody knows what became of it; what was forgotten.
        let mut durable: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut unclear: Vec<u64> = Vec::new();
        let mut forgotten: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Append(sizes) => {
                    let entries: Vec<(u64, Vec<u8>)> =
                        sizes.iter().enumerate().map(|(at, size)| entry(next + at as u64, *size)).collect();
                    next += entries.len() as u64;
                    match log.append(&entries) {
                        Ok(()) => {
                            // The log has gone on behind what was refused.
                            unclear.clear();
                            durable.extend(entries);
                        }
                        Err(error) if error.kind() == ErrorKind::Full => {}
                        Err(_) => unclear.extend(entries.iter().map(|(number, _)| *number)),
                    }
                }
                Step::Forget(which) => {
                    if let Some(place) = usize::from(which).checked_rem(durable.len()) {
                        let (number, _) = durable.remove(place);
                        let _ = log.forget(&[number]);
                        forgotten.push(number);
                    }
                }
                Step::Shrink => drop(log.shrink()),
                Step::FailAfter(calls, late) => disk.fail_after(calls.into(), late),
                Step::Crash(kept, torn) => {
                    disk = disk.crash(kept.into(), torn.map(usize::from));
                    let (reopened, opened) = open(&disk);
                    log = reopened;
                    prop_assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
                    let known = |number: &u64| durable.iter().any(|(other, _)| other == number);
                    let found: Vec<(u64, Vec<u8>)> =
                        opened.entries.iter().filter(|(number, _)| known(number)).cloned().collect();
                    prop_assert_eq!(&found, &durable);
                    for (number, _) in &opened.entries {
                        let may_be = known(number) || forgotten.contains(number) || unclear.contains(number);
                        prop_assert!(may_be, "{} was refused", number);
                    }
                    // Whoever opens a log decides on what it finds.
                    let rest: Vec<u64> =
                        opened.entries.iter().map(|(number, _)| *number).filter(|number| !known(number)).collect();
                    let _ = log.forget(&rest);
                    forgotten.extend(rest);
                    unclear.clear();
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let header = Header { segment: 1, before_ends: None };
        let _ = Header::decode(&bytes);
        let mut scan = Scan::new(&bytes, header);
        while scan.next().is_some() {}
        let _ = scan.ends_clean();
    }

    #[test]
    fn a_changed_byte_ends_the_segment(sizes in prop::collection::vec(0..40_usize, 1..8), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let header = Header { segment: 7, before_ends: None };
        let mut bytes = header.encode().to_vec();
        let mut ends = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            segment::encode(7, bytes.len() as u64, number as u64, &vec![1; *size], &mut bytes);
            ends.push(bytes.len());
        }
        let at = HEADER + at.index(bytes.len() - HEADER);
        bytes[at] ^= 1_u8 << bit;
        let whole = ends.iter().filter(|end| **end <= at).count();
        prop_assert_eq!(Scan::new(&bytes, header).count(), whole);
    }
}

#[test]
fn many_writers_share_one_sync_and_everybody_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = |path: &PathBuf| {
        Journal::open("test:journal".into(), Directory::open(path).unwrap(), Limits::default()).unwrap()
    };
    let (handle, opened) = journal(&path);
    assert!(opened.entries.is_empty());
    let (sender, answers) = crossbeam_channel::unbounded();
    for number in 1..=1_000 {
        let sender = sender.clone();
        handle.append(
            number,
            number.to_string().into(),
            Box::new(move |result| sender.send((number, result)).unwrap()),
        );
    }
    for expected in 1..=1_000 {
        let (number, result) = answers.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!((number, result.is_ok()), (expected, true));
    }
    handle.forget(1..=999);
    assert!(handle.close(deadline_after(Duration::from_secs(60)).unwrap()));
    handle.append(1_001, Vec::new(), Box::new(move |result| sender.send((0, result)).unwrap()));
    assert_eq!(answers.recv_timeout(Duration::from_secs(60)).unwrap().1.unwrap_err().kind(), ErrorKind::Closed);

    let (_handle, opened) = journal(&path);
    assert_eq!(opened.entries.len(), 1_000, "one segment, whose last entry is not forgotten");
    let file = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}
