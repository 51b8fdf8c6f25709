//! Convergence: two Dios edit one source, with delays, failures and somebody else between them; at rest both show what the
//! source has, and nobody's change is lost that the policy promises to keep.

use std::collections::BTreeMap;

use diorama::prelude::*;
use diorama::sources::memory::{Call, HoldGuard};
use diorama::vista::Capabilities;
use diorama::{ConflictPolicy, LensBuilder, Resolution, WriteState, WriteTicket};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use crate::ground::*;
use crate::support::*;

const FIELDS: [&str; 3] = ["x", "y", "z"];
const ROWS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    /// One of the two Dios.
    Dio(usize),
    /// Past both.
    Else,
}

#[derive(Debug, Clone)]
enum Edit {
    /// Some fields, by a mask.
    Patch(usize, u8),
    Replace(usize, u8),
    Upsert(usize, u8),
    Insert(usize),
    Delete(usize),
}

#[derive(Debug, Clone)]
enum Step {
    Edit(Who, Edit),
    /// Holds the writes of this kind back, before they are done or after.
    Hold(Call, bool),
    /// Lets what is held go on.
    Release,
    Refresh(usize),
    /// The answer of the next write of this kind is lost.
    Lose(Call),
    /// The next write of this kind fails for now.
    Break(Call),
    /// Everything that waits for its moment is due.
    Advance,
    /// Waits until all is done that was written.
    Settle,
}

fn edit() -> impl Strategy<Value = Edit> {
    let row = 0..ROWS.len();
    prop_oneof![
        6 => (row.clone(), 1_u8..8).prop_map(|(row, fields)| Edit::Patch(row, fields)),
        3 => (row.clone(), 0_u8..8).prop_map(|(row, fields)| Edit::Replace(row, fields)),
        2 => (row.clone(), 0_u8..8).prop_map(|(row, fields)| Edit::Upsert(row, fields)),
        1 => row.clone().prop_map(Edit::Insert),
        1 => row.prop_map(Edit::Delete),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    prop::sample::select(vec![Call::Patch, Call::Replace, Call::Upsert, Call::Insert, Call::Delete])
}

fn step() -> impl Strategy<Value = Step> {
    let who = prop_oneof![3 => Just(Who::Dio(0)), 3 => Just(Who::Dio(1)), 1 => Just(Who::Else)];
    prop_oneof![
        8 => (who, edit()).prop_map(|(who, edit)| Step::Edit(who, edit)),
        1 => (call(), any::<bool>()).prop_map(|(call, done)| Step::Hold(call, done)),
        1 => Just(Step::Release),
        1 => (0..2_usize).prop_map(Step::Refresh),
        1 => call().prop_map(Step::Lose),
        1 => call().prop_map(Step::Break),
        1 => Just(Step::Advance),
        2 => Just(Step::Settle),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..30)
}

fn config() -> ProptestConfig {
    let regressions = FileFailurePersistence::Direct("proptest-regressions/convergence.txt");
    ProptestConfig {
        cases: 96,
        max_shrink_iters: 1_000,
        max_shrink_time: 30_000,
        failure_persistence: Some(Box::new(regressions)),
        ..ProptestConfig::default()
    }
}

/// How a Lens of the test is made, and how the source is.
#[derive(Debug, Clone, Copy)]
struct Setting {
    policy: Option<ConflictPolicy>,
    compares: bool,
    keeps_keys: bool,
    /// Whether the source can be asked for one row.
    gets: bool,
    parallel: usize,
    coalesce: bool,
}

fn setting(policy: Option<ConflictPolicy>) -> impl Strategy<Value = Setting> {
    (any::<bool>(), any::<bool>(), 1..3_usize, any::<bool>()).prop_map(
        move |(compares, keeps_keys, parallel, coalesce)| Setting {
            policy,
            compares,
            keeps_keys,
            gets: true,
            parallel,
            coalesce,
        },
    )
}

struct Run {
    ground: Ground,
    _lenses: Vec<Lens>,
    dios: Vec<Dio>,
    tickets: Vec<WriteTicket>,
    held: Vec<HoldGuard>,
    next: i64,
}

impl Run {
    fn new(setting: Setting) -> Self {
        let whole = |row: &str| record! { "id" => row, "x" => 0, "y" => 0, "z" => 0 };
        let Setting { policy, compares, keeps_keys, gets, parallel, coalesce } = setting;
        let capabilities =
            Capabilities { compares, idempotent_writes: keeps_keys, get: gets, ..Capabilities::read_write() };
        let source = MemoryVista::new("convergence", "id").with_rows(ROWS[..3].iter().map(|row| (*row, whole(row))));
        let ground = Ground::new(source.with_capabilities(capabilities));
        let lens = || {
            let delivery = crate::ground::policy().parallel(parallel).coalesce_patches(coalesce);
            let lens: LensBuilder = ground.lens(&Cache::memory()).delivery(delivery);
            let lens = match policy {
                Some(policy) => lens.conflicts(policy),
                None => lens.on_conflict(|_, conflict| {
                    // Any of the three, and the same for the same conflict.
                    let sum: i64 = FIELDS.iter().filter_map(|field| conflict.current?.int(field)).sum();
                    Ok(match (sum % 3, conflict.op) {
                        (0, _) => Resolution::Mine,
                        (1, WriteOp::Patch { id, record }) => {
                            Resolution::Write(WriteOp::patch(id.clone(), record.clone()))
                        }
                        _ => Resolution::Theirs,
                    })
                }),
            };
            lens.build().unwrap()
        };
        let lenses = vec![lens(), lens()];
        let dios = lenses.iter().map(|lens| lens.make_dio(ground.source.clone()).unwrap()).collect();
        Run { ground, _lenses: lenses, dios, tickets: Vec::new(), held: Vec::new(), next: 1 }
    }

    /// The write, with values that nothing else has.
    fn op(&mut self, edit: &Edit) -> WriteOp {
        let mut fields = |mask: u8| {
            let chosen = FIELDS.iter().enumerate().filter(|(place, _)| mask & (1 << place) != 0);
            let record: Record = chosen.map(|(place, field)| (*field, self.next + place as i64)).collect();
            self.next += FIELDS.len() as i64;
            record
        };
        match edit {
            Edit::Patch(row, mask) => WriteOp::patch(ROWS[*row], fields(*mask)),
            Edit::Replace(row, mask) => WriteOp::replace(ROWS[*row], fields(*mask)),
            Edit::Upsert(row, mask) => WriteOp::upsert(ROWS[*row], fields(*mask)),
            Edit::Insert(row) => WriteOp::insert_as(ROWS[*row], fields(7)),
            Edit::Delete(row) => WriteOp::delete(ROWS[*row]),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Edit(Who::Dio(which), edit) => {
                let op = self.op(edit);
                self.tickets.push(self.dios[*which].write(op).unwrap());
            }
            Step::Edit(Who::Else, edit) => {
                let outside = self.ground.source.outside_silently();
                match self.op(edit) {
                    WriteOp::Patch { id, record } => drop(outside.patch(&id, record)),
                    WriteOp::Delete { id } => outside.delete(&id).unwrap(),
                    op => outside.upsert(op.id().unwrap(), op.record().unwrap().clone()).unwrap(),
                }
            }
            Step::Hold(call, false) => self.held.push(self.ground.source.hold(*call)),
            Step::Hold(call, true) => self.held.push(self.ground.source.hold_answer(*call)),
            Step::Release => self.held.clear(),
            Step::Refresh(which) => self.dios[*which].refresh().unwrap(),
            Step::Lose(call) => self.ground.source.lose_next_answers(*call, 1, lost()),
            Step::Break(call) => self.ground.source.fail_next(*call, 1, broken()),
            Step::Advance => self.ground.hands.advance(SECOND),
            Step::Settle => self.settle(),
        }
    }

    /// Until no write is on its way.
    fn settle(&mut self) {
        self.held.clear();
        until("all writes have ended", || {
            if self.tickets.iter().any(|ticket| matches!(ticket.state(), WriteState::Waiting { .. })) {
                self.ground.hands.advance(SECOND);
            }
            self.tickets.iter().all(|ticket| ticket.state().has_ended())
        });
    }

    /// Until what this Dio has asked to be read again is read. A refresh joins the one under way, behind which another may
    /// wait.
    fn reread(&self, which: usize) {
        self.dios[which].refresh().unwrap();
        self.dios[which].refresh().unwrap();
    }

    fn rows(&self) -> BTreeMap<String, Record> {
        self.ground.source.rows().into_iter().map(|(id, row)| (id, plain(row))).collect()
    }

    /// At rest and refreshed, both show the source, and nothing is pending.
    fn ends(&mut self) {
        self.settle();
        self.ground.source.heal();
        for dio in &self.dios {
            dio.wait_for_writes(SOON).unwrap();
            dio.refresh().unwrap();
            assert!(dio.pending_writes().is_empty(), "{:?}", dio.pending_writes());
            shows_the_source(dio, &self.ground.source);
        }
    }
}

fn converges(setting: Setting, steps: Vec<Step>) {
    in_time(move || {
        let mut run = Run::new(setting);
        steps.iter().for_each(|step| run.step(step));
        run.ends();
    });
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn two_dios_of_which_the_last_one_wins_come_to_show_the_source(
        setting in setting(Some(ConflictPolicy::MineWins)), steps in steps()
    ) {
        converges(setting, steps);
    }

    #[test]
    fn two_dios_over_which_the_source_wins_come_to_show_it(
        setting in setting(Some(ConflictPolicy::SourceWins)), steps in steps()
    ) {
        converges(setting, steps);
    }

    #[test]
    fn two_dios_that_merge_fields_come_to_show_the_source(
        setting in setting(Some(ConflictPolicy::MergeFields)), steps in steps()
    ) {
        converges(setting, steps);
    }

    #[test]
    fn two_dios_with_a_callback_come_to_show_the_source(setting in setting(None), steps in steps()) {
        converges(setting, steps);
    }
}

/// An edit of one of two Dios after both have seen the same row: which fields, and whether as a whole row.
fn sides() -> impl Strategy<Value = (u8, bool)> {
    (1_u8..8, any::<bool>())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_merge_loses_no_field_that_only_one_side_has_touched(
        setting in setting(Some(ConflictPolicy::MergeFields)),
        rounds in prop::collection::vec((sides(), sides(), any::<bool>()), 1..6),
    ) {
        in_time(move || {
            let mut run = Run::new(setting);
            for ((first, first_is_whole), (second, second_is_whole), together) in rounds {
                let before = run.rows()["a"].clone();
                let mut edit = |which: usize, mask: u8, is_whole: bool| {
                    let chosen = FIELDS.iter().enumerate().filter(|(place, _)| mask & (1 << place) != 0);
                    let mine: Record = chosen.map(|(place, field)| (*field, run.next + place as i64)).collect();
                    run.next += FIELDS.len() as i64;
                    let op = if is_whole {
                        let mut row = before.clone();
                        row.merge(&mine);
                        WriteOp::replace("a", row)
                    } else {
                        WriteOp::patch("a", mine.clone())
                    };
                    run.tickets.push(run.dios[which].write(op).unwrap());
                    if !together {
                        confirmed(run.tickets.last().unwrap());
                    }
                    mine
                };
                let mines = [edit(0, first, first_is_whole), edit(1, second, second_is_whole)];
                run.settle();
                run.tickets.iter().for_each(confirmed);
                let after = run.rows()["a"].clone();
                for (place, field) in FIELDS.iter().enumerate() {
                    let by = [first, second].map(|mask| mask & (1 << place) != 0);
                    let value = after.get(field);
                    // Whole rows over a source that does not compare may cross: what they find unchanged may change before
                    // they come.
                    let may_cross = together && !setting.compares && (first_is_whole || second_is_whole);
                    match by {
                        _ if may_cross => {}
                        [false, false] => assert_eq!(value, before.get(field)),
                        [true, false] => assert_eq!(value, mines[0].get(field), "{field} of the first is lost"),
                        [false, true] => assert_eq!(value, mines[1].get(field), "{field} of the second is lost"),
                        [true, true] => assert!(mines.iter().any(|mine| mine.get(field) == value)),
                    }
                }
                run.ends();
            }
        });
    }

    #[test]
    fn where_the_source_wins_nothing_is_overwritten_that_its_writer_had_not_seen(
        setting in setting(Some(ConflictPolicy::SourceWins)), steps in steps()
    ) {
        // A source that compares does so in the same step as the write. One that is read whole says when it was read.
        let setting = Setting { compares: true, gets: false, ..setting };
        in_time(move || {
            let mut run = Run::new(setting);
            let steps = steps.iter().filter(|step| !matches!(step, Step::Lose(_) | Step::Break(_)));
            for step in steps {
                run.settle();
                let Step::Edit(Who::Dio(which), edit @ (Edit::Patch(..) | Edit::Replace(..) | Edit::Delete(_))) = step else {
                    run.step(step);
                    run.settle();
                    if let Step::Edit(Who::Dio(which), _) = step {
                        run.reread(*which);
                    }
                    continue;
                };
                // What the writer sees when it writes.
                let op = run.op(edit);
                let id = op.id().unwrap().to_owned();
                let seen = run.dios[*which].cache().get(&id).unwrap().map(plain);
                let there = run.rows().get(&id).cloned();
                let ticket = run.dios[*which].write(op.clone()).unwrap();
                run.tickets.push(ticket.clone());
                let state = ended(&ticket);
                // So that nothing of it comes later. The other one knows nothing of it.
                run.reread(*which);
                let fields: Vec<&str> = match &op {
                    WriteOp::Patch { record, .. } => record.iter().map(|(field, _)| field).collect(),
                    _ => FIELDS.to_vec(),
                };
                let had_seen = |field: &&str| {
                    let of = |row: Option<&Record>| row.and_then(|row| row.get(field).cloned());
                    let current = of(there.as_ref());
                    // Who means the same overwrites nothing.
                    of(seen.as_ref()) == current || of(op.record()) == current
                };
                if matches!(state, WriteState::Confirmed(_)) && seen.is_some() {
                    assert!(
                        fields.iter().all(had_seen),
"{op:?} over {there:?}, of which was seen {seen:?}");
                }
            }
            run.ends();
        });
    }
}
