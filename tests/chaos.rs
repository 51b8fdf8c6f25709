//! The chaos test: whole Dios over random sources, with faults, latencies, refreshes and writes under way side by side,
//! views, snapshots and restarts, against the plain model of `model.rs`.
//!
//! A run comes from one number, its seed; time is a manual clock, and what is under way stands still until a step lets it
//! go, so that a seed means the same steps and the same answers each time. A failure prints the seed and the last steps.
//!
//! - `DIORAMA_MODEL_SEED=… cargo test --test chaos` runs that seed alone.
//! - `DIORAMA_MODEL_STEPS=1000000 cargo test --release --test chaos` is the long run; 20,000 steps are the short one.

// Helpers outside of #[test] functions fail a test in the same way.
#![allow(clippy::unwrap_used)]

#[path = "chaos/apply.rs"]
mod apply;
#[path = "model/check.rs"]
mod check;
#[path = "chaos/ground.rs"]
mod ground;
#[path = "common/limit.rs"]
mod limit;
#[allow(dead_code, reason = "the model test takes rows in another way")]
#[path = "model/local.rs"]
mod local;
#[allow(dead_code, reason = "the scripts of the model test are not used here")]
#[path = "model/ops.rs"]
mod ops;
#[allow(dead_code, reason = "the model test takes rows in another way")]
#[path = "model/plain.rs"]
mod plain;
#[path = "chaos/run.rs"]
mod run;
#[path = "common/source.rs"]
mod source;
#[path = "chaos/steps.rs"]
mod steps;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use steps::Plan;

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(120);
const SHORT: u64 = 20_000;
/// Steps told of after a failure.
const TOLD: usize = 30;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is to be a number, not {text:?}")))
}

/// What to say of a failed run.
fn story(seed: u64, plan: &Plan, reached: usize) -> String {
    let mut text = format!("\nthe run of seed {seed} ({:?}, disk: {}, ", plan.kind, plan.on_disk);
    text += &format!("small budget: {}, refresh every {:?}); its last steps:\n", plan.small_budget, plan.refresh_every);
    for number in reached.saturating_sub(TOLD - 1)..=reached.min(plan.steps.len() - 1) {
        text += &format!("    {number}. {:?}\n", plan.steps[number]);
    }
    text + &format!("again: DIORAMA_MODEL_SEED={seed} cargo test --test chaos\n")
}

/// Runs one seed; says how many steps it had.
fn run_seed(seed: u64) -> u64 {
    let plan = Arc::new(Plan::of(seed));
    let reached = Arc::new(AtomicUsize::new(0));
    let steps = plan.steps.len() as u64;
    let (told_plan, told_reached) = (plan.clone(), reached.clone());
    let tell = move || story(seed, &told_plan, told_reached.load(Ordering::Relaxed));
    limit::limited_saying(LIMIT, tell.clone(), move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run::run(&plan, &reached))) {
            eprintln!("{}", tell());
            resume_unwind(panic);
        }
    });
    steps
}

#[test]
fn any_run_of_a_whole_dio_equals_the_model() {
    if let Some(seed) = number("DIORAMA_MODEL_SEED") {
        run_seed(seed);
        return;
    }
    let long = number("DIORAMA_MODEL_STEPS");
    let (mut steps, mut runs) = (0, 0);
    while steps < long.unwrap_or(SHORT) {
        // The short one has the same runs each time, so that it tells of the code and not of luck; a long one has others,
        // as the hasher is keyed anew each time it is made.
        steps += run_seed(if long.is_some() { RandomState::new().build_hasher().finish() } else { runs });
        runs += 1;
    }
    println!("{steps} steps in {runs} runs, none wrong");
}

#[test]
fn a_seed_means_the_same_run_each_time() {
    assert_eq!(format!("{:?}", Plan::of(7)), format!("{:?}", Plan::of(7)));
    assert_ne!(format!("{:?}", Plan::of(7)), format!("{:?}", Plan::of(8)));
}
