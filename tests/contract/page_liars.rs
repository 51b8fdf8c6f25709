//! Drivers whose pages lie about one thing each, and the rule by which the suite catches each of them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use diorama::prelude::*;
use diorama::vista::contract::{self, Fixture, Rule, Subject};
use diorama::vista::{
    CancelToken, Capabilities, Column, ColumnType, Page, PageCursor, PushDown, QueryDescriptor, Schema, TableShell,
    Total,
};
use diorama::{Result, record};

/// What a driver's pages get wrong. In everything else it is a `MemoryVista`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    SkipARow,
    RepeatARow,
    IgnoreConditions,
    IgnoreTheSort,
    BeginAgain,
    NeverEnd,
    EndEarly,
    CountRows,
    FollowARow,
    AreOfOneMoment,
    AcceptGarbage,
    AcceptOtherQueries,
    AcceptOtherSources,
    ForgetUsedCursors,
    KnowTheirOwnHandleOnly,
    HaveUnprintableCursors,
    HaveTooManyRows,
    AcceptZero,
    AcceptWindows,
    CountThemselves,
    CountTooMany,
    IgnoreCancel,
    IgnoreDeadlines,
    AreEmptyWhenAway,
    ArePromisedOnly,
    AreDeniedAndWork,
}

use Lie::*;

struct Liar {
    lie: Lie,
    inner: MemoryVista,
    used: Mutex<HashSet<String>>,
    made: AtomicU64,
    /// Rows of queries, kept longer than they are true.
    kept: Mutex<HashMap<String, Vec<(String, Record)>>>,
}

fn schema() -> Schema {
    Schema::new("id").with(Column::new("id", ColumnType::Text)).with(Column::new("name", ColumnType::Text))
}

fn liar(lie: Lie, rows: contract::Rows) -> Subject {
    let inner = MemoryVista::new("products", "id").with_schema(schema()).with_rows(rows);
    let new = |inner: &MemoryVista| {
        let (used, made, kept) = (Mutex::default(), AtomicU64::new(0), Mutex::default());
        Liar { lie, inner: inner.clone(), used, made, kept }
    };
    let (outside, offline) = (inner.outside(), inner.clone());
    Subject::new(new(&inner)).second(new(&inner)).offline(move |is_offline| offline.set_offline(is_offline)).outside(
        move |op| match op {
            WriteOp::Upsert { id, record } => outside.upsert(id, record.clone()),
            op => outside.delete(op.id().unwrap_or_default()),
        },
    )
}

fn invalid() -> Error {
    Error::new(ErrorKind::Invalid, "not a cursor of this source")
}

impl Liar {
    fn tells(&self, lie: Lie) -> bool {
        self.lie == lie
    }

    /// What this driver's cursors are good for.
    fn scope<'a>(&self, query: &'a QueryDescriptor, any: &'a QueryDescriptor) -> (String, &'a QueryDescriptor) {
        let key = match self.lie {
            AcceptOtherSources => "products".to_owned(),
            KnowTheirOwnHandleOnly => format!("{:p}", &raw const self.used),
            _ => self.inner.source_key(),
        };
        (key, if self.tells(AcceptOtherQueries) { any } else { query })
    }

    /// Pages over a list, whose cursors are the position of the next row.
    fn by_position(
        &self,
        cx: &CallCx,
        query: &QueryDescriptor,
        after: Option<&PageCursor>,
        limit: usize,
    ) -> Result<Page> {
        let any = QueryDescriptor::new();
        let (key, scope) = self.scope(query, &any);
        let start = match after {
            None => 0,
            Some(cursor) if self.tells(AcceptGarbage) => cursor.as_str().parse().unwrap_or(0),
            Some(cursor) => {
                let place = cursor.open(&key, scope)?;
                usize::from_be_bytes(place.try_into().map_err(|_| invalid())?)
            }
        };
        let rows = self.inner.list(cx, &self.misread(query))?;
        let rows = if self.tells(AreOfOneMoment) {
            self.kept.lock().unwrap().entry(query.canonical()).or_insert(rows).clone()
        } else {
            rows
        };
        let total = rows.len();
        let wanted = if self.tells(HaveTooManyRows) { limit.saturating_add(1) } else { limit };
        let page: Vec<(String, Record)> = rows.into_iter().skip(start).take(wanted).collect();
        let end = start + page.len();
        let next = match self.lie {
            SkipARow if end + 1 < total => Some(end + 1),
            RepeatARow if page.len() > 1 && end < total => Some(end - 1),
            BeginAgain if !page.is_empty() && end >= total => Some(0),
            NeverEnd => Some(end),
            EndEarly if after.is_some() && limit < total => None,
            _ => (end < total).then_some(end),
        };
        let next = next.map(|next| match self.lie {
            AcceptGarbage => PageCursor::from_text(next.to_string()),
            _ => PageCursor::seal(&key, scope, &next.to_be_bytes()),
        });
        let total = match self.lie {
            CountThemselves => Total::Exact(page.len() as u64),
            CountTooMany => Total::AtLeast(total as u64 + 1),
            _ => Total::Exact(total as u64),
        };
        Ok(Page { rows: page, next, total })
    }

    /// Pages whose cursors name the last row that was given.
    fn by_row(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        let key = self.inner.source_key();
        let rows = self.inner.list(cx, query)?;
        let start = match after {
            None => 0,
            Some(cursor) => {
                let last = cursor.open(&key, query)?;
                rows.iter().position(|(id, _)| id.as_bytes() == last).map_or(rows.len(), |last| last + 1)
            }
        };
        let total = rows.len();
        let page: Vec<(String, Record)> = rows.into_iter().skip(start).take(limit).collect();
        let last = page.last().filter(|_| start + page.len() < total);
        let next = last.map(|(id, _)| PageCursor::seal(&key, query, id.as_bytes()));
        Ok(Page { rows: page, next, total: Total::Unknown })
    }

    fn misread(&self, query: &QueryDescriptor) -> QueryDescriptor {
        let mut query = query.clone();
        match self.lie {
            IgnoreConditions => query.conditions.clear(),
            IgnoreTheSort => query.sort.clear(),
            _ => {}
        }
        query
    }
}

impl TableShell for Liar {
    fn name(&self) -> &str {
        "products"
    }

    fn source_key(&self) -> String {
        self.inner.source_key()
    }

    fn schema(&self) -> Arc<Schema> {
        self.inner.schema()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { pages: !self.tells(AreDeniedAndWork), ..self.inner.capabilities() }
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        TableShell::push_down(&self.inner, query)
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        self.inner.list(cx, query)
    }

    fn page(&self, cx: &CallCx, query: &QueryDescriptor, after: Option<&PageCursor>, limit: usize) -> Result<Page> {
        match self.lie {
            AcceptZero if limit == 0 => return Ok(Page::default()),
            AcceptWindows if query.window.is_some() => {
                return self.inner.page(cx, &query.without_window(), after, limit);
            }
            _ => Page::check(query, limit)?,
        }
        match self.lie {
            IgnoreCancel => self.inner.page(&cx.clone().with_cancel(CancelToken::new()), query, after, limit),
            IgnoreDeadlines => self.inner.page(&CallCx::new().with_cancel(cx.cancel.clone()), query, after, limit),
            AreEmptyWhenAway => match self.inner.page(cx, query, after, limit) {
                Err(error) if error.kind() == ErrorKind::Unavailable => Ok(Page::default()),
                answer => answer,
            },
            ForgetUsedCursors => {
                let open = |cursor: &PageCursor| match cursor.as_str().split_once('~') {
                    Some((honest, _)) if self.used.lock().unwrap().insert(cursor.to_string()) => {
                        Ok(PageCursor::from_text(honest))
                    }
                    _ => Err(invalid()),
                };
                let page = self.inner.page(cx, query, after.map(open).transpose()?.as_ref(), limit)?;
                let number = self.made.fetch_add(1, Ordering::Relaxed);
                let next = page.next.map(|next| PageCursor::from_text(format!("{next}~{number}")));
                Ok(Page { next, ..page })
            }
            HaveUnprintableCursors => {
                let open = |cursor: &PageCursor| {
                    cursor.as_str().strip_prefix('\u{7}').map(PageCursor::from_text).ok_or_else(invalid)
                };
                let after = after.map(open).transpose()?;
                let page = self.inner.page(cx, query, after.as_ref(), limit)?;
                let next = page.next.map(|next| PageCursor::from_text(format!("\u{7}{next}")));
                Ok(Page { next, ..page })
            }
            ArePromisedOnly => {
                self.inner.page(cx, query, None, limit)?;
                Err(self.unsupported("page"))
            }
            AreDeniedAndWork | AcceptZero | AcceptWindows => self.inner.page(cx, query, after, limit),
            FollowARow => self.by_row(cx, query, after, limit),
            AcceptOtherQueries | AcceptOtherSources | KnowTheirOwnHandleOnly => {
                // The place itself is right: only what it is good for isn't looked at.
                let any = QueryDescriptor::new();
                let (key, scope) = self.scope(query, &any);
                let text = |place: Vec<u8>| String::from_utf8(place).map_err(|_| invalid());
                let resealed = |place: String| {
                    let honest = PageCursor::from_text(place);
                    // What another source or query sealed is sealed anew, as if it were this one's.
                    match self.inner.page(cx, query, Some(&honest), 1) {
                        Ok(_) => honest,
                        Err(_) => PageCursor::seal(&self.inner.source_key(), query, &[0; 8]),
                    }
                };
                let after = match after {
                    Some(cursor) => Some(resealed(text(cursor.open(&key, scope)?)?)),
                    None => None,
                };
                let page = self.inner.page(cx, query, after.as_ref(), limit)?;
                let next = page.next.map(|next| PageCursor::seal(&key, scope, next.as_str().as_bytes()));
                Ok(Page { next, ..page })
            }
            _ => self.by_position(cx, query, after, limit),
        }
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        self.inner.get(cx, id)
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        self.inner.count(cx, query)
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        self.inner.insert(cx, id, record)
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.inner.replace(cx, id, record)
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.inner.upsert(cx, id, record)
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.inner.patch(cx, id, record)
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        self.inner.delete(cx, id)
    }

    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        self.inner.delete_all(cx)
    }

    fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        self.inner.batch(cx, ops)
    }

    fn changes(&self, cx: &CallCx) -> Result<Box<dyn diorama::vista::ChangeStream>> {
        self.inner.changes(cx)
    }
}

/// The suite catches the liar by `rule`, in words that hold `said`, and by no other rules than those in `also`.
fn catches(lie: Lie, rule: Rule, said: &str, also: &[Rule]) {
    let fixture = Fixture::new(format!("{lie:?}"), schema(), |rows| Ok(liar(lie, rows)));
    let report = contract::try_check(&fixture).unwrap_err();
    let mut expected: Vec<Rule> = also.iter().copied().chain([rule]).collect();
    expected.sort_unstable();
    assert_eq!(report.rules(), expected, "{report}");
    let words = |failure: &contract::Failure| format!("{}: {}", failure.asked, failure.difference);
    let words: Vec<String> = report.failures().iter().filter(|failure| failure.rule == rule).map(words).collect();
    assert!(words.iter().any(|words| words.contains(said)), "nothing says {said:?} in: {words:#?}");
}

macro_rules! liars {
    ($($test:ident: $lie:ident => $rule:ident, $said:literal $(, also $($also:ident)+)?;)+) => {
        $(
            #[test]
            fn $test() {
                catches($lie, Rule::$rule, $said, &[$($(Rule::$also),+)?]);
            }
        )+
    };
}

// A cursor that is the number of a row breaks with every change, whatever else is wrong with it.
liars! {
    pages_that_skip_a_row_are_caught: SkipARow => Pages, "pages of 3: everything", also PagesAmidChanges Cursors;
    pages_that_repeat_a_row_are_caught: RepeatARow => Pages, "pages of 3: everything", also PagesAmidChanges Cursors;
    pages_that_ignore_conditions_are_caught: IgnoreConditions => Pages, "where", also PageTotals PagesAmidChanges;
    pages_that_ignore_the_sort_are_caught: IgnoreTheSort => Pages, "order by", also PagesAmidChanges;
    pages_that_begin_again_are_caught: BeginAgain => Pages, "expected no further row", also PagesAmidChanges;
    pages_that_never_end_are_caught: NeverEnd => PagesEnd, "says that others follow";
    pages_that_end_early_are_caught: EndEarly => Pages, "there is no row 6", also PagesAmidChanges;
    cursors_that_count_rows_are_caught: CountRows => PagesAmidChanges, "of the rows that stayed";
    cursors_that_need_their_row_are_caught: FollowARow => PagesAmidChanges, "of the rows that stayed";
    pages_of_what_was_are_caught: AreOfOneMoment => PagesAmidChanges, "was deleted before this page";
    cursors_of_any_text_are_caught: AcceptGarbage => Cursors, "the cursor \"0\"", also PagesAmidChanges;
    cursors_of_other_queries_are_caught: AcceptOtherQueries => Cursors, "for another query";
    cursors_of_other_sources_are_caught: AcceptOtherSources => Cursors, "of another source";
    cursors_for_one_use_are_caught: ForgetUsedCursors => Cursors, "a page of 5 behind the first";
    cursors_for_one_handle_are_caught: KnowTheirOwnHandleOnly => Cursors, "by a second handle";
    cursors_that_can_not_be_printed_are_caught: HaveUnprintableCursors => Cursors, "printable";
    pages_that_are_too_long_are_caught: HaveTooManyRows => PageLimits, "a page has 4 rows";
    pages_of_no_rows_are_caught: AcceptZero => PageLimits, "a page of 0 rows";
    pages_of_windows_are_caught: AcceptWindows => PageLimits, "a page of a window";
    pages_that_take_themselves_for_all_are_caught: CountThemselves => PageTotals, "Exact(3), and there are 24",
        also PagesAmidChanges;
    pages_that_promise_more_rows_than_there_are_are_caught: CountTooMany => PageTotals, "AtLeast(25), and there are 24",
        also PagesAmidChanges;
    pages_that_ignore_a_cancel_are_caught: IgnoreCancel => Cancelled, "page";
    pages_that_ignore_a_deadline_are_caught: IgnoreDeadlines => Deadline, "page";
    pages_that_are_empty_when_away_are_caught: AreEmptyWhenAway => Offline, "page while away";
    pages_that_are_promised_only_are_caught: ArePromisedOnly => Advertised, "does not support `page`";
    pages_that_are_denied_and_work_are_caught: AreDeniedAndWork => Denied, "page";
}

/// Rows by rows: what the rules above come down to, written out once.
#[test]
fn pages_of_a_table_go_on_where_they_ended_whatever_comes_and_goes() {
    let source = MemoryVista::new("products", "id")
        .with_rows(["a", "b", "c", "d", "e"].map(|id| (id, record! { "name" => id })));
    let products = Vista::new(source.clone());
    let ids = |page: &Page| page.rows.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>().concat();
    let first = products.list_page(None, 2).unwrap();
    assert_eq!((ids(&first).as_str(), first.total), ("ab", Total::Exact(5)));
    let outside = source.outside();
    outside.delete("a").unwrap();
    outside.delete("b").unwrap();
    outside.delete("d").unwrap();
    outside.upsert("a", record! { "name" => "a" }).unwrap();
    let cursor = PageCursor::from_text(first.next.unwrap().as_str());
    let second = products.list_page(Some(&cursor), 2).unwrap();
    assert_eq!((ids(&second).as_str(), second.total), ("ce", Total::Exact(3)));
    let last = products.list_page(second.next.as_ref(), 2).unwrap();
    assert_eq!((ids(&last).as_str(), last.next), ("a", None));
    let mut narrowed = products.clone();
    narrowed.add_condition_eq("name", "c").unwrap();
    assert_eq!(narrowed.list_page(Some(&cursor), 2).unwrap_err().kind(), ErrorKind::Invalid);
}
