//! Statements that fail while anybody is connected to a database: DROP DATABASE, and those that rename, move or copy one.
//!
//! Directly, the database is free as soon as the last client has left. Here a pool keeps servers that nobody uses, and
//! these must not be what is in the way: where no client is connected, they are closed, by all workers. PostgreSQL waits
//! for so long until the last session has gone (dbcommands.c, `CountOtherDBBackends`), and for as long no server of such
//! a pool is kept. Where a client is connected the statement fails, as it does without forebay.

use std::sync::Arc;
use std::time::Duration;

use forebay_pgwire::frontend::Parse;
use forebay_sql::shape::{Shape, Verb};

use crate::io::{Endpoint, Io};
use crate::pool::PoolId;
use crate::request::Forwarding;
use crate::session::client::{Client, ClientKey};
use crate::session::server::ServerKey;
use crate::worker::{Message, Worker};

/// PostgreSQL waits for so long.
const WAIT: Duration = Duration::from_secs(5);

/// Why a server is closed for it.
pub(crate) const CLEARED: &str = "its database is needed without sessions";

/// Where statements are not looked at, one that is about a database is not longer than this.
const TEXT_BYTES_MAX: usize = 1024;

/// A database that a statement needs without sessions.
#[derive(Clone, Debug)]
pub struct Clearing {
    /// Its name on its server.
    dbname: Arc<str>,
    /// Where the server listens.
    endpoints: Arc<[Endpoint]>,
    /// Whose statement it is: its own session is not in the way.
    by: u64,
}

impl Forwarding<'_> {
    /// Notes that a statement, which is about to go out, needs a database without sessions.
    pub(crate) fn note_clearing(&mut self, shape: &Shape) {
        // With others beside it, it fails: it may not run in a transaction block.
        if let [statement] = &*shape.statements
            && statement.verb == Verb::Database
        {
            self.server.clearing.extend(statement.name.clone());
        }
    }

    /// The same of a text of a session whose statements are not looked at.
    pub(crate) fn note_clearing_in(&mut self, text: &[u8]) {
        if text.len() <= TEXT_BYTES_MAX && names_databases(text) {
            let shape = self.cache.shape(text, self.backslash_in(text));
            self.note_clearing(&shape);
        }
    }

    /// The same of a Parse.
    pub(crate) fn note_clearing_in_parse(&mut self, body: &[u8]) {
        if body.len() <= TEXT_BYTES_MAX
            && let Ok(parse) = Parse::decode(body)
        {
            self.note_clearing_in(parse.query);
        }
    }
}

/// Whether the word is there.
fn names_databases(text: &[u8]) -> bool {
    const WORD: &[u8] = b"database";
    memchr::memchr2_iter(b'b', b'B', text).any(|at| {
        // It is the fifth letter.
        let found = at.checked_sub(4).and_then(|start| text.get(start..start + WORD.len()));
        found.is_some_and(|found| found.eq_ignore_ascii_case(WORD))
    })
}

impl<I: Io> Worker<I> {
    /// Statements that need databases without sessions go to a client's server.
    #[cold]
    pub(crate) fn clear_databases(&mut self, io: &mut I, client_key: ClientKey, key: ServerKey) {
        let by = self.clients[client_key].id;
        let endpoints = self.pools[self.servers[key].pool.0 as usize].target.endpoints.clone();
        for dbname in std::mem::take(&mut self.servers[key].clearing) {
            let clearing = Clearing { dbname: dbname.into(), endpoints: endpoints.clone(), by };
            self.tell_others(io, || Message::Clear(clearing.clone()));
            self.clear(io, &clearing);
        }
    }

    /// Some worker's client needs a database without sessions.
    pub(crate) fn clear(&mut self, io: &mut I, clearing: &Clearing) {
        for index in 0..self.pools.len() {
            let pool = &mut self.pools[index];
            let is_there = pool.target.endpoints.iter().any(|endpoint| clearing.endpoints.contains(endpoint));
            if is_there && *pool.target.dbname(&pool.database) == *clearing.dbname {
                (pool.cleared_until, pool.cleared_by) = (self.now + WAIT, clearing.by);
                self.clear_pool(io, PoolId(index as u32));
            }
        }
    }

    /// Whether a pool is to keep no servers: its database is needed without sessions, and no other client is connected.
    pub(crate) fn is_cleared(&self, id: PoolId) -> bool {
        let pool = &self.pools[id.0 as usize];
        let is_in_the_way = |client: &Client| client.pool == Some(id) && client.id != pool.cleared_by;
        pool.cleared_until > self.now && !self.clients.iter().any(|(_, client)| is_in_the_way(client))
    }

    /// Closes what a pool keeps, if it is to keep nothing. What is not idle yet is closed when it would be.
    pub(crate) fn clear_pool(&mut self, io: &mut I, id: PoolId) {
        if self.is_cleared(id) {
            self.close_idle(io, id, CLEARED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::names_databases;

    #[test]
    fn only_a_text_with_the_word_is_read() {
        assert!(names_databases(b"drop DataBase x"));
        assert!(!names_databases(b"base"));
        assert!(!names_databases(b"drop table databas"));
    }
}
