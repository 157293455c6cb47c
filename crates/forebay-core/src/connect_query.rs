//! What a database's `connect_query` does on each of its servers, before clients use it.
//!
//! It is the last part of a login, so that what servers report behind it is what clients are greeted with. Of reported
//! parameters that it sets a server is opened anew with the values at its startup: else a hand-over, which resets what the last
//! client had set, would take them away. A reset takes all the rest away, so that the query is run again behind it; and
//! no server is reset in a hand-over.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_pgwire::backend::{ErrorFields, TransactionStatus};
use forebay_pgwire::write;
use forebay_sql::traces::Traces;

use crate::event::Level;
use crate::failure::words;
use crate::io::Io;
use crate::parameters::is_settable;
use crate::session::IDLE;
use crate::session::expect::Own;
use crate::session::server::ServerKey;
use crate::worker::Worker;

/// Values by the names that the server reports.
type Reported = BTreeMap<Arc<str>, Arc<str>>;

impl<I: Io> Worker<I> {
    /// Whether servers of a database have a query to run.
    pub(crate) fn has_connect_query(&self, key: ServerKey) -> bool {
        !self.servers[key].place.connect_query.is_empty()
    }

    /// A server has let us in: its query is sent, if it has one that it has not run. False: there is none.
    pub(crate) fn begin_connect_query(&mut self, io: &mut I, key: ServerKey) -> bool {
        let server = &mut self.servers[key];
        let query = server.place.connect_query.clone();
        let is_of_pool = server.apart.is_none() && server.client.is_none();
        let Some(login) = server.login.as_mut().filter(|_| is_of_pool && !query.is_empty()) else { return false };
        if login.before_query.is_some() {
            return false;
        }
        login.before_query = Some(login.reported.clone());
        login.told = None;
        let mut out = Vec::new();
        write::query(&mut out, &*query);
        self.send_to_server(io, key, &out);
        true
    }

    /// It has failed: the server is used all the same.
    pub(crate) fn connect_query_failed(&mut self, io: &mut I, key: ServerKey, sqlstate: &str, message: &str) {
        let server = &self.servers[key];
        let fields = vec![
            ("pool", self.pools[server.pool.0 as usize].label().into()),
            ("server", server.id.into()),
            ("reply", format!("{sqlstate} {message}").into()),
        ];
        self.log(io, Level::Warn, "connect_query_failed", fields);
    }

    /// The same, in a login.
    pub(crate) fn connect_query_refused(&mut self, io: &mut I, key: ServerKey, body: &[u8]) {
        if let Ok(fields) = ErrorFields::decode(body) {
            let (sqlstate, message) = words(fields);
            self.connect_query_failed(io, key, &sqlstate, &message);
        }
    }

    /// It is answered. True: the server is of no use, and another one is opened.
    pub(crate) fn connect_query_done(&mut self, io: &mut I, key: ServerKey, status: TransactionStatus) -> bool {
        let server = &self.servers[key];
        let (id, place) = (server.pool, server.place.clone());
        let Some(login) = &server.login else { return false };
        let Some(before) = &login.before_query else { return false };
        if status != IDLE {
            self.open_failed(io, key, "its connect_query leaves a transaction open");
            return true;
        }
        let mut learnt = changed(before, &login.reported);
        let Some(endpoint) = self.pool(id).endpoints.of(&place) else { return false };
        // A value that is another one each time is learnt once: nobody waits for the next.
        learnt.retain(|(name, _)| endpoint.learnt.iter().all(|(known, _)| known != name));
        if learnt.is_empty() {
            return false;
        }
        endpoint.learnt.extend(learnt);
        self.drop_opening(io, key, "it is opened anew with what its connect_query sets");
        self.supply(io, id);
        true
    }

    /// Whether a free server must be reset, and the query run again. A value that the server reports is what it was opened
    /// with once it is reset; what the query has set of all others, a hand-over can't know, nor what a client has reset.
    pub(crate) fn is_connect_query_undone(&mut self, key: ServerKey) -> bool {
        let server = &mut self.servers[key];
        let is_reported = |name: &str| server.reported.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let is_undone = std::mem::take(&mut server.is_connect_query_undone);
        if is_undone || server.set.iter().any(|(name, _)| !is_reported(name)) {
            server.left.dirt |= Traces::ANY_SETTING;
        }
        let affinity = self.pools[server.pool.0 as usize].settings.sequence_affinity;
        server.left.is_reset_due(affinity)
    }

    /// A server has been reset: what its query did is done again.
    pub(crate) fn repeat_connect_query(&mut self, io: &mut I, key: ServerKey) {
        let query = self.servers[key].place.connect_query.clone();
        self.send_own(io, key, Own::Connect, &query);
    }
}

/// Parameters with other values than before.
fn changed(before: &Reported, after: &Reported) -> Vec<(Arc<str>, Arc<str>)> {
    let is_changed = |(name, value): &(&Arc<str>, &Arc<str>)| is_settable(name) && before.get(*name) != Some(*value);
    after.iter().filter(is_changed).map(|(name, value)| (name.clone(), value.clone())).collect()
}
