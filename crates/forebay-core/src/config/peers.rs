//! The part of the configuration that is about other poolers behind the same address.

use std::sync::Arc;

use serde::Deserialize;

/// Poolers to which cancel requests may come that are meant for another of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peers {
    /// This one's number; 0: it has none, and keys of clients name nobody.
    pub own: u16,
    /// The others.
    pub others: Vec<PeerConfig>,
}

/// One of the others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Its number, in the keys of its clients.
    pub id: u16,
    /// Where it listens: `host:port`, `[v6]:port` or a Unix socket's path.
    pub endpoint: Arc<str>,
    /// Requests that are passed to it at once, the others wait; 0: no limit.
    pub pool_size: u32,
}
