//! Whose reads may go to which replica: what a session is to see of what it has written and read (`read_consistency`).
//!
//! | level | a session sees |
//! |---|---|
//! | `eventual` | what a replica has replayed by then |
//! | `read_your_writes` | all that it has written as well |
//! | `session` | all that it has written or read: nothing older than it has seen |
//! | `primary` | all that is committed: nothing goes to a replica |
//!
//! A session keeps when it last may have written, and when and where it last read. What it has seen by a moment the primary
//! has by then, so any replica will do that has what the primary had at that moment ([`super::progress`]). What it has read
//! at a replica is there as well on connections that the replica had let in before: it goes back only by ending them.
//!
//! | a session | its reads |
//! |---|---|
//! | needs to see nothing but what there is | go to a replica |
//! | has read at a replica, and nothing since that it must see | go there, where such a server is free |
//! | else, and a server is free of a replica that has what it needs | go there |
//! | else | go to the primary |
//! | is at a request that may write | are part of that |
//!
//! When something has ended is known no sooner than at the beginning of the next turn of the loop: what is read in a turn may
//! be newer than its time.

use std::sync::Arc;

use crate::config::Consistency;
use crate::io::Io;
use crate::moving::part::{part_enum, part_struct};
use crate::planted::{Bug, planted};
use crate::pool::endpoints::PoolEndpoint;
use crate::pool::{PoolId, Waiter};
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::{Server, ServerKey};
use crate::time::Instant;
use crate::worker::Worker;

/// The setting by which a session says what its reads must see.
pub(super) const SETTING: &str = "forebay.read_consistency";

/// What it writes, or reads, is not known to have ended.
pub(crate) const WRITING: Instant = Instant(u64::MAX);

/// Of those who wait, how many are looked at for one that a server is for.
const CHOOSY_AMONG: usize = 64;

/// How a request that only reads is served by the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// It is not.
    #[default]
    No,
    /// Its server gets nothing that is behind it.
    Alone,
    /// All of it was sent.
    Sent,
}

/// How a session's reads are followed, so that it never sees what is older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Following {
    /// They are not.
    #[default]
    No,
    /// It gets this one wherever it asks for it, whatever it has seen.
    Anywhere,
    /// This one is not older than what it has seen.
    Kept,
}

/// What a session has read last, where that is followed.
#[derive(Debug, Default)]
pub struct LastRead {
    /// When that had ended; 0: nothing.
    at: Instant,
    /// At which replica, where it may go on there.
    on: Option<Arc<str>>,
    /// Servers there that were let in by then go on from what it saw.
    since: Instant,
}

part_enum!(Following { 0 = No, 1 = Anywhere, 2 = Kept });
part_struct!(LastRead { at: Instant, on: Option<Arc<str>>, since: Instant });

/// What a session needs of a replica for the request at hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// What the primary had then; 0: nothing.
    until: Instant,
    /// What it has last read will do.
    may_stay: bool,
}

impl Client {
    /// What a level asks for a client's reads.
    fn needs(&self, level: Consistency) -> Needs {
        let is_older_taken = planted(Bug::OlderRead);
        let written_at = if planted(Bug::UnreplayedRead) { Instant(0) } else { self.written_at };
        match level {
            Consistency::Eventual | Consistency::Primary => Needs::default(),
            Consistency::ReadYourWrites => Needs { until: written_at, may_stay: false },
            Consistency::Session if is_older_taken => Needs { until: written_at, may_stay: false },
            Consistency::Session => Needs { until: written_at.max(self.read.at), may_stay: self.read.on.is_some() },
        }
    }

    /// Whether it needs a replica that has what it must see.
    #[inline]
    pub(crate) fn is_choosy(&self) -> bool {
        self.needs.until != Instant(0)
    }

    /// Its request, which was for a replica, goes to the primary, which has everything.
    pub(super) fn goes_home(&mut self) {
        if self.is_tried {
            self.reading = Reading::Alone;
        } else {
            // It asked for a replica; whether it writes was not looked at.
            self.written_at = WRITING;
        }
        (self.served_by, self.is_tried, self.needs) = (None, false, Needs::default());
    }

    /// It leaves a server, where it may have read.
    fn note_read(&mut self, server: &Server) {
        let is_home = Some(server.pool) == self.pool;
        self.read.at = WRITING;
        self.read.since = self.request_at;
        if is_home || self.following != Following::Kept {
            self.read.on = None;
        } else if self.read.on.as_ref() != Some(&server.place.name) {
            self.read.on = Some(server.place.name.clone());
        }
    }
}

impl<I: Io> Worker<I> {
    /// Settles what a client's request needs, which only reads. False: the primary alone has that.
    pub(super) fn settle_needs(&mut self, key: ClientKey, home: PoolId, level: Consistency) -> bool {
        let needs = self.clients[key].needs(level);
        self.clients[key].needs = needs;
        if level == Consistency::Primary {
            return false;
        }
        if needs.until == Instant(0) || needs.may_stay {
            return true;
        }
        let known = self.clusters.get(&self.pools[home.0 as usize].target.config.name);
        known.is_some_and(|known| known.replayed.is_anywhere(needs.until))
    }

    /// The level of a client's reads, as its session or its database says.
    pub(super) fn level_of(&self, key: ClientKey, of_database: Consistency) -> Consistency {
        let asked = self.clients[key].wanted.get(SETTING);
        asked.and_then(|value| Consistency::of(value.as_bytes())).unwrap_or(of_database)
    }

    /// Whether a server shows all that a client must see.
    #[inline]
    pub(crate) fn shows_enough(&self, client: &Client, server: &Server) -> bool {
        !client.is_choosy() || self.shows_what_is_needed(client, server)
    }

    #[inline(never)]
    fn shows_what_is_needed(&self, client: &Client, server: &Server) -> bool {
        if Some(server.pool) == client.pool {
            return true;
        }
        let is_there = client.read.on.as_ref() == Some(&server.place.name);
        if client.needs.may_stay && is_there && server.opened_at <= client.read.since {
            return true;
        }
        let known = self.clusters.get(&self.pools[server.pool.0 as usize].target.config.name);
        let until = client.needs.until;
        known.is_some_and(|known| known.replayed.is_at(&server.place.name, until, server.opened_at))
    }

    /// The first of those who wait that a server, which is free, is for. Who has waited longest and needs another one is
    /// served by the primary, if it is for nobody.
    #[inline]
    pub(crate) fn waiter_for(&mut self, io: &mut I, id: PoolId, key: ServerKey) -> Option<Waiter> {
        let waiter = *self.pools[id.0 as usize].waiters.front()?;
        let is_choosy = self.clients.get(waiter.client).is_some_and(Client::is_choosy);
        if is_choosy { self.choosy_waiter_for(io, id, key) } else { Some(waiter) }
    }

    #[inline(never)]
    fn choosy_waiter_for(&mut self, io: &mut I, id: PoolId, key: ServerKey) -> Option<Waiter> {
        while self.oldest_waiter(id).is_some() {
            let (waiters, server) = (&self.pools[id.0 as usize].waiters, &self.servers[key]);
            let is_for = |waiter: &&Waiter| {
                let client = self.clients.get(waiter.client);
                client.is_some_and(|client| client.since == waiter.since && self.shows_enough(client, server))
            };
            if let Some(waiter) = waiters.iter().take(CHOOSY_AMONG).find(is_for).copied() {
                return Some(waiter);
            }
            self.send_first_home(io, id);
        }
        None
    }

    /// Who has waited longest for a replica, and needs another one than there is, is served by the primary.
    pub(crate) fn send_first_home(&mut self, io: &mut I, id: PoolId) {
        let Some(waiter) = self.pool(id).waiters.pop_front() else { return };
        self.publish(id);
        let Some(client) = self.clients.get(waiter.client) else { return };
        self.note_none(id, client.needs.until);
        let Some(client) = self.clients.get_mut(waiter.client) else { return };
        client.goes_home();
        if let Some(home) = client.pool {
            self.enqueue(io, home, waiter.client);
        }
    }

    /// A replica that has what the primary had at `until`, and at which there is no server, is to have one: nobody else would
    /// have it opened, where all that is read must be as new.
    fn note_none(&mut self, id: PoolId, until: Instant) {
        let pool = &mut self.pools[id.0 as usize];
        let Some(known) = self.clusters.get(&pool.target.config.name) else { return };
        // Of a server that comes now, it is known no sooner than the replica is asked again.
        let has_it = |one: &PoolEndpoint| known.replayed.is_at(&one.place.name, until, Instant(0));
        if until != Instant(0) && pool.is_balanced() && pool.endpoints.note_none_at(has_it) {
            self.arm_look(id);
        }
    }

    /// A client leaves its server; when is known in the next turn.
    #[inline(never)]
    pub(crate) fn note_parted(&mut self, key: ClientKey, server: ServerKey) {
        let client = &mut self.clients[key];
        if client.following != Following::No {
            client.note_read(&self.servers[server]);
        }
        if client.written_at == WRITING || client.read.at == WRITING {
            self.wrote.push(key);
        }
    }

    /// Whether a client that is with the primary may send it all that is at hand, from here on as one that may write. Not
    /// while it is at a request that only reads: nobody has looked at what comes behind.
    pub(super) fn ends_reading(&mut self, key: ClientKey, server: ServerKey) -> bool {
        let client = &mut self.clients[key];
        if client.reading == Reading::Alone && self.servers[server].status == IDLE {
            return false;
        }
        if client.reading != Reading::No {
            (client.reading, client.written_at) = (Reading::No, WRITING);
        }
        true
    }

    /// Clients that may have written have been parted from their servers before this turn.
    #[cold]
    pub(crate) fn note_written(&mut self) {
        for key in std::mem::take(&mut self.wrote) {
            if let Some(client) = self.clients.get_mut(key)
                && client.state == ClientState::Idle
            {
                for at in [&mut client.written_at, &mut client.read.at] {
                    *at = if *at == WRITING { self.now } else { *at };
                }
            }
        }
    }
}
