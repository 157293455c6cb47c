//! What the workers' parts of a pool share: permits, and who has idle servers or waiters. Atomics only; a lock
//! is taken when a pool is first used.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::crowd::Crowd;
use crate::ids::WorkerId;
use crate::misses::Misses;
use crate::moving::{Expected, Moved};
use crate::pool::balance::Balance;
use crate::pool::census::Census;
use crate::pool::endpoints;
use crate::pool::greetings::Heard;
use crate::pool::health::Healths;
use crate::pool::holding::Holding;
use crate::pool::limited::Limited;
pub use crate::pool::limited::Permits;
use crate::statements::Registry;
use crate::supply::Scope;
use crate::tables::database_of;
use crate::time::Instant;
use crate::tracking::knowledge::Knowledge;

/// Nobody waits.
const NOBODY: u64 = u64::MAX;

/// One worker's flags, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Flags {
    has_idle: AtomicBool,
    oldest: AtomicU64,
    /// How many wait, and how many servers there are. These weigh, and nobody is forgotten by them.
    waiting: AtomicU32,
    servers: AtomicU32,
    /// Servers on their way to it.
    coming: AtomicU32,
    /// When its part of the pool was last found in use.
    used_at: AtomicU64,
    holding: Mutex<Holding>,
}

impl Flags {
    fn holding(&self) -> MutexGuard<'_, Holding> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a worker's part of a pool stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// There is an idle server.
    pub has_idle: bool,
    /// Since when its oldest waiter waits.
    pub oldest: Option<Instant>,
    /// Waiters.
    pub waiting: usize,
    /// Servers, in any state.
    pub servers: u32,
}

/// What the workers' parts of one pool share.
#[derive(Debug)]
pub struct PoolShared {
    /// Servers, in any state, over all workers.
    pub permits: Arc<Permits>,
    /// Servers of the database, over all its pools.
    pub of_database: Arc<Limited>,
    /// Servers of the user, over all databases.
    pub of_user: Arc<Limited>,
    /// It has metrics of its own.
    pub is_named: bool,
    is_starved: AtomicBool,
    /// What its servers have reported at login.
    pub heard: Heard,
    /// How the pool does at its endpoints.
    pub here: Healths<Arc<endpoints::Place>>,
    /// How its endpoints do beside each other.
    pub balance: Arc<Balance>,
    /// At which of its endpoints the search for the next one begins.
    pub turn: Arc<AtomicU32>,
    /// Servers of an earlier generation are closed when they come free: [`crate::session::server::Server::generation`].
    closing_before: AtomicU64,
    workers: Box<[Flags]>,
}

impl PoolShared {
    /// Whether it was refused a server last by a limit that it shares with other pools, and by nothing else.
    pub fn is_starved(&self) -> bool {
        self.is_starved.load(SeqCst)
    }

    /// See [`Self::is_starved`].
    pub fn set_starved(&self, is_starved: bool) {
        if self.is_starved() != is_starved {
            self.is_starved.store(is_starved, SeqCst);
        }
    }

    /// The count of a scope that it is in.
    pub fn limited(&self, scope: &Scope) -> &Limited {
        match scope {
            Scope::Database(_) => &self.of_database,
            Scope::User(_) => &self.of_user,
        }
    }

    /// Tells the others how `worker` stands.
    pub fn publish(&self, worker: WorkerId, standing: Standing) {
        if self.workers.len() > 1 {
            let flags = &self.workers[usize::from(worker.0)];
            // Written only where they change, as others read this line: that is the dear part.
            let waiting = u32::try_from(standing.waiting).unwrap_or(u32::MAX);
            if flags.waiting.load(Relaxed) != waiting {
                flags.waiting.store(waiting, Relaxed);
            }
            if flags.servers.load(Relaxed) != standing.servers {
                flags.servers.store(standing.servers, Relaxed);
            }
            let oldest = standing.oldest.map_or(NOBODY, |at| at.0);
            // These two are what nobody may miss.
            if flags.has_idle.load(Relaxed) != standing.has_idle {
                flags.has_idle.store(standing.has_idle, SeqCst);
            }
            if flags.oldest.load(Relaxed) != oldest {
                flags.oldest.store(oldest, SeqCst);
            }
        }
    }

    /// A server is on its way to `worker`.
    pub fn sent_server(&self, worker: WorkerId) {
        self.workers[usize::from(worker.0)].coming.fetch_add(1, SeqCst);
    }

    /// One that was on its way to `worker` is there.
    pub fn got_server(&self, worker: WorkerId) {
        let before = self.workers[usize::from(worker.0)].coming.fetch_sub(1, SeqCst);
        assert!(before > 0, "a server that arrives was sent");
    }

    /// How many are on their way between workers.
    pub fn under_way(&self) -> u32 {
        self.workers.iter().map(|flags| flags.coming.load(SeqCst)).sum()
    }

    /// The worker's part of the pool is in use.
    pub fn use_at(&self, worker: WorkerId, now: Instant) {
        self.workers[usize::from(worker.0)].used_at.store(now.0, Relaxed);
    }

    /// When any part of it was last found in use.
    pub fn used_at(&self) -> Instant {
        Instant(self.workers.iter().map(|flags| flags.used_at.load(Relaxed)).max().unwrap_or(0))
    }

    /// That of a pool which is none any more: nobody shares it.
    pub fn nowhere() -> Arc<PoolShared> {
        Arc::new(PoolShared::of(Arc::default(), Arc::default(), Arc::default(), false, Box::default()))
    }

    fn of(
        permits: Arc<Permits>,
        of_database: Arc<Limited>,
        of_user: Arc<Limited>,
        is_named: bool,
        workers: Box<[Flags]>,
    ) -> PoolShared {
        PoolShared {
            permits,
            of_database,
            of_user,
            is_named,
            is_starved: AtomicBool::new(false),
            heard: Heard::default(),
            here: Healths::default(),
            balance: Arc::default(),
            turn: Arc::default(),
            closing_before: AtomicU64::new(0),
            workers,
        }
    }

    /// Whether a server of that generation is to be closed.
    pub fn is_closing(&self, generation: u64) -> bool {
        generation < self.closing_before.load(SeqCst)
    }

    /// Tells the others what this worker's servers do.
    pub fn publish_holding(&self, worker: WorkerId, holding: Holding) {
        *self.workers[usize::from(worker.0)].holding() = holding;
    }

    /// What the other workers' servers do, as they last told.
    pub fn holding(&self, but: WorkerId) -> impl Iterator<Item = Holding> {
        self.others(but).map(|(_, flags)| flags.holding().clone())
    }

    /// Whether all other workers have told it since `at`.
    pub fn have_told_since(&self, but: WorkerId, at: Instant) -> bool {
        self.others(but).all(|(_, flags)| flags.holding().told_at >= at)
    }

    /// Another worker that has an idle server.
    pub fn worker_with_idle(&self, but: WorkerId) -> Option<WorkerId> {
        self.others(but).find(|(_, flags)| flags.has_idle.load(SeqCst)).map(|(worker, _)| worker)
    }

    /// The other worker whose waiter waits longest, and since when.
    pub fn worker_with_oldest_waiter(&self, but: WorkerId) -> Option<(WorkerId, Instant)> {
        let waiting = self.others(but).map(|(worker, flags)| (worker, flags.oldest.load(SeqCst)));
        waiting.filter(|(_, at)| *at != NOBODY).min_by_key(|(_, at)| *at).map(|(worker, at)| (worker, Instant(at)))
    }

    /// The other worker that a server is lent to first, and since when its oldest waiter may count as waiting.
    ///
    /// That is `grain` later for each server by which the worker would exceed its part, which is by how many wait there.
    /// By age alone all servers would follow the oldest waiters from worker to worker, for those of one worker have come
    /// in one go after they were served in one go, and no more would be done than one worker can do.
    pub fn worker_to_lend_to(&self, but: WorkerId, grain: Duration) -> Option<(WorkerId, Instant)> {
        self.worker_with_oldest_waiter(but)?;
        let waiting: u64 = self.workers.iter().map(|flags| u64::from(flags.waiting.load(Relaxed))).sum();
        let servers = u64::from(self.permits.used());
        let weighed = self.others(but).filter_map(|(worker, flags)| {
            let oldest = Some(flags.oldest.load(SeqCst)).filter(|at| *at != NOBODY)?;
            let part = (servers * u64::from(flags.waiting.load(Relaxed))).div_ceil(waiting.max(1));
            let with_it = u64::from(flags.servers.load(Relaxed)) + u64::from(flags.coming.load(Relaxed)) + 1;
            let excess = u32::try_from(with_it.saturating_sub(part.max(1))).unwrap_or(u32::MAX);
            Some((worker, Instant(oldest) + grain.saturating_mul(excess)))
        });
        weighed.min_by_key(|(_, at)| *at)
    }

    fn others(&self, but: WorkerId) -> impl Iterator<Item = (WorkerId, &Flags)> {
        let ids = (0..).map(WorkerId);
        ids.zip(&self.workers).filter(move |(worker, _)| *worker != but)
    }
}

/// A pool's database and user.
pub type Name = (Arc<str>, Arc<str>);

/// An endpoint, and a database's name there.
type Place = (Arc<str>, Arc<str>);

/// What a process leaves to the one that succeeds it, beside its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// What the names of its statements begin with.
    pub prefix: Box<[u8]>,
    /// The last number of a statement.
    pub last_statement: u64,
    /// The largest number of a client or server.
    pub last_id: u64,
}

/// Numbers that are left to the process that is succeeded, for what it still begins.
const NUMBERS_LEFT: u64 = 1 << 24;

/// What all workers of an engine share.
#[derive(Debug)]
pub struct Shared {
    /// How many workers there are.
    pub workers: u16,
    /// Statements by content.
    pub registry: Arc<Registry>,
    /// Numbers of clients and servers begin behind this one.
    pub first_id: u64,
    /// Servers that are to come from elsewhere.
    pub expected: Expected,
    /// Clients that came from elsewhere.
    pub moved: Moved,
    /// Clients, over all workers.
    pub clients: Permits,
    /// The same by database and user.
    pub census: Census,
    /// Clients on their way in.
    pub crowd: Crowd,
    /// Cancel requests that named nobody.
    pub misses: Misses,
    /// Logins that were refused.
    pub failed_logins: Misses,
    /// How the endpoints do, whichever pool they are of.
    pub hosts: Healths<Arc<str>>,
    /// What went on to peers, by whom it came from.
    pub passes: Misses,
    pools: Mutex<SharedPools>,
    named_max: AtomicU32,
    /// By endpoint and name there.
    knowledge: Mutex<FxHashMap<Place, Arc<Knowledge>>>,
    /// By pool: the worker that owns its listener.
    listeners: Mutex<FxHashMap<Name, WorkerId>>,
}

#[derive(Debug, Default)]
struct SharedPools {
    pools: FxHashMap<(Arc<str>, Arc<str>), Arc<PoolShared>>,
    databases: FxHashMap<Arc<str>, Arc<Limited>>,
    replication: FxHashMap<Arc<str>, Arc<Permits>>,
    users: FxHashMap<Arc<str>, Arc<Limited>>,
    /// Pools that have metrics of their own.
    named: u32,
}

impl Shared {
    /// Nothing in use yet, and names of statements that are easy to read.
    pub fn new(workers: u16) -> Shared {
        Shared::with_registry(workers, Registry::default())
    }

    /// The same, with names of statements on servers that who does not know `random` guesses none of.
    pub fn with_names_of(workers: u16, random: u64) -> Shared {
        Shared::with_registry(workers, Registry::with_names_of(random))
    }

    /// Those of a process that succeeds another, and names its statements as that one does.
    pub fn succeeding(workers: u16, before: &Legacy) -> Shared {
        let registry = Registry::succeeding(&before.prefix, before.last_statement + NUMBERS_LEFT);
        Shared { first_id: before.last_id + NUMBERS_LEFT, ..Shared::with_registry(workers, registry) }
    }

    /// Another process has so many servers of a pool, which count here until they have come or that process has ended.
    pub fn expect_servers(&self, database: &Arc<str>, user: &Arc<str>, count: u32) {
        let pool = self.pool(database, user);
        for _ in 0..count {
            for permits in [&*pool.permits, &**pool.of_database, &**pool.of_user] {
                permits.try_take(0);
            }
            self.expected.add((database.clone(), user.clone()));
        }
    }

    /// The other process has no more servers than these. Returns the pools that have room again.
    pub fn expect_at_most(&self, held: &[(String, String, u32)]) -> Vec<Name> {
        let most = |(database, user): &Name| {
            let found = held.iter().find(|(d, u, _)| **d == **database && **u == **user);
            found.map_or(0, |(_, _, count)| *count)
        };
        let left = self.expected.shrink(most).into_iter();
        left.map(|((database, user), count)| {
            let pool = self.pool(&database, &user);
            for permits in [&*pool.permits, &**pool.of_database, &**pool.of_user] {
                (0..count).for_each(|_| permits.give_back());
            }
            (database, user)
        })
        .collect()
    }

    fn with_registry(workers: u16, registry: Registry) -> Shared {
        Shared {
            workers,
            registry: Arc::new(registry),
            first_id: 0,
            expected: Expected::default(),
            moved: Moved::default(),
            clients: Permits::default(),
            census: Census::default(),
            crowd: Crowd::default(),
            misses: Misses::default(),
            failed_logins: Misses::default(),
            hosts: Healths::default(),
            passes: Misses::default(),
            pools: Mutex::default(),
            named_max: AtomicU32::new(u32::MAX),
            knowledge: Mutex::default(),
            listeners: Mutex::default(),
        }
    }

    /// What is known of the database `dbname` at `endpoint`, by whatever name clients ask for it.
    pub fn knowledge(&self, endpoint: &Arc<str>, dbname: &Arc<str>) -> Arc<Knowledge> {
        let mut all = self.knowledge.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((endpoint.clone(), dbname.clone())).or_default().clone()
    }

    /// The same, if anything is known of it.
    pub fn known(&self, endpoint: &str, dbname: &str) -> Option<Arc<Knowledge>> {
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner).get(&(endpoint.into(), dbname.into())).cloned()
    }

    /// The worker that owns the listener of the pool `name`: the one that first asks, which is `me` if nobody has.
    pub fn listener_owner(&self, name: &Name, me: WorkerId) -> WorkerId {
        let mut all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(name.clone()).or_insert(me)
    }

    /// What the workers' parts of the pool (`database`, `user`) share.
    pub fn pool(&self, database: &Arc<str>, user: &Arc<str>) -> Arc<PoolShared> {
        let mut all = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = all.pools.get(&(database.clone(), user.clone())) {
            return pool.clone();
        }
        let of_database = all.databases.entry(database_of(database).into()).or_default().clone();
        let of_user = all.users.entry(user.clone()).or_default().clone();
        let is_named = all.named < self.named_max.load(Relaxed);
        all.named += u32::from(is_named);
        let pool = Arc::new(PoolShared::of(Arc::default(), of_database, of_user, is_named, self.flags()));
        all.pools.insert((database.clone(), user.clone()), pool.clone());
        pool
    }

    /// What the pools of a database count in together.
    pub fn of_database(&self, database: &str) -> Arc<Limited> {
        let mut all = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        all.databases.entry(database.into()).or_default().clone()
    }

    /// How many pools may have metrics of their own, of those that are made from here on.
    pub fn name_at_most(&self, pools: u32) {
        self.named_max.store(pools, Relaxed);
    }

    /// How many pools are known.
    pub fn pools_known(&self) -> usize {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).pools.len()
    }

    /// A worker has forgotten its part of a pool, whose first endpoint that is. What no other part needs is dropped.
    pub fn forget(&self, name: &Name, endpoint: &Arc<str>, dbname: &Arc<str>) {
        let mut all = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = |pool: &Arc<PoolShared>| Arc::strong_count(pool) == 1 && pool.permits.used() == 0;
        if let Some(pool) = all.pools.get(name).filter(|pool| is_last(pool)) {
            let is_named = pool.is_named;
            all.pools.remove(name);
            all.named -= u32::from(is_named);
            self.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        fn drop_unused<T>(of: &mut FxHashMap<Arc<str>, Arc<T>>, name: &str) {
            if of.get(name).is_some_and(|counted| Arc::strong_count(counted) == 1) {
                of.remove(name);
            }
        }
        let database = database_of(&name.0);
        if all.databases.get(database).is_some_and(|limited| !limited.share().is_told()) {
            drop_unused(&mut all.databases, database);
        }
        drop_unused(&mut all.replication, &name.0);
        drop_unused(&mut all.users, &name.1);
        drop(all);
        let mut known = self.knowledge.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (endpoint.clone(), dbname.clone());
        if known.get(&place).is_some_and(|knowledge| Arc::strong_count(knowledge) == 1) {
            known.remove(&place);
        }
    }

    /// Of the pools that are meant, and starved: the one whose waiter of a worker other than `but` waits longest.
    pub fn starved(&self, but: WorkerId, is_meant: impl Fn(&Name) -> bool) -> Option<(WorkerId, Name, Instant)> {
        let all = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let starved = all.pools.iter().filter(|(name, pool)| pool.is_starved() && is_meant(name));
        let waiting = starved.filter_map(|(name, pool)| pool.worker_with_oldest_waiter(but).map(|found| (name, found)));
        let first = waiting.min_by_key(|(_, (_, since))| *since);
        first.map(|(name, (worker, since))| (worker, name.clone(), since))
    }

    /// Servers of a database, or of all, that are of an earlier generation are closed when they come free, wherever they
    /// are.
    pub fn close_before(&self, database: Option<&str>, generation: u64) {
        let all = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, pool) in
            all.pools.iter().filter(|((of, _), _)| database.is_none_or(|database| database_of(of) == database))
        {
            pool.closing_before.fetch_max(generation, SeqCst);
        }
    }

    /// What parts of a pool of replication connections share: those of all users of `database` count together, and
    /// nowhere else.
    pub fn replication(&self, database: &Arc<str>) -> Arc<PoolShared> {
        let mut all = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let permits = all.replication.entry(database.clone()).or_default().clone();
        let is_named = all.named < self.named_max.load(Relaxed);
        Arc::new(PoolShared::of(permits, Arc::default(), Arc::default(), is_named, self.flags()))
    }

    fn flags(&self) -> Box<[Flags]> {
        let flags = || Flags { oldest: AtomicU64::new(NOBODY), ..Flags::default() };
        (0..self.workers).map(|_| flags()).collect()
    }
}

#[cfg(test)]
mod tests;
