//! How far the replicas of a cluster are: of what its primary had written at known moments.
//!
//! A cluster is asked at known moments how far its primary has written and its replicas have replayed. Once a replica has
//! replayed what the primary had written at one moment, it has what anybody wrote, or read anywhere, before. That moment is
//! told of each replica as one number, which only grows for as long as the same endpoints serve.
//!
//! | of an endpoint | it has what the primary had |
//! |---|---|
//! | is a replica, on the highest timeline that was seen to write | at the last moment whose position it has reached |
//! | the same, on another timeline | at no moment: its positions are those of another branch |
//! | is behind where it was before | at no moment, until it was measured anew: it has begun again |
//! | has missed its last probe, or is no replica | at no moment |
//!
//! A replica that was killed begins again from where it last was safe, which is before what it has shown. So what is known
//! of it holds on those connections only that were there when it was asked: they end with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cluster::{Cluster, Standing};
use crate::time::Instant;

/// Moments of a primary that are remembered until a replica has reached them; half of more are forgotten.
const MARKS_MAX: usize = 64;

/// What the endpoints have of what the primary had, for the workers.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    endpoints: Arc<[Reached]>,
    /// When the engine's time begins, in microseconds of the system's monotonic clock.
    origin: u64,
}

/// How far one of them is.
#[derive(Debug)]
struct Reached {
    name: Arc<str>,
    /// It has all that the primary had then, in microseconds of the system's monotonic clock; 0: that is not known.
    until: AtomicU64,
    /// It was asked then, or later, for what that is known by. Written after it, and read before.
    asked: AtomicU64,
}

impl Replayed {
    fn of(names: impl Iterator<Item = Arc<str>>) -> Replayed {
        let reached = |name| Reached { name, until: AtomicU64::new(0), asked: AtomicU64::new(0) };
        Replayed { endpoints: names.map(reached).collect(), origin: 0 }
    }

    /// The same for an engine whose time begins then, in microseconds of the system's monotonic clock.
    pub fn since(&self, origin: u64) -> Replayed {
        Replayed { endpoints: self.endpoints.clone(), origin }
    }

    fn in_engine(&self, at: &AtomicU64) -> Instant {
        Instant(at.load(Ordering::Acquire).saturating_sub(self.origin))
    }

    /// Whether some endpoint has what the primary had at `at`.
    pub(super) fn is_anywhere(&self, at: Instant) -> bool {
        self.endpoints.iter().any(|one| self.in_engine(&one.until) >= at)
    }

    /// Whether an endpoint has, on a connection that it has let in at `let_in_at`.
    pub(super) fn is_at(&self, name: &str, at: Instant, let_in_at: Instant) -> bool {
        let Some(one) = self.endpoints.iter().find(|one| *one.name == *name) else { return false };
        self.in_engine(&one.asked) >= let_in_at && self.in_engine(&one.until) >= at
    }

    #[cfg(test)]
    pub(super) fn until(&self, name: &str) -> u64 {
        let one = self.endpoints.iter().find(|one| *one.name == *name);
        one.map_or(0, |one| one.until.load(Ordering::Acquire))
    }

    /// One endpoint that has had all until a moment, for tests of workers.
    #[cfg(test)]
    pub(super) fn told(names: &[&str], until: &[u64], asked: u64) -> Replayed {
        let replayed = Replayed::of(names.iter().map(|name| Arc::from(*name)));
        for (one, until) in replayed.endpoints.iter().zip(until) {
            one.until.store(*until, Ordering::Release);
            one.asked.store(asked, Ordering::Release);
        }
        replayed
    }
}

/// How far a primary had written at a moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Before it was asked, in microseconds of the system's monotonic clock.
    asked_us: u64,
    lsn: u64,
}

/// What is known of one endpoint.
#[derive(Clone, Debug, Default)]
struct Follower {
    /// What it is not known to have replayed, the oldest first.
    marks: Vec<Mark>,
    /// How far it was.
    lsn: u64,
}

impl Follower {
    fn add(&mut self, mark: Mark) {
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

    /// It is that far, and was asked then. `None`: that is not known.
    fn measure(&mut self, lsn: Option<u64>, asked_us: u64, reached: &Reached) {
        let Some(lsn) = lsn.filter(|lsn| *lsn >= self.lsn) else {
            self.lsn = 0;
            return reached.until.store(0, Ordering::Release);
        };
        self.lsn = lsn;
        let count = self.marks.iter().take_while(|mark| mark.lsn <= lsn).count();
        if let Some(last) = self.marks.drain(..count).next_back() {
            reached.until.store(last.asked_us, Ordering::Release);
        }
        reached.asked.store(asked_us, Ordering::Release);
    }
}

/// What is known of how far a cluster's endpoints are.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    replayed: Replayed,
    /// In the order of the endpoints.
    followers: Vec<Follower>,
    /// The endpoint whose moments they are, and its timeline.
    of: Option<(usize, u32)>,
    /// When it was asked last.
    asked_us: u64,
}

impl Progress {
    /// Begins anew, but for the primary's moments. Who goes by the roles of before hears nothing more.
    pub(super) fn begin(&mut self, names: impl ExactSizeIterator<Item = Arc<str>>) {
        self.followers.resize(names.len(), Follower::default());
        self.replayed = Replayed::of(names);
        self.followers.iter_mut().for_each(|follower| follower.lsn = 0);
    }

    /// A primary on a timeline has said how far it is.
    fn mark(&mut self, of: (usize, u32), mark: Mark) {
        if self.of != Some(of) {
            self.followers.iter_mut().for_each(|follower| follower.marks.clear());
            (self.of, self.asked_us) = (Some(of), 0);
        }
        if mark.asked_us > self.asked_us {
            self.asked_us = mark.asked_us;
            self.followers.iter_mut().for_each(|follower| follower.add(mark));
        }
    }
}

impl Cluster {
    /// For the workers, with the roles as they are by now.
    pub fn replayed(&self) -> &Replayed {
        &self.progress.replayed
    }

    /// Whether a replica that serves is not known to have replayed all that the primary has told of.
    pub fn is_behind(&self) -> bool {
        let known = self.nodes.iter().zip(&self.progress.followers);
        known.into_iter().any(|(node, known)| node.standing == Standing::Replica && !known.marks.is_empty())
    }

    /// Follows what was decided.
    pub(super) fn measure(&mut self, has_changed: bool) {
        if has_changed {
            self.progress.begin(self.nodes.iter().map(|node| node.name.clone()));
        }
        let primary = self.nodes.iter().enumerate().find(|(_, node)| node.standing == Standing::Primary);
        if let Some((index, node)) = primary
            && let Some(seen) = node.seen
        {
            let mark = Mark { asked_us: node.asked_us, lsn: seen.lsn };
            self.progress.mark((index, seen.timeline), mark);
        }
        let Progress { replayed, followers, .. } = &mut self.progress;
        for (node, (known, reached)) in self.nodes.iter().zip(followers.iter_mut().zip(&*replayed.endpoints)) {
            let is_told = node.standing == Standing::Replica && node.misses == 0;
            let seen = node.seen.filter(|seen| is_told && seen.timeline == self.floor);
            known.measure(seen.map(|seen| seen.lsn), node.asked_us, reached);
        }
    }
}
