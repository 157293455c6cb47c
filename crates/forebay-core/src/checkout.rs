//! Checkout and checkin: which client gets which server, and when.
//!
//! A demand takes, in this order: the worker's own idle server, another worker's idle server, a free permit
//! (a new server is opened), a place in the queue. A server that comes free goes to the oldest waiter.

use std::rc::Rc;
use std::time::Duration;

use forebay_spec::{Report, errors};

use crate::clearing::CLEARED;
use crate::io::Io;
use crate::planted::{Bug, planted};
use crate::pool::shared::Standing;
use crate::pool::{PoolId, Waiter};
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::expect::Own;
use crate::session::server::{Server, ServerKey, ServerState};
use crate::slab::Slab;
use crate::time::Instant;
use crate::worker::Worker;

/// Another worker's waiter is served first only if it waits this much longer than ours: moving a connection
/// costs more than a turn of the loop, and under load the queues of all workers are about equally long. It is longer
/// by as much again for each server by which the other worker would exceed its part.
pub(crate) const LEND_AFTER: Duration = Duration::from_millis(1);

/// How long after a look at the waiters of other workers the next one is due, as long as somebody waits here: it reads a cache
/// line of each of them.
const LOOK_EVERY: Duration = Duration::from_micros(250);

/// How many idle servers are looked at for one that has the client's parameters already.
const ALIKE_AMONG: usize = 8;

/// Why a server is closed that the next client may not have.
pub(crate) const UNMET: &str = "custom settings that the next client has not met";

/// What became of a demand.
pub enum Checkout {
    /// The client has a server.
    Leased,
    /// It waits.
    Queued,
    /// It can't have one.
    Refused(Box<Report>),
}

impl<I: Io> Worker<I> {
    /// A server for a client in session, or a place in the queue.
    pub(crate) fn checkout(&mut self, io: &mut I, key: ClientKey) -> Checkout {
        let id = self.clients[key].serving().expect("a client in session has a pool");
        let (waiters_max, now) = (self.tables.config.limits.waiters_max, self.now);
        let pool = self.pool(id);
        if pool.is_removed {
            return Checkout::Refused(Box::new(errors::database_removed(pool.database.clone())));
        }
        if !pool.is_shut
            && self.oldest_waiter(id).is_none()
            && let Some(server) = self.take_idle(io, id, key)
        {
            self.publish(id);
            return if self.lease(io, server, key) { Checkout::Leased } else { Checkout::Queued };
        }
        if self.pool(id).waiters.len() >= waiters_max as usize {
            self.drop_those_that_left(id);
        }
        let pool = self.pool(id);
        if pool.waiters.len() >= waiters_max as usize {
            let (label, size) = (pool.label(), pool.settings.pool_size);
            let report = errors::checkout_queue_full(label, waiters_max, pool.leased, size);
            pool.stats.stats.count_refusal(report.code);
            return Checkout::Refused(Box::new(report));
        }
        self.clients[key].enter(ClientState::Waiting, now);
        self.clients[key].rare.iter_mut().for_each(|rare| rare.asked_who_holds_at = None);
        self.enqueue(io, id, key);
        Checkout::Queued
    }

    /// Puts a client, whose state is already Waiting or Greeting, at the end of the queue.
    pub(crate) fn enqueue(&mut self, io: &mut I, id: PoolId, key: ClientKey) {
        let id = self.waits_in(id, key);
        let since = self.clients[key].since;
        self.pool(id).waiters.push_back(Waiter { client: key, since });
        if planted(Bug::NewestWaiterFirst) {
            self.pool(id).waiters.rotate_right(1);
        }
        self.publish(id);
        self.supply(io, id);
        self.arm_client(key);
    }

    /// The idle server for a client: one with its parameters if there is one among the last freed, else the last freed.
    /// At `strict` none is for it that has custom settings which it has not met.
    pub(crate) fn take_idle(&mut self, io: &mut I, id: PoolId, key: ClientKey) -> Option<ServerKey> {
        // The endpoint first, where there are several.
        let meant = if self.pool(id).endpoints.is_single() { 0 } else { self.endpoint_in_turn(id) };
        loop {
            let there = if meant == 0 { None } else { self.choose_idle_at(id, key, meant) };
            // None of that endpoint may be for this client.
            let at = there.or_else(|| self.choose_idle::<false>(id, key, 0))?;
            let idle = &mut self.pools[id.0 as usize].idle;
            let server = if at + 1 == idle.len() { idle.pop_back() } else { idle.remove(at) }?;
            if self.is_fit(io, server) {
                if planted(Bug::ServerHandedOutTwice) {
                    self.pool(id).idle.push_back(server);
                }
                return Some(server);
            }
        }
    }

    #[inline(never)]
    fn choose_idle_at(&self, id: PoolId, key: ClientKey, meant: u8) -> Option<usize> {
        self.choose_idle::<true>(id, key, meant)
    }

    /// Which of a pool's idle servers that is; `BY_ENDPOINT`: of those at the endpoint with the number `meant`.
    #[inline]
    fn choose_idle<const BY_ENDPOINT: bool>(&self, id: PoolId, key: ClientKey, meant: u8) -> Option<usize> {
        let (pool, client) = (&self.pools[id.0 as usize], &self.clients[key]);
        if pool.settings.server_round_robin {
            let is_meant = |server: &Server| !BY_ENDPOINT || server.at == meant;
            let may = |server: &Server| {
                is_meant(server) && server.left.is_met(&client.wanted) && self.shows_enough(client, server)
            };
            return pool.idle.iter().position(|server| may(&self.servers[*server]));
        }
        let (mut best, mut alike, mut met) = (None, None, 0);
        for at in (0..pool.idle.len()).rev() {
            let server = &self.servers[pool.idle[at]];
            if BY_ENDPOINT && server.at != meant || !server.left.is_met(&client.wanted) {
                continue;
            }
            if !self.shows_enough(client, server) {
                continue;
            }
            if server.left.by == client.id {
                return Some(at);
            }
            // One that has custom settings is left to those who have met them: they take it before one that has none.
            if best.is_none_or(|(_, names)| server.left.custom.len() > names) {
                best = Some((at, server.left.custom.len()));
            }
            if alike.is_none() && Rc::ptr_eq(&server.set, &client.wanted) {
                alike = Some(at);
            }
            met += 1;
            if met == ALIKE_AMONG {
                break;
            }
        }
        alike.or(best.map(|(at, _)| at))
    }

    /// Gives idle servers to those who wait.
    pub(crate) fn serve(&mut self, io: &mut I, id: PoolId) {
        while !self.pool(id).is_shut && !self.pool(id).idle.is_empty() && self.oldest_waiter(id).is_some() {
            let Some(waiter) = self.pool(id).waiters.front().copied() else { return };
            let Some(server) = self.take_idle(io, id, waiter.client) else {
                if !self.pool(id).idle.is_empty() && self.clients[waiter.client].is_choosy() {
                    self.send_first_home(io, id);
                    continue;
                }
                return;
            };
            self.pool(id).waiters.pop_front();
            self.publish(id);
            if self.lease(io, server, waiter.client) {
                self.ready.push_back(waiter.client);
            }
        }
    }

    /// Whether an idle server can serve now. One that is too old is closed, one long unused is checked first.
    fn is_fit(&mut self, io: &mut I, key: ServerKey) -> bool {
        let server = &mut self.servers[key];
        let settings = &self.pools[server.pool.0 as usize].settings;
        if !server.is_clean() {
            // Half of an unasked message is there: it comes back when the rest has come.
            server.enter(ServerState::Leased, self.now);
            return false;
        }
        if server.is_close_needed || server.expires_at <= self.now {
            self.retire(io, key, "lifetime");
            return false;
        }
        let check_after = settings.server_check_delay;
        if check_after == 0 || self.now.micros_since(server.since) < check_after {
            return true;
        }
        let query = settings.server_check_query.clone();
        self.send_own(io, key, Own::Check, &query);
        false
    }

    /// Takes back a server that nobody holds: to the oldest waiter, or among the idle, or away.
    pub(crate) fn checkin(&mut self, io: &mut I, key: ServerKey) {
        let now = self.now;
        let server = &mut self.servers[key];
        assert!(server.client.is_none(), "a server comes back without a client");
        if !server.is_clean() {
            // It comes back when the rest of what it is saying has come.
            server.enter(ServerState::Leased, now);
            return;
        }
        if server.is_paused {
            server.is_paused = false;
            self.read_server_again(io, key);
            return self.checkin(io, key);
        }
        let id = server.pool;
        let pool = &self.pools[id.0 as usize];
        if !server.left.fresh.is_none() {
            // Its client left before it could be asked what that is.
            server.left.give_up();
            server.note_level(pool.settings.level);
        }
        if server.cancels > 0 && !planted(Bug::CancelToWrongClient) {
            // A cancel that is still on its way must not hit the next client's request.
            server.enter(ServerState::CancelWait, now);
            self.arm_server(key);
            return;
        }
        let (is_expired, is_close_needed) = (server.expires_at <= now, server.is_close_needed);
        let is_reset_by_query = server.usage.is_some_and(|usage| usage.is_reset_by_query);
        let is_catalogue_due = pool.is_catalogue_due(server.usage, now);
        let was_leased = std::mem::take(&mut server.is_leased);
        if pool.is_limited && self.gives_way(id) {
            self.pools[id.0 as usize].leased -= u32::from(was_leased);
            return self.retire(io, key, "room for another pool");
        }
        let pool = &mut self.pools[id.0 as usize];
        pool.leased -= u32::from(was_leased);
        let is_surplus = pool.is_over_limit(now) && !planted(Bug::LimitPerWorker);
        if is_close_needed || is_expired || is_surplus || pool.is_shut || pool.is_removed {
            let why = if is_expired { self.servers[key].why_expired() } else { "not needed any more" };
            self.retire(io, key, why);
            return;
        }
        if is_reset_by_query && was_leased && !pool.settings.server_reset_query.is_empty() {
            let query = pool.settings.server_reset_query.clone();
            self.send_own(io, key, Own::Reset, &query);
            return;
        }
        if is_catalogue_due && self.read_catalogue(io, id, Some(key)) {
            return;
        }
        self.servers[key].enter(ServerState::Idle, now);
        self.offer(io, key);
    }

    /// Gives a clean server to the oldest waiter, of this worker or another, or keeps it idle.
    pub(crate) fn offer(&mut self, io: &mut I, key: ServerKey) {
        let id = self.servers[key].pool;
        if self.has_connect_query(key) && self.is_connect_query_undone(key) {
            // What it leaves must be there again before anybody has the server.
            return self.reset(io, key);
        }
        if !self.pool(id).is_shut {
            let ours = self.oldest_waiter(id);
            if self.offer_elsewhere(io, key, ours) {
                return;
            }
            if ours.is_some()
                && let Some(waiter) = self.waiter_for(io, id, key)
            {
                if self.servers[key].at != 0 {
                    self.arm_look(id);
                }
                if !self.servers[key].left.is_met(&self.clients[waiter.client].wanted) {
                    return self.retire(io, key, UNMET);
                }
                self.pool(id).take_waiter(waiter);
                self.publish(id);
                if planted(Bug::LostWakeUp) {
                    self.pool(id).idle.push_back(key);
                } else if self.lease(io, key, waiter.client) {
                    self.ready.push_back(waiter.client);
                }
                return;
            }
        }
        if self.is_cleared(id) {
            return self.retire(io, key, CLEARED);
        }
        let (server, pool) = (&mut self.servers[key], &mut self.pools[id.0 as usize]);
        if server.left.is_reset_due(pool.settings.sequence_affinity) {
            // Nobody waits: it is done off everyone's path.
            return self.reset(io, key);
        }
        server.enter(ServerState::Idle, self.now);
        pool.idle.push_back(key);
        if server.at != 0 {
            pool.note_idle(server.at);
        }
        self.publish(id);
        // Another worker may have begun to wait between our look and our word.
        if self.shared.workers == 1 {
            return;
        }
        let me = self.id;
        if let Some((worker, _)) = self.pool(id).shared.worker_with_oldest_waiter(me) {
            let name = (self.pool(id).database.clone(), self.pool(id).user.clone());
            self.lend_to(io, worker, name);
        }
    }

    /// The oldest wish that still stands; those that do not are dropped.
    #[inline]
    pub(crate) fn oldest_waiter(&mut self, id: PoolId) -> Option<Instant> {
        if self.pools[id.0 as usize].waiters.is_empty() { None } else { self.oldest_of_waiters(id) }
    }

    #[inline(never)]
    fn oldest_of_waiters(&mut self, id: PoolId) -> Option<Instant> {
        let (clients, pool) = (&self.clients, &mut self.pools[id.0 as usize]);
        while let Some(waiter) = pool.waiters.front() {
            if is_waiting(clients, waiter) {
                return Some(waiter.since);
            }
            pool.waiters.pop_front();
        }
        None
    }

    /// Those that have left, or moved away, count no more. Once a turn: it looks at all of them.
    #[cold]
    fn drop_those_that_left(&mut self, id: PoolId) {
        let (clients, pool) = (&self.clients, &mut self.pools[id.0 as usize]);
        if std::mem::replace(&mut pool.counted_at, self.now) != self.now {
            pool.waiters.retain(|waiter| is_waiting(clients, waiter));
        }
    }

    fn offer_elsewhere(&mut self, io: &mut I, key: ServerKey, ours: Option<Instant>) -> bool {
        if self.shared.workers == 1 {
            return false;
        }
        let (me, id, now) = (self.id, self.servers[key].pool, self.now);
        let pool = self.pool(id);
        if ours.is_some() && now < pool.looked_at + LOOK_EVERY {
            return false;
        }
        pool.looked_at = now;
        let Some((_, theirs)) = pool.shared.worker_to_lend_to(me, LEND_AFTER) else { return false };
        if self.pools[id.0 as usize].endpoints.is_kept_here(self.servers[key].at) {
            return false;
        }
        if ours.is_some_and(|ours| ours.0 <= (theirs + LEND_AFTER).0) {
            return false;
        }
        self.detach(io, key);
        true
    }

    /// Tells the other workers how this one's part of the pool stands.
    #[inline]
    pub(crate) fn publish(&mut self, id: PoolId) {
        if self.shared.workers > 1 {
            self.publish_to_others(id);
        }
    }

    #[inline(never)]
    fn publish_to_others(&mut self, id: PoolId) {
        let oldest = self.oldest_waiter(id);
        let me = self.id;
        let pool = self.pool(id);
        let (waiting, servers) = (pool.waiters.len(), pool.servers);
        pool.shared.publish(me, Standing { has_idle: !pool.idle.is_empty(), oldest, waiting, servers });
    }
}

/// A duration as errors print it.
pub fn seconds(d: Duration) -> String {
    if d < Duration::from_secs(1) { format!("{} ms", d.as_millis()) } else { format!("{:.1} s", d.as_secs_f64()) }
}

/// Whether a wish still stands.
fn is_waiting(clients: &Slab<Client>, waiter: &Waiter) -> bool {
    clients.get(waiter.client).is_some_and(|client| {
        matches!(client.state, ClientState::Waiting | ClientState::Greeting)
            && client.since == waiter.since
            && client.server.is_none()
    })
}
