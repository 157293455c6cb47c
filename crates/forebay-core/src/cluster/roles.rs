//! What the workers make of the roles of a cluster's endpoints: a pool has the endpoints that serve its clients, and while
//! there is none, its clients wait.
//!
//! | of a pool's servers, those at an endpoint | are |
//! |---|---|
//! | that serves its clients | used |
//! | that does so no longer, and may again | closed when they come free |
//! | that can write and must not, or in whose place another one takes the writes | closed at once: what they would still acknowledge is lost |

use std::sync::Arc;
use std::time::Duration;

use crate::config::Role;
use crate::event::Level;
use crate::io::{Close, Io};
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::pool::endpoints::Place;
use crate::question::Question;
use crate::session::server::ServerState;
use crate::tables::{Database, Tables};
use crate::time::Instant;
use crate::worker::Worker;

use super::Standing;
use super::holds::{Holds, Serving};
use super::progress::Replayed;

/// Why a server is closed whose endpoint serves others now, or nobody.
const ROLE_LOST: &str = "the endpoint has another role";

/// A database's endpoints are asked again by one worker no sooner than this after it had them asked.
const SUSPECT_AGAIN: Duration = Duration::from_millis(50);

/// An endpoint's role, as it was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The endpoint, as configured.
    pub name: Arc<str>,
    /// What it is.
    pub serves: Serves,
}

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// All.
    Writes,
    /// Reads.
    Reads,
    /// Nobody at the moment.
    Nobody,
    /// The same, for a switchover moves what it did.
    Leaving,
    /// Nobody, and what is under way there ends.
    Barred,
}

impl From<Standing> for Serves {
    fn from(standing: Standing) -> Serves {
        match standing {
            Standing::Primary => Serves::Writes,
            Standing::Replica => Serves::Reads,
            Standing::Unknown | Standing::Down | Standing::Lagging | Standing::Astray | Standing::Unnamed => {
                Serves::Nobody
            }
            Standing::Held => Serves::Leaving,
            Standing::Stranger | Standing::Deposed | Standing::Contested | Standing::Relieved => Serves::Barred,
        }
    }
}

/// What a worker knows of a cluster.
pub(crate) struct Known {
    found: Arc<[Found]>,
    pub(super) replayed: Replayed,
    pub(super) holds: Holds,
    suspected_at: Instant,
}

impl Known {
    fn serves(&self, name: &str) -> Serves {
        self.found.iter().find(|found| *found.name == *name).map_or(Serves::Nobody, |found| found.serves)
    }
}

/// Whether the endpoint of a place is among those of others. A reload may have changed how its servers are opened, which
/// is no reason to cut one.
fn is_among(places: &[Arc<Place>], place: &Place) -> bool {
    places.iter().any(|serving| serving.name == place.name)
}

/// Whether the database is one whose endpoints have roles.
fn has_cluster(tables: &Tables, database: &str) -> bool {
    tables.database(database).is_some_and(|database| database.config.cluster.is_some())
}

impl<I: Io> Worker<I> {
    /// Roles of databases that have none any more are not to be believed when they have some again.
    pub(crate) fn forget_roles(&mut self) {
        let tables = self.tables.clone();
        self.clusters.retain(|database, _| has_cluster(&tables, database));
    }

    /// The endpoints that serve the clients of `database`, which asked for it by `asked`; `None`: there is none.
    pub(crate) fn places(&self, database: &Database, asked: &str) -> Option<Vec<Arc<Place>>> {
        let all = Place::all(database, asked);
        let Some(cluster) = database.config.cluster else { return Some(all) };
        let known = self.clusters.get(&database.config.name)?;
        let is_meant = |place: &Arc<Place>| match (known.serves(&place.name), cluster.role) {
            (Serves::Writes, Role::Primary | Role::Any) | (Serves::Reads, Role::Replica | Role::Any) => true,
            (Serves::Writes, Role::Replica) | (Serves::Reads, Role::Primary) => false,
            (Serves::Nobody | Serves::Leaving | Serves::Barred, _) => false,
        };
        let places: Vec<_> = all.into_iter().filter(is_meant).collect();
        (!places.is_empty()).then_some(places)
    }

    /// The roles of a database's endpoints have been found.
    pub(crate) fn take_roles(&mut self, io: &mut I, database: &Arc<str>, found: Arc<[Found]>, replayed: Replayed) {
        // None: told before the word of a reload had reached whoever asks.
        let Some(cluster) = self.tables.database(database).and_then(|known| known.config.cluster) else { return };
        let knows_primary = |known: &Known| known.found.iter().any(|found| found.serves == Serves::Writes);
        if planted(Bug::StaleRoleBelieved) && self.clusters.get(database).is_some_and(knows_primary) {
            return;
        }
        let mut holds = self.clusters.remove(database).map(|known| known.holds).unwrap_or_default();
        let serving = Serving::of(cluster.role, &found);
        if holds.follow(serving, cluster.holds_per_hour_max, self.now) {
            self.log_refusal(io, database, cluster);
        }
        let known = Known { found, replayed, holds, suspected_at: self.now };
        self.clusters.insert(database.clone(), known);
        for index in 0..self.pools.len() {
            let pool = &self.pools[index];
            let is_meant = pool.target.config.name == *database && pool.target.config.cluster.is_some();
            if is_meant && !pool.is_vacant {
                self.follow_roles(io, PoolId(index as u32));
            }
        }
    }

    /// Gives a pool the endpoints that serve its clients.
    pub(crate) fn follow_roles(&mut self, io: &mut I, id: PoolId) {
        let pool = &self.pools[id.0 as usize];
        let places = self.places(&pool.target, &pool.database);
        let was_held = pool.is_held;
        // First of all, no idle server is handed out that must not be: what is cut may be begun again at once.
        match &places {
            Some(places) => {
                let is_moved = !self.pool(id).endpoints.iter().map(|endpoint| &endpoint.place).eq(places);
                if is_moved {
                    self.move_pool(io, id, places.clone());
                }
                let pool = self.pool(id);
                pool.endpoints.weigh(&pool.target.config.preferences);
                self.cut_servers(io, id, Some(places));
                self.cut_listeners(io, id, Some(places));
                self.pool(id).set_held(was_held && planted(Bug::HeldForgotten));
                if !(was_held && planted(Bug::HeldUnsupplied)) {
                    self.supply(io, id);
                }
            }
            None => {
                self.pool(id).set_held(!planted(Bug::HoldReleasedEarly));
                self.cut_servers(io, id, None);
                self.cut_listeners(io, id, None);
                self.send_home(io, id);
                self.mark_for_closing(io, ROLE_LOST, |server, _| server.pool == id);
            }
        }
        let pool = self.pool(id);
        if was_held != pool.is_held {
            let waiting = pool.waiters.len() as u64;
            let fields = vec![("pool", pool.label().into()), ("waiting", waiting.into())];
            let name = if pool.is_held { "pool_held" } else { "pool_goes_on" };
            self.log(io, Level::Info, name, fields);
            self.tell_waiters_of_refusal(id);
        }
    }

    /// A server that has come from another process is closed as those are that were here when the roles were told.
    pub(crate) fn cut_arrived(&mut self, io: &mut I, id: PoolId) {
        let pool = &self.pools[id.0 as usize];
        if pool.target.config.cluster.is_some() {
            let places = self.places(&pool.target, &pool.database);
            self.cut_servers(io, id, places.as_deref());
        }
    }

    /// Closes servers that are in use at endpoints that may acknowledge nothing more.
    fn cut_servers(&mut self, io: &mut I, id: PoolId, places: Option<&[Arc<Place>]>) {
        let pool = &self.pools[id.0 as usize];
        let Some(cluster) = pool.target.config.cluster else { return };
        let Some(known) = self.clusters.get(&pool.target.config.name) else { return };
        if planted(Bug::DeposedServersKept) {
            return;
        }
        let is_cut = |place: &Arc<Place>| {
            let is_gone = places.is_some_and(|places| !is_among(places, place));
            known.serves(&place.name) == Serves::Barred || cluster.role == Role::Primary && is_gone
        };
        let is_used = |state: ServerState| {
            matches!(state, ServerState::Leased | ServerState::Busy | ServerState::Cleaning | ServerState::CancelWait)
        };
        let cut = self.servers.iter().filter(|(_, server)| {
            server.pool == id && server.apart.is_none() && is_used(server.state) && is_cut(&server.place)
        });
        for key in cut.map(|(key, _)| key).collect::<Vec<_>>() {
            if let Some(server) = self.servers.get(key) {
                let conn = server.conn;
                self.close_conn(io, conn, Close::Now);
                self.server_lost(io, key, ROLE_LOST);
            }
        }
    }

    /// Closes listeners at endpoints where their clients' notifications are not any more. One that takes such a one's place
    /// has heard nothing of what was said meanwhile, so that its clients are told of the loss. An endpoint that does not
    /// answer may be the same afterwards.
    fn cut_listeners(&mut self, io: &mut I, id: PoolId, places: Option<&[Arc<Place>]>) {
        let pool = &self.pools[id.0 as usize];
        let Some(known) = pool.target.config.cluster.and(self.clusters.get(&pool.target.config.name)) else { return };
        let is_cut = |place: &Place| {
            let is_gone = places.is_some_and(|places| !is_among(places, place));
            is_gone || known.serves(&place.name) == Serves::Barred
        };
        let cut = self.servers.iter().filter(|(_, s)| s.pool == id && s.is_listener() && is_cut(&s.place));
        for key in cut.map(|(key, _)| key).collect::<Vec<_>>() {
            self.retire(io, key, ROLE_LOST);
        }
    }

    /// A server was lost, or could not be opened: its cluster is looked at, before its turn.
    #[cold]
    pub(crate) fn suspect(&mut self, io: &mut I, id: PoolId) {
        let pool = &self.pools[id.0 as usize];
        if pool.target.config.cluster.is_none() {
            return;
        }
        let (database, now) = (pool.target.config.name.clone(), self.now);
        if let Some(known) = self.clusters.get_mut(&database)
            && known.suspected_at + SUSPECT_AGAIN <= now
        {
            known.suspected_at = now;
            self.tell_python(io, Question::Suspect { database });
        }
    }
}
