//! The clients' part of the world: they connect, write, read, and leave.

use forebay_core::config::{OnPin, PoolSettings};

use crate::client::actor::{Act, Seen, Stage};
use crate::client::program::Leave;
use crate::net::{End, LinkId};
use crate::wire::Opening;
use crate::world::{Event, World};

/// Codes of errors of ours, as their hints end with them (`spec/errors.toml`).
pub(crate) const DRAINING: &str = "(FB802)";
const REMOVED: &str = "(FB803)";
const SECRET_UNAVAILABLE: &str = "(FB603)";
const LOGIN_TIMEOUT: &str = "(FB605)";
const SEQUENCE_MOVED: &str = "(FB101)";
const PIN_IDLE: &str = "(FB207)";
const PIN_REFUSED: &str = "(FB301)";
/// What an unknown user is told where a proof is asked, and where none is.
const NOT_LET_IN: [&str; 2] = ["(FB601)", "(FB616)"];

impl World {
    /// A client goes on with its program.
    pub(crate) fn client(&mut self, i: usize) {
        if self.clients[i].dozes_until <= self.now
            && let Some(link) = self.clients[i].link
        {
            self.notify(link, 1);
        }
        if self.clients[i].rests_until <= self.now {
            for act in self.clients[i].proceed() {
                self.act(i, act);
            }
        }
    }

    fn act(&mut self, i: usize, act: Act) {
        match act {
            Act::Connect => {
                let link = self.knock(End::Client(i));
                self.clients[i].link = Some(link);
                self.checks.session_begins(i, link.0 as u64);
                self.hearing.begins(i);
                self.forget_horizon(i);
                let bytes = self.clients[i].open();
                self.write(link, 0, &bytes);
            }
            Act::Write(bytes) => {
                if let Some(at) = self.clients[i].unlistens_from.take() {
                    self.trace.say(at, || format!("client {i} may listen to less"));
                    self.hearing.unlistens(i);
                }
                if let Some(link) = self.clients[i].link {
                    self.clients[i].due_since = Some(self.now);
                    self.trace.say(self.now, || format!("client {i} writes {} bytes", bytes.len()));
                    self.write(link, 0, &bytes);
                }
                self.schedule(1, Event::Client(i));
            }
            Act::Cancel(plan) => self.schedule(plan.after_us, Event::Cancel(i, plan.is_forged)),
            Act::Rest(pause) => {
                self.clients[i].rests_until = self.now + pause + 1;
                self.schedule(pause + 1, Event::Client(i));
            }
            Act::Leave(how) => self.client_leaves(i, how),
            Act::Finished => {}
        }
    }

    fn client_leaves(&mut self, i: usize, how: Leave) {
        let Some(link) = self.clients[i].link else { return };
        self.trace.say(self.now, || format!("client {i} leaves: {how:?}"));
        self.check_heard(i);
        self.checks.session_ends(i, self.clients[i].mirror.tags_under_way());
        match how {
            Leave::Reset => self.break_link(link),
            // The stream back stays open: the pooler has to close it.
            Leave::HalfClose | Leave::Terminate => self.finish(link, 0),
        }
    }

    pub(crate) fn client_reads(&mut self, i: usize, link: LinkId, side: usize) {
        if self.clients[i].link != Some(link) {
            self.consume(link, side);
            return self.tell_end(link, side);
        }
        let dozes_until = self.clients[i].dozes_until;
        if dozes_until > self.now {
            return self.schedule(dozes_until - self.now, Event::Arrive(link, side));
        }
        let bytes = self.consume(link, side);
        self.trace.note(b'R', i as u64, &bytes);
        self.clients[i].splitter.push(&bytes);
        self.client_judges(i);
        self.tell_end(link, side);
        self.schedule(0, Event::Client(i));
    }

    fn client_judges(&mut self, i: usize) {
        while !self.checks.has_failed() {
            let client = &mut self.clients[i];
            // A refusal may come before the answer, which drivers take for a server too old to know the request.
            if client.stage == Stage::Asking && client.splitter.first() == Some(b'E') {
                client.stage = Stage::LoggingIn;
            }
            let seen = if client.stage == Stage::Asking {
                match client.splitter.take_byte() {
                    None => return,
                    Some(byte) => client.see_tls_answer(byte),
                }
            } else {
                match client.splitter.take() {
                    Ok(None) => return,
                    Ok(Some(frame)) => {
                        let seen = client.see(&frame);
                        self.trace.say(self.now, || format!("client {i} reads {} → {seen:?}", frame.show()));
                        seen
                    }
                    Err(words) => Seen::Wrong(words),
                }
            };
            if let Some((_, key)) = self.clients[i].key.as_ref().filter(|_| self.clients[i].stage == Stage::LoggingIn) {
                self.secrets.add_key(key);
            }
            self.make_of(i, seen);
        }
    }

    fn make_of(&mut self, i: usize, seen: Seen) {
        match seen {
            Seen::Fine => {}
            Seen::Answer(bytes) => {
                if let Some(link) = self.clients[i].link {
                    self.write(link, 0, &bytes);
                }
            }
            Seen::Acknowledged(marks) => {
                self.checks.is_answered(i);
                self.ends_doubt(i);
                self.checks.acknowledged(&marks);
                self.acknowledged_in_cluster(&marks);
            }
            Seen::Read { seen, missing, horizon, is_asked } => {
                self.check_read(i, &seen, &missing, is_asked);
                self.check_horizon(i, horizon, is_asked);
            }
            Seen::Notified { channel, payload } => self.client_hears(i, &channel, &payload),
            Seen::Deviation { code, is_fatal, is_ours, words } => {
                self.hearing.doubts(i);
                if is_ours {
                    self.check_said(&words);
                }
                self.explain(i, &code, is_fatal, is_ours, &words);
            }
            Seen::Wrong(words) => self.checks.fail(format!("client {i}: {words}")),
        }
    }

    /// An error that a private server would not have given: is there a reason?
    fn explain(&mut self, i: usize, code: &str, is_fatal: bool, is_ours: bool, words: &str) {
        if self.failover.is_some() {
            return self.explain_in_cluster(i, code, is_fatal, is_ours, words);
        }
        let is_login = self.clients[i].stage == Stage::LoggingIn;
        self.checks.is_answered(i);
        let (tags, readies) = (self.clients[i].mirror.tags_under_way(), self.clients[i].mirror.readies);
        if code == "57014" && !is_fatal && self.checks.cancels.is_sent_for(i, &tags, readies) {
            if is_ours {
                self.clients[i].suffered_loss();
            } else if !self.clients[i].mirror.stop() {
                self.checks.fail(format!("client {i}: a cancel stopped what was not running: {words}"));
            }
            return;
        }
        if is_login && code == "28P01" && self.clients[i].who.is_impostor {
            self.clients[i].stage = Stage::Dismissed;
            return self.clients[i].despair();
        }
        if is_ours && !is_fatal && self.is_refused(i, words) {
            if !self.clients[i].mirror.refuse() {
                self.checks.fail(format!("client {i}: what was not under way is refused: {words}"));
            }
            return;
        }
        if code == "55000" && !is_ours && self.clients[i].mirror.forget_sequences() {
            return;
        }
        if code == "25P02" && !is_ours && self.clients[i].mirror.describes_after_error() {
            // The server has closed the statement to make room, and reads none in a failed transaction.
            self.clients[i].mirror.refuse();
            return;
        }
        if self.is_parting_cut(i, words) {
            return self.checks.fail(format!("client {i} is in a transaction, and was told: {words}"));
        }
        if is_ours && words.contains(DRAINING) && self.checks.regimes.is_draining() {
            self.clients[i].stage = Stage::Dismissed;
            return self.clients[i].despair();
        }
        let is_answer = is_ours && is_login && self.is_answer_of_python(i, words);
        let is_idle = is_ours && words.contains(PIN_IDLE) && self.pool(i).is_some_and(|pool| pool.pin_idle_limit > 0);
        if !is_answer && !is_idle && !self.is_excused(i, code, is_ours, is_login) {
            let waits = self.clients[i].mirror.awaited();
            return self.checks.fail(format!("client {i} got {code} without a reason: {words} ({waits})"));
        }
        if is_fatal {
            self.clients[i].stage = Stage::Dismissed;
        } else if self.clients[i].mirror.is_settled() && !self.clients[i].mirror.is_copying() {
            self.checks.fail(format!("client {i} got an ERROR that answers nothing: {code} {words}"));
        } else {
            self.clients[i].suffered_loss();
        }
    }

    /// Whether a client is told to go at a time when it may not be: in a transaction whose server is still there.
    fn is_parting_cut(&self, i: usize, words: &str) -> bool {
        let is_parting = words.contains(DRAINING) || words.contains(REMOVED);
        let is_in_session = self.clients[i].stage == Stage::Ready;
        is_parting && is_in_session && self.clients[i].mirror.is_in_transaction && self.clients[i].hit_until <= self.now
    }

    /// Whether a statement is refused for what it would do to the session, or asks for what other servers know.
    fn is_refused(&self, i: usize, words: &str) -> bool {
        let may_refuse = self.pool(i).is_some_and(|pool| pool.on_pin == OnPin::Refuse);
        (words.contains(PIN_REFUSED) && may_refuse)
            || (words.contains(SEQUENCE_MOVED) && self.clients[i].mirror.asks_for_sequence())
    }

    /// The settings of the client's pool.
    fn pool(&self, i: usize) -> Option<&PoolSettings> {
        let mut databases = self.scenario.config.databases.iter();
        databases.find(|d| *d.name == self.clients[i].who.database).map(|d| &d.pool)
    }

    /// Whether a login was refused because of what Python said, or did not say.
    fn is_answer_of_python(&self, i: usize, words: &str) -> bool {
        let who = &self.clients[i].who;
        let is_doubtful = self.scenario.faults.bad_answer_one_in > 0;
        is_doubtful
            && (words.contains(SECRET_UNAVAILABLE)
                || words.contains(LOGIN_TIMEOUT)
                || (NOT_LET_IN.iter().any(|code| words.contains(code)) && self.was_denied(&who.database, &who.user)))
    }

    /// Whether the database of a client is, or may just have been, away.
    fn is_away(&self, i: usize) -> bool {
        let target = self.checks.regimes.target(&self.clients[i].who.database);
        target.is_some_and(|target| self.checks.regimes.was_removed(target))
    }

    fn is_excused(&self, i: usize, code: &str, is_ours: bool, is_login: bool) -> bool {
        let scenario = &self.scenario;
        let is_hit = self.clients[i].hit_until > self.now;
        let is_full = scenario.targets.iter().any(|t| t.processes_max < 100);
        match code {
            "53300" => scenario.may_time_out || is_full || scenario.faults.lose_servers(),
            // The pooler's refusal of transaction blocks in statement mode.
            "0A000" => is_ours,
            "3D000" => is_ours && is_login && self.is_away(i),
            "57P01" if is_ours && self.is_away(i) => true,
            "57P01" | "08007" | "08006" | "57P03" | "58000" => {
                is_hit || scenario.faults.kill_client > 0 || (scenario.faults.lose_servers() && (is_login || is_ours))
            }
            _ => false,
        }
    }

    pub(crate) fn client_lost(&mut self, i: usize, link: LinkId, is_broken: bool) {
        self.leave(link, 0, true);
        if self.clients[i].link != Some(link) {
            return;
        }
        self.trace.say(self.now, || format!("client {i} lost its connection, broken: {is_broken}"));
        self.checks.session_ends(i, self.clients[i].mirror.tags_under_way());
        let stage = self.clients[i].stage;
        let is_expected = matches!(stage, Stage::Dismissed | Stage::Leaving | Stage::Done);
        let is_excused = is_broken || self.clients[i].hit_until > self.now || self.scenario.faults.kill_client > 0;
        if !is_expected && !is_excused {
            let waits = self.clients[i].mirror.awaited();
            return self.checks.fail(format!("client {i} was disconnected without a word ({waits})"));
        }
        if !matches!(stage, Stage::Leaving | Stage::Done) {
            self.clients[i].retry();
        }
        self.clients[i].lost();
        self.schedule(1, Event::Client(i));
    }

    /// A cancel request has reached its goal: what its client waits for at this time is all that it may stop.
    pub(crate) fn note_aims(&mut self, number: usize) {
        let mirror = &self.clients[self.checks.cancels.sender(number)].mirror;
        let readies = mirror.readies..=mirror.readies + mirror.requests_under_way();
        self.checks.cancels.arrived(number, mirror.tags_under_way(), readies);
    }

    /// A cancel request of a client sets out to some worker.
    pub(crate) fn send_cancel(&mut self, i: usize, is_forged: bool) {
        let Some((pid, mut key)) = self.clients[i].key.clone() else { return };
        if is_forged {
            key.iter_mut().for_each(|b| *b ^= 0x5a);
        }
        let number = self.checks.cancels.sent(i, is_forged);
        self.trace.say(self.now, || format!("client {i} sends a cancel, forged: {is_forged}"));
        let link = self.knock(End::Canceller(number));
        self.write(link, 0, &Opening::Cancel { pid, key }.encode().encode());
    }
}
