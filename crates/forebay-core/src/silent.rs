//! Peers that are gone without a word, and clients that do not take what they asked for: each second a look at those who
//! hold something that others may wait for. Of all the rest the system finds out by itself (`tcp.keepalive_idle`).

use std::time::Duration;

use forebay_spec::errors;
use rustc_hash::FxHashMap;

use crate::checkout::seconds;
use crate::ids::ConnId;
use crate::io::{Close, Io};
use crate::session::client::ClientKey;
use crate::session::server::{ServerKey, ServerState};
use crate::time::Instant;
use crate::worker::Worker;

/// Time between two looks: what is seen first was so for as long, at most.
const LOOK: Duration = Duration::from_secs(1);

/// What the last look has found.
#[derive(Default)]
pub(crate) struct Silent {
    /// Peers that owe the network an answer, and since when that has been seen.
    overdue: FxHashMap<ConnId, Instant>,
    /// Clients whose server is not read since they do not read: bytes that they have not taken, and since when it is so many.
    untaken: FxHashMap<ConnId, (usize, Instant)>,
}

impl<I: Io> Worker<I> {
    /// Looks at servers that do something, and at the clients that hold them.
    pub(crate) fn look_for_silent(&mut self, io: &mut I) {
        let before = std::mem::take(&mut self.silent);
        let tcp = self.tables.config.tcp;
        let write_timeout = Duration::from_micros(self.tables.config.limits.client_write_timeout);
        let server_after = Some(Duration::from_micros(tcp.server_dead_after)).filter(|after| !after.is_zero());
        let (mut lost, mut gone, mut deaf) = (Vec::new(), Vec::new(), Vec::new());
        // One that is not connected yet has a limit of its own; of an idle one the system finds out.
        let is_quiet = |state| matches!(state, ServerState::Idle | ServerState::Connecting);
        for (key, server) in self.servers.iter().filter(|(_, server)| !is_quiet(server.state)) {
            if let Some(after) = server_after
                && self.silent.is_dead(io, &before, server.conn, after, self.now)
            {
                lost.push((key, after));
            }
            let Some((client_key, client)) = server.client.and_then(|c| self.clients.get(c).map(|client| (c, client)))
            else {
                continue;
            };
            if let Some(after) = tcp.client_dead_after()
                && self.silent.is_dead(io, &before, client.conn, after, self.now)
            {
                gone.push(client_key);
            } else if server.is_paused && !write_timeout.is_zero() {
                // The system wakes a writer when a third of its buffer is free: a slow reader moves its count long before.
                let untaken = client.unsent + io.unacknowledged(client.conn);
                let same = before.untaken.get(&client.conn).filter(|(bytes, _)| *bytes == untaken);
                let since = same.map_or(self.now, |(_, since)| *since);
                self.silent.untaken.insert(client.conn, (untaken, since));
                if self.now.since(since) >= write_timeout {
                    deaf.push(client_key);
                }
            }
        }
        self.end_silent(io, &lost, gone, deaf);
    }

    fn end_silent(&mut self, io: &mut I, lost: &[(ServerKey, Duration)], gone: Vec<ClientKey>, deaf: Vec<ClientKey>) {
        for client in gone {
            self.drop_client(io, client, "it acknowledges nothing");
        }
        for client in deaf {
            let limit = seconds(Duration::from_micros(self.tables.config.limits.client_write_timeout));
            self.refuse_and_close(io, client, errors::client_write_timeout(limit));
        }
        for (key, after) in lost {
            let Some(server) = self.servers.get(*key) else { continue };
            let (conn, cause) = (server.conn, format!("its host has acknowledged nothing for {}", seconds(*after)));
            match server.state {
                ServerState::Connecting | ServerState::TlsAsked | ServerState::Tls | ServerState::Login => {
                    self.open_failed(io, *key, &cause);
                }
                ServerState::Detaching => {}
                _ => {
                    self.close_conn(io, conn, Close::Now);
                    self.server_lost(io, *key, &cause);
                }
            }
        }
    }
}

impl Silent {
    /// Whether a peer has been overdue for `after`, by this look and those before.
    fn is_dead<I: Io>(&mut self, io: &I, before: &Silent, conn: ConnId, after: Duration, now: Instant) -> bool {
        if !io.is_overdue(conn) {
            return false;
        }
        let since = before.overdue.get(&conn).copied().unwrap_or(now);
        self.overdue.insert(conn, since);
        now.since(since) + LOOK >= after
    }
}
