use std::time::Duration;

use crate::prelude::*;
use crate::sources::memory::Call;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn two_refreshes_at_once_run_once() {
    let source = MemoryVista::new("t", "id").with_rows([("a", record! { "id" => "a" })]);
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(source.clone()).unwrap();
    let held = source.hold(Call::List);
    let first = dio.inner().refresher.refresh().unwrap();
    assert!(held.wait_until_held(1, SOON));
    let second = dio.inner().refresher.refresh().unwrap();
    source.fail_next(Call::List, 1, Error::new(ErrorKind::Unavailable, "away"));
    held.release();
    assert_eq!(first.wait().unwrap_err().kind(), ErrorKind::Unavailable, "both get its result");
    assert_eq!(second.wait().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(source.calls(Call::List), 2, "the first copy and one refresh");
    dio.refresh().unwrap();
    assert_eq!(source.calls(Call::List), 3);
}
