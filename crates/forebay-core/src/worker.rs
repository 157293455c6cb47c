//! The loop: bytes → frame → classify → checkout → relay → checkin, for one thread's clients and servers.
//!
//! | verb | where |
//! |---|---|
//! | frame | [`forebay_pgwire::frame`]: a message's tag and length, before anything is believed of it |
//! | classify | [`crate::request`]: what the message needs, renames, asks for |
//! | checkout | [`crate::checkout`]: a server for the client, or a place in the queue |
//! | relay | [`crate::relay`], both ways; [`crate::reply`] pairs replies with requests; [`crate::lease`]: a request ends |
//! | checkin | [`crate::checkout`]: the server to the oldest waiter, or back among the idle |
//!
//! Beside the loop: [`crate::supply`] (where servers come from), [`crate::flow`] (back-pressure), [`crate::login`]
//! (clients), [`crate::connect`] (servers), [`crate::reach`] (endpoints that let nobody in), [`crate::hand_over`] (from
//! one client of a server to the next), [`crate::tracking`] (what statements leave in a session),
//! [`crate::leave`] (a side goes away), [`crate::replication`], [`crate::cancel`], [`crate::deadline`], [`crate::silent`], [`crate::forgetting`] (pools that nobody uses), [`crate::console`], [`crate::lend`]
//! (between workers), [`crate::listen`] (notifications), [`crate::order`] (commands). A driver calls the inputs below, one
//! at a time.

use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::auth::Credential;
use crate::cancel::{Cancel, Request, Stage};
use crate::clearing::Clearing;
use crate::cluster::roles::Known;
use crate::command::{Command, CommandId};
use crate::crowd::Arrivals;
use crate::deadline::Alarm;
use crate::event::{Event, Field, Level};
use crate::ids::{BufId, ConnId, QuestionId, WorkerId};
use crate::io::{Close, ClosedBy, Io, Peer, TlsInfo};
use crate::lend::LentServer;
use crate::listen::{Listening, Told};
use crate::misses::Source;
use crate::moving::{Arrival, Moves};
use crate::parameters::Images;
use crate::peers::{Passed, Peering};
use crate::planted::{Bug, planted};
pub use crate::pool::shared::{Legacy, Shared};
use crate::pool::{Pool, PoolId};
use crate::question::{Answer, Question};
use crate::session::batch::Batch;
use crate::session::client::{Client, ClientKey};
use crate::session::server::{Server, ServerKey};
use crate::silent::Silent;
use crate::slab::{Key, Slab};
use crate::statements::StatementCache;
use crate::stats::WorkerStats;
pub use crate::supply::Scope;
use crate::tables::Tables;
use crate::time::Instant;

/// Database and user.
pub type PoolName = (Arc<str>, Arc<str>);

/// What workers tell each other.
#[derive(Debug)]
pub enum Message<H> {
    /// The sender has a waiter and sees that the receiver has an idle server.
    Want(PoolName),
    /// There is none any more.
    NoneIdle(PoolName),
    /// A server for the receiver's oldest waiter.
    Lend(Box<LentServer>, H),
    /// The sender may not open a server within this scope while one of the receiver's is idle.
    RoomFor(Scope),
    /// The sender has a waiter, and wants to know who holds the receiver's servers.
    WhoHolds(PoolName),
    /// A permit came free, and the receiver has waiters.
    PermitFree(PoolName),
    /// A server of the pool has told what no worker knew.
    Greeting(PoolName),
    /// An endpoint lets us in again.
    EndpointWell(Arc<str>),
    /// A CancelRequest for a client of the receiver, or for a peer that is the receiver's.
    Cancel(Box<Request>),
    /// A CancelRequest that came to the receiver has come so far.
    CancelIsAt(ClientKey, Stage),
    /// Of listening.
    Listen(Box<Told>),
    /// A CancelRequest for a client of the receiver that came from elsewhere.
    CancelMoved(ClientKey, Box<Request>),
    /// A group comes from another process, or back.
    Group(Box<Arrival<H>>),
    /// The group of this number has arrived in another process.
    Arrived(u64),
    /// A database is needed without sessions.
    Clear(Clearing),
    /// Of those on their way in there are too many, in all or of one source, and the sender has none that is older.
    MakeWay(Option<Source>),
}

/// Whom a connection belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    Nobody,
    Client(ClientKey),
    Server(ServerKey),
    Cancel(Key<Cancel>),
    Passed(Key<Passed>),
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asker {
    Client(ClientKey),
    Server(ServerKey),
}

/// One thread's clients, servers and pools.
pub struct Worker<I: Io> {
    pub(crate) id: WorkerId,
    pub(crate) now: Instant,
    pub(crate) tables: Arc<Tables>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) owners: Vec<Owner>,
    pub(crate) clients: Slab<Client>,
    pub(crate) servers: Slab<Server>,
    pub(crate) cancels: Slab<Cancel>,
    pub(crate) peering: Peering,
    /// Clients by the process id that they were told, where that has a peer in it.
    pub(crate) by_pid: FxHashMap<u32, Vec<ClientKey>>,
    pub(crate) pools: Vec<Pool>,
    /// Slots of pools that were forgotten.
    pub(crate) vacant: Vec<PoolId>,
    pub(crate) pool_ids: FxHashMap<PoolName, PoolId>,
    /// Pools of replication connections.
    pub(crate) replication_ids: FxHashMap<PoolName, PoolId>,
    pub(crate) images: Images,
    pub(crate) cache: StatementCache,
    pub(crate) batch: Batch,
    pub(crate) scratch: Vec<u8>,
    /// Clients whose kept bytes can go on.
    pub(crate) ready: VecDeque<ClientKey>,
    /// Clients that have had their part of this turn.
    pub(crate) deferred: Vec<ClientKey>,
    /// Clients that may have written, parted from their servers in this turn.
    pub(crate) wrote: Vec<ClientKey>,
    /// Servers that a client has just been parted from.
    pub(crate) freed: Vec<ServerKey>,
    /// Pools whose waiters are looked at next: a server has left, or somebody waits again.
    pub(crate) vacated: Vec<PoolId>,
    pub(crate) alarms: BinaryHeap<Alarm>,
    pub(crate) questions: FxHashMap<QuestionId, Asker>,
    pub(crate) last_question: u64,
    /// Answers of Python, by database and user: a source may tell users of one name in two databases apart.
    pub(crate) secrets: FxHashMap<PoolName, (Option<Credential>, Instant)>,
    pub(crate) last_id: u64,
    pub(crate) is_draining: bool,
    /// Nothing is read but of the console, until RESUME.
    pub(crate) is_suspended: bool,
    /// Since when, if it is so.
    pub(crate) suspended_at: Instant,
    /// Takes no new clients; those that are there stay.
    pub(crate) is_closed: bool,
    /// Databases that take no new clients until ENABLE.
    pub(crate) disabled: Vec<Arc<str>>,
    /// Commands that are answered when what they wait for has come.
    pub(crate) pending: Vec<(CommandId, Command)>,
    /// How many orders to close the servers that are there have come: the same over all workers.
    pub(crate) generation: u64,
    /// Databases that wait for RESUME; `None`: all.
    pub(crate) paused: Vec<Option<Arc<str>>>,
    pub(crate) next_sweep: Instant,
    pub(crate) counted_at: Instant,
    /// Until then nothing is taken for late: the worker itself was.
    pub(crate) hears_until: Instant,
    pub(crate) silent: Silent,
    pub(crate) arrivals: Arrivals,
    pub(crate) nobody: Arc<str>,
    pub(crate) listening: Listening,
    pub(crate) moving: Moves<I::Handover>,
    /// The addresses of names, as they were told last.
    pub(crate) addresses: FxHashMap<Arc<str>, Arc<[IpAddr]>>,
    /// The roles of endpoints, by database.
    pub(crate) clusters: FxHashMap<Arc<str>, Known>,
    io: std::marker::PhantomData<fn(&mut I)>,
}

impl<I: Io> Worker<I> {
    /// A worker without connections.
    pub fn new(id: WorkerId, tables: Arc<Tables>, shared: Arc<Shared>, stats: Arc<WorkerStats>) -> Self {
        shared.name_at_most(tables.config.limits.metric_pools_max);
        let cache = StatementCache::new(shared.registry.clone(), tables.config.limits.statement_bytes_max);
        Worker {
            id,
            now: Instant(0),
            tables,
            stats,
            owners: Vec::new(),
            clients: Slab::default(),
            servers: Slab::default(),
            cancels: Slab::default(),
            peering: Peering::default(),
            by_pid: FxHashMap::default(),
            pools: Vec::new(),
            vacant: Vec::new(),
            pool_ids: FxHashMap::default(),
            replication_ids: FxHashMap::default(),
            images: Images::default(),
            cache,
            batch: Batch::default(),
            scratch: Vec::new(),
            ready: VecDeque::new(),
            deferred: Vec::new(),
            wrote: Vec::new(),
            freed: Vec::new(),
            vacated: Vec::new(),
            alarms: BinaryHeap::new(),
            questions: FxHashMap::default(),
            last_question: 0,
            secrets: FxHashMap::default(),
            last_id: shared.first_id / u64::from(shared.workers.max(1)),
            shared,
            is_draining: false,
            is_suspended: false,
            suspended_at: Instant(0),
            is_closed: false,
            disabled: Vec::new(),
            pending: Vec::new(),
            generation: 0,
            paused: Vec::new(),
            next_sweep: Instant(0),
            counted_at: Instant(0),
            hears_until: Instant(0),
            silent: Silent::default(),
            arrivals: Arrivals::default(),
            nobody: "".into(),
            listening: Listening::default(),
            moving: Moves::default(),
            addresses: FxHashMap::default(),
            clusters: FxHashMap::default(),
            io: std::marker::PhantomData,
        }
    }

    /// Begins a turn of the loop: `now` holds until the next call. Fires what is due. Called at every turn, before
    /// its inputs.
    pub fn tick(&mut self, io: &mut I, now: Instant) {
        self.now = now;
        self.stats.turns.add(1);
        self.stats.last_turn_us.set(now.0);
        if self.is_suspended {
            self.command_progress(io);
        } else {
            if self.is_alarm_due() {
                self.fire_alarms(io);
            }
            if now >= self.next_sweep {
                self.sweep(io);
            }
        }
        if !self.wrote.is_empty() {
            self.note_written();
        }
        if !self.deferred.is_empty() {
            self.end_deferral();
        }
        self.run_ready(io);
    }

    /// Those who had had their part of the last turn go on.
    #[cold]
    fn end_deferral(&mut self) {
        for key in std::mem::take(&mut self.deferred) {
            if let Some(client) = self.clients.get_mut(key) {
                client.is_deferred = false;
                self.ready.push_back(key);
            }
        }
    }

    /// Ends a turn: called after its inputs, before the driver waits.
    pub fn turn_end(&mut self, io: &mut I) {
        self.set_alarm(io);
    }

    /// A client connected.
    pub fn accepted(&mut self, io: &mut I, conn: ConnId, peer: Peer) {
        self.stats.accepted.add(1);
        self.client_accepted(io, conn, peer);
        self.run_ready(io);
    }

    /// Bytes came. `data` are the bytes of `buf`; core owes one `release(buf)`.
    pub fn received(&mut self, io: &mut I, conn: ConnId, buf: BufId, data: &[u8]) {
        match self.owner(conn) {
            Owner::Client(key) => self.client_received(io, key, buf, data),
            Owner::Server(key) => self.server_received(io, key, buf, data),
            Owner::Cancel(key) => self.cancel_received(io, key, data),
            Owner::Passed(_) | Owner::Nobody => {}
        }
        io.release(buf);
        if planted(Bug::BufferReleasedTwice) {
            io.release(buf);
        }
        self.run_ready(io);
    }

    /// `bytes` more of what was sent on `conn` are written.
    pub fn sent(&mut self, io: &mut I, conn: ConnId, bytes: usize) {
        match self.owner(conn) {
            Owner::Client(key) => self.client_sent(io, key, bytes),
            Owner::Server(key) => self.server_sent(io, key, bytes),
            Owner::Cancel(_) | Owner::Passed(_) | Owner::Nobody => {}
        }
        self.run_ready(io);
    }

    /// `Io::connect` succeeded.
    pub fn connected(&mut self, io: &mut I, conn: ConnId) {
        match self.owner(conn) {
            Owner::Server(key) => self.server_connected(io, key),
            Owner::Cancel(key) => self.cancel_connected(io, key),
            Owner::Passed(key) => self.passed_connected(io, key),
            Owner::Client(_) | Owner::Nobody => {}
        }
        self.run_ready(io);
    }

    /// A connection ended, or did not come about.
    pub fn closed(&mut self, io: &mut I, conn: ConnId, by: ClosedBy) {
        let owner = self.owner(conn);
        self.set_owner(conn, Owner::Nobody);
        match owner {
            Owner::Client(key) => self.client_closed(io, key, by),
            Owner::Server(key) => self.server_closed(io, key, by),
            Owner::Cancel(key) => self.cancel_closed(io, key),
            Owner::Passed(key) => self.passed_closed(io, key, &by),
            Owner::Nobody => {}
        }
        self.run_ready(io);
    }

    /// `Io::start_tls` succeeded; what is received from here on is plaintext.
    pub fn tls_ready(&mut self, io: &mut I, conn: ConnId, info: TlsInfo) {
        match self.owner(conn) {
            Owner::Client(key) => self.client_tls_ready(io, key, info),
            Owner::Server(key) => self.server_tls_ready(io, key, info),
            Owner::Cancel(key) => self.cancel_tls_ready(io, key),
            Owner::Passed(_) | Owner::Nobody => {}
        }
        self.run_ready(io);
    }

    /// `Io::detach` succeeded; the id is dead.
    pub fn detached(&mut self, io: &mut I, conn: ConnId, handover: I::Handover) {
        let owner = self.owner(conn);
        self.set_owner(conn, Owner::Nobody);
        match owner {
            Owner::Server(key) => self.server_detached(io, key, handover),
            Owner::Client(key) => self.client_detached(io, key, handover),
            Owner::Cancel(_) | Owner::Passed(_) | Owner::Nobody => {}
        }
        self.run_ready(io);
    }

    /// A question was answered.
    pub fn answer(&mut self, io: &mut I, id: QuestionId, answer: Answer) {
        let asker = match answer {
            Answer::ConsolePart(_) => self.questions.get(&id).copied(),
            _ => self.questions.remove(&id),
        };
        match asker {
            Some(Asker::Client(key)) => self.client_answered(io, key, answer),
            Some(Asker::Server(key)) => self.server_answered(io, key, answer),
            None => {}
        }
        self.run_ready(io);
    }

    /// Another worker's message.
    pub fn told(&mut self, io: &mut I, from: WorkerId, message: Message<I::Handover>) {
        match message {
            Message::Want(name) => self.lend_to(io, from, name),
            Message::NoneIdle(name) => self.none_idle(io, &name),
            Message::Lend(server, handover) => self.borrow(io, *server, handover),
            Message::RoomFor(scope) => self.make_room_for(io, &scope),
            Message::WhoHolds(name) => self.tell_holding(&name),
            Message::PermitFree(name) => self.permit_free(io, &name),
            Message::Greeting(name) => self.greeting_heard(io, &name),
            Message::EndpointWell(name) => self.endpoint_well(&name),
            Message::Cancel(request) => self.cancel_asked(io, *request),
            Message::CancelIsAt(key, stage) => self.cancel_is_at(io, key, stage),
            Message::Listen(told) => self.told_of_listening(io, from, *told),
            Message::Clear(clearing) => self.clear(io, &clearing),
            Message::MakeWay(source) => self.make_way_for(io, source),
            Message::CancelMoved(client, request) => self.cancel_moved(io, client, &request),
            Message::Group(arrival) => self.group_arrives(io, *arrival),
            Message::Arrived(number) => self.group_arrived(io, number),
        }
        self.run_ready(io);
    }

    /// A host's name has other addresses than before.
    pub fn readdressed(&mut self, io: &mut I, host: &Arc<str>, addresses: &Arc<[IpAddr]>) {
        self.close_readdressed(io, host, addresses);
        self.run_ready(io);
    }

    /// Python's order; [`Io::reply`] answers it, now or later.
    pub fn command(&mut self, io: &mut I, id: CommandId, command: Command) {
        if !matches!(command, Command::Snapshot | Command::Sockets) {
            self.call_all_off(io);
        }
        self.ordered(io, id, command);
        self.run_ready(io);
    }

    /// Lets clients go on whose server, reply or greeting has come. Steps of the loop never call each other in
    /// circles: what one makes possible for another client waits here.
    #[inline(always)]
    fn run_ready(&mut self, io: &mut I) {
        let has_served = self.freed.is_empty() && self.ready.is_empty() && self.vacated.is_empty();
        if !(has_served && self.listening.to_self.is_empty()) {
            self.run_all_ready(io);
        }
    }

    #[inline(never)]
    fn run_all_ready(&mut self, io: &mut I) {
        loop {
            if let Some(key) = self.freed.pop() {
                self.after_replies(io, key);
            } else if let Some(key) = self.ready.pop_front() {
                self.client_goes_on(io, key);
            } else if let Some(id) = self.vacated.pop() {
                self.fill_vacancy(io, id);
            } else if let Some(told) = self.listening.to_self.pop_front() {
                self.told_of_listening(io, self.id, told);
            } else {
                return;
            }
        }
    }

    pub(crate) fn owner(&self, conn: ConnId) -> Owner {
        self.owners.get(conn.slot as usize).copied().unwrap_or(Owner::Nobody)
    }

    pub(crate) fn set_owner(&mut self, conn: ConnId, owner: Owner) {
        let slot = conn.slot as usize;
        if slot >= self.owners.len() {
            self.owners.resize(slot + 1, Owner::Nobody);
        }
        self.owners[slot] = owner;
    }

    /// Closes a connection; nothing more is heard of it.
    pub(crate) fn close_conn(&mut self, io: &mut I, conn: ConnId, how: Close) {
        self.set_owner(conn, Owner::Nobody);
        io.close(conn, how);
    }

    /// A number for a client or server that no other of the engine ever has.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        let id = self.last_id * u64::from(self.shared.workers) + u64::from(self.id.0);
        self.stats.last_id.set(id);
        id
    }

    pub(crate) fn pool(&mut self, id: PoolId) -> &mut Pool {
        &mut self.pools[id.0 as usize]
    }

    pub(crate) fn ask(&mut self, io: &mut I, asker: Asker, question: Question) {
        self.last_question += 1;
        let id = QuestionId(self.last_question);
        self.questions.insert(id, asker);
        io.ask(id, question);
    }

    /// As [`Self::ask`], where nobody waits for an answer.
    pub(crate) fn tell_python(&mut self, io: &mut I, question: Question) {
        self.last_question += 1;
        io.ask(QuestionId(self.last_question), question);
    }

    pub(crate) fn log(&self, io: &mut I, level: Level, name: &'static str, fields: Vec<(&'static str, Field)>) {
        self.log_code(io, level, name, None, fields);
    }

    #[inline(never)]
    pub(crate) fn log_code(
        &self,
        io: &mut I,
        level: Level,
        name: &'static str,
        code: Option<&'static str>,
        fields: Vec<(&'static str, Field)>,
    ) {
        if level as u8 >= self.tables.config.log.level {
            io.log(Event { level, name, code, worker: self.id, fields });
        }
    }
}
