use crate::RecordStatus;
use crate::prelude::*;

#[test]
fn a_record_view_follows_its_row_only() {
    let source = MemoryVista::new("t", "id").with_rows([("a", record! { "id" => "a", "n" => 1 })]);
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(source).unwrap();
    let view = dio.record_scenery("a").unwrap();
    let shown = || (view.status(), view.generation().0, view.record().and_then(|row| row.int("n")));
    dio.cache().insert("b", record! { "id" => "b", "n" => 5 }).unwrap();
    assert_eq!(shown(), (RecordStatus::Fresh, 0, Some(1)), "another row");
    dio.cache().insert("a", record! { "id" => "a", "n" => 2 }).unwrap();
    assert_eq!(shown(), (RecordStatus::Fresh, 1, Some(2)));
    dio.cache().insert("a", record! { "id" => "a", "n" => 2 }).unwrap();
    assert_eq!(shown(), (RecordStatus::Fresh, 1, Some(2)), "nothing has changed");
    dio.cache().remove("a").unwrap();
    assert_eq!(shown(), (RecordStatus::NotFound, 2, None));
    dio.cache().insert("a", record! { "id" => "a", "n" => 3 }).unwrap();
    assert_eq!(shown(), (RecordStatus::Fresh, 3, Some(3)));
}
