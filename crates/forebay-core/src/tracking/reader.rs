//! Who reads a database's catalogue: a connection of its own, opened for one reading and closed behind it, so that no
//! client waits for that.
//!
//! It is none of the pool's servers: it never serves a client, what clients left in a session does not touch it, and it
//! counts in no limit. Where none is let in (the role's or the server's connections are all in use), a server of the pool
//! reads when it comes free, before it serves again. Of a database whose reads go to replicas the primary is asked: they may
//! lag behind it.

use std::sync::Arc;

use forebay_sql::catalogue::Catalogue;

use super::knowledge::{Knowledge, Reading};
use crate::config::{Role, Usage};
use crate::event::Level;
use crate::io::Io;
use crate::parameters::is_utf8;
use crate::pool::{Pool, PoolId};
use crate::session::expect::Own;
use crate::session::server::{Apart, ServerKey};
use crate::tables::{Database, database_of, is_of_replicas};
use crate::time::Instant;
use crate::worker::Worker;

/// What a reader does first: what its role begins sessions with does not matter to it. What takes longer than is waited for
/// ends by itself, also where it waits for a lock.
const FIRST: &str = "SET search_path TO pg_catalog,pg_temp;SET client_encoding TO 'UTF8';SET statement_timeout TO '55s';\
                     SET default_transaction_read_only TO on;SET application_name TO 'forebay catalogue';";

/// What goes in front of each query of a pool's server: its last client may have been in a hurry, or have had another
/// encoding. The query's message is one transaction, and they hold for that.
const UNHURRIED: &str = "SET LOCAL statement_timeout TO '55s';";
const READABLE: &str = "SET LOCAL client_encoding TO 'UTF8';";

/// What PostgreSQL says of a statement that took too long, or that somebody cancelled.
const CANCELLED: &str = "57014";

impl Pool {
    /// Whether the catalogue is to be read now. `usage`: of whoever used the server that has come free.
    #[inline]
    pub(crate) fn is_catalogue_due(&self, usage: Option<Usage>, now: Instant) -> bool {
        let is_tracked = usage.unwrap_or(self.settings.usage()).is_tracked();
        is_tracked && self.knowledge.is_due(now, self.settings.catalogue_refresh)
    }
}

impl<I: Io> Worker<I> {
    /// Sees that the catalogue, which is due, is read. True: the server that has come free is busy with that.
    #[cold]
    pub(crate) fn read_catalogue(&mut self, io: &mut I, of: PoolId, free: Option<ServerKey>) -> bool {
        let Some(id) = self.read_by(of) else { return false };
        let free = free.filter(|_| id == of);
        let pool = &self.pools[id.0 as usize];
        let is_open =
            !(pool.is_shut || pool.is_removed || self.is_cleared(id)) && pool.endpoints.next_try(self.now) <= self.now;
        let is_let_in = is_open && pool.knowledge.is_reader_let_in(self.now);
        if !is_let_in && free.is_none() {
            return false;
        }
        let Some(reading) = pool.knowledge.begin_reading() else { return false };
        let key = if is_let_in { self.open_apart(io, id, Apart::Reader) } else { free.expect("one is free") };
        self.servers[key].reading = Some(reading);
        if !is_let_in {
            self.send_own(io, key, Own::Stamp, &format!("{UNHURRIED}{}", Catalogue::STAMP));
        }
        !is_let_in
    }

    /// The pool whose servers tell the catalogue of a database: that of the primary, which no other is ahead of.
    fn read_by(&self, id: PoolId) -> Option<PoolId> {
        let pool = &self.pools[id.0 as usize];
        if !is_of_replicas(&pool.database) {
            return Some(id);
        }
        if pool.is_held {
            return None;
        }
        self.pool_ids.get(&(database_of(&pool.database).into(), pool.user.clone())).copied()
    }

    /// What is known of the database of the pools that are called `name`.
    pub(crate) fn knowledge_of(&self, target: &Database, name: &str) -> Arc<Knowledge> {
        // The copies of a cluster are one, whichever of them is listed first.
        let endpoint = target.config.endpoints.first().unwrap_or(&self.nobody);
        let known = self.shared.knowledge(endpoint, &target.dbname(name).into());
        let is_of_primary = target.config.cluster.is_none_or(|cluster| cluster.role == Role::Primary);
        if is_of_primary || is_of_replicas(name) { known } else { known.of_replicas() }
    }

    /// The connection is logged in.
    pub(crate) fn reader_opened(&mut self, io: &mut I, key: ServerKey) {
        self.send_own(io, key, Own::Stamp, &format!("{FIRST}{}", Catalogue::STAMP));
    }

    /// The connection was not let in, or is of no use.
    pub(crate) fn reader_refused(&mut self, io: &mut I, key: ServerKey, cause: &str) {
        if let Some(reading) = self.servers[key].reading.take() {
            reading.was_refused(self.now);
        }
        let fields =
            vec![("pool", self.pools[self.servers[key].pool.0 as usize].label().into()), ("cause", cause.into())];
        self.log(io, Level::Info, "catalogue_reader_refused", fields);
        self.drop_opening(io, key, cause);
    }

    /// It is known whether the catalogue has changed: if so, it is read.
    pub(crate) fn stamp_read(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let is_changed = self.servers[key].reading.as_ref().is_some_and(|reading| !reading.is_unchanged());
        if error.is_some() || !is_changed {
            return self.reading_ends(io, key, error, Reading::ends_unchanged);
        }
        let server = &self.servers[key];
        self.pools[server.pool.0 as usize].stats.stats.catalogue_loads.add(1);
        let unhurried = if server.apart.is_some() { "" } else { UNHURRIED };
        let readable = if server.encoding().is_none_or(is_utf8) { "" } else { READABLE };
        self.send_own(io, key, Own::Catalogue, &format!("{unhurried}{readable}{}", Catalogue::QUERY));
    }

    /// The catalogue has been read, or could not be.
    pub(crate) fn catalogue_read(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        self.reading_ends(io, key, error, Reading::ends);
    }

    fn reading_ends(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>, end: fn(Reading, Instant)) {
        let now = self.now;
        let is_apart = self.servers[key].apart.is_some();
        match error {
            Some((sqlstate, message)) if is_apart => {
                // It has waited for a lock as long as it may; a server of the pool would do so next.
                if sqlstate == CANCELLED {
                    let reading = self.servers[key].reading.take();
                    self.reading_is_lost(reading);
                }
                return self.reader_refused(io, key, &format!("{sqlstate} {message}"));
            }
            Some(_) => {
                let reading = self.servers[key].reading.take();
                self.reading_is_lost(reading);
            }
            None => {
                if let Some(reading) = self.servers[key].reading.take() {
                    end(*reading, now);
                }
            }
        }
        if is_apart {
            self.retire(io, key, "the catalogue has been read");
        }
    }

    /// Who was reading the catalogue is gone.
    pub(crate) fn reading_is_lost(&mut self, reading: Option<Box<Reading>>) {
        if let Some(reading) = reading {
            reading.breaks_off(self.now);
        }
    }
}
