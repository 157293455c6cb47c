//! The look at a server once its client's transaction is over: one query, made of what the transaction may have
//! touched. Its answer is the client's image from then on, and says what pins the server to the client.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_spec::errors;
use forebay_sql::traces::Traces;

use super::look::{Probe, Settings};
use super::pin::Pin;
use super::{EVERYTHING, PINNING, PROBED};
use crate::config::{OnPin, SequenceAffinity};
use crate::io::Io;
use crate::leave::encode_notice;
use crate::planted::{Bug, planted};
use crate::pool::Pool;
use crate::session::expect::Own;
use crate::session::server::{Server, ServerKey};
use crate::worker::Worker;

/// A server that cancels the look, as the client's own statement_timeout may have it, is asked so often; then it stays with
/// its client. Only the first look is taken as fast as the client wants its own statements: see [`Probe::is_unhurried`].
const LOOKS_MAX: u8 = 10;

/// SQLSTATE of a statement that was cancelled or took too long.
const TIMED_OUT: &str = "57014";

/// SQLSTATE of `lastval()` where no sequence was advanced.
const NOT_YET: &str = "55000";

/// Whether the value that a setting has is the one that the server starts with, as far as that is known.
fn is_start_value(server: &Server, name: &str, value: &str) -> bool {
    match server.defaults.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
        Some((_, start)) => **start == *value,
        None => name == "role" && value == "none",
    }
}

impl Pool {
    /// Whether who advances a sequence keeps its server: somebody asks for what was drawn.
    pub(crate) fn keeps_sequences(&self) -> bool {
        self.settings.sequence_affinity == SequenceAffinity::Pin && self.knowledge.reads_sequences()
    }
}

impl<I: Io> Worker<I> {
    /// Looks at what a client's transaction has left; `probe_done` goes on.
    pub(crate) fn probe(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        let fresh = std::mem::take(&mut server.left.fresh);
        let named = std::mem::take(&mut server.left.named);
        let pool = &self.pools[server.pool.0 as usize];
        let mut probe = Probe::new(fresh, named, &server.set, &pool.knowledge.custom());
        server.left.fresh = fresh;
        if probe.is_empty() {
            // The answer, a row of no columns, is known beforehand.
            probe.row(std::iter::empty());
            server.probe = Some(Box::new(probe));
            return self.probe_done(io, key, None);
        }
        if fresh.has(Traces::OPAQUE) && !fresh.has(Traces::SEQUENCE) && pool.keeps_sequences() {
            self.send_own(io, key, Own::Sequence, "SELECT pg_catalog.lastval()");
        }
        self.look(io, key, Box::new(probe));
    }

    /// Asks the server; what its client sends meanwhile waits.
    fn look(&mut self, io: &mut I, key: ServerKey, mut probe: Box<Probe>) {
        let server = &mut self.servers[key];
        let pool = &self.pools[server.pool.0 as usize];
        let stats = &pool.stats.stats;
        if probe.is_full {
            stats.probes_full.add(1)
        } else {
            stats.probes_vector.add(1)
        }
        probe.looks += 1;
        probe.rows.clear();
        let prefix = String::from_utf8_lossy(self.cache.prefix());
        let mut client = server.client.and_then(|c| self.clients.get_mut(c));
        let raw = match &client {
            Some(client) => client.usage.is_sharing.then(|| client.raw_names()),
            None => Some(&[][..]),
        };
        let sql = probe.sql(&pool.user, &prefix, raw);
        server.probe = Some(probe);
        if let Some(client) = &mut client {
            client.is_held = true;
        }
        self.send_own(io, key, Own::Probe, &sql);
    }

    /// It is known whether a sequence was advanced unseen. Of all errors only lastval's own says that none was: one that
    /// ran out of time, or may not be read, may be there.
    pub(crate) fn sequence_known(&mut self, key: ServerKey, error: Option<(String, String)>) {
        let server = &mut self.servers[key];
        let is_advanced = error.is_none_or(|(sqlstate, _)| sqlstate != NOT_YET);
        server.left.has_no_sequences = !is_advanced;
        if is_advanced {
            server.left.fresh |= Traces::SEQUENCE;
        }
        if let Some(client) = server.client.and_then(|c| self.clients.get_mut(c)) {
            client.sequences_on = is_advanced.then_some(server.id);
        }
    }

    /// The answer has come.
    pub(crate) fn probe_done(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let server = &mut self.servers[key];
        server.enter(crate::session::server::ServerState::Leased, self.now);
        let Some(mut probe) = server.probe.take() else { return };
        if server.client.is_none() {
            return;
        }
        if error.as_ref().is_some_and(|(sqlstate, _)| sqlstate == TIMED_OUT) && probe.looks < LOOKS_MAX {
            probe.is_unhurried = true;
            return self.look(io, key, probe);
        }
        // Values in another encoding than ours can't be told again.
        let is_utf8 = server.reported.get("client_encoding").is_none_or(|e| e.eq_ignore_ascii_case("utf8"));
        let answer = if error.is_none() { probe.read() } else { None };
        let answer =
            answer.filter(|(settings, _)| is_utf8 || settings.values().flatten().all(|value| value.is_ascii()));
        let fresh = std::mem::take(&mut server.left.fresh);
        let (settings, found) = match answer {
            Some(answer) => answer,
            None => {
                // What can't be read back can't be set again elsewhere: the client stays where it is.
                server.left.dirt |= EVERYTHING;
                self.pinned_by(io, key, probe.asked, Traces::OPAQUE);
                return self.transaction_over(io, key);
            }
        };
        server.left.may_have_custom = false;
        if !planted(Bug::ProbeIgnored) {
            self.take_image(key, probe.is_full, &settings);
        }
        let server = &mut self.servers[key];
        server.left.dirt = server.left.dirt.without(probe.asked) | found;
        if fresh.has(Traces::OPAQUE) {
            // What no query tells of: names nobody knows, the state of random numbers and sequences.
            server.left.dirt |= Traces::ANY_SETTING | Traces::SEED | Traces::SEQUENCE;
        }
        if std::mem::take(&mut server.left.has_set_unnamed) {
            // A custom setting may be among them, of which the list of all settings does not tell.
            server.left.dirt |= Traces::ANY_SETTING;
        }
        let has_no_sequences = std::mem::take(&mut server.left.has_no_sequences) && !fresh.has(Traces::SEQUENCE);
        if has_no_sequences && !fresh.has(Traces::OPAQUE) {
            server.left.dirt = server.left.dirt.without(Traces::SEQUENCE);
        }
        server.left.dirt |= Traces::of_bits(fresh.bits() & (Traces::SEED | Traces::LIBRARY | Traces::SEQUENCE).bits());
        let mut reasons = found | Traces::of_bits(fresh.bits() & (Traces::SEED | Traces::LIBRARY).bits());
        if planted(Bug::PinWithoutCause) && fresh.has(Traces::OPAQUE) {
            reasons |= Traces::SEED | Traces::LIBRARY;
        }
        if fresh.has(Traces::SEQUENCE) && self.pools[server.pool.0 as usize].keeps_sequences() {
            reasons |= Traces::SEQUENCE;
        }
        let mut asked = probe.asked;
        if has_no_sequences {
            asked |= Traces::SEQUENCE;
        }
        if probe.is_full {
            asked |= Traces::OPAQUE;
        }
        if reasons.has(Traces::LISTEN) {
            // It was seen only now: it is taken over.
            self.pinned_by(io, key, asked.without(Traces::LISTEN), reasons.without(Traces::LISTEN));
            self.servers[key].left.fresh |= Traces::LISTEN;
            return self.settle(io, key);
        }
        self.pinned_by(io, key, asked, reasons);
        self.transaction_over(io, key);
    }

    /// The settings of the server are its client's from here on.
    fn take_image(&mut self, key: ServerKey, is_full: bool, settings: &Settings) {
        let server = &mut self.servers[key];
        let mut values: BTreeMap<Arc<str>, Arc<str>> = if is_full {
            BTreeMap::new()
        } else {
            server.set.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        for (name, value) in settings {
            match value {
                Some(value) if !is_start_value(server, name, value) => values.insert(name.clone(), value.clone()),
                _ => values.remove(name),
            };
        }
        let image = self.images.intern(&values);
        server.set = image.clone();
        server.is_set_known = true;
        let mut owner = server.client;
        if planted(Bug::ProbeOfAnother) {
            let pool = server.pool;
            let another = self.clients.iter().find(|(c, client)| Some(*c) != owner && client.pool == Some(pool));
            owner = another.map(|(c, _)| c).or(owner);
        }
        if let Some(client) = owner.and_then(|c| self.clients.get_mut(c)) {
            client.wanted = image;
        }
    }

    /// Notes what keeps a server with its client, of what was `asked` for.
    pub(crate) fn pinned_by(&mut self, io: &mut I, key: ServerKey, asked: Traces, found: Traces) {
        let server = &self.servers[key];
        let Some(client) = server.client.and_then(|c| self.clients.get_mut(c)) else { return };
        let stats = &self.pools[server.pool.0 as usize].stats.stats;
        let before = client.pin.take();
        let pin = Pin::after(before.as_deref(), asked, found, &client.causes, self.now);
        let had = before.as_ref().map_or(Traces::NONE, |pin| pin.reasons);
        let has = pin.as_ref().map_or(Traces::NONE, |pin| pin.reasons);
        client.pin = pin.map(Box::new);
        if !has.has(Traces::PREPARED) && !server.left.fresh.has(Traces::PREPARED) {
            client.rare.iter_mut().for_each(|rare| rare.raw_names = Vec::new());
        }
        for (reason, count) in super::pin::REASONS.iter().zip(&stats.pins) {
            if has.without(had).has(*reason) {
                count.add(1);
            }
        }
        match (had.is_none(), has.is_none()) {
            (true, false) => stats.pinned.add(1),
            (false, true) => stats.pinned.sub(1),
            _ => {}
        }
        self.log_pin(io, key, had, has);
        // What only a look sees can't be refused any more, so that it is told at least.
        let is_told = self.pools[self.servers[key].pool.0 as usize].settings.on_pin != OnPin::Allow;
        if is_told && !has.without(had).is_none() {
            let (reasons, ends) = super::pin::words(has.without(had));
            let mut out = Vec::new();
            encode_notice(&mut out, &errors::pinned(reasons, ends));
            if let Some(client_key) = self.servers[key].client {
                self.send_to_client(io, client_key, &out);
            }
        }
    }

    fn log_pin(&self, io: &mut I, key: ServerKey, had: Traces, has: Traces) {
        if had == has {
            return;
        }
        let server = &self.servers[key];
        let Some(client) = server.client.and_then(|c| self.clients.get(c)) else { return };
        let fields = vec![
            ("client", client.id.into()),
            ("server", server.id.into()),
            ("by", super::pin::names(has).join(", ").into()),
        ];
        let name = if has.is_none() { "unpinned" } else { "pinned" };
        self.log(io, crate::event::Level::Debug, name, fields);
    }

    /// Takes note of what no probe needs to tell.
    pub(crate) fn note_unprobed(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        let left = &mut server.left;
        let pool = &self.pools[server.pool.0 as usize];
        let knowledge = &pool.knowledge;
        if left.fresh.has(Traces::SCHEMA) {
            knowledge.schema_changed();
        }
        if left.fresh.has(Traces::READS_SEQUENCE) {
            knowledge.note_reader_of_sequences();
        }
        if left.fresh.has(Traces::SEQUENCE)
            && let Some(client) = server.client.and_then(|c| self.clients.get_mut(c))
        {
            client.sequences_on = Some(server.id);
        }
        if !left.fresh.has_any(PROBED) {
            let is_pinned = left.fresh.has(Traces::SEQUENCE) && pool.keeps_sequences();
            let has_no_sequences = std::mem::take(&mut left.has_no_sequences) && !left.fresh.has(Traces::SEQUENCE);
            if has_no_sequences {
                left.dirt = left.dirt.without(Traces::SEQUENCE);
            }
            left.dirt |= Traces::of_bits(left.fresh.bits() & PINNING.bits());
            left.fresh = Traces::NONE;
            left.named.clear();
            let found = if is_pinned { Traces::SEQUENCE } else { Traces::NONE };
            if has_no_sequences || is_pinned {
                self.pinned_by(io, key, Traces::SEQUENCE, found);
            }
        }
    }
}
