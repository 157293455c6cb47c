//! A frame as one line of text, and back: the language of golden traces.
//!
//! A line is a side (`F` for clients, `B` for servers), the message's name in PostgreSQL's documentation, and its
//! fields: strings in quotes, numbers, words, lists in brackets. Bytes that read badly stand as hexadecimal, `x"00ff"`.
//!
//! ```text
//! F Startup 3.0 "user" "app" "database" "shop"
//! B AuthenticationOk
//! B BackendKeyData 4711 x"01020304"
//! F Parse "s1" "select $1" [23]
//! F Bind "" "s1" [] ["1", NULL] [0]
//! F Describe S "s1"
//! B RowDescription [["id", 23], ["name", 16385, 2, 25, -1, -1, 0]]
//! B ErrorResponse S "ERROR" C "42601" M "syntax error"
//! F Frame "q" x"00"
//! F Bytes "not a frame"
//! ```
//!
//! A column of a RowDescription is a name and a type where it is text of no table, otherwise all seven fields. `Frame`
//! is a tag and a body of any kind, `Bytes` are bytes without a head. What [`print()`] gives, [`parse`] turns into
//! the same bytes, for every input.

mod item;
mod parse;
mod print;

use std::fmt;

use crate::frame::{Frames, head};
use crate::{backend, frontend};

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// A client; `F` in a line.
    Frontend,
    /// A server; `B` in a line.
    Backend,
}

impl Side {
    fn letter(self) -> char {
        match self {
            Side::Frontend => 'F',
            Side::Backend => 'B',
        }
    }
}

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// What is wrong, as a sentence without its period.
    pub reason: String,
}

impl TextError {
    fn new(reason: impl Into<String>) -> TextError {
        TextError { reason: reason.into() }
    }
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for TextError {}

/// Prints one frame, tag and length word included. Never fails: what is malformed is printed as `Frame` or `Bytes`.
pub fn print(side: Side, frame: &[u8]) -> String {
    let whole = match head(frame, u32::MAX) {
        Ok(Some(head)) if head.bytes as usize == frame.len() => Some(head),
        _ => None,
    };
    let Some(head) = whole else { return print::bytes(side, frame) };
    let body = &frame[crate::frame::HEAD_BYTES..];
    let readable = match side {
        Side::Frontend => print::frontend(head.tag, body),
        Side::Backend => print::backend(head.tag, body),
    };
    // What a view drops, such as an impossible count, would be lost: the raw form keeps it.
    readable
        .map(|fields| format!("{} {fields}", side.letter()))
        .filter(|line| parse(line).is_ok_and(|(_, bytes)| bytes == frame))
        .unwrap_or_else(|| print::frame(side, head.tag, body))
}

/// Prints a client's first packet, which has no tag.
pub fn print_first(packet: &[u8]) -> String {
    print::first(packet)
        .map(|fields| format!("F {fields}"))
        .filter(|line| parse(line).is_ok_and(|(_, bytes)| bytes == packet))
        .unwrap_or_else(|| print::bytes(Side::Frontend, packet))
}

/// Prints a stream, a line a frame; what follows the last complete frame is a line of `Bytes`.
pub fn print_all(side: Side, data: &[u8]) -> Vec<String> {
    let mut frames = Frames::new(data, u32::MAX);
    let mut lines = Vec::new();
    let mut before = data;
    while let Some(Ok(_)) = frames.next() {
        lines.push(print(side, &before[..before.len() - frames.rest().len()]));
        before = frames.rest();
    }
    if !before.is_empty() {
        lines.push(print::bytes(side, before));
    }
    lines
}

/// Reads a line: who sends, and the bytes.
pub fn parse(line: &str) -> Result<(Side, Vec<u8>), TextError> {
    let mut items = item::Items::read(line)?;
    let side = match items.word()?.as_str() {
        "F" => Side::Frontend,
        "B" => Side::Backend,
        other => return Err(TextError::new(format!("a line begins with F or B, not with {other}"))),
    };
    let name = items.word()?;
    let mut out = Vec::new();
    parse::message(&mut out, side, &name, &mut items)?;
    items.end()?;
    Ok((side, out))
}

/// Messages without a body.
const EMPTY: &[(Side, u8, &str)] = &[
    (Side::Frontend, frontend::tag::SYNC, "Sync"),
    (Side::Frontend, frontend::tag::FLUSH, "Flush"),
    (Side::Frontend, frontend::tag::TERMINATE, "Terminate"),
    (Side::Frontend, frontend::tag::COPY_DONE, "CopyDone"),
    (Side::Backend, backend::tag::COPY_DONE, "CopyDone"),
    (Side::Backend, backend::tag::PARSE_COMPLETE, "ParseComplete"),
    (Side::Backend, backend::tag::BIND_COMPLETE, "BindComplete"),
    (Side::Backend, backend::tag::CLOSE_COMPLETE, "CloseComplete"),
    (Side::Backend, backend::tag::NO_DATA, "NoData"),
    (Side::Backend, backend::tag::EMPTY_QUERY_RESPONSE, "EmptyQueryResponse"),
    (Side::Backend, backend::tag::PORTAL_SUSPENDED, "PortalSuspended"),
];

/// Messages whose body is one string.
const STRING: &[(Side, u8, &str)] = &[
    (Side::Frontend, frontend::tag::QUERY, "Query"),
    (Side::Frontend, frontend::tag::COPY_FAIL, "CopyFail"),
    (Side::Backend, backend::tag::COMMAND_COMPLETE, "CommandComplete"),
];

/// Messages whose body is data.
const DATA: &[(Side, u8, &str)] =
    &[(Side::Frontend, frontend::tag::COPY_DATA, "CopyData"), (Side::Backend, backend::tag::COPY_DATA, "CopyData")];

/// Messages that begin a COPY.
const COPY: &[(Side, u8, &str)] = &[
    (Side::Backend, backend::tag::COPY_IN_RESPONSE, "CopyInResponse"),
    (Side::Backend, backend::tag::COPY_OUT_RESPONSE, "CopyOutResponse"),
    (Side::Backend, backend::tag::COPY_BOTH_RESPONSE, "CopyBothResponse"),
];

/// Messages of fields with codes.
const FIELDS: &[(Side, u8, &str)] = &[
    (Side::Backend, backend::tag::ERROR_RESPONSE, "ErrorResponse"),
    (Side::Backend, backend::tag::NOTICE_RESPONSE, "NoticeResponse"),
];

fn name_of(table: &[(Side, u8, &'static str)], side: Side, tag: u8) -> Option<&'static str> {
    table.iter().find(|row| row.0 == side && row.1 == tag).map(|row| row.2)
}

fn tag_of(table: &[(Side, u8, &'static str)], side: Side, name: &str) -> Option<u8> {
    table.iter().find(|row| row.0 == side && row.2 == name).map(|row| row.1)
}

#[cfg(test)]
mod tests;
