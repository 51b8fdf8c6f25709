//! Wire: what a child and the source say to each other: a length, then CBOR. And the source as the child sees it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use diorama::prelude::*;
use diorama::vista::{Capabilities, Schema};
use diorama::{QueryDescriptor, TableShell, record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A row without its id; all columns are numbers.
pub(crate) type Fields = BTreeMap<String, i64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verb {
    Insert,
    Replace,
    Upsert,
    Patch,
    Delete,
    DeleteAll,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Op {
    pub(crate) verb: Verb,
    pub(crate) id: Option<String>,
    pub(crate) fields: Fields,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    List,
    Get(String),
    Write {
        key: String,
        op: Op,
    },
    Report(Report),
    /// Whoever connected before is counted when the answer comes.
    Barrier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    Conflict,
    NotFound,
    Rejected,
    Transient,
    Unavailable,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    Rows(Vec<(String, Fields)>),
    Row(Option<Fields>),
    Done { id: Option<String>, fields: Option<Fields> },
    Refused(Refusal),
    Passed,
}

/// A write as the child knows it: `mark` rises with every write of the child, and over all its lives.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) mark: i64,
    /// The row, by what is in its column `tag`; `None` for all rows.
    pub(crate) tag: Option<i64>,
    pub(crate) verb: Verb,
    pub(crate) is_named: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShownRow {
    pub(crate) id: String,
    pub(crate) fields: Fields,
    pub(crate) is_pending: bool,
}

/// A pending write: its number, its row, and what it does.
pub(crate) type Pending = (u64, Option<String>, Verb);

/// What the child tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Report {
    /// It is about to write this.
    Intends(Mark),
    /// It has seen that the write is durable, and goes on.
    Accepted {
        mark: Mark,
        number: u64,
    },
    Confirmed {
        mark: Mark,
        number: u64,
    },
    Failed {
        number: u64,
        may_be_done: bool,
        error: String,
    },
    Superseded {
        number: u64,
        by: u64,
    },
    /// The storage took none of it.
    Refused(Mark),
    /// What it shows. Pending are the writes that were so before and after it looked: their numbers, their rows and whether
    /// the last one of the row leaves a row.
    Shows {
        rows: Vec<ShownRow>,
        pending: Vec<Pending>,
    },
    /// All is delivered and closed.
    Rests {
        pending: usize,
        failed: usize,
        kept: u64,
        is_closed: bool,
    },
}

pub(crate) fn send<T: Serialize>(stream: &mut UnixStream, what: &T) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    ciborium::into_writer(what, &mut bytes).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&bytes)
}

pub(crate) fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut bytes)?;
    ciborium::from_reader(bytes.as_slice()).map_err(io::Error::other)
}

pub(crate) fn record_of(id: &str, fields: &Fields) -> Record {
    let mut record = record! { "id" => id };
    for (name, value) in fields {
        record.insert(name.as_str(), *value);
    }
    record
}

pub(crate) fn fields_of(record: &Record) -> Fields {
    record.names().filter_map(|name| Some((name.to_owned(), record.int(name)?))).collect()
}

/// The source in the other process.
pub(crate) struct Remote {
    socket: PathBuf,
    keeps_keys: bool,
    idle: Mutex<Vec<UnixStream>>,
}

impl Remote {
    pub(crate) fn new(socket: PathBuf, keeps_keys: bool) -> Self {
        Remote { socket, keeps_keys, idle: Mutex::default() }
    }

    fn ask(&self, ask: &Ask) -> Result<Answer, Error> {
        let idle = self.idle.lock().unwrap().pop();
        let connected = match idle {
            Some(stream) => Ok(stream),
            None => UnixStream::connect(&self.socket),
        };
        let mut stream = connected
            .map_err(|error| Error::new(ErrorKind::Unavailable, "the source is not there").with_source(error))?;
        let answer = send(&mut stream, ask).and_then(|()| receive(&mut stream));
        let answer =
            answer.map_err(|error| Error::new(ErrorKind::Timeout, "no answer came, done or not").with_source(error))?;
        self.idle.lock().unwrap().push(stream);
        Ok(answer)
    }

    fn write(&self, cx: &CallCx, verb: Verb, id: Option<&str>, record: &Record) -> Result<Written, Error> {
        let key = cx.idempotency_key().unwrap_or_default().to_owned();
        let op = Op { verb, id: id.map(str::to_owned), fields: fields_of(record) };
        let kind = match self.ask(&Ask::Write { key, op })? {
            Answer::Done { id, fields } => {
                let record = id.as_ref().zip(fields).map(|(id, fields)| record_of(id, &fields));
                return Ok(Written { id, record });
            }
            Answer::Refused(Refusal::Conflict) => ErrorKind::Conflict,
            Answer::Refused(Refusal::NotFound) => ErrorKind::NotFound,
            Answer::Refused(Refusal::Rejected) => ErrorKind::Rejected,
            Answer::Refused(Refusal::Unavailable) => ErrorKind::Unavailable,
            _ => ErrorKind::Source,
        };
        Err(Error::new(kind, "the source said no"))
    }
}

impl TableShell for Remote {
    fn name(&self) -> &str {
        "things"
    }

    fn source_key(&self) -> String {
        "the source in the other process".to_owned()
    }

    fn schema(&self) -> Arc<Schema> {
        Arc::new(Schema::open("id"))
    }

    fn capabilities(&self) -> Capabilities {
        let able = Capabilities::read_write();
        Capabilities { idempotent_writes: self.keeps_keys, count: false, window: false, ..able }
    }

    fn list(&self, _: &CallCx, _: &QueryDescriptor) -> Result<Vec<(String, Record)>, Error> {
        match self.ask(&Ask::List)? {
            Answer::Rows(rows) => Ok(rows
                .into_iter()
                .map(|(id, fields)| {
                    let record = record_of(&id, &fields);
                    (id, record)
                })
                .collect()),
            _ => Err(Error::new(ErrorKind::Source, "no rows")),
        }
    }

    fn get(&self, _: &CallCx, id: &str) -> Result<Option<Record>, Error> {
        match self.ask(&Ask::Get(id.to_owned()))? {
            Answer::Row(fields) => Ok(fields.map(|fields| record_of(id, &fields))),
            _ => Err(Error::new(ErrorKind::Source, "no row")),
        }
    }

    fn insert(&self, cx: &CallCx, id: Option<&str>, record: &Record) -> Result<Written, Error> {
        self.write(cx, Verb::Insert, id, record)
    }

    fn replace(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written, Error> {
        self.write(cx, Verb::Replace, Some(id), record)
    }

    fn upsert(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written, Error> {
        self.write(cx, Verb::Upsert, Some(id), record)
    }

    fn patch(&self, cx: &CallCx, id: &str, record: &Record) -> Result<Written, Error> {
        self.write(cx, Verb::Patch, Some(id), record)
    }

    fn delete(&self, cx: &CallCx, id: &str) -> Result<(), Error> {
        self.write(cx, Verb::Delete, Some(id), &Record::new()).map(drop)
    }

    fn delete_all(&self, cx: &CallCx) -> Result<(), Error> {
        self.write(cx, Verb::DeleteAll, None, &Record::new()).map(drop)
    }
}
