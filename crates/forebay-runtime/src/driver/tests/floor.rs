//! The driver's own cost: a bare relay over it, to be measured against `bench/floor`. Not a test of anything.
//!
//! `FLOOR_LISTEN=127.0.0.1:27433 FLOOR_SERVER=127.0.0.1:5432 cargo test --release -p forebay-runtime floor -- --ignored`
//! relays until it is killed; FLOOR_IO=epoll takes the other driver.

use std::net::SocketAddr;
use std::sync::Arc;

use forebay_core::command::{Command, CommandId};
use forebay_core::config::{Listen, TcpOptions};
use forebay_core::ids::{BufId, ConnId, QuestionId, WorkerId};
use forebay_core::io::{Close, ClosedBy, Endpoint, Io, Peer, Slice, TlsInfo};
use forebay_core::question::Answer;
use forebay_core::time::Instant;
use forebay_core::worker::Message;

use crate::driver::backend::Backend;
use crate::driver::{Driver, Handover};
use crate::hub::Hub;
use crate::inputs::Inputs;
use crate::listen::Listeners;
use crate::tls::context::Contexts;

/// Unwritten bytes towards one side above which the other is not read.
const LIMIT: usize = 512 * 1024;

#[derive(Clone, Default)]
struct Joined {
    other: Option<ConnId>,
    early: Vec<u8>,
    unsent: usize,
    is_holding: bool,
}

struct Floor {
    server: Endpoint,
    joined: Vec<Joined>,
}

impl Floor {
    fn at(&mut self, conn: ConnId) -> &mut Joined {
        let slot = conn.slot as usize;
        if self.joined.len() <= slot {
            self.joined.resize(slot + 1, Joined::default());
        }
        &mut self.joined[slot]
    }
}

impl<B: Backend> Inputs<Driver<B>> for Floor {
    fn tick(&mut self, _: &mut Driver<B>, _: Instant) {}
    fn turn_end(&mut self, _: &mut Driver<B>) {}

    fn accepted(&mut self, io: &mut Driver<B>, client: ConnId, _: Peer) {
        let server = io.connect(&self.server);
        *self.at(client) = Joined::default();
        *self.at(server) = Joined { other: Some(client), ..Joined::default() };
    }

    fn received(&mut self, io: &mut Driver<B>, conn: ConnId, buf: BufId, data: &[u8]) {
        match self.at(conn).other {
            Some(to) => {
                io.send(to, &[Slice::Received { buf, start: 0, end: data.len() as u32 }]);
                let joined = self.at(to);
                joined.unsent += data.len();
                if joined.unsent > LIMIT && !joined.is_holding {
                    joined.is_holding = true;
                    io.pause_read(conn);
                }
            }
            None => self.at(conn).early.extend_from_slice(data),
        }
        io.release(buf);
    }

    fn sent(&mut self, io: &mut Driver<B>, conn: ConnId, bytes: usize) {
        let joined = self.at(conn);
        joined.unsent = joined.unsent.saturating_sub(bytes);
        if joined.is_holding && joined.unsent < LIMIT / 2 {
            joined.is_holding = false;
            if let Some(from) = joined.other {
                io.resume_read(from);
            }
        }
    }

    fn connected(&mut self, io: &mut Driver<B>, server: ConnId) {
        let Some(client) = self.at(server).other else { return };
        let joined = self.at(client);
        joined.other = Some(server);
        let early = std::mem::take(&mut joined.early);
        io.send(server, &[Slice::Bytes(&early)]);
    }

    fn closed(&mut self, io: &mut Driver<B>, conn: ConnId, _: ClosedBy) {
        if let Some(other) = self.at(conn).other.take() {
            self.at(other).other = None;
            io.close(other, Close::Now);
        }
    }

    fn tls_ready(&mut self, _: &mut Driver<B>, _: ConnId, _: TlsInfo) {}
    fn detached(&mut self, _: &mut Driver<B>, _: ConnId, _: Handover) {}
    fn answer(&mut self, _: &mut Driver<B>, _: QuestionId, _: Answer) {}
    fn told(&mut self, _: &mut Driver<B>, _: WorkerId, _: Message<Handover>) {}
    fn command(&mut self, _: &mut Driver<B>, _: CommandId, _: Command) {}
}

fn relay<B: Backend>(listen: SocketAddr, server: Endpoint) {
    let listen = Listen {
        addresses: vec![listen.ip().to_string()],
        port: listen.port(),
        unix: None,
        unix_mode: 0,
        unix_group: None,
        backlog: 4096,
        reuse_port: false,
        proxy_from: Vec::new(),
        tls: None,
    };
    let mut bound = Listeners::bind(&listen, &TcpOptions::default(), 1, B::NONBLOCKING).expect("the port is free");
    let hub = Arc::new(Hub::start(1, Contexts::default(), 0).expect("threads"));
    let listeners = bound.by_worker.remove(0);
    let mut driver = Driver::<B>::open(hub, WorkerId(0), listeners, 1024, 16 * 1024).expect("a driver");
    driver.run(&mut Floor { server, joined: Vec::new() });
}

#[test]
#[ignore = "runs until it is killed; see the module's text"]
fn floor() {
    let listen = std::env::var("FLOOR_LISTEN").expect("FLOOR_LISTEN").parse().expect("an address");
    let server = std::env::var("FLOOR_SERVER").expect("FLOOR_SERVER");
    let server = match server.rsplit_once(':') {
        Some((host, port)) => Endpoint::Tcp { host: host.into(), port: port.parse().expect("a port") },
        None => Endpoint::Unix(server.as_str().into()),
    };
    match std::env::var("FLOOR_IO").as_deref() {
        Ok("epoll") => relay::<crate::driver::epoll::Epoll>(listen, server),
        _ => relay::<crate::driver::uring::Uring>(listen, server),
    }
}
