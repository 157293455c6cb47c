//! How often the clients of a cluster are made to wait for a role that was lost. One that flaps would make them wait again
//! and again: more often than `holds_per_hour_max` within an hour they do not, and are told at once.
//!
//! | the role is | requests |
//! |---|---|
//! | served | go to it |
//! | lost, not too often within the last hour | wait for the next one |
//! | lost, too often | fail at once, until it is served or the losses are old enough |
//! | taken away by a switchover | wait, and nothing is counted |
//!
//! Each worker counts for itself: all are told the same, and nobody waits who was told of a loss too many.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::{ClusterConfig, Role};
use crate::event::Level;
use crate::io::Io;
use crate::pool::{Pool, PoolId};
use crate::time::Instant;
use crate::worker::Worker;

use super::roles::{Found, Serves};

/// Losses are counted for so long.
const HOUR: Duration = Duration::from_secs(3600);

/// What became of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serving {
    /// An endpoint has it.
    Here,
    /// None has.
    Missing,
    /// None has, for a switchover moves it.
    Leaving,
}

impl Serving {
    pub(super) fn of(role: Role, found: &[Found]) -> Serving {
        let has = |serves| found.iter().any(|found| found.serves == serves);
        let is_served = match role {
            Role::Primary => has(Serves::Writes),
            Role::Replica => has(Serves::Reads),
            Role::Any => has(Serves::Writes) || has(Serves::Reads),
        };
        match (is_served, has(Serves::Leaving)) {
            (true, _) => Serving::Here,
            (false, true) => Serving::Leaving,
            (false, false) => Serving::Missing,
        }
    }
}

/// Losses of the role that serves a cluster's clients.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    is_served: bool,
    /// Those of the last hour, oldest first: as many as are allowed at most, and one.
    lost: VecDeque<Instant>,
    /// Until then nobody waits for the role.
    refused_until: Option<Instant>,
    is_told: bool,
}

impl Holds {
    /// The role is served so, `max` losses within an hour are allowed. True: there was one too many, which nobody was told yet.
    pub(super) fn follow(&mut self, serving: Serving, max: u32, now: Instant) -> bool {
        let is_lost = self.is_served && serving == Serving::Missing;
        self.is_served = serving == Serving::Here;
        if self.is_served {
            self.refused_until = None;
        }
        if !is_lost || max == 0 {
            return false;
        }
        self.lost.push_back(now);
        while self.lost.len() > max as usize + 1 || self.lost.front().is_some_and(|at| *at + HOUR <= now) {
            self.lost.pop_front();
        }
        let is_over = self.lost.len() > max as usize;
        self.refused_until = self.lost.front().filter(|_| is_over).map(|at| *at + HOUR);
        let was_told = std::mem::replace(&mut self.is_told, is_over);
        is_over && !was_told
    }

    fn are_refused(&self, now: Instant) -> bool {
        self.refused_until.is_some_and(|until| now < until)
    }
}

impl<I: Io> Worker<I> {
    /// The clients of a pool that has no endpoint do not wait for one.
    pub(crate) fn is_hold_refused(&self, pool: &Pool) -> bool {
        let limit = pool.target.config.cluster.map_or(0, |cluster| cluster.holds_per_hour_max);
        let known = self.clusters.get(&pool.target.config.name);
        limit != 0 && pool.is_held && known.is_some_and(|known| known.holds.are_refused(self.now))
    }

    /// Who waits in a pool already learns so as well.
    pub(super) fn tell_waiters_of_refusal(&mut self, id: PoolId) {
        if self.is_hold_refused(&self.pools[id.0 as usize]) {
            let waiting: Vec<_> = self.pools[id.0 as usize].waiters.iter().map(|waiter| waiter.client).collect();
            waiting.into_iter().for_each(|client| self.arm_client(client));
        }
    }

    /// Tells once that a database's clients do not wait for its role any more. The first worker does, for all.
    pub(super) fn log_refusal(&mut self, io: &mut I, database: &str, cluster: ClusterConfig) {
        if self.id.0 == 0 {
            let allowed = u64::from(cluster.holds_per_hour_max);
            let fields = vec![("database", database.to_string().into()), ("holds_per_hour_max", allowed.into())];
            self.log(io, Level::Warn, "holds_refused", fields);
        }
    }
}
