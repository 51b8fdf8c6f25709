//! The model test: random operations on a whole Dio against plain lists, a full filter and a full sort.
//!
//! The model knows nothing of indexes, versions, batches or threads: conditions, search, sums and order are written down
//! here once more, in the plainest way. Only the order of two values is the library's (`value::compare`), which has tests of
//! its own.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "model/check.rs"]
mod check;
#[path = "common/limit.rs"]
mod limit;
#[allow(dead_code, reason = "one write at a time is unsettled here")]
#[path = "model/local.rs"]
mod local;
#[path = "model/ops.rs"]
mod ops;
#[path = "model/plain.rs"]
mod plain;
#[path = "model/run.rs"]
mod run;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use ops::{Script, script};

/// How long one script may take, for the calls that take no timeout.
const LIMIT: Duration = Duration::from_secs(120);

fn limited(run: impl FnOnce() + Send + 'static) {
    limit::limited(LIMIT, run);
}

fn config(cases: u32) -> ProptestConfig {
    let regressions = FileFailurePersistence::Direct("proptest-regressions/model.txt");
    ProptestConfig {
        cases,
        max_shrink_iters: 2_000,
        max_shrink_time: 60_000,
        failure_persistence: Some(Box::new(regressions)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(2_000))]

    #[test]
    fn t1_t4_t5_r_v_any_script_over_memory_equals_the_model(script in script(1..30)) {
        limited(move || run::over_memory(&script));
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn t4_any_script_beyond_the_snapshot_budget_equals_the_model_or_says_expired(script in script(10..40)) {
        limited(move || run::beyond_the_budget(&script));
    }

    #[test]
    fn t1_any_long_script_equals_the_model(script in script(100..200)) {
        limited(move || run::over_memory(&script));
    }
}

#[cfg(feature = "lmdb")]
proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn c1_any_script_over_a_disk_with_restarts_equals_the_model(script in script(5..40)) {
        limited(move || run::over_disk(&script));
    }
}

#[test]
fn a_script_prints_one_operation_a_line() {
    let text = format!("{:?}", Script(vec![ops::Op::Clear, ops::Op::Refresh]));
    assert_eq!(text, "\n    1. Clear\n    2. Refresh\n");
}
