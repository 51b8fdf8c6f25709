use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::committer::{Entry, Journal};
use super::log::{Log, Numbered, Opened, SEGMENT_BYTES};
use super::medium::{Directory, Medium};
use super::segment::{self, At, HEADER, Header, Scan};
use crate::sync::deadline_after;
use crate::{Error, ErrorKind, Result};

pub(super) const SMALL: u64 = 256;

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
    /// Segments whose creation or deletion failed: they may be there after a crash.
    ghosts: BTreeMap<u64, FileState>,
    /// Calls until one fails.
    fails_in: Option<u32>,
    /// A failing call has its effect all the same.
    fails_late: bool,
    /// What the files may take together.
    room: Option<u64>,
    aside: Vec<u64>,
    calls: u32,
    changed_at: u32,
    syncs: u32,
}

#[derive(Clone, Default)]
pub(super) struct FakeDisk(Arc<Mutex<Disk>>);

impl FakeDisk {
    fn change<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> Result<T> {
        {
            let mut disk = self.0.lock();
            disk.changed_at = disk.calls + 1;
        }
        self.call(act)
    }

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

    pub(super) fn fail_after(&self, calls: u32, late: bool) {
        let mut disk = self.0.lock();
        disk.fails_in = Some(calls);
        disk.fails_late = late;
    }

    /// Nothing fails any more.
    pub(super) fn heal(&self) {
        let mut disk = self.0.lock();
        disk.fails_in = None;
        disk.room = None;
    }

    /// From now on the files may take so many bytes more; `None`: as many as they like.
    pub(super) fn leave_room(&self, room: Option<u64>) {
        let mut disk = self.0.lock();
        let used: usize = disk.files.values().map(|file| file.durable.len()).sum();
        disk.room = room.map(|room| used as u64 + room);
    }

    /// What is there after a crash: of what was not synced so many writes, and so many bytes of the next one; with segments
    /// whose creation or deletion failed, or without.
    pub(super) fn crash(&self, writes_kept: usize, torn: Option<usize>, ghosts: bool) -> FakeDisk {
        let disk = self.0.lock();
        let ghosts = disk.ghosts.iter().filter(|_| ghosts);
        let files = ghosts.chain(&disk.files).map(|(number, file)| {
            (*number, FileState { durable: file.content(writes_kept, torn), written: Vec::new() })
        });
        FakeDisk(Arc::new(Mutex::new(Disk { files: files.collect(), ..Disk::default() })))
    }

    pub(super) fn calls(&self) -> u32 {
        self.0.lock().calls
    }

    /// Whether these bytes are anywhere on it.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        let disk = self.0.lock();
        let contents = disk.files.values().map(|file| file.content(usize::MAX, None));
        contents.into_iter().any(|content| content.windows(bytes.len()).any(|part| part == bytes))
    }

    /// Whether anything but reading happened since so many calls were made.
    pub(super) fn was_changed_since(&self, calls: u32) -> bool {
        self.0.lock().changed_at > calls
    }

    fn is_set_aside(&self, segment: u64) -> bool {
        self.0.lock().aside.contains(&segment)
    }
}

impl Medium for FakeDisk {
    fn list(&mut self) -> Result<Vec<u64>> {
        self.call(|disk| disk.files.keys().copied().collect())
    }

    fn read(&mut self, segment: u64, at_most: usize) -> Result<Vec<u8>> {
        let content = self.call(|disk| disk.files.get(&segment).map(|file| file.content(usize::MAX, None)))?;
        let mut content = content.ok_or_else(|| Error::new(ErrorKind::Cache, "there is no such segment"))?;
        content.truncate(at_most);
        Ok(content)
    }

    fn create(&mut self, segment: u64, beginning: &[u8], size: u64) -> Result<()> {
        {
            let disk = self.0.lock();
            let used: usize = disk.files.values().map(|file| file.durable.len()).sum();
            if disk.room.is_some_and(|room| used as u64 + size > room) {
                return Err(Error::new(ErrorKind::Full, "the disk is full on purpose"));
            }
        }
        let mut bytes = beginning.to_vec();
        bytes.resize(size as usize, 0);
        let file = FileState { durable: bytes, written: Vec::new() };
        let created = self.change(|disk| drop(disk.files.insert(segment, file.clone())));
        if created.is_err() {
            let mut disk = self.0.lock();
            if disk.files.remove(&segment).is_some() {
                disk.ghosts.insert(segment, file);
            }
        } else {
            self.0.lock().ghosts.remove(&segment);
        }
        created
    }

    fn write(&mut self, segment: u64, place: u64, bytes: &[u8]) -> Result<()> {
        self.change(|disk| disk.files.get_mut(&segment).unwrap().written.push((place as usize, bytes.to_vec())))
    }

    fn sync(&mut self, segment: u64) -> Result<()> {
        self.change(|disk| {
            disk.syncs += 1;
            let file = disk.files.get_mut(&segment).unwrap();
            file.durable = file.content(usize::MAX, None);
            file.written.clear();
        })
    }

    fn delete(&mut self, segment: u64) -> Result<()> {
        let file = self.0.lock().files.get(&segment).cloned();
        let deleted = self.change(|disk| drop(disk.files.remove(&segment)));
        let mut disk = self.0.lock();
        match (&deleted, file) {
            (Ok(()), _) => drop(disk.ghosts.remove(&segment)),
            (Err(_), Some(file)) if !disk.files.contains_key(&segment) => drop(disk.ghosts.insert(segment, file)),
            _ => {}
        }
        deleted
    }

    fn set_aside(&mut self, segment: u64) -> Result<PathBuf> {
        self.change(|disk| {
            disk.files.remove(&segment);
            disk.aside.push(segment);
            PathBuf::from(format!("{segment}.damaged"))
        })
    }

    fn delete_aside(&mut self) -> Result<()> {
        self.change(|disk| disk.aside.clear())
    }
}

fn open(disk: &FakeDisk) -> (Log<FakeDisk>, Opened) {
    Log::open(disk.clone(), SMALL, |_| Ok(())).unwrap()
}

fn entry(number: u64, size: usize) -> Numbered {
    (number, vec![number as u8; size])
}

#[test]
fn entries_come_back_in_order_after_a_restart() {
    let disk = FakeDisk::default();
    let (mut log, opened) = open(&disk);
    assert!(opened.entries.is_empty() && opened.warnings.is_empty());
    let entries: Vec<Numbered> = (1..30).map(|number| entry(number, number as usize * 3)).collect();
    for pair in entries.chunks(2) {
        log.append(pair).unwrap();
    }
    assert!(disk.0.lock().files.len() > 3, "in several segments");
    let (_, opened) = open(&disk.crash(0, None, false));
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
    let (_, opened) = open(&disk.crash(0, None, false));
    assert_eq!(opened.entries.len(), 29, "the first one keeps all that came after it");
    assert!(log.live() < 100);
    log.shrink().unwrap();
    assert_eq!(disk.0.lock().files.len(), 1);
    let disk = disk.crash(0, None, false);
    let (mut log, opened) = open(&disk);
    assert_eq!(opened.entries, [entry(1, 50)]);
    log.forget(&[1]).unwrap();
    log.append(&[entry(31, 10)]).unwrap();
    // The thread does so after every commit.
    log.forget(&[]).unwrap();
    let (_, opened) = open(&disk.crash(0, None, false));
    assert_eq!(opened.entries, [entry(31, 10)]);
}

#[test]
fn a_full_disk_refuses_and_takes_again_what_fits() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    log.append(&[entry(1, 100)]).unwrap();
    disk.leave_room(Some(0));
    assert_eq!(log.append(&[entry(2, 200)]).unwrap_err().kind(), ErrorKind::Full);
    log.append(&[entry(3, 10)]).unwrap();
    disk.leave_room(Some(1_000));
    log.append(&[entry(4, 900)]).unwrap();
    let (_, opened) = open(&disk.crash(0, None, false));
    assert_eq!(opened.entries, [entry(1, 100), entry(3, 10), entry(4, 900)]);
}

#[test]
fn with_little_room_on_the_disk_segments_are_small() {
    let disk = FakeDisk::default();
    let (mut log, _) = Log::open(disk.clone(), SEGMENT_BYTES, |_| Ok(())).unwrap();
    disk.leave_room(Some(20_000));
    log.append(&[entry(1, 100)]).unwrap();
    let (_, opened) = open(&disk.crash(0, None, false));
    assert_eq!(opened.entries, [entry(1, 100)]);
}

#[test]
fn a_number_is_never_given_twice() {
    let disk = FakeDisk::default();
    let (mut log, opened) = open(&disk);
    assert_eq!(opened.next_number, 1);
    log.append(&[entry(7, 20)]).unwrap();
    log.forget(&[7]).unwrap();
    log.leave_clean().unwrap();
    assert_eq!(disk.0.lock().files[&2].durable.len(), HEADER, "nothing is left of it");
    let disk = disk.crash(0, None, false);
    let (mut log, opened) = open(&disk);
    assert_eq!((opened.entries.len(), opened.next_number), (0, 8));
    log.leave_clean().unwrap();
    assert_eq!(disk.0.lock().files.keys().copied().collect::<Vec<_>>(), [2], "it is clean already");
}

#[test]
fn a_segment_that_may_come_back_hides_nothing_durable() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    log.append(&[entry(1, 150)]).unwrap();
    // The second segment is made, but whether its name is durable is not known.
    disk.fail_after(0, true);
    log.append(&[entry(2, 150)]).unwrap_err();
    disk.fail_after(0, false);
    log.append(&[entry(3, 10)]).unwrap_err();
    log.append(&[entry(4, 10)]).unwrap();
    for ghosts in [false, true] {
        let (_, opened) = open(&disk.crash(0, None, ghosts));
        assert_eq!(opened.entries, [entry(1, 150), entry(4, 10)]);
    }
}

#[test]
fn a_torn_rewrite_leaves_the_order_as_it_was() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    for number in 1..6 {
        log.append(&[entry(number, 50)]).unwrap();
    }
    // The new segment is there; of its entries two and a half.
    let calls = disk.calls();
    log.read_live().unwrap();
    let reads = disk.calls() - calls;
    disk.fail_after(reads + 2, false);
    log.rewrite().unwrap_err();
    let (_, opened) = open(&disk.crash(0, Some(160), false));
    assert_eq!(opened.entries, (1..6).map(|number| entry(number, 50)).collect::<Vec<_>>());
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
                let (_, opened) = open(&disk.crash(writes_kept, Some(30), false));
                assert_eq!(opened.entries, [entry(1, 20), entry(3, 20)], "call {call}, late {late}");
            }
        }
    }
}

#[test]
fn a_refused_entry_never_comes_back_though_nothing_more_can_be_appended() {
    for late in [false, true] {
        for call in 0..2 {
            let disk = FakeDisk::default();
            let (mut log, _) = open(&disk);
            log.append(&[entry(1, 20)]).unwrap();
            // No new segment can say that the old one ends before.
            disk.leave_room(Some(0));
            disk.fail_after(call, late);
            log.append(&[entry(2, 20)]).unwrap_err();
            assert_eq!(log.append(&[entry(3, 20)]).unwrap_err().kind(), ErrorKind::Full);
            for writes_kept in 0..3 {
                let (_, opened) = open(&disk.crash(writes_kept, Some(30), false));
                assert_eq!(opened.entries, [entry(1, 20)], "call {call}, late {late}");
                assert!(opened.warnings.is_empty());
            }
            disk.heal();
            log.append(&[entry(4, 20)]).unwrap();
            let (_, opened) = open(&disk.crash(0, None, false));
            assert_eq!(opened.entries, [entry(1, 20), entry(4, 20)], "call {call}, late {late}");
        }
    }
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    log.append(&[entry(1, 20)]).unwrap();
    let newer = {
        let mut bytes = Header { segment: 2, before_ends: None, numbers_from: 1 }.encode();
        bytes[8] = 9;
        let checksum = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&checksum.to_le_bytes());
        bytes.to_vec()
    };
    disk.0.lock().files.insert(2, FileState { durable: newer, written: Vec::new() });
    let before = disk.crash(0, None, false);
    let error = Log::open(disk.clone(), SMALL, |_| Ok(())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("format 9"), "{error}");
    let files = |disk: &FakeDisk| disk.0.lock().files.iter().map(|(n, f)| (*n, f.durable.clone())).collect::<Vec<_>>();
    assert_eq!(files(&disk), files(&before));
}

#[test]
fn damage_is_told_and_costs_what_lies_in_it() {
    let disk = FakeDisk::default();
    let (mut log, _) = open(&disk);
    for number in 1..12 {
        log.append(&[entry(number, 60)]).unwrap();
    }
    // Two entries a segment: the second of the first, the beginning of the second, the first of the last but one.
    disk.0.lock().files.get_mut(&1).unwrap().durable[HEADER + 100] ^= 1;
    disk.0.lock().files.get_mut(&2).unwrap().durable[3] ^= 1;
    disk.0.lock().files.get_mut(&5).unwrap().durable[HEADER + 20] ^= 1;
    let (mut log, opened) = open(&disk);
    assert!(disk.is_set_aside(2));
    assert_eq!(opened.warnings.len(), 3, "{:?}", opened.warnings);
    let numbers = |opened: &Opened| opened.entries.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    assert_eq!(numbers(&opened), [1, 5, 6, 7, 8, 10, 11]);
    log.append(&[entry(12, 60)]).unwrap();
    let (_, opened) = open(&disk);
    assert_eq!(
        numbers(&opened),
        [1, 5, 6, 7, 8, 10, 11, 12],
        "what the third says of the second isn't taken for the first"
    );
}

#[test]
fn damage_in_the_last_segment_is_told_from_a_torn_end() {
    let disk = FakeDisk::default();
    let (mut log, _) = Log::open(disk.clone(), 4_096, |_| Ok(())).unwrap();
    log.append(&[entry(1, 60), entry(2, 60)]).unwrap();
    log.append(&[entry(3, 60)]).unwrap();
    disk.fail_after(1, false);
    let torn = disk.clone();
    log.append(&[entry(4, 60), entry(5, 60)]).unwrap_err();
    torn.0.lock().files.remove(&2);
    let (_, opened) = open(&torn.crash(0, Some(100), false));
    assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
    assert_eq!(opened.entries.len(), 4);
    let damaged = torn.crash(0, None, false);
    damaged.0.lock().files.get_mut(&1).unwrap().durable[HEADER + 100] ^= 1;
    let (_, opened) = open(&damaged);
    assert_eq!(opened.entries, [entry(1, 60), entry(3, 60)]);
    assert_eq!(opened.warnings.len(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    Forget(u8),
    Shrink,
    FailAfter(u8, bool),
    Crash(u8, Option<u8>, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(0..120_usize, 1..4).prop_map(Step::Append),
        3 => any::<u8>().prop_map(Step::Forget),
        1 => Just(Step::Shrink),
        2 => (0..6_u8, any::<bool>()).prop_map(|(calls, late)| Step::FailAfter(calls, late)),
        1 => (0..3_u8, prop::option::of(any::<u8>()), any::<bool>()).prop_map(|(kept, torn, ghosts)| Step::Crash(kept, torn, ghosts)),
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
        let mut durable: Vec<Numbered> = Vec::new();
        let mut unclear: Vec<u64> = Vec::new();
        let mut forgotten: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Append(sizes) => {
                    let entries: Vec<Numbered> =
                        sizes.iter().enumerate().map(|(at, size)| entry(next + at as u64, *size)).collect();
                    next += entries.len() as u64;
                    match log.append(&entries) {
                        Ok(()) => {
                            // The log has gone on behind what was refused.
                            unclear.clear();
                            durable.extend(entries);
                        }
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
                Step::Crash(kept, torn, ghosts) => {
                    disk = disk.crash(kept.into(), torn.map(usize::from), ghosts);
                    let (reopened, opened) = open(&disk);
                    log = reopened;
                    prop_assert!(opened.warnings.is_empty(), "{:?}", opened.warnings);
                    let known = |number: &u64| durable.iter().any(|(other, _)| other == number);
                    let found: Vec<Numbered> =
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
        let header = Header { segment: 1, before_ends: None, numbers_from: 1 };
        let _ = Header::decode(&bytes);
        let _ = segment::holds_entries(&bytes);
        let mut scan = Scan::new(&bytes, header);
        while scan.next().is_some() {}
        let _ = scan.ends_clean();
    }

    #[test]
    fn a_changed_byte_costs_its_batch_and_is_told(
        sizes in prop::collection::vec((0..40_usize, any::<bool>()), 1..8),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let header = Header { segment: 7, before_ends: None, numbers_from: 1 };
        let mut bytes = header.encode().to_vec();
        let mut entries = Vec::new();
        for (number, (size, begins)) in sizes.iter().enumerate() {
            let begins_batch = *begins || number == 0;
            let place = bytes.len();
            let at = At { segment: 7, place: place as u64, begins_batch };
            segment::encode(at, number as u64 + 1, &vec![1; *size], &mut bytes);
            entries.push((number as u64 + 1, begins_batch, bytes.len()));
        }
        let at = HEADER + at.index(bytes.len() - HEADER);
        bytes[at] ^= 1_u8 << bit;
        let before = entries.iter().filter(|(_, _, end)| *end <= at).map(|(number, _, _)| *number);
        let behind = entries.iter().filter(|(_, _, end)| *end > at).skip(1).skip_while(|(_, begins, _)| !begins);
        let expected: Vec<u64> = before.chain(behind.clone().map(|(number, _, _)| *number)).collect();
        let mut scan = Scan::new(&bytes, header);
        let found: Vec<u64> = scan.by_ref().map(|found| found.number).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(scan.is_damaged(), behind.count() > 0);
    }
}

fn soon() -> Option<crate::sync::Deadline> {
    deadline_after(Duration::from_secs(60))
}

#[test]
fn many_writers_share_one_sync_and_everybody_is_answered() {
    let disk = FakeDisk::default();
    let (journal, opened) = Journal::open("test:journal".into(), disk.clone(), SEGMENT_BYTES, |_| Ok(()), ()).unwrap();
    assert!(opened.entries.is_empty());
    let inlet = journal.inlet();
    let (sender, answers) = crossbeam_channel::unbounded();
    // Holds the thread until all have been handed over.
    let (release, held) = crossbeam_channel::bounded::<()>(0);
    inlet.append([Entry::new(inlet.number(0), Vec::new(), false, Box::new(move |_| _ = held.recv()))]);
    for _ in 2..=1_000 {
        let (number, sender) = (inlet.number(0), sender.clone());
        let answer = Box::new(move |result| sender.send((number, result)).unwrap());
        inlet.append([Entry::new(number, number.to_string().into(), false, answer)]);
    }
    drop(release);
    for expected in 2..=1_000 {
        let (number, result) = answers.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!((number, result.is_ok()), (expected, true));
    }
    assert!(disk.0.lock().syncs <= 3, "{} syncs", disk.0.lock().syncs);
    inlet.forget(1..=999);
    assert!(journal.close(soon()));
    let answer = Box::new(move |result| sender.send((0, result)).unwrap());
    inlet.append([Entry::new(1_001, Vec::new(), false, answer)]);
    assert_eq!(answers.recv_timeout(Duration::from_secs(60)).unwrap().1.unwrap_err().kind(), ErrorKind::Closed);
    let (_, opened) = Log::open(disk.crash(0, None, false), SEGMENT_BYTES, |_| Ok(())).unwrap();
    assert_eq!(opened.entries.len(), 1_000, "one segment, whose last entry is not forgotten");
}

#[test]
fn what_is_handed_over_as_one_is_synced_once_and_an_announcement_holds_up_nothing() {
    let disk = FakeDisk::default();
    let (journal, _) = Journal::open("test:journal".into(), disk.clone(), SEGMENT_BYTES, |_| Ok(()), ()).unwrap();
    let inlet = journal.inlet();
    for round in 1..=50 {
        // Whether the thread sleeps, waits for what was announced, or is at the last sync.
        (0..round % 3).for_each(|_| inlet.expect());
        let (sender, answers) = crossbeam_channel::unbounded();
        let entries: Vec<Entry> = (0..10)
            .map(|_| {
                let sender = sender.clone();
                let answer = Box::new(move |result: Result<()>| sender.send(result.is_ok()).unwrap());
                Entry::new(inlet.number(0), vec![7; 20], false, answer)
            })
            .collect();
        inlet.append(entries);
        for _ in 0..10 {
            assert!(answers.recv_timeout(Duration::from_secs(60)).unwrap());
        }
        assert_eq!(disk.0.lock().syncs, round);
    }
    inlet.expect();
    assert!(journal.close(soon()));
}

#[test]
fn whatever_fails_everybody_is_answered_once() {
    for late in [false, true] {
        for call in 0..12 {
            let disk = FakeDisk::default();
            let (journal, _) = Journal::open("test:journal".into(), disk.clone(), SMALL, |_| Ok(()), ()).unwrap();
            disk.fail_after(call, late);
            let inlet = journal.inlet();
            let (sender, answers) = crossbeam_channel::unbounded();
            for at in 0..20_usize {
                let (number, sender) = (inlet.number(0), sender.clone());
                let answer = Box::new(move |result: Result<()>| sender.send((number, result.is_ok())).unwrap());
                inlet.append([Entry::new(number, vec![7; at * 5], at % 3 == 0, answer)]);
            }
            drop(sender);
            assert!(journal.close(soon()));
            let mut answers: Vec<(u64, bool)> = answers.iter().collect();
            answers.sort_unstable();
            assert_eq!(answers.iter().map(|(number, _)| *number).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
            let (_, opened) = open(&disk.crash(0, None, true));
            let durable: Vec<u64> = answers.iter().filter(|(_, is_durable)| *is_durable).map(|(n, _)| *n).collect();
            assert_eq!(opened.entries.iter().map(|(number, _)| *number).collect::<Vec<_>>(), durable, "{call} {late}");
        }
    }
}

#[test]
fn the_files_are_for_their_owner_alone_and_one_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep").join("journal");
    let open = || Log::open(Directory::open(&path)?, SEGMENT_BYTES, |_| Ok(()));
    assert!(!Directory::may_hold_entries(&path));
    let (mut log, _) = open().unwrap();
    log.append(&[entry(1, 20)]).unwrap();
    assert_eq!(open().err().unwrap().kind(), ErrorKind::Cache, "it is open already");
    assert!(Directory::may_hold_entries(&path));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for file in std::fs::read_dir(&path).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
    }
    drop(log);
    let (mut log, opened) = open().unwrap();
    assert_eq!(opened.entries, [entry(1, 20)]);
    log.forget(&[1]).unwrap();
    log.leave_clean().unwrap();
    assert!(!Directory::may_hold_entries(&path));
    let files = std::fs::read_dir(&path).unwrap().count();
    assert_eq!(files, 2, "the lock and an empty segment");
}
