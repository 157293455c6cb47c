//! Whether a connection may stay: the limit over all clients, and a drain.

use forebay_spec::{Report, errors};

use crate::ids::ConnId;
use crate::io::{Io, Peer};
use crate::session::client::{Client, ClientKey};
use crate::worker::{Owner, Worker};

/// Connections above `clients_max`, as a multiple of it, that may say what they came for.
const UNCOUNTED_FACTOR: usize = 2;

impl<I: Io> Worker<I> {
    pub(crate) fn client_accepted(&mut self, io: &mut I, conn: ConnId, peer: Peer) {
        let mut client = Client::new(conn, peer, self.images.empty(), self.nobody.clone(), self.now);
        client.id = self.next_id();
        let key = self.clients.insert(client);
        self.set_owner(conn, Owner::Client(key));
        self.stats.clients.set(self.clients.len() as u64);
        let limit = self.tables.config.limits.clients_max;
        if !self.shared.clients.try_take(limit) {
            self.clients[key].is_uncounted = true;
            if self.clients.len() > (limit as usize).saturating_mul(UNCOUNTED_FACTOR) {
                let used = self.shared.clients.used();
                return self.refuse_and_close(io, key, errors::too_many_clients(used, limit));
            }
        }
        self.arm_client(key);
    }

    /// Why a client can't stay, told once it has said what it came for: a cancel request is served all the same, and an
    /// error in place of the answer to SSLRequest is shown by no driver.
    pub(crate) fn has_no_place(&mut self, key: ClientKey) -> Option<Report> {
        if self.is_draining {
            return Some(errors::draining());
        }
        let limit = self.tables.config.limits.clients_max;
        if self.clients[key].is_uncounted {
            if !self.shared.clients.try_take(limit) {
                return Some(errors::too_many_clients(self.shared.clients.used(), limit));
            }
            self.clients[key].is_uncounted = false;
        }
        None
    }
}
