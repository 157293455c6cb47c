//! Back-pressure: one side of a session is not read while the other has more unwritten bytes than `relay_bytes_max`.

use crate::io::{Io, Slice};
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::{ServerKey, ServerState};
use crate::worker::Worker;

/// A session's own memory is given back when it is empty and larger than this.
const CARRY_BYTES_KEPT: usize = 1024;

impl<I: Io> Worker<I> {
    /// Keeps what is left of bytes that were taken out of a client's own memory.
    pub(crate) fn put_back(&mut self, key: ClientKey, mut kept: Vec<u8>, taken: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        kept.drain(..taken);
        if !kept.is_empty() || kept.capacity() <= CARRY_BYTES_KEPT {
            // What came meanwhile stands behind.
            kept.append(&mut client.carry);
            client.carry = kept;
        }
        if client.carry.is_empty() && client.state == ClientState::Idle {
            client.carry = Vec::new();
        }
    }

    /// Bytes of our own for a client.
    pub(crate) fn send_to_client(&mut self, io: &mut I, key: ClientKey, bytes: &[u8]) {
        let client = &mut self.clients[key];
        if client.is_gone {
            return;
        }
        client.unsent += bytes.len();
        io.send(client.conn, &[Slice::Bytes(bytes)]);
    }

    /// Bytes of our own for a server.
    pub(crate) fn send_to_server(&mut self, io: &mut I, key: ServerKey, bytes: &[u8]) {
        let server = &mut self.servers[key];
        server.unsent += bytes.len();
        io.send(server.conn, &[Slice::Bytes(bytes)]);
    }

    /// A client has taken bytes: its server is read again when enough are gone.
    pub(crate) fn client_sent(&mut self, io: &mut I, key: ClientKey, bytes: usize) {
        let half = self.tables.config.limits.relay_bytes_max as usize / 2;
        let client = &mut self.clients[key];
        client.unsent = client.unsent.saturating_sub(bytes);
        if client.unsent > half {
            return;
        }
        let is_listening = client.listens.is_some();
        let mut goes_on = client.has_more_to_do();
        if let Some(server_key) = client.server
            && let Some(server) = self.servers.get_mut(server_key)
            && server.is_paused
            && server.state != ServerState::Moving
        {
            server.is_paused = false;
            self.read_server_again(io, server_key);
        }
        if is_listening {
            self.deliver(io, key);
            goes_on = self.clients.get(key).is_some_and(Client::has_more_to_do);
        }
        if goes_on {
            self.ready.push_back(key);
        }
    }

    /// A server has taken bytes: its client is read again when enough are gone.
    pub(crate) fn server_sent(&mut self, io: &mut I, key: ServerKey, bytes: usize) {
        let half = self.tables.config.limits.relay_bytes_max as usize / 2;
        let server = &mut self.servers[key];
        server.unsent = server.unsent.saturating_sub(bytes);
        if server.unsent == 0 && server.client.is_none() {
            self.freed.push(key);
            return;
        }
        if server.unsent <= half
            && let Some(client_key) = server.client
            && self.clients.get(client_key).is_some_and(|c| c.is_paused)
        {
            self.balance_client(io, client_key);
        }
    }

    /// Reads from a client, or not: by what it has sent that could not go on, and by what its server has not taken.
    pub(crate) fn balance_client(&mut self, io: &mut I, key: ClientKey) {
        let limits = &self.tables.config.limits;
        let Some(client) = self.clients.get_mut(key).filter(|c| c.state != ClientState::Moving) else { return };
        let server_unsent = client.server.and_then(|s| self.servers.get(s)).map_or(0, |s| s.unsent);
        let is_taken = matches!(client.state, ClientState::Idle | ClientState::Active | ClientState::Console);
        let is_blocked = !is_taken || !client.may_go_on();
        let is_deaf = client.unsent > limits.relay_bytes_max as usize && client.server.is_none();
        let is_too_much = server_unsent > limits.relay_bytes_max as usize
            || ((is_blocked || is_deaf) && client.carry.len() > limits.wait_bytes_max as usize);
        if is_too_much != client.is_paused && !client.is_gone {
            client.is_paused = is_too_much;
            if is_too_much {
                io.pause_read(client.conn);
            } else if !self.is_suspended {
                io.resume_read(client.conn);
            }
        }
    }
}
