//! Endings: a client that leaves, a server that is lost, and what either leaves behind.
//!
//! A client that leaves in the middle costs the server connection only if it can't be cleaned: what runs is
//! cancelled, what is owed is drained, the transaction is rolled back, and the server serves on.

use std::collections::VecDeque;

use forebay_pgwire::write;
use forebay_spec::{Report, Severity, errors};
use forebay_sql::traces::Traces;

use crate::cluster::replay::Replaying;
use crate::config::PoolMode;
use crate::ends::{answer_lost, may_have_committed};
use crate::event::{Field, Level};
use crate::io::{Close, ClosedBy, Io};
use crate::outcome::decide::Known;
use crate::planted::{Bug, planted};
use crate::request::write_failing;
use crate::session::client::{Client, ClientKey, ClientState, Extent, Refusal};
use crate::session::expect::{Expect, Own};
use crate::session::server::{ServerKey, ServerState};
use crate::session::{Body, IDLE};
use crate::stats::WorkerStats;
use crate::tracking::EVERYTHING;
use crate::worker::{Owner, Worker};

/// An error as a message, with the severity that fits what becomes of the session; it is counted.
pub(crate) fn encode(out: &mut Vec<u8>, report: &Report, severity: Severity, stats: &WorkerStats) {
    stats.refusals.count(report.code);
    write::error(out, &fields(report, severity));
}

/// A notice as a message.
pub(crate) fn encode_notice(out: &mut Vec<u8>, report: &Report) {
    write::notice(out, &fields(report, Severity::Notice));
}

fn fields(report: &Report, severity: Severity) -> write::Fields<'_> {
    write::Fields {
        severity: severity.as_str(),
        sqlstate: report.sqlstate,
        message: &report.message,
        detail: report.detail.as_deref(),
        hint: report.hint.as_deref(),
        ..write::Fields::default()
    }
}

impl<I: Io> Worker<I> {
    /// Tells a client why, and closes it.
    #[cold]
    pub(crate) fn refuse_and_close(&mut self, io: &mut I, key: ClientKey, report: Report) {
        let (report, _) = self.instead_of_outcome(key, report, Extent::NextRequest);
        let report = self.worded(report);
        let Some(client) = self.clients.get_mut(key) else { return };
        let is_cut =
            client.server.and_then(|s| self.servers.get(s)).is_some_and(|s| s.body_left > 0 && s.body == Body::Forward);
        if !is_cut && client.state != ClientState::Cancelling {
            let mut out = Vec::new();
            encode(&mut out, &report, Severity::Fatal, &self.stats);
            self.send_to_client(io, key, &out);
        } else {
            // Nothing can be said inside a message.
            self.stats.refusals.count(report.code);
        }
        self.tell_refusal(io, key, &report);
        if let Some(id) = self.clients[key].pool {
            self.pool(id).stats.stats.count_refusal(report.code);
        }
        let reason = self.refusal_in_log(&report);
        self.drop_client(io, key, reason);
    }

    /// Closes a client once all that was sent to it is written.
    pub(crate) fn drop_client(&mut self, io: &mut I, key: ClientKey, reason: &str) {
        self.close_client(io, key, reason, Close::AfterSend);
    }

    pub(crate) fn close_client(&mut self, io: &mut I, key: ClientKey, reason: &str, how: Close) {
        let Some(client) = self.clients.get_mut(key) else { return };
        let conn = client.conn;
        client.state = ClientState::Leaving;
        if !client.is_gone {
            self.close_conn(io, conn, how);
        }
        self.forget_client(io, key, reason);
    }

    /// What the client has sent made its server end the session: so does its own.
    #[cold]
    pub(crate) fn client_at_fault(&mut self, io: &mut I, key: ServerKey) {
        self.servers[key].is_close_needed = true;
        if let Some(client_key) = self.servers[key].client {
            self.stats.protocol_errors.add(1);
            self.drop_client(io, client_key, "it broke the protocol");
        }
    }

    /// The client said goodbye.
    pub(crate) fn client_leaves(&mut self, io: &mut I, key: ClientKey) {
        if let Some(server) = self.clients[key].server.and_then(|s| self.servers.get_mut(s)) {
            server.is_finishing = true;
        }
        self.drop_client(io, key, "terminate");
    }

    /// The client's connection ended.
    pub(crate) fn client_closed(&mut self, io: &mut I, key: ClientKey, by: ClosedBy) {
        if self.clients[key].state == ClientState::Moving {
            return self.client_closed_while_moving(io, key, by);
        }
        let client = &mut self.clients[key];
        let is_served = matches!(client.state, ClientState::Waiting | ClientState::Active) || client.is_deferred;
        let is_kept = is_served && !client.carry.is_empty();
        if by == ClosedBy::Peer && is_kept && client.has_said_goodbye() {
            // As PostgreSQL, which reads all that was sent before it sees the end of the connection.
            client.is_gone = true;
            return;
        }
        match by {
            ClosedBy::Peer => self.forget_client(io, key, "closed by the client"),
            ClosedBy::Error(cause) => self.forget_client(io, key, &cause),
        }
    }

    fn forget_client(&mut self, io: &mut I, key: ClientKey, reason: &str) {
        if self.clients.get(key).is_some() {
            self.arrival_is_over(key);
        }
        let Some(mut client) = self.clients.remove(key) else { return };
        self.forget_place(key, &client);
        self.forget_listens(io, key, &mut client);
        self.tell_leave(io, &client, reason);
        self.count_out(&client);
        self.stats.clients.set(self.clients.len() as u64);
        if let Some(id) = client.pool {
            self.pool(id).stats.stats.clients.sub(1);
            self.clear_pool(io, id);
        }
        if let Some(server_key) = client.server {
            self.leave_server(io, server_key, client);
        } else if let Some(id) = client.serving() {
            self.publish(id);
        }
        self.command_progress(io);
    }

    /// Cleans the server that a client left.
    fn leave_server(&mut self, io: &mut I, key: ServerKey, client: Client) {
        if client.replication.is_some() {
            return self.end_replication(io, key, &client);
        }
        let server = &mut self.servers[key];
        server.client = None;
        if let Some(pin) = client.pin.as_ref() {
            server.left.dirt |= pin.reasons;
            self.pools[server.pool.0 as usize].stats.stats.pinned.sub(1);
        }
        if server.left.dirt.has(Traces::OPAQUE) {
            server.left.dirt = server.left.dirt.without(Traces::OPAQUE) | EVERYTHING;
        }
        server.listen = crate::listen::OnServer::default();
        if server.state == ServerState::Busy {
            // What it is busy with is answered first; nobody will hear of it.
            server.left.by = 0;
            server.left.give_up();
            server.restoring.clear();
            return self.note_level(key);
        }
        if client.body_left > 0 && client.body == Body::Forward {
            self.server_in_doubt(io, key, "its client left in the middle of a message");
            return;
        }
        if planted(Bug::ResetSkippedInTransaction) && server.status != IDLE {
            server.left = crate::tracking::Left::default();
        }
        if planted(Bug::LeftUnnoted) {
            server.left.fresh = Traces::NONE;
        }
        self.clean(io, key);
    }

    /// Brings a server, from which its client has been parted in the middle of something, to where others can have it.
    pub(crate) fn clean(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        server.left.give_up();
        server.left.by = 0;
        server.restoring.clear();
        self.note_level(key);
        let server = &mut self.servers[key];
        server.enter(ServerState::Cleaning, self.now);
        if server.is_paused {
            server.is_paused = false;
            self.read_server_again(io, key);
        }
        let server = &mut self.servers[key];
        // As PostgreSQL, which reads Terminate in its turn: what stands before it is run.
        let is_running = !server.is_finishing && server.expect.iter().any(Expect::is_running);
        if server.is_copying {
            self.fail_copy(io, key);
        } else if server.is_segment_open && !server.is_skipping {
            self.doom(io, key);
        } else if !matches!(server.expect.back(), Some(Expect::Query { .. } | Expect::Function | Expect::Sync)) {
            self.send_sync(io, key);
        }
        if is_running {
            self.cancel_server(io, key);
        }
        self.arm_server(key);
    }

    /// Ends a pipeline that its client left without a Sync: a Sync alone would commit it, so it is made to fail.
    fn doom(&mut self, io: &mut I, key: ServerKey) {
        let mut out = Vec::new();
        write_failing(&mut out);
        let server = &mut self.servers[key];
        server.is_doomed = true;
        server.expect.push_back(Expect::Bind { name: 0 });
        self.send_to_server(io, key, &out);
        self.send_sync(io, key);
    }

    fn send_sync(&mut self, io: &mut I, key: ServerKey) {
        let mut out = Vec::new();
        write::sync(&mut out);
        let server = &mut self.servers[key];
        server.is_skipping = false;
        server.is_segment_open = false;
        server.expect.push_back(Expect::Sync);
        self.send_to_server(io, key, &out);
    }

    /// Ends a copy whose client has left.
    pub(crate) fn fail_copy(&mut self, io: &mut I, key: ServerKey) {
        let server = &mut self.servers[key];
        if server.is_doomed {
            // The copy has already met a message that ends it.
            server.is_copying = false;
            return;
        }
        let mut out = Vec::new();
        write::copy_fail(&mut out, "the client has left");
        server.expect.push_back(Expect::CopyEnd);
        let is_simple = matches!(server.expect.front(), Some(Expect::Query { .. } | Expect::Own(_)));
        self.send_to_server(io, key, &out);
        if !is_simple {
            self.send_sync(io, key);
        }
    }

    /// A reply to a server that is being cleaned has come.
    pub(crate) fn cleaning_goes_on(&mut self, io: &mut I, key: ServerKey) {
        let now = self.now;
        let Some(server) = self.servers.get_mut(key) else { return };
        let is_left_open = server.expect.is_empty() && server.status != IDLE;
        let is_uncleaned = matches!(server.state, ServerState::Busy | ServerState::Leased);
        if is_uncleaned && is_left_open && !planted(Bug::ServerNeverCleaned) {
            // Its client left in the middle of a transaction, with a query of ours under way.
            return self.clean(io, key);
        }
        if server.state == ServerState::Cleaning && server.expect.is_empty() && server.is_finishing {
            server.is_finishing = false;
            server.since = now;
        }
        if server.cancels > 0 && !planted(Bug::CancelToWrongClient) {
            // The cancel would hit our own statement: it goes on when the cancel has ended.
            return;
        }
        if server.state == ServerState::Cleaning && is_left_open && !planted(Bug::ServerNeverCleaned) {
            self.send_own(io, key, Own::Rollback, "ROLLBACK");
        }
    }

    /// A server's connection ended.
    pub(crate) fn server_closed(&mut self, io: &mut I, key: ServerKey, by: ClosedBy) {
        if self.servers[key].state == ServerState::Moving {
            self.server_closes_while_moving(io, key);
        }
        let cause = match by {
            ClosedBy::Peer => std::borrow::Cow::Borrowed("closed by the server"),
            ClosedBy::Error(cause) => std::borrow::Cow::Owned(cause.to_string()),
        };
        match self.servers[key].state {
            ServerState::Connecting | ServerState::TlsAsked | ServerState::Tls | ServerState::Login => {
                self.open_failed(io, key, &cause);
            }
            _ => {
                self.not_lent(io, key);
                self.server_lost(io, key, &cause);
            }
        }
    }

    /// A server is gone, its connection closed: whoever it served hears of it and lives on.
    pub(crate) fn server_lost(&mut self, io: &mut I, key: ServerKey, cause: &str) {
        let id = self.servers[key].pool;
        let endpoint = self.endpoint_name(key);
        let conn = self.servers[key].conn;
        if matches!(self.owner(conn), Owner::Server(owner) if owner == key) {
            self.set_owner(conn, Owner::Nobody);
        }
        self.note_lost_request(key);
        let server = &mut self.servers[key];
        let has_reported = server.own_error.is_some();
        let words = server.own_error.take().map(|(sqlstate, message)| format!("{cause}: {sqlstate} {message}"));
        let cause = words.as_deref().unwrap_or(cause);
        let was_used = server.client.is_some();
        let fields = vec![
            ("server", Field::Number(server.id)),
            ("endpoint", endpoint.clone().into()),
            ("cause", cause.into()),
            ("state", format!("{:?}", server.state).into()),
        ];
        self.log(io, if was_used { Level::Warn } else { Level::Info }, "server_lost", fields);
        self.say_ready(io, key);
        let server = &mut self.servers[key];
        if server.restoring.is_waiting() {
            // The ReadyForQuery behind it is owed, though it was not sent yet.
            server.expect.push_back(Expect::Own(Own::Restore));
        }
        if let Some(client_key) = server.client {
            let loss = self.loss(key, &endpoint, cause, has_reported);
            self.tell_loss(io, key, client_key, loss);
        }
        self.forget_server(io, key, cause);
        self.suspect(io, id);
        self.supply(io, id);
    }

    /// What the loss of a server means to its client. `has_reported`: it said itself why it ends.
    fn loss(&mut self, key: ServerKey, endpoint: &str, cause: &str, has_reported: bool) -> Loss {
        let only_reads = self.only_reads(key);
        if only_reads && self.may_read_again(key) {
            let report = self.interrupted(key, endpoint, cause);
            return Loss::Read(report.unwrap_or_else(|| errors::server_lost(endpoint, cause)));
        }
        let server = &self.servers[key];
        let usage = server.client.and_then(|c| self.clients.get(c)).map(|c| c.usage);
        let is_cut = server.body_left > 0 && server.body == Body::Forward;
        let is_replication = self.pools[server.pool.0 as usize].is_replication;
        let may_have_committed = !only_reads && may_have_committed(server, has_reported, is_replication);
        let report = if may_have_committed && !planted(Bug::CommitToldAsUndone) {
            errors::server_lost_in_commit(endpoint, cause)
        } else {
            errors::server_lost(endpoint, cause)
        };
        if is_cut {
            return Loss::Cut;
        }
        // What makes a server ready for its client: nothing of that has been sent.
        let is_made_ready =
            matches!(server.expect.front(), Some(Expect::Own(Own::Prepare | Own::Clean | Own::Listens)));
        if usage.is_some_and(|usage| usage.mode == PoolMode::Session) {
            return if is_made_ready { Loss::Nothing } else { Loss::Session(report) };
        }
        if crate::hand_over::is_undone(server, has_reported || planted(Bug::WriteRetried)) {
            return Loss::Nothing;
        }
        let is_asked = matches!(server.expect.front(), Some(Expect::Own(Own::Channels | Own::Unlisten | Own::Stay)));
        if is_asked || server.state == ServerState::Listening {
            return Loss::Session(errors::server_lost_while_pinned("listen", endpoint, cause));
        }
        let is_looked_at = matches!(server.expect.front(), Some(Expect::Own(Own::Sequence | Own::Probe)));
        if is_looked_at {
            // What the last transaction has set is known to nobody.
            return Loss::Session(errors::server_lost_while_pinned("its settings", endpoint, cause));
        }
        if let Some(pin) = server.client.and_then(|c| self.clients.get(c)).and_then(|c| c.pin.as_ref()) {
            let lost = crate::tracking::pin::names(pin.reasons).join(", ");
            let is_known = !may_have_committed;
            let lost = is_known.then(|| errors::server_lost_while_pinned(lost, endpoint, cause));
            return Loss::Session(lost.unwrap_or(report));
        }
        if is_made_ready || server.is_untouched() {
            return Loss::Nothing;
        }
        let interrupted = if may_have_committed { None } else { self.interrupted(key, endpoint, cause) };
        let report = interrupted.unwrap_or(report);
        if self.servers[key].is_between_requests() {
            return Loss::Transaction(report);
        }
        if may_have_committed && let Some(known) = self.lost_commit(key) {
            return Loss::Commit(Box::new((known, report)));
        }
        Loss::Requests(report)
    }

    fn tell_loss(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey, loss: Loss) {
        let is_greeting = self.clients[client_key].state == ClientState::Greeting;
        let speaks_pgbouncer = self.tables.config.speaks_pgbouncer;
        if !matches!(loss, Loss::Nothing | Loss::Read(_)) {
            // What it has seen there it must not see older anywhere else.
            self.note_parted(client_key, key);
        }
        let server = &mut self.servers[key];
        if server.is_copying {
            server.forget_syncs_before_copy_end();
        }
        let expect = std::mem::take(&mut server.expect);
        let kept = server.hand_over.take().map_or_else(Vec::new, |hand_over| hand_over.into_kept());
        let was_skipping = server.is_skipping;
        let id = server.pool;
        server.client = None;
        let now = self.now;
        let client = &mut self.clients[client_key];
        let is_replaying = client.replaying == Replaying::Runs;
        client.server = None;
        client.is_held = false;
        let pin = client.pin.take();
        if pin.is_some() {
            self.pools[id.0 as usize].stats.stats.pinned.sub(1);
        }
        if client.body_left > 0 {
            client.body = Body::Drop;
        }
        if let Loss::Transaction(report) | Loss::Requests(report) = &loss {
            self.pools[id.0 as usize].stats.stats.count_refusal(report.code);
        }
        match loss {
            Loss::Transaction(_) | Loss::Requests(_) if is_replaying => client.replay_is_lost(&expect),
            Loss::Session(report) => return self.refuse_and_close(io, client_key, report),
            // Nothing can be said inside a message.
            Loss::Cut => return self.drop_client(io, client_key, "its server was lost in the middle of a reply"),
            Loss::Nothing => {
                undo_all(client, &expect);
                client.keep_again(kept);
                if is_greeting || !client.carry.is_empty() {
                    return self.wait_anew(io, id, client_key);
                }
                // What it has sent was answered without the server.
                client.served_by = None;
            }
            Loss::Read(report) => {
                let is_asking = !expect.is_empty();
                undo_all(client, &expect);
                return self.read_again(io, key, client_key, self.worded(report), is_asking);
            }
            Loss::Commit(lost) => return self.await_outcome(io, client_key, expect, *lost),
            Loss::Transaction(report) => {
                let report = if speaks_pgbouncer { report.in_pgbouncers_words() } else { report };
                client.refusal = Some(Box::new(Refusal { report, extent: Extent::NextRequest }));
            }
            Loss::Requests(report) => {
                let report = if speaks_pgbouncer { report.in_pgbouncers_words() } else { report };
                let mut out = Vec::new();
                client.is_skipping =
                    answer_lost(&mut out, &expect, &report, &self.stats) || (was_skipping && expect.is_empty());
                undo_all(client, &expect);
                self.servers[key].undo_untold(client);
                self.send_to_client(io, client_key, &out);
            }
        }
        self.clients[client_key].enter(ClientState::Idle, now);
        self.arm_client(client_key);
        self.ready.push_back(client_key);
    }

    /// The wait of a client in session is over: its request is answered with `report`.
    pub(crate) fn refuse_waiting(&mut self, key: ClientKey, report: Report, extent: Extent) {
        let (report, extent) = self.instead_of_outcome(key, report, extent);
        let report = self.worded(report);
        if let Some(id) = self.clients[key].serving() {
            self.pool(id).stats.stats.count_refusal(report.code);
        }
        let client = &mut self.clients[key];
        client.refuse(Refusal { report, extent });
        client.enter(ClientState::Idle, self.now);
        self.ready.push_back(key);
    }
}

/// What the loss of a server means to its client.
enum Loss {
    /// Nothing: it had sent nothing yet.
    Nothing,
    /// Nothing: it was reading, and does so again; it is told of this if that fails.
    Read(Report),
    /// Its transaction; it hears of it at its next request.
    Transaction(Report),
    /// The requests that were not answered.
    Requests(Report),
    /// A COMMIT alone, of which a server can tell what became; what it hears if none does.
    Commit(Box<(Known, Report)>),
    /// All: the session lived on that server.
    Session(Report),
    /// All, without a word: a reply was cut.
    Cut,
}

/// Undoes what messages that were not run would have done to the client's names.
pub(crate) fn undo_all(client: &mut Client, expect: &VecDeque<Expect>) {
    let Some(names) = &mut client.statements else { return };
    expect.iter().rev().flat_map(|entry| entry.changes().into_iter().rev()).for_each(|change| names.undo(change));
}
