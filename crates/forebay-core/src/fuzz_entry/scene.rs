//! A worker, its clients and its servers, for tests that need no more.

use std::sync::Arc;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;

use super::memory::{BUFFER, MemoryIo, Stage, config};
use crate::command::{Command, CommandId};
use crate::config::{AuthMethod, EngineConfig, PoolMode};
use crate::ids::{ConnId, WorkerId};
use crate::io::Peer;
use crate::stats::WorkerStats;
use crate::tables::Tables;
use crate::time::Instant;
use crate::worker::{Shared, Worker};

pub(super) struct Scene {
    pub(super) worker: Worker<MemoryIo>,
    pub(super) io: MemoryIo,
}

impl Scene {
    pub(super) fn new() -> Scene {
        Scene::with(|_| {})
    }

    /// With a configuration that differs.
    pub(super) fn with(change: impl FnOnce(&mut EngineConfig)) -> Scene {
        let stats = Arc::new(WorkerStats::default());
        let worker = Worker::new(WorkerId(0), tables(change), Arc::new(Shared::new(1)), stats);
        Scene { worker, io: MemoryIo::default() }
    }

    pub(super) fn tick(&mut self, at_us: u64) {
        self.worker.tick(&mut self.io, Instant(at_us));
    }

    pub(super) fn order(&mut self, command: Command) {
        self.worker.command(&mut self.io, CommandId(1), command);
    }

    pub(super) fn arrives(&mut self, conn: ConnId, bytes: &[u8]) {
        self.io.lend(bytes);
        self.worker.received(&mut self.io, conn, BUFFER, bytes);
    }

    /// Takes what was sent.
    pub(super) fn sent(&mut self, conn: ConnId) -> Vec<u8> {
        let connection = self.io.connection(conn);
        let (bytes, unreported) = (std::mem::take(&mut connection.sent), std::mem::take(&mut connection.unreported));
        self.worker.sent(&mut self.io, conn, unreported);
        bytes
    }

    /// Somebody connects, and says nothing.
    pub(super) fn connects(&mut self) -> ConnId {
        let client = self.io.open_client();
        self.worker.accepted(&mut self.io, client, Peer::Tcp([127, 0, 0, 1].into(), 9));
        client
    }

    /// A client that asks to be let in.
    pub(super) fn client(&mut self) -> ConnId {
        let client = self.connects();
        let mut bytes = Vec::new();
        write::startup(&mut bytes, (3, 0), [("user", "app"), ("database", "app")]);
        self.arrives(client, &bytes);
        client
    }

    /// A connection comes about.
    pub(super) fn connected(&mut self, conn: ConnId) {
        self.io.connection(conn).stage = Stage::Open;
        self.worker.connected(&mut self.io, conn);
    }

    /// Connections that core has opened and that have not come about.
    pub(super) fn connecting(&self) -> Vec<ConnId> {
        self.io.alive().filter(|(_, c)| c.stage == Stage::Connecting).map(|(conn, _)| conn).collect()
    }

    pub(super) fn is_alive(&self, conn: ConnId) -> bool {
        self.io.alive().any(|(alive, _)| alive == conn)
    }

    /// A server lets us in.
    pub(super) fn let_in(&mut self, server: ConnId) {
        self.connected(server);
        self.sent(server);
        let mut bytes = Vec::new();
        write::authentication_ok(&mut bytes);
        write::parameter_status(&mut bytes, "server_version", "15.20");
        write::backend_key_data(&mut bytes, 4711, &[1, 2, 3, 4]);
        write::ready_for_query(&mut bytes, TransactionStatus::Idle);
        self.arrives(server, &bytes);
    }

    /// A client that has logged in and is in a transaction, and its server.
    pub(super) fn in_transaction(&mut self) -> (ConnId, ConnId) {
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

/// Those of one pool of one server, but for what is changed.
pub(super) fn tables(change: impl FnOnce(&mut EngineConfig)) -> Arc<Tables> {
    let mut config = config(AuthMethod::Trust, PoolMode::Transaction, 1);
    change(&mut config);
    Arc::new(Tables::build(config, None, &mut |out| out.fill(7)).expect("the configuration is sound"))
}
