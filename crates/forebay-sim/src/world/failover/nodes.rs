//! The endpoints of a cluster: what each has written or replayed, and what becomes of it.

use std::collections::BTreeSet;

use crate::scenario::Doom;
use crate::server::commits::{Emitted, Place, XID_FIRST};
use crate::wire::Tag;
use crate::world::failover::{Failover, Step};
use crate::world::{Event, World};

/// What `pg_control_system()` tells of the cluster, and of another one.
pub(super) const SYSTEM: u64 = 7_000_000_000_000_000_001;
const OTHER_SYSTEM: u64 = 7_000_000_000_000_000_002;

/// Where a log begins.
const LOG_BEGINS: u64 = 0x0100_0000;

/// A record: a mark, or a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    /// No other has it, on whatever branch.
    number: u64,
    mark: Option<Tag>,
    /// Of whose transaction it is, where ids are told of.
    xid: Option<u64>,
    /// That is committed by it.
    is_commit: bool,
}

impl Record {
    /// Logs that part are of the same length by accident only.
    fn bytes(self) -> u64 {
        bytes_of(self.number)
    }
}

fn bytes_of(number: u64) -> u64 {
    40 + number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 601
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) is_in_recovery: bool,
    pub(super) timeline: u32,
    pub(super) system: u64,
    log: Vec<Record>,
    is_fetching: bool,
    /// Nothing gets there, or back.
    pub(super) cut_until: u64,
    /// It replays nothing.
    pub(super) lags_until: u64,
    /// It lets nobody in yet.
    pub(super) starts_until: u64,
    /// So many of its records are on its disk; the others a crash takes away.
    flushed: usize,
    /// The id that it gives out next.
    pub(super) next_xid: u64,
    /// How far it had replayed when its last recovery ended, if it needed one.
    replayed: Option<u64>,
    /// It has replayed transactions of a primary since it was started.
    was_standby: bool,
    /// The promotions that its log has come through.
    pub(super) branches: Vec<u64>,
}

impl Node {
    pub(super) fn new(is_in_recovery: bool) -> Node {
        Node {
            is_in_recovery,
            timeline: 1,
            system: SYSTEM,
            log: Vec::new(),
            is_fetching: false,
            cut_until: 0,
            lags_until: 0,
            starts_until: 0,
            flushed: 0,
            next_xid: XID_FIRST,
            replayed: None,
            was_standby: false,
            branches: Vec::new(),
        }
    }

    /// It has all that another one has on its disk.
    fn copy_of(&mut self, other: &Node) {
        let log = &other.log[..other.flushed];
        let is_more = log.get(self.log.len()..).unwrap_or_default().iter().any(|record| record.is_commit);
        self.was_standby |= is_more;
        (self.log, self.flushed) = (log.to_vec(), log.len());
        self.branches.clone_from(&other.branches);
    }

    /// A record is written.
    fn writes(&mut self, record: Record, is_flushed: bool) {
        self.log.push(record);
        if is_flushed {
            self.flushed = self.log.len();
        }
    }

    /// It has been started, or promoted: of the ids it knows those that are in its log.
    fn counts_ids(&mut self) {
        let last = self.log.iter().filter_map(|record| record.xid).max();
        self.next_xid = last.map_or(XID_FIRST, |last| last + 1);
    }

    /// Whether it has committed the transaction of that id.
    fn has_committed(&self, xid: u64) -> bool {
        self.log.iter().any(|record| record.is_commit && record.xid == Some(xid))
    }

    /// Whether a transaction has left a record of itself before its marks.
    fn is_anchored(&self, xid: Option<u64>) -> bool {
        xid.is_some() && self.log.iter().any(|record| !record.is_commit && record.xid == xid)
    }

    /// What it tells of itself, and of what became of an id.
    pub(super) fn place(&self, next_record: u64, status: &'static str) -> Place {
        Place {
            system: self.system,
            timeline: self.timeline,
            is_in_recovery: self.is_in_recovery,
            lsn: self.lsn(),
            next_lsn: self.lsn() + bytes_of(next_record),
            replayed: self.replayed,
            was_standby: self.was_standby,
            status,
        }
    }

    /// What became of an id, with those whose transactions go on.
    pub(super) fn status_of(&self, xid: u64, running: &BTreeSet<u64>) -> &'static str {
        let mut ended = self.next_xid;
        while running.contains(&(ended - 1)) {
            ended -= 1;
        }
        match xid {
            _ if xid >= ended || running.contains(&xid) => "in progress",
            _ if self.has_committed(xid) => "committed",
            _ => "aborted",
        }
    }

    /// Up to where it has written, or replayed.
    pub(super) fn lsn(&self) -> u64 {
        LOG_BEGINS + self.log.iter().map(|record| record.bytes()).sum::<u64>()
    }

    /// The last record that is there.
    fn horizon(&self) -> u64 {
        self.log.last().map_or(0, |record| record.number)
    }

    fn marks(&self) -> impl Iterator<Item = Tag> {
        self.log.iter().filter_map(|record| record.mark)
    }

    pub(super) fn has(&self, mark: Tag) -> bool {
        self.marks().any(|known| known == mark)
    }

    /// Whether it can go on from where it is to where the other is.
    fn leads_to(&self, other: &Node) -> bool {
        other.log.starts_with(&self.log)
    }

    pub(super) fn become_stranger(&mut self, timeline: u32, is_in_recovery: bool) {
        (self.system, self.timeline, self.is_in_recovery) = (OTHER_SYSTEM, timeline, is_in_recovery);
        self.log.clear();
        self.flushed = 0;
        self.branches.clear();
    }
}

impl Failover {
    /// Two endpoints.
    fn pair(&mut self, one: usize, other: usize) -> [&mut Node; 2] {
        self.nodes.get_disjoint_mut([one, other]).expect("they are two")
    }

    /// Whether a record is there that was not lost.
    pub(super) fn is_kept(&self, number: u64) -> bool {
        self.nodes[self.current].log.iter().any(|record| record.number == number)
    }
}

impl World {
    fn is_up(&self, node: usize) -> bool {
        !self.servers[node].is_down
    }

    /// Some endpoint that is down, but for the primary.
    pub(super) fn pick_down(&mut self) -> Option<usize> {
        let current = self.cluster().current;
        let down: Vec<usize> = (0..self.servers.len()).filter(|node| *node != current && !self.is_up(*node)).collect();
        (!down.is_empty()).then(|| *self.cluster().luck.pick(&down))
    }

    /// An endpoint ends, and all its processes.
    pub(super) fn bring_down(&mut self, node: usize, is_told: bool) {
        self.trace.say(self.now, || format!("endpoint {node} ends"));
        self.servers[node].is_down = true;
        self.servers[node].starts += 1;
        let it = &mut self.cluster().nodes[node];
        if !is_told {
            it.log.truncate(it.flushed);
        }
        (it.flushed, it.replayed, it.was_standby) = (it.log.len(), (!is_told).then(|| it.lsn()), false);
        it.counts_ids();
        for p in 0..self.processes.len() {
            if self.processes[p].is_dead || self.processes[p].endpoint != node {
                continue;
            }
            let link = self.processes[p].link;
            self.hit(link);
            if self.links[link.0].is_reset {
                // Nobody is at the other end.
                self.end_process(p);
            } else if is_told && !self.processes[p].is_signaller {
                self.end_with_a_word(p);
            } else {
                self.checks.closed(link);
                self.break_link(link);
            }
        }
    }

    /// An endpoint is there again, as it was.
    pub(super) fn bring_up(&mut self, node: usize) {
        let now = self.now;
        self.servers[node].is_down = false;
        let failover = self.cluster();
        let takes = failover.luck.below(80_000);
        failover.nodes[node].starts_until = now + takes;
        self.trace.say(now, || format!("endpoint {node} is there again"));
        self.fetch_all();
    }

    pub(super) fn return_as_replica(&mut self, node: usize) {
        let failover = self.cluster();
        let current = failover.current;
        let [it, primary] = failover.pair(node, current);
        it.copy_of(primary);
        (it.timeline, it.system, it.is_in_recovery) = (primary.timeline, SYSTEM, true);
        it.was_standby = false;
        self.bring_up(node);
    }

    /// Whatever can write beside the primary is made a replica of it.
    pub(super) fn demote_others(&mut self) {
        let current = self.cluster().current;
        for node in 0..self.servers.len() {
            let it = &self.cluster().nodes[node];
            let is_replica = it.is_in_recovery && it.system == SYSTEM;
            if node != current && self.is_up(node) && !is_replica {
                self.bring_down(node, false);
                self.return_as_replica(node);
            }
        }
    }

    /// A replica begins to write; `is_twin`: on the timeline on which another one does.
    pub(super) fn promote(&mut self, is_whole: bool, is_twin: bool) {
        let now = self.now;
        let is_fit = |world: &World, node: usize| {
            let it = &world.failover.as_ref().expect("it is there").nodes[node];
            world.is_up(node) && it.is_in_recovery && it.system == SYSTEM && it.cut_until <= now
        };
        let fit: Vec<usize> = (0..self.servers.len()).filter(|node| is_fit(self, *node)).collect();
        if fit.is_empty() {
            return;
        }
        let failover = self.cluster();
        let (node, current) = (*failover.luck.pick(&fit), failover.current);
        if is_whole && node != current && failover.nodes[node].leads_to(&failover.nodes[current]) {
            let [it, primary] = failover.pair(node, current);
            it.copy_of(primary);
        }
        let newest = failover.nodes.iter().filter(|it| it.system == SYSTEM).map(|it| it.timeline).max().unwrap_or(1);
        failover.records += 1;
        let record = Record { number: failover.records, mark: None, xid: None, is_commit: false };
        let it = &mut failover.nodes[node];
        it.timeline = if is_twin { newest } else { newest + 1 };
        (it.is_in_recovery, it.replayed) = (false, Some(it.lsn()));
        it.counts_ids();
        it.branches.push(record.number);
        it.writes(record, true);
        if !is_twin {
            failover.current = node;
            let lost: Vec<Tag> = failover.nodes.iter().flat_map(Node::marks).collect();
            let lost = lost.into_iter().filter(|mark| !failover.nodes[node].has(*mark)).map(|mark| mark.to_string());
            failover.lost.extend(lost.collect::<Vec<_>>());
        }
        let timeline = failover.nodes[node].timeline;
        self.trace.say(now, || format!("endpoint {node} is promoted to timeline {timeline}"));
        for process in self.processes.iter_mut().filter(|process| process.endpoint == node) {
            if let Some(session) = &mut process.session {
                session.is_standby = false;
            }
        }
        self.fetch_all();
    }

    /// Nothing gets to one of the endpoints, or back.
    pub(super) fn partition(&mut self, pause: u64) {
        let (now, failover) = (self.now, self.cluster());
        let node = failover.luck.index(failover.nodes.len());
        failover.nodes[node].cut_until = now + pause;
        self.trace.say(now, || format!("endpoint {node} is cut off for {pause} µs"));
        for p in 0..self.processes.len() {
            if !self.processes[p].is_dead && self.processes[p].endpoint == node {
                let link = self.processes[p].link;
                self.hit(link);
                self.links[link.0].stalled_until = now + pause;
            }
        }
    }

    /// All is as it should be: the primary writes, and all others follow it.
    pub(super) fn heal(&mut self) {
        let (now, current) = (self.now, self.cluster().current);
        self.cluster().is_doomed = false;
        for it in &mut self.cluster().nodes {
            (it.cut_until, it.lags_until) = (now, now);
        }
        for process in &self.processes {
            self.links[process.link.0].stalled_until = now;
        }
        if !self.is_up(current) {
            self.bring_up(current);
        }
        for node in 0..self.servers.len() {
            let nodes = &self.cluster().nodes;
            let follows =
                nodes[node].is_in_recovery && nodes[node].system == SYSTEM && nodes[node].leads_to(&nodes[current]);
            if node == current || (follows && self.is_up(node)) {
                continue;
            }
            if self.is_up(node) {
                self.bring_down(node, true);
            }
            self.return_as_replica(node);
        }
        self.fetch_all();
    }

    /// Replicas hear that there is something to fetch.
    fn fetch_all(&mut self) {
        for node in 0..self.servers.len() {
            let failover = self.cluster();
            if failover.nodes[node].is_in_recovery && !failover.nodes[node].is_fetching {
                failover.nodes[node].is_fetching = true;
                let is_slow = node + 1 == failover.nodes.len();
                let slow_us = if is_slow { failover.plan.slow_us } else { 0 };
                let after = failover.luck.below(failover.plan.fetch_us_max) + 1 + slow_us;
                self.schedule(after, Event::Cluster(Step::Fetch(node)));
            }
        }
    }

    /// A replica replays what the primary has written, if it gets there.
    pub(super) fn fetch(&mut self, node: usize) {
        let now = self.now;
        let is_up = self.is_up(node) && self.is_up(self.failover.as_ref().expect("it is there").current);
        let failover = self.cluster();
        let current = failover.current;
        let it = &failover.nodes[node];
        let until = it.cut_until.max(it.lags_until).max(failover.nodes[current].cut_until);
        if until > now {
            return self.schedule(until - now, Event::Cluster(Step::Fetch(node)));
        }
        failover.nodes[node].is_fetching = false;
        let it = &failover.nodes[node];
        if is_up && it.is_in_recovery && it.system == SYSTEM && it.leads_to(&failover.nodes[current]) {
            let [it, primary] = failover.pair(node, current);
            it.copy_of(primary);
            it.timeline = primary.timeline;
        }
    }

    /// A record that is no mark was written at an endpoint.
    pub(super) fn emitted_at(&mut self, node: usize, emitted: Emitted) {
        let failover = self.cluster();
        failover.records += 1;
        let Emitted { xid, is_commit, is_flushed } = emitted;
        let record = Record { number: failover.records, mark: None, xid: Some(xid), is_commit };
        failover.nodes[node].writes(record, is_flushed);
        self.trace.say(self.now, || format!("{record:?} is written at endpoint {node}"));
        self.fetch_all();
    }

    /// Marks were committed at an endpoint, by the transaction of that id.
    pub(crate) fn committed_at(&mut self, node: usize, marks: &[String], xid: Option<u64>) {
        let Some(failover) = &mut self.failover else { return };
        for mark in marks {
            let tag = Tag::first_in(mark.as_bytes());
            failover.records += 1;
            let record = Record { number: failover.records, mark: tag, xid, is_commit: true };
            failover.nodes[node].writes(record, true);
            if node != failover.current {
                failover.lost.insert(mark.clone());
            }
        }
        // Where COMMITs are looked for, it ends by one of those.
        let is_found = failover.commits.is_none() || failover.nodes[node].is_anchored(xid);
        if is_found && failover.ends_by(Doom::Commit) && node == failover.current && !marks.is_empty() {
            failover.is_doomed = false;
            self.schedule(0, Event::Cluster(Step::CrashInCommit(node)));
        }
        if !marks.is_empty() {
            self.trace.say(self.now, || format!("{marks:?} are committed at endpoint {node}"));
            self.fetch_all();
        }
    }

    /// A process is about to carry out something: what of its endpoint is there for it?
    pub(crate) fn show_ledger(&mut self, p: usize) {
        let Some(failover) = &self.failover else { return };
        let node = &failover.nodes[self.processes[p].endpoint];
        if let Some(session) = &mut self.processes[p].session {
            (session.ledger, session.horizon) = (node.marks().collect(), node.horizon());
        }
    }

    /// Whether an endpoint takes no marks.
    pub(crate) fn is_standby(&self, node: usize) -> bool {
        self.failover.as_ref().is_some_and(|failover| failover.nodes[node].is_in_recovery)
    }

    /// Whether an endpoint lets nobody in, for it is starting.
    pub(crate) fn is_starting(&self, node: usize) -> bool {
        self.failover.as_ref().is_some_and(|failover| failover.nodes[node].starts_until > self.now)
    }

    /// Whether what sets out for an endpoint never gets there.
    pub(crate) fn is_cut_off(&self, node: usize) -> bool {
        let it = self.failover.as_ref().and_then(|failover| failover.nodes.get(node));
        it.is_some_and(|it| it.cut_until > self.now)
    }

    /// What the ledger has in the end.
    pub(super) fn has_in_the_end(&self, mark: &str) -> bool {
        let Some(failover) = &self.failover else { return false };
        failover.nodes[failover.current].marks().any(|known| known.to_string() == mark)
    }
}
