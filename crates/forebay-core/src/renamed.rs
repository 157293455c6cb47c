//! Errors of servers in the client's words: on servers, statements have names of ours, and a name in a text moves what
//! stands behind it.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::sync::Arc;

use forebay_pgwire::backend::{ErrorFields, field};
use forebay_pgwire::write;
use rustc_hash::FxHasher;

use crate::moving::part::part_struct;
use crate::reply::Relaying;
use crate::request::NOT_OURS;
use crate::session::expect::{Change, Expect};
use crate::statements::Statement;

/// One name of a text was replaced: what stands behind it stands elsewhere for the server. In characters, as PostgreSQL
/// counts places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// The place of the name, counted from 1.
    at: u32,
    /// How many more characters the client's name has than ours.
    by: i32,
}

impl Moved {
    /// `text[start..end]` was replaced by `name`.
    pub(crate) fn new(text: &[u8], start: usize, end: usize, name: &[u8]) -> Moved {
        let by = characters(&text[start..end]) as i32 - characters(name) as i32;
        Moved { at: characters(&text[..start]) as u32 + 1, by }
    }

    /// Where the client has what the server has at `place`.
    pub(crate) fn back(self, place: u32) -> u32 {
        if place > self.at { place.saturating_add_signed(self.by).max(self.at) } else { place }
    }
}

/// How many characters there are; of a text that is not UTF-8, how many bytes.
fn characters(text: &[u8]) -> usize {
    std::str::from_utf8(text).map_or(text.len(), |text| text.chars().count())
}

/// Places in a text that names a statement, and in the statement's own: an error may be of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The client's names for the statements that the text names.
    names: Vec<Box<[u8]>>,
    /// The first is to be prepared, and the name is taken.
    is_taken: bool,
    /// In order; each as if those behind it had not been replaced.
    moved: Vec<Moved>,
    /// Characters of the text as it was sent. A place beyond is one of the statement's own text.
    characters: u32,
    named: Moved,
}

impl Places {
    /// Of the text `sent`, in which `name` was replaced by the one that `named` has on servers.
    pub(crate) fn new(name: &[u8], moved: Moved, sent: &[u8], named: &Statement) -> Places {
        let characters = characters(sent) as u32;
        Places { names: vec![name.into()], is_taken: false, moved: vec![moved], characters, named: named.moved() }
    }

    /// Of the text `sent`, in which several names were replaced.
    pub(crate) fn of_several(names: &[&str], moved: Vec<Moved>, sent: &[u8]) -> Places {
        let names = names.iter().map(|name| name.as_bytes().into()).collect();
        Places { names, is_taken: false, moved, characters: characters(sent) as u32, named: Moved::default() }
    }

    /// Those of a PREPARE whose name is taken.
    pub(crate) fn taken(self) -> Places {
        Places { is_taken: true, ..self }
    }

    /// Those of a statement whose text names another.
    #[inline]
    pub(crate) fn of(statement: &Statement) -> Option<Box<Places>> {
        let (named, name) = (statement.needs()?, statement.needs_name());
        Some(Box::new(Places::new(name, statement.moved(), statement.text(), named)))
    }

    fn back(&self, place: u32) -> u32 {
        if place > self.characters + 1 {
            return self.named.back(place);
        }
        self.moved.iter().rev().fold(place, |place, moved| moved.back(place))
    }
}

part_struct!(Moved { at: u32, by: i32 });
part_struct!(Places { names: Vec<Box<[u8]>>, is_taken: bool, moved: Vec<Moved>, characters: u32, named: Moved });

/// Statements that are being prepared before what needs them, apart from it.
#[derive(Debug, Default)]
pub struct Ensuring {
    /// What each [`crate::session::expect::Own::Ensure`] prepares, in order.
    pub(crate) due: VecDeque<Arc<Statement>>,
    /// Why the last of them could not be prepared.
    pub(crate) error: Option<Box<EnsureError>>,
}

/// Why a statement could not be prepared before what needs it.
#[derive(Debug)]
pub(crate) struct EnsureError {
    /// The ErrorResponse's body.
    body: Box<[u8]>,
    moved: Moved,
}

impl Relaying<'_> {
    /// Keeps the error of a statement that is being prepared for what comes behind it.
    #[cold]
    pub(crate) fn keep_ensure_error(&mut self, body: &[u8]) {
        let moved = self.server.ensuring.due.front().map_or(Moved::default(), |statement| statement.moved());
        self.server.ensuring.error.get_or_insert_with(|| Box::new(EnsureError { body: body.into(), moved }));
    }

    /// Tells the client why what its request names could not be prepared, if the error at hand is that it was not. False:
    /// it is another.
    pub(crate) fn tell_ensure_error(&mut self, fields: ErrorFields<'_>) -> bool {
        if !matches!(fields.sqlstate(), Some(b"26000" | b"25P02")) {
            self.server.ensuring.error = None;
            return false;
        }
        self.tell_kept_error()
    }

    /// Tells the client why a statement could not be prepared, if that is so.
    #[cold]
    pub(crate) fn tell_kept_error(&mut self) -> bool {
        let Some(kept) = self.server.ensuring.error.take() else { return false };
        let Ok(fields) = ErrorFields::decode(&kept.body) else { return false };
        let message = self.in_names_of_client(fields.message().unwrap_or_default());
        self.tell_in_words(fields, message.as_deref(), |place| kept.moved.back(place));
        true
    }

    /// Tells the client an error in its own words. False: they are the server's.
    pub(crate) fn tell_renamed(&mut self, fields: ErrorFields<'_>) -> bool {
        if fields.sqlstate() == Some(b"26000") {
            self.doubt_account(fields.message().unwrap_or_default());
        }
        let message = match self.taken_name() {
            Some(name) if fields.sqlstate() == Some(b"42P05") => {
                Some([b"prepared statement \"", name, b"\" already exists"].concat())
            }
            _ => self.in_names_of_client(fields.message().unwrap_or_default()),
        };
        let places = self.places().cloned();
        if message.is_none() && (places.is_none() || fields.get(field::POSITION).is_none()) {
            return false;
        }
        self.tell_in_words(fields, message.as_deref(), |place| {
            places.as_ref().map_or(place, |places| places.back(place))
        });
        true
    }

    /// The server says that it has none of this name: if the account says otherwise, it is the account that is wrong, by what
    /// a function has taken away, and the server is nobody else's.
    #[cold]
    fn doubt_account(&mut self, message: &[u8]) {
        let mut parts = message.split(|byte| *byte == b'"');
        let is_held = parts.nth(1).is_some_and(|name| self.server.statements.has(name));
        self.server.is_close_needed |= is_held;
    }

    fn tell_in_words(&mut self, fields: ErrorFields<'_>, message: Option<&[u8]>, back: impl Fn(u32) -> u32) {
        let place = moved_back(fields, back);
        let renamed: Vec<(u8, &[u8])> = fields
            .iter()
            .map(|(code, value)| match code {
                field::MESSAGE => (code, message.unwrap_or(value)),
                field::POSITION => (code, place.as_bytes()),
                _ => (code, value),
            })
            .collect();
        write::error_response(self.batch.owned(), &renamed);
    }

    /// Where names were replaced in the text whose reply is at hand.
    pub(crate) fn places(&self) -> Option<&Places> {
        match self.server.expect.front()? {
            Expect::Query { places, .. } | Expect::Execute { places, .. } | Expect::Describe { places, .. } => {
                places.as_deref()
            }
            _ => None,
        }
    }

    /// A notice about a text in which a name was replaced. False: it goes to the client as it is.
    #[cold]
    pub(crate) fn tell_notice(&mut self, body: &[u8]) -> bool {
        let (Ok(fields), Some(places)) = (ErrorFields::decode(body), self.places().cloned()) else { return false };
        if fields.get(field::POSITION).is_none() {
            return false;
        }
        let place = moved_back(fields, |place| places.back(place));
        let is_place = |code| code == field::POSITION;
        let moved = fields.iter().map(|(code, value)| (code, if is_place(code) { place.as_bytes() } else { value }));
        write::notice_response(self.batch.owned(), &moved.collect::<Vec<_>>());
        true
    }

    /// The client's name for a statement that is prepared once more.
    pub(crate) fn taken_name(&self) -> Option<&[u8]> {
        match self.server.expect.front()? {
            Expect::DuplicateParse { name } => Some(name),
            _ => self
                .places()
                .filter(|places| places.is_taken)
                .and_then(|places| places.names.first())
                .map(|name| &**name),
        }
    }

    /// Whether the request whose reply is at hand uses this name: several names may stand for one statement.
    fn is_named_by_request(&self, name: &[u8]) -> bool {
        match self.server.expect.front() {
            Some(Expect::Bind { name: mark }) => name_mark(name) == *mark,
            _ => self.places().is_some_and(|places| places.names.iter().any(|said| **said == *name)),
        }
    }

    /// The one name in the text whose reply is at hand.
    fn only_name(&self) -> Option<&[u8]> {
        match &*self.places()?.names {
            [name] => Some(name),
            _ => None,
        }
    }

    /// An error's message with the client's name for a statement where it has ours; `None`: it has none of ours.
    pub(crate) fn in_names_of_client(&self, message: &[u8]) -> Option<Vec<u8>> {
        let not_ours = [b"\"", NOT_OURS, self.prefix].concat();
        if let Some(at) = memchr::memmem::find(message, &not_ours) {
            return Some([&message[..=at], &message[at + 1 + NOT_OURS.len()..]].concat());
        }
        let start = memchr::memmem::find(message, &[b"\"", self.prefix].concat())? + 1;
        let end = start + memchr::memchr(b'"', &message[start..])?;
        let (ours, names) = (&message[start..end], self.client.as_ref()?.statements.as_ref()?);
        // A Close behind the message that failed has taken the name away already, or a Parse the statement.
        let changes = self.server.expect.iter().flat_map(Expect::changes);
        let is_of_it = |change: &&Change| change.before.as_ref().is_some_and(|s| s.name() == ours);
        let taken: Vec<&[u8]> = changes.filter(is_of_it).map(|change| &*change.name).collect();
        let name = match taken.iter().find(|name| self.is_named_by_request(name)) {
            Some(name) => name,
            None => match (names.name_of(ours, |name| self.is_named_by_request(name)), self.only_name()) {
                // A request before it has taken the name away, and the statement has another.
                (Some(other), Some(name)) if !self.is_named_by_request(other) => name,
                (other, _) => other.or(taken.first().copied())?,
            },
        };
        Some([&message[..start], name, &message[end..]].concat())
    }
}

/// A name in four bytes, to tell it from the few others that one statement has.
#[inline]
pub(crate) fn name_mark(name: &[u8]) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    hasher.finish() as u32
}

/// The place that an error or notice names, for the client.
fn moved_back(fields: ErrorFields<'_>, back: impl Fn(u32) -> u32) -> String {
    let said = fields.get(field::POSITION).map(String::from_utf8_lossy).unwrap_or_default();
    said.parse().map_or_else(|_| said.into_owned(), |place| back(place).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caret under the wrong word sends people looking there.
    #[test]
    fn places_behind_a_name_are_the_clients() {
        let text = "/* \u{e9} */ prepare \"\u{e9} x\" as select nothing";
        let (start, end) = (text.find('"').expect("it is there"), text.find(" as").expect("it is there"));
        let moved = Moved::new(text.as_bytes(), start, end, b"fb_12345");
        let place = |text: &str, of: &str| text[..text.find(of).expect("it is there")].chars().count() as u32 + 1;
        let sent = [&text[..start], "fb_12345", &text[end..]].concat();
        for word in ["prepare", "as", "nothing"] {
            assert_eq!(moved.back(place(&sent, word)), place(text, word), "{word}");
        }
        assert_eq!(moved.back(place(&sent, "fb_")), place(text, "\""));
        let within = place(text, "\"")..=place(text, " as");
        assert!(within.contains(&moved.back(place(&sent, "345"))), "within our name");
    }
}
