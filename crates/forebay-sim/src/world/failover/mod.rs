//! Clusters: endpoints that change their roles, whoever finds that out, and what no client may see of it.
//!
//! | part | what it is |
//! |---|---|
//! | `nodes` | the endpoints: their logs, timelines and recovery |
//! | `discovery` | Python's part: it asks the endpoints, and tells the workers |
//! | `judging` | the rules |
//! | `commits` | the rules of `commit_check` |
//!
//! | rule | where |
//! |---|---|
//! | what was acknowledged is there in the end, but for the tail that a promotion has lost | `check_ledger` |
//! | what a client was told of a lost COMMIT is so where it was asked, and stays so | `commits` |
//! | what a client was told is not done is done nowhere; nothing is done twice | `check_ledger`, [`crate::check::Checks`] |
//! | once told, a worker sends nothing of a client's to an endpoint that must not have it | `check_role` |
//! | a session sees what it has written (`read_consistency`, but for `eventual`) | `check_read` |
//! | it sees nothing older than it has seen (`session`, `primary`) | `check_horizon` |
//! | an error has a SQLSTATE of the time at which it comes, and a cause | `explain_in_cluster` |
//! | when a worker hears that an endpoint is there again, it does something for who waits | `check_supplied` |
//! | who waits is served soon after a primary is known, the first first | `World::run`, [`crate::check::Checks`] |

mod commits;
mod discovery;
mod judging;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_core::cluster::roles::{Found, Serves};
use forebay_core::command::Command;
use forebay_core::config::Role;

use crate::net::{End, LinkId};
use crate::rng::Rng;
use crate::scenario::{Act, ClusterPlan, Scenario};
use crate::server::replies::report;
use crate::world::failover::commits::Commits;
use crate::world::failover::discovery::Account;
pub(crate) use crate::world::failover::discovery::Outcome;
use crate::world::failover::nodes::Node;
use crate::world::faults::{ECHO_US, Fault};
use crate::world::{Event, World};

/// Something that happens in a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Act(usize),
    /// The primary has committed what it was to end by.
    CrashInCommit(usize),
    /// A replica fetches what the primary has written.
    Fetch(usize),
    /// An account's probe of an endpoint is due, if it is still the newest.
    Probe(usize, usize, u64),
    /// It has reached the endpoint; it was asked then.
    Reached(usize, usize, u64),
    /// Its answer has come.
    Heard(usize, usize, u64, Outcome),
    /// A worker has lost a server of an account's database.
    Suspected(usize),
}

/// What a worker was told last, by database.
type Told = BTreeMap<Arc<str>, Arc<[Found]>>;

/// What belongs to the clusters of a world.
pub(crate) struct Failover {
    plan: ClusterPlan,
    nodes: Vec<Node>,
    /// The one that was promoted last.
    current: usize,
    /// Records that were written, by whomever.
    records: u64,
    accounts: Vec<Account>,
    /// What each worker was told last.
    told: Vec<Told>,
    /// What of that a worker knew when it began to send to a server that was at rest what shows in nothing whose it is.
    begun: BTreeMap<LinkId, Told>,
    /// Marks that a promotion has lost, or that were made beside the primary.
    lost: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    /// Marks of which clients were told that they were not made.
    denied: BTreeSet<String>,
    /// Clients of whose requests something went to a replica that was still taken for the primary.
    misled: BTreeSet<u32>,
    /// When something of a client's last went to what was taken for the primary, and was none any more.
    misled_at: BTreeMap<u32, u64>,
    /// The last record that each client has read, in its session where that may read from replicas.
    horizons: BTreeMap<u32, u64>,
    /// The primary ends as soon as it has committed something, or is about to.
    is_doomed: bool,
    commits: Option<Box<Commits>>,
    pub(crate) luck: Rng,
}

/// After the last change every client is through by then.
pub(crate) const SERVED_US: u64 = 30_000_000;

impl Failover {
    pub(crate) fn new(scenario: &Scenario, mut luck: Rng) -> Option<Box<Failover>> {
        let plan = scenario.cluster.clone()?;
        let current = luck.index(plan.nodes);
        let nodes = (0..plan.nodes).map(|node| Node::new(node != current)).collect();
        let accounts = scenario.config.databases.iter().map(|database| Account::new(database, &plan)).collect();
        Some(Box::new(Failover {
            nodes,
            current,
            records: 0,
            accounts,
            told: vec![BTreeMap::new(); scenario.workers],
            begun: BTreeMap::new(),
            lost: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            denied: BTreeSet::new(),
            misled: BTreeSet::new(),
            misled_at: BTreeMap::new(),
            horizons: BTreeMap::new(),
            is_doomed: false,
            commits: Commits::of(&plan, &luck),
            luck,
            plan,
        }))
    }

    pub(crate) fn is_moving(&self) -> bool {
        self.plan.is_moving
    }

    /// How much later one worker may be told of roles than another.
    pub(crate) fn told_late_us_max(&self) -> u64 {
        self.plan.told_late_us_max
    }
}

impl World {
    fn cluster(&mut self) -> &mut Failover {
        self.failover.as_mut().expect("only where there is a cluster")
    }

    /// Sets everything going.
    pub(crate) fn begin_failover(&mut self) {
        let Some(failover) = &self.failover else { return };
        let acts: Vec<u64> = failover.plan.acts.iter().map(|(at, _)| *at).collect();
        let (accounts, nodes) = (failover.accounts.len(), failover.nodes.len());
        for (number, at) in acts.into_iter().enumerate() {
            self.schedule(at, Event::Cluster(Step::Act(number)));
        }
        for account in 0..accounts {
            for node in 0..nodes {
                self.schedule(0, Event::Cluster(Step::Probe(account, node, 0)));
            }
        }
    }

    pub(crate) fn cluster_step(&mut self, step: Step) {
        match step {
            Step::Act(number) => {
                let (_, act) = self.cluster().plan.acts[number];
                self.trace.note(b'g', number as u64, &[]);
                self.act_on_cluster(act);
            }
            Step::CrashInCommit(node) => self.bring_down(node, false),
            Step::Fetch(node) => self.fetch(node),
            Step::Probe(account, node, number) => self.probe(account, node, number),
            Step::Reached(account, node, asked_us) => self.probe_reaches(account, node, asked_us),
            Step::Heard(account, node, asked_us, outcome) => self.probe_heard(account, node, asked_us, outcome),
            Step::Suspected(account) => self.look_now(account),
        }
    }

    fn act_on_cluster(&mut self, act: Act) {
        self.trace.say(self.now, || format!("cluster: {act:?}"));
        let current = self.cluster().current;
        match act {
            Act::Crash { is_told } => {
                if !self.servers[current].is_down {
                    self.bring_down(current, is_told);
                }
            }
            Act::CrashInCommit => self.cluster().is_doomed = true,
            Act::Promote { is_whole } => self.promote(is_whole, false),
            Act::Twin => self.promote(false, true),
            Act::Restart => self.bring_up(current),
            Act::ReturnWritable => {
                if let Some(node) = self.pick_down() {
                    self.bring_up(node);
                }
            }
            Act::ReturnReplica => {
                if let Some(node) = self.pick_down() {
                    self.return_as_replica(node);
                }
            }
            Act::ReturnStranger { is_in_recovery } => {
                if let Some(node) = self.pick_down().filter(|node| self.is_cluster_known(*node)) {
                    let timeline = self.cluster().nodes[current].timeline;
                    self.cluster().nodes[node].become_stranger(timeline, is_in_recovery);
                    self.bring_up(node);
                }
            }
            Act::Demote => self.demote_others(),
            Act::Partition(pause) => self.partition(pause),
            Act::Lag(pause) => {
                let (now, failover) = (self.now, self.cluster());
                let node = failover.luck.index(failover.nodes.len());
                failover.nodes[node].lags_until = now + pause;
            }
            Act::Terminate => self.terminate_of_cluster(),
            Act::Reload => self.fault(Fault::Reload),
            Act::Starve(pause) => {
                let failover = self.failover.as_mut().expect("it was there");
                let w = failover.luck.index(self.seats.len());
                self.seats[w].starved_until = self.now + pause;
            }
            Act::Heal => self.heal(),
        }
    }

    fn terminate_of_cluster(&mut self) {
        let alive: Vec<usize> = (0..self.processes.len()).filter(|p| !self.processes[*p].is_dead).collect();
        if alive.is_empty() {
            return;
        }
        let p = *self.cluster().luck.pick(&alive);
        self.hit(self.processes[p].link);
        self.end_with_a_word(p);
    }

    /// A process says why it ends.
    fn end_with_a_word(&mut self, p: usize) {
        let words = "terminating connection due to administrator command";
        self.write(self.processes[p].link, 1, &report(b'E', "FATAL", "57P01", words).encode());
        self.end_process(p);
    }

    /// A worker is told of roles.
    pub(crate) fn told_roles(&mut self, w: usize, command: &Command) {
        let Command::Roles(database, found, _) = command else { return };
        let Some(failover) = &mut self.failover else { return };
        let before = failover.told[w].insert(database.clone(), found.clone());
        let has_primary = |all: &[Found]| all.iter().any(|one| one.serves == Serves::Writes);
        // A server that has come while there was none is cut where its endpoint is not that.
        let is_first = has_primary(found) && !before.as_ref().is_some_and(|before| has_primary(before));
        for node in 0..found.len() {
            let was = before.as_ref().map(|before| before[node].serves);
            if was == Some(found[node].serves) && (!is_first || found[node].serves == Serves::Writes) {
                continue;
            }
            for p in 0..self.processes.len() {
                let link = self.processes[p].link;
                // One that is on its way is cut where it arrives.
                let is_of_worker = match self.links[link.0].ends[0] {
                    End::Worker(holder, _) => holder == w,
                    end => end == End::Transit,
                };
                if self.processes[p].endpoint == node && is_of_worker {
                    self.hit(link);
                }
            }
        }
    }

    /// A server's connection has come to a worker, with its client.
    ///
    /// The worker may have been told less of late than the one that has sent it. Which of two processes knows more
    /// neither can tell, so it cuts what is where, as it was told last, its clients may not be.
    pub(crate) fn server_arrives(&mut self, w: usize, link: LinkId) {
        let (Some(failover), End::Process(p)) = (&self.failover, self.links[link.0].ends[1]) else { return };
        let Some(owner) = self.checks.owner(link).map(|owner| owner as usize) else { return };
        let Some((cluster, _)) = self.cluster_of(owner) else { return };
        let Some(found) = failover.told[w].get(&*self.clients[owner].who.database) else { return };
        let serves = found[self.processes[p].endpoint].serves;
        let has_primary = found.iter().any(|one| one.serves == Serves::Writes);
        let is_elsewhere = cluster.role == Role::Primary && has_primary && serves != Serves::Writes;
        if serves == Serves::Barred || is_elsewhere {
            self.trace.say(self.now, || format!("link {} comes to worker {w}, told {serves:?} of it", link.0));
            self.clients[owner].hit_until = self.now + ECHO_US;
        }
    }
}
