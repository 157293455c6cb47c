//! `commit_check`: what servers tell of transactions, and the rules of what clients are told of COMMITs that were lost.
//!
//! | rule | where |
//! |---|---|
//! | a COMMIT is looked for only where its server was lost | `check_outcome` |
//! | what is told to be committed is where it was asked | `check_found` |
//! | what is told to be undone (FB407) is not there, and nothing can commit it there | `check_found` |
//! | nor is it there in the end | `check_ledger` |
//! | what could not be asked about (FB409) is done nowhere | `told_unasked` |
//!
//! What a promotion loses after a client was told is lost, as any other acknowledged write; and where it goes on with a history
//! that was given up before, what that holds is there again.

use std::collections::{BTreeMap, BTreeSet};

use forebay_core::event::{Event as LogEvent, Field};

use crate::net::End;
use crate::rng::Rng;
use crate::scenario::{ClusterPlan, CommitPlan, Doom};
use crate::server::commits::asked_xid;
use crate::server::language::{Statement, statements};
use crate::server::process::Busy;
use crate::wire::{Front, Tag};
use crate::world::World;
use crate::world::failover::{Failover, Step};
use crate::world::workers::port_of;
use crate::world::{Event, failover::nodes::Node};

/// Codes of errors of ours, as their hints end with them (`spec/errors.toml`).
const UNDONE: &str = "(FB407)";
const NOT_ASKED: &str = "(FB409)";

/// A transaction that has left a record of itself.
#[derive(Clone, Debug)]
struct Anchored {
    process: usize,
    node: usize,
    timeline: u32,
    /// The promotions that its server's log had come through.
    branches: Vec<u64>,
    xid: u64,
    marks: Vec<String>,
}

/// What is known of COMMITs that are looked for.
#[derive(Debug)]
pub(super) struct Commits {
    plan: CommitPlan,
    luck: Rng,
    /// By client: its last one.
    anchored: BTreeMap<u32, Anchored>,
    /// Clients whose COMMIT is looked for.
    in_doubt: BTreeSet<u32>,
    /// Those of which a worker has found that it is undone.
    found_undone: BTreeSet<u32>,
    /// Those whose transaction could not be asked about.
    unasked: BTreeSet<u32>,
    /// Marks of which clients were told that they are undone, with the promotions that the log had come through which told so.
    undone: BTreeMap<String, Vec<u64>>,
}

impl Commits {
    pub(super) fn of(plan: &ClusterPlan, luck: &Rng) -> Option<Box<Commits>> {
        Some(Box::new(Commits {
            plan: plan.commits?,
            luck: luck.aside(1),
            anchored: BTreeMap::new(),
            in_doubt: BTreeSet::new(),
            found_undone: BTreeSet::new(),
            unasked: BTreeSet::new(),
            undone: BTreeMap::new(),
        }))
    }
}

impl Failover {
    /// Whether the primary is to end now, by that.
    pub(super) fn ends_by(&self, doom: Doom) -> bool {
        self.is_doomed && self.commits.as_ref().map_or(Doom::Commit, |commits| commits.plan.doom) == doom
    }

    /// Whether a client was told of a mark that it is undone, by the history that the primary goes on with.
    pub(super) fn is_undone(&self, mark: &str) -> bool {
        let told = self.commits.as_ref().and_then(|commits| commits.undone.get(mark));
        told.is_some_and(|branches| self.nodes[self.current].branches.starts_with(branches))
    }
}

impl Anchored {
    /// Whether a server can't be told from one that has its record: it was promoted to the timeline behind that of the record,
    /// and was never on that. (ADR 21, "What remains")
    fn is_beyond_telling(&self, of: &Node) -> bool {
        of.timeline == self.timeline + 1 && !of.branches.starts_with(&self.branches)
    }
}

impl World {
    /// Whether lost COMMITs are looked for.
    pub(crate) fn checks_commits(&self) -> bool {
        self.failover.as_ref().is_some_and(|failover| failover.commits.is_some())
    }

    /// Whether a client's COMMIT is looked for.
    pub(crate) fn is_in_doubt(&self, client: u32) -> bool {
        let commits = self.failover.as_ref().and_then(|failover| failover.commits.as_ref());
        commits.is_some_and(|commits| commits.in_doubt.contains(&client))
    }

    fn commits(&mut self) -> Option<&mut Commits> {
        self.failover.as_mut()?.commits.as_deref_mut()
    }

    /// Whether the question by what a transaction can be found fails.
    pub(crate) fn fails_anchor(&mut self, p: usize, message: &Front) -> bool {
        let is_asked =
            matches!(message, Front::Query(text) if matches!(statements(text)[..], [Statement::Anchor { .. }]));
        let owner = self.checks.owner(self.processes[p].link);
        let Some(commits) = self.commits().filter(|_| is_asked) else { return false };
        let fails = commits.luck.one_in(commits.plan.failing_one_in);
        if let Some(client) = owner.filter(|_| fails) {
            commits.unasked.insert(client);
        }
        fails
    }

    /// Whether a primary ends that has got a COMMIT, before it carries that out, or carries it out later.
    pub(crate) fn ends_before_commit(&mut self, p: usize, message: &Front) -> bool {
        let node = self.processes[p].endpoint;
        let Some(failover) = self.failover.as_ref().filter(|failover| failover.is_doomed) else { return false };
        let Some(commits) = failover.commits.as_ref().filter(|_| node == failover.current) else { return false };
        let doom = commits.plan.doom;
        let session = self.processes[p].session.as_ref();
        let has_written = session.is_some_and(|session| session.trail.xid.is_some() && session.commits_by(message));
        if !has_written || !matches!(doom, Doom::BeforeCommit | Doom::Severed(_)) {
            return false;
        }
        self.cluster().is_doomed = false;
        match doom {
            Doom::Severed(delay) => self.sever(p, message, delay),
            _ => self.bring_down(node, false),
        }
        true
    }

    /// The worker of a process loses its connection; the process does not know, and has something to do.
    fn sever(&mut self, p: usize, message: &Front, delay: u64) {
        let link = self.processes[p].link;
        self.hit(link);
        self.links[link.0].ends[1] = End::Gone;
        self.checks.closed(link);
        self.break_link(link);
        self.processes[p].busy = Some(Busy { message: message.clone(), until: self.now + delay, stop: None });
        self.schedule(delay, Event::Process(p));
    }

    /// A process is about to carry out something: what does its server say of itself, and of the id that is asked about?
    pub(crate) fn show_place(&mut self, p: usize, message: &Front) {
        if !self.checks_commits() {
            return;
        }
        let node = self.processes[p].endpoint;
        let asked = match message {
            Front::Query(text) => asked_xid(text),
            _ => None,
        };
        let at_work = self.processes.iter().filter(|process| !process.is_dead && process.endpoint == node);
        let running = at_work.filter_map(|process| process.session.as_ref()?.trail.xid).collect();
        let Some(failover) = &self.failover else { return };
        let it = &failover.nodes[node];
        let status = asked.map_or("", |xid| it.status_of(xid, &running));
        let (place, next_xid) = (it.place(failover.records + 1, status), it.next_xid);
        if let Some(session) = &mut self.processes[p].session {
            (session.trail.place, session.trail.next_xid) = (Some(place), next_xid);
        }
    }

    /// A process has carried out something, and has committed these marks: its server keeps what it has left.
    pub(crate) fn leaves(&mut self, p: usize, marks: &[String]) {
        let node = self.processes[p].endpoint;
        let Some(session) = self.processes[p].session.as_mut().filter(|_| self.failover.is_some()) else { return };
        let (emitted, committed) = (session.trail.emitted.take(), session.trail.committed.take());
        let (next_xid, inserted) = (session.trail.next_xid, session.inserted.clone());
        if !self.checks_commits() {
            return self.committed_at(node, marks, None);
        }
        self.cluster().nodes[node].next_xid = next_xid;
        self.committed_at(node, marks, committed);
        if self.links[self.processes[p].link.0].is_reset {
            self.end_process(p);
        }
        let Some(emitted) = emitted else { return };
        self.emitted_at(node, emitted);
        if emitted.is_commit {
            return;
        }
        let owner = self.checks.owner(self.processes[p].link);
        let it = &self.cluster().nodes[node];
        let (timeline, branches) = (it.timeline, it.branches.clone());
        let found = Anchored { process: p, node, timeline, branches, xid: emitted.xid, marks: inserted };
        if let Some((client, commits)) = owner.zip(self.commits()) {
            commits.anchored.insert(client, found);
        }
        if self.cluster().ends_by(Doom::Anchor) && node == self.cluster().current {
            self.cluster().is_doomed = false;
            self.schedule(0, Event::Cluster(Step::CrashInCommit(node)));
        }
    }

    /// A worker looks for a COMMIT, or tells what it has found.
    pub(crate) fn check_outcome(&mut self, w: usize, event: &LogEvent) {
        let is_of_commit = matches!(event.name, "commit_in_doubt" | "commit_outcome");
        let field = |name: &str| event.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let Some(Field::Number(id)) = field("client").filter(|_| is_of_commit && self.failover.is_some()) else {
            return;
        };
        let row = self.seats[w].look().clients.into_iter().find(|row| row.id == id);
        let is_it = |link| row.as_ref().is_some_and(|row| row.port == port_of(link));
        let Some(i) = self.clients.iter().position(|client| client.link.is_some_and(is_it)) else { return };
        if event.name == "commit_in_doubt" {
            if self.clients[i].hit_until <= self.now {
                return self.checks.fail(format!("the COMMIT of client {i} is looked for without a reason"));
            }
            self.checks.is_answered(i);
            self.commits().expect("nobody else looks").in_doubt.insert(i as u32);
            return;
        }
        let (Some(Field::Text(endpoint)), Some(Field::Text(outcome))) = (field("endpoint"), field("outcome")) else {
            return self.checks.fail(format!("an outcome does not tell of what, or from where: {:?}", event.fields));
        };
        let names = &self.scenario.config.databases[0].endpoints;
        let node = names.iter().position(|name| *name == endpoint).expect("only endpoints are asked");
        self.check_found(i, node, &outcome);
    }

    /// A worker has asked a server what became of a client's transaction.
    fn check_found(&mut self, i: usize, node: usize, outcome: &str) {
        let Some(failover) = &self.failover else { return };
        let Some(commits) = &failover.commits else { return };
        let Some(found) = commits.anchored.get(&(i as u32)).filter(|_| outcome != "unknown") else { return };
        let it = &failover.nodes[node];
        let has = |mark: &String| Tag::first_in(mark.as_bytes()).is_some_and(|mark| it.has(mark));
        let process = &self.processes[found.process];
        let xid = process.session.as_ref().and_then(|session| session.trail.xid);
        let goes_on = found.node == node && !process.is_dead && xid == Some(found.xid);
        let wrong = match outcome {
            "committed" => found.marks.iter().find(|mark| !has(mark)).map(|mark| format!("{mark} is not")),
            _ if goes_on => Some(format!("transaction {} goes on", found.xid)),
            _ => found.marks.iter().find(|mark| has(mark)).map(|mark| format!("{mark} is")),
        };
        let is_beyond = found.is_beyond_telling(it);
        self.trace.say(self.now, || format!("client {i} hears {outcome} of {found:?} from endpoint {node}: {wrong:?}"));
        if let Some(wrong) = wrong.as_ref().filter(|_| !is_beyond) {
            return self
                .checks
                .fail(format!("client {i} hears that it is {outcome} from endpoint {node}, where {wrong}"));
        }
        if wrong.is_some() && outcome == "committed" {
            // Nobody can tell that it is not there: it is as good as lost with the timeline that was passed over.
            let marks = found.marks.clone();
            self.checks.beyond_telling.extend(marks.iter().cloned());
            return self.cluster().lost.extend(marks);
        }
        // Beside the primary nothing lasts, neither what is there nor that it is not.
        let is_beyond = is_beyond || node != failover.current;
        if outcome == "aborted" {
            let (marks, branches) = (found.marks.clone(), it.branches.clone());
            let commits = self.commits().expect("it was there");
            commits.found_undone.insert(i as u32);
            let marks = marks.into_iter().filter(|_| !is_beyond);
            commits.undone.extend(marks.map(|mark| (mark, branches.clone())));
        }
    }

    /// A client has been answered. Returns whether its COMMIT was looked for.
    pub(crate) fn ends_doubt(&mut self, i: usize) -> bool {
        self.commits().is_some_and(|commits| commits.in_doubt.remove(&(i as u32)))
    }

    /// A client is told that its transaction was not carried out, and is to be run again.
    pub(super) fn told_undone(&mut self, i: usize, words: &str) {
        self.ends_doubt(i);
        let is_found = self.commits().is_some_and(|commits| commits.found_undone.remove(&(i as u32)));
        if !is_found || !words.contains(UNDONE) {
            return self.checks.fail(format!("client {i} is told to run again what nobody has found undone: {words}"));
        }
        if self.clients[i].mirror.is_settled() {
            return self.checks.fail(format!("client {i} got an ERROR that answers nothing: {words}"));
        }
        self.clients[i].suffered_loss();
    }

    /// A client is told that its transaction has failed before its COMMIT.
    pub(super) fn told_unasked(&mut self, i: usize, words: &str) {
        let is_so = self.commits().is_some_and(|commits| commits.unasked.remove(&(i as u32)));
        if !is_so || !words.contains(NOT_ASKED) {
            return self.checks.fail(format!("client {i} is told of a question that did not fail: {words}"));
        }
        let at_stake = self.clients[i].mirror.at_stake();
        self.cluster().denied.extend(at_stake);
        if !self.clients[i].mirror.refuse() {
            self.checks.fail(format!("client {i}: what was not under way is refused: {words}"));
        }
    }

    /// What is there in the end, and a client was told that it is not.
    pub(super) fn undone_and_there(&self) -> Option<String> {
        let failover = self.failover.as_ref()?;
        let mut undone = failover.commits.as_ref()?.undone.keys();
        undone.find(|mark| failover.is_undone(mark) && self.has_in_the_end(mark)).cloned()
    }
}
