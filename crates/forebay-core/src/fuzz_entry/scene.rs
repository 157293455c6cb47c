//! A worker, its clients and its servers: what tests of a worker's behaviour are played with. Those of clusters, and of two
//! workers, add their own words to it.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use super::memory::{BUFFER, MemoryIo, Stage, config};
use crate::command::{Command, CommandId};
use crate::config::{AuthMethod, EngineConfig, PoolMode};
use crate::ids::{ConnId, WorkerId};
use crate::io::{ClosedBy, Peer};
use crate::stats::WorkerStats;
use crate::tables::Tables;
use crate::time::Instant;
use crate::worker::{Shared, Worker};

/// The process id of each server.
pub(crate) const SERVER_PID: u32 = 4711;

pub(crate) struct Scene {
    pub(crate) worker: Worker<MemoryIo>,
    pub(crate) io: MemoryIo,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene::with(|_| {})
    }

    /// With a configuration that differs.
    pub(crate) fn with(change: impl FnOnce(&mut EngineConfig)) -> Scene {
        Scene::of(0, tables(change), Arc::new(Shared::new(1)))
    }

    /// One of several workers.
    pub(crate) fn of(id: u16, tables: Arc<Tables>, shared: Arc<Shared>) -> Scene {
        let worker = Worker::new(WorkerId(id), tables, shared, Arc::new(WorkerStats::default()));
        Scene { worker, io: MemoryIo::default() }
    }

    pub(crate) fn tick(&mut self, at_us: u64) {
        self.worker.tick(&mut self.io, Instant(at_us));
    }

    /// Time goes on up to then, with a turn each half a second at least: a longer gap would be a standstill.
    pub(crate) fn at(&mut self, us: u64) {
        for now in (0..us).step_by(500_000).chain([us]) {
            if Instant(now) > self.worker.now {
                self.tick(now);
                self.worker.turn_end(&mut self.io);
            }
        }
    }

    pub(crate) fn order(&mut self, command: Command) {
        self.worker.command(&mut self.io, CommandId(1), command);
        self.worker.turn_end(&mut self.io);
    }

    pub(crate) fn arrives(&mut self, conn: ConnId, bytes: &[u8]) {
        self.io.lend(bytes);
        self.worker.received(&mut self.io, conn, BUFFER, bytes);
        self.worker.turn_end(&mut self.io);
        self.io.assert_released();
    }

    /// Takes what was sent, which is written from here on; of a connection that was closed, its last words.
    pub(crate) fn sent(&mut self, conn: ConnId) -> Vec<u8> {
        if !self.is_alive(conn) {
            let words = self.io.last_words.iter().rev().find(|(of, _)| *of == conn);
            return words.map(|(_, said)| said.clone()).unwrap_or_default();
        }
        let unreported = std::mem::take(&mut self.io.connection(conn).unreported);
        self.worker.sent(&mut self.io, conn, unreported);
        self.worker.turn_end(&mut self.io);
        std::mem::take(&mut self.io.connection(conn).sent)
    }

    /// Somebody connects, and says nothing.
    pub(crate) fn connects(&mut self) -> ConnId {
        let client = self.io.open_client();
        self.worker.accepted(&mut self.io, client, Peer::Tcp([127, 0, 0, 1].into(), 9));
        client
    }

    /// A client that asks to be let in.
    pub(crate) fn client(&mut self) -> ConnId {
        self.comes("app", &[])
    }

    /// A client that asks to be let in to a database, with these parameters.
    pub(crate) fn comes(&mut self, database: &str, parameters: &[(&str, &str)]) -> ConnId {
        let client = self.connects();
        let mut bytes = Vec::new();
        let who = [("user", "app"), ("database", database)];
        write::startup(&mut bytes, (3, 0), who.into_iter().chain(parameters.iter().copied()));
        self.arrives(client, &bytes);
        client
    }

    /// A connection comes about.
    pub(crate) fn connected(&mut self, conn: ConnId) {
        self.io.connection(conn).stage = Stage::Open;
        self.worker.connected(&mut self.io, conn);
        self.worker.turn_end(&mut self.io);
    }

    /// A connection ends, or does not come about.
    pub(crate) fn closed(&mut self, conn: ConnId) {
        self.io.end(conn);
        self.worker.closed(&mut self.io, conn, ClosedBy::Peer);
        self.worker.turn_end(&mut self.io);
    }

    /// The first connection that core has opened and that has not come about.
    pub(crate) fn opening(&self) -> Option<ConnId> {
        self.connecting().first().copied()
    }

    /// Connections that core has opened and that have not come about.
    pub(crate) fn connecting(&self) -> Vec<ConnId> {
        self.io.alive().filter(|(_, c)| c.stage == Stage::Connecting).map(|(conn, _)| conn).collect()
    }

    pub(crate) fn is_alive(&self, conn: ConnId) -> bool {
        self.io.alive().any(|(alive, _)| alive == conn)
    }

    /// A server lets us in.
    pub(crate) fn let_in(&mut self, server: ConnId) {
        self.connected(server);
        self.sent(server);
        self.arrives(server, &welcome());
    }

    /// A client that has logged in and is in a transaction, and its server.
    pub(crate) fn in_transaction(&mut self) -> (ConnId, ConnId) {
        let client = self.client();
        let server = self.connecting().pop().expect("the greeting needs a server");
        self.let_in(server);
        let mut bytes = Vec::new();
        write::query(&mut bytes, b"BEGIN");
        self.arrives(client, &bytes);
        assert!(self.sent(server).ends_with(b"BEGIN\0"), "a new server needs nothing else first");
        bytes.clear();
        write::command_complete(&mut bytes, "BEGIN");
        write::ready_for_query(&mut bytes, TransactionStatus::InTransaction);
        self.arrives(server, &bytes);
        (client, server)
    }
}

/// What a server says that lets us in.
pub(crate) fn welcome() -> Vec<u8> {
    let mut bytes = Vec::new();
    write::authentication_ok(&mut bytes);
    write::parameter_status(&mut bytes, "server_version", "15.20");
    write::backend_key_data(&mut bytes, SERVER_PID, &[1, 2, 3, 4]);
    write::ready_for_query(&mut bytes, TransactionStatus::Idle);
    bytes
}

/// Those of one pool of one server, but for what is changed.
pub(crate) fn tables(change: impl FnOnce(&mut EngineConfig)) -> Arc<Tables> {
    let mut config = config(AuthMethod::Trust, PoolMode::Transaction, 1);
    change(&mut config);
    Arc::new(Tables::build(config, None, &mut |out| out.fill(7)).expect("the configuration is sound"))
}
