//! Which replicas have not followed a new primary: they replay what a deposed one writes, or nothing any more.
//!
//! A replica tells a timeline that it has reached, which may be older than the one that it is on by now. Of one that tells
//! an older one than has been seen to write:
//!
//! | it | then it |
//! |---|---|
//! | says itself that it gets no later one | is astray |
//! | is not as far as the new primary was when that was first heard | is astray until it is as far |
//! | stands still, and the new primary, asked later, was not as far | is astray until it begins again: it has what the other has not |
//! | tells no position | serves: it is of a kind that has none |
//! | does nothing of this | serves: nobody knows on which timeline it is |

use super::{Cluster, Node, Seen};
use crate::planted::{Bug, planted};

/// Where the primary of a timeline was when it was heard first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) system: u64,
    pub(super) timeline: u32,
    pub(super) lsn: u64,
}

/// How long a replica has been where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stay {
    /// It was there already then, in microseconds of the system's monotonic clock.
    since_us: Option<u64>,
    /// It has what the primary of a later timeline has not.
    pub(super) is_beyond: bool,
}

impl Stay {
    /// It has answered something else than before, or the same.
    pub(super) fn heard(&mut self, before: Option<Seen>, seen: Seen, asked_us: u64) {
        match before.map(|before| seen.lsn.cmp(&before.lsn)) {
            // What it had answered before was so when it was asked anew.
            Some(std::cmp::Ordering::Equal) => self.since_us = self.since_us.or(Some(asked_us)),
            Some(std::cmp::Ordering::Greater) => self.since_us = None,
            _ => *self = Stay::default(),
        }
    }
}

impl Cluster {
    /// Takes note of where a primary is on the highest timeline, and who is beyond it.
    pub(super) fn note_beginning(&mut self, system: u64, timeline: u32, primary: Option<(Seen, u64)>) {
        let is_known = self.beginning.is_some_and(|known| (known.system, known.timeline) == (system, timeline));
        let Some((seen, asked_us)) = primary else {
            self.beginning = self.beginning.filter(|_| is_known);
            return;
        };
        if !is_known {
            self.beginning = Some(Beginning { system, timeline, lsn: seen.lsn });
        }
        for node in &mut self.nodes {
            let was_there = node.stay.since_us.is_some_and(|since_us| since_us <= asked_us);
            node.stay.is_beyond |= was_there && node.seen.is_some_and(|replica| replica.lsn > seen.lsn);
        }
    }

    /// Whether one that is in recovery is known not to have followed to the highest timeline.
    pub(super) fn is_astray(&self, node: &Node, seen: Seen, highest: u32) -> bool {
        // One that tells no position at all is of a kind that has none.
        let is_before = self.beginning.is_some_and(|beginning| (1..beginning.lsn).contains(&seen.lsn));
        seen.timeline < highest && (seen.is_certain || is_before || node.stay.is_beyond) && !planted(Bug::AstrayServed)
    }
}
