//! What a client's statements leave on its server, how the client keeps it, and how the next one is kept from it.
//!
//! | when | what |
//! |---|---|
//! | a statement is forwarded | [`mark`]: its traces are noted on the server; [`access`]: whether its transaction can write |
//! | the transaction is over | [`probe`]: what it may have changed is read back; the client's image and [`pin`] follow |
//! | the client had reset what it asked for at its start | [`restore`]: it is set again before the request ends |
//! | the server goes to another client, or has time before | [`reset`]: it is brought back to its start |
//! | objects may have changed | [`knowledge`]: what the database's own functions and tables do is read again, by a [`reader`] |
//!
//! Values are never taken from a statement's text: what is in force is what the server says. So rollbacks, savepoints
//! and functions need no mirror here; a text only tells what to ask for.

pub mod access;
pub mod knowledge;
pub mod look;
pub mod mark;
pub mod pin;
pub mod probe;
mod reader;
pub mod reset;
pub mod restore;

use std::sync::Arc;

use forebay_sql::traces::Traces;

use crate::parameters::Image;
use crate::planted::{Bug, planted};

/// Settings that a text names, noted for one transaction; more of them, and all are asked for.
const NAMED_MAX: usize = 32;

/// Custom settings that are remembered of a server; one with more of them is for nobody else.
const CUSTOM_MAX: usize = 64;

/// What may be told by looking at the session once the transaction is over.
const PROBED: Traces = Traces::SETTING
    .with(Traces::ANY_SETTING)
    .with(Traces::AUTHORIZATION)
    .with(Traces::TEMP)
    .with(Traces::LOCK)
    .with(Traces::LISTEN)
    .with(Traces::CURSOR)
    .with(Traces::PREPARED)
    .with(Traces::SEED)
    .with(Traces::LIBRARY)
    .with(Traces::OPAQUE);

/// What keeps a server with its client while it lasts.
pub(crate) const PINNING: Traces = Traces::TEMP
    .with(Traces::LOCK)
    .with(Traces::LISTEN)
    .with(Traces::CURSOR)
    .with(Traces::PREPARED)
    .with(Traces::AUTHORIZATION)
    .with(Traces::SEED)
    .with(Traces::LIBRARY)
    .with(Traces::SEQUENCE)
    .with(Traces::OPAQUE);

/// Everything that a reset undoes.
pub(crate) const EVERYTHING: Traces =
    PINNING.without(Traces::OPAQUE).without(Traces::LIBRARY).with(Traces::ANY_SETTING);

/// What its clients have left on a server.
#[derive(Debug, Default)]
pub struct Left {
    /// By its client, in the transactions since the server was last looked at.
    pub(crate) fresh: Traces,
    /// What is there, or may be, beside the settings of [`crate::session::server::Server::set`].
    pub(crate) dirt: Traces,
    /// Custom settings that there are on it, with whatever value: nothing but its end takes them away. At `strict`.
    pub(crate) custom: Vec<Arc<str>>,
    /// More of them may have come since it was last looked at. At `strict`.
    pub(crate) may_have_custom: bool,
    /// There may be some by names that nobody asks for. At `strict`.
    pub(crate) has_unknown_custom: bool,
    /// The session knows of no sequence (any more), but for what is `fresh`.
    pub(crate) has_no_sequences: bool,
    /// What that is to undo, should it fail: sequences were `fresh`, and the client had advanced one on this server.
    pub(crate) kept: (bool, Option<u64>),
    /// Statements are looked at: clients share the server.
    pub(crate) is_on: bool,
    /// The client it served last.
    pub(crate) by: u64,
    /// The process id that this client was told.
    pub(crate) by_pid: u32,
    /// Settings named in what is `fresh`.
    pub(crate) named: Vec<Arc<str>>,
    /// What is `fresh` may have set settings by other names. No query tells of custom ones among them.
    pub(crate) has_set_unnamed: bool,
}

impl Left {
    /// Notes a setting that may have changed.
    pub(crate) fn name(&mut self, name: &str) {
        if self.named.iter().any(|n| **n == *name) {
            return;
        }
        if self.named.len() >= NAMED_MAX {
            self.has_unknown_custom |= is_custom(name);
            self.set_unnamed();
        } else {
            self.named.push(name.into());
        }
    }

    /// The server says that a setting was set or reset: it must have been seen coming, else all are asked for.
    pub(crate) fn note_set(&mut self) {
        let expected = Traces::SETTING
            | Traces::ANY_SETTING
            | Traces::LOCAL_SETTING
            | Traces::AUTHORIZATION
            | Traces::SEED
            | Traces::OPAQUE;
        if self.is_on && !self.fresh.has_any(expected) {
            self.set_unnamed();
        }
    }

    /// Notes that settings may have changed whose names are not known.
    pub(crate) fn set_unnamed(&mut self) {
        self.fresh |= Traces::ANY_SETTING;
        self.has_set_unnamed = true;
    }

    /// Notes that the session has the custom ones of these settings.
    pub(crate) fn keep_custom(&mut self, settings: &Image) {
        for (name, _) in settings.iter().filter(|(name, _)| is_custom(name)) {
            if self.custom.len() >= CUSTOM_MAX {
                self.has_unknown_custom = true;
            } else if !self.custom.contains(name) {
                self.custom.push(name.clone());
            }
        }
    }

    /// Whether every custom setting of the session is one that a client with these settings has met.
    #[inline]
    pub(crate) fn is_met(&self, settings: &Image) -> bool {
        self.custom.is_empty() || self.is_custom_met(settings)
    }

    #[inline(never)]
    fn is_custom_met(&self, settings: &Image) -> bool {
        planted(Bug::CustomUnmet) || self.custom.iter().all(|name| settings.get(name).is_some())
    }

    /// The session is to forget its sequences. `was_fresh`: one was advanced in this transaction. `on`: the server on which
    /// the client has advanced one.
    pub(crate) fn discard_sequences(&mut self, was_fresh: bool, on: Option<u64>) {
        if !self.has_no_sequences {
            self.kept = (was_fresh, on);
        }
        self.fresh = self.fresh.without(Traces::SEQUENCE);
        self.has_no_sequences = true;
    }

    /// A request has failed: if it was to have the session forget its sequences, it may know them still. Returns the server
    /// on which its client has advanced one.
    pub(crate) fn doubt_discard(&mut self) -> Option<u64> {
        let (was_fresh, on) = std::mem::take(&mut self.kept);
        if !std::mem::take(&mut self.has_no_sequences) {
            return None;
        }
        if was_fresh {
            self.fresh |= Traces::SEQUENCE;
        }
        on
    }

    /// Whether the server must be looked at before its client can be parted from it.
    pub(crate) fn is_probe_needed(&self) -> bool {
        self.fresh.has_any(PROBED)
    }

    /// Whether the server must be reset before anybody but its last client uses it.
    pub(crate) fn is_reset_needed(&self) -> bool {
        !self.dirt.is_none()
    }

    /// Whether its client's transaction has left anything of which note is to be taken.
    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_none() || self.has_no_sequences || !self.named.is_empty()
    }

    /// Nobody is there to keep what is `fresh`: all that it may stand for is dirt.
    pub(crate) fn give_up(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        self.has_no_sequences = false;
        self.has_set_unnamed = false;
        self.may_have_custom |= fresh.has_any(Traces::ANY_SETTING | Traces::OPAQUE);
        self.may_have_custom |= self.named.iter().any(|name| is_custom(name));
        self.named.clear();
        if fresh.has(Traces::OPAQUE) {
            self.dirt |= EVERYTHING;
        }
        if fresh.has_any(Traces::SETTING | Traces::ANY_SETTING) {
            self.dirt |= Traces::ANY_SETTING;
        }
        self.dirt |= Traces::of_bits(fresh.bits() & EVERYTHING.with(Traces::LIBRARY).bits());
    }
}

/// Whether a setting has a name that PostgreSQL does not know, unless a library has brought it.
pub(crate) fn is_custom(name: &str) -> bool {
    name.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client that left did last is asked of nobody: the next client must find none of it.
    #[test]
    fn what_nobody_asks_for_is_dirt() {
        let fresh = Traces::SETTING | Traces::WRITES | Traces::SEQUENCE;
        let mut left = Left { fresh, ..Left::default() };
        left.name("timezone");
        left.give_up();
        assert_eq!(left.dirt, Traces::ANY_SETTING | Traces::SEQUENCE);
        assert!(left.fresh.is_none() && left.named.is_empty());
        left.fresh = Traces::OPAQUE;
        left.give_up();
        assert!(left.dirt.has(EVERYTHING));
    }

    #[test]
    fn too_many_names_ask_for_all() {
        let mut left = Left::default();
        (0..NAMED_MAX).for_each(|i| left.name(&format!("a.b{i}")));
        left.name("a.b0");
        assert!(!left.fresh.has(Traces::ANY_SETTING));
        left.name("a.c");
        assert!(left.fresh.has(Traces::ANY_SETTING));
    }
}
