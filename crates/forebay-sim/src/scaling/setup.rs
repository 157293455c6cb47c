//! The configuration of the workers: one database in transaction mode, and nothing else that would send anything.

use forebay_core::config::{
    AuthMethod, DatabaseConfig, EngineConfig, Level, LoadBalance, LoadBalanceHosts, OnPin, PoolMode, PoolSettings,
    SecretLookup, SequenceAffinity,
};

use super::Plan;
use crate::scenario::engine_config;
use crate::secrets::PASSWORD;

/// Receive buffers of a worker: more than a turn's inputs, so that none is short of one.
const BUFFERS: usize = 4096;
const BUFFER_SIZE: usize = 2048;

/// What clients ask for.
pub(super) const DATABASE: &str = "db0";
pub(super) const USER: &str = "app";

pub(super) const BUFFERS_A_WORKER: usize = BUFFERS;

/// The configuration for a plan.
pub(super) fn config(plan: &Plan) -> EngineConfig {
    let database = DatabaseConfig {
        name: DATABASE.into(),
        dbname: DATABASE.into(),
        endpoints: vec!["127.0.0.1:5432".into()],
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
        pool: pool(plan),
    };
    let mut config = engine_config(plan.workers, vec![database], AuthMethod::Trust, PASSWORD, BUFFERS, BUFFER_SIZE);
    let clients = plan.clients_in_all() as u32;
    (config.limits.clients_max, config.limits.waiters_max) = (clients + 1, clients + 1);
    // Errors only: what is dropped by its level is not even put together.
    config.log.level = 3;
    config
}

/// The defaults of `spec/settings.toml`, without what would close a server in the middle of a run.
fn pool(plan: &Plan) -> PoolSettings {
    PoolSettings {
        pool_mode: PoolMode::Transaction,
        pool_size: plan.servers as u32,
        reserve_pool_size: 0,
        reserve_pool_timeout: 0,
        min_pool_size: 0,
        max_db_connections: 0,
        max_db_client_connections: 0,
        max_replication_connections: 0,
        query_wait_timeout: 0,
        query_wait_notify: 0,
        server_lifetime: 0,
        server_idle_timeout: 0,
        server_connect_timeout: 15_000_000,
        server_backoff_max: 1_000_000,
        server_opening_max: 4,
        load_balance_hosts: LoadBalanceHosts::RoundRobin,
        load_balance: LoadBalance::Latency,
        eject_slower_than: 4,
        slow_start: 5_000_000,
        server_local_socket: false,
        server_check_delay: 0,
        server_check_query: "".into(),
        server_round_robin: false,
        server_fast_close: false,
        server_reset_query: "DISCARD ALL".into(),
        server_reset_query_always: false,
        disable_pqexec: false,
        level: Level::Safe,
        on_pin: OnPin::Allow,
        sequence_affinity: SequenceAffinity::Pin,
        pin_idle_limit: 0,
        catalogue_refresh: 0,
        max_prepared_statements: 200,
        transaction_timeout: 0,
        idle_transaction_timeout: 0,
        query_timeout: 0,
        client_idle_timeout: 0,
    }
}
