use proptest::prelude::*;

use super::*;
use crate::record;
use crate::sources::MemoryVista;
use crate::sources::memory::Call;
use crate::vista::query::tests::{any_query, any_rows, plain_answer};
use crate::vista::{Column, ColumnType};

/// A source that takes a chosen part of every query.
struct Partial {
    inner: MemoryVista,
    conditions: u8,
    search: bool,
    sort: bool,
    window: bool,
}

impl TableShell for Partial {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn source_key(&self) -> String {
        self.inner.source_key()
    }

    fn schema(&self) -> Arc<Schema> {
        self.inner.schema()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        let mut split = PushDown::default();
        for (position, condition) in query.conditions.iter().enumerate() {
            let taken = self.conditions & (1 << position) != 0;
            let part = if taken { &mut split.accepted } else { &mut split.residual };
            part.conditions.push(condition.clone());
        }
        (if self.search { &mut split.accepted } else { &mut split.residual }).search = query.search.clone();
        (if self.sort { &mut split.accepted } else { &mut split.residual }).sort = query.sort.clone();
        // Wrong on purpose: it takes a window while something may be left over.
        (if self.window { &mut split.accepted } else { &mut split.residual }).window = query.window;
        split
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        self.inner.list(cx, query)
    }

    fn page(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        self.inner.page(cx, query, after, limit)
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        self.inner.count(cx, query)
    }
}

/// A source with nothing but what it must have.
struct ListOnly;

impl TableShell for ListOnly {
    fn name(&self) -> &str {
        "log"
    }

    fn source_key(&self) -> String {
        "log".to_string()
    }

    fn schema(&self) -> Arc<Schema> {
        Arc::new(Schema::open("id"))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::list_only()
    }

    fn list(&self, _: &CallCx, _: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        Ok(vec![("1".to_string(), record! { "n" => 1 }), ("2".to_string(), record! { "n" => 2 })])
    }
}

fn airports() -> MemoryVista {
    let schema = Schema::new("iata")
        .with(Column::new("iata", ColumnType::Text))
        .with(Column::new("country", ColumnType::Text))
        .with(Column::new("elevation", ColumnType::Int).not_orderable());
    MemoryVista::new("airports", "iata").with_schema(schema).with_rows([
        ("RIX", record! { "iata" => "RIX", "country" => "Latvia", "elevation" => 11 }),
        ("DEN", record! { "iata" => "DEN", "country" => "USA", "elevation" => 1655 }),
        ("00M", record! { "iata" => "00M", "country" => "USA", "elevation" => 107 }),
    ])
}

fn ids(rows: Vec<(String, Record)>) -> Vec<String> {
    rows.into_iter().map(|(id, _)| id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_the_source_takes_the_answer_is_the_same(
        query in any_query(),
        rows in any_rows(),
        conditions in any::<u8>(),
        (search, sort, window, can_window, pushes) in any::<(bool, bool, bool, bool, bool)>(),
    ) {
        let expected = plain_answer(&query, &rows);
        let capabilities = Capabilities { window: can_window, ..Capabilities::read_only() };
        let inner = MemoryVista::new("t", "id").with_rows(rows.clone()).with_capabilities(capabilities).push_down(pushes);
        let direct = Vista::new(inner.clone());
        prop_assert_eq!(&direct.list_query(&CallCx::new(), &query)?, &expected);
        let mut partial = Vista::new(Partial { inner, conditions, search, sort, window });
        prop_assert_eq!(&partial.list_query(&CallCx::new(), &query)?, &expected);

        for condition in &query.conditions {
            partial.add_condition(condition.clone())?;
        }
        partial.set_search(query.search.clone());
        let unordered = QueryDescriptor { sort: Vec::new(), ..query.without_window() };
        prop_assert_eq!(partial.get_count()?, plain_answer(&unordered, &rows).len() as u64);
        for by in &query.sort {
            partial.add_sort_by(by.clone())?;
        }
        if let Some(window) = query.window {
            prop_assert_eq!(&partial.list_window(window.offset, window.limit)?, &expected);
        }
    }

    #[test]
    fn whatever_the_source_takes_pages_put_together_are_the_whole(
        query in any_query(),
        rows in any_rows(),
        conditions in any::<u8>(),
        (search, sort) in any::<(bool, bool)>(),
        limit in 1..5_usize,
    ) {
        let query = query.without_window();
        let can = Capabilities { pages: true, collations: true, ..Capabilities::read_only() };
        let inner = MemoryVista::new("t", "id").with_rows(rows.clone()).with_capabilities(can);
        let vista = Vista::new(Partial { inner, conditions, search, sort, window: false });
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = match vista.page_query(&CallCx::new(), &query, after.as_ref(), limit) {
                Ok(page) => page,
                Err(error) => {
                    prop_assert!(error.kind() == ErrorKind::Unsupported && !sort && !query.sort.is_empty(), "{}", error);
                    return Ok(());
                }
            };
            prop_assert!(page.rows.len() <= limit && !(page.rows.is_empty() && page.next.is_some()));
            found.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        prop_assert_eq!(found, plain_answer(&query, &rows));
    }
}

#[test]
fn clones_keep_their_own_narrowing() -> Result<()> {
    let all = Vista::new(airports());
    let mut usa = all.clone();
    usa.add_condition_eq("country", "USA")?.add_sort("iata", SortDir::Asc)?;
    let mut found = usa.clone();
    found.set_search(Some("den"));
    assert_eq!(ids(all.list_values()?), ["RIX", "DEN", "00M"]);
    assert_eq!(ids(usa.list_values()?), ["00M", "DEN"]);
    assert_eq!(ids(found.list_values()?), ["DEN"]);
    assert_eq!(all.table_key(), "airports");
    assert_eq!(usa.table_key(), r#"airports where country = "USA" order by iata"#);
    assert_eq!((all.get_count()?, usa.get_count()?, found.get_count()?), (3, 2, 1));
    found.set_search(None::<String>);
    assert_eq!(found.table_key(), usa.table_key());
    Ok(())
}

#[test]
fn a_query_narrows_further_and_orders_before_the_own_order() -> Result<()> {
    for pushes in [true, false] {
        let mut usa = Vista::new(airports().push_down(pushes));
        usa.add_condition_eq("country", "USA")?.add_sort("iata", SortDir::Asc)?.set_search(Some("us"));
        let list = |query: QueryDescriptor| usa.list_query(&CallCx::new(), &query).map(ids);
        assert_eq!(list(QueryDescriptor::new())?, ["00M", "DEN"]);
        assert_eq!(list(QueryDescriptor::new().sorted("country", SortDir::Desc))?, ["00M", "DEN"]);
        assert_eq!(list(QueryDescriptor::new().sorted("iata", SortDir::Desc))?, ["DEN", "00M"]);
        assert_eq!(list(QueryDescriptor::new().filtered(Condition::eq("iata", "RIX")))?, [""; 0]);
        let both = QueryDescriptor::new().searching("en").windowed(0, 1);
        assert_eq!(list(both.clone())?, ["DEN"]);
        assert_eq!(usa.count_query(&CallCx::new(), &both)?, 1);
        assert_eq!(usa.answers_itself(&QueryDescriptor::new().windowed(1, 1)), pushes);
        assert!(!usa.answers_itself(&both));
    }
    Ok(())
}

#[test]
fn a_narrowing_that_the_schema_refuses_changes_nothing() {
    let mut vista = Vista::new(airports());
    let error = vista.add_condition_eq("contry", "USA").unwrap_err();
    assert_eq!((error.kind(), error.context("table")), (ErrorKind::NotFound, Some("airports")));
    assert_eq!(error.context("clause"), Some(r#"contry = "USA""#));
    assert_eq!(vista.add_sort("elevation", SortDir::Asc).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(vista.query().is_empty());
    let unknown = QueryDescriptor::new().sorted("nam", SortDir::Asc);
    assert_eq!(vista.list_query(&CallCx::new(), &unknown).unwrap_err().context("table"), Some("airports"));
}

#[test]
fn a_row_outside_the_narrowing_is_none() -> Result<()> {
    let lists = Capabilities { get: false, ..Capabilities::read_only() };
    for source in [airports(), airports().push_down(false), airports().with_capabilities(lists)] {
        let mut usa = Vista::new(source);
        assert!(usa.get_value("RIX")?.is_some());
        usa.add_condition_eq("country", "USA")?;
        assert_eq!(usa.get_value("DEN")?.and_then(|row| row.int("elevation")), Some(1655));
        assert_eq!(usa.get_value("RIX")?, None);
        assert_eq!(usa.get_value("nowhere")?, None);
        assert_eq!(usa.get_value("").unwrap_err().kind(), ErrorKind::Invalid);
    }
    Ok(())
}

#[test]
fn a_source_without_get_count_and_windows_is_listed() -> Result<()> {
    let mut log = Vista::new(ListOnly);
    assert_eq!(log.get_count()?, 2);
    assert_eq!(ids(log.list_window(1, 5)?), ["2"]);
    assert_eq!(log.get_value("2")?, Some(record! { "n" => 2 }));
    log.add_condition(Condition::lt("n", 2))?;
    assert_eq!((log.get_count()?, log.get_value("2")?), (1, None));
    assert!(!log.answers_itself(log.query()));
    Ok(())
}

#[test]
fn what_a_source_does_not_take_is_unsupported_and_names_call_and_table() {
    let row = record! { "n" => 1 };
    let cx = CallCx::new();
    let shell = ListOnly;
    let check = |error: Option<Error>, call: &str| {
        let error = error.unwrap();
        assert_eq!((error.kind(), error.context("table")), (ErrorKind::Unsupported, Some("log")));
        assert!(error.message().contains(&format!("`{call}`")), "{error}");
    };
    check(shell.get(&cx, "1").err(), "get");
    check(shell.count(&cx, &QueryDescriptor::default()).err(), "count");
    check(shell.insert(&cx, None, &row).err(), "insert");
    check(shell.replace(&cx, "1", &row).err(), "replace");
    check(shell.upsert(&cx, "1", &row).err(), "upsert");
    check(shell.patch(&cx, "1", &row).err(), "patch");
    check(shell.delete(&cx, "1").err(), "delete");
    check(shell.delete_all(&cx).err(), "delete_all");
    check(shell.batch(&cx, &[]).err(), "batch");
    check(shell.changes(&cx).err(), "changes");
    let vista = Vista::from(ListOnly);
    check(vista.insert_value(None, &row).err(), "insert");
    check(vista.delete("1").err(), "delete");
    check(vista.batch(&cx, &[]).err(), "batch");
    check(vista.changes(&cx).err(), "changes");
    assert_eq!(vista.stack_level(), 0);
}

#[test]
fn writes_reach_the_source_and_errors_name_table_and_row() -> Result<()> {
    let source = airports();
    let vista = Vista::new(source.clone());
    let row = |iata: &str| record! { "iata" => iata, "country" => "Estonia" };
    assert_eq!(vista.insert_value("TLL", &row("TLL"))?, Written::id("TLL"));
    assert_eq!(vista.insert_value(None, &row("TAY"))?.id.as_deref(), Some("TAY"));
    vista.replace_value("TLL", &record! { "iata" => "TLL" })?;
    vista.patch_value("TLL", &record! { "elevation" => 40 })?;
    assert_eq!(vista.get_value("TLL")?, Some(record! { "iata" => "TLL", "elevation" => 40 }));
    vista.upsert_value("EPU", &row("EPU"))?;
    vista.delete("RIX")?;
    vista.delete("RIX")?;
    assert_eq!(ids(vista.list_values()?), ["DEN", "00M", "TLL", "TAY", "EPU"]);

    let check = |error: Option<Error>, kind: ErrorKind, id: &str| {
        let error = error.unwrap();
        let places = (error.context("table"), error.context("id"));
        assert_eq!((error.kind(), places), (kind, (Some("airports"), Some(id))), "{error}");
    };
    check(vista.insert_value("DEN", &row("DEN")).err(), ErrorKind::Conflict, "DEN");
    check(vista.replace_value("XXX", &row("XXX")).err(), ErrorKind::NotFound, "XXX");
    check(vista.patch_value("XXX", &row("XXX")).err(), ErrorKind::NotFound, "XXX");
    check(vista.upsert_value("", &row("")).err(), ErrorKind::Invalid, "");
    check(vista.insert_value("", &row("")).err(), ErrorKind::Invalid, "");
    assert_eq!(source.calls(Call::Upsert), 1);

    let mut narrowed = vista.clone();
    narrowed.add_condition_eq("country", "Estonia")?;
    assert_eq!(narrowed.delete_all().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(vista.get_count()?, 5);
    vista.delete_all()?;
    assert_eq!(vista.get_count()?, 0);
    Ok(())
}

#[test]
fn a_collation_that_the_source_does_not_know_is_evaluated_here() -> Result<()> {
    let rows = || ["b", "A", "a", "B"].map(|id| (id, record! { "id" => id }));
    let query = QueryDescriptor::new().sorted_with(SortBy::asc("id").case_insensitive()).windowed(1, 2);
    for capabilities in [Capabilities::read_write(), Capabilities { collations: true, ..Capabilities::read_write() }] {
        let vista = Vista::new(MemoryVista::new("t", "id").with_rows(rows()).with_capabilities(capabilities));
        assert_eq!(vista.answers_itself(&query), capabilities.collations);
        assert!(vista.answers_itself(&QueryDescriptor::new().sorted("id", SortDir::Asc).windowed(1, 2)));
        assert_eq!(ids(vista.list_query(&CallCx::new(), &query)?), ["a", "B"]);
        assert_eq!(vista.count_query(&CallCx::new(), &query)?, 4);
    }
    Ok(())
}

#[test]
fn a_cursor_is_good_for_one_narrowing_whoever_evaluates_it() {
    for pushes in [true, false] {
        let airports = Vista::new(airports().push_down(pushes));
        let narrowed = |condition: Condition| {
            let mut narrowed = airports.clone();
            narrowed.add_condition(condition).unwrap();
            narrowed
        };
        let high = narrowed(Condition::gt("elevation", 100));
        let page = high.list_page(None, 1).unwrap();
        let cursor = match page.next {
            // Evaluated here, a page of the source may have no row that matches, and goes on.
            Some(cursor) => cursor,
            None => panic!("one of two rows is the last"),
        };
        assert_eq!(ids(page.rows), ["DEN"]);
        assert_eq!(ids(high.list_page(Some(&cursor), 1).unwrap().rows), ["00M"]);
        let mut searched = high.clone();
        searched.set_search(Some("a"));
        let others = [airports.clone(), narrowed(Condition::lt("elevation", 100)), searched];
        for other in others {
            let error = other.list_page(Some(&cursor), 1).unwrap_err();
            assert_eq!((error.kind(), error.context("table")), (ErrorKind::Invalid, Some("airports")), "{other:?}");
        }
        for (query, limit) in [(QueryDescriptor::new(), 0), (QueryDescriptor::new().windowed(0, 1), 1)] {
            let error = high.page_query(&CallCx::new(), &query, None, limit).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
    let error = Vista::new(ListOnly).list_page(None, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
