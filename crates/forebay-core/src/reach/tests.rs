//! Endpoints that fail, move and come back, as clients of their pools feel it.

use std::sync::Arc;

use forebay_pgwire::write;

use crate::config::{AuthMethod, EngineConfig, PoolMode};
use crate::fuzz_entry::memory::{BUFFER, MemoryIo, Stage, config};
use crate::ids::{ConnId, WorkerId};
use crate::io::Peer;
use crate::stats::WorkerStats;
use crate::tables::Tables;
use crate::time::Instant;
use crate::worker::{Shared, Worker};

/// One worker, and what it has begun.
struct World {
    worker: Worker<MemoryIo>,
    io: MemoryIo,
}

impl World {
    fn new(change: impl FnOnce(&mut EngineConfig)) -> World {
        let stats = Arc::new(WorkerStats::default());
        let mut worker = Worker::new(WorkerId(0), tables(change), Arc::new(Shared::new(1)), stats);
        let mut io = MemoryIo::default();
        worker.tick(&mut io, Instant(1));
        World { worker, io }
    }

    fn client_comes(&mut self, database: &str) -> ConnId {
        let conn = self.io.open_client();
        self.worker.accepted(&mut self.io, conn, Peer::Tcp([127, 0, 0, 1].into(), 9));
        let mut hello = Vec::new();
        write::startup(&mut hello, (3, 0), [("user", "app"), ("database", database)]);
        self.arrives(conn, &hello);
        conn
    }

    fn arrives(&mut self, conn: ConnId, bytes: &[u8]) {
        self.io.lend(bytes);
        self.worker.received(&mut self.io, conn, BUFFER, bytes);
        self.worker.turn_end(&mut self.io);
        self.io.assert_released();
    }

    /// A connection that is being opened.
    fn opening(&self) -> Option<ConnId> {
        self.io.alive().find(|(_, c)| c.stage == Stage::Connecting).map(|(conn, _)| conn)
    }

    /// It stands; what is sent on it first.
    fn connected(&mut self, conn: ConnId) -> Vec<u8> {
        self.io.connection(conn).stage = Stage::Open;
        self.worker.connected(&mut self.io, conn);
        self.worker.turn_end(&mut self.io);
        self.sent(conn)
    }

    fn sent(&mut self, conn: ConnId) -> Vec<u8> {
        let alive = self.io.alive().any(|(other, _)| other == conn);
        if alive { std::mem::take(&mut self.io.connection(conn).sent) } else { Vec::new() }
    }

    fn closed(&mut self, conn: ConnId) {
        self.io.end(conn);
        self.worker.closed(&mut self.io, conn, crate::io::ClosedBy::Peer);
        self.worker.turn_end(&mut self.io);
    }

    fn at(&mut self, us: u64) {
        self.worker.tick(&mut self.io, Instant(us));
        self.worker.turn_end(&mut self.io);
    }
}

fn tables(change: impl FnOnce(&mut EngineConfig)) -> Arc<Tables> {
    let mut config = config(AuthMethod::Trust, PoolMode::Transaction, 1);
    change(&mut config);
    Arc::new(Tables::build(config, None, &mut |out| out.fill(7)).expect("the configuration is sound"))
}

fn refused(sqlstate: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::error_response(&mut bytes, &[(b'S', b"FATAL"), (b'C', sqlstate.as_bytes()), (b'M', b"no")]);
    bytes
}

/// How an opening ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Unconnected,
    LateToConnect,
    ClosedInLogin,
    LateInLogin,
    NoTls,
    Said(&'static str),
}

/// One database with a wrong name, certificate or query would hold up all others of its host.
#[test]
fn what_fails_for_one_pool_holds_no_other_up() {
    let both = |config: &mut EngineConfig| {
        let other = config.databases[0].clone();
        config.databases.push(crate::config::DatabaseConfig { name: "other".into(), ..other });
    };
    let ends = [
        (End::Unconnected, true),
        (End::LateToConnect, true),
        (End::Said("57P03"), true),
        (End::ClosedInLogin, false),
        (End::LateInLogin, false),
        (End::NoTls, false),
        (End::Said("08P01"), false),
        (End::Said("53300"), false),
        (End::Said("58000"), false),
    ];
    for (end, is_of_host) in ends {
        let mut world = World::new(|config| {
            both(config);
            if matches!(end, End::NoTls) {
                let mode = crate::config::TlsMode::Require;
                config.server_tls = vec![crate::config::ServerTls { mode, ca: None, certificate: None, key: None }];
            }
        });
        world.client_comes("app");
        let server = world.opening().expect("a server is opened");
        match end {
            End::Unconnected => world.closed(server),
            End::LateToConnect => world.at(15_100_000),
            _ => {
                world.connected(server);
                match end {
                    End::ClosedInLogin => world.closed(server),
                    End::NoTls => world.arrives(server, b"N"),
                    End::Said(sqlstate) => world.arrives(server, &refused(sqlstate)),
                    _ => world.at(15_100_000),
                }
            }
        }
        assert!(world.opening().is_none(), "{end:?}: the pool waits");
        world.client_comes("other");
        assert_eq!(world.opening().is_none(), is_of_host, "{end:?}");
    }
}
