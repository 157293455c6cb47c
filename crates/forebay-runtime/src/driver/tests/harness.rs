//! Drivers on threads of their own, with a small consumer in place of core's worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_core::command::{Command, CommandId};
use forebay_core::config::{Listen, TcpOptions};
use forebay_core::ids::{BufId, ConnId, QuestionId, WorkerId};
use forebay_core::io::{Close, ClosedBy, Endpoint, Io, Peer, Slice, TlsInfo, TlsRole};
use forebay_core::question::Answer;
use forebay_core::time::Instant;
use forebay_core::worker::Message;

use crate::driver::backend::Backend;
use crate::driver::table::Flags;
use crate::driver::{Driver, Handover};
use crate::hub::{Hub, Mail};
use crate::inputs::Inputs;
use crate::listen::{Listeners, UnixFile};
use crate::tls::context::Contexts;

/// Longest that a test waits for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What a consumer does with a client.
#[derive(Clone)]
pub(super) enum Role {
    /// Sends back what comes.
    Echo,
    /// Sends back a copy of what comes, as bytes of its own.
    Copy,
    /// Connects each client to this endpoint, and stops reading one side while the other holds this many bytes.
    Relay(Endpoint, usize),
    /// Keeps what comes, and reads nothing more before it is told to.
    Sink,
    /// Closes with these words after the first bytes.
    Refuse(&'static str),
    /// As `Echo`, but each received buffer is kept until the end.
    Hoard,
    /// Panics at the word `panic`, else echoes.
    Fragile,
    /// Accepts TLS at once; then echoes.
    TlsEcho { direct: bool },
    /// Opens a connection to this endpoint for the first client, with this TLS role, and relays.
    TlsRelay(Endpoint, TlsRole),
    /// Gives each client to the next worker after each piece, which echoes it first.
    Pass,
    /// The same over TLS.
    TlsPass,
}

/// What a test can look at.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    Accepted(ConnId, Peer),
    Connected,
    Closed(ConnId, ClosedBy),
    TlsReady(String, Vec<u8>),
    Detached,
    StayedBehind,
    Answered(QuestionId, String),
    Ticked(Instant),
    Commanded(CommandId),
}

/// Orders of a test to a consumer, run on its thread.
pub(super) type Order<B> = Box<dyn FnOnce(&mut Consumer<B>, &mut Driver<B>) + Send>;

pub(super) struct Consumer<B: Backend> {
    role: Role,
    pub(super) id: WorkerId,
    workers: u16,
    seen: Sender<Seen>,
    pub(super) orders: Arc<Mutex<Vec<Order<B>>>>,
    /// The other side of a relayed connection.
    pub(super) peers: HashMap<ConnId, ConnId>,
    /// Received before the other side was there.
    early: HashMap<ConnId, Vec<u8>>,
    unsent: HashMap<ConnId, usize>,
    paused: HashMap<ConnId, ConnId>,
    /// Most bytes that were unsent towards one connection.
    pub(super) unsent_max: usize,
    pub(super) received: usize,
    passing: HashMap<ConnId, ()>,
    pub(super) ticks: Option<Instant>,
}

impl<B: Backend> Consumer<B> {
    fn see(&self, seen: Seen) {
        // A test that has ended looks at nothing.
        let _ = self.seen.send(seen);
    }

    fn forward(&mut self, io: &mut Driver<B>, from: ConnId, buf: BufId, data: &[u8], limit: usize) {
        let Some(&to) = self.peers.get(&from) else {
            self.early.entry(from).or_default().extend_from_slice(data);
            return;
        };
        io.send(to, &[Slice::Received { buf, start: 0, end: data.len() as u32 }]);
        let unsent = self.unsent.entry(to).or_default();
        *unsent += data.len();
        self.unsent_max = self.unsent_max.max(*unsent);
        if *unsent > limit && !self.paused.contains_key(&to) {
            self.paused.insert(to, from);
            io.pause_read(from);
        }
    }
}

impl<B: Backend> Inputs<Driver<B>> for Consumer<B> {
    fn tick(&mut self, io: &mut Driver<B>, now: Instant) {
        let orders = std::mem::take(&mut *self.orders.lock().expect("no panic before"));
        for order in orders {
            order(self, io);
        }
        if self.ticks.is_some_and(|at| at <= now) {
            self.ticks = None;
            self.see(Seen::Ticked(now));
        }
    }

    fn turn_end(&mut self, _: &mut Driver<B>) {}

    fn accepted(&mut self, io: &mut Driver<B>, conn: ConnId, peer: Peer) {
        self.see(Seen::Accepted(conn, peer));
        match &self.role {
            Role::Relay(endpoint, _) | Role::TlsRelay(endpoint, _) => {
                let server = io.connect(endpoint);
                self.peers.insert(server, conn);
            }
            Role::TlsEcho { direct: false } | Role::TlsPass if io.table.conn(conn.slot).tls.is_none() => {
                io.start_tls(conn, TlsRole::Accept { direct: false }, &[]);
                // Here to connect is to ask for TLS, so that nothing can have come before.
                io.table.conn(conn.slot).clear(Flags::TLS_HELD);
            }
            Role::Sink => io.pause_read(conn),
            _ => {}
        }
    }

    fn received(&mut self, io: &mut Driver<B>, conn: ConnId, buf: BufId, data: &[u8]) {
        self.received += data.len();
        let whole = Slice::Received { buf, start: 0, end: data.len() as u32 };
        match &self.role {
            Role::Relay(_, limit) => {
                let limit = *limit;
                self.forward(io, conn, buf, data, limit);
            }
            Role::TlsRelay(..) => self.forward(io, conn, buf, data, usize::MAX),
            Role::Copy => io.send(conn, &[Slice::Bytes(data)]),
            Role::Sink => {}
            Role::Refuse(words) => {
                io.send(conn, &[Slice::Bytes(words.as_bytes())]);
                io.close(conn, Close::AfterSend);
                self.see(Seen::Closed(conn, ClosedBy::Peer));
            }
            Role::Hoard => {
                io.send(conn, &[whole]);
                return;
            }
            Role::Fragile => {
                assert!(data != b"panic", "asked to");
                io.send(conn, &[whole]);
            }
            Role::TlsEcho { direct: true } if !self.passing.contains_key(&conn) => {
                self.passing.insert(conn, ());
                io.start_tls(conn, TlsRole::Accept { direct: true }, data);
            }
            Role::Echo | Role::TlsEcho { .. } => io.send(conn, &[whole]),
            Role::Pass | Role::TlsPass => {
                io.send(conn, &[whole]);
                if self.passing.insert(conn, ()).is_some() {
                    self.see(Seen::StayedBehind);
                }
                io.detach(conn);
            }
        }
        io.release(buf);
    }

    fn sent(&mut self, io: &mut Driver<B>, conn: ConnId, bytes: usize) {
        let Some(unsent) = self.unsent.get_mut(&conn) else { return };
        *unsent = unsent.checked_sub(bytes).expect("no more is sent than was queued");
        if *unsent == 0
            && let Some(from) = self.paused.remove(&conn)
        {
            io.resume_read(from);
        }
    }

    fn connected(&mut self, io: &mut Driver<B>, server: ConnId) {
        self.see(Seen::Connected);
        if let Role::TlsRelay(_, role) = &self.role {
            io.start_tls(server, role.clone(), &[]);
            return;
        }
        if let Some(&client) = self.peers.get(&server) {
            self.peers.insert(client, server);
            if let Some(early) = self.early.remove(&client) {
                io.send(server, &[Slice::Bytes(&early)]);
                *self.unsent.entry(server).or_default() += early.len();
            }
        }
    }

    fn closed(&mut self, io: &mut Driver<B>, conn: ConnId, by: ClosedBy) {
        self.see(Seen::Closed(conn, by));
        if let Some(other) = self.peers.remove(&conn) {
            self.peers.remove(&other);
            io.close(other, Close::AfterSend);
        }
        self.unsent.remove(&conn);
        self.paused.remove(&conn);
    }

    fn tls_ready(&mut self, io: &mut Driver<B>, conn: ConnId, info: TlsInfo) {
        self.see(Seen::TlsReady(info.description.to_string(), info.certificate_hash.to_vec()));
        if let Some(&client) = self.peers.get(&conn) {
            self.peers.insert(client, conn);
            if let Some(early) = self.early.remove(&client) {
                io.send(conn, &[Slice::Bytes(&early)]);
                *self.unsent.entry(conn).or_default() += early.len();
            }
        }
    }

    fn detached(&mut self, io: &mut Driver<B>, conn: ConnId, mut handover: Handover) {
        self.see(Seen::Detached);
        handover.carry();
        if let Some(tls) = handover.tls() {
            // As another process would get it.
            let fd = handover.fd.try_clone().expect("a descriptor");
            let arrived = Handover::arrived(fd, handover.unsent().to_vec(), handover.unsent_plain(), Some(&tls));
            handover = arrived.expect("what was written is read");
        }
        self.passing.remove(&conn);
        io.hub.post(WorkerId((self.id.0 + 1) % self.workers), Mail::Client(handover, Peer::Unix(None)));
    }

    fn answer(&mut self, _: &mut Driver<B>, id: QuestionId, answer: Answer) {
        self.see(Seen::Answered(id, format!("{answer:?}")));
    }

    fn told(&mut self, _: &mut Driver<B>, _: WorkerId, _: Message<Handover>) {}

    fn command(&mut self, _: &mut Driver<B>, id: CommandId, _: Command) {
        self.see(Seen::Commanded(id));
    }
}

/// Running drivers, stopped when dropped.
pub(super) struct World<B: Backend> {
    pub(super) hub: Arc<Hub>,
    pub(super) address: SocketAddr,
    pub(super) unix: String,
    pub(super) seen: Receiver<Seen>,
    orders: Vec<Arc<Mutex<Vec<Order<B>>>>>,
    threads: Vec<JoinHandle<()>>,
    _file: Option<UnixFile>,
}

/// How a world is set up.
pub(super) struct Setup {
    pub(super) workers: u16,
    pub(super) buffers: u32,
    pub(super) buffer_size: u32,
    pub(super) tls: Contexts,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { workers: 1, buffers: 64, buffer_size: 16 * 1024, tls: Contexts::default() }
    }
}

impl<B: Backend + 'static> World<B> {
    pub(super) fn new(role: Role) -> World<B> {
        World::with(role, Setup::default())
    }

    pub(super) fn with(role: Role, setup: Setup) -> World<B> {
        let folder = std::env::temp_dir().join(format!("fb-{}-{:x}", std::process::id(), unique()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let listen = Listen {
            addresses: vec!["127.0.0.1".to_owned()],
            port: 0,
            unix: Some(folder.display().to_string()),
            unix_mode: 0o600,
            unix_group: None,
            backlog: 1024,
            reuse_port: false,
            proxy_from: Vec::new(),
            tls: None,
        };
        let bound =
            Listeners::bind(&listen, &TcpOptions::default(), setup.workers, B::NONBLOCKING).expect("a free port");
        let hub = Arc::new(Hub::start(setup.workers, setup.tls, 1_000_000, None).expect("threads"));
        let (sender, seen) = channel();
        let mut orders = Vec::new();
        let mut threads = Vec::new();
        for (i, listeners) in bound.by_worker.into_iter().enumerate() {
            let list: Arc<Mutex<Vec<Order<B>>>> = Arc::default();
            orders.push(list.clone());
            let (hub, sender, role, id) = (hub.clone(), sender.clone(), role.clone(), WorkerId(i as u16));
            let run = move || {
                let mut consumer = Consumer::<B> {
                    role,
                    id,
                    workers: setup.workers,
                    seen: sender,
                    orders: list,
                    peers: HashMap::new(),
                    early: HashMap::new(),
                    unsent: HashMap::new(),
                    paused: HashMap::new(),
                    unsent_max: 0,
                    received: 0,
                    passing: HashMap::new(),
                    ticks: None,
                };
                let mut driver =
                    Driver::<B>::open(hub, id, listeners, setup.buffers, setup.buffer_size).expect("a driver");
                driver.run(&mut consumer);
            };
            threads.push(std::thread::spawn(run));
        }
        World {
            hub,
            address: bound.addresses[0].parse().expect("an address"),
            unix: bound.addresses[1].clone(),
            seen,
            orders,
            threads,
            _file: bound.unix,
        }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp { host: "127.0.0.1".into(), port: self.address.port() }
    }

    /// Runs something on the worker's thread and returns what it returns.
    pub(super) fn on<T: Send + 'static>(
        &self,
        worker: usize,
        run: impl FnOnce(&mut Consumer<B>, &mut Driver<B>) -> T + Send + 'static,
    ) -> T {
        let (sender, receiver) = channel();
        self.order(worker, move |consumer, driver| {
            let _ = sender.send(run(consumer, driver));
        });
        receiver.recv_timeout(PATIENCE).expect("the worker ran it")
    }

    /// Has something run at the beginning of the worker's next turn.
    pub(super) fn order(&self, worker: usize, run: impl FnOnce(&mut Consumer<B>, &mut Driver<B>) + Send + 'static) {
        self.orders[worker].lock().expect("no panic before").push(Box::new(run));
        // Any mail wakes the worker; this one answers a question that was never asked.
        let nothing = Mail::Answer(QuestionId(u64::MAX), Answer::Failed("wake".into()));
        self.hub.post(WorkerId(worker as u16), nothing);
    }

    /// Waits for something that a consumer saw.
    pub(super) fn wait<T>(&self, mut wanted: impl FnMut(&Seen) -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut others = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.seen.recv_timeout(left) {
                Ok(seen) => match wanted(&seen) {
                    Some(found) => return found,
                    None => others.push(seen),
                },
                Err(_) => panic!("not seen; instead: {others:?}"),
            }
        }
    }

    pub(super) fn wait_closed(&self) -> ClosedBy {
        self.wait(|seen| if let Seen::Closed(_, by) = seen { Some(by.clone()) } else { None })
    }
}

impl<B: Backend> Drop for World<B> {
    fn drop(&mut self) {
        for i in 0..self.threads.len() {
            self.hub.post(WorkerId(i as u16), Mail::Stop);
        }
        for thread in self.threads.drain(..) {
            let result = thread.join();
            if !std::thread::panicking() {
                result.expect("the worker did not panic");
            }
        }
        if let Some(folder) = std::path::Path::new(&self.unix).parent() {
            let _ = std::fs::remove_file(&self.unix);
            let _ = std::fs::remove_dir(folder);
        }
    }
}

fn unique() -> u64 {
    let mut bytes = [0; 8];
    crate::random::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// A pattern of which any shift is noticed.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
