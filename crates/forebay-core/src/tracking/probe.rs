//! The look at a server once its client's transaction is over: one query, made of what the transaction may have
//! touched. Its answer is the client's image from then on, and says what pins the server to the client.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_spec::errors;
use forebay_sql::traces::Traces;

use super::pin::Pin;
use super::{EVERYTHING, PINNING, PROBED};
use crate::config::{OnPin, SequenceAffinity};
use crate::io::Io;
use crate::leave::encode_notice;
use crate::parameters::{Image, is_restorable, quote_literal};
use crate::planted::{Bug, planted};
use crate::pool::Pool;
use crate::session::expect::Own;
use crate::session::server::{Server, ServerKey};
use crate::worker::Worker;

/// What a probe asks, and what has come of its answer.
#[derive(Debug)]
pub struct Probe {
    /// Settings asked for by name, in the order of the first row's columns.
    names: Vec<Arc<str>>,
    /// Which of the pinning traces are asked for, in the order of [`QUESTIONS`], behind the names.
    asked: Traces,
    /// All settings that the session has set are asked for too.
    is_full: bool,
    rows: Vec<Row>,
    /// How often the server was asked.
    looks: u8,
    /// The client's own statement_timeout is lifted for the look; what it was is the first row.
    is_unhurried: bool,
}

/// Values by lower-case name; `None`: it is not set.
type Settings = BTreeMap<Arc<str>, Option<Arc<str>>>;

type Row = Vec<Option<Box<[u8]>>>;

/// A server that cancels the look, as the client's own statement_timeout may have it, is asked so often; then it stays with
/// its client. Only the first look is taken as fast as the client wants its own statements: see [`UNHURRIED`].
const LOOKS_MAX: u8 = 10;

/// Goes in front of a look that was cancelled. Each statement of one message has the time to itself, and what is set in
/// it for the transaction only is gone with the message.
const UNHURRIED: &str = "SELECT pg_catalog.current_setting('statement_timeout');SET LOCAL statement_timeout=0;";

/// SQLSTATE of a statement that was cancelled or took too long.
const TIMED_OUT: &str = "57014";

/// SQLSTATE of `lastval()` where no sequence was advanced.
const NOT_YET: &str = "55000";

/// Rows of an answer that are kept; a session has fewer settings.
const ROWS_MAX: usize = 2048;

/// What tells whether something is there: an expression that is true or false.
const QUESTIONS: [(Traces, &str); 6] = [
    // pg_my_temp_schema() stays when all is dropped; what depends on the schema does not. 2615 is pg_namespace.
    (
        Traces::TEMP,
        "EXISTS(SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 2615::pg_catalog.oid \
         AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())",
    ),
    (
        Traces::LOCK,
        "EXISTS(SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text \
         AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    ),
    (Traces::LISTEN, "EXISTS(SELECT FROM pg_catalog.pg_listening_channels())"),
    (Traces::CURSOR, "EXISTS(SELECT FROM pg_catalog.pg_cursors)"),
    (
        Traces::PREPARED,
        "EXISTS(SELECT FROM pg_catalog.pg_prepared_statements \
         WHERE pg_catalog.left(name, 3) OPERATOR(pg_catalog.<>) 'fb_'::pg_catalog.text)",
    ),
    // Behind it goes the name of the user that the server is logged in as.
    (Traces::AUTHORIZATION, "session_user::pg_catalog.text OPERATOR(pg_catalog.<>) "),
];

impl Probe {
    /// `known`: names of custom settings that functions are known to set.
    fn new(fresh: Traces, named: Vec<Arc<str>>, image: &Image, known: &[Arc<str>]) -> Probe {
        let is_opaque = fresh.has(Traces::OPAQUE);
        let is_full = fresh.has_any(Traces::OPAQUE | Traces::ANY_SETTING);
        let mut names = named;
        names.retain(|name| is_restorable(name));
        if is_full {
            // What the list of all settings leaves out.
            let unlisted = image.iter().map(|(name, _)| name.clone()).filter(|name| name.contains('.'));
            let role = Arc::from("role");
            names = names.into_iter().chain(unlisted).chain(known.iter().cloned()).chain([role]).collect();
            names.sort_unstable();
            names.dedup();
        }
        let all = QUESTIONS.iter().fold(Traces::NONE, |all, (trace, _)| all | *trace);
        let asked = if is_opaque { all } else { Traces::of_bits(fresh.bits() & all.bits()) };
        Probe { names, asked, is_full, rows: Vec::new(), looks: 0, is_unhurried: false }
    }

    /// Whether there is nothing to ask for.
    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.asked.is_none() && !self.is_full
    }

    fn sql(&self, user: &str) -> String {
        let mut columns = Vec::new();
        for name in &self.names {
            let mut column = String::from("pg_catalog.current_setting(");
            quote_literal(&mut column, name);
            column.push_str(",true)");
            columns.push(column);
        }
        let asked = QUESTIONS.iter().filter(|(trace, _)| self.asked.has(*trace));
        for (trace, question) in asked {
            let mut column = (*question).to_owned();
            if *trace == Traces::AUTHORIZATION {
                quote_literal(&mut column, user);
            }
            columns.push(column);
        }
        let before = if self.is_unhurried { UNHURRIED } else { "" };
        let mut sql = format!("{before}SELECT {}", columns.join(","));
        if self.is_full {
            sql.push_str(
                ";SELECT name,setting FROM pg_catalog.pg_settings \
                 WHERE source OPERATOR(pg_catalog.=) 'session'::pg_catalog.text",
            );
        }
        sql
    }

    /// One row of the answer.
    pub(crate) fn row<'v>(&mut self, values: impl Iterator<Item = Option<&'v [u8]>>) {
        if self.rows.len() < ROWS_MAX {
            self.rows.push(values.map(|value| value.map(Box::from)).collect());
        }
    }

    /// The answer as settings by lower-case name, and what was found of what was asked for. `None`: it is not to be
    /// understood.
    fn read(&self) -> Option<(Settings, Traces)> {
        if self.rows.len() >= ROWS_MAX {
            return None;
        }
        let (lifted, rows) = match &self.rows[..] {
            [lifted, rows @ ..] if self.is_unhurried => (Some(lifted), rows),
            rows => (None, rows),
        };
        let (first, others) = rows.split_first()?;
        let mut settings = BTreeMap::new();
        for row in others {
            let [Some(name), Some(value)] = &row[..] else { return None };
            let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
            if is_restorable(&name) {
                settings.insert(name.into(), Some(std::str::from_utf8(value).ok()?.into()));
            }
        }
        let mut values = first.iter();
        for name in &self.names {
            let value = match values.next()? {
                Some(value) => Some(std::str::from_utf8(value).ok()?.into()),
                None => None,
            };
            settings.insert(name.clone(), value);
        }
        if let Some(lifted) = lifted {
            let [Some(value)] = &lifted[..] else { return None };
            if let Some(seen) = settings.get_mut("statement_timeout") {
                *seen = Some(std::str::from_utf8(value).ok()?.into());
            }
        }
        let mut found = Traces::NONE;
        for (trace, _) in QUESTIONS.iter().filter(|(trace, _)| self.asked.has(*trace)) {
            match values.next()?.as_deref() {
                Some(b"t") => found |= *trace,
                Some(b"f") => {}
                _ => return None,
            }
        }
        Some((settings, found))
    }
}

/// Whether the value that a setting has is the one that the server starts with, as far as that is known.
fn is_start_value(server: &Server, name: &str, value: &str) -> bool {
    match server.defaults.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
        Some((_, start)) => **start == *value,
        None => name == "role" && value == "none",
    }
}

impl Pool {
    /// Whether who advances a sequence keeps its server: somebody asks for what was drawn.
    fn keeps_sequences(&self) -> bool {
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
        let sql = probe.sql(&pool.user);
        server.probe = Some(probe);
        if let Some(client) = server.client.and_then(|c| self.clients.get_mut(c)) {
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
        let pin = Pin::after(before.as_deref(), asked, found, client.last_verb, self.now);
        let had = before.as_ref().map_or(Traces::NONE, |pin| pin.reasons);
        let has = pin.as_ref().map_or(Traces::NONE, |pin| pin.reasons);
        client.pin = pin.map(Box::new);
        if !has.has(Traces::PREPARED) && !server.left.fresh.has(Traces::PREPARED) {
            client.raw_names.clear();
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
        let is_told = self.pools[self.servers[key].pool.0 as usize].settings.on_pin == OnPin::Notice;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(fresh: Traces, named: &[&str]) -> Probe {
        Probe::new(fresh, named.iter().map(|n| Arc::from(*n)).collect(), &Image::default(), &[])
    }

    fn row(probe: &mut Probe, values: &[Option<&str>]) {
        probe.row(values.iter().map(|v| v.map(str::as_bytes)));
    }

    #[test]
    fn only_what_may_have_changed_is_asked_for() {
        let sql = probe(Traces::SETTING | Traces::LOCK, &["app.tenant"]).sql("app");
        assert!(sql.starts_with(
            "SELECT pg_catalog.current_setting('app.tenant',true),EXISTS(SELECT FROM pg_catalog.pg_locks"
        ));
        assert!(!sql.contains("pg_settings") && !sql.contains("pg_depend"));
        let sql = probe(Traces::OPAQUE, &[]).sql("app");
        for part in ["'role'", "pg_settings", "pg_depend", "pg_locks", "pg_cursors", "pg_listening_channels"] {
            assert!(sql.contains(part), "{part}");
        }
    }

    #[test]
    fn an_answer_is_read_in_the_order_of_its_questions() {
        let mut probe = probe(Traces::SETTING | Traces::TEMP | Traces::CURSOR, &["timezone", "app.a"]);
        row(&mut probe, &[Some("UTC"), None, Some("f"), Some("t")]);
        let (settings, found) = probe.read().expect("read");
        assert_eq!(settings[&Arc::from("timezone")].as_deref(), Some("UTC"));
        assert_eq!(settings[&Arc::from("app.a")], None);
        assert_eq!(found, Traces::CURSOR);
    }

    /// Half an answer, taken for a whole one, would drop settings of the client without a word.
    #[test]
    fn an_answer_that_is_not_whole_is_none() {
        let mut probe = probe(Traces::TEMP, &["timezone"]);
        assert!(probe.read().is_none());
        row(&mut probe, &[Some("UTC")]);
        assert!(probe.read().is_none());
        let mut probe = self::probe(Traces::OPAQUE, &[]);
        row(&mut probe, &[Some("none"), Some("f"), Some("f"), Some("f"), Some("f"), Some("f"), Some("f")]);
        row(&mut probe, &[Some("TimeZone"), Some("UTC")]);
        let (settings, found) = probe.read().expect("read");
        assert_eq!(settings[&Arc::from("timezone")].as_deref(), Some("UTC"));
        assert!(found.is_none());
    }

    /// The list of settings shows the time-out as it is lifted; its client's own stands in front.
    #[test]
    fn what_was_lifted_for_a_look_is_read_as_it_was() {
        let mut probe = probe(Traces::OPAQUE, &[]);
        probe.is_unhurried = true;
        assert!(probe.sql("app").starts_with(UNHURRIED));
        row(&mut probe, &[Some("1ms")]);
        assert!(probe.read().is_none());
        row(&mut probe, &[Some("none"), Some("f"), Some("f"), Some("f"), Some("f"), Some("f"), Some("f")]);
        row(&mut probe, &[Some("statement_timeout"), Some("0")]);
        let (settings, _) = probe.read().expect("read");
        assert_eq!(settings[&Arc::from("statement_timeout")].as_deref(), Some("1ms"));
    }
}
