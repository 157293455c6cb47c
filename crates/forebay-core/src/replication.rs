//! Replication connections: each is a session of its own, with a server that was opened for it and ends with it.
//!
//! Such a server is never idle, lent or reset. Its login carries the client's own parameters, for a standby is known by its
//! application_name, and the statements of the replication protocol are passed on unread. The pool that counts them
//! has the settings of [`crate::config::PoolSettings::for_replication`], so that the loop needs no branch for them.

use std::time::Duration;

use forebay_pgwire::startup::Replication;
use forebay_pgwire::write;
use forebay_spec::{Report, Severity, errors};

use crate::io::{Close, Io};
use crate::pool::PoolId;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::{Server, ServerKey, ServerState};
use crate::worker::Worker;

impl<I: Io> Worker<I> {
    /// Opens the server of a client that has logged in, or says why it gets none. Nobody waits for one: the others
    /// may last for ever.
    pub(crate) fn begin_replication(&mut self, io: &mut I, id: PoolId, key: ClientKey) {
        let pool = self.pool(id);
        let (limit, database) = (pool.settings.pool_size, pool.database.clone());
        if limit == 0 {
            return self.refuse_and_close(io, key, errors::replication_refused(database));
        }
        if !pool.shared.permits.try_take(limit) {
            return self.refuse_and_close(io, key, errors::too_many_replication_connections(database, limit));
        }
        // Nobody else counts these two.
        pool.shared.of_database.try_take(0);
        pool.shared.of_user.try_take(0);
        let pool = &self.pools[id.0 as usize];
        let max = Duration::from_micros(pool.settings.server_backoff_max);
        let endpoint = pool.endpoints.choose_any(pool.settings.load_balance_hosts, max, self.now);
        self.open_replication(io, id, key, endpoint);
    }

    /// The endpoint that was tried did not let us in: the client need not know.
    pub(crate) fn replicate_from(&mut self, io: &mut I, id: PoolId, key: ClientKey, endpoint: usize) {
        let pool = &self.pools[id.0 as usize];
        if !pool.shared.permits.try_take(pool.settings.pool_size) {
            let (database, limit) = (pool.database.clone(), pool.settings.pool_size);
            return self.refuse_and_close(io, key, errors::too_many_replication_connections(database, limit));
        }
        pool.shared.of_database.try_take(0);
        pool.shared.of_user.try_take(0);
        self.open_replication(io, id, key, endpoint);
    }

    fn open_replication(&mut self, io: &mut I, id: PoolId, key: ClientKey, endpoint: usize) {
        let server = self.open(io, id, endpoint);
        self.servers[server].client = Some(key);
        self.clients[key].server = Some(server);
        self.arm_client(key);
    }

    /// The server is logged in: its greeting is the client's.
    pub(crate) fn replication_begins(&mut self, io: &mut I, server_key: ServerKey, key: ClientKey) {
        let now = self.now;
        let server = &mut self.servers[server_key];
        server.enter(ServerState::Leased, now);
        server.is_leased = true;
        let pool = &mut self.pools[server.pool.0 as usize];
        pool.leased += 1;
        pool.stats.stats.assignments.add(1);
        let client = &mut self.clients[key];
        client.seen = server.reported.clone();
        client.transaction_at = now;
        let mut out = Vec::new();
        for (name, value) in server.reported.iter() {
            write::parameter_status(&mut out, &**name, &**value);
        }
        self.finish_greeting(io, key, &mut out);
        self.clients[key].enter(ClientState::Active, now);
        self.ready.push_back(key);
    }

    /// The client has left: so does its server.
    pub(crate) fn end_replication(&mut self, io: &mut I, key: ServerKey, client: &Client) {
        let server = &self.servers[key];
        let conn = server.conn;
        if server.is_opening() || client.body_left > 0 {
            // There is no place for a word of ours.
            self.close_conn(io, conn, Close::Now);
            return self.forget_server(io, key, "its client left");
        }
        self.retire(io, key, "its client left");
    }

    /// Takes the client from a server that was opened for it and does not come about.
    pub(crate) fn leave_opening(&mut self, key: ServerKey) -> Option<ClientKey> {
        let client = self.servers[key].client.take()?;
        self.clients.get_mut(client)?.server = None;
        Some(client)
    }

    /// Lets a client of a drained worker go that streams, or is asked for nothing: it goes on elsewhere from where it
    /// stood. Not in the middle of a message.
    pub(crate) fn drain_replication(&mut self, io: &mut I, key: ServerKey) {
        let Some(server) = self.servers.get(key) else { return };
        if server.is_parted_at_drain()
            && let Some(client) = server.client
            && self.clients.get(client).is_some_and(|c| c.replication.is_some())
        {
            self.refuse_and_close(io, client, errors::draining());
        }
    }
}

impl Server {
    /// Whether it is not logged in yet.
    pub(crate) fn is_opening(&self) -> bool {
        use ServerState::{Connecting, Login, Tls, TlsAsked};
        matches!(self.state, Connecting | TlsAsked | Tls | Login)
    }

    /// Whether a session of its own loses nothing that it can't take up again: it streams, or nothing is owed.
    pub(crate) fn is_parted_at_drain(&self) -> bool {
        self.body_left == 0 && self.carry.is_empty() && (self.is_copying || self.is_clean())
    }
}

/// A replication connection or not, as SHOW tells.
pub(crate) fn kind(client: Option<&Client>) -> &'static str {
    match client.and_then(|c| c.replication) {
        Some(Replication::Physical) => "physical",
        Some(Replication::Logical) => "logical",
        None => "none",
    }
}

/// As PostgreSQL says it.
pub(crate) fn unreadable(value: &[u8]) -> Report {
    Report {
        severity: Severity::Fatal,
        code: "",
        sqlstate: "22023",
        message: format!("invalid value for parameter \"replication\": \"{}\"", String::from_utf8_lossy(value)),
        detail: None,
        hint: Some("Valid values are: \"false\", 0, \"true\", 1, \"database\".".into()),
        pgbouncer: None,
    }
}
