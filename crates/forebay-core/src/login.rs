//! A client's way in: first packets, TLS, proof, greeting.

use std::sync::Arc;

use forebay_pgwire::proxy;
use forebay_pgwire::startup::{FirstPacket, Startup, StartupError, first_packet};
use forebay_pgwire::write;
use forebay_spec::errors;

use crate::asked::Asked;
use crate::auth::Credential;
use crate::auth::client::Proof;
use crate::config::TlsMode;
use crate::io::{Io, Peer, TlsInfo, TlsRole};
use crate::planted::{self, Bug, planted};
use crate::pool::endpoints::{Endpoints, Place};
use crate::pool::{Pool, PoolId};
use crate::session::client::{ClientKey, ClientState};
use crate::stats::{LabelledPool, PoolStats};
use crate::worker::Worker;

/// Names that lead to the console, unless a database of that name is configured.
const CONSOLE_NAMES: [&str; 2] = ["forebay", "pgbouncer"];

/// Newest minor version of protocol 3 that is spoken.
const MINOR_MAX: u16 = 2;

impl<I: Io> Worker<I> {
    /// Deals with the bytes kept of a client that is not logged in.
    pub(crate) fn login_goes_on(&mut self, io: &mut I, key: ClientKey) {
        loop {
            let Some(client) = self.clients.get_mut(key) else { return };
            if client.carry.is_empty() {
                return;
            }
            let kept = std::mem::take(&mut client.carry);
            let taken = match client.state {
                ClientState::Startup => self.first_packet(io, key, &kept),
                ClientState::Login => self.proof_message(io, key, &kept),
                _ => 0,
            };
            self.put_back(key, kept, taken);
            if taken == 0 {
                return;
            }
        }
    }

    fn first_packet(&mut self, io: &mut I, key: ClientKey, data: &[u8]) -> usize {
        if self.clients[key].login.as_ref().is_some_and(|login| login.is_header_due) {
            return self.proxy_header(io, key, data);
        }
        let (packet, taken) = match first_packet(data) {
            Ok(Some(found)) => found,
            Ok(None) => return 0,
            Err(_) if proxy::is_header(data) => {
                self.refuse_proxy(io, key, "none is expected here");
                return 0;
            }
            Err(error) => {
                self.first_packet_refused(io, key, error);
                return 0;
            }
        };
        self.talks(key);
        let has_tls = self.clients[key].tls.is_some();
        let offers_tls = self.tables.config.listen.tls.is_some() && matches!(self.clients[key].peer, Peer::Tcp(..));
        match packet {
            FirstPacket::Ssl | FirstPacket::GssEnc if data.len() > taken => {
                // Plain bytes behind the request may have been put there by someone in the middle.
                self.stats.tls_injections.add(1);
                self.refuse_and_close(io, key, errors::plaintext_after_tls_request());
            }
            FirstPacket::Ssl if offers_tls && !has_tls => {
                self.send_to_client(io, key, b"S");
                self.begin_tls(io, key, false, &[]);
            }
            FirstPacket::Ssl | FirstPacket::GssEnc => self.send_to_client(io, key, b"N"),
            FirstPacket::DirectTls if offers_tls && !has_tls => {
                self.begin_tls(io, key, true, data);
                return data.len();
            }
            FirstPacket::DirectTls => {
                self.stats.protocol_errors.add(1);
                self.drop_client(io, key, "TLS is not offered here");
            }
            FirstPacket::Cancel { pid, key: secret } => {
                self.cancel_came(io, key, pid, secret);
                return data.len();
            }
            FirstPacket::Startup(startup) => {
                if self.holds_until_resume(io, key, self.is_for_console(startup)) {
                    return 0;
                }
                self.startup(io, key, startup);
            }
        }
        taken
    }

    fn first_packet_refused(&mut self, io: &mut I, key: ClientKey, error: StartupError) {
        self.stats.protocol_errors.add(1);
        let report = match error {
            StartupError::UnsupportedVersion { major, minor } => {
                errors::unsupported_protocol(format!("{major}.{minor}"))
            }
            other => errors::malformed_message(other),
        };
        self.refuse_and_close(io, key, report);
    }

    fn begin_tls(&mut self, io: &mut I, key: ClientKey, direct: bool, unread: &[u8]) {
        let client = &mut self.clients[key];
        client.enter(ClientState::Tls, self.now);
        io.start_tls(client.conn, TlsRole::Accept { direct }, unread);
    }

    pub(crate) fn client_tls_ready(&mut self, io: &mut I, key: ClientKey, info: TlsInfo) {
        let client = &mut self.clients[key];
        client.tls = Some(Box::new(info));
        client.enter(ClientState::Startup, self.now);
        self.login_goes_on(io, key);
    }

    fn startup(&mut self, io: &mut I, key: ClientKey, startup: Startup<'_>) {
        let is_plain_tcp = self.clients[key].tls.is_none() && matches!(self.clients[key].peer, Peer::Tcp(..));
        let mode = self.tables.config.listen.tls.as_ref().map(|tls| tls.mode);
        if is_plain_tcp && matches!(mode, Some(TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull)) {
            return self.refuse_and_close(io, key, errors::tls_required());
        }
        self.negotiate(io, key, startup);
        let asked = match Asked::read(startup, &self.tables.config.arrivals, &self.clients[key].peer) {
            Ok(asked) => asked,
            Err(report) => return self.refuse_and_close(io, key, *report),
        };
        let is_console = self.is_console(&asked.database);
        // An operator gets in where nobody else does.
        let no_place = if is_console { None } else { self.has_no_place(io, key) };
        let refused = is_console && asked.replication.is_some();
        let refusal = refused.then(|| errors::replication_refused(asked.database.clone())).or(no_place);
        let wanted = self.images.intern(&asked.parameters);
        let client = &mut self.clients[key];
        client.user = asked.user;
        client.database = asked.database;
        client.baseline = wanted.clone();
        client.wanted = wanted;
        client.replication = asked.replication;
        if let Some(login) = &mut client.login {
            login.is_console = is_console;
        }
        self.tell_attempt(io, key);
        match refusal {
            Some(report) => self.refuse_and_close(io, key, report),
            None if is_console && self.is_own_operator(key) => self.console_logged_in(io, key),
            None => self.identify(io, key),
        }
    }

    /// Whether a name leads to the console.
    fn is_console(&self, database: &str) -> bool {
        CONSOLE_NAMES.contains(&database) && !self.tables.config.databases.iter().any(|d| *d.name == *database)
    }

    fn is_for_console(&self, startup: Startup<'_>) -> bool {
        let named = startup.get("database").filter(|d| !d.is_empty()).or_else(|| startup.get("user"));
        named.and_then(|name| std::str::from_utf8(name).ok()).is_some_and(|name| self.is_console(name))
    }

    /// Tells a client that asks for a later minor version, or for options we don't know, what it gets.
    fn negotiate(&mut self, io: &mut I, key: ClientKey, startup: Startup<'_>) {
        let minor = startup.version.1;
        let unknown: Vec<&[u8]> = startup.parameters.protocol_options().collect();
        if let Some(login) = &mut self.clients[key].login {
            login.minor = minor.min(MINOR_MAX);
        }
        if minor > MINOR_MAX || !unknown.is_empty() {
            let mut out = Vec::new();
            write::negotiate_protocol_version(&mut out, (3, minor.min(MINOR_MAX)), unknown);
            self.send_to_client(io, key, &out);
        }
    }

    pub(crate) fn logged_in(&mut self, io: &mut I, key: ClientKey, proof: &Proof) {
        let is_console = self.clients[key].login.as_ref().is_some_and(|l| l.is_console);
        if is_console {
            return self.console_logged_in(io, key);
        }
        if let Some(report) = self.take_place(key) {
            return self.refuse_and_close(io, key, report);
        }
        let client = &self.clients[key];
        let (database, user) = (client.database.clone(), client.user.clone());
        // A password that Python told serves every server; the client's proof against it only one with the same salt.
        let known = client.login.as_ref().and_then(|l| l.server_secret.clone());
        let replication = client.replication;
        if self.disabled.contains(&database) {
            return self.refuse_login(io, key, errors::database_disabled(database), "disabled".into());
        }
        let is_known = self.tables.database(&database).is_some();
        let found = is_known.then(|| self.find_pool(&database, &user, replication.is_some())).flatten();
        let Some(id) = found else {
            return self.refuse_login(io, key, errors::unknown_database(database), "unknown database".into());
        };
        self.tell_new_database(io, id);
        let limit = self.pools[id.0 as usize].settings.max_db_client_connections;
        if let Some(report) = self.count_in(key, limit) {
            return self.refuse_and_close(io, key, report);
        }
        let mut out = Vec::new();
        write::authentication_ok(&mut out);
        self.send_to_client(io, key, &out);
        let pool = &mut self.pools[id.0 as usize];
        pool.stats.stats.logins.add(1);
        pool.stats.stats.clients.add(1);
        let usage = pool.settings.usage();
        let is_split = pool.target.config.cluster.is_some_and(|cluster| cluster.is_split);
        if pool.target.forced_credential.is_none()
            && pool.target.config.forced_user.is_none()
            && let Some(secret) = known.or_else(|| proof.server_secret())
        {
            let replicas = pool.replicas;
            pool.learn_secret(secret.clone());
            if let Some(replicas) = replicas {
                self.pool(replicas).learn_secret(secret);
            }
        }
        self.tell_login(io, key, "client_connected");
        let client = &mut self.clients[key];
        client.pool = Some(id);
        client.usage = usage;
        client.is_split = is_split && usage.is_tracked() && replication.is_none();
        client.enter(ClientState::Greeting, self.now);
        match replication {
            Some(_) => self.begin_replication(io, id, key),
            None => self.greet_or_wait(io, key, id),
        }
    }

    /// Pools that are kept filled before any client has come; one worker sees to them.
    pub(crate) fn make_forced_pools(&mut self) {
        if self.id.0 > 0 {
            return;
        }
        let tables = self.tables.clone();
        for database in tables.config.databases.iter().filter(|d| d.pool.min_pool_size > 0) {
            if let Some(user) = &database.forced_user {
                self.find_pool(&database.name, user, false);
            }
        }
    }

    /// The pool for clients of `user` that ask for `database`; made at first use.
    pub(crate) fn find_pool(&mut self, database: &Arc<str>, user: &Arc<str>, is_replication: bool) -> Option<PoolId> {
        let tables = self.tables.clone();
        let target = tables.pool_target(database)?;
        let settings = tables.pool_settings(database, user)?;
        let server_user = target.config.forced_user.clone().unwrap_or_else(|| user.clone());
        let name = (database.clone(), server_user.clone());
        let ids = if is_replication { &self.replication_ids } else { &self.pool_ids };
        let another = || ids.iter().find(|((of, _), _)| of == database && planted(Bug::PoolOfAnotherUser));
        if let Some(id) = ids.get(&name).or_else(|| another().map(|(_, id)| id)) {
            return Some(*id);
        }
        let knowledge = self.knowledge_of(target, database);
        let (shared, settings) = if is_replication {
            (self.shared.replication(database), settings.for_replication())
        } else {
            (self.shared.pool(database, &server_user), settings)
        };
        let stats = Arc::new(LabelledPool {
            database: database.clone(),
            is_named: shared.is_named,
            user: if planted(Bug::SecretInLabel) {
                planted::secret_of(&tables, &server_user)
            } else {
                server_user.clone()
            },
            stats: PoolStats::default(),
            balance: shared.balance.clone(),
        });
        self.stats.pools.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(stats.clone());
        let found = self.places(target, database);
        let is_held = found.is_none();
        let places = found.unwrap_or_else(|| Place::all(target, database));
        let mut endpoints = Endpoints::new(places, &self.shared.hosts, &shared.here, shared.turn.clone());
        endpoints.weigh(&target.config.preferences);
        let target = (target.clone(), endpoints);
        let mut pool = Pool::new(server_user.clone(), target, settings, shared, stats, knowledge);
        pool.is_replication = is_replication;
        pool.set_paused(self.is_paused(database));
        pool.set_held(is_held);
        let own = tables.user(&server_user).and_then(|u| u.credential.as_ref());
        let forced = pool.target.forced_credential.as_ref();
        pool.secret = forced.or(own).and_then(Credential::server_secret);
        let id = self.place_pool(pool);
        let ids = if is_replication { &mut self.replication_ids } else { &mut self.pool_ids };
        ids.insert(name, id);
        self.note_limits(id);
        Some(id)
    }
}

impl Pool {
    /// What a client's login gave away is worth more than nothing, and newer than what was learnt before.
    pub(crate) fn learn_secret(&mut self, secret: crate::auth::ServerSecret) {
        use crate::auth::ServerSecret::{Plain, Scram};
        match (&self.secret, &secret) {
            (None, _) | (Some(Scram(_)), _) => self.secret = Some(secret),
            (Some(Plain { password: old, .. }), Plain { password: new, .. }) if old.expose() != new.expose() => {
                self.secret = Some(secret);
            }
            _ => {}
        }
    }
}

/// Address and port of a client, as SHOW CLIENTS prints them.
pub(crate) fn address(peer: &Peer) -> (String, u16) {
    match peer {
        Peer::Tcp(ip, port) => (ip.to_string(), *port),
        Peer::Unix(_) => (String::from("unix"), 0),
    }
}
