//! Cancel: from a client's CancelRequest to the one request it was sent for.
//!
//! A server does not leave its client before both the reply and the end of the cancel connection have come: then
//! the signal has reached the back end, which ignores it when idle. (PostgreSQL, `ProcessCancelRequestPacket`:
//! the connection is closed after the signal is sent.)

use aws_lc_rs::constant_time::verify_slices_are_equal;
use forebay_pgwire::write;
use forebay_spec::errors;

use crate::config::TlsMode;
use crate::event::Level;
use crate::ids::{ConnId, WorkerId};
use crate::io::{Close, Io, Slice};
use crate::misses::{Source, Verdict};
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey, ClientState, Extent};
use crate::session::expect::Expect;
use crate::session::server::{ServerKey, ServerState};
use crate::slab::Key;
use crate::time::Instant;
use crate::worker::{Message, Owner, Worker};

/// Bits of a virtual process id that name the client's place: more than `max_client_conn` may be.
const PLACE_BITS: u32 = 20;
/// Bits above them, that name its worker.
const WORKER_BITS: u32 = 8;
/// Of this many tenants of a place each has another process id. Drivers take it for a signed number of 32 bits, and
/// none may be 0: what remains are the numbers 1 to 7.
const TENANTS: u32 = 7;

/// Bytes of a key before protocol 3.2.
const SHORT_KEY_BYTES: usize = 4;

/// Whether somebody could come by such a key by trying: not by one of protocol 3.2.
fn is_guessable(secret: &[u8]) -> bool {
    secret.len() <= SHORT_KEY_BYTES
}

/// A cancel connection on its way to a server.
pub struct Cancel {
    server: ServerKey,
    conn: ConnId,
}

impl<I: Io> Worker<I> {
    /// The process id that a client is told: where to find it. The secret beside it is what proves anything.
    pub(crate) fn virtual_pid(&self, key: ClientKey) -> u32 {
        let tenant = key.generation() % TENANTS + 1;
        let worker = u32::from(self.id.0) & ((1 << WORKER_BITS) - 1);
        tenant << (WORKER_BITS + PLACE_BITS) | worker << PLACE_BITS | (key.index() & ((1 << PLACE_BITS) - 1))
    }

    /// A connection has brought a CancelRequest.
    #[cold]
    pub(crate) fn cancel_came(&mut self, io: &mut I, key: ClientKey, pid: u32, secret: &[u8]) {
        self.stats.cancels.add(1);
        let source = Source::of(&self.clients[key].peer);
        let limit = self.misses_max(secret);
        let verdict = self.shared.misses.judge(source, limit, self.now);
        if verdict == Verdict::Heard {
            if let Some((worker, client)) = self.shared.moved.find(pid, secret) {
                if worker == self.id {
                    return self.cancel_moved(io, client, self.now);
                }
                return io.tell(worker, Message::CancelMoved(client, self.now));
            }
            return self.cancel_asked(io, pid, secret, source, self.now);
        }
        self.stats.cancels_refused.add(1);
        if verdict == Verdict::FirstRefused {
            let fields = vec![("source", source.to_string().into()), ("limit", u64::from(limit).into())];
            self.log(io, Level::Warn, "cancels_refused", fields);
        }
    }

    /// A CancelRequest for a client of this worker that came from elsewhere.
    #[cold]
    pub(crate) fn cancel_moved(&mut self, io: &mut I, key: ClientKey, at: Instant) {
        if self.clients.get(key).is_some_and(|client| client.request_at <= at) {
            self.cancel_client(io, key);
        }
    }

    /// A CancelRequest is to be served, perhaps for another worker's client.
    pub(crate) fn cancel_asked(&mut self, io: &mut I, pid: u32, secret: &[u8], source: Source, at: Instant) {
        let worker = pid >> PLACE_BITS & ((1 << WORKER_BITS) - 1);
        if worker < u32::from(self.shared.workers) && worker != u32::from(self.id.0) {
            io.tell(WorkerId(worker as u16), Message::Cancel { pid, key: secret.into(), source, at });
            return;
        }
        let is_here = worker == u32::from(self.id.0);
        let named = self.clients.key_at(pid & ((1 << PLACE_BITS) - 1)).filter(|_| is_here);
        let named = named.filter(|key| {
            let client = &self.clients[*key];
            client.virtual_pid == pid && client.has_cancel_secret(secret)
        });
        let Some(key) = named else {
            return self.shared.misses.note(source, self.misses_max(secret), self.now);
        };
        // A request that began after the cancel came is not the one it was sent for.
        if self.clients[key].request_at <= at {
            self.cancel_client(io, key);
        }
    }

    /// How many requests with keys like this one may name nobody; 0: any number.
    fn misses_max(&self, secret: &[u8]) -> u32 {
        if is_guessable(secret) { self.tables.config.limits.cancel_misses_max } else { 0 }
    }

    fn cancel_client(&mut self, io: &mut I, key: ClientKey) {
        self.call_off(io, key, None);
        if self.clients.get(key).is_none() {
            return;
        }
        let client = &self.clients[key];
        match (client.state, client.server) {
            (ClientState::Waiting, None) => {
                if let Some(id) = client.pool {
                    self.refuse_waiting(key, errors::cancelled_while_waiting(), Extent::AllKept);
                    self.publish(id);
                }
            }
            (ClientState::Active, Some(server)) if self.servers[server].expect.iter().any(Expect::is_running) => {
                if let Some(hand_over) = &mut self.servers[server].hand_over {
                    hand_over.note_cancel();
                }
                self.cancel_server(io, server);
            }
            (ClientState::Active, Some(server)) => self.cancel_behind_hand_over(io, server),
            _ => {}
        }
    }

    /// Sends a cancel to a server, unless one is on its way.
    pub(crate) fn cancel_server(&mut self, io: &mut I, key: ServerKey) {
        if self.servers[key].cancels > 0 {
            return;
        }
        let Some(endpoint) = self.endpoint(key) else { return };
        self.stats.cancels_forwarded.add(1);
        let conn = io.connect(&endpoint);
        let cancel = self.cancels.insert(Cancel { server: key, conn });
        self.set_owner(conn, Owner::Cancel(cancel));
        self.servers[key].cancels += 1;
        self.servers[key].cancel_at = self.now;
        self.arm_server(key);
    }

    pub(crate) fn cancel_connected(&mut self, io: &mut I, key: Key<Cancel>) {
        let Cancel { server, conn } = self.cancels[key];
        if self.servers.get(server).is_none() {
            self.cancels.remove(key);
            self.close_conn(io, conn, Close::Now);
            return;
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
        let Cancel { server, conn } = self.cancels[key];
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
        let Cancel { server, conn } = self.cancels[key];
        let Some(server) = self.servers.get(server) else { return };
        let mut out = Vec::new();
        write::cancel_request(&mut out, server.remote_pid, &server.remote_key);
        io.send(conn, &[Slice::Bytes(&out)]);
    }

    /// The server closed the cancel connection: the signal is sent, and its session may go on.
    pub(crate) fn cancel_closed(&mut self, io: &mut I, key: Key<Cancel>) {
        let Some(Cancel { server, .. }) = self.cancels.remove(key) else { return };
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
