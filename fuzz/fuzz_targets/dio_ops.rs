//! A whole Dio: any sequence of operations, over memory, beyond the snapshot budget, or over a disk with restarts, against
//! the plain model that the property test of the library (`tests/model.rs`) has.

#![no_main]

#[path = "../../tests/model/check.rs"]
mod check;
#[path = "dio_script.rs"]
mod dio_script;
#[path = "../../tests/model/local.rs"]
#[allow(dead_code, reason = "the chaos test has more writes under way")]
mod local;
#[path = "../../tests/model/ops.rs"]
#[allow(dead_code, reason = "the strategies beside the operations are for the property test")]
mod ops;
#[path = "../../tests/model/plain.rs"]
mod plain;
#[path = "../../tests/model/run.rs"]
mod run;

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((kind, rest)) = data.split_first() else { return Corpus::Reject };
    let script = dio_script::script(&mut Unstructured::new(rest));
    if std::env::var_os("SHOW_SCRIPT").is_some() {
        eprintln!("{script:?}");
    }
    match kind % 8 {
        0 => run::over_disk(&script),
        1 | 2 => run::beyond_the_budget(&script),
        _ => run::over_memory(&script),
    }
    Corpus::Keep
});
