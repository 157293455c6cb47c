//! Errors of servers in the client's names: on servers, statements have names of ours.

use crate::reply::Relaying;
use crate::request::{NOT_OURS, OUR_PREFIX};
use crate::session::expect::{Expect, Refusal};

impl Relaying<'_> {
    /// The client's name for a statement that is prepared once more.
    pub(crate) fn taken_name(&self) -> Option<&[u8]> {
        match self.server.expect.front()? {
            Expect::DuplicateParse { name } => Some(name),
            Expect::Query { refusal: Some(refusal), .. } => match &**refusal {
                Refusal::Duplicate(name) => Some(name),
                Refusal::Instead(_) => None,
            },
            _ => None,
        }
    }

    /// An error's message with the client's name for a statement where it has ours; `None`: it has none of ours.
    pub(crate) fn in_names_of_client(&self, message: &[u8]) -> Option<Vec<u8>> {
        let not_ours = [b"\"", NOT_OURS, OUR_PREFIX].concat();
        if let Some(at) = memchr::memmem::find(message, &not_ours) {
            return Some([&message[..=at], &message[at + 1 + NOT_OURS.len()..]].concat());
        }
        let start = memchr::memmem::find(message, &[b"\"", OUR_PREFIX].concat())? + 1;
        let end = start + memchr::memchr(b'"', &message[start..])?;
        let names = self.client.as_ref()?.statements.as_ref()?;
        let name = names.name_of(&message[start..end])?;
        Some([&message[..start], name, &message[end..]].concat())
    }
}
