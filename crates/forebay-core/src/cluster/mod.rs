//! Which endpoint of a cluster has which role, by what each of them says of itself. Pure: who asks them is elsewhere.
//!
//! | an endpoint | standing | serves |
//! |---|---|---|
//! | was not heard yet | unknown | nobody |
//! | has missed `misses_max` probes on end | down | nobody |
//! | belongs to another cluster by its system identifier | stranger | nobody |
//! | is in recovery | replica | reads |
//! | the same, and is further behind than `lag_max`, or is told to be late | lagging | nobody |
//! | is in recovery, and has not followed to the highest timeline ever seen to write | astray | nobody |
//! | can write, on the highest timeline ever seen to write, as the only one | primary | all |
//! | can write, on an older timeline | deposed | nobody |
//! | can write, on the highest timeline, and another one as well | contested | nobody |
//! | the same, and is the only one of them that is named, where that is enough | primary | all |
//! | can write, as the only one there, and somebody else who knows names others, or nobody | unnamed | nobody |
//! | can write, and a switchover waits for what is under way there | held | nobody |
//! | can write, and another one is being promoted in its place | relieved | nobody |
//!
//! A timeline that was seen to write is never undercut: a primary that was deposed stays so until it follows the new one.
//! That is remembered by system ([`written`]), whatever takes the place of the endpoint that has said so. What a replica
//! replays counts for nothing here: it may follow a copy that was promoted elsewhere and thrown away, and one such line
//! would take the primary from all. Who was promoted says so itself.
//! Of two that can write on one timeline nobody can say which is right, so writes stop until one of them is gone, or, where
//! it is asked for, until somebody who knows names one of them.
//! A replica of which it is not known whether it has followed serves: see [`astray`].

pub mod again;
mod astray;
pub mod consistency;
pub(crate) mod holds;
pub mod legacy;
pub(crate) mod own_settings;
pub mod progress;
pub mod replay;
pub mod roles;
pub mod routing;
mod written;

use std::sync::Arc;

use astray::{Beginning, Stay};
use progress::Progress;
use written::Written;

use crate::planted::{Bug, planted};

/// What an endpoint says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// It replays what another one writes, and can't write itself.
    pub is_in_recovery: bool,
    /// Its timeline: grows by one with each promotion.
    pub timeline: u32,
    /// A replica says on which timeline it gets what it replays: it is on no later one than it tells.
    pub is_certain: bool,
    /// Up to where it has written, or replayed, in bytes.
    pub lsn: u64,
    /// Drawn when the cluster was made, and the same on all copies of it.
    pub system: u64,
}

/// What an endpoint is; the table is in the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// See there.
    Unknown,
    /// See there.
    Down,
    /// See there.
    Stranger,
    /// See there.
    Replica,
    /// See there.
    Lagging,
    /// See there.
    Astray,
    /// See there.
    Primary,
    /// See there.
    Deposed,
    /// See there.
    Contested,
    /// See there.
    Unnamed,
    /// See there.
    Held,
    /// See there.
    Relieved,
}

/// What a planned change of the primary has asked for of the one that it is to be no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaving {
    endpoint: Arc<str>,
    /// On which it can write. Above it, it has been promoted itself since.
    timeline: u32,
    is_relieved: bool,
}

impl Standing {
    /// As SHOW ENDPOINTS has it.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Unknown => "unknown",
            Standing::Down => "down",
            Standing::Stranger => "stranger",
            Standing::Replica => "replica",
            Standing::Lagging => "lagging",
            Standing::Astray => "astray",
            Standing::Primary => "primary",
            Standing::Deposed => "deposed",
            Standing::Contested => "contested",
            Standing::Unnamed => "unnamed",
            Standing::Held => "held",
            Standing::Relieved => "relieved",
        }
    }

    /// For people; completes "it …".
    pub const fn reason(self) -> &'static str {
        match self {
            Standing::Unknown => "has not answered yet",
            Standing::Down => "has not answered the last probes",
            Standing::Stranger => "has another system identifier: it is no copy of this cluster",
            Standing::Replica => "is in recovery",
            Standing::Lagging => "is in recovery, and further behind than replica_lag_max",
            Standing::Astray => "is in recovery on an older timeline: it has not followed the new primary",
            Standing::Primary => "can write, on the highest timeline",
            Standing::Deposed => "can write, but another one has been promoted since",
            Standing::Contested => "can write, and another one can on the same timeline: writes are stopped",
            Standing::Unnamed => "can write, and the source of the topology does not say that it may",
            Standing::Held => "can write, and a switchover waits for what is under way there",
            Standing::Relieved => "can write, and another one is being promoted in its place",
        }
    }
}

/// An endpoint, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// As configured.
    pub name: Arc<str>,
    /// What it is.
    pub standing: Standing,
    /// What it last said.
    pub seen: Option<Seen>,
    /// Bytes that it is behind the primary, where both are known.
    pub lag: Option<u64>,
    /// Whether the last write canary was confirmed in time, where there was one.
    pub is_confirming: Option<bool>,
    /// Seconds of the primary's work that it may not have replayed, where that is known.
    pub exposed_s: Option<u64>,
    /// What it has not replayed is older than it may be.
    pub is_late: bool,
    /// It is further behind than it may be, in bytes.
    is_far: bool,
    /// Another one gets the writes that can write on the same timeline.
    is_outdone: bool,
    stay: Stay,
    misses: u32,
    /// When it was asked what it last said, in microseconds of the system's monotonic clock.
    asked_us: u64,
}

impl Node {
    /// Why it stands so, for people; completes "it …".
    pub fn reason(&self) -> &'static str {
        match self.standing {
            Standing::Lagging if self.is_late && self.is_far => {
                "is in recovery, and further behind than replica_lag_max and replica_lag_time_max"
            }
            Standing::Lagging if self.is_late => {
                "is in recovery, and has not replayed what is older than replica_lag_time_max"
            }
            Standing::Contested if self.is_outdone => {
                "can write, and another one can on the same timeline, which is named in its place"
            }
            standing => standing.reason(),
        }
    }

    /// It has answered.
    fn hear(&mut self, seen: Seen, asked_us: u64) {
        self.asked_us = asked_us;
        self.misses = 0;
        self.stay.heard(self.seen, seen, asked_us);
        self.seen = Some(seen);
    }
}

/// The endpoints of a cluster, and what follows from what they say.
#[derive(Clone, Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    misses_max: u32,
    lag_max: u64,
    /// The system that it is: a primary of it was seen.
    system: Option<u64>,
    /// Which one it was taken for by the last decision, whether or not it has been seen to write.
    assumed: Option<u64>,
    /// The highest timeline that was seen to write, of the system that it was taken for by the last decision.
    floor: u32,
    /// That of the highest timeline, where that was heard.
    beginning: Option<Beginning>,
    /// What was seen to write, here or by an account before this one.
    written: Written,
    /// The system that an account before this one knew.
    remembered: Option<u64>,
    /// Those that may write, where somebody else says so.
    named: Option<Vec<Arc<str>>>,
    /// Of two that can write on one timeline, the one that is named gets writes.
    is_lease_enough: bool,
    leaving: Option<Leaving>,
    progress: Progress,
}

impl Cluster {
    /// Endpoints of which nothing is known. `misses_max`: probes on end after which one is down. `lag_max`: bytes, 0 for no
    /// limit.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>, misses_max: u32, lag_max: u64) -> Cluster {
        let node = |name| Node {
            name,
            standing: Standing::Unknown,
            seen: None,
            lag: None,
            is_confirming: None,
            exposed_s: None,
            is_late: false,
            is_far: false,
            is_outdone: false,
            stay: Stay::default(),
            misses: 0,
            asked_us: 0,
        };
        let nodes = names.into_iter().map(node).collect();
        Cluster {
            nodes,
            misses_max: misses_max.max(1),
            lag_max,
            system: None,
            assumed: None,
            floor: 0,
            beginning: None,
            written: Written::default(),
            remembered: None,
            named: None,
            is_lease_enough: false,
            leaving: None,
            progress: Progress::default(),
        }
    }

    /// Goes on from what an account before this one knows of the same database. Before anything is heard here.
    ///
    /// An endpoint that was there keeps what it said and what it is. While one of the system stays, the system does; where
    /// none does, the endpoints say which it is, and what was seen holds if it is the same.
    pub fn succeed(&mut self, before: &Cluster) {
        self.leaving.clone_from(&before.leaving);
        self.assumed = before.assumed;
        self.beginning = before.beginning;
        self.written.clone_from(&before.written);
        for node in &mut self.nodes {
            if let Some(known) = before.nodes.iter().find(|known| known.name == node.name) {
                *node = known.clone();
            }
        }
        self.progress.begin(self.nodes.iter().map(|node| node.name.clone()));
        let Some(system) = before.system.or_else(|| before.most_common_system()) else {
            self.remembered = before.remembered;
            return;
        };
        self.remembered = Some(system);
        if self.nodes.iter().any(|node| node.seen.is_some_and(|seen| seen.system == system)) {
            self.system = before.system;
        }
    }

    /// What outlives the process: which system it is, and the highest timeline that was seen to write of it.
    pub fn memory(&self) -> Option<(u64, u32)> {
        let Some(system) = self.system.or_else(|| self.most_common_system()) else {
            return self.remembered.map(|system| (system, self.written.highest(system)));
        };
        // Of one that is being promoted the timeline is known before it is seen.
        let next = self
            .leaving
            .as_ref()
            .filter(|leaving| leaving.is_relieved)
            .map_or(0, |leaving| leaving.timeline.saturating_add(1));
        Some((system, self.written.highest(system).max(next)))
    }

    /// Takes over what another process knew. Before anything is heard.
    pub fn remember(&mut self, system: u64, floor: u32) {
        self.remembered = Some(system);
        self.recall(system, floor);
    }

    /// Takes over that a system was seen to write on a timeline, whether or not it is this cluster's. Before anything is heard.
    pub fn recall(&mut self, system: u64, timeline: u32) {
        self.written.note(system, timeline, [self.system, self.assumed, self.remembered]);
    }

    /// What was seen to write: systems, and the highest timeline of each.
    pub fn written(&self) -> &[(u64, u32)] {
        self.written.all()
    }

    /// An endpoint has answered. What follows is decided by [`Self::decide`]. `asked_us`: a moment before it was asked, in
    /// microseconds of the system's monotonic clock.
    pub fn heard(&mut self, index: usize, seen: Seen, asked_us: u64) {
        self.nodes[index].hear(seen, asked_us);
        self.note_written(seen);
    }

    /// Whatever becomes of who has said so.
    fn note_written(&mut self, seen: Seen) {
        if !seen.is_in_recovery {
            self.recall(seen.system, seen.timeline);
        }
    }

    /// Somebody who knows says that these may write and no others; `None`: nobody says so, and any may.
    pub fn name(&mut self, named: Option<Vec<Arc<str>>>) {
        self.named = named;
    }

    /// Whether the one that is named of two that can write on one timeline gets writes.
    pub fn trust_lease(&mut self, is_enough: bool) {
        self.is_lease_enough = is_enough;
    }

    /// A switchover begins: an endpoint gets nothing new, and with `is_relieved` what is under way there ends. It holds for as
    /// long as that is on the timeline on which it can write now. False: it can't write.
    pub fn hold(&mut self, endpoint: &str, is_relieved: bool) -> bool {
        let of = self.nodes.iter().find(|node| *node.name == *endpoint);
        let Some((node, seen)) = of.and_then(|node| Some((node, node.seen?))) else { return false };
        if seen.is_in_recovery {
            return false;
        }
        let (endpoint, timeline) = (node.name.clone(), seen.timeline);
        self.leaving = Some(Leaving { endpoint, timeline, is_relieved });
        true
    }

    /// It is over, or undone.
    pub fn release(&mut self) {
        self.leaving = None;
    }

    /// An endpoint has not answered in time, or nobody listens there.
    pub fn missed(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.misses = node.misses.saturating_add(1);
    }

    /// How a write canary fared at an endpoint; `None`: none is sent there. No role follows from it.
    pub fn confirm(&mut self, endpoint: &str, is_confirming: Option<bool>) {
        if let Some(node) = self.nodes.iter_mut().find(|node| *node.name == *endpoint) {
            node.is_confirming = is_confirming;
        }
    }

    /// How much of the primary's work an endpoint may not have replayed, in seconds. No role follows from it.
    pub fn expose(&mut self, index: usize, seconds: Option<u64>) {
        self.nodes[index].exposed_s = seconds;
    }

    /// Whether what an endpoint has not replayed is older than it may be; of a replica, that counts.
    pub fn delay(&mut self, index: usize, is_late: bool) {
        self.nodes[index].is_late = is_late;
    }

    /// The endpoints as they stand.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The one that takes writes.
    pub fn primary(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.standing == Standing::Primary)
    }

    /// Concludes from all that was heard. True: some endpoint stands otherwise than before.
    pub fn decide(&mut self) -> bool {
        let system = self.system.or_else(|| self.most_common_system());
        let misses_max = self.misses_max;
        let is_up = |node: &Node| node.seen.is_some() && node.misses < misses_max;
        let writes = |node: &Node| {
            let seen = node.seen.filter(|seen| !seen.is_in_recovery && Some(seen.system) == system)?;
            is_up(node).then_some(seen)
        };
        let floor = system.map_or(0, |system| self.written.highest(system));
        let mut first = self.nodes.iter().filter_map(|node| writes(node).map(|seen| (seen, node.asked_us)));
        let first = first.find(|(seen, _)| seen.timeline == floor);
        self.note_beginning(system.unwrap_or(0), floor, first);
        let is_first = |seen: Seen| seen.timeline == floor || planted(Bug::LowerTimelineAccepted);
        let may_write = |node: &Node| self.named.as_ref().is_none_or(|named| named.contains(&node.name));
        let leaves = |node: &Node, seen: Seen| {
            let leaving = self.leaving.as_ref().filter(|leaving| leaving.endpoint == node.name)?;
            let standing = if leaving.is_relieved { Standing::Relieved } else { Standing::Held };
            (seen.timeline <= leaving.timeline).then_some(standing)
        };
        let rivals = || self.nodes.iter().filter(|node| writes(node).is_some_and(is_first));
        let are_contested = rivals().count() > 1 && !planted(Bug::ContestedServed);
        let mut chosen = rivals().filter(|node| self.is_lease_enough && self.named.is_some() && may_write(node));
        let chosen = chosen.next().filter(|_| chosen.next().is_none()).map(|node| node.name.clone());
        let standings: Vec<_> = self
            .nodes
            .iter()
            .map(|node| match node.seen {
                None if node.misses < misses_max => Standing::Unknown,
                None => Standing::Down,
                Some(_) if !is_up(node) => Standing::Down,
                Some(seen) if Some(seen.system) != system && !planted(Bug::StrangerServed) => Standing::Stranger,
                Some(seen) if seen.is_in_recovery && self.is_astray(node, seen, floor) => Standing::Astray,
                Some(seen) if seen.is_in_recovery => Standing::Replica,
                Some(seen) if !is_first(seen) => Standing::Deposed,
                Some(_) if are_contested && chosen.as_ref() != Some(&node.name) => Standing::Contested,
                Some(_) if !may_write(node) => Standing::Unnamed,
                Some(seen) => leaves(node, seen).unwrap_or(Standing::Primary),
            })
            .collect();
        self.floor = floor;
        self.assumed = system;
        if standings.contains(&Standing::Primary) {
            self.system = system;
        }
        for node in &mut self.nodes {
            node.is_outdone = are_contested && chosen.as_ref().is_some_and(|chosen| *chosen != node.name);
        }
        let has_changed = self.put(&standings);
        self.measure(has_changed);
        has_changed
    }

    /// Takes over what was concluded, and measures replicas by the primary.
    fn put(&mut self, standings: &[Standing]) -> bool {
        let primary = standings.iter().position(|standing| *standing == Standing::Primary);
        let written = primary.and_then(|index| self.nodes[index].seen).map(|seen| seen.lsn);
        let mut has_changed = false;
        for (node, standing) in self.nodes.iter_mut().zip(standings) {
            let is_replica = *standing == Standing::Replica;
            let replayed = node.seen.filter(|_| is_replica).map(|seen| seen.lsn);
            if !is_replica {
                node.lag = None;
            } else if let Some((written, replayed)) = written.zip(replayed) {
                node.lag = Some(written.saturating_sub(replayed));
            }
            // While there is no primary, one that was too far behind is not known to have caught up.
            node.is_far = self.lag_max > 0 && node.lag.is_some_and(|lag| lag > self.lag_max);
            let is_behind = node.is_far || (is_replica && node.is_late);
            let standing = if is_behind { Standing::Lagging } else { *standing };
            has_changed |= standing != node.standing;
            node.standing = standing;
        }
        has_changed
    }

    /// The identifier that most have. Of as many, that which is remembered; else that by which roles were told before, so
    /// that nobody who has read on one system is led to another by one endpoint; else that of the one listed first.
    fn most_common_system(&self) -> Option<u64> {
        let known = || self.nodes.iter().filter_map(|node| node.seen.map(|seen| seen.system));
        let votes = |system: u64| known().filter(|other| *other == system).count();
        let is_remembered = |system: u64| self.remembered == Some(system);
        // The last of equals is the maximum.
        known().rev().max_by_key(|&system| (votes(system), is_remembered(system), self.assumed == Some(system)))
    }
}

#[cfg(test)]
mod scenes;
#[cfg(test)]
mod tests;
