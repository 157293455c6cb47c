//! Bytes between a client and its server, both ways. What holds them back is in [`crate::flow`].

use forebay_pgwire::frame::FrameError;
use forebay_spec::errors;

use crate::alone::Alone;
use crate::cluster::replay::Replaying;
use crate::event::Level;
use crate::ids::BufId;
use crate::io::{Close, Io};
use crate::planted::{Bug, planted};
use crate::reply::{Next, Relaying};
use crate::request::{Forwarding, Stop};
use crate::session::client::{ClientKey, ClientState, Extent};
use crate::session::server::{ServerKey, ServerState};
use crate::tracking::mark::Judging;
use crate::worker::Worker;

/// Messages of one client that go on in one turn of the loop. A pipeline of a hundred thousand statements waits for its
/// server all the same, and everybody else for what is done of it in one go.
pub(crate) const MESSAGES_A_TURN: u32 = 128;

impl<I: Io> Worker<I> {
    /// Bytes came from a client.
    pub(crate) fn client_received(&mut self, io: &mut I, key: ClientKey, buf: BufId, data: &[u8]) {
        let client = &mut self.clients[key];
        match client.state {
            ClientState::Idle | ClientState::Active
                if client.carry.is_empty() && client.may_go_on() && client.replaying != Replaying::SetBack =>
            {
                let taken = self.pump(io, key, Some(buf), data);
                if taken < data.len() {
                    self.keep(io, key, &data[taken..]);
                }
            }
            ClientState::Leaving | ClientState::Cancelling => {}
            ClientState::Moving => self.keep_while_moving(io, key, data),
            _ => {
                client.carry.extend_from_slice(data);
                self.client_goes_on(io, key);
            }
        }
    }

    /// Keeps what can't be forwarded yet, and stops reading where that is too much.
    fn keep(&mut self, io: &mut I, key: ClientKey, rest: &[u8]) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.carry.extend_from_slice(rest);
        self.balance_client(io, key);
    }

    /// Goes on with what was kept.
    pub(crate) fn client_goes_on(&mut self, io: &mut I, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.replaying == Replaying::SetBack && client.state == ClientState::Idle && !client.carry.is_empty() {
            client.begin_replay();
        }
        match client.state {
            ClientState::Startup | ClientState::Login => self.login_goes_on(io, key),
            ClientState::Console => self.console_goes_on(io, key),
            ClientState::Idle | ClientState::Active if client.may_go_on() && !client.carry.is_empty() => {
                let kept = std::mem::take(&mut client.carry);
                let taken = self.pump(io, key, None, &kept);
                if let Some(client) = self.clients.get_mut(key)
                    && client.refusal.as_ref().is_some_and(|r| r.extent == Extent::AllKept)
                {
                    client.refusal = None;
                }
                self.put_back(key, kept, taken);
                self.balance_client(io, key);
            }
            _ => self.balance_client(io, key),
        }
    }

    /// Forwards a client's messages as far as they can go. Returns the bytes dealt with.
    fn pump(&mut self, io: &mut I, key: ClientKey, buf: Option<BufId>, data: &[u8]) -> usize {
        let mut at = 0;
        while at < data.len() {
            let Some(client) = self.clients.get_mut(key) else { break };
            let Some(server_key) = client.server else {
                match self.pump_alone(io, key, data, at) {
                    Alone::Took(n) => at += n,
                    Alone::GoOn => {}
                    Alone::Stop => break,
                }
                continue;
            };
            let is_split = client.is_split || client.replaying == Replaying::Runs;
            let whole = data;
            let data = if is_split { self.reach_on_replica(key, server_key, data, at) } else { data };
            let client = &mut self.clients[key];
            let (usage, server) = (client.usage, &mut self.servers[server_key]);
            let pool = &mut self.pools[server.pool.0 as usize];
            pool.look_up_catalogue();
            let limits = &self.tables.config.limits;
            let mut forwarding = Forwarding {
                client,
                server,
                cache: &mut self.cache,
                judging: Judging {
                    catalogue: &pool.catalogue,
                    knowledge: &pool.knowledge,
                    level: pool.settings.level,
                    on_pin: pool.settings.on_pin,
                },
                epoch: pool.knowledge.epoch(),
                batch: &mut self.batch,
                stats: &pool.stats.stats,
                server_statements_max: usage.statements_max(&pool.settings),
                client_statements_max: limits.client_statements_max,
                checks_commits: pool.target.config.checks_commits,
                now: self.now,
                messages_left: MESSAGES_A_TURN,
            };
            let (mut stop, end) = forwarding.run(data, at, limits.message_bytes_max);
            if is_split {
                self.sent_of_split(key, server_key, &data[at..end], end == data.len());
                if data.len() < whole.len() && matches!(stop, Stop::More) {
                    stop = Stop::Hold;
                }
            }
            if planted(Bug::RequestLogged) {
                let text = String::from_utf8_lossy(data).into_owned();
                self.log(io, Level::Debug, "request", vec![("text", text.into())]);
            }
            let has_answered = self.flush_to_server(io, key, server_key, buf, data);
            let has_left = matches!(stop, Stop::Leave);
            if matches!(stop, Stop::Hold) && has_answered {
                // What it waited for may have been such an answer, after which the server owes nothing.
                self.ready.push_back(key);
            } else if !matches!(stop, Stop::More) {
                self.pump_stopped(io, key, stop);
            }
            return if has_left { whole.len() } else { end };
        }
        at
    }

    /// Does what the end of forwarding asks for.
    #[inline(never)]
    fn pump_stopped(&mut self, io: &mut I, key: ClientKey, stop: Stop) {
        match stop {
            Stop::More => {}
            Stop::Hold => {
                let client = &mut self.clients[key];
                client.is_held = true;
                if let Some(server) = client.server {
                    self.arm_server(server);
                }
            }
            Stop::Later => {
                self.clients[key].is_deferred = true;
                self.deferred.push(key);
            }
            Stop::Listens => self.restore_listens(io, key),
            Stop::Anchor => self.ask_for_anchor(io, key),
            Stop::Leave => self.client_leaves(io, key),
            Stop::Fault(report) => {
                self.stats.protocol_errors.add(1);
                self.refuse_and_close(io, key, *report);
            }
            Stop::BadLength(error) => self.framing_fault(io, key, error),
        }
    }

    #[cold]
    pub(crate) fn framing_fault(&mut self, io: &mut I, key: ClientKey, error: FrameError) {
        self.stats.protocol_errors.add(1);
        let report = match error {
            FrameError::TooLong { bytes, max } => errors::message_too_large(bytes, max),
            FrameError::TooShort => errors::malformed_message(error),
        };
        self.refuse_and_close(io, key, report);
    }

    /// Sends what was forwarded. Returns whether the client was given answers of ours.
    fn flush_to_server(
        &mut self,
        io: &mut I,
        key: ClientKey,
        server_key: ServerKey,
        buf: Option<BufId>,
        data: &[u8],
    ) -> bool {
        let server = &mut self.servers[server_key];
        server.is_used |= !self.batch.is_empty();
        if let Some(hand_over) = &mut server.hand_over {
            hand_over.flush(self.batch.owned());
        }
        let bytes = self.batch.send(io, server.conn, buf, data);
        server.unsent += bytes;
        let is_full = server.unsent > self.tables.config.limits.relay_bytes_max as usize;
        let is_answer_due = server.is_answer_due();
        self.pools[server.pool.0 as usize].stats.stats.received_bytes.add(bytes as u64);
        if !server.clearing.is_empty() {
            self.clear_databases(io, key, server_key);
        }
        if is_answer_due {
            self.settle_answers(io, key, server_key);
        }
        if is_full {
            self.balance_client(io, key);
        }
        self.arm_client(key);
        is_answer_due
    }

    /// Answers of our own that wait for nothing are given at once.
    #[inline(never)]
    fn settle_answers(&mut self, io: &mut I, key: ClientKey, server_key: ServerKey) {
        let server = &mut self.servers[server_key];
        server.give_held(&mut self.batch);
        let client = self.clients.get_mut(key);
        let reader = client.as_ref().filter(|c| !c.is_gone).map(|c| c.conn);
        let (images, batch) = (&mut self.images, &mut self.batch);
        Relaying { server, client, images, batch, prefix: self.cache.prefix(), stats: &self.stats }.settle();
        match reader {
            Some(conn) => {
                let client = &mut self.clients[key];
                self.servers[server_key].tell(client, &mut self.batch, &[]);
                client.unsent += self.batch.send(io, conn, None, &[]);
            }
            None => self.batch.clear(),
        }
    }

    /// Bytes came from a server.
    pub(crate) fn server_received(&mut self, io: &mut I, key: ServerKey, buf: BufId, data: &[u8]) {
        let server = &mut self.servers[key];
        let is_in_session = matches!(server.state, ServerState::Leased | ServerState::Busy | ServerState::Cleaning);
        if !is_in_session && !self.received_in_another_state(io, key, data) {
            return;
        }
        if self.servers[key].carry.is_empty() {
            let taken = self.relay(io, key, Some(buf), data);
            if taken < data.len()
                && let Some(server) = self.servers.get_mut(key)
            {
                server.carry.extend_from_slice(&data[taken..]);
            }
        } else {
            self.servers[key].carry.extend_from_slice(data);
            self.digest_kept(io, key);
        }
        if self.is_draining {
            self.drain_replication(io, key);
        }
        self.after_replies(io, key);
    }

    /// Bytes of a server that is not in use. False: they are dealt with.
    #[inline(never)]
    fn received_in_another_state(&mut self, io: &mut I, key: ServerKey, data: &[u8]) -> bool {
        let server = &mut self.servers[key];
        match server.state {
            ServerState::Connecting | ServerState::Tls => {
                self.server_in_doubt(io, key, "bytes before they were due");
                return false;
            }
            ServerState::TlsAsked | ServerState::Login => {
                server.carry.extend_from_slice(data);
                self.handshake_goes_on(io, key);
                return false;
            }
            ServerState::Moving => return !self.server_keeps_while_moving(io, key, data),
            ServerState::Detaching => {
                // It stays, and is offered again when what it says has been read.
                server.enter(ServerState::Busy, self.now);
                self.not_lent(io, key);
            }
            _ => {}
        }
        true
    }

    /// Relays what was kept of a server's bytes.
    #[inline(never)]
    pub(crate) fn digest_kept(&mut self, io: &mut I, key: ServerKey) {
        let mut kept = std::mem::take(&mut self.servers[key].carry);
        let taken = self.relay(io, key, None, &kept);
        if let Some(server) = self.servers.get_mut(key) {
            kept.drain(..taken);
            server.carry = kept;
        }
    }

    /// Relays a server's messages as far as they can go. Returns the bytes dealt with.
    fn relay(&mut self, io: &mut I, key: ServerKey, buf: Option<BufId>, data: &[u8]) -> usize {
        let bytes_max = self.tables.config.limits.message_bytes_max;
        let mut at = 0;
        while at < data.len() {
            let Some(server) = self.servers.get_mut(key) else { break };
            server.give_held(&mut self.batch);
            let client = server.client.and_then(|c| self.clients.get_mut(c));
            let (images, batch) = (&mut self.images, &mut self.batch);
            let mut relaying =
                Relaying { server, client, images, batch, prefix: self.cache.prefix(), stats: &self.stats };
            let (next, end) = relaying.run(data, at, bytes_max);
            at = end;
            let is_held = self.batch.is_empty() || matches!(next, Next::More) && self.holds_back(key, data);
            if !is_held {
                self.flush_to_client(io, key, buf, data);
            }
            match next {
                Next::More => {
                    self.answer_goes_on(key);
                    break;
                }
                Next::Ready => self.request_ended(io, key),
                rarer => {
                    if !self.relay_stopped(io, key, rarer, &data[..at]) {
                        break;
                    }
                }
            }
        }
        if let Some(server) = self.servers.get(key)
            && let Some(client_key) = server.client
            && server.is_answer_due()
        {
            // Behind the server's last message none may come that would bring it on.
            self.settle_answers(io, client_key, key);
        }
        at
    }

    /// Does what a rare end of relaying asks for; `read` ends where it stopped. False: the server is not to be listened to.
    #[inline(never)]
    fn relay_stopped(&mut self, io: &mut I, key: ServerKey, next: Next, read: &[u8]) -> bool {
        match next {
            Next::More => {}
            Next::Ready => self.request_ended(io, key),
            Next::Restore => self.restore(io, key),
            Next::TurnedAway { writes } => self.make_again(io, key, writes),
            Next::RecoveryMet(length) => self.recovery_met(io, key, &read[read.len() - length..]),
            Next::HandOverFailed => self.hand_over_failed(io, key),
            Next::AwaitOwn => self.await_own(io, key),
            Next::ClientAtFault => self.client_at_fault(io, key),
            Next::Notification(length) => self.notified(io, key, &read[read.len() - length..]),
            Next::OwnDone(own) => self.own_done(io, key, own),
            Next::CopyWithoutClient => self.fail_copy(io, key),
            Next::Violation(what) => {
                self.server_in_doubt(io, key, what);
                return false;
            }
            Next::Fault(error) => {
                self.reply_fault(io, key, error);
                return false;
            }
        }
        true
    }

    /// A server said what can't be believed, or more than is allowed.
    fn reply_fault(&mut self, io: &mut I, key: ServerKey, error: FrameError) {
        if let (FrameError::TooLong { bytes, max }, Some(client)) = (error, self.servers[key].client) {
            self.refuse_and_close(io, client, errors::message_too_large(bytes, max));
        }
        if self.servers.get(key).is_some() {
            self.server_in_doubt(io, key, &error.to_string());
        }
    }

    pub(crate) fn flush_to_client(&mut self, io: &mut I, key: ServerKey, buf: Option<BufId>, data: &[u8]) {
        let server = &mut self.servers[key];
        let reader = server.client.and_then(|c| self.clients.get_mut(c)).filter(|c| !c.is_gone);
        let Some(client) = reader else {
            self.batch.clear();
            return;
        };
        server.tell(client, &mut self.batch, data);
        let bytes = self.batch.send(io, client.conn, buf, data);
        client.unsent += bytes;
        self.pools[server.pool.0 as usize].stats.stats.sent_bytes.add(bytes as u64);
        if client.unsent > self.tables.config.limits.relay_bytes_max as usize && !server.is_paused {
            server.is_paused = true;
            io.pause_read(server.conn);
        }
    }

    /// The stream can't be trusted: the server is closed, never reused.
    #[cold]
    pub(crate) fn server_in_doubt(&mut self, io: &mut I, key: ServerKey, what: &str) {
        let server = &self.servers[key];
        let (conn, pool) = (server.conn, server.pool);
        self.pool(pool).stats.stats.closed_in_doubt.add(1);
        self.close_conn(io, conn, Close::Now);
        self.server_lost(io, key, what);
    }
}
