//! What a client is told, in a form that can be compared.

use std::fmt::{self, Display, Formatter};

use forebay_pgwire::backend::{CommandComplete, ErrorFields, ParameterStatus, RowDescription, data_row, field, tag};

/// What stands for an answer that did not come.
pub(crate) const NO_ANSWER: &str = "no answer in time";

/// What a step of a client is told that has no connection any more.
pub(crate) const NOT_CONNECTED: &str = "not connected";

/// What stands behind a step in which a client left, if that was so.
pub(crate) const NOT_GIVEN_BACK: &str = "what a client held was not given back in time";

/// One message of a server. What can never be equal on two servers, such as oids of tables, is not in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// ParameterStatus.
    Setting {
        /// Of the setting.
        name: String,
        /// Its value.
        value: String,
    },
    /// RowDescription.
    Columns(String),
    /// DataRow; `None` is NULL.
    Row(Vec<Option<String>>),
    /// FunctionCallResponse; `None` is NULL.
    Value(Option<String>),
    /// CommandComplete.
    Done(String),
    /// ErrorResponse and NoticeResponse.
    Report(Box<Report>),
    /// ReadyForQuery, with the transaction's status.
    Ready(char),
    /// Any other message by its tag, or something that went wrong in words.
    Other(String),
    /// Something that was told on a channel.
    Told(String),
    /// The end of the connection.
    Closed,
}

/// An error or a notice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Report {
    /// `ERROR`, `NOTICE` and so on.
    pub(crate) severity: String,
    /// Five characters.
    pub(crate) sqlstate: String,
    /// The message.
    pub(crate) message: String,
    /// Detail, context and object names, each with its code.
    pub(crate) more: String,
    /// What to do about it.
    pub(crate) hint: String,
    /// A place in the text, from 1; empty if there is none.
    pub(crate) position: String,
}

/// A notification that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Process id of the sender, as it was told.
    pub(crate) pid: u32,
    text: String,
}

impl Heard {
    /// From a message's fields.
    pub(crate) fn new(pid: u32, channel: &[u8], payload: &[u8]) -> Heard {
        Heard { pid, text: format!("{} {:?}", readable(channel), readable(payload)) }
    }

    /// With the sender's name instead of its pid.
    pub(crate) fn from(&self, sender: &str) -> Event {
        Event::Told(format!("{} from {sender}", self.text))
    }
}

impl Event {
    /// Reads a message.
    pub(crate) fn decode(tag: u8, body: &[u8]) -> Event {
        match tag {
            tag::DATA_ROW => row(body),
            tag::ROW_DESCRIPTION => columns(body),
            tag::COMMAND_COMPLETE => match CommandComplete::decode(body) {
                Ok(done) => Event::Done(readable(done.tag)),
                Err(error) => Event::Other(error.to_string()),
            },
            tag::PARAMETER_STATUS => match ParameterStatus::decode(body) {
                Ok(told) => Event::Setting { name: readable(told.name), value: readable(told.value) },
                Err(error) => Event::Other(error.to_string()),
            },
            tag::READY_FOR_QUERY => Event::Ready(body.first().copied().unwrap_or(b'?').into()),
            tag::ERROR_RESPONSE | tag::NOTICE_RESPONSE => match ErrorFields::decode(body) {
                Ok(fields) => Event::Report(Box::new(report(fields))),
                Err(error) => Event::Other(error.to_string()),
            },
            tag::FUNCTION_CALL_RESPONSE => called(body),
            tag::COPY_DATA => Event::Other(format!("d {}", readable(body))),
            tag::PARAMETER_DESCRIPTION | tag::COPY_IN_RESPONSE | tag::COPY_OUT_RESPONSE => {
                Event::Other(format!("{} {}", char::from(tag), readable(body)))
            }
            _ => Event::Other(char::from(tag).to_string()),
        }
    }

    /// Whether it is the end of a session, or of its answers.
    pub(crate) fn is_loss(&self) -> bool {
        match self {
            Event::Closed => true,
            Event::Other(text) => [NO_ANSWER, NOT_CONNECTED, NOT_GIVEN_BACK].contains(&text.as_str()),
            _ => false,
        }
    }

    /// What kind of event it is, for telling divergences apart.
    pub(crate) fn class(&self) -> String {
        match self {
            Event::Setting { name, .. } => format!("S {name}"),
            Event::Columns(_) => "T".to_owned(),
            Event::Row(_) => "D".to_owned(),
            Event::Value(_) => "V".to_owned(),
            Event::Done(_) => "C".to_owned(),
            Event::Report(report) => format!("{} {}", report.severity, report.sqlstate),
            Event::Ready(status) => format!("Z {status}"),
            Event::Other(text) => text.split(' ').next().unwrap_or_default().to_owned(),
            Event::Told(_) => "A".to_owned(),
            Event::Closed => "closed".to_owned(),
        }
    }

    /// The same with `from` replaced by `to` in every text.
    pub(crate) fn replaced(self, from: &str, to: &str) -> Event {
        let change = |text: String| if text.contains(from) { text.replace(from, to) } else { text };
        match self {
            Event::Columns(text) => Event::Columns(change(text)),
            Event::Row(row) => Event::Row(row.into_iter().map(|value| value.map(change)).collect()),
            Event::Value(value) => Event::Value(value.map(change)),
            Event::Report(mut report) => {
                report.message = change(std::mem::take(&mut report.message));
                report.more = change(std::mem::take(&mut report.more));
                Event::Report(report)
            }
            Event::Setting { name, value } => Event::Setting { name, value: change(value) },
            Event::Told(text) => Event::Told(change(text)),
            Event::Other(text) => Event::Other(change(text)),
            other => other,
        }
    }
}

fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control()) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

fn row(body: &[u8]) -> Event {
    match data_row(body) {
        Ok(values) => Event::Row(values.iter().map(|value| value.map(readable)).collect()),
        Err(error) => Event::Other(error.to_string()),
    }
}

/// What a function returned: its length, which is -1 of NULL, and its bytes.
fn called(body: &[u8]) -> Event {
    match body.split_first_chunk() {
        Some((length, value)) if usize::try_from(i32::from_be_bytes(*length)) == Ok(value.len()) => {
            Event::Value(Some(readable(value)))
        }
        Some((&[0xff, 0xff, 0xff, 0xff], [])) => Event::Value(None),
        _ => Event::Other(format!("V {}", readable(body))),
    }
}

/// Names and types; of a table's oid only whether there is one, as each side has its own.
fn columns(body: &[u8]) -> Event {
    match RowDescription::decode(body) {
        Ok(description) => Event::Columns(
            description
                .iter()
                .map(|column| {
                    let origin = if column.table_oid == 0 { "" } else { "*" };
                    let (name, number) = (readable(column.name), column.number);
                    format!("{name}{origin}{number}:{}:{}:{}", column.type_oid, column.type_modifier, column.format)
                })
                .collect::<Vec<_>>()
                .join(", "),
        ),
        Err(error) => Event::Other(error.to_string()),
    }
}

fn report(fields: ErrorFields<'_>) -> Report {
    let text = |code| fields.get(code).map(readable).unwrap_or_default();
    let mut more = String::new();
    for (code, value) in fields.iter() {
        if matches!(
            code,
            field::DETAIL | field::WHERE | field::SCHEMA | field::TABLE | field::COLUMN | field::CONSTRAINT
        ) {
            more.push_str(&format!(" {}={}", char::from(code), readable(value)));
        }
    }
    Report {
        severity: fields.severity().map(readable).unwrap_or_default(),
        sqlstate: text(field::SQLSTATE),
        message: text(field::MESSAGE),
        more,
        hint: text(field::HINT),
        position: text(field::POSITION),
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Event::Setting { name, value } => write!(f, "S {name}={value}"),
            Event::Columns(text) => write!(f, "T {text}"),
            Event::Row(row) => {
                let cells: Vec<_> = row.iter().map(|value| value.as_deref().unwrap_or("␀")).collect();
                write!(f, "D {}", cells.join(" | "))
            }
            Event::Value(value) => write!(f, "V {}", value.as_deref().unwrap_or("␀")),
            Event::Done(text) => write!(f, "C {text}"),
            Event::Report(report) => {
                write!(f, "{} {}: {}{}", report.severity, report.sqlstate, report.message, report.more)?;
                if !report.hint.is_empty() {
                    write!(f, " H={}", report.hint)?;
                }
                if !report.position.is_empty() {
                    write!(f, " P={}", report.position)?;
                }
                Ok(())
            }
            Event::Ready(status) => write!(f, "Z {status}"),
            Event::Other(text) => f.write_str(text),
            Event::Told(text) => write!(f, "A {text}"),
            Event::Closed => write!(f, "closed"),
        }
    }
}
