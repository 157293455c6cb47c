//! An [`Io`] in memory, for fuzz targets and benches: what is sent is kept, and nothing happens by itself.
//!
//! It holds core to the rules of the border: a released buffer is not named, a closed connection is not used, each
//! buffer is released once. A broken rule is a panic.

use std::sync::Arc;

use crate::command::{CommandId, Reply};
use crate::config::{
    Access, Arrivals, AuthMethod, AuthSettings, Console, DatabaseConfig, DnsOptions, EngineConfig, EngineSettings,
    IoDriver, Level, Limits, Listen, LoadBalance, LoadBalanceHosts, LogSettings, OnPin, PoolMode, PoolSettings,
    SecretLookup, SecretText, SequenceAffinity, TcpOptions, UserConfig,
};
use crate::event::Event;
use crate::ids::{BufId, ConnId, QuestionId, WorkerId};
use crate::io::{Close, Endpoint, Io, Slice, TlsRole};
use crate::moving::State;
use crate::question::Question;
use crate::time::Instant;
use crate::worker::Message;

/// What a connection is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its id is dead.
    Closed,
    /// `connected` or `closed` is owed.
    Connecting,
    /// Open.
    Open,
    /// `tls_ready` or `closed` is owed.
    Handshaking,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    generation: u32,
    /// What it is good for.
    pub stage: Stage,
    /// Core opened it: it leads to a server.
    pub is_outgoing: bool,
    /// Where it leads, if core has opened it.
    pub to: Option<Endpoint>,
    /// What was sent on it and not taken.
    pub sent: Vec<u8>,
    /// Bytes of them that were not reported as written.
    pub unreported: usize,
    /// It is read from.
    pub is_read: bool,
}

impl Connection {
    fn new(stage: Stage, is_outgoing: bool) -> Connection {
        let (sent, unreported) = (Vec::new(), 0);
        Connection { generation: 0, stage, is_outgoing, to: None, sent, unreported, is_read: true }
    }
}

/// Sockets, buffers, clock and luck, all in memory.
#[derive(Debug, Default)]
pub struct MemoryIo {
    connections: Vec<Connection>,
    free: Vec<u32>,
    /// The bytes of the one buffer that is lent at a time.
    buffer: Vec<u8>,
    is_lent: bool,
    /// Questions put and not answered.
    pub questions: Vec<(QuestionId, Question)>,
    /// Connections that core closed, with what was sent on them and not taken.
    pub last_words: Vec<(ConnId, Vec<u8>)>,
    /// When core wants its next tick.
    pub alarm: Option<Instant>,
    /// Names of log events.
    pub logged: Vec<&'static str>,
    /// What was told to other workers, if there are some.
    pub told: Option<Vec<(WorkerId, Message<Handed>)>>,
    /// Connections that are to be taken out.
    pub detaching: Vec<ConnId>,
    /// Groups that were handed on, if there is a process that they can go to.
    pub handed_on: Option<Vec<HandedOn>>,
    /// Orders that were answered.
    pub replies: Vec<(CommandId, Reply)>,
    /// Where servers are.
    pub remote: Option<std::net::IpAddr>,
    luck: u32,
}

/// A connection between two workers: nothing of it matters here.
#[derive(Debug)]
pub struct Handed;

/// A group for another process.
#[derive(Debug)]
pub struct HandedOn {
    /// Its number.
    pub number: u64,
    /// What was written of it.
    pub state: State,
    /// Its connections.
    pub connections: Vec<Handed>,
}

/// The one buffer.
pub const BUFFER: BufId = BufId(0);

impl MemoryIo {
    /// A client connects.
    pub fn open_client(&mut self) -> ConnId {
        self.open(false)
    }

    fn open(&mut self, is_outgoing: bool) -> ConnId {
        let stage = if is_outgoing { Stage::Connecting } else { Stage::Open };
        let slot = self.free.pop().unwrap_or(self.connections.len() as u32);
        match self.connections.get_mut(slot as usize) {
            Some(c) => {
                let generation = c.generation + 1;
                *c = Connection { generation, ..Connection::new(stage, is_outgoing) };
            }
            None => self.connections.push(Connection::new(stage, is_outgoing)),
        }
        ConnId { slot, generation: self.connections[slot as usize].generation }
    }

    /// The connections whose ids are alive.
    pub fn alive(&self) -> impl Iterator<Item = (ConnId, &Connection)> {
        let all = (0..).zip(&self.connections).filter(|(_, c)| c.stage != Stage::Closed);
        all.map(|(slot, c)| (ConnId { slot, generation: c.generation }, c))
    }

    /// The connection of an id that is alive.
    pub fn connection(&mut self, conn: ConnId) -> &mut Connection {
        let connection = &mut self.connections[conn.slot as usize];
        assert!(connection.generation == conn.generation && connection.stage != Stage::Closed, "{conn:?} is dead");
        connection
    }

    /// The connection ended: its id is dead from here on.
    pub fn end(&mut self, conn: ConnId) {
        let connection = self.connection(conn);
        connection.stage = Stage::Closed;
        connection.sent = Vec::new();
        self.free.push(conn.slot);
    }

    /// Fills the buffer. Core owes a release once it is told of it.
    pub fn lend(&mut self, bytes: &[u8]) {
        assert!(!self.is_lent, "the buffer was released");
        self.buffer.clear();
        self.buffer.extend_from_slice(bytes);
        self.is_lent = true;
    }

    /// What the last `received` owed was paid.
    pub fn assert_released(&self) {
        assert!(!self.is_lent, "a received buffer is released by the end of its input");
    }
}

impl Io for MemoryIo {
    type Handover = Handed;

    fn send(&mut self, conn: ConnId, slices: &[Slice<'_>]) {
        let connection = &mut self.connections[conn.slot as usize];
        assert!(connection.generation == conn.generation, "send on {conn:?}, whose id is dead");
        assert!(connection.stage == Stage::Open, "send on {conn:?}, which is {:?}", connection.stage);
        for slice in slices {
            let bytes = match slice {
                Slice::Bytes(bytes) => bytes,
                Slice::Received { buf, start, end } => {
                    assert!(self.is_lent && *buf == BUFFER, "send names {buf:?}, which is not lent");
                    &self.buffer[*start as usize..*end as usize]
                }
            };
            connection.unreported += bytes.len();
            connection.sent.extend_from_slice(bytes);
        }
    }

    fn release(&mut self, buf: BufId) {
        assert!(self.is_lent && buf == BUFFER, "release of {buf:?}, which is not lent");
        self.is_lent = false;
    }

    fn pause_read(&mut self, conn: ConnId) {
        self.connection(conn).is_read = false;
    }

    fn resume_read(&mut self, conn: ConnId) {
        self.connection(conn).is_read = true;
    }

    fn connect(&mut self, endpoint: &Endpoint) -> ConnId {
        let conn = self.open(true);
        self.connection(conn).to = Some(endpoint.clone());
        conn
    }

    fn remote_address(&mut self, _conn: ConnId) -> Option<std::net::IpAddr> {
        self.remote
    }

    fn has_local_socket(&self, _port: u16) -> bool {
        false
    }

    fn is_overdue(&self, _conn: ConnId) -> bool {
        false
    }

    fn unacknowledged(&self, _conn: ConnId) -> usize {
        0
    }

    fn socket(&self, _conn: ConnId) -> Option<crate::io::Socket> {
        None
    }

    fn start_tls(&mut self, conn: ConnId, _role: TlsRole, _unread: &[u8]) {
        let connection = self.connection(conn);
        assert!(connection.stage == Stage::Open, "TLS on {conn:?}, which is {:?}", connection.stage);
        connection.stage = Stage::Handshaking;
    }

    fn close(&mut self, conn: ConnId, _how: Close) {
        let sent = std::mem::take(&mut self.connection(conn).sent);
        self.last_words.push((conn, sent));
        self.end(conn);
    }

    fn wake_at(&mut self, at: Instant) {
        self.alarm = Some(at);
    }

    fn ask(&mut self, id: QuestionId, question: Question) {
        self.questions.push((id, question));
    }

    fn tell(&mut self, worker: WorkerId, message: Message<Self::Handover>) {
        match &mut self.told {
            Some(told) => told.push((worker, message)),
            None => panic!("there is no worker {worker:?} to tell {message:?}"),
        }
    }

    fn detach(&mut self, conn: ConnId) {
        assert!(self.told.is_some() || self.handed_on.is_some(), "there is no worker that {conn:?} could go to");
        self.detaching.push(conn);
    }

    fn stay(&mut self, conn: ConnId) {
        let at = self.detaching.iter().position(|detaching| *detaching == conn);
        self.detaching.swap_remove(at.unwrap_or_else(|| panic!("{conn:?} was not to go")));
    }

    fn hand_on(&mut self, number: u64, state: State, connections: Vec<Self::Handover>) {
        match &mut self.handed_on {
            Some(handed_on) => handed_on.push(HandedOn { number, state, connections }),
            None => panic!("there is no process that group {number} could go to"),
        }
    }

    fn adopt(&mut self, Handed: Handed) -> ConnId {
        let conn = self.open(true);
        self.connection(conn).stage = Stage::Open;
        conn
    }

    fn log(&mut self, event: Event) {
        self.logged.push(event.name);
    }

    fn reply(&mut self, id: CommandId, reply: Reply) {
        self.replies.push((id, reply));
    }

    /// The same bytes in each run.
    fn fill_random(&mut self, out: &mut [u8]) {
        for byte in out {
            self.luck = self.luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (self.luck >> 24) as u8;
        }
    }
}

const SECOND: u64 = 1_000_000;

/// One database `app` with a pool of `pool_size`, one user `app` with the password `secret`.
pub fn config(method: AuthMethod, pool_mode: PoolMode, pool_size: u32) -> EngineConfig {
    EngineConfig {
        listen: Listen {
            addresses: vec![],
            port: 6432,
            unix: None,
            unix_mode: 0,
            unix_group: None,
            backlog: 16,
            reuse_port: false,
            proxy_from: Vec::new(),
            tls: None,
        },
        tcp: TcpOptions::default(),
        dns: DnsOptions::default(),
        engine: EngineSettings { workers: 1, io: IoDriver::Auto, buffers: 1, buffer_size: 16 << 10, core_dumps: false },
        arrivals: Arrivals::default(),
        limits: Limits {
            clients_max: 100,
            logins_max: 0,
            address_logins_max: 0,
            max_user_connections: 0,
            max_user_client_connections: 0,
            message_bytes_max: 1 << 20,
            relay_bytes_max: 256 << 10,
            wait_bytes_max: 64 << 10,
            waiters_max: 1000,
            cancel_misses_max: 100,
            cancel_wait_timeout: 10_000_000,
            client_channels_max: 100,
            notification_bytes_max: 65_536,
            client_statements_max: 100,
            statement_bytes_max: 1 << 20,
            login_timeout: 15 * SECOND,
            pool_idle_timeout: 0,
            autodb_idle_timeout: 0,
            metric_pools_max: 1000,
            client_write_timeout: 0,
            drain_timeout: 30 * SECOND,
            drain_notice: 0,
        },
        auth: AuthSettings {
            method,
            ask_unknown: true,
            cache_for: 60 * SECOND,
            cache_negative_for: 5 * SECOND,
            ask_timeout: 5 * SECOND,
            access: Access::default(),
        },
        databases: vec![database(pool_mode, pool_size)],
        fallback_database: None,
        users: vec![user("app"), user("ops")],
        server_tls: vec![],
        console: Console { admins: vec!["ops".into()], viewers: vec![], own_uid: None },
        metrics: None,
        log: LogSettings { level: 1, ..LogSettings::default() },
        peers: crate::config::Peers::default(),
        speaks_pgbouncer: false,
    }
}

fn database(pool_mode: PoolMode, pool_size: u32) -> DatabaseConfig {
    DatabaseConfig {
        name: "app".into(),
        dbname: "app".into(),
        endpoints: vec![Arc::from("127.0.0.1:5432")],
        forced_user: None,
        forced_secret: None,
        tls: 0,
        lookup: SecretLookup::default(),
        parameters: Vec::new(),
        connect_query: "".into(),
        is_budgeted: false,
        checks_commits: false,
        cluster: None,
        preferences: Vec::new(),
        pool: PoolSettings {
            pool_mode,
            pool_size,
            reserve_pool_size: 0,
            reserve_pool_timeout: 0,
            min_pool_size: 0,
            max_db_connections: 0,
            max_db_client_connections: 0,
            max_replication_connections: 2,
            query_wait_timeout: 120 * SECOND,
            query_wait_notify: 0,
            server_lifetime: 3600 * SECOND,
            server_idle_timeout: 600 * SECOND,
            server_connect_timeout: 15 * SECOND,
            server_backoff_max: 5 * SECOND,
            server_opening_max: 4,
            load_balance_hosts: LoadBalanceHosts::RoundRobin,
            load_balance: LoadBalance::Latency,
            eject_slower_than: 4,
            slow_start: 5_000_000,
            server_check_delay: 30 * SECOND,
            server_check_query: "".into(),
            server_round_robin: false,
            server_fast_close: false,
            server_reset_query: "DISCARD ALL".into(),
            server_reset_query_always: false,
            disable_pqexec: false,
            level: Level::Fast,
            on_pin: OnPin::Allow,
            sequence_affinity: SequenceAffinity::Pin,
            pin_idle_limit: 0,
            catalogue_refresh: 0,
            server_local_socket: false,
            max_prepared_statements: 200,
            transaction_timeout: 0,
            idle_transaction_timeout: 0,
            query_timeout: 0,
            client_idle_timeout: 0,
        },
    }
}

fn user(name: &str) -> UserConfig {
    UserConfig {
        name: name.into(),
        secret: Some(SecretText("secret".into())),
        pool_mode: None,
        pool_size: None,
        reserve_pool_size: None,
        query_timeout: None,
        query_wait_timeout: None,
        transaction_timeout: None,
        idle_transaction_timeout: None,
        client_idle_timeout: None,
        max_user_connections: None,
        max_user_client_connections: None,
    }
}
