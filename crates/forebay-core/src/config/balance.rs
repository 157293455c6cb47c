//! How servers and requests are shared among the endpoints of a database.

use serde::Deserialize;

/// Which of several endpoints the next server is opened at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadBalanceHosts {
    /// Each in its turn.
    RoundRobin,
    /// The one in use, until it fails.
    Disable,
}

/// By what the requests of a pool are shared among its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalance {
    /// In turn, and those that answer slowly have fewer.
    Latency,
    /// The one with the fewest requests under way.
    LeastBusy,
    /// In turn.
    RoundRobin,
}
