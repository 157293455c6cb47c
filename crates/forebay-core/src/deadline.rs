//! Time limits. Each client, server and pool has at most one alarm that is due early enough; when it fires, what
//! is really due is worked out again, so that a transaction sets no alarm of its own.

use std::cmp::Ordering;
use std::time::Duration;

use forebay_spec::errors;
use forebay_sql::traces::Traces;

use crate::cancel::Cancel;
use crate::checkout::seconds;
use crate::io::{Close, Io};
use crate::listen::{OWN_MAX, TAKEOVER_MAX};
use crate::peers::Passed;
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey, ClientState, Extent};
use crate::session::server::{Server, ServerKey, ServerState};
use crate::slab::Key;
use crate::time::Instant;
use crate::worker::Worker;

/// No alarm.
pub(crate) const NEVER: Instant = Instant(u64::MAX);

/// A cancelled or abandoned server must be clean by then.
const CLEANING_MAX: Duration = Duration::from_secs(5);
/// A cancel connection must have ended by then.
pub(crate) const CANCEL_MAX: Duration = Duration::from_secs(3);
/// A query of our own must be answered by then.
const OWN_QUERY_MAX: Duration = Duration::from_secs(5);
/// The catalogue must be read by then.
const CATALOGUE_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at idle servers and old answers.
const SWEEP: Duration = Duration::from_secs(1);

/// A sweep that is so late was held up, as all else was: the process was stopped, or the machine had no time for it.
const STANDSTILL: Duration = Duration::from_secs(1);
/// Time for what has come meanwhile to be heard, before anybody is blamed for silence.
const HEAR_FIRST: Duration = Duration::from_millis(200);

/// Something to look at, at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alarm {
    at: Instant,
    of: AlarmOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AlarmOf {
    Client(ClientKey),
    Server(ServerKey),
    Pool(PoolId),
    Moves,
    Orders,
    /// Its limit until it is sent, or from then on.
    Cancel(Key<Cancel>, bool),
    /// Its limit until it is sent, or from then on.
    Passed(Key<Passed>, bool),
}

/// The earliest alarm is the greatest: the heap gives that first.
impl Ord for Alarm {
    fn cmp(&self, other: &Alarm) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Alarm) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Which of a client's limits is due next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Login,
    Greeting,
    Wait,
    WaitNotice,
    Query,
    IdleInTransaction,
    Transaction,
    Idle,
    PinIdle,
}

impl<I: Io> Worker<I> {
    /// Sees that a client is looked at when its next limit is due.
    #[inline]
    pub(crate) fn arm_client(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get(key) else { return };
        let settings = client.pool.map(|id| &self.pools[id.0 as usize].settings);
        let is_unlimited = match (client.state, settings) {
            (ClientState::Idle, Some(s)) => s.client_idle_timeout == 0,
            (ClientState::Active, Some(s)) => {
                let is_pin_limited = client.pin.is_some() && (s.pin_idle_limit != 0 || s.client_idle_timeout != 0);
                let is_limited = s.transaction_timeout != 0 || s.idle_transaction_timeout != 0 || s.query_timeout != 0;
                !is_limited && !is_pin_limited
            }
            _ => false,
        };
        if !is_unlimited {
            self.arm_limited(key);
        }
    }

    #[inline(never)]
    fn arm_limited(&mut self, key: ClientKey) {
        let (at, _) = self.client_limit(&self.clients[key]);
        let client = &mut self.clients[key];
        if at < client.armed {
            client.armed = at;
            self.alarms.push(Alarm { at, of: AlarmOf::Client(key) });
        }
    }

    /// Sees that a client is looked at at a time, whatever limit is due then.
    pub(crate) fn arm_client_at(&mut self, key: ClientKey, at: Instant) {
        self.clients[key].armed = at;
        self.alarms.push(Alarm { at, of: AlarmOf::Client(key) });
    }

    /// Sees that a server is looked at when its next limit is due.
    pub(crate) fn arm_server(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get(key) else { return };
        let at = self.server_limit(server);
        if at < NEVER {
            self.alarms.push(Alarm { at, of: AlarmOf::Server(key) });
        }
    }

    /// Sees that a pool is looked at when its next try is allowed.
    pub(crate) fn arm_pool(&mut self, id: PoolId, at: Instant) {
        self.alarms.push(Alarm { at, of: AlarmOf::Pool(id) });
    }

    /// No pool has a number from this one on any more.
    pub(crate) fn forget_alarms_of_pools(&mut self, from: usize) {
        self.alarms.retain(|alarm| !matches!(alarm.of, AlarmOf::Pool(id) if id.0 as usize >= from));
    }

    /// Sees that what may move is looked for.
    pub(crate) fn arm_round(&mut self, at: Instant) {
        if self.moving.next_round_at.is_none_or(|armed| at < armed) {
            self.moving.next_round_at = Some(at);
            self.alarms.push(Alarm { at, of: AlarmOf::Moves });
        }
    }

    /// Sees that orders which are not answered yet are looked at again.
    pub(crate) fn arm_orders(&mut self, at: Instant) {
        self.alarms.push(Alarm { at, of: AlarmOf::Orders });
    }

    /// Sees that a cancel does not wait for ever until it is sent.
    pub(crate) fn arm_cancel(&mut self, key: Key<Cancel>) {
        if let Some(patience) = self.cancel_patience() {
            self.alarms.push(Alarm { at: self.now + patience, of: AlarmOf::Cancel(key, false) });
        }
    }

    /// Sees that one that was sent does not wait for ever until its connection ends.
    pub(crate) fn arm_sent_cancel(&mut self, key: Key<Cancel>) {
        self.alarms.push(Alarm { at: self.now + CANCEL_MAX, of: AlarmOf::Cancel(key, true) });
    }

    /// Sees that one for a peer is looked at `after` so long, in the state that it is in.
    pub(crate) fn arm_passed(&mut self, key: Key<Passed>, after: Option<Duration>) {
        let is_sent = self.is_passed(key);
        if let Some(after) = after {
            self.alarms.push(Alarm { at: self.now + after, of: AlarmOf::Passed(key, is_sent) });
        }
    }

    pub(crate) fn set_alarm(&mut self, io: &mut I) {
        let first = self.alarms.peek().map_or(NEVER, |alarm| alarm.at);
        let is_more_to_do = !self.deferred.is_empty();
        if self.is_suspended && !is_more_to_do {
            return io.wake_at(self.now + crate::suspend::LOOK);
        }
        io.wake_at(if is_more_to_do { self.now } else { first.min(self.next_sweep).max(self.hears_until) });
    }

    /// After a standstill what has come meanwhile is heard first: whoever answered in time is not to blame.
    fn is_catching_up(&mut self) -> bool {
        if self.now.since(self.next_sweep) <= STANDSTILL {
            return false;
        }
        if self.hears_until < self.next_sweep {
            self.hears_until = self.now + HEAR_FIRST;
        }
        self.now < self.hears_until
    }

    pub(crate) fn is_alarm_due(&self) -> bool {
        self.alarms.peek().is_some_and(|alarm| alarm.at <= self.now)
    }

    pub(crate) fn fire_alarms(&mut self, io: &mut I) {
        while let Some(alarm) = self.alarms.peek() {
            if alarm.at > self.now || self.is_catching_up() {
                return;
            }
            match self.alarms.pop().map(|alarm| alarm.of) {
                Some(AlarmOf::Client(key)) => self.client_alarm(io, key),
                Some(AlarmOf::Server(key)) => self.server_alarm(io, key),
                Some(AlarmOf::Pool(id)) => self.pool_alarm(io, id),
                Some(AlarmOf::Moves) => self.move_round(io),
                Some(AlarmOf::Orders) => self.command_progress(io),
                Some(AlarmOf::Cancel(key, is_sent)) => self.cancel_is_late(io, key, is_sent),
                Some(AlarmOf::Passed(key, is_sent)) => self.passed_is_late(io, key, is_sent),
                None => return,
            }
        }
    }

    fn client_limit(&self, client: &Client) -> (Instant, Limit) {
        let after = |from: Instant, us: u64| if us == 0 { NEVER } else { Instant(from.0.saturating_add(us)) };
        let settings = client.pool.map(|id| &self.pools[id.0 as usize].settings);
        let limits = &self.tables.config.limits;
        let Some(settings) = settings else { return (self.limit_without_pool(client), Limit::Login) };
        match client.state {
            ClientState::Greeting => {
                let set = [limits.login_timeout, settings.query_wait_timeout].into_iter().filter(|limit| *limit > 0);
                (self.wait_limit(client, set.min().unwrap_or(0)), Limit::Greeting)
            }
            ClientState::Waiting => {
                let wait = (self.wait_limit(client, settings.query_wait_timeout), Limit::Wait);
                let is_told = client.rare.as_ref().and_then(|rare| rare.told_of_wait_since) == Some(client.since);
                let notice = if is_told { NEVER } else { after(client.since, settings.query_wait_notify) };
                if notice < wait.0 { (notice, Limit::WaitNotice) } else { wait }
            }
            ClientState::Idle => (after(client.since, settings.client_idle_timeout), Limit::Idle),
            ClientState::Active => {
                let server = client.server.and_then(|s| self.servers.get(s));
                let transaction = (after(client.transaction_at, settings.transaction_timeout), Limit::Transaction);
                let other = match server {
                    Some(server) if server.expect.is_empty() && server.status != IDLE => {
                        (after(client.since, settings.idle_transaction_timeout), Limit::IdleInTransaction)
                    }
                    Some(server) if !server.expect.is_empty() => {
                        (after(client.request_at, settings.query_timeout), Limit::Query)
                    }
                    Some(_) if client.pin.is_some() => {
                        let pinned = after(client.since, settings.pin_idle_limit);
                        let idle = after(client.since, settings.client_idle_timeout);
                        if pinned <= idle { (pinned, Limit::PinIdle) } else { (idle, Limit::Idle) }
                    }
                    _ => (NEVER, Limit::Idle),
                };
                let is_in_transaction = server.is_some_and(|s| s.status != IDLE || !s.expect.is_empty());
                if is_in_transaction && transaction.0 <= other.0 { transaction } else { other }
            }
            _ => (NEVER, Limit::Idle),
        }
    }

    fn limit_without_pool(&self, client: &Client) -> Instant {
        match client.state {
            ClientState::Startup | ClientState::Tls | ClientState::Secret | ClientState::Login => {
                let limit = self.tables.config.limits.login_timeout;
                if limit == 0 { NEVER } else { Instant(client.connected_at.0.saturating_add(limit)) }
            }
            _ => NEVER,
        }
    }

    /// While its endpoint can't be reached, a client waits no longer than `server_connect_timeout`.
    fn wait_limit(&self, client: &Client, us: u64) -> Instant {
        let limit = if us == 0 { NEVER } else { Instant(client.since.0.saturating_add(us)) };
        let Some(pool) = client.serving().map(|id| &self.pools[id.0 as usize]) else { return limit };
        if self.is_hold_refused(pool) {
            return client.since;
        }
        let patience = Duration::from_micros(pool.settings.server_connect_timeout);
        // Where another one is about to take its place, that has no limit.
        if pool.is_held || patience.is_zero() {
            return limit;
        }
        let sickness = if pool.servers == pool.opening { pool.endpoints.sickness() } else { None };
        // It may fall sick while the client waits: look again.
        let from = sickness.map_or(self.now, |(_, sick)| sick.since);
        limit.min(client.since.max(from) + patience)
    }

    fn client_alarm(&mut self, io: &mut I, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.armed = NEVER;
        let (at, limit) = self.client_limit(&self.clients[key]);
        if at > self.now {
            return self.arm_client(key);
        }
        let client = &self.clients[key];
        let settings = client.pool.map(|id| self.pools[id.0 as usize].settings.clone());
        let Some(settings) = settings else {
            let limit = seconds(Duration::from_micros(self.tables.config.limits.login_timeout));
            return self.refuse_and_close(io, key, errors::login_timeout(limit));
        };
        let text = |us: u64| seconds(Duration::from_micros(us));
        match limit {
            Limit::Login => {}
            Limit::Greeting => {
                if self.have_others_told(io, key) {
                    let report = self.wait_report(key);
                    self.refuse_and_close(io, key, report);
                }
            }
            Limit::Wait => self.wait_is_over(io, key),
            Limit::WaitNotice => self.tell_of_wait(io, key),
            Limit::Query => self.query_is_late(io, key, &text(settings.query_timeout)),
            Limit::IdleInTransaction => {
                let report = errors::idle_transaction_timeout(text(settings.idle_transaction_timeout));
                self.refuse_and_close(io, key, report);
            }
            Limit::Transaction => {
                self.refuse_and_close(io, key, errors::transaction_timeout(text(settings.transaction_timeout)));
            }
            Limit::PinIdle => {
                let reasons = client.pin.as_ref().map_or(Traces::NONE, |pin| pin.reasons);
                let (reasons, _) = crate::tracking::pin::words(reasons);
                self.refuse_and_close(io, key, errors::pin_idle_limit(text(settings.pin_idle_limit), reasons));
            }
            Limit::Idle => {
                self.refuse_and_close(io, key, errors::client_idle_timeout(text(settings.client_idle_timeout)));
            }
        }
    }

    /// Tells a client once of each wait that lasts.
    fn tell_of_wait(&mut self, io: &mut I, key: ClientKey) {
        let client = &mut self.clients[key];
        client.rare.get_or_insert_default().told_of_wait_since = Some(client.since);
        let (database, waited) = (client.database.clone(), seconds(self.now.since(client.since)));
        let mut out = Vec::new();
        crate::leave::encode_notice(&mut out, &self.worded(errors::waiting(database, waited)));
        if !self.clients[key].is_gone {
            self.send_to_client(io, key, &out);
        }
        self.arm_client(key);
    }

    fn wait_is_over(&mut self, io: &mut I, key: ClientKey) {
        if self.clients[key].server.is_some() {
            // Its parameters are being set; that has a limit of its own.
            return;
        }
        if !self.have_others_told(io, key) {
            return;
        }
        let report = self.wait_report(key);
        let client = &self.clients[key];
        let waited = self.now.micros_since(client.since) / 1000;
        let fields = vec![
            ("client", client.id.into()),
            ("user", client.user.clone().into()),
            ("database", client.database.clone().into()),
            ("waited_ms", waited.into()),
        ];
        self.log_code(io, crate::event::Level::Warn, "checkout_timeout", Some(report.code), fields);
        let id = client.serving();
        self.refuse_waiting(key, report, Extent::NextRequest);
        if let Some(id) = id {
            self.publish(id);
        }
    }

    fn query_is_late(&mut self, io: &mut I, key: ClientKey, limit: &str) {
        let Some(server_key) = self.clients[key].server else { return };
        let report = self.worded(errors::query_timeout(limit));
        let server = &mut self.servers[server_key];
        if server.late.is_some() {
            // It was cancelled and did not stop: the client is not kept waiting any longer.
            return self.refuse_and_close(io, key, report);
        }
        server.late = Some(Box::new(report));
        self.cancel_server(io, server_key);
        self.arm_client_at(key, self.now + CLEANING_MAX);
    }

    fn server_limit(&self, server: &Server) -> Instant {
        match server.state {
            ServerState::Connecting | ServerState::TlsAsked | ServerState::Tls | ServerState::Login => {
                self.opening_deadline(server)
            }
            ServerState::Busy if server.reading.is_some() => server.since + CATALOGUE_MAX,
            ServerState::Busy => server.since + OWN_QUERY_MAX,
            ServerState::Leased if server.hand_over.as_ref().is_some_and(|hand_over| hand_over.is_limited()) => {
                server.since + OWN_QUERY_MAX
            }
            ServerState::Cleaning if server.is_finishing => NEVER,
            ServerState::Cleaning => server.since + CLEANING_MAX,
            ServerState::CancelWait => server.since.max(server.cancel_at) + CANCEL_MAX,
            ServerState::Leased if server.cancels > 0 && server.expect.is_empty() => server.cancel_at + CANCEL_MAX,
            ServerState::Listening if server.is_listener() => NEVER,
            ServerState::Listening if server.listen.awaits.is_some() => server.since + OWN_MAX,
            ServerState::Listening => server.since + TAKEOVER_MAX,
            ServerState::Idle | ServerState::Leased | ServerState::Detaching | ServerState::Moving => NEVER,
        }
    }

    fn server_alarm(&mut self, io: &mut I, key: ServerKey) {
        let Some(server) = self.servers.get(key) else { return };
        let at = self.server_limit(server);
        if at == NEVER {
            return;
        }
        if at > self.now {
            return self.alarms.push(Alarm { at, of: AlarmOf::Server(key) });
        }
        let (conn, state) = (server.conn, server.state);
        match state {
            ServerState::Listening => self.listening_is_late(io, key),
            ServerState::Busy | ServerState::Cleaning | ServerState::CancelWait | ServerState::Leased => {
                self.close_conn(io, conn, Close::Now);
                self.server_lost(io, key, "it did not answer in time");
            }
            _ => self.opening_is_late(io, key),
        }
    }

    /// Once a second: idle servers that are not needed, and answers that are too old.
    pub(crate) fn sweep(&mut self, io: &mut I) {
        if self.is_catching_up() {
            return;
        }
        self.next_sweep = self.now + SWEEP;
        let now = self.now;
        self.secrets.retain(|_, (_, until)| *until > now);
        self.make_forced_pools();
        for index in 0..self.pools.len() {
            let id = PoolId(index as u32);
            if self.pool(id).is_vacant {
                continue;
            }
            self.note_limits(id);
            self.sweep_pool(io, id);
            let pool = &self.pools[id.0 as usize];
            if pool.leased > 0 && pool.is_catalogue_due(None, now) {
                // Where clients keep all servers, none comes free for long.
                self.read_catalogue(io, id, None);
            }
            self.measure_pool(id);
            self.supply(io, id);
            self.try_sick_endpoints(io, id);
            self.sweep_endpoints(io, id);
        }
        self.sweep_listeners(io);
        self.forget_pools(io);
        self.look_for_silent(io);
        self.sweep_arrivals(io);
        self.measure_reach();
        self.command_progress(io);
    }

    fn sweep_pool(&mut self, io: &mut I, id: PoolId) {
        let pool = self.pool(id);
        let idle_max = Duration::from_micros(pool.settings.server_idle_timeout);
        let (min, used) = (pool.settings.min_pool_size, pool.shared.permits.used());
        let mut spare = used.saturating_sub(min);
        let mut leaving = Vec::new();
        for key in self.pools[id.0 as usize].idle.iter() {
            let server = &self.servers[*key];
            let is_old = server.expires_at <= self.now || server.is_close_needed;
            let is_idle = !idle_max.is_zero() && self.now.since(server.since) >= idle_max && spare > 0;
            if is_old || is_idle {
                leaving.push((*key, if is_old { "lifetime" } else { "idle" }));
                spare = spare.saturating_sub(1);
            }
        }
        for (key, reason) in leaving {
            self.retire(io, key, reason);
        }
        self.shed_over_limit(io, id);
    }

    /// Closes idle servers beyond what may be open.
    pub(crate) fn shed_over_limit(&mut self, io: &mut I, id: PoolId) {
        let now = self.now;
        for key in self.pool(id).idle.iter().copied().collect::<Vec<_>>() {
            if !self.pool(id).is_over_limit(now) || planted(Bug::LimitPerWorker) {
                break;
            }
            self.retire(io, key, "over the limit");
        }
    }

    /// Gauges for the metrics listener.
    fn measure_pool(&mut self, id: PoolId) {
        let _ = self.oldest_waiter(id);
        let pool = self.pool(id);
        pool.stats.stats.waiting.set(pool.waiters.len() as u64);
        pool.measure_servers();
    }
}
