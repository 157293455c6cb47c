//! Pools that nobody uses any more: what they have counted is kept, and all else is forgotten.
//!
//! A worker's part of a pool is forgotten while no other part of it has been in use for the same time: what is shared goes
//! with the last part. Its slot is another pool's afterwards, so that nothing may name it: no client, server or cancel.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;

use crate::event::Level;
use crate::io::Io;
use crate::planted::{Bug, planted};
use crate::pool::{Pool, PoolId};
use crate::stats::{LabelledPool, REST};
use crate::worker::Worker;

/// Pools that are forgotten at a time: a thousand that age together are not one long turn.
const AT_ONCE: usize = 256;

impl<I: Io> Worker<I> {
    /// Forgets pools that have not been in use for `limits.pool_idle_timeout`; those of `*` for
    /// `limits.autodb_idle_timeout`; those of databases that are gone, at once.
    pub(crate) fn forget_pools(&mut self, io: &mut I) {
        let now = self.now;
        let mut due = FxHashSet::default();
        for index in 0..self.pools.len() {
            let pool = &self.pools[index];
            if pool.is_vacant {
                continue;
            }
            let has_clients = pool.stats.stats.clients.get() > 0 && !planted(Bug::UsedPoolForgotten);
            if pool.servers > 0 || !pool.waiters.is_empty() || has_clients {
                pool.shared.use_at(self.id, now);
                continue;
            }
            let is_over = self.idle_max(pool).is_some_and(|max| now.since(pool.shared.used_at()) >= max);
            let is_taken = pool.is_paused || pool.shared.under_way() > 0 || pool.has_permits();
            let id = PoolId(index as u32);
            if is_over && !is_taken && due.len() < AT_ONCE && self.is_listener_at_rest(id) {
                due.insert(id);
            }
        }
        if due.is_empty() || self.is_moving() {
            return;
        }
        let of_clients = self.clients.iter().flat_map(|(_, client)| [client.pool, client.served_by]);
        of_clients.flatten().filter(|_| !planted(Bug::UsedPoolForgotten)).for_each(|id| _ = due.remove(&id));
        self.servers.iter().for_each(|(_, server)| _ = due.remove(&server.pool));
        self.cancels.iter().for_each(|(_, cancel)| _ = due.remove(&cancel.pool));
        for id in due {
            self.forget_pool(io, id);
        }
        while self.pools.last().is_some_and(|pool| pool.is_vacant) {
            self.pools.pop();
        }
        let left = self.pools.len();
        self.vacant.retain(|id| (id.0 as usize) < left);
        self.vacated.retain(|id| (id.0 as usize) < left);
        self.forget_alarms_of_pools(left);
    }

    /// How long a pool may be out of use; `None`: for ever.
    fn idle_max(&self, pool: &Pool) -> Option<Duration> {
        if pool.is_removed {
            return Some(Duration::ZERO);
        }
        let limits = &self.tables.config.limits;
        let of_auto = if pool.target.is_fallback { limits.autodb_idle_timeout } else { 0 };
        let set = [limits.pool_idle_timeout, of_auto].into_iter().filter(|max| *max > 0);
        set.min().map(Duration::from_micros)
    }

    fn forget_pool(&mut self, io: &mut I, id: PoolId) {
        let label = self.pool(id).label();
        let (name, is_replication) = (self.pool_name(id), self.pool(id).is_replication);
        let ids = if is_replication { &mut self.replication_ids } else { &mut self.pool_ids };
        ids.remove(&name);
        self.forget_listening(id);
        self.pools.iter_mut().filter(|pool| pool.replicas == Some(id)).for_each(|pool| pool.replicas = None);
        let pool = &mut self.pools[id.0 as usize];
        // As `knowledge_of` names it, wherever its servers are now.
        let endpoint = pool.target.config.endpoints.first().cloned();
        let dbname: Arc<str> = pool.target.dbname(&pool.database).into();
        let stats = pool.stats.clone();
        pool.vacate();
        self.vacant.push(id);
        self.shared.forget(&name, &endpoint.unwrap_or_else(|| self.nobody.clone()), &dbname);
        self.keep_counts(&stats);
        self.log(io, Level::Info, "pool_forgotten", vec![("pool", label.into())]);
    }

    /// What a pool has counted goes on to be counted, with that of the others that are forgotten.
    fn keep_counts(&self, stats: &Arc<LabelledPool>) {
        let mut pools = self.stats.pools.lock().unwrap_or_else(PoisonError::into_inner);
        self.stats.forgotten.add(1);
        let rest = pools.iter().find(|pool| pool.is_rest()).cloned().unwrap_or_else(|| {
            let rest = Arc::new(LabelledPool { database: REST.into(), user: REST.into(), ..LabelledPool::default() });
            pools.push(rest.clone());
            rest
        });
        rest.stats.absorb(&stats.stats);
        pools.retain(|pool| !Arc::ptr_eq(pool, stats));
    }

    /// Somebody asks for a database that only `*` names, and whose pool nobody has used for long.
    pub(crate) fn tell_new_database(&self, io: &mut I, id: PoolId) {
        let pool = &self.pools[id.0 as usize];
        let is_new = || Arc::strong_count(&pool.shared) <= 2 && pool.stats.stats.logins.get() == 0;
        if pool.target.is_fallback && is_new() {
            self.log(io, Level::Info, "auto_database", vec![("database", pool.database.clone().into())]);
        }
    }

    /// A slot for a pool: one that was forgotten, or a new one.
    pub(crate) fn place_pool(&mut self, pool: Pool) -> PoolId {
        pool.shared.use_at(self.id, self.now);
        match self.vacant.pop() {
            Some(id) => {
                self.pools[id.0 as usize] = pool;
                id
            }
            None => {
                self.pools.push(pool);
                PoolId(u32::try_from(self.pools.len() - 1).expect("under 2^32 pools"))
            }
        }
    }
}
