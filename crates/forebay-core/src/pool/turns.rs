//! Whose turn it is among the endpoints of a pool: a worker's own count of what it has given to each.
//!
//! Each request costs its endpoint what [`crate::pool::balance`] says, and the one that has paid least is next: parts are
//! as the costs say, to within a request, without luck.

use std::time::Duration;

use crate::config::{LoadBalance, Preference};
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

/// How many requests one that is near gets for each of one that is not. What goes there all the same tells how those do that
/// would take over, and keeps a connection to each.
const NEARER: u32 = 64;
/// A part of this many servers or more, as a divisor, is worth one of its own.
const SMALLEST: u64 = 4;

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
            is_spared: false,
        };
        Given { servers: 0, idle: 0, window: Window::default(), turn, paid: 0, owed_at: Instant(0) }
    }
}

impl Given {
    fn busy(&self) -> u32 {
        self.servers.saturating_sub(self.idle)
    }

    /// How loaded it is, if it gets one more: by its cost, so that one with a larger part has more.
    fn load(&self) -> u64 {
        u64::from(self.busy() + 1).saturating_mul(self.turn.cost)
    }

    /// Whether it gets no requests.
    pub fn is_out(&self) -> bool {
        self.turn.standing.is_out() || self.turn.is_spared
    }

    fn is_serving(&self) -> bool {
        matches!(self.turn.standing, Standing::Serving(_)) && !self.turn.is_spared
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
    /// Its weight among those that serve: of those with none, each has the same.
    fn part(&self) -> u64 {
        u64::from(self.weight.max(1))
    }

    /// How many servers that would be for its weight, in millionths.
    fn filled(&self, servers: u32) -> u64 {
        u64::from(servers) * 1_000_000 / self.part()
    }

    /// How many servers it has for its weight, with one more; `None`: it should have no more.
    pub(super) fn fullness(&self) -> Option<u64> {
        let given = &self.given;
        let has_enough = given.is_out() || given.is_half_open() && given.servers > 0;
        (!has_enough).then(|| self.filled(given.servers + 1))
    }
}

impl Endpoints {
    /// The endpoint for the next request among those that have an idle server, if there is one; it pays. One that is to have little
    /// has that, whatever it costs.
    pub fn next(&mut self, by: LoadBalance) -> Option<usize> {
        let last = self.paid;
        let may = |endpoint: &&PoolEndpoint| endpoint.given.idle > 0 && !endpoint.given.is_out();
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
            let is_due = given.is_half_open() || given.busy() == 0 && endpoint.part() < self.heaviest;
            if (given.load() <= limit || is_due) && next.is_none_or(|(_, least)| key < least) {
                next = Some((index, key));
            }
        }
        let (index, (paid, _)) = next?;
        self.paid = last.max(paid);
        self.note_short(index);
        let given = &mut self.all[index].given;
        given.paid = paid.saturating_add(given.turn.cost);
        given.idle -= 1;
        Some(index)
    }

    /// Notes that a request goes to the endpoint at `index` as a heavier one has no idle server.
    fn note_short(&mut self, index: usize) {
        let part = self.all[index].part();
        let is_short = |one: &PoolEndpoint| one.part() >= part * 2 && one.given.idle == 0 && one.given.is_serving();
        if part < self.heaviest {
            let short = self.all.iter().enumerate().filter(|(_, one)| is_short(one));
            self.short = short.max_by_key(|(_, one)| one.part()).map(|(index, _)| index).or(self.short);
        }
    }

    /// Notes that a request goes elsewhere, for there is no server at the first of those that would do.
    pub fn note_none_at(&mut self, would_do: impl Fn(&PoolEndpoint) -> bool) -> bool {
        let has_none = |one: &PoolEndpoint| one.given.servers == 0 && !one.given.is_out() && would_do(one);
        let Some(index) = self.all.iter().position(has_none) else { return false };
        (self.short, self.asked) = (Some(index), self.asked.max(1));
        true
    }

    /// One that was short of servers since this was last asked.
    pub fn take_short(&mut self, now: Instant) -> Option<usize> {
        self.short.take().filter(|index| self.all[*index].given.is_serving() && self.all[*index].is_well(now))
    }

    /// What is said of them: their weights, and which of them are near.
    pub fn weigh(&mut self, preferences: &[Preference]) {
        let mut is_changed = false;
        for endpoint in &mut self.all {
            let said = preferences.iter().find(|said| *said.endpoint == *endpoint.place.name);
            let weight = said.map_or(1, |said| u32::from(said.weight) * if said.is_near { NEARER } else { 1 });
            is_changed |= endpoint.weight != weight;
            endpoint.weight = weight;
        }
        self.heaviest = self.all.iter().map(PoolEndpoint::part).max().unwrap_or(1);
        if is_changed {
            let is_any = self.all.iter().any(|endpoint| endpoint.weight > 0);
            for endpoint in &mut self.all {
                endpoint.given.turn.is_spared = is_any && endpoint.weight == 0;
            }
            self.closings.0 = self.closings.0.max(CLOSINGS).max(self.servers());
        }
    }

    /// Whether the one with a number is ejected, or on trial at another worker.
    pub fn is_out(&self, number: u8) -> bool {
        self.numbered(number).is_some_and(|one| one.given.turn.standing.is_out())
    }

    /// Whether the one with a number is no matter for other workers: it is out, or on trial here.
    pub fn is_kept_here(&self, number: u8) -> bool {
        self.numbered(number).is_some_and(|one| one.given.turn.standing.is_out() || one.given.is_half_open())
    }

    fn numbered(&self, number: u8) -> Option<&PoolEndpoint> {
        self.all.get(usize::from(number).checked_sub(1)?)
    }

    fn servers(&self) -> u32 {
        self.all.iter().map(|one| one.given.servers).sum()
    }

    /// A server is gone.
    pub fn note_gone(&mut self, number: u8) {
        if let Some(given) = self.given(number) {
            given.servers = given.servers.saturating_sub(1);
        }
    }

    /// Takes over what was made of them, in their order.
    pub fn take_turns(&mut self, turns: &[Turn], now: Instant) {
        let servers = self.servers();
        for (endpoint, turn) in self.all.iter_mut().zip(turns) {
            let given = &mut endpoint.given;
            let is_other = given.turn.standing != turn.standing || given.turn.is_spared != turn.is_spared;
            if is_other && !turn.standing.is_out() {
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

    /// One that has too few servers: one that is half open has one. `all`: of the others as well. `size`: how many servers there
    /// may be, 0 for no limit; one whose part is next to nothing is to have one all the same, unless that takes much from others.
    pub fn poorest(&self, now: Instant, all: bool, size: u32) -> Option<usize> {
        let well = || self.all.iter().enumerate().filter(|(_, endpoint)| endpoint.is_well(now));
        if let Some((index, _)) = well().find(|(_, one)| one.given.is_half_open() && one.given.servers == 0) {
            return Some(index);
        }
        let serving = || well().filter(|(_, one)| one.given.is_serving());
        let servers: u64 = serving().map(|(_, one)| u64::from(one.given.servers)).sum();
        let weights: u64 = serving().map(|(_, one)| one.part()).sum();
        let lacks = |one: &PoolEndpoint| {
            let part = servers * one.part() / weights.max(1);
            let is_due = size == 0 || u64::from(size) * one.part() * SMALLEST >= weights;
            one.given.servers == 0 && is_due || u64::from(one.given.servers) < part
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
        many.max_by_key(|(_, one)| one.filled(one.given.servers)).map(|(index, _)| index)
    }
}
