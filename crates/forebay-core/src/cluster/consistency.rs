//! Whose reads may go to a replica: a session sees what it has written itself (`read_consistency`).
//!
//! A cluster is asked at known moments how far its primary has written and its replicas have replayed. Once what the primary
//! had written at one moment is replayed by all of them, so is what anybody wrote before: that moment is told as one number,
//! which only grows for as long as the same endpoints serve. A session keeps one as well: when it last may have written.
//!
//! | a session | its reads |
//! |---|---|
//! | has not written | go to a replica |
//! | has, and the replicas have replayed what was written when that had ended | the same |
//! | has, and they have not, or that is not known | go to the primary |
//! | is at a request that may write | are part of that |
//!
//! When something has ended is known no sooner than at the beginning of the next turn of the loop: what is read in a turn may
//! be newer than its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cluster::Cluster;
use crate::config::Consistency;
use crate::io::Io;
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::ServerKey;
use crate::time::Instant;
use crate::worker::Worker;

/// The setting by which a session says what its reads must see.
pub(super) const SETTING: &str = "forebay.read_consistency";

/// What it writes is not known to have ended.
pub(crate) const WRITING: Instant = Instant(u64::MAX);

/// Moments of a primary that are remembered until they are replayed; half of more are forgotten.
const MARKS_MAX: usize = 64;

/// Up to when all that was written is replayed by every replica that serves.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// In microseconds of the system's monotonic clock.
    until: Arc<AtomicU64>,
    /// Those at which the engine's time begins.
    origin: u64,
}

impl Replayed {
    /// The same for an engine whose time begins then, in microseconds of the system's monotonic clock.
    pub fn since(&self, origin: u64) -> Replayed {
        Replayed { until: self.until.clone(), origin }
    }

    pub(super) fn until(&self) -> Instant {
        Instant(self.until.load(Ordering::Acquire).saturating_sub(self.origin))
    }
}

/// How far a primary had written at a moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Before it was asked, in microseconds of the system's monotonic clock.
    asked_us: u64,
    lsn: u64,
}

/// What is known of how far a cluster's replicas are.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    replayed: Replayed,
    /// What the replicas are not known to have replayed, the oldest first.
    marks: Vec<Mark>,
    /// The endpoint that they are of, and its timeline.
    of: Option<(usize, u32)>,
    /// How far all replicas were.
    least: u64,
}

impl Progress {
    /// Begins anew, but for the primary's marks. Who goes by the roles of before hears nothing more.
    fn roles_changed(&mut self) {
        self.replayed = Replayed::default();
        self.least = 0;
    }

    /// A primary on a timeline has said how far it is. `asked_us`: see [`Mark`].
    fn mark(&mut self, of: (usize, u32), mark: Mark) {
        if self.of != Some(of) {
            self.marks.clear();
            self.of = Some(of);
        }
        let (first, last) = (self.marks.first().map_or(0, |mark| mark.asked_us), self.marks.last());
        // Of a long time the moments lie further apart.
        let gap =
            |last: &Mark| if self.marks.len() < MARKS_MAX / 2 { 1 } else { (last.asked_us - first) / MARKS_MAX as u64 };
        if last.is_none_or(|last| mark.asked_us >= last.asked_us + gap(last).max(1)) {
            self.marks.push(mark);
        }
        if self.marks.len() > MARKS_MAX {
            let mut number = 0;
            self.marks.retain(|_| {
                number += 1;
                number % 2 == 0
            });
        }
    }

    /// All replicas that serve are that far. `None`: of one it is not known, or there is none.
    fn measure(&mut self, least: Option<u64>) {
        let until = &self.replayed.until;
        let Some(least) = least.filter(|least| *least >= self.least) else {
            // One may have started anew from where it had been before.
            self.least = 0;
            return until.store(0, Ordering::Release);
        };
        self.least = least;
        let count = self.marks.iter().take_while(|mark| mark.lsn <= least).count();
        if let Some(last) = self.marks.drain(..count).next_back() {
            until.store(last.asked_us, Ordering::Release);
        }
    }
}

impl Cluster {
    /// For the workers, with the roles as they are by now.
    pub fn replayed(&self) -> &Replayed {
        &self.progress.replayed
    }

    /// Whether the replicas that serve are not known to have replayed all that the primary has told of.
    pub fn is_behind(&self) -> bool {
        !self.progress.marks.is_empty()
    }

    /// Follows what was decided.
    pub(super) fn measure(&mut self, has_changed: bool) {
        use super::Standing::{Primary, Replica};
        if has_changed {
            self.progress.roles_changed();
        }
        let primary = self.nodes.iter().enumerate().find(|(_, node)| node.standing == Primary);
        if let Some((index, node)) = primary
            && let Some(seen) = node.seen
        {
            let mark = Mark { asked_us: node.asked_us, lsn: seen.lsn };
            self.progress.mark((index, seen.timeline), mark);
        }
        let replicas = || self.nodes.iter().filter(|node| node.standing == Replica);
        let is_known = replicas().all(|node| node.misses == 0);
        let least = replicas().filter_map(|node| node.seen.map(|seen| seen.lsn)).min();
        self.progress.measure(least.filter(|_| is_known));
    }
}

/// How a request that only reads is served by the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// It is not.
    #[default]
    No,
    /// Its server gets nothing that is behind it.
    Alone,
    /// All of it was sent.
    Sent,
}

/// Whether the replicas have what a client must see.
pub(super) fn may_read(client: &Client, consistency: Consistency, replayed: &Replayed) -> bool {
    if client.written_at == Instant(0) || planted(Bug::UnreplayedRead) {
        return true;
    }
    let asked = client.wanted.get(SETTING).and_then(|value| Consistency::of(value.as_bytes()));
    match asked.unwrap_or(consistency) {
        Consistency::Eventual => true,
        Consistency::Session => client.written_at <= replayed.until(),
    }
}

impl<I: Io> Worker<I> {
    /// Whether the replicas of a database have what a client of it must see.
    pub(super) fn sees_its_own(&self, key: ClientKey, home: PoolId) -> bool {
        let config = &self.pools[home.0 as usize].target.config;
        let Some((cluster, known)) = config.cluster.zip(self.clusters.get(&config.name)) else { return false };
        may_read(&self.clients[key], cluster.read_consistency, &known.replayed)
    }

    /// Whether a client that is with the primary may send it all that is at hand, from here on as one that may write. Not
    /// while it is at a request that only reads: nobody has looked at what comes behind.
    pub(super) fn ends_reading(&mut self, key: ClientKey, server: ServerKey) -> bool {
        let client = &mut self.clients[key];
        if client.reading == Reading::Alone && self.servers[server].status == IDLE {
            return false;
        }
        if client.reading != Reading::No {
            (client.reading, client.written_at) = (Reading::No, WRITING);
        }
        true
    }

    /// Clients that may have written have been parted from their servers before this turn.
    #[cold]
    pub(crate) fn note_written(&mut self) {
        for key in std::mem::take(&mut self.wrote) {
            if let Some(client) = self.clients.get_mut(key)
                && client.state == ClientState::Idle
                && client.written_at == WRITING
            {
                client.written_at = self.now;
            }
        }
    }
}
