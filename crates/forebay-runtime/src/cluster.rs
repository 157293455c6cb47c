//! What those who watch clusters, or share servers with other processes, need of the engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use forebay_core::cluster::{Cluster, Node};
use forebay_core::command::{Command, CommandId};
use forebay_core::time::Instant;

use crate::engine::Engine;

/// A cluster's endpoints, which those who ask them tell of.
pub type Watched = Arc<Mutex<Cluster>>;

/// The clusters that are watched, by their databases, for the metrics.
#[derive(Default)]
pub(crate) struct Clusters(Mutex<BTreeMap<Arc<str>, Weak<Mutex<Cluster>>>>);

impl Clusters {
    fn watch(&self, database: &str, cluster: &Watched) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(database.into(), Arc::downgrade(cluster));
    }

    /// The endpoints of all of them, as they stand. Those that nobody watches any more are forgotten.
    pub(crate) fn endpoints(&self) -> Vec<(Arc<str>, Node)> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, cluster| cluster.strong_count() > 0);
        let mut endpoints = Vec::new();
        for (database, cluster) in known.iter().filter_map(|(name, weak)| Some((name, weak.upgrade()?))) {
            let cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
            endpoints.extend(cluster.nodes().iter().map(|node| (database.clone(), node.clone())));
        }
        endpoints
    }
}

impl Engine {
    /// When the engine's time begins, in microseconds of the system's monotonic clock.
    pub fn clock_origin(&self) -> u64 {
        self.hub.clock.origin()
    }

    /// From here on the metrics tell of the endpoints of `database`, for as long as the caller holds `cluster`.
    pub fn watch(&self, database: &str, cluster: &Watched) {
        self.hub.clusters.watch(database, cluster);
    }

    /// The process may have so many servers of a database until then, in microseconds of the system's monotonic clock, and
    /// at most `after` from there on. It holds at once, and workers act on it as they come to.
    pub fn share(&self, database: &str, servers: u32, until_us: u64, after: u32) -> CommandId {
        let until = Instant(until_us.saturating_sub(self.clock_origin()).max(1));
        self.shared.of_database(database).share().set(servers, until, after);
        self.command(None, &Command::Share(database.into()))
    }

    /// How many servers of a database there are, over all its pools.
    pub fn servers_of(&self, database: &str) -> u32 {
        self.shared.of_database(database).used()
    }

    /// Whether a replica has refused a text of the database `dbname`, which was taken for a reading one.
    pub fn was_refused(&self, endpoint: &str, dbname: &str, text: &[u8]) -> bool {
        self.shared.known(endpoint, dbname).is_some_and(|known| known.was_refused(text))
    }
}
