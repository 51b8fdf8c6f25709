use proptest::prelude::*;

use super::*;
use crate::Seq;
use crate::prelude::*;
use crate::value::StoredRow;
use crate::vista::{QueryDescriptor, Schema, SortBy};

const ROWS: i64 = 2 * LARGE as i64;

fn row(n: i64) -> Record {
    record! { "id" => format!("r{n}"), "n" => n * 7_919 % 1_009, "name" => format!("{} {}", n % 7, n % 11) }
}

fn dio() -> (Lens, Dio) {
    let rows: Vec<(String, Record)> = (0..ROWS).map(|n| (format!("r{n}"), row(n))).collect();
    let lens = Lens::new().in_memory().build().unwrap();
    let dio = lens.make_dio(MemoryVista::new("t", "id").with_rows(rows)).unwrap();
    (lens, dio)
}

fn query(search: Option<&str>, dir: SortDir) -> Arc<ViewQuery> {
    let descriptor = QueryDescriptor {
        sort: vec![SortBy::new("n", dir)],
        search: search.map(str::to_owned),
        ..QueryDescriptor::default()
    };
    Arc::new(ViewQuery::new(&descriptor, &Schema::open("id")).unwrap())
}

/// What is shown first of a query, and all of it, by a scan of the table.
fn built(dio: &Dio, query: &Arc<ViewQuery>, ordered: Option<Tree<Entry>>) -> (Option<First>, Tree<Entry>) {
    built_from(dio, query, Rows::Table, ordered)
}

fn built_from(
    dio: &Dio,
    query: &Arc<ViewQuery>,
    rows: Rows,
    ordered: Option<Tree<Entry>>,
) -> (Option<First>, Tree<Entry>) {
    let inner = dio.inner();
    let pin = Arc::new(inner.reader.versions.pin_to_read());
    let helper = (inner.lens.load_pool.clone(), Rank::new(inner.level, crate::sync::Role::Load));
    let ground = Ground { rows, ordered, is_large: true, helper, rows_upto: ROWS as u64 };
    let mut first = None;
    let show_first = &mut |shown| assert!(first.replace(shown).is_none(), "once");
    let body = Body::build(&BodyKind::Table, query, &ground, &pin, &CancelToken::new(), show_first).unwrap();
    match body {
        Body::Table(tree) => (first, tree),
        Body::Value(_) => panic!("a table was asked for"),
    }
}

fn is_beginning(first: &First, whole: &Tree<Entry>) -> bool {
    first.tree().iter().zip(whole.iter()).all(|(first, entry)| first.same(entry))
}

#[test]
fn the_first_rows_of_a_large_list_are_those_it_begins_with() {
    let (_lens, dio) = dio();
    for dir in [SortDir::Asc, SortDir::Desc] {
        let (first, whole) = built(&dio, &query(None, dir), None);
        let first = first.unwrap();
        assert_eq!((first.tree().len(), whole.len()), (FIRST_ROWS, ROWS as usize));
        assert!(is_beginning(&first, &whole));
    }
}

#[test]
fn a_list_in_the_right_order_gives_the_first_rows_before_the_table_is_read() {
    let (_lens, dio) = dio();
    let ordered = built(&dio, &query(None, SortDir::Asc), None).1;
    for text in ["3", "6 1", "5 10"] {
        let query = query(Some(text), SortDir::Asc);
        let (first, whole) = built(&dio, &query, Some(ordered.clone()));
        let first = first.unwrap();
        assert!(first.tree().len() <= whole.len() && is_beginning(&first, &whole));
        let anew = built(&dio, &query, None).1;
        assert_eq!(anew.len(), whole.len());
        // A list that was looked through to its end holds them all.
        let (first, of_few) = built(&dio, &query, Some(ordered.part(0..FIRST_ROWS)));
        assert!(first.is_none() && of_few.iter().zip(whole.iter()).all(|(a, b)| a.same(b)));
    }
    let (first, whole) = built(&dio, &query(Some("nobody"), SortDir::Asc), Some(ordered));
    assert!(first.is_none() && whole.is_empty());
}

#[test]
fn a_list_that_is_narrowed_is_the_list_made_anew() {
    let (_lens, dio) = dio();
    let list = built(&dio, &query(Some("1"), SortDir::Asc), None).1;
    assert!(list.len() > 2 * ROWS_OF_PIECE, "several pieces");
    for text in ["1", "11", "r1", "1 1", "nobody"] {
        for (dir, is_ordered) in [(SortDir::Asc, true), (SortDir::Asc, false), (SortDir::Desc, false)] {
            let query = query(Some(text), dir);
            let anew = built(&dio, &query, None).1;
            let narrowed = built_from(&dio, &query, Rows::Among(list.clone(), is_ordered), None).1;
            assert_eq!(narrowed.len(), anew.len(), "{text}");
            assert!(narrowed.iter().zip(anew.iter()).all(|(a, b)| a.same(b)), "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn first_rows_stay_what_the_list_begins_with(
        rows in prop::collection::vec(0_i64..40, FIRST_ROWS..60),
        changes in prop::collection::vec((0_usize..70, prop::option::of(-5_i64..45)), 1..60),
    ) {
        let query = query(None, SortDir::Asc);
        let mut scratch = Vec::new();
        let stored = |number: usize, n: i64, seq: u64| {
            let mut row = StoredRow::encode(&format!("r{number}"), &record! { "n" => n }, 0);
            row.set_seq(Seq(seq));
            row
        };
        let mut now: Vec<Option<StoredRow>> = rows.iter().enumerate().map(|(at, n)| Some(stored(at, *n, 1))).collect();
        let whole = |now: &[Option<StoredRow>], scratch: &mut Vec<u8>| {
            let entry = |(at, row): (usize, &Option<StoredRow>)| Some(query.entry(RowNo(at as u64), row.as_ref()?, scratch));
            Tree::<Entry>::from_sorted(Sorted::of(vec![now.iter().enumerate().filter_map(entry).collect()]))
        };
        let mut first = First::new(whole(&now, &mut scratch).iter().take(FIRST_ROWS).cloned().collect()).unwrap();
        for (step, (at, n)) in changes.into_iter().enumerate() {
            now.resize(now.len().max(at + 1), None);
            let before = now[at].take();
            now[at] = n.map(|n| stored(at, n, step as u64 + 2));
            let touched = crate::dio::core::Touched { row: RowNo(at as u64), before, after: now[at].clone() };
            let batch = Changed { touched: vec![touched], fresh: None };
            let was: Vec<Entry> = first.tree().iter().cloned().collect();
            let moved = first.apply(&query, &batch, &mut scratch);
            prop_assert!(is_beginning(&first, &whole(&now, &mut scratch)));
            let same = was.len() == first.tree().len() && was.iter().zip(first.tree().iter()).all(|(a, b)| a.same(b));
            prop_assert!(moved || same);
        }
    }
}
