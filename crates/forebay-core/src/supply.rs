//! Where servers come from and go: permits under the limits, opening, making room, closing.

use std::sync::Arc;
use std::time::Duration;

use forebay_pgwire::write;

use crate::checkout::UNMET;
use crate::config;
use crate::event::Level;
use crate::ids::WorkerId;
use crate::io::{Close, Io};
use crate::planted::{Bug, planted};
use crate::pool::{Pool, PoolId};
use crate::session::server::{Apart, ServerKey, ServerState};
use crate::tables::database_of;
use crate::worker::{Message, Worker};

/// Time after which other workers are asked the same again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Pools that share a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of a database: `max_db_connections`, and what it has of `server_budget`.
    Database(Arc<str>),
    /// All of a user: `max_user_connections`.
    User(Arc<str>),
}

impl Scope {
    pub(crate) fn has(&self, database: &Arc<str>, user: &Arc<str>) -> bool {
        match self {
            Scope::Database(meant) => **meant == *database_of(database),
            Scope::User(meant) => meant == user,
        }
    }
}

impl<I: Io> Worker<I> {
    /// Sees that servers are on their way for those who wait.
    pub(crate) fn supply(&mut self, io: &mut I, id: PoolId) {
        let me = self.id;
        self.serve(io, id);
        let _ = self.oldest_waiter(id);
        let pool = self.pool(id);
        if pool.is_asking || pool.waiters.is_empty() || pool.is_shut {
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
        if self.are_waiters_leaving(id) {
            return;
        }
        loop {
            let _ = self.oldest_waiter(id);
            let pool = self.pool(id);
            let is_in_use = pool.servers > 0 || pool.target.config.forced_user.is_some();
            let is_kept_filled = is_in_use && pool.cleared_until <= now;
            let min_missing = is_kept_filled && pool.shared.permits.used() < pool.settings.min_pool_size;
            let is_wanted = pool.opening + pool.resetting < pool.waiters.len() as u32 || min_missing;
            if pool.is_shut || pool.is_removed || !is_wanted {
                pool.shared.set_starved(false);
                return;
            }
            if pool.opening >= pool.settings.server_opening_max.max(1) {
                return;
            }
            let at = pool.endpoints.next_try(now);
            if at > now {
                pool.shared.set_starved(false);
                self.arm_pool(id, at);
                return;
            }
            if !self.take_permit(io, id) {
                return self.make_room_within(io, id);
            }
            let Some(endpoint) = self.next_endpoint(id) else {
                // Another worker has been faster.
                self.return_permit(id);
                self.tell_of_places(io, id);
                let at = self.pool(id).endpoints.next_try(now);
                return self.arm_pool(id, at.max(now));
            };
            self.open(io, id, endpoint);
        }
    }

    pub(crate) fn take_permit(&mut self, io: &mut I, id: PoolId) -> bool {
        let now = self.now;
        let pool = self.pool(id);
        let size = pool.size_max(now);
        if !planted(Bug::LimitPerWorker) && pool.shared.permits.is_full(size) {
            pool.shared.set_starved(false);
            self.arm_reserve(id);
            return false;
        }
        let shared = pool.shared.clone();
        let is_of_reserve = pool.settings.pool_size != 0 && shared.permits.is_full(pool.settings.pool_size);
        let size = if planted(Bug::LimitPerWorker) { size * u32::from(self.shared.workers) } else { size };
        if !shared.permits.try_take(size) {
            shared.set_starved(false);
            return false;
        }
        for (scope, limit) in self.scopes(id) {
            let limited = shared.limited(&scope);
            let is_wanted = limit.is_some() && limited.is_wanted();
            let is_others = is_wanted && !limited.is_reached(limit) && self.is_others_turn(id, &scope);
            if !is_others && limited.take(limit) {
                if is_wanted && !limited.is_reached(limit) {
                    self.tell_starved(io, &scope);
                }
                continue;
            }
            if matches!(scope, Scope::User(_)) {
                shared.of_database.give_back();
            }
            shared.permits.give_back();
            shared.set_starved(true);
            limited.set_wanted(true);
            if !is_others {
                self.evict_within(io, id, &scope);
            }
            return false;
        }
        shared.set_starved(false);
        if is_of_reserve {
            let fields = vec![("pool", self.pool(id).label().into())];
            self.log(io, Level::Info, "reserve_taken", fields);
        }
        true
    }

    fn next_endpoint(&self, id: PoolId) -> Option<usize> {
        let pool = &self.pools[id.0 as usize];
        let max = Duration::from_micros(pool.settings.server_backoff_max);
        pool.endpoints.choose(pool.settings.load_balance_hosts, max, self.now)
    }

    /// Sees that the pool is looked at when its oldest waiter may have a server of the reserve.
    fn arm_reserve(&mut self, id: PoolId) {
        let now = self.now;
        let pool = self.pool(id);
        let due = pool.reserve_due().filter(|due| *due > now);
        if let Some(due) = due
            && pool.reserve_armed.is_none_or(|armed| armed <= now || armed > due)
        {
            pool.reserve_armed = Some(due);
            self.arm_pool(id, due);
        }
    }

    /// `max_user_connections` of a pool's user.
    pub(crate) fn user_limit(&self, id: PoolId) -> u32 {
        let user = self.tables.user(&self.pools[id.0 as usize].user);
        let of_all = self.tables.config.limits.max_user_connections;
        user.and_then(|u| u.config.max_user_connections).unwrap_or(of_all)
    }

    /// At `strict` idle servers may be for none of those who wait: the longest idle one makes room for another.
    pub(crate) fn make_room_within(&mut self, io: &mut I, id: PoolId) {
        // One that has just been opened, or given back, is about to be offered to them.
        let is_one_coming = self.freed.iter().any(|key| self.servers.get(*key).is_some_and(|s| s.pool == id));
        let pool = self.pool(id);
        let is_strict = pool.settings.level == config::Level::Strict;
        let is_idle_unmet = is_strict && !pool.waiters.is_empty() && !is_one_coming;
        if let Some(server) = pool.idle.front().copied().filter(|_| is_idle_unmet) {
            self.retire(io, server, UNMET);
        }
    }

    /// A limit over several pools is reached: the longest idle server of another of them makes room.
    fn evict_within(&mut self, io: &mut I, id: PoolId, scope: &Scope) {
        match self.longest_idle(scope, Some(id)) {
            Some(server) => self.retire(io, server, "room for another pool"),
            None => self.ask_for_room(io, id, scope),
        }
    }

    fn longest_idle(&self, scope: &Scope, but: Option<PoolId>) -> Option<ServerKey> {
        let pools = self
            .pools
            .iter()
            .enumerate()
            .filter(|(i, p)| but != Some(PoolId(*i as u32)) && scope.has(&p.database, &p.user));
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

    pub(crate) fn tell_others(&self, io: &mut I, message: impl Fn() -> Message<I::Handover>) {
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

    /// Gives permits back, and tells whoever waits for one.
    pub(crate) fn give_permit_back(&mut self, io: &mut I, id: PoolId) {
        if planted(Bug::PermitLost) {
            return;
        }
        self.return_permit(id);
        let me = self.id;
        let shared = self.pool(id).shared.clone();
        if let Some((worker, _)) = shared.worker_with_oldest_waiter(me) {
            let name = (self.pool(id).database.clone(), self.pool(id).user.clone());
            io.tell(worker, Message::PermitFree(name));
        }
        self.tell_of_places(io, id);
        self.vacated.push(id);
    }

    fn return_permit(&self, id: PoolId) {
        let shared = &self.pools[id.0 as usize].shared;
        shared.permits.give_back();
        shared.of_database.give_back();
        shared.of_user.give_back();
    }

    /// A server of a pool has left: whoever waited for its place is supplied.
    pub(crate) fn fill_vacancy(&mut self, io: &mut I, id: PoolId) {
        let (database, user) = (self.pool(id).database.clone(), self.pool(id).user.clone());
        let is_near = |pool: &Pool| database_of(&pool.database) == database_of(&database) || pool.user == user;
        let near: Vec<_> = (0..).map(PoolId).zip(&self.pools).filter(|(_, p)| is_near(p)).map(|(id, _)| id).collect();
        let mut waiting: Vec<_> = near.into_iter().filter_map(|id| Some((self.oldest_waiter(id)?, id))).collect();
        waiting.sort_by_key(|(since, _)| *since);
        for (_, other) in waiting {
            self.supply(io, other);
        }
        self.command_progress(io);
    }

    /// Closes a server in order.
    #[inline(never)]
    pub(crate) fn retire(&mut self, io: &mut I, key: ServerKey, reason: &str) {
        if self.servers.get(key).is_none() {
            // Another one's leaving has made room at its cost.
            return;
        }
        let (conn, state) = (self.servers[key].conn, self.servers[key].state);
        if matches!(state, ServerState::Connecting | ServerState::TlsAsked | ServerState::Tls | ServerState::Login) {
            // There is nobody yet to say goodbye to: who asks for a password logs an error where it gets a Terminate.
            self.close_conn(io, conn, Close::Now);
        } else {
            let mut out = Vec::new();
            write::terminate(&mut out);
            self.send_to_server(io, key, &out);
            self.close_conn(io, conn, Close::AfterSend);
        }
        self.forget_server(io, key, reason);
    }

    /// Takes a server, whose connection is gone or going, out of its pool.
    pub(crate) fn forget_server(&mut self, io: &mut I, key: ServerKey, reason: &str) {
        let Some(mut server) = self.servers.remove(key) else { return };
        match server.apart {
            Some(Apart::Listener) => return self.listener_gone(io, key, &server, reason),
            Some(Apart::Reader) => return self.reading_is_lost(server.reading),
            Some(Apart::Trial) => return self.trial_gone(&server),
            None => {}
        }
        let id = server.pool;
        let pool = self.pool(id);
        pool.servers -= 1;
        pool.endpoints.note_gone(server.at);
        if server.measured.leaves.is_some() {
            pool.left_by_choice(&server);
        }
        pool.leased -= u32::from(server.is_leased);
        pool.resetting -= u32::from(server.is_being_reset);
        self.reading_is_lost(server.reading.take());
        if let Some(asking) = server.endings.asking.take() {
            self.ask_again(io, &asking);
        }
        let pool = self.pool(id);
        match server.state {
            ServerState::Connecting | ServerState::TlsAsked | ServerState::Tls | ServerState::Login => {
                pool.opening -= 1;
                if let Some(endpoint) = pool.endpoints.of(&server.place).filter(|_| server.is_local) {
                    endpoint.local.given_up();
                }
            }
            ServerState::Idle => {
                pool.idle.retain(|k| *k != key);
                pool.note_taken(server.at);
            }
            _ => {}
        }
        pool.stats.stats.closed.add(1);
        pool.measure_servers();
        self.publish(id);
        self.tell_server_closed(io, &server, reason);
        self.give_permit_back(io, id);
    }
}
