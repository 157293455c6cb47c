//! What the operator's orders have put in force, worker by worker, and what they forbid from then on.
//!
//! An order reaches each worker at a time of its own. What a worker may do is judged by the orders that it has been
//! given; what all of them share, such as a limit, by the largest that any of them had in force a moment ago.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_core::command::Command;
use forebay_core::config::PoolMode;
use forebay_core::tables::Tables;

/// The database of one target, as one configuration has it; absent: it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) mode: PoolMode,
    pub(crate) pool_size: u32,
}

/// A configuration.
#[derive(Debug)]
pub(crate) struct Edition {
    pub(crate) tables: Arc<Tables>,
    /// By target.
    pub(crate) offers: Vec<Option<Offer>>,
}

/// What one worker has been told.
#[derive(Debug)]
struct Told {
    edition: usize,
    /// By target.
    is_paused: Vec<bool>,
    is_draining: bool,
    /// How often it has been told to reconnect.
    reconnects: u64,
    /// How many leases each session may still begin while the worker drains.
    leases_left: BTreeMap<u64, u64>,
    /// Sessions that had a server when the last order came. A lease may have begun without a word to the server.
    holders: BTreeSet<u64>,
    /// Those of them that have sent nothing to a server since.
    silent_holders: BTreeSet<u64>,
}

/// Of all workers.
#[derive(Debug)]
pub(crate) struct Regimes {
    names: Vec<String>,
    /// The same on their servers.
    names_on_servers: Vec<String>,
    editions: Vec<Edition>,
    workers: Vec<Told>,
    /// Sizes that were in force until a time, by target.
    past: Vec<Vec<(u64, u32)>>,
}

/// A server that is opened took its permit at most so long ago.
const OPENING_US: u64 = 2_000_000;

/// Requests that a client which does not wait for replies may have sent before it hears that it has to go.
const SENT_AHEAD: u64 = 2;

impl Regimes {
    /// All workers start with the first edition; `names` are the targets'.
    pub(crate) fn new(workers: usize, names: Vec<String>, first: Edition) -> Regimes {
        let told = || Told {
            edition: 0,
            is_paused: vec![false; names.len()],
            is_draining: false,
            reconnects: 0,
            leases_left: BTreeMap::new(),
            holders: BTreeSet::new(),
            silent_holders: BTreeSet::new(),
        };
        Regimes {
            workers: (0..workers).map(|_| told()).collect(),
            past: vec![Vec::new(); names.len()],
            names_on_servers: names.iter().map(|name| name.replace("db", "real")).collect(),
            names,
            editions: vec![first],
        }
    }

    /// The newest configuration, whoever has been told of it.
    pub(crate) fn newest(&self) -> &Edition {
        self.editions.last().expect("there is a first edition")
    }

    /// A configuration that is about to be ordered.
    pub(crate) fn add(&mut self, edition: Edition) {
        self.editions.push(edition);
    }

    /// A worker has been given an order.
    pub(crate) fn told(&mut self, worker: usize, command: &Command, now: u64) {
        let names = &self.names;
        let told = &mut self.workers[worker];
        let mut set = |database: Option<&str>, is_paused| {
            for (slot, name) in told.is_paused.iter_mut().zip(names) {
                if database.is_none_or(|d| d == name) {
                    *slot = is_paused;
                }
            }
        };
        match command {
            Command::Pause(database) => set(database.as_deref(), true),
            Command::Kill(database) => set(Some(database), true),
            Command::Resume(database) | Command::Unpause(database) => set(database.as_deref(), false),
            Command::Drain | Command::Cut => told.is_draining = true,
            Command::Reload(tables) => {
                let found = self.editions.iter().rposition(|e| Arc::ptr_eq(&e.tables, tables));
                let before = std::mem::replace(&mut told.edition, found.expect("a reload brings a known edition"));
                for (target, past) in self.past.iter_mut().enumerate() {
                    past.extend(self.editions[before].offers[target].map(|offer| (now, offer.pool_size)));
                }
            }
            Command::Reconnect(_) => told.reconnects += 1,
            Command::KillClient(_)
            | Command::Roles(..)
            | Command::Share(_)
            | Command::Close
            | Command::Shed
            | Command::Disable(_)
            | Command::Enable(_)
            | Command::WaitClose(_)
            | Command::HandOn
            | Command::LetGo
            | Command::Stay
            | Command::Suspend
            | Command::DropUnflushed
            | Command::Sockets
            | Command::Snapshot => {}
        }
    }

    /// Whether a worker may give a server of the target to somebody; `Err` says why not. `reconnects`: how often the
    /// worker that opened it had been told to reconnect.
    pub(crate) fn may_lease(&self, worker: usize, target: usize, reconnects: u64) -> Result<(), &'static str> {
        let told = &self.workers[worker];
        if told.is_paused[target] {
            return Err("of a database that is paused");
        }
        if self.editions[told.edition].offers[target].is_none() {
            return Err("of a database that is removed");
        }
        if told.reconnects > reconnects {
            return Err("that was opened before RECONNECT");
        }
        Ok(())
    }

    /// How often a worker has been told to reconnect.
    pub(crate) fn reconnects(&self, worker: usize) -> u64 {
        self.workers[worker].reconnects
    }

    /// These sessions have a server when an order has been given.
    pub(crate) fn holds(&mut self, worker: usize, sessions: BTreeSet<u64>) {
        self.workers[worker].silent_holders = sessions.clone();
        self.workers[worker].holders = sessions;
    }

    /// Whether a session had its server before the last order came; it has been seen with it once, then.
    pub(crate) fn held(&mut self, worker: usize, session: u64) -> bool {
        self.workers[worker].holders.remove(&session)
    }

    /// Whether what a session sends to a server is the first thing since the last order came, and goes on with a lease that
    /// it had by then.
    pub(crate) fn goes_on(&mut self, worker: usize, session: u64) -> bool {
        self.workers[worker].silent_holders.remove(&session)
    }

    /// A session has sent so many requests that are not answered, when its worker is told to drain.
    pub(crate) fn owes(&mut self, worker: usize, session: u64, requests: u64) {
        self.workers[worker].leases_left.insert(session, requests + SENT_AHEAD);
    }

    /// A session begins a lease. False: its worker drains, and all that it had sent must have been answered.
    pub(crate) fn may_begin(&mut self, worker: usize, session: u64) -> bool {
        let told = &mut self.workers[worker];
        if !told.is_draining {
            return true;
        }
        let left = told.leases_left.entry(session).or_insert(SENT_AHEAD);
        let is_allowed = *left > 0;
        *left = left.saturating_sub(1);
        is_allowed
    }

    /// The largest size of the target's pools that a server may have been opened by.
    pub(crate) fn size_max(&self, target: usize, now: u64) -> u32 {
        let present = self.workers.iter().filter_map(|told| self.editions[told.edition].offers[target]);
        let past = self.past[target].iter().filter(|(until, _)| until + OPENING_US > now).map(|(_, size)| *size);
        present.map(|offer| offer.pool_size).chain(past).max().unwrap_or(0)
    }

    /// The most servers that a pool of the target may have when nobody has used it for a while.
    pub(crate) fn size_at_rest(&self, target: usize) -> u32 {
        self.newest().offers[target].map_or(0, |offer| offer.pool_size)
    }

    /// Whether the target has been in session mode in every configuration, or in any.
    pub(crate) fn session_mode(&self, target: usize) -> (bool, bool) {
        let mut of_editions =
            self.editions.iter().filter_map(|e| e.offers[target]).map(|o| o.mode == PoolMode::Session);
        (of_editions.clone().all(|is_session| is_session), of_editions.any(|is_session| is_session))
    }

    /// Whether some configuration is without the target.
    pub(crate) fn was_removed(&self, target: usize) -> bool {
        self.editions.iter().any(|edition| edition.offers[target].is_none())
    }

    /// Whether any worker has been told to drain.
    pub(crate) fn is_draining(&self) -> bool {
        self.workers.iter().any(|told| told.is_draining)
    }

    /// The target with that name, as clients ask for it.
    pub(crate) fn target(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// The target with that name on its server.
    pub(crate) fn target_on_server(&self, real_name: &str) -> Option<usize> {
        self.names_on_servers.iter().position(|name| name == real_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::scenario::Scenario;

    fn edition(offer: Option<Offer>) -> Edition {
        let config = Scenario::draw(&mut Rng::new(1)).config;
        let tables = Tables::build(config, None, &mut |out| out.fill(7)).expect("what a seed draws is sound");
        Edition { tables: Arc::new(tables), offers: vec![offer] }
    }

    /// A worker accused of what it could not know yet would make every reload a finding.
    #[test]
    fn a_worker_is_judged_by_what_it_has_been_told() {
        let offer = |pool_size| Some(Offer { mode: PoolMode::Transaction, pool_size });
        let mut regimes = Regimes::new(2, vec!["db0".into()], edition(offer(4)));
        let (smaller, removed) = (edition(offer(2)), edition(None));
        let orders = [&smaller, &removed].map(|edition| Command::Reload(edition.tables.clone()));
        regimes.add(smaller);
        regimes.add(removed);
        regimes.told(0, &orders[0], 10);
        assert_eq!(regimes.size_max(0, OPENING_US), 4, "the other worker still has the larger size");
        regimes.told(1, &orders[1], 20);
        assert_eq!(regimes.size_max(0, OPENING_US), 4, "a server may be on its way");
        assert_eq!(regimes.size_max(0, 2 * OPENING_US), 2);
        assert!(regimes.may_lease(0, 0, 0).is_ok() && regimes.may_lease(1, 0, 0).is_err());
        regimes.told(0, &Command::Kill("db0".into()), 30);
        assert_eq!(regimes.may_lease(0, 0, 0), Err("of a database that is paused"));
        regimes.told(0, &Command::Resume(None), 40);
        assert!(regimes.may_lease(0, 0, 0).is_ok());
    }

    /// A lease that began without a word to the server goes on once: a second request behind the order is a new one.
    #[test]
    fn a_lease_from_before_an_order_goes_on_once() {
        let mut regimes = Regimes::new(2, vec!["db0".into()], edition(None));
        regimes.holds(0, [7].into());
        assert!(!regimes.goes_on(0, 8) && !regimes.goes_on(1, 7));
        assert!(regimes.goes_on(0, 7));
        assert!(!regimes.goes_on(0, 7));
        assert!(regimes.held(0, 7), "what another rule asks is not forgotten");
        regimes.holds(0, [7].into());
        regimes.holds(0, [].into());
        assert!(!regimes.goes_on(0, 7), "it had no server when the next order came");
    }
}
