//! What a seed stands for: the configuration, the clients, the network and the faults.

use std::sync::Arc;

use forebay_core::auth::Credential;
use forebay_core::config::{
    Access, Arrivals, AuthMethod, AuthSettings, Console, DatabaseConfig, DnsOptions, EngineConfig, EngineSettings,
    IoDriver, Level, Limits, Listen, LoadBalance, LoadBalanceHosts, LogSettings, OnPin, PoolMode, PoolSettings,
    SecretLookup, SecretText, SequenceAffinity, ServerTls, TcpOptions, UserConfig,
};

use crate::client::program::{self, Owning, Step, Tastes};
use crate::client::{actor::Identity, owner};
use crate::rng::Rng;
use crate::secrets::{OTHER_PASSWORD, PASSWORD, secret};
use crate::world::DENIAL_KEPT_US;

/// A database of the scenario, on a fake server of its own.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) mode: PoolMode,
    pub(crate) pool_size: u32,
    pub(crate) max_db_connections: u32,
    /// Processes the fake server allows.
    pub(crate) processes_max: usize,
    pub(crate) local_socket: LocalSocket,
}

/// What is at the path of the Unix socket beside a database's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalSocket {
    Nothing,
    /// The database's own server.
    Same,
    /// A server that no client may ever reach.
    Stranger,
    /// Each time another of the three.
    Changing,
}

/// How often things go wrong; mean microseconds between two of a kind, 0: never.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// A server process is terminated with an error.
    pub(crate) terminate: u64,
    /// A connection to a server breaks.
    pub(crate) break_server: u64,
    /// A client's connection breaks.
    pub(crate) break_client: u64,
    /// A server is down for a while.
    pub(crate) crash: u64,
    /// A link stands still for a while.
    pub(crate) stall: u64,
    /// A client stops reading for a while.
    pub(crate) doze: u64,
    /// A worker gets no processor for a while.
    pub(crate) starve: u64,
    /// PAUSE and RESUME.
    pub(crate) pause: u64,
    /// RELOAD of the same configuration.
    pub(crate) reload: u64,
    /// RECONNECT.
    pub(crate) reconnect: u64,
    /// KILL of one client.
    pub(crate) kill_client: u64,
    /// KILL of a database.
    pub(crate) kill_database: u64,
    /// RELOAD of a changed configuration.
    pub(crate) change: u64,
    /// Shutdown; `None`: never.
    pub(crate) drain_at: Option<u64>,
    /// The run ends with a PAUSE that stays.
    pub(crate) ends_paused: bool,
    /// The endpoints of clusters change their roles.
    pub(crate) is_failover: bool,
    /// Secrets are asked for, and one question in so many is answered wrongly or not at all.
    pub(crate) bad_answer_one_in: u64,
}

impl Faults {
    /// Whether nothing but slow readers is in the way.
    pub(crate) fn is_calm(&self) -> bool {
        let rates = [
            self.break_client,
            self.stall,
            self.starve,
            self.pause,
            self.reload,
            self.reconnect,
            self.kill_client,
            self.kill_database,
            self.change,
            self.bad_answer_one_in,
        ];
        rates.iter().all(|rate| *rate == 0) && self.drain_at.is_none() && !self.ends_paused && !self.lose_servers()
    }

    /// Adds orders of the operator and bad answers of Python, in half of those runs alone.
    fn with_orders(self, luck: &mut Rng, heals_at: u64) -> Faults {
        if self.is_calm() || luck.one_in(3) {
            return self;
        }
        let rest = if luck.one_in(2) { Faults::default() } else { self };
        // While there is somebody to be let go.
        let drain_at = luck.one_in(4).then(|| luck.between(20_000, heals_at.min(SECOND / 2)));
        let ends_paused = luck.one_in(3);
        let mut rate = |mean: u64| if luck.one_in(3) { mean } else { 0 };
        let (kill_database, change, bad_answer_one_in) = (rate(400_000), rate(150_000), rate(3));
        Faults { kill_database, change, drain_at, ends_paused, bad_answer_one_in, ..rest }
    }

    /// Whether a server may be lost while it serves somebody.
    pub(crate) fn lose_servers(&self) -> bool {
        self.is_failover || self.terminate + self.break_server + self.crash > 0
    }
}

/// A client to be.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) who: Identity,
    pub(crate) program: Vec<Step>,
    pub(crate) starts_at: u64,
}

/// Everything that a seed decides before the first event.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) workers: usize,
    pub(crate) targets: Vec<Target>,
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) faults: Faults,
    /// Faults happen before that time only.
    pub(crate) heals_at: u64,
    pub(crate) buffers: usize,
    pub(crate) buffer_size: usize,
    /// Largest piece that a link moves at once; drawn again per link below it.
    pub(crate) chunk_max: usize,
    /// Longest time that a byte is under way.
    pub(crate) delay_max: u64,
    pub(crate) config: EngineConfig,
    /// One reset in so many fails, as by a limit that a client has left behind; 0: none.
    pub(crate) failing_reset_one_in: u64,
    /// Waiting for a server may end in an error.
    pub(crate) may_time_out: bool,
    /// How the fake servers let the pooler in, and what they check it against.
    pub(crate) server_method: AuthMethod,
    pub(crate) credential: Credential,
    /// How many later requests may be served before one of the same pool and worker.
    pub(crate) overtakes_max: u32,
    /// Longest time from a cancel request's arrival at a server to the signal, in microseconds.
    pub(crate) signal_delay_max: u64,
    pub(crate) cluster: Option<ClusterPlan>,
}

mod failover;
pub(crate) use failover::{Act, CommitPlan, Doom, Plan as ClusterPlan};

const SECOND: u64 = 1_000_000;

impl Scenario {
    /// Draws the scenario of a seed.
    pub(crate) fn draw(rng: &mut Rng) -> Scenario {
        let signal_delay_max = *rng.aside(1).pick(&[100, 20_000, 40_000]);
        let failing_reset_one_in = *rng.aside(5).pick(&[0, 0, 10]);
        let workers = *rng.pick(&[1, 1, 2, 2, 3, 4]);
        let chunk_max = *rng.pick(&[1, 7, 60, 600, 5000, 5000]);
        let targets: Vec<Target> = (0..rng.between(1, 2)).map(|i| Scenario::target(rng, i)).collect();
        let heals_at = rng.between(1, 4) * SECOND;
        let mut luck = rng.aside(2);
        let faults = Scenario::faults(rng).with_orders(&mut luck, heals_at);
        // Where no time is limited, a waiter that is forgotten waits until the deadline of the run.
        let may_time_out = rng.one_in(6);
        let wait = if may_time_out { rng.between(1, 200) * 1000 } else { 0 };
        let pools: Vec<_> = targets.iter().map(|t| Scenario::database(rng, t, wait, faults.lose_servers())).collect();
        let method = *rng.pick(&METHODS);
        let (secret, credential) = secret(rng);
        let server_method = match (&credential, method) {
            // Keys come from a client's proof alone.
            (Credential::Scram(_), AuthMethod::Trust) => AuthMethod::Trust,
            (Credential::Scram(_), _) => *rng.pick(&[AuthMethod::Trust, AuthMethod::ScramSha256]),
            _ => *rng.pick(&[AuthMethod::Trust, AuthMethod::ScramSha256, AuthMethod::Md5]),
        };
        let buffer_size = *rng.pick(&[64, 300, 2048]);
        // A server without room for both would be held by the idle servers of one.
        let users: &[&str] =
            if targets.iter().any(|t| t.processes_max < 100) { &["app"] } else { &["app", "app", "web"] };
        let clients = Scenario::clients(rng, &targets, &pools, chunk_max, users, method);
        let buffers = rng.between(16, 64) as usize + clients.len() * 4;
        let mut config = engine_config(workers, pools, method, &secret, buffers, buffer_size);
        config.limits.cancel_misses_max = *rng.aside(9).pick(&[0, 2, 100]);
        config.limits.pool_idle_timeout = *rng.aside(10).pick(&[0, 1, 200_000]);
        if faults.bad_answer_one_in > 0 {
            ask_for_secrets(&mut config, *luck.pick(&[0, 30_000, 60 * SECOND]));
        }
        // The order of service shows in what reaches the servers; one that is checked or set answers late, or not for long.
        let overtakes_max = if faults.is_calm() { 10 } else { 10_000 };
        let delay_max = *rng.pick(&[50, 500, 3000]);
        Scenario {
            workers,
            targets,
            clients,
            faults,
            heals_at,
            buffers,
            buffer_size,
            chunk_max,
            delay_max,
            config,
            failing_reset_one_in,
            may_time_out,
            server_method,
            credential,
            overtakes_max,
            signal_delay_max,
            cluster: None,
        }
    }

    fn target(rng: &mut Rng, index: u64) -> Target {
        let usual = PoolMode::Transaction;
        let mode = *rng.pick(&[usual, usual, usual, PoolMode::Session, PoolMode::Statement]);
        let pool_size = rng.between(1, 4) as u32;
        let max_db_connections = if rng.one_in(4) { rng.between(1, 3) as u32 } else { 0 };
        let processes_max = if rng.one_in(6) { rng.between(1, 3) as usize } else { 100 };
        let kinds = [LocalSocket::Nothing, LocalSocket::Same, LocalSocket::Stranger, LocalSocket::Changing];
        let local_socket = *rng.aside(7).pick(&kinds);
        Target { name: format!("db{index}"), mode, pool_size, max_db_connections, processes_max, local_socket }
    }

    fn faults(rng: &mut Rng) -> Faults {
        if rng.one_in(2) {
            // A calm run: every reply must be exactly right.
            return Faults { doze: if rng.one_in(2) { 400_000 } else { 0 }, ..Faults::default() };
        }
        let mut rate = |mean: u64| if rng.one_in(3) { mean } else { 0 };
        Faults {
            terminate: rate(150_000),
            break_server: rate(150_000),
            break_client: rate(200_000),
            crash: rate(600_000),
            stall: rate(200_000),
            doze: rate(200_000),
            starve: rate(300_000),
            pause: rate(700_000),
            reload: rate(400_000),
            reconnect: rate(400_000),
            kill_client: rate(500_000),
            ..Faults::default()
        }
    }

    fn database(rng: &mut Rng, target: &Target, wait: u64, loses: bool) -> DatabaseConfig {
        let (index, min_pool_size) = (target.name.trim_start_matches("db"), u32::from(rng.one_in(4)));
        let tracking = Tracking::draw(&mut rng.aside(3));
        let forced_user = rng.aside(8).one_in(4).then(|| Arc::from("owner"));
        DatabaseConfig {
            name: target.name.as_str().into(),
            dbname: format!("real{index}").into(),
            endpoints: vec![format!("127.0.0.{index}:5432").into()],
            forced_secret: forced_user.is_some().then(|| SecretText(Arc::from(PASSWORD))),
            forced_user,
            tls: 0,
            lookup: SecretLookup::default(),
            parameters: Vec::new(),
            connect_query: "".into(),
            preferences: Vec::new(),
            is_budgeted: false,
            checks_commits: false,
            cluster: None,
            pool: PoolSettings {
                pool_mode: target.mode,
                pool_size: target.pool_size,
                reserve_pool_size: 0,
                reserve_pool_timeout: 0,
                min_pool_size,
                max_db_connections: target.max_db_connections,
                max_db_client_connections: 0,
                max_replication_connections: 2,
                query_wait_timeout: wait,
                query_wait_notify: 0,
                server_lifetime: if rng.one_in(3) { rng.between(50, 2000) * 1000 } else { 0 },
                server_idle_timeout: if rng.one_in(3) { rng.between(20, 500) * 1000 } else { 0 },
                server_connect_timeout: if loses { SECOND } else { 15 * SECOND },
                server_backoff_max: SECOND,
                server_opening_max: rng.between(1, 3) as u32,
                load_balance_hosts: LoadBalanceHosts::RoundRobin,
                load_balance: LoadBalance::Latency,
                eject_slower_than: 4,
                slow_start: 5_000_000,
                server_check_delay: *rng.pick(&[0, 20_000, 30 * SECOND]),
                server_check_query: (*rng.pick(&["", "select 1"])).into(),
                server_round_robin: false,
                server_fast_close: false,
                server_reset_query: "DISCARD ALL".into(),
                server_reset_query_always: false,
                disable_pqexec: false,
                level: tracking.level,
                on_pin: tracking.on_pin,
                sequence_affinity: tracking.sequence_affinity,
                pin_idle_limit: tracking.pin_idle_limit,
                server_local_socket: target.local_socket != LocalSocket::Nothing,
                catalogue_refresh: tracking.catalogue_refresh,
                max_prepared_statements: *rng.pick(&[1, 2, 100, 100]),
                transaction_timeout: 0,
                idle_transaction_timeout: 0,
                query_timeout: 0,
                client_idle_timeout: 0,
            },
        }
    }

    fn clients(
        rng: &mut Rng,
        targets: &[Target],
        pools: &[DatabaseConfig],
        chunk_max: usize,
        users: &[&str],
        method: AuthMethod,
    ) -> Vec<ClientPlan> {
        let topic = rng.aside(6).below(owner::TOPICS);
        let (count, steps) = (rng.between(2, 10) as u32, rng.between(4, 24));
        let favourite = rng.one_in(2).then(|| rng.below(program::KINDS));
        (0..count)
            .map(|id| {
                let at = rng.index(targets.len());
                let (target, pool) = (&targets[at], &pools[at].pool);
                let mut params = Vec::new();
                for (name, values) in [
                    ("TimeZone", ["CET", "UTC", "Asia/Tokyo"]),
                    ("DateStyle", ["German, DMY", "ISO, MDY", "SQL, DMY"]),
                    ("search_path", ["own, public", "public", "audit"]),
                    ("extra_float_digits", ["3", "2", "0"]),
                ] {
                    if rng.one_in(4) {
                        params.push((name.to_owned(), (*rng.pick(&values)).to_owned()));
                    }
                }
                if rng.one_in(3) {
                    params.push(("application_name".to_owned(), format!("client {id}")));
                }
                let is_owner = rng.aside(4).one_in(2);
                let tastes = Tastes {
                    favourite,
                    client: id,
                    steps,
                    has_blocks: target.mode != PoolMode::Statement,
                    has_named: true,
                    sets: rng.one_in(3) && target.mode != PoolMode::Statement,
                    cancels: rng.one_in(2),
                    leaves: rng.one_in(3),
                    owning: Owning {
                        is_on: is_owner,
                        topic,
                        // At the lowest level they may leak, and in session mode they are lost with DISCARD ALL.
                        has_unseen: pool.level != Level::Fast,
                        has_seeds: target.mode != PoolMode::Session,
                        has_resets: true,
                    },
                    pad_max: if chunk_max < 10 { 20 } else { *rng.pick(&[30, 300, 3000]) },
                };
                let is_impostor = method != AuthMethod::Trust && rng.one_in(15);
                let user = *rng.pick(users);
                let who = Identity {
                    id,
                    database: target.name.clone(),
                    server_user: pools[at].forced_user.as_deref().unwrap_or(user).to_owned(),
                    user: user.to_owned(),
                    password: (if is_impostor { OTHER_PASSWORD } else { PASSWORD }).to_owned(),
                    is_impostor,
                    version: *rng.pick(&[0x0003_0000, 0x0003_0000, 0x0003_0002, 0x0003_270f]),
                    asks_tls: rng.one_in(4),
                    is_owner,
                    params,
                };
                let program = program::draw(rng, &tastes);
                ClientPlan { who, program, starts_at: rng.below(300_000) }
            })
            .collect()
    }
}

/// How a pool keeps its clients' sessions apart.
struct Tracking {
    level: Level,
    on_pin: OnPin,
    sequence_affinity: SequenceAffinity,
    pin_idle_limit: u64,
    catalogue_refresh: u64,
}

impl Tracking {
    fn draw(luck: &mut Rng) -> Tracking {
        Tracking {
            level: *luck.pick(&[Level::Fast, Level::Safe, Level::Safe, Level::Strict]),
            on_pin: *luck.pick(&[OnPin::Allow, OnPin::Allow, OnPin::Allow, OnPin::Notice, OnPin::Refuse]),
            sequence_affinity: *luck.pick(&[SequenceAffinity::Pin, SequenceAffinity::Affinity]),
            pin_idle_limit: *luck.pick(&[0, 0, 50_000]),
            catalogue_refresh: *luck.pick(&[0, 100_000]),
        }
    }
}

const METHODS: [AuthMethod; 5] =
    [AuthMethod::Trust, AuthMethod::Trust, AuthMethod::Password, AuthMethod::ScramSha256, AuthMethod::Md5];

/// Nobody is known beforehand: Python is asked, and given up in time.
fn ask_for_secrets(config: &mut EngineConfig, cache_for: u64) {
    config.users.clear();
    config.auth.ask_unknown = true;
    config.auth.cache_for = cache_for;
    config.auth.cache_negative_for = DENIAL_KEPT_US;
    config.limits.login_timeout = 2 * SECOND;
}

fn user(name: &str, secret: &str) -> UserConfig {
    UserConfig {
        name: name.into(),
        secret: Some(SecretText(Arc::from(secret))),
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

pub(crate) fn engine_config(
    workers: usize,
    databases: Vec<DatabaseConfig>,
    method: AuthMethod,
    secret: &str,
    buffers: usize,
    buffer_size: usize,
) -> EngineConfig {
    EngineConfig {
        listen: Listen { addresses: vec!["10.0.1.1".into()], port: 6432, backlog: 16, ..Listen::default() },
        tcp: TcpOptions::default(),
        dns: DnsOptions::default(),
        engine: EngineSettings {
            workers: workers as u16,
            io: IoDriver::Auto,
            buffers: buffers as u32,
            buffer_size: buffer_size as u32,
            core_dumps: true,
        },
        arrivals: Arrivals::default(),
        limits: Limits {
            clients_max: 1000,
            logins_max: 0,
            address_logins_max: 0,
            max_user_connections: 0,
            max_user_client_connections: 0,
            message_bytes_max: 1 << 20,
            relay_bytes_max: 16 << 10,
            wait_bytes_max: 16 << 10,
            waiters_max: 1000,
            cancel_misses_max: 0,
            cancel_wait_timeout: 10_000_000,
            client_channels_max: 100,
            notification_bytes_max: 1 << 20,
            client_statements_max: 100,
            statement_bytes_max: 1 << 20,
            login_timeout: 30 * SECOND,
            pool_idle_timeout: 0,
            autodb_idle_timeout: 0,
            metric_pools_max: 1000,
            client_write_timeout: 0,
            drain_timeout: 5 * SECOND,
            drain_notice: 0,
        },
        auth: AuthSettings {
            method,
            ask_unknown: false,
            cache_for: 60 * SECOND,
            cache_negative_for: 5 * SECOND,
            ask_timeout: 5 * SECOND,
            access: Access::default(),
        },
        databases,
        fallback_database: None,
        users: vec![user("app", secret), user("web", secret)],
        server_tls: vec![ServerTls::default()],
        console: Console { admins: vec!["ops".into()], viewers: vec![], own_uid: None },
        metrics: None,
        log: LogSettings { connections: true, disconnections: true, ..LogSettings::default() },
        peers: forebay_core::config::Peers::default(),
        speaks_pgbouncer: false,
    }
}

#[cfg(test)]
mod tests;
