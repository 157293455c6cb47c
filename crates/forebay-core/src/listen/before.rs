//! Before a statement goes to a server to which the channels of its client matter: they are set there. So UNLISTEN and
//! pg_listening_channels find what they would in a session of the client's own, and what is there once the transaction
//! is over is the whole truth.
//!
//! A statement that only listens needs none of it: it adds. Within a block nothing can be set that a ROLLBACK would not
//! undo, so it is done before every BEGIN of a client that listens.

use forebay_pgwire::backend::TransactionStatus;
use forebay_pgwire::frontend::{Parse, tag};
use forebay_spec::{Report, errors};
use forebay_sql::shape::{Shape, Verb};
use forebay_sql::traces::Traces;

use crate::frame::At;
use crate::io::Io;
use crate::request::{Forwarding, Stop};
use crate::session::IDLE;
use crate::session::client::ClientKey;
use crate::session::expect::Own;
use crate::session::server::{ServerKey, ServerState};
use crate::statements::Statement;
use crate::worker::Worker;

impl Forwarding<'_> {
    /// Whether the client has channels that its server does not know of.
    fn listens_elsewhere(&self) -> bool {
        let has_some = self.client.listens.as_ref().is_some_and(|listens| !listens.taken.is_empty());
        has_some && self.server.left.is_on && !self.server.listen.is_restored
    }

    /// Stops before a text to which the client's channels matter, if the server has not got them. `None`: a text that
    /// nobody looks at.
    #[inline]
    pub(crate) fn needs_listens(&mut self, shape: Option<&Shape>) -> Result<(), Stop> {
        if self.client.listens.is_none() || !self.listens_elsewhere() {
            return Ok(());
        }
        let traces = shape.map_or(Traces::OPAQUE, |shape| self.judging.traces(shape));
        let verbs = |is_it: fn(Verb) -> bool| shape.is_some_and(|s| s.statements.iter().any(|s| is_it(s.verb)));
        let is_more_than_listen = shape.is_some_and(|shape| removes_channels(shape, traces));
        let matters = is_more_than_listen || traces.has(Traces::OPAQUE) || verbs(|verb| verb == Verb::Begin);
        let is_within = self.server.is_segment_open || self.server.awaits_sync();
        if !matters || self.server.status != IDLE || is_within || self.server.listen.is_refused {
            return Ok(());
        }
        Err(if self.server.expect.is_empty() { Stop::Listens } else { Stop::Hold })
    }

    /// The same before a Parse: what is executed right behind it can't wait any more.
    #[inline]
    pub(crate) fn parse_needs_listens(&mut self, at: At<'_>) -> Result<(), Stop> {
        if self.client.listens.is_none() || !self.listens_elsewhere() {
            return Ok(());
        }
        match Parse::decode(at.body()) {
            Ok(parse) if self.is_sharing() && at.is_whole() => {
                let shape = self.cache.shape(parse.query, self.backslash_in(parse.query));
                self.needs_listens(Some(&shape))
            }
            // One that is not whole yet is looked at again when it is.
            _ if self.is_sharing() => Ok(()),
            _ => self.needs_listens(None),
        }
    }

    /// The same before a Bind of `statement`.
    #[inline]
    pub(crate) fn bind_needs_listens(&mut self, at: At<'_>, statement: &Statement) -> Result<(), Stop> {
        if at.head.tag == tag::BIND { self.needs_listens(Some(statement.shape())) } else { Ok(()) }
    }

    /// Why a statement is not run: it would find or leave other channels than the client has.
    pub(crate) fn channels_unknown(&self, shape: &Shape, traces: Traces) -> Option<Box<Report>> {
        let is_wrong = removes_channels(shape, traces) && self.listens_elsewhere();
        let is_run = self.server.status != TransactionStatus::Failed;
        (is_wrong && is_run).then(|| Box::new(errors::listens_elsewhere()))
    }
}

/// Whether a shape may end listening to something.
pub(crate) fn removes_channels(shape: &Shape, traces: Traces) -> bool {
    traces.has(Traces::LISTEN) && reads_or_removes(shape)
}

/// Whether a shape that has to do with listening does more than LISTEN, and what neither reads nor ends it.
fn reads_or_removes(shape: &Shape) -> bool {
    let is_harmless = |verb| {
        let is_of_block = matches!(verb, Verb::Begin | Verb::Commit | Verb::Savepoint | Verb::Release);
        let is_undoing = matches!(verb, Verb::Rollback | Verb::RollbackTo);
        let is_plain = matches!(verb, Verb::Listen | Verb::Notify | Verb::Select | Verb::Set | Verb::SetLocal);
        is_of_block || is_undoing || is_plain
    };
    !shape.functions.is_empty() || !shape.statements.iter().all(|s| is_harmless(s.verb))
}

impl<I: Io> Worker<I> {
    /// Sets a client's channels on its server; what the client has sent waits for that.
    pub(crate) fn restore_listens(&mut self, io: &mut I, client_key: ClientKey) {
        let client = &mut self.clients[client_key];
        client.is_held = true;
        let Some(key) = client.server else { return };
        let mut sql = String::new();
        client.listens.iter().for_each(|listens| super::each(&mut sql, "LISTEN ", &listens.taken));
        let server = &mut self.servers[key];
        server.listen.is_restored = true;
        server.left.dirt |= Traces::LISTEN;
        self.send_own(io, key, Own::Listens, &sql);
    }

    /// They are set, or could not be.
    pub(crate) fn listens_restored(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let now = self.now;
        let server = &mut self.servers[key];
        server.enter(ServerState::Leased, now);
        if server.client.is_none() {
            return;
        }
        if let Some((sqlstate, message)) = error {
            server.listen.is_restored = false;
            server.listen.is_refused = true;
            let fields = vec![("server", server.id.into()), ("reply", format!("{sqlstate} {message}").into())];
            self.log(io, crate::event::Level::Warn, "listens_not_set", fields);
        }
    }
}
