//! The fake servers' part of the world: connections, processes, cancels, and the ledger of effects.

use std::collections::BTreeSet;

use forebay_core::auth::{Account, ClientLogin, Step, salt_password};
use forebay_core::config::AuthMethod;

use crate::check::Sending;
use crate::net::{End, LinkId};
use crate::server::language::{Statement, statements};
use crate::server::process::{Busy, PoolerLogin, Process};
use crate::server::replies::{data_row, parameter_status, report};
use crate::server::session::{Session, is_of_pooler};
use crate::wire::{Body, Frame, Front, Opening, Tag};
use crate::world::{Event, World};

/// What the pooler makes fail in the place of a statement that it refuses.
const REFUSED: &str = "fb_refused";

/// How the question begins by which two servers are told apart.
const IDENTITY: &str = "/* forebay: which server is this? */";

/// Whether the pooler resets a session.
fn is_reset(message: &Front) -> bool {
    let starts = ["RESET ROLE;RESET ALL", "SET SESSION AUTHORIZATION DEFAULT", "DISCARD "];
    matches!(message, Front::Query(text) if starts.iter().any(|start| text.starts_with(start)))
}

/// Whether a text prepares a statement under a name of the pooler's.
fn makes_again(text: &str, prepare: &str) -> bool {
    text.strip_prefix(prepare).and_then(|rest| rest.split(' ').next()).is_some_and(is_of_pooler)
}

/// What a message has parsed, or bound where the pooler had it parsed.
fn text_of<'m>(message: &'m Front, session: Option<&'m Session>) -> Option<&'m str> {
    match message {
        Front::Parse { text, .. } => Some(text),
        Front::Bind { statement, .. } if is_of_pooler(statement) => session?.text_of_statement(statement),
        _ => None,
    }
}

/// Whether a text is a part of what the pooler sends between two clients; its BEGIN is one too.
fn is_of_hand_over(text: &str) -> bool {
    let starts = ["BEGIN ISOLATION LEVEL", "RESET ALL", "SET SESSION AUTHORIZATION DEFAULT", "DISCARD ", "UNLISTEN *"];
    starts.iter().any(|start| text.starts_with(start))
}

impl World {
    pub(crate) fn new_process(&mut self, link: LinkId, endpoint: usize) {
        let pid = 1000 + self.processes.len() as i32;
        let mut key = [0; 4];
        self.rng.fill(&mut key);
        self.secrets.add_key(&key);
        let mut process = Process::new(link, endpoint, pid, key);
        process.start = self.servers.get(endpoint).map_or(0, |server| server.starts);
        self.processes.push(process);
    }

    pub(crate) fn process_reads(&mut self, p: usize, bytes: &[u8]) {
        if self.processes[p].is_dead {
            return;
        }
        self.processes[p].splitter.push(bytes);
        loop {
            match self.processes[p].splitter.take() {
                Ok(None) => break,
                Ok(Some(frame)) if self.processes[p].login.is_some() => {
                    self.log_in(p, |login| login.message(frame.kind, &frame.body));
                }
                Ok(Some(frame)) if self.processes[p].session.is_none() => {
                    match Opening::decode(&frame) {
                        Some(opening) => self.open_process(p, opening),
                        None => self.checks.fail(format!("a server got a malformed opening {}", frame.show())),
                    }
                    if self.processes[p].is_dead {
                        return;
                    }
                }
                Ok(Some(frame)) => match Front::decode(&frame) {
                    Some(Front::Unknown(kind)) => {
                        self.checks.fail(format!("a server got a message of type {:?}", kind as char));
                    }
                    Some(message) => self.processes[p].inbox.push_back(message),
                    None => self.checks.fail(format!("a server got a malformed message {}", frame.show())),
                },
                Err(words) => self.checks.fail(format!("a server got garbage: {words}")),
            }
            if self.checks.has_failed() {
                return;
            }
        }
        if self.processes[p].busy.is_none() && !self.processes[p].inbox.is_empty() {
            self.schedule(0, Event::Process(p));
        }
    }

    fn open_process(&mut self, p: usize, opening: Opening) {
        let link = self.processes[p].link;
        match opening {
            Opening::Ssl | Opening::Gss => self.write(link, 1, b"N"),
            Opening::Cancel { pid, key } => {
                self.processes[p].is_signaller = true;
                let most = *self.signal_luck.pick(&[100, 100, 5_000, self.scenario.signal_delay_max]);
                let after = self.signal_luck.below(most);
                self.schedule(after, Event::Signal(p, pid, key));
            }
            Opening::Startup { version, params } => self.begin_login(p, version, params),
        }
    }

    /// Asks the pooler for its proof, as configured.
    fn begin_login(&mut self, p: usize, version: i32, params: Vec<(String, String)>) {
        self.processes[p].splitter.is_startup = false;
        let of = |name| params.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()).unwrap_or_default();
        let user = of("user");
        self.processes[p].logged_in_as = Some((of("database"), user.clone()));
        let (method, credential) = (self.scenario.server_method, self.scenario.credential.clone());
        let method = if self.is_direct { AuthMethod::Trust } else { method };
        let tables = self.tables.clone();
        let luck = &mut self.rng;
        let account = Account::Secret(&credential);
        let (login, step) = ClientLogin::begin(method, &user, account, None, &tables.mock, &mut |out| luck.fill(out));
        self.processes[p].login = Some(PoolerLogin { proof: login, version, params });
        self.log_in(p, |_| step);
    }

    fn log_in(&mut self, p: usize, next: impl FnOnce(&mut ClientLogin) -> Step) {
        let link = self.processes[p].link;
        let Some(PoolerLogin { proof, version, params }) = &mut self.processes[p].login else { return };
        let mut step = next(proof);
        if let Step::AskSaltedPassword { password, salt, iterations } = &step {
            step = proof.salted(&salt_password(password, salt, *iterations));
        }
        let (version, params) = (*version, params.clone());
        match step {
            Step::Send(bytes) => self.write(link, 1, &bytes),
            Step::Done { reply, .. } => {
                self.processes[p].login = None;
                self.write(link, 1, &reply);
                self.start_session(p, version, params);
            }
            Step::Refused(refusal) => self.checks.fail(format!("a server refused the pooler: {}", refusal.reason)),
            Step::AskVerdict { .. } => self.checks.fail("a server asks nobody else".into()),
            Step::AskSaltedPassword { .. } => self.checks.fail("a salted password was asked for twice".into()),
        }
    }

    fn start_session(&mut self, p: usize, version: i32, params: Vec<(String, String)>) {
        let Process { link, endpoint, pid, key, .. } = self.processes[p];
        if self.is_starting(endpoint) {
            let starting = report(b'E', "FATAL", "57P03", "the database system is starting up");
            self.write(link, 1, &starting.encode());
            return self.end_process(p);
        }
        let sessions =
            self.processes.iter().filter(|q| !q.is_dead && q.endpoint == endpoint && q.session.is_some()).count();
        if sessions >= self.servers[endpoint].processes_max {
            let full = report(b'E', "FATAL", "53300", "sorry, too many clients already");
            self.write(link, 1, &full.encode());
            return self.end_process(p);
        }
        let params: Vec<_> = params.into_iter().filter(|(n, _)| !n.starts_with("_pq_.")).collect();
        let mut session = match Session::new(&params) {
            Ok(session) => session,
            Err(name) => return self.checks.fail(format!("a server got the startup parameter {name:?}")),
        };
        session.is_standby = self.is_standby(endpoint);
        session.says_standby = session.is_standby;
        let mut bytes = Vec::new();
        if version > 0x0003_0000 {
            bytes.extend(Body::default().int32(0x0003_0000).int32(0).frame(b'v').encode());
        }
        bytes.extend(Body::default().int32(0).frame(b'R').encode());
        for (name, value) in session.settings.report() {
            let is_told = name == "in_hot_standby" && session.is_standby;
            let is_able = name == "server_version" && self.checks_commits();
            let value = if is_told {
                "on"
            } else if is_able {
                "17.6"
            } else {
                &value
            };
            bytes.extend(parameter_status(name, value).encode());
        }
        bytes.extend(Body::default().int32(pid).bytes(&key).frame(b'K').encode());
        bytes.extend(Body::default().byte(b'I').frame(b'Z').encode());
        self.processes[p].session = Some(session);
        self.write(link, 1, &bytes);
    }

    /// Takes the next message, or ends the one under way.
    pub(crate) fn process(&mut self, p: usize) {
        if self.processes[p].is_dead {
            return;
        }
        if let Some(busy) = &self.processes[p].busy {
            if busy.until > self.now {
                return;
            }
            if let Some(Busy { message, stop, .. }) = self.processes[p].busy.take() {
                self.carry_out_message(p, &message, stop);
            }
        }
        self.tell_heard(p);
        while self.processes[p].busy.is_none() && !self.processes[p].is_dead {
            let Some(message) = self.processes[p].inbox.pop_front() else { return };
            let sleep = self.processes[p].session.as_ref().map_or(0, |s| s.sleep_in(&message));
            let work = if self.rng.one_in(4) { self.draw(1_500) } else { 0 };
            let cost = sleep * 1000 + work;
            if cost == 0 {
                self.carry_out_message(p, &message, None);
            } else {
                self.processes[p].busy = Some(Busy { message, until: self.now + cost, stop: None });
                self.schedule(cost, Event::Process(p));
            }
        }
    }

    /// The pooler wants to know which server this is.
    fn tell_identity(&mut self, p: usize) {
        let Process { link, pid, endpoint, start, is_stranger, .. } = self.processes[p];
        let started = if is_stranger { String::from("another") } else { format!("{endpoint}-{start}") };
        let row = data_row(&[Some(pid.to_string()), Some(started)]);
        let frames = [row, Body::default().text("SELECT 1").frame(b'C'), Body::default().byte(b'I').frame(b'Z')];
        let bytes: Vec<_> = frames.iter().flat_map(Frame::encode).collect();
        self.write(link, 1, &bytes);
    }

    fn carry_out_message(&mut self, p: usize, message: &Front, stop: Option<usize>) {
        if matches!(message, Front::Query(text) if text.starts_with(IDENTITY)) {
            return self.tell_identity(p);
        }
        if self.processes[p].is_stranger && *message != Front::Terminate {
            self.checks.fail(format!("a server that is not the database's own got {message:?}"));
        }
        self.check_origin(message);
        let one_in = self.scenario.failing_reset_one_in;
        let is_failing = one_in > 0 && is_reset(message) && self.signal_luck.one_in(one_in);
        let is_failing = is_failing || self.fails_anchor(p, message);
        let stop = if is_failing { Some(0) } else { stop };
        self.check_session(p, message);
        self.check_principal(p, message);
        self.processes[p].was_stopped |= stop.is_some();
        let session = self.processes[p].session.as_ref();
        let (text, is_taken) = (text_of(message, session), session.is_some_and(|session| !session.is_skipping()));
        let is_part = text.is_some_and(is_of_hand_over);
        if text == Some("BEGIN ISOLATION LEVEL READ COMMITTED") {
            self.processes[p].is_handed_over = true;
        } else if matches!(message, Front::Query(_) | Front::Sync) {
            self.processes[p].is_handed_over = false;
        }
        if one_in > 0 && is_taken && is_part && self.signal_luck.one_in(one_in * 3) {
            self.processes[p].was_stopped = true;
            let bytes = self.processes[p].interrupt();
            return self.write(self.processes[p].link, 1, &bytes);
        }
        if *message == Front::Terminate {
            return self.end_process(p);
        }
        if self.ends_before_commit(p, message) {
            return;
        }
        self.show_ledger(p);
        self.show_place(p, message);
        let (bytes, told) = self.processes[p].finish(message, stop);
        self.spread(p, &told);
        let link = self.processes[p].link;
        if let Some(session) = &mut self.processes[p].session {
            let marks = std::mem::take(&mut session.committed);
            self.checks.committed(&marks);
            self.leaves(p, &marks);
        }
        if !bytes.is_empty() {
            self.write(link, 1, &bytes);
        }
    }

    /// What a session holds of one client must not be there when a message of another is carried out.
    fn check_session(&mut self, p: usize, message: &Front) {
        let Some(session) = self.processes[p].session.as_ref().filter(|session| !session.is_skipping()) else { return };
        let (Front::Query(text) | Front::Parse { text, .. }) = message else { return };
        let Some(Tag { client, .. }) = Tag::first_in(text.as_bytes()) else {
            // A name that is not the pooler's is of a session that parses for itself.
            let is_theirs = |name: &str| !name.is_empty() && name != REFUSED && !is_of_pooler(name);
            let is_named = matches!(message, Front::Parse { name, .. } if is_theirs(name));
            // Channels are set for whoever comes next.
            let is_whose = |s: &Statement| s.is_of_pooler() && !matches!(s, Statement::Listen(_));
            if is_named || !statements(text).iter().all(is_whose) {
                // Whose it is can't be told.
                self.processes[p].client = None;
            }
            return;
        };
        let (held, role_of) = (session.held(), session.role_owner());
        let last = self.processes[p].client.replace(client);
        if let Some((held, last)) = held.zip(last).filter(|(_, last)| *last != client) {
            self.checks.fail(format!("a statement of client {client} runs with {held} of client {last}"));
        }
        if let Some(other) = role_of.filter(|other| *other != client) {
            self.checks.fail(format!("a statement of client {client} runs with the role of client {other}"));
        }
    }

    /// A statement that no client sent must be one of the few that a pooler may send by itself.
    fn check_origin(&mut self, message: &Front) {
        let (Front::Query(text) | Front::Parse { text, .. }) = message else { return };
        if Tag::first_in(text.as_bytes()).is_some() || text.contains('$') || text.contains("never sent whole") {
            return;
        }
        // It stands for a statement of which only the name matters.
        let is_stand_in = text == "SELECT 1" || (makes_again(text, "PREPARE ") && text.ends_with(" AS SELECT 1"));
        if text != REFUSED && !is_stand_in && !statements(text).iter().all(Statement::is_of_pooler) {
            self.checks.fail(format!("a server got a statement that nobody sent: {text}"));
        }
    }

    /// The postmaster has forked a process for a cancel request, which by now reads it, signals, and ends.
    ///
    /// What was sent on a connection that broke is not there to be read any more.
    pub(crate) fn signal(&mut self, p: usize, pid: i32, key: &[u8]) {
        let link = self.processes[p].link;
        if self.links[link.0].is_reset {
            return;
        }
        // Without a pooler between, the request is in the pooler's place when it is here.
        if self.is_direct
            && let End::Canceller(number) = self.links[link.0].ends[0]
        {
            self.note_aims(number);
        }
        self.cancel(pid, key);
        self.end_process(p);
    }

    /// A cancel request reached a server.
    fn cancel(&mut self, pid: i32, key: &[u8]) {
        let now = self.now;
        let found = self.processes.iter().position(|q| q.pid == pid && !q.is_dead);
        let Some(p) = found.filter(|&p| self.processes[p].key == *key) else {
            // The process may have ended meanwhile; a key that was never given is a fault of ours.
            if found.is_some() && !self.is_direct {
                self.checks.fail(format!("a cancel for process {pid} came with a wrong key"));
            }
            return;
        };
        let Some(session) = &self.processes[p].session else { return };
        let Some(busy) = &self.processes[p].busy else { return };
        let Some((index, tag)) = session.stop_of(&busy.message) else { return };
        // What is made again for a request is not the request that made it first.
        let is_remade = matches!(&busy.message, Front::Query(text) if makes_again(text, "prepare "));
        let tag = tag.filter(|_| !is_remade);
        let is_refused = |message: &Front| matches!(message, Front::Query(text) if text == REFUSED);
        if is_refused(&busy.message) || self.processes[p].inbox.iter().any(is_refused) {
            return;
        }
        self.trace.say(now, || format!("cancel stops {tag:?}"));
        let link = self.processes[p].link;
        let owner = self.checks.owner(link).and_then(|owner| self.clients.get(owner as usize));
        let under_way = owner.map_or_else(Vec::new, |client| client.mirror.tags_under_way());
        if tag.is_none() && self.processes[p].is_handed_over {
            // The request that goes ahead with the hand-over may not have come yet.
            return;
        }
        self.checks.cancel_hit(link, tag, &under_way);
        if let Some(busy) = &mut self.processes[p].busy {
            busy.stop = Some(index);
            busy.until = now;
        }
        self.schedule(0, Event::Process(p));
    }

    /// The process ends; its transaction is rolled back by that.
    pub(crate) fn end_process(&mut self, p: usize) {
        if !self.processes[p].is_dead {
            self.processes[p].is_dead = true;
            self.processes[p].busy = None;
            let link = self.processes[p].link;
            self.leave(link, 1, false);
        }
    }

    /// Whether all replies to what was sent to a process have reached its worker, and its session is at rest.
    pub(crate) fn is_quiet(&self, link: LinkId, p: usize) -> bool {
        let process = &self.processes[p];
        let is_rest_idle = self.checks.ends_in_copy(link) && process.is_idle_but_for_input();
        let [to, back] = &self.links[link.0].halves;
        back.is_quiet() && (is_rest_idle || (to.is_quiet() && process.is_clean()))
    }

    /// What a worker sends to a server: whose is it, and may it be sent at this time?
    pub(crate) fn check_lease(&mut self, worker: usize, link: LinkId, p: usize, bytes: &[u8]) {
        let is_quiet = self.is_quiet(link, p);
        let is_dead = self.processes[p].is_dead || self.links[link.0].is_reset;
        let held = self.processes[p].session.as_ref().and_then(Session::held).filter(|_| is_quiet && !is_dead);
        let role_of = self.processes[p].session.as_ref().and_then(Session::role_owner).filter(|_| is_quiet && !is_dead);
        let listeners = if held.is_some() { self.listeners_like(p) } else { BTreeSet::new() };
        self.check_role(worker, link, p, bytes);
        let sending = Sending { at: self.now, worker, link, is_quiet, is_dead, held, listeners, role_of, bytes };
        for client in self.checks.sent_to_server(&sending, &self.scenario) {
            self.note_misled(worker, p, client);
        }
        self.check_passed();
        for (link, owner) in self.checks.take_new_leases() {
            self.trace.say(self.now, || format!("link {} serves client {owner}", link.0));
            debug_assert!(matches!(self.links[link.0].ends[1], End::Process(_) | End::Gone));
        }
    }
}
