//! The journal when its files are damaged, of another version, or find no room: what was accepted before stays, and what
//! can't be kept is refused.

#![cfg(all(target_os = "linux", feature = "lmdb"))]
// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "common/limit.rs"]
mod limit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use diorama::WriteState;
use diorama::prelude::*;
use diorama::sources::memory::Call;

const SOON: Duration = Duration::from_secs(20);
const WHOLE: Duration = Duration::from_secs(120);

/// Says to the copy of this program where its cache is.
const CHILD: &str = "DIORAMA_FULL_DISK_CHILD";

fn products() -> MemoryVista {
    let row = |number: i64| (format!("p{number}"), record! { "id" => format!("p{number}"), "price" => number });
    MemoryVista::new("products", "id").with_source_key("products").with_rows((0..10).map(row))
}

fn away(source: &MemoryVista) {
    source.fail_next(Call::Patch, u64::MAX, Error::new(ErrorKind::Unavailable, "no network"));
}

fn lens(directory: &Path) -> Lens {
    Lens::new().cache_at(directory).build().unwrap()
}

/// The prices that wait to be delivered, in the order of acceptance.
fn pending(dio: &Dio) -> Vec<i64> {
    dio.pending_writes().iter().map(|write| write.op.record().unwrap().int("price").unwrap()).collect()
}

fn patch(price: i64) -> WriteOp {
    WriteOp::patch(format!("p{}", price % 10), record! { "price" => price })
}

/// A cache whose journal has these prices for a source that is away.
fn left_undelivered(directory: &Path, source: &MemoryVista, prices: std::ops::Range<i64>) {
    let lens = lens(directory);
    let dio = lens.make_dio(source.clone()).unwrap();
    away(source);
    for price in prices {
        dio.write(patch(price)).unwrap().wait_durable(SOON).unwrap();
    }
    drop(dio);
    assert!(lens.close(SOON).unwrap().is_closed());
}

fn newest_segment(directory: &Path) -> PathBuf {
    let files = fs::read_dir(directory.join("journal")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension != "lock")).max().unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let (path, to) = (file.as_ref().unwrap().path(), to.join(file.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn a_journal_that_is_cut_anywhere_keeps_all_that_lies_before_the_cut() {
    limit::limited(WHOLE, || {
        let directory = tempfile::tempdir().unwrap();
        let (whole, cut) = (directory.path().join("whole"), directory.path().join("cut"));
        let source = products();
        left_undelivered(&whole, &source, 100..108);
        let segment = newest_segment(&whole).file_name().unwrap().to_owned();
        let bytes = fs::read(newest_segment(&whole)).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let mut found = Vec::new();
        for length in (0..=used).step_by(step()).chain([used]) {
            let _ = fs::remove_dir_all(&cut);
            copy(&whole, &cut);
            fs::write(cut.join("journal").join(&segment), &bytes[..length]).unwrap();
            let lens = lens(&cut);
            let dio = lens.make_dio(source.clone()).unwrap();
            let kept = pending(&dio);
            assert_eq!(kept, (100..100 + kept.len() as i64).collect::<Vec<_>>(), "cut at {length}");
            assert!(found.last().is_none_or(|fewer| *fewer <= kept.len()), "cut at {length}");
            found.push(kept.len());
            // It takes new writes, and keeps both.
            dio.write(patch(200)).unwrap().wait_durable(SOON).unwrap();
            assert_eq!(lens.close(SOON).unwrap().kept, kept.len() as u64 + 1);
        }
        assert_eq!((found.first(), found.last()), (Some(&0), Some(&8)));
    });
}

/// `DIORAMA_EVERY_BYTE=1` cuts at every byte.
fn step() -> usize {
    if std::env::var_os("DIORAMA_EVERY_BYTE").is_some() { 1 } else { 29 }
}

#[test]
fn a_journal_of_a_newer_format_is_refused_and_left_as_it_is() {
    limit::limited(WHOLE, || {
        let directory = tempfile::tempdir().unwrap();
        let source = products();
        left_undelivered(directory.path(), &source, 100..103);
        let segment = newest_segment(directory.path());
        let old = fs::read(&segment).unwrap();
        let mut newer = old.clone();
        newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let checksum = crc32fast::hash(&newer[..36]);
        newer[36..40].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&segment, &newer).unwrap();
        let lens = lens(directory.path());
        let refused = lens.make_dio(source.clone()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
        assert!(refused.to_string().contains("format 2"), "{refused}");
        assert!(lens.close(SOON).unwrap().is_closed());
        assert!(fs::read(&segment).unwrap() == newer, "the journal was changed");

        fs::write(&segment, &old).unwrap();
        let lens = self::lens(directory.path());
        let dio = lens.make_dio(source).unwrap();
        assert_eq!(pending(&dio), [100, 101, 102]);
    });
}

#[test]
fn w6_a_full_journal_refuses_a_write_and_keeps_what_it_has() {
    limit::limited(WHOLE, || {
        let directory = tempfile::tempdir().unwrap();
        let source = products();
        let build = |timeout| {
            let lens = Lens::new().cache_at(directory.path()).journal_capacity(4_096).write_timeout(timeout);
            lens.build().unwrap()
        };
        let lens = build(Duration::ZERO);
        let dio = lens.make_dio(source.clone()).unwrap();
        away(&source);
        let view = dio.table_scenery().open().unwrap();
        let mut accepted = Vec::new();
        let refused = (100..).find_map(|price| {
            let written = dio.write(patch(price)).and_then(|ticket| ticket.wait_durable(SOON));
            if written.is_ok() {
                accepted.push(price);
            }
            written.err()
        });
        assert_eq!(refused.map(|error| error.kind()), Some(ErrorKind::Full));
        assert!(accepted.len() > 2);
        assert!(dio.try_write(patch(999)).is_err());
        assert_eq!(pending(&dio), accepted);
        assert!(view.snapshot().iter().all(|row| row.int("price") != Some(999)));
        assert_eq!(lens.close(SOON).unwrap().kept, accepted.len() as u64);
        drop((dio, view));

        let lens = build(SOON);
        let dio = lens.make_dio(source.clone()).unwrap();
        assert_eq!(pending(&dio), accepted);
        source.heal();
        for write in dio.pending_writes() {
            let _ = dio.retry_write(write.number);
        }
        dio.wait_for_writes(SOON).unwrap();
        dio.write(patch(999)).unwrap().wait(SOON).unwrap();
        assert_eq!(source.row("p9").unwrap().int("price"), Some(999));
    });
}

/// No file of this process may have more than some kilobytes from now on: what goes beyond fails, as on a full disk.
fn fill_the_disk() {
    let pid = std::process::id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--fsize=8192:8192"]).status().unwrap();
    assert!(limited.success());
}

#[test]
#[ignore = "the test below runs it in a process of its own"]
fn a_child_without_room_on_the_disk() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let source = products();
    away(&source);
    let lens = lens(Path::new(&directory));
    let dio = lens.make_dio(source).unwrap();
    println!("found {:?}", pending(&dio));
    for price in 200..400 {
        if price == 210 {
            fill_the_disk();
        }
        let ticket = dio.write(patch(price)).unwrap();
        match ticket.wait_durable(SOON) {
            Ok(()) => println!("accepted {price}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                assert!(matches!(ticket.state(), WriteState::Rejected(_)), "{ticket:?}");
                println!("refused {price}");
            }
        }
    }
    assert!(lens.close(SOON).unwrap().is_closed());
}

#[test]
fn a_full_disk_refuses_writes_and_loses_none_that_was_accepted() {
    limit::limited(WHOLE, || {
        let directory = tempfile::tempdir().unwrap();
        let source = products();
        left_undelivered(directory.path(), &source, 100..103);
        // Or the signal of a file that is too large would end it.
        let child = "trap '' XFSZ; exec \"$0\" --exact a_child_without_room_on_the_disk --ignored --nocapture";
        let child = Command::new("sh")
            .args(["-c", child])
            .arg(std::env::current_exe().unwrap())
            .env(CHILD, directory.path())
            .output()
            .unwrap();
        let (said, complained) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        assert!(child.status.success(), "{said}{complained}");
        assert!(said.contains("found [100, 101, 102]"), "{said}");
        let prices = |what: &str| -> Vec<i64> {
            said.lines().filter_map(|line| line.strip_prefix(what)?.trim().parse().ok()).collect()
        };
        let (accepted, refused) = (prices("accepted"), prices("refused"));
        assert!(accepted.len() > 12 && refused.len() > 12, "{said}");

        source.heal();
        let lens = lens(directory.path());
        away(&source);
        let dio = lens.make_dio(source.clone()).unwrap();
        let expected: Vec<i64> = (100..103).chain(accepted).collect();
        assert_eq!(pending(&dio), expected);
        source.heal();
        for write in dio.pending_writes() {
            let _ = dio.retry_write(write.number);
        }
        dio.wait_for_writes(SOON).unwrap();
        for price in expected {
            let row = source.row(&format!("p{}", price % 10)).unwrap();
            assert!(row.int("price") >= Some(price));
        }
    });
}
