//! Whether a connection may stay: the limit over all clients, and a drain.
//!
//! A client counts once it has proved who it is: whoever connects and says nothing takes nobody's place. How many may be on
//! their way in is a matter of [`crate::crowd`].

use forebay_spec::{Report, errors};

use crate::ids::ConnId;
use crate::io::{Io, Peer};
use crate::misses::{Source, Verdict};
use crate::pool::census::Of;
use crate::question::Turn;
use crate::session::client::{Client, ClientKey};
use crate::worker::{Owner, Worker};

/// Failed logins of a source within [`crate::misses::WINDOW`] up to which it waits its turn as others do.
const FAILED_LOGINS_MAX: u32 = 20;

impl<I: Io> Worker<I> {
    pub(crate) fn client_accepted(&mut self, io: &mut I, conn: ConnId, peer: Peer) {
        let is_header_due = self.is_proxied(&peer);
        let mut client = Client::new(conn, peer, self.images.empty(), self.nobody.clone(), self.now);
        client.id = self.next_id();
        client.is_uncounted = true;
        if let Some(login) = &mut client.login {
            login.is_header_due = is_header_due;
        }
        let key = self.clients.insert(client);
        self.set_owner(conn, Owner::Client(key));
        self.stats.clients.set(self.clients.len() as u64);
        self.arrives(io, key);
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

    /// Whose turn it is that a client's password is derived: after a number of failed logins, behind all others.
    pub(crate) fn turn(&self, key: ClientKey) -> Turn {
        let source = Source::of(&self.clients[key].peer);
        match self.shared.failed_logins.judge(source, FAILED_LOGINS_MAX, self.now) {
            Verdict::Heard => Turn::Of(source),
            Verdict::FirstRefused | Verdict::Refused => Turn::OfSuspect(source),
        }
    }

    /// A login was refused.
    pub(crate) fn note_failed_login(&self, key: ClientKey) {
        let source = Source::of(&self.clients[key].peer);
        self.shared.failed_logins.note(source, FAILED_LOGINS_MAX, self.now);
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
    pub(crate) fn has_no_place(&self, io: &I, key: ClientKey) -> Option<Report> {
        if self.is_draining || self.is_closed {
            return Some(errors::draining());
        }
        if io.is_last_resort(self.clients[key].conn) {
            return Some(errors::too_many_files());
        }
        let limit = self.tables.config.limits.clients_max;
        self.shared.clients.is_full(limit).then(|| errors::too_many_clients(self.shared.clients.used(), limit))
    }

    /// Counts a client that has proved who it is; or says why it can't stay.
    pub(crate) fn take_place(&mut self, key: ClientKey) -> Option<Report> {
        let limit = self.tables.config.limits.clients_max;
        if !self.shared.clients.try_take(limit) {
            return Some(errors::too_many_clients(self.shared.clients.used(), limit));
        }
        self.clients[key].is_uncounted = false;
        self.arrival_is_over(key);
        None
    }
}
