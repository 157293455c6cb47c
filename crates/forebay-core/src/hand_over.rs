//! Hand-overs: what stands between two clients of a server, and how the second one's first request travels with it.
//!
//! What undoes the last client and sets what the next one wants is the prefix. It goes out in one write with the
//! client's request, and must fail closed: a request never runs on a server that it failed on. So the prefix is a
//! pipeline without a Sync, from BEGIN to COMMIT. Whatever of it fails, BEGIN and COMMIT as well, PostgreSQL skips all
//! that follows up to the next Sync, messages of both protocols. At most one request goes ahead, which holds one Sync at
//! most, and that at its end; what comes behind waits until the COMMIT is answered.
//!
//! | the prefix is | then |
//! |---|---|
//! | answered by its COMMIT | the request's own replies follow |
//! | refused | a Sync of ours ends the skipping; if nothing but ReadyForQuery comes, nothing was done |
//! | skipped | the server is closed, and the request, of which a copy was kept, is made on another one |
//!
//! (PG protocol, "Extended Query": skipping after an error. A Query "BEGIN; …; COMMIT" would not do: an error before
//! its BEGIN or at its COMMIT leaves no failed block behind, and what follows is run.)

use forebay_pgwire::backend::{CommandComplete, ErrorFields, tag as reply};
use forebay_pgwire::frame::{HEAD_BYTES, Head};
use forebay_pgwire::frontend::{Target, tag};
use forebay_pgwire::write;
use forebay_spec::errors;
use forebay_sql::traces::Traces;

use crate::failure::words;
use crate::frame::At;
use crate::io::Io;
use crate::leave::undo_all;
use crate::parameters::transition;
use crate::planted::{Bug, planted};
use crate::reply::{Next, READ_BYTES_MAX, Relaying, Verdict};
use crate::reported::report_parameters;
use crate::request::{Forwarding, Stop, Taken};
use crate::session::client::{ClientKey, ClientState, Extent};
use crate::session::expect::{Expect, Own};
use crate::session::server::{Server, ServerKey, ServerState};
use crate::statements::Statement;
use crate::statements::fixed::{Fixed, Run};
use crate::tracking::reset::is_of_server;
use crate::worker::Worker;

/// A request that goes ahead is kept whole until the prefix is answered; a longer one waits.
const AHEAD_BYTES_MAX: usize = 16 * 1024;

/// Servers on which what a client wants may fail to be set, before it is told.
const FAILURES_MAX: u8 = 3;

/// A prefix that is not answered yet.
#[derive(Debug)]
pub struct HandOver {
    /// Statements still to be answered; the last one is the COMMIT.
    statements: usize,
    /// How many of them set what the client wants, the COMMIT among them.
    of_image: usize,
    /// What of the client went ahead.
    kept: Vec<u8>,
    /// A whole request did.
    is_whole: bool,
    /// The server has been asked for the answer.
    is_flushed: bool,
    /// A cancel was sent for the request.
    is_cancelled: bool,
    /// A cancel came before anything of the request could run: it is not made again.
    is_withdrawn: bool,
    /// ReadyForQuery that are to come.
    readies: usize,
    failure: Option<Failure>,
}

/// Why a prefix failed.
#[derive(Debug)]
struct Failure {
    sqlstate: String,
    message: String,
    /// In what sets what the client wants.
    is_of_image: bool,
}

impl HandOver {
    /// Whether nothing of the client's can have been done.
    pub(crate) fn is_undone(&self) -> bool {
        self.kept.is_empty() || self.failure.is_some()
    }

    /// Whether the server's silence can't be the client's request at work.
    pub(crate) fn is_limited(&self) -> bool {
        !self.is_whole
    }

    /// What of the client went ahead.
    pub(crate) fn into_kept(self) -> Vec<u8> {
        self.kept
    }

    /// A cancel was sent for the request.
    pub(crate) fn note_cancel(&mut self) {
        self.is_cancelled = true;
    }

    /// Has the server tell how the prefix went, unless it will do so by itself when the request is answered.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.is_whole && !self.is_flushed {
            self.is_flushed = true;
            write::flush(out);
        }
    }
}

impl<I: Io> Worker<I> {
    /// Sends the prefix. True: the client may send its request behind it. False: there is nothing to send.
    pub(crate) fn hand_over(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey, resets: bool) -> bool {
        let reset = if resets { self.reset_statements(key) } else { Vec::new() };
        let seed = if resets { Self::new_seed(io) } else { 0.0 };
        let (server, client) = (&mut self.servers[key], &self.clients[client_key]);
        let mut takes_names = false;
        if resets {
            let dirt = std::mem::take(&mut server.left.dirt);
            server.left.by = 0;
            takes_names = dirt.has(Traces::PREPARED);
            if takes_names {
                server.statements.clear();
            }
            if dirt.has_any(Traces::ANY_SETTING | Traces::AUTHORIZATION) {
                server.set = self.images.empty();
                server.is_set_known = true;
            }
        }
        let image = transition(&server.set, &client.wanted, server.is_set_known, server.encoding());
        if reset.is_empty() && image.is_empty() {
            return false;
        }
        let is_kept = client.usage.is_sharing && !takes_names;
        let mut run = Run::new(is_kept.then_some((&mut server.statements, self.cache.prefix())), seed);
        run.fixed(Fixed::Begin);
        reset.into_iter().for_each(|fixed| run.fixed(fixed));
        image.iter().for_each(|sql| run.other(sql));
        run.fixed(Fixed::Commit);
        let Run { mut out, count: statements, uses_unnamed, .. } = run;
        if planted(Bug::PrefixEndsSkipping) {
            write::sync(&mut out);
        }
        server.hand_over = Some(Box::new(HandOver {
            statements,
            of_image: image.len() + 1,
            kept: Vec::new(),
            is_whole: false,
            is_flushed: false,
            is_cancelled: false,
            is_withdrawn: false,
            readies: 0,
            failure: None,
        }));
        server.expect.push_back(Expect::Own(Own::HandOver));
        if uses_unnamed {
            server.statements.unnamed_is_ours();
        }
        if !client.usage.is_sharing {
            // Nobody looks at its messages: a Bind of an unnamed statement that it never parsed must not find the COMMIT.
            write::close(&mut out, Target::STATEMENT, b"");
            server.statements.forget_unnamed();
            server.expect.push_back(Expect::Close { evicted: None, relay: false });
        }
        // As it is for whatever is run behind the prefix.
        server.set = client.wanted.clone();
        server.is_set_known = true;
        self.send_to_server(io, key, &out);
        self.arm_server(key);
        let (now, client) = (self.now, &mut self.clients[client_key]);
        client.enter(ClientState::Active, now);
        client.request_at = now;
        true
    }

    /// The prefix failed: all that the server does until the next Sync is to skip.
    pub(crate) fn hand_over_failed(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        let expect = std::mem::take(&mut server.expect);
        let Some(client_key) = server.client else {
            let failure = server.hand_over.as_ref().and_then(|hand_over| hand_over.failure.as_ref());
            let why = failure.map_or_else(String::new, |failure| format!("{} {}", failure.sqlstate, failure.message));
            return self.retire(io, key, &format!("its reset failed: {why}, and its client has left"));
        };
        if let (Some(client), false) = (self.clients.get_mut(client_key), planted(Bug::SkippedNameKept)) {
            undo_all(client, &expect);
        }
        let server = &mut self.servers[key];
        if let Some(hand_over) = &mut server.hand_over {
            hand_over.readies += 1;
        }
        server.expect.push_back(Expect::Own(Own::Skipped));
        server.enter(ServerState::Busy, self.now);
        let mut out = Vec::new();
        write::sync(&mut out);
        self.send_to_server(io, key, &out);
        self.arm_server(key);
    }

    /// A cancel came for a request of which nothing runs yet: what of it stands behind a prefix is not run. The server is
    /// cleaned as behind a client that has left.
    pub(crate) fn cancel_behind_hand_over(&mut self, io: &mut I, key: ServerKey) {
        let Some(hand_over) = &mut self.servers[key].hand_over else { return };
        if hand_over.failure.is_some() {
            hand_over.is_withdrawn = true;
            return;
        }
        let kept = std::mem::take(&mut hand_over.kept);
        let Some(client_key) = self.take_back(key) else { return };
        let (server, client) = (&self.servers[key], &mut self.clients[client_key]);
        undo_all(client, &server.expect);
        client.keep_again(kept);
        self.clean(io, key);
        self.refuse_waiting(client_key, errors::cancelled_while_waiting(), Extent::NextRequest);
    }

    /// All was skipped: the server is closed, and its client waits for another.
    pub(crate) fn hand_over_undone(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        let (id, late) = (server.pool, server.late.take());
        let Some(HandOver { kept, failure: Some(failure), is_cancelled, is_withdrawn, .. }) =
            server.hand_over.take().map(|h| *h)
        else {
            return self.server_in_doubt(io, key, "a hand-over that did not fail");
        };
        let Failure { sqlstate, message, is_of_image } = failure;
        let endpoint = self.endpoint_name(key);
        let client_key = self.take_back(key);
        self.retire(io, key, &format!("its reset failed: {sqlstate} {message}"));
        let Some(client_key) = client_key else { return };
        let client = &mut self.clients[client_key];
        client.keep_again(kept);
        // A reset that fails is the last client's doing.
        client.failed_hand_overs += u8::from(is_of_image);
        let is_refused = is_of_image && !is_of_server(&sqlstate);
        if let Some(report) = late {
            self.refuse_waiting(client_key, *report, Extent::NextRequest);
        } else if is_withdrawn || is_cancelled && sqlstate == "57014" {
            self.refuse_waiting(client_key, errors::cancelled_while_waiting(), Extent::NextRequest);
        } else if is_refused || client.failed_hand_overs > FAILURES_MAX {
            let report = errors::server_parameter_refused(endpoint, format!("{sqlstate} {message}"));
            self.refuse_and_close(io, client_key, report);
        } else {
            self.enqueue(io, id, client_key);
        }
    }
}

impl Forwarding<'_> {
    /// Deals with a frame while the prefix is not answered: it goes ahead, or waits.
    #[cold]
    pub(crate) fn go_ahead(&mut self, at: At<'_>) -> Taken {
        let Some(hand_over) = &self.server.hand_over else { return self.step_behind(at) };
        let is_over = hand_over.is_whole;
        let is_too_long = hand_over.kept.len() + at.head.bytes as usize > AHEAD_BYTES_MAX;
        let is_part = match at.head.tag {
            tag::QUERY => !self.server.is_segment_open,
            other => matches!(
                other,
                tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE | tag::FLUSH | tag::SYNC
            ),
        };
        if is_over || is_too_long || !is_part || hand_over.failure.is_some() {
            return Err(Stop::Hold);
        }
        if !at.is_whole() {
            return Err(Stop::More);
        }
        let taken = self.step_behind(at)?;
        if let Some(hand_over) = &mut self.server.hand_over {
            hand_over.kept.extend_from_slice(&at.data[at.start..at.start + taken]);
            hand_over.is_whole |= matches!(at.head.tag, tag::QUERY | tag::SYNC);
            hand_over.readies += usize::from(at.head.tag == tag::SYNC);
        }
        Ok(taken)
    }

    /// Keeps a statement back whose effect on the client's names would not be undone with it.
    pub(crate) fn hold_back(&self, statement: &Statement) -> Result<(), Stop> {
        let has_effect = statement.needs().is_some() || statement.takes_away();
        if has_effect && self.server.hand_over.is_some() { Err(Stop::Hold) } else { Ok(()) }
    }
}

impl Relaying<'_> {
    /// Decides what becomes of a message that answers the prefix.
    #[cold]
    pub(crate) fn step_of_hand_over(&mut self, own: Own, data: &[u8], head: Head) -> (Verdict, Option<Next>) {
        let end = data.len().min(head.bytes as usize);
        if end < head.bytes as usize && head.bytes <= READ_BYTES_MAX {
            return (Verdict::Drop, Some(Next::More));
        }
        let body = &data[HEAD_BYTES..end];
        match (head.tag, own) {
            (reply::NOTICE_RESPONSE | reply::NOTIFICATION_RESPONSE, _) => (Verdict::Drop, None),
            (reply::PARAMETER_STATUS, _) => self.parameter_status(body),
            (reply::READY_FOR_QUERY, Own::Skipped) => self.skipped_to_sync(),
            (reply::READY_FOR_QUERY, _) if planted(Bug::PrefixEndsSkipping) => self.prefix_is_answered(),
            (_, Own::Skipped) if planted(Bug::PrefixEndsSkipping) => (Verdict::Drop, None),
            (reply::COMMAND_COMPLETE, Own::HandOver) => self.part_of_prefix_done(body),
            (reply::ERROR_RESPONSE, Own::HandOver) => self.prefix_failed(body),
            (
                reply::CLOSE_COMPLETE
                | reply::PARSE_COMPLETE
                | reply::BIND_COMPLETE
                | reply::DATA_ROW
                | reply::EMPTY_QUERY_RESPONSE,
                Own::HandOver,
            ) => (Verdict::Drop, None),
            _ => (Verdict::Drop, Some(Next::Violation("an answer to what must have been skipped"))),
        }
    }

    fn part_of_prefix_done(&mut self, body: &[u8]) -> (Verdict, Option<Next>) {
        let Some(hand_over) = &mut self.server.hand_over else {
            return (Verdict::Drop, Some(Next::Violation("an answer that nothing asked for")));
        };
        hand_over.statements = hand_over.statements.saturating_sub(1);
        if hand_over.statements > 0 || planted(Bug::PrefixEndsSkipping) {
            return (Verdict::Drop, None);
        }
        match CommandComplete::decode(body) {
            Ok(CommandComplete { tag: b"COMMIT" }) => self.prefix_is_answered(),
            _ => (Verdict::Drop, Some(Next::Violation("a hand-over that was not committed"))),
        }
    }

    fn prefix_is_answered(&mut self) -> (Verdict, Option<Next>) {
        self.server.expect.pop_front();
        self.server.hand_over = None;
        // What has changed is reported with the next ReadyForQuery (PostgreSQL >= 14).
        self.server.is_report_due = true;
        if let Some(client) = &mut self.client {
            client.failed_hand_overs = 0;
        }
        (Verdict::Drop, None)
    }

    fn prefix_failed(&mut self, body: &[u8]) -> (Verdict, Option<Next>) {
        let Ok(fields) = ErrorFields::decode(body) else {
            return (Verdict::Drop, Some(Next::Violation("a malformed ErrorResponse")));
        };
        if fields.is_fatal() {
            // The connection ends, and what that means for the client is decided then.
            self.server.own_error = Some(words(fields));
            return (Verdict::Drop, None);
        }
        let (sqlstate, message) = words(fields);
        if let Some(hand_over) = &mut self.server.hand_over {
            let is_of_image = hand_over.statements <= hand_over.of_image;
            hand_over.failure = Some(Failure { sqlstate, message, is_of_image });
        }
        (Verdict::Drop, Some(Next::HandOverFailed))
    }

    fn skipped_to_sync(&mut self) -> (Verdict, Option<Next>) {
        let Some(hand_over) = &mut self.server.hand_over else {
            return (Verdict::Drop, Some(Next::Violation("ReadyForQuery that nothing asked for")));
        };
        hand_over.readies = hand_over.readies.saturating_sub(1);
        if hand_over.readies > 0 {
            return (Verdict::Drop, None);
        }
        self.server.expect.pop_front();
        (Verdict::Drop, Some(Next::OwnDone(Own::Skipped)))
    }

    /// A request is about to be answered: the client is told what the hand-over has changed for it.
    #[cold]
    pub(crate) fn report_hand_over(&mut self) {
        self.server.is_report_due = false;
        if let Some(client) = &mut self.client {
            report_parameters(client, self.server, self.batch.owned());
        }
    }
}

/// Why a hand-over that was lost with its server has left nothing done.
pub(crate) fn is_undone(server: &Server, has_reported: bool) -> bool {
    // A server that says why it ends says so behind all that it has answered.
    server.hand_over.as_ref().is_some_and(|hand_over| has_reported || hand_over.is_undone())
}
