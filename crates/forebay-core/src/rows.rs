//! What SHOW tells of clients, servers and pools, a row each.

use crate::command::{ClientRow, PoolRow, ServerRow, ShareRow, Snapshot, SocketRow};
use crate::config::PoolMode;
use crate::ids::ConnId;
use crate::io::{Endpoint, Io, Peer, Socket};
use crate::planted::{Bug, planted};
use crate::pool::balance::Told;
use crate::pool::{Pool, PoolId};
use crate::session::client::{Client, ClientState};
use crate::session::server::{Server, ServerState};
use crate::worker::Worker;

/// Our own end of a connection, or nothing where it is not asked for.
pub(crate) type SocketOf<'a> = &'a dyn Fn(ConnId) -> Option<SocketRow>;

impl<I: Io> Worker<I> {
    pub(crate) fn snapshot(&mut self, socket: SocketOf<'_>) -> Snapshot {
        for index in 0..self.pools.len() {
            let _ = self.oldest_waiter(PoolId(index as u32));
        }
        let paused = self.paused.iter().map(|d| d.clone().unwrap_or_else(|| "*".into())).collect();
        Snapshot {
            worker: self.id.0,
            clients: self.clients.iter().map(|(_, c)| self.client_row(c, socket)).collect(),
            servers: self.servers.iter().map(|(_, s)| self.server_row(s, socket)).collect(),
            pools: self.pool_rows(),
            paused,
            is_suspended: self.is_suspended,
            disabled: self.disabled.clone(),
            peers: self.peer_rows(),
        }
    }

    fn client_row(&self, client: &Client, socket: SocketOf<'_>) -> ClientRow {
        let (address, port) = self.place(&client.peer);
        let key = || format!("{:?}", client.cancel.bytes());
        ClientRow {
            id: client.id,
            user: client.user.clone(),
            database: client.database.clone(),
            application_name: client.wanted.get("application_name").cloned().unwrap_or_default(),
            state: client.state_name(),
            address: if planted(Bug::CancelKeyShown) { key() } else { address },
            port,
            socket: socket(client.conn).map(|own| match client.peer {
                Peer::Unix(_) => SocketRow { port, ..own },
                Peer::Tcp(..) => own,
            }),
            age_us: self.now.micros_since(client.connected_at),
            request_us: self.now.micros_since(client.request_at),
            wait_us: if client.state == ClientState::Waiting { self.now.micros_since(client.since) } else { 0 },
            server: client.server.and_then(|key| self.servers.get(key)).map(|s| s.id),
            tls: client.tls.as_ref().map(|t| t.description.clone()).unwrap_or_default(),
            prepared_statements: client.statements.as_ref().map_or(0, |s| s.len() as u32),
            pin: client.pin.as_ref().map_or_else(Vec::new, |pin| crate::tracking::pin::names(pin.reasons)),
            pinned_us: client.pin.as_ref().map_or(0, |pin| self.now.micros_since(pin.since)),
            replication: crate::replication::kind(Some(client)),
            channels: client.listens.as_ref().map_or(0, |listens| listens.len() as u32),
            pin_verb: client.pin.as_ref().map_or_else(String::new, |pin| pin.statements()),
        }
    }

    fn server_row(&self, server: &Server, socket: SocketOf<'_>) -> ServerRow {
        let pool = &self.pools[server.pool.0 as usize];
        let (address, port) = match &server.place.endpoint {
            Endpoint::Tcp { port, .. } if server.is_local => (String::from("unix"), *port),
            Endpoint::Tcp { port, .. } if server.address.is_some() => {
                (server.address.map(|address| address.to_string()).unwrap_or_default(), *port)
            }
            Endpoint::Tcp { host, port } | Endpoint::LocalSocket { host, port } => (host.to_string(), *port),
            Endpoint::Unix(path) => (path.to_string(), 0),
        };
        ServerRow {
            id: server.id,
            user: pool.user.clone(),
            database: pool.database.clone(),
            application_name: server.set.get("application_name").cloned().unwrap_or_default(),
            state: server.state_name(),
            address,
            port,
            socket: socket(server.conn),
            age_us: self.now.micros_since(server.opened_at),
            request_us: self.now.micros_since(server.since),
            client: server.client.and_then(|key| self.clients.get(key)).map(|c| c.id),
            remote_pid: server.remote_pid,
            replication: crate::replication::kind(server.client.and_then(|key| self.clients.get(key))),
            tls: server.tls.as_ref().map(|t| t.description.clone()).unwrap_or_default(),
            prepared_statements: server.statements.len() as u32,
            close_needed: server.is_close_needed || server.measured.leaves.is_some(),
            channels: if server.is_listener() { self.channels_listened(server.pool) } else { 0 },
            dirt: (server.left.dirt | server.left.fresh).names().collect(),
        }
    }

    /// A row for each pool; each connection is looked at once, as there may be thousands of pools.
    fn pool_rows(&self) -> Vec<PoolRow> {
        let mut rows: Vec<PoolRow> = self.pools.iter().map(|pool| self.pool_row(pool)).collect();
        for id in self.clients.iter().filter_map(|(_, client)| client.pool) {
            rows[id.0 as usize].cl_active += 1;
        }
        for (_, server) in self.servers.iter() {
            let row = &mut rows[server.pool.0 as usize];
            match server.state_name() {
                "active" => row.sv_active += 1,
                "being_canceled" => row.sv_being_canceled += 1,
                "idle" => row.sv_idle += 1,
                "tested" => row.sv_tested += 1,
                "login" => row.sv_login += 1,
                _ => {}
            }
        }
        for (_, cancel) in self.cancels.iter() {
            let row = &mut rows[cancel.pool.0 as usize];
            let cancellers = cancel.cancellers.len() as u32;
            row.sv_active_cancel += u32::from(cancel.is_sent);
            *(if cancel.is_sent { &mut row.cl_active_cancel_req } else { &mut row.cl_waiting_cancel_req }) +=
                cancellers;
        }
        for row in &mut rows {
            row.cl_active = row.cl_active.saturating_sub(row.cl_waiting);
        }
        let known = rows.into_iter().zip(&self.pools).filter(|(_, pool)| !pool.is_vacant);
        known.map(|(row, _)| row).collect()
    }

    /// Without what is counted by connections.
    fn pool_row(&self, pool: &Pool) -> PoolRow {
        PoolRow {
            database: pool.database.clone(),
            user: pool.user.clone(),
            cl_waiting: pool.waiters.len() as u32,
            maxwait_us: pool.waiters.front().map_or(0, |waiter| self.now.micros_since(waiter.since)),
            pool_mode: if pool.is_replication { "replication" } else { mode_name(pool.settings.pool_mode) },
            sick: pool.endpoints.sickness().map(|(_, sick)| sick.cause.to_string()),
            endpoints: if pool.is_balanced() { share_rows(pool) } else { Vec::new() },
            ..PoolRow::default()
        }
    }
}

impl Client {
    fn state_name(&self) -> &'static str {
        match self.state {
            ClientState::Active => "active",
            ClientState::Waiting | ClientState::Greeting => "waiting",
            ClientState::Moving if self.server.is_some() => "active",
            ClientState::Idle | ClientState::Console | ClientState::Moving => "idle",
            ClientState::Cancelling if self.rare.as_ref().is_some_and(|rare| rare.is_cancel_sent) => {
                "active_cancel_req"
            }
            ClientState::Cancelling => "waiting_cancel_req",
            _ => "login",
        }
    }
}

impl Server {
    fn state_name(&self) -> &'static str {
        match self.state {
            _ if self.is_listener() => "listening",
            _ if self.apart.is_some() => "reading",
            ServerState::Leased | ServerState::Listening => "active",
            ServerState::Moving if self.client.is_some() => "active",
            ServerState::Busy | ServerState::Cleaning | ServerState::Detaching | ServerState::Moving => "tested",
            ServerState::CancelWait => "being_canceled",
            ServerState::Idle => "idle",
            _ => "login",
        }
    }
}

pub(crate) fn socket_row(socket: Socket) -> SocketRow {
    let (address, port) = socket.local.map_or_else(|| (String::from("unix"), 0), |(ip, port)| (ip.to_string(), port));
    SocketRow { descriptor: socket.descriptor, address, port }
}

/// A mode as SHOW prints it.
pub(crate) fn mode_name(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

fn share_rows(pool: &Pool) -> Vec<ShareRow> {
    let row = |told: Told| ShareRow {
        endpoint: told.place.name.clone(),
        share: told.share,
        latency_us: told.latency_us,
        ejected: told.standing.words(),
    };
    pool.shared.balance.told().into_iter().map(row).collect()
}
