//! How servers and requests are shared among the endpoints of a database.

use std::sync::Arc;

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

/// What is said of an endpoint, by the configuration or by a source of topology. Of others nothing is: a weight of 1, and not near.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preference {
    /// Which one, as in the list of endpoints.
    pub endpoint: Arc<str>,
    /// Its part of the requests beside the weights of the others; 0: none, as long as one with a weight serves.
    pub weight: u8,
    /// Where it is, in the words of who says so; empty: nobody does.
    pub zone: Arc<str>,
    /// That is where this forebay is.
    pub is_near: bool,
}
