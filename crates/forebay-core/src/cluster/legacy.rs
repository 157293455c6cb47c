//! What a process tells the one that takes its place of a cluster's endpoints, so that nobody waits there until they have
//! been asked anew.
//!
//! | of an endpoint | is taken over |
//! |---|---|
//! | what it said, and how many questions it has missed since | if it was asked no longer ago than is allowed |
//! | that it is down | always: it serves nobody |
//! | that is held, relieved, unnamed or outdone by one that is named, and of all others beside it | nothing: somebody else has a say in it |
//!
//! When it was asked is a time of the system's clock, which both processes go by. What follows is concluded anew.

use std::sync::Arc;

use super::astray::Beginning;
use super::{Cluster, Node, Seen, Standing};

/// Of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bequest {
    /// As configured.
    pub name: Arc<str>,
    /// What it last said.
    pub seen: Option<Seen>,
    /// When it was asked for that, in microseconds of the system's monotonic clock.
    pub asked_us: u64,
    /// Questions on end that it has missed since.
    pub misses: u32,
    /// It has what the primary of a later timeline has not.
    pub is_beyond: bool,
}

/// Of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    /// The system that it is, if a primary of it was seen.
    pub system: Option<u64>,
    /// Of the primary on the highest timeline, as it was heard first: system, timeline, LSN.
    pub beginning: Option<(u64, u32, u64)>,
    /// Of its endpoints, those of which something is known.
    pub endpoints: Vec<Bequest>,
}

impl Cluster {
    /// For a process that takes this one's place.
    pub fn legacy(&self) -> Legacy {
        let is_with_others = |node: &Node| {
            let is_named = node.is_outdone && node.standing == Standing::Contested;
            is_named
                || matches!(node.standing, Standing::Held | Standing::Relieved | Standing::Unnamed)
                || self.leaving.is_some()
        };
        if self.nodes.iter().any(is_with_others) {
            return Legacy::default();
        }
        let of = |node: &Node| Bequest {
            name: node.name.clone(),
            seen: node.seen,
            asked_us: node.asked_us,
            misses: node.misses,
            is_beyond: node.stay.is_beyond,
        };
        let known = self.nodes.iter().filter(|node| node.standing != Standing::Unknown);
        let beginning = self.beginning.map(|begun| (begun.system, begun.timeline, begun.lsn));
        Legacy { system: self.system, beginning, endpoints: known.map(of).collect() }
    }

    /// Goes on from that, and concludes. Before anything is heard, and after [`Self::remember`]. `since_us`: what was asked
    /// before then is not believed.
    pub fn inherit(&mut self, legacy: &Legacy, since_us: u64) {
        // Without a system, which one they are all of is for all of them to say.
        let Some(system) = legacy.system else { return };
        self.system = Some(system);
        self.beginning = legacy.beginning.map(|(system, timeline, lsn)| Beginning { system, timeline, lsn });
        let mut heard = Vec::new();
        for node in &mut self.nodes {
            let Some(known) = legacy.endpoints.iter().find(|known| known.name == node.name) else { continue };
            let is_down = known.misses >= self.misses_max;
            if let Some(seen) = known.seen.filter(|_| is_down || known.asked_us >= since_us) {
                node.hear(seen, known.asked_us);
                heard.push(seen);
                node.stay.is_beyond = known.is_beyond;
            } else if !is_down {
                continue;
            }
            node.misses = known.misses;
        }
        heard.into_iter().for_each(|seen| self.note_written(seen));
        self.decide();
    }
}
