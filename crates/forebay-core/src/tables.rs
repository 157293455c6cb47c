//! A configuration made ready for the path: looked up by name, secrets parsed, verifiers derived.
//!
//! Built off the loops, shared by all workers, replaced as a whole by a reload.

use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::auth::access::{Arrival, Demand, Maps, Rules};
use crate::auth::{Credential, MockSecret, Random};
use crate::config::{
    ClusterConfig, DatabaseConfig, EngineConfig, Peers, PoolSettings, Role, SecretText, ServerTls, UserConfig,
};
use crate::io::{Endpoint, Peer};
use crate::misses::Source;
use crate::proxied::Network;

/// As many misses of cancel keys as of so many others are a peer's: what one source may have it pass on is a small part of that.
const SOURCES_OF_A_PEER: u32 = 64;

/// What the names of pools of replicas end with, which stand beside a database's own. No database has such a name.
const REPLICAS: &str = ":replicas";

/// The name of the pools of replicas beside those of a database.
pub(crate) fn replicas_of(database: &str) -> String {
    format!("{database}{REPLICAS}")
}

/// Whether a pool of this name is one of replicas beside a database's own.
pub(crate) fn is_of_replicas(name: &str) -> bool {
    name.ends_with(REPLICAS)
}

/// The database that a pool of this name is of.
pub(crate) fn database_of(name: &str) -> &str {
    name.strip_suffix(REPLICAS).unwrap_or(name)
}

/// Shared by all workers, replaced as a whole by a reload.
#[derive(Debug)]
pub struct Tables {
    /// As resolved by Python.
    pub config: EngineConfig,
    /// What unknown users are checked against. The same over all reloads.
    pub mock: MockSecret,
    databases: FxHashMap<Arc<str>, Database>,
    /// Of databases whose reads go to replicas: the same, for these.
    replicas: FxHashMap<Arc<str>, Database>,
    fallback_database: Option<Database>,
    users: FxHashMap<Arc<str>, User>,
    rules: Option<Rules>,
    maps: Maps,
    peers: FxHashMap<u16, PeerTarget>,
    proxies: Vec<Network>,
}

/// A database, ready to be used.
#[derive(Clone, Debug)]
pub struct Database {
    /// As configured.
    pub config: Arc<DatabaseConfig>,
    /// `config.endpoints`, parsed.
    pub endpoints: Arc<[Endpoint]>,
    /// What `config.tls` is an index of.
    pub tls: Option<Arc<ServerTls>>,
    /// `config.forced_secret`, parsed.
    pub forced_credential: Option<Credential>,
    /// This is `*`: its name on the server is the one that was asked for.
    pub is_fallback: bool,
}

impl Database {
    /// The name on the server, for clients that ask for `asked`.
    pub fn dbname<'a>(&'a self, asked: &'a str) -> &'a str {
        if self.is_fallback { asked } else { &self.config.dbname }
    }

    /// The same for the reads of its clients, where those go elsewhere.
    fn for_replicas(&self) -> Option<Database> {
        let cluster = self.config.cluster.filter(|cluster| cluster.is_split)?;
        let cluster = Some(ClusterConfig { role: Role::Replica, is_split: false, ..cluster });
        let config = DatabaseConfig { cluster, checks_commits: false, ..(*self.config).clone() };
        Some(Database { config: Arc::new(config), ..self.clone() })
    }
}

/// A user known beforehand, ready to log in.
#[derive(Clone, Debug)]
pub struct User {
    /// As configured.
    pub config: Arc<UserConfig>,
    /// `config.secret`, parsed.
    pub credential: Option<Credential>,
}

/// Another pooler behind the same address, ready to be used.
#[derive(Clone, Debug)]
pub struct PeerTarget {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Requests that are passed to it at once.
    pub pool_size: u32,
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Such as `databases.shop.endpoints[0]`.
    pub path: String,
    /// In words, without a secret.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Tables {
    /// Prepares `config`. Costs a PBKDF2 for every plain password not in `before`: never called on a loop.
    ///
    /// Refuses a malformed endpoint or secret, and a name used twice.
    pub fn build(config: EngineConfig, before: Option<&Tables>, random: Random<'_>) -> Result<Tables, ConfigError> {
        let mut databases = FxHashMap::default();
        for database in &config.databases {
            let path = format!("databases.{}", database.name);
            let ready = prepare_database(database, &config.server_tls, &path, false)?;
            if database.name.ends_with(REPLICAS) {
                return Err(ConfigError { path, message: format!("a database's name can't end with {REPLICAS}") });
            }
            if databases.insert(database.name.clone(), ready).is_some() {
                return Err(ConfigError { path, message: String::from("the name is used twice") });
            }
        }
        let replicas = databases.values().filter_map(Database::for_replicas);
        let replicas = replicas.map(|database| (database.config.name.clone(), database)).collect();
        let fallback_database = config
            .fallback_database
            .as_ref()
            .map(|database| prepare_database(database, &config.server_tls, "databases.*", true))
            .transpose()?;
        let mut users = FxHashMap::default();
        let iterations = config.auth.access.iterations();
        let before_alike = before.filter(|before| before.config.auth.access.iterations() == iterations);
        for user in &config.users {
            let path = format!("users.{}", user.name);
            let ready = prepare_user(user, &path, before_alike, iterations, random)?;
            if users.insert(user.name.clone(), ready).is_some() {
                return Err(ConfigError { path, message: String::from("the name is used twice") });
            }
        }
        let peers = prepare_peers(&config.peers)?;
        let proxies = prepare_proxies(&config.listen.proxy_from)?;
        let mock = before.map_or_else(|| MockSecret::new(random), |before| before.mock.clone());
        let mock = disguise(&mock, &users, iterations);
        let access = &config.auth.access;
        let faulty = |what: &str, (index, message): (usize, String)| ConfigError {
            path: format!("auth.access.{what}[{index}]"),
            message,
        };
        let rules = access.rules.as_deref().map(Rules::build).transpose().map_err(|e| faulty("rules", e))?;
        let maps = Maps::build(&access.maps).map_err(|e| faulty("maps", e))?;
        Ok(Tables { config, mock, databases, replicas, fallback_database, users, rules, maps, peers, proxies })
    }

    /// The database that clients ask for by `name`, or `*`.
    pub fn database(&self, name: &str) -> Option<&Database> {
        if name.ends_with(REPLICAS) {
            // Who asked for it would get past what is said of the database itself.
            return None;
        }
        self.databases.get(name).or(self.fallback_database.as_ref())
    }

    /// What the pools of that name are of: as [`Self::database`], and those of replicas.
    pub fn pool_target(&self, name: &str) -> Option<&Database> {
        match name.strip_suffix(REPLICAS) {
            Some(of) => self.replicas.get(of),
            None => self.database(name),
        }
    }

    /// What is asked of a client; `None`: no rule fits it, and it is turned away.
    pub fn demand(&self, arrival: Arrival<'_>) -> Option<Demand> {
        match &self.rules {
            Some(rules) => rules.decide(arrival).cloned(),
            None => Some(Demand::of_method(self.config.auth.method, self.config.auth.access.service)),
        }
    }

    /// Which user of the system, or of a certificate, may log in as whom.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Whether a database has an endpoint at the host of that name.
    pub fn has_host(&self, name: &str) -> bool {
        let at = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tcp { host, .. } if **host == *name);
        self.databases.values().chain(&self.fallback_database).any(|database| database.endpoints.iter().any(at))
    }

    /// The user of that name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The peer of that number.
    pub fn peer(&self, id: u16) -> Option<&PeerTarget> {
        self.peers.get(&id)
    }

    /// Networks whose connections begin with a header of the PROXY protocol.
    pub fn proxies(&self) -> &[Network] {
        &self.proxies
    }

    /// How many sources a source may stand for: a peer passes on what came to it from others.
    pub fn sources_behind(&self, source: Source) -> u32 {
        let is_peer = self.peers.values().any(|peer| match (&peer.endpoint, source) {
            (Endpoint::Tcp { host, .. }, Source::Address(address)) => host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|host| Source::of(&Peer::Tcp(host, 0)) == Source::Address(address)),
            (Endpoint::Unix(_), Source::User(_)) => true,
            _ => false,
        });
        if is_peer { SOURCES_OF_A_PEER } else { 1 }
    }

    /// The settings of the pool of (database, user): the database's, with what the user overrides.
    pub fn pool_settings(&self, database: &str, user: &str) -> Option<PoolSettings> {
        let mut pool = self.pool_target(database)?.config.pool.clone();
        if let Some(user) = self.user(user) {
            override_by(&mut pool, &user.config);
        }
        Some(pool)
    }

    /// Whether `user` may do everything on the console.
    pub fn is_admin(&self, user: &str) -> bool {
        self.config.console.admins.iter().any(|name| **name == *user)
    }

    /// Whether `user` may look at the console; admins may.
    pub fn is_viewer(&self, user: &str) -> bool {
        self.is_admin(user) || self.config.console.viewers.iter().any(|name| **name == *user)
    }
}

/// Reads `host:port`, `[v6]:port`, or the absolute path of a Unix socket.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    if text.starts_with('/') {
        return Ok(Endpoint::Unix(text.into()));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) =
                rest.split_once("]:").ok_or_else(|| format!("\"{text}\" is not of the form [v6]:port"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("\"{host}\" is not an IPv6 address"));
            }
            (host, port)
        }
        None => text.rsplit_once(':').ok_or_else(|| format!("\"{text}\" has no port; write \"{text}:5432\""))?,
    };
    if host.is_empty() {
        return Err(format!("\"{text}\" has no host"));
    }
    if !text.starts_with('[') && host.contains(':') {
        return Err(format!("\"{text}\" is ambiguous; an IPv6 address stands in brackets: [v6]:port"));
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(format!("\"{host}\" is not a host name"));
    }
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if is_number && port > 0 => Ok(Endpoint::Tcp { host: host.into(), port }),
        _ => Err(format!("\"{port}\" is not a port from 1 to 65535")),
    }
}

fn prepare_database(
    config: &DatabaseConfig,
    server_tls: &[ServerTls],
    path: &str,
    is_fallback: bool,
) -> Result<Database, ConfigError> {
    if config.endpoints.is_empty() {
        return Err(ConfigError { path: format!("{path}.endpoints"), message: String::from("there is none") });
    }
    let endpoints = config.endpoints.iter().enumerate().map(|(index, text)| {
        parse_endpoint(text).map_err(|message| ConfigError { path: format!("{path}.endpoints[{index}]"), message })
    });
    let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?.into();
    // Towards servers no verifier is needed, hence no PBKDF2 here.
    let forced_credential = config.forced_secret.as_ref().map(|secret| Credential::parse(&secret.0)).transpose();
    let forced_credential = forced_credential
        .map_err(|error| ConfigError { path: format!("{path}.forced_secret"), message: error.to_string() })?;
    if let Some(Credential::Scram(_)) = forced_credential {
        let message = "a SCRAM verifier can't log in to a server; a forced user needs its password".into();
        return Err(ConfigError { path: format!("{path}.forced_secret"), message });
    }
    let tls = server_tls.get(config.tls as usize).cloned().map(Arc::new);
    // Elsewhere the next server may be a replica for good, which could never tell what became of a COMMIT.
    let is_of_primary = config.cluster.is_none_or(|cluster| cluster.role == Role::Primary);
    let config = DatabaseConfig { checks_commits: config.checks_commits && is_of_primary, ..config.clone() };
    Ok(Database { config: Arc::new(config), endpoints, tls, forced_credential, is_fallback })
}

fn prepare_peers(peers: &Peers) -> Result<FxHashMap<u16, PeerTarget>, ConfigError> {
    let mut ready = FxHashMap::default();
    for peer in &peers.others {
        let path = format!("peers.{}", peer.id);
        let endpoint = parse_endpoint(&peer.endpoint)
            .map_err(|message| ConfigError { path: format!("{path}.endpoint"), message })?;
        if ready
            .insert(
                peer.id,
                PeerTarget { endpoint, pool_size: if peer.pool_size == 0 { u32::MAX } else { peer.pool_size } },
            )
            .is_some()
        {
            return Err(ConfigError { path, message: String::from("the number is used twice") });
        }
    }
    Ok(ready)
}

fn prepare_proxies(networks: &[Arc<str>]) -> Result<Vec<Network>, ConfigError> {
    let ready = networks.iter().enumerate().map(|(index, text)| {
        let message = format!("\"{text}\" is not of the form address/length");
        Network::parse(text).ok_or_else(|| ConfigError { path: format!("listen.proxy_from[{index}]"), message })
    });
    ready.collect()
}

fn prepare_user(
    config: &UserConfig,
    path: &str,
    before: Option<&Tables>,
    iterations: u32,
    random: Random<'_>,
) -> Result<User, ConfigError> {
    let credential = match &config.secret {
        None => None,
        Some(secret) => match credential_of(before, &config.name, secret) {
            Some(credential) => Some(credential),
            None => Some(
                Credential::prepare(&secret.0, iterations, random)
                    .map_err(|error| ConfigError { path: format!("{path}.secret"), message: error.to_string() })?,
            ),
        },
    };
    Ok(User { config: Arc::new(config.clone()), credential })
}

/// The credential that `before` derived from the very same text.
fn credential_of(before: Option<&Tables>, name: &str, secret: &SecretText) -> Option<Credential> {
    let user = before?.user(name)?;
    if user.config.secret.as_ref() == Some(secret) { user.credential.clone() } else { None }
}

/// Makes unknown users look like most of the known ones.
fn disguise(mock: &MockSecret, users: &FxHashMap<Arc<str>, User>, derived: u32) -> MockSecret {
    let mut count_by_iterations = FxHashMap::<u32, usize>::default();
    let mut verifiers = 0;
    for user in users.values() {
        match &user.credential {
            Some(Credential::Scram(verifier)) => {
                verifiers += 1;
                *count_by_iterations.entry(verifier.iterations).or_default() += 1;
            }
            Some(Credential::Plain { .. }) => *count_by_iterations.entry(derived).or_default() += 1,
            Some(Credential::Md5(_)) | None => {}
        }
    }
    let most = count_by_iterations.into_iter().max_by_key(|&(iterations, count)| (count, iterations));
    mock.disguised(most.map_or(derived, |(iterations, _)| iterations), verifiers * 2 > users.len())
}

fn override_by(pool: &mut PoolSettings, user: &UserConfig) {
    fn set<T: Copy>(setting: &mut T, by: Option<T>) {
        *setting = by.unwrap_or(*setting);
    }
    set(&mut pool.pool_mode, user.pool_mode);
    set(&mut pool.pool_size, user.pool_size);
    set(&mut pool.reserve_pool_size, user.reserve_pool_size);
    set(&mut pool.query_timeout, user.query_timeout);
    set(&mut pool.query_wait_timeout, user.query_wait_timeout);
    set(&mut pool.transaction_timeout, user.transaction_timeout);
    set(&mut pool.idle_transaction_timeout, user.idle_transaction_timeout);
    set(&mut pool.client_idle_timeout, user.client_idle_timeout);
}

#[cfg(test)]
mod tests;
