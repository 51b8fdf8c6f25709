//! A test that hangs tells where every thread stands.

#![cfg(target_os = "linux")]
// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "common/limit.rs"]
mod limit;

use std::process::Command;
use std::time::Duration;

use diorama::prelude::*;
use diorama::sources::memory::Call;

/// Says to the copy of this program that it is to hang.
const MARK: &str = "DIORAMA_TEST_IS_TO_HANG";

#[test]
#[ignore = "hangs on purpose; the test below runs it in a process of its own"]
fn this_one_hangs_on_purpose() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    limit::limited_saying(
        Duration::from_secs(1),
        || "at the first copy".to_owned(),
        || {
            let source = MemoryVista::new("stuck", "id");
            let _held = source.hold(Call::List);
            let lens = Lens::new().in_memory().name("hung").build().unwrap();
            let _ = lens.make_dio(source.clone());
        },
    );
}

#[test]
fn a_test_that_hangs_names_every_thread_and_ends() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "this_one_hangs_on_purpose", "--ignored"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success(), "{said}");
    for wanted in ["this_one_hangs_on_purpose at the first copy", "`stuck:core`", "`stuck:refresh`", "`memory:store`"] {
        assert!(said.contains(wanted), "{wanted} is not in: {said}");
    }
    let has_stacks = said.contains("refresh::run");
    assert!(has_stacks || said.contains("no stacks"), "{said}");
}
