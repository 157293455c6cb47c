//! RESET brings a setting back to what it was at the session's start. On a shared server that is the server's own value:
//! where the client asked for another in its startup message, it is set again before the request ends.
//!
//! Exact at the end of each request. Within one request that holds more statements behind the RESET, those see the
//! server's own value.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::frontend::Parse;
use forebay_sql::shape::{Shape, Verb};

use crate::frame::At;
use crate::io::Io;
use crate::parameters::quote_literal;
use crate::planted::{Bug, planted};
use crate::query::TEXT_BYTES_MAX;
use crate::reply::Relaying;
use crate::request::{Forwarding, Stop, Taken};
use crate::session::expect::{Expect, Own};
use crate::session::server::ServerKey;
use crate::worker::Worker;

/// Settings to be set again once the request under way is answered.
#[derive(Debug, Default)]
pub struct Restoring {
    settings: Vec<(Arc<str>, Arc<str>)>,
    /// The request has met an error: it is not known what of it was undone.
    is_doubtful: bool,
    /// A cancel is on its way to the server: it would hit what sets them, and end the client's transaction.
    is_waiting: bool,
}

impl Restoring {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// Whether it waits for the end of a cancel.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Nothing is to be done any more.
    pub fn clear(&mut self) {
        *self = Restoring::default();
    }

    /// The request has met an error.
    pub fn doubt(&mut self) {
        self.is_doubtful = !self.is_empty();
    }

    fn note(&mut self, name: &Arc<str>, value: &Arc<str>) {
        if !self.settings.iter().any(|(known, _)| known == name) {
            self.settings.push((name.clone(), value.clone()));
        }
    }

    /// What sets them. In doubt, those that the client has set meanwhile stay as they are.
    fn sql(&self) -> String {
        let mut sql = String::from("SELECT ");
        for (index, (name, value)) in self.settings.iter().enumerate() {
            sql.push_str(if index > 0 { "," } else { "" });
            sql.push_str(if self.is_doubtful { "(SELECT " } else { "" });
            sql.push_str("pg_catalog.set_config(");
            quote_literal(&mut sql, name);
            sql.push(',');
            quote_literal(&mut sql, value);
            sql.push_str(",false)");
            if self.is_doubtful {
                sql.push_str(" FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name) OPERATOR(pg_catalog.=) ");
                quote_literal(&mut sql, name);
                sql.push_str(" AND source OPERATOR(pg_catalog.<>) 'session')");
            }
        }
        sql
    }
}

/// A client's statements, by name, that reset settings when they run.
pub type Resetting = Vec<(Box<[u8]>, Arc<Shape>)>;

/// Statements of one client that are remembered so; of the older ones it is not known any more that they reset.
const RESETTING_MAX: usize = 64;

impl Forwarding<'_> {
    /// Notes what of the client's own start `shape` resets.
    pub(crate) fn note_resets(&mut self, shape: &Shape) {
        let baseline = &self.client.baseline;
        if baseline.is_empty() || planted(Bug::StartNotRestored) {
            return;
        }
        for statement in &shape.statements {
            let resets = |name: &str| match statement.verb {
                Verb::Reset => statement.settings.is_empty() || statement.settings.iter().any(|n| **n == *name),
                Verb::DiscardAll => true,
                _ => false,
            };
            for (name, value) in baseline.iter().filter(|(name, _)| resets(name)) {
                self.server.restoring.note(name, value);
            }
        }
    }
}

/// Of a session whose statements are not looked at, in session mode: all that is looked for is what resets.
impl Forwarding<'_> {
    /// Whether anything of the client's start is there to be brought back.
    pub(crate) fn has_start_untracked(&self) -> bool {
        // A server for replication was opened with the client's own start.
        let is_own = self.client.replication.is_some();
        !self.server.left.is_on && !self.client.baseline.is_empty() && !is_own
    }

    /// A Parse where statements pass unshared.
    pub(crate) fn parse_unshared(&mut self, at: At<'_>) -> Taken {
        if self.has_start_untracked() && at.head.bytes <= TEXT_BYTES_MAX {
            if !at.is_whole() {
                return Err(Stop::More);
            }
            if let Ok(parse) = Parse::decode(at.body()) {
                self.note_parse_resets(parse.name, parse.query);
            }
        }
        self.note_unshared_ends(at)?;
        if at.is_whole() {
            self.note_clearing_in_parse(at.body());
        }
        // Nobody keeps account of it, and no other client may come to bind it.
        self.mark_unknown(b"", true);
        self.stats.client_parses.add(1);
        self.server.expect.push_back(Expect::Parse { statement: None, relay: true, change: None });
        self.forward(at, 0)
    }

    /// The shape of a text that may reset something.
    fn resetting_shape(&mut self, text: &[u8]) -> Option<Arc<Shape>> {
        let is_it = self.has_start_untracked() && may_reset(text);
        is_it.then(|| self.cache.shape(text, self.backslash_in(text)))
    }

    /// A Query goes out.
    pub(crate) fn note_query_resets(&mut self, text: &[u8]) {
        if let Some(shape) = self.resetting_shape(text) {
            self.note_resets(&shape);
        }
    }

    /// A Parse goes out: a statement of this name is another from here on.
    fn note_parse_resets(&mut self, name: &[u8], text: &[u8]) {
        let shape = self.resetting_shape(text);
        if shape.is_none() && self.client.rare.is_none() {
            return;
        }
        let resetting = &mut self.client.rare().resetting;
        resetting.retain(|(known, _)| **known != *name);
        if let Some(shape) = shape {
            if resetting.len() >= RESETTING_MAX {
                resetting.remove(0);
            }
            resetting.push((name.into(), shape));
        }
    }

    /// A Bind of the statement of this name goes out.
    pub(crate) fn note_bind_resets(&mut self, name: &[u8]) {
        let found = self.client.resetting().iter().find(|(known, _)| **known == *name);
        if let Some(shape) = found.map(|(_, shape)| shape.clone()) {
            self.note_resets(&shape);
        }
    }
}

/// Whether one of the words stands in a text that a RESET in any spelling has: RESET, DISCARD, DEFAULT.
fn may_reset(text: &[u8]) -> bool {
    // The third letter of each.
    memchr::memchr2_iter(b's', b'S', text).chain(memchr::memchr2_iter(b'f', b'F', text)).any(|at| {
        let begins = |word: &[u8]| {
            let word_at = at.checked_sub(2).and_then(|start| text.get(start..start + word.len()));
            word_at.is_some_and(|found| found.eq_ignore_ascii_case(word))
        };
        begins(b"reset") || begins(b"discard") || begins(b"default")
    })
}

impl Relaying<'_> {
    /// Whether what the request has reset is to be set again. After an error there is nothing to do: it is undone, and the
    /// client is told what else that undid.
    #[inline]
    pub(crate) fn must_restore(&mut self) -> bool {
        // Behind the request that resets nothing goes out: it is the last of those on their way.
        if self.server.restoring.is_empty() || self.server.owes_ready() {
            return false;
        }
        let is_undone = self.server.status == TransactionStatus::Failed || self.client.is_none();
        if is_undone {
            self.server.is_report_due = true;
            self.server.restoring.clear();
        }
        !is_undone
    }

    /// Whether a cancel that was sent for the request hit what came behind it: that is done again.
    pub(crate) fn is_restore_cancelled(&mut self) -> bool {
        let is_cancelled = self.server.own_error.as_ref().is_some_and(|(sqlstate, _)| sqlstate == "57014");
        is_cancelled && self.server.status != TransactionStatus::Failed && !self.server.restoring.is_empty()
    }
}

impl<I: Io> Worker<I> {
    /// The request is answered but for its ReadyForQuery: sets again what it reset.
    pub(crate) fn restore(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        if server.cancels > 0 && server.expect.is_empty() {
            server.restoring.is_waiting = true;
            return self.arm_server(key);
        }
        let sql = server.restoring.sql();
        server.restoring.settings.iter().for_each(|(name, _)| server.left.name(name));
        self.send_own(io, key, Own::Restore, &sql);
    }

    /// The cancels that were on their way to a server have ended.
    pub(crate) fn restore_now(&mut self, io: &mut I, key: ServerKey) {
        if std::mem::take(&mut self.servers[key].restoring.is_waiting) {
            self.restore(io, key);
        }
    }
}
