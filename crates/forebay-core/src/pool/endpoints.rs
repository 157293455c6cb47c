//! The endpoints of a pool: which one the next server is opened at.
//!
//! A pool's servers may be at any of them. Each has its own health, which the workers share: of the host, for all its pools
//! (does anybody answer there?), and of the pool there (is it let in?). While one is well, those that are sick are tried
//! beside the pool, with a connection of their own, so that nobody waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::config::{LoadBalanceHosts, ServerTls};
use crate::io::Endpoint;
use crate::local_socket::LocalSocket;
use crate::pool::health::{Health, Healths, Sickness};
use crate::pool::turns::{CLOSINGS, Given};
use crate::tables::Database;
use crate::time::Instant;

/// Where a server is. One at an equal place is as good.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The endpoint, as configured.
    pub name: Arc<str>,
    /// The same, parsed.
    pub endpoint: Endpoint,
    /// The database there.
    pub dbname: Arc<str>,
    /// How it is encrypted; `None`: not at all. By value: a reload may number them anew.
    pub tls: Option<Arc<ServerTls>>,
    /// Parameters that its servers are opened with.
    pub parameters: Arc<[(Arc<str>, Arc<str>)]>,
    /// What is run on them before clients use them.
    pub connect_query: Arc<str>,
}

impl Place {
    /// Those of `database`, for clients that ask for `asked`.
    pub fn all(database: &Database, asked: &str) -> Vec<Arc<Place>> {
        let dbname: Arc<str> = database.dbname(asked).into();
        let parameters: Arc<[_]> = database.config.parameters.as_slice().into();
        let named = database.config.endpoints.iter().zip(&*database.endpoints);
        let place = |(name, endpoint): (&Arc<str>, &Endpoint)| Place {
            name: name.clone(),
            endpoint: endpoint.clone(),
            dbname: dbname.clone(),
            tls: database.tls.clone(),
            parameters: parameters.clone(),
            connect_query: database.config.connect_query.clone(),
        };
        named.map(|named| Arc::new(place(named))).collect()
    }

    /// Whether they differ in nothing but how they are encrypted.
    pub fn is_but_for_tls(&self, other: &Place) -> bool {
        let of = |place: &Place| {
            let Place { name, endpoint, dbname, tls: _, parameters, connect_query } = place;
            (name.clone(), endpoint.clone(), dbname.clone(), parameters.clone(), connect_query.clone())
        };
        of(self) == of(other)
    }
}

/// What a worker's part of a pool knows of one of its endpoints.
#[derive(Debug)]
pub struct PoolEndpoint {
    /// Which one it is.
    pub place: Arc<Place>,
    /// How the host does, as all pools know.
    pub host: Arc<Health>,
    /// How the pool does there, as all workers know.
    pub here: Arc<Health>,
    /// What is known of the Unix socket beside it.
    pub local: LocalSocket,
    /// It refused protocol 3.2.
    pub is_protocol_3_0: bool,
    /// With sslmode `allow`: a plain login was refused, TLS is tried.
    pub is_tls_asked_for: bool,
    /// Reported parameters that `connect_query` sets: servers are opened with them, so that RESET returns to them.
    pub learnt: Vec<(Arc<str>, Arc<str>)>,
    /// Its part of the requests, by what is said of it; 0: none, unless nobody else serves.
    pub weight: u32,
    /// What it has had of them.
    pub given: Given,
}

impl PoolEndpoint {
    /// Whether servers are opened there as they are wanted.
    pub fn is_well(&self, now: Instant) -> bool {
        self.host.is_well(now) && self.here.is_well(now)
    }

    fn next_try(&self, now: Instant) -> Instant {
        self.host.next_try(now).max(self.here.next_try(now))
    }

    fn claim(&self, max: Duration, now: Instant) -> bool {
        self.next_try(now) <= now && self.host.claim(max, now) && self.here.claim(max, now)
    }

    fn sickness(&self) -> Option<Sickness> {
        self.host.sickness().or_else(|| self.here.sickness())
    }
}

/// The endpoints of a pool; there is one at least, until it is forgotten.
#[derive(Debug)]
pub struct Endpoints {
    pub(super) all: Vec<PoolEndpoint>,
    /// Where the search for the next one begins, for all workers.
    turn: Arc<AtomicU32>,
    /// What the one has paid that was next last: [`crate::pool::turns`].
    pub(super) paid: u64,
    /// When it was last looked at how they do.
    pub looked_at: Instant,
    /// They are to be looked at again.
    pub is_look_armed: bool,
    /// Some servers are closed when they come free, as their endpoint is ejected.
    pub is_any_leaving: bool,
    /// Servers that may be closed so that another endpoint has one, and when one was last: counts of one worker change by lending,
    /// and what a look sees is no reason to go on for ever.
    pub(super) closings: (u32, Instant),
    /// The largest weight.
    pub(super) heaviest: u64,
    /// One that was short of servers when a request went to a lighter one, or to the primary.
    pub(super) short: Option<usize>,
    /// Requests answered since a server was last opened so that each endpoint has its part.
    pub asked: u32,
}

impl Endpoints {
    /// Those at `places`, none of which anything is known of but their healths. One that is not as it was has a fresh one.
    pub fn new(
        places: Vec<Arc<Place>>,
        hosts: &Healths<Arc<str>>,
        here: &Healths<Arc<Place>>,
        turn: Arc<AtomicU32>,
    ) -> Endpoints {
        let known = |place: Arc<Place>| PoolEndpoint {
            host: hosts.of(&place.name),
            here: here.of(&place),
            place,
            local: LocalSocket::default(),
            is_protocol_3_0: false,
            is_tls_asked_for: false,
            learnt: Vec::new(),
            weight: 1,
            given: Given::default(),
        };
        Endpoints::unasked(places.into_iter().map(known).collect(), turn)
    }

    /// Those of a pool that is none any more.
    pub fn none() -> Endpoints {
        Endpoints::unasked(Vec::new(), Arc::default())
    }

    fn unasked(all: Vec<PoolEndpoint>, turn: Arc<AtomicU32>) -> Endpoints {
        Endpoints {
            all,
            turn,
            paid: 0,
            looked_at: Instant(0),
            is_look_armed: false,
            is_any_leaving: false,
            closings: (CLOSINGS, Instant(0)),
            heaviest: 1,
            short: None,
            asked: 0,
        }
    }

    /// Keeps what is known of those that were there before.
    pub fn keep(&mut self, before: Endpoints) {
        (self.paid, self.looked_at, self.is_look_armed) = (before.paid, before.looked_at, before.is_look_armed);
        self.is_any_leaving = before.is_any_leaving;
        for known in before.all {
            if let Some(endpoint) = self.of(&known.place) {
                *endpoint = known;
            }
        }
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &PoolEndpoint> + Clone {
        self.all.iter()
    }

    /// Whether there is only one.
    pub fn is_single(&self) -> bool {
        self.all.len() < 2
    }

    /// The one at a place, if it is still among them.
    pub fn at(&self, place: &Place) -> Option<usize> {
        self.all.iter().position(|endpoint| *endpoint.place == *place)
    }

    /// The same, of servers that have been opened there: their place is as a rule the very same.
    pub fn index_of(&self, place: &Arc<Place>) -> Option<usize> {
        self.all.iter().position(|endpoint| endpoint.place == *place)
    }

    /// What the endpoint with a number has had: [`crate::session::server::Server::at`].
    pub fn given(&mut self, number: u8) -> Option<&mut Given> {
        self.all.get_mut(usize::from(number).checked_sub(1)?).map(|endpoint| &mut endpoint.given)
    }

    /// Where the first is.
    pub fn first_place(&self) -> Option<&Arc<Place>> {
        self.all.first().map(|endpoint| &endpoint.place)
    }

    /// One of them.
    pub fn get(&self, index: usize) -> &PoolEndpoint {
        &self.all[index]
    }

    /// What is known of the one at a place.
    pub fn of(&mut self, place: &Place) -> Option<&mut PoolEndpoint> {
        self.all.iter_mut().find(|endpoint| *endpoint.place == *place)
    }

    /// When a server may be opened at one of them: not after `now` if it may.
    pub fn next_try(&self, now: Instant) -> Instant {
        self.all.iter().map(|endpoint| endpoint.next_try(now)).min().unwrap_or(now)
    }

    /// The endpoint for the next server: a well one, in turn or the one in use, or else one that is due to be tried.
    pub fn choose(&self, balance: LoadBalanceHosts, max: Duration, now: Instant) -> Option<usize> {
        let well = || self.in_turn().filter(|index| self.all[*index].is_well(now));
        let found = match balance {
            LoadBalanceHosts::Disable => well().next(),
            // Of those that have as many, the first in turn.
            LoadBalanceHosts::RoundRobin => {
                let open = well().filter_map(|index| Some((self.all[index].fullness()?, index)));
                let found = open.min_by_key(|(fullness, _)| *fullness).map(|(_, index)| index);
                // Those without a weight before those that are ejected.
                let spared = || well().filter(|index| !self.all[*index].given.turn.standing.is_out());
                let fewest = || spared().min_by_key(|index| self.all[*index].given.servers);
                found.or_else(fewest).or_else(|| well().next())
            }
        };
        let found = found.or_else(|| self.in_turn().find(|index| self.all[*index].claim(max, now)))?;
        self.used(found, balance);
        Some(found)
    }

    /// The endpoint for a client that does not wait: as [`Self::choose`], or any if none may be tried.
    pub fn choose_any(&self, balance: LoadBalanceHosts, max: Duration, now: Instant) -> usize {
        self.choose(balance, max, now).unwrap_or_else(|| {
            let found = self.in_turn().next().unwrap_or(0);
            self.used(found, balance);
            found
        })
    }

    /// The endpoint for a connection that is none of the pool's servers: it takes nobody's turn.
    pub fn at_hand(&self, now: Instant) -> usize {
        let first = self.in_turn().next().unwrap_or(0);
        self.in_turn().find(|index| self.all[*index].is_well(now)).unwrap_or(first)
    }

    /// Another well one, if a server can't be opened at `index`.
    pub fn another(&self, index: usize, now: Instant) -> Option<usize> {
        self.in_turn().find(|other| *other != index && self.all[*other].is_well(now))
    }

    /// One that is sick and due to be tried, if another one is well.
    pub fn due(&self, max: Duration, now: Instant) -> Option<usize> {
        if self.is_single() || !self.all.iter().any(|endpoint| endpoint.is_well(now)) {
            return None;
        }
        let is_sick = |endpoint: &PoolEndpoint| endpoint.sickness().is_some();
        (0..self.all.len()).find(|index| is_sick(&self.all[*index]) && self.all[*index].claim(max, now))
    }

    /// What is wrong, if no server can be opened anywhere: at which endpoint, and since when that holds for all.
    pub fn sickness(&self) -> Option<(Arc<str>, Sickness)> {
        let first = self.all.first()?;
        // Asked for each client that waits: a name is cloned, and its count written to, only where something is wrong.
        let mut found = first.sickness()?;
        for endpoint in &self.all[1..] {
            found.since = found.since.max(endpoint.sickness()?.since);
        }
        Some((first.place.name.clone(), found))
    }

    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.turn.load(Relaxed) as usize, self.all.len());
        (0..count).map(move |i| (first + i) % count)
    }

    fn used(&self, index: usize, balance: LoadBalanceHosts) {
        let next = match balance {
            LoadBalanceHosts::RoundRobin => index + 1,
            LoadBalanceHosts::Disable => index,
        };
        let next = (next % self.all.len()) as u32;
        if self.turn.load(Relaxed) != next {
            self.turn.store(next, Relaxed);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use LoadBalanceHosts::{Disable, RoundRobin};

    const MAX: Duration = Duration::from_secs(5);
    const NOW: Instant = Instant(1_000_000);

    pub(in crate::pool) fn weighted(mut endpoints: Endpoints, weights: &[u32]) -> Endpoints {
        endpoints.all.iter_mut().zip(weights).for_each(|(endpoint, weight)| endpoint.weight = *weight);
        endpoints
    }

    pub(in crate::pool) fn endpoints(names: &[&str]) -> Endpoints {
        let place = |name: &&str| {
            let endpoint = Endpoint::Tcp { host: (*name).into(), port: 5432 };
            Arc::new(Place {
                name: (*name).into(),
                endpoint,
                dbname: "app".into(),
                tls: None,
                parameters: Arc::default(),
                connect_query: "".into(),
            })
        };
        Endpoints::new(names.iter().map(place).collect(), &Healths::default(), &Healths::default(), Arc::default())
    }

    fn chosen(endpoints: &Endpoints, balance: LoadBalanceHosts, times: usize) -> Vec<usize> {
        (0..times).filter_map(|_| endpoints.choose(balance, MAX, NOW)).collect()
    }

    #[test]
    fn hosts_are_used_in_turn_or_one_until_it_fails() {
        let all = endpoints(&["a", "b", "c"]);
        assert_eq!(chosen(&all, RoundRobin, 5), [0, 1, 2, 0, 1]);
        let all = endpoints(&["a", "b", "c"]);
        assert_eq!(chosen(&all, Disable, 3), [0, 0, 0]);
        all.get(0).host.failed("refused", MAX, 0, NOW, NOW);
        assert_eq!(chosen(&all, Disable, 2), [1, 1]);
        all.get(0).host.succeeded(NOW);
        assert_eq!(chosen(&all, Disable, 2), [1, 1], "it does not go back by itself");
    }

    /// One dead host of three stalls PgBouncer's pool for server_login_retry.
    #[test]
    fn a_sick_host_is_passed_over_and_tried_beside_the_others() {
        let all = endpoints(&["a", "b"]);
        all.get(0).host.failed("refused", MAX, 0, NOW, NOW);
        assert_eq!(chosen(&all, RoundRobin, 3), [1, 1, 1]);
        assert_eq!(all.next_try(NOW), NOW);
        assert!(all.sickness().is_none(), "one is well");
        let later = NOW + MAX;
        assert_eq!(all.due(MAX, later), Some(0));
        assert_eq!(all.due(MAX, later), None, "one try at a time");
        all.get(1).here.failed("no such role", MAX, 0, later, later);
        assert!(all.sickness().is_some() && all.due(MAX, later + MAX).is_none(), "there is no other");
        let tried = all.choose(RoundRobin, MAX, later + MAX + MAX);
        assert!(tried.is_some(), "those are tried by who needs a server");
    }

    /// A reload that adds a host must not forget that another is down.
    #[test]
    fn what_is_known_outlives_a_reload() {
        let mut before = endpoints(&["a", "b"]);
        before.all[1].is_protocol_3_0 = true;
        before.get(1).host.failed("refused", MAX, 0, NOW, NOW);
        let mut after = endpoints(&["b", "c"]);
        after.keep(before);
        assert!(after.get(0).is_protocol_3_0 && !after.get(0).is_well(NOW) && after.get(1).is_well(NOW));
    }
}
