//! Our way into a server: socket, TLS, startup, proof, and its greeting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_pgwire::backend::{BackendKeyData, ErrorFields, ParameterStatus, TransactionStatus, tag};
use forebay_pgwire::frame;
use forebay_pgwire::write;
use forebay_spec::{Report, errors};

use crate::auth::ServerSecret;
use crate::auth::server::{LoginRules, ServerLogin, ServerStep};
use crate::config::TlsMode;
use crate::demoted::Doubt;
use crate::event::Level;
use crate::failure::words;
use crate::ids::ConnId;
use crate::io::{Close, Endpoint, Io, TlsInfo, TlsRole};
use crate::local_socket::Told;
use crate::pool::PoolId;
use crate::pool::endpoints::Place;
use crate::question::{Answer, Question, Turn};
use crate::reach::{Fault, READDRESSED};
use crate::session::client::{ClientState, Extent};
use crate::session::server::{Apart, Server, ServerKey, ServerState};
use crate::worker::{Asker, Owner, Worker};

/// Largest message accepted before a server is logged in.
const LOGIN_BYTES_MAX: u32 = 65_540;

/// What is needed only while we log in to a server.
pub struct ServerHandshake {
    proof: ServerLogin,
    pub(crate) reported: BTreeMap<Arc<str>, Arc<str>>,
    minor: u16,
    /// What was reported before the database's `connect_query` was sent.
    pub(crate) before_query: Option<BTreeMap<Arc<str>, Arc<str>>>,
    /// Which server it says it is, once that has been asked.
    pub(crate) told: Option<Told>,
    /// Whether it is a standby that is taken for the primary.
    pub(crate) doubt: Doubt,
}

impl<I: Io> Worker<I> {
    /// Opens a server at one of the pool's endpoints; a permit for it is taken.
    pub(crate) fn open(&mut self, io: &mut I, id: PoolId, endpoint: usize) -> ServerKey {
        let pool = &mut self.pools[id.0 as usize];
        let place = pool.endpoints.get(endpoint).place.clone();
        pool.servers += 1;
        pool.opening += 1;
        pool.measure_servers();
        pool.stats.stats.opened.add(1);
        let local = self.begin_local(id, &place);
        let conn = io.connect(local.as_ref().unwrap_or(&place.endpoint));
        let at = self.pools[id.0 as usize].number_of(&place);
        if let Some(given) = self.pool(id).endpoints.given(at) {
            given.servers += 1;
        }
        self.begin_server(conn, id, place, |server| (server.is_local, server.at) = (local.is_some(), at))
    }

    /// Begins a connection that is none of the pool's servers.
    pub(crate) fn open_apart(&mut self, io: &mut I, id: PoolId, apart: Apart) -> ServerKey {
        let endpoint = self.pools[id.0 as usize].endpoints.at_hand(self.now);
        self.open_apart_at(io, id, apart, endpoint)
    }

    pub(crate) fn open_apart_at(&mut self, io: &mut I, id: PoolId, apart: Apart, endpoint: usize) -> ServerKey {
        let place = self.pool(id).endpoints.get(endpoint).place.clone();
        let conn = io.connect(&place.endpoint);
        self.begin_server(conn, id, place, |server| server.apart = Some(apart))
    }

    fn begin_server(
        &mut self,
        conn: ConnId,
        id: PoolId,
        place: Arc<Place>,
        as_what: impl FnOnce(&mut Server),
    ) -> ServerKey {
        let server_id = self.next_id();
        let part = (id, &self.pools[id.0 as usize].stats);
        let mut server = Server::new(conn, server_id, part, place, self.images.empty(), self.now);
        server.generation = self.generation;
        as_what(&mut server);
        let key = self.servers.insert(server);
        self.set_owner(conn, Owner::Server(key));
        self.arm_server(key);
        key
    }

    /// The endpoint of a server, as configured.
    pub(crate) fn endpoint_name(&self, key: ServerKey) -> Arc<str> {
        self.servers[key].place.name.clone()
    }

    /// Where it is reached.
    pub(crate) fn endpoint(&self, key: ServerKey) -> Endpoint {
        let server = &self.servers[key];
        match server.place.endpoint.clone() {
            Endpoint::Tcp { host, port } if server.is_local => Endpoint::LocalSocket { host, port },
            endpoint => endpoint,
        }
    }

    fn is_by_unix_socket(&self, key: ServerKey) -> bool {
        matches!(self.endpoint(key), Endpoint::Unix(_) | Endpoint::LocalSocket { .. })
    }

    /// How much TLS the server of `key` gets; none over a Unix socket.
    pub(crate) fn tls_mode(&self, key: ServerKey) -> TlsMode {
        let server = &self.servers[key];
        let endpoints = &self.pools[server.pool.0 as usize].endpoints;
        let is_tls_asked_for =
            || endpoints.at(&server.place).is_some_and(|index| endpoints.get(index).is_tls_asked_for);
        match server.place.tls.as_deref() {
            Some(_) | None if self.is_by_unix_socket(key) => TlsMode::Disable,
            Some(tls) if tls.mode == TlsMode::Allow && is_tls_asked_for() => TlsMode::Require,
            Some(tls) if tls.mode == TlsMode::Allow => TlsMode::Disable,
            Some(tls) => tls.mode,
            None => TlsMode::Disable,
        }
    }

    pub(crate) fn tls_role(&self, key: ServerKey) -> TlsRole {
        let tls = self.servers[key].place.tls.clone().unwrap_or_default();
        let server_name = match self.endpoint(key) {
            Endpoint::Tcp { host, .. } => host,
            _ => Arc::from("localhost"),
        };
        TlsRole::Connect { tls, server_name }
    }

    pub(crate) fn server_connected(&mut self, io: &mut I, key: ServerKey) {
        let conn = self.servers[key].conn;
        self.servers[key].address = io.remote_address(conn);
        if self.is_suspended {
            io.pause_read(conn);
        }
        if self.is_readdressed(&self.servers[key]) {
            return self.open_anew(io, key, READDRESSED);
        }
        if self.tls_mode(key) == TlsMode::Disable {
            return self.send_startup(io, key);
        }
        let mut out = Vec::new();
        write::ssl_request(&mut out);
        self.send_to_server(io, key, &out);
        self.servers[key].enter(ServerState::TlsAsked, self.now);
    }

    pub(crate) fn server_tls_ready(&mut self, io: &mut I, key: ServerKey, info: TlsInfo) {
        self.servers[key].tls = Some(Box::new(info));
        self.send_startup(io, key);
    }

    fn send_startup(&mut self, io: &mut I, key: ServerKey) {
        let is_encrypted = self.servers[key].tls.is_some();
        let is_local = self.is_by_unix_socket(key);
        let pool = &self.pools[self.servers[key].pool.0 as usize];
        let rules = LoginRules { is_cleartext_allowed: is_encrypted || is_local, is_binding_required: false };
        let tls = self.servers[key].tls.as_deref();
        let proof = ServerLogin::new(&pool.user, pool.secret.clone(), tls, rules, &mut |b| io.fill_random(b));
        let place = &self.servers[key].place;
        let known = pool.endpoints.at(place).map(|index| pool.endpoints.get(index));
        let minor = if known.is_some_and(|endpoint| endpoint.is_protocol_3_0) { 0 } else { 2 };
        let mut out = Vec::new();
        let client = self.servers[key].client.and_then(|c| self.clients.get(c));
        let own = client.and_then(|c| c.replication.map(|r| (("replication", r.value()), c.wanted.iter())));
        let is_own = |name: &str| client.is_some_and(|c| c.replication.is_some() && c.wanted.get(name).is_some());
        let learnt = known.map_or(&[][..], |endpoint| &endpoint.learnt);
        let is_learnt = |name: &str| learnt.iter().any(|(learnt, _)| learnt.eq_ignore_ascii_case(name));
        let of_database = place.parameters.iter().filter(|(name, _)| !is_learnt(name)).chain(learnt);
        let of_database = of_database.filter(|(name, _)| !is_own(name)).map(|(name, value)| (&**name, &**value));
        let own = own
            .into_iter()
            .flat_map(|(kind, wanted)| std::iter::once(kind).chain(wanted.map(|(name, value)| (&**name, &**value))));
        write::startup(
            &mut out,
            (3, minor),
            [("user", &*pool.user), ("database", &*place.dbname)].into_iter().chain(of_database).chain(own),
        );
        let server = &mut self.servers[key];
        server.login = Some(Box::new(ServerHandshake {
            proof,
            reported: BTreeMap::new(),
            minor,
            told: None,
            before_query: None,
            doubt: Doubt::None,
        }));
        server.enter(ServerState::Login, self.now);
        self.send_to_server(io, key, &out);
    }

    /// Deals with the bytes kept of a server that is not logged in.
    pub(crate) fn handshake_goes_on(&mut self, io: &mut I, key: ServerKey) {
        if self.servers[key].state == ServerState::TlsAsked {
            return self.tls_answered(io, key);
        }
        while let Some(server) = self.servers.get_mut(key) {
            if server.state != ServerState::Login {
                return self.digest_kept(io, key);
            }
            let head = match frame::head(&server.carry, LOGIN_BYTES_MAX) {
                Ok(Some(head)) => head,
                Ok(None) => return,
                Err(error) => return self.open_failed(io, key, &error.to_string()),
            };
            if server.carry.len() < head.bytes as usize {
                return;
            }
            let rest = server.carry.split_off(head.bytes as usize);
            let message = std::mem::replace(&mut server.carry, rest);
            self.handshake_message(io, key, head.tag, &message[frame::HEAD_BYTES..]);
        }
    }

    fn tls_answered(&mut self, io: &mut I, key: ServerKey) {
        let answer = std::mem::take(&mut self.servers[key].carry);
        let mode = self.tls_mode(key);
        match answer.as_slice() {
            b"S" => {
                let role = self.tls_role(key);
                self.servers[key].enter(ServerState::Tls, self.now);
                let conn = self.servers[key].conn;
                io.start_tls(conn, role, &[]);
            }
            b"N" if matches!(mode, TlsMode::Prefer) => self.send_startup(io, key),
            b"N" => self.open_failed(io, key, "the server does not offer TLS"),
            [b'S', ..] => self.open_failed(io, key, "unencrypted bytes followed its answer to SSLRequest"),
            _ => self.open_failed(io, key, "it answered SSLRequest with an error"),
        }
    }

    fn handshake_message(&mut self, io: &mut I, key: ServerKey, kind: u8, body: &[u8]) {
        let server = &mut self.servers[key];
        let Some(login) = &mut server.login else { return };
        let (is_queried, is_asked) = (login.before_query.is_some(), login.told.is_some());
        let is_doubted = login.doubt.is_asked();
        match kind {
            tag::AUTHENTICATION => {
                let step = login.proof.message(body);
                self.proof_step_to_server(io, key, step);
            }
            tag::PARAMETER_STATUS => match ParameterStatus::decode(body) {
                Ok(ParameterStatus { name, value }) => {
                    let text = |bytes: &[u8]| Arc::<str>::from(String::from_utf8_lossy(bytes));
                    login.reported.insert(text(name), text(value));
                }
                Err(error) => self.open_failed(io, key, &error.to_string()),
            },
            tag::BACKEND_KEY_DATA => match BackendKeyData::decode(body) {
                Ok(data) => {
                    server.remote_pid = data.pid;
                    server.remote_key = data.key.into();
                }
                Err(error) => self.open_failed(io, key, &error.to_string()),
            },
            tag::NEGOTIATE_PROTOCOL_VERSION | tag::NOTICE_RESPONSE => {}
            tag::ERROR_RESPONSE | tag::ROW_DESCRIPTION | tag::DATA_ROW | tag::COMMAND_COMPLETE if is_doubted => {
                self.recovery_told(key, kind, body);
            }
            // It does not tell which server it is: that is the answer, and ReadyForQuery follows.
            tag::ERROR_RESPONSE if is_asked => {}
            tag::ERROR_RESPONSE if is_queried => self.connect_query_refused(io, key, body),
            tag::ERROR_RESPONSE => match ErrorFields::decode(body) {
                Ok(fields) => {
                    let (sqlstate, message) = words(fields);
                    self.login_refused(io, key, &sqlstate, &message);
                }
                Err(error) => self.open_failed(io, key, &error.to_string()),
            },
            tag::ROW_DESCRIPTION | tag::DATA_ROW | tag::COMMAND_COMPLETE if is_asked => {
                self.identity_message(key, kind, body);
            }
            tag::ROW_DESCRIPTION | tag::DATA_ROW | tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE if is_queried => {}
            tag::READY_FOR_QUERY if self.is_doubted(io, key) => {}
            tag::READY_FOR_QUERY if is_asked => self.identity_told(io, key),
            tag::READY_FOR_QUERY if is_queried => {
                let status = TransactionStatus::decode(body).unwrap_or(TransactionStatus::Failed);
                if !self.connect_query_done(io, key, status) {
                    self.server_logged_in(io, key);
                }
            }
            tag::READY_FOR_QUERY if self.ask_identity(io, key) => {}
            tag::READY_FOR_QUERY if self.begin_connect_query(io, key) => {}
            tag::READY_FOR_QUERY => self.server_logged_in(io, key),
            _ => self.open_failed(io, key, "it sent a message that does not belong to a login"),
        }
    }

    fn proof_step_to_server(&mut self, io: &mut I, key: ServerKey, step: ServerStep) {
        match step {
            ServerStep::Send(bytes) => self.send_to_server(io, key, &bytes),
            ServerStep::AskSaltedPassword { password, salt, iterations } => {
                self.ask(
                    io,
                    Asker::Server(key),
                    Question::SaltPassword { password, salt, iterations, turn: Turn::Own },
                );
            }
            ServerStep::Wait | ServerStep::Ok => {}
            ServerStep::Failed(reason) => self.login_hopeless(io, key, &reason),
        }
    }

    pub(crate) fn server_answered(&mut self, io: &mut I, key: ServerKey, answer: Answer) {
        let Some(login) = self.servers.get_mut(key).and_then(|s| s.login.as_mut()) else { return };
        match answer {
            Answer::SaltedPassword(salted) => {
                let step = login.proof.salted(&salted);
                self.proof_step_to_server(io, key, step);
            }
            _ => self.open_failed(io, key, "the salted password could not be derived"),
        }
    }

    pub(crate) fn server_logged_in(&mut self, io: &mut I, key: ServerKey) {
        let Some(login) = self.servers[key].login.take() else { return };
        let reported = self.images.intern(&login.reported);
        let id = self.servers[key].pool;
        let lifetime = Duration::from_micros(self.pool(id).settings.server_lifetime);
        let mut luck = [0; 1];
        io.fill_random(&mut luck);
        let server = &mut self.servers[key];
        server.reported = reported.clone();
        server.defaults = reported.clone();
        if !lifetime.is_zero() {
            // Between 90 and 110 per cent, so that servers opened together do not leave together.
            server.expires_at = self.now + lifetime.mul_f64(0.9 + f64::from(luck[0]) / 1275.0);
        }
        server.enter(ServerState::Busy, self.now);
        match server.apart {
            Some(Apart::Listener) => return self.listener_opened(io, key),
            Some(Apart::Reader) => return self.reader_opened(io, key),
            Some(Apart::Trial) => return self.trial_succeeded(io, key),
            None => {}
        }
        self.endpoint_answers(io, key);
        let empty = self.images.empty();
        let pool = &mut self.pools[id.0 as usize];
        pool.opening -= 1;
        let begun_at = std::mem::replace(&mut self.servers[key].opened_at, self.now);
        pool.stats.stats.open.record(self.now.micros_since(begun_at));
        if let (Some(ServerSecret::Plain { keys, .. }), Some(proved)) = (&mut pool.secret, login.proof.into_keys()) {
            *keys = Some(proved);
        }
        self.keep_greeting(io, id, empty, reported);
        self.tell_server_opened(io, key);
        if let Some(client) = self.servers[key].client {
            return self.replication_begins(io, key, client);
        }
        self.greet_waiters(io, id);
        self.freed.push(key);
        self.try_local_socket(io, key);
        self.supply(io, id);
    }

    /// The server said no to our login.
    fn login_refused(&mut self, io: &mut I, key: ServerKey, sqlstate: &str, message: &str) {
        let (id, now) = (self.servers[key].pool, self.now);
        let minor = self.servers[key].login.as_ref().map_or(0, |l| l.minor);
        let place = self.servers[key].place.clone();
        let mode = place.tls.as_ref().map(|tls| tls.mode);
        let reply = format!("{sqlstate} {message}");
        self.host_answers(io, key, sqlstate);
        let apart = self.servers[key].apart.filter(|apart| *apart != Apart::Listener);
        let is_of_the_way = self.servers[key].is_local && sqlstate != "53300";
        let mut endpoint = self.pools[id.0 as usize].endpoints.of(&place);
        let may_ask_for_tls = mode == Some(TlsMode::Allow) && sqlstate == "28000";
        if let Some(endpoint) = endpoint.as_mut().filter(|_| minor > 0 && sqlstate == "0A000") {
            endpoint.is_protocol_3_0 = true;
        } else if is_of_the_way {
            return self.local_failed(io, key, &reply);
        } else if let Some(endpoint) = endpoint.as_mut().filter(|e| may_ask_for_tls && !e.is_tls_asked_for) {
            endpoint.is_tls_asked_for = true;
        } else if apart.is_some() {
            return self.not_let_in(io, key, sqlstate, &reply);
        } else if sqlstate == "53300" && self.servers[key].client.is_some() {
            if self.is_elsewhere_well(key) {
                return self.open_failed_by(io, key, &reply, Fault::Pool);
            }
            return self.replication_not_let_in(io, key, &reply);
        } else if sqlstate == "53300" {
            if let Some(endpoint) = endpoint {
                endpoint.here.full(now);
            }
            let fields = vec![("pool", self.pool(id).label().into()), ("reply", reply.into())];
            self.log(io, Level::Warn, "server_full", fields);
            self.make_room_within(io, id);
        } else if sqlstate.starts_with("28") || sqlstate.starts_with("3D") || sqlstate.starts_with("42") {
            return self.login_hopeless(io, key, &reply);
        } else {
            return self.not_let_in(io, key, sqlstate, &reply);
        }
        self.open_anew(io, key, &format!("login refused: {sqlstate}"));
        if sqlstate == "53300" {
            self.send_home_if_sick(io, id);
        }
    }

    /// All its walsenders, or connections, are in use: the client hears it as it would from the server itself.
    fn replication_not_let_in(&mut self, io: &mut I, key: ServerKey, reply: &str) {
        let (client, endpoint) = (self.leave_opening(key), self.endpoint_name(key));
        let pool = &self.pools[self.servers[key].pool.0 as usize];
        let report = errors::server_login_failed(pool.user.clone(), pool.database.clone(), endpoint, reply);
        self.drop_opening(io, key, reply);
        if let Some(client) = client {
            self.refuse_and_close(io, client, report);
        }
    }

    /// Waiting won't help: those who wait are told why.
    fn login_hopeless(&mut self, io: &mut I, key: ServerKey, reply: &str) {
        if self.servers[key].is_local {
            return self.local_failed(io, key, reply);
        }
        if matches!(self.servers[key].apart, Some(Apart::Reader | Apart::Trial)) {
            return self.open_failed_by(io, key, reply, Fault::Refusal);
        }
        let id = self.servers[key].pool;
        let endpoint = self.endpoint_name(key);
        // The server may have another salt or another password by now.
        match &mut self.pool(id).secret {
            Some(ServerSecret::Plain { keys, .. }) => *keys = None,
            Some(ServerSecret::Scram(_)) => self.pool(id).secret = None,
            Some(ServerSecret::Md5(_)) | None => {}
        }
        if self.servers[key].is_listener() || self.is_elsewhere_well(key) {
            return self.open_failed_by(io, key, reply, Fault::Refusal);
        }
        let pool = self.pool(id);
        let report = errors::server_login_failed(pool.user.clone(), pool.database.clone(), endpoint, reply);
        let client = self.leave_opening(key);
        self.open_failed_by(io, key, reply, Fault::Refusal);
        if let Some(client) = client {
            self.refuse_and_close(io, client, report.clone());
        }
        self.send_home(io, id);
        self.refuse_waiters(io, id, &report);
    }

    /// Answers everyone who waits in a pool with an error.
    pub(crate) fn refuse_waiters(&mut self, io: &mut I, id: PoolId, report: &Report) {
        let waiting: Vec<_> = self.pool(id).waiters.drain(..).collect();
        self.publish(id);
        for waiter in waiting {
            let Some(client) = self.clients.get_mut(waiter.client) else { continue };
            if client.since != waiter.since || client.server.is_some() {
                continue;
            }
            match client.state {
                ClientState::Greeting => self.refuse_and_close(io, waiter.client, report.clone()),
                ClientState::Waiting => self.refuse_waiting(waiter.client, report.clone(), Extent::NextRequest),
                _ => {}
            }
        }
    }

    pub(crate) fn drop_opening(&mut self, io: &mut I, key: ServerKey, reason: &str) {
        let conn = self.servers[key].conn;
        if matches!(self.owner(conn), Owner::Server(owner) if owner == key) {
            self.close_conn(io, conn, Close::Now);
        }
        self.forget_server(io, key, reason);
    }
}
