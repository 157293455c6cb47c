//! Whose turn it is among the endpoints of a pool: a worker's own count of what it has given to each.
//!
//! Each request costs its endpoint what [`crate::pool::balance`] says, and the one that has paid least is next: parts are
//! as the costs say, to within a request, without luck.

use std::time::Duration;

use crate::config::LoadBalance;
use crate::pool::balance::{COST, Standing, Turn, Window};
use crate::pool::endpoints::{Endpoints, PoolEndpoint};
use crate::time::Instant;

/// How much more loaded than the least loaded one an endpoint may be and still be next, as a multiple, and in requests
/// beside.
const LOAD_TIMES: u64 = 2;
const LOAD_BESIDE: u64 = 3;

/// Servers that are closed at once for the sake of another endpoint, where nothing has changed; and after which time another.
pub(super) const CLOSINGS: u32 = 8;
const CLOSED_EVERY: Duration = Duration::from_secs(60);

/// How often one that is half open gets a request at least.
const OWED_EVERY: Duration = Duration::from_millis(250);

/// What a worker has given to an endpoint.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its servers there, in any state.
    pub servers: u32,
    /// Those of them that are idle.
    pub idle: u32,
    /// What was measured since the last look.
    pub window: Window,
    /// What was made of it then.
    pub turn: Turn,
    /// What it has paid.
    paid: u64,
    /// When it last got a request for its trial.
    owed_at: Instant,
}

impl Default for Given {
    fn default() -> Given {
        let turn = Turn {
            standing: Standing::Serving(Instant(0)),
            cost: COST,
            mean: None,
            overdue_us: u64::MAX,
            is_doubted: false,
        };
        Given { servers: 0, idle: 0, window: Window::default(), turn, paid: 0, owed_at: Instant(0) }
    }
}

impl Given {
    /// How loaded it is, if it gets one more: by its cost, so that one with a larger part has more.
    fn load(&self) -> u64 {
        u64::from(self.servers.saturating_sub(self.idle) + 1).saturating_mul(self.turn.cost)
    }

    fn is_half_open(&self) -> bool {
        matches!(self.turn.standing, Standing::HalfOpen(..))
    }

    /// One that is half open is next soon, whatever it has paid: where few ask, its part would come too late.
    fn owe_trial(&mut self, now: Instant) {
        if self.is_half_open() && now >= self.owed_at + OWED_EVERY {
            (self.paid, self.owed_at) = (0, now);
        }
    }

    /// What it has paid, given what the one before has. Who could not be next for a while is owed one request, and not all
    /// that others had meanwhile.
    fn paid(&self, last: u64) -> u64 {
        self.paid.max(last.saturating_sub(self.turn.cost))
    }
}

impl PoolEndpoint {
    /// How many servers it has for its weight, with one more, in thousandths; `None`: it should have no more.
    pub(super) fn fullness(&self) -> Option<u64> {
        let given = &self.given;
        let has_enough = given.turn.standing.is_out() || given.is_half_open() && given.servers > 0;
        (!has_enough).then(|| u64::from(given.servers + 1) * 1000 / u64::from(self.weight.max(1)))
    }
}

impl Endpoints {
    /// The endpoint for the next request among those that have an idle server, if there is one; it pays.
    pub fn next(&mut self, by: LoadBalance) -> Option<usize> {
        let last = self.paid;
        let may = |endpoint: &&PoolEndpoint| endpoint.given.idle > 0 && !endpoint.given.turn.standing.is_out();
        let least = self.all.iter().filter(may).map(|endpoint| endpoint.given.load()).min()?;
        let limit = match by {
            LoadBalance::LeastBusy => least,
            LoadBalance::Latency => least.saturating_mul(LOAD_TIMES).saturating_add(LOAD_BESIDE * COST),
            LoadBalance::RoundRobin => u64::MAX,
        };
        let mut next: Option<(usize, (u64, u64))> = None;
        for (index, endpoint) in self.all.iter().enumerate().filter(|(_, endpoint)| may(endpoint)) {
            let given = &endpoint.given;
            let key = (given.paid(last), given.load());
            if (given.load() <= limit || given.is_half_open()) && next.is_none_or(|(_, least)| key < least) {
                next = Some((index, key));
            }
        }
        let (index, (paid, _)) = next?;
        self.paid = last.max(paid);
        let given = &mut self.all[index].given;
        given.paid = paid.saturating_add(given.turn.cost);
        given.idle -= 1;
        Some(index)
    }

    /// A server is gone.
    pub fn note_gone(&mut self, number: u8) {
        if let Some(given) = self.given(number) {
            given.servers = given.servers.saturating_sub(1);
        }
    }

    /// Takes over what was made of them, in their order.
    pub fn take_turns(&mut self, turns: &[Turn], now: Instant) {
        let servers = self.all.iter().map(|one| one.given.servers).sum();
        for (endpoint, turn) in self.all.iter_mut().zip(turns) {
            let given = &mut endpoint.given;
            if given.turn.standing != turn.standing && !turn.standing.is_out() {
                // What there is to move: its part.
                self.closings.0 = self.closings.0.max(CLOSINGS).max(servers);
            }
            self.asked = self.asked.saturating_add(given.window.heard());
            // What is overdue stays so until it is counted anew.
            given.window = Window::with_overdue(given.window.overdue);
            given.turn = *turn;
            given.owe_trial(now);
        }
    }

    /// Servers are about to be counted anew.
    pub fn forget_counts(&mut self) {
        for endpoint in &mut self.all {
            (endpoint.given.servers, endpoint.given.idle, endpoint.given.window.overdue) = (0, 0, 0);
        }
    }

    /// One that has too few servers: one that is half open has one. `all`: of the others as well.
    pub fn poorest(&self, now: Instant, all: bool) -> Option<usize> {
        let well = || self.all.iter().enumerate().filter(|(_, endpoint)| endpoint.is_well(now));
        if let Some((index, _)) = well().find(|(_, one)| one.given.is_half_open() && one.given.servers == 0) {
            return Some(index);
        }
        let serving = || well().filter(|(_, one)| matches!(one.given.turn.standing, Standing::Serving(_)));
        let servers: u64 = serving().map(|(_, one)| u64::from(one.given.servers)).sum();
        let weights: u64 = serving().map(|(_, one)| u64::from(one.weight)).sum();
        let lacks = |one: &PoolEndpoint| {
            let part = servers * u64::from(one.weight) / weights.max(1);
            one.given.servers == 0 || u64::from(one.given.servers) < part
        };
        let poor = serving().filter(|(_, one)| all && lacks(one));
        poor.min_by_key(|(_, one)| one.fullness()).map(|(index, _)| index)
    }

    /// Whether a server may be closed in favour of another endpoint, and that it is.
    pub fn may_close(&mut self, now: Instant) -> bool {
        let (left, last) = self.closings;
        let left = if left == 0 && now >= last + CLOSED_EVERY { 1 } else { left };
        if left > 0 {
            self.closings = (left - 1, now);
        }
        left > 0
    }

    /// One that has servers to spare, in favour of another.
    pub fn richest(&self, poor: usize) -> Option<usize> {
        let many = self.all.iter().enumerate().filter(|(index, one)| *index != poor && one.given.servers > 1);
        many.max_by_key(|(_, one)| u64::from(one.given.servers) * 1000 / u64::from(one.weight)).map(|(index, _)| index)
    }
}
