//! Endpoints that do not let us in, and how we get in elsewhere or again: what failed openings mean for the health of a host,
//! and for those who wait.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_spec::errors;

use crate::checkout::seconds;
use crate::event::Level;
use crate::io::{Endpoint, Io};
use crate::pool::endpoints::Place;
use crate::pool::{Pool, PoolId};
use crate::session::server::{Apart, Server, ServerKey, ServerState};
use crate::time::Instant;
use crate::worker::{Message, Worker};

/// How long a host may take to accept a connection while another one is well.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);
/// How long it may then take over the login.
const LETS_IN_WITHIN: Duration = Duration::from_secs(3);

/// Why a server is closed whose host is elsewhere now.
pub(crate) const READDRESSED: &str = "the host's address changed";

const LATE: &str = "it did not answer within server_connect_timeout";

/// What a server says that is starting, stopping, or lost a process: to everybody.
const TO_EVERYBODY: [&str; 3] = ["57P01", "57P02", "57P03"];

/// Whose fault it is that a server could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nobody answers there, or nobody is let in at the moment.
    Host,
    /// Somebody answers: others may be let in.
    Pool,
    /// Others may; the server has refused the login, or the pool's query has ended it, and that will be so again until
    /// somebody changes something.
    Refusal,
}

impl<I: Io> Worker<I> {
    /// Of how many pools the endpoints can be reached, for /readyz.
    pub(crate) fn measure_reach(&mut self) {
        let in_use = |p: &&Pool| !p.is_removed;
        self.pools.iter().filter(|p| p.is_removed && !p.is_vacant).for_each(|p| _ = p.measure_reach(false));
        let sick = self.pools.iter().filter(in_use).filter(|p| p.measure_reach(true)).count();
        self.stats.pools_open.set(self.pools.iter().filter(in_use).count() as u64);
        self.stats.pools_sick.set(sick as u64);
    }

    /// A server could not be opened: its host did not answer, or not as a server of this pool does.
    pub(crate) fn open_failed(&mut self, io: &mut I, key: ServerKey, cause: &str) {
        // Once connected, it may be the pool's TLS, its query, or a pooler there that has no such database.
        let server = &self.servers[key];
        let fault = if server.login.as_ref().is_some_and(|login| login.before_query.is_some()) {
            // It has let us in, and what ended it is the database's own query.
            Fault::Refusal
        } else if server.state == ServerState::Connecting {
            Fault::Host
        } else {
            Fault::Pool
        };
        self.open_failed_by(io, key, cause, fault);
    }

    /// The server said no to our login, for a reason that may pass.
    pub(crate) fn not_let_in(&mut self, io: &mut I, key: ServerKey, sqlstate: &str, reply: &str) {
        let is_of_host = TO_EVERYBODY.contains(&sqlstate);
        self.open_failed_by(io, key, reply, if is_of_host { Fault::Host } else { Fault::Pool });
    }

    /// A host has said something to a login: whatever it is, pools wait no longer because nobody answered there.
    pub(crate) fn host_answers(&mut self, io: &mut I, key: ServerKey, sqlstate: &str) {
        let (id, now) = (self.servers[key].pool, self.now);
        let place = self.servers[key].place.clone();
        let endpoint = self.pool(id).endpoints.of(&place);
        let was_sick = endpoint.is_some_and(|endpoint| endpoint.host.sickness().is_some());
        if !was_sick || self.servers[key].is_local || TO_EVERYBODY.contains(&sqlstate) {
            return;
        }
        if let Some(endpoint) = self.pool(id).endpoints.of(&place) {
            endpoint.host.succeeded(now);
        }
        self.tell_others(io, || Message::EndpointWell(place.name.clone()));
        self.endpoint_well(&place.name);
    }

    /// A server could not be opened: the endpoint is left alone for a while.
    pub(crate) fn open_failed_by(&mut self, io: &mut I, key: ServerKey, cause: &str, fault: Fault) {
        if self.servers[key].is_local {
            return self.local_failed(io, key, cause);
        }
        if self.servers[key].apart == Some(Apart::Reader) {
            return self.reader_refused(io, key, cause);
        }
        let (id, begun, now) = (self.servers[key].pool, self.servers[key].opened_at, self.now);
        let (place, server) = (self.servers[key].place.clone(), self.servers[key].id);
        let mut luck = [0; 1];
        io.fill_random(&mut luck);
        let pool = &self.pools[id.0 as usize];
        let max = Duration::from_micros(pool.settings.server_backoff_max);
        let index = pool.endpoints.at(&place);
        let mut retry_at = now;
        if let Some(index) = index {
            let endpoint = pool.endpoints.get(index);
            let health = if fault == Fault::Host { &endpoint.host } else { &endpoint.here };
            // Clients of replication connections try again themselves, each when it thinks fit.
            if !pool.is_replication || !pool.endpoints.is_single() {
                if fault == Fault::Refusal {
                    health.refused(cause, max, luck[0], begun, now);
                } else {
                    health.failed(cause, max, luck[0], begun, now);
                }
                retry_at = health.next_try(now);
            }
        }
        let fields = vec![
            ("pool", pool.label().into()),
            ("server", server.into()),
            ("endpoint", place.name.clone().into()),
            ("cause", cause.into()),
            ("retry_in_ms", (retry_at.micros_since(now) / 1000).into()),
        ];
        self.log_code(io, Level::Warn, "server_open_failed", Some("FB410"), fields);
        if fault == Fault::Host {
            self.suspect(io, id);
        }
        let client = self.leave_opening(key);
        self.drop_opening(io, key, cause);
        self.send_home_if_sick(io, id);
        let another = index.and_then(|index| self.pools[id.0 as usize].endpoints.another(index, now));
        match (client, another) {
            (Some(client), Some(another)) => self.replicate_from(io, id, client, another),
            (Some(client), None) => {
                let database = self.pool(id).database.clone();
                let report = errors::no_endpoint(database, place.name.clone(), cause, seconds(Duration::ZERO));
                self.refuse_and_close(io, client, report);
            }
            (None, _) => self.supply(io, id),
        }
    }

    /// Whether servers can be opened at another endpoint than that of `key`.
    pub(crate) fn is_elsewhere_well(&self, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let endpoints = &self.pools[server.pool.0 as usize].endpoints;
        endpoints.at(&server.place).is_some_and(|index| endpoints.another(index, self.now).is_some())
    }

    /// A server has let us in: others may have waited for that.
    pub(crate) fn endpoint_answers(&mut self, io: &mut I, key: ServerKey) {
        let (id, now) = (self.servers[key].pool, self.now);
        let place = self.servers[key].place.clone();
        let Some(endpoint) = self.pool(id).endpoints.of(&place) else { return };
        let was_sick = endpoint.host.sickness().is_some() || endpoint.here.sickness().is_some();
        // Both, whichever was at fault.
        let was_host_sick = endpoint.host.succeeded(now);
        if endpoint.here.succeeded(now) || was_host_sick {
            let pool = self.pool(id);
            if was_sick && pool.is_balanced() {
                pool.shared.balance.came_back(&place, now);
            }
            let fields = vec![("pool", self.pool(id).label().into()), ("endpoint", place.name.clone().into())];
            self.log(io, Level::Info, "endpoint_well", fields);
            self.tell_others(io, || Message::EndpointWell(place.name.clone()));
            self.endpoint_well(&place.name);
        }
    }

    /// An endpoint is well again: those who wait need not wait for the end of a pause.
    pub(crate) fn endpoint_well(&mut self, name: &str) {
        let is_there = |pool: &crate::pool::Pool| pool.endpoints.iter().any(|endpoint| *endpoint.place.name == *name);
        let waiting = self.pools.iter().enumerate().filter(|(_, pool)| !pool.waiters.is_empty() && is_there(pool));
        let waiting: Vec<_> = waiting.map(|(index, _)| PoolId(index as u32)).collect();
        self.vacated.extend(waiting);
    }

    /// Sick endpoints are tried while others serve, so that nobody waits for what comes of it.
    pub(crate) fn try_sick_endpoints(&mut self, io: &mut I, id: PoolId) {
        let pool = &self.pools[id.0 as usize];
        let is_used = pool.servers > 0 || !pool.waiters.is_empty() || pool.is_replication;
        if pool.endpoints.is_single() || !is_used || pool.is_shut || pool.is_removed {
            return;
        }
        let max = Duration::from_micros(pool.settings.server_backoff_max);
        if let Some(index) = pool.endpoints.due(max, self.now) {
            self.open_apart_at(io, id, Apart::Trial, index);
        }
    }

    /// An endpoint that was sick lets us in.
    pub(crate) fn trial_succeeded(&mut self, io: &mut I, key: ServerKey) {
        self.endpoint_answers(io, key);
        if self.ask_ejected(io, key) {
            return;
        }
        self.retire(io, key, "the endpoint is well");
    }

    /// A server has not been opened in time.
    pub(crate) fn opening_is_late(&mut self, io: &mut I, key: ServerKey) {
        let server = &self.servers[key];
        let settings = &self.pools[server.pool.0 as usize].settings;
        let is_limit_over = self.now >= server.opened_at + Duration::from_micros(settings.server_connect_timeout);
        let cause = if is_limit_over { LATE } else { "it did not answer, and another endpoint does" };
        self.open_failed(io, key, cause);
    }

    /// A host has other addresses: servers at those that it has no longer are closed when they come free.
    pub(crate) fn close_readdressed(&mut self, io: &mut I, host: &Arc<str>, addresses: &Arc<[IpAddr]>) {
        let before = self.addresses.insert(host.clone(), addresses.clone());
        // Who asked first hears of it as well, and nothing has changed for it.
        let was_known = before.is_some();
        if self.id.0 == 0 && was_known {
            let fields = vec![("host", host.clone().into()), ("addresses", words(addresses).into())];
            self.log(io, Level::Info, "host_readdressed", fields);
        }
        let of_host = |place: &Place| matches!(&place.endpoint, Endpoint::Tcp { host: of, .. } if of == host);
        let is_gone = |server: &Server, _: &Pool| {
            // One that is being connected goes on with the addresses that it was given.
            let is_given_others = was_known && !server.is_local && server.state == ServerState::Connecting;
            let is_elsewhere = server.address.map_or(is_given_others, |address| !addresses.contains(&address));
            is_elsewhere && of_host(&server.place)
        };
        self.mark_for_closing(io, READDRESSED, is_gone);
        for index in 0..self.pools.len() {
            if self.pools[index].endpoints.iter().any(|endpoint| of_host(&endpoint.place)) {
                self.supply(io, PoolId(index as u32));
            }
        }
    }

    /// An opening is of no use, and nobody's fault: another one takes its place.
    pub(crate) fn open_anew(&mut self, io: &mut I, key: ServerKey, reason: &str) {
        let (id, apart) = (self.servers[key].pool, self.servers[key].apart);
        let place = self.servers[key].place.clone();
        let client = self.leave_opening(key);
        self.drop_opening(io, key, reason);
        match (client, self.pool(id).endpoints.at(&place)) {
            (Some(client), _) => self.begin_replication(io, id, client),
            (None, Some(index)) if apart == Some(Apart::Trial) => {
                self.open_apart_at(io, id, Apart::Trial, index);
            }
            (None, _) => self.supply(io, id),
        }
    }

    /// Whether a server is at an address that its host has no longer.
    pub(crate) fn is_readdressed(&self, server: &Server) -> bool {
        let Endpoint::Tcp { host, .. } = &server.place.endpoint else { return false };
        let Some((addresses, at)) = self.addresses.get(host).zip(server.address) else { return false };
        !addresses.contains(&at)
    }

    /// When to look at a server that is opening.
    pub(crate) fn opening_deadline(&self, server: &Server) -> Instant {
        let pool = &self.pools[server.pool.0 as usize];
        let limit = server.opened_at + Duration::from_micros(pool.settings.server_connect_timeout);
        let index = pool.endpoints.at(&server.place);
        if pool.endpoints.is_single() || index.and_then(|index| pool.endpoints.another(index, self.now)).is_none() {
            return limit;
        }
        if server.login.as_ref().is_some_and(|login| login.before_query.is_some()) {
            // It has let us in.
            return limit;
        }
        let patience = if server.state == ServerState::Connecting { CONNECTS_WITHIN } else { LETS_IN_WITHIN };
        limit.min(server.opened_at + patience)
    }
}

fn words(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
