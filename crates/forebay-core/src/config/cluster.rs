//! What a database has of the cluster that its endpoints are.

use serde::Deserialize;

/// What a database has of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Which endpoints serve its clients.
    pub role: Role,
    /// Reads of its clients go to the replicas.
    pub is_split: bool,
}

/// Which endpoints of a cluster serve a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that takes writes.
    Primary,
    /// Those that follow it.
    Replica,
    /// Both.
    Any,
}
