//! Any: random edits, moves of the source, saves and their ends, against the rules of a draft written down plainly.
//!
//! The live row is read through a view of its own; the model keeps the user's fields.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use diorama::prelude::*;
use diorama::sources::memory::{Call, HoldGuard};
use diorama::{RecordStatus, WriteTicket};
use proptest::prelude::*;

use crate::limit::limited;
use crate::{SOON, goes};

const FIELDS: [&str; 3] = ["x", "y", "z"];

#[derive(Debug, Clone)]
enum Step {
    Set(usize, i64),
    Reset(usize),
    ResetAll,
    /// Somebody else sets a field; the row is there afterwards.
    Moves(usize, i64),
    /// Another part of the program writes a field.
    Writes(usize, i64),
    Goes,
    Resolve(usize, Keep),
    Save,
    SaveAsNew,
    /// The first write under way is let through to the source, which refuses it or does what it can.
    Ends {
        refused: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (field, value) = (0..FIELDS.len(), 0..4_i64);
    prop_oneof![
        6 => (field.clone(), value.clone()).prop_map(|(field, value)| Step::Set(field, value)),
        1 => field.clone().prop_map(Step::Reset),
        1 => Just(Step::ResetAll),
        5 => (field.clone(), value.clone()).prop_map(|(field, value)| Step::Moves(field, value)),
        2 => (field.clone(), value).prop_map(|(field, value)| Step::Writes(field, value)),
        1 => Just(Step::Goes),
        2 => (field, prop::bool::ANY).prop_map(|(field, mine)| {
            Step::Resolve(field, if mine { Keep::Mine } else { Keep::Theirs })
        }),
        4 => Just(Step::Save),
        1 => Just(Step::SaveAsNew),
        5 => prop::bool::weighted(0.3).prop_map(|refused| Step::Ends { refused }),
    ]
}

#[derive(Clone, Copy)]
struct Touch {
    value: i64,
    base: Option<i64>,
}

struct Model {
    touched: BTreeMap<&'static str, Touch>,
    sent: Option<BTreeMap<&'static str, Touch>>,
    /// The row, or how it was last without pending writes.
    shown: BTreeMap<&'static str, i64>,
    settled: BTreeMap<&'static str, i64>,
    is_there: bool,
    is_pending: bool,
    sent_is_insert: bool,
}

impl Model {
    fn live(&self, field: &str) -> Option<i64> {
        self.shown.get(field).copied().filter(|_| self.is_there)
    }

    fn differs(&self, field: &str) -> bool {
        self.touched.get(field).is_some_and(|touch| self.live(field) != Some(touch.value))
    }

    fn is_unsaved(&self, field: &str) -> bool {
        self.touched.contains_key(field) && (self.is_pending || self.differs(field))
    }

    fn is_sent(&self, field: &str) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.contains_key(field))
    }

    fn conflicts(&self, field: &str) -> bool {
        let Some(touch) = self.touched.get(field) else { return false };
        let live = self.live(field);
        let own = self.sent.as_ref().and_then(|sent| Some(sent.get(field)?.value));
        self.is_there && live != touch.base && live != Some(touch.value) && (own.is_none() || live != own)
    }

    fn any_conflicts(&self) -> Vec<&'static str> {
        FIELDS.into_iter().filter(|field| self.conflicts(field)).collect()
    }

    fn set(&mut self, field: &'static str, value: i64) {
        let shown = self.shown.get(field).copied();
        if shown == Some(value) && !self.is_sent(field) {
            self.touched.remove(field);
        } else {
            let sent = self.sent.as_ref().and_then(|sent| sent.get(field));
            let base = self.touched.get(field).or(sent).map_or(shown, |touch| touch.base);
            self.touched.insert(field, Touch { value, base });
        }
    }

    fn changes(&self) -> BTreeMap<&'static str, Touch> {
        let changed = |(field, touch): (&&'static str, &Touch)| self.is_unsaved(field).then_some((*field, *touch));
        self.touched.iter().filter_map(changed).collect()
    }

    fn confirmed(&mut self) {
        let sent = self.sent.take().unwrap_or_default();
        for field in FIELDS {
            let Some(touch) = self.touched.get(field).copied() else { continue };
            match sent.get(field) {
                Some(saved) if saved.value == touch.value => drop(self.touched.remove(field)),
                Some(saved) => drop(self.touched.insert(field, Touch { base: Some(saved.value), ..touch })),
                None if !self.is_unsaved(field) => drop(self.touched.remove(field)),
                None => {}
            }
        }
    }

    fn failed(&mut self) {
        let sent = self.sent.take().unwrap_or_default();
        for field in FIELDS {
            let Some(touch) = self.touched.get(field).copied() else { continue };
            if sent.contains_key(field) && touch.base == Some(touch.value) && !self.differs(field) {
                self.touched.remove(field);
            }
        }
    }
}

/// The id of no row.
const NOBODYS: &str = "nobody's";

struct Bench {
    source: MemoryVista,
    dio: Dio,
    draft: Draft,
    live: RecordScenery,
    held: [HoldGuard; 2],
    /// Told when the load thread comes to the row that nobody has.
    comes_to_nobodys: Receiver<()>,
    /// The writes under way, in their order, and whether each is the draft's save.
    under_way: VecDeque<(WriteTicket, bool)>,
    model: Model,
}

impl Bench {
    fn new() -> Self {
        let row = record! { "x" => 0, "y" => 0, "z" => 0 };
        let source = MemoryVista::new("rows", "id").with_rows([("a", row)]);
        let dio = Lens::new().in_memory().build().unwrap().make_dio(source.clone()).unwrap();
        let (draft, live) = (dio.draft("a").unwrap(), dio.record_scenery("a").unwrap());
        let (tell, comes_to_nobodys) = unbounded();
        source.fail_when(move |seen| {
            if seen.id == Some(NOBODYS) {
                tell.send(()).unwrap();
            }
            None
        });
        let held = [source.hold(Call::Patch), source.hold(Call::Insert)];
        let (touched, shown, settled) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let model =
            Model { touched, sent: None, shown, settled, is_there: true, is_pending: false, sent_is_insert: false };
        let mut bench = Bench { source, dio, draft, live, held, comes_to_nobodys, under_way: VecDeque::new(), model };
        bench.look();
        bench
    }

    /// What the row is now.
    fn look(&mut self) {
        let model = &mut self.model;
        model.is_there = self.live.status() != RecordStatus::NotFound;
        model.is_pending = self.live.status() == RecordStatus::PendingWrite;
        model.shown = match self.live.record() {
            Some(row) => FIELDS.into_iter().filter_map(|field| Some((field, row.int(field)?))).collect(),
            None => model.settled.clone(),
        };
        if !model.is_pending {
            model.settled.clone_from(&model.shown);
        }
    }

    /// Waits until what a settled write has had read again shows: the load thread does one thing after the other.
    fn wait_for_rereads(&self) {
        self.dio.handle_event(ChangeEvent::Updated { id: NOBODYS.to_owned(), record: None }).unwrap();
        self.comes_to_nobodys.recv_timeout(SOON).unwrap();
    }

    fn is_saving(&self) -> bool {
        self.under_way.iter().any(|(_, is_save)| *is_save)
    }

    fn begin(&mut self, ticket: Option<WriteTicket>) {
        let changes = self.model.changes();
        match ticket {
            Some(ticket) => {
                self.model.sent = Some(changes);
                self.under_way.push_back((ticket, true));
            }
            None => {
                assert!(changes.is_empty());
                self.model.touched.clear();
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Set(field, value) => {
                self.draft.set(FIELDS[field], value).unwrap();
                self.model.set(FIELDS[field], value);
            }
            Step::Reset(field) => {
                self.draft.reset(FIELDS[field]);
                self.model.touched.remove(FIELDS[field]);
            }
            Step::ResetAll => {
                self.draft.reset_all();
                self.model.touched.clear();
            }
            Step::Moves(field, value) => {
                let mut row = self.source.row("a").unwrap_or_else(|| record! { "x" => 0, "y" => 0, "z" => 0 });
                row.insert(FIELDS[field], value);
                self.source.outside_silently().upsert("a", row.clone()).unwrap();
                self.dio.patched("a", row).unwrap();
            }
            Step::Writes(field, value) => {
                let insert_is_pending = self.is_saving() && self.model.sent_is_insert;
                // What follows an insert falls with it, which is another test's business.
                if !insert_is_pending {
                    let ticket =
                        self.dio.write(WriteOp::patch("a", Record::from_iter([(FIELDS[field], value)]))).unwrap();
                    self.under_way.push_back((ticket, false));
                }
            }
            Step::Goes => goes(&self.source, &self.dio),
            Step::Resolve(field, resolution) => {
                self.draft.resolve(FIELDS[field], resolution);
                self.resolve(FIELDS[field], resolution);
            }
            Step::Save => self.save(),
            Step::SaveAsNew => match self.draft.save_as_new() {
                Ok(ticket) => {
                    assert!(!self.is_saving() && !self.model.is_there);
                    self.begin(Some(ticket));
                    self.model.sent_is_insert = true;
                }
                Err(error) if self.is_saving() => assert_eq!(error.kind(), ErrorKind::Full),
                Err(error) => assert!(error.kind() == ErrorKind::Conflict && self.model.is_there),
            },
            Step::Ends { refused } => self.end(refused),
        }
        self.look();
    }

    fn resolve(&mut self, field: &'static str, resolution: Keep) {
        if !self.model.conflicts(field) {
            return;
        }
        let (live, is_sent) = (self.model.live(field), self.model.is_sent(field));
        if let Some(touch) = self.model.touched.get_mut(field) {
            match resolution {
                Keep::Mine => touch.base = live,
                Keep::Theirs if is_sent => touch.value = live.unwrap(),
                Keep::Theirs => drop(self.model.touched.remove(field)),
            }
        }
    }

    fn save(&mut self) {
        let writes = self.source.writes().len();
        match self.draft.save() {
            Ok(ticket) => {
                assert!(!self.is_saving() && self.model.is_there && self.model.any_conflicts().is_empty());
                self.begin(ticket);
                self.model.sent_is_insert = false;
            }
            Err(error) => {
                if self.is_saving() {
                    assert_eq!(error.kind(), ErrorKind::Full);
                } else if !self.model.is_there {
                    assert_eq!(error.kind(), ErrorKind::NotFound);
                } else {
                    assert_eq!(error.kind(), ErrorKind::Conflict);
                    let named: Vec<&str> = error.fields().map(|(name, _)| name).collect();
                    let mut expected = self.model.any_conflicts();
                    expected.sort_by_key(|field| named.iter().position(|name| name == field));
                    assert_eq!(named, expected);
                }
                assert!(!self.under_way.is_empty() || self.source.writes().len() == writes, "nothing was written");
            }
        }
    }

    fn end(&mut self, refused: bool) {
        let Some((ticket, is_save)) = self.under_way.pop_front() else { return };
        let [patch, insert] = &self.held;
        while !patch.wait_until_held(1, Duration::ZERO) && !insert.wait_until_held(1, Duration::ZERO) {
            std::thread::yield_now();
        }
        let (call, held) = if patch.held() > 0 { (Call::Patch, patch) } else { (Call::Insert, insert) };
        if refused {
            self.source.fail_next(call, 1, Error::new(ErrorKind::Rejected, "no").with_field("x", "not today"));
        }
        held.let_one_pass();
        let result = ticket.wait(SOON);
        assert!(!refused || result.is_err());
        self.wait_for_rereads();
        self.look();
        match result {
            _ if !is_save => {}
            Ok(_) => self.model.confirmed(),
            Err(error) => {
                self.model.failed();
                assert_eq!(self.draft.error().map(|error| error.kind()), Some(error.kind()));
                assert_eq!(self.draft.errors().len(), usize::from(refused));
            }
        }
    }

    fn check(&self) {
        let model = &self.model;
        for field in FIELDS {
            let seen = self.draft.field(field);
            let int = |value: Option<Value>| value.map(|value| i64::try_from(value.as_integer().unwrap()).unwrap());
            assert_eq!(self.draft.get(field), seen.value);
            assert_eq!(int(seen.live), model.live(field), "the live {field}");
            match model.touched.get(field) {
                Some(touch) => {
                    assert_eq!(int(seen.value), Some(touch.value), "the user's {field}");
                    assert_eq!(int(seen.base), touch.base, "where {field} began");
                    let state = if model.conflicts(field) { FieldState::Conflict } else { FieldState::Changed };
                    assert_eq!(seen.state, state, "{field}");
                }
                None => {
                    assert_eq!(int(seen.value), model.shown.get(field).copied(), "the row's {field}");
                    assert_eq!(seen.state, FieldState::Untouched, "{field}");
                }
            }
        }
        let mut touched = self.draft.touched();
        touched.sort();
        assert_eq!(touched, model.touched.keys().copied().collect::<Vec<_>>());
        let is_dirty = FIELDS
            .into_iter()
            .any(|field| model.touched.contains_key(field) && (model.is_unsaved(field) || model.is_sent(field)));
        assert_eq!(self.draft.is_dirty(), is_dirty);
        assert_eq!(self.draft.status() == DraftStatus::Saving, self.is_saving());
        let whole = self.draft.record();
        assert!(FIELDS.into_iter().all(|field| whole.get(field) == self.draft.get(field).as_ref()));
    }
}

fn run(steps: &[Step]) {
    let mut bench = Bench::new();
    for step in steps {
        bench.step(step);
        bench.check();
    }
    while !bench.under_way.is_empty() {
        bench.end(false);
        bench.look();
        bench.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn whatever_happens_untouched_fields_are_the_rows_and_touched_ones_the_users(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        limited(crate::SOON, move || run(&steps));
    }
}
