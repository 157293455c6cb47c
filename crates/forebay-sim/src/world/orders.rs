//! Orders of the operator: PAUSE, KILL, RELOAD of a changed configuration, shutdown; and what must follow from them.
//!
//! | order | what is demanded |
//! |---|---|
//! | PAUSE | done: the worker has no server; until RESUME no client is given one |
//! | KILL | at once no client of the database is left; then as PAUSE |
//! | a database removed | no client is given a server of it; in the end none is open; nobody is cut in a transaction |
//! | a pool made smaller | no server is opened above the size |
//! | drain | nobody new is let in, nobody is cut in a transaction or begins another; done: no client is left; it gets done |

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_core::command::{Command, CommandId, Reply};
use forebay_core::config::{EngineConfig, PoolMode};
use forebay_core::tables::Tables;

use crate::client::actor::Stage;
use crate::net::{End, LinkId};
use crate::regime::{Edition, Offer};
use crate::rng::Rng;
use crate::world::clients::DRAINING;
use crate::world::faults::{ECHO_US, Fault};
use crate::world::workers::session_at;
use crate::world::{Event, World};

/// In every error of forebay's own.
const OURS: &[u8] = b" (FB";
/// It says that nothing of a request was run.
const WITHDRAWN: &[u8] = b"(FB705)";

/// Orders given and not answered.
#[derive(Debug, Default)]
pub(crate) struct Unanswered {
    last: u64,
    orders: BTreeMap<u64, (usize, Command)>,
    /// When the last order reaches each worker: none overtakes.
    at: BTreeMap<usize, u64>,
}

impl World {
    /// Gives an order to every worker.
    pub(crate) fn order(&mut self, command: &Command) {
        for w in 0..self.seats.len() {
            self.unanswered.last += 1;
            let number = self.unanswered.last;
            self.unanswered.orders.insert(number, (w, command.clone()));
            let late = self.failover.as_ref().map_or(2_000, |failover| failover.told_late_us_max());
            let after = self.rng.below(late);
            let last = self.unanswered.at.entry(w).or_default();
            *last = (self.now + after).max(*last);
            let at = *last;
            self.schedule(at - self.now, Event::Ordered(w, CommandId(number), Box::new(command.clone())));
        }
    }

    /// KILL of some database; RESUME follows.
    pub(crate) fn kill_database(&mut self) {
        let target = self.order_luck.index(self.scenario.targets.len());
        let name: Arc<str> = self.scenario.targets[target].name.as_str().into();
        self.trace.say(self.now, || format!("KILL {name}"));
        self.hit_clients_of(&name);
        self.order(&Command::Kill(name));
        let after = self.order_luck.below(200_000) + 3_000;
        self.schedule(after, Event::Fault(Fault::Resume));
    }

    /// RELOAD of a configuration that differs from the last.
    pub(crate) fn change(&mut self) {
        let luck = &mut self.order_luck;
        let mut offers = self.checks.regimes.newest().offers.clone();
        let target = luck.index(offers.len());
        offers[target] = changed(luck, offers[target], &first_offers(&self.scenario.config)[target]);
        self.trace.say(self.now, || format!("RELOAD: {offers:?}"));
        let config = configured(&self.scenario.config, &offers);
        let built = Tables::build(config, Some(&self.tables), &mut |out| luck.fill(out));
        match built {
            Ok(tables) => self.tables = Arc::new(tables),
            Err(error) => return self.checks.fail(format!("the changed configuration cannot be: {error}")),
        }
        self.checks.regimes.add(Edition { tables: self.tables.clone(), offers });
        self.order(&Command::Reload(self.tables.clone()));
    }

    fn hit_clients_of(&mut self, database: &str) {
        let of = self.clients.iter_mut().filter(|client| client.who.database == database);
        of.for_each(|client| client.hit_until = self.now + ECHO_US);
    }

    /// A worker has dealt with an order.
    pub(crate) fn obeyed(&mut self, w: usize, command: &Command) {
        self.trace.say(self.now, || format!("worker {w} has been ordered {}", name(command)));
        let snapshot = self.seats[w].look();
        self.check_supplied(command, &snapshot);
        let clients = snapshot.clients.into_iter().filter(|client| client.server.is_some());
        self.checks.regimes.holds(w, clients.map(|client| session_at(client.port)).collect());
        if let Command::Drain = command {
            for client in &self.clients {
                if let Some(link) = client.link {
                    self.checks.regimes.owes(w, link.0 as u64, client.mirror.requests_under_way());
                }
            }
        }
        if let Command::Kill(database) = command {
            self.hit_clients_of(database);
            let is_of = |i: &usize| *self.clients[*i].who.database == **database;
            let left = self.clients_of(w).into_iter().find(is_of);
            if let Some(i) = left {
                self.checks.fail(format!("client {i} is still there after KILL {database}"));
            }
        }
    }

    /// A worker sends something to a client: not that it has to go, while its server is at work for it.
    pub(crate) fn check_parting(&mut self, i: usize, bytes: &[u8]) {
        if bytes.windows(OURS.len()).any(|window| window == OURS) {
            // An error of forebay's own is an answer, whenever the client comes to read it.
            self.checks.is_answered(i);
        }
        if bytes.windows(WITHDRAWN.len()).any(|window| window == WITHDRAWN) {
            self.checks.is_withdrawn(i);
        }
        let is_parting = |window: &[u8]| window == DRAINING.as_bytes();
        if !self.checks.regimes.is_draining() || !bytes.windows(DRAINING.len()).any(is_parting) {
            return;
        }
        for (p, process) in self.processes.iter().enumerate().filter(|(_, process)| !process.is_dead) {
            let is_lost = self.links[process.link.0].is_reset;
            if self.checks.serves(process.link, i) && !is_lost && !self.is_quiet(process.link, p) {
                return self.checks.fail(format!("client {i} is told to go while link {} serves it", process.link.0));
            }
        }
    }

    /// A worker has answered an order.
    pub(crate) fn answered_order(&mut self, w: usize, id: CommandId, reply: Reply) {
        let Some((_, command)) = self.unanswered.orders.remove(&id.0) else {
            return self.checks.fail(format!("worker {w} answered order {} twice", id.0));
        };
        match (command, reply) {
            (Command::Snapshot, Reply::Snapshot(snapshot)) => self.checks.snapshot(w, &snapshot),
            (Command::Pause(None), Reply::Done) => {
                if let Some(link) = self.servers_of(w).first() {
                    self.checks.fail(format!("worker {w} has paused, with a server at link {}", link.0));
                }
            }
            (Command::Drain, Reply::Done) => {
                if let Some(i) = self.clients_of(w).first() {
                    self.checks.fail(format!("worker {w} has drained, with client {i} there"));
                }
            }
            // A PAUSE is refused when RESUME comes before all servers are free.
            // An online restart that is called off has not ended.
            (Command::KillClient(_) | Command::Pause(_) | Command::HandOn, Reply::Refused(_)) | (_, Reply::Done) => {}
            (command, reply) => self.checks.fail(format!("worker {w} answered {command:?} with {reply:?}")),
        }
    }

    /// When nobody is left: what is open is what permits are taken for, and no more than may be.
    pub(crate) fn check_pools(&mut self) {
        if self.is_direct || !self.transit.is_empty() {
            return;
        }
        let clients = self.shared.clients.used();
        if clients > 0 {
            self.checks.fail(format!("{clients} permits of clients are lost"));
        }
        let mut open = BTreeMap::<(Arc<str>, Arc<str>), u32>::new();
        let servers = self.seats.iter_mut().flat_map(|seat| seat.look().servers);
        // A pool's listener takes no permit, nor does who reads a catalogue.
        for server in servers.filter(|server| !matches!(server.state, "listening" | "reading")) {
            *open.entry((server.database, server.user)).or_default() += 1;
        }
        for target in 0..self.scenario.targets.len() {
            let database: Arc<str> = self.scenario.targets[target].name.as_str().into();
            let is_paused = self.scenario.faults.ends_paused;
            let most = if is_paused { 0 } else { self.checks.regimes.size_at_rest(target) };
            let mut of_database = 0;
            let forced = self.scenario.config.databases[target].forced_user.clone();
            let users: Vec<Arc<str>> = forced.map_or_else(|| vec!["app".into(), "web".into()], |user| vec![user]);
            // The replicas of a cluster have a pool of their own.
            let beside = self.failover.is_some().then(|| Arc::from(format!("{database}:replicas")));
            let names = [database.clone()].into_iter().chain(beside);
            for pool in names.flat_map(|name| users.iter().map(move |user| (name.clone(), user.clone()))) {
                let count = open.get(&pool).copied().unwrap_or(0);
                let shared = self.shared.pool(&pool.0, &pool.1);
                let used = shared.permits.used();
                if used != count {
                    self.checks.fail(format!("{used} permits of {pool:?} are taken for {count} servers"));
                }
                if count > most {
                    self.checks.fail(format!("{count} servers of {pool:?} are open at rest, {most} may be"));
                }
                of_database += count;
            }
            let used = self.shared.pool(&database, &Arc::from("app")).of_database.used();
            if used != of_database {
                self.checks.fail(format!("{used} permits of database {database} are taken for {of_database} servers"));
            }
        }
    }

    /// An order that nobody has answered although all is over.
    pub(crate) fn unanswered(&self) -> Option<String> {
        let (w, command) = self.unanswered.orders.values().next()?;
        Some(format!("worker {w} has never answered {}", name(command)))
    }

    /// Clients in session on a worker: those that have been greeted.
    fn clients_of(&self, w: usize) -> Vec<usize> {
        let is_here = |i: &usize| {
            let client = &self.clients[*i];
            let holder = client.link.map(|link| self.links[link.0].ends[1]);
            client.stage == Stage::Ready && matches!(holder, Some(End::Worker(at, _)) if at == w)
        };
        (0..self.clients.len()).filter(is_here).collect()
    }

    /// Connections of a worker to servers that it is logged in to.
    fn servers_of(&self, w: usize) -> Vec<LinkId> {
        let of = self.processes.iter().filter(|p| p.session.is_some() && !p.is_dead).map(|p| p.link);
        // A pool's listener stays.
        let of = of.filter(|link| self.checks.is_of_pool(*link) == Some(true));
        of.filter(|link| matches!(self.links[link.0].ends[0], End::Worker(at, _) if at == w)).collect()
    }
}

/// What a configuration says of each database, in order.
pub(crate) fn first_offers(config: &EngineConfig) -> Vec<Option<Offer>> {
    let offer = |pool_size, mode| Some(Offer { mode, pool_size });
    config.databases.iter().map(|d| offer(d.pool.pool_size, d.pool.pool_mode)).collect()
}

fn configured(first: &EngineConfig, offers: &[Option<Offer>]) -> EngineConfig {
    let mut config = first.clone();
    let databases = first.databases.iter().zip(offers).filter_map(|(database, offer)| {
        let mut database = database.clone();
        (database.pool.pool_mode, database.pool.pool_size) = offer.map(|o| (o.mode, o.pool_size))?;
        Some(database)
    });
    config.databases = databases.collect();
    config
}

fn changed(luck: &mut Rng, offer: Option<Offer>, first: &Option<Offer>) -> Option<Offer> {
    let Some(Offer { mode, pool_size }) = offer else { return *first };
    match luck.below(6) {
        0 => None,
        // Clients that are there keep the mode of their login, beside those that come.
        1 => {
            let modes = [PoolMode::Transaction, PoolMode::Statement, PoolMode::Session];
            Some(Offer { mode: *luck.pick(&modes), pool_size })
        }
        _ => Some(Offer { mode, pool_size: luck.between(1, 5) as u32 }),
    }
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Reload(_) => "RELOAD",
        Command::Pause(_) => "PAUSE",
        Command::Resume(_) => "RESUME",
        Command::Unpause(_) => "the end of one PAUSE",
        Command::Kill(_) => "KILL",
        Command::KillClient(_) => "KILL CLIENT",
        Command::Reconnect(_) => "RECONNECT",
        Command::Drain => "a drain",
        Command::Cut => "the end of a drain",
        Command::Close => "a stop for new clients",
        Command::Shed => "a stop for those that wait",
        Command::Disable(_) => "DISABLE",
        Command::Enable(_) => "ENABLE",
        Command::WaitClose(_) => "WAIT_CLOSE",
        Command::HandOn => "an online restart",
        Command::LetGo => "the end of an online restart",
        Command::Stay => "an online restart that is called off",
        Command::Suspend => "SUSPEND",
        Command::DropUnflushed => "drop what is unflushed",
        Command::Roles(..) => "roles of a cluster",
        Command::Share(_) => "another share of a budget",
        Command::Snapshot | Command::Sockets => "SHOW",
    }
}
