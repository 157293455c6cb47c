//! Checkout and checkin: which client gets which server, and when.
//!
//! A demand takes, in this order: the worker's own idle server, another worker's idle server, a free permit
//! (a new server is opened), a place in the queue. A server that comes free goes to the oldest waiter.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::write;
use forebay_spec::{Report, errors};

use crate::config::PoolMode;
use crate::event::{Field, Level};
use crate::ids::WorkerId;
use crate::io::{Close, Io};
use crate::parameters::transition;
use crate::planted::{Bug, planted};
use crate::pool::shared::Lease;
use crate::pool::{Pool, PoolId, Waiter};
use crate::reply::report_parameters;
use crate::session::IDLE;
use crate::session::client::{ClientKey, ClientState};
use crate::session::expect::{Expect, Own};
use crate::session::server::{ServerKey, ServerState};
use crate::time::Instant;
use crate::worker::{Message, PoolName, Worker};

/// Another worker's waiter is served first only if it waits this much longer than ours: moving a connection
/// costs more than a turn of the loop, and under load the queues of all workers are about equally long.
const LEND_AFTER: Duration = Duration::from_millis(2);

/// How many idle servers are looked at for one that has the client's parameters already.
const ALIKE_AMONG: usize = 8;

/// Time after which other workers are asked the same again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Pools that share a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of a database: `max_db_connections`.
    Database(Arc<str>),
    /// All of a user: `max_user_connections`.
    User(Arc<str>),
}

impl Scope {
    fn has(&self, pool: &Pool) -> bool {
        match self {
            Scope::Database(database) => pool.database == *database,
            Scope::User(user) => pool.user == *user,
        }
    }
}

/// What became of a demand.
pub enum Checkout {
    /// The client has a server.
    Leased,
    /// It waits.
    Queued,
    /// It can't have one.
    Refused(Box<Report>),
}

impl Pool {
    /// Named statements on a server of this pool; 0: they pass through unshared.
    pub fn statements_max(&self) -> u32 {
        if self.settings.pool_mode == PoolMode::Session { 0 } else { self.settings.max_prepared_statements }
    }
}

impl<I: Io> Worker<I> {
    /// A server for a client in session, or a place in the queue.
    pub(crate) fn checkout(&mut self, io: &mut I, key: ClientKey) -> Checkout {
        let id = self.clients[key].pool.expect("a client in session has a pool");
        let (waiters_max, now) = (self.tables.config.limits.waiters_max, self.now);
        let pool = self.pool(id);
        if pool.is_removed {
            return Checkout::Refused(Box::new(errors::database_removed(pool.database.clone())));
        }
        if !pool.is_paused
            && self.oldest_waiter(id).is_none()
            && let Some(server) = self.take_idle(io, id, key)
        {
            self.publish(id);
            return if self.lease(io, server, key) { Checkout::Leased } else { Checkout::Queued };
        }
        let pool = self.pool(id);
        if pool.waiters.len() >= waiters_max as usize {
            pool.stats.stats.errors.add(1);
            let (label, size) = (pool.label(), pool.settings.pool_size);
            return Checkout::Refused(Box::new(errors::checkout_queue_full(label, waiters_max, pool.leased, size)));
        }
        self.clients[key].enter(ClientState::Waiting, now);
        self.clients[key].has_asked_who_holds = false;
        self.enqueue(io, id, key);
        Checkout::Queued
    }

    /// Puts a client, whose state is already Waiting or Greeting, at the end of the queue.
    pub(crate) fn enqueue(&mut self, io: &mut I, id: PoolId, key: ClientKey) {
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
    fn take_idle(&mut self, io: &mut I, id: PoolId, key: ClientKey) -> Option<ServerKey> {
        while !self.pool(id).idle.is_empty() {
            let (clients, servers, pool) = (&self.clients, &self.servers, &mut self.pools[id.0 as usize]);
            let wanted = &clients[key].wanted;
            let is_alike = |server: &ServerKey| Rc::ptr_eq(&servers[*server].set, wanted);
            let alike = pool.idle.iter().rev().take(ALIKE_AMONG).position(is_alike).unwrap_or(0);
            let server = pool.idle.remove(pool.idle.len() - 1 - alike)?;
            if self.is_fit(io, server) {
                if planted(Bug::ServerHandedOutTwice) {
                    self.pool(id).idle.push_back(server);
                }
                return Some(server);
            }
        }
        None
    }

    /// Gives idle servers to those who wait.
    fn serve(&mut self, io: &mut I, id: PoolId) {
        while !self.pool(id).is_paused && !self.pool(id).idle.is_empty() && self.oldest_waiter(id).is_some() {
            let Some(waiter) = self.pool(id).waiters.front().copied() else { return };
            let Some(server) = self.take_idle(io, id, waiter.client) else { return };
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
        let (id, idle_for) = (server.pool, self.now.since(server.since));
        if !server.is_clean() {
            // Half of an unasked message is there: it comes back when the rest has come.
            server.enter(ServerState::Leased, self.now);
            return false;
        }
        if server.is_close_needed || server.expires_at <= self.now {
            self.retire(io, key, "lifetime");
            return false;
        }
        let check_after = Duration::from_micros(self.pool(id).settings.server_check_delay);
        if check_after.is_zero() || idle_for < check_after {
            return true;
        }
        let query = self.pool(id).settings.server_check_query.clone();
        self.send_own(io, key, Own::Check, &query);
        false
    }

    /// Gives a server to a client. False: its parameters are being set first, and the client waits for that.
    fn lease(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey) -> bool {
        let now = self.now;
        let client = &mut self.clients[client_key];
        let server = &mut self.servers[key];
        let is_free = server.is_clean() && server.client.is_none();
        assert!(is_free || planted(Bug::ServerHandedOutTwice), "a server is handed out clean, to one client");
        let waited = if client.state == ClientState::Waiting { now.micros_since(client.since) } else { 0 };
        server.client = Some(client_key);
        server.is_leased = true;
        server.is_finishing = false;
        server.is_doomed = false;
        server.own_error = None;
        server.enter(ServerState::Leased, now);
        client.server = Some(key);
        client.transaction_at = now;
        let pool = &mut self.pools[server.pool.0 as usize];
        pool.leased += 1;
        let stats = &pool.stats.stats;
        stats.assignments.add(1);
        stats.wait.record(waited);
        let is_alike = server.is_set_known && Rc::ptr_eq(&client.wanted, &server.set);
        if !(is_alike || planted(Bug::LeakedParameter))
            && let Some(sql) = transition(&server.set, &client.wanted, server.is_set_known)
        {
            if client.state != ClientState::Greeting {
                client.enter(ClientState::Waiting, now);
            }
            // Until it is answered, either image may be in force.
            server.set_before = Some((server.set.clone(), server.is_set_known));
            server.set = self.images.union(&server.set, &client.wanted);
            server.is_set_known = false;
            self.send_own(io, key, Own::Prepare, &sql);
            return false;
        }
        self.prepared(io, key, client_key);
        true
    }

    /// The server has the client's parameters: the client may use it.
    fn prepared(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey) {
        let client = &mut self.clients[client_key];
        let server = &mut self.servers[key];
        server.set = client.wanted.clone();
        server.is_set_known = true;
        if client.state == ClientState::Greeting {
            self.greet_with(io, key, client_key);
            return;
        }
        client.enter(ClientState::Active, self.now);
        if !Rc::ptr_eq(&client.seen, &server.reported) {
            let mut out = Vec::new();
            report_parameters(client, server, &mut out);
            if !out.is_empty() {
                self.send_to_client(io, client_key, &out);
            }
        }
    }

    /// A client that logs in needed a server to learn what its parameters make of the greeting.
    fn greet_with(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey) {
        let wanted = self.clients[client_key].wanted.clone();
        let nameless = self.without_name(&wanted);
        let server = &self.servers[key];
        let (id, reported) = (server.pool, server.reported.clone());
        let default_name = server.defaults.get("application_name").cloned();
        let reported = self.images.with(&reported, "application_name", default_name.as_deref());
        self.pool(id).keep_greeting(nameless, reported);
        self.part(key);
        self.freed.push(key);
        self.greet_or_wait(io, client_key, id);
    }

    /// Sends a query of our own; its answer goes to `own_done`.
    pub(crate) fn send_own(&mut self, io: &mut I, key: ServerKey, own: Own, sql: &str) {
        let now = self.now;
        let server = &mut self.servers[key];
        server.own_error = None;
        server.expect.push_back(Expect::Own(own));
        server.statements.clear_unnamed();
        if !matches!(server.state, ServerState::Cleaning) {
            server.enter(ServerState::Busy, now);
        }
        let mut out = Vec::with_capacity(sql.len() + 6);
        write::query(&mut out, sql);
        self.send_to_server(io, key, &out);
        self.arm_server(key);
    }

    /// A query of our own is answered.
    pub(crate) fn own_done(&mut self, io: &mut I, key: ServerKey, own: Own) {
        let server = &mut self.servers[key];
        let error = server.own_error.take();
        if let (Some((set, is_known)), Some(_)) = (server.set_before.take(), &error) {
            // The query is one transaction: what it set is undone.
            (server.set, server.is_set_known) = (set, is_known);
        }
        match (own, error) {
            (Own::Prepare, None) => {
                server.enter(ServerState::Leased, self.now);
                // A client that left meanwhile leaves values that nobody keeps count of.
                if let Some(client_key) = server.client {
                    self.prepared(io, key, client_key);
                    self.ready.push_back(client_key);
                }
            }
            (Own::Prepare, Some((sqlstate, message))) => self.prepare_failed(io, key, &sqlstate, &message),
            (Own::Rollback | Own::Check, None) => {}
            (Own::Reset, None) => {
                server.statements.clear();
                server.is_set_known = false;
            }
            (_, Some((sqlstate, message))) => {
                self.retire(io, key, &format!("{own:?} failed: {sqlstate} {message}"));
            }
        }
    }

    /// The server refused a value that the client wants: the client is told, the server is as it was.
    fn prepare_failed(&mut self, io: &mut I, key: ServerKey, sqlstate: &str, message: &str) {
        let endpoint = self.endpoint_name(key);
        self.servers[key].enter(ServerState::Leased, self.now);
        let Some(client_key) = self.part(key) else { return };
        let report = errors::server_parameter_refused(endpoint, format!("{sqlstate} {message}"));
        self.refuse_and_close(io, client_key, report);
    }

    /// After a server's bytes have been dealt with: is it free?
    pub(crate) fn after_replies(&mut self, io: &mut I, key: ServerKey) {
        let Some(server) = self.servers.get(key) else { return };
        if let Some(client_key) = server.client {
            let client = &mut self.clients[client_key];
            if std::mem::take(&mut client.is_held) {
                // What its next message waited for may have come.
                self.ready.push_back(client_key);
            }
            return;
        }
        if !server.is_clean() {
            self.cleaning_goes_on(io, key);
            return;
        }
        if matches!(server.state, ServerState::Leased | ServerState::Cleaning | ServerState::Busy) {
            self.checkin(io, key);
        }
    }

    /// A request of a client is answered: its server leaves it when the transaction is over and nothing is owed.
    pub(crate) fn request_ended(&mut self, io: &mut I, key: ServerKey) {
        let now = self.now;
        let server = &mut self.servers[key];
        let Some(client_key) = server.client else { return };
        let client = &mut self.clients[client_key];
        let pool = &self.pools[server.pool.0 as usize];
        let stats = &pool.stats.stats;
        let took = now.micros_since(client.request_at);
        stats.requests.add(1);
        stats.request.record(took);
        let slow = self.tables.config.log.min_duration;
        let is_slow = slow > 0 && took >= slow;
        client.since = now;
        if server.status == IDLE {
            stats.transactions.add(1);
            stats.transaction.record(now.micros_since(client.transaction_at));
            client.transaction_at = now;
        }
        let mode = pool.settings.pool_mode;
        let is_idle = server.status == IDLE || planted(Bug::CheckinInTransaction);
        let is_over = server.expect.is_empty() && is_idle && !server.is_skipping;
        let is_half_sent = client.body_left > 0 && client.body == crate::session::Body::Forward;
        if is_slow {
            let fields =
                vec![("client", Field::Number(client.id)), ("pool", pool.label().into()), ("took_us", took.into())];
            self.log(io, Level::Info, "slow_request", fields);
        }
        if mode == PoolMode::Statement && self.servers[key].status != IDLE && self.servers[key].expect.is_empty() {
            let label = self.pools[self.servers[key].pool.0 as usize].label();
            self.refuse_and_close(io, client_key, errors::transaction_in_statement_mode(label));
            return;
        }
        if is_over && !is_half_sent && mode != PoolMode::Session {
            self.part(key);
            let client = &self.clients[client_key];
            if !client.carry.is_empty() || client.is_paused {
                self.ready.push_back(client_key);
            }
        } else {
            self.arm_client(client_key);
        }
    }

    /// Takes a server from its client, who is idle from then on. The server's state is left to the caller.
    pub(crate) fn part(&mut self, key: ServerKey) -> Option<ClientKey> {
        let now = self.now;
        let server = &mut self.servers[key];
        let client_key = server.client.take()?;
        let client = self.clients.get_mut(client_key)?;
        client.server = None;
        client.is_held = false;
        if client.state != ClientState::Greeting {
            client.enter(ClientState::Idle, now);
        }
        self.arm_client(client_key);
        Some(client_key)
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
        let id = server.pool;
        if server.is_paused {
            server.is_paused = false;
            io.resume_read(server.conn);
        }
        if server.cancels > 0 && !planted(Bug::CancelToWrongClient) {
            // A cancel that is still on its way must not hit the next client's request.
            server.enter(ServerState::CancelWait, now);
            self.arm_server(key);
            return;
        }
        let (is_expired, is_close_needed) = (server.expires_at <= now, server.is_close_needed);
        let was_leased = std::mem::take(&mut server.is_leased);
        let pool = &mut self.pools[id.0 as usize];
        pool.leased -= u32::from(was_leased);
        if is_close_needed || is_expired || pool.is_paused || pool.is_removed {
            self.retire(io, key, if is_expired { "lifetime" } else { "not needed any more" });
            return;
        }
        if pool.settings.pool_mode == PoolMode::Session && was_leased && !pool.settings.server_reset_query.is_empty() {
            let query = pool.settings.server_reset_query.clone();
            self.send_own(io, key, Own::Reset, &query);
            return;
        }
        self.servers[key].enter(ServerState::Idle, now);
        self.offer(io, key);
    }

    /// Gives a clean server to the oldest waiter, of this worker or another, or keeps it idle.
    pub(crate) fn offer(&mut self, io: &mut I, key: ServerKey) {
        let id = self.servers[key].pool;
        if !self.pool(id).is_paused {
            let ours = self.oldest_waiter(id);
            if self.offer_elsewhere(io, key, ours) {
                return;
            }
            if ours.is_some() {
                let waiter = self.pool(id).waiters.pop_front().expect("the oldest waiter is there");
                self.publish(id);
                if planted(Bug::LostWakeUp) {
                    self.pool(id).idle.push_back(key);
                } else if self.lease(io, key, waiter.client) {
                    self.ready.push_back(waiter.client);
                }
                return;
            }
        }
        self.pool(id).idle.push_back(key);
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
    pub(crate) fn oldest_waiter(&mut self, id: PoolId) -> Option<Instant> {
        let (clients, pool) = (&self.clients, &mut self.pools[id.0 as usize]);
        while let Some(waiter) = pool.waiters.front() {
            let is_waiting = clients.get(waiter.client).is_some_and(|c| {
                matches!(c.state, ClientState::Waiting | ClientState::Greeting)
                    && c.since == waiter.since
                    && c.server.is_none()
            });
            if is_waiting {
                return Some(waiter.since);
            }
            pool.waiters.pop_front();
        }
        None
    }

    fn offer_elsewhere(&mut self, io: &mut I, key: ServerKey, ours: Option<Instant>) -> bool {
        if self.shared.workers == 1 {
            return false;
        }
        let (me, id) = (self.id, self.servers[key].pool);
        let Some((_, theirs)) = self.pool(id).shared.worker_with_oldest_waiter(me) else { return false };
        if ours.is_some_and(|ours| ours.0 <= (theirs + LEND_AFTER).0) {
            return false;
        }
        self.detach(io, key);
        true
    }

    /// Tells the other workers how this one's part of the pool stands.
    pub(crate) fn publish(&mut self, id: PoolId) {
        if self.shared.workers > 1 {
            let oldest = self.oldest_waiter(id);
            let me = self.id;
            let pool = self.pool(id);
            pool.shared.publish(me, pool.idle.len(), oldest);
        }
    }

    /// Sees that servers are on their way for those who wait.
    pub(crate) fn supply(&mut self, io: &mut I, id: PoolId) {
        let me = self.id;
        self.serve(io, id);
        let _ = self.oldest_waiter(id);
        let pool = self.pool(id);
        if pool.is_asking || pool.waiters.is_empty() || pool.is_paused {
            return self.supply_without_asking(io, id);
        }
        match pool.shared.worker_with_idle(me) {
            Some(worker) => {
                pool.is_asking = true;
                let name = (pool.database.clone(), pool.user.clone());
                io.tell(worker, Message::Want(name));
            }
            None => self.supply_without_asking(io, id),
        }
    }

    /// As [`Self::supply`], when no other worker has an idle server.
    pub(crate) fn supply_without_asking(&mut self, io: &mut I, id: PoolId) {
        let now = self.now;
        loop {
            let _ = self.oldest_waiter(id);
            let pool = self.pool(id);
            let is_kept_filled = pool.servers > 0 || pool.target.config.forced_user.is_some();
            let min_missing = is_kept_filled && pool.shared.permits.used() < pool.settings.min_pool_size;
            let is_wanted = pool.opening < pool.waiters.len() as u32 || min_missing;
            if pool.is_paused || pool.is_removed || !is_wanted {
                return;
            }
            if pool.opening >= pool.settings.server_opening_max.max(1) {
                return;
            }
            if !pool.backoff.is_over(now) {
                let at = pool.backoff.until();
                self.arm_pool(id, at);
                return;
            }
            if !self.take_permit(io, id) {
                return;
            }
            self.open(io, id);
        }
    }

    fn take_permit(&mut self, io: &mut I, id: PoolId) -> bool {
        let user = self.pool(id).user.clone();
        let of_user = self.tables.user(&user).and_then(|u| u.config.max_user_connections).unwrap_or(0);
        let database = self.pool(id).database.clone();
        let pool = self.pool(id);
        let (shared, size, of_database) =
            (pool.shared.clone(), pool.settings.pool_size, pool.settings.max_db_connections);
        let size = if planted(Bug::LimitPerWorker) { size * u32::from(self.shared.workers) } else { size };
        if !shared.permits.try_take(size) {
            return false;
        }
        if !shared.of_database.try_take(of_database) {
            shared.permits.give_back();
            self.evict_within(io, id, &Scope::Database(database));
            return false;
        }
        if !shared.of_user.try_take(of_user) {
            shared.of_database.give_back();
            shared.permits.give_back();
            self.evict_within(io, id, &Scope::User(user));
            return false;
        }
        true
    }

    /// A limit over several pools is reached: the longest idle server of another of them makes room.
    fn evict_within(&mut self, io: &mut I, id: PoolId, scope: &Scope) {
        match self.longest_idle(scope, Some(id)) {
            Some(server) => self.retire(io, server, "room for another pool"),
            None => self.ask_for_room(io, id, scope),
        }
    }

    fn longest_idle(&self, scope: &Scope, but: Option<PoolId>) -> Option<ServerKey> {
        let pools = self.pools.iter().enumerate().filter(|(i, p)| but != Some(PoolId(*i as u32)) && scope.has(p));
        pools.filter_map(|(_, p)| p.idle.front().copied()).min_by_key(|s| self.servers[*s].since)
    }

    /// Asks the other workers to close an idle server; again after a while, should none be idle yet.
    fn ask_for_room(&mut self, io: &mut I, id: PoolId, scope: &Scope) {
        if self.shared.workers == 1 || self.pool(id).room_asked_at + ASK_AGAIN > self.now {
            return;
        }
        self.pool(id).room_asked_at = self.now;
        self.tell_others(io, || Message::RoomFor(scope.clone()));
        self.arm_pool(id, self.now + ASK_AGAIN);
    }

    fn tell_others(&self, io: &mut I, message: impl Fn() -> Message<I::Handover>) {
        for worker in (0..self.shared.workers).map(WorkerId).filter(|w| *w != self.id) {
            io.tell(worker, message());
        }
    }

    /// Another worker's pool has no room: one of our idle servers leaves.
    pub(crate) fn make_room_for(&mut self, io: &mut I, scope: &Scope) {
        if let Some(server) = self.longest_idle(scope, None) {
            self.retire(io, server, "room for another pool");
        }
    }

    /// Others wait in a pool: they may want to name who holds its servers.
    pub(crate) fn tell_lease(&mut self, name: &PoolName) {
        if let Some(id) = self.pool_ids.get(name).copied() {
            let (lease, me) = (self.longest_lease(id), self.id);
            self.pool(id).shared.publish_lease(me, lease);
        }
    }

    /// Has the other workers tell of their longest leases in a pool.
    pub(crate) fn ask_who_holds(&self, io: &mut I, id: PoolId) {
        let pool = &self.pools[id.0 as usize];
        let name = (pool.database.clone(), pool.user.clone());
        self.tell_others(io, || Message::WhoHolds(name.clone()));
    }

    /// Gives permits back, and tells whoever waits for one.
    pub(crate) fn give_permit_back(&mut self, io: &mut I, id: PoolId) {
        if planted(Bug::PermitLost) {
            return;
        }
        let me = self.id;
        let shared = self.pool(id).shared.clone();
        shared.permits.give_back();
        shared.of_database.give_back();
        shared.of_user.give_back();
        if let Some((worker, _)) = shared.worker_with_oldest_waiter(me) {
            let name = (self.pool(id).database.clone(), self.pool(id).user.clone());
            io.tell(worker, Message::PermitFree(name));
        }
        let (database, user) = (self.pool(id).database.clone(), self.pool(id).user.clone());
        for other in 0..self.pools.len() {
            let is_near = self.pools[other].database == database || self.pools[other].user == user;
            if is_near && !self.pools[other].waiters.is_empty() {
                self.supply(io, PoolId(other as u32));
            }
        }
    }

    /// Closes a server in order.
    pub(crate) fn retire(&mut self, io: &mut I, key: ServerKey, reason: &str) {
        if self.servers.get(key).is_none() {
            // Another one's leaving has made room at its cost.
            return;
        }
        let mut out = Vec::new();
        write::terminate(&mut out);
        self.send_to_server(io, key, &out);
        let conn = self.servers[key].conn;
        self.close_conn(io, conn, Close::AfterSend);
        self.forget_server(io, key, reason);
    }

    /// Takes a server, whose connection is gone or going, out of its pool.
    pub(crate) fn forget_server(&mut self, io: &mut I, key: ServerKey, reason: &str) {
        let Some(server) = self.servers.remove(key) else { return };
        let id = server.pool;
        let pool = self.pool(id);
        pool.servers -= 1;
        pool.leased -= u32::from(server.is_leased);
        match server.state {
            ServerState::Connecting | ServerState::TlsAsked | ServerState::Tls | ServerState::Login => {
                pool.opening -= 1;
            }
            ServerState::Idle => pool.idle.retain(|k| *k != key),
            _ => {}
        }
        pool.stats.stats.closed.add(1);
        let label = pool.label();
        self.publish(id);
        let fields = vec![("pool", label.into()), ("server", server.id.into()), ("reason", reason.into())];
        self.log(io, Level::Debug, "server_closed", fields);
        self.give_permit_back(io, id);
        self.command_progress(io);
    }

    /// What a client is told when its wait is over without a server.
    pub(crate) fn wait_report(&mut self, key: ClientKey) -> Report {
        let (id, since) = {
            let client = &self.clients[key];
            (client.pool.expect("a waiting client has a pool"), client.since)
        };
        let now = self.now;
        let (ours, me) = (self.longest_lease(id), self.id);
        let lease = ours.into_iter().chain(self.pool(id).shared.longest_lease(me)).min_by_key(|lease| lease.since);
        let pool = self.pool(id);
        pool.stats.stats.errors.add(1);
        let waited = seconds(now.since(since));
        if let Some((_, cause)) = pool.backoff.sickness() {
            let endpoint = pool.target.config.endpoints.first().cloned().unwrap_or_else(|| Arc::from("?"));
            let retry = seconds(pool.backoff.until().since(now));
            return errors::no_endpoint(pool.database.clone(), endpoint, cause, retry);
        }
        let longest = lease.as_ref().map_or(Duration::ZERO, |lease| now.since(lease.since));
        let holder = lease.map_or_else(|| Arc::from("none of them leased"), |lease| lease.holder);
        let (label, leased, size) = (pool.label(), pool.shared.permits.used() as usize, pool.settings.pool_size);
        let (idle, waiting) = (pool.idle.len(), pool.waiters.len());
        errors::checkout_timeout(label, waited, leased.saturating_sub(idle), size, waiting, seconds(longest), holder)
    }

    /// The longest lease of this worker.
    pub(crate) fn longest_lease(&self, id: PoolId) -> Option<Lease> {
        let leases = self.servers.iter().filter(|(_, s)| s.pool == id && s.client.is_some());
        let (client, at) = leases
            .filter_map(|(_, s)| s.client.and_then(|c| self.clients.get(c)))
            .map(|c| (c, c.transaction_at))
            .min_by_key(|(_, at)| *at)?;
        let state = match client.server.map(|s| self.servers[s].status) {
            Some(TransactionStatus::Idle) => "in a request",
            _ => "in a transaction",
        };
        let name = client.wanted.get("application_name").map_or(String::new(), |n| format!(" \"{n}\""));
        Some(Lease { since: at, holder: format!("{state} of client {}{name}", client.id).into() })
    }
}

/// A duration as errors print it.
pub fn seconds(d: Duration) -> String {
    if d < Duration::from_secs(1) { format!("{} ms", d.as_millis()) } else { format!("{:.1} s", d.as_secs_f64()) }
}
