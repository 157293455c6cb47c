//! Whether a connection may stay: the limit over all clients, and a drain.

use forebay_spec::{Report, errors};

use crate::ids::ConnId;
use crate::io::{Io, Peer};
use crate::pool::census::Of;
use crate::session::client::{Client, ClientKey};
use crate::worker::{Owner, Worker};

/// Connections above `clients_max`, as a multiple of it, that may say what they came for.
const UNCOUNTED_FACTOR: usize = 2;

impl<I: Io> Worker<I> {
    pub(crate) fn client_accepted(&mut self, io: &mut I, conn: ConnId, peer: Peer) {
        let is_header_due = self.is_proxied(&peer);
        let mut client = Client::new(conn, peer, self.images.empty(), self.nobody.clone(), self.now);
        client.id = self.next_id();
        if let Some(login) = &mut client.login {
            login.is_header_due = is_header_due;
        }
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

    /// Counts a client that is let in among those of its database and its user; or says which of them has too many.
    pub(crate) fn count_in(&mut self, key: ClientKey, database_limit: u32) -> Option<Report> {
        let client = &mut self.clients[key];
        let (database, user) = (&client.database, &client.user);
        let of_all = self.tables.config.limits.max_user_client_connections;
        let user_limit = self.tables.user(user).and_then(|u| u.config.max_user_client_connections).unwrap_or(of_all);
        if !self.shared.census.try_count(Of::Database, database, database_limit) {
            return Some(errors::too_many_clients_of_database(database, database_limit));
        }
        if !self.shared.census.try_count(Of::User, user, user_limit) {
            self.shared.census.forget(Of::Database, database);
            return Some(errors::too_many_clients_of_user(user, user_limit));
        }
        client.is_in_census = true;
        None
    }

    /// A client is gone.
    pub(crate) fn count_out(&self, client: &Client) {
        if client.is_in_census {
            self.shared.census.forget(Of::Database, &client.database);
            self.shared.census.forget(Of::User, &client.user);
        }
        if !client.is_uncounted {
            self.shared.clients.give_back();
        }
    }

    /// Why a client can't stay, told once it has said what it came for: a cancel request and the console are served all
    /// the same, and an error in place of the answer to SSLRequest is shown by no driver.
    pub(crate) fn has_no_place(&mut self, key: ClientKey) -> Option<Report> {
        if self.is_draining || self.is_closed {
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
