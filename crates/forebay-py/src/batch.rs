//! What waits in the outbox, as plain tuples.

use std::time::{SystemTime, UNIX_EPOCH};

use forebay_core::command::Reply;
use forebay_core::config::AuthMethod;
use forebay_core::event::{Event, Field};
use forebay_core::question::{ConsoleStep, Question};
use forebay_runtime::Batch;
use pyo3::prelude::*;

/// See `Batch` in `_engine.pyi`.
#[pyclass(frozen, get_all, name = "Batch", module = "forebay._engine")]
pub(crate) struct PyBatch {
    events: Vec<EventTuple>,
    events_dropped: u64,
    secrets: Vec<(u16, u64, String, String)>,
    verdicts: Vec<VerdictTuple>,
    consoles: Vec<ConsoleTuple>,
    suspects: Vec<String>,
    called_off: Vec<(u16, u64)>,
    replies: Vec<(u64, &'static str, Option<String>)>,
}

/// Worker, question, user, whether it is our own operator, text, step, formats.
type ConsoleTuple = (u16, u64, String, bool, String, &'static str, Vec<i16>);

/// Worker, question, method, service, database, user, password, address.
type VerdictTuple = (u16, u64, &'static str, u32, String, String, String, String);

/// Seconds since 1970, level, name, code, worker, fields.
type EventTuple = (f64, u8, &'static str, Option<&'static str>, u16, Vec<(&'static str, Value)>);

/// A field's value.
#[derive(Clone, IntoPyObject, IntoPyObjectRef)]
enum Value {
    Text(String),
    Number(u64),
}

impl From<Batch> for PyBatch {
    fn from(batch: Batch) -> PyBatch {
        let (mut secrets, mut verdicts, mut consoles) = (Vec::new(), Vec::new(), Vec::new());
        let (mut suspects, mut called_off) = (Vec::new(), Vec::new());
        for (worker, id, question) in batch.questions {
            match question {
                Question::Secret { database, user } => {
                    secrets.push((worker.0, id.0, database.to_string(), user.to_string()));
                }
                Question::Verdict { method, service, database, user, password, address } => {
                    let method = if method == AuthMethod::Ldap { "ldap" } else { "pam" };
                    let texts = (database.to_string(), user.to_string(), password.expose().to_owned());
                    let address = address.to_string();
                    verdicts.push((worker.0, id.0, method, service, texts.0, texts.1, texts.2, address));
                }
                Question::Console { user, is_own, text, step } => {
                    let (step, formats) = match &step {
                        ConsoleStep::Query => ("query", Vec::new()),
                        ConsoleStep::Describe(formats) => ("describe", formats.to_vec()),
                        ConsoleStep::Execute(formats) => ("execute", formats.to_vec()),
                    };
                    consoles.push((worker.0, id.0, user.to_string(), is_own, text.to_string(), step, formats));
                }
                Question::Suspect { database } => suspects.push(database.to_string()),
                Question::CallOff { asked } => called_off.push((worker.0, asked.0)),
                // Answered by the runtime's side threads; they never come this far.
                Question::SaltPassword { .. } | Question::OsUser { .. } => {}
            }
        }
        PyBatch {
            events: batch.events.into_iter().map(event).collect(),
            events_dropped: batch.events_dropped,
            secrets,
            verdicts,
            consoles,
            suspects,
            called_off,
            replies: batch.replies.into_iter().map(|(_, id, reply)| named(id.0, reply)).collect(),
        }
    }
}

fn event((at, event): (SystemTime, Event)) -> EventTuple {
    let fields = event.fields.into_iter().map(|(name, field)| {
        let value = match field {
            Field::Text(text) => Value::Text(text.to_string()),
            Field::Number(number) => Value::Number(number),
        };
        (name, value)
    });
    let at = at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    (at, event.level as u8, event.name, event.code, event.worker.0, fields.collect())
}

fn named(id: u64, reply: Reply) -> (u64, &'static str, Option<String>) {
    match reply {
        Reply::Done => (id, "done", None),
        Reply::Refused(because) => (id, "refused", Some(because.to_string())),
        Reply::Snapshot(snapshot) => match serde_json::to_string(&*snapshot) {
            Ok(json) => (id, "snapshot", Some(json)),
            Err(error) => (id, "refused", Some(error.to_string())),
        },
    }
}
