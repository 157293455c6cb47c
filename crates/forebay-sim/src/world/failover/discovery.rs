//! Python's part (`control/discover/poll.py`): it asks each endpoint at intervals, and tells the workers what follows.
//!
//! What follows is decided by the very account that Python uses ([`forebay_core::cluster::Cluster`]).

use std::sync::Arc;

use forebay_core::cluster::roles::{Found, Serves};
use forebay_core::cluster::{Cluster, Seen, Standing};
use forebay_core::command::Command;
use forebay_core::config::DatabaseConfig;

use crate::scenario::ClusterPlan;
use crate::world::failover::Step;
use crate::world::failover::nodes::SYSTEM;
use crate::world::{Event, World};

/// While a primary is missing, or the replicas are not where it is.
const HURRY_US: u64 = 100_000;

/// What came of a probe.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Seen(Seen),
    Missed,
    /// By a server that lets others in.
    Refused,
}

/// The questions to one endpoint.
#[derive(Clone, Debug, Default)]
struct Probe {
    /// Of the question that is due next.
    number: u64,
    is_asking: bool,
    /// It is to be asked again at once.
    is_due: bool,
    is_heard: bool,
    has_missed: bool,
}

/// What is known of the cluster of one database.
pub(super) struct Account {
    database: Arc<str>,
    cluster: Cluster,
    probes: Vec<Probe>,
    /// The highest timeline on which an endpoint of the cluster said that it writes.
    highest: u32,
    /// A primary was found once: from then on it is known which system this is.
    has_found: bool,
    /// Reads go to replicas, so that it matters how far they are.
    is_followed: bool,
}

impl Account {
    pub(super) fn new(database: &DatabaseConfig, plan: &ClusterPlan) -> Account {
        Account {
            database: database.name.clone(),
            cluster: Cluster::new(database.endpoints.iter().cloned(), plan.misses_max, 0),
            probes: vec![Probe::default(); plan.nodes],
            highest: 0,
            has_found: false,
            is_followed: database.cluster.is_some_and(|cluster| cluster.is_split),
        }
    }

    /// Until the next question.
    fn pause_us(&self, interval_us: u64) -> u64 {
        let primary = self.cluster.nodes().iter().position(|node| node.standing == Standing::Primary);
        let is_hurried = primary.is_none_or(|primary| self.probes[primary].has_missed);
        let is_followed = self.is_followed && self.cluster.is_behind();
        if is_hurried || is_followed { interval_us.min(HURRY_US) } else { interval_us }
    }
}

fn is_standby(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Seen(seen) if seen.is_in_recovery)
}

/// Why what an account takes for its primary can't be the one; by what the endpoints have said, and nothing else.
fn wrong_primary(cluster: &Cluster, highest: u32) -> Option<String> {
    let mut primaries = cluster.nodes().iter().filter(|node| node.standing == Standing::Primary);
    let (primary, other) = (primaries.next()?, primaries.next());
    let seen = primary.seen?;
    let name = &primary.name;
    let is_alike = |node: &&forebay_core::cluster::Node| {
        let writes = |other: Seen| !other.is_in_recovery && other.system == seen.system;
        node.name != *name && node.seen.is_some_and(|other| writes(other) && other.timeline >= seen.timeline)
    };
    if let Some(other) = other {
        return Some(format!("both {name} and {} are written to", other.name));
    }
    if seen.is_in_recovery || seen.system != SYSTEM {
        return Some(format!("{name} is written to, which said {seen:?}"));
    }
    if seen.timeline < highest {
        return Some(format!("{name} on timeline {} is written to, {highest} was seen", seen.timeline));
    }
    let is_stranger = |node: &&forebay_core::cluster::Node| node.seen.is_some_and(|one| one.system != SYSTEM);
    let replicas = || cluster.nodes().iter().filter(|node| node.standing == Standing::Replica);
    if let Some(stranger) = replicas().find(is_stranger) {
        return Some(format!("{} is read from, which is of another cluster", stranger.name));
    }
    let is_astray = |node: &&forebay_core::cluster::Node| node.seen.is_some_and(|one| one.timeline < highest);
    if let Some(astray) = replicas().find(is_astray) {
        return Some(format!("{} is read from, which has not followed to timeline {highest}", astray.name));
    }
    let alike = cluster.nodes().iter().filter(is_alike).find(|node| node.standing != Standing::Down);
    alike.map(|other| format!("{name} is written to, and {} can be as well", other.name))
}

impl World {
    /// A worker has lost a server of a database.
    pub(crate) fn suspected(&mut self, database: &str) {
        let Some(failover) = &mut self.failover else { return };
        let found = failover.accounts.iter().position(|account| *account.database == *database);
        let after = failover.luck.below(5_000);
        if let Some(account) = found {
            self.schedule(after, Event::Cluster(Step::Suspected(account)));
        }
    }

    fn is_healed(&self) -> bool {
        self.now >= self.scenario.heals_at
    }

    /// Whether every account can tell the cluster from a server of another one in the place of `node`: it has found a primary
    /// before, or more than one of the others have told of themselves. Of one and one nobody could say which it is.
    pub(super) fn is_cluster_known(&self, node: usize) -> bool {
        let mut accounts = self.failover.iter().flat_map(|failover| &failover.accounts);
        accounts.all(|account| {
            let nodes = account.cluster.nodes().iter().enumerate();
            let seen = nodes.filter(|(_, it)| it.seen.is_some_and(|seen| seen.system == SYSTEM));
            (account.has_found && seen.clone().next().is_some()) || seen.filter(|(other, _)| *other != node).count() > 1
        })
    }

    /// All endpoints are asked at once.
    pub(super) fn look_now(&mut self, account: usize) {
        for node in 0..self.cluster().accounts[account].probes.len() {
            let probe = &mut self.cluster().accounts[account].probes[node];
            probe.is_due = probe.is_asking;
            if !probe.is_asking {
                probe.number += 1;
                let number = probe.number;
                self.schedule(0, Event::Cluster(Step::Probe(account, node, number)));
            }
        }
    }

    pub(super) fn probe(&mut self, account: usize, node: usize, number: u64) {
        let (now, delay_max, is_healed) = (self.now, self.scenario.delay_max, self.is_healed());
        let failover = self.cluster();
        let probe = &mut failover.accounts[account].probes[node];
        if probe.number != number || probe.is_asking {
            return;
        }
        (probe.is_asking, probe.is_due) = (true, false);
        // An answer that takes long may be about what is no more.
        let is_late = failover.luck.one_in(failover.plan.late_one_in) && !is_healed;
        let most = if is_late { failover.plan.timeout_us } else { delay_max };
        let after = failover.luck.below(most);
        self.schedule(after, Event::Cluster(Step::Reached(account, node, now)));
    }

    pub(super) fn probe_reaches(&mut self, account: usize, node: usize, asked_us: u64) {
        let (now, delay_max, is_healed) = (self.now, self.scenario.delay_max, self.is_healed());
        let (is_down, is_starting, is_cut) =
            (self.servers[node].is_down, self.is_starting(node), self.is_cut_off(node));
        let failover = self.cluster();
        let it = &failover.nodes[node];
        let (is_in_recovery, timeline, system) = (it.is_in_recovery, it.timeline, it.system);
        let seen = Seen { is_in_recovery, timeline, is_certain: is_in_recovery, lsn: it.lsn(), system };
        let gives_up_at = asked_us + failover.plan.timeout_us;
        let is_late = failover.luck.one_in(failover.plan.late_one_in) && !is_healed;
        let most = if is_late { failover.plan.timeout_us } else { delay_max };
        let at = now + failover.luck.below(most);
        let outcome = if is_down || is_starting {
            Outcome::Missed
        } else if failover.luck.one_in(failover.plan.refused_one_in) && !is_healed {
            Outcome::Refused
        } else {
            Outcome::Seen(seen)
        };
        let (at, outcome) = if is_cut || at > gives_up_at { (gives_up_at, Outcome::Missed) } else { (at, outcome) };
        self.schedule(at - now, Event::Cluster(Step::Heard(account, node, asked_us, outcome)));
    }

    pub(super) fn probe_heard(&mut self, account: usize, node: usize, asked_us: u64, outcome: Outcome) {
        let failover = self.failover.as_mut().expect("only where there is a cluster");
        let Account { database, cluster, probes, highest, has_found, .. } = &mut failover.accounts[account];
        let probe = &mut probes[node];
        (probe.is_asking, probe.is_heard) = (false, true);
        probe.has_missed = !matches!(outcome, Outcome::Seen(_));
        match outcome {
            Outcome::Seen(seen) => cluster.heard(node, seen, asked_us),
            Outcome::Missed => cluster.missed(node),
            Outcome::Refused => {}
        }
        self.trace.say(self.now, || format!("{database} hears of endpoint {node}: {outcome:?}"));
        if let (Outcome::Seen(seen), true) = (outcome, !is_standby(outcome)) {
            *highest = (*highest).max(if seen.system == SYSTEM { seen.timeline } else { 0 });
        }
        if probes.iter().all(|probe| probe.is_heard) && cluster.decide() {
            *has_found |= cluster.nodes().iter().any(|node| node.standing == Standing::Primary);
            let of = |node: &forebay_core::cluster::Node| Found {
                name: node.name.clone(),
                serves: Serves::from(node.standing),
            };
            let found: Arc<[Found]> = cluster.nodes().iter().map(of).collect();
            self.trace.say(self.now, || format!("{database}: {found:?}"));
            if let Some(words) = wrong_primary(cluster, *highest) {
                self.checks.fail(format!("{database}: {words}"));
            }
            let command = Command::Roles(database.clone(), found, cluster.replayed().since(0));
            self.order(&command);
        }
        let failover = self.cluster();
        let pause = failover.accounts[account].pause_us(failover.plan.interval_us);
        let probe = &mut failover.accounts[account].probes[node];
        probe.number += 1;
        let (number, after) = (probe.number, if probe.is_due { 0 } else { pause });
        self.schedule(after, Event::Cluster(Step::Probe(account, node, number)));
    }
}
