//! Which requests of a client go to a replica, where its database says that reads do (`read_write_split`).
//!
//! Decided before the request gets a server, for all of it up to its Sync: what a server has begun it ends. A text is for
//! the primary unless it is known to do nothing but read ([`forebay_sql::route`]). A client that holds a server goes on there.
//!
//! | of a request | goes to |
//! |---|---|
//! | a comment `/* forebay: role=replica */` before its text, or `SET forebay.role` | that |
//! | a text that a replica has refused, for it writes ([`super::again`]) | the primary |
//! | a text that only reads, or begins a transaction that can only do so | a replica |
//! | a pipeline up to Sync, all of whose statements do | a replica |
//! | one whose Sync has not come yet, or that has a Flush in it | the primary: nobody knows what is still to come |
//! | a function call, whatever else | the primary |
//!
//! No replica serves at the moment: all goes to the primary. So do reads whose session must see what no replica is known to have
//! ([`super::consistency`]).

use forebay_pgwire::frame::{self, HEAD_BYTES};
use forebay_pgwire::frontend::{BindHead, Parse, Target, tag};
use forebay_sql::catalogue::Catalogue;
use forebay_sql::route::{Reason, route};

use super::consistency::{Following, Needs, Reading, WRITING};
use super::replay::Replaying;
use crate::config::Consistency;
use crate::frame::At;
use crate::io::Io;
use crate::pool::{Pool, PoolId};
use crate::session::client::{Client, ClientKey, ClientState};
use crate::session::server::ServerKey;
use crate::statements::{Lookup, StatementCache};
use crate::tables::{is_of_replicas, replicas_of};
use crate::time::Instant;
use crate::worker::Worker;

/// The setting by which a session says where its requests go.
pub(super) const SETTING: &str = "forebay.role";
/// What a comment that says so for one text begins with.
const COMMENT: &[u8] = b"forebay:";
/// Messages of a request that are looked at; a longer one is for the primary.
const MESSAGES_MAX: usize = 128;
/// Bytes of a text in which that comment ends.
const COMMENT_BYTES_MAX: usize = 128;

/// Where a session or a text asks to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Primary,
    Replica,
    Auto,
}

/// Where a comment at the beginning of a text asks for it to be served: `primary`, `replica`, `auto`.
pub fn role_asked(text: &[u8]) -> Option<&'static str> {
    Asked::in_text(text).map(|asked| match asked {
        Asked::Primary => "primary",
        Asked::Replica => "replica",
        Asked::Auto => "auto",
    })
}

impl Asked {
    fn of(word: &[u8]) -> Option<Asked> {
        // As PostgreSQL compares the values of a setting.
        let all = [("primary", Asked::Primary), ("replica", Asked::Replica), ("auto", Asked::Auto)];
        all.into_iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes())).map(|(_, asked)| asked)
    }

    /// What a comment at the beginning of a text says.
    fn in_text(text: &[u8]) -> Option<Asked> {
        let said = text.trim_ascii_start().strip_prefix(b"/*")?.trim_ascii_start().strip_prefix(COMMENT)?;
        let said = &said[..said.len().min(COMMENT_BYTES_MAX)];
        let end = said.windows(2).position(|two| two == b"*/")?;
        let mut words = said[..end].split(|byte| byte.is_ascii_whitespace() || *byte == b',');
        words.find_map(|word| Asked::of(word.strip_prefix(b"role=")?))
    }
}

/// What is needed to say where a request goes.
struct Router<'a> {
    client: &'a Client,
    cache: &'a mut StatementCache,
    catalogue: &'a Catalogue,
    asked: Asked,
    /// The client has asked for a replica, in a text or at large.
    is_asked: bool,
    /// The request begins a transaction that may write.
    begins: bool,
}

impl Router<'_> {
    /// Whether a replica may serve the request that begins at `start`.
    fn allows_replica(&mut self, data: &[u8], mut start: usize) -> bool {
        let mut parsed: Vec<&[u8]> = Vec::new();
        for _ in 0..MESSAGES_MAX {
            let Ok(Some(head)) = frame::head(&data[start..], u32::MAX) else { return false };
            let end = start + head.bytes as usize;
            let Some(body) = data.get(start + HEAD_BYTES..end) else { return false };
            let is_allowed = match head.tag {
                tag::QUERY => return self.allows_text(body.strip_suffix(b"\0").unwrap_or(body)),
                tag::SYNC => return true,
                tag::PARSE => Parse::decode(body).is_ok_and(|parse| {
                    parsed.push(parse.name);
                    self.allows_text(parse.query)
                }),
                tag::BIND => BindHead::decode(body)
                    .is_some_and(|bind| parsed.contains(&bind.statement) || self.allows_statement(bind.statement)),
                tag::DESCRIBE => Target::decode(body).is_ok_and(|target| {
                    let is_known = target.kind != Target::STATEMENT || parsed.contains(&target.name);
                    is_known || self.allows_statement(target.name)
                }),
                tag::EXECUTE | tag::CLOSE => true,
                _ => false,
            };
            if !is_allowed {
                return false;
            }
            start = end;
        }
        false
    }

    fn allows_statement(&mut self, name: &[u8]) -> bool {
        // Nothing is under way that could still change what a name means.
        match self.client.statements.as_ref().map(|names| names.find(name, 0)) {
            Some(Lookup::Known(statement)) => self.allows_text(statement.text()),
            _ => false,
        }
    }

    fn allows_text(&mut self, text: &[u8]) -> bool {
        match Asked::in_text(text).unwrap_or(self.asked) {
            Asked::Primary => false,
            Asked::Replica => {
                self.is_asked = true;
                true
            }
            Asked::Auto => {
                let shape = self.cache.shape(text, self.client.seen.backslash_in(text));
                let reason = route(&shape, self.catalogue.judge(&shape));
                self.begins |= reason == Reason::Begins;
                reason.allows_replica() && !self.catalogue.was_refused(&shape)
            }
        }
    }
}

impl Pool {
    /// No endpoint is for its clients, now or for good.
    fn has_no_replica(&self) -> bool {
        self.is_held || self.is_removed
    }

    /// Whether reads are sent to this pool of replicas: it has servers, or one may be opened.
    fn serves_reads(&self, now: Instant) -> bool {
        !self.has_no_replica() && (self.servers > self.opening || self.endpoints.next_try(now) <= now)
    }
}

impl<I: Io> Worker<I> {
    /// Says which pool serves the request of a client that begins at `at`.
    pub(crate) fn route(&mut self, key: ClientKey, at: At<'_>) {
        let client = &mut self.clients[key];
        (client.served_by, client.is_tried, client.reading) = (None, false, Reading::No);
        (client.needs, client.following, client.begins) = (Needs::default(), Following::No, false);
        let Some(home) = self.clients[key].pool else { return };
        let cluster = self.pools[home.0 as usize].target.config.cluster;
        let Some(cluster) = cluster.filter(|cluster| cluster.is_split) else { return };
        self.clients[key].retries = cluster.retries_reads;
        let consistency = self.level_of(key, cluster.read_consistency);
        if consistency == Consistency::Session {
            self.clients[key].following = Following::Kept;
        }
        let pool = &mut self.pools[home.0 as usize];
        pool.look_up_catalogue();
        let client = &self.clients[key];
        let wanted = |name: &str| client.wanted.get(name).map(|value| value.as_bytes());
        // A standby knows no serializable transactions, and hears no notifications.
        let is_serializable = |level: &[u8]| level.eq_ignore_ascii_case(b"serializable");
        let level = wanted("default_transaction_isolation");
        let is_barred = level.is_some_and(is_serializable) || client.listens.is_some();
        let asked = wanted(SETTING).and_then(Asked::of).unwrap_or(Asked::Auto);
        let catalogue = &pool.catalogue;
        let mut router = Router { client, cache: &mut self.cache, catalogue, asked, is_asked: false, begins: false };
        if is_barred || !router.allows_replica(at.data, at.start) {
            let begins = router.begins;
            (self.clients[key].written_at, self.clients[key].begins) = (WRITING, begins);
            return;
        }
        let is_tried = !router.is_asked;
        let replicas = self.replicas_of(home).filter(|id| self.pools[id.0 as usize].serves_reads(self.now));
        let may_read = !is_tried || self.settle_needs(key, home, consistency);
        let client = &mut self.clients[key];
        (client.served_by, client.is_tried) = (replicas, is_tried);
        if replicas.is_none() || !may_read {
            client.goes_home();
        }
        if !is_tried && client.following == Following::Kept {
            client.following = Following::Anywhere;
        }
    }

    /// How far of the bytes at hand a client may send to its server. Up to where its request ends if it only reads: what comes
    /// behind it may have to be served elsewhere, or may write.
    pub(crate) fn reach_on_replica<'d>(
        &mut self,
        key: ClientKey,
        server: ServerKey,
        data: &'d [u8],
        at: usize,
    ) -> &'d [u8] {
        let is_home = Some(self.servers[server].pool) == self.clients[key].pool;
        let is_replaying = self.clients[key].replaying == Replaying::Runs;
        if !is_replaying && is_home && self.ends_reading(key, server) {
            if self.clients[key].begins {
                self.begin_trial(key, server);
            }
            return data;
        }
        if !is_replaying {
            self.begin_trial(key, server);
        }
        let (client, server) = (&self.clients[key], &self.servers[server]);
        let (mut start, mut is_whole) = (at + client.body_left as usize, false);
        while start < data.len() && !server.owes_ready() {
            let Ok(Some(head)) = frame::head(&data[start..], u32::MAX) else { return data };
            start += head.bytes as usize;
            if matches!(head.tag, tag::QUERY | tag::SYNC | tag::FUNCTION_CALL) {
                is_whole = true;
                break;
            }
        }
        let client = &mut self.clients[key];
        if is_whole && client.reading == Reading::Alone {
            client.reading = Reading::Sent;
        }
        &data[..start.min(data.len())]
    }

    /// A client whose database is split has sent this; `is_all`: of what it may send.
    pub(crate) fn sent_of_split(&mut self, key: ClientKey, server: ServerKey, sent: &[u8], is_all: bool) {
        let client = &mut self.clients[key];
        if !is_all && client.reading == Reading::Sent {
            client.reading = Reading::Alone;
        }
        self.keep_of_trial(key, server, sent);
    }

    /// The pool of the replicas beside a database's own; made at first use.
    fn replicas_of(&mut self, home: PoolId) -> Option<PoolId> {
        if let Some(id) = self.pools[home.0 as usize].replicas {
            return Some(id);
        }
        let pool = &self.pools[home.0 as usize];
        let (name, user) = (replicas_of(&pool.database), pool.user.clone());
        let id = self.find_pool(&name.into(), &user, false)?;
        self.pool(id).secret = self.pools[home.0 as usize].secret.clone();
        self.pool(home).replicas = Some(id);
        Some(id)
    }

    /// A server of a pool could not be opened: who waits for a replica, and none is there, waits for the primary.
    pub(crate) fn send_home_if_sick(&mut self, io: &mut I, id: PoolId) {
        if !self.pools[id.0 as usize].serves_reads(self.now) {
            self.send_home(io, id);
        }
    }

    /// The pool that a client waits in: not that of replicas while none of them serves.
    pub(crate) fn waits_in(&mut self, id: PoolId, key: ClientKey) -> PoolId {
        let client = &mut self.clients[key];
        match client.pool {
            Some(home) if client.served_by == Some(id) && self.pools[id.0 as usize].has_no_replica() => {
                client.goes_home();
                home
            }
            _ => id,
        }
    }

    /// No replica serves any more: who waits for one waits for the primary.
    pub(crate) fn send_home(&mut self, io: &mut I, id: PoolId) {
        if !is_of_replicas(&self.pool(id).database) {
            return;
        }
        let waiting: Vec<_> = self.pool(id).waiters.drain(..).collect();
        self.publish(id);
        for waiter in waiting {
            let Some(client) = self.clients.get_mut(waiter.client) else { continue };
            let waits = client.state == ClientState::Waiting && client.since == waiter.since && client.server.is_none();
            if let Some(home) = client.pool.filter(|_| waits) {
                client.goes_home();
                self.enqueue(io, home, waiter.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_says_where_a_text_goes() {
        let said = |text: &str| Asked::in_text(text.as_bytes());
        assert_eq!(said("/* forebay: role=primary */ select 1"), Some(Asked::Primary));
        assert_eq!(said(" \n/*forebay: role=replica*/select 1"), Some(Asked::Replica));
        assert_eq!(said("/* forebay: shard=4, role=auto */ select 1"), Some(Asked::Auto));
        for text in
            ["/* role=primary */ select 1", "select 1 /* forebay: role=primary */", "/* forebay: role=none */", "/*"]
        {
            assert_eq!(said(text), None, "{text}");
        }
        assert_eq!(said(&format!("/* forebay: {} role=primary */", " ".repeat(COMMENT_BYTES_MAX))), None);
    }
}
