//! The rules of clusters: what a worker may send where, what a client may read, and what it may be told.

use forebay_core::cluster::roles::Serves;
use forebay_core::config::{ClusterConfig, Consistency, PoolMode, Role};

use crate::client::actor::Stage;
use crate::net::LinkId;
use crate::wire::Tag;
use crate::world::World;
use crate::world::failover::Told;
use crate::world::faults::ECHO_US;

/// In what is told where no endpoint of a role lets anybody in, for longer than it may take.
const UNREACHABLE: &str = "(FB410)";

/// In what is told where a transaction was lost that could only read.
const INTERRUPTED: &str = "(FB404)";

/// So long after all is as it should be nobody is told so any more.
const SETTLES_US: u64 = 2_000_000;

/// Whether an endpoint that a worker takes for one that `serves` so may have something of a client's. `goes_on`: of what it
/// has begun there.
fn may_have(serves: Serves, has_primary: bool, cluster: ClusterConfig, goes_on: bool) -> bool {
    match (serves, cluster.role) {
        (Serves::Barred, _) => false,
        (Serves::Writes, Role::Primary | Role::Any) | (Serves::Reads, Role::Replica | Role::Any) => true,
        (Serves::Reads, Role::Primary) => cluster.is_split || (goes_on && !has_primary),
        (Serves::Writes, Role::Replica) => goes_on,
        (Serves::Nobody | Serves::Leaving, Role::Primary) => goes_on && (!has_primary || cluster.is_split),
        (Serves::Nobody | Serves::Leaving, Role::Replica | Role::Any) => goes_on,
    }
}

impl World {
    pub(super) fn cluster_of(&self, i: usize) -> Option<(ClusterConfig, PoolMode)> {
        let who = &self.clients.get(i)?.who;
        let database = self.scenario.config.databases.iter().find(|database| *database.name == *who.database)?;
        database.cluster.map(|cluster| (cluster, database.pool.pool_mode))
    }

    /// A worker sends something to a server: may its endpoint have what is in it of a client?
    pub(crate) fn check_role(&mut self, w: usize, link: LinkId, p: usize, bytes: &[u8]) {
        let is_quiet = self.is_quiet(link, p);
        let Some(failover) = &mut self.failover else { return };
        let node = self.processes[p].endpoint;
        let Some(Tag { client, .. }) = Tag::first_in(bytes) else {
            if is_quiet {
                failover.begun.insert(link, failover.told[w].clone());
            }
            return;
        };
        // What shows in nothing whose it is may be the first part of a request: the statement of a Parse has no tag.
        let begun = failover.begun.remove(&link).filter(|_| !is_quiet);
        let Some((cluster, mode)) = self.cluster_of(client as usize) else { return };
        // A lease may have begun without a word to the server: a Parse that its worker answered itself.
        let session = self.clients[client as usize].link.map(|link| link.0 as u64);
        let is_kept = session.is_some_and(|session| self.checks.regimes.goes_on(w, session));
        let Some(failover) = &self.failover else { return };
        let database = &*self.clients[client as usize].who.database;
        let may = |told: &Told, goes_on| {
            let found = told.get(database);
            let serves = found.map_or(Serves::Nobody, |found| found[node].serves);
            let has_primary = found.is_some_and(|found| found.iter().any(|one| one.serves == Serves::Writes));
            if may_have(serves, has_primary, cluster, goes_on) { Ok(()) } else { Err(serves) }
        };
        let is_owner = self.checks.owner(link) == Some(client);
        let goes_on = is_owner && (mode == PoolMode::Session || !is_quiet)
            || is_kept
            || begun.is_some_and(|told| may(&told, false).is_ok());
        let verdict = may(&failover.told[w], goes_on);
        if self.processes[p].is_dead || self.links[link.0].is_reset {
            self.sent_in_vain(bytes);
        } else if let Err(serves) = verdict {
            let words = format!("worker {w} sends of client {client} to endpoint {node}, told that it is {serves:?}");
            return self.checks.fail(words);
        }
        self.note_misled(w, p, client);
    }

    /// Something of a client's goes to a server: it is misled, if that is none any more that the worker takes it for.
    ///
    /// What is sent in pieces may show whose it is in none of them, but does where a message is whole.
    pub(crate) fn note_misled(&mut self, w: usize, p: usize, client: u32) {
        let (now, node) = (self.now, self.processes[p].endpoint);
        let is_standby = self.is_standby(node);
        // Where nobody else serves, a standby has said at its login what it is.
        let is_heard = |(cluster, _): (ClusterConfig, _)| cluster.role == Role::Primary && !cluster.is_split;
        let is_known = self.cluster_of(client as usize).is_some_and(is_heard);
        let (Some(who), Some(failover)) = (self.clients.get(client as usize), &mut self.failover) else { return };
        let found = failover.told[w].get(&*who.who.database);
        if found.is_none_or(|found| found[node].serves != Serves::Writes) {
            return;
        }
        if failover.current != node {
            failover.misled_at.insert(client, now);
        }
        if is_standby && !is_known {
            failover.misled.insert(client);
        }
    }

    /// What a worker sends reaches nobody: the client hears of that.
    pub(crate) fn sent_in_vain(&mut self, bytes: &[u8]) {
        if self.failover.is_none() {
            return;
        }
        let tags = Tag::all_in(bytes);
        for client in &mut self.clients {
            // What is cut within a tag, or carries none, may be of anybody.
            let is_of = tags.iter().any(|tag| tag.client == client.who.id);
            if is_of || !client.mirror.is_settled() {
                client.hit_until = self.now + ECHO_US;
            }
        }
    }

    /// A client was told that these marks are there to stay.
    pub(crate) fn acknowledged_in_cluster(&mut self, marks: &[String]) {
        if let Some(failover) = &mut self.failover {
            failover.acknowledged.extend(marks.iter().cloned());
        }
    }

    /// A client has read which of its marks are there; `missing`: those that its session has been told are.
    pub(crate) fn check_read(&mut self, i: usize, seen: &[String], missing: &[String], is_asked: bool) {
        let Some(failover) = &self.failover else { return };
        let Some((cluster, _)) = self.cluster_of(i) else { return };
        if let Some(mark) = seen.iter().find(|mark| failover.denied.contains(*mark)) {
            return self.checks.fail(format!("client {i} reads {mark}, and was told that it was not made"));
        }
        let is_promised = cluster.role == Role::Primary
            && (!cluster.is_split || cluster.read_consistency != Consistency::Eventual)
            && !is_asked
            && failover.misled_at.get(&(i as u32)).is_none_or(|at| at + SETTLES_US < self.now);
        if let Some(mark) = seen.iter().find(|mark| is_promised && failover.is_undone(mark)) {
            return self
                .checks
                .fail(format!("client {i} reads {mark}, of which commit_check has told that it is not there"));
        }
        let missing = missing.iter().find(|mark| !failover.lost.contains(*mark));
        if let Some(mark) = missing.filter(|_| is_promised) {
            self.checks.fail(format!("client {i} does not see {mark}, which it has written"));
        }
    }

    /// A client has read what is there up to a record: nothing of what it has seen before may be missing, but for what a
    /// promotion has lost.
    pub(crate) fn check_horizon(&mut self, i: usize, horizon: u64, is_asked: bool) {
        let Some((cluster, _)) = self.cluster_of(i) else { return };
        let (now, failover) = (self.now, self.cluster());
        let before = failover.horizons.insert(i as u32, horizon).unwrap_or(0);
        if horizon >= before || !failover.is_kept(before) {
            return;
        }
        failover.horizons.insert(i as u32, before);
        let is_promised = cluster.role == Role::Primary
            && (!cluster.is_split || matches!(cluster.read_consistency, Consistency::Session | Consistency::Primary))
            && !is_asked
            && failover.misled_at.get(&(i as u32)).is_none_or(|at| at + SETTLES_US < now);
        if is_promised {
            self.checks.fail(format!("client {i} reads up to record {horizon}, and has read {before} before"));
        }
    }

    /// A client begins a session. What it has read in the one before a replica need not have: nobody knows that it is the
    /// same client. A primary has it all the same.
    pub(crate) fn forget_horizon(&mut self, i: usize) {
        let reads_there = |cluster: ClusterConfig| cluster.is_split && cluster.read_consistency == Consistency::Session;
        if self.cluster_of(i).is_some_and(|(cluster, _)| reads_there(cluster)) {
            self.cluster().horizons.remove(&(i as u32));
        }
    }

    /// An error that a private server would not have given, where servers change their roles.
    pub(crate) fn explain_in_cluster(&mut self, i: usize, code: &str, is_fatal: bool, is_ours: bool, words: &str) {
        self.checks.is_answered(i);
        let client = &self.clients[i];
        let is_login = client.stage == Stage::LoggingIn;
        let (is_hit, at_stake) = (client.hit_until > self.now, client.mirror.at_stake());
        let waits = client.mirror.awaited();
        let is_asked = client.mirror.asks_for_replica();
        let role = self.cluster_of(i).map_or(Role::Primary, |(cluster, _)| cluster.role);
        let is_misled = self.failover.as_ref().is_some_and(|failover| failover.misled.contains(&(i as u32)));
        let is_interrupted = is_ours && code == "40001" && words.contains(INTERRUPTED);
        let is_elsewhere = role != Role::Primary || is_misled;
        let reads = is_interrupted && self.clients[i].mirror.is_interrupted(is_elsewhere);
        let is_in_doubt = self.ends_doubt(i);
        let client = &self.clients[i];
        let is_allowed = match code {
            "40001" if is_interrupted => reads && is_hit && !is_login,
            "40001" if is_ours => return self.told_undone(i, words),
            "40000" if is_ours => return self.told_unasked(i, words),
            "25006" | "40001" if !is_ours => !is_login && (is_asked || role != Role::Primary || is_misled),
            "57P01" => is_ours && is_hit,
            "08007" => is_ours && (is_hit || is_in_doubt) && !is_login && client.mirror.may_be_committing(),
            "57P03" | "53300" if self.scenario.may_time_out => is_ours,
            "57P03" => is_ours && words.contains(UNREACHABLE) && self.now < self.scenario.heals_at + SETTLES_US,
            _ => false,
        };
        if !is_allowed {
            return self.checks.fail(format!("client {i} got {code} without a reason: {words} ({waits})"));
        }
        if !is_login && code != "08007" {
            self.trace.say(self.now, || format!("client {i} was told that {at_stake:?} are not done"));
            self.cluster().denied.extend(at_stake);
        }
        if is_fatal {
            self.clients[i].stage = Stage::Dismissed;
        } else if !is_ours {
            if !self.clients[i].mirror.fail() {
                self.checks.fail(format!("client {i}: {code} stopped what was not running: {words}"));
            }
        } else if self.clients[i].mirror.is_settled() {
            self.checks.fail(format!("client {i} got an ERROR that answers nothing: {code} {words}"));
        } else {
            self.clients[i].suffered_loss();
        }
    }

    /// When all is over: what is in the ledger, and what is not.
    pub(crate) fn check_ledger(&mut self) {
        let Some(failover) = &self.failover else { return };
        let missing = |mark: &&String| !failover.lost.contains(*mark) && !self.has_in_the_end(mark);
        if let Some(mark) = failover.acknowledged.iter().find(missing) {
            let words = format!("{mark} was acknowledged, no promotion has lost it, and it is not there");
            return self.checks.fail(words);
        }
        if let Some(mark) = self.undone_and_there() {
            return self
                .checks
                .fail(format!("{mark} is there, and its client was told by commit_check that it is not"));
        }
        let Some(failover) = &self.failover else { return };
        let made = failover.denied.iter().find(|mark| self.checks.is_committed(mark)).cloned();
        if let Some(mark) = made {
            self.checks.fail(format!("{mark} was made, and its client was told that it was not"));
        }
    }
}
