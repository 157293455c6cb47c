//! SUSPEND: nothing is read from clients or servers but the console, until RESUME; what was read is written first.
//!
//! While it holds no time limit is looked at, and it does not count in any: nobody can keep one. Who connects meanwhile, and asks
//! for more than the console, waits.

use std::time::Duration;

use crate::command::{CommandId, Reply};
use crate::io::{Close, ClosedBy, Io};
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::ServerKey;
use crate::time::Instant;
use crate::worker::{Owner, Worker};

/// Time between two looks at whether all is written.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

impl<I: Io> Worker<I> {
    pub(crate) fn suspend(&mut self, io: &mut I) {
        self.is_suspended = true;
        self.suspended_at = self.now;
        for (_, client) in self.clients.iter().filter(|(_, c)| is_held(c)) {
            io.pause_read(client.conn);
        }
        for (_, server) in self.servers.iter() {
            io.pause_read(server.conn);
        }
    }

    /// Reads again what is not held back for a reason of its own.
    pub(crate) fn unsuspend(&mut self, io: &mut I) {
        if !std::mem::take(&mut self.is_suspended) {
            return;
        }
        let held = self.now.since(self.suspended_at);
        let now = self.now;
        let later = |at: &mut Instant| *at = (*at + held).min(now);
        let clients: Vec<ClientKey> = self.clients.iter().filter(|(_, c)| is_held(c)).map(|(key, _)| key).collect();
        for key in clients {
            let client = &mut self.clients[key];
            for at in [&mut client.since, &mut client.request_at, &mut client.transaction_at] {
                later(at);
            }
            if !client.is_paused {
                io.resume_read(client.conn);
            }
            if !client.carry.is_empty() {
                self.ready.push_back(key);
            }
        }
        let servers: Vec<ServerKey> = self.servers.iter().map(|(key, _)| key).collect();
        for key in servers {
            let server = &mut self.servers[key];
            later(&mut server.since);
            later(&mut server.cancel_at);
            if !server.is_paused {
                io.resume_read(server.conn);
            }
        }
    }

    /// Reads from a connection again, unless nothing is read from any.
    pub(crate) fn read_server_again(&self, io: &mut I, key: ServerKey) {
        if !self.is_suspended {
            io.resume_read(self.servers[key].conn);
        }
    }

    /// A client that asks for a database waits for RESUME, with what it has sent.
    pub(crate) fn holds_until_resume(&self, io: &mut I, key: ClientKey, is_for_console: bool) -> bool {
        let is_holding = self.is_suspended && !is_for_console;
        if is_holding {
            io.pause_read(self.clients[key].conn);
        }
        is_holding
    }

    /// Whether all is written that was read.
    pub(crate) fn is_flushed(&self) -> bool {
        let are_clients = self.clients.iter().filter(|(_, c)| is_held(c)).all(|(_, c)| c.unsent == 0);
        are_clients && self.servers.iter().all(|(_, s)| s.unsent == 0)
    }

    /// Ends connections that have not taken what was sent to them.
    pub(crate) fn drop_unflushed(&mut self, io: &mut I, id: CommandId) {
        let slow = self.clients.iter().filter(|(_, c)| is_held(c) && c.unsent > 0).map(|(key, _)| key);
        for key in slow.collect::<Vec<ClientKey>>() {
            let conn = self.clients[key].conn;
            self.close_conn(io, conn, Close::Now);
            self.set_owner(conn, Owner::Nobody);
            self.client_closed(io, key, ClosedBy::Error("suspend_timeout".into()));
        }
        let slow = self.servers.iter().filter(|(_, s)| s.unsent > 0).map(|(key, _)| key);
        for key in slow.collect::<Vec<ServerKey>>() {
            if let Some(server) = self.servers.get(key) {
                let conn = server.conn;
                self.close_conn(io, conn, Close::Now);
                self.server_closed(io, key, ClosedBy::Error("suspend_timeout".into()));
            }
        }
        io.reply(id, Reply::Done);
    }
}

/// Whether a client is one that SUSPEND is about.
fn is_held(client: &Client) -> bool {
    client.state != ClientState::Console && !client.is_gone
}
