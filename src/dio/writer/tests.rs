#![expect(
    clippy::disallowed_methods,
    reason = "a thread of the application that hangs must fail the test; a scope would wait for it"
)]

use std::time::Duration;

use crate::prelude::*;
use crate::sources::memory::Call;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_full_queue_gives_the_write_back() {
    let source = MemoryVista::new("t", "id");
    let lens = Lens::new().in_memory().write_queue_capacity(2).write_timeout(Duration::MAX).build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    let held = source.hold(Call::Upsert);
    let first = dio.try_write(WriteOp::upsert("a", record! { "n" => 1 })).unwrap();
    let second = dio.try_write(WriteOp::upsert("b", record! { "n" => 2 })).unwrap();
    let refused = dio.try_write(WriteOp::upsert("c", record! { "n" => 3 })).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Full);
    assert_eq!(refused.op, WriteOp::upsert("c", record! { "n" => 3 }));
    // One that waits, for as long as there is time, gets the place of the first.
    let waiting = {
        let dio = dio.clone();
        std::thread::spawn(move || dio.write(WriteOp::upsert("d", record! { "n" => 4 })))
    };
    held.release();
    first.wait(SOON).unwrap();
    second.wait(SOON).unwrap();
    waiting.join().unwrap().unwrap().wait(SOON).unwrap();
    assert_eq!(source.row_count(), 3);
}
