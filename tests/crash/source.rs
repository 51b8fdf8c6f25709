//! Source: a table behind a socket that answers late, not at all or with a failure now and then, keeps the answers to
//! idempotency keys, and logs each effect. It also takes what the child reports.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::chance::Chance;
use super::wire::{Answer, Ask, Fields, Op, Refusal, Report, Verb, receive, send};

/// How long anything may take before it counts as hanging.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// One change that the source made.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    pub(crate) key: String,
    pub(crate) verb: Verb,
    /// The row; `None` for all.
    pub(crate) id: Option<String>,
    /// The write's mark, if it has fields.
    pub(crate) mark: Option<i64>,
    /// Whether the write named the row.
    pub(crate) is_named: bool,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<String, Fields>,
    answers: HashMap<String, Answer>,
    /// The keys of all writes that it was asked for, done or not.
    asked: HashSet<String>,
    effects: Vec<Effect>,
    calls: u64,
    next_id: u64,
    open: usize,
    reports: Vec<Report>,
    /// Connections that reported and are closed.
    reporters_gone: usize,
    is_over: bool,
}

pub(crate) struct Source {
    state: Mutex<State>,
    chance: Mutex<Chance>,
    news: Condvar,
    /// Nobody notifies it: a latency is a wait on it.
    latency: Condvar,
    keeps_keys: bool,
    socket: PathBuf,
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Well,
    FailsBefore,
    Away,
    FailsAfter,
    AnswerLost,
}

impl Source {
    /// Listens at this path until it is over.
    pub(crate) fn start(socket: &Path, keeps_keys: bool, seed: u64) -> Arc<Self> {
        let listener = UnixListener::bind(socket).unwrap();
        let source = Arc::new(Source {
            state: Mutex::default(),
            chance: Mutex::new(Chance::new(seed)),
            news: Condvar::new(),
            latency: Condvar::new(),
            keeps_keys,
            socket: socket.to_owned(),
        });
        let accepting = source.clone();
        start_thread("source", move || {
            for stream in listener.incoming() {
                let mut state = accepting.state.lock().unwrap();
                if state.is_over {
                    return;
                }
                state.open += 1;
                let source = accepting.clone();
                drop(state);
                start_thread("source:call", move || source.serve(stream.unwrap()));
            }
        });
        source
    }

    fn serve(&self, mut stream: UnixStream) {
        let mut has_reported = false;
        // Ends with the other side, or with an answer that gets lost.
        while let Ok(ask) = receive::<Ask>(&mut stream) {
            has_reported |= matches!(ask, Ask::Report(_));
            let Some(answer) = self.answer(ask) else { break };
            if !matches!(answer, Answer::Passed) && send(&mut stream, &answer).is_err() {
                break;
            }
        }
        let mut state = self.state.lock().unwrap();
        state.open -= 1;
        state.reporters_gone += usize::from(has_reported);
        self.news.notify_all();
    }

    /// `None`: it gets lost.
    fn answer(&self, ask: Ask) -> Option<Answer> {
        match ask {
            Ask::List => {
                let rows = self.rows();
                self.pass_time();
                Some(Answer::Rows(rows.into_iter().collect()))
            }
            Ask::Get(id) => {
                let row = self.state.lock().unwrap().rows.get(&id).cloned();
                self.pass_time();
                Some(Answer::Row(row))
            }
            Ask::Write { key, op } => self.write(key, &op),
            Ask::Report(report) => {
                self.state.lock().unwrap().reports.push(report);
                self.news.notify_all();
                Some(Answer::Passed)
            }
            Ask::Barrier => Some(Answer::Row(None)),
        }
    }

    fn pass_time(&self) {
        let micros = {
            let mut chance = self.chance.lock().unwrap();
            match chance.below(100) {
                0..70 => 0,
                70..97 => chance.below(300),
                _ => chance.below(5_000),
            }
        };
        if micros > 0 {
            let asleep = Mutex::new(());
            let _ = self.latency.wait_timeout(asleep.lock().unwrap(), Duration::from_micros(micros)).unwrap();
        }
    }

    fn write(&self, key: String, op: &Op) -> Option<Answer> {
        let (fate, tells_row) = {
            let mut chance = self.chance.lock().unwrap();
            let fate = match chance.below(100) {
                0..4 => Fate::FailsBefore,
                4..6 => Fate::Away,
                6..9 => Fate::FailsAfter,
                9..12 => Fate::AnswerLost,
                _ => Fate::Well,
            };
            (fate, chance.one_in(2))
        };
        self.state.lock().unwrap().asked.insert(key.clone());
        self.pass_time();
        match fate {
            Fate::FailsBefore => return Some(Answer::Refused(Refusal::Transient)),
            Fate::Away => return Some(Answer::Refused(Refusal::Unavailable)),
            _ => {}
        }
        let answer = self.state.lock().unwrap().write(key, op, self.keeps_keys, tells_row);
        self.pass_time();
        match fate {
            Fate::FailsAfter => Some(Answer::Refused(Refusal::Transient)),
            Fate::AnswerLost => None,
            _ => Some(answer),
        }
    }

    pub(crate) fn rows(&self) -> BTreeMap<String, Fields> {
        self.state.lock().unwrap().rows.clone()
    }

    pub(crate) fn effects(&self) -> Vec<Effect> {
        self.state.lock().unwrap().effects.clone()
    }

    /// Whether a write of this key has come.
    #[allow(dead_code, reason = "only a journal whose end is torn off must know")]
    pub(crate) fn was_asked(&self, key: &str) -> bool {
        self.state.lock().unwrap().asked.contains(key)
    }

    /// How many writes it was asked for.
    pub(crate) fn calls(&self) -> u64 {
        self.state.lock().unwrap().calls
    }

    /// How many reporters have come and gone.
    pub(crate) fn reporters_gone(&self) -> usize {
        self.state.lock().unwrap().reporters_gone
    }

    /// What was reported since this was last asked, and whether another reporter is gone than `before`; waits for one of
    /// both.
    pub(crate) fn reports(&self, before: usize) -> (Vec<Report>, bool) {
        let state = self.state.lock().unwrap();
        let quiet = |state: &mut State| state.reports.is_empty() && state.reporters_gone <= before;
        let (mut state, timeout) = self.news.wait_timeout_while(state, LONG, quiet).unwrap();
        assert!(!timeout.timed_out(), "the child says nothing");
        (std::mem::take(&mut state.reports), state.reporters_gone > before)
    }

    /// The same for so long at the most.
    pub(crate) fn reports_within(&self, time: Duration) -> Vec<Report> {
        let state = self.state.lock().unwrap();
        let (mut state, _) = self.news.wait_timeout_while(state, time, |state| state.reports.is_empty()).unwrap();
        std::mem::take(&mut state.reports)
    }

    /// Waits until all that a dead child asked for is done; gives back the rest of what it reported.
    pub(crate) fn wait_until_left_alone(&self) -> Vec<Report> {
        let mut barrier = UnixStream::connect(&self.socket).unwrap();
        send(&mut barrier, &Ask::Barrier).unwrap();
        receive::<Answer>(&mut barrier).unwrap();
        drop(barrier);
        let state = self.state.lock().unwrap();
        let (mut state, timeout) = self.news.wait_timeout_while(state, LONG, |state| state.open > 0).unwrap();
        assert!(!timeout.timed_out(), "a dead child's connection stays open");
        std::mem::take(&mut state.reports)
    }

    pub(crate) fn end(&self) {
        self.state.lock().unwrap().is_over = true;
        let _ = UnixStream::connect(&self.socket);
    }
}

impl State {
    fn write(&mut self, key: String, op: &Op, keeps_keys: bool, tells_row: bool) -> Answer {
        self.calls += 1;
        if let Some(answer) = self.answers.get(&key).filter(|_| keeps_keys) {
            return answer.clone();
        }
        let answer = self.apply(&key, op, tells_row);
        self.answers.insert(key, answer.clone());
        answer
    }

    fn apply(&mut self, key: &str, op: &Op, tells_row: bool) -> Answer {
        let mark = op.fields.get("mark").copied();
        // The same writes are refused whenever they come.
        if mark.is_some_and(|mark| Chance::new(mark as u64).one_in(40)) {
            return Answer::Refused(Refusal::Rejected);
        }
        let id = match (&op.id, op.verb) {
            (Some(id), _) => Some(id.clone()),
            (None, Verb::DeleteAll) => None,
            (None, _) => {
                self.next_id += 1;
                Some(format!("s{}", self.next_id))
            }
        };
        if let Some(id) = &id {
            let is_there = self.rows.contains_key(id);
            match op.verb {
                Verb::Insert if is_there => return Answer::Refused(Refusal::Conflict),
                Verb::Replace | Verb::Patch if !is_there => return Answer::Refused(Refusal::NotFound),
                Verb::Insert | Verb::Upsert | Verb::Replace => drop(self.rows.insert(id.clone(), op.fields.clone())),
                Verb::Patch => self.rows.entry(id.clone()).or_default().extend(op.fields.clone()),
                Verb::Delete | Verb::DeleteAll => drop(self.rows.remove(id)),
            }
        } else {
            self.rows.clear();
        }
        let (key, verb, is_named) = (key.to_owned(), op.verb, op.id.is_some());
        self.effects.push(Effect { key, verb, id: id.clone(), mark, is_named });
        let fields = id.as_ref().filter(|_| tells_row).and_then(|id| self.rows.get(id)).cloned();
        Answer::Done { id, fields }
    }
}

fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name.to_owned()).spawn(work).unwrap();
}
