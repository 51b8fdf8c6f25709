//! Drivers that lie about one thing each, and the rule by which the suite catches each of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diorama::prelude::*;
use diorama::sources::memory::Call;
use diorama::vista::contract::{self, Fixture, Rule, Subject};
use diorama::vista::{
    CancelToken, Capabilities, ChangeStream, Column, ColumnType, PushDown, QueryDescriptor, Schema, TableShell,
};
use diorama::{Result, record};

/// What a driver gets wrong. In everything else it is a `MemoryVista`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    WindowIgnoresTheOffset,
    PagesOverlap,
    WindowIsTakenBeforeTheRest,
    ConditionIsDropped,
    ConditionIsLostInPushDown,
    NeLeavesOutNull,
    LikeIgnoresCase,
    NumbersSortAsText,
    TextSortsWithoutCase,
    TextSortsWithCase,
    NullsComeFirst,
    TiesAreReversed,
    SearchMissesNumbers,
    SearchMindsCase,
    CountIsOneOff,
    CountMindsTheWindow,
    CountIsPromisedOnly,
    GetIgnoresCase,
    IdsLoseLeadingZeros,
    ListForgetsTheLastRow,
    ListChangesItsOrder,
    NothingIsPromisedAndAllWorks,
    InsertOverwrites,
    AnotherIdIsAnswered,
    AnotherRowIsAnswered,
    ReplaceMerges,
    ReplaceCreates,
    UpsertMerges,
    PatchReplaces,
    PatchCreates,
    DeleteOfAMissingRowFails,
    DeleteAllLeavesARow,
    RefusedInsertLeavesARow,
    UnknownColumnsAreTaken,
    NumbersComeBackAsFloats,
    BatchIsDoneInPart,
    RepeatedInsertIsDoneAgain,
    LateRepetitionIsDoneAgain,
    CancelIsIgnored,
    CancelledWriteIsDone,
    DeadlineIsIgnored,
    HangsThoughCancelled,
    ClonesShareTheirNarrowing,
    ChangesAreSeenLate,
    StreamTellsAnotherRow,
    AwayIsAnEmptyList,
    KeyIsThatOfAnyTable,
    SchemaNamesAnotherType,
    IdColumnHoldsAnother,
    InsertForgetsAField,
    DeleteTakesTheNextToo,
    BatchAnswersOneOnly,
    SecondHandleIsACopy,
    Panics,
}

use Lie::*;

struct Liar {
    lie: Lie,
    inner: MemoryVista,
    calls: AtomicU64,
    /// Rows or a query, kept longer than they are true.
    rows: Mutex<Option<Vec<(String, Record)>>>,
    query: Mutex<QueryDescriptor>,
}

fn schema() -> Schema {
    Schema::new("id")
        .with(Column::new("id", ColumnType::Text))
        .with(Column::new("name", ColumnType::Text))
        .with(Column::new("stock", ColumnType::Int))
        .with(Column::new("active", ColumnType::Bool))
}

fn liar(lie: Lie, rows: contract::Rows) -> Subject {
    let copy = MemoryVista::new("products", "id").with_schema(schema()).with_rows(rows.clone());
    let inner = MemoryVista::new("products", "id").with_schema(schema()).with_rows(rows);
    let copy = copy.with_source_key(inner.source_key());
    let second = if lie == SecondHandleIsACopy { copy } else { inner.clone() };
    let (outside, offline, held) = (inner.outside(), inner.clone(), inner.clone());
    let driver = Liar { lie, inner, calls: AtomicU64::new(0), rows: Mutex::default(), query: Mutex::default() };
    let mut subject = Subject::new(driver).second(second).offline(move |is_offline| offline.set_offline(is_offline));
    subject = subject.outside(move |op| match op {
        WriteOp::Upsert { id, record } => outside.upsert(id, record.clone()),
        op => outside.delete(op.id().unwrap_or_default()),
    });
    // Whoever ignores the end of a call from its start would hang here, too, and each time for as long as the patience is.
    if matches!(lie, CancelIsIgnored | DeadlineIsIgnored) {
        return subject;
    }
    subject.hold(move || held.hold(Call::List))
}

impl Liar {
    fn tells(&self, lie: Lie) -> bool {
        self.lie == lie
    }

    /// The context that the honest driver is called with.
    fn cx(&self, cx: &CallCx) -> CallCx {
        let keyed = |new: CallCx| match cx.idempotency_key() {
            Some(key) => new.with_idempotency_key(key),
            None => new,
        };
        match self.lie {
            CancelIsIgnored => cx.clone().with_cancel(CancelToken::new()),
            DeadlineIsIgnored => keyed(CallCx::new().with_cancel(cx.cancel.clone())),
            RepeatedInsertIsDoneAgain => Self::without_key(cx),
            _ => cx.clone(),
        }
    }

    fn without_key(cx: &CallCx) -> CallCx {
        let new = CallCx::on(cx.clock().clone()).with_cancel(cx.cancel.clone());
        match cx.remaining() {
            Some(left) => new.deadline_in(left),
            None => new,
        }
    }

    fn everything(&self) -> Result<Vec<(String, Record)>> {
        self.inner.list(&CallCx::new(), &QueryDescriptor::new())
    }

    /// The query as this driver understands it.
    fn misread(&self, query: &QueryDescriptor) -> QueryDescriptor {
        let mut query = query.clone();
        match (self.lie, &mut query.window) {
            (WindowIgnoresTheOffset, Some(window)) => window.offset = 0,
            (PagesOverlap, Some(window)) => window.offset = window.offset.saturating_sub(1),
            _ => {}
        }
        if self.tells(ConditionIsDropped) {
            query.conditions.retain(|condition| !matches!(condition, Condition::NotIn(..)));
        }
        for condition in &mut query.conditions {
            if let (NeLeavesOutNull, Condition::Ne(path, _)) = (self.lie, &*condition) {
                let is_there = Condition::not(Condition::is_null(path.clone()));
                *condition = Condition::And(vec![is_there, condition.clone()]);
            }
            if let (LikeIgnoresCase, Condition::Like(path, pattern)) = (self.lie, &*condition) {
                let cases = [pattern.clone(), pattern.to_lowercase(), pattern.to_uppercase()];
                *condition = Condition::Or(cases.map(|pattern| Condition::like(path.clone(), pattern)).into());
            }
        }
        query
    }

    /// The rows of a query, sorted, searched and cut by wrong rules.
    fn mislist(&self, query: &QueryDescriptor) -> Result<Option<Vec<(String, Record)>>> {
        let has_sort = !query.sort.is_empty();
        let unsorted = QueryDescriptor { sort: Vec::new(), window: None, ..query.clone() };
        let sort = query.sort.first();
        let value = |row: &(String, Record)| sort.and_then(|by| row.1.get(&by.path)).cloned().unwrap_or(Value::Null);
        let is_descending = sort.is_some_and(|by| by.dir == SortDir::Desc);
        let mut rows = self.inner.list(&CallCx::new(), &unsorted)?;
        let text = |row: &(String, Record)| match value(row) {
            Value::Integer(number) => i128::from(number).to_string(),
            Value::Text(text) => text,
            other => format!("{other:?}"),
        };
        match self.lie {
            NumbersSortAsText if has_sort => rows.sort_by_key(text),
            TextSortsWithoutCase if has_sort => rows.sort_by_key(|row| text(row).to_lowercase()),
            TextSortsWithCase if has_sort => {
                let by_code_point = query.sort.iter().map(|by| SortBy::new(by.path.clone(), by.dir)).collect();
                let by_sort = QueryDescriptor { sort: by_code_point, ..QueryDescriptor::new() };
                return Ok(Some(cut(by_sort.apply(rows, &schema()), query)));
            }
            NullsComeFirst if has_sort => {
                rows = self.inner.list(&CallCx::new(), &query.without_window())?;
                rows.sort_by_key(|row| !value(row).is_null());
                return Ok(Some(cut(rows, query)));
            }
            TiesAreReversed if has_sort => {
                rows.reverse();
                let by_sort = QueryDescriptor { sort: query.sort.clone(), ..QueryDescriptor::new() };
                return Ok(Some(cut(by_sort.apply(rows, &schema()), query)));
            }
            SearchMissesNumbers | SearchMindsCase if query.search_text().is_some() => {
                let searched = query.search_text().unwrap_or_default();
                let minds_case = self.tells(SearchMindsCase);
                rows.retain(|(_, record)| {
                    record.iter().any(|(_, value)| match value {
                        Value::Text(text) if minds_case => text.contains(searched),
                        Value::Text(text) => text.to_lowercase().contains(&searched.to_lowercase()),
                        Value::Bool(flag) => flag.to_string().contains(&searched.to_lowercase()),
                        Value::Integer(number) => minds_case && i128::from(*number).to_string().contains(searched),
                        _ => false,
                    })
                });
                let by_sort = QueryDescriptor { sort: query.sort.clone(), ..QueryDescriptor::new() };
                return Ok(Some(cut(by_sort.apply(rows, &schema()), query)));
            }
            _ => return Ok(None),
        }
        if is_descending {
            rows.reverse();
        }
        Ok(Some(cut(rows, query)))
    }

    fn put(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.inner.upsert(cx, id, record)
    }

    /// The row that is there, with these fields set.
    fn merged(&self, id: &str, record: &Record) -> Record {
        let mut merged = self.inner.row(id).unwrap_or_default();
        merged.merge(record);
        merged
    }
}

fn cut(rows: Vec<(String, Record)>, query: &QueryDescriptor) -> Vec<(String, Record)> {
    QueryDescriptor { window: query.window, ..QueryDescriptor::new() }.apply(rows, &schema())
}

impl TableShell for Liar {
    fn name(&self) -> &str {
        "products"
    }

    fn source_key(&self) -> String {
        if self.tells(KeyIsThatOfAnyTable) { "products".to_owned() } else { self.inner.source_key() }
    }

    fn schema(&self) -> Arc<Schema> {
        let columns = self.inner.schema();
        if !self.tells(SchemaNamesAnotherType) {
            return columns;
        }
        let others = columns.columns().iter().filter(|column| column.name() != "stock").cloned();
        let with_text = Schema::new("id").with(Column::new("stock", ColumnType::Text));
        Arc::new(others.fold(with_text, Schema::with))
    }

    fn capabilities(&self) -> Capabilities {
        let is_all_denied = self.tells(NothingIsPromisedAndAllWorks);
        // Pages have liars of their own.
        let all = Capabilities { pages: false, ..self.inner.capabilities() };
        if is_all_denied { Capabilities::list_only() } else { all }
    }

    fn push_down(&self, query: &QueryDescriptor) -> PushDown {
        let window_alone = QueryDescriptor { window: query.window, ..QueryDescriptor::new() };
        match self.lie {
            NothingIsPromisedAndAllWorks => return PushDown::nothing(query),
            WindowIsTakenBeforeTheRest if !query.without_window().is_empty() => {
                return PushDown { accepted: window_alone, residual: query.without_window() };
            }
            ConditionIsLostInPushDown if query.conditions.len() > 1 => {
                let first = query.conditions.first().cloned();
                let accepted = QueryDescriptor { conditions: first.into_iter().collect(), ..QueryDescriptor::new() };
                let residual = QueryDescriptor { conditions: Vec::new(), ..query.clone() };
                return PushDown { accepted, residual };
            }
            ClonesShareTheirNarrowing if query.search_text().is_some() => {
                let narrowing = QueryDescriptor { search: query.search.clone(), ..QueryDescriptor::new() };
                *self.query.lock().unwrap() = narrowing;
            }
            _ => {}
        }
        TableShell::push_down(&self.inner, query)
    }

    fn list(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<Vec<(String, Record)>> {
        let cx = &self.cx(cx);
        match self.lie {
            Panics if query.search_text().is_some() => panic!("no search today"),
            HangsThoughCancelled => {
                cx.check()?;
                return self.inner.list(&CallCx::new(), query);
            }
            AwayIsAnEmptyList => {
                let answer = self.inner.list(cx, query);
                let is_away = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable);
                return if is_away { Ok(Vec::new()) } else { answer };
            }
            ChangesAreSeenLate if query.is_empty() => {
                let now = self.inner.list(cx, query)?;
                let before = self.rows.lock().unwrap().replace(now.clone());
                // Its own writes are seen at once, those of others one call later.
                let is_own = self.calls.swap(0, Ordering::Relaxed) > 0;
                return Ok(before.filter(|_| !is_own).unwrap_or(now));
            }
            ClonesShareTheirNarrowing => {
                let kept = self.query.lock().unwrap().clone();
                let query = if query.search.is_some() || query.conditions.is_empty() {
                    query.clone()
                } else {
                    QueryDescriptor { search: kept.search, ..query.clone() }
                };
                return self.inner.list(cx, &query);
            }
            _ => {}
        }
        let mut rows = self.inner.list(cx, &self.misread(query))?;
        if self.tells(IdColumnHoldsAnother) {
            rows.iter_mut().for_each(|(id, record)| drop(record.insert("id", format!("{id}?"))));
        }
        if let Some(wrong) = self.mislist(query)? {
            return Ok(wrong);
        }
        match self.lie {
            ListForgetsTheLastRow if query.is_empty() && rows.len() > 10 => drop(rows.pop()),
            ListChangesItsOrder if query.is_empty() => {
                let turn = self.calls.fetch_add(1, Ordering::Relaxed) as usize % rows.len().max(1);
                rows.rotate_left(turn);
            }
            IdsLoseLeadingZeros => {
                for (id, record) in &mut rows {
                    *id = id.trim_start_matches('0').to_owned();
                    record.insert("id", id.as_str());
                }
            }
            _ => {}
        }
        Ok(rows)
    }

    fn get(&self, cx: &CallCx, id: &str) -> Result<Option<Record>> {
        let found = self.inner.get(&self.cx(cx), id)?;
        match self.lie {
            GetIgnoresCase => Ok(found.or_else(|| self.inner.row(&id.to_lowercase()))),
            IdsLoseLeadingZeros => {
                let mut rows = self.list(cx, &QueryDescriptor::new())?.into_iter();
                Ok(rows.find(|(row, _)| row == id).map(|(_, record)| record))
            }
            _ => Ok(found),
        }
    }

    fn count(&self, cx: &CallCx, query: &QueryDescriptor) -> Result<u64> {
        let counted = self.inner.count(&self.cx(cx), query)?;
        match (self.lie, query.window) {
            (CountIsOneOff, _) if query.is_filtered() => Ok(counted + 1),
            (CountMindsTheWindow, Some(_)) => Ok(self.inner.list(cx, query)?.len() as u64),
            (CountIsPromisedOnly, _) => Err(self.unsupported("count")),
            _ => Ok(counted),
        }
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let cx = &self.cx(cx);
        match (self.lie, id) {
            (InsertOverwrites, Some(id)) => self.put(cx, id, record),
            (AnotherIdIsAnswered, _) => {
                let written = self.inner.insert(cx, id, record)?;
                Ok(Written { id: written.id.map(|id| id + "-stored"), ..written })
            }
            (AnotherRowIsAnswered, _) => {
                let written = self.inner.insert(cx, id, record)?;
                Ok(Written { record: Some(record! { "name" => "as it never was" }), ..written })
            }
            (RefusedInsertLeavesARow, Some(id)) if self.inner.row(id).is_some() => {
                self.put(cx, "half an insert", &Record::new())?;
                self.inner.insert(cx, Some(id), record)
            }
            (CancelledWriteIsDone, Some(id)) if cx.cancel.is_cancelled() => {
                self.put(&CallCx::new(), id, record)?;
                self.inner.insert(cx, Some(id), record)
            }
            (InsertForgetsAField, _) => {
                let mut rest = record.clone();
                rest.insert("stock", Value::Null);
                self.inner.insert(cx, id, &rest)
            }
            (UnknownColumnsAreTaken, _) => {
                let mut known = record.clone();
                known.remove("no such column");
                self.inner.insert(cx, id, &known)
            }
            _ => self.inner.insert(cx, id, record),
        }
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let cx = &self.cx(cx);
        match self.lie {
            ReplaceMerges if self.inner.row(id).is_some() => self.inner.replace(cx, id, &self.merged(id, record)),
            ReplaceCreates => self.put(cx, id, record),
            NumbersComeBackAsFloats => {
                let mut rounded = record.clone();
                if let Some(number) = record.int("stock") {
                    rounded.insert("stock", number as f64 as i64);
                }
                self.inner.replace(cx, id, &rounded)
            }
            _ => self.inner.replace(cx, id, record),
        }
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let cx = &self.cx(cx);
        match self.lie {
            UpsertMerges => self.put(cx, id, &self.merged(id, record)),
            LateRepetitionIsDoneAgain => self.put(&Self::without_key(cx), id, record),
            _ => self.put(cx, id, record),
        }
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let cx = &self.cx(cx);
        match self.lie {
            PatchReplaces => self.inner.replace(cx, id, record),
            PatchCreates => self.put(cx, id, &self.merged(id, record)),
            _ => self.inner.patch(cx, id, record),
        }
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.tells(DeleteOfAMissingRowFails) && self.inner.row(id).is_none() {
            return Err(Error::new(ErrorKind::NotFound, "there is no such row"));
        }
        let rows = self.everything().unwrap_or_default();
        let next = rows.iter().skip_while(|(row, _)| row != id).nth(1);
        self.inner.delete(&self.cx(cx), id)?;
        match next {
            Some((next, _)) if self.tells(DeleteTakesTheNextToo) => self.inner.delete(cx, next),
            _ => Ok(()),
        }
    }

    fn delete_all(&self, cx: &CallCx) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let last = self.everything().unwrap_or_default().pop();
        self.inner.delete_all(&self.cx(cx))?;
        match last {
            Some((id, record)) if self.tells(DeleteAllLeavesARow) => self.put(cx, &id, &record).map(drop),
            _ => Ok(()),
        }
    }

    fn batch(&self, cx: &CallCx, ops: &[WriteOp]) -> Result<Vec<Written>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let cx = &self.cx(cx);
        if self.tells(BatchAnswersOneOnly) {
            return self.inner.batch(cx, ops).map(|written| written.into_iter().take(1).collect());
        }
        if !self.tells(BatchIsDoneInPart) {
            return self.inner.batch(cx, ops);
        }
        ops.iter().map(|op| self.inner.batch(cx, std::slice::from_ref(op)).map(|mut one| one.remove(0))).collect()
    }

    fn changes(&self, cx: &CallCx) -> Result<Box<dyn ChangeStream>> {
        let stream = self.inner.changes(&self.cx(cx))?;
        Ok(if self.tells(StreamTellsAnotherRow) { Box::new(OtherRows(stream)) } else { stream })
    }
}

struct OtherRows(Box<dyn ChangeStream>);

impl ChangeStream for OtherRows {
    fn next(&mut self, cx: &CallCx) -> Result<Option<ChangeEvent>> {
        Ok(self.0.next(cx)?.map(|event| match event {
            ChangeEvent::Inserted { id, .. } => ChangeEvent::Inserted { id, record: Some(Record::new()) },
            other => other,
        }))
    }
}

/// The suite catches the liar by `rule`, and says what is wrong in words that hold `said`; of other rules it breaks only
/// those in `also`, which the same lie can't help breaking.
fn catches(lie: Lie, rule: Rule, said: &str, also: &[Rule]) {
    let fixture = Fixture::new(format!("{lie:?}"), schema(), |rows| Ok(liar(lie, rows)));
    // A call that never ends needn't be waited for long; one that does gets all the time that a busy machine needs.
    let fixture = if lie == HangsThoughCancelled { fixture.patience(Duration::from_secs(2)) } else { fixture };
    let report = contract::try_check(&fixture).unwrap_err();
    let mut expected: Vec<Rule> = also.iter().copied().chain([rule]).collect();
    expected.sort_unstable();
    // What is wrong of one clause may or may not show where clauses come together.
    let rules: Vec<Rule> = report.rules().into_iter().filter(|rule| *rule != Rule::Combined).collect();
    assert_eq!(rules, expected, "{report}");
    let words: Vec<String> = report
        .failures()
        .iter()
        .filter(|failure| failure.rule == rule)
        .map(|failure| format!("{}: {}", failure.asked, failure.difference))
        .collect();
    assert!(words.iter().any(|words| words.contains(said)), "nothing says {said:?} in: {words:#?}");
    assert!(report.to_string().contains(&rule.to_string()), "{report}");
}

macro_rules! liars {
    ($($(#[$attribute:meta])* $test:ident: $lie:ident => $rule:ident, $said:literal $(, also $($also:ident)+)?;)+) => {
        $(
            #[test]
            fn $test() {
                catches($lie, Rule::$rule, $said, &[$($(Rule::$also),+)?]);
            }
        )+
    };
}

liars! {
    a_window_that_ignores_its_offset_is_caught: WindowIgnoresTheOffset => Windows, "offset";
    pages_that_overlap_are_caught: PagesOverlap => Windows, "offset";
    a_window_taken_before_the_rest_is_caught: WindowIsTakenBeforeTheRest => WindowLast, "left over: ";
    a_condition_that_was_taken_and_dropped_is_caught: ConditionIsDropped => Conditions, "not in";
    a_condition_lost_in_push_down_is_caught: ConditionIsLostInPushDown => PushDownWhole, "accepted: where";
    an_unequal_that_leaves_out_null_is_caught: NeLeavesOutNull => Conditions, "!=";
    a_like_without_case_is_caught: LikeIgnoresCase => Conditions, "like";
    numbers_sorted_as_text_are_caught: NumbersSortAsText => Sort, "order by stock";
    text_sorted_without_case_is_caught: TextSortsWithoutCase => Sort, "order by name";
    a_collation_that_is_not_heeded_is_caught: TextSortsWithCase => Sort, "order by name nocase";
    nulls_that_come_first_are_caught: NullsComeFirst => Sort, "order by";
    ties_in_another_order_are_caught: TiesAreReversed => Sort, "order by name";
    a_search_that_misses_numbers_is_caught: SearchMissesNumbers => Search, "search \"7\"";
    a_search_that_minds_case_is_caught: SearchMindsCase => Search, "search \"A\"", also Clones;
    a_count_that_is_one_off_is_caught: CountIsOneOff => CountAgrees, "expected", also Clones;
    a_count_of_the_window_alone_is_caught: CountMindsTheWindow => CountAgrees, "limit";
    a_promise_that_is_not_kept_is_caught: CountIsPromisedOnly => Advertised, "does not support `count`";
    a_get_without_case_is_caught: GetIgnoresCase => GetAgrees, "there is a row, expected none";
    ids_taken_for_numbers_are_caught: IdsLoseLeadingZeros => AwkwardIds, "\"007\"";
    a_list_that_forgets_a_row_is_caught: ListForgetsTheLastRow => ListWhole, "24 rows expected",
        also AwkwardIds Conditions Sort Search Windows CountAgrees Clones Threads;
    a_list_in_no_order_is_caught: ListChangesItsOrder => ListStable, "a second time",
        also ThroughVista Clones Threads;
    a_driver_that_can_more_than_it_says_is_caught: NothingIsPromisedAndAllWorks => Denied, "kind `Unsupported`";
    an_insert_that_overwrites_is_caught: InsertOverwrites => InsertTaken, "kind `Conflict`", also Threads;
    an_answered_id_that_is_not_stored_is_caught: AnotherIdIsAnswered => WrittenId, "-stored", also Threads;
    an_answered_row_that_is_not_stored_is_caught: AnotherRowIsAnswered => WrittenRow, "as it never was";
    a_replace_that_merges_is_caught: ReplaceMerges => Replace, "expected null";
    a_replace_that_creates_is_caught: ReplaceCreates => ReplaceMissing, "kind `NotFound`";
    an_upsert_that_merges_is_caught: UpsertMerges => Upsert, "expected null";
    a_patch_that_replaces_is_caught: PatchReplaces => Patch, "is null, expected";
    a_patch_that_creates_is_caught: PatchCreates => PatchMissing, "kind `NotFound`";
    a_delete_that_minds_missing_rows_is_caught: DeleteOfAMissingRowFails => DeleteMissing, "which is missing",
        also Idempotent;
    a_delete_all_that_leaves_a_row_is_caught: DeleteAllLeavesARow => DeleteAll, "expected none";
    a_refused_write_that_leaves_a_row_is_caught: RefusedInsertLeavesARow => NoTrace, "half an insert", also Threads;
    unknown_columns_that_vanish_are_caught: UnknownColumnsAreTaken => SchemaHeld, "no such column";
    numbers_that_went_through_a_float_are_caught: NumbersComeBackAsFloats => ValuesComeBack, "9007199254740993";
    a_batch_done_in_part_is_caught: BatchIsDoneInPart => BatchWhole, "can't be done";
    a_repeated_insert_that_is_done_again_is_caught: RepeatedInsertIsDoneAgain => Idempotent, "insert";
    a_late_repetition_that_undoes_what_came_between_is_caught: LateRepetitionIsDoneAgain => Idempotent, "with an old key";
    a_cancel_that_is_ignored_is_caught: CancelIsIgnored => Cancelled, "kind `Cancelled`";
    a_cancelled_write_that_is_done_is_caught: CancelledWriteIsDone => Cancelled, "expected none";
    a_deadline_that_is_ignored_is_caught: DeadlineIsIgnored => Deadline, "kind `Timeout`";
    a_call_that_hangs_though_cancelled_is_caught: HangsThoughCancelled => Cancelled, "was not given back", also Deadline;
    clones_that_share_their_narrowing_are_caught: ClonesShareTheirNarrowing => Clones, "list of a narrowed clone",
        also Conditions;
    changes_that_are_seen_late_are_caught: ChangesAreSeenLate => Outside, "from outside";
    a_stream_that_tells_another_row_is_caught: StreamTellsAnotherRow => Changes, "told";
    a_source_that_is_empty_when_away_is_caught: AwayIsAnEmptyList => Offline, "kind `Unavailable`";
    a_key_that_other_tables_have_is_caught: KeyIsThatOfAnyTable => Identity, "both sources have the key", also SecondHandle;
    a_schema_that_names_another_type_is_caught: SchemaNamesAnotherType => Schema, "which is text, the integer";
    an_id_column_with_another_id_is_caught: IdColumnHoldsAnother => Ids, "and in `id` the text",
        also GetAgrees Conditions ThroughVista Clones Threads;
    an_insert_that_forgets_a_field_is_caught: InsertForgetsAField => Insert, "`stock` is null", also DeleteAll Threads;
    a_delete_that_takes_another_row_is_caught: DeleteTakesTheNextToo => Delete, "is not there",
        also AwkwardIds SecondHandle;
    a_batch_that_answers_one_write_only_is_caught: BatchAnswersOneOnly => Batch, "1 answers, expected";
    a_second_handle_on_a_copy_is_caught: SecondHandleIsACopy => SecondHandle, "list by the second handle";
    a_driver_that_panics_is_caught: Panics => NoPanic, "no search today";
}
