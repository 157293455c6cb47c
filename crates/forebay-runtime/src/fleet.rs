//! What a node tells of its fleet, for the metrics. Whether its lease holds is seen when they are asked for, so that it is
//! right also where whoever tells has come to a stop.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::Engine;

/// A node's account of its fleet. Times are microseconds of the system's monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct FleetTold {
    /// Until when its lease surely holds; 0: it has none.
    pub until_us: u64,
    /// When it last read the fleet's keys; 0: never.
    pub looked_us: u64,
    /// Nodes whose leases held then, with this one.
    pub here: u64,
    /// Nodes that were not there then and keep a part of a budget.
    pub absent: u64,
    /// How often it has registered.
    pub registrations: u64,
    /// How often etcd did not answer as it was to.
    pub failures: u64,
    /// How often it has written down another primary.
    pub written: u64,
    /// How often the primary that it saw was refused.
    pub refused: u64,
    /// The primaries that are written down: database, endpoint, timeline.
    pub primaries: Vec<(String, String, u32)>,
    /// The budgets of databases.
    pub budgets: Vec<BudgetTold>,
}

/// One database's budget, in servers.
#[derive(Clone, Debug, Default)]
pub struct BudgetTold {
    /// Whose it is.
    pub database: String,
    /// Over all nodes.
    pub total: u64,
    /// Lent to this node, to others that are there, and to those that are not.
    pub lent: [u64; 3],
    /// What this node keeps without a lease.
    pub kept: u64,
    /// What its clients want.
    pub wanted: u64,
    /// What it has open.
    pub open: u64,
    /// How often it has changed the budget.
    pub changes: u64,
}

/// To whom parts of a budget are lent, in the order of [`BudgetTold::lent`].
pub(crate) const HOLDERS: [&str; 3] = ["this", "others", "absent"];

/// What was told last; nothing where there is no fleet.
#[derive(Default)]
pub(crate) struct Fleet(Mutex<Option<Arc<FleetTold>>>);

impl Fleet {
    pub(crate) fn told(&self) -> Option<Arc<FleetTold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Engine {
    /// From here on the metrics tell this of the fleet.
    pub fn tell_fleet(&self, told: FleetTold) {
        *self.hub.fleet.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(told));
    }
}
