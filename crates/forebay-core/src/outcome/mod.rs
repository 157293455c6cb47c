//! What became of a COMMIT whose answer was lost: with `commit_check` a server is asked, and its client hears that.
//!
//! Before the COMMIT of a block goes out, its server is asked by what the transaction can be found again ([`Anchor`]). The
//! COMMIT goes out once that is answered; if the question fails, so has the transaction, and the COMMIT is answered with
//! that error, so that no client takes a rollback for a commit. If the server is lost then, its client waits in its pool's
//! queue, and the server that it gets is asked ([`decide`] has what follows from the answer).
//!
//! | the outcome | the client hears |
//! |---|---|
//! | committed | what its COMMIT would have been answered with |
//! | aborted | 40001: it is to run the transaction again |
//! | unknown, or its wait ends before it is known, for whatever reason | 08007, as without all this |
//!
//! While a client waits so, a stand-in for its COMMIT stands first in what is kept of it: whatever ends the wait is answered
//! in the COMMIT's place. No server ever runs it.

mod asked;
pub mod decide;

use std::collections::VecDeque;

use forebay_pgwire::backend::{TransactionStatus, tag as reply};
use forebay_pgwire::frontend::{BindHead, Parse, tag};
use forebay_pgwire::write;
use forebay_spec::{Report, errors};
use forebay_sql::traces::Traces;

use crate::config::PoolMode;
use crate::event::Level;
use crate::frame::At;
use crate::io::Io;
use crate::leave::undo_all;
use crate::planted::{Bug, planted};
use crate::request::{Forwarding, REFUSED, Stop, write_failing};
use crate::session::IDLE;
use crate::session::client::{Client, ClientKey, ClientState, Extent, Refusal};
use crate::session::expect::{Ends, Expect, Own};
use crate::session::server::{Server, ServerKey, ServerState};
use crate::statements::Lookup;
use crate::worker::Worker;
use decide::{Known, Outcome, Told, decide};

/// A longer message is no COMMIT alone.
const COMMIT_BYTES_MAX: u32 = 512;

/// By what the transaction at hand is found again.
#[derive(Debug)]
pub enum Anchor {
    /// That was asked, and the answer is to come; or it has no id, and has not written.
    Nothing,
    /// By this.
    At(Known),
    /// That could not be asked: the transaction has failed. SQLSTATE and message.
    Failed(String),
}

/// What of a client's COMMIT was not answered.
pub struct Pending {
    known: Known,
    /// What its server owed.
    expect: VecDeque<Expect>,
    /// What it hears if the outcome can't be told.
    unknown: Report,
    /// How often a server was asked.
    asked: u32,
}

/// A question about a client's COMMIT, which is under way.
#[derive(Debug)]
pub struct Asking {
    client: ClientKey,
    /// Of which transaction: the client may have gone on to another.
    known: Known,
    told: Option<Told>,
}

impl Forwarding<'_> {
    /// Whether the message at hand may go out; one that is a COMMIT waits until it is known how to find it again.
    ///
    /// Some: it is dealt with.
    #[cold]
    pub(crate) fn before_commit(&mut self, at: At<'_>) -> Result<Option<usize>, Stop> {
        match self.server.endings.anchor.as_deref() {
            Some(Anchor::Failed(reply)) => {
                let report = errors::commit_not_asked(reply);
                self.server.endings.anchor = None;
                return self.refuse_commit(at, report).map(Some);
            }
            Some(_) => return Ok(None),
            None => {}
        }
        if !self.may_be_anchored() || at.head.bytes > COMMIT_BYTES_MAX {
            return Ok(None);
        }
        if !at.is_whole() {
            return Err(Stop::More);
        }
        let is_commit = match at.head.tag {
            tag::QUERY => asked::is_commit(at.body().strip_suffix(b"\0").unwrap_or(at.body())),
            tag::PARSE => Parse::decode(at.body()).is_ok_and(|parse| asked::is_commit(parse.query)),
            tag::BIND => BindHead::decode(at.body()).is_some_and(|bind| {
                let names = self.client.statements.as_ref();
                let found = names.map_or(Lookup::Unknown, |names| names.find(bind.statement, self.server.segment));
                matches!(found, Lookup::Known(statement) if asked::is_commit(statement.text()))
            }),
            _ => false,
        };
        if is_commit { Err(Stop::Anchor) } else { Ok(None) }
    }

    /// Whether the next message is the first of a request in a block that can be found again.
    fn may_be_anchored(&self) -> bool {
        let (client, server) = (&*self.client, &*self.server);
        let version = server.defaults.get("server_version").and_then(|version| version.split('.').next());
        let is_able = version.and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= asked::MAJOR_MIN);
        server.status == TransactionStatus::InTransaction
            && server.expect.is_empty()
            && !server.is_segment_open
            && client.usage.mode == PoolMode::Transaction
            && client.pin.is_none()
            && !server.left.is_probe_needed()
            && is_able
    }

    /// The transaction has failed before its COMMIT: it is answered as if that had.
    #[cold]
    fn refuse_commit(&mut self, at: At<'_>, report: Report) -> Result<usize, Stop> {
        if at.head.tag == tag::QUERY {
            return self.refuse_query(at, report);
        }
        write_failing(self.batch.owned());
        self.server.is_segment_open = true;
        self.server.expect.push_back(Expect::Refused(Box::new(report)));
        self.drop_frame(at)
    }
}

impl Server {
    /// A row of what it was asked has come.
    #[cold]
    pub(crate) fn told_of_commit(&mut self, own: Own, row: &[Option<&[u8]>]) {
        match (own, &mut self.endings.asking) {
            (Own::Anchor, _) => {
                self.endings.anchor = Some(Box::new(asked::known(row).map_or(Anchor::Nothing, Anchor::At)))
            }
            (_, Some(asking)) => asking.told = asked::told(row).or(asking.told),
            _ => {}
        }
    }

    /// Whether nothing of its client's is on its way to it: the client has yet to send the next of its transaction.
    pub(crate) fn is_between_requests(&self) -> bool {
        let is_asked = matches!(self.expect.front(), Some(Expect::Own(Own::Anchor)));
        is_asked || self.expect.is_empty() && !self.is_skipping
    }

    /// Whether all that it owes is the answer to a COMMIT, up to the ReadyForQuery, and nothing of what it has said is cut.
    fn owes_commit_alone(&self) -> bool {
        let mut commits = 0;
        let mut is_ended = false;
        let is_of_commit = self.expect.iter().all(|entry| {
            let is_behind = is_ended;
            match entry {
                Expect::Query { ends: Ends::Commit, refusal: None, naming: None, .. } => {
                    (commits, is_ended) = (commits + 1, true);
                }
                Expect::Execute { ends: Ends::Commit, naming: None, .. } => commits += 1,
                Expect::Sync => is_ended = true,
                Expect::Parse { .. } | Expect::Bind { .. } | Expect::Answer { .. } => {}
                Expect::Close { relay: false, .. } => {}
                _ => return false,
            }
            !is_behind
        });
        is_of_commit && commits == 1 && is_ended && self.endings.answered == Ends::Nothing && self.body_left == 0
    }
}

impl Client {
    /// Whether it waits for what became of this transaction.
    fn waits_for(&self, known: &Known) -> bool {
        self.rare.as_ref().and_then(|rare| rare.pending.as_ref()).is_some_and(|pending| pending.known == *known)
    }

    /// Whether it waits for what became of its COMMIT.
    #[inline]
    pub(crate) fn is_unsure(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.pending.is_some())
    }
}

impl<I: Io> Worker<I> {
    /// Asks by what a client's transaction is found again; the COMMIT waits for the answer.
    pub(crate) fn ask_for_anchor(&mut self, io: &mut I, client_key: ClientKey) {
        let client = &mut self.clients[client_key];
        client.is_held = true;
        let Some(key) = client.server else { return };
        self.servers[key].endings.anchor = Some(Box::new(Anchor::Nothing));
        let is_unflushed = planted(Bug::AnchorNotFlushed);
        let sql = if is_unflushed { &asked::BEFORE.replace(", true)", ")") } else { asked::BEFORE };
        self.send_own(io, key, Own::Anchor, sql);
    }

    /// That is known, or could not be asked.
    pub(crate) fn anchored(&mut self, key: ServerKey, error: Option<(String, String)>) {
        let server = &mut self.servers[key];
        server.enter(ServerState::Leased, self.now);
        if let Some((sqlstate, message)) = error {
            server.endings.anchor = Some(Box::new(Anchor::Failed(format!("{sqlstate} {message}"))));
        }
        if server.client.is_none() {
            server.endings.anchor = None;
        }
    }

    /// By what the COMMIT is found again whose answer was lost with a server; None: it can't be.
    #[cold]
    pub(crate) fn lost_commit(&mut self, key: ServerKey) -> Option<Known> {
        let server = &mut self.servers[key];
        let client = self.clients.get_mut(server.client?)?;
        let pool = &self.pools[server.pool.0 as usize];
        let fresh = server.left.fresh;
        // What it has set, nobody could tell any more.
        let is_all = fresh.without(Traces::SEQUENCE).is_none() && server.left.named.is_empty();
        let is_asked_for = fresh.has(Traces::SEQUENCE) && pool.keeps_sequences();
        let is_simple = !server.is_skipping && server.hand_over.is_none() && server.restoring.is_empty();
        let is_here = client.body_left == 0 && !client.is_gone && client.pool == Some(server.pool);
        if !(is_all && !is_asked_for && is_simple && is_here && server.owes_commit_alone()) {
            return None;
        }
        if fresh.has(Traces::SEQUENCE) {
            client.sequences_on = Some(server.id);
        }
        let endpoint = server.place.name.clone();
        match *server.endings.anchor.take()? {
            Anchor::At(known) => Some(Known { endpoint, ..known }),
            _ => None,
        }
    }

    /// A client waits for what became of its COMMIT.
    #[cold]
    pub(crate) fn await_outcome(
        &mut self,
        io: &mut I,
        client_key: ClientKey,
        expect: VecDeque<Expect>,
        (known, unknown): (Known, Report),
    ) {
        let client = &mut self.clients[client_key];
        client.keep_again(stand_in());
        client.rare().pending = Some(Box::new(Pending { known, expect, unknown, asked: 0 }));
        client.enter(ClientState::Waiting, self.now);
        let (id, home) = (client.id, client.pool);
        self.log(io, Level::Warn, "commit_in_doubt", vec![("client", id.into())]);
        if let Some(home) = home {
            self.enqueue(io, home, client_key);
        }
    }

    /// The turn of a client has come that waits for what became of its COMMIT: the server is asked. False: it is another
    /// one.
    #[inline]
    pub(crate) fn asks_for_outcome(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey) -> bool {
        let is_unsure = self.clients[client_key].is_unsure();
        if is_unsure {
            self.ask_for_outcome(io, key, client_key);
        }
        is_unsure
    }

    #[cold]
    fn ask_for_outcome(&mut self, io: &mut I, key: ServerKey, client_key: ClientKey) {
        let Some(pending) = &mut self.clients[client_key].rare().pending else { return };
        let (sql, known) = (asked::after(&pending.known, pending.asked), pending.known.clone());
        pending.asked += 1;
        self.servers[key].endings.asking = Some(Box::new(Asking { client: client_key, known, told: None }));
        self.send_own(io, key, Own::Outcome, &sql);
    }

    /// A server has answered what became of a client's COMMIT.
    pub(crate) fn outcome_told(&mut self, io: &mut I, key: ServerKey, error: Option<(String, String)>) {
        let Some(asking) = self.servers[key].endings.asking.take() else { return };
        let client = self.clients.get(asking.client).filter(|client| client.waits_for(&asking.known));
        let Some(client) = client else { return };
        let (id, told) = (client.id, asking.told.filter(|_| error.is_none()));
        let endpoint = self.endpoint_name(key);
        let is_elsewhere = asking.known.endpoint != endpoint;
        let told = told.map(|told| Told { is_elsewhere, ..told });
        let outcome = told.map_or(Outcome::Unknown, |told| decide(&asking.known, &told));
        match outcome {
            Outcome::NotYet => return self.ask_again(io, &asking),
            Outcome::Committed => self.commit_was_done(io, asking.client),
            Outcome::Aborted => self.refuse_commit(asking.client, errors::commit_undone(&endpoint)),
            Outcome::Unknown => {
                let report = self.clients[asking.client].forget_commit();
                report.into_iter().for_each(|report| self.refuse_commit(asking.client, report));
            }
        }
        let mut fields = vec![
            ("client", id.into()),
            ("endpoint", endpoint.into()),
            ("outcome", format!("{outcome:?}").to_ascii_lowercase().into()),
        ];
        fields.extend(error.map(|(sqlstate, message)| ("reply", format!("{sqlstate} {message}").into())));
        self.log(io, Level::Info, "commit_outcome", fields);
    }

    /// A question is to be asked again, if its client still waits.
    #[cold]
    pub(crate) fn ask_again(&mut self, io: &mut I, asking: &Asking) {
        let client = self.clients.get(asking.client).filter(|client| client.waits_for(&asking.known));
        if let Some(home) = client.and_then(|client| client.pool) {
            self.enqueue(io, home, asking.client);
        }
    }

    /// Its COMMIT was carried out: it is answered.
    fn commit_was_done(&mut self, io: &mut I, key: ClientKey) {
        let client = &mut self.clients[key];
        let Some(pending) = client.rare().pending.take() else { return };
        client.carry.drain(..stand_in().len());
        let mut out = Vec::new();
        for entry in &pending.expect {
            answer(&mut out, entry);
        }
        if let Some(names) = &mut client.statements {
            let changes = pending.expect.iter().flat_map(Expect::changes);
            changes.for_each(|change| names.confirm(&change.name));
        }
        if !client.is_gone {
            self.send_to_client(io, key, &out);
        }
        self.goes_on_after_commit(key);
    }

    /// Its COMMIT is answered with an error.
    fn refuse_commit(&mut self, key: ClientKey, report: Report) {
        self.clients[key].forget_commit();
        let report = self.worded(report);
        if let Some(id) = self.clients[key].pool {
            self.pool(id).stats.stats.count_refusal(report.code);
        }
        self.clients[key].refusal = Some(Box::new(Refusal { report, extent: Extent::NextRequest }));
        self.goes_on_after_commit(key);
    }

    fn goes_on_after_commit(&mut self, key: ClientKey) {
        let client = &mut self.clients[key];
        client.enter(ClientState::Idle, self.now);
        if client.is_split {
            self.wrote.push(key);
        }
        self.arm_client(key);
        self.ready.push_back(key);
    }

    /// The wait of a client is over: what it hears of, and which requests that answers. What became of its COMMIT is
    /// unknown then, whatever else has ended the wait.
    pub(crate) fn instead_of_outcome(&mut self, key: ClientKey, report: Report, extent: Extent) -> (Report, Extent) {
        let unknown = self.clients.get_mut(key).filter(|client| client.is_unsure()).and_then(Client::forget_commit);
        unknown.map_or((report, extent), |unknown| (unknown, Extent::NextRequest))
    }
}

impl Client {
    /// What became of its COMMIT is not waited for any more; its stand-in is to be answered. Returns what says that it is
    /// unknown.
    fn forget_commit(&mut self) -> Option<Report> {
        let pending = self.rare().pending.take()?;
        undo_all(self, &pending.expect);
        Some(pending.unknown)
    }
}

/// What is kept in a COMMIT's place: no server would run it.
fn stand_in() -> Vec<u8> {
    let mut out = Vec::new();
    write::query(&mut out, REFUSED);
    out
}

/// What a server would have said.
fn answer(out: &mut Vec<u8>, entry: &Expect) {
    match entry {
        Expect::Parse { relay: true, .. } => out.extend_from_slice(&[reply::PARSE_COMPLETE, 0, 0, 0, 4]),
        Expect::Bind { .. } => out.extend_from_slice(&[reply::BIND_COMPLETE, 0, 0, 0, 4]),
        Expect::Answer { tag, .. } => out.extend_from_slice(&[*tag, 0, 0, 0, 4]),
        Expect::Execute { .. } => write::command_complete(out, "COMMIT"),
        Expect::Query { .. } => {
            write::command_complete(out, "COMMIT");
            write::ready_for_query(out, IDLE);
        }
        Expect::Sync => write::ready_for_query(out, IDLE),
        _ => {}
    }
}
