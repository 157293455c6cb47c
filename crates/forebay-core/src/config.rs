//! The resolved configuration: one value, made by Python, that crosses the border at start and at each reload.
//!
//! Durations are microseconds and 0 means "no limit"; sizes are bytes. Precedence (user > database > global)
//! is already resolved into [`DatabaseConfig::pool`], but for what a user overrides.

use std::sync::Arc;

use serde::Deserialize;

mod access;
mod balance;
mod cluster;
mod listen;
mod peers;
mod tls;

pub use access::{Access, AccessRule, CertificateDemand, ConnectionKind, MapLine, NamePattern, SecretLookup};
pub use balance::{LoadBalance, LoadBalanceHosts, Preference};
pub use cluster::{ClusterConfig, Consistency, Role};
pub use listen::{Arrivals, DnsOptions, Listen, ListenTls, TcpOptions};
pub use peers::{PeerConfig, Peers};
pub use tls::{ServerTls, TlsMode, TlsOffers};

/// All that the engine needs to know.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Where clients connect.
    pub listen: Listen,
    /// How TCP connections of either side are kept.
    pub tcp: TcpOptions,
    /// How long the addresses of names hold.
    pub dns: DnsOptions,
    /// Threads and driver; read at start only.
    pub engine: EngineSettings,
    /// What becomes of what clients ask for at their login.
    pub arrivals: Arrivals,
    /// Limits on clients and messages.
    pub limits: Limits,
    /// How clients prove who they are.
    pub auth: AuthSettings,
    /// The databases, by the name that clients ask for.
    pub databases: Vec<DatabaseConfig>,
    /// The database `*`, used for names not listed; its `dbname` is the asked name.
    pub fallback_database: Option<DatabaseConfig>,
    /// Users known beforehand.
    pub users: Vec<UserConfig>,
    /// TLS contexts towards servers; databases name one by its index.
    pub server_tls: Vec<ServerTls>,
    /// Other poolers behind the same address.
    pub peers: Peers,
    /// The console.
    pub console: Console,
    /// The HTTP listener for /metrics, /livez, /readyz; `None`: off.
    pub metrics: Option<Metrics>,
    /// What the engine logs.
    pub log: LogSettings,
    /// Clients and the log are told in PgBouncer's words, where it has some.
    pub speaks_pgbouncer: bool,
}

/// Threads and driver.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineSettings {
    /// Number of workers; 0: one a core.
    pub workers: u16,
    /// Which driver.
    pub io: IoDriver,
    /// Received buffers a worker owns.
    pub buffers: u32,
    /// Bytes a received buffer holds.
    pub buffer_size: u32,
    /// The system may write the process's memory into a core file.
    pub core_dumps: bool,
}

/// Which I/O driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoDriver {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring or no start.
    Uring,
    /// epoll.
    Epoll,
}

/// Limits on clients and messages.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Clients over all workers.
    pub clients_max: u32,
    /// Clients on their way in that may owe us a word; 0: a quarter of `clients_max`, or more.
    #[serde(default)]
    pub logins_max: u32,
    /// The same of one address; 0: no limit.
    #[serde(default)]
    pub address_logins_max: u32,
    /// Servers of a user of whom nothing else is said; 0: no limit.
    pub max_user_connections: u32,
    /// Clients of such a user; 0: no limit.
    pub max_user_client_connections: u32,
    /// Largest message accepted from either side.
    pub message_bytes_max: u32,
    /// Unwritten bytes towards one peer above which reading from the other side stops.
    pub relay_bytes_max: u32,
    /// Bytes kept for a client that waits for a server, above which reading from it stops.
    pub wait_bytes_max: u32,
    /// Demands that may wait in one pool and worker.
    pub waiters_max: u32,
    /// Cancel requests by which one source may name nobody within [`crate::misses::WINDOW`]; 0: any number.
    pub cancel_misses_max: u32,
    /// How long a cancel request may wait for a connection that it is sent over.
    pub cancel_wait_timeout: u64,
    /// Named statements one client may hold.
    pub client_statements_max: u32,
    /// Channels one client may listen to without keeping its server.
    pub client_channels_max: u32,
    /// Bytes of notifications kept for a client that can't be given them yet.
    pub notification_bytes_max: u32,
    /// Bytes of statement texts kept for sharing, over all clients.
    pub statement_bytes_max: u64,
    /// Time to log in.
    pub login_timeout: u64,
    /// Time out of use after which a pool is forgotten; 0: never.
    pub pool_idle_timeout: u64,
    /// The same for pools of databases that only `*` names.
    pub autodb_idle_timeout: u64,
    /// Pools that have metrics of their own.
    pub metric_pools_max: u32,
    /// Time in which a client that holds a server must take something of its answer; 0: no limit.
    pub client_write_timeout: u64,
    /// Time a clean shutdown may take.
    pub drain_timeout: u64,
    /// Time before it, in which nothing but /readyz tells of it.
    #[serde(default)]
    pub drain_notice: u64,
}

/// How clients prove who they are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// The method asked of clients.
    pub method: AuthMethod,
    /// Unknown users of every database are asked of Python (auth_query or a secret source).
    pub ask_unknown: bool,
    /// How long an answered secret is kept.
    pub cache_for: u64,
    /// How long "no such user" is kept.
    pub cache_negative_for: u64,
    /// Deadline of a question.
    pub ask_timeout: u64,
    /// Rules by address, and maps of names.
    #[serde(default)]
    pub access: Access,
}

/// The method asked of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMethod {
    /// No proof; the user must be known.
    Trust,
    /// The plain password (ask for it over TLS only).
    Password,
    /// MD5; turns to SCRAM where the stored secret is a SCRAM verifier.
    Md5,
    /// SCRAM-SHA-256, with -PLUS offered over TLS.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// No proof; whoever comes is the forced user of the database.
    Any,
    /// A client certificate whose common name is the user's, or is mapped to it.
    Cert,
    /// The Unix user of the client's process, over a Unix socket.
    Peer,
    /// The plain password, which a directory judges.
    Ldap,
    /// The plain password, which the system judges.
    Pam,
    /// None will do.
    Reject,
}

/// A database that clients may ask for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// The name that clients ask for.
    pub name: Arc<str>,
    /// The name on the server.
    pub dbname: Arc<str>,
    /// `host:port`, `[v6]:port` or a Unix socket's path.
    pub endpoints: Vec<Arc<str>>,
    /// What is said of some of them.
    #[serde(default)]
    pub preferences: Vec<Preference>,
    /// All clients share servers logged in as this user.
    pub forced_user: Option<Arc<str>>,
    /// That user's secret.
    pub forced_secret: Option<SecretText>,
    /// Index into [`EngineConfig::server_tls`].
    pub tls: u32,
    /// Where secrets of its users are looked up.
    #[serde(default)]
    pub lookup: SecretLookup,
    /// What its servers are opened with: names and values of parameters.
    #[serde(default)]
    pub parameters: Vec<(Arc<str>, Arc<str>)>,
    /// Run on each of its servers before clients use it; empty: nothing is.
    #[serde(default)]
    pub connect_query: Arc<str>,
    /// Its servers are shared with other processes: none are opened but those that [`crate::pool::limited::Share`] allows.
    #[serde(default)]
    pub is_budgeted: bool,
    /// What became of a COMMIT whose answer was lost is asked.
    pub checks_commits: bool,
    /// Its endpoints are a primary and its replicas, and which is which is found; `None`: they are equal.
    #[serde(default)]
    pub cluster: Option<ClusterConfig>,
    /// Resolved settings of its pools.
    pub pool: PoolSettings,
}

/// Settings of a pool.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSettings {
    /// When a server goes back.
    pub pool_mode: PoolMode,
    /// Servers per (database, user), over all workers.
    pub pool_size: u32,
    /// Servers beyond that, once a demand has waited for `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// See there.
    pub reserve_pool_timeout: u64,
    /// Servers kept open.
    pub min_pool_size: u32,
    /// Servers of the database over all its pools; 0: no limit.
    pub max_db_connections: u32,
    /// Clients of the database; 0: no limit.
    pub max_db_client_connections: u32,
    /// Replication connections of the database, counted apart; 0: none.
    pub max_replication_connections: u32,
    /// How long a demand may wait.
    pub query_wait_timeout: u64,
    /// How long a demand waits until its client is told that it does; 0: it is not told.
    pub query_wait_notify: u64,
    /// Age at which a server is retired, ± 10 %.
    pub server_lifetime: u64,
    /// Idle time after which a server is closed.
    pub server_idle_timeout: u64,
    /// Time to connect and log in.
    pub server_connect_timeout: u64,
    /// Longest pause between tries to reach an endpoint.
    pub server_backoff_max: u64,
    /// Openings under way at once per pool and worker.
    pub server_opening_max: u32,
    /// Which of several endpoints the next server is opened at.
    pub load_balance_hosts: LoadBalanceHosts,
    /// By what requests are shared among them.
    pub load_balance: LoadBalance,
    /// How many times as slowly as the others an endpoint may answer before it is ejected; 0: it does not matter.
    pub eject_slower_than: u32,
    /// How long the part of an endpoint that has come back grows.
    pub slow_start: u64,
    /// A server on this host is reached through its Unix socket, where it has one.
    pub server_local_socket: bool,
    /// Idle time after which a server is checked before use.
    pub server_check_delay: u64,
    /// The check; empty: an empty query.
    pub server_check_query: Arc<str>,
    /// The longest idle server is used first, instead of the last freed one.
    pub server_round_robin: bool,
    /// In session mode a server that shall be closed is closed at the end of its transaction, and its client with it.
    pub server_fast_close: bool,
    /// Run at check-in in session mode.
    pub server_reset_query: Arc<str>,
    /// Run in the other modes too.
    pub server_reset_query_always: bool,
    /// Simple queries are refused.
    pub disable_pqexec: bool,
    /// When a server is reset before it serves another client.
    pub level: Level,
    /// What happens when a session comes to own what only its server can keep.
    pub on_pin: OnPin,
    /// How `currval` and `lastval` are kept true.
    pub sequence_affinity: SequenceAffinity,
    /// Time a pinned client may be idle outside a transaction.
    pub pin_idle_limit: u64,
    /// Age at which the server's catalogue is read again.
    pub catalogue_refresh: u64,
    /// Named statements kept on a server; 0: statements are passed through unshared.
    pub max_prepared_statements: u32,
    /// Time a client's transaction may take.
    pub transaction_timeout: u64,
    /// Time a transaction may be idle.
    pub idle_transaction_timeout: u64,
    /// Time a request may take.
    pub query_timeout: u64,
    /// Time a client may be idle outside a transaction.
    pub client_idle_timeout: u64,
}

impl PoolSettings {
    /// The same for replication connections: each has a server of its own for as long as it lasts, and is silent for as
    /// long as nothing is written.
    pub fn for_replication(self) -> PoolSettings {
        PoolSettings {
            pool_mode: PoolMode::Session,
            pool_size: self.max_replication_connections,
            reserve_pool_size: 0,
            min_pool_size: 0,
            max_db_connections: 0,
            server_lifetime: 0,
            server_reset_query: "".into(),
            // Its commands are simple queries.
            disable_pqexec: false,
            max_prepared_statements: 0,
            pin_idle_limit: 0,
            transaction_timeout: 0,
            idle_transaction_timeout: 0,
            query_timeout: 0,
            client_idle_timeout: 0,
            ..self
        }
    }
}

/// How a client uses servers. Its own from its login on: a reload changes it for those that come, for what a session
/// holds can't be carried over from one way to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// When its server goes back.
    pub mode: PoolMode,
    /// Its statements are shared with other clients.
    pub is_sharing: bool,
    /// `server_reset_query` is run on its server when that goes back.
    pub is_reset_by_query: bool,
    /// It may ask nothing by simple queries.
    pub is_extended_only: bool,
}

impl Usage {
    /// Whether what its statements leave is looked at: others share its server while it is there.
    pub fn is_tracked(self) -> bool {
        self.mode != PoolMode::Session
    }

    /// Whether a server may go from a client of one to a client of the other with what it has prepared.
    pub fn is_like(self, other: Usage) -> bool {
        self.is_tracked() == other.is_tracked() && self.is_sharing == other.is_sharing
    }

    /// Named statements on a server; 0: they pass through unshared.
    pub fn statements_max(self, settings: &PoolSettings) -> u32 {
        // A reload may have switched sharing off for others.
        if self.is_sharing { settings.max_prepared_statements.max(1) } else { 0 }
    }
}

impl PoolSettings {
    /// How clients that log in now use servers.
    pub fn usage(&self) -> Usage {
        let is_sharing = self.pool_mode != PoolMode::Session && self.max_prepared_statements > 0;
        let is_reset_by_query = self.pool_mode == PoolMode::Session || self.server_reset_query_always;
        Usage { mode: self.pool_mode, is_sharing, is_reset_by_query, is_extended_only: self.disable_pqexec }
    }
}

/// When a server goes back to its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// When the transaction ends.
    Transaction,
    /// When the request ends; transaction blocks are refused.
    Statement,
}

/// When a server is reset before it serves another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Only for effects that are known; what functions set unseen may leak.
    Fast,
    /// Whenever a transaction was not provably free of effects on the session.
    Safe,
    /// Always; and a server that has seen a customized option serves no client that has not set it.
    Strict,
}

/// What happens when a session comes to own what only its server can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPin {
    /// The session holds its server.
    Allow,
    /// The same, and the client is told.
    Notice,
    /// The statement is refused.
    Refuse,
}

/// How `currval` and `lastval` are kept true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SequenceAffinity {
    /// A session that has used `nextval` holds its server.
    Pin,
    /// It gets the answer of the same server, or an error once that has served others.
    Affinity,
}

/// A user known beforehand.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserConfig {
    /// The name.
    pub name: Arc<str>,
    /// How it logs in here, and to servers where the text serves there too.
    pub secret: Option<SecretText>,
    /// What it overrides.
    pub pool_mode: Option<PoolMode>,
    /// What it overrides.
    pub pool_size: Option<u32>,
    /// What it overrides.
    pub reserve_pool_size: Option<u32>,
    /// What it overrides.
    pub query_timeout: Option<u64>,
    /// What it overrides.
    pub query_wait_timeout: Option<u64>,
    /// What it overrides.
    pub transaction_timeout: Option<u64>,
    /// What it overrides.
    pub idle_transaction_timeout: Option<u64>,
    /// What it overrides.
    pub client_idle_timeout: Option<u64>,
    /// Servers of this user over all databases; 0: no limit; absent: that of all.
    pub max_user_connections: Option<u32>,
    /// Clients of this user over all databases; 0: no limit; absent: that of all.
    pub max_user_client_connections: Option<u32>,
}

/// A secret as configured: a plain password, `md5…`, or `SCRAM-SHA-256$…`. Never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub Arc<str>);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// The console.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// Users that may do everything.
    pub admins: Vec<Arc<str>>,
    /// Users that may SHOW.
    pub viewers: Vec<Arc<str>>,
    /// A process of this user needs no password for the console, as the user `pgbouncer` over the Unix socket.
    pub own_uid: Option<u32>,
}

/// The HTTP listener.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// `host:port`.
    pub address: String,
}

/// What the engine logs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// 0 debug, 1 info, 2 warn, 3 error.
    pub level: u8,
    /// A line at info for each login.
    pub connections: bool,
    /// A line at info for each leave.
    pub disconnections: bool,
    /// A line at info for each login that is tried, before it is proved.
    pub attempts: bool,
    /// A line at info for each server opened and closed.
    pub servers: bool,
    /// A line at warn for each client that is turned away or cut off.
    pub refusals: bool,
    /// Requests that take longer are logged; 0: none.
    pub min_duration: u64,
}
