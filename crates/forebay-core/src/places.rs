//! Whose turn it is where several pools share a limit (`max_db_connections`, `max_user_connections`, a part of
//! `server_budget`): a place that comes free
//! goes to the pool whose waiter waits longest, over all workers; and a pool that has servers gives one up for another that
//! waits much longer than it does.

use std::time::Duration;

use crate::ids::WorkerId;
use crate::io::Io;
use crate::pool::PoolId;
use crate::supply::Scope;
use crate::tables::database_of;
use crate::time::Instant;
use crate::worker::{Message, PoolName, Worker};

/// A pool gives a server up for one whose waiter waits so much longer than its own: closing one and opening another costs
/// more than a turn.
const GIVE_WAY_AFTER: Duration = Duration::from_millis(50);

/// Time after which a pool is compared again with the others.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A pool without a place, and since when its oldest waiter waits.
struct Starved {
    worker: WorkerId,
    name: PoolName,
    since: Instant,
}

impl<I: Io> Worker<I> {
    /// The limits over several pools that hold for a pool; `None`: there is none.
    pub(crate) fn scopes(&self, id: PoolId) -> [(Scope, Option<u32>); 2] {
        let pool = &self.pools[id.0 as usize];
        let of = database_of(&pool.database);
        let database = if of.len() == pool.database.len() { pool.database.clone() } else { of.into() };
        [
            (Scope::Database(database), pool.database_limit(self.now)),
            (Scope::User(pool.user.clone()), Some(self.user_limit(id)).filter(|limit| *limit != 0)),
        ]
    }

    /// Notes whether there are any.
    pub(crate) fn note_limits(&mut self, id: PoolId) {
        self.pool(id).is_limited = self.scopes(id).iter().any(|(_, limit)| limit.is_some());
    }

    /// What the process may have of a database's budget is another part than before.
    pub(crate) fn share_has_changed(&mut self, io: &mut I, database: &str) {
        for id in (0..self.pools.len()).map(|index| PoolId(index as u32)) {
            let pool = self.pool(id);
            if !pool.is_vacant && database_of(&pool.database) == database {
                self.note_limits(id);
                self.shed_over_limit(io, id);
                self.supply(io, id);
            }
        }
    }

    /// Of the pools within a scope that no limit of their own keeps from opening a server: the one that waits longest.
    fn longest_starved(&mut self, scope: &Scope) -> Option<Starved> {
        let me = self.id;
        let mut found: Option<Starved> = None;
        for index in 0..self.pools.len() {
            let (pool, id) = (&self.pools[index], PoolId(index as u32));
            if pool.shared.is_starved() && scope.has(&pool.database, &pool.user) && !pool.is_replication {
                let name = (pool.database.clone(), pool.user.clone());
                let mine = self.oldest_waiter(id).map(|since| Starved { worker: me, name, since });
                found = found.into_iter().chain(mine).min_by_key(|starved| starved.since);
            }
        }
        let others = self.shared.starved(me, |(database, user)| scope.has(database, user));
        let others = others.map(|(worker, name, since)| Starved { worker, name, since });
        found.into_iter().chain(others).min_by_key(|starved| starved.since)
    }

    /// Whether a free place within `scope` is for another pool, which has waited for it longer.
    pub(crate) fn is_others_turn(&mut self, id: PoolId, scope: &Scope) -> bool {
        let Some(first) = self.longest_starved(scope) else { return false };
        let ours = self.oldest_waiter(id);
        let pool = &self.pools[id.0 as usize];
        (&first.name.0, &first.name.1) != (&pool.database, &pool.user) && ours.is_none_or(|ours| first.since < ours)
    }

    /// A place within a scope is free: whoever waits longest for one looks again.
    pub(crate) fn tell_starved(&mut self, io: &mut I, scope: &Scope) {
        let Some(first) = self.longest_starved(scope) else { return };
        if first.worker == self.id {
            self.vacated.extend(self.pool_ids.get(&first.name).copied());
        } else {
            io.tell(first.worker, Message::PermitFree(first.name));
        }
    }

    /// A place of a pool is free within the limits that it shares: see [`Self::tell_starved`].
    pub(crate) fn tell_of_places(&mut self, io: &mut I, id: PoolId) {
        if !self.pool(id).is_limited {
            return;
        }
        let shared = self.pool(id).shared.clone();
        for (scope, _) in self.scopes(id).into_iter().filter(|(scope, _)| shared.limited(scope).is_wanted()) {
            self.tell_starved(io, &scope);
        }
    }

    /// Whether a server that comes back is to make room for a pool that has waited much longer than this one.
    #[cold]
    pub(crate) fn gives_way(&mut self, id: PoolId) -> bool {
        let now = self.now;
        let pool = self.pool(id);
        let is_wanted = pool.shared.of_database.is_wanted() || pool.shared.of_user.is_wanted();
        if !is_wanted || now < pool.compared_at + LOOK_AGAIN {
            return false;
        }
        pool.compared_at = now;
        let ours = self.oldest_waiter(id).unwrap_or(now);
        for (scope, limit) in self.scopes(id) {
            if !self.pool(id).shared.limited(&scope).is_reached(limit) {
                continue;
            }
            let pool = &self.pools[id.0 as usize];
            let own = (pool.database.clone(), pool.user.clone());
            match self.longest_starved(&scope) {
                Some(first) if first.name != own && first.since + GIVE_WAY_AFTER < ours => return true,
                Some(_) => {}
                None => self.pool(id).shared.limited(&scope).set_wanted(false),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pool::shared::{Shared, Standing};

    /// By the order of a list the same pools would always be first, and the last of them never.
    #[test]
    fn of_all_workers_pools_the_one_that_waits_longest_is_next() {
        let shared = Shared::new(3);
        let waits = |database: &str, user: &str, worker, since, is_starved| {
            let pool = shared.pool(&Arc::from(database), &Arc::from(user));
            pool.publish(WorkerId(worker), Standing { oldest: since, waiting: 1, ..Standing::default() });
            pool.set_starved(is_starved);
        };
        waits("shop", "a", 0, Some(Instant(30)), true);
        waits("shop", "b", 1, Some(Instant(20)), true);
        waits("shop", "c", 2, Some(Instant(10)), false);
        waits("blog", "a", 2, Some(Instant(5)), true);
        let next = |me, scope: Scope| {
            let found = shared.starved(WorkerId(me), |(database, user)| scope.has(database, user));
            found.map(|(worker, (database, user), since)| (worker.0, format!("{database}/{user}"), since.0))
        };
        let shop = || Scope::Database("shop".into());
        assert_eq!(next(2, shop()), Some((1, "shop/b".into(), 20)), "c is held back by its own size");
        assert_eq!(next(1, shop()), Some((0, "shop/a".into(), 30)), "a worker knows its own waiters better");
        assert_eq!(next(0, Scope::User("a".into())), Some((2, "blog/a".into(), 5)));
        waits("shop", "b", 1, None, true);
        assert_eq!(next(2, shop()), Some((0, "shop/a".into(), 30)), "nobody waits there any more");
    }
}
