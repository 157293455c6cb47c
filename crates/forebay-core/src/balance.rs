//! Requests among the endpoints of a pool that has several: what answers take is noted, and what follows from it is done.
//!
//! | when | what |
//! |---|---|
//! | a request takes an idle server | the endpoint whose turn it is: [`crate::pool::turns`] |
//! | the first byte of its answer has come | it is noted how long that took |
//! | every 100 ms, while there are requests | [`crate::pool::balance`] is asked: servers at an endpoint that is ejected are closed, trials begin, servers are spread over the others |

use std::sync::Arc;
use std::time::Duration;

use crate::config::{LoadBalanceHosts, PoolMode};
use crate::event::Level;
use crate::io::Io;
use crate::pool::balance::{Change, LOOK_EVERY, Seen, Standing, Terms};
use crate::pool::endpoints::{Place, PoolEndpoint};
use crate::pool::{Pool, PoolId};
use crate::session::client::Client;
use crate::session::expect::Own;
use crate::session::server::{Apart, Server, ServerKey, ServerState};
use crate::time::Instant;
use crate::worker::Worker;

/// Why a server is closed whose endpoint is ejected.
pub(crate) const EJECTED: &str = "the endpoint is ejected";
/// Why one is closed whose endpoint has no weight.
const SPARED: &str = "other endpoints serve that have a weight";
/// Why one is closed that is to be at another endpoint.
const SPREAD: &str = "another endpoint has too few servers";
/// Requests for which it is worth it to have a server at each endpoint.
const SPREAD_AFTER: u32 = 16;
/// Of servers at endpoints that are spared, this part leaves at a look: they work, and others are to be opened in their place.
const SPARED_AT_ONCE: usize = 4;
/// Questions of a trial: the first warms the connection up.
const TRIAL_QUESTIONS: u32 = 3;

/// What is measured of a server whose pool has several endpoints.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// When the first bytes of the last answer came.
    answered_at: Instant,
    /// It has said since that something is wrong with it.
    pub(crate) is_ill: bool,
    /// It is replaced when it comes free, for its endpoint's sake: why, and when it was to be replaced before that.
    pub(crate) leaves: Option<(&'static str, Instant)>,
    /// What it has answered so far, where it is asked how an endpoint does.
    pub(crate) trial: Option<Box<Trial>>,
}

/// A trial of an endpoint that is ejected, so far.
#[derive(Debug)]
pub(crate) struct Trial {
    answers: u32,
    best_us: u64,
}

/// Errors by which a server says that it is ill, and not that the request is: its disk, and what is damaged there. A file that
/// is not there, or memory for locks, is a matter of what was asked; one that is full, starting or stopping is not ill.
pub(crate) fn is_ill(sqlstate: &[u8]) -> bool {
    matches!(sqlstate, b"53100" | b"58030" | b"XX001" | b"XX002")
}

impl Pool {
    /// Whether its requests are shared among several endpoints.
    pub(crate) fn is_balanced(&self) -> bool {
        let is_meant = self.settings.load_balance_hosts == LoadBalanceHosts::RoundRobin && !self.is_replication;
        !self.endpoints.is_single() && is_meant
    }

    fn terms(&self) -> Terms {
        let is_session = self.settings.pool_mode == PoolMode::Session;
        Terms {
            by: self.settings.load_balance,
            // Of sessions that stay where they are, each asks something else.
            slower_than: if is_session { 0 } else { self.settings.eject_slower_than },
            slow_start: Duration::from_micros(self.settings.slow_start),
            pause_max: Duration::from_micros(self.settings.server_backoff_max),
        }
    }

    /// The number by which its servers at a place name their endpoint; 0: requests are not shared.
    pub(crate) fn number_of(&self, place: &Arc<Place>) -> u8 {
        let at = if self.is_balanced() { self.endpoints.index_of(place) } else { None };
        at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0)
    }

    /// Notes that the first bytes of an answer have come.
    #[inline(never)]
    pub(crate) fn note_answer(&mut self, server: &mut Server, client: &Client, now: Instant) {
        if let Some(given) = self.endpoints.given(server.at) {
            let is_more = server.measured.answered_at > client.request_at;
            if is_more {
                // To what came with it in one go.
                given.window.spoke();
                return;
            }
            server.measured.answered_at = now;
            if client.pin.is_some() {
                // It has not chosen where to ask, and what it asks is not what others do.
                given.window.spoke();
            } else {
                given.window.answered(now.micros_since(client.request_at), given.turn.mean);
            }
            if std::mem::take(&mut server.measured.is_ill) {
                given.window.failed(client.id);
            }
        }
    }

    /// Notes that a server is among the idle.
    #[inline(never)]
    pub(crate) fn note_idle(&mut self, number: u8) {
        if let Some(given) = self.endpoints.given(number) {
            given.idle += 1;
        }
    }

    /// A server is gone that was to leave.
    #[cold]
    pub(crate) fn left_by_choice(&mut self, server: &Server) {
        if matches!(server.measured.leaves, Some((why, _)) if why == SPREAD) {
            self.shared.balance.end_spreading();
        }
    }

    /// Notes that an idle server was taken otherwise than in its turn.
    pub(crate) fn note_taken(&mut self, number: u8) {
        if let Some(given) = self.endpoints.given(number) {
            given.idle = given.idle.saturating_sub(1);
        }
    }
}

impl<I: Io> Worker<I> {
    /// The number of the endpoint whose turn it is, and that has an idle server; 0: any.
    #[inline(never)]
    pub(crate) fn endpoint_in_turn(&mut self, id: PoolId) -> u8 {
        let pool = self.pool(id);
        if !pool.is_balanced() {
            return 0;
        }
        let by = pool.settings.load_balance;
        let number = pool.endpoints.next(by).map_or(0, |index| index as u8 + 1);
        self.arm_look(id);
        number
    }

    /// Sees that the endpoints of a pool with requests are looked at in time.
    #[inline(never)]
    pub(crate) fn arm_look(&mut self, id: PoolId) {
        let now = self.now;
        let endpoints = &mut self.pool(id).endpoints;
        if !endpoints.is_look_armed {
            endpoints.is_look_armed = true;
            // All pools at once: their servers are counted in one go.
            let at = (endpoints.looked_at + LOOK_EVERY).max(now);
            self.arm_pool(id, at);
        }
    }

    /// The time has come for which a pool was armed.
    pub(crate) fn pool_alarm(&mut self, io: &mut I, id: PoolId) {
        let endpoints = &self.pools[id.0 as usize].endpoints;
        if endpoints.is_look_armed && self.now >= endpoints.looked_at + LOOK_EVERY {
            self.look_at_endpoints(io, id);
        }
        self.supply(io, id);
    }

    /// Once a second: those that nobody uses are looked at as well, as long as there is something to see.
    pub(crate) fn sweep_endpoints(&mut self, io: &mut I, id: PoolId) {
        let pool = self.pool(id);
        let is_out = |one: &PoolEndpoint| {
            let is_left = one.given.turn.is_spared && one.given.servers > 0;
            is_left || one.given.turn.standing != Standing::Serving(Default::default())
        };
        let is_any_out = || pool.endpoints.iter().any(is_out);
        if pool.is_balanced() && (pool.leased > 0 || is_any_out()) {
            self.look_at_endpoints(io, id);
        }
    }

    #[inline(never)]
    fn look_at_endpoints(&mut self, io: &mut I, id: PoolId) {
        let (me, now) = (self.id, self.now);
        let pool = self.pool(id);
        pool.endpoints.is_look_armed = false;
        pool.endpoints.looked_at = Instant(now.0 - now.0 % LOOK_EVERY.as_micros() as u64);
        if !pool.is_balanced() || pool.is_removed {
            return;
        }
        if now >= self.counted_at + LOOK_EVERY / 2 {
            self.recount();
        }
        let pool = self.pool(id);
        let seen = |endpoint: &PoolEndpoint| Seen {
            place: endpoint.place.clone(),
            is_well: endpoint.is_well(now),
            weight: endpoint.weight,
            window: endpoint.given.window,
        };
        let seen: Vec<_> = pool.endpoints.iter().map(seen).collect();
        let (turns, changes) = pool.shared.balance.look(me, &seen, &pool.terms(), now);
        pool.endpoints.take_turns(&turns, now);
        for change in changes {
            self.tell_change(io, id, &change);
        }
        self.leave_ejected(io, id);
        self.try_ejected(io, id);
        self.spread(io, id);
    }

    /// Closes the servers at endpoints that are ejected, when they come free, and by and by those at endpoints that are spared;
    /// those stay whose endpoint is not any more.
    fn leave_ejected(&mut self, io: &mut I, id: PoolId) {
        let endpoints = &self.pools[id.0 as usize].endpoints;
        let of = |at: u8| usize::from(at).checked_sub(1).map(|index| &endpoints.get(index).given);
        let is_any = |one: &PoolEndpoint| one.given.is_out() && one.given.servers > 0;
        if !endpoints.is_any_leaving && !endpoints.iter().any(is_any) {
            return;
        }
        let (mut leaving, mut is_any_leaving) = (Vec::new(), false);
        let (mut staying, mut spared) = (Vec::new(), Vec::new());
        for (key, server) in self.servers.iter().filter(|(_, server)| server.pool == id && server.apart.is_none()) {
            let is_marked = matches!(server.measured.leaves, Some((why, _)) if why != SPREAD);
            let given = of(server.at).filter(|given| given.is_out());
            match given {
                Some(given) if !is_marked && given.turn.standing.is_out() => leaving.push(key),
                Some(_) if !is_marked => spared.push((server.state != ServerState::Idle, key)),
                None if is_marked => staying.push(key),
                _ => {}
            }
            is_any_leaving |= given.is_some();
        }
        spared.sort_by_key(|(is_used, _)| *is_used);
        spared.truncate(spared.len().div_ceil(SPARED_AT_ONCE));
        staying.into_iter().for_each(|key| self.servers[key].stay());
        self.pool(id).endpoints.is_any_leaving = is_any_leaving;
        for key in leaving {
            self.leave(io, key, EJECTED);
        }
        for (_, key) in spared {
            self.leave(io, key, SPARED);
        }
    }

    /// Closes a server for its endpoint's sake: now, or when it comes free. Nobody waits for that, as for a RECONNECT, and no
    /// session ends for it.
    fn leave(&mut self, io: &mut I, key: ServerKey, why: &'static str) {
        let now = self.now;
        let Some(server) = self.servers.get_mut(key) else { return };
        let is_opening = server.state.is_opening() && server.client.is_none();
        match server.state {
            ServerState::Idle => self.retire(io, key, why),
            _ if is_opening => self.retire(io, key, why),
            // It goes elsewhere first, and is seen there.
            ServerState::Detaching | ServerState::Moving => {}
            _ if server.expires_at > now => {
                server.measured.leaves = Some((why, server.expires_at));
                server.expires_at = now;
            }
            _ => {}
        }
    }

    fn tell_change(&mut self, io: &mut I, id: PoolId, change: &Change) {
        let pool = self.pool(id);
        let mut fields = vec![("pool", pool.label().into()), ("endpoint", change.name.clone().into())];
        let said = pool.target.config.preferences.iter().find(|said| said.endpoint == change.name);
        if let Some(said) = said.filter(|said| !said.zone.is_empty()) {
            fields.push(("zone", said.zone.clone().into()));
        }
        match change.ejected {
            Some(why) => {
                fields.push(("cause", why.reason().into()));
                self.log(io, Level::Warn, "endpoint_ejected", fields);
            }
            None => self.log(io, Level::Info, "endpoint_readmitted", fields),
        }
    }

    /// Counts the servers of all pools with several endpoints by endpoint, and those that have owed an answer for long.
    pub(crate) fn recount(&mut self) {
        self.counted_at = self.now;
        let (now, clients) = (self.now, &self.clients);
        for pool in self.pools.iter_mut().filter(|pool| !pool.endpoints.is_single()) {
            pool.endpoints.forget_counts();
        }
        for server in self.servers.iter_mut().filter(|server| server.apart.is_none()) {
            let pool = &mut self.pools[server.pool.0 as usize];
            server.at = pool.number_of(&server.place);
            let Some(given) = pool.endpoints.given(server.at) else { continue };
            given.servers += 1;
            given.idle += u32::from(server.state == ServerState::Idle);
            let client = server.client.and_then(|client| clients.get(client));
            let asked_at = client.map(|client| client.request_at).filter(|at| server.measured.answered_at <= *at);
            // Where its client is still sending, nobody waits for the server.
            let is_awaited = !server.expect.is_empty() && !server.is_copying && !server.is_segment_open;
            let waits_us = asked_at.filter(|_| is_awaited).map_or(0, |at| now.micros_since(at));
            given.window.overdue += u32::from(waits_us > given.turn.overdue_us);
        }
    }

    /// An answer goes on behind what came in one go.
    #[inline]
    pub(crate) fn answer_goes_on(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get_mut(key).filter(|server| server.at != 0) else { return };
        let Some(client) = server.client.and_then(|client| self.clients.get(client)) else { return };
        self.pools[server.pool.0 as usize].note_answer(server, client, self.now);
    }

    /// A server is lost: if that was in a request, its endpoint has failed that. One that says why it ends was told to, has run
    /// out of time, or goes with all others.
    pub(crate) fn note_lost_request(&mut self, key: ServerKey) {
        let server = &self.servers[key];
        let is_its_fault = server.own_error.as_ref().is_none_or(|(sqlstate, _)| is_ill(sqlstate.as_bytes()));
        let is_asked = is_its_fault && !server.expect.is_empty();
        let client = server.client.filter(|_| is_asked).and_then(|client| self.clients.get(client));
        let given = self.pools[server.pool.0 as usize].endpoints.given(server.at);
        if let (Some(client), Some(given)) = (client, given) {
            given.window.failed(client.id);
        }
    }

    /// Begins the trials that are due of endpoints that are ejected.
    fn try_ejected(&mut self, io: &mut I, id: PoolId) {
        let (me, now) = (self.id, self.now);
        for index in 0..self.pool(id).endpoints.iter().count() {
            let pool = self.pool(id);
            let endpoint = pool.endpoints.get(index);
            let turn = &endpoint.given.turn;
            let is_due = (turn.standing.is_out() || turn.is_doubted) && endpoint.is_well(now);
            if is_due && pool.shared.balance.claim(me, &endpoint.place, now) {
                self.open_apart_at(io, id, Apart::Trial, index);
            }
        }
    }

    /// A trial is let in. True: its endpoint is ejected, and it is asked something first.
    pub(crate) fn ask_ejected(&mut self, io: &mut I, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let pool = &self.pools[server.pool.0 as usize];
        if !pool.shared.balance.is_tried(&server.place) {
            return false;
        }
        let query = pool.settings.server_check_query.clone();
        self.servers[key].measured.trial = Some(Box::new(Trial { answers: 0, best_us: u64::MAX }));
        self.send_own(io, key, Own::Check, &query);
        true
    }

    /// One that is ejected has answered its trial.
    pub(crate) fn trial_answered(&mut self, io: &mut I, key: ServerKey, is_failed: bool) {
        let now = self.now;
        let server = &mut self.servers[key];
        let Some(trial) = server.measured.trial.as_mut().filter(|_| !is_failed) else {
            return self.retire(io, key, "the trial has failed");
        };
        trial.answers += 1;
        trial.best_us = trial.best_us.min(now.micros_since(server.since));
        let (pool, best_us) = (&self.pools[server.pool.0 as usize], trial.best_us);
        if trial.answers < TRIAL_QUESTIONS {
            let query = pool.settings.server_check_query.clone();
            return self.send_own(io, key, Own::Check, &query);
        }
        pool.shared.balance.tried(&server.place, Some(best_us), &pool.terms(), now);
        let id = server.pool;
        self.retire(io, key, "the trial is over");
        self.arm_look(id);
    }

    /// A trial is gone, whatever came of it.
    pub(crate) fn trial_gone(&mut self, server: &Server) {
        if server.measured.trial.is_some() {
            let pool = &self.pools[server.pool.0 as usize];
            // Of one that has ended in order, this is not heard.
            pool.shared.balance.tried(&server.place, None, &pool.terms(), self.now);
        }
    }

    /// Sees that each endpoint has its part of the servers, one at a time: it is where a server is that a request goes.
    fn spread(&mut self, io: &mut I, id: PoolId) {
        let (now, workers) = (self.now, u32::from(self.shared.workers));
        let pool = self.pool(id);
        let is_wanted = pool.endpoints.asked >= SPREAD_AFTER;
        let short = pool.endpoints.take_short(now);
        if pool.is_shut || pool.opening > 0 || pool.endpoints.asked == 0 || pool.shared.balance.is_spreading() {
            return;
        }
        let size = pool.settings.pool_size.div_ceil(workers);
        if let Some(short) = short.filter(|_| self.may_open_more(id)) {
            if self.take_permit(io, id) {
                self.open(io, id, short);
            }
            return;
        }
        let endpoints = &self.pool(id).endpoints;
        // What some read may be at none of the others.
        let none = short.filter(|index| endpoints.get(*index).given.servers == 0);
        let Some(poor) = none.or_else(|| endpoints.poorest(now, is_wanted, size)) else { return };
        if is_wanted {
            self.pool(id).endpoints.asked = 0;
        }
        if self.may_open_more(id) {
            if self.take_permit(io, id) {
                self.open(io, id, poor);
            }
            return;
        }
        let pool = self.pool(id);
        let Some(rich) = pool.endpoints.richest(poor).map(|rich| pool.endpoints.get(rich).place.clone()) else {
            return;
        };
        let is_session = pool.settings.pool_mode == PoolMode::Session;
        let may = |server: &Server| {
            let is_idle = server.state == ServerState::Idle;
            server.pool == id && server.apart.is_none() && server.place == rich && (is_idle || !is_session)
        };
        let is_leaving = |server: &Server| server.is_close_needed || server.expires_at <= now;
        let found = self.servers.iter().filter(|(_, server)| may(server) && !is_leaving(server));
        // The longest idle one rather than one in use.
        let found = found.min_by_key(|(_, server)| (server.state != ServerState::Idle, server.since));
        let Some((key, is_idle)) = found.map(|(key, server)| (key, server.state == ServerState::Idle)) else { return };
        let pool = self.pool(id);
        if pool.endpoints.may_close(now) && (is_idle || pool.shared.balance.begin_spreading()) {
            self.leave(io, key, SPREAD);
        }
    }

    /// Whether a pool may have one more server, as far as its own limits and those over several pools go.
    fn may_open_more(&self, id: PoolId) -> bool {
        let pool = &self.pools[id.0 as usize];
        let is_limit_reached = |(scope, limit): &(_, _)| pool.shared.limited(scope).is_reached(*limit);
        let is_full = pool.shared.permits.is_full(pool.settings.pool_size);
        let is_limit_reached = pool.is_limited && self.scopes(id).iter().any(is_limit_reached);
        !is_full && !is_limit_reached
    }
}

impl Server {
    /// Its endpoint is as good as any again: it is replaced when it was to be.
    fn stay(&mut self) {
        if let Some((_, expires_at)) = self.measured.leaves.take() {
            self.expires_at = expires_at;
        }
    }

    /// Why it is closed that is too old.
    pub(crate) fn why_expired(&self) -> &'static str {
        self.measured.leaves.map_or("lifetime", |(why, _)| why)
    }
}
