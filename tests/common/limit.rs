//! Limit: runs what must end in time; when it doesn't, tells where every thread of the process stands, and aborts.
//!
//! A failed assertion would leave a hanging thread, and with it the reason, behind. The stacks come from `gdb` where there
//! is one; the names of the threads and what the kernel says they wait in come from `/proc`. Both on Linux alone.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs a test's body on a thread of its own, for `limit` at the most.
pub(crate) fn limited(limit: Duration, body: impl FnOnce() + Send + 'static) {
    limited_saying(limit, String::new, body);
}

/// The same; `what` says what the body was at when its time was over.
pub(crate) fn limited_saying(limit: Duration, what: impl FnOnce() -> String, body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("test").to_owned();
    let test = thread::Builder::new().name(name.clone()).spawn(move || {
        let _done = done;
        body();
    });
    let test = test.unwrap();
    if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        hangs(&format!("{name} {}", what()));
    }
    if let Err(panic) = test.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Tells where every thread stands, and ends the process.
pub(crate) fn hangs(what: &str) -> ! {
    // Not by `eprintln`, whose text the test harness keeps until the test ends.
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "\n`{what}` hangs; where every thread of this process stands:");
    #[cfg(target_os = "linux")]
    dump::threads(&mut stderr);
    let _ = writeln!(stderr, "`{what}` hangs; the process is aborted");
    std::process::abort();
}

#[cfg(target_os = "linux")]
mod dump {
    use std::fs;
    use std::io::{Stderr, Write};
    use std::process::{Command, Stdio};

    pub(super) fn threads(stderr: &mut Stderr) {
        for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default().trim().to_owned();
            let number = task.file_name();
            let number = number.to_string_lossy();
            // The number of the system call (202 on x86-64 is futex, a lock or a wait), its arguments aside.
            let syscall = read("syscall").split(' ').next().unwrap_or_default().to_owned();
            let _ = writeln!(
                stderr,
                "thread {number} `{}`: in {} of the kernel, system call {syscall}",
                read("comm"),
                read("wchan")
            );
        }
        let pid = std::process::id().to_string();
        // The output goes straight to the error stream: this process stands still while it is looked at, and could not
        // read a pipe. `timeout` ends a debugger that hangs, too.
        let debugger = Command::new("timeout")
            .args(["120", "gdb", "-batch", "-nx", "-iex", "set debuginfod enabled off", "-iex", "set pagination off"])
            .args(["-p", &pid, "-ex", "thread apply all backtrace"])
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::io::stderr()))
            .stderr(Stdio::null())
            .status();
        if !debugger.is_ok_and(|status| status.success()) {
            let _ = writeln!(stderr, "no stacks: gdb is not here, or may not look at this process");
        }
    }
}
