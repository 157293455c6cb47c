//! Cancel: from a client's CancelRequest to the one request it was sent for.
//!
//! A server does not leave its client before both the reply and the end of the cancel connection have come: then
//! the signal has reached the back end, which ignores it when idle. (PostgreSQL, `ProcessCancelRequestPacket`:
//! the connection is closed after the signal is sent.) Who sent the request is closed then too, as by PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use forebay_pgwire::write;
use forebay_spec::errors;

use crate::cancel_key;
use crate::config::TlsMode;
use crate::event::Level;
use crate::ids::{ConnId, WorkerId};
use crate::io::{Close, Endpoint, Io, Slice};
use crate::journal::CANCEL_REQUEST;
use crate::misses::{Source, Verdict};
use crate::pool::PoolId;
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey, ClientState, Extent};
use crate::session::expect::Expect;
use crate::session::server::{ServerKey, ServerState};
use crate::slab::Key;
use crate::time::Instant;
use crate::worker::{Message, Owner, Worker};

/// Bytes of a key before protocol 3.2.
const SHORT_KEY_BYTES: usize = 4;
/// Tries to find a process id that no other client of the worker has.
const PID_TRIES: u32 = 16;
/// As many requests may go on to peers as this times those that may name nobody: whether they are right is seen there.
const PASSES_A_MISS: u32 = 8;

/// Whether somebody could come by such a key by trying: not by one of protocol 3.2.
fn is_guessable(secret: &[u8]) -> bool {
    secret.len() <= SHORT_KEY_BYTES
}

/// Who sent a CancelRequest, and waits for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canceller {
    pub(crate) worker: WorkerId,
    pub(crate) client: ClientKey,
}

/// How far a CancelRequest has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A connection for it is being opened, or waited for: to a server of this database, or to a peer.
    Waiting(Arc<str>),
    /// It was sent.
    Sent,
    /// It has arrived, or never will.
    Over,
}

/// A CancelRequest that is served, perhaps for another worker's client.
#[derive(Clone, Debug)]
pub struct Request {
    /// As the client was told.
    pub pid: u32,
    /// As the client was told, but for the hops it has made.
    pub secret: Box<[u8]>,
    /// Where it came from.
    pub source: Source,
    /// When it came.
    pub at: Instant,
    /// Who waits for its end.
    pub canceller: Canceller,
    /// The worker that its key names without a peer in it knows no such client.
    pub is_placed_nowhere: bool,
}

/// A cancel connection on its way to a server.
pub struct Cancel {
    server: ServerKey,
    pub(crate) pool: PoolId,
    conn: ConnId,
    pub(crate) is_sent: bool,
    /// Who waits for its end; nobody, where it was our own idea.
    pub(crate) cancellers: Vec<Canceller>,
}

impl<I: Io> Worker<I> {
    /// The process id that a client is told: where to find it. The secret beside it is what proves anything.
    pub(crate) fn virtual_pid(&mut self, key: ClientKey) -> u32 {
        let (own, workers) = (self.tables.config.peers.own, self.shared.workers);
        if own == 0 {
            return cancel_key::pid(key, self.id.0);
        }
        let pid = |attempt| cancel_key::peer_pid(key, self.id.0, workers, own, attempt);
        let free = (0..PID_TRIES).map(pid).find(|pid| !self.by_pid.contains_key(pid));
        let pid = free.unwrap_or_else(|| pid(0));
        self.by_pid.entry(pid).or_default().push(key);
        pid
    }

    /// A client is here that has its process id from elsewhere. False: that leads to another worker, or nowhere.
    pub(crate) fn note_pid(&mut self, key: ClientKey, pid: u32) -> bool {
        let (own, workers) = (self.tables.config.peers.own, self.shared.workers);
        let leads_here = own > 0 && cancel_key::peer_and_worker(pid, workers) == (own, self.id.0);
        if leads_here {
            self.by_pid.entry(pid).or_default().push(key);
        }
        leads_here
    }

    /// A client is gone. False: it was not known by its process id.
    pub(crate) fn forget_pid(&mut self, key: ClientKey, client: &Client) -> bool {
        let Some(keys) = self.by_pid.get_mut(&client.virtual_pid) else { return false };
        let before = keys.len();
        keys.retain(|other| *other != key);
        let was_known = keys.len() < before;
        if keys.is_empty() {
            self.by_pid.remove(&client.virtual_pid);
        }
        was_known
    }

    /// A connection has brought a CancelRequest. It is closed when that has arrived.
    #[cold]
    pub(crate) fn cancel_came(&mut self, io: &mut I, key: ClientKey, pid: u32, secret: &[u8]) {
        self.stats.cancels.add(1);
        let source = Source::of(&self.clients[key].peer);
        let (limit, verdict) = if self.peer_named(pid).is_some() {
            let limit = self.passes_max(source, secret);
            (limit, self.shared.passes.judge(source, limit, self.now))
        } else {
            let limit = self.misses_max(source, secret);
            (limit, self.shared.misses.judge(source, limit, self.now))
        };
        if verdict == Verdict::Heard {
            self.clients[key].enter(ClientState::Cancelling, self.now);
            self.arrival_is_over(key);
            let canceller = Canceller { worker: self.id, client: key };
            let request =
                Request { pid, secret: secret.into(), source, at: self.now, canceller, is_placed_nowhere: false };
            return match self.shared.moved.find(pid, secret) {
                Some((worker, client)) if worker == self.id => self.cancel_moved(io, client, &request),
                Some((worker, client)) => io.tell(worker, Message::CancelMoved(client, Box::new(request))),
                None => self.cancel_asked(io, request),
            };
        }
        self.stats.cancels_refused.add(1);
        if verdict == Verdict::FirstRefused {
            let fields = vec![("source", source.to_string().into()), ("limit", u64::from(limit).into())];
            self.log(io, Level::Warn, "cancels_refused", fields);
        }
        self.drop_client(io, key, CANCEL_REQUEST);
    }

    /// A CancelRequest for a client of this worker that came from elsewhere.
    #[cold]
    pub(crate) fn cancel_moved(&mut self, io: &mut I, key: ClientKey, request: &Request) {
        let is_for_it = self.clients.get(key).is_some_and(|client| client.request_at <= request.at);
        if !is_for_it || !self.cancel_client(io, key, request.canceller) {
            self.tell_canceller(io, request.canceller, Stage::Over);
        }
    }

    /// A CancelRequest is to be served, perhaps for another worker's client, or for another pooler's.
    pub(crate) fn cancel_asked(&mut self, io: &mut I, mut request: Request) {
        let own = self.tables.config.peers.own;
        let (peer, by_peer) = cancel_key::peer_and_worker(request.pid, self.shared.workers);
        if let Some(peer) = self.peer_named(request.pid) {
            return self.pass_to_peer(io, peer, request);
        }
        // Keys made before this process had a number, or while it had another, are still understood.
        let is_numbered = (own > 0 && peer == own) || request.is_placed_nowhere;
        let worker = if is_numbered { u32::from(by_peer) } else { cancel_key::place(request.pid).0 };
        if worker < u32::from(self.shared.workers) && worker != u32::from(self.id.0) {
            return io.tell(WorkerId(worker as u16), Message::Cancel(Box::new(request)));
        }
        let is_here = worker == u32::from(self.id.0);
        let named = if is_numbered { self.numbered(&request) } else { self.placed(&request) };
        let Some(key) = named.filter(|_| is_here) else {
            if !is_numbered {
                request.is_placed_nowhere = true;
                return self.cancel_asked(io, request);
            }
            let limit = self.misses_max(request.source, &request.secret);
            self.shared.misses.note(request.source, limit, self.now);
            return self.tell_canceller(io, request.canceller, Stage::Over);
        };
        // A request that began after the cancel came is not the one it was sent for.
        if self.clients[key].request_at > request.at || !self.cancel_client(io, key, request.canceller) {
            self.tell_canceller(io, request.canceller, Stage::Over);
        }
    }

    /// The client that a key without a peer in it names.
    fn placed(&self, request: &Request) -> Option<ClientKey> {
        let key = self.clients.key_at(cancel_key::place(request.pid).1)?;
        let client = &self.clients[key];
        (client.virtual_pid == request.pid && client.has_cancel_secret(&request.secret)).then_some(key)
    }

    /// The client that a key of this peer names.
    fn numbered(&self, request: &Request) -> Option<ClientKey> {
        let secret = cancel_key::with_all_hops(&request.secret);
        let keys = self.by_pid.get(&request.pid)?;
        keys.iter().copied().find(|key| self.clients.get(*key).is_some_and(|c| c.has_cancel_secret(&secret)))
    }

    /// How many requests with keys like this one may name nobody; 0: any number.
    pub(crate) fn misses_max(&self, source: Source, secret: &[u8]) -> u32 {
        let limit = self.tables.config.limits.cancel_misses_max;
        if is_guessable(secret) { limit.saturating_mul(self.tables.sources_behind(source)) } else { 0 }
    }

    /// How many requests with keys like this one may go on to peers; 0: any number.
    pub(crate) fn passes_max(&self, source: Source, secret: &[u8]) -> u32 {
        self.misses_max(source, secret).saturating_mul(PASSES_A_MISS)
    }

    /// The peer whose client a process id names.
    fn peer_named(&self, pid: u32) -> Option<u16> {
        let own = self.tables.config.peers.own;
        let (peer, _) = cancel_key::peer_and_worker(pid, self.shared.workers);
        (own > 0 && peer != own && self.tables.peer(peer).is_some()).then_some(peer)
    }

    /// False: there is nothing to be cancelled, or nothing to wait for.
    fn cancel_client(&mut self, io: &mut I, key: ClientKey, canceller: Canceller) -> bool {
        self.call_off(io, key, None);
        if self.clients.get(key).is_none() {
            return false;
        }
        let client = &self.clients[key];
        match (client.state, client.server) {
            (ClientState::Waiting, None) => {
                if let Some(id) = client.serving() {
                    self.refuse_waiting(key, errors::cancelled_while_waiting(), Extent::AllKept);
                    self.publish(id);
                }
                false
            }
            (ClientState::Active, Some(server)) if self.servers[server].expect.iter().any(Expect::is_running) => {
                if let Some(hand_over) = &mut self.servers[server].hand_over {
                    hand_over.note_cancel();
                }
                self.cancel_server_for(io, server, Some(canceller))
            }
            (ClientState::Console, _) => {
                self.call_off_statement(io, key);
                false
            }
            (ClientState::Active, Some(server)) => {
                self.cancel_behind_hand_over(io, server);
                false
            }
            _ => false,
        }
    }

    /// Sends a cancel to a server, unless one is on its way.
    pub(crate) fn cancel_server(&mut self, io: &mut I, key: ServerKey) {
        self.cancel_server_for(io, key, None);
    }

    /// The same for somebody who waits for its end. False: there is none to wait for.
    fn cancel_server_for(&mut self, io: &mut I, key: ServerKey, canceller: Option<Canceller>) -> bool {
        if let Some(client) = self.servers[key].client.and_then(|client| self.clients.get_mut(client)) {
            // Whatever becomes of its server: it does not want the answer any more.
            client.retries = false;
        }
        if self.servers[key].cancels > 0 {
            let under_way = self.cancels.iter().find(|(_, c)| c.server == key).map(|(cancel, _)| cancel);
            return self.join_cancel(io, under_way, canceller);
        }
        // Another address of the same name may be another server.
        let endpoint = match (self.endpoint(key), self.servers[key].address) {
            (Endpoint::Tcp { port, .. }, Some(address)) => Endpoint::Tcp { host: address.to_string().into(), port },
            (endpoint, _) => endpoint,
        };
        self.stats.cancels_forwarded.add(1);
        let conn = io.connect(&endpoint);
        let pool = self.servers[key].pool;
        let cancel = self.cancels.insert(Cancel { server: key, pool, conn, is_sent: false, cancellers: Vec::new() });
        self.set_owner(conn, Owner::Cancel(cancel));
        self.servers[key].cancels += 1;
        self.servers[key].cancel_at = self.now;
        self.arm_server(key);
        self.arm_cancel(cancel);
        self.join_cancel(io, Some(cancel), canceller)
    }

    fn join_cancel(&mut self, io: &mut I, cancel: Option<Key<Cancel>>, canceller: Option<Canceller>) -> bool {
        let (Some(cancel), Some(canceller)) = (cancel, canceller) else { return false };
        let state = &mut self.cancels[cancel];
        state.cancellers.push(canceller);
        let is_sent = state.is_sent;
        let database = self.pools[state.pool.0 as usize].database.clone();
        self.tell_canceller(io, canceller, Stage::Waiting(database));
        if is_sent {
            self.tell_canceller(io, canceller, Stage::Sent);
        }
        true
    }

    /// Tells who sent a CancelRequest how far it has come.
    pub(crate) fn tell_canceller(&mut self, io: &mut I, canceller: Canceller, stage: Stage) {
        if canceller.worker == self.id {
            self.cancel_is_at(io, canceller.client, stage);
        } else {
            io.tell(canceller.worker, Message::CancelIsAt(canceller.client, stage));
        }
    }

    /// A CancelRequest that came here has come so far.
    pub(crate) fn cancel_is_at(&mut self, io: &mut I, key: ClientKey, stage: Stage) {
        let Some(client) = self.clients.get_mut(key).filter(|c| c.state == ClientState::Cancelling) else { return };
        match stage {
            Stage::Waiting(database) => client.database = database,
            Stage::Sent => client.rare().is_cancel_sent = true,
            Stage::Over => self.drop_client(io, key, CANCEL_REQUEST),
        }
    }

    pub(crate) fn cancel_connected(&mut self, io: &mut I, key: Key<Cancel>) {
        let Cancel { server, conn, .. } = self.cancels[key];
        if self.servers.get(server).is_none() {
            self.close_conn(io, conn, Close::Now);
            return self.cancel_closed(io, key);
        }
        if self.tls_mode(server) == TlsMode::Disable || self.servers[server].tls.is_none() {
            return self.send_cancel(io, key);
        }
        let mut out = Vec::new();
        write::ssl_request(&mut out);
        io.send(conn, &[Slice::Bytes(&out)]);
    }

    #[inline(never)]
    pub(crate) fn cancel_received(&mut self, io: &mut I, key: Key<Cancel>, data: &[u8]) {
        let Cancel { server, conn, .. } = self.cancels[key];
        if data == b"S" && self.servers.get(server).is_some() {
            let role = self.tls_role(server);
            io.start_tls(conn, role, &[]);
        } else {
            // The key is not sent in the clear where the session is encrypted.
            self.close_conn(io, conn, Close::Now);
            self.cancel_closed(io, key);
        }
    }

    pub(crate) fn cancel_tls_ready(&mut self, io: &mut I, key: Key<Cancel>) {
        self.send_cancel(io, key);
    }

    fn send_cancel(&mut self, io: &mut I, key: Key<Cancel>) {
        let Cancel { server, conn, .. } = self.cancels[key];
        let Some(server) = self.servers.get(server) else { return };
        let mut out = Vec::new();
        write::cancel_request(&mut out, server.remote_pid, &server.remote_key);
        io.send(conn, &[Slice::Bytes(&out)]);
        self.cancels[key].is_sent = true;
        self.arm_sent_cancel(key);
        for canceller in self.cancels[key].cancellers.clone() {
            self.tell_canceller(io, canceller, Stage::Sent);
        }
    }

    /// A cancel that could not be sent for too long never will be; one that was sent has arrived, or never will.
    pub(crate) fn cancel_is_late(&mut self, io: &mut I, key: Key<Cancel>, is_for_sending: bool) {
        let Some(cancel) = self.cancels.get(key).filter(|cancel| cancel.is_sent == is_for_sending) else { return };
        let (conn, server, pool) = (cancel.conn, cancel.server, &self.pools[cancel.pool.0 as usize]);
        if !is_for_sending {
            let fields = vec![("pool", pool.label().into()), ("reason", "cancel_wait_timeout".into())];
            self.log(io, Level::Warn, "cancel_not_sent", fields);
        } else if let Some(server) = self.servers.get_mut(server) {
            // It may arrive yet, and must not hit the next client's request.
            server.is_close_needed = true;
        }
        self.close_conn(io, conn, Close::Now);
        self.cancel_closed(io, key);
    }

    /// How long a cancel may wait until it is sent; `None`: for ever.
    pub(crate) fn cancel_patience(&self) -> Option<Duration> {
        let limit = self.tables.config.limits.cancel_wait_timeout;
        (limit > 0).then_some(Duration::from_micros(limit))
    }

    /// The server closed the cancel connection: the signal is sent, and its session may go on.
    pub(crate) fn cancel_closed(&mut self, io: &mut I, key: Key<Cancel>) {
        let Some(Cancel { server, cancellers, .. }) = self.cancels.remove(key) else { return };
        for canceller in cancellers {
            self.tell_canceller(io, canceller, Stage::Over);
        }
        let Some(state) = self.servers.get_mut(server) else { return };
        state.cancels = state.cancels.saturating_sub(1);
        if state.cancels > 0 {
            return;
        }
        self.command_progress(io);
        let Some(state) = self.servers.get_mut(server) else { return };
        if state.state == ServerState::CancelWait {
            self.checkin(io, server);
        } else if let Some(client_key) = state.client {
            // What it had reset, the look at its last transaction, or its next request may have waited for this.
            self.restore_now(io, server);
            self.clients[client_key].is_held = false;
            self.ready.push_back(client_key);
            if self.is_unsettled(server) {
                self.settle(io, server);
            }
        } else {
            self.freed.push(server);
        }
    }

    /// Whether a transaction has ended, and what it left is still to be looked at.
    fn is_unsettled(&self, key: ServerKey) -> bool {
        let server = &self.servers[key];
        let is_over = server.state == ServerState::Leased && server.expect.is_empty() && server.status == IDLE;
        let is_noted = server.left.is_probe_needed() || server.listen.is_restored;
        let is_between = !server.is_skipping && !server.is_segment_open;
        is_over && is_between && server.left.is_on && is_noted
    }
}

impl Client {
    fn has_cancel_secret(&self, secret: &[u8]) -> bool {
        self.login.is_none() && verify_slices_are_equal(self.cancel.bytes(), secret).is_ok()
    }
}
