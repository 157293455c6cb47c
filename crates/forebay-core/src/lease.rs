//! What passes while a client has a server: its parameters are set, its requests end, it gives the server back.

use std::rc::Rc;

use forebay_pgwire::write;
use forebay_spec::errors;
use forebay_sql::traces::Traces;

use crate::config::{self, PoolMode};
use crate::event::{Field, Level};
use crate::io::Io;
use crate::listen::OnServer;
use crate::parameters::transition;
use crate::planted::{Bug, planted};
use crate::pool::PoolId;
use crate::reported::report_parameters;
use crate::session::client::{ClientKey, ClientState};
use crate::session::expect::{Expect, Own};
use crate::session::server::{ServerKey, ServerState};
use crate::session::{Body, IDLE};
use crate::tracking::reset::is_of_server;
use crate::tracking::{EVERYTHING, Left};
use crate::worker::Worker;

impl<I: Io> Worker<I> {
    /// Gives a server to a client. False: its parameters are being set first, and the client waits to be greeted.
    pub(crate) fn lease(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey) -> bool {
        if self.asks_for_outcome(io, key, client_key) {
            return false;
        }
        let now = self.now;
        let client = &mut self.clients[client_key];
        let server = &mut self.servers[key];
        let is_free = server.is_clean() && server.client.is_none();
        assert!(is_free || planted(Bug::ServerHandedOutTwice), "a server is handed out clean, to one client");
        let waited = if client.state == ClientState::Waiting { now.micros_since(client.since) } else { 0 };
        server.client = Some(client_key);
        server.is_leased = true;
        server.is_used = false;
        server.is_finishing = false;
        server.is_doomed = false;
        server.own_error = None;
        server.endings.anchor = None;
        server.forget_trial();
        server.listen = OnServer::default();
        server.enter(ServerState::Leased, now);
        client.server = Some(key);
        client.transaction_at = now;
        let pool = &mut self.pools[server.pool.0 as usize];
        pool.leased += 1;
        server.left.is_on = client.usage.is_tracked();
        if !server.left.is_on {
            // What it notifies is not looked for.
            pool.knowledge.note_notifier(server.remote_pid, client.virtual_pid);
        }
        if server.usage.replace(client.usage).is_some_and(|usage| !usage.is_like(client.usage)) {
            // What a client of the other way has prepared, or set unseen, must not meet this one.
            server.left.dirt |= EVERYTHING;
        }
        if pool.settings.level == config::Level::Strict {
            server.left.keep_custom(&client.wanted);
        }
        let stats = &pool.stats.stats;
        stats.assignments.add(1);
        stats.wait.record(waited);
        server.is_report_due = false;
        // Of sequences the client knows no more where it has discarded them, or advanced one, on another server since.
        let is_outdated = server.left.dirt.has(Traces::SEQUENCE) && client.sequences_on != Some(server.id);
        let is_of_another = (server.left.by != client.id || is_outdated) && !planted(Bug::LeakedParameter);
        let is_alike = server.is_set_known && Rc::ptr_eq(&client.wanted, &server.set);
        let resets = is_of_another && server.left.is_reset_needed();
        let is_greeted = client.state == ClientState::Greeting;
        if is_alike && !resets && !is_greeted && Rc::ptr_eq(&client.seen, &server.reported) {
            // Nothing stands between the two, and there is nothing to tell: as with most.
            client.enter(ClientState::Active, now);
            return true;
        }
        let is_left = is_alike || planted(Bug::LeakedParameter);
        if is_greeted && (resets || !is_left) && self.prepare(io, key, client_key, resets) {
            return false;
        }
        if !is_greeted && (resets || !is_left) && self.hand_over(io, key, client_key, resets) {
            return true;
        }
        self.prepared(io, key, client_key);
        true
    }

    /// The server of a client is lost that had done nothing for it: it waits for the next one.
    #[cold]
    pub(crate) fn wait_anew(&mut self, io: &mut I, id: PoolId, client_key: ClientKey) {
        let client = &mut self.clients[client_key];
        if self.pools[id.0 as usize].is_removed {
            let report = errors::database_removed(client.database.clone());
            return self.refuse_and_close(io, client_key, report);
        }
        let is_greeting = client.state == ClientState::Greeting;
        client.enter(if is_greeting { ClientState::Greeting } else { ClientState::Waiting }, self.now);
        self.enqueue(io, id, client_key);
    }

    /// Makes a server ready for a client that has nothing to send yet. False: there is nothing to do.
    fn prepare(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey, resets: bool) -> bool {
        if resets {
            self.reset(io, key);
        }
        let (server, client) = (&self.servers[key], &self.clients[client_key]);
        let is_all_reset = resets && server.left.dirt.has_any(Traces::ANY_SETTING | Traces::AUTHORIZATION);
        let empty = self.images.empty();
        let from = if is_all_reset { &empty } else { &server.set };
        let is_known = is_all_reset || server.is_set_known;
        let image = transition(from, &client.wanted, is_known, server.encoding());
        if !image.is_empty() {
            if !resets {
                // Until it is answered, either image may be in force.
                let (server, client) = (&mut self.servers[key], &self.clients[client_key]);
                server.set_before = Some((server.set.clone(), server.is_set_known));
                server.set = self.images.union(&server.set, &client.wanted);
                server.is_set_known = false;
            }
            self.send_own(io, key, Own::Prepare, &image.join(";"));
        }
        resets || !image.is_empty()
    }

    /// The server has the client's parameters: the client may use it.
    pub(crate) fn prepared(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey) {
        let client = &mut self.clients[client_key];
        let server = &mut self.servers[key];
        if !Rc::ptr_eq(&server.set, &client.wanted) {
            server.set = client.wanted.clone();
        }
        server.is_set_known = true;
        if client.state == ClientState::Greeting {
            self.greet_with(io, key, client_key);
            return;
        }
        client.enter(ClientState::Active, self.now);
        if !Rc::ptr_eq(&client.seen, &server.reported) {
            let mut out = Vec::new();
            report_parameters(client, server, &mut out);
            if !out.is_empty() {
                self.send_to_client(io, client_key, &out);
            }
        }
    }

    /// A client that logs in needed a server to learn what its parameters make of the greeting.
    fn greet_with(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey) {
        let wanted = self.clients[client_key].wanted.clone();
        let nameless = self.without_name(&wanted);
        let server = &self.servers[key];
        let (id, reported) = (server.pool, server.reported.clone());
        let default_name = server.defaults.get("application_name").cloned();
        let reported = self.images.with(&reported, "application_name", default_name.as_deref());
        // Nothing was done with it that server_reset_query would be for.
        let was_leased = std::mem::take(&mut self.servers[key].is_leased);
        self.pool(id).leased -= u32::from(was_leased);
        self.keep_greeting(io, id, nameless, reported);
        self.part(key);
        self.freed.push(key);
        self.greet_or_wait(io, client_key, id);
    }

    /// Sends a query of our own; its answer goes to `own_done`.
    #[inline(never)]
    pub(crate) fn send_own(&mut self, io: &mut I, key: ServerKey, own: Own, sql: &str) {
        let now = self.now;
        let server = &mut self.servers[key];
        server.own_error = None;
        server.expect.push_back(Expect::Own(own));
        server.statements.forget_unnamed();
        if !matches!(server.state, ServerState::Cleaning) {
            server.enter(ServerState::Busy, now);
        }
        let mut out = Vec::with_capacity(sql.len() + 6);
        write::query(&mut out, sql);
        self.send_to_server(io, key, &out);
        self.arm_server(key);
    }

    /// A query of our own is answered.
    #[inline(never)]
    pub(crate) fn own_done(&mut self, io: &mut I, key: ServerKey, own: Own) {
        let server = &mut self.servers[key];
        let error = server.own_error.take();
        match own {
            Own::Check if server.measured.trial.is_some() => return self.trial_answered(io, key, error.is_some()),
            Own::Listens => return self.listens_restored(io, key, error),
            Own::Channels => return self.channels_known(io, key, error),
            Own::Unlisten => return self.unlistened(io, key, error),
            Own::Stay => return self.stayed(io, key),
            Own::Hear => return self.batch_heard(io, key, error),
            Own::Sequence => return self.sequence_known(key, error),
            Own::Probe => return self.probe_done(io, key, error),
            Own::Anchor => return self.anchored(key, error),
            Own::Outcome => return self.outcome_told(io, key, error),
            Own::Clean => return self.reset_done(io, key, error),
            Own::Stamp => return self.stamp_read(io, key, error),
            Own::Catalogue => return self.catalogue_read(io, key, error),
            Own::Skipped => return self.hand_over_undone(io, key),
            Own::Ensure => {
                // Of a Parse, its own answer tells.
                let statement = server.ensuring.due.pop_front().filter(|statement| statement.query().is_some());
                match (statement, error) {
                    (Some(statement), None) => server.statements.is_there(&statement),
                    (Some(statement), Some(_)) => server.statements.is_gone(&statement),
                    (None, _) => {}
                }
                return;
            }
            // The statement between the two was not prepared, and that is told.
            Own::Settings => return server.settings_done(),
            _ => {}
        }
        if let (Some((set, is_known)), Some(_)) = (server.set_before.take(), &error) {
            // The query is one transaction: what it set is undone.
            (server.set, server.is_set_known) = (set, is_known);
        }
        match (own, error) {
            (Own::Connect, Some((sqlstate, message))) => self.connect_query_failed(io, key, &sqlstate, &message),
            (Own::Prepare, None) => self.prepare_done(io, key),
            (Own::Prepare, Some((sqlstate, message))) => self.prepare_failed(io, key, &sqlstate, &message),
            (Own::Reset, None) => {
                server.is_set_known = false;
                let query = self.pools[server.pool.0 as usize].settings.server_reset_query.trim_end_matches(';').trim();
                if server.left.is_on && !query.eq_ignore_ascii_case("DISCARD ALL") {
                    // Whatever it may have done, all of it is undone before another client comes.
                    server.left.dirt |= EVERYTHING;
                    return;
                }
                server.statements.clear();
                server.endings.unshared.clear();
                // What DISCARD ALL leaves.
                server.left = Left { dirt: Traces::SEED, ..Left::default() };
            }
            (_, Some((sqlstate, message))) => {
                self.retire(io, key, &format!("{own:?} failed: {sqlstate} {message}"));
            }
            // A rollback or check: nothing is to be noted.
            (_, None) => {}
        }
    }

    /// The parameters of its next client are set on a server.
    fn prepare_done(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        server.enter(ServerState::Leased, self.now);
        if let Some(client_key) = server.client {
            self.prepared(io, key, client_key);
            self.ready.push_back(client_key);
        } else {
            // A client that left meanwhile leaves values that nobody keeps count of.
            server.left.dirt |= Traces::ANY_SETTING;
            self.note_level(key);
        }
    }

    /// The server refused a value that the client wants: the client is told, the server is as it was.
    fn prepare_failed(&mut self, io: &mut I, key: ServerKey, sqlstate: &str, message: &str) {
        if is_of_server(sqlstate) {
            return self.replace_server(io, key, &format!("parameters could not be set: {sqlstate} {message}"));
        }
        let endpoint = self.endpoint_name(key);
        self.servers[key].enter(ServerState::Leased, self.now);
        let Some(client_key) = self.part(key) else { return };
        let report = errors::server_parameter_refused(endpoint, format!("{sqlstate} {message}"));
        self.refuse_and_close(io, client_key, report);
    }

    /// After a server's bytes have been dealt with: is it free?
    pub(crate) fn after_replies(&mut self, io: &mut I, key: ServerKey) {
        let Some(server) = self.servers.get(key).filter(|server| server.apart.is_none()) else { return };
        if let Some(client_key) = server.client {
            let client = &mut self.clients[client_key];
            if std::mem::take(&mut client.is_held) {
                // What its next message waited for may have come.
                self.ready.push_back(client_key);
            }
            return;
        }
        if !server.is_clean() {
            self.cleaning_goes_on(io, key);
            return;
        }
        if matches!(server.state, ServerState::Leased | ServerState::Cleaning | ServerState::Busy) {
            self.checkin(io, key);
        }
    }

    /// A request of a client is answered: its server leaves it when the transaction is over and nothing is owed.
    pub(crate) fn request_ended(&mut self, io: &mut I, key: ServerKey) {
        let now = self.now;
        let server = &mut self.servers[key];
        if server.state == ServerState::Busy {
            server.enter(ServerState::Leased, now);
        }
        let Some(client_key) = server.client else { return };
        let client = &mut self.clients[client_key];
        if server.at != 0 {
            self.pools[server.pool.0 as usize].note_answer(server, client, now);
        }
        let pool = &self.pools[server.pool.0 as usize];
        let stats = &pool.stats.stats;
        let took = now.micros_since(client.request_at);
        stats.requests.add(1);
        stats.request.record(took);
        let slow = self.tables.config.log.min_duration;
        let is_slow = slow > 0 && took >= slow;
        client.since = now;
        if server.status == IDLE {
            stats.transactions.add(1);
            stats.transaction.record(now.micros_since(client.transaction_at));
            client.transaction_at = now;
        }
        let mode = client.usage.mode;
        let (is_idle, owes_nothing) = (server.status == IDLE, server.expect.is_empty());
        let is_over = owes_nothing && (is_idle || planted(Bug::CheckinInTransaction)) && !server.is_skipping;
        let is_half_sent = client.body_left > 0 && client.body == Body::Forward;
        let has_left = is_idle && server.left.has_fresh();
        if is_slow {
            let fields =
                vec![("client", Field::Number(client.id)), ("pool", pool.label().into()), ("took_us", took.into())];
            self.log(io, Level::Info, "slow_request", fields);
        }
        if mode == PoolMode::Statement && !is_idle && owes_nothing {
            let label = self.pools[self.servers[key].pool.0 as usize].label();
            self.refuse_and_close(io, client_key, errors::transaction_in_statement_mode(label));
            return;
        }
        if has_left {
            self.note_unprobed(io, key);
        }
        if is_over && mode == PoolMode::Session && self.clients[client_key].has_sent_all() {
            if self.is_draining {
                return self.refuse_and_close(io, client_key, errors::draining());
            }
            if self.is_closed_fast(key) {
                return self.close_fast(io, client_key);
            }
        }
        if !is_over || is_half_sent || mode == PoolMode::Session {
            return self.arm_client(client_key);
        }
        self.settle(io, key);
    }

    /// A transaction has ended, and nothing is owed: the server is looked at, if need be, and then leaves its client.
    pub(crate) fn settle_transaction(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        let client = server.client.and_then(|c| self.clients.get(c));
        if client.and_then(|c| c.pin.as_ref()).is_some_and(|pin| pin.reasons.has(Traces::OPAQUE)) {
            // A look has failed: the next one asks for everything, and ends the pin.
            server.left.fresh |= Traces::OPAQUE;
        }
        if !server.left.is_probe_needed() {
            return self.transaction_over(io, key);
        }
        let client_key = server.client;
        let is_done = client_key.and_then(|c| self.clients.get(c)).is_some_and(|c| c.carry.is_empty() && !c.is_paused);
        if let Some(client_key) = client_key.filter(|_| self.is_draining && is_done) {
            // What it sends while the server is looked at would begin another transaction.
            return self.refuse_and_close(io, client_key, errors::draining());
        }
        let server = &self.servers[key];
        if server.cancels == 0 || planted(Bug::CancelToWrongClient) {
            return self.probe(io, key);
        }
        // The cancel would hit the probe: it goes on when the cancel has ended, and not for ever without that.
        if let Some(client) = server.client.and_then(|c| self.clients.get_mut(c)) {
            client.is_held = true;
        }
        self.arm_server(key);
    }

    /// Nothing is owed, and what the transaction left is known: the server leaves its client, unless a pin holds it.
    pub(crate) fn transaction_over(&mut self, io: &mut I, key: ServerKey) {
        let server = &self.servers[key];
        let Some(client_key) = server.client else { return };
        let client = &mut self.clients[client_key];
        client.is_held = false;
        let has_more = !client.carry.is_empty() || client.is_paused;
        if client.pin.is_some() && !planted(Bug::PinIgnored) {
            let pool = &self.pools[server.pool.0 as usize];
            if pool.is_removed {
                // The pin lasts no longer than its server may.
                let report = errors::database_removed(pool.database.clone());
                return self.refuse_and_close(io, client_key, report);
            }
            if has_more {
                self.ready.push_back(client_key);
            } else if self.is_draining {
                return self.refuse_and_close(io, client_key, errors::draining());
            }
            return self.arm_client(client_key);
        }
        self.part(key);
        if has_more {
            self.ready.push_back(client_key);
        } else if self.is_draining {
            self.refuse_and_close(io, client_key, errors::draining());
        }
    }

    /// Takes a server from its client, who is idle from then on. The server's state is left to the caller.
    pub(crate) fn part(&mut self, key: ServerKey) -> Option<ClientKey> {
        let now = self.now;
        let server = &mut self.servers[key];
        let client_key = server.client.take()?;
        let client = self.clients.get_mut(client_key)?;
        server.note_parting(client, self.pools[server.pool.0 as usize].settings.level);
        client.server = None;
        client.is_held = false;
        if client.state != ClientState::Greeting {
            client.enter(ClientState::Idle, now);
        }
        if client.is_split {
            self.note_parted(client_key, key);
        }
        self.arm_client(client_key);
        Some(client_key)
    }
}
