//! A worker's part of a pool: its idle servers, its waiters, and how its endpoints do.
//!
//! The limit is over all workers ([`shared`]). Waiters are served in order of arrival. A full pool says nothing
//! about the health of its endpoints, and a sick endpoint closes nothing that works ([`endpoints`]).

pub mod balance;
pub mod census;
pub mod endpoints;
pub mod greetings;
pub mod health;
pub mod holding;
pub mod limited;
pub mod shared;
pub mod turns;

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_sql::catalogue::Catalogue;

use crate::auth::ServerSecret;
use crate::config::PoolSettings;
use crate::session::client::ClientKey;
use crate::session::server::ServerKey;
use crate::stats::LabelledPool;
use crate::tables::Database;
use crate::time::Instant;
use crate::tracking::knowledge::Knowledge;
use endpoints::Endpoints;
use greetings::Greetings;
use shared::{Permits, PoolShared};

/// Names a pool of this worker: dense, and that of another once it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(pub u32);

/// A client's wish for a server.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// Who wishes.
    pub client: ClientKey,
    /// Since when: the same as the client's state, or the wish is over.
    pub since: Instant,
}

/// One worker's part of a pool.
pub struct Pool {
    /// The database's name here.
    pub database: Arc<str>,
    /// The user that its servers are logged in as.
    pub user: Arc<str>,
    /// What the tables say of the database.
    pub target: Database,
    /// What holds for its clients.
    pub settings: PoolSettings,
    /// What it shares with the other workers.
    pub shared: Arc<PoolShared>,
    /// Idle servers, the one freed last at the back: it is taken first, so that surplus ones age.
    pub idle: VecDeque<ServerKey>,
    /// Wishes in order of arrival; those whose client has gone or been served are skipped.
    pub waiters: VecDeque<Waiter>,
    /// Servers of this worker, in any state.
    pub servers: u32,
    /// Those that are not logged in yet.
    pub opening: u32,
    /// Those that a client holds, or that are being cleaned after one.
    pub leased: u32,
    /// Those that are being reset.
    pub resetting: u32,
    /// What is known of the database, for all workers.
    pub knowledge: Arc<Knowledge>,
    /// The same, as this worker last looked.
    pub catalogue: Arc<Catalogue>,
    pub(crate) catalogue_version: u32,
    /// The pool of the replicas that its clients' reads go to, once one did.
    pub replicas: Option<PoolId>,
    /// Where its servers are, and how they do there.
    pub endpoints: Endpoints,
    /// What its servers are told when they ask who we are.
    pub secret: Option<ServerSecret>,
    /// Its servers are for replication: each is opened for one client, and ends with it.
    pub is_replication: bool,
    /// Clients wait until RESUME.
    pub is_paused: bool,
    /// Clients wait until the cluster has an endpoint for them: [`crate::cluster::roles`].
    pub is_held: bool,
    /// One of the two: what the path asks.
    pub is_shut: bool,
    /// The database is gone from the configuration.
    pub is_removed: bool,
    /// It was forgotten: another pool may take its slot.
    pub is_vacant: bool,
    /// Until then none of its servers is kept while it has no clients.
    pub cleared_until: Instant,
    /// The client for which that is, which does not count as one.
    pub cleared_by: u64,
    /// When the reserve is looked at next, if that is set.
    pub reserve_armed: Option<Instant>,
    /// Another worker has been asked for an idle server.
    pub is_asking: bool,
    /// When those who wait were last counted, as there are as many as may be.
    pub counted_at: Instant,
    /// When a server that others could use was last compared with the waiters of other workers.
    pub looked_at: Instant,
    /// When the other workers were last asked to make room in the database.
    pub room_asked_at: Instant,
    /// Some limit over several pools holds for it.
    pub is_limited: bool,
    /// When it was last compared with others under such a limit.
    pub compared_at: Instant,
    /// Counters.
    pub stats: Arc<LabelledPool>,
    /// What its clients are told at their login.
    pub greetings: Greetings,
}

impl Pool {
    /// A pool without servers.
    pub fn new(
        user: Arc<str>,
        (target, endpoints): (Database, Endpoints),
        settings: PoolSettings,
        shared: Arc<PoolShared>,
        stats: Arc<LabelledPool>,
        knowledge: Arc<Knowledge>,
    ) -> Pool {
        Pool {
            database: stats.database.clone(),
            user,
            target,
            settings,
            shared,
            reserve_armed: None,
            idle: VecDeque::new(),
            waiters: VecDeque::new(),
            servers: 0,
            opening: 0,
            leased: 0,
            resetting: 0,
            knowledge,
            catalogue: Catalogue::builtin(),
            catalogue_version: 0,
            replicas: None,
            endpoints,
            secret: None,
            is_replication: false,
            is_paused: false,
            is_held: false,
            is_shut: false,
            is_removed: false,
            is_vacant: false,
            cleared_until: Instant(0),
            cleared_by: 0,
            is_asking: false,
            looked_at: Instant(0),
            room_asked_at: Instant(0),
            is_limited: false,
            counted_at: Instant(0),
            compared_at: Instant(0),
            stats,
            greetings: Greetings::default(),
        }
    }

    /// Takes one out of those who wait: the first, as a rule.
    #[inline]
    pub(crate) fn take_waiter(&mut self, waiter: Waiter) {
        let is_it = |other: &Waiter| other.client == waiter.client && other.since == waiter.since;
        if let Some(at) = self.waiters.iter().position(is_it) {
            self.waiters.remove(at);
        }
    }

    /// PAUSE, or the end of it.
    pub fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
        self.is_shut = is_paused || self.is_held;
    }

    /// There is no endpoint for its clients, or there is one again.
    pub fn set_held(&mut self, is_held: bool) {
        self.is_held = is_held;
        self.is_shut = is_held || self.is_paused;
    }

    /// Whether its endpoints can't be reached and it has no server.
    fn is_sick(&self) -> bool {
        self.endpoints.sickness().is_some() && self.servers == self.opening
    }

    /// Empties the slot of a pool that is forgotten. Whatever looks at all pools finds nothing to do in it.
    pub(crate) fn vacate(&mut self) {
        self.measure_reach(false);
        (self.is_vacant, self.is_removed, self.is_replication, self.is_limited) = (true, true, false, false);
        let nobody: Arc<str> = Arc::from("");
        (self.database, self.user) = (nobody.clone(), nobody);
        self.target.endpoints = Arc::from([]);
        self.target.forced_credential = None;
        (self.shared, self.stats) = (PoolShared::nowhere(), Arc::default());
        (self.knowledge, self.catalogue, self.catalogue_version) = (Arc::default(), Catalogue::builtin(), 0);
        self.endpoints = Endpoints::none();
        (self.idle, self.waiters) = (VecDeque::new(), VecDeque::new());
        (self.secret, self.greetings, self.replicas) = (None, Greetings::default(), None);
    }

    /// Whether somebody counts on its servers: those of another worker, or of another process.
    pub(crate) fn has_permits(&self) -> bool {
        !self.is_replication && self.shared.permits.used() > 0
    }

    /// How many servers there may be: with the reserve, once somebody has waited long enough for it.
    pub fn size_max(&self, now: Instant) -> u32 {
        let size = self.settings.pool_size;
        let is_reserve_due = self.reserve_due().is_some_and(|due| due <= now);
        if is_reserve_due && size != 0 { size.saturating_add(self.settings.reserve_pool_size) } else { size }
    }

    /// When the oldest waiter may have a server of the reserve, if there is one.
    pub fn reserve_due(&self) -> Option<Instant> {
        let waiter = self.waiters.front().filter(|_| self.settings.reserve_pool_size > 0)?;
        Some(Instant(waiter.since.0.saturating_add(self.settings.reserve_pool_timeout)))
    }

    /// How many servers its database may have over all its pools.
    pub fn database_limit(&self, now: Instant) -> Option<u32> {
        let own = Some(self.settings.max_db_connections).filter(|limit| *limit != 0);
        let share = Some(self.shared.of_database.share()).filter(|_| self.is_budgeted()).map(|share| share.most(now));
        own.into_iter().chain(share).min()
    }

    /// Whether its servers are lent by those that share them with this process.
    pub fn is_budgeted(&self) -> bool {
        self.target.config.is_budgeted && !self.is_replication
    }

    /// Whether there are more servers than a changed configuration, or what is left of a share, allows.
    pub fn is_over_limit(&self, now: Instant) -> bool {
        let is_over = |permits: &Permits, limit: u32| limit != 0 && permits.used() > limit;
        // What the reserve has given stays until it has been idle for long.
        let size = self.settings.pool_size;
        let with_reserve = if size == 0 { 0 } else { size.saturating_add(self.settings.reserve_pool_size) };
        is_over(&self.shared.permits, with_reserve)
            || self.database_limit(now).is_some_and(|limit| self.shared.of_database.used() > limit)
    }

    /// Gauges of its servers. They are set anew whenever one comes or goes, for the sum over all workers is looked at:
    /// one that has moved must not be counted twice.
    pub(crate) fn measure_servers(&self) {
        let (stats, idle) = (&self.stats.stats, self.idle.len() as u64);
        stats.servers_idle.set(idle);
        stats.servers_active.set(u64::from(self.leased));
        stats.servers_other.set(u64::from(self.servers).saturating_sub(idle + u64::from(self.leased)));
    }

    /// Gauges of whether its endpoints can be reached; true where they can't.
    pub(crate) fn measure_reach(&self, is_open: bool) -> bool {
        let (stats, is_sick) = (&self.stats.stats, is_open && self.is_sick());
        stats.is_open.set(u64::from(is_open));
        stats.is_sick.set(u64::from(is_sick));
        is_sick
    }

    /// `database/user`, as errors and the log name it.
    pub fn label(&self) -> String {
        format!("{}/{}", self.database, self.user)
    }
}
